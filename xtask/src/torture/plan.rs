//! The plan: which trouble comes to which machine, for how long, drawn from a seed.

use std::time::Duration;

use super::disk::Make;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The daemon is killed, and started again.
    Kill,
    /// The daemon is stopped by a signal, and goes on.
    Freeze,
    /// The disk is full, and emptied.
    FullDisk,
    /// The daemon starts on a disk that can only be read, and the disk is made writable below it.
    ReadOnlyDisk,
    /// The disk can only be read from an error on; the daemon ends, the disk is repaired, the daemon starts.
    BrokenDisk,
    /// The daemon may open no more files, and then may again.
    Descriptors,
    /// The machine is cut off, and joined again.
    Link,
    /// The clock jumps days ahead, and back.
    ClockAhead,
    /// The clock jumps hours back, and returns.
    ClockBehind,
    /// The program is replaced below the daemon, which compiles and joins; then the daemon is started from another
    /// program.
    Program,
}

impl Kind {
    /// All kinds.
    pub(super) const ALL: [Kind; 10] = [
        Kind::Kill,
        Kind::Freeze,
        Kind::FullDisk,
        Kind::ReadOnlyDisk,
        Kind::BrokenDisk,
        Kind::Descriptors,
        Kind::Link,
        Kind::ClockAhead,
        Kind::ClockBehind,
        Kind::Program,
    ];

    /// What torture prints for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "killed",
            Kind::Freeze => "stopped",
            Kind::FullDisk => "disk full",
            Kind::ReadOnlyDisk => "disk read-only",
            Kind::BrokenDisk => "disk broken",
            Kind::Descriptors => "no descriptors",
            Kind::Link => "link down",
            Kind::ClockAhead => "clock ahead",
            Kind::ClockBehind => "clock behind",
            Kind::Program => "program replaced",
        }
    }

    /// Seconds that it lasts: from, to.
    fn seconds(self) -> (u64, u64) {
        match self {
            Kind::Kill | Kind::Program => (0, 3),
            Kind::Freeze => (7, 12),
            Kind::FullDisk | Kind::ReadOnlyDisk | Kind::BrokenDisk => (4, 8),
            Kind::Descriptors | Kind::ClockAhead | Kind::ClockBehind => (4, 9),
            Kind::Link => (6, 14),
        }
    }

    /// Whether it can come to a machine with such a disk.
    pub(super) fn comes_to(self, disk: Make) -> bool {
        match self {
            Kind::BrokenDisk => disk == Make::Image,
            _ => true,
        }
    }
}

/// One trouble of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// The number of the machine, from 1.
    pub(super) machine: usize,
    /// How long it lasts, after it has begun.
    pub(super) lasts: Duration,
    /// How long the machine is left in peace before.
    pub(super) after: Duration,
}

/// Troubles without end that come one after the other, to machines of one group. Groups have theirs at the same time,
/// so a machine in trouble always has one of its own group without.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    random: Random,
    /// Machines with their disks.
    machines: Vec<(usize, Make)>,
    /// What comes before a kind comes again.
    deck: Vec<Kind>,
    /// The kinds with which the plan begins.
    first: usize,
    /// How much longer than usual troubles last.
    scale: u32,
}

impl Plan {
    /// The plans of groups of machines, which together begin with each kind that is possible once.
    pub(super) fn of(seed: u64, groups: &[Vec<(usize, Make)>], scale: u32) -> Vec<Plan> {
        let mut random = Random(seed);
        let mut plans: Vec<Plan> = groups
            .iter()
            .map(|machines| Plan {
                random: Random(random.next()),
                machines: machines.clone(),
                deck: Vec::new(),
                first: 0,
                scale,
            })
            .collect();
        let mut kinds = Kind::ALL.to_vec();
        random.shuffle(&mut kinds);
        for kind in kinds {
            let fits =
                |plan: &&mut Plan| plan.machines.iter().any(|(_, disk)| kind.comes_to(*disk));
            let shortest = plans
                .iter_mut()
                .filter(fits)
                .min_by_key(|plan| plan.deck.len());
            if let Some(plan) = shortest {
                plan.deck.push(kind);
                plan.first += 1;
            }
        }
        plans
    }

    /// How many steps it takes until each kind has come that the plan begins with.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The next trouble.
    pub(super) fn step(&mut self) -> Step {
        if self.deck.is_empty() {
            self.deck = Kind::ALL.to_vec();
            let disks: Vec<Make> = self.machines.iter().map(|(_, disk)| *disk).collect();
            self.deck
                .retain(|kind| disks.iter().any(|disk| kind.comes_to(*disk)));
            self.random.shuffle(&mut self.deck);
        }
        let kind = self.deck.pop().expect("it was filled");
        let fit: Vec<usize> = self
            .machines
            .iter()
            .filter(|(_, disk)| kind.comes_to(*disk))
            .map(|(number, _)| *number)
            .collect();
        let machine = fit[self.random.below(fit.len() as u64) as usize];
        let (from, to) = kind.seconds();
        let lasts = Duration::from_millis(self.random.between(from * 1000, to * 1000));
        Step {
            kind,
            machine,
            lasts: lasts * self.scale,
            after: Duration::from_millis(self.random.between(200, 1500)),
        }
    }
}

/// Numbers from a seed: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number from `from` to before `to`.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<Vec<(usize, Make)>> {
        vec![
            vec![(1, Make::Memory), (2, Make::Memory), (3, Make::Memory)],
            vec![(4, Make::Memory), (5, Make::Image)],
        ]
    }

    #[test]
    fn a_seed_gives_one_plan_and_another_seed_another() {
        let steps = |seed| {
            let mut plans = Plan::of(seed, &groups(), 1);
            let of = |plan: &mut Plan| (0..50).map(|_| plan.step()).collect::<Vec<_>>();
            plans.iter_mut().map(of).collect::<Vec<_>>()
        };
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    #[test]
    fn every_kind_comes_first_once_and_to_no_machine_that_cannot_have_it() {
        for seed in 0..200 {
            let mut first = Vec::new();
            for plan in &mut Plan::of(seed, &groups(), 1) {
                first.extend((0..plan.first()).map(|_| plan.step().kind));
                for _ in 0..40 {
                    let step = plan.step();
                    assert!(
                        step.kind != Kind::BrokenDisk || step.machine == 5,
                        "{step:?}"
                    );
                }
            }
            first.sort();
            assert_eq!(first, Kind::ALL, "seed {seed}");
        }
    }
}

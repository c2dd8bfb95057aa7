//! A small model of checkpoints and revocations, in which the rules are tried before anything is built on them.
//!
//! It shares nothing with the kernel: an entry is a time, an author and what it names, a set of entries is one
//! number. [`history`] makes a random history by members of whom some backdate, fork and are silent; [`reading`]
//! says which entries count; [`replica`] receives the same history in other orders and drops what is final.
//! [`Rules`] turns parts of the rule off, so that it is seen what each is for.

mod history;
mod reading;
mod replica;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lattice_testing::Dice;

use history::{History, Set, each};
use replica::Replica;

/// Orders of delivery that each history is read in.
const ORDERS: usize = 4;

/// The rule of checkpoints, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What is not in the checkpoint's past is void if it sorts at or below the time that the checkpoint names;
    /// otherwise, if it sorts below the checkpoint itself.
    pub at_time: bool,
    /// Final is what is in the checkpoint's past at or below its time, as it reads by itself; otherwise
    /// revocations out of the checkpoint's past void nothing in that past, and that is all.
    pub base: bool,
    /// A promise names its author's last entries, and a checkpoint needs these in its past.
    pub tips: bool,
    /// Only the first in rank of the active admins makes checkpoints, and no time goes back.
    pub leader: bool,
    /// Who could write since the checkpoint before must promise as well, unless revoked or resigned.
    pub former: bool,
    /// A change to a lower role voids what its author has not seen of the member, whatever the member's status is at
    /// the change's place; otherwise only if the member is active there.
    pub blind: bool,
    /// A cancelled invite revokes, of those admitted by it unseen, only members of lower rank than its author;
    /// otherwise all of them.
    pub downwards: bool,
}

impl Rules {
    /// The rule with everything that the model showed to be needed.
    pub const AMENDED: Self = Self {
        at_time: true,
        base: true,
        tips: true,
        leader: true,
        former: true,
        blind: true,
        downwards: true,
    };
}

/// What came of histories that held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modelled {
    /// Histories.
    pub histories: u64,
    /// Entries of all of them.
    pub entries: u64,
    /// Checkpoints, and those of them that are valid.
    pub checkpoints: u64,
    /// Of these, those that are valid.
    pub valid: u64,
    /// Entries that were final somewhere.
    pub last: u64,
    /// Entries that are void.
    pub void: u64,
    /// Of these, those of liars that a checkpoint made void.
    pub late: u64,
}

impl Modelled {
    fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.entries += other.entries;
        self.checkpoints += other.checkpoints;
        self.valid += other.valid;
        self.last += other.last;
        self.void += other.void;
        self.late += other.late;
    }
}

/// Makes the history of a seed and checks it.
///
/// # Errors
/// What does not hold.
pub fn model(seed: u64, rules: Rules) -> Result<Modelled, String> {
    let mut dice = Dice(seed ^ 0x6a09_e667_f3bc_c908);
    let history = History::random(&mut dice, rules)?;
    let all = history.all();
    let reading = history.read(all)?;
    let mut out = Modelled {
        histories: 1,
        entries: u64::from(all.count_ones()),
        void: u64::from((all & !reading.live).count_ones()),
        ..Modelled::default()
    };
    let mut last: Set = 0;
    let mut late: Set = 0;
    for checkpoint in history.checkpoints() {
        out.checkpoints += 1;
        let Some(fixed) = history.fixed(checkpoint) else {
            continue;
        };
        out.valid += 1;
        last |= fixed.live;
        let below = history.until(fixed.at);
        if reading.live & below != fixed.live {
            return Err(format!(
                "entries at or below {} were final with checkpoint {checkpoint} and are read otherwise: {:?}, not {:?}",
                fixed.at,
                each(reading.live & below).collect::<Vec<_>>(),
                each(fixed.live).collect::<Vec<_>>(),
            ));
        }
        let unseen = history.unseen(checkpoint);
        late |= unseen & !reading.live;
        for entry in each(unseen & history.honest() & !reading.live) {
            if history.is_entitled(entry, reading.live) && !history.is_cut(entry, &reading.state) {
                return Err(format!(
                    "entry {entry} of an honest member that nobody revoked is void by checkpoint {checkpoint}"
                ));
            }
        }
    }
    out.last = u64::from(last.count_ones());
    out.late = u64::from((late & !history.honest()).count_ones());
    for _ in 0..ORDERS {
        let mut replica = Replica::default();
        for entry in history.shuffled(&mut dice) {
            replica.take(&history, entry)?;
        }
        replica.settle(&history)?;
        if replica.live != reading.live || replica.state != reading.state {
            return Err(format!(
                "another order of delivery reads otherwise: {:?}, not {:?}",
                each(replica.live).collect::<Vec<_>>(),
                each(reading.live).collect::<Vec<_>>(),
            ));
        }
    }
    Ok(out)
}

/// Checks the histories of many seeds on `threads` threads, up to the first that does not hold.
///
/// # Errors
/// The seed, and what does not hold.
pub fn model_all(
    seeds: Range<u64>,
    threads: usize,
    rules: Rules,
) -> Result<Modelled, (u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Ok(Modelled::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let done = model(seed, rules);
                    let mut total = total.lock().expect("no panic while it is held");
                    match (done, &mut *total) {
                        (Ok(done), Ok(sum)) => sum.add(&done),
                        (Ok(_), Err(_)) => {}
                        (Err(_), Err((first, _))) if *first <= seed => {}
                        (Err(text), total) => {
                            stop.store(true, Ordering::Relaxed);
                            *total = Err((seed, text));
                        }
                    }
                }
            });
        }
    });
    total.into_inner().expect("no panic while it was held")
}

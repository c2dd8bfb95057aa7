//! A history, how it is shuffled, and what must hold of it.

use std::cell::RefCell;
use std::sync::Arc;

use lattice_kernel::sync::Governance;
use lattice_kernel::{Outcome, Snapshot, Stored};
use lattice_runtime::Wasm;
use proptest::prelude::*;

use crate::order::apps::{App, Spec};
use crate::order::world::{DEVICES, INVITES, Keep, Nonsense, OUTSIDER, World, all};

/// A change of governance.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Makes a further invite; the first ones are part of every history.
    Invite {
        slot: u8,
        role: u8,
        uses: u8,
        expires: u8,
    },
    CancelInvite {
        slot: u8,
    },
    /// Admits a device by an invite's key, or with a signature that is for another.
    Claim {
        slot: u8,
        whom: u8,
        honest: bool,
    },
    Revoke {
        whom: u8,
        keep: Keep,
    },
    SetRole {
        whom: u8,
        role: u8,
    },
    Readmit {
        whom: u8,
        role: u8,
    },
    Resign,
    Name {
        whom: u8,
    },
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Calls of the app lane, in transactions.
    Calls(Vec<Vec<Spec>>),
    /// One transaction of the system lane a change.
    Govern(Vec<Change>),
    /// What no honest node writes.
    Nonsense(Nonsense),
}

/// What happens in a world.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A device makes its calls and commits.
    Local { by: u8, act: Act },
    /// A device signs an entry by hand: anywhere in the order, on any of its entries, which forks
    /// its chain, with calls that nothing checked before.
    Forge {
        by: u8,
        act: Act,
        after: u16,
        blind: bool,
        ahead_ms: u8,
    },
    /// A device signs by hand what it has signed already, with other calls: their ids are the same.
    Twin { by: u8, act: Act, of: u16 },
    /// One device gives another everything that it lacks.
    Sync { from: u8, to: u8 },
    /// A device's clock jumps; what it makes sorts early or late.
    Clock { of: u8, to_ms: u8 },
    /// A device loses its derived state.
    Rebuild { of: u8 },
}

/// A history, and the order and batches in which a replica receives it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    events: Vec<Event>,
    shuffle: Vec<u16>,
    batches: Vec<usize>,
    slice: u64,
}

fn change() -> impl Strategy<Value = Change> {
    // Nobody outranks the founder, so that most changes are of others.
    let device = || prop_oneof![1 => 0..DEVICES, 4 => 1..DEVICES];
    let slot = || 0..INVITES;
    let keep = prop_oneof![
        Just(Keep::Seen),
        Just(Keep::Nothing),
        Just(Keep::Tips),
        any::<u16>().prop_map(Keep::One),
        any::<u16>().prop_map(Keep::Foreign),
    ];
    prop_oneof![
        1 => (slot(), 0..3u8, 0..3u8, any::<u8>())
            .prop_map(|(slot, role, uses, expires)| Change::Invite { slot, role, uses, expires }),
        1 => slot().prop_map(|slot| Change::CancelInvite { slot }),
        6 => (slot(), prop_oneof![4 => Just(OUTSIDER), 1 => device()], prop::bool::weighted(0.9))
            .prop_map(|(slot, whom, honest)| Change::Claim { slot, whom, honest }),
        6 => (device(), keep).prop_map(|(whom, keep)| Change::Revoke { whom, keep }),
        6 => (device(), 0..3u8).prop_map(|(whom, role)| Change::SetRole { whom, role }),
        3 => (device(), 0..3u8).prop_map(|(whom, role)| Change::Readmit { whom, role }),
        1 => Just(Change::Resign),
        1 => device().prop_map(|whom| Change::Name { whom }),
    ]
}

fn calls(app: App) -> impl Strategy<Value = Act> {
    let transaction = prop_oneof![
        3 => prop::collection::vec(app.spec(), 1).boxed(),
        1 => prop::collection::vec(app.spec(), 2..4).boxed(),
    ];
    prop::collection::vec(transaction, 1..4).prop_map(Act::Calls)
}

fn event(app: App) -> impl Strategy<Value = Event> {
    // The outsider can do nothing until it is admitted, which is late.
    let device = || prop_oneof![6 => 0..OUTSIDER, 1 => Just(OUTSIDER)];
    let local = prop_oneof![
        2 => calls(app).boxed(),
        1 => prop::collection::vec(change(), 1..2).prop_map(Act::Govern).boxed(),
    ];
    let nonsense = prop_oneof![
        Just(Nonsense::Body),
        Just(Nonsense::Function),
        Just(Nonsense::Arguments),
        Just(Nonsense::Query),
    ];
    let forged = prop_oneof![
        9 => calls(app).boxed(),
        4 => prop::collection::vec(change(), 1..3).prop_map(Act::Govern).boxed(),
        1 => nonsense.prop_map(Act::Nonsense).boxed(),
    ];
    prop_oneof![
        8 => (device(), local).prop_map(|(by, act)| Event::Local { by, act }),
        4 => (device(), forged.clone(), any::<u16>(), any::<bool>(), any::<u8>()).prop_map(
            |(by, act, after, blind, ahead_ms)| Event::Forge { by, act, after, blind, ahead_ms }
        ),
        1 => (device(), forged, any::<u16>()).prop_map(|(by, act, of)| Event::Twin { by, act, of }),
        5 => (device(), 0..DEVICES).prop_map(|(from, to)| Event::Sync { from, to }),
        2 => (device(), any::<u8>()).prop_map(|(of, to_ms)| Event::Clock { of, to_ms }),
        1 => device().prop_map(|of| Event::Rebuild { of }),
    ]
}

/// The cases of a component.
pub(crate) fn case(app: App) -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(event(app), 6..20),
        prop::collection::vec(any::<u16>(), 1..24),
        prop::collection::vec(prop_oneof![6 => 1..5usize, 1 => 5..40usize], 1..5),
        1..7u64,
    )
        .prop_map(|(events, shuffle, batches, slice)| Case {
            events,
            shuffle,
            batches,
            slice,
        })
}

/// Batches of the given sizes, again and again, out of entries in the given order.
fn batches<'a>(entries: &'a [Stored], sizes: &'a [usize]) -> impl Iterator<Item = &'a [Stored]> {
    let mut rest = entries;
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = (*sizes.next()?).min(rest.len());
        let (batch, tail) = rest.split_at(size);
        rest = tail;
        (size > 0).then_some(batch)
    })
}

impl Case {
    /// Lets the history happen, then delivers it to a replica on another engine.
    pub(crate) fn check_on(&self, wasm: &Arc<Wasm>, app: App) -> Result<(), TestCaseError> {
        let mut world = World::new(app, self.slice);
        for event in &self.events {
            world.step(event);
        }
        let (native, entries) = world.union();
        let mut other = world.adopt_on(wasm, DEVICES + 1);
        for batch in batches(&entries[1..], &self.batches) {
            world.deliver(&mut other, batch);
        }
        let (ours, theirs) = (native.snapshot(), other.snapshot());
        let outcomes = |snapshot: &Snapshot| -> Vec<_> {
            let rows = snapshot.history(None, usize::MAX, false).unwrap();
            rows.into_iter().map(|row| row.outcomes).collect()
        };
        prop_assert_eq!(outcomes(&ours), outcomes(&theirs));
        prop_assert_eq!(ours.summary().applied, theirs.summary().applied);
        prop_assert_eq!(ours.summary().state_root, theirs.summary().state_root);
        prop_assert_eq!(ours.summary().outcome_root, theirs.summary().outcome_root);
        Ok(())
    }

    /// Lets the history happen, then delivers it; adds what it came to.
    pub(crate) fn check(&self, app: App, tally: &RefCell<Tally>) -> Result<(), TestCaseError> {
        let mut world = World::new(app, self.slice);
        for event in &self.events {
            world.step(event);
        }
        for device in 0..DEVICES {
            world.judge(world.store(device))?;
            world.judge_told(device)?;
        }
        let (founder, entries) = world.union();
        world.judge(&founder)?;
        let mut keyed: Vec<_> = self.shuffle.iter().cycle().zip(&entries[1..]).collect();
        keyed.sort_by_key(|(key, _)| **key);
        let shuffled: Vec<Stored> = keyed.into_iter().map(|(_, entry)| entry.clone()).collect();
        let mut late = world.adopt(DEVICES + 1);
        for batch in batches(&shuffled, &self.batches) {
            world.deliver(&mut late, batch);
            world.judge(&late)?;
        }
        let count = late.snapshot().summary().count;
        prop_assert_eq!(
            count as usize,
            entries.len(),
            "everything arrives in the end"
        );
        prop_assert_eq!(all(&late.snapshot()).len(), entries.len());
        for device in 0..DEVICES {
            world.receive(device, &entries);
            world.judge(world.store(device))?;
            world.judge_told(device)?;
            let (ours, theirs) = (world.store(device).snapshot(), late.snapshot());
            prop_assert_eq!(ours.tips_digest().unwrap(), theirs.tips_digest().unwrap());
            prop_assert_eq!(ours.summary().state_root, theirs.summary().state_root);
            prop_assert_eq!(ours.summary().outcome_root, theirs.summary().outcome_root);
        }
        tally.borrow_mut().add(&late.snapshot());
        Ok(())
    }
}

/// What the histories of many cases came to. Cases in which nothing is refused, cut off or admitted
/// would show nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cases: usize,
    pub(crate) entries: usize,
    pub(crate) void: usize,
    pub(crate) ok: usize,
    pub(crate) refused: usize,
    pub(crate) unauthorized: usize,
    pub(crate) trapped: usize,
    /// Cases in which the outsider became a member.
    pub(crate) admissions: usize,
}

impl Tally {
    fn add(&mut self, snapshot: &Snapshot) {
        self.cases += 1;
        for row in snapshot.history(None, usize::MAX, false).unwrap() {
            self.entries += 1;
            self.void += usize::from(row.void);
            for outcome in &row.outcomes {
                match outcome {
                    Outcome::Ok(_) => self.ok += 1,
                    Outcome::Refused { .. } => self.refused += 1,
                    Outcome::Unauthorized { .. } => self.unauthorized += 1,
                    Outcome::Trapped { .. } => self.trapped += 1,
                }
            }
        }
        let members = Governance::read(snapshot).unwrap().count();
        self.admissions += usize::from(members > 3);
    }
}

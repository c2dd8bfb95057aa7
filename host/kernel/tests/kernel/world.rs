//! A few devices that call, govern and exchange entries in every order.

use lattice_format::{Call, ChainId, DeviceKey, Lane, SignedHeader};
use lattice_kernel::fold::reference::{Scratch, scratch};
use lattice_kernel::run::engine::Role;
use lattice_kernel::{BatchVerifier, LocalSeq, Snapshot, Store, Stored};
use lattice_testing::{self as testing, KEYS, ModelEngine, Step, device, key, memory_files};
use proptest::prelude::*;
use std::sync::Arc;

/// One event in a world.
#[derive(Clone, Debug)]
pub enum Event {
    /// A device calls programs, each as one transaction, and commits.
    Call {
        by: u8,
        programs: Vec<Vec<Step>>,
    },
    Admit {
        by: u8,
        whom: u8,
        role: u8,
    },
    Revoke {
        by: u8,
        whom: u8,
        keep: Keep,
    },
    SetRole {
        by: u8,
        whom: u8,
        role: u8,
    },
    Resign {
        by: u8,
    },
    /// A device bounds what authors may write, or takes the bound away.
    Quota {
        by: u8,
        of: Holder,
        bytes: Option<u16>,
    },
    /// One device gives another everything that it lacks.
    Sync {
        from: u8,
        to: u8,
    },
    /// A device's clock jumps; entries that it makes sort early or late.
    Clock {
        of: u8,
        to: u16,
    },
    /// A device rebuilds its derived state from its log.
    Reopen {
        of: u8,
    },
}

/// Whose quota it is.
#[derive(Clone, Copy, Debug)]
pub enum Holder {
    Anyone,
    Role(u8),
    Member(u8),
}

/// What a revocation keeps of what its device has seen.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    Nothing,
    /// The ends of all branches, by their ids.
    Tips,
    Seen,
}

pub const DEVICES: u8 = 4;
/// The number of the store that shares its device with the store before, as a copied home does.
pub const TWIN: u8 = DEVICES;

pub fn step() -> impl Strategy<Value = Step> {
    let k = 0..KEYS;
    prop_oneof![
        5 => (k.clone(), any::<bool>()).prop_map(|(k, dynamic)| Step::Get { k, dynamic }),
        5 => (k.clone(), any::<bool>(), 0..5u8)
            .prop_map(|(k, dynamic, value)| Step::Put { k, dynamic, value }),
        2 => (k.clone(), any::<bool>()).prop_map(|(k, dynamic)| Step::Delete { k, dynamic }),
        1 => (k.clone(), 0..=KEYS).prop_map(|(from, to)| Step::DeleteRange { from, to }),
        4 => (k.clone(), 0..=KEYS, 0..4u8, any::<bool>())
            .prop_map(|(from, to, limit, reverse)| Step::Scan { from, to, limit, reverse }),
        2 => (k.clone(), -2..3i8).prop_map(|(k, by)| Step::Add { k, by }),
        1 => k.clone().prop_map(|k| Step::Number { k }),
        1 => (k.clone(), 0..=KEYS, 0..4u8)
            .prop_map(|(from, to, limit)| Step::ScanNumbers { from, to, limit }),
        3 => (1..5u8).prop_map(|modulus| Step::RefuseIf { modulus }),
        1 => (3..7u8).prop_map(|modulus| Step::TrapIf { modulus }),
        3 => Just(Step::StoreGlobal),
        3 => Just(Step::LoadGlobal),
        1 => k.clone().prop_map(|k| Step::PutCallId { k }),
        1 => k.clone().prop_map(|k| Step::Observed { k }),
        1 => k.clone().prop_map(|k| Step::Pin { k }),
        1 => k.prop_map(|k| Step::Unpin { k }),
    ]
}

pub fn event(governance: u32) -> impl Strategy<Value = Event> {
    event_by(DEVICES, governance)
}

/// Events of a world with a twin in which quotas come and go.
pub fn event_with_quotas() -> impl Strategy<Value = Event> {
    let of = prop_oneof![
        3 => Just(Holder::Anyone),
        1 => (0..3u8).prop_map(Holder::Role),
        2 => (0..DEVICES).prop_map(Holder::Member),
    ];
    let quota = (0..2u8, of, prop::option::weighted(0.8, 300..6_000u16));
    let programs = prop::collection::vec(prop::collection::vec(step(), 1..5), 1..3);
    prop_oneof![
        6 => event_by(TWIN + 1, 1),
        6 => (TWIN - 1..=TWIN, programs).prop_map(|(by, programs)| Event::Call { by, programs }),
        1 => quota.prop_map(|(by, of, bytes)| Event::Quota { by, of, bytes }),
    ]
}

fn event_by(devices: u8, governance: u32) -> impl Strategy<Value = Event> {
    let whom = 0..DEVICES;
    let d = 0..devices;
    let programs = prop::collection::vec(prop::collection::vec(step(), 1..5), 1..4);
    let keep = prop_oneof![Just(Keep::Nothing), Just(Keep::Tips), Just(Keep::Seen)];
    prop_oneof![
        10 => (d.clone(), programs).prop_map(|(by, programs)| Event::Call { by, programs }),
        governance => (d.clone(), whom.clone(), 0..3u8)
            .prop_map(|(by, whom, role)| Event::Admit { by, whom, role }),
        governance => (d.clone(), whom.clone(), keep)
            .prop_map(|(by, whom, keep)| Event::Revoke { by, whom, keep }),
        governance => (d.clone(), whom, 0..3u8)
            .prop_map(|(by, whom, role)| Event::SetRole { by, whom, role }),
        1 => d.clone().prop_map(|by| Event::Resign { by }),
        6 => (d.clone(), d.clone()).prop_map(|(from, to)| Event::Sync { from, to }),
        2 => (d.clone(), any::<u16>()).prop_map(|(of, to)| Event::Clock { of, to }),
        1 => d.prop_map(|of| Event::Reopen { of }),
    ]
}

pub const START_MS: u64 = 1_000_000;

pub struct World {
    pub stores: Vec<Store>,
    clocks: Vec<u64>,
}

pub fn all(snapshot: &Snapshot) -> Vec<Stored> {
    snapshot.entries_from(LocalSeq(0), usize::MAX).unwrap()
}

pub fn wire(stored: &Stored) -> (SignedHeader, Option<Vec<u8>>) {
    (
        stored.header.signed().clone(),
        stored.body.as_ref().map(|b| b.to_vec()),
    )
}

/// Settles completely, in slices of one run.
pub fn settle(store: &mut Store) {
    while store.settle(3).unwrap().pending > 0 {}
}

/// A replica that has nothing but the genesis.
pub fn adopt(number: u8, genesis: &Stored) -> Store {
    let (signed, body) = wire(genesis);
    Store::adopt(
        memory_files(),
        Arc::new(ModelEngine),
        key(number),
        (signed, body.unwrap()),
        START_MS,
    )
    .unwrap()
}

impl World {
    /// A founder and three writers, all in sync.
    pub fn new() -> Self {
        let mut founder = testing::found(0, START_MS);
        for number in 1..DEVICES {
            let role = if number == 1 {
                Role::Admin
            } else {
                Role::Writer
            };
            let told = founder
                .call(
                    Lane::System,
                    vec![testing::admit(device(number), role)],
                    START_MS,
                    ChainId(1),
                )
                .unwrap();
            assert!(told.outcome.is_ok());
            founder.commit(START_MS).unwrap();
        }
        let entries = all(&founder.snapshot());
        let mut stores = vec![founder];
        for number in 1..DEVICES {
            let mut store = adopt(number, &entries[0]);
            deliver(&mut store, &entries);
            stores.push(store);
        }
        Self {
            stores,
            clocks: vec![START_MS + 1; usize::from(DEVICES)],
        }
    }

    /// [`World::new`] with a second store of the last device, which then writes in several chains, and these fork. A
    /// quota is in effect that lets each twin write a few entries.
    pub fn with_twin() -> Self {
        let mut world = Self::new();
        world.step(&Event::Quota {
            by: 0,
            of: Holder::Anyone,
            bytes: Some(2_500),
        });
        let entries = all(&world.stores[0].snapshot());
        let mut twin = adopt(DEVICES - 1, &entries[0]);
        deliver(&mut twin, &entries);
        world.stores.push(twin);
        world.clocks.push(START_MS + 1);
        world
    }

    pub fn run(&mut self, events: &[Event]) {
        for event in events {
            self.step(event);
        }
    }

    fn call(&mut self, by: u8, lane: Lane, call: Call) {
        let now = self.clocks[usize::from(by)];
        let store = &mut self.stores[usize::from(by)];
        // The result is of no interest. A device that is not admitted gets an error.
        let _ = store.call(lane, vec![call], now, ChainId(u64::from(by) + 100));
    }

    fn commit(&mut self, by: u8) {
        let now = self.clocks[usize::from(by)];
        let store = &mut self.stores[usize::from(by)];
        store.commit(now).unwrap();
        settle(store);
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Call { by, programs } => {
                for program in programs {
                    self.call(*by, Lane::App, testing::program(program));
                }
                self.commit(*by);
            }
            Event::Admit { by, whom, role } => {
                let role = [Role::Admin, Role::Writer, Role::Reader][usize::from(*role)];
                self.call(*by, Lane::System, testing::admit(device(*whom), role));
                self.commit(*by);
            }
            Event::Revoke { by, whom, keep } => {
                let whom = device(*whom);
                let tips = self.stores[usize::from(*by)].snapshot().tips().unwrap();
                let own = tips.iter().filter(|tip| tip.author == whom);
                let call = match keep {
                    Keep::Nothing => testing::revoke(whom, &[]),
                    Keep::Tips => testing::revoke(whom, &own.map(|t| t.id).collect::<Vec<_>>()),
                    Keep::Seen => testing::revoke_unseen(whom),
                };
                self.call(*by, Lane::System, call);
                self.commit(*by);
            }
            Event::SetRole { by, whom, role } => {
                let role = [Role::Admin, Role::Writer, Role::Reader][usize::from(*role)];
                self.call(*by, Lane::System, testing::set_role(device(*whom), role));
                self.commit(*by);
            }
            Event::Resign { by } => {
                self.call(*by, Lane::System, testing::resign());
                self.commit(*by);
            }
            Event::Quota { by, of, bytes } => {
                let quota = bytes.map(u64::from);
                let roles = [Role::Admin, Role::Writer, Role::Reader];
                let call = match of {
                    Holder::Anyone => testing::set_quota(quota),
                    Holder::Role(role) => {
                        testing::set_quota_of_role(roles[usize::from(*role)], quota)
                    }
                    Holder::Member(whom) => testing::set_quota_of_member(device(*whom), quota),
                };
                self.call(*by, Lane::System, call);
                self.commit(*by);
            }
            Event::Sync { from, to } if from != to => {
                let entries = all(&self.stores[usize::from(*from)].snapshot());
                deliver(&mut self.stores[usize::from(*to)], &entries);
            }
            Event::Sync { .. } => {}
            Event::Clock { of, to } => {
                self.clocks[usize::from(*of)] = START_MS + u64::from(*to) % 300;
            }
            Event::Reopen { of } => {
                let store = &mut self.stores[usize::from(*of)];
                store.rebuild(START_MS).unwrap();
                settle(store);
            }
        }
    }

    /// Every entry that anybody has, in an order that respects causality.
    pub fn union(&self) -> Vec<Stored> {
        let mut store = adopt(9, &all(&self.stores[0].snapshot())[0]);
        for other in &self.stores {
            deliver(&mut store, &all(&other.snapshot()));
        }
        all(&store.snapshot())
    }
}

pub fn deliver(store: &mut Store, entries: &[Stored]) {
    deliver_from(store, device(7), entries);
}

pub fn deliver_from(store: &mut Store, from: DeviceKey, entries: &[Stored]) {
    let batch = entries.iter().map(wire).collect();
    let received = store
        .receive(from, batch, START_MS + 1_000, BatchVerifier([7; 32]))
        .unwrap();
    assert_eq!(received.blame, vec![]);
    settle(store);
}

/// Compares everything in a store with the reference fold, whose result it returns.
pub fn judge(store: &Store) -> Result<Scratch, TestCaseError> {
    let snapshot = store.snapshot();
    let expected = scratch(&ModelEngine, &all(&snapshot)).unwrap();
    let summary = snapshot.summary();
    let history = snapshot.history(None, usize::MAX, false).unwrap();
    for row in &history {
        let id = row.position.id;
        prop_assert_eq!(row.void, expected.void.contains(&id), "void {:?}", id);
        if !row.void {
            let outcomes: Vec<_> = [Lane::System, Lane::App]
                .into_iter()
                .filter_map(|lane| expected.outcomes.get(&(row.position, lane)))
                .flatten()
                .cloned()
                .collect();
            prop_assert_eq!(&row.outcomes, &outcomes, "outcomes of {:?}", id);
        }
    }
    prop_assert_eq!(summary.void, expected.void.len() as u64);
    prop_assert_eq!(summary.outcome_root, expected.roots.outcomes);
    prop_assert_eq!(summary.state_root, expected.roots.state);
    prop_assert_eq!(summary.set, expected.roots.applied);
    Ok(expected)
}

//! A few devices with a replica each, under the bundled governance.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use ed25519_dalek::SigningKey;
use lattice_format::{
    Body, Call, ChainId, ComponentRef, DeviceKey, Digest, Genesis, Lane, Param, SignedHeader,
};
use lattice_kernel::fold::reference::{Scratch, scratch};
use lattice_kernel::run::engine::CallKind;
use lattice_kernel::{
    BatchVerifier, CallError, LocalSeq, NewStore, Notice, Outcome, Snapshot, Store, Stored,
};
use lattice_runtime::values::{Type, Value, cbor};
use lattice_runtime::{Schema, Wasm};
use lattice_testing::{device, key, memory_files};
use proptest::prelude::*;

use crate::node::{WASM, built, install};
use crate::order::apps::App;
use crate::order::case::{Act, Event};

/// Device 0 founds the store, 1 is another admin and 2 a writer from the first entry on.
pub(crate) const DEVICES: u8 = 4;
/// Has a replica, and is nobody until somebody carries its claim.
pub(crate) const OUTSIDER: u8 = 3;
/// Invites: 0 is for a writer, 1 for an admin; the others somebody must make.
pub(crate) const INVITES: u8 = 3;

pub(crate) const START_MS: u64 = 1_800_000_000_000;

/// Which intentions of a member a revocation keeps.
#[derive(Clone, Debug)]
pub(crate) enum Keep {
    /// Everything that its device has seen.
    Seen,
    Nothing,
    /// The last one of each chain that the revoking device knows.
    Tips,
    /// One of those that it knows.
    One(u16),
    /// Anybody's, which keeps nothing unless it happens to be the member's.
    Foreign(u16),
}

/// What no honest node writes into an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Nonsense {
    /// Bytes that are no body.
    Body,
    /// A call of a function that does not exist.
    Function,
    /// Arguments that do not fit.
    Arguments,
    /// A call of a query.
    Query,
}

pub(super) static COMPONENTS: LazyLock<HashMap<&'static str, Arc<Schema>>> = LazyLock::new(|| {
    let apps = App::ALL.iter().map(|app| app.name());
    let names = apps.chain(["system"]);
    names.map(|name| (name, install(&built(name)))).collect()
});

/// The devices.
pub(crate) struct World {
    pub(super) app: App,
    stores: Vec<Store>,
    clocks: Vec<u64>,
    pub(super) chains: u64,
    /// Runs between two commits of what was derived.
    slice: u64,
    /// What a fold from nothing comes to, by the set of entries: it depends on nothing else.
    folded: RefCell<HashMap<Digest, Arc<Scratch>>>,
}

pub(crate) fn all(snapshot: &Snapshot) -> Vec<Stored> {
    snapshot.entries_from(LocalSeq(0), usize::MAX).unwrap()
}

/// An entry as peers send it.
pub(crate) type Wire = (SignedHeader, Option<Vec<u8>>);

pub(crate) fn wire(stored: &Stored) -> Wire {
    let body = stored.body.as_ref().map(|bytes| bytes.to_vec());
    (stored.header.signed().clone(), body)
}

/// Runs what is due, in slices that end anywhere.
fn settle(store: &mut Store, slice: u64) {
    loop {
        let settled = store.settle(slice).unwrap();
        assert_eq!((settled.system_paused, settled.app_paused), (None, None));
        if settled.pending == 0 {
            return;
        }
    }
}

fn receive(store: &mut Store, batch: Vec<Wire>, slice: u64) {
    let now_ms = START_MS + 10_000;
    let received = store
        .receive(device(200), batch, now_ms, BatchVerifier([7; 32]))
        .unwrap();
    assert_eq!(received.blame, vec![]);
    assert_eq!((received.parked, received.no_room), (0, 0));
    settle(store, slice);
}

pub(super) fn invite_key(slot: u8) -> SigningKey {
    key(100 + slot)
}

pub(super) fn encode(
    schema: &Schema,
    name: &str,
    values: impl FnOnce(&[&Type]) -> Vec<Value>,
) -> Call {
    let found = schema.find(CallKind::Command, name);
    let [(interface, function)] = found[..] else {
        panic!("{} commands are named {name}", found.len());
    };
    let types: Vec<&Type> = function.param_types().collect();
    let values = values(&types);
    Call {
        interface: interface.id.clone(),
        function: function.name.clone(),
        args: cbor::encode_all(function.param_types(), &values),
    }
}

pub(super) fn hex(key: &DeviceKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World {
    /// A store with its first members and two open invites, the same on all devices.
    ///
    /// Every replica runs what is due in slices of at most `slice` runs.
    pub(crate) fn new(app: App, slice: u64) -> Self {
        let component = |name: &str| ComponentRef {
            id: COMPONENTS[name].component,
            name: name.into(),
        };
        let member = |number: u8, role: &str| Param {
            name: "member".into(),
            value: format!("{}:{role}:", hex(&device(number))),
        };
        let genesis = Genesis {
            system: component("system"),
            app: Some(component(app.name())),
            system_params: vec![member(0, "admin"), member(1, "admin"), member(2, "writer")],
            app_params: Vec::new(),
            limits: app.limits(),
            profile: lattice_runtime::profile::PROFILE,
            drift_ms: 60_000,
            order_rule: 1,
            root_rule: 1,
            recovery_keys: Vec::new(),
            encryption: 0,
            parent: None,
            finality_rule: 0,
        };
        let spec = NewStore {
            genesis,
            admits: vec![device(1), device(2)],
            chain: ChainId(1),
        };
        let engine = Arc::clone(&*WASM);
        let founder = Store::create(memory_files(), engine, key(0), spec, START_MS).unwrap();
        let mut world = Self {
            app,
            stores: vec![founder],
            clocks: vec![START_MS + 2; usize::from(DEVICES)],
            chains: 100,
            slice,
            folded: RefCell::default(),
        };
        let invite = |slot, role, uses| {
            let (key, expires_ms) = (invite_key(slot).verifying_key(), START_MS + 200);
            system(
                "invite",
                vec![
                    Value::Bytes(key.to_bytes().to_vec()),
                    Value::Enum(role),
                    Value::U64(expires_ms),
                    Value::U32(uses),
                ],
            )
        };
        let invites = vec![invite(0, 1, 1), invite(1, 0, 2)];
        let founder = &mut world.stores[0];
        let told = founder
            .call(Lane::System, invites, START_MS + 1, ChainId(1))
            .unwrap();
        assert!(told.outcome.is_ok(), "{:?}", told.outcome);
        founder.commit(START_MS + 1).unwrap();
        let entries = all(&founder.snapshot());
        for number in 1..DEVICES {
            let mut store = world.adopt(number);
            world.deliver(&mut store, &entries);
            world.stores.push(store);
        }
        world
    }

    pub(crate) fn store(&self, number: u8) -> &Store {
        &self.stores[usize::from(number)]
    }

    /// A replica that has nothing but the genesis.
    pub(crate) fn adopt(&self, number: u8) -> Store {
        self.adopt_on(&WASM, number)
    }

    /// The same on another engine.
    pub(crate) fn adopt_on(&self, wasm: &Arc<Wasm>, number: u8) -> Store {
        let snapshot = self.stores[0].snapshot();
        let genesis = snapshot.entry_at(LocalSeq(0)).unwrap().unwrap();
        let (signed, body) = wire(&genesis);
        let engine = Arc::clone(wasm);
        let genesis = (signed, body.unwrap());
        Store::adopt(memory_files(), engine, key(number), genesis, START_MS).unwrap()
    }

    pub(crate) fn deliver(&self, store: &mut Store, entries: &[Stored]) {
        receive(store, entries.iter().map(wire).collect(), self.slice);
    }

    pub(crate) fn receive(&mut self, to: u8, entries: &[Stored]) {
        let store = &mut self.stores[usize::from(to)];
        receive(store, entries.iter().map(wire).collect(), self.slice);
    }

    /// A replica with every entry that anybody has, and those entries as it met them.
    pub(crate) fn union(&self) -> (Store, Vec<Stored>) {
        let mut store = self.adopt(DEVICES);
        for other in &self.stores {
            self.deliver(&mut store, &all(&other.snapshot()));
        }
        let entries = all(&store.snapshot());
        (store, entries)
    }

    pub(crate) fn step(&mut self, event: &Event) {
        match event {
            Event::Local { by, act } => self.local(*by, act),
            Event::Forge {
                by,
                act,
                after,
                blind,
                ahead_ms,
            } => {
                if let Some(entry) = self.sign(*by, act, *after, *blind, *ahead_ms) {
                    let store = &mut self.stores[usize::from(*by)];
                    receive(store, vec![entry], self.slice);
                }
            }
            Event::Twin { by, act, of } => {
                if let Some(entry) = self.sign_again(*by, act, *of) {
                    let store = &mut self.stores[usize::from(*by)];
                    receive(store, vec![entry], self.slice);
                }
            }
            Event::Sync { from, to } => {
                if from != to {
                    let entries = all(&self.store(*from).snapshot());
                    self.receive(*to, &entries);
                }
            }
            Event::Clock { of, to_ms } => {
                self.clocks[usize::from(*of)] = START_MS + u64::from(*to_ms);
            }
            Event::Rebuild { of } => {
                let store = &mut self.stores[usize::from(*of)];
                store.rebuild(START_MS).unwrap();
                settle(store, self.slice);
            }
        }
        // What comes next finds instances that were started ahead.
        WASM.rest();
    }

    fn local(&mut self, by: u8, act: &Act) {
        let (lane, transactions) = self.transactions(by, act).expect("calls that make sense");
        let now_ms = self.clocks[usize::from(by)];
        for calls in transactions {
            self.chains += 1;
            let store = &mut self.stores[usize::from(by)];
            match store.call(lane, calls, now_ms, ChainId(self.chains)) {
                // What was refused left nothing; what was not is in the intention being filled.
                Ok(_) | Err(CallError::NotAdmitted { .. } | CallError::CutOff { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let store = &mut self.stores[usize::from(by)];
        store.commit(now_ms).unwrap();
        settle(store, self.slice);
    }

    /// What a replica holds is what a fold of its entries from nothing comes to.
    pub(crate) fn judge(&self, store: &Store) -> Result<(), TestCaseError> {
        let snapshot = store.snapshot();
        let summary = snapshot.summary();
        let entries = all(&snapshot);
        let known = self.folded.borrow().get(&summary.set).cloned();
        let expected = match known {
            Some(known) => known,
            None => Arc::new(scratch(&**WASM, &entries).unwrap()),
        };
        prop_assert_eq!(summary.set, expected.roots.applied);
        self.folded
            .borrow_mut()
            .insert(summary.set, Arc::clone(&expected));
        let history = snapshot.history(None, usize::MAX, false).unwrap();
        let mut order: Vec<_> = entries.iter().map(|e| e.header.position()).collect();
        order.sort_unstable();
        let shown: Vec<_> = history.iter().map(|row| row.position).collect();
        prop_assert_eq!(shown, order);
        for row in &history {
            let id = row.position.id;
            prop_assert!(!row.pending, "{id} is pending");
            prop_assert_eq!(row.void, expected.void.contains(&id), "void {}", id);
            let lanes = [Lane::System, Lane::App];
            let outcomes = lanes
                .iter()
                .filter_map(|l| expected.outcomes.get(&(row.position, *l)));
            let outcomes: Vec<_> = outcomes.flatten().cloned().collect();
            prop_assert_eq!(&row.outcomes, &outcomes, "outcomes of {}", id);
        }
        prop_assert_eq!(
            (summary.count, summary.applied),
            (entries.len() as u64, entries.len() as u64)
        );
        prop_assert_eq!(summary.outcome_root, expected.roots.outcomes);
        prop_assert_eq!(summary.state_root, expected.roots.state);
        Ok(())
    }
}

impl World {
    /// What a device's callers were told either holds or has a notice that says what does; and no
    /// replica noticed that another one's roots differ.
    pub(crate) fn judge_told(&self, number: u8) -> Result<(), TestCaseError> {
        let store = self.store(number);
        let mut noticed = HashMap::new();
        for (_, notice) in store.notices().unwrap() {
            match notice {
                Notice::OutcomeChanged {
                    entry,
                    transaction,
                    now,
                    ..
                } => {
                    noticed.insert((entry, transaction), now);
                }
                Notice::Divergence { entry, .. } => {
                    return Err(TestCaseError::fail(format!("the roots of {entry} differ")));
                }
                Notice::Fork { .. }
                | Notice::ClockLeapt { .. }
                | Notice::ChainAhead { .. }
                | Notice::More { .. } => {}
            }
        }
        for row in store.snapshot().history(None, usize::MAX, false).unwrap() {
            let header = &row.stored.header;
            let body = row.stored.body.as_deref().map(Body::decode);
            let Some(Ok(body)) = body.filter(|_| header.author == device(number)) else {
                continue;
            };
            for (index, transaction) in (0u32..).zip(body.transactions) {
                // What a device signed by hand it told to nobody.
                let Some(told) = transaction.told else {
                    continue;
                };
                let now = row.outcomes.get(index as usize);
                match noticed.get(&(header.id(), index)) {
                    Some(noticed) => prop_assert_eq!(noticed.as_ref(), now),
                    None => prop_assert_eq!(Some(told), now.map(Outcome::digest)),
                }
            }
        }
        Ok(())
    }
}

pub(super) fn system(function: &str, args: Vec<Value>) -> Call {
    let name = format!("system/commands.{function}");
    encode(&COMPONENTS["system"], &name, |_| args)
}

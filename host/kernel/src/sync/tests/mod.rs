//! Two sessions back to back, around real stores.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod budgets;
mod exchange;
mod golden;
mod gossip;
mod hostile;
mod large;
mod ranges;
mod sketches;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lattice_format::{ChainId, IntentionId, Lane, SignedHeader};

use super::{Access, Config, Effect, Input, Role, Session, Wants};
use crate::testing::{self, ModelEngine, Step};
use crate::{BatchVerifier, Store};

// Kinds of frames.
pub(super) const HELLO: u8 = 1;
pub(super) const TIPS: u8 = 2;
pub(super) const ENTRIES: u8 = 3;
pub(super) const ANNOUNCE: u8 = 7;
pub(super) const DONE: u8 = 8;
pub(super) const SUMMARIZE: u8 = 10;
pub(super) const SKETCH: u8 = 14;
pub(super) const DIFFERENCE: u8 = 15;

pub(super) const NOW: u64 = 1_800_000_000_000;

/// The store of device `number`, which joined that of `founder`.
pub(super) fn join(founder: &Store, number: u8) -> Store {
    Store::adopt(
        testing::memory_files(),
        Arc::new(ModelEngine),
        testing::key(number),
        genesis_of(founder),
        NOW,
    )
    .unwrap()
}

pub(super) fn genesis_of(store: &Store) -> (SignedHeader, Vec<u8>) {
    let stored = store
        .snapshot()
        .entry(&IntentionId::from(store.id()))
        .unwrap()
        .unwrap();
    (
        stored.header.signed().clone(),
        stored.body.unwrap().to_vec(),
    )
}

pub(super) fn call(store: &mut Store, lane: Lane, call: lattice_format::Call, now_ms: u64) {
    let count = store.snapshot().summary().count;
    store.call(lane, vec![call], now_ms, ChainId(0x77)).unwrap();
    store.commit(now_ms).unwrap();
    assert_eq!(
        store.snapshot().summary().count,
        count + 1,
        "the call was not logged"
    );
}

/// `n` entries, each in a commit of its own.
pub(super) fn write(store: &mut Store, n: usize, now_ms: u64) {
    for i in 0..n {
        let step = Step::Put {
            k: (i % 7) as u8,
            dynamic: false,
            value: i as u8,
        };
        call(
            store,
            Lane::App,
            testing::program(&[step]),
            now_ms + i as u64,
        );
    }
}

/// A founder and two members that know each other.
pub(super) fn three() -> [Store; 3] {
    let mut a = testing::found(0, NOW);
    for n in 1..3 {
        let admit = testing::admit(testing::device(n), crate::run::engine::Role::Writer);
        call(&mut a, Lane::System, admit, NOW);
    }
    let mut b = join(&a, 1);
    let mut c = join(&a, 2);
    Link::new(&a, 0, &b, 1).run(&mut a, &mut b);
    Link::new(&a, 0, &c, 2).run(&mut a, &mut c);
    [a, b, c]
}

pub(super) fn config(role: Role, me: u8, peer: u8) -> Config {
    Config {
        role,
        device: testing::device(me),
        endpoint: testing::device(me),
        peer: testing::device(peer),
        wants: Wants::All,
        access: Access::All,
    }
}

/// Two sessions and what is on its way between them; index 0 dials.
pub(super) struct Link {
    pub(super) sessions: [Session; 2],
    pub(super) wires: [VecDeque<Bytes>; 2],
    pub(super) inputs: VecDeque<(usize, Input)>,
    pub(super) wakes: [Option<u64>; 2],
    pub(super) now_ms: u64,
    /// All effects that are neither Send nor Deliver, with the side that had them.
    pub(super) log: Vec<(usize, Effect)>,
    /// Kinds of the frames written, by side.
    pub(super) kinds: [Vec<u8>; 2],
    /// Bytes of the frames written without those of entries, by side.
    pub(super) bytes: [usize; 2],
    /// Entries delivered, by receiving side.
    pub(super) delivered: [Vec<IntentionId>; 2],
    /// How many frames may still pass before the stream is cut.
    pub(super) frames_left: usize,
}

impl Link {
    pub(super) fn new(_: &Store, a: u8, _: &Store, b: u8) -> Self {
        Self::of(config(Role::Dialer, a, b), config(Role::Listener, b, a))
    }

    pub(super) fn of(a: Config, b: Config) -> Self {
        Self {
            sessions: [Session::new(a), Session::new(b)],
            wires: Default::default(),
            inputs: VecDeque::from([(0, Input::Start), (1, Input::Start)]),
            wakes: [None; 2],
            now_ms: NOW + 1_000_000,
            log: Vec::new(),
            kinds: Default::default(),
            bytes: Default::default(),
            delivered: Default::default(),
            frames_left: usize::MAX,
        }
    }

    /// Runs until nothing moves.
    pub(super) fn run(&mut self, a: &mut Store, b: &mut Store) -> &mut Self {
        let stores = [a, b];
        for _ in 0..1_000_000 {
            if let Some((side, input)) = self.inputs.pop_front() {
                self.give(side, input, stores[side]);
                continue;
            }
            let Some(side) = (0..2).find(|side| !self.wires[*side].is_empty()) else {
                match self.wakes.iter().flatten().min() {
                    Some(ms) => self.now_ms = self.now_ms.max(*ms),
                    None => return self,
                }
                for side in 0..2 {
                    if self.wakes[side].take_if(|ms| *ms <= self.now_ms).is_some() {
                        self.inputs.push_back((side, Input::Tick));
                    }
                }
                continue;
            };
            let bytes = self.wires[side].pop_front().unwrap();
            if self.frames_left == 0 {
                continue;
            }
            self.frames_left -= 1;
            self.inputs.push_back((side, Input::Bytes(bytes)));
        }
        panic!("the sessions never come to rest");
    }

    fn give(&mut self, side: usize, input: Input, store: &mut Store) {
        let snapshot = store.snapshot();
        let effects = self.sessions[side]
            .handle(input, self.now_ms, &snapshot)
            .unwrap();
        for effect in effects {
            match effect {
                Effect::Send(bytes) => {
                    self.kinds[side].push(bytes[4]);
                    if bytes[4] != ENTRIES {
                        self.bytes[side] += bytes.len();
                    }
                    self.wires[1 - side].push_back(bytes);
                }
                Effect::Deliver(entries) => {
                    let from = self.sessions[side].config.peer;
                    let ids = entries
                        .iter()
                        .map(|(h, _)| lattice_format::Header::id_of(&h.bytes));
                    self.delivered[side].extend(ids);
                    let received = store
                        .receive(from, entries, self.now_ms, BatchVerifier([3; 32]))
                        .unwrap();
                    while store.settle(1000).unwrap().pending > 0 {}
                    self.inputs
                        .push_back((side, Input::Received(Some(received))));
                    self.inputs.push_back((side, Input::Changed));
                }
                Effect::Again => self.inputs.push_back((side, Input::Tick)),
                Effect::WakeAt { ms } => self.wakes[side] = Some(ms),
                other => self.log.push((side, other)),
            }
        }
    }

    pub(super) fn reconcile(&mut self, side: usize) -> &mut Self {
        self.log.clear();
        self.kinds = Default::default();
        self.bytes = Default::default();
        self.delivered = Default::default();
        self.inputs.push_back((side, Input::Reconcile));
        self
    }

    pub(super) fn changed(&mut self, side: usize) -> &mut Self {
        self.reconcile(side);
        self.inputs.clear();
        self.inputs.push_back((side, Input::Changed));
        self
    }

    pub(super) fn in_sync(&self) -> bool {
        self.sessions
            .iter()
            .all(|s| s.status().in_sync && s.status().settled)
    }
}

pub(super) fn assert_equal(a: &Store, b: &Store) {
    let (a, b) = (a.snapshot(), b.snapshot());
    assert_eq!(a.summary().count, b.summary().count);
    assert_eq!(a.tips_digest().unwrap(), b.tips_digest().unwrap());
    assert_eq!(a.summary().state_root, b.summary().state_root);
}

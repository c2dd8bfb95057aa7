//! A store that a forger attacks, and the entries that the forger makes.

use std::sync::Arc;

use ed25519_dalek::Signer;
use lattice_format::{
    Body, BodyRef, ChainId, Header, IntentionId, Lane, Limits, Seq, Signature, SignedHeader, Time,
    Transaction,
};
use lattice_kernel::run::engine::Role;
use lattice_kernel::{BatchVerifier, NewStore, Received, Store};
use lattice_testing::{self as testing, ModelEngine, Step, device, key, memory_files};

use crate::world::{START_MS, all, judge, settle};

pub const NOW: u64 = START_MS + 1_000;
pub const DRIFT_MS: u64 = 60_000;

/// The number of a member that does not keep to the rules.
pub const MALLORY: u8 = 3;

pub type Entry = (SignedHeader, Option<Vec<u8>>);

/// A founder's store with two members, and what a forger needs to know of the store.
pub struct Scene {
    pub store: Store,
    pub genesis: IntentionId,
    pub grant: IntentionId,
}

impl Scene {
    pub fn new() -> Self {
        Self::of(Role::Writer)
    }

    /// A scene in which the forger has this role.
    pub fn of(forger: Role) -> Self {
        let limits = Limits {
            body_bytes: 64 * 1024,
            ..Limits::DEFAULT
        };
        Self::made(limits, forger)
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self::made(limits, Role::Writer)
    }

    fn made(limits: Limits, forger: Role) -> Self {
        let mut genesis = testing::genesis();
        genesis.limits = limits;
        genesis.drift_ms = DRIFT_MS;
        let spec = NewStore {
            genesis,
            admits: Vec::new(),
            chain: ChainId(1),
        };
        let engine = Arc::new(ModelEngine);
        let mut store = Store::create(memory_files(), engine, key(0), spec, START_MS).unwrap();
        let mut grants = Vec::new();
        for (number, role) in [(1, Role::Writer), (MALLORY, forger)] {
            let call = testing::admit(device(number), role);
            store
                .call(Lane::System, vec![call], START_MS, ChainId(1))
                .unwrap();
            grants.push(store.commit(START_MS).unwrap()[0].id());
        }
        Self {
            genesis: IntentionId::from(store.id()),
            grant: grants[1],
            store,
        }
    }

    pub fn replica(&self) -> Store {
        let mut store = crate::world::adopt(8, &all(&self.store.snapshot())[0]);
        crate::world::deliver(&mut store, &all(&self.store.snapshot()));
        store
    }

    /// The first entry of a chain of Mallory's, sound in every way.
    pub fn first(&self, chain: u64) -> Forged {
        let body = program(&[Step::Put {
            k: 1,
            dynamic: false,
            value: 1,
        }]);
        Forged {
            header: Header {
                store: Some(self.store.id()),
                author: device(MALLORY),
                chain: ChainId(chain),
                seq: Seq(0),
                prev: Some(self.genesis),
                deps: vec![],
                time: Time {
                    wall_ms: START_MS + 10,
                    counter: 0,
                },
                grant: Some(self.grant),
                admits: vec![],
                lane: Lane::App,
                body: BodyRef {
                    hash: Body::hash_of(&body),
                    len: body.len() as u32,
                    key: 0,
                },
                chain_bytes: body.len() as u64,
                parent_view: None,
                hints: vec![],
                critical: 0,
            },
            body,
            signer: MALLORY,
        }
    }

    pub fn send(&mut self, entries: Vec<Entry>) -> Received {
        let received = self
            .store
            .receive(device(9), entries, NOW, BatchVerifier([5; 32]))
            .unwrap();
        settle(&mut self.store);
        received
    }

    /// Sends one entry that must be refused for ever. Returns the reason of the refusal.
    pub fn refused(&mut self, forged: &Forged) -> String {
        let before = self.store.snapshot().summary().clone();
        let received = self.send(vec![forged.entry()]);
        assert_eq!(received.blame.len(), 1, "{received:?}");
        assert_eq!(received.witnessed, vec![]);
        assert_eq!((received.floating, received.parked), (0, 0));
        assert_eq!(*self.store.snapshot().summary(), before);
        self.goes_on();
        // The entry is not witnessed when it comes a second time.
        let again = self.send(vec![forged.entry()]);
        assert_eq!(again.witnessed, vec![]);
        received.blame[0].reason.clone()
    }

    /// Sends one entry that must be accepted.
    pub fn accepted(&mut self, forged: &Forged) -> IntentionId {
        let received = self.send(vec![forged.entry()]);
        assert_eq!(received.blame, vec![]);
        assert_eq!(received.witnessed, vec![forged.id()], "{received:?}");
        judge(&self.store).unwrap();
        forged.id()
    }

    /// Checks that the store still works.
    pub fn goes_on(&mut self) {
        let call = testing::program(&[Step::Add { k: 2, by: 1 }]);
        let told = self
            .store
            .call(Lane::App, vec![call], NOW, ChainId(1))
            .unwrap();
        assert!(told.outcome.is_ok());
        assert_eq!(self.store.commit(NOW).unwrap().len(), 1);
        judge(&self.store).unwrap();
    }
}

pub fn program(steps: &[Step]) -> Vec<u8> {
    Body {
        transactions: vec![Transaction {
            calls: vec![testing::program(steps)],
            told: None,
        }],
        genesis: None,
        claim: None,
    }
    .encode()
}

/// A header and a body that are signed without any check.
#[derive(Clone)]
pub struct Forged {
    pub header: Header,
    pub body: Vec<u8>,
    pub signer: u8,
}

impl Forged {
    pub fn with(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Self {
        let before = self.header.chain_bytes - u64::from(self.header.body.len);
        self.header.body.hash = Body::hash_of(&body);
        self.header.body.len = body.len() as u32;
        self.header.chain_bytes = before + body.len() as u64;
        self.body = body;
        self
    }

    /// The next entry of the same chain.
    pub fn next(&self) -> Self {
        let mut next = self.clone();
        next.header.prev = Some(self.id());
        next.header.seq.0 += 1;
        next.header.time = self.header.time.successor().unwrap();
        next.header.chain_bytes += self.body.len() as u64;
        next
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.header.encode()
    }

    pub fn id(&self) -> IntentionId {
        Header::id_of(&self.bytes())
    }

    pub fn signed(&self) -> SignedHeader {
        SignedHeader {
            signature: Signature(key(self.signer).sign(&self.id().0).to_bytes()),
            bytes: self.bytes().into(),
        }
    }

    pub fn entry(&self) -> Entry {
        (self.signed(), Some(self.body.clone()))
    }
}

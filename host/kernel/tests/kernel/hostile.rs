//! Hostile peers: whatever they send is refused, parked or floats as designed; who sent it is
//! blamed as designed; nothing grows without bound, and the store goes on.

use std::sync::Arc;

use ed25519_dalek::Signer;
use lattice_format::{
    Body, BodyRef, ChainId, DeviceKey, Header, IntentionId, Lane, Seq, Signature, SignedHeader,
    StoreId, Time, Transaction, VerifiedHeader,
};
use lattice_kernel::engine::Role;
use lattice_kernel::limits::{
    DROPPED_MAX, FLOATING_BYTES_PER_PEER, FLOATING_MAX, FLOATING_PER_PEER, PARKED_MAX,
    PARKED_PER_PEER,
};
use lattice_kernel::testing::{self, ModelEngine, Step, device, key, memory_files};
use lattice_kernel::{FloatReason, HostRefusal, NewStore, Notice, Outcome, Received, Store};

use crate::world::{START_MS, all, judge, settle, wire};

const NOW: u64 = START_MS + 1_000;
const DRIFT_MS: u64 = 60_000;

/// A member that does not keep to the rules.
const MALLORY: u8 = 3;

type Entry = (SignedHeader, Option<Vec<u8>>);

/// A founder's store with two members, and what a forger needs to know of it.
struct Scene {
    store: Store,
    genesis: IntentionId,
    grant: IntentionId,
}

impl Scene {
    fn new() -> Self {
        let mut genesis = testing::genesis();
        genesis.limits.body_bytes = 64 * 1024;
        genesis.drift_ms = DRIFT_MS;
        let spec = NewStore {
            genesis,
            admits: Vec::new(),
            chain: ChainId(1),
        };
        let engine = Arc::new(ModelEngine);
        let mut store = Store::create(memory_files(), engine, key(0), spec, START_MS).unwrap();
        let mut grants = Vec::new();
        for number in [1, MALLORY] {
            let call = testing::admit(device(number), Role::Writer);
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

    fn replica(&self) -> Store {
        let mut store = crate::world::adopt(8, &all(&self.store.snapshot())[0]);
        crate::world::deliver(&mut store, &all(&self.store.snapshot()));
        store
    }

    /// The first entry of a chain of Mallory's, sound in every way.
    fn first(&self, chain: u64) -> Forged {
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

    fn send(&mut self, entries: Vec<Entry>) -> Received {
        let received = self
            .store
            .receive(device(9), entries, NOW, [5; 32])
            .unwrap();
        settle(&mut self.store);
        received
    }

    /// Sends one entry that must be refused for ever, and tells why it was.
    fn refused(&mut self, forged: &Forged) -> String {
        let before = self.store.snapshot().summary().clone();
        let received = self.send(vec![forged.entry()]);
        assert_eq!(received.blame.len(), 1, "{received:?}");
        assert_eq!(received.witnessed, vec![]);
        assert_eq!((received.floating, received.parked), (0, 0));
        assert_eq!(*self.store.snapshot().summary(), before);
        self.goes_on();
        // A second time it costs no work, and is not in the log either.
        let again = self.send(vec![forged.entry()]);
        assert_eq!(again.witnessed, vec![]);
        received.blame[0].reason.clone()
    }

    /// Sends one entry that must be accepted.
    fn accepted(&mut self, forged: &Forged) -> IntentionId {
        let received = self.send(vec![forged.entry()]);
        assert_eq!(received.blame, vec![]);
        assert_eq!(received.witnessed, vec![forged.id()], "{received:?}");
        judge(&self.store).unwrap();
        forged.id()
    }

    /// A store that was attacked works as before.
    fn goes_on(&mut self) {
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

fn program(steps: &[Step]) -> Vec<u8> {
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

/// A header that somebody signs whatever it says.
#[derive(Clone)]
struct Forged {
    header: Header,
    body: Vec<u8>,
    signer: u8,
}

impl Forged {
    fn with(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self
    }

    fn body(mut self, body: Vec<u8>) -> Self {
        let before = self.header.chain_bytes - u64::from(self.header.body.len);
        self.header.body.hash = Body::hash_of(&body);
        self.header.body.len = body.len() as u32;
        self.header.chain_bytes = before + body.len() as u64;
        self.body = body;
        self
    }

    /// The next entry of the same chain.
    fn next(&self) -> Self {
        let mut next = self.clone();
        next.header.prev = Some(self.id());
        next.header.seq.0 += 1;
        next.header.time = self.header.time.successor().unwrap();
        next.header.chain_bytes += self.body.len() as u64;
        next
    }

    fn bytes(&self) -> Vec<u8> {
        self.header.encode()
    }

    fn id(&self) -> IntentionId {
        Header::id_of(&self.bytes())
    }

    fn signed(&self) -> SignedHeader {
        SignedHeader {
            signature: Signature(key(self.signer).sign(&self.id().0).to_bytes()),
            bytes: self.bytes().into(),
        }
    }

    fn entry(&self) -> Entry {
        (self.signed(), Some(self.body.clone()))
    }
}

#[test]
fn a_sound_entry_of_a_member_is_accepted_once() {
    let mut scene = Scene::new();
    let first = scene.first(1);
    let id = scene.accepted(&first);
    let count = scene.store.snapshot().summary().count;
    // Again, twice in one batch, from anybody, and without its body.
    let again = scene.send(vec![first.entry(), first.entry(), (first.signed(), None)]);
    assert_eq!((again.known, again.witnessed), (3, vec![]));
    let next = first.next();
    let received = scene.send(vec![next.entry(), next.entry(), first.entry()]);
    assert_eq!(received.witnessed, vec![next.id()]);
    assert_eq!(scene.store.snapshot().summary().count, count + 1);
    assert!(scene.store.snapshot().contains(&id).unwrap());
    judge(&scene.store).unwrap();
}

#[test]
fn a_bad_signature_and_another_ones_name_are_refused() {
    let mut scene = Scene::new();
    for bit in [0, 255, 256, 511] {
        let forged = scene.first(1);
        let mut entry = forged.entry();
        entry.0.signature.0[bit / 8] ^= 1 << (bit % 8);
        let received = scene.send(vec![entry]);
        assert!(
            received.blame[0].reason.contains("signature"),
            "{received:?}"
        );
        // The bytes may be somebody's: nothing is remembered against the id.
        assert_eq!(received.blame[0].id, None);
    }
    let mut forged = scene.first(1);
    forged.header.author = device(1);
    assert!(scene.refused(&forged).contains("signature"));
    // A key of small order signs everything and belongs to nobody here.
    let mut torsion = scene.first(1);
    torsion.header.author = DeviceKey([0; 32]);
    let mut entry = torsion.entry();
    entry.0.signature = Signature([0; 64]);
    let received = scene.send(vec![entry]);
    assert!(
        received.blame[0].reason.contains("does not admit"),
        "{received:?}"
    );
    scene.goes_on();
    let sound = scene.first(1);
    scene.accepted(&sound);
}

#[test]
fn entries_of_other_stores_and_a_second_genesis_are_refused() {
    let mut scene = Scene::new();
    let other = scene.first(1).with(|h| h.store = Some(StoreId([7; 32])));
    assert!(scene.refused(&other).contains("another store"));
    let foreign = testing::found(MALLORY, START_MS);
    let genesis = wire(&all(&foreign.snapshot())[0]);
    let received = scene.send(vec![genesis]);
    assert!(
        received.blame[0].reason.contains("another store"),
        "{received:?}"
    );
    // Its own genesis is known.
    let own = wire(&all(&scene.store.snapshot())[0]);
    assert_eq!(scene.send(vec![own]).known, 1);
    // Rubbish in place of a header.
    for bytes in [
        vec![],
        vec![0],
        vec![1],
        vec![1, 2, 3],
        vec![0; 100_000],
        vec![9; 100_000],
    ] {
        let entry = SignedHeader {
            bytes: bytes.into(),
            signature: Signature([1; 64]),
        };
        let received = scene.send(vec![(entry, None)]);
        assert_eq!(
            (received.blame.len(), received.floating),
            (1, 0),
            "{received:?}"
        );
    }
    scene.goes_on();
}

#[test]
fn only_who_is_admitted_by_what_it_names_is_admitted() {
    let mut scene = Scene::new();
    // The genesis admits the founder alone; so does the admission of somebody else.
    let genesis = scene.genesis;
    let on_genesis = scene.first(1).with(|h| h.grant = Some(genesis));
    assert!(scene.refused(&on_genesis).contains("does not admit"));
    let mut stranger = scene.first(1);
    stranger.header.author = device(6);
    stranger.signer = 6;
    assert!(scene.refused(&stranger).contains("does not admit"));
    // A grant that nobody knows may come: the entry floats.
    let unknown = scene
        .first(1)
        .with(|h| h.grant = Some(IntentionId([9; 32])));
    let received = scene.send(vec![unknown.entry()]);
    assert_eq!((received.floating, received.blame.len()), (1, 0));
    assert_eq!(received.missing, vec![IntentionId([9; 32])]);
    // Mallory's own entry may say that it admits somebody; governance does not follow.
    let claims = scene.first(2).with(|h| h.admits = vec![device(6)]);
    let id = scene.accepted(&claims);
    let mut crony = scene.first(3).with(|h| {
        h.grant = Some(id);
        h.time.wall_ms += 1;
    });
    crony.header.author = device(6);
    crony.signer = 6;
    let id = scene.accepted(&crony);
    assert_eq!(
        scene.store.snapshot().outcomes(&id).unwrap(),
        Some(vec![Outcome::Unauthorized { index: 0 }])
    );
}

#[test]
fn times_are_above_those_of_everything_named() {
    let mut scene = Scene::new();
    for (wall_ms, counter) in [(0, 0), (1, 0), (START_MS - 1, u32::MAX), (START_MS, 0)] {
        let early = scene.first(1).with(|h| h.time = Time { wall_ms, counter });
        assert!(scene.refused(&early).contains("is not above"), "{wall_ms}");
    }
    let first = scene.first(1);
    scene.accepted(&first);
    let same = first.next().with(|h| h.time = first.header.time);
    assert!(scene.refused(&same).contains("is not above"));
    let next = first.next();
    scene.accepted(&next);
    // Among deps as well.
    let dep = scene.first(2).with(|h| h.deps = vec![next.id()]);
    assert!(scene.refused(&dep).contains("is not above"));
}

#[test]
fn a_future_clock_is_parked_until_its_time() {
    let mut scene = Scene::new();
    let first = scene
        .first(1)
        .with(|h| h.time.wall_ms = NOW + DRIFT_MS + 500);
    let next = first.next();
    let edge = scene.first(2).with(|h| h.time.wall_ms = NOW + DRIFT_MS);
    scene.accepted(&edge);
    let received = scene.send(vec![first.entry(), next.entry()]);
    assert_eq!((received.parked, received.floating), (1, 1));
    assert_eq!(received.blame, vec![]);
    assert_eq!(
        received.missing,
        vec![],
        "what is parked need not be asked for"
    );
    let parked = scene.store.parked();
    assert_eq!(
        (parked[0].id, parked[0].not_before_ms),
        (first.id(), NOW + 500)
    );
    assert_eq!(scene.send(vec![first.entry()]).known, 1);
    // Not before its time.
    assert_eq!(scene.store.tick(NOW + 499).unwrap().witnessed, vec![]);
    let received = scene.store.tick(NOW + 500).unwrap();
    // What floated on it lies one counter later and comes along.
    assert_eq!(received.witnessed, vec![first.id(), next.id()]);
    settle(&mut scene.store);
    assert!(scene.store.parked().is_empty() && scene.store.floating().is_empty());
    judge(&scene.store).unwrap();
    // The end of time is parked for ever, and calls go on.
    let last = scene.first(3).with(|h| {
        h.time = Time {
            wall_ms: u64::MAX,
            counter: u32::MAX,
        };
    });
    assert_eq!(scene.send(vec![last.entry()]).parked, 1);
    scene.goes_on();
}

#[test]
fn parked_entries_are_bounded_and_the_latest_gives_way() {
    let mut scene = Scene::new();
    let at = |scene: &Scene, chain: u64, later: u64| {
        scene
            .first(chain)
            .with(|h| h.time.wall_ms = NOW + DRIFT_MS + 10_000 + later)
    };
    let many = PARKED_PER_PEER as u64 + 40;
    let batch: Vec<_> = (0..many).map(|n| at(&scene, n, n * 10).entry()).collect();
    let received = scene.send(batch);
    assert_eq!(received.parked, PARKED_PER_PEER);
    assert_eq!(received.no_room, 40);
    assert_eq!(
        received.blame,
        vec![],
        "there is no blame in a clock that is ahead"
    );
    // An earlier one displaces the latest.
    let early = at(&scene, 9_999, 0).with(|h| h.time.wall_ms -= 5_000);
    assert_eq!(scene.send(vec![early.entry()]).parked, 1);
    let parked = scene.store.parked();
    assert_eq!(parked.len(), PARKED_PER_PEER);
    assert_eq!(parked[0].id, early.id());
    // Another peer has room of its own, and all together have a bound.
    for peer in 0..20u8 {
        let batch = (0..300u64)
            .map(|n| at(&scene, 10_000 + u64::from(peer) * 1_000 + n, n).entry())
            .collect();
        let from = device(100 + peer);
        let received = scene.store.receive(from, batch, NOW, [1; 32]).unwrap();
        assert!(received.parked <= PARKED_PER_PEER);
        assert!(scene.store.parked().len() <= PARKED_MAX);
    }
    assert_eq!(scene.store.parked().len(), PARKED_MAX);
    scene.goes_on();
}

#[test]
fn places_in_a_chain_are_consecutive() {
    let mut scene = Scene::new();
    let first = scene.first(1);
    let second = first.next();
    scene.accepted(&first);
    scene.accepted(&second);
    let founders = scene.store.snapshot().tips().unwrap();
    let founders = founders.iter().find(|t| t.author == device(0)).unwrap().id;
    let third = second.next();
    let grant = scene.grant;
    for (name, bad) in [
        ("a gap", third.clone().with(|h| h.seq = Seq(5))),
        (
            "seq 1 again on seq 1",
            third.clone().with(|h| h.seq = Seq(1)),
        ),
        ("seq 0 on an entry", third.clone().with(|h| h.seq = Seq(0))),
        (
            "the last seq",
            third.clone().with(|h| h.seq = Seq(u64::MAX)),
        ),
        (
            "another chain",
            third.clone().with(|h| h.chain = ChainId(2)),
        ),
        (
            "another's chain",
            third.clone().with(|h| h.prev = Some(founders)),
        ),
        (
            "seq 1 on the genesis",
            scene.first(4).with(|h| h.seq = Seq(1)),
        ),
        (
            "seq 0 on no genesis",
            scene.first(5).with(|h| h.prev = Some(grant)),
        ),
    ] {
        let bad = bad.with(|h| h.time.wall_ms = NOW + 50_000);
        let reason = scene.refused(&bad);
        assert!(reason.contains("previous intention"), "{name}: {reason}");
    }
    for chain_bytes in [
        0,
        third.header.chain_bytes - 1,
        third.header.chain_bytes + 1,
        u64::MAX,
    ] {
        let bad = third.clone().with(|h| h.chain_bytes = chain_bytes);
        assert!(scene.refused(&bad).contains("bytes of bodies"));
    }
    let bad = scene.first(6).with(|h| h.chain_bytes += 1);
    assert!(scene.refused(&bad).contains("bytes of bodies"));
    scene.accepted(&third);
}

#[test]
fn both_sides_of_a_fork_stand_and_somebody_is_told() {
    let mut scene = Scene::new();
    let first = scene.first(1);
    let put = |value| {
        program(&[Step::Put {
            k: 1,
            dynamic: false,
            value,
        }])
    };
    let left = first.next().body(put(2));
    let right = first.next().body(put(3));
    let on_left = left.next();
    let again = scene.first(1).body(put(4));
    let mut replica = scene.replica();
    for forged in [&first, &left, &right, &on_left, &again] {
        scene.accepted(forged);
    }
    // In another order elsewhere.
    for forged in [&again, &first, &right, &left, &on_left] {
        let received = replica
            .receive(device(9), vec![forged.entry()], NOW, [1; 32])
            .unwrap();
        assert_eq!(received.witnessed, vec![forged.id()]);
        settle(&mut replica);
    }
    judge(&replica).unwrap();
    let (ours, theirs) = (scene.store.snapshot(), replica.snapshot());
    assert_eq!(ours.summary().state_root, theirs.summary().state_root);
    assert_eq!(ours.tips_digest().unwrap(), theirs.tips_digest().unwrap());
    let of_mallory: Vec<_> = ours
        .tips()
        .unwrap()
        .into_iter()
        .filter(|t| t.author == device(MALLORY))
        .collect();
    assert_eq!(of_mallory.len(), 3, "three branches, three tips");
    for store in [&scene.store, &replica] {
        let forks: Vec<_> = store
            .notices()
            .unwrap()
            .into_iter()
            .filter(|(_, n)| matches!(n, Notice::Fork { author, .. } if *author == device(MALLORY)))
            .collect();
        assert_eq!(forks.len(), 2, "{forks:?}");
    }
}

#[test]
fn bodies_are_within_the_limit_and_those_that_are_named() {
    let mut scene = Scene::new();
    let large = scene.first(1).body(vec![1; 64 * 1024 + 1]);
    assert!(scene.refused(&large).contains("exceeds 65536"));
    // Bytes that do not match: the sender is blamed, the header waits for somebody else.
    let first = scene.first(2);
    let received = scene.send(vec![(first.signed(), Some(b"other bytes".to_vec()))]);
    assert_eq!(received.blame[0].id, Some(first.id()));
    assert_eq!((received.floating, received.witnessed.len()), (1, 0));
    assert_eq!(received.bodies_missing, vec![first.id()]);
    assert_eq!(scene.store.floating()[0].reason, FloatReason::BodyMissing);
    // What stands on it waits as well, and nobody is blamed for that.
    let next = first.next();
    let received = scene.send(vec![next.entry()]);
    assert_eq!((received.floating, received.blame.len()), (1, 0));
    scene.goes_on();
    // The withheld body stops nobody for longer than it is withheld.
    let from = device(10);
    let received = scene
        .store
        .receive(from, vec![first.entry()], NOW, [2; 32])
        .unwrap();
    settle(&mut scene.store);
    assert_eq!(received.witnessed, vec![first.id(), next.id()]);
    assert!(scene.store.floating().is_empty());
    judge(&scene.store).unwrap();
}

#[test]
fn a_body_that_is_none_is_refused_in_the_fold_and_the_fold_goes_on() {
    let mut scene = Scene::new();
    let genesis = Body {
        transactions: vec![],
        genesis: Some(testing::genesis()),
        claim: None,
    };
    let with_calls = Body {
        genesis: Some(testing::genesis()),
        ..Body::decode(&program(&[Step::Add { k: 1, by: 1 }])).unwrap()
    };
    let malformed = Outcome::Refused {
        index: 0,
        error: HostRefusal::Malformed.to_cbor(),
    };
    let mut last: Option<Forged> = None;
    for bytes in [
        vec![0xff; 100],
        vec![],
        genesis.encode(),
        with_calls.encode(),
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ] {
        for lane in [Lane::App, Lane::System] {
            let next = match &last {
                None => scene.first(1),
                Some(last) => last.next(),
            };
            let forged = next.with(|h| h.lane = lane).body(bytes.clone());
            let id = scene.accepted(&forged);
            let outcomes = scene.store.snapshot().outcomes(&id).unwrap();
            assert_eq!(outcomes, Some(vec![malformed.clone()]));
            last = Some(forged);
        }
    }
    let sound = last.unwrap().next().with(|h| h.lane = Lane::App);
    let sound = sound.body(program(&[Step::Add { k: 1, by: 1 }]));
    let id = scene.accepted(&sound);
    assert!(scene.store.snapshot().outcomes(&id).unwrap().unwrap()[0].is_ok());
}

#[test]
fn what_this_version_does_not_know_floats_without_blame() {
    let mut scene = Scene::new();
    let newer = |n: u8| SignedHeader {
        bytes: vec![2, n, n, n].into(),
        signature: Signature([0; 64]),
    };
    let received = scene.send(vec![
        (newer(1), None),
        (newer(2), Some(vec![1])),
        (newer(1), None),
    ]);
    assert_eq!((received.floating, received.blame.len()), (3, 0));
    assert_eq!(scene.store.floating().len(), 2, "the same bytes float once");
    let critical = scene.first(1).with(|h| h.critical = 1 << 40);
    let encrypted = scene.first(2).with(|h| h.body.key = 7);
    let received = scene.send(vec![
        critical.entry(),
        encrypted.entry(),
        critical.next().entry(),
    ]);
    assert_eq!((received.floating, received.blame.len()), (3, 0));
    for row in scene.store.floating() {
        assert!(
            matches!(row.reason, FloatReason::NotUnderstood(_)) || row.id == critical.next().id(),
            "{row:?}"
        );
    }
    assert_eq!(
        received.missing,
        vec![],
        "asking for it again would not help"
    );
    // At the bound the newest gives way.
    let batch = (0..2 * FLOATING_PER_PEER as u32)
        .map(|n| {
            let mut bytes = vec![3];
            bytes.extend_from_slice(&n.to_be_bytes());
            let signed = SignedHeader {
                bytes: bytes.into(),
                signature: Signature([0; 64]),
            };
            (signed, None)
        })
        .collect();
    let received = scene.send(batch);
    assert_eq!(received.blame, vec![]);
    assert_eq!(scene.store.floating().len(), FLOATING_PER_PEER);
    scene.goes_on();
}

#[test]
fn what_floats_on_a_refused_entry_is_refused_with_it() {
    let mut scene = Scene::new();
    let bad = scene.first(1).with(|h| h.chain_bytes += 1);
    let on_bad = bad.next();
    let on_that = on_bad.next();
    let received = scene.send(vec![on_that.entry(), on_bad.entry()]);
    assert_eq!((received.floating, received.blame.len()), (2, 0));
    assert_eq!(received.missing, vec![bad.id()]);
    let received = scene.send(vec![bad.entry()]);
    assert_eq!(received.blame[0].id, Some(bad.id()));
    assert!(
        scene.store.floating().is_empty(),
        "{:?}",
        scene.store.floating()
    );
    assert_eq!(received.missing, vec![]);
    // A later one on the same ground, too.
    let later = on_that.next();
    let received = scene.send(vec![later.entry()]);
    assert_eq!(received.blame[0].id, Some(later.id()));
    assert_eq!(
        scene
            .send(vec![
                bad.entry(),
                on_bad.entry(),
                on_that.entry(),
                later.entry()
            ])
            .known,
        4
    );
    scene.goes_on();
    // The memory of refused entries is bounded, and forgetting one changes no verdict.
    let batch: Vec<_> = (0..DROPPED_MAX as u64 + 10)
        .map(|n| scene.first(n + 10).with(|h| h.chain_bytes += 1).entry())
        .collect();
    assert_eq!(scene.send(batch).blame.len(), DROPPED_MAX + 10);
    assert_eq!(scene.send(vec![bad.entry()]).blame[0].id, Some(bad.id()));
}

#[test]
fn tens_of_thousands_of_floating_entries_stay_within_their_bounds() {
    let mut scene = Scene::new();
    let floater = |scene: &Scene, n: u64| {
        let mut name = [0xee; 32];
        name[..8].copy_from_slice(&n.to_be_bytes());
        scene.first(n).with(|h| h.deps = vec![IntentionId(name)])
    };
    let mut n = 0u64;
    let mut kept_first = Vec::new();
    // One peer sends 30,000; twenty others 1,000 each.
    for round in 0..50u64 {
        let from = if round < 30 {
            device(9)
        } else {
            device(100 + round as u8)
        };
        let batch: Vec<Entry> = (0..1_000)
            .map(|_| {
                n += 1;
                let forged = floater(&scene, n);
                // Headers alone, so that the count and not the bytes are at their bound.
                (forged.signed(), None)
            })
            .collect();
        if round == 0 {
            kept_first = batch.iter().map(|(s, _)| Header::id_of(&s.bytes)).collect();
        }
        let received = scene.store.receive(from, batch, NOW, [4; 32]).unwrap();
        assert_eq!(received.blame, vec![], "to float is no fault");
        assert_eq!(received.floating + received.no_room, 1_000);
        if round < 30 {
            assert!(scene.store.floating().len() <= FLOATING_PER_PEER);
        }
        assert!(received.missing.len() <= FLOATING_MAX);
    }
    assert_eq!(n, 50_000);
    let rows = scene.store.floating();
    assert_eq!(rows.len(), FLOATING_MAX);
    // The newest gave way: what came first is still there.
    let ids: std::collections::HashSet<_> = rows.iter().map(|r| r.id).collect();
    assert!(kept_first.iter().all(|id| ids.contains(id)));
    // What needs nobody else's entry is not hindered.
    let sound = scene.first(77_777_777);
    scene.accepted(&sound);
    scene.goes_on();
    // Dropping is no verdict: asked for again when there is room, it floats.
    let mut fresh = Scene::new();
    let dropped = floater(&fresh, 1);
    assert_eq!(fresh.send(vec![dropped.entry()]).floating, 1);
}

#[test]
fn floating_bytes_of_one_peer_are_bounded() {
    let mut scene = Scene::new();
    let mut total = 0;
    let mut no_room = 0;
    for n in 0..200u64 {
        let forged = scene
            .first(n)
            .with(|h| h.deps = vec![IntentionId([0xdd; 32])])
            .body(vec![n as u8; 60 * 1024]);
        let received = scene.send(vec![forged.entry()]);
        total += received.floating;
        no_room += received.no_room;
    }
    assert!(total * 60 * 1024 <= FLOATING_BYTES_PER_PEER);
    assert!((total + 2) * 61 * 1024 > FLOATING_BYTES_PER_PEER);
    assert_eq!(total + no_room, 200);
    scene.goes_on();
}

#[test]
fn a_parked_or_floating_entry_is_judged_like_any_other_when_it_wakes() {
    let mut scene = Scene::new();
    // Floats on a first entry, then turns out to have the wrong place in the chain.
    let first = scene.first(1);
    let bad = first.next().with(|h| h.seq = Seq(3));
    let on_bad = bad.next();
    let received = scene.send(vec![on_bad.entry(), bad.entry()]);
    assert_eq!(received.floating, 2);
    let received = scene.send(vec![first.entry()]);
    assert_eq!(received.witnessed, vec![first.id()]);
    assert_eq!(received.blame.len(), 1);
    assert_eq!(received.blame[0].id, Some(bad.id()));
    assert!(scene.store.floating().is_empty());
    scene.goes_on();
}

#[test]
fn a_header_signed_here_is_what_verification_wants() {
    // The forger of these tests makes what the kernel itself makes.
    let scene = Scene::new();
    let forged = scene.first(1);
    let signed = VerifiedHeader::sign(forged.header.clone(), &key(MALLORY)).unwrap();
    assert_eq!(*signed.signed(), forged.signed());
}

//! Hostile peers: what they send is refused, is parked or floats as designed, and they are blamed as designed.
//! Nothing grows without bound, and the store goes on.

use lattice_format::{
    Body, ChainId, DeviceKey, IntentionId, Lane, Seq, Signature, SignedHeader, StoreId, Time,
    VerifiedHeader,
};
use lattice_kernel::limits::HEADS_NAMED_MAX;
use lattice_kernel::{BatchVerifier, FloatReason, HostRefusal, Notice, Outcome};
use lattice_testing::mutants::{self, Mutant};
use lattice_testing::{self as testing, Step, device, key};

use crate::scene::{Forged, MALLORY, NOW, Scene, program};
use crate::world::{START_MS, all, judge, settle, wire};

#[test]
fn a_sound_entry_of_a_member_is_accepted_once() {
    let mut scene = Scene::new();
    let first = scene.first(1);
    let id = scene.accepted(&first);
    let count = scene.store.snapshot().summary().count;
    // The entry comes again: twice in one batch, and without its body.
    let again = scene.send(vec![first.entry(), first.entry(), (first.signed(), None)]);
    assert_eq!((again.known, again.witnessed), (3, vec![]));
    let next = first.next();
    let received = scene.send(vec![next.entry(), next.entry(), first.entry()]);
    assert_eq!(received.witnessed, vec![next.id()]);
    assert_eq!(scene.store.snapshot().summary().count, count + 1);
    assert!(scene.store.snapshot().contains(&id).unwrap());
    judge(&scene.store).unwrap();
}

/// Holds: invariant 2.
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
        // The header itself may be sound and come again with the right signature, so its id is not refused.
        assert_eq!(received.blame[0].id, None);
    }
    let mut forged = scene.first(1);
    forged.header.author = device(1);
    assert!(scene.refused(&forged).contains("signature"));
    // A key of small order verifies any signature. No member has such a key.
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
    // The store's own genesis is known.
    let own = wire(&all(&scene.store.snapshot())[0]);
    assert_eq!(scene.send(vec![own]).known, 1);
    // Bytes that are not a header.
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

/// Holds: invariant 3.
#[test]
fn only_who_is_admitted_by_what_it_names_is_admitted() {
    let mut scene = Scene::new();
    // The genesis admits the founder alone, so it is no grant of Mallory's.
    let genesis = scene.genesis;
    let on_genesis = scene.first(1).with(|h| h.grant = Some(genesis));
    assert!(scene.refused(&on_genesis).contains("does not admit"));
    let mut stranger = scene.first(1);
    stranger.header.author = device(6);
    stranger.signer = 6;
    assert!(scene.refused(&stranger).contains("does not admit"));
    // An unknown grant may still arrive, so the entry floats.
    let unknown = scene
        .first(1)
        .with(|h| h.grant = Some(IntentionId([9; 32])));
    let received = scene.send(vec![unknown.entry()]);
    assert_eq!((received.floating, received.blame.len()), (1, 0));
    assert_eq!(received.missing, vec![IntentionId([9; 32])]);
    // An entry of Mallory's may claim to admit somebody. It is a grant for admission to the log, and governance still
    // does not let that device call.
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

/// Holds: invariant 3.
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
    // The times of deps count as well.
    let dep = scene.first(2).with(|h| h.deps = vec![next.id()]);
    assert!(scene.refused(&dep).contains("is not above"));
}

/// Holds: invariant 3.
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
    // Another replica receives the same entries in another order.
    for forged in [&again, &first, &right, &left, &on_left] {
        let received = replica
            .receive(device(9), vec![forged.entry()], NOW, BatchVerifier([1; 32]))
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
    // The bytes of the body do not match the header. The sender is blamed, and the header waits for the right body.
    let first = scene.first(2);
    let received = scene.send(vec![(first.signed(), Some(b"other bytes".to_vec()))]);
    assert_eq!(received.blame[0].id, Some(first.id()));
    assert_eq!((received.floating, received.witnessed.len()), (1, 0));
    assert_eq!(received.bodies_missing, vec![first.id()]);
    assert_eq!(scene.store.floating()[0].reason, FloatReason::BodyMissing);
    // Entries that name the header wait as well, and their sender is not blamed.
    let next = first.next();
    let received = scene.send(vec![next.entry()]);
    assert_eq!((received.floating, received.blame.len()), (1, 0));
    scene.goes_on();
    // The entries are witnessed as soon as another peer sends the body.
    let from = device(10);
    let received = scene
        .store
        .receive(from, vec![first.entry()], NOW, BatchVerifier([2; 32]))
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
fn a_header_signed_here_is_what_verification_wants() {
    // The forger of these tests signs as the kernel does, so sound forgeries are refused for no other reason.
    let scene = Scene::new();
    let forged = scene.first(1);
    let signed = VerifiedHeader::sign(forged.header.clone(), &key(MALLORY)).unwrap();
    assert_eq!(*signed.signed(), forged.signed());
}

/// Whether a revocation that keeps what was seen keeps everything that its node has applied, of a member that has
/// written so many chains.
fn keeps_what_was_applied(chains: u64) -> bool {
    let mut scene = Scene::new();
    let entries: Vec<_> = (0..chains).map(|chain| scene.first(100 + chain)).collect();
    for batch in entries.chunks(64) {
        let received = scene.send(batch.iter().map(Forged::entry).collect());
        assert_eq!(received.witnessed.len(), batch.len(), "{received:?}");
    }
    assert!(scene.store.snapshot().summary().heads.len() as u64 >= chains);
    let late = scene.first(1);
    let revoke = testing::revoke_unseen(device(MALLORY));
    let told = scene
        .store
        .call(Lane::System, vec![revoke], NOW, ChainId(1));
    assert!(told.unwrap().outcome.is_ok());
    scene.store.commit(NOW).unwrap();
    settle(&mut scene.store);
    // One place of a header stays free.
    let entries_here = all(&scene.store.snapshot()).into_iter();
    let named = entries_here
        .filter(|entry| entry.header.author != device(MALLORY))
        .map(|entry| entry.header.deps.len());
    let most = named.max().unwrap();
    assert_eq!(most, HEADS_NAMED_MAX.min(chains as usize));
    let mut replica = scene.replica();
    for store in [&mut scene.store, &mut replica] {
        let received = store.receive(device(9), vec![late.entry()], NOW, BatchVerifier([5; 32]));
        assert_eq!(received.unwrap().witnessed, vec![late.id()]);
        settle(store);
        judge(store).unwrap();
        assert!(store.snapshot().is_void(&late.id()).unwrap());
    }
    let snapshot = replica.snapshot();
    let kept = entries
        .iter()
        .filter(|entry| !snapshot.is_void(&entry.id()).unwrap());
    kept.count() == entries.len()
}

/// Holds: invariant 12.
#[test]
fn a_revocation_keeps_all_that_its_node_has_applied_however_many_heads_there_are() {
    const NAMED: u64 = HEADS_NAMED_MAX as u64;
    for chains in [NAMED - 1, NAMED, NAMED + 1, 17, 300] {
        assert!(keeps_what_was_applied(chains), "{chains} chains");
    }
    assert!(!mutants::with(Mutant::HeadsNotGathered, || {
        keeps_what_was_applied(40)
    }));
}

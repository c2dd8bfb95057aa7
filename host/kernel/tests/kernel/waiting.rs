//! Entries that wait: floating and parked entries are bounded, and are judged when their wait is over.

use std::collections::{BTreeMap, BTreeSet};

use lattice_format::{DeviceKey, Header, IntentionId, Seq, Signature, SignedHeader, Time};
use lattice_kernel::limits::{
    DROPPED_MAX, FLOATING_BYTES_MAX, FLOATING_BYTES_PER_PEER, FLOATING_MAX, FLOATING_PER_PEER,
    PARKED_BYTES_MAX, PARKED_BYTES_PER_PEER, PARKED_MAX, PARKED_PER_PEER,
};
use lattice_kernel::{BatchVerifier, FloatReason};
use lattice_testing::device;

use crate::scene::{DRIFT_MS, Entry, Forged, NOW, Scene};
use crate::world::{judge, settle};

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
    // The parked entry is not admitted before its time.
    assert_eq!(scene.store.tick(NOW + 499).unwrap().witnessed, vec![]);
    let received = scene.store.tick(NOW + 500).unwrap();
    // The floating entry lies one counter later, so it is witnessed with the entry that it names.
    assert_eq!(received.witnessed, vec![first.id(), next.id()]);
    settle(&mut scene.store);
    assert!(scene.store.parked().is_empty() && scene.store.floating().is_empty());
    judge(&scene.store).unwrap();
    // An entry at the end of time is parked for ever, and calls go on.
    let last = scene.first(3).with(|h| {
        h.time = Time {
            wall_ms: u64::MAX,
            counter: u32::MAX,
        };
    });
    assert_eq!(scene.send(vec![last.entry()]).parked, 1);
    scene.goes_on();
}

/// Holds: invariant 10.
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
    // An earlier entry takes the room of the latest one.
    let early = at(&scene, 9_999, 0).with(|h| h.time.wall_ms -= 5_000);
    assert_eq!(scene.send(vec![early.entry()]).parked, 1);
    let parked = scene.store.parked();
    assert_eq!(parked.len(), PARKED_PER_PEER);
    assert_eq!(parked[0].id, early.id());
    // Another peer has room of its own, and all peers together have a bound.
    for peer in 0..20u8 {
        let batch = (0..300u64)
            .map(|n| at(&scene, 10_000 + u64::from(peer) * 1_000 + n, n).entry())
            .collect();
        let from = device(100 + peer);
        let received = scene
            .store
            .receive(from, batch, NOW, BatchVerifier([1; 32]))
            .unwrap();
        assert!(received.parked <= PARKED_PER_PEER);
        assert!(scene.store.parked().len() <= PARKED_MAX);
    }
    assert_eq!(scene.store.parked().len(), PARKED_MAX);
    scene.goes_on();
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
    // At the bound the newest entry gives way.
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

/// Holds: invariant 2.
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
    // A later entry that names a refused one is refused too.
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
    // The number of remembered refusals is bounded. An entry whose refusal was forgotten is refused again.
    let batch: Vec<_> = (0..DROPPED_MAX as u64 + 10)
        .map(|n| scene.first(n + 10).with(|h| h.chain_bytes += 1).entry())
        .collect();
    assert_eq!(scene.send(batch).blame.len(), DROPPED_MAX + 10);
    assert_eq!(scene.send(vec![bad.entry()]).blame[0].id, Some(bad.id()));
}

/// Holds: invariant 9.
#[test]
fn tens_of_thousands_of_floating_entries_stay_within_their_bounds() {
    let mut scene = Scene::new();
    let floater = |scene: &Scene, n: u64| {
        let mut name = [0xee; 32];
        name[..8].copy_from_slice(&n.to_be_bytes());
        scene.first(n).with(|h| h.deps = vec![IntentionId(name)])
    };
    let mut n = 0u64;
    let mut sent: BTreeMap<DeviceKey, Vec<IntentionId>> = BTreeMap::new();
    // One peer sends 30,000 entries, and twenty others 1,000 each.
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
                // The bodies stay out, so that the number reaches its bound before the bytes do.
                (forged.signed(), None)
            })
            .collect();
        let ids = batch.iter().map(|(s, _)| Header::id_of(&s.bytes));
        sent.entry(from).or_default().extend(ids);
        let received = scene
            .store
            .receive(from, batch, NOW, BatchVerifier([4; 32]))
            .unwrap();
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
    // The newest entries of whoever held most gave way, so of each peer as many are there, those that came first.
    let share = FLOATING_MAX / sent.len();
    for (peer, ids) in &sent {
        let kept = rows.iter().filter(|r| r.from == *peer);
        let kept: BTreeSet<_> = kept.map(|r| r.id).collect();
        assert!((share..=share + 1).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept, ids[..kept.len()].iter().copied().collect());
    }
    // An entry whose ancestors are here is not hindered.
    let sound = scene.first(77_777_777);
    scene.accepted(&sound);
    scene.goes_on();
    // An entry that found no room is not refused. It floats when it comes while there is room.
    let mut fresh = Scene::new();
    let dropped = floater(&fresh, 1);
    assert_eq!(fresh.send(vec![dropped.entry()]).floating, 1);
}

/// Holds: invariant 10.
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

/// How large the entries of one flood are, bodies included, and how many of them come from each peer.
const FLOOD_BODY_BYTES: usize = 60 * 1024;
const FLOOD_ENTRIES: u64 = 200;

/// Sends floods from `peers`, then few entries from an honest one, and checks that these are all kept, that everything
/// stays within `peer_max` and `all_max` bytes, and that what was dropped is no fault and comes in later.
fn floods_give_way(
    peers: u8,
    (peer_max, all_max): (usize, usize),
    forge: impl Fn(&Scene, u64) -> Forged,
    waiting: impl Fn(&Scene) -> Vec<(IntentionId, DeviceKey)>,
) {
    let mut scene = Scene::new();
    let size = |entry: &Entry| entry.0.bytes.len() + entry.1.as_ref().map_or(0, Vec::len);
    let mut sizes = BTreeMap::new();
    let mut send = |scene: &mut Scene, from: DeviceKey, entries: Vec<Entry>| {
        for entry in &entries {
            sizes.insert(Header::id_of(&entry.0.bytes), size(entry));
        }
        let verifier = BatchVerifier([3; 32]);
        let received = scene.store.receive(from, entries, NOW, verifier).unwrap();
        assert_eq!(received.blame, vec![], "to wait is no fault");
        let kept = waiting(scene);
        let held = |kept: &[&(IntentionId, DeviceKey)]| -> usize {
            kept.iter().map(|(id, _)| sizes[id]).sum()
        };
        let all = held(&kept.iter().collect::<Vec<_>>());
        assert!(all <= all_max, "{all} bytes wait");
        let own: Vec<_> = kept.iter().filter(|(_, peer)| *peer == from).collect();
        assert!(held(&own) <= peer_max, "{} bytes of one peer", held(&own));
        (received, all)
    };
    let made = |scene: &Scene, first: u64, count: u64| -> Vec<_> {
        (first..first + count).map(|n| forge(scene, n)).collect()
    };
    let mut all = 0;
    for peer in 0..peers {
        let flood = made(&scene, 1_000 * u64::from(peer), FLOOD_ENTRIES);
        let flood = flood.iter().map(Forged::entry).collect();
        let (received, held) = send(&mut scene, device(100 + peer), flood);
        assert!(received.no_room > 0);
        all = held;
    }
    // The room is full but for less than one entry.
    let bound = all_max.min(usize::from(peers) * peer_max);
    let slack = usize::from(peers) * (FLOOD_BODY_BYTES + 1024);
    assert!(all + slack > bound, "{all} of {bound}");
    let honest = made(&scene, 90_000, 20);
    for entry in &honest {
        let (received, _) = send(&mut scene, device(50), vec![entry.entry()]);
        assert_eq!(received.no_room, 0, "an honest member finds room");
    }
    // A flood that comes afterwards takes nothing of it.
    let flood = made(&scene, 95_000, FLOOD_ENTRIES);
    let flood = flood.iter().map(Forged::entry).collect();
    send(&mut scene, device(100), flood);
    let kept: BTreeSet<_> = waiting(&scene).into_iter().map(|(id, _)| id).collect();
    assert!(honest.iter().all(|entry| kept.contains(&entry.id())));
    // What gave way is taken when it comes again and there is room.
    let mut fresh = Scene::new();
    let late = forge(&fresh, 199);
    let received = fresh.send(vec![late.entry()]);
    assert_eq!(received.floating + received.parked, 1);
    scene.goes_on();
}

/// Holds: invariant 10.
#[test]
fn bytes_of_floating_entries_are_bounded_and_a_flood_displaces_no_honest_member() {
    let forge = |scene: &Scene, n: u64| {
        scene
            .first(n)
            .with(|h| h.deps = vec![IntentionId([0xdd; 32])])
            .body(vec![n as u8; FLOOD_BODY_BYTES])
    };
    let waiting = |scene: &Scene| {
        let rows = scene.store.floating().into_iter();
        rows.map(|row| (row.id, row.from)).collect()
    };
    for peers in [1, 4, 7] {
        let bounds = (FLOATING_BYTES_PER_PEER, FLOATING_BYTES_MAX);
        floods_give_way(peers, bounds, forge, waiting);
    }
}

/// Holds: invariant 10.
#[test]
fn bytes_of_parked_entries_are_bounded_and_a_flood_displaces_no_honest_member() {
    let forge = |scene: &Scene, n: u64| {
        // The honest entries lie later than the flood, which gives way all the same.
        let later = n % 90_000;
        let ahead = scene.first(n).with(|h| {
            h.time.wall_ms = NOW + DRIFT_MS + 10_000 + u64::from(n >= 90_000) * 60_000 + later;
        });
        ahead.body(vec![n as u8; FLOOD_BODY_BYTES])
    };
    let waiting = |scene: &Scene| {
        let rows = scene.store.parked().into_iter();
        rows.map(|row| (row.id, row.from)).collect()
    };
    for peers in [1, 4, 7] {
        let bounds = (PARKED_BYTES_PER_PEER, PARKED_BYTES_MAX);
        floods_give_way(peers, bounds, forge, waiting);
    }
}

/// Holds: invariant 2.
#[test]
fn a_parked_or_floating_entry_is_judged_like_any_other_when_it_wakes() {
    let mut scene = Scene::new();
    // The entry floats on a first one, and turns out to have the wrong seq when that one arrives.
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

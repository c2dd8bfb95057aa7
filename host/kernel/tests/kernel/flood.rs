//! Floods: what a member sends that has no effect takes little room, whatever makes it void, and comes in later if it
//! counts after all.

use std::collections::HashMap;

use lattice_format::{Body, Call, ChainId, DeviceKey, IntentionId, Lane, Transaction};
use lattice_kernel::limits::{VOID_BYTES_PER_AUTHOR, VOID_ENTRIES_PER_AUTHOR};
use lattice_kernel::run::engine::Role;
use lattice_kernel::{BatchVerifier, Received, Store};
use lattice_testing::mutants::{self, Mutant};
use lattice_testing::{self as testing, GOVERNANCE_COMMANDS, READER_QUOTA, Step, device};

use crate::scene::{Entry, Forged, MALLORY, NOW, Scene, program};
use crate::world::{adopt, all, deliver, judge, settle, wire};

/// What a flooding member may write in the scenes whose quota is set.
const QUOTA: u64 = 20_000;
/// How many entries come at once.
const BATCH: usize = 100;

/// Why a flood has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its author is a reader, who calls what readers may not.
    Reader,
    /// Its author may make the calls, and fewer of them.
    OverQuota,
    /// Its author calls governance without the right to.
    Unauthorized,
    Revoked,
    Resigned,
}

const KINDS: [Kind; 5] = [
    Kind::Reader,
    Kind::OverQuota,
    Kind::Unauthorized,
    Kind::Revoked,
    Kind::Resigned,
];

fn govern(store: &mut Store, call: Call) {
    let told = store.call(Lane::System, vec![call], NOW, ChainId(1));
    assert!(told.unwrap().outcome.is_ok());
    store.commit(NOW).unwrap();
    settle(store);
}

/// A body with one call of governance.
fn governing(function: &str, args: Vec<u8>) -> Vec<u8> {
    let call = Call {
        interface: GOVERNANCE_COMMANDS.into(),
        function: function.into(),
        args,
    };
    Body {
        transactions: vec![Transaction {
            calls: vec![call],
            told: None,
        }],
        genesis: None,
        claim: None,
    }
    .encode()
}

impl Kind {
    fn scene(self) -> Scene {
        let mut scene = match self {
            Self::Reader => Scene::of(Role::Reader),
            _ => Scene::new(),
        };
        let store = &mut scene.store;
        match self {
            Self::Reader => {}
            Self::OverQuota | Self::Unauthorized => {
                govern(
                    store,
                    testing::set_quota_of_member(device(MALLORY), Some(QUOTA)),
                );
            }
            Self::Revoked => govern(store, testing::revoke_unseen(device(MALLORY))),
            Self::Resigned => {
                let resignation = scene.first(999_999).with(|h| h.lane = Lane::System);
                scene.accepted(&resignation.body(governing("resign", Vec::new())));
            }
        }
        scene
    }

    /// The first entry of a chain of the flood.
    fn first(self, scene: &Scene, chain: u64) -> Forged {
        let first = scene
            .first(chain)
            .with(|h| h.time.wall_ms = NOW + 1_000 + chain);
        match self {
            Self::Unauthorized => first
                .with(|h| h.lane = Lane::System)
                .body(governing("add-child", vec![7; 300])),
            _ => first.body(program(&[Step::Add { k: 3, by: 1 }; 60])),
        }
    }

    /// The bytes of entries that may count.
    fn quota(self) -> u64 {
        match self {
            Self::Reader | Self::Resigned => READER_QUOTA,
            Self::OverQuota | Self::Unauthorized => QUOTA,
            Self::Revoked => 0,
        }
    }

    /// A flood of `count` entries, in one chain or a chain for each.
    fn flood(self, scene: &Scene, count: usize, is_one_chain: bool) -> Vec<Entry> {
        let mut entry = self.first(scene, 1);
        let mut out = Vec::with_capacity(count);
        for chain in 2..count as u64 + 2 {
            out.push(entry.entry());
            entry = match is_one_chain {
                true => entry.next(),
                false => self.first(scene, chain),
            };
        }
        out
    }
}

fn send(scene: &mut Scene, entries: &[Entry]) -> Vec<Received> {
    entries
        .chunks(BATCH)
        .map(|batch| scene.send(batch.to_vec()))
        .collect()
}

/// What is kept of the forger: the bytes of entries that count, and the number of void ones with the bytes of their
/// bodies.
fn kept(store: &Store) -> (u64, u64, u64) {
    let snapshot = store.snapshot();
    let mut sums = (0, 0, 0);
    for entry in all(&snapshot) {
        let header = &entry.header;
        if header.author != device(MALLORY) {
            continue;
        }
        if snapshot.is_void(&header.id()).unwrap() {
            sums.1 += 1;
            sums.2 += u64::from(header.body.len);
        } else {
            sums.0 += header.signed().bytes.len() as u64 + u64::from(header.body.len);
        }
    }
    sums
}

fn is_within(kind: Kind, store: &Store) -> bool {
    let (counting, void, void_bytes) = kept(store);
    let entry_bytes_max = 2_048;
    let slack = BATCH as u64;
    counting <= kind.quota()
        && void <= VOID_ENTRIES_PER_AUTHOR + slack
        && void_bytes <= VOID_BYTES_PER_AUTHOR + slack * entry_bytes_max
}

fn takes_little_room(kind: Kind) {
    for (count, is_one_chain) in [
        (10, true),
        (100, true),
        (1_000, true),
        (1_000, false),
        (10_000, true),
    ] {
        let mut scene = kind.scene();
        let flood = kind.flood(&scene, count, is_one_chain);
        let received = send(&mut scene, &flood);
        assert!(
            is_within(kind, &scene.store),
            "{kind:?} {count}: {:?}",
            kept(&scene.store)
        );
        let left_out: usize = received.iter().map(|r| r.left_out.len()).sum();
        let stored: usize = received.iter().map(|r| r.witnessed.len()).sum();
        assert_eq!(
            left_out + stored,
            count,
            "{kind:?}: nothing else becomes of it"
        );
        assert!(
            received
                .iter()
                .all(|r| r.blame.is_empty() && r.floating == 0)
        );
        assert_eq!(left_out > 0, count >= 1_000, "{kind:?} {count}: {left_out}");
        if count <= 100 {
            judge(&scene.store).unwrap();
        }
        // What was left out once is left out again, and others go on.
        let again = send(&mut scene, &flood);
        assert!(again.iter().all(|r| r.witnessed.is_empty()));
        let call = testing::program(&[Step::Add { k: 2, by: 1 }]);
        let told = scene.store.call(Lane::App, vec![call], NOW, ChainId(1));
        assert!(told.unwrap().outcome.is_ok());
        scene.store.commit(NOW).unwrap();
    }
}

/// Holds: invariant 9.
#[test]
fn a_flood_of_a_reader_takes_little_room() {
    takes_little_room(Kind::Reader);
}

/// Holds: invariant 9.
#[test]
fn a_flood_beyond_a_quota_takes_little_room() {
    takes_little_room(Kind::OverQuota);
}

/// Holds: invariant 9.
#[test]
fn a_flood_of_calls_without_right_takes_little_room() {
    takes_little_room(Kind::Unauthorized);
}

/// Holds: invariant 9.
#[test]
fn a_flood_of_a_revoked_member_ends_at_the_door() {
    takes_little_room(Kind::Revoked);
}

/// Holds: invariant 9.
#[test]
fn a_flood_of_a_member_that_has_left_takes_little_room() {
    takes_little_room(Kind::Resigned);
}

/// Holds: invariant 5.
#[test]
fn the_quota_of_a_reader_that_is_not_applied_is_caught() {
    let bounded = || {
        let mut scene = Kind::Unauthorized.scene();
        let flood = Kind::Unauthorized.flood(&scene, 100, true);
        send(&mut scene, &flood);
        is_within(Kind::Unauthorized, &scene.store)
    };
    assert!(bounded());
    assert!(!mutants::with(Mutant::ReaderQuotaIgnored, bounded));
}

/// Holds: invariant 12.
#[test]
fn void_entries_are_not_offered_and_no_honest_entry_names_them() {
    for kind in KINDS {
        let mut scene = kind.scene();
        let flood = kind.flood(&scene, 400, true);
        send(&mut scene, &flood);
        let call = testing::program(&[Step::Add { k: 2, by: 1 }]);
        scene
            .store
            .call(Lane::App, vec![call], NOW, ChainId(1))
            .unwrap();
        let headers = scene.store.commit(NOW).unwrap();
        let snapshot = scene.store.snapshot();
        let void: Vec<IntentionId> = all(&snapshot)
            .iter()
            .map(|entry| entry.header.id())
            .filter(|id| snapshot.is_void(id).unwrap())
            .collect();
        assert!(!void.is_empty(), "{kind:?}");
        for id in &void {
            assert!(snapshot.is_left_out(id).unwrap(), "{kind:?}");
            assert!(headers.iter().all(|h| h.names().all(|name| name != *id)));
        }
    }
}

/// Sends what the store asks for, until it asks for nothing more. Returns how often it asked.
fn answer(scene: &mut Scene, mut missing: Vec<IntentionId>, flood: &[Entry]) -> usize {
    let by_id: HashMap<IntentionId, &Entry> = flood
        .iter()
        .map(|entry| (lattice_format::Header::id_of(&entry.0.bytes), entry))
        .collect();
    let mut asked = 0;
    while !missing.is_empty() {
        asked += 1;
        let wanted = missing.iter().map(|id| by_id[id].clone()).collect();
        missing = scene.send(wanted).missing;
    }
    asked
}

/// Holds: invariant 5.
#[test]
fn what_was_left_out_comes_in_when_an_entry_that_counts_names_it() {
    let mut scene = Scene::new();
    // A writer has seen everything of the flood, and has not heard of the revocation.
    let flood = Kind::Revoked.flood(&scene, 300, true);
    let mut honest = adopt(1, &all(&scene.store.snapshot())[0]);
    deliver(&mut honest, &all(&scene.store.snapshot()));
    for batch in flood.chunks(BATCH) {
        let verifier = BatchVerifier([2; 32]);
        honest
            .receive(device(9), batch.to_vec(), NOW, verifier)
            .unwrap();
        settle(&mut honest);
    }
    let call = testing::program(&[Step::Add { k: 2, by: 1 }]);
    honest.call(Lane::App, vec![call], NOW, ChainId(5)).unwrap();
    let named = honest.commit(NOW).unwrap().remove(0);
    govern(&mut scene.store, testing::revoke_unseen(device(MALLORY)));
    send(&mut scene, &flood);
    assert!(is_within(Kind::Revoked, &scene.store));
    let entries = all(&honest.snapshot());
    let last = wire(entries.last().unwrap());
    let received = scene.send(vec![last]);
    assert_eq!(received.floating, 1);
    let asked = answer(&mut scene, received.missing, &flood);
    assert!(asked > 1);
    let snapshot = scene.store.snapshot();
    assert!(snapshot.contains(&named.id()).unwrap());
    assert!(!snapshot.is_void(&named.id()).unwrap());
    judge(&scene.store).unwrap();
    // Both agree, whatever each has kept.
    deliver(&mut honest, &all(&snapshot));
    settle(&mut honest);
    assert_eq!(
        honest.snapshot().summary().state_root,
        snapshot.summary().state_root
    );
}

/// Holds: invariant 5.
#[test]
fn what_was_left_out_comes_in_when_its_revocation_is_cut_off() {
    let mut scene = Scene::new();
    govern(&mut scene.store, testing::set_role(device(1), Role::Admin));
    let mut admin = adopt(1, &all(&scene.store.snapshot())[0]);
    deliver(&mut admin, &all(&scene.store.snapshot()));
    let call = testing::revoke_unseen(device(MALLORY));
    let told = admin.call(Lane::System, vec![call], NOW, ChainId(5));
    assert!(told.unwrap().outcome.is_ok());
    admin.commit(NOW).unwrap();
    deliver(&mut scene.store, &all(&admin.snapshot()));
    let flood = Kind::Revoked.flood(&scene, 500, true);
    let received = send(&mut scene, &flood);
    let left_out: usize = received.iter().map(|r| r.left_out.len()).sum();
    assert!(left_out > 200, "{left_out}");
    // The founder takes the admin's rights away, from before the revocation on.
    govern(&mut scene.store, testing::revoke(device(1), &[]));
    let received = send(&mut scene, &flood);
    let came: usize = received.iter().map(|r| r.witnessed.len()).sum();
    assert_eq!(came, left_out);
    let snapshot = scene.store.snapshot();
    for (signed, _) in &flood {
        let id = lattice_format::Header::id_of(&signed.bytes);
        assert!(!snapshot.is_void(&id).unwrap());
    }
    judge(&scene.store).unwrap();
}

/// Holds: invariant 5.
#[test]
fn a_chain_goes_on_behind_what_was_left_out_when_its_quota_is_raised() {
    let mut scene = Kind::OverQuota.scene();
    let mut forged = Kind::OverQuota.first(&scene, 1);
    let mut flood = Vec::new();
    for _ in 0..500 {
        flood.push(forged.entry());
        forged = forged.next();
    }
    let received = send(&mut scene, &flood);
    assert!(received.iter().any(|r| !r.left_out.is_empty()));
    let raise = testing::set_quota_of_member(device(MALLORY), Some(QUOTA + 1_000));
    let at = NOW + 40_000;
    let told = scene.store.call(Lane::System, vec![raise], at, ChainId(1));
    assert!(told.unwrap().outcome.is_ok());
    scene.store.commit(at).unwrap();
    // The author has heard of the raise. What it writes next counts, behind entries that are void.
    let next = forged.with(|h| h.time.wall_ms = NOW + 50_000);
    let received = scene.send(vec![next.entry()]);
    assert_eq!(received.floating, 1);
    answer(&mut scene, received.missing, &flood);
    let snapshot = scene.store.snapshot();
    assert!(snapshot.contains(&next.id()).unwrap());
    assert!(!snapshot.is_void(&next.id()).unwrap());
    let (_, void, _) = kept(&scene.store);
    assert!(void > VOID_ENTRIES_PER_AUTHOR, "{void}");
    judge(&scene.store).unwrap();
}

/// Holds: invariant 5.
#[test]
fn what_was_left_out_comes_in_when_the_quota_is_raised() {
    let mut scene = Kind::OverQuota.scene();
    let flood = Kind::OverQuota.flood(&scene, 500, true);
    let received = send(&mut scene, &flood);
    assert!(received.iter().any(|r| !r.left_out.is_empty()));
    // A second quota stands behind the first one, before the flood.
    let mut late = adopt(0, &all(&scene.store.snapshot())[0]);
    let before: Vec<_> = all(&scene.store.snapshot());
    let quota = before
        .iter()
        .position(|e| e.header.author == device(MALLORY));
    deliver(&mut late, &before[..quota.unwrap()]);
    let raise = testing::set_quota_of_member(device(MALLORY), Some(1 << 20));
    let at = NOW + 500;
    let told = late.call(Lane::System, vec![raise], at, ChainId(77));
    assert!(told.unwrap().outcome.is_ok());
    late.commit(at).unwrap();
    deliver(&mut scene.store, &all(&late.snapshot()));
    send(&mut scene, &flood);
    let (_, void, _) = kept(&scene.store);
    assert_eq!(void, 0);
    judge(&scene.store).unwrap();
    let known: Vec<DeviceKey> = all(&scene.store.snapshot())
        .iter()
        .map(|e| e.header.author)
        .filter(|author| *author == device(MALLORY))
        .collect();
    assert_eq!(known.len(), 500);
}

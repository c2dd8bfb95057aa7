//! Quotas: an entry beyond its author's quota is void on every replica alike, and a node does not sign an entry that
//! would be void.

use lattice_format::{ChainId, IntentionId, Lane, VerifiedHeader};
use lattice_kernel::run::engine::Role;
use lattice_kernel::{CallError, Notice, Store};
use lattice_testing::{self as testing, Step, device};

use crate::world::{START_MS, adopt, all, deliver, judge, settle};

const FOUNDER: usize = 0;
const MEMBER: usize = 1;
const ADMIN: usize = 2;

/// A founder, a writer and a second admin in sync.
fn team() -> Vec<Store> {
    let mut founder = testing::found(0, START_MS);
    for (number, role) in [(1, Role::Writer), (2, Role::Admin)] {
        let call = testing::admit(device(number), role);
        founder
            .call(Lane::System, vec![call], START_MS, ChainId(1))
            .unwrap();
        founder.commit(START_MS).unwrap();
    }
    let entries = all(&founder.snapshot());
    let mut stores = vec![founder];
    for number in [1, 2] {
        let mut store = adopt(number, &entries[0]);
        deliver(&mut store, &entries);
        stores.push(store);
    }
    stores
}

fn sync(stores: &mut [Store]) {
    for _ in 0..2 {
        for from in 0..stores.len() {
            let entries = all(&stores[from].snapshot());
            for (to, store) in stores.iter_mut().enumerate() {
                if to != from {
                    deliver(store, &entries);
                }
            }
        }
    }
}

fn put(k: u8) -> lattice_format::Call {
    testing::program(&[Step::Put {
        k,
        dynamic: false,
        value: 1,
    }])
}

/// Logs one call as an entry. Returns the entry's id and how many bytes it counts for.
fn write(
    store: &mut Store,
    lane: Lane,
    call: lattice_format::Call,
    now: u64,
) -> (IntentionId, u64) {
    let told = store.call(lane, vec![call], now, ChainId(9)).unwrap();
    assert!(told.outcome.is_ok(), "{:?}", told.outcome);
    let headers = store.commit(now).unwrap();
    settle(store);
    let header = headers.last().unwrap();
    (header.id(), charge(header))
}

/// How many bytes an entry counts for: of its header and its body.
fn charge(header: &VerifiedHeader) -> u64 {
    header.signed().bytes.len() as u64 + u64::from(header.body.len)
}

fn set_quota(store: &mut Store, bytes: Option<u64>, now: u64) {
    write(store, Lane::System, testing::set_quota(bytes), now);
}

#[track_caller]
fn stand(stores: &[Store], void: &[IntentionId], count: &[IntentionId]) {
    for store in stores {
        judge(store).unwrap();
        let snapshot = store.snapshot();
        for id in void {
            assert!(snapshot.is_void(id).unwrap(), "{id} counts");
            assert_eq!(snapshot.outcomes(id).unwrap(), None);
            // Void by a quota is not cut off, and peers are offered neither.
            assert!(!snapshot.is_cut_off(id).unwrap());
            assert!(snapshot.is_left_out(id).unwrap());
        }
        for id in count {
            assert!(!snapshot.is_void(id).unwrap(), "{id} is void");
            assert!(!snapshot.is_left_out(id).unwrap());
            assert!(snapshot.outcomes(id).unwrap().is_some());
        }
        let digest = stores[0].snapshot().tips_digest().unwrap();
        assert_eq!(snapshot.tips_digest().unwrap(), digest);
    }
}

/// Holds: invariant 12.
#[test]
fn what_stands_above_a_quota_is_void_there_and_nowhere_else() {
    let mut stores = team();
    let now = START_MS + 100;
    let (first, len) = write(&mut stores[MEMBER], Lane::App, put(1), now + 10);
    let (second, next) = write(&mut stores[MEMBER], Lane::App, put(2), now + 20);
    let (third, _) = write(&mut stores[MEMBER], Lane::App, put(3), now + 30);
    // The founder's clock is behind and it has seen none of the entries, so the quota sorts below them.
    set_quota(&mut stores[FOUNDER], Some(len + next), now);
    sync(&mut stores);
    stand(&stores, &[third], &[first, second]);
    let notices = stores[MEMBER].notices().unwrap();
    assert!(
        matches!(&notices[..], [(_, Notice::OutcomeChanged { entry, now: None, .. })] if *entry == third),
        "{notices:?}"
    );

    // A later raise lets later entries through. The void entry does not count for the raised quota.
    set_quota(&mut stores[FOUNDER], Some(3 * len + 100), now + 40);
    sync(&mut stores);
    let (fourth, _) = write(&mut stores[MEMBER], Lane::App, put(4), now + 50);
    sync(&mut stores);
    stand(&stores, &[third], &[first, second, fourth]);
}

/// Holds: invariant 12.
#[test]
fn a_raise_that_arrives_late_is_counted_where_it_stands() {
    let mut stores = team();
    let now = START_MS + 100;
    // The second admin raises the quota. The others have not heard of it.
    set_quota(&mut stores[ADMIN], Some(10_000), now + 5);
    set_quota(&mut stores[FOUNDER], Some(1), now);
    let (first, len) = write(&mut stores[MEMBER], Lane::App, put(1), now + 10);
    let (second, _) = write(&mut stores[MEMBER], Lane::App, put(2), now + 20);
    let genesis = all(&stores[FOUNDER].snapshot())[0].clone();
    // Without the raise both entries are void.
    let mut apart = adopt(7, &genesis);
    for from in [FOUNDER, MEMBER] {
        let entries = all(&stores[from].snapshot());
        deliver(&mut apart, &entries);
    }
    stand(std::slice::from_ref(&apart), &[first, second], &[]);
    let raise = all(&stores[ADMIN].snapshot());
    deliver(&mut apart, &raise);
    stand(std::slice::from_ref(&apart), &[], &[first, second]);
    // A tighter quota, which stands between the two entries, arrives last.
    let mut tight = adopt(2, &genesis);
    deliver(&mut tight, &raise);
    set_quota(&mut tight, Some(len + 8), now + 15);
    let entries = all(&tight.snapshot());
    deliver(&mut apart, &entries);
    stand(std::slice::from_ref(&apart), &[second], &[first]);
    let now = START_MS + 1_000;
    apart.rebuild(now).unwrap();
    settle(&mut apart);
    stand(std::slice::from_ref(&apart), &[second], &[first]);
}

/// Holds: invariant 12.
#[test]
fn a_smaller_entry_fits_where_a_larger_one_did_not() {
    let mut stores = team();
    let now = START_MS + 100;
    let large = testing::program(&[Step::LoadGlobal; 40]);
    let (small, len) = write(&mut stores[MEMBER], Lane::App, put(1), now + 10);
    let (wide, wide_len) = write(&mut stores[MEMBER], Lane::App, large, now + 20);
    let (after, after_len) = write(&mut stores[MEMBER], Lane::App, put(2), now + 30);
    assert!(wide_len > after_len);
    set_quota(&mut stores[FOUNDER], Some(len + after_len), now);
    sync(&mut stores);
    stand(&stores, &[wide], &[small, after]);
}

/// Holds: invariant 12.
#[test]
fn a_call_beyond_the_quota_is_refused_before_anything_is_signed() {
    let mut stores = team();
    let now = START_MS + 100;
    let (_, len) = write(&mut stores[MEMBER], Lane::App, put(1), now);
    set_quota(&mut stores[FOUNDER], Some(2 * len + 100), now + 1);
    sync(&mut stores);
    let store = &mut stores[MEMBER];
    let large = testing::program(&[Step::LoadGlobal; 400]);
    let before = store.snapshot().summary().clone();
    let refused = store
        .call(Lane::App, vec![large.clone()], now + 10, ChainId(9))
        .unwrap_err();
    let CallError::OverQuota {
        len: asked,
        written,
        quota,
        ..
    } = refused
    else {
        panic!("not a matter of the quota: {refused}");
    };
    assert_eq!((written, quota), (len, 2 * len + 100));
    assert!(asked > len + 100);
    for number in [asked, written, quota] {
        assert!(
            refused.to_string().contains(&number.to_string()),
            "{refused}"
        );
    }
    assert_eq!(store.commit(now + 10).unwrap(), vec![]);
    assert_eq!(*store.snapshot().summary(), before);
    // The refused call does not count for the quota, so a smaller call still fits, and a refusal behind it does not
    // undo it.
    let told = store
        .call(Lane::App, vec![put(2)], now + 11, ChainId(9))
        .unwrap();
    assert!(told.outcome.is_ok());
    assert!(
        store
            .call(Lane::App, vec![large], now + 11, ChainId(9))
            .is_err()
    );
    assert_eq!(store.commit(now + 11).unwrap().len(), 1);
    assert!(
        store
            .call(Lane::App, vec![put(3)], now + 12, ChainId(9))
            .is_err(),
        "the quota is spent"
    );
    store.commit(now + 12).unwrap();
    sync(&mut stores);
    let all: Vec<_> = all(&stores[MEMBER].snapshot())
        .iter()
        .map(|entry| entry.header.id())
        .collect();
    stand(&stores, &[], &all);
}

/// Holds: invariant 12.
#[test]
fn governance_is_never_over_quota() {
    let mut stores = team();
    let now = START_MS + 100;
    set_quota(&mut stores[FOUNDER], Some(1), now);
    assert!(matches!(
        stores[FOUNDER].call(Lane::App, vec![put(1)], now + 1, ChainId(1)),
        Err(CallError::OverQuota { quota: 1, .. })
    ));
    set_quota(&mut stores[FOUNDER], None, now + 2);
    let (written, _) = write(&mut stores[FOUNDER], Lane::App, put(1), now + 3);
    sync(&mut stores);
    stand(&stores, &[], &[written]);
}

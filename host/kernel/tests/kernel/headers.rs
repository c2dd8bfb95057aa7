//! Headers that are witnessed without their bodies: those of void entries, by this node's own judgement,
//! and no others.

use std::sync::Arc;

use lattice_format::{ChainId, IntentionId, Lane};
use lattice_kernel::engine::{HostFault, Role};
use lattice_kernel::limits::{
    BODIES_ASKED_MAX, FLOATING_PER_PEER, HEADERS_ROUNDS_MAX, HEADERS_RUNS_MAX, HEADERS_TRIED_MAX,
};
use lattice_kernel::testing::disk::{Dice, Disk, Power, SURVIVALS, files, repaired};
use lattice_kernel::testing::{self, ModelEngine, device, key};
use lattice_kernel::{FloatReason, Store, Stored};

use crate::revocation::{FOUNDER, MEMBER, ROGUE, Team, put, shuffled};
use crate::world::{START_MS, adopt, all, deliver, deliver_from, judge, settle, wire};

/// The entries as a node gives them that has not got these bodies.
pub fn without(entries: &[Stored], bodies: &[IntentionId]) -> Vec<Stored> {
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        if bodies.contains(&entry.header.id()) {
            entry.body = None;
        }
    }
    entries
}

pub fn assert_equal(one: &Store, other: &Store) {
    let (one, other) = (one.snapshot(), other.snapshot());
    assert_eq!(one.summary().count, other.summary().count);
    assert_eq!(one.summary().state_root, other.summary().state_root);
    assert_eq!(one.summary().outcome_root, other.summary().outcome_root);
    assert_eq!(one.tips_digest().unwrap(), other.tips_digest().unwrap());
}

#[test]
fn a_void_entry_that_a_counting_one_names_needs_no_body() {
    let mut team = Team::new();
    let (first, _) = team.app(ROGUE, &put(1));
    let (second, _) = team.app(ROGUE, &put(2));
    team.send(ROGUE, MEMBER);
    // It names what is void later, and counts.
    let (relied, _) = team.app(MEMBER, &put(3));
    team.send(MEMBER, FOUNDER);
    let revocation = team.govern(testing::revoke(device(ROGUE), &[]));
    team.sync();
    let entries = all(&team.stores[0].snapshot());
    let named = |id: &IntentionId| entries.iter().any(|e| e.header.names().any(|n| n == *id));
    assert!(named(&second) && named(&relied));
    // Nobody has the bodies any more, and things arrive in any order.
    let bare = without(&entries, &[first, second]);
    for seed in 0..12 {
        let mut fresh = adopt(20, &bare[0]);
        for batch in shuffled(&bare[1..], seed).chunks(1 + seed as usize % 4) {
            deliver(&mut fresh, batch);
        }
        assert_eq!(fresh.floating().len(), 0, "seed {seed}");
        assert_equal(&fresh, &team.stores[0]);
        judge(&fresh).unwrap();
        let snapshot = fresh.snapshot();
        assert!(snapshot.is_void(&first).unwrap() && !snapshot.is_void(&revocation).unwrap());
        assert_eq!(snapshot.lacks(10).unwrap(), vec![]);
        // It stays so when the state is made anew.
        fresh.rebuild(START_MS).unwrap();
        settle(&mut fresh);
        assert_equal(&fresh, &team.stores[0]);
    }
}

#[test]
fn an_entry_that_counts_waits_for_its_body_whatever_peers_leave_out() {
    let mut team = Team::new();
    let (kept, _) = team.app(ROGUE, &put(1));
    let (void, _) = team.app(ROGUE, &put(2));
    team.send(ROGUE, MEMBER);
    let (relied, _) = team.app(MEMBER, &put(3));
    team.send(MEMBER, FOUNDER);
    team.govern(testing::revoke(device(ROGUE), &[kept]));
    team.sync();
    let entries = all(&team.stores[0].snapshot());
    for left_out in [vec![kept], vec![relied], vec![kept, void, relied]] {
        let mut fresh = adopt(20, &entries[0]);
        deliver(&mut fresh, &without(&entries[1..], &left_out));
        let waiting = fresh.floating();
        for id in left_out.iter().filter(|id| **id != void) {
            let row = waiting.iter().find(|row| row.id == *id);
            assert!(row.is_some(), "{id} was witnessed without its body");
            assert!(fresh.snapshot().entry(id).unwrap().is_none());
        }
        let bodies = waiting
            .iter()
            .filter(|row| row.reason == FloatReason::BodyMissing);
        assert!(bodies.count() > 0);
        deliver(&mut fresh, &entries[1..]);
        assert_equal(&fresh, &team.stores[0]);
    }
}

#[test]
fn the_body_of_an_entry_that_comes_to_count_is_due() {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    let (own, _) = team.app(MEMBER, &put(9));
    let (entry, _) = team.app(ROGUE, &put(1));
    team.sync();
    // An admin cuts it off, and is cut off itself later.
    let (first, _) = team.call(MEMBER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.sync();
    let before = all(&team.stores[0].snapshot());
    let mut fresh = adopt(20, &before[0]);
    deliver(&mut fresh, &without(&before[1..], &[entry]));
    assert!(fresh.snapshot().is_void(&entry).unwrap());
    assert_equal(&fresh, &team.stores[0]);

    let second = team.govern(testing::revoke(device(MEMBER), &[own]));
    team.sync();
    let after = all(&team.stores[0].snapshot());
    let revocation: Vec<_> = after.iter().filter(|e| e.header.id() == second).collect();
    let give = |fresh: &mut Store, entries: &[&Stored]| {
        let batch = entries.iter().map(|entry| wire(entry)).collect();
        let received = fresh.receive(device(7), batch, START_MS + 1_000, [7; 32]);
        assert_eq!(received.unwrap().blame, vec![]);
        fresh.settle(1_000).unwrap()
    };
    let settled = give(&mut fresh, &revocation);
    assert!(fresh.snapshot().is_void(&first).unwrap());
    assert_eq!(settled.app_paused, Some(HostFault::MissingBody(entry)));
    assert_eq!(
        fresh.snapshot().lacks(10).unwrap(),
        vec![(entry, Lane::App)]
    );
    // What is asked for comes, and the lane goes on; a body that is not its own is refused.
    let mut wrong = wire(after.iter().find(|e| e.header.id() == entry).unwrap());
    wrong.1 = Some(b"another".to_vec());
    let received = fresh.receive(device(7), vec![wrong], START_MS + 1_000, [7; 32]);
    assert_eq!(received.unwrap().blame.len(), 1);
    let late: Vec<_> = after.iter().filter(|e| e.header.id() == entry).collect();
    let settled = give(&mut fresh, &late);
    assert_eq!((settled.app_paused, settled.pending), (None, 0));
    assert_eq!(fresh.snapshot().lacks(10).unwrap(), vec![]);
    assert_equal(&fresh, &team.stores[0]);
    judge(&fresh).unwrap();
}

#[test]
fn headers_are_looked_at_up_to_the_bound_and_bodies_asked_for_up_to_theirs() {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    let (own, _) = team.app(MEMBER, &put(9));
    team.sync();
    let base = all(&team.stores[0].snapshot()).len();
    // With the revocation as many as are looked at together.
    let ids: Vec<_> = (1..HEADERS_TRIED_MAX)
        .map(|_| team.app(ROGUE, &put(1)).0)
        .collect();
    team.send(ROGUE, MEMBER);
    team.call(MEMBER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.send(MEMBER, FOUNDER);
    let second = team.govern(testing::revoke(device(MEMBER), &[own]));
    let entries = all(&team.stores[0].snapshot());
    let bare = without(&entries, &ids);
    let mut fresh = adopt(20, &bare[0]);
    deliver(&mut fresh, &bare[1..base]);
    // Everything but the last word, from as many peers as it takes to let all of it float.
    for (peer, part) in bare[base..bare.len() - 1]
        .chunks(FLOATING_PER_PEER)
        .enumerate()
    {
        deliver_from(&mut fresh, device(30 + peer as u8), part);
    }
    settle(&mut fresh);
    assert_eq!(fresh.floating().len(), 0);
    assert_eq!(fresh.snapshot().summary().count as usize, bare.len() - 1);
    // Now all of them count, and their bodies are asked for some at a time.
    assert_eq!(bare[bare.len() - 1].header.id(), second);
    let last = vec![wire(&bare[bare.len() - 1])];
    fresh
        .receive(device(7), last, START_MS + 1_000, [7; 32])
        .unwrap();
    fresh.settle(1_000_000).unwrap();
    let asked = fresh.snapshot().lacks(BODIES_ASKED_MAX).unwrap();
    assert_eq!(asked.len(), BODIES_ASKED_MAX);
    assert_eq!(fresh.snapshot().lacks(usize::MAX).unwrap().len(), ids.len());
}

/// Whether a void entry's header is witnessed alone while so many others float, of which each is void only
/// as long as the one before is.
fn is_witnessed_beside(chain: u8) -> bool {
    const ADMINS: u8 = 40;
    const ROGUES: u8 = 80;
    let mut founder = testing::found(FOUNDER, START_MS);
    let mut now = START_MS;
    let mut admitted = Vec::new();
    let numbers = 0..chain + 2;
    let admins = numbers.clone().map(|n| (ADMINS + n, Role::Admin));
    let rogues = numbers.map(|n| (ROGUES + n, Role::Writer));
    for (number, role) in admins.chain(rogues) {
        now += 1;
        let call = testing::admit(device(number), role);
        founder
            .call(Lane::System, vec![call], now, ChainId(1))
            .unwrap();
        founder.commit(now).unwrap();
        admitted.push(number);
    }
    let base = all(&founder.snapshot());
    let write = |number: u8, more: &[Stored], now: u64, lane, call| -> Stored {
        let mut store = adopt(number, &base[0]);
        deliver(&mut store, &base[1..]);
        deliver(&mut store, more);
        store
            .call(lane, vec![call], now, ChainId(u64::from(number)))
            .unwrap();
        let id = store.commit(now).unwrap()[0].id();
        store.snapshot().entry(&id).unwrap().unwrap()
    };
    let entry = |n: u8| {
        write(
            ROGUES + n,
            &[],
            START_MS + 300,
            Lane::App,
            testing::program(&put(1)),
        )
    };
    let entries: Vec<Stored> = (0..chain + 2).map(entry).collect();
    let mut arriving = Vec::new();
    for n in 1..=chain {
        // It names the entry before, and cuts this one off.
        let before = &entries[usize::from(n) - 1..usize::from(n)];
        let call = testing::revoke(device(ROGUES + n), &[]);
        arriving.push(write(
            ADMINS + n,
            before,
            START_MS + 400,
            Lane::System,
            call,
        ));
    }
    let last = chain + 1;
    let call = testing::revoke(device(ROGUES + last), &[]);
    arriving.push(write(
        ADMINS + last,
        &[],
        START_MS + 400,
        Lane::System,
        call,
    ));
    let ids: Vec<_> = entries.iter().map(|entry| entry.header.id()).collect();
    let mut fresh = adopt(20, &base[0]);
    deliver(&mut fresh, &base[1..]);
    deliver(&mut fresh, &without(&entries, &ids));
    deliver(&mut fresh, &arriving);
    let snapshot = fresh.snapshot();
    // The first one counts, so none of the chain may be witnessed.
    for id in &ids[..usize::from(last)] {
        assert!(snapshot.entry(id).unwrap().is_none());
    }
    snapshot.entry(&ids[usize::from(last)]).unwrap().is_some()
}

#[test]
fn a_look_leaves_out_what_counts_so_many_times_and_gives_up() {
    let rounds = HEADERS_ROUNDS_MAX as u8;
    assert!(is_witnessed_beside(rounds - 2));
    assert!(!is_witnessed_beside(rounds - 1));
}

#[test]
fn a_late_body_is_there_after_a_crash_once_it_was_taken() {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    let (own, _) = team.app(MEMBER, &put(9));
    let (entry, _) = team.app(ROGUE, &put(1));
    team.sync();
    team.call(MEMBER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.sync();
    team.govern(testing::revoke(device(MEMBER), &[own]));
    team.sync();
    let entries = all(&team.stores[0].snapshot());
    let late = entries.iter().find(|e| e.header.id() == entry).unwrap();
    let mut acknowledged = 0;
    for operations in 0.. {
        let power = Power::steady();
        let (log, state) = (Disk::new(&power), Disk::new(&power));
        let (signed, body) = wire(&entries[0]);
        let genesis = (signed, body.unwrap());
        let engine = Arc::new(ModelEngine);
        let on_disks = files(&log, &state).unwrap();
        let mut store = Store::adopt(on_disks, engine, key(20), genesis, START_MS).unwrap();
        // The last entry makes the one without a body count.
        let (last, before) = entries[1..].split_last().unwrap();
        deliver(&mut store, &without(before, &[entry]));
        let last = vec![wire(last)];
        store
            .receive(device(7), last, START_MS + 1_000, [7; 32])
            .unwrap();
        store.settle(1_000).unwrap();
        store.tick(START_MS + 3_000).unwrap();
        assert_eq!(store.snapshot().lacks(10).unwrap().len(), 1);
        power.fail_after(operations);
        let taken = store.receive(device(7), vec![wire(late)], START_MS + 3_000, [7; 32]);
        let flushed =
            taken.is_ok() && store.settle(1_000).is_ok() && store.tick(START_MS + 6_000).is_ok();
        acknowledged += usize::from(taken.is_ok());
        drop(store);
        for (seed, survives) in (0..).zip(SURVIVALS) {
            let mut dice = Dice(operations * 8 + seed);
            let images = [&log, &state].map(|disk| disk.after_crash(survives, &mut dice));
            let power = Power::steady();
            let [log, state] = images.map(|image| Disk::with_image(image, &power));
            let (files, _) = repaired(&log, &state, &power).unwrap();
            let engine = Arc::new(ModelEngine);
            let mut found = Store::open(files, engine, key(20), START_MS + 7_000).unwrap();
            if taken.is_err() {
                deliver(&mut found, std::slice::from_ref(late));
            }
            settle(&mut found);
            assert_eq!(found.snapshot().lacks(10).unwrap(), vec![]);
            assert_equal(&found, &team.stores[0]);
            judge(&found).unwrap();
        }
        if flushed {
            assert!(acknowledged > 1, "no crash came between the two commits");
            return;
        }
    }
}

/// Whether a void entry's header is witnessed alone where so many runs of governance are repeated to see it.
fn is_witnessed_after(repeated: u64) -> bool {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    let base = all(&team.stores[0].snapshot());
    team.sync();
    let (void, _) = team.app(ROGUE, &put(1));
    team.send(ROGUE, FOUNDER);
    // Both name the void entry. The second changes what every call of the member has read.
    team.govern(testing::revoke(device(ROGUE), &[]));
    team.govern(testing::admit(device(MEMBER), Role::Writer));
    let late = all(&team.stores[0].snapshot()).split_off(base.len());
    let member = &mut team.stores[usize::from(MEMBER)];
    for n in 0..repeated {
        let call = testing::admit(device((n % 100) as u8 + 100), Role::Reader);
        let chain = ChainId(30);
        member
            .call(Lane::System, vec![call], START_MS + 500, chain)
            .unwrap();
    }
    member.commit(START_MS + 500).unwrap();
    let calls = all(&member.snapshot()).split_off(base.len());
    assert_eq!(calls.len() as u64, repeated);
    let mut fresh = adopt(20, &base[0]);
    deliver(&mut fresh, &base[1..]);
    for batch in calls.chunks(1000) {
        deliver(&mut fresh, batch);
    }
    deliver(&mut fresh, &without(&late, &[void]));
    fresh.snapshot().entry(&void).unwrap().is_some()
}

#[test]
fn a_look_runs_governance_up_to_the_bound_and_gives_up() {
    // The two entries that are looked at run as well.
    assert!(is_witnessed_after(HEADERS_RUNS_MAX - 2));
    assert!(!is_witnessed_after(HEADERS_RUNS_MAX - 1));
}

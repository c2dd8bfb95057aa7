//! `context.observed`: which calls an author had seen when it wrote. The answer does not depend on what else a
//! replica has received.

use lattice_format::{CallId, IntentionId, Lane};
use lattice_kernel::Outcome;
use lattice_kernel::run::engine::Role;
use lattice_kernel::{Store, Stored};
use lattice_testing::mutants::{self, Mutant};
use lattice_testing::{self as testing, device, key};

use crate::revocation::{FOUNDER, MEMBER, ROGUE, Team, put, shuffled};
use crate::world::{START_MS, adopt, all, deliver, judge, settle};

const NO: &[u8] = &[0];
const YES: &[u8] = &[1];

fn entry(store: &Store, id: IntentionId) -> Stored {
    store.snapshot().entry(&id).unwrap().unwrap()
}

fn call_of(store: &Store, id: IntentionId) -> CallId {
    entry(store, id).header.call_id(0)
}

fn said(value: &[u8]) -> Outcome {
    Outcome::Ok(vec![value.to_vec()])
}

fn assert_equal(one: &Store, other: &Store) {
    let (one, other) = (one.snapshot(), other.snapshot());
    assert_eq!(one.summary().count, other.summary().count);
    assert_eq!(one.summary().state_root, other.summary().state_root);
    assert_eq!(one.summary().outcome_root, other.summary().outcome_root);
    assert_eq!(one.tips_digest().unwrap(), other.tips_digest().unwrap());
}

fn says(store: &Store, id: IntentionId, value: &[u8]) -> bool {
    store.snapshot().outcomes(&id).unwrap() == Some(vec![said(value)])
}

/// Checks that all stores, and fresh replicas that receive `entries` in any order, hold what the first store holds.
fn agree(team: &mut Team, entries: &[Stored]) {
    for seed in 0..12 {
        let mut fresh = adopt(20, &entries[0]);
        for batch in shuffled(&entries[1..], seed).chunks(1 + seed as usize % 4) {
            deliver(&mut fresh, batch);
        }
        assert_eq!(fresh.floating().len(), 0, "seed {seed}");
        assert_equal(&fresh, &team.stores[0]);
        judge(&fresh).unwrap();
        fresh.rebuild(START_MS).unwrap();
        settle(&mut fresh);
        assert_equal(&fresh, &team.stores[0]);
    }
    for store in &team.stores {
        assert_equal(store, &team.stores[0]);
        judge(store).unwrap();
    }
}

/// Holds: invariant 12.
#[test]
fn a_call_of_a_void_entry_is_observed_by_nobody() {
    let mut team = Team::new();
    let (rogue, _) = team.app(ROGUE, &put(1));
    team.send(ROGUE, MEMBER);
    let call = call_of(&team.stores[usize::from(MEMBER)], rogue);
    let (asked, told) = team.call(MEMBER, Lane::App, testing::saw(call));
    assert_eq!(told, said(YES));
    team.send(MEMBER, FOUNDER);
    assert!(says(&team.stores[0], asked, YES));
    team.govern(testing::revoke(device(ROGUE), &[]));
    team.sync();
    assert!(says(&team.stores[0], asked, NO));
    let entries = all(&team.stores[0].snapshot());
    agree(&mut team, &entries);
}

/// Holds: invariant 12.
#[test]
fn what_was_observed_is_observed_again_when_its_entry_counts_again() {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    let (rogue, _) = team.app(ROGUE, &put(1));
    team.sync();
    let call = call_of(&team.stores[0], rogue);
    let (asked, _) = team.call(FOUNDER, Lane::App, testing::saw(call));
    team.sync();
    // An admin cuts the rogue off, and is cut off itself later.
    team.call(MEMBER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.sync();
    assert!(says(&team.stores[0], asked, NO));
    team.govern(testing::revoke(device(MEMBER), &[]));
    team.sync();
    assert!(says(&team.stores[0], asked, YES));
    let entries = all(&team.stores[0].snapshot());
    agree(&mut team, &entries);
}

#[test]
fn an_answer_that_is_not_tracked_is_caught() {
    let wrong = || {
        let mut team = Team::new();
        let (rogue, _) = team.app(ROGUE, &put(1));
        team.sync();
        let call = call_of(&team.stores[0], rogue);
        team.call(MEMBER, Lane::App, testing::saw(call));
        team.send(MEMBER, FOUNDER);
        team.govern(testing::revoke(device(ROGUE), &[]));
        judge(&team.stores[0]).is_err()
    };
    assert!(!wrong());
    assert!(mutants::with(Mutant::ObservedCallsUntracked, wrong));
}

/// An entry with the header of `first` around another call, as a device makes it that forks its chain. Its call has
/// the id of the call in `first`.
fn twin(first: &Stored, by: u8, lane: Lane, call: lattice_format::Call) -> Stored {
    let body = testing::body_of(call);
    let header = testing::twin(&first.header, lane, &body, &key(by));
    assert_eq!(header.call_id(0), first.header.call_id(0));
    Stored {
        header,
        body: Some(body.into()),
        ..first.clone()
    }
}

/// Holds: invariant 12.
#[test]
fn two_entries_with_one_call_id_are_each_observed_by_who_saw_them() {
    let mut team = Team::new();
    let (first, _) = team.app(ROGUE, &put(1));
    let first = entry(&team.stores[usize::from(ROGUE)], first);
    let call = first.header.call_id(0);
    for lane in [Lane::App, Lane::System] {
        let other = match lane {
            Lane::App => testing::program(&put(2)),
            Lane::System => testing::resign(),
        };
        let second = twin(&first, ROGUE, lane, other);
        let mut team = Team::new();
        // The founder has seen one of the two entries, the member the other one, and both ask for the same id.
        let [_, member, rogue] = &mut team.stores[..] else {
            unreachable!("a team of three");
        };
        deliver(rogue, std::slice::from_ref(&first));
        deliver(member, std::slice::from_ref(&second));
        team.send(ROGUE, FOUNDER);
        let (one, told) = team.call(FOUNDER, Lane::App, testing::saw(call));
        assert_eq!(told, said(YES));
        let (other, told) = team.call(MEMBER, Lane::App, testing::saw(call));
        assert_eq!(told, said(YES));
        team.sync();
        for id in [one, other] {
            assert!(says(&team.stores[0], id, YES));
        }
        let entries = all(&team.stores[0].snapshot());
        agree(&mut team, &entries);
        // The founder has seen neither of the two entries, so it has not observed the call.
        let mut team = Team::new();
        deliver(
            &mut team.stores[usize::from(MEMBER)],
            std::slice::from_ref(&second),
        );
        let (_, told) = team.call(FOUNDER, Lane::App, testing::saw(call));
        assert_eq!(told, said(NO));
        team.sync();
        let entries = all(&team.stores[0].snapshot());
        agree(&mut team, &entries);
    }
}

#[test]
fn both_of_two_revocations_with_one_call_id_cut() {
    let mut team = Team::new();
    team.govern(testing::admit(device(3), Role::Writer));
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    let (entry_of_rogue, _) = team.app(ROGUE, &put(1));
    team.sync();
    // The member revokes the rogue twice, by calls of one id, for which it forks its chain. One revocation keeps an
    // entry that the other one cuts.
    let member = usize::from(MEMBER);
    let keeping = testing::revoke(device(ROGUE), &[entry_of_rogue]);
    let (first, _) = team.call(MEMBER, Lane::System, keeping);
    let first = entry(&team.stores[member], first);
    let second = twin(
        &first,
        MEMBER,
        Lane::System,
        testing::revoke(device(ROGUE), &[]),
    );
    deliver(&mut team.stores[0], &[second]);
    team.sync();
    let entries = all(&team.stores[0].snapshot());
    agree(&mut team, &entries);
}

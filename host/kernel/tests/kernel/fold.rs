//! The incremental fold against the reference fold: any order of delivery gives the same state.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use lattice_kernel::Stored;
use lattice_testing::mutants::{self, Mutant};

use crate::world::{Event, World, adopt, all, deliver, event, event_with_quotas, judge};

/// Cuts `entries` into batches of the given sizes, over and over.
fn batches<'a>(entries: &'a [Stored], sizes: &'a [usize]) -> impl Iterator<Item = &'a [Stored]> {
    let mut rest = entries;
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let size = (*sizes.next().unwrap_or(&1)).clamp(1, rest.len());
        let (batch, tail) = rest.split_at(size);
        rest = tail;
        Some(batch)
    })
}

fn case() -> impl Strategy<Value = (Vec<Event>, Vec<u16>, Vec<usize>)> {
    (
        prop::collection::vec(event(1), 1..30),
        prop::collection::vec(any::<u16>(), 1..60),
        prop::collection::vec(1..9usize, 1..6),
    )
}

fn case_with_quotas() -> impl Strategy<Value = (Vec<Event>, Vec<u16>, Vec<usize>)> {
    (
        prop::collection::vec(event_with_quotas(), 10..40),
        prop::collection::vec(any::<u16>(), 1..60),
        prop::collection::vec(1..9usize, 1..6),
    )
}

fn check(events: &[Event], keys: &[u16], sizes: &[usize]) -> Result<(), TestCaseError> {
    check_in(World::new(), events, keys, sizes).map(|_| ())
}

/// Runs events in a world, then delivers all entries to a fresh replica in a shuffled order. Tells how many entries
/// are void by a quota in the end, and how many were judged anew on the way.
fn check_in(
    mut world: World,
    events: &[Event],
    keys: &[u16],
    sizes: &[usize],
) -> Result<(usize, usize), TestCaseError> {
    world.run(events);
    for store in &world.stores {
        judge(store)?;
    }
    let entries = world.union();
    let mut shuffled: Vec<(u16, Stored)> = entries[1..]
        .iter()
        .zip(keys.iter().cycle())
        .map(|(entry, key)| (*key, entry.clone()))
        .collect();
    shuffled.sort_by_key(|(key, _)| *key);
    let shuffled: Vec<Stored> = shuffled.into_iter().map(|(_, entry)| entry).collect();
    let mut late = adopt(8, &entries[0]);
    let mut changed = BTreeSet::new();
    let mut over_quota = BTreeSet::new();
    for batch in batches(&shuffled, sizes) {
        let known: BTreeSet<_> = all(&late.snapshot())
            .iter()
            .map(|entry| entry.header.id())
            .collect();
        deliver(&mut late, batch);
        let before = std::mem::replace(&mut over_quota, judge(&late)?.over_quota);
        let differ = before.symmetric_difference(&over_quota);
        changed.extend(differ.filter(|id| known.contains(id)).copied());
    }
    let count = late.snapshot().summary().count;
    prop_assert_eq!(
        count as usize,
        entries.len(),
        "everything arrives in the end"
    );
    for store in &mut world.stores {
        deliver(store, &entries);
        judge(store)?;
        let (ours, theirs) = (store.snapshot(), late.snapshot());
        prop_assert_eq!(ours.summary().state_root, theirs.summary().state_root);
        prop_assert_eq!(ours.summary().outcome_root, theirs.summary().outcome_root);
        prop_assert_eq!(ours.tips_digest().unwrap(), theirs.tips_digest().unwrap());
    }
    Ok((over_quota.len(), changed.len()))
}

/// A runner of the same histories each time. With `PROPTEST_CASES=n` it runs `n` histories from other seeds.
fn runner(cases: u32, max_shrink_iters: u32) -> TestRunner {
    let config = |cases| Config {
        cases,
        max_shrink_iters,
        failure_persistence: None,
        ..Config::default()
    };
    match std::env::var("PROPTEST_CASES").map(|n| n.parse()) {
        Ok(Ok(more)) => TestRunner::new(config(more)),
        _ => TestRunner::new_with_rng(
            config(cases),
            TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        ),
    }
}

/// Holds: invariants 3, 5.
#[test]
fn any_order_of_delivery_gives_the_state_of_the_plain_fold() {
    runner(256, u32::MAX)
        .run(&case(), |(events, keys, sizes)| {
            check(&events, &keys, &sizes)
        })
        .unwrap();
}

/// Holds: invariants 5, 12.
#[test]
fn quotas_bite_the_same_entries_in_any_order() {
    let counted = Cell::new((0, 0));
    runner(256, u32::MAX)
        .run(&case_with_quotas(), |(events, keys, sizes)| {
            let (over, changed) = check_in(World::with_twin(), &events, &keys, &sizes)?;
            let (all_over, all_changed) = counted.get();
            counted.set((all_over + over, all_changed + changed));
            Ok(())
        })
        .unwrap();
    let (over, changed) = counted.get();
    assert!(
        over > 200 && changed > 100,
        "the histories hardly meet a quota: {over} entries void, {changed} judged anew"
    );
}

#[test]
fn the_same_entries_have_the_same_history() {
    let mut world = World::new();
    world.run(&[
        Event::Sync { from: 0, to: 1 },
        Event::Resign { by: 2 },
        Event::Sync { from: 2, to: 1 },
    ]);
    let ids = |n: usize| -> Vec<_> {
        all(&world.stores[n].snapshot())
            .iter()
            .map(|s| s.header.id())
            .collect()
    };
    assert_eq!(ids(1).len(), ids(0).len() + 1);
}

/// Checks that the property above, which holds for the kernel, fails when a mutant is switched on.
fn is_caught(mutant: Mutant) {
    is_caught_in(mutant, &case(), World::new);
}

fn is_caught_in(
    mutant: Mutant,
    cases: &impl Strategy<Value = (Vec<Event>, Vec<u16>, Vec<usize>)>,
    world: fn() -> World,
) {
    let found = mutants::with(mutant, || {
        runner(2_000, 0)
            .run(cases, |(events, keys, sizes)| {
                // An assertion of the kernel that stops the mutant counts as caught.
                std::panic::catch_unwind(|| check_in(world(), &events, &keys, &sizes).map(|_| ()))
                    .unwrap_or_else(|_| Err(TestCaseError::fail("the kernel noticed")))
            })
            .is_err()
    });
    assert!(found, "{mutant:?} was not caught");
}

/// Holds: invariant 5.
#[test]
fn absent_keys_not_tracked_is_caught() {
    is_caught(Mutant::AbsentKeysUntracked);
}

/// Holds: invariant 5.
#[test]
fn gaps_of_a_scan_not_tracked_is_caught() {
    is_caught(Mutant::ScanGapsUntracked);
}

/// Holds: invariant 5.
#[test]
fn reads_of_refused_runs_not_tracked_is_caught() {
    is_caught(Mutant::RefusedReadsUntracked);
}

/// Holds: invariant 5.
#[test]
fn a_cached_authorization_without_its_reads_is_caught() {
    is_caught(Mutant::CachedAuthorizationReadsLost);
}

/// Holds: invariant 5.
#[test]
fn an_answer_that_outlives_a_change_of_governance_is_caught() {
    is_caught(Mutant::AnswersOutliveChanges);
}

/// Holds: invariant 5.
#[test]
fn an_answer_of_the_end_given_at_every_place_is_caught() {
    is_caught(Mutant::AnswersOfTheEnd);
}

/// Holds: invariant 5.
#[test]
fn a_run_that_reads_at_the_end_wherever_it_stands_is_caught() {
    is_caught(Mutant::RunsReadTheEnd);
}

/// Holds: invariant 5.
#[test]
fn bytes_of_an_author_not_tracked_is_caught() {
    is_caught_in(
        Mutant::WrittenBytesUntracked,
        &case_with_quotas(),
        World::with_twin,
    );
}

/// Holds: invariant 5.
#[test]
fn a_refused_local_call_that_leaves_its_intention_open_is_caught() {
    is_caught(Mutant::RefusalKeepsIntentionOpen);
}

/// Holds: invariant 6.
#[test]
fn a_changed_outcome_is_noticed_once_and_durably() {
    use crate::world::{START_MS, settle};
    use lattice_format::{ChainId, Lane};
    use lattice_kernel::{Notice, Outcome};
    use lattice_testing::{Step, program};

    // Device 2 reads key 0 while device 1, whose clock is behind, writes it unseen.
    let mut world = World::new();
    let read = program(&[Step::Get {
        k: 0,
        dynamic: false,
    }]);
    let told = world.stores[2]
        .call(Lane::App, vec![read], START_MS + 50, ChainId(2))
        .unwrap();
    world.stores[2].commit(START_MS + 50).unwrap();
    let write = program(&[Step::Put {
        k: 0,
        dynamic: false,
        value: 3,
    }]);
    world.stores[1]
        .call(Lane::App, vec![write], START_MS + 10, ChainId(3))
        .unwrap();
    world.stores[1].commit(START_MS + 10).unwrap();
    let late = all(&world.stores[1].snapshot());
    deliver(&mut world.stores[2], &late);

    let store = &mut world.stores[2];
    let notices = store.notices().unwrap();
    let [
        (
            number,
            Notice::OutcomeChanged {
                told: before, now, ..
            },
        ),
    ] = &notices[..]
    else {
        panic!("one changed outcome, and not {notices:?}");
    };
    assert_eq!(*before, told.outcome);
    assert!(matches!(now, Some(Outcome::Ok(_))) && *now != Some(told.outcome));
    assert_eq!(store.acknowledge(&[*number]).unwrap(), 1);
    store.rebuild(START_MS + 60).unwrap();
    settle(store);
    assert_eq!(
        store.notices().unwrap(),
        vec![],
        "it was told, and nothing changed since"
    );
}

#[test]
fn a_refused_call_leaves_no_memory_behind() {
    use lattice_testing::Step;
    let call = Event::Call {
        by: 0,
        programs: vec![
            vec![Step::Get {
                k: 0,
                dynamic: false,
            }],
            vec![Step::StoreGlobal, Step::RefuseIf { modulus: 1 }],
            vec![
                Step::LoadGlobal,
                Step::Put {
                    k: 1,
                    dynamic: false,
                    value: 0,
                },
            ],
        ],
    };
    let judged = || {
        let mut world = World::new();
        world.run(std::slice::from_ref(&call));
        judge(&world.stores[0]).map(|_| ())
    };
    judged().unwrap();
    let found = mutants::with(Mutant::RefusalKeepsIntentionOpen, judged);
    assert!(found.is_err());
}

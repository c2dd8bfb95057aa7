//! The kernel broken on purpose: each fault is found, and soon.
//!
//! What a run does not find here, no run would find in the kernel.

use lattice_sim::{Case, Code, Shape};
use lattice_testing::mutants::{self, Mutant};

/// Seeds within which each must be found.
const SEEDS: u64 = 200;

fn is_caught(mutant: Mutant) {
    // Panics are caught and counted; their text would only fill the log.
    let found = mutants::with(mutant, || {
        (0..SEEDS).find_map(|seed| {
            let finished = Case::new(seed, Shape::default(), &Code::model()).run(false);
            Some((seed, finished.result.err()?))
        })
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{mutant:?} was not found"));
    eprintln!("{mutant:?}: seed {seed}, {violation}");
    let sound = Case::new(seed, Shape::default(), &Code::model()).run(false);
    assert_eq!(sound.result.err(), None, "it was not the mutant");
}

/// Holds: invariant 5.
#[test]
fn an_old_version_that_is_lost_is_caught() {
    is_caught(Mutant::OldVersionLost);
}

/// Holds: invariant 5.
#[test]
fn a_tie_broken_by_arrival_is_caught() {
    is_caught(Mutant::TieBrokenByArrival);
}

/// Holds: invariant 6.
#[test]
fn a_commit_that_is_not_durable_is_caught() {
    is_caught(Mutant::CommitNotDurable);
}

/// Holds: invariant 6.
#[test]
fn a_journal_that_is_not_read_is_caught() {
    is_caught(Mutant::JournalNotRead);
}

/// Holds: invariant 2.
#[test]
fn a_signature_that_is_not_checked_is_caught() {
    is_caught(Mutant::SignatureUnchecked);
}

/// Holds: invariant 2.
#[test]
fn a_dependency_that_is_not_awaited_is_caught() {
    is_caught(Mutant::DependencyNotAwaited);
}

/// Holds: invariant 5.
#[test]
fn a_denied_call_that_runs_is_caught() {
    is_caught(Mutant::DeniedCallRuns);
}

/// Holds: invariant 5.
#[test]
fn absent_keys_that_are_not_tracked_are_caught() {
    is_caught(Mutant::AbsentKeysUntracked);
}

/// Holds: invariant 5.
#[test]
fn gaps_of_a_scan_that_are_not_tracked_are_caught() {
    is_caught(Mutant::ScanGapsUntracked);
}

/// Holds: invariant 5.
#[test]
fn reads_of_refused_runs_that_are_not_tracked_are_caught() {
    is_caught(Mutant::RefusedReadsUntracked);
}

/// Holds: invariant 5.
#[test]
fn an_authorization_without_its_reads_is_caught() {
    is_caught(Mutant::CachedAuthorizationReadsLost);
}

/// Holds: invariant 5.
#[test]
fn an_intention_that_a_refusal_leaves_open_is_caught() {
    is_caught(Mutant::RefusalKeepsIntentionOpen);
}

/// Holds: invariant 12.
#[test]
fn a_revocation_that_keeps_nothing_of_what_was_seen_is_caught() {
    is_caught(Mutant::SeenNotKept);
}

/// Holds: invariant 12.
#[test]
fn a_changed_cut_that_is_missed_is_caught() {
    is_caught(Mutant::ChangedCutsMissed);
}

//! Any order, same state, with real components: after every batch, what a replica holds is what a
//! fold from nothing comes to.
//!
//! A case is a history that a few devices make while they are apart, with calls that do not commute,
//! changes of membership among them and entries that no honest node signs; then all of it reaches a
//! replica in a shuffled order, in batches of any size. A failing case prints its seed; a line in
//! `seeds.txt` keeps it for ever.

pub(crate) mod apps;
pub(crate) mod case;
mod signing;
pub(crate) mod world;

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use lattice_testing::mutants::{self, Mutant};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use lattice_runtime::{Compiler, Wasm};

use crate::node::built;
use apps::App;
use case::{Case, Tally};

/// Cases of each component; all eight together make more than a thousand. `PROPTEST_CASES` says
/// otherwise, for a longer search.
const CASES: u32 = 140;

/// Seeds that failed once: a component and a number a line.
const KEPT: &str = include_str!("seeds.txt");

fn case_count() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.map_or(CASES, |text| {
        text.parse().expect("PROPTEST_CASES is a number")
    })
}

fn kept_seeds(app: App) -> impl Iterator<Item = u64> {
    let lines = KEPT
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(move |line| {
        let mut words = line.split_whitespace();
        let (name, seed) = (words.next().unwrap(), words.next().unwrap());
        assert!(
            App::ALL.iter().any(|app| app.name() == name),
            "no component `{name}`"
        );
        let seed = u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap();
        (name == app.name()).then_some(seed)
    })
}

/// Runs the one case that a seed stands for, and makes it smaller if it fails.
fn run(app: App, seed: u64, shrinks: u32, tally: &RefCell<Tally>) -> Result<(), TestError<Case>> {
    run_with(app, seed, shrinks, |case| case.check(app, tally))
}

fn run_with(
    app: App,
    seed: u64,
    shrinks: u32,
    check: impl Fn(Case) -> Result<(), TestCaseError>,
) -> Result<(), TestError<Case>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: shrinks,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(config, rng).run(&case::case(app), check)
}

fn holds(app: App) {
    let fresh = RandomState::new().build_hasher().finish();
    let seeds = (0..u64::from(case_count())).map(|n| fresh.wrapping_add(n));
    let tally = RefCell::default();
    for seed in kept_seeds(app).chain(seeds) {
        if let Err(error) = run(app, seed, 500, &tally) {
            let name = app.name();
            panic!("{error}\nto keep it, add to seeds.txt:\n{name} {seed:#018x}");
        }
    }
    let tally = tally.into_inner();
    println!("{}: {tally:?}", app.name());
    let Tally {
        cases,
        void,
        refused,
        unauthorized,
        admissions,
        ..
    } = tally;
    let seen = [void, refused, unauthorized, admissions];
    assert!(
        cases < 50 || seen.iter().all(|count| *count > 0),
        "{tally:?} shows too little"
    );
}

/// Holds: invariant 5.
#[test]
fn bank_accounts_come_out_the_same_in_any_order() {
    holds(App::Bank);
}

/// Holds: invariant 5.
#[test]
fn a_queue_comes_out_the_same_in_any_order() {
    holds(App::Queue);
}

/// Holds: invariant 5.
#[test]
fn globals_come_out_the_same_in_any_order() {
    holds(App::Globals);
}

/// Holds: invariant 5.
#[test]
fn scans_come_out_the_same_in_any_order() {
    holds(App::Scanner);
}

/// Holds: invariant 5.
#[test]
fn keys_and_values_come_out_the_same_in_any_order() {
    holds(App::Kv);
}

/// Holds: invariant 5.
#[test]
fn a_log_comes_out_the_same_in_any_order() {
    holds(App::Log);
}

/// Holds: invariant 5.
#[test]
fn a_counter_comes_out_the_same_in_any_order() {
    holds(App::Counter);
}

/// Holds: invariant 5.
#[test]
fn what_a_hostile_component_does_comes_out_the_same_in_any_order() {
    holds(App::Hostile);
}

/// Holds: invariant 15.
#[test]
fn an_interpreter_gives_the_outcomes_of_native_code() {
    const SEEDS: u64 = 8;
    let dir = tempfile::tempdir().unwrap();
    let interpreter = Arc::new(Wasm::open(dir.path(), Compiler::Interpreted).unwrap());
    interpreter.install(&built("system")).unwrap();
    for app in App::ALL {
        interpreter.install(&built(app.name())).unwrap();
        for seed in 0..SEEDS {
            let compared = run_with(app, seed, 50, |case| case.check_on(&interpreter, app));
            if let Err(error) = compared {
                panic!("{} {seed}: {error}", app.name());
            }
        }
    }
}

/// A fault switched on must be found by the very property that holds without it. The seeds are
/// always the same, so that it is found always or never.
fn is_caught(mutant: Mutant, app: App) {
    const SEEDS: u64 = 600;
    let found = mutants::with(mutant, || {
        (0..SEEDS).find(|seed| run(app, *seed, 0, &RefCell::default()).is_err())
    });
    match found {
        Some(seed) => println!("{mutant:?} was caught by case {seed} of {}", app.name()),
        None => panic!(
            "{mutant:?} was not caught by {SEEDS} cases of {}",
            app.name()
        ),
    }
}

/// Holds: invariant 5.
#[test]
fn absent_keys_not_tracked_is_caught() {
    is_caught(Mutant::AbsentKeysUntracked, App::Bank);
    is_caught(Mutant::AbsentKeysUntracked, App::Scanner);
}

/// Holds: invariant 5.
#[test]
fn gaps_of_a_scan_not_tracked_is_caught() {
    is_caught(Mutant::ScanGapsUntracked, App::Queue);
    is_caught(Mutant::ScanGapsUntracked, App::Scanner);
}

/// Holds: invariant 5.
#[test]
fn reads_of_refused_runs_not_tracked_is_caught() {
    is_caught(Mutant::RefusedReadsUntracked, App::Bank);
    is_caught(Mutant::RefusedReadsUntracked, App::Scanner);
}

/// Holds: invariant 5.
#[test]
fn a_cached_authorization_without_its_reads_is_caught() {
    is_caught(Mutant::CachedAuthorizationReadsLost, App::Counter);
}

/// Holds: invariant 5.
#[test]
fn a_refused_local_call_that_leaves_its_intention_open_is_caught() {
    is_caught(Mutant::RefusalKeepsIntentionOpen, App::Globals);
}

//! The bounds of an intention: what its transactions use together, in the log and when they are called.

use std::sync::Arc;

use lattice_format::limits::ADMITS_MAX;
use lattice_format::{Body, Call, CallId, ChainId, Lane, Limits, Transaction};
use lattice_kernel::limits::{INTENTION_FUEL, INTENTION_RESULTS};
use lattice_kernel::mutant::Mutant;
use lattice_kernel::run::engine::Role;
use lattice_kernel::{NewStore, Outcome, Store, TrapKind};
use lattice_testing::{self as testing, ModelEngine, Step, device, key, memory_files, mutants};

use crate::scene::{NOW, Scene};
use crate::world::{START_MS, all, judge};

/// The fuel of a transaction in these stores. A program takes a unit, and five for each step.
const FUEL: u64 = 1_001;

fn limits() -> Limits {
    Limits {
        fuel: FUEL,
        ..Limits::DEFAULT
    }
}

/// A program that takes all fuel of a transaction.
fn expensive() -> Call {
    testing::program(&[Step::Add { k: 1, by: 1 }; 200])
}

fn body(calls: impl IntoIterator<Item = Call>) -> Vec<u8> {
    let transactions = calls.into_iter().map(|call| Transaction {
        calls: vec![call],
        told: None,
    });
    Body {
        transactions: transactions.collect(),
        genesis: None,
        claim: None,
    }
    .encode()
}

/// What a member's entry of these calls comes to.
fn outcomes(limits: Limits, calls: Vec<Call>) -> Vec<Outcome> {
    let mut scene = Scene::with_limits(limits);
    let forged = scene.first(1).body(body(calls));
    let id = scene.accepted(&forged);
    scene.store.snapshot().outcomes(&id).unwrap().unwrap()
}

fn too_much(outcome: &Outcome) -> bool {
    let kind = TrapKind::Limit;
    *outcome == Outcome::Trapped { index: 0, kind }
}

/// Each of them uses what a transaction may.
#[track_caller]
fn so_many_run(outcomes: &[Outcome], count: u64) {
    let (ran, stopped) = outcomes.split_at(count as usize);
    assert!(ran.iter().all(Outcome::is_ok), "{ran:?}");
    assert!(
        !stopped.is_empty() && stopped.iter().all(too_much),
        "{stopped:?}"
    );
}

/// Holds: invariant 10.
#[test]
fn the_transactions_of_an_intention_have_fuel_together() {
    for count in [10, 100, 1_000] {
        let calls = vec![expensive(); count];
        so_many_run(&outcomes(limits(), calls), INTENTION_FUEL);
    }
    // Exactly as much as there is, and a call that needs nothing more than a unit.
    let mut calls = vec![expensive(); INTENTION_FUEL as usize];
    assert!(outcomes(limits(), calls.clone()).iter().all(Outcome::is_ok));
    calls.push(testing::program(&[]));
    so_many_run(&outcomes(limits(), calls), INTENTION_FUEL);
}

#[test]
fn a_transaction_that_needs_more_than_any_has_is_out_of_fuel_as_before() {
    let calls = vec![testing::program(&[Step::Add { k: 1, by: 1 }; 201])];
    let kind = TrapKind::Fuel;
    assert_eq!(
        outcomes(limits(), calls),
        [Outcome::Trapped { index: 0, kind }]
    );
}

/// Holds: invariant 10.
#[test]
fn what_starts_again_behind_each_trap_is_paid_by_the_intention() {
    let trap = testing::program(&[Step::TrapIf { modulus: 1 }]);
    let ended = outcomes(limits(), vec![trap; 200]);
    let ran = ended
        .iter()
        .take_while(|outcome| !too_much(outcome))
        .count() as u64;
    // Each takes six units, and each behind the first a start.
    let fits = (INTENTION_FUEL * FUEL + testing::START_FUEL) / (6 + testing::START_FUEL);
    assert_eq!(ran, fits + 1, "{ended:?}");
    assert!(ended[ran as usize..].iter().all(too_much));
}

/// Holds: invariant 10.
#[test]
fn the_outcomes_of_an_intention_take_bytes_together() {
    // A result of the model program takes three bytes or fewer; a refusal counts as well.
    let limits = Limits {
        result_bytes: 3,
        ..Limits::DEFAULT
    };
    let refuse = testing::program(&[Step::RefuseIf { modulus: 1 }]);
    let value = testing::program(&[]);
    for (call, is_ok) in [(value, true), (refuse, false)] {
        let ended = outcomes(limits, vec![call; 50]);
        let each = match &ended[0] {
            Outcome::Ok(values) => values[0].len(),
            Outcome::Refused { error, .. } => error.len(),
            other => panic!("{other:?}"),
        };
        let fits = 3 * INTENTION_RESULTS as usize / each;
        assert!(
            ended[..fits]
                .iter()
                .all(|outcome| outcome.is_ok() == is_ok && !too_much(outcome))
        );
        assert!(ended[fits..].iter().all(too_much), "{ended:?}");
    }
}

#[test]
fn what_exceeds_a_bound_writes_nothing_and_takes_nothing_back() {
    let put = |k| {
        testing::program(&[Step::Put {
            k,
            dynamic: false,
            value: 1,
        }])
    };
    let mut calls = vec![put(2)];
    calls.extend(vec![expensive(); 10]);
    calls.push(put(3));
    let mut scene = Scene::with_limits(limits());
    let forged = scene.first(1).body(body(calls));
    scene.accepted(&forged);
    let (there, told) = (
        [Step::Get {
            k: 2,
            dynamic: false,
        }],
        |store: &mut Store, steps: &[Step]| {
            let call = testing::program(steps);
            let told = store.call(Lane::App, vec![call], NOW, ChainId(1)).unwrap();
            store.commit(NOW).unwrap();
            told.outcome
        },
    );
    let absent = [Step::Get {
        k: 3,
        dynamic: false,
    }];
    assert_ne!(
        told(&mut scene.store, &there),
        told(&mut scene.store, &absent)
    );
}

/// Calls that wait for the same commit are not refused for what others among them used.
#[test]
fn an_author_closes_its_intention_before_a_bound() {
    let spec = NewStore {
        genesis: lattice_format::Genesis {
            limits: limits(),
            ..testing::genesis()
        },
        admits: Vec::new(),
        chain: ChainId(1),
    };
    let engine = Arc::new(ModelEngine);
    let mut store = Store::create(memory_files(), engine, key(0), spec, START_MS).unwrap();
    let mut ids: Vec<CallId> = Vec::new();
    for _ in 0..3 * INTENTION_FUEL {
        let told = store
            .call(Lane::App, vec![expensive()], NOW, ChainId(1))
            .unwrap();
        assert!(told.outcome.is_ok(), "{:?}", told.outcome);
        ids.push(told.call);
    }
    let entries = store.commit(NOW).unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, ids) in entries.iter().zip(ids.chunks(INTENTION_FUEL as usize)) {
        let expected: Vec<CallId> = (0..).take(ids.len()).map(|n| entry.call_id(n)).collect();
        assert_eq!(ids, expected);
    }
    judge(&store).unwrap();
    // A replica agrees.
    let log = all(&store.snapshot());
    let mut replica = crate::world::adopt(8, &log[0]);
    crate::world::deliver(&mut replica, &log);
    assert_eq!(
        replica.snapshot().summary().outcome_root,
        store.snapshot().summary().outcome_root
    );
    assert_eq!(entries[0].author, device(0));
}

#[test]
fn an_intention_without_bounds_is_found() {
    let found = |calls: Vec<Call>| {
        std::panic::catch_unwind(|| {
            mutants::with(Mutant::IntentionUnbounded, || outcomes(limits(), calls))
        })
    };
    assert!(found(vec![expensive(); 10]).is_err());
    assert!(found(vec![expensive(); 2]).is_ok());
}

#[test]
fn a_transaction_that_admits_too_many_fails_alone() {
    let admit = |count: u8| -> Vec<Call> {
        let devices = (10..).take(usize::from(count)).map(device);
        devices
            .map(|device| testing::admit(device, Role::Reader))
            .collect()
    };
    let mut store = testing::found(0, START_MS);
    let put = testing::program(&[Step::Add { k: 1, by: 1 }]);
    let first = store
        .call(Lane::App, vec![put.clone()], NOW, ChainId(1))
        .unwrap();
    let most = ADMITS_MAX as u8;
    let error = store
        .call(Lane::System, admit(most + 1), NOW, ChainId(1))
        .unwrap_err();
    assert!(error.to_string().contains("17 devices"), "{error}");
    let last = store.call(Lane::App, vec![put], NOW, ChainId(1)).unwrap();
    let entries = store.commit(NOW).unwrap();
    let calls: Vec<CallId> = entries.iter().map(|entry| entry.call_id(0)).collect();
    assert_eq!(calls, [first.call, last.call]);
    judge(&store).unwrap();
    let told = store
        .call(Lane::System, admit(most), NOW, ChainId(1))
        .unwrap();
    assert!(told.outcome.is_ok());
    assert_eq!(store.commit(NOW).unwrap()[0].admits.len(), ADMITS_MAX);
    judge(&store).unwrap();
}

//! Seeds: random calls, changes of membership and faults, with everything checked that must hold.

use std::ops::Range;

use lattice_sim::{Code, Shape, swarm};

use crate::components::component;

/// Seeds from `LATTICE_SIM_SEEDS` (`A..B`), else the first few.
fn seeds(few: u64) -> Range<u64> {
    let asked = std::env::var("LATTICE_SIM_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| text.split_once(".."));
    match range {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..few,
    }
}

/// Runs seeds; the first that fails is made small and told.
fn hold(code: &Code, seeds: Range<u64>) {
    let swarm = swarm(seeds, 2, Shape::default(), code, |_| {});
    if let Some((case, violation)) = &swarm.failure {
        let small = case.shrink();
        let finished = small.run(false);
        for line in finished.world.iter().flat_map(|w| w.trace().tail()) {
            eprintln!("{line}");
        }
        for (number, step) in &finished.steps {
            eprintln!("{number:>4} {step}");
        }
        panic!(
            "{violation}\nlattice sim {}\nsmaller: {:?}\nlattice sim {}",
            case.command(),
            finished.result,
            small.command()
        );
    }
    eprintln!("{}: {swarm:?}", code.name());
}

/// Holds: invariant 5.
#[test]
fn model_programs_come_out_the_same_whatever_happens() {
    hold(&Code::model(), seeds(60));
}

/// Holds: invariant 5.
#[test]
fn kv_stores_come_out_the_same_whatever_happens() {
    hold(&component("kv"), seeds(8));
}

/// Holds: invariant 5.
#[test]
fn logs_come_out_the_same_whatever_happens() {
    hold(&component("log"), seeds(8));
}

/// Holds: invariant 5.
#[test]
fn counters_come_out_the_same_whatever_happens() {
    hold(&component("counter"), seeds(8));
}

/// Holds: invariant 5.
#[test]
fn bank_accounts_come_out_the_same_whatever_happens() {
    hold(&component("bank"), seeds(12));
}

/// Holds: invariant 5.
#[test]
fn queues_come_out_the_same_whatever_happens() {
    hold(&component("queue"), seeds(8));
}

//! Seeds of the model programs.

use lattice_sim::{Code, Shape, swarm};

/// Seeds from `LATTICE_SIM_SEEDS` (`A..B`), else the first few.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("LATTICE_SIM_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| text.split_once(".."));
    match range {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..few,
    }
}

#[test]
fn every_fault_of_a_year_leaves_all_members_equal() {
    let swarm = swarm(seeds(40), 2, Shape::default(), &Code::model(), |_| {});
    if let Some((case, violation)) = &swarm.failure {
        let small = case.shrink();
        let finished = small.run(true);
        let world = finished.world.unwrap();
        for line in world.trace().tail() {
            eprintln!("{line}");
        }
        for (number, step) in finished.steps {
            eprintln!("{number:>4} {step}");
        }
        panic!(
            "{violation}\nlattice sim swarm {}\nsmaller: {} lattice sim swarm {}",
            case.options(),
            finished.result.unwrap_err(),
            small.options()
        );
    }
    eprintln!("{swarm:?}");
}

//! One seed and one build give the same bytes.

use lattice_sim::{Case, Code, Shape, World};

fn run(seed: u64) -> World {
    let finished = Case::new(seed, Shape::default(), &Code::model()).run(true);
    match finished.result {
        Ok(_) => finished.world.unwrap(),
        Err(violation) => panic!("seed {seed}: {violation}"),
    }
}

/// Holds: invariant 11.
#[test]
fn two_runs_of_one_seed_have_the_same_effects() {
    for seed in 0..10 {
        let (one, two) = (run(seed), run(seed));
        for (a, b) in one.trace().lines().iter().zip(two.trace().lines()) {
            assert_eq!(a, b, "seed {seed}");
        }
        assert_eq!(one.trace().hash(), two.trace().hash(), "seed {seed}");
        assert!(one.trace().count() > 100);
    }
    assert_ne!(run(1).trace().hash(), run(2).trace().hash());
}

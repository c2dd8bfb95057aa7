//! Checkpoints and revocations in the small model: what holds with the whole rule, and what each part is for.

use lattice_sim::{Rules, model, model_all};

/// Two members could void each other by one invite: few histories come to it.
const CANCELLED: u64 = 18_935;
/// Seeds within which a part that is missing is noticed.
const SEEDS: u64 = 500;
/// A liar revokes, and resigns right below it once others have made that final: few histories come to it.
const UNDONE: u64 = 191_640;

#[test]
fn nothing_that_was_dropped_is_needed_and_every_order_of_delivery_reads_the_same() {
    let done = model_all(0..1_000, 2, Rules::AMENDED).unwrap();
    eprintln!("{done:?}");
    // Otherwise it would say nothing.
    assert!(done.valid > done.histories, "{done:?}");
    assert!(done.last > 5 * done.histories, "{done:?}");
    assert!(done.void > done.histories, "{done:?}");
    assert!(done.late > done.histories, "{done:?}");
}

fn is_needed(part: &str, rules: Rules, seeds: std::ops::Range<u64>) {
    let found = seeds
        .clone()
        .find_map(|seed| Some((seed, model(seed, rules).err()?)));
    let (seed, text) = found.unwrap_or_else(|| panic!("without {part} all holds as well"));
    eprintln!("without {part}, seed {seed}: {text}");
    assert_eq!(model(seed, Rules::AMENDED).err(), None, "it was not {part}");
}

#[test]
fn every_part_of_the_rule_is_needed() {
    let all = Rules::AMENDED;
    let at_time = Rules {
        at_time: false,
        ..all
    };
    let (base, tips) = (Rules { base: false, ..all }, Rules { tips: false, ..all });
    let leader = Rules {
        leader: false,
        ..all
    };
    let former = Rules {
        former: false,
        ..all
    };
    is_needed("the time", at_time, 0..SEEDS);
    is_needed("the base", base, UNDONE..UNDONE + 1);
    is_needed("tips", tips, 0..SEEDS);
    is_needed("the leader", leader, 0..SEEDS);
    is_needed("former writers", former, 0..SEEDS);
    let blind = Rules {
        blind: false,
        ..all
    };
    let downwards = Rules {
        downwards: false,
        ..all
    };
    is_needed("a cut whatever the status", blind, 0..SEEDS);
    is_needed("cancelling downwards", downwards, CANCELLED..CANCELLED + 1);
}

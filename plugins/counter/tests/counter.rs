//! The counter, natively.

use lattice_plugin_counter::Counter;
use lattice_plugin_counter::bindings::exports::lattice::counter::{
    commands::Guest as _, queries::Guest as _,
};
use lattice_sdk::testing;

fn check(adds: &[i64], expected: i64) {
    testing::reset();
    for by in adds {
        testing::call("a").run(|| Counter::add(*by));
    }
    assert_eq!(testing::query(Counter::value), expected);
}

#[test]
fn value_is_the_sum_of_all_adds() {
    check(&[], 0);
    check(&[5], 5);
    check(&[5, -7, 3], 1);
}

#[test]
fn adds_wrap() {
    check(&[i64::MAX, 1], i64::MIN);
    check(&[i64::MIN, -1], i64::MAX);
}

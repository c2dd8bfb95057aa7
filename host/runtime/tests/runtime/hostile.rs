//! Guests that mean harm: each gets its outcome, and the store goes on.

use lattice_format::Limits;

use crate::node::{Node, built, raw};

fn hostile() -> Node {
    let limits = Limits {
        // Enough that reads end at their own bound.
        fuel: 400_000_000,
        memory_bytes: 16 * 1024 * 1024,
        ..Limits::default()
    };
    Node::with_limits(&built("hostile"), limits)
}

/// Holds: invariant 9.
#[test]
fn each_abuse_has_its_outcome_and_the_store_goes_on() {
    let mut node = hostile();
    for (name, args, seen) in [
        ("spin", &[][..], "trapped: fuel"),
        ("memory-bomb", &[], "trapped: guest"),
        ("recurse", &[], "trapped: depth"),
        ("trap", &[], "trapped: guest"),
        ("divide-by-zero", &[], "trapped: guest"),
        ("out-of-bounds", &[], "trapped: guest"),
        ("memory-most", &[], "237"),
        ("emit", &["2000000"], "trapped: limit"),
        ("emit", &["1000000000"], "trapped: guest"),
        ("emit-strings", &["20000"], "trapped: limit"),
        ("refuse-with", &["2000000"], "trapped: limit"),
        ("big-key", &["1025"], "trapped: limit"),
        ("big-key", &["1024"], ""),
        ("big-value", &["262145"], "trapped: limit"),
        ("big-value", &["262144"], ""),
        ("write-flood", &["1000000", "262144"], "trapped: limit"),
        ("read-flood", &["100000000"], "trapped: limit"),
        ("add-flood", &["100000000"], "trapped: fuel"),
        ("bad-hash", &["31"], "trapped: misuse"),
        ("put-and-trap", &["gone"], "trapped: guest"),
        ("echo", &["still here"], "\"still here\""),
    ] {
        assert_eq!(node.call(name, args), seen, "{name} {args:?}");
    }
    assert_eq!(node.query("get", &["gone"]), "none");
    assert_eq!(node.call("put", &["kept", "yes"]), "");
    assert_eq!(node.query("get", &["kept"]), "some(\"yes\")");
}

/// Holds: invariant 9.
#[test]
fn queries_are_held_to_the_same_limits_and_write_nothing() {
    let mut node = hostile();
    assert_eq!(node.call("put", &["kept", "yes"]), "");
    for (name, args, seen) in [
        ("spin-query", &[][..], "trapped: fuel"),
        ("memory-query", &[], "trapped: guest"),
        ("recurse-query", &[], "trapped: depth"),
        ("emit-query", &["2000000"], "trapped: limit"),
        ("write-in-query", &[], "trapped: misuse"),
        ("add-in-query", &[], "trapped: misuse"),
        ("pin-in-query", &[], "trapped: misuse"),
        ("current-in-query", &[], "trapped: misuse"),
        ("observe-in-query", &[], "trapped: misuse"),
        ("get", &["kept"], "some(\"yes\")"),
    ] {
        assert_eq!(node.query(name, args), seen, "{name} {args:?}");
    }
}

#[test]
fn the_native_stack_is_not_reached_however_small_the_frames() {
    let mut deep = Node::new(&raw("deep"));
    assert_eq!(deep.call("recurse", &["0"]), "trapped: depth");
}

#[test]
fn tables_stop_at_their_limit() {
    let mut node = Node::new(&raw("table-bomb"));
    assert_eq!(node.call("grow", &[]), "65537");
    assert_eq!(node.call("grow-or-trap", &[]), "trapped: guest");
    let mut node = Node::new(&raw("out-of-bounds"));
    assert_eq!(node.call("load", &["70000"]), "trapped: guest");
}

#[test]
fn a_start_that_does_not_end_is_an_outcome() {
    // It has no `init`, so the store is made; each query then traps.
    let node = Node::new(&raw("start-loop"));
    assert_eq!(node.query("value", &[]), "trapped: fuel");
}

#[test]
fn a_start_beyond_the_store_s_memory_is_an_outcome() {
    let limits = Limits {
        memory_bytes: 64 * 1024,
        ..Limits::default()
    };
    // Every component of this tree begins with more than a page.
    let app = built("kv");
    let node = Node::try_new(&app, limits)
        .err()
        .map(|error| error.to_string());
    assert!(node.is_some_and(|error| error.contains("limit") || error.contains("Limit")));
}

//! Instances that are started ahead: nothing that runs in one can tell.

use std::sync::Arc;

use lattice_format::Limits;
use lattice_kernel::CallError;
use lattice_kernel::run::engine::HostFault;
use lattice_runtime::Wasm;

use crate::node::{Node, built, engine, raw};

fn node(wasm: &Arc<Wasm>, app: &[u8]) -> Node {
    Node::on(wasm, app, Limits::default()).unwrap()
}

#[test]
fn what_was_started_ahead_runs_as_what_is_started_now() {
    let (wasm, _dir) = engine();
    let mut rested = node(&wasm, &built("globals"));
    let mut hurried = Node::new(&built("globals"));
    for n in 0..20 {
        wasm.rest();
        assert!(wasm.started_ahead() > 0, "{n}");
        let (name, args): (_, &[&str]) = match n % 3 {
            0 => ("bump", &[]),
            1 => ("save-count", &["count"]),
            _ => ("bump-and-trap", &[]),
        };
        assert_eq!(rested.call(name, args), hurried.call(name, args), "{n}");
    }
    let roots = |node: &Node| {
        let snapshot = node.store.snapshot();
        let summary = snapshot.summary();
        (summary.state_root, summary.applied)
    };
    assert_eq!(roots(&rested), roots(&hurried));
}

#[test]
fn a_query_takes_what_was_started_ahead_and_no_more() {
    let (wasm, _dir) = engine();
    let mut node = node(&wasm, &built("counter"));
    node.call("add", &["2"]);
    wasm.rest();
    let before = wasm.started_ahead();
    assert_eq!(node.query("value", &[]), "2");
    assert_eq!(wasm.started_ahead(), before - 1);
    assert_eq!(node.query("value", &[]), "2");
    assert_eq!(
        wasm.started_ahead(),
        before - 1,
        "there is one for each component"
    );
    wasm.rest();
    assert_eq!(wasm.started_ahead(), before);
    // What a component leaves goes with it.
    wasm.remove(&node.schema.component).unwrap();
    assert_eq!(wasm.started_ahead(), 0);
}

/// Asks WASI at its start what time it is.
const ASKS_EARLY: &str = r#"(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "now" (func (result u64)))))
  (core func $now (canon lower (func $clock "now")))
  (core module $m
    (import "host" "now" (func $now (result i64)))
    (global $then (mut i64) (i64.const 0))
    (func $start (global.set $then (call $now)))
    (func (export "then") (result i64) (global.get $then))
    (start $start))
  (core instance $i (instantiate $m (with "host" (instance (export "now" (func $now))))))
  (func $then (result u64) (canon lift (core func $i "then")))
  (instance $queries (export "then" (func $then)))
  (export "example:early/queries@0.1.0" (instance $queries)))"#;

#[test]
fn what_asks_for_its_run_at_the_start_is_started_when_it_has_one() {
    let (wasm, _dir) = engine();
    let guest = wat::parse_str(ASKS_EARLY).unwrap();
    let node = node(&wasm, &guest);
    let then = node.query("then", &[]);
    assert_ne!(then, "0");
    for _ in 0..3 {
        wasm.rest();
        assert_eq!(node.query("then", &[]), then);
    }
}

#[test]
fn what_starts_slowly_is_not_started_ahead() {
    let (wasm, _dir) = engine();
    let node = node(&wasm, &raw("start-loop"));
    assert_eq!(node.query("value", &[]), "trapped: fuel");
    wasm.rest();
    let ahead = wasm.started_ahead();
    wasm.rest();
    assert_eq!(wasm.started_ahead(), ahead);
    assert_eq!(node.query("value", &[]), "trapped: fuel");
}

/// How many stores can have a call open before the engine has no place for another instance.
fn open_calls(rest: bool) -> usize {
    let (wasm, _dir) = engine();
    let app = built("counter");
    let mut nodes = Vec::new();
    loop {
        let mut node = node(&wasm, &app);
        // Its author's rights are known from here on: the next call needs one instance.
        node.call("add", &["1"]);
        nodes.push(node);
        if nodes.len() == 80 {
            break;
        }
    }
    for (opened, node) in nodes.iter_mut().enumerate() {
        if rest {
            wasm.rest();
        }
        match node.call_open("add", &["1"]) {
            Ok(()) => {}
            Err(CallError::Host(HostFault::Exhausted(_))) => return opened,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the pool has more places than the test expects");
}

#[test]
fn calls_come_before_spare_instances() {
    assert_eq!(open_calls(true), open_calls(false));
}

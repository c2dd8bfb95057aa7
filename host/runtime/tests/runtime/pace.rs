//! Guests that run for long pause at ticks, and nothing that they do depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lattice_format::Limits;
use lattice_runtime::Pacer;

use crate::node::{Node, built, engine};

/// Holds: invariant 9.
#[test]
fn a_guest_pauses_at_each_tick_after_two_and_comes_to_the_same() {
    let (wasm, _dir) = engine();
    let mut paced = Node::on(&wasm, &built("hostile"), Limits::default()).unwrap();
    let mut alone = Node::new(&built("hostile"));
    let (pauses, woken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (paused, wakes) = (Arc::clone(&pauses), Arc::clone(&woken));
    wasm.set_pace(Pacer {
        wake: Box::new(move || {
            wakes.fetch_add(1, Ordering::SeqCst);
        }),
        pause: Box::new(move || {
            paused.fetch_add(1, Ordering::SeqCst);
        }),
    });
    assert!(wasm.is_at_rest());
    // Whoever ticks is woken by the first guest that runs, and not again before it rests.
    let before = paced.call("spin", &[]);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(pauses.load(Ordering::SeqCst), 0, "nobody ticked");
    // Somebody ticks without end while it runs once more.
    let done = AtomicBool::new(false);
    let after = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                wasm.tick();
                std::thread::yield_now();
            }
        });
        let after = paced.call("spin", &[]);
        done.store(true, Ordering::SeqCst);
        after
    });
    assert!(pauses.load(Ordering::SeqCst) > 1);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(before, "trapped: fuel");
    assert_eq!(after, before);
    assert_eq!(alone.call("spin", &[]), before);
    // What ended does not count as running.
    assert!(wasm.is_at_rest());
}

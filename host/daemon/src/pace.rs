//! The pace of guests that run for long: they pause so often, and so briefly, that others hardly wait for
//! them.
//!
//! A call of another store needs a processor several times, among them for threads of the kernel that
//! write to its disk, and a system that lets a computing thread go on until its time is over makes each of
//! them wait for milliseconds. A guest that pauses by itself gives way after a fraction of one. A thread
//! ticks for them: seldom as long as no guest is known to run for long, often for a while after one was.
//! While no guest runs it sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lattice_runtime::{Pacer, Wasm};

/// How often it is looked whether a guest runs for long, while guests run. One that runs for twice as long
/// does.
const WATCH_TICK: Duration = Duration::from_millis(5);
/// How often a guest that runs for long pauses.
const LONG_GUEST_TICK: Duration = Duration::from_micros(500);
/// How long it pauses, at least: enough for whoever waits to get the processor.
const LONG_GUEST_PAUSE: Duration = Duration::from_micros(20);
/// How long, after a guest ran for long, others pause as soon as they have run for two short ticks.
const LONG_GUESTS_KEPT: Duration = Duration::from_secs(1);
/// Stack of the thread that ticks, in bytes.
const PACE_STACK_BYTES: usize = 64 * 1024;

/// Starts to tick for the guests of an engine, until it is dropped.
///
/// # Errors
/// When the system has no thread to give.
pub(crate) fn keep(wasm: &Arc<Wasm>) -> std::io::Result<()> {
    // Whether a guest ran for long since the last tick.
    let long = Arc::new(AtomicBool::new(false));
    let (engine, seen) = (Arc::downgrade(wasm), Arc::clone(&long));
    let ticking = thread::Builder::new()
        .name("pace".into())
        .stack_size(PACE_STACK_BYTES)
        .spawn(move || {
            let mut often_until = None;
            // Whoever drops the engine wakes this thread.
            while let Some(wasm) = engine.upgrade() {
                if seen.swap(false, Ordering::Relaxed) {
                    often_until = Some(Instant::now() + LONG_GUESTS_KEPT);
                }
                let often = often_until.is_some_and(|until| Instant::now() < until);
                let at_rest = !often && wasm.is_at_rest();
                wasm.tick();
                drop(wasm);
                match (often, at_rest) {
                    (true, _) => thread::sleep(LONG_GUEST_TICK),
                    (false, false) => thread::sleep(WATCH_TICK),
                    (false, true) => thread::park(),
                }
            }
        })?
        .thread()
        .clone();
    wasm.set_pace(Pacer {
        wake: Box::new(move || ticking.unpark()),
        pause: Box::new(move || {
            long.store(true, Ordering::Relaxed);
            thread::sleep(LONG_GUEST_PAUSE);
        }),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use lattice_runtime::Compiler;

    use super::*;

    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks
            .filter_map(|task| name(task.ok()?).ok())
            .filter(|name| name.trim() == "pace")
            .count()
    }

    #[test]
    fn the_thread_that_ticks_ends_with_its_engine() {
        let before = threads();
        let dir = tempfile::tempdir().unwrap();
        let wasm = Arc::new(Wasm::open(dir.path(), Compiler::InProcess).unwrap());
        keep(&wasm).unwrap();
        while threads() == before {
            thread::yield_now();
        }
        drop(wasm);
        while threads() > before {
            thread::yield_now();
        }
    }
}

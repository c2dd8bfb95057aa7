//! Guests that run for long, and the ticks at which they pause.
//!
//! A thread that computes without end keeps what must run on its processor waiting until the system
//! takes it away, and that may be several milliseconds, whatever its priority: among what waits are
//! threads of the kernel by which other stores write to the disk. So whoever runs guests may tick while
//! they run, and a guest that has seen two ticks pauses at each further one. Where it pauses is nothing
//! that it, or its outcome, could tell.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use wasmtime::{Store, UpdateDeadline};

use crate::host::Data;

/// Ticks that a guest runs through before it pauses for the first time: between one and two whole ones.
const TICKS_BEFORE_PAUSE: u64 = 2;

/// What becomes of guests that run for long; see [`Wasm::set_pace`](crate::Wasm::set_pace).
pub struct Pacer {
    /// Called when a guest starts after [`Wasm::is_at_rest`](crate::Wasm::is_at_rest) said that none runs.
    pub wake: Box<dyn Fn() + Send + Sync>,
    /// Called at a tick, on the thread of a guest that has run for long: lets others run.
    pub pause: Box<dyn Fn() + Send + Sync>,
}

/// The guests that run in an engine now.
#[derive(Default)]
pub(crate) struct RunningGuests {
    pacer: OnceLock<Pacer>,
    running: AtomicUsize,
    /// Whether nobody ticks before somebody is woken.
    rests: AtomicBool,
}

/// A guest that runs.
pub(crate) struct Running(Arc<RunningGuests>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl RunningGuests {
    /// Says what becomes of guests that run for long; the first one stays.
    pub(crate) fn set(&self, pacer: Pacer) {
        let _ = self.pacer.set(pacer);
    }

    /// Prepares a store for ticks.
    pub(crate) fn equip(self: &Arc<Self>, store: &mut Store<Data>) {
        let pace = Arc::clone(self);
        store.epoch_deadline_callback(move |_| {
            if let Some(pacer) = pace.pacer.get() {
                (pacer.pause)();
            }
            Ok(UpdateDeadline::Continue(1))
        });
    }

    /// To be called before a guest runs in a store that was equipped, and dropped after it.
    pub(crate) fn run(self: &Arc<Self>, store: &mut Store<Data>) -> Running {
        store.set_epoch_deadline(TICKS_BEFORE_PAUSE);
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.rests.load(Ordering::SeqCst)
            && self.rests.swap(false, Ordering::SeqCst)
            && let Some(pacer) = self.pacer.get()
        {
            (pacer.wake)();
        }
        Running(Arc::clone(self))
    }

    /// Whether no guest runs. If so, the pacer is woken when the next one starts.
    pub(crate) fn is_at_rest(&self) -> bool {
        // First: a guest that starts after this sees it, and one that started before is counted.
        self.rests.store(true, Ordering::SeqCst);
        let at_rest = self.running.load(Ordering::SeqCst) == 0;
        if !at_rest {
            self.rests.store(false, Ordering::SeqCst);
        }
        at_rest
    }
}

impl Drop for RunningGuests {
    fn drop(&mut self) {
        // Whoever ticks sees that there is nothing left to tick for.
        if let Some(pacer) = self.pacer.get() {
            (pacer.wake)();
        }
    }
}

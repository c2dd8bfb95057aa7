//! Instances that are started before anybody needs them, and dropped when nobody waits any more.
//!
//! Each intention and each query gets an instance that nobody has used. Starting one and clearing up
//! behind one take as long as a short call itself, and neither depends on the call: what runs at a
//! start knows no entry and no state, since the instance has no run yet. A component that asks for
//! either at its start has no spare instances: it is started when it is called.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lattice_format::Limits;
use parking_lot::{Mutex, MutexGuard};
use wasmtime::Store;

use crate::host::Data;
use crate::instance::Started;
use crate::limits::{SPARES_LEFT_MAX, SPARES_READY_MAX};

/// The spare instances of an engine: few, since each takes a place of the pool.
#[derive(Default)]
pub(crate) struct InstancePool {
    kept: Mutex<Kept>,
    /// Whether [`InstancePool::clear_up`] has anything to do.
    work: AtomicBool,
    next: AtomicU64,
}

/// One loading of a component. A component that is loaded again gets another number, because instances of the first
/// loading do not fit the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded(u64);

#[derive(Default)]
struct Kept {
    /// Started and never used. The one added last comes last.
    ready: Vec<Spare>,
    /// Used, and still to be dropped.
    left: Vec<Store<Data>>,
    /// What has been started lately, and is likely to be started again.
    wanted: Vec<(Loaded, Limits)>,
    /// Components that cannot be started ahead of a call; the oldest makes room.
    unfit: Vec<Loaded>,
}

struct Spare {
    component: Loaded,
    limits: Limits,
    started: Started,
}

impl Spare {
    fn is(&self, (component, limits): (Loaded, Limits)) -> bool {
        self.component == component && self.limits == limits
    }
}

impl InstancePool {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }

    /// A number for a component that is being loaded.
    pub(crate) fn loaded(&self) -> Loaded {
        Loaded(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// An instance of this component with these limits that was started and never used. Whether there
    /// is one or not, one will be wanted again.
    pub(crate) fn take(&self, component: Loaded, limits: &Limits) -> Option<Started> {
        let mut kept = self.lock();
        let wanted = (component, *limits);
        if !kept.unfit.contains(&component)
            && !kept.wanted.contains(&wanted)
            && kept.wanted.len() < SPARES_READY_MAX
        {
            kept.wanted.push(wanted);
            self.work.store(true, Ordering::Release);
        }
        let place = kept.ready.iter().rposition(|spare| spare.is(wanted))?;
        Some(kept.ready.remove(place).started)
    }

    /// Takes an instance that nobody will use again, to drop it later; at once if it is large, or if
    /// there are many.
    pub(crate) fn leave(&self, store: Box<Store<Data>>) {
        let mut kept = self.lock();
        if store.data().is_small() && kept.left.len() < SPARES_LEFT_MAX {
            kept.left.push(*store);
            self.work.store(true, Ordering::Release);
        } else {
            drop(kept);
            drop(store);
        }
    }

    /// Drops what was left, and tells what should be started.
    pub(crate) fn clear_up(&self) -> Vec<(Loaded, Limits)> {
        if !self.work.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        let mut kept = self.lock();
        let left = std::mem::take(&mut kept.left);
        let mut wanted = std::mem::take(&mut kept.wanted);
        wanted.retain(|wanted| !kept.ready.iter().any(|spare| spare.is(*wanted)));
        drop(kept);
        drop(left);
        wanted
    }

    /// Keeps an instance that was started for whoever comes next.
    pub(crate) fn keep(&self, component: Loaded, limits: &Limits, started: Started) {
        let mut kept = self.lock();
        let surplus = (kept.ready.len() >= SPARES_READY_MAX).then(|| kept.ready.remove(0));
        kept.ready.push(Spare {
            component,
            limits: *limits,
            started,
        });
        drop(kept);
        drop(surplus);
    }

    /// Remembers that a component cannot be started before its run is known.
    pub(crate) fn unfit(&self, component: Loaded) {
        let mut kept = self.lock();
        if kept.unfit.len() >= SPARES_READY_MAX {
            kept.unfit.remove(0);
        }
        kept.unfit.push(component);
    }

    /// How many are started ahead.
    pub(crate) fn ready(&self) -> usize {
        self.lock().ready.len()
    }

    /// How many wait to be dropped.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.lock().left.len()
    }

    /// Drops every instance: their places are needed, or their component goes.
    pub(crate) fn clear(&self) {
        let kept = std::mem::take(&mut *self.lock());
        drop(kept);
    }
}

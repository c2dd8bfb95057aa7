//! Many seeds in parallel, up to the first that fails.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::play::case::Case;
use crate::world::Violation;
use crate::world::code::Code;
use crate::world::plan::Shape;

/// What a swarm came to.
#[derive(Clone, Debug, Default)]
pub struct Swarm {
    /// Runs that held.
    pub runs: u64,
    /// Calls that they answered.
    pub calls: u64,
    /// Effects of all of them.
    pub effects: u64,
    /// Machines that failed.
    pub crashes: u64,
    /// Virtual time of all of them, in milliseconds.
    pub virtual_ms: u64,
    /// The longest time that it took to become equal after the last fault, in virtual milliseconds.
    pub slowest_ms: u64,
    /// The first failure that was found.
    pub failure: Option<(Case, Violation)>,
}

/// Up to which seed all have held, while several run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    next: u64,
    beyond: BTreeSet<u64>,
}

impl Progress {
    /// Nothing below `next` is left to do.
    pub fn new(next: u64) -> Self {
        Self {
            next,
            beyond: BTreeSet::new(),
        }
    }

    /// The first seed that has not held yet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A seed held. Whether [`Progress::next`] is another one now.
    pub fn held(&mut self, seed: u64) -> bool {
        let before = self.next;
        self.beyond.insert(seed);
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
        self.next != before
    }
}

/// Runs seeds on `threads` threads. `told` hears of each run that held, from any of them.
pub fn swarm(
    seeds: Range<u64>,
    threads: usize,
    shape: Shape,
    code: &Code,
    told: impl Fn(u64) + Sync,
) -> Swarm {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Swarm::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let case = Case::new(seed, shape, code);
                    let finished = case.run(false);
                    let mut total = total.lock().expect("no panic while it is held");
                    match finished.result {
                        Ok(took_ms) => {
                            total.runs += 1;
                            total.slowest_ms = total.slowest_ms.max(took_ms);
                            if let Some(world) = finished.world {
                                total.calls += world.stats().calls;
                                total.crashes += world.stats().crashes;
                                total.effects += world.trace().count();
                                total.virtual_ms += world.now_ms();
                            }
                            drop(total);
                            told(seed);
                        }
                        Err(violation) => {
                            stop.store(true, Ordering::Relaxed);
                            if total.failure.as_ref().is_none_or(|(c, _)| c.seed > seed) {
                                total.failure = Some((case, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    total.into_inner().expect("no panic while it was held")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_stops_before_the_first_seed_that_is_missing() {
        let mut progress = Progress::new(5);
        assert!(!progress.held(6));
        assert!(!progress.held(8));
        assert_eq!(progress.next(), 5);
        assert!(progress.held(5));
        assert_eq!(progress.next(), 7);
        assert!(progress.held(7));
        assert_eq!(progress.next(), 9);
    }
}

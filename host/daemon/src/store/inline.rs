//! Calls on the thread that serves the caller.
//!
//! To hand a call to the thread of its store and to be woken with the answer takes two switches of threads, which is
//! some hundred microseconds where processors sleep in between: as long as a call and its commit. So the thread that
//! serves the caller runs the call itself, where that keeps it from other work for no longer than a moment: the store's
//! calls were quick of late, its writer rests, and no other thread does the same.

use std::sync::{Mutex, TryLockError, Weak};
use std::time::Duration;

use lattice_kernel::writer::Input;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::store::writer::{Job, Writer};

/// The longest run of a call that counts as quick, and the longest commit.
const QUICK: Duration = Duration::from_millis(2);
/// How many calls in a row must have been quick.
const QUICK_CALLS: i32 = 8;
/// How many more must be quick after a run that was not. A guest that takes long now and then stays on its own thread.
const SLOW_PENALTY: i32 = 256;

/// A permit for the one thread of all that serve callers which may be busy with a call. The others serve.
static TURN: Semaphore = Semaphore::const_new(1);

/// How long the calls of a store take.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Quick calls in a row, less what is missing of a penalty.
    quick: i32,
}

impl Pace {
    /// The run of a call took so long.
    pub(crate) fn ran(&mut self, time: Duration) {
        self.quick = match time <= QUICK {
            true => (self.quick + 1).min(QUICK_CALLS),
            false => -SLOW_PENALTY,
        };
    }

    /// A commit took so long. A slow one is the disk's, or one of many calls.
    pub(crate) fn committed(&mut self, time: Duration) {
        if time > QUICK {
            self.quick = self.quick.min(0);
        }
    }

    fn is_quick(&self) -> bool {
        self.quick >= QUICK_CALLS
    }
}

/// Runs a call and commits it on this thread, if that takes no longer than a moment, and returns `None`. Otherwise the
/// job comes back, for the thread of the store. `jobs` is the queue of that thread.
pub(crate) fn run(writer: &Weak<Mutex<Writer>>, jobs: &mpsc::Sender<Job>, job: Job) -> Option<Job> {
    // With a single thread nobody would serve meanwhile.
    if Handle::current().metrics().num_workers() < 2 {
        return Some(job);
    }
    let (Ok(_turn), Some(writer)) = (TURN.try_acquire(), writer.upgrade()) else {
        return Some(job);
    };
    let mut writer = match writer.try_lock() {
        Ok(writer) => writer,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Some(job),
    };
    // Jobs that wait come first.
    if !writer.pace.is_quick() || !writer.is_resting() || jobs.capacity() < jobs.max_capacity() {
        return Some(job);
    }
    let input = writer.input(job);
    if writer.take(input) && writer.gathers() {
        // This step commits what the first one has run. If the store must be opened anew, its thread does that.
        writer.take(Input::Nothing);
    }
    drop(writer);
    // What else there is to do is done by the thread of the store. If its queue is full, it is awake.
    let _ = jobs.try_send(Job::Look);
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use lattice_format::{ChainId, IntentionId, Lane, StoreId};
    use lattice_kernel::clock::Verdict;
    use lattice_kernel::{Changes, NewStore, Notice, Outcome, Store};
    use lattice_testing::{self as testing, ModelEngine, key};

    use super::*;
    use crate::store::OpenStore;
    use crate::store::writer::Listener;

    const NOW_MS: u64 = 1_800_000_000_000;
    /// How long an expected event may take.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// The threads on which the store told of changes that it wrote.
    #[derive(Default)]
    struct Threads(Mutex<Vec<String>>);

    impl Listener for Threads {
        fn changed(&self, _: &StoreId, _: &Changes, written: &[IntentionId]) {
            if !written.is_empty() {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                self.0.lock().unwrap().push(name);
            }
        }
        fn noticed(&self, _: &StoreId, _: &[Notice]) -> bool {
            true
        }
        fn verdict(&self, _: &StoreId, _: u64, _: u64) -> Verdict {
            Verdict::alone(NOW_MS)
        }
        fn resting(&self) {}
    }

    /// Makes `count` calls one after the other, and returns how many of them ran on the thread of the store.
    async fn calls(count: usize) -> usize {
        let opener = || {
            let spec = NewStore {
                genesis: testing::genesis(),
                admits: Vec::new(),
                chain: ChainId(3),
            };
            let (files, engine) = (testing::memory_files(), Arc::new(ModelEngine));
            Store::create(files, engine, key(1), spec, NOW_MS).map_err(|error| error.to_string())
        };
        let threads = Arc::new(Threads::default());
        let store = Arc::new(OpenStore::open(Box::new(opener), threads.clone()).unwrap());
        for n in 1..=count {
            let add = testing::program(&[testing::Step::Add { k: 1, by: 1 }]);
            let done = store.call(Lane::App, vec![add], false).await.unwrap();
            assert!(matches!(done.outcome, Outcome::Ok(_)));
            // The genesis is an entry too. Who was answered reads what was written.
            assert_eq!(store.snapshot().summary().count, n as u64 + 1);
        }
        store.close().await;
        let joined = tokio::task::spawn_blocking(move || store.join(PATIENCE));
        assert!(joined.await.unwrap());
        let threads = threads.0.lock().unwrap();
        assert_eq!(threads.len(), count);
        threads
            .iter()
            .filter(|name| name.starts_with("store "))
            .count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn quick_calls_run_on_the_thread_of_the_caller_once_some_have_shown_that_they_are() {
        let on_its_own = calls(1_000).await;
        assert!(on_its_own >= usize::try_from(QUICK_CALLS).unwrap());
        assert!(on_its_own < 1_000, "none ran here");
    }

    #[tokio::test]
    async fn with_a_single_thread_that_serves_all_calls_run_on_that_of_the_store() {
        assert_eq!(calls(50).await, 50);
    }

    #[test]
    fn calls_are_run_here_after_some_quick_ones_and_long_not_after_one_that_was_slow() {
        let mut pace = Pace::default();
        for _ in 0..QUICK_CALLS {
            assert!(!pace.is_quick());
            pace.ran(QUICK);
            pace.committed(QUICK);
        }
        assert!(pace.is_quick());
        let slow = QUICK + Duration::from_micros(1);
        pace.committed(slow);
        for _ in 0..QUICK_CALLS {
            assert!(!pace.is_quick());
            pace.ran(QUICK);
        }
        assert!(pace.is_quick());
        pace.ran(slow);
        for _ in 0..SLOW_PENALTY + QUICK_CALLS {
            assert!(!pace.is_quick());
            pace.ran(QUICK);
        }
        assert!(pace.is_quick());
    }
}

//! Work on several things at once, on as many threads as there are processors.

use std::sync::Mutex;

/// Runs `work` on each of `things`, several at once and in no particular order. Blocks until all are done.
pub(crate) fn each<T: Send>(things: Vec<T>, work: impl Fn(T) + Sync) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(things.len());
    let left = Mutex::new(things);
    let run = || {
        let next = || left.lock().expect("nobody panics while it is held").pop();
        while let Some(thing) = next() {
            work(thing);
        }
    };
    std::thread::scope(|scope| {
        // The calling thread is one of the threads.
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn each_is_done_once_and_as_many_at_once_as_there_are_processors() {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let done = Mutex::new(Vec::new());
        let begun = AtomicUsize::new(0);
        let deadline = Instant::now() + Duration::from_secs(20);
        each((0..processors * 3).collect(), |number| {
            begun.fetch_add(1, Ordering::SeqCst);
            // The first work of each thread waits until all threads have begun.
            while begun.load(Ordering::SeqCst) < processors {
                assert!(Instant::now() < deadline, "they come one after the other");
                std::thread::yield_now();
            }
            done.lock().expect("no panic while it is held").push(number);
        });
        let mut done = done.into_inner().expect("no panic while it is held");
        done.sort_unstable();
        assert_eq!(done, (0..processors * 3).collect::<Vec<_>>());
        each(Vec::<u8>::new(), |_| panic!("there is nothing to do"));
    }
}

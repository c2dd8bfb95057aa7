//! The pace of guests that run for long: they pause often and briefly, so that other threads hardly wait for them.
//!
//! A call of another store needs a processor several times, among others for threads of the operating system that
//! write to the disk. The system's scheduler lets a computing thread run until its time slice ends, so each of these
//! threads would wait for milliseconds. A guest that pauses by itself gives way after a fraction of one. A thread
//! ticks for the guests: seldom as long as no guest is known to run for long, and often for a while after one did.
//! While no guest runs the thread sleeps. The first guest that starts does not wake it, but sets an alarm for the next
//! tick: a short call ends before that, and does not share its processor with the thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lattice_runtime::{Pacer, Wasm};

/// The time between two ticks while no guest is known to run for long. A guest that runs through two ticks runs for
/// long.
const WATCH_TICK: Duration = Duration::from_millis(5);
/// The time between two ticks after a guest ran for long, and so between two of its pauses.
const LONG_GUEST_TICK: Duration = Duration::from_micros(500);
/// The shortest pause of a guest that runs for long. It is enough for a waiting thread to get the processor.
const LONG_GUEST_PAUSE: Duration = Duration::from_micros(20);
/// How long the short ticks go on after a guest ran for long.
const LONG_GUESTS_KEPT: Duration = Duration::from_secs(1);
/// The stack of the thread that ticks, in bytes.
const PACE_STACK_BYTES: usize = 64 * 1024;

/// Starts the thread that ticks for the guests of an engine, until the engine is dropped.
///
/// # Errors
/// When the system gives no thread or no timer.
pub(crate) fn keep(wasm: &Arc<Wasm>) -> std::io::Result<()> {
    // Whether a guest has paused since the last tick, because it runs for long.
    let long = Arc::new(AtomicBool::new(false));
    let (engine, seen) = (Arc::downgrade(wasm), Arc::clone(&long));
    let alarm = Arc::new(Alarm::new()?);
    let ticks = Arc::clone(&alarm);
    thread::Builder::new()
        .name("pace".into())
        .stack_size(PACE_STACK_BYTES)
        .spawn(move || {
            let mut often_until = None;
            // Dropping the engine sets the alarm, so the thread wakes and ends.
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
                    (false, true) => ticks.wait(),
                }
            }
        })?;
    wasm.set_pace(Pacer {
        wake: Box::new(move || alarm.set(WATCH_TICK)),
        pause: Box::new(move || {
            long.store(true, Ordering::Relaxed);
            thread::sleep(LONG_GUEST_PAUSE);
        }),
    });
    Ok(())
}

/// An alarm: one thread waits until a given time after another thread has set it.
#[cfg(target_os = "linux")]
struct Alarm(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Alarm {
    fn new() -> std::io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        Ok(Self(timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC,
        )?))
    }

    /// Makes the alarm go off once, `after` from now, which is more than 0.
    fn set(&self, after: Duration) {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: after.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        if let Err(error) = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once) {
            tracing::warn!("guests that run for long are not paced: {error}");
        }
    }

    /// Returns when the alarm has gone off.
    fn wait(&self) {
        let mut times = [0; 8];
        while let Err(error) = rustix::io::read(&self.0, &mut times) {
            if error != rustix::io::Errno::INTR {
                tracing::warn!("guests that run for long are not paced well: {error}");
                thread::sleep(WATCH_TICK);
                return;
            }
        }
    }
}

/// An alarm: one thread waits until a given time after another thread has set it.
#[cfg(not(target_os = "linux"))]
#[derive(Default)]
struct Alarm {
    set: std::sync::Mutex<Option<Duration>>,
    news: std::sync::Condvar,
}

#[cfg(not(target_os = "linux"))]
impl Alarm {
    fn new() -> std::io::Result<Self> {
        Ok(Self::default())
    }

    /// Makes the alarm go off once, `after` from now.
    fn set(&self, after: Duration) {
        *self.lock() = Some(after);
        self.news.notify_one();
    }

    /// Returns when the alarm has gone off.
    fn wait(&self) {
        let mut set = self.lock();
        loop {
            if let Some(after) = set.take() {
                drop(set);
                return thread::sleep(after);
            }
            set = self
                .news
                .wait(set)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Duration>> {
        self.set
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
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
    fn an_alarm_goes_off_once_some_time_after_it_was_set() {
        let (alarm, after) = (Arc::new(Alarm::new().unwrap()), Duration::from_millis(20));
        for waits_first in [false, true] {
            let gone_off = Arc::new(AtomicBool::new(false));
            let (waits, went) = (Arc::clone(&alarm), Arc::clone(&gone_off));
            let waiting = thread::spawn(move || {
                waits.wait();
                went.store(true, Ordering::SeqCst);
                Instant::now()
            });
            if waits_first {
                thread::sleep(after * 3);
            }
            assert!(!gone_off.load(Ordering::SeqCst), "nobody has set it");
            let set = Instant::now();
            alarm.set(after);
            assert!(waiting.join().unwrap() - set >= after);
        }
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

//! The pace of guests that run for long: they pause so often, and so briefly, that others hardly wait for
//! them.
//!
//! A call of another store needs a processor several times, among them for threads of the kernel that
//! write to its disk, and a system that lets a computing thread go on until its time is over makes each of
//! them wait for milliseconds. A guest that pauses by itself gives way after a fraction of one. A thread
//! ticks for them: seldom as long as no guest is known to run for long, often for a while after one was.
//! While no guest runs it sleeps, and the first one that starts does not wake it but sets an alarm for the next
//! tick: a short call is over by then, and what it needed a processor for did not wait.

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
    let alarm = Arc::new(Alarm::new()?);
    let ticks = Arc::clone(&alarm);
    thread::Builder::new()
        .name("pace".into())
        .stack_size(PACE_STACK_BYTES)
        .spawn(move || {
            let mut often_until = None;
            // Whoever drops the engine sets the alarm as well.
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

/// What one thread sleeps on until some time after another has set it.
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

    /// Lets it go off once, so long from this moment; more than 0.
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

    /// Returns when it has gone off.
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

/// What one thread sleeps on until some time after another has set it.
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

    /// Lets it go off once, so long from this moment.
    fn set(&self, after: Duration) {
        *self.lock() = Some(after);
        self.news.notify_one();
    }

    /// Returns when it has gone off.
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

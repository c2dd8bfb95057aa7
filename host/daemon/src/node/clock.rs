//! The clock and the random numbers of this machine. No other file of the node reads the clock, and no other draws
//! random numbers but for the names of temporary files.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use lattice_format::ChainId;
use lattice_kernel::clock::Reading;

/// What a node is told about its clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockOptions {
    /// Whether the clock is right whatever the peers' clocks show, so that the node signs by it nevertheless.
    pub trusted: bool,
    /// Milliseconds that are added to the system's clock, for tests with clocks that differ.
    pub skew_ms: i64,
    /// More milliseconds that are added, which a test changes while the node runs.
    pub steps_ms: Option<&'static AtomicI64>,
}

/// The clock of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock(pub(crate) ClockOptions);

impl Clock {
    /// Milliseconds since the Unix epoch; 0 when the clock shows an earlier time.
    pub(crate) fn now_ms(self) -> u64 {
        let steps_ms = self.0.steps_ms.map(|steps| steps.load(Ordering::Relaxed));
        now_ms()
            .saturating_add_signed(self.0.skew_ms)
            .saturating_add_signed(steps_ms.unwrap_or(0))
    }

    /// The clock, and the one that nobody sets.
    pub(crate) fn reading(self) -> Reading {
        Reading {
            wall_ms: self.now_ms(),
            elapsed_ms: elapsed_ms(),
        }
    }
}

/// Milliseconds since the Unix epoch by the system's clock; 0 when the clock shows an earlier time.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds of a clock that nobody sets, since a fixed moment before the node began.
fn elapsed_ms() -> u64 {
    #[cfg(target_os = "linux")]
    {
        // Unlike `Instant`, it goes on while the machine sleeps.
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        since.tv_sec as u64 * 1_000 + since.tv_nsec as u64 / 1_000_000
    }
    #[cfg(not(target_os = "linux"))]
    {
        static BEGAN: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        BEGAN.elapsed().as_millis() as u64
    }
}

/// 64 random bits for a chain that may have to be started.
pub(crate) fn chain() -> ChainId {
    ChainId(rand::random())
}

/// 32 random bytes.
pub(crate) fn seed() -> [u8; 32] {
    rand::random()
}

/// A new key pair.
pub(crate) fn key_pair() -> SigningKey {
    SigningKey::from_bytes(&seed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_has_the_skew_in_the_wall_clock_alone() {
        let steps: &'static AtomicI64 = Box::leak(Box::default());
        let clock = Clock(ClockOptions {
            skew_ms: -7_000_000,
            steps_ms: Some(steps),
            ..ClockOptions::default()
        });
        let before = clock.reading();
        steps.store(9_000_000, Ordering::Relaxed);
        let after = clock.reading();
        let stepped = after.wall_ms - before.wall_ms;
        assert!((9_000_000..9_060_000).contains(&stepped), "{stepped}");
        let passed = after.elapsed_ms - before.elapsed_ms;
        assert!(passed < 60_000, "{passed}");
        assert!(before.elapsed_ms > 0);
    }
}

//! The clock and the random numbers of this machine: the only place that asks for either.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use lattice_format::ChainId;

/// What a node is told of its clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockOptions {
    /// The clock is right even if it leads those of all peers: the node signs all the same.
    pub trusted: bool,
    /// Added to the system's clock, in milliseconds: for tests of clocks that differ.
    pub skew_ms: i64,
}

/// The clock of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock(pub(crate) ClockOptions);

impl Clock {
    /// Milliseconds since 1970-01-01T00:00:00Z; 0 for a clock that stands before that.
    pub(crate) fn now_ms(self) -> u64 {
        now_ms().saturating_add_signed(self.0.skew_ms)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z by the system's clock; 0 if it stands before that.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// The time by which a node writes a store, and judges how far ahead entries lie: its own clock, unless
/// that stands below the store's genesis, or behind its peers' clocks by more than half of the drift that
/// the store allows. Then it is the median of theirs, of which `peers_lead_ms` tells how far it is ahead.
///
/// A peer announces its clock itself. One that lies moves the median only as far as those of the others
/// reach, and nothing at all where one other agrees with this node; but a node that knows only one peer
/// believes it. If that one's clock leads, what this node signs lies in the future, and others park it until
/// their clocks have come there; if it is behind, this node signs nothing until told to.
pub(crate) fn corrected(
    now_ms: u64,
    peers_lead_ms: Option<i64>,
    drift_ms: u64,
    genesis_ms: u64,
) -> u64 {
    let lead_ms = peers_lead_ms.map_or(0, |lead| u64::try_from(lead).unwrap_or(0));
    if lead_ms > drift_ms / 2 || now_ms < genesis_ms {
        now_ms.saturating_add(lead_ms).max(genesis_ms)
    } else {
        now_ms
    }
}

/// 64 random bits for a chain that may have to start.
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
    fn a_slow_clock_is_corrected_by_the_peers_and_never_below_the_genesis() {
        const DRIFT_MS: u64 = 60_000;
        let at = |now_ms, lead| corrected(now_ms, lead, DRIFT_MS, 1_000_000);
        // Within half of the drift it is left alone.
        assert_eq!(at(2_000_000, None), 2_000_000);
        assert_eq!(at(2_000_000, Some(30_000)), 2_000_000);
        assert_eq!(at(2_000_000, Some(30_001)), 2_030_001);
        // A clock that leads is not put back: nothing is signed by it.
        assert_eq!(at(2_000_000, Some(-90_000)), 2_000_000);
        assert_eq!(at(0, None), 1_000_000);
        assert_eq!(at(0, Some(1_500_000)), 1_500_000);
        assert_eq!(at(0, Some(10)), 1_000_000);
        assert_eq!(at(u64::MAX - 1, Some(i64::MAX)), u64::MAX);
    }
}

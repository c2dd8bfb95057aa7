//! The clock and the random numbers of this machine. No other file of the node reads the clock, and no other draws
//! random numbers but for the names of temporary files.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use lattice_format::ChainId;

/// What a node is told about its clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockOptions {
    /// Whether the clock is right even if it is ahead of the clocks of all peers, so that the node signs nevertheless.
    pub trusted: bool,
    /// Milliseconds that are added to the system's clock, for tests with clocks that differ.
    pub skew_ms: i64,
}

/// The clock of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock(pub(crate) ClockOptions);

impl Clock {
    /// Milliseconds since the Unix epoch; 0 when the clock shows an earlier time.
    pub(crate) fn now_ms(self) -> u64 {
        now_ms().saturating_add_signed(self.0.skew_ms)
    }
}

/// Milliseconds since the Unix epoch by the system's clock; 0 when the clock shows an earlier time.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// The time, in milliseconds since the Unix epoch, by which a node writes a store and judges how far ahead entries are.
/// It is the node's own clock, `now_ms`, unless that is below the store's genesis, or behind the peers' clocks by more
/// than half of the drift that the store allows. Then it is the median of the peers' clocks, which is `peers_lead_ms`
/// ahead of `now_ms`, but at least `genesis_ms`.
///
/// Each peer announces its own clock. One peer that lies moves the median only as far as the clocks of the others
/// reach, and not at all when another peer agrees with this node. A node that knows only one peer believes it. If that
/// peer's clock is ahead, the entries that this node signs lie in the future, and others park them until their clocks
/// have reached that time. If it is behind, this node signs nothing until a person trusts its clock.
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
    fn a_slow_clock_is_corrected_by_the_peers_and_never_below_the_genesis() {
        const DRIFT_MS: u64 = 60_000;
        let at = |now_ms, lead| corrected(now_ms, lead, DRIFT_MS, 1_000_000);
        // A clock that is behind by at most half of the drift is not corrected.
        assert_eq!(at(2_000_000, None), 2_000_000);
        assert_eq!(at(2_000_000, Some(30_000)), 2_000_000);
        assert_eq!(at(2_000_000, Some(30_001)), 2_030_001);
        // A clock that is ahead is not corrected: nothing is signed by it.
        assert_eq!(at(2_000_000, Some(-90_000)), 2_000_000);
        assert_eq!(at(0, None), 1_000_000);
        assert_eq!(at(0, Some(1_500_000)), 1_500_000);
        assert_eq!(at(0, Some(10)), 1_000_000);
        assert_eq!(at(u64::MAX - 1, Some(i64::MAX)), u64::MAX);
    }
}

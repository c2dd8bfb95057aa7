//! The clock and the random numbers of this machine: the only place that asks for either.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use lattice_format::ChainId;

/// Milliseconds since 1970-01-01T00:00:00Z; 0 for a clock that stands before that.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
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

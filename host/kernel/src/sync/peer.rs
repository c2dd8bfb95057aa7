//! What a peer may get, and how often it may be wrong.

use lattice_format::{Header, Lane};

use super::limits::{FAULTS_MAX, SLOW_MS};
use super::message::Wants;

/// What governance lets a peer have. The shell asks governance and tells the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A member's device: every header and every body.
    All,
    /// A device that once was a member's: every header, and the bodies of system entries.
    SystemLane,
    /// The holder of an invite: the genesis, every header, and the bodies of system entries.
    Invited,
    /// Nobody that this store knows. The session ends with a typed error.
    None,
}

impl Access {
    /// Whether the peer may have the body under `header`, if it asked for as much as `wants`.
    pub(super) fn body_allowed(self, header: &Header, wants: Wants) -> bool {
        let permitted = match self {
            Self::All => true,
            Self::SystemLane | Self::Invited => header.is_genesis() || header.lane == Lane::System,
            Self::None => false,
        };
        let wanted = match wants {
            Wants::All => true,
            Wants::SystemLane => header.is_genesis() || header.lane == Lane::System,
            Wants::Headers => header.is_genesis(),
        };
        permitted && wanted
    }
}

/// What to do about a peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// Read nothing from it for so many milliseconds.
    Slow(u64),
    /// End the session.
    Drop,
}

/// Counts a peer's faults: it is slowed, twice as long each time, and then dropped.
#[derive(Debug, Default)]
pub(super) struct Faults(u32);

impl Faults {
    /// Records one fault.
    pub(super) fn record(&mut self) -> Sentence {
        self.0 += 1;
        if self.0 >= FAULTS_MAX {
            Sentence::Drop
        } else {
            Sentence::Slow(SLOW_MS << (self.0 - 1))
        }
    }

    /// How many there were.
    pub(super) fn count(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_slowed_longer_each_time_and_then_dropped() {
        let mut faults = Faults::default();
        for n in 0..FAULTS_MAX - 1 {
            assert_eq!(faults.record(), Sentence::Slow(SLOW_MS << n));
        }
        assert_eq!(faults.record(), Sentence::Drop);
        assert_eq!(faults.count(), FAULTS_MAX);
    }
}

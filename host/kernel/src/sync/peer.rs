//! What a peer may have of a store, and how its faults are counted.

use lattice_format::{Header, Lane};

use super::limits::{FAULTS_MAX, SLOW_MS};
use super::message::Wants;
use super::ranges::RangeFault;
use super::reader::FrameError;
use crate::run::engine::{Member, MemberStatus};

/// What governance lets a peer have. The shell asks governance and tells the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A member's device: every header and every body.
    All,
    /// A device that was a member's: every header, and the bodies of system entries.
    SystemLane,
    /// The holder of an invite: the genesis, every header, and the bodies of system entries.
    Invited,
    /// A device that the store does not know: nothing. The session ends with a typed error.
    None,
}

impl Access {
    /// What a device may have of a store: as a member, a former one, or none.
    pub fn of(member: Option<&Member>) -> Self {
        match member {
            Some(member) if member.status == MemberStatus::Active => Self::All,
            Some(_) => Self::SystemLane,
            None => Self::None,
        }
    }

    /// Which bodies the peer is given, as Hello tells it.
    pub(super) fn gives(self) -> Wants {
        match self {
            Self::All => Wants::All,
            Self::SystemLane | Self::Invited | Self::None => Wants::SystemLane,
        }
    }

    /// Whether governance lets the peer have the body under `header`.
    pub(super) fn permits_body(self, header: &Header) -> bool {
        match self {
            Self::All => true,
            Self::SystemLane | Self::Invited => header.lane == Lane::System,
            Self::None => false,
        }
    }
}

impl Wants {
    /// Whether a node with these wants wants the body under `header`.
    pub(super) fn includes_body(self, header: &Header) -> bool {
        match self {
            Self::All => true,
            Self::SystemLane => header.lane == Lane::System,
            Self::Headers => header.is_genesis(),
        }
    }
}

/// What a peer did that the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Bytes that are not a message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A break of the rules of range reconciliation.
    #[error(transparent)]
    Range(#[from] RangeFault),
    /// A message before Hello.
    #[error("a message before Hello")]
    NoHello,
    /// A second Hello in one round.
    #[error("a second Hello in round {round}")]
    HelloAgain { round: u64 },
    /// Too many rounds in a short time.
    #[error("{count} rounds in a row, less than a second apart")]
    Rounds { count: u32 },
    /// More bytes than there was credit for.
    #[error("{bytes} bytes beyond the window")]
    Window { bytes: u64 },
    /// More tips than announced or allowed.
    #[error("{len} tips exceed {max}")]
    Tips { len: usize, max: usize },
    /// A request for more ids than allowed.
    #[error("{len} entries asked for at once exceed {max}")]
    Asked { len: usize, max: usize },
    /// Entries that the store found to be invalid.
    #[error("{count} invalid entries, the first: {reason}")]
    Entries { count: usize, reason: String },
}

/// What to do about a peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// Read nothing from the peer for so many milliseconds.
    Slow(u64),
    /// End the session.
    Drop,
}

/// Counts a peer's faults. Each slows the peer twice as long as the one before, and the last one drops it.
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

    /// How many faults there were.
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

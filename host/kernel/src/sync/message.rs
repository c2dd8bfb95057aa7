//! What the two sides say to each other.

use lattice_format::{
    ChainId, DeviceKey, Digest, IntentionId, Position, Seq, SignedHeader, StoreId,
};

/// How much a node wants of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Headers alone.
    Headers,
    /// Every header, and the bodies of system entries.
    SystemLane,
    /// Every header and body.
    All,
}

/// Kinds of errors that travel. An unknown number reads as [`ErrorCode::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Governance does not know the peer.
    NotAMember,
    /// This node does not serve that store.
    UnknownStore,
    /// No common version of the protocol.
    Version,
    /// A bound was exceeded.
    TooMuch,
    /// The sender failed.
    Internal,
    /// What came could not be read, or was not asked for.
    Invalid,
}

/// An error that one side tells the other before it closes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {text}")]
pub struct PeerError {
    /// Its kind.
    pub code: ErrorCode,
    /// A sentence for people, at most [`super::limits::ERROR_TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

/// A payload that is not the message of its kind, or exceeds a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the protobuf message.
    #[error("{kind} does not decode")]
    Undecodable {
        /// The message.
        kind: &'static str,
    },
    /// A field has another length than its type, or is absent.
    #[error("{field} has {len} bytes")]
    FieldLength {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A list holds more than its bound.
    #[error("{len} {field} exceed {max}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many there are.
        len: usize,
        /// The most allowed.
        max: usize,
    },
    /// A number that stands for nothing.
    #[error("{field} {value} means nothing")]
    Meaningless {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) round: u64,
    pub(super) versions: Vec<u32>,
    pub(super) store: StoreId,
    pub(super) clock_ms: u64,
    pub(super) device: DeviceKey,
    pub(super) endpoint: DeviceKey,
    pub(super) wants: Wants,
    /// Below it the sender holds no bodies; `None` while nothing is pruned.
    pub(super) horizon: Option<Position>,
    pub(super) parked_count: u64,
    /// The first parked ids: they need not be sent again.
    pub(super) parked: Vec<IntentionId>,
    pub(super) tips_digest: Digest,
    pub(super) tip_count: u64,
    pub(super) count: u64,
    /// Bytes of entries that the sender takes before it gives credit.
    pub(super) window_bytes: u64,
    /// How much the sender gives, so that nobody asks for bodies in vain.
    pub(super) gives: Wants,
}

/// The end of a branch, as the peer tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerTip {
    pub(super) author: DeviceKey,
    pub(super) chain: ChainId,
    pub(super) seq: Seq,
    pub(super) id: IntentionId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) round: u64,
    pub(super) tips_digest: Digest,
    pub(super) count: u64,
    /// Entries that the sender has sent in this session.
    pub(super) sent: u64,
    /// Entries of the peer's that float at the sender.
    pub(super) floating: u64,
    /// Entries of the peer's that are parked at the sender.
    pub(super) parked: u64,
    /// What the sender knows of and has not got; the first few.
    pub(super) missing: Vec<IntentionId>,
    /// Entries whose bodies the sender keeps back by policy.
    pub(super) withheld: u64,
    /// Whether the sender has also taken in everything that it got.
    pub(super) last: bool,
    /// Whether ranges were compared before it was said.
    pub(super) ranged: bool,
}

/// Part of the canonical order: what sorts after `from`, up to `to` and with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// `Position::MIN` is below every entry.
    pub(super) from: Position,
    /// `Position::MAX` is above every entry.
    pub(super) to: Position,
}

impl Range {
    /// The whole order.
    pub(super) const ALL: Self = Self {
        from: Position::MIN,
        to: Position::MAX,
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RangeSummary {
    pub(super) range: Range,
    pub(super) count: u64,
    pub(super) content: RangeContent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RangeContent {
    /// LtHash digest of the ids.
    Fingerprint(Digest),
    /// The ids themselves, in canonical order.
    Ids(Vec<IntentionId>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Hello(Hello),
    Tips {
        round: u64,
        tips: Vec<PeerTip>,
        last: bool,
    },
    Entries(Vec<(SignedHeader, Option<Vec<u8>>)>),
    Want(Vec<IntentionId>),
    Lacks(Vec<IntentionId>),
    Credit {
        bytes: u64,
    },
    Announce(Vec<IntentionId>),
    Done(Done),
    Diverged {
        round: u64,
    },
    Summarize {
        round: u64,
        ranges: Vec<Range>,
    },
    Summary {
        round: u64,
        ranges: Vec<RangeSummary>,
    },
    Error(PeerError),
}

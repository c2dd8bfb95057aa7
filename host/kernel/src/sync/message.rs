//! The messages of the sync protocol.

use lattice_format::{
    ChainId, DeviceKey, Digest, IntentionId, Position, Seq, SignedHeader, StoreId,
};

use crate::state::sketch::Cell;

/// How much a node wants of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Headers alone, and the body of the genesis.
    Headers,
    /// Every header, and the bodies of system entries.
    SystemLane,
    /// Every header and body.
    All,
}

/// The kinds of errors that one side tells the other. An unknown number reads as [`ErrorCode::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Governance does not know the peer.
    NotAMember,
    /// This node does not serve the store that was asked for.
    UnknownStore,
    /// The two sides have no common version of the protocol.
    Version,
    /// A bound was exceeded.
    TooMuch,
    /// The sender of the error failed.
    Internal,
    /// The sender of the error got bytes that it could not read, or had not asked for.
    Invalid,
}

/// An error that one side tells the other before it closes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {text}")]
pub struct PeerError {
    /// The error's kind.
    pub code: ErrorCode,
    /// A sentence for people, at most [`super::limits::ERROR_TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

/// Why a payload is not a message of its kind, or exceeds a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The payload is not the protobuf message.
    #[error("{kind} does not decode")]
    Undecodable {
        /// The name of the message.
        kind: &'static str,
    },
    /// A field has not the length of its type, or is absent.
    #[error("{field} has {len} bytes")]
    FieldLength {
        /// The name of the field.
        field: &'static str,
        /// The field's length in bytes.
        len: usize,
    },
    /// A list is longer than its bound.
    #[error("{len} {field} exceed {max}")]
    TooMany {
        /// The name of the field.
        field: &'static str,
        /// The length of the list.
        len: usize,
        /// The most allowed.
        max: usize,
    },
    /// A number is none of those that the field can have.
    #[error("{field} {value} means nothing")]
    Meaningless {
        /// The name of the field.
        field: &'static str,
        /// The field's value.
        value: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) round: u64,
    pub(super) versions: Vec<u32>,
    /// Said in the first Hello of a session.
    pub(super) store: Option<StoreId>,
    pub(super) clock_ms: u64,
    /// `None` where device and endpoint have one key, which the transport proves.
    pub(super) attestation: Option<Attestation>,
    pub(super) wants: Wants,
    /// The position below which the sender holds no bodies; `None` while nothing is pruned.
    pub(super) horizon: Option<Position>,
    pub(super) parked_count: u64,
    /// The first ids of parked entries, which need not be sent again.
    pub(super) parked: Vec<IntentionId>,
    /// The digest of all entries that count at the sender.
    pub(super) tips_digest: Digest,
    /// How many tips the sender has at most.
    pub(super) tip_count: u64,
    pub(super) count: u64,
    /// How many bytes of entries the sender takes before it gives credit. Said in the first Hello of a session.
    pub(super) window_bytes: u64,
    /// Which bodies the sender gives, so that nobody asks for others in vain.
    pub(super) gives: Wants,
}

/// Which endpoint speaks for which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attestation {
    pub(super) device: DeviceKey,
    pub(super) endpoint: DeviceKey,
}

/// The last entry of a branch, as one side tells the other.
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
    /// As in Hello.
    pub(super) tips_digest: Digest,
    pub(super) count: u64,
    /// Entries that the sender has sent in this session.
    pub(super) sent: u64,
    /// The receiver's entries that float at the sender.
    pub(super) floating: u64,
    /// The receiver's entries that are parked at the sender.
    pub(super) parked: u64,
    /// The first ids that the sender knows of without having the entry.
    pub(super) missing: Vec<IntentionId>,
    /// Entries whose bodies the sender keeps back by policy.
    pub(super) withheld: u64,
    /// Whether the sender has also taken in everything that it got, so that this Done is its last word.
    pub(super) last: bool,
    /// Whether ranges were compared, or are being compared, when the sender said Done.
    pub(super) ranged: bool,
}

/// Part of the canonical order: the positions above `from`, up to and including `to`.
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
    /// The LtHash digest of the ids in the range.
    Fingerprint(Digest),
    /// The ids in the range, in canonical order.
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
    /// The first cells of the sketch of what counts at the dialler.
    Sketch {
        round: u64,
        cells: Vec<Cell>,
    },
    /// What the listener read out of a sketch.
    Difference {
        round: u64,
        /// The ids that the dialler alone has; `None` when the cells were too few.
        lacks: Option<Vec<IntentionId>>,
    },
    Error(PeerError),
}

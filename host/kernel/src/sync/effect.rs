//! The inputs of a session and its effects.

use bytes::Bytes;
use lattice_format::{DeviceKey, Digest, IntentionId, SignedHeader};

use super::message::{PeerError, Wants};
use super::peer::Access;
use crate::Received;

/// Which end of the stream this side is. The dialer drives range reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that opened the stream.
    Dialer,
    /// The side that accepted the stream.
    Listener,
}

/// What a session is told at its beginning.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which end of the stream this side is.
    pub role: Role,
    /// This node's device key.
    pub device: DeviceKey,
    /// This node's authenticated endpoint id; today the device key.
    pub endpoint: DeviceKey,
    /// The peer's authenticated endpoint id.
    pub peer: DeviceKey,
    /// What this node wants: headers, the system lane, or all.
    pub wants: Wants,
    /// What governance lets the peer have.
    pub access: Access,
}

/// What happened to a session.
#[derive(Debug)]
pub enum Input {
    /// The stream is open. This is the first input at both ends.
    Start,
    /// Bytes that came from the stream, cut anywhere.
    Bytes(Bytes),
    /// The result of `Store::receive` for the last [`Effect::Deliver`], with a snapshot that was taken afterwards.
    /// `None` when the store could not take the batch now; it is dropped, and a later round asks for it.
    Received(Option<Received>),
    /// The log has grown: `snapshot` holds entries that earlier ones did not.
    Changed,
    /// Gossip announced these ids, with this session's peer as a possible source.
    Announced(Vec<IntentionId>),
    /// A new round is wanted: because gossip missed messages, because [`super::Heard::compare`] says so, or because
    /// it is time.
    Reconcile,
    /// Governance has changed what the peer may have. When that is more, give [`Input::Reconcile`] too.
    Access(Access),
    /// The time that [`Effect::WakeAt`] asked for has come, or [`Effect::Again`] was given.
    Tick,
}

/// What the shell is to do. Effects are carried out in the order in which they come.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write these bytes to the stream.
    Send(Bytes),
    /// Give these entries to `Store::receive` and answer with [`Input::Received`]. At most one delivery is
    /// outstanding.
    Deliver(Vec<(SignedHeader, Option<Vec<u8>>)>),
    /// The peer said Hello, with its clock, for the check of drift, and its number of entries.
    PeerHello {
        /// The peer's wall clock, in milliseconds since the Unix epoch.
        clock_ms: u64,
        /// Entries that the peer has witnessed.
        count: u64,
    },
    /// The round is over and both sides hold the same entries.
    InSync {
        /// The digest of the entries that count, which both sides have.
        tips_digest: Digest,
        /// Entries that this node has witnessed.
        count: u64,
    },
    /// The round is over and the peer, by its own word, lacks some of what this node offers.
    PeerLacks(Lack),
    /// The round is over and this node still lacks some of what the peer has.
    WeLack(Lack),
    /// Read nothing from the peer for so many milliseconds, because it sent invalid data.
    Slow {
        /// How long, in milliseconds.
        ms: u64,
        /// What the peer did, for the log (once a peer).
        reason: String,
    },
    /// Call `handle(Input::Tick)` as soon as other work allows, because this step was cut at its bound.
    Again,
    /// Call `handle(Input::Tick)` at or after this time, in milliseconds since the Unix epoch.
    WakeAt {
        /// The time.
        ms: u64,
    },
    /// Write what is left to send, close the stream, and forget the session.
    Close(CloseReason),
}

/// What one side lacks of the other side's entries, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Entries kept back because something they name is missing.
    pub floating: u64,
    /// Entries kept back because their time lies too far ahead.
    pub parked: u64,
    /// Entries kept back by policy: the other side does not give their bodies.
    pub withheld: u64,
    /// The first ids of entries that were asked for and did not come.
    pub missing: Vec<IntentionId>,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer sent an error.
    Peer(PeerError),
    /// This side sent the error. The peer may not have the store, or speaks another version.
    Refused(PeerError),
    /// The peer sent invalid data too often, or broke the framing. The shell drops the connection.
    Faulty {
        /// The last fault.
        reason: String,
    },
}

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How many rounds have begun.
    pub round: u64,
    /// Whether the last round has ended.
    pub settled: bool,
    /// Whether both sides held the same entries when the last round ended.
    pub in_sync: bool,
    /// Entries sent to the peer.
    pub entries_sent: u64,
    /// Entries that came from the peer.
    pub entries_received: u64,
    /// How many faults the peer has committed.
    pub faults: u32,
    /// How many entries the peer has witnessed, as it said last.
    pub peer_count: u64,
}

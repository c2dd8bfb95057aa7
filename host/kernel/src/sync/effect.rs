//! What goes into a session and what comes out of it.

use bytes::Bytes;
use lattice_format::{DeviceKey, Digest, IntentionId, SignedHeader};

use super::message::{PeerError, Wants};
use super::peer::Access;
use crate::Received;

/// Which end of the stream this is. The dialer drives range reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opened the stream.
    Dialer,
    /// Accepted it.
    Listener,
}

/// What a session is told at its beginning.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which end this is.
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

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The stream is open. First input of both ends.
    Start,
    /// Bytes that came from the stream, cut anywhere.
    Bytes(Bytes),
    /// `Store::receive` has taken the last [`Effect::Deliver`]; its result, or `None` when the store
    /// could not take it now (the batch is dropped and asked for at a later round). The snapshot that
    /// comes with it was taken after that.
    Received(Option<Received>),
    /// The log has grown: `snapshot` holds entries that earlier ones did not.
    Changed,
    /// Gossip announced these ids, with this session's peer as a possible source.
    Announced(Vec<IntentionId>),
    /// Reconcile now: on a gossip gap, on `Lagged`, and periodically.
    Reconcile,
    /// Governance has changed what the peer may have. After an upgrade, give [`Input::Reconcile`] too.
    Access(Access),
    /// Ids of the entries that the store holds parked, the first few: told to the peer at the next
    /// round, so that it does not send them again. Optional, before `Start` or `Reconcile`.
    Parked(Vec<IntentionId>),
    /// The time that [`Effect::WakeAt`] asked for has come, or [`Effect::Again`] was given.
    Tick,
}

/// What the shell does, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write these bytes to the stream.
    Send(Bytes),
    /// Give these entries to `Store::receive` and answer with [`Input::Received`]. At most one is
    /// outstanding.
    Deliver(Vec<(SignedHeader, Option<Vec<u8>>)>),
    /// The peer said Hello. Its clock, for the drift check, and how many entries it holds.
    PeerHello {
        /// The peer's wall clock, in milliseconds since the Unix epoch.
        clock_ms: u64,
        /// Entries that the peer has witnessed.
        count: u64,
    },
    /// The round is over and both sides hold the same entries.
    InSync {
        /// Digest of the tips that both have.
        tips_digest: Digest,
        /// Entries that this node has witnessed.
        count: u64,
    },
    /// The round is over and the peer, by its own word, lacks some of what this node offers.
    PeerLacks(Lack),
    /// The round is over and this node still lacks some of what the peer has.
    WeLack(Lack),
    /// Read nothing from the peer for so many milliseconds: it sent invalid data.
    Slow {
        /// How long, in milliseconds.
        ms: u64,
        /// What it did, for the log (once a peer).
        reason: String,
    },
    /// Call `handle(Input::Tick)` as soon as other work allows: this step was cut at its bound.
    Again,
    /// Call `handle(Input::Tick)` at or after this time, in milliseconds since the Unix epoch.
    WakeAt {
        /// The time.
        ms: u64,
    },
    /// Write what was sent, close the stream, and forget the session.
    Close(CloseReason),
}

/// What one side lacks of the other, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Entries kept back because something they name is missing.
    pub floating: u64,
    /// Entries kept back because their time lies too far ahead.
    pub parked: u64,
    /// Entries kept back by policy: the other side does not give their bodies.
    pub withheld: u64,
    /// Ids that were asked for and not got; the first few.
    pub missing: Vec<IntentionId>,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer sent an error.
    Peer(PeerError),
    /// This side sent that error: the peer may not have the store, or speaks another version.
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
    /// Rounds begun.
    pub round: u64,
    /// Whether the last round has ended.
    pub settled: bool,
    /// Whether both sides held the same entries when it ended.
    pub in_sync: bool,
    /// Entries sent to the peer.
    pub entries_sent: u64,
    /// Entries that came from the peer.
    pub entries_received: u64,
    /// The peer's faults.
    pub faults: u32,
    /// Entries that the peer has witnessed, by its last word.
    pub peer_count: u64,
}

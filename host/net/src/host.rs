//! What the network asks of the node around it.
//!
//! The daemon is one host, the test host another. Functions that return at once must not block:
//! they are asked on the network's own tasks. What takes time is a future.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use lattice_format::{DeviceKey, Signature, SignedHeader, StoreId};
use lattice_kernel::blob::BlobStore;
use lattice_kernel::clock::Reading;
pub use lattice_kernel::sync::{Access, Governance, Misbehaviour};
use lattice_kernel::{Received, Snapshot};

/// Entries as they travel: a signed header, with or without its body.
pub type Entries = Vec<(SignedHeader, Option<Vec<u8>>)>;

/// The node around the network.
pub trait NetHost: Send + Sync + 'static {
    /// Both clocks of the node.
    fn reading(&self) -> Reading;

    /// The wall clock, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64 {
        self.reading().wall_ms
    }

    /// The stores that this node serves. A store whose governance component is missing is not among
    /// them, except while this node is joining it.
    fn stores(&self) -> Vec<StoreId>;

    /// What the log of a store holds durably; `None` for a store that this node does not have.
    fn snapshot(&self, store: &StoreId) -> Option<Snapshot>;

    /// Whether a store is being opened, as stores are when a node starts. It gives a snapshot soon.
    fn is_opening(&self, _store: &StoreId) -> bool {
        false
    }

    /// Whether this node has a store, and could give a snapshot of it. Called often.
    fn serves(&self, store: &StoreId) -> bool {
        self.snapshot(store).is_some()
    }

    /// Whether a store rests: nothing has changed it since it was closed, and a snapshot would open it. Sessions that
    /// are in sync leave it alone.
    fn rests(&self, _store: &StoreId) -> bool {
        false
    }

    /// Who is and was a member, as of the end of the system lane; `None` as long as that is unknown.
    /// Called often: keep the answer, and replace it when the system lane changes
    /// ([`Governance::read`]). The same `Arc` means that nothing changed.
    fn governance(&self, store: &StoreId) -> Option<Arc<Governance>>;

    /// Gives received entries to the store's writer, and says what became of them once they are
    /// durable.
    ///
    /// # Errors
    /// When the store cannot take them now. The session pauses and tries again later.
    fn deliver(
        &self,
        store: StoreId,
        from: DeviceKey,
        entries: Entries,
    ) -> BoxFuture<'static, Result<Received, DeliverError>>;

    /// How an invite stands, by its public key, judged by the time that a claim would get now.
    fn invite(
        &self,
        store: StoreId,
        invite: DeviceKey,
    ) -> BoxFuture<'static, Result<InviteState, DeliverError>>;

    /// Appends the admission that a claim asks for, by a call of this node in the system lane, and
    /// resolves when it is durable. The signature was checked before.
    ///
    /// # Errors
    /// Why the claim was not admitted.
    fn claim(&self, store: StoreId, claim: Claim) -> BoxFuture<'static, Result<(), ClaimRefusal>>;

    /// The blobs of this node. They are served to members in the scope of the store that they were
    /// received or made in, and what is fetched goes there.
    fn blobs(&self) -> Arc<BlobStore>;

    /// Something happened. Must not block.
    fn event(&self, event: NetEvent);
}

/// The signed wish of a device to be admitted by an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The invite's public key.
    pub invite: DeviceKey,
    /// The device that wants in.
    pub device: DeviceKey,
    /// What people may call it; at most 256 bytes.
    pub name: String,
    /// By the invite's private key, over [`crate::token::claim_message`].
    pub signature: Signature,
}

/// How an invite stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteState {
    /// It can be claimed.
    Open,
    /// It ended at that time, in milliseconds since the Unix epoch.
    Expired {
        /// When it ended.
        at_ms: u64,
    },
    /// All its uses are spent.
    Spent {
        /// How many there were.
        uses: u32,
    },
    /// An admin took it back, or its author lost the right to invite.
    Cancelled,
    /// This node knows of no such invite. It may not have received it yet.
    Unknown,
}

/// Why a claim was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefusal {
    /// See [`InviteState`]; never [`InviteState::Open`].
    #[error("the invite is not open: {0:?}")]
    Invite(InviteState),
    /// The device was a member before; only an admin can admit it again.
    #[error("the device was a member before")]
    AdmittedBefore,
    /// This node may not append the admission now (not ready, paused, no member itself). Another
    /// member may.
    #[error("this node cannot carry the claim now: {0}")]
    NotHere(String),
    /// Governance refused for another reason.
    #[error("refused: {0}")]
    Refused(String),
}

/// Why a store did not take entries, or answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot be reached now: {reason}")]
pub struct DeliverError {
    /// One line.
    pub reason: String,
}

/// Something that happened on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A connection for sync stands.
    PeerUp {
        /// The peer.
        peer: DeviceKey,
    },
    /// It ended.
    PeerDown {
        /// The peer.
        peer: DeviceKey,
        /// One line.
        reason: String,
    },
    /// Where a peer was reached. Persist these, replacing the older ones of that peer, and give them
    /// to `Net::start` next time.
    Addresses {
        /// The peer.
        peer: DeviceKey,
        /// At most [`crate::limits::ADDRESSES_PER_PEER`], the newest first.
        addresses: Vec<SocketAddr>,
    },
    /// Another node on the local network announces itself with this device's key. Anybody there can say so. Raised once.
    KeyElsewhere {
        /// Where it says that it is.
        addresses: Vec<SocketAddr>,
    },
    /// A peer and this node hold the same entries of a store.
    InSync {
        /// The store.
        store: StoreId,
        /// The peer.
        peer: DeviceKey,
    },
    /// A peer keeps entries of this node back, because their times lie too far ahead of its clock.
    Parks {
        /// The store.
        store: StoreId,
        /// The peer.
        peer: DeviceKey,
    },
    /// A peer broke the protocol. Logged and raised once for each peer and kind.
    Misbehaviour {
        /// The peer.
        peer: DeviceKey,
        /// What it did.
        kind: Misbehaviour,
        /// One line.
        text: String,
    },
}

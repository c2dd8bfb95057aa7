//! The network of a Lattice node: one iroh endpoint, gossip, and streams around the protocol values
//! of the kernel.
//!
//! This crate decides nothing about entries: it moves what [`lattice_kernel::sync`] and
//! [`lattice_kernel::blob`] say, finds and keeps peers, bounds what strangers can cost, and carries
//! joins. What a fault of a peer costs the kernel decides as well. It prints nothing, reads no environment and no files; the node around it is a [`NetHost`].
//!
//! | file | holds |
//! |---|---|
//! | `host` | what the node must offer |
//! | `net` | start, close, and what the node tells the network |
//! | `context` | what every task needs |
//! | `link`, `links` | connections to peers |
//! | `session`, `sessions`, `stores` | one sync session a store and peer |
//! | `gossip` | announcements of new ids |
//! | `lan` | peers on the local network, by multicast DNS |
//! | `blob` | blobs by hash, in the scope of a store |
//! | `token`, `join` | invitations, and how a device becomes a member |
//! | `peers`, `allowances` | what is known of peers, and granted to them |

pub mod blob;
pub mod config;
pub mod endpoint;
pub mod gossip;
pub mod host;
pub mod join;
pub mod limits;
pub mod peers;
pub mod token;

mod addresses;
mod allowances;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod bounds;
mod context;
mod frame;
mod handshakes;
mod lan;
mod link;
mod links;
mod net;
mod session;
mod sessions;
mod stores;

pub use config::{NetConfig, Timings};
pub use endpoint::StartError;
pub use host::{
    Access, Claim, ClaimRefusal, DeliverError, Entries, Governance, InviteState, Misbehaviour,
    NetEvent, NetHost,
};
pub use join::{Inspected, JoinError, JoinHost, JoinPhase, JoinTask};
pub use net::Net;
pub use peers::{PeerStatus, PeerStoreStatus};
pub use token::{InviteKey, PeerAddr, Token, TokenError};

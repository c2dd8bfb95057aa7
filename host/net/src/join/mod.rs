//! Joining a store: how the holder of an invite becomes a member, from any member that answers.
//!
//! A joiner *inspects* first: it proves that it holds the invite, and gets the genesis and what its
//! components are, so that a person can decide. Then it fetches the components in the scope of the
//! token, and sends its *claim*; the member's node appends the admission. From then on it is a member
//! like any other, and ordinary sync brings the history. Each request carries the proof, so a joiner
//! may change to another member between any two.

mod client;
mod serve;
mod task;
mod wire;

pub use client::{ComponentInfo, Inspected, JoinError};
pub(crate) use serve::JoinProtocol;
pub use task::{Agreement, JoinHost, JoinPhase, JoinTask, JoinTaskError};

/// The protocol's name in ALPN. One bidirectional stream is one request.
pub const ALPN: &[u8] = b"/lattice/join/1";

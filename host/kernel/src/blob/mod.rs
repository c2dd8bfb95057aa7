//! Blobs: code and file contents, named by the BLAKE3 hash of their bytes.
//!
//! [`BlobStore`] keeps blobs in a directory. [`Fetch`] gets one blob from several peers, and [`Server`] answers the
//! requests of one peer. Both are values: bytes in, bytes out, no sockets and no clock.
//!
//! Every piece travels with the hashes that prove it (bao, BLAKE3 verified streaming). So wrong bytes are never kept
//! as right ones, and their sender is known. A blob is served in the scope of a store only if it was received or made
//! in that store, so a peer cannot tell which blobs other stores have.

pub mod limits;

mod fetch;
mod message;
mod partial;
mod serve;
mod store;

#[cfg(test)]
mod tests;

pub use fetch::{Fetch, FetchEffect, FetchFailure, FetchInput};
pub use serve::{Served, Server, ServerFault};
pub use store::{BlobError, BlobStore};

/// The protocol's name in ALPN (application-layer protocol negotiation). One bidirectional stream
/// carries requests one way and pieces the other.
pub const ALPN: &[u8] = b"/lattice/blob/1";

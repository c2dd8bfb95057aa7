//! Blobs: code and file contents, named by the BLAKE3 hash of their bytes.
//!
//! [`BlobStore`] keeps them in a directory. [`Fetch`] gets one blob from several peers and [`Server`]
//! serves them, both as values: bytes in, bytes out, no sockets and no clock. Every piece travels with
//! the hashes that prove it (bao, BLAKE3 verified streaming), so wrong bytes never reach the disk as
//! right ones, and whoever sent them is known. A blob is served in the scope of a store only if it was
//! received or made in that store; that it is here for another one cannot be told from outside.

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

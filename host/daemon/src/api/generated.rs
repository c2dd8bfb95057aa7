//! The gRPC API, as generated from `proto/lattice.proto`.
//!
//! The documentation of every message stands in that file and is carried over.

// Generated code is not ours to polish.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

tonic::include_proto!("lattice.v1");

/// The encoded file descriptor set of this API, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/lattice_descriptor.bin"));

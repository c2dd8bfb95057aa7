//! The gRPC API, as generated from `proto/lattice.proto`.
//!
//! That file has the documentation of every message, from where it is copied into this code.

// Generated code does not follow the rules of the workspace.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

tonic::include_proto!("lattice.v1");

/// The encoded file descriptor set of this API, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/lattice_descriptor.bin"));

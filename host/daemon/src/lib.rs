//! A Lattice node: composition root and gRPC server.

pub mod api;

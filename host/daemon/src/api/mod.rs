//! The gRPC API: its messages, its services, and its server.

pub(crate) mod failure;
mod generated;
pub(crate) mod outcome;
pub(crate) mod page;
pub(crate) mod server;
mod service;

pub use generated::*;

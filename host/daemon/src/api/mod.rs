//! The gRPC API: its messages, and what serves them.

pub(crate) mod failure;
mod generated;
pub(crate) mod outcome;
pub(crate) mod page;
pub(crate) mod server;
mod service;

pub use generated::*;

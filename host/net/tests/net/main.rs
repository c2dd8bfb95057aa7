//! Nodes in one process, on loopback, with real stores; and peers that break the protocols.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod blobs;
mod bounds;
mod host;
mod hostile;
mod joins;
mod replication;

//! The kernel of Lattice: the log, admission, the fold, and the protocols that carry entries.
//!
//! This crate opens no socket, starts no thread, reads no clock, draws no randomness and runs no
//! Wasm; it names no store type. Times, seeds and the engine that runs components are arguments, so
//! the daemon and the simulator run the same objects. A write passes through
//! `admit → log → dag → fold → versions → state`, a file each.

pub mod admit;
pub mod cell;
mod dag;
pub mod engine;
mod floating;
mod fold;
mod governance;
pub mod kv;
pub mod limits;
mod local;
mod log;
pub mod lthash;
pub mod mutant;
mod notice;
pub mod outcome;
mod record;
pub mod run;
pub mod scratch;
mod snapshot;
mod state;
mod store;
pub mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod versions;

pub use dag::LocalSeq;
pub use floating::{FloatReason, FloatingRow, ParkedRow};
pub use fold::{Changes, Settled};
pub use kv::StorageError;
pub use local::{CallError, Told};
pub use log::{Files, Stored, WitnessRecord};
pub use notice::Notice;
pub use outcome::{HostRefusal, Outcome, TrapKind};
pub use snapshot::{HistoryRow, Queried, Snapshot, Summary, Tip};
pub use versions::RootDigests;
pub use store::{Blame, CreateError, NewStore, OpenError, Received, Store};

//! The kernel of Lattice: the log, admission, the fold, and the protocols that carry entries.
//!
//! This crate opens no socket, starts no thread, reads no clock, draws no randomness and runs no
//! Wasm; it names no store type. Times, seeds and the engine that runs components are arguments, so
//! the daemon and the simulator run the same objects. A write passes through
//! `admit → log → dag → fold → versions → state`, a file each.

pub mod admit;
pub mod blob;
#[cfg(test)]
mod bounds;
mod called;
pub mod cell;
mod commit;
mod compare;
mod dag;
pub mod engine;
mod execution;
mod files;
mod floating;
mod fold;
mod governance;
mod grow;
mod ids;
pub mod limits;
mod local;
mod log;
pub mod lthash;
pub mod mutant;
mod near;
mod notice;
pub mod outcome;
mod past;
mod quota;
mod reads;
mod receive;
mod recent;
mod record;
pub mod rows;
pub mod run;
mod scan;
pub mod scratch;
mod snapshot;
mod state;
mod store;
mod suspicion;
pub mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod versions;

pub use dag::LocalSeq;
pub use files::Files;
pub use floating::{FloatReason, FloatingRow, ParkedRow};
pub use fold::{Changes, Settled};
pub use local::{CallError, Told};
pub use log::{Stored, WitnessRecord};
pub use notice::Notice;
pub use outcome::{HostRefusal, Outcome, TrapKind};
pub use receive::{Blame, Received};
pub use rows::StorageError;
pub use snapshot::{HistoryRow, Queried, Snapshot, StateRow, Summary, Tip};
pub use store::{CreateError, NewStore, OpenError, Store};
pub use versions::RootDigests;

//! The kernel of Lattice: the log, admission, the fold, and the protocols that carry entries.
//!
//! This crate opens no socket, starts no thread, reads no clock, draws no randomness and runs no Wasm. It names no
//! store type. Times, seeds and the engine that runs components are arguments, so the daemon and the simulator run
//! the same objects. ARCHITECTURE.md lists the files in the order in which a write passes through them.

#[cfg(test)]
extern crate self as lattice_kernel;

pub mod blob;
#[cfg(test)]
mod bounds;
pub mod clock;
pub mod fold;
mod frame;
pub mod graph;
#[cfg(test)]
mod growth;
pub mod limits;
mod log;
pub mod mutant;
pub mod outcome;
pub mod run;
pub mod state;
pub mod storage;
mod store;
pub mod sync;
// The models of host/testing are compiled into the unit tests. Through the crate they would bring a second kernel,
// whose types are not those of this one.
#[cfg(test)]
#[path = "../../testing/src/model/mod.rs"]
pub mod testing;

pub use fold::core::{Changes, Settled};
pub use graph::pending::{FloatReason, FloatingRow, ParkedRow};
pub use log::notice::Notice;
pub use log::{Stored, WitnessRecord};
pub use outcome::{HostRefusal, Outcome, TrapKind};
pub use state::versions::RootDigests;
pub use storage::error::LOG_REMEDY;
pub use storage::error::{StorageError, StoreFile};
pub use storage::files::Files;
pub use storage::keys::LocalSeq;
pub use storage::log_files::{JournalFile, LogFiles, ReadSegment};
pub use storage::machine::{Unopened, machine_remedy};
pub use storage::node_file::{NodeFile, NodeFileError};
pub use store::ahead::{RestartError, SetAside};
pub use store::call_end::{CallError, Told};
pub use store::commit::CommitError;
pub use store::head_ids::HeadIds;
pub use store::receive::{Blame, Received};
pub use store::snapshot::{HistoryRow, Queried, Snapshot, StateRow, Summary, Tip};
pub use store::verification::{BatchVerifier, VerifyBatch};
pub use store::{CreateError, NewStore, OpenError, Store, writer};

//! What the writer of a store has the rest of the node do.

use lattice_format::{IntentionId, VerifiedHeader};

use crate::fold::core::Changes;
use crate::log::notice::Notice;
use crate::run::engine::HostFault;
use crate::storage::error::StorageError;
use crate::store::call_end::{CallError, Told};
use crate::store::receive::Received;
use crate::store::snapshot::Snapshot;

/// The result of a commit of calls.
#[derive(Debug)]
pub struct Group<C> {
    /// The new entries in the order of the log; none when the commit failed.
    pub written: Vec<VerifiedHeader>,
    /// The tokens of the callers, and the answer to each. Calls that are in the log are in `written` in the same order.
    pub answers: Vec<(C, Result<Told, CallError>)>,
}

impl<C> Group<C> {
    /// Answers of calls none of which is in the log.
    pub(crate) fn unwritten(answers: Vec<(C, Result<Told, CallError>)>) -> Self {
        Self {
            written: Vec::new(),
            answers,
        }
    }
}

/// How far a rebuild is.
#[derive(Debug)]
pub enum Rebuild {
    /// It goes on. The number of runs that are due.
    Pending(u64),
    /// It has ended. The snapshot has the new state.
    Done(Box<Snapshot>),
    /// It failed, for this reason.
    Failed(String),
}

/// What the rest of the node is to do. Effects are carried out in the order in which they come.
#[derive(Debug)]
pub enum Effect<C, R> {
    /// Give this snapshot to readers from now on. It comes before the answers of its commit, so that a caller who was
    /// answered reads what it wrote.
    Show {
        /// The view of what the log holds durably.
        snapshot: Snapshot,
        /// Why a lane is paused, if one is.
        paused: Option<HostFault>,
        /// Whether cells or entries changed since the last [`Effect::Show`].
        moved: bool,
    },
    /// Answer the callers.
    Answer(Group<C>),
    /// A peer's entries were received. Those that were witnessed are durable.
    Received {
        /// The token of whoever waits for the result.
        token: R,
        /// The result.
        received: Result<Received, StorageError>,
    },
    /// Tell watches and peers of these changes. It comes after the answers to those who wait.
    Tell {
        /// The cells that changed, and the entries that were witnessed.
        changes: Changes,
        /// The entries among them that this node wrote with its last commit.
        written: Vec<IntentionId>,
    },
    /// Store these notices in the node, and then give [`Input::Kept`](crate::store::writer::Input::Kept) with their numbers; until then they are handed
    /// over again. Or the error of reading or acknowledging notices.
    Notices(Result<Vec<(u64, Notice)>, StorageError>),
    /// A rebuild has advanced or ended.
    Rebuild(Rebuild),
    /// The disk failed, for this reason, and the writer has closed the store.
    Stop(String),
    /// Open the store, and give [`Input::Opened`](crate::store::writer::Input::Opened) if that succeeds. The writer asks for it once a tick until it does, and
    /// at most once between two ticks.
    Open,
    /// The writer has ended and takes no more input. The error says why not everything was made durable.
    Closed(Result<(), StorageError>),
}

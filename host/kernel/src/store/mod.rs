//! One store with its single writer: the one path that local, gossiped and synced intentions take.

pub(crate) mod author;
pub(crate) mod commit;
mod open;
pub(crate) mod receive;
pub(crate) mod snapshot;
pub(crate) mod verification;
pub mod writer;

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lattice_format::{ChainId, DeviceKey, StoreId};

use crate::fold::core::{Changes, Core};
use crate::graph::pending::{FloatingRow, ParkedRow, Waiting};
use crate::log::notice::{Kept, Notice};
use crate::log::{Append, Closes, WitnessRecord};
use crate::storage::error::StorageError;
use crate::storage::health::Wake;
use crate::storage::keys::LocalSeq;
use crate::store::author::{CallError, Open};
use crate::store::commit::Undo;
use crate::store::snapshot::Snapshot;

pub use open::{CreateError, NewStore, OpenError};

/// The single writer of one store.
pub struct Store {
    pub(crate) core: Core,
    pub(crate) key: SigningKey,
    pub(crate) author: DeviceKey,
    pub(crate) open: Option<Open>,
    /// A chain that this device does not go on with.
    pub(crate) left_chain: Option<ChainId>,
    /// The number of entries that the log holds durably.
    pub(crate) durable: LocalSeq,
    pub(crate) pending: Vec<Append>,
    pub(crate) waiting: Waiting,
    pub(crate) flushed_at_ms: u64,
    pub(crate) kept_notices: Kept,
    pub(crate) published: Snapshot,
    pub(crate) undo: Option<Undo>,
    /// Why an intention could not be signed: everybody who waits for the next commit is told.
    pub(crate) unsigned: Option<CallError>,
    /// What failed after a batch was durable.
    pub(crate) broken: Option<StorageError>,
    /// The state's file is closed with its only writer; this is for the log's.
    _closes: Closes,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Store({}, {} entries)",
            self.core.info.id, self.core.progress.next.0
        )
    }
}

impl Store {
    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.core.info.id
    }

    /// Has `wake` called when a read of this store's files fails, whoever reads: a view that is out, or the store
    /// itself. It must not block, and its answer is [`Store::examine`] by whoever owns the store.
    pub fn on_failed_read(&self, wake: impl Fn() + Send + Sync + 'static) {
        let wake: Wake = Arc::new(wake);
        self.core.log.on_failed_read(wake.clone());
        self.core.rows.on_failed_read(wake);
    }

    /// Looks, if a read has failed since the last time, whether the databases go on: redb takes nothing any more
    /// after an error of its file. Costs nothing as long as none has failed.
    ///
    /// # Errors
    /// When they do not: the store must be opened again.
    pub fn examine(&self) -> Result<(), StorageError> {
        self.core.log.examine()?;
        self.core.rows.examine()
    }

    /// What the log holds durably.
    pub fn snapshot(&self) -> Snapshot {
        self.published.clone()
    }

    /// The same, for whoever needs it no longer than the store stays as it is.
    pub fn published(&self) -> &Snapshot {
        &self.published
    }

    // --- for status and people -------------------------------------------------------------------

    /// What changed since the last call of this function.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.core.changes)
    }

    /// Entries that wait for something else.
    pub fn floating(&self) -> Vec<FloatingRow> {
        self.waiting.floating()
    }

    /// Entries that wait for their time.
    pub fn parked(&self) -> Vec<ParkedRow> {
        self.waiting.parked()
    }

    /// How many entries float, and how many are parked.
    pub fn waiting_counts(&self) -> (usize, usize) {
        self.waiting.counts()
    }

    /// Unacknowledged notices by number, oldest first, and last how many more were raised than are kept.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn notices(&self) -> Result<Vec<(u64, Notice)>, StorageError> {
        self.core.log.notices()
    }

    /// Removes notices; tells how many there were.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn acknowledge(&mut self, numbers: &[u64]) -> Result<usize, StorageError> {
        let count = self.core.log.acknowledge(numbers)?;
        self.kept_notices = self.kept_notices.left(&self.core.log.notices()?);
        Ok(count)
    }

    /// The chain that this device writes; `None` until it has started one here.
    pub fn own_chain(&self) -> Option<ChainId> {
        self.core.progress.chain
    }

    /// Does not go on with that chain: if it is the one that this device writes, its next intention starts
    /// another. For a store that was put back to an earlier day, and may lack the end of its own chain.
    /// Lasts as long as this value.
    pub fn leave_chain(&mut self, chain: ChainId) {
        self.left_chain = Some(chain);
    }

    /// The last signed link of the witness chain.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn last_witness(&self) -> Result<Option<(LocalSeq, WitnessRecord)>, StorageError> {
        self.core.log.last_witness()
    }
}

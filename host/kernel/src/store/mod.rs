//! One store and its single writer: the one path that local, gossiped and synced intentions take.

pub(crate) mod ahead;
pub(crate) mod author;
pub(crate) mod call_end;
pub(crate) mod commit;
pub(crate) mod effect;
mod gather;
pub(crate) mod head_ids;
pub(crate) mod job;
mod open;
pub(crate) mod receive;
pub(crate) mod snapshot;
pub(crate) mod unsure;
pub(crate) mod verification;
pub mod writer;

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lattice_format::{ChainId, DeviceKey, StoreId, VerifiedHeader};

use crate::fold::core::{Changes, Core};
use crate::graph::pending::{FloatingRow, ParkedRow, Waiting};
use crate::log::notice::{Kept, Notice};
use crate::log::{Append, Closes, WitnessRecord};
use crate::storage::error::StorageError;
use crate::storage::health::Wake;
use crate::storage::keys::LocalSeq;
use crate::store::ahead::Ahead;
use crate::store::author::Open;
use crate::store::call_end::CallError;
use crate::store::commit::Undo;
use crate::store::snapshot::Snapshot;

pub use open::{CreateError, NewStore, OpenError};

/// One store, as its single writer has it.
pub struct Store {
    pub(crate) core: Core,
    pub(crate) key: SigningKey,
    pub(crate) author: DeviceKey,
    pub(crate) open: Option<Open>,
    /// A chain that this device does not continue, see [`Store::leave_chain`].
    pub(crate) left_chain: Option<ChainId>,
    /// The number of entries that the log holds durably.
    pub(crate) durable: LocalSeq,
    pub(crate) pending: Vec<Append>,
    pub(crate) waiting: Waiting,
    pub(crate) flushed_at_ms: u64,
    pub(crate) witnessed_at_ms: u64,
    pub(crate) kept_notices: Kept,
    pub(crate) published: Snapshot,
    pub(crate) undo: Option<Undo>,
    pub(crate) ahead: Ahead,
    /// Why an intention could not be signed. The next commit returns it, so all callers that wait for it are told.
    pub(crate) unsigned: Option<CallError>,
    /// The entries of a batch whose append failed, until the writer takes them.
    pub(crate) unsure: Vec<VerifiedHeader>,
    /// The error of the derived state after a batch was durable. From then on the store must be opened again.
    pub(crate) broken: Option<StorageError>,
    /// Closes the log's files with the store. The state's file needs no such field, because `core` alone owns it.
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

    /// Has `wake` called when a read of this store's files fails, by a snapshot or by the store itself. `wake` must not
    /// block. The owner of the store should then call [`Store::examine`].
    pub fn on_failed_read(&self, wake: impl Fn() + Send + Sync + 'static) {
        let wake: Wake = Arc::new(wake);
        self.core.log.on_failed_read(wake.clone());
        self.core.rows.on_failed_read(wake);
    }

    /// If a read has failed since the last call, examines whether the databases still take transactions: after an error
    /// of its file redb takes none. Costs nothing as long as no read has failed.
    ///
    /// # Errors
    /// When a database takes no transactions. The store must then be opened again.
    pub fn examine(&self) -> Result<(), StorageError> {
        self.core.log.examine()?;
        self.core.rows.examine()
    }

    /// Whether it takes nothing, because its disk can only be read.
    pub fn is_read_only(&self) -> bool {
        matches!(self.core.log.is_read_only(), Ok(true))
    }

    /// Whether its disk could only be read when it was opened, and can be written by now, so that it must be opened
    /// again to take anything.
    pub fn has_become_writable(&self) -> bool {
        self.core.log.is_read_only().is_err()
    }

    /// The published snapshot: a view of everything that the log holds durably.
    pub fn snapshot(&self) -> Snapshot {
        self.published.clone()
    }

    /// The snapshot of [`Store::snapshot`], without the clone.
    pub fn published(&self) -> &Snapshot {
        &self.published
    }

    /// Returns what changed since the last call of this function.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.core.changes)
    }

    /// The floating entries, which wait for something that they name or for their body.
    pub fn floating(&self) -> Vec<FloatingRow> {
        self.waiting.floating()
    }

    /// The parked entries, which wait for their time.
    pub fn parked(&self) -> Vec<ParkedRow> {
        self.waiting.parked()
    }

    /// The number of floating entries, and of parked ones.
    pub fn waiting_counts(&self) -> (usize, usize) {
        self.waiting.counts()
    }

    /// The bytes of the headers and bodies of floating entries, and of parked ones.
    pub fn waiting_bytes(&self) -> (usize, usize) {
        self.waiting.bytes()
    }

    /// How many void entries of an author are kept, and the bytes of their bodies.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn void_kept(&self, author: &DeviceKey) -> Result<(u64, u64), StorageError> {
        let kept = crate::graph::void::Kept::of(&self.core.rows, author)?;
        Ok((kept.entries, kept.bytes))
    }

    /// The notices that are not acknowledged, with their numbers, the oldest first. If more were raised than are kept,
    /// the last one is [`Notice::More`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn notices(&self) -> Result<Vec<(u64, Notice)>, StorageError> {
        self.core.log.notices()
    }

    /// Removes the notices with these numbers. Returns how many of them there were.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn acknowledge(&mut self, numbers: &[u64]) -> Result<usize, StorageError> {
        let count = self.core.log.acknowledge(numbers)?;
        self.kept_notices = self.kept_notices.left(&self.core.log.notices()?);
        Ok(count)
    }

    /// The chain that this device writes; `None` until it has started one in this store.
    pub fn own_chain(&self) -> Option<ChainId> {
        self.core.progress.chain
    }

    /// Makes this device not continue `chain`: if it writes that chain, its next intention starts another. For a store
    /// that was restored from a backup and may lack the end of its own chain. The effect ends when the store is closed.
    pub fn leave_chain(&mut self, chain: ChainId) {
        self.left_chain = Some(chain);
    }

    /// The last signed link of the witness chain, and the last entry that it covers.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn last_witness(&self) -> Result<Option<(LocalSeq, WitnessRecord)>, StorageError> {
        self.core.log.last_witness()
    }
}

//! Reports of failed reads to the store's writer, which can open the store anew.
//!
//! After one error of its file redb refuses every transaction and every read that is not in its cache, until the
//! file is opened anew. A reader of a view sees that first, but cannot open the file. The store's writer can, but may
//! not read for hours. So a failed read wakes the writer, and the writer asks the database whether it still takes
//! transactions. It does after an error that opening it anew would not mend, such as a damaged row.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use redb::Database;

use crate::storage::db::guard;
use crate::storage::error::{StorageError, StoreFile};

/// The callback for a failed read. It must not block.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// Whether a read of one database has failed since the last [`Health::look`]. All views of the database share it.
#[derive(Default)]
pub(crate) struct Health {
    raised: AtomicBool,
    wake: OnceLock<Wake>,
}

impl Health {
    /// Has `wake` called at the first read that fails, and at the first one after each [`Health::look`].
    pub(crate) fn set_wake(&self, wake: Wake) {
        // A second callback is ignored: a database has one writer, which sets one.
        let _ = self.wake.set(wake);
    }

    /// Returns the result of a read as it is. The first failed read since the last look wakes the writer.
    pub(crate) fn of<T>(&self, read: Result<T, StorageError>) -> Result<T, StorageError> {
        if read.is_err()
            && !self.raised.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
        read
    }

    /// If a read has failed since the last look, examines whether the database still takes transactions.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn look(&self, file: StoreFile, db: &Database) -> Result<(), StorageError> {
        // The flag is cleared before the examination, so a read that fails meanwhile leads to another look.
        if !self.raised.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        // redb panics here when another thread has panicked while it held a lock of redb.
        guard(file, || Ok(db.begin_write()?.abort()?))
    }
}

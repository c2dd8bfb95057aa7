//! Reads that failed, for the one who can open the store anew.
//!
//! After one error of its file redb refuses every transaction and every read that is not in its cache, until the
//! file is opened anew. Whoever reads a view is the first to see that, and can do nothing about it; the store's
//! writer can, and may not read for hours. So a view that fails a read wakes the writer, which asks the database
//! itself: what fails a single read, such as a damaged row, is nothing that opening it anew would mend.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use redb::Database;

use crate::storage::db::guard;
use crate::storage::error::{StorageError, StoreFile};

/// What is called when a read has failed. Must not block.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// Whether a read of one database has failed since somebody last looked; shared by its views.
#[derive(Default)]
pub(crate) struct Health {
    raised: AtomicBool,
    wake: OnceLock<Wake>,
}

impl Health {
    /// Has `wake` called at the first read that fails, and at the first after each look.
    pub(crate) fn set_wake(&self, wake: Wake) {
        // The first stays: a database has one writer.
        let _ = self.wake.set(wake);
    }

    /// What came of a read, having raised the health if it failed.
    pub(crate) fn of<T>(&self, read: Result<T, StorageError>) -> Result<T, StorageError> {
        if read.is_err()
            && !self.raised.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
        read
    }

    /// Looks, if a read has failed, whether the database still takes transactions.
    pub(crate) fn look(&self, file: StoreFile, db: &Database) -> Result<(), StorageError> {
        // First: what fails from here on is for the next look.
        if !self.raised.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        // redb panics where another thread did in the middle of something.
        guard(file, || Ok(db.begin_write()?.abort()?))
    }
}

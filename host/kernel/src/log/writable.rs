//! Whether a log takes entries: one on a disk that can only be read takes none, and is read all the same.

use std::io;

use crate::log::Log;
use crate::storage::error::{StorageError, StoreFile};

impl Log {
    /// Whether nothing can be appended, because the disk can only be read.
    ///
    /// # Errors
    /// When it can be written by now: the store must be opened again.
    pub(crate) fn is_read_only(&self) -> Result<bool, StorageError> {
        self.segments.is_read_only()
    }

    /// Lets nothing be appended where the disk can only be read.
    pub(crate) fn check_writable(&self) -> Result<(), StorageError> {
        match self.is_read_only()? {
            false => Ok(()),
            true => {
                let error = io::ErrorKind::ReadOnlyFilesystem.into();
                Err(StorageError::failed(StoreFile::Log, error))
            }
        }
    }
}

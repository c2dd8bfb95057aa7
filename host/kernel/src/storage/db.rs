//! The guard around redb: errors and panics of redb become errors that name the file.
//!
//! redb asserts what it finds in a file, so some kinds of damage make it panic. In a host with many stores such damage
//! must stop no store but its own. After a panic nobody sees work that is half done: the locks of redb are poisoned,
//! so every later use of the file panics too, and the guard makes an error of that.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::storage::error::{StorageError, StoreFile};
use crate::storage::machine::CONTRADICTION;

/// Why guarded work failed.
pub(crate) enum Failed {
    /// An error of redb, without its file. The guard adds the file.
    Redb(redb::Error),
    /// An error that names its file already.
    Storage(StorageError),
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for Failed {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// Runs `work` on `file`. An error without a file gets `file`, and a panic becomes damage of `file`.
pub(crate) fn guard<T>(
    file: StoreFile,
    work: impl FnOnce() -> Result<T, Failed>,
) -> Result<T, StorageError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failed::Storage(error))) => Err(error),
        Ok(Err(Failed::Redb(error))) => Err(StorageError::of_redb(file, error)),
        Err(_) => Err(StorageError::damaged(file, CONTRADICTION)),
    }
}

/// Opens `file` under the guard.
pub(crate) fn open<T>(
    file: StoreFile,
    open: impl FnOnce() -> Result<T, redb::DatabaseError>,
) -> Result<Open<T>, StorageError> {
    let opened = guard(file, || Ok(open()))?;
    let db = opened.map_err(|error| StorageError::unopened(file, error))?;
    Ok(Open { db: Some(db), file })
}

/// An open file. Closing it never panics: damage that redb meets then is written to the log of the process.
pub(crate) struct Open<T> {
    db: Option<T>,
    file: StoreFile,
}

impl<T> Open<T> {
    /// Takes over a database that was opened elsewhere.
    pub(crate) fn of(file: StoreFile, db: T) -> Self {
        Self { db: Some(db), file }
    }
}

impl<T> std::ops::Deref for Open<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.db.as_ref().expect("taken by drop alone")
    }
}

impl<T> Drop for Open<T> {
    fn drop(&mut self) {
        let db = self.db.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("{} is damaged: it could not be closed", self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_refusals_are_errors_of_the_file() {
        let file = StoreFile::Segment(3);
        let panicked = guard::<()>(file, || panic!("unreachable")).unwrap_err();
        assert_eq!(panicked, StorageError::damaged(file, CONTRADICTION));
        let refused = guard::<()>(file, || Err(redb::StorageError::PreviousIo.into()));
        assert_eq!(refused.unwrap_err().file(), file);
        // An error that names its file passes the guard unchanged.
        let inner = StorageError::damaged(StoreFile::Log, "a hole");
        let passed = guard::<()>(file, || Err(inner.clone().into()));
        assert_eq!(passed.unwrap_err(), inner);
        struct Breaks;
        impl Drop for Breaks {
            fn drop(&mut self) {
                panic!("it cannot be closed");
            }
        }
        drop(Open::of(file, Breaks));
    }
}

//! The two databases of a store, in a directory or in memory.

use std::path::Path;

use redb::Database;

use crate::storage::rows::StorageError;

/// Where the two databases of a store are.
#[derive(Debug)]
pub struct Files {
    pub(crate) log: Database,
    pub(crate) state: Database,
}

/// Memory that redb may use for pages of one database, in bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

impl Files {
    /// The files of a store in its directory, made if they do not exist. A damaged `state.redb` is
    /// removed and made anew, since it can be derived; a damaged `log.redb` is an error.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn in_dir(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join("log.redb");
        let open = |path: &Path| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            // redb asserts what it finds in a file.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.create(path)))
                .unwrap_or_else(|_| {
                    Err(redb::DatabaseError::Storage(redb::StorageError::Corrupted(
                        "its pages contradict each other".into(),
                    )))
                })
        };
        let log = open(&path).map_err(|error| {
            StorageError(format!(
                "{} does not open: {error}; if it is damaged, restore the store from a backup, or join it again",
                path.display()
            ))
        })?;
        let path = dir.join("state.redb");
        let state = match open(&path) {
            Ok(state) => state,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(StorageError(format!(
                    "{}: another process has it open",
                    path.display()
                )));
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "rebuilding damaged derived state");
                std::fs::remove_file(&path)
                    .map_err(|error| StorageError(format!("{}: {error}", path.display())))?;
                open(&path).map_err(|error| StorageError(format!("{}: {error}", path.display())))?
            }
        };
        Ok(Self { log, state })
    }

    /// Databases over any redb backend: in memory, or one that loses writes.
    pub fn from_databases(log: Database, state: Database) -> Self {
        Self { log, state }
    }
}

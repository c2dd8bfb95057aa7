//! The files of a store: the segments of its log, and the database of the derived state.

use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError};

use crate::limits::SEGMENT_BYTES;
use crate::storage::db::guard;
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::log_files::{LOG_DIR, LogDirectory, LogFiles, segments_in};

/// The file of the log in stores of version 0.1.
const OLD_LOG: &str = "log.redb";

/// The files that hold the log and the derived state of a store.
#[derive(Debug)]
pub struct Files {
    pub(crate) log: Box<dyn LogFiles>,
    /// Bytes of rows after which a segment of the log is full.
    pub(crate) segment_bytes: u64,
    pub(crate) state: Database,
}

/// Memory that redb may use for pages of the derived state, in bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

impl Files {
    /// The files of the store in directory `dir`. Creates `state.redb` if it does not exist; the first entry creates
    /// the log. A damaged `state.redb` is removed and created anew, since it can be derived. The directory must keep
    /// its name while the files are open, because the log creates new segments in it.
    ///
    /// # Errors
    /// When `state.redb` cannot be opened, or the store is one of version 0.1.
    pub fn in_dir(dir: &Path) -> Result<Self, StorageError> {
        let old = dir.join(OLD_LOG);
        if old.exists() {
            return Err(StorageError::unusable(
                StoreFile::Log,
                format_args!(
                    "{} is of version 0.1, whose stores this version does not open; go on with version 0.1, or remove \
                     the store's directory and join it again (members may run either version)",
                    old.display()
                ),
            ));
        }
        let file = StoreFile::State;
        let open = |path: &Path| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            guard(file, || Ok(builder.create(path)))
        };
        let path = dir.join("state.redb");
        let damage: Box<dyn std::fmt::Display> = match open(&path) {
            Ok(Ok(state)) => return Ok(Self::with_state(dir, state)),
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
                let why = format_args!("another process has {} open", path.display());
                return Err(StorageError::unusable(file, why));
            }
            Ok(Err(error)) => Box::new(error),
            Err(error) => Box::new(error),
        };
        tracing::warn!(path = %path.display(), error = %damage, "rebuilding damaged derived state");
        std::fs::remove_file(&path).map_err(|error| StorageError::failed(file, error))?;
        let state = open(&path)?.map_err(|error| StorageError::unopened(file, error))?;
        Ok(Self::with_state(dir, state))
    }

    fn with_state(dir: &Path, state: Database) -> Self {
        let log = LogDirectory::of_store(dir);
        Self::from_parts(Box::new(log), SEGMENT_BYTES, state)
    }

    /// Whether directory `dir` is one of a store, of any version.
    pub fn are_in(dir: &Path) -> bool {
        dir.join(LOG_DIR).exists() || dir.join(OLD_LOG).exists()
    }

    /// The segments of the log of the store in directory `dir`: the number of the first entry and the file, ascending.
    /// Opens none of them.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(dir: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
        segments_in(&dir.join(LOG_DIR))
    }

    /// A log whose segments are full after `segment_bytes` bytes of rows, and a database over any redb backend.
    pub fn from_parts(log: Box<dyn LogFiles>, segment_bytes: u64, state: Database) -> Self {
        Self {
            log,
            segment_bytes,
            state,
        }
    }
}

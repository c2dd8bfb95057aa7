//! The files of a store: the segments of its log, and the database of the derived state.

use std::io;
use std::path::{Path, PathBuf};

use redb::Database;
use redb::backends::InMemoryBackend;

use crate::limits::SEGMENT_BYTES;
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::log_files::{LOG_DIR, LogDirectory, LogFiles, segments_in};
use crate::storage::machine::{Unopened, open_file};
use crate::storage::read_only::{self, Lasting, is_for_reading};

/// The file of the log in stores of version 0.1.
const OLD_LOG: &str = "log.redb";

/// The files that hold the log and the derived state of a store.
#[derive(Debug)]
pub struct Files {
    pub(crate) log: Box<dyn LogFiles>,
    /// Bytes of rows after which a segment of the log is full.
    pub(crate) segment_bytes: u64,
    pub(crate) state: Database,
    /// What was wrong with the `state.redb` that was removed, if one was.
    removed_state: Option<String>,
}

/// Memory that redb may use for pages of the derived state, in bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

impl Files {
    /// The files of a store in its directory, made if they do not exist: the log with the first entry. A `state.redb`
    /// that redb finds damaged is removed and made anew, since it can be derived; [`Files::removed_state`] tells. No
    /// limit, permission or disk that fails removes it. The directory must keep its name while they are open: the log
    /// makes new segments in it.
    ///
    /// # Errors
    /// When `state.redb` cannot be opened, or the store is one of version 0.1.
    pub fn in_dir(dir: &Path) -> Result<Self, StorageError> {
        let old = dir.join(OLD_LOG);
        let is_old = old.try_exists();
        if is_old.map_err(|error| StorageError::failed(StoreFile::Log, error))? {
            return Err(StorageError::unusable(
                StoreFile::Log,
                format_args!(
                    "{} is of version 0.1, whose stores this version does not open; go on with version 0.1, or remove \
                     the store's directory and join it again (members may run either version)",
                    old.display()
                ),
            ));
        }
        let path = dir.join("state.redb");
        let open = || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            open_file(&path, || match builder.create(&path) {
                // What was lost is derived in memory.
                Err(error) if is_for_reading(&error) && matches!(path.try_exists(), Ok(false)) => {
                    builder.create_with_backend(InMemoryBackend::new())
                }
                Err(error) if is_for_reading(&error) => {
                    read_only::open(&builder, &path, Lasting::Nothing)
                }
                created => created,
            })
        };
        let damage = match open() {
            Ok(state) => return Ok(Self::with_state(dir, state)),
            Err(Unopened::Damaged(what)) => what,
            Err(error) => return Err(StorageError::of_state(error)),
        };
        tracing::warn!(path = %path.display(), "removing the damaged derived state, to make it again: {damage}");
        std::fs::remove_file(&path)
            .map_err(|error| StorageError::failed(StoreFile::State, error))?;
        let state = open().map_err(StorageError::of_state)?;
        Ok(Self {
            removed_state: Some(damage),
            ..Self::with_state(dir, state)
        })
    }

    /// What was wrong with the `state.redb` that was removed when these files were opened; `None` when none was.
    pub fn removed_state(&self) -> Option<&str> {
        self.removed_state.as_deref()
    }

    fn with_state(dir: &Path, state: Database) -> Self {
        let log = LogDirectory::of_store(dir);
        Self::from_parts(Box::new(log), SEGMENT_BYTES, state)
    }

    /// Whether directory `dir` is one of a store, of any version.
    ///
    /// # Errors
    /// When the system does not tell: then it may be.
    pub fn are_in(dir: &Path) -> io::Result<bool> {
        Ok(dir.join(LOG_DIR).try_exists()? || dir.join(OLD_LOG).try_exists()?)
    }

    /// The segments of the log of the store in directory `dir`: the number of the first entry and the file, ascending.
    /// Opens none of them.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
        segments_in(&dir.join(LOG_DIR))
    }

    /// A log whose segments are full after `segment_bytes` bytes of rows, and a database over any redb backend.
    pub fn from_parts(log: Box<dyn LogFiles>, segment_bytes: u64, state: Database) -> Self {
        Self {
            log,
            segment_bytes,
            state,
            removed_state: None,
        }
    }
}

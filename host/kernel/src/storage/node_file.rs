//! A redb file of the node itself, beside those of its stores: opened anew when its disk has failed.
//!
//! After one error of its file redb refuses every transaction until the file is opened anew. A store's writer does that
//! for the files of its store. Nobody waits beside a file of the node, so the next who needs it opens it.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::storage::machine::{CONTRADICTION, Unopened, open_file};
use crate::storage::read_only::{self, Lasting, is_for_reading};

/// Why a file of the node was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    /// redb refused.
    #[error(transparent)]
    Redb(#[from] redb::Error),
    /// It failed before, and does not open yet.
    #[error(transparent)]
    Unopened(#[from] Unopened),
    /// redb panicked about what it found.
    #[error("it is damaged: {CONTRADICTION}")]
    Panicked,
}

/// A redb file. All methods may be called from several threads.
#[derive(Debug)]
pub struct NodeFile {
    path: PathBuf,
    cache_bytes: usize,
    /// `None` after it failed, until it is opened anew.
    db: Mutex<Option<Database>>,
    /// Whether its disk can only be read.
    is_read_only: AtomicBool,
}

impl NodeFile {
    /// Opens a file, or makes it. So much memory, in bytes, may be used for its pages.
    ///
    /// # Errors
    /// [`Unopened`].
    pub fn open(path: impl Into<PathBuf>, cache_bytes: usize) -> Result<Self, Unopened> {
        let file = Self {
            path: path.into(),
            cache_bytes,
            db: Mutex::default(),
            is_read_only: AtomicBool::new(false),
        };
        *file.lock() = Some(file.opened()?);
        Ok(file)
    }

    fn opened(&self) -> Result<Database, Unopened> {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        let (path, is_read_only) = (&self.path, &self.is_read_only);
        open_file(path, || {
            let created = builder.create(path);
            let reads = matches!(&created, Err(error) if is_for_reading(error));
            is_read_only.store(reads, Ordering::Release);
            match reads {
                true => read_only::open(&builder, path, Lasting::Everything),
                false => created,
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        // It guards a handle, which a panic elsewhere leaves whole.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads in one transaction.
    ///
    /// # Errors
    /// When the file cannot be read, or what `read` returns.
    pub fn read<T, E: From<NodeFileError>>(
        &self,
        read: impl Fn(&ReadTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let begin = |db: &Database| db.begin_read().map_err(redb::Error::from);
        self.run(begin, |transaction| read(&transaction))
    }

    /// Writes in one durable transaction.
    ///
    /// # Errors
    /// When the file cannot be written, or what `write` returns: then nothing is.
    pub fn write<T, E: From<NodeFileError>>(
        &self,
        write: impl Fn(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.give_up_if_writable();
        let begin = |db: &Database| match self.is_read_only.load(Ordering::Acquire) {
            true => Err(redb::Error::Io(io::ErrorKind::ReadOnlyFilesystem.into())),
            false => db.begin_write().map_err(redb::Error::from),
        };
        self.run(begin, |transaction: WriteTransaction| {
            let written = write(&transaction)?;
            let committed = transaction.commit().map_err(redb::Error::from);
            committed.map_err(|error| E::from(NodeFileError::from(error)))?;
            Ok(written)
        })
    }

    /// Runs a transaction. If it fails and the file takes no other, the file is opened anew, for once more.
    fn run<T, X, E: From<NodeFileError>>(
        &self,
        begin: impl Fn(&Database) -> Result<X, redb::Error>,
        work: impl Fn(X) -> Result<T, E>,
    ) -> Result<T, E> {
        let attempt = || match catch_unwind(AssertUnwindSafe(|| work(self.begin(&begin)?))) {
            Ok(done) => done,
            Err(_) => Err(NodeFileError::Panicked.into()),
        };
        let done = attempt();
        let is_read_only = self.is_read_only.load(Ordering::Acquire);
        if done.is_ok() || is_read_only || !self.give_up_if_spent() {
            return done;
        }
        attempt()
    }

    fn begin<X>(
        &self,
        begin: impl Fn(&Database) -> Result<X, redb::Error>,
    ) -> Result<X, NodeFileError> {
        let mut db = self.lock();
        let open = match db.take() {
            Some(open) => open,
            None => self.opened()?,
        };
        let begun = begin(db.insert(open));
        Ok(begun?)
    }

    /// Closes the file if its disk could only be read when it was opened, and can be written by now.
    fn give_up_if_writable(&self) {
        if self.is_read_only.load(Ordering::Acquire)
            && File::options().write(true).open(&self.path).is_ok()
        {
            *self.lock() = None;
            self.is_read_only.store(false, Ordering::Release);
        }
    }

    /// Closes the file if it takes no transaction any more.
    fn give_up_if_spent(&self) -> bool {
        let mut db = self.lock();
        let Some(open) = &*db else { return false };
        // redb panics where another thread did in the middle of something.
        let takes_one = catch_unwind(AssertUnwindSafe(|| {
            let begun = open.begin_write().map_err(redb::Error::from);
            begun.and_then(|transaction| Ok(transaction.abort()?))
        }));
        if matches!(takes_one, Ok(Ok(()))) {
            return false;
        }
        let spent = db.take();
        if catch_unwind(AssertUnwindSafe(|| drop(spent))).is_err() {
            tracing::error!("{} is damaged: it could not be closed", self.path.display());
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use redb::TableDefinition;

    use super::*;

    const ROWS: TableDefinition<'static, u64, u64> = TableDefinition::new("rows");

    fn row(file: &NodeFile) -> Result<Option<u64>, NodeFileError> {
        file.read(|transaction| {
            let table = transaction.open_table(ROWS).map_err(redb::Error::from)?;
            let row = table.get(0).map_err(redb::Error::from)?;
            Ok(row.map(|row| row.value()))
        })
    }

    fn put(file: &NodeFile, value: u64) -> Result<(), NodeFileError> {
        file.write(|transaction| {
            let mut table = transaction.open_table(ROWS).map_err(redb::Error::from)?;
            table.insert(0, value).map_err(redb::Error::from)?;
            Ok(())
        })
    }

    #[test]
    fn a_file_that_failed_is_opened_anew_by_the_next_who_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = NodeFile::open(dir.path().join("file.redb"), 1 << 20).unwrap();
        put(&file, 1).unwrap();
        // Whoever panics in the middle of something leaves redb's locks poisoned.
        let panicked = file.write::<(), NodeFileError>(|transaction| {
            let _table = transaction.open_table(ROWS).map_err(redb::Error::from)?;
            panic!("in the middle")
        });
        assert!(matches!(panicked, Err(NodeFileError::Panicked)));
        assert_eq!(row(&file).unwrap(), Some(1));
        put(&file, 2).unwrap();
        assert_eq!(row(&file).unwrap(), Some(2));
        // One that is closed and cannot be opened says why, until it can.
        *file.lock() = None;
        let path = dir.path().join("file.redb");
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(matches!(row(&file), Err(NodeFileError::Unopened(_))));
        std::fs::rename(dir.path().join("aside"), &path).unwrap();
        assert_eq!(row(&file).unwrap(), Some(2));
    }
}

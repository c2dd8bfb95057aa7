//! The files of a log's segments, and the directory that holds them.
//!
//! A segment is created without a number. When its first rows are durable, a rename gives it its number. So a crash
//! never leaves an unfinished file with a number, and a numbered file that does not open is damaged.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, DatabaseError, ReadableDatabase};

use crate::storage::read_only::{self, Lasting, is_for_reading};

/// The directory of the segments, beside `state.redb`.
pub(crate) const LOG_DIR: &str = "log";
/// The file of the journal, beside the segments.
pub(crate) const JOURNAL_FILE: &str = "journal";
/// The name of a segment that has no number yet.
const UNNAMED: &str = "new.redb";
const SUFFIX: &str = ".redb";

/// Memory that redb may use for pages of the segment that is written, in bytes.
const WRITTEN_CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Memory that redb may use for pages of a segment that is only read, in bytes.
const READ_CACHE_BYTES: usize = 512 * 1024;

/// An open segment that nobody writes any more.
pub type ReadSegment = Box<dyn ReadableDatabase + Send + Sync>;

/// The open journal of a log: a file of fixed length.
pub trait JournalFile: fmt::Debug + Send {
    /// Writes `bytes` from offset `at` on. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. The bytes may be durable nevertheless, or some of them.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The place of a log's segments: a directory, or what a test puts in its place. The number of a segment is that of
/// its first entry.
pub trait LogFiles: fmt::Debug + Send + Sync {
    /// The numbers of the segments, ascending. Removes a segment without a number, which a crash left.
    ///
    /// # Errors
    /// When the disk fails.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// Creates an empty segment without a number, in place of an earlier one that got no number.
    ///
    /// # Errors
    /// When the disk fails or is full.
    fn make(&self) -> Result<Database, DatabaseError>;

    /// Gives the segment that was created last its number, `first`. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. The segment may have its number nevertheless; the next [`LogFiles::list`] tells.
    fn name(&self, first: u64) -> io::Result<()>;

    /// Opens a segment to write it, and repairs it if it was not closed.
    ///
    /// # Errors
    /// When the disk fails, or the file is damaged or in use.
    fn open(&self, first: u64) -> Result<Database, DatabaseError>;

    /// Opens a segment without writing anything.
    ///
    /// # Errors
    /// [`DatabaseError::RepairAborted`] when the segment was not closed; otherwise those of [`LogFiles::open`].
    fn open_to_read(&self, first: u64) -> Result<ReadSegment, DatabaseError>;

    /// Whether the segment that was opened last to be written can only be read, as its disk can.
    fn is_read_only(&self) -> bool {
        false
    }

    /// Whether a segment's file may be written.
    fn may_write(&self, _first: u64) -> bool {
        true
    }

    /// The length of a segment's file, in bytes.
    ///
    /// # Errors
    /// When the disk fails.
    fn bytes(&self, first: u64) -> io::Result<u64>;

    /// What the journal holds; nothing when there is none.
    ///
    /// # Errors
    /// When the disk fails.
    fn read_journal(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Opens the journal to write it. Makes it first if it is shorter than `len` bytes: all of them then have a place
    /// on the disk, and so has its name. `None` where there is no journal, so that every batch goes to a segment.
    ///
    /// # Errors
    /// When the disk fails or is full.
    fn open_journal(&self, _len: usize) -> io::Result<Option<Box<dyn JournalFile>>> {
        Ok(None)
    }

    /// Removes a segment. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails.
    fn remove(&self, first: u64) -> io::Result<()>;
}

/// The segments of a log as files of a directory.
#[derive(Debug)]
pub(crate) struct LogDirectory {
    path: PathBuf,
    is_read_only: AtomicBool,
}

impl LogDirectory {
    /// The log of the store in directory `store`. Creates no file and no directory yet.
    pub(crate) fn of_store(store: &Path) -> Self {
        Self {
            path: store.join(LOG_DIR),
            is_read_only: AtomicBool::new(false),
        }
    }

    fn file(&self, first: u64) -> PathBuf {
        self.path.join(file_name(first))
    }
}

/// The file name of the segment that begins with entry `first`.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:016x}{SUFFIX}")
}

/// The segments in a directory with their paths, ascending; none when the directory does not exist.
pub(crate) fn segments_in(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let rows = match fs::read_dir(directory) {
        Ok(rows) => rows,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for row in rows {
        let row = row?;
        let name = row.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        let first = number.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        // Only names that this host writes count. The parser would also take `+1.redb` for a number.
        if let Some(first) = first
            && name.to_str() == Some(file_name(first).as_str())
        {
            found.push((first, row.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The journal as a file of the directory.
#[derive(Debug)]
struct Journal(File);

impl JournalFile for Journal {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.seek(io::SeekFrom::Start(at))?;
        self.0.write_all(bytes)?;
        self.0.sync_data()
    }
}

impl LogFiles for LogDirectory {
    fn list(&self) -> io::Result<Vec<u64>> {
        let found = segments_in(&self.path)?;
        match fs::remove_file(self.path.join(UNNAMED)) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
        Ok(found.into_iter().map(|(first, _)| first).collect())
    }

    fn make(&self) -> Result<Database, DatabaseError> {
        match fs::create_dir(&self.path) {
            Ok(()) => sync_directory(self.path.parent().unwrap_or(&self.path))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let path = self.path.join(UNNAMED);
        // The old file is removed and not truncated, because it may still be open.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut builder = Database::builder();
        builder.set_cache_size(WRITTEN_CACHE_BYTES);
        builder.create(path)
    }

    fn name(&self, first: u64) -> io::Result<()> {
        fs::rename(self.path.join(UNNAMED), self.file(first))?;
        sync_directory(&self.path)
    }

    fn open(&self, first: u64) -> Result<Database, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(WRITTEN_CACHE_BYTES);
        let path = self.file(first);
        let opened = builder.open(&path);
        let is_read_only = matches!(&opened, Err(error) if is_for_reading(error));
        self.is_read_only.store(is_read_only, Ordering::Release);
        match is_read_only {
            true => read_only::open(&builder, &path, Lasting::Everything),
            false => opened,
        }
    }

    fn open_to_read(&self, first: u64) -> Result<ReadSegment, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(READ_CACHE_BYTES);
        let path = self.file(first);
        match builder.open_read_only(&path) {
            // What would repair it is kept in memory.
            Err(DatabaseError::RepairAborted) if self.is_read_only() => {
                let repaired = read_only::open(&builder, &path, Lasting::Nothing)?;
                Ok(Box::new(repaired))
            }
            opened => Ok(Box::new(opened?)),
        }
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Acquire)
    }

    fn may_write(&self, first: u64) -> bool {
        File::options().write(true).open(self.file(first)).is_ok()
    }

    fn bytes(&self, first: u64) -> io::Result<u64> {
        Ok(fs::metadata(self.file(first))?.len())
    }

    fn read_journal(&self) -> io::Result<Vec<u8>> {
        match fs::read(self.path.join(JOURNAL_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    fn open_journal(&self, len: usize) -> io::Result<Option<Box<dyn JournalFile>>> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path.join(JOURNAL_FILE))?;
        let has = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if has < len {
            file.seek(io::SeekFrom::End(0))?;
            file.write_all(&vec![0; len - has])?;
            file.sync_all()?;
            sync_directory(&self.path)?;
        }
        Ok(Some(Box::new(Journal(file))))
    }

    fn remove(&self, first: u64) -> io::Result<()> {
        fs::remove_file(self.file(first))?;
        sync_directory(&self.path)
    }
}

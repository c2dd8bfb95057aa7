//! The segments of a log: which of them holds an entry, and how a new one follows a full one.
//!
//! Only the last segment is written. After a full segment a new one begins, with the number of the next entry. It
//! takes over the rows that must be found without a search (see `mod.rs`). Those rows and its name are durable before
//! it is appended to, so whichever of the two segments is the last one after a crash, the log holds everything that
//! was acknowledged. Then the old segment is closed, and nobody writes it again.
//!
//! redb lets a file grow by doubling. Closing the file cuts off the free pages at its end. Free pages before the end
//! were never written and take no disk: a segment of 98,000 entries appended one by one is 114 MiB long and takes
//! 65 MiB of disk, before and after redb compacts it. So nothing is compacted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use redb::{Database, DatabaseError, ReadableDatabase};

use crate::limits::OPEN_SEGMENTS_MAX;
use crate::storage::db::{self, Failed, Open, guard};
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::log_files::{LogFiles, ReadSegment};
use crate::storage::machine::lacks_descriptors;

/// A segment, by the number of its first entry. Errors show it as the path of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment(pub(crate) u64);

impl std::fmt::Display for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file().fmt(f)
    }
}

impl Segment {
    pub(crate) fn file(self) -> StoreFile {
        StoreFile::Segment(self.0)
    }

    /// The error for bytes of a segment that no node wrote.
    pub(crate) fn damaged(self, what: impl std::fmt::Display) -> StorageError {
        StorageError::damaged(self.file(), what)
    }
}

/// An open segment that nobody writes any more.
type Reader = Arc<Open<ReadSegment>>;

/// The segments of one log. Some of them are open.
pub(crate) struct Segments {
    files: Box<dyn LogFiles>,
    full_bytes: u64,
    written: RwLock<Written>,
    /// About how many bytes of rows the last segment holds.
    bytes: AtomicU64,
    reading: Mutex<Reading>,
}

/// The part that the writer changes. Readers of the last segment hold its lock, so the segment is closed only when
/// nobody reads it.
struct Written {
    /// The segments, ascending.
    all: Vec<Segment>,
    /// The last of the segments.
    last: Option<Open<Database>>,
    /// Why the log takes no reads and writes any more.
    ended: Option<&'static str>,
}

#[derive(Default)]
struct Reading {
    /// The open segments besides the last one, in order of use: the one read most recently is at the end.
    open: Vec<(Segment, Reader)>,
    closed: bool,
}

const CLOSED: &str = "it is closed, as its store is";
const UNSURE: &str =
    "whether a new segment has its name is not known; the store must be opened again";

impl Segments {
    /// Opens the last segment, if there is any.
    pub(crate) fn open(files: Box<dyn LogFiles>, full_bytes: u64) -> Result<Self, StorageError> {
        let failed = |error| StorageError::failed(StoreFile::Log, error);
        let all: Vec<_> = files.list().map_err(failed)?;
        let all: Vec<_> = all.into_iter().map(Segment).collect();
        let (mut last, mut bytes) = (None, 0);
        if let Some(segment) = all.last() {
            last = Some(db::open(segment.file(), || files.open(segment.0))?);
            // After a crash the file may be twice as long as its rows. The segment then counts as full earlier.
            bytes = files.bytes(segment.0).map_err(failed)?;
        }
        Ok(Self {
            files,
            full_bytes,
            written: RwLock::new(Written {
                all,
                last,
                ended: None,
            }),
            bytes: AtomicU64::new(bytes),
            reading: Mutex::default(),
        })
    }

    /// The place of the files.
    pub(crate) fn files(&self) -> &dyn LogFiles {
        &*self.files
    }

    fn written(&self) -> Result<RwLockReadGuard<'_, Written>, StorageError> {
        let written = self.written.read().expect("no holder panics");
        match written.ended {
            None => Ok(written),
            Some(why) => Err(StorageError::unusable(StoreFile::Log, why)),
        }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().expect("no holder panics")
    }

    /// The first segment. Entries below its number are not kept.
    pub(crate) fn first(&self) -> Result<Option<Segment>, StorageError> {
        Ok(self.written()?.all.first().copied())
    }

    /// The segment that an entry belongs to, if that is kept, and the segment after it.
    pub(crate) fn around(
        &self,
        local: u64,
    ) -> Result<(Option<Segment>, Option<Segment>), StorageError> {
        let written = self.written()?;
        let after = written.all.partition_point(|segment| segment.0 <= local);
        let before = after.checked_sub(1).map(|at| written.all[at]);
        Ok((before, written.all.get(after).copied()))
    }

    /// The segments from the one that was the last when the log had `local` entries, the newest first.
    pub(crate) fn back_to(&self, local: u64) -> Result<Vec<Segment>, StorageError> {
        let written = self.written()?;
        let first = written.all.partition_point(|segment| segment.0 < local);
        let kept = &written.all[first.saturating_sub(1)..];
        Ok(kept.iter().rev().copied().collect())
    }

    /// Runs `work` on the last segment; `None` when there is no segment.
    pub(crate) fn last<T>(
        &self,
        work: impl FnOnce(Segment, &Database) -> Result<T, Failed>,
    ) -> Result<Option<T>, StorageError> {
        let written = self.written()?;
        let (Some(segment), Some(db)) = (written.all.last(), &written.last) else {
            return Ok(None);
        };
        guard(segment.file(), || work(*segment, db)).map(Some)
    }

    /// Reads a segment, and opens it first if it is not open.
    pub(crate) fn read<T>(
        &self,
        segment: Segment,
        read: impl FnOnce(&dyn ReadableDatabase) -> Result<T, Failed>,
    ) -> Result<T, StorageError> {
        {
            let written = self.written()?;
            if let Some(db) = &written.last
                && written.all.last() == Some(&segment)
            {
                return guard(segment.file(), || read(&**db));
            }
        }
        let reader = self.reader(segment)?;
        let done = guard(segment.file(), || read(&***reader));
        if done.is_err() {
            // After one error redb refuses the file. The next reader opens it anew.
            self.reading().open.retain(|(open, _)| *open != segment);
        }
        done
    }

    /// A segment that nobody writes any more, opened if it is not open. When too many are open, the one that was read
    /// longest ago is closed.
    fn reader(&self, segment: Segment) -> Result<Reader, StorageError> {
        let mut reading = self.reading();
        if reading.closed {
            return Err(StorageError::unusable(StoreFile::Log, CLOSED));
        }
        let open = &mut reading.open;
        if let Some(at) = open.iter().position(|(open, _)| *open == segment) {
            let found = open.remove(at);
            let reader = found.1.clone();
            open.push(found);
            return Ok(reader);
        }
        let reader = Arc::new(db::open(segment.file(), || {
            match self.files.open_to_read(segment.0) {
                // The node ended after the next segment had begun and before this one was closed. Opening it for
                // writing repairs it, and dropping it closes it.
                Err(DatabaseError::RepairAborted) => {
                    drop(self.files.open(segment.0)?);
                    self.files.open_to_read(segment.0)
                }
                // Segments that are only kept open give way.
                Err(error) if lacks_descriptors(&error) && !open.is_empty() => {
                    open.clear();
                    self.files.open_to_read(segment.0)
                }
                opened => opened,
            }
        })?);
        if open.len() == OPEN_SEGMENTS_MAX {
            open.remove(0);
        }
        open.push((segment, reader.clone()));
        Ok(reader)
    }

    /// Whether the next entry, number `next`, begins a new segment.
    pub(crate) fn is_next_new(&self, next: u64) -> Result<bool, StorageError> {
        let full = self.bytes.load(Ordering::Relaxed) >= self.full_bytes;
        Ok(match self.written()?.all.last() {
            Some(last) => full && last.0 < next,
            None => true,
        })
    }

    /// Whether nothing can be appended, because the disk can only be read.
    ///
    /// # Errors
    /// When it can be written by now: the log must be opened again.
    pub(crate) fn is_read_only(&self) -> Result<bool, StorageError> {
        if !self.files.is_read_only() {
            return Ok(false);
        }
        match self.written()?.all.last() {
            Some(last) if self.files.may_write(last.0) => {
                let what = "the disk can be written again; the store must be opened again";
                Err(StorageError::unusable(last.file(), what))
            }
            _ => Ok(true),
        }
    }

    /// Counts bytes of rows that were appended to the last segment.
    pub(crate) fn grown(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Begins a segment. `fill` writes its first rows durably, and returns how many bytes they have.
    pub(crate) fn begin(
        &self,
        segment: Segment,
        fill: impl FnOnce(&Database) -> Result<u64, Failed>,
    ) -> Result<(), StorageError> {
        drop(self.written()?);
        let made = db::open(segment.file(), || self.files.make())?;
        let bytes = guard(segment.file(), || fill(&made))?;
        let named = self.files.name(segment.0);
        let mut written = self.written.write().expect("no holder panics");
        if let Err(error) = named {
            // The segment may have its name nevertheless. Then entries from its number on must not be appended to the
            // segment before it, so the log ends here until it is opened anew.
            written.ended = Some(UNSURE);
            return Err(StorageError::failed(segment.file(), error));
        }
        written.all.push(segment);
        // This closes the segment before it.
        written.last = Some(made);
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Closes all files. Waits for the readers of the last segment.
    pub(crate) fn close(&self) {
        let mut written = self.written.write().expect("no holder panics");
        written.ended = Some(CLOSED);
        written.last = None;
        drop(written);
        let mut reading = self.reading();
        reading.closed = true;
        reading.open.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use redb::TableDefinition;

    use super::*;
    use crate::limits::SEGMENT_BYTES;
    use crate::storage::log_files::{LogDirectory, file_name};

    const ROWS: TableDefinition<'static, u64, u64> = TableDefinition::new("rows");

    fn at(directory: &std::path::Path) -> Segments {
        let files = LogDirectory::of_store(directory);
        Segments::open(Box::new(files), SEGMENT_BYTES).unwrap()
    }

    fn begin(segments: &Segments, first: u64) {
        let fill = |db: &Database| {
            let write = db.begin_write()?;
            write.open_table(ROWS)?.insert(0, first)?;
            write.commit()?;
            Ok(0)
        };
        segments.begin(Segment(first), fill).unwrap();
    }

    fn row(segments: &Segments, first: u64) -> Result<u64, StorageError> {
        segments.read(Segment(first), |db| {
            let row = db.begin_read()?.open_table(ROWS)?.get(0)?;
            Ok(row.map_or(u64::MAX, |row| row.value()))
        })
    }

    #[test]
    fn a_segment_is_full_at_its_bytes_and_never_before_its_first_entry() {
        let dir = tempfile::tempdir().unwrap();
        let segments = at(dir.path());
        assert!(segments.is_next_new(0).unwrap());
        begin(&segments, 0);
        assert!(!segments.is_next_new(5).unwrap());
        segments.grown(SEGMENT_BYTES - 1);
        assert!(!segments.is_next_new(5).unwrap());
        segments.grown(1);
        assert!(segments.is_next_new(5).unwrap());
        assert!(!segments.is_next_new(0).unwrap());
        begin(&segments, 5);
        assert!(!segments.is_next_new(6).unwrap());
    }

    #[test]
    fn so_many_closed_segments_are_open_and_the_others_are_opened_for_their_readers() {
        let dir = tempfile::tempdir().unwrap();
        let segments = at(dir.path());
        let count = OPEN_SEGMENTS_MAX as u64 + 3;
        for first in 0..count {
            begin(&segments, first);
        }
        let open = |segments: &Segments| segments.reading().open.len();
        assert_eq!(open(&segments), 0);
        for _ in 0..2 {
            for first in 0..count {
                assert_eq!(row(&segments, first).unwrap(), first);
                assert!(open(&segments) <= OPEN_SEGMENTS_MAX);
            }
        }
        assert_eq!(open(&segments), OPEN_SEGMENTS_MAX);
        segments.close();
        assert_eq!(open(&segments), 0);
        assert!(row(&segments, 0).is_err());
        assert!(row(&segments, count - 1).is_err());
        // All files are closed, so they can be opened again.
        let again = at(dir.path());
        assert_eq!(row(&again, count - 1).unwrap(), count - 1);
    }

    #[test]
    fn a_segment_that_was_not_closed_is_repaired_for_its_first_reader() {
        let dir = tempfile::tempdir().unwrap();
        let segments = at(dir.path());
        begin(&segments, 0);
        let path = dir.path().join("log").join(file_name(0));
        let unclosed = std::fs::read(&path).unwrap();
        begin(&segments, 1);
        assert_ne!(std::fs::read(&path).unwrap(), unclosed);
        std::fs::write(&path, unclosed).unwrap();
        let files = LogDirectory::of_store(dir.path());
        let refused = files.open_to_read(0);
        assert!(matches!(refused, Err(DatabaseError::RepairAborted)));
        assert_eq!(row(&segments, 0).unwrap(), 0);
        files.open_to_read(0).map(|_| ()).unwrap();
    }

    #[test]
    fn a_directory_lists_segments_alone_and_forgets_one_without_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let files = LogDirectory::of_store(dir.path());
        assert_eq!(files.list().unwrap(), Vec::<u64>::new());
        for first in [0x10, 0] {
            drop(files.make().unwrap());
            files.name(first).unwrap();
        }
        drop(files.make().unwrap());
        let log = dir.path().join("log");
        for other in [
            "10.redb",
            "+000000000000010.redb",
            "notes",
            "0000000000000010.redb~",
        ] {
            std::fs::write(log.join(other), b"").unwrap();
        }
        assert!(log.join("new.redb").exists());
        assert_eq!(files.list().unwrap(), [0, 0x10]);
        assert!(!log.join("new.redb").exists());
        assert!(files.bytes(0).unwrap() > 0);
        files.remove(0).unwrap();
        assert_eq!(files.list().unwrap(), [0x10]);
        files.name(1).unwrap_err();
    }
}

//! The journal: the newest entries, which are durable and not in a segment yet.
//!
//! A durable transaction of a segment writes several pages. A small batch is written faster as a record of some hundred
//! bytes in a file of fixed length, which takes one sync of data that the file system has a place for already. When the
//! file is full, or something else than entries is appended, one transaction moves all of its entries into the last
//! segment, and the file is written from its start again.
//!
//! ```text
//! record   length of the row (u32) local (u64) seal (8) row, as in `entries-2`
//! ```
//!
//! Numbers are little endian. The records that count stand at the start of the file, and their entries are numbered one
//! after the other. What follows is from before the last move: its numbers are lower, so it is not taken for the next
//! record. A record that a crash has cut short fails its seal, and nobody was told that its entry is durable.

use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use crate::limits::{JOURNAL_BYTES, JOURNALED_BYTES_MAX};
use crate::log::row::{SEAL, seal};
use crate::mutant::{self, Mutant};
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::keys::take;
use crate::storage::log_files::{JournalFile, LogFiles};

/// The bytes of a record in front of its row.
const RECORD: usize = 4 + 8 + SEAL;

/// The row of an entry, with its number.
pub(crate) type Row = (u64, Arc<[u8]>);

/// Entries whose numbers follow one another, ascending.
#[derive(Clone, Debug, Default)]
struct Kept(Vec<Row>);

impl Kept {
    fn get(&self, local: u64) -> Option<&Arc<[u8]>> {
        let first = self.0.first()?.0;
        let at = usize::try_from(local.checked_sub(first)?).ok()?;
        self.0.get(at).map(|(_, row)| row)
    }
}

/// The journal of one log. The log's writer appends, and everybody reads.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    file: Mutex<Writing>,
    kept: RwLock<Kept>,
}

/// The file while it is written.
#[derive(Debug, Default)]
struct Writing {
    /// `None` until something is appended.
    open: Option<Box<dyn JournalFile>>,
    /// Where the next record begins.
    end: usize,
    /// Whether an append has failed. What it wrote may be durable all the same, with the numbers of other entries than
    /// those that come next.
    is_unsure: bool,
    /// The records of one batch, kept for the next one so that nothing is allocated.
    buffer: Vec<u8>,
}

const UNPOISONED: &str = "no holder panics";

fn failed(error: std::io::Error) -> StorageError {
    StorageError::failed(StoreFile::Journal, error)
}

fn record_seal(local: u64, row: &[u8]) -> [u8; SEAL] {
    let len = row.len() as u64;
    seal(&[local.to_le_bytes(), len.to_le_bytes()].concat(), row)
}

/// Takes the record at the start of `rest`, if it is one of an entry whose number `fits`.
fn take_record(rest: &mut &[u8], fits: impl Fn(u64) -> bool) -> Option<Row> {
    let len = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    let local = u64::from_le_bytes(take(rest, 8)?.try_into().ok()?);
    let found = take(rest, SEAL)?;
    let row = take(rest, usize::try_from(len).ok()?)?;
    (!row.is_empty() && fits(local) && record_seal(local, row) == *found)
        .then(|| (local, Arc::from(row)))
}

/// The records at the start of a file, where the segments end before entry `next`.
///
/// # Errors
/// When a later record follows one that is damaged: it was written only after that one was durable, so this is not the
/// end that a crash has cut short.
fn records(bytes: &[u8], next: u64) -> Result<Vec<Row>, StorageError> {
    let mut out: Vec<Row> = Vec::new();
    let mut rest = bytes;
    loop {
        let after = out.last().map(|(last, _)| last + 1);
        let mut record = rest;
        match take_record(&mut record, |local| {
            after.is_none_or(|after| after == local)
        }) {
            Some(row) => out.push(row),
            None => break,
        }
        rest = record;
    }
    // Among so few bytes the numbers alone rule out almost every place. Old records have lower ones.
    let next = out.last().map_or(next, |(last, _)| next.max(last + 1));
    let highest = next.saturating_add(JOURNAL_BYTES as u64);
    for at in 0..rest.len() {
        if let Some((later, _)) =
            take_record(&mut &rest[at..], |local| local > next && local < highest)
        {
            return Err(StorageError::damaged(
                StoreFile::Journal,
                format_args!("the record of an entry before entry {later} is not what was written"),
            ));
        }
    }
    Ok(out)
}

impl Journal {
    /// Reads the journal of a log whose segments end before entry `next`. What it holds is written once more where it
    /// stands: after a sync that failed, a file can show what its disk does not have. That needs no space. If it fails,
    /// the log can be read, and takes nothing.
    ///
    /// # Errors
    /// When the disk fails, or entries between the segments and the journal are gone.
    pub(crate) fn open(files: &dyn LogFiles, next: u64) -> Result<Self, StorageError> {
        if mutant::active(Mutant::JournalNotRead) {
            return Ok(Self::default());
        }
        let bytes = files.read_journal().map_err(failed)?;
        let mut found = records(&bytes, next)?;
        let end = found.iter().map(|(_, row)| RECORD + row.len()).sum();
        // A crash between the move into a segment and the next record leaves what was moved.
        found.retain(|(local, _)| *local >= next);
        if let Some((first, _)) = found.first()
            && *first > next
        {
            return Err(StorageError::damaged(
                StoreFile::Journal,
                format_args!(
                    "it begins with entry {first}, and the segments end before entry {next}: a segment is gone or was \
                     replaced by an older one"
                ),
            ));
        }
        let mut writing = Writing::default();
        if !found.is_empty() && !files.is_read_only() {
            writing.end = end;
            let written = files.open_journal(JOURNAL_BYTES).and_then(|open| {
                writing.open = open;
                let open = writing.open.as_mut();
                open.map_or(Ok(()), |open| open.write(0, &bytes[..end]))
            });
            writing.is_unsure = written.is_err();
        }
        Ok(Self {
            file: Mutex::new(writing),
            kept: RwLock::new(Kept(found)),
        })
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.file.lock().expect(UNPOISONED)
    }

    fn reading(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().expect(UNPOISONED)
    }

    /// Appends a batch. Durable when this returns `true`; `false` when it is one for a segment: it is large, or does
    /// not fit behind the others.
    ///
    /// # Errors
    /// When the disk fails. The log must then be opened anew, which tells whether the batch is in it.
    pub(crate) fn append(&self, files: &dyn LogFiles, batch: &[Row]) -> Result<bool, StorageError> {
        let len: usize = batch.iter().map(|(_, row)| RECORD + row.len()).sum();
        let mut writing = self.writing();
        let writing = &mut *writing;
        if len > JOURNALED_BYTES_MAX || writing.end + len > JOURNAL_BYTES {
            return Ok(false);
        }
        let open = match &mut writing.open {
            Some(open) => open,
            closed => {
                // A full disk may have no room for a journal, and some for the batch.
                let Ok(Some(opened)) = files.open_journal(JOURNAL_BYTES) else {
                    return Ok(false);
                };
                closed.insert(opened)
            }
        };
        writing.buffer.clear();
        for (local, row) in batch {
            let len = u32::try_from(row.len()).expect("bounded by JOURNALED_BYTES_MAX");
            writing.buffer.extend_from_slice(&len.to_le_bytes());
            writing.buffer.extend_from_slice(&local.to_le_bytes());
            writing.buffer.extend_from_slice(&record_seal(*local, row));
            writing.buffer.extend_from_slice(row);
        }
        let written = open.write(writing.end as u64, &writing.buffer);
        writing.is_unsure = written.is_err();
        written.map_err(failed)?;
        writing.end += len;
        self.kept
            .write()
            .expect(UNPOISONED)
            .0
            .extend_from_slice(batch);
        Ok(true)
    }

    /// Fails after an append has failed, here or in a segment.
    pub(crate) fn check_sure(&self) -> Result<(), StorageError> {
        match self.writing().is_unsure {
            false => Ok(()),
            true => Err(StorageError::unusable(
                StoreFile::Log,
                "what a failed append left in it is not known; the store must be opened again",
            )),
        }
    }

    /// An append to a segment has failed.
    pub(crate) fn set_unsure(&self) {
        self.writing().is_unsure = true;
    }

    /// The row of an entry; `None` when a segment has it, or nobody.
    pub(crate) fn row(&self, local: u64) -> Option<Arc<[u8]>> {
        self.reading().get(local).cloned()
    }

    /// The entries from number `from` on. Ask before reading a segment: what is moved in between is then found twice
    /// and not missed.
    pub(crate) fn rows_from(&self, from: u64) -> Vec<Row> {
        let kept = self.reading();
        let at = kept.0.partition_point(|(local, _)| *local < from);
        kept.0[at..].to_vec()
    }

    /// The number that follows the last entry; `None` when there is none.
    pub(crate) fn next(&self) -> Option<u64> {
        self.reading().0.last().map(|(last, _)| last + 1)
    }

    /// Forgets all entries: a segment has them, durably.
    pub(crate) fn moved(&self) {
        self.writing().end = 0;
        self.kept.write().expect(UNPOISONED).0.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::log_files::LogDirectory;

    fn row(local: u64, len: usize) -> Row {
        (local, Arc::from(vec![local as u8; len]))
    }

    fn numbers(journal: &Journal) -> Vec<u64> {
        let rows = journal.rows_from(0);
        rows.iter().map(|(local, _)| *local).collect()
    }

    fn directory(dir: &std::path::Path) -> LogDirectory {
        std::fs::create_dir(dir.join("log")).unwrap();
        LogDirectory::of_store(dir)
    }

    #[test]
    fn what_was_appended_is_found_after_opening_and_what_a_segment_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = directory(dir.path());
        let journal = Journal::open(&files, 5).unwrap();
        assert!(journal.append(&files, &[row(5, 10), row(6, 20)]).unwrap());
        assert!(journal.append(&files, &[row(7, 30)]).unwrap());
        assert_eq!(journal.row(6).unwrap()[..], [6; 20]);
        assert!(journal.row(4).is_none() && journal.row(8).is_none());
        let again = Journal::open(&files, 5).unwrap();
        assert_eq!(numbers(&again), [5, 6, 7]);
        assert_eq!(again.next(), Some(8));
        assert_eq!(again.rows_from(6), [row(6, 20), row(7, 30)]);
        assert_eq!(numbers(&Journal::open(&files, 7).unwrap()), [7]);
        assert_eq!(Journal::open(&files, 8).unwrap().next(), None);
        let gap = Journal::open(&files, 4).unwrap_err();
        assert!(gap.to_string().contains("entry 5"), "{gap}");
    }

    #[test]
    fn the_bytes_of_a_record_are_fixed() {
        let dir = tempfile::tempdir().unwrap();
        let files = directory(dir.path());
        let journal = Journal::open(&files, 0x102).unwrap();
        assert!(journal.append(&files, &[row(0x102, 3)]).unwrap());
        let bytes = std::fs::read(dir.path().join("log").join("journal")).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let record = "03000000".to_owned() + "0201000000000000" + "50d578b7247ffdec" + "020202";
        assert!(hex.starts_with(&record), "{}", &hex[..60]);
        assert!(hex[record.len()..].bytes().all(|digit| digit == b'0'));
    }

    #[test]
    fn a_record_is_not_followed_by_what_was_there_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = directory(dir.path());
        let journal = Journal::open(&files, 0).unwrap();
        let batch: Vec<_> = (0..9).map(|local| row(local, 40)).collect();
        assert!(journal.append(&files, &batch).unwrap());
        journal.moved();
        assert_eq!(journal.next(), None);
        // Records of the same lengths, so that the old ones stand just behind the new ones.
        assert!(journal.append(&files, &[row(9, 40), row(10, 40)]).unwrap());
        assert_eq!(numbers(&Journal::open(&files, 9).unwrap()), [9, 10]);
    }

    #[test]
    fn a_record_that_was_cut_short_or_changed_ends_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let files = directory(dir.path());
        let journal = Journal::open(&files, 0).unwrap();
        assert!(journal.append(&files, &[row(0, 40), row(1, 40)]).unwrap());
        let path = dir.path().join("log").join("journal");
        let sound = std::fs::read(&path).unwrap();
        let second = RECORD + 40..2 * (RECORD + 40);
        for at in second {
            let mut torn = sound.clone();
            torn[at] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(numbers(&Journal::open(&files, 0).unwrap()), [0], "{at}");
            std::fs::write(&path, &sound[..at]).unwrap();
            assert_eq!(numbers(&Journal::open(&files, 0).unwrap()), [0], "{at}");
        }
    }

    #[test]
    fn a_damaged_record_before_a_sound_one_is_an_error_and_old_records_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = directory(dir.path());
        let journal = Journal::open(&files, 0).unwrap();
        let batch: Vec<_> = (0..9).map(|local| row(local, 40)).collect();
        assert!(journal.append(&files, &batch).unwrap());
        let path = dir.path().join("log").join("journal");
        let damage = |at: usize| {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
        };
        for record in 0..8 {
            damage(record * (RECORD + 40) + 50);
            let error = Journal::open(&files, 0).unwrap_err();
            assert!(error.is_damage(), "{error}");
            damage(record * (RECORD + 40) + 50);
        }
        // A segment has all of them, and the next record is cut short.
        journal.moved();
        assert!(journal.append(&files, &[row(9, 30)]).unwrap());
        damage(40);
        assert_eq!(Journal::open(&files, 9).unwrap().next(), None);
    }

    #[test]
    fn large_batches_and_those_that_do_not_fit_are_left_to_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        let files = directory(dir.path());
        let journal = Journal::open(&files, 0).unwrap();
        let largest = JOURNALED_BYTES_MAX - RECORD;
        assert!(!journal.append(&files, &[row(0, largest + 1)]).unwrap());
        let fit = (JOURNAL_BYTES / JOURNALED_BYTES_MAX) as u64;
        for local in 0..fit {
            assert!(journal.append(&files, &[row(local, largest)]).unwrap());
        }
        assert!(!journal.append(&files, &[row(fit, largest)]).unwrap());
        assert_eq!(journal.next(), Some(fit));
        journal.moved();
        assert!(journal.append(&files, &[row(fit, largest)]).unwrap());
        let len = std::fs::metadata(dir.path().join("log").join("journal")).unwrap();
        assert_eq!(len.len(), JOURNAL_BYTES as u64);
    }
}

//! A redb file on a disk that can only be read.
//!
//! redb writes into a file as soon as it opens it, and repairs one that was not closed. On such a disk what it writes is
//! kept in memory, and gone with the file: enough to read all that is there. Where something would have to last, the
//! file refuses to sync, so nothing is taken for durable.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError};

/// Bytes that are copied into memory when one of them is written.
const BLOCK: usize = 4096;

/// What becomes of what is written to a file of a disk that can only be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// It can be derived again: it may be gone.
    Nothing,
    /// It would have to last: it is refused.
    Everything,
}

/// Whether an error says that a disk can only be read.
pub(crate) fn is_for_reading(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Io(error)) => {
            error.kind() == io::ErrorKind::ReadOnlyFilesystem
        }
        _ => false,
    }
}

/// Opens a file on a disk that can only be read.
///
/// # Errors
/// When it is not there, cannot be read, is in use, or is damaged.
pub(crate) fn open(
    builder: &Builder,
    path: &Path,
    lasting: Lasting,
) -> Result<Database, DatabaseError> {
    let file = File::open(path)?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(DatabaseError::DatabaseAlreadyOpen),
        Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
    }
    let len = file.metadata()?.len();
    if len == 0 {
        return Err(StorageError::Corrupted("it is empty".into()).into());
    }
    let refuses = Arc::new(AtomicBool::new(false));
    let db = builder.create_with_backend(ReadOnly {
        file,
        written: Mutex::new(Written {
            len,
            on_disk: len,
            blocks: BTreeMap::new(),
        }),
        refuses: refuses.clone(),
    })?;
    refuses.store(lasting == Lasting::Everything, Ordering::Release);
    Ok(db)
}

/// The file, and what was written since.
#[derive(Debug)]
struct ReadOnly {
    file: File,
    written: Mutex<Written>,
    refuses: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// How much of the file counts: what was cut off once is zero after that.
    on_disk: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl ReadOnly {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as it is on the disk, with zeros where there is nothing.
    fn on_disk(&self, number: u64, on_disk: u64) -> io::Result<Box<[u8]>> {
        let mut block = vec![0; BLOCK].into_boxed_slice();
        let start = number * BLOCK as u64;
        let len = on_disk.saturating_sub(start).min(BLOCK as u64) as usize;
        self.file.read_exact_at(&mut block[..len], start)?;
        Ok(block)
    }
}

/// The parts of a span of bytes by block: its number, where the part begins in it, and how long the part is.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let (number, from) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
        let len = (BLOCK - from).min((end - at) as usize);
        at += len as u64;
        Some((number, from, len))
    })
}

impl StorageBackend for ReadOnly {
    /// Somebody who still reads keeps the file open, and must not keep it from being opened to write.
    fn close(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (number, from, len) in parts(offset, rest.len()) {
            let (part, after) = rest.split_at_mut(len);
            match written.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[from..from + len]),
                None => {
                    let block = self.on_disk(number, written.on_disk)?;
                    part.copy_from_slice(&block[from..from + len]);
                }
            }
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        written.len = len;
        written.on_disk = written.on_disk.min(len);
        let first = len.div_ceil(BLOCK as u64);
        written.blocks.split_off(&first);
        // What is cut off of the last block is zero when the file grows again.
        let inside = (len % BLOCK as u64) as usize;
        if inside > 0
            && let Some(block) = written.blocks.get_mut(&(len / BLOCK as u64))
        {
            block[inside..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.refuses.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let on_disk = written.on_disk;
        let mut rest = data;
        for (number, from, len) in parts(offset, data.len()) {
            let (part, after) = rest.split_at(len);
            let block = match written.blocks.entry(number) {
                Entry::Occupied(block) => block.into_mut(),
                Entry::Vacant(place) => place.insert(self.on_disk(number, on_disk)?),
            };
            block[from..from + len].copy_from_slice(part);
            rest = after;
        }
        written.len = written.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use redb::{ReadableDatabase, ReadableTable, TableDefinition};

    use super::*;

    const ROWS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("rows");

    fn put(db: &Database, key: u64) -> Result<(), redb::Error> {
        let write = db.begin_write()?;
        write
            .open_table(ROWS)?
            .insert(key, [key as u8; 5000].as_slice())?;
        Ok(write.commit()?)
    }

    fn keys(db: &Database) -> Vec<u64> {
        let table = db.begin_read().unwrap().open_table(ROWS).unwrap();
        let rows = table.iter().unwrap();
        rows.map(|row| row.unwrap().0.value()).collect()
    }

    #[test]
    fn a_file_that_was_closed_can_be_opened_to_write_while_somebody_still_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.redb");
        put(&Database::create(&path).unwrap(), 1).unwrap();
        let db = open(&Database::builder(), &path, Lasting::Nothing).unwrap();
        assert!(Database::open(&path).is_err(), "it is open");
        let reads = db.begin_read().unwrap();
        drop(db);
        put(&Database::open(&path).unwrap(), 2).unwrap();
        drop(reads);
    }

    #[test]
    fn a_file_of_such_a_disk_is_read_repaired_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.redb");
        let db = Database::create(&path).unwrap();
        for key in 0..50 {
            put(&db, key).unwrap();
        }
        let unclosed = std::fs::read(&path).unwrap();
        drop(db);
        let closed = std::fs::read(&path).unwrap();
        for image in [unclosed, closed] {
            std::fs::write(&path, &image).unwrap();
            for lasting in [Lasting::Nothing, Lasting::Everything] {
                let db = open(&Database::builder(), &path, lasting).unwrap();
                assert_eq!(keys(&db), (0..50).collect::<Vec<_>>());
                let written = (50..90).try_for_each(|key| put(&db, key));
                match lasting {
                    Lasting::Nothing => {
                        written.unwrap();
                        assert_eq!(keys(&db), (0..90).collect::<Vec<_>>());
                    }
                    Lasting::Everything => assert!(written.is_err(), "it was taken for durable"),
                }
                drop(db);
                assert!(
                    std::fs::read(&path).unwrap() == image,
                    "the file was changed"
                );
            }
        }
        std::fs::write(&path, b"").unwrap();
        let empty = open(&Database::builder(), &path, Lasting::Nothing);
        assert!(matches!(
            empty,
            Err(DatabaseError::Storage(StorageError::Corrupted(_)))
        ));
    }

    #[test]
    fn what_is_cut_off_is_zero_when_the_file_grows_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let file = ReadOnly {
            file: File::open(&path).unwrap(),
            written: Mutex::new(Written {
                len: 10_000,
                on_disk: 10_000,
                blocks: BTreeMap::new(),
            }),
            refuses: Arc::default(),
        };
        file.write(4_000, &[9; 200]).unwrap();
        file.set_len(4_100).unwrap();
        file.set_len(12_000).unwrap();
        let mut found = vec![1; 12_000];
        file.read(0, &mut found).unwrap();
        let expected = [vec![7; 4_000], vec![9; 100], vec![0; 7_900]].concat();
        assert!(found == expected);
        assert!(file.read(11_999, &mut [0; 2]).is_err());
    }
}

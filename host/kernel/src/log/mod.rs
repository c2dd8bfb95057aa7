//! The log: every witnessed intention in the order of its arrival, and what callers were told.
//!
//! The log is the truth; all else in a store can be made again from it. It is a sequence of *segments*, each a redb
//! file that is named by the number of its first entry. Only the last segment is written (see `segments.rs`). So a
//! crash costs the repair of one file of a bounded size, and the entries before some number can be dropped by
//! removing files: the log's *base* is the first entry that is kept. One durable transaction appends one batch. Keys
//! ascend, so a batch touches the last page of a table and little more. An index by hash would cost eight times as
//! much; it is derived, and is in `state.redb`. A small entry that is a batch of its own goes to the *journal* first, whose
//! entries are moved into the last segment together (see `journal.rs`).
//!
//! ```text
//! entries-2   local (u64) → seal (8) flags (1: body present) signature (64)
//!                           received ms, after the time of the header (varint, zigzag)
//!                           header len (varint) header, abridged (see row.rs) told len (varint) told body
//! told        nothing for entries of others, else each: len (varint) outcome
//! noticed-2   local (u64) transaction (u32)
//!                         → seal (8) digest of the outcome last told of in a notice
//! notices-2   number (u64) → seal (8), then see notice.rs
//! witness-2   local (u64) → seal (8) chain hash (32) wall ms (8) signature (64)
//! genesis-2   0           → the row of entry 0
//! ```
//!
//! The row of an entry, with the outcomes that callers were told, is in the segment of the entry. Rows that are written
//! later go to the segment that is the last one then, in the same transaction as the batch:
//!
//! - `notices-2` is bounded, so a new segment takes over all of its rows, and only those of the last segment count.
//! - `noticed-2` is not bounded, so its rows stay where they were written. A search for an outcome reads from the last
//!   segment back to that of the entry; the first row that it finds is the newest. Almost every segment has no such
//!   rows; memory lists the segments without them, so that they are not read again.
//! - The last row of `witness-2` is taken over.
//! - The genesis is taken over as `genesis-2`, except in the segment that begins with it. So opening a store reads the
//!   last segment alone, and the first segments may be gone.
//!
//! Assumptions about the disk are those of redb: a committed transaction survives. redb checks its pages only when it
//! repairs a file, so every row begins with a seal: the first 8 bytes of BLAKE3 over the key and the row, with the hash
//! of a body in place of the body. redb also asserts what it finds in a file, so every access is guarded
//! (storage/db.rs), and damage becomes an error that names the file.

mod carried;
mod journal;
pub(crate) mod notice;
mod notices;
mod row;
mod segments;
pub(crate) mod tail;
mod writable;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use lattice_format::{Digest, IntentionId, Signature, StoreId, VerifiedBody, VerifiedHeader};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, TableHandle, WriteTransaction,
};

use crate::log::carried::Carried;
use crate::log::journal::{Journal, Row};
use crate::log::notice::Notice;
use crate::log::row::{noticed_key, sealed};
use crate::log::segments::{Segment, Segments};
use crate::log::tail::Tail;
use crate::mutant::{self, Mutant};
use crate::outcome::Outcome;
use crate::storage::db::Failed;
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::health::{Health, Wake};
use crate::storage::keys::LocalSeq;
use crate::storage::log_files::LogFiles;

type Table<K> = TableDefinition<'static, K, &'static [u8]>;

const ENTRIES: Table<u64> = Table::new("entries-2");
const NOTICES: Table<u64> = Table::new("notices-2");
const NOTICED: Table<(u64, u32)> = Table::new("noticed-2");
const WITNESS: Table<u64> = Table::new("witness-2");
const GENESIS: Table<u64> = Table::new("genesis-2");
/// The names of all tables.
const TABLES: [&str; 5] = [
    "entries-2",
    "notices-2",
    "noticed-2",
    "witness-2",
    "genesis-2",
];

/// The number of the genesis in every log.
const FIRST: LocalSeq = LocalSeq(0);

/// One entry as the log keeps it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The entry's number in this node's log.
    pub local: LocalSeq,
    /// The entry's header.
    pub header: VerifiedHeader,
    /// The entry's body; `None` when only the header was witnessed.
    pub body: Option<Arc<[u8]>>,
    /// When the entry was received, in milliseconds since the Unix epoch by this node's clock.
    pub received_ms: u64,
}

/// A signed link of the witness chain: what this node had witnessed, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessRecord {
    /// Hash over all entries up to this one, in this node's order.
    pub chain: [u8; 32],
    /// When the link was signed, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// This node's signature over the store's id, `chain` and `wall_ms`.
    pub signature: Signature,
}

/// Digests of the outcomes that notices told, by entry and transaction.
pub(crate) type Noticed = BTreeMap<(LocalSeq, u32), Digest>;

/// One entry to append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) header: VerifiedHeader,
    pub(crate) body: Option<VerifiedBody>,
    pub(crate) received_ms: u64,
    /// The outcomes that callers on this node were told, by transaction; empty for entries of others.
    pub(crate) told: Vec<Outcome>,
}

/// The log of one store. Cheap to clone. All clones read, and only the store's writer writes. After [`Closes`] has
/// closed the files, every clone fails.
#[derive(Clone)]
pub(crate) struct Log {
    segments: Arc<Segments>,
    journal: Arc<Journal>,
    health: Arc<Health>,
    /// The store whose log this is, once the genesis has been read.
    store: Arc<OnceLock<StoreId>>,
    recent: Arc<Mutex<Tail>>,
    /// Segments that are not written any more and have no rows of `noticed-2`, so that a search leaves them out.
    unnoticed: Arc<Mutex<BTreeSet<Segment>>>,
}

/// Closes the log's files when it is dropped, however many clones of the log are left. The store owns it, so that the
/// files can be opened anew once the store is gone.
pub(crate) struct Closes(pub(crate) Log);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.segments.close();
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Opens the log of a store, and creates no file. Lists the segments and opens the last one; reads the entries of
    /// the journal and no other.
    pub(crate) fn open(files: Box<dyn LogFiles>, segment_bytes: u64) -> Result<Self, StorageError> {
        let mut log = Self {
            segments: Arc::new(Segments::open(files, segment_bytes)?),
            journal: Arc::default(),
            health: Arc::default(),
            store: Arc::default(),
            recent: Arc::default(),
            unnoticed: Arc::default(),
        };
        log.refuse_newer()?;
        let next = log.len()?;
        log.journal = Arc::new(Journal::open(log.segments.files(), next)?);
        Ok(log)
    }

    /// Moves the entries of the journal into the last segment. Durable when this returns.
    pub(crate) fn empty_journal(&self) -> Result<(), StorageError> {
        if self.journal.next().is_none() {
            return Ok(());
        }
        self.write_to_segment(&[], &[], &Noticed::new(), None)
    }

    /// Refuses a log with a kind of row that this version does not know. A later version can have promised there what
    /// this one would break.
    fn refuse_newer(&self) -> Result<(), StorageError> {
        let unknown = self.read_last(|segment, transaction| {
            let mut tables = transaction.list_tables()?;
            let unknown = tables.find(|table| !TABLES.contains(&table.name()));
            Ok(unknown.map(|table| (segment, table.name().to_owned())))
        })?;
        match unknown.flatten() {
            None => Ok(()),
            Some((segment, table)) => Err(StorageError::unusable(
                segment.file(),
                format_args!(
                    "a newer version of Lattice has written its table {table}; update Lattice"
                ),
            )),
        }
    }

    /// Has `wake` called when a read of any clone fails.
    pub(crate) fn on_failed_read(&self, wake: Wake) {
        self.health.set_wake(wake);
    }

    /// If a read has failed since the last examination, fails when the last segment takes no transactions any more.
    pub(crate) fn examine(&self) -> Result<(), StorageError> {
        self.is_read_only()?;
        self.segments
            .last(|segment, db| Ok(self.health.look(segment.file(), db)?))?;
        Ok(())
    }

    fn read<T>(
        &self,
        segment: Segment,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Failed>,
    ) -> Result<T, StorageError> {
        self.segments.read(segment, |db| read(&db.begin_read()?))
    }

    /// Reads the last segment; `None` when the log has no segment.
    fn read_last<T>(
        &self,
        read: impl FnOnce(Segment, &ReadTransaction) -> Result<T, Failed>,
    ) -> Result<Option<T>, StorageError> {
        let read = |segment, db: &Database| read(segment, &db.begin_read()?);
        self.health.of(self.segments.last(read))
    }

    /// Reads the row of an entry; `None` when the entry is not kept.
    fn read_entry<T>(
        &self,
        local: LocalSeq,
        read: impl FnOnce(&[u8]) -> Result<T, row::Damage>,
    ) -> Result<Option<T>, StorageError> {
        let (Some(segment), _) = self.segments.around(local.0)? else {
            return Ok(None);
        };
        if let Some(row) = self.journal.row(local.0) {
            let read =
                read(&row).map_err(|damage| StorageError::damaged(StoreFile::Journal, damage))?;
            return Ok(Some(read));
        }
        self.read(segment, |transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let Some(row) = table.get(local.0)? else {
                return Ok(None);
            };
            let read = read(row.value()).map_err(|damage| segment.damaged(damage))?;
            Ok(Some(read))
        })
    }

    /// The number that the next entry gets.
    pub(crate) fn len(&self) -> Result<u64, StorageError> {
        let journaled = self.journal.next();
        let len = self.read_last(|segment, transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let last = table.last()?.map(|(key, _)| key.value());
            let next = last.map_or(segment.0, |last| last + 1);
            let count = table.len()?;
            // Entries are never removed from a segment, so their numbers have no gap.
            if next.checked_sub(segment.0) != Some(count) {
                let what = format_args!(
                    "it holds {count} entries from {} on, but the next would be number {next}",
                    segment.0
                );
                return Err(segment.damaged(what).into());
            }
            Ok(next)
        })?;
        Ok(journaled.unwrap_or(0).max(len.unwrap_or(0)))
    }

    /// The number of the first entry that is kept; 0 when nothing was ever appended.
    pub(crate) fn base(&self) -> Result<u64, StorageError> {
        Ok(self.segments.first()?.map_or(0, |segment| segment.0))
    }

    /// The genesis, which is kept whatever is dropped; `None` when nothing was ever appended.
    pub(crate) fn genesis(&self) -> Result<Option<Stored>, StorageError> {
        let found = self.read_last(|segment, transaction| {
            let Some(row) = genesis_row(segment, transaction)? else {
                return Ok(None);
            };
            let genesis =
                row::decode(FIRST, &row, None).map_err(|damage| segment.damaged(damage))?;
            Ok(Some(genesis))
        })?;
        if let Some(genesis) = found.as_ref().and_then(Option::as_ref) {
            self.store
                .get_or_init(|| StoreId::from(genesis.header.id()));
        }
        Ok(found.flatten())
    }

    /// The store whose log this is; `None` when nothing was ever appended.
    fn store(&self) -> Result<Option<StoreId>, StorageError> {
        if self.store.get().is_none() {
            self.genesis()?;
        }
        Ok(self.store.get().copied())
    }

    /// Appends one batch, the first entry as number `first`, with its notices by number, the digests that they told,
    /// and the witness record of the last entry, all together or nothing. Durable when this returns.
    pub(crate) fn append(
        &self,
        first: LocalSeq,
        batch: &[Append],
        notices: &[(u64, Notice)],
        noticed: &Noticed,
        witness: Option<&WitnessRecord>,
    ) -> Result<(), StorageError> {
        self.journal.check_sure()?;
        let mut bytes = 0;
        let rows = (first.0..).zip(batch).map(|(local, entry)| {
            let mut row = Vec::new();
            row::encode(local, entry, &mut row);
            bytes += row.len() as u64;
            (local, row.into())
        });
        let rows: Vec<Row> = rows.collect();
        // A batch without entries begins no segment, because the number of a segment is that of its first entry.
        let begins = !batch.is_empty() && self.segments.is_next_new(first.0)?;
        if begins {
            self.empty_journal()?;
            self.begin_segment(Segment(first.0))?;
        }
        let entries_alone = notices.is_empty() && noticed.is_empty() && witness.is_none();
        // A log without its genesis in a segment is an empty one.
        let journaled = entries_alone
            && !begins
            // A disk may keep any part of a write that a crash cut short, and a batch is kept as a whole or not at all.
            && batch.len() == 1
            && first > FIRST
            && !mutant::active(Mutant::CommitNotDurable)
            && self.journal.append(self.segments.files(), &rows)?;
        if !journaled {
            let witness = witness.map(|record| {
                let last = (first.0 + batch.len() as u64).saturating_sub(1);
                (last, record)
            });
            self.write_to_segment(&rows, notices, noticed, witness)?;
        }
        self.segments.grown(bytes);
        let mut recent = self.recent();
        for (local, entry) in (first.0..).zip(batch) {
            recent.push(Stored {
                local: LocalSeq(local),
                header: entry.header.clone(),
                body: entry.body.as_ref().map(|body| body.bytes().clone()),
                received_ms: entry.received_ms,
            });
        }
        Ok(())
    }

    /// Writes the entries of the journal and what follows them into the last segment, in one transaction.
    fn write_to_segment(
        &self,
        rows: &[Row],
        notices: &[(u64, Notice)],
        noticed: &Noticed,
        witness: Option<(u64, &WitnessRecord)>,
    ) -> Result<(), StorageError> {
        let journaled = self.journal.rows_from(0);
        let written = self.segments.last(|segment, db| {
            let mut written = 0;
            let write = begin_write(db)?;
            {
                let mut entries = write.open_table(ENTRIES)?;
                for (local, row) in journaled.iter().chain(rows) {
                    if entries.insert(local, &**row)?.is_some() {
                        return Err(segment
                            .damaged(format_args!(
                                "it holds entry {local}, which is written just now"
                            ))
                            .into());
                    }
                }
            }
            if !notices.is_empty() {
                let mut table = write.open_table(NOTICES)?;
                for (number, notice) in notices {
                    let row = sealed(&number.to_be_bytes(), &notice.encode());
                    written += row.len();
                    table.insert(number, row.as_slice())?;
                }
            }
            if !noticed.is_empty() {
                let mut table = write.open_table(NOTICED)?;
                for ((local, transaction), digest) in noticed {
                    let row = sealed(&noticed_key(*local, *transaction), &digest.0);
                    written += row.len();
                    table.insert((local.0, *transaction), row.as_slice())?;
                }
            }
            if let Some((last, record)) = witness {
                let row = row::encode_witness(last, record);
                written += row.len();
                write.open_table(WITNESS)?.insert(last, row.as_slice())?;
            }
            write.commit()?;
            Ok(written as u64)
        });
        let written = written.inspect_err(|_| self.journal.set_unsure())?;
        self.segments
            .grown(written.expect("the first batch begins a segment"));
        self.journal.moved();
        Ok(())
    }

    /// Begins a segment with the rows that it takes over from the last one.
    fn begin_segment(&self, segment: Segment) -> Result<(), StorageError> {
        let carried = self.read_last(Carried::read)?.unwrap_or_default();
        self.segments.begin(segment, |db| carried.write(db))
    }

    fn recent(&self) -> MutexGuard<'_, Tail> {
        self.recent.lock().expect("no panic while it is held")
    }

    /// The entry with number `local`; `None` when it is not kept.
    pub(crate) fn entry(&self, local: LocalSeq) -> Result<Option<Stored>, StorageError> {
        self.health.of((|| {
            let base = self.base()?;
            if let Some(entry) = self.recent().get(local) {
                return Ok(Some(entry.clone()));
            }
            if local == FIRST && base > local.0 {
                return self.genesis();
            }
            let store = self.store()?;
            self.read_entry(local, |row| row::decode(local, row, store))
        })())
    }

    /// Up to `limit` entries from number `from` on, ascending. Entries that are not kept are left out.
    pub(crate) fn entries(
        &self,
        from: LocalSeq,
        limit: usize,
    ) -> Result<Vec<Stored>, StorageError> {
        self.health.of((|| {
            let store = self.store()?;
            let mut from = from.0.max(self.base()?);
            let journaled = self.journal.rows_from(from);
            let mut out = Vec::new();
            loop {
                let (Some(segment), after) = self.segments.around(from)? else {
                    break;
                };
                self.read(segment, |transaction| {
                    let table = transaction.open_table(ENTRIES)?;
                    for row in table.range(from..)?.take(limit - out.len()) {
                        let (local, row) = row?;
                        let local = LocalSeq(local.value());
                        let entry = row::decode(local, row.value(), store);
                        out.push(entry.map_err(|damage| segment.damaged(damage))?);
                    }
                    let (Some(after), true) = (after, out.len() < limit) else {
                        return Ok(());
                    };
                    let next = table.last()?.map_or(segment.0, |(key, _)| key.value() + 1);
                    if next == after.0 {
                        return Ok(());
                    }
                    Err(segment
                        .damaged(format_args!(
                            "it ends before entry {next}, and {after} follows: a file between them is gone, or one of \
                             them is damaged"
                        ))
                        .into())
                })?;
                match after {
                    Some(after) if out.len() < limit => from = after.0,
                    _ => break,
                }
            }
            let next = out.last().map_or(from, |last| last.local.0 + 1);
            let behind = journaled.iter().filter(|(local, _)| *local >= next);
            for (local, row) in behind.take(limit - out.len()) {
                let entry = row::decode(LocalSeq(*local), row, store);
                out.push(entry.map_err(|damage| StorageError::damaged(StoreFile::Journal, damage))?);
            }
            Ok(out)
        })())
    }

    /// The outcomes that callers on this node were told of entry `local`; `None` for entries of others.
    pub(crate) fn told(&self, local: LocalSeq) -> Result<Option<Vec<Outcome>>, StorageError> {
        let told = self.read_entry(local, |row| row::told(local, row));
        Ok(self.health.of(told)?.flatten())
    }

    /// The last signed link of the witness chain, and the last entry that it covers.
    pub(crate) fn last_witness(&self) -> Result<Option<(LocalSeq, WitnessRecord)>, StorageError> {
        let found = self.read_last(|segment, transaction| {
            let table = transaction.open_table(WITNESS)?;
            let Some((local, row)) = table.last()? else {
                return Ok(None);
            };
            let local = local.value();
            let record = row::decode_witness(local, row.value())
                .map_err(|damage| segment.damaged(damage))?;
            Ok(Some((LocalSeq(local), record)))
        })?;
        Ok(found.flatten())
    }
}

fn begin_write(db: &Database) -> Result<WriteTransaction, Failed> {
    let mut write = db.begin_write()?;
    write.set_durability(match mutant::active(Mutant::CommitNotDurable) {
        true => Durability::None,
        false => Durability::Immediate,
    })?;
    // Quick repair would cost each commit a second sync. Without it, opening the log after a crash walks through one
    // segment.
    write.set_quick_repair(false);
    Ok(write)
}

/// The row of the genesis in a segment, with its seal.
fn genesis_row(segment: Segment, transaction: &ReadTransaction) -> Result<Option<Vec<u8>>, Failed> {
    let table = match segment.0 == FIRST.0 {
        true => transaction.open_table(ENTRIES)?,
        false => transaction.open_table(GENESIS)?,
    };
    Ok(table.get(FIRST.0)?.map(|row| row.value().to_vec()))
}

/// The error for an entry that the log should hold.
pub(crate) fn lacks(local: LocalSeq) -> StorageError {
    StorageError::damaged(StoreFile::Log, format_args!("it lacks entry {}", local.0))
}

/// The next hash of the witness chain: BLAKE3 in its key derivation mode over the hash before it, the entry's id and
/// the time of its receipt.
pub(crate) fn chain_hash(before: &[u8; 32], id: &IntentionId, received_ms: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("lattice 2026-11 witness chain 1");
    hasher.update(before);
    hasher.update(&id.0);
    hasher.update(&received_ms.to_be_bytes());
    *hasher.finalize().as_bytes()
}

//! The log: every witnessed intention in the order of its arrival, and what callers were told.
//!
//! The log is the truth; all else in a store can be made again from it. It is a sequence of *segments*, each a redb
//! file that is named by the number of its first entry, of which only the last is written (see `segments.rs`). So a
//! crash costs the repair of one file of a bounded size, and what is before some entry can be dropped by removing
//! files: the log's *base* is the first entry that is kept. One durable transaction appends one batch. Keys ascend, so
//! a batch touches the last page of a table and little more (an index by hash would cost eight times as much; it is
//! derived, and lives in `state.redb`).
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
//! What belongs to an entry, its row with what was told, stands in the segment of the entry. What is written at some
//! later time goes to the segment that is the last one then, in the same transaction as the batch:
//!
//! - `notices-2` is bounded, so a new segment takes over all of them, and only those of the last segment count.
//! - `noticed-2` is not bounded, and stays where it was written. Who looks for an outcome reads from the last segment
//!   back to that of the entry; the first row that is found was written last. A segment without such rows, which is
//!   almost every one, is remembered.
//! - Of `witness-2` the last row is taken over.
//! - The genesis is taken over as `genesis-2`, except in the segment that begins with it. So opening a store reads the
//!   last segment alone, and the first ones may be gone.
//!
//! Assumptions about the disk: those of redb. A committed transaction survives. redb checks its
//! pages only when it repairs a file, so every row begins with a seal: the first bytes of BLAKE3
//! over its key and itself (of a body, over its hash). And redb asserts
//! what it finds in a file, so whatever reads one is guarded: damage is an error that says where.

pub(crate) mod notice;
mod row;
mod segments;
pub(crate) mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use lattice_format::{Digest, IntentionId, Signature, StoreId, VerifiedBody, VerifiedHeader};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};

use crate::log::notice::Notice;
use crate::log::row::{noticed_key, sealed, unsealed};
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

/// The number of the genesis.
const FIRST: LocalSeq = LocalSeq(0);

/// One entry as the log keeps it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place in this node's log.
    pub local: LocalSeq,
    /// Its header.
    pub header: VerifiedHeader,
    /// Its body; `None` where only the header was witnessed.
    pub body: Option<Arc<[u8]>>,
    /// When it was received, in milliseconds since the Unix epoch by this node's clock.
    pub received_ms: u64,
}

/// A signed link of the witness chain: what this node had witnessed, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessRecord {
    /// Hash over all entries up to this one, in this node's order.
    pub chain: [u8; 32],
    /// When it was signed, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// This node's signature over `chain` and `wall_ms`.
    pub signature: Signature,
}

/// Outcomes that notices told of, by entry and transaction.
pub(crate) type Noticed = BTreeMap<(LocalSeq, u32), Digest>;

/// One entry to append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) header: VerifiedHeader,
    pub(crate) body: Option<VerifiedBody>,
    pub(crate) received_ms: u64,
    /// What callers here were told, by transaction; empty for entries of others.
    pub(crate) told: Vec<Outcome>,
}

/// The log of one store. Cheap to clone; all clones read, one writes. None does when the store is gone.
#[derive(Clone)]
pub(crate) struct Log {
    segments: Arc<Segments>,
    health: Arc<Health>,
    /// Whose log it is, once it has been read.
    store: Arc<OnceLock<StoreId>>,
    recent: Arc<Mutex<Tail>>,
    /// Segments without rows of outcomes that notices told of, and that are written no more.
    unnoticed: Arc<Mutex<BTreeSet<Segment>>>,
}

/// The log's files belong to its store: with the store they are closed, however many views are left, so that they
/// can be opened anew.
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
    /// Opens the log of a store; makes nothing. Reads no more than which segments there are, and the end of the last.
    pub(crate) fn open(files: Box<dyn LogFiles>, segment_bytes: u64) -> Result<Self, StorageError> {
        Ok(Self {
            segments: Arc::new(Segments::open(files, segment_bytes)?),
            health: Arc::default(),
            store: Arc::default(),
            recent: Arc::default(),
            unnoticed: Arc::default(),
        })
    }

    /// What is to happen when somebody's read fails.
    pub(crate) fn on_failed_read(&self, wake: Wake) {
        self.health.set_wake(wake);
    }

    /// Looks, if a read has failed, whether the segment that is written still takes transactions.
    pub(crate) fn examine(&self) -> Result<(), StorageError> {
        self.segments
            .last(|segment, db| Ok(self.health.look(segment.file(), db)?))?;
        Ok(())
    }

    /// Reads a segment.
    fn read<T>(
        &self,
        segment: Segment,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Failed>,
    ) -> Result<T, StorageError> {
        self.segments.read(segment, |db| read(&db.begin_read()?))
    }

    /// Reads the last segment; `None` when there is none.
    fn read_last<T>(
        &self,
        read: impl FnOnce(Segment, &ReadTransaction) -> Result<T, Failed>,
    ) -> Result<Option<T>, StorageError> {
        let read = |segment, db: &Database| read(segment, &db.begin_read()?);
        self.health.of(self.segments.last(read))
    }

    /// Reads the row of an entry; `None` when it is not kept.
    fn read_entry<T>(
        &self,
        local: LocalSeq,
        read: impl FnOnce(&[u8]) -> Result<T, row::Damage>,
    ) -> Result<Option<T>, StorageError> {
        let (Some(segment), _) = self.segments.around(local.0)? else {
            return Ok(None);
        };
        self.read(segment, |transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let Some(row) = table.get(local.0)? else {
                return Ok(None);
            };
            let read = read(row.value()).map_err(|damage| segment.damaged(damage))?;
            Ok(Some(read))
        })
    }

    /// The number of the next entry.
    pub(crate) fn len(&self) -> Result<u64, StorageError> {
        let len = self.read_last(|segment, transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let last = table.last()?.map(|(key, _)| key.value());
            let next = last.map_or(segment.0, |last| last + 1);
            let count = table.len()?;
            // Nothing is taken out of the middle of a segment.
            if next.checked_sub(segment.0) != Some(count) {
                let what = format_args!(
                    "it holds {count} entries from {} on, but the next would be number {next}",
                    segment.0
                );
                return Err(segment.damaged(what).into());
            }
            Ok(next)
        })?;
        Ok(len.unwrap_or(0))
    }

    /// The number of the first entry that is kept; that of the next one when there is none.
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

    /// Whose log it is; `None` when nothing was ever appended.
    fn store(&self) -> Result<Option<StoreId>, StorageError> {
        if self.store.get().is_none() {
            self.genesis()?;
        }
        Ok(self.store.get().copied())
    }

    /// Appends one batch, the first entry as number `first`. Durable when this returns.
    pub(crate) fn append(
        &self,
        first: LocalSeq,
        batch: &[Append],
        notices: &[(u64, Notice)],
        noticed: &Noticed,
        witness: Option<&WitnessRecord>,
    ) -> Result<(), StorageError> {
        // Never without an entry: its number is the segment's.
        if !batch.is_empty() && self.segments.is_next_new(first.0)? {
            self.begin_segment(Segment(first.0))?;
        }
        let written = self.segments.last(|segment, db| {
            let mut written = 0;
            let write = begin_write(db)?;
            {
                let mut entries = write.open_table(ENTRIES)?;
                let mut row = Vec::new();
                for (local, entry) in (first.0..).zip(batch) {
                    row.clear();
                    row::encode(local, entry, &mut row);
                    written += row.len();
                    if entries.insert(local, row.as_slice())?.is_some() {
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
            if let Some(record) = witness {
                let last = (first.0 + batch.len() as u64).saturating_sub(1);
                let row = row::encode_witness(last, record);
                written += row.len();
                write.open_table(WITNESS)?.insert(last, row.as_slice())?;
            }
            write.commit()?;
            Ok(written as u64)
        })?;
        self.segments
            .grown(written.expect("the first batch holds the genesis"));
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

    /// Begins a segment with what is taken over from the last one.
    fn begin_segment(&self, segment: Segment) -> Result<(), StorageError> {
        let carried = self.read_last(Carried::read)?.unwrap_or_default();
        self.segments.begin(segment, |db| carried.write(db))
    }

    fn recent(&self) -> MutexGuard<'_, Tail> {
        self.recent.lock().expect("no panic while it is held")
    }

    /// The entry at `local`; `None` when it is not kept.
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

    /// Up to `limit` entries from `from` on, ascending; those that are kept.
    pub(crate) fn entries(
        &self,
        from: LocalSeq,
        limit: usize,
    ) -> Result<Vec<Stored>, StorageError> {
        self.health.of((|| {
            let store = self.store()?;
            let mut from = from.0.max(self.base()?);
            let mut out = Vec::new();
            loop {
                let (Some(segment), after) = self.segments.around(from)? else {
                    return Ok(out);
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
                    _ => return Ok(out),
                }
            }
        })())
    }

    /// What callers here were told of the entry at `local`; `None` for entries of others.
    pub(crate) fn told(&self, local: LocalSeq) -> Result<Option<Vec<Outcome>>, StorageError> {
        let told = self.read_entry(local, |row| row::told(local, row));
        Ok(self.health.of(told)?.flatten())
    }

    /// The entries of which a notice has told something since the log had `since` entries, and perhaps some of which
    /// one told before, in the order of the log.
    pub(crate) fn noticed_entries(
        &self,
        since: LocalSeq,
    ) -> Result<BTreeSet<LocalSeq>, StorageError> {
        let mut out = BTreeSet::new();
        for segment in self.segments.back_to(since.0)? {
            self.read(segment, |transaction| {
                for row in transaction.open_table(NOTICED)?.iter()? {
                    out.insert(LocalSeq(row?.0.value().0));
                }
                Ok(())
            })?;
        }
        Ok(out)
    }

    /// The outcome of a transaction that a notice last told of.
    pub(crate) fn noticed(
        &self,
        local: LocalSeq,
        transaction: u32,
    ) -> Result<Option<Digest>, StorageError> {
        self.health.of((|| {
            let segments = self.segments.back_to(local.0 + 1)?;
            for (age, segment) in segments.into_iter().enumerate() {
                if self.unnoticed().contains(&segment) {
                    continue;
                }
                let found = self.read(segment, |read| {
                    let table = read.open_table(NOTICED)?;
                    if age > 0 && table.is_empty()? {
                        self.unnoticed().insert(segment);
                    }
                    let Some(row) = table.get((local.0, transaction))? else {
                        return Ok(None);
                    };
                    let digest = unsealed(&noticed_key(local, transaction), row.value());
                    let digest = digest.and_then(Digest::from_slice).ok_or_else(|| {
                        segment.damaged(format_args!("entry {} has an unreadable notice", local.0))
                    })?;
                    Ok(Some(digest))
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })())
    }

    fn unnoticed(&self) -> MutexGuard<'_, BTreeSet<Segment>> {
        self.unnoticed.lock().expect("no panic while it is held")
    }

    /// Unacknowledged notices by number.
    pub(crate) fn notices(&self) -> Result<Vec<(u64, Notice)>, StorageError> {
        let notices = self.read_last(|segment, transaction| {
            let mut out = Vec::new();
            for row in transaction.open_table(NOTICES)?.iter()? {
                let (number, row) = row?;
                let number = number.value();
                let notice = unsealed(&number.to_be_bytes(), row.value())
                    .and_then(Notice::decode)
                    .ok_or_else(|| {
                        segment.damaged(format_args!("notice {number} is unreadable"))
                    })?;
                out.push((number, notice));
            }
            Ok(out)
        })?;
        Ok(notices.unwrap_or_default())
    }

    /// Removes notices. Durable when this returns. Tells how many there were.
    pub(crate) fn acknowledge(&self, numbers: &[u64]) -> Result<usize, StorageError> {
        let count = self.segments.last(|_, db| {
            let write = db.begin_write()?;
            let mut count = 0;
            {
                let mut table = write.open_table(NOTICES)?;
                for number in numbers {
                    count += usize::from(table.remove(number)?.is_some());
                }
            }
            write.commit()?;
            Ok(count)
        })?;
        Ok(count.unwrap_or(0))
    }

    /// The last signed link of the witness chain, with the entry that it covers.
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
    // It would cost a second sync of every commit. Without it a crash costs a walk through one segment.
    write.set_quick_repair(false);
    Ok(write)
}

/// The row of the genesis as a segment holds it.
fn genesis_row(segment: Segment, transaction: &ReadTransaction) -> Result<Option<Vec<u8>>, Failed> {
    let table = match segment.0 == FIRST.0 {
        true => transaction.open_table(ENTRIES)?,
        false => transaction.open_table(GENESIS)?,
    };
    Ok(table.get(FIRST.0)?.map(|row| row.value().to_vec()))
}

/// What a new segment takes over from the one before it. Rows are copied with their seals.
#[derive(Default)]
struct Carried {
    genesis: Option<Vec<u8>>,
    notices: Vec<(u64, Vec<u8>)>,
    witness: Option<(u64, Vec<u8>)>,
}

impl Carried {
    fn read(segment: Segment, transaction: &ReadTransaction) -> Result<Self, Failed> {
        let mut notices = Vec::new();
        for row in transaction.open_table(NOTICES)?.iter()? {
            let (number, row) = row?;
            notices.push((number.value(), row.value().to_vec()));
        }
        let witness = transaction.open_table(WITNESS)?;
        let witness = witness.last()?;
        Ok(Self {
            genesis: genesis_row(segment, transaction)?,
            notices,
            witness: witness.map(|(local, row)| (local.value(), row.value().to_vec())),
        })
    }

    /// Makes the tables of a new segment. Durable when this returns. Tells how many bytes it wrote.
    fn write(&self, db: &Database) -> Result<u64, Failed> {
        let write = begin_write(db)?;
        write.open_table(ENTRIES)?;
        write.open_table(NOTICED)?;
        let genesis = self.genesis.iter().map(|row| (FIRST.0, row));
        let notices = self.notices.iter().map(|(number, row)| (*number, row));
        let witness = self.witness.iter().map(|(local, row)| (*local, row));
        let mut written = 0;
        written += copy(&write, GENESIS, genesis)?;
        written += copy(&write, NOTICES, notices)?;
        written += copy(&write, WITNESS, witness)?;
        write.commit()?;
        Ok(written)
    }
}

fn copy<'a>(
    write: &WriteTransaction,
    table: Table<u64>,
    rows: impl Iterator<Item = (u64, &'a Vec<u8>)>,
) -> Result<u64, Failed> {
    let mut table = write.open_table(table)?;
    let mut written = 0;
    for (key, row) in rows {
        table.insert(key, row.as_slice())?;
        written += row.len() as u64;
    }
    Ok(written)
}

/// The error for an entry that the log should hold.
pub(crate) fn lacks(local: LocalSeq) -> StorageError {
    StorageError::damaged(StoreFile::Log, format_args!("it lacks entry {}", local.0))
}

/// The next hash of the witness chain.
pub(crate) fn chain_hash(before: &[u8; 32], id: &IntentionId, received_ms: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("lattice 2026-11 witness chain 1");
    hasher.update(before);
    hasher.update(&id.0);
    hasher.update(&received_ms.to_be_bytes());
    *hasher.finalize().as_bytes()
}

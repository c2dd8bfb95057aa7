//! The log: every witnessed intention in the order of its arrival, and what callers were told.
//!
//! `log.redb` is the truth; all else in a store can be made again from it. One durable transaction
//! appends one batch. Keys ascend, so a batch touches the last page of a table and little more
//! (an index by hash would cost eight times as much; it is derived, and lives in `state.redb`).
//!
//! ```text
//! entries-1   local (u64) → seal (8) flags (1: body present) received ms (8) signature (64)
//!                           header len (4) header told len (4) told body
//! told        nothing for entries of others, else: count (4) then each: len (4) outcome
//! noticed-1   local (u64) transaction (u32)
//!                         → seal (8) digest of the outcome last told of in a notice
//! notices-1   number (u64) → seal (8), then see notice.rs
//! witness-1   local (u64) → seal (8) chain hash (32) wall ms (8) signature (64)
//! ```
//!
//! Assumptions about the disk: those of redb. A committed transaction survives. redb checks its
//! pages only when it repairs a file, so every row begins with a seal: the first bytes of BLAKE3
//! over its key and itself (a body is left out, since its header has its hash). And redb asserts
//! what it finds in a file, so whatever reads one is guarded: damage is an error that says where.

pub(crate) mod notice;
pub(crate) mod tail;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use lattice_format::{Digest, IntentionId, Signature, SignedHeader, VerifiedBody, VerifiedHeader};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use crate::graph::dag::LocalSeq;
use crate::log::notice::Notice;
use crate::log::tail::Tail;
use crate::mutant::{self, Mutant};
use crate::outcome::Outcome;
use crate::storage::health::{Health, Wake};
use crate::storage::rows::StorageError;

const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries-1");
const NOTICES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("notices-1");
const NOTICED: TableDefinition<'static, (u64, u32), &'static [u8]> =
    TableDefinition::new("noticed-1");
const WITNESS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("witness-1");

const BODY_PRESENT: u8 = 1;

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
    db: Arc<Held>,
    health: Arc<Health>,
    recent: Arc<Mutex<Tail>>,
}

/// A database, until its store is done with it.
struct Held(RwLock<Option<Arc<Database>>>);

impl Held {
    fn get(&self) -> Result<Arc<Database>, StorageError> {
        let held = self.0.read().expect("no holder panics");
        let closed = || StorageError("log.redb is closed: its store is".into());
        held.clone().ok_or_else(closed)
    }

    /// Closes the file, as soon as nobody is reading, without a panic, whatever redb finds in it then.
    fn close(&self) {
        let db = self.0.write().expect("no holder panics").take();
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("log.redb is damaged: it could not be closed");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.close();
    }
}

/// The log's file belongs to its store: with the store it is closed, however many views are left, so that it
/// can be opened anew.
pub(crate) struct Closes(pub(crate) Log);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.db.close();
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

fn damaged(local: u64, what: &str) -> StorageError {
    StorageError(format!(
        "log.redb is damaged: entry {local} {what}; restore the store from a backup, or join it again"
    ))
}

/// Runs what reads a log. redb panics on some damage to a file; to us that is an error of the
/// disk, which must not reach other stores. Nothing half done is seen afterwards: redb's locks are
/// poisoned then, and everything that follows is an error as well.
fn guarded<T>(read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.0.starts_with("log.redb") => Err(error),
        Ok(Err(error)) => Err(StorageError(format!("log.redb: {error}"))),
        Err(_) => Err(StorageError(
            "log.redb is damaged: its pages contradict each other; restore the store from a backup, or join it again"
                .into(),
        )),
    }
}

/// Length of the seal in front of a row.
const SEAL: usize = 8;

fn seal(key: &[u8], row: &[u8]) -> [u8; SEAL] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(row);
    *hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .expect("a hash has 32 bytes")
}

fn sealed(key: &[u8], row: &[u8]) -> Vec<u8> {
    let mut out = seal(key, row).to_vec();
    out.extend_from_slice(row);
    out
}

/// The row behind its seal; `None` when they do not belong together.
fn unsealed<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (found, row) = row.split_first_chunk::<SEAL>()?;
    (seal(key, row) == *found).then_some(row)
}

fn noticed_key(local: LocalSeq, transaction: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&local.0.to_be_bytes());
    key[8..].copy_from_slice(&transaction.to_be_bytes());
    key
}

impl Log {
    /// Takes over the database of a log, new or existing.
    pub(crate) fn open(db: Database) -> Result<Self, StorageError> {
        let log = Self {
            db: Arc::new(Held(RwLock::new(Some(Arc::new(db))))),
            health: Arc::default(),
            recent: Arc::default(),
        };
        guarded(|| {
            let exists = {
                let read = log.db.get()?.begin_read()?;
                match read.open_table(ENTRIES) {
                    Ok(_) => true,
                    Err(redb::TableError::TableDoesNotExist(_)) => false,
                    Err(error) => return Err(error.into()),
                }
            };
            if !exists {
                let write = log.db.get()?.begin_write()?;
                write.open_table(ENTRIES)?;
                write.open_table(NOTICES)?;
                write.open_table(NOTICED)?;
                write.open_table(WITNESS)?;
                write.commit()?;
            }
            Ok(())
        })?;
        Ok(log)
    }

    /// What is to happen when somebody's read fails.
    pub(crate) fn on_failed_read(&self, wake: Wake) {
        self.health.set_wake(wake);
    }

    /// Looks, if a read has failed, whether the database still takes transactions.
    pub(crate) fn examine(&self) -> Result<(), StorageError> {
        guarded(|| self.health.look(&*self.db.get()?))
    }

    /// Reads; the writer hears of it when that fails.
    fn read<T>(&self, read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
        self.health.of(guarded(read))
    }

    /// How many entries there are: the number of the next one.
    pub(crate) fn len(&self) -> Result<u64, StorageError> {
        self.read(|| {
            let table = self.db.get()?.begin_read()?.open_table(ENTRIES)?;
            let last = table.last()?.map_or(0, |(key, _)| key.value() + 1);
            let count = table.len()?;
            if count != last {
                return Err(StorageError(format!(
                    "log.redb is damaged: it holds {count} entries, but the last is number {last}; \
                     restore the store from a backup, or join it again"
                )));
            }
            Ok(last)
        })
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
        guarded(|| {
            let mut write = self.db.get()?.begin_write()?;
            write.set_durability(match mutant::active(Mutant::CommitNotDurable) {
                true => Durability::None,
                false => Durability::Immediate,
            })?;
            write.set_quick_repair(false);
            {
                let mut entries = write.open_table(ENTRIES)?;
                let mut row = Vec::new();
                for (local, entry) in (first.0..).zip(batch) {
                    row.clear();
                    encode(local, entry, &mut row);
                    if entries.insert(local, row.as_slice())?.is_some() {
                        return Err(StorageError(format!(
                            "log.redb already holds entry {local}: two writers share it"
                        )));
                    }
                }
            }
            if !notices.is_empty() {
                let mut table = write.open_table(NOTICES)?;
                for (number, notice) in notices {
                    let row = sealed(&number.to_be_bytes(), &notice.encode());
                    table.insert(number, row.as_slice())?;
                }
            }
            if !noticed.is_empty() {
                let mut table = write.open_table(NOTICED)?;
                for ((local, transaction), digest) in noticed {
                    let row = sealed(&noticed_key(*local, *transaction), &digest.0);
                    table.insert((local.0, *transaction), row.as_slice())?;
                }
            }
            if let Some(record) = witness {
                let mut row = record.chain.to_vec();
                row.extend_from_slice(&record.wall_ms.to_be_bytes());
                row.extend_from_slice(&record.signature.0);
                let last = (first.0 + batch.len() as u64).saturating_sub(1);
                let row = sealed(&last.to_be_bytes(), &row);
                write.open_table(WITNESS)?.insert(last, row.as_slice())?;
            }
            write.commit()?;
            Ok(())
        })?;
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

    fn recent(&self) -> MutexGuard<'_, Tail> {
        self.recent.lock().expect("no panic while it is held")
    }

    /// The entry at `local`.
    pub(crate) fn entry(&self, local: LocalSeq) -> Result<Option<Stored>, StorageError> {
        self.read(|| {
            let db = self.db.get()?;
            if let Some(entry) = self.recent().get(local) {
                return Ok(Some(entry.clone()));
            }
            let table = db.begin_read()?.open_table(ENTRIES)?;
            let Some(row) = table.get(local.0)? else {
                return Ok(None);
            };
            decode(local, row.value()).map(Some)
        })
    }

    /// Up to `limit` entries from `from` on, ascending.
    pub(crate) fn entries(
        &self,
        from: LocalSeq,
        limit: usize,
    ) -> Result<Vec<Stored>, StorageError> {
        self.read(|| {
            let table = self.db.get()?.begin_read()?.open_table(ENTRIES)?;
            let mut out = Vec::new();
            for row in table.range(from.0..)?.take(limit) {
                let (local, row) = row?;
                out.push(decode(LocalSeq(local.value()), row.value())?);
            }
            Ok(out)
        })
    }

    /// What callers here were told of the entry at `local`; `None` for entries of others.
    pub(crate) fn told(&self, local: LocalSeq) -> Result<Option<Vec<Outcome>>, StorageError> {
        self.read(|| {
            let table = self.db.get()?.begin_read()?.open_table(ENTRIES)?;
            let Some(row) = table.get(local.0)? else {
                return Ok(None);
            };
            let told = split(local, row.value())?.told;
            if told.is_empty() {
                return Ok(None);
            }
            decode_told(told)
                .map(Some)
                .ok_or_else(|| damaged(local.0, "has unreadable outcomes"))
        })
    }

    /// The entries of which a notice has told something, in the order of the log.
    pub(crate) fn noticed_entries(&self) -> Result<Vec<LocalSeq>, StorageError> {
        guarded(|| {
            let table = self.db.get()?.begin_read()?.open_table(NOTICED)?;
            let mut out = Vec::new();
            for row in table.iter()? {
                let local = LocalSeq(row?.0.value().0);
                if out.last() != Some(&local) {
                    out.push(local);
                }
            }
            Ok(out)
        })
    }

    /// The outcome of a transaction that a notice last told of.
    pub(crate) fn noticed(
        &self,
        local: LocalSeq,
        transaction: u32,
    ) -> Result<Option<Digest>, StorageError> {
        self.read(|| {
            let table = self.db.get()?.begin_read()?.open_table(NOTICED)?;
            let Some(row) = table.get((local.0, transaction))? else {
                return Ok(None);
            };
            unsealed(&noticed_key(local, transaction), row.value())
                .and_then(Digest::from_slice)
                .map(Some)
                .ok_or_else(|| damaged(local.0, "has an unreadable notice"))
        })
    }

    /// Unacknowledged notices by number.
    pub(crate) fn notices(&self) -> Result<Vec<(u64, Notice)>, StorageError> {
        self.read(|| {
            let table = self.db.get()?.begin_read()?.open_table(NOTICES)?;
            let mut out = Vec::new();
            for row in table.iter()? {
                let (number, row) = row?;
                let number = number.value();
                let notice = unsealed(&number.to_be_bytes(), row.value())
                    .and_then(Notice::decode)
                    .ok_or_else(|| {
                        StorageError(format!(
                            "log.redb is damaged: notice {number} is unreadable"
                        ))
                    })?;
                out.push((number, notice));
            }
            Ok(out)
        })
    }

    /// Removes notices. Durable when this returns. Tells how many there were.
    pub(crate) fn acknowledge(&self, numbers: &[u64]) -> Result<usize, StorageError> {
        guarded(|| {
            let write = self.db.get()?.begin_write()?;
            let mut count = 0;
            {
                let mut table = write.open_table(NOTICES)?;
                for number in numbers {
                    count += usize::from(table.remove(number)?.is_some());
                }
            }
            write.commit()?;
            Ok(count)
        })
    }

    /// The last signed link of the witness chain, with the entry that it covers.
    pub(crate) fn last_witness(&self) -> Result<Option<(LocalSeq, WitnessRecord)>, StorageError> {
        self.read(|| {
            let table = self.db.get()?.begin_read()?.open_table(WITNESS)?;
            let Some((local, row)) = table.last()? else {
                return Ok(None);
            };
            let local = local.value();
            let row: &[u8; 104] = unsealed(&local.to_be_bytes(), row.value())
                .and_then(|row| row.try_into().ok())
                .ok_or_else(|| damaged(local, "has an unreadable witness record"))?;
            let mut chain = [0; 32];
            chain.copy_from_slice(&row[..32]);
            let mut wall = [0; 8];
            wall.copy_from_slice(&row[32..40]);
            let mut signature = [0; 64];
            signature.copy_from_slice(&row[40..]);
            Ok(Some((
                LocalSeq(local),
                WitnessRecord {
                    chain,
                    wall_ms: u64::from_be_bytes(wall),
                    signature: Signature(signature),
                },
            )))
        })
    }
}

/// The next hash of the witness chain.
pub(crate) fn chain_hash(before: &[u8; 32], id: &IntentionId, received_ms: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("lattice 2026-11 witness chain 1");
    hasher.update(before);
    hasher.update(&id.0);
    hasher.update(&received_ms.to_be_bytes());
    *hasher.finalize().as_bytes()
}

fn encode(local: u64, entry: &Append, out: &mut Vec<u8>) {
    let signed = entry.header.signed();
    out.extend_from_slice(&[0; SEAL]);
    out.push(if entry.body.is_some() {
        BODY_PRESENT
    } else {
        0
    });
    out.extend_from_slice(&entry.received_ms.to_be_bytes());
    out.extend_from_slice(&signed.signature.0);
    let len = u32::try_from(signed.bytes.len()).expect("headers are bounded by the format");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&signed.bytes);
    let told = match entry.told.is_empty() {
        true => Vec::new(),
        false => encode_told(&entry.told),
    };
    let len = u32::try_from(told.len()).expect("outcomes are bounded by the genesis");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&told);
    let seal = seal(&local.to_be_bytes(), &out[SEAL..]);
    out[..SEAL].copy_from_slice(&seal);
    if let Some(body) = &entry.body {
        out.extend_from_slice(body.bytes());
    }
}

/// The parts of an entry's row.
struct Parts<'a> {
    flags: u8,
    received_ms: u64,
    signature: [u8; 64],
    header: &'a [u8],
    told: &'a [u8],
    body: &'a [u8],
}

/// Takes a row apart that is what was written, its body aside.
fn split(local: LocalSeq, row: &[u8]) -> Result<Parts<'_>, StorageError> {
    let (found, row) = row
        .split_first_chunk::<SEAL>()
        .ok_or_else(|| damaged(local.0, "is cut short"))?;
    let parts = parts(row).ok_or_else(|| damaged(local.0, "is cut short"))?;
    let head = &row[..row.len() - parts.body.len()];
    if seal(&local.0.to_be_bytes(), head) != *found {
        return Err(damaged(local.0, "is not what was written"));
    }
    Ok(parts)
}

fn parts(row: &[u8]) -> Option<Parts<'_>> {
    let sized = |rest| {
        let (len, rest) = <[u8]>::split_first_chunk::<4>(rest)?;
        rest.split_at_checked(u32::from_be_bytes(*len) as usize)
    };
    let (&flags, rest) = row.split_first()?;
    let (received, rest) = rest.split_first_chunk::<8>()?;
    let (signature, rest) = rest.split_first_chunk::<64>()?;
    let (header, rest) = sized(rest)?;
    let (told, body) = sized(rest)?;
    Some(Parts {
        flags,
        received_ms: u64::from_be_bytes(*received),
        signature: *signature,
        header,
        told,
        body,
    })
}

fn decode(local: LocalSeq, row: &[u8]) -> Result<Stored, StorageError> {
    let Parts {
        flags,
        received_ms,
        signature,
        header,
        body,
        told: _,
    } = split(local, row)?;
    let header = VerifiedHeader::from_trusted_storage(SignedHeader {
        bytes: header.into(),
        signature: Signature(signature),
    })
    .map_err(|error| damaged(local.0, &format!("has a bad header ({error})")))?;
    let body = match flags & BODY_PRESENT {
        0 => None,
        _ => {
            let body = header
                .check_body(body)
                .map_err(|error| damaged(local.0, &format!("has a bad body ({error})")))?;
            Some(body.bytes().clone())
        }
    };
    Ok(Stored {
        local,
        header,
        body,
        received_ms,
    })
}

fn encode_told(told: &[Outcome]) -> Vec<u8> {
    let mut out = (told.len() as u32).to_be_bytes().to_vec();
    for outcome in told {
        let bytes = outcome.to_cbor();
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

fn decode_told(row: &[u8]) -> Option<Vec<Outcome>> {
    let (count, mut rest) = row.split_first_chunk::<4>()?;
    let mut out = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (bytes, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        out.push(Outcome::from_cbor(bytes)?);
        rest = tail;
    }
    rest.is_empty().then_some(out)
}

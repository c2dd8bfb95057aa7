//! The records of a node, `node.redb`: everything that it knows beside its stores.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta-1` | `format` | 1 |
//! | | `notices-more` | the number of notices that were raised and not kept; absent for 0 |
//! | `stores-1` | store id | [`StoreRecord`] |
//! | `plugins-1` | name | [`PluginRecord`] |
//! | `peers-1` | device key | [`PeerRecord`] |
//! | `notices-1` | number, ascending | [`NoticeRecord`] |
//!
//! Values are protobuf messages. Every change is one durable transaction.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lattice_format::{ComponentId, DeviceKey, StoreId};
use lattice_kernel::{NodeFile, NodeFileError, machine_remedy};
use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::limits::{
    NOTICES_ACKNOWLEDGED_MAX, NOTICES_BYTES_MAX, NOTICES_MAX, PEERS_MAX, RECORDS_CACHE_BYTES,
};
use crate::node::home::OpenError;

const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta-1");
const STORES: TableDefinition<'static, [u8; 32], &'static [u8]> = TableDefinition::new("stores-1");
const PLUGINS: TableDefinition<'static, &'static str, &'static [u8]> =
    TableDefinition::new("plugins-1");
const PEERS: TableDefinition<'static, [u8; 32], &'static [u8]> = TableDefinition::new("peers-1");
const NOTICES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("notices-1");

/// The key in `meta-1` for the number of notices that were not kept.
const MORE: &str = "notices-more";
/// The format of the tables above.
const FORMAT: u64 = 1;

/// A store of this node.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct StoreRecord {
    /// The store's name on this node.
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// The id of the store's parent; empty for a root store.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) parent: Vec<u8>,
    /// The join, while the store is being joined.
    #[prost(message, optional, tag = "3")]
    pub(crate) joining: Option<JoinRecord>,
    /// When the store was created or joined on this node, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "4")]
    pub(crate) since_ms: u64,
    /// The name of the app's component in the genesis; empty for a store without an app.
    #[prost(string, tag = "5")]
    pub(crate) plugin: String,
    /// The mark by which the store's log is recognised; see `restored`.
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) log_mark: Vec<u8>,
    /// A chain that this device does not continue, because the store was copied or restored.
    #[prost(uint64, optional, tag = "7")]
    pub(crate) left_chain: Option<u64>,
    /// A chain that this device does not continue, because its end lies too far ahead.
    #[prost(uint64, optional, tag = "8")]
    pub(crate) aside_chain: Option<u64>,
    /// Above which time nothing is followed since then, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "9")]
    pub(crate) aside_above_ms: u64,
    /// Whether the store was opened after it was made. Then somebody knows of it.
    #[prost(bool, tag = "10")]
    pub(crate) opened: bool,
}

/// A join that has not ended.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct JoinRecord {
    /// The task in the network's encoding: the token, the names, and the code that was agreed to.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) task: Vec<u8>,
    /// Whether the store was here before, and the device is not admitted yet.
    #[prost(bool, tag = "2")]
    pub(crate) was_here: bool,
}

/// A name for a component.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct PluginRecord {
    /// The component's id.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) component: Vec<u8>,
    /// When the name was installed, in milliseconds since the Unix epoch; 0 for a bundled component.
    #[prost(uint64, tag = "2")]
    pub(crate) installed_ms: u64,
    /// Whether the component is bundled with the program.
    #[prost(bool, tag = "3")]
    pub(crate) bundled: bool,
}

impl PluginRecord {
    /// The component's id; zeros if the record has none.
    pub(crate) fn id(&self) -> ComponentId {
        ComponentId::from_slice(&self.component).unwrap_or(ComponentId([0; 32]))
    }
}

/// The addresses at which a peer was reached.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct PeerRecord {
    /// Socket addresses, the latest first.
    #[prost(string, repeated, tag = "1")]
    pub(crate) addresses: Vec<String>,
    /// When the addresses were recorded, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "2")]
    pub(crate) last_seen_ms: u64,
}

/// A notice: something that a person should know.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct NoticeRecord {
    /// A number of `api::NoticeKind`.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    /// When the notice was raised, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "2")]
    pub(crate) raised_ms: u64,
    /// The id of the store; empty for a notice about the node.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) store: Vec<u8>,
    /// The id of the entry; empty when there is none.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) entry: Vec<u8>,
    /// The key of the author; empty when there is none.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) author: Vec<u8>,
    /// The notice as one line of text.
    #[prost(string, tag = "6")]
    pub(crate) text: String,
    /// The outcome that was told, as canonical CBOR; empty in notices about something else.
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) told: Vec<u8>,
    /// The outcome that holds now, as canonical CBOR; empty when the entry is void.
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) now: Vec<u8>,
    /// When the notice was acknowledged, in milliseconds since the Unix epoch; 0 when it was not.
    #[prost(uint64, tag = "9")]
    pub(crate) acknowledged_ms: u64,
    /// The index of the transaction in the entry, from 0.
    #[prost(uint32, tag = "11")]
    pub(crate) transaction: u32,
    /// A digest by which a notice is recognised that its store raises again after a crash.
    #[prost(bytes = "vec", tag = "10")]
    pub(crate) origin: Vec<u8>,
}

/// `node.redb` cannot be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node.redb: {what}")]
pub(crate) struct RecordsError {
    what: String,
    /// What to do where the machine refused; `None` where it is not known.
    remedy: Option<&'static str>,
}

impl From<redb::Error> for RecordsError {
    fn from(error: redb::Error) -> Self {
        let remedy = match &error {
            redb::Error::Io(error) => Some(machine_remedy(error)),
            _ => None,
        };
        Self {
            what: error.to_string(),
            remedy,
        }
    }
}

impl From<NodeFileError> for RecordsError {
    fn from(error: NodeFileError) -> Self {
        match error {
            NodeFileError::Redb(error) => error.into(),
            error => Self {
                what: error.to_string(),
                remedy: None,
            },
        }
    }
}

impl From<prost::DecodeError> for RecordsError {
    fn from(error: prost::DecodeError) -> Self {
        Self {
            what: error.to_string(),
            remedy: None,
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for RecordsError {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

impl From<RecordsError> for crate::api::failure::Failure {
    fn from(error: RecordsError) -> Self {
        let failure = crate::api::failure::Failure::failed(error.to_string());
        match error.remedy {
            Some(remedy) => failure.hint(remedy),
            None => failure.hint("run `lattice doctor`; check free space and the disk"),
        }
    }
}

type Result<T> = std::result::Result<T, RecordsError>;

/// The open `node.redb`.
///
/// # Errors
/// Every method but [`Records::open`] fails when the file cannot be read or written.
#[derive(Debug)]
pub(crate) struct Records {
    db: NodeFile,
}

impl Records {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// When the file is damaged or newer than this version, or the disk fails.
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let unreadable = |reason: String| OpenError::Unreadable {
            path: PathBuf::from(path),
            reason,
        };
        // The file holds the secrets of tokens of joins, so only its owner may read it.
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        match made {
            // It can be read all the same.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            made => drop(made.map_err(|error| OpenError::Io {
                path: path.to_owned(),
                error,
            })?),
        }
        let db = NodeFile::open(path, RECORDS_CACHE_BYTES).map_err(|error| {
            let if_damaged = "put it back from a backup, or move it away: stores are then found again by their \
                              directories, and only their names here and those of plugins are lost";
            OpenError::unopened(path, error, if_damaged)
        })?;
        let records = Self { db };
        let format = records
            .prepare()
            .map_err(|error| unreadable(format!("{error}; check free space and the disk")))?;
        if format != FORMAT {
            return Err(unreadable(format!(
                "its format {format} is newer than {FORMAT}; update Lattice"
            )));
        }
        Ok(records)
    }

    /// Creates the tables of a new file. Returns the format of the file, new or old.
    fn prepare(&self) -> Result<u64> {
        let known = self.db.read(|read| match read.open_table(META) {
            Ok(table) => Ok(table.get("format")?.map(|format| format.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(RecordsError::from(error)),
        })?;
        if let Some(format) = known {
            return Ok(format);
        }
        self.db.write(|write| {
            write.open_table(META)?.insert("format", FORMAT)?;
            write.open_table(STORES)?;
            write.open_table(PLUGINS)?;
            write.open_table(PEERS)?;
            write.open_table(NOTICES)?;
            Ok(FORMAT)
        })
    }

    /// The records of all stores.
    pub(crate) fn stores(&self) -> Result<Vec<(StoreId, StoreRecord)>> {
        self.db.read(|read| {
            let table = read.open_table(STORES)?;
            table
                .iter()?
                .map(|row| {
                    let (id, record) = row?;
                    Ok((StoreId(id.value()), StoreRecord::decode(record.value())?))
                })
                .collect()
        })
    }

    /// Writes the record of a store.
    pub(crate) fn put_store(&self, id: &StoreId, record: &StoreRecord) -> Result<()> {
        self.db.write(|write| {
            write
                .open_table(STORES)?
                .insert(id.0, &*record.encode_to_vec())?;
            Ok(())
        })
    }

    /// Removes the record of a store.
    pub(crate) fn remove_store(&self, id: &StoreId) -> Result<()> {
        self.db.write(|write| {
            write.open_table(STORES)?.remove(id.0)?;
            Ok(())
        })
    }

    /// All names of installed components, sorted.
    pub(crate) fn plugins(&self) -> Result<Vec<(String, PluginRecord)>> {
        self.db.read(|read| {
            let table = read.open_table(PLUGINS)?;
            table
                .iter()?
                .map(|row| {
                    let (name, record) = row?;
                    Ok((
                        name.value().to_owned(),
                        PluginRecord::decode(record.value())?,
                    ))
                })
                .collect()
        })
    }

    /// The component with this name.
    pub(crate) fn plugin(&self, name: &str) -> Result<Option<PluginRecord>> {
        self.db.read(|read| {
            let table = read.open_table(PLUGINS)?;
            Ok(match table.get(name)? {
                Some(record) => Some(PluginRecord::decode(record.value())?),
                None => None,
            })
        })
    }

    /// Writes names of components, all in one transaction.
    pub(crate) fn put_plugins(&self, plugins: &[(String, PluginRecord)]) -> Result<()> {
        if plugins.is_empty() {
            return Ok(());
        }
        self.db.write(|write| {
            let mut table = write.open_table(PLUGINS)?;
            for (name, record) in plugins {
                table.insert(&**name, &*record.encode_to_vec())?;
            }
            Ok(())
        })
    }

    /// Removes a name of a component.
    pub(crate) fn remove_plugin(&self, name: &str) -> Result<()> {
        self.db.write(|write| {
            write.open_table(PLUGINS)?.remove(name)?;
            Ok(())
        })
    }

    /// The records of all peers that were ever reached.
    pub(crate) fn peers(&self) -> Result<Vec<(DeviceKey, PeerRecord)>> {
        self.db.read(|read| {
            let table = read.open_table(PEERS)?;
            table
                .iter()?
                .map(|row| {
                    let (key, record) = row?;
                    Ok((DeviceKey(key.value()), PeerRecord::decode(record.value())?))
                })
                .collect()
        })
    }

    /// Writes the record of a peer. A new peer beyond [`PEERS_MAX`] is not kept.
    pub(crate) fn put_peer(&self, key: &DeviceKey, record: &PeerRecord) -> Result<()> {
        self.db.write(|write| {
            let mut table = write.open_table(PEERS)?;
            if table.get(key.0)?.is_some() || table.len()? < PEERS_MAX as u64 {
                table.insert(key.0, &*record.encode_to_vec())?;
            }
            Ok(())
        })
    }

    /// All notices with their numbers, the oldest first.
    pub(crate) fn notices(&self) -> Result<Vec<(u64, NoticeRecord)>> {
        self.db.read(|read| {
            let table = read.open_table(NOTICES)?;
            table
                .iter()?
                .map(|row| {
                    let (number, record) = row?;
                    Ok((number.value(), NoticeRecord::decode(record.value())?))
                })
                .collect()
        })
    }

    /// How many notices were raised and not kept since all were acknowledged. A notice that its store raises again
    /// after a crash may count twice.
    pub(crate) fn more_notices(&self) -> Result<u64> {
        self.db.read(|read| {
            let table = read.open_table(META)?;
            Ok(table.get(MORE)?.map_or(0, |count| count.value()))
        })
    }

    /// Adds notices, except those whose origin is known already. Counts those for which there is no room, and `more`,
    /// the number of those that their store did not keep.
    pub(crate) fn add_notices(&self, notices: Vec<NoticeRecord>, more: u64) -> Result<()> {
        self.db.write(|write| {
            let mut table = write.open_table(NOTICES)?;
            let mut known = std::collections::HashSet::new();
            let (mut count, mut bytes, mut more) = (0, 0, more);
            for row in table.iter()? {
                let notice = NoticeRecord::decode(row?.1.value())?;
                if notice.acknowledged_ms == 0 {
                    count += 1;
                    bytes += notice.encoded_len();
                }
                known.insert(notice.origin);
            }
            let mut next = table.last()?.map_or(1, |(number, _)| number.value() + 1);
            for notice in &notices {
                if known.contains(&notice.origin) {
                    continue;
                }
                let len = notice.encoded_len();
                if count >= NOTICES_MAX || bytes + len > NOTICES_BYTES_MAX {
                    more = more.saturating_add(1);
                    continue;
                }
                table.insert(next, &*notice.encode_to_vec())?;
                (next, count, bytes) = (next + 1, count + 1, bytes + len);
            }
            let mut meta = write.open_table(META)?;
            let before = meta.get(MORE)?.map_or(0, |count| count.value());
            if more > 0 {
                meta.insert(MORE, before.saturating_add(more))?;
            }
            Ok(())
        })
    }

    /// Marks notices as acknowledged at `now_ms`. Returns how many were not acknowledged before. When one of them does
    /// not exist, marks none and returns `None`.
    pub(crate) fn acknowledge(&self, numbers: &[u64], now_ms: u64) -> Result<Option<u32>> {
        self.db.write(|write| {
            let mut marked = 0;
            {
                let mut table = write.open_table(NOTICES)?;
                let mut records = Vec::with_capacity(numbers.len());
                for number in numbers {
                    match table.get(number)? {
                        Some(record) => {
                            records.push((number, NoticeRecord::decode(record.value())?))
                        }
                        None => return Ok(None),
                    }
                }
                for (number, record) in records {
                    if record.acknowledged_ms == 0 {
                        marked += 1;
                        let record = NoticeRecord {
                            acknowledged_ms: now_ms.max(1),
                            ..record
                        };
                        table.insert(number, &*record.encode_to_vec())?;
                    }
                }
                let (mut waiting, mut read, mut bytes) = (0, Vec::new(), 0);
                for row in table.iter()? {
                    let (number, record) = row?;
                    let len = record.value().len();
                    if NoticeRecord::decode(record.value())?.acknowledged_ms == 0 {
                        waiting += 1;
                    } else {
                        read.push((number.value(), len));
                        bytes += len;
                    }
                }
                // The oldest of what was read makes room.
                let mut left = read.len();
                for (number, len) in read {
                    if left > NOTICES_ACKNOWLEDGED_MAX || bytes > NOTICES_BYTES_MAX {
                        table.remove(number)?;
                        (left, bytes) = (left - 1, bytes - len);
                    }
                }
                if waiting == 0 {
                    write.open_table(META)?.remove(MORE)?;
                }
            }
            Ok(Some(marked))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&dir.path().join("node.redb")).unwrap();
        (dir, records)
    }

    #[test]
    fn records_survive_closing() {
        let (dir, records) = open();
        let record = StoreRecord {
            name: "notes".into(),
            ..Default::default()
        };
        records.put_store(&StoreId([1; 32]), &record).unwrap();
        drop(records);
        let records = Records::open(&dir.path().join("node.redb")).unwrap();
        assert_eq!(records.stores().unwrap(), [(StoreId([1; 32]), record)]);
    }

    #[test]
    fn a_newer_format_is_refused_with_what_to_do() {
        let (dir, records) = open();
        let newer = records.db.write(|write| {
            write.open_table(META)?.insert("format", 2)?;
            Ok::<_, RecordsError>(())
        });
        newer.unwrap();
        drop(records);
        let error = Records::open(&dir.path().join("node.redb")).unwrap_err();
        assert!(error.to_string().contains("update Lattice"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_path() {
        let (dir, records) = open();
        drop(records);
        let path = dir.path().join("node.redb");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let error = Records::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("node.redb") && error.contains("move it away"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_the_machine_refuses_or_that_is_in_use_is_not_called_damaged() {
        let (dir, records) = open();
        let path = dir.path().join("node.redb");
        let in_use = Records::open(&path).unwrap_err().to_string();
        assert!(in_use.contains("another process"), "{in_use}");
        drop(records);
        // A link to a disk that is not there.
        let link = dir.path().join("link.redb");
        std::os::unix::fs::symlink(dir.path().join("gone/node.redb"), &link).unwrap();
        let refused = Records::open(&link).unwrap_err().to_string();
        for said in [in_use, refused] {
            assert!(
                !said.contains("backup") && !said.contains("damaged"),
                "{said}"
            );
            assert!(said.contains("; "), "nothing to do about it: {said}");
        }
    }

    #[test]
    fn a_notice_is_kept_once_and_marked_once() {
        let (_dir, records) = open();
        let notice = NoticeRecord {
            origin: vec![1],
            text: "x".into(),
            ..Default::default()
        };
        records.add_notices(vec![notice.clone()], 0).unwrap();
        records.add_notices(vec![notice], 0).unwrap();
        assert_eq!(records.notices().unwrap().len(), 1);
        assert_eq!(records.acknowledge(&[1, 9], 5).unwrap(), None);
        assert_eq!(records.acknowledge(&[1], 5).unwrap(), Some(1));
        assert_eq!(records.acknowledge(&[1], 6).unwrap(), Some(0));
    }

    #[test]
    fn acknowledged_notices_are_bounded_and_the_oldest_go() {
        let (_dir, records) = open();
        let notices = (0..=NOTICES_ACKNOWLEDGED_MAX as u64).map(|n| NoticeRecord {
            origin: n.to_be_bytes().to_vec(),
            ..Default::default()
        });
        records.add_notices(notices.collect(), 0).unwrap();
        let ids: Vec<u64> = records.notices().unwrap().iter().map(|n| n.0).collect();
        let all = NOTICES_ACKNOWLEDGED_MAX + 1;
        assert_eq!(ids.len(), all);
        let last = all - 1;
        records.acknowledge(&ids[..last], 5).unwrap();
        assert_eq!(records.notices().unwrap().len(), all);
        records.acknowledge(&ids[last..], 6).unwrap();
        let left = records.notices().unwrap();
        assert_eq!(left.len(), NOTICES_ACKNOWLEDGED_MAX);
        assert_eq!(left[0].0, ids[1]);
    }

    fn notice(n: usize, bytes: usize) -> NoticeRecord {
        NoticeRecord {
            origin: n.to_be_bytes().to_vec(),
            told: vec![7; bytes],
            ..Default::default()
        }
    }

    #[test]
    fn notices_are_kept_up_to_their_number_and_then_counted() {
        let (_dir, records) = open();
        let all = (0..NOTICES_MAX).map(|n| notice(n, 0)).collect();
        records.add_notices(all, 0).unwrap();
        assert_eq!(records.more_notices().unwrap(), 0);
        // A notice that is known already is neither kept again nor counted.
        let beyond = vec![notice(0, 0), notice(NOTICES_MAX, 0)];
        records.add_notices(beyond, 5).unwrap();
        let kept = records.notices().unwrap();
        assert_eq!(
            (kept.len(), records.more_notices().unwrap()),
            (NOTICES_MAX, 6)
        );
        // An acknowledged notice makes room. The counter stays until all notices are acknowledged.
        records.acknowledge(&[kept[0].0], 5).unwrap();
        records
            .add_notices(vec![notice(NOTICES_MAX, 0)], 0)
            .unwrap();
        let kept = records.notices().unwrap();
        assert_eq!(
            (kept.len(), records.more_notices().unwrap()),
            (NOTICES_MAX + 1, 6)
        );
        let numbers: Vec<u64> = kept.iter().map(|(number, _)| *number).collect();
        records.acknowledge(&numbers, 6).unwrap();
        assert_eq!(records.more_notices().unwrap(), 0);
    }

    #[test]
    fn notices_are_kept_up_to_their_bytes_and_then_counted() {
        let (_dir, records) = open();
        let len = notice(0, 1 << 24).encoded_len();
        let head = len - (1 << 24);
        let fits = NOTICES_BYTES_MAX - len - head;
        records.add_notices(vec![notice(0, 1 << 24)], 0).unwrap();
        records.add_notices(vec![notice(1, fits + 1)], 0).unwrap();
        assert_eq!(records.more_notices().unwrap(), 1);
        records.add_notices(vec![notice(1, fits)], 0).unwrap();
        records.add_notices(vec![notice(2, 0)], 0).unwrap();
        assert_eq!(records.more_notices().unwrap(), 2);
        // Acknowledged notices are kept up to the same number of bytes, and the oldest are removed.
        let ids: Vec<u64> = records.notices().unwrap().iter().map(|n| n.0).collect();
        assert_eq!(ids.len(), 2);
        records.acknowledge(&ids, 5).unwrap();
        records.add_notices(vec![notice(3, 0)], 0).unwrap();
        records.acknowledge(&[ids[1] + 1], 5).unwrap();
        let left = records.notices().unwrap();
        assert_eq!(left[0].0, ids[1]);
    }

    #[test]
    fn so_many_peers_are_remembered_and_known_ones_anew() {
        let (_dir, records) = open();
        let key = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            DeviceKey(key)
        };
        let filled = records.db.write(|write| {
            let mut table = write.open_table(PEERS)?;
            for n in 1..PEERS_MAX {
                table.insert(key(n).0, &b""[..])?;
            }
            Ok::<_, RecordsError>(())
        });
        filled.unwrap();
        let record = |last_seen_ms| PeerRecord {
            last_seen_ms,
            ..Default::default()
        };
        records.put_peer(&key(PEERS_MAX), &record(1)).unwrap();
        records.put_peer(&key(0), &record(1)).unwrap();
        records.put_peer(&key(1), &record(2)).unwrap();
        let peers = records.peers().unwrap();
        assert_eq!(peers.len(), PEERS_MAX);
        assert_eq!(peers[0], (key(1), record(2)));
        assert_eq!(peers[PEERS_MAX - 1], (key(PEERS_MAX), record(1)));
    }
}

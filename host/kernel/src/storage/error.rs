//! Errors of a store's files: the file, the row, the cause and the remedy.

use std::fmt;
use std::io;
use std::sync::Arc;

use redb::DatabaseError;

use crate::storage::keys::table_name;
use crate::storage::log_files::{JOURNAL_FILE, LOG_DIR, file_name};
use crate::storage::machine::{Unopened, is_verdict, machine_remedy, verdict_text};

/// A file of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFile {
    /// `state.redb`, which holds everything that is derived from the log.
    State,
    /// The directory of the log's segments.
    Log,
    /// A segment of the log, by the number of its first entry.
    Segment(u64),
    /// `log/journal`, with the newest entries of the log.
    Journal,
}

impl fmt::Display for StoreFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("state.redb"),
            Self::Log => write!(f, "{LOG_DIR}/"),
            Self::Segment(first) => write!(f, "{LOG_DIR}/{}", file_name(*first)),
            Self::Journal => write!(f, "{LOG_DIR}/{JOURNAL_FILE}"),
        }
    }
}

impl StoreFile {
    /// What a person can do about damage to the file.
    fn remedy(self) -> &'static str {
        match self {
            Self::State => "remove it while no daemon runs, and it is made again from the log",
            Self::Log | Self::Segment(_) | Self::Journal => LOG_REMEDY,
        }
    }
}

/// What to do about a log that is damaged. A store whose directory is gone can be joined like one that was never
/// here; its other members know the device already.
pub const LOG_REMEDY: &str = "while no daemon runs, put the store's directory back from a backup, or remove it \
     and join the store again";

/// This node's disk failed, or a file on it is damaged. It is never the outcome of a call, because other nodes do not
/// have it: it pauses the store.
#[derive(Clone, Debug)]
pub struct StorageError {
    file: StoreFile,
    row: Option<String>,
    what: What,
}

/// What happened to a file.
#[derive(Clone, Debug)]
enum What {
    /// redb or the file system refused to work on it, which says nothing about what it holds.
    Failed(Source, Option<&'static str>),
    /// The file holds bytes that no node wrote.
    Damaged(String),
    /// The file is sound, but cannot be used.
    Unusable(String),
}

type Source = Arc<dyn std::error::Error + Send + Sync>;

impl StorageError {
    /// The system refused to work on a file.
    pub(crate) fn failed(file: StoreFile, error: io::Error) -> Self {
        let remedy = machine_remedy(&error);
        Self::of(file, What::Failed(Arc::new(error), Some(remedy)))
    }

    /// redb refused to work on a file, for what it holds or for what the system refused.
    pub(crate) fn of_redb(file: StoreFile, error: redb::Error) -> Self {
        match error {
            error if is_verdict(&error) => Self::damaged(file, verdict_text(&error)),
            redb::Error::Io(error) => Self::failed(file, error),
            error => Self::of(file, What::Failed(Arc::new(error), None)),
        }
    }

    /// A file could not be opened. Public for whoever opens the files of a store, such as a disk of tests.
    pub fn unopened(file: StoreFile, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::unusable(file, Unopened::InUse),
            error => Self::of_redb(file, error.into()),
        }
    }

    /// The derived state could not be opened.
    pub(crate) fn of_state(error: Unopened) -> Self {
        let file = StoreFile::State;
        match error {
            Unopened::Damaged(what) => Self::damaged(file, what),
            error => Self::unusable(file, error),
        }
    }

    /// A file holds bytes that no node wrote.
    pub(crate) fn damaged(file: StoreFile, what: impl fmt::Display) -> Self {
        Self::of(file, What::Damaged(what.to_string()))
    }

    /// A row of the derived state is not what was written there. `key` begins with the row's kind. A caller that does
    /// not have the whole key gives the kind alone, which names the table.
    pub(crate) fn row(key: &[u8]) -> Self {
        let (kind, rest) = key.split_first().expect("a key begins with its kind");
        let table = table_name(*kind).unwrap_or("no table");
        let row = match rest.is_empty() {
            true => format!("a row of {table}"),
            false => format!("row {} of {table}", rest.escape_ascii()),
        };
        Self {
            row: Some(row),
            ..Self::damaged(StoreFile::State, "is not what was written")
        }
    }

    /// A file cannot be used, although it is not damaged.
    pub(crate) fn unusable(file: StoreFile, why: impl fmt::Display) -> Self {
        Self::of(file, What::Unusable(why.to_string()))
    }

    fn of(file: StoreFile, what: What) -> Self {
        Self {
            file,
            row: None,
            what,
        }
    }

    /// The file that failed.
    pub fn file(&self) -> StoreFile {
        self.file
    }

    /// Whether the file holds what nobody wrote, rather than cannot be used.
    pub fn is_damage(&self) -> bool {
        matches!(self.what, What::Damaged(_))
    }

    /// The damaged row, if one is known: its table and its key, with escapes for bytes that are not printable ASCII.
    pub fn row_name(&self) -> Option<&str> {
        self.row.as_deref()
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, remedy) = (self.file, self.file.remedy());
        match (&self.what, &self.row) {
            (What::Failed(source, None), _) => write!(f, "{file}: {source}"),
            (What::Failed(source, Some(remedy)), _) => write!(f, "{file}: {source}; {remedy}"),
            (What::Damaged(what), None) => write!(f, "{file} is damaged: {what}; {remedy}"),
            (What::Damaged(what), Some(row)) => {
                write!(f, "{file} is damaged: {row} {what}; {remedy}")
            }
            (What::Unusable(why), _) => write!(f, "{file}: {why}"),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.what {
            What::Failed(source, _) => Some(&**source),
            What::Damaged(_) | What::Unusable(_) => None,
        }
    }
}

/// Errors are equal when their files and messages are, because sources cannot be compared.
impl PartialEq for StorageError {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.to_string() == other.to_string()
    }
}

impl Eq for StorageError {}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn an_error_names_the_file_the_row_and_what_to_do() {
        let row = StorageError::row(&[b'M', b'd', 0x01]);
        assert_eq!(row.file(), StoreFile::State);
        assert_eq!(row.row_name(), Some("row d\\x01 of marks-1"));
        assert_eq!(
            row.to_string(),
            "state.redb is damaged: row d\\x01 of marks-1 is not what was written; remove it while no daemon runs, and it is made again from the log"
        );
        assert_eq!(StorageError::row(b"M").row_name(), Some("a row of marks-1"));
        let segment = StorageError::damaged(StoreFile::Segment(16), "entry 17 is torn");
        assert_eq!(
            segment.to_string(),
            format!("log/0000000000000010.redb is damaged: entry 17 is torn; {LOG_REMEDY}")
        );
        assert!(segment.source().is_none());
    }

    #[test]
    fn the_source_of_an_error_is_kept() {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "no space is left");
        for error in [
            StorageError::failed(StoreFile::Log, full()),
            StorageError::unopened(StoreFile::Log, full().into()),
        ] {
            let source = error.source().map(ToString::to_string);
            assert_eq!(source.as_deref(), Some("no space is left"));
            assert!(error.to_string().contains("no space is left"), "{error}");
            assert_eq!(error, error.clone());
        }
    }

    #[test]
    fn an_error_of_the_machine_advises_no_backup_and_removes_nothing() {
        for file in [StoreFile::State, StoreFile::Log, StoreFile::Segment(16)] {
            // EIO, EACCES and EMFILE.
            for number in [5, 13, 24] {
                let error = || io::Error::from_raw_os_error(number);
                for error in [
                    StorageError::failed(file, error()),
                    StorageError::unopened(file, error().into()),
                    StorageError::of_redb(file, redb::Error::Io(error())),
                ] {
                    let said = error.to_string();
                    for advice in ["backup", "remove", "damaged", "again"] {
                        assert!(!said.contains(advice), "{said}");
                    }
                    assert!(said.contains("; "), "nothing to do about it: {said}");
                }
            }
            let torn = redb::StorageError::Corrupted("a page".into());
            let said = StorageError::unopened(file, torn.into()).to_string();
            assert!(
                said.contains("is damaged") && said.contains("remove"),
                "{said}"
            );
            let in_use = StorageError::unopened(file, DatabaseError::DatabaseAlreadyOpen);
            assert!(in_use.to_string().contains("another process"), "{in_use}");
        }
    }
}

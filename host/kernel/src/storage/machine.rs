//! Errors of the machine, told from damage: what the database says of a file's content, and what the system refuses.
//!
//! A limit, a permission or a disk that does not read says nothing about what a file holds. Only the database's own
//! verdict does, so nothing else may cost a file, nor lead to the advice to restore one. redb asserts what it finds, so
//! a panic is its verdict as well, unless the system refuses to read the file: then nothing is known.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::DatabaseError;

/// What a panic of redb means.
pub(crate) const CONTRADICTION: &str = "its pages contradict each other";

/// Too many open files: of the process, and of the system. Alike on Linux and macOS.
const DESCRIPTORS: [i32; 2] = [24, 23];

/// Why a redb file is not open.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// Somebody else has it open.
    #[error("another process has it open; end that one first")]
    InUse,
    /// It does not hold what a database wrote: redb's own verdict.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The machine refused. Nothing is known about what the file holds.
    #[error("{text}; {remedy}")]
    Refused {
        /// What the system or redb said.
        text: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

impl From<io::Error> for Unopened {
    fn from(error: io::Error) -> Self {
        Self::Refused {
            text: error.to_string(),
            remedy: machine_remedy(&error),
        }
    }
}

impl From<DatabaseError> for Unopened {
    fn from(error: DatabaseError) -> Self {
        match redb::Error::from(error) {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            error if is_verdict(&error) => Self::Damaged(verdict_text(&error)),
            redb::Error::Io(error) => error.into(),
            error => Self::Refused {
                text: error.to_string(),
                remedy: DISK,
            },
        }
    }
}

/// Opens a redb file at a path, whatever redb panics about.
///
/// # Errors
/// [`Unopened`].
pub(crate) fn open_file<T>(
    path: &Path,
    open: impl FnOnce() -> Result<T, DatabaseError>,
) -> Result<T, Unopened> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            read_through(path)?;
            Err(Unopened::Damaged(CONTRADICTION.into()))
        }
    }
}

/// Reads a file from its start to its end, to know whether the system can.
fn read_through(path: &Path) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut io::sink()).map(drop)
}

/// Whether an error is redb's verdict about what a file holds.
pub(crate) fn is_verdict(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => true,
        // It begins as no file of redb does, or ends before its own pages do. What the system refuses has a number of
        // the system's.
        redb::Error::Io(error) => {
            error.raw_os_error().is_none()
                && matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                )
        }
        _ => false,
    }
}

/// Whether there are too many open files for one more.
pub(crate) fn lacks_descriptors(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(redb::StorageError::Io(error)) => is_for_descriptors(error),
        _ => false,
    }
}

fn is_for_descriptors(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| DESCRIPTORS.contains(&number))
}

/// What redb finds wrong, without calling it an error of the disk.
pub(crate) fn verdict_text(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(error) => error.to_string(),
        redb::Error::Corrupted(what) => what.clone(),
        error => error.to_string(),
    }
}

const DISK: &str = "check the disk; the system's own log may say more";

/// What to do about an error of the machine.
pub fn machine_remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind;
    if is_for_descriptors(error) {
        return "allow more open files: see `ulimit -n`, or LimitNOFILE= of the service";
    }
    match error.kind() {
        ErrorKind::PermissionDenied => "check who owns the file, and its permissions",
        ErrorKind::ReadOnlyFilesystem => "the disk can only be read: mount it for writing",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "make room on the disk"
        }
        ErrorKind::AlreadyExists => "move it away",
        ErrorKind::OutOfMemory => "allow more memory",
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "check the path"
        }
        _ => DISK,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn of(error: io::Error) -> Unopened {
        DatabaseError::from(error).into()
    }

    #[test]
    fn what_the_machine_refuses_is_no_damage_and_says_what_is_lacking() {
        // EPERM, EIO, EACCES, ENFILE, EMFILE, ENOSPC, EROFS, ELOOP and ENOLCK on Linux.
        for number in [1, 5, 13, 23, 24, 28, 30, 40, 37] {
            let refused = of(io::Error::from_raw_os_error(number));
            assert!(
                matches!(refused, Unopened::Refused { .. }),
                "{number}: {refused}"
            );
            assert!(!refused.to_string().contains("damaged"), "{refused}");
        }
        for number in DESCRIPTORS {
            let refused = of(io::Error::from_raw_os_error(number)).to_string();
            assert!(refused.contains("ulimit -n"), "{refused}");
        }
        let full = of(io::ErrorKind::StorageFull.into()).to_string();
        assert!(full.contains("make room"), "{full}");
    }

    #[test]
    fn only_what_redb_says_of_the_content_is_damage() {
        let verdicts: [DatabaseError; 4] = [
            redb::StorageError::Corrupted("Invalid magic number".into()).into(),
            DatabaseError::UpgradeRequired(1),
            io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            io::Error::new(io::ErrorKind::InvalidData, "magic number mismatch").into(),
        ];
        for verdict in verdicts {
            let found = Unopened::from(verdict);
            assert!(matches!(found, Unopened::Damaged(_)), "{found}");
        }
        let in_use = Unopened::from(DatabaseError::DatabaseAlreadyOpen);
        assert!(matches!(in_use, Unopened::InUse));
        for other in [
            redb::StorageError::PreviousIo,
            redb::StorageError::DatabaseClosed,
        ] {
            let found = Unopened::from(DatabaseError::from(other));
            assert!(matches!(found, Unopened::Refused { .. }), "{found}");
        }
    }

    #[test]
    fn a_panic_is_damage_only_of_a_file_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"no database").unwrap();
        let panics = || -> Result<(), DatabaseError> { panic!("unreachable") };
        let found = open_file(&path, panics).unwrap_err();
        assert!(matches!(found, Unopened::Damaged(_)), "{found}");
        // A directory opens, and the system refuses to read it.
        let found = open_file(dir.path(), panics).unwrap_err();
        assert!(matches!(found, Unopened::Refused { .. }), "{found}");
    }
}

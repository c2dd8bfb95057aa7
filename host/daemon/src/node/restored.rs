//! Detection of a home that was copied, or restored from a backup.
//!
//! Such a home may lack entries that this device has signed. If it continued its chain, it would sign two different
//! entries for one place: a fork. So the chain is left, and the next entry starts a new one. The entries that the home
//! lacks come back from the peers that have them.
//!
//! A copied file has another inode number or time of birth. A file that a tool overwrote in place, and whose times it
//! restored, was changed well after its last writing. Restoring a whole disk leaves no trace; a fork that follows is
//! noticed when peers are met, and nobody continues the forked chain.

use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use lattice_format::{ChainId, StoreId};
use lattice_kernel::{Files, LOG_REMEDY, SetAside, Store, machine_remedy};

use crate::limits::TIMES_APART;
use crate::node::{Node, copies};

/// The mark of a log that the node knows nothing about. No log has this mark.
pub(crate) const UNKNOWN: &[u8] = b"unknown";

/// The mark by which a store's log is recognised: the number of its last segment, and the identity of that file.
///
/// # Errors
/// When the log has no segment, or the system fails.
pub(crate) fn mark(directory: &Path) -> std::io::Result<Vec<u8>> {
    Ok(look(directory)?.mark())
}

/// The identity of a file: its inode number and its time of birth.
fn identity(file: &Metadata) -> [u8; 16] {
    // Some file systems do not record the birth of files. Then the inode number alone identifies the file.
    let born = file
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos() as u64);
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&file.ino().to_be_bytes());
    identity[8..].copy_from_slice(&born.to_be_bytes());
    identity
}

/// Whether a tool has set the times of a file: then its last change (ctime) is well after its last writing (mtime).
fn is_set_back(file: &Metadata) -> bool {
    let written = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
    let changed = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
    changed - written > TIMES_APART.as_nanos() as i128
}

/// A log as it was found before it was opened. Opening it may write it.
pub(crate) struct Found {
    segments: Vec<(u64, PathBuf)>,
    /// The number of the last segment, and the identity of its file.
    last: (u64, [u8; 16]),
    set_back: bool,
}

impl Found {
    fn mark(&self) -> Vec<u8> {
        [&self.last.0.to_be_bytes()[..], &self.last.1].concat()
    }

    /// Whether this is another log than that of the mark: the segment that was the last one then is another file, or is
    /// missing although an earlier one is there.
    fn has_left(&self, mark: &[u8]) -> bool {
        if mark.is_empty() {
            return false;
        }
        let Some((first, identity_then)) = mark.split_first_chunk::<8>() else {
            return true;
        };
        let first = u64::from_be_bytes(*first);
        let at = self.segments.partition_point(|segment| segment.0 < first);
        match self.segments.get(at) {
            Some((found, path)) if *found == first => std::fs::metadata(path)
                .map_or(true, |file| identity(&file).as_slice() != identity_then),
            // The segment of the mark is missing. That is allowed only if all before it are missing too, because the
            // first segments may be dropped.
            Some(_) => at > 0,
            None => true,
        }
    }
}

/// What to do about a log that cannot be examined.
pub(crate) fn remedy(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => LOG_REMEDY,
        _ => machine_remedy(error),
    }
}

/// Examines the log of a store that is about to be opened.
///
/// # Errors
/// When the log has no segment, or the system fails.
pub(crate) fn look(directory: &Path) -> std::io::Result<Found> {
    let segments = Files::segments(directory)?;
    let absent = || Error::new(ErrorKind::NotFound, "the log has no segment");
    let (first, path) = segments.last().ok_or_else(absent)?;
    let file = std::fs::metadata(path)
        .map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(Found {
        last: (*first, identity(&file)),
        set_back: is_set_back(&file),
        segments,
    })
}

/// Leaves the chain of a store whose log was copied or restored, and records that.
pub(crate) fn leave_restored_chain(node: &Node, id: &StoreId, found: &Found, store: &mut Store) {
    // A store that is being created has no slot yet.
    let Some(slot) = node.slot(id) else { return };
    let record = slot.record();
    let moved = found.has_left(&record.log_mark);
    let mark = found.mark();
    if moved || found.set_back {
        tracing::warn!(
            store = %id,
            "the store's files were copied or restored: what is signed next starts a new chain"
        );
        copies::tell(node, &copies::Sign::Files(*id));
    }
    if mark != record.log_mark || found.set_back {
        let leaves = (moved || found.set_back)
            .then(|| store.own_chain())
            .flatten();
        let written = node.update_slot(&slot, |record| {
            if moved || found.set_back {
                record.left_chain = leaves.map(|chain| chain.0);
            }
            record.log_mark = mark;
        });
        if let Err(failure) = written {
            // A full disk: the next opening sees the same, and until then the chain is left here.
            tracing::warn!(store = %id, "{failure}");
            if let Some(chain) = leaves {
                store.leave_chain(chain);
            }
        }
    }
    let record = slot.record();
    if let Some(chain) = record.left_chain {
        store.leave_chain(ChainId(chain));
    }
    if let Some(chain) = record.aside_chain {
        store.set_aside(SetAside {
            chain: ChainId(chain),
            above_ms: record.aside_above_ms,
        });
    }
}

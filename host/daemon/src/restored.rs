//! Notices that a home was copied, or put back to an earlier day.
//!
//! Such a home may lack what this device signed later. To go on with its chain would sign two different
//! entries for one place: a fork. So the chain is left where it is, and the next entry starts a new one;
//! what was signed before comes back from the peers that have it.
//!
//! A file that was written anew is another one, by number or time of birth. One that was overwritten in
//! its place by a tool that restores times was changed after it was written. What puts back a whole disk
//! leaves no trace: that a fork came of it is seen when peers are met, and the fork is continued by nobody.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use lattice_format::{ChainId, StoreId};
use lattice_kernel::Store;

use crate::limits::TIMES_APART;
use crate::node::Node;

/// The mark of a log that the node knows nothing about: no file has it.
pub(crate) const UNKNOWN: &[u8] = b"unknown";

const LOG: &str = "log.redb";

/// What a store's log is known by as a file.
///
/// # Errors
/// When it is not there.
pub(crate) fn mark(directory: &Path) -> std::io::Result<Vec<u8>> {
    Ok(mark_of(&std::fs::metadata(directory.join(LOG))?))
}

fn mark_of(file: &Metadata) -> Vec<u8> {
    // Not every file system knows when a file was made; the number is then all there is.
    let born = file
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos() as u64);
    [file.ino().to_be_bytes(), born.to_be_bytes()].concat()
}

/// Whether a file's times were set by hand: it was changed well after it was last written.
fn is_set_back(file: &Metadata) -> bool {
    let written = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
    let changed = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
    changed - written > TIMES_APART.as_nanos() as i128
}

/// How a log is found before it is opened, which may write it.
pub(crate) struct Found {
    mark: Vec<u8>,
    set_back: bool,
}

/// Looks at the log of a store that is about to be opened.
///
/// # Errors
/// When it is not there.
pub(crate) fn look(directory: &Path) -> std::io::Result<Found> {
    let file = std::fs::metadata(directory.join(LOG))?;
    Ok(Found {
        mark: mark_of(&file),
        set_back: is_set_back(&file),
    })
}

impl Node {
    /// Leaves the chain of a store whose log is not the file that it was, and remembers that.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(crate) fn leave_restored_chain(
        &self,
        id: &StoreId,
        found: &Found,
        store: &mut Store,
    ) -> Result<(), String> {
        // A store that is only being made is not known yet.
        let Some(slot) = self.slot(id) else {
            return Ok(());
        };
        let record = slot.record();
        let moved = !record.log_mark.is_empty() && record.log_mark != found.mark;
        if moved || found.set_back {
            tracing::warn!(
                store = %id,
                "the store's files were copied or restored: what is signed next starts a new chain"
            );
        }
        if found.mark != record.log_mark || found.set_back {
            self.update_slot(&slot, |record| {
                if moved || found.set_back {
                    record.left_chain = store.own_chain().map(|chain| chain.0);
                }
                record.log_mark.clone_from(&found.mark);
            })
            .map_err(|failure| failure.text().to_owned())?;
        }
        if let Some(chain) = slot.record().left_chain {
            store.leave_chain(ChainId(chain));
        }
        Ok(())
    }
}

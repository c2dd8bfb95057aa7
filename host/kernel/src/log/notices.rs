//! The rows of notices: which are not acknowledged, and what they told.

use std::collections::BTreeSet;
use std::sync::MutexGuard;

use lattice_format::Digest;
use redb::{ReadableTable, ReadableTableMetadata};

use super::{Log, NOTICED, NOTICES};
use crate::log::notice::Notice;
use crate::log::row::{noticed_key, unsealed};
use crate::log::segments::Segment;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;

impl Log {
    /// The entries whose changed outcomes were told by notices since the log had `since` entries. May also hold entries
    /// of earlier notices, because whole segments are read.
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

    /// The digest of the outcome that the last notice about a transaction told; `None` when no notice told any.
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

    /// The notices that are not acknowledged, ascending by number.
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

    /// Removes the notices with these numbers. Durable when this returns. Returns how many of them there were.
    pub(crate) fn acknowledge(&self, numbers: &[u64]) -> Result<usize, StorageError> {
        self.check_writable()?;
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
}

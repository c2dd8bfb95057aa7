//! The rows of an interval, from the overlay and the disk, as one sequence.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use redb::AccessGuard;

use crate::storage::error::StorageError;
use crate::storage::rows::{Disk, Key, RowsView, Value};

type OnDisk = redb::Range<'static, &'static [u8], &'static [u8]>;
type DiskRow = (
    AccessGuard<'static, &'static [u8]>,
    AccessGuard<'static, &'static [u8]>,
);
type MemoryRow<'a> = (&'a Key, &'a Option<Value>);

/// Rows in the direction of a scan. A row of the overlay hides the one on disk with the same key.
pub(super) struct Merged<'a, M> {
    reverse: bool,
    memory: M,
    disk: Option<(&'a Arc<Disk>, OnDisk)>,
    next_in_memory: Option<MemoryRow<'a>>,
    next_on_disk: Option<DiskRow>,
    /// The row on disk that was returned last, whose value the caller reads.
    current: Option<DiskRow>,
    /// The key of `current`. Keys in the overlay begin with their kind. Keys in the table do not, so the kind is put
    /// in front of them.
    key: Vec<u8>,
}

/// A row: its key, and its value unless it was removed.
pub(super) type MergedRow<'r> = (&'r [u8], Option<&'r [u8]>);

impl RowsView {
    /// The rows of one kind from `start` (inclusive) to `end` (exclusive), which is above `start`.
    pub(super) fn merged<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        reverse: bool,
    ) -> Result<Merged<'a, impl DoubleEndedIterator<Item = MemoryRow<'a>> + use<'a>>, StorageError>
    {
        let kind = start[0];
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let disk = match self.on_disk(kind) {
            None => None,
            Some((disk, table)) => {
                let until = match end.split_first() {
                    Some((same, rest)) if *same == kind => Bound::Excluded(rest),
                    _ => Bound::Unbounded,
                };
                let bounds = (Bound::Included(&start[1..]), until);
                Some((disk, disk.read(|| table.range::<&[u8]>(bounds))?))
            }
        };
        let mut merged = Merged {
            reverse,
            memory: self.overlay.range::<_, [u8]>(bounds),
            disk,
            next_in_memory: None,
            next_on_disk: None,
            current: None,
            key: vec![kind],
        };
        merged.step_memory();
        merged.step_disk()?;
        Ok(merged)
    }
}

impl<'a, M: DoubleEndedIterator<Item = MemoryRow<'a>>> Merged<'a, M> {
    fn step_memory(&mut self) -> Option<MemoryRow<'a>> {
        let next = match self.reverse {
            true => self.memory.next_back(),
            false => self.memory.next(),
        };
        std::mem::replace(&mut self.next_in_memory, next)
    }

    fn step_disk(&mut self) -> Result<Option<DiskRow>, StorageError> {
        let Some((disk, range)) = &mut self.disk else {
            return Ok(None);
        };
        let reverse = self.reverse;
        let next = disk.read(|| {
            let next = match reverse {
                true => range.next_back(),
                false => range.next(),
            };
            let Some((key, value)) = next.transpose()? else {
                return Ok(None);
            };
            // Both are bounds in a page, which damage can set beyond it: here the panic is an error.
            let _ = (key.value(), value.value());
            Ok(Some((key, value)))
        })?;
        Ok(std::mem::replace(&mut self.next_on_disk, next))
    }

    /// Which of the next two rows comes first; `None` behind the last.
    fn first(&self) -> Option<Ordering> {
        Some(match (&self.next_in_memory, &self.next_on_disk) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some((other, _))) => match key[1..].cmp(other.value()) {
                order if self.reverse => order.reverse(),
                order => order,
            },
        })
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<MergedRow<'_>>, StorageError> {
        let Some(first) = self.first() else {
            return Ok(None);
        };
        if first.is_gt() {
            self.current = self.step_disk()?;
            let (key, value) = self.current.as_ref().expect("the first of two rows");
            self.key.truncate(1);
            self.key.extend_from_slice(key.value());
            return Ok(Some((&self.key, Some(value.value()))));
        }
        if first.is_eq() {
            self.step_disk()?;
        }
        let (key, value) = self.step_memory().expect("the first of two rows");
        Ok(Some((key, value.as_deref())))
    }
}

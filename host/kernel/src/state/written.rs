//! The host's cells for quotas: the quota in effect, and how many bytes each author has written.
//!
//! Of an author's number of bytes an entry reads only whether its own body still fits. A late entry changes the
//! number for every later entry of its author, and only those entries run again for which the answer differs.

use std::ops::ControlFlow;

use lattice_format::{DeviceKey, Header, Lane};

use crate::graph::slot::Slot;
use crate::mutant::{self, Mutant};
use crate::state::cell::{Cell, Space, ValueMark, live_key, reader_key};
use crate::state::live;
use crate::state::numbers;
use crate::state::reads::Reads;
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::rows::RowsView;

/// The cell of the quota in effect: 8 bytes big-endian, or no value when there is no quota.
pub(crate) fn quota_cell() -> Cell {
    Cell::new(Lane::System, Space::Quota, b"")
}

/// The cell of the number of bytes that an author has written. Its key is the first half of the author's key, to save
/// bytes, because every entry has a row with that key. Two devices that share a half take 2⁶⁴ keys to find.
pub(crate) fn written_cell(author: &DeviceKey) -> Cell {
    Cell::new(Lane::App, Space::Written, &author.0[..16])
}

/// What an author has written and may write, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) written: u64,
    /// `None` where there is no bound.
    pub(crate) quota: Option<u64>,
}

impl Allowance {
    /// Whether a body of `len` bytes more is within the quota.
    pub(crate) fn fits(&self, len: u64) -> bool {
        self.quota
            .is_none_or(|quota| self.written.saturating_add(len) <= quota)
    }
}

/// The mark of a read of a number of bytes: whether the number is at most `most`.
fn mark(most: u64, fits: bool) -> ValueMark {
    let mut mark = [0; 16];
    mark[0] = 1;
    mark[1] = u8::from(fits);
    mark[8..].copy_from_slice(&most.to_be_bytes());
    ValueMark(mark)
}

/// Whether the answer in a mark is still right when the number is `written`; `None` when the mark is damaged.
fn still_holds(mark: &[u8], written: u64) -> Option<bool> {
    let fits = *mark.get(1)? == 1;
    let most = u64::from_be_bytes(mark.get(8..16)?.try_into().ok()?);
    Some((written <= most) == fits)
}

fn bytes_of(number: i64) -> Result<u64, StorageError> {
    u64::try_from(number).map_err(|_| {
        StorageError::damaged(
            StoreFile::State,
            format_args!("an author has written {number} bytes"),
        )
    })
}

fn quota_at(rows: &RowsView, at: Slot) -> Result<(Option<u64>, ValueMark), StorageError> {
    let value = live::bytes_at(rows, &quota_cell(), at)?;
    let mark = ValueMark::of_bytes(value.as_deref());
    let quota = value
        .map(|bytes| {
            let bytes = (*bytes)
                .try_into()
                .map_err(|_| StorageError::row(&live_key(&quota_cell())))?;
            Ok::<_, StorageError>(u64::from_be_bytes(bytes))
        })
        .transpose()?;
    Ok((quota, mark))
}

/// What `author` has written below `at`, and the quota in effect at `at`.
pub(crate) fn allowance(
    rows: &RowsView,
    author: &DeviceKey,
    at: Slot,
) -> Result<Allowance, StorageError> {
    let written = live::number_at(rows, &written_cell(author), at)?;
    Ok(Allowance {
        written: bytes_of(written)?,
        quota: quota_at(rows, at)?.0,
    })
}

/// Whether an entry of the app lane at `at` is within its author's quota, with the reads behind the answer.
pub(crate) fn judge(
    rows: &RowsView,
    header: &Header,
    at: Slot,
) -> Result<(bool, Reads), StorageError> {
    let mut reads = Reads::default();
    let (quota, seen) = quota_at(rows, at)?;
    reads.cells.insert(quota_cell(), seen);
    let Some(quota) = quota else {
        return Ok((true, reads));
    };
    let Some(most) = quota.checked_sub(u64::from(header.body.len)) else {
        return Ok((false, reads));
    };
    let cell = written_cell(&header.author);
    let fits = bytes_of(live::number_at(rows, &cell, at)?)? <= most;
    if !mutant::active(Mutant::WrittenBytesUntracked) {
        reads.cells.insert(cell, mark(most, fits));
    }
    Ok((fits, reads))
}

/// The runs above `slot` whose answers are wrong now that the number in `cell` has changed at `slot`. One pass over
/// the author's later entries finds them all.
pub(crate) fn stale_readers(
    rows: &RowsView,
    cell: &Cell,
    slot: Slot,
) -> Result<Vec<(Lane, Slot)>, StorageError> {
    let damaged = || StorageError::row(&reader_key(cell, Lane::App, slot));
    let from = slot.just_above();
    let mut readers = Vec::new();
    rows.scan(
        &reader_key(cell, Lane::App, from),
        &reader_key(cell, Lane::App, Slot::MAX),
        false,
        |row, mark| {
            readers.push((Slot::at_end_of(row), mark.to_vec()));
            ControlFlow::Continue(())
        },
    )?;
    if readers.is_empty() {
        return Ok(Vec::new());
    }
    let mut added = Vec::new();
    numbers::deltas(rows, cell, from, |slot, len| added.push((slot, len)))?;
    let mut written = bytes_of(live::number_at(rows, cell, from)?)?;
    let mut added = added.into_iter().peekable();
    let mut stale = Vec::new();
    for (at, mark) in readers {
        let at = at.ok_or_else(damaged)?;
        while let Some((_, len)) = added.next_if(|(place, _)| *place < at) {
            written += bytes_of(len)?;
        }
        if !still_holds(&mark, written).ok_or_else(damaged)? {
            stale.push((Lane::App, at));
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_exactly_is_within_the_quota() {
        let allowance = |quota| Allowance { written: 90, quota };
        assert!(allowance(Some(100)).fits(10));
        assert!(!allowance(Some(100)).fits(11));
        assert!(!allowance(Some(80)).fits(0));
        assert!(allowance(None).fits(u64::MAX));
    }

    #[test]
    fn a_mark_says_what_it_depends_on() {
        for (most, fits) in [(10, true), (10, false)] {
            let mark = mark(most, fits).0;
            assert_eq!(still_holds(&mark, 10), Some(fits));
            assert_eq!(still_holds(&mark, 11), Some(!fits));
        }
        assert_eq!(still_holds(&[1], 0), None);
    }
}

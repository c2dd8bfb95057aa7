//! The host's cells for quotas: how many bytes each author has written.
//!
//! Of an author's number of bytes an entry reads only whether it still fits itself. A late entry changes the number for
//! every later entry of its author, and only those entries run again for which the answer differs.

use std::ops::ControlFlow;

use lattice_format::{DeviceKey, Lane};

use crate::graph::slot::Slot;
use crate::mutant::{self, Mutant};
use crate::state::cell::{Cell, Space, ValueMark, reader_key};
use crate::state::live;
use crate::state::numbers;
use crate::state::reads::Reads;
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::rows::RowsView;

/// The cell of the number of bytes that an author has written, by which entries of `lane` are judged: in the system
/// lane its bytes there, and in the app lane its bytes in both. The system lane must not wait for the app lane.
///
/// The key is the first half of the author's key, to save bytes, because every entry has a row with that key. Two
/// devices that share a half take 2⁶⁴ keys to find.
pub(crate) fn written_cell(lane: Lane, author: &DeviceKey) -> Cell {
    Cell::new(lane, Space::Written, &author.0[..16])
}

/// The cells that an entry of `lane` adds its bytes to.
pub(crate) fn written_cells(lane: Lane, author: &DeviceKey) -> Vec<Cell> {
    let lanes: &[Lane] = match lane {
        Lane::System => &[Lane::System, Lane::App],
        Lane::App => &[Lane::App],
    };
    lanes
        .iter()
        .map(|lane| written_cell(*lane, author))
        .collect()
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

/// The bytes that `author` has written below `at`, by which entries of `lane` are judged.
pub(crate) fn written_at(
    rows: &RowsView,
    author: &DeviceKey,
    lane: Lane,
    at: Slot,
) -> Result<u64, StorageError> {
    bytes_of(live::number_at(rows, &written_cell(lane, author), at)?)
}

/// Whether an entry of `bytes` at `at` is within its author's quota for `lane`, with the read behind the answer.
pub(crate) fn judge(
    rows: &RowsView,
    (author, lane): (&DeviceKey, Lane),
    bytes: u64,
    quota: u64,
    at: Slot,
) -> Result<(bool, Reads), StorageError> {
    let mut reads = Reads::default();
    let Some(most) = quota.checked_sub(bytes) else {
        return Ok((false, reads));
    };
    let fits = written_at(rows, author, lane, at)? <= most;
    if !mutant::active(Mutant::WrittenBytesUntracked) {
        reads
            .cells
            .insert(written_cell(lane, author), mark(most, fits));
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
    let lane = cell.lane();
    let damaged = || StorageError::row(&reader_key(cell, lane, slot));
    let from = slot.just_above();
    let mut readers = Vec::new();
    rows.scan(
        &reader_key(cell, lane, from),
        &reader_key(cell, lane, Slot::MAX),
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
            stale.push((lane, at));
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;

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

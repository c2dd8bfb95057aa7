//! The index of calls: for each call id, the entries that hold the call and count.
//!
//! Several entries can hold calls of the same id. An id is fixed before its call runs, so it covers the part of the
//! header that is known by then, and not the body. A device that forks its chain can therefore sign several entries
//! whose calls have the same ids. Each entry that counts has a row of its own for each of its calls. A void entry has
//! no rows: nobody has observed an entry that does not count, and no outcome may depend on whether this replica has
//! the body of a void entry.
//!
//! A row holds no place in the order, because its entry has one. A run at some slot sees the rows of the entries
//! below that slot, and what it learns counts as a read. The cell that it reads is of the space *called*, and its key
//! is the call's id and the first half of the entry's id. The cell's value is the entry's number: it is there from
//! the entry's slot on, and as long as the entry counts.

use std::ops::ControlFlow;

use lattice_format::{CallId, IntentionId, Lane};

use crate::graph::dag;
use crate::graph::slot::Slot;
use crate::state::cell::{Cell, Space, ValueMark};
use crate::state::reads::Range;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, last_number, put_last_number};
use crate::storage::rows::{Rows, RowsView, prefix_end};

/// The length of a cell's key: a call's id and half of an entry's.
pub(crate) const KEY_BYTES: usize = 48;

/// The cell of one call of an entry.
pub(crate) fn cell(lane: Lane, call: CallId, entry: &IntentionId) -> Cell {
    Cell::new(lane, Space::Called, &[&call.0[..], &entry.0[..16]].concat())
}

fn prefix(lane: Lane, call: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(26);
    key.extend_from_slice(&[b'E', lane.number()]);
    key.extend_from_slice(&call[..16]);
    key
}

fn key(lane: Lane, call: CallId, local: LocalSeq) -> Vec<u8> {
    let mut key = prefix(lane, &call.0);
    put_last_number(local.0, &mut key);
    key
}

/// Notes that the entry at `local`, which holds the call, counts.
pub(crate) fn put(rows: &mut Rows, lane: Lane, call: CallId, local: LocalSeq) {
    rows.put(key(lane, call, local), []);
}

/// Notes that the entry at `local` does not count any more.
pub(crate) fn remove(rows: &mut Rows, lane: Lane, call: CallId, local: LocalSeq) {
    rows.remove(key(lane, call, local));
}

/// All cells of a call in a lane, those of entries that are still to come included. Both ends start with the call's
/// id, so the mark of the range is stored under that id.
pub(crate) fn span(lane: Lane, call: CallId) -> Range {
    let end = [&call.0[..], &[0xff; 16], &[0]].concat();
    Range {
        start: Cell::new(lane, Space::Called, &call.0).as_bytes().to_vec(),
        end: Cell::new(lane, Space::Called, &end).as_bytes().to_vec(),
    }
}

/// Visits the entries of `lane` below `at` that hold `call` and count, until `visit` breaks.
pub(crate) fn entries(
    rows: &RowsView,
    lane: Lane,
    call: CallId,
    at: Slot,
    mut visit: impl FnMut(Cell, LocalSeq) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    candidates(rows, lane, &call.0, at, |id, local| {
        visit(cell(lane, call, &id), local)
    })
}

fn candidates(
    rows: &RowsView,
    lane: Lane,
    call: &[u8],
    at: Slot,
    mut visit: impl FnMut(IntentionId, LocalSeq) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let start = prefix(lane, call);
    let end = prefix_end(&start).expect("the kind is below 255");
    let mut found = Vec::new();
    rows.scan(&start, &end, false, |row, _| {
        found.extend(last_number(row, start.len()));
        ControlFlow::Continue(())
    })?;
    found.sort_unstable();
    for local in found.into_iter().map(LocalSeq) {
        let meta = dag::meta(rows, local)?;
        if Slot::of(meta.position()) < at && visit(meta.id, local)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The mark of what a run at `at` sees in a cell of the space *called*.
pub(crate) fn mark_at(rows: &RowsView, cell: &Cell, at: Slot) -> Result<ValueMark, StorageError> {
    let mut mark = ValueMark::ABSENT;
    let Some((call, entry)) = cell.key().split_at_checked(32) else {
        return Ok(mark);
    };
    candidates(rows, cell.lane(), call, at, |id, local| {
        if id.0[..16] != *entry {
            return Ok(ControlFlow::Continue(()));
        }
        mark = present(local);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(mark)
}

/// The mark of a cell whose entry counts and stands below the reader.
pub(crate) fn present(local: LocalSeq) -> ValueMark {
    ValueMark::of_bytes(Some(&local.0.to_be_bytes()))
}

//! Which entries hold the call of an id, as long as they count.
//!
//! An id is fixed before its call runs, so it covers the header as far as that is known then and not
//! the body: a device that forks its chain can sign several entries whose calls have the same ids. Each
//! entry that counts therefore has a row of its own for each of its calls, in the lane where it runs:
//!
//! ```text
//! cell lane called, key: call id (32) entry id[..16] → local (8)
//! ```
//!
//! A void entry has none: nobody has observed what does not count, and nothing depends on whether this
//! replica knows its body. The rows have versions like any other, and who asks has read them.

use std::ops::ControlFlow;

use lattice_format::{CallId, IntentionId, Lane, Position, VerifiedHeader};

use crate::fold::core::Effects;
use crate::graph::dag::LocalSeq;
use crate::run::Range;
use crate::state::cell::{Cell, Op, Space};
use crate::state::live;
use crate::storage::rows::{RowsView, StorageError};

/// The length of a row's key.
pub(crate) const KEY_BYTES: usize = 48;

fn key(call: CallId, entry: &[u8; 16]) -> Vec<u8> {
    [&call.0[..], entry].concat()
}

/// The row of one call of an entry, and what stands in it.
pub(crate) fn row(lane: Lane, call: CallId, entry: IntentionId, local: LocalSeq) -> (Cell, Op) {
    let (start, _) = entry.0.split_first_chunk().expect("16 of an id's 32 bytes");
    let cell = Cell::new(lane, Space::Called, &key(call, start));
    (cell, Op::Put(local.0.to_be_bytes()[..].into()))
}

/// Adds to the effects of an entry that counts the rows of its calls; `calls` says how many its body holds.
pub(crate) fn add(
    effects: &mut Effects,
    lane: Lane,
    header: &VerifiedHeader,
    local: LocalSeq,
    calls: u32,
) {
    // The two halves of a genesis have one call each.
    let indices = match (local.0, lane.number()) {
        (0, half) => half.into()..u32::from(half) + 1,
        _ => 0..calls,
    };
    let rows = indices.map(|index| row(lane, header.call_id(index), header.id(), local));
    effects.writes.extend(rows);
}

/// All rows of a call in a lane, whatever entries there will be. Both ends start with the call's id, so
/// the range is kept under that.
pub(crate) fn span(lane: Lane, call: CallId) -> Range {
    let end = [&key(call, &[0xff; 16])[..], &[0]].concat();
    Range {
        start: Cell::new(lane, Space::Called, &call.0).as_bytes().to_vec(),
        end: Cell::new(lane, Space::Called, &end).as_bytes().to_vec(),
    }
}

/// Visits the entries that hold the call of that id and count below `at`, in the order of their ids,
/// each with its cell, until `visit` breaks.
pub(crate) fn entries(
    rows: &RowsView,
    lane: Lane,
    call: CallId,
    at: Position,
    mut visit: impl FnMut(Cell, LocalSeq) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let mut failed = None;
    let end = [&key(call, &[0xff; 16])[..], &[0]].concat();
    live::scan_bytes_at(
        rows,
        lane,
        Space::Called,
        &call.0,
        Some(&end),
        at,
        false,
        |key, local| {
            let step = match (*local).try_into() {
                Ok(local) => visit(
                    Cell::new(lane, Space::Called, key),
                    LocalSeq(u64::from_be_bytes(local)),
                ),
                Err(_) => Err(StorageError(
                    "the row of a call is damaged: delete state.redb to rebuild it".into(),
                )),
            };
            step.unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        },
    )?;
    failed.map_or(Ok(()), Err)
}

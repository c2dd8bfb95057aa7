//! The canonical order as rows: for each slot the entry that stands there, and what the fold keeps of the entry.

use lattice_format::{Position, Time};

use crate::graph::slot::Slot;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// Key of the row of the entry at a slot.
pub(crate) fn key(slot: Slot) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + Slot::LEN);
    key.push(b'T');
    key.extend_from_slice(slot.as_bytes());
    key
}

/// Writes the row of a new entry, which has not run and is not due.
pub(crate) fn put_new(rows: &mut Rows, slot: Slot, local: LocalSeq) {
    let mut row = Vec::with_capacity(6);
    put_varint(local.0, &mut row);
    rows.put(key(slot), row);
}

/// Splits a row into its entry and what the fold wrote behind.
pub(crate) fn split(row: &[u8]) -> Option<(LocalSeq, &[u8])> {
    let mut rest = row;
    Some((LocalSeq(take_varint(&mut rest)?), rest))
}

/// The bounds of the keys behind `from` (exclusive), or with `reverse` of those before it. `None` stands for all
/// keys.
pub(crate) fn range(from: Option<Position>, reverse: bool) -> (Vec<u8>, Vec<u8>) {
    let (first, end) = (vec![b'T'], vec![b'T' + 1]);
    match (from.map(Slot::of), reverse) {
        (None, _) => (first, end),
        (Some(from), false) => (key(from.just_above()), end),
        (Some(from), true) => (first, key(from)),
    }
}

/// The last slot where an entry stands.
pub(crate) fn last(rows: &RowsView) -> Result<Slot, StorageError> {
    let last = rows.first(b"T", b"U", true)?;
    Ok(last
        .and_then(|(key, _)| Slot::at_end_of(&key))
        .unwrap_or(Slot::MIN))
}

/// The time of the last entry below a slot.
pub(crate) fn last_below(rows: &RowsView, slot: Slot) -> Result<Time, StorageError> {
    let last = rows.first(b"T", &key(slot), true)?;
    let last = last.and_then(|(key, _)| Slot::at_end_of(&key));
    Ok(last.map_or(Time::default(), |slot| slot.time()))
}

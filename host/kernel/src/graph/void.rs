//! The entries that have no effect, and how much of each author's is kept.
//!
//! A void entry is neither offered to peers nor counted in digests. It still takes room, and any number of them costs
//! its author nothing, so what is kept of each author is counted.

use lattice_format::{DeviceKey, IntentionId};

use crate::graph::dag::{self, Meta};
use crate::limits::{
    VOID_BYTES_PER_AUTHOR, VOID_ENTRIES_PER_AUTHOR, VOID_NEEDED_BYTES, VOID_NEEDED_ENTRIES,
};
use crate::storage::error::StorageError;
use crate::storage::keys::{put_varint, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// Why an entry is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Governance has cut the entry off.
    CutOff,
    /// The entry exceeds its author's quota.
    OverQuota,
}

/// The value in the row of an entry that exceeds a quota. The row of one that is cut off is empty.
const OVER_QUOTA: &[u8] = &[1];

fn key(id: &IntentionId) -> Vec<u8> {
    dag::key(b'V', &[&id.0])
}

fn kept_key(author: &DeviceKey) -> Vec<u8> {
    dag::key(b'W', &[&author.0])
}

/// Why the entry is void; `None` when it counts.
pub(crate) fn reason(rows: &RowsView, id: &IntentionId) -> Result<Option<Reason>, StorageError> {
    Ok(rows.get(&key(id))?.map(|row| match row.is_empty() {
        true => Reason::CutOff,
        false => Reason::OverQuota,
    }))
}

/// Whether governance has cut the entry off.
pub(crate) fn is_cut_off(rows: &RowsView, id: &IntentionId) -> Result<bool, StorageError> {
    Ok(reason(rows, id)? == Some(Reason::CutOff))
}

/// Whether the entry is void.
pub(crate) fn is_void(rows: &RowsView, id: &IntentionId) -> Result<bool, StorageError> {
    Ok(rows.get(&key(id))?.is_some())
}

/// Whether any entry is void.
pub(crate) fn any_is_void(rows: &RowsView) -> Result<bool, StorageError> {
    Ok(rows.first(b"V", b"W", false)?.is_some())
}

/// Sets why an entry of `author` is void, or that it counts. Returns whether the entry was void and counts now, or
/// the other way round.
pub(crate) fn set(
    rows: &mut Rows,
    author: &DeviceKey,
    meta: &Meta,
    reason: Option<Reason>,
) -> Result<bool, StorageError> {
    let was_void = is_void(rows, &meta.id)?;
    match reason {
        Some(Reason::CutOff) => rows.put(key(&meta.id), []),
        Some(Reason::OverQuota) => rows.put(key(&meta.id), OVER_QUOTA),
        None => rows.remove(key(&meta.id)),
    }
    if was_void == reason.is_some() {
        return Ok(false);
    }
    let bytes = body_bytes(rows, meta)?;
    let mut kept = Kept::of(rows, author)?;
    if was_void {
        kept.entries = kept.entries.saturating_sub(1);
        kept.bytes = kept.bytes.saturating_sub(bytes);
    } else {
        kept.entries += 1;
        kept.bytes += bytes;
    }
    kept.store(rows, author);
    Ok(true)
}

/// The bytes of an entry's body, by the sums in its chain.
fn body_bytes(rows: &RowsView, meta: &Meta) -> Result<u64, StorageError> {
    let before = match meta.prev {
        Some(prev) if meta.seq.0 > 0 => dag::meta(rows, prev)?.chain_bytes,
        _ => 0,
    };
    Ok(meta.chain_bytes.saturating_sub(before))
}

/// The void entries of one author that are kept: their number, and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Kept {
    pub(crate) fn of(rows: &RowsView, author: &DeviceKey) -> Result<Self, StorageError> {
        let key = kept_key(author);
        let Some(row) = rows.get(&key)? else {
            return Ok(Self::default());
        };
        let mut rest = &row[..];
        let mut number = || take_varint(&mut rest).ok_or_else(|| StorageError::row(&key));
        Ok(Self {
            entries: number()?,
            bytes: number()?,
        })
    }

    fn store(self, rows: &mut Rows, author: &DeviceKey) {
        if self == Self::default() {
            rows.remove(kept_key(author));
            return;
        }
        let mut row = Vec::with_capacity(8);
        put_varint(self.entries, &mut row);
        put_varint(self.bytes, &mut row);
        rows.put(kept_key(author), row);
    }

    /// Whether no further void entry of the author, with a body of `bytes`, is kept even if another entry needs it.
    pub(crate) fn is_beyond_need(self, bytes: u64) -> bool {
        self.entries >= VOID_NEEDED_ENTRIES || self.bytes.saturating_add(bytes) > VOID_NEEDED_BYTES
    }

    /// Whether no further void entry of the author, with a body of `bytes`, is kept.
    pub(crate) fn is_full(self, bytes: u64) -> bool {
        self.entries >= VOID_ENTRIES_PER_AUTHOR
            || self.bytes.saturating_add(bytes) > VOID_BYTES_PER_AUTHOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds: invariant 10.
    #[test]
    fn so_many_void_entries_of_an_author_and_so_many_bytes_are_kept() {
        let kept = |entries, bytes| Kept { entries, bytes };
        let (entries, bytes) = (VOID_ENTRIES_PER_AUTHOR, VOID_BYTES_PER_AUTHOR);
        assert!(!kept(entries - 1, bytes - 7).is_full(7));
        assert!(kept(entries - 1, bytes - 7).is_full(8));
        assert!(kept(entries, 0).is_full(0));
    }

    /// Holds: invariant 10.
    #[test]
    fn what_another_entry_needs_has_a_bound_too() {
        let kept = |entries, bytes| Kept { entries, bytes };
        let (entries, bytes) = (VOID_NEEDED_ENTRIES, VOID_NEEDED_BYTES);
        assert!(!kept(entries - 1, bytes - 7).is_beyond_need(7));
        assert!(kept(entries - 1, bytes - 7).is_beyond_need(8));
        assert!(kept(entries, 0).is_beyond_need(0));
    }
}

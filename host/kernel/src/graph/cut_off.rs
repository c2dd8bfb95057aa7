//! The entries that governance has cut off.

use lattice_format::IntentionId;

use crate::storage::error::StorageError;
use crate::storage::rows::{Rows, RowsView};

fn key(id: &IntentionId) -> Vec<u8> {
    let mut key = vec![b'V'];
    key.extend_from_slice(&id.0);
    key
}

/// Whether governance has cut the entry off.
pub(crate) fn is_cut_off(rows: &RowsView, id: &IntentionId) -> Result<bool, StorageError> {
    Ok(rows.get(&key(id))?.is_some())
}

/// Whether governance has cut any entry off.
pub(crate) fn any_is_cut_off(rows: &RowsView) -> Result<bool, StorageError> {
    Ok(rows.first(b"V", b"W", false)?.is_some())
}

/// Sets whether governance has cut the entry off.
pub(crate) fn set_cut_off(rows: &mut Rows, id: &IntentionId, cut_off: bool) {
    if cut_off {
        rows.put(key(id), []);
    } else {
        rows.remove(key(id));
    }
}

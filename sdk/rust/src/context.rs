//! The context of a call: its entry, the calls that its author had seen, its store.

#[cfg(target_arch = "wasm32")]
use crate::bindings::lattice::store::context as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::context as host;
use crate::{Entry, Hash};

/// The entry that this call belongs to. Traps in a query.
pub fn current() -> Entry {
    host::current()
}

/// Whether the author had seen the call `other` when writing: false for unknown ones, and for this call itself.
/// Traps in a query.
pub fn observed(other: &Hash) -> bool {
    host::observed(other)
}

/// The id of this store. Traps in `init`, where it is not yet known.
pub fn store() -> Hash {
    host::store()
}

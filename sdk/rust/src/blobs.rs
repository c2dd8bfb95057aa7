//! Blobs that the state refers to: contents too large for a value, named by their BLAKE3 hash.

use crate::Hash;
#[cfg(target_arch = "wasm32")]
use crate::bindings::lattice::store::blobs as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::blobs as host;

/// Keeps `blob` on behalf of `owner`, a key of the plugin's choosing of at most 1,024 bytes. Traps in a query.
pub fn pin(owner: &[u8], blob: &Hash) {
    host::pin(owner, blob);
}

/// Ends what [`pin`] began; without effect if `owner` does not pin `blob`. Traps in a query.
pub fn unpin(owner: &[u8], blob: &Hash) {
    host::unpin(owner, blob);
}

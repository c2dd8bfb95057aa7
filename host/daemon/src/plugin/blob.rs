//! Which components a store has: they are blobs in its scope, so that its members get them by hash.

use lattice_format::{BlobId, ComponentId, StoreId};
use lattice_kernel::blob::BlobError;

use crate::api::failure::{Failure, Result};
use crate::node::Node;

/// A component, as a blob.
pub(crate) fn of(component: &ComponentId) -> BlobId {
    BlobId(component.0)
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        Failure::failed(error.to_string()).hint("check free space and the disk")
    }
}

/// Records that a store has components, which are here: its members may get them from now on.
/// Blocks.
///
/// # Errors
/// When one is not here, or the disk fails.
pub(crate) fn own_components(node: &Node, store: &StoreId, ids: &[ComponentId]) -> Result<()> {
    for id in ids {
        if !node.blobs.has(*store, of(id))? {
            node.blobs.insert(*store, &node.components.bytes(id)?)?;
        }
    }
    Ok(())
}

/// Names of the stores here that have the component.
///
/// # Errors
/// When the disk fails.
pub(crate) fn stores_using(node: &Node, id: &ComponentId) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for slot in node.slots() {
        if node.blobs.has(slot.id, of(id))? {
            names.push(slot.name());
        }
    }
    Ok(names)
}

/// Forgets the components of a store that came to nothing. Blocks.
pub(crate) fn disown_components(node: &Node, store: &StoreId, ids: &[ComponentId]) {
    for id in ids {
        if let Err(error) = node.blobs.forget(*store, of(id)) {
            tracing::warn!(%store, "{error}");
        }
    }
}

//! Which components a store has: they are blobs in its scope, so that its members get them by hash.

use lattice_format::{BlobId, ComponentId, StoreId};
use lattice_kernel::blob::BlobError;

use crate::failure::{Failure, Result};
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

impl Node {
    /// Records that a store has components, which are here: its members may get them from now on.
    /// Blocks.
    ///
    /// # Errors
    /// When one is not here, or the disk fails.
    pub(crate) fn own_components(&self, store: &StoreId, ids: &[ComponentId]) -> Result<()> {
        for id in ids {
            if !self.blobs.has(*store, of(id))? {
                self.blobs.insert(*store, &self.components.bytes(id)?)?;
            }
        }
        Ok(())
    }

    /// Names of the stores here that have the component.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn stores_using(&self, id: &ComponentId) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for slot in self.slots() {
            if self.blobs.has(slot.id, of(id))? {
                names.push(slot.name());
            }
        }
        Ok(names)
    }

    /// Forgets the components of a store that came to nothing. Blocks.
    pub(crate) fn disown_components(&self, store: &StoreId, ids: &[ComponentId]) {
        for id in ids {
            if let Err(error) = self.blobs.forget(*store, of(id)) {
                tracing::warn!(%store, "{error}");
            }
        }
    }
}

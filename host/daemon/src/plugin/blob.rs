//! The components of a store as blobs in its scope, so that its members can fetch them by hash.

use std::sync::Arc;

use lattice_format::{BlobId, ComponentId, StoreId};
use lattice_kernel::blob::{BlobError, BlobStore};

use crate::api::failure::{Failure, Result};
use crate::node::Node;
use crate::plugin::components::Components;
use crate::store::OpenStore;

/// The id of a component's bytes as a blob.
pub(crate) fn of(component: &ComponentId) -> BlobId {
    BlobId(component.0)
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        let failure = Failure::failed(error.to_string());
        match error {
            // What to do stands in their texts.
            BlobError::Io { .. } | BlobError::Unopened { .. } | BlobError::Damaged(_) => failure,
            BlobError::Index { .. } | BlobError::TooLarge { .. } => {
                failure.hint("run `lattice doctor`; check free space and the disk")
            }
        }
    }
}

/// Puts components of this node into the scope of a store, so that the store's members may fetch them. Blocks.
///
/// # Errors
/// When this node lacks one of them, or the disk fails.
pub(crate) fn own_components(node: &Node, store: &StoreId, ids: &[ComponentId]) -> Result<()> {
    for id in ids {
        if !node.blobs.has(*store, of(id))? {
            node.blobs.insert(*store, &node.components.bytes(id)?)?;
        }
    }
    Ok(())
}

/// Lets components come back from the blobs of stores that have them, when they are lost or damaged among the
/// components.
pub(crate) fn keep_components(components: &Components, blobs: &Arc<BlobStore>) {
    // The engine may outlive the node, and must not keep its files open.
    let blobs = Arc::downgrade(blobs);
    let source = move |id: &ComponentId| match blobs.upgrade()?.read_anywhere(of(id)) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(component = %id, "{error}");
            None
        }
    };
    components.wasm().catalogue().set_source(Box::new(source));
}

/// Puts components of an open store among its blobs, where they are not there yet: they are lost with the directory
/// of the blobs. Blocks. What fails is tried again when the store is opened again.
pub(crate) fn offer_components(node: &Node, store: &OpenStore) {
    let snapshot = store.snapshot();
    let genesis = snapshot.genesis();
    for component in std::iter::once(&genesis.system).chain(&genesis.app) {
        // One that is missing is fetched by whoever needs it.
        if node.components.contains(&component.id)
            && let Err(failure) = own_components(node, &store.id(), &[component.id])
        {
            tracing::warn!(store = %store.id(), "members cannot get a component from here: {failure}");
        }
    }
}

/// The names of the stores of this node that have the component.
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

/// Removes components from the scope of a store that was not created or joined after all. Blocks.
pub(crate) fn disown_components(node: &Node, store: &StoreId, ids: &[ComponentId]) {
    for id in ids {
        if let Err(error) = node.blobs.forget(*store, of(id)) {
            tracing::warn!(%store, "{error}");
        }
    }
}

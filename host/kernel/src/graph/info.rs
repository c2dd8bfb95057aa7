//! What the genesis says of a store.

use lattice_format::{Genesis, Position, StoreId};

/// What never changes about a store.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) id: StoreId,
    pub(crate) genesis: Genesis,
    pub(crate) position: Position,
}

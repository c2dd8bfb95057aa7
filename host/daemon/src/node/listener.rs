//! The node's reactions to what the writers of its stores tell.

use std::sync::Weak;

use lattice_format::{IntentionId, StoreId};
use lattice_kernel::clock::Verdict;
use lattice_kernel::{Changes, Notice};

use crate::node::{Node, clock};
use crate::store::notices;
use crate::store::writer::Listener;

/// The node, for the writers of its stores. They may outlive the node.
pub(super) struct NodeListener(pub(super) Weak<Node>);

impl Listener for NodeListener {
    fn changed(&self, store: &StoreId, changes: &Changes, written: &[IntentionId]) {
        let Some(node) = self.0.upgrade() else { return };
        let Some(slot) = node.slot(store) else { return };
        slot.note_changes(changes);
        if let Some(net) = node.net() {
            net.changed(store, written);
        }
    }

    fn verdict(&self, store: &StoreId, drift_ms: u64, genesis_ms: u64) -> Verdict {
        match self.0.upgrade() {
            Some(node) => node.verdict(store, drift_ms, genesis_ms),
            None => Verdict::alone(clock::now_ms()),
        }
    }

    fn resting(&self) {
        if let Some(node) = self.0.upgrade() {
            node.components.wasm().rest();
        }
    }

    fn noticed(&self, store: &StoreId, notices: &[Notice]) -> bool {
        let Some(node) = self.0.upgrade() else {
            return false;
        };
        notices::keep_notices(&node, store, notices)
    }
}

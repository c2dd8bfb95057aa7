//! The node's reactions to what the writers of its stores tell.

use std::sync::Weak;

use lattice_format::{IntentionId, StoreId};
use lattice_kernel::{Changes, Notice};
use lattice_net::Net;

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

    fn now_ms(&self, drift_ms: u64, genesis_ms: u64) -> u64 {
        match self.0.upgrade() {
            Some(node) => {
                // Peers that have left do not count: this clock may have been set since, and would be corrected twice.
                let peers_lead_ms = node.net().and_then(Net::live_clock_lead_ms);
                clock::corrected(node.clock.now_ms(), peers_lead_ms, drift_ms, genesis_ms)
            }
            None => clock::now_ms(),
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

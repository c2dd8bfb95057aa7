//! Peers that break the protocol: the kernel's value decides whom a node bans and for how long, and this module closes
//! streams.

use lattice_kernel::sync::{Misbehaviour, MisbehaviourLog};

use crate::limits::BAN_MS;
use crate::net::dial::RETRY;
use crate::world::World;
use crate::world::node::NodeId;

impl World {
    /// Counts what a peer did. An honest node that finds another honest node at fault is a fault of Lattice.
    pub(crate) fn misbehaved(&mut self, me: NodeId, peer: NodeId, kind: Misbehaviour, text: &str) {
        self.note(me, format_args!("finds {peer} at fault: {text}"));
        let is_honest = |id: NodeId| self.nodes[id.index()].is_honest();
        if kind.weight() > 0 && is_honest(me) && is_honest(peer) {
            self.violate(format!("{me} finds the honest {peer} at fault: {text}"));
        }
        let (now_ms, device) = (self.now_ms, self.nodes[peer.index()].device);
        let log = self.misbehaviour.entry(me);
        let log = log.or_insert_with(|| MisbehaviourLog::new(BAN_MS));
        if !log.record(device, kind, now_ms).is_dropped {
            return;
        }
        self.note(me, format_args!("bans {peer}"));
        self.drop_peer(me, peer);
        if self.is_child {
            self.banned.push((me, peer));
        }
        self.with_child(|child| child.drop_peer(me, peer));
    }

    /// Whether a node refuses a peer for what that peer did.
    pub(crate) fn is_banned(&self, me: NodeId, peer: NodeId) -> bool {
        let device = &self.nodes[peer.index()].device;
        let log = self.misbehaviour.get(&me);
        log.is_some_and(|log| log.is_banned(device, self.now_ms))
    }

    /// Closes the stream with a peer that was banned. The node dials it again later than any other.
    pub(crate) fn drop_peer(&mut self, me: NodeId, peer: NodeId) {
        if let Some((id, side)) = self.nodes[me.index()].streams.get(&peer).copied() {
            self.drop_end(id, side, "the peer is banned");
        }
        let now_ms = self.now_ms;
        let dialling = self.nodes[me.index()].dialling(peer, now_ms);
        dialling.tries.put_off(now_ms, RETRY);
    }
}

//! Announcements: which entries there are, told to all members, as gossip tells it.
//!
//! What a gossip protocol guarantees is little, and nothing else is used: an announcement comes never, once or
//! several times, early or late, after later ones, and through anybody. So chance decides all of that here,
//! within wider bounds than a real protocol would show. What a node does with one is what the daemon does: it
//! tells the session with the author, with who passed it on, or any.

use std::collections::BTreeSet;
use std::sync::Arc;

use lattice_format::IntentionId;
use lattice_kernel::engine::MemberStatus;
use lattice_kernel::sync::{Access, Input};

use crate::limits::{GOSSIP_LATE_MS, GOSSIP_SOURCES};
use crate::node::NodeId;
use crate::queue::Event;
use crate::world::World;

/// What an announcement has beside its ids, in bytes.
const HEAD_BYTES: usize = 40;
/// What one id takes, in bytes.
const ID_BYTES: usize = 32;

/// An announcement.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    pub(crate) author: NodeId,
    pub(crate) ids: Arc<[IntentionId]>,
    /// There is more than is listed.
    pub(crate) more: bool,
}

impl World {
    /// Tells all members of entries that a node has written.
    pub(crate) fn announce(&mut self, author: NodeId, mut ids: Vec<IntentionId>) {
        if ids.is_empty() || self.access(author, author) != Access::All {
            return;
        }
        let mut more = false;
        if self.nodes[author.index()].liar {
            more = self.dice.below(32) == 0;
            for id in &mut ids {
                if self.dice.below(3) == 0 {
                    id.0[self.dice.below(32) as usize] ^= 1;
                }
            }
        }
        let said = Announcement {
            author,
            ids: ids.into(),
            more,
        };
        let members = self.nodes[author.index()].members.clone();
        let active: BTreeSet<_> = members
            .iter()
            .flat_map(|members| members.iter())
            .filter(|member| member.status == MemberStatus::Active)
            .map(|member| member.device)
            .collect();
        for to in (0..self.node_count()).map(NodeId) {
            if to == author || !active.contains(&self.nodes[to.index()].device) {
                continue;
            }
            let copies = match self.dice.below(16) {
                0 => 0,
                1 => 2,
                2 => 3,
                _ => 1,
            };
            for _ in 0..copies {
                self.pass_on(&said, to);
            }
        }
    }

    /// Sends one copy, through somebody who is connected with the receiver.
    fn pass_on(&mut self, said: &Announcement, to: NodeId) {
        let mut peers = self.nodes[to.index()].streams.keys();
        let count = peers.len() as u64;
        let from = peers.nth(self.dice.below(count) as usize);
        let from = from.copied().unwrap_or(said.author);
        let late = match self.dice.below(8) {
            0 => self.dice.below(GOSSIP_LATE_MS),
            _ => 0,
        };
        let bytes = HEAD_BYTES + ID_BYTES * said.ids.len();
        let at = self.now_ms + self.delay(from, to, bytes) + late;
        let said = said.clone();
        self.queue.at(at, Event::Heard { from, to, said });
    }

    /// An announcement reaches a node.
    pub(crate) fn hear(&mut self, from: NodeId, to: NodeId, said: &Announcement) {
        if !self.nodes[to.index()].is_on()
            || self.is_blocked(from, to)
            || self.access(to, to) != Access::All
        {
            return;
        }
        let Some(snapshot) = self.snapshot(to) else {
            return;
        };
        let unknown = |id: &&IntentionId| !snapshot.contains(id).unwrap_or(false);
        let ids: Vec<IntentionId> = said.ids.iter().filter(unknown).copied().collect();
        let streams = &self.nodes[to.index()].streams;
        if !ids.is_empty() {
            let mut sources = vec![said.author, from];
            sources.dedup();
            let mut told: Vec<_> = sources.iter().filter_map(|p| streams.get(p)).collect();
            if told.is_empty() {
                told = streams.values().take(GOSSIP_SOURCES).collect();
            }
            for (stream, side) in told.into_iter().copied().collect::<Vec<_>>() {
                self.handle(stream, side, Input::Announced(ids.clone()));
            }
        }
        let node = &mut self.nodes[to.index()];
        if said.more && self.now_ms > node.compared_ms + 1_000 {
            node.compared_ms = self.now_ms;
            for (stream, side) in node.streams.values().copied().collect::<Vec<_>>() {
                self.handle(stream, side, Input::Reconcile);
            }
        }
    }
}

//! A store and its child on the same machines.
//!
//! Stores of one node share nothing but its key, its clock, its machine and its network. So the child has a world
//! of its own, with its own disks, sessions and checks, and what happens to machines and the network happens to
//! both: a machine that fails under one store fails under the other, and a peer that is banned for what it did in
//! one store is refused in the other.

use std::mem::swap;

use lattice_kernel::run::engine::{Member, MemberStatus, Role};

use crate::world::World;
use crate::world::node::{Machine, Node, NodeId};
use crate::world::queue::Event;
use crate::world::trace::short;

impl World {
    /// Makes a child store on a node, of the members that it sees, and lists it in its parent.
    pub(crate) fn found_child(&mut self, by: NodeId) {
        let Some(parent) = self.store_id.filter(|_| self.child.is_none()) else {
            return;
        };
        let mut members = match self.seen_members(by) {
            Some(members) if self.nodes[by.index()].is_on() => members,
            _ => return,
        };
        members.retain(|member| member.status == MemberStatus::Active);
        let device = self.nodes[by.index()].device;
        let may = |m: &Member| m.device == device && m.role == Role::Admin;
        if !members.iter().any(may) {
            return self.note(by, format_args!("may not make a child"));
        }
        let nodes = (0..).map(NodeId).zip(&self.nodes);
        let nodes = nodes
            .map(|(id, node)| of_the_child(node, self.acquainted(id)))
            .collect();
        let mut child = Self::empty(&self.code, self.dice.split(), nodes, false);
        child.is_child = true;
        for (number, node) in (0..).zip(&child.nodes) {
            if !matches!(node.power, Machine::Off) {
                let node = NodeId(number);
                child.queue.at(self.now_ms, Event::Tick { node, life: 0 });
            }
        }
        self.child = Some(Box::new(child));
        let genesis = self.code.child_genesis(parent, &members);
        let admits = members.iter().map(|m| m.device).collect();
        self.with_child(|child| {
            child.found(by, genesis, admits);
            child.store_id
        });
        let child = self.child.as_ref().and_then(|child| child.store_id);
        if let Some(child) = child {
            self.note(by, format_args!("makes the child {}", short(&child.0)));
            let call = self.code.add_child(child);
            self.govern(by, vec![call]);
        }
    }

    /// Whom a node dials, and who dials it: somebody else than in the parent may be the one who has the store.
    fn acquainted(&self, id: NodeId) -> Vec<NodeId> {
        let own = &self.nodes[id.index()].neighbours;
        let knows = |other: &NodeId| self.nodes[other.index()].neighbours.contains(&id);
        let all = (0..self.node_count()).map(NodeId);
        all.filter(|other| own.contains(other) || knows(other))
            .collect()
    }

    /// When the next thing happens in the child, if that comes before what happens here, and no later than
    /// `until_ms`.
    pub(crate) fn child_first(&self, until_ms: u64) -> Option<u64> {
        let at_ms = self.child.as_ref()?.queue.next_ms()?;
        let first = self.queue.next_ms().is_none_or(|own_ms| at_ms < own_ms);
        (first && at_ms <= until_ms).then_some(at_ms)
    }

    /// Does something to the child, if there is one, in the network that it shares with its parent.
    pub(crate) fn with_child<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let mut child = self.child.take()?;
        child.now_ms = self.now_ms;
        self.share(&mut child);
        let done = act(&mut child);
        self.share(&mut child);
        let fallen = std::mem::take(&mut child.fallen);
        let banned = std::mem::take(&mut child.banned);
        let wrong = child.take_violation();
        self.child = Some(child);
        if let Some(wrong) = wrong {
            self.violate(format!("in the child: {wrong}"));
        }
        for (id, survives, down_ms) in fallen {
            if !matches!(self.nodes[id.index()].power, Machine::Off) {
                self.crash_with(id, survives, down_ms);
            }
        }
        for (id, peer) in banned {
            self.drop_peer(id, peer);
        }
        Some(done)
    }

    /// Gives the child what there is once, or takes it back.
    fn share(&mut self, child: &mut Self) {
        swap(&mut self.trace, &mut child.trace);
        swap(&mut self.stats, &mut child.stats);
        swap(&mut self.blocks, &mut child.blocks);
        swap(&mut self.weather, &mut child.weather);
        swap(&mut self.misbehaviour, &mut child.misbehaviour);
    }
}

/// A machine as the network of the child has it: without the child yet.
fn of_the_child(node: &Node, neighbours: Vec<NodeId>) -> Node {
    Node {
        power: match node.power {
            Machine::On => Machine::On,
            Machine::Asleep(_) => Machine::Asleep(Vec::new()),
            Machine::Off => Machine::Off,
        },
        disks: node.disks.emptied(),
        skew_ms: node.skew_ms,
        disk_ms: node.disk_ms,
        liar: node.liar,
        hostile: node.hostile,
        stranger: node.stranger,
        shown_ms: node.shown_ms,
        ..Node::with_key(node.key.clone(), neighbours)
    }
}

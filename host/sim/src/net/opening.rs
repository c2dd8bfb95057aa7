//! How streams come about: dials, who may have what, and whose turn it is to begin.

use std::collections::VecDeque;
use std::sync::Arc;

use lattice_kernel::sync::{
    Access, Bootstrap, Config, Governance, Input, Pace, Role, Session, Wants,
};

use crate::limits::{
    DIAL_MS, FIRST_ROUND_LOOK_MS, FIRST_ROUND_MS, FIRST_ROUNDS_MAX, RECONCILE_MS, RETRY_MAX_MS,
    RETRY_MIN_MS,
};
use crate::net::stream::{End, Side, Stream, StreamId, Talk};
use crate::world::World;
use crate::world::node::{NodeId, Writer};
use crate::world::queue::Event;

impl World {
    /// Dials every neighbour that no stream leads to and whose time has come.
    pub(crate) fn dial(&mut self, from: NodeId) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[from.index()];
        if !node.is_on() || (node.founded && node.store().is_none()) {
            return;
        }
        let (life, mut due) = (node.life, Vec::new());
        for to in &node.neighbours {
            let retry = node.retries.entry(*to).or_default();
            if !node.streams.contains_key(to) && !retry.under_way && retry.at_ms <= now_ms {
                retry.under_way = true;
                due.push(*to);
            }
        }
        for to in due {
            // The handshake takes a round and a half.
            let arrival = (0..3).map(|_| self.delay(from, to, 100)).sum::<u64>();
            self.queue
                .at(now_ms + arrival, Event::Connect { from, to, life });
        }
    }

    pub(crate) fn connect(&mut self, from: NodeId, to: NodeId) {
        let now_ms = self.now_ms;
        let blocked = self.is_blocked(from, to) || self.is_blocked(to, from);
        let reachable = !blocked && self.nodes[to.index()].is_on();
        let retry = self.nodes[from.index()].retries.entry(to).or_default();
        retry.under_way = false;
        if !reachable {
            self.try_later(from, to, DIAL_MS);
            return;
        }
        if self.nodes[to.index()].store().is_none() {
            self.try_later(from, to, 0);
            return;
        }
        if self.is_banned(to, from) {
            self.note(to, format_args!("refuses the banned {from}"));
            return self.try_later(from, to, 0);
        }
        if self.nodes[from.index()].streams.contains_key(&to) {
            return;
        }
        if let Some((old, side)) = self.nodes[to.index()].streams.get(&from).copied() {
            // The peer lost the first stream, or it would not open a second.
            self.drop_end(old, side, "another stream took its place");
        }
        self.stream_count += 1;
        let id = StreamId(self.stream_count);
        let end = |node: NodeId, address, access| End {
            node,
            address,
            talk: None,
            access,
            started_ms: None,
            delivering: false,
            timer_ms: None,
            read_after_ms: 0,
            pace: Pace::default(),
            incoming: VecDeque::new(),
            incoming_bytes: 0,
            last_arrival_ms: 0,
            stuck_since_ms: None,
        };
        let joins = self.nodes[from.index()].store().is_none();
        let given = match self.access(to, from) {
            // The token that a joiner shows is taken for granted here. Of a child its members know without one.
            Access::None if joins && self.is_child => return self.try_later(from, to, 0),
            Access::None if joins => Access::Invited,
            access => access,
        };
        let trusts = self.access(from, to);
        let addresses = [from, to].map(|n| self.nodes[n.index()].address);
        let mut stream = Stream {
            ends: [
                end(from, addresses[0], trusts),
                end(to, addresses[1], given),
            ],
        };
        let config = |world: &Self, role, me: NodeId, peer: NodeId, access| Config {
            role,
            device: world.nodes[me.index()].device,
            endpoint: world.nodes[me.index()].device,
            peer: world.nodes[peer.index()].device,
            wants: Wants::All,
            access,
        };
        let listener = Session::new(config(self, Role::Listener, to, from, given));
        stream.end(Side::Listener).talk = Some(Talk::Session(Box::new(listener)));
        let mut first = None;
        if joins {
            let device = self.nodes[from.index()].device;
            let Some(store) = self.store_id else { return };
            let (bootstrap, bytes) = Bootstrap::start(store, device, self.clock(from));
            stream.end(Side::Dialer).talk = Some(Talk::Bootstrap(bootstrap));
            first = Some(bytes);
        } else {
            let dialer = Session::new(config(self, Role::Dialer, from, to, trusts));
            stream.end(Side::Dialer).talk = Some(Talk::Session(Box::new(dialer)));
        }
        self.streams.insert(id, stream);
        self.nodes[from.index()]
            .streams
            .insert(to, (id, Side::Dialer));
        self.nodes[to.index()]
            .streams
            .insert(from, (id, Side::Listener));
        self.note(from, format_args!("opens {} to {to}", id.0));
        let interval = RECONCILE_MS + self.dice.below(RECONCILE_MS / 4);
        for (side, after) in [(Side::Dialer, interval), (Side::Listener, 2 * interval)] {
            self.queue
                .at(now_ms + after, Event::Compare { stream: id, side });
        }
        match first {
            Some(bytes) => self.send(id, Side::Dialer, bytes),
            None => self.begin(id, Side::Dialer),
        }
        self.gossip_peer_up(from, to);
        self.gossip_peer_up(to, from);
    }

    /// Begins a session, unless so many others are in their first round that what the peer has comes from them
    /// as well: everybody would send the same entries.
    pub(crate) fn begin(&mut self, id: StreamId, side: Side) {
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let me = stream.end(side).node;
        if side == Side::Dialer && self.first_rounds(me) >= FIRST_ROUNDS_MAX {
            let at = now_ms + FIRST_ROUND_LOOK_MS;
            return self.queue.at(at, Event::Begin { stream: id });
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end(side).started_ms = Some(now_ms);
            self.handle(id, side, Input::Start);
        }
    }

    /// Sessions that a node dialled and that are in their first round, and not for long.
    fn first_rounds(&self, me: NodeId) -> usize {
        let streams = self.nodes[me.index()].streams.values();
        let dialled = streams.filter(|(_, side)| *side == Side::Dialer);
        let first = dialled.filter(|(id, side)| {
            let Some(stream) = self.streams.get(id) else {
                return false;
            };
            let end = &stream.ends[side.index()];
            let recent = |at: u64| at + FIRST_ROUND_MS > self.now_ms;
            match &end.talk {
                Some(Talk::Session(session)) => {
                    let status = session.status();
                    let first = status.round <= 1 && !status.settled;
                    first && end.started_ms.is_some_and(recent)
                }
                _ => false,
            }
        });
        first.count()
    }

    /// What `me` lets `peer` have.
    pub(crate) fn access(&mut self, me: NodeId, peer: NodeId) -> Access {
        let device = self.nodes[peer.index()].device;
        let node = &mut self.nodes[me.index()];
        let Some(store) = node.writer.as_ref().and_then(Writer::store) else {
            return Access::SystemLane;
        };
        let members = node.members.get_or_insert_with(|| {
            Arc::new(Governance::read(&store.snapshot()).unwrap_or_default())
        });
        let known = members.access(&device);
        match known {
            // A joiner has nothing that these lack, but must not refuse those who serve it.
            Access::None if node.trusted.contains(&peer) => Access::SystemLane,
            known => known,
        }
    }

    pub(crate) fn try_later(&mut self, from: NodeId, to: NodeId, after_ms: u64) {
        let now_ms = self.now_ms;
        let retry = self.nodes[from.index()].retries.entry(to).or_default();
        let pause = (RETRY_MIN_MS << retry.failures.min(12)).min(RETRY_MAX_MS);
        retry.failures += 1;
        retry.at_ms = now_ms + after_ms + pause;
    }
}

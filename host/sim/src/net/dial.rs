//! How streams come about: dials, who may have what, and whose turn it is to begin.
//!
//! When a peer is dialled, which of two streams stays and whether a session may begin is decided by the kernel's
//! values. Whom a node dials is the topology of its world.

use std::collections::VecDeque;
use std::sync::Arc;

use lattice_kernel::clock;
use lattice_kernel::sync::limits::{FIRST_ROUND_LOOK_MS, RETRY_MAX_MS, RETRY_MIN_MS};
use lattice_kernel::sync::{
    Access, Backoff, Bootstrap, Config, Governance, Input, Jitter, Pace, Role, Session, Standing,
    Wants, may_begin,
};

use crate::limits::{DIAL_MS, RECONCILE_MS};
use crate::net::stream::{End, Side, Stream, StreamId, Talk};
use crate::world::World;
use crate::world::node::{NodeId, Writer};
use crate::world::queue::Event;

/// The pauses between dials.
pub(crate) const RETRY: Backoff = Backoff {
    first_ms: RETRY_MIN_MS,
    longest_ms: RETRY_MAX_MS,
};

impl World {
    /// Dials every neighbour that no stream leads to and whose time has come.
    pub(crate) fn dial(&mut self, from: NodeId) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[from.index()];
        if !node.is_on() || (node.founded && node.store().is_none()) {
            return;
        }
        let (life, mut due) = (node.life, Vec::new());
        for n in 0..node.neighbours.len() {
            let to = node.neighbours[n];
            let connected = node.streams.contains_key(&to);
            let dialling = node.dialling(to, now_ms);
            if !connected && !dialling.under_way && dialling.tries.due_ms() <= now_ms {
                dialling.under_way = true;
                due.push(to);
            }
        }
        for to in due {
            self.note(from, format_args!("dials {to}"));
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
        self.nodes[from.index()].dialling(to, now_ms).under_way = false;
        if !reachable {
            return self.dial_failed(from, to, DIAL_MS);
        }
        if self.nodes[to.index()].store().is_none() {
            return self.dial_failed(from, to, 0);
        }
        let jitter = self.jitter();
        let tries = &mut self.nodes[from.index()].dialling(to, now_ms).tries;
        tries.made(now_ms, RETRY, jitter);
        if self.is_banned(to, from) {
            self.note(to, format_args!("refuses the banned {from}"));
            let tries = &mut self.nodes[from.index()].dialling(to, now_ms).tries;
            tries.stands(0);
            return tries.lost(now_ms, RETRY, jitter);
        }
        // Each end decides for itself, and a stream that one of them does not take is none.
        let ends = [(from, to, Role::Dialer), (to, from, Role::Listener)];
        let taken = ends.map(|(me, peer, role)| self.takes(me, peer, role));
        if taken != [true; 2] {
            return self.note(from, format_args!("does not open another stream to {to}"));
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
            Access::None if self.nodes[from.index()].stranger => Access::None,
            Access::None if joins && self.is_child => return self.dial_failed(from, to, 0),
            Access::None if joins => Access::Invited,
            access => access,
        };
        let trusts = self.access(from, to);
        let addresses = [from, to].map(|n| self.nodes[n.index()].address);
        let mut stream = Stream {
            opened_ms: now_ms,
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
            let Some(store) = self.store_id else { return };
            let (bootstrap, bytes) = Bootstrap::start(store, self.clock(from));
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
        for (me, peer) in [(from, to), (to, from)] {
            let dialling = self.nodes[me.index()].dialling(peer, now_ms);
            dialling.tries.stands(0);
            let peer = self.nodes[peer.index()].device;
            self.hear_clock(me, clock::Input::Connected(peer));
        }
        self.note(from, format_args!("opens {} to {to}", id.0));
        let interval = RECONCILE_MS + self.dice.below(RECONCILE_MS / 4);
        for (side, after) in [(Side::Dialer, interval), (Side::Listener, 2 * interval)] {
            self.queue
                .at(now_ms + after, Event::Compare { stream: id, side });
        }
        match first {
            // It holds the stream without a word.
            Some(_) if self.nodes[from.index()].stranger && self.dice.below(2) == 0 => {}
            Some(bytes) => self.send(id, Side::Dialer, bytes),
            None => self.begin(id, Side::Dialer),
        }
        self.gossip_peer_up(from, to);
        self.gossip_peer_up(to, from);
    }

    /// Whether a node takes another stream with a peer. If so, the old one, if there is one, is closed.
    fn takes(&mut self, me: NodeId, peer: NodeId, role: Role) -> bool {
        let Some((old, side)) = self.nodes[me.index()].streams.get(&peer).copied() else {
            return true;
        };
        let Some(opened_ms) = self.streams.get(&old).map(|stream| stream.opened_ms) else {
            return true;
        };
        let standing = Standing {
            role: match side {
                Side::Dialer => Role::Dialer,
                Side::Listener => Role::Listener,
            },
            stood_ms: self.now_ms - opened_ms,
        };
        let [device, of_peer] = [me, peer].map(|node| self.nodes[node.index()].device);
        let stays = standing.stays(role, &device, &of_peer);
        if !stays {
            self.drop_end(old, side, "another stream takes its place");
        }
        !stays
    }

    /// Begins a session, unless so many others are in their first round that it waits for its turn.
    pub(crate) fn begin(&mut self, id: StreamId, side: Side) {
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let me = stream.end(side).node;
        if side == Side::Dialer && !may_begin(self.first_rounds(me)) {
            let at = now_ms + FIRST_ROUND_LOOK_MS;
            return self.queue.at(at, Event::Begin { stream: id });
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end(side).started_ms = Some(now_ms);
            self.handle(id, side, Input::Start);
        }
    }

    /// How long ago each session that a node dialled and that is in its first round began.
    fn first_rounds(&self, me: NodeId) -> impl Iterator<Item = u64> {
        let streams = self.nodes[me.index()].streams.values();
        let dialled = streams.filter(|(_, side)| *side == Side::Dialer);
        dialled.filter_map(|(id, side)| {
            let end = &self.streams.get(id)?.ends[side.index()];
            let Some(Talk::Session(session)) = &end.talk else {
                return None;
            };
            let status = session.status();
            let is_first = status.round <= 1 && !status.settled;
            let began_ms = end.started_ms.filter(|_| is_first)?;
            Some(self.now_ms - began_ms)
        })
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

    /// Notes that a dial came to nothing, after so long.
    fn dial_failed(&mut self, from: NodeId, to: NodeId, after_ms: u64) {
        let (at_ms, jitter) = (self.now_ms + after_ms, self.jitter());
        let dialling = self.nodes[from.index()].dialling(to, at_ms);
        dialling.tries.failed(at_ms, RETRY, jitter);
    }

    /// The chance in a pause.
    pub(crate) fn jitter(&mut self) -> Jitter {
        Jitter(self.dice.roll())
    }
}

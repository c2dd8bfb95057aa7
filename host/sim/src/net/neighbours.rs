//! Connections of gossip, between neighbours.
//!
//! A connection is what QUIC gives: messages in order, or a break that each end learns of by itself. It is dialled
//! when the protocol has something to say to a peer, and is left to itself when neither end sends on it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use iroh_gossip::proto::InEvent;
use lattice_kernel::sync::Access;
use serde_json::Value;

use crate::limits::{DIAL_MS, IDLE_MS, RESEND_MS};
use crate::net::gossip::{GossipEvent, Key, Said};
use crate::net::stream::Side;
use crate::world::World;
use crate::world::node::{Node, NodeId};
use crate::world::trace::short;

/// The length of a message and, once a connection and direction, the topic, in bytes.
const LENGTH_BYTES: usize = 4;
const TOPIC_BYTES: usize = 32;

/// A connection's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(u64);

/// How a node sends to a peer.
#[derive(Debug)]
pub(crate) enum Peer {
    /// It is dialled; these wait.
    Pending(Vec<Said>),
    /// By this connection.
    Active(ConnId),
}

/// One end, with the messages that are on their way to it.
#[derive(Debug)]
struct End {
    node: NodeId,
    /// The node's address when it was connected.
    address: u64,
    open: bool,
    /// The topic was said by this end.
    began: bool,
    /// With the time at which each arrives.
    incoming: VecDeque<(u64, Said)>,
    last_arrival_ms: u64,
    silent_since_ms: Option<u64>,
}

/// A connection and its ends.
#[derive(Debug)]
struct Conn {
    ends: [End; 2],
}

impl Conn {
    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side.index()]
    }
}

/// The connections of a network.
#[derive(Debug)]
pub(crate) struct Neighbours {
    conns: BTreeMap<ConnId, Conn>,
    count: u64,
    keys: BTreeMap<Key, NodeId>,
    /// Where time begins for the protocol, which only takes differences of it.
    pub(crate) begun: Instant,
}

impl Neighbours {
    /// No connections yet.
    pub(crate) fn of(nodes: &[Node]) -> Self {
        let ids = (0..).map(NodeId);
        Self {
            conns: BTreeMap::new(),
            count: 0,
            keys: nodes.iter().map(|node| node.device.0).zip(ids).collect(),
            begun: Instant::now(),
        }
    }

    /// Adds a node.
    pub(crate) fn know(&mut self, id: NodeId, node: &Node) {
        self.keys.insert(node.device.0, id);
    }

    /// The node with that key, if there is one.
    pub(crate) fn node_of(&self, key: &Key) -> Option<NodeId> {
        self.keys.get(key).copied()
    }
}

impl World {
    // --- sending ---------------------------------------------------------------------------------

    /// Sends a message, or dials first.
    pub(crate) fn gossip_send(&mut self, me: NodeId, to: Key, message: Said) {
        match self.nodes[me.index()].gossip.peers.get_mut(&to) {
            Some(Peer::Active(conn)) => {
                let conn = *conn;
                self.transmit(conn, me, message);
            }
            Some(Peer::Pending(queue)) => queue.push(message),
            None => {
                let peers = &mut self.nodes[me.index()].gossip.peers;
                peers.insert(to, Peer::Pending(vec![message]));
                // The handshake takes a round and a half.
                let arrival = match self.neighbours.node_of(&to) {
                    Some(peer) => (0..3).map(|_| self.delay(me, peer, 100)).sum(),
                    None => 0,
                };
                self.gossip_at(self.now_ms + arrival, me, GossipEvent::Dial(to));
            }
        }
    }

    fn transmit(&mut self, id: ConnId, me: NodeId, message: Said) {
        let message = match self.nodes[me.index()].liar {
            true => self.garble(message),
            false => message,
        };
        let now_ms = self.now_ms;
        let Some(conn) = self.neighbours.conns.get_mut(&id) else {
            return;
        };
        let side = match conn.ends[0].node == me {
            true => Side::Dialer,
            false => Side::Listener,
        };
        let peer = conn.end(side.other()).node;
        let begins = !std::mem::replace(&mut conn.end(side).began, true);
        // A Vec takes all that is written to it.
        let bytes = postcard::to_allocvec(&message).unwrap_or_default();
        // Without the topic, which the protocol's own type counts.
        let mut len = bytes.len() + LENGTH_BYTES - TOPIC_BYTES;
        if begins {
            len += LENGTH_BYTES + TOPIC_BYTES;
        }
        let hash = short(blake3::hash(&bytes).as_bytes());
        self.note(me, format_args!("gossips {len} {hash} to {peer}"));
        let arrival = now_ms + self.delay(me, peer, len);
        self.stats.gossip_messages += 1;
        self.stats.gossip_bytes += len as u64;
        let Some(conn) = self.neighbours.conns.get_mut(&id) else {
            return;
        };
        let end = conn.end(side.other());
        if !end.open {
            return;
        }
        end.last_arrival_ms = end.last_arrival_ms.max(arrival);
        let at = end.last_arrival_ms;
        end.incoming.push_back((at, message));
        self.gossip_at(at, peer, GossipEvent::Arrive(id, side.other()));
    }

    /// What a liar sends in place of its protocol's message: now and then another that reads as one.
    fn garble(&mut self, message: Said) -> Said {
        if self.dice.below(8) != 0 {
            return message;
        }
        let Ok(mut value) = serde_json::to_value(&message) else {
            return message;
        };
        let mut count = 0;
        each_number(&mut value, &mut |_| count += 1);
        let chosen = self.dice.below(count);
        let (byte, mut at) = (self.dice.below(256), 0);
        each_number(&mut value, &mut |number| {
            if at == chosen {
                *number = byte.into();
            }
            at += 1;
        });
        serde_json::from_value(value).unwrap_or(message)
    }

    /// Gives a node what has arrived.
    pub(crate) fn gossip_arrives(&mut self, id: ConnId, to: Side) {
        loop {
            let now_ms = self.now_ms;
            if !self.passes(id, to) {
                // It is sent again until it passes, or an end takes the path for broken.
                if let Some(conn) = self.neighbours.conns.get_mut(&id)
                    && conn.end(to).open
                    && !conn.end(to).incoming.is_empty()
                {
                    let me = conn.end(to).node;
                    self.gossip_at(now_ms + RESEND_MS, me, GossipEvent::Arrive(id, to));
                }
                return;
            }
            let Some(conn) = self.neighbours.conns.get_mut(&id) else {
                return;
            };
            let peer = conn.end(to.other()).node;
            let end = conn.end(to);
            let me = end.node;
            match end.incoming.front() {
                Some((at, _)) if *at <= now_ms => {}
                _ => return,
            }
            let Some((_, message)) = end.incoming.pop_front() else {
                return;
            };
            let key = self.nodes[peer.index()].device.0;
            self.protocol(me, InEvent::RecvMessage(key, message));
        }
    }

    /// Whether packets to that end pass.
    fn passes(&self, id: ConnId, to: Side) -> bool {
        let Some(conn) = self.neighbours.conns.get(&id) else {
            return false;
        };
        let (end, other) = (&conn.ends[to.index()], &conn.ends[to.other().index()]);
        let moved = [end, other].iter().any(|end| {
            let node = &self.nodes[end.node.index()];
            node.address != end.address
        });
        end.open && !moved && !self.is_blocked(other.node, end.node)
    }

    // --- connecting ------------------------------------------------------------------------------

    pub(crate) fn gossip_dialled(&mut self, me: NodeId, key: Key) {
        let now_ms = self.now_ms;
        if !matches!(
            self.nodes[me.index()].gossip.peers.get(&key),
            Some(Peer::Pending(_))
        ) {
            return;
        }
        let reachable = self.neighbours.node_of(&key).filter(|peer| {
            let blocked = self.is_blocked(me, *peer) || self.is_blocked(*peer, me);
            !blocked && self.nodes[peer.index()].is_on()
        });
        let Some(peer) = reachable else {
            return self.gossip_at(now_ms + DIAL_MS, me, GossipEvent::Undialled(key));
        };
        // Only active members that are not banned may speak gossip with a node.
        if peer == me || self.is_banned(peer, me) || self.access(peer, me) != Access::All {
            return self.gossip_undialled(me, key);
        }
        self.neighbours.count += 1;
        let id = ConnId(self.neighbours.count);
        let ends = [me, peer].map(|node| End {
            node,
            address: self.nodes[node.index()].address,
            open: true,
            began: false,
            incoming: VecDeque::new(),
            last_arrival_ms: 0,
            silent_since_ms: None,
        });
        self.neighbours.conns.insert(id, Conn { ends });
        self.note(me, format_args!("is connected for gossip to {peer}"));
        for (me, peer) in [(me, peer), (peer, me)] {
            let key = self.nodes[peer.index()].device.0;
            let gossip = &mut self.nodes[me.index()].gossip;
            gossip.conns.insert(id);
            // An older connection still brings what comes by it.
            if let Some(Peer::Pending(queue)) = gossip.peers.insert(key, Peer::Active(id)) {
                for message in queue {
                    self.transmit(id, me, message);
                }
            }
        }
    }

    /// A dial came to nothing.
    pub(crate) fn gossip_undialled(&mut self, me: NodeId, key: Key) {
        let peers = &mut self.nodes[me.index()].gossip.peers;
        if matches!(peers.get(&key), Some(Peer::Pending(_))) {
            peers.remove(&key);
            self.protocol(me, InEvent::PeerDisconnected(key));
        }
    }

    // --- ends ------------------------------------------------------------------------------------

    /// The protocol has nothing more to say to a peer.
    pub(crate) fn gossip_disconnects(&mut self, me: NodeId, key: Key) {
        self.nodes[me.index()].gossip.peers.remove(&key);
    }

    /// Closes one end of a connection. The other learns of it when the news arrives, or by silence.
    pub(crate) fn close_conn(&mut self, id: ConnId, side: Side) {
        let Some(conn) = self.neighbours.conns.get_mut(&id) else {
            return;
        };
        let end = conn.end(side);
        if !std::mem::replace(&mut end.open, false) {
            return;
        }
        let me = end.node;
        end.incoming.clear();
        let other = conn.end(side.other());
        let (peer, other_open, last_words_ms) = (other.node, other.open, other.last_arrival_ms);
        if other_open {
            let lost = self.is_blocked(me, peer) || !self.nodes[me.index()].is_on();
            let after = match lost {
                true => IDLE_MS,
                false => self.weather.latency_ms,
            };
            let at = (self.now_ms + after).max(last_words_ms + 1);
            self.gossip_at(at, peer, GossipEvent::Broken(id, side.other()));
        } else {
            self.neighbours.conns.remove(&id);
        }
        let key = self.nodes[peer.index()].device.0;
        let gossip = &mut self.nodes[me.index()].gossip;
        gossip.conns.remove(&id);
        if matches!(gossip.peers.get(&key), Some(Peer::Active(active)) if *active == id) {
            gossip.peers.remove(&key);
            self.protocol(me, InEvent::PeerDisconnected(key));
        }
    }

    /// Closes a node's end of every connection.
    pub(crate) fn close_conns(&mut self, id: NodeId) {
        for (conn, side) in self.conns_of(id) {
            self.close_conn(conn, side);
        }
    }

    fn conns_of(&self, id: NodeId) -> Vec<(ConnId, Side)> {
        let conns = self.nodes[id.index()].gossip.conns.iter();
        conns
            .filter_map(|conn| {
                let ends = &self.neighbours.conns.get(conn)?.ends;
                let side = match ends[0].node == id {
                    true => Side::Dialer,
                    false => Side::Listener,
                };
                Some((*conn, side))
            })
            .collect()
    }

    /// Looks at a node's connections, once a second: those by which nothing comes any more are dead, and those on
    /// which neither end sends are left.
    pub(crate) fn look_at_conns(&mut self, id: NodeId) {
        let now_ms = self.now_ms;
        for (conn, side) in self.conns_of(id) {
            let passes = self.passes(conn, side);
            let Some(ends) = self
                .neighbours
                .conns
                .get_mut(&conn)
                .map(|conn| &mut conn.ends)
            else {
                continue;
            };
            let peer = ends[side.other().index()].node;
            let silent = !passes || !self.nodes[peer.index()].is_on();
            let end = &mut ends[side.index()];
            let since = silent.then(|| end.silent_since_ms.unwrap_or(now_ms));
            end.silent_since_ms = since;
            if since.is_some_and(|since| now_ms - since >= IDLE_MS) {
                self.close_conn(conn, side);
                continue;
            }
            let quiet = ends.iter().all(|end| end.incoming.is_empty());
            let [one, two] = [ends[0].node, ends[1].node];
            if quiet && !self.sends_by(one, two, conn) && !self.sends_by(two, one, conn) {
                self.neighbours.conns.remove(&conn);
                for node in [one, two] {
                    self.nodes[node.index()].gossip.conns.remove(&conn);
                }
            }
        }
    }

    fn sends_by(&self, me: NodeId, peer: NodeId, conn: ConnId) -> bool {
        let key = &self.nodes[peer.index()].device.0;
        let active = self.nodes[me.index()].gossip.peers.get(key);
        matches!(active, Some(Peer::Active(active)) if *active == conn)
    }
}

/// Every number in a value, in order.
fn each_number(value: &mut Value, see: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Number(_) => see(value),
        Value::Array(all) => all.iter_mut().for_each(|v| each_number(v, see)),
        Value::Object(all) => all.values_mut().for_each(|v| each_number(v, see)),
        _ => {}
    }
}

//! Gossip: iroh-gossip's protocol state of every node, driven in virtual time, and what the node makes of it.
//!
//! Each node has one state of iroh-gossip a topic, with a random generator that the seed determines. As in the daemon,
//! the kernel's value decides what is announced and what follows from an announcement. This module carries timers,
//! commands and events between the two; connections are in `neighbours`.
//!
//! Nothing may rest on gossip. So an announcement that has arrived may still be lost, doubled or delayed by chance, more
//! than the protocol itself would do, and liars announce entries that do not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use iroh_gossip::proto::{
    Command, Config, Event as Told, InEvent, Message, OutEvent, PeerData, Scope, State, Timer,
    TopicId,
};
use lattice_format::{DeviceKey, IntentionId};
use lattice_kernel::sync::limits::{GOSSIP_BYTES_MAX, GOSSIP_COLLECT_MS};
use lattice_kernel::sync::{Access, Announcement, Gossip, Input, Move};
use lattice_testing::Dice;
use rand_core::{SeedableRng, TryRng};

use crate::limits::GOSSIP_LATE_MS;
use crate::net::dial::RETRY;
use crate::net::neighbours::{ConnId, Peer};
use crate::net::stream::Side;
use crate::world::World;
use crate::world::node::{NodeId, Writer};
use crate::world::queue::Event;
use crate::world::trace::short;

/// A peer as the protocol names it: the bytes of its key, as in iroh.
pub(crate) type Key = [u8; 32];
/// What the protocol sends.
pub(crate) type Said = Message<Key>;

/// What a node tells others of its addresses, in bytes.
const ADDRESS_BYTES: usize = 64;

/// The simulator's generator, as the protocol wants it.
#[derive(Debug)]
pub(crate) struct Seeded(Dice);

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.roll() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.roll())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.roll().to_be_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl SeedableRng for Seeded {
    type Seed = [u8; 8];

    fn from_seed(seed: Self::Seed) -> Self {
        Self(Dice(u64::from_be_bytes(seed)))
    }
}

/// The topic that a node is on.
pub(crate) struct Topic {
    id: TopicId,
    /// Counts the topics of this node: timers of an earlier one mean nothing.
    number: u64,
    state: State<Key, Seeded>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.id)
    }
}

/// What one node has of gossip. All of it is in memory.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// What is said and heard; there once the node has a store.
    value: Option<Gossip>,
    topic: Option<Topic>,
    topics: u64,
    /// Whom it sends to.
    pub(crate) peers: BTreeMap<Key, Peer>,
    /// Connections that it is an end of.
    pub(crate) conns: BTreeSet<ConnId>,
}

/// Something of gossip that happens to a node.
#[derive(Clone, Debug)]
pub(crate) enum GossipEvent {
    /// A timer of the protocol, for the topic with that number.
    Timer(u64, Timer<Key>),
    /// What was written within a moment is announced.
    Collected,
    /// The topic was lost a while ago.
    Look,
    /// An announcement comes out of the protocol, for the topic with that number.
    Heard(u64, Key, Bytes),
    /// A dial arrives.
    Dial(Key),
    /// A dial is given up.
    Undialled(Key),
    /// Messages may have come.
    Arrive(ConnId, Side),
    /// That end learns that the connection is dead.
    Broken(ConnId, Side),
}

/// Where a node can be reached, as it tells its neighbours.
fn address(number: u64) -> PeerData {
    let mut bytes = vec![0; ADDRESS_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PeerData::new(bytes)
}

impl World {
    pub(crate) fn gossip_at(&mut self, at_ms: u64, node: NodeId, due: GossipEvent) {
        let life = self.nodes[node.index()].life;
        let due = Box::new(due);
        self.queue.at(at_ms, Event::Gossip { node, life, due });
    }

    pub(crate) fn gossip(&mut self, node: NodeId, due: GossipEvent) {
        match due {
            GossipEvent::Timer(number, timer) => {
                let topic = &self.nodes[node.index()].gossip.topic;
                if topic.as_ref().is_some_and(|t| t.number == number) {
                    self.protocol(node, InEvent::TimerExpired(timer));
                }
            }
            GossipEvent::Collected => self.broadcast(node),
            GossipEvent::Look => self.look_at_topic(node),
            GossipEvent::Heard(number, from, content) => {
                let topic = &self.nodes[node.index()].gossip.topic;
                if topic.as_ref().is_some_and(|t| t.number == number) {
                    self.hear(node, from, &content);
                }
            }
            GossipEvent::Dial(key) => self.gossip_dialled(node, key),
            GossipEvent::Undialled(key) => self.gossip_undialled(node, key),
            GossipEvent::Arrive(conn, side) => self.gossip_arrives(conn, side),
            GossipEvent::Broken(conn, side) => self.close_conn(conn, side),
        }
    }

    // --- topics ----------------------------------------------------------------------------------

    /// Looks whether a node is on the topic that the members as it knows them ask for.
    pub(crate) fn look_at_topic(&mut self, id: NodeId) {
        let (now_ms, access) = (self.now_ms, self.access(id, id));
        let streams = self.nodes[id.index()].streams.keys();
        let connected: Vec<DeviceKey> = streams
            .map(|peer| self.nodes[peer.index()].device)
            .collect();
        let Some(store) = self.store_id else { return };
        let node = &mut self.nodes[id.index()];
        // A liar that was revoked stays and listens.
        if node.liar && access != Access::All {
            return;
        }
        let governance = node.members.as_deref().filter(|_| node.store().is_some());
        let me = node.device;
        let value = node
            .gossip
            .value
            .get_or_insert_with(|| Gossip::new(store, me));
        match value.look(governance, connected, now_ms) {
            None => {}
            Some(Move::Leave) => self.quit_topic(id),
            Some(Move::Join { topic, peers }) => {
                self.quit_topic(id);
                self.join_topic(id, topic, peers);
            }
        }
    }

    fn join_topic(&mut self, id: NodeId, topic: Key, peers: Vec<DeviceKey>) {
        self.note(id, format_args!("joins topic {}", short(&topic)));
        let config = Config {
            max_message_size: GOSSIP_BYTES_MAX,
            ..Config::default()
        };
        let dice = Seeded(self.dice.split());
        let node = &mut self.nodes[id.index()];
        let data = address(node.address);
        let gossip = &mut node.gossip;
        gossip.topics += 1;
        let topic = TopicId::from_bytes(topic);
        gossip.topic = Some(Topic {
            id: topic,
            number: gossip.topics,
            state: State::new(node.device.0, data, config, dice),
        });
        let peers = peers.iter().map(|peer| peer.0).collect();
        self.protocol(id, InEvent::Command(topic, Command::Join(peers)));
        // What was written while it was nowhere.
        self.broadcast(id);
    }

    /// Leaves the topic with a word to the neighbours.
    fn quit_topic(&mut self, id: NodeId) {
        let Some(topic) = &self.nodes[id.index()].gossip.topic else {
            return;
        };
        let topic = topic.id;
        self.note(id, format_args!("leaves topic {}", short(topic.as_bytes())));
        self.protocol(id, InEvent::Command(topic, Command::Quit));
        self.nodes[id.index()].gossip.topic = None;
    }

    /// The store is not served now: it is on no topic.
    pub(crate) fn gossip_stops(&mut self, id: NodeId) {
        self.quit_topic(id);
        self.nodes[id.index()].gossip.value = None;
    }

    /// The machine stopped, and with it all that gossip has in memory.
    pub(crate) fn gossip_dies(&mut self, id: NodeId) {
        let gossip = &mut self.nodes[id.index()].gossip;
        (gossip.value, gossip.topic) = (None, None);
        self.close_conns(id);
        self.nodes[id.index()].gossip.peers.clear();
    }

    /// A member is connected and may be a neighbour.
    pub(crate) fn gossip_peer_up(&mut self, me: NodeId, peer: NodeId) {
        if self.access(me, peer) != Access::All {
            return;
        }
        let key = self.nodes[peer.index()].device.0;
        if let Some(topic) = &self.nodes[me.index()].gossip.topic {
            let command = InEvent::Command(topic.id, Command::Join(vec![key]));
            self.protocol(me, command);
        }
    }

    /// A node has another address, and says so to its neighbours.
    pub(crate) fn move_address(&mut self, id: NodeId) {
        self.nodes[id.index()].address += 1;
        let data = address(self.nodes[id.index()].address);
        self.protocol(id, InEvent::UpdatePeerData(data));
    }

    // --- the protocol ----------------------------------------------------------------------------

    /// Gives one event to a node's protocol state and does what it says.
    pub(crate) fn protocol(&mut self, id: NodeId, event: InEvent<Key>) {
        let now_ms = self.now_ms;
        let now = self.neighbours.begun + Duration::from_millis(now_ms);
        let Some(topic) = &mut self.nodes[id.index()].gossip.topic else {
            return;
        };
        let number = topic.number;
        let out: Vec<_> = topic.state.handle(event, now.into(), None).collect();
        for event in out {
            match event {
                OutEvent::SendMessage(to, message) => self.gossip_send(id, to, message),
                OutEvent::ScheduleTimer(delay, timer) => {
                    let at = now_ms + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                    self.gossip_at(at, id, GossipEvent::Timer(number, timer));
                }
                OutEvent::DisconnectPeer(peer) => self.gossip_disconnects(id, peer),
                OutEvent::EmitEvent(_, Told::Received(message)) => {
                    self.told(id, number, message.delivered_from, message.content);
                }
                OutEvent::EmitEvent(_, Told::NeighborUp(peer)) => {
                    self.note(id, format_args!("has a neighbour {}", short(&peer)));
                }
                OutEvent::EmitEvent(_, Told::NeighborDown(peer)) => {
                    self.note(id, format_args!("loses a neighbour {}", short(&peer)));
                }
                // Where peers are is known to everybody here.
                OutEvent::PeerData(..) => {}
            }
        }
    }

    /// An announcement comes out of the protocol. Chance decides whether, when and how often the node hears it.
    fn told(&mut self, id: NodeId, number: u64, from: Key, content: Bytes) {
        let hash = short(blake3::hash(&content).as_bytes());
        self.note(id, format_args!("is told {hash} by {}", short(&from)));
        if self.dice.below(512) == 0 {
            return self.lag(id);
        }
        let copies = match self.dice.below(16) {
            0 => 0,
            1 => 2,
            2 => 3,
            _ => 1,
        };
        for _ in 0..copies {
            let late = match self.dice.below(8) {
                0 => self.dice.below(GOSSIP_LATE_MS),
                _ => 0,
            };
            let due = GossipEvent::Heard(number, from, content.clone());
            self.gossip_at(self.now_ms + late, id, due);
        }
    }

    /// More came than the node took: it compares, and joins anew after a while.
    fn lag(&mut self, id: NodeId) {
        self.note(id, format_args!("lags"));
        self.quit_topic(id);
        if let Some(value) = &mut self.nodes[id.index()].gossip.value {
            value.lost();
        }
        self.reconcile(id);
        let pause_ms = RETRY.pause_ms(0, self.jitter());
        self.gossip_at(self.now_ms + pause_ms, id, GossipEvent::Look);
    }

    // --- announcements ---------------------------------------------------------------------------

    /// Tells all members of entries that a node has written.
    pub(crate) fn announce(&mut self, id: NodeId, written: Vec<IntentionId>) {
        let now_ms = self.now_ms;
        let Some(value) = &mut self.nodes[id.index()].gossip.value else {
            return;
        };
        let first = value.due_ms().is_none();
        for entry in written {
            value.wrote(entry, now_ms);
        }
        if first && value.due_ms().is_some() {
            self.gossip_at(now_ms + GOSSIP_COLLECT_MS, id, GossipEvent::Collected);
        }
    }

    fn broadcast(&mut self, id: NodeId) {
        let (now_ms, node) = (self.now_ms, &self.nodes[id.index()]);
        let liar = node.liar;
        let Some(topic) = node.gossip.topic.as_ref().map(|topic| topic.id) else {
            return;
        };
        while let Some(value) = &mut self.nodes[id.index()].gossip.value
            && let Some(mut said) = value.take(now_ms)
        {
            if liar {
                self.lie_of(&mut said);
            }
            let said = match liar && self.dice.below(16) == 0 {
                true => Bytes::from_static(b"nonsense"),
                false => said.encode(),
            };
            let command = Command::Broadcast(said, Scope::Swarm);
            self.protocol(id, InEvent::Command(topic, command));
        }
    }

    /// What a liar announces.
    fn lie_of(&mut self, said: &mut Announcement) {
        said.more = self.dice.below(32) == 0;
        for id in &mut said.ids {
            if self.dice.below(3) == 0 {
                id.0[self.dice.below(32) as usize] ^= 1;
            }
        }
    }

    /// An announcement reaches a node.
    fn hear(&mut self, id: NodeId, from: Key, content: &[u8]) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[id.index()];
        let store = node.writer.as_ref().and_then(Writer::store);
        let (Some(value), Some(store)) = (&mut node.gossip.value, store) else {
            return;
        };
        let snapshot = || Some(store.snapshot());
        let heard = value.heard(DeviceKey(from), content, now_ms, snapshot);
        if let Some(announced) = heard.announced {
            let peers = self.nodes[id.index()].streams.keys();
            let peers = peers.map(|peer| self.nodes[peer.index()].device);
            announced.tell(peers.collect::<Vec<_>>(), |peer| {
                let peer = self.neighbours.node_of(&peer.0);
                let streams = &self.nodes[id.index()].streams;
                let Some((stream, side)) = peer.and_then(|p| streams.get(&p)).copied() else {
                    return false;
                };
                self.handle(stream, side, Input::Announced(announced.ids.clone()));
                true
            });
        }
        if heard.compare {
            self.reconcile(id);
        }
    }

    /// Makes every session of a node compare.
    fn reconcile(&mut self, id: NodeId) {
        let streams: Vec<_> = self.nodes[id.index()].streams.values().copied().collect();
        for (stream, side) in streams {
            self.handle(stream, side, Input::Reconcile);
        }
    }
}

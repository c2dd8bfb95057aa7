//! A network of nodes in one thread: virtual time, and everything that happens in it.

pub(crate) mod act;
pub(crate) mod attack;
pub(crate) mod child_store;
pub(crate) mod clocks;
pub(crate) mod code;
pub(crate) mod components;
pub(crate) mod faults;
pub(crate) mod hostile;
pub(crate) mod machine;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod topology;
pub(crate) mod trace;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use lattice_format::{Call, DeviceKey, Digest, StoreId};
use lattice_kernel::run::engine::Engine;
use lattice_kernel::sync::MisbehaviourLog;
use lattice_kernel::{Notice, Outcome, Snapshot};
use lattice_testing::Dice;
use lattice_testing::disk::Survives;
use lattice_testing::verified::VerifiedHeaders;

use crate::check::{Seen, View};
use crate::limits::{AHEAD_WAIT_MS, CONVERGE_MS, MESH_NODES, NODES_MAX, START_MS};
use crate::net::neighbours::Neighbours;
use crate::net::stream::{Stream, StreamId};
use crate::world::act::{Act, Step};
use crate::world::code::Code;
use crate::world::node::{Machine, Node, NodeId};
use crate::world::queue::{Event, Queue};
use crate::world::topology::neighbours;
use crate::world::trace::Trace;

pub use crate::world::topology::Topology;

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way from node to node, in milliseconds.
    pub latency_ms: u64,
    /// What is added at random, at most, in milliseconds.
    pub jitter_ms: u64,
    /// Packets of a thousand that are lost and sent again.
    pub loss_per_mille: u64,
    /// Bytes that pass in a millisecond.
    pub bytes_per_ms: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency_ms: 20,
            jitter_ms: 5,
            loss_per_mille: 1,
            bytes_per_ms: 1_000,
        }
    }
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything that is left to chance.
    pub seed: u64,
    /// How many nodes there are; the first founds the store.
    pub nodes: u16,
    /// What the store runs.
    pub code: Code,
    /// Who is connected with whom.
    pub topology: Topology,
    /// Whether every line of the trace is kept.
    pub keep_trace: bool,
}

/// What was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Virtual time, in milliseconds since the run began.
    pub at_ms: u64,
    /// What it is.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} ms: {}", self.at_ms, self.text)
    }
}

/// One direction between two nodes, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Writes to it.
    pub messages: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Entries that came out of it.
    pub entries: u64,
}

/// How equal the nodes were at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Virtual time, in milliseconds since the run began.
    pub at_ms: u64,
    /// How many different states there were.
    pub states: usize,
    /// Entries of the node with the fewest, among those that run.
    pub least: u64,
    /// Entries of the node with the most.
    pub most: u64,
}

/// A run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls answered.
    pub calls: u64,
    /// Of these, those that were refused, trapped or were not allowed.
    pub refused: u64,
    /// Entries that came from peers.
    pub received: u64,
    /// Of these, those that were there already.
    pub known: u64,
    /// Runs of entries that came late.
    pub runs: u64,
    /// Messages of gossip that were sent. The links count them as well.
    pub gossip_messages: u64,
    /// Bytes of those messages.
    pub gossip_bytes: u64,
    /// Rounds of comparison that ended.
    pub rounds: u64,
    /// Machines that failed.
    pub crashes: u64,
    /// Each direction between two nodes.
    pub links: BTreeMap<(NodeId, NodeId), LinkStats>,
    /// How equal the nodes were, by the second.
    pub samples: Vec<Sample>,
}

/// A fault that ends by itself.
#[derive(Clone, Debug)]
pub(crate) enum Mend {
    Block(usize),
    Weather(Weather),
    Room(NodeId),
    Slow(NodeId),
}

/// Packets that do not pass: between two groups, or only out of the first.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) group: BTreeSet<NodeId>,
    pub(crate) one_way: bool,
}

/// The network and its nodes.
pub struct World {
    pub(crate) now_ms: u64,
    pub(crate) code: Code,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) dice: Dice,
    pub(crate) queue: Queue,
    pub(crate) trace: Trace,
    pub(crate) nodes: Vec<Node>,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) stream_count: u64,
    pub(crate) neighbours: Neighbours,
    pub(crate) weather: Weather,
    pub(crate) blocks: BTreeMap<usize, Block>,
    pub(crate) mends: Vec<Mend>,
    pub(crate) plan: Vec<Step>,
    pub(crate) store_id: Option<StoreId>,
    pub(crate) stats: Stats,
    pub(crate) seen: BTreeMap<Digest, Seen>,
    /// What one node has verified, so that the next need not.
    pub(crate) verified: VerifiedHeaders,
    pub(crate) judged: BTreeSet<Digest>,
    pub(crate) invites: u64,
    /// The invite that claims are made of.
    pub(crate) invite: Option<u64>,
    /// The network of a child store, on the same machines; `child_store` acts on it.
    pub(crate) child: Option<Box<World>>,
    /// Whether this is the network of a child store: its machines start and stop with those of the parent.
    pub(crate) is_child: bool,
    /// Machines that failed by what this store's disks did, for the parent's network to hear of.
    pub(crate) fallen: Vec<(NodeId, Survives, Option<u64>)>,
    /// What each node holds against its peers. A node has one log for the store and its child.
    pub(crate) misbehaviour: BTreeMap<NodeId, MisbehaviourLog>,
    /// Peers that a node banned for what they did in this store, for the parent's network to hear of.
    pub(crate) banned: Vec<(NodeId, NodeId)>,
    /// Nodes of which somebody has failed to read the store, for their writers to hear of.
    pub(crate) failed_reads: Arc<Mutex<Vec<NodeId>>>,
    sample_ms: u64,
    violation: Option<Violation>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({} nodes, {} ms)", self.nodes.len(), self.now_ms)
    }
}

/// A node's clock: the true time, wrong by its skew.
pub(crate) fn clock(now_ms: u64, skew_ms: i64) -> u64 {
    (START_MS + now_ms).saturating_add_signed(skew_ms)
}

impl World {
    /// A network whose first node has founded a store; the others run and have nothing.
    pub fn new(settings: &Settings) -> Self {
        let count = settings.nodes.clamp(1, NODES_MAX as u16);
        let mut dice = Dice(settings.seed);
        let neighbours = neighbours(count, settings.topology, &mut dice);
        let nodes = (0..count).zip(neighbours);
        let nodes = nodes.map(|(n, peers)| Node::new(n, peers)).collect();
        let mut world = Self::empty(&settings.code, dice, nodes, settings.keep_trace);
        world.found(NodeId(0), world.code.genesis(), Vec::new());
        for number in 0..count {
            let at = world.dice.below(1_000);
            let node = NodeId(number);
            world.queue.at(at, Event::Tick { node, life: 0 });
        }
        world
    }

    /// A network without a store and without events.
    pub(crate) fn empty(code: &Code, dice: Dice, nodes: Vec<Node>, keep_trace: bool) -> Self {
        Self {
            now_ms: 0,
            code: code.clone(),
            engine: code.engine(),
            dice,
            queue: Queue::default(),
            trace: Trace::new(keep_trace),
            neighbours: Neighbours::of(&nodes),
            nodes,
            streams: BTreeMap::new(),
            stream_count: 0,
            weather: Weather::default(),
            blocks: BTreeMap::new(),
            mends: Vec::new(),
            plan: Vec::new(),
            store_id: None,
            stats: Stats::default(),
            seen: BTreeMap::new(),
            verified: VerifiedHeaders::default(),
            judged: BTreeSet::new(),
            invites: 0,
            invite: None,
            child: None,
            is_child: false,
            fallen: Vec::new(),
            misbehaviour: BTreeMap::new(),
            banned: Vec::new(),
            failed_reads: Arc::default(),
            sample_ms: 0,
            violation: None,
        }
    }

    /// Adds steps, at their times from now on.
    pub fn add_plan(&mut self, plan: Vec<Step>) {
        for step in plan {
            let at = self.now_ms + step.at_ms;
            self.queue.at(at, Event::Step(self.plan.len()));
            self.plan.push(step);
        }
    }

    /// Runs for so many virtual milliseconds, or until something is found wrong.
    pub fn run_for(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        self.run_until(until_ms, |_| false);
    }

    /// Runs until `done`, asked each second, or until that time. Whether it was done.
    fn run_until(&mut self, until_ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let mut ask_ms = self.now_ms;
        loop {
            if self.violation.is_some() {
                return false;
            }
            if self.now_ms >= ask_ms {
                if done(self) {
                    return true;
                }
                ask_ms = self.now_ms + 1_000;
            }
            if self.now_ms >= self.sample_ms {
                self.sample_ms = self.now_ms + 1_000;
                self.sample();
            }
            if let Some(at_ms) = self.child_first(until_ms) {
                self.now_ms = self.now_ms.max(at_ms);
                self.with_child(|child| child.happen_next(at_ms));
            } else if !self.happen_next(until_ms) {
                self.now_ms = until_ms;
                return self.violation.is_none() && done(self);
            }
        }
    }

    /// Lets the next thing happen, if it does so no later than `until_ms`.
    fn happen_next(&mut self, until_ms: u64) -> bool {
        match self.queue.next(until_ms) {
            Some((at_ms, event)) => {
                self.now_ms = self.now_ms.max(at_ms);
                self.happen(event);
                self.hear_of_reads();
                true
            }
            None => false,
        }
    }

    fn happen(&mut self, event: Event) {
        let (node, life) = match &event {
            Event::Work { node, life, .. }
            | Event::Tick { node, life }
            | Event::Start { node, life }
            | Event::Gossip { node, life, .. }
            | Event::Wake { node, life } => (*node, *life),
            Event::Connect { from, life, .. } => (*from, *life),
            Event::Step(number) => return self.step(*number),
            Event::Mend(number) => return self.mend(*number),
            Event::Chunk { stream, to } => return self.arrive(*stream, *to),
            Event::Broken { stream, side } => {
                return self.drop_end(*stream, *side, "the peer is gone");
            }
            Event::Timer { stream, side } => return self.timer(*stream, *side),
            Event::Again { stream, side } => {
                return self.handle(*stream, *side, lattice_kernel::sync::Input::Tick);
            }
            Event::Compare { stream, side } => return self.compare(*stream, *side),
            Event::Begin { stream } => {
                return self.begin(*stream, crate::net::stream::Side::Dialer);
            }
        };
        let here = &mut self.nodes[node.index()];
        if here.life != life {
            return;
        }
        if let Machine::Asleep(held) = &mut here.power
            && !matches!(event, Event::Wake { .. })
        {
            held.push(event);
            return;
        }
        match event {
            Event::Work { turn, .. } => self.work(node, turn),
            Event::Tick { .. } => self.tick(node),
            Event::Start { .. } => self.start(node),
            Event::Wake { .. } => self.wake(node),
            Event::Gossip { due, .. } => self.gossip(node, *due),
            Event::Connect { to, .. } => self.connect(node, to),
            _ => {}
        }
    }

    /// Ends every fault, wakes and starts every machine, and runs until all members are equal. What is found
    /// then is judged against folds from nothing.
    ///
    /// Returns the virtual time that it took, in milliseconds.
    ///
    /// # Errors
    /// What was found wrong, now or before.
    pub fn finish(&mut self) -> Result<u64, Violation> {
        self.heal();
        let skews = self.nodes.iter().map(|n| n.skew_ms.unsigned_abs());
        // What a clock that was wrong has parked comes when its time does.
        self.converge(
            CONVERGE_MS + 2 * skews.max().unwrap_or(0) + self.ahead_ms().min(AHEAD_WAIT_MS),
        )
    }

    /// Runs until all members are equal, at most so long, as things are, and judges them then.
    ///
    /// Returns the virtual time that it took, in milliseconds.
    ///
    /// # Errors
    /// What was found wrong, now or before.
    pub fn converge(&mut self, bound_ms: u64) -> Result<u64, Violation> {
        let began_ms = self.now_ms;
        let equal = self.run_until(began_ms + bound_ms, Self::is_converged);
        if self.violation.is_none() && !equal {
            let states = self.describe();
            self.violate(format!("not equal after {bound_ms} ms: {states}"));
        }
        if self.violation.is_none() {
            self.check_finally();
        }
        match &self.violation {
            Some(violation) => Err(violation.clone()),
            None => Ok(self.now_ms - began_ms),
        }
    }

    /// Adds a machine that has nothing yet, and knows everybody.
    pub fn add_node(&mut self) -> NodeId {
        let number = self.nodes.len() as u16;
        let id = NodeId(number);
        self.nodes
            .push(Node::new(number, (0..number).map(NodeId).collect()));
        self.neighbours.know(id, &self.nodes[id.index()]);
        self.queue
            .at(self.now_ms, Event::Tick { node: id, life: 0 });
        self.with_child(Self::add_node);
        id
    }

    /// Cuts a node off from everybody, or lets it back.
    pub(crate) fn set_offline(&mut self, node: NodeId, offline: bool) {
        let number = usize::MAX - node.index();
        if offline {
            let block = Block {
                group: [node].into(),
                one_way: false,
            };
            self.blocks.insert(number, block);
        } else {
            self.blocks.remove(&number);
        }
    }

    /// Keeps packets from passing until all faults end.
    pub(crate) fn block(&mut self, block: Block) {
        let number = self.blocks.len() + self.mends.len();
        self.blocks.insert(usize::MAX / 2 + number, block);
    }

    /// Calls on a node, in the store or its child, and waits for the commit. `None` when the node does not answer
    /// within a minute.
    pub(crate) fn call_now(&mut self, by: NodeId, call: Call, in_child: bool) -> Option<Outcome> {
        let act = Act::Call {
            by,
            calls: vec![call],
        };
        self.take_told(by, in_child);
        self.act(act.of(in_child));
        for _ in 0..60_000 {
            self.run_for(1);
            let told = self.take_told(by, in_child);
            let over = self.violation.is_some() || !self.nodes[by.index()].is_on();
            if told.is_some() || over {
                return told;
            }
        }
        None
    }

    fn take_told(&mut self, by: NodeId, in_child: bool) -> Option<Outcome> {
        let world = match in_child {
            true => self.child.as_deref_mut()?,
            false => self,
        };
        world.nodes[by.index()].last_told.take()
    }

    /// Ends every fault: packets pass, disks are whole, machines run.
    pub fn heal(&mut self) {
        self.note(NodeId(0), format_args!("all faults end"));
        self.blocks.clear();
        self.mends.clear();
        self.weather = Weather::default();
        self.set_clocks();
        for number in 0..self.nodes.len() as u16 {
            let id = NodeId(number);
            let node = &mut self.nodes[id.index()];
            node.disks.log.set_room(None);
            node.fuse = None;
            node.dies_with_disk = false;
            node.disk_ms = 1;
            if node.disks.power.failed() {
                self.replace_disk(id);
            } else {
                node.disks.power.fail_after(i64::MAX as u64);
                node.disks.reads.fail_after(i64::MAX as u64);
            }
            self.wake(id);
            self.start(id);
            if self.nodes.len() <= MESH_NODES {
                // Every node dials every member in the end. Who stood between two of them may be revoked.
                let all = (0..self.nodes.len() as u16).filter(|n| *n != number);
                self.nodes[id.index()].neighbours = all.map(NodeId).collect();
            }
        }
        self.with_child(Self::heal);
    }

    pub(crate) fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.blocks.values().any(|block| {
            let (from, to) = (block.group.contains(&from), block.group.contains(&to));
            if block.one_way {
                from && !to
            } else {
                from != to
            }
        })
    }

    pub(crate) fn clock(&self, node: NodeId) -> u64 {
        clock(self.now_ms, self.nodes[node.index()].skew_ms)
    }

    pub(crate) fn note(&mut self, node: NodeId, what: fmt::Arguments<'_>) {
        let mark = if self.is_child { "'" } else { "" };
        self.trace
            .note(self.now_ms, format_args!("{node}{mark} {what}"));
    }

    /// Records the first thing that is wrong; the run ends there.
    pub(crate) fn violate(&mut self, text: String) {
        self.trace.note(self.now_ms, format_args!("WRONG: {text}"));
        let at_ms = self.now_ms;
        self.violation.get_or_insert(Violation { at_ms, text });
    }

    pub(crate) fn take_violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }

    fn sample(&mut self) {
        let views: Vec<View> = self.views().collect();
        let states: BTreeSet<_> = views.iter().map(|v| v.roots).collect();
        let counts = || views.iter().map(|v| v.count);
        self.stats.samples.push(Sample {
            at_ms: self.now_ms,
            states: states.len(),
            least: counts().min().unwrap_or(0),
            most: counts().max().unwrap_or(0),
        });
    }

    // --- what can be read of a world ---------------------------------------------------------------

    /// What was found wrong, if anything.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Everything that happened.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The run in numbers.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Virtual time, in milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// What a node's store holds durably; `None` while it has none.
    pub fn snapshot(&self, node: NodeId) -> Option<Snapshot> {
        let node = self.nodes.get(node.index())?;
        Some(node.store()?.snapshot())
    }

    /// A node's key.
    pub fn device(&self, node: NodeId) -> DeviceKey {
        self.nodes[node.index()].device
    }

    /// What a node is told of outcomes that changed, forks and divergence; nothing while it has no store.
    pub fn notices(&self, node: NodeId) -> Vec<Notice> {
        let store = self.nodes[node.index()].store();
        let notices = store.and_then(|store| store.notices().ok());
        notices.into_iter().flatten().map(|(_, n)| n).collect()
    }

    /// The network of the child store, once there is one.
    pub fn child(&self) -> Option<&World> {
        self.child.as_deref()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> u16 {
        self.nodes.len() as u16
    }
}

//! Machines: how they come to have a store, fail, sleep and start again.

use lattice_format::{DeviceKey, Genesis, SignedHeader};
use lattice_kernel::clock::Clocks;
use lattice_kernel::{CreateError, NewStore, Store};
use lattice_testing::disk::{SURVIVALS, Survives};
use lattice_testing::log_disk;

use crate::limits::TICK_MS;
use crate::world::World;
use crate::world::node::{Machine, NodeId, Writer};
use crate::world::queue::Event;

impl World {
    /// Does what time asks of a node's network. Its writer has a time of its own.
    pub(crate) fn tick(&mut self, id: NodeId) {
        let life = self.nodes[id.index()].life;
        let at = self.now_ms + TICK_MS;
        self.queue.at(at, Event::Tick { node: id, life });
        self.look_at_conns(id);
        self.dial(id);
    }

    // --- beginnings ------------------------------------------------------------------------------

    /// Founds the store.
    pub(crate) fn found(&mut self, id: NodeId, genesis: Genesis, admits: Vec<DeviceKey>) {
        let now_ms = self.clock(id);
        let node = &mut self.nodes[id.index()];
        let spec = NewStore {
            genesis,
            admits,
            chain: node.fresh_chain(id),
        };
        let (engine, key) = (self.engine.clone(), node.key.clone());
        let store = log_disk::files(&node.disks.log, &node.disks.state)
            .map_err(CreateError::from)
            .and_then(|files| Store::create(files, engine, key, spec, now_ms));
        match store {
            Ok(store) => {
                self.store_id = Some(store.id());
                node.founded = true;
                node.acknowledged.push(store.id().into());
                self.take_over(id, store);
                self.look_at_topic(id);
            }
            Err(error) => self.violate(format!("{id} founds no store: {error}")),
        }
    }

    /// Starts a replica from a genesis.
    pub(crate) fn adopt(&mut self, id: NodeId, genesis: (SignedHeader, Vec<u8>)) {
        let now_ms = self.clock(id);
        let (engine, node) = (self.engine.clone(), &mut self.nodes[id.index()]);
        if node.founded {
            return;
        }
        // Whatever an attempt before left there was never completed.
        node.disks = node.disks.emptied();
        let key = node.key.clone();
        let store = log_disk::files(&node.disks.log, &node.disks.state)
            .map_err(CreateError::from)
            .and_then(|files| Store::adopt(files, engine, key, genesis, now_ms));
        match store {
            Ok(store) => {
                node.acknowledged.push(store.id().into());
                node.founded = true;
                self.take_over(id, store);
                self.note(id, format_args!("adopts the store"));
                self.dial(id);
            }
            Err(error) => self.violate(format!("{id} adopts no store: {error}")),
        }
    }

    // --- failures --------------------------------------------------------------------------------

    /// Counts an effect; whether the machine failed at it.
    pub(crate) fn burn(&mut self, id: NodeId) -> bool {
        match &mut self.nodes[id.index()].fuse {
            None => false,
            Some(0) => {
                self.crash(id);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// The disk failed under a node, and its writer has closed the store. If it was the power, the machine is off;
    /// else the writer asks for the store to be opened again.
    pub(crate) fn fail(&mut self, id: NodeId, reason: &str) {
        self.note(id, format_args!("fails: {reason}"));
        let node = &mut self.nodes[id.index()];
        if node.disks.power.failed() && node.dies_with_disk {
            return self.crash(id);
        }
        self.reload(id);
        self.gossip_stops(id);
        self.drop_ends(id);
    }

    /// Replaces a disk that has failed, whether the writer has noticed or not.
    pub(crate) fn replace_disk(&mut self, id: NodeId) {
        let now = self.moment(id);
        let node = &mut self.nodes[id.index()];
        node.writer = node.founded.then(|| Writer::closed(now));
        node.runs = 0;
        self.fail(id, "the disk was replaced");
        self.work_soon(id);
    }

    /// Gives a node whose process goes on, or starts anew, the files as the system sees them.
    pub(crate) fn reload(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        let room = node.disks.log.room();
        let images = (node.disks.log.live(), node.disks.state.live());
        node.disks = node.disks.holding(images.0, images.1);
        node.disks.log.set_room(room);
    }

    /// The machine stops: what was not synced is lost, in one way or another. It starts again by itself.
    pub(crate) fn crash(&mut self, id: NodeId) {
        if matches!(self.nodes[id.index()].power, Machine::Off) {
            return;
        }
        let survives = SURVIVALS[self.dice.below(SURVIVALS.len() as u64) as usize];
        let down_ms = 500 + self.dice.below(20_000);
        self.crash_with(id, survives, Some(down_ms));
    }

    /// Stops the machine with the given survival of what was not synced, and starts it after a while, if at all.
    pub(crate) fn crash_with(&mut self, id: NodeId, survives: Survives, down_ms: Option<u64>) {
        self.note(id, format_args!("crashes: {survives:?} survives"));
        let node = &mut self.nodes[id.index()];
        node.disks.power.fail_after(0);
        let images = (
            node.disks.log.after_crash(survives, &mut self.dice),
            node.disks.state.after_crash(survives, &mut self.dice),
        );
        // Nothing that the dying process writes reaches the images.
        node.writer = None;
        let room = node.disks.log.room();
        node.disks = node.disks.holding(images.0, images.1);
        node.disks.log.set_room(room);
        node.power = Machine::Off;
        node.life += 1;
        node.fuse = None;
        node.dies_with_disk = false;
        node.turn_at_ms = None;
        node.runs = 0;
        node.jobs.clear();
        node.trusted.clear();
        self.gossip_dies(id);
        self.drop_ends(id);
        let node = &mut self.nodes[id.index()];
        node.dials.clear();
        node.clocks = Clocks::default();
        self.misbehaviour.remove(&id);
        self.stats.crashes += 1;
        if self.is_child {
            self.fallen.push((id, survives, down_ms));
            return;
        }
        self.with_child(|child| {
            if !matches!(child.nodes[id.index()].power, Machine::Off) {
                child.crash_with(id, survives, None);
            }
        });
        if let Some(down_ms) = down_ms {
            let life = self.nodes[id.index()].life;
            let at = self.now_ms + down_ms;
            self.queue.at(at, Event::Start { node: id, life });
        }
    }

    /// Starts a machine that is off.
    pub(crate) fn start(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        if !matches!(node.power, Machine::Off) {
            return;
        }
        node.power = Machine::On;
        node.life += 1;
        self.note(id, format_args!("starts"));
        let now = self.moment(id);
        let node = &mut self.nodes[id.index()];
        node.writer = node.founded.then(|| Writer::closed(now));
        self.work_soon(id);
        let life = self.nodes[id.index()].life;
        self.queue.at(self.now_ms, Event::Tick { node: id, life });
        self.with_child(|child| child.start(id));
    }

    /// The machine sleeps until [`World::wake`].
    pub(crate) fn sleep(&mut self, id: NodeId, ms: u64) {
        let node = &mut self.nodes[id.index()];
        if !node.is_on() {
            return;
        }
        node.power = Machine::Asleep(Vec::new());
        let life = node.life;
        self.note(id, format_args!("sleeps for {ms} ms"));
        let at = self.now_ms + ms;
        if !self.is_child {
            self.queue.at(at, Event::Wake { node: id, life });
        }
        self.with_child(|child| child.sleep(id, ms));
    }

    /// The machine wakes: what happened to it meanwhile happens now, and its streams are dead.
    pub(crate) fn wake(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        let Machine::Asleep(held) = &mut node.power else {
            return;
        };
        let held = std::mem::take(held);
        node.power = Machine::On;
        self.note(id, format_args!("wakes"));
        self.drop_ends(id);
        self.close_conns(id);
        for event in held {
            self.queue.at(self.now_ms, event);
        }
        self.with_child(|child| child.wake(id));
    }

    /// Puts the disks back to an earlier day, as a restored backup does.
    pub(crate) fn restore(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        if node.backup.is_none() || !node.is_on() {
            return;
        }
        self.crash_with(id, Survives::All, Some(1_000));
        self.put_back(id);
        self.with_child(|child| child.put_back(id));
    }

    /// Replaces the disks of a machine that is off by their copy, if there is one.
    fn put_back(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        let Some((log, state)) = node.backup.clone() else {
            return;
        };
        let node = &mut self.nodes[id.index()];
        node.disks = node.disks.holding(log, state);
        // Whoever restores a backup gives up what is younger, at this node.
        node.acknowledged.clear();
        node.restored = true;
        self.note(id, format_args!("is put back to its backup"));
    }
}

//! What a node does with its store: jobs one after the other, as the daemon's writer does them, and what
//! happens when its disk or its machine fails.

use lattice_format::{Call, DeviceKey, Genesis, Lane, SignedHeader};
use lattice_kernel::{CreateError, NewStore, OpenError, Store};
use lattice_testing::disk::{SURVIVALS, Survives};
use lattice_testing::log_disk;

use crate::limits::{GROUP_CALLS_MAX, SETTLE_RUNS, TICK_MS};
use crate::world::World;
use crate::world::node::{Delivery, Disks, Job, Machine, NodeId};
use crate::world::queue::Event;
use crate::world::trace::short;

impl World {
    /// Hands the writer of a node something to do. A machine that does not run forgets it.
    pub(crate) fn job(&mut self, id: NodeId, job: Job) {
        if matches!(self.nodes[id.index()].power, Machine::Off) {
            return;
        }
        self.nodes[id.index()].jobs.push_back(job);
        self.work_soon(id);
    }

    pub(crate) fn work_soon(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        if node.working {
            return;
        }
        node.working = true;
        let (life, after) = (node.life, node.disk_ms);
        let at = self.now_ms + after;
        self.queue.at(at, Event::Work { node: id, life });
    }

    /// Tells the writers of stores that somebody failed to read.
    pub(crate) fn hear_of_reads(&mut self) {
        let failed = std::mem::take(&mut *self.failed_reads.lock().expect("no holder panics"));
        for id in failed {
            self.note(id, format_args!("hears of a read that failed"));
            self.job(id, Job::ReadFailed);
        }
    }

    /// Goes on with a store that was just made or opened.
    fn take_over(&mut self, id: NodeId, store: Store) {
        let failed = self.failed_reads.clone();
        store.on_failed_read(move || failed.lock().expect("no holder panics").push(id));
        self.nodes[id.index()].store = Some(store);
    }

    /// Does the next job, and a slice of what is due.
    pub(crate) fn work(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        node.working = false;
        let life = node.life;
        match node.jobs.pop_front() {
            Some(Job::Call { lane, calls }) => self.group(id, lane, calls),
            Some(Job::Receive(delivery)) => self.receive(id, delivery),
            // It is done after each job.
            Some(Job::ReadFailed) | None => {}
        }
        if self.nodes[id.index()].life != life {
            return;
        }
        self.examine(id);
        if self.nodes[id.index()].life != life {
            return;
        }
        self.settle(id);
        if self.nodes[id.index()].life != life {
            return;
        }
        let node = &self.nodes[id.index()];
        if !node.jobs.is_empty() || (node.pending > 0 && node.store.is_some()) {
            self.work_soon(id);
        }
    }

    /// Runs the calls that wait, and commits them together.
    fn group(&mut self, id: NodeId, lane: Lane, calls: Vec<Call>) {
        let now_ms = self.clock(id);
        let mut next = Some((lane, calls));
        let mut told = Vec::new();
        while let Some((lane, calls)) = next.take() {
            let node = &mut self.nodes[id.index()];
            let chain = node.fresh_chain(id);
            let Some(store) = &mut node.store else {
                return;
            };
            told.push(store.call(lane, calls, now_ms, chain));
            if told.len() < GROUP_CALLS_MAX
                && matches!(node.jobs.front(), Some(Job::Call { .. }))
                && let Some(Job::Call { lane, calls }) = node.jobs.pop_front()
            {
                next = Some((lane, calls));
            }
        }
        let Some(store) = &mut self.nodes[id.index()].store else {
            return;
        };
        match store.commit(now_ms) {
            Ok(committed) => {
                let written: Vec<_> = committed.iter().map(|header| header.id()).collect();
                for hash in &written {
                    self.nodes[id.index()].acknowledged.push(*hash);
                    self.note(id, format_args!("writes {}", short(&hash.0)));
                }
                for told in told {
                    self.stats.calls += 1;
                    match told {
                        Ok(told) => {
                            self.stats.refused += u64::from(!told.outcome.is_ok());
                            let digest = told.outcome.digest();
                            self.note(id, format_args!("tells {}", short(&digest.0)));
                            self.nodes[id.index()].last_told = Some(told.outcome);
                        }
                        Err(error) => self.note(id, format_args!("cannot call: {error}")),
                    }
                }
                self.after_change(id);
                self.announce(id, written);
            }
            Err(error) => self.fail(id, &error.0),
        }
    }

    fn receive(&mut self, id: NodeId, delivery: Delivery) {
        let Delivery { from, entries, via } = delivery;
        let now_ms = self.clock(id);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
        let sent = entries.len() as u64;
        let Some(store) = &mut self.nodes[id.index()].store else {
            return;
        };
        let verifier = self.verified.verifier(seed);
        match store.receive(from, entries, now_ms, verifier) {
            Ok(received) => {
                self.stats.received += sent;
                self.stats.known += received.known as u64;
                self.note(
                    id,
                    format_args!(
                        "takes {} new, {} known, {} floating, {} parked, {} without room, {} missing, {} at fault",
                        received.witnessed.len(),
                        received.known,
                        received.floating,
                        received.parked,
                        received.no_room,
                        received.missing.len(),
                        received.blame.len(),
                    ),
                );
                for new in &received.witnessed {
                    self.note(id, format_args!("witnesses {}", short(&new.0)));
                }
                let node = &mut self.nodes[id.index()];
                node.acknowledged.extend(&received.witnessed);
                node.pending = node.pending.max(1);
                let life = node.life;
                self.settle(id);
                if self.nodes[id.index()].life != life {
                    return;
                }
                if let Some((stream, side)) = via {
                    self.received(stream, side, Some(received));
                }
                if self.nodes[id.index()].life == life {
                    self.after_change(id);
                }
            }
            Err(error) => {
                if let Some((stream, side)) = via {
                    self.received(stream, side, None);
                }
                self.fail(id, &error.0);
            }
        }
    }

    /// Runs a slice of what is due.
    fn settle(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        let Some(store) = &mut node.store else { return };
        if node.pending == 0 {
            return;
        }
        match store.settle(SETTLE_RUNS) {
            Ok(settled) => {
                let paused = settled.system_paused.or(settled.app_paused);
                self.nodes[id.index()].pending = match paused {
                    Some(_) => 0,
                    None => settled.pending,
                };
                if let Some(fault) = paused {
                    self.violate(format!("{id} pauses: {fault}"));
                }
                self.stats.runs += settled.runs;
                if settled.runs > 0 {
                    self.note(id, format_args!("runs {}", settled.runs));
                    self.after_change(id);
                }
            }
            Err(error) => self.fail(id, &error.0),
        }
    }

    /// If a read failed, here or anywhere: opens the store anew if its disk is to blame.
    fn examine(&mut self, id: NodeId) {
        if let Some(store) = &self.nodes[id.index()].store
            && let Err(error) = store.examine()
        {
            self.fail(id, &format!("a read failed: {error}"));
        }
    }

    fn after_change(&mut self, id: NodeId) {
        if let Some(store) = &mut self.nodes[id.index()].store {
            let changes = store.take_changes();
            if changes.all || changes.cells.iter().any(|c| c.lane() == Lane::System) {
                self.nodes[id.index()].members = None;
                self.look_at_topic(id);
            }
            if changes.all || !changes.entries.is_empty() || !changes.cells.is_empty() {
                self.changed(id);
            }
        }
        self.check_now(id);
    }

    /// Does what time asks of a node.
    pub(crate) fn tick(&mut self, id: NodeId) {
        let life = self.nodes[id.index()].life;
        let at = self.now_ms + TICK_MS;
        self.queue.at(at, Event::Tick { node: id, life });
        if self.nodes[id.index()].store.is_none() && self.nodes[id.index()].founded {
            self.open(id);
        }
        let now_ms = self.clock(id);
        if let Some(store) = &mut self.nodes[id.index()].store {
            match store.tick(now_ms) {
                Ok(received) if received.witnessed.is_empty() => {}
                Ok(_) => {
                    self.nodes[id.index()].pending = self.nodes[id.index()].pending.max(1);
                    self.work_soon(id);
                    self.after_change(id);
                }
                Err(error) => self.fail(id, &error.0),
            }
        }
        if self.nodes[id.index()].life == life {
            self.look_at_conns(id);
            self.dial(id);
        }
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
        if node.store.is_some() || node.founded {
            return;
        }
        // Whatever an attempt before left there was never completed.
        node.disks = Disks::empty();
        let key = node.key.clone();
        let store = log_disk::files(&node.disks.log, &node.disks.state)
            .map_err(CreateError::from)
            .and_then(|files| Store::adopt(files, engine, key, genesis, now_ms));
        match store {
            Ok(store) => {
                node.acknowledged.push(store.id().into());
                node.founded = true;
                node.pending = 1;
                self.take_over(id, store);
                self.note(id, format_args!("adopts the store"));
                self.work_soon(id);
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

    /// The disk failed under a node. If it was the power, the machine is off; else the store is opened again.
    pub(crate) fn fail(&mut self, id: NodeId, reason: &str) {
        self.note(id, format_args!("fails: {reason}"));
        let node = &mut self.nodes[id.index()];
        if node.disks.power.failed() && node.dies_with_disk {
            return self.crash(id);
        }
        node.store = None;
        node.jobs.clear();
        self.reload(id);
        self.gossip_stops(id);
        self.drop_ends(id);
    }

    /// Gives a node whose process goes on, or starts anew, the files as the system sees them.
    fn reload(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        let room = node.disks.log.room();
        node.disks = Disks::with_images(node.disks.log.live(), node.disks.state.live());
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
        node.store = None;
        let room = node.disks.log.room();
        node.disks = Disks::with_images(images.0, images.1);
        node.disks.log.set_room(room);
        node.power = Machine::Off;
        node.life += 1;
        node.fuse = None;
        node.dies_with_disk = false;
        node.working = false;
        node.pending = 0;
        node.jobs.clear();
        node.trusted.clear();
        self.gossip_dies(id);
        self.drop_ends(id);
        let node = &mut self.nodes[id.index()];
        node.retries.clear();
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
        self.open(id);
        let life = self.nodes[id.index()].life;
        self.queue.at(self.now_ms, Event::Tick { node: id, life });
        self.with_child(|child| child.start(id));
    }

    /// Opens the store of a node from its disks, and sees that nothing is missing.
    fn open(&mut self, id: NodeId) {
        let now_ms = self.clock(id);
        let (engine, node) = (self.engine.clone(), &mut self.nodes[id.index()]);
        if !node.founded {
            return;
        }
        let (key, disks) = (node.key.clone(), node.disks.clone());
        let opened = log_disk::repaired(&disks.log, &disks.state, &disks.power)
            .map_err(OpenError::from)
            .and_then(|(files, state)| {
                node.disks.state = state;
                Store::open(files, engine, key, now_ms)
            });
        let store = match opened {
            Ok(store) => store,
            // A full disk, and one that fails, may be repaired; anything else is a loss.
            Err(error) if may_be_repaired(&disks) => {
                self.note(id, format_args!("does not open: {error}"));
                return self.reload(id);
            }
            // The store was being made: nobody was told of it.
            Err(error) if node.acknowledged.is_empty() && was_never_completed(&error) => {
                node.founded = false;
                self.note(id, format_args!("begins anew: {error}"));
                return;
            }
            Err(error) => return self.violate(format!("{id} does not open: {error}")),
        };
        let snapshot = store.snapshot();
        let lost = node
            .acknowledged
            .iter()
            .find(|entry| match snapshot.contains(entry) {
                Ok(there) => !there,
                Err(_) => !may_be_repaired(&disks),
            });
        let lost = lost.map(|entry| short(&entry.0));
        node.pending = 1;
        node.members = None;
        self.take_over(id, store);
        if let Some(lost) = lost {
            self.violate(format!("{id} has lost {lost}, which was acknowledged"));
        }
        self.note(id, format_args!("opens {}", snapshot.summary().count));
        self.look_at_topic(id);
        self.work_soon(id);
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
        node.disks = Disks::with_images(log, state);
        // Whoever restores a backup gives up what is younger, at this node.
        node.acknowledged.clear();
        node.restored = true;
        self.note(id, format_args!("is put back to its backup"));
    }
}

/// Whether these disks are full, or fail: another try may find them whole.
fn may_be_repaired(disks: &Disks) -> bool {
    disks.log.room().is_some() || disks.power.failed() || disks.reads.failed()
}

/// Whether the machine failed while the store was being made: nobody was told of it.
fn was_never_completed(error: &OpenError) -> bool {
    matches!(error, OpenError::Empty)
}

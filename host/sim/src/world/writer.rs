//! The writer of a node's store in virtual time: the kernel's value, with a queue, a clock and disks around it.
//!
//! What a writer does, and in which order, is decided there. Here is when its steps are taken, and what its effects
//! do to the rest of the network.

use lattice_format::{Lane, VerifiedHeader};
use lattice_kernel::clock;
use lattice_kernel::writer::{self, Effect, Group, Input, Next, Rebuild};
use lattice_kernel::{Changes, OpenError, Received, StorageError, Store};
use lattice_testing::log_disk;

use crate::world::World;
use crate::world::node::{Disks, Given, Job, Machine, NodeId, Via, Writer};
use crate::world::queue::Event;
use crate::world::trace::short;

impl World {
    /// Hands the writer of a node something to do. A machine that does not run, or has no store, forgets it.
    pub(crate) fn job(&mut self, id: NodeId, job: Job) {
        let node = &mut self.nodes[id.index()];
        if matches!(node.power, Machine::Off) || node.writer.is_none() {
            return;
        }
        node.jobs.push_back(job);
        self.work_soon(id);
    }

    /// Has the writer of a node take its next turn when there is something to do.
    pub(crate) fn work_soon(&mut self, id: NodeId) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[id.index()];
        let Some(writer) = &node.writer else { return };
        let at_ms = match writer.next() {
            Next::Until(at_ms) if node.jobs.is_empty() => at_ms.max(now_ms),
            Next::Job if node.jobs.is_empty() => return,
            _ => now_ms + node.disk_ms,
        };
        if node.turn_at_ms.is_some_and(|planned| planned <= at_ms) {
            return;
        }
        node.turn_at_ms = Some(at_ms);
        node.turn += 1;
        let (life, turn) = (node.life, node.turn);
        let event = Event::Work {
            node: id,
            life,
            turn,
        };
        self.queue.at(at_ms, event);
    }

    /// Tells the writers of stores that somebody failed to read.
    pub(crate) fn hear_of_reads(&mut self) {
        let failed = std::mem::take(&mut *self.failed_reads.lock().expect("no holder panics"));
        for id in failed {
            // One read has failed, and the disk is whole again.
            self.nodes[id.index()]
                .disks
                .reads
                .fail_after(i64::MAX as u64);
            self.note(id, format_args!("hears of a read that failed"));
            self.job(id, Job::ReadFailed);
        }
    }

    /// Gives a store that was just made a writer.
    pub(crate) fn take_over(&mut self, id: NodeId, store: Store) {
        self.watch_reads(id, &store);
        let writer = Writer::new(store, self.moment(id));
        self.nodes[id.index()].writer = Some(writer);
        self.work_soon(id);
    }

    fn watch_reads(&self, id: NodeId, store: &Store) {
        let failed = self.failed_reads.clone();
        store.on_failed_read(move || failed.lock().expect("no holder panics").push(id));
    }

    /// A turn of a writer, unless an earlier one took its place: what is done without a pause takes no time.
    pub(crate) fn work(&mut self, id: NodeId, turn: u64) {
        let node = &mut self.nodes[id.index()];
        if node.turn != turn {
            return;
        }
        node.turn_at_ms = None;
        let life = node.life;
        loop {
            let Some(input) = self.input(id) else { break };
            self.writer_step(id, input);
            let node = &self.nodes[id.index()];
            if node.life != life {
                return;
            }
            let next = node.writer.as_ref().map(Writer::next);
            if !matches!(next, Some(Next::Gather | Next::Continue)) {
                break;
            }
        }
        self.work_soon(id);
    }

    /// What the writer of a node is given now, if anything.
    fn input(&mut self, id: NodeId) -> Option<Given> {
        let node = &mut self.nodes[id.index()];
        let next = node.writer.as_ref()?.next();
        let job = match next {
            Next::Continue => None,
            _ => node.jobs.pop_front(),
        };
        let Some(job) = job else {
            let waits = match next {
                Next::Until(at_ms) => at_ms > self.now_ms,
                Next::Job => true,
                _ => false,
            };
            return (!waits).then_some(Input::Nothing);
        };
        let published = node.writer.as_ref().and_then(Writer::store);
        node.due_before = published.is_none_or(|s| s.published().summary().pending > 0);
        Some(Input::Job(match job {
            Job::Call { lane, calls } => writer::Job::Call {
                lane,
                calls,
                chain: node.fresh_chain(id),
                accepts_leap: false,
                token: (),
            },
            Job::Receive(delivery) => {
                let mut seed = [0; 32];
                seed[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
                writer::Job::Receive {
                    verifier: self.verified.verifier(seed),
                    from: delivery.from,
                    token: Via {
                        session: delivery.via,
                        sent: delivery.entries.len() as u64,
                    },
                    entries: delivery.entries,
                }
            }
            Job::RestartChain => writer::Job::Ask(self.restart_chain(id)),
            Job::ReadFailed => writer::Job::ReadFailed,
            Job::Rebuild => writer::Job::Rebuild,
        }))
    }

    /// Takes a step of a writer, and those that its effects lead to.
    fn writer_step(&mut self, id: NodeId, input: Given) {
        self.hear_clock(id, clock::Input::Use);
        let life = self.nodes[id.index()].life;
        let mut input = Some(input);
        let mut effects = Vec::new();
        while let Some(next) = input.take() {
            let now = self.moment(id);
            let node = &mut self.nodes[id.index()];
            let Some(writer) = &mut node.writer else {
                return;
            };
            writer.handle(next, now, &mut effects);
            let runs = writer.runs() - std::mem::replace(&mut node.runs, writer.runs());
            if runs > 0 {
                self.stats.runs += runs;
                self.note(id, format_args!("runs {runs}"));
            }
            for effect in effects.drain(..) {
                input = self.write_effect(id, effect).or(input);
                if self.nodes[id.index()].life != life {
                    return;
                }
            }
        }
    }

    fn write_effect(&mut self, id: NodeId, effect: Effect<(), Via>) -> Option<Given> {
        match effect {
            Effect::Show { paused, .. } => {
                if let Some(fault) = paused {
                    self.violate(format!("{id} pauses: {fault}"));
                }
                self.check_now(id);
            }
            Effect::Answer(group) => self.answer(id, group),
            Effect::Received { token, received } => self.taken(id, token, received),
            Effect::Tell { changes, written } => {
                self.tell(id, &changes);
                if !written.is_empty() {
                    self.announce(id, written);
                }
            }
            // They stay in the store, where the checks look for them.
            Effect::Notices(Ok(_)) => {}
            Effect::Notices(Err(error)) => self.note(id, format_args!("notices: {error}")),
            Effect::Rebuild(Rebuild::Failed(reason)) => {
                self.note(id, format_args!("is not rebuilt: {reason}"));
            }
            Effect::Rebuild(_) => {}
            Effect::Stop(reason) => self.fail(id, &reason),
            Effect::Open => return self.open(id).map(|store| Input::Opened(Box::new(store))),
            Effect::Closed(_) => self.note(id, format_args!("closes its store")),
        }
        None
    }

    /// Callers are told what their calls came to.
    fn answer(&mut self, id: NodeId, group: Group<()>) {
        self.check_signed(id, &group.written);
        for hash in group.written.iter().map(VerifiedHeader::id) {
            self.nodes[id.index()].acknowledged.push(hash);
            self.note(id, format_args!("writes {}", short(&hash.0)));
        }
        for ((), told) in group.answers {
            self.stats.calls += 1;
            match told {
                Ok(told) => {
                    self.stats.refused += u64::from(!told.outcome.is_ok());
                    let digest = told.outcome.digest();
                    self.note(id, format_args!("tells {}", short(&digest.0)));
                    self.nodes[id.index()].last_told = Some(told.outcome);
                }
                Err(error) => {
                    self.note(id, format_args!("cannot call: {error}"));
                    self.follow_remedy(id, &error);
                }
            }
        }
    }

    /// The session that entries came through is told what became of them.
    fn taken(&mut self, id: NodeId, via: Via, received: Result<Received, StorageError>) {
        if let Ok(received) = &received {
            self.stats.received += via.sent;
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
            self.nodes[id.index()]
                .acknowledged
                .extend(&received.witnessed);
        }
        if let Some((stream, side)) = via.session {
            self.received(stream, side, received.ok());
        }
    }

    /// Sessions hear that the log has grown, and everything that depends on who is a member.
    fn tell(&mut self, id: NodeId, changes: &Changes) {
        if changes.all || changes.cells.iter().any(|c| c.lane() == Lane::System) {
            self.nodes[id.index()].members = None;
            self.look_at_topic(id);
        }
        self.changed(id);
    }

    /// Opens the store of a node from its disks, and sees that nothing is missing.
    fn open(&mut self, id: NodeId) -> Option<Store> {
        let now_ms = self.clock(id);
        let (engine, node) = (self.engine.clone(), &mut self.nodes[id.index()]);
        let (key, disks) = (node.key.clone(), node.disks.clone());
        let opened = log_disk::repaired(&disks.log, &disks.state, &disks.power)
            .map_err(OpenError::from)
            .and_then(|(files, state)| {
                node.disks.state = state;
                Store::open(files, engine, key, now_ms)
            });
        let mut store = match opened {
            Ok(store) => store,
            // A full disk, and one that fails, may be repaired; anything else is a loss.
            Err(error) if may_be_repaired(&disks) => {
                self.note(id, format_args!("does not open: {error}"));
                self.reload(id);
                return None;
            }
            // The store was being made: nobody was told of it.
            Err(error) if node.acknowledged.is_empty() && was_never_completed(&error) => {
                node.founded = false;
                node.writer = None;
                self.note(id, format_args!("begins anew: {error}"));
                return None;
            }
            Err(error) => {
                self.violate(format!("{id} does not open: {error}"));
                return None;
            }
        };
        if let Some(aside) = *node.aside.lock().expect("no holder panics") {
            store.set_aside(aside);
        }
        let snapshot = store.snapshot();
        let lost = node
            .acknowledged
            .iter()
            .find(|entry| match snapshot.contains(entry) {
                Ok(there) => !there,
                Err(_) => !may_be_repaired(&disks),
            });
        let lost = lost.map(|entry| short(&entry.0));
        node.members = None;
        self.watch_reads(id, &store);
        if let Some(lost) = lost {
            self.violate(format!("{id} has lost {lost}, which was acknowledged"));
        }
        self.note(id, format_args!("opens {}", snapshot.summary().count));
        Some(store)
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

//! The writer of one store as a value: what it does next, and who is told what after which commit.
//!
//! A store has a single writer. The daemon drives it by a thread with a queue, the simulator by virtual time; what a
//! writer decides is here once, and both run it. It starts no thread, waits for nothing and reads no clock: jobs,
//! times and random numbers are arguments, and what the rest of the node is to do are effects.
//!
//! Calls that wait share one durable commit. Between two groups of them late entries are run again in slices, so that
//! replaying a peer's past never holds up fresh calls for long. After an error of its disk the writer lets its store
//! go, and asks with its next tick for it to be opened anew. A writer with nothing to do sleeps.

use lattice_format::{Call, ChainId, DeviceKey, IntentionId, Lane, SignedHeader, VerifiedHeader};

use crate::fold::core::Changes;
use crate::limits::{GROUP_CALLS_MAX, SETTLE_RUNS_BUSY, SETTLE_RUNS_IDLE, TICK_MS, TICKS_IDLE};
use crate::log::notice::Notice;
use crate::run::engine::HostFault;
use crate::storage::error::StorageError;
use crate::store::Store;
use crate::store::author::{CallError, Told};
use crate::store::commit::CommitError;
use crate::store::receive::Received;
use crate::store::snapshot::Snapshot;
use crate::store::verification::VerifyBatch;

/// What a writer is asked for. `C` stands for who waits for a call, `R` for who waits for entries to be taken; both
/// come back with the answer. `V` verifies what peers sent. A job that comes while the store is not open is dropped,
/// and what it holds with it.
pub enum Job<C, R, V> {
    /// Run calls as one transaction.
    Call {
        /// The lane of all of them.
        lane: Lane,
        /// What is called.
        calls: Vec<Call>,
        /// 64 fresh random bits, for when this device must start a chain.
        chain: ChainId,
        /// Who waits for the outcome.
        token: C,
    },
    /// Take entries of a peer.
    Receive {
        /// The peer.
        from: DeviceKey,
        /// Headers, and bodies where they came.
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        /// What verifies the signatures.
        verifier: V,
        /// Who waits for what became of them.
        token: R,
    },
    /// Ask the store something that no snapshot knows, or acknowledge something.
    Ask(Box<dyn FnOnce(&mut Store) + Send>),
    /// Something that stopped the store may have changed, such as code that arrived.
    Wake,
    /// Somebody's read of the store failed: see whether its disk did.
    ReadFailed,
    /// Drop the state and fold the log again. Until [`Rebuild::Done`] or [`Rebuild::Failed`] no other job is done.
    Rebuild,
    /// Make everything durable and end.
    Close,
}

impl<C, R, V> std::fmt::Debug for Job<C, R, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Call { .. } => "Call",
            Self::Receive { .. } => "Receive",
            Self::Ask(_) => "Ask",
            Self::Wake => "Wake",
            Self::ReadFailed => "ReadFailed",
            Self::Rebuild => "Rebuild",
            Self::Close => "Close",
        })
    }
}

/// What a writer is given.
pub enum Input<C, R, V> {
    /// Something to do.
    Job(Job<C, R, V>),
    /// No job waits, or none is asked for.
    Nothing,
    /// The store was opened, as [`Effect::Open`] asked.
    Opened(Box<Store>),
    /// The node keeps the notices with these numbers now.
    Kept(Vec<u64>),
}

/// The time, by both of the clocks that a writer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The time by which entries are written, in milliseconds since the Unix epoch. It may jump.
    pub wall_ms: u64,
    /// Milliseconds since some moment. It only rises.
    pub elapsed_ms: u64,
}

/// What a writer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: give it [`Input::Nothing`], and no job.
    Continue,
    /// Calls that wait now share the commit of those that have run: give it the next job, or [`Input::Nothing`] when
    /// none waits.
    Gather,
    /// Late entries are due: give it a job if one waits, else [`Input::Nothing`].
    Poll,
    /// Give it a job, or [`Input::Nothing`] when so much has elapsed.
    Until(u64),
    /// Give it a job, whenever one comes.
    Job,
}

/// What a commit of calls comes to.
#[derive(Debug)]
pub struct Group<C> {
    /// The new entries, as they are in the log; none when the commit failed.
    pub written: Vec<VerifiedHeader>,
    /// Who waits, and for what each was told. Calls that are in the log stand in `written` in the same order.
    pub answers: Vec<(C, Result<Told, CallError>)>,
}

/// How far a rebuild is.
#[derive(Debug)]
pub enum Rebuild {
    /// So many entries wait to be run.
    Pending(u64),
    /// All were run; what the state is now.
    Done(Box<Snapshot>),
    /// It failed.
    Failed(String),
}

/// What the rest of the node is to do, in this order.
#[derive(Debug)]
pub enum Effect<C, R> {
    /// Readers see this from now on. It comes before every answer, so that who was answered finds what it wrote.
    Show {
        /// What the log holds durably.
        snapshot: Snapshot,
        /// Why a lane stands still.
        paused: Option<HostFault>,
        /// Whether anything differs from what was shown before.
        moved: bool,
    },
    /// Callers are answered.
    Answer(Group<C>),
    /// A peer's entries were taken; what was witnessed is durable.
    Received {
        /// Who waits.
        token: R,
        /// What became of them.
        received: Result<Received, StorageError>,
    },
    /// The rest of the world hears of this, after those who wait.
    Tell {
        /// Cells that changed, and entries that came.
        changes: Changes,
        /// Those that this node wrote itself.
        written: Vec<IntentionId>,
    },
    /// Notices that the node should keep, with their numbers. Give [`Input::Kept`] once it does: until then they
    /// are handed over again. Or why they cannot be read.
    Notices(Result<Vec<(u64, Notice)>, StorageError>),
    /// How far a rebuild is.
    Rebuild(Rebuild),
    /// The disk failed, for this reason, and the store is closed.
    Stop(String),
    /// Open the store, and give [`Input::Opened`] if that succeeds. Asked once a tick until it does.
    Open,
    /// The writer has ended; it takes nothing more. Or what was not made durable.
    Closed(Result<(), StorageError>),
}

/// A store's writer. See [`Writer::next`] and [`Writer::handle`].
#[derive(Debug)]
pub struct Writer<C, R, V> {
    /// `None` after its disk failed, until it is opened again.
    store: Option<Store>,
    /// Calls that have run and are not committed yet.
    group: Vec<(C, Result<Told, CallError>)>,
    /// A job that ended the group before it, and is next.
    kept: Option<Job<C, R, V>>,
    /// A job was done: a slice of late entries comes before the next one.
    slice_due: bool,
    rebuilding: bool,
    /// Entries that wait to be run, as far as known; not 0 means that it is worth asking.
    pending: u64,
    /// Nothing can be run until a tick or a job gives it another try.
    stands: bool,
    paused: Option<HostFault>,
    tick_at_ms: u64,
    /// Ticks in a row of an open store that found nothing to do and nothing that waits for time.
    quiet_ticks: u32,
    runs: u64,
}

impl<C, R, V: VerifyBatch> Writer<C, R, V> {
    /// The writer of a store that is open. It ticks once so much has elapsed as `now` says and a tick.
    pub fn new(store: Store, now: Now) -> Self {
        let mut writer = Self::closed(now);
        writer.tick_at_ms = now.elapsed_ms + TICK_MS;
        writer.store = Some(store);
        writer
    }

    /// The writer of a store that is not open yet: it asks for that at once.
    pub fn closed(now: Now) -> Self {
        Self {
            store: None,
            group: Vec::new(),
            kept: None,
            slice_due: false,
            rebuilding: false,
            pending: 1,
            stands: false,
            paused: None,
            tick_at_ms: now.elapsed_ms,
            quiet_ticks: 0,
            runs: 0,
        }
    }

    /// The store, unless it is closed.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Late entries that were run again so far.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// What it waits for. Ask after each [`Writer::handle`], once its effects are carried out.
    pub fn next(&self) -> Next {
        if !self.group.is_empty() {
            Next::Gather
        } else if self.slice_due || self.kept.is_some() || self.rebuilding {
            Next::Continue
        } else if self.wants_to_settle() {
            Next::Poll
        } else if self.quiet_ticks < TICKS_IDLE {
            Next::Until(self.tick_at_ms)
        } else {
            Next::Job
        }
    }

    /// Takes one step, and adds what comes of it to `effects`, to be carried out before the next.
    ///
    /// # Panics
    /// When it is given a job although it asked for none.
    pub fn handle(&mut self, input: Input<C, R, V>, now: Now, effects: &mut Vec<Effect<C, R>>) {
        match input {
            Input::Job(job) => {
                let next = self.next();
                assert!(next != Next::Continue, "{job:?} while no job is asked for");
                if self.group.is_empty() || matches!(job, Job::Call { .. }) {
                    self.serve(job, now, effects);
                } else {
                    self.kept = Some(job);
                    self.commit(now, effects);
                }
            }
            Input::Nothing if !self.group.is_empty() => self.commit(now, effects),
            Input::Nothing if self.slice_due => {
                self.slice_due = false;
                self.go_on(SETTLE_RUNS_BUSY, now, effects);
            }
            Input::Nothing => match self.kept.take() {
                Some(job) => self.serve(job, now, effects),
                None if self.rebuilding => self.rebuild_on(effects),
                None => self.go_on(SETTLE_RUNS_IDLE, now, effects),
            },
            Input::Opened(store) => self.take_over(*store, effects),
            Input::Kept(numbers) => {
                if let Some(store) = &mut self.store
                    && let Err(error) = store.acknowledge(&numbers)
                {
                    effects.push(Effect::Notices(Err(error)));
                }
            }
        }
    }

    /// Whether there are entries to run, and nothing is known to stand in their way.
    fn wants_to_settle(&self) -> bool {
        self.pending > 0 && !self.stands && self.store.is_some()
    }

    fn serve(&mut self, job: Job<C, R, V>, now: Now, effects: &mut Vec<Effect<C, R>>) {
        self.quiet_ticks = 0;
        self.slice_due = true;
        match job {
            Job::Call {
                lane,
                calls,
                chain,
                token,
            } => {
                let Some(store) = &mut self.store else { return };
                let told = store.call(lane, calls, now.wall_ms, chain);
                self.group.push((token, told));
                // What governance cuts off is void from the commit on, and the next call is to see that.
                if self.group.len() >= GROUP_CALLS_MAX || lane == Lane::System {
                    self.commit(now, effects);
                }
            }
            Job::Receive {
                from,
                entries,
                verifier,
                token,
            } => {
                let Some(store) = &mut self.store else { return };
                let received = store.receive(from, entries, now.wall_ms, verifier);
                self.received(token, received, effects);
            }
            Job::Ask(ask) => {
                let Some(store) = &mut self.store else { return };
                ask(store);
                self.publish(effects);
            }
            Job::Wake => {
                self.stands = false;
                self.pending = self.pending.max(1);
            }
            // It looks after each job.
            Job::ReadFailed => {}
            Job::Rebuild => self.rebuild(now, effects),
            Job::Close => {
                let closed = self.store.take().map(|store| store.close(now.wall_ms));
                effects.push(Effect::Closed(closed.unwrap_or(Ok(()))));
            }
        }
    }

    /// Makes the calls that have run durable, and answers their callers.
    fn commit(&mut self, now: Now, effects: &mut Vec<Effect<C, R>>) {
        let mut answers = std::mem::take(&mut self.group);
        let Some(store) = &mut self.store else { return };
        match store.commit(now.wall_ms) {
            Ok(written) => {
                let changes = self.show(effects);
                let ids = written.iter().map(VerifiedHeader::id).collect();
                effects.push(Effect::Answer(Group { written, answers }));
                tell(changes, ids, effects);
            }
            Err(error) => {
                let why = match &error {
                    CommitError::Unsigned(error) => error.clone(),
                    CommitError::Storage(error) => CallError::from(error.clone()),
                };
                for (_, told) in &mut answers {
                    // What was never to enter the log is not lost.
                    if matches!(told, Ok(told) if told.outcome.is_ok()) {
                        *told = Err(why.clone());
                    }
                }
                let written = Vec::new();
                effects.push(Effect::Answer(Group { written, answers }));
                match error {
                    CommitError::Unsigned(_) => {
                        let changes = self.show(effects);
                        tell(changes, Vec::new(), effects);
                    }
                    // After a failed write the database takes no other: it is opened anew.
                    CommitError::Storage(error) => self.stop(error.to_string(), effects),
                }
            }
        }
    }

    /// Runs what waits only for the fold, so that whoever watches sees it at once, and answers the peer's session.
    fn received(
        &mut self,
        token: R,
        received: Result<Received, StorageError>,
        effects: &mut Vec<Effect<C, R>>,
    ) {
        let failed = match &received {
            Ok(_) => {
                self.pending = self.pending.max(1);
                self.slice(SETTLE_RUNS_BUSY).err()
            }
            Err(error) => Some(error.clone()),
        };
        match failed {
            None => {
                let changes = self.show(effects);
                effects.push(Effect::Received { token, received });
                tell(changes, Vec::new(), effects);
                self.pass_notices(effects);
            }
            Some(error) => {
                effects.push(Effect::Received { token, received });
                self.stop(error.to_string(), effects);
            }
        }
    }

    /// Does what is due between two jobs.
    fn go_on(&mut self, runs: u64, now: Now, effects: &mut Vec<Effect<C, R>>) {
        self.examine(effects);
        if self.wants_to_settle() {
            self.settle(runs, effects);
        }
        if now.elapsed_ms >= self.tick_at_ms {
            self.tick_at_ms = now.elapsed_ms + TICK_MS;
            self.tick(now, effects);
        }
    }

    /// If a read failed, here or anywhere: has the store opened anew if its disk is to blame. Else it goes on, since
    /// it would be no better off.
    fn examine(&mut self, effects: &mut Vec<Effect<C, R>>) {
        if let Some(store) = &self.store
            && let Err(error) = store.examine()
        {
            self.stop(format!("a read failed: {error}"), effects);
        }
    }

    /// Runs entries that are due, at most so many.
    fn slice(&mut self, runs: u64) -> Result<(), StorageError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        let settled = store.settle(runs)?;
        self.runs += settled.runs;
        self.pending = settled.pending;
        self.paused = settled.system_paused.or(settled.app_paused);
        self.stands = self.paused.is_some();
        Ok(())
    }

    fn settle(&mut self, runs: u64, effects: &mut Vec<Effect<C, R>>) {
        match self.slice(runs) {
            Ok(()) => {
                self.publish(effects);
                self.pass_notices(effects);
            }
            Err(error) => self.stop(error.to_string(), effects),
        }
    }

    /// Does what time asks of the store.
    fn tick(&mut self, now: Now, effects: &mut Vec<Effect<C, R>>) {
        let Some(store) = &mut self.store else {
            return effects.push(Effect::Open);
        };
        match store.tick(now.wall_ms) {
            Ok(received) if received.witnessed.is_empty() => {}
            Ok(_) => self.pending = self.pending.max(1),
            Err(error) => return self.stop(error.to_string(), effects),
        }
        let parked = store.waiting_counts().1 > 0;
        if std::mem::take(&mut self.stands) {
            // Whatever stopped it may be over, and a question of governance that found no answer is no run.
            self.pending = self.pending.max(1);
        }
        match parked || self.pending > 0 {
            true => self.quiet_ticks = 0,
            false => self.quiet_ticks += 1,
        }
        self.publish(effects);
    }

    /// The disk failed: nothing goes on before the store is opened again.
    fn stop(&mut self, reason: String, effects: &mut Vec<Effect<C, R>>) {
        self.store = None;
        self.stands = false;
        self.paused = None;
        effects.push(Effect::Stop(reason));
    }

    fn take_over(&mut self, store: Store, effects: &mut Vec<Effect<C, R>>) {
        self.store = Some(store);
        self.pending = 1;
        if let Some(mut changes) = self.show(effects) {
            // Who watches may not have seen all that became durable before.
            changes.all = true;
            tell(Some(changes), Vec::new(), effects);
        }
    }

    /// Shows what the log holds now, and tells what changed since the last time.
    fn publish(&mut self, effects: &mut Vec<Effect<C, R>>) {
        let changes = self.show(effects);
        tell(changes, Vec::new(), effects);
    }

    /// Shows what the log holds now. Returns what changed since the last time; `None` while the store is closed.
    fn show(&mut self, effects: &mut Vec<Effect<C, R>>) -> Option<Changes> {
        let store = self.store.as_mut()?;
        let changes = store.take_changes();
        let snapshot = store.snapshot();
        // A commit that changes governance runs only a part of what that makes due.
        self.pending = self.pending.max(snapshot.summary().pending);
        effects.push(Effect::Show {
            snapshot,
            paused: self.paused.clone(),
            moved: has_moved(&changes),
        });
        Some(changes)
    }

    fn pass_notices(&mut self, effects: &mut Vec<Effect<C, R>>) {
        let Some(store) = &self.store else { return };
        match store.notices() {
            Ok(notices) if notices.is_empty() => {}
            notices => effects.push(Effect::Notices(notices)),
        }
    }

    fn rebuild(&mut self, now: Now, effects: &mut Vec<Effect<C, R>>) {
        self.rebuilding = true;
        self.slice_due = false;
        let Some(store) = &mut self.store else { return };
        match store.rebuild(now.wall_ms) {
            Ok(()) => {
                self.pending = 1;
                self.stands = false;
                self.paused = None;
            }
            Err(error) => self.stop(error.to_string(), effects),
        }
    }

    /// Runs a slice of a rebuild, or ends it.
    fn rebuild_on(&mut self, effects: &mut Vec<Effect<C, R>>) {
        if self.wants_to_settle() {
            self.settle(SETTLE_RUNS_IDLE, effects);
            return effects.push(Effect::Rebuild(Rebuild::Pending(self.pending)));
        }
        self.rebuilding = false;
        self.slice_due = true;
        effects.push(Effect::Rebuild(match (&self.store, &self.paused) {
            (_, Some(fault)) => Rebuild::Failed(fault.to_string()),
            (Some(store), None) => Rebuild::Done(Box::new(store.snapshot())),
            (None, None) => Rebuild::Failed("the disk failed".into()),
        }));
    }
}

fn has_moved(changes: &Changes) -> bool {
    changes.all || !changes.cells.is_empty() || !changes.entries.is_empty()
}

/// Tells what changed, if anything did.
fn tell<C, R>(
    changes: Option<Changes>,
    written: Vec<IntentionId>,
    effects: &mut Vec<Effect<C, R>>,
) {
    if let Some(changes) = changes.filter(has_moved) {
        effects.push(Effect::Tell { changes, written });
    }
}

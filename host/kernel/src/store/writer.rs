//! The writer of one store as a value: what it does next, and who is told what after which commit.
//!
//! A store has a single writer. The daemon drives it by a thread with a queue, the simulator by virtual time; both run
//! this value. It starts no thread, waits for nothing and reads no clock: jobs, times and random numbers are
//! arguments, and what the rest of the node is to do is returned as effects.
//!
//! Calls that wait share one durable commit. Between two groups of calls late entries run in slices, so that replaying
//! a peer's past never holds up fresh calls for long. After an error of its disk the writer closes its store, and asks for
//! it to be opened anew, once at once and then once a tick. Until a tick has come, calls wait and entries of peers are
//! refused: a full disk can still be read. A writer with nothing to do sleeps.

use lattice_format::{IntentionId, Lane, VerifiedHeader};

use crate::clock::Verdict;
use crate::fold::core::Changes;
use crate::limits::{GROUP_CALLS_MAX, SETTLE_RUNS_BUSY, SETTLE_RUNS_IDLE, TICK_MS, TICKS_IDLE};
use crate::run::engine::HostFault;
use crate::storage::error::StorageError;
use crate::store::Store;
use crate::store::call_end::{CallError, Told};
use crate::store::commit::CommitError;
pub use crate::store::effect::{Effect, Group, Rebuild};
pub use crate::store::job::Job;
use crate::store::receive::Received;
use crate::store::unsure::{Unsure, refuse_all};
use crate::store::verification::VerifyBatch;

/// The inputs of a writer.
pub enum Input<C, R, V> {
    /// A job.
    Job(Job<C, R, V>),
    /// No job waits, or the writer asked for none.
    Nothing,
    /// The store was opened, as [`Effect::Open`] asked.
    Opened(Box<Store>),
    /// The node has stored the notices with these numbers, so the store may drop them.
    Kept(Vec<u64>),
}

/// The time, by both of the clocks that a writer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The time that entries get, and how the members of the store judge this node's clock. It may jump.
    pub clock: Verdict,
    /// Milliseconds since a fixed moment. It never falls.
    pub elapsed_ms: u64,
}

/// The input that a writer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The writer has work: give it [`Input::Nothing`], and no job.
    Continue,
    /// Calls have run and are not committed; calls that wait now share their commit. Give it the next job, or
    /// [`Input::Nothing`] when none waits.
    Gather,
    /// Runs are due: give it a job if one waits, else [`Input::Nothing`].
    Poll,
    /// Give it a job, or [`Input::Nothing`] once [`Now::elapsed_ms`] has reached this.
    Until(u64),
    /// The writer sleeps: give it a job when one comes.
    Job,
}

/// A store's writer. The shell alternates between [`Writer::next`] and [`Writer::handle`].
#[derive(Debug)]
pub struct Writer<C, R, V> {
    /// The store; `None` after its disk failed, until it is opened again.
    store: Option<Store>,
    /// Calls that have run and are not committed yet.
    group: Vec<(C, Result<Told, CallError>)>,
    /// A job that came after a group of calls. It is done next, once the group is committed.
    kept: Option<Job<C, R, V>>,
    /// Whether a slice of late entries comes before the next job, because a job was done.
    slice_due: bool,
    rebuilding: bool,
    /// The runs that are due, as far as is known. Any other number than 0 means that settling may have work.
    pending: u64,
    /// Whether a lane is paused, so that nothing is run until a tick or [`Job::Wake`].
    stands: bool,
    paused: Option<HostFault>,
    tick_at_ms: u64,
    /// Why nothing is written until the next tick: the disk has just failed.
    rests: Option<StorageError>,
    /// Calls that wait for that tick. They are refused if the disk fails again before.
    held: Vec<Job<C, R, V>>,
    /// Whether the store is to be opened anew before the next tick, and whether it was already.
    reopens: bool,
    reopened: bool,
    /// Calls whose commit failed. Whether the log has them is known once the store was opened anew.
    unsure: Option<Unsure<C>>,
    /// Whether the store was asked for and has not come.
    awaits_store: bool,
    /// Ticks in a row of an open store that found no run due and no entry parked.
    quiet_ticks: u32,
    runs: u64,
}

impl<C, R, V: VerifyBatch> Writer<C, R, V> {
    /// The writer of an open store. Its first tick is [`TICK_MS`] after `now`.
    pub fn new(store: Store, now: Now) -> Self {
        let mut writer = Self::closed(now);
        writer.tick_at_ms = now.elapsed_ms + TICK_MS;
        writer.store = Some(store);
        writer
    }

    /// The writer of a store that is not open yet. Its first step asks for the store to be opened.
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
            rests: None,
            held: Vec::new(),
            reopens: false,
            reopened: false,
            unsure: None,
            awaits_store: false,
            quiet_ticks: 0,
            runs: 0,
        }
    }

    /// The store, unless it is closed.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The number of runs that this writer has settled so far.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The input that the writer waits for. Ask after each [`Writer::handle`], once the effects are carried out.
    pub fn next(&self) -> Next {
        if !self.group.is_empty() {
            Next::Gather
        } else if self.slice_due || self.kept.is_some() || self.rebuilding || self.reopens {
            Next::Continue
        } else if self.wants_to_settle() {
            Next::Poll
        } else if self.quiet_ticks < TICKS_IDLE {
            Next::Until(self.tick_at_ms)
        } else {
            Next::Job
        }
    }

    /// Takes one step, and adds its effects to `effects`. They must be carried out before the next step.
    ///
    /// # Panics
    /// When it gets a job while [`Writer::next`] is [`Next::Continue`].
    pub fn handle(&mut self, input: Input<C, R, V>, now: Now, effects: &mut Vec<Effect<C, R>>) {
        if let Some(store) = &mut self.store {
            store.judge_by(now.clock);
        }
        let opened = matches!(input, Input::Opened(_));
        if std::mem::take(&mut self.awaits_store) && !opened {
            self.give_up(effects);
        }
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

    /// Whether runs are due, and no lane is known to be paused.
    fn wants_to_settle(&self) -> bool {
        self.pending > 0 && !self.stands && self.rests.is_none() && self.store.is_some()
    }

    fn serve(&mut self, job: Job<C, R, V>, now: Now, effects: &mut Vec<Effect<C, R>>) {
        self.quiet_ticks = 0;
        self.slice_due = true;
        let waits = matches!(job, Job::Call { .. } | Job::Receive { .. });
        if waits && self.group.is_empty() && !self.reopened && self.has_become_writable() {
            self.close();
            self.reopens = true;
            self.kept = Some(job);
            return;
        }
        let rests = self.rests.is_some() && self.store.is_some();
        match job {
            Job::Call { .. } if rests && self.held.len() < GROUP_CALLS_MAX => self.held.push(job),
            Job::Call { token, .. } if rests => self.refuse(vec![token], effects),
            Job::Call {
                lane,
                calls,
                chain,
                accepts_leap,
                token,
            } => {
                let Some(store) = &mut self.store else { return };
                let told = store.call_by(now.clock, lane, calls, chain, accepts_leap);
                self.group.push((token, told));
                // The commit makes void what governance has cut off, and the next call must see that.
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
                if let Some(error) = &self.rests {
                    let received = Err(error.clone());
                    return effects.push(Effect::Received { token, received });
                }
                let received = store.receive(from, entries, now.clock.wall_ms, verifier);
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
            // The slice that follows each job examines the store.
            Job::ReadFailed => {}
            Job::Rebuild => self.rebuild(now, effects),
            Job::Close => {
                self.give_up(effects);
                let closed = self
                    .store
                    .take()
                    .map(|store| store.close(now.clock.wall_ms));
                effects.push(Effect::Closed(closed.unwrap_or(Ok(()))));
            }
        }
    }

    /// Commits the calls that have run, and answers their callers.
    fn commit(&mut self, now: Now, effects: &mut Vec<Effect<C, R>>) {
        let mut answers = std::mem::take(&mut self.group);
        let Some(store) = &mut self.store else { return };
        let raises_notices = store.raises_notices();
        match store.commit(now.clock.wall_ms) {
            Ok(written) => {
                let changes = self.show(effects);
                if raises_notices {
                    self.pass_notices(effects);
                }
                let ids = written.iter().map(VerifiedHeader::id).collect();
                effects.push(Effect::Answer(Group { written, answers }));
                tell(changes, ids, effects);
            }
            Err(CommitError::Unsigned(error)) => {
                refuse_all(&mut answers, &error);
                effects.push(Effect::Answer(Group::unwritten(answers)));
                self.publish(effects);
            }
            // It is no worse off than before.
            Err(CommitError::Storage(error)) if store.is_read_only() => {
                refuse_all(&mut answers, &error.into());
                effects.push(Effect::Answer(Group::unwritten(answers)));
                self.publish(effects);
            }
            Err(CommitError::Storage(error)) => {
                let written = store.take_unsure();
                if written.is_empty() {
                    refuse_all(&mut answers, &error.clone().into());
                    effects.push(Effect::Answer(Group::unwritten(answers)));
                } else {
                    let group = Group { written, answers };
                    self.unsure = Some(Unsure::new(group, error.clone()));
                }
                // After a failed write the database takes no other write until it is opened anew.
                self.stop(error, effects);
            }
        }
    }

    /// Answers the callers of a commit that failed, although the log could not be asked whether it has the calls.
    fn give_up(&mut self, effects: &mut Vec<Effect<C, R>>) {
        if let Some(unsure) = self.unsure.take() {
            effects.push(Effect::Answer(unsure.given_up()));
        }
    }

    /// Runs a slice of what was received, so that watches see it at once, and answers the peer's session.
    fn received(
        &mut self,
        token: R,
        received: Result<Received, StorageError>,
        effects: &mut Vec<Effect<C, R>>,
    ) {
        let refuses = self.store.as_ref().is_some_and(Store::is_read_only);
        let failed = match &received {
            // It is no worse off than before.
            Err(_) if refuses => {
                return effects.push(Effect::Received { token, received });
            }
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
                self.stop(error, effects);
            }
        }
    }

    /// Does the work between two jobs: examines the store, settles at most `runs` runs, and ticks when it is time.
    fn go_on(&mut self, runs: u64, now: Now, effects: &mut Vec<Effect<C, R>>) {
        if std::mem::take(&mut self.reopens) {
            self.reopened = true;
            self.awaits_store = true;
            effects.push(Effect::Open);
            return;
        }
        self.examine(effects);
        if self.rests.is_none() {
            self.look_ahead(now, effects);
        }
        if self.wants_to_settle() {
            self.settle(runs, effects);
        }
        if now.elapsed_ms >= self.tick_at_ms {
            self.tick_at_ms = now.elapsed_ms + TICK_MS;
            (self.rests, self.reopens, self.reopened) = (None, false, false);
            self.tick(now, effects);
            for job in std::mem::take(&mut self.held) {
                self.serve(job, now, effects);
            }
        }
    }

    /// If any read of the store has failed, closes the store when its databases take no more transactions, so that it
    /// is opened anew. Otherwise only that read failed, and opening the store anew would not help.
    fn examine(&mut self, effects: &mut Vec<Effect<C, R>>) {
        let Some(store) = &self.store else { return };
        if self.has_become_writable() {
            self.close();
            self.reopens = !self.reopened;
        } else if let Err(error) = store.examine() {
            self.close();
            effects.push(Effect::Stop(format!("a read failed: {error}")));
        }
    }

    /// Raises a notice when what this device has signed lies too far ahead.
    fn look_ahead(&mut self, now: Now, effects: &mut Vec<Effect<C, R>>) {
        let Some(store) = &mut self.store else { return };
        match store.notice_ahead(now.clock.wall_ms) {
            Ok(true) => self.pass_notices(effects),
            Ok(false) => {}
            Err(error) => self.stop(error, effects),
        }
    }

    /// Does at most `runs` runs that are due.
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
            Err(error) => self.stop(error, effects),
        }
    }

    /// Does what the time asks for, or asks for the store to be opened.
    fn tick(&mut self, now: Now, effects: &mut Vec<Effect<C, R>>) {
        let Some(store) = &mut self.store else {
            self.awaits_store = true;
            return effects.push(Effect::Open);
        };
        match store.tick(now.clock.wall_ms) {
            Ok(received) if received.witnessed.is_empty() => {}
            Ok(_) => self.pending = self.pending.max(1),
            Err(error) => return self.stop(error, effects),
        }
        let parked = store.waiting_counts().1 > 0;
        if std::mem::take(&mut self.stands) {
            // The cause of the pause may be gone. If governance could not answer, no run is due that would show it.
            self.pending = self.pending.max(1);
        }
        let refuses = self.store.as_ref().is_some_and(Store::is_read_only);
        match parked || refuses || self.pending > 0 {
            true => self.quiet_ticks = 0,
            false => self.quiet_ticks += 1,
        }
        self.publish(effects);
    }

    /// Whether the store must be opened again to take what its disk takes by now.
    fn has_become_writable(&self) -> bool {
        self.store.as_ref().is_some_and(Store::has_become_writable)
    }

    /// Closes the store after a write to its disk failed. It is opened anew at once, so that it can be read.
    fn stop(&mut self, error: StorageError, effects: &mut Vec<Effect<C, R>>) {
        self.close();
        self.reopens = !self.reopened;
        let reason = error.to_string();
        self.rests = Some(error);
        let held = std::mem::take(&mut self.held).into_iter();
        let token = |job| match job {
            Job::Call { token, .. } => Some(token),
            _ => None,
        };
        self.refuse(held.filter_map(token).collect(), effects);
        effects.push(Effect::Stop(reason));
    }

    /// Answers callers with the error of the disk.
    fn refuse(&self, tokens: Vec<C>, effects: &mut Vec<Effect<C, R>>) {
        let Some(error) = &self.rests else { return };
        let refused = |token| (token, Err(error.clone().into()));
        let answers: Vec<_> = tokens.into_iter().map(refused).collect();
        if !answers.is_empty() {
            effects.push(Effect::Answer(Group::unwritten(answers)));
        }
    }

    fn close(&mut self) {
        self.store = None;
        self.stands = false;
        self.paused = None;
        self.quiet_ticks = 0;
    }

    fn take_over(&mut self, store: Store, effects: &mut Vec<Effect<C, R>>) {
        self.store = Some(store);
        self.pending = 1;
        let Some(mut changes) = self.show(effects) else {
            return;
        };
        let mut ids = Vec::new();
        if let (Some(unsure), Some(store)) = (self.unsure.take(), &self.store) {
            let group = unsure.resolved(&store.snapshot());
            ids.extend(group.written.iter().map(VerifiedHeader::id));
            effects.push(Effect::Answer(group));
        }
        // Watches may not have been told of everything that became durable before the store was closed.
        changes.all = true;
        tell(Some(changes), ids, effects);
    }

    /// Shows the store's snapshot, and tells what changed since the last one.
    fn publish(&mut self, effects: &mut Vec<Effect<C, R>>) {
        let changes = self.show(effects);
        tell(changes, Vec::new(), effects);
    }

    /// Shows the store's snapshot. Returns what changed since the last one; `None` while the store is closed.
    fn show(&mut self, effects: &mut Vec<Effect<C, R>>) -> Option<Changes> {
        let store = self.store.as_mut()?;
        let changes = store.take_changes();
        let snapshot = store.snapshot();
        // A commit that changes governance does only a part of the runs that become due.
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
        match store.rebuild(now.clock.wall_ms) {
            Ok(()) => {
                self.pending = 1;
                self.stands = false;
                self.paused = None;
            }
            Err(error) => self.stop(error, effects),
        }
    }

    /// Runs a slice of a rebuild, or ends the rebuild.
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

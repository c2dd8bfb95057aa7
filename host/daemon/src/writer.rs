//! The writer of one store: the thread that owns its `Store`.
//!
//! The kernel's store is synchronous and has a single writer, and guests run on its stack. Calls
//! that wait share one durable commit. Between two such groups late entries are run again in
//! slices, so that replaying a peer's past never holds up fresh calls for long. A writer with
//! nothing to do sleeps.

use std::sync::Arc;
use std::thread::JoinHandle;

use lattice_format::{Call, DeviceKey, IntentionId, Lane, SignedHeader, StoreId};
use lattice_kernel::run::engine::HostFault;
use lattice_kernel::{
    BatchVerifier, CallError, Changes, Notice, Outcome, Received, Snapshot, StorageError, Store,
    Told,
};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::limits::{GROUP_CALLS_MAX, TICK};
use crate::places::{Place, Places};

/// Late entries that are run again between two groups of fresh calls: how long these wait for each other.
const SETTLE_RUNS_BUSY: u64 = 32;
/// Late entries that are run again at once while no call waits.
const SETTLE_RUNS_IDLE: u64 = 256;
/// Ticks without any work after which a writer sleeps until it is asked for something.
const TICKS_IDLE: u32 = 3;

/// What became of a call, once it is durable.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// Where it stands; `None` when it never entered the log.
    pub(crate) place: Option<Place>,
}

/// What a writer is asked for.
pub(crate) enum Job {
    /// Run calls as one transaction.
    Call {
        lane: Lane,
        calls: Vec<Call>,
        reply: oneshot::Sender<Result<Done, CallError>>,
    },
    /// Take entries of a peer.
    Receive {
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        reply: oneshot::Sender<Result<Received, StorageError>>,
    },
    /// Ask the store something that no snapshot knows, or acknowledge something.
    With(Box<dyn FnOnce(&mut Store) + Send>),
    /// Something that stopped the store may have changed, such as code that arrived.
    Wake,
    /// Somebody's read of the store failed: see whether its disk did.
    ReadFailed,
    /// Drop the state and fold the log again.
    Rebuild(mpsc::Sender<RebuildStep>),
    /// Flush and end.
    Close,
}

/// How far a rebuild is.
#[derive(Debug)]
pub(crate) enum RebuildStep {
    /// So many entries wait to be run.
    Pending(u64),
    /// All were run; what the state is now.
    Done(Box<Snapshot>),
    /// It failed.
    Failed(String),
}

/// What a store shows to the rest of the node.
#[derive(Clone)]
pub(crate) struct Published {
    /// What its log holds durably.
    pub(crate) snapshot: Snapshot,
    /// Why a lane stands still.
    pub(crate) paused: Option<HostFault>,
    /// Why nothing can be written any more.
    pub(crate) broken: Option<String>,
    /// Whether its state is being folded again.
    pub(crate) rebuilding: bool,
}

/// What a writer tells the node about; called on the writer's thread.
pub(crate) trait Listener: Send + Sync {
    /// Cells changed or entries came; `written` are those that this node wrote itself.
    fn changed(&self, store: &StoreId, changes: &Changes, written: &[IntentionId]);
    /// Things to know were raised. They are acknowledged in the store when this returns `true`.
    fn noticed(&self, store: &StoreId, notices: &[Notice]) -> bool;
    /// The time by which a store with this drift and genesis is written.
    fn now_ms(&self, drift_ms: u64, genesis_ms: u64) -> u64;
    /// Nothing waits.
    fn resting(&self);
}

/// How a store is opened, and opened again after its disk failed.
pub(crate) type Opener = Box<dyn Fn() -> Result<Store, String> + Send>;

/// The near end of a writer.
pub(crate) struct Ends {
    pub(crate) jobs: mpsc::Receiver<Job>,
    /// The other end of `jobs`, for whoever reads the store and fails.
    pub(crate) own_jobs: mpsc::WeakSender<Job>,
    pub(crate) published: watch::Sender<Published>,
    pub(crate) changes: broadcast::Sender<Arc<Changes>>,
    pub(crate) listener: Arc<dyn Listener>,
    pub(crate) opener: Opener,
    pub(crate) runtime: Handle,
}

/// Starts the thread of a store that is open.
///
/// # Errors
/// When the system has no thread to give.
pub(crate) fn start(store: Store, ends: Ends) -> std::io::Result<JoinHandle<()>> {
    let snapshot = store.snapshot();
    let id = snapshot.store_id();
    let times = Times {
        listener: ends.listener.clone(),
        drift_ms: snapshot.genesis().drift_ms,
        genesis_ms: snapshot.genesis_time().wall_ms,
    };
    std::thread::Builder::new()
        .name(format!("store {}", hex::encode(&id.as_bytes()[..4])))
        .stack_size(lattice_runtime::profile::THREAD_STACK_BYTES)
        .spawn(move || {
            // What hears of changes, the network above all, starts tasks of its own.
            let runtime = ends.runtime.clone();
            let _within = runtime.enter();
            let mut writer = Writer {
                id,
                store: None,
                ends,
                times,
                pending: 1,
                paused: None,
            };
            writer.take_over(store);
            writer.run();
        })
}

/// Where a writer has the time from.
struct Times {
    listener: Arc<dyn Listener>,
    drift_ms: u64,
    genesis_ms: u64,
}

impl Times {
    fn now_ms(&self) -> u64 {
        self.listener.now_ms(self.drift_ms, self.genesis_ms)
    }
}

struct Writer {
    id: StoreId,
    /// `None` after its disk failed, until it is opened again.
    store: Option<Store>,
    ends: Ends,
    times: Times,
    /// Entries that wait to be run, as far as known; not 0 means that it is worth asking.
    pending: u64,
    paused: Option<HostFault>,
}

type Waiting = (
    oneshot::Sender<Result<Done, CallError>>,
    u32,
    Result<Told, CallError>,
);

impl Writer {
    fn run(mut self) {
        let mut quiet = 0;
        let mut next_tick = Instant::now() + TICK;
        let mut kept: Option<Job> = None;
        loop {
            let job = match kept.take() {
                Some(job) => Some(job),
                None if self.wants_to_settle() => match self.ends.jobs.try_recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => Some(Job::Close),
                },
                None => {
                    let stands = self.paused.is_some() || self.store.is_none();
                    let wake = (quiet < TICKS_IDLE || stands).then_some(next_tick);
                    match self.wait(wake) {
                        Waited::Job(job) => Some(job),
                        Waited::Time => None,
                    }
                }
            };
            match job {
                Some(Job::Close) => return self.close(),
                Some(job) => {
                    quiet = 0;
                    kept = self.serve(job);
                }
                None => {}
            }
            self.examine();
            if self.wants_to_settle() {
                let busy = kept.is_some() || !self.ends.jobs.is_empty();
                self.settle(if busy {
                    SETTLE_RUNS_BUSY
                } else {
                    SETTLE_RUNS_IDLE
                });
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                quiet = if self.tick() { quiet + 1 } else { 0 };
            }
        }
    }

    /// Whether there are entries to run, and nothing is known to stand in their way.
    fn wants_to_settle(&self) -> bool {
        self.pending > 0 && self.paused.is_none() && self.store.is_some()
    }

    fn wait(&mut self, until: Option<Instant>) -> Waited {
        if self.ends.jobs.is_empty() {
            // Whoever was just answered may be waiting for this very processor.
            std::thread::yield_now();
            self.ends.listener.resting();
        }
        let runtime = self.ends.runtime.clone();
        let jobs = &mut self.ends.jobs;
        runtime.block_on(async move {
            let job = match until {
                None => jobs.recv().await,
                Some(until) => match timeout_at(until, jobs.recv()).await {
                    Ok(job) => job,
                    Err(_) => return Waited::Time,
                },
            };
            Waited::Job(job.unwrap_or(Job::Close))
        })
    }

    /// Does one job, and for calls those that wait behind it. Returns one that it took and did not do.
    fn serve(&mut self, job: Job) -> Option<Job> {
        let Some(store) = &mut self.store else {
            // Dropping a reply tells the caller; `published` says why.
            return None;
        };
        match job {
            Job::Call { lane, calls, reply } => return self.group(lane, calls, reply),
            Job::Receive {
                from,
                entries,
                reply,
            } => {
                let verifier = BatchVerifier(clock::seed());
                let received = store.receive(from, entries, self.times.now_ms(), verifier);
                match &received {
                    Ok(_) => {
                        self.pending = self.pending.max(1);
                        // What waits only for the fold is seen at once by whoever watches.
                        self.settle(SETTLE_RUNS_BUSY);
                    }
                    // After a failed write the database takes no other: it is opened anew.
                    Err(error) => self.fail(error.to_string()),
                }
                let _ = reply.send(received);
            }
            Job::With(ask) => {
                ask(store);
                self.publish(&[]);
            }
            Job::Wake => {
                self.paused = None;
                self.pending = self.pending.max(1);
            }
            Job::Rebuild(progress) => self.rebuild(&progress),
            // The loop does so after each job.
            Job::ReadFailed => {}
            Job::Close => unreachable!("the loop takes it"),
        }
        None
    }

    /// Runs the calls that wait, commits them together, and answers their callers.
    fn group(
        &mut self,
        lane: Lane,
        calls: Vec<Call>,
        reply: oneshot::Sender<Result<Done, CallError>>,
    ) -> Option<Job> {
        let store = self.store.as_mut()?;
        let now_ms = self.times.now_ms();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut kept = None;
        let mut next = Some((lane, calls, reply));
        while let Some((lane, calls, reply)) = next.take() {
            let count = calls.len() as u32;
            waiting.push((
                reply,
                count,
                store.call(lane, calls, now_ms, clock::chain()),
            ));
            // What governance cuts off is void from the commit on, and the next call is to see that.
            if waiting.len() >= GROUP_CALLS_MAX || lane == Lane::System {
                break;
            }
            match self.ends.jobs.try_recv() {
                Ok(Job::Call { lane, calls, reply }) => next = Some((lane, calls, reply)),
                Ok(other) => kept = Some(other),
                Err(_) => {}
            }
        }
        let committed = store.commit(self.times.now_ms());
        let written: Vec<IntentionId> = match &committed {
            Ok(committed) => committed.iter().map(|header| header.id()).collect(),
            Err(_) => Vec::new(),
        };
        // Whoever was answered finds what it wrote: the view comes first. The rest of the world
        // hears of it after the callers.
        let changes = self.show();
        match committed {
            Ok(committed) => {
                let mut places = Places::new(&committed);
                for (reply, count, told) in waiting {
                    let done = told.map(|told| Done {
                        place: told
                            .outcome
                            .is_ok()
                            .then(|| places.next(told.call, count))
                            .flatten(),
                        outcome: told.outcome,
                    });
                    let _ = reply.send(done);
                }
            }
            Err(error) => {
                for (reply, _, told) in waiting {
                    let answer = match told {
                        // It was never to enter the log, so nothing is lost.
                        Ok(told) if !told.outcome.is_ok() => Ok(Done {
                            outcome: told.outcome,
                            place: None,
                        }),
                        Ok(_) => Err(CallError::from(error.clone())),
                        Err(error) => Err(error),
                    };
                    let _ = reply.send(answer);
                }
                // After a failed write the database takes no other: it is opened anew.
                self.fail(error.to_string());
            }
        }
        if let Some(changes) = changes {
            self.tell(changes, &written);
        }
        kept
    }

    fn settle(&mut self, runs: u64) {
        let Some(store) = &mut self.store else { return };
        match store.settle(runs) {
            Ok(settled) => {
                self.pending = settled.pending;
                self.paused = settled.system_paused.or(settled.app_paused);
                self.publish(&[]);
                self.pass_notices();
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Does what time asks of the store. Returns whether nothing is left that time could change.
    fn tick(&mut self) -> bool {
        if self.store.is_none() {
            self.open_again();
        }
        let Some(store) = &mut self.store else {
            return false;
        };
        match store.tick(self.times.now_ms()) {
            Ok(received) if received.witnessed.is_empty() => {}
            Ok(_) => self.pending = self.pending.max(1),
            Err(error) => {
                self.fail(error.to_string());
                return false;
            }
        }
        let parked = !store.parked().is_empty();
        let stands = self.paused.take().is_some();
        if stands {
            // Whatever stopped it may be over.
            self.pending = self.pending.max(1);
        }
        self.publish(&[]);
        !stands && !parked
    }

    /// The disk failed: nothing goes on before the store is opened again.
    fn fail(&mut self, reason: String) {
        tracing::error!(store = %self.id, "{reason}");
        self.store = None;
        self.paused = None;
        self.ends.published.send_modify(|published| {
            published.broken = Some(reason);
        });
    }

    /// If a read failed, here or anywhere: opens the store anew if its disk is to blame. Else it goes on, since it
    /// would be no better off.
    fn examine(&mut self) {
        if let Some(store) = &self.store
            && let Err(error) = store.examine()
        {
            self.fail(format!("a read failed: {error}"));
        }
    }

    /// Goes on with a store that was just opened.
    fn take_over(&mut self, store: Store) {
        let jobs = self.ends.own_jobs.clone();
        store.on_failed_read(move || {
            if let Some(jobs) = jobs.upgrade() {
                // A writer with a full queue is awake, and looks after each job.
                let _ = jobs.try_send(Job::ReadFailed);
            }
        });
        self.store = Some(store);
    }

    fn open_again(&mut self) {
        match (self.ends.opener)() {
            Ok(store) => {
                tracing::info!(store = %self.id, "open again");
                self.take_over(store);
                self.pending = 1;
                self.publish(&[]);
            }
            Err(reason) => self.ends.published.send_modify(|published| {
                published.broken = Some(reason);
            }),
        }
    }

    /// Shows what the log holds now, and tells what changed since the last time.
    fn publish(&mut self, written: &[IntentionId]) {
        if let Some(changes) = self.show() {
            self.tell(changes, written);
        }
    }

    /// Shows what the log holds now. Returns what changed since the last time, if anything did.
    fn show(&mut self) -> Option<Changes> {
        let store = self.store.as_mut()?;
        let changes = store.take_changes();
        let snapshot = store.snapshot();
        let paused = self.paused.clone();
        let moved = changes.all || !changes.cells.is_empty() || !changes.entries.is_empty();
        self.ends.published.send_if_modified(|published| {
            let told = moved || published.paused != paused || published.broken.is_some();
            published.snapshot = snapshot;
            published.paused = paused;
            published.broken = None;
            told
        });
        moved.then_some(changes)
    }

    /// Tells the node and whoever watches what changed.
    fn tell(&self, changes: Changes, written: &[IntentionId]) {
        let changes = Arc::new(changes);
        let watchers = || {
            // Nobody watching is no error.
            let _ = self.ends.changes.send(Arc::clone(&changes));
        };
        // What this node wrote is news to its peers above all, and what came from one of them is to those who
        // watch here.
        if written.is_empty() {
            watchers();
        }
        self.ends.listener.changed(&self.id, &changes, written);
        if !written.is_empty() {
            watchers();
        }
    }

    /// Hands things to know over to the node, which keeps them.
    fn pass_notices(&mut self) {
        let Some(store) = &mut self.store else { return };
        let passed = store.notices().and_then(|notices| {
            let (numbers, notices): (Vec<_>, Vec<_>) = notices.into_iter().unzip();
            if !notices.is_empty() && self.ends.listener.noticed(&self.id, &notices) {
                store.acknowledge(&numbers)?;
            }
            Ok(())
        });
        if let Err(error) = passed {
            tracing::error!(store = %self.id, "notices: {error}");
        }
    }

    fn rebuild(&mut self, progress: &mpsc::Sender<RebuildStep>) {
        let Some(store) = &mut self.store else { return };
        self.ends
            .published
            .send_modify(|published| published.rebuilding = true);
        if let Err(error) = store.rebuild(self.times.now_ms()) {
            self.fail(error.to_string());
        } else {
            self.pending = 1;
            self.paused = None;
        }
        while self.wants_to_settle() {
            self.settle(SETTLE_RUNS_IDLE);
            // A client that reads slowly, or has left, holds nothing up.
            let _ = progress.try_send(RebuildStep::Pending(self.pending));
        }
        self.ends
            .published
            .send_modify(|published| published.rebuilding = false);
        let step = match (&self.store, &self.paused) {
            (Some(store), None) => RebuildStep::Done(Box::new(store.snapshot())),
            (_, Some(fault)) => RebuildStep::Failed(fault.to_string()),
            (None, None) => RebuildStep::Failed("the disk failed".into()),
        };
        // A client that has left is no error.
        let _ = progress.blocking_send(step);
    }

    fn close(mut self) {
        self.ends.jobs.close();
        if let Some(store) = self.store.take()
            && let Err(error) = store.close(self.times.now_ms())
        {
            tracing::error!(store = %self.id, "closing: {error}");
        }
    }
}

enum Waited {
    Job(Job),
    Time,
}

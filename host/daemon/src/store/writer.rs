//! The thread that drives the writer of one store.
//!
//! What a writer does, and in which order, is the kernel's [`Writer`], a value. This file is what that value may
//! not be: a thread with a queue, a clock and random numbers, the replies to those who wait, and the view that
//! readers share.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lattice_format::{Call, DeviceKey, IntentionId, Lane, SignedHeader, StoreId};
use lattice_kernel::run::engine::HostFault;
use lattice_kernel::writer::{self, Effect, Group, Input, Next, Now, Rebuild};
use lattice_kernel::{
    BatchVerifier, CallError, Changes, Notice, Outcome, Received, Snapshot, StorageError, Store,
};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout_at;

use crate::node::clock;
use crate::store::places::{Place, Places};

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
    Rebuild(mpsc::Sender<Rebuild>),
    /// Flush and end.
    Close,
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
            let began = Instant::now();
            watch_reads(&store, &ends.own_jobs);
            let value = writer::Writer::new(store, times.now(began));
            let writer = Writer {
                id,
                value,
                ends,
                times,
                began,
                rebuild: None,
                closed: false,
            };
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
    fn now(&self, began: Instant) -> Now {
        Now {
            wall_ms: self.listener.now_ms(self.drift_ms, self.genesis_ms),
            elapsed_ms: began.elapsed().as_millis() as u64,
        }
    }
}

/// Who waits for a call.
#[derive(Debug)]
struct Caller {
    reply: oneshot::Sender<Result<Done, CallError>>,
    /// How many calls the transaction has.
    calls: u32,
}

/// Who waits for entries to be taken.
type Deliverer = oneshot::Sender<Result<Received, StorageError>>;

/// What the kernel's writer is given here.
type Given = Input<Caller, Deliverer, BatchVerifier>;

struct Writer {
    id: StoreId,
    value: writer::Writer<Caller, Deliverer, BatchVerifier>,
    ends: Ends,
    times: Times,
    began: Instant,
    /// Who is told how far a rebuild is.
    rebuild: Option<mpsc::Sender<Rebuild>>,
    closed: bool,
}

impl Writer {
    fn run(mut self) {
        // Kept, so that a step needs no memory of its own.
        let mut effects = Vec::new();
        while !self.closed {
            let input = match self.value.next() {
                Next::Continue => Input::Nothing,
                Next::Gather | Next::Poll => match self.ends.jobs.try_recv() {
                    Ok(job) => self.input(job),
                    Err(mpsc::error::TryRecvError::Empty) => Input::Nothing,
                    Err(mpsc::error::TryRecvError::Disconnected) => self.input(Job::Close),
                },
                Next::Until(at_ms) => self.wait(Some(self.began + Duration::from_millis(at_ms))),
                Next::Job => self.wait(None),
            };
            self.step(input, &mut effects);
        }
        self.ends.jobs.close();
    }

    fn wait(&mut self, until: Option<Instant>) -> Given {
        if self.ends.jobs.is_empty() {
            // Whoever was just answered may be waiting for this very processor.
            std::thread::yield_now();
            self.ends.listener.resting();
        }
        let runtime = self.ends.runtime.clone();
        let jobs = &mut self.ends.jobs;
        let job = runtime.block_on(async move {
            match until {
                None => Some(jobs.recv().await),
                Some(until) => timeout_at(until.into(), jobs.recv()).await.ok(),
            }
        });
        match job {
            Some(job) => self.input(job.unwrap_or(Job::Close)),
            None => Input::Nothing,
        }
    }

    /// A job as the kernel's writer takes it, with the random numbers that it needs.
    fn input(&mut self, job: Job) -> Given {
        Input::Job(match job {
            Job::Call { lane, calls, reply } => writer::Job::Call {
                lane,
                token: Caller {
                    reply,
                    calls: calls.len() as u32,
                },
                calls,
                chain: clock::chain(),
            },
            Job::Receive {
                from,
                entries,
                reply,
            } => writer::Job::Receive {
                from,
                entries,
                verifier: BatchVerifier(clock::seed()),
                token: reply,
            },
            Job::With(ask) => writer::Job::Ask(ask),
            Job::Wake => writer::Job::Wake,
            Job::ReadFailed => writer::Job::ReadFailed,
            Job::Rebuild(progress) => {
                self.rebuild = Some(progress);
                self.show_rebuilding();
                writer::Job::Rebuild
            }
            Job::Close => writer::Job::Close,
        })
    }

    /// Takes a step, and those that its effects lead to.
    fn step(&mut self, input: Given, effects: &mut Vec<Effect<Caller, Deliverer>>) {
        let mut input = Some(input);
        while let Some(next) = input.take() {
            let now = self.times.now(self.began);
            self.value.handle(next, now, effects);
            for effect in effects.drain(..) {
                let follows = self.carry_out(effect);
                input = follows.or(input);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect<Caller, Deliverer>) -> Option<Given> {
        match effect {
            Effect::Show {
                snapshot,
                paused,
                moved,
            } => {
                self.ends.published.send_if_modified(|published| {
                    let told = moved || published.paused != paused || published.broken.is_some();
                    published.snapshot = snapshot;
                    published.paused = paused;
                    published.broken = None;
                    told
                });
            }
            Effect::Answer(group) => answer(group),
            Effect::Received { token, received } => {
                // A session that has ended is no error.
                let _ = token.send(received);
            }
            Effect::Tell { changes, written } => self.tell(changes, &written),
            Effect::Notices(Ok(notices)) => {
                let (numbers, notices): (Vec<_>, Vec<_>) = notices.into_iter().unzip();
                let kept = self.ends.listener.noticed(&self.id, &notices);
                return kept.then_some(Input::Kept(numbers));
            }
            Effect::Notices(Err(error)) => {
                tracing::error!(store = %self.id, "notices: {error}");
            }
            Effect::Rebuild(step) => self.rebuilt(step),
            Effect::Stop(reason) => {
                tracing::error!(store = %self.id, "{reason}");
                self.show_broken(reason);
            }
            Effect::Open => match (self.ends.opener)() {
                Ok(store) => {
                    tracing::info!(store = %self.id, "open again");
                    watch_reads(&store, &self.ends.own_jobs);
                    return Some(Input::Opened(Box::new(store)));
                }
                Err(reason) => self.show_broken(reason),
            },
            Effect::Closed(closed) => {
                if let Err(error) = closed {
                    tracing::error!(store = %self.id, "closing: {error}");
                }
                self.closed = true;
            }
        }
        None
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

    fn rebuilt(&mut self, step: Rebuild) {
        if let Rebuild::Pending(_) = step {
            if let Some(progress) = &self.rebuild {
                // A client that reads slowly, or has left, holds nothing up.
                let _ = progress.try_send(step);
            }
            return;
        }
        let progress = self.rebuild.take();
        self.show_rebuilding();
        if let Some(progress) = progress {
            // A client that has left is no error.
            let _ = progress.blocking_send(step);
        }
    }

    fn show_rebuilding(&self) {
        let rebuilding = self.rebuild.is_some();
        self.ends
            .published
            .send_modify(|published| published.rebuilding = rebuilding);
    }

    fn show_broken(&self, reason: String) {
        self.ends
            .published
            .send_modify(|published| published.broken = Some(reason));
    }
}

/// Lets the writer hear of reads that fail, whoever reads.
fn watch_reads(store: &Store, own_jobs: &mpsc::WeakSender<Job>) {
    let jobs = own_jobs.clone();
    store.on_failed_read(move || {
        if let Some(jobs) = jobs.upgrade() {
            // A writer with a full queue is awake, and looks after each job.
            let _ = jobs.try_send(Job::ReadFailed);
        }
    });
}

/// Answers those whose calls shared a commit.
fn answer(group: Group<Caller>) {
    let mut places = Places::new(&group.written);
    for (caller, told) in group.answers {
        let done = told.map(|told| Done {
            place: told
                .outcome
                .is_ok()
                .then(|| places.next(told.call, caller.calls))
                .flatten(),
            outcome: told.outcome,
        });
        // A caller that has left is no error.
        let _ = caller.reply.send(done);
    }
}

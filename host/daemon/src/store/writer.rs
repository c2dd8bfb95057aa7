//! The threads that drive the writer of one store.
//!
//! The kernel's [`writer::Writer`], a value, decides what is done and in which order. This file adds what the kernel
//! must not have: a thread with a queue, a clock and random numbers, the replies to callers, and the view that readers
//! share.
//!
//! The thread of the store does everything that may take long. A call of a store whose calls are quick is run and
//! committed by the thread that serves the caller, if the writer rests: a hand-over and the answer to it would take as
//! long as the call itself (`inline.rs`).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lattice_format::{Call, DeviceKey, IntentionId, Lane, SignedHeader, StoreId};
use lattice_kernel::clock::Verdict;
use lattice_kernel::run::engine::HostFault;
use lattice_kernel::writer::{self, Effect, Group, Input, Next, Now, Rebuild};
use lattice_kernel::{
    CallError, Changes, Notice, Outcome, Received, Snapshot, StorageError, Store,
};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout_at;

use crate::limits::TOLD_AGAIN;
use crate::node::clock;
use crate::node::panics;
use crate::store::inline::Pace;
use crate::store::places::{Place, Places};
use crate::store::verification::Verifier;

/// How long a store rests whose writer has panicked, before it is opened anew; twice as long after each further panic
/// within [`PANICS_APART`], up to [`PANIC_REST_MAX`].
const PANIC_REST: Duration = Duration::from_secs(1);
const PANIC_REST_MAX: Duration = Duration::from_secs(64);
/// The most reasons of one failing disk that are logged. Further ones are about the same disk.
const REASONS_TOLD_MAX: usize = 8;
/// How long after a panic the next one counts as the first.
const PANICS_APART: Duration = Duration::from_secs(600);

/// The result of a call, which is durable.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// The outcome of the transaction.
    pub(crate) outcome: Outcome,
    /// The transaction's place in the log; `None` when it is not in the log.
    pub(crate) place: Option<Place>,
}

/// A request to the writer of a store.
pub(crate) enum Job {
    /// Run calls as one transaction.
    Call {
        lane: Lane,
        calls: Vec<Call>,
        /// As in the kernel's job.
        accepts_leap: bool,
        reply: oneshot::Sender<Result<Done, CallError>>,
    },
    /// Receive entries of a peer.
    Receive {
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        reply: oneshot::Sender<Result<Received, StorageError>>,
    },
    /// Ask the store something that no snapshot has.
    With(Box<dyn FnOnce(&mut Store) + Send>),
    /// Try again what is paused: its cause may be gone, for example because code arrived.
    Wake,
    /// A read of the store's files failed. Examine whether the databases still take transactions.
    ReadFailed,
    /// Look at the writer again: somebody else took a step.
    Look,
    /// Drop the state and fold the log again. The sender gets the progress.
    Rebuild(mpsc::Sender<Rebuild>),
    /// Flush and end.
    Close,
}

/// The view of a store that its writer publishes to the rest of the node.
#[derive(Clone)]
pub(crate) struct Published {
    /// A view of what the log holds durably.
    pub(crate) snapshot: Snapshot,
    /// Why a lane is paused, if one is.
    pub(crate) paused: Option<HostFault>,
    /// Why the store is closed after an error of its disk; `None` while it is open.
    pub(crate) broken: Option<String>,
    /// Whether the state is being folded again.
    pub(crate) rebuilding: bool,
}

/// The node, as a writer sees it. Every function is called on the writer's thread.
pub(crate) trait Listener: Send + Sync {
    /// Cells changed or entries were witnessed; `written` are the entries that this node wrote itself.
    fn changed(&self, store: &StoreId, changes: &Changes, written: &[IntentionId]);
    /// Notices were raised. Returns whether the node keeps them; if so, the store acknowledges them.
    fn noticed(&self, store: &StoreId, notices: &[Notice]) -> bool;
    /// The time by which a store with this drift and genesis is written, and how its members judge the clock.
    fn verdict(&self, store: &StoreId, drift_ms: u64, genesis_ms: u64) -> Verdict;
    /// No job waits, so the thread has time for other work of the node.
    fn resting(&self);
}

/// Opens a store, and opens it again after its disk failed. The error is one line.
pub(crate) type Opener = Box<dyn Fn() -> Result<Store, String> + Send>;

/// The writer's ends of its channels, and what it needs of the node.
pub(crate) struct Ends {
    /// The other end of the jobs, by which failed reads of the store are reported.
    pub(crate) own_jobs: mpsc::WeakSender<Job>,
    pub(crate) published: watch::Sender<Published>,
    pub(crate) changes: broadcast::Sender<Arc<Changes>>,
    pub(crate) listener: Arc<dyn Listener>,
    pub(crate) opener: Opener,
    pub(crate) runtime: Handle,
}

/// Starts the writer's thread of an open store, which takes its jobs from `jobs`. Returns the writer as well, which is
/// gone when the thread has ended.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(
    store: Store,
    ends: Ends,
    mut jobs: mpsc::Receiver<Job>,
) -> std::io::Result<(Weak<Mutex<Writer>>, JoinHandle<()>)> {
    let snapshot = store.snapshot();
    let id = snapshot.store_id();
    let times = Times {
        listener: ends.listener.clone(),
        store: id,
        drift_ms: snapshot.genesis().drift_ms,
        genesis_ms: snapshot.genesis_time().wall_ms,
    };
    let began = Instant::now();
    watch_reads(&store, &ends.own_jobs);
    let runtime = ends.runtime.clone();
    let value = writer::Writer::new(store, times.now(began));
    let writer = Arc::new(Mutex::new(Writer {
        id,
        value,
        ends,
        times,
        began,
        effects: Vec::new(),
        pace: Pace::default(),
        rebuild: None,
        told: BTreeMap::new(),
        is_failing: false,
        panicked: None,
        closed: false,
    }));
    let shared = Arc::downgrade(&writer);
    let thread = std::thread::Builder::new()
        .name(format!("store {}", hex::encode(&id.as_bytes()[..4])))
        .stack_size(lattice_runtime::profile::THREAD_STACK_BYTES)
        .spawn(move || {
            // Listeners of changes, such as the network, start tasks, which need the runtime.
            let _within = runtime.enter();
            while turn(&writer, &mut jobs, &runtime) {}
            jobs.close();
        })?;
    Ok((shared, thread))
}

/// Has the writer for this thread alone. Panics of its steps are caught before they leave it.
fn lock(writer: &Mutex<Writer>) -> std::sync::MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for what is next, and does it. Returns whether there is more to do.
fn turn(writer: &Mutex<Writer>, jobs: &mut mpsc::Receiver<Job>, runtime: &Handle) -> bool {
    let until = {
        let mut writer = lock(writer);
        match writer.value.next() {
            Next::Continue => return writer.take(Input::Nothing),
            Next::Gather | Next::Poll => {
                let input = match jobs.try_recv() {
                    Ok(Job::Look) | Err(mpsc::error::TryRecvError::Empty) => Input::Nothing,
                    Ok(job) => writer.input(job),
                    Err(mpsc::error::TryRecvError::Disconnected) => writer.input(Job::Close),
                };
                return writer.take(input);
            }
            Next::Until(at_ms) => Some(writer.began + Duration::from_millis(at_ms)),
            Next::Job => None,
        }
    };
    if jobs.is_empty() {
        // A caller that was just answered may wait for this processor.
        std::thread::yield_now();
        let listener = lock(writer).ends.listener.clone();
        listener.resting();
    }
    let job = runtime.block_on(async move {
        match until {
            None => Some(jobs.recv().await),
            Some(until) => timeout_at(until.into(), jobs.recv()).await.ok(),
        }
    });
    let mut writer = lock(writer);
    match job {
        Some(Some(Job::Look)) => true,
        Some(job) => {
            let job = job.unwrap_or(Job::Close);
            // Somebody else may have taken steps meanwhile, which are to be completed first.
            while writer.value.next() == Next::Continue {
                if !writer.take(Input::Nothing) {
                    return false;
                }
            }
            let input = writer.input(job);
            writer.take(input)
        }
        None => writer.take(Input::Nothing),
    }
}

/// The clock of a writer.
struct Times {
    listener: Arc<dyn Listener>,
    store: StoreId,
    drift_ms: u64,
    genesis_ms: u64,
}

impl Times {
    fn now(&self, began: Instant) -> Now {
        Now {
            clock: self
                .listener
                .verdict(&self.store, self.drift_ms, self.genesis_ms),
            elapsed_ms: began.elapsed().as_millis() as u64,
        }
    }
}

/// The caller that waits for a call.
#[derive(Debug)]
pub(crate) struct Caller {
    reply: oneshot::Sender<Result<Done, CallError>>,
    /// The number of calls of the transaction.
    calls: u32,
}

/// Whoever waits for entries to be received.
pub(crate) type Deliverer = oneshot::Sender<Result<Received, StorageError>>;

/// An input of the kernel's writer.
pub(crate) type Given = Input<Caller, Deliverer, Verifier>;

/// The writer of a store, with what carries out its effects.
pub(crate) struct Writer {
    id: StoreId,
    value: writer::Writer<Caller, Deliverer, Verifier>,
    ends: Ends,
    times: Times,
    began: Instant,
    /// One list for all steps, so that a step allocates nothing.
    effects: Vec<Effect<Caller, Deliverer>>,
    /// How long its calls take.
    pub(crate) pace: Pace,
    /// The receiver of a rebuild's progress, while one goes on.
    rebuild: Option<mpsc::Sender<Rebuild>>,
    /// What was logged of its disk, and when.
    told: BTreeMap<String, Instant>,
    /// Whether the disk has failed since something was last written.
    is_failing: bool,
    /// When it last panicked, and how long the store rested.
    panicked: Option<(Instant, Duration)>,
    closed: bool,
}

impl Writer {
    /// Takes a step. Returns whether the writer goes on.
    pub(crate) fn take(&mut self, input: Given) -> bool {
        let runs = matches!(input, Input::Job(writer::Job::Call { .. }));
        let commits = matches!(input, Input::Nothing) && self.gathers();
        let began = Instant::now();
        let mut effects = std::mem::take(&mut self.effects);
        let taken = catch_unwind(AssertUnwindSafe(|| self.step(input, &mut effects)));
        if let Err(panic) = taken {
            self.rest(panics::said(&*panic), &mut effects);
        }
        self.effects = effects;
        if runs {
            self.pace.ran(began.elapsed());
        } else if commits {
            self.pace.committed(began.elapsed());
        }
        !self.closed
    }

    /// Whether calls have run and are not committed.
    pub(crate) fn gathers(&self) -> bool {
        self.value.next() == Next::Gather
    }

    /// Whether the writer waits for a job, and has nothing else to do.
    pub(crate) fn is_resting(&self) -> bool {
        !self.closed && matches!(self.value.next(), Next::Until(_) | Next::Job)
    }

    /// After a panic: tells everybody who waits, gives up what is in memory, and has the store opened anew after a
    /// while, with what is durable.
    fn rest(&mut self, said: &str, effects: &mut Vec<Effect<Caller, Deliverer>>) {
        let now = Instant::now();
        let rest = match self.panicked {
            Some((last, rest)) if now - last < PANICS_APART => (rest * 2).min(PANIC_REST_MAX),
            _ => PANIC_REST,
        };
        self.panicked = Some((now, rest));
        let reason = format!("its writer panicked: {said}; report it");
        tracing::error!(store = %self.id, "{reason}");
        // First: who waits for an answer that never comes looks here.
        self.show_broken(reason);
        self.rebuild = None;
        self.show_rebuilding();
        let opens = Now {
            clock: Verdict::alone(0),
            elapsed_ms: (now + rest - self.began).as_millis() as u64,
        };
        let value = std::mem::replace(&mut self.value, writer::Writer::closed(opens));
        let effects = std::mem::take(effects);
        // What was in the middle of something may panic once more.
        if catch_unwind(AssertUnwindSafe(|| drop((value, effects)))).is_err() {
            tracing::error!(store = %self.id, "giving up what was in memory panicked as well");
        }
    }

    /// The input of the kernel's writer for a job, with the random numbers that the job needs.
    pub(crate) fn input(&mut self, job: Job) -> Given {
        Input::Job(match job {
            Job::Call {
                lane,
                calls,
                accepts_leap,
                reply,
            } => writer::Job::Call {
                lane,
                accepts_leap,
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
                verifier: Verifier(clock::seed()),
                token: reply,
            },
            Job::With(ask) => writer::Job::Ask(ask),
            Job::Wake | Job::Look => writer::Job::Wake,
            Job::ReadFailed => writer::Job::ReadFailed,
            Job::Rebuild(progress) => {
                self.rebuild = Some(progress);
                self.show_rebuilding();
                writer::Job::Rebuild
            }
            Job::Close => writer::Job::Close,
        })
    }

    /// Takes a step, carries out its effects, and takes the steps that they lead to.
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
            Effect::Answer(group) => {
                if !group.written.is_empty() {
                    self.writes_again();
                }
                answer(group);
            }
            Effect::Received { token, received } => {
                if received.as_ref().is_ok_and(|it| !it.witnessed.is_empty()) {
                    self.writes_again();
                }
                // The session may have ended.
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
                // A disk that stays full is tried again and again, which is told once.
                if self.must_tell(&reason) {
                    self.is_failing = true;
                    tracing::error!(store = %self.id, "{reason}; it is opened anew, and tried again until it can be written");
                } else {
                    tracing::debug!(store = %self.id, "{reason}");
                }
                self.show_broken(reason);
            }
            Effect::Open => match (self.ends.opener)() {
                Ok(store) => {
                    tracing::debug!(store = %self.id, "open again");
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

    /// Tells the node and its watches what changed.
    fn tell(&self, changes: Changes, written: &[IntentionId]) {
        let changes = Arc::new(changes);
        let watchers = || {
            // There may be no watch.
            let _ = self.ends.changes.send(Arc::clone(&changes));
        };
        // Entries that this node wrote go to its peers first. Entries of peers go to the watches of this node first.
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
                // A client that reads slowly misses some messages of progress. It may also have left.
                let _ = progress.try_send(step);
            }
            return;
        }
        let progress = self.rebuild.take();
        self.show_rebuilding();
        if let Some(progress) = progress {
            // The client may have left.
            let _ = progress.blocking_send(step);
        }
    }

    /// Whether a reason is to be logged: it was not of late.
    fn must_tell(&mut self, reason: &str) -> bool {
        self.told.retain(|_, told| told.elapsed() < TOLD_AGAIN);
        let is_new = self.told.len() < REASONS_TOLD_MAX && !self.told.contains_key(reason);
        if is_new {
            self.told.insert(reason.to_owned(), Instant::now());
        }
        is_new
    }

    /// Something was written.
    fn writes_again(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(store = %self.id, "the disk takes what is written again");
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

/// Has failed reads of a store reported to its writer, whoever reads.
fn watch_reads(store: &Store, own_jobs: &mpsc::WeakSender<Job>) {
    let jobs = own_jobs.clone();
    store.on_failed_read(move || {
        if let Some(jobs) = jobs.upgrade() {
            // If the queue is full, the writer is awake, and examines the store after each job.
            let _ = jobs.try_send(Job::ReadFailed);
        }
    });
}

/// Answers the callers whose calls shared a commit.
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
        // The caller may have left.
        let _ = caller.reply.send(done);
    }
}

//! One open store: the queue of its writer, and the views that it publishes.

pub(crate) mod arguments;
pub(crate) mod call;
pub(crate) mod chain;
pub(crate) mod create;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod failed_reads;
pub(crate) mod graph;
pub(crate) mod history;
mod inline;
pub(crate) mod notices;
mod places;
pub(crate) mod verification;
pub(crate) mod watch;
pub(crate) mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lattice_format::{Call, DeviceKey, Lane, SignedHeader, StoreId};
use lattice_kernel::sync::Governance;
use lattice_kernel::writer::Rebuild;
use lattice_kernel::{CallError, Changes, Received, Snapshot, Store};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::api::failure::{Failure, Result};
use crate::limits::{CHANGES_QUEUE, WRITER_QUEUE, queries_long};
use crate::member;
use crate::node::lookup;
use crate::store::writer::{Done, Ends, Job, Listener, Opener, Published, Writer};

/// What to do about a store that is stopped.
pub(crate) const STOPPED_HINT: &str =
    "it is opened anew by itself; `lattice doctor` examines the disk";

/// How long a request waits for a store that is opened anew.
const OPENING_WAIT: Duration = Duration::from_secs(1);
/// How long a writer may take to say why it does not answer.
const GONE_WAIT: Duration = Duration::from_secs(1);

/// One open store. Writes go through its writer; everything else reads snapshots.
pub(crate) struct OpenStore {
    id: StoreId,
    jobs: mpsc::Sender<Job>,
    writer: Weak<Mutex<Writer>>,
    published: tokio::sync::watch::Receiver<Published>,
    changes: broadcast::Sender<Arc<Changes>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the code of a lane, by the lane's number, is known to be loaded.
    warm: [AtomicBool; 2],
    /// A permit for each long query of this store that may wait for one of the node's permits. Further ones wait
    /// here, so that few queries of this store are ahead of those of other stores.
    pub(crate) long_queries: Arc<Semaphore>,
}

impl OpenStore {
    /// Opens a store and starts its writer. Blocks. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// Why the store cannot be opened, in one line.
    pub(crate) fn open(
        opener: Opener,
        listener: Arc<dyn Listener>,
    ) -> std::result::Result<Self, String> {
        let store = opener()?;
        let snapshot = store.snapshot();
        let id = snapshot.store_id();
        let (jobs, jobs_end) = mpsc::channel(WRITER_QUEUE);
        let (published_end, published) = tokio::sync::watch::channel(Published {
            snapshot,
            paused: None,
            broken: None,
            rebuilding: false,
        });
        let (changes, _) = broadcast::channel(CHANGES_QUEUE);
        let (writer, thread) = writer::start(
            store,
            Ends {
                own_jobs: jobs.downgrade(),
                published: published_end,
                changes: changes.clone(),
                listener,
                opener,
                runtime: Handle::current(),
            },
            jobs_end,
        )
        .map_err(|error| format!("no thread for the store: {error}"))?;
        Ok(Self {
            id,
            jobs,
            writer,
            published,
            changes,
            thread: Mutex::new(Some(thread)),
            warm: Default::default(),
            long_queries: Arc::new(Semaphore::new(queries_long().div_ceil(2))),
        })
    }

    /// Whether the code of a lane is loaded, so that a short query can run on the thread that serves the request.
    pub(crate) fn is_warm(&self, lane: Lane) -> bool {
        self.warm[usize::from(lane.number())].load(Ordering::Relaxed)
    }

    /// Remembers that the code of a lane is loaded.
    pub(crate) fn set_warm(&self, lane: Lane) {
        self.warm[usize::from(lane.number())].store(true, Ordering::Relaxed);
    }

    /// Tells watches of changes.
    #[cfg(test)]
    pub(crate) fn tell(&self, changes: Changes) {
        let _ = self.changes.send(Arc::new(changes));
    }

    /// The number of further jobs that may wait for the writer.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.jobs.capacity()
    }

    /// The store's id.
    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    /// A view of what the log holds durably.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.published.borrow().snapshot.clone()
    }

    /// Everything that the writer has published.
    pub(crate) fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Whether a watch runs.
    pub(crate) fn is_watched(&self) -> bool {
        self.changes.receiver_count() > 0
    }

    /// The changes from now on. Subscribe before taking a snapshot, so that no change is missed.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.changes.subscribe()
    }

    /// Runs calls as one transaction. Durable when this returns. `accepts_leap` says whether a person agrees to sign by
    /// a clock that no member confirms.
    pub(crate) async fn call(
        &self,
        lane: Lane,
        calls: Vec<Call>,
        accepts_leap: bool,
    ) -> Result<Done> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Call {
            lane,
            calls,
            accepts_leap,
            reply,
        };
        if let Some(job) = inline::run(&self.writer, &self.jobs, job) {
            self.send(job).await?;
        }
        match answer.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.call_failure(error).await),
            Err(_) => Err(self.gone().await),
        }
    }

    /// Receives entries of a peer. Those that were witnessed are durable when this returns.
    pub(crate) async fn receive(
        &self,
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
    ) -> Result<Received> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Receive {
            from,
            entries,
            reply,
        })
        .await?;
        match answer.await {
            Ok(received) => Ok(received?),
            Err(_) => Err(self.gone().await),
        }
    }

    /// Runs `ask` on the store, on its writer's thread.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::With(Box::new(move |store| {
            let _ = reply.send(ask(store));
        })))
        .await?;
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.gone().await),
        }
    }

    /// Makes the writer try again what is paused. Does not block.
    pub(crate) fn wake(&self) {
        // If the queue is full, the writer is awake without this job.
        let _ = self.jobs.try_send(Job::Wake);
    }

    /// Drops the state and folds the log again.
    pub(crate) async fn rebuild(&self, progress: mpsc::Sender<Rebuild>) -> Result<()> {
        self.send(Job::Rebuild(progress)).await
    }

    async fn send(&self, job: Job) -> Result<()> {
        match self.jobs.send(job).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.gone().await),
        }
    }

    /// What the writer shows, once a store that it opens anew is open, or that has taken too long.
    pub(crate) async fn settled(&self) -> Published {
        let now = self.published();
        if now.broken.is_none() {
            return now;
        }
        let mut published = self.published.clone();
        let opened = published.wait_for(|published| published.broken.is_none());
        let _ = timeout(OPENING_WAIT, opened).await;
        self.published()
    }

    /// Why a writer does not answer. It says so itself a moment later, unless it has ended.
    async fn gone(&self) -> Failure {
        let mut published = self.published.clone();
        let broken = published.wait_for(|published| published.broken.is_some());
        let broken = timeout(GONE_WAIT, broken).await;
        match broken.ok().and_then(std::result::Result::ok).as_deref() {
            Some(Published {
                broken: Some(reason),
                ..
            }) => Failure::failed(format!("the store is stopped: {reason}")).hint(STOPPED_HINT),
            // A store that nobody uses is closed as well, but not while somebody holds it.
            _ => Failure::unreachable("the store is closed, because the node is shutting down")
                .hint("try again when the node runs"),
        }
    }

    /// Makes the writer flush and end.
    pub(crate) async fn close(&self) {
        let _ = self.jobs.send(Job::Close).await;
    }

    /// Waits up to `patience` for the writer to end. Blocks. Returns whether it has ended.
    pub(crate) fn join(&self, patience: Duration) -> bool {
        let Some(thread) = self.thread.lock().expect("no holder panics").take() else {
            return true;
        };
        let deadline = std::time::Instant::now() + patience;
        while !thread.is_finished() {
            if std::time::Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().is_ok()
    }

    /// The failure of a request whose call has no outcome.
    async fn call_failure(&self, error: CallError) -> Failure {
        let store = lookup::short(&self.id.0);
        match error {
            CallError::Host(fault) => fault.into(),
            CallError::NotAdmitted { device } => {
                let snapshot = self.snapshot();
                let store = self.id;
                // Governance runs, which must not hold up other requests.
                let remedy = tokio::task::spawn_blocking(move || {
                    let governance = Governance::read(&snapshot).ok();
                    member::remedy(governance.as_ref(), &store, &device)
                });
                let hint = remedy.await.unwrap_or_default();
                Failure::unauthorized(error.to_string()).hint(hint)
            }
            CallError::CutOff { device } => {
                let device = lookup::short(&device.0);
                Failure::unauthorized(error.to_string()).hint(format!(
                    "an admin runs `lattice store revoke {store} {device}` and `lattice store readmit {store} {device}`"
                ))
            }
            CallError::TooLarge { .. } => {
                Failure::failed(error.to_string()).hint("put large content into several calls")
            }
            CallError::OverQuota {
                device,
                len,
                written,
                ..
            } => Failure::failed(error.to_string()).hint(format!(
                "an admin raises it with `lattice store quota {store} {} {}`, or to more",
                lookup::short(&device.0),
                written.saturating_add(len)
            )),
            CallError::Malformed(_) | CallError::Time(_) => Failure::failed(error.to_string()),
            CallError::Clock(_) => Failure::not_ready(error.to_string()),
            CallError::ChainAhead { .. } => Failure::not_ready(error.to_string()).hint(format!(
                "`lattice store restart-chain {store}` starts a new chain below it"
            )),
        }
    }
}

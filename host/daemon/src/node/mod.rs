//! A node: an open home with everything that runs in it.

pub(crate) mod clock;
pub(crate) mod doctor;
pub(crate) mod home;
pub(crate) mod idle;
mod listener;
pub(crate) mod lookup;
pub(crate) mod network;
mod parallel;
pub(crate) mod records;
pub(crate) mod restored;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::blob::BlobStore;
use lattice_kernel::{Files, Store};
use lattice_net::{Governance, Net};
use tokio::sync::{Semaphore, watch};

use crate::Embedding;
use crate::api::failure::{Failure, Result};
use crate::join::{JoinState, Looked};
use crate::limits::{FLUSH_WAIT, GOODBYE_WAIT, WATCHES_MAX, queries_long};
use crate::node::clock::Clock;
use crate::node::home::{Home, OpenError};
use crate::node::listener::NodeListener;
use crate::node::records::{PluginRecord, Records, StoreRecord};
use crate::plugin::blob;
use crate::plugin::bundled::BUNDLED;
use crate::plugin::components::Components;
use crate::store::OpenStore;
use crate::store::writer::{Listener, Opener};

/// How a node is opened.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    /// Its home.
    pub(crate) home: PathBuf,
    /// How long to wait for the lock.
    pub(crate) patience: Duration,
    /// What it is opened for.
    pub(crate) embedding: Embedding,
    /// Its clock.
    pub(crate) clock: Clock,
}

/// A store of this node, open or not.
pub(crate) struct Slot {
    /// The store.
    pub(crate) id: StoreId,
    record: Mutex<StoreRecord>,
    open: OnceLock<Arc<OpenStore>>,
    opening: Mutex<()>,
    /// Why it does not open.
    broken: Mutex<Option<String>>,
    governance: Mutex<CachedGovernance>,
    /// What is being done about something that is missing; empty for nothing.
    remedy: Mutex<String>,
    /// The join that brings it here, if one does.
    pub(crate) join: JoinState,
}

/// Members as of some moment; the same `Arc` as long as they are the same.
#[derive(Default)]
struct CachedGovernance {
    known: Option<Arc<Governance>>,
    fresh: bool,
}

impl Slot {
    pub(crate) fn new(id: StoreId, record: StoreRecord) -> Arc<Self> {
        Arc::new(Self {
            id,
            record: Mutex::new(record),
            open: OnceLock::new(),
            opening: Mutex::new(()),
            broken: Mutex::default(),
            governance: Mutex::default(),
            remedy: Mutex::default(),
            join: JoinState::default(),
        })
    }

    /// What the node records of it.
    pub(crate) fn record(&self) -> StoreRecord {
        self.record.lock().expect("no holder panics").clone()
    }

    /// What it is called here.
    pub(crate) fn name(&self) -> String {
        self.record.lock().expect("no holder panics").name.clone()
    }

    /// Its parent, if it has one.
    pub(crate) fn parent(&self) -> Option<StoreId> {
        StoreId::from_slice(&self.record.lock().expect("no holder panics").parent)
    }

    /// The store, if it is open.
    pub(crate) fn opened(&self) -> Option<Arc<OpenStore>> {
        self.open.get().cloned()
    }

    /// Why it does not open.
    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().expect("no holder panics").clone()
    }

    /// What is being done about something that is missing.
    pub(crate) fn remedy(&self) -> String {
        self.remedy.lock().expect("no holder panics").clone()
    }

    /// Says what is being done about something that is missing.
    pub(crate) fn set_remedy(&self, text: String) {
        *self.remedy.lock().expect("no holder panics") = text;
    }

    /// Takes over a store that was just made.
    pub(crate) fn set_open(&self, store: Arc<OpenStore>) {
        // Two cannot be made: the lock files of the databases see to that.
        let _ = self.open.set(store);
    }

    /// Members as of now; `None` while they cannot be told.
    pub(crate) fn governance(&self) -> Option<Arc<Governance>> {
        let store = self.opened()?;
        let mut cached = self.governance.lock().expect("no holder panics");
        if !cached.fresh {
            // First: what changes while governance is asked makes it stale again.
            cached.fresh = true;
            match Governance::read(&store.snapshot()) {
                Ok(now) => {
                    if cached.known.as_deref() != Some(&now) {
                        cached.known = Some(Arc::new(now));
                    }
                }
                Err(error) => {
                    cached.fresh = false;
                    tracing::debug!(store = %self.id, "governance cannot be asked: {error}");
                }
            }
        }
        cached.known.clone()
    }

    fn governance_changed(&self) {
        self.governance.lock().expect("no holder panics").fresh = false;
    }
}

/// A node.
pub(crate) struct Node {
    /// Its secret key.
    pub(crate) key: SigningKey,
    /// What it knows beside its stores.
    pub(crate) records: Records,
    /// Its components.
    pub(crate) components: Components,
    /// Content by hash, in the scope of stores.
    pub(crate) blobs: Arc<BlobStore>,
    /// What it was opened for.
    pub(crate) embedding: Embedding,
    /// Its clock.
    pub(crate) clock: Clock,
    /// When it was opened.
    pub(crate) started_ms: u64,
    /// Queries that run on threads of their own.
    pub(crate) long_queries: Arc<Semaphore>,
    /// Watches.
    pub(crate) watches: Arc<Semaphore>,
    /// Components that tokens led to.
    pub(crate) looked: Looked,
    slots: RwLock<BTreeMap<StoreId, Arc<Slot>>>,
    /// Held while a store is made or named, so that no two get one name.
    pub(crate) naming: tokio::sync::Mutex<()>,
    net: OnceLock<Net>,
    closing: watch::Sender<bool>,
    own: Weak<Node>,
    /// Its home. The last field, so that the lock is let go when every file is closed.
    pub(crate) home: Home,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.device())
    }
}

impl Node {
    /// Opens a home. Blocks; needs a runtime around it. Stores are opened when they are used.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(options: &NodeOptions) -> std::result::Result<Arc<Self>, OpenError> {
        let home = Home::open(&options.home, options.patience)?;
        let key = home.identity()?;
        let records = Records::open(&home.records())?;
        let components = Components::open(&home.components())?;
        let blobs = BlobStore::open(home.blobs()).map_err(|error| OpenError::Unreadable {
            path: home.blobs(),
            reason: error.to_string(),
        })?;
        let (closing, _) = watch::channel(false);
        let node = Arc::new_cyclic(|own| Self {
            home,
            key,
            records,
            components,
            blobs: Arc::new(blobs),
            embedding: options.embedding,
            started_ms: options.clock.now_ms(),
            clock: options.clock,
            long_queries: Arc::new(Semaphore::new(queries_long())),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            looked: Looked::default(),
            slots: RwLock::default(),
            naming: tokio::sync::Mutex::default(),
            net: OnceLock::new(),
            closing,
            own: own.clone(),
        });
        node.find_stores()?;
        node.name_bundled()?;
        Ok(node)
    }

    /// Reads which stores there are, and clears away what a crash left.
    fn find_stores(&self) -> std::result::Result<(), OpenError> {
        let unreadable = |reason: String| OpenError::Unreadable {
            path: self.home.records(),
            reason,
        };
        let records = self
            .records
            .stores()
            .map_err(|error| unreadable(error.to_string()))?;
        let mut slots = self.slots.write().expect("no holder panics");
        for (id, record) in records {
            if record.joining.is_none() && !Files::are_in(&self.home.store(&id)) {
                // A creation that a crash cut off: nobody was told that it exists.
                tracing::info!(store = %id, name = record.name, "removing a store that was never made");
                self.records
                    .remove_store(&id)
                    .map_err(|error| unreadable(error.to_string()))?;
                continue;
            }
            slots.insert(id, Slot::new(id, record));
        }
        let directories = self
            .home
            .store_directories()
            .map_err(|error| OpenError::Io {
                path: self.home.path().join("stores"),
                error,
            })?;
        for directory in directories {
            let name = directory
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with(".new-") {
                if let Err(error) = std::fs::remove_dir_all(&directory) {
                    tracing::warn!(path = %directory.display(), "cannot remove: {error}");
                }
                continue;
            }
            let Ok(id) = name.parse::<StoreId>() else {
                continue;
            };
            if slots.contains_key(&id) || !Files::are_in(&directory) {
                continue;
            }
            // node.redb was lost or restored from an older copy; the log is the truth.
            let record = StoreRecord {
                name: format!("found-{}", &name[..8]),
                since_ms: self.clock.now_ms(),
                log_mark: restored::UNKNOWN.to_vec(),
                ..Default::default()
            };
            tracing::warn!(store = %id, name = record.name, "found a store that the node did not know of");
            self.records
                .put_store(&id, &record)
                .map_err(|error| unreadable(error.to_string()))?;
            slots.insert(id, Slot::new(id, record));
        }
        Ok(())
    }

    /// Lets the names of what came with the program point to it.
    fn name_bundled(&self) -> std::result::Result<(), OpenError> {
        let known: BTreeMap<_, _> = self
            .records
            .plugins()
            .map_err(|error| OpenError::Unreadable {
                path: self.home.records(),
                reason: error.to_string(),
            })?
            .into_iter()
            .collect();
        let mut changed = Vec::new();
        for bundled in BUNDLED {
            let record = PluginRecord {
                component: bundled.id().0.to_vec(),
                installed_ms: 0,
                bundled: true,
            };
            if known.get(bundled.name) != Some(&record) {
                changed.push((bundled.name.to_owned(), record));
            }
        }
        self.records
            .put_plugins(&changed)
            .map_err(|error| OpenError::Unreadable {
                path: self.home.records(),
                reason: error.to_string(),
            })
    }

    /// Its key, which is its name.
    pub(crate) fn device(&self) -> DeviceKey {
        DeviceKey(self.key.verifying_key().to_bytes())
    }

    /// Another handle to itself.
    pub(crate) fn handle(&self) -> Weak<Node> {
        self.own.clone()
    }

    /// Its network, if it has one.
    pub(crate) fn net(&self) -> Option<&Net> {
        self.net.get()
    }

    /// Its network, for what cannot do without.
    pub(crate) fn need_net(&self, what: &str) -> Result<&Net> {
        self.net().ok_or_else(|| {
            Failure::unreachable(format!("{what} needs peers, and no network runs here"))
                .hint("run `lattice daemon` and try again")
        })
    }

    pub(crate) fn set_net(&self, net: Net) {
        let _ = self.net.set(net);
    }

    /// Where peers can dial it.
    pub(crate) fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.net()
            .map(|net| net.address().addresses)
            .unwrap_or_default()
    }

    /// The relay that it is reached through.
    pub(crate) fn relay(&self) -> Option<String> {
        self.net()?.address().relay
    }

    /// How far its clock lies before the median of its peers' clocks, in milliseconds.
    pub(crate) fn clock_lead_ms(&self) -> Option<i64> {
        Some(-self.net()?.clock_lead_ms()?)
    }

    /// All stores, by id.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots
            .read()
            .expect("no holder panics")
            .values()
            .cloned()
            .collect()
    }

    /// A store by its id.
    pub(crate) fn slot(&self, id: &StoreId) -> Option<Arc<Slot>> {
        self.slots
            .read()
            .expect("no holder panics")
            .get(id)
            .cloned()
    }

    /// Adds a store.
    pub(crate) fn add_slot(&self, slot: Arc<Slot>) {
        self.slots
            .write()
            .expect("no holder panics")
            .insert(slot.id, slot);
    }

    /// Takes a store away, such as one whose join failed for good.
    pub(crate) fn remove_slot(&self, id: &StoreId) {
        self.slots.write().expect("no holder panics").remove(id);
    }

    /// Changes what is recorded of a store. Durable when this returns.
    pub(crate) fn update_slot(
        &self,
        slot: &Slot,
        change: impl FnOnce(&mut StoreRecord),
    ) -> Result<()> {
        let mut record = slot.record.lock().expect("no holder panics");
        let mut changed = record.clone();
        change(&mut changed);
        self.records.put_store(&slot.id, &changed)?;
        *record = changed;
        Ok(())
    }

    /// The open store of a slot. Opens it at the first use.
    ///
    /// # Errors
    /// When it is still being joined, or does not open.
    pub(crate) async fn store(&self, slot: &Arc<Slot>) -> Result<Arc<OpenStore>> {
        if let Some(store) = slot.opened() {
            return Ok(store);
        }
        let node = self
            .own
            .upgrade()
            .ok_or_else(|| Failure::unreachable("the node is shutting down"))?;
        let slot = slot.clone();
        tokio::task::spawn_blocking(move || node.open_slot(&slot))
            .await
            .map_err(|error| Failure::failed(format!("opening the store: {error}")))?
    }

    /// The same, blocking.
    pub(crate) fn open_slot(&self, slot: &Arc<Slot>) -> Result<Arc<OpenStore>> {
        let _one = slot.opening.lock().expect("no holder panics");
        if let Some(store) = slot.opened() {
            return Ok(store);
        }
        if *self.closing.borrow() {
            return Err(Failure::unreachable("the node is shutting down"));
        }
        let directory = self.home.store(&slot.id);
        if !Files::are_in(&directory) {
            return Err(slot.join.failure(&slot.name()));
        }
        match OpenStore::open(self.opener(slot.id), self.listener()) {
            Ok(store) => {
                *slot.broken.lock().expect("no holder panics") = None;
                let store = Arc::new(store);
                slot.set_open(store.clone());
                Ok(store)
            }
            Err(reason) => {
                *slot.broken.lock().expect("no holder panics") = Some(reason.clone());
                Err(Failure::failed(format!("the store {} does not open: {reason}", slot.name()))
                    .hint("check the disk; a damaged log is fetched again by joining anew from a member"))
            }
        }
    }

    /// Opens every store that is here, several at once. Blocks. That one does not open is told by its state.
    pub(crate) fn open_all(&self) {
        let mut slots = self.slots();
        slots.retain(|slot| slot.opened().is_none() && slot.record().joining.is_none());
        // An open store waits for its writer on the runtime, which other threads do not know by themselves.
        let runtime = tokio::runtime::Handle::current();
        parallel::each(slots, |slot| {
            let _inside = runtime.enter();
            drop(self.open_slot(&slot));
        });
    }

    /// How a store is opened.
    pub(crate) fn opener(&self, id: StoreId) -> Opener {
        let directory = self.home.store(&id);
        let engine = self.components.engine();
        let key = self.key.clone();
        let (clock, own) = (self.clock, self.own.clone());
        Box::new(move || {
            let files = Files::in_dir(&directory).map_err(|error| error.to_string())?;
            let failed =
                |error: &dyn std::fmt::Display| format!("{}: {error}", directory.display());
            let found = restored::look(&directory).map_err(|error| failed(&error))?;
            let mut store = Store::open(files, engine.clone(), key.clone(), clock.now_ms())
                .map_err(|error| failed(&error))?;
            if let Some(node) = own.upgrade() {
                restored::leave_restored_chain(&node, &id, &found, &mut store)?;
            }
            Ok(store)
        })
    }

    /// What writers tell this node.
    pub(crate) fn listener(&self) -> Arc<dyn Listener> {
        Arc::new(NodeListener(self.own.clone()))
    }

    /// Lets every store try again what stands still for want of code.
    pub(crate) fn code_arrived(&self) {
        for slot in self.slots() {
            if let Some(store) = slot.opened() {
                store.wake();
            }
        }
    }

    /// Whether the node is ending; streams end with it.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Begins to end: streams and tasks see it.
    pub(crate) fn begin_closing(&self) {
        self.closing.send_replace(true);
    }

    /// Ends: says goodbye to peers, flushes the stores, lets the lock go.
    pub(crate) async fn close(self: Arc<Self>) {
        self.begin_closing();
        if let Some(net) = self.net() {
            // Otherwise there is only a dial to wait for, which nobody answered.
            let connected = net.is_connected();
            let goodbye = tokio::time::timeout(GOODBYE_WAIT, net.close()).await;
            if goodbye.is_err() && connected {
                tracing::warn!("peers were not reached for a goodbye in time");
            }
        }
        for (store, component) in self.looked.all() {
            if self.slot(&store).is_none() {
                blob::disown_components(&self, &store, &[component]);
            }
        }
        let stores: Vec<_> = self
            .slots()
            .iter()
            .filter_map(|slot| slot.opened())
            .collect();
        for store in &stores {
            if tokio::time::timeout(FLUSH_WAIT, store.close())
                .await
                .is_err()
            {
                tracing::warn!(store = %store.id(), "busy; the next start replays what is missing");
            }
        }
        let deadline = Instant::now() + FLUSH_WAIT;
        let joined = tokio::task::spawn_blocking(move || {
            for store in stores {
                if !store.join(deadline.saturating_duration_since(Instant::now())) {
                    tracing::warn!(store = %store.id(), "not flushed; the next start replays what is missing");
                }
            }
        });
        let _ = joined.await;
        // Requests that were cut off let go of the node a moment later; then its files are closed,
        // and the lock is let go: not before, or who gets it finds the files still in use.
        let deadline = Instant::now() + Duration::from_millis(200);
        while Arc::strong_count(&self) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

//! A node: an open home and everything that runs in it.

pub(crate) mod clock;
pub(crate) mod copies;
pub(crate) mod descriptors;
pub(crate) mod doctor;
pub(crate) mod home;
pub(crate) mod idle;
mod listener;
pub(crate) mod lookup;
pub(crate) mod network;
pub(crate) mod panics;
mod parallel;
pub(crate) mod records;
mod resting;
pub(crate) mod restored;
pub(crate) mod runtime_files;
mod slot;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock, Weak};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::blob::{BlobError, BlobStore};
use lattice_kernel::clock::{ClockError, Medians, Terms, Verdict};
use lattice_kernel::{Files, Snapshot, Store, machine_remedy};
use lattice_net::Net;
use tokio::sync::{Semaphore, watch};

use crate::api::failure::{Failure, Result};
use crate::join::Looked;
use crate::limits::{FLUSH_WAIT, GOODBYE_WAIT, WATCHES_MAX, queries_long};
use crate::node::clock::Clock;
use crate::node::home::{Home, Missing, OpenError};
use crate::node::listener::NodeListener;
use crate::node::records::{PluginRecord, Records, StoreRecord};
pub(crate) use crate::node::slot::Slot;
use crate::plugin::blob;
use crate::plugin::bundled::BUNDLED;
use crate::plugin::components::Components;
use crate::store::OpenStore;
use crate::store::notices;
use crate::store::writer::{Listener, Opener};
use crate::{Embedding, Ways};

/// The options with which a node is opened.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) home: PathBuf,
    /// How long to wait for the lock of the home.
    pub(crate) patience: Duration,
    /// Whether it is made if it is missing.
    pub(crate) missing: Missing,
    /// What it is opened for.
    pub(crate) embedding: Embedding,
    pub(crate) clock: Clock,
}

/// A node: its home, its records, its stores, and the components and the network that they share.
pub(crate) struct Node {
    /// The device's secret key.
    pub(crate) key: SigningKey,
    /// Everything that the node knows beside its stores.
    pub(crate) records: Records,
    pub(crate) components: Components,
    /// Content by hash, in the scope of stores.
    pub(crate) blobs: Arc<BlobStore>,
    pub(crate) embedding: Embedding,
    pub(crate) clock: Clock,
    /// When the node was opened, in milliseconds since the Unix epoch.
    pub(crate) started_ms: u64,
    /// What a person was told of other homes with this key.
    pub(crate) copies_told: copies::Told,
    /// A permit for each query that may run on a thread of its own.
    pub(crate) long_queries: Arc<Semaphore>,
    /// A permit for each watch that may run.
    pub(crate) watches: Arc<Semaphore>,
    /// Components that were fetched to show what a token leads to.
    pub(crate) looked: Looked,
    slots: RwLock<BTreeMap<StoreId, Arc<Slot>>>,
    /// Held while a store is created or named, so that two stores never get one name.
    pub(crate) naming: tokio::sync::Mutex<()>,
    net: OnceLock<(Net, Ways)>,
    closing: watch::Sender<bool>,
    own: Weak<Node>,
    /// The home. It is the last field, so that its lock is released after every file is closed.
    pub(crate) home: Home,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.device())
    }
}

impl Node {
    /// Opens a home. Stores are opened when they are used. Blocks. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(options: &NodeOptions) -> std::result::Result<Arc<Self>, OpenError> {
        descriptors::raise();
        let home = Home::open(&options.home, options.patience, options.missing)?;
        let key = home.identity()?;
        let records = Records::open(&home.records())?;
        let components = Components::open(&home.components())?;
        let blobs = BlobStore::open(home.blobs()).map_err(|error| match error {
            BlobError::Unopened { path, source } => {
                let if_damaged = "move the directory `blobs` away: it is filled again from `components` and by members";
                OpenError::unopened(&path, source, if_damaged)
            }
            error => OpenError::Unreadable {
                path: home.blobs(),
                reason: error.to_string(),
            },
        })?;
        let blobs = Arc::new(blobs);
        blob::keep_components(&components, &blobs);
        let (closing, _) = watch::channel(false);
        let node = Arc::new_cyclic(|own| Self {
            home,
            key,
            records,
            components,
            blobs,
            embedding: options.embedding,
            started_ms: options.clock.now_ms(),
            clock: options.clock,
            copies_told: copies::Told::default(),
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
        panics::spawn(resting::close_unused(node.handle()), |said| {
            tracing::error!("stores that nobody uses are not closed any more: a panic: {said}");
        });
        Ok(node)
    }

    /// Reads which stores there are, and removes those whose creation a crash interrupted.
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
            // A disk that does not tell is no reason to forget a store.
            let is_absent = matches!(Files::are_in(&self.home.store(&id)), Ok(false));
            if record.joining.is_none() && is_absent {
                if record.opened {
                    // Without this name it can be joined again.
                    notices::tell_of_lost_store(self, &id, &record.name);
                } else {
                    // A creation that a crash cut off: nobody was told that it exists.
                    tracing::info!(store = %id, name = record.name, "removing a store that was never made");
                }
                // What is not forgotten now is by the next start.
                if let Err(error) = self.records.remove_store(&id) {
                    tracing::warn!(store = %id, "{error}");
                }
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
            if slots.contains_key(&id) || !matches!(Files::are_in(&directory), Ok(true)) {
                continue;
            }
            // node.redb was lost or restored from an older copy. The log is the truth, so the store is kept.
            let record = StoreRecord {
                name: format!("found-{}", &name[..8]),
                since_ms: self.clock.now_ms(),
                log_mark: restored::UNKNOWN.to_vec(),
                ..Default::default()
            };
            notices::tell_of_found_store(self, &id, &record.name);
            // What is not recorded now is found again by the next start.
            if let Err(error) = self.records.put_store(&id, &record) {
                tracing::warn!(store = %id, "{error}");
            }
            slots.insert(id, Slot::new(id, record));
        }
        Ok(())
    }

    /// Makes the names of the bundled components stand for the components of this program.
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
        // A disk that takes nothing still answers queries.
        if let Err(error) = self.records.put_plugins(&changed) {
            tracing::warn!("names of bundled plugins are those of another version: {error}");
        }
        Ok(())
    }

    /// The device's public key, which identifies the node.
    pub(crate) fn device(&self) -> DeviceKey {
        DeviceKey(self.key.verifying_key().to_bytes())
    }

    /// A weak reference to this node.
    pub(crate) fn handle(&self) -> Weak<Node> {
        self.own.clone()
    }

    /// The network, if the node has one.
    pub(crate) fn net(&self) -> Option<&Net> {
        self.net.get().map(|(net, _)| net)
    }

    /// The network, for `what`, which needs one.
    ///
    /// # Errors
    /// When the node has no network.
    pub(crate) fn need_net(&self, what: &str) -> Result<&Net> {
        self.net().ok_or_else(|| {
            Failure::unreachable(format!("{what} needs peers, and no network runs here"))
                .hint("run `lattice daemon` and try again")
        })
    }

    pub(crate) fn set_net(&self, net: Net, ways: Ways) {
        let _ = self.net.set((net, ways));
    }

    /// By which ways the node finds peers; none without a network.
    pub(crate) fn ways(&self) -> Ways {
        self.net.get().map_or(Ways::NONE, |(_, ways)| *ways)
    }

    /// The addresses at which peers can dial the node; none without a network.
    pub(crate) fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.net()
            .map(|net| net.address().addresses)
            .unwrap_or_default()
    }

    /// The relay through which peers can reach the node, if there is one.
    pub(crate) fn relay(&self) -> Option<String> {
        self.net()?.address().relay
    }

    /// How far the node's clock is ahead of the median of its peers' clocks, in milliseconds; negative when it is
    /// behind, `None` when no peer was met.
    pub(crate) fn clock_lead_ms(&self) -> Option<i64> {
        self.net()?.clock_lead_ms()
    }

    /// How the node's clock stands among those of a store's members.
    pub(crate) fn verdict(&self, store: &StoreId, drift_ms: u64, genesis_ms: u64) -> Verdict {
        let terms = self.terms(drift_ms, genesis_ms);
        match self.net() {
            Some(net) => net.verdict(store, terms),
            None => Verdict::of(self.clock.reading(), &Medians::default(), terms),
        }
    }

    /// As [`Node::verdict`], for a store that is open.
    pub(crate) fn verdict_on(&self, snapshot: &Snapshot) -> Verdict {
        let genesis_ms = snapshot.genesis_time().wall_ms;
        self.verdict(
            &snapshot.store_id(),
            snapshot.genesis().drift_ms,
            genesis_ms,
        )
    }

    /// As [`Node::verdict`], for a store that is being made, by the members of all stores.
    pub(crate) fn verdict_of_all(&self, drift_ms: u64) -> Verdict {
        let terms = self.terms(drift_ms, 0);
        match self.net() {
            Some(net) => net.verdict_of_all(terms),
            None => Verdict::of(self.clock.reading(), &Medians::default(), terms),
        }
    }

    /// Checks the clock before a join by what a member says, who is `lead_ms` ahead. With a clock that is behind by more
    /// than the drift, all that the store holds would be parked here, the admission of this node included.
    ///
    /// # Errors
    /// When the clock is behind by more.
    pub(crate) fn check_is_not_behind(&self, lead_ms: i64, drift_ms: u64) -> Result<()> {
        match u64::try_from(lead_ms) {
            Ok(by_ms) if by_ms > drift_ms && !self.clock.0.trusted => {
                let error = ClockError::Behind { by_ms, drift_ms };
                Err(Failure::not_ready(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn terms(&self, drift_ms: u64, genesis_ms: u64) -> Terms {
        Terms {
            drift_ms,
            genesis_ms,
            trusted: self.clock.0.trusted,
        }
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

    /// The store with that id.
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

    /// Removes a store, such as one whose join failed for good.
    pub(crate) fn remove_slot(&self, id: &StoreId) {
        self.slots.write().expect("no holder panics").remove(id);
    }

    /// Changes the record of a store. Durable when this returns.
    ///
    /// # Errors
    /// When the record cannot be written. The record in memory stays as it is then.
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
    /// When the store is still being joined, does not open, or the node is ending.
    pub(crate) async fn store(&self, slot: &Arc<Slot>) -> Result<Arc<OpenStore>> {
        if let Some(store) = slot.in_use() {
            return Ok(store);
        }
        let node = self.own.upgrade().ok_or_else(Failure::shutting_down)?;
        let slot = slot.clone();
        tokio::task::spawn_blocking(move || node.open_slot(&slot))
            .await
            .map_err(|error| Failure::failed(format!("opening the store: {error}")))?
    }

    /// The open store of a slot, as [`Node::store`] returns it. Blocks. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// Those of [`Node::store`].
    pub(crate) fn open_slot(&self, slot: &Arc<Slot>) -> Result<Arc<OpenStore>> {
        let _one = slot.opening.lock().expect("no holder panics");
        if let Some(store) = slot.in_use() {
            return Ok(store);
        }
        if *self.closing.borrow() {
            return Err(Failure::shutting_down());
        }
        let directory = self.home.store(&slot.id);
        let opened = match Files::are_in(&directory) {
            Ok(false) => return Err(slot.join.failure(&slot.name())),
            Ok(true) => panics::caught("opening it", || {
                OpenStore::open(self.opener(slot.id), self.listener())
            }),
            Err(error) => Err(format!(
                "{}: {error}; {}",
                directory.display(),
                machine_remedy(&error)
            )),
        };
        match opened {
            Ok(store) => {
                *slot.broken.lock().expect("no holder panics") = None;
                let store = Arc::new(store);
                blob::offer_components(self, &store);
                slot.set_open(store.clone());
                if !slot.record().opened
                    && let Err(error) = self.update_slot(slot, |record| record.opened = true)
                {
                    // It is noted the next time.
                    tracing::debug!(store = %slot.id, "{error}");
                }
                Ok(store)
            }
            Err(reason) => {
                *slot.broken.lock().expect("no holder panics") = Some(reason.clone());
                Err(
                    Failure::failed(format!("the store {} does not open: {reason}", slot.name()))
                        .hint("it is tried again whenever it is used"),
                )
            }
        }
    }

    /// Opens every store that is not being joined and was not opened yet, several at once. Blocks. The state of a store
    /// tells when it does not open.
    pub(crate) fn open_all(&self) {
        let mut slots = self.slots();
        slots.retain(|slot| slot.known().is_none() && slot.record().joining.is_none());
        // The writer of an open store needs the runtime, which the threads of `each` must enter for that.
        let runtime = tokio::runtime::Handle::current();
        parallel::each(slots, |slot| {
            let _inside = runtime.enter();
            drop(self.open_slot(&slot));
        });
    }

    /// The function that opens a store, and opens it anew after its disk failed.
    pub(crate) fn opener(&self, id: StoreId) -> Opener {
        let directory = self.home.store(&id);
        let engine = self.components.engine();
        let key = self.key.clone();
        let (clock, own) = (self.clock, self.own.clone());
        Box::new(move || {
            let failed =
                |error: &dyn std::fmt::Display| format!("{}: {error}", directory.display());
            let files = Files::in_dir(&directory).map_err(|error| failed(&error))?;
            if let (Some(damage), Some(node)) = (files.removed_state(), own.upgrade()) {
                notices::tell_of_removed_state(&node, &id, damage);
            }
            let found = restored::look(&directory)
                .map_err(|error| format!("{}; {}", failed(&error), restored::remedy(&error)))?;
            let mut store = Store::open(files, engine.clone(), key.clone(), clock.now_ms())
                .map_err(|error| failed(&error))?;
            if let Some(node) = own.upgrade() {
                restored::leave_restored_chain(&node, &id, &found, &mut store);
            }
            Ok(store)
        })
    }

    /// The listener through which the writers of stores tell this node what happens.
    pub(crate) fn listener(&self) -> Arc<dyn Listener> {
        Arc::new(NodeListener(self.own.clone()))
    }

    /// Makes every store try again what is paused for lack of code.
    pub(crate) fn code_arrived(&self) {
        for slot in self.slots() {
            if let Some(store) = slot.opened() {
                store.wake();
            }
        }
    }

    /// Becomes `true` when the node begins to end. Streams and tasks must end then.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Begins to end the node: [`Node::closing`] becomes `true`.
    pub(crate) fn begin_closing(&self) {
        self.closing.send_replace(true);
    }

    /// Ends the node: says goodbye to peers, flushes the stores, and releases the lock.
    pub(crate) async fn close(self: Arc<Self>) {
        self.begin_closing();
        if let Some(net) = self.net() {
            // Without a connection the close waits only for dials that nobody answers, and no warning is due.
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
        // Requests that were cut off drop their references to the node a moment later. The last reference closes
        // the files and releases the lock; the lock is last, so that the next process finds the files closed.
        let deadline = Instant::now() + Duration::from_millis(200);
        while Arc::strong_count(&self) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

//! A store of this node, open or not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lattice_format::{ComponentRef, StoreId};
use lattice_kernel::sync::{Governance, Stale};
use lattice_kernel::{Changes, Snapshot};

use crate::join::JoinState;
use crate::node::records::StoreRecord;
use crate::store::OpenStore;

/// A store of this node, open or not.
pub(crate) struct Slot {
    pub(crate) id: StoreId,
    pub(super) record: Mutex<StoreRecord>,
    open: Mutex<Open>,
    pub(super) opening: Mutex<()>,
    /// Why the store does not open.
    pub(super) broken: Mutex<Option<String>>,
    governance: Mutex<CachedGovernance>,
    /// What the node does about a missing component; empty when none is missing.
    remedy: Mutex<String>,
    /// The join that brings the store to this node, if there is one.
    pub(crate) join: JoinState,
}

/// A slot's open store, and what is known of it after it was closed.
struct Open {
    store: Option<Arc<OpenStore>>,
    /// When the store was used last, by this node's user or by news of a peer.
    used: Instant,
    /// What was known when the store was closed because nobody used it.
    kept: Option<Kept>,
}

/// What is known of a store that is not open: nothing changes it without opening it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The component that it was made with.
    pub(crate) app: Option<ComponentRef>,
    /// The number of entries in its log.
    pub(crate) count: u64,
    pub(crate) drift_ms: u64,
    pub(crate) genesis_ms: u64,
    /// The largest time of an entry.
    pub(crate) last_ms: u64,
}

impl Kept {
    fn of(snapshot: &Snapshot) -> Self {
        let (genesis, summary) = (snapshot.genesis(), snapshot.summary());
        Self {
            app: genesis.app.clone(),
            count: summary.count,
            drift_ms: genesis.drift_ms,
            genesis_ms: snapshot.genesis_time().wall_ms,
            last_ms: summary.last_time.wall_ms,
        }
    }
}

/// The members when governance was last asked; the same `Arc` as long as they do not change.
#[derive(Default)]
struct CachedGovernance {
    known: Option<Arc<Governance>>,
    /// What changed since; everything before the first look.
    stale: Stale,
}

impl Slot {
    pub(crate) fn new(id: StoreId, record: StoreRecord) -> Arc<Self> {
        Arc::new(Self {
            id,
            record: Mutex::new(record),
            open: Mutex::new(Open {
                store: None,
                used: Instant::now(),
                kept: None,
            }),
            opening: Mutex::new(()),
            broken: Mutex::default(),
            governance: Mutex::default(),
            remedy: Mutex::default(),
            join: JoinState::default(),
        })
    }

    /// The record of the store in `node.redb`.
    pub(crate) fn record(&self) -> StoreRecord {
        self.record.lock().expect("no holder panics").clone()
    }

    /// The store's name on this node.
    pub(crate) fn name(&self) -> String {
        self.record.lock().expect("no holder panics").name.clone()
    }

    /// The store's parent, if it has one.
    pub(crate) fn parent(&self) -> Option<StoreId> {
        StoreId::from_slice(&self.record.lock().expect("no holder panics").parent)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no holder panics")
    }

    /// The store, if it is open. To look at it is not to use it.
    pub(crate) fn opened(&self) -> Option<Arc<OpenStore>> {
        self.open().store.clone()
    }

    /// The store, if it is open. It is used now, and stays open for a while.
    pub(crate) fn in_use(&self) -> Option<Arc<OpenStore>> {
        let mut open = self.open();
        open.used = Instant::now();
        open.store.clone()
    }

    /// Whether the store was closed because nobody used it. It opens again when it is used.
    pub(crate) fn is_resting(&self) -> bool {
        let open = self.open();
        open.store.is_none() && open.kept.is_some()
    }

    /// What is known of the store, open or resting; `None` before it was opened once.
    pub(crate) fn known(&self) -> Option<Kept> {
        let open = self.open();
        match &open.store {
            Some(store) => Some(Kept::of(&store.snapshot())),
            None => open.kept.clone(),
        }
    }

    /// How long the open store was not used; `None` when it is not open.
    pub(super) fn unused_for(&self) -> Option<Duration> {
        let open = self.open();
        open.store.as_ref().map(|_| open.used.elapsed())
    }

    /// Takes the open store out of the slot if it was not used for so long, and nobody holds it or one of its views.
    /// Nobody can get at it any more then. Its writer still runs.
    pub(super) fn take_unused(&self, unused: Duration) -> Option<Arc<OpenStore>> {
        /// The store, the last view that it made, the same as it is published, and as it is looked at here.
        const HOLDERS: usize = 4;
        let mut open = self.open();
        let store = open.store.as_ref()?;
        let snapshot = store.snapshot();
        let is_held = Arc::strong_count(store) > 1 || snapshot.holders() > HOLDERS;
        if is_held || open.used.elapsed() < unused {
            return None;
        }
        open.kept = Some(Kept::of(&snapshot));
        open.store.take()
    }

    /// Why the store does not open; `None` when it did, or was not opened yet.
    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().expect("no holder panics").clone()
    }

    /// What the node does about a missing component; empty when none is missing.
    pub(crate) fn remedy(&self) -> String {
        self.remedy.lock().expect("no holder panics").clone()
    }

    /// Sets what [`Slot::remedy`] returns.
    pub(crate) fn set_remedy(&self, text: String) {
        *self.remedy.lock().expect("no holder panics") = text;
    }

    /// Takes over an open store.
    pub(crate) fn set_open(&self, store: Arc<OpenStore>) {
        let mut open = self.open();
        open.used = Instant::now();
        // No second one can be open: redb locks the files of the first.
        open.store.get_or_insert(store);
    }

    /// The members as of now, or as of the last time that governance could be asked; `None` when it never could.
    pub(crate) fn governance(&self) -> Option<Arc<Governance>> {
        let store = self.opened();
        let mut cached = self.governance.lock().expect("no holder panics");
        let Some(store) = store else {
            return cached.known.clone();
        };
        if cached.known.is_none() || cached.stale.is_stale() {
            // First: what changes while governance is asked makes it stale again.
            let stale = std::mem::take(&mut cached.stale);
            let snapshot = store.snapshot();
            let read = match &cached.known {
                Some(known) => known.refreshed(&snapshot, &stale),
                None => Governance::read(&snapshot),
            };
            match read {
                Ok(now) => {
                    if !cached
                        .known
                        .as_ref()
                        .is_some_and(|known| known.is_same(&now))
                    {
                        cached.known = Some(Arc::new(now));
                    }
                }
                Err(error) => {
                    cached.stale = stale;
                    tracing::debug!(store = %self.id, "governance cannot be asked: {error}");
                }
            }
        }
        cached.known.clone()
    }

    /// Notes what a commit changed, since governance may answer otherwise now.
    pub(super) fn note_changes(&self, changes: &Changes) {
        let mut cached = self.governance.lock().expect("no holder panics");
        cached.stale.note(changes);
    }
}

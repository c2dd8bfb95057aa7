//! A store of this node, open or not.

use std::sync::{Arc, Mutex, OnceLock};

use lattice_format::StoreId;
use lattice_kernel::Changes;
use lattice_kernel::sync::{Governance, Stale};

use crate::join::JoinState;
use crate::node::records::StoreRecord;
use crate::store::OpenStore;

/// A store of this node, open or not.
pub(crate) struct Slot {
    pub(crate) id: StoreId,
    pub(super) record: Mutex<StoreRecord>,
    open: OnceLock<Arc<OpenStore>>,
    pub(super) opening: Mutex<()>,
    /// Why the store does not open.
    pub(super) broken: Mutex<Option<String>>,
    governance: Mutex<CachedGovernance>,
    /// What the node does about a missing component; empty when none is missing.
    remedy: Mutex<String>,
    /// The join that brings the store to this node, if there is one.
    pub(crate) join: JoinState,
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
            open: OnceLock::new(),
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

    /// The store, if it is open.
    pub(crate) fn opened(&self) -> Option<Arc<OpenStore>> {
        self.open.get().cloned()
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
        // No second one can be open: redb locks the files of the first.
        let _ = self.open.set(store);
    }

    /// The members as of now, or as of the last time that governance could be asked; `None` when it never could.
    pub(crate) fn governance(&self) -> Option<Arc<Governance>> {
        let store = self.opened()?;
        let mut cached = self.governance.lock().expect("no holder panics");
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

//! A cache of look-ups in the graph. With it, adding an entry, and asking whether an entry is here, read few rows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use imbl::OrdMap;
use lattice_format::{DeviceKey, IntentionId, Seq, Time};

use crate::graph::dag::{self, Branch, BranchId};
use crate::graph::ids::IdMap;
use crate::graph::live_heads::LiveHeads;
use crate::graph::version_vector::PastCache;
use crate::graph::void;
use crate::limits::{BRANCHES_MAX, NAMES_MAX};
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;

/// The entries that no witnessed entry names.
pub(crate) type Heads = OrdMap<IntentionId, LocalSeq>;

/// What memory keeps of the graph, for the writer.
#[derive(Debug, Default)]
pub(crate) struct LookupCache {
    pub(crate) pasts: PastCache,
    pub(crate) names: Names,
    branches: HashMap<BranchId, Branch>,
    /// Devices that were found to be admitted, each with the entry that admits it.
    admissions: HashSet<(DeviceKey, LocalSeq)>,
    /// All heads, as the rows have them.
    pub(crate) heads: Heads,
    pub(crate) live_heads: LiveHeads,
    /// Whether governance may have cut any entry off.
    pub(crate) any_void: bool,
}

impl LookupCache {
    /// Reads those parts of the cache that must be complete. The others fill when they are asked for.
    pub(crate) fn of(rows: &RowsView) -> Result<Self, StorageError> {
        Ok(Self {
            heads: dag::heads(rows)?,
            any_void: void::any_is_void(rows)?,
            ..Self::default()
        })
    }

    /// Goes back to `heads` and forgets all else, because entries were undone and other entries will get their
    /// numbers.
    pub(crate) fn go_back(&mut self, heads: Heads) {
        self.pasts.clear();
        self.names.forget();
        self.branches.clear();
        self.admissions.clear();
        self.heads = heads;
        self.live_heads.forget();
    }

    /// The branch `id`, which must exist.
    pub(crate) fn branch(&mut self, rows: &RowsView, id: BranchId) -> Result<Branch, StorageError> {
        if let Some(branch) = self.branches.get(&id) {
            return Ok(branch.clone());
        }
        let branch = dag::branch(rows, id)?;
        self.set_branch(id, branch.clone());
        Ok(branch)
    }

    /// Remembers the row of a branch.
    pub(crate) fn set_branch(&mut self, id: BranchId, branch: Branch) {
        if self.branches.len() >= BRANCHES_MAX && !self.branches.contains_key(&id) {
            self.branches.clear();
        }
        self.branches.insert(id, branch);
    }

    /// Whether the entry at `admitting` admits `device`.
    pub(crate) fn admits(
        &mut self,
        rows: &RowsView,
        device: &DeviceKey,
        admitting: LocalSeq,
    ) -> Result<bool, StorageError> {
        let admission = (*device, admitting);
        if self.admissions.contains(&admission) {
            return Ok(true);
        }
        let admits = dag::admits(rows, device, admitting)?;
        if admits {
            if self.admissions.len() >= BRANCHES_MAX {
                self.admissions.clear();
            }
            self.admissions.insert(admission);
        }
        Ok(admits)
    }
}

/// What the admission and insertion of an entry need to know of each entry that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) local: LocalSeq,
    pub(crate) branch: BranchId,
    pub(crate) seq: Seq,
    pub(crate) time: Time,
    pub(crate) chain_bytes: u64,
}

#[derive(Debug, Default)]
struct Lately {
    known: IdMap<Named>,
    order: VecDeque<IntentionId>,
}

/// Entries that were added or named lately, by id. The next entries mostly name these, and peers mostly ask for
/// these.
///
/// Clones share one table, so snapshots read what the writer puts. The writer puts an entry before it is durable:
/// readers check that the entry's number is below the count of their view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<Lately>>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, Lately> {
        self.0.lock().expect("no panic while it is held")
    }

    /// What the table holds of an entry. It may not be durable yet.
    pub(crate) fn get(&self, id: &IntentionId) -> Option<Named> {
        self.lock().known.get(id).copied()
    }

    /// The number of an entry in the log, as the writer sees it.
    pub(crate) fn local_of(
        &self,
        rows: &RowsView,
        id: &IntentionId,
    ) -> Result<Option<LocalSeq>, StorageError> {
        match self.get(id) {
            Some(named) => Ok(Some(named.local)),
            None => dag::local_of(rows, id),
        }
    }

    /// Finds an entry for the writer and remembers it, because the next entries will name it too.
    pub(crate) fn find(
        &self,
        rows: &RowsView,
        id: &IntentionId,
    ) -> Result<Option<Named>, StorageError> {
        if let Some(named) = self.get(id) {
            return Ok(Some(named));
        }
        let Some(local) = dag::local_of(rows, id)? else {
            return Ok(None);
        };
        let meta = dag::meta(rows, local)?;
        let named = Named {
            local,
            branch: meta.branch,
            seq: meta.seq,
            time: meta.time,
            chain_bytes: meta.chain_bytes,
        };
        self.put(*id, named);
        Ok(Some(named))
    }

    pub(crate) fn put(&self, id: IntentionId, named: Named) {
        let mut lately = self.lock();
        if lately.order.len() == NAMES_MAX
            && let Some(oldest) = lately.order.pop_front()
        {
            lately.known.remove(&oldest);
        }
        if lately.known.insert(id, named).is_none() {
            lately.order.push_back(id);
        }
    }

    pub(crate) fn forget(&self) {
        *self.lock() = Lately::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_format::{ChainId, Lane};

    use super::*;
    use crate::testing::{self, Step, device};

    #[test]
    fn what_is_undone_leaves_no_trace() {
        let now_ms = 1_000_000;
        let mut store = testing::found(0, now_ms);
        let genesis = *store.snapshot().summary().heads.first().unwrap();
        let call = || vec![testing::program(&[Step::StoreGlobal])];
        let run = |store: &mut crate::Store| {
            store.call(Lane::App, call(), now_ms, ChainId(1)).unwrap();
            store.close_intention(now_ms).unwrap();
            *store.core.cache.heads.keys().next().unwrap()
        };
        let undone = run(&mut store);
        assert!(undone != genesis && store.core.local_of(&undone).unwrap().is_some());
        store.roll_back();
        let cache = &mut store.core.cache;
        assert_eq!(cache.heads, dag::heads(&store.core.rows).unwrap());
        assert_eq!(cache.heads.get(&genesis), Some(&LocalSeq(0)));
        assert_eq!(cache.names.get(&undone), None);
        let branch = cache.branch(&store.core.rows, BranchId(0)).unwrap();
        assert_eq!(branch.tip_local, LocalSeq(0));
        assert!(store.core.local_of(&undone).unwrap().is_none());
        let snapshot = store.snapshot();
        assert!(!snapshot.contains(&undone).unwrap());
        // Another entry gets the number of the one that was undone.
        let later = store.call(Lane::App, call(), now_ms + 1, ChainId(1));
        assert!(later.unwrap().outcome.is_ok());
        store.commit(now_ms + 1).unwrap();
        let heads = store.core.cache.heads.clone();
        assert_eq!(heads, dag::heads(&store.core.rows).unwrap());
        assert!(!heads.contains_key(&undone) && heads.len() == 1);
    }

    #[test]
    fn an_admission_that_was_found_is_found_again_and_no_other() {
        let store = testing::found(0, 1_000_000);
        let (mut cache, rows) = (LookupCache::default(), &store.core.rows);
        for _ in 0..2 {
            assert!(cache.admits(rows, &device(0), LocalSeq(0)).unwrap());
            assert!(!cache.admits(rows, &device(1), LocalSeq(0)).unwrap());
            assert!(!cache.admits(rows, &device(0), LocalSeq(1)).unwrap());
        }
        assert_eq!(cache.admissions.len(), 1);
    }

    #[test]
    fn branches_and_admissions_are_kept_up_to_their_number() {
        let store = testing::found(0, 1_000_000);
        let (mut cache, rows) = (LookupCache::default(), &store.core.rows);
        let branch = cache.branch(rows, BranchId(0)).unwrap();
        for n in 1..BRANCHES_MAX as u64 {
            cache.set_branch(BranchId(n as u32), branch.clone());
            cache.admissions.insert((device(0), LocalSeq(n)));
        }
        assert_eq!(cache.branches.len(), BRANCHES_MAX);
        assert!(cache.admits(rows, &device(0), LocalSeq(0)).unwrap());
        assert_eq!(cache.admissions.len(), BRANCHES_MAX);
        // What is there already needs no more room.
        cache.set_branch(BranchId(0), branch.clone());
        assert!(cache.admits(rows, &device(0), LocalSeq(0)).unwrap());
        assert_eq!(cache.branches.len(), BRANCHES_MAX);
        cache.set_branch(BranchId(BRANCHES_MAX as u32), branch);
        cache.admissions.remove(&(device(0), LocalSeq(0)));
        cache.admissions.insert((device(0), LocalSeq(u64::MAX)));
        assert!(cache.admits(rows, &device(0), LocalSeq(0)).unwrap());
        assert_eq!((cache.branches.len(), cache.admissions.len()), (1, 1));
    }

    #[test]
    fn the_last_names_are_kept_up_to_their_number() {
        let names = Names::default();
        let id = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            IntentionId(bytes)
        };
        let named = |n| Named {
            local: LocalSeq(n),
            branch: BranchId(0),
            seq: Seq(n),
            time: Time::default(),
            chain_bytes: 0,
        };
        let has = |n| names.get(&id(n)).is_some_and(|found| found == named(n));
        let max = NAMES_MAX as u64;
        // An entry that is put twice counts once.
        for n in (0..max).chain([max - 1]) {
            names.put(id(n), named(n));
        }
        names.put(id(max), named(max));
        assert!(!has(0) && has(max - 1) && has(max));
        let lately = names.lock();
        assert!(lately.known.len() == lately.order.len() && lately.order.len() <= NAMES_MAX);
        drop(lately);
        names.forget();
        assert!(!has(max));
    }
}

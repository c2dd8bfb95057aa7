//! Version vectors: how far an entry's past reaches into each branch.
//!
//! A past is a persistent tree ([`crate::graph::past_tree`]) with a few changes beside it. The changes of the next
//! entries join the list until it is full, and then move into the tree. An entry that saw no more than its predecessor
//! in the branch has no row. The first entry of a branch builds on the past of an entry that it names, so chains that
//! each have a single entry share what they have seen as the entries of one chain do.
//!
//! ```text
//! 'S' branch (4) seq (8) → the tree's number, 0 for none (varint),
//!                          then pairs: branch less the one before (varint), seq (varint)
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use lattice_format::Seq;

use crate::graph::dag::{BranchId, key};
use crate::graph::past_tree::{self, NodeId, Nodes};
use crate::limits::PASTS_CACHED_MAX;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// Changes beside a tree after which they move into it. In a store of so few devices there are no trees.
const CHANGES_MAX: usize = 8;

fn row_key(branch: BranchId, seq: u64) -> Vec<u8> {
    key(b'S', &[&branch.0.to_be_bytes(), &seq.to_be_bytes()])
}

/// How far an entry's past reaches into all branches but its own, where it reaches as far as the entry. In its own
/// branch, what the past says may be less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    tree: Option<NodeId>,
    /// By ascending branch, where it reaches further than the tree.
    changes: Vec<(BranchId, Seq)>,
}

impl Past {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 4 * self.changes.len());
        put_varint(self.tree.map_or(0, |tree| tree.0), &mut out);
        let mut before = 0;
        for (branch, seq) in &self.changes {
            put_varint(u64::from(branch.0 - before), &mut out);
            put_varint(seq.0, &mut out);
            before = branch.0;
        }
        out
    }

    fn decode(mut rest: &[u8]) -> Option<Self> {
        let tree = match take_varint(&mut rest)? {
            0 => None,
            number => Some(NodeId(number)),
        };
        let (mut changes, mut branch) = (Vec::new(), 0u64);
        while !rest.is_empty() {
            branch = branch.checked_add(take_varint(&mut rest)?)?;
            let seq = Seq(take_varint(&mut rest)?);
            changes.push((BranchId(u32::try_from(branch).ok()?), seq));
        }
        Some(Self { tree, changes })
    }

    /// The past of entry `seq` of `branch`.
    pub(crate) fn of(rows: &RowsView, branch: BranchId, seq: Seq) -> Result<Self, StorageError> {
        let end = row_key(branch, seq.0.saturating_add(1));
        match rows.first(&row_key(branch, 0), &end, true)? {
            Some((key, row)) => Self::decode(&row).ok_or_else(|| StorageError::row(&key)),
            None => Ok(Self::default()),
        }
    }

    fn changed(&self, branch: BranchId) -> Option<Seq> {
        let at = self.changes.binary_search_by_key(&branch, |(b, _)| *b);
        at.ok().map(|at| self.changes[at].1)
    }

    /// How far the past reaches into a branch; `None` where it has no entry of the branch.
    pub(crate) fn reach(
        &self,
        rows: &RowsView,
        branch: BranchId,
    ) -> Result<Option<Seq>, StorageError> {
        match (self.changed(branch), self.tree) {
            (None, Some(tree)) => past_tree::reach(rows, tree, branch),
            (changed, _) => Ok(changed),
        }
    }

    /// Writes the past as that of entry `seq` of `branch`.
    pub(crate) fn store(&self, rows: &mut Rows, branch: BranchId, seq: Seq) {
        rows.put(row_key(branch, seq.0), self.encode());
    }
}

/// How far into `other` the past of entry `seq` of `branch` reaches.
pub(crate) fn seen(
    rows: &RowsView,
    branch: BranchId,
    other: BranchId,
    seq: Seq,
) -> Result<Option<Seq>, StorageError> {
    if branch == other {
        return Ok(Some(seq));
    }
    Past::of(rows, branch, seq)?.reach(rows, other)
}

/// A cache of the pasts of entries that were added lately, and of the nodes of their trees, because the next entries
/// build on them.
#[derive(Debug, Default)]
pub(crate) struct PastCache {
    nodes: Nodes,
    pasts: HashMap<LocalSeq, Arc<Past>>,
    order: VecDeque<LocalSeq>,
}

impl PastCache {
    /// The past of the entry `local`, which is entry `seq` of `branch`.
    pub(crate) fn get(
        &mut self,
        rows: &RowsView,
        local: LocalSeq,
        branch: BranchId,
        seq: Seq,
    ) -> Result<Arc<Past>, StorageError> {
        if let Some(past) = self.pasts.get(&local) {
            return Ok(past.clone());
        }
        let past = Arc::new(Past::of(rows, branch, seq)?);
        self.put(local, past.clone());
        Ok(past)
    }

    pub(crate) fn put(&mut self, local: LocalSeq, past: Arc<Past>) {
        if self.order.len() == PASTS_CACHED_MAX
            && !self.pasts.contains_key(&local)
            && let Some(oldest) = self.order.pop_front()
        {
            self.pasts.remove(&oldest);
        }
        if self.pasts.insert(local, past).is_none() {
            self.order.push_back(local);
        }
    }

    /// Whether `past` reaches entry `seq` of `branch`, and so the past of that entry as well.
    pub(crate) fn reaches(
        &mut self,
        rows: &RowsView,
        past: &Past,
        branch: BranchId,
        seq: Seq,
    ) -> Result<bool, StorageError> {
        Ok(self.reach(rows, past, branch)? >= Some(seq))
    }

    /// As [`Past::reach`], with the nodes that are remembered.
    pub(crate) fn reach(
        &mut self,
        rows: &RowsView,
        past: &Past,
        branch: BranchId,
    ) -> Result<Option<Seq>, StorageError> {
        match (past.changed(branch), past.tree) {
            (None, Some(tree)) => self.nodes.reach(rows, tree, branch),
            (changed, _) => Ok(changed),
        }
    }

    /// Raises `past` to all that `other` reaches.
    pub(crate) fn merge(
        &mut self,
        rows: &mut Rows,
        past: &mut Past,
        other: &Past,
    ) -> Result<(), StorageError> {
        let tree = match (past.tree, other.tree) {
            (Some(one), Some(other)) => Some(self.nodes.merge(rows, one, other)?),
            (one, other) => one.or(other),
        };
        if tree != past.tree {
            past.tree = tree;
            for (branch, seq) in std::mem::take(&mut past.changes) {
                self.raise(rows, past, branch, seq)?;
            }
        }
        for (branch, seq) in &other.changes {
            self.raise(rows, past, *branch, *seq)?;
        }
        Ok(())
    }

    /// Raises `past` to entry `seq` of `branch`.
    pub(crate) fn raise(
        &mut self,
        rows: &mut Rows,
        past: &mut Past,
        branch: BranchId,
        seq: Seq,
    ) -> Result<(), StorageError> {
        if self.reaches(rows, past, branch, seq)? {
            return Ok(());
        }
        match past.changes.binary_search_by_key(&branch, |(b, _)| *b) {
            Ok(at) => past.changes[at].1 = seq,
            Err(at) => past.changes.insert(at, (branch, seq)),
        }
        if past.changes.len() > CHANGES_MAX {
            past.tree = self.nodes.raise(rows, past.tree, &past.changes)?;
            past.changes.clear();
        }
        Ok(())
    }

    /// Forgets everything, because entries were undone and other entries will get their numbers.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Pasts that are raised and merged reach as far as maps that are, also when they were stored and read again.
        #[test]
        fn pasts_reach_as_far_as_maps(
            steps in proptest::collection::vec(
                (any::<usize>(), any::<usize>(), proptest::collection::vec((0u32..60, 0u64..300), 0..6)),
                1..40,
            ),
        ) {
            let (mut rows, mut cache) = (Rows::in_memory().unwrap(), PastCache::default());
            let mut all = vec![(Past::default(), BTreeMap::<u32, u64>::new())];
            for (one, other, sights) in steps {
                let (mut past, mut map) = all[one % all.len()].clone();
                let other = all[other % all.len()].clone();
                cache.merge(&mut rows, &mut past, &other.0).unwrap();
                for (branch, seq) in other.1.iter().map(|(b, s)| (*b, *s)).chain(sights) {
                    cache.raise(&mut rows, &mut past, BranchId(branch), Seq(seq)).unwrap();
                    let reach = map.entry(branch).or_insert(seq);
                    *reach = seq.max(*reach);
                }
                prop_assert!(past.changes.len() <= CHANGES_MAX);
                past.store(&mut rows, BranchId(100), Seq(all.len() as u64));
                all.push((past, map));
            }
            // Rows of a neighbouring branch must not be read as rows of this one.
            Past::default().store(&mut rows, BranchId(101), Seq(0));
            for (seq, (past, map)) in (0..).map(Seq).zip(&all).skip(1) {
                prop_assert_eq!(&Past::of(&rows, BranchId(100), seq).unwrap(), past);
                for other in 0..62 {
                    let expected = map.get(&other).copied().map(Seq);
                    prop_assert_eq!(seen(&rows, BranchId(100), BranchId(other), seq).unwrap(), expected);
                    prop_assert_eq!(cache.reach(&rows, past, BranchId(other)).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn an_entry_without_a_row_has_the_past_of_the_one_before_in_its_branch() {
        let (mut rows, mut cache) = (Rows::in_memory().unwrap(), PastCache::default());
        let mut past = Past::default();
        cache
            .raise(&mut rows, &mut past, BranchId(1), Seq(5))
            .unwrap();
        past.store(&mut rows, BranchId(0), Seq(3));
        let seen = |seq| seen(&rows, BranchId(0), BranchId(1), Seq(seq)).unwrap();
        assert_eq!(
            [seen(2), seen(3), seen(99)],
            [None, Some(Seq(5)), Some(Seq(5))]
        );
    }

    #[test]
    fn remembered_pasts_are_bounded_by_their_number() {
        let mut cache = PastCache::default();
        for local in 0..PASTS_CACHED_MAX as u64 {
            cache.put(LocalSeq(local), Arc::default());
        }
        // One that is put twice counts once.
        cache.put(LocalSeq(5), Arc::default());
        assert_eq!(cache.pasts.len(), PASTS_CACHED_MAX);
        cache.put(LocalSeq(1_000_000), Arc::default());
        assert_eq!(cache.pasts.len(), PASTS_CACHED_MAX);
        assert!(!cache.pasts.contains_key(&LocalSeq(0)));
    }
}

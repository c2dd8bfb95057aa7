//! The ids of a store's heads, as readers get them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lattice_format::IntentionId;

use crate::graph::lookup_cache::Heads;

/// The ids of heads, ascending. Clones share what they have in common, so a commit costs what it changes, however many
/// heads there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadIds(pub(crate) Heads);

impl HeadIds {
    /// The number of heads.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none, as before the genesis.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &IntentionId> {
        self.0.keys()
    }

    /// The smallest id; `None` when there is none.
    pub fn first(&self) -> Option<&IntentionId> {
        self.0.get_min().map(|(id, _)| id)
    }

    /// The `limit` heads that were witnessed last, the newest first.
    pub fn newest(&self, limit: usize) -> Vec<IntentionId> {
        let mut newest = BinaryHeap::new();
        for (id, local) in &self.0 {
            newest.push(Reverse((*local, *id)));
            if newest.len() > limit {
                newest.pop();
            }
        }
        let sorted = newest.into_sorted_vec().into_iter();
        sorted.map(|Reverse((_, id))| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::keys::LocalSeq;

    #[test]
    fn the_newest_heads_are_those_witnessed_last() {
        let id = |n: u8| IntentionId([n; 32]);
        let heads = [(id(1), 7), (id(2), 9), (id(3), 2), (id(4), 8)];
        let heads = HeadIds(heads.into_iter().map(|(id, n)| (id, LocalSeq(n))).collect());
        assert_eq!(heads.newest(3), [id(2), id(4), id(1)]);
        assert_eq!(heads.newest(9).len(), heads.len());
        assert_eq!(heads.newest(0), []);
        assert_eq!(heads.first(), Some(&id(1)));
        assert!(heads.iter().is_sorted() && !heads.is_empty());
    }
}

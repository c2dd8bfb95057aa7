//! Persistent trees from branches to the last entry that a past reaches in each: the stored form of version vectors.
//!
//! A tree is a radix tree over the numbers of branches, 32 places a node. A node never changes: a vector that reaches
//! further gets new nodes on the paths to what changed and shares all others with the tree before (path copying;
//! Driscoll, Sarnak, Sleator, Tarjan, "Making Data Structures Persistent", 1989). So a thousand entries that have seen
//! a hundred thousand branches do not store them a thousand times, and two trees are merged without a look at what
//! they share.
//!
//! ```text
//! 'U' node (8) → level (1; 0 in a leaf), the places that are taken (4, a bit each), then for each a varint: in a leaf
//!                the seq, in other nodes the number of this node less that of the child
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use lattice_format::Seq;

use crate::graph::dag::{BranchId, key};
use crate::limits::PAST_NODES_CACHED_MAX;
use crate::storage::error::StorageError;
use crate::storage::keys::{put_varint, take, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// Bits of a branch's number that one level of a tree decides.
const BITS: u32 = 5;
const PLACES: u64 = 1 << BITS;

/// The number of a node, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    level: u8,
    /// By ascending place the seq of a branch, in a leaf, or the number of a child.
    slots: Vec<(u8, u64)>,
}

fn node_key(id: NodeId) -> Vec<u8> {
    key(b'U', &[&id.0.to_be_bytes()])
}

/// The place of a branch in a node of `level`.
fn place(branch: BranchId, level: u8) -> u8 {
    ((u64::from(branch.0) >> (BITS * u32::from(level))) % PLACES) as u8
}

/// Whether a tree with its root at `level` has a place for a branch.
fn has_place(branch: BranchId, level: u8) -> bool {
    u64::from(branch.0) >> (BITS * (u32::from(level) + 1)) == 0
}

impl Node {
    fn encode(&self, id: NodeId) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + 3 * self.slots.len());
        let taken = self.slots.iter().fold(0u32, |set, (at, _)| set | 1 << at);
        out.push(self.level);
        out.extend_from_slice(&taken.to_be_bytes());
        for (_, value) in &self.slots {
            let value = if self.level == 0 {
                *value
            } else {
                id.0 - value
            };
            put_varint(value, &mut out);
        }
        out
    }

    fn decode(id: NodeId, mut rest: &[u8]) -> Option<Self> {
        let [level, taken @ ..] = take(&mut rest, 5)? else {
            return None;
        };
        let taken = u32::from_be_bytes(taken.try_into().ok()?);
        let mut slots = Vec::with_capacity(taken.count_ones() as usize);
        for at in (0..PLACES as u8).filter(|at| taken & 1 << at != 0) {
            let value = take_varint(&mut rest)?;
            let value = match level {
                0 => value,
                _ => id.0.checked_sub(value).filter(|child| *child < id.0)?,
            };
            slots.push((at, value));
        }
        Some(Self {
            level: *level,
            slots,
        })
    }

    fn at(&self, place: u8) -> Option<u64> {
        let at = self.slots.binary_search_by_key(&place, |(at, _)| *at);
        at.ok().map(|at| self.slots[at].1)
    }

    fn set(&mut self, place: u8, value: u64) {
        match self.slots.binary_search_by_key(&place, |(at, _)| *at) {
            Ok(at) => self.slots[at].1 = value,
            Err(at) => self.slots.insert(at, (place, value)),
        }
    }
}

fn read(rows: &RowsView, id: NodeId) -> Result<Node, StorageError> {
    let key = node_key(id);
    rows.get(&key)?
        .and_then(|row| Node::decode(id, &row))
        .ok_or_else(|| StorageError::row(&key))
}

/// How far the tree reaches into a branch; `None` where it has no entry of the branch.
fn reach_by<N: AsRef<Node>>(
    root: NodeId,
    branch: BranchId,
    mut node: impl FnMut(NodeId) -> Result<N, StorageError>,
) -> Result<Option<Seq>, StorageError> {
    let mut at = node(root)?;
    if !has_place(branch, at.as_ref().level) {
        return Ok(None);
    }
    loop {
        let level = at.as_ref().level;
        match at.as_ref().at(place(branch, level)) {
            Some(seq) if level == 0 => return Ok(Some(Seq(seq))),
            Some(child) => at = node(NodeId(child))?,
            None => return Ok(None),
        }
        // A child lies one level below its parent; anything else is damage, and could be followed for ever.
        if at.as_ref().level + 1 != level {
            return Err(StorageError::row(b"U"));
        }
    }
}

impl AsRef<Node> for Node {
    fn as_ref(&self) -> &Node {
        self
    }
}

/// How far the tree reaches into a branch, for readers, who have no cache.
pub(crate) fn reach(
    rows: &RowsView,
    root: NodeId,
    branch: BranchId,
) -> Result<Option<Seq>, StorageError> {
    reach_by(root, branch, |id| read(rows, id))
}

/// The nodes that the writer has read or written lately. The next entries build on them.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    known: HashMap<NodeId, Arc<Node>>,
    order: VecDeque<NodeId>,
    /// The number of the last node; `None` until it is looked up.
    last: Option<u64>,
}

impl Nodes {
    fn get(&mut self, rows: &RowsView, id: NodeId) -> Result<Arc<Node>, StorageError> {
        if let Some(node) = self.known.get(&id) {
            return Ok(node.clone());
        }
        let node = Arc::new(read(rows, id)?);
        self.remember(id, node.clone());
        Ok(node)
    }

    fn remember(&mut self, id: NodeId, node: Arc<Node>) {
        if self.order.len() == PAST_NODES_CACHED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(id, node).is_none() {
            self.order.push_back(id);
        }
    }

    fn put(&mut self, rows: &mut Rows, node: Node) -> Result<NodeId, StorageError> {
        let last = match self.last {
            Some(last) => last,
            None => match rows.first(b"U", b"V", true)? {
                Some((key, _)) => key[1..]
                    .try_into()
                    .map(u64::from_be_bytes)
                    .map_err(|_| StorageError::row(&key))?,
                None => 0,
            },
        };
        let id = NodeId(last + 1);
        self.last = Some(id.0);
        rows.put(node_key(id), node.encode(id));
        self.remember(id, Arc::new(node));
        Ok(id)
    }

    /// As [`reach`], for the writer.
    pub(crate) fn reach(
        &mut self,
        rows: &RowsView,
        root: NodeId,
        branch: BranchId,
    ) -> Result<Option<Seq>, StorageError> {
        reach_by(root, branch, |id| self.get(rows, id))
    }

    /// The tree `root` raised to `changes`, which are sorted by branch, where these reach further.
    pub(crate) fn raise(
        &mut self,
        rows: &mut Rows,
        root: Option<NodeId>,
        changes: &[(BranchId, Seq)],
    ) -> Result<Option<NodeId>, StorageError> {
        let Some((highest, _)) = changes.last() else {
            return Ok(root);
        };
        let mut level = match root {
            Some(root) => self.get(rows, root)?.level,
            None => 0,
        };
        let mut base = root;
        while !has_place(*highest, level) {
            level += 1;
            if let Some(root) = base {
                base = Some(self.put(rows, parent_of(root, level))?);
            }
        }
        self.raise_at(rows, level, base, changes).map(Some)
    }

    fn raise_at(
        &mut self,
        rows: &mut Rows,
        level: u8,
        base: Option<NodeId>,
        changes: &[(BranchId, Seq)],
    ) -> Result<NodeId, StorageError> {
        let mut node = match base {
            Some(base) => Node::clone(&*self.get(rows, base)?),
            None => Node {
                level,
                slots: Vec::new(),
            },
        };
        let mut changed = false;
        for group in changes.chunk_by(|a, b| level > 0 && place(a.0, level) == place(b.0, level)) {
            let place = place(group[0].0, level);
            let known = node.at(place);
            let value = match level {
                0 => known.unwrap_or(0).max(group[0].1.0),
                _ => self.raise_at(rows, level - 1, known.map(NodeId), group)?.0,
            };
            if known != Some(value) {
                node.set(place, value);
                changed = true;
            }
        }
        match base {
            Some(base) if !changed => Ok(base),
            _ => self.put(rows, node),
        }
    }

    /// The tree that reaches as far as `a` and as `b`. Where both have the same content in different nodes, the older
    /// node is taken, so that pasts which have seen the same come to share their nodes.
    pub(crate) fn merge(
        &mut self,
        rows: &mut Rows,
        a: NodeId,
        b: NodeId,
    ) -> Result<NodeId, StorageError> {
        if a == b {
            return Ok(a);
        }
        let (mut one, mut other) = (self.get(rows, a)?, self.get(rows, b)?);
        if one.level != other.level {
            let (high, mut low) = if one.level > other.level {
                (a, b)
            } else {
                (b, a)
            };
            if one.level < other.level {
                (one, other) = (other, one);
            }
            // The lower tree stands at the first place of the higher one.
            let first = match one.at(0) {
                Some(first) => self.merge(rows, NodeId(first), low)?,
                None => {
                    for level in other.level + 1..one.level {
                        low = self.put(rows, parent_of(low, level))?;
                    }
                    low
                }
            };
            if one.at(0) == Some(first.0) {
                return Ok(high);
            }
            let mut node = Node::clone(&one);
            node.set(0, first.0);
            return self.put(rows, node);
        }
        let mut merged = Node::clone(&one);
        for (place, value) in &other.slots {
            let value = match merged.at(*place) {
                None => *value,
                Some(known) if merged.level == 0 => known.max(*value),
                Some(known) => self.merge(rows, NodeId(known), NodeId(*value))?.0,
            };
            merged.set(*place, value);
        }
        match (merged == *one, merged == *other) {
            (true, true) => Ok(a.min(b)),
            (true, false) => Ok(a),
            (false, true) => Ok(b),
            (false, false) => self.put(rows, merged),
        }
    }
}

/// A node of `level` above a tree whose branches all stand at its first place.
fn parent_of(child: NodeId, level: u8) -> Node {
    Node {
        level,
        slots: vec![(0, child.0)],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::rows::work;

    fn branches() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..40, 0u32..5_000, Just(u32::MAX - 1), any::<u32>()]
    }

    type Changes = BTreeMap<u32, u64>;

    fn list(changes: &Changes) -> Vec<(BranchId, Seq)> {
        let changes = changes.iter();
        changes.map(|(b, s)| (BranchId(*b), Seq(*s))).collect()
    }

    fn raised(a: &Changes, b: &Changes) -> Changes {
        let mut both = a.clone();
        for (branch, seq) in b {
            let reach = both.entry(*branch).or_default();
            *reach = (*reach).max(*seq);
        }
        both
    }

    proptest! {
        /// Trees that are raised and merged in any order reach as far as maps that are, and older trees stay as they
        /// were.
        #[test]
        fn trees_reach_as_far_as_maps(
            steps in proptest::collection::vec(
                (any::<usize>(), any::<usize>(), proptest::collection::btree_map(branches(), 0u64..9, 0..12)),
                1..12,
            ),
            asked in proptest::collection::vec(branches(), 20),
        ) {
            let (mut rows, mut nodes) = (Rows::in_memory().unwrap(), Nodes::default());
            let mut trees: Vec<(Option<NodeId>, Changes)> = vec![(None, Changes::new())];
            for (a, b, changes) in steps {
                let (a, b) = (trees[a % trees.len()].clone(), trees[b % trees.len()].clone());
                let tree = nodes.raise(&mut rows, a.0, &list(&changes)).unwrap();
                let map = raised(&a.1, &changes);
                trees.push((tree, map.clone()));
                if let (Some(x), Some(y)) = (tree, b.0) {
                    let merged = nodes.merge(&mut rows, x, y).unwrap();
                    trees.push((Some(merged), raised(&map, &b.1)));
                }
            }
            rows.flush().unwrap();
            let mut afresh = Nodes::default();
            for (tree, map) in &trees {
                for branch in map.keys().chain(&asked).map(|b| BranchId(*b)) {
                    let expected = map.get(&branch.0).map(|seq| Seq(*seq));
                    let Some(tree) = *tree else {
                        prop_assert_eq!(expected, None);
                        continue;
                    };
                    prop_assert_eq!(reach(&rows, tree, branch).unwrap(), expected);
                    prop_assert_eq!(afresh.reach(&rows, tree, branch).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn a_change_of_a_large_tree_writes_one_path_and_merging_reads_what_differs() {
        let (mut rows, mut nodes) = (Rows::in_memory().unwrap(), Nodes::default());
        let all: Vec<_> = (0..100_000).map(|b| (BranchId(b), Seq(1))).collect();
        let tree = nodes.raise(&mut rows, None, &all).unwrap();
        let change = |at: u32| [(BranchId(at), Seq(2))];
        let (work, one) = work::of(|| nodes.raise(&mut rows, tree, &change(70_000)).unwrap());
        assert_eq!(work.written, 4, "a tree of 100,000 has four levels");
        let other = nodes.raise(&mut rows, tree, &change(20)).unwrap();
        let mut afresh = Nodes::default();
        let (one, other) = (one.unwrap(), other.unwrap());
        let (work, both) = work::of(|| afresh.merge(&mut rows, one, other).unwrap());
        // Two nodes a level on each of the two paths, and the number of the last node.
        assert!(work.read <= 16 && work.written == 1, "{work:?}");
        // What both have already is found without a new node, in whatever order they come.
        for (a, b) in [(both, one), (other, both), (both, both)] {
            assert_eq!(afresh.merge(&mut rows, a, b).unwrap(), both);
        }
    }

    #[test]
    fn pasts_that_have_seen_the_same_come_to_share_their_nodes() {
        let (mut rows, mut nodes) = (Rows::in_memory().unwrap(), Nodes::default());
        let all: Vec<_> = (0..5_000).map(|b| (BranchId(b), Seq(1))).collect();
        let one = nodes.raise(&mut rows, None, &all).unwrap().unwrap();
        let other = nodes.raise(&mut rows, None, &all).unwrap().unwrap();
        assert!(one < other);
        assert_eq!(nodes.merge(&mut rows, other, one).unwrap(), one);
        assert_eq!(nodes.merge(&mut rows, one, other).unwrap(), one);
    }

    #[test]
    fn nodes_are_remembered_up_to_their_number() {
        let (mut rows, mut nodes) = (Rows::in_memory().unwrap(), Nodes::default());
        let leaf = |seq| Node {
            level: 0,
            slots: vec![(0, seq)],
        };
        for seq in 0..PAST_NODES_CACHED_MAX as u64 {
            nodes.put(&mut rows, leaf(seq)).unwrap();
        }
        assert_eq!(nodes.known.len(), PAST_NODES_CACHED_MAX);
        assert!(nodes.known.contains_key(&NodeId(1)));
        nodes.put(&mut rows, leaf(0)).unwrap();
        assert_eq!(nodes.known.len(), PAST_NODES_CACHED_MAX);
        assert!(!nodes.known.contains_key(&NodeId(1)));
    }

    #[test]
    fn a_damaged_node_is_an_error() {
        let (mut rows, mut nodes) = (Rows::in_memory().unwrap(), Nodes::default());
        let all: Vec<_> = (0..40).map(|b| (BranchId(b), Seq(1))).collect();
        let root = nodes.raise(&mut rows, None, &all).unwrap().unwrap();
        // A root whose child is on its own level.
        let odd = Node {
            level: 1,
            slots: vec![(0, root.0)],
        };
        let odd = nodes.put(&mut rows, odd).unwrap();
        assert!(reach(&rows, odd, BranchId(1)).is_err());
        let whole = rows.get(&node_key(root)).unwrap().unwrap();
        for len in 0..whole.len() {
            rows.put(node_key(root), &whole[..len]);
            assert!(reach(&rows, root, BranchId(1)).is_err(), "{len} bytes");
        }
    }
}

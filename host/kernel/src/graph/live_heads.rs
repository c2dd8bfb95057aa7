//! Live heads: what the next entry of this device should name, so that everything that counts is in its past.
//!
//! An entry is *live* unless it is void. The live heads are kept while entries come, rather than
//! searched for at each new entry, because authors can make any number of void entries, and would
//! else choose what an entry of somebody else costs.
//!
//! The set may hold an entry that lies in the past of another one, where void entries name old live ones. Naming it is
//! redundant and harmless. It always holds enough: every live entry is in the past of an entry of the set, or in it.

use std::collections::{HashSet, VecDeque};

use imbl::OrdSet;
use lattice_format::IntentionId;

use crate::graph::dag::{self, Meta};
use crate::graph::lookup_cache::Heads;
use crate::graph::slot::Slot;
use crate::graph::void;
use crate::limits::AHEAD_LOOKED_AT_MAX;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;

/// How many candidates are compared with one another when the set is gathered. Above that number entries in the past
/// of others stay in it until they are named.
const COMPARED_MAX: usize = 64;

/// The live heads as the writer knows them. Unknown after a start, a failed commit and a change of what is cut off,
/// until they are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveHeads(Option<OrdSet<LocalSeq>>);

impl LiveHeads {
    /// Notes an entry that was just inserted, after governance has judged it.
    pub(crate) fn added(&mut self, local: LocalSeq, meta: &Meta, is_void: bool) {
        let Some(heads) = &mut self.0 else {
            return;
        };
        // A void entry covers nothing: what it names still needs an entry that counts.
        if is_void {
            return;
        }
        for name in meta.names() {
            heads.remove(&name);
        }
        heads.insert(local);
    }

    /// Whether anybody has asked for the heads since they were forgotten.
    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// Forgets the heads, because entries became void or live, or were undone.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }

    /// At most `max` live heads that are not in the past of `prev`, what the new entry follows, nor of each other. The
    /// oldest come first, because what waited longest is named first.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) fn oldest(
        &mut self,
        rows: &RowsView,
        heads: &Heads,
        prev: LocalSeq,
        max: usize,
    ) -> Result<Vec<(LocalSeq, IntentionId)>, StorageError> {
        let known = match &mut self.0 {
            Some(known) => known,
            unknown => unknown.insert(gather(rows, heads)?),
        };
        // Only an entry that counts covers others for good.
        let prev_is_live = !void::is_void(rows, &dag::id_at(rows, prev)?)?;
        let mut covered = Vec::new();
        let mut chosen = Vec::new();
        for &local in known.iter() {
            if chosen.len() == max {
                break;
            }
            if !dag::local_in_past_or_same(rows, local, prev)? {
                chosen.push(local);
            } else if prev_is_live && prev != local {
                covered.push(local);
            }
        }
        let (named, redundant) = uncovered(rows, &chosen)?;
        for local in covered.iter().chain(&redundant) {
            known.remove(local);
        }
        named
            .into_iter()
            .map(|local| Ok((local, dag::id_at(rows, local)?)))
            .collect()
    }
}

/// Whether a new entry has more live heads to name than it can.
pub(crate) fn exceed(
    live: &mut LiveHeads,
    rows: &RowsView,
    heads: &Heads,
    prev: LocalSeq,
    max: usize,
) -> Result<bool, StorageError> {
    loop {
        let before = live.0.as_ref().map_or(usize::MAX, OrdSet::len);
        if live.oldest(rows, heads, prev, max + 1)?.len() > max {
            return Ok(true);
        }
        // Those that lie in the past of others were taken out, and there may be more behind them.
        if live.0.as_ref().map_or(0, OrdSet::len) >= before {
            return Ok(false);
        }
    }
}

/// As [`LiveHeads::oldest`], among the entries below `ceiling`: what stands above it is passed by, and what it names is
/// searched for, through at most [`AHEAD_LOOKED_AT_MAX`] entries. What stands behind further ones goes unnamed.
///
/// # Errors
/// When the rows cannot be read.
pub(crate) fn below(
    rows: &RowsView,
    heads: &Heads,
    prev: LocalSeq,
    ceiling: Slot,
    max: usize,
) -> Result<Vec<(LocalSeq, IntentionId)>, StorageError> {
    let mut queue: VecDeque<LocalSeq> = heads.values().copied().collect();
    let mut visited: HashSet<LocalSeq> = queue.iter().copied().collect();
    let mut passed = 0;
    let mut live = Vec::new();
    while let Some(local) = queue.pop_front() {
        let meta = dag::meta(rows, local)?;
        let is_above = Slot::of(meta.position()) >= ceiling;
        if !is_above && !void::is_void(rows, &meta.id)? {
            if !dag::local_in_past_or_same(rows, local, prev)? {
                live.push(local);
            }
        } else if passed < AHEAD_LOOKED_AT_MAX {
            passed += 1;
            queue.extend(meta.names().filter(|name| visited.insert(*name)));
        }
    }
    live.sort_unstable();
    if live.len() <= COMPARED_MAX {
        live = uncovered(rows, &live)?.0;
    }
    live.truncate(max);
    live.into_iter()
        .map(|local| Ok((local, dag::id_at(rows, local)?)))
        .collect()
}

/// Searches from all heads through void entries, each once, for the live entries behind them.
fn gather(rows: &RowsView, heads: &Heads) -> Result<OrdSet<LocalSeq>, StorageError> {
    let mut queue: Vec<LocalSeq> = heads.values().copied().collect();
    let mut visited: HashSet<LocalSeq> = queue.iter().copied().collect();
    let mut live = Vec::new();
    let mut any_is_void = false;
    while let Some(local) = queue.pop() {
        let meta = dag::meta(rows, local)?;
        if void::is_void(rows, &meta.id)? {
            any_is_void = true;
            queue.extend(meta.names().filter(|name| visited.insert(*name)));
        } else {
            live.push(local);
        }
    }
    if !any_is_void || live.len() > COMPARED_MAX {
        return Ok(live.into_iter().collect());
    }
    let (kept, _) = uncovered(rows, &live)?;
    Ok(kept.into_iter().collect())
}

/// Parts few live entries into those that are in the past of no other, and the rest.
fn uncovered(
    rows: &RowsView,
    live: &[LocalSeq],
) -> Result<(Vec<LocalSeq>, Vec<LocalSeq>), StorageError> {
    let (mut kept, mut covered) = (Vec::new(), Vec::new());
    for &local in live {
        let mut is_covered = false;
        // An entry is witnessed after everything in its past.
        for &other in live.iter().filter(|other| **other > local) {
            is_covered = is_covered || dag::local_in_past_or_same(rows, local, other)?;
        }
        match is_covered {
            true => covered.push(local),
            false => kept.push(local),
        }
    }
    Ok((kept, covered))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use lattice_format::{DeviceKey, Lane, Seq, Time};
    use proptest::prelude::*;

    use super::*;
    use crate::graph::dag::BranchId;
    use crate::graph::version_vector::{Past, PastCache};
    use crate::storage::rows::Rows;

    /// A graph of entries of four authors, kept with each entry's whole past beside it.
    struct Graph {
        rows: Rows,
        heads: Heads,
        live: LiveHeads,
        pasts: Vec<BTreeSet<LocalSeq>>,
        void: BTreeSet<LocalSeq>,
        tips: BTreeMap<u8, LocalSeq>,
    }

    impl Graph {
        fn new() -> Self {
            let mut graph = Self {
                rows: Rows::in_memory().unwrap(),
                heads: Heads::new(),
                live: LiveHeads::default(),
                pasts: Vec::new(),
                void: BTreeSet::new(),
                tips: BTreeMap::new(),
            };
            graph.add(0, &[], false);
            graph
        }

        fn id(local: LocalSeq) -> IntentionId {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&local.0.to_be_bytes());
            IntentionId(id)
        }

        fn set(rows: &mut Rows, meta: &Meta, is_void: bool) {
            let reason = is_void.then_some(void::Reason::CutOff);
            void::set(rows, &DeviceKey([1; 32]), meta, reason).unwrap();
        }

        /// Adds an entry of `author` that names its last one and `deps`.
        fn add(&mut self, author: u8, deps: &[usize], is_void: bool) {
            let local = LocalSeq(self.pasts.len() as u64);
            let prev = match local.0 {
                0 => None,
                _ => Some(self.tips.get(&author).copied().unwrap_or(LocalSeq(0))),
            };
            let mut deps: Vec<LocalSeq> = deps
                .iter()
                .map(|at| LocalSeq((at % self.pasts.len()) as u64))
                .collect();
            deps.sort_unstable();
            deps.dedup();
            let seq = match self.tips.get(&author) {
                Some(tip) => dag::meta(&self.rows, *tip).unwrap().seq.0 + 1,
                None => 0,
            };
            let meta = Meta {
                id: Self::id(local),
                time: Time::default(),
                branch: BranchId(author.into()),
                seq: Seq(seq),
                lane: Lane::App,
                chain_bytes: 0,
                prev,
                grant: None,
                deps,
            };
            let mut past = BTreeSet::from([local]);
            for name in meta.names() {
                past.extend(&self.pasts[name.0 as usize]);
                self.heads.remove(&Self::id(name));
            }
            let mut vector: BTreeMap<BranchId, Seq> = BTreeMap::new();
            self.rows.put(dag::local_key(local), meta.encode(local));
            for other in &past {
                let other = dag::meta(&self.rows, *other).unwrap();
                let reach = vector.entry(other.branch).or_insert(other.seq);
                *reach = other.seq.max(*reach);
            }
            let (mut cache, mut reached) = (PastCache::default(), Past::default());
            for (branch, seq) in vector {
                cache
                    .raise(&mut self.rows, &mut reached, branch, seq)
                    .unwrap();
            }
            reached.store(&mut self.rows, meta.branch, meta.seq);
            self.heads.insert(meta.id, local);
            self.pasts.push(past);
            self.tips.insert(author, local);
            if is_void {
                Self::set(&mut self.rows, &meta, true);
                self.void.insert(local);
            }
            self.live.added(local, &meta, is_void);
        }

        /// Asks for what an entry of `author` names, and checks that it and the entries that are known besides have
        /// all live entries in their past.
        fn check(&mut self, author: u8, max: usize) {
            let prev = self.tips.get(&author).copied().unwrap_or(LocalSeq(0));
            let named = self
                .live
                .oldest(&self.rows, &self.heads, prev, max)
                .unwrap();
            let past = |local: &LocalSeq| &self.pasts[local.0 as usize];
            assert!(named.len() <= max && named.is_sorted());
            for (local, id) in &named {
                assert_eq!(*id, Self::id(*local));
                assert!(!self.void.contains(local), "{local:?} is void");
                assert!(!past(&prev).contains(local), "{local:?} is known");
                for (other, _) in named.iter().filter(|(other, _)| other != local) {
                    assert!(!past(other).contains(local), "{local:?} is in {other:?}");
                }
            }
            let known = self.live.0.as_ref().unwrap();
            for local in (0..self.pasts.len() as u64).map(LocalSeq) {
                let covered = known.iter().any(|head| past(head).contains(&local));
                assert!(covered || self.void.contains(&local), "{local:?} is lost");
            }
        }
    }

    /// Holds: invariant 10.
    #[test]
    fn what_stands_below_is_found_behind_so_many_entries_ahead() {
        let mut graph = Graph::new();
        graph.add(1, &[], false);
        let ahead = |graph: &mut Graph, at: u64| {
            let local = LocalSeq(at);
            let meta = Meta {
                id: Graph::id(local),
                time: Time {
                    wall_ms: 9,
                    counter: at as u32,
                },
                branch: BranchId(1),
                seq: Seq(at),
                lane: Lane::App,
                chain_bytes: 0,
                prev: Some(LocalSeq(at - 1)),
                grant: None,
                deps: Vec::new(),
            };
            graph.rows.put(dag::local_key(local), meta.encode(local));
            graph.heads = Heads::new();
            graph.heads.insert(meta.id, local);
        };
        let found = |graph: &Graph| {
            let ceiling = Slot::after_ms(8);
            below(&graph.rows, &graph.heads, LocalSeq(0), ceiling, 4).unwrap()
        };
        let end = AHEAD_LOOKED_AT_MAX as u64 + 2;
        for at in 2..end {
            ahead(&mut graph, at);
        }
        let only = LocalSeq(1);
        assert_eq!(found(&graph), [(only, Graph::id(only))]);
        ahead(&mut graph, end);
        assert_eq!(found(&graph), []);
    }

    proptest! {
        /// What is kept while entries come covers what counts, as what is gathered anew does.
        #[test]
        fn live_heads_cover_all_that_counts(
            entries in proptest::collection::vec(
                (0u8..4, proptest::collection::vec(any::<usize>(), 0..4), any::<bool>(), 0u8..6),
                1..40,
            ),
            max in 1usize..4,
        ) {
            let mut graph = Graph::new();
            for (author, deps, is_void, then) in entries {
                // The first author is never cut off: somebody asks.
                graph.add(author, &deps, is_void && author > 0);
                match then {
                    0 => graph.check(0, max),
                    1 => graph.live.forget(),
                    2 => {
                        let local = LocalSeq(graph.pasts.len() as u64 - 1);
                        let is_void = !graph.void.remove(&local) && author > 0;
                        if is_void {
                            graph.void.insert(local);
                        }
                        let meta = dag::meta(&graph.rows, local).unwrap();
                        Graph::set(&mut graph.rows, &meta, is_void);
                        graph.live.forget();
                    }
                    _ => {}
                }
            }
            graph.check(0, max);
            graph.check(1, max);
        }
    }
}

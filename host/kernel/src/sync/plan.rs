//! The plan: what the peer lacks, computed from both sides' tips, and streamed in causal order.
//!
//! A tip stands for its whole branch, because a node that has an entry has all of its past. So two lists of tips say
//! which entries differ, branch by branch, without a look at either log.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use lattice_format::{ChainId, DeviceKey, IntentionId, Seq};

use super::limits::{FORKS_COMPARED_MAX, PLAN_BUFFER, PLAN_PAGE_MAX};
use super::message::PeerTip;
use crate::{LocalSeq, Snapshot, StorageError};

/// How two lists of tips differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Our branches that the peer lacks, by their tips, each with the seq from which on the peer lacks it.
    pub(super) send: Vec<(IntentionId, Seq)>,
    /// The peer's tips that are unknown here.
    pub(super) unknown: Vec<IntentionId>,
}

/// What the comparison asks of a log.
pub(super) trait Branches {
    /// Whether the entry is witnessed here.
    fn contains(&self, id: &IntentionId) -> Result<bool, StorageError>;
    /// The entry at `seq` of the branch that ends in `tip`.
    fn at(&self, tip: &IntentionId, seq: Seq) -> Result<Option<LocalSeq>, StorageError>;
}

impl Branches for Snapshot {
    fn contains(&self, id: &IntentionId) -> Result<bool, StorageError> {
        Snapshot::contains(self, id)
    }

    fn at(&self, tip: &IntentionId, seq: Seq) -> Result<Option<LocalSeq>, StorageError> {
        Ok(self.branch_from(tip, seq, 1)?.first().copied())
    }
}

/// Compares our tips, which are sorted, with the peer's.
///
/// A peer that is ahead in a chain is taken to extend our branch. If it does not, the peer finds our tip unknown, and
/// ranges are compared.
pub(super) fn compare(
    ours: &[PeerTip],
    theirs: &mut [PeerTip],
    log: &impl Branches,
) -> Result<Difference, StorageError> {
    theirs.sort_unstable();
    let mut difference = Difference::default();
    for tip in theirs.iter() {
        if !log.contains(&tip.id)? {
            difference.unknown.push(tip.id);
        }
    }
    difference.unknown.sort_unstable();
    for tip in ours {
        if theirs.binary_search(tip).is_ok() {
            continue;
        }
        let group = chain_of(theirs, tip.author, tip.chain);
        // To compare each fork with each would cost their product. The peer finds our tip unknown, so ranges tell
        // what it lacks.
        let forks = group.len().max(chain_of(ours, tip.author, tip.chain).len());
        if forks > FORKS_COMPARED_MAX {
            continue;
        }
        let is_unknown = |their: &&PeerTip| difference.unknown.binary_search(&their.id).is_ok();
        if group
            .iter()
            .any(|their| is_unknown(&their) && their.seq > tip.seq)
        {
            continue;
        }
        let mut from = Seq(0);
        for their in group.iter().filter(|their| !is_unknown(their)) {
            if let Some(common) = last_common(tip, their, log)? {
                from = from.max(Seq(common.0 + 1));
            }
        }
        // The peer's branch leaves ours at an unknown place. The peer lacks our tip, and may have most of what is
        // below. Ranges find the place.
        let forked = from == Seq(0) && !group.is_empty();
        if !forked {
            difference.send.push((tip.id, from));
        }
    }
    Ok(difference)
}

fn chain_of(sorted: &[PeerTip], author: DeviceKey, chain: ChainId) -> &[PeerTip] {
    let start = sorted.partition_point(|tip| (tip.author, tip.chain) < (author, chain));
    let end = sorted.partition_point(|tip| (tip.author, tip.chain) <= (author, chain));
    &sorted[start..end]
}

/// The last seq that two branches of one chain share; `None` when they fork at the first entry.
fn last_common(a: &PeerTip, b: &PeerTip, log: &impl Branches) -> Result<Option<Seq>, StorageError> {
    let same = |seq: u64| -> Result<bool, StorageError> {
        let left = log.at(&a.id, Seq(seq))?;
        Ok(left.is_some() && left == log.at(&b.id, Seq(seq))?)
    };
    let top = a.seq.0.min(b.seq.0);
    if same(top)? {
        return Ok(Some(Seq(top)));
    }
    // The branches share what is below `low`, and differ from `high` on.
    let (mut low, mut high) = (0, top);
    while low < high {
        let middle = low + (high - low) / 2;
        if same(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low.checked_sub(1).map(Seq))
}

#[derive(Debug)]
struct Branch {
    tip: IntentionId,
    next: Seq,
    buffer: VecDeque<LocalSeq>,
}

/// The entries of some branches, merged into causal order. Memory holds a page of each branch, and all pages together
/// are bounded.
#[derive(Debug, Default)]
pub(super) struct Plan {
    branches: Vec<Branch>,
    /// The next entry of each branch that is not at its end.
    heads: BinaryHeap<Reverse<(LocalSeq, usize)>>,
    page: usize,
    /// The end of the plan. The live phase covers entries from this number on.
    end: u64,
    last: Option<LocalSeq>,
}

impl Plan {
    /// Plans the entries of the branches `send` whose numbers are below `end`.
    pub(super) fn new(
        send: Vec<(IntentionId, Seq)>,
        end: LocalSeq,
        snapshot: &Snapshot,
    ) -> Result<Self, StorageError> {
        let mut plan = Self {
            page: (PLAN_BUFFER / send.len().max(1)).clamp(1, PLAN_PAGE_MAX),
            end: end.0,
            ..Self::default()
        };
        for (tip, next) in send {
            plan.branches.push(Branch {
                tip,
                next,
                buffer: VecDeque::new(),
            });
            plan.refill(plan.branches.len() - 1, snapshot)?;
        }
        Ok(plan)
    }

    /// Whether no entry is left.
    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The next entry. All entries that it names came before, or the peer has them.
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Result<Option<LocalSeq>, StorageError> {
        while let Some(Reverse((local, at))) = self.heads.pop() {
            self.refill(at, snapshot)?;
            // Branches of a forked chain share their first entries, which are sent once.
            if self.last == Some(local) {
                continue;
            }
            assert!(
                self.last < Some(local),
                "a branch is not in ascending order"
            );
            self.last = Some(local);
            return Ok(Some(local));
        }
        Ok(None)
    }

    fn refill(&mut self, at: usize, snapshot: &Snapshot) -> Result<(), StorageError> {
        let branch = &mut self.branches[at];
        if branch.buffer.is_empty() {
            let page = snapshot.branch_from(&branch.tip, branch.next, self.page)?;
            branch.next = Seq(branch.next.0 + page.len() as u64);
            branch.buffer = page.into();
        }
        if let Some(local) = branch.buffer.pop_front()
            && local.0 < self.end
        {
            self.heads.push(Reverse((local, at)));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::sync::limits::TIPS_MAX;
    use crate::testing;

    /// Chains of one author, each entry with its predecessor; ids are numbers.
    #[derive(Debug, Default, Clone)]
    struct Toy {
        entries: BTreeMap<IntentionId, (ChainId, Seq, Option<IntentionId>)>,
    }

    fn id(number: u32) -> IntentionId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        IntentionId(bytes)
    }

    impl Toy {
        fn tips(&self) -> Vec<PeerTip> {
            let inner = |id| self.entries.values().any(|(_, _, prev)| *prev == Some(id));
            let mut tips: Vec<_> = self
                .entries
                .iter()
                .filter(|(id, _)| !inner(**id))
                .map(|(id, (chain, seq, _))| PeerTip {
                    author: DeviceKey([1; 32]),
                    chain: *chain,
                    seq: *seq,
                    id: *id,
                })
                .collect();
            tips.sort_unstable();
            tips
        }

        fn branch(&self, tip: IntentionId, from: Seq) -> Vec<IntentionId> {
            let mut out = Vec::new();
            let mut at = Some(tip);
            while let Some(id) = at {
                let (_, seq, prev) = self.entries[&id];
                if seq >= from {
                    out.push(id);
                }
                at = prev;
            }
            out
        }

        /// The part of `self` that lies in the past of the given entries.
        fn past(&self, of: &[IntentionId]) -> Self {
            let mut out = Self::default();
            for tip in of {
                for id in self.branch(*tip, Seq(0)) {
                    out.entries.insert(id, self.entries[&id]);
                }
            }
            out
        }
    }

    impl Branches for Toy {
        fn contains(&self, id: &IntentionId) -> Result<bool, StorageError> {
            Ok(self.entries.contains_key(id))
        }

        fn at(&self, tip: &IntentionId, seq: Seq) -> Result<Option<LocalSeq>, StorageError> {
            let found = self
                .branch(*tip, Seq(0))
                .into_iter()
                .find(|id| self.entries[id].1 == seq);
            Ok(
                found
                    .map(|id| LocalSeq(self.entries.keys().position(|k| *k == id).unwrap() as u64)),
            )
        }
    }

    /// Chains with forks: each entry extends an earlier one or begins a chain.
    fn forest() -> impl Strategy<Value = Toy> {
        proptest::collection::vec((0u8..8, any::<prop::sample::Index>()), 1..40).prop_map(|steps| {
            let mut toy = Toy::default();
            for (number, (kind, parent)) in steps.into_iter().enumerate() {
                let number = number as u32;
                let entry = if number == 0 || kind == 0 {
                    (ChainId(u64::from(number)), Seq(0), None)
                } else {
                    // The parent is mostly the last entry, so that chains get long.
                    let parent = if kind < 6 {
                        number - 1
                    } else {
                        parent.index(number as usize) as u32
                    };
                    let (chain, seq, _) = toy.entries[&id(parent)];
                    (chain, Seq(seq.0 + 1), Some(id(parent)))
                };
                toy.entries.insert(id(number), entry);
            }
            toy
        })
    }

    proptest! {
        /// The plan leaves an entry out only below a tip that the peer finds unknown, so that ranges find the entry.
        /// The plan sends an entry that the peer has only where the peer's branch forks off at an unknown entry above
        /// a known one.
        #[test]
        fn tips_say_what_the_peer_lacks(
            all in forest(),
            a in proptest::collection::vec(any::<prop::sample::Index>(), 1..6),
            b in proptest::collection::vec(any::<prop::sample::Index>(), 1..6),
        ) {
            let pick = |list: &[prop::sample::Index]| {
                let ids: Vec<_> = list.iter().map(|i| id(i.index(all.entries.len()) as u32)).collect();
                all.past(&ids)
            };
            let (ours, theirs) = (pick(&a), pick(&b));
            let difference = compare(&ours.tips(), &mut theirs.tips(), &ours).unwrap();
            let back = compare(&theirs.tips(), &mut ours.tips(), &theirs).unwrap();
            let mut sent = Toy::default();
            for (tip, from) in &difference.send {
                for id in ours.branch(*tip, *from) {
                    let (chain, ..) = ours.entries[&id];
                    let hidden = theirs.tips().iter().any(|their| {
                        their.chain == chain && !ours.entries.contains_key(&their.id)
                    });
                    prop_assert!(hidden || !theirs.entries.contains_key(&id));
                    sent.entries.insert(id, ours.entries[&id]);
                }
            }
            for id in ours.entries.keys().filter(|id| !theirs.entries.contains_key(*id)) {
                // The peer finds our tip above a left-out entry unknown, and that tip is not sent. So the peer still
                // misses it after the plan, and ranges are compared.
                if !sent.entries.contains_key(id) {
                    let tips = ours.tips();
                    let above = tips.iter().filter(|tip| ours.branch(tip.id, Seq(0)).contains(id));
                    for tip in above {
                        prop_assert!(back.unknown.contains(&tip.id));
                        prop_assert!(!sent.entries.contains_key(&tip.id));
                    }
                }
            }
            for tip in theirs.tips() {
                let known = ours.entries.contains_key(&tip.id);
                prop_assert_eq!(known, !difference.unknown.contains(&tip.id));
            }
        }
    }

    /// Holds: invariant 10.
    #[test]
    fn so_many_forks_of_a_chain_are_compared_and_more_are_left_to_ranges() {
        for (forks, sent) in [(FORKS_COMPARED_MAX, 1), (FORKS_COMPARED_MAX + 1, 0)] {
            let mut all = Toy::default();
            all.entries.insert(id(0), (ChainId(7), Seq(0), None));
            for n in 1..=forks as u32 {
                all.entries.insert(id(n), (ChainId(7), Seq(1), Some(id(0))));
            }
            let known: Vec<_> = (1..forks as u32).map(id).collect();
            let theirs = all.past(&known);
            let difference = compare(&all.tips(), &mut theirs.tips(), &all).unwrap();
            assert_eq!(difference.send.len(), sent, "{forks} forks");
            // The peer finds the tip unknown, and then ranges are compared.
            let back = compare(&theirs.tips(), &mut all.tips(), &theirs).unwrap();
            assert_eq!((back.send, back.unknown), (vec![], vec![id(forks as u32)]));
        }
    }

    #[test]
    fn a_chain_that_the_peer_has_in_part_is_sent_from_there() {
        let mut all = Toy::default();
        for n in 0..10 {
            all.entries.insert(
                id(n),
                (ChainId(7), Seq(u64::from(n)), n.checked_sub(1).map(id)),
            );
        }
        let theirs = all.past(&[id(3)]);
        let difference = compare(&all.tips(), &mut theirs.tips(), &all).unwrap();
        assert_eq!(difference.send, vec![(id(9), Seq(4))]);
        assert!(difference.unknown.is_empty());
        // Seen from the other side, one tip is unknown and nothing is to be sent.
        let back = compare(&theirs.tips(), &mut all.tips(), &theirs).unwrap();
        assert_eq!((back.send, back.unknown), (vec![], vec![id(9)]));
    }

    #[test]
    fn branches_buffer_a_page_each_and_all_together_no_more_than_their_bound() {
        let mut store = testing::found(0, 1_000_000);
        for n in 0..=PLAN_PAGE_MAX as u64 {
            let call = testing::program(&[testing::Step::StoreGlobal]);
            let now_ms = 1_000_000 + n;
            store
                .call(lattice_format::Lane::App, vec![call], now_ms, ChainId(1))
                .unwrap();
            store.commit(now_ms).unwrap();
        }
        let snapshot = store.snapshot();
        let tip = *snapshot.summary().heads.first().unwrap();
        let end = LocalSeq(snapshot.summary().count);
        // How many entries are buffered of one branch, among `count` equal ones.
        let buffered = |count: usize| {
            let mut send = vec![(id(7), Seq(0)); count];
            send[0] = (tip, Seq(0));
            let plan = Plan::new(send, end, &snapshot).unwrap();
            // One more entry of the branch is in the heap of heads.
            plan.branches[0].buffer.len() + 1
        };
        assert_eq!(buffered(1), PLAN_PAGE_MAX);
        let few = PLAN_BUFFER / PLAN_PAGE_MAX;
        assert_eq!(buffered(few), PLAN_PAGE_MAX);
        assert!(buffered(few + 1) < PLAN_PAGE_MAX);
        for count in [few + 1, few + 2, 1000, TIPS_MAX] {
            let all = count * buffered(count);
            assert!(
                (PLAN_BUFFER - count + 1..=PLAN_BUFFER).contains(&all),
                "{all}"
            );
        }
    }
}

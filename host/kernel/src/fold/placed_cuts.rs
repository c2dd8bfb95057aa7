//! Cuts as the rows hold them, and how entries are judged by them.

use std::collections::HashMap;
use std::sync::Arc;

use lattice_format::{DeviceKey, Seq};

use crate::graph::dag::{self, BranchId, Meta};
use crate::graph::version_vector::{Past, PastCache};
use crate::limits::{CUT_BRANCHES_CACHED_MAX, CUTS_CACHED_MAX};
use crate::mutant::{self, Mutant};
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint};
use crate::storage::rows::RowsView;

/// The place of a revocation that is no entry, and so in the past of none: governance could not say what it has cut
/// off of an author.
pub(super) const UNANSWERED: LocalSeq = LocalSeq(u64::MAX);

/// One revocation of an author, in one of the entries that hold it. Several can, since a device that forks its chain
/// can sign several calls of one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacedCut {
    /// An entry that counts and holds the call of the revocation.
    pub(super) revocation: LocalSeq,
    pub(super) reach: Reach,
}

/// How far a cut keeps the author's branches. An entry never changes its branch, and everything that a revocation can
/// keep was here when the revocation came, so this is found out once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// As far as the revocation's past reaches.
    Seen,
    /// To the last kept entry of each branch, by branch. Of all others nothing is kept.
    Branches(Vec<(BranchId, Seq)>),
}

/// The cuts of some authors as the rows have them, decoded: every entry of a revoked author is judged by them.
#[derive(Debug, Default)]
pub(super) struct PlacedCuts {
    by_author: HashMap<DeviceKey, Arc<Vec<PlacedCut>>>,
    /// How many branches they name.
    branches: usize,
}

impl PlacedCuts {
    pub(super) fn get(&self, author: &DeviceKey) -> Option<Arc<Vec<PlacedCut>>> {
        self.by_author.get(author).cloned()
    }

    pub(super) fn keep(&mut self, author: DeviceKey, cuts: Arc<Vec<PlacedCut>>) {
        self.forget(&author);
        let branches = branches_named(&cuts);
        if self.by_author.len() == CUTS_CACHED_MAX
            || self.branches + branches > CUT_BRANCHES_CACHED_MAX
        {
            self.by_author.clear();
            self.branches = 0;
        }
        self.branches += branches;
        self.by_author.insert(author, cuts);
    }

    pub(super) fn forget(&mut self, author: &DeviceKey) {
        if let Some(before) = self.by_author.remove(author) {
            self.branches -= branches_named(&before);
        }
    }
}

fn branches_named(cuts: &[PlacedCut]) -> usize {
    let named = cuts.iter().map(|cut| match &cut.reach {
        Reach::Seen => 0,
        Reach::Branches(branches) => branches.len(),
    });
    named.sum()
}

/// A cut with what it takes to judge many branches by it.
pub(super) struct Loaded<'a> {
    revocation: LocalSeq,
    reach: LoadedReach<'a>,
}

enum LoadedReach<'a> {
    Nothing,
    /// The place of the revocation, and its past.
    Seen(BranchId, Seq, Past),
    Branches(&'a [(BranchId, Seq)]),
}

impl<'a> Loaded<'a> {
    pub(super) fn all(
        rows: &RowsView,
        cuts: impl IntoIterator<Item = &'a PlacedCut>,
    ) -> Result<Vec<Self>, StorageError> {
        cuts.into_iter().map(|cut| Self::of(rows, cut)).collect()
    }

    fn of(rows: &RowsView, cut: &'a PlacedCut) -> Result<Self, StorageError> {
        let reach = match &cut.reach {
            Reach::Seen if mutant::active(Mutant::SeenNotKept) => LoadedReach::Nothing,
            Reach::Seen => {
                let meta = dag::meta(rows, cut.revocation)?;
                let past = Past::of(rows, meta.branch, meta.seq)?;
                LoadedReach::Seen(meta.branch, meta.seq, past)
            }
            Reach::Branches(branches) => LoadedReach::Branches(branches),
        };
        Ok(Self {
            revocation: cut.revocation,
            reach,
        })
    }

    /// The last entry of a branch that the cut keeps; `None` when it keeps none.
    pub(super) fn kept(
        &self,
        rows: &RowsView,
        pasts: &mut PastCache,
        branch: BranchId,
    ) -> Result<Option<Seq>, StorageError> {
        match &self.reach {
            LoadedReach::Nothing => Ok(None),
            LoadedReach::Seen(own, seq, _) if *own == branch => Ok(Some(*seq)),
            LoadedReach::Seen(_, _, past) => pasts.reach(rows, past, branch),
            LoadedReach::Branches(branches) => Ok(branches
                .binary_search_by_key(&branch, |(branch, _)| *branch)
                .ok()
                .map(|at| branches[at].1)),
        }
    }
}

/// Judges the entries of one branch by the cuts of their author.
pub(super) struct BranchJudge {
    /// Each revocation, with the last entry of the branch that it keeps.
    pub(super) cuts: Vec<(LocalSeq, Option<Seq>)>,
    /// The grant that was asked about last, and whether each revocation is in its past: entries of one branch mostly
    /// have the same one.
    granted: Option<(LocalSeq, Vec<bool>)>,
}

impl BranchJudge {
    pub(super) fn of(
        rows: &RowsView,
        pasts: &mut PastCache,
        branch: BranchId,
        cuts: &[Loaded<'_>],
    ) -> Result<Self, StorageError> {
        let kept = |cut: &Loaded<'_>| Ok((cut.revocation, cut.kept(rows, pasts, branch)?));
        Ok(Self {
            cuts: cuts.iter().map(kept).collect::<Result<_, StorageError>>()?,
            granted: None,
        })
    }

    pub(super) fn is_void(&mut self, rows: &RowsView, entry: &Meta) -> Result<bool, StorageError> {
        let is_kept = |kept: &Option<Seq>| kept.is_some_and(|kept| entry.seq <= kept);
        if self.cuts.iter().all(|(_, kept)| is_kept(kept)) {
            return Ok(false);
        }
        let Some(grant) = entry.grant else {
            return Ok(true);
        };
        if self
            .granted
            .as_ref()
            .is_none_or(|(known, _)| *known != grant)
        {
            let known = |(revocation, _): &(LocalSeq, _)| {
                dag::local_in_past_or_same(rows, *revocation, grant)
            };
            let known = self.cuts.iter().map(known).collect::<Result<_, _>>()?;
            self.granted = Some((grant, known));
        }
        let granted = self.granted.as_ref().map_or(&[][..], |(_, known)| known);
        Ok(!self
            .cuts
            .iter()
            .zip(granted)
            .all(|((_, kept), granted)| *granted || is_kept(kept)))
    }
}

/// For each cut varints: the revocation, then 0 for what was seen, or else the number of branches plus one and of each
/// branch its number and the last kept entry.
pub(super) fn encode_cuts(cuts: &[PlacedCut]) -> Vec<u8> {
    let mut out = Vec::new();
    for cut in cuts {
        put_varint(cut.revocation.0, &mut out);
        match &cut.reach {
            Reach::Seen => put_varint(0, &mut out),
            Reach::Branches(branches) => {
                put_varint(branches.len() as u64 + 1, &mut out);
                for (branch, seq) in branches {
                    put_varint(u64::from(branch.0), &mut out);
                    put_varint(seq.0, &mut out);
                }
            }
        }
    }
    out
}

pub(super) fn decode_cuts(mut bytes: &[u8]) -> Option<Vec<PlacedCut>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let revocation = LocalSeq(take_varint(&mut bytes)?);
        let reach = match take_varint(&mut bytes)? {
            0 => Reach::Seen,
            count => {
                let mut branches = Vec::new();
                for _ in 1..count {
                    let branch = BranchId(u32::try_from(take_varint(&mut bytes)?).ok()?);
                    branches.push((branch, Seq(take_varint(&mut bytes)?)));
                }
                Reach::Branches(branches)
            }
        };
        out.push(PlacedCut { revocation, reach });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds: invariant 10.
    #[test]
    fn cuts_are_remembered_of_so_many_authors_and_branches() {
        let author = |n: u8| DeviceKey([n; 32]);
        let cuts = |branches: usize| {
            let branches = (0..branches as u32).map(|b| (BranchId(b), Seq(0)));
            Arc::new(vec![PlacedCut {
                revocation: LocalSeq(1),
                reach: Reach::Branches(branches.collect()),
            }])
        };
        let mut known = PlacedCuts::default();
        for n in 0..CUTS_CACHED_MAX as u8 {
            known.keep(author(n), cuts(1));
        }
        known.keep(author(0), cuts(1));
        assert_eq!(known.by_author.len(), CUTS_CACHED_MAX);
        assert_eq!(known.branches, CUTS_CACHED_MAX);
        known.keep(author(200), cuts(CUT_BRANCHES_CACHED_MAX));
        assert_eq!(
            (known.by_author.len(), known.branches),
            (1, CUT_BRANCHES_CACHED_MAX)
        );
        known.keep(author(201), cuts(1));
        assert_eq!((known.by_author.len(), known.branches), (1, 1));
        known.forget(&author(201));
        assert_eq!((known.by_author.len(), known.branches), (0, 0));
    }
}

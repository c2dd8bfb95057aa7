//! Cuts: which entries governance has cut off.
//!
//! Governance lists revocations of an author, each with what it keeps. Whatever of the author's entries some revocation
//! neither keeps nor spares by its grant is void, wherever it sorts. Cuts are asked for at the end of the system lane,
//! after a change, of those authors whose answers rest on what changed, and of a changed cut only the entries beyond
//! what it keeps are judged anew: revoking one of many members, or a member with many entries, costs what it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use lattice_format::{DeviceKey, IntentionId, Lane, Seq};

use crate::fold::core::Core;
use crate::fold::governance::storage;
use crate::graph::cut_off;
use crate::graph::dag::{self, BranchId, Meta};
use crate::graph::slot::Slot;
use crate::graph::version_vector;
use crate::limits::{CHANGED_CELLS_MAX, CUT_ROUNDS_EXTRA, CUTS_DUE_MAX};
use crate::mutant::{self, Mutant};
use crate::run::engine::{Answer, AskError, Cut, HostFault, Kept, Question};
use crate::run::{Range, Reads};
use crate::state::call_index;
use crate::state::cell::Cell;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint};
use crate::storage::rows::RowsView;

fn cuts_key(author: &DeviceKey) -> Vec<u8> {
    let mut key = vec![b'X'];
    key.extend_from_slice(&author.0);
    key
}

/// The row of the authors whose cuts must be asked for: their keys one after the other. An empty row stands for all
/// authors.
const CUTS_DUE: &[u8] = b"Mcuts-due";

/// What the answers about cuts rest on, so that a change of governance asks only about the authors that it touches.
#[derive(Debug, Default)]
pub(crate) struct CutReads {
    /// Of every author that was asked about.
    by_author: HashMap<DeviceKey, CutRead>,
    /// Authors of whom a new branch has come.
    came: BTreeSet<DeviceKey>,
    /// The cells of the system lane that changed since the last time.
    changed: Vec<Cell>,
    /// Whether `by_author` has all authors but those that came, and `changed` all changes. Not so after a start, a
    /// failed commit, and too many changes.
    complete: bool,
}

/// What the answer about one author rests on.
#[derive(Debug)]
struct CutRead {
    cells: Box<[Cell]>,
    ranges: Box<[Range]>,
    /// The places of the revocations in the index of calls.
    calls: Box<[Range]>,
}

impl CutRead {
    fn of(reads: &Reads, cuts: &[Cut]) -> Self {
        let calls = cuts.iter();
        let calls = calls.map(|cut| call_index::span(Lane::System, cut.revocation));
        Self {
            cells: reads.cells.keys().cloned().collect(),
            ranges: reads.ranges.iter().cloned().collect(),
            calls: calls.collect(),
        }
    }

    fn is_touched(&self, changed: &[Cell]) -> bool {
        let within = |range: &Range, cell: &Cell| {
            *range.start <= *cell.as_bytes() && *cell.as_bytes() < *range.end
        };
        changed.iter().any(|cell| {
            self.cells.contains(cell)
                || self.ranges.iter().any(|range| within(range, cell))
                || self.calls.iter().any(|range| within(range, cell))
        })
    }
}

impl CutReads {
    /// Notes a change in the system lane.
    fn changed(&mut self, cell: &Cell) {
        if self.complete && self.changed.len() < CHANGED_CELLS_MAX {
            self.changed.push(cell.clone());
        } else {
            self.forget();
        }
    }

    /// Forgets everything, because entries were undone or too much changed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The authors whose cuts can have changed; `None` when that is not known.
    fn touched(&self) -> Option<Vec<DeviceKey>> {
        if !self.complete {
            return None;
        }
        let touched = self.by_author.iter();
        let touched = touched.filter(|(_, read)| {
            read.is_touched(&self.changed) && !mutant::active(Mutant::ChangedCutsMissed)
        });
        let mut authors: BTreeSet<DeviceKey> = touched.map(|(author, _)| *author).collect();
        authors.extend(&self.came);
        Some(authors.into_iter().collect())
    }
}

/// One revocation of an author, in one of the entries that hold it. Several can, since a device that forks its chain
/// can sign several calls of one id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlacedCut {
    /// An entry that counts and holds the call of the revocation.
    revocation: LocalSeq,
    reach: Reach,
}

/// How far a cut keeps the author's branches. An entry never changes its branch, and everything that a revocation can
/// keep was here when the revocation came, so this is found out once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    /// As far as the revocation's past reaches.
    Seen,
    /// To the last kept entry of each branch, by branch. Of all others nothing is kept.
    Branches(Vec<(BranchId, Seq)>),
}

impl Core {
    /// Notes that authors' cuts must be asked for, because `cell` of governance has changed. The row says that all
    /// must be; what is remembered of their answers tells which of them can have changed.
    pub(crate) fn cuts_are_due(&mut self, cell: &Cell) {
        self.rows.put(CUTS_DUE, []);
        self.cut_reads.changed(cell);
    }

    /// Notes that the cuts of `author` must be asked for, because a new branch of it has come. Nobody else's cuts
    /// depend on that.
    pub(crate) fn cuts_of_are_due(&mut self, author: &DeviceKey) -> Result<(), StorageError> {
        if self.cut_reads.complete {
            self.cut_reads.came.insert(*author);
        }
        let known = self.rows.get(CUTS_DUE)?;
        let named = known.as_deref().unwrap_or_default();
        let everybody = known.is_some() && named.is_empty();
        if everybody || named.chunks(DeviceKey::LEN).any(|other| other == author.0) {
            return Ok(());
        }
        if named.len() >= CUTS_DUE_MAX * DeviceKey::LEN {
            self.rows.put(CUTS_DUE, []);
        } else {
            self.rows.put(CUTS_DUE, [named, &author.0].concat());
        }
        Ok(())
    }

    /// Whether anybody's cuts must be asked for.
    pub(crate) fn are_cuts_due(&self) -> Result<bool, StorageError> {
        Ok(self.rows.get(CUTS_DUE)?.is_some())
    }

    /// Asks for the cuts that are due, at the end of the system lane, and marks as due every entry that became void
    /// or counts again. When entries of the system lane are among them, governance must be folded again.
    ///
    /// # Errors
    /// A fault of this host. The cuts stay due then.
    pub(crate) fn refresh_cuts(&mut self) -> Result<(), HostFault> {
        let Some(due) = self.rows.get(CUTS_DUE).map_err(storage)? else {
            return Ok(());
        };
        let everybody = due.is_empty();
        let authors = match (everybody, self.cut_reads.touched()) {
            (true, Some(touched)) => touched,
            (true, None) => dag::authors(&self.rows).map_err(storage)?,
            (false, _) => due
                .chunks(DeviceKey::LEN)
                .filter_map(DeviceKey::from_slice)
                .collect(),
        };
        for author in authors {
            let (cuts, read) = self.ask_cuts(&author)?;
            self.cut_reads.by_author.insert(author, read);
            self.apply_cuts(&author, &cuts).map_err(storage)?;
        }
        self.rows.remove(CUTS_DUE);
        self.cut_reads.came.clear();
        self.cut_reads.changed.clear();
        // Authors whom a start has not asked about were asked now, or their cuts have not changed since.
        self.cut_reads.complete |= everybody;
        Ok(())
    }

    fn apply_cuts(&mut self, author: &DeviceKey, cuts: &[Cut]) -> Result<(), StorageError> {
        let cuts = self.place(author, cuts)?;
        let known = self.cuts_known(author)?;
        if known == cuts {
            return Ok(());
        }
        if cuts.is_empty() {
            self.rows.remove(cuts_key(author));
        } else {
            self.rows.put(cuts_key(author), encode_cuts(&cuts));
        }
        let came = cuts.iter().filter(|cut| !known.contains(cut));
        let went = known.iter().filter(|cut| !cuts.contains(cut));
        let changed: Vec<&PlacedCut> = came.chain(went).collect();
        for branch_id in dag::branches_of(&self.rows, author, None)? {
            let branch = dag::branch(&self.rows, branch_id)?;
            // What every changed cut keeps is as void or live as before.
            let mut from = Seq(u64::MAX);
            for cut in &changed {
                let kept = self.kept_to(cut, branch_id)?;
                from = from.min(kept.map_or(branch.first, |kept| Seq(kept.0 + 1)));
            }
            let mut judge = BranchJudge::of(self, branch_id, &cuts)?;
            for seq in from.max(branch.first).0..=branch.tip.0 {
                if let Some(local) = dag::entry_of_branch(&self.rows, branch_id, Seq(seq))? {
                    let meta = dag::meta(&self.rows, local)?;
                    if self.judge(local, &meta, &mut judge)? {
                        self.cache.live_heads.forget();
                    }
                }
            }
        }
        Ok(())
    }

    /// The entries that revoke an author now. They are asked for where the kept cuts may be out of date, or where no
    /// entry of the author has come and so nobody has asked.
    ///
    /// # Errors
    /// A fault of this host.
    pub(crate) fn revocations(&mut self, author: &DeviceKey) -> Result<Vec<LocalSeq>, HostFault> {
        let unknown = !dag::any_branch_of(&self.rows, author, None).map_err(storage)?;
        let cuts = if unknown || self.are_cuts_due().map_err(storage)? {
            let (cuts, _) = self.ask_cuts(author)?;
            self.place(author, &cuts).map_err(storage)?
        } else {
            self.cuts_known(author).map_err(storage)?
        };
        Ok(cuts.into_iter().map(|cut| cut.revocation).collect())
    }

    /// The cuts of an author, as governance has them at the end of the system lane.
    fn ask_cuts(&self, author: &DeviceKey) -> Result<(Vec<Cut>, CutRead), HostFault> {
        let question = Question::Cuts(*author);
        let asked = self.asking().ask(&self.rows, &question, Slot::MAX);
        let cuts = match asked.answer {
            Ok(Answer::Cuts(cuts)) => cuts,
            // A governance component that traps at this question cuts nobody off, on every replica alike.
            Ok(_) | Err(AskError::Trapped(_)) => Vec::new(),
            Err(AskError::Host(fault)) => return Err(fault),
        };
        let read = CutRead::of(&asked.reads, &cuts);
        Ok((cuts, read))
    }

    fn cuts_known(&self, author: &DeviceKey) -> Result<Vec<PlacedCut>, StorageError> {
        let Some(row) = self.rows.get(&cuts_key(author))? else {
            return Ok(Vec::new());
        };
        decode_cuts(&row).ok_or_else(|| StorageError::row(&cuts_key(author)))
    }

    /// Sets whether a new entry is void by the cuts known now. [`Core::refresh_cuts`] judges it again when they
    /// change.
    pub(crate) fn judge_new(
        &mut self,
        author: &DeviceKey,
        local: LocalSeq,
    ) -> Result<(), StorageError> {
        let cuts = self.cuts_known(author)?;
        if !cuts.is_empty() {
            let meta = dag::meta(&self.rows, local)?;
            let mut judge = BranchJudge::of(self, meta.branch, &cuts)?;
            self.judge(local, &meta, &mut judge)?;
        }
        self.note_live(local)
    }

    /// Notes a new entry, which was judged, among the live heads.
    pub(crate) fn note_live(&mut self, local: LocalSeq) -> Result<(), StorageError> {
        if self.cache.live_heads.is_known() {
            let meta = dag::meta(&self.rows, local)?;
            let is_void = self.cache.any_cut && cut_off::is_cut_off(&self.rows, &meta.id)?;
            self.cache.live_heads.added(local, &meta, is_void);
        }
        Ok(())
    }

    /// Judges an entry by the cuts of its author. Returns whether it became void or live.
    fn judge(
        &mut self,
        local: LocalSeq,
        meta: &Meta,
        judge: &mut BranchJudge,
    ) -> Result<bool, StorageError> {
        // No cut voids the genesis, because without it there is no store.
        let void = local.0 != 0 && judge.is_void(&self.rows, meta)?;
        let changed = cut_off::is_cut_off(&self.rows, &meta.id)? != void;
        if changed {
            cut_off::set_cut_off(&mut self.rows, &meta.id, void);
            self.cache.any_cut |= void;
            self.fingerprints.judged(meta.position(), void);
            let slot = Slot::of(meta.position());
            self.progress.due.set(&mut self.rows, meta.lane, slot)?;
        }
        Ok(changed)
    }

    /// The last entry of a branch that a cut keeps; `None` when it keeps none.
    fn kept_to(&self, cut: &PlacedCut, branch: BranchId) -> Result<Option<Seq>, StorageError> {
        match &cut.reach {
            Reach::Seen if mutant::active(Mutant::SeenNotKept) => Ok(None),
            Reach::Seen => {
                let revocation = dag::meta(&self.rows, cut.revocation)?;
                version_vector::seen(&self.rows, revocation.branch, branch, revocation.seq)
            }
            Reach::Branches(branches) => Ok(branches
                .binary_search_by_key(&branch, |(branch, _)| *branch)
                .ok()
                .map(|at| branches[at].1)),
        }
    }

    /// Finds the entries that hold the revocations of `cuts`, and how far they keep the author's branches. Where several
    /// hold a call of one id, each of them cuts.
    fn place(&self, author: &DeviceKey, cuts: &[Cut]) -> Result<Vec<PlacedCut>, StorageError> {
        let mut out = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let mut revocations = Vec::new();
            call_index::entries(
                &self.rows,
                Lane::System,
                cut.revocation,
                Slot::MAX,
                |_, local| {
                    revocations.push(local);
                    Ok(ControlFlow::Continue(()))
                },
            )?;
            for revocation in revocations {
                let reach = match &cut.kept {
                    Kept::Seen => Reach::Seen,
                    Kept::Ids(ids) => Reach::Branches(self.reach_of(author, revocation, ids)?),
                };
                out.push(PlacedCut { revocation, reach });
            }
        }
        Ok(out)
    }

    /// How far kept ids and their `prev`-ancestors reach in each branch. An id counts only if it is an entry of the
    /// author in the revocation's own past, since a revocation can keep nothing else.
    fn reach_of(
        &self,
        author: &DeviceKey,
        revocation: LocalSeq,
        ids: &[IntentionId],
    ) -> Result<Vec<(BranchId, Seq)>, StorageError> {
        let mut reach: BTreeMap<BranchId, Seq> = BTreeMap::new();
        for id in ids {
            let Some(local) = dag::local_of(&self.rows, id)? else {
                continue;
            };
            let meta = dag::meta(&self.rows, local)?;
            let own = dag::branch(&self.rows, meta.branch)?.author == *author;
            if !own || !dag::local_in_past_or_same(&self.rows, local, revocation)? {
                continue;
            }
            let (mut branch, mut seq) = (meta.branch, meta.seq);
            // Where a branch is kept as far already, so are those that it left.
            while reach.get(&branch).is_none_or(|kept| *kept < seq) {
                reach.insert(branch, seq);
                match dag::branch(&self.rows, branch)?.parent {
                    Some((parent, at)) => (branch, seq) = (parent, at),
                    None => break,
                }
            }
        }
        Ok(reach.into_iter().collect())
    }

    /// How many rounds of cutting and folding governance may take. A component that needs more contradicts itself.
    pub(crate) fn cut_rounds_max(&self) -> Result<usize, StorageError> {
        Ok(dag::authors(&self.rows)?.len() + CUT_ROUNDS_EXTRA)
    }
}

/// Judges the entries of one branch by the cuts of their author.
struct BranchJudge {
    /// Each revocation, with the last entry of the branch that it keeps.
    cuts: Vec<(LocalSeq, Option<Seq>)>,
    /// The grant that was asked about last, and whether each revocation is in its past: entries of one branch mostly
    /// have the same one.
    granted: Option<(LocalSeq, Vec<bool>)>,
}

impl BranchJudge {
    fn of(core: &Core, branch: BranchId, cuts: &[PlacedCut]) -> Result<Self, StorageError> {
        let kept = |cut: &PlacedCut| Ok((cut.revocation, core.kept_to(cut, branch)?));
        Ok(Self {
            cuts: cuts.iter().map(kept).collect::<Result<_, StorageError>>()?,
            granted: None,
        })
    }

    fn is_void(&mut self, rows: &RowsView, entry: &Meta) -> Result<bool, StorageError> {
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
fn encode_cuts(cuts: &[PlacedCut]) -> Vec<u8> {
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

fn decode_cuts(mut bytes: &[u8]) -> Option<Vec<PlacedCut>> {
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
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::state::cell::Space;
    use crate::testing;

    #[test]
    fn cuts_are_asked_for_by_author_until_these_are_many_or_governance_changes() {
        let mut core = testing::found(0, 1_000_000).core;
        core.refresh_cuts().unwrap();
        assert!(!core.are_cuts_due().unwrap());
        let author = |n: u8| DeviceKey([n; 32]);
        let due = |core: &Core| core.rows.get(CUTS_DUE).unwrap().unwrap().to_vec();
        for n in 0..CUTS_DUE_MAX as u8 {
            for _ in 0..2 {
                core.cuts_of_are_due(&author(n)).unwrap();
            }
        }
        let named: Vec<u8> = (0..CUTS_DUE_MAX as u8).flat_map(|n| author(n).0).collect();
        assert_eq!(due(&core), named);
        core.cuts_of_are_due(&author(200)).unwrap();
        assert_eq!(due(&core), [0; 0]);
        core.cuts_of_are_due(&author(200)).unwrap();
        assert_eq!(due(&core), [0; 0], "everybody's are due as before");
        core.refresh_cuts().unwrap();
        core.cuts_of_are_due(&author(1)).unwrap();
        core.cuts_are_due(&Cell::new(Lane::System, Space::Bytes, b"k"));
        assert_eq!(due(&core), [0; 0]);
    }
}

//! Cuts: which entries governance has cut off.
//!
//! Governance lists revocations of an author, each with what it keeps. Whatever of the author's entries some revocation
//! neither keeps nor spares by its grant is void, wherever it sorts. Cuts are asked for at the end of the system lane,
//! after a change, of those authors whose answers rest on what changed, and of a changed cut only the entries beyond
//! what it keeps are judged anew: revoking one of many members, or a member with many entries, costs what it changes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{DeviceKey, IntentionId, Lane, Seq, VerifiedHeader};

use crate::fold::core::Core;
use crate::fold::cut_reads::CutRead;
use crate::fold::governance::storage;
use crate::fold::placed_cuts::{
    BranchJudge, Loaded, PlacedCut, Reach, UNANSWERED, decode_cuts, encode_cuts,
};
use crate::graph::dag::{self, BranchId, Meta};
use crate::graph::slot::Slot;
use crate::graph::void;
use crate::limits::{CUT_ROUNDS_EXTRA, CUTS_DUE_MAX};
use crate::mutant::{self, Mutant};
use crate::run::engine::{Answer, AskError, Cut, HostFault, Kept, Question};
use crate::state::call_index;
use crate::state::cell::Cell;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;

fn cuts_key(author: &DeviceKey) -> Vec<u8> {
    let mut key = vec![b'X'];
    key.extend_from_slice(&author.0);
    key
}

/// The row of the authors whose cuts must be asked for: their keys one after the other. An empty row stands for all
/// authors.
const CUTS_DUE: &[u8] = b"Mcuts-due";

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
            self.cut_reads.remember(author, read);
            self.apply_cuts(&author, cuts).map_err(storage)?;
        }
        self.rows.remove(CUTS_DUE);
        self.cut_reads.asked(everybody);
        Ok(())
    }

    fn apply_cuts(&mut self, author: &DeviceKey, cuts: Vec<PlacedCut>) -> Result<(), StorageError> {
        let known = self.cuts_known(author)?;
        if *known == cuts {
            return Ok(());
        }
        self.cut_reads.placed.forget(author);
        if cuts.is_empty() {
            self.rows.remove(cuts_key(author));
        } else {
            self.rows.put(cuts_key(author), encode_cuts(&cuts));
        }
        let came = cuts.iter().map(|cut| !known.contains(cut));
        let came: Vec<bool> = came.collect();
        let went = known.iter().filter(|cut| !cuts.contains(cut));
        let went = Loaded::all(&self.rows, went)?;
        let loaded = Loaded::all(&self.rows, &cuts)?;
        // Neighbours among the branches share the nodes that tell what is kept of them.
        let mut branches = dag::branches_of(&self.rows, author, None)?;
        branches.sort_unstable();
        for branch_id in branches {
            let branch = dag::branch(&self.rows, branch_id)?;
            let pasts = &mut self.cache.pasts;
            let mut judge = BranchJudge::of(&self.rows, pasts, branch_id, &loaded)?;
            // What every changed cut keeps is as void or live as before.
            let mut from = Seq(u64::MAX);
            let mut beyond = |kept: Option<Seq>| {
                from = from.min(kept.map_or(branch.first, |kept| Seq(kept.0.saturating_add(1))));
            };
            for ((_, kept), came) in judge.cuts.iter().zip(&came) {
                if *came {
                    beyond(*kept);
                }
            }
            for cut in &went {
                beyond(cut.kept(&self.rows, pasts, branch_id)?);
            }
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
            Arc::new(self.ask_cuts(author)?.0)
        } else {
            self.cuts_known(author).map_err(storage)?
        };
        Ok(cuts.iter().map(|cut| cut.revocation).collect())
    }

    /// The cuts of an author, as governance has them at the end of the system lane.
    fn ask_cuts(&self, author: &DeviceKey) -> Result<(Vec<PlacedCut>, CutRead), HostFault> {
        let question = Question::Cuts(*author);
        let asked = self.asking().ask(&self.rows, &question, Slot::MAX);
        match asked.answer {
            Ok(Answer::Cuts(cuts)) => {
                let read = CutRead::of(&asked.reads, &cuts);
                Ok((self.place(author, &cuts).map_err(storage)?, read))
            }
            // Governance that traps has cut off everything of the author, on every replica alike. If it had cut off
            // nothing, who can make it trap could undo every revocation.
            Ok(_) | Err(AskError::Trapped(_)) => {
                let all = PlacedCut {
                    revocation: UNANSWERED,
                    reach: Reach::Branches(Vec::new()),
                };
                let none = mutant::active(Mutant::TrappedCutsForgotten);
                let cuts = if none { Vec::new() } else { vec![all] };
                Ok((cuts, CutRead::of(&asked.reads, &[])))
            }
            Err(AskError::Host(fault)) => Err(fault),
        }
    }

    fn cuts_known(&mut self, author: &DeviceKey) -> Result<Arc<Vec<PlacedCut>>, StorageError> {
        if let Some(cuts) = self.cut_reads.placed.get(author) {
            return Ok(cuts);
        }
        let cuts = match self.rows.get(&cuts_key(author))? {
            Some(row) => decode_cuts(&row).ok_or_else(|| StorageError::row(&cuts_key(author)))?,
            None => Vec::new(),
        };
        let cuts = Arc::new(cuts);
        self.cut_reads.placed.keep(*author, cuts.clone());
        Ok(cuts)
    }

    /// Whether the cuts known now make a new entry void, whatever its place. What a revocation keeps by its id or by
    /// its past was here when the revocation came, so only the grant can spare the entry. `None` while the grant of an
    /// author with cuts is unknown.
    pub(crate) fn would_be_cut_off(
        &mut self,
        header: &VerifiedHeader,
    ) -> Result<Option<bool>, StorageError> {
        let cuts = self.cuts_known(&header.author)?;
        let Some(grant) = header.grant.filter(|_| !cuts.is_empty()) else {
            return Ok(Some(false));
        };
        let Some(grant) = self.local_of(&grant)? else {
            return Ok(None);
        };
        for cut in cuts.iter() {
            let is_known = cut.revocation != UNANSWERED
                && dag::local_in_past_or_same(&self.rows, cut.revocation, grant)?;
            if !is_known {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
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
            let loaded = Loaded::all(&self.rows, &*cuts)?;
            let pasts = &mut self.cache.pasts;
            let mut judge = BranchJudge::of(&self.rows, pasts, meta.branch, &loaded)?;
            self.judge(local, &meta, &mut judge)?;
        }
        self.note_live(local)
    }

    /// Notes a new entry, which was judged, among the live heads.
    pub(crate) fn note_live(&mut self, local: LocalSeq) -> Result<(), StorageError> {
        if self.cache.live_heads.is_known() {
            let meta = dag::meta(&self.rows, local)?;
            let is_void = self.cache.any_void && void::is_void(&self.rows, &meta.id)?;
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
        let cut_off = local.0 != 0 && judge.is_void(&self.rows, meta)?;
        let changed = void::is_cut_off(&self.rows, &meta.id)? != cut_off;
        if changed {
            // Whether an entry that counts again is within its quota is found out when it runs.
            let reason = cut_off.then_some(void::Reason::CutOff);
            let author = self.cache.branch(&self.rows, meta.branch)?.author;
            if void::set(&mut self.rows, &author, meta, reason)? {
                self.fingerprints.judged(meta.position(), cut_off);
            }
            self.cache.any_void |= cut_off;
            let slot = Slot::of(meta.position());
            self.progress.due.set(&mut self.rows, meta.lane, slot)?;
        }
        Ok(changed)
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

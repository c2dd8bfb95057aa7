//! Questions to the governance component, their cached answers, and what they cut off.
//!
//! The kernel never looks inside governance state. It asks the listed questions, remembers each answer with the
//! values that the component read for it, and uses the answer again wherever those values are the same. Each use
//! counts as the same reads, because an entry depends on what allowed it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{ComponentId, DeviceKey, IntentionId, Lane, Limits, StoreId, Time};

use crate::fold::core::Core;
use crate::graph::cut_off;
use crate::graph::dag::{self, Meta};
use crate::graph::slot::Slot;
use crate::limits::{ANSWERS_MAX, CUT_ROUNDS_EXTRA, CUTS_DUE_MAX};
use crate::mutant::{self, Mutant};
use crate::run::engine::{Answer, AskError, Cut, Engine, HostFault, Question};
use crate::run::{Range, Reads, Run};
use crate::state::call_index;
use crate::state::cell::{Cell, Space, ValueMark};
use crate::state::live::{self, Span};
use crate::state::versions;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;

/// An answer and the values that it was made from. Boxed slices keep it small, because there is at least one for each
/// member.
struct Remembered {
    cells: Box<[(Cell, ValueMark)]>,
    ranges: Box<[(Range, ValueMark)]>,
    answer: Answer,
}

impl Remembered {
    fn of(rows: &RowsView, asked: &Reads, answer: &Answer, at: Slot) -> Result<Self, StorageError> {
        let cells = asked.cells.iter().map(|(cell, mark)| (cell.clone(), *mark));
        let ranges = asked.ranges.iter();
        let ranges = ranges.map(|range| Ok((range.clone(), range_mark(rows, range, at)?)));
        Ok(Self {
            cells: cells.collect(),
            ranges: ranges.collect::<Result<_, StorageError>>()?,
            answer: answer.clone(),
        })
    }

    fn reads(&self) -> Reads {
        Reads {
            cells: self.cells.iter().cloned().collect(),
            ranges: self.ranges.iter().map(|(range, _)| range.clone()).collect(),
        }
    }
}

/// Remembered answers, by question.
#[derive(Default)]
pub(crate) struct Answers {
    by_question: HashMap<Question, Vec<Remembered>>,
    count: usize,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answers({})", self.count)
    }
}

/// How many answers to one question are kept: one for each set of values met lately.
const ANSWERS_PER_QUESTION: usize = 4;

/// What it takes to ask a governance component.
pub(crate) struct Asking<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) component: &'a ComponentId,
    pub(crate) limits: &'a Limits,
    pub(crate) store: StoreId,
}

impl Asking<'_> {
    /// Asks the component, whatever answers are remembered.
    pub(crate) fn ask(&self, rows: &RowsView, question: &Question, at: Slot) -> TrackedAnswer {
        let run = Run::query(
            rows.clone(),
            Some(self.store),
            Lane::System,
            at,
            Time::default(),
        );
        self.ask_in(run, question)
    }

    pub(crate) fn ask_in(&self, run: Run, question: &Question) -> TrackedAnswer {
        let (run, answer) = self.engine.ask(self.component, self.limits, run, question);
        let (reads, _) = run.into_effects();
        TrackedAnswer { reads, answer }
    }
}

/// An answer with the reads that it rests on.
pub(crate) struct TrackedAnswer {
    pub(crate) reads: Reads,
    pub(crate) answer: Result<Answer, AskError>,
}

impl Answers {
    /// Uses a remembered answer that was made from the values that hold at `at`, or else asks and remembers the
    /// answer.
    pub(crate) fn ask(
        &mut self,
        asking: &Asking<'_>,
        rows: &RowsView,
        question: &Question,
        at: Slot,
    ) -> Result<TrackedAnswer, StorageError> {
        if let Some(list) = self.by_question.get(question) {
            for known in list.iter().rev() {
                if same_values(rows, known, at)? {
                    let reads = match mutant::active(Mutant::CachedAuthorizationReadsLost) {
                        true => Reads::default(),
                        false => known.reads(),
                    };
                    return Ok(TrackedAnswer {
                        reads,
                        answer: Ok(known.answer.clone()),
                    });
                }
            }
        }
        let asked = asking.ask(rows, question, at);
        if let Ok(answer) = &asked.answer {
            if self.count >= ANSWERS_MAX {
                self.by_question.clear();
                self.count = 0;
            }
            let remembered = Remembered::of(rows, &asked.reads, answer, at)?;
            // Most questions only ever have one answer, so the list begins with room for one.
            let list = self.by_question.entry(question.clone());
            let list = list.or_insert_with(|| Vec::with_capacity(1));
            if list.len() == ANSWERS_PER_QUESTION {
                list.remove(0);
                self.count -= 1;
            }
            self.count += 1;
            list.push(remembered);
        }
        Ok(asked)
    }
}

fn same_values(rows: &RowsView, known: &Remembered, at: Slot) -> Result<bool, StorageError> {
    for (cell, mark) in &known.cells {
        if versions::mark_at(rows, cell, at)? != *mark {
            return Ok(false);
        }
    }
    for (range, mark) in &known.ranges {
        if range_mark(rows, range, at)? != *mark {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One mark for everything that a run at `at` sees in a range.
fn range_mark(rows: &RowsView, range: &Range, at: Slot) -> Result<ValueMark, StorageError> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |key: &[u8], value: &[u8]| {
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key);
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value);
        ControlFlow::Continue(())
    };
    let (Some(start), end) = (Cell::from_slice(&range.start), Cell::from_slice(&range.end)) else {
        return Err(StorageError::row(b"G"));
    };
    // An end in another lane or space stands for the end of the range's own space.
    let end = end.filter(|end| (end.lane(), end.space()) == (start.lane(), start.space()));
    let end = end.as_ref().map(Cell::key);
    let span = Span {
        lane: start.lane(),
        space: start.space(),
        start: start.key(),
        end,
        reverse: false,
    };
    match start.space() {
        Space::Numbers => live::scan_numbers_at(rows, span, at, |key, number| {
            add(key, &number.to_be_bytes())
        })?,
        _ => live::scan_bytes_at(rows, span, at, |key, value| add(key, &value))?,
    }
    Ok(ValueMark::of_bytes(Some(hasher.finalize().as_bytes())))
}

fn cuts_key(author: &DeviceKey) -> Vec<u8> {
    let mut key = vec![b'X'];
    key.extend_from_slice(&author.0);
    key
}

/// The row of the authors whose cuts must be asked for: their keys one after the other. An empty row stands for all
/// authors.
const CUTS_DUE: &[u8] = b"Mcuts-due";

/// A cut with the entries that hold its revocation. Several can, since a device that forks its chain can sign several
/// calls of one id.
#[derive(Debug, Default, PartialEq, Eq)]
struct PlacedCut {
    revocations: Vec<LocalSeq>,
    kept: Vec<IntentionId>,
}

/// One revocation of an author: the entry that revokes, and the entries of the author that it keeps.
struct Resolved {
    /// An entry that counts and holds the call of the revocation.
    revocation: LocalSeq,
    kept: Vec<Meta>,
}

impl Core {
    /// Notes that every author's cuts must be asked for, because governance has changed.
    pub(crate) fn cuts_are_due(&mut self) {
        self.rows.put(CUTS_DUE, []);
    }

    /// Notes that the cuts of `author` must be asked for, because a new branch of it has come. Nobody else's cuts
    /// depend on that.
    pub(crate) fn cuts_of_are_due(&mut self, author: &DeviceKey) -> Result<(), StorageError> {
        let known = self.rows.get(CUTS_DUE)?;
        let named = known.as_deref().unwrap_or_default();
        let everybody = known.is_some() && named.is_empty();
        if everybody || named.chunks(DeviceKey::LEN).any(|other| other == author.0) {
            return Ok(());
        }
        if named.len() >= CUTS_DUE_MAX * DeviceKey::LEN {
            self.cuts_are_due();
        } else {
            self.rows.put(CUTS_DUE, [named, &author.0].concat());
        }
        Ok(())
    }

    /// Whether anybody's cuts must be asked for.
    pub(crate) fn are_cuts_due(&self) -> Result<bool, StorageError> {
        Ok(self.rows.get(CUTS_DUE)?.is_some())
    }

    pub(crate) fn asking(&self) -> Asking<'_> {
        Asking {
            engine: &*self.engine,
            component: &self.info.genesis.system.id,
            limits: &self.info.genesis.limits,
            store: self.info.id,
        }
    }

    /// Asks at a slot, with the help of remembered answers.
    pub(crate) fn ask_at(
        &mut self,
        question: &Question,
        at: Slot,
    ) -> Result<TrackedAnswer, StorageError> {
        let asking = Asking {
            engine: &*self.engine,
            component: &self.info.genesis.system.id,
            limits: &self.info.genesis.limits,
            store: self.info.id,
        };
        self.answers.ask(&asking, &self.rows, question, at)
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
        let authors = match due.is_empty() {
            true => dag::authors(&self.rows).map_err(storage)?,
            false => due
                .chunks(DeviceKey::LEN)
                .filter_map(DeviceKey::from_slice)
                .collect(),
        };
        for author in authors {
            let cuts = self.ask_cuts(&author)?;
            self.apply_cuts(&author, &cuts).map_err(storage)?;
        }
        self.rows.remove(CUTS_DUE);
        Ok(())
    }

    fn apply_cuts(&mut self, author: &DeviceKey, cuts: &[Cut]) -> Result<(), StorageError> {
        let cuts = self.place(cuts)?;
        let encoded = encode_cuts(&cuts);
        let known = self.rows.get(&cuts_key(author))?;
        if known.as_deref().unwrap_or_default() == encoded {
            return Ok(());
        }
        if encoded.is_empty() {
            self.rows.remove(cuts_key(author));
        } else {
            self.rows.put(cuts_key(author), encoded);
        }
        let resolved = self.resolve(author, &cuts)?;
        for branch_id in dag::branches_of(&self.rows, author, None)? {
            let branch = dag::branch(&self.rows, branch_id)?;
            for seq in branch.first.0..=branch.tip.0 {
                let seq = lattice_format::Seq(seq);
                if let Some(local) = dag::entry_of_branch(&self.rows, branch_id, seq)? {
                    let meta = dag::meta(&self.rows, local)?;
                    self.judge(local, &meta, &resolved)?;
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
        let unknown = dag::branches_of(&self.rows, author, None)
            .map_err(storage)?
            .is_empty();
        let cuts = if unknown || self.are_cuts_due().map_err(storage)? {
            let cuts = self.ask_cuts(author)?;
            self.place(&cuts).map_err(storage)?
        } else {
            self.cuts_known(author).map_err(storage)?
        };
        Ok(cuts.into_iter().flat_map(|cut| cut.revocations).collect())
    }

    /// The cuts of an author, as governance has them at the end of the system lane.
    fn ask_cuts(&mut self, author: &DeviceKey) -> Result<Vec<Cut>, HostFault> {
        let asked = self
            .ask_at(&Question::Cuts(*author), Slot::MAX)
            .map_err(storage)?;
        match asked.answer {
            Ok(Answer::Cuts(cuts)) => Ok(cuts),
            // A governance component that traps at this question cuts nobody off, on every replica alike.
            Ok(_) | Err(AskError::Trapped(_)) => Ok(Vec::new()),
            Err(AskError::Host(fault)) => Err(fault),
        }
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
        if cuts.is_empty() {
            return Ok(());
        }
        let resolved = self.resolve(author, &cuts)?;
        let meta = dag::meta(&self.rows, local)?;
        self.judge(local, &meta, &resolved)
    }

    fn judge(
        &mut self,
        local: LocalSeq,
        meta: &Meta,
        cuts: &[Resolved],
    ) -> Result<(), StorageError> {
        let mut void = false;
        // No cut voids the genesis, because without it there is no store.
        if local.0 != 0 {
            for cut in cuts {
                void |= !self.spares(cut, meta)?;
            }
        }
        if cut_off::is_cut_off(&self.rows, &meta.id)? != void {
            cut_off::set_cut_off(&mut self.rows, &meta.id, void);
            self.cache.any_cut |= void;
            let slot = Slot::of(meta.position());
            self.progress.due.set(&mut self.rows, meta.lane, slot)?;
        }
        Ok(())
    }

    fn spares(&self, cut: &Resolved, entry: &Meta) -> Result<bool, StorageError> {
        if let Some(grant) = entry.grant
            && dag::local_in_past_or_same(&self.rows, cut.revocation, grant)?
        {
            return Ok(true);
        }
        for kept in &cut.kept {
            if dag::is_prev_ancestor_or_same(&self.rows, entry, kept)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds the entries that hold the revocations of `cuts`. Where several hold a call of one id, each of them cuts.
    fn place(&self, cuts: &[Cut]) -> Result<Vec<PlacedCut>, StorageError> {
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
            out.push(PlacedCut {
                revocations,
                kept: cut.kept.clone(),
            });
        }
        Ok(out)
    }

    fn resolve(
        &self,
        author: &DeviceKey,
        cuts: &[PlacedCut],
    ) -> Result<Vec<Resolved>, StorageError> {
        let mut out = Vec::new();
        for cut in cuts {
            for revocation in &cut.revocations {
                let mut kept = Vec::new();
                for id in &cut.kept {
                    if let Some(meta) = self.kept(author, *revocation, id)? {
                        kept.push(meta);
                    }
                }
                out.push(Resolved {
                    revocation: *revocation,
                    kept,
                });
            }
        }
        Ok(out)
    }

    /// The entry of a kept id. `None` unless it is an entry of the author in the revocation's own past, since a
    /// revocation can keep nothing else.
    fn kept(
        &self,
        author: &DeviceKey,
        revocation: LocalSeq,
        id: &IntentionId,
    ) -> Result<Option<Meta>, StorageError> {
        let Some(local) = dag::local_of(&self.rows, id)? else {
            return Ok(None);
        };
        let meta = dag::meta(&self.rows, local)?;
        let own = dag::branch(&self.rows, meta.branch)?.author == *author;
        let seen = dag::local_in_past_or_same(&self.rows, local, revocation)?;
        Ok((own && seen).then_some(meta))
    }

    /// How many rounds of cutting and folding governance may take. A component that needs more contradicts itself.
    pub(crate) fn cut_rounds_max(&self) -> Result<usize, StorageError> {
        Ok(dag::authors(&self.rows)?.len() + CUT_ROUNDS_EXTRA)
    }
}

pub(crate) fn storage(error: StorageError) -> HostFault {
    HostFault::Storage(error)
}

fn encode_cuts(cuts: &[PlacedCut]) -> Vec<u8> {
    let mut out = Vec::new();
    for cut in cuts {
        out.extend_from_slice(&(cut.revocations.len() as u32).to_be_bytes());
        for local in &cut.revocations {
            out.extend_from_slice(&local.0.to_be_bytes());
        }
        out.extend_from_slice(&(cut.kept.len() as u32).to_be_bytes());
        for id in &cut.kept {
            out.extend_from_slice(&id.0);
        }
    }
    out
}

fn decode_cuts(mut bytes: &[u8]) -> Option<Vec<PlacedCut>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let mut cut = PlacedCut::default();
        let (count, mut rest) = bytes.split_first_chunk::<4>()?;
        for _ in 0..u32::from_be_bytes(*count) {
            let (local, tail) = rest.split_first_chunk::<8>()?;
            cut.revocations.push(LocalSeq(u64::from_be_bytes(*local)));
            rest = tail;
        }
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        for _ in 0..u32::from_be_bytes(*count) {
            let (id, tail) = rest.split_first_chunk::<32>()?;
            cut.kept.push(IntentionId(*id));
            rest = tail;
        }
        out.push(cut);
        bytes = rest;
    }
    Some(out)
}

/// Asks a question over a view of the rows, for readers, which have no remembered answers.
pub(crate) fn ask_view(
    engine: &Arc<dyn Engine>,
    component: &ComponentId,
    limits: &Limits,
    store: StoreId,
    rows: &RowsView,
    question: &Question,
) -> Result<Answer, AskError> {
    Asking {
        engine: &**engine,
        component,
        limits,
        store,
    }
    .ask(rows, question, Slot::MAX)
    .answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
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
        core.cuts_are_due();
        assert_eq!(due(&core), [0; 0]);
    }
}

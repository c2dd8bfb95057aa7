//! Questions to the governance component, and their cached answers.
//!
//! The kernel never looks inside governance state. It asks the listed questions, remembers each answer with the
//! values that the component read for it, and uses the answer again wherever those values are the same. Each use
//! counts as the same reads, because an entry depends on what allowed it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{ComponentId, Lane, Limits, StoreId, Time};

use crate::fold::core::Core;
use crate::graph::slot::Slot;
use crate::limits::ANSWERS_MAX;
use crate::mutant::{self, Mutant};
use crate::run::engine::{Answer, AskError, Engine, HostFault, Question};
use crate::run::{Range, Reads, Run};
use crate::state::cell::{Cell, Space, ValueMark};
use crate::state::live::{self, Span};
use crate::state::versions;
use crate::storage::error::StorageError;
use crate::storage::rows::RowsView;

/// An answer and the values that it was made from. Boxed slices keep it small, because there is at least one for each
/// member.
struct Remembered {
    cells: Box<[(Cell, ValueMark)]>,
    ranges: Box<[(Range, ValueMark)]>,
    answer: Answer,
    /// The version of the lane at whose end these values were last found.
    at_end: Option<LaneVersion>,
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
            at_end: None,
        })
    }

    fn reads(&self) -> Reads {
        Reads {
            cells: self.cells.iter().cloned().collect(),
            ranges: self.ranges.iter().map(|(range, _)| range.clone()).collect(),
        }
    }
}

/// A version of the system lane: what stands in the lane differs only between versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LaneVersion(u64);

/// Remembered answers, by question.
#[derive(Default)]
pub(crate) struct Answers {
    by_question: HashMap<Question, Vec<Remembered>>,
    count: usize,
    version: LaneVersion,
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
    /// Notes that the system lane may hold something else than before: a run was installed in it, or one was undone.
    pub(crate) fn lane_changed(&mut self) {
        if !mutant::active(Mutant::AnswersOutliveChanges) {
            self.version.0 += 1;
        }
    }

    /// Uses a remembered answer that was made from the values that hold at `at`, or else asks and remembers the
    /// answer. At the end of the lane, [`Slot::MAX`], the values are compared once for each version of the lane.
    pub(crate) fn ask(
        &mut self,
        asking: &Asking<'_>,
        rows: &RowsView,
        question: &Question,
        at: Slot,
    ) -> Result<TrackedAnswer, StorageError> {
        let at_end = (at == Slot::MAX).then_some(self.version);
        if let Some(list) = self.by_question.get_mut(question) {
            for known in list.iter_mut().rev() {
                let holds = at_end.is_some() && known.at_end == at_end;
                if holds || same_values(rows, known, at)? {
                    known.at_end = at_end.or(known.at_end);
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
            let mut remembered = Remembered::of(rows, &asked.reads, answer, at)?;
            remembered.at_end = at_end;
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
        Space::Numbers => {
            live::scan_numbers_at(rows, span, at, &live::Memo::default(), |key, number| {
                add(key, &number.to_be_bytes())
            })?
        }
        _ => live::scan_bytes_at(rows, span, at, &live::Memo::default(), |key, value| {
            add(key, &value)
        })?,
    }
    Ok(ValueMark::of_bytes(Some(hasher.finalize().as_bytes())))
}

impl Core {
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
        // Above everything that has run in the lane, a slot sees what the end of the lane sees.
        let above_all = at > self.progress.last_run[0] || mutant::active(Mutant::AnswersOfTheEnd);
        let at = if above_all { Slot::MAX } else { at };
        let asking = Asking {
            engine: &*self.engine,
            component: &self.info.genesis.system.id,
            limits: &self.info.genesis.limits,
            store: self.info.id,
        };
        self.answers.ask(&asking, &self.rows, question, at)
    }
}

pub(crate) fn storage(error: StorageError) -> HostFault {
    HostFault::Storage(error)
}

/// Asks a question over a view of the rows, for readers, which have no remembered answers.
pub(crate) fn ask_view(
    engine: &Arc<dyn Engine>,
    component: &ComponentId,
    limits: &Limits,
    store: StoreId,
    rows: &RowsView,
    question: &Question,
) -> TrackedAnswer {
    Asking {
        engine: &**engine,
        component,
        limits,
        store,
    }
    .ask(rows, question, Slot::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_format::ChainId;

    use super::*;
    use crate::run::engine::Role;
    use crate::testing;

    /// Holds: invariants 5, 6.
    #[test]
    fn an_answer_that_rests_on_what_was_undone_is_not_used() {
        let now_ms = 1_800_000_000_000;
        let mut store = testing::found(0, now_ms);
        let question = Question::Quota {
            author: testing::device(0),
            lane: Lane::App,
        };
        let quota = |store: &mut crate::Store| {
            let asked = store.core.ask_at(&question, Slot::MAX).unwrap();
            match asked.answer.unwrap() {
                Answer::Quota(bytes) => bytes,
                other => panic!("{other:?}"),
            }
        };
        let set = |store: &mut crate::Store, bytes| {
            let call = testing::set_quota_of_role(Role::Admin, Some(bytes));
            let told = store.call(Lane::System, vec![call], now_ms, ChainId(1));
            assert!(told.unwrap().outcome.is_ok());
            store.close_intention(now_ms).unwrap();
        };
        assert_eq!(quota(&mut store), None);
        set(&mut store, 1_000_000);
        assert_eq!(quota(&mut store), Some(1_000_000));
        store.roll_back();
        assert_eq!(quota(&mut store), None);
        set(&mut store, 2_000_000);
        assert_eq!(quota(&mut store), Some(2_000_000));
        store.commit(now_ms).unwrap();
        assert_eq!(quota(&mut store), Some(2_000_000));
    }
}

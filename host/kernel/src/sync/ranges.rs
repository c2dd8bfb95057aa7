//! Reconciliation by ranges: summaries of ranges find the differences that tips cannot explain.
//!
//! The searching side asks for summaries of ranges. The other side keeps no state. It answers a range with the ids in
//! it where they are few, and else with parts and a fingerprint of each part: the fewer ranges are in question, the
//! more parts. The searching side drops the parts that are equal, and asks about the others again.
//!
//! A fingerprint is the digest of an LtHash, so a member cannot craft entries whose sums cancel out. The store keeps
//! sums of blocks ([`crate::state::fingerprints`]), so either side reads a path to each end of a range rather than the
//! range. Rows are read in slices, so that the shell gets its turn in between.

use std::collections::{BTreeSet, VecDeque};

use lattice_format::IntentionId;

use super::limits::{FRONTIER_MAX, JOBS_MAX, RANGES_MAX, SCAN_ROWS, SCANS_MAX};
use super::message::{Message, Range, RangeContent, RangeSummary};
use super::summary::{Budget, Summarizer, Sums, parts_max};
use crate::{Snapshot, StorageError};

/// A range of which the peer listed all ids. Our entries that are not listed, the peer lacks.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) range: Range,
    /// The listed ids in the peer's order. The order is causal, so what is missing here is asked for in it.
    pub(super) listed: Vec<IntentionId>,
    pub(super) theirs: BTreeSet<IntentionId>,
}

#[derive(Debug)]
enum Node {
    Ask(Range),
    Compare(RangeSummary),
    Leaf(Leaf),
}

/// The search of one round, which the dialer does.
#[derive(Debug)]
struct Search {
    /// The ranges that are not done, in ascending order, so that what is found is sent in causal order.
    frontier: VecDeque<Node>,
    asked: Vec<Range>,
}

/// The answer to one question of the peer, under way.
#[derive(Debug)]
struct Answer {
    snapshot: Snapshot,
    sums: Sums,
    todo: VecDeque<Summarizer>,
    done: Vec<RangeSummary>,
}

/// What a peer did that the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeFault {
    #[error("a summary that was not asked for")]
    Unasked,
    #[error("a summary that does not cover the range in question")]
    Shape,
    #[error("a sketch, or what was read out of one, that is not due")]
    Undue,
    #[error("another question before the last was answered")]
    Impatient,
    #[error("more summaries than the two logs can need")]
    TooMuch,
}

/// What one step found.
#[derive(Debug, Default)]
pub(super) struct RangeStep {
    pub(super) messages: Vec<Message>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) fault: Option<RangeFault>,
    /// Whether the bound of this step was reached.
    pub(super) again: bool,
}

/// Both halves of range reconciliation in one round.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    round: u64,
    search: Option<Search>,
    answer: Option<Answer>,
    /// Rows read for summaries in this round.
    pub(super) rows_read: u64,
}

impl Ranges {
    /// Forgets everything of earlier rounds.
    pub(super) fn reset(&mut self, round: u64) {
        *self = Self {
            round,
            ..Self::default()
        };
    }

    /// Begins a search of the whole order.
    pub(super) fn search(&mut self) {
        self.search = Some(Search {
            frontier: VecDeque::from([Node::Ask(Range::ALL)]),
            asked: Vec::new(),
        });
    }

    /// Whether neither a search nor an answer is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.search.is_none() && self.answer.is_none()
    }

    /// Takes a question of the peer.
    pub(super) fn on_summarize(
        &mut self,
        ranges: Vec<Range>,
        snapshot: &Snapshot,
    ) -> Result<(), RangeFault> {
        if self.answer.is_some() {
            return Err(RangeFault::Impatient);
        }
        let ascending = ranges.windows(2).all(|pair| pair[0].to <= pair[1].from);
        if !ascending || ranges.iter().any(|range| range.from >= range.to) {
            return Err(RangeFault::Shape);
        }
        let parts_max = parts_max(ranges.len());
        let todo = ranges.into_iter();
        self.answer = Some(Answer {
            snapshot: snapshot.clone(),
            sums: Sums::default(),
            todo: todo
                .map(|range| Summarizer::new(range, parts_max))
                .collect(),
            done: Vec::new(),
        });
        Ok(())
    }

    /// Takes the peer's answer to the last question.
    pub(super) fn on_summary(&mut self, summaries: Vec<RangeSummary>) -> Result<(), RangeFault> {
        let search = self.search.as_mut().ok_or(RangeFault::Unasked)?;
        if search.asked.is_empty() {
            return Err(RangeFault::Unasked);
        }
        let mut answers = summaries.into_iter().peekable();
        let parts_max = parts_max(search.asked.len());
        let mut asked = std::mem::take(&mut search.asked).into_iter().peekable();
        let mut frontier = VecDeque::new();
        for node in std::mem::take(&mut search.frontier) {
            match node {
                Node::Ask(range) if asked.peek() == Some(&range) => {
                    asked.next();
                    replace(range, parts_max, &mut answers, &mut frontier)?;
                }
                node => frontier.push_back(node),
            }
        }
        if answers.next().is_some() {
            return Err(RangeFault::Shape);
        }
        if frontier.len() > FRONTIER_MAX {
            return Err(RangeFault::TooMuch);
        }
        search.frontier = frontier;
        Ok(())
    }

    /// Goes on with the answer and the search. While many `jobs` wait to be sent, nothing new is asked.
    pub(super) fn step(
        &mut self,
        snapshot: &Snapshot,
        jobs: usize,
    ) -> Result<RangeStep, StorageError> {
        let mut out = RangeStep::default();
        let mut budget = Budget::default();
        self.answer_on(&mut budget, &mut out)?;
        self.search_on(snapshot, jobs, &mut budget, &mut out)?;
        self.rows_read += budget.rows_read as u64;
        let rows_max = SCANS_MAX * (snapshot.summary().count + SCAN_ROWS as u64);
        if self.rows_read > rows_max {
            out.fault = Some(RangeFault::TooMuch);
            self.search = None;
            self.answer = None;
        }
        Ok(out)
    }

    fn answer_on(&mut self, budget: &mut Budget, out: &mut RangeStep) -> Result<(), StorageError> {
        let Some(answer) = &mut self.answer else {
            return Ok(());
        };
        while let Some(summarizer) = answer.todo.front_mut() {
            let Some(done) = summarizer.step(&answer.snapshot, &mut answer.sums, budget)? else {
                out.again = true;
                return Ok(());
            };
            answer.done.extend(done);
            answer.todo.pop_front();
        }
        out.messages.push(Message::Summary {
            round: self.round,
            ranges: std::mem::take(&mut answer.done),
        });
        self.answer = None;
        Ok(())
    }

    fn search_on(
        &mut self,
        snapshot: &Snapshot,
        jobs: usize,
        budget: &mut Budget,
        out: &mut RangeStep,
    ) -> Result<(), StorageError> {
        let Some(search) = &mut self.search else {
            return Ok(());
        };
        let mut checked = VecDeque::new();
        // Each step may have another snapshot, so no sum is kept from one to the next.
        let mut sums = Sums::default();
        while let Some(node) = search.frontier.pop_front() {
            let Node::Compare(summary) = node else {
                checked.push_back(node);
                continue;
            };
            if budget.is_used_up() {
                search.frontier.push_front(Node::Compare(summary));
                out.again = true;
                break;
            }
            let sum = sums.of(snapshot, summary.range, budget)?;
            let ours = RangeContent::Fingerprint(sum.hash.digest());
            if (sum.count, &ours) != (summary.count, &summary.content) {
                checked.push_back(Node::Ask(summary.range));
            }
        }
        checked.append(&mut search.frontier);
        search.frontier = checked;
        while out.leaves.len() + jobs < JOBS_MAX
            && let Some(Node::Leaf(_)) = search.frontier.front()
        {
            if let Some(Node::Leaf(leaf)) = search.frontier.pop_front() {
                out.leaves.push(leaf);
            }
        }
        if search.frontier.is_empty() {
            self.search = None;
        } else if search.asked.is_empty() && !out.again && out.leaves.len() + jobs < JOBS_MAX {
            search.asked = search
                .frontier
                .iter()
                .filter_map(|node| match node {
                    Node::Ask(range) => Some(*range),
                    _ => None,
                })
                .take(RANGES_MAX)
                .collect();
            out.messages.push(Message::Summarize {
                round: self.round,
                ranges: search.asked.clone(),
            });
        }
        Ok(())
    }
}

/// Puts the answers about one range in the range's place: a list of its ids, or at least two parts that cover it.
fn replace(
    range: Range,
    parts_max: usize,
    answers: &mut std::iter::Peekable<std::vec::IntoIter<RangeSummary>>,
    frontier: &mut VecDeque<Node>,
) -> Result<(), RangeFault> {
    let mut from = range.from;
    let mut parts = 0;
    while from < range.to {
        let summary = answers.next().ok_or(RangeFault::Shape)?;
        if summary.range.from != from
            || summary.range.to <= from
            || summary.range.to > range.to
            || parts == parts_max
        {
            return Err(RangeFault::Shape);
        }
        from = summary.range.to;
        parts += 1;
        let whole = summary.range == range;
        match &summary.content {
            RangeContent::Ids(ids) => frontier.push_back(Node::Leaf(Leaf {
                range: summary.range,
                listed: ids.clone(),
                theirs: ids.iter().copied().collect(),
            })),
            // An answer of one part, the range itself, would make the search go on for ever.
            RangeContent::Fingerprint(_) if whole => return Err(RangeFault::Shape),
            RangeContent::Fingerprint(_) => frontier.push_back(Node::Compare(summary)),
        }
    }
    Ok(())
}

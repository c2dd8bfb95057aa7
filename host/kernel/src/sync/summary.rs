//! Summaries of ranges of the canonical order, made in slices from the fingerprints that the store keeps.

use std::collections::VecDeque;

use lattice_format::{IntentionId, Position};

use super::limits::{LEAF_IDS, PARTS_ANSWERED_MAX, PARTS_LEAST, PARTS_MAX, SCAN_ROWS};
use super::message::{Range, RangeContent, RangeSummary};
use super::source;
use crate::state::fingerprints::{self, Sum};
use crate::{Snapshot, StorageError};

/// The most rows of one read.
const PAGE_ROWS: usize = 256;
/// Entries of a part that is small enough. A part that differs may then be listed, although the other side has some
/// entries more.
const PART_ENTRIES: u64 = LEAF_IDS as u64 * 3 / 4;

/// Into how many parts each of so many ranges may be split in one answer.
pub(super) fn parts_max(ranges: usize) -> usize {
    (PARTS_ANSWERED_MAX / ranges.max(1)).clamp(PARTS_LEAST, PARTS_MAX)
}

/// How much one step has read. What it has begun when its rows are used up, it ends: a walk down the blocks.
#[derive(Debug, Default)]
pub(super) struct Budget {
    pub(super) rows_read: usize,
}

impl Budget {
    pub(super) fn is_used_up(&self) -> bool {
        self.left() == 0
    }

    fn left(&self) -> usize {
        SCAN_ROWS.saturating_sub(self.rows_read)
    }
}

/// Sums of ranges, which remember the last one's end, because ranges mostly follow each other.
#[derive(Debug, Default)]
pub(super) struct Sums(Option<(Position, Sum)>);

impl Sums {
    /// What counts at or below a position.
    fn up_to(
        &mut self,
        snapshot: &Snapshot,
        position: Position,
        budget: &mut Budget,
    ) -> Result<Sum, StorageError> {
        if let Some((last, sum)) = &self.0
            && *last == position
        {
            return Ok(sum.clone());
        }
        budget.rows_read += 1;
        let sum = fingerprints::up_to(&snapshot.rows, position, &mut budget.rows_read)?;
        self.0 = Some((position, sum.clone()));
        Ok(sum)
    }

    /// What counts in a range.
    pub(super) fn of(
        &mut self,
        snapshot: &Snapshot,
        range: Range,
        budget: &mut Budget,
    ) -> Result<Sum, StorageError> {
        let before = self.up_to(snapshot, range.from, budget)?;
        let sum = self.up_to(snapshot, range.to, budget)?;
        Ok(sum.less(&before))
    }
}

/// Reads rows of one range, a page at a time.
#[derive(Debug)]
struct Cursor {
    at: Position,
    to: Position,
    page: VecDeque<(Position, bool)>,
    ended: bool,
}

impl Cursor {
    fn new(range: Range) -> Self {
        Self {
            at: range.from,
            to: range.to,
            page: VecDeque::new(),
            ended: false,
        }
    }

    /// The position of the next entry that counts, or why there is none.
    fn next(&mut self, snapshot: &Snapshot, budget: &mut Budget) -> Result<Read, StorageError> {
        loop {
            while let Some((position, counts)) = self.page.pop_front() {
                if position > self.to {
                    self.page.clear();
                    self.ended = true;
                } else if counts {
                    return Ok(Read::Row(position));
                }
            }
            if self.ended {
                return Ok(Read::End);
            }
            if budget.is_used_up() {
                return Ok(Read::Later);
            }
            let rows = source::rows(snapshot, self.at, PAGE_ROWS.min(budget.left()))?;
            budget.rows_read += rows.len().max(1);
            match rows.last() {
                Some((last, ..)) => self.at = *last,
                None => self.ended = true,
            }
            self.page = rows
                .into_iter()
                .map(|(at, _, counts)| (at, counts))
                .collect();
        }
    }
}

enum Read {
    Row(Position),
    End,
    Later,
}

#[derive(Debug)]
enum Stage {
    Begun,
    /// The range has few entries, and their ids are listed.
    Listing(Cursor, Vec<IntentionId>),
    Splitting(Split),
}

#[derive(Debug)]
struct Split {
    /// What counts up to the range, and in it.
    before: Sum,
    inside: Sum,
    parts: u64,
    /// The end of the last part, and what counts up to there.
    at: (Position, Sum),
    done: Vec<RangeSummary>,
}

/// Summarises one range: lists its ids where they are few, and else splits it into parts of equal size.
#[derive(Debug)]
pub(super) struct Summarizer {
    range: Range,
    parts_max: u64,
    stage: Stage,
}

impl Summarizer {
    pub(super) fn new(range: Range, parts_max: usize) -> Self {
        Self {
            range,
            parts_max: parts_max as u64,
            stage: Stage::Begun,
        }
    }

    /// Reads on. Returns the summaries when they are complete.
    pub(super) fn step(
        &mut self,
        snapshot: &Snapshot,
        sums: &mut Sums,
        budget: &mut Budget,
    ) -> Result<Option<Vec<RangeSummary>>, StorageError> {
        let range = self.range;
        while !budget.is_used_up() {
            match &mut self.stage {
                Stage::Begun => {
                    let before = sums.up_to(snapshot, range.from, budget)?;
                    let inside = sums.up_to(snapshot, range.to, budget)?.less(&before);
                    self.stage = match inside.count {
                        count if count <= LEAF_IDS as u64 => {
                            Stage::Listing(Cursor::new(range), Vec::new())
                        }
                        count => Stage::Splitting(Split {
                            parts: count.div_ceil(PART_ENTRIES).min(self.parts_max),
                            at: (range.from, before.clone()),
                            before,
                            inside,
                            done: Vec::new(),
                        }),
                    };
                }
                Stage::Listing(cursor, ids) => match cursor.next(snapshot, budget)? {
                    Read::Row(position) => ids.push(position.id),
                    Read::Later => break,
                    Read::End => {
                        return Ok(Some(vec![RangeSummary {
                            range,
                            count: ids.len() as u64,
                            content: RangeContent::Ids(std::mem::take(ids)),
                        }]));
                    }
                },
                Stage::Splitting(split) => {
                    split.next(range, snapshot, budget)?;
                    if split.done.len() as u64 == split.parts {
                        return Ok(Some(std::mem::take(&mut split.done)));
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Split {
    fn next(
        &mut self,
        range: Range,
        snapshot: &Snapshot,
        budget: &mut Budget,
    ) -> Result<(), StorageError> {
        let number = self.done.len() as u64 + 1;
        let mut end = self.before.clone();
        let mut to = range.to;
        if number < self.parts {
            let count = self.before.count + self.inside.count * number / self.parts;
            budget.rows_read += 1;
            let first = fingerprints::first(&snapshot.rows, count, &mut budget.rows_read)?;
            (end, to) = first.ok_or_else(|| StorageError::row(b"F"))?;
        } else {
            // The last part reaches to the end of the range, so that the asker's entries behind our last one are
            // compared too.
            end.add_all(&self.inside);
        }
        let (from, before) = std::mem::replace(&mut self.at, (to, end.clone()));
        let sum = end.less(&before);
        self.done.push(RangeSummary {
            range: Range { from, to },
            count: sum.count,
            content: RangeContent::Fingerprint(sum.hash.digest()),
        });
        Ok(())
    }
}

//! Summaries of ranges of the canonical order, computed in one pass and in slices.

use std::collections::VecDeque;

use lattice_format::{IntentionId, Position};

use super::limits::{BLOCKS_MAX, LEAF_IDS, RANGES_MAX};
use super::message::{Range, RangeContent, RangeSummary};
use super::source;
use crate::state::lthash::{Element, LtHash};
use crate::{Snapshot, StorageError};

/// The most rows of one read.
const PAGE_ROWS: usize = 256;

pub(super) fn element(id: &IntentionId) -> Element {
    Element::new(&[b"sync id", &id.0])
}

fn merged(a: &LtHash, b: &LtHash) -> LtHash {
    let (mut sum, other) = (a.to_bytes(), b.to_bytes());
    for (lane, add) in sum
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(other.as_chunks::<2>().0)
    {
        *lane = u16::from_le_bytes(*lane)
            .wrapping_add(u16::from_le_bytes(*add))
            .to_le_bytes();
    }
    LtHash::from_slice(&sum).expect("both have the length of a hash")
}

/// Reads rows of one range, a page at a time.
#[derive(Debug)]
pub(super) struct Cursor {
    at: Position,
    to: Position,
    page: VecDeque<(Position, bool)>,
    ended: bool,
}

impl Cursor {
    pub(super) fn new(range: Range) -> Self {
        Self {
            at: range.from,
            to: range.to,
            page: VecDeque::new(),
            ended: false,
        }
    }

    /// The position of the next entry that counts, or why there is none.
    pub(super) fn next(
        &mut self,
        snapshot: &Snapshot,
        budget: &mut usize,
    ) -> Result<Read, StorageError> {
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
            if *budget == 0 {
                return Ok(Read::Later);
            }
            let rows = source::rows(snapshot, self.at, PAGE_ROWS.min(*budget))?;
            *budget -= rows.len().max(1).min(*budget);
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

pub(super) enum Read {
    Row(Position),
    End,
    Later,
}

#[derive(Debug)]
struct Block {
    last: Position,
    count: u64,
    hash: LtHash,
}

/// Summarises one range in one pass, although its size is not known: the entries go into blocks of equal size, and
/// blocks are merged in pairs when they become too many.
#[derive(Debug)]
pub(super) struct Summarizer {
    range: Range,
    cursor: Cursor,
    ids: Vec<IntentionId>,
    blocks: Vec<Block>,
    block_rows: u64,
    count: u64,
}

impl Summarizer {
    pub(super) fn new(range: Range) -> Self {
        Self {
            range,
            cursor: Cursor::new(range),
            ids: Vec::new(),
            blocks: Vec::new(),
            block_rows: (LEAF_IDS / 4) as u64,
            count: 0,
        }
    }

    /// Reads on. Tells whether the end of the range was reached.
    pub(super) fn step(
        &mut self,
        snapshot: &Snapshot,
        budget: &mut usize,
    ) -> Result<bool, StorageError> {
        loop {
            match self.cursor.next(snapshot, budget)? {
                Read::Row(position) => self.add(position),
                Read::End => return Ok(true),
                Read::Later => return Ok(false),
            }
        }
    }

    fn add(&mut self, position: Position) {
        self.count += 1;
        if self.ids.len() <= LEAF_IDS {
            self.ids.push(position.id);
        }
        let full = self
            .blocks
            .last()
            .is_none_or(|block| block.count >= self.block_rows);
        if full && self.blocks.len() == BLOCKS_MAX {
            self.block_rows *= 2;
            self.blocks = std::mem::take(&mut self.blocks)
                .chunks(2)
                .map(join)
                .collect();
        }
        if self
            .blocks
            .last()
            .is_none_or(|block| block.count >= self.block_rows)
        {
            self.blocks.push(Block {
                last: position,
                count: 0,
                hash: LtHash::default(),
            });
        }
        let block = self
            .blocks
            .last_mut()
            .expect("one was pushed if none was there");
        block.last = position;
        block.count += 1;
        block.hash.add(&element(&position.id));
    }

    pub(super) fn finish(self) -> Vec<RangeSummary> {
        if self.ids.len() <= LEAF_IDS {
            return vec![RangeSummary {
                range: self.range,
                count: self.count,
                content: RangeContent::Ids(self.ids),
            }];
        }
        let mut from = self.range.from;
        let parts = self.blocks.chunks(self.blocks.len().div_ceil(RANGES_MAX));
        let mut out: Vec<_> = parts
            .map(|blocks| {
                let part = join(blocks);
                let summary = RangeSummary {
                    range: Range {
                        from,
                        to: part.last,
                    },
                    count: part.count,
                    content: RangeContent::Fingerprint(part.hash.digest()),
                };
                from = part.last;
                summary
            })
            .collect();
        // The last part reaches to the end of the range, so that the asker's entries behind our last one are compared
        // too.
        if let Some(last) = out.last_mut() {
            last.range.to = self.range.to;
        }
        out
    }
}

fn join(blocks: &[Block]) -> Block {
    let (first, rest) = blocks.split_first().expect("chunks are not empty");
    let mut out = Block {
        last: first.last,
        count: first.count,
        hash: first.hash.clone(),
    };
    for block in rest {
        out.last = block.last;
        out.count += block.count;
        out.hash = merged(&out.hash, &block.hash);
    }
    out
}

#[cfg(test)]
mod tests {
    use lattice_format::Time;

    use super::*;

    #[test]
    fn blocks_of_a_summary_are_merged_in_pairs_when_they_are_many() {
        let mut summarizer = Summarizer::new(Range::ALL);
        let mut all = LtHash::default();
        let mut add = |summarizer: &mut Summarizer| {
            let n = summarizer.count;
            let position = Position {
                time: Time {
                    wall_ms: n + 1,
                    counter: 0,
                },
                id: IntentionId(*blake3::hash(&n.to_be_bytes()).as_bytes()),
            };
            all.add(&element(&position.id));
            summarizer.add(position);
        };
        while summarizer.count < BLOCKS_MAX as u64 * summarizer.block_rows {
            add(&mut summarizer);
        }
        assert_eq!(summarizer.blocks.len(), BLOCKS_MAX);
        add(&mut summarizer);
        assert_eq!(summarizer.blocks.len(), BLOCKS_MAX / 2 + 1);
        // Merging has lost no entry.
        let whole = join(&summarizer.blocks);
        assert_eq!((whole.count, whole.hash), (summarizer.count, all));
        let parts = summarizer.finish();
        assert!(parts.len() <= RANGES_MAX);
    }
}

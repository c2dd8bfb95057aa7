//! What the answers of governance about cuts rest on, so that a change of governance asks only about the authors that
//! it touches.

use std::collections::{BTreeSet, HashMap};

use lattice_format::{DeviceKey, Lane};

use crate::fold::placed_cuts::PlacedCuts;
use crate::limits::{CHANGED_CELLS_MAX, CUT_READS_MAX};
use crate::mutant::{self, Mutant};
use crate::run::engine::Cut;
use crate::run::{Range, Reads};
use crate::state::call_index;
use crate::state::cell::Cell;

/// What the answers about cuts rest on, so that a change of governance asks only about the authors that it touches.
#[derive(Debug, Default)]
pub(crate) struct CutReads {
    /// Of every author that was asked about.
    by_author: HashMap<DeviceKey, CutRead>,
    /// The authors whose answers rest on a cell, by the cell, or on a range, by the prefix that its ends share.
    readers: HashMap<Box<[u8]>, BTreeSet<DeviceKey>>,
    /// Authors of whom a new branch has come.
    pub(super) came: BTreeSet<DeviceKey>,
    /// The cells of the system lane that changed since the last time.
    changed: Vec<Cell>,
    /// Whether `by_author` has all authors but those that came, and `changed` all changes. Not so after a start, a
    /// failed commit, and too many changes.
    pub(super) complete: bool,
    /// Whether more authors were asked about than are remembered.
    too_many: bool,
    /// The cuts that were read lately.
    pub(super) placed: PlacedCuts,
}

/// What the answer about one author rests on.
#[derive(Debug)]
pub(super) struct CutRead {
    cells: Box<[Cell]>,
    ranges: Box<[Range]>,
    /// The places of the revocations in the index of calls.
    calls: Box<[Range]>,
}

impl CutRead {
    pub(super) fn of(reads: &Reads, cuts: &[Cut]) -> Self {
        let calls = cuts.iter();
        let calls = calls.map(|cut| call_index::span(Lane::System, cut.revocation));
        Self {
            cells: reads.cells.keys().cloned().collect(),
            ranges: reads.ranges.iter().cloned().collect(),
            calls: calls.collect(),
        }
    }

    fn is_touched(&self, cell: &Cell) -> bool {
        let within =
            |range: &Range| *range.start <= *cell.as_bytes() && *cell.as_bytes() < *range.end;
        self.cells.contains(cell) || self.ranges.iter().chain(&self.calls).any(within)
    }

    /// The places where a change looks for the author: each is a prefix of every cell that the answer rests on.
    fn places(&self) -> impl Iterator<Item = &[u8]> {
        let ranges = self.ranges.iter().chain(&self.calls);
        let prefixes = ranges.map(|range| {
            let shared = range.start.iter().zip(&range.end);
            &range.start[..shared.take_while(|(a, b)| a == b).count()]
        });
        self.cells.iter().map(Cell::as_bytes).chain(prefixes)
    }
}

impl CutReads {
    /// Notes a change in the system lane.
    pub(super) fn changed(&mut self, cell: &Cell) {
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

    /// Remembers what the answer about an author rests on.
    pub(super) fn remember(&mut self, author: DeviceKey, read: CutRead) {
        if let Some(before) = self.by_author.remove(&author) {
            for place in before.places() {
                if let Some(readers) = self.readers.get_mut(place) {
                    readers.remove(&author);
                    if readers.is_empty() {
                        self.readers.remove(place);
                    }
                }
            }
        }
        if self.by_author.len() == CUT_READS_MAX {
            self.too_many = true;
            return;
        }
        for place in read.places() {
            self.readers.entry(place.into()).or_default().insert(author);
        }
        self.by_author.insert(author, read);
    }

    /// The authors whose cuts can have changed; `None` when that is not known.
    pub(super) fn touched(&self) -> Option<Vec<DeviceKey>> {
        if !self.complete {
            return None;
        }
        let mut authors = self.came.clone();
        if !mutant::active(Mutant::ChangedCutsMissed) {
            for cell in &self.changed {
                let bytes = cell.as_bytes();
                let readers = (0..=bytes.len()).filter_map(|len| self.readers.get(&bytes[..len]));
                let touched = readers.flatten().filter(|author| {
                    let read = self.by_author.get(author);
                    read.is_some_and(|read| read.is_touched(cell))
                });
                authors.extend(touched);
            }
        }
        Some(authors.into_iter().collect())
    }

    /// Notes that those whose cuts were due were asked about; with `everybody`, that all authors were.
    pub(super) fn asked(&mut self, everybody: bool) {
        self.came.clear();
        self.changed.clear();
        // Authors whom a start has not asked about were asked now, or their cuts have not changed since.
        self.complete |= everybody;
        if self.too_many {
            self.forget();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::state::cell::Space;
    use crate::storage::rows::prefix_end;

    /// Holds: invariant 10.
    #[test]
    fn what_cuts_rest_on_is_remembered_of_so_many_authors_and_found_by_cell_and_range() {
        let cell = |key: &[u8]| Cell::new(Lane::System, Space::Bytes, key);
        let author = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(n as u64).to_be_bytes());
            DeviceKey(key)
        };
        let read = |n: usize| {
            let start = [&b"x"[..], &author(n).0].concat();
            let end = prefix_end(&start).unwrap();
            CutRead {
                cells: [cell(&[b"h", &author(n).0[..]].concat())].into(),
                ranges: [Range {
                    start: cell(&start).as_bytes().to_vec(),
                    end: cell(&end).as_bytes().to_vec(),
                }]
                .into(),
                calls: [].into(),
            }
        };
        let mut reads = CutReads::default();
        for n in 0..CUT_READS_MAX {
            reads.remember(author(n), read(n));
        }
        reads.asked(true);
        assert_eq!(reads.touched(), Some(Vec::new()));
        reads.changed(&cell(&[b"x", &author(5).0[..], b"call"].concat()));
        reads.changed(&cell(&[b"h", &author(7).0[..]].concat()));
        reads.changed(&cell(b"other"));
        assert_eq!(reads.touched(), Some(vec![author(5), author(7)]));
        // An author who is asked about again counts once, and its reads before are forgotten.
        let other = CutRead {
            ranges: [].into(),
            ..read(5)
        };
        reads.remember(author(5), other);
        assert_eq!(reads.touched(), Some(vec![author(7)]));
        reads.asked(false);
        assert_eq!(reads.touched(), Some(Vec::new()));
        reads.remember(author(CUT_READS_MAX), read(CUT_READS_MAX));
        reads.asked(true);
        assert_eq!(reads.touched(), None, "more than are remembered");
        assert!(reads.by_author.is_empty() && reads.readers.is_empty());
    }
}

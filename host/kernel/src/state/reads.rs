//! The reads of a run, all of the state below its position, and pages of scanned rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::state::cell::{Cell, ValueMark};

/// A page of scanned rows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys and values; values are empty in the pages of `Run::scan_keys`.
    pub rows: Vec<(Vec<u8>, Arc<[u8]>)>,
    /// Whether another row follows in the direction of the scan.
    pub more: bool,
    /// The rows that the scan walked: those of the page and those that the run had deleted itself. Every replica
    /// walks as many.
    pub walked: u64,
}

/// A page of scanned numbers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Keys with their numbers.
    pub rows: Vec<(Vec<u8>, i64)>,
    /// The rows that the scan walked, those whose number is 0 in this run included.
    pub walked: u64,
}

/// What a deletion of a range did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Deleted {
    /// The rows that it deleted.
    pub rows: u64,
    /// The rows that it walked.
    pub walked: u64,
}

/// A half-open interval of cells that a run examined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first cell, encoded.
    pub start: Vec<u8>,
    /// The end, encoded, exclusive.
    pub end: Vec<u8>,
}

/// Everything that a run read of the state below it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reads {
    /// Cells, each with the mark of what was seen in it.
    pub cells: BTreeMap<Cell, ValueMark>,
    /// Intervals that scans examined.
    pub ranges: BTreeSet<Range>,
}

impl Reads {
    /// Adds the reads of `other`.
    pub fn merge(&mut self, other: &Reads) {
        for (cell, mark) in &other.cells {
            self.cells.entry(cell.clone()).or_insert(*mark);
        }
        for range in &other.ranges {
            self.add_range(range.clone());
        }
    }

    /// Whether a change of `cell` touches anything read.
    pub fn touches(&self, cell: &Cell) -> bool {
        self.cells.contains_key(cell)
            || self
                .ranges
                .iter()
                .any(|r| *r.start <= *cell.as_bytes() && *cell.as_bytes() < *r.end)
    }

    /// Adds a range, and tells whether it is new and not empty.
    pub(crate) fn add_range(&mut self, range: Range) -> bool {
        range.start < range.end && self.ranges.insert(range)
    }
}

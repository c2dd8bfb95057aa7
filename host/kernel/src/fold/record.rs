//! The fold's record of each entry, in the entry's row of the canonical order: what its runs did, and whether a run
//! is due.
//!
//! ```text
//! local (varint) flags (1: bit 0, 1: the system, app half is due; 2, 3: it has run) then for each that has run:
//!   length, for the first of two; flags (1: bit 0 void, by a cut or by its author's quota; 1 its bytes count)
//!   how many calls count, the number of its shared set of reads plus 1 (0: it has none)
//!   outcomes, ranges (start, end): each a count, then each behind its length
//!   cells: a count, then each behind four times its length, and 1 if it was read, 2 if it was written
//! ```
//!
//! Numbers are varints. A run whose bytes count has written versions of its author's numbers of written bytes, of which
//! the system lane has one more. These cells are not in the list: nearly every run writes them, and a flag is shorter. The row of an entry that has not
//! run and is not due ends behind `local`.

use std::collections::BTreeMap;

use lattice_format::Lane;

use crate::graph::order;
use crate::graph::slot::Slot;
use crate::outcome::Outcome;
use crate::state::cell::Cell;
use crate::state::read_sets::SetNumber;
use crate::state::reads::Range;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_sized, put_varint, take, take_sized, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// What one run did, of an intention in one lane.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Record {
    pub(crate) void: bool,
    /// Whether the run added to the number of bytes that its author has written.
    pub(crate) counted: bool,
    /// How many of the run's calls are in the index of calls.
    pub(crate) calls: u32,
    pub(crate) outcomes: Vec<Outcome>,
    /// The set of what the host read before the run began.
    pub(crate) set: Option<SetNumber>,
    /// Cells that the run read, ascending.
    pub(crate) reads: Vec<Cell>,
    pub(crate) ranges: Vec<Range>,
    /// Cells that the run wrote, ascending, without its author's number of bytes.
    pub(crate) writes: Vec<Cell>,
}

/// The row of an entry. A genesis can be due and run in each lane, so both fields have a value for each lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderRow {
    pub(crate) local: LocalSeq,
    pub(crate) due: [bool; 2],
    pub(crate) runs: [Option<Record>; 2],
}

const DUE: [u8; 2] = [1, 2];
const RUN: [u8; 2] = [4, 8];

const VOID: u8 = 1;
const COUNTED: u8 = 2;

const READ: u64 = 1;
const WRITTEN: u64 = 2;

impl OrderRow {
    /// The row at a slot; `None` where no entry stands.
    pub(crate) fn load(rows: &RowsView, slot: Slot) -> Result<Option<Self>, StorageError> {
        rows.get(&order::key(slot))?
            .map(|row| Self::decode(&row).ok_or_else(|| StorageError::row(&order::key(slot))))
            .transpose()
    }

    /// The row at a slot where an entry must stand.
    pub(crate) fn there(rows: &RowsView, slot: Slot) -> Result<Self, StorageError> {
        Self::load(rows, slot)?.ok_or_else(|| StorageError::row(&order::key(slot)))
    }

    pub(crate) fn store(&self, rows: &mut Rows, slot: Slot) {
        rows.put(order::key(slot), self.encode());
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        put_varint(self.local.0, &mut out);
        let mut flags = 0;
        for half in 0..2 {
            flags |= if self.due[half] { DUE[half] } else { 0 };
            flags |= if self.runs[half].is_some() {
                RUN[half]
            } else {
                0
            };
        }
        if flags == 0 {
            return out;
        }
        out.push(flags);
        match &self.runs {
            [Some(one), Some(other)] => {
                put_sized(&one.encode(), &mut out);
                other.encode_into(&mut out);
            }
            [Some(run), None] | [None, Some(run)] => run.encode_into(&mut out),
            [None, None] => {}
        }
        out
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let (local, mut rest) = order::split(row)?;
        let flags = match rest.is_empty() {
            true => 0,
            false => take(&mut rest, 1)?[0],
        };
        let ran = RUN.map(|bit| flags & bit != 0);
        let runs = match ran {
            [true, true] => {
                let one = take_sized(&mut rest)?;
                [Some(Record::decode(one)?), Some(Record::decode(rest)?)]
            }
            [true, false] => [Some(Record::decode(rest)?), None],
            [false, true] => [None, Some(Record::decode(rest)?)],
            [false, false] => [None, None],
        };
        Some(Self {
            local,
            due: DUE.map(|bit| flags & bit != 0),
            runs,
        })
    }
}

/// The set of what the host read for the run at a slot of the app lane.
pub(crate) fn set_at(rows: &RowsView, slot: Slot) -> Result<Option<SetNumber>, StorageError> {
    Ok(Record::load(rows, Lane::App, slot)?.and_then(|record| record.set))
}

/// The entry of a row, if its run in `lane` is due.
pub(crate) fn due_in(row: &[u8], lane: Lane) -> Option<LocalSeq> {
    let (local, rest) = order::split(row)?;
    let due = rest.first()? & DUE[usize::from(lane.number())] != 0;
    due.then_some(local)
}

impl Record {
    /// The record of the run at a slot; `None` where none has run.
    pub(crate) fn load(
        rows: &RowsView,
        lane: Lane,
        slot: Slot,
    ) -> Result<Option<Self>, StorageError> {
        let row = OrderRow::load(rows, slot)?;
        Ok(row.and_then(|mut row| row.runs[usize::from(lane.number())].take()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let void = if self.void { VOID } else { 0 };
        let counted = if self.counted { COUNTED } else { 0 };
        out.push(void | counted);
        put_varint(u64::from(self.calls), out);
        put_varint(self.set.map_or(0, |set| u64::from(set.0) + 1), out);
        put_varint(self.outcomes.len() as u64, out);
        for outcome in &self.outcomes {
            put_sized(&outcome.to_cbor(), out);
        }
        put_varint(self.ranges.len() as u64, out);
        for range in &self.ranges {
            put_sized(&range.start, out);
            put_sized(&range.end, out);
        }
        let mut cells: BTreeMap<&Cell, u64> = BTreeMap::new();
        for (how, list) in [(READ, &self.reads), (WRITTEN, &self.writes)] {
            for cell in list {
                *cells.entry(cell).or_default() |= how;
            }
        }
        put_varint(cells.len() as u64, out);
        for (cell, how) in cells {
            put_varint((cell.as_bytes().len() as u64) << 2 | how, out);
            out.extend_from_slice(cell.as_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let rest = &mut rest;
        let flags = take(rest, 1)?[0];
        let mut record = Self {
            void: flags & VOID != 0,
            counted: flags & COUNTED != 0,
            calls: u32::try_from(take_varint(rest)?).ok()?,
            set: match take_varint(rest)? {
                0 => None,
                number => Some(SetNumber(u32::try_from(number - 1).ok()?)),
            },
            ..Self::default()
        };
        for _ in 0..take_varint(rest)? {
            record.outcomes.push(Outcome::from_cbor(take_sized(rest)?)?);
        }
        for _ in 0..take_varint(rest)? {
            let start = take_sized(rest)?.to_vec();
            let end = take_sized(rest)?.to_vec();
            record.ranges.push(Range { start, end });
        }
        for _ in 0..take_varint(rest)? {
            let how = take_varint(rest)?;
            let cell = Cell::from_slice(take(rest, usize::try_from(how >> 2).ok()?)?)?;
            if how & READ != 0 {
                record.reads.push(cell.clone());
            }
            if how & WRITTEN != 0 {
                record.writes.push(cell);
            }
        }
        rest.is_empty().then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::cell::Space;

    #[test]
    fn rows_of_entries_read_back() {
        let cell = |key: &[u8]| Cell::new(Lane::App, Space::Bytes, key);
        let record = Record {
            void: false,
            counted: true,
            calls: 3,
            set: Some(SetNumber(0)),
            outcomes: vec![
                Outcome::Ok(vec![vec![0xf6]]),
                Outcome::Unauthorized { index: 1 },
            ],
            reads: vec![cell(b"k"), cell(&[b'l'; 600])],
            ranges: vec![Range {
                start: vec![1, 0],
                end: vec![1, 1],
            }],
            writes: vec![cell(b""), cell(b"k")],
        };
        let void = Record {
            void: true,
            ..Record::default()
        };
        for runs in [
            [None, None],
            [Some(void.clone()), None],
            [None, Some(record.clone())],
            [Some(record), Some(void)],
        ] {
            for due in [[false, false], [true, false], [true, true]] {
                let row = OrderRow {
                    local: LocalSeq(700),
                    due,
                    runs: runs.clone(),
                };
                let bytes = row.encode();
                for lane in [Lane::System, Lane::App] {
                    let expected = due[usize::from(lane.number())].then_some(LocalSeq(700));
                    assert_eq!(due_in(&bytes, lane), expected);
                }
                assert_eq!(OrderRow::decode(&bytes), Some(row));
            }
        }
        assert_eq!(OrderRow::decode(&[]), None);
        assert_eq!(OrderRow::decode(&[0, 4, 0, 9]), None);
    }
}

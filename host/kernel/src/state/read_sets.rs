//! Sets of reads that many runs share: the reads that the host makes for a run before the guest's code begins.
//!
//! The host asks whether the author may call, which code is in effect, and which quota the author has. The answers rest
//! on a handful of cells that rarely change, so nearly all entries of an author read the same values there. Such a
//! set stands in one row and has a number, and an entry's row of the order names the number. When a cell of a set
//! changes, its readers are searched for among the author's entries, branch by branch. No mark is kept for a single
//! entry.
//!
//! Only runs of the app lane have sets. A set holds cells of the system lane and rows of the host, and none that
//! components of the app lane write.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use lattice_format::{DeviceKey, Lane, Seq};

use crate::graph::dag::{self, BranchId};
use crate::graph::slot::Slot;
use crate::state::cell::{Cell, Space, ValueMark, common_prefix};
use crate::state::reads::{Range, Reads};
use crate::storage::error::StorageError;
use crate::storage::keys::{put_sized, put_varint, take, take_sized, take_varint};
use crate::storage::rows::{Rows, RowsView, prefix_end};

/// Number of a set on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetNumber(pub(crate) u32);

struct ReadSet {
    author: DeviceKey,
    cells: BTreeMap<Cell, ValueMark>,
    ranges: Vec<Range>,
}

impl ReadSet {
    fn encode(author: &DeviceKey, reads: &Reads) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&author.0);
        put_varint(reads.cells.len() as u64, &mut out);
        for (cell, mark) in &reads.cells {
            put_sized(cell.as_bytes(), &mut out);
            out.extend_from_slice(&mark.0);
        }
        put_varint(reads.ranges.len() as u64, &mut out);
        for range in &reads.ranges {
            put_sized(&range.start, &mut out);
            put_sized(&range.end, &mut out);
        }
        out
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let mut rest = row;
        let rest = &mut rest;
        let mut set = Self {
            author: DeviceKey::from_slice(take(rest, DeviceKey::LEN)?)?,
            cells: BTreeMap::new(),
            ranges: Vec::new(),
        };
        for _ in 0..take_varint(rest)? {
            let cell = Cell::from_slice(take_sized(rest)?)?;
            let mark = ValueMark(take(rest, 16)?.try_into().ok()?);
            set.cells.insert(cell, mark);
        }
        for _ in 0..take_varint(rest)? {
            let start = take_sized(rest)?.to_vec();
            let end = take_sized(rest)?.to_vec();
            set.ranges.push(Range { start, end });
        }
        rest.is_empty().then_some(set)
    }
}

fn set_key(number: SetNumber) -> Vec<u8> {
    let mut key = vec![b'Y'];
    key.extend_from_slice(&number.0.to_be_bytes());
    key
}

fn digest_key(encoded: &[u8]) -> Vec<u8> {
    let mut key = vec![b'Z'];
    key.extend_from_slice(&blake3::hash(encoded).as_bytes()[..16]);
    key
}

/// A key to sets: a cell that they hold, or the common prefix of the ends of a range that they hold.
#[derive(Clone, Copy)]
enum By<'a> {
    Cell(&'a [u8]),
    Prefix(&'a [u8]),
}

impl By<'_> {
    fn prefix(self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Self::Cell(bytes) => (0, bytes),
            Self::Prefix(bytes) => (1, bytes),
        };
        let mut key = vec![b'J', kind];
        put_sized(bytes, &mut key);
        key
    }

    fn key(self, number: SetNumber) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(&number.0.to_be_bytes());
        key
    }

    /// Appends the numbers of the sets under this key.
    fn sets(self, rows: &RowsView, out: &mut Vec<SetNumber>) -> Result<(), StorageError> {
        let prefix = self.prefix();
        let end = prefix_end(&prefix).expect("the kind is below 255");
        rows.scan(&prefix, &end, false, |row, _| {
            if let Some(Ok(number)) = row.get(prefix.len()..).map(TryInto::try_into) {
                out.push(SetNumber(u32::from_be_bytes(number)));
            }
            ControlFlow::Continue(())
        })
    }
}

/// The number of the set of what was read for an author, which is stored if it is new. `None` where nothing was read.
pub(crate) fn number_of(
    rows: &mut Rows,
    author: &DeviceKey,
    reads: &Reads,
) -> Result<Option<SetNumber>, StorageError> {
    if reads.cells.is_empty() && reads.ranges.is_empty() {
        return Ok(None);
    }
    let encoded = ReadSet::encode(author, reads);
    let digest = digest_key(&encoded);
    if let Some(row) = rows.get(&digest)? {
        let number = take_varint(&mut &row[..]).and_then(|number| u32::try_from(number).ok());
        let number = number.ok_or_else(|| StorageError::row(&digest))?;
        return Ok(Some(SetNumber(number)));
    }
    let last = rows.first(b"Y", b"Z", true)?;
    let number = match last {
        None => SetNumber(0),
        Some((key, _)) => {
            let last = key.last_chunk().ok_or_else(|| StorageError::row(&key))?;
            SetNumber(u32::from_be_bytes(*last) + 1)
        }
    };
    rows.put(set_key(number), encoded);
    let mut row = Vec::with_capacity(5);
    put_varint(u64::from(number.0), &mut row);
    rows.put(digest, row);
    for cell in reads.cells.keys() {
        rows.put(By::Cell(cell.as_bytes()).key(number), []);
    }
    for range in &reads.ranges {
        let prefix = common_prefix(&range.start, &range.end);
        rows.put(By::Prefix(prefix).key(number), []);
    }
    Ok(Some(number))
}

/// Whether a set may hold `cell`.
fn may_hold(cell: &Cell) -> bool {
    cell.lane() == Lane::System || cell.space() == Space::Host
}

/// What the runs of a set saw in a cell.
enum Seen {
    Value(ValueMark),
    /// A range of the set holds the cell, and no value is kept. Every change of the cell makes the runs stale.
    Range,
}

/// Reports to `stale` the runs from `from` (inclusive) to `until` (exclusive) whose sets hold `cell` with another
/// value than the one that `mark_at` tells for the run's slot.
pub(crate) fn stale_readers(
    rows: &RowsView,
    cell: &Cell,
    (from, until): (Slot, Slot),
    mut mark_at: impl FnMut(Slot) -> Result<ValueMark, StorageError>,
    mut stale: impl FnMut(Slot),
    set_at: impl Fn(&RowsView, Slot) -> Result<Option<SetNumber>, StorageError>,
) -> Result<(), StorageError> {
    if !may_hold(cell) {
        return Ok(());
    }
    let mut numbers = Vec::new();
    By::Cell(cell.as_bytes()).sets(rows, &mut numbers)?;
    for length in 0..=cell.as_bytes().len() {
        By::Prefix(&cell.as_bytes()[..length]).sets(rows, &mut numbers)?;
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut by_author: BTreeMap<DeviceKey, BTreeMap<SetNumber, Seen>> = BTreeMap::new();
    for number in numbers {
        let key = set_key(number);
        let damaged = || StorageError::row(&key);
        let row = rows.get(&key)?.ok_or_else(damaged)?;
        let set = ReadSet::decode(&row).ok_or_else(damaged)?;
        let in_range =
            |range: &Range| *range.start <= *cell.as_bytes() && *cell.as_bytes() < *range.end;
        let seen = match set.cells.get(cell) {
            _ if set.ranges.iter().any(in_range) => Seen::Range,
            Some(mark) => Seen::Value(*mark),
            None => continue,
        };
        by_author
            .entry(set.author)
            .or_default()
            .insert(number, seen);
    }
    for (author, sets) in by_author {
        for branch in dag::branches_of(rows, &author, None)? {
            entries_between(rows, branch, (from, until), |slot| {
                let seen = set_at(rows, slot)?.and_then(|number| sets.get(&number));
                match seen {
                    Some(Seen::Range) => stale(slot),
                    Some(Seen::Value(mark)) if mark_at(slot)? != *mark => stale(slot),
                    _ => {}
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Visits the slots of a branch's entries from `from` (inclusive) to `until` (exclusive). Slots ascend along a
/// branch, so the first of them is found by bisection.
fn entries_between(
    rows: &RowsView,
    branch: BranchId,
    (from, until): (Slot, Slot),
    mut visit: impl FnMut(Slot) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let row = dag::branch(rows, branch)?;
    let slot_at = |seq: u64| -> Result<Slot, StorageError> {
        match dag::entry_of_branch(rows, branch, Seq(seq))? {
            Some(local) => dag::slot_of(rows, local),
            None => Err(StorageError::row(b"C")),
        }
    };
    // Mostly few entries stand above `from`, or none. So the search doubles its steps from the end of the branch.
    let (mut low, mut high) = (row.first.0, row.tip.0 + 1);
    let mut step = 1;
    while low < high {
        let probe = high.saturating_sub(step).max(low);
        if slot_at(probe)? >= from {
            high = probe;
            step *= 2;
        } else {
            low = probe + 1;
            break;
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if slot_at(middle)? >= from {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    for seq in low..=row.tip.0 {
        let slot = slot_at(seq)?;
        if slot >= until {
            break;
        }
        visit(slot)?;
    }
    Ok(())
}

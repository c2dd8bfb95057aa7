//! The state at a slot of the order: what a run, a query or a person reads.
//!
//! Live values are those that a reader at the end of the order sees. They stand in rows of their own, so a read at
//! the end costs one look-up, and a scan there meets nothing that was deleted or overwritten. A read at an earlier
//! slot pays for what lies above that slot. Where the live value is newer than the slot, the value is looked up among
//! the older versions. Cells that were deleted above the slot are found by the slot of their deletion.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::Lane;

use crate::graph::dag;
use crate::graph::slot::Slot;
use crate::limits::DELETED_ABOVE_MAX;
use crate::state::cell::{
    Cell, Op, Space, deleted_key, delta_prefix, live_key, older_key, older_prefix,
};
use crate::state::numbers;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint, unescape};
use crate::storage::rows::{RowsView, prefix_end};

/// A version of a cell of bytes, and the entry that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) local: LocalSeq,
    pub(crate) op: Op,
}

impl Version {
    /// Reads a row of an older version.
    pub(crate) fn decode(key: &[u8], mut row: &[u8]) -> Result<Self, StorageError> {
        let damaged = || StorageError::row(key);
        let local = LocalSeq(take_varint(&mut row).ok_or_else(damaged)?);
        let op = Op::decode(row).ok_or_else(damaged)?;
        Ok(Self { local, op })
    }

    /// The row of an older version.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        put_varint(self.local.0, &mut out);
        self.op.encode(&mut out);
        out
    }
}

/// The row of a live value of bytes.
pub(crate) fn encode_live(local: LocalSeq, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + value.len());
    put_varint(local.0, &mut out);
    out.extend_from_slice(value);
    out
}

fn decode_live(mut row: &[u8]) -> Option<(LocalSeq, &[u8])> {
    let local = take_varint(&mut row)?;
    Some((LocalSeq(local), row))
}

/// A value, and the entry that wrote it.
type Live = (LocalSeq, Arc<[u8]>);

/// The newest value of a cell of bytes, with the entry that wrote it; `None` when there is none.
pub(crate) fn live(rows: &RowsView, cell: &Cell) -> Result<Option<Live>, StorageError> {
    let key = live_key(cell);
    let Some(row) = rows.get(&key)? else {
        return Ok(None);
    };
    let (local, value) = decode_live(&row).ok_or_else(|| StorageError::row(&key))?;
    Ok(Some((local, value.into())))
}

/// The last version of a cell of bytes below `at` among those that are not live.
pub(crate) fn older_below(
    rows: &RowsView,
    cell: &Cell,
    at: Slot,
) -> Result<Option<(Slot, Version)>, StorageError> {
    let row = rows.first(&older_key(cell, Slot::MIN), &older_key(cell, at), true)?;
    row.map(|(key, row)| {
        let slot = Slot::at_end_of(&key).ok_or_else(|| StorageError::row(&key))?;
        Ok((slot, Version::decode(&key, &row)?))
    })
    .transpose()
}

/// The bytes of a cell as a run at `at` sees them: those of the last version below it.
pub(crate) fn bytes_at(
    rows: &RowsView,
    cell: &Cell,
    at: Slot,
) -> Result<Option<Arc<[u8]>>, StorageError> {
    let live = live(rows, cell)?;
    if at == Slot::MAX {
        return Ok(live.map(|(_, value)| value));
    }
    if let Some((local, value)) = live
        && dag::slot_of(rows, local)? < at
    {
        return Ok(Some(value));
    }
    bytes_below(rows, cell, at)
}

/// [`bytes_at`] for a cell that has no live version below `at`.
fn bytes_below(rows: &RowsView, cell: &Cell, at: Slot) -> Result<Option<Arc<[u8]>>, StorageError> {
    match older_below(rows, cell, at)?.map(|(_, version)| version.op) {
        None | Some(Op::Delete) => Ok(None),
        Some(Op::Put(bytes)) => Ok(Some(bytes)),
        Some(Op::Add(_)) => Err(StorageError::row(&older_key(cell, at))),
    }
}

/// The number in a cell as a run at `at` sees it: the sum of the deltas below it.
pub(crate) fn number_at(rows: &RowsView, cell: &Cell, at: Slot) -> Result<i64, StorageError> {
    let total = numbers::total(rows, cell)?;
    if at == Slot::MAX {
        return Ok(total);
    }
    Ok(total.wrapping_sub(numbers::sum_from(rows, cell, at)?))
}

/// A part of one lane and space: keys from `start` (inclusive) to `end` (exclusive; `None` for the end of the
/// space), in ascending order, or in descending order with `reverse`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) lane: Lane,
    pub(crate) space: Space,
    pub(crate) start: &'a [u8],
    pub(crate) end: Option<&'a [u8]>,
    pub(crate) reverse: bool,
}

impl Span<'_> {
    fn cell(&self, key: &[u8]) -> Cell {
        Cell::new(self.lane, self.space, key)
    }

    /// The order in which a scan meets two keys.
    fn order(&self, one: &[u8], other: &[u8]) -> Ordering {
        match self.reverse {
            false => one.cmp(other),
            true => other.cmp(one),
        }
    }

    /// The end of the rows of histories in the span's lane and space.
    fn history_end(&self) -> Vec<u8> {
        let mut prefix = history_prefix(&self.cell(b""));
        // Two bytes mark the end of an escaped cell. Without them, every cell of the space has the prefix.
        prefix.truncate(prefix.len() - 2);
        prefix_end(&prefix).expect("it begins with the kind, below 255")
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.is_none_or(|end| key < end)
    }
}

/// Visits the cells of a span that a run at `at` sees: keys with their bytes.
pub(crate) fn scan_bytes_at(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    mut visit: impl FnMut(&[u8], Arc<[u8]>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    scan(rows, span, at, |cell, row| {
        let bytes = match row {
            Some(row) => {
                let damaged = || StorageError::row(&live_key(cell));
                let (local, value) = decode_live(row).ok_or_else(damaged)?;
                if at == Slot::MAX || dag::slot_of(rows, local)? < at {
                    Some(value.into())
                } else {
                    bytes_below(rows, cell, at)?
                }
            }
            None => bytes_below(rows, cell, at)?,
        };
        Ok(match bytes {
            Some(bytes) => visit(cell.key(), bytes),
            None => ControlFlow::Continue(()),
        })
    })
}

/// Visits the numbers of a span that a run at `at` sees, without those that are 0: keys with their numbers.
pub(crate) fn scan_numbers_at(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    mut visit: impl FnMut(&[u8], i64) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    scan(rows, span, at, |cell, row| {
        let total = row.map_or(Some(0), numbers::decode_total);
        let mut number = total.ok_or_else(|| StorageError::row(&live_key(cell)))?;
        if at != Slot::MAX {
            number = number.wrapping_sub(numbers::sum_from(rows, cell, at)?);
        }
        Ok(match number {
            0 => ControlFlow::Continue(()),
            number => visit(cell.key(), number),
        })
    })
}

/// Visits the cells of a span that may have a value below `at`: those with a live row, with that row, and those
/// without a live row, with `None`.
fn scan(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    visit: impl FnMut(&Cell, Option<&[u8]>) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    merge(
        rows,
        span,
        Gone::of(rows, span, at, DELETED_ABOVE_MAX)?,
        visit,
    )
}

/// Visits the live cells of a span and the cells of `gone` as one sequence.
fn merge(
    rows: &RowsView,
    span: Span<'_>,
    mut gone: Gone<'_>,
    mut visit: impl FnMut(&Cell, Option<&[u8]>) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let from = live_key(&span.cell(span.start));
    let to = match span.end {
        Some(end) => live_key(&span.cell(end)),
        None => prefix_end(&live_key(&span.cell(b""))).expect("a lane and a space are below 255"),
    };
    let mut stopped = false;
    let mut failed = None;
    rows.scan(&from, &to, span.reverse, |row, value| {
        let mut step = || -> Result<ControlFlow<()>, StorageError> {
            let cell = Cell::from_slice(&row[1..]).ok_or_else(|| StorageError::row(row))?;
            while let Some(key) = gone.next() {
                match span.order(key, cell.key()) {
                    Ordering::Less => {
                        if visit(&span.cell(key), None)?.is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                        gone.advance()?;
                    }
                    // Keys that were looked up by their history may have a live row too.
                    Ordering::Equal => gone.advance()?,
                    Ordering::Greater => break,
                }
            }
            visit(&cell, Some(value))
        };
        let flow = step().unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        });
        stopped = flow.is_break();
        flow
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    while let (false, Some(key)) = (stopped, gone.next()) {
        stopped = visit(&span.cell(key), None)?.is_break();
        gone.advance()?;
    }
    Ok(())
}

/// The keys of a span, in the order of its scan, that have no live row and may have had a value below a slot.
struct Gone<'a> {
    rows: &'a RowsView,
    span: Span<'a>,
    /// The keys behind `next`. `None` when too many cells were deleted above the slot to list them. Then the keys
    /// that have older versions are looked up one after the other, and some of those have a live row as well.
    listed: Option<VecDeque<Vec<u8>>>,
    next: Option<Vec<u8>>,
}

impl<'a> Gone<'a> {
    fn of(
        rows: &'a RowsView,
        span: Span<'a>,
        at: Slot,
        listed_max: usize,
    ) -> Result<Self, StorageError> {
        let mut gone = Self {
            rows,
            span,
            listed: deleted_above(rows, span, at, listed_max)?,
            next: None,
        };
        gone.advance()?;
        Ok(gone)
    }

    fn next(&self) -> Option<&[u8]> {
        self.next.as_deref()
    }

    fn advance(&mut self) -> Result<(), StorageError> {
        self.next = match &mut self.listed {
            Some(keys) => keys.pop_front(),
            None => self.look_up()?,
        };
        Ok(())
    }

    /// The key behind `next` that has any version besides a live one.
    fn look_up(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let span = &self.span;
        let prefix = |key: &[u8]| history_prefix(&span.cell(key));
        let (mut from, mut to) = (
            prefix(span.start),
            match span.end {
                Some(end) => prefix(end),
                None => span.history_end(),
            },
        );
        match (&self.next, span.reverse) {
            (None, _) => {}
            (Some(last), true) => to = prefix(last),
            (Some(last), false) => {
                from = prefix_end(&prefix(last)).expect("it begins with the kind, below 255");
            }
        }
        let Some((row, _)) = self.rows.first(&from, &to, span.reverse)? else {
            return Ok(None);
        };
        let damaged = || StorageError::row(&row);
        let (cell, _) = unescape(&row[1..]).ok_or_else(damaged)?;
        let cell = Cell::from_slice(&cell).ok_or_else(damaged)?;
        Ok(Some(cell.key().to_vec()))
    }
}

/// The prefix of the keys of a cell's history: of its older versions, or of the deltas of a number.
fn history_prefix(cell: &Cell) -> Vec<u8> {
    match cell.space().is_number() {
        true => delta_prefix(cell),
        false => older_prefix(cell),
    }
}

/// The keys of a span that were deleted above `at`, in the order of the span; `None` when there are too many to
/// list.
fn deleted_above(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    listed_max: usize,
) -> Result<Option<VecDeque<Vec<u8>>>, StorageError> {
    if at == Slot::MAX {
        return Ok(Some(VecDeque::new()));
    }
    let mut keys = BTreeSet::new();
    let from = deleted_key(span.lane, span.space, at, b"");
    let end = prefix_end(&from[..3]).expect("a lane and a space are below 255");
    let mut walked = 0;
    rows.scan(&from, &end, false, |row, _| {
        walked += 1;
        if walked > listed_max {
            return ControlFlow::Break(());
        }
        if let Some(key) = row.get(from.len()..).filter(|key| span.holds(key)) {
            keys.insert(key.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    Ok((walked <= listed_max).then(|| match span.reverse {
        false => keys.into_iter().collect(),
        true => keys.into_iter().rev().collect(),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use lattice_format::{IntentionId, Position, Time};
    use proptest::prelude::*;
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::state::versions::{self, Roots};
    use crate::storage::rows::Rows;

    fn empty() -> Rows {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .unwrap();
        Rows::open(db).unwrap()
    }

    fn slot(n: u64) -> Slot {
        Slot::of(position(n))
    }

    fn position(n: u64) -> Position {
        Position {
            time: Time {
                wall_ms: n,
                counter: 0,
            },
            id: IntentionId([7; 32]),
        }
    }

    /// Sets the version of a cell at the slot of entry `n`.
    fn set(rows: &mut Rows, space: Space, key: &[u8], n: u64, op: Option<&Op>) {
        let local = LocalSeq(n);
        rows.put(dag::local_key(local), position(n).to_bytes());
        let cell = Cell::new(Lane::App, space, key);
        versions::set(rows, &mut Roots::default(), &cell, (slot(n), local), op).unwrap();
    }

    /// The keys that a scan sees. With `listed_max`, a test chooses whether cells that are gone are listed or looked
    /// up.
    fn scanned(rows: &Rows, span: Span<'_>, at: Slot, listed_max: usize) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        let gone = Gone::of(rows, span, at, listed_max).unwrap();
        merge(rows, span, gone, |cell, _| {
            let there = match cell.space().is_number() {
                true => number_at(rows, cell, at)? != 0,
                false => bytes_at(rows, cell, at)?.is_some(),
            };
            if there {
                seen.push(cell.key().to_vec());
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        seen
    }

    proptest! {
        #[test]
        fn a_scan_at_any_slot_sees_what_was_there(
            steps in proptest::collection::vec(
                (0u8..6, 0u64..24, proptest::option::weighted(0.8, 0u8..3)), 1..80,
            ),
            numbers: bool, start in 0u8..6, end in proptest::option::of(0u8..7), reverse: bool,
        ) {
            let mut rows = empty();
            // By key and slot: the value that was put, or `None` for a deletion.
            let mut model: BTreeMap<(u8, u64), Option<u8>> = BTreeMap::new();
            let space = if numbers { Space::Numbers } else { Space::Bytes };
            // Keys with zero bytes, because rows escape those.
            let key = |k: u8| vec![k / 2, 0, k % 2];
            for (k, n, what) in steps {
                let op = what.map(|what| match (numbers, what) {
                    (true, by) => Op::Add(i64::from(by) - 1),
                    (false, 0) => Op::Delete,
                    (false, value) => Op::Put([value][..].into()),
                });
                set(&mut rows, space, &key(k), n, op.as_ref());
                match what {
                    Some(what) => model.insert((k, n), Some(what)),
                    None => model.remove(&(k, n)),
                };
                if n % 7 == 0 {
                    rows.flush().unwrap();
                }
            }
            let start = key(start);
            let end = end.map(key);
            let span = Span { lane: Lane::App, space, start: &start, end: end.as_deref(), reverse };
            for at in (0..=24).map(slot).chain([Slot::MAX]) {
                let there = |k: u8| {
                    let mut below = model
                        .range((k, 0)..(k + 1, 0))
                        .filter(|((_, n), _)| slot(*n) < at);
                    match numbers {
                        true => below.map(|(_, by)| i64::from(by.unwrap()) - 1).sum::<i64>() != 0,
                        false => below.next_back().is_some_and(|(_, value)| *value != Some(0)),
                    }
                };
                let mut expected: Vec<_> = (0..6)
                    .filter(|k| there(*k))
                    .map(key)
                    .filter(|key| span.holds(key))
                    .collect();
                if reverse {
                    expected.reverse();
                }
                for listed_max in [0, 2, DELETED_ABOVE_MAX] {
                    prop_assert_eq!(&scanned(&rows, span, at, listed_max), &expected);
                }
            }
        }
    }

    #[test]
    fn cells_deleted_above_are_listed_up_to_their_number() {
        let mut rows = empty();
        let count = DELETED_ABOVE_MAX as u64 + 1;
        for n in 0..count {
            let key = n.to_be_bytes();
            set(
                &mut rows,
                Space::Bytes,
                &key,
                n,
                Some(&Op::Put([1][..].into())),
            );
            set(&mut rows, Space::Bytes, &key, count + n, Some(&Op::Delete));
        }
        let span = Span {
            lane: Lane::App,
            space: Space::Bytes,
            start: b"",
            end: None,
            reverse: false,
        };
        let listed = |at| deleted_above(&rows, span, slot(at), DELETED_ABOVE_MAX).unwrap();
        assert_eq!(
            listed(count + 1).map(|keys| keys.len()),
            Some(DELETED_ABOVE_MAX)
        );
        assert_eq!(listed(count), None);
        let all = |at| scanned(&rows, span, at, DELETED_ABOVE_MAX).len() as u64;
        assert_eq!(all(slot(count)), count);
        assert_eq!(all(slot(count + 1)), count - 1);
        assert_eq!(all(Slot::MAX), 0);
    }

    #[test]
    fn a_read_at_the_end_walks_nothing_that_was_deleted() {
        let mut rows = empty();
        for n in 0..500u64 {
            let key = n.to_be_bytes();
            set(
                &mut rows,
                Space::Bytes,
                &key,
                2 * n,
                Some(&Op::Put([1][..].into())),
            );
            set(&mut rows, Space::Bytes, &key, 2 * n + 1, Some(&Op::Delete));
            set(&mut rows, Space::Numbers, &key, 2 * n, Some(&Op::Add(1)));
            set(
                &mut rows,
                Space::Numbers,
                &key,
                2 * n + 1,
                Some(&Op::Add(-1)),
            );
        }
        // A deletion and a number of 0 leave no live row, which a scan at the end of the order would meet.
        assert_eq!(rows.first(b"L", b"M", false).unwrap(), None);
    }
}

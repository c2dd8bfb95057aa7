//! The state at a slot of the order: what a run, a query or a person reads.
//!
//! Live values are those that a reader at the end of the order sees. They stand in rows of their own, so a read at
//! the end costs one look-up, and a scan there meets nothing that was deleted or overwritten. A read at an earlier
//! slot pays for what lies above that slot. Where the live value is newer than the slot, the value is looked up among
//! the older versions. Cells that were deleted above the slot are found by the slot of their deletion.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
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
use crate::storage::holes::{Gap, Holes};
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

    /// Whether a scan of the span goes on behind a hole with this edge.
    fn holds(&self, edge: &Cell) -> bool {
        let within = (edge.lane(), edge.space()) == (self.lane, self.space);
        let key = edge.key();
        within
            && match self.reverse {
                false => self.end.is_none_or(|end| key < end),
                true => self.start < key,
            }
    }

    /// The cell where a scan of the span ends.
    fn bound(&self) -> Vec<u8> {
        match (self.reverse, self.end) {
            (true, _) => self.cell(self.start).as_bytes().to_vec(),
            (false, Some(end)) => self.cell(end).as_bytes().to_vec(),
            (false, None) => {
                prefix_end(self.cell(b"").as_bytes()).expect("a lane and a space are below 255")
            }
        }
    }
}

/// The keys of a lane and space that were deleted above a slot; `None` when there are too many to list.
type DeletedAbove = Option<Arc<BTreeSet<Vec<u8>>>>;

/// What scans of the same rows at the same slot have found out, so that the next one need not.
///
/// Fuel pays for what a scan sees. The cells that it passes without seeing them depend on what is above the slot on
/// this replica, so no fuel can pay for those. A run that scans often passes them once.
#[derive(Debug)]
pub(crate) struct Memo {
    listed_max: usize,
    deleted: RefCell<BTreeMap<(Lane, Space), DeletedAbove>>,
    /// Intervals of cells in which there is nothing to see.
    unseen: Holes,
}

impl Default for Memo {
    fn default() -> Self {
        Self::listing(DELETED_ABOVE_MAX)
    }
}

impl Memo {
    fn listing(listed_max: usize) -> Self {
        Self {
            listed_max,
            deleted: RefCell::default(),
            unseen: Holes::default(),
        }
    }

    fn deleted(
        &self,
        rows: &RowsView,
        span: Span<'_>,
        at: Slot,
    ) -> Result<DeletedAbove, StorageError> {
        let place = (span.lane, span.space);
        if let Some(known) = self.deleted.borrow().get(&place) {
            return Ok(known.clone());
        }
        let deleted = deleted_above(rows, place, at, self.listed_max)?.map(Arc::new);
        self.deleted.borrow_mut().insert(place, deleted.clone());
        Ok(deleted)
    }
}

/// What a scan makes of a cell.
enum Seen {
    /// It has no value below the slot.
    Nothing,
    /// Its value was visited.
    Value(ControlFlow<()>),
}

/// Visits the cells of a span that a run at `at` sees: keys with their bytes. All scans that share `memo` are of the
/// same rows and slot.
pub(crate) fn scan_bytes_at(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    memo: &Memo,
    mut visit: impl FnMut(&[u8], Arc<[u8]>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    scan(rows, span, at, memo, |cell, row| {
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
            Some(bytes) => Seen::Value(visit(cell.key(), bytes)),
            None => Seen::Nothing,
        })
    })
}

/// Visits the numbers of a span that a run at `at` sees, without those that are 0: keys with their numbers. All scans
/// that share `memo` are of the same rows and slot.
pub(crate) fn scan_numbers_at(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    memo: &Memo,
    mut visit: impl FnMut(&[u8], i64) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    scan(rows, span, at, memo, |cell, row| {
        let total = row.map_or(Some(0), numbers::decode_total);
        let mut number = total.ok_or_else(|| StorageError::row(&live_key(cell)))?;
        if at != Slot::MAX {
            number = number.wrapping_sub(numbers::sum_from(rows, cell, at)?);
        }
        Ok(match number {
            0 => Seen::Nothing,
            number => Seen::Value(visit(cell.key(), number)),
        })
    })
}

/// Shows the cells of a span that may have a value below `at`: those with a live row, with that row, and those without
/// a live row, with `None`. Intervals in which earlier scans saw nothing are skipped.
fn scan(
    rows: &RowsView,
    span: Span<'_>,
    at: Slot,
    memo: &Memo,
    mut show: impl FnMut(&Cell, Option<&[u8]>) -> Result<Seen, StorageError>,
) -> Result<(), StorageError> {
    let mut gap = Gap::new(span.reverse);
    let (mut start, mut end) = (span.start.to_vec(), span.end.map(<[u8]>::to_vec));
    loop {
        let part = Span {
            start: &start,
            end: end.as_deref(),
            ..span
        };
        let gone = Gone::of(rows, part, memo.deleted(rows, part, at)?)?;
        let (mut stopped, mut next_hole, mut hole) = (false, None, None);
        merge(rows, part, gone, |cell, row| {
            let here = cell.as_bytes();
            if let Seen::Value(flow) = show(cell, row)? {
                gap.close(here, &memo.unseen);
                stopped = flow.is_break();
                return Ok(flow);
            }
            gap.pass(here);
            let next = next_hole.get_or_insert_with(|| memo.unseen.next(here, span.reverse));
            hole = next.take_if(|(from, to)| **from <= *here && *here < **to);
            Ok(match hole {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            })
        })?;
        let Some((from, to)) = hole else {
            if !stopped {
                gap.close_at(&part.bound(), &memo.unseen);
            }
            return Ok(());
        };
        gap.skip(&from, &to);
        let edge = if span.reverse { from } else { to };
        match Cell::from_slice(&edge).filter(|cell| part.holds(cell)) {
            None => return Ok(()),
            Some(cell) if span.reverse => end = Some(cell.key().to_vec()),
            Some(cell) => start = cell.key().to_vec(),
        }
    }
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
    /// When too many cells were deleted above the slot to list them, the keys that have older versions are looked up
    /// one after the other, and some of those have a live row as well.
    listed: DeletedAbove,
    next: Option<Vec<u8>>,
}

impl<'a> Gone<'a> {
    fn of(rows: &'a RowsView, span: Span<'a>, listed: DeletedAbove) -> Result<Self, StorageError> {
        let mut gone = Self {
            rows,
            span,
            listed,
            next: None,
        };
        gone.advance()?;
        Ok(gone)
    }

    fn next(&self) -> Option<&[u8]> {
        self.next.as_deref()
    }

    fn advance(&mut self) -> Result<(), StorageError> {
        self.next = match &self.listed {
            Some(keys) => self.behind_next(keys),
            None => self.look_up()?,
        };
        Ok(())
    }

    /// The listed key behind `next`, or the first one.
    fn behind_next(&self, keys: &BTreeSet<Vec<u8>>) -> Option<Vec<u8>> {
        let span = &self.span;
        if span.end.is_some_and(|end| end <= span.start) {
            return None;
        }
        let start = Bound::Included(span.start);
        let end = span.end.map_or(Bound::Unbounded, Bound::Excluded);
        let last = self.next.as_deref().map(Bound::Excluded);
        let key = match span.reverse {
            false => keys.range::<[u8], _>((last.unwrap_or(start), end)).next(),
            true => keys
                .range::<[u8], _>((start, last.unwrap_or(end)))
                .next_back(),
        };
        key.cloned()
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

/// The keys that were deleted above `at`; `None` when there are too many to list.
fn deleted_above(
    rows: &RowsView,
    (lane, space): (Lane, Space),
    at: Slot,
    listed_max: usize,
) -> Result<Option<BTreeSet<Vec<u8>>>, StorageError> {
    let mut keys = BTreeSet::new();
    if at == Slot::MAX {
        return Ok(Some(keys));
    }
    let from = deleted_key(lane, space, at, b"");
    let end = prefix_end(&from[..3]).expect("a lane and a space are below 255");
    let mut walked = 0;
    rows.scan(&from, &end, false, |row, _| {
        walked += 1;
        if walked > listed_max {
            return ControlFlow::Break(());
        }
        if let Some(key) = row.get(from.len()..) {
            keys.insert(key.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    Ok((walked <= listed_max).then_some(keys))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use lattice_format::{IntentionId, Position, Time};
    use proptest::prelude::*;

    use super::*;
    use crate::state::versions::{self, Roots};
    use crate::storage::rows::Rows;

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
        let memo = Memo::listing(listed_max);
        let mut first = None;
        // What the first scan remembers changes nothing for the second.
        for _ in 0..2 {
            let seen = scanned_with(rows, span, at, &memo);
            assert_eq!(*first.get_or_insert(seen.clone()), seen);
        }
        first.unwrap()
    }

    fn scanned_with(rows: &Rows, span: Span<'_>, at: Slot, memo: &Memo) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        let mut see = |key: &[u8]| {
            seen.push(key.to_vec());
            ControlFlow::Continue(())
        };
        match span.space.is_number() {
            true => scan_numbers_at(rows, span, at, memo, |key, _| see(key)).unwrap(),
            false => scan_bytes_at(rows, span, at, memo, |key, _| see(key)).unwrap(),
        }
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
            let mut rows = Rows::in_memory().unwrap();
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
                    .filter(|key| start <= *key && end.as_ref().is_none_or(|end| key < end))
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
        let mut rows = Rows::in_memory().unwrap();
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
        let place = (span.lane, span.space);
        let listed = |at| deleted_above(&rows, place, slot(at), DELETED_ABOVE_MAX).unwrap();
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

    proptest! {
        /// Long intervals that a slot does not see: written above it, deleted below it, or overwritten.
        #[test]
        fn scans_of_one_run_see_the_same_whatever_they_remember(
            steps in proptest::collection::vec((0u64..30, 0u8..200, 0u8..100, any::<bool>()), 1..12),
            scans in proptest::collection::vec((any::<u8>(), proptest::option::of(any::<u8>()), any::<bool>()), 1..12),
            at in 0u64..31, numbers: bool, listed_max in 0usize..300,
        ) {
            let mut rows = Rows::in_memory().unwrap();
            let space = if numbers { Space::Numbers } else { Space::Bytes };
            let mut model: BTreeMap<(u8, u64), bool> = BTreeMap::new();
            for (n, from, len, there) in steps {
                for k in from..from.saturating_add(len) {
                    let op = match (numbers, there) {
                        (true, _) => Op::Add(if there { 1 } else { -1 }),
                        (false, true) => Op::Put([1][..].into()),
                        (false, false) => Op::Delete,
                    };
                    set(&mut rows, space, &[k], n, Some(&op));
                    model.insert((k, n), there);
                }
            }
            let there = |k: u8| {
                let below = model.range((k, 0)..(k, at));
                match numbers {
                    true => below.map(|(_, up)| if *up { 1 } else { -1 }).sum::<i32>() != 0,
                    false => below.last().is_some_and(|(_, there)| *there),
                }
            };
            let memo = Memo::listing(listed_max);
            for (start, end, reverse) in scans {
                let (first, last) = ([start], end.map(|end| [end]));
                let span = Span {
                    lane: Lane::App, space, start: &first, end: last.as_ref().map(|end| &end[..]), reverse,
                };
                let mut expected: Vec<Vec<u8>> = (start..=u8::MAX)
                    .filter(|k| end.is_none_or(|end| *k < end) && there(*k))
                    .map(|k| vec![k])
                    .collect();
                if reverse {
                    expected.reverse();
                }
                prop_assert_eq!(scanned_with(&rows, span, slot(at), &memo), expected);
            }
        }
    }

    #[test]
    fn a_run_passes_what_it_does_not_see_once() {
        let mut rows = Rows::in_memory().unwrap();
        for n in 0..2_000u64 {
            let key = n.to_be_bytes();
            set(
                &mut rows,
                Space::Bytes,
                &key,
                10 + n,
                Some(&Op::Put([1][..].into())),
            );
        }
        set(
            &mut rows,
            Space::Bytes,
            &[0xff],
            1,
            Some(&Op::Put([1][..].into())),
        );
        for reverse in [false, true] {
            let span = Span {
                lane: Lane::App,
                space: Space::Bytes,
                start: b"",
                end: None,
                reverse,
            };
            let memo = Memo::default();
            let passed = || {
                let mut passed = 0;
                scan(&rows, span, slot(5), &memo, |cell, row| {
                    passed += 1;
                    let (local, _) = decode_live(row.unwrap()).unwrap();
                    let seen = dag::slot_of(&rows, local)? < slot(5);
                    assert_eq!(seen, cell.key() == [0xff]);
                    Ok(match seen {
                        true => Seen::Value(ControlFlow::Continue(())),
                        false => Seen::Nothing,
                    })
                })
                .unwrap();
                passed
            };
            assert_eq!(passed(), 2_001);
            assert_eq!(passed(), 2);
        }
    }

    #[test]
    fn a_read_at_the_end_walks_nothing_that_was_deleted() {
        let mut rows = Rows::in_memory().unwrap();
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

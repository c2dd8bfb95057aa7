//! Numbers: their deltas by slot, a total at the end, and partial sums in between.
//!
//! A number is the sum of what was added to it. Its live row holds the total, so a read at the end of the order costs
//! one row. A run at an earlier slot subtracts the deltas above that slot from the total, and there may be a million
//! of them. So rows of deltas (level 0) are summed in blocks of some dozens (level 1), these in blocks of blocks, and
//! so on, as in the inner nodes of a B-tree with sums.
//!
//! A block's key is the slot from which on the block counts, and the first block of a level begins at [`Slot::MIN`].
//! A level exists only where the level below has many rows. Which blocks there are depends on the order of arrival,
//! so nothing that is hashed or sent may depend on them.

use std::ops::ControlFlow;

use crate::graph::slot::Slot;
use crate::limits::{DELTA_BLOCK_ROWS, DELTA_LEVEL_ROWS};
use crate::state::cell::{Cell, block_key, deleted_key, delta_key, delta_prefix, live_key};
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint, unzigzag, zigzag};
use crate::storage::rows::{Rows, RowsView, prefix_end};

/// Reads the total out of a live row.
pub(crate) fn decode_total(mut row: &[u8]) -> Option<i64> {
    take_varint(&mut row).map(unzigzag)
}

/// The live row of a total.
pub(crate) fn encode_total(total: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    put_varint(zigzag(total), &mut out);
    out
}

/// The number at the end of the order.
pub(crate) fn total(rows: &RowsView, cell: &Cell) -> Result<i64, StorageError> {
    let key = live_key(cell);
    let total = rows.get(&key)?.map_or(Some(0), |row| decode_total(&row));
    total.ok_or_else(|| StorageError::row(&key))
}

/// The delta at exactly `slot`; `None` where there is none.
pub(crate) fn delta_at(
    rows: &RowsView,
    cell: &Cell,
    slot: Slot,
) -> Result<Option<i64>, StorageError> {
    let key = delta_key(cell, slot);
    rows.get(&key)?
        .map(|row| decode_total(&row).ok_or_else(|| StorageError::row(&key)))
        .transpose()
}

/// A block: how many rows of the level below it holds, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Block {
    count: u64,
    sum: i64,
}

impl Block {
    /// Reads a row of a level. A delta counts as a block of one row.
    fn decode(level: u8, mut row: &[u8]) -> Option<Self> {
        let count = match level {
            0 => 1,
            _ => take_varint(&mut row)?,
        };
        let sum = decode_total(row)?;
        Some(Self { count, sum })
    }

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        put_varint(self.count, &mut out);
        put_varint(zigzag(self.sum), &mut out);
        out
    }
}

/// Key of a row of a level: a delta on level 0, a block above. Blocks stand in a table of their own, so that the
/// deltas of a number that only grows are appended to theirs. redb packs pages that are only appended to.
fn row_key(cell: &Cell, level: u8, slot: Slot) -> Vec<u8> {
    match level {
        0 => delta_key(cell, slot),
        _ => block_key(cell, level, slot),
    }
}

/// The end of the keys of a level.
fn level_end(cell: &Cell, level: u8) -> Vec<u8> {
    match level {
        0 => prefix_end(&delta_prefix(cell)).expect("it begins with the kind, below 255"),
        _ => block_key(cell, level + 1, Slot::MIN),
    }
}

/// Visits the rows of a level from `from` on (inclusive) to `to` (exclusive), until `visit` breaks.
fn visit(
    rows: &RowsView,
    cell: &Cell,
    level: u8,
    (from, to): (Slot, Option<Slot>),
    mut visit: impl FnMut(Slot, Block) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let start = row_key(cell, level, from);
    let end = to.map_or_else(|| level_end(cell, level), |to| row_key(cell, level, to));
    let mut failed = None;
    rows.scan(&start, &end, false, |key, row| {
        match Slot::at_end_of(key).zip(Block::decode(level, row)) {
            Some((slot, block)) => visit(slot, block),
            None => {
                failed = Some(StorageError::row(key));
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// Visits the deltas of a number from `from` on (inclusive), in the order of their slots.
pub(crate) fn deltas(
    rows: &RowsView,
    cell: &Cell,
    from: Slot,
    mut each: impl FnMut(Slot, i64),
) -> Result<(), StorageError> {
    visit(rows, cell, 0, (from, None), |slot, delta| {
        each(slot, delta.sum);
        ControlFlow::Continue(())
    })
}

/// The block of a level that covers `slot`, with the slot where the block begins.
fn block_at(
    rows: &RowsView,
    cell: &Cell,
    level: u8,
    slot: Slot,
) -> Result<Option<(Slot, Block)>, StorageError> {
    let start = row_key(cell, level, Slot::MIN);
    let end = row_key(cell, level, slot.just_above());
    let row = rows.first(&start, &end, true)?;
    row.map(|(key, row)| {
        let found = Slot::at_end_of(&key).zip(Block::decode(level, &row));
        found.ok_or_else(|| StorageError::row(&key))
    })
    .transpose()
}

/// The first row of a level behind `slot`.
fn next_in_level(
    rows: &RowsView,
    cell: &Cell,
    level: u8,
    slot: Slot,
) -> Result<Option<Slot>, StorageError> {
    let start = row_key(cell, level, slot.just_above());
    let row = rows.first(&start, &level_end(cell, level), false)?;
    Ok(row.and_then(|(key, _)| Slot::at_end_of(&key)))
}

/// The sum of what was added at `from` or above.
pub(crate) fn sum_from(rows: &RowsView, cell: &Cell, from: Slot) -> Result<i64, StorageError> {
    let mut sum = 0i64;
    let mut from = from;
    for level in 0.. {
        // This level sums up to the end of the block that covers `from`. The level above sums the rest.
        let until = match block_at(rows, cell, level + 1, from)? {
            Some((block, _)) => next_in_level(rows, cell, level + 1, block)?,
            None => None,
        };
        visit(rows, cell, level, (from, until), |_, block| {
            sum = sum.wrapping_add(block.sum);
            ControlFlow::Continue(())
        })?;
        match until {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok(sum)
}

/// The slot of the last delta.
pub(crate) fn last(rows: &RowsView, cell: &Cell) -> Result<Option<Slot>, StorageError> {
    let start = delta_key(cell, Slot::MIN);
    let row = rows.first(&start, &level_end(cell, 0), true)?;
    Ok(row.and_then(|(key, _)| Slot::at_end_of(&key)))
}

/// Sets or (with `None`) removes what was added to a number at `slot`, by the entry at `local`. Returns the
/// totals before and after.
pub(crate) fn set(
    rows: &mut Rows,
    cell: &Cell,
    slot: Slot,
    local: LocalSeq,
    delta: Option<i64>,
) -> Result<(i64, i64), StorageError> {
    let old = delta_at(rows, cell, slot)?;
    let before = total(rows, cell)?;
    if old == delta {
        return Ok((before, before));
    }
    let change = delta.unwrap_or(0).wrapping_sub(old.unwrap_or(0));
    let after = before.wrapping_add(change);
    if before == 0
        && let Some(last) = last(rows, cell)?
    {
        rows.remove(deleted_key(cell.lane(), cell.space(), last, cell.key()));
    }
    match delta {
        Some(delta) => rows.put(delta_key(cell, slot), encode_total(delta)),
        None => rows.remove(delta_key(cell, slot)),
    }
    if after != 0 {
        rows.put(live_key(cell), encode_total(after));
    } else {
        rows.remove(live_key(cell));
        if let Some(last) = last(rows, cell)? {
            rows.put(deleted_key(cell.lane(), cell.space(), last, cell.key()), []);
        }
    }
    let count = i64::from(delta.is_some()) - i64::from(old.is_some());
    carry(rows, cell, slot, local, count, change)?;
    Ok((before, after))
}

/// Carries a change of level 0 into the blocks above.
fn carry(
    rows: &mut Rows,
    cell: &Cell,
    slot: Slot,
    local: LocalSeq,
    mut count: i64,
    change: i64,
) -> Result<(), StorageError> {
    for level in 1.. {
        let Some((start, mut block)) = block_at(rows, cell, level, slot)? else {
            // Rows are counted at one change in 16. To count them at every change would cost more than blocks save.
            let grown = match level {
                1 => local.0.is_multiple_of(16),
                _ => count > 0,
            };
            if grown {
                found_level(rows, cell, level)?;
            }
            return Ok(());
        };
        block.count = block.count.saturating_add_signed(count);
        block.sum = block.sum.wrapping_add(change);
        if block.count > DELTA_BLOCK_ROWS as u64 {
            split(rows, cell, level, start)?;
            count = 1;
        } else {
            // A block that has become empty stays, because the blocks above begin at the slots of blocks below.
            rows.put(row_key(cell, level, start), block.encode());
            count = 0;
        }
    }
    Ok(())
}

/// Replaces the block at `start` by two halves. The last block of a level loses its last row alone, so that a number
/// that only grows leaves full blocks behind.
fn split(rows: &mut Rows, cell: &Cell, level: u8, start: Slot) -> Result<(), StorageError> {
    let next = next_in_level(rows, cell, level, start)?;
    let mut below = Vec::new();
    visit(rows, cell, level - 1, (start, next), |slot, block| {
        below.push((slot, block));
        ControlFlow::Continue(())
    })?;
    let at = match next {
        Some(_) => below.len() / 2,
        None => below.len() - 1,
    };
    for (first, part) in [(start, &below[..at]), (below[at].0, &below[at..])] {
        rows.put(row_key(cell, level, first), sum_of(part).encode());
    }
    Ok(())
}

fn sum_of(below: &[(Slot, Block)]) -> Block {
    Block {
        count: below.len() as u64,
        sum: below
            .iter()
            .fold(0i64, |sum, (_, block)| sum.wrapping_add(block.sum)),
    }
}

/// Makes the first blocks of a level, if the level below has enough rows.
fn found_level(rows: &mut Rows, cell: &Cell, level: u8) -> Result<(), StorageError> {
    let mut below = Vec::new();
    visit(rows, cell, level - 1, (Slot::MIN, None), |slot, block| {
        below.push((slot, block));
        match below.len() > DELTA_LEVEL_ROWS {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    if below.len() <= DELTA_LEVEL_ROWS {
        return Ok(());
    }
    // The first pass stopped at the bound. Blocks must cover all rows of the level below.
    below.clear();
    visit(rows, cell, level - 1, (Slot::MIN, None), |slot, block| {
        below.push((slot, block));
        ControlFlow::Continue(())
    })?;
    for (n, part) in below.chunks(DELTA_BLOCK_ROWS / 2).enumerate() {
        let first = if n == 0 { Slot::MIN } else { part[0].0 };
        rows.put(row_key(cell, level, first), sum_of(part).encode());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use lattice_format::{IntentionId, Lane, Position, Time};
    use proptest::prelude::*;

    use super::*;
    use crate::state::cell::Space;
    use crate::state::live;

    fn slot(n: u64) -> Slot {
        Slot::of(Position {
            time: Time {
                wall_ms: n,
                counter: 0,
            },
            id: IntentionId([7; 32]),
        })
    }

    fn cell() -> Cell {
        Cell::new(Lane::App, Space::Numbers, b"n")
    }

    /// Compares the sums and totals with those of the deltas in `model`.
    fn check(rows: &Rows, model: &BTreeMap<u64, i64>, at: u64) {
        let sum: i64 = model.range(at..).map(|(_, by)| by).sum();
        assert_eq!(sum_from(rows, &cell(), slot(at)).unwrap(), sum, "from {at}");
        let total: i64 = model.values().sum();
        assert_eq!(live::number_at(rows, &cell(), Slot::MAX).unwrap(), total);
        assert_eq!(
            live::number_at(rows, &cell(), slot(at)).unwrap(),
            total - sum
        );
    }

    proptest! {
        #[test]
        fn partial_sums_agree_with_the_deltas(
            steps in proptest::collection::vec((0u64..400, proptest::option::weighted(0.8, -3i64..4)), 1..700),
            at in 0u64..400,
        ) {
            let (mut rows, mut model) = (Rows::in_memory().unwrap(), BTreeMap::new());
            for (n, (place, by)) in steps.into_iter().enumerate() {
                let before: i64 = model.values().sum();
                match by {
                    Some(by) => model.insert(place, by),
                    None => model.remove(&place),
                };
                let (was, is) = set(&mut rows, &cell(), slot(place), LocalSeq(n as u64), by).unwrap();
                prop_assert_eq!((was, is), (before, model.values().sum()));
                if n % 97 == 0 {
                    rows.flush().unwrap();
                }
            }
            for at in [0, at, 399] {
                check(&rows, &model, at);
            }
            let deleted = rows.first(b"K", b"L", false).unwrap();
            let expected = model.values().sum::<i64>() == 0 && !model.is_empty();
            prop_assert_eq!(deleted.is_some(), expected);
        }
    }

    #[test]
    fn a_sum_far_back_reads_few_rows_however_many_deltas_there_are() {
        let (mut rows, mut model) = (Rows::in_memory().unwrap(), BTreeMap::new());
        for n in 0..20_000 {
            set(&mut rows, &cell(), slot(n), LocalSeq(n), Some(1)).unwrap();
            model.insert(n, 1);
        }
        for at in [0, 1, 63, 64, 9_999, 19_999] {
            check(&rows, &model, at);
        }
        for level in 0..4 {
            let (mut read, mut most) = (0, 0);
            visit(&rows, &cell(), level, (Slot::MIN, None), |_, block| {
                read += 1;
                most = most.max(block.count);
                ControlFlow::Continue(())
            })
            .unwrap();
            assert!(most <= DELTA_BLOCK_ROWS as u64, "a block of {most} rows");
            match level {
                0 => assert_eq!(read, 20_000),
                1 => assert!(read < 20_000 / 32, "{read} blocks"),
                2 => assert!(read > 0 && read <= DELTA_LEVEL_ROWS + 1, "{read} blocks"),
                _ => assert_eq!(read, 0),
            }
        }
    }
}

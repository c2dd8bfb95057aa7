//! The state at a position: what a run, a query or a person reads.
//!
//! A cell's newest version stands in a row of its own, so that reading at the end of the order
//! costs one look-up and a scan passes over no history. Older versions stand beside them and are
//! looked at only by runs that stand earlier.

use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{Lane, Position};

use crate::state::cell::{Cell, Op, Space, newest_key, older_key};
use crate::storage::rows::{RowsView, StorageError, prefix_end};

/// What the newest row of a cell holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) position: Position,
    /// For numbers the total of all deltas.
    pub(crate) op: Op,
}

impl Newest {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = || {
            StorageError(
                "a row of the derived state is damaged: delete state.redb to rebuild it".into(),
            )
        };
        let (position, op) = bytes.split_at_checked(Position::LEN).ok_or_else(damaged)?;
        Ok(Self {
            position: Position::from_slice(position).ok_or_else(damaged)?,
            op: Op::decode(op).ok_or_else(damaged)?,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Position::LEN + 16);
        out.extend_from_slice(&self.position.to_bytes());
        self.op.encode(&mut out);
        out
    }
}

pub(crate) fn newest(rows: &RowsView, cell: &Cell) -> Result<Option<Newest>, StorageError> {
    rows.get(&newest_key(cell))?
        .map(|bytes| Newest::decode(&bytes))
        .transpose()
}

/// The bytes of a cell as a run at `position` sees them: those of the last version below it.
pub(crate) fn bytes_at(
    rows: &RowsView,
    cell: &Cell,
    position: Position,
) -> Result<Option<Arc<[u8]>>, StorageError> {
    match newest(rows, cell)? {
        None => Ok(None),
        Some(newest) => visible(rows, cell, newest, position),
    }
}

fn visible(
    rows: &RowsView,
    cell: &Cell,
    newest: Newest,
    position: Position,
) -> Result<Option<Arc<[u8]>>, StorageError> {
    let op = if newest.position < position {
        newest.op
    } else {
        match rows.first(
            &older_key(cell, Position::MIN),
            &older_key(cell, position),
            true,
        )? {
            None => return Ok(None),
            Some((_, op)) => decode_op(&op)?,
        }
    };
    match op {
        Op::Put(bytes) => Ok(Some(bytes)),
        Op::Delete => Ok(None),
        Op::Add(_) => Err(StorageError(format!("{cell:?} holds a number among bytes"))),
    }
}

pub(crate) fn decode_op(bytes: &[u8]) -> Result<Op, StorageError> {
    Op::decode(bytes).ok_or_else(|| {
        StorageError(
            "a row of the derived state is damaged: delete state.redb to rebuild it".into(),
        )
    })
}

/// The number in a cell as a run at `position` sees it: the sum of the deltas below it.
pub(crate) fn number_at(
    rows: &RowsView,
    cell: &Cell,
    position: Position,
) -> Result<i64, StorageError> {
    match newest(rows, cell)? {
        None => Ok(0),
        Some(newest) => number_of(rows, cell, &newest, position),
    }
}

fn number_of(
    rows: &RowsView,
    cell: &Cell,
    newest: &Newest,
    position: Position,
) -> Result<i64, StorageError> {
    let Op::Add(mut total) = newest.op else {
        return Err(StorageError(format!("{cell:?} holds bytes among numbers")));
    };
    if newest.position >= position {
        // Counted down from the end, since late readers stand near it.
        let mut damaged = None;
        rows.scan(
            &older_key(cell, position),
            &older_key(cell, Position::MAX),
            true,
            |_, op| {
                match decode_op(op) {
                    Ok(Op::Add(delta)) => total = total.wrapping_sub(delta),
                    Ok(_) => damaged = Some(StorageError(format!("{cell:?} holds no delta"))),
                    Err(error) => damaged = Some(error),
                }
                ControlFlow::Continue(())
            },
        )?;
        if let Some(error) = damaged {
            return Err(error);
        }
    }
    Ok(total)
}

/// Visits the cells of one lane and space that a run at `position` sees, from `start` (inclusive)
/// to `end` (exclusive; `None` for the end of the space): keys with their bytes.
#[expect(
    clippy::too_many_arguments,
    reason = "a range, a place in it, and what to do there"
)]
pub(crate) fn scan_bytes_at(
    rows: &RowsView,
    lane: Lane,
    space: Space,
    start: &[u8],
    end: Option<&[u8]>,
    position: Position,
    reverse: bool,
    mut visit: impl FnMut(&[u8], Arc<[u8]>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    scan_newest(rows, lane, space, start, end, reverse, |cell, newest| {
        Ok(match visible(rows, cell, newest, position)? {
            Some(bytes) => visit(cell.key(), bytes),
            None => ControlFlow::Continue(()),
        })
    })
}

/// As [`scan_bytes_at`], for numbers that are not 0.
pub(crate) fn scan_numbers_at(
    rows: &RowsView,
    lane: Lane,
    start: &[u8],
    end: Option<&[u8]>,
    position: Position,
    mut visit: impl FnMut(&[u8], i64) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    scan_newest(
        rows,
        lane,
        Space::Numbers,
        start,
        end,
        false,
        |cell, newest| {
            Ok(match number_of(rows, cell, &newest, position)? {
                0 => ControlFlow::Continue(()),
                number => visit(cell.key(), number),
            })
        },
    )
}

fn scan_newest(
    rows: &RowsView,
    lane: Lane,
    space: Space,
    start: &[u8],
    end: Option<&[u8]>,
    reverse: bool,
    mut visit: impl FnMut(&Cell, Newest) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let from = newest_key(&Cell::new(lane, space, start));
    let to = match end {
        Some(end) => newest_key(&Cell::new(lane, space, end)),
        None => prefix_end(&newest_key(&Cell::new(lane, space, b"")))
            .expect("a lane and a space are below 255"),
    };
    let mut failed = None;
    rows.scan(&from, &to, reverse, |row, value| {
        let step = Cell::from_slice(&row[1..])
            .ok_or_else(|| StorageError("a cell of the derived state is damaged".into()))
            .and_then(|cell| visit(&cell, Newest::decode(value)?));
        step.unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        })
    })?;
    failed.map_or(Ok(()), Err)
}

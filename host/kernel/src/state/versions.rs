//! Versions of cells by position, and who must run again when one changes.
//!
//! The multiversion rule (Reed, "Naming and Synchronization in a Decentralized Computer System",
//! 1978; Bernstein and Goodman, "Multiversion Concurrency Control", 1983), with re-execution where
//! those abort: a run's versions are inserted at its position; each later run that read the cell
//! before its next absolute write, and would now read another value, is run again.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use lattice_format::{Digest, IntentionId, Lane, Position};

use crate::fold::quota;
use crate::mutant::{self, Mutant};
use crate::outcome::Outcome;
use crate::run::{Range, Reads};
use crate::state::cell::{
    Cell, Op, Space, ValueMark, common_prefix, newest_key, older_key, range_key, reader_key,
};
use crate::state::live::{self, Newest, decode_op};
use crate::state::lthash::{Element, LtHash};
use crate::storage::rows::{Rows, RowsView, StorageError};

/// Homomorphic hashes of what this replica holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    pub(crate) state: LtHash,
    pub(crate) outcomes: LtHash,
    pub(crate) applied: LtHash,
    pub(crate) applied_count: u64,
}

/// Digests of [`Roots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootDigests {
    /// Of (lane, key, value), pins and numbers included.
    pub state: Digest,
    /// Of (intention, transaction, outcome).
    pub outcomes: Digest,
    /// Of the ids of all applied intentions.
    pub applied: Digest,
}

impl Roots {
    pub(crate) fn digests(&self) -> RootDigests {
        RootDigests {
            state: self.state.digest(),
            outcomes: self.outcomes.digest(),
            applied: self.applied.digest(),
        }
    }

    pub(crate) fn apply(&mut self, id: &IntentionId) {
        self.applied.add(&Element::new(&[&id.0]));
        self.applied_count += 1;
    }

    pub(crate) fn outcome(&mut self, id: &IntentionId, index: u32, outcome: &Outcome, add: bool) {
        let element = Element::new(&[&id.0, &index.to_be_bytes(), &outcome.to_cbor()]);
        if add {
            self.outcomes.add(&element);
        } else {
            self.outcomes.remove(&element);
        }
    }

    fn value(&mut self, cell: &Cell, before: Option<&[u8]>, after: Option<&[u8]>) {
        if before == after || !cell.space().in_root() {
            return;
        }
        if let Some(value) = before {
            self.state.remove(&Element::new(&[cell.as_bytes(), value]));
        }
        if let Some(value) = after {
            self.state.add(&Element::new(&[cell.as_bytes(), value]));
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 * LtHash::BYTES + 8);
        for hash in [&self.state, &self.outcomes, &self.applied] {
            out.extend_from_slice(&hash.to_bytes());
        }
        out.extend_from_slice(&self.applied_count.to_be_bytes());
        out
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.chunks(LtHash::BYTES);
        Some(Self {
            state: LtHash::from_slice(parts.next()?)?,
            outcomes: LtHash::from_slice(parts.next()?)?,
            applied: LtHash::from_slice(parts.next()?)?,
            applied_count: u64::from_be_bytes(parts.next()?.try_into().ok()?),
        })
    }
}

/// The smallest position above `position`.
pub(crate) fn just_above(position: Position) -> Position {
    let mut id = position.id;
    for byte in id.0.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return Position { id, ..position };
        }
    }
    match position.time.successor() {
        Some(time) => Position { time, id },
        None => Position::MAX,
    }
}

/// The version of `cell` at exactly `position`.
pub(crate) fn version_at(
    rows: &RowsView,
    cell: &Cell,
    position: Position,
) -> Result<Option<Op>, StorageError> {
    if !cell.space().is_number()
        && let Some(newest) = live::newest(rows, cell)?
        && newest.position == position
    {
        return Ok(Some(newest.op));
    }
    rows.get(&older_key(cell, position))?
        .map(|op| decode_op(&op))
        .transpose()
}

/// Puts, replaces or (with `None`) removes the version of `cell` at `position`. Tells whether a
/// reader just above it would see another value than before.
pub(crate) fn set(
    rows: &mut Rows,
    roots: &mut Roots,
    cell: &Cell,
    position: Position,
    op: Option<&Op>,
) -> Result<bool, StorageError> {
    if cell.space().is_number() {
        return set_number(rows, roots, cell, position, op);
    }
    let newest = live::newest(rows, cell)?;
    if let Some(op) = op
        && newest
            .as_ref()
            .is_none_or(|n| is_below(n.position, position))
    {
        return Ok(set_last(rows, roots, cell, position, newest, op));
    }
    let above = just_above(position);
    let before = live::bytes_at(rows, cell, above)?;
    let newest_before = newest.as_ref().and_then(|n| match &n.op {
        Op::Put(bytes) => Some(bytes.clone()),
        _ => None,
    });
    match (newest, op) {
        (None, _) => {}
        (Some(newest), Some(op)) if newest.position == position => {
            put_newest(rows, cell, position, op);
        }
        (Some(newest), None) if newest.position == position => {
            let previous = rows.first(
                &older_key(cell, Position::MIN),
                &older_key(cell, position),
                true,
            )?;
            match previous {
                None => rows.remove(newest_key(cell)),
                Some((row, op)) => {
                    let at = Position::from_slice(&row[row.len() - Position::LEN..])
                        .ok_or_else(|| StorageError("a version's row is damaged".into()))?;
                    put_newest(rows, cell, at, &decode_op(&op)?);
                    rows.remove(row);
                }
            }
        }
        (Some(_), Some(op)) if !mutant::active(Mutant::OldVersionLost) => {
            put_older(rows, cell, position, op);
        }
        (Some(_), Some(_)) => {}
        (Some(_), None) => rows.remove(older_key(cell, position)),
    }
    let newest_after = live::bytes_at(rows, cell, Position::MAX)?;
    roots.value(cell, newest_before.as_deref(), newest_after.as_deref());
    Ok(live::bytes_at(rows, cell, above)? != before)
}

/// Whether a version comes before another one.
fn is_below(one: Position, other: Position) -> bool {
    match mutant::active(Mutant::TieBrokenByArrival) {
        true => one.time <= other.time,
        false => one < other,
    }
}

/// Most versions are the last of their cell: one look-up was enough.
fn set_last(
    rows: &mut Rows,
    roots: &mut Roots,
    cell: &Cell,
    position: Position,
    newest: Option<Newest>,
    op: &Op,
) -> bool {
    let bytes = |op: &Op| match op {
        Op::Put(bytes) => Some(bytes.clone()),
        _ => None,
    };
    let (before, after) = (newest.as_ref().and_then(|n| bytes(&n.op)), bytes(op));
    if let Some(newest) = newest {
        put_older(rows, cell, newest.position, &newest.op);
    }
    put_newest(rows, cell, position, op);
    roots.value(cell, before.as_deref(), after.as_deref());
    before != after
}

fn put_newest(rows: &mut Rows, cell: &Cell, position: Position, op: &Op) {
    let row = Newest {
        position,
        op: op.clone(),
    };
    rows.put(newest_key(cell), row.encode());
}

fn put_older(rows: &mut Rows, cell: &Cell, position: Position, op: &Op) {
    let mut row = Vec::with_capacity(16);
    op.encode(&mut row);
    rows.put(older_key(cell, position), row);
}

fn set_number(
    rows: &mut Rows,
    roots: &mut Roots,
    cell: &Cell,
    position: Position,
    op: Option<&Op>,
) -> Result<bool, StorageError> {
    let delta = |op: Option<&Op>| match op {
        None => Ok(0),
        Some(Op::Add(by)) => Ok(*by),
        Some(_) => Err(StorageError(format!("{cell:?} holds bytes among numbers"))),
    };
    let newest = live::newest(rows, cell)?;
    let old = match &newest {
        Some(newest) if newest.position >= position => version_at(rows, cell, position)?,
        _ => None,
    };
    let change = delta(op)?.wrapping_sub(delta(old.as_ref())?);
    let total_before = delta(newest.as_ref().map(|n| &n.op))?;
    let total = total_before.wrapping_add(change);
    match op {
        Some(op) => put_older(rows, cell, position, op),
        None => rows.remove(older_key(cell, position)),
    }
    let last = match (&newest, op) {
        (Some(newest), _) if newest.position > position => Some(newest.position),
        (_, Some(_)) => Some(position),
        (None, None) => None,
        (Some(newest), None) if newest.position < position => Some(newest.position),
        (Some(_), None) => rows
            .first(
                &older_key(cell, Position::MIN),
                &older_key(cell, position),
                true,
            )?
            .and_then(|(row, _)| Position::from_slice(&row[row.len() - Position::LEN..])),
    };
    match last {
        Some(last) => put_newest(rows, cell, last, &Op::Add(total)),
        None => rows.remove(newest_key(cell)),
    }
    let bytes = |n: i64| (n != 0).then(|| n.to_be_bytes());
    let (before, after) = (bytes(total_before), bytes(total));
    roots.value(
        cell,
        before.as_ref().map(|b| &b[..]),
        after.as_ref().map(|b| &b[..]),
    );
    Ok(change != 0)
}

/// Lengths of the prefixes under which ranges are kept, so that a changed cell is looked up under
/// those alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeLengths(pub(crate) BTreeSet<u16>);

impl RangeLengths {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Self {
        let (lengths, _) = bytes.as_chunks::<2>();
        Self(lengths.iter().map(|n| u16::from_be_bytes(*n)).collect())
    }
}

/// Writes the marks of a run.
pub(crate) fn put_marks(
    rows: &mut Rows,
    lengths: &mut RangeLengths,
    lane: Lane,
    position: Position,
    reads: &Reads,
) {
    for (cell, mark) in &reads.cells {
        rows.put(reader_key(cell, lane, position), mark.0);
    }
    for (number, range) in (0u32..).zip(&reads.ranges) {
        let prefix = common_prefix(&range.start, &range.end);
        lengths
            .0
            .insert(u16::try_from(prefix.len()).expect("keys are bounded by KEY_BYTES_MAX"));
        let mut value = Vec::with_capacity(2 + range.start.len() + range.end.len());
        value.extend_from_slice(&(range.start.len() as u16).to_be_bytes());
        value.extend_from_slice(&range.start);
        value.extend_from_slice(&range.end);
        rows.put(range_key(prefix, lane, position, number), value);
    }
}

/// Removes the marks of a run.
pub(crate) fn remove_marks(
    rows: &mut Rows,
    lane: Lane,
    position: Position,
    cells: &[Cell],
    ranges: &[Range],
) {
    for cell in cells {
        rows.remove(reader_key(cell, lane, position));
    }
    for (number, range) in (0u32..).zip(ranges) {
        let prefix = common_prefix(&range.start, &range.end);
        rows.remove(range_key(prefix, lane, position, number));
    }
}

/// The runs that read `cell` above `position` and would now read another value.
pub(crate) fn stale_readers(
    rows: &RowsView,
    lengths: &RangeLengths,
    cell: &Cell,
    position: Position,
) -> Result<Vec<(Lane, Position)>, StorageError> {
    if cell.space() == Space::Written {
        return quota::stale_readers(rows, cell, position);
    }
    let from = just_above(position);
    let until = match next_absolute(rows, cell, position)? {
        // The run that writes next still read what stood below it.
        Some(next) => just_above(next),
        None => Position::MAX,
    };
    let lanes: &[Lane] = match cell.lane() {
        Lane::System => &[Lane::System, Lane::App],
        Lane::App => &[Lane::App],
    };
    let mut stale = Vec::new();
    for lane in lanes {
        let mut readers = Vec::new();
        rows.scan(
            &reader_key(cell, *lane, from),
            &reader_key(cell, *lane, until),
            false,
            |row, mark| {
                if let Some(at) = Position::from_slice(&row[row.len() - Position::LEN..]) {
                    readers.push((at, mark.to_vec()));
                }
                ControlFlow::Continue(())
            },
        )?;
        for (reader, mark) in readers {
            if mark_at(rows, cell, reader)?.0[..] != mark[..] {
                stale.push((*lane, reader));
            }
        }
        for length in &lengths.0 {
            let Some(prefix) = cell.as_bytes().get(..usize::from(*length)) else {
                break;
            };
            rows.scan(
                &range_key(prefix, *lane, from, 0),
                &range_key(prefix, *lane, until, 0),
                false,
                |row, range| {
                    let at = row.len() - Position::LEN - 4;
                    if range_contains(range, cell)
                        && let Some(reader) = Position::from_slice(&row[at..row.len() - 4])
                    {
                        stale.push((*lane, reader));
                    }
                    ControlFlow::Continue(())
                },
            )?;
        }
    }
    Ok(stale)
}

fn range_contains(row: &[u8], cell: &Cell) -> bool {
    let Some((len, rest)) = row.split_first_chunk::<2>() else {
        return false;
    };
    let Some((start, end)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))) else {
        return false;
    };
    start <= cell.as_bytes() && cell.as_bytes() < end
}

/// What a run at `position` sees in `cell`, shortened.
pub(crate) fn mark_at(
    rows: &RowsView,
    cell: &Cell,
    position: Position,
) -> Result<ValueMark, StorageError> {
    Ok(match cell.space() {
        space if space.is_number() => ValueMark::of_number(live::number_at(rows, cell, position)?),
        _ => ValueMark::of_bytes(live::bytes_at(rows, cell, position)?.as_deref()),
    })
}

/// Where `cell` is next written absolutely above `position`: what stands there shields later
/// readers. Numbers are never written absolutely.
fn next_absolute(
    rows: &RowsView,
    cell: &Cell,
    position: Position,
) -> Result<Option<Position>, StorageError> {
    if cell.space().is_number() {
        return Ok(None);
    }
    let older = rows.first(
        &older_key(cell, just_above(position)),
        &older_key(cell, Position::MAX),
        false,
    )?;
    if let Some((row, _)) = older {
        return Ok(Position::from_slice(&row[row.len() - Position::LEN..]));
    }
    Ok(live::newest(rows, cell)?
        .map(|newest| newest.position)
        .filter(|at| *at > position))
}

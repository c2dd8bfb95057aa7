//! Versions of cells by position, and who must run again when one changes.
//!
//! The multiversion rule (Reed, "Naming and Synchronization in a Decentralized Computer System",
//! 1978; Bernstein and Goodman, "Multiversion Concurrency Control", 1983), with re-execution where
//! those abort: a run's versions are inserted at its position; each later run that read the cell
//! before its next absolute write, and would now read another value, is run again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{Digest, IntentionId, Lane};

use crate::graph::dag;
use crate::graph::slot::Slot;
use crate::mutant::{self, Mutant};
use crate::outcome::Outcome;
use crate::state::call_index;
use crate::state::cell::{
    Cell, Op, Space, ValueMark, common_prefix, deleted_key, live_key, older_key, range_key,
    reader_key,
};
use crate::state::live::{self, Version};
use crate::state::lthash::{Element, LtHash};
use crate::state::numbers;
use crate::state::reads::{Range, Reads};
use crate::state::written;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::{Rows, RowsView};

/// Homomorphic hashes of what this replica holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    pub(crate) state: LtHash,
    pub(crate) outcomes: LtHash,
    pub(crate) applied: LtHash,
    pub(crate) applied_count: u64,
}

/// The digests of what a replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootDigests {
    /// The digest of the state: (lane, key, value) of every cell, pins and numbers included.
    pub state: Digest,
    /// The digest of all outcomes: (intention, transaction, outcome).
    pub outcomes: Digest,
    /// The digest of the ids of all applied intentions.
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

/// Puts, replaces or (with `None`) removes the version of `cell` at `slot`, which the entry at `local` wrote.
/// Returns whether a reader just above it would see another value than before.
pub(crate) fn set(
    rows: &mut Rows,
    roots: &mut Roots,
    cell: &Cell,
    (slot, local): (Slot, LocalSeq),
    op: Option<&Op>,
) -> Result<bool, StorageError> {
    if cell.space().is_number() {
        let delta = match op {
            None => None,
            Some(Op::Add(by)) => Some(*by),
            Some(_) => unreachable!("numbers are added to, and nothing else"),
        };
        return set_number(rows, roots, cell, (slot, local), delta);
    }
    let last = Last::of(rows, cell)?;
    let before = last.live().cloned();
    let same = last.slot() == Some(slot);
    let changed = match op {
        Some(op) if same || last.slot().is_none_or(|last| is_below(last, slot)) => {
            if same {
                last.remove(rows, cell);
            } else {
                last.grow_old(rows, cell);
            }
            put_last(rows, cell, slot, local, op);
            before.as_deref() != bytes(op)
        }
        Some(op) => {
            let above = slot.just_above();
            let seen = live::bytes_at(rows, cell, above)?;
            if !mutant::active(Mutant::OldVersionLost) {
                put_older(rows, cell, slot, local, op);
            }
            live::bytes_at(rows, cell, above)? != seen
        }
        None if same => {
            last.remove(rows, cell);
            let previous = live::older_below(rows, cell, slot)?;
            if let Some((at, version)) = &previous {
                rows.remove(older_key(cell, *at));
                put_last(rows, cell, *at, version.local, &version.op);
            }
            let seen = previous
                .as_ref()
                .and_then(|(_, version)| bytes(&version.op));
            before.as_deref() != seen
        }
        None => {
            let above = slot.just_above();
            let seen = live::bytes_at(rows, cell, above)?;
            rows.remove(older_key(cell, slot));
            live::bytes_at(rows, cell, above)? != seen
        }
    };
    let after = live::live(rows, cell)?.map(|(_, value)| value);
    roots.value(cell, before.as_deref(), after.as_deref());
    Ok(changed)
}

fn is_below(one: Slot, other: Slot) -> bool {
    match mutant::active(Mutant::TieBrokenByArrival) {
        true => one < other || one.is_at_the_time_of(&other),
        false => one < other,
    }
}

fn bytes(op: &Op) -> Option<&[u8]> {
    match op {
        Op::Put(bytes) => Some(bytes),
        _ => None,
    }
}

/// The last version of a cell of bytes.
enum Last {
    None,
    /// A value, which stands in the live row.
    Live(Slot, LocalSeq, Arc<[u8]>),
    /// A deletion, which stands among the older versions.
    Deleted(Slot),
}

impl Last {
    fn of(rows: &RowsView, cell: &Cell) -> Result<Self, StorageError> {
        if let Some((local, value)) = live::live(rows, cell)? {
            return Ok(Self::Live(dag::slot_of(rows, local)?, local, value));
        }
        Ok(match live::older_below(rows, cell, Slot::MAX)? {
            Some((slot, _)) => Self::Deleted(slot),
            None => Self::None,
        })
    }

    fn slot(&self) -> Option<Slot> {
        match self {
            Self::None => None,
            Self::Live(slot, ..) | Self::Deleted(slot) => Some(*slot),
        }
    }

    fn live(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Live(_, _, value) => Some(value),
            _ => None,
        }
    }

    /// Moves a value among the older versions, and drops the row that lists a cell as deleted, because a later
    /// version comes.
    fn grow_old(&self, rows: &mut Rows, cell: &Cell) {
        match self {
            Self::None => {}
            Self::Live(slot, local, value) => {
                put_older(rows, cell, *slot, *local, &Op::Put(value.clone()));
            }
            Self::Deleted(slot) => {
                rows.remove(deleted_key(cell.lane(), cell.space(), *slot, cell.key()));
            }
        }
    }

    /// Removes the last version. The version before stays among the older ones.
    fn remove(&self, rows: &mut Rows, cell: &Cell) {
        match self {
            Self::None => {}
            Self::Live(..) => rows.remove(live_key(cell)),
            Self::Deleted(slot) => {
                rows.remove(deleted_key(cell.lane(), cell.space(), *slot, cell.key()));
                rows.remove(older_key(cell, *slot));
            }
        }
    }
}

/// Writes the last version of a cell.
fn put_last(rows: &mut Rows, cell: &Cell, slot: Slot, local: LocalSeq, op: &Op) {
    match op {
        Op::Put(value) => rows.put(live_key(cell), live::encode_live(local, value)),
        _ => {
            rows.remove(live_key(cell));
            put_older(rows, cell, slot, local, op);
            rows.put(deleted_key(cell.lane(), cell.space(), slot, cell.key()), []);
        }
    }
}

fn put_older(rows: &mut Rows, cell: &Cell, slot: Slot, local: LocalSeq, op: &Op) {
    let op = op.clone();
    rows.put(older_key(cell, slot), Version { local, op }.encode());
}

fn set_number(
    rows: &mut Rows,
    roots: &mut Roots,
    cell: &Cell,
    (slot, local): (Slot, LocalSeq),
    delta: Option<i64>,
) -> Result<bool, StorageError> {
    let (before, after) = numbers::set(rows, cell, slot, local, delta)?;
    let bytes = |n: i64| (n != 0).then(|| n.to_be_bytes());
    let (old, new) = (bytes(before), bytes(after));
    roots.value(
        cell,
        old.as_ref().map(|b| &b[..]),
        new.as_ref().map(|b| &b[..]),
    );
    Ok(before != after)
}

/// Lengths of the prefixes under which ranges are stored, so that the ranges that hold a changed cell are looked up
/// under prefixes of these lengths alone.
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

/// Whether a run that read a cell has a row for that. A run that wrote the cell as well has none: its own version
/// is the next one above whatever changes what it saw, and leads to it.
fn is_marked(cell: &Cell, is_written: bool) -> bool {
    !is_written || cell.space().is_number()
}

/// Writes the marks of the run at `slot`, which wrote `writes`.
pub(crate) fn put_marks(
    rows: &mut Rows,
    lengths: &mut RangeLengths,
    (lane, slot): (Lane, Slot),
    reads: &Reads,
    writes: &BTreeMap<Cell, Op>,
) {
    for (cell, mark) in &reads.cells {
        if is_marked(cell, writes.contains_key(cell)) {
            rows.put(reader_key(cell, lane, slot), mark.as_row());
        }
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
        rows.put(range_key(prefix, lane, slot, number), value);
    }
}

/// Removes the marks of the run at `slot`, which read `cells` and wrote `writes`, both ascending.
pub(crate) fn remove_marks(
    rows: &mut Rows,
    (lane, slot): (Lane, Slot),
    cells: &[Cell],
    ranges: &[Range],
    writes: &[Cell],
) {
    for cell in cells {
        if is_marked(cell, writes.binary_search(cell).is_ok()) {
            rows.remove(reader_key(cell, lane, slot));
        }
    }
    for (number, range) in (0u32..).zip(ranges) {
        let prefix = common_prefix(&range.start, &range.end);
        rows.remove(range_key(prefix, lane, slot, number));
    }
}

/// Who would now read another value.
pub(crate) struct Stale {
    /// The runs that have a mark.
    pub(crate) readers: Vec<(Lane, Slot)>,
    /// The slot of the next version. Its run has no mark if it read the cell, and nobody above sees what changed.
    pub(crate) next: Option<Slot>,
}

/// The runs that read `cell` above `slot` and would now read another value.
pub(crate) fn stale_readers(
    rows: &RowsView,
    lengths: &RangeLengths,
    cell: &Cell,
    slot: Slot,
) -> Result<Stale, StorageError> {
    if cell.space() == Space::Written {
        return Ok(Stale {
            readers: written::stale_readers(rows, cell, slot)?,
            next: None,
        });
    }
    let from = slot.just_above();
    let next = next_absolute(rows, cell, slot)?;
    let until = end_of_readers(next);
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
                if let Some(at) = Slot::at_end_of(row) {
                    readers.push((at, mark.to_vec()));
                }
                ControlFlow::Continue(())
            },
        )?;
        for (reader, mark) in readers {
            if *mark_at(rows, cell, reader)?.as_row() != mark[..] {
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
                    let at = row.len() - Slot::LEN - 4;
                    if range_contains(range, cell)
                        && let Some(reader) = Slot::from_slice(&row[at..row.len() - 4])
                    {
                        stale.push((*lane, reader));
                    }
                    ControlFlow::Continue(())
                },
            )?;
        }
    }
    Ok(Stale {
        readers: stale,
        next,
    })
}

/// The end (exclusive) of the slots whose runs read what stands below the next version. The run that writes it is the
/// last of them.
pub(crate) fn end_of_readers(next: Option<Slot>) -> Slot {
    next.map_or(Slot::MAX, Slot::just_above)
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

/// The mark of what a run at `slot` sees in `cell`.
pub(crate) fn mark_at(rows: &RowsView, cell: &Cell, slot: Slot) -> Result<ValueMark, StorageError> {
    Ok(match cell.space() {
        Space::Called => call_index::mark_at(rows, cell, slot)?,
        space if space.is_number() => ValueMark::of_number(live::number_at(rows, cell, slot)?),
        _ => ValueMark::of_bytes(live::bytes_at(rows, cell, slot)?.as_deref()),
    })
}

/// The slot of the next absolute write of `cell` above `slot`, which shields later readers from a change at `slot`.
/// Numbers have none, since they are only added to.
fn next_absolute(rows: &RowsView, cell: &Cell, slot: Slot) -> Result<Option<Slot>, StorageError> {
    if cell.space().is_number() {
        return Ok(None);
    }
    let older = rows.first(
        &older_key(cell, slot.just_above()),
        &older_key(cell, Slot::MAX),
        false,
    )?;
    if let Some((row, _)) = older {
        return Ok(Slot::at_end_of(&row));
    }
    match live::live(rows, cell)? {
        Some((local, _)) => Ok(Some(dag::slot_of(rows, local)?).filter(|at| *at > slot)),
        None => Ok(None),
    }
}

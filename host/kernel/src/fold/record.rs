//! What the fold keeps of each run: what became of it, and where its marks and writes are.
//!
//! ```text
//! 'E' lane (1) position (44) → local (8) flags (1: void, by a cut or by its author's quota)
//!                              outcomes: count (4), each len (4) bytes
//!                              cells read: count (4), each len (2) bytes
//!                              ranges: count (4), each start len (2) start end len (2) end
//!                              cells written: count (4), each len (2) bytes
//! 'Q' lane (1) position (44) → nothing: must run (again)
//! 'V' id (32)                → nothing: governance has cut it off
//! ```

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use lattice_format::{DeviceKey, IntentionId, Lane, Position};

use crate::graph::dag::LocalSeq;
use crate::outcome::Outcome;
use crate::run::Range;
use crate::state::cell::Cell;
use crate::storage::rows::{Rows, RowsView, StorageError};

/// One run of an intention's half in one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) local: LocalSeq,
    pub(crate) void: bool,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) reads: Vec<Cell>,
    pub(crate) ranges: Vec<Range>,
    pub(crate) writes: Vec<Cell>,
}

fn row(table: u8, lane: Lane, position: Position) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + Position::LEN);
    key.push(table);
    key.push(lane.number());
    key.extend_from_slice(&position.to_bytes());
    key
}

impl Record {
    pub(crate) fn load(
        rows: &RowsView,
        lane: Lane,
        position: Position,
    ) -> Result<Option<Self>, StorageError> {
        rows.get(&row(b'E', lane, position))?
            .map(|bytes| {
                Self::decode(&bytes).ok_or_else(|| {
                    StorageError(
                        "a run's record is damaged: delete state.redb to rebuild it".into(),
                    )
                })
            })
            .transpose()
    }

    pub(crate) fn store(&self, rows: &mut Rows, lane: Lane, position: Position) {
        rows.put(row(b'E', lane, position), self.encode());
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let count = |out: &mut Vec<u8>, n: usize| {
            out.extend_from_slice(&(n as u32).to_be_bytes());
        };
        let short = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        out.extend_from_slice(&self.local.0.to_be_bytes());
        out.push(u8::from(self.void));
        count(&mut out, self.outcomes.len());
        for outcome in &self.outcomes {
            let bytes = outcome.to_cbor();
            count(&mut out, bytes.len());
            out.extend_from_slice(&bytes);
        }
        count(&mut out, self.reads.len());
        for cell in &self.reads {
            short(&mut out, cell.as_bytes());
        }
        count(&mut out, self.ranges.len());
        for range in &self.ranges {
            short(&mut out, &range.start);
            short(&mut out, &range.end);
        }
        count(&mut out, self.writes.len());
        for cell in &self.writes {
            short(&mut out, cell.as_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let local = LocalSeq(u64::from_be_bytes(take(8)?.try_into().ok()?));
        let void = take(1)?[0] != 0;
        let mut outcomes = Vec::new();
        for _ in 0..u32::from_be_bytes(take(4)?.try_into().ok()?) {
            let len = u32::from_be_bytes(take(4)?.try_into().ok()?);
            outcomes.push(Outcome::from_cbor(take(len as usize)?)?);
        }
        let mut reads = Vec::new();
        for _ in 0..u32::from_be_bytes(take(4)?.try_into().ok()?) {
            let len = u16::from_be_bytes(take(2)?.try_into().ok()?);
            reads.push(Cell::from_slice(take(usize::from(len))?)?);
        }
        let mut ranges = Vec::new();
        for _ in 0..u32::from_be_bytes(take(4)?.try_into().ok()?) {
            let len = u16::from_be_bytes(take(2)?.try_into().ok()?);
            let start = take(usize::from(len))?.to_vec();
            let len = u16::from_be_bytes(take(2)?.try_into().ok()?);
            let end = take(usize::from(len))?.to_vec();
            ranges.push(Range { start, end });
        }
        let mut writes = Vec::new();
        for _ in 0..u32::from_be_bytes(take(4)?.try_into().ok()?) {
            let len = u16::from_be_bytes(take(2)?.try_into().ok()?);
            writes.push(Cell::from_slice(take(usize::from(len))?)?);
        }
        rest.is_empty().then_some(Self {
            local,
            void,
            outcomes,
            reads,
            ranges,
            writes,
        })
    }
}

/// The runs that are due, by lane. The rows hold them too, so that a restart knows them; reading
/// the first of many removed rows would take time for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    runs: [BTreeMap<Position, LocalSeq>; 2],
    /// Whose entry made a run stale, of those that are due again. In memory alone.
    causes: [BTreeMap<Position, DeviceKey>; 2],
}

impl Due {
    pub(crate) fn load(rows: &RowsView) -> Result<Self, StorageError> {
        let mut due = Self::default();
        for lane in [Lane::System, Lane::App] {
            let list = &mut due.runs[usize::from(lane.number())];
            rows.scan(
                &row(b'Q', lane, Position::MIN),
                &row(b'Q', lane, Position::MAX),
                false,
                |key, value| {
                    if let (Some(position), Ok(local)) =
                        (Position::from_slice(&key[2..]), value.try_into())
                    {
                        list.insert(position, LocalSeq(u64::from_be_bytes(local)));
                    }
                    ControlFlow::Continue(())
                },
            )?;
        }
        Ok(due)
    }

    /// Marks a run as due.
    pub(crate) fn set(&mut self, rows: &mut Rows, lane: Lane, position: Position, local: LocalSeq) {
        if self.runs[usize::from(lane.number())]
            .insert(position, local)
            .is_none()
        {
            rows.put(row(b'Q', lane, position), local.0.to_be_bytes());
        }
    }

    /// Marks a run as due again, since an entry of `by` changed what it read.
    pub(crate) fn set_again(
        &mut self,
        rows: &mut Rows,
        lane: Lane,
        position: Position,
        local: LocalSeq,
        by: DeviceKey,
    ) {
        let causes = &mut self.causes[usize::from(lane.number())];
        causes.entry(position).or_insert(by);
        self.set(rows, lane, position, local);
    }

    /// Marks a run as done; tells whose entry made it due again, if one did.
    pub(crate) fn clear(
        &mut self,
        rows: &mut Rows,
        lane: Lane,
        position: Position,
    ) -> Option<DeviceKey> {
        let half = usize::from(lane.number());
        if self.runs[half].remove(&position).is_some() {
            rows.remove(row(b'Q', lane, position));
        }
        self.causes[half].remove(&position)
    }

    /// The first run of a lane that is due.
    pub(crate) fn first(&self, lane: Lane) -> Option<(Position, LocalSeq)> {
        let (position, local) = self.runs[usize::from(lane.number())].first_key_value()?;
        Some((*position, *local))
    }

    /// Whether a run is due.
    pub(crate) fn contains(&self, lane: Lane, position: Position) -> bool {
        self.runs[usize::from(lane.number())].contains_key(&position)
    }

    /// How many runs of a lane are due.
    pub(crate) fn count(&self, lane: Lane) -> u64 {
        self.runs[usize::from(lane.number())].len() as u64
    }

    /// How many runs are due.
    pub(crate) fn total(&self) -> u64 {
        self.count(Lane::System) + self.count(Lane::App)
    }
}

/// Whether that run is due, in a view.
pub(crate) fn is_due(
    rows: &RowsView,
    lane: Lane,
    position: Position,
) -> Result<bool, StorageError> {
    Ok(rows.get(&row(b'Q', lane, position))?.is_some())
}

/// The last position of a lane where anything has run.
pub(crate) fn last_run(rows: &RowsView, lane: Lane) -> Result<Position, StorageError> {
    let last = rows.first(
        &row(b'E', lane, Position::MIN),
        &row(b'E', lane, Position::MAX),
        true,
    )?;
    Ok(last
        .and_then(|(key, _)| Position::from_slice(&key[2..]))
        .unwrap_or(Position::MIN))
}

fn void_key(id: &IntentionId) -> Vec<u8> {
    let mut key = vec![b'V'];
    key.extend_from_slice(&id.0);
    key
}

/// Whether governance has cut the entry off.
pub(crate) fn is_cut_off(rows: &RowsView, id: &IntentionId) -> Result<bool, StorageError> {
    Ok(rows.get(&void_key(id))?.is_some())
}

/// Whether governance has cut any entry off.
pub(crate) fn any_is_cut_off(rows: &RowsView) -> Result<bool, StorageError> {
    Ok(rows.first(b"V", b"W", false)?.is_some())
}

/// Sets whether governance has cut the entry off.
pub(crate) fn set_cut_off(rows: &mut Rows, id: &IntentionId, void: bool) {
    if void {
        rows.put(void_key(id), []);
    } else {
        rows.remove(void_key(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::cell::Space;

    #[test]
    fn records_read_back() {
        let cell = Cell::new(Lane::App, Space::Bytes, b"k");
        let record = Record {
            local: LocalSeq(7),
            void: false,
            outcomes: vec![
                Outcome::Ok(vec![vec![0xf6]]),
                Outcome::Unauthorized { index: 1 },
            ],
            reads: vec![cell.clone()],
            ranges: vec![Range {
                start: vec![1, 0],
                end: vec![1, 1],
            }],
            writes: vec![cell],
        };
        assert_eq!(Record::decode(&record.encode()), Some(record));
        assert_eq!(Record::decode(&[0; 5]), None);
    }
}

//! Runs that are due: flags in the rows of the order, and in memory a cursor with a bounded list.
//!
//! A run is due when a flag in the row of its entry says so. Memory lists the first due runs of each lane, at most
//! some thousands, up to a cursor. Behind the cursor only the rows know, and they are searched when the list is used
//! up. So a store that has just received a million entries takes no memory for what waits. The list is a persistent
//! map, so a commit that fails goes back to the former list in constant time.

use std::ops::ControlFlow;

use imbl::OrdMap;
use lattice_format::{DeviceKey, Lane};

use crate::fold::record::{OrderRow, due_in};
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::limits::{DUE_LISTED_MAX, DUE_ROWS_LOOKED_AT};
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::{Rows, RowsView};

const CURSORS: &[u8] = b"Mdue";

/// A due run as the list holds it.
#[derive(Clone, Copy, Debug)]
struct Listed {
    local: LocalSeq,
    /// The author of the entry that made the run due again; `None` where it has not run before, or where the row
    /// alone says that it is due.
    cause: Option<DeviceKey>,
}

#[derive(Clone, Debug)]
struct LaneDue {
    /// The due runs below `listed_to`.
    listed: OrdMap<Slot, Listed>,
    /// The cursor: from this slot on, only the rows say what is due.
    listed_to: Slot,
    count: u64,
}

impl Default for LaneDue {
    fn default() -> Self {
        Self {
            listed: OrdMap::new(),
            listed_to: Slot::MAX,
            count: 0,
        }
    }
}

impl LaneDue {
    fn list(&mut self, slot: Slot, run: Listed) {
        if slot >= self.listed_to {
            return;
        }
        self.listed.insert(slot, run);
        if self.listed.len() > DUE_LISTED_MAX
            && let Some((last, _)) = self.listed.get_max().cloned()
        {
            self.listed.remove(&last);
            self.listed_to = last;
        }
    }
}

/// The runs that are due, by lane.
#[derive(Clone, Debug, Default)]
pub(crate) struct DueRuns {
    lanes: [LaneDue; 2],
}

fn index(lane: Lane) -> usize {
    usize::from(lane.number())
}

impl DueRuns {
    /// Reads what [`DueRuns::save`] wrote when the rows were last written. No more runs of a lane can be due than there
    /// are `entries`; a row that says so is damaged.
    pub(crate) fn load(rows: &RowsView, entries: u64) -> Result<Self, StorageError> {
        let mut due = Self::default();
        let Some(row) = rows.get(CURSORS)? else {
            return Ok(due);
        };
        for (lane, part) in due.lanes.iter_mut().zip(row.chunks(8 + Slot::LEN)) {
            let damaged = || StorageError::row(CURSORS);
            let (count, cursor) = part.split_first_chunk().ok_or_else(damaged)?;
            lane.count = Some(u64::from_be_bytes(*count))
                .filter(|count| *count <= entries)
                .ok_or_else(damaged)?;
            lane.listed_to = Slot::from_slice(cursor).ok_or_else(damaged)?;
        }
        Ok(due)
    }

    /// Writes, for each lane, how many runs are due, and the first slot where one may be.
    pub(crate) fn save(&self, rows: &mut Rows) {
        let mut row = Vec::with_capacity(2 * (8 + Slot::LEN));
        for lane in &self.lanes {
            row.extend_from_slice(&lane.count.to_be_bytes());
            let first = lane
                .listed
                .get_min()
                .map_or(lane.listed_to, |(slot, _)| *slot);
            row.extend_from_slice(first.as_bytes());
        }
        rows.put(CURSORS, row);
    }

    /// Marks a run as due.
    pub(crate) fn set(
        &mut self,
        rows: &mut Rows,
        lane: Lane,
        slot: Slot,
    ) -> Result<(), StorageError> {
        self.mark(rows, lane, slot, None)
    }

    /// Marks a run as due again, because an entry of `by` changed what the run read.
    pub(crate) fn set_again(
        &mut self,
        rows: &mut Rows,
        lane: Lane,
        slot: Slot,
        by: DeviceKey,
    ) -> Result<(), StorageError> {
        self.mark(rows, lane, slot, Some(by))
    }

    fn mark(
        &mut self,
        rows: &mut Rows,
        lane: Lane,
        slot: Slot,
        cause: Option<DeviceKey>,
    ) -> Result<(), StorageError> {
        let mut row = OrderRow::there(rows, slot)?;
        let due = &mut self.lanes[index(lane)];
        if row.due[index(lane)] {
            if let Some(listed) = due.listed.get_mut(&slot) {
                listed.cause = listed.cause.or(cause);
            }
            return Ok(());
        }
        row.due[index(lane)] = true;
        row.store(rows, slot);
        if due.count == 0 {
            *due = LaneDue::default();
        }
        due.count += 1;
        let local = row.local;
        due.list(slot, Listed { local, cause });
        Ok(())
    }

    /// Takes a run off the list after its row's flag was taken back. Returns the author whose entry had made the run
    /// due again, where that is known.
    pub(crate) fn done(&mut self, lane: Lane, slot: Slot) -> Option<DeviceKey> {
        let due = &mut self.lanes[index(lane)];
        due.count = due.count.saturating_sub(1);
        due.listed.remove(&slot).and_then(|listed| listed.cause)
    }

    /// The first run of a lane that is due.
    pub(crate) fn first(
        &mut self,
        rows: &RowsView,
        lane: Lane,
    ) -> Result<Option<(Slot, LocalSeq)>, StorageError> {
        let due = &mut self.lanes[index(lane)];
        loop {
            if let Some((slot, listed)) = due.listed.get_min() {
                return Ok(Some((*slot, listed.local)));
            }
            if due.count == 0 {
                return Ok(None);
            }
            if due.listed_to == Slot::MAX {
                return Err(StorageError::row(CURSORS));
            }
            due.look_ahead(rows, lane)?;
        }
    }

    /// Whether a run is due.
    pub(crate) fn contains(
        &self,
        rows: &RowsView,
        lane: Lane,
        slot: Slot,
    ) -> Result<bool, StorageError> {
        Ok(self.count(lane) > 0 && is_due(rows, lane, slot)?)
    }

    /// How many runs of a lane are due.
    pub(crate) fn count(&self, lane: Lane) -> u64 {
        self.lanes[index(lane)].count
    }

    /// How many runs are due.
    pub(crate) fn total(&self) -> u64 {
        self.count(Lane::System) + self.count(Lane::App)
    }
}

impl LaneDue {
    /// Lists the due runs among the next rows, a bounded number of each.
    fn look_ahead(&mut self, rows: &RowsView, lane: Lane) -> Result<(), StorageError> {
        let (mut looked, mut last) = (0, None);
        let mut found = Vec::new();
        let end = [b'T' + 1];
        rows.scan(&order::key(self.listed_to), &end, false, |key, row| {
            last = Slot::at_end_of(key);
            looked += 1;
            if let (Some(slot), Some(local)) = (last, due_in(row, lane)) {
                found.push((slot, Listed { local, cause: None }));
            }
            if found.len() >= DUE_LISTED_MAX / 2 || looked >= DUE_ROWS_LOOKED_AT {
                return ControlFlow::Break(());
            }
            last = None;
            ControlFlow::Continue(())
        })?;
        // The scan keeps `last` only where it stopped at a bound. Otherwise it has seen every row.
        self.listed_to = last.map_or(Slot::MAX, Slot::just_above);
        self.listed.extend(found);
        Ok(())
    }
}

/// Whether a run is due, by its row.
pub(crate) fn is_due(rows: &RowsView, lane: Lane, slot: Slot) -> Result<bool, StorageError> {
    let row = rows.get(&order::key(slot))?;
    Ok(row.is_some_and(|row| due_in(&row, lane).is_some()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_format::{IntentionId, Position, Time};

    use super::*;

    fn slot(n: u64) -> Slot {
        Slot::of(Position {
            time: Time {
                wall_ms: n,
                counter: 0,
            },
            id: IntentionId([7; 32]),
        })
    }

    /// An order of `count` entries, of which the fold knows nothing.
    fn order_of(count: u64) -> Rows {
        let mut rows = Rows::in_memory().unwrap();
        for n in 0..count {
            order::put_new(&mut rows, slot(n), LocalSeq(n));
        }
        rows
    }

    /// Takes the first due run, as the fold does.
    fn take(due: &mut DueRuns, rows: &mut Rows) -> Option<u64> {
        let (slot, local) = due.first(rows, Lane::App).unwrap()?;
        let mut row = OrderRow::there(rows, slot).unwrap();
        assert!(row.due[1] && row.local == local);
        row.due[1] = false;
        row.store(rows, slot);
        due.done(Lane::App, slot);
        Some(local.0)
    }

    #[test]
    fn due_runs_are_listed_up_to_their_number_and_all_are_found_in_order() {
        let count = 2 * DUE_LISTED_MAX as u64 + 100;
        let (mut rows, mut due) = (order_of(count), DueRuns::default());
        // Runs become due from both ends, so that the list is full of late ones, which must give way.
        for n in (0..count / 2).flat_map(|n| [n, count - 1 - n]) {
            due.set(&mut rows, Lane::App, slot(n)).unwrap();
            assert!(due.lanes[1].listed.len() <= DUE_LISTED_MAX);
        }
        assert_eq!((due.count(Lane::App), due.total()), (count, count));
        let undo = due.clone();
        for n in 0..10 {
            assert_eq!(take(&mut due, &mut rows), Some(n));
        }
        // Runs that become due again: one that was taken, the same one twice, and one that is due already.
        for n in [3, 3, 700] {
            due.set_again(&mut rows, Lane::App, slot(n), DeviceKey([9; 32]))
                .unwrap();
        }
        assert_eq!(due.count(Lane::App), count - 9);
        due.save(&mut rows);
        let mut reloaded = DueRuns::load(&rows, u64::MAX).unwrap();
        let view = rows.view();
        for due in [&mut due, &mut reloaded] {
            rows.restore(view.clone());
            let left: Vec<_> = std::iter::from_fn(|| take(due, &mut rows)).collect();
            let expected: Vec<_> = [3].into_iter().chain(10..count).collect();
            assert!(
                left == expected,
                "{} of {} runs",
                left.len(),
                expected.len()
            );
            assert_eq!(due.total(), 0);
        }
        assert_eq!(undo.count(Lane::App), count);
    }

    /// Holds: invariant 13.
    #[test]
    fn more_due_runs_than_entries_are_damage() {
        let (mut rows, mut due) = (order_of(4), DueRuns::default());
        for n in 0..4 {
            due.set(&mut rows, Lane::App, slot(n)).unwrap();
        }
        due.save(&mut rows);
        assert_eq!(DueRuns::load(&rows, 4).unwrap().total(), 4);
        let damaged = DueRuns::load(&rows, 3).unwrap_err();
        assert!(damaged.to_string().contains("state.redb"), "{damaged}");
    }

    #[test]
    fn who_made_a_run_due_again_is_told_once() {
        let (mut rows, mut due) = (order_of(2), DueRuns::default());
        let [one, other] = [1, 2].map(|n| DeviceKey([n; 32]));
        due.set_again(&mut rows, Lane::App, slot(1), one).unwrap();
        due.set_again(&mut rows, Lane::App, slot(1), other).unwrap();
        due.set(&mut rows, Lane::App, slot(0)).unwrap();
        assert!(due.contains(&rows, Lane::App, slot(1)).unwrap());
        assert!(!due.contains(&rows, Lane::System, slot(1)).unwrap());
        assert_eq!(due.done(Lane::App, slot(1)), Some(one));
        assert_eq!(due.done(Lane::App, slot(0)), None);
    }

    #[test]
    fn a_due_run_behind_many_that_are_not_is_found() {
        let count = 2 * DUE_ROWS_LOOKED_AT as u64 + 5;
        let (mut rows, mut due) = (order_of(count), DueRuns::default());
        due.set(&mut rows, Lane::App, slot(0)).unwrap();
        due.set(&mut rows, Lane::App, slot(count - 1)).unwrap();
        due.save(&mut rows);
        let mut due = DueRuns::load(&rows, u64::MAX).unwrap();
        assert_eq!(take(&mut due, &mut rows), Some(0));
        // The second due run lies further away than one look reaches.
        due.lanes[1].look_ahead(&rows, Lane::App).unwrap();
        assert!(due.lanes[1].listed_to < Slot::MAX);
        assert_eq!(take(&mut due, &mut rows), Some(count - 1));
        assert_eq!(take(&mut due, &mut rows), None);
    }
}

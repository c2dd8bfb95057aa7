//! Installing a run: its effects replace those of the entry's last run, and runs that read what changed become due.

use std::sync::Arc;

use lattice_format::{CallId, DeviceKey, IntentionId, Lane};

use crate::fold::core::{Core, Effects, calls_of};
use crate::fold::record::{self, OrderRow, Record};
use crate::graph::dag::{self, Meta};
use crate::graph::slot::Slot;
use crate::graph::void::{self, Reason};
use crate::limits::CHANGED_CELLS_MAX;
use crate::state::call_index;
use crate::state::cell::{Cell, Space};
use crate::state::read_sets;
use crate::state::versions;
use crate::state::written::written_cells;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;

impl Core {
    /// Replaces the effects of the entry's last run by those of the new one, and marks as due the runs that read what
    /// changed.
    pub(crate) fn install(
        &mut self,
        lane: Lane,
        slot: Slot,
        local: LocalSeq,
        mut effects: Effects,
    ) -> Result<(), StorageError> {
        if lane == Lane::System {
            self.answers.lane_changed();
        }
        let half = usize::from(lane.number());
        let meta = dag::meta(&self.rows, local)?;
        let id = meta.id;
        let entry_author = self.cache.branch(&self.rows, meta.branch)?.author;
        let set = match lane {
            Lane::App => read_sets::number_of(&mut self.rows, &entry_author, &effects.host)?,
            Lane::System => {
                let host = std::mem::take(&mut effects.host);
                effects.reads.merge(&host);
                None
            }
        };
        let mut row = OrderRow::there(&self.rows, slot)?;
        let cause = match std::mem::take(&mut row.due[half]) {
            true => self.progress.due.done(lane, slot),
            false => None,
        };
        let old = row.runs[half].take();
        if old.is_none() && (local.0 != 0 || lane == Lane::System) {
            self.progress.roots.apply(&id);
        }
        let was_void = old.as_ref().is_some_and(|run| run.void);
        match (was_void, effects.void) {
            (false, true) => self.progress.void += 1,
            (true, false) => self.progress.void = self.progress.void.saturating_sub(1),
            _ => {}
        }
        self.note_quota(&entry_author, &meta, local, effects.void)?;
        // A genesis runs in both lanes and has an outcome in each, so the app lane's outcome has index 1.
        let first = self.first_index(lane, local);
        let old_outcomes = old.as_ref().map_or(&[][..], |r| &r.outcomes);
        if old_outcomes != effects.outcomes {
            for (index, outcome) in (first..).zip(old_outcomes) {
                self.progress.roots.outcome(&id, index, outcome, false);
            }
            for (index, outcome) in (first..).zip(&effects.outcomes) {
                self.progress.roots.outcome(&id, index, outcome, true);
            }
        }
        if let Some(old) = &old {
            let (cells, ranges) = (&old.reads, &old.ranges);
            versions::remove_marks(&mut self.rows, (lane, slot), cells, ranges, &old.writes);
        }
        versions::put_marks(
            &mut self.rows,
            &mut self.progress.lengths,
            (lane, slot),
            &effects.reads,
            &effects.writes,
        );
        let last = &mut self.progress.last_run[half];
        *last = slot.max(*last);
        let mut changed = Vec::new();
        let at = (slot, local);
        let written = written_cells(lane, &entry_author);
        let counted_before = old.as_ref().is_some_and(|run| run.counted);
        let before = old.iter().flat_map(|r| &r.writes);
        let counted_cells = written.iter().filter(|_| counted_before);
        for cell in before.chain(counted_cells) {
            if !effects.writes.contains_key(cell)
                && versions::set(&mut self.rows, &mut self.progress.roots, cell, at, None)?
            {
                changed.push(cell.clone());
            }
        }
        for (cell, op) in &effects.writes {
            if versions::set(&mut self.rows, &mut self.progress.roots, cell, at, Some(op))? {
                changed.push(cell.clone());
            }
        }
        let counted = old.as_ref().map_or(0, |r| r.calls);
        self.index_calls(lane, &id, local, counted, &effects.calls, &mut changed)?;
        let author = cause.unwrap_or(entry_author);
        if old.is_some() {
            *Arc::make_mut(&mut self.replays).entry(author).or_default() += 1;
        }
        let mut counted = false;
        for cell in &written {
            counted |= effects.writes.remove(cell).is_some();
        }
        row.runs[half] = Some(Record {
            void: effects.void,
            counted,
            calls: u32::try_from(effects.calls.len()).expect("calls of a body are bounded"),
            outcomes: effects.outcomes,
            set,
            reads: effects.reads.cells.into_keys().collect(),
            ranges: effects.reads.ranges.into_iter().collect(),
            writes: effects.writes.into_keys().collect(),
        });
        row.store(&mut self.rows, slot);
        for cell in changed {
            self.note_change(&cell, slot, author)?;
        }
        let outcomes = row.runs[half].take().map_or_else(Vec::new, |r| r.outcomes);
        self.notice_changed_outcomes(&id, local, &outcomes)
    }

    /// Brings the index of calls up to date with an entry. All of its calls count, or none: `counted` of them stand
    /// in the index, and `calls` shall.
    fn index_calls(
        &mut self,
        lane: Lane,
        id: &IntentionId,
        local: LocalSeq,
        counted: u32,
        calls: &[CallId],
        changed: &mut Vec<Cell>,
    ) -> Result<(), StorageError> {
        if counted as usize == calls.len() {
            return Ok(());
        }
        for call in calls {
            call_index::put(&mut self.rows, lane, *call, local);
            changed.push(call_index::cell(lane, *call, id));
        }
        if calls.is_empty() {
            let stored = self.stored(local)?;
            for call in calls_of(lane, &stored.header, counted) {
                call_index::remove(&mut self.rows, lane, call, local);
                changed.push(call_index::cell(lane, call, id));
            }
        }
        Ok(())
    }

    /// Notes whether an entry that has run is above its author's quota, unless it is cut off.
    fn note_quota(
        &mut self,
        author: &DeviceKey,
        meta: &Meta,
        local: LocalSeq,
        is_void: bool,
    ) -> Result<(), StorageError> {
        if local.0 == 0 || !(is_void || self.cache.any_void) {
            return Ok(());
        }
        let known = void::reason(&self.rows, &meta.id)?;
        let reason = is_void.then_some(Reason::OverQuota);
        if known == Some(Reason::CutOff) || known == reason {
            return Ok(());
        }
        if void::set(&mut self.rows, author, meta, reason)? {
            self.fingerprints.judged(meta.position(), is_void);
        }
        self.cache.any_void |= is_void;
        self.cache.live_heads.forget();
        Ok(())
    }

    fn first_index(&self, lane: Lane, local: LocalSeq) -> u32 {
        u32::from(local.0 == 0 && lane == Lane::App)
    }

    /// Notes the change of a cell for watches and cuts, and marks its readers as due. `by` is the author whose entry
    /// caused the change: of the entry that ran, or of the one that made it run again.
    fn note_change(&mut self, cell: &Cell, slot: Slot, by: DeviceKey) -> Result<(), StorageError> {
        if cell.lane() == Lane::System && cell.space() != Space::Written {
            self.cuts_are_due(cell);
        }
        if matches!(cell.space(), Space::Written | Space::Called) {
            // No query reads cells of these spaces, so no watch needs to hear of them.
        } else if self.changes.cells.len() < CHANGED_CELLS_MAX {
            self.changes.cells.push(cell.clone());
        } else {
            self.changes.cells.clear();
            self.changes.all = true;
        }
        let nobody_above = match cell.lane() {
            Lane::System => slot >= self.progress.last_run[0] && slot >= self.progress.last_run[1],
            Lane::App => slot >= self.progress.last_run[1],
        };
        if nobody_above {
            return Ok(());
        }
        for (lane, reader) in self.stale_readers(cell, slot)? {
            self.progress
                .due
                .set_again(&mut self.rows, lane, reader, by)?;
        }
        Ok(())
    }

    fn stale_readers(&self, cell: &Cell, slot: Slot) -> Result<Vec<(Lane, Slot)>, StorageError> {
        let found = versions::stale_readers(&self.rows, &self.progress.lengths, cell, slot)?;
        let (mut stale, next) = (found.readers, found.next);
        if let Some(next) = next
            && let Some(writer) = Record::load(&self.rows, cell.lane(), next)?
            && writer.reads.binary_search(cell).is_ok()
        {
            // It read the cell before it wrote it, and what it saw is what has changed.
            stale.push((cell.lane(), next));
        }
        let until = versions::end_of_readers(next);
        read_sets::stale_readers(
            &self.rows,
            cell,
            (slot.just_above(), until),
            |at| versions::mark_at(&self.rows, cell, at),
            |at| stale.push((Lane::App, at)),
            record::set_at,
        )?;
        Ok(stale)
    }
}

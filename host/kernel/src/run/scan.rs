//! Scans of a run: base rows and own writes as one sequence, and the mark of the interval that was examined.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::limits::{PAGE_BYTES_MAX, TRANSACTION_WRITE_BYTES_MAX};
use crate::mutant::{self, Mutant};
use crate::run::{Deleted, Numbers, Run, RunFault, check_key};
use crate::state::cell::{Cell, Op, Space, ValueMark};
use crate::state::live::{self, Span};
use crate::state::reads::{Page, Range};
use crate::storage::rows::prefix_end;

impl Run {
    /// `state.scan`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn scan(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        reverse: bool,
    ) -> Result<Page, RunFault> {
        self.page(start, end, limit, reverse, true)
    }

    /// `state.scan-keys`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn scan_keys(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        reverse: bool,
    ) -> Result<Page, RunFault> {
        self.page(start, end, limit, reverse, false)
    }

    fn page(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        reverse: bool,
        values: bool,
    ) -> Result<Page, RunFault> {
        check_key(start)?;
        if let Some(end) = end {
            check_key(end)?;
        }
        let mut page = Page::default();
        let mut bytes = 0;
        let mut last: Option<Vec<u8>> = None;
        page.walked = self.merged(start, end, reverse, |key, value| {
            let size = key.len() + if values { value.len() } else { 0 };
            let full = page.rows.len() as u64 >= u64::from(limit)
                || (!page.rows.is_empty() && bytes + size > PAGE_BYTES_MAX);
            last = Some(key.to_vec());
            if full {
                page.more = true;
                return ControlFlow::Break(());
            }
            bytes += size;
            let value = if values { value } else { Arc::from([]) };
            page.rows.push((key.to_vec(), value));
            ControlFlow::Continue(())
        })?;
        if mutant::active(Mutant::ScanGapsUntracked) {
            for (key, _) in &page.rows {
                let cell = Cell::new(self.lane, Space::Bytes, key);
                let value = live::bytes_at(&self.rows, &cell, self.at)?;
                self.reads
                    .cells
                    .insert(cell, ValueMark::of_bytes(value.as_deref()));
            }
            return Ok(page);
        }
        self.mark_examined(
            Space::Bytes,
            start,
            end,
            reverse,
            page.more.then_some(last).flatten(),
        )?;
        Ok(page)
    }

    /// Marks the interval up to the row that ended a scan, that row included, or the whole interval when no row did.
    fn mark_examined(
        &mut self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        stopped_at: Option<Vec<u8>>,
    ) -> Result<(), RunFault> {
        let cell = |key: &[u8]| Cell::new(self.lane, space, key).as_bytes().to_vec();
        let mut range = Range {
            start: cell(start),
            end: match end {
                Some(end) => cell(end),
                None => prefix_end(&cell(b"")).expect("a lane and a space are below 255"),
            },
        };
        if let Some(key) = stopped_at {
            if reverse {
                range.start = cell(&key);
            } else {
                range.end = cell(&key);
                range.end.push(0);
            }
        }
        let len = range.start.len() + range.end.len();
        if self.reads.add_range(range) {
            self.count_read(len)?;
        }
        Ok(())
    }

    /// Visits base rows and own writes as one sequence. The caller marks what was examined. Returns how many rows it
    /// walked, own deletions included.
    fn merged(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        mut visit: impl FnMut(&[u8], Arc<[u8]>) -> ControlFlow<()>,
    ) -> Result<u64, RunFault> {
        if end.is_some_and(|end| start >= end) {
            return Ok(0);
        }
        let mut walked = 0;
        let (own, own_end) = self.own_range(Space::Bytes, start, end);
        let mut own = self.own.range((own, own_end));
        let mut step = || {
            if reverse { own.next_back() } else { own.next() }
        };
        let mut next_own = step();
        let mut stopped = false;
        let mut emit = |cell: &Cell, op: &Op| {
            walked += 1;
            match op {
                Op::Put(bytes) => visit(cell.key(), bytes.clone()),
                _ => ControlFlow::Continue(()),
            }
        };
        let span = Span {
            lane: self.lane,
            space: Space::Bytes,
            start,
            end,
            reverse,
        };
        live::scan_bytes_at(&self.rows, span, self.at, &self.memo, |key, value| {
            let cell = Cell::new(self.lane, Space::Bytes, key);
            while let Some((own_cell, op)) = next_own {
                let order = own_cell.cmp(&cell);
                let order = if reverse { order.reverse() } else { order };
                if order.is_gt() {
                    break;
                }
                if emit(own_cell, op).is_break() {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                next_own = step();
                if order.is_eq() {
                    return ControlFlow::Continue(());
                }
            }
            let flow = emit(&cell, &Op::Put(value));
            stopped = flow.is_break();
            flow
        })?;
        while let (false, Some((cell, op))) = (stopped, next_own) {
            stopped = emit(cell, op).is_break();
            next_own = step();
        }
        Ok(walked)
    }

    fn own_range(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> (Bound<Cell>, Bound<Cell>) {
        let start = Bound::Included(Cell::new(self.lane, space, start));
        let end = match end {
            Some(end) => Bound::Excluded(Cell::new(self.lane, space, end)),
            None => prefix_end(Cell::new(self.lane, space, b"").as_bytes())
                .and_then(|end| Cell::from_slice(&end))
                .map_or(Bound::Unbounded, Bound::Excluded),
        };
        (start, end)
    }

    /// `state.delete-range`: deletes every row of the interval, which is a scan of the interval too.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Result<Deleted, RunFault> {
        self.command_place()?;
        check_key(start)?;
        check_key(end)?;
        let mut keys = Vec::new();
        let mut bytes = 0;
        let walked = self.merged(start, Some(end), false, |key, _| {
            keys.push(key.to_vec());
            bytes += key.len();
            // So many cannot be deleted, so the rest need not be looked at.
            match bytes > TRANSACTION_WRITE_BYTES_MAX {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        self.mark_examined(Space::Bytes, start, Some(end), false, None)?;
        let rows = keys.len() as u64;
        for key in keys {
            self.write(Cell::new(self.lane, Space::Bytes, &key), Op::Delete)?;
        }
        Ok(Deleted { rows, walked })
    }

    /// `state.scan-numbers`: numbers that are not 0, ascending.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn scan_numbers(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
    ) -> Result<Numbers, RunFault> {
        check_key(start)?;
        if let Some(end) = end {
            check_key(end)?;
        }
        let limit = limit as usize;
        let mut page = Numbers::default();
        if limit == 0 || end.is_some_and(|end| start >= end) {
            return Ok(page);
        }
        let (from, to) = self.own_range(Space::Numbers, start, end);
        let mut own: Vec<(Vec<u8>, i64)> = self
            .own
            .range((from, to))
            .filter_map(|(cell, op)| match op {
                Op::Add(by) => Some((cell.key().to_vec(), *by)),
                _ => None,
            })
            .collect();
        // They were all gathered, whether the page needs them or not.
        page.walked += own.len() as u64;
        own.reverse();
        // `state.scan` bounds a page by bytes. Here a number counts for 16 bytes, and a page has no more of them.
        let rows_max = limit.min(PAGE_BYTES_MAX / 16);
        let mut stopped = None;
        let mut emit = |key: &[u8], number: i64| {
            page.walked += 1;
            if number != 0 {
                page.rows.push((key.to_vec(), number));
            }
            if page.rows.len() == rows_max {
                stopped = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let mut ended = false;
        let span = Span {
            lane: self.lane,
            space: Space::Numbers,
            start,
            end,
            reverse: false,
        };
        live::scan_numbers_at(&self.rows, span, self.at, &self.memo, |key, base| {
            while let Some((own_key, by)) = own.last() {
                match own_key.as_slice().cmp(key) {
                    std::cmp::Ordering::Greater => break,
                    std::cmp::Ordering::Equal => {
                        let flow = emit(key, base.wrapping_add(*by));
                        own.pop();
                        ended = flow.is_break();
                        return flow;
                    }
                    std::cmp::Ordering::Less => {
                        let flow = emit(own_key, *by);
                        own.pop();
                        if flow.is_break() {
                            ended = true;
                            return flow;
                        }
                    }
                }
            }
            let flow = emit(key, base);
            ended = flow.is_break();
            flow
        })?;
        while let (false, Some((key, by))) = (ended, own.pop()) {
            ended = emit(&key, by).is_break();
        }
        self.mark_examined(Space::Numbers, start, end, false, stopped)?;
        Ok(page)
    }
}

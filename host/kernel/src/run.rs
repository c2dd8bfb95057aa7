//! One execution: what it reads, what it writes, and where it stands.
//!
//! A run owns a consistent view of the state below its position and keeps its writes to itself.
//! Every base value that influences it is marked: absent keys, the whole interval that a scan
//! examined, numbers read. Refused and trapped transactions keep their marks and lose their
//! writes. Over-wide marks are safe, narrow ones never.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use lattice_format::{
    BlobId, CallId, DeviceKey, Header, IntentionId, Lane, Position, StoreId, Time,
};

use crate::cell::{Cell, Op, Space, ValueMark};
use crate::dag;
use crate::engine::HostFault;
use crate::kv::{KvView, StorageError};
use crate::limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX, TRANSACTION_WRITE_BYTES_MAX, VALUE_BYTES_MAX};
use crate::mutant::{self, Mutant};
use crate::outcome::TrapKind;
use crate::state;

/// Why a host function did not return.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunFault {
    /// The guest traps.
    #[error("the guest trapped ({0})")]
    Trap(TrapKind),
    /// This host failed; the call has no outcome.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl From<StorageError> for RunFault {
    fn from(error: StorageError) -> Self {
        Self::Host(HostFault::Storage(error.0))
    }
}

/// What `context.current` tells a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentEntry {
    /// Identity of the call.
    pub id: CallId,
    /// The device that made it.
    pub author: DeviceKey,
    /// Time of its intention.
    pub time: Time,
    /// Its place in the intention.
    pub index: u32,
}

/// A page of scanned rows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys and values; values are empty in [`Run::scan_keys`].
    pub rows: Vec<(Vec<u8>, Arc<[u8]>)>,
    /// Whether another row follows in the direction of the scan.
    pub more: bool,
}

/// A half-open interval of cells that a run examined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// First cell, encoded.
    pub start: Vec<u8>,
    /// End, encoded, exclusive.
    pub end: Vec<u8>,
}

/// Everything that a run read of the state below it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reads {
    /// Cells and what was seen in them.
    pub cells: BTreeMap<Cell, ValueMark>,
    /// Intervals examined.
    pub ranges: Vec<Range>,
}

impl Reads {
    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Reads) {
        for (cell, mark) in &other.cells {
            self.cells.entry(cell.clone()).or_insert(*mark);
        }
        for range in &other.ranges {
            self.add_range(range.clone());
        }
    }

    /// Whether a change of `cell` touches anything read.
    pub fn touches(&self, cell: &Cell) -> bool {
        self.cells.contains_key(cell)
            || self
                .ranges
                .iter()
                .any(|r| *r.start <= *cell.as_bytes() && *cell.as_bytes() < *r.end)
    }

    fn add_range(&mut self, range: Range) {
        if range.start < range.end && !self.ranges.contains(&range) {
            self.ranges.push(range);
        }
    }
}

/// What a command knows of its place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The header as far as it is fixed before the run.
    pub(crate) header: Arc<Header>,
    /// What the header names.
    pub(crate) names: Vec<IntentionId>,
    /// Index, in the intention, of the call that runs.
    pub(crate) index: u32,
}

#[derive(Clone, Debug)]
enum Mode {
    Command(Place),
    Query { time: Time },
}

/// One execution of an intention or a query.
#[derive(Debug)]
pub struct Run {
    kv: KvView,
    store: Option<StoreId>,
    lane: Lane,
    at: Position,
    mode: Mode,
    own: BTreeMap<Cell, Op>,
    /// What `own` held before each write of the transaction that runs.
    journal: Vec<(Cell, Option<Op>)>,
    transaction_bytes: usize,
    reads: Reads,
    /// Set when a query asks for the time: its result then changes with every entry.
    clock_read: bool,
    call_seed: [u8; 32],
}

impl Run {
    /// A run of an intention's calls. `store` is `None` in a genesis.
    pub(crate) fn command(
        kv: KvView,
        store: Option<StoreId>,
        lane: Lane,
        at: Position,
        place: Place,
    ) -> Self {
        Self::new(kv, store, lane, at, Mode::Command(place))
    }

    /// A run of a query at `at`, with the clock at `time`.
    pub(crate) fn query(
        kv: KvView,
        store: Option<StoreId>,
        lane: Lane,
        at: Position,
        time: Time,
    ) -> Self {
        Self::new(kv, store, lane, at, Mode::Query { time })
    }

    fn new(kv: KvView, store: Option<StoreId>, lane: Lane, at: Position, mode: Mode) -> Self {
        Self {
            kv,
            store,
            lane,
            at,
            mode,
            own: BTreeMap::new(),
            journal: Vec::new(),
            transaction_bytes: 0,
            reads: Reads::default(),
            clock_read: false,
            call_seed: [0; 32],
        }
    }

    /// A query over the state as this run would leave it, its own writes included.
    pub(crate) fn query_over(&self) -> Self {
        let mut query = Self::query(
            self.kv.clone(),
            self.store,
            self.lane,
            self.at,
            Time::default(),
        );
        query.own = self.own.clone();
        query
    }

    /// Whether this is a query: it cannot write, and knows no current entry.
    pub fn is_query(&self) -> bool {
        matches!(self.mode, Mode::Query { .. })
    }

    fn command_place(&self) -> Result<&Place, RunFault> {
        match &self.mode {
            Mode::Command(place) => Ok(place),
            Mode::Query { .. } => Err(RunFault::Trap(TrapKind::Misuse)),
        }
    }

    // --- what the host functions of lattice:store do ---------------------------------------------

    /// `state.get`.
    ///
    /// # Errors
    /// As all host functions: a trap of the guest, or a fault of this host.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Arc<[u8]>>, RunFault> {
        check_key(key)?;
        self.bytes(Cell::new(self.lane, Space::Bytes, key))
    }

    fn bytes(&mut self, cell: Cell) -> Result<Option<Arc<[u8]>>, RunFault> {
        match self.own.get(&cell) {
            Some(Op::Put(bytes)) => return Ok(Some(bytes.clone())),
            Some(_) => return Ok(None),
            None => {}
        }
        let value = state::bytes_at(&self.kv, &cell, self.at)?;
        if value.is_some() || !mutant::active(Mutant::AbsentKeysUntracked) {
            self.reads
                .cells
                .entry(cell)
                .or_insert_with(|| ValueMark::of_bytes(value.as_deref()));
        }
        Ok(value)
    }

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
        self.merged(start, end, reverse, |key, value| {
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
                let value = state::bytes_at(&self.kv, &cell, self.at)?;
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
        );
        Ok(page)
    }

    /// Marks the interval up to the row that ended a scan, or all of it when none did.
    fn mark_examined(
        &mut self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        stopped_at: Option<Vec<u8>>,
    ) {
        let cell = |key: &[u8]| Cell::new(self.lane, space, key).as_bytes().to_vec();
        let mut range = Range {
            start: cell(start),
            end: match end {
                Some(end) => cell(end),
                None => {
                    crate::kv::prefix_end(&cell(b"")).expect("a lane and a space are below 255")
                }
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
        self.reads.add_range(range);
    }

    /// Visits base rows and own writes as one sequence, without marking anything.
    fn merged(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        mut visit: impl FnMut(&[u8], Arc<[u8]>) -> ControlFlow<()>,
    ) -> Result<(), RunFault> {
        if end.is_some_and(|end| start >= end) {
            return Ok(());
        }
        let (own, own_end) = self.own_range(Space::Bytes, start, end);
        let mut own = self.own.range((own, own_end));
        let mut step = || {
            if reverse { own.next_back() } else { own.next() }
        };
        let mut next_own = step();
        let mut stopped = false;
        let mut emit = |cell: &Cell, op: &Op| match op {
            Op::Put(bytes) => visit(cell.key(), bytes.clone()),
            _ => ControlFlow::Continue(()),
        };
        state::scan_bytes_at(
            &self.kv,
            self.lane,
            Space::Bytes,
            start,
            end,
            self.at,
            reverse,
            |key, value| {
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
            },
        )?;
        while let (false, Some((cell, op))) = (stopped, next_own) {
            stopped = emit(cell, op).is_break();
            next_own = step();
        }
        Ok(())
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
            None => crate::kv::prefix_end(Cell::new(self.lane, space, b"").as_bytes())
                .and_then(|end| Cell::from_slice(&end))
                .map_or(Bound::Unbounded, Bound::Excluded),
        };
        (start, end)
    }

    /// `state.put`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), RunFault> {
        self.command_place()?;
        check_key(key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(RunFault::Trap(TrapKind::Limit));
        }
        self.write(
            Cell::new(self.lane, Space::Bytes, key),
            Op::Put(value.into()),
        )
    }

    /// `state.delete`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn delete(&mut self, key: &[u8]) -> Result<(), RunFault> {
        self.command_place()?;
        check_key(key)?;
        self.write(Cell::new(self.lane, Space::Bytes, key), Op::Delete)
    }

    /// `state.delete-range`: deletes every row that it finds, and so counts as a scan of them all.
    /// Returns how many rows it deleted, for the charge.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Result<u64, RunFault> {
        self.command_place()?;
        check_key(start)?;
        check_key(end)?;
        let mut keys = Vec::new();
        self.merged(start, Some(end), false, |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        self.mark_examined(Space::Bytes, start, Some(end), false, None);
        let count = keys.len() as u64;
        for key in keys {
            self.write(Cell::new(self.lane, Space::Bytes, &key), Op::Delete)?;
        }
        Ok(count)
    }

    /// `state.add`: neither a read nor an absolute write.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn add(&mut self, key: &[u8], by: i64) -> Result<(), RunFault> {
        self.command_place()?;
        check_key(key)?;
        let cell = Cell::new(self.lane, Space::Numbers, key);
        let before = match self.own.get(&cell) {
            Some(Op::Add(before)) => *before,
            _ => 0,
        };
        self.write(cell, Op::Add(before.wrapping_add(by)))
    }

    /// `state.number`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn number(&mut self, key: &[u8]) -> Result<i64, RunFault> {
        check_key(key)?;
        let cell = Cell::new(self.lane, Space::Numbers, key);
        let base = state::number_at(&self.kv, &cell, self.at)?;
        let own = match self.own.get(&cell) {
            Some(Op::Add(own)) => *own,
            _ => 0,
        };
        self.reads
            .cells
            .entry(cell)
            .or_insert_with(|| ValueMark::of_number(base));
        Ok(base.wrapping_add(own))
    }

    /// `state.scan-numbers`: those that are not 0, ascending.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn scan_numbers(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
    ) -> Result<Vec<(Vec<u8>, i64)>, RunFault> {
        check_key(start)?;
        if let Some(end) = end {
            check_key(end)?;
        }
        let limit = limit as usize;
        let mut rows: Vec<(Vec<u8>, i64)> = Vec::new();
        if limit == 0 || end.is_some_and(|end| start >= end) {
            return Ok(rows);
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
        own.reverse();
        // A page ends as one of `scan` does.
        let rows_max = limit.min(PAGE_BYTES_MAX / 16);
        let mut stopped = None;
        let mut emit = |key: &[u8], number: i64| {
            if number != 0 {
                rows.push((key.to_vec(), number));
            }
            if rows.len() == rows_max {
                stopped = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let mut ended = false;
        state::scan_numbers_at(&self.kv, self.lane, start, end, self.at, |key, base| {
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
        self.mark_examined(Space::Numbers, start, end, false, stopped);
        Ok(rows)
    }

    /// `blobs.pin`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn pin(&mut self, owner: &[u8], blob: BlobId) -> Result<(), RunFault> {
        self.command_place()?;
        let cell = self.pin_cell(owner, blob)?;
        self.write(cell, Op::Put(Arc::from([])))
    }

    /// `blobs.unpin`.
    ///
    /// # Errors
    /// See [`Run::get`].
    pub fn unpin(&mut self, owner: &[u8], blob: BlobId) -> Result<(), RunFault> {
        self.command_place()?;
        let cell = self.pin_cell(owner, blob)?;
        self.write(cell, Op::Delete)
    }

    fn pin_cell(&self, owner: &[u8], blob: BlobId) -> Result<Cell, RunFault> {
        check_key(owner)?;
        let mut key = owner.to_vec();
        key.extend_from_slice(&blob.0);
        Ok(Cell::new(self.lane, Space::Pins, &key))
    }

    /// `context.current`.
    ///
    /// # Errors
    /// Traps in a query.
    pub fn current(&self) -> Result<CurrentEntry, RunFault> {
        let place = self.command_place()?;
        Ok(CurrentEntry {
            id: place.header.call_id(place.index),
            author: place.header.author,
            time: place.header.time,
            index: place.index,
        })
    }

    /// `context.observed`: whether the author had seen that call. Depends on the entry alone, so
    /// it is no read.
    ///
    /// # Errors
    /// Traps in a query.
    pub fn observed(&self, other: CallId) -> Result<bool, RunFault> {
        let place = self.command_place()?;
        if (0..place.index).any(|index| place.header.call_id(index) == other) {
            return Ok(true);
        }
        let Some(call) = dag::call(&self.kv, other)? else {
            return Ok(false);
        };
        for name in &place.names {
            if dag::in_past_or_same(&self.kv, call.local, *name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `context.store`.
    ///
    /// # Errors
    /// Traps in a genesis, whose id is the store's.
    pub fn store(&self) -> Result<StoreId, RunFault> {
        self.store.ok_or(RunFault::Trap(TrapKind::Misuse))
    }

    /// The time that virtual clocks show: the entry's; in a query that of the last applied entry,
    /// which counts as a read.
    pub fn clock(&mut self) -> Time {
        match &self.mode {
            Mode::Command(place) => place.header.time,
            Mode::Query { time } => {
                self.clock_read = true;
                *time
            }
        }
    }

    /// Seed of virtual randomness: the call's id in a command, and zeros in a query.
    pub fn random_seed(&self) -> [u8; 32] {
        self.call_seed
    }

    // --- what the kernel does with a run ----------------------------------------------------------

    /// Sets which call of the intention runs.
    pub(crate) fn begin_call(&mut self, index: u32) {
        if let Mode::Command(place) = &mut self.mode {
            place.index = index;
            self.call_seed = place.header.call_id(index).0;
        }
    }

    /// Starts a transaction: what it writes can be undone by [`Run::rollback`].
    pub(crate) fn begin_transaction(&mut self) {
        self.journal.clear();
        self.transaction_bytes = 0;
    }

    /// Undoes the writes of the transaction. Its reads stay.
    pub(crate) fn rollback(&mut self) {
        while let Some((cell, before)) = self.journal.pop() {
            match before {
                Some(op) => self.own.insert(cell, op),
                None => self.own.remove(&cell),
            };
        }
    }

    /// Whether the transaction wrote anything.
    pub(crate) fn transaction_wrote(&self) -> bool {
        !self.journal.is_empty()
    }

    /// The device whose calls these are; the reader itself in a query.
    pub(crate) fn author(&self) -> DeviceKey {
        match &self.mode {
            Mode::Command(place) => place.header.author,
            Mode::Query { .. } => DeviceKey([0; 32]),
        }
    }

    /// Puts back earlier reads; a mutant alone does that.
    pub(crate) fn forget_reads_since(&mut self, reads: Reads) {
        self.reads = reads;
    }

    /// Marks a read that the host made for this run.
    pub(crate) fn host_reads(&mut self, reads: &Reads) {
        self.reads.merge(reads);
    }

    /// Writes a row of the host's own.
    pub(crate) fn host_write(&mut self, cell: Cell, op: Op) {
        self.own.insert(cell, op);
    }

    /// Whether a query asked for the time.
    pub fn clock_was_read(&self) -> bool {
        self.clock_read
    }

    /// What it read so far.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Reads and writes, at the end.
    pub(crate) fn into_effects(self) -> (Reads, BTreeMap<Cell, Op>) {
        (self.reads, self.own)
    }

    fn write(&mut self, cell: Cell, op: Op) -> Result<(), RunFault> {
        self.transaction_bytes += cell.as_bytes().len()
            + match &op {
                Op::Put(bytes) => bytes.len(),
                _ => 8,
            };
        if self.transaction_bytes > TRANSACTION_WRITE_BYTES_MAX {
            return Err(RunFault::Trap(TrapKind::Limit));
        }
        let before = self.own.insert(cell.clone(), op);
        self.journal.push((cell, before));
        Ok(())
    }
}

fn check_key(key: &[u8]) -> Result<(), RunFault> {
    if key.len() > KEY_BYTES_MAX {
        return Err(RunFault::Trap(TrapKind::Limit));
    }
    Ok(())
}

//! One execution: its reads, its writes, and its place in the order.
//!
//! A run owns a consistent view of the state below its position and keeps its writes to itself. Every base value that
//! influences the run is marked: values, absent keys, numbers, and the whole interval that a scan examined. Refused
//! and trapped transactions keep their marks and lose their writes. A mark that is too wide only costs a run that
//! need not be repeated. A mark that is too narrow lets replicas diverge.

pub mod engine;
mod scan;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{BlobId, CallId, DeviceKey, Header, IntentionId, Lane, StoreId, Time};

use crate::graph::dag;
use crate::graph::slot::Slot;
use crate::limits::{
    INTENTION_WRITE_BYTES_MAX, KEY_BYTES_MAX, READ_BYTES_MAX, READ_MARK_BYTES,
    TRANSACTION_WRITE_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::mutant::{self, Mutant};
use crate::outcome::TrapKind;
use crate::run::engine::HostFault;
use crate::state::call_index;
use crate::state::cell::{Cell, Op, Space, ValueMark};
use crate::state::live;
pub use crate::state::reads::{Deleted, Numbers, Page, Range, Reads};
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;

/// Why a host function did not return.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunFault {
    /// The guest trapped.
    #[error("the guest trapped ({0})")]
    Trap(TrapKind),
    /// This host failed, so the call has no outcome.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl From<StorageError> for RunFault {
    fn from(error: StorageError) -> Self {
        Self::Host(HostFault::Storage(error))
    }
}

/// What `context.current` tells a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentEntry {
    /// The id of the call.
    pub id: CallId,
    /// The device that made the call.
    pub author: DeviceKey,
    /// The time of the call's intention.
    pub time: Time,
    /// The call's index in its intention.
    pub index: u32,
}

/// What a command knows of its own call: the intention around it, and its index there.
#[derive(Clone, Debug)]
pub(crate) struct CallPlace {
    /// The header, of which only what is fixed before the run may be read.
    pub(crate) header: Arc<Header>,
    /// The entries that the header names.
    pub(crate) names: Vec<IntentionId>,
    /// Index, in the intention, of the call that runs.
    pub(crate) index: u32,
}

#[derive(Clone, Debug)]
enum Mode {
    Command(CallPlace),
    Query { time: Time },
}

/// One execution of an intention or a query.
#[derive(Debug)]
pub struct Run {
    pub(crate) rows: RowsView,
    /// What its scans found out about `rows` at `at`.
    memo: live::Memo,
    store: Option<StoreId>,
    pub(crate) lane: Lane,
    pub(crate) at: Slot,
    mode: Mode,
    pub(crate) own: BTreeMap<Cell, Op>,
    /// What `own` held before each write of the current transaction, for [`Run::rollback`].
    journal: Vec<(Cell, Option<Op>)>,
    transaction_bytes: usize,
    /// The bytes that all transactions wrote, undone writes included.
    intention_bytes: usize,
    wrote_too_much: bool,
    pub(crate) reads: Reads,
    /// What the host read before the run could begin. These reads stand apart, because they do not count towards the
    /// guest's bound, and many runs share them.
    host: Reads,
    read_bytes: usize,
    /// The answers of [`Run::observed`] so far.
    observed: BTreeMap<CallId, bool>,
    /// Whether a query asked for the time. Its result then changes with every entry.
    clock_read: bool,
    call_seed: [u8; 32],
}

impl Run {
    /// A run of an intention's calls. `store` is `None` in a genesis.
    pub(crate) fn command(
        rows: RowsView,
        store: Option<StoreId>,
        lane: Lane,
        at: Slot,
        place: CallPlace,
    ) -> Self {
        Self::new(rows, store, lane, at, Mode::Command(place))
    }

    /// A run of a query at `at`, with the clock at `time`.
    pub(crate) fn query(
        rows: RowsView,
        store: Option<StoreId>,
        lane: Lane,
        at: Slot,
        time: Time,
    ) -> Self {
        Self::new(rows, store, lane, at, Mode::Query { time })
    }

    fn new(rows: RowsView, store: Option<StoreId>, lane: Lane, at: Slot, mode: Mode) -> Self {
        Self {
            rows,
            memo: live::Memo::default(),
            store,
            lane,
            at,
            mode,
            own: BTreeMap::new(),
            journal: Vec::new(),
            transaction_bytes: 0,
            intention_bytes: 0,
            wrote_too_much: false,
            reads: Reads::default(),
            host: Reads::default(),
            read_bytes: 0,
            observed: BTreeMap::new(),
            clock_read: false,
            call_seed: [0; 32],
        }
    }

    /// A query over the state as this run would leave it, its own writes included.
    pub(crate) fn query_over(&self) -> Self {
        let mut query = Self::query(
            self.rows.clone(),
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

    pub(crate) fn command_place(&self) -> Result<&CallPlace, RunFault> {
        match &self.mode {
            Mode::Command(place) => Ok(place),
            Mode::Query { .. } => Err(RunFault::Trap(TrapKind::Misuse)),
        }
    }

    // --- what the host functions of lattice:store do ---------------------------------------------

    /// `state.get`.
    ///
    /// # Errors
    /// A trap of the guest, or a fault of this host, as with all host functions.
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
        let value = live::bytes_at(&self.rows, &cell, self.at)?;
        if value.is_some() || !mutant::active(Mutant::AbsentKeysUntracked) {
            self.mark_cell(cell, ValueMark::of_bytes(value.as_deref()))?;
        }
        Ok(value)
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
        let base = live::number_at(&self.rows, &cell, self.at)?;
        let own = match self.own.get(&cell) {
            Some(Op::Add(own)) => *own,
            _ => 0,
        };
        self.mark_cell(cell, ValueMark::of_number(base))?;
        Ok(base.wrapping_add(own))
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

    /// `context.observed`: whether the author had seen the call `other`, in an entry that counts. Nobody observes the
    /// calls of void entries. Whether an entry is void may change, so the answer is a read.
    ///
    /// # Errors
    /// See [`Run::get`]; traps in a query.
    pub fn observed(&mut self, other: CallId) -> Result<bool, RunFault> {
        let place = self.command_place()?;
        if (0..place.index).any(|index| place.header.call_id(index) == other) {
            return Ok(true);
        }
        if let Some(known) = self.observed.get(&other) {
            return Ok(*known);
        }
        let found = self.find_observed(other)?;
        let observed = found.is_some();
        match found {
            _ if mutant::active(Mutant::ObservedCallsUntracked) => {}
            Some((cell, local)) => {
                self.reads.cells.insert(cell, call_index::present(local));
            }
            None => {
                for lane in observable(self.lane) {
                    self.reads.add_range(call_index::span(*lane, other));
                }
            }
        }
        self.observed.insert(other, observed);
        // Every answer costs the same, because the marks behind it may differ between replicas.
        self.count_read(2 * call_index::KEY_BYTES)?;
        Ok(observed)
    }

    /// An entry that holds the call, counts, and lies in the past of the run's entry, with the call's cell.
    fn find_observed(&self, other: CallId) -> Result<Option<(Cell, LocalSeq)>, RunFault> {
        let place = self.command_place()?;
        let mut found = None;
        for lane in observable(self.lane) {
            call_index::entries(&self.rows, *lane, other, self.at, |cell, local| {
                for name in &place.names {
                    if dag::in_past_or_same(&self.rows, local, *name)? {
                        found = Some((cell, local));
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// `context.store`.
    ///
    /// # Errors
    /// Traps in a genesis, whose id is the store's.
    pub fn store(&self) -> Result<StoreId, RunFault> {
        self.store.ok_or(RunFault::Trap(TrapKind::Misuse))
    }

    /// The time that virtual clocks show. A command sees the time of its entry. A query sees the time of the last
    /// applied entry, and that is a read.
    pub fn clock(&mut self) -> Time {
        match &self.mode {
            Mode::Command(place) => place.header.time,
            Mode::Query { time } => {
                self.clock_read = true;
                *time
            }
        }
    }

    /// The seed of virtual randomness: the call's id in a command, zeros in a query.
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

    /// Starts a transaction, whose writes [`Run::rollback`] can undo.
    pub(crate) fn begin_transaction(&mut self) {
        self.journal.clear();
        self.transaction_bytes = 0;
    }

    /// Undoes the writes of the transaction. Its reads stay, because the refusal or trap may depend on them.
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

    /// Whether the transactions together would have written more than those of an intention may.
    pub(crate) fn wrote_too_much(&self) -> bool {
        self.wrote_too_much
    }

    /// The device that made the calls. A query has no author, and gets a key of zeros.
    pub(crate) fn author(&self) -> DeviceKey {
        match &self.mode {
            Mode::Command(place) => place.header.author,
            Mode::Query { .. } => DeviceKey([0; 32]),
        }
    }

    /// Puts back the reads of an earlier moment. Only a mutant does so.
    pub(crate) fn forget_reads_since(&mut self, (reads, host): (Reads, Reads)) {
        self.reads = reads;
        self.host = host;
    }

    /// Marks reads that the host made for the run.
    pub(crate) fn host_reads(&mut self, reads: &Reads) {
        self.host.merge(reads);
    }

    /// Writes a row that the host keeps, past the guest's bound on written bytes.
    pub(crate) fn host_write(&mut self, cell: Cell, op: Op) {
        self.own.insert(cell, op);
    }

    /// Whether a query asked for the time.
    pub fn clock_was_read(&self) -> bool {
        self.clock_read
    }

    /// What the run read so far, and what the host read for it. Only a mutant asks.
    pub(crate) fn all_reads(&self) -> (Reads, Reads) {
        (self.reads.clone(), self.host.clone())
    }

    /// What the run read so far.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Ends the run: its reads, the reads that the host made for it before it began, and its writes.
    pub(crate) fn into_parts(self) -> (Reads, Reads, BTreeMap<Cell, Op>) {
        (self.reads, self.host, self.own)
    }

    /// Ends the run: all reads as one, and its writes.
    pub(crate) fn into_effects(self) -> (Reads, BTreeMap<Cell, Op>) {
        let mut reads = self.reads;
        reads.merge(&self.host);
        (reads, self.own)
    }

    fn mark_cell(&mut self, cell: Cell, mark: ValueMark) -> Result<(), RunFault> {
        let len = cell.as_bytes().len();
        if let Entry::Vacant(entry) = self.reads.cells.entry(cell) {
            entry.insert(mark);
            self.count_read(len)?;
        }
        Ok(())
    }

    /// Counts a new mark towards the guest's bound on marks.
    pub(crate) fn count_read(&mut self, key_bytes: usize) -> Result<(), RunFault> {
        self.read_bytes += key_bytes + READ_MARK_BYTES;
        if self.read_bytes > READ_BYTES_MAX {
            return Err(RunFault::Trap(TrapKind::Limit));
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, cell: Cell, op: Op) -> Result<(), RunFault> {
        let len = cell.as_bytes().len()
            + match &op {
                Op::Put(bytes) => bytes.len(),
                _ => 8,
            };
        self.wrote_too_much |= self.intention_bytes + len > INTENTION_WRITE_BYTES_MAX
            && !mutant::active(Mutant::IntentionUnbounded);
        if self.transaction_bytes + len > TRANSACTION_WRITE_BYTES_MAX || self.wrote_too_much {
            return Err(RunFault::Trap(TrapKind::Limit));
        }
        self.transaction_bytes += len;
        self.intention_bytes += len;
        let before = self.own.insert(cell.clone(), op);
        self.journal.push((cell, before));
        Ok(())
    }
}

/// The lanes whose calls a run may observe. The system lane is folded without the app lane, so governance observes
/// calls of its own lane alone.
fn observable(lane: Lane) -> &'static [Lane] {
    match lane {
        Lane::System => &[Lane::System],
        Lane::App => &[Lane::App, Lane::System],
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), RunFault> {
    if key.len() > KEY_BYTES_MAX {
        return Err(RunFault::Trap(TrapKind::Limit));
    }
    Ok(())
}

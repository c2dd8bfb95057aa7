//! The fold: running intentions in the canonical order, incrementally.
//!
//! The state is what comes out of running every entry from first to last. This file gets there
//! without starting over: entries that arrive late run once at their place, and of the later ones
//! only those run again that read something which is different now. `scratch.rs` does it the plain
//! way and is the judge in every test.

use std::collections::BTreeMap;
use std::sync::Arc;

use lattice_format::{
    Body, Call, ComponentId, DeviceKey, Genesis, Header, IntentionId, Lane, Param, Position,
    StoreId, Transaction,
};
use minicbor::Encoder;

use crate::fold::execution::{Execution, outcome_of};
use crate::fold::governance::Answers;
use crate::fold::quota;
use crate::fold::record::{self, Due, Record};
use crate::graph::dag::{self, LocalSeq};
use crate::graph::lookup_cache::LookupCache;
use crate::limits::CHANGED_CELLS_MAX;
use crate::log::notice::Notice;
use crate::log::{Log, Noticed, Stored};
use crate::mutant::{self, Mutant};
use crate::outcome::{HostRefusal, Outcome};
use crate::run::call_index;
use crate::run::engine::{CallKind, Engine, HostFault};
use crate::run::{Place, Reads, Run};
use crate::state::cell::{Cell, Op, Space};
use crate::state::live;
use crate::state::versions::{self, RangeLengths, Roots};
use crate::storage::rows::{Rows, StorageError};

/// What never changes about a store.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) id: StoreId,
    pub(crate) genesis: Genesis,
    pub(crate) position: Position,
}

/// What changed since somebody last looked.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Cells whose value changed.
    pub cells: Vec<Cell>,
    /// Entries that were witnessed.
    pub entries: Vec<IntentionId>,
    /// Too much changed to list: look at everything again.
    pub all: bool,
}

/// The derived state of a store, with what it takes to advance it.
pub(crate) struct Core {
    pub(crate) rows: Rows,
    pub(crate) log: Log,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) info: Arc<Info>,
    pub(crate) roots: Roots,
    pub(crate) answers: Answers,
    pub(crate) cache: LookupCache,
    pub(crate) lengths: RangeLengths,
    pub(crate) changes: Changes,
    pub(crate) due: Due,
    /// The last position of each lane where anything has run: above it nobody has read.
    pub(crate) last_run: [Position; 2],
    pub(crate) notices: Vec<Notice>,
    /// What the notices of this batch tell of.
    pub(crate) noticed: Noticed,
    /// Runs that were repeated since the store was opened, by the author of what came late.
    pub(crate) replays: Arc<BTreeMap<DeviceKey, u64>>,
    /// This device.
    pub(crate) me: DeviceKey,
    /// Why each lane waits, system first.
    pub(crate) paused: [Option<HostFault>; 2],
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({})", self.info.id)
    }
}

/// What one run did.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) void: bool,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) reads: Reads,
    pub(crate) writes: BTreeMap<Cell, Op>,
}

/// Why a run has no effects.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// This host cannot run it now: the lane waits.
    Fault(HostFault),
    /// This host's storage failed.
    Storage(StorageError),
}

impl From<StorageError> for Stopped {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<HostFault> for Stopped {
    fn from(fault: HostFault) -> Self {
        Self::Fault(fault)
    }
}

/// How far settling has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Runs that are still due.
    pub pending: u64,
    /// Runs done in this slice.
    pub runs: u64,
    /// Why the system lane waits, if it does.
    pub system_paused: Option<HostFault>,
    /// Why the app lane waits, if it does.
    pub app_paused: Option<HostFault>,
}

/// The host's row that names the code in effect of the app lane.
pub(crate) fn code_cell() -> Cell {
    Cell::new(Lane::App, Space::Host, b"code")
}

impl Core {
    /// The place of an entry in the log.
    pub(crate) fn local_of(&self, id: &IntentionId) -> Result<Option<LocalSeq>, StorageError> {
        self.cache.names.local_of(&self.rows, id)
    }

    /// Runs what is due, at most `max_runs` of it, governance first.
    pub(crate) fn settle(&mut self, max_runs: u64) -> Result<Settled, StorageError> {
        self.paused = [None, None];
        let mut runs = 0;
        let mut rounds = 0;
        loop {
            if !self.settle_lane(Lane::System, max_runs, &mut runs)? {
                break;
            }
            match self.refresh_cuts() {
                Ok(()) => {}
                Err(HostFault::Storage(error)) => return Err(StorageError(error)),
                Err(fault) => {
                    self.paused[0] = Some(fault);
                    break;
                }
            }
            if self.due.first(Lane::System).is_none() {
                break;
            }
            rounds += 1;
            let rounds_max = self.cut_rounds_max()?;
            if rounds > rounds_max {
                // A governance component whose cuts contradict each other: stop where every
                // replica stops, and say so.
                self.paused[0] = Some(HostFault::Unusable {
                    component: self.info.genesis.system.id,
                    reason: format!("its cuts did not settle in {rounds_max} rounds"),
                });
                break;
            }
        }
        if runs < max_runs && self.due.first(Lane::System).is_none() {
            self.settle_lane(Lane::App, max_runs, &mut runs)?;
        }
        let pending = self.due.count(Lane::System) + self.due.count(Lane::App);
        let [system_paused, app_paused] = self.paused.clone();
        Ok(Settled {
            pending,
            runs,
            system_paused,
            app_paused,
        })
    }

    /// Tells whether the lane has nothing due any more.
    fn settle_lane(
        &mut self,
        lane: Lane,
        max_runs: u64,
        runs: &mut u64,
    ) -> Result<bool, StorageError> {
        while let Some((position, local)) = self.due.first(lane) {
            if *runs >= max_runs {
                return Ok(false);
            }
            *runs += 1;
            match self.run_logged(lane, position, local) {
                Ok(effects) => self.install(lane, position, local, effects)?,
                Err(Stopped::Storage(error)) => return Err(error),
                Err(Stopped::Fault(HostFault::Storage(error))) => return Err(StorageError(error)),
                Err(Stopped::Fault(fault)) => {
                    self.paused[usize::from(lane.number())] = Some(fault);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Runs one half of a logged intention at its own position.
    fn run_logged(
        &mut self,
        lane: Lane,
        position: Position,
        local: LocalSeq,
    ) -> Result<Effects, Stopped> {
        if self.cache.any_cut && record::is_cut_off(&self.rows, &position.id)? {
            return Ok(Effects {
                void: true,
                ..Effects::default()
            });
        }
        let stored = self
            .log
            .entry(local)?
            .ok_or_else(|| StorageError(format!("log/ lacks entry {}", local.0)))?;
        let (within, judged) = match (lane, local.0) {
            (Lane::System, _) | (_, 0) => (true, Reads::default()),
            (Lane::App, _) => quota::judge(&self.rows, &stored.header, position)?,
        };
        if !within {
            return Ok(Effects {
                void: true,
                reads: judged,
                ..Effects::default()
            });
        }
        let mut effects = self.run_body(lane, position, local, &stored)?;
        effects.reads.merge(&judged);
        self.account(lane, position, &stored.header, local, &mut effects)?;
        let calls = call_count(stored.body.as_deref());
        call_index::add(&mut effects, lane, &stored.header, local, calls);
        Ok(effects)
    }

    fn run_body(
        &mut self,
        lane: Lane,
        position: Position,
        local: LocalSeq,
        stored: &Stored,
    ) -> Result<Effects, Stopped> {
        let Some(bytes) = &stored.body else {
            // Witnessed without its body: this node does not fold the lane.
            return Ok(Effects::default());
        };
        let Ok(body) = Body::decode(bytes) else {
            return Ok(Effects {
                outcomes: vec![malformed()],
                ..Effects::default()
            });
        };
        match (&body.genesis, local.0) {
            (Some(_), 0) => self.run_genesis(lane, position, stored),
            (None, 1..) => {
                self.compare_claim(lane, stored, &body)?;
                let place = place_of(&stored.header);
                let run = Run::command(self.rows.view(), Some(self.info.id), lane, position, place);
                self.run_transactions(lane, position, run, &body.transactions)
            }
            // A genesis that is not the first entry, or a first entry that is none.
            _ => Ok(Effects {
                outcomes: vec![malformed()],
                ..Effects::default()
            }),
        }
    }

    /// The two halves of a genesis run `init` of the two components.
    pub(crate) fn run_genesis(
        &mut self,
        lane: Lane,
        position: Position,
        stored: &Stored,
    ) -> Result<Effects, Stopped> {
        let genesis = self.info.genesis.clone();
        let (component, params) = match (lane, &genesis.app) {
            (Lane::System, _) => (genesis.system.id, &genesis.system_params),
            (Lane::App, Some(app)) => (app.id, &genesis.app_params),
            (Lane::App, None) => return Ok(Effects::default()),
        };
        let run = Run::command(
            self.rows.view(),
            None,
            lane,
            position,
            place_of(&stored.header),
        );
        let call = Call {
            interface: "lattice:store/lifecycle".into(),
            function: "init".into(),
            args: init_args(params),
        };
        let mut instance = self
            .engine
            .instantiate(&component, &genesis.limits, run)
            .map_err(|(_, fault)| fault)?;
        instance.run_mut().begin_transaction();
        // Both halves share the header; the app half's call is the second of the intention.
        instance.run_mut().begin_call(u32::from(lane.number()));
        let mut fuel = genesis.limits.fuel;
        let end = instance.call(CallKind::Init, &call, &mut fuel)?;
        let mut run = instance.finish();
        let outcome = outcome_of(0, end);
        match &outcome {
            Ok(_) if lane == Lane::App => {
                run.host_write(code_cell(), Op::Put(component.0[..].into()));
            }
            Ok(_) => {}
            Err(_) => run.rollback(),
        }
        let (reads, writes) = run.into_effects();
        Ok(Effects {
            void: false,
            outcomes: vec![match outcome {
                Ok(value) => Outcome::Ok(vec![value]),
                Err(outcome) => outcome,
            }],
            reads,
            writes,
        })
    }

    fn run_transactions(
        &mut self,
        lane: Lane,
        position: Position,
        run: Run,
        transactions: &[Transaction],
    ) -> Result<Effects, Stopped> {
        let mut execution = Execution::new(lane, position, run);
        let mut outcomes = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            let before = mutant::active(Mutant::RefusedReadsUntracked)
                .then(|| execution.run_mut().all_reads());
            let outcome = execution.transaction(self, &transaction.calls)?;
            if let (Some(reads), false) = (before, outcome.is_ok()) {
                execution.run_mut().forget_reads_since(reads);
            }
            outcomes.push(outcome);
        }
        let (reads, writes) = execution.finish().into_effects();
        Ok(Effects {
            void: false,
            outcomes,
            reads,
            writes,
        })
    }

    /// Puts a run's effects in the place of those of its last run, and marks what depends on them.
    pub(crate) fn install(
        &mut self,
        lane: Lane,
        position: Position,
        local: LocalSeq,
        effects: Effects,
    ) -> Result<(), StorageError> {
        let id = position.id;
        let old = Record::load(&self.rows, lane, position)?;
        let cause = self.due.clear(&mut self.rows, lane, position);
        if old.is_none() && (local.0 != 0 || lane == Lane::System) {
            self.roots.apply(&id);
        }
        // A genesis has a half in each lane, and so an outcome in each.
        let first = self.first_index(lane, local);
        let old_outcomes = old.as_ref().map_or(&[][..], |r| &r.outcomes);
        if old_outcomes != effects.outcomes {
            for (index, outcome) in (first..).zip(old_outcomes) {
                self.roots.outcome(&id, index, outcome, false);
            }
            for (index, outcome) in (first..).zip(&effects.outcomes) {
                self.roots.outcome(&id, index, outcome, true);
            }
        }
        if let Some(old) = &old {
            versions::remove_marks(&mut self.rows, lane, position, &old.reads, &old.ranges);
        }
        versions::put_marks(
            &mut self.rows,
            &mut self.lengths,
            lane,
            position,
            &effects.reads,
        );
        let last = &mut self.last_run[usize::from(lane.number())];
        *last = position.max(*last);
        let mut changed = Vec::new();
        for cell in old.iter().flat_map(|r| &r.writes) {
            if !effects.writes.contains_key(cell)
                && versions::set(&mut self.rows, &mut self.roots, cell, position, None)?
            {
                changed.push(cell.clone());
            }
        }
        for (cell, op) in &effects.writes {
            if versions::set(&mut self.rows, &mut self.roots, cell, position, Some(op))? {
                changed.push(cell.clone());
            }
        }
        let author = match cause {
            Some(author) => author,
            None => dag::branch(&self.rows, dag::meta(&self.rows, local)?.branch)?.author,
        };
        if old.is_some() {
            *Arc::make_mut(&mut self.replays).entry(author).or_default() += 1;
        }
        for cell in changed {
            self.note_change(&cell, position, author)?;
        }
        self.notice_changed_outcomes(&id, local, &effects.outcomes)?;
        let record = Record {
            local,
            void: effects.void,
            outcomes: effects.outcomes,
            reads: effects.reads.cells.into_keys().collect(),
            ranges: effects.reads.ranges.into_iter().collect(),
            writes: effects.writes.into_keys().collect(),
        };
        record.store(&mut self.rows, lane, position);
        Ok(())
    }

    fn first_index(&self, lane: Lane, local: LocalSeq) -> u32 {
        u32::from(local.0 == 0 && lane == Lane::App)
    }

    /// `by` is the author of the entry that changed it, or that made the run due that did.
    fn note_change(
        &mut self,
        cell: &Cell,
        position: Position,
        by: DeviceKey,
    ) -> Result<(), StorageError> {
        if cell.lane() == Lane::System {
            self.cuts_are_due();
        }
        if matches!(cell.space(), Space::Written | Space::Called) {
            // No query can have read it.
        } else if self.changes.cells.len() < CHANGED_CELLS_MAX {
            self.changes.cells.push(cell.clone());
        } else {
            self.changes.cells.clear();
            self.changes.all = true;
        }
        let nobody_above = match cell.lane() {
            Lane::System => position >= self.last_run[0] && position >= self.last_run[1],
            Lane::App => position >= self.last_run[1],
        };
        if nobody_above {
            return Ok(());
        }
        for (lane, reader) in versions::stale_readers(&self.rows, &self.lengths, cell, position)? {
            if let Some(record) = Record::load(&self.rows, lane, reader)? {
                self.due
                    .set_again(&mut self.rows, lane, reader, record.local, by);
            }
        }
        Ok(())
    }

    /// The component of a lane at a position, with the read that says so.
    pub(crate) fn code_at(
        &self,
        lane: Lane,
        position: Position,
    ) -> Result<(Option<ComponentId>, Reads), StorageError> {
        let mut reads = Reads::default();
        if lane == Lane::System {
            return Ok((Some(self.info.genesis.system.id), reads));
        }
        let cell = code_cell();
        let value = live::bytes_at(&self.rows, &cell, position)?;
        reads.cells.insert(
            cell,
            crate::state::cell::ValueMark::of_bytes(value.as_deref()),
        );
        Ok((value.and_then(|v| ComponentId::from_slice(&v)), reads))
    }
}

fn malformed() -> Outcome {
    Outcome::Refused {
        index: 0,
        error: HostRefusal::Malformed.to_cbor(),
    }
}

fn place_of(header: &Header) -> Place {
    Place {
        names: header.names().collect(),
        header: Arc::new(header.clone()),
        index: 0,
    }
}

/// The arguments of `init`: one list of (name, value).
pub(crate) fn init_args(params: &[Param]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out);
    let mut encode = || {
        encoder.array(1)?.array(params.len() as u64)?;
        for param in params {
            encoder.array(2)?.str(&param.name)?.str(&param.value)?;
        }
        Ok::<_, minicbor::encode::Error<core::convert::Infallible>>(())
    };
    encode().expect("a Vec grows as far as it is asked to");
    out
}

/// How many calls a body holds, over all its transactions; 0 for one that does not decode.
pub(crate) fn call_count(body: Option<&[u8]>) -> u32 {
    let Some(Ok(body)) = body.map(Body::decode) else {
        return 0;
    };
    if body.genesis.is_some() {
        return 2;
    }
    body.transactions.iter().map(|t| t.calls.len() as u32).sum()
}

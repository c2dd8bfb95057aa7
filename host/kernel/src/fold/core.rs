//! The fold: running intentions in the canonical order, incrementally.
//!
//! The state is the result of running every entry from first to last. The fold reaches that result without starting
//! over. An entry that arrives late runs at its place in the order, and of the later entries only those run again
//! that read something which is different now. `reference.rs` starts over each time, and every test judges this file
//! by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lattice_format::{
    Body, Call, CallId, ComponentId, DeviceKey, Header, IntentionId, Lane, Param, Transaction,
    VerifiedHeader,
};
use minicbor::Encoder;

use crate::fold::cut_reads::CutReads;
use crate::fold::execution::{Execution, outcome_of};
use crate::fold::governance::Answers;
use crate::fold::progress::Progress;
use crate::graph::dag;
use crate::graph::info::Info;
use crate::graph::lookup_cache::LookupCache;
use crate::graph::slot::Slot;
use crate::graph::void;
use crate::limits::CUT_ROUNDS_EXTRA;
use crate::log::notice::Notice;
use crate::log::{Log, Noticed, Stored};
use crate::mutant::{self, Mutant};
use crate::outcome::{HostRefusal, Outcome};
use crate::run::engine::{CallKind, Engine, HostFault};
use crate::run::{CallPlace, Run};
use crate::state::cell::{Cell, Op, Space};
use crate::state::fingerprints::Fingerprints;
use crate::state::live;
use crate::state::reads::Reads;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::Rows;

/// What changed since the last call of [`crate::Store::take_changes`].
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Cells whose value changed.
    pub cells: Vec<Cell>,
    /// Entries that were witnessed.
    pub entries: Vec<IntentionId>,
    /// Whether more changed than the lists hold, so that anything may have changed.
    pub all: bool,
}

/// The derived state of a store, with what it takes to advance it.
pub(crate) struct Core {
    pub(crate) rows: Rows,
    pub(crate) log: Log,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) info: Arc<Info>,
    pub(crate) progress: Progress,
    pub(crate) answers: Answers,
    pub(crate) cut_reads: CutReads,
    pub(crate) cache: LookupCache,
    pub(crate) fingerprints: Fingerprints,
    pub(crate) changes: Changes,
    pub(crate) notices: Vec<Notice>,
    /// The outcomes that notices of this batch tell: their digests, by entry and transaction.
    pub(crate) noticed: Noticed,
    /// How many runs were repeated since the store was opened, by the author whose late entry was the cause.
    pub(crate) replays: Arc<BTreeMap<DeviceKey, u64>>,
    /// The key of this device.
    pub(crate) me: DeviceKey,
    /// Why each lane waits, the system lane first; `None` where a lane does not wait.
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
    /// The entry's calls in the lane, for the index of calls. Empty when the run is void.
    pub(crate) calls: Vec<CallId>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) reads: Reads,
    /// What the host read before the run could begin.
    pub(crate) host: Reads,
    pub(crate) writes: BTreeMap<Cell, Op>,
}

impl Effects {
    /// Adds the reads of the judgement by the author's quota. What governance read for the quota is read alike by all
    /// entries of an author, so these reads belong to the shared set.
    pub(crate) fn judged(&mut self, judged: Reads) {
        let (own, host) = judged
            .cells
            .into_iter()
            .partition(|(cell, _)| cell.space() == Space::Written);
        self.reads.cells.extend::<BTreeMap<_, _>>(own);
        self.host.merge(&Reads {
            cells: host,
            ranges: judged.ranges,
        });
    }
}

/// Why a run has no effects.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// This host cannot run the entry now, so the lane waits.
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

/// The cell of the host that names the app lane's code in effect.
pub(crate) fn code_cell() -> Cell {
    Cell::new(Lane::App, Space::Host, b"code")
}

impl Core {
    /// The number of an entry in the log; `None` when the entry is not there.
    pub(crate) fn local_of(&self, id: &IntentionId) -> Result<Option<LocalSeq>, StorageError> {
        self.cache.names.local_of(&self.rows, id)
    }

    /// Runs what is due, governance first, and stops after `max_runs` runs.
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
                Err(HostFault::Storage(error)) => return Err(error),
                Err(fault) => {
                    self.paused[0] = Some(fault);
                    break;
                }
            }
            if self.progress.due.count(Lane::System) == 0 {
                break;
            }
            rounds += 1;
            // Few governance components need as many rounds as there are authors, whose number is looked up.
            if rounds <= CUT_ROUNDS_EXTRA {
                continue;
            }
            let rounds_max = self.cut_rounds_max()?;
            if rounds > rounds_max {
                // The cuts of this governance component contradict each other. Every replica stops after as many
                // rounds, and says so.
                self.paused[0] = Some(HostFault::Unusable {
                    component: self.info.genesis.system.id,
                    reason: format!("its cuts did not settle in {rounds_max} rounds"),
                });
                break;
            }
        }
        if runs < max_runs && self.progress.due.count(Lane::System) == 0 {
            self.settle_lane(Lane::App, max_runs, &mut runs)?;
        }
        let pending = self.progress.due.count(Lane::System) + self.progress.due.count(Lane::App);
        let [system_paused, app_paused] = self.paused.clone();
        Ok(Settled {
            pending,
            runs,
            system_paused,
            app_paused,
        })
    }

    /// Runs what is due in a lane. Tells whether nothing is left.
    fn settle_lane(
        &mut self,
        lane: Lane,
        max_runs: u64,
        runs: &mut u64,
    ) -> Result<bool, StorageError> {
        while let Some((slot, local)) = self.progress.due.first(&self.rows, lane)? {
            if *runs >= max_runs {
                return Ok(false);
            }
            *runs += 1;
            match self.run_logged(lane, slot, local) {
                Ok(effects) => self.install(lane, slot, local, effects)?,
                Err(Stopped::Storage(error)) => return Err(error),
                Err(Stopped::Fault(HostFault::Storage(error))) => return Err(error),
                Err(Stopped::Fault(fault)) => {
                    self.paused[usize::from(lane.number())] = Some(fault);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Runs a logged intention at its position. A genesis has a half in each lane, and the half of `lane` runs.
    fn run_logged(&mut self, lane: Lane, slot: Slot, local: LocalSeq) -> Result<Effects, Stopped> {
        if self.cache.any_void && void::is_cut_off(&self.rows, &dag::id_at(&self.rows, local)?)? {
            return Ok(Effects {
                void: true,
                ..Effects::default()
            });
        }
        let stored = self.stored(local)?;
        // Above everything that has run, a slot sees what the end of the order sees, where a read costs less.
        let [system, app] = self.progress.last_run;
        let above_all = slot > system.max(app) || mutant::active(Mutant::RunsReadTheEnd);
        let at = if above_all { Slot::MAX } else { slot };
        let (within, judged) = match local.0 {
            0 => (true, Reads::default()),
            _ => self.judge_quota(&stored.header, at)?,
        };
        if !within {
            let mut effects = Effects {
                void: true,
                ..Effects::default()
            };
            effects.judged(judged);
            return Ok(effects);
        }
        let mut effects = self.run_body(lane, at, local, &stored)?;
        effects.judged(judged);
        self.account(lane, &stored.header, local, &mut effects);
        effects.calls = calls_of(lane, &stored.header, call_count(stored.body.as_deref()));
        Ok(effects)
    }

    /// Runs an entry on what stands below `at`.
    fn run_body(
        &mut self,
        lane: Lane,
        at: Slot,
        local: LocalSeq,
        stored: &Stored,
    ) -> Result<Effects, Stopped> {
        let Some(bytes) = &stored.body else {
            // An entry is witnessed without its body only where this node does not fold the lane.
            return Ok(Effects::default());
        };
        let Ok(body) = Body::decode(bytes) else {
            return Ok(Effects {
                outcomes: vec![malformed()],
                ..Effects::default()
            });
        };
        match (&body.genesis, local.0) {
            (Some(_), 0) => self.run_genesis(lane, at, stored),
            (None, 1..) => {
                self.compare_claim(lane, stored, &body)?;
                let place = place_of(&stored.header);
                let run = Run::command(self.rows.view(), Some(self.info.id), lane, at, place);
                self.run_transactions(lane, at, run, &body.transactions)
            }
            // The entry is a genesis that is not the first entry, or a first entry that is not a genesis.
            _ => Ok(Effects {
                outcomes: vec![malformed()],
                ..Effects::default()
            }),
        }
    }

    /// Runs the half of the genesis in `lane`: `init` of the lane's component.
    pub(crate) fn run_genesis(
        &mut self,
        lane: Lane,
        slot: Slot,
        stored: &Stored,
    ) -> Result<Effects, Stopped> {
        let genesis = self.info.genesis.clone();
        let (component, params) = match (lane, &genesis.app) {
            (Lane::System, _) => (genesis.system.id, &genesis.system_params),
            (Lane::App, Some(app)) => (app.id, &genesis.app_params),
            (Lane::App, None) => return Ok(Effects::default()),
        };
        let run = Run::command(self.rows.view(), None, lane, slot, place_of(&stored.header));
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
        // Both halves share the header, and call ids must differ: the app half's call has index 1.
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
            outcomes: vec![match outcome {
                Ok(value) => Outcome::Ok(vec![value]),
                Err(outcome) => outcome,
            }],
            reads,
            writes,
            ..Effects::default()
        })
    }

    fn run_transactions(
        &mut self,
        lane: Lane,
        slot: Slot,
        run: Run,
        transactions: &[Transaction],
    ) -> Result<Effects, Stopped> {
        let limits = &self.info.genesis.limits;
        let mut execution = Execution::new(lane, slot, run, limits);
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
        let (reads, host, writes) = execution.finish().into_parts();
        Ok(Effects {
            outcomes,
            reads,
            host,
            writes,
            ..Effects::default()
        })
    }

    pub(crate) fn stored(&self, local: LocalSeq) -> Result<Stored, StorageError> {
        self.log
            .entry(local)?
            .ok_or_else(|| crate::log::lacks(local))
    }

    /// The component of a lane at a slot, with the read behind the answer.
    pub(crate) fn code_at(
        &self,
        lane: Lane,
        slot: Slot,
    ) -> Result<(Option<ComponentId>, Reads), StorageError> {
        let mut reads = Reads::default();
        if lane == Lane::System {
            return Ok((Some(self.info.genesis.system.id), reads));
        }
        let cell = code_cell();
        let value = live::bytes_at(&self.rows, &cell, slot)?;
        reads.cells.insert(
            cell,
            crate::state::cell::ValueMark::of_bytes(value.as_deref()),
        );
        Ok((value.and_then(|v| ComponentId::from_slice(&v)), reads))
    }
}

/// The outcome of an entry whose body holds no call.
pub(crate) fn malformed() -> Outcome {
    Outcome::Refused {
        index: 0,
        error: HostRefusal::Malformed.to_cbor(),
    }
}

fn place_of(header: &Header) -> CallPlace {
    CallPlace {
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

/// The ids of the calls that an entry makes in a lane. `count` is the number of calls in its body.
pub(crate) fn calls_of(lane: Lane, header: &VerifiedHeader, count: u32) -> Vec<CallId> {
    let indices = match header.is_genesis() {
        // The two halves of a genesis have one call each.
        true => u32::from(lane.number())..u32::from(lane.number()) + count.min(1),
        false => 0..count,
    };
    indices.map(|index| header.call_id(index)).collect()
}

/// How many calls a body holds, over all its transactions; 0 for a body that does not decode.
pub(crate) fn call_count(body: Option<&[u8]>) -> u32 {
    let Some(Ok(body)) = body.map(Body::decode) else {
        return 0;
    };
    if body.genesis.is_some() {
        return 2;
    }
    body.transactions.iter().map(|t| t.calls.len() as u32).sum()
}

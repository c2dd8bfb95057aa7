//! The execution of an intention's transactions, in one instance and at one position. Local and logged intentions
//! share it, so both come to the same outcomes.

use lattice_format::{Call, Lane, Limits};

use crate::fold::core::{Core, Stopped};
use crate::graph::slot::Slot;
use crate::limits::{INTENTION_FUEL, INTENTION_RESULTS};
use crate::mutant::{self, Mutant};
use crate::outcome::{HostRefusal, Outcome, TrapKind};
use crate::run::Run;
use crate::run::engine::{Answer, AskError, CallEnd, CallKind, Instance, Question};

/// What the transactions of one intention may still use together. An intention is small, and its transactions are
/// run again at each late arrival and each restart, so their work is bounded together and not for each alone.
struct Budget {
    fuel: u64,
    result_bytes: u64,
    /// Set when a bound of the intention was exceeded. What is left of the other bounds does not count then.
    exceeded: bool,
}

impl Budget {
    fn new(limits: &Limits) -> Self {
        if mutant::active(Mutant::IntentionUnbounded) {
            return Self {
                fuel: u64::MAX,
                result_bytes: u64::MAX,
                exceeded: false,
            };
        }
        Self {
            fuel: limits.fuel.saturating_mul(INTENTION_FUEL),
            result_bytes: u64::from(limits.result_bytes).saturating_mul(INTENTION_RESULTS),
            exceeded: false,
        }
    }

    fn spend_fuel(&mut self, fuel: u64) {
        self.fuel = self.fuel.saturating_sub(fuel);
    }

    /// Counts the bytes of a transaction's outcome. Returns whether there is room for them.
    fn take_result(&mut self, outcome: &Outcome) -> bool {
        let bytes: usize = match outcome {
            Outcome::Ok(values) => values.iter().map(Vec::len).sum(),
            Outcome::Refused { error, .. } => error.len(),
            Outcome::Unauthorized { .. } | Outcome::Trapped { .. } => 0,
        };
        let left = self.result_bytes.checked_sub(bytes as u64);
        self.result_bytes = left.unwrap_or(0);
        left.is_some()
    }
}

/// The calls of one intention in one instance, at one position.
pub(crate) struct Execution {
    lane: Lane,
    slot: Slot,
    /// The run while no instance owns it.
    idle: Option<Run>,
    instance: Option<Box<dyn Instance>>,
    next_index: u32,
    budget: Budget,
    /// The start fuel of the instance that is counted already.
    counted_starts: u64,
    /// Whether an instance was started: the intention pays for each one behind the first.
    started: bool,
}

impl Execution {
    pub(crate) fn new(lane: Lane, slot: Slot, run: Run, limits: &Limits) -> Self {
        Self {
            lane,
            slot,
            idle: Some(run),
            instance: None,
            next_index: 0,
            budget: Budget::new(limits),
            counted_starts: 0,
            started: false,
        }
    }

    pub(crate) fn next_index(&self) -> u32 {
        self.next_index
    }

    /// Goes back to an earlier index, because a refused local call does not use up its own.
    pub(crate) fn rewind_index(&mut self, index: u32) {
        self.next_index = index;
    }

    pub(crate) fn run_mut(&mut self) -> &mut Run {
        match (&mut self.instance, &mut self.idle) {
            (Some(instance), _) => instance.run_mut(),
            (None, Some(run)) => run,
            (None, None) => unreachable!("a run is idle or owned by an instance"),
        }
    }

    /// Runs one transaction to its outcome. Only a fault of this host leaves a transaction without one.
    ///
    /// A transaction that exceeds a bound of the intention traps with [`TrapKind::Limit`], and those behind it do so
    /// without running.
    pub(crate) fn transaction(
        &mut self,
        core: &mut Core,
        calls: &[Call],
    ) -> Result<Outcome, Stopped> {
        let first_index = self.next_index;
        self.next_index += calls.len() as u32;
        if self.budget.exceeded {
            return Ok(too_much(0));
        }
        self.run_mut().begin_transaction();
        let outcome = self.run_transaction(core, first_index, calls)?;
        if !self.budget.take_result(&outcome) {
            self.budget.exceeded = true;
        }
        self.budget.exceeded |= self.run_mut().wrote_too_much();
        if !self.budget.exceeded {
            return Ok(outcome);
        }
        self.run_mut().rollback();
        self.drop_instance();
        Ok(match outcome {
            Outcome::Trapped { index, .. } | Outcome::Refused { index, .. } => too_much(index),
            Outcome::Ok(_) | Outcome::Unauthorized { .. } => too_much(calls.len() as u32 - 1),
        })
    }

    fn run_transaction(
        &mut self,
        core: &mut Core,
        first_index: u32,
        calls: &[Call],
    ) -> Result<Outcome, Stopped> {
        let header = self.run_mut().author();
        for (index, call) in (0u32..).zip(calls) {
            let question = Question::Authorize {
                author: header,
                lane: self.lane,
                interface: call.interface.clone(),
                function: call.function.clone(),
            };
            let asked = core.ask_at(&question, self.slot)?;
            self.run_mut().host_reads(&asked.reads);
            match asked.answer {
                Ok(Answer::Authorize(true)) => {}
                Ok(Answer::Authorize(false)) if mutant::active(Mutant::DeniedCallRuns) => {}
                // A governance component that traps allows nothing, on every replica alike.
                Ok(_) | Err(AskError::Trapped(_)) => return Ok(Outcome::Unauthorized { index }),
                Err(AskError::Host(fault)) => return Err(fault.into()),
            }
        }
        let (code, reads) = core.code_at(self.lane, self.slot)?;
        self.run_mut().host_reads(&reads);
        let Some(code) = code else {
            return Ok(Outcome::Refused {
                index: 0,
                error: HostRefusal::NoSuchFunction.to_cbor(),
            });
        };
        let limits = core.info.genesis.limits;
        if self.instance.is_none() {
            let run = self.idle.take().expect("no instance owns the run");
            match core.engine.instantiate(&code, &limits, run) {
                Ok(instance) => self.instance = Some(instance),
                Err((run, fault)) => {
                    self.idle = Some(run);
                    return Err(fault.into());
                }
            }
        }
        let given = limits.fuel.min(self.budget.fuel);
        let mut fuel = given;
        let mut values = Vec::with_capacity(calls.len());
        let mut value_bytes = 0usize;
        for (index, call) in (0u32..).zip(calls) {
            let instance = self
                .instance
                .as_mut()
                .expect("made above, dropped at a trap");
            instance.run_mut().begin_call(first_index + index);
            let before = fuel;
            let end = instance.call(CallKind::Command, call, &mut fuel);
            self.budget.spend_fuel(before - fuel);
            self.count_starts();
            let trapped = matches!(end, Ok(CallEnd::Trapped(_)) | Err(_));
            let ended = match end {
                Ok(end) => outcome_of(index, end),
                Err(fault) => {
                    self.drop_instance();
                    self.run_mut().rollback();
                    return Err(fault.into());
                }
            };
            if trapped {
                // A trap may have left the instance's memory half changed, so the instance must not be entered again.
                self.drop_instance();
            }
            match ended {
                Ok(value) => {
                    value_bytes += value.len();
                    values.push(value);
                }
                Err(outcome) => {
                    self.run_mut().rollback();
                    let out_of_fuel = matches!(
                        outcome,
                        Outcome::Trapped {
                            kind: TrapKind::Fuel,
                            ..
                        }
                    );
                    self.budget.exceeded |= out_of_fuel && given < limits.fuel;
                    return Ok(outcome);
                }
            }
            if value_bytes > limits.result_bytes as usize {
                self.run_mut().rollback();
                self.drop_instance();
                return Ok(Outcome::Trapped {
                    index,
                    kind: TrapKind::Limit,
                });
            }
        }
        Ok(Outcome::Ok(values))
    }

    /// Charges the intention for starts of its component: a trap ends an instance, and the next call starts another.
    fn count_starts(&mut self) {
        let instance = self.instance.as_ref();
        let starts = instance.map_or(0, |instance| instance.start_fuel());
        let new = starts.saturating_sub(self.counted_starts);
        self.counted_starts = starts;
        if self.started {
            self.budget.spend_fuel(new);
        }
        self.started = true;
    }

    fn drop_instance(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.counted_starts = 0;
            self.idle = Some(instance.finish());
        }
    }

    pub(crate) fn finish(mut self) -> Run {
        self.drop_instance();
        self.idle.take().expect("no instance owns the run")
    }
}

/// The outcome of a transaction that exceeds a bound of its intention in this call.
fn too_much(index: u32) -> Outcome {
    Outcome::Trapped {
        index,
        kind: TrapKind::Limit,
    }
}

pub(crate) fn outcome_of(index: u32, end: CallEnd) -> Result<Vec<u8>, Outcome> {
    match end {
        CallEnd::Ok(value) => Ok(value),
        CallEnd::Refused(error) => Err(Outcome::Refused { index, error }),
        CallEnd::Trapped(kind) => Err(Outcome::Trapped { index, kind }),
    }
}

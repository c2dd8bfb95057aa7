//! The execution of an intention's transactions, in one instance and at one position. Local and logged intentions
//! share it, so both come to the same outcomes.

use lattice_format::{Call, Lane};

use crate::fold::core::{Core, Stopped};
use crate::graph::slot::Slot;
use crate::mutant::{self, Mutant};
use crate::outcome::{HostRefusal, Outcome, TrapKind};
use crate::run::Run;
use crate::run::engine::{Answer, AskError, CallEnd, CallKind, Instance, Question};

/// The calls of one intention in one instance, at one position.
pub(crate) struct Execution {
    lane: Lane,
    slot: Slot,
    /// The run while no instance owns it.
    idle: Option<Run>,
    instance: Option<Box<dyn Instance>>,
    next_index: u32,
}

impl Execution {
    pub(crate) fn new(lane: Lane, slot: Slot, run: Run) -> Self {
        Self {
            lane,
            slot,
            idle: Some(run),
            instance: None,
            next_index: 0,
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
    pub(crate) fn transaction(
        &mut self,
        core: &mut Core,
        calls: &[Call],
    ) -> Result<Outcome, Stopped> {
        let first_index = self.next_index;
        self.next_index += calls.len() as u32;
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
        self.run_mut().begin_transaction();
        let mut fuel = limits.fuel;
        let mut values = Vec::with_capacity(calls.len());
        let mut value_bytes = 0usize;
        for (index, call) in (0u32..).zip(calls) {
            let instance = self
                .instance
                .as_mut()
                .expect("made above, dropped at a trap");
            instance.run_mut().begin_call(first_index + index);
            let end = instance.call(CallKind::Command, call, &mut fuel);
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

    fn drop_instance(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.idle = Some(instance.finish());
        }
    }

    pub(crate) fn finish(mut self) -> Run {
        self.drop_instance();
        self.idle.take().expect("no instance owns the run")
    }
}

pub(crate) fn outcome_of(index: u32, end: CallEnd) -> Result<Vec<u8>, Outcome> {
    match end {
        CallEnd::Ok(value) => Ok(value),
        CallEnd::Refused(error) => Err(Outcome::Refused { index, error }),
        CallEnd::Trapped(kind) => Err(Outcome::Trapped { index, kind }),
    }
}

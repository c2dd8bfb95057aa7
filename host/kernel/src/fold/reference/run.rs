//! How the reference fold runs one intention.

use std::collections::BTreeMap;
use std::sync::Arc;

use lattice_format::{Body, Call, Lane, Param};

use super::Judge;
use crate::fold::core::{code_cell, init_args};
use crate::fold::governance::storage;
use crate::graph::slot::Slot;
use crate::limits::{INTENTION_FUEL, INTENTION_RESULTS};
use crate::log::Stored;
use crate::outcome::{HostRefusal, Outcome, TrapKind};
use crate::run::engine::{Answer, CallEnd, CallKind, HostFault, Instance, Question};
use crate::run::{CallPlace, Run};
use crate::state::cell::{Cell, Op};
use crate::state::live;
use crate::storage::rows::Rows;

/// An intention that runs, and what its transactions may still use together.
struct Plain<'a> {
    place: (Lane, &'a Rows, &'a Rows, &'a Stored),
    idle: Option<Run>,
    instance: Option<Box<dyn Instance>>,
    fuel: u64,
    results: u64,
    /// The fuel of the instance's starts that is paid for.
    starts: u64,
    /// Whether no call was made yet: the start for the first one is free.
    is_first: bool,
    /// Whether a bound was exceeded.
    over: bool,
}

impl Plain<'_> {
    fn run(&mut self) -> &mut Run {
        match (&mut self.instance, &mut self.idle) {
            (Some(instance), _) => instance.run_mut(),
            (None, Some(run)) => run,
            (None, None) => unreachable!("a run is idle or owned by an instance"),
        }
    }
}

impl Judge<'_> {
    pub(super) fn run(
        &self,
        lane: Lane,
        governance: &Rows,
        rows: &Rows,
        entry: &Stored,
    ) -> Result<(Vec<Outcome>, BTreeMap<Cell, Op>), HostFault> {
        let malformed = || Outcome::Refused {
            index: 0,
            error: HostRefusal::Malformed.to_cbor(),
        };
        let body = entry.body.as_deref().map(Body::decode);
        let Some(Ok(body)) = body else {
            return Ok((vec![malformed()], BTreeMap::new()));
        };
        let place = CallPlace {
            names: entry.header.names().collect(),
            header: Arc::new(lattice_format::Header::clone(&entry.header)),
            index: 0,
        };
        let genesis = entry.header.is_genesis();
        let run = Run::command(
            rows.view(),
            (!genesis).then_some(self.store),
            lane,
            Slot::MAX,
            place,
        );
        if genesis {
            return self.init(lane, run);
        }
        if body.genesis.is_some() {
            return Ok((vec![malformed()], BTreeMap::new()));
        }
        let limits = &self.genesis.limits;
        let mut plain = Plain {
            place: (lane, governance, rows, entry),
            idle: Some(run),
            instance: None,
            fuel: INTENTION_FUEL * limits.fuel,
            results: INTENTION_RESULTS * u64::from(limits.result_bytes),
            starts: 0,
            is_first: true,
            over: false,
        };
        let mut outcomes = Vec::new();
        let mut next = 0;
        for transaction in &body.transactions {
            let first = next;
            next += transaction.calls.len() as u32;
            if plain.over {
                let (index, kind) = (0, TrapKind::Limit);
                outcomes.push(Outcome::Trapped { index, kind });
                continue;
            }
            plain.run().begin_transaction();
            let (mut outcome, mut broken) =
                self.transaction(&mut plain, first, &transaction.calls)?;
            let (index, bytes) = match &outcome {
                Outcome::Ok(values) => {
                    let bytes = values.iter().map(Vec::len).sum();
                    (transaction.calls.len() as u32 - 1, bytes)
                }
                Outcome::Refused { index, error } => (*index, error.len()),
                Outcome::Unauthorized { index } | Outcome::Trapped { index, .. } => (*index, 0),
            };
            let kept = plain.results.checked_sub(bytes as u64);
            plain.results = kept.unwrap_or_default();
            plain.over |= kept.is_none() || plain.run().wrote_too_much();
            if plain.over {
                let kind = TrapKind::Limit;
                (outcome, broken) = (Outcome::Trapped { index, kind }, true);
                plain.run().rollback();
            }
            if broken && let Some(instance) = plain.instance.take() {
                plain.idle = Some(instance.finish());
                plain.starts = 0;
            }
            outcomes.push(outcome);
        }
        let run = match plain.instance {
            Some(instance) => instance.finish(),
            None => plain.idle.expect("no instance owns the run"),
        };
        Ok((outcomes, run.into_effects().1))
    }

    fn transaction(
        &self,
        plain: &mut Plain<'_>,
        first: u32,
        calls: &[Call],
    ) -> Result<(Outcome, bool), HostFault> {
        let (lane, governance, rows, entry) = plain.place;
        for (index, call) in (0u32..).zip(calls) {
            let question = Question::Authorize {
                author: entry.header.author,
                lane,
                interface: call.interface.clone(),
                function: call.function.clone(),
            };
            if self.ask(governance, &question)? != Some(Answer::Authorize(true)) {
                return Ok((Outcome::Unauthorized { index }, false));
            }
        }
        let code = match lane {
            Lane::System => Some(self.genesis.system.id),
            Lane::App => live::bytes_at(rows, &code_cell(), Slot::MAX)
                .map_err(storage)?
                .and_then(|v| lattice_format::ComponentId::from_slice(&v)),
        };
        let Some(code) = code else {
            let error = HostRefusal::NoSuchFunction.to_cbor();
            return Ok((Outcome::Refused { index: 0, error }, false));
        };
        let limits = &self.genesis.limits;
        if let Some(run) = plain.idle.take() {
            let made = self.engine.instantiate(&code, limits, run);
            plain.instance = Some(made.map_err(|(_, fault)| fault)?);
        }
        let given = limits.fuel.min(plain.fuel);
        let mut fuel = given;
        let mut values: Vec<Vec<u8>> = Vec::new();
        for (index, call) in (0u32..).zip(calls) {
            let instance = plain.instance.as_mut().expect("made above, or before");
            instance.run_mut().begin_call(first + index);
            let before = fuel;
            let end = instance.call(CallKind::Command, call, &mut fuel)?;
            let starts = instance.start_fuel();
            if !std::mem::take(&mut plain.is_first) {
                plain.fuel = plain.fuel.saturating_sub(starts - plain.starts);
            }
            plain.starts = starts;
            plain.fuel = plain.fuel.saturating_sub(before - fuel);
            let (outcome, broken) = match end {
                CallEnd::Ok(value) => {
                    values.push(value);
                    let bytes: usize = values.iter().map(Vec::len).sum();
                    if bytes <= limits.result_bytes as usize {
                        continue;
                    }
                    let kind = TrapKind::Limit;
                    (Outcome::Trapped { index, kind }, true)
                }
                CallEnd::Refused(error) => (Outcome::Refused { index, error }, false),
                CallEnd::Trapped(kind) => {
                    plain.over |= kind == TrapKind::Fuel && given < limits.fuel;
                    (Outcome::Trapped { index, kind }, true)
                }
            };
            plain.run().rollback();
            return Ok((outcome, broken));
        }
        Ok((Outcome::Ok(values), false))
    }

    fn init(&self, lane: Lane, run: Run) -> Result<(Vec<Outcome>, BTreeMap<Cell, Op>), HostFault> {
        let (component, params): (_, &[Param]) = match (lane, &self.genesis.app) {
            (Lane::App, Some(app)) => (app.id, &self.genesis.app_params),
            _ => (self.genesis.system.id, &self.genesis.system_params),
        };
        let mut instance = self
            .engine
            .instantiate(&component, &self.genesis.limits, run)
            .map_err(|(_, fault)| fault)?;
        instance.run_mut().begin_transaction();
        instance.run_mut().begin_call(u32::from(lane.number()));
        let call = Call {
            interface: "lattice:store/lifecycle".into(),
            function: "init".into(),
            args: init_args(params),
        };
        let mut fuel = self.genesis.limits.fuel;
        let end = instance.call(CallKind::Init, &call, &mut fuel)?;
        let mut run = instance.finish();
        let index = 0;
        let outcome = match end {
            CallEnd::Ok(value) => {
                if lane == Lane::App {
                    run.host_write(code_cell(), Op::Put(component.0[..].into()));
                }
                Outcome::Ok(vec![value])
            }
            CallEnd::Refused(error) => {
                run.rollback();
                Outcome::Refused { index, error }
            }
            CallEnd::Trapped(kind) => {
                run.rollback();
                Outcome::Trapped { index, kind }
            }
        };
        Ok((vec![outcome], run.into_effects().1))
    }
}

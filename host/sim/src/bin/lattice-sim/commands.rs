//! What each verb does.

use std::collections::BTreeSet;
use std::fs;

use lattice_sim::{
    Case, Code, Hour, Played, Rules, Scenario, Shape, model_all, play, play_twice, swarm,
};
use serde_json::json;

use crate::arguments::{Command, ModelArgs, RunArgs, SeedsArgs};
use crate::outcome::{Class, Failure, Output, Result, write};
use crate::plugins::Workshop;
use crate::record::Record;

/// Runs a command.
pub(crate) fn run(output: Output, command: &Command) -> Result<()> {
    let workshop = Workshop::open();
    match command {
        Command::Run(args) => run_scenario(output, &workshop, args),
        Command::Swarm(args) => {
            let shape = Shape {
                nodes: args.nodes,
                steps: args.steps,
                ..Shape::default()
            };
            run_seeds(output, &workshop, &args.seeds, shape)
        }
        Command::Hostile(args) => {
            let hour = match args.clocks {
                false => Hour::Attacks,
                true => Hour::Clocks,
            };
            let shape = Shape {
                nodes: args.nodes,
                steps: args.steps,
                ..Shape::hostile(hour)
            };
            run_seeds(output, &workshop, &args.seeds, shape)
        }
        Command::Model(args) => run_model(output, args),
    }
}

fn run_scenario(output: Output, workshop: &Workshop, args: &RunArgs) -> Result<()> {
    let script = fs::read_to_string(&args.file).map_err(|error| {
        Failure::failed(format!("{}: {error}", args.file.display()))
            .hint("name a scenario in Rhai; docs/simulator.md tells how to write one")
    })?;
    let scenario = Scenario {
        script: &script,
        seed: args.seed,
        nodes: args.nodes,
        settings: args.settings.iter().cloned().collect(),
        keep_trace: args.trace.is_some(),
        code: &|name| workshop.code(name),
    };
    let played = match args.twice {
        true => play_twice(&scenario),
        false => play(&scenario),
    };
    if let (Some(path), Some(world)) = (&args.svg, &played.world) {
        write(path, &lattice_sim::svg(world))?;
    }
    if let (Some(path), Some(world)) = (&args.trace, &played.world) {
        write(path, &(world.trace().lines().join("\n") + "\n"))?;
    }
    let document = lattice_sim::json(&played);
    output.result(|| text_of(&played), || document.clone())?;
    match &played.failure {
        None => Ok(()),
        Some(reason) => {
            let replay = format!(
                "run it again with: lattice sim run {} --seed {} --nodes {}",
                args.file.display(),
                args.seed,
                args.nodes
            );
            let failure = Failure::new(Class::Refused, reason.clone()).hint(replay);
            Err(failure.with_document_printed())
        }
    }
}

fn text_of(played: &Played) -> String {
    let mut text: String = played
        .printed
        .iter()
        .map(|line| line.clone() + "\n")
        .collect();
    text += &lattice_sim::table(played);
    text
}

fn run_seeds(output: Output, workshop: &Workshop, args: &SeedsArgs, shape: Shape) -> Result<()> {
    let code = workshop.code(&args.plugin).map_err(Failure::usage)?;
    if !code.has_random_calls() {
        return Err(Failure::usage(format!(
            "{}: random calls are made of the model programs, kv, log, counter, bank and queue; play a scenario instead",
            args.plugin
        )));
    }
    let single = args.only_nodes.is_some() || args.only_steps.is_some() || args.trace.is_some();
    if single {
        return run_one(output, args, &code, shape);
    }
    let record = match &args.resume {
        Some(path) => Some(Record::open(path, args, shape)?),
        None => None,
    };
    let seeds = record.as_ref().map_or(args.seeds.start, Record::next)..args.seeds.end;
    let done = swarm(seeds, threads(args.jobs), shape, &code, |seed| {
        if let Some(record) = &record {
            record.held(seed);
        }
    });
    if let Some(record) = record {
        record.close()?;
    }
    let Some((case, violation)) = &done.failure else {
        return output.result(
            || {
                format!(
                    "{} runs held: {} calls, {} crashes, {} effects, {:.1} hours of virtual time; equal at most {} ms \
                     after the last fault\n",
                    done.runs,
                    done.calls,
                    done.crashes,
                    done.effects,
                    done.virtual_ms as f64 / 3_600_000.0,
                    done.slowest_ms
                )
            },
            || {
                json!({
                    "ok": true,
                    "runs": done.runs,
                    "calls": done.calls,
                    "crashes": done.crashes,
                    "effects": done.effects,
                    "virtual_ms": done.virtual_ms,
                    "slowest_ms": done.slowest_ms,
                })
            },
        );
    };
    let small = case.shrink();
    let replay = format!("run it again with: lattice sim {}", small.command());
    let text = format!("seed {}, {violation}", case.seed);
    Err(Failure::new(Class::Refused, text).hint(replay))
}

/// One seed, perhaps with less of what it does.
fn run_one(output: Output, args: &SeedsArgs, code: &Code, shape: Shape) -> Result<()> {
    if args.seeds.end.saturating_sub(args.seeds.start) != 1 {
        return Err(Failure::usage(
            "--only-… and --trace are about one seed; name it alone, as in --seeds 39..40",
        ));
    }
    let mut case = Case::new(args.seeds.start, shape, code);
    case.nodes = args.only_nodes;
    case.keep = args
        .only_steps
        .as_ref()
        .map(|steps| steps.iter().copied().collect::<BTreeSet<_>>());
    let finished = case.run(args.trace.is_some());
    if let (Some(path), Some(world)) = (&args.trace, &finished.world) {
        write(path, &(world.trace().lines().join("\n") + "\n"))?;
    }
    let steps: String = finished
        .steps
        .iter()
        .map(|(number, step)| format!("{number:>4} {step}\n"))
        .collect();
    match finished.result {
        Ok(took_ms) => output.result(
            || format!("{steps}it held: equal {took_ms} ms after the last fault\n"),
            || json!({ "ok": true, "converged_ms": took_ms }),
        ),
        Err(violation) => {
            if !output.is_json() {
                output.text(&steps)?;
            }
            let hint = "with --trace FILE every effect is written";
            Err(Failure::new(Class::Refused, violation.to_string()).hint(hint))
        }
    }
}

/// Histories of the small model.
fn run_model(output: Output, args: &ModelArgs) -> Result<()> {
    let done = model_all(args.seeds.clone(), threads(args.jobs), Rules::AMENDED);
    match done {
        Ok(done) => output.result(
            || {
                format!(
                    "{} histories held: {} entries, {} checkpoints ({} valid), {} entries final, {} void, {} of them \
                     by a checkpoint\n",
                    done.histories,
                    done.entries,
                    done.checkpoints,
                    done.valid,
                    done.last,
                    done.void,
                    done.late
                )
            },
            || {
                json!({
                    "ok": true,
                    "histories": done.histories,
                    "entries": done.entries,
                    "checkpoints": done.checkpoints,
                    "valid": done.valid,
                    "final": done.last,
                    "void": done.void,
                    "void_by_checkpoint": done.late,
                })
            },
        ),
        Err((seed, text)) => {
            let hint = format!("run it again with: lattice sim model --seeds {seed}..{}", seed + 1);
            Err(Failure::new(Class::Refused, format!("seed {seed}: {text}")).hint(hint))
        }
    }
}

fn threads(jobs: Option<usize>) -> usize {
    let processors = std::thread::available_parallelism();
    jobs.or_else(|| processors.ok().map(Into::into))
        .unwrap_or(1)
}

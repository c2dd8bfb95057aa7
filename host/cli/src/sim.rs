//! `lattice sim`: whole networks of nodes in virtual time, from one seed. It needs no home and no daemon.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lattice_sim::{Case, Code, Played, Scenario, Shape, Shelf, play, swarm};
use serde_json::json;

use crate::failure::{Class, Failure, Result};
use crate::output::Output;

/// Where nothing else is asked for, so many seeds are run.
const SEEDS: &str = "0..100";

/// The verbs of `sim`.
#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Play a scenario, and show what it took
    #[command(after_help = "Examples:
  lattice sim run host/sim/scenarios/late.rhai
  lattice sim run late.rhai --seed 7 --nodes 20 --svg late.svg")]
    Run(RunArgs),
    /// Run random calls and faults, a run a seed, up to the first that fails
    #[command(after_help = "Examples:
  lattice sim swarm --seeds 0..2000
  lattice sim swarm --seeds 0..100 --plugin kv
  lattice sim swarm --seeds 39..40 --trace 39.txt      the same run again, every effect written")]
    Swarm(SwarmArgs),
}

/// Arguments of `sim run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The scenario, in Rhai
    file: PathBuf,
    /// What decides everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Nodes that are there at the beginning
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,
    /// Write a picture of how the nodes became equal
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write every effect, a line each
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Arguments of `sim swarm`.
#[derive(Args, Debug)]
pub(crate) struct SwarmArgs {
    /// The seeds, the second not among them
    #[arg(long, value_name = "A..B", default_value = SEEDS, value_parser = seeds)]
    seeds: Range<u64>,
    /// What stores run: a bundled plugin, a file that ends in .wasm, or the kernel's model programs
    #[arg(long, value_name = "PLUGIN", default_value = "model")]
    plugin: String,
    /// The most nodes of a run
    #[arg(long, value_name = "N", default_value_t = Shape::default().nodes, value_parser = clap::value_parser!(u16).range(2..=1000))]
    nodes: u16,
    /// The most steps of a run, calls at the same time apart
    #[arg(long, value_name = "N", default_value_t = Shape::default().steps)]
    steps: u64,
    /// Threads [default: one a processor]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Of one seed: only so many nodes, as a shrunk failure says
    #[arg(long, value_name = "N")]
    only_nodes: Option<u16>,
    /// Of one seed: only these steps, as a shrunk failure says
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    only_steps: Option<Vec<usize>>,
    /// Of one seed: write every effect, a line each
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

fn seeds(text: &str) -> std::result::Result<Range<u64>, String> {
    let number = |text: &str| text.trim().parse::<u64>().map_err(|e| e.to_string());
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => Err("two numbers, as in 0..100".to_owned()),
    }
}

/// Compiled components of one run, in a directory that is gone afterwards.
struct Workshop {
    dir: PathBuf,
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What stays behind is in the system's directory for what may be deleted.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Workshop {
    fn open() -> Self {
        let name = format!("lattice-sim-{}", std::process::id());
        Self {
            dir: std::env::temp_dir().join(name),
        }
    }

    /// The code of a bundled plugin, or of one in a file.
    fn code(&self, name: &str) -> std::result::Result<Code, String> {
        if name == Code::model().name() {
            return Ok(Code::model());
        }
        let mut shelf = Shelf::open(&self.dir)?;
        for needed in ["system", name] {
            let bytes = match lattice_daemon::bundled_plugin(needed) {
                Some(bytes) => bytes.to_vec(),
                None if needed.ends_with(".wasm") => {
                    fs::read(needed).map_err(|error| format!("{needed}: {error}"))?
                }
                None => {
                    return Err(format!(
                        "there is no bundled plugin {needed}; name a file that ends in .wasm"
                    ));
                }
            };
            shelf.add(needed, bytes);
        }
        shelf.code(name)
    }
}

/// Runs a command of `sim`.
pub(crate) fn run(output: Output, command: &SimCommand) -> Result<()> {
    let workshop = Workshop::open();
    match command {
        SimCommand::Run(args) => run_scenario(output, &workshop, args),
        SimCommand::Swarm(args) => run_swarm(output, &workshop, args),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| {
        Failure::failed(format!("{}: {error}", path.display()))
            .hint("name a file that can be written")
    })
}

fn run_scenario(output: Output, workshop: &Workshop, args: &RunArgs) -> Result<()> {
    let script = fs::read_to_string(&args.file).map_err(|error| {
        Failure::failed(format!("{}: {error}", args.file.display()))
            .hint("name a scenario in Rhai; docs/simulator.md tells how to write one")
    })?;
    let played = play(&Scenario {
        script: &script,
        seed: args.seed,
        nodes: args.nodes,
        keep_trace: args.trace.is_some(),
        code: &|name| workshop.code(name),
    });
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

fn run_swarm(output: Output, workshop: &Workshop, args: &SwarmArgs) -> Result<()> {
    let code = workshop.code(&args.plugin).map_err(Failure::usage)?;
    if !code.has_random_calls() {
        return Err(Failure::usage(format!(
            "{}: random calls are made of the model programs, kv, log, counter, bank and queue; play a scenario instead",
            args.plugin
        )));
    }
    let shape = Shape {
        nodes: args.nodes,
        steps: args.steps,
        ..Shape::default()
    };
    let single = args.only_nodes.is_some() || args.only_steps.is_some() || args.trace.is_some();
    if single {
        return run_one(output, args, &code, shape);
    }
    let jobs = args
        .jobs
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let done = swarm(args.seeds.clone(), jobs.unwrap_or(1), shape, &code, |_| {});
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
    let replay = format!("run it again with: lattice sim swarm {}", small.options());
    let text = format!("seed {}, {violation}", case.seed);
    Err(Failure::new(Class::Refused, text).hint(replay))
}

/// One seed, perhaps with less of what it does.
fn run_one(output: Output, args: &SwarmArgs, code: &Code, shape: Shape) -> Result<()> {
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

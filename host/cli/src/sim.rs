//! `lattice sim`: whole networks of nodes in virtual time, from one seed. It needs no home and no daemon.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::{Args, Subcommand};
use lattice_sim::{
    Case, Code, Components, Played, Progress, Rules, Scenario, Shape, model_all, play, play_twice,
    swarm,
};
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
  lattice sim run late.rhai --seed 7 --nodes 20 --svg late.svg
  lattice sim run host/sim/scenarios/large/crowd.rhai --nodes 100 --twice")]
    Run(RunArgs),
    /// Run random calls and faults, a run a seed, up to the first that fails
    #[command(after_help = "Examples:
  lattice sim swarm --seeds 0..2000
  lattice sim swarm --seeds 0..100 --plugin kv
  lattice sim swarm --seeds 0..20000 --resume seeds.txt    the next time it goes on where it was stopped
  lattice sim swarm --seeds 39..40 --trace 39.txt      the same run again, every effect written")]
    Swarm(SwarmArgs),
    /// Try the rules of checkpoints and revocations in a small model of their own, a history a seed
    #[command(after_help = "Examples:
  lattice sim model --seeds 0..10000")]
    Model(ModelArgs),
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
    /// A value that the scenario asks for by that name
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Play it twice, at the same time; both times every effect must be the same
    #[arg(long)]
    twice: bool,
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
    /// Remember in FILE up to which seed all have held, and go on from there the next time
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only_nodes", "only_steps", "trace"])]
    resume: Option<PathBuf>,
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

/// Arguments of `sim model`.
#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// The seeds, the second not among them
    #[arg(long, value_name = "A..B", default_value = SEEDS, value_parser = seeds)]
    seeds: Range<u64>,
    /// Threads [default: one a processor]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

fn threads(jobs: Option<usize>) -> usize {
    let processors = std::thread::available_parallelism();
    jobs.or_else(|| processors.ok().map(Into::into))
        .unwrap_or(1)
}

fn setting(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("a name and a value, as in network=ring".to_owned()),
    }
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
        let mut components = Components::open(&self.dir)?;
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
            components.add(needed, bytes);
        }
        components.code(name)
    }
}

/// Runs a command of `sim`.
pub(crate) fn run(output: Output, command: &SimCommand) -> Result<()> {
    let workshop = Workshop::open();
    match command {
        SimCommand::Run(args) => run_scenario(output, &workshop, args),
        SimCommand::Swarm(args) => run_swarm(output, &workshop, args),
        SimCommand::Model(args) => run_model(output, args),
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
    let record = match &args.resume {
        Some(path) => Some(Record::open(path, args)?),
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
    let replay = format!("run it again with: lattice sim swarm {}", small.options());
    let text = format!("seed {}, {violation}", case.seed);
    Err(Failure::new(Class::Refused, text).hint(replay))
}

/// A file that says up to which seed all runs of one kind have held.
struct Record {
    path: PathBuf,
    /// What the seeds are of: others have a file of their own.
    kind: String,
    progress: Mutex<(Progress, Result<()>)>,
}

impl Record {
    fn open(path: &Path, args: &SwarmArgs) -> Result<Self> {
        let kind = format!(
            "{} nodes {} steps {} from {}",
            args.plugin, args.nodes, args.steps, args.seeds.start
        );
        let next = match fs::read_to_string(path) {
            Ok(text) => match text.trim_end().rsplit_once(" next ") {
                Some((known, next)) if known == kind => next.parse().ok(),
                _ => None,
            }
            .ok_or_else(|| {
                let text = format!("{} is not about {kind}", path.display());
                Failure::usage(text).hint("name another file, or remove it to begin anew")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => args.seeds.start,
            Err(error) => return Err(Failure::failed(format!("{}: {error}", path.display()))),
        };
        Ok(Self {
            path: path.to_owned(),
            kind,
            progress: Mutex::new((Progress::new(next), Ok(()))),
        })
    }

    fn next(&self) -> u64 {
        self.progress
            .lock()
            .expect("no panic while it is held")
            .0
            .next()
    }

    fn held(&self, seed: u64) {
        let mut progress = self.progress.lock().expect("no panic while it is held");
        if progress.0.held(seed) {
            let line = format!("{} next {}\n", self.kind, progress.0.next());
            // Whoever is killed in between finds the old line or the new one.
            let fresh = self.path.with_extension("new");
            progress.1 = write(&fresh, &line).and_then(|()| {
                fs::rename(&fresh, &self.path)
                    .map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))
            });
        }
    }

    fn close(self) -> Result<()> {
        let progress = self.progress.into_inner();
        progress.expect("no panic while it was held").1
    }
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

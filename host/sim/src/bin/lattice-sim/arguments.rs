//! The command line.

use std::ops::Range;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use lattice_sim::{Hour, Shape};

use crate::outcome::{Failure, Form};

/// Where nothing else is asked for, so many seeds are run.
const SEEDS: &str = "0..100";

/// Runs networks of nodes in virtual time, from one seed
#[derive(Debug, Parser)]
#[command(
    name = "lattice-sim",
    bin_name = "lattice sim",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub(crate) struct Cli {
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    pub(crate) fn form(&self) -> Form {
        match self.json {
            true => Form::Json,
            false => Form::Text,
        }
    }
}

/// The form that a command line asks for which cannot be read.
pub(crate) fn form_asked_for() -> Form {
    match std::env::args_os().any(|word| word == "--json") {
        true => Form::Json,
        false => Form::Text,
    }
}

/// A wrong command line as one line: what is wrong, and how it is written.
pub(crate) fn wrong(error: &clap::Error) -> Failure {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("no command is given").hint("see `lattice sim --help`");
    }
    let rendered = error.render().to_string();
    let what = rendered.lines().map(str::trim).take_while(|line| {
        !line.starts_with("tip: ") && !line.starts_with("Usage: ") && !line.starts_with("For more")
    });
    let what: Vec<&str> = what.filter(|line| !line.is_empty()).collect();
    let what = what.join(" ");
    Failure::usage(what.trim_start_matches("error: ")).hint("see `lattice sim --help`")
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    /// Run hostile hours: every fourth member attacks with all that it can sign, or clocks are wrong
    #[command(after_help = "Examples:
  lattice sim hostile --seeds 0..1000
  lattice sim hostile --seeds 0..1000 --clocks
  lattice sim hostile --seeds 0..20 --plugin bank.wasm")]
    Hostile(HostileArgs),
    /// Try the rules of checkpoints and revocations in a small model of their own, a history a seed
    #[command(after_help = "Examples:
  lattice sim model --seeds 0..10000")]
    Model(ModelArgs),
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The scenario, in Rhai
    pub(crate) file: PathBuf,
    /// What decides everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Nodes that are there at the beginning
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) nodes: u16,
    /// A value that the scenario asks for by that name
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// Play it twice, at the same time; both times every effect must be the same
    #[arg(long)]
    pub(crate) twice: bool,
    /// Write a picture of how the nodes became equal
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write every effect, a line each
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// Arguments of `swarm`.
#[derive(Args, Debug)]
pub(crate) struct SwarmArgs {
    #[command(flatten)]
    pub(crate) seeds: SeedsArgs,
    /// The most nodes of a run
    #[arg(long, value_name = "N", default_value_t = Shape::default().nodes, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) nodes: u16,
    /// The most steps of a run, calls at the same time apart
    #[arg(long, value_name = "N", default_value_t = Shape::default().steps)]
    pub(crate) steps: u64,
}

/// Arguments of `hostile`.
#[derive(Args, Debug)]
pub(crate) struct HostileArgs {
    #[command(flatten)]
    pub(crate) seeds: SeedsArgs,
    /// Wrong clocks, some by days and years, with fewer attacks
    #[arg(long)]
    pub(crate) clocks: bool,
    /// The members of a run, of whom every fourth is hostile
    #[arg(long, value_name = "N", default_value_t = Shape::hostile(Hour::Attacks).nodes, value_parser = clap::value_parser!(u16).range(4..=999))]
    pub(crate) nodes: u16,
    /// The steps of a run, calls at the same time apart
    #[arg(long, value_name = "N", default_value_t = Shape::hostile(Hour::Attacks).steps)]
    pub(crate) steps: u64,
}

/// What is common to runs that a seed stands for.
#[derive(Args, Debug)]
pub(crate) struct SeedsArgs {
    /// The seeds, the second not among them
    #[arg(long, value_name = "A..B", default_value = SEEDS, value_parser = seeds)]
    pub(crate) seeds: Range<u64>,
    /// What stores run: a bundled plugin, a file that ends in .wasm, or the kernel's model programs
    #[arg(long, value_name = "PLUGIN", default_value = "model")]
    pub(crate) plugin: String,
    /// Threads [default: one a processor]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Remember in FILE up to which seed all have held, and go on from there the next time
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only_nodes", "only_steps", "trace"])]
    pub(crate) resume: Option<PathBuf>,
    /// Of one seed: only so many nodes, as a shrunk failure says
    #[arg(long, value_name = "N")]
    pub(crate) only_nodes: Option<u16>,
    /// Of one seed: only these steps, as a shrunk failure says
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) only_steps: Option<Vec<usize>>,
    /// Of one seed: write every effect, a line each
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// Arguments of `model`.
#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// The seeds, the second not among them
    #[arg(long, value_name = "A..B", default_value = SEEDS, value_parser = seeds)]
    pub(crate) seeds: Range<u64>,
    /// Threads [default: one a processor]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }
}

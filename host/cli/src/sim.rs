//! `lattice sim`: starts the simulator. It is a program of its own, so that `lattice` has no code that only tests
//! and simulations use.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// The file name of the simulator.
const PROGRAM: &str = "lattice-sim";

/// Arguments of `sim`, which are the simulator's own.
#[derive(Args, Debug)]
#[command(
    disable_help_flag = true,
    override_usage = "lattice sim [COMMAND] [ARGS]...",
    after_help = "\
Commands:
  run    Play a scenario, and show what it took
  swarm  Run random calls and faults, a run a seed, up to the first that fails
  model  Try the rules of checkpoints and revocations in a small model of their own

They are those of the program lattice-sim, which has to lie beside lattice or on
PATH. `lattice sim COMMAND --help` says more about one."
)]
pub(crate) struct SimArgs {
    /// What the simulator should do
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

impl SimArgs {
    /// The command that starts the simulator: the program in the directory of this one, else the one on PATH.
    fn command(&self, output: Output) -> Command {
        let beside = directory().map(|directory| directory.join(PROGRAM));
        let mut command = match beside.filter(|program| program.is_file()) {
            Some(program) => Command::new(program),
            None => Command::new(PROGRAM),
        };
        if output.is_json() {
            command.arg("--json");
        }
        command.args(&self.words);
        command
    }
}

/// The directory of this program.
fn directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.parent().map(PathBuf::from)
}

/// Replaces this process by the simulator, so that signals, output and exit status are the simulator's. Returns
/// only if the simulator cannot be started.
pub(crate) fn become_simulator(output: Output, args: &SimArgs) -> Result<()> {
    let error = args.command(output).exec();
    Err(not_started(&error))
}

/// Runs the simulator in a child process and waits for its end, because a shell goes on afterwards.
pub(crate) async fn run(context: &Context, args: &SimArgs) -> Result<()> {
    let mut command = tokio::process::Command::from(args.command(context.output));
    let status = command.kill_on_drop(true).status().await;
    let status = status.map_err(|error| not_started(&error))?;
    if status.success() {
        return Ok(());
    }
    Err(
        Failure::failed(format!("the simulator ended with {status}"))
            .hint("its own line above says why")
            .with_document_printed(),
    )
}

fn not_started(error: &io::Error) -> Failure {
    if error.kind() != io::ErrorKind::NotFound {
        return Failure::failed(format!("cannot start {PROGRAM}: {error}"))
            .hint("`cargo build --package lattice-sim` builds it anew");
    }
    let directory = directory().map_or_else(
        || "the directory of lattice".to_owned(),
        |directory| directory.display().to_string(),
    );
    Failure::failed(format!(
        "the simulator {PROGRAM} is neither in {directory} nor on PATH"
    ))
    .hint(format!(
        "build it with `cargo build --package lattice-sim` and put it into {directory}"
    ))
}

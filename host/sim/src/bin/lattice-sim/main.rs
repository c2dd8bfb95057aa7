//! The simulator as a program: `lattice-sim`, which `lattice sim` starts. It needs no home and no daemon.
//!
//! A program of its own, so that `lattice` holds nothing that only tests and simulations use. Exit codes,
//! `--json` and the one line of an error are those of `lattice`.

mod arguments;
mod commands;
mod outcome;
mod plugins;
mod record;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Cli;
use crate::outcome::Output;

// A swarm allocates on every thread at once, which is what this allocator is for.
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let (output, done) = match Cli::try_parse() {
        Ok(cli) => {
            let output = Output::new(cli.form());
            (output, commands::run(output, &cli.command))
        }
        Err(error) if !error.use_stderr() => {
            // Nobody reads on; there is nobody to tell.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => (
            Output::new(arguments::form_asked_for()),
            Err(arguments::wrong(&error)),
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

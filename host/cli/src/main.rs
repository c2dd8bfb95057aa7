//! The `lattice` binary: parses the command line, runs one command, and reports how it ended.
//!
//! A command speaks gRPC with the daemon of its home, or with the node that it opens in this process. The
//! node looks up names and describes errors. See `session` for the connection, `failure` for exit codes, and
//! the module of each noun for its commands.

mod args;
mod arguments;
mod call;
mod complete;
mod context;
mod daemon;
mod failure;
mod graph;
mod guard;
mod history;
mod home;
mod join;
mod log_lines;
mod members;
mod memory;
mod node;
mod notices;
mod outcome;
mod output;
mod plugin;
mod progress;
mod session;
mod shell;
mod signals;
mod sim;
mod store;
mod text;
mod usage;
mod ways;
mod written;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lattice_daemon::Idle;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::log_lines::Lines;
use crate::output::{Form, Output};

/// How long background work may take to end after the command.
const BACKGROUND_WAIT: Duration = Duration::from_millis(500);

/// Which log lines a daemon writes. Without the internet or a network, lookups of peers fail again and again, which is
/// told to who asks for more. So is what gossip and the endpoint say of connections that fail: peers may just be off, and
/// strangers could write as many lines as they want.
const USUAL_LINES: &str = "warn,lattice=info,iroh::address_lookup=error,iroh::protocol=error,\
                           iroh_gossip=error,swarm_discovery=off";

fn main() -> ExitCode {
    // The node compiles components in a child process of this same binary. The child must not parse a command
    // line, and must have no threads.
    if let Some(code) = lattice_daemon::compile_child() {
        return code;
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error, &words),
    };
    let output = Output::new(match (cli.global.json, &cli.command) {
        (false, _) => Form::Text,
        (true, Command::Shell) => Form::JsonLines,
        (true, _) => Form::Json,
    });
    start_tracing(&cli);
    let done = run(cli, output);
    Lines::end();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn wrong_usage(error: &clap::Error, words: &[OsString]) -> ExitCode {
    if usage::is_help(error) {
        // Printing fails when nobody reads the output any more. Then an error would not be read either.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let json = words.iter().any(|word| word == "--json");
    let failure = usage::failure(error);
    Output::new(if json { Form::Json } else { Form::Text }).failure(&failure);
    ExitCode::from(failure.exit_code())
}

fn run(cli: Cli, output: Output) -> Result<()> {
    match cli.command {
        Command::Completions(args) => return written::completions(output, &args),
        Command::Man(args) => return written::man(output, &args),
        Command::Sim(args) => return sim::become_simulator(output, &args),
        Command::Daemon(_) | Command::Shell => memory::give_back(),
        _ => {}
    }
    let home = home::resolve(cli.global.home.as_deref())?;
    let context = Context::new(home, output, cli.global.verbose);
    let idle = Idle::default();
    let resting = idle.clone();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(lattice_daemon::THREAD_STACK_BYTES)
        .on_thread_park(move || resting.rest())
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let done = match cli.command {
        Command::Shell => shell::run(&runtime, &context),
        Command::Daemon(args) => runtime.block_on(daemon::run(&context, args, idle)),
        command => run_one(&runtime, &context, command),
    };
    runtime.block_on(context.close());
    runtime.shutdown_timeout(BACKGROUND_WAIT);
    done
}

fn run_one(runtime: &Runtime, context: &Context, command: Command) -> Result<()> {
    let at_signal = command.at_signal();
    runtime.block_on(guard::interruptible(
        context,
        at_signal,
        command.run(context),
    ))
}

/// Sends log lines to standard error. A command other than `daemon` logs nothing, unless `-v` or `RUST_LOG` asks
/// for it.
fn start_tracing(cli: &Cli) {
    let quiet = match cli.command {
        Command::Daemon(_) => USUAL_LINES,
        _ => "off",
    };
    let filter = match cli.global.verbose {
        0 => quiet,
        1 => USUAL_LINES,
        2 => "info,lattice=debug",
        _ => "debug,lattice=trace",
    };
    let asked_for = std::env::var("RUST_LOG").ok();
    let filter: Targets = asked_for
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| filter.parse().expect("these filters are well formed"));
    Lines::begin();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Lines)
        // It would panic where standard error takes nothing.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
}

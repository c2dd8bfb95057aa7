//! The command line: global options and the list of commands.
//!
//! The arguments of a command are defined in the module of its noun, beside the code that uses them.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use lattice_daemon::Idle;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::guard::AtSignal;
use crate::{call, daemon, history, join, members, node, notices, plugin, sim, store, written};

const AFTER_HELP: &str = "\
Examples:
  lattice store create notes --plugin kv        a new store
  lattice call notes put greeting 'hello'       changes it
  lattice query notes get greeting              reads it
  lattice store invite notes                    prints a token …
  lattice store join TOKEN                      … with which another node joins

Exit codes:
  0  done                              4  failed: I/O, limits, bad file or token
  1  refused by the program, trapped   5  the store is joining, paused or headless
  2  wrong usage                       6  not allowed
  3  cannot reach or open the node

A command talks to the daemon of its home; where none runs it opens the home
itself. STORE is a store's name, its path (parent/child), or at least 8 digits
of its id.
`lattice help COMMAND` says more about a command.";

/// Replicates programs: a store is a WebAssembly component whose calls every member's node runs in the
/// same order.
#[derive(Debug, Parser)]
#[command(
    name = "lattice",
    bin_name = "lattice",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = AFTER_HELP,
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The node's directory [default: $LATTICE_HOME, else the XDG data directory]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document, or of a stream one a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Say more on standard error; twice and three times even more
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node until SIGINT, SIGTERM or SIGHUP
    Daemon(daemon::DaemonArgs),
    /// Show this node, its stores, its peers, and what each lacks and why
    Status,
    /// Examine the home, clock, disk, sockets and network
    Doctor,
    /// Manage the plugins that stores are created from
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Create, join and look after stores
    #[command(subcommand)]
    Store(StoreCommand),
    /// Run a command of a store, or several as one transaction
    Call(call::CallArgs),
    /// Run a query of a store once
    Query(call::QueryArgs),
    /// Run a query again each time its result changes
    Watch(call::WatchArgs),
    /// Show what a person should know: changed outcomes, forks, divergence, clocks, copied homes
    Notices(notices::NoticesArgs),
    /// The same commands at a prompt, with completion, history and a current store
    Shell,
    /// Run networks of nodes in virtual time, from one seed
    Sim(sim::SimArgs),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions(written::CompletionsArgs),
    /// Print or write manual pages
    #[command(hide = true)]
    Man(written::ManArgs),
}

/// The verbs of `store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Create a store
    Create(store::CreateArgs),
    /// List the stores of this node
    List,
    /// Show a store's heads, roots, members' lag, and what floats or is parked and why
    Status(store::StoreArgs),
    /// Give a store another name
    Rename(store::RenameArgs),
    /// Drop a store's state and fold its log again
    Rebuild(store::StoreArgs),
    /// Start a new chain of this device when its last entry lies too far ahead of the clock
    RestartChain(store::StoreArgs),
    /// Show a store's entries: time claimed, time received, author, call, outcome
    History(history::HistoryArgs),
    /// Print a token with which another node can join
    Invite(join::InviteArgs),
    /// Join a store with a token
    Join(join::JoinArgs),
    /// List a store's members
    Members(store::StoreArgs),
    /// End a member's rights
    Revoke(members::RevokeArgs),
    /// Give a member another role
    Role(members::RoleArgs),
    /// Show or set how many bytes a member, or each member with a role, may write
    Quota(members::QuotaArgs),
    /// Admit a member again that was revoked or has resigned
    Readmit(members::ReadmitArgs),
}

impl Command {
    /// How the command ends at a signal.
    pub(crate) fn at_signal(&self) -> AtSignal {
        match self {
            Command::Watch(_) => AtSignal::End,
            _ => AtSignal::GiveUp,
        }
    }

    /// Runs the command. `shell` fails: it arrives here only when it is typed into a shell.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            Command::Daemon(args) => daemon::run(context, args, Idle::default()).await,
            Command::Status => node::status(context).await,
            Command::Doctor => node::doctor(context).await,
            Command::Plugin(command) => command.run(context).await,
            Command::Store(command) => command.run(context).await,
            Command::Call(args) => call::call(context, args).await,
            Command::Query(args) => call::query(context, args).await,
            Command::Watch(args) => call::watch(context, args).await,
            Command::Notices(args) => notices::run(context, args).await,
            Command::Shell => Err(Failure::usage("this is the shell already")),
            Command::Sim(args) => sim::run(context, &args).await,
            Command::Completions(args) => written::completions(context.output, &args),
            Command::Man(args) => written::man(context.output, &args),
        }
    }
}

impl StoreCommand {
    async fn run(self, context: &Context) -> Result<()> {
        match self {
            StoreCommand::Create(args) => store::create(context, args).await,
            StoreCommand::List => store::list(context).await,
            StoreCommand::Status(args) => store::status(context, args).await,
            StoreCommand::Rename(args) => store::rename(context, args).await,
            StoreCommand::Rebuild(args) => store::rebuild(context, args).await,
            StoreCommand::RestartChain(args) => store::restart_chain(context, args).await,
            StoreCommand::History(args) => history::run(context, args).await,
            StoreCommand::Invite(args) => join::invite(context, args).await,
            StoreCommand::Join(args) => join::join(context, args).await,
            StoreCommand::Members(args) => members::list(context, args).await,
            StoreCommand::Revoke(args) => members::revoke(context, args).await,
            StoreCommand::Role(args) => members::role(context, args).await,
            StoreCommand::Quota(args) => members::quota(context, args).await,
            StoreCommand::Readmit(args) => members::readmit(context, args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("lattice").chain(line.split_whitespace()))
    }

    fn words_of(line: &str) -> Vec<String> {
        let Command::Call(args) = parse(line).expect("parses").command else {
            panic!("a call expected");
        };
        args.words
            .iter()
            .map(|word| word.to_str().expect("UTF-8").to_owned())
            .collect()
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_function_belongs_to_it() {
        assert_eq!(words_of("call s add -5"), ["add", "-5"]);
        assert_eq!(
            words_of("call s add --json --home x"),
            ["add", "--json", "--home", "x"]
        );
        assert_eq!(
            words_of("call s add -- --by -h"),
            ["add", "--", "--by", "-h"]
        );
        let cli = parse("call --json s add 5").expect("parses");
        assert!(cli.global.json);
    }

    #[test]
    fn global_options_stand_anywhere_before_a_function() {
        for line in [
            "--home /h --json store list",
            "store --home /h list --json",
            "store list --home /h --json",
        ] {
            let cli = parse(line).expect(line);
            assert!(cli.global.json, "{line}");
            assert_eq!(cli.global.home, Some("/h".into()), "{line}");
        }
    }

    #[test]
    fn a_transaction_takes_a_file_instead_of_a_function() {
        assert!(parse("call s --tx file").is_ok());
        assert!(parse("call --tx file s").is_ok());
        assert!(parse("call --tx file s add 5").is_err());
        assert!(parse("call s").is_err());
    }

    #[test]
    fn later_commands_are_left_out() {
        for line in ["plugin new x", "store leave s", "blob list", "fs ls"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

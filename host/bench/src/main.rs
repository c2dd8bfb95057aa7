//! `lattice-bench`: measures a node beside the raw limits of its machine.
//!
//! Each figure is measured several times, in turns with its raw limit: what the machine itself can do. On a
//! machine that does other things as well, only the two together mean something.
//! `cargo xtask bench` builds what this needs and runs it.

mod attack;
mod calls;
mod client;
mod deleted;
mod entries;
mod figure;
mod in_process;
mod join;
mod large;
mod layout;
mod memory;
mod node;
mod raw;
mod report;
mod restart;
mod settings;
mod signatures;
mod sizes;
mod store;
mod visible;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::figure::Figure;
use crate::settings::Settings;

/// Measures a node beside the raw limits of its machine. Ends with status 1 when a target is missed.
#[derive(Debug, Parser)]
#[command(name = "lattice-bench", max_term_width = 100)]
struct Cli {
    /// What to measure [default: everything but `large` and `deleted`]
    #[arg(value_enum, value_name = "FIGURE")]
    groups: Vec<Group>,
    /// The `lattice` binary to measure
    #[arg(long, value_name = "FILE")]
    lattice: PathBuf,
    /// The directory with the built components
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// Where homes and raw files are made, on the disk to measure [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How often each figure is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: u8,
    /// How long calls and queries are loaded in each configuration of a run, in seconds
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Intentions of the stores that are joined and opened
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    entries: u64,
    /// Print instead what the rows of a store of `--entries` entries take on disk, by kind
    #[arg(long)]
    layout: bool,
    /// Print instead the time and memory to open, recover, rebuild and join a store of `--entries` entries
    #[arg(long, conflicts_with = "layout")]
    sizes: bool,
    /// Where the store of `--sizes` and `large` is filled; a directory in memory takes minutes where a disk
    /// takes an hour [default: as --dir]
    #[arg(long, value_name = "DIR")]
    fill_dir: Option<PathBuf>,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Figures that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Durable calls of one and of 64 clients, and queries
    Calls,
    /// From a call on one node to the event of a watch on another
    Visible,
    /// Joining a store
    Join,
    /// Resident memory of an idle daemon
    Memory,
    /// From the start of a daemon to its first answer
    Restart,
    /// Opening a large store after SIGKILL, of as many intentions as `--entries` says; filling it takes long
    Large,
    /// Verification of signatures
    Signatures,
    /// Calls and received entries without daemon and socket
    InProcess,
    /// Calls of one store while another one runs hostile guests
    Attack,
    /// Pops and scans behind a million rows that were deleted; only when it is named
    Deleted,
}

fn main() -> ExitCode {
    if let Some(code) = raw::child() {
        return code;
    }
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures and prints. Returns whether all targets are met.
fn run(cli: &Cli) -> Result<bool> {
    ensure!(
        cli.lattice.is_file(),
        "{} is not there",
        cli.lattice.display()
    );
    let settings = Settings {
        // The absolute path is valid in any working directory.
        lattice: cli.lattice.canonicalize()?,
        plugins: cli.plugins.clone(),
        place: cli.dir.clone(),
        fill_place: cli.fill_dir.clone(),
        runs: cli.runs.into(),
        load: Duration::from_secs(cli.seconds),
        entries: cli.entries,
    };
    let place = cli.dir.clone().unwrap_or_else(std::env::temp_dir);
    if is_in_memory(&place)? {
        eprintln!(
            "warning: {} is kept in memory, where a commit costs nothing: give --dir on a disk",
            place.display()
        );
    }
    if cli.layout {
        layout::print(&settings)?;
        return Ok(true);
    }
    // One thread, so that a client costs the same whether there is one or there are many.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        // Dropping the measurement kills its daemons and removes their homes.
        tokio::select! {
            figures = measure(cli, &settings) => figures,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    if cli.sizes {
        return Ok(true);
    }
    if cli.json {
        println!("{:#}", report::document(&figures));
    } else {
        print!("{}", report::table(&figures));
    }
    Ok(figures.iter().all(|figure| figure.is_met() != Some(false)))
}

async fn measure(cli: &Cli, settings: &Settings) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if cli.sizes {
        sizes::print(settings).await?;
        return Ok(figures);
    }
    for &group in Group::value_variants() {
        let asked = match cli.groups.is_empty() {
            true => !matches!(group, Group::Large | Group::Deleted),
            false => cli.groups.contains(&group),
        };
        if !asked {
            continue;
        }
        let measured = match group {
            Group::Calls => calls::measure(settings).await,
            Group::Visible => visible::measure(settings).await,
            Group::Join => join::measure(settings).await,
            Group::Memory => memory::measure(settings).await,
            Group::Restart => restart::measure(settings).await,
            Group::Large => large::measure(settings).await,
            Group::Signatures => signatures::measure(settings),
            Group::InProcess => in_process::measure(settings),
            Group::Attack => attack::measure(settings).await,
            Group::Deleted => deleted::measure(settings),
        };
        figures.extend(measured.with_context(|| format!("measuring {group:?}"))?);
    }
    Ok(figures)
}

/// Whether files in this directory are kept in memory, and never reach a disk.
fn is_in_memory(place: &Path) -> Result<bool> {
    /// The type of tmpfs in `statfs(2)`.
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let found = rustix::fs::statfs(place).with_context(|| format!("{}", place.display()))?;
    Ok(found.f_type as i64 == TMPFS_MAGIC)
}

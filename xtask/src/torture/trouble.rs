//! One trouble: how it comes to a machine, how it ends, and what must hold until the machine has recovered.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::lan::Lan;
use super::machine::Machine;
use super::plan::{Kind, Step};
use super::truth::faults_of_log;
use super::world::World;
use crate::plugins;

/// How long a machine may take to recover once its trouble has ended. The bounds of torture tell late from never, also
/// on a machine with much else to do; how long it took is in the table.
pub(super) const RECOVERY_MAX: Duration = Duration::from_secs(180);
/// How long a query may go without an answer while its machine has trouble.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How far a clock jumps ahead: beyond what any store lets an entry be ahead.
const AHEAD_S: i64 = 3 * 86_400 + 7;
/// How far a clock jumps back.
const BEHIND_S: i64 = -2 * 3_600 - 7;
/// The component that a machine compiles and joins while its program is another: it is not bundled.
const FOREIGN: &str = "bank";

/// Lets a trouble come, end, and be recovered from. Returns how long the recovery took. Faults are noted in the world.
///
/// # Errors
///
/// When the machine does not recover, or torture itself fails.
pub(super) fn undergo(world: &World, step: Step, peer: usize) -> Result<Duration> {
    let (machine, troubles) = world.machine(step.machine);
    let (peer, _) = world.machine(peer);
    judge_log(world, machine, None);
    troubles.begin(step.kind);
    let begun = come_and_go(world, machine, peer, step)
        .with_context(|| format!("{}: {}", machine.name(), step.kind.name()))?;
    let recovered = recover(world, machine, peer, begun)
        .with_context(|| format!("{}: after {}", machine.name(), step.kind.name()))?;
    world.ledger.check_own(machine).unwrap_or_else(|error| {
        let kind = step.kind.name();
        world.fault(format!("after {kind}: {error:#}"));
    });
    // What clients were told before may be judged a moment later.
    troubles.end();
    judge_log(world, machine, Some(step.kind));
    Ok(recovered)
}

/// Judges what a daemon has logged since it was last judged, by the trouble that its machine had.
pub(super) fn judge_log(world: &World, machine: &Machine, kind: Option<Kind>) {
    for fault in faults_of_log(kind, &machine.logged()) {
        let name = kind.map_or("no trouble", Kind::name);
        world.fault(format!("{} ({name}): {fault}", machine.name()));
    }
}

/// Lets a trouble come and end. Returns when it ended.
fn come_and_go(world: &World, machine: &Machine, peer: &Machine, step: Step) -> Result<Instant> {
    let lasts = || thread::sleep(step.lasts);
    match step.kind {
        Kind::Kill => {
            machine.kill()?;
            lasts();
            return restart(machine);
        }
        Kind::Freeze => {
            machine.signal(Signal::STOP)?;
            lasts();
            machine.signal(Signal::CONT)?;
        }
        Kind::FullDisk => {
            machine.disk.fill()?;
            lasts();
            answers(world, machine);
            machine.disk.empty()?;
        }
        Kind::ReadOnlyDisk => {
            machine.stop()?;
            machine.disk.remount(false)?;
            machine.start()?;
            lasts();
            answers(world, machine);
            machine.disk.remount(true)?;
        }
        Kind::BrokenDisk => {
            machine.disk.break_down()?;
            lasts();
            answers(world, machine);
            machine.stop()?;
            machine.disk.repair()?;
            return restart(machine);
        }
        Kind::Descriptors => {
            let open = machine.open_files()?;
            machine.limit_files(&(open + 1).to_string())?;
            lasts();
            machine.limit_files("4096")?;
        }
        Kind::Link => {
            Lan::link(machine.number, false)?;
            lasts();
            answers(world, machine);
            Lan::link(machine.number, true)?;
        }
        Kind::ClockAhead | Kind::ClockBehind => {
            machine.clock.set(match step.kind {
                Kind::ClockAhead => AHEAD_S,
                _ => BEHIND_S,
            })?;
            lasts();
            answers(world, machine);
            machine.clock.set(0)?;
        }
        Kind::Program => {
            machine.replace_program()?;
            machine.forget_compiled()?;
            join_foreign(machine, peer)?;
            lasts();
            machine.restore_program()?;
            machine.stop()?;
            return restart(machine);
        }
    }
    Ok(Instant::now())
}

/// Starts a daemon whose trouble is over.
fn restart(machine: &Machine) -> Result<Instant> {
    let begun = Instant::now();
    machine.start()?;
    Ok(begun)
}

/// Queries are answered whatever the trouble is.
fn answers(world: &World, machine: &Machine) {
    for words in [
        &["query", "clicks", "value"][..],
        &["status"],
        &["store", "status", "records"],
    ] {
        let begun = Instant::now();
        while let Err(error) = machine.text(words) {
            // A store may be opened anew at the moment.
            if begun.elapsed() > ANSWER_MAX {
                world.fault(format!("a query is not answered: {error:#}"));
                break;
            }
        }
    }
}

/// Joins a new store whose component must be compiled, and writes to it.
fn join_foreign(machine: &Machine, peer: &Machine) -> Result<()> {
    let component = plugins::directory().join(format!("{FOREIGN}.wasm"));
    peer.text(&["plugin", "install", &component.display().to_string()])?;
    // A name that no other store has.
    let number = peer.json(&["store", "list"])?["stores"]
        .as_array()
        .map_or(0, Vec::len);
    let name = format!("side-{}-{number}", peer.name());
    peer.text(&["store", "create", &name, "--plugin", FOREIGN])?;
    let invite = peer.json(&["store", "invite", &name])?;
    let token = invite["token"].as_str().context("an invite has a token")?;
    machine.text(&["store", "join", token, "--yes"])?;
    machine.text(&["call", &name, "open", "ann"])?;
    Ok(())
}

/// Waits until a machine acknowledges calls again, a peer has what it wrote, and it has what the peer wrote.
fn recover(world: &World, machine: &Machine, peer: &Machine, begun: Instant) -> Result<Duration> {
    let mut said;
    let id = loop {
        if let Some(status) = machine.ended()? {
            bail!("the daemon has ended by itself: {status}");
        }
        match world.call(machine, 0) {
            Ok(id) => break id,
            Err(error) => said = error,
        }
        ensure!(
            begun.elapsed() < RECOVERY_MAX,
            "no call is acknowledged within {RECOVERY_MAX:?}: {said}"
        );
        thread::sleep(Duration::from_millis(50));
    };
    until_there(peer, &id, begun)?;
    let id = world
        .call(peer, 0)
        .map_err(|said| anyhow::anyhow!("{} has no trouble, and says {said}", peer.name()))?;
    until_there(machine, &id, begun)?;
    Ok(begun.elapsed())
}

/// Waits until a machine has the record with this id, as `append` prints it.
fn until_there(machine: &Machine, id: &str, begun: Instant) -> Result<()> {
    let given = format!("@{id}");
    loop {
        if machine
            .text(&["query", "records", "get", &given])?
            .starts_with("some")
        {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < RECOVERY_MAX,
            "{} does not get {id}, which was written elsewhere, within {RECOVERY_MAX:?}; it has {}",
            machine.name(),
            machine.text(&["store", "status", "records"])?
        );
        thread::sleep(Duration::from_millis(50));
    }
}

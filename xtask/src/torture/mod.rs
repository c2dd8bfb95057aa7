//! Torture: a bad week on real daemons, in minutes.
//!
//! Several daemons with homes on disks of their own share stores of the bundled plugins, and clients write to each of
//! them without a pause. Meanwhile a plan, which a seed draws, has them killed, stopped, cut off and misled. Nothing
//! that was acknowledged may be lost, everybody recovers without a person, and what is said of a trouble is true.

mod clock;
mod disk;
mod enclosure;
mod lan;
mod ledger;
mod machine;
mod plan;
mod trouble;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::plan::{Kind, Plan};
use self::world::World;
use crate::{ci, shell, ship};

/// The minutes and the seed of a change that must pass.
const CI: Options = Options {
    minutes: 2,
    seed: 1,
    is_release: false,
};
/// Clients of each machine.
const CLIENTS: u64 = 2;
/// From so many minutes on, troubles last longer.
const LONG_MINUTES: u64 = 30;

const USAGE: &str = "cargo xtask torture [--minutes N] [--seed S] [--release]";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    minutes: u64,
    seed: u64,
    is_release: bool,
}

/// Builds, and tortures daemons as the arguments say.
///
/// # Errors
///
/// When an argument is wrong, something does not build, or a fault is found.
pub fn run(arguments: &[String]) -> Result<()> {
    if arguments.first().is_some_and(|first| first == INSIDE) {
        let [_, minutes, seed, program] = arguments else {
            bail!("{INSIDE} is for torture itself: {USAGE}");
        };
        let (minutes, seed) = (minutes.parse()?, seed.parse()?);
        return inside(minutes, seed, Path::new(program));
    }
    let options = parse(arguments)?;
    let program = match options.is_release {
        false => {
            ci::ship()?;
            ship::program()
        }
        true => {
            ci::plugins()?;
            let mut cargo = shell::cargo();
            shell::run(cargo.args(["build", "--release", "--package", "lattice"]))?;
            shell::target_dir().join("release/lattice")
        }
    };
    shell::step("torture", || outside(options, &program))
}

/// Tortures daemons for the time that a change has, with the last shipping build.
///
/// # Errors
///
/// When a fault is found.
pub fn ci() -> Result<()> {
    shell::step("torture", || outside(CI, &ship::program()))
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = CI;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let word = words
                .next()
                .with_context(|| format!("{word} needs a number: {USAGE}"))?;
            word.parse()
                .with_context(|| format!("{word:?} is no number: {USAGE}"))
        };
        match word.as_str() {
            "--minutes" => options.minutes = number()?,
            "--seed" => options.seed = number()?,
            "--release" => options.is_release = true,
            other => bail!("there is no argument {other:?}: {USAGE}"),
        }
    }
    Ok(options)
}

/// Says that this process is in an enclosure already.
const INSIDE: &str = "--inside";

/// Where torture's files are while it runs: in memory, mounted in the enclosure alone.
fn run_directory() -> PathBuf {
    shell::target_dir().join("torture/run")
}

/// The copy of this program that runs in the enclosure.
fn own_copy() -> PathBuf {
    shell::target_dir().join("torture/xtask")
}

/// Runs torture in an enclosure, and waits for it.
fn outside(options: Options, program: &Path) -> Result<()> {
    crate::setup::tests()?;
    fs::create_dir_all(run_directory()).context("the directory of torture")?;
    let arguments = [
        "torture".to_owned(),
        INSIDE.to_owned(),
        options.minutes.to_string(),
        options.seed.to_string(),
        program.display().to_string(),
    ];
    let own = own_copy();
    shell::copy_own_program(&own)?;
    let mut enclosure = enclosure::enter(&own, &arguments)?;
    // `wait` closes standard input, which would end it.
    let stdin = enclosure.stdin.take();
    let status = enclosure.wait()?;
    drop(stdin);
    let left = fs::read_dir(run_directory())?.count();
    ensure!(
        left == 0,
        "{left} files are left in {}",
        run_directory().display()
    );
    ensure!(
        status.success(),
        "torture found faults; `cargo xtask torture --minutes {} --seed {}` makes the same plan",
        options.minutes,
        options.seed
    );
    Ok(())
}

/// Torture itself, as process 1 of an enclosure.
fn inside(minutes: u64, seed: u64, program: &Path) -> Result<()> {
    ensure!(
        std::process::id() == 1,
        "{INSIDE} is for torture itself: {USAGE}"
    );
    enclosure::end_with_standard_input();
    let run = run_directory();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "mode=0700", "torture"]);
    shell::read(mount.arg(&run))?;
    // Symbols would be most of the memory that torture takes.
    let mut strip = Command::new("strip");
    shell::run(strip.arg("-o").arg(run.join("lattice")).arg(program))?;
    let began = Instant::now();
    let ended = World::make(&run, began).and_then(|world| live(&world, minutes, seed));
    if ended.is_err() {
        let kept = shell::target_dir().join(format!("torture/seed-{seed}"));
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept)?;
        for log in fs::read_dir(run.join("logs"))? {
            let log = log?;
            fs::copy(log.path(), kept.join(log.file_name()))?;
        }
        eprintln!("the logs of the daemons are in {}", kept.display());
    }
    ended
}

/// Groups of machines: within one, one machine at a time has trouble.
fn groups(world: &World) -> Vec<Vec<(usize, disk::Make)>> {
    let of = |machine: &machine::Machine| (machine.number, machine.disk.make());
    let (first, second) = world.machines.split_at(3);
    vec![
        first.iter().map(of).collect(),
        second.iter().map(of).collect(),
    ]
}

/// How long the machines took to recover, by kind.
type Times = Mutex<BTreeMap<Kind, Vec<Duration>>>;

fn live(world: &World, minutes: u64, seed: u64) -> Result<()> {
    println!(
        "{} daemons, {} clients, {minutes} min, seed {seed}; ready after {:.1} s",
        world.machines.len(),
        CLIENTS * world.machines.len() as u64,
        world.began.elapsed().as_secs_f64()
    );
    let absent = Kind::ALL.iter().filter(|kind| {
        !world
            .machines
            .iter()
            .any(|it| kind.comes_to(it.disk.make()))
    });
    for kind in absent {
        println!(
            "not possible here, for lack of a loop device: {}",
            kind.name()
        );
    }
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let times = Times::default();
    let has_failed = AtomicBool::new(false);
    let scale = if minutes >= LONG_MINUTES { 3 } else { 1 };
    let groups = groups(world);
    thread::scope(|scope| {
        for machine in &world.machines {
            for client in 0..CLIENTS {
                let seed = seed ^ (machine.number as u64 * CLIENTS + client) << 32;
                scope.spawn(move || world.client(machine.number, seed));
            }
        }
        let plans = Plan::of(seed, &groups, scale);
        let lives: Vec<_> = plans
            .into_iter()
            .zip(&groups)
            .map(|(plan, group)| {
                let (times, has_failed) = (&times, &has_failed);
                scope.spawn(move || {
                    let ended = troubles(world, plan, group, until, times, has_failed);
                    if let Err(error) = ended {
                        has_failed.store(true, Ordering::SeqCst);
                        world.fault(format!("{error:#}"));
                    }
                })
            })
            .collect();
        for life in lives {
            life.join().expect("a plan does not panic");
        }
        world.silence();
    });
    if !has_failed.load(Ordering::SeqCst) {
        end(world)?;
    }
    table(world, &times);
    let faults = world.fault_count();
    ensure!(faults == 0, "{faults} faults, seed {seed}");
    Ok(())
}

/// Has the troubles of a plan come until the time is over, and each kind that it begins with has come.
fn troubles(
    world: &World,
    mut plan: Plan,
    group: &[(usize, disk::Make)],
    until: Instant,
    times: &Times,
    has_failed: &AtomicBool,
) -> Result<()> {
    let mut left = plan.first();
    while (Instant::now() < until || left > 0) && !has_failed.load(Ordering::SeqCst) {
        left = left.saturating_sub(1);
        let step = plan.step();
        thread::sleep(step.after);
        let mut peers = group.iter().map(|(number, _)| *number);
        let peer = peers.find(|number| *number != step.machine);
        let began = world.began.elapsed();
        let recovered = trouble::undergo(world, step, peer.context("a group has two machines")?)?;
        println!(
            "{:>7.1} s  m{}  {:<17} {:>5.1} s   recovered after {:>5.1} s",
            began.as_secs_f64(),
            step.machine,
            step.kind.name(),
            step.lasts.as_secs_f64(),
            recovered.as_secs_f64()
        );
        let mut times = times.lock().expect("no holder panics");
        times.entry(step.kind).or_default().push(recovered);
    }
    Ok(())
}

/// What must hold when no trouble is left.
fn end(world: &World) -> Result<()> {
    let equal = world.wait_equal()?;
    println!("all stores are equal after {:.1} s", equal.as_secs_f64());
    for machine in &world.machines {
        if let Err(error) = world.ledger.check_all(machine) {
            world.fault(format!("{error:#}"));
        }
        examine(world, machine)?;
        trouble::judge_log(world, machine, None);
    }
    for machine in &world.machines {
        machine.stop()?;
    }
    let left = enclosure::others(&world.lan.keepers())?;
    if !left.is_empty() {
        world.fault(format!("processes are left: {left:?}"));
    }
    Ok(())
}

/// Notices are about what was; after they were read, the examination is content.
fn examine(world: &World, machine: &machine::Machine) -> Result<()> {
    let told = machine.json(&["notices"])?;
    let notices = told["notices"].as_array().context("notices are a list")?;
    let mut texts = BTreeMap::<String, usize>::new();
    for notice in notices {
        let text = notice["text"].as_str().unwrap_or_default().to_owned();
        *texts.entry(text).or_default() += 1;
    }
    for (text, count) in &texts {
        println!(
            "         m{}  notice, {count} times: {text}",
            machine.number
        );
    }
    machine.text(&["notices", "ack", "--all"])?;
    // It fails when a check has failed, and its words are in the document.
    let output = machine.run(&["--json", "doctor"])?;
    let document: Value = serde_json::from_slice(&output.stdout).context("doctor's document")?;
    for check in document["checks"].as_array().context("checks are a list")? {
        // What the machine under torture lacks is no trouble of ours.
        if check["level"] != "ok" && check["name"] != "fuse" {
            world.fault(format!(
                "{}: doctor is not content: {check}",
                machine.name()
            ));
        }
    }
    Ok(())
}

fn table(world: &World, times: &Times) {
    println!(
        "\n{:<17} {:>5}  {:>8}  {:>8}",
        "trouble", "times", "median", "longest"
    );
    for (kind, times) in times.lock().expect("no holder panics").iter_mut() {
        times.sort();
        println!(
            "{:<17} {:>5}  {:>6.1} s  {:>6.1} s",
            kind.name(),
            times.len(),
            times[times.len() / 2].as_secs_f64(),
            times.last().expect("there is one").as_secs_f64()
        );
    }
    let (acknowledged, made) = world.ledger.counts();
    println!(
        "{acknowledged} of {made} calls were acknowledged; {} faults",
        world.fault_count()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_wrong_ones_refused() {
        let parsed = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            parse(&words)
        };
        assert_eq!(parsed(&[]).expect("defaults"), CI);
        let given = parsed(&["--seed", "7", "--release", "--minutes", "90"]);
        let expected = Options {
            minutes: 90,
            seed: 7,
            is_release: true,
        };
        assert_eq!(given.expect("they are right"), expected);
        for wrong in [&["--seed"][..], &["--seed", "x"], &["5"]] {
            let error = parsed(wrong).expect_err("it is wrong").to_string();
            assert!(error.contains(USAGE), "{error}");
        }
    }
}

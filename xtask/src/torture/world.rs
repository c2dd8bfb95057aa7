//! The world of torture: machines whose stores are shared, clients that write to them, and what is found wrong.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::clock;
use super::disk::{Disk, Make};
use super::lan::Lan;
use super::ledger::{Ledger, STORES};
use super::machine::Machine;
use super::plan::{Kind, Random};
use super::truth::{Troubles, untrue_to_clients};

/// How many machines there are. The last one has a disk that breaks, if this machine can make one.
const MACHINES: usize = 5;
/// How long stores may take to become equal when nothing is in their way any more.
pub(super) const EQUAL_MAX: Duration = Duration::from_secs(300);
/// How long a client waits for an answer. A daemon may be stopped meanwhile.
const CLIENT_PATIENCE: Duration = Duration::from_secs(600);
/// How long a client rests between two calls, in milliseconds.
const REST_MS: (u64, u64) = (100, 500);

/// Everything that torture has.
pub(super) struct World {
    pub(super) machines: Vec<Machine>,
    pub(super) troubles: Vec<Troubles>,
    pub(super) ledger: Ledger,
    pub(super) began: Instant,
    pub(super) lan: Arc<Lan>,
    faults: Mutex<Vec<String>>,
    /// Whether clients make no calls any more.
    quiet: AtomicBool,
}

impl World {
    /// Makes machines below `run`, with daemons that share all stores.
    ///
    /// # Errors
    ///
    /// When something does not start.
    pub(super) fn make(run: &Path, began: Instant) -> Result<World> {
        fs::create_dir_all(run.join("logs"))?;
        let library = clock::build(run)?;
        let lan = Arc::new(Lan::of(MACHINES)?);
        let mut machines = Vec::new();
        for number in 1..=MACHINES {
            let make = match number == MACHINES && Disk::is_possible(Make::Image) {
                true => Make::Image,
                false => Make::Memory,
            };
            machines.push(Machine::new(number, run, make, &library, &lan)?);
        }
        for machine in &machines {
            machine.start()?;
        }
        let world = World {
            troubles: machines.iter().map(|_| Troubles::default()).collect(),
            machines,
            ledger: Ledger::default(),
            began,
            lan,
            faults: Mutex::default(),
            quiet: AtomicBool::new(false),
        };
        let (first, others) = world.machines.split_first().expect("there are some");
        for (store, plugin) in STORES {
            first.text(&["store", "create", store, "--plugin", plugin])?;
            for other in others {
                let invite = first.json(&["store", "invite", store])?;
                let token = invite["token"].as_str().context("an invite has a token")?;
                other.text(&["store", "join", token, "--yes"])?;
            }
        }
        Ok(world)
    }

    /// The machine with that number, and its troubles.
    pub(super) fn machine(&self, number: usize) -> (&Machine, &Troubles) {
        (&self.machines[number - 1], &self.troubles[number - 1])
    }

    /// Notes a fault, and prints it.
    pub(super) fn fault(&self, text: String) {
        eprintln!(
            "{:>7.1} s  FAULT  {text}",
            self.began.elapsed().as_secs_f64()
        );
        self.faults.lock().expect("no holder panics").push(text);
    }

    /// How many faults were found.
    pub(super) fn fault_count(&self) -> usize {
        self.faults.lock().expect("no holder panics").len()
    }

    /// Lets clients make no more calls.
    pub(super) fn silence(&self) {
        self.quiet.store(true, Ordering::SeqCst);
    }

    /// Makes calls on a machine until there is silence.
    pub(super) fn client(&self, number: usize, seed: u64) {
        let (machine, troubles) = self.machine(number);
        let mut random = Random(seed);
        while !self.quiet.load(Ordering::SeqCst) {
            let store = random.between(0, STORES.len() as u64) as usize;
            let begun = Instant::now();
            if let Err(said) = self.call(machine, store) {
                let kinds = troubles.since(begun);
                if let Some(why) = untrue_to_clients(&kinds, &said) {
                    let names: Vec<_> = kinds.iter().map(|kind: &Kind| kind.name()).collect();
                    let names = match names.is_empty() {
                        true => "no trouble".to_owned(),
                        false => names.join(", "),
                    };
                    self.fault(format!(
                        "{} ({names}): an error of a client {why}: {said}",
                        machine.name()
                    ));
                }
            }
            let rest = Duration::from_millis(random.between(REST_MS.0, REST_MS.1));
            thread::sleep(rest);
        }
    }

    /// Makes one call. The error is what a client is told.
    pub(super) fn call(&self, machine: &Machine, store: usize) -> Result<String, String> {
        let call = self.ledger.next(machine.number, store);
        let output = machine
            .run_within(&call.words(), CLIENT_PATIENCE)
            .map_err(|error| format!("{error:#}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} ({})", said.trim(), output.status));
        }
        self.ledger.acknowledged(machine.number, &call);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until all machines have the same stores. Returns how long that takes.
    ///
    /// # Errors
    ///
    /// When they do not become equal; the text has what they have.
    pub(super) fn wait_equal(&self) -> Result<Duration> {
        let begun = Instant::now();
        for (store, _) in STORES {
            loop {
                let mut all = Vec::new();
                for machine in &self.machines {
                    let status = machine.json(&["store", "status", store])?;
                    let field = |name: &str| status[name].to_string();
                    all.push((
                        field("state"),
                        field("applied_count"),
                        field("applied_hash"),
                        field("state_root"),
                        field("outcome_root"),
                    ));
                }
                if all
                    .iter()
                    .all(|one| *one == all[0] && one.0.contains("ready"))
                {
                    break;
                }
                ensure!(
                    begun.elapsed() < EQUAL_MAX,
                    "{store} does not become equal within {EQUAL_MAX:?}: {all:#?}"
                );
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(begun.elapsed())
    }
}

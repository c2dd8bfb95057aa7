//! The network of torture's machines: a namespace each, joined by a bridge, and no way out.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::shell;

/// The port of each daemon. Every machine has an address of its own, so none is taken.
const PORT: u16 = 7701;

/// Machines whose interfaces `eth0` are joined by a bridge.
#[derive(Debug)]
pub(super) struct Lan {
    /// Each holds the namespace of a machine.
    keepers: Vec<Child>,
}

impl Lan {
    /// A network of so many machines, in the network namespace of this process.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub(super) fn of(machines: usize) -> Result<Lan> {
        sh(
            "ip link set lo up && ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up",
        )?;
        let mut lan = Lan {
            keepers: Vec::new(),
        };
        for number in 1..=machines {
            let mut keeper = Command::new("unshare")
                .args([
                    "--net",
                    "sh",
                    "-c",
                    "ip link set lo up && echo ready && exec cat",
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot make a network namespace")?;
            let mut said = String::new();
            BufReader::new(keeper.stdout.take().expect("piped")).read_line(&mut said)?;
            ensure!(said == "ready\n", "a network namespace does not start");
            let process = keeper.id();
            lan.keepers.push(keeper);
            sh(&format!(
                "ip link add m{number} type veth peer name eth0 netns {process} &&
                ip link set m{number} master br0 up"
            ))?;
            let address =
                format!("ip addr add 10.77.0.{number}/24 dev eth0 && ip link set eth0 up");
            shell::run(lan.inside(number).args(["sh", "-c", &address]))?;
        }
        Ok(lan)
    }

    /// A command on a machine, counted from 1, to which the program and its arguments are added.
    pub(super) fn inside(&self, machine: usize) -> Command {
        let process = self.keepers[machine - 1].id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &process, "--net"]);
        command
    }

    /// The address at which the daemon of a machine listens.
    pub(super) fn address(machine: usize) -> String {
        format!("10.77.0.{machine}:{PORT}")
    }

    /// Cuts a machine off, or joins it again.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub(super) fn link(machine: usize, is_up: bool) -> Result<()> {
        let way = if is_up { "up" } else { "down" };
        sh(&format!("ip link set m{machine} {way}"))
    }

    /// The processes that hold the namespaces.
    pub(super) fn keepers(&self) -> Vec<u32> {
        self.keepers.iter().map(Child::id).collect()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for keeper in &mut self.keepers {
            // Its standard input closes, which ends it.
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

fn sh(script: &str) -> Result<()> {
    shell::run(Command::new("sh").args(["-c", script]))
}

//! One node of the demo: a home of its own, a daemon that may run on it, and the command line that talks to it.
//!
//! All commands go through the `lattice` binary, as those of a user do.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::shell;

/// How long a daemon may take until it says that it is ready, and a command until it ends.
const TIME_MAX: Duration = Duration::from_secs(60);

/// How long a daemon may take to end when it is asked to.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

/// A node. Dropping it kills its daemon and removes its home.
pub struct Node {
    name: &'static str,
    caller: Caller,
    home: TempDir,
    daemon: Option<Child>,
}

/// How `lattice` is called on a node's home. It may outlive the node's daemon, and the node.
#[derive(Clone, Debug)]
pub struct Caller {
    program: PathBuf,
    directory: PathBuf,
}

impl Caller {
    /// Returns a command on the node's home, without input.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--home")
            .arg(self.directory.join("home"))
            .args(arguments)
            .current_dir(&self.directory)
            .env_remove("LATTICE_HOME")
            .stdin(Stdio::null());
        command
    }
}

impl Node {
    /// Makes a node with an empty home and no daemon.
    ///
    /// # Errors
    ///
    /// When its home cannot be made, or the program is missing.
    pub fn new(name: &'static str, program: &Path) -> Result<Node> {
        ensure!(
            program.is_file(),
            "{} is not there: `cargo xtask demo` builds it",
            program.display()
        );
        let home = tempfile::Builder::new()
            .prefix("lattice-demo-")
            .tempdir()
            .context("cannot make a home")?;
        let caller = Caller {
            program: program.to_path_buf(),
            directory: home.path().to_path_buf(),
        };
        Ok(Node {
            name,
            caller,
            home,
            daemon: None,
        })
    }

    /// Its name in the demo.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Starts the daemon, on a loopback port that the system chooses, and waits until it is ready.
    /// Returns the first line that it prints.
    ///
    /// # Errors
    ///
    /// When it ends, or says nothing for a minute; the message has what it printed.
    pub fn start(&mut self) -> Result<String> {
        assert!(self.daemon.is_none(), "node {} runs already", self.name);
        let log = self.home.path().join("daemon.log");
        let errors = File::options().create(true).append(true).open(&log)?;
        let arguments = [
            "daemon",
            "--bind",
            "127.0.0.1:0",
            "--no-relay",
            "--no-discovery",
        ];
        let mut child = self
            .caller
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start the daemon of {}", self.name))?;
        let output = child.stdout.take().expect("standard output is piped");
        self.daemon = Some(child);
        let (sender, lines) = channel();
        // The thread goes on reading, so that the daemon never writes into a closed pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        lines.recv_timeout(TIME_MAX).map_err(|_| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            anyhow::anyhow!(
                "the daemon of {} did not become ready; it said:\n{said}",
                self.name
            )
        })
    }

    /// Kills the daemon with SIGKILL, whatever it is doing.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self
            .daemon
            .take()
            .with_context(|| format!("node {} has no daemon", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks the daemon to end, and returns how long it took.
    ///
    /// # Errors
    ///
    /// When it does not run, takes more than two seconds, or ends with another status than 0.
    pub fn stop(&mut self) -> Result<Duration> {
        let mut child = self
            .daemon
            .take()
            .with_context(|| format!("node {} has no daemon", self.name))?;
        let started = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let Some(status) = wait(&mut child, SHUTDOWN_TIME_MAX)? else {
            child.kill()?;
            child.wait()?;
            bail!(
                "the daemon of {} did not end within {SHUTDOWN_TIME_MAX:?}",
                self.name
            );
        };
        ensure!(
            status.success(),
            "the daemon of {} ended with {status}",
            self.name
        );
        Ok(started.elapsed())
    }

    /// Runs `lattice` on this node's home and returns its status and output. If the daemon runs, `lattice` talks to
    /// it, and otherwise it opens the home itself.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or takes more than a minute.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        shell::finish(&mut self.caller.command(arguments), TIME_MAX)?.with_context(|| {
            let line = arguments.join(" ");
            format!(
                "`lattice {line}` on {} took more than {TIME_MAX:?}",
                self.name
            )
        })
    }

    /// Runs `lattice` and returns what it printed, without the last line feed.
    ///
    /// # Errors
    ///
    /// As [`Node::run`], and when its status is not 0; the message has what it printed on standard error.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            let code = output.status;
            bail!(
                "`lattice {}` on {} ended with {code}: {}",
                arguments.join(" "),
                self.name,
                error.trim()
            );
        }
        let text =
            String::from_utf8(output.stdout).context("lattice printed text that is not UTF-8")?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Runs `lattice --json` and returns the document that it printed.
    ///
    /// # Errors
    ///
    /// As [`Node::text`], and when it printed something other than JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.text(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("`lattice --json {}` printed {text}", arguments.join(" ")))
    }

    /// Returns a way to call `lattice` on this node while the node itself is in use.
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            // The call fails when the daemon has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a process for at most `time_max`.
fn wait(child: &mut Child, time_max: Duration) -> Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + time_max;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose program is a shell script; its arguments are `--home`, the home, and the rest.
    fn node(script: &str) -> (TempDir, Node) {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("lattice");
        let text = dir.path().join("script");
        fs::write(&text, format!("#!/bin/sh\nshift 2\n{script}\n")).expect("it is written");
        // Another process writes the program: a file that this one has open for writing could be inherited by a
        // process that another test starts at the moment, and then cannot be run ("text file busy").
        let installed = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&text, &program])
            .status()
            .expect("install starts");
        assert!(installed.success(), "{installed}");
        let node = Node::new("A", &program).expect("the program is there");
        (dir, node)
    }

    #[test]
    fn output_and_failures_are_told_apart() {
        let (_dir, node) = node(
            "case $1 in bad) echo why >&2; exit 5;; --json) echo '{\"n\": 1}';; *) echo \"$@\";; esac",
        );
        assert_eq!(node.text(&["a", "b"]).expect("it succeeds"), "a b");
        assert_eq!(node.json(&["status"]).expect("it succeeds")["n"], 1);
        assert_eq!(node.run(&["bad"]).expect("it runs").status.code(), Some(5));
        let error = node.text(&["bad"]).expect_err("it fails").to_string();
        assert!(
            error.contains("exit status: 5") && error.contains("why"),
            "{error}"
        );
    }

    #[test]
    fn daemon_is_ready_at_its_first_line_and_can_be_stopped_and_killed() {
        let (_dir, mut node) = node("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        assert_eq!(node.start().expect("it starts"), "ready");
        node.stop().expect("it stops");
        node.start().expect("it starts again");
        node.kill9().expect("it is killed");
        assert!(node.kill9().is_err());
    }

    #[test]
    fn daemon_that_ends_early_is_an_error_with_its_words() {
        let (_dir, mut node) = node("echo 'no disk' >&2; exit 4");
        let error = node.start().expect_err("it ends").to_string();
        assert!(error.contains("no disk"), "{error}");
    }
}

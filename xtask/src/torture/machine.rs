//! A machine of torture: a daemon with a home on a disk of its own, a network namespace, a clock and a program.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::clock::Clock;
use super::disk::{Disk, Make};
use super::lan::Lan;
use crate::shell;

/// How long a daemon may take until it is ready, and a command until it ends, when nothing is in its way.
const TIME_MAX: Duration = Duration::from_secs(180);
/// How long a daemon may take to end when it is asked to, whatever is the matter with its machine.
const END_MAX: Duration = Duration::from_secs(60);

/// A machine. Its daemon ends with torture's enclosure.
pub(super) struct Machine {
    /// Its number, from 1.
    pub(super) number: usize,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    lan: Arc<Lan>,
    home: PathBuf,
    /// Where its user's sockets are.
    runtime: PathBuf,
    /// The program of its commands, which is never replaced.
    lattice: PathBuf,
    /// The program of its daemon.
    program: PathBuf,
    log: PathBuf,
    /// How many bytes of the log were asked for.
    judged: AtomicUsize,
    daemon: Mutex<Option<Child>>,
}

impl Machine {
    /// Makes a machine with an empty disk, all of whose files lie below `run`.
    ///
    /// # Errors
    ///
    /// When a file cannot be written, or the disk is not mounted.
    pub(super) fn new(
        number: usize,
        run: &Path,
        make: Make,
        clock_library: &Path,
        lan: &Arc<Lan>,
    ) -> Result<Machine> {
        let disk = Disk::mount(make, &run.join(format!("m{number}")))?;
        let machine = Machine {
            number,
            disk,
            clock: Clock::new(clock_library, run.join(format!("m{number}.clock")))?,
            lan: lan.clone(),
            home: run.join(format!("m{number}/home")),
            runtime: run.join(format!("m{number}.runtime")),
            lattice: run.join("lattice"),
            program: run.join(format!("lattice-{number}")),
            log: run.join("logs").join(format!("m{number}.log")),
            judged: AtomicUsize::new(0),
            daemon: Mutex::default(),
        };
        fs::create_dir(&machine.runtime)?;
        machine.restore_program()?;
        Ok(machine)
    }

    /// Its name in what torture prints.
    pub(super) fn name(&self) -> String {
        format!("m{}", self.number)
    }

    /// Gives a program of this machine its settings, and none of who runs torture. Its files outside of the home are
    /// torture's.
    fn settle<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["LATTICE_HOME", "RUST_LOG", "NOTIFY_SOCKET", "NO_COLOR"] {
            command.env_remove(name);
        }
        self.clock
            .wind(command.env("XDG_RUNTIME_DIR", &self.runtime))
    }

    /// A command of `lattice` on the home.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.lattice);
        command.arg("--home").arg(&self.home).args(words);
        self.settle(&mut command);
        command
    }

    /// Runs a command on the home to its end.
    ///
    /// # Errors
    ///
    /// When it takes too long.
    pub(super) fn run(&self, words: &[&str]) -> Result<Output> {
        self.run_within(words, TIME_MAX)
    }

    /// The same within a time.
    ///
    /// # Errors
    ///
    /// When it takes longer.
    pub(super) fn run_within(&self, words: &[&str], within: Duration) -> Result<Output> {
        shell::finish(&mut self.command(words), within)?.with_context(|| {
            format!(
                "{}: lattice {words:?} took more than {within:?}",
                self.name()
            )
        })
    }

    /// Runs a command that must succeed. Returns what it printed.
    ///
    /// # Errors
    ///
    /// When it fails; the text is what it says.
    pub(super) fn text(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        if !output.status.success() {
            let (code, said) = (output.status, String::from_utf8_lossy(&output.stderr));
            bail!(
                "{}: lattice {words:?}: {code}: {}",
                self.name(),
                said.trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Runs a command with `--json` that must succeed. Returns the document that it printed.
    ///
    /// # Errors
    ///
    /// As [`Machine::text`].
    pub(super) fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.text(&[&["--json"], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("lattice {words:?} printed {text}"))
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends, or says nothing for a minute.
    pub(super) fn start(&self) -> Result<()> {
        let errors = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.lan.inside(self.number);
        command.arg(&self.program).arg("--home").arg(&self.home);
        command.args(["daemon", "--no-relay", "--no-discovery", "--bind"]);
        command.arg(Lan::address(self.number));
        self.settle(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start the daemon of {}", self.name()))?;
        let output = child.stdout.take().expect("piped");
        *self.daemon.lock().expect("no holder panics") = Some(child);
        let (sender, lines) = channel();
        // The thread goes on reading, so that the daemon never writes into a closed pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        lines
            .recv_timeout(TIME_MAX)
            .map(drop)
            .map_err(|_| anyhow!("the daemon of {} does not become ready", self.name()))
    }

    /// The process of the daemon.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn process(&self) -> Result<u32> {
        let daemon = self.daemon.lock().expect("no holder panics");
        let child = daemon.as_ref().context("there is no daemon")?;
        Ok(child.id())
    }

    /// Sends a signal to the daemon.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let daemon = self.daemon.lock().expect("no holder panics");
        let child = daemon.as_ref().context("there is no daemon")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Kills the daemon.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let mut daemon = self.daemon.lock().expect("no holder panics");
        daemon.take().expect("it was there").wait()?;
        Ok(())
    }

    /// Asks the daemon to end.
    ///
    /// # Errors
    ///
    /// When it takes too long, or ends with another status than 0.
    pub(super) fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let begun = Instant::now();
        let mut daemon = self.daemon.lock().expect("no holder panics");
        let child = daemon.as_mut().expect("it was there");
        loop {
            if let Some(status) = child.try_wait()? {
                *daemon = None;
                ensure!(
                    status.success(),
                    "the daemon of {} ended with {status}",
                    self.name()
                );
                return Ok(());
            }
            ensure!(
                begun.elapsed() < END_MAX,
                "the daemon of {} does not end within {END_MAX:?}",
                self.name()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the daemon has ended by itself, and how.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub(super) fn ended(&self) -> Result<Option<String>> {
        let mut daemon = self.daemon.lock().expect("no holder panics");
        let Some(child) = daemon.as_mut() else {
            return Ok(None);
        };
        let ended = child.try_wait()?;
        Ok(ended.map(|status| {
            *daemon = None;
            status.to_string()
        }))
    }

    /// How many files the daemon has open.
    ///
    /// # Errors
    ///
    /// When there is no daemon.
    pub(super) fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process()?))?.count())
    }

    /// Lets the daemon open so many files: no more than its hard limit, which stays.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub(super) fn limit_files(&self, files: &str) -> Result<()> {
        let process = self.process()?.to_string();
        let limit = format!("--nofile={files}:");
        shell::run(Command::new("prlimit").args(["--pid", &process, &limit]))
    }

    /// Puts another program in place of the daemon's, which does nothing but fail.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub(super) fn replace_program(&self) -> Result<()> {
        let aside = self.program.with_extension("new");
        fs::write(
            &aside,
            "#!/bin/sh\necho this is another program >&2\nexit 9\n",
        )?;
        shell::run(Command::new("chmod").arg("755").arg(&aside))?;
        fs::rename(&aside, &self.program).context("cannot replace the program")
    }

    /// Puts a program of the daemon in place, as an update does.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub(super) fn restore_program(&self) -> Result<()> {
        let aside = self.program.with_extension("new");
        fs::hard_link(&self.lattice, &aside)?;
        // Two names of one file would both stay if one were renamed to the other.
        let _ = fs::remove_file(&self.program);
        fs::rename(&aside, &self.program).context("cannot replace the program")
    }

    /// Removes compiled code, so that it is compiled again when it is needed next.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub(super) fn forget_compiled(&self) -> Result<()> {
        for file in fs::read_dir(self.home.join("components"))? {
            let path = file?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "code")
            {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The lines that the daemon has logged and that nobody has asked for yet.
    pub(super) fn logged(&self) -> Vec<String> {
        let log = fs::read(&self.log).unwrap_or_default();
        // A line may be on its way.
        let end = log.iter().rposition(|byte| *byte == b'\n');
        let end = end.map_or(0, |last| last + 1);
        let from = self.judged.swap(end, Ordering::SeqCst);
        let text = String::from_utf8_lossy(log.get(from..end).unwrap_or_default());
        text.lines().map(str::to_owned).collect()
    }
}

//! One daemon that is measured: it has a home of its own, and ends when the measurement does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;
use crate::settings::Settings;

/// How long a daemon may take until it answers.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a daemon may take to end when it is asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// The pause between two questions whether the daemon answers: a small part of the shortest time measured this way.
const POLL: Duration = Duration::from_micros(500);

/// A home, and the daemon that may run on it. Dropping it kills the daemon and removes the home.
pub(crate) struct Node {
    program: PathBuf,
    daemon: Option<Child>,
    // A home is dropped after its daemon, so that nobody writes to it when it is removed.
    directory: TempDir,
}

impl Node {
    /// A node with an empty home and no daemon.
    ///
    /// # Errors
    /// When the directory of the home cannot be made.
    pub(crate) fn new(settings: &Settings) -> Result<Node> {
        Ok(Node {
            program: settings.lattice.clone(),
            daemon: None,
            directory: settings.directory()?,
        })
    }

    /// A node with a copy of this one's home, without its daemon.
    ///
    /// # Errors
    /// When the home cannot be copied.
    pub(crate) fn copy(&self, settings: &Settings) -> Result<Node> {
        ensure!(
            self.daemon.is_none(),
            "the home of a running daemon is not copied"
        );
        let copy = Node::new(settings)?;
        copy_directory(&self.home(), &copy.home())
            .with_context(|| format!("cannot copy {}", self.home().display()))?;
        Ok(copy)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Starts the daemon on a loopback port that the system chooses, without relays and discovery.
    /// It need not answer yet; see [`Node::answering`].
    ///
    /// # Errors
    /// When the program cannot be run.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(&self.program)
            .arg("--home")
            .arg(self.home())
            .args([
                "daemon",
                "--bind",
                "127.0.0.1:0",
                "--no-relay",
                "--no-discovery",
            ])
            .env_remove("LATTICE_HOME")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.daemon = Some(child);
        Ok(())
    }

    /// Waits until the daemon answers, and returns a connection to it.
    ///
    /// # Errors
    /// When it ends, or does not answer in a minute; the message has what it printed.
    pub(crate) async fn answering(&mut self) -> Result<Client> {
        self.answering_within(START_TIME_MAX).await
    }

    /// Waits until the daemon answers, as long as `time_max`.
    ///
    /// # Errors
    /// As [`Node::answering`].
    pub(crate) async fn answering_within(&mut self, time_max: Duration) -> Result<Client> {
        let socket = self.home().join(lattice_daemon::SOCKET_NAME);
        let deadline = Instant::now() + time_max;
        loop {
            // Looking for the file costs less than a connection that fails.
            if socket.exists()
                && let Ok(mut client) = Client::connect(&socket).await
                && client.ping().await.is_ok()
            {
                return Ok(client);
            }
            let daemon = self.daemon.as_mut().context("no daemon was started")?;
            if let Some(status) = daemon.try_wait()? {
                self.daemon = None;
                bail!("the daemon ended with {status}; it said:\n{}", self.said());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the daemon did not answer within {time_max:?}; it said:\n{}",
                    self.said()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// As [`Node::spawn`] and [`Node::answering`].
    pub(crate) async fn start(&mut self) -> Result<Client> {
        self.spawn()?;
        self.answering().await
    }

    /// Another connection to the running daemon.
    ///
    /// # Errors
    /// When nobody listens on the socket.
    pub(crate) async fn connect(&self) -> Result<Client> {
        Client::connect(&self.home().join(lattice_daemon::SOCKET_NAME)).await
    }

    /// Asks the daemon to end, and waits for it.
    ///
    /// # Errors
    /// When it does not run, does not end in time, or ends with a failure.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        kill_process(Pid::from_child(&daemon), Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIME_MAX;
        loop {
            if let Some(status) = daemon.try_wait()? {
                ensure!(
                    status.success(),
                    "the daemon ended with {status}: {}",
                    self.said()
                );
                return Ok(());
            }
            if Instant::now() >= deadline {
                daemon.kill()?;
                daemon.wait()?;
                bail!("the daemon did not end within {STOP_TIME_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the daemon with SIGKILL, whatever it is doing.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Resident memory of the daemon, in bytes (`VmRSS`).
    ///
    /// # Errors
    /// When it does not run, or the system does not tell.
    pub(crate) fn resident_bytes(&self) -> Result<Resident> {
        Ok(Resident {
            all: self.memory_bytes("VmRSS:")?,
            anonymous: self.memory_bytes("RssAnon:")?,
        })
    }

    /// The most resident memory that the daemon has had, in bytes (`VmHWM`).
    ///
    /// # Errors
    /// As [`Node::resident_bytes`].
    pub(crate) fn peak_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmHWM:")
    }

    /// A field of `/proc/PID/status` that has kibibytes, in bytes.
    fn memory_bytes(&self, name: &str) -> Result<u64> {
        let pid = self.daemon.as_ref().context("no daemon runs")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = kib
            .with_context(|| format!("/proc/{pid}/status has no {name}"))?
            .parse()?;
        Ok(kib * 1024)
    }

    /// Processor time that the daemon has used, in user mode and in the kernel.
    ///
    /// # Errors
    /// When it does not run, or the system does not tell.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        /// The fields count ticks. Their number a second is the same for every program on Linux.
        const TICKS_PER_SECOND: f64 = 100.0;
        let pid = self.daemon.as_ref().context("no daemon runs")?.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name of the program, in parentheses, and may have spaces.
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub(crate) all: u64,
    /// Memory without the pages of files, such as the program.
    pub(crate) anonymous: u64,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // The call fails when the daemon has ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Copies the files and directories below `from`; what is neither, such as a socket, is left out.
fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_directory(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

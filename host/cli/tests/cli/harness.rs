//! What the tests share: a home for each of them, commands that run on it, and a daemon that ends with the test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a daemon may take to end at a signal, whatever else the machine does.
const SIGNAL_TIME_MAX: Duration = Duration::from_secs(60);

/// A home directory.
pub(crate) struct Home {
    directory: TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    /// A directory that is a home already.
    pub(crate) fn at(directory: TempDir) -> Home {
        Home { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command on this home, without the tester's own settings in the environment.
    pub(crate) fn command(&self) -> Command {
        command(self.path())
    }

    /// Runs a command to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Ended {
        finish(self.command().args(words))
    }

    /// Runs a command that must succeed, with nothing on standard error. Returns what it printed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let ended = self.run(words);
        assert_eq!(ended.code, 0, "lattice {words:?}: {ended:?}");
        assert_eq!(ended.stderr, "", "lattice {words:?}");
        ended.stdout
    }

    /// Runs a command with `--json`, which must succeed. Returns the document that it printed.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = std::iter::once("--json")
            .chain(words.iter().copied())
            .collect();
        let printed = self.ok(&words);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Runs a command that must fail as [`Ended::failed`] asserts, with nothing on standard output.
    pub(crate) fn fails(&self, words: &[&str], code: i32, says: &[&str]) {
        let ended = self.run(words);
        ended.failed(code, says);
        assert_eq!(ended.stdout, "", "lattice {words:?}");
    }

    /// Runs a command that must fail and tell a person this remedy.
    pub(crate) fn advice<S: AsRef<OsStr> + std::fmt::Debug>(
        &self,
        words: &[S],
        remedy: &str,
    ) -> Advice {
        let ended = self.run(words);
        assert_ne!(ended.code, 0, "lattice {words:?}: {ended:?}");
        ended.failed(ended.code, &[]);
        advice(&ended.stderr, remedy)
    }

    /// What `doctor` found in one of its checks.
    pub(crate) fn doctor(&self, name: &str) -> Finding {
        let ended = self.run(&["--json", "doctor"]);
        finding(&ended, name)
    }

    /// How many entries a store's log has.
    pub(crate) fn entries(&self, store: &str) -> u64 {
        let status = self.json(&["store", "status", store]);
        status["entry_count"].as_u64().expect("a count")
    }

    /// Starts a daemon on loopback and waits until it is ready.
    pub(crate) fn daemon(&self) -> Daemon {
        start_daemon(self.path())
    }
}

/// Starts a daemon on loopback and waits until it is ready.
pub(crate) fn start_daemon(home: &Path) -> Daemon {
    let mut daemon = start_daemon_with(command(home).stderr(Stdio::piped()));
    let said = BufReader::new(daemon.child.stderr.take().expect("piped"));
    daemon.said = Some(std::thread::spawn(move || {
        let lines = said.lines().map_while(Result::ok);
        lines.inspect(|line| eprintln!("{line}")).collect()
    }));
    daemon
}

/// The same with this command, which says where standard error goes. Nobody reads it.
pub(crate) fn start_daemon_with(command: &mut Command) -> Daemon {
    daemon_by(
        command
            .args(["daemon", "--json", "--bind", "127.0.0.1:0"])
            .args(["--no-relay", "--no-discovery"]),
    )
}

/// The daemon that this command runs, which prints JSON, once it is ready.
pub(crate) fn daemon_by(command: &mut Command) -> Daemon {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    let mut printed = BufReader::new(child.stdout.take().expect("piped"));
    printed.read_line(&mut line).expect("a line");
    let ready =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not ready: {error}: {line:?}"));
    Daemon {
        child,
        ready,
        said: None,
    }
}

/// The program under test: the one that is shipped, if `cargo xtask test` names it. The one that cargo builds for
/// these tests also has features that the tests of other crates ask of shared dependencies.
pub(crate) fn program() -> PathBuf {
    let shipped = std::env::var_os("LATTICE_TEST_PROGRAM");
    shipped.map_or_else(|| env!("CARGO_BIN_EXE_lattice").into(), PathBuf::from)
}

/// A command on a home, without the tester's own settings in the environment.
pub(crate) fn command(home: &Path) -> Command {
    // A tester's SIGHUP may be ignored, as under nohup, and programs inherit that. The program takes the place of
    // `env`.
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(program());
    command
        .arg("--home")
        .arg(home)
        .env_remove("LATTICE_HOME")
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

/// The same, run by another program, whose own arguments `outer` has.
pub(crate) fn command_by(mut outer: Command, home: &Path) -> Command {
    let plain = command(home);
    outer.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.stdin(Stdio::null());
    outer
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts that the command failed with this exit code, and with one line that has all of `says` and a remedy.
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let &[line] = lines.as_slice() else {
            panic!("not one line: {self:?}");
        };
        assert!(line.starts_with("error: "), "{self:?}");
        // What is wrong stands before the semicolon, what to do about it after.
        assert!(line.contains("; "), "nothing to do about it: {self:?}");
        for said in says {
            assert!(line.contains(said), "{said:?} is missing: {self:?}");
        }
    }
}

/// What `doctor` found: how bad it is, what it is, and what to do.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) level: String,
    pub(crate) text: String,
    pub(crate) hint: String,
}

/// What `--json doctor` printed of one of its checks.
pub(crate) fn finding(ended: &Ended, name: &str) -> Finding {
    let document: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let checks = document["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.expect("it is looked at");
    let text = |field: &str| check[field].as_str().expect("text").to_owned();
    Finding {
        level: text("level"),
        text: text("text"),
        hint: text("hint"),
    }
}

impl Finding {
    /// Asserts that there is nothing to do.
    pub(crate) fn is_content(&self) {
        assert_eq!(
            (self.level.as_str(), self.hint.as_str()),
            ("ok", ""),
            "{self:?}"
        );
    }

    /// Asserts that something is to do, and that this is told.
    pub(crate) fn advice(&self, remedy: &str) -> Advice {
        assert_ne!(self.level, "ok", "{self:?}");
        advice(&self.hint, remedy)
    }
}

/// What the product told a person to do. A test does that, and sees that it helped. Tidy asks for such a test for
/// every remedy, by the words that are handed to [`advice`].
#[derive(Debug)]
pub(crate) struct Advice(String);

/// Asserts that `said` tells this remedy.
pub(crate) fn advice(said: &str, remedy: &str) -> Advice {
    let Some(at) = said.find(remedy) else {
        panic!("{remedy:?} is not told: {said}");
    };
    // An error tells what is wrong up to a semicolon.
    let begin = said[..at].rfind("; ").map_or(0, |semicolon| semicolon + 2);
    Advice(said[begin..].to_owned())
}

impl Advice {
    /// The commands that it has.
    pub(crate) fn commands(&self) -> Vec<&str> {
        self.0.split('`').skip(1).step_by(2).collect()
    }

    /// Runs its first command as it stands there, on this home.
    pub(crate) fn run(&self, home: &Home) -> Ended {
        let commands = self.commands();
        let command = commands.first().expect("a command is told");
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                &format!("lattice() {{ \"$LATTICE\" \"$@\"; }}; {command}"),
            ])
            .env("LATTICE", program())
            .env("LATTICE_HOME", home.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        finish(&mut shell)
    }

    /// Runs its first command, which must succeed. Returns what it printed.
    pub(crate) fn ok(&self, home: &Home) -> String {
        let ended = self.run(home);
        assert_eq!(ended.code, 0, "{self:?}: {ended:?}");
        ended.stdout
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Ended {
    let output = command.output().expect("the binary starts");
    Ended {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs a command to its end, with this on its standard input.
pub(crate) fn finish_with_input(command: &mut Command, input: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Ended {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A daemon, which is killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) ready: Value,
    said: Option<JoinHandle<Vec<String>>>,
}

impl Daemon {
    /// Sends a signal that does not end it.
    pub(crate) fn signal(&self, signal: &str) {
        send(signal, &self.child);
    }

    /// Lets go of the reading end of its standard error.
    pub(crate) fn close_stderr(&mut self) {
        drop(self.child.stderr.take());
    }

    /// Sends a signal, and returns the exit code and how long the end took. Asserts that the network endpoint was
    /// closed before it was dropped.
    pub(crate) fn end(mut self, signal: &str) -> (i32, Duration) {
        let asked = Instant::now();
        send(signal, &self.child);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            // Dropping it sends SIGKILL.
            assert!(asked.elapsed() < SIGNAL_TIME_MAX, "{signal} did not end it");
            std::thread::sleep(Duration::from_millis(1));
        };
        let took = asked.elapsed();
        if let Some(said) = self.said.take() {
            let said = said.join().expect("it is read to its end");
            let mut said = said.into_iter();
            assert_eq!(said.find(|line| line.contains("Endpoint dropped")), None);
        }
        (status.code().expect("it ended by itself"), took)
    }
}

#[cfg(target_os = "linux")]
impl Daemon {
    /// Memory that is resident now, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that was resident since the start or [`Daemon::forget_peak`], in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Sets the peak to what is resident now.
    pub(crate) fn forget_peak(&self) {
        let file = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(file, "5").expect("the child is ours");
    }

    /// The nice values of its threads that have this name.
    pub(crate) fn threads(&self, name: &str) -> Vec<i64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("it runs");
        // A thread may end while it is looked at.
        let stats = tasks.filter_map(|task| {
            let stat = task.ok()?.path().join("stat");
            std::fs::read_to_string(stat).ok()
        });
        let of_that_name = stats.filter_map(|stat| {
            // The thread's number, its name in parentheses, and sixteen more fields before its nice value.
            let (before, after) = stat.rsplit_once(')')?;
            let is_it = before.ends_with(&format!("({name}"));
            let nice = after.split_whitespace().nth(16)?;
            is_it.then(|| nice.parse().expect("a number"))
        });
        of_that_name.collect()
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = kib.expect("a figure").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a child, with a program that every system has.
pub(crate) fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status()
        .expect("kill starts");
    assert!(sent.success());
}

/// Reads a line that a running child prints.
pub(crate) fn read_line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line
}

/// Reads all that is left.
pub(crate) fn read_rest(mut from: impl Read) -> String {
    let mut rest = String::new();
    from.read_to_string(&mut rest).expect("UTF-8");
    rest
}

/// A component that `cargo xtask plugins` has built.
pub(crate) fn built(name: &str) -> PathBuf {
    // The binary lies in a directory of its profile, below the target directory.
    let target = Path::new(env!("CARGO_BIN_EXE_lattice")).ancestors().nth(2);
    let path = target
        .expect("a target directory")
        .join(format!("plugins/{name}.wasm"));
    assert!(
        path.is_file(),
        "{} is missing: run `cargo xtask plugins` first",
        path.display()
    );
    path
}

/// The file with the text of a component that no compiler would make.
pub(crate) fn raw(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/guests/raw/{name}.wat"))
}

/// A component assembled from its text, as a file in this directory.
pub(crate) fn assembled(name: &str, directory: &Path) -> PathBuf {
    let bytes = wat::parse_file(raw(name)).expect("it can be assembled");
    let path = directory.join(format!("{name}.wasm"));
    std::fs::write(&path, bytes).expect("written");
    path
}

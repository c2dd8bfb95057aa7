//! Running other programs: where the workspace is, how cargo is called, and one line a step.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Returns the workspace's root directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies directly below the workspace's root")
}

/// Copies the file of this program, to be started later: cargo replaces the file when it builds the workspace.
///
/// # Errors
/// When the file cannot be read, or the copy not be written.
pub(crate) fn copy_own_program(to: &Path) -> Result<()> {
    // The link works also after the file was replaced.
    const LINK: &str = "/proc/self/exe";
    let own = match Path::new(LINK) {
        own if own.exists() => own.to_owned(),
        _ => std::env::current_exe().context("this program has no path")?,
    };
    std::fs::copy(own, to).with_context(|| to.display().to_string())?;
    Ok(())
}

/// Returns the directory that cargo builds into: `$CARGO_TARGET_DIR`, else `target` in the root.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Returns the directory that holds the programs of a development build, the `lattice` binary among them.
pub fn bin_dir() -> PathBuf {
    target_dir().join("debug")
}

/// Returns a `cargo` command in the workspace's root, as if it were typed in a shell.
///
/// `cargo run` adds variables about this crate to the environment. They are removed, because a build script that
/// watches such a variable (ring's does) would run again at each change between `cargo test` and
/// `cargo xtask test`, and half of the workspace would be built again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if is_about_this_crate(&name) {
            command.env_remove(&name);
        }
    }
    command
}

fn is_about_this_crate(name: &OsString) -> bool {
    const PREFIXES: [&str; 5] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ];
    let name = name.to_string_lossy();
    name == "CARGO" || name == "OUT_DIR" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Does `work` as a step of that name: prints one line before it, and one with the time after it.
///
/// # Errors
///
/// Those of `work`, with the step's name added.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    eprintln!("==> {name}");
    let value = work().with_context(|| format!("step `{name}` failed"))?;
    eprintln!(
        "    {name}: done in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(value)
}

/// Runs a command with the output streams of this process.
///
/// # Errors
///
/// When it cannot be started, or ends with another status than 0; the message has the command line.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed on standard output.
///
/// # Errors
///
/// As [`run`]; the message has what it printed on standard error.
pub fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` ended with {}: {}",
            line(command),
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed text that is not UTF-8", line(command)))
}

/// Runs a command without input and returns its status and output.
///
/// # Errors
///
/// When it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))
}

/// Runs a command without input to its end, or kills it when it takes longer than `within`. Returns `None` then.
///
/// # Errors
///
/// When it cannot be started, or its output cannot be read.
pub fn finish(command: &mut Command, within: Duration) -> Result<Option<Output>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let pid = Pid::from_child(&child);
    let (ended, end) = channel::<()>();
    // Nobody has waited for the child yet, so its id cannot belong to another process.
    let stdout = child.stdout.take().expect("standard output is piped");
    let stderr = child.stderr.take().expect("standard error is piped");
    thread::scope(|scope| {
        let guard = scope.spawn(move || {
            let is_late = end.recv_timeout(within) == Err(RecvTimeoutError::Timeout);
            if is_late {
                let _ = kill_process(pid, Signal::KILL);
            }
            is_late
        });
        let errors = scope.spawn(move || read_all(stderr));
        let stdout = read_all(stdout)?;
        let stderr = errors.join().expect("reading does not panic")?;
        drop(ended);
        let is_late = guard.join().expect("waiting does not panic");
        let status = child.wait()?;
        Ok((!is_late).then_some(Output {
            status,
            stdout,
            stderr,
        }))
    })
}

fn read_all(mut stream: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a program of that name is on the path.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_does_not_inherit_variables_about_this_crate() {
        for name in [
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_CRATE_NAME",
            "OUT_DIR",
        ] {
            assert!(is_about_this_crate(&name.into()), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_JOBS",
            "RUSTFLAGS",
        ] {
            assert!(!is_about_this_crate(&name.into()), "{name}");
        }
    }

    #[test]
    fn failing_command_is_named_with_its_status_and_stderr() {
        let error =
            read(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("it exits 3");
        let text = format!("{error:#}");
        assert!(
            text.contains("exit status: 3") && text.contains("why"),
            "{text}"
        );
        assert!(run(Command::new("false").stdin(Stdio::null())).is_err());
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_and_another_gives_its_output() {
        let finished = |script, within| finish(Command::new("sh").args(["-c", script]), within);
        let minute = Duration::from_secs(60);
        let output = finished("echo a; echo b >&2; exit 3", minute).expect("it starts");
        let output = output.expect("it ends");
        assert_eq!(
            (&*output.stdout, &*output.stderr),
            (&b"a\n"[..], &b"b\n"[..])
        );
        assert_eq!(output.status.code(), Some(3));
        let late = finished("exec sleep 600", Duration::from_millis(10)).expect("it starts");
        assert!(late.is_none(), "{late:?}");
    }

    #[test]
    fn program_that_is_missing_is_an_error_that_names_it() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-program-anywhere"));
        let error =
            run(&mut Command::new("no-such-program-anywhere")).expect_err("it does not exist");
        assert!(error.to_string().contains("no-such-program-anywhere"));
    }
}

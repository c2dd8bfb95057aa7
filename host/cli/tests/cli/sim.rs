//! `lattice sim`, which starts the simulator: what it passes on, and what it says if there is no simulator.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Ended, advice, finish, program};

/// A directory that holds `lattice` and nothing else.
fn alone() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    copy(&program(), &directory.path().join("lattice"));
    directory
}

/// Copies a program, in a process of its own. A file that this process has open for writing could be inherited by
/// another test's child, and a file that is open for writing cannot be run.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.expect("cp starts").success());
}

/// Makes a `lattice-sim` in this directory, which prints its arguments and ends with this status.
fn stand_in(directory: &Path, status: u8) {
    const SCRIPT: &str =
        r#"printf '#!/bin/sh\nprintf "<%%s>" "$@"\nexit %s\n' "$1" >"$2" && chmod +x "$2""#;
    let mut sh = Command::new("sh");
    sh.args(["-c", SCRIPT, "sh", &status.to_string()]);
    let made = sh.arg(directory.join("lattice-sim")).status();
    assert!(made.expect("sh starts").success());
}

/// The `lattice` of this directory, with nothing on PATH but `on_path`.
fn lattice(directory: &Path, on_path: &Path) -> Command {
    let mut command = Command::new(directory.join("lattice"));
    command.env("PATH", on_path);
    command
}

fn run(directory: &Path, on_path: &Path, words: &[&str]) -> Ended {
    finish(lattice(directory, on_path).args(words))
}

#[test]
fn arguments_and_exit_status_are_the_simulator_s() {
    let (beside, elsewhere) = (alone(), tempfile::tempdir().expect("a directory"));
    let (beside, elsewhere) = (beside.path(), elsewhere.path());
    stand_in(elsewhere, 9);
    let words = ["sim", "run", "a b.rhai", "--json", "-v", "--help"];
    let found = run(beside, elsewhere, &words);
    assert_eq!(found.code, 9, "the one on PATH: {found:?}");
    assert_eq!(found.stdout, "<run><a b.rhai><--json><-v><--help>");
    stand_in(beside, 7);
    let found = run(beside, elsewhere, &words);
    assert_eq!(found.code, 7, "the one beside it comes first: {found:?}");
    let found = run(beside, elsewhere, &["--json", "sim", "model"]);
    assert_eq!(found.stdout, "<--json><model>");
    let found = run(beside, elsewhere, &["sim", "--help"]);
    assert_eq!(found.stdout, "<--help>");
}

#[test]
fn without_a_simulator_it_says_what_to_do_and_that_helps() {
    let (directory, empty) = (alone(), tempfile::tempdir().expect("a directory"));
    let (directory, empty) = (directory.path(), empty.path());
    let words = ["sim", "model", "--seeds", "0..3"];
    let here = directory.display().to_string();
    let missing = run(directory, empty, &words);
    missing.failed(4, &["lattice-sim", &here, "PATH"]);
    let told = advice(
        &missing.stderr,
        "build it with `cargo build --package lattice-sim` and put it into",
    );
    assert_eq!(told.commands(), ["cargo build --package lattice-sim"]);
    assert!(missing.stderr.trim_end().ends_with(&here), "{missing:?}");
    std::fs::write(directory.join("lattice-sim"), b"no program").expect("written");
    let broken = run(directory, empty, &words);
    broken.failed(4, &["cannot start"]);
    advice(
        &broken.stderr,
        "`cargo build --package lattice-sim` builds it anew",
    );
    std::fs::remove_file(directory.join("lattice-sim")).expect("it was there");
    // The command that the errors name has put the simulator beside the `lattice` that cargo built.
    let built = PathBuf::from(env!("CARGO_BIN_EXE_lattice")).with_file_name("lattice-sim");
    assert!(
        built.is_file(),
        "{} is missing: run `cargo build --package lattice-sim` first",
        built.display()
    );
    copy(&built, &directory.join("lattice-sim"));
    let ended = run(directory, empty, &words);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.starts_with("3 histories held"), "{ended:?}");
}

#[test]
fn a_shell_starts_it_too_and_tells_when_it_failed() {
    let home = tempfile::tempdir().expect("a directory");
    let (beside, empty) = (alone(), tempfile::tempdir().expect("a directory"));
    stand_in(beside.path(), 1);
    let sim = beside.path().join("lattice-sim");
    let script = std::fs::read_to_string(&sim).expect("a script");
    let script = script.replace("exit", "echo why it failed >&2; exit");
    std::fs::write(&sim, script).expect("written");
    let mut shell = lattice(beside.path(), empty.path());
    shell.arg("--home").arg(home.path()).arg("shell");
    let ended = crate::harness::finish_with_input(&mut shell, b"sim swarm --seeds 0..1\n");
    assert_eq!(ended.stdout, "<swarm><--seeds><0..1>", "{ended:?}");
    let (above, own) = ended.stderr.split_once('\n').expect("two lines");
    assert!(
        own.contains("the simulator ended with exit status: 1"),
        "{ended:?}"
    );
    advice(own, "its own line above says why");
    assert_eq!(above, "why it failed");
}

//! What `doctor` says of a machine that is not as it should be is done as it says, and helps.

use std::io::{BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{
    Ended, Finding, Home, advice, command_by, daemon_by, finding, finish, program, read_line,
    read_rest,
};

/// The end of `lattice --home HOME WORDS` by another program, or under a limit.
fn by(outer: Command, home: &Home, words: &[&str]) -> Ended {
    finish(command_by(outer, home.path()).args(words))
}

/// A shell that sets a limit for the command behind it.
fn limited(limit: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
    shell
}

#[test]
fn a_socket_that_is_gone_while_a_shell_uses_it_is_there_again_as_it_says() {
    let home = Home::new();
    let daemon = home.daemon();
    let mut shell = home.command();
    shell.arg("shell").stdin(Stdio::piped());
    shell.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = shell.spawn().expect("it starts");
    let mut typed = shell.stdin.take().expect("piped");
    let mut printed = BufReader::new(shell.stdout.take().expect("piped"));
    writeln!(typed, "status").expect("it reads");
    read_line(&mut printed);
    std::fs::remove_file(home.path().join("lattice.sock")).expect("it was there");
    writeln!(typed, "doctor").expect("it reads");
    drop(typed);
    let said = read_rest(printed);
    shell.wait().expect("it ends");
    advice(&said, "restart the daemon");
    assert_eq!(daemon.end("TERM").0, 0);
    let _again = home.daemon();
    home.doctor("socket").is_content();
}

#[test]
fn a_daemon_without_an_address_has_one_as_it_says() {
    let ways = [&["--net"][..], &["--user", "--map-root-user", "--net"]];
    let may = |way: &&&[&str]| {
        let tried = Command::new("unshare").args(**way).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let way = ways.iter().find(may);
    let way = way.expect("a network namespace, which needs root or user namespaces");
    let home = Home::new();
    // A machine whose interfaces are all down.
    let found = |switches: &[&str]| {
        let mut alone = Command::new("unshare");
        alone.args(*way);
        let mut daemon = command_by(alone, home.path());
        daemon.args(["daemon", "--json", "--no-relay", "--no-discovery"]);
        let _daemon = daemon_by(daemon.args(switches).stderr(Stdio::null()));
        home.doctor("network")
    };
    found(&[]).advice("check the network, or give --bind");
    found(&["--bind", "127.0.0.1:0"]).is_content();
}

#[test]
fn limits_under_which_nothing_compiles_are_widened_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "root", "--plugin", "none"]);
    let query = ["query", "root", "name"];
    let ended = by(limited("-v 1000000"), &home, &query);
    ended.failed(3, &["engine does not start"]);
    advice(
        &ended.stderr,
        "if memory cannot be reserved, allow more address space: see `ulimit -v`",
    );
    assert_eq!(
        by(limited("-v 4000000"), &home, &query).stdout,
        "\"root\"\n"
    );

    // Compiled code is larger than these 512 KB.
    std::fs::remove_dir_all(home.path().join("components")).expect("it was there");
    let ended = by(limited("-f 1000"), &home, &["--json", "doctor"]);
    let told = finding(&ended, "runtime")
        .advice("allow this process what it lacks: see `ulimit -v`, `ulimit -t` and `ulimit -f`");
    assert!(told.commands().contains(&"ulimit -f"));
    let ended = by(limited("-f 1000"), &home, &query);
    ended.failed(4, &["compiling"]);
    advice(
        &ended.stderr,
        "try again when less runs at once, or allow this process more: see `ulimit -a`",
    );
    let ended = by(limited("-f 100000"), &home, &["--json", "doctor"]);
    finding(&ended, "runtime").is_content();
    assert_eq!(by(limited("-f 100000"), &home, &query).stdout, "\"root\"\n");
}

/// A copy of the program in which the first of these bytes are others.
fn changed(home: &Home, from: &[u8], to: &[u8]) -> PathBuf {
    let mut bytes = std::fs::read(program()).expect("a program");
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|&at| bytes[at] == from[0] && bytes[at..].starts_with(from))
        .collect();
    assert!(!places.is_empty(), "it is nowhere");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    let path = home.path().join("changed");
    std::fs::write(&path, bytes).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
    path
}

/// What a program finds of its runtime in a home.
fn runtime(program: &PathBuf, home: &Home) -> Finding {
    let words = ["--json", "doctor", "--home"];
    let mut doctor = Command::new(program);
    let doctor = doctor.args(words).arg(home.path()).stdin(Stdio::null());
    finding(&finish(doctor.env_remove("RUST_LOG")), "runtime")
}

#[test]
fn a_program_that_is_damaged_is_installed_anew_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "root", "--plugin", "none"]);
    home.ok(&["doctor"]);
    let components = std::fs::read_dir(home.path().join("components")).expect("a directory");
    let paths = components.map(|entry| entry.expect("told").path());
    let component = paths
        .filter(|path| path.extension().is_some_and(|end| end == "wasm"))
        .map(|path| std::fs::read(path).expect("read"))
        .min_by_key(Vec::len);
    let damaged = changed(&home, &component.expect("one"), b"\0nothing");
    runtime(&damaged, &home)
        .advice("install this version of Lattice anew, and report it if that does not help");
    std::fs::copy(program(), &damaged).expect("copied");
    runtime(&damaged, &home).is_content();
}

#[test]
fn a_machine_that_computes_otherwise_is_told_with_what_to_report_and_another_is_not() {
    let home = Home::new();
    home.ok(&["store", "create", "root", "--plugin", "none"]);
    // The program has the text of the component of which it knows the outcomes.
    let other = changed(&home, b"(f32.mul (f32.convert_i32_s", b"(f32.add");
    let found = runtime(&other, &home);
    found.advice("do not write to shared stores from this machine, and report it with the kind of its processor");
    assert!(found.text.contains("saturate("), "{found:?}");
    runtime(&program(), &home).is_content();
}

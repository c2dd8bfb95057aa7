//! What is told about a home, its files and its daemon is done as it says, and helps: by the command that fails, and by
//! `doctor` where it can still look.

use std::fs::Permissions;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{
    Home, advice, command, command_by, daemon_by, finding, finish, read_line, read_rest, send,
    start_daemon_with,
};

fn clicks() -> Home {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.ok(&["call", "clicks", "add", "7"]);
    home
}

const VALUE: [&str; 3] = ["query", "clicks", "value"];

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

fn only_store(home: &Home) -> PathBuf {
    let mut stores = std::fs::read_dir(home.path().join("stores")).expect("a home");
    let store = stores.next().expect("one").expect("told").path();
    assert!(stores.next().is_none());
    store
}

#[test]
fn what_doctor_says_to_run_helps() {
    let home = clicks();
    let daemon = home.daemon();
    set_mode(home.path(), 0o777);
    home.doctor("home").advice("run `chmod 700").ok(&home);
    home.doctor("home").is_content();
    let socket = home.path().join("lattice.sock");
    set_mode(&socket, 0o666);
    home.doctor("socket").advice("run `chmod 600").ok(&home);
    home.doctor("socket").is_content();
    assert_eq!(daemon.end("TERM").0, 0);
}

#[test]
fn a_key_that_was_replaced_is_told_until_the_node_starts_anew() {
    let home = clicks();
    let daemon = home.daemon();
    let key = home.path().join("identity.key");
    let before = std::fs::read(&key).expect("a key");
    std::fs::write(&key, [7; 32]).expect("written");
    home.doctor("key").advice(
        "put the key of this node back, or restart the daemon to become the device of the new one",
    );
    std::fs::write(&key, &before).expect("written");
    home.doctor("key").is_content();
    std::fs::write(&key, [7; 32]).expect("written");
    daemon.end("TERM");
    let _daemon = home.daemon();
    home.doctor("key").is_content();
}

#[test]
fn a_key_that_cannot_be_used_is_set_right_as_it_says() {
    let home = clicks();
    let key = home.path().join("identity.key");
    set_mode(&key, 0o644);
    let told = home.advice(&VALUE, "`, or begin as a new device with another --home");
    home.advice(
        &["doctor"],
        "`, or begin as a new device with another --home",
    );
    told.ok(&home);
    assert_eq!(home.ok(&VALUE), "7\n");

    let kept = std::fs::read(&key).expect("a key");
    std::fs::write(&key, b"short").expect("written");
    home.advice(
        &VALUE,
        "put it back from a backup, or begin as a new device with another --home",
    );
    let new = Home::new();
    new.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    std::fs::write(&key, &kept).expect("written");
    assert_eq!(home.ok(&VALUE), "7\n");
}

#[test]
fn a_directory_in_the_place_of_each_file_of_a_home_is_told_with_its_path() {
    for name in ["identity.key", "lock", "node.redb"] {
        let home = clicks();
        let path = home.path().join(name);
        let kept = home.path().join("kept");
        std::fs::rename(&path, &kept).expect("it was there");
        std::fs::create_dir(&path).expect("made");
        for words in [&VALUE[..], &["doctor"]] {
            let ended = home.run(words);
            ended.failed(3, &[path.to_str().expect("UTF-8")]);
            advice(&ended.stderr, "check the path");
        }
        std::fs::remove_dir(&path).expect("empty");
        std::fs::rename(&kept, &path).expect("put back");
        assert_eq!(home.ok(&VALUE), "7\n", "{name}");
    }
    for name in ["stores", "blobs", "components"] {
        let home = clicks();
        let path = home.path().join(name);
        let kept = home.path().join("kept");
        std::fs::rename(&path, &kept).expect("it was there");
        std::fs::write(&path, b"a file").expect("written");
        for words in [&VALUE[..], &["doctor"]] {
            let ended = home.run(words);
            ended.failed(3, &[path.to_str().expect("UTF-8")]);
            advice(&ended.stderr, "move it away");
        }
        std::fs::rename(&path, home.path().join("away")).expect("moved");
        std::fs::rename(&kept, &path).expect("put back");
        assert_eq!(home.ok(&VALUE), "7\n", "{name}");
    }
}

#[test]
fn a_store_that_does_not_open_is_told_by_doctor_and_opens_as_it_says() {
    let home = clicks();
    let _daemon = home.daemon();
    assert_eq!(home.ok(&VALUE), "7\n");
    drop(_daemon);
    let log = only_store(&home).join("log");
    let segment = log.join("0000000000000000.redb");
    let kept = home.path().join("kept");
    std::fs::rename(&segment, &kept).expect("it was there");
    std::fs::create_dir(&segment).expect("made");
    home.advice(&VALUE, "it is tried again whenever it is used");
    home.advice(&VALUE, "check the path");
    let told = home.doctor("stores").advice("`lattice store status");
    let said = told.ok(&home);
    assert!(said.contains("0000000000000000.redb"), "{said}");
    std::fs::remove_dir(&segment).expect("empty");
    std::fs::rename(&kept, &segment).expect("put back");
    assert_eq!(home.ok(&VALUE), "7\n");
    home.doctor("stores").is_content();
}

#[test]
fn a_second_daemon_starts_when_the_first_is_ended_as_it_says() {
    let home = clicks();
    let first = home.daemon();
    let daemon = [
        "daemon",
        "--bind",
        "127.0.0.1:0",
        "--no-relay",
        "--no-discovery",
    ];
    home.advice(
        &daemon,
        "a daemon runs there already, or a command does: end it first",
    );
    first.end("TERM");
    let second = home.daemon();
    assert_eq!(home.ok(&VALUE), "7\n");
    second.end("TERM");
    // The number of a process that is gone, and a socket that nobody serves.
    std::fs::write(home.path().join("lock"), b"1\n").expect("written");
    let _gone = std::os::unix::net::UnixListener::bind(home.path().join("lattice.sock"));
    drop(_gone);
    assert_eq!(home.ok(&VALUE), "7\n");
    let _third = home.daemon();
    assert_eq!(home.ok(&VALUE), "7\n");
}

#[test]
fn a_port_that_is_taken_is_told_and_another_one_serves() {
    let home = Home::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("told").to_string();
    let daemon = ["daemon", "--bind", &address, "--no-relay", "--no-discovery"];
    let told = home.run(&daemon);
    told.failed(3, &[&address]);
    advice(
        &told.stderr,
        "is --bind an address of this machine, and its port free?",
    );
    let _daemon = home.daemon();
    home.ok(&["status"]);
}

#[test]
fn a_home_that_is_not_named_or_not_there_is_as_it_says() {
    let empty = Home::new();
    let none = empty.path().join("none");
    let ended = finish(command(&none).args(["status"]));
    let told = advice(
        &ended.stderr,
        "`lattice store create`, `lattice store join` and `lattice daemon` make one, and --home names another",
    );
    assert_eq!(told.commands()[2], "lattice daemon");
    let _daemon = start_daemon_with(command(&none).stderr(std::process::Stdio::null()));
    assert_eq!(finish(command(&none).args(["status"])).code, 0);

    let mut nameless = Command::new(crate::harness::program());
    nameless.env_clear().arg("status");
    let ended = finish(&mut nameless);
    advice(&ended.stderr, "give --home DIR");
    nameless.arg("--home").arg(&none);
    assert_eq!(finish(&mut nameless).code, 0);
}

#[test]
fn a_daemon_that_hangs_is_ended_and_started_again_as_it_says() {
    let home = clicks();
    let daemon = home.daemon();
    daemon.signal("STOP");
    home.advice(
        &VALUE,
        "look at its output; end it and start it again if it hangs",
    );
    drop(daemon);
    let _again = home.daemon();
    assert_eq!(home.ok(&VALUE), "7\n");
}

#[test]
fn a_directory_of_a_store_without_a_log_is_removed_as_it_says() {
    let home = clicks();
    let (store, kept) = (only_store(&home), home.path().join("kept"));
    std::fs::rename(store.join("state.redb"), &kept).expect("it was there");
    assert_eq!(home.ok(&VALUE), "7\n");
    std::fs::write(store.join("state.redb"), vec![7; 8192]).expect("written");
    assert_eq!(home.ok(&VALUE), "7\n");
    let noticed = home.json(&["notices"]);
    let said = noticed["notices"][0]["text"].as_str().expect("a notice");
    assert!(said.contains("state.redb was damaged"), "{said}");
}

#[test]
fn what_was_copied_is_told_until_a_person_has_seen_it() {
    let home = clicks();
    let copy = tempfile::tempdir().expect("a directory");
    let words = [
        "-a",
        &format!("{}/.", home.path().display()),
        &copy.path().display().to_string(),
    ];
    assert!(
        Command::new("cp")
            .args(words)
            .status()
            .expect("cp starts")
            .success()
    );
    let copied = Home::at(copy);
    copied.ok(&["call", "clicks", "add", "1"]);
    let found = copied.doctor("copies");
    let told = found.advice("if another home with this key is in use, end its node; begin there with another --home and join with an invite, as a device of its own");
    drop(told);
    let told = found.advice("; then run `lattice notices ack --all`");
    told.ok(&copied);
    copied.doctor("copies").is_content();
}

#[test]
fn a_home_whose_lock_or_socket_was_removed_waits_for_who_has_it_as_it_says() {
    let home = clicks();
    let daemon = home.daemon();
    std::fs::remove_file(home.path().join("lattice.sock")).expect("it was there");
    home.advice(&VALUE, "wait until it ends, or end it, and try again");
    std::fs::remove_file(home.path().join("lock")).expect("it was there");
    home.advice(&VALUE, "end that process first");
    daemon.end("TERM");
    assert_eq!(home.ok(&VALUE), "7\n");
}

#[test]
fn too_few_open_files_are_told_by_doctor_and_what_it_says_to_allow_is_enough() {
    let home = Home::new();
    for number in 0..12 {
        let name = format!("s{number}");
        home.ok(&["store", "create", &name, "--plugin", "none"]);
    }
    let with = |limit: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
        let ended = finish(command_by(shell, home.path()).args(["--json", "doctor"]));
        finding(&ended, "files")
    };
    let told = with("-n 64").advice("`, or LimitNOFILE= of the service");
    let limit = told.commands()[0].strip_prefix("ulimit ").expect("a limit");
    with(limit).is_content();
}

#[test]
fn who_watches_watches_again_when_the_daemon_is_back_as_it_says() {
    let home = clicks();
    let daemon = home.daemon();
    let watch = || {
        let mut watch = home.command();
        watch.args(["watch", "clicks", "value"]);
        watch.stdout(Stdio::piped()).stderr(Stdio::piped());
        watch.spawn().expect("it starts")
    };
    let mut first = watch();
    let mut printed = BufReader::new(first.stdout.take().expect("piped"));
    assert_eq!(read_line(&mut printed), "7\n");
    daemon.end("TERM");
    let said = read_rest(first.stderr.take().expect("piped"));
    assert!(!first.wait().expect("it ends").success());
    advice(&said, "try again when it runs");
    let _again = home.daemon();
    let mut second = watch();
    let mut printed = BufReader::new(second.stdout.take().expect("piped"));
    assert_eq!(read_line(&mut printed), "7\n");
    send("TERM", &second);
    second.wait().expect("it ends");
}

#[test]
fn a_join_that_a_switch_forbids_or_that_finds_nobody_goes_on_as_it_says() {
    let (a, b) = (clicks(), Home::new());
    let first = a.daemon();
    let address = first.ready["addresses"][0]
        .as_str()
        .expect("one")
        .to_owned();
    let token = a.ok(&["store", "invite", "clicks"]);
    let second = b.daemon();
    let join = ["store", "join", "--yes", token.trim()];
    let strict = ["store", "join", "--yes", "--no-mdns", token.trim()];
    let told = b.advice(&strict, "end the daemon and run `lattice daemon");
    second.end("TERM");
    let words = told.commands()[0]
        .strip_prefix("lattice ")
        .expect("a command")
        .to_owned();
    let loopback = [
        "--json",
        "--bind",
        "127.0.0.1:0",
        "--no-relay",
        "--no-discovery",
    ];
    let mut command = b.command();
    command
        .args(words.split(' '))
        .args(loopback)
        .stderr(Stdio::null());
    let _second = daemon_by(&mut command);
    first.end("TERM");
    b.advice(&strict, "try again when a member's node runs");
    let mut command = a.command();
    let switches = [
        "daemon",
        "--json",
        "--no-relay",
        "--no-discovery",
        "--bind",
        &address,
    ];
    let _first = daemon_by(command.args(switches).stderr(Stdio::null()));
    b.ok(&join);
    assert_eq!(b.ok(&VALUE), "7\n");
}

#[test]
fn a_store_whose_directory_is_gone_is_told_and_is_there_again_as_it_says() {
    let home = clicks();
    assert_eq!(home.ok(&VALUE), "7\n");
    let (store, kept) = (only_store(&home), home.path().join("kept"));
    std::fs::rename(&store, &kept).expect("it was there");
    assert_ne!(home.run(&VALUE).code, 0);
    let found = home.doctor("stores");
    advice(
        &found.text,
        "while no daemon runs, put it back from a backup, or join the store again",
    );
    assert!(
        found.text.contains("the store clicks is forgotten"),
        "{found:?}"
    );
    std::fs::rename(&kept, &store).expect("put back");
    let listed = home.json(&["store", "list"]);
    let name = listed["stores"][0]["name"].as_str().expect("a name");
    let found = home.doctor("stores");
    let told = advice(&found.text, "NAME` gives it another name");
    assert_eq!(
        told.commands(),
        [format!("lattice store rename {name} NAME")]
    );
    home.ok(&["store", "rename", name, "clicks"]);
    assert_eq!(home.ok(&VALUE), "7\n");
    let told = home
        .doctor("stores")
        .advice("`lattice notices` shows all, and `lattice notices ack --all` ends this");
    assert!(told.ok(&home).contains("NAME"));
    home.ok(&["notices", "ack", "--all"]);
    home.doctor("stores").is_content();
}

#[test]
fn records_that_were_lost_are_told_and_the_store_gets_its_name_again() {
    let home = clicks();
    std::fs::remove_file(home.path().join("node.redb")).expect("it was there");
    let found = home.doctor("stores");
    advice(&found.text, "NAME` gives it another name");
    let listed = home.json(&["store", "list"]);
    let name = listed["stores"][0]["name"].as_str().expect("a name");
    home.ok(&["store", "rename", name, "clicks"]);
    assert_eq!(home.ok(&VALUE), "7\n");
}

#[test]
fn a_log_without_its_segments_is_told_and_putting_it_back_helps() {
    let home = clicks();
    let segment = only_store(&home).join("log/0000000000000000.redb");
    let kept = home.path().join("kept");
    std::fs::rename(&segment, &kept).expect("it was there");
    let remedy = "while no daemon runs, put the store's directory back from a backup, or remove it \
                  and join the store again";
    home.advice(&VALUE, remedy);
    std::os::unix::fs::symlink("/nonexistent/file", &segment).expect("made");
    home.advice(&VALUE, remedy);
    std::fs::remove_file(&segment).expect("it was there");
    std::fs::rename(&kept, &segment).expect("put back");
    assert_eq!(home.ok(&VALUE), "7\n");
}

//! What the machine does to a node: limits, disks and files that are not as they should be. Each error says what is
//! wrong and what to do, and doing that helps.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{
    Daemon, Ended, Home, advice, built, command, command_by, daemon_by, finish, program,
    start_daemon_with,
};

/// The binary on a home, with a limit that the shell's `ulimit` sets.
fn limited(home: &Path, limit: &str, words: &[&str]) -> Ended {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit {limit} && exec \"$0\" \"$@\""))
        .arg(program())
        .arg("--home")
        .arg(home)
        .args(words)
        .env_remove("LATTICE_HOME")
        .env_remove("RUST_LOG");
    finish(&mut command)
}

/// The directories of the stores of a home.
fn stores(home: &Path) -> Vec<PathBuf> {
    let stores = std::fs::read_dir(home.join("stores")).expect("a home");
    stores.map(|store| store.expect("told").path()).collect()
}

/// The directory of the only store of a home.
fn only_store(home: &Path) -> PathBuf {
    let stores = stores(home);
    let [store] = stores.as_slice() else {
        panic!("not one store: {stores:?}");
    };
    store.clone()
}

#[test]
fn too_few_descriptors_cost_no_store_its_state() {
    let home = Home::new();
    let names: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
    for name in &names {
        home.ok(&["store", "create", name, "--plugin", "counter"]);
        home.ok(&["call", name, "add", "7"]);
    }
    let states = || {
        let mut files: Vec<_> = stores(home.path())
            .iter()
            .map(|store| {
                let state = std::fs::metadata(store.join("state.redb")).expect("it is there");
                (store.clone(), state.ino())
            })
            .collect();
        files.sort();
        files
    };
    let before = states();
    let mut lacking = 0;
    // From too few for anything to enough for all.
    for descriptors in (12..=60).step_by(3) {
        // It opens all stores, to know their members.
        let ended = limited(home.path(), &format!("-n {descriptors}"), &["status"]);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        for wrong in ["damaged", "backup", "panicked"] {
            assert!(!said.contains(wrong), "{descriptors}: {said}");
        }
        if said.contains("ulimit -n") {
            let said = said.replace("\n", "; ");
            advice(
                &said,
                "allow more open files: see `ulimit -n`, or LimitNOFILE= of the service",
            );
            lacking += 1;
        }
        assert_eq!(states(), before, "{descriptors}: {said}");
    }
    assert!(lacking > 0, "there were always enough");
    for name in &names {
        assert_eq!(home.ok(&["query", name, "value"]), "7\n");
    }
    assert_eq!(home.json(&["notices"])["notices"], serde_json::json!([]));
}

#[test]
fn a_damaged_state_is_made_again_and_somebody_is_told() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.ok(&["call", "clicks", "add", "7"]);
    let state = only_store(home.path()).join("state.redb");
    std::fs::write(&state, b"no database").expect("written");
    assert_eq!(home.ok(&["query", "clicks", "value"]), "7\n");
    let notices = home.json(&["notices"]);
    let said = notices["notices"][0]["text"].as_str().expect("a notice");
    assert!(said.contains("state.redb was damaged"), "{said}");
    // Once is enough.
    assert_eq!(home.ok(&["query", "clicks", "value"]), "7\n");
    let notices = home.json(&["notices"]);
    assert_eq!(notices["notices"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_damaged_log_is_what_it_says_and_joining_again_helps() {
    let (a, b) = (Home::new(), Home::new());
    let (_first, second) = (a.daemon(), b.daemon());
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    a.ok(&["call", "notes", "put", "from", "a"]);
    let token = a.ok(&["store", "invite", "notes"]);
    b.ok(&["store", "join", token.trim(), "--yes"]);
    second.end("TERM");
    let store = only_store(b.path());
    let segment = store.join("log/0000000000000000.redb");
    std::fs::write(&segment, b"no database").expect("written");
    let ended = b.run(&["query", "notes", "get", "from"]);
    ended.failed(4, &["is damaged"]);
    advice(
        &ended.stderr,
        "while no daemon runs, put the store's directory back from a backup, or remove it \
         and join the store again",
    );
    // The error says where.
    let path = store.to_str().expect("UTF-8");
    assert!(ended.stderr.contains(path), "{ended:?}");
    std::fs::remove_dir_all(&store).expect("it was there");
    let _second = b.daemon();
    let token = a.ok(&["store", "invite", "notes"]);
    b.ok(&["store", "join", token.trim(), "--yes"]);
    assert_eq!(b.ok(&["query", "notes", "get", "from"]), "some(\"a\")\n");
    b.ok(&["call", "notes", "put", "from", "b"]);
}

#[test]
fn a_damaged_node_redb_is_what_it_says_and_moving_it_away_helps() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.ok(&["call", "clicks", "add", "7"]);
    let records = home.path().join("node.redb");
    std::fs::write(&records, vec![7; 8192]).expect("written");
    home.fails(&["status"], 3, &["node.redb", "is damaged"]);
    home.advice(
        &["status"],
        "put it back from a backup, or move it away: stores are then found again by their \
         directories, and only their names here and those of plugins are lost",
    );
    std::fs::rename(&records, home.path().join("away")).expect("it was there");
    let listed = home.json(&["store", "list"]);
    let name = listed["stores"][0]["name"].as_str().expect("a name");
    assert_eq!(home.ok(&["query", name, "value"]), "7\n");
    home.ok(&["call", name, "add", "1"]);
}

#[test]
fn a_damaged_index_of_blobs_is_what_it_says_and_moving_blobs_away_helps() {
    let (a, b) = (Home::new(), Home::new());
    let bank = built("bank");
    a.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
    a.ok(&["store", "create", "money", "--plugin", "bank"]);
    let index = a.path().join("blobs/index.redb");
    std::fs::write(&index, vec![7; 8192]).expect("written");
    a.fails(
        &["status"],
        3,
        &["index.redb", "is damaged", "`blobs` away"],
    );
    a.advice(
        &["status"],
        "move the directory `blobs` away: it is filled again from `components` and by members",
    );
    std::fs::rename(a.path().join("blobs"), a.path().join("away")).expect("it was there");
    // Members still get the components from here.
    let (_first, _second) = (a.daemon(), b.daemon());
    let token = a.ok(&["store", "invite", "money"]);
    b.ok(&["store", "join", token.trim(), "--yes"]);
    b.ok(&["call", "money", "open", "ann"]);
}

/// Where standard error of a daemon goes that nobody can write to, or nobody reads.
#[derive(Clone, Copy, Debug)]
enum Unheard {
    /// To a full disk.
    Full,
    /// Into a pipe whose reader is gone.
    Gone,
    /// Into a pipe that is full, because its reader stands still.
    Still,
}

#[test]
fn a_daemon_whose_log_cannot_be_written_works_and_ends_as_any_other() {
    for unheard in [Unheard::Full, Unheard::Gone, Unheard::Still] {
        let (a, b) = (Home::new(), Home::new());
        let _first = a.daemon();
        a.ok(&["store", "create", "notes", "--plugin", "kv"]);
        a.ok(&["call", "notes", "put", "from", "a"]);
        let stderr = match unheard {
            Unheard::Full => {
                let full = File::options().write(true).open("/dev/full");
                full.expect("there is one").into()
            }
            Unheard::Gone | Unheard::Still => Stdio::piped(),
        };
        // It has much to say.
        let mut command = b.command();
        let mut second = start_daemon_with(command.env("RUST_LOG", "trace").stderr(stderr));
        if matches!(unheard, Unheard::Gone) {
            second.close_stderr();
        }
        let token = a.ok(&["store", "invite", "notes"]);
        b.ok(&["store", "join", token.trim(), "--yes"]);
        let got = b.ok(&["query", "notes", "get", "from"]);
        assert_eq!(got, "some(\"a\")\n", "{unheard:?}");
        let bank = built("bank");
        b.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
        assert_eq!(second.end("TERM").0, 0, "{unheard:?}");
        assert!(!b.path().join("lattice.sock").exists(), "{unheard:?}");
    }
}

/// Starts a daemon under a limit that the shell's `ulimit` sets.
fn limited_daemon(home: &Path, limit: &str) -> Daemon {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit {limit} && exec \"$0\" \"$@\""))
        .arg(program())
        .arg("--home")
        .arg(home)
        .env_remove("LATTICE_HOME")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    start_daemon_with(command.stderr(Stdio::null()))
}

#[test]
fn a_daemon_raises_its_limit_of_open_files_as_far_as_it_may() {
    let home = Home::new();
    let daemon = limited_daemon(home.path(), "-Sn 64");
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    for name in &names {
        home.ok(&["store", "create", name, "--plugin", "counter"]);
    }
    for name in &names {
        home.ok(&["call", name, "add", "7"]);
    }
    daemon.end("TERM");
    let _again = limited_daemon(home.path(), "-Sn 64");
    for name in &names {
        assert_eq!(home.ok(&["query", name, "value"]), "7\n");
    }
}

#[test]
fn a_store_that_finds_too_few_descriptors_is_refused_and_the_others_go_on() {
    let home = Home::new();
    let daemon = limited_daemon(home.path(), "-n 96");
    let mut made = Vec::new();
    let refused = loop {
        let name = format!("s{}", made.len());
        let ended = home.run(&["store", "create", &name, "--plugin", "counter"]);
        if ended.code != 0 {
            break ended;
        }
        home.ok(&["call", &name, "add", "7"]);
        made.push(name);
        assert!(made.len() < 96, "there is no end");
    };
    refused.failed(4, &["of 96 files are open"]);
    advice(
        &refused.stderr,
        "allow more open files: see `ulimit -Hn`, or LimitNOFILE= of the service",
    );
    assert!(made.len() > 4, "{made:?}");
    // Connections find what was kept for them.
    for name in &made {
        assert_eq!(home.ok(&["query", name, "value"]), "7\n");
    }
    let bank = built("bank");
    home.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
    daemon.end("TERM");
    let _again = home.daemon();
    home.ok(&["store", "create", "last", "--plugin", "bank"]);
    let listed = home.json(&["store", "list"]);
    assert_eq!(
        listed["stores"].as_array().map(Vec::len),
        Some(made.len() + 1)
    );
}

#[test]
fn a_store_is_made_whole_or_not_at_all_whatever_is_lacking() {
    let home = Home::new();
    home.ok(&["store", "create", "first", "--plugin", "counter"]);
    let mut made = vec!["first".to_owned()];
    for descriptors in (12..=72).step_by(2) {
        let name = format!("with-{descriptors}");
        let words = ["store", "create", &name, "--plugin", "counter"];
        let ended = limited(home.path(), &format!("-n {descriptors}"), &words);
        if ended.code == 0 {
            made.push(name);
        }
        let listed = home.json(&["store", "list"]);
        let listed = listed["stores"].as_array().expect("a list").iter();
        let mut listed: Vec<_> = listed.map(|store| store["name"].clone()).collect();
        listed.sort_by_key(ToString::to_string);
        made.sort();
        assert_eq!(listed, made, "{descriptors}: {ended:?}");
        assert_eq!(
            stores(home.path()).len(),
            made.len(),
            "{descriptors}: {ended:?}"
        );
    }
    assert!(made.len() > 1, "there were never enough");
}

#[test]
fn a_program_that_was_replaced_compiles_and_joins_as_before() {
    let (a, b) = (Home::new(), Home::new());
    let _first = a.daemon();
    let bank = built("bank");
    let bank = bank.to_str().expect("UTF-8");
    a.ok(&["plugin", "install", bank]);
    a.ok(&["store", "create", "money", "--plugin", "bank"]);
    let token = a.ok(&["store", "invite", "money"]);
    let files = tempfile::tempdir().expect("a directory");
    let copy = files.path().join("lattice");
    std::fs::copy(program(), &copy).expect("copied");
    let mut command = Command::new(&copy);
    command
        .arg("--home")
        .arg(b.path())
        .env_remove("LATTICE_HOME")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let _second = start_daemon_with(&mut command);
    // As an update does it: another file gets the name.
    let other = files.path().join("other");
    std::fs::write(&other, b"#!/bin/sh\nexit 9\n").expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&other, executable).expect("set");
    std::fs::rename(&other, &copy).expect("replaced");
    b.ok(&["store", "join", token.trim(), "--yes"]);
    b.ok(&["call", "money", "open", "ann"]);
    // And where nothing has the name any more.
    std::fs::remove_file(&copy).expect("it was there");
    b.ok(&["store", "create", "notes", "--plugin", "kv"]);
    b.ok(&["call", "notes", "put", "a", "b"]);
}

#[test]
fn who_only_reads_makes_no_home() {
    let empty = Home::new();
    let none = empty.path().join("none");
    for home in [none.as_path(), empty.path()] {
        for words in [
            &["status"][..],
            &["doctor"],
            &["notices"],
            &["plugin", "list"],
            &["plugin", "inspect", "kv"],
            &["store", "list"],
            &["store", "status", "notes"],
            &["store", "members", "notes"],
            &["query", "notes", "get", "a"],
            &["call", "notes", "put", "a", "b"],
        ] {
            let ended = finish(command(home).args(words));
            ended.failed(3, &["there is no home at", "store create"]);
        }
        // A file can be looked at wherever one is.
        let bank = built("bank");
        let words = ["plugin", "inspect", bank.to_str().expect("UTF-8")];
        let ended = finish(command(home).args(words));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("example:bank"), "{ended:?}");
    }
    let left = std::fs::read_dir(empty.path())
        .expect("a directory")
        .count();
    assert_eq!(left, 0, "something was made");
    // What the error says to do.
    let words = ["store", "create", "notes", "--plugin", "kv"];
    assert_eq!(finish(command(&none).args(words)).code, 0);
    let ended = finish(command(&none).args(["query", "notes", "get", "a"]));
    assert_eq!(ended.stdout, "none\n", "{ended:?}");
}

#[test]
fn a_home_with_stores_and_without_its_key_is_refused_until_the_key_is_back() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let node = home.json(&["status"])["node"].clone();
    let (key, backup) = (home.path().join("identity.key"), home.path().join("backup"));
    std::fs::rename(&key, &backup).expect("it was there");
    for words in [
        &["status"][..],
        &["call", "clicks", "add", "1"],
        &["store", "create", "more", "--plugin", "counter"],
        &[
            "daemon",
            "--bind",
            "127.0.0.1:0",
            "--no-relay",
            "--no-discovery",
        ],
    ] {
        home.fails(words, 3, &["identity.key is gone", "1 store", "backup"]);
        assert!(!key.exists(), "{words:?}");
    }
    std::fs::rename(&backup, &key).expect("it was there");
    assert_eq!(home.json(&["status"])["node"], node);
    home.ok(&["call", "clicks", "add", "1"]);
}

#[test]
fn a_path_too_long_for_a_socket_is_told_before_a_home_is_made_and_by_doctor() {
    let short = Home::new();
    let room = 107 - short.path().as_os_str().len() - "//lattice.sock".len();
    let with = |letters: usize| short.path().join("x".repeat(letters));
    // The longest that there may be.
    drop(start_daemon_with(
        command(&with(room)).stderr(Stdio::null()),
    ));
    let home = with(room + 1);
    let words = [
        "daemon",
        "--bind",
        "127.0.0.1:0",
        "--no-relay",
        "--no-discovery",
    ];
    let ended = finish(command(&home).args(words));
    ended.failed(3, &["108 bytes"]);
    advice(&ended.stderr, "give a shorter --home");
    assert!(!home.exists(), "a home was made");
    // Without a daemon it can be used, and doctor is not content.
    let words = ["store", "create", "clicks", "--plugin", "counter"];
    assert_eq!(finish(command(&home).args(words)).code, 0);
    let ended = finish(command(&home).arg("doctor"));
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.stdout.contains("give a shorter --home"), "{ended:?}");
    // What it says to do.
    std::fs::rename(&home, with(1)).expect("renamed");
    let _daemon = start_daemon_with(command(&with(1)).stderr(Stdio::null()));
    let ended = finish(command(&with(1)).args(["query", "clicks", "value"]));
    assert_eq!(ended.stdout, "0\n", "{ended:?}");
    assert_eq!(finish(command(&with(1)).arg("doctor")).code, 0);
}

#[test]
fn a_daemon_under_nohup_outlives_its_terminal() {
    let home = Home::new();
    let mut nohup = Command::new("nohup");
    nohup.arg(program()).arg("--home").arg(home.path());
    nohup.stdin(Stdio::null()).stderr(Stdio::null());
    let daemon = start_daemon_with(&mut nohup);
    daemon.signal("HUP");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(home.json(&["status"])["daemon"], true);
    assert_eq!(daemon.end("TERM").0, 0);
}

#[test]
fn components_that_are_lost_come_back_from_what_stores_keep() {
    let home = Home::new();
    let bank = built("bank");
    home.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
    home.ok(&["store", "create", "money", "--plugin", "bank"]);
    home.ok(&["call", "money", "open", "ann"]);
    let plugins = home.json(&["plugin", "list"])["plugins"].clone();
    let components = home.path().join("components");
    // Nobody else is there who could give them.
    std::fs::remove_dir_all(&components).expect("it was there");
    home.ok(&["call", "money", "deposit", "ann", "7"]);
    assert_eq!(home.ok(&["query", "money", "balance", "ann"]), "some(7)\n");
    assert_eq!(home.json(&["plugin", "list"])["plugins"], plugins);
    // Damaged ones as well, and while a daemon runs.
    let damage = || {
        for file in std::fs::read_dir(&components).expect("a directory") {
            std::fs::write(file.expect("told").path(), b"damaged").expect("written");
        }
    };
    damage();
    assert_eq!(home.ok(&["query", "money", "balance", "ann"]), "some(7)\n");
    let daemon = home.daemon();
    // One by one: the daemon puts back what it needs meanwhile.
    for file in std::fs::read_dir(&components).expect("a directory") {
        // A file that it writes just now has another name in the end.
        match std::fs::remove_file(file.expect("told").path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    home.ok(&["store", "create", "more", "--plugin", "bank"]);
    home.ok(&["call", "more", "open", "bob"]);
    daemon.end("TERM");
    assert_eq!(home.ok(&["query", "more", "balance", "bob"]), "some(0)\n");
}

#[test]
fn a_lost_lock_file_is_told_as_what_it_is_and_ending_the_other_process_helps() {
    let home = Home::new();
    let daemon = home.daemon();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    for file in ["lock", "lattice.sock"] {
        std::fs::remove_file(home.path().join(file)).expect("it was there");
    }
    let ended = home.run(&["query", "clicks", "value"]);
    ended.failed(3, &["another process", "end that process first"]);
    for wrong in ["backup", "damaged"] {
        assert!(!ended.stderr.contains(wrong), "{ended:?}");
    }
    daemon.end("TERM");
    assert_eq!(home.ok(&["query", "clicks", "value"]), "0\n");
}

#[test]
fn limits_that_were_inherited_are_narrowed_and_compiling_goes_on() {
    // Where nobody may raise a limit, not even root.
    let unprivileged = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .status()
        .is_ok_and(|status| status.success());
    let home = Home::new();
    let mut command = Command::new("sh");
    let unshare = match unprivileged {
        true => "unshare --user --map-root-user",
        false => "",
    };
    let script = format!("ulimit -t 100 && ulimit -f 500000 && exec {unshare} \"$0\" \"$@\"");
    command
        .args(["-c", &script])
        .arg(program())
        .arg("--home")
        .arg(home.path())
        .args(["store", "create", "clicks", "--plugin", "counter"])
        .env_remove("LATTICE_HOME");
    let ended = finish(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    home.ok(&["call", "clicks", "add", "7"]);
}

#[test]
fn a_process_with_four_gigabytes_of_address_space_does_everything() {
    let limited = |home: &Home| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 4000000 && exec \"$0\" \"$@\""]);
        command_by(shell, home.path())
    };
    let ok = |home: &Home, words: &[&str]| {
        let ended = finish(limited(home).args(words));
        assert_eq!(ended.code, 0, "lattice {words:?}: {ended:?}");
        ended.stdout.trim().to_owned()
    };
    let daemon = |home: &Home| {
        let switches = ["--no-relay", "--no-discovery", "--bind", "127.0.0.1:0"];
        daemon_by(limited(home).args(["daemon", "--json"]).args(switches))
    };
    let (a, b) = (Home::new(), Home::new());
    // Without a daemon, compiling included.
    ok(&a, &["store", "create", "clicks", "--plugin", "counter"]);
    ok(&a, &["call", "clicks", "add", "1"]);
    let (_first, _second) = (daemon(&a), daemon(&b));
    for number in 0..20 {
        let name = format!("notes-{number}");
        ok(&a, &["store", "create", &name, "--plugin", "kv"]);
        ok(&a, &["call", &name, "put", "a", "b"]);
    }
    let token = ok(&a, &["store", "invite", "clicks"]);
    ok(&b, &["store", "join", "--yes", &token]);
    assert_eq!(ok(&b, &["query", "clicks", "value"]), "1");
    ok(&b, &["call", "clicks", "add", "2"]);
    assert!(ok(&a, &["doctor"]).contains("golden outcomes hold"));
}

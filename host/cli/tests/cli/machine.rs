//! What the machine does to a node: limits, disks and files that are not as they should be. Each error says what is
//! wrong and what to do, and doing that helps.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Daemon, Ended, Home, built, finish, program, start_daemon_with};

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
        lacking += usize::from(said.contains("ulimit -n"));
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
    ended.failed(4, &["is damaged", "remove it", "join the store again"]);
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
    home.fails(&["status"], 3, &["node.redb", "is damaged", "move it away"]);
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
    refused.failed(4, &["of 96 files are open", "ulimit"]);
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

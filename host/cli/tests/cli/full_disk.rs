//! A full disk: what was acknowledged stays, what failed leaves nothing behind, and all goes on when there is
//! space again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Daemon, Ended, Home, advice, built, command, finding, finish, finish_with_input, start_daemon,
    start_daemon_with,
};
use crate::small_disk::{SmallDisk, names};

/// Free space in bytes. With each of these an operation fails at another step, and with the last it succeeds.
const LEFT: [u64; 9] = [
    0,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    2 << 20,
    16 << 20,
];

/// The variable that skips the tests of this file where nothing can be mounted. CI ignores it.
const WITHOUT_MOUNT: &str = "LATTICE_TEST_WITHOUT_MOUNT";

fn small_disk() -> Option<SmallDisk> {
    let disk = SmallDisk::mount("32m");
    if disk.is_none() {
        let is_set = |name| std::env::var_os(name).is_some();
        assert!(
            is_set(WITHOUT_MOUNT) && !is_set("CI"),
            "neither root nor a user namespace can mount a small disk here; allow one of them, or set \
             {WITHOUT_MOUNT}=1 to leave this test out"
        );
    }
    disk
}

/// Asserts that a command failed for lack of space, with one of these exit codes: 4 if it failed on an open home,
/// 3 if it could not open the home.
fn failed_for_space(ended: &Ended, codes: &[i32]) {
    assert!(codes.contains(&ended.code), "{ended:?}");
    ended.failed(ended.code, &["space"]);
}

/// The names of the items that `NOUN list` lists.
fn listed(home: &Path, noun: &str) -> Vec<String> {
    let ended = finish(command(home).args(["--json", noun, "list"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    let document: Value = serde_json::from_str(&ended.stdout).expect("a document");
    let list = document[format!("{noun}s")].as_array().expect("a list");
    let name = |item: &Value| item["name"].as_str().expect("a name").to_owned();
    list.iter().map(name).collect()
}

/// Makes a home, unless there is one: a shell may do everything.
fn make_home(home: &Path) {
    let ended = finish_with_input(command(home).arg("shell"), b"");
    assert_eq!(ended.code, 0, "{ended:?}");
}

fn ok(home: &Path, words: &[&str]) -> String {
    let ended = finish(command(home).args(words));
    assert_eq!(ended.code, 0, "lattice {words:?}: {ended:?}");
    ended.stdout
}

/// Runs a command until it succeeds. A daemon tries once a second to open a store again that failed.
fn until_ok(home: &Path, words: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let ended = finish(command(home).args(words));
        if ended.code == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "lattice {words:?}: {ended:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a command until it prints this.
fn until(home: &Path, words: &[&str], expected: &str) {
    let begun = Instant::now();
    loop {
        let printed = ok(home, words);
        if printed == expected {
            return;
        }
        let waited = begun.elapsed();
        assert!(
            waited < Duration::from_secs(180),
            "lattice {words:?}: {printed}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Puts key after key until a put fails. Returns how many succeeded, and how the failed one ended.
fn put_until_full(home: &Path, store: &str, value: &str) -> (usize, Ended) {
    for count in 0..1000 {
        let key = format!("key-{count:04}");
        let ended = finish(command(home).args(["call", store, "put", &key, value]));
        if ended.code != 0 {
            return (count, ended);
        }
    }
    panic!("the disk never fills");
}

/// Asserts that the store has the first `count` keys, and not the one after them.
fn has_exactly(home: &Path, store: &str, count: usize, value: &str) {
    for index in 0..=count {
        let got = ok(home, &["query", store, "get", &format!("key-{index:04}")]);
        match index < count {
            true => assert!(got.contains(value), "key-{index:04} is lost"),
            false => assert_eq!(got, "none\n", "key-{index:04} was not acknowledged"),
        }
    }
}

/// Holds: invariant 6.
#[test]
fn a_full_disk_loses_no_call_that_was_acknowledged() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    ok(&home, &["store", "create", "notes", "--plugin", "kv"]);
    let value = "x".repeat(100_000);
    disk.fill(2 << 20);
    let (count, failed) = put_until_full(&home, "notes", &value);
    failed_for_space(&failed, &[3, 4]);
    assert!(count > 0, "{failed:?}");
    advice(&failed.stderr, "make room on the disk");
    disk.empty();
    has_exactly(&home, "notes", count, &value);
    ok(&home, &["call", "notes", "put", "after", "all"]);
}

/// Holds: invariant 6.
#[test]
fn a_daemon_whose_disk_is_full_goes_on_when_there_is_space_again() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    let daemon = start_daemon(&home);
    ok(&home, &["store", "create", "notes", "--plugin", "kv"]);
    ok(&home, &["store", "create", "clicks", "--plugin", "counter"]);
    ok(&home, &["call", "clicks", "add", "1"]);
    let value = "x".repeat(100_000);
    disk.fill(2 << 20);
    let (count, failed) = put_until_full(&home, "notes", &value);
    failed_for_space(&failed, &[4]);
    assert!(count > 0, "{failed:?}");
    // A store that wrote nothing meanwhile fails as well when it needs space: its journal may have room for some calls.
    disk.fill(0);
    let mut clicks = 1;
    let ended = loop {
        let ended = finish(command(&home).args(["call", "clicks", "add", "1"]));
        if ended.code != 0 {
            break ended;
        }
        clicks += 1;
    };
    failed_for_space(&ended, &[4]);
    // The store is opened anew, and answers queries while there is still no space.
    until_ok(&home, &["query", "clicks", "value"]);
    assert_eq!(
        ok(&home, &["query", "clicks", "value"]),
        format!("{clicks}\n")
    );
    disk.empty();
    until_ok(&home, &["call", "clicks", "add", "1"]);
    clicks += 1;
    assert_eq!(
        ok(&home, &["query", "clicks", "value"]),
        format!("{clicks}\n")
    );
    until_ok(&home, &["call", "notes", "put", "space", "again"]);
    has_exactly(&home, "notes", count, &value);
    ok(&home, &["call", "notes", "put", "after", "all"]);
    // Dropping the daemon kills it, and what was only in memory is lost.
    drop(daemon);
    has_exactly(&home, "notes", count, &value);
    assert_eq!(
        ok(&home, &["query", "clicks", "value"]),
        format!("{clicks}\n")
    );
}

#[test]
fn a_daemon_writes_its_own_records_again_when_there_is_space_again() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    let _daemon = start_daemon(&home);
    ok(&home, &["store", "create", "notes", "--plugin", "kv"]);
    disk.fill(0);
    // Names are what a node records of its stores; a long list of them does not fit for ever.
    let mut failed = 0;
    for number in 0..200 {
        let name = format!("{}-{number}", "n".repeat(50));
        let stores = listed(&home, "store");
        let ended = finish(command(&home).args(["store", "rename", &stores[0], &name]));
        if ended.code != 0 {
            failed_for_space(&ended, &[4]);
            failed += 1;
            if failed == 3 {
                break;
            }
        }
    }
    // What was recorded before can be read all the while.
    assert_eq!(listed(&home, "store").len(), 1);
    disk.empty();
    let stores = listed(&home, "store");
    ok(&home, &["store", "rename", &stores[0], "again"]);
    assert_eq!(listed(&home, "store"), ["again"]);
    ok(&home, &["store", "create", "more", "--plugin", "kv"]);
}

#[test]
fn a_disk_that_can_only_be_read_still_answers_queries_and_refuses_the_rest() {
    let Some(mut disk) = small_disk() else { return };
    let home = disk.home();
    ok(&home, &["store", "create", "notes", "--plugin", "kv"]);
    // One that was closed, and one that a machine which failed left.
    for closed in [true, false] {
        let key = format!("closed-{closed}");
        match closed {
            true => drop(ok(&home, &["call", "notes", "put", &key, "b"])),
            false => {
                let daemon = start_daemon(&home);
                ok(&home, &["call", "notes", "put", &key, "b"]);
                drop(daemon);
            }
        }
        disk.remount("ro");
        assert_eq!(ok(&home, &["query", "notes", "get", &key]), "some(\"b\")\n");
        assert!(ok(&home, &["store", "history", "notes"]).contains("put"));
        assert!(ok(&home, &["status"]).contains("notes"));
        for words in [
            &["call", "notes", "put", "never", "b"][..],
            &["store", "create", "more", "--plugin", "kv"],
            &["store", "rename", "notes", "other"],
        ] {
            let ended = finish(command(&home).args(words));
            ended.failed(4, &["ead-only"]);
            advice(
                &ended.stderr,
                "the disk can only be read: mount it for writing",
            );
        }
        disk.remount("rw");
        assert_eq!(ok(&home, &["query", "notes", "get", "never"]), "none\n");
        assert_eq!(ok(&home, &["query", "notes", "get", &key]), "some(\"b\")\n");
        assert_eq!(listed(&home, "store"), ["notes"]);
    }
    ok(&home, &["call", "notes", "put", "never", "b"]);
}

/// A daemon, and where its socket is.
fn start_and_find(home: &Path) -> (Daemon, PathBuf) {
    let daemon = start_daemon(home);
    let socket = daemon.ready["socket"].as_str().expect("a path").into();
    (daemon, socket)
}

/// Holds: invariant 6.
#[test]
fn a_daemon_on_a_disk_that_can_only_be_read_answers_and_takes_calls_once_it_can_be_written() {
    let Some(mut disk) = small_disk() else { return };
    let home = disk.home();
    let a = Home::new();
    let _peer = a.daemon();
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let token = a.ok(&["store", "invite", "notes"]);
    let daemon = start_daemon(&home);
    ok(&home, &["store", "join", token.trim(), "--yes"]);
    ok(&home, &["store", "create", "clicks", "--plugin", "counter"]);
    ok(&home, &["call", "clicks", "add", "1"]);
    // The socket of one that was killed stays.
    drop(daemon);
    disk.remount("ro");
    let (daemon, socket) = start_and_find(&home);
    assert!(!socket.starts_with(&home), "{socket:?}");
    let status = ok(&home, &["--json", "status"]);
    let status: Value = serde_json::from_str(&status).expect("a document");
    assert_eq!(status["daemon"], true, "{status}");
    for _ in 0..3 {
        let ended = finish(command(&home).args(["call", "clicks", "add", "1"]));
        ended.failed(4, &["ead-only", "mount it for writing"]);
        assert_eq!(ok(&home, &["query", "clicks", "value"]), "1\n");
        assert!(ok(&home, &["store", "history", "clicks"]).contains("add"));
        let ended = finish(command(&home).args(["store", "rename", "clicks", "other"]));
        ended.failed(4, &["ead-only"]);
    }
    // What a peer writes waits there.
    a.ok(&["call", "notes", "put", "from", "a"]);
    let doctor = finish(command(&home).args(["--json", "doctor"]));
    assert_eq!(doctor.code, 4, "{doctor:?}");
    assert!(doctor.stdout.contains("can only be read"), "{doctor:?}");
    finding(&doctor, "disk").advice("mount it for writing; the daemon goes on by itself");
    disk.remount("rw");
    until_ok(&home, &["call", "clicks", "add", "1"]);
    assert_eq!(ok(&home, &["query", "clicks", "value"]), "2\n");
    ok(&home, &["store", "rename", "clicks", "other"]);
    until_ok(&home, &["call", "notes", "put", "to", "a"]);
    // It is killed and started where it can write: the socket elsewhere is gone, and nothing is lost.
    drop(daemon);
    let (_daemon, inside) = start_and_find(&home);
    assert!(inside.starts_with(&home) && !socket.exists(), "{inside:?}");
    assert_eq!(ok(&home, &["query", "other", "value"]), "2\n");
    assert_eq!(ok(&home, &["query", "notes", "get", "to"]), "some(\"a\")\n");
    until(&home, &["query", "notes", "get", "from"], "some(\"a\")\n");
}

#[test]
fn a_home_without_its_lock_file_is_locked_elsewhere_where_it_can_only_be_read() {
    let Some(mut disk) = small_disk() else { return };
    let home = disk.home();
    ok(&home, &["store", "create", "clicks", "--plugin", "counter"]);
    std::fs::remove_file(home.join("lock")).expect("it was there");
    disk.remount("ro");
    let runtime = tempfile::tempdir().expect("a directory");
    let there = || {
        let mut command = command(&home);
        command.env("XDG_RUNTIME_DIR", runtime.path());
        command
    };
    let daemon = start_daemon_with(there().stderr(Stdio::null()));
    let socket = daemon.ready["socket"].as_str().expect("a path");
    assert!(Path::new(socket).starts_with(runtime.path()), "{socket}");
    let ended = finish(there().args(["query", "clicks", "value"]));
    assert_eq!(ended.stdout, "0\n", "{ended:?}");
    let switches = ["--bind", "127.0.0.1:0", "--no-relay", "--no-discovery"];
    let ended = finish(there().arg("daemon").args(switches));
    ended.failed(3, &["is locked by process"]);
    let path = socket.to_owned();
    daemon.end("TERM");
    assert!(!Path::new(&path).exists(), "the socket is left");
}

#[test]
fn a_full_disk_answers_queries_while_somebody_tries_to_write_all_the_time_and_says_so_once() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    ok(&home, &["store", "create", "notes", "--plugin", "kv"]);
    ok(&home, &["call", "notes", "put", "a", "b"]);
    let log = tempfile::NamedTempFile::new().expect("a file");
    let stderr = log.reopen().expect("it is there");
    let daemon = start_daemon_with(command(&home).stderr(stderr));
    disk.fill(0);
    let is_over = AtomicBool::new(false);
    let value = "x".repeat(100_000);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut refused = 0;
            while !is_over.load(Ordering::SeqCst) {
                let ended = finish(command(&home).args(["call", "notes", "put", "c", &value]));
                failed_for_space(&ended, &[4]);
                refused += 1;
            }
            refused
        });
        let begun = Instant::now();
        let (mut answered, mut asked) = (0, 0);
        while begun.elapsed() < Duration::from_secs(6) {
            let ended = finish(command(&home).args(["query", "notes", "get", "a"]));
            asked += 1;
            answered += usize::from(ended.stdout == "some(\"b\")\n");
        }
        is_over.store(true, Ordering::SeqCst);
        assert!(writer.join().expect("no panic") > 5);
        // It is opened anew about once a second, in which a query may fall.
        assert!(answered * 10 >= asked * 8, "{answered} of {asked}");
    });
    disk.empty();
    until_ok(&home, &["call", "notes", "put", "c", &value]);
    daemon.end("TERM");
    let said = std::fs::read_to_string(log.path()).expect("a log");
    let told = said.lines().filter(|line| line.contains("ERROR")).count();
    assert!((1..=3).contains(&told), "{said}");
    assert!(said.contains("takes what is written again"), "{said}");
}

#[test]
fn a_full_disk_still_answers_queries_with_and_without_a_daemon() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    ok(&home, &["store", "create", "notes", "--plugin", "kv"]);
    ok(&home, &["store", "create", "clicks", "--plugin", "counter"]);
    ok(&home, &["call", "notes", "put", "a", "b"]);
    ok(&home, &["call", "clicks", "add", "7"]);
    disk.fill(0);
    let answers = || {
        assert_eq!(ok(&home, &["query", "notes", "get", "a"]), "some(\"b\")\n");
        assert_eq!(ok(&home, &["query", "clicks", "value"]), "7\n");
        assert!(ok(&home, &["store", "history", "notes"]).contains("put"));
        assert!(ok(&home, &["status"]).contains("clicks"));
    };
    answers();
    let daemon = start_daemon(&home);
    answers();
    let (_, failed) = put_until_full(&home, "notes", &"x".repeat(100_000));
    failed_for_space(&failed, &[4]);
    // Until its writer has opened the store anew, nobody is answered.
    std::thread::sleep(Duration::from_millis(1500));
    until_ok(&home, &["query", "notes", "get", "a"]);
    until_ok(&home, &["query", "clicks", "value"]);
    answers();
    daemon.end("TERM");
    answers();
    disk.empty();
    ok(&home, &["call", "clicks", "add", "1"]);
    assert_eq!(ok(&home, &["query", "clicks", "value"]), "8\n");
}

/// Makes a store for each amount of free space. Either the store is there, or the command failed and left nothing
/// behind.
fn stores_are_whole_or_absent(home: &Path, disk: &SmallDisk, codes: &[i32]) {
    make_home(home);
    let mut made = Vec::new();
    for left in LEFT {
        let name = format!("with-{left}");
        disk.fill(left);
        let ended = finish(command(home).args(["store", "create", &name, "--plugin", "kv"]));
        disk.empty();
        match ended.code {
            0 => made.push(name),
            _ => failed_for_space(&ended, codes),
        }
        let mut there = listed(home, "store");
        there.sort();
        let mut expected = made.clone();
        expected.sort();
        assert_eq!(there, expected, "with {left} bytes");
        let stores = home.join("stores");
        let directories = if stores.exists() {
            names(&stores)
        } else {
            Vec::new()
        };
        assert_eq!(
            directories.len(),
            made.len(),
            "with {left} bytes: {directories:?}"
        );
    }
    assert!(made.len() < LEFT.len(), "the disk was never full");
    assert!(!made.is_empty(), "no store was made");
    for name in LEFT.map(|left| format!("with-{left}")) {
        if !made.contains(&name) {
            ok(home, &["store", "create", &name, "--plugin", "kv"]);
        }
        ok(home, &["call", &name, "put", "a", "b"]);
        assert_eq!(ok(home, &["query", &name, "get", "a"]), "some(\"b\")\n");
    }
}

#[test]
fn a_full_disk_makes_a_store_whole_or_not_at_all() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    stores_are_whole_or_absent(&home, &disk, &[3, 4]);
}

#[test]
fn a_daemon_with_a_full_disk_makes_a_store_whole_or_not_at_all() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    let _daemon = start_daemon(&home);
    stores_are_whole_or_absent(&home, &disk, &[4]);
}

/// Installs a plugin with more and more free space, until it succeeds. A command that fails must leave nothing
/// behind.
fn plugins_are_whole_or_absent(home: &Path, disk: &SmallDisk, codes: &[i32]) {
    let bank = built("bank");
    let bank = bank.to_str().expect("UTF-8");
    make_home(home);
    let before = (listed(home, "plugin"), names(&home.join("components")));
    let now = || (listed(home, "plugin"), names(&home.join("components")));
    let mut installed = 0;
    for left in LEFT {
        disk.fill(left);
        let ended = finish(command(home).args(["plugin", "install", bank]));
        disk.empty();
        match ended.code {
            0 => {
                installed += 1;
                ok(home, &["store", "create", "money", "--plugin", "bank"]);
                ok(home, &["call", "money", "open", "ann"]);
                break;
            }
            _ => failed_for_space(&ended, codes),
        }
        assert_eq!(now(), before, "with {left} bytes");
    }
    assert_eq!(installed, 1, "it was never installed");
    let mut expected = before.0.clone();
    expected.push("bank".into());
    expected.sort();
    let mut there = listed(home, "plugin");
    there.sort();
    assert_eq!(there, expected);
}

#[test]
fn a_full_disk_installs_a_plugin_whole_or_not_at_all() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    plugins_are_whole_or_absent(&home, &disk, &[3, 4]);
}

#[test]
fn a_daemon_with_a_full_disk_installs_a_plugin_whole_or_not_at_all() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    let _daemon = start_daemon(&home);
    plugins_are_whole_or_absent(&home, &disk, &[4]);
}

#[test]
fn components_that_a_full_disk_takes_no_more_are_there_when_there_is_room_as_it_says() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    ok(&home, &["store", "create", "root", "--plugin", "none"]);
    std::fs::remove_dir_all(home.join("components")).expect("it was there");
    disk.fill(0);
    let doctor = finish(command(&home).args(["--json", "doctor"]));
    finding(&doctor, "runtime").advice("check free space, permissions and the disk");
    let ended = finish(command(&home).args(["query", "root", "name"]));
    failed_for_space(&ended, &[4]);
    let told = advice(
        &ended.stderr,
        "run `lattice doctor`; check free space and the disk",
    );
    assert_eq!(told.commands(), ["lattice doctor"]);
    finding(&doctor, "disk").advice("MiB are free: stores stop on a full disk");
    disk.empty();
    assert_eq!(ok(&home, &["query", "root", "name"]), "\"root\"\n");
    let doctor = finish(command(&home).args(["--json", "doctor"]));
    finding(&doctor, "runtime").is_content();
}

#[test]
fn a_join_that_a_full_disk_holds_up_goes_on_as_it_says() {
    let Some(disk) = small_disk() else { return };
    let home = disk.home();
    let a = Home::new();
    let bank = built("bank");
    a.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
    let (_first, _second) = (a.daemon(), start_daemon(&home));
    a.ok(&["store", "create", "money", "--plugin", "bank"]);
    let token = a.ok(&["store", "invite", "money"]);
    let join = ["store", "join", "--yes", token.trim()];
    disk.fill(0);
    let ended = finish(command(&home).args(join));
    failed_for_space(&ended, &[4]);
    let told = advice(&ended.stderr, "`lattice doctor` examines this node");
    assert_eq!(told.commands(), ["lattice doctor"]);
    let doctor = finish(command(&home).args(["--json", "doctor"]));
    finding(&doctor, "disk").advice("MiB are free: stores stop on a full disk");
    disk.empty();
    until_ok(&home, &join);
    ok(&home, &["call", "money", "open", "ann"]);
}

#[test]
fn a_disk_with_little_space_is_told_by_doctor_until_there_is_room_as_it_says() {
    let Some(mut disk) = small_disk() else { return };
    let home = disk.home();
    make_home(&home);
    let check = || {
        let ended = finish(command(&home).args(["--json", "doctor"]));
        finding(&ended, "disk")
    };
    let found = check();
    found.advice("MiB are free: stores stop on a full disk");
    let mut words = found.hint.split(' ');
    let mib = words.find_map(|word| word.parse::<u64>().ok());
    disk.remount(&format!("size={}m", mib.expect("a number") + 40));
    check().is_content();
}

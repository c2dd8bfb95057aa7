//! What is told of calls, queries and plugins that fail is done as it says, and helps.

use std::fs::Permissions;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Ended, Home, advice, built, command_by, finish, read_line, read_rest, send};

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn file(home: &Home, name: &str, content: &[u8]) -> String {
    let path = home.path().join(name);
    std::fs::write(&path, content).expect("written");
    utf8(&path).to_owned()
}

#[test]
fn a_call_that_is_refused_leaves_all_as_it_was_as_it_says() {
    let home = Home::new();
    home.ok(&["plugin", "install", utf8(&built("bank"))]);
    home.ok(&["store", "create", "money", "--plugin", "bank"]);
    home.ok(&["call", "money", "open", "ann"]);
    home.ok(&["call", "money", "deposit", "ann", "5"]);
    let before = home.entries("money");
    home.advice(
        &["call", "money", "withdraw", "ann", "9"],
        "nothing was written",
    );
    assert_eq!(home.entries("money"), before);
    assert_eq!(home.ok(&["query", "money", "balance", "ann"]), "some(5)\n");
    home.ok(&["call", "money", "withdraw", "ann", "5"]);
}

#[test]
fn a_query_that_asks_for_too_much_is_answered_when_it_asks_for_less_as_it_says() {
    let home = Home::new();
    home.ok(&["plugin", "install", utf8(&built("hostile"))]);
    home.ok(&["store", "create", "h", "--plugin", "hostile"]);
    home.advice(
        &["query", "h", "emit-query", "2000000"],
        "ask for less, or tell the plugin's author",
    );
    home.ok(&["query", "h", "emit-query", "2"]);
}

#[test]
fn what_one_transaction_cannot_hold_is_called_in_several_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let both = file(
        &home,
        "both",
        b"put a b\nlattice:system/commands.rename mine\n",
    );
    home.advice(
        &["call", "notes", "--tx", &both],
        "call them one after the other",
    );
    home.ok(&["call", "notes", "put", "a", "b"]);
    home.ok(&["call", "notes", "lattice:system/commands.rename", "mine"]);

    let large = "x".repeat(1_100_000);
    let whole = file(&home, "whole", large.as_bytes());
    home.advice(
        &["call", "notes", "put", "large", &format!("@{whole}")],
        "put large content into several calls",
    );
    for (number, part) in large.as_bytes().chunks(220_000).enumerate() {
        let part = file(&home, "part", part);
        let key = format!("large-{number}");
        home.ok(&["call", "notes", "put", &key, &format!("@{part}")]);
    }
}

#[test]
fn a_parameter_without_a_value_is_written_as_it_says() {
    let home = Home::new();
    let create = [
        "store", "create", "clicks", "--plugin", "counter", "--param",
    ];
    let with = |param: &'static str| [&create[..], &[param]].concat();
    home.advice(&with("colour"), "write --param NAME=VALUE");
    home.ok(&with("colour=red"));
}

/// A component whose `init` does not succeed when it is given a parameter.
const PICKY: &str = r#"(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "init") (param i32 i32) (result i32)
      (if (local.get 1) (then (unreachable)))
      (i32.const 0))
    (func (export "value") (result i32) (i32.const 7)))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (func $init (param "params" (list (tuple string string))) (result (result (error string)))
    (canon lift (core func $i "init") (memory $memory) (realloc $realloc)))
  (func $value (result u32) (canon lift (core func $i "value")))
  (instance $lifecycle (export "init" (func $init)))
  (instance $queries (export "value" (func $value)))
  (export "lattice:store/lifecycle@0.1.0" (instance $lifecycle))
  (export "example:raw/queries@0.1.0" (instance $queries)))"#;

#[test]
fn a_store_whose_plugin_does_not_begin_is_not_made_as_it_says() {
    let home = Home::new();
    let picky = wat::parse_str(PICKY).expect("it can be assembled");
    let path = file(&home, "picky.wasm", &picky);
    home.ok(&["plugin", "install", &path, "--name", "picky"]);
    let create = ["store", "create", "s", "--plugin", "picky"];
    let given = [&create[..], &["--param", "colour=red"]].concat();
    home.advice(&given, "nothing was made");
    let listed = home.json(&["store", "list"]);
    assert_eq!(listed["stores"], serde_json::json!([]));
    home.ok(&create);
    assert_eq!(home.ok(&["query", "s", "value"]), "7\n");
}

/// A component with a custom section of this many bytes, as a compiler adds for a debugger.
fn with_debug_information(component: &[u8], bytes: u32) -> Vec<u8> {
    let name = b"debug";
    let len = bytes + 1 + name.len() as u32;
    // The number 0 of a custom section, and its length in LEB128 of five bytes.
    let mut section = vec![0];
    section.extend((0..5).map(|n| (len >> (7 * n)) as u8 & 0x7f | if n < 4 { 0x80 } else { 0 }));
    section.push(name.len() as u8);
    section.extend(name);
    section.resize(section.len() + bytes as usize, 0);
    [component, &section].concat()
}

#[test]
fn a_component_that_is_too_large_is_stripped_as_it_says() {
    let home = Home::new();
    let bank = std::fs::read(built("bank")).expect("read");
    let small = file(&home, "small.wasm", &with_debug_information(&bank, 1000));
    home.ok(&["plugin", "install", &small, "--name", "small"]);
    let large = file(
        &home,
        "large.wasm",
        &with_debug_information(&bank, 33 << 20),
    );
    home.advice(
        &["plugin", "install", &large],
        "strip it of debug information",
    );
    let stripped = file(&home, "stripped.wasm", &bank);
    home.ok(&["plugin", "install", &stripped]);
}

#[test]
fn a_core_module_becomes_a_component_as_it_says() {
    let home = Home::new();
    let bank = built("bank");
    // `cargo xtask plugins` does what the command does: it makes the component of this module.
    let target = bank.ancestors().nth(2).expect("a target directory");
    let module = target.join("wasm32-unknown-unknown/plugin/guest_bank.wasm");
    let told = home.advice(
        &["plugin", "install", utf8(&module)],
        "make one of it with `wasm-tools component new`",
    );
    assert_eq!(told.commands(), ["wasm-tools component new"]);
    home.ok(&["plugin", "install", utf8(&bank)]);
}

#[test]
fn a_hash_that_no_member_has_is_had_from_one_that_uses_it_as_it_says() {
    let (a, b) = (Home::new(), Home::new());
    let (_first, _second) = (a.daemon(), b.daemon());
    let bank = built("bank");
    let hash = a.json(&["plugin", "inspect", utf8(&bank)])["hash"].clone();
    let hash = hash.as_str().expect("a hash");
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let token = a.ok(&["store", "invite", "notes"]);
    b.ok(&["store", "join", "--yes", token.trim()]);
    b.advice(
        &["plugin", "install", hash],
        "it can be had only from members of a store that uses it",
    );
    a.ok(&["plugin", "install", utf8(&bank)]);
    a.ok(&["store", "create", "money", "--plugin", "bank"]);
    let token = a.ok(&["store", "invite", "money"]);
    b.ok(&["store", "join", "--yes", token.trim()]);
    b.ok(&["plugin", "install", hash]);
}

#[test]
fn a_daemon_that_is_killed_during_a_watch_is_started_again_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let watch = || {
        let mut watch = home.command();
        watch.args(["watch", "clicks", "value"]);
        watch.stdout(Stdio::piped()).stderr(Stdio::piped());
        watch.spawn().expect("it starts")
    };
    let daemon = home.daemon();
    let mut first = watch();
    let mut printed = BufReader::new(first.stdout.take().expect("piped"));
    assert_eq!(read_line(&mut printed), "0\n");
    // It is killed.
    drop(daemon);
    let said = read_rest(first.stderr.take().expect("piped"));
    assert_eq!(first.wait().expect("it ends").code(), Some(3), "{said}");
    advice(&said, "look at the daemon's output, and try again");
    let _again = home.daemon();
    let mut second = watch();
    let mut printed = BufReader::new(second.stdout.take().expect("piped"));
    assert_eq!(read_line(&mut printed), "0\n");
    send("TERM", &second);
    second.wait().expect("it ends");
}

#[test]
fn a_store_that_another_process_has_open_is_there_when_that_one_ends_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let store = std::fs::read_dir(home.path().join("stores"))
        .expect("a home")
        .next();
    let state = store.expect("one").expect("told").path().join("state.redb");
    let held = std::fs::File::options()
        .write(true)
        .open(&state)
        .expect("it is there");
    held.lock().expect("nobody else has it");
    let query = ["query", "clicks", "value"];
    home.advice(&query, "end that one first");
    drop(held);
    assert_eq!(home.ok(&query), "0\n");
}

/// Whether this process may read and write what belongs to others.
fn is_root() -> bool {
    let id = finish(Command::new("id").arg("-u"));
    id.stdout.trim() == "0"
}

/// Nobody, who has nothing.
const OTHER: &str = "65534";

/// A command on a home by somebody else. Needs root.
fn by_another(home: &Home, words: &[&str]) -> Ended {
    let mut other = Command::new("setpriv");
    other.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]);
    finish(command_by(other, home.path()).args(words))
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

#[test]
fn a_home_whose_files_belong_to_another_is_used_once_they_do_not_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let query = ["query", "clicks", "value"];
    let remedy = "check who owns the file, and its permissions";
    match is_root() {
        true => {
            let ended = by_another(&home, &query);
            ended.failed(3, &[utf8(home.path())]);
            advice(&ended.stderr, remedy);
            let mut chown = Command::new("chown");
            chown
                .args(["-R", &format!("{OTHER}:{OTHER}")])
                .arg(home.path());
            assert_eq!(finish(&mut chown).code, 0);
            assert_eq!(by_another(&home, &query).stdout, "0\n");
        }
        false => {
            let lock = home.path().join("lock");
            set_mode(&lock, 0);
            home.advice(&query, remedy);
            set_mode(&lock, 0o600);
            assert_eq!(home.ok(&query), "0\n");
        }
    }
}

#[test]
fn a_daemon_of_another_user_is_asked_by_that_user_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let _daemon = home.daemon();
    let query = ["query", "clicks", "value"];
    let socket = home.path().join("lattice.sock");
    let ended = match is_root() {
        true => by_another(&home, &query),
        false => {
            set_mode(&socket, 0);
            home.run(&query)
        }
    };
    ended.failed(3, &[utf8(&socket)]);
    advice(&ended.stderr, "run this as the user who runs the daemon");
    set_mode(&socket, 0o600);
    assert_eq!(home.ok(&query), "0\n");
}

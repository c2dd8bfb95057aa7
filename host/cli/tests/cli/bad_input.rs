//! Bad input: a command prints one line with what is wrong and what to do, exits with the documented code, and
//! leaves nothing half done.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Home, command, finish, raw};

#[test]
fn a_wrong_argument_type_changes_nothing() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let before = home.entries("clicks");
    home.fails(&["call", "clicks", "add", "five"], 2, &["five", "s64"]);
    home.fails(&["call", "clicks", "add"], 2, &["by"]);
    home.fails(&["call", "clicks", "add", "1", "2"], 2, &["add"]);
    home.fails(&["call", "clicks", "add", "--of", "1"], 2, &["of"]);
    home.fails(
        &["call", "clicks", "add", "9223372036854775808"],
        2,
        &["s64"],
    );
    assert_eq!(home.entries("clicks"), before);
    assert_eq!(home.ok(&["query", "clicks", "value"]), "0\n");
}

#[test]
fn a_number_that_no_type_holds_is_told_with_its_remedy() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let before = home.entries("clicks");
    let file = home.path().join("transaction");
    for number in ["1e309", "-1e400"] {
        let call = format!(r#"[{{"function": "add", "args": [{number}]}}]"#);
        std::fs::write(&file, call).expect("written");
        let says = [number, "largest number", "inf"];
        let file = file.to_str().expect("UTF-8");
        home.fails(&["call", "clicks", "--tx", file], 4, &says);
    }
    assert_eq!(home.entries("clicks"), before);
}

#[test]
fn a_name_that_no_command_line_can_say_is_given_to_no_store() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    for name in [".", "..", "", "a/b", "/", "./clicks", "-x", "a b"] {
        // After `--`, since a command line takes a leading dash for a switch.
        let create = ["store", "create", "--plugin", "counter", "--", name];
        home.fails(&create, 2, &["cannot be the name", &format!("{name:?}")]);
        let rename = ["store", "rename", "--", "clicks", name];
        home.fails(&rename, 2, &["cannot be the name", &format!("{name:?}")]);
    }
    assert_eq!(count(&home, "store"), 1);
    home.fails(&["store", "status", "."], 2, &["current store"]);
    home.fails(&["store", "status", ""], 2, &["there is no store"]);
}

#[test]
fn an_unknown_function_changes_nothing() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let before = home.entries("clicks");
    home.fails(
        &["call", "clicks", "subtract", "1"],
        2,
        &["subtract", "add"],
    );
    home.fails(&["query", "clicks", "add", "1"], 2, &["add", "call"]);
    home.fails(&["call", "clicks", "value"], 2, &["value", "query"]);
    assert_eq!(home.entries("clicks"), before);
}

#[test]
fn an_unknown_store_is_named() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.fails(&["call", "cliks", "add", "1"], 2, &["cliks"]);
    home.fails(&["query", "team/clicks", "value"], 2, &["team/clicks"]);
    home.fails(&["store", "status", "00000000"], 2, &["00000000"]);
    home.fails(
        &["store", "create", "x", "--plugin", "kv", "--parent", "no"],
        2,
        &["no"],
    );
    assert_eq!(count(&home, "store"), 1);
}

#[test]
fn an_unknown_plugin_makes_no_store() {
    let home = Home::new();
    home.fails(
        &["store", "create", "x", "--plugin", "nothing"],
        2,
        &["nothing"],
    );
    home.fails(&["plugin", "inspect", "nothing"], 2, &["nothing"]);
    home.fails(&["plugin", "remove", "nothing"], 2, &["nothing"]);
    assert_eq!(count(&home, "store"), 0);
}

#[test]
fn an_ambiguous_name_prints_the_candidates() {
    let home = Home::new();
    for team in ["red", "blue"] {
        home.ok(&["store", "create", team, "--plugin", "none"]);
        home.ok(&[
            "store", "create", "notes", "--plugin", "kv", "--parent", team,
        ]);
    }
    home.fails(
        &["call", "notes", "put", "a", "b"],
        2,
        &["\"notes\"", "red/notes", "blue/notes"],
    );
    home.ok(&["call", "red/notes", "put", "a", "b"]);
    let listed = home.json(&["store", "list"]);
    let id = listed["stores"][0]["id"].as_str().expect("an id");
    home.ok(&["store", "status", &id[..8]]);
    home.fails(&["store", "status", &id[..7]], 2, &[&id[..7]]);
}

/// Two components whose hashes begin with the same eight digits, the fewest that a person may give. They are the
/// same component, each with another section that nobody reads.
fn alike() -> [Vec<u8>; 2] {
    let component = wat::parse_file(raw("table-bomb")).expect("it can be assembled");
    let with = |number: u32| {
        // A custom section: its kind, its length, the length of its name, the name, and its contents.
        let section = [&[0, 6, 1, b'n'][..], &number.to_le_bytes()].concat();
        [&component[..], &section].concat()
    };
    // Of the 2^32 beginnings of a hash, two are the same after some ten thousands, by the birthday paradox.
    let mut seen = HashMap::new();
    let pair = (0..10_000_000).find_map(|number| {
        let hash = blake3::hash(&with(number));
        let digits: [u8; 4] = *hash.as_bytes().first_chunk().expect("a hash is longer");
        Some([seen.insert(digits, number)?, number])
    });
    pair.expect("two of so many are alike").map(with)
}

#[test]
fn an_ambiguous_prefix_prints_the_candidates() {
    let home = Home::new();
    let files = tempfile::tempdir().expect("a directory");
    let hashes = ["one", "two"].map(|name| files.path().join(name));
    let hashes = hashes.each_ref().map(PathBuf::as_path);
    let hashes: Vec<String> = alike()
        .iter()
        .zip(hashes)
        .map(|(bytes, path)| {
            std::fs::write(path, bytes).expect("written");
            let file = path.to_str().expect("UTF-8");
            let name = path.file_name().and_then(OsStr::to_str).expect("UTF-8");
            let installed = home.json(&["plugin", "install", file, "--name", name]);
            installed["hash"].as_str().expect("a hash").to_owned()
        })
        .collect();
    let prefix = &hashes[0][..8];
    assert_eq!(prefix, &hashes[1][..8]);
    let says = [prefix, "several", "one", "two", "more digits"];
    for words in [
        &["plugin", "inspect", prefix][..],
        &["plugin", "remove", prefix],
        &["store", "create", "tables", "--plugin", prefix],
    ] {
        home.fails(words, 2, &says);
    }
    assert_eq!(count(&home, "store"), 0);
    let longer = hashes[0]
        .bytes()
        .zip(hashes[1].bytes())
        .take_while(|(one, other)| one == other)
        .count()
        + 1;
    let prefix = &hashes[0][..longer];
    home.ok(&["store", "create", "tables", "--plugin", prefix]);
    home.fails(&["plugin", "remove", prefix], 2, &["one", "tables"]);
    home.ok(&["plugin", "remove", &hashes[1][..longer]]);
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    home.fails(
        &["store", "create", "notes", "--plugin", "kv"],
        2,
        &["notes"],
    );
    home.fails(&["store", "create", "a/b", "--plugin", "kv"], 2, &["a/b"]);
    home.fails(&["store", "create", "", "--plugin", "kv"], 2, &["name"]);
    assert_eq!(count(&home, "store"), 1);
}

#[test]
fn a_missing_file_is_named() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let before = home.entries("notes");
    home.fails(
        &["plugin", "install", "/no/such.wasm"],
        4,
        &["/no/such.wasm"],
    );
    home.fails(
        &["plugin", "inspect", "/no/such.wasm"],
        4,
        &["/no/such.wasm"],
    );
    home.fails(
        &["call", "notes", "put", "a", "@/no/file"],
        4,
        &["/no/file"],
    );
    home.fails(&["call", "notes", "--tx", "/no/file"], 4, &["/no/file"]);
    assert_eq!(home.entries("notes"), before);
}

#[test]
fn a_file_that_is_no_component_is_refused() {
    let home = Home::new();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"not wasm").expect("written");
    let path = file.path().to_str().expect("UTF-8");
    home.fails(&["plugin", "install", path], 4, &[]);
    let plugins = home.json(&["plugin", "list"]);
    let plugins = plugins["plugins"].as_array().expect("a list");
    assert!(plugins.iter().all(|p| p["bundled"] == true), "{plugins:?}");
}

#[test]
fn a_bad_token_is_refused() {
    let home = Home::new();
    for token in ["nonsense", "", "0", &"a".repeat(5000)] {
        let ended = home.run(&["store", "join", token, "--yes"]);
        ended.failed(4, &["token"]);
    }
    assert_eq!(count(&home, "store"), 0);
}

/// How many items `NOUN list` lists.
fn count(home: &Home, noun: &str) -> usize {
    let document = home.json(&[noun, "list"]);
    let list = document[format!("{noun}s")].as_array();
    list.expect("a list").len()
}

/// Two homes with daemons. The first has the store `notes`.
fn two() -> (Home, crate::harness::Daemon, Home, crate::harness::Daemon) {
    let (a, b) = (Home::new(), Home::new());
    let (first, second) = (a.daemon(), b.daemon());
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    (a, first, b, second)
}

fn invite(home: &Home, options: &[&str]) -> String {
    let words: Vec<&str> = ["store", "invite", "notes"]
        .iter()
        .chain(options)
        .copied()
        .collect();
    home.ok(&words).trim().to_owned()
}

#[test]
fn an_expired_invite_admits_nobody() {
    let (a, _first, b, _second) = two();
    let token = invite(&a, &["--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1500));
    b.fails(&["store", "join", &token, "--yes"], 4, &["expired"]);
    assert_eq!(count(&b, "store"), 0);
    let members = a.json(&["store", "members", "notes"]);
    assert_eq!(members["members"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_spent_invite_admits_nobody_else() {
    let (a, _first, b, _second) = two();
    let token = invite(&a, &[]);
    b.ok(&["store", "join", &token, "--yes"]);
    let c = Home::new();
    let _third = c.daemon();
    c.fails(&["store", "join", &token, "--yes"], 4, &["invite"]);
    let members = a.json(&["store", "members", "notes"]);
    assert_eq!(members["members"].as_array().map(Vec::len), Some(2));
}

#[test]
fn who_is_no_member_or_reads_only_cannot_write() {
    let (a, _first, b, _second) = two();
    let token = invite(&a, &["--role", "reader"]);
    b.ok(&["store", "join", &token, "--yes"]);
    let before = b.entries("notes");
    b.fails(&["call", "notes", "put", "a", "b"], 6, &["put"]);
    assert_eq!(b.entries("notes"), before);

    let members = a.json(&["store", "members", "notes"]);
    let reader = members["members"][1]["id"].as_str().expect("an id");
    a.ok(&["store", "revoke", "notes", reader]);
    let mut last = None;
    for _ in 0..100 {
        let ended = b.run(&["call", "notes", "put", "a", "b"]);
        assert_eq!(ended.code, 6, "{ended:?}");
        let revoked = ended.stderr.contains("revoked") || ended.stderr.contains("member");
        last = Some(ended);
        if revoked {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the revocation did not arrive: {last:?}");
}

#[test]
fn a_home_that_another_process_has_open_names_it() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let mut lock = File::options()
        .read(true)
        .write(true)
        .open(home.path().join("lock"))
        .expect("a lock file");
    lock.try_lock().expect("nobody has it");
    write!(lock, "{}", std::process::id()).expect("written");
    let holder = format!("process {}", std::process::id());
    home.fails(&["store", "list"], 3, &["locked", &holder]);
    drop(lock);
    home.ok(&["store", "list"]);
}

#[test]
fn a_home_that_cannot_be_made_is_named() {
    let ended = finish(command(Path::new("/dev/null/home")).args(["store", "list"]));
    ended.failed(3, &["/dev/null/home"]);
}

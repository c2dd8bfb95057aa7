//! What an error of a command line says to do is done, word by word, and helps.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::harness::{Home, advice, built, finish, finish_with_input};

fn stores() -> Home {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home
}

/// A file with this content in a home, and its path as an argument.
fn file(home: &Home, name: &str, content: &[u8]) -> String {
    let path = home.path().join(name);
    std::fs::write(&path, content).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn what_is_wrong_with_an_argument_can_be_set_right_as_it_says() {
    let home = stores();
    let path = file(&home, "content", b"c");

    home.advice(
        &["call", "notes", "put", "@-", "@-"],
        "put one of them into a file",
    );
    home.ok(&["call", "notes", "put", &format!("@{path}"), "@-"]);

    let missing = home.path().join("missing");
    let words = [
        "call",
        "notes",
        "put",
        "k",
        &format!("@{}", missing.display()),
    ];
    home.advice(&words, "check the path");
    std::fs::rename(&path, &missing).expect("it was there");
    home.ok(&words);

    home.advice(
        &["call", "clicks", "add", "--by"],
        "VALUE, or -- before a literal --",
    );
    home.ok(&["call", "clicks", "add", "--by", "2"]);

    home.advice(
        &["call", "notes", "put", "k", "@hex:616"],
        "write two digits for each byte",
    );
    home.ok(&["call", "notes", "put", "k", "@hex:6162"]);
    assert_eq!(home.ok(&["query", "notes", "get", "k"]), "some(\"ab\")\n");

    home.advice(
        &["call", "notes", "put", "k", "@"],
        "write @PATH, @- for standard input, or @@ for a literal @",
    );
    home.ok(&[
        "call",
        "notes",
        "put",
        "k",
        &format!("@{}", missing.display()),
    ]);
    home.ok(&["call", "notes", "put", "k", "@-"]);
    home.ok(&["call", "notes", "put", "k", "@@"]);
    assert_eq!(home.ok(&["query", "notes", "get", "k"]), "some(\"@\")\n");

    let bytes = OsStr::from_bytes(b"\xff\xfe");
    let words = ["call", "notes", "put", "k"].map(OsStr::new);
    home.advice(
        &[&words[..], &[bytes]].concat(),
        "give bytes as @PATH or @hex:…",
    );
    home.ok(&["call", "notes", "put", "k", "@hex:fffe"]);

    home.advice(&["query", "notes", "get"], "the function is");
    home.ok(&["query", "notes", "get", "k"]);
}

#[test]
fn a_transaction_that_holds_no_call_is_written_as_it_says() {
    let home = stores();
    let path = file(&home, "transaction", b"# nothing\n");
    let words = ["call", "notes", "--tx", &path];
    home.advice(&words, "write FUNCTION ARGS…, a line each");
    file(&home, "transaction", b"put a b\nput c d\n");
    home.ok(&words);
    assert_eq!(home.ok(&["query", "notes", "get", "c"]), "some(\"d\")\n");

    file(
        &home,
        "transaction",
        br#"[{"function": "put", "args": ["n", 1e309]}]"#,
    );
    home.advice(&words, "write \"inf\" or \"-inf\" for an infinity");
}

#[test]
fn a_name_that_is_refused_becomes_one_that_is_allowed_as_it_says() {
    let home = stores();
    let create = |name: &'static str| ["store", "create", "--plugin", "kv", "--", name];
    home.advice(&create("a b"), "letters, digits, `-`, `_` and `.`");
    home.ok(&create("a-b_c.d"));
    home.advice(
        &create("deadbeef"),
        "use another character than the digits 0 to 9 and a to f, or fewer than 8 of them",
    );
    home.ok(&create("deadbeefs"));
    home.ok(&create("deadbee"));
    home.advice(&create("-x"), "let it begin with a letter or a digit");
    home.ok(&create("x-"));
    home.advice(&create("notes"), "choose another name");
    home.ok(&create("notes-2"));
}

#[test]
fn a_store_or_plugin_that_is_not_found_is_found_as_it_says() {
    let home = Home::new();
    let _daemon = home.daemon();
    home.advice(
        &["query", "notes", "get", "a"],
        "make one with `lattice store create`, or join one",
    );
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let told = home.advice(
        &["query", "note", "get", "a"],
        "`lattice store list` shows what there is",
    );
    assert!(told.ok(&home).contains("notes"));
    home.ok(&["query", "notes", "get", "a"]);

    let told = home.advice(
        &["store", "create", "money", "--plugin", "bank"],
        "`lattice plugin list` shows what there is; `lattice plugin install` adds one",
    );
    assert!(told.ok(&home).contains("counter"));
    let bank = built("bank");
    home.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
    home.ok(&["store", "create", "money", "--plugin", "bank"]);

    let told = home.advice(
        &["store", "create", "root", "--plugin", ""],
        "`lattice plugin list` shows what there is; `none` makes a pure root",
    );
    assert!(told.ok(&home).contains("kv"));
    home.ok(&["store", "create", "root", "--plugin", "none"]);

    home.ok(&[
        "store", "create", "notes", "--plugin", "kv", "--parent", "root",
    ]);
    home.ok(&["store", "create", "team", "--plugin", "none"]);
    home.ok(&[
        "store", "create", "notes", "--plugin", "kv", "--parent", "team",
    ]);
    home.ok(&["query", "notes", "get", "a"]);
    home.ok(&["store", "rename", "notes", "mine"]);
    home.advice(
        &["query", "notes", "get", "a"],
        "write a path, or more digits of the id",
    );
    home.ok(&["query", "team/notes", "get", "a"]);

    home.advice(
        &["query", ".", "get", "a"],
        "choose one with `use STORE` in the shell, or write its name",
    );
    let ended = finish_with_input(home.command().arg("shell"), b"use mine\nquery . get a\n");
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "none\n"),
        "{ended:?}"
    );
}

#[test]
fn a_function_that_is_not_found_is_found_as_it_says() {
    let home = stores();
    let mut words = vec!["query", "notes", "put", "a", "b"];
    let told = home.advice(&words, "there is one of that name to");
    let command = told.commands()[0]
        .strip_prefix("lattice ")
        .expect("a command");
    words[0] = command;
    home.ok(&words);
    let ended = home.run(&["call", "notes", "set", "a", "b"]);
    ended.failed(2, &["put"]);
    home.advice(
        &["call", "notes", "set", "a", "b"],
        "these are its commands",
    );
    home.ok(&["call", "notes", "put", "a", "b"]);
    let ended = home.run(&["query", "notes", "at", "a"]);
    ended.failed(2, &["get"]);
    home.advice(&["query", "notes", "at", "a"], "these are its queries");
    home.ok(&["query", "notes", "get", "a"]);
}

#[test]
fn a_plugin_that_cannot_be_had_can_be_as_it_says() {
    let home = Home::new();
    let bank = built("bank");
    let bank = bank.to_str().expect("UTF-8");
    let hash = home.json(&["plugin", "inspect", bank])["hash"].clone();
    let hash = hash.as_str().expect("a hash").to_owned();
    let told = home.advice(
        &["plugin", "install", &hash],
        "run `lattice daemon` and try again",
    );
    assert_eq!(told.commands(), ["lattice daemon"]);
    let _daemon = home.daemon();
    home.advice(
        &["plugin", "install", &hash],
        "join a store that uses it, or install it from a file",
    );
    home.ok(&["plugin", "install", bank]);

    home.advice(
        &["plugin", "install", bank, "--name", "counter"],
        "give it another one with --name",
    );
    home.ok(&["plugin", "install", bank, "--name", "till"]);

    home.ok(&["store", "create", "money", "--plugin", "bank"]);
    home.ok(&["plugin", "remove", "till"]);
    home.advice(
        &["plugin", "remove", "bank"],
        "it stays as long as they are here",
    );
    home.ok(&["store", "create", "more", "--plugin", "bank"]);

    let text = file(&home, "text.wasm", b"not wasm");
    let before = home.ok(&["plugin", "list"]);
    home.advice(&["plugin", "install", &text], "nothing was installed");
    assert_eq!(home.ok(&["plugin", "list"]), before);
    home.advice(&["plugin", "install", "/no/such.wasm"], "check the path");
}

#[test]
fn what_needs_an_answer_gets_it_as_it_says() {
    let (a, b) = (Home::new(), Home::new());
    let (_first, _second) = (a.daemon(), b.daemon());
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let token = a.ok(&["store", "invite", "notes"]);
    let token = token.trim();
    b.advice(
        &["store", "join", token],
        "give --yes to agree to run the store's plugin",
    );
    b.advice(
        &["store", "join", "--yes"],
        "write it last, or `-` to read it from standard input, or `@PATH`",
    );
    b.advice(
        &["store", "join", "--yes", ""],
        "it is what `store invite` printed",
    );
    let told = b.advice(
        &["store", "join", "--yes", "nonsense"],
        "`lattice store invite` on a member's node makes one",
    );
    let made = finish(
        std::process::Command::new("sh")
            .args([
                "-c",
                &format!("\"$0\" {} notes", &told.commands()[0]["lattice ".len()..]),
            ])
            .arg(crate::harness::program())
            .env("LATTICE_HOME", a.path()),
    );
    let ended = finish_with_input(
        b.command().args(["store", "join", "--yes", "-"]),
        made.stdout.as_bytes(),
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    let join = |token: &str| {
        let ended = b.run(&["store", "join", "--yes", token]);
        ended.failed(4, &["the token"]);
        ended.stderr
    };
    advice(&join(&token[..token.len() - 4]), "copy it again, whole");
    let wrong = format!("{}!{}", &token[..30], &token[31..]);
    advice(&join(&wrong), "copy it again");
    let more = format!("{token}{}", "a".repeat(5000));
    advice(&join(&more), "copy it again, alone");
    // Copied again.
    b.ok(&["store", "join", "--yes", token]);
}

#[test]
fn what_a_shell_cannot_do_is_done_as_it_says() {
    let home = stores();
    let said = |line: &str| {
        let ended = finish_with_input(home.command().arg("shell"), line.as_bytes());
        assert_ne!(ended.code, 0, "{ended:?}");
        ended.stderr
    };
    let at = said("--home /elsewhere store list\n");
    crate::harness::advice(&at, "start another shell for that home");
    let other = Home::new();
    let ended = finish_with_input(other.command().arg("shell"), b"store list\n");
    assert_eq!(ended.code, 0, "{ended:?}");

    let at = said("daemon\n");
    let told = crate::harness::advice(&at, "run `lattice daemon` outside of it");
    assert_eq!(told.commands(), ["lattice daemon"]);
    drop(home.daemon());

    let at = said("add 5\n");
    crate::harness::advice(
        &at,
        "`help` lists them; `use STORE` makes a store's functions commands",
    );
    let ended = finish_with_input(
        home.command().arg("shell"),
        b"help\nuse clicks\nadd 5\nvalue\n",
    );
    assert!(
        ended.stdout.contains("store ") && ended.stdout.ends_with("5\n"),
        "{ended:?}"
    );
    let at = said("use clicks\nsubtract 5\n");
    assert!(at.contains("it has add"), "{at}");

    let at = said(&format!("plugin install {}\n", "0".repeat(64)));
    let told = crate::harness::advice(&at, "leave the shell, run `lattice daemon`, and try again");
    assert_eq!(told.commands(), ["lattice daemon"]);
    let _daemon = home.daemon();
    // There is somebody to ask now, who does not have it.
    let at = said(&format!("plugin install {}\n", "0".repeat(64)));
    assert!(!at.contains("needs a daemon"), "{at}");
}

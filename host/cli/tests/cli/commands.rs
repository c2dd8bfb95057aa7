//! The documented commands, in the forms that scripts depend on.

use serde_json::{Value, json};

use crate::harness::{Home, finish_with_input};

#[test]
fn the_examples_of_the_documentation_hold() {
    let home = Home::new();
    assert_eq!(
        home.ok(&["store", "create", "clicks", "--plugin", "counter"]),
        ""
    );
    assert_eq!(home.ok(&["call", "clicks", "add", "5"]), "");
    assert_eq!(home.ok(&["query", "clicks", "value"]), "5\n");
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    home.ok(&["call", "notes", "put", "greeting", "hello, world"]);
    assert_eq!(
        home.ok(&["query", "notes", "get", "greeting"]),
        "some(\"hello, world\")\n"
    );
    let document = home.json(&["query", "notes", "get", "greeting"]);
    assert_eq!(document["value"], "aGVsbG8sIHdvcmxk");
}

#[test]
fn negative_numbers_are_arguments_and_parameters_have_names() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.ok(&["call", "clicks", "add", "-5"]);
    home.ok(&["call", "clicks", "add", "--by", "-2"]);
    home.ok(&["call", "clicks", "commands.add", "--by=10"]);
    assert_eq!(home.ok(&["query", "clicks", "value"]), "3\n");
}

#[test]
fn bytes_come_from_files_input_and_digits() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let file = home.path().join("value");
    std::fs::write(&file, b"from a file").expect("written");
    home.ok(&[
        "call",
        "notes",
        "put",
        "file",
        &format!("@{}", file.display()),
    ]);
    home.ok(&["call", "notes", "put", "hex", "@hex:00ff"]);
    home.ok(&["call", "notes", "put", "at", "@@home"]);
    let read = finish_with_input(
        home.command().args(["call", "notes", "put", "input", "@-"]),
        b"from a pipe",
    );
    assert_eq!(read.code, 0, "{read:?}");
    for (key, expected) in [
        ("file", "some(\"from a file\")\n"),
        ("at", "some(\"@home\")\n"),
        ("input", "some(\"from a pipe\")\n"),
    ] {
        assert_eq!(home.ok(&["query", "notes", "get", key]), expected);
    }
    assert_eq!(
        home.json(&["query", "notes", "get", "hex"])["value"],
        "AP8="
    );
}

#[test]
fn a_transaction_takes_effect_whole_or_not_at_all() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let before = home.entries("notes");
    let run = |input: &str| {
        finish_with_input(
            home.command()
                .args(["--json", "call", "notes", "--tx", "-"]),
            input.as_bytes(),
        )
    };
    let bad = run("put a 1\nput b\n");
    assert_eq!(bad.code, 2, "{bad:?}");
    assert_eq!(home.entries("notes"), before);
    let good = run("# both\nput a 1\nput 'b c' \"2 3\"\n");
    assert_eq!(good.code, 0, "{good:?}");
    let document: Value = serde_json::from_str(&good.stdout).expect("a document");
    assert_eq!(document["values"], json!([null, null]));
    assert_eq!(document["calls"].as_array().map(Vec::len), Some(2));
    let json = run(r#"[{"function": "put", "args": {"key": "a", "value": "Yg=="}}]"#);
    assert_eq!(json.code, 0, "{json:?}");
    assert_eq!(home.ok(&["query", "notes", "get", "a"]), "some(\"b\")\n");
    assert_eq!(
        home.ok(&["query", "notes", "get", "b c"]),
        "some(\"2 3\")\n"
    );
}

#[test]
fn every_listing_is_one_document() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    for _ in 0..3 {
        home.ok(&["call", "clicks", "add", "1"]);
    }
    let status = home.json(&["status"]);
    assert_eq!(status["daemon"], false);
    assert_eq!(status["stores"][0]["name"], "clicks");
    assert!(home.json(&["doctor"])["checks"].is_array());
    assert!(home.json(&["notices"])["notices"].is_array());
    assert_eq!(
        home.json(&["plugin", "list"])["plugins"][0]["bundled"],
        true
    );
    let plugin = home.json(&["plugin", "inspect", "counter"]);
    assert_eq!(plugin["interfaces"][0]["functions"][0]["name"], "add");
    let store = home.json(&["store", "status", "clicks"]);
    assert_eq!(store["state"], "ready");
    assert_eq!(store["state_root"].as_str().map(str::len), Some(64));
    assert_eq!(store["members"][0]["role"], "admin");
    let history = home.json(&["store", "history", "clicks", "--function", "add"]);
    assert_eq!(history["entries"].as_array().map(Vec::len), Some(3));
    let graph = home.json(&["store", "history", "clicks", "--graph"]);
    assert!(
        graph["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() >= 4)
    );
}

#[test]
fn history_pages_without_gaps() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    for by in 1..=7 {
        home.ok(&["call", "clicks", "add", &by.to_string()]);
    }
    let (mut seen, mut page) = (Vec::new(), String::new());
    loop {
        let mut words = vec!["store", "history", "clicks", "--limit", "3", "--reverse"];
        if !page.is_empty() {
            words.extend(["--page", &page]);
        }
        let document = home.json(&words);
        let entries = document["entries"].as_array().expect("a list");
        assert!(entries.len() <= 3);
        seen.extend(entries.iter().map(|entry| entry["id"].to_string()));
        match document["next_page"].as_str() {
            Some("") | None => break,
            Some(next) => page = next.to_owned(),
        }
    }
    let whole = home.json(&["store", "history", "clicks", "--limit", "0", "--reverse"]);
    let whole: Vec<String> = whole["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["id"].to_string())
        .collect();
    assert_eq!(seen, whole);
    assert!(whole.len() >= 8, "{whole:?}");
}

/// Holds: invariant 7.
#[test]
fn stores_are_renamed_and_rebuilt() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.ok(&["call", "clicks", "add", "5"]);
    home.ok(&["store", "rename", "clicks", "taps"]);
    assert_eq!(home.ok(&["query", "taps", "value"]), "5\n");
    home.fails(&["query", "clicks", "value"], 2, &["clicks"]);
    let rebuilt = home.json(&["store", "rebuild", "taps"]);
    assert_eq!(rebuilt["state_root"], rebuilt["state_root_before"]);
    assert_eq!(rebuilt["outcome_root"], rebuilt["outcome_root_before"]);
    assert_eq!(home.ok(&["query", "taps", "value"]), "5\n");
    // No daemon runs, so each command opens the store itself.
    let me = home.json(&["status"])["node"].as_str().unwrap().to_owned();
    assert_eq!(home.ok(&["store", "quota", "taps", &me]), "none\n");
    home.fails(
        &["store", "quota", "taps", "reader"],
        2,
        &["a role", "BYTES"],
    );
    for command in ["role", "readmit", "quota"] {
        let mut words = vec!["store", command, "taps", "nobody"];
        words.extend((command == "role").then_some("writer"));
        home.fails(&words, 2, &["no member", "nobody"]);
    }
    // Its chain lies at the time that it is.
    home.fails(
        &["store", "restart-chain", "taps"],
        4,
        &["nothing to restart"],
    );
    home.ok(&["call", "--yes", "taps", "add", "1"]);
}

#[test]
fn guest_text_cannot_move_the_cursor() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    home.ok(&["call", "notes", "put", "a", "\u{1b}[2J\u{9b}31m\u{202e}"]);
    for words in [
        &["query", "notes", "get", "a"][..],
        &["store", "history", "notes"],
        &["--json", "query", "notes", "get", "a"],
        &["--json", "store", "history", "notes", "--graph"],
        &["store", "history", "notes", "--graph"],
    ] {
        let printed = home.ok(words);
        let raw = printed
            .chars()
            .find(|&c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert_eq!(raw, None, "{words:?}: {printed:?}");
    }
}

#[test]
fn what_is_not_built_is_said() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let before = home.entries("clicks");
    home.fails(
        &["call", "--final", "5s", "clicks", "add", "1"],
        2,
        &["checkpoints"],
    );
    home.fails(&["query", "--at", "1h", "clicks", "value"], 2, &["--at"]);
    assert_eq!(home.entries("clicks"), before);
}

#[test]
fn what_needs_peers_says_so_without_a_daemon() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.fails(&["watch", "clicks", "value"], 3, &["daemon"]);
    home.fails(&["plugin", "install", &"ab".repeat(32)], 3, &["daemon"]);
}

#[test]
fn a_shell_runs_commands_and_functions() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let script = b"use clicks\nadd 5\nadd -2\nvalue\nquery . value\ncall clicks add 1\n\
                   --json query . value\nexit\nvalue\n";
    let ended = finish_with_input(home.command().arg("shell"), script);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stdout.lines().next(), Some("3"), "{ended:?}");
    assert_eq!(ended.stdout.lines().nth(1), Some("3"), "{ended:?}");
    assert!(ended.stdout.contains("\"value\": \"4\""), "{ended:?}");
    let ended = finish_with_input(
        home.command().arg("shell"),
        b"use clicks\nadd five\nadd 1\n",
    );
    ended.failed(2, &["five"]);
    assert_eq!(home.ok(&["query", "clicks", "value"]), "4\n");
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            home.ok(&["completions", shell]).contains("lattice"),
            "{shell}"
        );
    }
    assert!(home.ok(&["man"]).contains(".TH lattice 1"));
}

//! The daemon: how it starts and ends, and that commands do the same with it as without it.

use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Daemon, Ended, Home, built, finish_with_input, read_line, read_rest, send};

/// How long a daemon may take to end. Two seconds are promised; the rest is for a loaded machine.
const END_MAX: Duration = Duration::from_secs(4);

#[test]
fn a_daemon_says_who_it_is_and_ends_at_a_signal() {
    for signal in ["TERM", "INT", "HUP"] {
        let home = Home::new();
        let daemon = home.daemon();
        assert_eq!(daemon.ready["node"].as_str().map(str::len), Some(64));
        let address = daemon.ready["addresses"][0].as_str().expect("an address");
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        let socket = home.path().join("lattice.sock");
        let mode = std::fs::metadata(&socket)
            .expect("a socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let status = home.json(&["status"]);
        assert_eq!(status["daemon"], true);
        assert_eq!(status["node"], daemon.ready["node"]);
        let (code, took) = daemon.end(signal);
        assert_eq!(code, 0, "{signal}");
        assert!(took < END_MAX, "{signal}: {took:?}");
        assert!(!socket.exists(), "the socket stayed behind");
        let pid = std::fs::read(home.path().join("lock")).expect("a lock file");
        assert_eq!(pid, b"", "{signal}: the process stayed behind");
        assert_eq!(home.json(&["status"])["daemon"], false);
    }
}

#[test]
fn a_daemon_ends_in_time_while_it_dials_a_peer_that_vanished() {
    let (a, first, _b, second) = shared("counter");
    a.ok(&["call", "shared", "add", "1"]);
    drop(second);
    assert_eq!(first.end("TERM").0, 0);
    for signal in ["TERM", "INT"] {
        let again = a.daemon();
        a.ok(&["query", "shared", "value"]);
        // A dial is given up only after seconds, and the first one begins when the store is open.
        std::thread::sleep(Duration::from_millis(300));
        let (code, took) = again.end(signal);
        assert_eq!(code, 0, "{signal}");
        assert!(took < END_MAX, "{signal}: {took:?}");
    }
}

/// Holds: invariant 4.
#[test]
fn commands_do_the_same_with_and_without_a_daemon() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    home.ok(&["call", "clicks", "add", "1"]);
    let daemon = home.daemon();
    home.ok(&["call", "clicks", "add", "2"]);
    assert_eq!(home.ok(&["query", "clicks", "value"]), "3\n");
    home.fails(&["call", "clicks", "add", "x"], 2, &["s64"]);
    daemon.end("TERM");
    home.ok(&["call", "clicks", "add", "4"]);
    assert_eq!(home.ok(&["query", "clicks", "value"]), "7\n");
}

#[test]
fn the_service_manager_is_told() {
    let home = Home::new();
    let socket = home.path().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("bound");
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("set");
    let child = home
        .command()
        .args([
            "daemon",
            "--bind",
            "127.0.0.1:0",
            "--no-relay",
            "--no-discovery",
        ])
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut heard = [0; 64];
    let len = manager.recv(&mut heard).expect("told");
    assert_eq!(&heard[..len], b"READY=1");
    send("TERM", &child);
    let len = manager.recv(&mut heard).expect("told");
    assert_eq!(&heard[..len], b"STOPPING=1");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        printed.contains("node") && printed.contains("127.0.0.1:"),
        "{printed}"
    );
}

#[test]
fn a_second_daemon_names_the_first() {
    let home = Home::new();
    let _daemon = home.daemon();
    let started = Instant::now();
    let ended = home.run(&[
        "daemon",
        "--bind",
        "127.0.0.1:0",
        "--no-relay",
        "--no-discovery",
    ]);
    ended.failed(3, &["locked by process"]);
    assert!(
        started.elapsed() >= Duration::from_secs(4),
        "it did not wait"
    );
}

/// Every line of a stream of JSON, each of which must be one document.
fn documents(printed: &str) -> Vec<serde_json::Value> {
    let document = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    printed.lines().map(document).collect()
}

#[test]
fn a_stream_of_json_tells_its_end_in_one_line_too() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let daemon = home.daemon();
    // Errors before the first message.
    for words in [
        &["--json", "watch", "nothing", "value"][..],
        &["--json", "watch", "clicks", "nothing"],
        &["--json", "watch", "clicks"],
    ] {
        let ended = home.run(words);
        assert_eq!(ended.code, 2, "{ended:?}");
        let said = documents(&ended.stdout);
        assert_eq!(said.len(), 1, "{ended:?}");
        assert_eq!(said[0]["error"]["exit_code"], 2, "{ended:?}");
    }
    // The end of the stream itself.
    let mut watch = home
        .command()
        .args(["--json", "watch", "clicks", "value"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut printed = BufReader::new(watch.stdout.take().expect("piped"));
    let first = documents(&read_line(&mut printed));
    assert!(first[0].get("error").is_none(), "{first:?}");
    daemon.end("TERM");
    let rest = documents(&read_rest(printed));
    assert_eq!(watch.wait().expect("it ends").code(), Some(3));
    let last = rest.last().expect("a last word");
    assert_eq!(last["error"]["class"], "unreachable", "{rest:?}");
    assert_ne!(last["error"]["hint"], "", "{rest:?}");
}

#[test]
fn a_shell_that_prints_json_prints_a_document_a_line() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let script = "call clicks add 1\nstore list\nuse clicks\nvalue\nnothing\nadd 1\n";
    let ended = finish_with_input(home.command().args(["--json", "shell"]), script.as_bytes());
    assert_eq!(ended.code, 2, "{ended:?}");
    let said = documents(&ended.stdout);
    assert_eq!(said.len(), 4, "{ended:?}");
    assert!(said[1]["stores"].is_array(), "{ended:?}");
    assert_eq!(said[3]["error"]["class"], "usage", "{ended:?}");
    // A line that asks for JSON itself gets its failure as a document as well.
    let script = b"store status nothing --json\n";
    let ended = finish_with_input(home.command().arg("shell"), script);
    let said = documents(&ended.stdout);
    assert_eq!(said.len(), 1, "{ended:?}");
    assert_eq!(said[0]["error"]["class"], "usage", "{ended:?}");
}

#[test]
fn a_watch_prints_each_new_result_and_ends_at_a_signal() {
    let home = Home::new();
    home.ok(&["store", "create", "clicks", "--plugin", "counter"]);
    let _daemon = home.daemon();
    let mut child = home
        .command()
        .args(["--json", "watch", "clicks", "value"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut printed = BufReader::new(child.stdout.take().expect("piped"));
    let mut value = || {
        let line: Value = serde_json::from_str(&read_line(&mut printed)).expect("a document");
        line["value"].as_str().expect("a number").to_owned()
    };
    assert_eq!(value(), "0");
    home.ok(&["call", "clicks", "add", "5"]);
    assert_eq!(value(), "5");
    home.ok(&["call", "clicks", "add", "-1"]);
    assert_eq!(value(), "4");
    let asked = Instant::now();
    send("INT", &child);
    let status = child.wait().expect("it ends");
    assert!(asked.elapsed() < END_MAX);
    let said = read_rest(child.stderr.take().expect("piped"));
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_second_node_joins_by_token() {
    let (a, b) = (Home::new(), Home::new());
    let (_first, _second) = (a.daemon(), b.daemon());
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    a.ok(&["call", "notes", "put", "from", "a"]);
    let token = a.ok(&["store", "invite", "notes"]);
    let token = token.trim();
    // Without a terminal nobody is asked, and without an answer nothing is joined.
    b.fails(&["store", "join", token], 2, &["--yes"]);
    let joined = b.json(&["store", "join", token, "--yes", "--name", "shared"]);
    assert_eq!(
        (&joined["name"], &joined["role"]),
        (&"shared".into(), &"writer".into())
    );
    assert_eq!(b.ok(&["query", "shared", "get", "from"]), "some(\"a\")\n");
    b.ok(&["call", "shared", "put", "from", "b"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while a.ok(&["query", "notes", "get", "from"]) != "some(\"b\")\n" {
        assert!(Instant::now() < deadline, "what b wrote did not arrive");
        std::thread::sleep(Duration::from_millis(50));
    }
    let roots = |home: &Home, store| {
        let status = home.json(&["store", "status", store]);
        (status["state_root"].clone(), status["outcome_root"].clone())
    };
    assert_eq!(roots(&a, "notes"), roots(&b, "shared"));
}

#[test]
fn a_join_that_a_crash_interrupts_goes_on_after_the_restart() {
    let (a, b) = (Home::new(), Home::new());
    let _first = a.daemon();
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    a.ok(&["call", "notes", "put", "from", "a"]);
    let token = a.ok(&["store", "invite", "notes"]);
    let second = b.daemon();
    let mut joining = b
        .command()
        .args(["store", "join", token.trim(), "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    // The store is listed as soon as the node has recorded the join.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !b.ok(&["store", "list"]).contains("notes") {
        assert!(Instant::now() < deadline, "no join began");
    }
    // Dropping a daemon sends SIGKILL.
    drop(second);
    joining.wait().expect("it ends");
    let _second = b.daemon();
    while b.run(&["query", "notes", "get", "from"]).stdout != "some(\"a\")\n" {
        assert!(Instant::now() < deadline, "the join did not go on");
        std::thread::sleep(Duration::from_millis(50));
    }
    b.ok(&["call", "notes", "put", "from", "b"]);
}

#[test]
fn a_token_is_read_where_nobody_sees_it_and_only_the_name_that_was_given_is_told() {
    let (a, b, c) = (Home::new(), Home::new(), Home::new());
    let (_first, _second, _third) = (a.daemon(), b.daemon(), c.daemon());
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let token = a.ok(&["store", "invite", "notes", "--uses", "2"]);
    let mut command = b.command();
    command.args(["store", "join", "-", "--yes"]);
    let ended = finish_with_input(&mut command, token.as_bytes());
    assert_eq!(ended.code, 0, "{ended:?}");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, &token).expect("written");
    let from_file = format!("@{}", file.display());
    c.ok(&["store", "join", &from_file, "--yes", "--as", "cyd"]);
    let members = a.json(&["store", "members", "notes"]);
    let mut names: Vec<_> = members["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| member["name"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["", "", "cyd"]);
    // Without one, and without a terminal to ask at, it says where one is read from.
    b.fails(
        &["store", "join", "--yes"],
        2,
        &["no token", "`-`", "@PATH"],
    );
    b.fails(
        &["store", "join", &token, "--yes", "--as", "deadbeef"],
        2,
        &["an id"],
    );
}

#[test]
fn a_member_is_given_a_lower_role_revoked_and_admitted_again() {
    let (a, _first, b, _second) = shared("kv");
    b.ok(&["call", "shared", "put", "by", "b"]);
    let members = a.json(&["store", "members", "shared"]);
    let member = members["members"][1]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let denied = |home: &Home| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while home.run(&["call", "shared", "put", "by", "b"]).code != 6 {
            assert!(Instant::now() < deadline, "it may still write");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    a.ok(&["store", "role", "shared", &member, "reader"]);
    denied(&b);
    a.ok(&["store", "role", "shared", &member, "writer"]);
    until_ok(&b, &["call", "shared", "put", "by", "a writer again"]);
    a.ok(&["store", "revoke", "shared", &member]);
    denied(&b);
    a.ok(&["store", "readmit", "shared", &member]);
    until_ok(&b, &["call", "shared", "put", "by", "a member again"]);
    let refused = a.run(&["store", "readmit", "shared", &member]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("not-possible"), "{refused:?}");
    let shown = until_ok(&a, &["query", "shared", "get", "by"]);
    assert!(shown.stdout.contains("again"), "{}", shown.stdout);
}

/// Two nodes that share the store `shared` of this plugin: the first as its admin, the second as a writer.
fn shared(plugin: &str) -> (Home, Daemon, Home, Daemon) {
    let (a, b) = (Home::new(), Home::new());
    let (first, second) = (a.daemon(), b.daemon());
    a.ok(&["store", "create", "shared", "--plugin", plugin]);
    let token = a.ok(&["store", "invite", "shared"]);
    b.ok(&["store", "join", token.trim(), "--yes"]);
    (a, first, b, second)
}

/// Runs a command again and again until it succeeds.
fn until_ok(home: &Home, words: &[&str]) -> Ended {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let ended = home.run(words);
        if ended.code == 0 {
            return ended;
        }
        assert!(Instant::now() < deadline, "lattice {words:?}: {ended:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_plugin_is_installed_by_its_hash_from_members_of_a_store() {
    let home = Home::new();
    let daemon = home.daemon();
    let unknown = "ab".repeat(32);
    // A node without a store has no peers to ask.
    home.fails(&["plugin", "install", &unknown], 3, &["no store here"]);
    drop(daemon);
    let (a, _first, b, second) = shared("kv");
    // The peers do not have the component.
    b.fails(
        &["plugin", "install", &unknown],
        3,
        &[&unknown, "was not found"],
    );
    assert_eq!(
        b.json(&["plugin", "list"])["plugins"],
        a.json(&["plugin", "list"])["plugins"]
    );
    // A component that a store uses, and that the second node lost with all its components and blobs.
    let bank = built("bank");
    a.ok(&["plugin", "install", bank.to_str().expect("UTF-8")]);
    a.ok(&["store", "create", "money", "--plugin", "bank"]);
    let token = a.ok(&["store", "invite", "money"]);
    b.ok(&["store", "join", token.trim(), "--yes"]);
    let shown = b.json(&["plugin", "inspect", "bank"]);
    let hash = shown["hash"].as_str().expect("a hash").to_owned();
    drop(second);
    for directory in ["components", "blobs"] {
        std::fs::remove_dir_all(b.path().join(directory)).expect("it was there");
    }
    let _second = b.daemon();
    let installed = until_ok(&b, &["plugin", "install", &hash, "--name", "again"]);
    assert_eq!(installed.stdout, format!("again  {hash}\n"));
    assert_eq!(
        b.json(&["plugin", "inspect", "again"])["hash"],
        shown["hash"]
    );
    b.ok(&["call", "money", "open", "ann"]);
}

#[test]
fn quotas_are_set_by_role_and_member_and_shown() {
    let (a, _first, b, _second) = shared("kv");
    let members = a.ok(&["store", "members", "shared"]);
    let writer = members.lines().find(|line| line.contains("writer"));
    let writer = writer.and_then(|line| line.split_whitespace().nth(1));
    let writer = writer.expect("b is a writer");
    let show = ["store", "quota", "shared", writer];
    assert_eq!(a.ok(&show), "none\n");
    assert_eq!(a.json(&show), json!({ "quota_bytes": null }));
    let set = |whom: &str, bytes: &str| {
        a.ok(&["store", "quota", "shared", whom, bytes]);
        a.ok(&show)
    };
    assert_eq!(set("all", "30000"), "30000\n");
    assert_eq!(set("reader", "10000"), "30000\n");
    assert_eq!(set("writer", "20000"), "20000\n");
    assert_eq!(set(writer, "1000000"), "1000000\n");
    assert_eq!(set(writer, "none"), "20000\n");
    assert_eq!(set("writer", "none"), "30000\n");
    let much = ["store", "quota", "shared", "all", "much"];
    a.fails(&much, 2, &["much", "none"]);
    let mine = ["store", "quota", "shared", "writer", "1000000"];
    b.run(&mine)
        .failed(6, &["change of the quota", "role is writer", "an admin"]);
}

#[test]
fn a_call_beyond_the_quota_is_refused_until_an_admin_raises_it() {
    let (a, _first, b, _second) = shared("kv");
    let value = "x".repeat(3000);
    let put = ["call", "shared", "put", "k", &value];
    b.ok(&put);
    a.ok(&["call", "shared", "system/commands.set-quota", "5000"]);
    // Once b has received the quota, it counts all that b has written.
    let deadline = Instant::now() + Duration::from_secs(20);
    let before = loop {
        let before = b.entries("shared");
        if before == a.entries("shared") {
            break before;
        }
        assert!(Instant::now() < deadline, "the quota did not arrive");
        std::thread::sleep(Duration::from_millis(50));
    };
    b.fails(&put, 4, &["quota", "5000", "store quota"]);
    // The refused call wrote nothing. A call that fits succeeds.
    assert_eq!(b.entries("shared"), before);
    b.ok(&["call", "shared", "put", "k", "small"]);
    // Only an admin can raise the quota.
    let raise = ["call", "shared", "system/commands.set-quota", "50000"];
    b.run(&raise).failed(6, &["set-quota"]);
    a.ok(&raise);
    until_ok(&b, &put);
    assert_eq!(
        b.ok(&["query", "shared", "get", "k"]),
        format!("some(\"{value}\")\n")
    );
}

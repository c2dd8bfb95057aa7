//! Hostile guests on two real daemons: each abuse ends alike on both nodes, and harms only its caller.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lattice_daemon::limits::QUERIES_LONG_MAX;
use serde_json::Value;

use crate::harness::{Daemon, Ended, Home, assembled, built};

const MIB: u64 = 1024 * 1024;
/// How much memory an instance may have in the guests' stores, in bytes: the default of a genesis.
const MEMORY_MAX: u64 = 64 * MIB;
/// How many more bytes a daemon may take during an abuse: the guest's memory, and 64 MiB of its own.
const PEAK_ABOVE: u64 = MEMORY_MAX + 64 * MIB;
/// How soon memory has to be given back after the abuses.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// How many bytes may stay in the allocator and in caches.
const KEPT_MAX: u64 = 2 * MIB;
/// How many bytes may stay of the stack of a thread on which a guest recursed as deep as it may.
const STACK_KEPT_MAX: u64 = 5 * MIB / 2;
/// How many rounds of all abuses are run at least, so that memory that they leave behind adds up.
const ROUNDS: u32 = 3;
/// The pause after each call of an honest store.
const HONEST_REST: Duration = Duration::from_millis(100);
/// Calls that an honest store has to answer on each node during the abuses.
const HONEST_CALLS: u64 = 25;
/// How long an honest call may take: far more than on a loaded machine, far less than a guest that never ends.
const HONEST_CALL_MAX: Duration = Duration::from_secs(10);

/// An abuse: `call` or `query`; the store, the function and its arguments; the exit code; a part of the error.
type Abuse = (&'static str, &'static [&'static str], i32, &'static str);

/// All abuses of a guest after which the caller gets an answer.
const ABUSES: [Abuse; 20] = [
    ("call", &["hostile", "spin"], 1, "(fuel)"),
    ("call", &["hostile", "memory-bomb"], 1, "(guest)"),
    ("call", &["hostile", "trap"], 1, "(guest)"),
    ("call", &["hostile", "divide-by-zero"], 1, "(guest)"),
    ("call", &["hostile", "out-of-bounds"], 1, "(guest)"),
    ("call", &["hostile", "emit", "1000000000"], 1, "(guest)"),
    ("call", &["hostile", "emit", "2000000"], 1, "(limit)"),
    ("call", &["hostile", "emit-strings", "20000"], 1, "(limit)"),
    ("call", &["hostile", "refuse-with", "2000000"], 1, "(limit)"),
    (
        "call",
        &["hostile", "write-flood", "1000000", "262144"],
        1,
        "(limit)",
    ),
    (
        "call",
        &["hostile", "read-flood", "100000000"],
        1,
        "(limit)",
    ),
    ("call", &["hostile", "bad-hash", "31"], 1, "(misuse)"),
    ("call", &["hostile", "put-and-trap", "gone"], 1, "(guest)"),
    ("call", &["hostile", "recurse"], 1, "(depth)"),
    ("query", &["hostile", "spin-query"], 1, "(fuel)"),
    ("query", &["hostile", "memory-query"], 1, "(guest)"),
    ("query", &["hostile", "write-in-query"], 1, "(misuse)"),
    ("query", &["hostile", "recurse-query"], 1, "(depth)"),
    ("call", &["tables", "grow-or-trap"], 1, "(guest)"),
    ("query", &["start", "value"], 1, "(fuel)"),
];

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Makes a store from a file on one node, and joins it on the other.
fn shared(a: &Home, b: &Home, name: &str, component: &Path) {
    a.ok(&["plugin", "install", utf8(component), "--name", name]);
    a.ok(&["store", "create", name, "--plugin", name]);
    let token = a.ok(&["store", "invite", name]);
    b.ok(&["store", "join", token.trim(), "--yes"]);
}

/// The number of entries and the roots of a store, on which both nodes must agree.
fn roots(home: &Home, store: &str) -> [Value; 3] {
    let status = home.json(&["store", "status", store]);
    ["entry_count", "state_root", "outcome_root"].map(|name| status[name].clone())
}

fn until_equal(a: &Home, b: &Home, store: &str) -> [Value; 3] {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let both = [roots(a, store), roots(b, store)];
        if both[0] == both[1] {
            let [one, _] = both;
            return one;
        }
        assert!(Instant::now() < deadline, "{store}: {both:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs the same command on both nodes. Asserts that both end alike, word for word.
fn same_end(homes: [&Home; 2], words: &[&str]) -> Ended {
    let [one, other] = homes.map(|home| home.run(words));
    assert_eq!(one, other, "lattice {words:?}");
    one
}

/// Calls of an honest store, one after the other, until `over` is set.
struct Honest<'a> {
    home: &'a Home,
    count: AtomicU64,
    over: &'a AtomicBool,
}

impl Honest<'_> {
    fn call(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let began = Instant::now();
            self.home.ok(&["call", "honest", "add", "1"]);
            let took = began.elapsed();
            assert!(took < HONEST_CALL_MAX, "an honest call took {took:?}");
            self.count.fetch_add(1, Ordering::Relaxed);
            // Each honest call leaves some kilobytes in caches, which must not hide what the abuses leave.
            std::thread::sleep(HONEST_REST);
        }
    }
}

/// Sets the flag when it is dropped, so that the honest calls end also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many more bytes than before the abuses may stay. Guests recursed on the writer's thread, and on the threads
/// that serve queries, one for each processor.
fn kept_max() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
    KEPT_MAX + (1 + processors) * STACK_KEPT_MAX
}

/// Waits until each daemon holds at most as many bytes as `most` says.
fn until_back(daemons: [&Daemon; 2], most: [u64; 2]) {
    let deadline = Instant::now() + BACK_WITHIN;
    loop {
        let now = daemons.map(Daemon::resident_bytes);
        if now[0] <= most[0] && now[1] <= most[1] {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{now:?} bytes are resident after {BACK_WITHIN:?}, and {most:?} may be"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Holds: invariant 9.
#[test]
fn each_abuse_ends_alike_on_both_nodes_while_other_stores_serve() {
    let (a, b) = (Home::new(), Home::new());
    let homes = [&a, &b];
    let (first, second) = (a.daemon(), b.daemon());
    let daemons = [&first, &second];
    let files = tempfile::tempdir().expect("a directory");
    shared(&a, &b, "hostile", &built("hostile"));
    shared(&a, &b, "tables", &assembled("table-bomb", files.path()));
    shared(&a, &b, "start", &assembled("start-loop", files.path()));
    for home in homes {
        home.ok(&["store", "create", "honest", "--plugin", "counter"]);
        home.ok(&["call", "honest", "add", "1"]);
        home.ok(&["call", "hostile", "echo", "x"]);
        home.ok(&["call", "tables", "grow"]);
    }
    let stores = ["hostile", "tables", "start"];
    let before = stores.map(|store| until_equal(&a, &b, store));
    let resident = daemons.map(Daemon::resident_bytes);

    let over = AtomicBool::new(false);
    let honest = homes.map(|home| Honest {
        home,
        count: AtomicU64::new(0),
        over: &over,
    });
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for store in &honest {
            scope.spawn(|| store.call());
        }
        let served = |store: &Honest| store.count.load(Ordering::Relaxed) >= HONEST_CALLS;
        for round in 1.. {
            for (verb, words, code, says) in ABUSES {
                daemons.iter().for_each(|daemon| daemon.forget_peak());
                let words = [&[verb], words].concat();
                let ended = same_end(homes, &words);
                ended.failed(code, &[says]);
                assert_eq!(ended.stdout, "", "lattice {words:?}");
                for (daemon, before) in daemons.iter().zip(resident) {
                    let peak = daemon.peak_bytes().saturating_sub(before);
                    assert!(peak <= PEAK_ABOVE, "lattice {words:?}: {peak} bytes more");
                }
            }
            until_back(daemons, resident.map(|bytes| bytes + kept_max()));
            if round >= ROUNDS && honest.iter().all(served) {
                break;
            }
            assert!(round < 100, "the honest stores are not served");
        }
    });

    // No abuse was logged, and the hostile stores go on.
    let after = stores.map(|store| until_equal(&a, &b, store));
    assert_eq!(before, after);
    for (home, store) in homes.into_iter().zip(&honest) {
        assert_eq!(home.ok(&["query", "hostile", "get", "gone"]), "none\n");
        let count = store.count.load(Ordering::Relaxed) + 1;
        let counted = home.ok(&["query", "honest", "value"]);
        assert_eq!(counted.trim(), count.to_string());
    }
    a.ok(&["call", "hostile", "put", "kept", "yes"]);
    until_equal(&a, &b, "hostile");
    assert_eq!(
        b.ok(&["query", "hostile", "get", "kept"]),
        "some(\"yes\")\n"
    );
    for daemon in [first, second] {
        assert_eq!(daemon.end("TERM").0, 0, "it ran all the time");
    }
}

/// Holds: invariant 9.
#[test]
fn components_that_cannot_serve_are_refused_alike_on_both_nodes() {
    let (a, b) = (Home::new(), Home::new());
    let homes = [&a, &b];
    let (first, second) = (a.daemon(), b.daemon());
    let daemons = [&first, &second];
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let whole = std::fs::read(built("hostile")).expect("read");
    let raw = |name: &str| assembled(name, files.path());
    let half = whole.len() / 2;
    for home in homes {
        home.ok(&["store", "create", "honest", "--plugin", "counter"]);
        home.ok(&["call", "honest", "add", "1"]);
    }
    let listed = || homes.map(|home| home.json(&["plugin", "list"]));
    let (plugins, resident) = (listed(), daemons.map(Daemon::resident_bytes));
    for (path, says) in [
        (raw("unknown-import"), "example:elsewhere/service"),
        (raw("unknown-function"), "lattice:store/state"),
        (raw("no-exports"), "no commands and no queries"),
        (raw("memory-start"), "exceeds the limit"),
        (
            file("truncated.wasm", &whole[..half]),
            "not a valid component",
        ),
        (file("empty.wasm", b""), "not a valid component"),
        (file("64-mb.wasm", &vec![0; 64 << 20]), "33554432"),
    ] {
        same_end(homes, &["plugin", "install", utf8(&path)]).failed(4, &[says]);
        for home in homes {
            home.ok(&["call", "honest", "add", "1"]);
        }
    }
    for (daemon, before) in daemons.iter().zip(resident) {
        let peak = daemon.peak_bytes().saturating_sub(before);
        assert!(peak <= 64 * MIB, "{peak} bytes more");
    }
    until_back(daemons, resident.map(|bytes| bytes + KEPT_MAX));
    assert_eq!(plugins, listed(), "something was installed");
    // The component that was refused truncated is installed whole.
    same_end(homes, &["plugin", "install", utf8(&built("hostile"))]);
    for daemon in [first, second] {
        assert_eq!(daemon.end("TERM").0, 0, "it ran all the time");
    }
}

/// Holds: invariant 9.
#[test]
fn a_logged_abuse_has_the_same_outcome_on_both_nodes() {
    const AMBUSHES: [(&str, &str); 7] = [
        ("spin", "fuel"),
        ("recurse", "depth"),
        ("memory-bomb", "guest"),
        ("trap", "guest"),
        ("emit", "guest"),
        ("write-flood", "limit"),
        ("read-flood", "limit"),
    ];
    let (a, b) = (Home::new(), Home::new());
    let (first, second) = (a.daemon(), b.daemon());
    shared(&a, &b, "hostile", &built("hostile"));
    for home in [&a, &b] {
        home.ok(&["store", "create", "honest", "--plugin", "counter"]);
    }
    until_equal(&a, &b, "hostile");
    assert_eq!(second.end("TERM").0, 0);
    // The first node arms the ambush while the second is away. The second does not know that, and calls it.
    a.ok(&["call", "hostile", "put", "armed", "yes"]);
    for (abuse, _) in AMBUSHES {
        b.ok(&["call", "hostile", "ambush", "armed", abuse]);
    }
    b.ok(&["call", "hostile", "put", "after", "all"]);
    let resident = first.resident_bytes();
    first.forget_peak();
    let second = b.daemon();
    let deadline = Instant::now() + Duration::from_secs(60);
    while a.ok(&["query", "hostile", "get", "after"]) == "none\n" {
        a.ok(&["call", "honest", "add", "1"]);
        b.ok(&["call", "honest", "add", "1"]);
        assert!(Instant::now() < deadline, "what b did does not arrive");
    }
    until_equal(&a, &b, "hostile");
    let peak = first.peak_bytes().saturating_sub(resident);
    assert!(peak <= PEAK_ABOVE, "{peak} bytes more");
    let ambushes = |home: &Home| {
        let words = ["store", "history", "hostile", "--function", "ambush"];
        let history = home.json(&words);
        let entries = history["entries"].as_array().expect("a list");
        let transactions = |entry: &Value| {
            let transaction = &entry["transactions"][0];
            let said = |name: &str| transaction[name].as_str().expect("a word").to_owned();
            let abuse = &transaction["calls"][0]["arguments"][1]["value"];
            let abuse = abuse.as_str().expect("a word").to_owned();
            (abuse, said("outcome"), said("trap"))
        };
        entries.iter().map(transactions).collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = AMBUSHES
        .iter()
        .map(|&(abuse, trap)| (abuse.to_owned(), "trapped".to_owned(), trap.to_owned()))
        .collect();
    expected.reverse();
    assert_eq!(ambushes(&a), expected);
    assert_eq!(ambushes(&b), expected);
    // Only the node that told its callers another outcome raises notices.
    let told = |home: &Home| {
        let notices = home.json(&["notices"]);
        notices["notices"].as_array().map(Vec::len)
    };
    assert_eq!((told(&a), told(&b)), (Some(0), Some(AMBUSHES.len())));
    for daemon in [first, second] {
        assert_eq!(daemon.end("TERM").0, 0, "it ran all the time");
    }
}

/// Holds: invariant 9.
#[test]
fn queries_that_nobody_waits_for_are_bounded_and_give_way() {
    let home = Home::new();
    let daemon = home.daemon();
    let hostile = built("hostile");
    home.ok(&["plugin", "install", utf8(&hostile)]);
    home.ok(&["store", "create", "hostile", "--plugin", "hostile"]);
    home.ok(&["store", "create", "honest", "--plugin", "counter"]);
    home.run(&["query", "hostile", "spin-query"])
        .failed(1, &["fuel"]);
    let mut asking: Vec<_> = (0..4 * QUERIES_LONG_MAX)
        .map(|_| {
            let mut query = home.command();
            let query = query.args(["query", "hostile", "spin-query"]);
            query.stderr(Stdio::null()).spawn().expect("it starts")
        })
        .collect();
    let (mut most, mut nice) = (0, None);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        let queries = daemon.threads("query");
        most = most.max(queries.len());
        nice = nice.max(queries.into_iter().max());
        // Some clients leave, and their queries run on.
        if let Some(mut asking) = asking.pop() {
            asking.kill().expect("ours");
            asking.wait().expect("it ends");
        }
    }
    for mut asking in asking {
        asking.wait().expect("it ends");
    }
    // A query that has just ended may still be seen beside the next one.
    assert!((1..=2 * QUERIES_LONG_MAX).contains(&most), "{most} at once");
    assert_eq!(nice, Some(10), "they give way");
    home.ok(&["call", "honest", "add", "1"]);
}

//! Calls of each component, over so few keys that they get in each other's way.

use std::fmt;

use lattice_format::Limits;
use proptest::prelude::*;
use proptest::sample::select;

/// A component that a store is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum App {
    Bank,
    Queue,
    Globals,
    Scanner,
    Kv,
    Log,
    Counter,
    Hostile,
}

impl App {
    pub(crate) const ALL: [App; 8] = [
        App::Bank,
        App::Queue,
        App::Globals,
        App::Scanner,
        App::Kv,
        App::Log,
        App::Counter,
        App::Hostile,
    ];

    /// The name of its file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            App::Bank => "bank",
            App::Queue => "queue",
            App::Globals => "globals",
            App::Scanner => "scanner",
            App::Kv => "kv",
            App::Log => "log",
            App::Counter => "counter",
            App::Hostile => "hostile",
        }
    }

    /// The limits of its stores: those of the hostile one are reached in milliseconds.
    pub(crate) fn limits(self) -> Limits {
        match self {
            App::Hostile => Limits {
                fuel: 20_000_000,
                memory_bytes: 4 * 1024 * 1024,
                result_bytes: 64 * 1024,
                ..Limits::default()
            },
            _ => Limits::default(),
        }
    }

    /// One of its queries, which no entry may call as a command.
    pub(crate) fn query(self) -> &'static str {
        match self {
            App::Bank => "total",
            App::Queue => "len",
            App::Globals => "bumped",
            App::Scanner => "all",
            App::Kv => "get",
            App::Log => "tail",
            App::Counter => "value",
            App::Hostile => "spin-query",
        }
    }

    pub(crate) fn spec(self) -> BoxedStrategy<Spec> {
        match self {
            App::Bank => bank(),
            App::Queue => queue(),
            App::Globals => globals(),
            App::Scanner => scanner(),
            App::Kv => kv(),
            App::Log => prop_oneof![Just("one"), Just("two"), Just("")]
                .prop_map(|data| Spec::new("append", [data]))
                .boxed(),
            App::Counter => prop_oneof![-3..4i64, Just(i64::MIN), Just(i64::MAX)]
                .prop_map(|by| Spec::new("add", [by.to_string()]))
                .boxed(),
            App::Hostile => hostile(),
        }
    }
}

/// A call as it is typed: text and bytes literally, everything else as WAVE.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) function: &'static str,
    pub(crate) args: Vec<String>,
}

impl Spec {
    pub(crate) fn new<S: Into<String>>(
        function: &'static str,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            function,
            args: args.into_iter().map(Into::into).collect(),
        }
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.function, self.args.join(", "))
    }
}

fn bank() -> BoxedStrategy<Spec> {
    let account = || select(vec!["x", "y"]);
    let amount = || prop_oneof![8 => (0..9u64).boxed(), 1 => Just(u64::MAX).boxed()];
    prop_oneof![
        3 => account().prop_map(|a| Spec::new("open", [a])),
        4 => (account(), amount())
            .prop_map(|(a, n)| Spec::new("deposit", [a.to_owned(), n.to_string()])),
        5 => (account(), amount())
            .prop_map(|(a, n)| Spec::new("withdraw", [a.to_owned(), n.to_string()])),
        3 => (account(), account(), amount()).prop_map(|(a, b, n)| {
            Spec::new("transfer", [a.to_owned(), b.to_owned(), n.to_string()])
        }),
    ]
    .boxed()
}

fn queue() -> BoxedStrategy<Spec> {
    prop_oneof![
        3 => select(vec!["a", "b", "c"]).prop_map(|item| Spec::new("push", [item])),
        2 => Just(Spec::new("pop", [""; 0])),
    ]
    .boxed()
}

fn globals() -> BoxedStrategy<Spec> {
    let key = || select(vec!["a", "b", "c"]);
    prop_oneof![
        2 => (key(), select(vec!["1", "2"])).prop_map(|(k, v)| Spec::new("put", [k, v])),
        3 => key().prop_map(|k| Spec::new("remember", [k])),
        3 => key().prop_map(|k| Spec::new("recall", [k])),
        3 => Just(Spec::new("bump", [""; 0])),
        2 => Just(Spec::new("bump-and-refuse", [""; 0])),
        1 => Just(Spec::new("bump-and-trap", [""; 0])),
        3 => key().prop_map(|k| Spec::new("save-count", [k])),
    ]
    .boxed()
}

/// Keys are digits among letters: some calls name a key by the value of another.
const KEYS: [&str; 7] = ["0", "1", "2", "3", "a", "a1", "b"];

fn scanner() -> BoxedStrategy<Spec> {
    let key = || select(KEYS.to_vec());
    let two =
        |function: &'static str| (key(), key()).prop_map(move |(a, b)| Spec::new(function, [a, b]));
    prop_oneof![
        4 => (key(), -1..4i64).prop_map(|(k, v)| Spec::new("put", [k.to_owned(), v.to_string()])),
        2 => key().prop_map(|k| Spec::new("delete", [k])),
        1 => two("delete-range"),
        2 => (span(), key()).prop_map(|(span, k)| Spec::new("sum", [span, k.to_owned()])),
        2 => (span(), key()).prop_map(|(span, k)| Spec::new("count", [span, k.to_owned()])),
        2 => span().prop_map(|span| Spec::new("rewrite", [span])),
        2 => two("copy"),
        2 => two("follow"),
        2 => (select(vec!["", "a"]), key()).prop_map(|(p, k)| Spec::new("mark", [p, k])),
        3 => (key(), -3..4i64, -2..3i64).prop_map(|(k, by, floor)| {
            Spec::new("change", [k.to_owned(), by.to_string(), floor.to_string()])
        }),
        3 => two("claim"),
        2 => two("trap-if"),
        3 => (key(), -2..3i64).prop_map(|(k, by)| Spec::new("add", [k.to_owned(), by.to_string()])),
        2 => two("save-number"),
        2 => key().prop_map(|k| Spec::new("sum-numbers", [k])),
    ]
    .boxed()
}

fn span() -> impl Strategy<Value = String> {
    let start = prop_oneof![Just(""), select(KEYS.to_vec())];
    let end = prop_oneof![
        Just("none".to_owned()),
        select(KEYS.to_vec()).prop_map(|k| format!("some(\"{k}\")")),
    ];
    (start, end, prop_oneof![0..4u32, Just(100)], any::<bool>()).prop_map(
        |(start, end, limit, reverse)| {
            format!("{{start: \"{start}\", end: {end}, limit: {limit}, reverse: {reverse}}}")
        },
    )
}

fn kv() -> BoxedStrategy<Spec> {
    let key = || select(vec!["a", "b"]);
    let value = || select(vec!["1", "2"]);
    let expected = prop_oneof![
        Just("none".to_owned()),
        value().prop_map(|v| format!("some([{}])", v.as_bytes()[0])),
    ];
    let op = prop_oneof![
        (key(), value())
            .prop_map(|(k, v)| format!("put({{key: \"{k}\", value: [{}]}})", v.as_bytes()[0])),
        key().prop_map(|k| format!("delete(\"{k}\")")),
    ];
    prop_oneof![
        4 => (key(), value()).prop_map(|(k, v)| Spec::new("put", [k, v])),
        2 => key().prop_map(|k| Spec::new("delete", [k])),
        2 => prop::collection::vec(op, 1..3)
            .prop_map(|ops| Spec::new("batch", [format!("[{}]", ops.join(", "))])),
        4 => (key(), expected, value()).prop_map(|(k, expected, v)| {
            Spec::new("compare-and-put", [k.to_owned(), expected, v.to_owned()])
        }),
    ]
    .boxed()
}

/// Everything that it can do to a host.
fn hostile() -> BoxedStrategy<Spec> {
    let one = |function: &'static str, args: Vec<u64>| {
        select(args).prop_map(move |n| Spec::new(function, [n.to_string()]))
    };
    let two = |function: &'static str, count: u64, bytes: u32| {
        Just(Spec::new(function, [count.to_string(), bytes.to_string()]))
    };
    let none = |names: Vec<&'static str>| select(names).prop_map(|name| Spec::new(name, [""; 0]));
    prop_oneof![
        6 => (select(vec!["a", "b"]), select(vec!["1", "2"]))
            .prop_map(|(k, v)| Spec::new("put", [k, v])),
        2 => Just(Spec::new("echo", ["hello"])),
        1 => none(vec!["spin", "memory-bomb", "memory-most"]),
        3 => none(vec!["trap", "divide-by-zero", "out-of-bounds", "recurse"]),
        2 => one("emit", vec![10, 65_530, 65_536, 2_000_000, 1_000_000_000]),
        1 => one("emit-strings", vec![3, 900, 1_100]),
        2 => one("refuse-with", vec![10, 65_530, 65_536]),
        1 => one("big-key", vec![1_024, 1_025]),
        1 => one("big-value", vec![262_144, 262_145]),
        1 => two("write-flood", 5, 100),
        1 => two("write-flood", 1_000_000, 262_144),
        1 => one("read-flood", vec![3, 50, 10_000_000]),
        1 => one("add-flood", vec![3, 50]),
        1 => one("pin-flood", vec![3, 50]),
        1 => one("bad-hash", vec![31, 32]),
        2 => select(vec!["a", "b"]).prop_map(|k| Spec::new("put-and-trap", [k])),
    ]
    .boxed()
}

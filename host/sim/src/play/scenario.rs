//! Scenarios: what happens to a network, told in Rhai, with what must hold.
//!
//! A script drives one [`World`]. Time passes only where it says so: `run_for` and the assertions let things
//! happen, a call takes the moment that its commit takes, everything else is instantaneous.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::thread;

use lattice_kernel::run::engine::Role;
use lattice_runtime::profile::THREAD_STACK_BYTES;
use lattice_testing::Dice;
use lattice_testing::disk::Survives;
use rhai::{Array, Dynamic, Engine, EvalAltResult, Position, Token};

use crate::limits::{CONVERGE_MS, SCRIPT_OPERATIONS_MAX};
use crate::play::script_functions;
use crate::world::act::{Act, Keep};
use crate::world::code::Code;
use crate::world::node::NodeId;
use crate::world::{Block, Settings, Topology, Weather, World};

/// How a scenario is run.
pub struct Scenario<'a> {
    /// The script.
    pub script: &'a str,
    /// Everything that is left to chance.
    pub seed: u64,
    /// Nodes that are there at the beginning; the first founds the store.
    pub nodes: u16,
    /// What the script may ask for by name, in place of its own defaults.
    pub settings: BTreeMap<String, String>,
    /// Whether every line of the trace is kept.
    pub keep_trace: bool,
    /// Finds the code of a plugin by its name, as `plugin("kv")` asks for it.
    pub code: &'a (dyn Fn(&str) -> Result<Code, String> + Sync),
}

impl std::fmt::Debug for Scenario<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scenario(seed {}, {} nodes)", self.seed, self.nodes)
    }
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Played {
    /// The world at the end; `None` when the script never used it.
    pub world: Option<World>,
    /// What the script printed.
    pub printed: Vec<String>,
    /// What each assertion of convergence took, in virtual milliseconds.
    pub converged_ms: Vec<u64>,
    /// What did not hold, with its place in the script.
    pub failure: Option<String>,
}

/// What the functions of a script share.
pub(crate) struct Stage {
    pub(crate) settings: Settings,
    /// What the script may ask for by name.
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) world: Option<World>,
    /// What a script draws from.
    pub(crate) dice: Option<Dice>,
    converged_ms: Vec<u64>,
    /// Whether calls, queries and changes of membership mean the child store.
    pub(crate) in_child: bool,
    /// Plugins that the script may name were found beforehand.
    codes: Vec<(String, Code)>,
}

/// What `call` is inside.
const CALL: &str = "call_component";

/// What a node undergoes.
type Undergone = fn(&mut World, NodeId);
pub(crate) type Shared = Rc<RefCell<Stage>>;
pub(crate) type Said<T> = Result<T, Box<EvalAltResult>>;

pub(crate) fn wrong<T>(text: impl Into<String>) -> Said<T> {
    let text = Dynamic::from(text.into());
    Err(EvalAltResult::ErrorRuntime(text, Position::NONE).into())
}

/// Plays a scenario. A script that is wrong is a failure as well.
pub fn play(scenario: &Scenario<'_>) -> Played {
    play_with(scenario, &codes(scenario))
}

/// Plays a scenario in two threads at the same time. It is a failure if any effect differs.
pub fn play_twice(scenario: &Scenario<'_>) -> Played {
    let codes = codes(scenario);
    let hash = |played: &Played| played.world.as_ref().map(|world| world.trace().hash());
    thread::scope(|scope| {
        let again = thread::Builder::new()
            .stack_size(THREAD_STACK_BYTES)
            .spawn_scoped(scope, || hash(&play_with(scenario, &codes)));
        let mut played = play_with(scenario, &codes);
        let again = again.map(thread::ScopedJoinHandle::join);
        let same = matches!(again, Ok(Ok(again)) if again == hash(&played));
        if !same && played.failure.is_none() {
            played.failure = Some("the second time the effects were others".to_owned());
        }
        played
    })
}

/// Plugins by name, or why there is one that was not found.
type Codes = Result<Vec<(String, Code)>, String>;

fn codes(scenario: &Scenario<'_>) -> Codes {
    let names = plugins(scenario.script).into_iter();
    names
        .map(|name| (scenario.code)(&name).map(|code| (name, code)))
        .collect()
}

fn play_with(scenario: &Scenario<'_>, codes: &Codes) -> Played {
    let stage = Rc::new(RefCell::new(Stage {
        settings: Settings {
            seed: scenario.seed,
            nodes: scenario.nodes,
            code: Code::model(),
            topology: Topology::Full,
            keep_trace: scenario.keep_trace,
        },
        values: scenario.settings.clone(),
        world: None,
        dice: None,
        converged_ms: Vec::new(),
        in_child: false,
        codes: codes.clone().unwrap_or_default(),
    }));
    let printed = Rc::new(RefCell::new(Vec::new()));
    let failure = match codes {
        Err(reason) => Some(reason.clone()),
        Ok(_) => {
            let mut engine = Engine::new();
            engine.set_max_operations(SCRIPT_OPERATIONS_MAX);
            free_the_word_call(&mut engine);
            let lines = Rc::clone(&printed);
            engine.on_print(move |line| lines.borrow_mut().push(line.to_owned()));
            register_network(&mut engine, &stage);
            register_store(&mut engine, &stage);
            script_functions::register(&mut engine, &stage);
            let ran = engine.run(scenario.script);
            ran.err().map(|error| error.to_string())
        }
    };
    let mut stage = stage.borrow_mut();
    let wrong = stage.world.as_ref().and_then(|w| w.violation());
    let failure = wrong.map(ToString::to_string).or(failure);
    Played {
        converged_ms: std::mem::take(&mut stage.converged_ms),
        world: stage.world.take(),
        printed: printed.take(),
        failure,
    }
}

/// In Rhai, `call` calls a closure; in a scenario it calls a component.
fn free_the_word_call(engine: &mut Engine) {
    #[expect(
        deprecated,
        reason = "the interface may change with the version, which Cargo.lock fixes"
    )]
    engine.on_parse_token(|token, _, _| match token {
        Token::Reserved(word) | Token::Identifier(word) if word.as_str() == "call" => {
            Token::Identifier(Box::new(CALL.into()))
        }
        other => other,
    });
}

/// The plugins that a script names.
fn plugins(script: &str) -> BTreeSet<String> {
    let mut rest = script;
    let mut names = BTreeSet::new();
    while let Some((_, after)) = rest.split_once("plugin(\"") {
        let Some((name, after)) = after.split_once('"') else {
            break;
        };
        names.insert(name.to_owned());
        rest = after;
    }
    names
}

/// Does something to the world, which is made at its first use.
pub(crate) fn with<T>(stage: &Shared, what: impl FnOnce(&mut World) -> Said<T>) -> Said<T> {
    let mut stage = stage.borrow_mut();
    let settings = stage.settings.clone();
    let world = stage.world.get_or_insert_with(|| World::new(&settings));
    let done = what(world)?;
    match world.violation() {
        Some(violation) => wrong(violation.to_string()),
        None => Ok(done),
    }
}

/// The node that a script means.
pub(crate) fn node(world: &World, number: i64) -> Said<NodeId> {
    match u16::try_from(number) {
        Ok(number) if number < world.node_count() => Ok(NodeId(number)),
        _ => wrong(format!(
            "there is no node {number}: there are {}",
            world.node_count()
        )),
    }
}

/// The store that a script means, or its child.
fn of(world: &World, in_child: bool) -> Said<&World> {
    match (in_child, world.child()) {
        (false, _) => Ok(world),
        (true, Some(child)) => Ok(child),
        (true, None) => wrong("there is no child: make one with child(by)"),
    }
}

pub(crate) fn span(number: i64) -> Said<u64> {
    match u64::try_from(number) {
        Ok(ms) => Ok(ms),
        Err(_) => wrong(format!("{number} ms is no span of time")),
    }
}

fn group(world: &World, nodes: &Array) -> Said<BTreeSet<NodeId>> {
    nodes
        .iter()
        .map(|n| match n.as_int() {
            Ok(number) => node(world, number),
            Err(ty) => wrong(format!("a node is a number, not a {ty}")),
        })
        .collect()
}

pub(crate) fn role(name: &str) -> Said<Role> {
    match name {
        "admin" => Ok(Role::Admin),
        "writer" => Ok(Role::Writer),
        "reader" => Ok(Role::Reader),
        other => wrong(format!("{other} is no role: admin, writer or reader")),
    }
}

/// Machines, time and the network.
fn register_network(engine: &mut Engine, stage: &Shared) {
    let s = Rc::clone(stage);
    engine.register_fn("add_node", move || {
        with(&s, |w| Ok(i64::from(w.add_node().0)))
    });
    let s = Rc::clone(stage);
    engine.register_fn("node_count", move || {
        with(&s, |w| Ok(i64::from(w.node_count())))
    });
    let s = Rc::clone(stage);
    engine.register_fn("now", move || with(&s, |w| Ok(w.now_ms() as i64)));
    let s = Rc::clone(stage);
    engine.register_fn("run_for", move |ms: i64| {
        with(&s, |w| {
            w.run_for(span(ms)?);
            Ok(())
        })
    });
    // Everything that one node undergoes, and a number with it.
    let plain: [(&str, Undergone); 8] = [
        ("offline", |w, n| w.set_offline(n, true)),
        ("online", |w, n| w.set_offline(n, false)),
        ("crash", |w, n| w.crash_with(n, Survives::Torn, None)),
        ("restart", |w, n| w.start(n)),
        ("wake", |w, n| w.wake(n)),
        ("move_address", |w, n| w.act(Act::Move { node: n })),
        ("lie", |w, n| w.act(Act::Lie { node: n })),
        ("rebuild", |w, n| w.act(Act::Rebuild { node: n })),
    ];
    for (name, what) in plain {
        let s = Rc::clone(stage);
        engine.register_fn(name, move |n: i64| {
            with(&s, |w| {
                let n = node(w, n)?;
                what(w, n);
                Ok(())
            })
        });
    }
    let s = Rc::clone(stage);
    engine.register_fn("sleep", move |n: i64, ms: i64| {
        with(&s, |w| {
            let (node, ms) = (node(w, n)?, span(ms)?);
            w.act(Act::Sleep { node, ms });
            Ok(())
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("skew", move |n: i64, ms: i64| {
        with(&s, |w| {
            let node = node(w, n)?;
            w.act(Act::Skew { node, ms });
            Ok(())
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("partition", move |nodes: Array| {
        with(&s, |w| {
            let group = group(w, &nodes)?;
            w.block(Block {
                group,
                one_way: false,
            });
            Ok(())
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("mute", move |nodes: Array| {
        with(&s, |w| {
            let group = group(w, &nodes)?;
            w.block(Block {
                group,
                one_way: true,
            });
            Ok(())
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("heal", move || {
        with(&s, |w| {
            w.blocks.clear();
            w.weather = Weather::default();
            Ok(())
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn(
        "weather",
        move |latency_ms: i64, jitter_ms: i64, loss_per_mille: i64, bytes_per_ms: i64| {
            with(&s, |w| {
                w.weather = Weather {
                    latency_ms: span(latency_ms)?,
                    jitter_ms: span(jitter_ms)?,
                    loss_per_mille: span(loss_per_mille)?.min(999),
                    bytes_per_ms: span(bytes_per_ms)?.max(1),
                };
                Ok(())
            })
        },
    );
    let s = Rc::clone(stage);
    engine.register_fn("bytes_sent", move || {
        with(&s, |w| {
            let bytes = w.stats().links.values().map(|l| l.bytes);
            Ok(bytes.sum::<u64>() as i64)
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("gossip_bytes", move || {
        with(&s, |w| Ok(w.stats().gossip_bytes as i64))
    });
}

/// The store: its members, its calls, and what must hold of it.
fn register_store(engine: &mut Engine, stage: &Shared) {
    let s = Rc::clone(stage);
    engine.register_fn("plugin", move |name: &str| -> Said<()> {
        let mut stage = s.borrow_mut();
        if stage.world.is_some() {
            return wrong("the plugin must be chosen before anything else");
        }
        match stage.codes.iter().find(|(known, _)| known == name).cloned() {
            Some((_, code)) => {
                stage.settings.code = code;
                Ok(())
            }
            None => wrong(format!(
                "plugin {name}: write its name as a literal, plugin(\"{name}\")"
            )),
        }
    });
    let s = Rc::clone(stage);
    engine.register_fn("join", move |n: i64| join(&s, n, "writer"));
    let s = Rc::clone(stage);
    engine.register_fn("join", move |n: i64, role: &str| join(&s, n, role));
    let s = Rc::clone(stage);
    engine.register_fn("role", move |by: i64, whom: i64, name: &str| {
        govern(&s, |w| {
            let (by, whom, role) = (node(w, by)?, node(w, whom)?, role(name)?);
            Ok(Act::Admit { by, whom, role })
        })
    });
    let s = Rc::clone(stage);
    engine.register_fn("revoke", move |by: i64, whom: i64| {
        govern(&s, |w| {
            let (by, whom, keep) = (node(w, by)?, node(w, whom)?, Keep::Seen);
            Ok(Act::Revoke { by, whom, keep })
        })
    });
    macro_rules! with_arguments {
        ($name:expr, $does:ident, [$($arg:ident),*]) => {
            let s = Rc::clone(stage);
            engine.register_fn($name, move |n: i64, f: &str $(, $arg: Dynamic)*| {
                $does(&s, n, f, vec![$($arg),*])
            });
        };
    }
    with_arguments!(CALL, call, []);
    with_arguments!(CALL, call, [a]);
    with_arguments!(CALL, call, [a, b]);
    with_arguments!(CALL, call, [a, b, c]);
    with_arguments!("query", query, []);
    with_arguments!("query", query, [a]);
    with_arguments!("query", query, [a, b]);
    with_arguments!("query", query, [a, b, c]);
    with_arguments!("assert_query", assert_query, [a]);
    with_arguments!("assert_query", assert_query, [a, b]);
    with_arguments!("assert_query", assert_query, [a, b, c]);
    let s = Rc::clone(stage);
    engine.register_fn("assert_converged", move || {
        converged(&s, CONVERGE_MS as i64)
    });
    let s = Rc::clone(stage);
    engine.register_fn("assert_converged", move |ms: i64| converged(&s, ms));
    let s = Rc::clone(stage);
    engine.register_fn("is_converged", move || with(&s, |w| Ok(w.is_converged())));
    engine.register_fn("assert", |holds: bool, text: &str| match holds {
        true => Ok(()),
        false => wrong::<()>(text),
    });
    let s = Rc::clone(stage);
    engine.register_fn("entries", move |n: i64| {
        let in_child = s.borrow().in_child;
        with(&s, |w| {
            let n = node(w, n)?;
            let count = of(w, in_child)?
                .snapshot(n)
                .map_or(0, |s| s.summary().count);
            Ok(count as i64)
        })
    });
}

/// A joiner fetches the store by itself, as soon as it reaches somebody who has it.
fn join(stage: &Shared, n: i64, name: &str) -> Said<()> {
    govern(stage, |w| {
        let (whom, role) = (node(w, n)?, role(name)?);
        let by = NodeId(0);
        Ok(Act::Admit { by, whom, role })
    })
}

/// Changes who is a member, in the store or its child.
pub(crate) fn govern(stage: &Shared, act: impl FnOnce(&World) -> Said<Act>) -> Said<()> {
    let in_child = stage.borrow().in_child;
    with(stage, |w| {
        of(w, in_child)?;
        let act = act(w)?;
        w.act(act.of(in_child));
        w.run_for(10);
        Ok(())
    })
}

pub(crate) fn texts(args: Vec<Dynamic>) -> Vec<String> {
    args.into_iter().map(|arg| arg.to_string()).collect()
}

/// Calls a command on a node; what became of it, as people read it.
fn call(stage: &Shared, n: i64, name: &str, args: Vec<Dynamic>) -> Said<String> {
    let in_child = stage.borrow().in_child;
    with(stage, |w| {
        let by = node(w, n)?;
        let call = match w.code.call(name, &texts(args)) {
            Ok(call) => call,
            Err(error) => return wrong(error.to_string()),
        };
        match w.call_now(by, call.clone(), in_child) {
            Some(outcome) => Ok(w.code.describe(&call, &outcome)),
            None => wrong(format!("{by} does not answer: it is off, or has no store")),
        }
    })
}

/// Asks a query on a node.
fn query(stage: &Shared, n: i64, name: &str, args: Vec<Dynamic>) -> Said<String> {
    let in_child = stage.borrow().in_child;
    with(stage, |w| {
        let n = node(w, n)?;
        let Some(snapshot) = of(w, in_child)?.snapshot(n) else {
            return wrong(format!("{n} has no store now"));
        };
        w.code
            .query(&snapshot, name, &texts(args))
            .or_else(|error| wrong(error.to_string()))
    })
}

/// Asks a query; the last argument is what it must answer.
fn assert_query(stage: &Shared, n: i64, name: &str, mut args: Vec<Dynamic>) -> Said<()> {
    let expected = args.pop().map(|arg| arg.to_string()).unwrap_or_default();
    let got = query(stage, n, name, args)?;
    match got == expected {
        true => Ok(()),
        false => wrong(format!("{name} on n{n} is {got:?}, not {expected:?}")),
    }
}

/// Runs until all members are equal, at most so long, and judges them.
fn converged(stage: &Shared, ms: i64) -> Said<i64> {
    let took = with(stage, |w| match w.converge(span(ms)?) {
        Ok(took_ms) => Ok(took_ms),
        Err(violation) => wrong(violation.to_string()),
    })?;
    stage.borrow_mut().converged_ms.push(took);
    Ok(took as i64)
}

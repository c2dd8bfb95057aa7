//! Scenarios: each in `scenarios/` holds, and what is wrong in one is said.

use std::collections::BTreeMap;
use std::path::Path;

use lattice_sim::{Code, Played, Scenario, json, play, play_twice, svg, table};

use crate::components::component;

fn code(name: &str) -> Result<Code, String> {
    match name {
        "kv" | "log" | "counter" | "bank" => Ok(component(name)),
        other => Err(format!("there is no plugin {other} here")),
    }
}

fn played(script: &str, seed: u64) -> Played {
    with_nodes(script, seed, 1)
}

fn scenario(script: &str, seed: u64, nodes: u16) -> Scenario<'_> {
    Scenario {
        script,
        seed,
        nodes,
        settings: BTreeMap::new(),
        keep_trace: true,
        code: &code,
    }
}

fn with_nodes(script: &str, seed: u64, nodes: u16) -> Played {
    play(&scenario(script, seed, nodes))
}

#[test]
fn a_scenario_played_twice_at_the_same_time_has_the_effects_of_one_play() {
    let script = include_str!("../../scenarios/large/growth.rhai");
    let (once, twice) = (
        with_nodes(script, 3, 6),
        play_twice(&scenario(script, 3, 6)),
    );
    assert_eq!(twice.failure, None);
    assert_eq!(twice.printed, once.printed);
    let hash = |played: Played| played.world.map(|world| world.trace().hash());
    let (once, twice) = (hash(once), hash(twice));
    assert!(once.is_some() && once == twice);
}

/// Holds: invariant 5.
#[test]
fn every_scenario_keeps_its_promise() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let script = std::fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("// "), "{path:?} says what it promises");
        for seed in [1, 2] {
            let played = played(&script, seed);
            assert_eq!(played.failure, None, "{path:?}, seed {seed}");
            eprintln!("{path:?}: {:?}, {:?}", played.converged_ms, played.printed);
        }
        count += 1;
    }
    assert!(count >= 8);
}

/// What is meant for many nodes holds with a few as well.
#[test]
fn every_large_scenario_keeps_its_promise_with_few_nodes() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/large");
    let mut count = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("// "), "{path:?} says what it promises");
        let played = with_nodes(&script, 1, 8);
        assert_eq!(played.failure, None, "{path:?}");
        eprintln!("{path:?}: {:?}, {:?}", played.converged_ms, played.printed);
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn two_plays_of_one_seed_are_the_same() {
    let script = include_str!("../../scenarios/late.rhai");
    let hash = |seed| played(script, seed).world.unwrap().trace().hash();
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

#[test]
fn what_does_not_hold_is_said_with_its_place() {
    let cases = [
        ("assert(false, \"it is so\");", "it is so"),
        ("call(7, \"add\", 1);", "there is no node 7"),
        ("call(0, \"add\", 1);", "0 functions are named add"),
        (
            "plugin(\"counter\"); call(0, \"add\");",
            "takes 1 arguments",
        ),
        (
            "plugin(\"counter\"); assert_query(0, \"value\", \"3\");",
            "is \"0\", not \"3\"",
        ),
        ("plugin(\"nothing\");", "there is no plugin nothing"),
        ("add_node(); plugin(\"kv\");", "before anything else"),
        ("join(add_node(), \"king\");", "king is no role"),
        ("run_for(-1);", "no span of time"),
        ("network(\"line\");", "line is no network"),
        ("add_node(); network(\"ring\");", "before anything"),
        ("chance(0);", "nothing is below 0"),
        ("loop {}", "Too many operations"),
        (
            "add_node(); join(1); offline(1); assert_converged(5000);",
            "not equal after 5000 ms",
        ),
    ];
    for (script, expected) in cases {
        let failure = played(script, 1).failure.unwrap_or_default();
        assert!(failure.contains(expected), "{script}: {failure:?}");
    }
}

#[test]
fn a_play_is_shown_in_numbers_and_as_a_picture() {
    let played = played(include_str!("../../scenarios/late.rhai"), 1);
    let (text, document) = (table(&played), json(&played));
    assert!(
        text.contains("n0 → n1") && text.contains("3 nodes, 42 calls"),
        "{text}"
    );
    assert_eq!(document["ok"], true);
    assert_eq!(document["nodes"], 3);
    assert!(document["links"][0]["bytes"].as_u64().unwrap() > 1_000);
    let picture = svg(played.world.as_ref().unwrap());
    assert!(picture.starts_with("<svg ") && picture.matches("<polyline").count() == 3);
}

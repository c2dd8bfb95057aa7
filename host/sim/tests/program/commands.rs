//! Each verb, as people and scripts run it.

use crate::harness::{Place, built};

fn scenario(name: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    format!("{root}/{name}.rhai")
}

#[test]
fn a_scenario_is_played_and_shown() {
    let place = Place::new();
    let (svg, trace) = (place.path().join("late.svg"), place.path().join("late.txt"));
    let (svg, trace) = (svg.display().to_string(), trace.display().to_string());
    let file = scenario("late");
    let shown = place.ok(&["run", &file, "--svg", &svg, "--trace", &trace]);
    assert!(
        shown.contains("n0 → n1") && shown.contains("3 nodes, 42 calls"),
        "{shown}"
    );
    let read = |path| std::fs::read_to_string(path).expect("written");
    assert!(read(&svg).starts_with("<svg "));
    assert!(read(&trace).lines().count() > 100);
    let document = place.json(&["run", &file]);
    assert_eq!(document["ok"], true);
    let again = place.json(&["run", &file]);
    assert_eq!(document, again, "one seed, one run");
}

#[test]
fn seeds_are_run_and_one_of_them_in_part() {
    let place = Place::new();
    let shown = place.ok(&["swarm", "--seeds", "0..4", "--jobs", "2"]);
    assert!(shown.starts_with("4 runs held"), "{shown}");
    let bank = built("bank").display().to_string();
    let document = place.json(&["swarm", "--seeds", "0..2", "--plugin", &bank]);
    assert_eq!(document["runs"], 2);
    let part = ["swarm", "--seeds", "4..5", "--only-steps", "0,2"];
    let shown = place.ok(&part);
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

#[test]
fn seeds_go_on_where_they_were_stopped() {
    let place = Place::new();
    let record = place.path().join("seeds.txt");
    let record = record.display().to_string();
    let swarm = |seeds: &'static str| ["swarm", "--seeds", seeds, "--resume"];
    let with = |seeds| [&swarm(seeds)[..], &[record.as_str()]].concat();
    let first = place.ok(&with("0..3"));
    assert!(first.starts_with("3 runs held"), "{first}");
    let text = std::fs::read_to_string(&record).expect("written");
    assert_eq!(text, "model nodes 5 steps 60 from 0 next 3\n");
    let second = place.ok(&with("0..5"));
    assert!(second.starts_with("2 runs held"), "{second}");
    let none = place.ok(&with("0..5"));
    assert!(none.starts_with("0 runs held"), "{none}");
    place.fails(&with("1..5"), 2, &["is not about"]);
}

#[test]
fn a_scenario_is_played_twice_and_the_small_model_is_run() {
    let place = Place::new();
    let crowd = scenario("large/crowd");
    let twice = ["run", &crowd, "--nodes", "6", "--twice"];
    let shown = place.ok(&twice);
    assert!(shown.contains("6 nodes"), "{shown}");
    let shown = place.ok(&["model", "--seeds", "0..50"]);
    assert!(shown.starts_with("50 histories held"), "{shown}");
}

#[test]
fn what_does_not_hold_or_make_sense_is_told() {
    let place = Place::new();
    let file = place.path().join("bad.rhai");
    std::fs::write(
        &file,
        "add_node(); join(1); offline(1); assert_converged(5000);",
    )
    .expect("written");
    let file = file.display().to_string();
    // The numbers of what was played until then are shown all the same.
    let ended = place.run(&["run", &file]);
    ended.failed(1, &["not equal after 5000 ms", "--seed 1"]);
    place.fails(&["run", "nothing.rhai"], 4, &["nothing.rhai"]);
    place.fails(&["swarm", "--seeds", "5"], 2, &["two numbers"]);
    place.fails(&["swarm", "--plugin", "nothing"], 2, &["no bundled plugin"]);
    let two = ["swarm", "--seeds", "0..2", "--only-steps", "1"];
    place.fails(&two, 2, &["one seed"]);
    let system = ["swarm", "--plugin", "system"];
    place.fails(&system, 2, &["random calls"]);
}

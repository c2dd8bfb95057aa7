//! `lattice sim`, as people and scripts run it. It needs no home, and makes none.

use crate::harness::{Home, built};

fn scenario(name: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/scenarios");
    format!("{root}/{name}.rhai")
}

#[test]
fn a_scenario_is_played_and_shown() {
    let home = Home::new();
    let (svg, trace) = (home.path().join("late.svg"), home.path().join("late.txt"));
    let (svg, trace) = (svg.display().to_string(), trace.display().to_string());
    let file = scenario("late");
    let shown = home.ok(&["sim", "run", &file, "--svg", &svg, "--trace", &trace]);
    assert!(
        shown.contains("n0 → n1") && shown.contains("3 nodes, 42 calls"),
        "{shown}"
    );
    let read = |path| std::fs::read_to_string(path).expect("written");
    assert!(read(&svg).starts_with("<svg "));
    assert!(read(&trace).lines().count() > 100);
    let document = home.json(&["sim", "run", &file]);
    assert_eq!(document["ok"], true);
    let again = home.json(&["sim", "run", &file]);
    assert_eq!(document, again, "one seed, one run");
}

#[test]
fn seeds_are_run_and_one_of_them_in_part() {
    let home = Home::new();
    let shown = home.ok(&["sim", "swarm", "--seeds", "0..4", "--jobs", "2"]);
    assert!(shown.starts_with("4 runs held"), "{shown}");
    let bank = built("bank").display().to_string();
    let document = home.json(&["sim", "swarm", "--seeds", "0..2", "--plugin", &bank]);
    assert_eq!(document["runs"], 2);
    let part = ["sim", "swarm", "--seeds", "4..5", "--only-steps", "0,2"];
    let shown = home.ok(&part);
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

#[test]
fn seeds_go_on_where_they_were_stopped() {
    let home = Home::new();
    let record = home.path().join("seeds.txt");
    let record = record.display().to_string();
    let swarm = |seeds: &'static str| ["sim", "swarm", "--seeds", seeds, "--resume"];
    let with = |seeds| [&swarm(seeds)[..], &[record.as_str()]].concat();
    let first = home.ok(&with("0..3"));
    assert!(first.starts_with("3 runs held"), "{first}");
    let text = std::fs::read_to_string(&record).expect("written");
    assert_eq!(text, "model nodes 5 steps 60 from 0 next 3\n");
    let second = home.ok(&with("0..5"));
    assert!(second.starts_with("2 runs held"), "{second}");
    let none = home.ok(&with("0..5"));
    assert!(none.starts_with("0 runs held"), "{none}");
    home.fails(&with("1..5"), 2, &["is not about"]);
}

#[test]
fn a_scenario_is_played_twice_and_the_small_model_is_run() {
    let home = Home::new();
    let crowd = scenario("large/crowd");
    let twice = ["sim", "run", &crowd, "--nodes", "6", "--twice"];
    let shown = home.ok(&twice);
    assert!(shown.contains("6 nodes"), "{shown}");
    let shown = home.ok(&["sim", "model", "--seeds", "0..50"]);
    assert!(shown.starts_with("50 histories held"), "{shown}");
}

#[test]
fn what_does_not_hold_or_make_sense_is_told() {
    let home = Home::new();
    let file = home.path().join("bad.rhai");
    std::fs::write(
        &file,
        "add_node(); join(1); offline(1); assert_converged(5000);",
    )
    .expect("written");
    let file = file.display().to_string();
    // The numbers of what was played until then are shown all the same.
    let ended = home.run(&["sim", "run", &file]);
    ended.failed(1, &["not equal after 5000 ms", "--seed 1"]);
    home.fails(&["sim", "run", "nothing.rhai"], 4, &["nothing.rhai"]);
    home.fails(&["sim", "swarm", "--seeds", "5"], 2, &["two numbers"]);
    home.fails(
        &["sim", "swarm", "--plugin", "nothing"],
        2,
        &["no bundled plugin"],
    );
    let two = ["sim", "swarm", "--seeds", "0..2", "--only-steps", "1"];
    home.fails(&two, 2, &["one seed"]);
    let system = ["sim", "swarm", "--plugin", "system"];
    home.fails(&system, 2, &["random calls"]);
}

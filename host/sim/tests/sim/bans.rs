//! Peers that break the protocol are banned, as in a daemon, and come back.

use std::collections::BTreeMap;

use lattice_kernel::run::engine::Role;
use lattice_sim::{Act, Code, NodeId, Settings, Topology, World};
use lattice_testing::{Step, program};

const NODES: u16 = 4;
const LIAR: u16 = 3;

/// Members, of whom one lies from now on.
fn with_liar(seed: u64) -> World {
    let mut world = World::new(&Settings {
        seed,
        nodes: NODES,
        code: Code::model(),
        topology: Topology::Full,
        keep_trace: true,
    });
    for whom in 1..NODES {
        let (by, whom, role) = (NodeId(0), NodeId(whom), Role::Admin);
        world.act(Act::Admit { by, whom, role });
    }
    world.converge(120_000).unwrap();
    world.act(Act::Lie { node: NodeId(LIAR) });
    world
}

fn call(by: u16) -> Act {
    let step = Step::Put {
        k: 1,
        dynamic: false,
        value: 7,
    };
    Act::Call {
        by: NodeId(by),
        calls: vec![program(&[step])],
    }
}

/// Whether a node says so in a line of the trace.
fn says(line: &str, node: &str, what: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next() == Some(node) && line.contains(what)
}

#[test]
fn a_liar_is_banned_by_each_member_refused_for_a_while_and_let_in_again() {
    let mut world = with_liar(3);
    for _ in 0..300 {
        for by in 0..NODES {
            world.act(call(by));
        }
        world.run_for(1_000);
    }
    let lines = world.trace().lines();
    let mut bans = BTreeMap::new();
    for n in 0..LIAR {
        let name = format!("n{n}");
        let ban = format!(" bans n{LIAR}");
        let at = lines.iter().position(|line| says(line, &name, &ban));
        let after = &lines[at.expect("it is banned")..];
        let refuses = format!("refuses the banned n{LIAR}");
        assert!(after.iter().any(|line| says(line, &name, &refuses)));
        let again = after.iter().filter(|line| says(line, &name, &ban)).count();
        bans.insert(n, again);
    }
    assert!(
        bans.values().any(|count| *count > 1),
        "it is back: {bans:?}"
    );
    for n in 0..LIAR {
        let wrong = lines.iter().find(|line| {
            let of_liar = line.contains(&format!(" n{LIAR}"));
            says(line, &format!("n{n}"), " bans ") && !of_liar
        });
        assert_eq!(wrong, None, "an honest node is banned");
    }
    world.finish().unwrap();
}

/// Whether some node that bans the liar for lies in one store then closes the stream of the other store, and refuses
/// the next one there. The marks stand behind a node's name in lines of the two stores.
fn follows(lines: &[String], banning: &str, other: &str) -> [bool; 2] {
    let mut found = [false; 2];
    for n in 0..LIAR {
        let [banning, other] = [banning, other].map(|mark| format!("n{n}{mark}"));
        let bans = |line: &String| says(line, &banning, " bans ") || says(line, &other, " bans ");
        // The first ban alone: a later refusal might follow from a ban for lies in the other store.
        let Some(at) = lines.iter().position(bans) else {
            continue;
        };
        if !says(&lines[at], &banning, " bans ") {
            continue;
        }
        for line in lines[at + 1..].iter().take_while(|line| !bans(line)) {
            found[0] |= says(line, &other, "the peer is banned");
            found[1] |= says(line, &other, "refuses the banned");
        }
    }
    found
}

#[test]
fn who_is_banned_for_lies_in_one_store_is_refused_in_its_child_and_the_other_way_round() {
    let (mut in_parent, mut in_child) = ([false; 2], [false; 2]);
    for seed in 0..12 {
        let mut world = with_liar(seed);
        world.act(Act::Child { by: NodeId(0) });
        for _ in 0..30 {
            for by in 0..NODES {
                world.act(call(by));
                world.act(Act::InChild(Box::new(call(by))));
            }
            world.run_for(1_000);
        }
        let lines = world.trace().lines();
        for (found, [banning, other]) in [(&mut in_parent, ["", "'"]), (&mut in_child, ["'", ""])] {
            let [closes, refuses] = follows(lines, banning, other);
            found[0] |= closes;
            found[1] |= refuses;
        }
    }
    assert_eq!(in_parent, [true; 2], "lies in the parent");
    assert_eq!(in_child, [true; 2], "lies in the child");
}

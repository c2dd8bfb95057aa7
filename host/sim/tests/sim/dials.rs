//! Peers are dialled as a daemon dials them: the kernel's value decides when, and which of two streams stays.

use lattice_kernel::run::engine::Role;
use lattice_kernel::sync::limits::{RETRY_MAX_MS, RETRY_MIN_MS};
use lattice_sim::limits::{DIAL_MS, TICK_MS};
use lattice_sim::{Act, Code, NodeId, Settings, Topology, Weather, World};
use lattice_testing::{Step, program};

/// Two members of a store.
fn pair(seed: u64) -> World {
    let mut world = World::new(&Settings {
        seed,
        nodes: 2,
        code: Code::model(),
        topology: Topology::Full,
        keep_trace: true,
    });
    let (by, whom, role) = (NodeId(0), NodeId(1), Role::Writer);
    world.act(Act::Admit { by, whom, role });
    world.converge(60_000).unwrap();
    world
}

fn call(by: u16) -> Act {
    let step = Step::Get {
        k: 1,
        dynamic: false,
    };
    Act::Call {
        by: NodeId(by),
        calls: vec![program(&[step])],
    }
}

/// The times of the lines from `first` on in which a node says so, in milliseconds.
fn times(world: &World, first: usize, text: &str) -> Vec<u64> {
    let lines = world.trace().lines()[first..].iter();
    let said = lines.filter(|line| line.ends_with(text));
    said.map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn who_is_gone_is_dialled_less_and_less_often_up_to_a_bound() {
    let mut world = pair(1);
    let ms = 1_800_000;
    let from = world.trace().lines().len();
    world.act(Act::Sleep {
        node: NodeId(1),
        ms,
    });
    world.act(call(0));
    world.run_for(ms - 1);
    let dials = times(&world, from, "n0 dials n1");
    let pauses: Vec<u64> = dials.windows(2).map(|two| two[1] - two[0]).collect();
    let (first, last) = (pauses[0], pauses[pauses.len() - 1]);
    assert!(first <= DIAL_MS + 4 * RETRY_MIN_MS + TICK_MS, "{pauses:?}");
    assert!(last >= DIAL_MS + RETRY_MAX_MS / 2, "{pauses:?}");
    let longest = DIAL_MS + RETRY_MAX_MS + TICK_MS;
    assert!(pauses.iter().all(|ms| *ms <= longest), "{pauses:?}");
    let differ = pauses
        .iter()
        .rev()
        .take(8)
        .any(|ms| ms.abs_diff(last) > 2 * TICK_MS);
    assert!(differ, "chance is in the pauses: {pauses:?}");
    world.run_for(RETRY_MAX_MS + TICK_MS);
    assert_eq!(world.converge(1).unwrap_or(u64::MAX), 0, "it is back");
}

#[test]
fn of_two_streams_that_cross_both_nodes_keep_the_one_that_the_smaller_key_dialled() {
    let (mut replaced, mut refused) = (0, 0);
    for seed in 0..12 {
        let mut world = pair(seed);
        let smaller = match world.device(NodeId(0)) < world.device(NodeId(1)) {
            true => "n0",
            false => "n1",
        };
        // A handshake takes most of a second, so that each node dials before it hears of the other's dial.
        let weather = Weather {
            latency_ms: 250,
            ..Weather::default()
        };
        world.act(Act::Storm {
            weather,
            ms: 600_000,
        });
        let from = world.trace().lines().len();
        for node in [0, 1, 0, 1] {
            world.act(Act::Move { node: NodeId(node) });
            world.act(call(node));
            world.run_for(30_000);
        }
        let lines = &world.trace().lines()[from..];
        let mut opened = None;
        for line in lines {
            let mut words = line.split_whitespace();
            let at_ms: u64 = words.next().unwrap().parse().unwrap();
            let node = words.next().unwrap();
            if line.contains(" opens ") {
                if let Some((before_ms, before)) = opened
                    && before != node
                    && at_ms - before_ms < 1_000
                {
                    assert_eq!(node, smaller, "seed {seed}: {line}");
                    replaced += 1;
                }
                opened = Some((at_ms, node));
            }
            if line.contains("does not open another stream") {
                assert_ne!(node, smaller, "seed {seed}: {line}");
                refused += 1;
            }
        }
        world.converge(60_000).unwrap();
    }
    assert!(replaced > 0 && refused > 0, "{replaced} {refused}");
}

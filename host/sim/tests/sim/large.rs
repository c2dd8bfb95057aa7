//! A large network, with everything at once.

use std::time::Instant;

use lattice_kernel::run::engine::Role;
use lattice_sim::{Act, Code, NodeId, Settings, Step, Topology, World};
use lattice_testing::Dice;
use lattice_testing::{Step as Model, program};

const NODES: u16 = 24;
const CALLS: u64 = 240;

/// Two dozen members, two of them liars, partitions, crashes, wrong clocks and calls by everybody.
fn large(seed: u64) -> World {
    let mut world = World::new(&Settings {
        seed,
        nodes: NODES,
        code: Code::model(),
        topology: Topology::Random(2),
        keep_trace: false,
    });
    let mut dice = Dice(seed);
    let mut steps = Vec::new();
    let by = NodeId(0);
    for whom in 1..NODES {
        let (whom, role) = (NodeId(whom), Role::Writer);
        let act = Act::Admit { by, whom, role };
        steps.push(Step { at_ms: 10, act });
    }
    let any = |dice: &mut Dice| NodeId(dice.below(u64::from(NODES)) as u16);
    for n in 0..CALLS {
        let k = dice.below(8) as u8;
        let run = [
            Model::Get { k, dynamic: true },
            Model::Put {
                k,
                dynamic: false,
                value: 3,
            },
        ];
        let act = Act::Call {
            by: any(&mut dice),
            calls: vec![program(&run)],
        };
        let at_ms = 20_000 + n * 100;
        steps.push(Step { at_ms, act });
    }
    for n in 0..20 {
        let (node, ms) = (any(&mut dice), 5_000);
        let act = match n % 4 {
            0 => Act::Crash { node, after: 10 },
            1 => Act::Skew { node, ms: 30_000 },
            2 => Act::CutPower { node, after: 20 },
            _ => Act::Partition {
                group: (0..NODES / 2).map(NodeId).collect(),
                one_way: false,
                ms,
            },
        };
        let at_ms = 20_000 + n * 2_000;
        steps.push(Step { at_ms, act });
    }
    for node in [NodeId(7), NodeId(23)] {
        let act = Act::Lie { node };
        steps.push(Step { at_ms: 25_000, act });
    }
    world.add_plan(steps);
    world.run_for(62_000);
    world
}

#[test]
fn two_dozen_nodes_with_two_liars_become_equal_twice_with_the_same_bytes() {
    let mut hashes = Vec::new();
    for _ in 0..2 {
        let began = Instant::now();
        let mut world = large(5);
        let took_ms = world.finish().unwrap();
        eprintln!(
            "{:?} for {} ms of virtual time, {} effects, {} calls; equal after {took_ms} ms",
            began.elapsed(),
            world.now_ms(),
            world.trace().count(),
            world.stats().calls
        );
        assert!(world.stats().calls > CALLS / 2);
        hashes.push(world.trace().hash());
    }
    assert_eq!(hashes[0], hashes[1]);
}

//! What gossip's own protocol brings to whom.

use std::collections::BTreeSet;

use lattice_kernel::run::engine::Role;
use lattice_sim::{Act, Code, Keep, NodeId, Settings, Topology, World};
use lattice_testing::{Step, program};

const NODES: u16 = 50;

/// Members on one topic.
fn crowd(seed: u64) -> World {
    let mut world = World::new(&Settings {
        seed,
        nodes: NODES,
        code: Code::model(),
        topology: Topology::Random(2),
        keep_trace: true,
    });
    for whom in 1..NODES {
        let (by, whom, role) = (NodeId(0), NodeId(whom), Role::Writer);
        world.act(Act::Admit { by, whom, role });
    }
    world.converge(120_000).unwrap();
    world.run_for(5_000);
    world
}

/// Which nodes the protocol tells of what one of them writes.
fn told(world: &mut World, by: u16) -> BTreeSet<u16> {
    let before = world.trace().lines().len();
    let step = Step::Get {
        k: 1,
        dynamic: false,
    };
    world.act(Act::Call {
        by: NodeId(by),
        calls: vec![program(&[step])],
    });
    world.run_for(3_000);
    let lines = &world.trace().lines()[before..];
    let told = lines.iter().filter(|line| line.contains(" is told "));
    told.filter_map(|line| {
        let node = line.split_whitespace().nth(1)?;
        node.strip_prefix('n')?.parse().ok()
    })
    .collect()
}

fn all_but(nodes: &[u16]) -> BTreeSet<u16> {
    (0..NODES).filter(|n| !nodes.contains(n)).collect()
}

#[test]
fn an_announcement_reaches_each_of_fifty_nodes_by_gossip_alone() {
    for seed in 0..3 {
        let mut world = crowd(seed);
        for by in [0, 7, 49] {
            assert_eq!(told(&mut world, by), all_but(&[by]), "seed {seed}");
        }
    }
}

#[test]
fn whoever_was_revoked_hears_nothing_on_gossip() {
    // One leaves the topic by itself; the other stays, listens and says something else than it should.
    const HONEST: u16 = 8;
    const LIAR: u16 = 9;
    for seed in 0..3 {
        let mut world = crowd(seed);
        world.act(Act::Lie { node: NodeId(LIAR) });
        let heard = told(&mut world, 7);
        assert!(heard.contains(&HONEST) && heard.contains(&LIAR));
        for whom in [HONEST, LIAR] {
            world.act(Act::Revoke {
                by: NodeId(0),
                whom: NodeId(whom),
                keep: Keep::Seen,
            });
        }
        world.converge(120_000).unwrap();
        world.run_for(5_000);
        for by in [0, 7, 49] {
            let others = all_but(&[by, HONEST, LIAR]);
            assert_eq!(told(&mut world, by), others, "seed {seed}");
        }
    }
}

#[test]
fn gossip_at_rest_is_one_walk_for_each_node_and_minute() {
    let mut world = crowd(0);
    let before = world.stats().gossip_messages;
    let minutes = 10;
    world.run_for(minutes * 60_000);
    let each = (world.stats().gossip_messages - before) / (minutes * u64::from(NODES));
    // Six steps, the answer, and now and then another neighbour.
    assert!((1..=20).contains(&each), "{each}");
}

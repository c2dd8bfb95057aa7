//! What nodes that were apart send each other is little more than what they lack.

use lattice_kernel::run::engine::Role;
use lattice_kernel::{LocalSeq, Stored};
use lattice_sim::{Act, Code, NodeId, Settings, Step, Topology, World};
use lattice_testing::{Step as Model, program};

const NODES: u16 = 10;
/// So many that what all peers send at the same time would exceed the factor by far.
const CROWD: u16 = 24;
const ENTRIES: u64 = 20;
/// Bytes on the wire over header, signature and body of what is missing, at most.
const FACTOR: u64 = 3;

fn bytes(world: &World) -> u64 {
    world.stats().links.values().map(|link| link.bytes).sum()
}

fn size(entry: &Stored) -> u64 {
    let body = entry.body.as_ref().map_or(0, |body| body.len());
    (entry.header.signed().bytes.len() + 64 + body) as u64
}

/// Everybody writes while everybody is alone. Then all meet: what it takes, and what was missing, in bytes.
fn meet(nodes: u16, topology: Topology) -> (u64, u64) {
    let mut world = World::new(&Settings {
        seed: 1,
        nodes,
        code: Code::model(),
        topology,
        keep_trace: false,
    });
    for whom in 1..nodes {
        let (by, whom, role) = (NodeId(0), NodeId(whom), Role::Writer);
        world.act(Act::Admit { by, whom, role });
    }
    world.converge(60_000).unwrap();
    for node in 0..nodes {
        world.act(Act::Partition {
            group: [NodeId(node)].into(),
            one_way: false,
            ms: 60_000,
        });
    }
    let own = world.snapshot(NodeId(0)).unwrap().summary().count;
    let run = [Model::Get {
        k: 1,
        dynamic: false,
    }; 50];
    let steps = (0..ENTRIES).flat_map(|n| {
        (0..nodes).map(move |by| Step {
            at_ms: 1_000 + n * 1_000 + u64::from(by),
            act: Act::Call {
                by: NodeId(by),
                calls: vec![program(&run)],
            },
        })
    });
    world.add_plan(steps.collect());
    world.run_for(59_000);
    let before = bytes(&world);
    world.run_for(2_000);
    world.converge(180_000).unwrap();
    let sent = bytes(&world) - before;
    let snapshot = world.snapshot(NodeId(0)).unwrap();
    let new = snapshot.entries_from(LocalSeq(own), usize::MAX).unwrap();
    assert_eq!(new.len() as u64, ENTRIES * u64::from(nodes));
    let missing = new.iter().map(size).sum::<u64>() * u64::from(nodes - 1);
    (sent, missing)
}

#[test]
fn nodes_that_meet_send_little_more_than_what_is_missing() {
    for (nodes, topology) in [
        (NODES, Topology::Star),
        (NODES, Topology::Ring),
        (NODES, Topology::Full),
        (NODES, Topology::Random(1)),
        (CROWD, Topology::Full),
    ] {
        let (sent, missing) = meet(nodes, topology);
        eprintln!("{nodes} {topology:?}: {sent} bytes for {missing}");
        assert!(sent > missing, "{topology:?}: it cannot be less");
        assert!(
            sent <= FACTOR * missing,
            "{topology:?}: {sent} > {FACTOR} * {missing}"
        );
    }
}

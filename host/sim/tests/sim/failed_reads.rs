//! A disk that fails one read in a session, on a node where nobody writes.

use lattice_kernel::run::engine::Role;
use lattice_sim::{Act, Code, Fails, NodeId, Settings, Step, Topology, World};
use lattice_testing::{Step as Model, program};

/// Entries that one node lacks; with what runs in them, more than another keeps of its log in memory.
const ENTRIES: u64 = 60;

fn apart(node: u16, ms: u64) -> Act {
    Act::Partition {
        group: [NodeId(node)].into(),
        one_way: false,
        ms,
    }
}

fn count(world: &World, node: u16) -> u64 {
    let snapshot = world.snapshot(NodeId(node));
    snapshot.map_or(0, |snapshot| snapshot.summary().count)
}

fn lines(world: &World, of: &str) -> usize {
    let lines = world.trace().lines().iter();
    lines.filter(|line| line.contains(of)).count()
}

/// A world in which one node lacked what another has, and that one failed to read it once. In the end all have it.
fn after_a_failed_read(failing: u16, lacking: u16) -> World {
    let mut world = World::new(&Settings {
        seed: 3,
        nodes: 3,
        code: Code::model(),
        topology: Topology::Full,
        keep_trace: true,
    });
    for whom in [1, 2] {
        let (by, whom, role) = (NodeId(0), NodeId(whom), Role::Writer);
        world.act(Act::Admit { by, whom, role });
    }
    world.converge(60_000).unwrap();

    // One node lacks what the others write, and will have only one of them to get it from.
    world.act(apart(lacking, 100_000));
    let run = [Model::Get {
        k: 1,
        dynamic: false,
    }; 1_000];
    let steps = (0..ENTRIES).map(|n| Step {
        at_ms: n * 1_000,
        act: Act::Call {
            by: NodeId(0),
            calls: vec![program(&run)],
        },
    });
    world.add_plan(steps.collect());
    world.run_for(90_000);
    let all = count(&world, 0);
    assert_eq!(count(&world, failing), all);
    assert_eq!(count(&world, lacking), all - ENTRIES);
    world.act(apart(0, 600_000));
    world.act(Act::BreakDisk {
        node: NodeId(failing),
        fails: Fails::Reads,
        after: 0,
    });

    world.run_for(120_000);
    assert_eq!(lines(&world, "the log cannot be read"), 1);
    assert_eq!(count(&world, failing), all);
    assert_eq!(count(&world, lacking), all, "it got what it lacked");
    world.finish().unwrap();
    world
}

#[test]
fn a_node_whose_session_fails_a_read_goes_on_although_nobody_writes() {
    // A node with an odd number has one segment, which it writes: redb refuses it after an error.
    let world = after_a_failed_read(1, 2);
    assert_eq!(lines(&world, "n1 fails: a read failed"), 1);
    assert_eq!(lines(&world, "fails:"), 1, "nothing else has failed");
}

#[test]
fn a_node_whose_session_fails_a_read_of_a_closed_segment_opens_that_alone_anew() {
    // A node with an even number has small segments. What is not in memory is in earlier ones than the last.
    let world = after_a_failed_read(2, 1);
    assert_eq!(lines(&world, "n2 hears of a read that failed"), 1);
    assert_eq!(lines(&world, "fails:"), 0, "the store goes on");
}

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

#[test]
fn a_node_whose_session_fails_a_read_goes_on_although_nobody_writes() {
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

    // The last node lacks what the others write, and will have only one of them to get it from.
    world.act(apart(2, 100_000));
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
    assert_eq!(count(&world, 1), all);
    assert_eq!(count(&world, 2), all - ENTRIES);
    world.act(apart(0, 600_000));
    world.act(Act::BreakDisk {
        node: NodeId(1),
        fails: Fails::Reads,
        after: 0,
    });

    world.run_for(120_000);
    assert_eq!(lines(&world, "the log cannot be read"), 1);
    assert_eq!(lines(&world, "n1 fails: a read failed"), 1);
    assert_eq!(lines(&world, "fails:"), 1, "nothing else has failed");
    assert_eq!(count(&world, 1), all);
    assert_eq!(count(&world, 2), all, "it got what it lacked");
    world.finish().unwrap();
}

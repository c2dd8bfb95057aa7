//! Changes of membership that take more than one store or more than one call: children, invites and claims.

use lattice_kernel::Notice;
use lattice_kernel::run::engine::{Answer, MemberStatus, Question, Role};
use lattice_sim::{Act, Code, Keep, NodeId, Settings, Topology, World};
use lattice_testing::{Step as Model, program};

use crate::components::component;

fn world(code: Code, nodes: u16) -> World {
    World::new(&Settings {
        seed: 5,
        nodes,
        code,
        topology: Topology::Full,
        keep_trace: false,
    })
}

fn admit(whom: u16, role: Role) -> Act {
    let (by, whom) = (NodeId(0), NodeId(whom));
    Act::Admit { by, whom, role }
}

/// The place of each active member in the order of ranks, and its role, as a node sees them.
fn members(world: &World, by: u16) -> Vec<(u16, Role)> {
    let snapshot = world.snapshot(NodeId(by)).unwrap();
    let all = Question::Members {
        after: None,
        limit: 100,
    };
    let Ok(Answer::Members(members)) = snapshot.ask(&all) else {
        panic!("no members");
    };
    let active = members
        .into_iter()
        .filter(|m| m.status == MemberStatus::Active);
    let number = |device| (0..world.node_count()).find(|n| world.device(NodeId(*n)) == device);
    active
        .map(|m| (number(m.device).unwrap(), m.role))
        .collect()
}

/// A child made by the second admin of four members, of whom one is revoked.
fn family(code: Code) -> World {
    let mut world = world(code, 4);
    for (whom, role) in [(1, Role::Admin), (2, Role::Writer), (3, Role::Writer)] {
        world.act(admit(whom, role));
    }
    world.converge(60_000).unwrap();
    world.act(Act::Revoke {
        by: NodeId(0),
        whom: NodeId(3),
        keep: Keep::Nothing,
    });
    world.converge(60_000).unwrap();
    world.act(Act::Child { by: NodeId(1) });
    world.converge(60_000).unwrap();
    world
}

#[test]
fn a_child_has_the_members_of_its_parent_and_promotes_nobody() {
    for code in [Code::model(), component("counter")] {
        let mut world = family(code);
        let expected = [(0, Role::Admin), (1, Role::Admin), (2, Role::Writer)];
        for node in 0..3 {
            assert_eq!(members(world.child().unwrap(), node), expected);
        }
        let child = world.child().unwrap();
        let parent = world.snapshot(NodeId(2)).unwrap();
        let all = Question::Children {
            after: None,
            limit: 100,
        };
        let Ok(Answer::Children(children)) = parent.ask(&all) else {
            panic!("no children");
        };
        let id = child.snapshot(NodeId(2)).unwrap().store_id();
        assert_eq!(children.iter().map(|c| c.store).collect::<Vec<_>>(), [id]);
        let of = child.snapshot(NodeId(0)).unwrap().genesis().parent;
        assert_eq!(of, Some(parent.store_id()));

        // Its creator ranks below the founder of the parent, there as here.
        let revoke = |by: u16, whom: u16| Act::Revoke {
            by: NodeId(by),
            whom: NodeId(whom),
            keep: Keep::Nothing,
        };
        world.act(Act::InChild(Box::new(revoke(1, 0))));
        world.converge(60_000).unwrap();
        assert_eq!(members(world.child().unwrap(), 0), expected);
        world.act(Act::InChild(Box::new(revoke(0, 1))));
        world.converge(60_000).unwrap();
        assert_eq!(
            members(world.child().unwrap(), 0),
            [expected[0], expected[2]]
        );
        // What happens in the child does not reach the parent.
        assert_eq!(members(&world, 0), expected);
    }
}

#[test]
fn only_an_admin_makes_a_child() {
    let mut world = world(Code::model(), 2);
    world.act(admit(1, Role::Writer));
    world.converge(60_000).unwrap();
    world.act(Act::Child { by: NodeId(1) });
    assert!(world.child().is_none());
    world.act(Act::Child { by: NodeId(0) });
    assert!(world.child().is_some());
}

#[test]
fn a_machine_that_fails_under_a_child_fails_under_its_parent() {
    let mut world = family(Code::model());
    let (node, after) = (NodeId(2), 0);
    world.act(Act::InChild(Box::new(Act::CutPower { node, after })));
    let call = |k| Act::Call {
        by: node,
        calls: vec![program(&[Model::Put {
            k,
            dynamic: false,
            value: 1,
        }])],
    };
    world.act(Act::InChild(Box::new(call(1))));
    world.run_for(100);
    assert_eq!(world.stats().crashes, 2);
    assert!(world.snapshot(node).is_none());
    assert!(world.child().unwrap().snapshot(node).is_none());
    world.run_for(30_000);
    world.act(call(2));
    world.act(Act::InChild(Box::new(call(3))));
    world.finish().unwrap();
    let written = |world: &World| world.snapshot(node).unwrap().tips().unwrap();
    let own = world.device(node);
    assert!(written(&world).iter().any(|tip| tip.author == own));
    assert!(
        written(world.child().unwrap())
            .iter()
            .any(|tip| tip.author == own)
    );
}

#[test]
fn of_two_that_claim_one_use_of_an_invite_apart_one_becomes_a_member() {
    let mut world = world(component("counter"), 4);
    world.act(admit(1, Role::Writer));
    world.converge(60_000).unwrap();
    world.act(Act::Invite {
        by: NodeId(0),
        role: Role::Writer,
        uses: 1,
        lasts_ms: 3_600_000,
    });
    world.converge(60_000).unwrap();
    world.act(Act::Partition {
        group: [NodeId(1), NodeId(3)].into(),
        one_way: false,
        ms: 20_000,
    });
    for (whom, via) in [(2, 0), (3, 1)] {
        let (whom, via) = (NodeId(whom), NodeId(via));
        world.act(Act::Claim { whom, via });
    }
    world.run_for(10_000);
    let [here, there] =
        [2, 3].map(|whom| [(0, Role::Admin), (1, Role::Writer), (whom, Role::Writer)]);
    assert_eq!(members(&world, 0), here);
    assert_eq!(members(&world, 1), there);
    world.finish().unwrap();
    let stands = members(&world, 0);
    assert!(stands == here || stands == there, "{stands:?}");
    assert_eq!(members(&world, 1), stands);
    // Who brought the other one is told that its call came to something else.
    let lost = NodeId(u16::from(stands == here));
    let notices = world.notices(lost);
    let changed = |n: &Notice| matches!(n, Notice::OutcomeChanged { .. });
    assert!(notices.iter().any(changed), "{notices:?}");
}

#[test]
fn an_invite_that_is_over_admits_nobody() {
    let mut world = world(component("counter"), 3);
    world.act(Act::Invite {
        by: NodeId(0),
        role: Role::Writer,
        uses: 2,
        lasts_ms: 5_000,
    });
    world.run_for(1_000);
    let claim = |whom: u16| Act::Claim {
        whom: NodeId(whom),
        via: NodeId(0),
    };
    world.act(claim(1));
    world.run_for(6_000);
    world.act(claim(2));
    world.finish().unwrap();
    assert_eq!(members(&world, 0), [(0, Role::Admin), (1, Role::Writer)]);
}

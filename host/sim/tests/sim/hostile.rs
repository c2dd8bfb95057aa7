//! Hostile hours: some members attack with all that they can sign, and the others are equal in the end.
//!
//! A handful of small hours are run here, and more of them by `lattice sim hostile`.

use lattice_kernel::run::engine::Role;
use lattice_sim::{
    Act, Attack, Case, Code, Hour, NodeId, Settings, Shape, Topology, Violation, World,
};
use lattice_testing::mutants::{self, Mutant};

use crate::components::component;

/// Small hours of each kind that are run.
const SEEDS: u64 = 2;
/// Small hours within which each mutant must be found.
const MUTANT_SEEDS: u64 = 60;

/// An hour of which CI can run some.
pub(crate) fn small(hour: Hour) -> Shape {
    Shape {
        nodes: 8,
        steps: 60,
        ..Shape::hostile(hour)
    }
}

fn hold(hour: Hour, code: &Code) {
    for seed in 0..SEEDS {
        let case = Case::new(seed, small(hour), code);
        let failed = case.run(false).result.err();
        assert_eq!(failed, None, "lattice sim {}", case.command());
    }
}

/// Holds: invariant 9.
#[test]
fn honest_members_come_out_the_same_whatever_hostile_ones_sign() {
    hold(Hour::Attacks, &Code::model());
}

/// Holds: invariant 9.
#[test]
fn honest_members_come_out_the_same_whatever_clocks_show() {
    hold(Hour::Clocks, &Code::model());
}

/// Holds: invariant 9.
#[test]
fn bank_accounts_come_out_the_same_whatever_hostile_members_sign() {
    hold(Hour::Attacks, &component("bank"));
}

fn is_caught(hour: Hour, mutant: Mutant) {
    let case = |seed| Case::new(seed, small(hour), &Code::model());
    let found = mutants::with(mutant, || {
        (0..MUTANT_SEEDS).find_map(|seed| Some((seed, case(seed).run(false).result.err()?)))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{mutant:?} was not found"));
    eprintln!("{mutant:?}: seed {seed}, {violation}");
    assert_eq!(
        case(seed).run(false).result.err(),
        None,
        "it was not the mutant"
    );
}

/// Holds: invariant 9.
#[test]
fn an_intention_without_a_budget_is_caught() {
    is_caught(Hour::Attacks, Mutant::IntentionUnbounded);
}

/// Holds: invariant 12.
#[test]
fn a_quota_of_readers_that_is_ignored_is_caught() {
    is_caught(Hour::Attacks, Mutant::ReaderQuotaIgnored);
}

/// Holds: invariant 12.
#[test]
fn heads_that_are_not_gathered_before_a_revocation_are_caught() {
    is_caught(Hour::Attacks, Mutant::HeadsNotGathered);
}

/// Holds: invariant 12.
#[test]
fn cuts_that_are_forgotten_because_governance_traps_are_caught() {
    is_caught(Hour::Attacks, Mutant::TrappedCutsForgotten);
}

/// Holds: invariant 12.
#[test]
fn a_kept_past_that_is_void_all_the_same_is_caught() {
    is_caught(Hour::Attacks, Mutant::SeenNotKept);
}

/// Floods of a reader, many times what is kept of it, in a world of three.
fn flooded() -> Option<Violation> {
    let mut world = World::new(&Settings {
        seed: 1,
        nodes: 3,
        code: Code::model(),
        topology: Topology::Full,
        keep_trace: false,
    });
    let (by, whom) = (NodeId(0), NodeId(2));
    for (whom, role) in [(NodeId(1), Role::Writer), (whom, Role::Reader)] {
        world.act(Act::Admit { by, whom, role });
    }
    world.converge(120_000).unwrap();
    world.act(Act::Turn { node: whom });
    for _ in 0..8 {
        world.act(Act::Attack {
            by: whom,
            with: whom,
            attack: Attack::Flood { body_bytes: 40_000 },
            count: 24,
        });
        world.run_for(10_000);
    }
    world.finish().err()
}

/// Holds: invariant 9.
#[test]
fn a_flood_takes_little_room_on_honest_nodes_and_one_that_is_kept_is_caught() {
    assert_eq!(flooded(), None);
    let caught = mutants::with(Mutant::VoidEntriesKept, flooded).unwrap();
    assert!(caught.text.contains("void entries"), "{caught}");
}

/// Holds: invariant 9.
#[test]
fn a_clock_that_follows_others_by_any_difference_is_caught() {
    is_caught(Hour::Clocks, Mutant::CorrectionUnbounded);
}

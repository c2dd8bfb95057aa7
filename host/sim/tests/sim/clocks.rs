//! A world of clocks: everybody's clock is wrong and jumps, some by years, and honest members are equal in the end.

use lattice_sim::{Act, Code, NodeId, Plan, Settings, Shape, Step, Topology, World};
use lattice_testing::Dice;

/// Runs with these seeds are made.
const SEEDS: u64 = 12;

/// A plan in which clocks jump all the time, among calls, crashes and naps.
fn plan(seed: u64, code: &Code) -> Plan {
    let shape = Shape {
        nodes: 5,
        steps: 40,
        liars: false,
        hour: None,
    };
    let mut plan = Plan::random(seed, shape, code);
    plan.topology = Topology::Full;
    let last_ms = plan.steps.last().map_or(0, |step| step.at_ms);
    let mut dice = Dice(seed ^ 0x51_7e11);
    const YEAR_MS: i64 = 365 * 86_400_000;
    for _ in 0..20 {
        let node = NodeId(dice.below(u64::from(plan.nodes)) as u16);
        let ms = match dice.below(6) {
            0 => 5 * YEAR_MS,
            1 => -5 * YEAR_MS,
            2 => 3 * 60_000,
            3 => -3 * 60_000,
            _ => dice.below(60_001) as i64 - 30_000,
        };
        let at_ms = 2_000 + dice.below(last_ms + 1);
        plan.steps.push(Step {
            at_ms,
            act: Act::Skew { node, ms },
        });
    }
    plan.steps.sort_by_key(|step| step.at_ms);
    plan
}

/// Holds: invariant 5.
#[test]
fn honest_members_converge_whatever_their_clocks_showed() {
    let code = Code::model();
    for seed in 0..SEEDS {
        let plan = plan(seed, &code);
        let mut world = World::new(&Settings {
            seed,
            nodes: plan.nodes,
            code: code.clone(),
            topology: plan.topology,
            keep_trace: false,
        });
        let span_ms = plan.steps.last().map_or(0, |step| step.at_ms);
        world.add_plan(plan.steps);
        world.run_for(span_ms + 1);
        assert_eq!(world.finish().err(), None, "seed {seed}");
    }
}

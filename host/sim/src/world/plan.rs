//! What is done to a world: calls, changes of membership and faults, each at its time.
//!
//! A plan is a list, so that a failing run is made smaller by leaving steps out. Everything else that chance
//! decides comes from the seed, not from the steps.

use lattice_kernel::run::engine::Role;
use lattice_testing::Dice;

use crate::world::act::{Act, Fails, Keep, Step};
use crate::world::code::Code;
use crate::world::hostile;
use crate::world::node::NodeId;
use crate::world::{Topology, Weather};

/// How large and how rough the runs of a swarm are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes, at most.
    pub nodes: u16,
    /// Steps, at most.
    pub steps: u64,
    /// Whether nodes lie.
    pub liars: bool,
    /// A hostile hour instead of a swarm's run. Then `nodes` is how many members there are, and `steps` how many steps.
    pub hour: Option<Hour>,
}

/// What is done in a hostile hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hour {
    /// Members attack with all that they can sign.
    Attacks,
    /// Clocks are wrong and jump, and members attack now and then.
    Clocks,
}

impl Shape {
    /// The shape of a hostile hour.
    pub fn hostile(hour: Hour) -> Self {
        Self {
            nodes: 20,
            steps: 120,
            liars: true,
            hour: Some(hour),
        }
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            nodes: 5,
            steps: 60,
            liars: true,
            hour: None,
        }
    }
}

/// A whole run: how many nodes, how they are connected, and what is done to them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes there are.
    pub nodes: u16,
    /// How they are connected.
    pub topology: Topology,
    /// What is done, by time.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan that a seed stands for.
    pub fn random(seed: u64, shape: Shape, code: &Code) -> Self {
        if let Some(hour) = shape.hour {
            return hostile::plan(seed, shape, hour, code);
        }
        // Another stream of numbers than that of the world.
        let mut dice = Dice(seed ^ 0x5851_f42d_4c95_7f2d);
        let nodes = 2 + dice.below(u64::from(shape.nodes.max(2)) - 1) as u16;
        let topology = match dice.below(5) {
            0 => Topology::Star,
            1 => Topology::Ring,
            2 => Topology::Random(1),
            _ => Topology::Full,
        };
        let mut steps = Vec::new();
        // Everybody becomes a member at some time early on.
        for whom in 1..nodes {
            let role = [Role::Admin, Role::Writer, Role::Writer][dice.below(3) as usize];
            steps.push(Step {
                at_ms: dice.below(2_000),
                act: Act::Admit {
                    by: NodeId(0),
                    whom: NodeId(whom),
                    role,
                },
            });
        }
        let count = shape.steps / 2 + dice.below(shape.steps / 2 + 1);
        // Dense runs make conflicts, long ones timeouts.
        let span_ms = [5_000, 30_000, 120_000][dice.below(3) as usize];
        let rough = dice.below(4);
        let mut at_ms = 2_000 + dice.below(3_000);
        for _ in 0..count {
            at_ms += dice.below(2 * span_ms / count.max(1) + 1);
            if dice.below(3) == 0 {
                burst(&mut dice, nodes, code, at_ms, &mut steps);
            }
            let act = act(&mut dice, nodes, rough, shape, code);
            steps.push(Step { at_ms, act });
        }
        steps.sort_by_key(|step| step.at_ms);
        // Another stream again: seeds that failed before this was here go on doing what they did.
        let mut dice = Dice(seed ^ 0x1405_7b7e_f767_814f);
        if dice.below(3) == 0 {
            add_child(&mut dice, &mut steps);
        }
        if code.has_invites() && dice.below(2) == 0 {
            add_claims(&mut dice, nodes, &mut steps);
        }
        let mut dice = Dice(seed ^ 0x2b7e_1516_28ae_d2a6);
        add_failing_reads(&mut dice, nodes, &mut steps);
        Self {
            nodes,
            topology,
            steps,
        }
    }
}

/// From some time on there is a child, and half of what concerns a store, and not the machines, concerns it.
fn add_child(dice: &mut Dice, steps: &mut Vec<Step>) {
    let last_ms = steps.last().map_or(0, |step| step.at_ms);
    let at_ms = 2_000 + dice.below(last_ms / 2 + 1);
    let lies = |n: NodeId| {
        let lie = |step: &Step| matches!(step.act, Act::Lie { node } if node == n);
        steps.iter().any(lie)
    };
    // Who alone has the child must not lie, or nobody gets it.
    let admin = steps.iter().find_map(|step| match step.act {
        Act::Admit { whom, role, .. } if role == Role::Admin && !lies(whom) => Some(whom),
        _ => None,
    });
    let by = admin.filter(|_| dice.below(2) == 0).unwrap_or(NodeId(0));
    for step in steps.iter_mut().filter(|step| step.at_ms >= at_ms) {
        if step.act.is_of_a_store() && dice.below(2) == 0 {
            let act = std::mem::replace(&mut step.act, Act::Child { by });
            step.act = Act::InChild(Box::new(act));
        }
    }
    let act = Act::Child { by };
    steps.push(Step { at_ms, act });
}

/// Instead of being admitted by the founder, somebody claims an invite, perhaps of several members at a time, and
/// perhaps it is not the only one that does.
fn add_claims(dice: &mut Dice, nodes: u16, steps: &mut Vec<Step>) {
    let whom = NodeId(1 + dice.below(u64::from(nodes) - 1) as u16);
    let first = |step: &&mut Step| matches!(step.act, Act::Admit { whom: w, .. } if w == whom);
    let Some(step) = steps.iter_mut().find(first) else {
        return;
    };
    step.act = Act::Invite {
        by: NodeId(0),
        role: [Role::Admin, Role::Writer, Role::Reader][dice.below(3) as usize],
        uses: 1 + dice.below(2) as u32,
        lasts_ms: [10_000, 60_000, 3_600_000][dice.below(3) as usize],
    };
    let from_ms = step.at_ms + 1_000;
    for _ in 0..2 + dice.below(3) {
        let whom = match dice.below(3) {
            0 => NodeId(1 + dice.below(u64::from(nodes) - 1) as u16),
            _ => whom,
        };
        let via = NodeId(dice.below(u64::from(nodes)) as u16);
        let within_ms = [500, 20_000][dice.below(2) as usize];
        let at_ms = from_ms + dice.below(within_ms);
        let act = Act::Claim { whom, via };
        steps.push(Step { at_ms, act });
    }
}

/// Reads that succeed before one fails, at most.
const READS: u64 = 40;

/// Of disks that return errors, some do so when they are read; and where none does, perhaps one.
fn add_failing_reads(dice: &mut Dice, nodes: u16, steps: &mut Vec<Step>) {
    let after = |dice: &mut Dice| match dice.below(2) {
        0 => 0,
        _ => dice.below(READS),
    };
    let mut none = true;
    for step in steps.iter_mut() {
        let act = match &mut step.act {
            Act::InChild(act) => &mut **act,
            act => act,
        };
        if let Act::BreakDisk { node, .. } = *act {
            none = false;
            if dice.below(2) == 0 {
                let (fails, after) = (Fails::Reads, after(dice));
                *act = Act::BreakDisk { node, fails, after };
            }
        }
    }
    if none && dice.below(4) == 0 {
        let last_ms = steps.last().map_or(0, |step| step.at_ms);
        steps.push(Step {
            at_ms: dice.below(last_ms + 1),
            act: Act::BreakDisk {
                node: NodeId(dice.below(u64::from(nodes)) as u16),
                fails: Fails::Reads,
                after: after(dice),
            },
        });
    }
}

/// Many call at the same time: calls that wait share an intention, and entries have the same time.
fn burst(dice: &mut Dice, nodes: u16, code: &Code, at_ms: u64, steps: &mut Vec<Step>) {
    for by in 0..nodes {
        let count = dice.below(5);
        for _ in 0..count {
            let by = NodeId(by);
            let calls = vec![code.random(dice)];
            let act = Act::Call { by, calls };
            steps.push(Step { at_ms, act });
        }
    }
}

/// How far a clock is wrong, by a roll below 180,001: mostly by less than a minute and a half, at times by more than
/// anybody corrects.
fn skew_ms(roll: u64) -> i64 {
    const YEAR_MS: i64 = 365 * 86_400_000;
    match roll % 16 {
        0 => 180_000,
        1 => -180_000,
        2 => 5 * YEAR_MS,
        3 => -5 * YEAR_MS,
        _ => roll as i64 - 90_000,
    }
}

fn act(dice: &mut Dice, nodes: u16, rough: u64, shape: Shape, code: &Code) -> Act {
    let node = NodeId(dice.below(u64::from(nodes)) as u16);
    let other = NodeId(dice.below(u64::from(nodes)) as u16);
    // The founder stays, so that there is somebody to compare with.
    let not_first = NodeId(1 + dice.below(u64::from(nodes) - 1) as u16);
    let ms = 100 + dice.below(20_000);
    let calls = |dice: &mut Dice| {
        let count = if dice.below(4) == 0 { 2 } else { 1 };
        (0..count).map(|_| code.random(dice)).collect()
    };
    match dice.below(100 + rough * 40) {
        0..70 => Act::Call {
            by: node,
            calls: calls(dice),
        },
        70..76 => Act::Admit {
            by: node,
            whom: not_first,
            role: [Role::Admin, Role::Writer, Role::Reader][dice.below(3) as usize],
        },
        76..80 => Act::Revoke {
            by: node,
            whom: not_first,
            keep: [Keep::Nothing, Keep::Seen][dice.below(2) as usize],
        },
        80 => Act::Resign { by: not_first },
        81..92 => Act::Judge { node },
        92 => Act::Rebuild { node },
        93..95 => Act::Backup { node: not_first },
        95..100 if shape.liars => Act::Forge {
            to: node,
            by: not_first,
            kind: dice.below(12).min(8),
        },
        value => match value % 13 {
            0 | 1 => Act::Crash {
                node,
                after: dice.below(40),
            },
            2 | 3 => Act::CutPower {
                node,
                after: dice.below(60),
            },
            4 => Act::BreakDisk {
                node,
                fails: Fails::Writes,
                after: dice.below(60),
            },
            5 => Act::Fill { node, ms },
            6 => Act::Slow {
                node,
                disk_ms: 1 + dice.below(400),
                ms,
            },
            7 => Act::Sleep {
                node,
                ms: if dice.below(8) == 0 {
                    8 * 3_600_000
                } else {
                    ms
                },
            },
            8 => Act::Skew {
                node,
                ms: skew_ms(dice.below(180_001)),
            },
            9 => Act::Move { node },
            10 => Act::Storm {
                weather: Weather {
                    latency_ms: dice.below(400),
                    jitter_ms: dice.below(1_000),
                    loss_per_mille: dice.below(300),
                    bytes_per_ms: 1 + dice.below(1_000),
                },
                ms,
            },
            11 if shape.liars && dice.below(2) == 0 => Act::Lie { node: not_first },
            11 => Act::Restore { node: not_first },
            _ => Act::Partition {
                group: [node, other].into(),
                one_way: dice.below(3) == 0,
                ms,
            },
        },
    }
}

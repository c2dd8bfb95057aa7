//! The plan of a hostile hour: some members attack with all that they can sign, or all clocks are wrong.
//!
//! Of every four members one is hostile, whatever its role. A stranger dials everybody besides. Counts of entries are
//! small, so that a run is cheap: what has a bound is shown to have it where entries are large.

use lattice_kernel::run::engine::Role;
use lattice_testing::Dice;

use crate::world::act::{Act, Keep, Step};
use crate::world::attack::Attack;
use crate::world::code::Code;
use crate::world::node::NodeId;
use crate::world::plan::{Hour, Plan, Shape};
use crate::world::{Topology, Weather};

/// How long a hostile hour lasts, in milliseconds.
const HOUR_MS: u64 = 3_600_000;
/// Of so many members one is hostile.
const HOSTILE_SHARE: u16 = 4;
/// What an admin or writer may write in a hostile hour, in bytes.
const QUOTA_BYTES: u64 = 256 * 1024;
/// The bytes of one flood, about.
const FLOOD_BYTES: u32 = 384 * 1024;
const DAY_MS: i64 = 86_400_000;

/// Who is who in a hostile hour.
struct Cast {
    members: u16,
    hostile: u16,
}

impl Cast {
    fn member(&self, dice: &mut Dice) -> NodeId {
        NodeId(dice.below(u64::from(self.members)) as u16)
    }

    fn honest(&self, dice: &mut Dice) -> NodeId {
        NodeId(dice.below(u64::from(self.members - self.hostile)) as u16)
    }

    fn hostile(&self, dice: &mut Dice) -> NodeId {
        let first = self.members - self.hostile;
        NodeId(first + dice.below(u64::from(self.hostile)) as u16)
    }

    fn stranger(&self) -> NodeId {
        NodeId(self.members)
    }
}

/// The plan that a seed stands for.
pub(crate) fn plan(seed: u64, shape: Shape, hour: Hour, code: &Code) -> Plan {
    let mut dice = Dice(seed ^ 0x3c6e_f372_fe94_f82b);
    let cast = Cast {
        members: shape.nodes,
        hostile: shape.nodes / HOSTILE_SHARE,
    };
    let mut steps = Vec::new();
    let mut at = |at_ms, act| steps.push(Step { at_ms, act });
    at(
        0,
        Act::Estrange {
            node: cast.stranger(),
        },
    );
    for whom in (1..cast.members).map(NodeId) {
        let role = match dice.below(6) {
            0 => Role::Reader,
            1 => Role::Admin,
            _ => Role::Writer,
        };
        let by = NodeId(0);
        at(dice.below(20_000), Act::Admit { by, whom, role });
    }
    let (by, bytes) = (NodeId(0), QUOTA_BYTES);
    at(1_000, Act::Bound { by, bytes });
    for node in (cast.members - cast.hostile..cast.members).map(NodeId) {
        at(1_000, Act::Turn { node });
        if dice.below(8) == 0 {
            at(60_000, Act::Lie { node });
        }
        if hour == Hour::Clocks && dice.below(2) == 0 {
            let ms = skew_ms(&mut dice);
            at(2_000, Act::Skew { node, ms });
        }
    }
    for _ in 0..shape.steps {
        let at_ms = 30_000 + dice.below(HOUR_MS - 30_000);
        step(&mut dice, &cast, hour, code, at_ms, &mut steps);
    }
    steps.sort_by_key(|step| step.at_ms);
    Plan {
        nodes: cast.members + 1,
        topology: Topology::Random(1),
        steps,
    }
}

fn step(dice: &mut Dice, cast: &Cast, hour: Hour, code: &Code, at_ms: u64, steps: &mut Vec<Step>) {
    let mut at = |at_ms, act| steps.push(Step { at_ms, act });
    match dice.below(100) {
        0..46 => {
            let by = cast.honest(dice);
            for _ in 0..1 + dice.below(3) {
                let calls = vec![code.random(dice)];
                at(at_ms, Act::Call { by, calls });
            }
        }
        46..72 if hour == Hour::Attacks || dice.below(3) == 0 => {
            let act = attack(dice, cast);
            let is_wide = matches!(
                act,
                Act::Attack {
                    attack: Attack::Chains,
                    ..
                }
            );
            at(at_ms, act);
            // What its author has seen then, it has not named all.
            if is_wide && dice.below(2) == 0 {
                let (by, whom) = (NodeId(0), cast.member(dice));
                let keep = Keep::Seen;
                at(
                    at_ms + 100 + dice.below(2_000),
                    Act::Revoke { by, whom, keep },
                );
            }
        }
        46..72 => {
            let (node, ms) = (cast.member(dice), skew_ms(dice));
            at(at_ms, Act::Skew { node, ms });
        }
        72..86 => at(at_ms, governs(dice, cast)),
        86 => {
            let (whom, via) = (cast.stranger(), cast.honest(dice));
            at(at_ms, Act::FalseClaim { whom, via });
        }
        87 => at(
            at_ms,
            Act::Judge {
                node: cast.honest(dice),
            },
        ),
        _ => at(at_ms, fault(dice, cast)),
    }
}

/// A change of membership: by the founder mostly against the hostile, and by these against anybody.
fn governs(dice: &mut Dice, cast: &Cast) -> Act {
    let keep = [Keep::Seen, Keep::Seen, Keep::Nothing][dice.below(3) as usize];
    let role = [Role::Admin, Role::Writer, Role::Reader][dice.below(3) as usize];
    let by = match dice.below(3) {
        0 => cast.honest(dice),
        1 => NodeId(0),
        _ => cast.hostile(dice),
    };
    let whom = match dice.below(4) {
        0 => cast.member(dice),
        _ => cast.hostile(dice),
    };
    match dice.below(12) {
        0..4 => Act::Revoke { by, whom, keep },
        4..8 => Act::Admit { by, whom, role },
        8 => Act::Resign {
            by: cast.hostile(dice),
        },
        9 | 10 => Act::Invite {
            by,
            role,
            uses: 1 + dice.below(3) as u32,
            lasts_ms: 1_000 << dice.below(12),
        },
        // Of an invite that was used, perhaps, or by who is a member.
        _ => Act::Claim {
            whom: cast.hostile(dice),
            via: cast.member(dice),
        },
    }
}

fn attack(dice: &mut Dice, cast: &Cast) -> Act {
    let body_bytes = [64, 2_048, 40_000][dice.below(3) as usize];
    let few = 4 + dice.below(28) as u32;
    let floods = (FLOOD_BYTES / body_bytes).min(48);
    let (attack, count) = match dice.below(20) {
        0..4 => (Attack::Flood { body_bytes }, floods),
        4 | 5 => (Attack::Chains, 2 * few),
        6 => (Attack::Forks, few),
        7 | 8 => (Attack::Earlier, few),
        9 | 10 => {
            let ms = [0, 50_000, 600_000, 86_400_000][dice.below(4) as usize];
            (Attack::Ahead { ms }, few)
        }
        11 => (Attack::Floating, few),
        12 => (Attack::Headers, few),
        13 => (Attack::Unpayable, 4 + dice.below(200) as u32),
        14 => (Attack::Alternate, few),
        15 => match dice.below(3) {
            0 => (Attack::Admissions, few),
            1 => (Attack::Invites, 4 * few),
            _ => (Attack::Claims, 4),
        },
        16 => (Attack::Replay, 4 * few),
        17 => (Attack::Kept, 8 * few),
        18 => (Attack::Usurp, 4),
        _ => (Attack::TrapAtCuts, 4),
    };
    Act::Attack {
        by: cast.hostile(dice),
        with: cast.hostile(dice),
        attack,
        count,
    }
}

/// How far a clock is wrong: by what is corrected, by minutes, by days or by years.
fn skew_ms(dice: &mut Dice) -> i64 {
    let ms = match dice.below(8) {
        0 => 365 * DAY_MS * (1 + dice.below(6) as i64),
        1 => DAY_MS * (1 + dice.below(5) as i64),
        2 => 180_000,
        3 => 0,
        _ => dice.below(50_000) as i64,
    };
    match dice.below(2) {
        0 => -ms,
        _ => ms,
    }
}

fn fault(dice: &mut Dice, cast: &Cast) -> Act {
    let node = cast.member(dice);
    let ms = 1_000 + dice.below(120_000);
    match dice.below(8) {
        0 => Act::Crash {
            node,
            after: dice.below(40),
        },
        1 => Act::CutPower {
            node,
            after: dice.below(60),
        },
        2 => Act::Sleep { node, ms },
        3 => Act::Slow {
            node,
            disk_ms: 1 + dice.below(200),
            ms,
        },
        4 => Act::Move { node },
        5 => Act::Storm {
            weather: Weather {
                latency_ms: dice.below(400),
                jitter_ms: dice.below(1_000),
                loss_per_mille: dice.below(200),
                bytes_per_ms: 100 + dice.below(1_000),
            },
            ms,
        },
        6 => Act::Rebuild { node },
        _ => Act::Partition {
            group: (0..5).map(|_| cast.member(dice)).collect(),
            one_way: dice.below(3) == 0,
            ms,
        },
    }
}

//! One seed as a run, and a failing run made as small as it gets.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::limits::SHRINK_RUNS_MAX;
use crate::world::act::Step;
use crate::world::code::Code;
use crate::world::node::NodeId;
use crate::world::plan::{Hour, Plan, Shape};
use crate::world::{Settings, Violation, World};

/// A run that a seed stands for, perhaps with less of what it does.
#[derive(Clone, Debug)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// How large and rough it is.
    pub shape: Shape,
    /// What the store runs.
    pub code: Code,
    /// Fewer nodes than the plan has; steps that name others are left out.
    pub nodes: Option<u16>,
    /// The steps that are done, by their number in the plan; all if `None`.
    pub keep: Option<BTreeSet<usize>>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Finished {
    /// The world as it was at the end; `None` when the run panicked.
    pub world: Option<World>,
    /// The virtual time that it took to become equal after the last fault, in milliseconds, or what was wrong.
    pub result: Result<u64, Violation>,
    /// The steps that were done, with their numbers.
    pub steps: Vec<(usize, Step)>,
}

impl Case {
    /// The whole run of a seed.
    pub fn new(seed: u64, shape: Shape, code: &Code) -> Self {
        Self {
            seed,
            shape,
            code: code.clone(),
            nodes: None,
            keep: None,
        }
    }

    /// Runs it.
    pub fn run(&self, keep_trace: bool) -> Finished {
        let plan = Plan::random(self.seed, self.shape, &self.code);
        let nodes = self.nodes.unwrap_or(plan.nodes).min(plan.nodes);
        let exists = |node: &NodeId| node.0 < nodes;
        let steps: Vec<(usize, Step)> = (0..)
            .zip(plan.steps)
            .filter(|(number, _)| self.keep.as_ref().is_none_or(|keep| keep.contains(number)))
            .filter(|(_, step)| step.act.nodes().iter().all(exists))
            .collect();
        let settings = Settings {
            seed: self.seed,
            nodes,
            code: match self.shape.hour {
                Some(_) => self.code.with_little_fuel(),
                None => self.code.clone(),
            },
            topology: plan.topology,
            keep_trace,
        };
        let span_ms = steps.iter().map(|(_, step)| step.at_ms).max().unwrap_or(0);
        let todo = steps.iter().map(|(_, step)| step.clone()).collect();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(&settings);
            world.add_plan(todo);
            world.run_for(span_ms + 1);
            let result = world.finish();
            (world, result)
        }));
        match ran {
            Ok((world, result)) => Finished {
                world: Some(world),
                result,
                steps,
            },
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                let text = format!("it panicked: {}", text.unwrap_or_default());
                Finished {
                    world: None,
                    result: Err(Violation { at_ms: 0, text }),
                    steps,
                }
            }
        }
    }

    /// Leaves out nodes and steps as long as the run still fails in the same way. Gives the case back as it was
    /// if it does not fail.
    pub fn shrink(&self) -> Self {
        let first = self.run(false);
        let Err(violation) = &first.result else {
            return self.clone();
        };
        let kind = kind(violation);
        let mut runs = 0;
        let mut fails = |case: &Self| {
            runs += 1;
            runs <= SHRINK_RUNS_MAX
                && case
                    .run(false)
                    .result
                    .is_err_and(|v| self::kind(&v) == kind)
        };
        let mut best = self.clone();
        best.keep = Some(first.steps.iter().map(|(number, _)| *number).collect());
        let plan = Plan::random(self.seed, self.shape, &self.code);
        for nodes in 1..plan.nodes {
            let fewer = Self {
                nodes: Some(nodes),
                ..best.clone()
            };
            if fails(&fewer) {
                best = fewer;
                break;
            }
        }
        // Whole stretches first, single steps last, until nothing more can be left out.
        let mut stretch = best.keep.as_ref().map_or(0, BTreeSet::len) / 2;
        while stretch > 0 {
            let mut left_out = false;
            let steps: Vec<usize> = best.keep.iter().flatten().copied().collect();
            for part in steps.chunks(stretch) {
                let mut fewer = best.clone();
                if let Some(keep) = &mut fewer.keep {
                    keep.retain(|number| !part.contains(number));
                }
                if fewer.keep != best.keep && fails(&fewer) {
                    best = fewer;
                    left_out = true;
                }
            }
            if stretch > 1 || !left_out {
                stretch /= 2;
            }
        }
        best
    }

    /// The verb of `lattice sim` and its options that run this case again.
    pub fn command(&self) -> String {
        let (verb, shape) = match self.shape.hour {
            None => ("swarm", Shape::default()),
            Some(Hour::Attacks) => ("hostile", Shape::hostile(Hour::Attacks)),
            Some(Hour::Clocks) => ("hostile --clocks", Shape::hostile(Hour::Clocks)),
        };
        let mut out = format!("{verb} --seeds {}..{}", self.seed, self.seed + 1);
        // Writing to a String does not fail.
        if self.code.name() != Code::model().name() {
            let _ = write!(out, " --plugin {}", self.code.name());
        }
        if self.shape.nodes != shape.nodes {
            let _ = write!(out, " --nodes {}", self.shape.nodes);
        }
        if self.shape.steps != shape.steps {
            let _ = write!(out, " --steps {}", self.shape.steps);
        }
        if let Some(nodes) = self.nodes {
            let _ = write!(out, " --only-nodes {nodes}");
        }
        if let Some(keep) = &self.keep {
            let keep: Vec<String> = keep.iter().map(usize::to_string).collect();
            let _ = write!(out, " --only-steps {}", keep.join(","));
        }
        out
    }
}

/// What a violation says without names, times and numbers, so that two of the same kind are recognised.
fn kind(violation: &Violation) -> String {
    let words = violation.text.split_whitespace();
    let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(4).collect::<Vec<_>>().join(" ")
}

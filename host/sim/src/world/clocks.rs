//! The clocks of machines: wrong ones, ones that jump, and what the members of a store make of them.
//!
//! How a clock is judged is decided by the kernel's value. Here stands what machines hear of each other's clocks, and
//! what a person does about a clock that was wrong.

use std::sync::Arc;

use lattice_kernel::clock::{Effect, Input, Reading, Terms, Verdict};
use lattice_kernel::sync::{self, Access, Governance};
use lattice_kernel::writer::Now;
use lattice_kernel::{CallError, Store};

use crate::limits::{CLOCK_LEFT_MS, START_MS};
use crate::world::World;
use crate::world::node::{Job, NodeId, Writer};

impl World {
    /// Both clocks of a machine. The one that nobody sets goes on while the machine sleeps.
    fn reading(&self, id: NodeId) -> Reading {
        Reading {
            wall_ms: self.clock(id),
            elapsed_ms: self.now_ms,
        }
    }

    /// The time as the writer of a node has it.
    pub(crate) fn moment(&mut self, id: NodeId) -> Now {
        let reading = self.reading(id);
        let node = &mut self.nodes[id.index()];
        let store = node.writer.as_ref().and_then(Writer::store);
        let clock = match store {
            None => Verdict::alone(reading.wall_ms),
            Some(store) => {
                let members = node.members.get_or_insert_with(|| {
                    Arc::new(Governance::read(&store.snapshot()).unwrap_or_default())
                });
                let medians = node
                    .clocks
                    .medians(|peer| members.access(peer) == Access::All);
                let snapshot = store.published();
                let terms = Terms {
                    drift_ms: snapshot.genesis().drift_ms,
                    genesis_ms: snapshot.genesis_time().wall_ms,
                    trusted: false,
                };
                Verdict::of(reading, &medians, terms)
            }
        };
        Now {
            clock,
            elapsed_ms: self.now_ms,
        }
    }

    /// Takes what a node uses or hears of clocks. A step of its own clock is told to its peers at once.
    pub(crate) fn hear_clock(&mut self, id: NodeId, input: Input) {
        let now = self.reading(id);
        let node = &mut self.nodes[id.index()];
        let Some(Effect::TellPeers { by_ms }) = node.clocks.handle(input, now) else {
            return;
        };
        let streams: Vec<_> = node.streams.values().copied().collect();
        self.note(id, format_args!("sees its clock set by {by_ms} ms"));
        for (stream, side) in streams {
            self.handle(stream, side, sync::Input::Reconcile);
        }
    }

    /// A person reads why a call was not signed, and does what the error says.
    pub(crate) fn follow_remedy(&mut self, id: NodeId, error: &CallError) {
        if matches!(error, CallError::ChainAhead { .. }) {
            self.job(id, Job::RestartChain);
        }
    }

    /// Sets this device's chain aside, and keeps that for the next opening.
    pub(crate) fn restart_chain(&mut self, id: NodeId) -> Box<dyn FnOnce(&mut Store) + Send> {
        let now_ms = self.moment(id).clock.wall_ms;
        let kept = self.nodes[id.index()].aside.clone();
        Box::new(move |store| {
            // A disk that fails is noticed by the writer.
            if let Ok(Ok(aside)) = store.restart_chain(now_ms) {
                *kept.lock().expect("no holder panics") = Some(aside);
            }
        })
    }

    /// Somebody sets every clock that is wrong by minutes.
    pub(crate) fn set_clocks(&mut self) {
        for number in 0..self.node_count() {
            let id = NodeId(number);
            if self.nodes[id.index()].skew_ms.unsigned_abs() > CLOCK_LEFT_MS {
                self.skew(id, 0);
                self.note(id, format_args!("has its clock set"));
            }
        }
    }

    /// How far the latest entry of any honest member lies ahead of the true time, in milliseconds.
    pub(crate) fn ahead_ms(&self) -> u64 {
        let last_ms = self.views().filter_map(|view| {
            let snapshot = self.snapshot(view.node)?;
            Some(snapshot.summary().last_time.wall_ms)
        });
        let ahead_ms = last_ms.max().unwrap_or(0);
        let ahead_ms = ahead_ms.saturating_sub(START_MS + self.now_ms);
        let child_ms = self.child.as_ref().map_or(0, |child| child.ahead_ms());
        ahead_ms.max(child_ms)
    }
}

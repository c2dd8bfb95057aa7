//! Events by virtual time; those of the same time in the order in which they were made.

use std::collections::{BTreeMap, VecDeque};

use crate::net::gossip::GossipEvent;
use crate::net::stream::{Side, StreamId};
use crate::world::node::NodeId;

/// Something that happens at a point of virtual time. `life` counts a node's starts: what was meant for an
/// earlier one does not happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The step of the plan with that number.
    Step(usize),
    /// Bytes may have come to that side.
    Chunk { stream: StreamId, to: Side },
    /// That side learns that the stream is dead.
    Broken { stream: StreamId, side: Side },
    /// A dialer's session looks whether it is its turn to begin.
    Begin { stream: StreamId },
    /// A session's timer.
    Timer { stream: StreamId, side: Side },
    /// A session asked for its next turn.
    Again { stream: StreamId, side: Side },
    /// A session's interval is over.
    Compare { stream: StreamId, side: Side },
    /// Something of gossip happens to a node.
    Gossip {
        node: NodeId,
        life: u64,
        due: Box<GossipEvent>,
    },
    /// A dial arrives.
    Connect { from: NodeId, to: NodeId, life: u64 },
    /// The writer has its turn with that number.
    Work { node: NodeId, life: u64, turn: u64 },
    /// A second is over.
    Tick { node: NodeId, life: u64 },
    /// A machine that was down is started.
    Start { node: NodeId, life: u64 },
    /// A machine that slept wakes.
    Wake { node: NodeId, life: u64 },
    /// A fault with that number ends.
    Mend(usize),
}

/// The events to come.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// By their time; none of them is empty.
    events: BTreeMap<u64, VecDeque<Event>>,
}

impl Queue {
    /// Adds an event at a time in milliseconds since the run began.
    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.events.entry(at_ms).or_default().push_back(event);
    }

    /// The time of the next event.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.events.first_key_value().map(|(at_ms, _)| *at_ms)
    }

    /// The next event and its time, if it happens no later than `until_ms`.
    pub(crate) fn next(&mut self, until_ms: u64) -> Option<(u64, Event)> {
        let mut first = self.events.first_entry()?;
        let at_ms = *first.key();
        if at_ms > until_ms {
            return None;
        }
        let event = first.get_mut().pop_front()?;
        if first.get().is_empty() {
            first.remove();
        }
        Some((at_ms, event))
    }
}

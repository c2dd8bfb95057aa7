//! Streams between nodes, and the sessions at their ends.
//!
//! A stream is what QUIC gives: ordered bytes, or a break. Below it packets are late, lost and sent again, so a
//! loss shows as delay, and a partition as silence that each end takes for a break after a while, on its own.
//! Bytes are cut anywhere. The sessions are the kernel's, and this file only does what they say.

use std::collections::VecDeque;

use bytes::Bytes;
use lattice_kernel::Received;
use lattice_kernel::clock;
use lattice_kernel::sync::{Access, Bootstrap, BootstrapStep, Due, Effect, Input, Pace, Session};

use crate::limits::{IDLE_MS, OUT_BYTES_HIGH, OUT_BYTES_MAX, RECONCILE_MS, RESEND_MS};
use crate::net::dial::RETRY;
use crate::world::World;
use crate::world::node::{Delivery, Job, NodeId};
use crate::world::queue::Event;
use crate::world::trace::short;

/// A stream's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u64);

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Listener,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// What one end does.
#[derive(Debug)]
pub(crate) enum Talk {
    Session(Box<Session>),
    Bootstrap(Bootstrap),
}

/// One end, with the bytes that are on their way to it.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) node: NodeId,
    /// The node's address when the stream was opened.
    pub(crate) address: u64,
    /// `None` once this end is closed.
    pub(crate) talk: Option<Talk>,
    pub(crate) access: Access,
    /// When its session began; a dialer waits for its turn, a listener for the dialer's Hello.
    pub(crate) started_ms: Option<u64>,
    pub(crate) delivering: bool,
    pub(crate) timer_ms: Option<u64>,
    pub(crate) read_after_ms: u64,
    pub(crate) pace: Pace,
    /// With the time at which each arrives.
    pub(crate) incoming: VecDeque<(u64, Bytes)>,
    pub(crate) incoming_bytes: usize,
    pub(crate) last_arrival_ms: u64,
    pub(crate) stuck_since_ms: Option<u64>,
}

/// A stream and its ends.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) opened_ms: u64,
    pub(crate) ends: [End; 2],
}

impl Stream {
    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side.index()]
    }
}

impl World {
    // --- bytes -----------------------------------------------------------------------------------

    /// How long `len` bytes take from one node to another, lost packets and their repetition included.
    pub(crate) fn delay(&mut self, from: NodeId, to: NodeId, len: usize) -> u64 {
        let weather = self.weather;
        let mut delay = weather.latency_ms + self.dice.below(weather.jitter_ms + 1);
        delay += len as u64 / weather.bytes_per_ms.max(1);
        let mut resend = RESEND_MS;
        while self.dice.per_mille(weather.loss_per_mille) && resend < IDLE_MS {
            delay += resend;
            resend *= 2;
        }
        let link = self.stats.links.entry((from, to)).or_default();
        link.messages += 1;
        link.bytes += len as u64;
        delay
    }

    pub(crate) fn send(&mut self, id: StreamId, from: Side, bytes: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let me = stream.end(from).node;
        let bytes = match self.nodes[me.index()].liar {
            true => self.lie(me, bytes),
            false => bytes,
        };
        self.write(id, from, bytes);
    }

    /// Puts bytes on their way as they are.
    pub(crate) fn write(&mut self, id: StreamId, from: Side, bytes: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (me, peer) = (stream.end(from).node, stream.end(from.other()).node);
        let mut rest = bytes;
        while !rest.is_empty() {
            // Cut anywhere, now and then.
            let len = match self.dice.below(8) {
                0 => 1 + self.dice.below(rest.len() as u64) as usize,
                _ => rest.len(),
            };
            let piece = rest.split_to(len);
            let arrival = self.now_ms + self.delay(me, peer, len);
            let hash = short(blake3::hash(&piece).as_bytes());
            self.note(me, format_args!("sends {len} {hash} on {}", id.0));
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let end = stream.end(from.other());
            end.last_arrival_ms = end.last_arrival_ms.max(arrival);
            end.incoming.push_back((end.last_arrival_ms, piece));
            end.incoming_bytes += len;
            let (at, waiting) = (end.last_arrival_ms, end.incoming_bytes);
            self.queue.at(
                at,
                Event::Chunk {
                    stream: id,
                    to: from.other(),
                },
            );
            if waiting > OUT_BYTES_MAX {
                self.violate(format!("{waiting} bytes wait on {} to {peer}", id.0));
            }
        }
    }

    /// Gives a side what has arrived.
    pub(crate) fn arrive(&mut self, id: StreamId, to: Side) {
        loop {
            let now_ms = self.now_ms;
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let waiting_out = stream.end(to.other()).incoming_bytes;
            let sender = stream.end(to.other());
            let (peer, peer_address) = (sender.node, sender.address);
            let end = stream.end(to);
            let (me, my_address) = (end.node, end.address);
            let (read_after_ms, stuck_since_ms) = (end.read_after_ms, end.stuck_since_ms);
            match end.incoming.front() {
                Some((at, _)) if *at <= now_ms && end.talk.is_some() => {}
                _ => return,
            }
            let moved = self.nodes[me.index()].address != my_address
                || self.nodes[peer.index()].address != peer_address;
            if moved || self.is_blocked(peer, me) || !self.nodes[me.index()].is_on() {
                let since = stuck_since_ms.unwrap_or(now_ms);
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.end(to).stuck_since_ms = Some(since);
                }
                if now_ms - since >= IDLE_MS {
                    for side in [to, to.other()] {
                        self.drop_end(id, side, "silence");
                    }
                } else {
                    let again = Event::Chunk { stream: id, to };
                    self.queue.at(now_ms + RESEND_MS, again);
                }
                return;
            }
            if read_after_ms > now_ms || waiting_out > OUT_BYTES_HIGH {
                let at = read_after_ms.max(now_ms + 10);
                self.queue.at(at, Event::Chunk { stream: id, to });
                return;
            }
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let end = stream.end(to);
            end.stuck_since_ms = None;
            let Some((_, bytes)) = end.incoming.pop_front() else {
                return;
            };
            end.incoming_bytes -= bytes.len();
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let begins = stream.end(to).started_ms.is_none();
            match &mut stream.end(to).talk {
                Some(Talk::Session(_)) => {
                    if begins && to == Side::Listener {
                        self.begin(id, to);
                    }
                    self.handle(id, to, Input::Bytes(bytes));
                }
                Some(Talk::Bootstrap(bootstrap)) => match bootstrap.handle(&bytes) {
                    BootstrapStep::More => {}
                    BootstrapStep::Genesis(signed, body) => {
                        self.drop_end(id, to, "it has the genesis");
                        self.nodes[me.index()].trusted.insert(peer);
                        self.adopt(me, (signed, body));
                    }
                    BootstrapStep::Refused(error) => self.drop_end(id, to, &error.text),
                    BootstrapStep::Faulty(reason) => self.drop_end(id, to, &reason),
                },
                None => return,
            }
        }
    }

    // --- sessions --------------------------------------------------------------------------------

    /// Tells every session of a node that its log has grown.
    pub(crate) fn changed(&mut self, node: NodeId) {
        let streams: Vec<_> = self.nodes[node.index()].streams.values().copied().collect();
        for (id, side) in streams {
            self.look_at_access(id, side);
            self.handle(id, side, Input::Changed);
        }
    }

    fn look_at_access(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (me, peer) = (stream.end(side).node, stream.end(side.other()).node);
        let now = self.access(me, peer);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let end = stream.end(side);
        if end.access != now && !(end.access == Access::Invited && now == Access::None) {
            end.access = now;
            self.handle(id, side, Input::Access(now));
        }
    }

    pub(crate) fn received(&mut self, id: StreamId, side: Side, received: Option<Received>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end(side).delivering = false;
        }
        self.handle(id, side, Input::Received(received));
    }

    pub(crate) fn timer(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let end = stream.end(side);
        let me = end.node;
        let Some(at_ms) = end.timer_ms else { return };
        let clock = self.clock(me);
        if clock < at_ms {
            let wait = (at_ms - clock).min(3_600_000);
            let again = Event::Timer { stream: id, side };
            self.queue.at(self.now_ms + wait, again);
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end(side).timer_ms = None;
        }
        self.handle(id, side, Input::Tick);
    }

    pub(crate) fn compare(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let end = stream.end(side);
        let (me, delivering) = (end.node, end.delivering);
        let Some(Talk::Session(session)) = &end.talk else {
            return;
        };
        let status = session.status();
        let due = end.pace.due(&status, delivering);
        let interval = RECONCILE_MS * (1 + side.index() as u64);
        let after = interval + self.dice.below(RECONCILE_MS / 4);
        let again = Event::Compare { stream: id, side };
        self.queue.at(self.now_ms + after, again);
        self.note(me, format_args!("interval of {}: {due:?}", id.0));
        match due {
            Due::Stalled => self.drop_end(id, side, "no progress"),
            Due::Compare => {
                self.look_at_access(id, side);
                self.handle(id, side, Input::Reconcile);
            }
            Due::Wait => self.look_at_access(id, side),
        }
    }

    /// Gives one input to a session and does what it says.
    pub(crate) fn handle(&mut self, id: StreamId, side: Side, input: Input) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let end = &mut stream.ends[side.index()];
        let me = end.node;
        let Some(Talk::Session(session)) = &mut end.talk else {
            return;
        };
        let node = &self.nodes[me.index()];
        let Some(store) = node.store() else {
            return self.drop_end(id, side, "this node does not serve the store now");
        };
        let clock_ms = crate::world::clock(self.now_ms, node.skew_ms);
        let life = node.life;
        let effects = match session.handle(input, clock_ms, store.published()) {
            Ok(effects) => effects,
            Err(error) => {
                return self.drop_end(id, side, &format!("the log cannot be read: {error}"));
            }
        };
        for effect in effects {
            if self.burn(me) || self.nodes[me.index()].life != life {
                return;
            }
            self.carry_out(id, side, me, effect);
        }
    }

    fn carry_out(&mut self, id: StreamId, side: Side, me: NodeId, effect: Effect) {
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let peer = stream.end(side.other()).node;
        let misbehaviour = effect.misbehaviour();
        match effect {
            Effect::Send(bytes) => self.send(id, side, bytes),
            Effect::Deliver(entries) => {
                stream.end(side).delivering = true;
                let from = self.nodes[peer.index()].device;
                self.stats.links.entry((peer, me)).or_default().entries += entries.len() as u64;
                self.note(me, format_args!("gets {} entries of {peer}", entries.len()));
                let via = Some((id, side));
                let delivery = Delivery { from, entries, via };
                self.job(me, Job::Receive(delivery));
            }
            Effect::InSync { count, .. } => {
                self.stats.rounds += 1;
                self.note(me, format_args!("in sync with {peer}: {count}"));
            }
            Effect::PeerLacks(lack) => {
                self.stats.rounds += 1;
                self.note(me, format_args!("{peer} lacks {lack:?}"));
            }
            Effect::WeLack(lack) => {
                self.stats.rounds += 1;
                self.note(me, format_args!("lacks of {peer} {lack:?}"));
            }
            Effect::PeerHello { clock_ms, count } => {
                self.note(me, format_args!("hello of {peer}: {clock_ms} {count}"));
                let peer = self.nodes[peer.index()].device;
                self.hear_clock(me, clock::Input::Announced { peer, clock_ms });
            }
            Effect::Slow { ms, reason } => {
                stream.end(side).read_after_ms = now_ms + ms;
                if let Some(kind) = misbehaviour {
                    self.misbehaved(me, peer, kind, &reason);
                }
            }
            Effect::Again => self.queue.at(now_ms, Event::Again { stream: id, side }),
            Effect::WakeAt { ms } => {
                let end = stream.end(side);
                end.timer_ms = Some(end.timer_ms.map_or(ms, |at| at.min(ms)));
                let wait = ms.saturating_sub(self.clock(me)).min(3_600_000);
                self.queue
                    .at(now_ms + wait, Event::Timer { stream: id, side });
            }
            Effect::Close(reason) => {
                let text = format!("{reason:?}");
                self.drop_end(id, side, &text);
                if let Some(kind) = misbehaviour {
                    self.misbehaved(me, peer, kind, &text);
                }
            }
        }
    }

    /// Closes one end. The other learns of it when the news arrives, or by silence.
    pub(crate) fn drop_end(&mut self, id: StreamId, side: Side, reason: &str) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let end = stream.end(side);
        if end.talk.take().is_none() {
            return;
        }
        let me = end.node;
        end.incoming.clear();
        end.incoming_bytes = 0;
        let other = stream.end(side.other());
        let (peer, other_open) = (other.node, other.talk.is_some());
        // What was written before arrives before.
        let last_words_ms = other.last_arrival_ms;
        let opened_ms = stream.opened_ms;
        if !other_open {
            self.streams.remove(&id);
        }
        self.note(me, format_args!("closes {}: {reason}", id.0));
        let now_ms = self.now_ms;
        let node = &mut self.nodes[me.index()];
        if node.streams.get(&peer) == Some(&(id, side)) {
            node.streams.remove(&peer);
            let jitter = self.jitter();
            let tries = &mut self.nodes[me.index()].dialling(peer, now_ms).tries;
            tries.stands(now_ms - opened_ms);
            tries.lost(now_ms, RETRY, jitter);
            let peer = self.nodes[peer.index()].device;
            self.hear_clock(me, clock::Input::Left(peer));
        }
        if other_open {
            let lost = self.is_blocked(me, peer) || !self.nodes[me.index()].is_on();
            let after = match lost {
                true => IDLE_MS,
                false => self.weather.latency_ms,
            };
            let side = side.other();
            let at = (now_ms + after).max(last_words_ms + 1);
            self.queue.at(at, Event::Broken { stream: id, side });
        }
    }

    /// The machine lost everything in memory: its ends are gone, without a word to the others.
    pub(crate) fn drop_ends(&mut self, node: NodeId) {
        let streams: Vec<_> = self.nodes[node.index()].streams.values().copied().collect();
        for (id, side) in streams {
            self.drop_end(id, side, "the machine stopped");
        }
    }
}

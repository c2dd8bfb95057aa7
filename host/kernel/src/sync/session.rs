//! The session: one store, one peer, one stream.

use super::effect::{CloseReason, Config, Effect, Input, Status};
use super::inbound::Inbound;
use super::limits::MISSES_MAX;
use super::message::{ErrorCode, Message, PeerError, Wants};
use super::outbound::{Outbound, Receiver};
use super::peer::{Access, Fault, Faults, Sentence};
use super::ranges::Ranges;
use super::reader::{FrameError, FrameReader};
use super::round::Round;
use crate::{Received, Snapshot, StorageError};

/// Why a step ends early: a fault of the peer, a refusal that ends the session, or a failing disk.
pub(super) enum Stop {
    Fault(Fault),
    Refuse(PeerError),
    Storage(StorageError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// Reconciles one store with one peer over one stream.
///
/// ```text
/// let mut session = Session::new(config);
/// for effect in session.handle(Input::Start, now_ms, &store.snapshot())? { ... }
/// ```
#[derive(Debug)]
pub struct Session {
    pub(super) config: Config,
    frames: FrameReader,
    pub(super) outbound: Outbound,
    pub(super) inbound: Inbound,
    pub(super) ranges: Ranges,
    pub(super) round: Round,
    /// What the peer wants, by its Hello; `None` before the first one.
    pub(super) peer_wants: Option<Wants>,
    pub(super) peer_count: u64,
    faults: Faults,
    wake_ms: Option<u64>,
    closed: bool,
}

impl Session {
    /// A session before its first input, which is [`Input::Start`]. A listener that has read bytes to learn the store
    /// (see [`super::store_asked_for`]) gives them next.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            frames: FrameReader::default(),
            outbound: Outbound::new(),
            inbound: Inbound::new(),
            ranges: Ranges::default(),
            round: Round::default(),
            peer_wants: None,
            peer_count: 0,
            faults: Faults::default(),
            wake_ms: None,
            closed: false,
        }
    }

    /// Takes one thing that happened, at wall-clock time `now_ms`, with a fresh snapshot of the store. The effects
    /// are to be carried out in their order. After [`Effect::Close`] the session does nothing more.
    ///
    /// # Errors
    /// When the disk fails while the log is read.
    pub fn handle(
        &mut self,
        input: Input,
        now_ms: u64,
        snapshot: &Snapshot,
    ) -> Result<Vec<Effect>, StorageError> {
        let mut out = Vec::new();
        if self.closed {
            return Ok(out);
        }
        if let Err(stop) = self.take(input, now_ms, snapshot, &mut out) {
            self.stop(stop, &mut out)?;
        }
        if !self.closed
            && self.round.is_begun()
            && let Err(stop) = self.advance(now_ms, snapshot, &mut out)
        {
            self.stop(stop, &mut out)?;
        }
        Ok(out)
    }

    /// Where the session stands.
    pub fn status(&self) -> Status {
        Status {
            round: self.round.number,
            settled: self.round.settled,
            in_sync: self.round.in_sync,
            entries_sent: self.outbound.sent,
            entries_received: self.inbound.received,
            faults: self.faults.count(),
            peer_count: self.peer_count,
        }
    }

    fn take(
        &mut self,
        input: Input,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        match input {
            Input::Start => {
                self.check_access()?;
                if !self.round.is_begun() {
                    self.begin_round(1, now_ms, snapshot, out)?;
                }
            }
            Input::Bytes(bytes) => {
                self.round.heard_ms = now_ms;
                self.frames.push(&bytes);
                // After a fault in one message, the messages behind it are still read.
                let mut last = Ok(());
                while !self.closed {
                    let step = match self.frames.next() {
                        Ok(None) => break,
                        Ok(Some((message, len))) => self.hear(message, len, now_ms, snapshot, out),
                        Err(error @ FrameError::TooLong(_)) => {
                            return Err(Stop::Refuse(PeerError {
                                code: ErrorCode::TooMuch,
                                text: error.to_string(),
                            }));
                        }
                        Err(error) => Err(Stop::Fault(error.into())),
                    };
                    match step {
                        Ok(()) => {}
                        Err(Stop::Fault(fault)) => self.stop(Stop::Fault(fault), out)?,
                        Err(stop) => {
                            last = Err(stop);
                            break;
                        }
                    }
                }
                return last;
            }
            Input::Received(received) => self.received(received.as_ref(), now_ms, snapshot, out)?,
            Input::Announced(ids) => self.inbound.hint(ids, now_ms),
            Input::Reconcile => {
                if self.round.may_begin(now_ms) {
                    self.begin_round(self.round.number + 1, now_ms, snapshot, out)?;
                } else {
                    self.round.again = true;
                }
            }
            Input::Access(access) => {
                self.config.access = access;
                self.check_access()?;
            }
            // The shell's timer has run out. Whatever still waits sets it again.
            Input::Tick => self.wake_ms = None,
            Input::Changed => {}
        }
        Ok(())
    }

    fn received(
        &mut self,
        received: Option<&Received>,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let missing = self.inbound.on_received(received, snapshot)?;
        for message in self.inbound.want(missing) {
            send(out, &message);
        }
        if let Some(credit) = self.inbound.credit(true) {
            send(out, &credit);
        }
        if let Some(received) = received
            && let Some(first) = received.blame.first()
        {
            return Err(Stop::Fault(Fault::Entries {
                count: received.blame.len(),
                reason: first.reason.clone(),
            }));
        }
        // Batches with missing ancestors lead back by one ancestor each. Comparing everything is faster.
        if self.inbound.misses > MISSES_MAX && self.round.may_begin(now_ms) {
            self.begin_round(self.round.number + 1, now_ms, snapshot, out)?;
        }
        Ok(())
    }

    fn hear(
        &mut self,
        message: Message,
        len: usize,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let cost = len as u64;
        match message {
            Message::Hello(hello) => return self.on_hello(hello, now_ms, snapshot, out),
            Message::Error(error) => {
                self.closed = true;
                out.push(Effect::Close(CloseReason::Peer(error)));
                return Ok(());
            }
            _ if self.peer_wants.is_none() => return Err(Fault::NoHello.into()),
            Message::Tips { round, tips, last } if round == self.round.number => {
                self.on_tips(tips, last, snapshot)?;
            }
            Message::Entries(entries) => {
                for id in self.inbound.on_entries(entries, cost)? {
                    self.outbound.peer_has(id);
                }
            }
            Message::Want(ids) => self.outbound.ask(ids)?,
            Message::Lacks(ids) => self.inbound.on_lacks(&ids),
            Message::Credit { bytes } => self.outbound.grant(bytes),
            Message::Announce(ids) => {
                self.inbound.on_announce(cost)?;
                for id in &ids {
                    self.outbound.peer_has(*id);
                }
                self.inbound.hint(ids, now_ms);
                if let Some(credit) = self.inbound.credit(false) {
                    send(out, &credit);
                }
            }
            Message::Done(done) if done.round == self.round.number => self.on_done(done, out),
            Message::Diverged { round } if round == self.round.number => self.on_diverged(),
            Message::Summarize { round, ranges } if round == self.round.number => {
                self.on_summarize();
                self.ranges
                    .on_summarize(ranges, snapshot)
                    .map_err(Fault::from)?;
            }
            Message::Summary { round, ranges } if round == self.round.number => {
                self.ranges.on_summary(ranges).map_err(Fault::from)?;
            }
            Message::Sketch { round, cells } if round == self.round.number => {
                self.on_sketch(&cells, snapshot, out)?;
            }
            Message::Difference { round, lacks } if round == self.round.number => {
                self.on_difference(lacks, snapshot)?;
            }
            // These messages belong to another round, which one side has given up.
            Message::Tips { .. }
            | Message::Done(_)
            | Message::Diverged { .. }
            | Message::Summarize { .. }
            | Message::Summary { .. }
            | Message::Sketch { .. }
            | Message::Difference { .. } => {}
        }
        Ok(())
    }

    /// Takes the next step of everything that can go on: delivery, announced ids, ranges, sending, the verdict.
    fn advance(
        &mut self,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if let Some(entries) = self.inbound.deliver() {
            out.push(Effect::Deliver(entries));
        }
        for message in self.inbound.want_due(now_ms, snapshot)? {
            send(out, &message);
        }
        let mut again = false;
        let mut fault = None;
        if !self.ranges.is_idle() && self.inbound.has_room() {
            let step = self.ranges.step(snapshot, self.outbound.jobs())?;
            for message in &step.messages {
                send(out, message);
            }
            for leaf in step.leaves {
                let mut missing = Vec::new();
                for id in &leaf.listed {
                    if !snapshot.contains(id)? {
                        missing.push(*id);
                    }
                }
                for message in self.inbound.want(missing) {
                    send(out, &message);
                }
                self.outbound.found(leaf);
            }
            again |= step.again;
            fault = step.fault;
        }
        let mut wake_ms = self.inbound.wake_ms();
        if let Some(wants) = self.peer_wants {
            let receiver = Receiver {
                access: self.config.access,
                wants,
                author: self.config.device,
            };
            let step = self.outbound.step(receiver, now_ms, snapshot)?;
            out.extend(step.frames.into_iter().map(|f| Effect::Send(f.into())));
            again |= step.again;
            wake_ms = wake_ms.into_iter().chain(step.wake_ms).min();
        }
        self.progress(now_ms, snapshot, out)?;
        if again {
            out.push(Effect::Again);
        }
        if let Some(ms) = wake_ms
            && self.wake_ms != wake_ms
        {
            out.push(Effect::WakeAt { ms });
        }
        self.wake_ms = wake_ms;
        match fault {
            Some(fault) => Err(Stop::Fault(fault.into())),
            None => Ok(()),
        }
    }

    /// Refuses a peer that may have nothing of the store.
    pub(super) fn check_access(&self) -> Result<(), Stop> {
        match self.config.access {
            Access::None => Err(Stop::Refuse(PeerError {
                code: ErrorCode::NotAMember,
                text: "this device is no member of the store".to_owned(),
            })),
            _ => Ok(()),
        }
    }

    fn stop(&mut self, stop: Stop, out: &mut Vec<Effect>) -> Result<(), StorageError> {
        match stop {
            Stop::Storage(error) => return Err(error),
            Stop::Refuse(error) => {
                self.closed = true;
                send(out, &Message::Error(error.clone()));
                out.push(Effect::Close(CloseReason::Refused(error)));
            }
            Stop::Fault(fault) => {
                let reason = fault.to_string();
                match self.faults.record() {
                    Sentence::Slow(ms) => out.push(Effect::Slow { ms, reason }),
                    Sentence::Drop => {
                        self.closed = true;
                        let code = ErrorCode::Invalid;
                        let text = reason.clone();
                        send(out, &Message::Error(PeerError { code, text }));
                        out.push(Effect::Close(CloseReason::Faulty { reason }));
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn send(out: &mut Vec<Effect>, message: &Message) {
    out.push(Effect::Send(message.encode().into()));
}

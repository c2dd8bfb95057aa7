//! One round of reconciliation: Hello, tips or a sketch, Done, the verdict.

use lattice_format::{Digest, IntentionId};

use super::VERSION;
use super::effect::{Effect, Lack, Role};
use super::limits::{
    LISTED_MAX, SKETCH_CELLS_LEAST, SKETCH_DIFFERENCE_MAX, TIPS_FEW, TIPS_MAX, TIPS_PAGE,
    WINDOW_BYTES,
};
use super::message::{Attestation, Done, ErrorCode, Hello, Message, PeerError, PeerTip};
use super::peer::Fault;
use super::ranges::RangeFault;
use super::session::{Session, Stop, send};
use super::source;
use crate::Snapshot;
use crate::limits::SKETCH_CELLS_MAX;
use crate::state::sketch::{self, Cell};

/// How long a round may hear nothing before another one may take its place, in milliseconds.
const STALL_MS: u64 = 30_000;
/// How long a round may take before another one may take its place, in milliseconds. The next round builds on what
/// has arrived, so nothing is lost.
const ROUND_MS_MAX: u64 = 600_000;
/// How many rounds in a row the peer may begin less than a second apart.
const ROUNDS_BURST: u32 = 16;

/// Where the current round stands.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The round's number, from 1, which is the same on both sides.
    pub(super) number: u64,
    /// Whether the round is over on this side: the digests were equal, or the peer has said Done and nothing is left
    /// to send, to take in or to search for.
    pub(super) settled: bool,
    pub(super) in_sync: bool,
    /// Whether another round was asked for while this one was under way.
    pub(super) again: bool,
    /// When the peer was heard last, in milliseconds since the Unix epoch.
    pub(super) heard_ms: u64,
    begun_ms: u64,
    our_digest: Option<Digest>,
    /// The snapshot of which this side said Hello, and how many tips it has at most; until the peer's Hello.
    said_of: Option<(Snapshot, u64)>,
    hello_heard: bool,
    their_tip_count: usize,
    their_tips: Vec<PeerTip>,
    their_tips_complete: bool,
    /// Whether it is known what to send.
    planned: bool,
    /// The peer's tips that were unknown here when they came.
    unknown: Vec<IntentionId>,
    /// Whether a sketch is due: at the listener that of the dialler, at the dialler what the listener read out of it.
    sketching: bool,
    /// Whether ranges were or are compared in this round, or a sketch was tried.
    ranged: bool,
    /// The field `last` of the last Done that was sent; `None` before the first one.
    done_sent: Option<bool>,
    their_done: Option<Done>,
    our_lack: Lack,
    our_count: u64,
    hello_ms: u64,
    burst: u32,
}

impl Round {
    pub(super) fn is_begun(&self) -> bool {
        self.number > 0
    }

    /// Whether a new round may begin, because the last one is over or got stuck.
    pub(super) fn may_begin(&self, now_ms: u64) -> bool {
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        self.is_begun() && (self.settled || silent_ms > STALL_MS || age_ms > ROUND_MS_MAX)
    }
}

impl Session {
    pub(super) fn begin_round(
        &mut self,
        number: u64,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let digest = source::digest(snapshot)?;
        let tip_count = source::tips_at_most(snapshot)?;
        let last = std::mem::take(&mut self.round);
        self.round = Round {
            number,
            heard_ms: now_ms,
            begun_ms: now_ms,
            our_digest: Some(digest),
            said_of: Some((snapshot.clone(), tip_count)),
            hello_ms: last.hello_ms,
            burst: last.burst,
            ..Round::default()
        };
        self.inbound.begin_round();
        self.outbound.begin_round(snapshot);
        self.ranges.reset(number);
        // These the peer need not send again.
        let mut parked = snapshot.parked.ids_of(self.config.peer);
        let parked_count = parked.len() as u64;
        parked.truncate(LISTED_MAX);
        // Later Hellos leave out what the first one has said.
        let is_first = !last.is_begun();
        let (device, endpoint) = (self.config.device, self.config.endpoint);
        let hello = Hello {
            round: number,
            versions: vec![VERSION],
            store: is_first.then(|| snapshot.store_id()),
            clock_ms: now_ms,
            attestation: (device != endpoint).then_some(Attestation { device, endpoint }),
            wants: self.config.wants,
            horizon: None,
            parked_count,
            parked,
            tips_digest: digest,
            tip_count,
            count: snapshot.summary().count,
            window_bytes: if is_first { WINDOW_BYTES } else { 0 },
            gives: self.config.access.gives(),
        };
        send(out, &Message::Hello(hello));
        Ok(())
    }

    pub(super) fn on_hello(
        &mut self,
        hello: Hello,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        self.check_hello(&hello, snapshot)?;
        self.check_access()?;
        if self.peer_wants.is_none() {
            self.outbound.grant(hello.window_bytes);
        }
        self.peer_wants = Some(hello.wants);
        self.inbound.peer_gives = hello.gives;
        if hello.round < self.round.number {
            return Ok(());
        }
        if hello.round > self.round.number {
            self.count_round(now_ms)?;
            self.begin_round(hello.round, now_ms, snapshot, out)?;
        } else if self.round.hello_heard {
            return Err(Fault::HelloAgain { round: hello.round }.into());
        }
        self.round.hello_heard = true;
        self.peer_count = hello.count;
        self.outbound.parked_there(hello.parked);
        out.push(Effect::PeerHello {
            clock_ms: hello.clock_ms,
            count: hello.count,
        });
        let said_of = self.round.said_of.take();
        if self.round.our_digest == Some(hello.tips_digest) {
            self.round.planned = true;
            self.round.settled = true;
            self.round.in_sync = true;
            self.outbound.nothing_planned();
            out.push(Effect::InSync {
                tips_digest: hello.tips_digest,
                count: snapshot.summary().count,
            });
            return Ok(());
        }
        let (said_of, own_tips) = said_of.expect("only the first Hello of a round comes here");
        let tips = hello.tip_count.max(own_tips);
        let differ = hello.count.abs_diff(said_of.summary().count);
        // Both sides have said and heard the same numbers, so they come to the same end.
        if tips > TIPS_FEW && differ <= SKETCH_DIFFERENCE_MAX {
            return self.begin_sketch(differ, &said_of, out);
        }
        if tips > TIPS_MAX as u64 {
            self.without_tips();
            if self.config.role == Role::Dialer {
                self.ranges.search();
            }
            return Ok(());
        }
        self.round.their_tip_count = hello.tip_count as usize;
        let tips = source::tips(&said_of)?;
        let pages = tips.chunks(TIPS_PAGE);
        let last = pages.len() - 1;
        for (page, tips) in pages.enumerate() {
            let tips = Message::Tips {
                round: self.round.number,
                tips: tips.to_vec(),
                last: page == last,
            };
            send(out, &tips);
        }
        Ok(())
    }

    /// Goes on without tips, which are too many.
    fn without_tips(&mut self) {
        self.round.planned = true;
        self.round.ranged = true;
        self.outbound.nothing_planned();
    }

    /// Compares by a sketch, because the tips are many and the difference may be small. `differ` is by how many
    /// entries the sides differ in number.
    fn begin_sketch(
        &mut self,
        differ: u64,
        said_of: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        self.without_tips();
        self.round.sketching = true;
        if self.config.role == Role::Dialer {
            // A difference takes about 1.5 cells an entry, and more where it is small.
            let count = (2 * differ as usize).clamp(SKETCH_CELLS_LEAST, SKETCH_CELLS_MAX);
            let sketch = Message::Sketch {
                round: self.round.number,
                cells: sketch::cells(&said_of.rows, count)?,
            };
            send(out, &sketch);
        }
        Ok(())
    }

    /// Reads out of the dialler's sketch how the logs differ, and tells it which of its entries are not here.
    pub(super) fn on_sketch(
        &mut self,
        cells: &[Cell],
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if self.config.role != Role::Listener || !std::mem::take(&mut self.round.sketching) {
            return Err(Fault::from(RangeFault::Undue).into());
        }
        let own = sketch::cells(&snapshot.rows, cells.len())?;
        let found = sketch::difference(&own, cells);
        if let Some(found) = &found {
            self.outbound.pick(&found.left, snapshot)?;
        }
        let mut lacks = found.map(|found| found.right);
        if let Some(ids) = &mut lacks {
            let mut unknown = Vec::new();
            for id in ids.iter() {
                // What is void here counts at the peer, and is here.
                if !snapshot.contains(id)? {
                    unknown.push(*id);
                }
            }
            ids.clone_from(&unknown);
            self.round.unknown = unknown;
        }
        let round = self.round.number;
        send(out, &Message::Difference { round, lacks });
        Ok(())
    }

    /// Takes what the listener read out of the sketch: which entries it lacks, or that ranges must be compared.
    pub(super) fn on_difference(
        &mut self,
        lacks: Option<Vec<IntentionId>>,
        snapshot: &Snapshot,
    ) -> Result<(), Stop> {
        if self.config.role != Role::Dialer || !std::mem::take(&mut self.round.sketching) {
            return Err(Fault::from(RangeFault::Undue).into());
        }
        match lacks {
            Some(ids) => self.outbound.pick(&ids, snapshot)?,
            None => self.ranges.search(),
        }
        Ok(())
    }

    fn check_hello(&self, hello: &Hello, snapshot: &Snapshot) -> Result<(), Stop> {
        let refuse = |code, text: String| Err(Stop::Refuse(PeerError { code, text }));
        if !hello.versions.contains(&VERSION) {
            return refuse(
                ErrorCode::Version,
                format!("this node speaks version {VERSION} of the sync protocol"),
            );
        }
        let is_first = self.peer_wants.is_none();
        if hello.store != Some(snapshot.store_id()) && (is_first || hello.store.is_some()) {
            let named = hello
                .store
                .map_or("without an id".into(), |id| id.to_string());
            return refuse(ErrorCode::UnknownStore, format!("no store {named} here"));
        }
        // Device and endpoint have one key, so the transport, which proves the endpoint, proves the device too.
        let peer = self.config.peer;
        let own = Attestation {
            device: peer,
            endpoint: peer,
        };
        if let Some(other) = hello.attestation.filter(|attestation| *attestation != own) {
            return refuse(
                ErrorCode::NotAMember,
                format!("endpoint {peer} does not speak for device {}", other.device),
            );
        }
        Ok(())
    }

    fn count_round(&mut self, now_ms: u64) -> Result<(), Fault> {
        let near = now_ms.saturating_sub(self.round.hello_ms) < 1000;
        self.round.burst = if near { self.round.burst + 1 } else { 0 };
        self.round.hello_ms = now_ms;
        if self.round.burst > ROUNDS_BURST {
            return Err(Fault::Rounds {
                count: self.round.burst,
            });
        }
        Ok(())
    }

    pub(super) fn on_tips(
        &mut self,
        tips: Vec<PeerTip>,
        last: bool,
        snapshot: &Snapshot,
    ) -> Result<(), Stop> {
        let round = &mut self.round;
        let len = round.their_tips.len() + tips.len();
        if round.their_tips_complete || len > round.their_tip_count {
            return Err(Fault::Tips {
                len,
                max: round.their_tip_count,
            }
            .into());
        }
        round.their_tips.extend(tips);
        if !last {
            return Ok(());
        }
        round.their_tips_complete = true;
        let mut theirs = std::mem::take(&mut round.their_tips);
        let ours = source::tips(snapshot)?;
        let difference = super::plan::compare(&ours, &mut theirs, snapshot)?;
        round.planned = true;
        round.unknown = difference.unknown;
        self.outbound.plan(difference.send, snapshot)?;
        Ok(())
    }

    pub(super) fn on_done(&mut self, done: Done, out: &mut Vec<Effect>) {
        self.peer_count = done.count;
        // The peer said this Done before it heard that ranges are compared. It will say another one.
        if self.round.ranged && !done.ranged {
            return;
        }
        self.round.their_done = Some(done);
        if self.round.settled {
            self.verdict(out);
        }
    }

    /// Takes the listener's word that tips do not explain all differences. The dialer then begins to search.
    pub(super) fn on_diverged(&mut self) {
        if self.config.role == Role::Dialer && self.round.planned && !self.round.ranged {
            self.reopen();
            self.ranges.search();
        }
    }

    /// Notes that the dialer searches, so that the round ends only after the search.
    pub(super) fn on_summarize(&mut self) {
        if !self.round.ranged {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        self.round.ranged = true;
        self.round.settled = false;
        self.round.in_sync = false;
        self.round.done_sent = None;
        self.round.their_done = None;
    }

    /// Says Done when this side has nothing more to send, and gives the verdict when nothing more comes.
    pub(super) fn progress(
        &mut self,
        now_ms: u64,
        snapshot: &Snapshot,
        out: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if self.round.settled {
            if self.round.again {
                self.begin_round(self.round.number + 1, now_ms, snapshot, out)?;
            }
            return Ok(());
        }
        let round = &self.round;
        let is_busy = round.sketching || !self.outbound.is_idle() || !self.ranges.is_idle();
        if !round.planned || is_busy {
            return Ok(());
        }
        if self.round.their_done.is_none() || !self.inbound.is_idle() {
            if self.round.done_sent.is_none() {
                self.say_done(snapshot, out)?;
            }
            return Ok(());
        }
        let lack = self.inbound.lack(&self.round.unknown, snapshot)?;
        // Parked entries explain a missing tip, and so does a store that was busy. Otherwise the peer's chain forks
        // where the tips do not show it, and ranges must be compared.
        let explained = self.inbound.parked() > 0 || self.inbound.interrupted;
        if !lack.missing.is_empty() && !self.round.ranged && !explained {
            match self.config.role {
                Role::Dialer => {
                    self.reopen();
                    self.ranges.search();
                    // The next step begins the search.
                    out.push(Effect::Again);
                }
                Role::Listener => {
                    self.reopen();
                    let round = self.round.number;
                    send(out, &Message::Diverged { round });
                    self.say_done(snapshot, out)?;
                }
            }
            return Ok(());
        }
        self.round.settled = true;
        self.say_done(snapshot, out)?;
        self.verdict(out);
        Ok(())
    }

    fn say_done(&mut self, snapshot: &Snapshot, out: &mut Vec<Effect>) -> Result<(), Stop> {
        let lack = self.inbound.lack(&self.round.unknown, snapshot)?;
        let tips_digest = source::digest(snapshot)?;
        self.round.our_digest = Some(tips_digest);
        let done = Done {
            round: self.round.number,
            tips_digest,
            count: snapshot.summary().count,
            sent: self.outbound.sent,
            floating: lack.floating,
            parked: lack.parked,
            missing: lack.missing.clone(),
            withheld: self.outbound.withheld(),
            last: self.round.settled,
            ranged: self.round.ranged,
        };
        self.round.done_sent = Some(done.last);
        self.round.our_lack = lack;
        self.round.our_count = done.count;
        send(out, &Message::Done(done));
        Ok(())
    }

    /// Tells the shell what each side lacks, once both are done.
    fn verdict(&mut self, out: &mut Vec<Effect>) {
        let Some(done) = self.round.their_done.as_ref().filter(|done| done.last) else {
            return;
        };
        let theirs = Lack {
            floating: done.floating,
            parked: done.parked,
            withheld: self.outbound.withheld(),
            missing: done.missing.clone(),
        };
        let ours = Lack {
            withheld: done.withheld,
            ..self.round.our_lack.clone()
        };
        self.round.in_sync = theirs == Lack::default() && ours == Lack::default();
        if self.round.in_sync {
            out.push(Effect::InSync {
                tips_digest: self.round.our_digest.unwrap_or(done.tips_digest),
                count: self.round.our_count,
            });
            return;
        }
        if theirs != Lack::default() {
            out.push(Effect::PeerLacks(theirs));
        }
        if ours != Lack::default() {
            out.push(Effect::WeLack(ours));
        }
    }
}

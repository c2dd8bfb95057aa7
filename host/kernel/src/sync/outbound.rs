//! The sending half of a session. It sends entries that the peer asked for, then the plan, then what ranges found,
//! and then live entries: those that are witnessed after the round began.
//!
//! Each of these sources is in causal order by itself. Live entries come after the plan, because they may build on
//! it.

use std::collections::{BTreeSet, VecDeque};

use lattice_format::{DeviceKey, IntentionId, Position, SignedHeader};

use super::limits::{
    ENTRIES_FRAME_BYTES, ENTRIES_FRAME_MAX, IDS_MAX, KNOWN_MAX, LIMITED_BYTES_PER_S,
    PUSH_BODY_BYTES_MAX, SCAN_ROWS, STEP_FRAMES, VOID_ANCESTORS_MAX, WANTED_MAX, WINDOW_BYTES_MAX,
};
use super::message::{Message, Wants};
use super::peer::{Access, Fault};
use super::plan::Plan;
use super::ranges::Leaf;
use super::source;
use crate::frame::FRAME_HEAD_BYTES;
use crate::graph::ids::IdSet;
use crate::{LocalSeq, Snapshot, StorageError, Stored};

/// A bounded set of ids, which forgets its oldest.
#[derive(Debug, Default)]
struct Known {
    ids: IdSet,
    order: VecDeque<IntentionId>,
}

impl Known {
    fn insert(&mut self, id: IntentionId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        while self.order.len() > KNOWN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }

    fn take(&mut self, id: &IntentionId) -> bool {
        self.ids.remove(id)
    }

    fn contains(&self, id: &IntentionId) -> bool {
        self.ids.contains(id)
    }
}

/// An entry in the queue of those that the peer asked for: asked for itself, or sent along with another.
#[derive(Debug)]
enum AskedEntry {
    Id(IntentionId),
    Local(LocalSeq),
}

/// The sending of one range: of all its entries that the peer did not list.
#[derive(Debug)]
struct Job {
    leaf: Leaf,
    at: Position,
    page: VecDeque<LocalSeq>,
    ended: bool,
}

/// How many bytes may be sent now to a peer that is not a member. They grow with time.
#[derive(Debug)]
struct ByteBudget {
    saved: u64,
    at_ms: u64,
}

/// The peer that entries are sent to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    pub(super) access: Access,
    pub(super) wants: Wants,
    /// The key of this node, whose own entries are pushed. Entries of others are announced.
    pub(super) author: DeviceKey,
}

/// What one step did.
#[derive(Debug, Default)]
pub(super) struct OutStep {
    pub(super) frames: Vec<Vec<u8>>,
    /// Whether the bound of this step was reached, and more can be sent at once.
    pub(super) again: bool,
    /// The time before which nothing can be sent, in milliseconds since the Unix epoch.
    pub(super) wake_ms: Option<u64>,
}

enum Next {
    Entry(Stored),
    Announce(IntentionId),
    /// The peer asked for an entry that this node does not have.
    Lacks(IntentionId),
    Nothing,
    Later,
}

/// The sending half of a session.
#[derive(Debug)]
pub(super) struct Outbound {
    /// How many bytes the peer still takes. The last frame may exceed them, and then they are below zero.
    credit: i64,
    asked: VecDeque<AskedEntry>,
    plan: Plan,
    /// The numbers of entries that a sketch found the peer to lack, ascending.
    picked: VecDeque<LocalSeq>,
    jobs: VecDeque<Job>,
    /// The number of the first entry that the live phase has not looked at.
    live: Option<LocalSeq>,
    live_open: bool,
    /// Entries that the live phase leaves out, because the peer has them from elsewhere or was given them on request.
    known: Known,
    /// Entries that were sent to a peer that may not have every body. Without its body an entry floats at the peer,
    /// with all that name it. The peer's tips do not show floating entries, so each round would send them again.
    limited: Known,
    parked_there: BTreeSet<IntentionId>,
    budget: ByteBudget,
    /// Entries sent in this session.
    pub(super) sent: u64,
    /// Entries whose bodies were kept back in this round, although the peer wants them.
    withheld: BTreeSet<IntentionId>,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            credit: 0,
            asked: VecDeque::new(),
            plan: Plan::default(),
            picked: VecDeque::new(),
            jobs: VecDeque::new(),
            live: None,
            live_open: false,
            known: Known::default(),
            limited: Known::default(),
            parked_there: BTreeSet::new(),
            budget: ByteBudget {
                saved: LIMITED_BYTES_PER_S,
                at_ms: 0,
            },
            sent: 0,
            withheld: BTreeSet::new(),
        }
    }

    /// Begins a round. The live phase covers every entry that is witnessed after the first round began.
    pub(super) fn begin_round(&mut self, snapshot: &Snapshot) {
        self.live.get_or_insert(source::end(snapshot));
        self.withheld.clear();
        self.picked.clear();
        self.jobs.clear();
    }

    /// How many bodies were kept back in this round although the peer wants them.
    pub(super) fn withheld(&self) -> u64 {
        self.withheld.len() as u64
    }

    fn withhold(&mut self, id: IntentionId) {
        if self.withheld.len() < KNOWN_MAX {
            self.withheld.insert(id);
        }
    }

    /// Takes credit of the peer, up to the largest window that is believed.
    pub(super) fn grant(&mut self, bytes: u64) {
        let bytes = bytes.min(WINDOW_BYTES_MAX) as i64;
        self.credit = (self.credit + bytes).min(WINDOW_BYTES_MAX as i64);
    }

    /// Notes which entries the peer has parked, so that they are not sent again.
    pub(super) fn parked_there(&mut self, ids: Vec<IntentionId>) {
        self.parked_there = ids.into_iter().collect();
    }

    /// Notes that the peer has an entry.
    pub(super) fn peer_has(&mut self, id: IntentionId) {
        self.known.insert(id);
    }

    /// Plans to send the branches of `send`, which the peer lacks by its tips, up to where the live phase begins.
    pub(super) fn plan(
        &mut self,
        send: Vec<(IntentionId, lattice_format::Seq)>,
        snapshot: &Snapshot,
    ) -> Result<(), StorageError> {
        let end = *self.live.get_or_insert(source::end(snapshot));
        self.plan = Plan::new(send, end, snapshot)?;
        self.live_open = true;
        Ok(())
    }

    /// Plans nothing, because the peer lacks nothing, or ranges will find what it lacks.
    pub(super) fn nothing_planned(&mut self) {
        self.plan = Plan::default();
        self.live_open = true;
    }

    /// Queues a found range, in which the peer's entries and ours differ.
    pub(super) fn found(&mut self, leaf: Leaf) {
        self.jobs.push_back(Job {
            at: leaf.range.from,
            leaf,
            page: VecDeque::new(),
            ended: false,
        });
    }

    /// Queues entries that the peer lacks, in causal order. Passed over are ids that are not here, and entries that the
    /// live phase will come to.
    pub(super) fn pick(
        &mut self,
        ids: &[IntentionId],
        snapshot: &Snapshot,
    ) -> Result<(), StorageError> {
        let mut picked = Vec::with_capacity(ids.len());
        for id in ids {
            picked.extend(snapshot.local_of(id)?);
        }
        picked.retain(|local| self.live.is_none_or(|live| *local < live));
        picked.sort_unstable();
        self.picked = picked.into();
        Ok(())
    }

    /// How many found ranges are still to be sent.
    pub(super) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Queues entries that the peer asks for by id.
    pub(super) fn ask(&mut self, ids: Vec<IntentionId>) -> Result<(), Fault> {
        let len = self.asked.len() + ids.len();
        if len > WANTED_MAX + VOID_ANCESTORS_MAX {
            return Err(Fault::Asked {
                len,
                max: WANTED_MAX,
            });
        }
        self.asked.extend(ids.into_iter().map(AskedEntry::Id));
        Ok(())
    }

    /// Whether the round has nothing more to send. New entries do not count.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
            && self.plan.is_empty()
            && self.picked.is_empty()
            && self.jobs.is_empty()
    }

    /// Sends what credit, byte budget and the bound of one step allow.
    pub(super) fn step(
        &mut self,
        to: Receiver,
        now_ms: u64,
        snapshot: &Snapshot,
    ) -> Result<OutStep, StorageError> {
        let mut out = OutStep::default();
        let mut rows = SCAN_ROWS;
        self.save_up(now_ms);
        if to.access == Access::All {
            self.limited = Known::default();
        }
        for _ in 0..STEP_FRAMES {
            if self.credit <= 0 {
                return Ok(out);
            }
            if to.access != Access::All && self.budget.saved == 0 {
                out.wake_ms = Some(now_ms + 1000);
                return Ok(out);
            }
            let mut entries: Vec<(SignedHeader, Option<Vec<u8>>)> = Vec::new();
            let (mut announce, mut lacks) = (Vec::new(), Vec::new());
            let mut bytes = 0;
            let full = loop {
                if bytes >= ENTRIES_FRAME_BYTES
                    || entries.len() == ENTRIES_FRAME_MAX
                    || announce.len() == IDS_MAX
                    || lacks.len() == IDS_MAX
                {
                    break true;
                }
                match self.next(to, &mut rows, snapshot)? {
                    Next::Entry(stored) => {
                        let entry = self.for_peer(to, &stored);
                        bytes += entry.0.bytes.len()
                            + entry.1.as_ref().map_or(0, Vec::len)
                            + lattice_format::Signature::LEN;
                        entries.push(entry);
                    }
                    Next::Announce(id) => announce.push(id),
                    Next::Lacks(id) => lacks.push(id),
                    Next::Nothing => break false,
                    Next::Later => {
                        out.again = true;
                        break false;
                    }
                }
            };
            self.sent += entries.len() as u64;
            if !entries.is_empty() {
                self.charge(Message::Entries(entries).encode(), &mut out);
            }
            if !announce.is_empty() {
                self.charge(Message::Announce(announce).encode(), &mut out);
            }
            if !lacks.is_empty() {
                // `Lacks` costs no credit, because the question that it answers was bounded.
                out.frames.push(Message::Lacks(lacks).encode());
            }
            if !full {
                return Ok(out);
            }
        }
        out.again = true;
        Ok(out)
    }

    fn charge(&mut self, frame: Vec<u8>, out: &mut OutStep) {
        let cost = (frame.len() - FRAME_HEAD_BYTES) as u64;
        self.credit -= cost as i64;
        self.budget.saved = self.budget.saved.saturating_sub(cost);
        out.frames.push(frame);
    }

    fn save_up(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.budget.at_ms).min(1000);
        let more = passed * LIMITED_BYTES_PER_S / 1000;
        self.budget.saved = (self.budget.saved + more).min(LIMITED_BYTES_PER_S);
        self.budget.at_ms = now_ms;
    }

    fn for_peer(&mut self, to: Receiver, stored: &Stored) -> (SignedHeader, Option<Vec<u8>>) {
        let header = &stored.header;
        let wanted = to.wants.includes_body(header);
        let permitted = to.access.permits_body(header);
        let body = stored.body.as_ref().filter(|_| wanted && permitted);
        if wanted && body.is_none() {
            self.withhold(header.id());
        }
        if to.access != Access::All {
            self.limited.insert(header.id());
        }
        (header.signed().clone(), body.map(|body| body.to_vec()))
    }

    fn next(
        &mut self,
        to: Receiver,
        rows: &mut usize,
        snapshot: &Snapshot,
    ) -> Result<Next, StorageError> {
        while let Some(asked) = self.asked.pop_front() {
            let (stored, id) = match asked {
                AskedEntry::Id(id) => (snapshot.entry(&id)?, Some(id)),
                AskedEntry::Local(local) => (snapshot.entry_at(local)?, None),
            };
            match (stored, id) {
                (Some(stored), Some(id)) if snapshot.is_left_out(&id)? => {
                    let before =
                        source::void_ancestors(snapshot, &stored.header, VOID_ANCESTORS_MAX)?;
                    self.asked.push_front(AskedEntry::Local(stored.local));
                    for local in before.into_iter().rev() {
                        self.asked.push_front(AskedEntry::Local(local));
                    }
                }
                (Some(stored), _) => {
                    if self.live <= Some(stored.local) {
                        self.known.insert(stored.header.id());
                    }
                    return Ok(Next::Entry(stored));
                }
                (None, Some(id)) => return Ok(Next::Lacks(id)),
                (None, None) => {}
            }
        }
        while let Some(local) = self.plan.next(snapshot)? {
            if let Some(stored) = snapshot.entry_at(local)?
                && !self.waits_there(to, &stored)
            {
                return Ok(Next::Entry(stored));
            }
        }
        while let Some(local) = self.picked.pop_front() {
            if let Some(stored) = snapshot.entry_at(local)?
                && !self.waits_there(to, &stored)
            {
                return Ok(Next::Entry(stored));
            }
        }
        while let Some(job) = self.jobs.front_mut() {
            match job.next(rows, snapshot)? {
                Some(Some(stored)) => {
                    if !self.waits_there(to, &stored) {
                        return Ok(Next::Entry(stored));
                    }
                }
                Some(None) => return Ok(Next::Later),
                None => {
                    self.jobs.pop_front();
                }
            }
        }
        self.next_live(to, rows, snapshot)
    }

    /// Whether the peer was sent the entry and could not use it yet, so that the plan and the ranges leave it out.
    /// What the peer asks for by id, it gets again.
    fn waits_there(&mut self, to: Receiver, stored: &Stored) -> bool {
        let (header, id) = (&stored.header, stored.header.id());
        if self.parked_there.contains(&id) {
            return true;
        }
        let sent = self.limited.contains(&id);
        if sent && to.wants.includes_body(header) && !to.access.permits_body(header) {
            self.withhold(id);
        }
        sent
    }

    fn next_live(
        &mut self,
        to: Receiver,
        rows: &mut usize,
        snapshot: &Snapshot,
    ) -> Result<Next, StorageError> {
        while self.live_open
            && let Some(local) = self.live
            && let Some(stored) = snapshot.entry_at(local)?
        {
            if *rows == 0 {
                return Ok(Next::Later);
            }
            *rows -= 1;
            self.live = Some(LocalSeq(local.0 + 1));
            let id = stored.header.id();
            if self.known.take(&id) || snapshot.is_left_out(&id)? {
                continue;
            }
            let small = stored.header.body.len <= PUSH_BODY_BYTES_MAX;
            return Ok(if small && stored.header.author == to.author {
                Next::Entry(stored)
            } else {
                Next::Announce(id)
            });
        }
        Ok(Next::Nothing)
    }
}

impl Job {
    /// The next entry that the peer lacks; `Some(None)` when the rows of this step are used up.
    fn next(
        &mut self,
        rows: &mut usize,
        snapshot: &Snapshot,
    ) -> Result<Option<Option<Stored>>, StorageError> {
        loop {
            while let Some(local) = self.page.pop_front() {
                if let Some(stored) = snapshot.entry_at(local)?
                    && !self.leaf.theirs.contains(&stored.header.id())
                {
                    return Ok(Some(Some(stored)));
                }
            }
            if self.ended {
                return Ok(None);
            }
            if *rows == 0 {
                return Ok(Some(None));
            }
            let page = source::rows(snapshot, self.at, (*rows).min(256))?;
            *rows -= page.len().max(1).min(*rows);
            match page.last() {
                Some((last, ..)) if *last <= self.leaf.range.to => self.at = *last,
                _ => self.ended = true,
            }
            self.page = page
                .into_iter()
                .filter(|(at, _, counts)| *at <= self.leaf.range.to && *counts)
                .map(|(_, local, _)| local)
                .collect();
        }
    }
}

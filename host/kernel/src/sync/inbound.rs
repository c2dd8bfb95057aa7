//! The receiving half of a session: entries on their way to the store, and ids that the peer was asked for.

use std::collections::{BTreeSet, VecDeque};

use lattice_format::{Header, IntentionId, SignedHeader};

use super::effect::Lack;
use super::limits::{
    HINT_PATIENCE_MS, HINTED_MAX, IDS_MAX, KNOWN_MAX, LISTED_MAX, WANTED_MAX, WINDOW_BYTES,
};
use super::message::{Message, Wants};
use super::peer::Fault;
use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use crate::{Received, Snapshot, StorageError};

type Entry = (SignedHeader, Option<Vec<u8>>);

#[derive(Debug)]
struct Frame {
    entries: Vec<Entry>,
    ids: Vec<IntentionId>,
    cost: u64,
}

#[derive(Debug)]
struct Delivery {
    ids: Vec<IntentionId>,
    cost: u64,
}

/// The receiving half of a session.
#[derive(Debug)]
pub(super) struct Inbound {
    /// How many bytes the peer may still send. The last frame may exceed them, and then they are below zero.
    window: i64,
    /// How many bytes of entries and announcements were taken for which no credit was given yet.
    owed: u64,
    frames: VecDeque<Frame>,
    delivery: Option<Delivery>,
    /// The ids of all frames and of the delivery.
    arriving: BTreeSet<IntentionId>,
    /// Ids that were asked for and not answered.
    wanted: BTreeSet<IntentionId>,
    /// Ids that were asked for in this round, so that none is asked for twice.
    asked: BTreeSet<IntentionId>,
    /// Ids that were asked for, and of which the peer said that it lacks them.
    refused: BTreeSet<IntentionId>,
    hinted: VecDeque<(u64, IntentionId)>,
    /// Entries that the store took and did not witness: they float, are parked, or were dropped.
    undigested: BTreeSet<IntentionId>,
    /// Void entries that the store left out. The node lacks none of them.
    left_out: BTreeSet<IntentionId>,
    parked: u64,
    /// How many batches in a row had missing ancestors and no entry that could be witnessed.
    pub(super) misses: u32,
    /// Whether the store could not take a batch in this round.
    pub(super) interrupted: bool,
    /// Entries received in this session.
    pub(super) received: u64,
    /// Which bodies the peer gives.
    pub(super) peer_gives: Wants,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            window: WINDOW_BYTES as i64,
            owed: 0,
            frames: VecDeque::new(),
            delivery: None,
            arriving: BTreeSet::new(),
            wanted: BTreeSet::new(),
            asked: BTreeSet::new(),
            refused: BTreeSet::new(),
            hinted: VecDeque::new(),
            undigested: BTreeSet::new(),
            left_out: BTreeSet::new(),
            parked: 0,
            misses: 0,
            interrupted: false,
            received: 0,
            peer_gives: Wants::SystemLane,
        }
    }

    /// Begins a round, in which everything may be asked for again.
    pub(super) fn begin_round(&mut self) {
        self.wanted.clear();
        self.asked.clear();
        self.refused.clear();
        self.undigested.clear();
        self.left_out.clear();
        self.parked = 0;
        self.misses = 0;
        self.interrupted = false;
    }

    /// Whether everything that came was taken and everything asked for was answered.
    pub(super) fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.delivery.is_none() && self.wanted.is_empty()
    }

    /// Entries parked by the store in this round.
    pub(super) fn parked(&self) -> u64 {
        self.parked
    }

    /// Takes entries that came. Returns their ids, because the peer has these entries.
    pub(super) fn on_entries(
        &mut self,
        entries: Vec<Entry>,
        cost: u64,
    ) -> Result<Vec<IntentionId>, Fault> {
        self.charge(cost)?;
        let ids: Vec<_> = entries
            .iter()
            .map(|(signed, _)| Header::id_of(&signed.bytes))
            .collect();
        for id in &ids {
            self.wanted.remove(id);
            self.arriving.insert(*id);
        }
        self.received += ids.len() as u64;
        self.frames.push_back(Frame {
            entries,
            ids: ids.clone(),
            cost,
        });
        Ok(ids)
    }

    /// Takes an announcement of so many bytes.
    pub(super) fn on_announce(&mut self, cost: u64) -> Result<(), Fault> {
        self.charge(cost)?;
        self.owed += cost;
        Ok(())
    }

    fn charge(&mut self, cost: u64) -> Result<(), Fault> {
        if self.window <= 0 {
            return Err(Fault::Window { bytes: cost });
        }
        self.window -= cost as i64;
        Ok(())
    }

    /// Takes the peer's answer that it lacks these entries.
    pub(super) fn on_lacks(&mut self, ids: &[IntentionId]) {
        for id in ids {
            if self.wanted.remove(id) && self.refused.len() < WANTED_MAX {
                self.refused.insert(*id);
            }
        }
    }

    /// The next batch for the store, when it is free.
    pub(super) fn deliver(&mut self) -> Option<Vec<Entry>> {
        if self.delivery.is_some() || self.frames.is_empty() {
            return None;
        }
        let mut entries = Vec::new();
        let mut delivery = Delivery {
            ids: Vec::new(),
            cost: 0,
        };
        while let Some(frame) = self.frames.front() {
            let more = entries.len() + frame.entries.len() > BATCH_ENTRIES_MAX
                || delivery.cost + frame.cost > BATCH_BYTES_MAX as u64;
            if !entries.is_empty() && more {
                break;
            }
            if let Some(frame) = self.frames.pop_front() {
                entries.extend(frame.entries);
                delivery.ids.extend(frame.ids);
                delivery.cost += frame.cost;
            }
        }
        self.delivery = Some(delivery);
        Some(entries)
    }

    /// Takes the store's answer to the last batch. Returns the ids of entries that the store misses, and of headers
    /// whose bodies it misses.
    pub(super) fn on_received(
        &mut self,
        received: Option<&Received>,
        snapshot: &Snapshot,
    ) -> Result<Vec<IntentionId>, StorageError> {
        let Some(delivery) = self.delivery.take() else {
            return Ok(Vec::new());
        };
        self.owed += delivery.cost;
        for id in &delivery.ids {
            self.arriving.remove(id);
        }
        let Some(received) = received else {
            self.interrupted = true;
            return Ok(Vec::new());
        };
        for id in &received.left_out {
            if self.left_out.len() < KNOWN_MAX {
                self.left_out.insert(*id);
            }
        }
        self.parked += received.parked as u64;
        if received.floating + received.parked + received.no_room > 0 {
            for id in delivery.ids {
                let fits = self.undigested.len() < KNOWN_MAX && !self.left_out.contains(&id);
                if fits && !snapshot.contains(&id)? {
                    self.undigested.insert(id);
                }
            }
        }
        let stuck = received.witnessed.is_empty() && !received.missing.is_empty();
        self.misses = if stuck { self.misses + 1 } else { 0 };
        let mut missing = received.missing.clone();
        if self.peer_gives == Wants::All {
            missing.extend(&received.bodies_missing);
        }
        Ok(missing)
    }

    /// The credit to give back: with `all` whatever is owed, and else when enough has gathered.
    pub(super) fn credit(&mut self, all: bool) -> Option<Message> {
        if self.owed == 0 || (!all && self.owed < WINDOW_BYTES / 4) {
            return None;
        }
        let bytes = std::mem::take(&mut self.owed);
        self.window += bytes as i64;
        Some(Message::Credit { bytes })
    }

    /// Asks for entries, except those that are under way or were asked for in this round.
    pub(super) fn want(&mut self, ids: impl IntoIterator<Item = IntentionId>) -> Vec<Message> {
        let mut fresh = Vec::new();
        for id in ids {
            let skip = self.arriving.contains(&id)
                || self.wanted.len() == WANTED_MAX
                || self.asked.len() == KNOWN_MAX
                || !self.asked.insert(id);
            if !skip {
                self.wanted.insert(id);
                fresh.push(id);
            }
        }
        fresh
            .chunks(IDS_MAX)
            .map(|ids| Message::Want(ids.to_vec()))
            .collect()
    }

    /// Notes ids that were announced. They are asked for later, if the entries have not come by themselves.
    pub(super) fn hint(&mut self, ids: Vec<IntentionId>, now_ms: u64) {
        let due = now_ms + HINT_PATIENCE_MS;
        let room = HINTED_MAX - self.hinted.len();
        // The next round finds the ids that do not fit.
        self.hinted
            .extend(ids.into_iter().take(room).map(|id| (due, id)));
    }

    /// Asks for the announced entries whose time has come and that did not come by themselves.
    pub(super) fn want_due(
        &mut self,
        now_ms: u64,
        snapshot: &Snapshot,
    ) -> Result<Vec<Message>, StorageError> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.hinted.pop_front_if(|(due, _)| *due <= now_ms) {
            if !self.undigested.contains(&id) && !snapshot.contains(&id)? {
                // Although the peer lacked the entry earlier in this round, after the announcement it may have it.
                if !self.wanted.contains(&id) {
                    self.asked.remove(&id);
                }
                due.push(id);
            }
        }
        Ok(self.want(due))
    }

    /// When the next announced id is to be asked for, in milliseconds since the Unix epoch.
    pub(super) fn wake_ms(&self) -> Option<u64> {
        self.hinted.front().map(|(due, _)| *due)
    }

    /// Whether more may be asked for.
    pub(super) fn has_room(&self) -> bool {
        self.wanted.len() + 2 * IDS_MAX <= WANTED_MAX
    }

    /// What this side lacks: entries that came and are not witnessed, entries that were asked for in vain, and those
    /// of `unknown` that are not here.
    pub(super) fn lack(
        &self,
        unknown: &[IntentionId],
        snapshot: &Snapshot,
    ) -> Result<Lack, StorageError> {
        let mut undigested = 0;
        for id in &self.undigested {
            undigested += u64::from(!snapshot.contains(id)?);
        }
        let mut missing = BTreeSet::new();
        for id in self.refused.iter().chain(unknown) {
            if missing.len() < LISTED_MAX
                && !self.undigested.contains(id)
                && !self.left_out.contains(id)
                && !snapshot.contains(id)?
            {
                missing.insert(*id);
            }
        }
        let parked = self.parked.min(undigested);
        Ok(Lack {
            floating: undigested - parked,
            parked,
            withheld: 0,
            missing: missing.into_iter().collect(),
        })
    }
}

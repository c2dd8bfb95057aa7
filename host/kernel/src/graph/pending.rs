//! Entries that wait: for something that they name, for their body, or for their time.
//!
//! Waiting entries are kept in memory alone, because their sender still has them, and reconciliation asks again for
//! what a restart forgot. Each sending peer has its own bound, in entries and bytes, and all peers together have one.
//! At a peer's bound its newest floating entry is dropped, or its parked entry with the latest time; at the bound of
//! all, that of the peer that holds most. Neither is a fault of the peer's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lattice_format::{DeviceKey, IntentionId, Time, VerifiedBody, VerifiedHeader};

use crate::graph::shares::{Held, Shares};
use crate::limits::{
    DROPPED_MAX, FLOATING_BYTES_MAX, FLOATING_BYTES_PER_PEER, FLOATING_MAX, FLOATING_PER_PEER,
    PARKED_BYTES_MAX, PARKED_BYTES_PER_PEER, PARKED_MAX, PARKED_PER_PEER,
};

/// Why an entry floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FloatReason {
    /// The entry names these entries, which are unknown here.
    Missing(Vec<IntentionId>),
    /// The body has not arrived.
    BodyMissing,
    /// The format or a critical field is newer than this version.
    NotUnderstood(String),
}

/// One floating entry, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingRow {
    /// The entry's id; for an unknown format BLAKE3 of the bytes.
    pub id: IntentionId,
    /// The peer that sent the entry.
    pub from: DeviceKey,
    /// Why the entry waits.
    pub reason: FloatReason,
}

/// One parked entry, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRow {
    /// The entry's id.
    pub id: IntentionId,
    /// The peer that sent the entry.
    pub from: DeviceKey,
    /// The entry's author.
    pub author: DeviceKey,
    /// The time that the entry claims.
    pub time: Time,
    /// When the entry's admission will be decided, in milliseconds since the Unix epoch.
    pub not_before_ms: u64,
}

/// An entry on its way into the log.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) header: VerifiedHeader,
    pub(crate) body: Option<VerifiedBody>,
    pub(crate) from: DeviceKey,
}

impl Arrival {
    fn bytes(&self) -> usize {
        self.header.signed().bytes.len() + self.body.as_ref().map_or(0, |b| b.bytes().len())
    }
}

#[derive(Debug)]
struct Floater {
    /// `None` for a format that this version cannot read.
    arrival: Option<Arrival>,
    from: DeviceKey,
    bytes: usize,
    reason: FloatReason,
    arrived: u64,
}

/// The place of a parked entry: when it will be decided, its time, its id.
type ParkedKey = (u64, Time, IntentionId);

const FIRST_KEY: ParkedKey = (
    0,
    Time {
        wall_ms: 0,
        counter: 0,
    },
    IntentionId([0; 32]),
);
const LAST_KEY: ParkedKey = (
    u64::MAX,
    Time {
        wall_ms: u64::MAX,
        counter: u32::MAX,
    },
    IntentionId([u8::MAX; 32]),
);

/// Which entries are parked, by the peer that brought them. Views share it until the next one is parked or taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct ParkedByPeer(Arc<BTreeSet<(DeviceKey, ParkedKey)>>);

impl ParkedByPeer {
    fn of(&self, peer: DeviceKey) -> impl DoubleEndedIterator<Item = &ParkedKey> {
        let of_peer = (peer, FIRST_KEY)..=(peer, LAST_KEY);
        self.0.range(of_peer).map(|(_, key)| key)
    }

    /// The entries that `peer` brought, in the order in which their time comes.
    pub(crate) fn ids_of(&self, peer: DeviceKey) -> Vec<IntentionId> {
        self.of(peer).map(|(_, _, id)| *id).collect()
    }
}

/// All entries of one store that wait.
#[derive(Debug)]
pub(crate) struct Waiting {
    floating: BTreeMap<IntentionId, Floater>,
    /// By missing entry, the floating entries that wait for it.
    waiting_for: BTreeMap<IntentionId, BTreeSet<IntentionId>>,
    /// The floating entries of each peer by arrival.
    floating_by_peer: BTreeMap<(DeviceKey, u64), IntentionId>,
    floating_shares: Shares,
    parked: BTreeMap<ParkedKey, Arrival>,
    parked_ids: BTreeSet<IntentionId>,
    parked_by_peer: ParkedByPeer,
    parked_shares: Shares,
    dropped: BTreeSet<IntentionId>,
    dropped_order: VecDeque<IntentionId>,
    arrivals: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        let held = |entries, bytes| Held { entries, bytes };
        Self {
            floating: BTreeMap::new(),
            waiting_for: BTreeMap::new(),
            floating_by_peer: BTreeMap::new(),
            floating_shares: Shares::new(
                held(FLOATING_PER_PEER, FLOATING_BYTES_PER_PEER),
                held(FLOATING_MAX, FLOATING_BYTES_MAX),
            ),
            parked: BTreeMap::new(),
            parked_ids: BTreeSet::new(),
            parked_by_peer: ParkedByPeer::default(),
            parked_shares: Shares::new(
                held(PARKED_PER_PEER, PARKED_BYTES_PER_PEER),
                held(PARKED_MAX, PARKED_BYTES_MAX),
            ),
            dropped: BTreeSet::new(),
            dropped_order: VecDeque::new(),
            arrivals: 0,
        }
    }
}

impl Waiting {
    pub(crate) fn contains(&self, id: &IntentionId) -> bool {
        self.floating.contains_key(id) || self.parked_ids.contains(id)
    }

    /// Whether the entry floats only because its body has not arrived.
    pub(crate) fn lacks_body(&self, id: &IntentionId) -> bool {
        self.floating
            .get(id)
            .and_then(|f| f.arrival.as_ref())
            .is_some_and(|arrival| arrival.body.is_none())
    }

    /// Whether an entry that floats here waits for `id`, by itself or through others that float, and is not `refused`.
    pub(crate) fn is_needed<E>(
        &self,
        id: &IntentionId,
        mut refused: impl FnMut(&VerifiedHeader) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut queue = vec![*id];
        let mut visited = BTreeSet::new();
        while let Some(name) = queue.pop() {
            for waiter in self.waiting_for.get(&name).into_iter().flatten() {
                let arrival = self.floating.get(waiter).and_then(|f| f.arrival.as_ref());
                let Some(arrival) = arrival.filter(|_| visited.insert(*waiter)) else {
                    continue;
                };
                if !refused(&arrival.header)? {
                    return Ok(true);
                }
                queue.push(*waiter);
            }
        }
        Ok(false)
    }

    pub(crate) fn was_dropped(&self, id: &IntentionId) -> bool {
        self.dropped.contains(id)
    }

    /// Lets an entry float. Tells whether there was room.
    pub(crate) fn float(&mut self, arrival: Arrival, reason: FloatReason) -> bool {
        let id = arrival.header.id();
        let (from, bytes) = (arrival.from, arrival.bytes());
        self.insert(id, Some(arrival), from, bytes, reason)
    }

    /// Keeps bytes of an unknown format, under the hash of the bytes. Tells whether there was room.
    pub(crate) fn float_unknown(&mut self, bytes: &[u8], from: DeviceKey, reason: String) -> bool {
        let id = IntentionId(*blake3::hash(bytes).as_bytes());
        if self.floating.contains_key(&id) {
            return true;
        }
        self.insert(
            id,
            None,
            from,
            bytes.len(),
            FloatReason::NotUnderstood(reason),
        )
    }

    fn insert(
        &mut self,
        id: IntentionId,
        arrival: Option<Arrival>,
        from: DeviceKey,
        bytes: usize,
        reason: FloatReason,
    ) -> bool {
        self.remove(&id);
        while let Some(peer) = self.floating_shares.gives_way(from, bytes) {
            // The newest entry gives way. Of this peer that is the one that just came.
            if peer == from {
                return false;
            }
            let newest = self
                .floating_by_peer
                .range((peer, 0)..=(peer, u64::MAX))
                .next_back()
                .map(|(_, id)| *id)
                .expect("the peer holds the most entries or bytes");
            self.remove(&newest);
        }
        self.floating_shares.add(from, bytes);
        if let FloatReason::Missing(missing) = &reason {
            for name in missing {
                self.waiting_for.entry(*name).or_default().insert(id);
            }
        }
        self.arrivals += 1;
        self.floating_by_peer.insert((from, self.arrivals), id);
        self.floating.insert(
            id,
            Floater {
                arrival,
                from,
                bytes,
                reason,
                arrived: self.arrivals,
            },
        );
        true
    }

    fn remove(&mut self, id: &IntentionId) -> Option<Floater> {
        let floater = self.floating.remove(id)?;
        if let FloatReason::Missing(missing) = &floater.reason {
            for name in missing {
                if let Some(waiters) = self.waiting_for.get_mut(name) {
                    waiters.remove(id);
                    if waiters.is_empty() {
                        self.waiting_for.remove(name);
                    }
                }
            }
        }
        self.floating_by_peer
            .remove(&(floater.from, floater.arrived));
        self.floating_shares.remove(&floater.from, floater.bytes);
        Some(floater)
    }

    /// Takes out the entries that waited for `id`, oldest arrival first.
    pub(crate) fn woken_by(&mut self, id: &IntentionId) -> Vec<Arrival> {
        let mut woken: Vec<Floater> = self
            .waiting_for
            .remove(id)
            .into_iter()
            .flatten()
            .filter_map(|waiter| self.remove(&waiter))
            .collect();
        woken.sort_by_key(|f| f.arrived);
        woken.into_iter().filter_map(|f| f.arrival).collect()
    }

    /// Takes out a floating entry, whose body has arrived.
    pub(crate) fn take(&mut self, id: &IntentionId) -> Option<Arrival> {
        self.remove(id)?.arrival
    }

    /// Drops an entry for ever, with everything that floats on it.
    pub(crate) fn drop_for_ever(&mut self, id: IntentionId) {
        let mut queue = vec![id];
        while let Some(id) = queue.pop() {
            self.remove(&id);
            if self.dropped.insert(id) {
                self.dropped_order.push_back(id);
            }
            if self.dropped_order.len() > DROPPED_MAX
                && let Some(oldest) = self.dropped_order.pop_front()
            {
                self.dropped.remove(&oldest);
            }
            queue.extend(self.waiting_for.get(&id).into_iter().flatten().copied());
        }
    }

    /// Parks an entry until `not_before_ms`. Tells whether there was room.
    pub(crate) fn park(&mut self, arrival: Arrival, not_before_ms: u64) -> bool {
        let id = arrival.header.id();
        if self.parked_ids.contains(&id) {
            return true;
        }
        let (from, bytes) = (arrival.from, arrival.bytes());
        let key = (not_before_ms, arrival.header.time, id);
        while let Some(peer) = self.parked_shares.gives_way(from, bytes) {
            // The entry with the latest time gives way, which may be the new one.
            let latest = self.parked_by_peer.of(peer).next_back();
            match latest.copied() {
                Some(latest) if peer != from || latest > key => self.take_parked(&latest),
                _ => return false,
            };
        }
        self.parked_shares.add(from, bytes);
        Arc::make_mut(&mut self.parked_by_peer.0).insert((from, key));
        self.parked_ids.insert(id);
        self.parked.insert(key, arrival);
        true
    }

    /// Which entries are parked, for a view.
    pub(crate) fn parked_by_peer(&self) -> ParkedByPeer {
        self.parked_by_peer.clone()
    }

    fn take_parked(&mut self, key: &ParkedKey) -> Option<Arrival> {
        let arrival = self.parked.remove(key)?;
        self.parked_ids.remove(&key.2);
        Arc::make_mut(&mut self.parked_by_peer.0).remove(&(arrival.from, *key));
        self.parked_shares.remove(&arrival.from, arrival.bytes());
        Some(arrival)
    }

    /// Takes out the parked entries whose time has come.
    pub(crate) fn unpark(&mut self, now_ms: u64) -> Vec<Arrival> {
        let mut out = Vec::new();
        while let Some(key) = self.parked.keys().next().copied()
            && key.0 <= now_ms
        {
            out.extend(self.take_parked(&key));
        }
        out
    }

    /// The ids that floating entries wait for, without those that wait here themselves.
    pub(crate) fn missing(&self) -> Vec<IntentionId> {
        self.waiting_for
            .keys()
            .filter(|id| !self.contains(id))
            .copied()
            .collect()
    }

    /// The ids of entries whose body has not arrived.
    pub(crate) fn bodies_missing(&self) -> Vec<IntentionId> {
        self.floating
            .iter()
            .filter(|(_, f)| f.reason == FloatReason::BodyMissing)
            .map(|(id, _)| *id)
            .collect()
    }

    /// How many entries float, and how many are parked.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.floating.len(), self.parked.len())
    }

    /// The bytes of floating entries, and of parked ones.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (
            self.floating_shares.all().bytes,
            self.parked_shares.all().bytes,
        )
    }

    pub(crate) fn floating(&self) -> Vec<FloatingRow> {
        let mut rows: Vec<_> = self.floating.iter().collect();
        rows.sort_by_key(|(_, f)| f.arrived);
        rows.into_iter()
            .map(|(id, f)| FloatingRow {
                id: *id,
                from: f.from,
                reason: f.reason.clone(),
            })
            .collect()
    }

    pub(crate) fn parked(&self) -> Vec<ParkedRow> {
        self.parked
            .iter()
            .map(|((not_before_ms, time, id), arrival)| ParkedRow {
                id: *id,
                from: arrival.from,
                author: arrival.header.author,
                time: *time,
                not_before_ms: *not_before_ms,
            })
            .collect()
    }
}

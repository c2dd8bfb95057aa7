//! Entries that wait: for something that they name, for their body, or for their time.
//!
//! Waiting entries are kept in memory alone, because their sender still has them, and reconciliation asks again for
//! what a restart forgot. Each sending peer has its own bound. At the bound the peer's newest floating entry is
//! dropped, or its parked entry with the latest time. Neither is a fault of the peer's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lattice_format::{DeviceKey, IntentionId, Time, VerifiedBody, VerifiedHeader};

use crate::limits::{
    DROPPED_MAX, FLOATING_BYTES_PER_PEER, FLOATING_MAX, FLOATING_PER_PEER, PARKED_MAX,
    PARKED_PER_PEER,
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

/// All entries of one store that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    floating: BTreeMap<IntentionId, Floater>,
    /// By missing entry, the floating entries that wait for it.
    waiting_for: BTreeMap<IntentionId, BTreeSet<IntentionId>>,
    per_peer: BTreeMap<DeviceKey, (usize, usize)>,
    parked: BTreeMap<(u64, Time, IntentionId), Arrival>,
    parked_ids: BTreeSet<IntentionId>,
    dropped: BTreeSet<IntentionId>,
    dropped_order: VecDeque<IntentionId>,
    arrivals: u64,
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
        let (count, total) = self.per_peer.get(&from).copied().unwrap_or_default();
        // At a bound the newest entry gives way, and that is the one that just came.
        if count >= FLOATING_PER_PEER
            || total + bytes > FLOATING_BYTES_PER_PEER
            || self.floating.len() >= FLOATING_MAX
        {
            return false;
        }
        self.per_peer.insert(from, (count + 1, total + bytes));
        if let FloatReason::Missing(missing) = &reason {
            for name in missing {
                self.waiting_for.entry(*name).or_default().insert(id);
            }
        }
        self.arrivals += 1;
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
        if let Some((count, bytes)) = self.per_peer.get_mut(&floater.from) {
            *count -= 1;
            *bytes -= floater.bytes;
            if *count == 0 {
                self.per_peer.remove(&floater.from);
            }
        }
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
        let of_peer: Vec<(u64, Time, IntentionId)> = self
            .parked
            .iter()
            .filter(|(_, other)| other.from == arrival.from)
            .map(|(key, _)| *key)
            .collect();
        let key = (not_before_ms, arrival.header.time, id);
        if of_peer.len() >= PARKED_PER_PEER || self.parked.len() >= PARKED_MAX {
            // The peer's entry with the latest time gives way, which may be the new one.
            match of_peer.last() {
                Some(last) if *last > key => {
                    self.parked.remove(last);
                    self.parked_ids.remove(&last.2);
                }
                _ => return false,
            }
        }
        self.parked_ids.insert(id);
        self.parked.insert(key, arrival);
        true
    }

    /// Takes out the parked entries whose time has come.
    pub(crate) fn unpark(&mut self, now_ms: u64) -> Vec<Arrival> {
        let mut out = Vec::new();
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 <= now_ms
        {
            self.parked_ids.remove(&entry.key().2);
            out.push(entry.remove());
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

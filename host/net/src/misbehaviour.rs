//! Peers that break the protocol: counted, logged once for each kind, refused for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lattice_format::DeviceKey;
use lattice_kernel::sync::Access;

use crate::limits::{
    BYTES_PER_SECOND, CONNECTION_WINDOW_BYTES, OFFENCES_MAX, OFFENDERS_MAX,
    PAST_MEMBER_BYTES_PER_SECOND, STREAMS_PER_CONNECTION,
};

/// Streams a second that a peer may open, beyond as many as fit a connection.
const STREAMS_PER_SECOND: u64 = 32;

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Offence {
    /// Bytes that are no message of the protocol, or a message at the wrong place.
    Garbage,
    /// A frame or a list beyond its bound.
    Oversized,
    /// Entries, bodies or blobs that do not verify.
    Invalid,
    /// It left what was sent to it unread for too long.
    SlowReader,
    /// It began a request and did not finish it in time.
    Unfinished,
    /// More connections or streams than it may open.
    Flood,
    /// A store, blob or invite that it has no right to.
    NotAllowed,
}

impl Offence {
    /// How much it counts against the peer.
    fn weight(self) -> u32 {
        match self {
            // A peer whose membership this node has not heard of yet asks honestly.
            Self::NotAllowed => 0,
            Self::SlowReader | Self::Unfinished | Self::Flood => 1,
            Self::Garbage | Self::Invalid => 2,
            Self::Oversized => 4,
        }
    }
}

#[derive(Debug)]
struct Record {
    seen: u16,
    weight: u32,
    bans: u32,
    banned_until: Option<Instant>,
    last: Instant,
}

/// What is held against peers. Bounded: the oldest record makes room.
#[derive(Debug)]
pub(crate) struct Offences {
    ban: Duration,
    records: Mutex<HashMap<DeviceKey, Record>>,
}

/// What an offence leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The first of its kind by this peer: log it.
    pub(crate) first: bool,
    /// Close the peer's connections; it is refused for a while.
    pub(crate) drop_peer: bool,
}

impl Offences {
    /// Nobody has done anything yet. `ban` is how long a peer is refused at first.
    pub(crate) fn new(ban: Duration) -> Self {
        Self {
            ban,
            records: Mutex::default(),
        }
    }

    /// Counts an offence.
    pub(crate) fn record(&self, peer: DeviceKey, offence: Offence, now: Instant) -> Verdict {
        let mut records = self.records.lock().expect("no panic while it is held");
        if !records.contains_key(&peer) && records.len() >= OFFENDERS_MAX {
            let oldest = records.iter().min_by_key(|(_, r)| r.last).map(|(k, _)| *k);
            if let Some(oldest) = oldest {
                records.remove(&oldest);
            }
        }
        let record = records.entry(peer).or_insert(Record {
            seen: 0,
            weight: 0,
            bans: 0,
            banned_until: None,
            last: now,
        });
        // One point is forgiven each ban's length, so that rare faults never add up.
        let forgiven = now.duration_since(record.last).as_millis() / self.ban.as_millis().max(1);
        record.weight = record
            .weight
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        record.last = now;
        record.weight += offence.weight();
        let bit = 1 << offence as u16;
        let first = record.seen & bit == 0;
        record.seen |= bit;
        let drop_peer = record.weight >= OFFENCES_MAX;
        if drop_peer {
            record.weight = 0;
            record.banned_until = Some(now + self.ban * (1 << record.bans.min(6)));
            record.bans += 1;
        }
        Verdict { first, drop_peer }
    }

    /// Whether the peer is refused now.
    pub(crate) fn is_banned(&self, peer: &DeviceKey, now: Instant) -> bool {
        let records = self.records.lock().expect("no panic while it is held");
        records
            .get(peer)
            .and_then(|r| r.banned_until)
            .is_some_and(|until| until > now)
    }
}

/// Bytes or frames that may pass by now: refilled at a rate, up to a burst.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: u64,
    burst: u64,
    state: Mutex<(f64, Instant)>,
}

impl Allowance {
    /// Full.
    pub(crate) fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        Self {
            per_second,
            burst,
            state: Mutex::new((burst as f64, now)),
        }
    }

    /// Takes `amount`, and says how long to wait before more is let in.
    pub(crate) fn take(&self, amount: u64, now: Instant) -> Duration {
        let mut state = self.state.lock().expect("no panic while it is held");
        let gained = now.duration_since(state.1).as_secs_f64() * self.per_second as f64;
        let left = (state.0 + gained).min(self.burst as f64) - amount as f64;
        *state = (left, now);
        if left >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-left / self.per_second as f64)
        }
    }
}

/// What a peer may send and open on one connection.
pub(crate) struct Allowances {
    member: Allowance,
    past_member: Allowance,
    pub(crate) streams: Allowance,
}

impl Allowances {
    pub(crate) fn new(now: Instant) -> Self {
        let burst = u64::from(CONNECTION_WINDOW_BYTES);
        Self {
            member: Allowance::new(BYTES_PER_SECOND, BYTES_PER_SECOND, now),
            past_member: Allowance::new(PAST_MEMBER_BYTES_PER_SECOND, burst, now),
            streams: Allowance::new(STREAMS_PER_SECOND, STREAMS_PER_CONNECTION.into(), now),
        }
    }

    /// How many bytes may pass, for a peer with that access.
    pub(crate) fn bytes(&self, access: Access) -> &Allowance {
        match access {
            Access::All => &self.member,
            _ => &self.past_member,
        }
    }
}

/// How many of something each peer holds, so that one cannot take every place.
#[derive(Debug, Default)]
pub(crate) struct PerPeer(Mutex<HashMap<DeviceKey, usize>>);

/// One place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<PerPeer>,
    peer: DeviceKey,
}

impl PerPeer {
    /// A place for the peer, unless it holds `max` already.
    pub(crate) fn enter(self: &Arc<Self>, peer: DeviceKey, max: usize) -> Option<Place> {
        let mut held = self.0.lock().expect("no panic while it is held");
        let count = held.entry(peer).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place {
            places: self.clone(),
            peer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().expect("no panic while it is held");
        if let Some(count) = held.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: DeviceKey = DeviceKey([1; 32]);

    #[test]
    fn an_offence_is_told_once_and_repeated_ones_drop_the_peer() {
        let offences = Offences::new(Duration::from_secs(60));
        let now = Instant::now();
        assert!(offences.record(PEER, Offence::Garbage, now).first);
        for n in 1..OFFENCES_MAX / 2 {
            let verdict = offences.record(PEER, Offence::Garbage, now);
            assert!(!verdict.first);
            assert_eq!(verdict.drop_peer, n == OFFENCES_MAX / 2 - 1);
        }
        assert!(offences.is_banned(&PEER, now));
        assert!(!offences.is_banned(&PEER, now + Duration::from_secs(61)));
        assert!(!offences.is_banned(&DeviceKey([2; 32]), now));
    }

    #[test]
    fn rare_faults_never_add_up() {
        let offences = Offences::new(Duration::from_secs(1));
        let now = Instant::now();
        for n in 0..100 {
            let at = now + Duration::from_secs(n * 10);
            assert!(!offences.record(PEER, Offence::Garbage, at).drop_peer);
        }
    }

    #[test]
    fn records_are_bounded() {
        let offences = Offences::new(Duration::from_secs(1));
        let now = Instant::now();
        for n in 0..OFFENDERS_MAX as u64 + 10 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            offences.record(
                DeviceKey(key),
                Offence::Flood,
                now + Duration::from_millis(n),
            );
        }
        assert_eq!(offences.records.lock().unwrap().len(), OFFENDERS_MAX);
    }

    #[test]
    fn one_peer_takes_no_more_than_its_places() {
        let places = Arc::new(PerPeer::default());
        let first = places.enter(PEER, 2);
        let _second = places.enter(PEER, 2);
        assert!(first.is_some() && places.enter(PEER, 2).is_none());
        assert!(places.enter(DeviceKey([2; 32]), 2).is_some());
        drop(first);
        assert!(places.enter(PEER, 2).is_some());
    }

    #[test]
    fn an_allowance_lets_a_burst_pass_and_then_its_rate() {
        let now = Instant::now();
        let allowance = Allowance::new(1000, 500, now);
        assert_eq!(allowance.take(500, now), Duration::ZERO);
        assert_eq!(allowance.take(100, now), Duration::from_millis(100));
        let later = now + Duration::from_secs(10);
        assert_eq!(allowance.take(500, later), Duration::ZERO);
    }

    #[test]
    fn members_past_members_and_streams_are_let_in_at_their_rates() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let allowances = Allowances::new(now);
        let member = allowances.bytes(Access::All);
        assert_eq!(member.take(BYTES_PER_SECOND, now), Duration::ZERO);
        assert!(member.take(1, now) > Duration::ZERO);
        assert_eq!(
            member.take(BYTES_PER_SECOND - 1, now + second),
            Duration::ZERO
        );
        // What is on its way within the window passes at once, and then the rate counts.
        let past = allowances.bytes(Access::SystemLane);
        let burst = CONNECTION_WINDOW_BYTES.into();
        assert_eq!(past.take(burst, now), Duration::ZERO);
        assert_eq!(past.take(PAST_MEMBER_BYTES_PER_SECOND, now), second);
        assert!(past.take(1, now + second) > Duration::ZERO);
        let streams = &allowances.streams;
        let all = STREAMS_PER_CONNECTION.into();
        assert_eq!(streams.take(all, now), Duration::ZERO);
        assert!(streams.take(1, now) > Duration::ZERO);
    }
}

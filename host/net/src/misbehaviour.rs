//! Peers that break the protocol: counted, logged once for each kind, refused for a while.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lattice_format::DeviceKey;
use lru::LruCache;
use parking_lot::Mutex;

use crate::limits::{MISBEHAVING_PEERS_MAX, MISBEHAVIOUR_MAX};

/// Peers whose misbehaviour is remembered.
const PEERS_MAX: NonZeroUsize = NonZeroUsize::new(MISBEHAVING_PEERS_MAX).expect("more than none");

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Misbehaviour {
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

impl Misbehaviour {
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

/// The misbehaviour of peers. Bounded: the peer whose last misbehaviour is oldest makes room.
#[derive(Debug)]
pub(crate) struct MisbehaviourLog {
    ban: Duration,
    records: Mutex<LruCache<DeviceKey, Record>>,
}

/// What follows from one misbehaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The first of its kind by this peer: log it.
    pub(crate) first: bool,
    /// Close the peer's connections; it is refused for a while.
    pub(crate) drop_peer: bool,
}

impl MisbehaviourLog {
    /// Nobody has done anything yet. `ban` is how long a peer is refused at first.
    pub(crate) fn new(ban: Duration) -> Self {
        Self {
            ban,
            records: Mutex::new(LruCache::new(PEERS_MAX)),
        }
    }

    /// Counts one misbehaviour.
    pub(crate) fn record(
        &self,
        peer: DeviceKey,
        misbehaviour: Misbehaviour,
        now: Instant,
    ) -> Verdict {
        let mut records = self.records.lock();
        let record = records.get_or_insert_mut(peer, || Record {
            seen: 0,
            weight: 0,
            bans: 0,
            banned_until: None,
            last: now,
        });
        // The weight falls by one each time the length of a ban passes, so that rare faults never add up.
        let forgiven = now.duration_since(record.last).as_millis() / self.ban.as_millis().max(1);
        record.weight = record
            .weight
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        record.last = now;
        record.weight += misbehaviour.weight();
        let bit = 1 << misbehaviour as u16;
        let first = record.seen & bit == 0;
        record.seen |= bit;
        let drop_peer = record.weight >= MISBEHAVIOUR_MAX;
        if drop_peer {
            record.weight = 0;
            record.banned_until = Some(now + self.ban * (1 << record.bans.min(6)));
            record.bans += 1;
        }
        Verdict { first, drop_peer }
    }

    /// Whether the peer is refused now.
    pub(crate) fn is_banned(&self, peer: &DeviceKey, now: Instant) -> bool {
        let records = self.records.lock();
        // Peers that only ask do not count as those that misbehaved last.
        records
            .peek(peer)
            .and_then(|r| r.banned_until)
            .is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: DeviceKey = DeviceKey([1; 32]);

    #[test]
    fn an_offence_is_told_once_and_repeated_ones_drop_the_peer() {
        let log = MisbehaviourLog::new(Duration::from_secs(60));
        let now = Instant::now();
        assert!(log.record(PEER, Misbehaviour::Garbage, now).first);
        for n in 1..MISBEHAVIOUR_MAX / 2 {
            let verdict = log.record(PEER, Misbehaviour::Garbage, now);
            assert!(!verdict.first);
            assert_eq!(verdict.drop_peer, n == MISBEHAVIOUR_MAX / 2 - 1);
        }
        assert!(log.is_banned(&PEER, now));
        assert!(!log.is_banned(&PEER, now + Duration::from_secs(61)));
        assert!(!log.is_banned(&DeviceKey([2; 32]), now));
    }

    #[test]
    fn rare_faults_never_add_up() {
        let log = MisbehaviourLog::new(Duration::from_secs(1));
        let now = Instant::now();
        for n in 0..100 {
            let at = now + Duration::from_secs(n * 10);
            assert!(!log.record(PEER, Misbehaviour::Garbage, at).drop_peer);
        }
    }

    #[test]
    fn records_are_bounded() {
        let log = MisbehaviourLog::new(Duration::from_secs(1));
        let now = Instant::now();
        for n in 0..MISBEHAVING_PEERS_MAX as u64 + 10 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            log.record(
                DeviceKey(key),
                Misbehaviour::Flood,
                now + Duration::from_millis(n),
            );
        }
        assert_eq!(log.records.lock().len(), MISBEHAVING_PEERS_MAX);
    }
}

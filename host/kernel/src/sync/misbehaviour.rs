//! Peers that break the protocol: what each fault costs, when it is forgiven, and for how long a peer is refused.
//!
//! A node runs one [`MisbehaviourLog`], whatever stores it shares with a peer and whatever protocol the peer broke.
//! The value reads no clock: times are arguments, in milliseconds since some moment of the node. The shell closes the
//! connections of a peer that is dropped, and refuses new ones while [`MisbehaviourLog::is_banned`] says so.

use std::collections::BTreeMap;

use lattice_format::DeviceKey;

use super::effect::{CloseReason, Effect};
use super::limits::{BAN_DOUBLINGS_MAX, MISBEHAVING_PEERS_MAX, MISBEHAVIOUR_MAX};

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
    /// How much it counts against the peer. At [`MISBEHAVIOUR_MAX`] the peer is dropped.
    pub fn weight(self) -> u32 {
        match self {
            // A peer whose membership this node has not heard of yet asks honestly.
            Self::NotAllowed => 0,
            Self::SlowReader | Self::Unfinished | Self::Flood => 1,
            Self::Garbage | Self::Invalid => 2,
            Self::Oversized => 4,
        }
    }
}

impl Effect {
    /// What the peer of the session did, if this effect follows from a fault of the peer.
    pub fn misbehaviour(&self) -> Option<Misbehaviour> {
        match self {
            Self::Slow { .. } => Some(Misbehaviour::Invalid),
            Self::Close(reason) => reason.misbehaviour(),
            _ => None,
        }
    }
}

impl CloseReason {
    /// What the peer of the session did, if the session ended by a fault of the peer.
    pub fn misbehaviour(&self) -> Option<Misbehaviour> {
        match self {
            Self::Peer(_) => None,
            Self::Refused(_) => Some(Misbehaviour::NotAllowed),
            Self::Faulty { .. } => Some(Misbehaviour::Garbage),
        }
    }
}

/// What follows from one misbehaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is the first of its kind by this peer: log it.
    pub is_first: bool,
    /// The peer is banned from now on: close its connections.
    pub is_dropped: bool,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// A bit for each kind of misbehaviour that was seen.
    seen: u16,
    weight: u32,
    ban_count: u32,
    banned_until_ms: Option<u64>,
    last_ms: u64,
    /// The place of the record in the order of the last misbehaviours.
    number: u64,
}

/// The misbehaviour of peers. It remembers [`MISBEHAVING_PEERS_MAX`] peers; beyond them, the peer whose last
/// misbehaviour is oldest makes room.
#[derive(Clone, Debug)]
pub struct MisbehaviourLog {
    ban_ms: u64,
    records: BTreeMap<DeviceKey, Record>,
    /// The peers in the order of their last misbehaviours.
    order: BTreeMap<u64, DeviceKey>,
    count: u64,
}

impl MisbehaviourLog {
    /// A log of no peers. `ban_ms` is how long a peer is refused the first time; each further ban lasts twice as long
    /// as the one before, up to [`BAN_DOUBLINGS_MAX`] doublings.
    pub fn new(ban_ms: u64) -> Self {
        Self {
            ban_ms,
            records: BTreeMap::new(),
            order: BTreeMap::new(),
            count: 0,
        }
    }

    /// Counts one misbehaviour.
    pub fn record(&mut self, peer: DeviceKey, kind: Misbehaviour, now_ms: u64) -> Verdict {
        let ban_ms = self.ban_ms;
        let record = self.latest(peer, now_ms);
        // The weight falls by one each time the length of a first ban passes, so that rare faults never add up.
        let forgiven = now_ms.saturating_sub(record.last_ms) / ban_ms.max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        record.weight = record.weight.saturating_sub(forgiven) + kind.weight();
        record.last_ms = now_ms;
        let bit = 1 << kind as u16;
        let is_first = record.seen & bit == 0;
        record.seen |= bit;
        let is_dropped = record.weight >= MISBEHAVIOUR_MAX;
        if is_dropped {
            record.weight = 0;
            let length_ms = ban_ms << record.ban_count.min(BAN_DOUBLINGS_MAX);
            record.banned_until_ms = Some(now_ms.saturating_add(length_ms));
            record.ban_count += 1;
        }
        Verdict {
            is_first,
            is_dropped,
        }
    }

    /// Whether the peer is refused now. To be refused is no misbehaviour, and changes nothing.
    pub fn is_banned(&self, peer: &DeviceKey, now_ms: u64) -> bool {
        let record = self.records.get(peer);
        let until_ms = record.and_then(|record| record.banned_until_ms);
        until_ms.is_some_and(|until_ms| until_ms > now_ms)
    }

    /// The record of a peer, as the latest in the order.
    fn latest(&mut self, peer: DeviceKey, now_ms: u64) -> &mut Record {
        if let Some(known) = self.records.get(&peer) {
            self.order.remove(&known.number);
        } else if self.records.len() >= MISBEHAVING_PEERS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.records.remove(&oldest);
        }
        self.count += 1;
        self.order.insert(self.count, peer);
        let record = self.records.entry(peer).or_insert(Record {
            seen: 0,
            weight: 0,
            ban_count: 0,
            banned_until_ms: None,
            last_ms: now_ms,
            number: 0,
        });
        record.number = self.count;
        record
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{ErrorCode, PeerError};
    use super::*;

    const PEER: DeviceKey = DeviceKey([1; 32]);
    const BAN_MS: u64 = 60_000;

    fn peer(n: u64) -> DeviceKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        DeviceKey(key)
    }

    /// Has the peer banned at that time.
    fn ban(log: &mut MisbehaviourLog, now_ms: u64) {
        let faults = MISBEHAVIOUR_MAX / Misbehaviour::Garbage.weight();
        let verdicts = (0..faults).map(|_| log.record(PEER, Misbehaviour::Garbage, now_ms));
        let dropped: Vec<_> = verdicts.map(|verdict| verdict.is_dropped).collect();
        let mut expected = vec![false; faults as usize];
        expected[faults as usize - 1] = true;
        assert_eq!(dropped, expected, "the last fault drops the peer");
    }

    #[test]
    fn a_fault_is_told_once_a_kind() {
        let mut log = MisbehaviourLog::new(BAN_MS);
        assert!(log.record(PEER, Misbehaviour::Garbage, 0).is_first);
        assert!(!log.record(PEER, Misbehaviour::Garbage, 0).is_first);
        assert!(log.record(PEER, Misbehaviour::Flood, 0).is_first);
        assert!(log.record(peer(2), Misbehaviour::Garbage, 0).is_first);
    }

    #[test]
    fn repeated_faults_ban_the_peer_for_a_while_and_nobody_else() {
        let mut log = MisbehaviourLog::new(BAN_MS);
        ban(&mut log, 7);
        assert!(log.is_banned(&PEER, 7));
        assert!(log.is_banned(&PEER, 7 + BAN_MS - 1));
        assert!(!log.is_banned(&PEER, 7 + BAN_MS));
        assert!(!log.is_banned(&peer(2), 7));
    }

    #[test]
    fn each_ban_lasts_twice_as_long_up_to_a_bound() {
        let mut log = MisbehaviourLog::new(BAN_MS);
        let mut now_ms = 0;
        for n in 0..BAN_DOUBLINGS_MAX + 3 {
            ban(&mut log, now_ms);
            let length_ms = BAN_MS << n.min(BAN_DOUBLINGS_MAX);
            assert!(log.is_banned(&PEER, now_ms + length_ms - 1), "ban {n}");
            assert!(!log.is_banned(&PEER, now_ms + length_ms), "ban {n}");
            now_ms += length_ms;
        }
    }

    #[test]
    fn rare_faults_never_add_up() {
        let mut log = MisbehaviourLog::new(BAN_MS);
        let pause_ms = BAN_MS * u64::from(Misbehaviour::Garbage.weight());
        for n in 0..100 {
            let verdict = log.record(PEER, Misbehaviour::Garbage, n * pause_ms);
            assert!(!verdict.is_dropped);
        }
        // What comes a little faster than it is forgiven does.
        let from_ms = 100 * pause_ms;
        let dropped = (0..100).any(|n| {
            let at_ms = from_ms + n * (BAN_MS - 1);
            log.record(PEER, Misbehaviour::Garbage, at_ms).is_dropped
        });
        assert!(dropped);
    }

    #[test]
    fn who_asks_for_what_it_may_not_have_is_told_of_and_never_banned() {
        let mut log = MisbehaviourLog::new(BAN_MS);
        assert!(log.record(PEER, Misbehaviour::NotAllowed, 0).is_first);
        for _ in 0..10 * MISBEHAVIOUR_MAX {
            assert!(!log.record(PEER, Misbehaviour::NotAllowed, 0).is_dropped);
        }
    }

    #[test]
    fn so_many_peers_are_remembered_and_the_one_that_was_quiet_longest_makes_room() {
        let mut log = MisbehaviourLog::new(BAN_MS);
        ban(&mut log, 0);
        for n in 0..MISBEHAVING_PEERS_MAX as u64 - 1 {
            log.record(peer(n), Misbehaviour::Flood, 0);
        }
        assert!(log.is_banned(&PEER, 0), "there is room for so many");
        // Another fault makes the record of the peer the latest, so another one goes.
        log.record(PEER, Misbehaviour::Flood, 0);
        log.record(peer(u64::MAX), Misbehaviour::Flood, 0);
        assert!(log.is_banned(&PEER, 0));
        assert_eq!(log.records.len(), MISBEHAVING_PEERS_MAX);
        assert_eq!(log.order.len(), MISBEHAVING_PEERS_MAX);
        assert!(log.record(peer(0), Misbehaviour::Flood, 0).is_first);
        for n in 1..MISBEHAVING_PEERS_MAX as u64 {
            log.record(peer(n), Misbehaviour::Flood, 0);
        }
        assert!(!log.is_banned(&PEER, 0), "it was quiet longest");
    }

    #[test]
    fn what_a_session_says_of_its_peer_counts_by_its_kind() {
        let error = |code| PeerError {
            code,
            text: String::new(),
        };
        let reason = String::new;
        let slow = Effect::Slow {
            ms: 1,
            reason: reason(),
        };
        let refused = CloseReason::Refused(error(ErrorCode::UnknownStore));
        let faulty = CloseReason::Faulty { reason: reason() };
        let told = CloseReason::Peer(error(ErrorCode::Internal));
        assert_eq!(slow.misbehaviour(), Some(Misbehaviour::Invalid));
        let close = |reason| Effect::Close(reason).misbehaviour();
        assert_eq!(close(refused), Some(Misbehaviour::NotAllowed));
        assert_eq!(close(faulty), Some(Misbehaviour::Garbage));
        assert_eq!(close(told), None, "the peer's word costs the peer nothing");
        assert_eq!(Effect::Again.misbehaviour(), None);
    }
}

//! What a peer may use of this node: bytes and streams at a rate, and places at one time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lattice_format::DeviceKey;
use lattice_kernel::sync::Access;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    BYTES_PER_SECOND, CONNECTION_WINDOW_BYTES, PAST_MEMBER_BYTES_PER_SECOND, STREAMS_PER_CONNECTION,
};

/// Streams a second that a peer may open, beyond as many as fit a connection.
const STREAMS_PER_SECOND: u64 = 32;

/// Bytes or frames that may pass by now: refilled at a rate, up to a burst.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: u64,
    burst: u64,
    state: Mutex<(f64, Instant)>,
}

impl Allowance {
    pub(crate) fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        Self {
            per_second,
            burst,
            state: Mutex::new((burst as f64, now)),
        }
    }

    /// Takes `amount`, and says how long to wait before more is let in.
    pub(crate) fn take(&self, amount: u64, now: Instant) -> Duration {
        let mut state = self.state.lock();
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

/// One of the places that a peer holds; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct PeerSlot {
    places: Arc<PerPeer>,
    peer: DeviceKey,
}

impl PerPeer {
    /// A place for the peer, unless it holds `max` already.
    pub(crate) fn enter(self: &Arc<Self>, peer: DeviceKey, max: usize) -> Option<PeerSlot> {
        let mut held = self.0.lock();
        let count = held.entry(peer).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(PeerSlot {
            places: self.clone(),
            peer,
        })
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut held = self.places.0.lock();
        if let Some(count) = held.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

/// The places of incoming connections, all protocols together. Anybody can make keys, so strangers together have few
/// of the places: however many come, members find the others free.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// The place of one incoming connection; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    of_strangers: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// So many places, of which strangers may have so many.
    pub(crate) fn new(all: usize, strangers: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            strangers: Arc::new(Semaphore::new(strangers)),
        }
    }

    /// A place for a peer that shares a store with this node, or that a bound of its own protocol counts.
    pub(crate) fn enter(&self) -> Option<Place> {
        Some(Place {
            _of_all: self.all.clone().try_acquire_owned().ok()?,
            of_strangers: None,
        })
    }

    /// A place for a stranger.
    pub(crate) fn enter_as_stranger(&self) -> Option<Place> {
        let of_strangers = self.strangers.clone().try_acquire_owned().ok()?;
        Some(Place {
            of_strangers: Some(of_strangers),
            ..self.enter()?
        })
    }
}

impl Place {
    /// Notes that the peer shares a store with this node, so that another stranger can take its place among these.
    pub(crate) fn is_known(&mut self) {
        self.of_strangers = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{INCOMING_MAX, STRANGERS_MAX};

    /// Holds: invariant 10.
    #[test]
    fn however_many_strangers_come_members_find_places() {
        let places = Places::new(INCOMING_MAX, STRANGERS_MAX);
        let strangers =
            || -> Vec<Place> { std::iter::from_fn(|| places.enter_as_stranger()).collect() };
        let mut came = strangers();
        assert_eq!(came.len(), STRANGERS_MAX);
        let members: Vec<Place> = std::iter::from_fn(|| places.enter()).collect();
        assert_eq!(members.len(), INCOMING_MAX - STRANGERS_MAX);
        // The strangers' places are theirs alone, and who leaves makes room for another one.
        came.pop();
        assert_eq!(strangers().len(), 1);
        drop(members);
        // One that turns out to be a member takes no place of strangers.
        came.extend(places.enter_as_stranger());
        came[0].is_known();
        came.extend(strangers());
        assert_eq!(came.len(), STRANGERS_MAX + 1);
        let members: Vec<Place> = std::iter::from_fn(|| places.enter()).collect();
        assert_eq!(members.len(), INCOMING_MAX - STRANGERS_MAX - 1);
    }

    const PEER: DeviceKey = DeviceKey([1; 32]);

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

//! What the parts of a running network share.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, TransportAddr};
use lattice_format::{DeviceKey, IntentionId, StoreId};
use lattice_kernel::sync::Access;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::config::Timings;
use crate::endpoint::{code, id_of};
use crate::host::{Governance, NetEvent, NetHost};
use crate::limits::{
    ANNOUNCE_MAX, CONNECTIONS_MAX, DIALS_MAX, FIRST_ROUNDS_MAX, INCOMING_MAX, PEERS_MAX,
    SESSIONS_PER_STORE,
};
use crate::link::Links;
use crate::misbehaviour::{Offence, Offences, Verdict};
use crate::peers::{Peers, Source};

/// How long a session is waited for that does not end its first round.
const FIRST_ROUND: Duration = Duration::from_secs(2);

/// Everything that tasks of one network need. One lives behind an `Arc` for each `Net`.
pub(crate) struct Shared {
    pub(crate) host: Arc<dyn NetHost>,
    pub(crate) endpoint: Endpoint,
    pub(crate) lookup: MemoryLookup,
    pub(crate) me: DeviceKey,
    pub(crate) timings: Timings,
    pub(crate) discovery: bool,
    pub(crate) peers: Peers,
    pub(crate) offences: Offences,
    pub(crate) links: Links,
    /// An address was learnt that others may want.
    pub(crate) address_news: Notify,
    /// Dials under way.
    pub(crate) dials: Semaphore,
    /// Connections that this node opened.
    pub(crate) outgoing: Arc<Semaphore>,
    /// Connections that others opened, all protocols together.
    pub(crate) incoming: Arc<Semaphore>,
    stores: RwLock<HashMap<StoreId, Arc<StoreNet>>>,
    stop: watch::Sender<bool>,
    /// Every task holds a clone; closing drops this one and waits for theirs.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

/// One store on the network.
pub(crate) struct StoreNet {
    pub(crate) id: StoreId,
    /// Counts what made sessions look again: a grown log, other members.
    pub(crate) changed: watch::Sender<u64>,
    /// What the gossip task of this store is to do.
    pub(crate) gossip: mpsc::Sender<TopicCommand>,
    /// Set when announcements did not fit: peers are told to compare instead.
    pub(crate) overflowed: AtomicBool,
    governance: Mutex<Option<Arc<Governance>>>,
    /// Peers that a token named, or that served the join, until governance is known here.
    trusted: Mutex<HashSet<DeviceKey>>,
    sessions: Mutex<HashMap<DeviceKey, SessionEntry>>,
}

/// What another task tells a session.
#[derive(Debug)]
pub(crate) enum Poke {
    /// Gossip announced these.
    Announced(Vec<IntentionId>),
    /// Compare now.
    Reconcile,
}

/// What other tasks tell the gossip task of a store.
#[derive(Debug)]
pub(crate) enum TopicCommand {
    /// This node wrote that entry.
    Announce(IntentionId),
    /// A member is connected and may be a neighbour.
    Peer(DeviceKey),
    /// The members or the salt may have changed.
    Look,
}

#[derive(Debug)]
struct SessionEntry {
    number: u64,
    by_us: bool,
    answered: Arc<AtomicBool>,
    since: Instant,
    /// Its first round has ended.
    compared: Arc<AtomicBool>,
    poke: mpsc::Sender<Poke>,
}

/// A session's place in the table; leaving it frees the place.
pub(crate) struct SessionPlace {
    store: Arc<StoreNet>,
    peer: DeviceKey,
    number: u64,
    answered: Arc<AtomicBool>,
    compared: Arc<AtomicBool>,
    /// Ends (with `None`) when another session takes the place.
    pub(crate) pokes: mpsc::Receiver<Poke>,
}

impl SessionPlace {
    /// The peer has answered on this session's stream.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The first round has ended: others may begin theirs.
    pub(crate) fn compared(&self) {
        self.compared.store(true, Ordering::Relaxed);
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let mut sessions = self
            .store
            .sessions
            .lock()
            .expect("no panic while it is held");
        if sessions
            .get(&self.peer)
            .is_some_and(|e| e.number == self.number)
        {
            sessions.remove(&self.peer);
        }
    }
}

/// Why a session got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// There is one that both sides keep.
    Duplicate,
    /// The store has as many as it takes.
    Full,
}

impl StoreNet {
    /// A store without sessions, and the queue of its gossip task.
    pub(crate) fn new(id: StoreId) -> (Arc<Self>, mpsc::Receiver<TopicCommand>) {
        let (gossip, commands) = mpsc::channel(ANNOUNCE_MAX);
        let store = Self {
            id,
            changed: watch::Sender::new(0),
            gossip,
            overflowed: AtomicBool::new(false),
            governance: Mutex::default(),
            trusted: Mutex::default(),
            sessions: Mutex::default(),
        };
        (Arc::new(store), commands)
    }

    /// Takes the place of the session with `peer`, unless another keeps it.
    ///
    /// When both sides open a stream at the same time, both keep the one that the smaller key opened.
    /// A stream that the peer opens after it has answered on the first means that it lost the first.
    pub(crate) fn enter(
        self: &Arc<Self>,
        me: &DeviceKey,
        peer: DeviceKey,
        by_us: bool,
    ) -> Result<SessionPlace, NoPlace> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut sessions = self.sessions.lock().expect("no panic while it is held");
        match sessions.get(&peer) {
            Some(_) if by_us => return Err(NoPlace::Duplicate),
            Some(old) if old.by_us && !old.answered.load(Ordering::Relaxed) && *me < peer => {
                return Err(NoPlace::Duplicate);
            }
            None if sessions.len() >= SESSIONS_PER_STORE => return Err(NoPlace::Full),
            _ => {}
        }
        let (poke, pokes) = mpsc::channel(64);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let answered = Arc::new(AtomicBool::new(false));
        let compared = Arc::new(AtomicBool::new(false));
        sessions.insert(
            peer,
            SessionEntry {
                number,
                by_us,
                answered: answered.clone(),
                since: Instant::now(),
                compared: compared.clone(),
                poke,
            },
        );
        Ok(SessionPlace {
            store: self.clone(),
            peer,
            number,
            answered,
            compared,
            pokes,
        })
    }

    /// Whether so many sessions that this node opened are in their first round that a further one would bring the
    /// same entries again. Who is slow, or gone, is not waited for; who opens sessions here delays nothing.
    pub(crate) fn is_comparing(&self) -> bool {
        let sessions = self.sessions.lock().expect("no panic while it is held");
        let first = sessions.values().filter(|entry| {
            entry.by_us
                && !entry.compared.load(Ordering::Relaxed)
                && entry.since.elapsed() < FIRST_ROUND
        });
        first.count() >= FIRST_ROUNDS_MAX
    }

    /// Whether a session with the peer runs.
    pub(crate) fn has_session(&self, peer: &DeviceKey) -> bool {
        let sessions = self.sessions.lock().expect("no panic while it is held");
        sessions.contains_key(peer)
    }

    /// The peers that a session runs with.
    pub(crate) fn session_peers(&self) -> Vec<DeviceKey> {
        let sessions = self.sessions.lock().expect("no panic while it is held");
        sessions.keys().copied().collect()
    }

    /// Tells one session; `false` when none runs or it has too much to do already.
    pub(crate) fn poke(&self, peer: &DeviceKey, poke: Poke) -> bool {
        let sessions = self.sessions.lock().expect("no panic while it is held");
        sessions
            .get(peer)
            .is_some_and(|entry| entry.poke.try_send(poke).is_ok())
    }

    /// Lets gossip announce what this node wrote. What does not fit is not announced: peers are told to
    /// compare instead.
    pub(crate) fn announce(&self, written: &[IntentionId]) {
        for id in written {
            if self.gossip.try_send(TopicCommand::Announce(*id)).is_err() {
                self.overflowed.store(true, Ordering::Relaxed);
                break;
            }
        }
    }

    /// Tells every session to compare.
    pub(crate) fn reconcile(&self) {
        let sessions = self.sessions.lock().expect("no panic while it is held");
        for entry in sessions.values() {
            // A full queue holds a wish to compare already, or announcements that lead to it.
            let _ = entry.poke.try_send(Poke::Reconcile);
        }
    }

    /// Lets a joiner talk to these before it knows the members.
    pub(crate) fn trust(&self, peers: impl IntoIterator<Item = DeviceKey>) {
        let mut trusted = self.trusted.lock().expect("no panic while it is held");
        for peer in peers {
            if trusted.len() < PEERS_MAX {
                trusted.insert(peer);
            }
        }
    }

    /// The members, as last read.
    pub(crate) fn governance(&self) -> Option<Arc<Governance>> {
        let governance = self.governance.lock().expect("no panic while it is held");
        governance.clone()
    }

    /// Replaces the members; whether that was a change.
    pub(crate) fn set_governance(&self, new: Option<Arc<Governance>>) -> bool {
        let mut governance = self.governance.lock().expect("no panic while it is held");
        let same = match (&*governance, &new) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        *governance = new;
        !same
    }

    /// What the peer may have of this store.
    pub(crate) fn access(&self, peer: &DeviceKey) -> Access {
        let known = self.governance().map_or(Access::None, |g| g.access(peer));
        if known == Access::None && self.is_trusted(peer) {
            // A joiner has nothing that these lack, but must not refuse those who serve it.
            return Access::SystemLane;
        }
        known
    }

    fn is_trusted(&self, peer: &DeviceKey) -> bool {
        let trusted = self.trusted.lock().expect("no panic while it is held");
        trusted.contains(peer)
    }

    /// Everyone to keep in touch with: present and past members, and those that are trusted.
    pub(crate) fn acquaintances(&self) -> Vec<DeviceKey> {
        let mut peers: Vec<DeviceKey> = self
            .governance()
            .map(|g| g.members.iter().map(|m| m.device).collect())
            .unwrap_or_default();
        let trusted = self.trusted.lock().expect("no panic while it is held");
        peers.extend(trusted.iter().copied());
        peers
    }

    /// Whether this node must be quick to reach the peer: an active member, or one that it joins by.
    pub(crate) fn is_close(&self, peer: &DeviceKey) -> bool {
        self.access(peer) == Access::All || self.is_trusted(peer)
    }
}

impl Shared {
    /// Nothing runs yet. The receiver ends when all tasks have.
    pub(crate) fn new(
        host: Arc<dyn NetHost>,
        endpoint: Endpoint,
        lookup: MemoryLookup,
        timings: Timings,
        discovery: bool,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        let shared = Self {
            me: crate::endpoint::device_of(endpoint.id()),
            host,
            endpoint,
            lookup,
            offences: Offences::new(timings.ban),
            timings,
            discovery,
            peers: Peers::default(),
            links: Links::default(),
            address_news: Notify::new(),
            dials: Semaphore::new(DIALS_MAX),
            outgoing: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            incoming: Arc::new(Semaphore::new(INCOMING_MAX)),
            stores: RwLock::default(),
            stop: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
        };
        (Arc::new(shared), ended)
    }

    /// Runs a task until it ends or the network closes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self
            .alive
            .lock()
            .expect("no panic while it is held")
            .clone();
        let Some(alive) = alive else { return };
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            let _alive = alive;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = task => {}
            }
        });
    }

    /// Ends all tasks and starts no more.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
        self.alive.lock().expect("no panic while it is held").take();
    }

    /// The store, if this node has it on the network.
    pub(crate) fn store(&self, id: &StoreId) -> Option<Arc<StoreNet>> {
        let stores = self.stores.read().expect("no panic while it is held");
        stores.get(id).cloned()
    }

    /// All stores.
    pub(crate) fn stores(&self) -> Vec<Arc<StoreNet>> {
        let stores = self.stores.read().expect("no panic while it is held");
        stores.values().cloned().collect()
    }

    /// Puts a store on the network, unless it is there.
    pub(crate) fn insert_store(&self, store: Arc<StoreNet>) -> bool {
        let mut stores = self.stores.write().expect("no panic while it is held");
        match stores.entry(store.id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(store);
                true
            }
        }
    }

    /// Takes a store off the network. Its sessions end.
    pub(crate) fn remove_store(&self, id: &StoreId) -> Option<Arc<StoreNet>> {
        let removed = {
            let mut stores = self.stores.write().expect("no panic while it is held");
            stores.remove(id)
        };
        if let Some(store) = &removed {
            let mut sessions = store.sessions.lock().expect("no panic while it is held");
            sessions.clear();
        }
        self.peers.forget_store(id);
        removed
    }

    /// A place for a connection that somebody opened, for as long as it is kept; without one it is closed.
    pub(crate) fn take_in(&self, connection: &Connection) -> Option<OwnedSemaphorePermit> {
        let place = self.incoming.clone().try_acquire_owned().ok();
        if place.is_none() {
            connection.close(code::BUSY, b"too many connections");
        }
        place
    }

    /// Whether the peer is an active member of any store here.
    pub(crate) fn is_member_of_any(&self, peer: &DeviceKey) -> bool {
        self.stores().iter().any(|s| s.access(peer) == Access::All)
    }

    /// Where a peer is; tells the host, and whoever waits to dial it.
    pub(crate) fn learn(&self, peer: DeviceKey, addresses: &[SocketAddr], source: Source) {
        if peer == self.me || addresses.is_empty() {
            return;
        }
        let Some(addresses) = self.peers.learn(peer, addresses, source) else {
            return;
        };
        if let Some(id) = id_of(&peer) {
            let addrs = addresses.iter().copied().map(TransportAddr::Ip);
            self.lookup
                .set_endpoint_info(EndpointAddr::from_parts(id, addrs));
        }
        self.links.address_learnt(&peer);
        self.address_news.notify_one();
        self.host.event(NetEvent::Addresses { peer, addresses });
    }

    /// Counts an offence, logs it once, and says whether to drop the peer.
    pub(crate) fn offence(&self, peer: DeviceKey, kind: Offence, text: &str) -> bool {
        let Verdict { first, drop_peer } = self.offences.record(peer, kind, Instant::now());
        if first {
            if kind == Offence::NotAllowed {
                tracing::info!(%peer, ?kind, "{text}");
            } else {
                tracing::warn!(%peer, ?kind, "{text}");
            }
            self.host.event(NetEvent::Offence {
                peer,
                kind,
                text: text.to_owned(),
            });
        }
        if drop_peer {
            self.links.drop_peer(&peer, crate::endpoint::code::OFFENCE);
        }
        drop_peer
    }

    /// Whether the peer is refused for what it did.
    pub(crate) fn is_banned(&self, peer: &DeviceKey) -> bool {
        self.offences.is_banned(peer, Instant::now())
    }
}

/// `base` doubled `failures` times, at most `max`, between half of it and all of it at random, so that
/// many nodes do not knock at once.
pub(crate) fn backoff(base: Duration, max: Duration, failures: u32) -> Duration {
    let full = base.saturating_mul(1 << failures.min(16)).min(max);
    full.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_both_open_a_session_both_keep_the_same() {
        let (small, large) = (DeviceKey([1; 32]), DeviceKey([2; 32]));
        // The smaller key keeps its own and refuses the other's.
        let (store, _queue) = StoreNet::new(StoreId([0; 32]));
        let mine = store.enter(&small, large, true).unwrap();
        assert!(matches!(
            store.enter(&small, large, false),
            Err(NoPlace::Duplicate)
        ));
        // Once the peer has answered, a new stream of its replaces the old one.
        mine.answered();
        let theirs = store.enter(&small, large, false).unwrap();
        drop(mine);
        assert!(
            store.has_session(&large),
            "leaving late frees nobody else's place"
        );
        drop(theirs);
        assert!(!store.has_session(&large));
        // The larger key gives its own up.
        let (store, _queue) = StoreNet::new(StoreId([0; 32]));
        let mut mine = store.enter(&large, small, true).unwrap();
        let _theirs = store.enter(&large, small, false).unwrap();
        assert!(
            mine.pokes
                .try_recv()
                .is_err_and(|e| e == mpsc::error::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn a_store_has_so_many_sessions() {
        let (store, _queue) = StoreNet::new(StoreId([0; 32]));
        let peer = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            DeviceKey(key)
        };
        let me = peer(usize::MAX);
        let enter = |n| store.enter(&me, peer(n), false);
        let mut places: Vec<_> = (0..SESSIONS_PER_STORE).map(enter).collect();
        assert!(places.iter().all(Result::is_ok));
        assert!(matches!(enter(SESSIONS_PER_STORE), Err(NoPlace::Full)));
        // Who has a place may take it anew, and one that leaves makes room.
        assert!(enter(0).is_ok());
        places.pop();
        assert!(enter(SESSIONS_PER_STORE).is_ok());
    }

    #[test]
    fn so_many_ids_wait_to_be_announced_and_beyond_them_peers_are_to_compare() {
        let (store, mut queue) = StoreNet::new(StoreId([0; 32]));
        let ids = vec![IntentionId([7; 32]); ANNOUNCE_MAX];
        store.announce(&ids);
        assert!(!store.overflowed.load(Ordering::Relaxed));
        store.announce(&ids[..1]);
        assert!(store.overflowed.load(Ordering::Relaxed));
        for _ in 0..ANNOUNCE_MAX {
            queue.try_recv().unwrap();
        }
        assert!(queue.try_recv().is_err());
    }

    #[test]
    fn few_sessions_are_in_their_first_round_at_once() {
        let (store, _queue) = StoreNet::new(StoreId([0; 32]));
        let me = DeviceKey([0; 32]);
        let places: Vec<_> = (1..=FIRST_ROUNDS_MAX as u8)
            .map(|n| {
                assert!(!store.is_comparing());
                store.enter(&me, DeviceKey([n; 32]), true).unwrap()
            })
            .collect();
        assert!(store.is_comparing());
        places[0].compared();
        assert!(!store.is_comparing(), "its round has ended");
        let _theirs = store.enter(&me, DeviceKey([200; 32]), false).unwrap();
        assert!(!store.is_comparing(), "another one opened it");
        let other = store.enter(&me, DeviceKey([100; 32]), true).unwrap();
        assert!(store.is_comparing());
        drop(other);
        assert!(!store.is_comparing(), "who has left compares no more");
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
        for n in 0..100 {
            let pause = backoff(base, max, n);
            let full = base.saturating_mul(1 << n.min(16)).min(max);
            assert!(pause >= full / 2 && pause <= full);
        }
    }
}

//! What every task of a running network needs: the node around it, the endpoint, and its tables.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, TransportAddr};
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::clock::{Effect, Input};
use lattice_kernel::sync::{Access, Jitter, Misbehaviour, MisbehaviourLog, Verdict};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::allowances::{Place, Places};
use crate::config::{Timings, millis};
use crate::endpoint::{code, device_of, id_of};
use crate::handshakes::Origin;
use crate::host::{NetEvent, NetHost};
use crate::lan::Lan;
use crate::limits::{CONNECTIONS_MAX, DIALS_MAX, INCOMING_MAX, STRANGERS_MAX};
use crate::links::Links;
use crate::peers::{Peers, Source};
use crate::stores::StoreNet;

/// Everything that tasks of one network need. One lives behind an `Arc` for each `Net`.
pub(crate) struct Context {
    pub(crate) host: Arc<dyn NetHost>,
    pub(crate) endpoint: Endpoint,
    pub(crate) lookup: MemoryLookup,
    pub(crate) me: DeviceKey,
    pub(crate) timings: Timings,
    pub(crate) discovery: bool,
    /// Announcements on the local network; `None` when they are switched off.
    pub(crate) lan: Option<Lan>,
    pub(crate) peers: Peers,
    misbehaviour: Mutex<MisbehaviourLog>,
    pub(crate) links: Links,
    /// An address was learnt that others may want.
    pub(crate) address_news: Notify,
    /// Dials under way.
    pub(crate) dials: Semaphore,
    /// Connections that this node opened.
    pub(crate) outgoing: Arc<Semaphore>,
    /// Connections that others opened, all protocols together.
    pub(crate) incoming: Places,
    /// When the network began: times that the kernel's values are given count from here.
    begun: Instant,
    stores: RwLock<HashMap<StoreId, Arc<StoreNet>>>,
    stop: watch::Sender<bool>,
    /// Every task holds a clone; closing drops this one and waits for theirs.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Context {
    /// Nothing runs yet. The receiver ends when all tasks have.
    pub(crate) fn new(
        host: Arc<dyn NetHost>,
        endpoint: Endpoint,
        (lookup, lan): (MemoryLookup, Option<Lan>),
        timings: Timings,
        discovery: bool,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        let context = Self {
            me: crate::endpoint::device_of(endpoint.id()),
            host,
            endpoint,
            lookup,
            misbehaviour: Mutex::new(MisbehaviourLog::new(millis(timings.ban))),
            begun: Instant::now(),
            timings,
            discovery,
            lan,
            peers: Peers::default(),
            links: Links::default(),
            address_news: Notify::new(),
            dials: Semaphore::new(DIALS_MAX),
            outgoing: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            incoming: Places::new(INCOMING_MAX, STRANGERS_MAX),
            stores: RwLock::default(),
            stop: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
        };
        (Arc::new(context), ended)
    }

    /// Milliseconds since the network began.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    /// The moment so many milliseconds after the network began.
    pub(crate) fn moment(&self, elapsed_ms: u64) -> Instant {
        self.begun + Duration::from_millis(elapsed_ms)
    }

    /// Runs a task until it ends or the network closes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.lock().clone();
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
        if let Some(lan) = &self.lan {
            lan.stop();
        }
        self.stop.send_replace(true);
        self.alive.lock().take();
    }

    /// The store, if this node has it on the network.
    pub(crate) fn store(&self, id: &StoreId) -> Option<Arc<StoreNet>> {
        let stores = self.stores.read();
        stores.get(id).cloned()
    }

    /// All stores.
    pub(crate) fn stores(&self) -> Vec<Arc<StoreNet>> {
        let stores = self.stores.read();
        stores.values().cloned().collect()
    }

    /// Puts a store on the network, unless it is there.
    pub(crate) fn insert_store(&self, store: Arc<StoreNet>) -> bool {
        let mut stores = self.stores.write();
        match stores.entry(store.id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(store);
                true
            }
        }
    }

    /// A place for a connection that somebody opened for joins or blobs, whose strangers have a bound of their own, for
    /// as long as it is kept; without one it is closed.
    pub(crate) fn take_in(&self, connection: &Connection) -> Option<Place> {
        let place = self.incoming.enter();
        if place.is_none() {
            connection.close(code::BUSY, b"too many connections");
        }
        place
    }

    /// A place for a connection that `peer` opened for sync, for as long as it is kept; without one it is closed.
    pub(crate) fn take_in_for_sync(
        &self,
        connection: &Connection,
        peer: &DeviceKey,
    ) -> Option<Place> {
        if self.shares_a_store_with(peer) {
            return self.take_in(connection);
        }
        let place = self.incoming.enter_as_stranger();
        if place.is_none() {
            connection.close(code::BUSY, b"too many strangers, try later");
        }
        place
    }

    /// Whether the peer is or was a member of any store here.
    pub(crate) fn shares_a_store_with(&self, peer: &DeviceKey) -> bool {
        self.stores().iter().any(|s| s.access(peer) != Access::None)
    }

    /// Whether the peer is an active member of any store here.
    pub(crate) fn is_member_of_any(&self, peer: &DeviceKey) -> bool {
        self.stores().iter().any(|s| s.access(peer) == Access::All)
    }

    /// Whether a peer that is known may open connections from there.
    pub(crate) fn is_known_origin(&self, origin: Origin) -> bool {
        match origin {
            Origin::Relayed(id) => self.peers.is_known(&device_of(id)),
            origin => self
                .peers
                .known_at(|address| Origin::at(address.ip()) == origin),
        }
    }

    /// Whether there is any place at which to look for the peer.
    pub(crate) fn can_dial(&self, peer: &DeviceKey) -> bool {
        let is_heard = |lan: &Lan| !lan.addresses(peer).is_empty();
        self.discovery
            || !self.peers.addresses(peer).is_empty()
            || self.lan.as_ref().is_some_and(is_heard)
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

    /// Takes what happened to the clocks of this node and its peers. A step of this node's own is told to all peers.
    pub(crate) fn clock(&self, input: Input) {
        if let Some(Effect::TellPeers { by_ms }) = self.peers.clock(input, self.host.reading()) {
            tracing::warn!(by_ms, "the clock of this machine was set; peers are told");
            for store in self.stores() {
                store.sessions.reconcile();
            }
        }
    }

    /// Counts a misbehaviour, logs it once for each kind, and says whether to drop the peer.
    pub(crate) fn misbehaved(&self, peer: DeviceKey, kind: Misbehaviour, text: &str) -> bool {
        let now_ms = self.elapsed_ms();
        let verdict = self.misbehaviour.lock().record(peer, kind, now_ms);
        let Verdict {
            is_first,
            is_dropped,
        } = verdict;
        if is_first {
            if kind == Misbehaviour::NotAllowed {
                tracing::info!(%peer, ?kind, "{text}");
            } else {
                tracing::warn!(%peer, ?kind, "{text}");
            }
            self.host.event(NetEvent::Misbehaviour {
                peer,
                kind,
                text: text.to_owned(),
            });
        }
        if is_dropped {
            self.links
                .drop_peer(&peer, crate::endpoint::code::MISBEHAVIOUR);
        }
        is_dropped
    }

    /// Whether the peer is refused for what it did.
    pub(crate) fn is_banned(&self, peer: &DeviceKey) -> bool {
        let now_ms = self.elapsed_ms();
        self.misbehaviour.lock().is_banned(peer, now_ms)
    }
}

/// The chance in a pause.
pub(crate) fn jitter() -> Jitter {
    Jitter(rand::random())
}

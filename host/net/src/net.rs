//! A node's network: start, close, and what the node tells it.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use iroh::Endpoint;
use iroh::protocol::{ProtocolHandler, Router};
use iroh_gossip::net::Gossip;
use lattice_format::{DeviceKey, IntentionId, StoreId};
use lattice_kernel::clock::{Input, Medians, Terms, Verdict};
use lattice_kernel::sync::{ALPN as SYNC_ALPN, Access};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::addresses::{self, known_members};
use crate::blob::{self, BlobProtocol};
use crate::config::NetConfig;
use crate::context::Context;
use crate::endpoint::{self, StartError, own_addr, remote_socket};
use crate::gossip::{self, GossipGate};
use crate::handshakes::{Counted, Handshakes};
use crate::host::NetHost;
use crate::join::{self, JoinProtocol};
use crate::lan;
use crate::limits::TOKEN_ADDRESSES_MAX;
use crate::link::{self, SyncProtocol};
use crate::peers::{PeerStatus, Source};
use crate::stores::{StoreNet, TopicCommand};
use crate::token::PeerAddr;

/// A running network. Dropping it ends it too, but without [`Net::close`] the goodbyes are lost and
/// peers notice only by the silence.
pub struct Net {
    pub(crate) context: Arc<Context>,
    gossip: Gossip,
    router: Router,
    ended: Mutex<Option<mpsc::Receiver<()>>>,
}

/// Serves connections, whose handshakes are counted.
fn serve(endpoint: Endpoint, context: &Arc<Context>, gate: GossipGate) -> Router {
    fn counted<H: ProtocolHandler>(handler: H, handshakes: &Arc<Handshakes>) -> Counted<H> {
        let handshakes = handshakes.clone();
        Counted {
            handler,
            handshakes,
        }
    }
    let handshakes = Arc::new(Handshakes::new(context.timings.idle));
    let (counts, known) = (handshakes.clone(), context.clone());
    Router::builder(endpoint)
        .incoming_filter(Arc::new(move |incoming| {
            counts.judge(incoming, |origin| known.is_known_origin(origin))
        }))
        .accept(
            SYNC_ALPN,
            counted(SyncProtocol(context.clone()), &handshakes),
        )
        .accept(
            blob::ALPN,
            counted(BlobProtocol::new(context.clone()), &handshakes),
        )
        .accept(
            join::ALPN,
            counted(JoinProtocol::new(context.clone()), &handshakes),
        )
        .accept(iroh_gossip::ALPN, counted(gate, &handshakes))
        .spawn()
}

impl Drop for Net {
    fn drop(&mut self) {
        self.context.stop();
        self.end();
    }
}

impl Net {
    /// Binds the endpoint and begins to serve and to dial, for every store of the host.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn start(config: NetConfig, host: Arc<dyn NetHost>) -> Result<Self, StartError> {
        let (endpoint, lookups) = endpoint::bind(&config).await?;
        let (lan, heard) = lookups.lan.unzip();
        let stores = host.stores();
        let (context, ended) = Context::new(
            host,
            endpoint.clone(),
            (lookups.book, lan),
            config.timings.clone(),
            config.discovery,
        );
        for peer in &config.known {
            context
                .peers
                .learn(peer.device, &peer.addresses, Source::Seen);
        }
        let gossip = gossip::spawn(endpoint.clone());
        let gate = GossipGate {
            context: context.clone(),
            gossip: gossip.clone(),
        };
        let router = serve(endpoint, &context, gate);
        let net = Self {
            context,
            gossip,
            router,
            ended: Mutex::new(Some(ended)),
        };
        net.context.spawn(addresses::spread(net.context.clone()));
        net.context
            .spawn(addresses::follow_own(net.context.clone()));
        if let Some(heard) = heard {
            net.context.spawn(lan::follow(net.context.clone(), heard));
        }
        for store in stores {
            net.store_added(store);
        }
        Ok(net)
    }

    /// This device's key.
    pub fn device(&self) -> DeviceKey {
        self.context.me
    }

    /// Where this node can be reached now.
    pub fn address(&self) -> PeerAddr {
        own_addr(&self.context.endpoint)
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self) -> bool {
        !self.context.links.conns().is_empty()
    }

    /// The sockets that this node listens on.
    pub fn sockets(&self) -> Vec<std::net::SocketAddr> {
        self.context.endpoint.bound_sockets()
    }

    /// Puts a store on the network: the host has it from now on. Does nothing the second time.
    pub fn store_added(&self, store: StoreId) {
        let (store, commands) = StoreNet::new(store);
        if !self.context.insert_store(store.clone()) {
            return;
        }
        store.set_governance(self.context.host.governance(&store.id));
        self.context.spawn(gossip::keep_topic(
            self.context.clone(),
            self.gossip.clone(),
            store.clone(),
            commands,
        ));
        self.meet(&store);
    }

    /// The log of a store has grown: call this after every durable commit and every delivery. `written`
    /// are the intentions that this node wrote itself; the network announces these.
    pub fn changed(&self, store: &StoreId, written: &[IntentionId]) {
        let Some(store) = self.context.store(store) else {
            return;
        };
        if store.set_governance(self.context.host.governance(&store.id)) {
            self.meet(&store);
        }
        store.changed.send_modify(|count| *count += 1);
        store.announce(written);
    }

    /// Adds a place where a peer may be reached. Peers that share no store are not dialled.
    pub fn add_peer(&self, peer: &PeerAddr) {
        self.context
            .learn(peer.device, &peer.addresses, Source::Seen);
    }

    /// Compares now with every peer that is connected, in one store or in all.
    pub fn reconcile(&self, store: Option<&StoreId>) {
        for each in self.context.stores() {
            if store.is_none_or(|id| *id == each.id) {
                each.sessions.reconcile();
            }
        }
    }

    /// What is known of every peer, by key.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut peers = self.context.peers.list(self.context.host.reading());
        for peer in &mut peers {
            if let Some(conn) = self.context.links.conn(&peer.peer) {
                let paths = conn.connection.paths();
                let chosen = paths.iter().find(|p| p.is_selected());
                peer.round_trip_us = chosen
                    .or_else(|| paths.iter().next())
                    .and_then(|path| u64::try_from(path.rtt().as_micros()).ok());
            }
        }
        peers
    }

    /// How this node's clock stands among those of a store's active members.
    pub fn verdict(&self, store: &StoreId, terms: Terms) -> Verdict {
        self.context.clock(Input::Use);
        let medians = self.context.store(store);
        let medians = medians.map(|store| store.medians(&self.context.peers));
        let now = self.context.host.reading();
        Verdict::of(now, &medians.unwrap_or_default(), terms)
    }

    /// How this node's clock stands among those of the active members of all stores, for a store that is only made.
    pub fn verdict_of_all(&self, terms: Terms) -> Verdict {
        Verdict::of(self.context.host.reading(), &self.medians_of_all(), terms)
    }

    /// How far this node's clock is ahead of the median of the active members of all stores, in milliseconds, and
    /// negative when it is behind; `None` when none of them was met.
    pub fn clock_lead_ms(&self) -> Option<i64> {
        self.medians_of_all().lead_ms(self.context.host.reading())
    }

    fn medians_of_all(&self) -> Medians {
        let context = &self.context;
        context.peers.medians(|peer| context.is_member_of_any(peer))
    }

    /// Whom a token for this store should name: this node, then other members, connected ones first.
    /// At most 32 addresses altogether.
    pub fn invitation_peers(&self, store: &StoreId) -> Vec<PeerAddr> {
        let mut peers = known_members(&self.context, |s| s.id == *store);
        let own = peers.remove(0);
        peers.sort_by_key(|p| self.context.links.conn(&p.device).is_none());
        let mut room = TOKEN_ADDRESSES_MAX;
        let mut named = Vec::new();
        for mut peer in std::iter::once(own).chain(peers) {
            peer.addresses.truncate(room);
            room -= peer.addresses.len();
            named.push(peer);
            if room == 0 {
                break;
            }
        }
        named
    }

    /// Lets a joiner talk to these peers before it knows the members of the store.
    pub(crate) fn trust(&self, store: &StoreId, peers: &[PeerAddr]) {
        for peer in peers {
            self.context
                .learn(peer.device, &peer.addresses, Source::Told);
        }
        if let Some(store) = self.context.store(store) {
            store.trust(peers.iter().map(|p| p.device));
            self.meet(&store);
        }
    }

    /// Says goodbye, ends every task and frees the socket. Takes at most [`crate::Timings::close`]; what is not done
    /// by then goes on behind it, for some seconds: a dial that nobody answered keeps the socket as long.
    pub async fn close(&self) {
        self.context.stop();
        for conn in self.context.links.conns() {
            conn.connection.close(endpoint::code::BYE, b"shutting down");
        }
        let Some(ending) = self.end() else { return };
        let limit = self.context.timings.close;
        if tokio::time::timeout(limit, ending).await.is_err() {
            tracing::debug!(?limit, "some goodbyes were not acknowledged in time");
        }
    }

    /// Lets a task of its own wait for the others and close the endpoint; `None` when there is one already, or no
    /// runtime to run it.
    ///
    /// An endpoint whose closing is cut off must not be dropped: it could do nothing more, and would only complain. It
    /// stays in memory until the process ends, which is what ends the runtime.
    fn end(&self) -> Option<JoinHandle<()>> {
        let mut ended = self.ended.lock().take()?;
        let endpoint = ManuallyDrop::new(self.context.endpoint.clone());
        let router = self.router.clone();
        let closing = async move {
            // `None` once the last task has dropped its sender.
            let _ = ended.recv().await;
            if let Err(error) = router.shutdown().await {
                tracing::warn!(%error, "a protocol task failed");
            }
            if endpoint.is_closed() {
                drop(ManuallyDrop::into_inner(endpoint));
            }
        };
        Some(Handle::try_current().ok()?.spawn(closing))
    }

    /// Keeps links to all peers of a store, lets sessions open at once, and has the topic looked at.
    fn meet(&self, store: &Arc<StoreNet>) {
        let context = &self.context;
        for peer in store.acquaintances() {
            link::keep(context, peer);
            context.links.wake(&peer, Some(&store.id));
        }
        for conn in context.links.conns() {
            if store.access(&conn.peer) == Access::None {
                continue;
            }
            // A peer that connected before it was known as a member has no session yet.
            if let Some(socket) = remote_socket(&conn.connection) {
                context.learn(conn.peer, &[socket], Source::Seen);
            }
            link::keep(context, conn.peer);
            context.links.wake(&conn.peer, Some(&store.id));
            if store.access(&conn.peer) == Access::All {
                addresses::send(context, &conn);
            }
        }
        // A full queue may drop this: every change of members comes with an entry, whose announcement follows.
        let _ = store.gossip.try_send(TopicCommand::Look);
        store.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn dial_limit(&self) -> Duration {
        self.context.timings.dial
    }
}

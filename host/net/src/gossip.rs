//! Gossip of ids: one topic a store, joined by active members alone.
//!
//! The kernel decides what is announced and what follows from an announcement ([`lattice_kernel::sync::Gossip`]). This
//! module joins and leaves the topics of iroh-gossip that carry it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event, GossipTopic};
use iroh_gossip::net::Gossip;
use lattice_format::DeviceKey;
use lattice_kernel::sync::{self, Access, Move};
use tokio::sync::mpsc;

use crate::context::{Context, jitter};
use crate::endpoint::{code, device_of, id_of};
use crate::limits::GOSSIP_BYTES_MAX;
use crate::sessions::Poke;
use crate::stores::{StoreNet, TopicCommand};

/// Builds the gossip protocol of a node.
pub(crate) fn spawn(endpoint: iroh::Endpoint) -> Gossip {
    Gossip::builder()
        .max_message_size(GOSSIP_BYTES_MAX)
        .spawn(endpoint)
}

/// Lets only active members of some store here speak gossip.
#[derive(Clone)]
pub(crate) struct GossipGate {
    pub(crate) context: Arc<Context>,
    pub(crate) gossip: Gossip,
}

impl std::fmt::Debug for GossipGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GossipGate")
    }
}

impl ProtocolHandler for GossipGate {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let peer = device_of(connection.remote_id());
        if self.context.is_banned(&peer) || !self.context.is_member_of_any(&peer) {
            connection.close(code::STRANGER, b"no store in common");
            return Ok(());
        }
        self.gossip.accept(connection).await
    }

    async fn shutdown(&self) {
        ProtocolHandler::shutdown(&self.gossip).await;
    }
}

/// Tells the topics that a member is connected.
pub(crate) fn peer_up(context: &Context, peer: DeviceKey) {
    for store in context.stores() {
        if store.access(&peer) == Access::All {
            // A full queue is busy with announcements; the peer finds the topic through others.
            let _ = store.gossip.try_send(TopicCommand::Peer(peer));
        }
    }
}

/// The gossip task of one store, around the kernel's value.
struct Topics {
    context: Arc<Context>,
    store: Arc<StoreNet>,
    value: sync::Gossip,
    begun: Instant,
}

/// Keeps a store's topic joined as long as the store is on the network.
pub(crate) async fn keep_topic(
    context: Arc<Context>,
    gossip: Gossip,
    store: Arc<StoreNet>,
    mut commands: mpsc::Receiver<TopicCommand>,
) {
    let mut topics = Topics {
        value: sync::Gossip::new(store.id, context.me),
        begun: Instant::now(),
        context,
        store,
    };
    let mut failures = 0;
    let mut next = topics.look();
    loop {
        let Some(Move::Join { topic, peers }) = next else {
            // This node is not, or not yet known to be, an active member: it has no topic until that changes.
            if commands.recv().await.is_none() {
                return;
            }
            next = topics.look();
            continue;
        };
        let neighbours = peers.iter().filter_map(id_of).collect();
        match gossip
            .subscribe(TopicId::from_bytes(topic), neighbours)
            .await
        {
            Ok(topic) => {
                failures = 0;
                match topics.follow(topic, &mut commands).await {
                    Followed::Removed => return,
                    Followed::Moved(to) => {
                        next = Some(to);
                        continue;
                    }
                    Followed::Lagged => topics.store.sessions.reconcile(),
                }
            }
            Err(error) => {
                tracing::debug!(store = %topics.store.id, %error, "gossip");
                failures += 1;
            }
        }
        topics.value.lost();
        let retry = topics.context.timings.retry();
        let pause_ms = retry.pause_ms(failures, jitter());
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        next = topics.look();
    }
}

/// Why a topic is not followed further.
enum Followed {
    /// Nothing is left that could send commands.
    Removed,
    /// There is another salt, or this node is no member any more.
    Moved(Move),
    /// Messages were lost: subscribe again.
    Lagged,
}

impl Topics {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&mut self) -> Option<Move> {
        let now_ms = self.now_ms();
        let connected = self.context.links.conns();
        self.value.look(
            self.store.governance().as_deref(),
            connected.iter().map(|conn| conn.peer),
            now_ms,
        )
    }

    async fn follow(
        &mut self,
        topic: GossipTopic,
        commands: &mut mpsc::Receiver<TopicCommand>,
    ) -> Followed {
        let (sender, mut events) = topic.split();
        loop {
            if self.value.due_ms().is_some() && self.store.overflowed.swap(false, Ordering::Relaxed)
            {
                self.value.overflowed();
            }
            if let Some(announcement) = self.value.take(self.now_ms())
                && sender.broadcast(announcement.encode()).await.is_err()
            {
                return Followed::Lagged;
            }
            let due_ms = self.value.due_ms();
            let wait = due_ms.map_or(0, |due| due.saturating_sub(self.now_ms()));
            tokio::select! {
                command = commands.recv() => match command {
                    None => return Followed::Removed,
                    Some(TopicCommand::Peer(peer)) => {
                        if let Some(id) = id_of(&peer) {
                            // An error means that the topic is gone: the next event says so.
                            let _ = sender.join_peers(vec![id]).await;
                        }
                    }
                    Some(TopicCommand::Look) => {
                        if let Some(to) = self.look() {
                            return Followed::Moved(to);
                        }
                    }
                    Some(TopicCommand::Announce(id)) => {
                        let now_ms = self.now_ms();
                        self.value.wrote(id, now_ms);
                    }
                },
                event = events.next() => match event {
                    None | Some(Err(_)) | Some(Ok(Event::Lagged)) => return Followed::Lagged,
                    Some(Ok(Event::Received(message))) => {
                        self.heard(device_of(message.delivered_from), &message.content);
                    }
                    Some(Ok(Event::NeighborUp(_) | Event::NeighborDown(_))) => {}
                },
                () = tokio::time::sleep(Duration::from_millis(wait)), if due_ms.is_some() => {}
            }
        }
    }

    fn heard(&mut self, from: DeviceKey, bytes: &[u8]) {
        let now_ms = self.now_ms();
        let store = &self.store;
        let snapshot = || self.context.host.snapshot(&store.id);
        let heard = self.value.heard(from, bytes, now_ms, snapshot);
        if let Some(announced) = heard.announced {
            announced.tell(store.sessions.peers(), |peer| {
                store
                    .sessions
                    .poke(peer, Poke::Announced(announced.ids.clone()))
            });
        }
        if heard.compare {
            store.sessions.reconcile();
        }
    }
}

//! Gossip of ids: one topic a store, joined by active members alone.
//!
//! Gossip announces, reconciliation delivers. A lost or late message costs time, never an entry:
//! whatever was missed, overflowed or lagged makes the sessions compare.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event, GossipTopic};
use iroh_gossip::net::Gossip;
use lattice_format::{DeviceKey, IntentionId, StoreId};
use lattice_kernel::sync::Access;
use prost::Message;
use tokio::sync::mpsc;

use crate::endpoint::{code, device_of, id_of};
use crate::host::Governance;
use crate::limits::{GOSSIP_BYTES_MAX, GOSSIP_IDS_MAX};
use crate::offence::{Allowance, Offence};
use crate::shared::{Poke, Shared, StoreNet, TopicCommand, backoff};

const TOPIC_CONTEXT: &str = "lattice 2026-11 gossip topic 1";
/// How long further ids are waited for before a message is sent.
const COLLECT: Duration = Duration::from_millis(2);
/// Messages a second that one store handles; what comes beyond makes the sessions compare.
const MESSAGES_PER_SECOND: u64 = 512;
/// How often announcements may make the sessions compare, at most.
const COMPARE_PAUSE: Duration = Duration::from_secs(1);
/// Sessions that are told of an announcement when none runs with who passed it on.
const SOURCES: usize = 2;

#[derive(Clone, PartialEq, Message)]
struct Announcement {
    /// 32 bytes an id.
    #[prost(bytes = "vec", tag = "1")]
    ids: Vec<u8>,
    /// Who wrote them.
    #[prost(bytes = "vec", tag = "2")]
    author: Vec<u8>,
    /// There is more than is listed: compare.
    #[prost(bool, tag = "3")]
    more: bool,
}

/// The topic of a store: unguessable for who does not know the salt in its governance.
pub fn topic(store: &StoreId, salt: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(TOPIC_CONTEXT);
    hasher.update(&store.0);
    hasher.update(salt);
    *hasher.finalize().as_bytes()
}

/// Builds the gossip protocol of a node.
pub(crate) fn spawn(endpoint: iroh::Endpoint) -> Gossip {
    Gossip::builder()
        .max_message_size(GOSSIP_BYTES_MAX)
        .spawn(endpoint)
}

/// Lets only active members of some store here speak gossip.
#[derive(Clone)]
pub(crate) struct GossipGate {
    pub(crate) shared: Arc<Shared>,
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
        if self.shared.is_banned(&peer) || !self.shared.is_member_of_any(&peer) {
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
pub(crate) fn peer_up(shared: &Shared, peer: DeviceKey) {
    for store in shared.stores() {
        if store.access(&peer) == Access::All {
            // A full queue is busy with announcements; the peer finds the topic through others.
            let _ = store.gossip.try_send(TopicCommand::Peer(peer));
        }
    }
}

/// Keeps a store's topic joined as long as the store is on the network.
pub(crate) async fn keep_topic(
    shared: Arc<Shared>,
    gossip: Gossip,
    store: Arc<StoreNet>,
    mut commands: mpsc::Receiver<TopicCommand>,
) {
    let mut failures = 0;
    loop {
        let Some(governance) = membership(&shared, &store) else {
            // No member (any more), or not known yet: announce nothing, wait for a change.
            match commands.recv().await {
                Some(_) => continue,
                None => return,
            }
        };
        let salt = governance.topic_salt.clone();
        let id = TopicId::from_bytes(topic(&store.id, &salt));
        let neighbours = shared
            .links
            .conns()
            .iter()
            .filter(|c| governance.access(&c.peer) == Access::All)
            .filter_map(|c| id_of(&c.peer))
            .collect();
        match gossip.subscribe(id, neighbours).await {
            Ok(topic) => {
                failures = 0;
                match follow(&shared, &store, &salt, topic, &mut commands).await {
                    Followed::Removed => return,
                    Followed::Moved => continue,
                    Followed::Lagged => store.reconcile(),
                }
            }
            Err(error) => {
                tracing::debug!(store = %store.id, %error, "gossip");
                failures += 1;
            }
        }
        let timings = &shared.timings;
        tokio::time::sleep(backoff(timings.retry_min, timings.retry_max, failures)).await;
    }
}

/// Why a topic is not followed further.
enum Followed {
    /// The store is off the network.
    Removed,
    /// There is another salt, or this node is no member any more.
    Moved,
    /// Messages were lost: subscribe again.
    Lagged,
}

/// The members, as long as this node is an active one.
fn membership(shared: &Shared, store: &StoreNet) -> Option<Arc<Governance>> {
    store
        .governance()
        .filter(|g| g.access(&shared.me) == Access::All)
}

async fn follow(
    shared: &Arc<Shared>,
    store: &Arc<StoreNet>,
    salt: &[u8],
    topic: GossipTopic,
    commands: &mut mpsc::Receiver<TopicCommand>,
) -> Followed {
    let (sender, mut events) = topic.split();
    let mut compared = Instant::now();
    let rate = Allowance::new(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, compared);
    loop {
        tokio::select! {
            command = commands.recv() => {
                let first = match command {
                    None => return Followed::Removed,
                    Some(TopicCommand::Peer(peer)) => {
                        if let Some(id) = id_of(&peer) {
                            // An error means that the topic is gone: the next event says so.
                            let _ = sender.join_peers(vec![id]).await;
                        }
                        continue;
                    }
                    Some(TopicCommand::Look) => {
                        match membership(shared, store) {
                            Some(g) if g.topic_salt == salt => continue,
                            _ => return Followed::Moved,
                        }
                    }
                    Some(TopicCommand::Announce(id)) => id,
                };
                let mut ids = vec![first];
                let look = collect(commands, &mut ids).await;
                let more = store.overflowed.swap(false, Ordering::Relaxed);
                if sender.broadcast(announcement(&shared.me, &ids, more)).await.is_err() {
                    return Followed::Lagged;
                }
                if look {
                    match membership(shared, store) {
                        Some(g) if g.topic_salt == salt => {}
                        _ => return Followed::Moved,
                    }
                }
            }
            event = events.next() => match event {
                None | Some(Err(_)) | Some(Ok(Event::Lagged)) => return Followed::Lagged,
                Some(Ok(Event::Received(message))) => {
                    let from = device_of(message.delivered_from);
                    let flood = rate.take(1, Instant::now()) > Duration::ZERO;
                    let more = flood || heard(shared, store, from, &message.content);
                    if more && compared.elapsed() > COMPARE_PAUSE {
                        compared = Instant::now();
                        store.reconcile();
                    }
                }
                Some(Ok(Event::NeighborUp(_) | Event::NeighborDown(_))) => {}
            },
        }
    }
}

/// Takes further ids that come within a moment; whether the members may have changed meanwhile.
async fn collect(commands: &mut mpsc::Receiver<TopicCommand>, ids: &mut Vec<IntentionId>) -> bool {
    let until = tokio::time::Instant::now() + COLLECT;
    let mut look = false;
    while ids.len() < GOSSIP_IDS_MAX {
        match tokio::time::timeout_at(until, commands.recv()).await {
            Ok(Some(TopicCommand::Announce(id))) => ids.push(id),
            Ok(Some(TopicCommand::Look)) => look = true,
            // A neighbour is found again at the next connection.
            Ok(Some(TopicCommand::Peer(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    look
}

fn announcement(me: &DeviceKey, ids: &[IntentionId], more: bool) -> Bytes {
    Announcement {
        ids: ids.iter().flat_map(|id| id.0).collect(),
        author: me.0.to_vec(),
        more,
    }
    .encode_to_vec()
    .into()
}

fn read_announcement(bytes: &[u8]) -> Option<(Vec<IntentionId>, DeviceKey, bool)> {
    let message = Announcement::decode(bytes).ok()?;
    let (ids, rest) = message.ids.as_chunks::<32>();
    if !rest.is_empty() || ids.len() > GOSSIP_IDS_MAX {
        return None;
    }
    let author = DeviceKey::from_slice(&message.author)?;
    let ids = ids.iter().map(|id| IntentionId(*id)).collect();
    Some((ids, author, message.more))
}

/// Tells sessions what was announced: with the author if one runs, else with who passed it on, else
/// with any. Returns whether there is more than was announced.
fn heard(shared: &Shared, store: &StoreNet, from: DeviceKey, bytes: &[u8]) -> bool {
    let Some((mut ids, author, more)) = read_announcement(bytes) else {
        shared.offence(from, Offence::Garbage, "gossip: not the message");
        return false;
    };
    if let Some(snapshot) = shared.host.snapshot(&store.id) {
        // An unreadable index is the store's trouble; asking for too much is harmless.
        ids.retain(|id| !snapshot.contains(id).unwrap_or(false));
    }
    if ids.is_empty() {
        return more;
    }
    let mut sources = vec![author, from];
    sources.dedup();
    let told = sources
        .iter()
        .filter(|peer| store.poke(peer, Poke::Announced(ids.clone())))
        .count();
    if told == 0 {
        for peer in store.session_peers().iter().take(SOURCES) {
            store.poke(peer, Poke::Announced(ids.clone()));
        }
    }
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_reads_back_and_fits() {
        let ids: Vec<_> = (0..GOSSIP_IDS_MAX)
            .map(|n| IntentionId([n as u8; 32]))
            .collect();
        let author = DeviceKey([1; 32]);
        let bytes = announcement(&author, &ids, true);
        assert!(bytes.len() <= GOSSIP_BYTES_MAX);
        assert_eq!(read_announcement(&bytes), Some((ids, author, true)));
    }

    #[test]
    fn garbage_is_no_announcement() {
        let author = DeviceKey([1; 32]);
        let many = vec![IntentionId([0; 32]); GOSSIP_IDS_MAX + 1];
        assert_eq!(
            read_announcement(&announcement(&author, &many, false)),
            None
        );
        assert_eq!(read_announcement(b"garbage"), None);
        assert_eq!(read_announcement(b""), None, "it has no author");
        let odd = Announcement {
            ids: vec![0; 33],
            author: author.0.to_vec(),
            more: false,
        };
        assert_eq!(read_announcement(&odd.encode_to_vec()), None);
    }

    #[test]
    fn another_salt_is_another_topic() {
        let store = StoreId([1; 32]);
        assert_ne!(topic(&store, b"a"), topic(&store, b"b"));
        assert_ne!(topic(&store, b"a"), topic(&StoreId([2; 32]), b"a"));
        // Every member computes the same one, in every version.
        assert_eq!(
            blake3::Hash::from_bytes(topic(&store, b"a")).to_hex()[..8],
            *include_str!("topic.golden").trim()
        );
    }
}

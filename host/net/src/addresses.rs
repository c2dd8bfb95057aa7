//! Members tell each other where members are, so that one known address leads to all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::Watcher as _;
use iroh::endpoint::{Connection, LocalTransportAddr, RecvStream};
use lattice_format::DeviceKey;
use lattice_kernel::sync::{Access, Misbehaviour};
use prost::Message;

use crate::context::Context;
use crate::endpoint::{code, is_here, own_addr, remote_socket};
use crate::limits::{ADDRESS_BYTES_MAX, ADDRESS_ROWS_MAX, ADDRESSES_PER_PEER};
use crate::links::Conn;
use crate::peers::Source;
use crate::token::PeerAddr;

/// The pause between two rounds in which learnt addresses are passed on.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WirePeer {
    #[prost(bytes = "vec", tag = "1")]
    device: Vec<u8>,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct WireAddresses {
    #[prost(message, repeated, tag = "1")]
    peers: Vec<WirePeer>,
}

impl WirePeer {
    pub(crate) fn new(peer: &PeerAddr) -> Self {
        Self {
            device: peer.device.0.to_vec(),
            addresses: peer.addresses.iter().map(SocketAddr::to_string).collect(),
        }
    }

    /// From the wire; `None` when the key is none. What is no address is left out.
    pub(crate) fn read(self) -> Option<PeerAddr> {
        Some(PeerAddr {
            device: DeviceKey::from_slice(&self.device)?,
            addresses: self
                .addresses
                .iter()
                .take(ADDRESSES_PER_PEER)
                .filter_map(|a| a.parse().ok())
                .collect(),
            relay: None,
        })
    }
}

/// This node and the active members of `store`, or of every store shared with `peer`, as far as
/// their addresses are known.
pub(crate) fn known_members(
    context: &Context,
    share: impl Fn(&crate::stores::StoreNet) -> bool,
) -> Vec<PeerAddr> {
    let mut peers = vec![own_addr(&context.endpoint)];
    for store in context.stores() {
        if !share(&store) {
            continue;
        }
        let Some(governance) = store.governance() else {
            continue;
        };
        for member in governance.members() {
            let device = member.device;
            if peers.len() >= ADDRESS_ROWS_MAX {
                return peers;
            }
            if governance.access(&device) != Access::All || peers.iter().any(|p| p.device == device)
            {
                continue;
            }
            let addresses = context.peers.addresses(&device);
            if !addresses.is_empty() {
                peers.push(PeerAddr {
                    device,
                    addresses,
                    relay: None,
                });
            }
        }
    }
    peers
}

/// Tells the peer, on a stream of its own, where the members of the shared stores are. Nothing is
/// told to who is not an active member.
pub(crate) fn send(context: &Arc<Context>, conn: &Arc<Conn>) {
    if !context.is_member_of_any(&conn.peer) {
        return;
    }
    let peer = conn.peer;
    let peers = known_members(context, |store| store.access(&peer) == Access::All);
    let message = WireAddresses {
        peers: peers
            .iter()
            .filter(|p| p.device != peer)
            .map(WirePeer::new)
            .collect(),
    };
    let (conn, limit) = (conn.clone(), context.timings.request);
    context.spawn(async move {
        let told = tokio::time::timeout(limit, async {
            let mut send = conn.connection.open_uni().await.ok()?;
            send.write_all(&message.encode_to_vec()).await.ok()?;
            send.finish().ok()?;
            send.stopped().await.ok()
        });
        // A peer that misses this message hears the same from another member, or at the next connection.
        let _ = told.await;
    });
}

/// Whether the path of a connection begins at an address that this machine does not have any more.
fn is_cut_off(connection: &Connection) -> bool {
    let paths = connection.paths();
    let chosen = paths.iter().find(|path| path.is_selected());
    match chosen.map(|path| path.local_addr().clone()) {
        Some(LocalTransportAddr::Ip(Some(ip))) => !is_here(ip),
        _ => false,
    }
}

/// Has peers told where this node is whenever that changes: who is connected now may have to dial after a restart.
pub(crate) async fn follow_own(context: Arc<Context>) {
    let mut own = context.endpoint.watch_addr();
    while own.updated().await.is_ok() {
        for conn in context.links.conns() {
            if is_cut_off(&conn.connection) {
                // Its peer would notice by the silence, after seconds, and so would this node.
                conn.connection.close(code::BYE, b"this node has moved");
                context.links.address_learnt(&conn.peer);
            }
        }
        context.address_news.notify_one();
    }
}

/// Passes on what was learnt, to everyone that is connected, not too often.
pub(crate) async fn spread(context: Arc<Context>) {
    loop {
        context.address_news.notified().await;
        // Members come and go in bursts: one message tells of all of them.
        tokio::time::sleep(PAUSE.min(context.timings.reconcile)).await;
        for conn in context.links.conns() {
            send(&context, &conn);
        }
    }
}

/// Takes a message of addresses. Only addresses of active members of a store that the sender is an active
/// member of are believed, as places to try: every dial authenticates.
pub(crate) async fn receive(context: Arc<Context>, conn: Arc<Conn>, mut recv: RecvStream) {
    let peer = conn.peer;
    if !context.is_member_of_any(&peer) {
        let _ = recv.stop(code::STRANGER);
        return;
    }
    let read = recv.read_to_end(ADDRESS_BYTES_MAX);
    let bytes = match tokio::time::timeout(context.timings.request, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(iroh::endpoint::ReadToEndError::TooLong)) => {
            let text = format!("addresses: more than {ADDRESS_BYTES_MAX} bytes");
            context.misbehaved(peer, Misbehaviour::Oversized, &text);
            return;
        }
        Ok(Err(_)) => return,
        Err(_) => {
            context.misbehaved(
                peer,
                Misbehaviour::Unfinished,
                "addresses: not all came in time",
            );
            return;
        }
    };
    let message = match WireAddresses::decode(&bytes[..]) {
        Ok(message) if message.peers.len() <= ADDRESS_ROWS_MAX => message,
        _ => {
            context.misbehaved(peer, Misbehaviour::Garbage, "addresses: not the message");
            return;
        }
    };
    let stores = context.stores();
    for told in message.peers.into_iter().filter_map(WirePeer::read) {
        if told.device == peer {
            // Who it is was proved. Where it is reached now comes first, so that no list of its own pushes that out.
            let reached = remote_socket(&conn.connection);
            let places: Vec<SocketAddr> = reached.into_iter().chain(told.addresses).collect();
            context.learn(peer, &places, Source::Seen);
            continue;
        }
        let believed = stores
            .iter()
            .any(|s| s.access(&peer) == Access::All && s.access(&told.device) == Access::All);
        if believed {
            context.learn(told.device, &told.addresses, Source::Told);
        }
    }
}

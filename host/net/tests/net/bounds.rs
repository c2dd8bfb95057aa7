//! The bounds of what peers may ask and tell, each at its last allowed value and one beyond.

use std::time::Duration;

use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use lattice_format::{BlobId, ComponentId, StoreId};
use lattice_net::limits::*;
use lattice_net::{JoinError, Misbehaviour, NetEvent, PeerAddr, Timings, blob, join};
use lattice_testing as testing;

use crate::host::{Node, equal, pair, until};
use crate::hostile::{connect, is_closed, raw};
use crate::joins::{invite, token};

const SYNC: &[u8] = lattice_kernel::sync::ALPN;
const DONE: VarInt = VarInt::from_u32(0);

/// MisbehaviourLog of a kind by a device.
fn misbehaviour(node: &Node, number: u8, wanted: Misbehaviour) -> usize {
    let key = testing::device(number);
    node.events(
        |e| matches!(e, NetEvent::Misbehaviour { peer, kind, .. } if *peer == key && *kind == wanted),
    )
}

/// A node on which nothing ends for want of a request.
async fn patient(number: u8) -> Node {
    let timings = Timings {
        request: Duration::from_secs(20),
        stall: Duration::from_secs(20),
        ..Timings::quick()
    };
    Node::with(number, Vec::new(), timings, Vec::new()).await
}

/// A length in front of so many bytes that are no message.
fn garbage(len: usize) -> Vec<u8> {
    let mut bytes = (len as u32).to_be_bytes().to_vec();
    bytes.resize(4 + len, 0xff);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_addresses_ends_at_its_bytes_and_its_rows() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let tell = async |number: u8, bytes: Vec<u8>| {
        a.admit(&store, &[testing::device(number)]);
        let member = raw(number).await;
        let connection = connect(&member, &a, SYNC).await;
        let mut send = connection.open_uni().await.unwrap();
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        (member, connection)
    };
    // Rows without a key are passed over: tag, length 0.
    let rows = |count| [0x0a, 0].repeat(count);
    let fine = tell(50, rows(ADDRESS_ROWS_MAX)).await;
    let many = tell(51, rows(ADDRESS_ROWS_MAX + 1)).await;
    let long = tell(52, vec![0xff; ADDRESS_BYTES_MAX]).await;
    let longer = tell(53, vec![0xff; ADDRESS_BYTES_MAX + 1]).await;
    until("what is too much is told", || {
        misbehaviour(&a, 51, Misbehaviour::Garbage) == 1
            && misbehaviour(&a, 52, Misbehaviour::Garbage) == 1
            && misbehaviour(&a, 53, Misbehaviour::Oversized) == 1
    })
    .await;
    let told = a.events(
        |e| matches!(e, NetEvent::Misbehaviour { peer, .. } if *peer == testing::device(50)),
    );
    assert_eq!(told, 0);
    assert_eq!(misbehaviour(&a, 52, Misbehaviour::Oversized), 0);
    for (member, _) in [fine, many, long, longer] {
        member.close().await;
    }
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_join_ends_at_its_bytes() {
    let a = patient(1).await;
    for (number, len, kind) in [
        (50, JOIN_REQUEST_BYTES_MAX, Misbehaviour::Garbage),
        (51, JOIN_REQUEST_BYTES_MAX + 1, Misbehaviour::Oversized),
    ] {
        let joiner = raw(number).await;
        let connection = connect(&joiner, &a, join::ALPN).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        let _ = send.write_all(&garbage(len)).await;
        is_closed(&connection).await;
        assert_eq!(misbehaviour(&a, number, kind), 1, "{len} bytes");
        joiner.close().await;
    }
    a.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_join_ends_after_its_requests() {
    let a = patient(1).await;
    let joiner = raw(50).await;
    let connection = connect(&joiner, &a, join::ALPN).await;
    for _ in 0..JOIN_REQUESTS_MAX {
        // One that ends before it asks is a request as well; it is answered by the end.
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        send.finish().unwrap();
        let _ = recv.read_to_end(1).await;
    }
    assert!(connection.close_reason().is_none());
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let _ = send.write_all(&[0]).await;
    is_closed(&connection).await;
    assert_eq!(misbehaviour(&a, 50, Misbehaviour::Flood), 1);
    joiner.close().await;
    a.net.close().await;
}

/// Fills all places of a protocol, a few by each of many peers.
async fn fill(node: &Node, alpn: &[u8], places: usize) -> Vec<(Endpoint, Vec<Connection>)> {
    assert!(places.is_multiple_of(CONNECTIONS_PER_PEER));
    let mut all = Vec::new();
    for n in 0..places / CONNECTIONS_PER_PEER {
        let peer = raw(100 + n as u8).await;
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS_PER_PEER {
            open.push(connect(&peer, node, alpn).await);
        }
        all.push((peer, open));
    }
    all
}

async fn places_end(node: &Node, alpn: &[u8], places: usize) {
    let all = fill(node, alpn, places).await;
    let last = raw(99).await;
    let refused = connect(&last, node, alpn).await;
    let reason = tokio::time::timeout(Duration::from_secs(10), refused.closed()).await;
    let reason = reason.expect("it is closed").to_string();
    assert!(reason.contains("try later"), "{reason}");
    for (_, open) in &all {
        assert!(open.iter().all(|c| c.close_reason().is_none()));
    }
    // One that leaves makes room.
    all[0].1[0].close(DONE, b"");
    let mut kept = None;
    for _ in 0..100 {
        let again = connect(&last, node, alpn).await;
        let closed = tokio::time::timeout(Duration::from_millis(200), again.closed()).await;
        if closed.is_err() {
            kept = Some(again);
            break;
        }
    }
    assert!(kept.is_some(), "there is room for one");
    for (peer, _) in all {
        peer.close().await;
    }
    last.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_joins_are_served_at_once() {
    let a = patient(1).await;
    places_end(&a, join::ALPN, JOINS_SERVED_MAX).await;
    a.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_blobs_are_served_at_once() {
    let a = patient(1).await;
    let store = a.found();
    let peers = BLOBS_SERVED_MAX / CONNECTIONS_PER_PEER;
    let mut members: Vec<_> = (0..peers).map(|n| testing::device(100 + n as u8)).collect();
    members.push(testing::device(99));
    a.admit(&store, &members);
    places_end(&a, blob::ALPN, BLOBS_SERVED_MAX).await;
    a.net.close().await;
}

/// A peer that takes connections for a protocol and does with each stream what it is told.
async fn listening(number: u8, alpn: &'static [u8]) -> (Endpoint, PeerAddr) {
    let endpoint = raw(number).await;
    endpoint.set_alpns(vec![alpn.to_vec()]);
    let addresses = endpoint.addr().ip_addrs().copied().collect();
    let at = PeerAddr {
        device: testing::device(number),
        addresses,
        relay: None,
    };
    (endpoint, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_a_joiner_ends_at_its_bytes() {
    let b = patient(2).await;
    for (len, said) in [
        (JOIN_ANSWER_BYTES_MAX, "does not decode"),
        (JOIN_ANSWER_BYTES_MAX + 1, "exceeds"),
    ] {
        let (server, at) = listening(50, join::ALPN).await;
        let serving = tokio::spawn(async move {
            let connection = server.accept().await.unwrap().await.unwrap();
            let (mut send, _recv) = connection.accept_bi().await.unwrap();
            let _ = send.write_all(&garbage(len)).await;
            let _ = send.finish();
            let _ = connection.closed().await;
            server
        });
        let store = StoreId([7; 32]);
        let key = invite(&b.host, store, 1, 1, u64::MAX);
        let error = b.net.inspect_token(&token(store, key, vec![at])).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        serving.await.unwrap().close().await;
    }
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_fetched_up_to_its_bytes() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let largest = COMPONENT_BYTES_MAX as usize;
    for (len, fits) in [(largest, true), (largest + 1, false)] {
        let code = vec![7; len];
        let id = ComponentId(*blake3::hash(&code).as_bytes());
        let store = a.found_with(id);
        a.host.blobs.insert(store, &code).unwrap();
        let key = invite(&a.host, store, 1, 1, u64::MAX);
        let token = token(store, key, vec![a.net.address()]);
        let fetched = b.net.fetch_component(&token, id, &|_, _| {}).await;
        assert_eq!(fetched.is_ok(), fits, "{fetched:?}");
        assert_eq!(b.host.blobs.has(store, BlobId::from(id)).unwrap(), fits);
        if let Err(error) = fetched {
            assert!(matches!(&error, JoinError::NotNow { .. }), "{error}");
            assert!(error.to_string().contains(&largest.to_string()), "{error}");
        }
    }
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_asked_of_so_many_peers_at_once() {
    let a = patient(1).await;
    let store = a.found();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut servers = Vec::new();
    for number in 50..=50 + BLOB_SOURCES_MAX as u8 {
        let (server, at) = listening(number, blob::ALPN).await;
        a.admit(&store, &[at.device]);
        a.net.add_peer(&at);
        let (listening, tell) = (server.clone(), tell.clone());
        tokio::spawn(async move {
            // Sync is not spoken here; what is asked for blobs is kept without an answer.
            while let Some(incoming) = listening.accept().await {
                if let Ok(connection) = incoming.await
                    && let Ok(streams) = connection.accept_bi().await
                {
                    tell.send((connection, streams)).unwrap();
                }
            }
        });
        servers.push(server);
    }
    let net = a.net.clone();
    let fetching =
        tokio::spawn(async move { net.fetch_blob(store, BlobId([3; 32]), 1, &|_, _| {}).await });
    let mut asked = Vec::new();
    for _ in 0..BLOB_SOURCES_MAX {
        let next = tokio::time::timeout(Duration::from_secs(10), told.recv()).await;
        asked.push(next.expect("one more is asked").unwrap());
    }
    let beyond = tokio::time::timeout(Duration::from_millis(300), told.recv()).await;
    assert!(beyond.is_err(), "one too many is asked");
    // One that leaves makes room for the last.
    asked.pop().unwrap().0.close(DONE, b"");
    let next = tokio::time::timeout(Duration::from_secs(10), told.recv()).await;
    asked.push(next.expect("the last one is asked").unwrap());
    for (connection, _) in &asked {
        connection.close(DONE, b"");
    }
    assert!(fetching.await.unwrap().is_err());
    for server in servers {
        server.close().await;
    }
    a.net.close().await;
}

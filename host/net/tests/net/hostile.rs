//! Peers that break the protocols: closed, bounded, told once, and nobody else notices.

use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use lattice_net::{Misbehaviour, NetEvent, limits};
use lattice_testing as testing;

use crate::host::{Node, equal, pair, until};

const PROTOCOLS: [&[u8]; 3] = [b"/lattice/sync/1", b"/lattice/join/1", b"/lattice/blob/1"];

/// An endpoint that speaks whatever it likes, with the key of device `number`.
pub async fn raw(number: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&testing::key(number).to_bytes()))
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap()
}

pub async fn connect(from: &Endpoint, to: &Node, alpn: &[u8]) -> Connection {
    let id = iroh::EndpointId::from_bytes(&to.device().0).unwrap();
    let mut addr = EndpointAddr::new(id);
    for socket in to.net.address().addresses {
        addr = addr.with_ip_addr(socket);
    }
    from.connect(addr, alpn).await.unwrap()
}

pub async fn is_closed(connection: &Connection) {
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.closed());
    closed
        .await
        .expect("the connection is closed by the other side");
}

async fn still_serves(a: &Node, b: &Node, store: &lattice_format::StoreId) {
    a.put(store, 1);
    b.put(store, 2);
    equal(&[a, b], store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_protocol_closes_the_connection_and_is_told_once() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let evil = raw(66).await;
    let key = testing::device(66);
    for alpn in PROTOCOLS {
        for _ in 0..3 {
            let connection = connect(&evil, &a, alpn).await;
            if let Ok((mut send, _recv)) = connection.open_bi().await {
                // A plausible length, and then nothing that decodes.
                let _ = send.write_all(&[0, 0, 0, 40]).await;
                let _ = send.write_all(&[1; 4096]).await;
                let _ = send.finish();
            }
            is_closed(&connection).await;
        }
    }
    // Gossip is not for strangers at all.
    let connection = connect(&evil, &a, iroh_gossip::ALPN).await;
    is_closed(&connection).await;
    let told = a.events(
        |e| matches!(e, NetEvent::Misbehaviour { peer, kind: Misbehaviour::Garbage, .. } if *peer == key),
    );
    assert_eq!(told, 1, "each kind of offence is told once a peer");
    still_serves(&a, &b, &store).await;
    evil.close().await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_is_refused_before_it_is_read() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    for (number, alpn) in (80..).zip(PROTOCOLS) {
        // Members may speak every protocol, and are held to it like anyone.
        let key = testing::device(number);
        a.admit(&store, &[key]);
        let evil = raw(number).await;
        let connection = connect(&evil, &a, alpn).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // A length of 4 GiB, of a kind that every protocol knows.
        let _ = send.write_all(&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]).await;
        is_closed(&connection).await;
        let told = a.events(|e| matches!(e, NetEvent::Misbehaviour { peer, .. } if *peer == key));
        assert_eq!(told, 1, "on {}", String::from_utf8_lossy(alpn));
        evil.close().await;
    }
    still_serves(&a, &b, &store).await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_are_given_up() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let evil = raw(68).await;
    for (number, alpn) in (90..).zip(PROTOCOLS) {
        let key = testing::device(number);
        a.admit(&store, &[key]);
        let slow = raw(number).await;
        let connection = connect(&slow, &a, alpn).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0, 0]).await.unwrap();
        until("it is given up", || {
            a.events(|e| {
                let kind = Misbehaviour::Unfinished;
                matches!(e, NetEvent::Misbehaviour { peer, kind: k, .. } if *peer == key && *k == kind)
            }) == 1
        })
        .await;
        slow.close().await;
    }
    // A connection of a stranger on which nothing is asked is not kept either.
    for alpn in PROTOCOLS {
        let connection = connect(&evil, &a, alpn).await;
        is_closed(&connection).await;
    }
    still_serves(&a, &b, &store).await;
    evil.close().await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_offends_again_and_again_is_refused_for_a_while() {
    let a = Node::start(1).await;
    let store = a.found();
    let evil = raw(69).await;
    let started = Instant::now();
    let mut refused = false;
    while !refused {
        assert!(started.elapsed() < Duration::from_secs(20));
        let connection = connect(&evil, &a, PROTOCOLS[0]).await;
        if let Ok((mut send, _recv)) = connection.open_bi().await {
            let _ = send.write_all(&[0xff; 64]).await;
        }
        let reason = connection.closed().await.to_string();
        refused = reason.contains("refused for a while");
    }
    // Later it may try again.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let connection = connect(&evil, &a, PROTOCOLS[0]).await;
    assert!(connection.close_reason().is_none());
    assert_eq!(a.count(&store), 1);
    evil.close().await;
    a.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_reads_nothing_is_dropped_and_costs_a_bounded_amount() {
    let a = Node::start(1).await;
    let store = a.found();
    let evil = raw(70).await;
    a.admit(&store, &[testing::device(70)]);
    for value in 0..200 {
        a.put(&store, value);
    }
    let connection = connect(&evil, &a, PROTOCOLS[0]).await;
    // The node opens a session with its member; the member leaves the stream unread, and its own
    // side floods the node with streams.
    for _ in 0..2000 {
        let Ok(opened) = tokio::time::timeout(Duration::from_millis(2), connection.open_bi()).await
        else {
            break;
        };
        let Ok((mut send, _recv)) = opened else { break };
        let _ = send.write_all(b"x").await;
    }
    let (b, store_b) = (Node::start(2).await, store);
    a.admit(&store_b, &[b.device()]);
    b.adopt_from(&a, &store_b);
    b.net.add_peer(&a.net.address());
    equal(&[&a, &b], &store_b).await;
    still_serves(&a, &b, &store_b).await;
    evil.close().await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_nothing_of_a_store() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    // An honest node that was never admitted, with the genesis from elsewhere.
    let c = Node::start(3).await;
    c.adopt_from(&a, &store);
    c.net.add_peer(&a.net.address());
    until("it is told why", || {
        c.net
            .peers()
            .iter()
            .any(|p| p.stores.iter().any(|s| s.reason.contains("no such store")))
    })
    .await;
    a.put(&store, 5);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(c.count(&store), 1);
    // Once it is admitted it gets everything, over the connection that it has or the next.
    a.admit(&store, &[c.device()]);
    equal(&[&a, &b, &c], &store).await;
    for node in [&a, &b, &c] {
        node.net.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_peer_cannot_take_every_place_of_a_protocol() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let key = testing::device(72);
    a.admit(&store, &[key]);
    let evil = raw(72).await;
    for alpn in &PROTOCOLS[1..] {
        let mut open = Vec::new();
        for _ in 0..limits::CONNECTIONS_PER_PEER + 1 {
            open.push(connect(&evil, &a, alpn).await);
        }
        until("the last one is closed", || {
            open.iter().filter(|c| c.close_reason().is_some()).count() == 1
        })
        .await;
        for connection in open {
            connection.close(0u32.into(), b"");
        }
    }
    let flood = Misbehaviour::Flood;
    let told = a.events(
        |e| matches!(e, NetEvent::Misbehaviour { peer, kind, .. } if *peer == key && *kind == flood),
    );
    assert_eq!(told, 1);
    still_serves(&a, &b, &store).await;
    evil.close().await;
    a.net.close().await;
    b.net.close().await;
}

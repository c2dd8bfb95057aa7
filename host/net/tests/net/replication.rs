//! Entries reach every member: pushed, compared, and after partitions.

use std::time::{Duration, Instant};

use lattice_format::Lane;
use lattice_net::{NetEvent, PeerAddr, Timings};
use lattice_testing as testing;

use crate::host::{Node, equal, pair, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_member_writes_the_other_has_soon() {
    let (a, b, store) = pair().await;
    for value in 0..20 {
        a.put(&store, value);
    }
    equal(&[&a, &b], &store).await;
    for value in 0..20 {
        b.put(&store, value);
        a.put(&store, value + 1);
    }
    equal(&[&a, &b], &store).await;
    until("both say that they are in sync", || {
        [&a, &b].iter().all(|n| {
            n.net
                .peers()
                .iter()
                .any(|p| p.connected && p.stores.iter().any(|s| s.in_sync))
        })
    })
    .await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_session_pushes_within_milliseconds() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let mut times = Vec::new();
    for value in 0..100 {
        let started = Instant::now();
        let id = a.put(&store, value);
        while !b.has(&store, &id) {
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "entry {value} did not arrive"
            );
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!(
        "call on A to visible on B: p50 {:?}, p99 {:?}",
        times[50], times[98]
    );
    // The figure to reach is 3 ms; a loaded machine gets room here, the benchmark does not.
    assert!(times[50] < Duration::from_millis(50), "p50 {:?}", times[50]);
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_were_apart_are_equal_again() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let (b_number, b_key) = (b.host.number, b.device());
    b.net.close().await;
    until("the other notices", || {
        a.net.peers().iter().all(|p| !p.connected)
    })
    .await;
    assert!(a.events(|e| matches!(e, NetEvent::PeerDown { peer, .. } if *peer == b_key)) > 0);
    for value in 0..50 {
        a.put(&store, value);
        // Still this node's store, though its network is gone.
        b.put(&store, value + 3);
    }
    // The same device comes back, with what it had, at another address.
    let again = Node::start(b_number).await;
    again.adopt_from(&b, &store);
    let entries: Vec<_> = b
        .snapshot(&store)
        .entries_from(lattice_kernel::LocalSeq(1), 10_000)
        .unwrap()
        .into_iter()
        .map(|s| (s.header.signed().clone(), s.body.map(|b| b.to_vec())))
        .collect();
    lattice_net::NetHost::deliver(&*again.host, store, b_key, entries)
        .await
        .unwrap();
    again.net.add_peer(&a.net.address());
    equal(&[&a, &again], &store).await;
    assert!(a.count(&store) > 100);
    a.net.close().await;
    again.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_known_address_leads_to_every_member() {
    let nodes = [
        Node::start(1).await,
        Node::start(2).await,
        Node::start(3).await,
        Node::start(4).await,
    ];
    let [a, b, c, d] = &nodes;
    let store = a.found();
    a.admit(&store, &[b.device(), c.device(), d.device()]);
    for node in [b, c, d] {
        node.adopt_from(a, &store);
        // Everyone knows the first alone; it has dialled nobody.
        node.net.add_peer(&a.net.address());
    }
    // The others know the first as a member already: it is the founder.
    equal(&[a, b, c, d], &store).await;
    until("everyone is connected with everyone", || {
        nodes
            .iter()
            .all(|n| n.net.peers().iter().filter(|p| p.connected).count() == 3)
    })
    .await;
    a.net.close().await;
    for value in 0..10 {
        b.put(&store, value);
        c.put(&store, value);
    }
    equal(&[b, c, d], &store).await;
    for node in [b, c, d] {
        node.net.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_reaches_a_member_and_a_lost_store_catches_up() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    b.host.stuck.lock().unwrap().insert(store);
    for value in 0..30 {
        a.put(&store, value);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(b.count(&store) < a.count(&store));
    b.host.stuck.lock().unwrap().clear();
    equal(&[&a, &b], &store).await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_member_gets_the_system_lane_alone() {
    let (a, b, store) = pair().await;
    let before = a.put(&store, 1);
    equal(&[&a, &b], &store).await;
    a.host
        .call(&store, Lane::System, vec![testing::revoke(b.device(), &[])]);
    a.admit(&store, &[testing::device(9)]);
    let later = a.put_system(&store);
    until("system entries still come", || b.has(&store, &later)).await;
    let secret = a.put(&store, 2);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let snapshot = b.snapshot(&store);
    assert!(snapshot.entry(&before).unwrap().unwrap().body.is_some());
    let body = snapshot.entry(&secret).unwrap().and_then(|s| s.body);
    assert!(
        body.is_none(),
        "a revoked device got the body of an app entry"
    );
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_closes_well_within_two_seconds() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    for net in [&a.net, &b.net] {
        let started = Instant::now();
        net.close().await;
        assert!(
            started.elapsed() < Duration::from_millis(1800),
            "{:?}",
            started.elapsed()
        );
    }
    // A peer that is dead does not hold it up either.
    let dead = PeerAddr {
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
        ..a.net.address()
    };
    let lone = Node::with(2, vec![], Timings::default(), vec![dead]).await;
    lone.adopt_from(&a, &store);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    lone.net.close().await;
    assert!(
        started.elapsed() < Duration::from_millis(1800),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_comes_in_seconds() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let store = a.found();
    a.admit(&store, &[b.device()]);
    for n in 0..2000u32 {
        a.put(&store, n as u8);
    }
    b.adopt_from(&a, &store);
    let started = Instant::now();
    b.net.add_peer(&a.net.address());
    equal(&[&a, &b], &store).await;
    println!("2,000 intentions in {:?}", started.elapsed());
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanishes_is_noticed_and_taken_back() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let genesis_of = a.snapshot(&store);
    // No goodbye: as after a crash, or when a cable is cut.
    drop(b);
    let started = Instant::now();
    until("the silence is noticed", || {
        a.net.peers().iter().all(|p| !p.connected)
    })
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    a.put(&store, 1);
    let again = Node::start(2).await;
    again.adopt_from(&a, &store);
    again.net.add_peer(&a.net.address());
    equal(&[&a, &again], &store).await;
    assert!(a.count(&store) > genesis_of.summary().count);
    a.net.close().await;
    again.net.close().await;
}

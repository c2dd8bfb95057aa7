//! Blobs come from several members, verified, resumed, and never out of their store's scope.

use std::sync::Mutex;

use lattice_format::{BlobId, StoreId};
use lattice_net::blob::FetchError;

use crate::host::{Node, equal, pair};

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7 % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_comes_from_several_members_at_once() {
    let (a, b, store) = pair().await;
    let c = Node::start(3).await;
    a.admit(&store, &[c.device()]);
    c.adopt_from(&a, &store);
    c.net.add_peer(&a.net.address());
    c.net.add_peer(&b.net.address());
    equal(&[&a, &b, &c], &store).await;
    let bytes = content(9 * 1024 * 1024 + 17);
    let blob = a.host.blobs.insert(store, &bytes).unwrap();
    b.host.blobs.insert(store, &bytes).unwrap();
    let seen = Mutex::new((0, 0));
    let progress = |done, total| *seen.lock().unwrap() = (done, total);
    c.net
        .fetch_blob(store, blob, 1 << 30, &progress)
        .await
        .unwrap();
    assert_eq!(c.host.blobs.read(store, blob).unwrap(), Some(bytes.clone()));
    assert_eq!(
        *seen.lock().unwrap(),
        (bytes.len() as u64, bytes.len() as u64)
    );
    for node in [&a, &b, &c] {
        node.net.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_another_store_is_not_given() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let elsewhere = a.found();
    let secret = a
        .host
        .blobs
        .insert(elsewhere, b"of a store that b is no member of")
        .unwrap();
    // Asked in the scope of the shared store, and in that of the other.
    for scope in [store, elsewhere, StoreId([5; 32])] {
        let error = b
            .net
            .fetch_blob(scope, secret, 1 << 20, &|_, _| {})
            .await
            .unwrap_err();
        assert!(matches!(error, FetchError::NoSource { .. }), "{error}");
        assert!(!b.host.blobs.has(scope, secret).unwrap());
    }
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_beyond_the_limit_or_known_to_nobody_is_an_error() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let big = a.host.blobs.insert(store, &content(100_000)).unwrap();
    let error = b
        .net
        .fetch_blob(store, big, 99_999, &|_, _| {})
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::TooLarge(_)), "{error}");
    let error = b
        .net
        .fetch_blob(store, BlobId([3; 32]), 1, &|_, _| {})
        .await
        .unwrap_err();
    assert!(
        matches!(error, FetchError::NoSource { asked: 1, .. }),
        "{error}"
    );
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_gets_no_blobs() {
    let (a, b, store) = pair().await;
    equal(&[&a, &b], &store).await;
    let blob = a.host.blobs.insert(store, &content(10)).unwrap();
    let revoke = lattice_testing::revoke(b.device(), &[]);
    a.host
        .call(&store, lattice_format::Lane::System, vec![revoke]);
    let error = b
        .net
        .fetch_blob(store, blob, 1 << 20, &|_, _| {})
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::NoSource { .. }), "{error}");
    a.net.close().await;
    b.net.close().await;
}

//! Stores that nobody uses are closed, so that a node with many stores needs files, threads and memory for few.
//!
//! A store that rests is opened by whatever needs it: a call, a query, a peer with news, a person who looks. What is
//! asked of it often stays in its slot: its members, and how many entries it has. A store is closed only when its
//! writer has nothing left to do that a timer would start, and nobody holds a view of it. Its callers have their
//! answers then.

use std::sync::{Arc, TryLockError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::limits::{RESTS_AFTER, RESTS_AFTER_CROWDED, RESTS_LOOK, STORES_OPEN};
use crate::node::{Node, Slot};

/// How long a writer may take to make everything durable, before its end is not waited for any more.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Closes the stores that nobody uses, again and again until the node ends.
pub(super) async fn close_unused(node: Weak<Node>) {
    loop {
        tokio::time::sleep(RESTS_LOOK).await;
        let Some(node) = node.upgrade() else { return };
        if *node.closing().borrow() {
            return;
        }
        let looked = tokio::task::spawn_blocking(move || {
            look(&node, RESTS_AFTER, RESTS_AFTER_CROWDED);
        });
        // A panic in one look is no reason not to look again.
        let _ = looked.await;
    }
}

/// Closes what was not used for long, and beyond [`STORES_OPEN`] what was not used just now. Blocks.
fn look(node: &Node, long: Duration, just_now: Duration) {
    let mut open: Vec<(Duration, Arc<Slot>)> = node
        .slots()
        .into_iter()
        .filter_map(|slot| Some((slot.unused_for()?, slot)))
        .collect();
    open.sort_by_key(|(unused, _)| *unused);
    for (place, (_, slot)) in open.into_iter().enumerate() {
        let unused = match place < STORES_OPEN {
            true => long,
            false => just_now,
        };
        close(&slot, unused);
    }
}

/// Closes a store that was not used for so long, if it has nothing to do. Returns whether it is closed. Blocks.
pub(super) fn close(slot: &Slot, unused: Duration) -> bool {
    // Whoever opens the store waits until its files are closed.
    let _one = match slot.opening.try_lock() {
        Ok(one) => one,
        Err(TryLockError::WouldBlock) => return false,
        Err(TryLockError::Poisoned(_)) => panic!("no holder panics"),
    };
    if slot.unused_for().is_none_or(|for_long| for_long < unused) || !is_quiet(slot) {
        return false;
    }
    // The members as of now are asked for while the store rests.
    slot.governance();
    let Some(store) = slot.take_unused(unused) else {
        return false;
    };
    Handle::current().block_on(store.close());
    if !store.join(CLOSE_WAIT) {
        tracing::warn!(store = %store.id(), "it takes long to close a store that nobody uses");
    }
    true
}

/// Whether an open store waits for nothing: no run, no entry that is parked or floats, no watch, no repair, no join.
fn is_quiet(slot: &Slot) -> bool {
    let Some(store) = slot.opened() else {
        return false;
    };
    let published = store.published();
    if published.paused.is_some()
        || published.broken.is_some()
        || published.rebuilding
        || published.snapshot.summary().pending > 0
        || store.is_watched()
        || slot.record().joining.is_some()
    {
        return false;
    }
    drop(published);
    let waits = store.with(|store| store.floating().len() + store.parked().len());
    matches!(Handle::current().block_on(waits), Ok(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::api;
    use crate::join;
    use crate::join::inspect_token;
    use crate::member;
    use crate::node::clock::Clock;
    use crate::node::home::Missing;
    use crate::node::network::{self, NetOptions};
    use crate::node::{NodeOptions, lookup, status};
    use crate::store::{call, create};
    use crate::{Embedding, Ways};

    /// How long an expected event may take.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn node(home: &Path) -> Arc<Node> {
        let options = NodeOptions {
            home: home.to_owned(),
            patience: Duration::ZERO,
            missing: Missing::Make,
            embedding: Embedding::Command,
            clock: Clock::default(),
        };
        crate::open(options).await.unwrap()
    }

    async fn node_with_network(home: &Path) -> Arc<Node> {
        let node = node(home).await;
        let options = NetOptions {
            bind: Some("127.0.0.1:0".parse().unwrap()),
            ways: Ways::NONE,
        };
        network::start(&node, &options).await.unwrap();
        network::start_tasks(&node);
        node
    }

    async fn made(node: &Arc<Node>, name: &str) -> Arc<Slot> {
        let request = api::CreateStoreRequest {
            name: name.into(),
            plugin: "counter".into(),
            ..Default::default()
        };
        create::create(node, request).await.unwrap()
    }

    fn function(name: &str, arguments: &[&str]) -> api::FunctionCall {
        let argument = |text: &&str| api::TextArgument {
            source: Some(api::text_argument::Source::Text((*text).into())),
        };
        api::FunctionCall {
            function: name.into(),
            arguments: Some(api::Arguments {
                form: Some(api::arguments::Form::Text(api::TextArguments {
                    positional: arguments.iter().map(argument).collect(),
                    ..Default::default()
                })),
            }),
        }
    }

    async fn add_one(node: &Node, store: &str) {
        let request = api::CallRequest {
            store: store.into(),
            calls: vec![function("add", &["1"])],
            ..Default::default()
        };
        let called = call::call(node, request).await.unwrap();
        assert_eq!(called.outcome.unwrap().kind(), api::OutcomeKind::Ok);
    }

    async fn value(node: &Node, store: &str) -> String {
        let request = api::QueryRequest {
            store: store.into(),
            call: Some(function("value", &[])),
            ..Default::default()
        };
        let queried = call::query(node, request).await.unwrap();
        let outcome = queried.outcome.unwrap();
        outcome.results[0].value.clone().unwrap().text
    }

    /// Closes a store as soon as its writer has nothing to do, although it was used just now.
    async fn closed(slot: &Arc<Slot>) {
        let begun = Instant::now();
        loop {
            let slot = slot.clone();
            let close = move || close(&slot, Duration::ZERO);
            if tokio::task::spawn_blocking(close).await.unwrap() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it stays open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The files below a directory that this process has open.
    fn open_below(directory: &Path) -> usize {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        paths.filter(|path| path.starts_with(directory)).count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_nobody_uses_is_closed_and_opens_when_it_is_used() {
        let home = tempfile::tempdir().unwrap();
        let node = node(home.path()).await;
        let slot = made(&node, "clicks").await;
        add_one(&node, "clicks").await;
        let files = home.path().join("stores");
        assert!(open_below(&files) > 0);
        let before = status::store_summary(&node, &slot).await;
        closed(&slot).await;
        assert_eq!(open_below(&files), 0, "its files are open");
        // What a list shows does not open it.
        let rested = status::store_summary(&node, &slot).await;
        assert_eq!(rested, before);
        assert!(slot.is_resting() && slot.opened().is_none());
        assert_eq!(value(&node, "clicks").await, "1");
        closed(&slot).await;
        add_one(&node, "clicks").await;
        assert_eq!(value(&node, "clicks").await, "2");
        node.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_somebody_looks_at_stays_open() {
        let home = tempfile::tempdir().unwrap();
        let node = node(home.path()).await;
        let slot = made(&node, "clicks").await;
        closed(&slot).await;
        let close_now = || {
            let slot = slot.clone();
            tokio::task::spawn_blocking(move || close(&slot, Duration::ZERO))
        };
        let store = node.store(&slot).await.unwrap();
        let watch = store.changes();
        drop(store);
        assert!(!close_now().await.unwrap(), "a watch runs");
        drop(watch);
        let snapshot = slot.opened().unwrap().snapshot();
        assert!(!close_now().await.unwrap(), "a view is read");
        drop(snapshot);
        let store = slot.opened();
        assert!(!close_now().await.unwrap(), "a caller has it");
        drop(store);
        let long = slot.clone();
        let not_long = tokio::task::spawn_blocking(move || close(&long, PATIENCE));
        assert!(!not_long.await.unwrap(), "it was used just now");
        closed(&slot).await;
        node.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_call_is_lost_while_its_store_is_closed_again_and_again() {
        const CALLERS: usize = 2;
        const CLOSES: usize = 5;
        let home = tempfile::tempdir().unwrap();
        let node = node(home.path()).await;
        let slot = made(&node, "clicks").await;
        let closes = Arc::new(AtomicUsize::new(0));
        let closer = {
            let (slot, closes) = (slot.clone(), closes.clone());
            tokio::task::spawn_blocking(move || {
                let begun = Instant::now();
                while closes.load(Ordering::Relaxed) < CLOSES && begun.elapsed() < PATIENCE {
                    closes.fetch_add(usize::from(close(&slot, Duration::ZERO)), Ordering::Relaxed);
                    std::thread::yield_now();
                }
            })
        };
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (node, closes) = (node.clone(), closes.clone());
                tokio::spawn(async move {
                    let (begun, mut calls) = (Instant::now(), 0_usize);
                    while closes.load(Ordering::Relaxed) < CLOSES {
                        add_one(&node, "clicks").await;
                        calls += 1;
                        // The store is closed only when nobody calls.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        assert!(begun.elapsed() < PATIENCE, "it stays open");
                    }
                    calls
                })
            })
            .collect();
        let mut calls = 0_usize;
        for caller in callers {
            calls += caller.await.unwrap();
        }
        closer.await.unwrap();
        assert_eq!(closes.load(Ordering::Relaxed), CLOSES);
        assert_eq!(value(&node, "clicks").await, calls.to_string());
        closed(&slot).await;
        node.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn so_many_stores_stay_open_and_those_that_were_used_last() {
        let home = tempfile::tempdir().unwrap();
        let node = node(home.path()).await;
        let mut slots = Vec::new();
        for number in 0..STORES_OPEN + 2 {
            slots.push(made(&node, &format!("s{number}")).await);
        }
        value(&node, "s0").await;
        let begun = Instant::now();
        let open = || slots.iter().filter(|slot| slot.opened().is_some()).count();
        while open() > STORES_OPEN {
            let node = node.clone();
            let looked = move || look(&node, PATIENCE * 10, Duration::ZERO);
            tokio::task::spawn_blocking(looked).await.unwrap();
            assert!(begun.elapsed() < PATIENCE, "{} are open", open());
        }
        assert_eq!(open(), STORES_OPEN);
        assert!(slots[0].opened().is_some(), "it was used last");
        assert!(slots[1].is_resting() && slots[2].is_resting());
        node.close().await;
    }

    /// Two nodes that share a store, which has this name on both.
    async fn sharing(homes: [&Path; 2], name: &str) -> [(Arc<Node>, Arc<Slot>); 2] {
        let [a, b] = [
            node_with_network(homes[0]).await,
            node_with_network(homes[1]).await,
        ];
        let here = made(&a, name).await;
        a.net().unwrap().store_added(here.id);
        let request = api::InviteRequest {
            store: name.into(),
            ..Default::default()
        };
        let token = member::invite(&a, request).await.unwrap().token;
        let shown = inspect_token(&b, &token).await.unwrap();
        let request = api::JoinRequest {
            token,
            app_hash: shown.app.unwrap().hash,
            governance_hash: shown.governance.unwrap().hash,
            ..Default::default()
        };
        let _progress = join::join(&b, request).await.unwrap();
        let begun = Instant::now();
        let there = loop {
            let slot = lookup::find_slot(&b, name).ok();
            match slot {
                Some(slot) if slot.record().joining.is_none() => break slot,
                _ => assert!(begun.elapsed() < PATIENCE, "it does not join"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        [(a, here), (b, there)]
    }

    /// Whether both stores have compared and hold the same.
    fn in_sync(node: &Node, slot: &Slot) -> bool {
        let peers = status::peers(node);
        let shared = peers.iter().flat_map(|peer| &peer.stores);
        let mut shared = shared.filter(|shared| shared.store == slot.id);
        shared.any(|shared| shared.live && shared.in_sync)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peers_in_sync_let_a_store_rest_and_news_open_it() {
        let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let shared = sharing([homes[0].path(), homes[1].path()], "clicks").await;
        let [(a, here), (b, there)] = &shared;
        add_one(a, "clicks").await;
        let begun = Instant::now();
        while !(in_sync(a, here) && in_sync(b, there) && value(b, "clicks").await == "1") {
            assert!(begun.elapsed() < PATIENCE, "they do not come into sync");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (_, slot) in &shared {
            closed(slot).await;
        }
        // One writes, and the other opens and has it without being asked.
        add_one(a, "clicks").await;
        let begun = Instant::now();
        while there.known().unwrap().count < here.known().unwrap().count {
            assert!(begun.elapsed() < PATIENCE, "the news do not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(value(b, "clicks").await, "2");
        for (node, _) in shared {
            node.close().await;
        }
    }
}

//! Tests of whole nodes through the API that commands use, with real components, files and sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod clocks;
mod joins;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use lattice_daemon::api;
use lattice_testing::advice;
use support::{Client, Daemon, bank, exit_class, home};
use tokio_stream::StreamExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_called_is_there_after_closing() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("clicks", "counter").await;
    assert_eq!(client.call_ok("clicks", "add", &["5"]).await, "");
    assert_eq!(client.query("clicks", "value", &[]).await, "5");
    client.close().await;

    let mut client = Client::embedded(home.path()).await;
    assert_eq!(client.query("clicks", "value", &[]).await, "5");
    let history = client.history("clicks").await;
    assert_eq!(history.len(), 2, "the genesis and a call: {history:?}");
    let call = &history[0].transactions[0].calls[0];
    assert_eq!(
        (call.function.as_str(), call.arguments[0].name.as_str()),
        ("add", "by")
    );
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_is_opened_by_one_process() {
    let home = home();
    let client = Client::embedded(home.path()).await;
    match lattice_daemon::embedded(home.path()).await {
        Err(lattice_daemon::OpenError::Locked { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_a_usage_error_and_leaves_nothing() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("notes", "kv").await;
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("nots", "put", &["a", "b"], "there is no store"),
        ("notes", "putt", &["a", "b"], "no command \"putt\""),
        ("notes", "get", &["a"], "use `lattice query`"),
        ("notes", "put", &["a"], "missing"),
        ("notes", "put", &["a", "b", "c"], "3 are given"),
    ];
    for (store, function, arguments, said) in cases {
        let status = client
            .try_call(store, function, arguments)
            .await
            .unwrap_err();
        let (class, text) = exit_class(&status);
        assert_eq!(class, api::ExitClass::Usage, "{text}");
        assert!(text.contains(said), "{text}");
    }
    for (name, plugin) in [("notes", "kv"), ("a/b", "kv"), ("x", "no-such-plugin")] {
        let status = client.try_create(name, plugin, &[]).await.unwrap_err();
        assert_eq!(exit_class(&status).0, api::ExitClass::Usage);
    }
    // `counter` takes no parameters. Whatever its answer is, nothing may be left of the store.
    let refused = client
        .try_create("x", "counter", &[("colour", "red")])
        .await;
    let stores = std::fs::read_dir(home.path().join("stores"))
        .unwrap()
        .count();
    assert_eq!(stores, if refused.is_ok() { 2 } else { 1 });
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_takes_effect_whole_or_not_at_all() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.install("bank", bank()).await;
    client.create("money", "bank").await;
    let outcome = client
        .transact(
            "money",
            &[
                ("open", &["ann"]),
                ("deposit", &["ann", "10"]),
                ("withdraw", &["ann", "11"]),
            ],
        )
        .await;
    assert_eq!(outcome.kind(), api::OutcomeKind::Refused);
    assert_eq!(outcome.call_index, 2);
    assert!(outcome.error.unwrap().text.contains("insufficient-funds"));
    assert_eq!(client.query("money", "balance", &["ann"]).await, "none");
    let outcome = client
        .transact("money", &[("open", &["ann"]), ("deposit", &["ann", "10"])])
        .await;
    assert_eq!(outcome.kind(), api::OutcomeKind::Ok);
    assert_eq!(client.query("money", "balance", &["ann"]).await, "some(10)");
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_each_change_of_its_result_and_no_other() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("notes", "kv").await;
    let mut events = client.watch("notes", "get", &["a"]).await;
    assert_eq!(support::next_text(&mut events).await, "none");
    client.call_ok("notes", "put", &["b", "1"]).await;
    client.call_ok("notes", "put", &["a", "2"]).await;
    assert_eq!(support::next_text(&mut events).await, "some(\"2\")");
    client.call_ok("notes", "put", &["a", "2"]).await;
    let quiet = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(quiet.is_err(), "nothing changed: {quiet:?}");
    drop(events);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_a_store_uses_is_not_removed() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    let plugin = client.install("bank", bank()).await;
    assert_eq!(plugin.package, "example:bank@0.1.0");
    client.create("money", "bank").await;
    let status = client.try_remove("bank").await.unwrap_err();
    let (class, text) = exit_class(&status);
    assert_eq!(
        (class, text.contains("money")),
        (api::ExitClass::Usage, true),
        "{text}"
    );
    assert_eq!(
        exit_class(&client.try_remove("kv").await.unwrap_err()).0,
        api::ExitClass::Usage
    );
    client.install("spare", bank()).await;
    client.try_remove("spare").await.unwrap();
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_has_the_members_and_the_path_of_its_parent() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("work", "none").await;
    let child = client
        .stores
        .create(api::CreateStoreRequest {
            name: "notes".into(),
            plugin: "kv".into(),
            parent: "work".into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (child.path.as_str(), child.role.as_str()),
        ("work/notes", "admin")
    );
    client.call_ok("work/notes", "put", &["a", "b"]).await;
    client.close().await;
}

/// Holds: invariant 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilt_store_has_the_same_roots() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("clicks", "counter").await;
    for _ in 0..20 {
        client.call_ok("clicks", "add", &["1"]).await;
    }
    let mut steps = client
        .stores
        .rebuild(api::RebuildStoreRequest {
            store: "clicks".into(),
        })
        .await
        .unwrap()
        .into_inner();
    let mut result = None;
    while let Some(step) = steps.next().await {
        result = step.unwrap().result.or(result);
    }
    let result = result.expect("the last message has it");
    assert_eq!(result.state_root, result.state_root_before);
    assert_eq!(result.outcome_root, result.outcome_root_before);
    assert_eq!(client.query("clicks", "value", &[]).await, "20");
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_gets_the_component_by_hash_and_both_converge() {
    let (first_home, second_home) = (home(), home());
    let first = Daemon::start(first_home.path()).await;
    let second = Daemon::start(second_home.path()).await;
    let mut a = first.client().await;
    let mut b = second.client().await;
    a.install("bank", bank()).await;
    a.create("money", "bank").await;
    a.call_ok("money", "open", &["ann"]).await;
    let token = a.invite("money", 1, 0).await;
    let joined = b.join(&token).await.unwrap();
    assert_eq!(
        (joined.name.as_str(), joined.role.as_str()),
        ("money", "writer")
    );
    b.call_ok("money", "deposit", &["ann", "7"]).await;
    a.until("money", "balance", &["ann"], "some(7)").await;

    // The invite of the token had one use.
    let third_home = home();
    let third = Daemon::start(third_home.path()).await;
    let status = third.client().await.join(&token).await.unwrap_err();
    let (class, text) = exit_class(&status);
    assert_eq!(
        (class, text.contains("spent")),
        (api::ExitClass::Failed, true),
        "{text}"
    );
    assert!(third.client().await.store_names().await.is_empty());
    third.stop().await;

    // Both write while they are apart. The order decides which withdrawal succeeds, and it is the same on both.
    drop(b);
    second.stop().await;
    a.call_ok("money", "withdraw", &["ann", "5"]).await;
    let mut alone = Client::embedded(second_home.path()).await;
    alone.call_ok("money", "withdraw", &["ann", "6"]).await;
    alone.close().await;
    let second = Daemon::start(second_home.path()).await;
    let mut b = second.client().await;
    let mut equal = false;
    for _ in 0..400 {
        let (x, y) = (a.status("money").await, b.status("money").await);
        let roots = |s: &api::StoreStatus| {
            (
                s.applied_count,
                s.applied_hash.clone(),
                s.state_root.clone(),
                s.outcome_root.clone(),
            )
        };
        if x.pending_count == 0 && roots(&x) == roots(&y) && x.applied_count == 7 {
            equal = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(
        equal,
        "{:?}\n{:?}",
        a.status("money").await,
        b.status("money").await
    );
    // The withdrawal that comes later in the order is refused, and a notice tells its node.
    let told = a.notices().await.len() + b.notices().await.len();
    assert_eq!(told, 1);

    // A revoked member is not allowed to call any more.
    let member = b.node_id().await;
    a.revoke("money", &member).await;
    for _ in 0..400 {
        let outcome = b.try_call("money", "deposit", &["ann", "1"]).await;
        if outcome.is_ok_and(|outcome| outcome.kind() == api::OutcomeKind::Unauthorized) {
            equal = true;
            break;
        }
        equal = false;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(equal, "the revoked member may still call");
    drop((a, b));
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_or_damaged_token_is_refused_and_leaves_no_store() {
    let (first_home, second_home) = (home(), home());
    let first = Daemon::start(first_home.path()).await;
    let second = Daemon::start(second_home.path()).await;
    let mut a = first.client().await;
    let mut b = second.client().await;
    a.create("clicks", "counter").await;
    let token = a.invite("clicks", 1, 30).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let (start, last) = token.split_at(token.len() - 1);
    let damaged = format!("{start}{}", if last == "x" { "y" } else { "x" });
    for (token, said) in [
        (token.as_str(), "expired"),
        (&damaged, "token"),
        ("hello", "token"),
    ] {
        let status = b.join(token).await.unwrap_err();
        let (class, text) = exit_class(&status);
        assert_eq!(class, api::ExitClass::Failed, "{text}");
        assert!(text.contains(said), "{text}");
    }
    assert!(b.store_names().await.is_empty());
    drop((a, b));
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_ends_within_two_seconds_and_takes_its_socket_along() {
    let home = home();
    let daemon = Daemon::start(home.path()).await;
    let mut client = daemon.client().await;
    client.create("notes", "kv").await;
    let events = client.watch("notes", "get", &["a"]).await;
    let began = std::time::Instant::now();
    daemon.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(!home.path().join("lattice.sock").exists());
    drop((events, client));
    // The next daemon starts without a wait for the first.
    let daemon = Daemon::start(home.path()).await;
    assert_eq!(
        daemon.client().await.query("notes", "get", &["a"]).await,
        "none"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_a_home_open_side_by_side() {
    let home = home();
    let names = ["ann", "bob", "cid", "dan"];
    let mut client = Client::embedded(home.path()).await;
    for name in names {
        client.create(name, "counter").await;
        client.call_ok(name, "add", &["2"]).await;
    }
    client.close().await;
    // The list has the members of all stores, so the request opens all stores.
    let mut client = Client::embedded(home.path()).await;
    let request = api::ListPeersRequest::default();
    client.node.list_peers(request).await.unwrap();
    for name in names {
        assert_eq!(client.query(name, "value", &[]).await, "2");
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_nothing_wrong_with_a_new_home() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    let checks = client
        .node
        .doctor(api::DoctorRequest {})
        .await
        .unwrap()
        .into_inner()
        .checks;
    for check in &checks {
        assert_ne!(check.level(), api::CheckLevel::Failed, "{check:?}");
    }
    assert!(checks.iter().any(|check| check.name == "runtime"));
    client.close().await;
}

/// Copies a directory; with `times` the copies get the modification times of the files.
fn copy(from: &std::path::Path, to: &std::path::Path, times: bool) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target, times);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            if times {
                let modified = entry.metadata().unwrap().modified().unwrap();
                let file = std::fs::File::options().write(true).open(&target).unwrap();
                file.set_modified(modified).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_home_forks_no_chain() {
    let (home_a, home_b, backup) = (home(), home(), home());
    let a = Daemon::start(home_a.path()).await;
    let b = Daemon::start(home_b.path()).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    on_a.create("clicks", "counter").await;
    let token = on_a.invite("clicks", 1, 0).await;
    on_b.join(&token).await.unwrap();
    on_b.call_ok("clicks", "add", &["1"]).await;
    drop(on_b);
    b.stop().await;
    copy(home_b.path(), backup.path(), true);

    let mut total = 1;
    for in_place in [false, true] {
        // The node writes an entry that a peer gets, and that the backup does not have.
        let b = Daemon::start(home_b.path()).await;
        let mut on_b = b.client().await;
        on_b.call_ok("clicks", "add", &["10"]).await;
        total += 10;
        on_a.until("clicks", "value", &[], &total.to_string()).await;
        drop(on_b);
        b.stop().await;
        // The backup is restored, and a call is made while no peer can be asked.
        if in_place {
            // The times of an overwritten file tell only after this long.
            tokio::time::sleep(Duration::from_millis(2_100)).await;
        } else {
            std::fs::remove_dir_all(home_b.path()).unwrap();
        }
        copy(backup.path(), home_b.path(), in_place);
        let mut alone = Client::embedded(home_b.path()).await;
        alone.call_ok("clicks", "add", &["100"]).await;
        total += 100;
        alone.close().await;
        let b = Daemon::start(home_b.path()).await;
        let mut on_b = b.client().await;
        on_b.until("clicks", "value", &[], &total.to_string()).await;
        on_a.until("clicks", "value", &[], &total.to_string()).await;
        drop(on_b);
        b.stop().await;
    }
    let mut places: Vec<_> = on_a
        .history("clicks")
        .await
        .into_iter()
        .map(|entry| (entry.author, entry.chain, entry.seq))
        .collect();
    let entries = places.len();
    places.sort();
    places.dedup();
    assert_eq!(
        places.len(),
        entries,
        "two entries have one place: {places:?}"
    );
    drop(on_a);
    a.stop().await;
}

/// Two nodes that shared the store `money`, of which the second has lost the component and neither runs. Returns the
/// component, and the address of the first.
async fn without_component(home_a: &Path, home_b: &Path) -> (api::Plugin, SocketAddr) {
    let a = Daemon::start(home_a).await;
    let b = Daemon::start(home_b).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    let plugin = on_a.install("bank", bank()).await;
    on_a.create("money", "bank").await;
    on_a.call_ok("money", "open", &["ann"]).await;
    let token = on_a.invite("money", 1, 0).await;
    on_b.join(&token).await.unwrap();
    let address = a.address();
    drop(on_a);
    a.stop().await;
    drop(on_b);
    b.stop().await;
    // The component is lost while no peer that has it runs.
    let component = hex::encode(&plugin.hash);
    let mut lost = 0;
    for entry in std::fs::read_dir(home_b.join("components")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(&component)
        {
            std::fs::remove_file(path).unwrap();
            lost += 1;
        }
    }
    assert_eq!(lost, 2, "its bytes and its code");
    // They would come back from what the store keeps.
    std::fs::remove_dir_all(home_b.join("blobs")).unwrap();
    (plugin, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_component_keeps_the_log_and_catches_up() {
    let (home_a, home_b) = (home(), home());
    let (plugin, address) = without_component(home_a.path(), home_b.path()).await;
    let b = Daemon::start(home_b.path()).await;
    let mut on_b = b.client().await;
    let status = on_b.try_call("money", "open", &["bob"]).await.unwrap_err();
    let (class, said) = exit_class(&status);
    assert_eq!(class, api::ExitClass::NotReady, "{said}");
    // The history needs no component.
    assert!(!on_b.history("money").await.is_empty());
    // A peer that has the component comes back. The entry that it wrote alone arrives, and runs.
    let a = Daemon::start_at(home_a.path(), address).await;
    let mut on_a = a.client().await;
    on_a.call_ok("money", "deposit", &["ann", "7"]).await;
    assert_eq!(on_b.fetch(&plugin.hash).await.hash, plugin.hash);
    let mut balance = String::new();
    for _ in 0..400 {
        balance = on_b
            .try_query("money", "balance", &["ann"])
            .await
            .unwrap_or_default();
        if balance == "some(7)" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(balance, "some(7)");
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_only_the_next_call_needs_is_fetched_as_it_says() {
    let (home_a, home_b) = (home(), home());
    let (plugin, address) = without_component(home_a.path(), home_b.path()).await;
    let b = Daemon::start(home_b.path()).await;
    let mut on_b = b.client().await;
    let status = on_b.try_call("money", "open", &["bob"]).await.unwrap_err();
    let (_, said) = exit_class(&status);
    advice(
        &said,
        "it is fetched from peers while a daemon runs; `lattice store status` says more",
    );
    let shown = on_b.status("money").await.store.unwrap();
    assert_eq!(shown.state(), api::StoreState::Headless);
    assert!(
        shown.reason.contains(&hex::encode(plugin.hash)),
        "{shown:?}"
    );
    // A peer that has the component comes back, and writes nothing.
    let a = Daemon::start_at(home_a.path(), address).await;
    let mut called = on_b.try_call("money", "open", &["bob"]).await;
    for _ in 0..400 {
        if called.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
        called = on_b.try_call("money", "open", &["bob"]).await;
    }
    called.unwrap();
    let shown = on_b.status("money").await.store.unwrap();
    assert_eq!(shown.state(), api::StoreState::Ready);
    drop(on_b);
    a.stop().await;
    b.stop().await;
}

//! The bounds of requests: a request at the last allowed value is served, one beyond is refused, and the node goes on.

use lattice_daemon::api;
use lattice_daemon::limits::*;
use lattice_testing::advice;
use prost::Message;
use tonic::{Code, Status};

use crate::support::{Client, Daemon, exit_class, home};

fn is_usage<T: std::fmt::Debug>(result: Result<T, Status>, said: &str) {
    let (class, text) = exit_class(&result.unwrap_err());
    assert_eq!(class, api::ExitClass::Usage, "{text}");
    assert!(text.contains(said), "{text}");
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_ends_at_its_calls() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("clicks", "counter").await;
    let calls = vec![("add", &["1"][..]); CALLS_MAX + 1];
    let outcome = client.transact("clicks", &calls[1..]).await;
    assert_eq!(outcome.kind(), api::OutcomeKind::Ok);
    let all = CALLS_MAX.to_string();
    is_usage(client.try_transact("clicks", &calls).await, &all);
    assert_eq!(client.query("clicks", "value", &[]).await, all);
    client.close().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_ends_at_its_life_and_its_uses() {
    let home = home();
    let daemon = Daemon::start(home.path()).await;
    let mut client = daemon.client().await;
    client.create("clicks", "counter").await;
    let mut invite = async |uses, expires_in_ms| {
        let request = api::InviteRequest {
            store: "clicks".into(),
            uses,
            expires_in_ms,
            ..Default::default()
        };
        client.stores.invite(request).await
    };
    assert!(invite(INVITE_USES_MAX, INVITE_MS_MAX).await.is_ok());
    is_usage(invite(1, INVITE_MS_MAX + 1).await, "366 days");
    let many = invite(INVITE_USES_MAX + 1, 1_000).await;
    let (class, text) = exit_class(&many.unwrap_err());
    assert_eq!(class, api::ExitClass::Usage, "{text}");
    advice(&text, "make several invites");
    for uses in [INVITE_USES_MAX, 1] {
        assert!(invite(uses, 1_000).await.is_ok());
    }
    // A request without a life gets a day, which is allowed.
    const { assert!(INVITE_MS_DEFAULT <= INVITE_MS_MAX) };
    assert!(invite(0, 0).await.is_ok());
    drop(client);
    daemon.stop().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_end_at_their_bytes() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    let value = "x".repeat(PARAMETER_BYTES_MAX);
    let name = "n";
    // Parameters that fit go to the plugin, which takes none and may refuse them.
    let fits = [(name, &value[name.len()..])];
    if let Err(status) = client.try_create("clicks", "counter", &fits).await {
        let (_, text) = exit_class(&status);
        assert!(!text.contains("parameters have"), "{text}");
    }
    let more = [(name, &value[..])];
    let result = client.try_create("more", "counter", &more).await;
    is_usage(result, "parameters have");
    client.close().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_ends_at_its_notices() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    let mut acknowledge = async |count: usize| {
        let ids = (1..=count as u64).collect();
        let request = api::AcknowledgeNoticesRequest { ids, all: false };
        client.node.acknowledge_notices(request).await
    };
    // None of these notices exists. That is told only when the request does not name too many.
    is_usage(acknowledge(ACKNOWLEDGE_MAX).await, "notice");
    let many = acknowledge(ACKNOWLEDGE_MAX + 1).await.unwrap_err();
    let (class, text) = exit_class(&many);
    assert_eq!(class, api::ExitClass::Usage, "{text}");
    advice(&text, "acknowledge some after the others, or all");
    is_usage(acknowledge(1).await, "notice");
    let all = api::AcknowledgeNoticesRequest {
        ids: Vec::new(),
        all: true,
    };
    client.node.acknowledge_notices(all).await.unwrap();
    client.close().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_at_its_bytes() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("notes", "kv").await;
    let value = "x".repeat(REQUEST_BYTES_MAX);
    let status = client.try_call("notes", "put", &["a", &value]).await;
    assert_eq!(status.unwrap_err().code(), Code::OutOfRange);
    // A request that is a little smaller is read, but its value is too large for an entry.
    let value = &value[1024..];
    let status = client.try_call("notes", "put", &["a", value]).await;
    let (class, text) = exit_class(&status.unwrap_err());
    assert_eq!(class, api::ExitClass::Failed, "{text}");
    client.call_ok("notes", "put", &["a", "b"]).await;
    client.close().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_end_at_their_number() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("clicks", "counter").await;
    let mut watches = Vec::with_capacity(WATCHES_MAX);
    for _ in 0..WATCHES_MAX {
        watches.push(client.watch("clicks", "value", &[]).await);
    }
    let status = client.try_watch("clicks", "value", &[]).await.unwrap_err();
    let (class, text) = exit_class(&status);
    assert_eq!(class, api::ExitClass::Failed, "{text}");
    advice(&text, "end some of them");
    // Queries without a watch are served. A watch that ends makes room for another.
    assert_eq!(client.query("clicks", "value", &[]).await, "0");
    watches.pop();
    for _ in 0..400 {
        if client.try_watch("clicks", "value", &[]).await.is_ok() {
            watches.clear();
            return client.close().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("there is no room for another watch");
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_ends_at_its_depth() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    let mut parent = String::new();
    let mut last = api::Store::default();
    for depth in 1..=PATH_DEPTH_MAX + 1 {
        let name = format!("s{depth}");
        let request = api::CreateStoreRequest {
            name: name.clone(),
            plugin: "none".into(),
            parent,
            ..Default::default()
        };
        last = client.stores.create(request).await.unwrap().into_inner();
        assert_eq!(
            last.path.split('/').count(),
            depth.min(PATH_DEPTH_MAX),
            "{}",
            last.path
        );
        parent = name;
    }
    assert!(last.path.starts_with("s2/s3/"), "{}", last.path);
    client.close().await;
}

/// The most bytes that an item adds to the message of its page.
fn item_bytes(entry: &api::HistoryEntry) -> usize {
    entry.encoded_len() + 6
}

/// All pages of a history, newest first.
async fn history(client: &mut Client, store: &str) -> Vec<api::HistoryResponse> {
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let request = api::HistoryRequest {
            store: store.into(),
            page_size: PAGE_MAX,
            page_token: std::mem::take(&mut token),
            ..Default::default()
        };
        let page = client.stores.history(request).await.unwrap().into_inner();
        token.clone_from(&page.next_page_token);
        pages.push(page);
        if token.is_empty() {
            return pages;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_token_of_other_filters_is_refused() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("notes", "kv").await;
    client.call_ok("notes", "put", &["a", "b"]).await;
    let first = api::HistoryRequest {
        store: "notes".into(),
        page_size: 1,
        ..Default::default()
    };
    let page = client.stores.history(first.clone()).await.unwrap();
    let next = api::HistoryRequest {
        page_token: page.into_inner().next_page_token,
        ..first
    };
    assert!(!next.page_token.is_empty());
    let others = [
        api::HistoryRequest {
            since_ms: 1,
            ..next.clone()
        },
        api::HistoryRequest {
            until_ms: u64::MAX,
            ..next.clone()
        },
        api::HistoryRequest {
            outcome: api::OutcomeKind::Refused.into(),
            ..next.clone()
        },
        api::HistoryRequest {
            lane: api::Lane::App.into(),
            ..next.clone()
        },
        api::HistoryRequest {
            function: "put".into(),
            ..next.clone()
        },
        api::HistoryRequest {
            oldest_first: true,
            ..next.clone()
        },
    ];
    for other in others {
        let refused = client.stores.history(other.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        advice(&exit_class(&refused).1, "start again without one");
        let again = api::HistoryRequest {
            page_token: String::new(),
            ..other
        };
        client.stores.history(again).await.unwrap();
    }
    client.stores.history(next).await.unwrap();
    client.close().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_too_large_for_a_message_is_shortened() {
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("notes", "kv").await;
    // A value is sent four times: as text, as JSON in base64, as CBOR, and in the arguments as the log has them.
    let fits = "x".repeat(200_000);
    let large = "x".repeat(245_000);
    for value in [&fits, &large] {
        let arguments = ["a", value.as_str()];
        let calls = [("put", &arguments[..]); 4];
        let outcome = client.transact("notes", &calls).await;
        assert_eq!(outcome.kind(), api::OutcomeKind::Ok, "{outcome:?}");
    }
    let pages = history(&mut client, "notes").await;
    let entries: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
    let call = |at: usize| &entries[at].transactions[0].calls[0];
    assert!(entries[0].shortened && call(0).arguments.is_empty());
    assert!(call(0).arguments_cbor.len() > large.len(), "the bytes fit");
    assert!(!entries[1].shortened && call(1).arguments.len() == 2);
    client.close().await;
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_history_ends_at_its_bytes_and_a_summary_at_its_characters() {
    const ENTRIES: usize = 20;
    let home = home();
    let mut client = Client::embedded(home.path()).await;
    client.create("notes", "kv").await;
    let value = "x".repeat(250 * 1024);
    for n in 0..ENTRIES {
        let key = n.to_string();
        client.call_ok("notes", "put", &[&key, &value]).await;
    }
    let pages = history(&mut client, "notes").await;
    assert_eq!(
        pages.iter().map(|page| page.entries.len()).sum::<usize>(),
        ENTRIES + 1
    );
    assert!(pages.len() > 1);
    // The entries of a page fit its bounds and a message of gRPC. With the next entry they would not fit the page.
    for (page, next) in pages.iter().zip(pages.iter().skip(1)) {
        let bytes: usize = page.entries.iter().map(item_bytes).sum();
        let more = bytes + item_bytes(&next.entries[0]);
        assert!(
            bytes <= PAGE_BYTES_MAX && more > PAGE_BYTES_MAX,
            "{bytes}, {more}"
        );
        assert!(page.encoded_len() <= MESSAGE_BYTES_MAX);
    }
    let request = api::GraphRequest {
        store: "notes".into(),
        page_size: PAGE_MAX,
        ..Default::default()
    };
    let graph = client.stores.graph(request).await.unwrap().into_inner();
    let longest = graph.nodes.iter().map(|node| node.summary.chars().count());
    assert_eq!(longest.max(), Some(SUMMARY_CHARS));
    client.close().await;
}

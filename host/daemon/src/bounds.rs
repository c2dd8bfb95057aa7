//! Tests of the bounds of a node's own queues and lists, each at its last allowed value and one beyond.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use lattice_format::{Call, ChainId, ComponentId, DeviceKey, IntentionId, Lane, StoreId};
use lattice_kernel::limits::GROUP_CALLS_MAX;
use lattice_kernel::run::engine::Role;
use lattice_kernel::{Changes, Notice};
use lattice_testing::{self as testing, Step, advice};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::api::outcome::Forms;
use crate::api::page::Page;
use crate::api::server::Running;
use crate::api::{self, calls_client::CallsClient, node_client::NodeClient};
use crate::limits::*;
use crate::node::lookup;
use crate::node::records::{PluginRecord, StoreRecord};
use crate::node::status;
use crate::node::{Node, Slot};
use crate::plugin;
use crate::store::OpenStore;
use crate::store::call;
use crate::store::create;
use crate::store::graph;
use crate::store::history::{self, Filter, Names, Reader};
use crate::store::notices;
use crate::store::watch::{changed, concerns};
use crate::{Embedded, embedded};

/// The time after which an event that has not happened is taken not to happen.
const QUIET: Duration = Duration::from_millis(300);
/// How long an expected event may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn node() -> (Embedded, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let embedded = embedded(home.path()).await.unwrap();
    (embedded, home)
}

fn request(name: &str, plugin: &str) -> api::CreateStoreRequest {
    api::CreateStoreRequest {
        name: name.into(),
        plugin: plugin.into(),
        ..Default::default()
    }
}

async fn created(node: &Arc<Node>, name: &str, plugin: &str) -> Arc<OpenStore> {
    create::create(node, request(name, plugin)).await.unwrap();
    let slot = lookup::find_slot(node, name).unwrap();
    node.store(&slot).await.unwrap()
}

fn call(function: &str, arguments: &[&str]) -> api::FunctionCall {
    let argument = |text: &&str| api::TextArgument {
        source: Some(api::text_argument::Source::Text((*text).into())),
    };
    api::FunctionCall {
        function: function.into(),
        arguments: Some(api::Arguments {
            form: Some(api::arguments::Form::Text(api::TextArguments {
                positional: arguments.iter().map(argument).collect(),
                ..Default::default()
            })),
        }),
    }
}

fn add_one() -> api::CallRequest {
    api::CallRequest {
        store: "clicks".into(),
        calls: vec![call("add", &["1"])],
        ..Default::default()
    }
}

/// Keeps the writer of a store busy until the sender is dropped.
async fn busy(store: &Arc<OpenStore>) -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let store = store.clone();
    tokio::spawn(async move {
        store
            .with(move |_| {
                let _ = begin.send(());
                let _: Result<(), _> = held.recv();
            })
            .await
    });
    begun.await.unwrap();
    hold
}

/// Waits until so many jobs wait for the writer.
async fn queued(store: &OpenStore, count: usize) {
    for _ in 0..1000 {
        if WRITER_QUEUE - store.room() == count {
            // A sender takes its place in the queue a moment before the job is there.
            tokio::time::sleep(QUIET / 10).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} wait, not {count}", WRITER_QUEUE - store.room());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_calls_share_a_commit_and_so_many_wait() {
    let (embedded, _home) = node().await;
    let node = &embedded.node;
    let store = created(node, "clicks", "counter").await;
    // After this call has returned, the changes of the store's creation have been told.
    call::call(node, add_one()).await.unwrap();
    for count in [GROUP_CALLS_MAX, GROUP_CALLS_MAX + 1] {
        let hold = busy(&store).await;
        let mut changes = store.changes();
        let calls: Vec<_> = (0..count)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move { call::call(&node, add_one()).await })
            })
            .collect();
        queued(&store, count).await;
        drop(hold);
        for call in calls {
            call.await.unwrap().unwrap();
        }
        // Each commit is told once, with its entries, after its callers were answered.
        let mut commits = async |patience| {
            let told = timeout(patience, changes.recv()).await.ok()?;
            Some(usize::from(!told.unwrap().entries.is_empty()))
        };
        let mut seen = 0;
        while seen < count.div_ceil(GROUP_CALLS_MAX) {
            seen += commits(PATIENCE).await.expect("one more commit");
        }
        while let Some(more) = commits(QUIET).await {
            assert_eq!(more, 0, "one commit too many");
        }
    }
    // While the queue is full, further callers wait for room in it.
    let hold = busy(&store).await;
    let asking = |_| {
        let store = store.clone();
        tokio::spawn(async move { store.with(|_| ()).await })
    };
    let mut waiting: Vec<_> = (0..WRITER_QUEUE).map(asking).collect();
    queued(&store, WRITER_QUEUE).await;
    waiting.push(asking(0));
    tokio::time::sleep(QUIET).await;
    assert!(waiting.iter().all(|asked| !asked.is_finished()));
    drop(hold);
    for asked in waiting {
        asked.await.unwrap().unwrap();
    }
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_requests_of_a_connection_are_in_progress() {
    let (embedded, _home) = node().await;
    let store = created(&embedded.node, "clicks", "counter").await;
    let (other, other_channel) = Running::in_memory(&embedded.node);
    let ping = async |channel: &Channel, patience| {
        let mut node = NodeClient::new(channel.clone());
        let pong = timeout(patience, node.ping(api::PingRequest {})).await;
        pong.is_ok()
    };
    let hold = busy(&store).await;
    let ask = || {
        let mut calls = CallsClient::new(embedded.channel());
        tokio::spawn(async move { calls.call(add_one()).await })
    };
    let mut asked: Vec<_> = (1..REQUESTS_PER_CONNECTION).map(|_| ask()).collect();
    queued(&store, REQUESTS_PER_CONNECTION - 1).await;
    assert!(
        ping(&embedded.channel(), PATIENCE).await,
        "there is room for one more"
    );
    asked.push(ask());
    queued(&store, REQUESTS_PER_CONNECTION).await;
    assert!(!ping(&embedded.channel(), QUIET).await, "there is none");
    assert!(
        ping(&other_channel, PATIENCE).await,
        "others do not wait for it"
    );
    drop(hold);
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert!(ping(&embedded.channel(), PATIENCE).await);
    drop(other_channel);
    other.stop().await;
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_long_queries_run_and_others_wait_for_their_turn() {
    let (embedded, _home) = node().await;
    let node = &embedded.node;
    created(node, "clicks", "counter").await;
    let query = |store: &str| {
        let node = node.clone();
        let request = api::QueryRequest {
            store: store.into(),
            call: Some(call("value", &[])),
            ..Default::default()
        };
        // The first query of a store counts as a long one, because its code may have to be loaded.
        tokio::spawn(async move { call::query(&node, request).await })
    };
    let most = queries_long();
    assert!((1..=QUERIES_LONG_MAX).contains(&most));
    let turns = node.long_queries.clone();
    let others = turns.acquire_many_owned(most as u32).await;
    let waiting = query("clicks");
    tokio::time::sleep(QUIET).await;
    assert!(!waiting.is_finished());
    drop(others.unwrap().split(1));
    waiting.await.unwrap().unwrap();
    assert_eq!(node.long_queries.available_permits(), most);
    // When the long queries of one store have used up its share, those of other stores go on.
    created(node, "other", "counter").await;
    let slot = lookup::find_slot(node, "other").unwrap();
    let other = call::running(node, &slot).await.unwrap();
    let share = most.div_ceil(2);
    assert_eq!(other.long_queries.available_permits(), share);
    let turns = other.long_queries.clone();
    let used_up = turns.acquire_many_owned(share as u32).await.unwrap();
    let waiting = query("other");
    tokio::time::sleep(QUIET).await;
    assert!(!waiting.is_finished());
    created(node, "third", "counter").await;
    query("third").await.unwrap().unwrap();
    assert!(!waiting.is_finished());
    drop(used_up);
    waiting.await.unwrap().unwrap();
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_compares_so_many_cells_and_lags_so_many_changes_behind() {
    let (embedded, _home) = node().await;
    let store = created(&embedded.node, "notes", "kv").await;
    let put = async |key: u8| {
        let mut told = store.changes();
        let put = Call {
            interface: "lattice:kv/commands".into(),
            function: "put".into(),
            // The arguments: a text of one character, and one byte.
            args: vec![0x82, 0x61, key, 0x41, b'x'],
        };
        let done = store.call(Lane::App, vec![put], false).await.unwrap();
        let entry = done.place.expect("it is logged").entry;
        loop {
            let changes = told.recv().await.unwrap();
            if changes.entries.contains(&entry) {
                return changes;
            }
        }
    };
    let (read, other) = (put(b'a').await, put(b'b').await);
    let get = Call {
        interface: "lattice:kv/queries".into(),
        function: "get".into(),
        args: vec![0x81, 0x61, b'a'],
    };
    let fuel = store.snapshot().genesis().limits.fuel;
    let queried = store.snapshot().query(&get, Lane::App, fuel).unwrap();
    let changes = |count: usize, like: &Changes| Changes {
        cells: like.cells.iter().cycle().take(count).cloned().collect(),
        ..Changes::default()
    };
    assert!(concerns(&read, &queried));
    assert!(!concerns(&changes(CHANGED_CELLS_MAX, &other), &queried));
    assert!(concerns(&changes(CHANGED_CELLS_MAX + 1, &other), &queried));
    // Changes that do not concern the query run it only if some of them were lost.
    for (count, runs) in [(CHANGES_QUEUE, false), (CHANGES_QUEUE + 1, true)] {
        let mut told = store.changes();
        for _ in 0..count {
            store.tell(changes(1, &other));
        }
        let changed = timeout(QUIET, changed(&mut told, &queried)).await;
        assert_eq!(changed.ok(), runs.then_some(true));
    }
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_that_are_not_kept_are_told_until_all_are_acknowledged() {
    let (embedded, _home) = node().await;
    let node = &embedded.node;
    let fork = Notice::Fork {
        author: DeviceKey([1; 32]),
        entry: IntentionId([2; 32]),
    };
    let told = || {
        let list = notices::list_notices(node, api::ListNoticesRequest::default()).unwrap();
        let status = status::status(node).unwrap();
        assert_eq!(list.notices.len(), status.notice_count as usize);
        assert_eq!(list.more_count, status.notice_more_count);
        (list.notices.len(), list.more_count)
    };
    assert_eq!(told(), (0, 0));
    let more = Notice::More { count: 3 };
    assert!(notices::keep_notices(
        node,
        &StoreId([3; 32]),
        &[fork, more.clone()]
    ));
    assert!(notices::keep_notices(node, &StoreId([4; 32]), &[more]));
    assert_eq!(told(), (1, 6));
    let all = api::AcknowledgeNoticesRequest {
        ids: Vec::new(),
        all: true,
    };
    assert_eq!(
        notices::acknowledge(node, all).unwrap().acknowledged_count,
        1
    );
    assert_eq!(told(), (0, 0));
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_so_many_stores() {
    let (embedded, _home) = node().await;
    let node = &embedded.node;
    for n in 1..STORES_MAX {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let record = StoreRecord {
            name: format!("s{n}"),
            ..Default::default()
        };
        node.add_slot(Slot::new(StoreId(id), record));
    }
    create::create(node, request("last", "counter"))
        .await
        .unwrap();
    let beyond = create::create(node, request("beyond", "counter")).await;
    let said = beyond.map(drop).unwrap_err().to_string();
    assert!(said.contains(&format!("{STORES_MAX} stores")), "{said}");
    advice(&said, "make more in another home, with --home");
    assert_eq!(node.slots().len(), STORES_MAX);
    embedded.close().await;
    let (another, _home) = self::node().await;
    created(another.node(), "beyond", "counter").await;
    another.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_so_many_plugins() {
    let (embedded, _home) = node().await;
    let node = &embedded.node;
    let bundled = node.records.plugins().unwrap().len();
    let record = PluginRecord {
        component: ComponentId([1; 32]).0.to_vec(),
        installed_ms: 1,
        bundled: false,
    };
    let names = (bundled + 1..PLUGINS_MAX).map(|n| (format!("p{n}"), record.clone()));
    node.records
        .put_plugins(&names.collect::<Vec<_>>())
        .unwrap();
    let counter = crate::plugin::bundled::BUNDLED[1].bytes;
    let install = async |name: &str| plugin::install(node, name.into(), counter.to_vec()).await;
    assert!(install("last").await.is_ok());
    let said = install("beyond").await.unwrap_err().to_string();
    assert!(said.contains(&format!("{PLUGINS_MAX} plugins")), "{said}");
    advice(&said, "remove some that no store uses");
    // A plugin that is installed may be installed again.
    assert!(install("last").await.unwrap().already_installed);
    assert_eq!(node.records.plugins().unwrap().len(), PLUGINS_MAX);
    plugin::remove_plugin(node, "last").unwrap();
    assert!(install("beyond").await.is_ok());
    embedded.close().await;
}

#[test]
fn so_many_rows_are_looked_at_for_one_request() {
    const NOW: u64 = 1_800_000_000_000;
    let mut store = testing::found(0, NOW);
    let mut write = |lane, call, n: usize| {
        let now_ms = NOW + n as u64;
        store.call(lane, vec![call], now_ms, ChainId(1)).unwrap();
        store.commit(now_ms).unwrap();
        store.snapshot()
    };
    let admit = |n| testing::admit(testing::device(n), Role::Reader);
    for n in 1..HISTORY_ROWS_MAX - 1 {
        write(Lane::App, testing::program(&[Step::StoreGlobal]), n);
    }
    let at = write(Lane::System, admit(1), HISTORY_ROWS_MAX);
    let beyond = write(Lane::System, admit(2), HISTORY_ROWS_MAX + 1);
    assert_eq!(at.summary().count, HISTORY_ROWS_MAX as u64);
    let names = Names::of(None);
    let reader = || Reader::new(None, Names::of(None), Forms::TEXT);
    // The filter matches the genesis alone, which is the last row that is looked at.
    for (view, found) in [(&at, 1), (&beyond, 0)] {
        let first = || Page::new(0, "", &[]).unwrap();
        let init = Filter::of_function("init");
        let page = history::page_of(view, &first(), &init, false, &reader()).unwrap();
        assert_eq!(page.entries.len(), found);
        let next = Page::new(0, &page.next_page_token, &[]).unwrap();
        let rest = history::page_of(view, &next, &init, false, &reader()).unwrap();
        assert_eq!(
            (rest.entries.len(), rest.next_page_token.as_str()),
            (1 - found, "")
        );
        // The lane of the genesis has the admissions as well.
        let admissions = if found == 1 { 1 } else { 2 };
        let lane = Some(Lane::System);
        let page = graph::page_of(view, &first(), lane, &reader(), &names).unwrap();
        assert_eq!(page.nodes.len(), admissions + found);
        let next = Page::new(0, &page.next_page_token, &[]).unwrap();
        let rest = graph::page_of(view, &next, lane, &reader(), &names).unwrap();
        assert_eq!(
            (rest.nodes.len(), rest.next_page_token.as_str()),
            (1 - found, "")
        );
    }
    // An admission is known wherever it stands.
    for n in [1, 2] {
        let at = beyond.admitted_at(&testing::device(n)).unwrap();
        assert!(at.is_some_and(|time| time.wall_ms > NOW), "{at:?}");
    }
    assert_eq!(beyond.admitted_at(&testing::device(3)).unwrap(), None);
}

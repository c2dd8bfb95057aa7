//! Nodes and clients for the tests of whole nodes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lattice_daemon::api::{
    self, calls_client::CallsClient, node_client::NodeClient, plugins_client::PluginsClient,
    stores_client::StoresClient,
};
use lattice_daemon::{ClockOptions, DaemonOptions, Embedded, Idle, Ways};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// A directory for one node.
pub(crate) fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Waits until a dial of the daemon before, which nobody answers, has given its files back.
pub(crate) async fn until_free(home: &Path) {
    let index = home.join("blobs/index.redb");
    let index = std::fs::File::options().write(true).open(index).unwrap();
    let free = async {
        while index.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free)
        .await
        .unwrap();
}

/// A component that is not bundled with nodes. `cargo xtask plugins` builds it.
pub(crate) fn bank() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins/bank.wasm");
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{} ({error}): run `cargo xtask plugins` first",
            path.display()
        )
    })
}

/// The exit class of a command that gets this status, and the line that it would print.
pub(crate) fn exit_class(status: &Status) -> (api::ExitClass, String) {
    let detail = api::ErrorDetail::decode(status.details()).unwrap();
    let text = format!(
        "{} ({}); {}",
        detail.text,
        detail.candidates.join(", "),
        detail.hint
    );
    (detail.exit_class(), text)
}

/// The text of the next result of a watch.
pub(crate) async fn next_text(events: &mut Streaming<api::WatchEvent>) -> String {
    let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    let event = event.expect("in time").expect("no end").unwrap();
    text(event.result.unwrap().outcome.unwrap())
}

fn text(outcome: api::Outcome) -> String {
    assert_eq!(outcome.kind(), api::OutcomeKind::Ok, "{outcome:?}");
    let values = outcome
        .results
        .into_iter()
        .filter_map(|result| result.value);
    values.map(|value| value.text).collect::<Vec<_>>().join(" ")
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

/// A daemon on loopback, without relays and discovery, in this process.
pub(crate) struct Daemon {
    address: SocketAddr,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Daemon {
    pub(crate) async fn start(home: &Path) -> Self {
        Self::with_clock(home, ClockOptions::default()).await
    }

    /// The address at which peers reach the daemon.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a daemon at an address that peers know.
    pub(crate) async fn start_at(home: &Path, address: SocketAddr) -> Self {
        Self::start_with(home, address, ClockOptions::default()).await
    }

    pub(crate) async fn with_clock(home: &Path, clock: ClockOptions) -> Self {
        Self::start_with(home, "127.0.0.1:0".parse().unwrap(), clock).await
    }

    async fn start_with(home: &Path, bind: SocketAddr, clock: ClockOptions) -> Self {
        let options = DaemonOptions {
            home: home.to_owned(),
            bind: Some(bind),
            ways: Ways::NONE,
            clock,
            idle: Idle::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ready = |said: lattice_daemon::Ready| ready.send(said).unwrap();
            let shutdown = async {
                let _ = stopped.await;
            };
            lattice_daemon::run(options, ready, shutdown).await.unwrap();
        });
        let ready = is_ready.await.expect("the daemon starts");
        Self {
            address: ready.addresses[0],
            socket: ready.socket,
            stop,
            task,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://daemon")
            .connect_with_connector(connector)
            .await
            .unwrap();
        Client::new(channel, None)
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// A client of all services of one node.
pub(crate) struct Client {
    pub(crate) node: NodeClient<Channel>,
    pub(crate) plugins: PluginsClient<Channel>,
    pub(crate) stores: StoresClient<Channel>,
    pub(crate) calls: CallsClient<Channel>,
    embedded: Option<Embedded>,
}

impl Client {
    fn new(channel: Channel, embedded: Option<Embedded>) -> Self {
        Self {
            node: NodeClient::new(channel.clone()),
            plugins: PluginsClient::new(channel.clone()),
            stores: StoresClient::new(channel.clone()),
            calls: CallsClient::new(channel),
            embedded,
        }
    }

    pub(crate) async fn embedded(home: &Path) -> Self {
        let embedded = lattice_daemon::embedded(home).await.unwrap();
        Self::new(embedded.channel(), Some(embedded))
    }

    pub(crate) async fn close(self) {
        let Self {
            node,
            plugins,
            stores,
            calls,
            embedded,
        } = self;
        drop((node, plugins, stores, calls));
        embedded.expect("an embedded node").close().await;
    }

    pub(crate) async fn try_create(
        &mut self,
        name: &str,
        plugin: &str,
        parameters: &[(&str, &str)],
    ) -> Result<api::Store, Status> {
        let argument = |text: &str| api::TextArgument {
            source: Some(api::text_argument::Source::Text(text.into())),
        };
        let request = api::CreateStoreRequest {
            name: name.into(),
            plugin: plugin.into(),
            parent: String::new(),
            parameters: parameters
                .iter()
                .map(|(k, v)| ((*k).into(), argument(v)))
                .collect(),
        };
        Ok(self.stores.create(request).await?.into_inner())
    }

    pub(crate) async fn create(&mut self, name: &str, plugin: &str) {
        let store = self.try_create(name, plugin, &[]).await.unwrap();
        assert_eq!(
            (store.name.as_str(), store.state()),
            (name, api::StoreState::Ready)
        );
    }

    pub(crate) async fn transact(
        &mut self,
        store: &str,
        calls: &[(&str, &[&str])],
    ) -> api::Outcome {
        self.try_transact(store, calls).await.unwrap()
    }

    pub(crate) async fn try_transact(
        &mut self,
        store: &str,
        calls: &[(&str, &[&str])],
    ) -> Result<api::Outcome, Status> {
        let request = api::CallRequest {
            store: store.into(),
            calls: calls
                .iter()
                .map(|(name, arguments)| function(name, arguments))
                .collect(),
            forms: Vec::new(),
            accepts_leap: false,
        };
        let response = self.calls.call(request).await?.into_inner();
        Ok(response.outcome.unwrap())
    }

    pub(crate) async fn try_call(
        &mut self,
        store: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<api::Outcome, Status> {
        self.call_by_clock(store, name, arguments, false).await
    }

    /// Calls, and agrees to a clock that has leapt if `accepts_leap`.
    pub(crate) async fn call_by_clock(
        &mut self,
        store: &str,
        name: &str,
        arguments: &[&str],
        accepts_leap: bool,
    ) -> Result<api::Outcome, Status> {
        let request = api::CallRequest {
            store: store.into(),
            calls: vec![function(name, arguments)],
            forms: Vec::new(),
            accepts_leap,
        };
        Ok(self
            .calls
            .call(request)
            .await?
            .into_inner()
            .outcome
            .unwrap())
    }

    pub(crate) async fn call_ok(&mut self, store: &str, name: &str, arguments: &[&str]) -> String {
        text(self.try_call(store, name, arguments).await.unwrap())
    }

    pub(crate) async fn query(&mut self, store: &str, name: &str, arguments: &[&str]) -> String {
        self.try_query(store, name, arguments).await.unwrap()
    }

    pub(crate) async fn try_query(
        &mut self,
        store: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<String, Status> {
        let request = api::QueryRequest {
            store: store.into(),
            call: Some(function(name, arguments)),
            forms: Vec::new(),
        };
        let response = self.calls.query(request).await?.into_inner();
        Ok(text(response.outcome.unwrap()))
    }

    /// Installs a component that is fetched from peers by its hash.
    pub(crate) async fn fetch(&mut self, hash: &[u8]) -> api::Plugin {
        let request = api::FetchPluginRequest {
            hash: hash.to_vec(),
            name: String::new(),
        };
        let mut steps = self.plugins.fetch(request).await.unwrap().into_inner();
        let mut plugin = None;
        while let Some(step) = steps.next().await {
            plugin = step.unwrap().plugin.or(plugin);
        }
        plugin.expect("the last message has it")
    }

    pub(crate) async fn until(
        &mut self,
        store: &str,
        name: &str,
        arguments: &[&str],
        expected: &str,
    ) {
        let mut last = String::new();
        for _ in 0..400 {
            last = self.query(store, name, arguments).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{name} is {last}, not {expected}");
    }

    pub(crate) async fn watch(
        &mut self,
        store: &str,
        name: &str,
        arguments: &[&str],
    ) -> Streaming<api::WatchEvent> {
        self.try_watch(store, name, arguments).await.unwrap()
    }

    pub(crate) async fn try_watch(
        &mut self,
        store: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<Streaming<api::WatchEvent>, Status> {
        let request = api::WatchRequest {
            store: store.into(),
            call: Some(function(name, arguments)),
            forms: Vec::new(),
        };
        Ok(self.calls.watch(request).await?.into_inner())
    }

    pub(crate) async fn history(&mut self, store: &str) -> Vec<api::HistoryEntry> {
        let request = api::HistoryRequest {
            store: store.into(),
            ..Default::default()
        };
        self.stores
            .history(request)
            .await
            .unwrap()
            .into_inner()
            .entries
    }

    pub(crate) async fn status(&mut self, store: &str) -> api::StoreStatus {
        let request = api::StoreStatusRequest {
            store: store.into(),
        };
        self.stores.status(request).await.unwrap().into_inner()
    }

    pub(crate) async fn store_names(&mut self) -> Vec<String> {
        let stores = self
            .stores
            .list(api::ListStoresRequest::default())
            .await
            .unwrap();
        stores
            .into_inner()
            .stores
            .into_iter()
            .map(|store| store.name)
            .collect()
    }

    pub(crate) async fn notices(&mut self) -> Vec<api::Notice> {
        let notices = self
            .node
            .list_notices(api::ListNoticesRequest::default())
            .await;
        notices.unwrap().into_inner().notices
    }

    /// The result of one check of `doctor`.
    pub(crate) async fn check(&mut self, name: &str) -> api::Check {
        let answer = self.node.doctor(api::DoctorRequest {}).await.unwrap();
        let mut checks = answer.into_inner().checks.into_iter();
        checks.find(|check| check.name == name).unwrap()
    }

    pub(crate) async fn node_id(&mut self) -> String {
        let status = self.node.status(api::NodeStatusRequest {}).await.unwrap();
        hex::encode(status.into_inner().node_id)
    }

    pub(crate) async fn install(&mut self, name: &str, bytes: Vec<u8>) -> api::Plugin {
        let name = name.to_owned();
        let chunks: Vec<_> = bytes
            .chunks(1 << 20)
            .map(|chunk| api::InstallPluginRequest {
                name: name.clone(),
                chunk: chunk.to_vec(),
            })
            .collect();
        let installed = self
            .plugins
            .install(tokio_stream::iter(chunks))
            .await
            .unwrap();
        installed.into_inner().plugin.unwrap()
    }

    pub(crate) async fn try_remove(
        &mut self,
        plugin: &str,
    ) -> Result<api::RemovePluginResponse, Status> {
        let request = api::RemovePluginRequest {
            plugin: plugin.into(),
        };
        Ok(self.plugins.remove(request).await?.into_inner())
    }

    pub(crate) async fn invite(&mut self, store: &str, uses: u32, expires_in_ms: u64) -> String {
        let request = api::InviteRequest {
            store: store.into(),
            role: String::new(),
            expires_in_ms,
            uses,
        };
        self.stores
            .invite(request)
            .await
            .unwrap()
            .into_inner()
            .token
    }

    /// Inspects a token, agrees to the components that it shows, and joins.
    pub(crate) async fn join(&mut self, token: &str) -> Result<api::Store, Status> {
        let request = api::InspectTokenRequest {
            token: token.into(),
        };
        let shown = self.stores.inspect_token(request).await?.into_inner();
        let request = api::JoinRequest {
            token: token.into(),
            name: String::new(),
            app_hash: shown.app.map_or(Vec::new(), |app| app.hash),
            governance_hash: shown.governance.unwrap().hash,
            member_name: String::new(),
        };
        let mut steps = self.stores.join(request).await?.into_inner();
        let mut seen = Vec::new();
        loop {
            let step = tokio::time::timeout(Duration::from_secs(20), steps.next()).await;
            let step = step.unwrap_or_else(|_| panic!("the join stands: {seen:?}"));
            let step = step.expect("the last message has the store")?;
            if step.phase() == api::JoinPhase::Ready {
                return Ok(step.store.unwrap());
            }
            seen.push(step);
        }
    }

    pub(crate) async fn revoke(&mut self, store: &str, member: &str) {
        let request = api::RevokeRequest {
            store: store.into(),
            member: member.into(),
        };
        let response = self.stores.revoke(request).await.unwrap().into_inner();
        let outcome = response.outcome.unwrap();
        assert_eq!(outcome.kind(), api::OutcomeKind::Ok, "{outcome:?}");
    }
}

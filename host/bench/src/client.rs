//! A client of a daemon, like any other program: gRPC over the Unix socket.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lattice_daemon::api;
use lattice_daemon::api::calls_client::CallsClient;
use lattice_daemon::api::node_client::NodeClient;
use lattice_daemon::api::plugins_client::PluginsClient;
use lattice_daemon::api::stores_client::StoresClient;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::workload::{VALUE_BYTES, key, value};

/// A connection to a daemon. Clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    node: NodeClient<Channel>,
    calls: CallsClient<Channel>,
    plugins: PluginsClient<Channel>,
    stores: StoresClient<Channel>,
}

/// Something that a hostile component does when it is asked to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abuse {
    /// A description for the table.
    pub(crate) name: &'static str,
    pub(crate) function: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) is_query: bool,
    /// How many clients ask for the abuse at the same time.
    pub(crate) clients: usize,
}

/// When a join reached its phases, counted from its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    /// Phases in order, with the time at which the daemon first reported each.
    pub(crate) phases: Vec<(api::JoinPhase, Duration)>,
}

impl Client {
    /// Connects to the socket of a home.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn connect(socket: &Path) -> Result<Client> {
        let uri = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(uri)?.connect().await?;
        Ok(Client {
            node: NodeClient::new(channel.clone()),
            calls: CallsClient::new(channel.clone()),
            plugins: PluginsClient::new(channel.clone()),
            stores: StoresClient::new(channel),
        })
    }

    /// Makes an empty unary call.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.node.ping(api::PingRequest {}).await?;
        Ok(())
    }

    /// Puts the key and value number `i` into a kv store. The call is durable when this returns.
    ///
    /// # Errors
    /// When the call fails or has another outcome than `ok`.
    pub(crate) async fn put(&mut self, store: &str, i: u64) -> Result<()> {
        let arguments = vec![text(key(i)), content(value(i, VALUE_BYTES))];
        let request = api::CallRequest {
            store: store.to_owned(),
            calls: vec![function("put", arguments)],
            forms: vec![api::ValueForm::Cbor.into()],
            accepts_leap: false,
        };
        let response = self.calls.call(request).await?.into_inner();
        let outcome = response.outcome.context("a call without an outcome")?;
        ensure!(
            outcome.kind() == api::OutcomeKind::Ok,
            "a put ended with {:?}: {}",
            outcome.kind(),
            outcome.detail
        );
        Ok(())
    }

    /// Whether the value number `i` is in a kv store.
    ///
    /// # Errors
    /// When the query fails, or finds another value.
    pub(crate) async fn has(&mut self, store: &str, i: u64) -> Result<bool> {
        let request = api::QueryRequest {
            store: store.to_owned(),
            call: Some(function("get", vec![text(key(i))])),
            forms: vec![api::ValueForm::Cbor.into()],
        };
        let response = self.calls.query(request).await?.into_inner();
        is_value(&response, i)
    }

    /// Watches the key number `i` of a kv store. The first event has come when this returns.
    ///
    /// # Errors
    /// When the store does not answer, or has the key already.
    pub(crate) async fn watch_absent(&mut self, store: &str, i: u64) -> Result<Watch> {
        let request = api::WatchRequest {
            store: store.to_owned(),
            call: Some(function("get", vec![text(key(i))])),
            forms: vec![api::ValueForm::Cbor.into()],
        };
        let events = self.calls.watch(request).await?.into_inner();
        let mut watch = Watch { events, i };
        ensure!(
            !watch.event().await?,
            "the key number {i} is there before it was put"
        );
        Ok(watch)
    }

    /// Runs an abuse in a store, as a command or a query. Returns whether the guest trapped; otherwise the node
    /// lacked a resource, and answered with an error.
    ///
    /// # Errors
    /// When the daemon does not answer, or the abuse has another outcome than a trap.
    pub(crate) async fn abuse(&mut self, store: &str, abuse: &Abuse) -> Result<bool> {
        let arguments = abuse.arguments.iter().map(|a| text((*a).to_owned()));
        let call = function(abuse.function, arguments.collect());
        let outcome = match abuse.is_query {
            false => {
                let request = api::CallRequest {
                    store: store.to_owned(),
                    calls: vec![call],
                    ..Default::default()
                };
                let answer = self.calls.call(request).await;
                answer.map(|answer| answer.into_inner().outcome)
            }
            true => {
                let request = api::QueryRequest {
                    store: store.to_owned(),
                    call: Some(call),
                    ..Default::default()
                };
                let answer = self.calls.query(request).await;
                answer.map(|answer| answer.into_inner().outcome)
            }
        };
        match outcome {
            Ok(outcome) => {
                let kind = outcome.context("no outcome")?.kind();
                ensure!(
                    kind == api::OutcomeKind::Trapped,
                    "{} ended with {kind:?}",
                    abuse.function
                );
                Ok(true)
            }
            Err(status) if status.code() == tonic::Code::Internal => Ok(false),
            Err(status) => Err(status).context(abuse.function),
        }
    }

    /// Installs a component from a file.
    ///
    /// # Errors
    /// When the file cannot be read, or the component is refused.
    pub(crate) async fn install(&mut self, name: &str, file: &Path) -> Result<()> {
        let chunk = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
        let name = name.to_owned();
        let request = api::InstallPluginRequest { name, chunk };
        self.plugins.install(tokio_stream::iter([request])).await?;
        Ok(())
    }

    /// Creates a store.
    ///
    /// # Errors
    /// When the daemon refuses to.
    pub(crate) async fn create(&mut self, name: &str, plugin: &str) -> Result<()> {
        let request = api::CreateStoreRequest {
            name: name.to_owned(),
            plugin: plugin.to_owned(),
            ..Default::default()
        };
        self.stores.create(request).await?;
        Ok(())
    }

    /// How many entries the log of a store has.
    ///
    /// # Errors
    /// When the daemon does not answer, or does not know the store.
    pub(crate) async fn entry_count(&mut self, store: &str) -> Result<u64> {
        let request = api::StoreStatusRequest {
            store: store.to_owned(),
        };
        let status = self.stores.status(request).await?.into_inner();
        Ok(status
            .store
            .context("a status without its store")?
            .entry_count)
    }

    /// Makes a token with which one node can join as a writer.
    ///
    /// # Errors
    /// When the daemon refuses to.
    pub(crate) async fn invite(&mut self, store: &str) -> Result<String> {
        let request = api::InviteRequest {
            store: store.to_owned(),
            ..Default::default()
        };
        Ok(self.stores.invite(request).await?.into_inner().token)
    }

    /// Joins a store by a token, agreeing to any components that it has. Returns when the store is ready.
    ///
    /// # Errors
    /// When the join fails.
    pub(crate) async fn join(&mut self, token: &str) -> Result<Joined> {
        let started = Instant::now();
        let mut joined = Joined::default();
        let request = api::InspectTokenRequest {
            token: token.to_owned(),
        };
        let offer = self.stores.inspect_token(request).await?.into_inner();
        let hash =
            |plugin: Option<api::Plugin>| plugin.map(|plugin| plugin.hash).unwrap_or_default();
        let request = api::JoinRequest {
            token: token.to_owned(),
            app_hash: hash(offer.app),
            governance_hash: hash(offer.governance),
            ..Default::default()
        };
        let mut messages = self.stores.join(request).await?.into_inner();
        while let Some(message) = messages.message().await? {
            let phase = message.phase();
            if joined.phases.last().is_none_or(|(last, _)| *last != phase) {
                joined.phases.push((phase, started.elapsed()));
            }
        }
        match joined.phases.last() {
            Some((api::JoinPhase::Ready, _)) => Ok(joined),
            last => bail!("the join ended at {last:?}"),
        }
    }
}

pub(crate) struct Watch {
    events: Streaming<api::WatchEvent>,
    i: u64,
}

impl Watch {
    /// Waits for the next event. Returns whether the value is there.
    ///
    /// # Errors
    /// When the stream ends, or another value came.
    pub(crate) async fn event(&mut self) -> Result<bool> {
        let event = self
            .events
            .message()
            .await?
            .context("a watch ended by itself")?;
        is_value(&event.result.context("an event without a result")?, self.i)
    }
}

fn is_value(response: &api::QueryResponse, i: u64) -> Result<bool> {
    /// The value `none` in CBOR.
    const NULL: &[u8] = &[0xf6];
    let outcome = response
        .outcome
        .as_ref()
        .context("a query without an outcome")?;
    ensure!(
        outcome.kind() == api::OutcomeKind::Ok,
        "a get ended with {:?}",
        outcome.kind()
    );
    let found = outcome
        .results
        .first()
        .and_then(|result| result.value.as_ref());
    let found = &found.context("a get without a value")?.cbor;
    if found == NULL {
        return Ok(false);
    }
    // A byte string ends with its bytes; how its length is written does not matter here.
    ensure!(
        found.ends_with(&value(i, VALUE_BYTES)),
        "the key number {i} has another value"
    );
    Ok(true)
}

fn function(name: &str, positional: Vec<api::TextArgument>) -> api::FunctionCall {
    let arguments = api::TextArguments {
        positional,
        ..Default::default()
    };
    api::FunctionCall {
        function: name.to_owned(),
        arguments: Some(api::Arguments {
            form: Some(api::arguments::Form::Text(arguments)),
        }),
    }
}

fn text(text: String) -> api::TextArgument {
    api::TextArgument {
        source: Some(api::text_argument::Source::Text(text)),
    }
}

fn content(content: Vec<u8>) -> api::TextArgument {
    api::TextArgument {
        source: Some(api::text_argument::Source::Content(content)),
    }
}

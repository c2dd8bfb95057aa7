//! A Lattice node: composition root and gRPC server.
//!
//! This crate puts the parts together: the kernel's stores, each with its writer; the runtime for components; the
//! network; the home directory; and the API on a socket. [`run`] is the daemon, [`embedded`] the same node and API
//! inside of a command.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;

pub mod api;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod bounds;
mod join;
pub mod limits;
mod member;
mod node;
mod plugin;
mod store;

/// The stack, in bytes, that each thread of a node's async runtime must have, because guests run on it.
pub use lattice_runtime::profile::THREAD_STACK_BYTES;
/// JSON as arguments may hold it, with errors that say what to write instead.
pub use lattice_runtime::values::json::{NotJson, parse as parse_json};
pub use node::clock::ClockOptions;
pub use node::home::OpenError;
pub use node::idle::Idle;
pub use node::runtime_files::{SOCKET_NAME, sockets};
pub use store::verification::Verifier;

use api::server::Running;
use node::clock::Clock;
use node::home::{self, Missing};
use node::network::{self, NetOptions};
use node::{Node, NodeOptions};

/// By which ways a node finds peers and is found, besides the addresses that it knows. What is off sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Public relays carry traffic that finds no direct path.
    pub relay: bool,
    /// Addresses are published to, and looked up in, the public discovery service.
    pub discovery: bool,
    /// Addresses are announced to, and heard from, nodes on the local network, by multicast DNS.
    pub mdns: bool,
}

impl Ways {
    /// All of them.
    pub const ALL: Self = Self {
        relay: true,
        discovery: true,
        mdns: true,
    };
    /// None: peers are found where they were, or where a token says that they are.
    pub const NONE: Self = Self {
        relay: false,
        discovery: false,
        mdns: false,
    };
}

/// The options of a daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The node's home, which is created if it does not exist.
    pub home: PathBuf,
    /// The UDP socket for peers; port 0 takes a free one. `None` listens on all interfaces.
    pub bind: Option<SocketAddr>,
    /// By which ways the node finds peers and is found.
    pub ways: Ways,
    /// What the node is told about its clock.
    pub clock: ClockOptions,
    /// The work for threads that have nothing else to do.
    pub idle: Idle,
}

/// What a daemon tells its caller once it serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The node's public key, which identifies it on the network.
    pub node_id: [u8; 32],
    /// The addresses at which peers can dial the node.
    pub addresses: Vec<SocketAddr>,
    /// The socket of the API.
    pub socket: PathBuf,
}

/// Why a daemon did not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The home, the runtime, the socket or the network does not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The caller's part of the start failed, such as making an async runtime.
    #[error("the node does not start: {0}")]
    Start(String),
}

/// Runs a node until `shutdown` resolves, then ends it cleanly: no more requests are taken, peers are told, stores are
/// flushed, socket and lock are released. That takes less than two seconds.
///
/// `ready` is called once, when the API and the network serve. The start waits up to five seconds for the lock of the
/// home.
///
/// # Errors
/// When the node does not start.
pub async fn run(
    options: DaemonOptions,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let network = NetOptions {
        bind: options.bind,
        ways: options.ways,
    };
    let clock = Clock(options.clock);
    // First: a home that no daemon can serve is not made.
    home::check_socket_path(&options.home.join(SOCKET_NAME))?;
    let node = open(NodeOptions {
        home: options.home.clone(),
        patience: limits::LOCK_WAIT,
        missing: Missing::Make,
        embedding: Embedding::Daemon,
        clock,
    })
    .await?;
    options.idle.serve(node.components.wasm());
    // Stores open while the network starts: neither needs the other, and the first request needs a store.
    let stores = node.clone();
    let stores = tokio::task::spawn_blocking(move || stores.open_all());
    let served = async {
        // The network's socket comes first. If its port is taken, the API was never served.
        network::start(&node, &network).await?;
        Running::on_socket(&node)
    };
    let server = match served.await {
        Ok(server) => server,
        Err(error) => {
            node.begin_closing();
            // A store that opened after the close would not be flushed.
            let _ = stores.await;
            node.close().await;
            return Err(error.into());
        }
    };
    network::start_tasks(&node);
    ready(Ready {
        node_id: node.device().0,
        addresses: node.addresses(),
        socket: node.home.socket(),
    });
    shutdown.await;
    // Streams end when they see this, so the server has little to wait for.
    node.begin_closing();
    server.stop().await;
    node.close().await;
    Ok(())
}

/// A node inside of this process, with the API of a daemon.
#[derive(Debug)]
pub struct Embedded {
    node: Arc<Node>,
    server: Running,
    channel: Channel,
}

impl Embedded {
    /// A connection to the API.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The node itself.
    #[cfg(test)]
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Ends the node: everything is flushed, and the lock is released.
    pub async fn close(self) {
        let Self {
            node,
            server,
            channel,
        } = self;
        drop(channel);
        node.begin_closing();
        server.stop().await;
        node.close().await;
    }
}

/// Opens the node of a home in this process, without network. A home that is missing is made.
///
/// # Errors
/// [`OpenError::Locked`] at once when another process has the home open; otherwise what is wrong with the home.
pub async fn embedded(home: &Path) -> Result<Embedded, OpenError> {
    embedded_node(home, Missing::Make).await
}

/// The same for a command that has nothing to add to a home, so that it makes none.
///
/// # Errors
/// [`OpenError::Missing`] when there is no home; else as [`embedded`].
pub async fn embedded_existing(home: &Path) -> Result<Embedded, OpenError> {
    embedded_node(home, Missing::Refuse).await
}

async fn embedded_node(home: &Path, missing: Missing) -> Result<Embedded, OpenError> {
    let node = open_command(home, missing).await?;
    let (server, channel) = Running::in_memory(&node);
    Ok(Embedded {
        node,
        server,
        channel,
    })
}

async fn open_command(home: &Path, missing: Missing) -> Result<Arc<Node>, OpenError> {
    open(NodeOptions {
        home: home.to_owned(),
        patience: Duration::ZERO,
        missing,
        embedding: Embedding::Command,
        clock: Clock::default(),
    })
    .await
}

/// Opens the node of a home in this process as [`embedded`] does, with network: on all interfaces, with these ways to
/// find peers.
///
/// # Errors
/// Those of [`embedded`], and [`OpenError::Network`].
pub async fn embedded_with_network(home: &Path, ways: Ways) -> Result<Embedded, OpenError> {
    let node = open_command(home, Missing::Make).await?;
    let options = NetOptions { bind: None, ways };
    if let Err(error) = network::start(&node, &options).await {
        node.close().await;
        return Err(error);
    }
    network::start_tasks(&node);
    let (server, channel) = Running::in_memory(&node);
    Ok(Embedded {
        node,
        server,
        channel,
    })
}

/// Whether a node serves a socket or one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Embedding {
    /// A daemon, which serves a socket.
    Daemon,
    /// A command that opened the home itself.
    Command,
}

async fn open(options: NodeOptions) -> Result<Arc<Node>, OpenError> {
    match tokio::task::spawn_blocking(move || Node::open(&options)).await {
        Ok(node) => node,
        Err(error) => Err(OpenError::Runtime(error.to_string())),
    }
}

/// Whether something of a home is at a path.
pub fn is_home(path: &Path) -> bool {
    !home::is_missing(path)
}

/// What a component is, from its bytes alone: no home is needed to look at a file.
///
/// # Errors
/// As the API has them.
pub fn inspect(bytes: &[u8]) -> Result<api::Plugin, tonic::Status> {
    Ok(plugin::inspect_bytes(bytes)?)
}

/// Compiles a component if this process is a child that was started for that. Returns the exit code then.
///
/// A program that runs nodes must call this first in `main`, and return the code if there is one: components are
/// compiled in a child process, which is this program again.
pub fn compile_child() -> Option<ExitCode> {
    plugin::components::children_compile();
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != lattice_runtime::COMPILE_ARGUMENT {
        return None;
    }
    Some(lattice_runtime::compile_child_main(arguments))
}

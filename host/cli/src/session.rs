//! Sessions with the node: over its daemon's socket or, if no daemon runs, with a node inside this process.
//!
//! Both speak the same gRPC, so no command knows which of them it uses.

use std::io;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lattice_daemon::api::{PingRequest, node_client::NodeClient};
use lattice_daemon::{Embedded, OpenError, Ways};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::failure::{Class, Failure, Result};

/// How long a command waits for a home that another process holds: a daemon that is starting, or a command that
/// is about to end.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The interval at which a command tries to open the home again meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How long a daemon may take to answer an empty request.
const PING_WAIT: Duration = Duration::from_secs(5);

/// What a command needs of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// What is stored in the home, which has to be there.
    Node,
    /// The home, which is made if it is missing.
    Home,
    /// The peers of a running daemon. The text names what needs them, for the error.
    Daemon(&'static str),
    /// Peers while the command runs: those of a daemon, or of the node inside this process, which finds them in
    /// these ways.
    Network(Ways),
}

/// A connection to the node; the node is inside this process if `embedded` is set.
pub(crate) struct Session {
    channel: Channel,
    embedded: Option<(Embedded, Need)>,
}

impl Session {
    /// Connects to the daemon of this home, or opens the home in this process if no daemon runs.
    ///
    /// # Errors
    /// Class `Unreachable` if the home cannot be opened, another process holds it and does not answer, or a
    /// daemon is needed and none runs.
    pub(crate) async fn open(home: &Path, need: Need) -> Result<Session> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            // A daemon may begin to listen anywhere meanwhile.
            for socket in lattice_daemon::sockets(home) {
                match connect(&socket).await {
                    Ok(channel) => {
                        answers(channel.clone(), &socket).await?;
                        return Ok(Session {
                            channel,
                            embedded: None,
                        });
                    }
                    Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
                        return Err(Failure::new(
                            Class::Unreachable,
                            format!("cannot open {}: {refused}", socket.display()),
                        )
                        .hint("run this as the user who runs the daemon"));
                    }
                    Err(_) => {}
                }
            }
            if let Need::Daemon(what) = need {
                return Err(daemon_needed(home, what));
            }
            match open_embedded(home, need).await {
                Ok(embedded) => {
                    return Ok(Session {
                        channel: embedded.channel(),
                        embedded: Some((embedded, need)),
                    });
                }
                // A process that ends gives its lock back a little before its files.
                Err(OpenError::Locked { .. } | OpenError::InUse { .. })
                    if Instant::now() < deadline =>
                {
                    sleep(LOCK_POLL).await;
                }
                Err(error) => return Err(open_failure(home, &error)),
            }
        }
    }

    /// A session over a connection that a test has made.
    #[cfg(test)]
    pub(crate) fn over(channel: Channel) -> Session {
        Session {
            channel,
            embedded: None,
        }
    }

    /// Whether this session meets the need. If not, a session with peers can take its place.
    ///
    /// # Errors
    /// Class `Unreachable` if a daemon is needed and this process has opened the home.
    pub(crate) fn serves(&self, need: Need) -> Result<bool> {
        match (&self.embedded, need) {
            (None, _) | (Some(_), Need::Node | Need::Home) => Ok(true),
            (Some((_, has)), Need::Network(_)) => Ok(*has == need),
            (Some(_), Need::Daemon(what)) => Err(Failure::new(
                Class::Unreachable,
                format!("{what} needs a daemon, and this shell opened the home itself"),
            )
            .hint("leave the shell, run `lattice daemon`, and try again")),
        }
    }

    /// The connection, which the clients of all services share.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Ends the session; closes the home if this process opened it.
    pub(crate) async fn close(self) {
        let Session { channel, embedded } = self;
        // The embedded server waits for its connections to end.
        drop(channel);
        if let Some((embedded, _)) = embedded {
            embedded.close().await;
        }
    }
}

async fn connect(socket: &Path) -> io::Result<Channel> {
    let stream = UnixStream::connect(socket).await?;
    // The connection that was just made is used first. When it has ended, a new one is made.
    let mut first = Some(stream);
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let first = first.take();
        let path = path.clone();
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(path).await.map(TokioIo::new),
            }
        }
    });
    // HTTP needs a host name, which is never looked up.
    Endpoint::from_static("http://lattice.sock")
        .connect_with_connector(connector)
        .await
        .map_err(io::Error::other)
}

async fn answers(channel: Channel, socket: &Path) -> Result<()> {
    match timeout(PING_WAIT, NodeClient::new(channel).ping(PingRequest {})).await {
        Ok(answer) => Ok(answer.map(drop)?),
        Err(_) => Err(Failure::new(
            Class::Unreachable,
            format!(
                "the daemon at {} did not answer within {} s",
                socket.display(),
                PING_WAIT.as_secs()
            ),
        )
        .hint("look at its output; end it and start it again if it hangs")),
    }
}

async fn open_embedded(home: &Path, need: Need) -> std::result::Result<Embedded, OpenError> {
    match need {
        Need::Network(ways) => lattice_daemon::embedded_with_network(home, ways).await,
        Need::Home => lattice_daemon::embedded(home).await,
        Need::Node | Need::Daemon(_) => lattice_daemon::embedded_existing(home).await,
    }
}

fn daemon_needed(home: &Path, what: &str) -> Failure {
    Failure::new(
        Class::Unreachable,
        format!(
            "{what} needs peers, and no daemon runs in {}",
            home.display()
        ),
    )
    .hint("run `lattice daemon` and try again")
}

fn open_failure(home: &Path, error: &OpenError) -> Failure {
    match error {
        OpenError::Locked { pid, .. } => Failure::new(
            Class::Unreachable,
            match pid {
                Some(pid) => format!("the home {} is locked by process {pid}", home.display()),
                None => format!("the home {} is locked by another process", home.display()),
            },
        )
        .hint("wait until it ends, or end it, and try again"),
        // Nothing is there that could be opened.
        error @ OpenError::Missing { .. } => Failure::new(Class::Unreachable, error.to_string()),
        // The texts of the other errors have their own remedy.
        error => cannot_open(home, error),
    }
}

fn cannot_open(home: &Path, error: &OpenError) -> Failure {
    Failure::new(
        Class::Unreachable,
        format!("cannot open the home {}: {error}", home.display()),
    )
}

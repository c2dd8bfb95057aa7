//! The gRPC server of a node: on the socket of its home, or in memory for one process.

use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use lattice_kernel::machine_remedy;
use tokio::io::DuplexStream;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;
use tonic::transport::{Channel, Endpoint, Server};

use crate::api::service::Service;
use crate::api::{
    calls_server::CallsServer, node_server::NodeServer, plugins_server::PluginsServer,
    stores_server::StoresServer,
};
use crate::limits::{
    ACCEPT_REST, DRAIN_WAIT, DUPLEX_BYTES, REQUEST_BYTES_MAX, REQUESTS_PER_CONNECTION, TOLD_AGAIN,
};
use crate::node::Node;
use crate::node::home::OpenError;
use crate::node::runtime_files;

/// All services of the API, with gRPC reflection.
fn router(node: &Arc<Node>) -> Router {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::api::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptor set was made by our own build");
    let service = Service::new(node.clone());
    Server::builder()
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
        .add_service(NodeServer::new(service.clone()))
        .add_service(
            PluginsServer::new(service.clone()).max_decoding_message_size(REQUEST_BYTES_MAX),
        )
        .add_service(
            StoresServer::new(service.clone()).max_decoding_message_size(REQUEST_BYTES_MAX),
        )
        .add_service(CallsServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(reflection)
}

/// The two ends of a connection within this process.
fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(DUPLEX_BYTES)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
    socket: Option<PathBuf>,
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender also means: stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Running {
    /// Serves the node on the socket of its home, or on one elsewhere if the home takes nothing.
    ///
    /// # Errors
    /// When the socket cannot be created.
    pub(crate) fn on_socket(node: &Arc<Node>) -> Result<Self, OpenError> {
        let (home, path) = (node.home.path(), node.home.socket());
        runtime_files::remove_left(home);
        let listened = match listen(&path) {
            Ok(listener) => Ok((path.clone(), listener)),
            Err(error) if runtime_files::takes_nothing(&error) => {
                let listened = runtime_files::elsewhere(home, "sock", listen);
                listened.inspect(|(elsewhere, _)| {
                    let (path, elsewhere) = (path.display(), elsewhere.display());
                    tracing::warn!(
                        "cannot listen at {path}: {error}; commands find this daemon at {elsewhere}"
                    );
                })
            }
            Err(error) => Err(error),
        };
        let (path, listener) = listened.map_err(|error| OpenError::Socket { path, error })?;
        node.home.set_socket(path.clone());
        let (stop, stopping) = watch::channel(false);
        let incoming = accepted(move |context| listener.poll_accept(context));
        let server = router(node).serve_with_incoming_shutdown(incoming, stopped(stopping));
        Ok(Self {
            stop,
            task: tokio::spawn(server),
            socket: Some(path),
        })
    }

    /// Serves the node to this process alone.
    pub(crate) fn in_memory(node: &Arc<Node>) -> (Self, Channel) {
        let (dial, accept) = mpsc::channel::<io::Result<DuplexStream>>(4);
        let (stop, stopping) = watch::channel(false);
        let server = router(node)
            .serve_with_incoming_shutdown(ReceiverStream::new(accept), stopped(stopping));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let dial = dial.clone();
            async move {
                let (near, far) = pipe();
                dial.send(Ok(far))
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        });
        // HTTP needs a name for the server. It is never looked up.
        let channel =
            Endpoint::from_static("http://lattice.memory").connect_with_connector_lazy(connector);
        let running = Self {
            stop,
            task: tokio::spawn(server),
            socket: None,
        };
        (running, channel)
    }

    /// Takes no more requests, waits up to [`DRAIN_WAIT`] for those in progress, and aborts the rest.
    pub(crate) async fn stop(mut self) {
        if let Some(socket) = &self.socket {
            // The socket is removed first, so that a command that starts now waits for the lock and not for an answer.
            let _ = std::fs::remove_file(socket);
        }
        let _ = self.stop.send(true);
        if tokio::time::timeout(DRAIN_WAIT, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
            let _ = self.task.await;
        }
    }
}

/// The connections that come. What cannot be accepted, as where too many files are open, waits until that is over:
/// to try at once would take a processor. It is logged once in a while, however often it comes and goes.
fn accepted<T, A>(
    accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(T, A)>>,
) -> impl Stream<Item = io::Result<T>> {
    let told: Option<Instant> = None;
    stream::unfold((accept, told), |(mut accept, mut told)| async move {
        loop {
            match poll_fn(&mut accept).await {
                Ok((connection, _)) => return Some((Ok(connection), (accept, told))),
                Err(error) => {
                    if told.is_none_or(|told| told.elapsed() >= TOLD_AGAIN) {
                        let remedy = machine_remedy(&error);
                        tracing::warn!("no command can connect: {error}; {remedy}");
                        told = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    })
}

/// Listens at `path`, for this user alone. Removes a socket that a dead daemon left: the caller holds the lock of the
/// home, so no other daemon serves it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no socket has its name",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // A socket is created with the mode that the umask leaves. With this umask nobody else can connect before the
    // mode is set.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    #[tokio::test]
    async fn what_cannot_be_accepted_is_tried_again_after_a_rest_and_then_taken() {
        use tokio_stream::StreamExt as _;
        let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = tries.clone();
        let accept = move |_: &mut Context<'_>| {
            let number = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Poll::Ready(match number {
                // EMFILE.
                0..3 => Err(io::Error::from_raw_os_error(24)),
                _ => Ok((number, ())),
            })
        };
        let began = std::time::Instant::now();
        let mut connections = Box::pin(accepted(accept));
        for number in 3..5 {
            assert_eq!(connections.next().await.unwrap().unwrap(), number);
        }
        assert!(began.elapsed() >= 3 * ACCEPT_REST);
        assert_eq!(tries.load(std::sync::atomic::Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn what_is_not_read_fills_a_connection_within_this_process() {
        let (mut near, mut far) = pipe();
        near.write_all(&[7; DUPLEX_BYTES]).await.unwrap();
        let beyond = timeout(Duration::from_millis(100), near.write(&[7])).await;
        assert!(beyond.is_err());
        far.read_exact(&mut [0]).await.unwrap();
        assert_eq!(near.write(&[7]).await.unwrap(), 1);
    }
}

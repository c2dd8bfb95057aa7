//! Blobs over streams: serves the node's own, and fetches one from several peers at once.
//!
//! What is asked, sent and believed is the kernel's ([`lattice_kernel::blob`]); here are the streams,
//! the patience, and the disk work off the network's threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use lattice_format::{BlobId, DeviceKey, StoreId};
use lattice_kernel::blob::{
    BlobError, Fetch, FetchEffect, FetchFailure, FetchInput, Served, Server, ServerFault,
};
use lattice_kernel::sync::{Access, Misbehaviour};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Net;
use crate::allowances::PerPeer;
use crate::context::Context;
use crate::endpoint::{code, device_of, id_of};
use crate::limits::{BLOB_SOURCES_MAX, BLOBS_SERVED_MAX, CONNECTIONS_PER_PEER, READ_STEP_BYTES};

pub use lattice_kernel::blob::ALPN;

/// Streams of one connection that are served at once.
const STREAMS_AT_ONCE: usize = 4;

pub(crate) type Streams = (SendStream, RecvStream);

/// Serves blobs to members.
#[derive(Clone)]
pub(crate) struct BlobProtocol {
    context: Arc<Context>,
    served: Arc<Semaphore>,
    places: Arc<PerPeer>,
}

impl std::fmt::Debug for BlobProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobProtocol")
    }
}

impl BlobProtocol {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            served: Arc::new(Semaphore::new(BLOBS_SERVED_MAX)),
            places: Arc::default(),
        }
    }
}

impl ProtocolHandler for BlobProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let context = &self.context;
        let peer = device_of(connection.remote_id());
        if context.is_banned(&peer) {
            connection.close(code::MISBEHAVIOUR, b"refused for a while");
            return Ok(());
        }
        if !context.is_member_of_any(&peer) {
            connection.close(code::STRANGER, b"no store in common");
            return Ok(());
        }
        let Some(_incoming) = context.take_in(&connection) else {
            return Ok(());
        };
        let Some(_place) = self.places.enter(peer, CONNECTIONS_PER_PEER) else {
            context.misbehaved(
                peer,
                Misbehaviour::Flood,
                "blobs: more connections than it may have",
            );
            connection.close(code::BUSY, b"too many connections");
            return Ok(());
        };
        let Ok(_permit) = self.served.try_acquire() else {
            connection.close(code::BUSY, b"too many blobs are served, try later");
            return Ok(());
        };
        let mut running = JoinSet::new();
        loop {
            // An idle connection is closed, because it would hold its place.
            let idle = tokio::time::sleep(context.timings.request);
            tokio::select! {
                streams = connection.accept_bi(), if running.len() < STREAMS_AT_ONCE => {
                    let Ok(streams) = streams else { return Ok(()) };
                    let context = context.clone();
                    let connection = connection.clone();
                    running.spawn(async move {
                        if !serve(&context, peer, None, streams).await {
                            connection.close(code::MISBEHAVIOUR, b"not the protocol");
                        }
                    });
                }
                Some(_) = running.join_next() => {}
                () = idle, if running.is_empty() => {
                    connection.close(code::BYE, b"idle");
                    return Ok(());
                }
                _ = connection.closed() => return Ok(()),
            }
        }
    }
}

/// Serves one stream: blobs of the stores that the peer is an active member of, or the `only` one that
/// a token allows. Returns whether the peer kept to the protocol.
pub(crate) async fn serve(
    context: &Arc<Context>,
    peer: DeviceKey,
    only: Option<(StoreId, BlobId)>,
    (mut send, mut recv): Streams,
) -> bool {
    let mut server = Server::default();
    let mut patience = context.timings.request;
    let mut asked = false;
    loop {
        let bytes = match timeout(patience, recv.read_chunk(READ_STEP_BYTES)).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => {
                let _ = send.finish();
                // The stream must live until the peer has read the last piece.
                let _ = timeout(context.timings.stall, send.stopped()).await;
                return true;
            }
            Ok(Err(_)) => return true,
            Err(_) if asked => return true,
            Err(_) => {
                context.misbehaved(peer, Misbehaviour::Unfinished, "blob: no request in time");
                return false;
            }
        };
        if let Err(fault) = server.take(&bytes) {
            let kind = match fault {
                ServerFault::TooMany { .. } => Misbehaviour::Flood,
                ServerFault::Garbage(_) => Misbehaviour::Garbage,
            };
            context.misbehaved(peer, kind, &format!("blob: {fault}"));
            return false;
        }
        loop {
            let (back, served) = next(context, peer, only, server).await;
            server = back;
            let frame = match served {
                Ok(Served::Frame(frame)) => frame,
                Ok(Served::Idle) => break,
                Ok(Served::Damaged(blob)) => {
                    tracing::error!(%blob, "a blob's file was damaged and is gone; fetch it again");
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "a blob cannot be read");
                    let _ = send.reset(code::FAULT);
                    return true;
                }
            };
            asked = true;
            patience = context.timings.stall;
            match timeout(context.timings.stall, send.write_all(&frame)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return true,
                Err(_) => {
                    context.misbehaved(peer, Misbehaviour::SlowReader, "blob: pieces are not read");
                    return false;
                }
            }
        }
    }
}

/// Reads the next piece from the disk.
async fn next(
    context: &Arc<Context>,
    peer: DeviceKey,
    only: Option<(StoreId, BlobId)>,
    mut server: Server,
) -> (Server, Result<Served, BlobError>) {
    let context = context.clone();
    let read = tokio::task::spawn_blocking(move || {
        let may = |store: StoreId, blob: BlobId| match only {
            Some(only) => only == (store, blob),
            None => context
                .store(&store)
                .is_some_and(|s| s.access(&peer) == Access::All),
        };
        let served = server.next(&context.host.blobs(), may);
        (server, served)
    });
    read.await.expect("serving a piece does not panic")
}

/// Which blob, for which store, of what size at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) store: StoreId,
    pub(crate) blob: BlobId,
    pub(crate) bytes_max: u64,
}

/// Why a blob did not come. What came is kept, and the next fetch goes on there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// This node's disk failed.
    #[error("the blob cannot be kept: {0}")]
    Disk(String),
    /// It is larger than allowed.
    #[error(transparent)]
    TooLarge(#[from] FetchFailure),
    /// Nobody who was asked has it, or finished sending it.
    #[error("none of {asked} peers gave the blob (the last one: {last})")]
    NoSource {
        /// How many were asked.
        asked: usize,
        /// Why the last one did not.
        last: String,
    },
}

type Dial = BoxFuture<'static, (DeviceKey, Result<(Connection, Streams), String>)>;

struct Source {
    send: SendStream,
    heard: Instant,
    /// Keeps the connection open as long as the stream is used; `None` where the caller keeps it.
    _connection: Option<Connection>,
}

struct Fetching<'a> {
    context: &'a Arc<Context>,
    fetch: Option<Fetch>,
    sources: HashMap<DeviceKey, Source>,
    readers: JoinSet<()>,
    heard: mpsc::Sender<(DeviceKey, Option<Bytes>)>,
    asked: usize,
    last: String,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// Fetches a blob over streams that are open.
pub(crate) async fn fetch(
    context: &Arc<Context>,
    wish: Wish,
    open: Vec<(DeviceKey, Streams)>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(), FetchError> {
    run(context, wish, open, Vec::new(), progress).await
}

async fn run(
    context: &Arc<Context>,
    wish: Wish,
    open: Vec<(DeviceKey, Streams)>,
    mut candidates: Vec<DeviceKey>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(), FetchError> {
    let blobs = context.host.blobs();
    let begin = move || Fetch::begin(wish.store, wish.blob, wish.bytes_max, &blobs);
    let fetch = tokio::task::spawn_blocking(begin)
        .await
        .expect("beginning a fetch does not panic")
        .map_err(|e| FetchError::Disk(e.to_string()))?;
    let (heard, mut hearing) = mpsc::channel(2 * BLOB_SOURCES_MAX);
    let mut fetching = Fetching {
        context,
        fetch: Some(fetch),
        sources: HashMap::new(),
        readers: JoinSet::new(),
        heard,
        asked: 0,
        last: "there is nobody to ask".into(),
        progress,
    };
    for (peer, streams) in open {
        if fetching.up(peer, None, streams).await? {
            return Ok(());
        }
    }
    let stall = context.timings.stall;
    let mut dials: FuturesUnordered<Dial> = FuturesUnordered::new();
    let mut look = tokio::time::interval(stall / 4 + Duration::from_millis(1));
    loop {
        while fetching.sources.len() + dials.len() < BLOB_SOURCES_MAX {
            let Some(peer) = candidates.pop() else { break };
            dials.push(dial(context.clone(), peer).boxed());
        }
        if fetching.sources.is_empty() && dials.is_empty() {
            return Err(FetchError::NoSource {
                asked: fetching.asked,
                last: fetching.last,
            });
        }
        let done = tokio::select! {
            Some((peer, dialled)) = dials.next(), if !dials.is_empty() => match dialled {
                Ok((connection, streams)) => fetching.up(peer, Some(connection), streams).await?,
                Err(reason) => {
                    fetching.asked += 1;
                    fetching.last = reason;
                    false
                }
            },
            Some((peer, bytes)) = hearing.recv() => match bytes {
                Some(bytes) => {
                    if let Some(source) = fetching.sources.get_mut(&peer) {
                        source.heard = Instant::now();
                    }
                    fetching.handle(FetchInput::Bytes(peer, bytes)).await?
                }
                None => fetching.down(peer, "its stream ended").await?,
            },
            _ = look.tick() => {
                let silent = fetching.sources.iter().find(|(_, s)| s.heard.elapsed() > stall);
                match silent.map(|(peer, _)| *peer) {
                    Some(peer) => fetching.down(peer, "it fell silent").await?,
                    None => false,
                }
            }
        };
        if done {
            return Ok(());
        }
    }
}

async fn dial(
    context: Arc<Context>,
    peer: DeviceKey,
) -> (DeviceKey, Result<(Connection, Streams), String>) {
    let dialled = async {
        let id = id_of(&peer).ok_or("its key is no point of the curve")?;
        let connecting = context.endpoint.connect(id, ALPN);
        let connection = timeout(context.timings.dial, connecting)
            .await
            .map_err(|_| format!("no answer within {:?}", context.timings.dial))?
            .map_err(|e| format!("{e:#}"))?;
        let streams = timeout(context.timings.request, connection.open_bi())
            .await
            .map_err(|_| "it allows no stream".to_owned())?
            .map_err(|e| e.to_string())?;
        Ok((connection, streams))
    };
    (peer, dialled.await)
}

impl Fetching<'_> {
    /// Lets another peer be asked. Returns whether the blob is complete.
    async fn up(
        &mut self,
        peer: DeviceKey,
        connection: Option<Connection>,
        (send, mut recv): Streams,
    ) -> Result<bool, FetchError> {
        self.asked += 1;
        let source = Source {
            send,
            heard: Instant::now(),
            _connection: connection,
        };
        self.sources.insert(peer, source);
        let heard = self.heard.clone();
        self.readers.spawn(async move {
            // The channel is short: a peer that sends faster than the disk takes it waits.
            while let Ok(Some(bytes)) = recv.read_chunk(READ_STEP_BYTES).await {
                if heard.send((peer, Some(bytes))).await.is_err() {
                    return;
                }
            }
            // The fetch is over when nobody listens.
            let _ = heard.send((peer, None)).await;
        });
        self.handle(FetchInput::PeerUp(peer)).await
    }

    async fn down(&mut self, peer: DeviceKey, reason: &str) -> Result<bool, FetchError> {
        if self.sources.remove(&peer).is_none() {
            return Ok(false);
        }
        self.last = reason.to_owned();
        self.handle(FetchInput::PeerDown(peer)).await
    }

    async fn handle(&mut self, input: FetchInput) -> Result<bool, FetchError> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.step(input).await? {
                match effect {
                    FetchEffect::Send(peer, bytes) => {
                        let Some(source) = self.sources.get_mut(&peer) else {
                            continue;
                        };
                        let limit = self.context.timings.stall;
                        if !matches!(
                            timeout(limit, source.send.write_all(&bytes)).await,
                            Ok(Ok(()))
                        ) {
                            self.sources.remove(&peer);
                            self.last = "it takes no requests".into();
                            inputs.push(FetchInput::PeerDown(peer));
                        }
                    }
                    FetchEffect::Lacks(peer) => {
                        self.sources.remove(&peer);
                        self.last = "it does not have the blob in this store".into();
                    }
                    FetchEffect::Blame(peer, reason) => {
                        self.sources.remove(&peer);
                        self.context.misbehaved(
                            peer,
                            Misbehaviour::Invalid,
                            &format!("blob: {reason}"),
                        );
                        self.last = reason;
                    }
                    FetchEffect::Progress { have, size } => (self.progress)(have, size),
                    FetchEffect::Done { .. } => return Ok(true),
                    FetchEffect::Failed(failure) => return Err(failure.into()),
                }
            }
        }
        Ok(false)
    }

    /// One step of the value, which may write a piece to the disk.
    async fn step(&mut self, input: FetchInput) -> Result<Vec<FetchEffect>, FetchError> {
        let mut fetch = self.fetch.take().expect("it is put back after each step");
        let blobs = self.context.host.blobs();
        let (fetch, effects) = tokio::task::spawn_blocking(move || {
            let effects = fetch.handle(input, &blobs);
            (fetch, effects)
        })
        .await
        .expect("a step of a fetch does not panic");
        self.fetch = Some(fetch);
        effects.map_err(|e| FetchError::Disk(e.to_string()))
    }
}

impl Net {
    /// Fetches a blob that belongs to a store from the store's members, several at once, into the
    /// host's blobs. Bytes are verified as they come; a fetch that was broken off goes on where it
    /// stopped. Done when this returns: the blob is durable in the scope of the store.
    ///
    /// `progress` gets the bytes that are here and the size.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch_blob(
        &self,
        store: StoreId,
        blob: BlobId,
        bytes_max: u64,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), FetchError> {
        let context = &self.context;
        let mut candidates: Vec<DeviceKey> = context
            .store(&store)
            .map(|s| {
                let mut all = s.acquaintances();
                all.retain(|p| *p != context.me && s.is_close(p));
                all
            })
            .unwrap_or_default();
        // Candidates are taken from the end: first who is connected, and never who has no address.
        candidates.retain(|p| context.can_dial(p));
        candidates.sort_by_key(|p| context.links.conn(p).is_some());
        candidates.dedup();
        let wish = Wish {
            store,
            blob,
            bytes_max,
        };
        run(context, wish, Vec::new(), candidates, progress).await
    }
}

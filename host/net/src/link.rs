//! Tasks that dial peers, accept connections for sync and keep them up as long as both sides share a store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::clock;
use lattice_kernel::sync::limits::FIRST_ROUND_LOOK_MS;
use lattice_kernel::sync::{
    ALPN, Access, Backoff, Dial, ErrorCode, FrameError, Misbehaviour, Role, TooLong, refusal,
    store_asked_for,
};

use crate::addresses;
use crate::allowances::Place;
use crate::config::{Timings, millis};
use crate::context::{Context, jitter};
use crate::endpoint::{code, device_of, id_of, remote_socket};
use crate::gossip;
use crate::host::NetEvent;
use crate::limits::READ_STEP_BYTES;
use crate::links::Conn;
use crate::peers::Source;
use crate::session;
use crate::sessions::{NoPlace, SessionPlace};
use crate::stores::StoreNet;

/// The largest Hello, in bytes: what a stream may hold before its store is known.
const HELLO_BYTES_MAX: usize = 64 * 1024;
/// How often a session that may not begin yet looks whether it is its turn.
const TURN: Duration = Duration::from_millis(FIRST_ROUND_LOOK_MS);

/// Accepts connections for sync.
#[derive(Clone)]
pub(crate) struct SyncProtocol(pub(crate) Arc<Context>);

impl std::fmt::Debug for SyncProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncProtocol")
    }
}

impl ProtocolHandler for SyncProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let context = &self.0;
        let peer = device_of(connection.remote_id());
        if context.is_banned(&peer) {
            connection.close(code::MISBEHAVIOUR, b"refused for a while");
            return Ok(());
        }
        let Some(place) = context.take_in_for_sync(&connection, &peer) else {
            return Ok(());
        };
        let conn = Conn::accepted(connection);
        if let Some(conn) = context.links.adopt(&context.me, conn) {
            serve(context.clone(), conn, Some(place)).await;
        }
        Ok(())
    }
}

/// Serves a connection until it ends: takes streams, and closes it when the two share no store. One that the peer
/// opened has a `place`.
async fn serve(context: Arc<Context>, conn: Arc<Conn>, place: Option<Place>) {
    let peer = conn.peer;
    context.peers.up(peer, context.host.now_ms());
    context.clock(clock::Input::Connected(peer));
    context.host.event(NetEvent::PeerUp { peer });
    if let Some(socket) = remote_socket(&conn.connection) {
        // Only who shares a store is worth remembering.
        if context.is_member_of_any(&peer) {
            context.learn(peer, &[socket], Source::Seen);
        }
    }
    keep(&context, peer);
    gossip::peer_up(&context, peer);
    addresses::send(&context, &conn);
    let reason = take_streams(&context, &conn, place).await;
    if context.links.ended(&conn) {
        context.peers.down(peer, &reason);
        context.clock(clock::Input::Left(peer));
        context.host.event(NetEvent::PeerDown { peer, reason });
    }
}

async fn take_streams(
    context: &Arc<Context>,
    conn: &Arc<Conn>,
    mut place: Option<Place>,
) -> String {
    let mut useless_since: Option<Instant> = None;
    let mut look = tokio::time::interval(context.timings.stranger / 4 + Duration::from_millis(1));
    let mut slow_until = Instant::now();
    loop {
        let open = Instant::now() >= slow_until;
        tokio::select! {
            stream = conn.connection.accept_bi(), if open => match stream {
                Ok(streams) => {
                    slow_until = count_stream(context, conn);
                    context.spawn(listen(context.clone(), conn.clone(), streams));
                }
                Err(error) => return error.to_string(),
            },
            stream = conn.connection.accept_uni(), if open => match stream {
                Ok(recv) => {
                    slow_until = count_stream(context, conn);
                    context.spawn(addresses::receive(context.clone(), conn.clone(), recv));
                }
                Err(error) => return error.to_string(),
            },
            error = conn.connection.closed() => return error.to_string(),
            () = tokio::time::sleep_until(slow_until.into()), if !open => {}
            _ = look.tick() => {
                let stores = context.stores();
                let useful = stores.iter().any(|s| {
                    s.sessions.contains(&conn.peer) || s.access(&conn.peer) != Access::None
                });
                let since = *useless_since.get_or_insert_with(Instant::now);
                if useful {
                    useless_since = None;
                    if let Some(place) = &mut place {
                        place.is_known();
                    }
                } else if since.elapsed() >= context.timings.stranger {
                    conn.connection.close(code::STRANGER, b"no store in common");
                    return "no store in common".into();
                }
            }
        }
    }
}

fn count_stream(context: &Context, conn: &Conn) -> Instant {
    let now = Instant::now();
    let wait = conn.allowances.streams.take(1, now);
    if wait > Duration::from_secs(1) {
        let text = "it opens more streams than it may".to_owned();
        context.misbehaved(conn.peer, Misbehaviour::Flood, &text);
    }
    now + wait
}

/// Reads the Hello of a stream that the peer opened, and runs its session.
async fn listen(
    context: Arc<Context>,
    conn: Arc<Conn>,
    (mut send, mut recv): (SendStream, RecvStream),
) {
    let asked = tokio::time::timeout(context.timings.request, read_hello(&mut recv)).await;
    let (store_id, first) = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(None)) => return,
        Ok(Err(Some(error))) => {
            let kind = match error {
                FrameError::TooLong(_) => Misbehaviour::Oversized,
                _ => Misbehaviour::Garbage,
            };
            context.misbehaved(conn.peer, kind, &format!("sync: {error}"));
            conn.connection
                .close(code::MISBEHAVIOUR, error.to_string().as_bytes());
            return;
        }
        Err(_) => {
            context.misbehaved(
                conn.peer,
                Misbehaviour::Unfinished,
                "sync: no Hello in time",
            );
            let _ = recv.stop(code::SLOW);
            let _ = send.reset(code::SLOW);
            return;
        }
    };
    let refuse = |code, text| (refusal(code, text), text);
    let store = context
        .store(&store_id)
        .filter(|s| s.access(&conn.peer) != Access::None)
        .filter(|s| context.host.serves(&s.id));
    let (words, why) = match store {
        // The same answer whether there is such a store or not: a stranger must not learn it.
        None => refuse(
            ErrorCode::UnknownStore,
            "no such store for this device here",
        ),
        Some(store) => match store.sessions.enter(&context.me, conn.peer, Role::Listener) {
            Ok(place) => {
                let streams = (send, recv);
                let role = Role::Listener;
                let (peer, id) = (conn.peer, store.id);
                session::run(context.clone(), store, conn, place, role, streams, first).await;
                context.links.existing(&peer, |link| {
                    // The peer that opened the session opens the next one; this side waits a little.
                    let pause = context.timings.retry_max.min(context.timings.reconcile);
                    link.retry.insert(id, (Instant::now() + pause, 0));
                    link.wake.notify_one();
                });
                return;
            }
            Err(NoPlace::Duplicate) => {
                let _ = recv.stop(code::DUPLICATE);
                let _ = send.reset(code::DUPLICATE);
                return;
            }
            Err(NoPlace::Full) => refuse(ErrorCode::TooMuch, "too many sessions, try later"),
        },
    };
    tracing::debug!(peer = %conn.peer, store = %store_id, why, "session refused");
    let _ = recv.stop(code::BYE);
    let written = tokio::time::timeout(context.timings.request, send.write_all(&words)).await;
    if matches!(written, Ok(Ok(()))) {
        let _ = send.finish();
        // The stream must live until the peer has read the words.
        let _ = tokio::time::timeout(context.timings.request, send.stopped()).await;
    }
}

/// The store that the stream is for, and the bytes read so far; `None` when the stream broke.
async fn read_hello(recv: &mut RecvStream) -> Result<(StoreId, Bytes), Option<FrameError>> {
    let mut buffer = BytesMut::new();
    loop {
        match recv.read_chunk(READ_STEP_BYTES).await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) | Err(_) => return Err(None),
        }
        if let Some(store) = store_asked_for(&buffer).map_err(Some)? {
            return Ok((store, buffer.freeze()));
        }
        if buffer.len() > HELLO_BYTES_MAX {
            return Err(Some(FrameError::TooLong(TooLong {
                len: buffer.len(),
                max: HELLO_BYTES_MAX,
            })));
        }
    }
}

/// Starts a task that keeps the link with a peer up, unless one does so already or the two share no store.
pub(crate) fn keep(context: &Arc<Context>, peer: DeviceKey) {
    if peer == context.me || id_of(&peer).is_none() || closeness(context, &peer).is_none() {
        return;
    }
    let begin = context
        .links
        .with(&peer, |link| !std::mem::replace(&mut link.kept, true));
    if begin == Some(true) {
        context.spawn(maintain(context.clone(), peer));
    }
}

/// Whether the peer must be reached quickly; `None` when the two share no store.
fn closeness(context: &Context, peer: &DeviceKey) -> Option<bool> {
    let stores = context.stores();
    let known = stores.iter().filter(|s| s.access(peer) != Access::None);
    known.map(|s| s.is_close(peer)).max()
}

async fn maintain(context: Arc<Context>, peer: DeviceKey) {
    let Some((wake, fresh)) = context
        .links
        .existing(&peer, |link| (link.wake.clone(), link.fresh.clone()))
    else {
        return;
    };
    let mut tries = Dial::new(context.elapsed_ms());
    // A dial by this node holds a permit as long as its connection stands.
    let mut permit = None;
    while let Some(close) = closeness(&context, &peer) {
        let retry = context.timings.retry();
        if let Some(conn) = context.links.conn(&peer) {
            tries.stands(conn.stood_ms());
            let wait = open_sessions(&context, &conn);
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = conn.connection.closed() => {}
            }
            tries.stands(conn.stood_ms());
            if context.outgoing.available_permits() == 0
                && permit.is_some()
                && is_settled(&context, &conn)
            {
                // Frees the permit: other peers wait for a connection to compare over.
                conn.connection.close(code::BYE, b"others wait");
            }
            continue;
        }
        permit = None;
        tries.lost(context.elapsed_ms(), retry, jitter());
        if fresh.swap(false, Ordering::Relaxed) {
            tries.address_learnt(context.elapsed_ms());
        }
        let undialable = !context.can_dial(&peer);
        if undialable || context.is_banned(&peer) {
            tries.put_off(context.elapsed_ms(), retry);
        }
        let dial_at = context.moment(tries.due_ms());
        if Instant::now() < dial_at {
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep_until(dial_at.into()) => {}
            }
            if Instant::now() < dial_at || undialable {
                continue;
            }
        }
        match context.outgoing.clone().try_acquire_owned() {
            Ok(free) => permit = Some(free),
            Err(_) => {
                let turn = context.outgoing.clone().acquire_owned();
                tokio::select! {
                    () = wake.notified() => continue,
                    free = turn => permit = free.ok(),
                }
            }
        }
        let pauses = match close {
            true => retry,
            false => past_member(&context.timings),
        };
        match dial(&context, &peer).await {
            Ok(connection) => {
                tries.made(context.elapsed_ms(), pauses, jitter());
                let conn = Conn::dialled(connection);
                if let Some(conn) = context.links.adopt(&context.me, conn) {
                    context.spawn(serve(context.clone(), conn, None));
                }
            }
            Err(reason) => {
                tracing::debug!(%peer, reason, ?tries, "dial failed");
                // The peer may have dialled meanwhile, and its connection stands.
                if context.links.conn(&peer).is_none() {
                    context.peers.down(peer, &reason);
                    context.clock(clock::Input::Left(peer));
                }
                tries.failed(context.elapsed_ms(), pauses, jitter());
            }
        }
    }
    context.links.existing(&peer, |link| link.kept = false);
}

/// The pauses between dials of a peer that is a past member in every store that both have.
fn past_member(timings: &Timings) -> Backoff {
    let first_ms = millis(timings.past_member);
    Backoff {
        first_ms,
        longest_ms: first_ms.max(millis(timings.retry_max)),
    }
}

async fn dial(context: &Context, peer: &DeviceKey) -> Result<Connection, String> {
    let id = id_of(peer).ok_or("the key is no point of the curve")?;
    let _turn = context.dials.acquire().await.map_err(|e| e.to_string())?;
    if context.links.conn(peer).is_some() {
        return Err("it dialled this node meanwhile".into());
    }
    let limit = context.timings.dial;
    match tokio::time::timeout(limit, context.endpoint.connect(id, ALPN)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn is_settled(context: &Context, conn: &Conn) -> bool {
    conn.is_ours()
        && conn.since.elapsed() > context.timings.reconcile
        && context
            .stores()
            .iter()
            .all(|s| s.access(&conn.peer) == Access::None || s.sessions.contains(&conn.peer))
}

/// Opens a session for every shared store that has none; returns when to look again.
fn open_sessions(context: &Arc<Context>, conn: &Arc<Conn>) -> Duration {
    let now = Instant::now();
    let mut next = now + context.timings.reconcile;
    // The dialler opens the sessions; the other side those that it left out.
    let grace_until = conn.since + context.timings.grace;
    if !conn.is_ours() && now < grace_until {
        return grace_until - now;
    }
    for store in context.stores() {
        if store.access(&conn.peer) == Access::None
            || store.sessions.contains(&conn.peer)
            || !context.host.serves(&store.id)
        {
            continue;
        }
        let retry = context
            .links
            .existing(&conn.peer, |link| link.retry.get(&store.id).copied())
            .flatten();
        match retry {
            Some((at, _)) if now < at => next = next.min(at),
            _ if store.sessions.is_comparing() => next = next.min(now + TURN),
            _ => {
                if let Ok(place) = store.sessions.enter(&context.me, conn.peer, Role::Dialer) {
                    context.spawn(open_session(context.clone(), conn.clone(), store, place));
                }
            }
        }
    }
    next - now
}

async fn open_session(
    context: Arc<Context>,
    conn: Arc<Conn>,
    store: Arc<StoreNet>,
    place: SessionPlace,
) {
    let id = store.id;
    let peer = conn.peer;
    let limit = context.timings.request;
    let opened = tokio::time::timeout(limit, conn.connection.open_bi()).await;
    let end = match opened {
        Ok(Ok(streams)) => {
            let first = Bytes::new();
            session::run(
                context.clone(),
                store,
                conn,
                place,
                Role::Dialer,
                streams,
                first,
            )
            .await
        }
        Ok(Err(error)) => session::SessionEnd::soon(error.to_string()),
        Err(_) => session::SessionEnd::soon("the peer allows no further stream"),
    };
    tracing::debug!(%peer, store = %id, reason = end.reason, "session ended");
    let timings = &context.timings;
    context.links.existing(&peer, |link| {
        let failures = match link.retry.get(&id) {
            Some((_, failures)) if !end.soon => failures + 1,
            _ => 0,
        };
        let longest_ms = millis(timings.retry_max.min(timings.reconcile));
        let pauses = Backoff {
            longest_ms,
            ..timings.retry()
        };
        let pause = Duration::from_millis(pauses.pause_ms(failures, jitter()));
        link.retry.insert(id, (Instant::now() + pause, failures));
        link.wake.notify_one();
    });
}

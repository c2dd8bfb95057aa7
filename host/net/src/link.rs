//! Connections for sync: at most one with each peer, kept up as long as both share a store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::sync::{ALPN, Access, ErrorCode, FrameError, Role, refusal, store_asked_for};
use tokio::sync::Notify;

use crate::addresses;
use crate::context::{NoPlace, Shared, StoreNet, backoff};
use crate::endpoint::{code, device_of, id_of, remote_socket};
use crate::gossip;
use crate::host::NetEvent;
use crate::limits::{PEERS_MAX, READ_STEP_BYTES};
use crate::misbehaviour::{Allowances, Offence};
use crate::peers::Source;
use crate::session;

/// The largest Hello, in bytes: what a stream may hold before its store is known.
const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Within which two connections with one peer are taken for dials that crossed.
const CROSSING: Duration = Duration::from_secs(1);
/// A connection that lasted so long was a success.
const LASTING: Duration = Duration::from_secs(2);
/// How often a session that may not begin yet looks whether it is its turn.
const TURN: Duration = Duration::from_millis(20);

/// A connection with a peer.
pub(crate) struct Conn {
    pub(crate) connection: Connection,
    pub(crate) peer: DeviceKey,
    /// Whether this node dialled.
    pub(crate) by_us: bool,
    since: Instant,
    pub(crate) allowances: Allowances,
}

impl Conn {
    fn new(connection: Connection, by_us: bool) -> Self {
        let now = Instant::now();
        Self {
            peer: device_of(connection.remote_id()),
            connection,
            by_us,
            since: now,
            allowances: Allowances::new(now),
        }
    }
}

#[derive(Default)]
struct Link {
    conn: Option<Arc<Conn>>,
    /// Whether a task keeps this link up.
    kept: bool,
    wake: Arc<Notify>,
    /// An address was learnt: dial at once.
    fresh: Arc<AtomicBool>,
    /// After which a session may be opened again, and how many failed before.
    retry: HashMap<StoreId, (Instant, u32)>,
}

/// All links. Bounded by [`PEERS_MAX`].
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<DeviceKey, Link>>);

impl Links {
    fn with<T>(&self, peer: &DeviceKey, change: impl FnOnce(&mut Link) -> T) -> Option<T> {
        let mut links = self.0.lock().expect("no panic while it is held");
        if !links.contains_key(peer) && links.len() >= PEERS_MAX {
            return None;
        }
        Some(change(links.entry(*peer).or_default()))
    }

    fn existing<T>(&self, peer: &DeviceKey, change: impl FnOnce(&mut Link) -> T) -> Option<T> {
        let mut links = self.0.lock().expect("no panic while it is held");
        links.get_mut(peer).map(change)
    }

    /// The connection with a peer.
    pub(crate) fn conn(&self, peer: &DeviceKey) -> Option<Arc<Conn>> {
        self.existing(peer, |link| link.conn.clone())
            .flatten()
            .filter(|conn| conn.connection.close_reason().is_none())
    }

    /// All connections.
    pub(crate) fn conns(&self) -> Vec<Arc<Conn>> {
        let links = self.0.lock().expect("no panic while it is held");
        links.values().filter_map(|l| l.conn.clone()).collect()
    }

    /// Dial the peer at once, if a task keeps its link.
    pub(crate) fn address_learnt(&self, peer: &DeviceKey) {
        self.existing(peer, |link| {
            link.fresh.store(true, Ordering::Relaxed);
            link.wake.notify_one();
        });
    }

    /// Sessions may be opened again at once; `None` for every store.
    pub(crate) fn wake(&self, peer: &DeviceKey, store: Option<&StoreId>) {
        self.existing(peer, |link| {
            match store {
                Some(store) => {
                    link.retry.remove(store);
                }
                None => link.retry.clear(),
            }
            link.wake.notify_one();
        });
    }

    /// Closes the connection with a peer.
    pub(crate) fn drop_peer(&self, peer: &DeviceKey, code: VarInt) {
        if let Some(conn) = self.conn(peer) {
            conn.connection.close(code, b"");
        }
    }

    /// Takes a new connection in, or closes it when the one that stands is to be kept.
    ///
    /// When both dial at the same time, both keep the connection that the smaller key opened. A peer
    /// that dials later has lost the old one, whatever this side believes.
    fn adopt(&self, me: &DeviceKey, conn: Conn) -> Option<Arc<Conn>> {
        let conn = Arc::new(conn);
        let kept = self.with(&conn.peer, |link| {
            if let Some(old) = &link.conn {
                let lost = old.connection.close_reason().is_some();
                let crossing = old.by_us != conn.by_us && old.since.elapsed() < CROSSING;
                let old_wins = old.by_us == (*me < conn.peer);
                if !lost && crossing && old_wins {
                    return false;
                }
                if !lost && conn.by_us && !crossing {
                    return false;
                }
                old.connection.close(code::DUPLICATE, b"another connection");
            }
            link.conn = Some(conn.clone());
            link.wake.notify_one();
            true
        });
        match kept {
            Some(true) => Some(conn),
            Some(false) => {
                conn.connection
                    .close(code::DUPLICATE, b"another connection");
                None
            }
            None => {
                conn.connection.close(code::BUSY, b"too many peers");
                None
            }
        }
    }

    /// The connection ended; whether it was the one in use.
    fn ended(&self, conn: &Conn) -> bool {
        let mut links = self.0.lock().expect("no panic while it is held");
        let Some(link) = links.get_mut(&conn.peer) else {
            return false;
        };
        let current = link
            .conn
            .as_ref()
            .is_some_and(|c| c.connection.stable_id() == conn.connection.stable_id());
        if current {
            link.conn = None;
            link.wake.notify_one();
            if !link.kept {
                links.remove(&conn.peer);
            }
        }
        current
    }
}

/// Accepts connections for sync.
#[derive(Clone)]
pub(crate) struct SyncProtocol(pub(crate) Arc<Shared>);

impl std::fmt::Debug for SyncProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncProtocol")
    }
}

impl ProtocolHandler for SyncProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let shared = &self.0;
        let peer = device_of(connection.remote_id());
        if shared.is_banned(&peer) {
            connection.close(code::OFFENCE, b"refused for a while");
            return Ok(());
        }
        let Some(_place) = shared.take_in(&connection) else {
            return Ok(());
        };
        let conn = Conn::new(connection, false);
        if let Some(conn) = shared.links.adopt(&shared.me, conn) {
            serve(shared.clone(), conn).await;
        }
        Ok(())
    }
}

/// Serves a connection until it ends: takes streams, and closes it when nothing is shared.
async fn serve(shared: Arc<Shared>, conn: Arc<Conn>) {
    let peer = conn.peer;
    shared.peers.up(peer, shared.host.now_ms());
    shared.host.event(NetEvent::PeerUp { peer });
    if let Some(socket) = remote_socket(&conn.connection) {
        // Only who shares a store is worth remembering.
        if shared.is_member_of_any(&peer) {
            shared.learn(peer, &[socket], Source::Seen);
        }
    }
    keep(&shared, peer);
    gossip::peer_up(&shared, peer);
    addresses::send(&shared, &conn);
    let reason = take_streams(&shared, &conn).await;
    if shared.links.ended(&conn) {
        shared.peers.down(peer, &reason);
        shared.host.event(NetEvent::PeerDown { peer, reason });
    }
}

async fn take_streams(shared: &Arc<Shared>, conn: &Arc<Conn>) -> String {
    let mut useless_since: Option<Instant> = None;
    let mut look = tokio::time::interval(shared.timings.stranger / 4 + Duration::from_millis(1));
    let mut slow_until = Instant::now();
    loop {
        let open = Instant::now() >= slow_until;
        tokio::select! {
            stream = conn.connection.accept_bi(), if open => match stream {
                Ok(streams) => {
                    slow_until = count_stream(shared, conn);
                    shared.spawn(listen(shared.clone(), conn.clone(), streams));
                }
                Err(error) => return error.to_string(),
            },
            stream = conn.connection.accept_uni(), if open => match stream {
                Ok(recv) => {
                    slow_until = count_stream(shared, conn);
                    shared.spawn(addresses::receive(shared.clone(), conn.clone(), recv));
                }
                Err(error) => return error.to_string(),
            },
            error = conn.connection.closed() => return error.to_string(),
            () = tokio::time::sleep_until(slow_until.into()), if !open => {}
            _ = look.tick() => {
                let stores = shared.stores();
                let useful = stores.iter().any(|s| {
                    s.has_session(&conn.peer) || s.access(&conn.peer) != Access::None
                });
                let since = *useless_since.get_or_insert_with(Instant::now);
                if useful {
                    useless_since = None;
                } else if since.elapsed() >= shared.timings.stranger {
                    conn.connection.close(code::STRANGER, b"no store in common");
                    return "no store in common".into();
                }
            }
        }
    }
}

fn count_stream(shared: &Shared, conn: &Conn) -> Instant {
    let now = Instant::now();
    let wait = conn.allowances.streams.take(1, now);
    if wait > Duration::from_secs(1) {
        let text = "it opens more streams than it may".to_owned();
        shared.offence(conn.peer, Offence::Flood, &text);
    }
    now + wait
}

/// Reads the Hello of a stream that the peer opened, and runs its session.
async fn listen(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    (mut send, mut recv): (SendStream, RecvStream),
) {
    let asked = tokio::time::timeout(shared.timings.request, read_hello(&mut recv)).await;
    let (store_id, first) = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(None)) => return,
        Ok(Err(Some(error))) => {
            let kind = match error {
                FrameError::TooLong { .. } => Offence::Oversized,
                _ => Offence::Garbage,
            };
            shared.offence(conn.peer, kind, &format!("sync: {error}"));
            conn.connection
                .close(code::OFFENCE, error.to_string().as_bytes());
            return;
        }
        Err(_) => {
            shared.offence(conn.peer, Offence::Unfinished, "sync: no Hello in time");
            let _ = recv.stop(code::SLOW);
            let _ = send.reset(code::SLOW);
            return;
        }
    };
    let refuse = |code, text| (refusal(code, text), text);
    let store = shared
        .store(&store_id)
        .filter(|s| s.access(&conn.peer) != Access::None)
        .filter(|s| shared.host.snapshot(&s.id).is_some());
    let (words, why) = match store {
        // The same answer whether there is such a store or not: a stranger must not learn it.
        None => refuse(
            ErrorCode::UnknownStore,
            "no such store for this device here",
        ),
        Some(store) => match store.enter(&shared.me, conn.peer, false) {
            Ok(place) => {
                let streams = (send, recv);
                let role = Role::Listener;
                let (peer, id) = (conn.peer, store.id);
                session::run(shared.clone(), store, conn, place, role, streams, first).await;
                shared.links.existing(&peer, |link| {
                    // The peer that opened the session opens the next one; this side waits a little.
                    let pause = shared.timings.retry_max.min(shared.timings.reconcile);
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
    let written = tokio::time::timeout(shared.timings.request, send.write_all(&words)).await;
    if matches!(written, Ok(Ok(()))) {
        let _ = send.finish();
        // The stream must live until the peer has read the words.
        let _ = tokio::time::timeout(shared.timings.request, send.stopped()).await;
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
            return Err(Some(FrameError::TooLong {
                len: buffer.len(),
                max: HELLO_BYTES_MAX,
            }));
        }
    }
}

/// Starts a task that keeps the link with a peer up, unless there is one or nothing is shared.
pub(crate) fn keep(shared: &Arc<Shared>, peer: DeviceKey) {
    if peer == shared.me || id_of(&peer).is_none() || closeness(shared, &peer).is_none() {
        return;
    }
    let begin = shared
        .links
        .with(&peer, |link| !std::mem::replace(&mut link.kept, true));
    if begin == Some(true) {
        shared.spawn(maintain(shared.clone(), peer));
    }
}

/// Whether to be quick to reach the peer; `None` when nothing is shared with it.
fn closeness(shared: &Shared, peer: &DeviceKey) -> Option<bool> {
    let stores = shared.stores();
    let known = stores.iter().filter(|s| s.access(peer) != Access::None);
    known.map(|s| s.is_close(peer)).max()
}

async fn maintain(shared: Arc<Shared>, peer: DeviceKey) {
    let Some((wake, fresh)) = shared
        .links
        .existing(&peer, |link| (link.wake.clone(), link.fresh.clone()))
    else {
        return;
    };
    let mut failures = 0;
    let mut dial_at = Instant::now();
    // A dial by this node holds a permit as long as its connection stands.
    let mut permit = None;
    let mut connected = false;
    while let Some(close) = closeness(&shared, &peer) {
        let timings = &shared.timings;
        let base = if close {
            timings.retry_min
        } else {
            timings.past_member
        };
        if let Some(conn) = shared.links.conn(&peer) {
            connected = true;
            let wait = open_sessions(&shared, &conn);
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = conn.connection.closed() => {}
            }
            if conn.since.elapsed() > LASTING {
                failures = 0;
            }
            if shared.outgoing.available_permits() == 0
                && permit.is_some()
                && is_settled(&shared, &conn)
            {
                // Others wait for their turn to compare.
                conn.connection.close(code::BYE, b"others wait");
                dial_at = Instant::now() + shared.timings.reconcile;
            }
            continue;
        }
        permit = None;
        if std::mem::take(&mut connected) {
            // Not at once: a peer that closes on purpose would be dialled in a circle.
            dial_at = Instant::now() + backoff(timings.retry_min, timings.retry_max, failures);
            failures += 1;
        }
        if fresh.swap(false, Ordering::Relaxed) {
            (failures, dial_at) = (0, Instant::now());
        }
        let undialable = shared.peers.addresses(&peer).is_empty() && !shared.discovery;
        if undialable || shared.is_banned(&peer) {
            dial_at = dial_at.max(Instant::now() + shared.timings.retry_max);
        }
        if Instant::now() < dial_at {
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep_until(dial_at.into()) => {}
            }
            if Instant::now() < dial_at || undialable {
                continue;
            }
        }
        match shared.outgoing.clone().try_acquire_owned() {
            Ok(free) => permit = Some(free),
            Err(_) => {
                let turn = shared.outgoing.clone().acquire_owned();
                tokio::select! {
                    () = wake.notified() => continue,
                    free = turn => permit = free.ok(),
                }
            }
        }
        match dial(&shared, &peer).await {
            Ok(connection) => {
                let conn = Conn::new(connection, true);
                if let Some(conn) = shared.links.adopt(&shared.me, conn) {
                    shared.spawn(serve(shared.clone(), conn));
                }
            }
            Err(reason) => {
                tracing::debug!(%peer, reason, failures, "dial failed");
                shared.peers.down(peer, &reason);
                failures += 1;
            }
        }
        let max = timings.retry_max.max(base);
        dial_at = Instant::now() + backoff(base, max, failures);
    }
    shared.links.existing(&peer, |link| link.kept = false);
}

async fn dial(shared: &Shared, peer: &DeviceKey) -> Result<Connection, String> {
    let id = id_of(peer).ok_or("the key is no point of the curve")?;
    let _turn = shared.dials.acquire().await.map_err(|e| e.to_string())?;
    if shared.links.conn(peer).is_some() {
        return Err("it dialled this node meanwhile".into());
    }
    let limit = shared.timings.dial;
    match tokio::time::timeout(limit, shared.endpoint.connect(id, ALPN)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn is_settled(shared: &Shared, conn: &Conn) -> bool {
    conn.by_us
        && conn.since.elapsed() > shared.timings.reconcile
        && shared
            .stores()
            .iter()
            .all(|s| s.access(&conn.peer) == Access::None || s.has_session(&conn.peer))
}

/// Opens a session for every shared store that has none; returns when to look again.
fn open_sessions(shared: &Arc<Shared>, conn: &Arc<Conn>) -> Duration {
    let now = Instant::now();
    let mut next = now + shared.timings.reconcile;
    // The dialler opens the sessions; the other side those that it left out.
    let grace_until = conn.since + shared.timings.grace;
    if !conn.by_us && now < grace_until {
        return grace_until - now;
    }
    for store in shared.stores() {
        if store.access(&conn.peer) == Access::None
            || store.has_session(&conn.peer)
            || shared.host.snapshot(&store.id).is_none()
        {
            continue;
        }
        let retry = shared
            .links
            .existing(&conn.peer, |link| link.retry.get(&store.id).copied())
            .flatten();
        match retry {
            Some((at, _)) if now < at => next = next.min(at),
            _ if store.is_comparing() => next = next.min(now + TURN),
            _ => {
                if let Ok(place) = store.enter(&shared.me, conn.peer, true) {
                    shared.spawn(open_session(shared.clone(), conn.clone(), store, place));
                }
            }
        }
    }
    next - now
}

async fn open_session(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    store: Arc<StoreNet>,
    place: crate::context::SessionPlace,
) {
    let id = store.id;
    let peer = conn.peer;
    let limit = shared.timings.request;
    let opened = tokio::time::timeout(limit, conn.connection.open_bi()).await;
    let end = match opened {
        Ok(Ok(streams)) => {
            let first = Bytes::new();
            session::run(
                shared.clone(),
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
    let timings = &shared.timings;
    shared.links.existing(&peer, |link| {
        let failures = match link.retry.get(&id) {
            Some((_, failures)) if !end.soon => failures + 1,
            _ => 0,
        };
        let max = timings.retry_max.min(timings.reconcile);
        let pause = backoff(timings.retry_min, max, failures);
        link.retry.insert(id, (Instant::now() + pause, failures));
        link.wake.notify_one();
    });
}

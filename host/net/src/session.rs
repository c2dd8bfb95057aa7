//! Runs the kernel's sync session over one stream: moves bytes, calls the store, keeps time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use iroh::endpoint::{RecvStream, SendStream};
use lattice_kernel::Received;
use lattice_kernel::clock;
use lattice_kernel::sync::{
    Access, CloseReason, Config, Due, Effect, ErrorCode, Input, Misbehaviour, Pace, Role, Session,
    Wants,
};

use crate::context::Context;
use crate::endpoint::code;
use crate::host::{DeliverError, NetEvent};
use crate::limits::{READ_STEP_BYTES, SEND_WINDOW_BYTES};
use crate::links::Conn;
use crate::sessions::{Poke, SessionPlace};
use crate::stores::StoreNet;

/// Bytes that wait to be written beyond which nothing more is read from the peer.
const OUT_BYTES_HIGH: usize = SEND_WINDOW_BYTES as usize / 2;
/// How long the last words of a session may take.
const FLUSH: Duration = Duration::from_secs(1);

/// How a session ended, and when another may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionEnd {
    pub(crate) reason: String,
    /// Whether the next one may be opened at once.
    pub(crate) soon: bool,
}

impl SessionEnd {
    pub(crate) fn soon(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            soon: true,
        }
    }

    pub(crate) fn later(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            soon: false,
        }
    }
}

type Delivery = BoxFuture<'static, Result<Received, DeliverError>>;

struct Driver {
    context: Arc<Context>,
    store: Arc<StoreNet>,
    conn: Arc<Conn>,
    session: Session,
    access: Access,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    delivery: Option<Delivery>,
    wake_at_ms: Option<u64>,
    again: bool,
    read_after: Instant,
    write_after: Instant,
    write_progress: Instant,
    close: Option<CloseReason>,
    store_fault: Option<String>,
}

/// Runs a session to its end. `first` is what was read from the stream to learn its store.
pub(crate) async fn run(
    context: Arc<Context>,
    store: Arc<StoreNet>,
    conn: Arc<Conn>,
    mut place: SessionPlace,
    role: Role,
    (mut send, mut recv): (SendStream, RecvStream),
    first: Bytes,
) -> SessionEnd {
    let peer = conn.peer;
    let access = store.access(&peer);
    let session = Session::new(Config {
        role,
        device: context.me,
        endpoint: context.me,
        peer,
        wants: Wants::All,
        access,
    });
    context.peers.store(peer, store.id, |s| {
        s.live = true;
        s.reason.clear();
    });
    let now = Instant::now();
    let mut driver = Driver {
        context: context.clone(),
        store: store.clone(),
        conn,
        session,
        access,
        out: VecDeque::new(),
        out_bytes: 0,
        delivery: None,
        wake_at_ms: None,
        again: false,
        read_after: now,
        write_after: now,
        write_progress: now,
        close: None,
        store_fault: None,
    };
    let end = driver
        .run(&mut place, role, &mut send, &mut recv, first)
        .await;
    let (stream_code, end) = match end {
        Ok(()) => driver.farewell(&mut send).await,
        Err(end) => (code::BYE, end),
    };
    // Errors mean that the stream is gone already.
    let _ = recv.stop(stream_code);
    let _ = send.finish();
    context.peers.store(peer, store.id, |s| {
        s.live = false;
        s.in_sync = false;
        s.reason.clone_from(&end.reason);
    });
    end
}

impl Driver {
    /// Ends with `Ok` when the session closed itself, with `Err` when the stream or this node did.
    async fn run(
        &mut self,
        place: &mut SessionPlace,
        role: Role,
        send: &mut SendStream,
        recv: &mut RecvStream,
        first: Bytes,
    ) -> Result<(), SessionEnd> {
        let mut changed = self.store.changed.subscribe();
        self.handle(Input::Start)?;
        if !first.is_empty() {
            place.answered();
            self.handle(Input::Bytes(first))?;
        }
        // The dialer compares at each interval. The listener does so only when the dialer has not for twice as long.
        let interval = match role {
            Role::Dialer => self.context.timings.reconcile,
            Role::Listener => self.context.timings.reconcile * 2,
        };
        let mut compare_at = Instant::now() + jitter(interval);
        let mut pace = Pace::default();
        while self.close.is_none() {
            if self.session.status().settled {
                place.compared();
            }
            let now = Instant::now();
            if !self.out.is_empty() && now - self.write_progress > self.context.timings.stall {
                let text = format!(
                    "{} bytes of a session were not read in {:?}",
                    self.out_bytes, self.context.timings.stall
                );
                self.context
                    .misbehaved(self.conn.peer, Misbehaviour::SlowReader, &text);
                return Err(SessionEnd::later(text));
            }
            let may_read = now >= self.read_after && self.out_bytes < OUT_BYTES_HIGH;
            let may_write = now >= self.write_after && !self.out.is_empty();
            let may_change = self.out_bytes < OUT_BYTES_HIGH;
            let timer = self.next_timer(now, compare_at);
            tokio::select! {
                poke = place.pokes.recv() => match poke {
                    Some(Poke::Announced(ids)) => self.handle(Input::Announced(ids))?,
                    Some(Poke::Reconcile) => self.handle(Input::Reconcile)?,
                    None => return Err(SessionEnd::soon("another session took its place")),
                },
                written = write_some(send, &mut self.out), if may_write => match written {
                    Ok(len) => self.wrote(len),
                    Err(reason) => return Err(SessionEnd::soon(reason)),
                },
                result = async { self.delivery.as_mut().expect("guarded").await },
                    if self.delivery.is_some() => {
                    self.delivery = None;
                    let received = match result {
                        Ok(received) => Some(received),
                        Err(error) => {
                            self.store_fault = Some(error.to_string());
                            None
                        }
                    };
                    self.handle(Input::Received(received))?;
                }
                alive = changed.changed(), if may_change => {
                    if alive.is_err() {
                        return Err(SessionEnd::later("the store was removed"));
                    }
                    self.look_at_access()?;
                    self.handle(Input::Changed)?;
                }
                chunk = recv.read_chunk(READ_STEP_BYTES), if may_read => match chunk {
                    Ok(Some(bytes)) => {
                        place.answered();
                        self.was_read(bytes.len());
                        self.handle(Input::Bytes(bytes))?;
                    }
                    Ok(None) => return Err(SessionEnd::soon("the peer ended the session")),
                    Err(error) => return Err(SessionEnd::soon(error.to_string())),
                },
                () = tokio::time::sleep_until(timer.into()) => {
                    if self.wake_at_ms.is_some_and(|at| self.context.host.now_ms() >= at) {
                        self.wake_at_ms = None;
                        self.handle(Input::Tick)?;
                    }
                    if Instant::now() >= compare_at {
                        compare_at = Instant::now() + jitter(interval);
                        self.look_at_access()?;
                        if self.session.status().in_sync
                            && self.context.host.rests(&self.store.id)
                        {
                            continue;
                        }
                        let due = pace.due(&self.session.status(), self.delivery.is_some());
                        if due == Due::Stalled {
                            return Err(SessionEnd::soon("no progress"));
                        }
                        if due == Due::Compare {
                            self.handle(Input::Reconcile)?;
                        }
                    }
                }
                () = std::future::ready(()), if self.again => {
                    self.again = false;
                    // A long step is cut into slices, so that other tasks of this thread run in between.
                    tokio::task::yield_now().await;
                    self.handle(Input::Tick)?;
                }
            }
        }
        Ok(())
    }

    fn next_timer(&self, now: Instant, compare_at: Instant) -> Instant {
        let mut at = compare_at;
        if let Some(wake_ms) = self.wake_at_ms {
            let wait = wake_ms
                .saturating_sub(self.context.host.now_ms())
                .min(3_600_000);
            at = at.min(now + Duration::from_millis(wait));
        }
        if self.read_after > now {
            at = at.min(self.read_after);
        }
        if !self.out.is_empty() {
            at =
                at.min(self.write_progress + self.context.timings.stall + Duration::from_millis(1));
            if self.write_after > now {
                at = at.min(self.write_after);
            }
        }
        at
    }

    fn look_at_access(&mut self) -> Result<(), SessionEnd> {
        let access = self.store.access(&self.conn.peer);
        if access != self.access {
            self.access = access;
            self.handle(Input::Access(access))?;
        }
        Ok(())
    }

    fn was_read(&mut self, len: usize) {
        let now = Instant::now();
        let wait = self
            .conn
            .allowances
            .bytes(self.access)
            .take(len as u64, now);
        self.read_after = self.read_after.max(now + wait);
        self.context
            .peers
            .seen(self.conn.peer, self.context.host.now_ms());
    }

    fn wrote(&mut self, len: usize) {
        self.out_bytes -= len;
        let now = Instant::now();
        self.write_progress = now;
        if self.access != Access::All {
            let wait = self
                .conn
                .allowances
                .bytes(self.access)
                .take(len as u64, now);
            self.write_after = now + wait;
        }
    }

    fn handle(&mut self, input: Input) -> Result<(), SessionEnd> {
        self.context.clock(clock::Input::Use);
        let host = &self.context.host;
        let Some(snapshot) = host.snapshot(&self.store.id) else {
            return Err(SessionEnd::later("this node does not serve the store now"));
        };
        let effects = self
            .session
            .handle(input, host.now_ms(), &snapshot)
            .map_err(|error| SessionEnd::later(format!("the log cannot be read: {error}")))?;
        for effect in effects {
            self.carry_out(effect);
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) {
        let (peer, store) = (self.conn.peer, self.store.id);
        let now_ms = self.context.host.now_ms();
        let peers = &self.context.peers;
        match effect {
            Effect::Send(bytes) => {
                if self.out.is_empty() {
                    self.write_progress = Instant::now();
                }
                self.out_bytes += bytes.len();
                self.out.push_back(bytes);
            }
            Effect::Deliver(entries) => {
                assert!(self.delivery.is_none(), "one delivery at a time");
                self.delivery = Some(self.context.host.deliver(store, peer, entries));
            }
            Effect::PeerHello { clock_ms, count } => {
                self.context
                    .clock(clock::Input::Announced { peer, clock_ms });
                peers.store(peer, store, |s| s.peer_count = Some(count));
            }
            Effect::InSync { count, .. } => {
                self.store_fault = None;
                let mut news = false;
                peers.store(peer, store, |s| {
                    news = !s.in_sync;
                    s.in_sync = true;
                    s.compared_ms = Some(now_ms);
                    s.peer_count = Some(count);
                    s.peer_lacks = None;
                    s.node_lacks = None;
                    s.reason.clear();
                });
                if news {
                    self.context.host.event(NetEvent::InSync { store, peer });
                }
            }
            Effect::PeerLacks(lack) => {
                if lack.parked > 0 {
                    self.context.host.event(NetEvent::Parks { store, peer });
                }
                peers.store(peer, store, |s| {
                    s.in_sync = false;
                    s.compared_ms = Some(now_ms);
                    s.reason = format!("the peer lacks entries: {}", describe(&lack));
                    s.peer_lacks = Some(lack);
                });
            }
            Effect::WeLack(lack) => {
                let fault = self.store_fault.take();
                peers.store(peer, store, |s| {
                    s.in_sync = false;
                    s.compared_ms = Some(now_ms);
                    s.reason = fault
                        .unwrap_or_else(|| format!("this node lacks entries: {}", describe(&lack)));
                    s.node_lacks = Some(lack);
                });
            }
            Effect::Slow { ms, ref reason } => {
                self.read_after = Instant::now() + Duration::from_millis(ms);
                if let Some(kind) = effect.misbehaviour() {
                    self.context.misbehaved(peer, kind, reason);
                }
            }
            Effect::Again => self.again = true,
            Effect::WakeAt { ms } => {
                self.wake_at_ms = Some(self.wake_at_ms.map_or(ms, |at| at.min(ms)));
            }
            Effect::Close(reason) => self.close = Some(reason),
        }
    }

    /// Writes the last words, and says how the session ended.
    async fn farewell(&mut self, send: &mut SendStream) -> (iroh::endpoint::VarInt, SessionEnd) {
        let flush = async {
            while !self.out.is_empty() && write_some(send, &mut self.out).await.is_ok() {}
        };
        // A peer that does not read the last words in time loses only their text.
        let _ = tokio::time::timeout(FLUSH, flush).await;
        let Some(close) = self.close.take() else {
            return (code::BYE, SessionEnd::soon("ended"));
        };
        let misbehaviour = close.misbehaviour();
        let (stream_code, end) = match close {
            CloseReason::Peer(error) => {
                let reason = format!("the peer refuses: {}", error.text);
                let end = match error.code {
                    ErrorCode::Internal => SessionEnd::soon(reason),
                    _ => SessionEnd::later(reason),
                };
                (code::BYE, end)
            }
            CloseReason::Refused(error) => {
                let reason = format!("refused: {}", error.text);
                (code::BYE, SessionEnd::later(reason))
            }
            CloseReason::Faulty { reason } => (code::MISBEHAVIOUR, SessionEnd::later(reason)),
        };
        if let Some(kind) = misbehaviour {
            self.context.misbehaved(self.conn.peer, kind, &end.reason);
        }
        if stream_code == code::MISBEHAVIOUR {
            let reason = end.reason.as_bytes();
            self.conn.connection.close(code::MISBEHAVIOUR, reason);
        }
        (stream_code, end)
    }
}

/// Writes what the stream takes now of the first buffer.
async fn write_some(send: &mut SendStream, out: &mut VecDeque<Bytes>) -> Result<usize, String> {
    let Some(first) = out.front_mut() else {
        return Ok(0);
    };
    let len = send.write(first).await.map_err(|e| e.to_string())?;
    first.advance(len);
    if first.is_empty() {
        out.pop_front();
    }
    Ok(len)
}

fn describe(lack: &lattice_kernel::sync::Lack) -> String {
    format!(
        "{} floating, {} parked, {} withheld, {} missing",
        lack.floating,
        lack.parked,
        lack.withheld,
        lack.missing.len()
    )
}

/// An interval and up to a quarter more, so that sessions do not beat in time.
fn jitter(interval: Duration) -> Duration {
    interval.mul_f64(rand::Rng::random_range(&mut rand::rng(), 1.0..1.25))
}

//! The table of connections for sync: at most one with each peer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use iroh::endpoint::{Connection, VarInt};
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::sync::{Role, Standing};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::allowances::Allowances;
use crate::config::millis;
use crate::endpoint::{code, device_of};
use crate::limits::PEERS_MAX;

/// A connection with a peer.
pub(crate) struct Conn {
    pub(crate) connection: Connection,
    pub(crate) peer: DeviceKey,
    role: Role,
    pub(crate) since: Instant,
    pub(crate) allowances: Allowances,
}

impl Conn {
    /// A connection that this node dialled.
    pub(crate) fn dialled(connection: Connection) -> Self {
        Self::new(connection, Role::Dialer)
    }

    /// A connection that the peer dialled.
    pub(crate) fn accepted(connection: Connection) -> Self {
        Self::new(connection, Role::Listener)
    }

    fn new(connection: Connection, role: Role) -> Self {
        let now = Instant::now();
        Self {
            peer: device_of(connection.remote_id()),
            connection,
            role,
            since: now,
            allowances: Allowances::new(now),
        }
    }

    /// For how long it stands.
    pub(crate) fn stood_ms(&self) -> u64 {
        millis(self.since.elapsed())
    }

    fn standing(&self) -> Standing {
        Standing {
            role: self.role,
            stood_ms: self.stood_ms(),
        }
    }

    /// Whether this node dialled.
    pub(crate) fn is_ours(&self) -> bool {
        self.role == Role::Dialer
    }
}

/// What is kept of one peer while it is connected or dialled.
#[derive(Default)]
pub(crate) struct Link {
    conn: Option<Arc<Conn>>,
    /// Whether a task keeps this link up.
    pub(crate) kept: bool,
    pub(crate) wake: Arc<Notify>,
    /// Set when an address of the peer was learnt: the next dial does not wait for its pause.
    pub(crate) fresh: Arc<AtomicBool>,
    /// By store: when a session may be opened again, and how many attempts failed before.
    pub(crate) retry: HashMap<StoreId, (Instant, u32)>,
}

/// The links by peer. Bounded by [`PEERS_MAX`].
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<DeviceKey, Link>>);

impl Links {
    pub(crate) fn with<T>(
        &self,
        peer: &DeviceKey,
        change: impl FnOnce(&mut Link) -> T,
    ) -> Option<T> {
        let mut links = self.0.lock();
        if !links.contains_key(peer) && links.len() >= PEERS_MAX {
            return None;
        }
        Some(change(links.entry(*peer).or_default()))
    }

    pub(crate) fn existing<T>(
        &self,
        peer: &DeviceKey,
        change: impl FnOnce(&mut Link) -> T,
    ) -> Option<T> {
        let mut links = self.0.lock();
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
        let links = self.0.lock();
        links.values().filter_map(|l| l.conn.clone()).collect()
    }

    /// Makes the task that keeps the peer's link, if there is one, dial at once.
    pub(crate) fn address_learnt(&self, peer: &DeviceKey) {
        self.existing(peer, |link| {
            link.fresh.store(true, Ordering::Relaxed);
            link.wake.notify_one();
        });
    }

    /// Lets sessions with the peer be opened at once: of one store, or with `None` of all.
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

    /// Puts a new connection into the table in place of the old one, or closes the new one when the old one stays.
    pub(crate) fn adopt(&self, me: &DeviceKey, conn: Conn) -> Option<Arc<Conn>> {
        let conn = Arc::new(conn);
        let kept = self.with(&conn.peer, |link| {
            if let Some(old) = &link.conn {
                let lost = old.connection.close_reason().is_some();
                if !lost && old.standing().stays(conn.role, me, &conn.peer) {
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

    /// Forgets a connection that ended. Returns whether it was the one in use.
    pub(crate) fn ended(&self, conn: &Conn) -> bool {
        let mut links = self.0.lock();
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

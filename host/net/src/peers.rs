//! What this node knows of its peers: where they are, and how far each is in which store.

use std::collections::HashMap;
use std::net::SocketAddr;

use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::clock::{Clocks, Effect, Input, Medians, Reading};
use lattice_kernel::sync::Lack;
use parking_lot::Mutex;

use crate::limits::{ADDRESSES_PER_PEER, PEERS_MAX};

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub peer: DeviceKey,
    /// Where it was reached, or may be; the newest first.
    pub addresses: Vec<SocketAddr>,
    /// Whether a connection for sync stands.
    pub connected: bool,
    /// When it was last heard of, in milliseconds since the Unix epoch; `None` for never.
    pub last_seen_ms: Option<u64>,
    /// The round trip, in microseconds; `None` when it is not connected.
    pub round_trip_us: Option<u64>,
    /// Its clock minus this node's, in milliseconds, as of its last Hello.
    pub clock_lead_ms: Option<i64>,
    /// The stores that both have, or had, sorted.
    pub stores: Vec<PeerStoreStatus>,
    /// Why it is not connected, or slowed; empty when all is well.
    pub reason: String,
}

/// How far a peer and this node are apart in one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStoreStatus {
    /// The store.
    pub store: StoreId,
    /// Whether a session runs.
    pub live: bool,
    /// Whether both held the same entries when they were last compared.
    pub in_sync: bool,
    /// When both were last compared, in milliseconds since the Unix epoch.
    pub compared_ms: Option<u64>,
    /// What the peer lacks of this node's entries.
    pub peer_lacks: Option<Lack>,
    /// What this node lacks of the peer's entries.
    pub node_lacks: Option<Lack>,
    /// How many entries the peer holds, by its last word.
    pub peer_count: Option<u64>,
    /// Why they differ, or no session runs; empty when they are equal.
    pub reason: String,
}

impl PeerStoreStatus {
    fn new(store: StoreId) -> Self {
        Self {
            store,
            live: false,
            in_sync: false,
            compared_ms: None,
            peer_lacks: None,
            node_lacks: None,
            peer_count: None,
            reason: String::new(),
        }
    }
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A connection of this node, its own disk, or its owner.
    Seen,
    /// Another member.
    Told,
}

/// Who asks for a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowFor {
    /// A peer that shares a store with this node, or that its owner named.
    Known,
    /// Whoever has connected.
    Anyone,
}

#[derive(Debug, Default)]
struct Row {
    /// Whether the peer shares a store with this node, or its owner named it.
    known: bool,
    addresses: Vec<SocketAddr>,
    connected: bool,
    last_seen_ms: Option<u64>,
    stores: HashMap<StoreId, PeerStoreStatus>,
    reason: String,
}

/// The table of peers. Bounded by [`PEERS_MAX`]. The row of a stranger gives way first, and takes no place of a peer
/// that is known, with its addresses.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    rows: Mutex<HashMap<DeviceKey, Row>>,
    clocks: Mutex<Clocks>,
}

impl Peers {
    fn with<T>(
        &self,
        peer: DeviceKey,
        row_for: RowFor,
        change: impl FnOnce(&mut Row) -> T,
    ) -> Option<T> {
        let mut rows = self.rows.lock();
        if !rows.contains_key(&peer) && rows.len() >= PEERS_MAX {
            let idle = rows
                .iter()
                .filter(|(_, row)| !row.connected && (row_for == RowFor::Known || !row.known))
                .min_by_key(|(_, row)| (row.known, row.last_seen_ms))
                .map(|(key, _)| *key)?;
            rows.remove(&idle);
        }
        let row = rows.entry(peer).or_default();
        row.known |= row_for == RowFor::Known;
        Some(change(row))
    }

    /// Adds addresses of a peer that shares a store with this node, or that its owner named. Returns all that are known,
    /// if that changed.
    ///
    /// What this node has seen itself comes first and pushes the oldest out; what others tell only
    /// fills the places left, so that hearsay never circles.
    pub(crate) fn learn(
        &self,
        peer: DeviceKey,
        addresses: &[SocketAddr],
        source: Source,
    ) -> Option<Vec<SocketAddr>> {
        self.with(peer, RowFor::Known, |row| {
            let mut merged = Vec::with_capacity(ADDRESSES_PER_PEER);
            let (first, then) = match source {
                Source::Seen => (addresses, &row.addresses[..]),
                Source::Told => (&row.addresses[..], addresses),
            };
            for address in first.iter().chain(then) {
                if merged.len() < ADDRESSES_PER_PEER && !merged.contains(address) {
                    merged.push(*address);
                }
            }
            let known = merged.iter().all(|a| row.addresses.contains(a));
            row.addresses = merged;
            (!known).then(|| row.addresses.clone())
        })
        .flatten()
    }

    /// The addresses of a peer, the newest first.
    pub(crate) fn addresses(&self, peer: &DeviceKey) -> Vec<SocketAddr> {
        let rows = self.rows.lock();
        rows.get(peer)
            .map_or_else(Vec::new, |r| r.addresses.clone())
    }

    /// Whether a peer shares a store with this node, or its owner named it.
    pub(crate) fn is_known(&self, peer: &DeviceKey) -> bool {
        self.rows.lock().get(peer).is_some_and(|row| row.known)
    }

    /// Whether any of these peers has such an address.
    pub(crate) fn known_at(&self, is_there: impl Fn(&SocketAddr) -> bool) -> bool {
        let rows = self.rows.lock();
        let mut known = rows.values().filter(|row| row.known);
        known.any(|row| row.addresses.iter().any(&is_there))
    }

    /// Notes that a connection stands.
    pub(crate) fn up(&self, peer: DeviceKey, now_ms: u64) {
        self.with(peer, RowFor::Anyone, |row| {
            row.connected = true;
            row.last_seen_ms = Some(now_ms);
            row.reason.clear();
        });
    }

    /// Notes that no connection stands, and why.
    pub(crate) fn down(&self, peer: DeviceKey, reason: &str) {
        self.with(peer, RowFor::Anyone, |row| {
            row.connected = false;
            row.reason = reason.to_owned();
            for store in row.stores.values_mut() {
                store.live = false;
                store.in_sync = false;
            }
        });
    }

    /// Notes that bytes came from the peer.
    pub(crate) fn seen(&self, peer: DeviceKey, now_ms: u64) {
        self.with(peer, RowFor::Anyone, |row| row.last_seen_ms = Some(now_ms));
    }

    /// Takes what happened to the clocks of this node and its peers.
    pub(crate) fn clock(&self, input: Input, now: Reading) -> Option<Effect> {
        self.clocks.lock().handle(input, now)
    }

    /// The number of changes of clocks so far.
    pub(crate) fn clock_version(&self) -> u64 {
        self.clocks.lock().version()
    }

    /// The medians of the clocks of the peers that `counts` admits.
    pub(crate) fn medians(&self, counts: impl Fn(&DeviceKey) -> bool) -> Medians {
        self.clocks.lock().medians(counts)
    }

    /// Changes what is known of the peer in one store.
    pub(crate) fn store(
        &self,
        peer: DeviceKey,
        store: StoreId,
        change: impl FnOnce(&mut PeerStoreStatus),
    ) {
        self.with(peer, RowFor::Known, |row| {
            change(
                row.stores
                    .entry(store)
                    .or_insert_with(|| PeerStoreStatus::new(store)),
            );
        });
    }

    /// Every peer, sorted by key. The caller fills in `round_trip_us`.
    pub(crate) fn list(&self, now: Reading) -> Vec<PeerStatus> {
        let rows = self.rows.lock();
        let clocks = self.clocks.lock();
        let mut list: Vec<PeerStatus> = rows
            .iter()
            .map(|(peer, row)| {
                let mut stores: Vec<_> = row.stores.values().cloned().collect();
                stores.sort_by_key(|s| s.store);
                PeerStatus {
                    peer: *peer,
                    addresses: row.addresses.clone(),
                    connected: row.connected,
                    last_seen_ms: row.last_seen_ms,
                    round_trip_us: None,
                    clock_lead_ms: clocks.lead_ms(peer, now),
                    stores,
                    reason: row.reason.clone(),
                }
            })
            .collect();
        list.sort_by_key(|p| p.peer);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> DeviceKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        DeviceKey(key)
    }

    #[test]
    fn the_newest_addresses_stay() {
        let peers = Peers::default();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        for port in 0..20 {
            assert!(
                peers
                    .learn(key(1), &[address(port)], Source::Seen)
                    .is_some()
            );
        }
        assert_eq!(peers.learn(key(1), &[address(15)], Source::Seen), None);
        let told = peers.learn(key(1), &[address(99)], Source::Told);
        assert_eq!(told, None, "hearsay pushes nothing out");
        let known = peers.addresses(&key(1));
        assert_eq!(known.len(), ADDRESSES_PER_PEER);
        assert_eq!(known[..2], [address(15), address(19)]);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_is_connected() {
        let peers = Peers::default();
        peers.up(key(0), 1);
        for n in 1..PEERS_MAX as u32 + 100 {
            peers.seen(key(n), u64::from(n) + 1);
        }
        let now = Reading {
            wall_ms: 0,
            elapsed_ms: 0,
        };
        let list = peers.list(now);
        assert_eq!(list.len(), PEERS_MAX);
        assert!(list[0].connected && list[0].peer == key(0));
    }

    #[test]
    fn strangers_take_no_row_of_a_member_and_members_take_theirs() {
        let address = [SocketAddr::from(([127, 0, 0, 1], 7))];
        let now = Reading {
            wall_ms: 0,
            elapsed_ms: 0,
        };
        for members in [1, 100, PEERS_MAX as u32] {
            let peers = Peers::default();
            for n in 0..members {
                peers.learn(key(n), &address, Source::Told);
            }
            // Each stranger is met, and leaves again.
            for n in 0..PEERS_MAX as u32 + 100 {
                peers.up(key(1_000_000 + n), u64::from(n));
                peers.down(key(1_000_000 + n), "no store in common");
            }
            assert!(peers.list(now).len() <= PEERS_MAX);
            assert!((0..members).all(|n| peers.addresses(&key(n)) == address));
            // A further member takes the row of a stranger, if there is one.
            peers.learn(key(500_000), &address, Source::Seen);
            let kept = (0..members).filter(|n| !peers.addresses(&key(*n)).is_empty());
            let all = PEERS_MAX as u32;
            assert_eq!(kept.count() as u32, members - u32::from(members == all));
            assert_eq!(peers.addresses(&key(500_000)), address);
            assert!(peers.list(now).len() <= PEERS_MAX);
        }
    }
}

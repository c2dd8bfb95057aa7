//! Shares of a bounded room, and whose entry gives way when the room is full.
//!
//! Each peer has a bound of its own, and all peers together have one. At the bound of all, whoever holds most gives
//! way, and not whoever comes last: a peer that floods the room loses what it put there as soon as others need the
//! place, and a peer that holds little always finds some.

use std::collections::BTreeMap;

use lattice_format::DeviceKey;

/// A number of entries and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

impl Held {
    fn with(self, bytes: usize) -> Self {
        Self {
            entries: self.entries + 1,
            bytes: self.bytes + bytes,
        }
    }

    fn without(self, bytes: usize) -> Self {
        Self {
            entries: self.entries - 1,
            bytes: self.bytes - bytes,
        }
    }

    fn exceeds(self, max: Self) -> bool {
        self.entries > max.entries || self.bytes > max.bytes
    }
}

/// How much each peer holds of one room.
#[derive(Debug)]
pub(crate) struct Shares {
    peer_max: Held,
    all_max: Held,
    by_peer: BTreeMap<DeviceKey, Held>,
    all: Held,
}

impl Shares {
    /// An empty room, with the most that one peer and all peers may hold.
    pub(crate) fn new(peer_max: Held, all_max: Held) -> Self {
        Self {
            peer_max,
            all_max,
            by_peer: BTreeMap::new(),
            all: Held::default(),
        }
    }

    /// The peer of which an entry must give way, so that an entry of `bytes` from `from` fits; `None` if the entry
    /// fits now. The answer `from` means that the new entry is among those that may give way.
    pub(crate) fn gives_way(&self, from: DeviceKey, bytes: usize) -> Option<DeviceKey> {
        let own = self.of(&from).with(bytes);
        if own.exceeds(self.peer_max) {
            return Some(from);
        }
        let all = self.all.with(bytes);
        let measure: fn(Held) -> usize = match all {
            _ if all.entries > self.all_max.entries => |held| held.entries,
            _ if all.bytes > self.all_max.bytes => |held| held.bytes,
            _ => return None,
        };
        let others = self.by_peer.iter().filter(|(peer, _)| **peer != from);
        let most = others.max_by_key(|(_, held)| measure(**held));
        // Of equal holders the one that wants more gives way, else two of them would evict each other for ever.
        let more = most.filter(|(_, held)| measure(**held) > measure(own));
        Some(more.map_or(from, |(peer, _)| *peer))
    }

    /// What all peers hold.
    pub(crate) fn all(&self) -> Held {
        self.all
    }

    fn of(&self, peer: &DeviceKey) -> Held {
        self.by_peer.get(peer).copied().unwrap_or_default()
    }

    /// Notes an entry that was put into the room.
    pub(crate) fn add(&mut self, from: DeviceKey, bytes: usize) {
        let held = self.by_peer.entry(from).or_default();
        *held = held.with(bytes);
        self.all = self.all.with(bytes);
    }

    /// Notes an entry that has left the room.
    ///
    /// # Panics
    /// When the peer holds no such entry.
    pub(crate) fn remove(&mut self, from: &DeviceKey, bytes: usize) {
        let held = self.by_peer.get_mut(from).expect("an entry is in the room");
        *held = held.without(bytes);
        if held.entries == 0 {
            self.by_peer.remove(from);
        }
        self.all = self.all.without(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: DeviceKey = DeviceKey([1; 32]);
    const TWO: DeviceKey = DeviceKey([2; 32]);
    const THREE: DeviceKey = DeviceKey([3; 32]);

    fn shares() -> Shares {
        let peer = Held {
            entries: 10,
            bytes: 1_000,
        };
        let all = Held {
            entries: 15,
            bytes: 1_500,
        };
        Shares::new(peer, all)
    }

    #[test]
    fn a_peer_gives_way_to_itself_beyond_its_own_bound() {
        let mut shares = shares();
        for _ in 0..9 {
            shares.add(ONE, 1);
        }
        assert_eq!(shares.gives_way(ONE, 991), None);
        assert_eq!(shares.gives_way(ONE, 992), Some(ONE));
        shares.add(ONE, 991);
        assert_eq!(shares.gives_way(ONE, 0), Some(ONE));
        assert_eq!(shares.gives_way(TWO, 500), None);
        shares.remove(&ONE, 991);
        assert_eq!(shares.gives_way(ONE, 991), None);
    }

    #[test]
    fn who_holds_most_gives_way_to_who_holds_less() {
        for each in [1, 100] {
            let mut shares = shares();
            for _ in 0..10 {
                shares.add(ONE, each);
            }
            for _ in 0..5 {
                assert_eq!(shares.gives_way(TWO, each), None);
                shares.add(TWO, each);
            }
            // The flooding peer loses entries until both hold as much.
            for _ in 0..2 {
                assert_eq!(shares.gives_way(TWO, each), Some(ONE));
                shares.remove(&ONE, each);
                assert_eq!(shares.gives_way(TWO, each), None);
                shares.add(TWO, each);
            }
            assert_eq!(
                shares.gives_way(TWO, each),
                Some(TWO),
                "as much as the other"
            );
            assert_eq!(shares.gives_way(ONE, each), Some(ONE));
            assert_eq!(shares.gives_way(THREE, each), Some(ONE));
        }
    }

    #[test]
    fn a_large_entry_counts_with_its_bytes() {
        let mut shares = shares();
        shares.add(ONE, 900);
        shares.add(TWO, 500);
        // With it the newcomer would hold more than the others.
        assert_eq!(shares.gives_way(THREE, 901), Some(THREE));
        assert_eq!(shares.gives_way(THREE, 899), Some(ONE));
        assert_eq!(shares.gives_way(THREE, 100), None);
        assert_eq!(shares.gives_way(THREE, 101), Some(ONE));
    }
}

//! One store on the network: its members, whom it trusts, and its queue of announcements.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lattice_format::{DeviceKey, IntentionId, StoreId};
use lattice_kernel::clock::Medians;
use lattice_kernel::sync::Access;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::host::Governance;
use crate::limits::{ANNOUNCE_MAX, PEERS_MAX};
use crate::peers::Peers;
use crate::sessions::Sessions;

/// One store on the network.
pub(crate) struct StoreNet {
    pub(crate) id: StoreId,
    /// Rises with each change that sessions must look at: a grown log, other members.
    pub(crate) changed: watch::Sender<u64>,
    /// What the gossip task of this store is to do.
    pub(crate) gossip: mpsc::Sender<TopicCommand>,
    /// Set when the queue had no room for an announcement: peers are then told to compare.
    pub(crate) overflowed: AtomicBool,
    governance: Mutex<Option<Arc<Governance>>>,
    /// Peers that a token named, or that served the join, until governance is known here.
    trusted: Mutex<HashSet<DeviceKey>>,
    pub(crate) sessions: Arc<Sessions>,
    /// The medians of the members' clocks, and the change of clocks that they were counted at.
    medians: Mutex<Option<(u64, Medians)>>,
}

/// What other tasks tell the gossip task of a store.
#[derive(Debug)]
pub(crate) enum TopicCommand {
    /// This node wrote that entry.
    Announce(IntentionId),
    /// A member is connected and may be a neighbour.
    Peer(DeviceKey),
    /// The members or the salt may have changed.
    Look,
}

impl StoreNet {
    /// A store without sessions, and the queue of its gossip task.
    pub(crate) fn new(id: StoreId) -> (Arc<Self>, mpsc::Receiver<TopicCommand>) {
        let (gossip, commands) = mpsc::channel(ANNOUNCE_MAX);
        let store = Self {
            id,
            changed: watch::Sender::new(0),
            gossip,
            overflowed: AtomicBool::new(false),
            governance: Mutex::default(),
            trusted: Mutex::default(),
            sessions: Arc::default(),
            medians: Mutex::default(),
        };
        (Arc::new(store), commands)
    }

    /// Lets gossip announce what this node wrote. What does not fit is not announced: peers are told to
    /// compare instead.
    pub(crate) fn announce(&self, written: &[IntentionId]) {
        for id in written {
            if self.gossip.try_send(TopicCommand::Announce(*id)).is_err() {
                self.overflowed.store(true, Ordering::Relaxed);
                break;
            }
        }
    }

    /// Lets a joiner talk to these before it knows the members.
    pub(crate) fn trust(&self, peers: impl IntoIterator<Item = DeviceKey>) {
        let mut trusted = self.trusted.lock();
        for peer in peers {
            if trusted.len() < PEERS_MAX {
                trusted.insert(peer);
            }
        }
        drop(trusted);
        *self.medians.lock() = None;
    }

    /// The medians of the clocks of this store's active members. Until the members are known, those that serve the
    /// join count.
    pub(crate) fn medians(&self, peers: &Peers) -> Medians {
        let mut kept = self.medians.lock();
        // Before the count, so that a change meanwhile makes it count again.
        let version = peers.clock_version();
        if let Some((at, medians)) = *kept
            && at == version
        {
            return medians;
        }
        let governance = self.governance();
        let medians = peers.medians(|peer| match &governance {
            Some(governance) => governance.access(peer) == Access::All,
            None => self.is_trusted(peer),
        });
        *kept = Some((version, medians));
        medians
    }

    /// The members, as last read.
    pub(crate) fn governance(&self) -> Option<Arc<Governance>> {
        let governance = self.governance.lock();
        governance.clone()
    }

    /// Replaces the members; whether that was a change.
    pub(crate) fn set_governance(&self, new: Option<Arc<Governance>>) -> bool {
        let mut governance = self.governance.lock();
        let same = match (&*governance, &new) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.is_same(b),
            _ => false,
        };
        *governance = new;
        drop(governance);
        if !same {
            *self.medians.lock() = None;
        }
        !same
    }

    /// What the peer may have of this store.
    pub(crate) fn access(&self, peer: &DeviceKey) -> Access {
        let known = self.governance().map_or(Access::None, |g| g.access(peer));
        if known == Access::None && self.is_trusted(peer) {
            // A joiner has nothing that these lack, but must not refuse those who serve it.
            return Access::SystemLane;
        }
        known
    }

    fn is_trusted(&self, peer: &DeviceKey) -> bool {
        let trusted = self.trusted.lock();
        trusted.contains(peer)
    }

    /// Everyone to keep in touch with: present and past members, and those that are trusted.
    pub(crate) fn acquaintances(&self) -> Vec<DeviceKey> {
        let mut peers: Vec<DeviceKey> = self
            .governance()
            .map(|g| g.members().map(|m| m.device).collect())
            .unwrap_or_default();
        let trusted = self.trusted.lock();
        peers.extend(trusted.iter().copied());
        peers
    }

    /// Whether this node must be quick to reach the peer: an active member, or one that it joins by.
    pub(crate) fn is_close(&self, peer: &DeviceKey) -> bool {
        self.access(peer) == Access::All || self.is_trusted(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_members_alone_judge_the_clock_of_a_store() {
        use lattice_kernel::clock::{Input, Reading, Standing, Terms, Verdict};
        use lattice_kernel::run::engine::{Member, MemberStatus, Role};
        const YEAR_MS: u64 = 365 * 86_400_000;
        const NOW: Reading = Reading {
            wall_ms: 1_800_000_000_000,
            elapsed_ms: 9,
        };
        let (store, _queue) = StoreNet::new(StoreId([0; 32]));
        let peers = Peers::default();
        let key = |n: u8| DeviceKey([n; 32]);
        for n in 1..=5 {
            peers.clock(Input::Connected(key(n)), NOW);
            let clock_ms = NOW.wall_ms + if n > 1 { YEAR_MS } else { 0 };
            let peer = key(n);
            peers.clock(Input::Announced { peer, clock_ms }, NOW);
        }
        let standing = || {
            let terms = Terms {
                drift_ms: 60_000,
                genesis_ms: 0,
                trusted: false,
            };
            Verdict::of(NOW, &store.medians(&peers), terms).standing
        };
        assert_eq!(standing(), Standing::Alone, "strangers say nothing");
        let governance = |revoked: bool| {
            let member = |n: u8| Member {
                device: key(n),
                name: String::new(),
                role: Role::Writer,
                rank: vec![n],
                status: match n > 1 && revoked {
                    true => MemberStatus::Revoked,
                    false => MemberStatus::Active,
                },
            };
            let members = (1..=3).map(member).collect();
            Some(Arc::new(Governance::of(members, Vec::new())))
        };
        store.set_governance(governance(false));
        let by_ms = YEAR_MS;
        assert_eq!(
            standing(),
            Standing::Behind { by_ms },
            "most of them say so"
        );
        store.set_governance(governance(true));
        assert_eq!(standing(), Standing::Agrees, "of whom two were revoked");
    }

    #[test]
    fn so_many_ids_wait_to_be_announced_and_beyond_them_peers_are_to_compare() {
        let (store, mut queue) = StoreNet::new(StoreId([0; 32]));
        let ids = vec![IntentionId([7; 32]); ANNOUNCE_MAX];
        store.announce(&ids);
        assert!(!store.overflowed.load(Ordering::Relaxed));
        store.announce(&ids[..1]);
        assert!(store.overflowed.load(Ordering::Relaxed));
        for _ in 0..ANNOUNCE_MAX {
            queue.try_recv().unwrap();
        }
        assert!(queue.try_recv().is_err());
    }
}

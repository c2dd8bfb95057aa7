//! The sessions of one store: at most one with each peer, and what other tasks tell them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use lattice_format::{DeviceKey, IntentionId};
use lattice_kernel::sync::{Role, may_begin};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::config::millis;
use crate::limits::SESSIONS_PER_STORE;

/// The sessions of one store, by peer.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<DeviceKey, SessionEntry>>);

/// What another task tells a session.
#[derive(Debug)]
pub(crate) enum Poke {
    /// Gossip announced these.
    Announced(Vec<IntentionId>),
    /// Compare now.
    Reconcile,
}

#[derive(Debug)]
struct SessionEntry {
    /// Tells this session from the one that takes its place.
    number: u64,
    role: Role,
    /// The peer has answered on its stream.
    answered: Arc<AtomicBool>,
    since: Instant,
    /// Its first round has ended: both sides have compared once.
    compared: Arc<AtomicBool>,
    poke: mpsc::Sender<Poke>,
}

/// A session's place in the table; leaving it frees the place.
pub(crate) struct SessionPlace {
    sessions: Arc<Sessions>,
    peer: DeviceKey,
    number: u64,
    answered: Arc<AtomicBool>,
    compared: Arc<AtomicBool>,
    /// Ends (with `None`) when another session takes the place.
    pub(crate) pokes: mpsc::Receiver<Poke>,
}

impl SessionPlace {
    /// The peer has answered on this session's stream.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The first round has ended: others may begin theirs.
    pub(crate) fn compared(&self) {
        self.compared.store(true, Ordering::Relaxed);
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let mut sessions = self.sessions.0.lock();
        if sessions
            .get(&self.peer)
            .is_some_and(|e| e.number == self.number)
        {
            sessions.remove(&self.peer);
        }
    }
}

/// Why a session got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// There is one that both sides keep.
    Duplicate,
    /// The store has as many as it takes.
    Full,
}

impl Sessions {
    /// Takes the place of the session with `peer`, unless another keeps it.
    ///
    /// When both sides open a stream at the same time, both keep the one that the smaller key opened.
    /// A stream that the peer opens after it has answered on the first means that it lost the first.
    pub(crate) fn enter(
        self: &Arc<Self>,
        me: &DeviceKey,
        peer: DeviceKey,
        role: Role,
    ) -> Result<SessionPlace, NoPlace> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut sessions = self.0.lock();
        match sessions.get(&peer) {
            Some(_) if role == Role::Dialer => return Err(NoPlace::Duplicate),
            Some(old)
                if old.role == Role::Dialer
                    && !old.answered.load(Ordering::Relaxed)
                    && *me < peer =>
            {
                return Err(NoPlace::Duplicate);
            }
            None if sessions.len() >= SESSIONS_PER_STORE => return Err(NoPlace::Full),
            _ => {}
        }
        let (poke, pokes) = mpsc::channel(64);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let answered = Arc::new(AtomicBool::new(false));
        let compared = Arc::new(AtomicBool::new(false));
        sessions.insert(
            peer,
            SessionEntry {
                number,
                role,
                answered: answered.clone(),
                since: Instant::now(),
                compared: compared.clone(),
                poke,
            },
        );
        Ok(SessionPlace {
            sessions: self.clone(),
            peer,
            number,
            answered,
            compared,
            pokes,
        })
    }

    /// Whether so many sessions that this node opened are in their first round that it opens no further one now.
    pub(crate) fn is_comparing(&self) -> bool {
        let sessions = self.0.lock();
        let first = sessions
            .values()
            .filter(|entry| entry.role == Role::Dialer && !entry.compared.load(Ordering::Relaxed));
        !may_begin(first.map(|entry| millis(entry.since.elapsed())))
    }

    /// Whether a session with the peer runs.
    pub(crate) fn contains(&self, peer: &DeviceKey) -> bool {
        let sessions = self.0.lock();
        sessions.contains_key(peer)
    }

    /// The peers that a session runs with.
    pub(crate) fn peers(&self) -> Vec<DeviceKey> {
        let sessions = self.0.lock();
        sessions.keys().copied().collect()
    }

    /// Tells one session; `false` when none runs or it has too much to do already.
    pub(crate) fn poke(&self, peer: &DeviceKey, poke: Poke) -> bool {
        let sessions = self.0.lock();
        sessions
            .get(peer)
            .is_some_and(|entry| entry.poke.try_send(poke).is_ok())
    }

    /// Tells every session to compare.
    pub(crate) fn reconcile(&self) {
        let sessions = self.0.lock();
        for entry in sessions.values() {
            // A full queue holds a wish to compare already, or announcements that lead to it.
            let _ = entry.poke.try_send(Poke::Reconcile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FIRST_ROUNDS_MAX;

    #[test]
    fn when_both_open_a_session_both_keep_the_same() {
        let (small, large) = (DeviceKey([1; 32]), DeviceKey([2; 32]));
        // The smaller key keeps its own and refuses the other's.
        let sessions = Arc::new(Sessions::default());
        let mine = sessions.enter(&small, large, Role::Dialer).unwrap();
        assert!(matches!(
            sessions.enter(&small, large, Role::Listener),
            Err(NoPlace::Duplicate)
        ));
        // Once the peer has answered, a new stream of its replaces the old one.
        mine.answered();
        let theirs = sessions.enter(&small, large, Role::Listener).unwrap();
        drop(mine);
        assert!(
            sessions.contains(&large),
            "leaving late frees nobody else's place"
        );
        drop(theirs);
        assert!(!sessions.contains(&large));
        // The larger key gives its own up.
        let sessions = Arc::new(Sessions::default());
        let mut mine = sessions.enter(&large, small, Role::Dialer).unwrap();
        let _theirs = sessions.enter(&large, small, Role::Listener).unwrap();
        assert!(
            mine.pokes
                .try_recv()
                .is_err_and(|e| e == mpsc::error::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn a_store_has_so_many_sessions() {
        let sessions = Arc::new(Sessions::default());
        let peer = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            DeviceKey(key)
        };
        let me = peer(usize::MAX);
        let enter = |n| sessions.enter(&me, peer(n), Role::Listener);
        let mut places: Vec<_> = (0..SESSIONS_PER_STORE).map(enter).collect();
        assert!(places.iter().all(Result::is_ok));
        assert!(matches!(enter(SESSIONS_PER_STORE), Err(NoPlace::Full)));
        // Who has a place may take it anew, and one that leaves makes room.
        assert!(enter(0).is_ok());
        places.pop();
        assert!(enter(SESSIONS_PER_STORE).is_ok());
    }

    #[test]
    fn few_sessions_are_in_their_first_round_at_once() {
        let sessions = Arc::new(Sessions::default());
        let me = DeviceKey([0; 32]);
        let places: Vec<_> = (1..=FIRST_ROUNDS_MAX as u8)
            .map(|n| {
                assert!(!sessions.is_comparing());
                sessions
                    .enter(&me, DeviceKey([n; 32]), Role::Dialer)
                    .unwrap()
            })
            .collect();
        assert!(sessions.is_comparing());
        places[0].compared();
        assert!(!sessions.is_comparing(), "its round has ended");
        let _theirs = sessions
            .enter(&me, DeviceKey([200; 32]), Role::Listener)
            .unwrap();
        assert!(!sessions.is_comparing(), "another one opened it");
        let other = sessions
            .enter(&me, DeviceKey([100; 32]), Role::Dialer)
            .unwrap();
        assert!(sessions.is_comparing());
        drop(other);
        assert!(!sessions.is_comparing(), "who has left compares no more");
    }
}

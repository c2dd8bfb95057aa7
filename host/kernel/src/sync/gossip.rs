//! What a node says on a store's gossip topic, and what it does with what it hears there, as a value.
//!
//! Gossip announces, reconciliation delivers. A lost or late message costs time, never an entry: whatever was
//! missed, overflowed or lagged makes the sessions compare. The shell runs the gossip protocol itself and
//! carries out what [`Gossip`] says.

use bytes::Bytes;
use lattice_format::{DeviceKey, IntentionId, StoreId};
use prost::Message;

use super::limits::{
    GOSSIP_COLLECT_MS, GOSSIP_COMPARE_MS, GOSSIP_IDS_MAX, GOSSIP_MESSAGES_PER_SECOND,
    GOSSIP_SOURCES_MAX,
};
use super::peer::{Access, Governance};
use super::wire;
use crate::Snapshot;

const TOPIC_CONTEXT: &str = "lattice 2026-11 gossip topic 1";

/// The topic of a store: unguessable for who does not know the salt in its governance.
pub fn topic(store: &StoreId, salt: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(TOPIC_CONTEXT);
    hasher.update(&store.0);
    hasher.update(salt);
    *hasher.finalize().as_bytes()
}

/// Which entries there are, told to all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The entries.
    pub ids: Vec<IntentionId>,
    /// Who wrote them.
    pub author: DeviceKey,
    /// There is more than is listed: compare.
    pub more: bool,
}

impl Announcement {
    /// The bytes to broadcast.
    pub fn encode(&self) -> Bytes {
        wire::Announcement {
            ids: self.ids.iter().flat_map(|id| id.0).collect(),
            author: self.author.0.to_vec(),
            more: self.more,
        }
        .encode_to_vec()
        .into()
    }

    /// Reads what was broadcast; `None` if it is no announcement or announces too much.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let message = wire::Announcement::decode(bytes).ok()?;
        let (ids, rest) = message.ids.as_chunks::<32>();
        if !rest.is_empty() || ids.len() > GOSSIP_IDS_MAX {
            return None;
        }
        Some(Self {
            ids: ids.iter().map(|id| IntentionId(*id)).collect(),
            author: DeviceKey::from_slice(&message.author)?,
            more: message.more,
        })
    }
}

/// Where a node is to be after a look at the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// On no topic: it is no active member (any more), or does not know.
    Leave,
    /// On this topic and no other, to begin with as a neighbour of these peers.
    Join {
        /// The topic.
        topic: [u8; 32],
        /// Members that are connected.
        peers: Vec<DeviceKey>,
    },
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What sessions are to be told.
    pub announced: Option<Announced>,
    /// Every session is to compare.
    pub compare: bool,
}

/// Entries that are not here and whom to ask for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The entries.
    pub ids: Vec<IntentionId>,
    /// Who wrote them, and who passed the announcement on.
    pub sources: Vec<DeviceKey>,
}

impl Announced {
    /// Tells the sessions with the sources; if there are none, some of the sessions that there are. `tell` says
    /// whether a session was told.
    pub fn tell(
        &self,
        sessions: impl IntoIterator<Item = DeviceKey>,
        mut tell: impl FnMut(&DeviceKey) -> bool,
    ) {
        let told = self.sources.iter().filter(|peer| tell(peer)).count();
        if told == 0 {
            for peer in sessions.into_iter().take(GOSSIP_SOURCES_MAX) {
                tell(&peer);
            }
        }
    }
}

/// One store on gossip: which topic it is on, what it is about to announce, what it has heard lately.
#[derive(Clone, Debug)]
pub struct Gossip {
    store: StoreId,
    me: DeviceKey,
    topic: Option<[u8; 32]>,
    waiting: Vec<IntentionId>,
    /// When the first of those came.
    since_ms: u64,
    more: bool,
    compared_ms: u64,
    /// The second in which messages are counted, and how many there were.
    second: (u64, u64),
}

impl Gossip {
    /// A store that is on no topic yet.
    pub fn new(store: StoreId, me: DeviceKey) -> Self {
        Self {
            store,
            me,
            topic: None,
            waiting: Vec::new(),
            since_ms: 0,
            more: false,
            compared_ms: 0,
            second: (0, 0),
        }
    }

    /// The topic that it is on.
    pub fn topic(&self) -> Option<[u8; 32]> {
        self.topic
    }

    /// Looks at the members and the salt, as last read: only active members are on the topic, and each salt has
    /// its own. `None` when it may stay where it is.
    pub fn look(
        &mut self,
        governance: Option<&Governance>,
        connected: impl IntoIterator<Item = DeviceKey>,
        now_ms: u64,
    ) -> Option<Move> {
        let governance = governance.filter(|g| g.access(&self.me) == Access::All);
        let wanted = governance.map(|g| topic(&self.store, &g.topic_salt));
        if wanted == self.topic {
            return None;
        }
        self.topic = wanted;
        self.compared_ms = now_ms;
        let (Some(topic), Some(governance)) = (wanted, governance) else {
            // Whoever is no member announces nothing.
            self.waiting.clear();
            return Some(Move::Leave);
        };
        let member = |peer: &DeviceKey| governance.access(peer) == Access::All;
        let peers = connected.into_iter().filter(member).collect();
        Some(Move::Join { topic, peers })
    }

    /// The topic is not followed any more, or messages were lost: the next look joins it again.
    pub fn lost(&mut self) {
        self.topic = None;
    }

    /// This node wrote an entry.
    pub fn wrote(&mut self, id: IntentionId, now_ms: u64) {
        if self.topic.is_none() {
            return;
        }
        if self.waiting.is_empty() {
            self.since_ms = now_ms;
        }
        self.waiting.push(id);
    }

    /// It wrote more than can be announced one by one.
    pub fn overflowed(&mut self) {
        self.more = true;
    }

    /// When [`Gossip::take`] has something: entries that come within a moment are announced together.
    pub fn due_ms(&self) -> Option<u64> {
        match self.waiting.len() {
            0 => None,
            len if len >= GOSSIP_IDS_MAX => Some(self.since_ms),
            _ => Some(self.since_ms + GOSSIP_COLLECT_MS),
        }
    }

    /// What to broadcast now.
    pub fn take(&mut self, now_ms: u64) -> Option<Announcement> {
        if self.topic.is_none() || self.due_ms().is_none_or(|due| due > now_ms) {
            return None;
        }
        let rest = self
            .waiting
            .split_off(self.waiting.len().min(GOSSIP_IDS_MAX));
        Some(Announcement {
            ids: std::mem::replace(&mut self.waiting, rest),
            author: self.me,
            more: std::mem::take(&mut self.more),
        })
    }

    /// A message came, passed on by `from`. What is in the snapshot already is nothing new.
    pub fn heard(
        &mut self,
        from: DeviceKey,
        bytes: &[u8],
        now_ms: u64,
        snapshot: impl FnOnce() -> Option<Snapshot>,
    ) -> Heard {
        let mut heard = Heard {
            announced: None,
            compare: false,
        };
        let second = now_ms / 1_000;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        let more = if self.second.1 > GOSSIP_MESSAGES_PER_SECOND {
            true
        } else if let Some(mut said) = Announcement::read(bytes) {
            if let Some(snapshot) = snapshot() {
                // An unreadable index is the store's trouble; asking for too much is harmless.
                said.ids
                    .retain(|id| !snapshot.contains(id).unwrap_or(false));
            }
            if !said.ids.is_empty() {
                let mut sources = vec![said.author, from];
                sources.dedup();
                heard.announced = Some(Announced {
                    ids: said.ids,
                    sources,
                });
            }
            said.more
        } else {
            // Whoever passed it on is not at fault: the protocol passes on before anybody reads.
            false
        };
        if more && now_ms > self.compared_ms + GOSSIP_COMPARE_MS {
            self.compared_ms = now_ms;
            heard.compare = true;
        }
        heard
    }
}

//! A node on a store's gossip topic, as a value: what it announces, and what it does about announcements.
//!
//! Gossip announces, reconciliation delivers. A message that is lost or late costs time, never an entry, because
//! every gap makes the sessions compare. The shell runs the gossip protocol itself and carries out what [`Gossip`]
//! says.

use bytes::Bytes;
use lattice_format::{DeviceKey, IntentionId, StoreId};
use prost::Message;

use super::governance::Governance;
use super::limits::{
    GOSSIP_COLLECT_MS, GOSSIP_COMPARE_MS, GOSSIP_IDS_MAX, GOSSIP_MESSAGES_PER_SECOND,
    GOSSIP_SOURCES_MAX,
};
use super::peer::Access;
use super::wire;
use crate::Snapshot;

const TOPIC_CONTEXT: &str = "lattice 2026-11 gossip topic 1";

/// The topic of a store. Only who knows the salt in the store's governance can compute it.
pub fn topic(store: &StoreId, salt: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(TOPIC_CONTEXT);
    hasher.update(&store.0);
    hasher.update(salt);
    *hasher.finalize().as_bytes()
}

/// What an author tells all members: which entries it has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The entries.
    pub ids: Vec<IntentionId>,
    /// The author of the entries.
    pub author: DeviceKey,
    /// Whether the author has written more than is listed, so that a comparison is needed.
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

    /// Reads what was broadcast; `None` if it is not an announcement, or announces too much.
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

/// Which topic a node is to be on, after a look at the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// On no topic, because the node is no active member, or cannot tell whether it is one.
    Leave,
    /// On this topic and no other. These peers are its first neighbours.
    Join {
        /// The topic.
        topic: [u8; 32],
        /// The members that are connected.
        peers: Vec<DeviceKey>,
    },
}

/// What a node does about a message that it heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Entries of which sessions are to be told.
    pub announced: Option<Announced>,
    /// Whether every session is to compare.
    pub compare: bool,
}

/// Entries that are not here, and the peers that may have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The entries.
    pub ids: Vec<IntentionId>,
    /// The author of the entries, and the peer that passed the announcement on.
    pub sources: Vec<DeviceKey>,
}

impl Announced {
    /// Tells the sessions with the sources, or if there are none, the first of `sessions`. `tell` returns whether a
    /// session was told.
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

/// One store on gossip: its topic, what it is about to announce, and how much it has heard lately.
#[derive(Clone, Debug)]
pub struct Gossip {
    store: StoreId,
    me: DeviceKey,
    topic: Option<[u8; 32]>,
    waiting: Vec<IntentionId>,
    /// When the first of `waiting` was written, in milliseconds since the Unix epoch.
    since_ms: u64,
    more: bool,
    compared_ms: u64,
    /// The current second, and the number of messages in it.
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

    /// The topic that the store is on.
    pub fn topic(&self) -> Option<[u8; 32]> {
        self.topic
    }

    /// Looks at the members and the salt, as they were last read. Only active members are on a topic, and each salt
    /// has a topic of its own. `None` when the store stays where it is.
    pub fn look(
        &mut self,
        governance: Option<&Governance>,
        connected: impl IntoIterator<Item = DeviceKey>,
        now_ms: u64,
    ) -> Option<Move> {
        let governance = governance.filter(|g| g.access(&self.me) == Access::All);
        let wanted = governance.map(|g| topic(&self.store, g.topic_salt()));
        if wanted == self.topic {
            return None;
        }
        self.topic = wanted;
        self.compared_ms = now_ms;
        let (Some(topic), Some(governance)) = (wanted, governance) else {
            // A node that is no member announces nothing.
            self.waiting.clear();
            return Some(Move::Leave);
        };
        let member = |peer: &DeviceKey| governance.access(peer) == Access::All;
        let peers = connected.into_iter().filter(member).collect();
        Some(Move::Join { topic, peers })
    }

    /// Notes that the topic was left, or that messages were lost. The next look joins it again.
    pub fn lost(&mut self) {
        self.topic = None;
    }

    /// Notes that this node wrote an entry.
    pub fn wrote(&mut self, id: IntentionId, now_ms: u64) {
        if self.topic.is_none() {
            return;
        }
        if self.waiting.is_empty() {
            self.since_ms = now_ms;
        }
        self.waiting.push(id);
    }

    /// Notes that this node wrote more entries than can be announced one by one.
    pub fn overflowed(&mut self) {
        self.more = true;
    }

    /// When [`Gossip::take`] has an announcement. Entries that are written within a moment are announced together.
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

    /// Takes a message that `from` passed on. Entries of the snapshot are left out, since they are here.
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
                // An id that cannot be looked up is kept, because asking for an entry twice does no harm. The store
                // itself deals with an index that cannot be read.
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
            // The peer that passed garbage on is not at fault, because gossip passes messages on unread.
            false
        };
        if more && now_ms > self.compared_ms + GOSSIP_COMPARE_MS {
            self.compared_ms = now_ms;
            heard.compare = true;
        }
        heard
    }
}

//! The header of an intention: what is signed, ordered and forwarded, with or without its body.

use alloc::vec::Vec;
use prost::Message;

use crate::ids::{BodyHash, CallId, ChainId, DeviceKey, IntentionId, Seq, StoreId, context};
use crate::limits::FORMAT;
use crate::order::{Position, Time};
use crate::verify::VerifyError;
use crate::wire;

/// One of the two key spaces of a store, each with a component of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Governance.
    System,
    /// The program of the store.
    App,
}

impl Lane {
    /// The number of the lane on the wire and on disk.
    pub fn number(self) -> u8 {
        match self {
            Self::System => 0,
            Self::App => 1,
        }
    }

    /// The lane with that number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::System),
            1 => Some(Self::App),
            _ => None,
        }
    }
}

/// The part of a header that describes the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRef {
    /// BLAKE3 of the body's bytes.
    pub hash: BodyHash,
    /// Length of the body, in bytes.
    pub len: u32,
    /// Number of the key that the body is encrypted with; 0 is plain.
    pub key: u32,
}

/// An uncritical remark: a reader that does not know its number ignores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The kind of the hint; see the associated constants.
    pub number: u32,
    /// Its value, at most [`crate::limits::HINT_BYTES_MAX`] bytes.
    pub value: Vec<u8>,
}

impl Hint {
    /// The entry matters only for a while.
    pub const EPHEMERAL: u32 = 1;
    /// The entry makes the one named by the value (32 bytes) obsolete.
    pub const SUPERSEDES: u32 = 2;
}

/// Fields of a header that whoever keeps it knows from elsewhere. They are left out of what is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The store; `None` where the header is of a genesis.
    pub store: Option<StoreId>,
    /// The hash of the body; `None` where there is no body to compute it from.
    pub body_hash: Option<BodyHash>,
}

/// A decoded header. Field order is that of the encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The store; `None` in a genesis alone, whose id becomes the store's.
    pub store: Option<StoreId>,
    /// The device that signs.
    pub author: DeviceKey,
    /// The author's chain.
    pub chain: ChainId,
    /// Place in the chain, from 0.
    pub seq: Seq,
    /// The chain's previous intention; the genesis for a chain's first; `None` in a genesis.
    pub prev: Option<IntentionId>,
    /// Other heads of the entries that the author had applied: sorted, unique, at most 16, without `prev`.
    pub deps: Vec<IntentionId>,
    /// The time, above the times of all intentions that the header names.
    pub time: Time,
    /// An intention that admits the author; `None` in a genesis.
    pub grant: Option<IntentionId>,
    /// Device keys that this intention admits: sorted and unique.
    pub admits: Vec<DeviceKey>,
    /// The lane that its calls run in.
    pub lane: Lane,
    /// Its body.
    pub body: BodyRef,
    /// Bytes of all bodies of the chain so far, this one included.
    pub chain_bytes: u64,
    /// The part of the parent store that the author had seen, if the author states it.
    pub parent_view: Option<IntentionId>,
    /// Uncritical remarks, by strictly ascending number.
    pub hints: Vec<Hint>,
    /// Bits that a reader must understand; no bit is defined in format 1.
    pub critical: u64,
}

impl Header {
    /// Whether this is a store's first intention.
    pub fn is_genesis(&self) -> bool {
        self.store.is_none()
    }

    /// Everything that must be known before this intention can be admitted: `prev`, `deps`, `grant`.
    pub fn names(&self) -> impl Iterator<Item = IntentionId> + '_ {
        let grant = self
            .grant
            .filter(|g| Some(*g) != self.prev && self.deps.binary_search(g).is_err());
        self.prev
            .into_iter()
            .chain(self.deps.iter().copied())
            .chain(grant)
    }

    /// The format byte and the canonical protobuf encoding.
    pub fn encode(&self) -> Vec<u8> {
        let message = self.to_wire();
        let mut out = Vec::with_capacity(1 + message.encoded_len());
        out.push(FORMAT);
        message
            .encode(&mut out)
            .expect("a Vec grows as far as it is asked to");
        out
    }

    /// The encoding without the fields that are known.
    ///
    /// [`crate::VerifiedHeader::from_abridged`] reads it with the same [`Known`].
    pub fn abridged(&self, known: &Known) -> Vec<u8> {
        let mut message = self.to_wire();
        if known.store.is_some() {
            message.store.clear();
        }
        if known.body_hash.is_some() {
            message.body_hash.clear();
        }
        message.encode_to_vec()
    }

    /// Reads what [`Header::abridged`] made.
    pub(crate) fn from_abridged(message: &[u8], known: &Known) -> Result<Self, VerifyError> {
        let mut wire = wire::Header::decode(message).map_err(|_| VerifyError::Undecodable)?;
        if let Some(store) = known.store {
            wire.store = store.0.to_vec();
        }
        if let Some(hash) = known.body_hash {
            wire.body_hash = hash.0.to_vec();
        }
        Self::from_wire(wire)
    }

    /// The id of an encoded header.
    pub fn id_of(encoded: &[u8]) -> IntentionId {
        let mut hasher = blake3::Hasher::new_derive_key(context::INTENTION);
        hasher.update(encoded);
        IntentionId(*hasher.finalize().as_bytes())
    }

    /// The identity of the call at `index` of this intention; known before it runs, since it
    /// leaves out what is filled at signing (`admits`, the body and its length).
    pub fn call_id(&self, index: u32) -> CallId {
        let mut hasher = blake3::Hasher::new_derive_key(context::CALL);
        hasher.update(&self.store.map_or([0; 32], |s| s.0));
        hasher.update(&self.author.0);
        hasher.update(&self.chain.0.to_be_bytes());
        hasher.update(&self.seq.0.to_be_bytes());
        hasher.update(&self.prev.map_or([0; 32], |p| p.0));
        hasher.update(&self.time.wall_ms.to_be_bytes());
        hasher.update(&self.time.counter.to_be_bytes());
        hasher.update(&index.to_be_bytes());
        CallId(*hasher.finalize().as_bytes())
    }

    /// The place in the order of an intention with this header and that id.
    pub fn position(&self, id: IntentionId) -> Position {
        Position {
            time: self.time,
            id,
        }
    }

    fn to_wire(&self) -> wire::Header {
        let ids = |list: &[IntentionId]| list.iter().map(|id| id.0.to_vec()).collect();
        wire::Header {
            store: self.store.map_or(Vec::new(), |s| s.0.to_vec()),
            author: self.author.0.to_vec(),
            chain: self.chain.0,
            seq: self.seq.0,
            prev: self.prev.map_or(Vec::new(), |p| p.0.to_vec()),
            deps: ids(&self.deps),
            wall_ms: self.time.wall_ms,
            counter: self.time.counter,
            grant: self.grant.map_or(Vec::new(), |g| g.0.to_vec()),
            admits: self.admits.iter().map(|k| k.0.to_vec()).collect(),
            lane: u32::from(self.lane.number()),
            body_hash: self.body.hash.0.to_vec(),
            body_len: self.body.len,
            body_key: self.body.key,
            chain_bytes: self.chain_bytes,
            parent_view: self.parent_view.map_or(Vec::new(), |p| p.0.to_vec()),
            hints: self
                .hints
                .iter()
                .map(|h| wire::Hint {
                    number: h.number,
                    value: h.value.clone(),
                })
                .collect(),
            critical: self.critical,
        }
    }

    /// Decodes the bytes after the format byte. That they are canonical is checked by `verify`.
    pub(crate) fn decode(message: &[u8]) -> Result<Self, VerifyError> {
        let wire = wire::Header::decode(message).map_err(|_| VerifyError::Undecodable)?;
        Self::from_wire(wire)
    }

    fn from_wire(wire: wire::Header) -> Result<Self, VerifyError> {
        let optional = |bytes: &[u8], field| match bytes.len() {
            0 => Ok(None),
            _ => IntentionId::from_slice(bytes)
                .map(Some)
                .ok_or(VerifyError::FieldLength {
                    field,
                    len: bytes.len(),
                }),
        };
        fn required<T>(
            value: Option<T>,
            field: &'static str,
            len: usize,
        ) -> Result<T, VerifyError> {
            value.ok_or(VerifyError::FieldLength { field, len })
        }
        let keys = |list: &[Vec<u8>]| {
            list.iter()
                .map(|k| required(DeviceKey::from_slice(k), "admits", k.len()))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            store: optional(&wire.store, "store")?.map(StoreId::from),
            author: required(
                DeviceKey::from_slice(&wire.author),
                "author",
                wire.author.len(),
            )?,
            chain: ChainId(wire.chain),
            seq: Seq(wire.seq),
            prev: optional(&wire.prev, "prev")?,
            deps: wire
                .deps
                .iter()
                .map(|d| required(IntentionId::from_slice(d), "deps", d.len()))
                .collect::<Result<_, _>>()?,
            time: Time {
                wall_ms: wire.wall_ms,
                counter: wire.counter,
            },
            grant: optional(&wire.grant, "grant")?,
            admits: keys(&wire.admits)?,
            lane: Lane::from_number(wire.lane).ok_or(VerifyError::Lane { lane: wire.lane })?,
            body: BodyRef {
                hash: required(
                    BodyHash::from_slice(&wire.body_hash),
                    "body_hash",
                    wire.body_hash.len(),
                )?,
                len: wire.body_len,
                key: wire.body_key,
            },
            chain_bytes: wire.chain_bytes,
            parent_view: optional(&wire.parent_view, "parent_view")?,
            hints: wire
                .hints
                .into_iter()
                .map(|h| Hint {
                    number: h.number,
                    value: h.value,
                })
                .collect(),
            critical: wire.critical,
        })
    }
}

//! The messages between a fetch and a server.

use bytes::Bytes;
use lattice_format::{BlobId, StoreId};
use prost::Message as _;

use crate::frame::frame;

const REQUEST: u8 = 1;
const PIECE: u8 = 2;
const MISSING: u8 = 3;

mod wire {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Request {
        #[prost(uint64, tag = "1")]
        pub(super) number: u64,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) store: Vec<u8>,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) blob: Vec<u8>,
        #[prost(uint64, optional, tag = "4")]
        pub(super) piece: Option<u64>,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Piece {
        #[prost(uint64, tag = "1")]
        pub(super) number: u64,
        #[prost(uint64, tag = "2")]
        pub(super) size: u64,
        #[prost(bytes = "bytes", tag = "3")]
        pub(super) encoded: Bytes,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Missing {
        #[prost(uint64, tag = "1")]
        pub(super) number: u64,
    }
}

/// One piece of one blob, asked for in the scope of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// A number that the asker chooses, and that the answer gives back.
    pub(super) number: u64,
    pub(super) store: StoreId,
    pub(super) blob: BlobId,
    /// The index of the piece; `None` for the last piece, which proves the size.
    pub(super) piece: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request(Request),
    Piece {
        number: u64,
        /// The size of the whole blob, in bytes.
        size: u64,
        /// The piece and the hashes that prove it, as bao encodes them.
        encoded: Bytes,
    },
    /// The blob is not here, or not in the scope of the store. Both get one answer, so that the asker cannot tell
    /// what other stores have.
    Missing {
        number: u64,
    },
}

/// A payload that is not a message of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message {kind} does not decode")]
pub(super) struct Undecodable {
    kind: u8,
}

impl Message {
    pub(super) fn is_known(kind: u8) -> bool {
        (REQUEST..=MISSING).contains(&kind)
    }

    pub(super) fn encode(&self) -> Bytes {
        let bytes = match self {
            Self::Request(request) => {
                let wire = wire::Request {
                    number: request.number,
                    store: request.store.0.to_vec(),
                    blob: request.blob.0.to_vec(),
                    piece: request.piece,
                };
                frame(REQUEST, &wire.encode_to_vec())
            }
            Self::Piece {
                number,
                size,
                encoded,
            } => {
                let wire = wire::Piece {
                    number: *number,
                    size: *size,
                    encoded: encoded.clone(),
                };
                frame(PIECE, &wire.encode_to_vec())
            }
            Self::Missing { number } => {
                frame(MISSING, &wire::Missing { number: *number }.encode_to_vec())
            }
        };
        bytes.into()
    }

    pub(super) fn decode(kind: u8, payload: Bytes) -> Result<Self, Undecodable> {
        let undecodable = Undecodable { kind };
        match kind {
            REQUEST => {
                let wire = wire::Request::decode(payload).map_err(|_| undecodable)?;
                Ok(Self::Request(Request {
                    number: wire.number,
                    store: StoreId::from_slice(&wire.store).ok_or(undecodable)?,
                    blob: BlobId::from_slice(&wire.blob).ok_or(undecodable)?,
                    piece: wire.piece,
                }))
            }
            PIECE => {
                let wire = wire::Piece::decode(payload).map_err(|_| undecodable)?;
                Ok(Self::Piece {
                    number: wire.number,
                    size: wire.size,
                    encoded: wire.encoded,
                })
            }
            MISSING => {
                let wire = wire::Missing::decode(payload).map_err(|_| undecodable)?;
                Ok(Self::Missing {
                    number: wire.number,
                })
            }
            _ => Err(undecodable),
        }
    }
}

//! Serving blobs over one stream.

use std::collections::VecDeque;

use bytes::Bytes;
use lattice_format::{BlobId, StoreId};

use super::limits::{BLOB_FRAME_BYTES_MAX, REQUESTS_TAKEN_MAX};
use super::message::{Message, Request};
use super::store::{BlobError, BlobStore};
use crate::frame::Frames;

/// What a peer did that the protocol does not allow. Close its stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    /// Bytes that are not a request.
    #[error("{0}")]
    Garbage(String),
    /// More requests than are taken at once.
    #[error("{len} requests at once exceed {REQUESTS_TAKEN_MAX}")]
    TooMany {
        /// How many requests there are.
        len: usize,
    },
}

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Write this frame, then call [`Server::next`] again.
    Frame(Bytes),
    /// The blob's file was damaged and is gone, so the node should fetch the blob again. Call [`Server::next`] again.
    Damaged(BlobId),
    /// No request is left. Read on.
    Idle,
}

/// Answers the requests of one peer on one stream. The shell takes the next frame when it has written the one before,
/// so a slow reader takes the memory of one piece and no more.
#[derive(Debug, Default)]
pub struct Server {
    frames: Frames,
    queue: VecDeque<Request>,
}

impl Server {
    /// Takes bytes of the stream.
    ///
    /// # Errors
    /// The fault of the peer.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ServerFault> {
        self.frames.push(bytes);
        loop {
            let frame = self.frames.next(BLOB_FRAME_BYTES_MAX, Message::is_known);
            let Some((kind, payload)) =
                frame.map_err(|error| ServerFault::Garbage(error.to_string()))?
            else {
                return Ok(());
            };
            match Message::decode(kind, payload) {
                Ok(Message::Request(request)) => self.queue.push_back(request),
                Ok(_) => return Err(ServerFault::Garbage("an answer without a request".into())),
                Err(error) => return Err(ServerFault::Garbage(error.to_string())),
            }
            let len = self.queue.len();
            if len > REQUESTS_TAKEN_MAX {
                return Err(ServerFault::TooMany { len });
            }
        }
    }

    /// The next frame to write. `may` says whether governance lets the peer have a blob of a store. A peer that may
    /// not have it gets the answer of a blob that does not exist.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next(
        &mut self,
        blobs: &BlobStore,
        mut may: impl FnMut(StoreId, BlobId) -> bool,
    ) -> Result<Served, BlobError> {
        let Some(request) = self.queue.front().copied() else {
            return Ok(Served::Idle);
        };
        let piece = match may(request.store, request.blob) {
            true => blobs.piece(request.store, request.blob, request.piece),
            false => Ok(None),
        };
        let message = match piece {
            Ok(Some((size, encoded))) => Message::Piece {
                number: request.number,
                size,
                encoded: encoded.into(),
            },
            Ok(None) => Message::Missing {
                number: request.number,
            },
            // The request stays in the queue, and the next call answers it with Missing.
            Err(BlobError::Damaged(blob)) => return Ok(Served::Damaged(blob)),
            Err(error) => return Err(error),
        };
        self.queue.pop_front();
        Ok(Served::Frame(message.encode()))
    }
}

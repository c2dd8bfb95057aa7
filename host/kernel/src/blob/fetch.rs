//! Fetching one blob from several peers.
//!
//! The last piece comes first, because it proves the size. Then each peer is kept busy with pieces that no other peer
//! is asked for. A piece that does not fit the hash is its sender's fault, and another peer is asked. Pieces that
//! arrived outlive the fetch, and the next fetch of the blob goes on with them.

use std::collections::BTreeMap;

use bytes::Bytes;
use lattice_format::{BlobId, DeviceKey, StoreId};

use super::limits::{BLOB_BYTES_MAX, BLOB_FRAME_BYTES_MAX, PEERS_MAX, REQUESTS_MAX};
use super::message::{Message, Request};
use super::partial::{Partial, Taken};
use super::store::{BlobError, BlobStore, pieces};
use crate::frame::Frames;

/// What happened to a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchInput {
    /// A stream to the peer is open.
    PeerUp(DeviceKey),
    /// Bytes came from the peer.
    Bytes(DeviceKey, Bytes),
    /// The stream to the peer is gone, or it was silent for too long.
    PeerDown(DeviceKey),
}

/// What the shell is to do for a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEffect {
    /// Write these bytes to the peer's stream.
    Send(DeviceKey, Bytes),
    /// The peer does not have the blob in this store's scope, or does not give it. Close its stream.
    Lacks(DeviceKey),
    /// The peer is at fault: it sent something that is no piece of the blob. Close its stream.
    Blame(DeviceKey, String),
    /// More bytes are here.
    Progress {
        /// Bytes that are here and checked.
        have: u64,
        /// Size of the blob in bytes.
        size: u64,
    },
    /// The blob is here, durably, in the scope of the store. The fetch is over.
    Done {
        /// The blob's size in bytes.
        size: u64,
    },
    /// The fetch is over without the blob.
    Failed(FetchFailure),
}

/// Why a fetch ended without the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// The blob is larger than the caller allows.
    #[error("a blob of {size} bytes exceeds {max}")]
    TooLarge {
        /// The blob's proven size in bytes.
        size: u64,
        /// The most bytes allowed.
        max: u64,
    },
}

#[derive(Debug, Default)]
struct Peer {
    frames: Frames,
    /// Open requests by number, each with its piece; `None` stands for the last piece, whose index is not known yet.
    open: BTreeMap<u64, Option<u64>>,
}

/// One fetch. While it has no peer, it waits: the shell gives it another peer, or drops it.
#[derive(Debug)]
pub struct Fetch {
    store: StoreId,
    blob: BlobId,
    bytes_max: u64,
    partial: Option<Partial>,
    /// For each piece, whether a peer is asked for it.
    asked: Vec<bool>,
    peers: BTreeMap<DeviceKey, Peer>,
    next_number: u64,
    over: bool,
}

impl Fetch {
    /// Begins, or goes on where an earlier fetch of the same blob for the same store stopped.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin(
        store: StoreId,
        blob: BlobId,
        bytes_max: u64,
        blobs: &BlobStore,
    ) -> Result<Self, BlobError> {
        let bytes_max = bytes_max.min(BLOB_BYTES_MAX);
        let partial = Partial::resume(blobs, store, blob, bytes_max)?;
        let asked = partial
            .as_ref()
            .map_or(Vec::new(), |p| vec![false; p.have().len()]);
        Ok(Self {
            store,
            blob,
            bytes_max,
            partial,
            asked,
            peers: BTreeMap::new(),
            next_number: 0,
            over: false,
        })
    }

    /// Takes one thing that happened. After `Done` or `Failed` the fetch does nothing more.
    ///
    /// # Errors
    /// When the disk fails. The fetch can go on after that.
    pub fn handle(
        &mut self,
        input: FetchInput,
        blobs: &BlobStore,
    ) -> Result<Vec<FetchEffect>, BlobError> {
        let mut out = Vec::new();
        if self.over {
            return Ok(out);
        }
        match input {
            FetchInput::PeerUp(peer) => {
                if self.peers.len() < PEERS_MAX {
                    self.peers.entry(peer).or_default();
                }
            }
            FetchInput::PeerDown(peer) => self.drop_peer(peer),
            FetchInput::Bytes(peer, bytes) => self.hear(peer, &bytes, blobs, &mut out)?,
        }
        self.finish_if_complete(blobs, &mut out)?;
        if !self.over {
            self.ask(&mut out);
        }
        Ok(out)
    }

    /// The peers whose streams the fetch uses.
    pub fn peers(&self) -> impl Iterator<Item = DeviceKey> + '_ {
        self.peers.keys().copied()
    }

    /// Whether `Done` or `Failed` was said.
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn hear(
        &mut self,
        peer: DeviceKey,
        bytes: &[u8],
        blobs: &BlobStore,
        out: &mut Vec<FetchEffect>,
    ) -> Result<(), BlobError> {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.frames.push(bytes);
        }
        // The peer is looked up for each frame, because a faulty frame drops it.
        while !self.over
            && let Some(state) = self.peers.get_mut(&peer)
        {
            let frame = match state.frames.next(BLOB_FRAME_BYTES_MAX, Message::is_known) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.blame(peer, error.to_string(), out);
                    break;
                }
            };
            match Message::decode(frame.0, frame.1) {
                Ok(Message::Piece {
                    number,
                    size,
                    encoded,
                }) => match state.open.remove(&number) {
                    Some(piece) => self.piece(peer, piece, size, &encoded, blobs, out)?,
                    None => self.blame(
                        peer,
                        format!("an answer to request {number}, which is none"),
                        out,
                    ),
                },
                Ok(Message::Missing { number }) if state.open.contains_key(&number) => {
                    self.drop_peer(peer);
                    out.push(FetchEffect::Lacks(peer));
                }
                Ok(_) => self.blame(peer, "an answer that was not asked for".into(), out),
                Err(error) => self.blame(peer, error.to_string(), out),
            }
        }
        Ok(())
    }

    fn piece(
        &mut self,
        peer: DeviceKey,
        piece: Option<u64>,
        size: u64,
        encoded: &[u8],
        blobs: &BlobStore,
        out: &mut Vec<FetchEffect>,
    ) -> Result<(), BlobError> {
        let wrong = |piece: u64| {
            format!(
                "piece {piece} of {size} bytes does not fit blob {}",
                self.blob
            )
        };
        let (partial, piece) = match (&mut self.partial, piece) {
            (Some(partial), Some(piece)) => {
                self.asked[piece as usize] = false;
                (partial, piece)
            }
            // Another peer has proven the size, so this peer's claim is compared with it.
            (Some(partial), None) => {
                if partial.size() != size {
                    let reason = format!("it claims {size} bytes for a blob of {}", partial.size());
                    self.blame(peer, reason, out);
                    return Ok(());
                }
                (partial, pieces(size) - 1)
            }
            (None, _) => {
                // No blob is larger than the format's bound. Such a claim is refused before anything is reserved.
                if size > BLOB_BYTES_MAX || !Partial::proves_size(self.blob, size, encoded) {
                    let reason = wrong(pieces(size.min(BLOB_BYTES_MAX)) - 1);
                    self.blame(peer, reason, out);
                    return Ok(());
                }
                if size > self.bytes_max {
                    self.over = true;
                    let max = self.bytes_max;
                    out.push(FetchEffect::Failed(FetchFailure::TooLarge { size, max }));
                    return Ok(());
                }
                let partial = Partial::create(blobs, self.store, self.blob, size)?;
                self.asked = vec![false; partial.have().len()];
                (self.partial.insert(partial), pieces(size) - 1)
            }
        };
        if partial.size() != size || partial.take(piece, encoded)? == Taken::Wrong {
            let reason = wrong(piece);
            self.blame(peer, reason, out);
            return Ok(());
        }
        out.push(progress(partial));
        Ok(())
    }

    fn finish_if_complete(
        &mut self,
        blobs: &BlobStore,
        out: &mut Vec<FetchEffect>,
    ) -> Result<(), BlobError> {
        let Some(partial) = &mut self.partial else {
            return Ok(());
        };
        if self.over || !partial.have().iter().all(|have| *have) {
            return Ok(());
        }
        match partial.finish(blobs)? {
            Taken::Good => {
                self.over = true;
                out.push(FetchEffect::Done {
                    size: partial.size(),
                });
            }
            // After a crash fewer bytes were here than noted. That is no peer's fault, and all pieces are asked for
            // again.
            Taken::Wrong => out.push(progress(partial)),
        }
        Ok(())
    }

    /// Asks every peer for as many pieces as it may be asked for at once.
    fn ask(&mut self, out: &mut Vec<FetchEffect>) {
        for (device, peer) in &mut self.peers {
            while peer.open.len() < REQUESTS_MAX {
                let piece = match &self.partial {
                    // One request is enough to learn the size.
                    None if peer.open.is_empty() => None,
                    None => break,
                    Some(partial) => {
                        let free = |n: &usize| !partial.have()[*n] && !self.asked[*n];
                        match (0..self.asked.len()).find(free) {
                            Some(piece) => {
                                self.asked[piece] = true;
                                Some(piece as u64)
                            }
                            None => break,
                        }
                    }
                };
                let number = self.next_number;
                self.next_number += 1;
                peer.open.insert(number, piece);
                let request = Message::Request(Request {
                    number,
                    store: self.store,
                    blob: self.blob,
                    piece,
                });
                out.push(FetchEffect::Send(*device, request.encode()));
            }
        }
    }

    fn blame(&mut self, peer: DeviceKey, reason: String, out: &mut Vec<FetchEffect>) {
        self.drop_peer(peer);
        out.push(FetchEffect::Blame(peer, reason));
    }

    fn drop_peer(&mut self, peer: DeviceKey) {
        if let Some(state) = self.peers.remove(&peer) {
            for piece in state.open.into_values().flatten() {
                self.asked[piece as usize] = false;
            }
        }
    }
}

fn progress(partial: &Partial) -> FetchEffect {
    let size = partial.size();
    let have = partial.have();
    let mut bytes = have.iter().filter(|have| **have).count() as u64 * super::limits::PIECE_BYTES;
    if have.last() == Some(&true) {
        // The last piece may be shorter than the others.
        bytes -= have.len() as u64 * super::limits::PIECE_BYTES - size;
    }
    FetchEffect::Progress { have: bytes, size }
}

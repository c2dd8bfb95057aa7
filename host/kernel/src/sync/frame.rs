//! Frames: a message's length, its kind, its payload.
//!
//! The length (payload bytes, 4 bytes, big endian) comes first, so that a kind which this version does
//! not know is passed over without being kept, however it came in pieces.

use bytes::{Buf, BytesMut};

use super::limits::FRAME_HEAD_BYTES;
use super::message::{Message, MessageError};
use crate::limits::FRAME_BYTES_MAX;

/// Why the bytes of a stream are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length exceeds the bound. The stream cannot be read further.
    #[error("a frame of {len} bytes exceeds {FRAME_BYTES_MAX}")]
    TooLong {
        /// The announced length of the payload, in bytes.
        len: usize,
    },
    /// The payload is not the message of its kind. Later frames can be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The first message of a stream is not Hello.
    #[error("the stream does not begin with a Hello")]
    NoHello,
}

/// Collects bytes of a stream and hands out messages. Holds at most one frame and what was pushed.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    /// Bytes of an unknown message that are still to be passed over.
    skip: usize,
}

impl FrameReader {
    /// Adds bytes that came from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
    }

    /// The next message and the length of its payload, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] ends the stream; after [`FrameError::Message`] it can be called again.
    #[expect(clippy::should_implement_trait, reason = "an iterator would hide that it resumes")]
    pub(super) fn next(&mut self) -> Result<Option<(Message, usize)>, FrameError> {
        loop {
            if self.buffer.len() < FRAME_HEAD_BYTES {
                return Ok(None);
            }
            let len = u32::from_be_bytes([
                self.buffer[0],
                self.buffer[1],
                self.buffer[2],
                self.buffer[3],
            ]) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(FrameError::TooLong { len });
            }
            let kind = self.buffer[4];
            if !Message::is_known(kind) {
                self.buffer.advance(FRAME_HEAD_BYTES);
                let here = len.min(self.buffer.len());
                self.buffer.advance(here);
                self.skip = len - here;
                continue;
            }
            if self.buffer.len() - FRAME_HEAD_BYTES < len {
                return Ok(None);
            }
            self.buffer.advance(FRAME_HEAD_BYTES);
            let payload = self.buffer.split_to(len).freeze();
            return Ok(Some((Message::decode(kind, &payload)?, len)));
        }
    }

    /// Bytes that wait for the rest of their frame.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }
}

/// Puts the head before a payload.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    assert!(
        payload.len() <= FRAME_BYTES_MAX,
        "a frame of {} bytes exceeds {FRAME_BYTES_MAX}: a message was not bounded",
        payload.len()
    );
    let mut out = Vec::with_capacity(FRAME_HEAD_BYTES + payload.len());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    out
}

//! Frames: a message's length, its kind, its payload.
//!
//! The length (of the payload in bytes; 4 bytes, big endian) comes first, so that a message of an unknown kind can be
//! passed over without being kept, whatever the pieces in which it comes. The sync and the blob protocol have the same frames.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::FRAME_BYTES_MAX;

/// Length of a frame's head, in bytes.
pub(crate) const FRAME_HEAD_BYTES: usize = 5;

/// A frame is longer than it may be. The stream cannot be read further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes exceeds {max}")]
pub struct TooLong {
    /// The announced length of the payload, in bytes.
    pub len: usize,
    /// The most bytes allowed.
    pub max: usize,
}

/// Cuts a stream into frames. It holds at most one frame and what was pushed last.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
    /// How many bytes of an unknown message are still to be passed over.
    skip: usize,
}

impl Frames {
    /// Adds bytes that came from the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
    }

    /// The next frame of a kind that `is_known`, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`TooLong`], which ends the stream.
    pub(crate) fn next(
        &mut self,
        max: usize,
        is_known: impl Fn(u8) -> bool,
    ) -> Result<Option<(u8, Bytes)>, TooLong> {
        loop {
            if self.buffer.is_empty() {
                // A node has many peers, and most are silent. So an empty buffer gives its memory back.
                self.buffer = BytesMut::new();
            }
            if self.buffer.len() < FRAME_HEAD_BYTES {
                return Ok(None);
            }
            let head = &self.buffer[..FRAME_HEAD_BYTES];
            let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = head[4];
            if len > max {
                return Err(TooLong { len, max });
            }
            if !is_known(kind) {
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
            return Ok(Some((kind, self.buffer.split_to(len).freeze())));
        }
    }
}

/// Puts the head before a payload.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_no_memory_once_everything_is_read() {
        let mut frames = Frames::default();
        let bytes = [
            frame(1, &[7; 100_000]),
            frame(2, &[]),
            frame(9, &[7; 1_000]),
        ]
        .concat();
        let (all, known) = (bytes.len(), |kind| kind < 9);
        for cut in [3, 50_000, all - 500, all] {
            frames.push(&bytes[..cut]);
            let mut kinds = Vec::new();
            while let Ok(Some((kind, _))) = frames.next(FRAME_BYTES_MAX, known) {
                kinds.push(kind);
            }
            let whole = cut > all - 1_000;
            assert_eq!(kinds, if whole { &[1, 2][..] } else { &[] });
            assert_eq!(frames.buffer.capacity() == 0, whole, "{cut}");
            frames.push(&bytes[cut..]);
            while let Ok(Some(_)) = frames.next(FRAME_BYTES_MAX, known) {}
            assert_eq!(frames.buffer.capacity(), 0, "{cut}");
        }
    }
}

//! The messages of a stream of the sync protocol.

use super::message::{Message, MessageError};
use crate::frame::{Frames, TooLong};
use crate::limits::FRAME_BYTES_MAX;

/// Why the bytes of a stream are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length exceeds the bound. The stream cannot be read further.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The payload is not a message of its kind. Later frames can be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The first message of a stream is not Hello.
    #[error("the stream does not begin with a Hello")]
    NoHello,
}

/// Cuts a stream of the sync protocol into messages.
#[derive(Debug, Default)]
pub(super) struct FrameReader(Frames);

impl FrameReader {
    /// Adds bytes that came from the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next message and the length of its payload, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] ends the stream; after [`FrameError::Message`] it can be called again.
    pub(super) fn next(&mut self) -> Result<Option<(Message, usize)>, FrameError> {
        match self.0.next(FRAME_BYTES_MAX, Message::is_known)? {
            Some((kind, payload)) => Ok(Some((Message::decode(kind, &payload)?, payload.len()))),
            None => Ok(None),
        }
    }
}

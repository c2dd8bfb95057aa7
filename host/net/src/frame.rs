//! Frames of the join protocol: a length (4 bytes, big-endian) and a protobuf message.

use iroh::endpoint::{ReadExactError, RecvStream, SendStream};
use prost::Message;

use crate::limits::READ_STEP_BYTES;

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream ended before the first byte of a message.
    #[error("the stream ended")]
    Ended,
    /// The stream broke, or ended inside a message.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// Announced as longer than allowed.
    #[error("a message of {len} bytes exceeds {max}")]
    TooLong {
        /// Announced length in bytes.
        len: usize,
        /// The most bytes allowed.
        max: usize,
    },
    /// Not the message.
    #[error("the message does not decode")]
    Undecodable,
}

/// Reads one message of at most `max` bytes. Memory grows with what came, not with what was announced.
pub(crate) async fn read<M: Message + Default>(
    recv: &mut RecvStream,
    max: usize,
) -> Result<M, FrameError> {
    let mut head = [0; 4];
    match recv.read_exact(&mut head).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Err(FrameError::Ended),
        Err(error) => return Err(FrameError::Broken(error.to_string())),
    }
    let len = u32::from_be_bytes(head) as usize;
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    let mut bytes = Vec::with_capacity(len.min(READ_STEP_BYTES));
    while bytes.len() < len {
        let from = bytes.len();
        bytes.resize(from + (len - from).min(READ_STEP_BYTES), 0);
        recv.read_exact(&mut bytes[from..])
            .await
            .map_err(|e| FrameError::Broken(e.to_string()))?;
    }
    M::decode(&bytes[..]).map_err(|_| FrameError::Undecodable)
}

/// Writes one message.
pub(crate) async fn write(send: &mut SendStream, message: &impl Message) -> Result<(), FrameError> {
    let payload = message.encode_to_vec();
    let len = u32::try_from(payload.len()).map_err(|_| FrameError::TooLong {
        len: payload.len(),
        max: u32::MAX as usize,
    })?;
    let mut bytes = Vec::with_capacity(4 + payload.len());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&payload);
    send.write_all(&bytes)
        .await
        .map_err(|e| FrameError::Broken(e.to_string()))
}

//! Reconciliation of one store with one peer, as a value.
//!
//! [`Session::handle`] takes what happened and returns what to do. The shell (a stream in `host/net`, a virtual link
//! in the simulator) moves bytes and calls the store. This module opens no socket, reads no clock and draws no
//! randomness.
//!
//! One reconciliation is a *round*. Both sides say Hello, and equal digests of tips end the round. Otherwise the
//! sides exchange tips. Each side computes what the other lacks, and streams it in causal order within the window
//! that the other grants. Tips do not explain every difference: there may be too many of them, or a forked chain that
//! one side does not know. Then the sides compare summaries of ranges of the canonical order (Meyer, Range-Based Set
//! Reconciliation, 2022).
//!
//! A session that stays open after a round is *live*: it pushes what its node authors to the peer at once, and
//! announces what its node got from others.
//!
//! Beside the sessions, a node runs a [`Gossip`] for each store, a [`Dial`] for each peer, and one [`MisbehaviourLog`].

pub mod limits;

mod bootstrap;
mod codec;
mod dial;
mod effect;
mod gossip;
mod governance;
mod inbound;
mod message;
mod misbehaviour;
mod outbound;
mod pace;
mod peer;
mod plan;
mod ranges;
mod reader;
mod round;
mod session;
mod source;
mod summary;
mod wire;

#[cfg(test)]
mod tests;

pub use bootstrap::{Bootstrap, BootstrapStep};
pub use dial::{Backoff, Dial, Jitter, Standing, may_begin};
pub use effect::{CloseReason, Config, Effect, Input, Lack, Role, Status};
pub use gossip::{Announced, Announcement, Gossip, Heard, Move, topic};
pub use governance::{Governance, Stale};
pub use message::{ErrorCode, MessageError, PeerError, Wants};
pub use misbehaviour::{Misbehaviour, MisbehaviourLog, Verdict};
pub use pace::{Due, Pace};
pub use peer::Access;
pub use reader::FrameError;

pub use crate::frame::TooLong;
pub use session::Session;

/// The protocol's name in ALPN (application-layer protocol negotiation). One bidirectional stream is
/// one session of one store.
pub const ALPN: &[u8] = b"/lattice/sync/1";

/// Reads the store's id out of the first bytes of an accepted stream; `None` until more bytes came. The shell gives
/// the same bytes to the [`Session`] afterwards.
///
/// # Errors
/// When the stream does not begin with a Hello. Close the stream.
pub fn store_asked_for(bytes: &[u8]) -> Result<Option<lattice_format::StoreId>, FrameError> {
    let mut frames = reader::FrameReader::default();
    frames.push(bytes);
    match frames.next()? {
        Some((message::Message::Hello(hello), _)) => match hello.store {
            None => Err(FrameError::NoHello),
            store => Ok(store),
        },
        Some(_) => Err(FrameError::NoHello),
        None => Ok(None),
    }
}

/// The bytes that tell a peer why there is no session. Write them and close the stream. A store that the peer must
/// not know of is refused with [`ErrorCode::UnknownStore`], as if it were not here.
pub fn refusal(code: ErrorCode, text: &str) -> bytes::Bytes {
    let text = text.to_owned();
    message::Message::Error(PeerError { code, text })
        .encode()
        .into()
}

/// The version of the protocol that this code speaks.
pub const VERSION: u32 = 1;

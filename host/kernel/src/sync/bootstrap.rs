//! The first step of a join: the joiner gets the genesis, before it has a store.
//!
//! The peer runs an ordinary [`super::Session`] with [`super::Access::Invited`] or more. The joiner says Hello as a
//! node without entries, and asks for the one entry whose id is the store's.

use bytes::Bytes;
use lattice_format::{IntentionId, SignedHeader, StoreId, verify};

use super::VERSION;
use super::message::{Hello, Message, PeerError, Wants};
use super::reader::FrameReader;

/// Gets a store's genesis from a peer over one stream of [`super::ALPN`].
#[derive(Debug)]
pub struct Bootstrap {
    store: StoreId,
    frames: FrameReader,
}

/// What the given bytes led to.
#[derive(Clone, Debug, PartialEq)]
pub enum BootstrapStep {
    /// The genesis has not come yet. Read on.
    More,
    /// The genesis, with its signature, id and body checked. Close the stream.
    Genesis(SignedHeader, Vec<u8>),
    /// The peer refuses.
    Refused(PeerError),
    /// The peer sent something else than the genesis. Close the stream and try another peer.
    Faulty(String),
}

impl Bootstrap {
    /// Begins. Returns the value, and the bytes to write first.
    pub fn start(store: StoreId, now_ms: u64) -> (Self, Bytes) {
        let hello = Message::Hello(Hello {
            round: 1,
            versions: vec![VERSION],
            store: Some(store),
            clock_ms: now_ms,
            attestation: None,
            wants: Wants::Headers,
            horizon: None,
            parked_count: 0,
            parked: Vec::new(),
            tips_digest: lattice_format::Digest([0; 32]),
            tip_count: 0,
            count: 0,
            // A window of one byte lets one frame in, whatever its size: the genesis.
            window_bytes: 1,
            gives: Wants::SystemLane,
        });
        let want = Message::Want(vec![IntentionId::from(store)]);
        let mut out = hello.encode();
        out.extend_from_slice(&want.encode());
        let value = Self {
            store,
            frames: FrameReader::default(),
        };
        (value, out.into())
    }

    /// Takes bytes of the stream.
    pub fn handle(&mut self, bytes: &[u8]) -> BootstrapStep {
        self.frames.push(bytes);
        loop {
            match self.frames.next() {
                Ok(None) => return BootstrapStep::More,
                Ok(Some((Message::Error(error), _))) => return BootstrapStep::Refused(error),
                Ok(Some((Message::Entries(entries), _))) => {
                    if let Some(step) = self.look(entries) {
                        return step;
                    }
                }
                Ok(Some((Message::Lacks(_), _))) => {
                    return BootstrapStep::Faulty("the peer does not give the genesis".into());
                }
                Ok(Some(_)) => {}
                Err(error) => return BootstrapStep::Faulty(error.to_string()),
            }
        }
    }

    fn look(&self, entries: Vec<(SignedHeader, Option<Vec<u8>>)>) -> Option<BootstrapStep> {
        let faulty = |text: String| Some(BootstrapStep::Faulty(text));
        for (signed, body) in entries {
            if lattice_format::Header::id_of(&signed.bytes) != IntentionId::from(self.store) {
                continue;
            }
            let Some(body) = body else {
                return faulty("the genesis came without its body".into());
            };
            let header = match verify(signed.clone()) {
                Ok(header) => header,
                Err(error) => return faulty(error.to_string()),
            };
            if let Err(error) = header.check_body(body.as_slice()) {
                return faulty(error.to_string());
            }
            return Some(BootstrapStep::Genesis(signed, body));
        }
        None
    }
}

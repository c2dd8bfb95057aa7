//! The requests to the writer of a store.

use lattice_format::{Call, ChainId, DeviceKey, Lane, SignedHeader};

use crate::store::Store;

/// A request to a writer. `C` is the token of a call's caller, `R` that of whoever handed over a peer's entries; the
/// answer returns them. `V` verifies the headers that peers sent. A call, entries or a question that come while the
/// store is closed are dropped with their tokens.
pub enum Job<C, R, V> {
    /// Run calls as one transaction.
    Call {
        /// The lane of all calls.
        lane: Lane,
        /// The calls of the transaction.
        calls: Vec<Call>,
        /// 64 fresh random bits, for when this device must start a chain.
        chain: ChainId,
        /// Whether a person agrees to sign by a clock that no member confirms and that has leapt since the last entry.
        accepts_leap: bool,
        /// The token of the caller.
        token: C,
    },
    /// Take entries of a peer.
    Receive {
        /// The peer.
        from: DeviceKey,
        /// The headers, with those bodies that came.
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        /// The verifier of the headers.
        verifier: V,
        /// The token of whoever waits for the result.
        token: R,
    },
    /// Ask the store something that no snapshot has, or acknowledge notices.
    Ask(Box<dyn FnOnce(&mut Store) + Send>),
    /// Try again what is paused: its cause may be gone, for example because code arrived.
    Wake,
    /// A read of the store's files failed. Examine whether the databases still take transactions.
    ReadFailed,
    /// Remove the derived state and fold the log again. No other job is done until [`Rebuild::Done`](crate::store::effect::Rebuild::Done)
    /// or [`Rebuild::Failed`](crate::store::effect::Rebuild::Failed).
    Rebuild,
    /// Make everything durable and end.
    Close,
}

impl<C, R, V> std::fmt::Debug for Job<C, R, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Call { .. } => "Call",
            Self::Receive { .. } => "Receive",
            Self::Ask(_) => "Ask",
            Self::Wake => "Wake",
            Self::ReadFailed => "ReadFailed",
            Self::Rebuild => "Rebuild",
            Self::Close => "Close",
        })
    }
}

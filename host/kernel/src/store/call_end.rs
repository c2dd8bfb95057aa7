//! What the caller of a local call gets: an outcome, or why there is none.

use lattice_format::{CallId, DeviceKey, IntentionId, Time};

use crate::clock::{ClockError, Span};
use crate::fold::core::Stopped;
use crate::fold::governance::storage;
use crate::outcome::Outcome;
use crate::run::engine::HostFault;
use crate::storage::error::StorageError;

/// What a caller is told about its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The outcome of the transaction. Only a transaction that ended with [`Outcome::Ok`] is in the log.
    pub outcome: Outcome,
    /// The id of the transaction's first call.
    pub call: CallId,
}

/// Why a local call has no outcome. Nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// This device is not admitted to the store.
    #[error("this device ({device}) is not a member of the store")]
    NotAdmitted {
        /// This device.
        device: DeviceKey,
    },
    /// Governance lets this device write, but everything that it signs is void, because of a revocation that its
    /// admission did not know of.
    #[error(
        "this device ({device}) was also revoked by somebody whose revocation was not known where it was admitted again, so nobody counts what it signs"
    )]
    CutOff {
        /// This device.
        device: DeviceKey,
    },
    /// The transaction alone is larger than a body may be.
    #[error("a transaction of {len} bytes exceeds {max}, the most in this store")]
    TooLarge {
        /// An upper bound of its encoded length, in bytes.
        len: usize,
        /// The most bytes that a transaction may have in this store.
        max: usize,
    },
    /// With this transaction the device would exceed its quota.
    #[error(
        "this call makes an entry of {len} bytes, and with the {written} that this device has written it exceeds {quota}, its quota in this store"
    )]
    OverQuota {
        /// This device.
        device: DeviceKey,
        /// The length of the entry with this transaction in it, header and body, in bytes. In the system lane with as
        /// many devices as an entry admits.
        len: u64,
        /// The bytes that this device has written, in all of its chains together: in the system lane those of this lane.
        written: u64,
        /// The device's quota, in bytes.
        quota: u64,
    },
    /// The transaction has no call or too many, or a name is empty or too long.
    #[error("{0}")]
    Malformed(String),
    /// No time is left above the last one of the store.
    #[error("no time is left above {0:?}, the last one applied")]
    Time(Time),
    /// This node's clock is not to be signed by.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The last entry of this device lies too far ahead of the time that the members agree on.
    #[error(
        "the last entry of this device in the store, {entry}, is {} ahead of its peers' clocks, so they park it, and would park all that follows until then",
        Span(*.by_ms)
    )]
    ChainAhead {
        /// The entry.
        entry: IntentionId,
        /// How far ahead it is, in milliseconds.
        by_ms: u64,
    },
    /// This host could not run the call.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl From<StorageError> for CallError {
    fn from(error: StorageError) -> Self {
        Self::Host(storage(error))
    }
}

impl From<Stopped> for CallError {
    fn from(stopped: Stopped) -> Self {
        Self::Host(match stopped {
            Stopped::Fault(fault) => fault,
            Stopped::Storage(error) => storage(error),
        })
    }
}

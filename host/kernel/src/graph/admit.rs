//! Admission: the checks that need an intention together with the entries that it names.
//!
//! Admission depends on the entry and its causal past alone, never on arrival, on a clock or on governance, so every
//! replica admits the same entries. Revocations do not touch admission. They make entries void, and the fold decides
//! that.

use lattice_format::{IntentionId, StoreId, Time, VerifiedHeader};

use crate::graph::info::Info;
use crate::graph::lookup_cache::{LookupCache, Named};
use crate::mutant::{self, Mutant};
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;

/// Why an intention can never belong to the store. The same holds for entries that float on it. The sender answers
/// for the error, because every node can check an entry before it passes it on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The intention belongs to another store, or is a second genesis.
    #[error("it belongs to another store than {store}")]
    WrongStore {
        /// The store that the intention was sent to.
        store: StoreId,
    },
    /// The intention's time is not above the times of all entries that it names.
    #[error("its time {time:?} is not above {named:?}, the time of {name}, which it names")]
    Time {
        /// The intention's time.
        time: Time,
        /// The named entry.
        name: IntentionId,
        /// The named entry's time.
        named: Time,
    },
    /// `prev` is not its chain's previous intention.
    #[error("{prev} is not the previous intention of this author's chain at seq {seq}")]
    Prev {
        /// The entry that it names as `prev`.
        prev: IntentionId,
        /// Its own number in the chain.
        seq: u64,
    },
    /// `grant` does not admit its author.
    #[error("{grant} does not admit the author")]
    Grant {
        /// The entry that it names as `grant`.
        grant: IntentionId,
    },
    /// The chain's cumulative bytes are wrong.
    #[error("it says that its chain holds {claimed} bytes of bodies, and it holds {actual}")]
    ChainBytes {
        /// The number in its header.
        claimed: u64,
        /// The number that its chain holds.
        actual: u64,
    },
    /// The body is larger than this store allows.
    #[error("a body of {len} bytes exceeds {max}, the most in this store")]
    BodyBytes {
        /// The body's length in bytes.
        len: u32,
        /// The most bytes allowed.
        max: u32,
    },
}

/// What admission says of an intention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The intention belongs to the store.
    Admitted,
    /// The intention names these entries, which are unknown here. It floats until they arrive.
    Missing(Vec<IntentionId>),
    /// The intention uses something that this version does not know. It floats, with this reason.
    NotUnderstood(&'static str),
    /// The intention can never belong to the store.
    Never(AdmitError),
}

/// Decides whether the intention under one verified header belongs to the store.
pub(crate) fn admit(
    rows: &RowsView,
    cache: &mut LookupCache,
    info: &Info,
    header: &VerifiedHeader,
) -> Result<Admission, StorageError> {
    if header.store != Some(info.id) {
        return Ok(Admission::Never(AdmitError::WrongStore { store: info.id }));
    }
    if header.critical != 0 {
        return Ok(Admission::NotUnderstood(
            "it has critical bits that this version does not know; update Lattice",
        ));
    }
    if header.body.key != 0 {
        return Ok(Admission::NotUnderstood(
            "its body is encrypted, which this version does not know; update Lattice",
        ));
    }
    let mut missing = Vec::new();
    let mut found: Vec<(IntentionId, Named)> = Vec::new();
    for name in header.names() {
        match cache.names.find(rows, &name)? {
            Some(named) => found.push((name, named)),
            None if mutant::active(Mutant::DependencyNotAwaited) && header.deps.contains(&name) => {
            }
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        return Ok(Admission::Missing(missing));
    }
    Ok(match check(rows, cache, info, header, &found)? {
        Ok(()) => Admission::Admitted,
        Err(error) => Admission::Never(error),
    })
}

fn check(
    rows: &RowsView,
    cache: &mut LookupCache,
    info: &Info,
    header: &VerifiedHeader,
    names: &[(IntentionId, Named)],
) -> Result<Result<(), AdmitError>, StorageError> {
    let max = info.genesis.limits.body_bytes;
    if header.body.len > max {
        return Ok(Err(AdmitError::BodyBytes {
            len: header.body.len,
            max,
        }));
    }
    let named = |id: IntentionId| {
        names
            .iter()
            .find(|(name, _)| *name == id)
            .map(|(_, named)| *named)
            .expect("every name of the header was looked up above")
    };
    for (name, named) in names {
        if header.time <= named.time {
            return Ok(Err(AdmitError::Time {
                time: header.time,
                name: *name,
                named: named.time,
            }));
        }
    }
    let prev = header
        .prev
        .expect("verified: every intention but a genesis has one");
    let before = named(prev);
    let prev_branch = cache.branch(rows, before.branch)?;
    let bad_prev = Ok(Err(AdmitError::Prev {
        prev,
        seq: header.seq.0,
    }));
    let same_chain = (prev_branch.author, prev_branch.chain) == (header.author, header.chain);
    let bytes_before = if header.seq.0 == 0 {
        // A chain's first intention names the genesis as `prev`. In the chain of the genesis, the genesis itself is
        // the first, so no other entry of that chain has seq 0.
        if before.local != LocalSeq(0) || same_chain {
            return bad_prev;
        }
        0
    } else {
        if !same_chain || before.seq.0.checked_add(1) != Some(header.seq.0) {
            return bad_prev;
        }
        before.chain_bytes
    };
    let actual = bytes_before.saturating_add(u64::from(header.body.len));
    if header.chain_bytes != actual {
        return Ok(Err(AdmitError::ChainBytes {
            claimed: header.chain_bytes,
            actual,
        }));
    }
    let grant = header
        .grant
        .expect("verified: every intention but a genesis has one");
    if !cache.admits(rows, &header.author, named(grant).local)? {
        return Ok(Err(AdmitError::Grant { grant }));
    }
    Ok(Ok(()))
}

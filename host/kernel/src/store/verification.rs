//! Verification of the headers of a received batch. Whoever gives the batch to a store chooses the verifier.

use std::sync::Mutex;
use std::thread;

use lattice_format::{SignedHeader, VerifiedHeader, VerifyError, verify_batch};

use crate::limits::VERIFY_HALVES_MIN;

/// Verifies the headers of one batch.
pub trait VerifyBatch {
    /// Returns one result for each header, in their order: `Ok` exactly for those that
    /// [`lattice_format::verify_batch`] accepts.
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>>;
}

/// Verifies every header of a batch, all signatures in one computation, or those of a large batch in two at once.
///
/// The field is 32 fresh random bytes. They serve for one batch: an attacker who knows them in advance can make wrong
/// signatures whose errors cancel out.
#[derive(Debug)]
pub struct BatchVerifier(pub [u8; 32]);

impl VerifyBatch for BatchVerifier {
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>> {
        match batch.len() < VERIFY_HALVES_MIN {
            true => verify_batch(batch, &self.0),
            false => in_halves(batch, &self.0),
        }
    }
}

/// Verifies half of a batch on a thread of its own, if the system gives one.
fn in_halves(
    mut batch: Vec<SignedHeader>,
    seed: &[u8; 32],
) -> Vec<Result<VerifiedHeader, VerifyError>> {
    let rest = Mutex::new(batch.split_off(batch.len() / 2));
    // A computation has a seed of its own, and nobody can know this one either.
    let rest_seed = blake3::derive_key("lattice 2026-12 second half of a batch 1", seed);
    let verify_rest = || {
        let rest = std::mem::take(&mut *rest.lock().expect("nobody panics while it is held"));
        verify_batch(rest, &rest_seed)
    };
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, verify_rest);
        let mut results = verify_batch(batch, seed);
        results.extend(match other {
            Ok(other) => other.join().expect("verification does not panic"),
            Err(_) => verify_rest(),
        });
        results
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::keys::LocalSeq;
    use crate::testing;

    /// Holds: invariants 2, 10.
    #[test]
    fn a_batch_in_halves_has_the_results_of_each_header_in_its_place() {
        let store = testing::found(0, 1_000_000);
        let genesis = store.snapshot().entry_at(LocalSeq(0)).unwrap().unwrap();
        let right = genesis.header.signed().clone();
        let mut wrong = right.clone();
        wrong.signature.0[3] ^= 1;
        for len in [VERIFY_HALVES_MIN - 1, VERIFY_HALVES_MIN, VERIFY_HALVES_MIN + 1] {
            for faults in [vec![], vec![0], vec![len - 1], vec![3, len / 2, len / 2 + 1]] {
                let mut batch = vec![right.clone(); len];
                for place in &faults {
                    batch[*place] = wrong.clone();
                }
                let results = BatchVerifier([7; 32]).verify_batch(batch);
                assert_eq!(results.len(), len);
                for (place, result) in results.into_iter().enumerate() {
                    assert_eq!(result.is_err(), faults.contains(&place), "{place} of {len}");
                }
            }
        }
    }
}

//! Verification of the signatures of received entries, by two threads where there are many.

use std::sync::Mutex;
use std::thread;

use lattice_format::{SignedHeader, VerifiedHeader, VerifyError};
use lattice_kernel::{BatchVerifier, VerifyBatch};

use crate::limits::VERIFY_HALVES_MIN;

/// Verifies the headers of a batch, and half of a large one on a thread of its own, since the writer waits for it.
///
/// The field is 32 fresh random bytes, as for [`BatchVerifier`].
#[derive(Debug)]
pub struct Verifier(pub [u8; 32]);

impl VerifyBatch for Verifier {
    fn verify_batch(
        self,
        mut batch: Vec<SignedHeader>,
    ) -> Vec<Result<VerifiedHeader, VerifyError>> {
        if batch.len() < VERIFY_HALVES_MIN {
            return BatchVerifier(self.0).verify_batch(batch);
        }
        let rest = Mutex::new(batch.split_off(batch.len() / 2));
        // Each half has a seed of its own, and nobody can know this one either.
        let rest_seed = blake3::derive_key("lattice 2026-12 second half of a batch 1", &self.0);
        let verify_rest = || {
            let rest = std::mem::take(&mut *rest.lock().expect("nobody panics while it is held"));
            BatchVerifier(rest_seed).verify_batch(rest)
        };
        thread::scope(|scope| {
            let other = thread::Builder::new().spawn_scoped(scope, verify_rest);
            let mut results = BatchVerifier(self.0).verify_batch(batch);
            results.extend(match other {
                Ok(other) => other.join().expect("verification does not panic"),
                // The system gives no thread.
                Err(_) => verify_rest(),
            });
            results
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_kernel::LocalSeq;
    use lattice_testing as testing;

    use super::*;

    /// Holds: invariants 2, 10.
    #[test]
    fn a_batch_in_halves_has_the_results_of_each_header_in_its_place() {
        let store = testing::found(0, 1_000_000);
        let genesis = store.snapshot().entry_at(LocalSeq(0)).unwrap().unwrap();
        let right = genesis.header.signed().clone();
        let mut wrong = right.clone();
        wrong.signature.0[3] ^= 1;
        for len in [
            VERIFY_HALVES_MIN - 1,
            VERIFY_HALVES_MIN,
            VERIFY_HALVES_MIN + 1,
        ] {
            for faults in [
                vec![],
                vec![0],
                vec![len - 1],
                vec![3, len / 2, len / 2 + 1],
            ] {
                let mut batch = vec![right.clone(); len];
                for place in &faults {
                    batch[*place] = wrong.clone();
                }
                let results = Verifier([7; 32]).verify_batch(batch);
                assert_eq!(results.len(), len);
                for (place, result) in results.into_iter().enumerate() {
                    assert_eq!(result.is_err(), faults.contains(&place), "{place} of {len}");
                }
            }
        }
    }
}

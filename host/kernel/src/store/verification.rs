//! How the headers of a received batch are verified: chosen by whoever gives the batch to a store.

use lattice_format::{SignedHeader, VerifiedHeader, VerifyError};

/// Verifies the headers of one batch.
pub trait VerifyBatch {
    /// Returns one result for each header, in their order: `Ok` exactly for those that
    /// [`lattice_format::verify_batch`] accepts.
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>>;
}

/// Verifies every header of a batch, all signatures in one computation.
///
/// Holds 32 fresh random bytes. Whoever knows them in advance can make signatures that hold together although each of
/// them is wrong, so they serve for one batch.
#[derive(Debug)]
pub struct BatchVerifier(pub [u8; 32]);

impl VerifyBatch for BatchVerifier {
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>> {
        lattice_format::verify_batch(batch, &self.0)
    }
}

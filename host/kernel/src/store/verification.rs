//! Verification of the headers of a received batch. Whoever gives the batch to a store chooses the verifier.

use lattice_format::{SignedHeader, VerifiedHeader, VerifyError};

/// Verifies the headers of one batch.
pub trait VerifyBatch {
    /// Returns one result for each header, in their order: `Ok` exactly for those that
    /// [`lattice_format::verify_batch`] accepts.
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>>;
}

/// Verifies every header of a batch, all signatures in one computation.
///
/// The field is 32 fresh random bytes. They serve for one batch: an attacker who knows them in advance can make wrong
/// signatures whose errors cancel out.
#[derive(Debug)]
pub struct BatchVerifier(pub [u8; 32]);

impl VerifyBatch for BatchVerifier {
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>> {
        lattice_format::verify_batch(batch, &self.0)
    }
}

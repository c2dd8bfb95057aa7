//! Signatures verified once for all nodes of a simulated world.
//!
//! A thousand nodes in one thread receive the same entries, and a signature that holds for one of them holds for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use lattice_format::{
    Header, IntentionId, Signature, SignedHeader, VerifiedHeader, VerifyError, verify_batch,
};
use lattice_kernel::VerifyBatch;

/// The most headers that are remembered; beyond it all are forgotten.
const HEADERS_MAX: usize = 64 * 1024;

type Known = HashMap<(IntentionId, Signature), VerifiedHeader>;

/// Headers whose signatures were found to hold. What failed is never remembered. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct VerifiedHeaders(Arc<Mutex<Known>>);

impl VerifiedHeaders {
    /// Returns a verifier that looks a header up here first, and verifies the others with the seed.
    pub fn verifier(&self, seed: [u8; 32]) -> RememberingVerifier {
        RememberingVerifier {
            known: self.clone(),
            seed,
        }
    }
}

/// Verifies what is not among some [`VerifiedHeaders`], and adds what holds to them.
#[derive(Debug)]
pub struct RememberingVerifier {
    known: VerifiedHeaders,
    seed: [u8; 32],
}

impl VerifyBatch for RememberingVerifier {
    fn verify_batch(self, batch: Vec<SignedHeader>) -> Vec<Result<VerifiedHeader, VerifyError>> {
        let mut known = self.known.0.lock().expect("no holder panics");
        let mut results = Vec::with_capacity(batch.len());
        let (mut new, mut places) = (Vec::new(), Vec::new());
        for (place, signed) in batch.into_iter().enumerate() {
            // The id covers every byte of the header.
            let key = (Header::id_of(&signed.bytes), signed.signature);
            let header = known.get(&key).cloned();
            if header.is_none() {
                new.push(signed);
                places.push((place, key));
            }
            results.push(header.map(Ok));
        }
        if known.len() + new.len() > HEADERS_MAX {
            known.clear();
        }
        for ((place, key), result) in places.into_iter().zip(verify_batch(new, &self.seed)) {
            if let Ok(header) = &result {
                known.insert(key, header.clone());
            }
            results[place] = Some(result);
        }
        let all = results.into_iter();
        all.map(|result| result.expect("each was known or is new"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use lattice_format::Lane;
    use lattice_kernel::LocalSeq;

    use super::*;
    use crate::{body_of, device, found, key, resign, twin};

    #[test]
    fn what_was_found_sound_is_found_again_and_nothing_else_is() {
        let store = found(0, 1_000);
        let genesis = store.snapshot().entry_at(LocalSeq(0)).unwrap().unwrap();
        assert_eq!(genesis.header.author, device(0));
        let sound = genesis.header.signed().clone();
        let other = twin(&genesis.header, Lane::System, &body_of(resign()), &key(0));
        let other = other.signed().clone();
        // Each of them carries what the other one was signed with.
        let wrong = |a: &SignedHeader, b: &SignedHeader| SignedHeader {
            bytes: a.bytes.clone(),
            signature: b.signature,
        };
        let batch = vec![
            sound.clone(),
            wrong(&sound, &other),
            other.clone(),
            wrong(&other, &sound),
            sound,
        ];
        let expected = verify_batch(batch.clone(), &[1; 32]);
        assert_eq!(expected.iter().filter(|r| r.is_ok()).count(), 3);
        let known = VerifiedHeaders::default();
        for _ in 0..2 {
            let results = known.verifier([1; 32]).verify_batch(batch.clone());
            assert_eq!(results, expected);
            assert_eq!(known.0.lock().unwrap().len(), 2);
        }
    }
}

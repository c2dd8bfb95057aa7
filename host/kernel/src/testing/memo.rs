//! Signatures that were verified in this thread already, for networks of many nodes in one thread: what one of them has
//! found to be sound need not be computed again by the next. Off until somebody asks for it.

use std::cell::RefCell;
use std::collections::HashMap;

use lattice_format::{Header, IntentionId, Signature, SignedHeader, VerifiedHeader, VerifyError};

/// Headers that are remembered; beyond it all are forgotten.
const HEADERS_MAX: usize = 64 * 1024;

type Known = HashMap<(IntentionId, Signature), VerifiedHeader>;

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// Remembers what is verified in this thread from now on.
pub fn remember() {
    KNOWN.with_borrow_mut(|known| {
        known.get_or_insert_default();
    });
}

/// As [`lattice_format::verify_batch`]. What failed is never remembered.
pub(crate) fn verify_batch(
    batch: Vec<SignedHeader>,
    seed: &[u8; 32],
) -> Vec<Result<VerifiedHeader, VerifyError>> {
    KNOWN.with_borrow_mut(|known| match known {
        None => lattice_format::verify_batch(batch, seed),
        Some(known) => look_up(known, batch, seed),
    })
}

fn look_up(
    known: &mut Known,
    batch: Vec<SignedHeader>,
    seed: &[u8; 32],
) -> Vec<Result<VerifiedHeader, VerifyError>> {
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
    for ((place, key), result) in places
        .into_iter()
        .zip(lattice_format::verify_batch(new, seed))
    {
        if let Ok(header) = &result {
            known.insert(key, header.clone());
        }
        results[place] = Some(result);
    }
    let all = results.into_iter();
    all.map(|result| result.expect("each was known or is new"))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_format::Lane;

    use super::*;
    use crate::LocalSeq;
    use crate::testing::{body_of, device, found, key, resign, twin};

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
        let expected = lattice_format::verify_batch(batch.clone(), &[1; 32]);
        assert_eq!(expected.iter().filter(|r| r.is_ok()).count(), 3);
        remember();
        for _ in 0..2 {
            assert_eq!(verify_batch(batch.clone(), &[1; 32]), expected);
        }
        let count = || KNOWN.with_borrow(|known| known.as_ref().map(HashMap::len));
        assert_eq!(count(), Some(2));
        KNOWN.set(None);
    }
}

//! Sets and maps of ids, with a hash that is cheap and that peers cannot foresee.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::OnceLock;

use lattice_format::IntentionId;

const WORDS: usize = 4;

/// Hashes ids by multipliers that are secret to this process (multilinear hashing; Lemire and Kaser, "Strongly
/// universal string hashing is fast", 2014). Secret, because peers choose the ids and could make them collide. The
/// order of a table differs between processes, so nothing may depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Multilinear(u128);

fn secrets() -> &'static [u128; WORDS] {
    static SECRETS: OnceLock<[u128; WORDS]> = OnceLock::new();
    SECRETS.get_or_init(|| {
        let random = RandomState::new();
        let half = |n: usize| u128::from(random.hash_one(n));
        std::array::from_fn(|n| half(2 * n) << 64 | half(2 * n + 1))
    })
}

impl Hasher for Multilinear {
    fn write(&mut self, bytes: &[u8]) {
        for (word, secret) in bytes.as_chunks().0.iter().zip(secrets()) {
            let product = secret.wrapping_mul(u64::from_le_bytes(*word).into());
            self.0 = self.0.wrapping_add(product);
        }
    }

    // The length before the bytes needs no hash, because all ids have one length.
    fn write_usize(&mut self, _: usize) {}

    // A table picks a bucket by the low bits of a hash. Where ids differ in one byte, these bits would depend on few
    // bits of a secret, and one secret in some hundred would spread such ids badly. The finalizer of MurmurHash3
    // (Appleby) lets every bit of the sum change every bit of the hash.
    fn finish(&self) -> u64 {
        let mut hash = (self.0 >> 64) as u64;
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

/// A bounded set of ids.
pub(crate) type IdSet = HashSet<IntentionId, BuildHasherDefault<Multilinear>>;
/// A bounded map by id.
pub(crate) type IdMap<V> = HashMap<IntentionId, V, BuildHasherDefault<Multilinear>>;

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of an id by given secrets.
    fn hash(secrets: &[u128; WORDS], id: &[u8; 32]) -> u64 {
        let sum = id.as_chunks().0.iter().zip(secrets);
        let sum = sum.fold(0u128, |sum, (word, secret)| {
            sum.wrapping_add(secret.wrapping_mul(u64::from_le_bytes(*word).into()))
        });
        Multilinear(sum).finish()
    }

    /// How many of 65,536 buckets are taken by 256 ids that differ in one byte.
    fn places(secrets: &[u128; WORDS], place: usize) -> usize {
        let hashes: HashSet<u64> = (0..=255)
            .map(|byte| {
                let mut id = [7; 32];
                id[place] = byte;
                hash(secrets, &id)
            })
            .collect();
        assert_eq!(hashes.len(), 256, "byte {place}");
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
        low.len()
    }

    #[test]
    fn ids_that_agree_in_most_bytes_do_not_fall_together() {
        // Multiples of this secret agree in the bits by which a table would pick buckets without the finalizer.
        let weak = [0x9e37_79b9_7f4a_7c15_f39c_c060_5c80_0000_u128; WORDS];
        for secrets in [&weak, secrets()] {
            for place in 0..32 {
                let low = places(secrets, place);
                assert!(low > 240, "byte {place}: {low} places");
            }
        }
    }

    #[test]
    fn an_id_is_hashed_by_the_secrets_of_this_process() {
        let id = std::array::from_fn(|n| n as u8 * 7);
        let hashed = IdSet::default().hasher().hash_one(IntentionId(id));
        assert_eq!(hashed, hash(secrets(), &id));
    }

    #[test]
    fn ids_are_told_apart_by_all_of_their_bytes() {
        let id = |first, last| {
            let mut bytes = [7; 32];
            (bytes[0], bytes[31]) = (first, last);
            IntentionId(bytes)
        };
        let mut set = IdSet::default();
        assert!(set.insert(id(1, 0)) && set.insert(id(1, 9)) && !set.insert(id(1, 0)));
        assert!(set.contains(&id(1, 9)) && !set.contains(&id(1, 8)));
    }
}

//! Sets and maps of ids, which are hashes already.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use lattice_format::IntentionId;

/// Takes the first bytes of an id for its hash. Whoever makes ids that agree in these makes a look-up as long as the
/// table, so it is for tables that are bounded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_be_bytes(*first);
        }
    }

    // The length of an id says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A bounded set of ids.
pub(crate) type IdSet = HashSet<IntentionId, BuildHasherDefault<FirstBytes>>;
/// A bounded map by id.
pub(crate) type IdMap<V> = HashMap<IntentionId, V, BuildHasherDefault<FirstBytes>>;

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn ids_differ_by_their_first_bytes_and_are_told_apart_by_all() {
        let id = |first, last| {
            let mut bytes = [7; 32];
            (bytes[0], bytes[31]) = (first, last);
            IntentionId(bytes)
        };
        let mut set = IdSet::default();
        let hash = |set: &IdSet, id: IntentionId| set.hasher().hash_one(id);
        assert_ne!(hash(&set, id(1, 0)), hash(&set, id(2, 0)));
        assert_eq!(hash(&set, id(1, 0)), hash(&set, id(1, 9)));
        assert!(set.insert(id(1, 0)) && set.insert(id(1, 9)) && !set.insert(id(1, 0)));
        assert!(set.contains(&id(1, 9)) && !set.contains(&id(1, 8)));
    }
}

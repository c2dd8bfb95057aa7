//! A homomorphic hash of a set: adding and removing elements in any order gives the same digest.
//!
//! LtHash16 over BLAKE3 (Lewi, Kim, Maykov, Weis, "Securing Update Propagation with Homomorphic
//! Hashing", 2019): each element is expanded to 1,024 16-bit lanes, and the set's hash is their
//! sum, lane by lane, wrapping. 2,048 bytes give at least 200 bits of security.

use std::sync::OnceLock;

use lattice_format::Digest;

const LANES: usize = 1024;
const CONTEXT: &str = "lattice 2026-11 lthash element 1";

/// The hash of a set of byte strings.
#[derive(Clone)]
pub struct LtHash {
    lanes: Box<[u16; LANES]>,
    /// The digest of `lanes`, computed when it is first asked for. A change of the set drops it.
    digest: OnceLock<Digest>,
}

impl Default for LtHash {
    fn default() -> Self {
        Self {
            lanes: Box::new([0; LANES]),
            digest: OnceLock::new(),
        }
    }
}

impl PartialEq for LtHash {
    fn eq(&self, other: &Self) -> bool {
        self.lanes == other.lanes
    }
}

impl Eq for LtHash {}

impl std::fmt::Debug for LtHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LtHash({:?})", self.digest())
    }
}

/// One element of a set, hashed from its parts. The length of each part is hashed too, so that other parts with the
/// same bytes in a row make another element.
pub struct Element(blake3::Hasher);

impl Element {
    /// An element made of these parts.
    pub fn new(parts: &[&[u8]]) -> Self {
        // Hashing the context anew for each element would double the cost of short ones.
        static KEYED: OnceLock<blake3::Hasher> = OnceLock::new();
        let mut hasher = KEYED
            .get_or_init(|| blake3::Hasher::new_derive_key(CONTEXT))
            .clone();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher)
    }

    fn expand(&self) -> [u8; LANES * 2] {
        let mut bytes = [0; LANES * 2];
        self.0.finalize_xof().fill(&mut bytes);
        bytes
    }
}

impl LtHash {
    /// Length of the full hash, in bytes.
    pub const BYTES: usize = LANES * 2;

    fn changed(&mut self) -> std::slice::IterMut<'_, u16> {
        self.digest.take();
        self.lanes.iter_mut()
    }

    /// Adds an element.
    pub fn add(&mut self, element: &Element) {
        for (lane, bytes) in self.changed().zip(element.expand().as_chunks::<2>().0) {
            *lane = lane.wrapping_add(u16::from_le_bytes(*bytes));
        }
    }

    /// Removes an element that was added before.
    pub fn remove(&mut self, element: &Element) {
        for (lane, bytes) in self.changed().zip(element.expand().as_chunks::<2>().0) {
            *lane = lane.wrapping_sub(u16::from_le_bytes(*bytes));
        }
    }

    /// Adds all elements of another set.
    pub fn add_all(&mut self, other: &Self) {
        for (lane, more) in self.changed().zip(other.lanes.iter()) {
            *lane = lane.wrapping_add(*more);
        }
    }

    /// Removes all elements of another set, which were added before.
    pub fn remove_all(&mut self, other: &Self) {
        for (lane, less) in self.changed().zip(other.lanes.iter()) {
            *lane = lane.wrapping_sub(*less);
        }
    }

    /// The full hash, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        for (bytes, lane) in out.as_chunks_mut::<2>().0.iter_mut().zip(self.lanes.iter()) {
            *bytes = lane.to_le_bytes();
        }
        out
    }

    /// Reads what [`LtHash::to_bytes`] wrote; `None` for another length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let mut hash = Self::default();
        for (lane, bytes) in hash.lanes.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *lane = u16::from_le_bytes(*bytes);
        }
        Some(hash)
    }

    /// BLAKE3 of the full hash.
    pub fn digest(&self) -> Digest {
        *self
            .digest
            .get_or_init(|| Digest(*blake3::hash(&self.to_bytes()).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let (a, b) = (Element::new(&[b"a"]), Element::new(&[b"b", b"c"]));
        let mut one = LtHash::default();
        let digests = [one.digest(), {
            one.add(&a);
            one.digest()
        }];
        assert_ne!(digests[0], digests[1]);
        one.add(&b);
        let mut other = LtHash::default();
        other.add(&b);
        other.add(&a);
        assert_eq!(one, other);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(LtHash::from_slice(&one.to_bytes()), Some(one.clone()));
        let (mut left, mut both) = (LtHash::default(), LtHash::default());
        left.add(&a);
        both.add_all(&left);
        assert_eq!(both.digest(), digests[1]);
        both.add(&b);
        assert_eq!(both, one);
        both.remove_all(&left);
        left.remove(&a);
        left.add(&b);
        assert_eq!(both, left);
        one.remove(&b);
        assert_eq!(one.digest(), digests[1]);
        one.remove(&a);
        assert_eq!(one.digest(), digests[0]);
        assert_eq!(one, LtHash::default());
    }

    #[test]
    fn parts_are_separated() {
        let digest = |parts: &[&[u8]]| {
            let mut hash = LtHash::default();
            hash.add(&Element::new(parts));
            hash.digest()
        };
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }
}

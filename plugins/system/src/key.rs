//! Public keys of devices and invites: which ones are fit, and what a claim signs.
//!
//! An honest key lies in the subgroup of prime order and has one encoding. For a key of small order anybody can
//! make signatures; one of mixed order, or with a second encoding, would be one device under several names.

use ed25519_dalek::{Signature, VerifyingKey};

use crate::bindings::exports::lattice::system::commands::Error;

/// What the signed bytes of a claim begin with.
pub const CLAIM_CONTEXT: &[u8; 16] = b"lattice claim 1\0";

/// Bytes of a public key.
pub const KEY_BYTES: usize = 32;

/// A public key that is fit for a member or an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Checks a key that is about to be admitted, or to invite.
    ///
    /// # Errors
    /// [`Error::BadKey`] for any other length, for bytes that are not the one encoding of a point, and for
    /// points of small or mixed order.
    pub fn admissible(bytes: &[u8]) -> Result<Self, Error> {
        Self::check(bytes).ok_or_else(|| Error::BadKey(bytes.to_vec()))
    }

    /// A key to look up; those that no member could have give `None`.
    pub fn lookup(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn check(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; KEY_BYTES] = bytes.try_into().ok()?;
        let key = VerifyingKey::from_bytes(&bytes).ok()?;
        let point = key.to_edwards();
        let canonical = point.compress().to_bytes() == bytes;
        (canonical && !key.is_weak() && point.is_torsion_free()).then_some(Self(bytes))
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The bytes of the key, as the contract has them.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Whether `signature` is this invite's over its claim for `device` in `store`.
    pub fn signed_claim(&self, store: &[u8], device: &Self, signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else {
            return false;
        };
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        key.verify_strict(&claim_message(store, self, device), &signature)
            .is_ok()
    }
}

/// The bytes that the private half of `invite` signs for `device` to be admitted to `store`.
pub fn claim_message(store: &[u8], invite: &PublicKey, device: &PublicKey) -> Vec<u8> {
    [CLAIM_CONTEXT, store, invite.as_bytes(), device.as_bytes()].concat()
}

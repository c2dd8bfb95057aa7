//! Types of everything that is hashed, signed or counted.
//!
//! No bare `[u8; 32]` or `u64` crosses a function boundary: a store id cannot be passed where an
//! intention id is meant.

use core::fmt;
use core::str::FromStr;

/// Domain-separation contexts for BLAKE3's key derivation mode, one a use. They never change.
pub(crate) mod context {
    pub(crate) const INTENTION: &str = "lattice 2026-11 intention id 1";
    pub(crate) const CALL: &str = "lattice 2026-11 call id 1";
    pub(crate) const BATCH: &str = "lattice 2026-11 batch verification randomness 1";
}

/// A text that is not the lowercase or uppercase hexadecimal form of an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {digits} hexadecimal digits")]
pub struct ParseIdError {
    text: alloc::string::String,
    digits: usize,
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let error = || ParseIdError {
        text: text.chars().take(80).collect(),
        digits: N * 2,
    };
    if text.len() != N * 2 {
        return Err(error());
    }
    let mut out = [0u8; N];
    for (slot, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |b: u8| (b as char).to_digit(16).ok_or_else(error);
        *slot = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Ok(out)
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads exactly this type's length; `None` for any other.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                write_hex(f, &self.0[..8])?;
                write!(f, ")")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }
    };
}

bytes_type!(
    /// Identity of an intention: BLAKE3 over its encoded header, with a context of its own.
    IntentionId,
    32
);
bytes_type!(
    /// Identity of a store: the id of its genesis.
    StoreId,
    32
);
bytes_type!(
    /// Plain BLAKE3 of a body's bytes, so that a body can be fetched and verified as a blob.
    BodyHash,
    32
);
bytes_type!(
    /// Identity of one call, fixed before it runs.
    CallId,
    32
);
bytes_type!(
    /// Plain BLAKE3 of a component's bytes.
    ComponentId,
    32
);
bytes_type!(
    /// Plain BLAKE3 of a blob's bytes.
    BlobId,
    32
);
bytes_type!(
    /// Any other BLAKE3 digest: of a root, a set, an outcome.
    Digest,
    32
);
bytes_type!(
    /// The Ed25519 public key of a device.
    DeviceKey,
    32
);
bytes_type!(
    /// An Ed25519 signature.
    Signature,
    64
);

impl From<ComponentId> for BlobId {
    fn from(id: ComponentId) -> Self {
        Self(id.0)
    }
}

impl From<BlobId> for ComponentId {
    fn from(id: BlobId) -> Self {
        Self(id.0)
    }
}

impl From<IntentionId> for StoreId {
    /// A store's id is the id of its genesis; the caller says that `id` is one.
    fn from(id: IntentionId) -> Self {
        Self(id.0)
    }
}

impl From<StoreId> for IntentionId {
    fn from(id: StoreId) -> Self {
        Self(id.0)
    }
}

/// 64 random bits that a device draws when it starts a chain in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub u64);

/// Place of an intention in its chain, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = IntentionId([0xab; 32]);
        assert_eq!(id.to_string().parse::<IntentionId>(), Ok(id));
        assert!("ab".parse::<IntentionId>().is_err());
        assert!("zz".repeat(32).parse::<IntentionId>().is_err());
        assert!("é".repeat(32).parse::<IntentionId>().is_err());
    }
}

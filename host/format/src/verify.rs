//! Verification: checks that need one intention alone.
//!
//! `verify` is the only way to a [`VerifiedHeader`], so code that holds one needs no second check.
//! Signatures follow ZIP-215 (Zcash Improvement Proposal 215), whose batch and single predicates
//! agree on every input, torsion points included; with any other predicate two nodes could
//! disagree about an entry for ever.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;

use ed25519_dalek::Signer;
use ed25519_zebra as zebra;

use crate::body::Body;
use crate::header::{Header, Known};
use crate::ids::{DeviceKey, IntentionId, Signature, context};
use crate::limits::{
    ADMITS_MAX, BODY_BYTES_MAX, DEPS_MAX, FORMAT, GENESIS_ADMITS_MAX, GENESIS_HEADER_BYTES_MAX,
    HEADER_BYTES_MAX, HINT_BYTES_MAX, HINTS_MAX,
};
use crate::order::Position;

/// A header as it travels: its encoded bytes, format byte first, and the signature over its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeader {
    /// Format byte and encoding.
    pub bytes: Arc<[u8]>,
    /// The author's signature over the id of `bytes`.
    pub signature: Signature,
}

/// Why one intention alone is not acceptable. Each error is a fault of the sender, except for
/// [`VerifyError::UnknownFormat`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// There are no bytes.
    #[error("the header is empty")]
    Empty,
    /// A format byte of a newer version. The bytes are kept, floating, without blame.
    #[error("format {format} is newer than {FORMAT}; update Lattice to read it")]
    UnknownFormat {
        /// The format byte.
        format: u8,
    },
    /// The header is larger than its kind allows.
    #[error("a header of {len} bytes exceeds {max}")]
    HeaderBytes {
        /// Its length in bytes.
        len: usize,
        /// The most bytes allowed.
        max: usize,
    },
    /// The bytes are not the protobuf message.
    #[error("the header does not decode")]
    Undecodable,
    /// A field has another length than its type.
    #[error("{field} has {len} bytes")]
    FieldLength {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// There is no lane of that number.
    #[error("lane {lane} does not exist")]
    Lane {
        /// The number found.
        lane: u32,
    },
    /// Decoded and encoded again, the header has other bytes.
    #[error("the header is not in canonical form")]
    NotCanonical,
    /// A list holds more than its bound.
    #[error("{len} {field} exceed {max}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many there are.
        len: usize,
        /// The most allowed.
        max: usize,
    },
    /// A list is not strictly ascending.
    #[error("{field} are not sorted and unique")]
    NotSorted {
        /// The field.
        field: &'static str,
    },
    /// `prev` is repeated in `deps`.
    #[error("deps repeat prev")]
    DepsRepeatPrev,
    /// A genesis has a field that only later intentions have, or a later intention lacks it.
    #[error("{field} does not fit {kind}")]
    Shape {
        /// The field.
        field: &'static str,
        /// "a genesis" or "an intention".
        kind: &'static str,
    },
    /// The body is larger than any genesis may allow.
    #[error("a body of {len} bytes exceeds {BODY_BYTES_MAX}")]
    BodyBytes {
        /// Its length in bytes.
        len: u32,
    },
    /// The signature is not the author's over this id.
    #[error("the signature is not by {author}")]
    Signature {
        /// The author that the header claims.
        author: DeviceKey,
    },
    /// The body's bytes are not those that the header names.
    #[error("the body of {len} bytes does not have the hash or length that its header names")]
    Body {
        /// Length of the bytes that came.
        len: usize,
    },
}

#[derive(Debug)]
struct Inner {
    header: Header,
    id: IntentionId,
    signed: SignedHeader,
}

/// A header whose form and signature were checked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct VerifiedHeader(Arc<Inner>);

impl Deref for VerifiedHeader {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.0.header
    }
}

impl PartialEq for VerifiedHeader {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for VerifiedHeader {}

impl VerifiedHeader {
    /// Its id.
    pub fn id(&self) -> IntentionId {
        self.0.id
    }

    /// Its place in the canonical order.
    pub fn position(&self) -> Position {
        self.0.header.position(self.0.id)
    }

    /// The bytes and signature that were verified.
    pub fn signed(&self) -> &SignedHeader {
        &self.0.signed
    }

    /// Signs a header that this process made.
    ///
    /// # Errors
    /// When the header breaks a rule that [`verify`] checks, or `key` is not its author's.
    pub fn sign(header: Header, key: &ed25519_dalek::SigningKey) -> Result<Self, VerifyError> {
        if key.verifying_key().to_bytes() != header.author.0 {
            return Err(VerifyError::Signature {
                author: header.author,
            });
        }
        let bytes: Arc<[u8]> = header.encode().into();
        check_form(&header, bytes.len())?;
        let id = Header::id_of(&bytes);
        let signature = Signature(key.sign(&id.0).to_bytes());
        Ok(Self(Arc::new(Inner {
            header,
            id,
            signed: SignedHeader { bytes, signature },
        })))
    }

    /// Reads a header that this node has verified before and stored itself, without checking the
    /// signature.
    ///
    /// # Errors
    /// When the bytes are no canonical header: the storage is damaged.
    pub fn from_trusted_storage(signed: SignedHeader) -> Result<Self, VerifyError> {
        let (header, id) = check_bytes(&signed.bytes)?;
        Ok(Self(Arc::new(Inner { header, id, signed })))
    }

    /// Reads a header that this node has verified before and stored itself by [`Header::abridged`], without checking
    /// the signature. Its bytes and its id are those that were verified if `known` is what was left out.
    ///
    /// # Errors
    /// When the bytes are not those of a header without what is known: the storage is damaged.
    pub fn from_abridged(
        bytes: &[u8],
        known: &Known,
        signature: Signature,
    ) -> Result<Self, VerifyError> {
        let header = Header::from_abridged(bytes, known)?;
        let bytes: Arc<[u8]> = header.encode().into();
        check_form(&header, bytes.len())?;
        let id = Header::id_of(&bytes);
        Ok(Self(Arc::new(Inner {
            header,
            id,
            signed: SignedHeader { bytes, signature },
        })))
    }

    /// Checks that `bytes` are the body that this header names.
    ///
    /// # Errors
    /// [`VerifyError::Body`] when length or hash differ.
    pub fn check_body(&self, bytes: impl Into<Arc<[u8]>>) -> Result<VerifiedBody, VerifyError> {
        let bytes = bytes.into();
        if bytes.len() != self.body.len as usize || Body::hash_of(&bytes) != self.body.hash {
            return Err(VerifyError::Body { len: bytes.len() });
        }
        Ok(VerifiedBody(bytes))
    }
}

/// The bytes of a body that its header names. Whether they decode is decided in the fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBody(Arc<[u8]>);

impl VerifiedBody {
    /// The bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0
    }
}

/// Verifies one intention's header.
///
/// # Errors
/// See [`VerifyError`]. [`VerifyError::UnknownFormat`] is nobody's fault.
pub fn verify(signed: SignedHeader) -> Result<VerifiedHeader, VerifyError> {
    let (header, id) = check_bytes(&signed.bytes)?;
    check_signature(header.author, &id.0, &signed.signature)?;
    Ok(VerifiedHeader(Arc::new(Inner { header, id, signed })))
}

/// Verifies many headers, three to four times as fast as one by one. The results are the same as
/// [`verify`]'s, place by place; `seed` must be unpredictable to the headers' authors.
pub fn verify_batch(
    batch: Vec<SignedHeader>,
    seed: &[u8; 32],
) -> Vec<Result<VerifiedHeader, VerifyError>> {
    let checked: Vec<Result<Inner, VerifyError>> = batch
        .into_iter()
        .map(|signed| {
            let (header, id) = check_bytes(&signed.bytes)?;
            Ok(Inner { header, id, signed })
        })
        .collect();
    // A batch of one takes longer than a single verification.
    let all_good = checked.len() > 1 && all_verify(&checked, seed);
    checked
        .into_iter()
        .map(|result| {
            let inner = result?;
            if !all_good {
                check_signature(inner.header.author, &inner.id.0, &inner.signed.signature)?;
            }
            Ok(VerifiedHeader(Arc::new(inner)))
        })
        .collect()
}

fn all_verify(checked: &[Result<Inner, VerifyError>], seed: &[u8; 32]) -> bool {
    let mut verifier = zebra::batch::Verifier::new();
    for inner in checked.iter().flatten() {
        verifier.queue((
            zebra::VerificationKeyBytes::from(inner.header.author.0),
            zebra::Signature::from(inner.signed.signature.0),
            &inner.id.0,
        ));
    }
    verifier.verify(Randomness::new(seed)).is_ok()
}

/// Checks a signature by the one predicate that Lattice uses, ZIP-215.
///
/// # Errors
/// [`VerifyError::Signature`] when it does not hold.
pub fn check_signature(
    author: DeviceKey,
    message: &[u8],
    signature: &Signature,
) -> Result<(), VerifyError> {
    zebra::VerificationKey::try_from(author.0)
        .and_then(|key| key.verify(&zebra::Signature::from(signature.0), message))
        .map_err(|_| VerifyError::Signature { author })
}

fn check_bytes(bytes: &[u8]) -> Result<(Header, IntentionId), VerifyError> {
    let (&format, message) = bytes.split_first().ok_or(VerifyError::Empty)?;
    if format == 0 {
        return Err(VerifyError::Undecodable);
    }
    if bytes.len() > GENESIS_HEADER_BYTES_MAX {
        return Err(VerifyError::HeaderBytes {
            len: bytes.len(),
            max: GENESIS_HEADER_BYTES_MAX,
        });
    }
    if format != FORMAT {
        return Err(VerifyError::UnknownFormat { format });
    }
    let header = Header::decode(message)?;
    check_form(&header, bytes.len())?;
    if header.encode() != bytes {
        return Err(VerifyError::NotCanonical);
    }
    Ok((header, Header::id_of(bytes)))
}

fn at_most(field: &'static str, len: usize, max: usize) -> Result<(), VerifyError> {
    if len > max {
        return Err(VerifyError::TooMany { field, len, max });
    }
    Ok(())
}

fn ascending<T: Ord>(
    field: &'static str,
    items: impl IntoIterator<Item = T>,
) -> Result<(), VerifyError> {
    if items.into_iter().is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(VerifyError::NotSorted { field })
    }
}

fn check_form(header: &Header, encoded_len: usize) -> Result<(), VerifyError> {
    let genesis = header.is_genesis();
    let (kind, bytes_max, admits_max) = if genesis {
        ("a genesis", GENESIS_HEADER_BYTES_MAX, GENESIS_ADMITS_MAX)
    } else {
        ("an intention", HEADER_BYTES_MAX, ADMITS_MAX)
    };
    if encoded_len > bytes_max {
        return Err(VerifyError::HeaderBytes {
            len: encoded_len,
            max: bytes_max,
        });
    }
    at_most("deps", header.deps.len(), DEPS_MAX)?;
    at_most("admits", header.admits.len(), admits_max)?;
    at_most("hints", header.hints.len(), HINTS_MAX)?;
    for hint in &header.hints {
        at_most("bytes of a hint", hint.value.len(), HINT_BYTES_MAX)?;
    }
    ascending("deps", &header.deps)?;
    ascending("admits", &header.admits)?;
    ascending("hints", header.hints.iter().map(|h| h.number))?;
    if header.body.len > BODY_BYTES_MAX {
        return Err(VerifyError::BodyBytes {
            len: header.body.len,
        });
    }
    let shape = |ok: bool, field| {
        if ok {
            Ok(())
        } else {
            Err(VerifyError::Shape { field, kind })
        }
    };
    if genesis {
        shape(header.prev.is_none(), "prev")?;
        shape(header.grant.is_none(), "grant")?;
        shape(header.deps.is_empty(), "deps")?;
        shape(header.seq.0 == 0, "seq")?;
        shape(header.lane == crate::header::Lane::System, "lane")?;
        shape(
            header.admits.binary_search(&header.author).is_ok(),
            "admits",
        )?;
    } else {
        shape(header.prev.is_some(), "prev")?;
        shape(header.grant.is_some(), "grant")?;
    }
    match header.prev {
        Some(prev) if header.deps.binary_search(&prev).is_ok() => Err(VerifyError::DepsRepeatPrev),
        _ => Ok(()),
    }
}

/// Randomness for batch verification out of a seed: BLAKE3 in its extendable-output mode.
struct Randomness(blake3::OutputReader);

impl Randomness {
    fn new(seed: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context::BATCH);
        hasher.update(seed);
        Self(hasher.finalize_xof())
    }
}

impl rand_core::TryRng for Randomness {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(dst);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Randomness {}

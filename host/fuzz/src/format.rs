//! Headers and bodies.

use lattice_format::{Body, Signature, SignedHeader, VerifiedHeader};

/// Bytes of a header, without regard to its signature: that one is checked by a library.
pub(crate) fn header(input: &[u8]) {
    let signed = SignedHeader {
        bytes: input.into(),
        signature: Signature([0; 64]),
    };
    // Both must come to the same about everything but the signature.
    let checked = lattice_format::verify(signed.clone());
    if let Ok(header) = VerifiedHeader::from_trusted_storage(signed) {
        assert_eq!(header.encode(), input, "there is one encoding");
    } else {
        assert!(checked.is_err(), "a signature cannot make it sound");
    }
}

/// Bytes of a body.
pub(crate) fn body(input: &[u8]) {
    if let Ok(body) = Body::decode(input) {
        let again = body.encode();
        assert_eq!(Body::decode(&again).as_ref(), Ok(&body));
    }
}

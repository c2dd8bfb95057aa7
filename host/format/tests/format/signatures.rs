//! One predicate for signatures: ZIP-215, alone and in a batch.
//!
//! Two nodes of which one verifies singly and the other in batches must agree on every input, or
//! they disagree about an entry for ever. The vectors here are those on which implementations do
//! disagree: all pairs of low-order encodings (ZIP-215's own 196), and the twelve of Chalkias,
//! Garillot and Nikolaenko, "Taming the Many EdDSAs", 2020.

use ed25519_dalek::VerifyingKey;
use lattice_format::verify::check_signature;
use lattice_format::{DeviceKey, Header, Signature, SignedHeader, verify, verify_batch};
use proptest::prelude::*;

use crate::samples::{header, sign_bytes, signed};

/// The eight points of small order, canonically encoded, then their six non-canonical encodings.
const LOW_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

fn point(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// A signature of a point and s = 0.
fn with_zero(r: [u8; 32]) -> Signature {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&r);
    Signature(bytes)
}

/// A header in the name of any 32 bytes, with any signature.
fn claimed(author: [u8; 32], signature: Signature) -> SignedHeader {
    let mut header = header();
    header.author = DeviceKey(author);
    SignedHeader {
        bytes: header.encode().into(),
        signature,
    }
}

fn low_order_headers() -> Vec<SignedHeader> {
    let points: Vec<_> = LOW_ORDER.iter().map(|text| point(text)).collect();
    points
        .iter()
        .flat_map(|a| points.iter().map(|r| claimed(*a, with_zero(*r))))
        .collect()
}

fn strict(author: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    VerifyingKey::from_bytes(author).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

fn cofactorless(author: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    use ed25519_dalek::Verifier;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    VerifyingKey::from_bytes(author).is_ok_and(|key| key.verify(message, &signature).is_ok())
}

/// The documented result: with A and R of small order and s = 0, [8][s]B = [8]R + [8][k]A reads
/// 0 = 0 for every message, so ZIP-215 takes all of them.
#[test]
fn all_196_pairs_of_low_order_points_pass_as_zip_215_says() {
    let headers = low_order_headers();
    assert_eq!(headers.len(), 196);
    for signed in &headers {
        assert!(verify(signed.clone()).is_ok());
        // A batch of one has the least chance to be right by accident.
        assert!(verify_batch(vec![signed.clone()], &[1; 32])[0].is_ok());
    }
    assert!(verify_batch(headers, &[2; 32]).iter().all(Result::is_ok));
    for a in LOW_ORDER {
        for r in LOW_ORDER {
            let checked = check_signature(DeviceKey(point(a)), b"Zcash", &with_zero(point(r)));
            assert_eq!(checked, Ok(()), "A {a}, R {r}");
        }
    }
}

/// Why neither of ed25519-dalek's predicates will do: the strict one refuses all of these, the
/// other depends on the message, and its batch form would agree with neither.
#[test]
fn other_predicates_disagree_on_the_same_vectors() {
    let mut plain = 0;
    for signed in low_order_headers() {
        let verified = verify(signed.clone()).unwrap();
        let (author, id) = (verified.author.0, verified.id());
        assert!(!strict(&author, &id.0, &signed.signature));
        plain += usize::from(cofactorless(&author, &id.0, &signed.signature));
    }
    assert!(
        (1..196).contains(&plain),
        "the cofactorless predicate takes some and refuses some: {plain}"
    );
    // An honest signature passes all of them.
    let honest = signed(header(), 2);
    let id = Header::id_of(&honest.bytes);
    let author = header().author.0;
    assert!(verify(honest.clone()).is_ok());
    assert!(strict(&author, &id.0, &honest.signature));
    assert!(cofactorless(&author, &id.0, &honest.signature));
}

/// "Taming the Many EdDSAs", table 6 and github.com/novifinancial/ed25519-speccheck: message, key,
/// signature, and whether a ZIP-215 verifier (there: "Zebra") and dalek's strict one take it.
const SPECCHECK: [(&str, &str, &str, bool, bool); 12] = [
    (
        "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
        true,
        false,
    ),
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        true,
        false,
    ),
    (
        "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
        true,
        false,
    ),
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
        true,
        true,
    ),
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
        true,
        false,
    ),
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
        true,
        false,
    ),
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
        false,
        false,
    ),
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
        false,
        false,
    ),
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f",
        false,
        false,
    ),
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908",
        true,
        false,
    ),
    (
        "e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        true,
        false,
    ),
    (
        "39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        true,
        false,
    ),
];

#[test]
fn the_twelve_speccheck_vectors_have_their_documented_results() {
    for (number, (message, author, signature, zip215, is_strict)) in SPECCHECK.iter().enumerate() {
        let message = hex::decode(message).unwrap();
        let signature = Signature(hex::decode(signature).unwrap().try_into().unwrap());
        let author = point(author);
        let checked = check_signature(DeviceKey(author), &message, &signature);
        assert_eq!(checked.is_ok(), *zip215, "vector {number}");
        assert_eq!(
            strict(&author, &message, &signature),
            *is_strict,
            "vector {number}, strict"
        );
    }
}

#[test]
fn a_scalar_beyond_the_group_order_is_refused() {
    // The group order L, little-endian (RFC 8032, section 5.1).
    const L: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let honest = signed(header(), 2);
    let mut bytes = honest.signature.0;
    let mut carry = 0u16;
    for (byte, add) in bytes[32..].iter_mut().zip(point(L)) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    let malleable = SignedHeader {
        bytes: honest.bytes.clone(),
        signature: Signature(bytes),
    };
    assert!(verify(malleable.clone()).is_err());
    let both = verify_batch(vec![honest, malleable], &[4; 32]);
    assert!(both[0].is_ok() && both[1].is_err());
}

#[test]
fn a_key_that_is_no_point_is_refused_in_a_batch_and_alone() {
    // y = 2 is on no point of the curve.
    let mut no_point = [0; 32];
    no_point[0] = 2;
    let bad = claimed(no_point, with_zero(point(LOW_ORDER[0])));
    assert!(verify(bad.clone()).is_err());
    let good = signed(header(), 2);
    let results = verify_batch(vec![good.clone(), bad, good], &[5; 32]);
    assert_eq!(
        results.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false, true]
    );
}

/// One member of a mixed batch.
#[derive(Clone, Debug)]
enum Member {
    Honest(u8),
    BadSignature(u8, u16),
    LowOrder(u8, u8),
    LowOrderBroken(u8, u8),
    WrongSigner,
    Undecodable,
    Newer,
    Empty,
}

fn member() -> impl Strategy<Value = Member> {
    prop_oneof![
        6 => any::<u8>().prop_map(Member::Honest),
        2 => (any::<u8>(), 0u16..512).prop_map(|(n, bit)| Member::BadSignature(n, bit)),
        3 => (0u8..14, 0u8..14).prop_map(|(a, r)| Member::LowOrder(a, r)),
        1 => (0u8..14, 0u8..14).prop_map(|(a, r)| Member::LowOrderBroken(a, r)),
        1 => Just(Member::WrongSigner),
        1 => Just(Member::Undecodable),
        1 => Just(Member::Newer),
        1 => Just(Member::Empty),
    ]
}

fn make(member: &Member) -> SignedHeader {
    let numbered = |n: u8| {
        let mut header = header();
        header.chain.0 = u64::from(n);
        header
    };
    let low = |a: u8, r: u8| {
        claimed(
            point(LOW_ORDER[usize::from(a)]),
            with_zero(point(LOW_ORDER[usize::from(r)])),
        )
    };
    match *member {
        Member::Honest(n) => signed(numbered(n), 2),
        Member::BadSignature(n, bit) => {
            let mut signed = signed(numbered(n), 2);
            signed.signature.0[usize::from(bit / 8)] ^= 1 << (bit % 8);
            signed
        }
        Member::LowOrder(a, r) => low(a, r),
        Member::LowOrderBroken(a, r) => {
            let mut signed = low(a, r);
            signed.signature.0[32] = 1;
            signed
        }
        Member::WrongSigner => sign_bytes(header().encode(), 3),
        Member::Undecodable => sign_bytes(vec![1, 0xff, 0xff], 2),
        Member::Newer => sign_bytes(vec![9, 1, 2, 3], 2),
        Member::Empty => sign_bytes(vec![], 2),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_says_of_each_what_is_said_of_it_alone(
        members in prop::collection::vec(member(), 0..24), seed: [u8; 32],
    ) {
        let batch: Vec<_> = members.iter().map(make).collect();
        let alone: Vec<_> = batch.iter().cloned().map(verify).collect();
        prop_assert_eq!(verify_batch(batch, &seed), alone);
    }
}

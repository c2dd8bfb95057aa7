//! One intention has one encoding: whatever else says the same is refused, so that an id stands
//! for a content and a content for an id.

use lattice_format::limits::{ADMITS_MAX, BODY_BYTES_MAX, DEPS_MAX, HINT_BYTES_MAX, HINTS_MAX};
use lattice_format::{
    BodyHash, BodyRef, ChainId, DeviceKey, Header, Hint, IntentionId, Lane, Seq, SignedHeader,
    StoreId, Time, VerifiedHeader, VerifyError, verify, verify_batch,
};
use proptest::prelude::*;

use crate::samples::{body, device, genesis_header, header, key, sign_bytes, signed};
use crate::wire::{self, bytes, number, number_anyway, parts, varint};

pub(crate) fn refused(bytes: Vec<u8>) -> VerifyError {
    verify(sign_bytes(bytes, 2)).unwrap_err()
}

fn id() -> impl Strategy<Value = IntentionId> {
    any::<[u8; 32]>().prop_map(IntentionId)
}

fn any_header() -> impl Strategy<Value = Header> {
    let names = (
        prop::collection::btree_set(id(), 0..=DEPS_MAX),
        prop::collection::btree_set(any::<[u8; 32]>().prop_map(DeviceKey), 0..=ADMITS_MAX),
        prop::collection::btree_map(
            any::<u32>(),
            prop::collection::vec(any::<u8>(), 0..=HINT_BYTES_MAX),
            0..=HINTS_MAX,
        ),
        id(),
        id(),
        prop::option::of(id()),
    );
    let numbers = (
        any::<(u64, u64, u64, u32, u64)>(),
        0..=BODY_BYTES_MAX,
        any::<u32>(),
    );
    let rest = (
        any::<[u8; 32]>(),
        any::<[u8; 32]>(),
        any::<bool>(),
        any::<u64>(),
    );
    (names, numbers, rest).prop_map(|(names, numbers, rest)| {
        let (mut deps, admits, hints, prev, grant, parent_view) = names;
        let ((chain, seq, wall_ms, counter, chain_bytes), len, body_key) = numbers;
        let (store, hash, app, critical) = rest;
        deps.remove(&prev);
        Header {
            store: Some(StoreId(store)),
            author: device(2),
            chain: ChainId(chain),
            seq: Seq(seq),
            prev: Some(prev),
            deps: deps.into_iter().collect(),
            time: Time { wall_ms, counter },
            grant: Some(grant),
            admits: admits.into_iter().collect(),
            lane: if app { Lane::App } else { Lane::System },
            body: BodyRef {
                hash: BodyHash(hash),
                len,
                key: body_key,
            },
            chain_bytes,
            parent_view,
            hints: hints
                .into_iter()
                .map(|(number, value)| Hint { number, value })
                .collect(),
            critical,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_signed_reads_back_and_has_the_documented_bytes(header in any_header()) {
        let sent = signed(header.clone(), 2);
        prop_assert_eq!(&*sent.bytes, &*wire::join(&parts(&header)));
        let verified = verify(sent.clone()).unwrap();
        prop_assert_eq!(&*verified, &header);
        prop_assert_eq!(&verified.signed().bytes, &sent.bytes);
        let kept = VerifiedHeader::from_trusted_storage(sent).unwrap();
        prop_assert_eq!(kept.id(), verified.id());
    }

    #[test]
    fn bytes_of_any_kind_are_an_error_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300), format in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if format && !bytes.is_empty() {
            bytes[0] = 1;
        }
        // Who holds no key cannot make bytes that verify; whatever decodes is canonical.
        if let Ok(header) = VerifiedHeader::from_trusted_storage(sign_bytes(bytes.clone(), 2)) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }

    #[test]
    fn a_damaged_header_is_refused_or_another_one(
        header in any_header(), at in any::<prop::sample::Index>(), with in 1u8..,
    ) {
        let sent = signed(header, 2);
        let mut bytes = sent.bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let id = Header::id_of(&sent.bytes);
        // Signed again by its author it may be sound, but then it is another intention.
        if let Ok(other) = verify(sign_bytes(bytes.clone(), 2)) {
            prop_assert_ne!(other.id(), id);
            prop_assert_eq!(other.encode(), bytes.clone());
        }
        // Without its author it is nothing.
        let forged = SignedHeader { bytes: bytes.into(), signature: sent.signature };
        prop_assert!(verify(forged).is_err());
    }
}

/// Holds: invariant 2.
#[test]
fn every_single_bit_counts() {
    for (header, number) in [(genesis_header(), 1), (header(), 2)] {
        let sent = signed(header, number);
        let id = Header::id_of(&sent.bytes);
        let mut forged = Vec::new();
        for bit in 0..sent.bytes.len() * 8 {
            let mut bytes = sent.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Header::id_of(&bytes), id, "bit {bit}");
            forged.push(SignedHeader {
                bytes: bytes.into(),
                signature: sent.signature,
            });
        }
        for bit in 0..512 {
            let mut signature = sent.signature;
            signature.0[bit / 8] ^= 1 << (bit % 8);
            forged.push(SignedHeader {
                bytes: sent.bytes.clone(),
                signature,
            });
        }
        for (bit, result) in verify_batch(forged.clone(), &[3; 32])
            .into_iter()
            .enumerate()
        {
            assert!(result.is_err(), "flip {bit} passed the batch");
        }
        for (bit, forged) in forged.into_iter().enumerate() {
            assert!(verify(forged).is_err(), "flip {bit} passed");
        }
    }
}

#[test]
fn a_header_cut_short_or_with_a_tail_is_refused() {
    let whole = header().encode();
    let id = Header::id_of(&whole);
    for len in 1..whole.len() {
        // Cut where a field ends it may be sound, if its author signs it; it is another one then.
        match verify(sign_bytes(whole[..len].to_vec(), 2)) {
            Ok(other) => assert_ne!(other.id(), id),
            Err(error) => assert!(
                !matches!(
                    error,
                    VerifyError::UnknownFormat { .. } | VerifyError::Signature { .. }
                ),
                "{len} bytes: {error}"
            ),
        }
        let forged = SignedHeader {
            bytes: whole[..len].into(),
            signature: signed(header(), 2).signature,
        };
        assert!(verify(forged).is_err(), "{len} bytes");
    }
    for tail in [&[0u8][..], &[1], b"tail"] {
        refused([&whole[..], tail].concat());
    }
    assert_eq!(refused(vec![]), VerifyError::Empty);
}

#[test]
fn fields_in_another_order_are_refused() {
    let parts = parts(&header());
    assert!(verify(sign_bytes(wire::join(&parts), 2)).is_ok());
    for at in 0..parts.len() - 1 {
        let mut swapped = parts.clone();
        swapped.swap(at, at + 1);
        let error = refused(wire::join(&swapped));
        // Elements of one list swapped are an unsorted list; fields swapped are another encoding.
        assert!(
            matches!(
                error,
                VerifyError::NotCanonical | VerifyError::NotSorted { .. }
            ),
            "parts {at} and {}: {error}",
            at + 1
        );
    }
}

#[test]
fn a_field_given_twice_is_refused() {
    let parts = parts(&header());
    for at in 0..parts.len() {
        let mut doubled = parts.clone();
        doubled.insert(at, parts[at].clone());
        refused(wire::join(&doubled));
    }
}

#[test]
fn unknown_fields_are_refused() {
    for field in [19, 20, 1_000, (1 << 29) - 1] {
        let mut all = parts(&header());
        let mut extra = Vec::new();
        number(field, 1, &mut extra);
        all.push(extra);
        assert_eq!(refused(wire::join(&all)), VerifyError::NotCanonical);
    }
    // Inside a hint as well.
    let mut all = parts(&header());
    let mut hint = Vec::new();
    number(1, 9, &mut hint);
    number(3, 1, &mut hint);
    let mut part = Vec::new();
    bytes(17, &hint, &mut part);
    all.push(part);
    assert_eq!(refused(wire::join(&all)), VerifyError::NotCanonical);
}

#[test]
fn default_values_that_are_written_out_are_refused() {
    for (field, name) in [
        (4, "seq"),
        (8, "counter"),
        (11, "lane"),
        (14, "body key"),
        (18, "critical"),
    ] {
        let mut plain = header();
        plain.seq = Seq(0);
        plain.time.counter = 0;
        plain.lane = Lane::System;
        let mut all = parts(&plain);
        let before = all
            .iter()
            .position(|part| field_of(part) > field)
            .unwrap_or(all.len());
        let mut part = Vec::new();
        number_anyway(field, 0, &mut part);
        all.insert(before, part);
        assert_eq!(
            refused(wire::join(&all)),
            VerifyError::NotCanonical,
            "{name}"
        );
    }
    // Empty bytes where nothing is meant.
    let mut none = header();
    none.parent_view = None;
    let mut all = parts(&none);
    let before = all.iter().position(|part| field_of(part) > 16).unwrap();
    let mut part = Vec::new();
    bytes(16, &[], &mut part);
    all.insert(before, part);
    assert_eq!(refused(wire::join(&all)), VerifyError::NotCanonical);
}

/// The number of the field that a part holds.
pub(crate) fn field_of(part: &[u8]) -> u32 {
    let tag = match part {
        [first, second, ..] if first & 0x80 != 0 => {
            u32::from(first & 0x7f) | u32::from(*second) << 7
        }
        [first, ..] => u32::from(*first),
        [] => 0,
    };
    tag >> 3
}

#[test]
fn overlong_numbers_are_refused() {
    let all = parts(&header());
    for (at, part) in all.iter().enumerate() {
        // Number fields alone (wire type 0): tag, then the number.
        let tag_len = if field_of(part) > 15 { 2 } else { 1 };
        if part[0] & 7 != 0 {
            continue;
        }
        let mut longer = all.clone();
        let last = longer[at].len() - 1;
        longer[at][last] |= 0x80;
        longer[at].push(0);
        assert_eq!(
            refused(wire::join(&longer)),
            VerifyError::NotCanonical,
            "field {}",
            field_of(part)
        );
        // And an overlong tag.
        let mut longer = all.clone();
        longer[at][tag_len - 1] |= 0x80;
        longer[at].insert(tag_len, 0);
        assert_eq!(refused(wire::join(&longer)), VerifyError::NotCanonical);
    }
    // A counter of 2^32 would be 0 when cut to 32 bits.
    let mut all = parts(&header());
    let at = all.iter().position(|part| field_of(part) == 8).unwrap();
    all[at] = Vec::new();
    varint(8 << 3, &mut all[at]);
    varint((1 << 32) | 4, &mut all[at]);
    refused(wire::join(&all));
}

#[test]
fn a_newer_format_is_told_apart_from_rubbish() {
    for format in [2, 3, 0x7f, 0x80, 0xff] {
        let mut bytes = header().encode();
        bytes[0] = format;
        assert_eq!(refused(bytes), VerifyError::UnknownFormat { format });
        // Nothing is known of what follows the byte.
        assert_eq!(refused(vec![format]), VerifyError::UnknownFormat { format });
    }
    let mut bytes = header().encode();
    bytes[0] = 0;
    assert_eq!(refused(bytes), VerifyError::Undecodable);
}

#[test]
fn a_header_belongs_to_its_author_alone() {
    // Signed by somebody else, in the author's name.
    let bytes = header().encode();
    assert_eq!(
        verify(sign_bytes(bytes, 3)),
        Err(VerifyError::Signature { author: device(2) })
    );
    // A signature over something else.
    let other = signed(genesis_header(), 1);
    let moved = SignedHeader {
        bytes: signed(header(), 2).bytes,
        signature: other.signature,
    };
    assert!(verify(moved).is_err());
    // The signature covers the id, not the bytes.
    use ed25519_dalek::Signer;
    let bytes = header().encode();
    let over_bytes = SignedHeader {
        signature: lattice_format::Signature(key(2).sign(&bytes).to_bytes()),
        bytes: bytes.into(),
    };
    assert!(verify(over_bytes).is_err());
}

#[test]
fn a_body_is_the_one_that_its_header_names() {
    let verified = verify(signed(header(), 2)).unwrap();
    let bytes = body().encode();
    assert!(verified.check_body(bytes.clone()).is_ok());
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 0x20;
        assert_eq!(
            verified.check_body(other),
            Err(VerifyError::Body { len: bytes.len() })
        );
    }
    assert!(verified.check_body(bytes[1..].to_vec()).is_err());
    assert!(verified.check_body([&bytes[..], &[0]].concat()).is_err());
    assert!(verified.check_body(vec![]).is_err());
}

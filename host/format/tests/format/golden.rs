//! Bytes that must never change: whoever wrote a log last year reads it next year.
//!
//! All come from fixed keys (seeds of one repeated byte) and fixed values; Ed25519 signatures are
//! deterministic (RFC 8032, section 5.1.6), so they are golden as well.

use lattice_format::{Body, Header, IntentionId, Position, Time, VerifiedHeader, verify};

use crate::samples::{body, genesis_body, genesis_header, header, key, signed};
use crate::wire;

/// A header with its bytes, id, ids of calls and signature.
struct Golden {
    header: &'static str,
    id: &'static str,
    calls: [&'static str; 2],
    signature: &'static str,
}

const GENESIS_BODY: &str = "12cb010a2a0a205151515151515151515151515151515151515151515151515151515151515151120673797374656d12260a20616161616161616161616161616161616161616161616161616161616161616112026b761a0e0a07666f756e64657212036164612a170880a8d6b907108080802018a08d062080804028808040300138e0d403400148015220fd1724385aa0c75b64fb78cd602fa1d991fdebf76b13c58ed702eac835e9f61862207070707070707070707070707070707070707070707070707070707070707070";
const BODY: &str = "0a450a210a136c6174746963653a6b762f636f6d6d616e647312037075741a0582616b6176122010101010101010101010101010101010101010101010101010101010101010100a240a220a136c6174746963653a6b762f636f6d6d616e6473120664656c6574651a0381616b1a680803122020202020202020202020202020202020202020202020202020202020202020201a20212121212121212121212121212121212121212121212121212121212121212122202222222222222222222222222222222222222222222222222222222222222222";
const GENESIS_BODY_HASH: &str = "b7c93005e25c8d7d68fe25e024fdb8f005c2cf4485cfc1d440870800fa7c8667";
const BODY_HASH: &str = "ecd4d605d909cd1a592fc28620fec5812dac2dc400a326a11641df7f8b937cf7";
const GENESIS: Golden = Golden {
    header: "0112208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c1908070605040302013880b883a1f73252208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c6220b7c93005e25c8d7d68fe25e024fdb8f005c2cf4485cfc1d440870800fa7c866768ce0178ce01",
    id: "75241035d6a47161b971eac518a6bb0e30e5baede35bec92a64d1b36de57a9df",
    calls: [
        "e7136e0d539bcd75e38569f35fca0b92c4d7d8a14a99b8ee3bcdbcdf5233d9e7",
        "f33e475c668c042e26c8960334ab579c158fdd20d87e1da5f79034f1868db522",
    ],
    signature: "0e967aa93dd397fc64ef585515540baa2e1537122b808705131116522bb4d17700efd5f99b635b13953539fc374b9d6fb0176d36517b1e41a60b9b8b5fd12601",
};
const INTENTION: Golden = Golden {
    header: "010a20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12208139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39419070000000000000020052a203333333333333333333333333333333333333333333333333333333333333333322011111111111111111111111111111111111111111111111111111111111111113220444444444444444444444444444444444444444444444444444444444444444438fbb883a1f73240044a2022222222222222222222222222222222222222222222222222222222222222225220ca93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c5220ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d158016220ecd4d605d909cd1a592fc28620fec5812dac2dc400a326a11641df7f8b937cf768d70178e80782012077777777777777777777777777777777777777777777777777777777777777778a010208018a0124080212205555555555555555555555555555555555555555555555555555555555555555",
    id: "6ff2de09aee9023137ada03e0d53b01f60dc23d9cd06be25bba58c124d85c172",
    calls: [
        "c433552b6b6f4d0215effde507bd223fe01073a6a010ca7901e1f197e80e2585",
        "9499f19b11d8bae4c61f18b6e785608c1af2d8a219ce7ce043ebd41455c7f282",
    ],
    signature: "09e6e9069143b7f305d9332b71de9921d88ef23214d19906bac6575d3234d5199ee9db2dbb2b13990585574d42e30fc13ffac5e4f752e66a474ec9221a3e4106",
};

fn check(name: &str, header: Header, number: u8, golden: &Golden) {
    let signed = signed(header.clone(), number);
    let show = |what: &str, found: String, expected: &str| {
        assert_eq!(found, expected, "{what} of {name}");
    };
    show("the header", hex::encode(&signed.bytes), golden.header);
    show(
        "the id",
        Header::id_of(&signed.bytes).to_string(),
        golden.id,
    );
    for (index, call) in (0u32..).zip(golden.calls) {
        show("the call id", header.call_id(index).to_string(), call);
    }
    show(
        "the signature",
        signed.signature.to_string(),
        golden.signature,
    );
    let verified = verify(signed).unwrap();
    assert_eq!(*verified, header, "{name} reads back");
}

/// Holds: invariant 15.
#[test]
fn a_genesis_has_its_golden_bytes() {
    check("the genesis", genesis_header(), 1, &GENESIS);
}

/// Holds: invariant 15.
#[test]
fn a_header_with_every_field_has_its_golden_bytes() {
    check("the header", header(), 2, &INTENTION);
}

/// Holds: invariant 15.
#[test]
fn bodies_have_their_golden_bytes_and_hashes() {
    for (body, bytes, hash) in [
        (genesis_body(), GENESIS_BODY, GENESIS_BODY_HASH),
        (body(), BODY, BODY_HASH),
    ] {
        let encoded = body.encode();
        assert_eq!(hex::encode(&encoded), bytes);
        assert_eq!(Body::hash_of(&encoded).to_string(), hash);
        assert_eq!(
            Body::hash_of(&encoded).0,
            *blake3::hash(&encoded).as_bytes()
        );
        assert_eq!(Body::decode(&encoded).unwrap(), body);
    }
}

#[test]
fn headers_are_the_documented_protobuf_fields() {
    for header in [genesis_header(), header()] {
        assert_eq!(header.encode(), wire::join(&wire::parts(&header)));
    }
}

#[test]
fn an_id_is_blake3_with_a_context_of_its_own() {
    let bytes = header().encode();
    assert_eq!(
        Header::id_of(&bytes).0,
        blake3::derive_key("lattice 2026-11 intention id 1", &bytes)
    );
}

#[test]
fn a_call_id_covers_all_that_is_fixed_before_the_call_runs_and_nothing_else() {
    let base = header();
    let id = base.call_id(0);
    let changed = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        header.call_id(0) != id
    };
    assert_ne!(base.call_id(1), id);
    assert!(changed(&|h| h.store = None));
    assert!(changed(&|h| h.author.0[0] ^= 1));
    assert!(changed(&|h| h.chain.0 ^= 1));
    assert!(changed(&|h| h.seq.0 ^= 1));
    assert!(changed(&|h| h.prev = None));
    assert!(changed(&|h| h.time.wall_ms ^= 1));
    assert!(changed(&|h| h.time.counter ^= 1));
    // Filled at signing, when the call has run already.
    assert!(!changed(&|h| h.admits.clear()));
    assert!(!changed(&|h| h.body.hash.0[0] ^= 1));
    assert!(!changed(&|h| h.body.len += 1));
    assert!(!changed(&|h| h.chain_bytes += 1));
}

/// Holds: invariant 15.
#[test]
fn a_position_has_its_golden_bytes() {
    let position = Position {
        time: Time {
            wall_ms: 0x0102_0304_0506_0708,
            counter: 0x090a_0b0c,
        },
        id: IntentionId([0xee; 32]),
    };
    let expected = format!("0102030405060708090a0b0c{}", "ee".repeat(32));
    assert_eq!(hex::encode(position.to_bytes()), expected);
}

#[test]
fn only_the_author_can_sign() {
    assert!(VerifiedHeader::sign(header(), &key(1)).is_err());
}

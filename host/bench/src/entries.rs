//! Signed headers like those in the log of a store, made without a store.

use lattice_format::{
    Body, BodyRef, ChainId, DeviceKey, Header, IntentionId, Lane, Seq, SignedHeader, StoreId, Time,
    VerifiedHeader,
};

/// The key that signs the headers.
pub(crate) fn key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

/// A chain of `count` intentions of one call each by one author.
///
/// # Panics
/// When a header breaks a rule of the format, which these do not.
pub(crate) fn signed(count: u64) -> Vec<SignedHeader> {
    let key = key();
    let genesis = IntentionId([1; 32]);
    let body = vec![2; 200];
    let mut prev = genesis;
    let mut entries = Vec::new();
    for seq in 0..count {
        let header = Header {
            store: Some(StoreId([1; 32])),
            author: DeviceKey(key.verifying_key().to_bytes()),
            chain: ChainId(3),
            seq: Seq(seq),
            prev: Some(prev),
            deps: Vec::new(),
            time: Time {
                wall_ms: 1_800_000_000_000 + seq,
                counter: 0,
            },
            grant: Some(genesis),
            admits: Vec::new(),
            lane: Lane::App,
            body: BodyRef {
                hash: Body::hash_of(&body),
                len: body.len() as u32,
                key: 0,
            },
            chain_bytes: (seq + 1) * body.len() as u64,
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        };
        let header = VerifiedHeader::sign(header, &key).expect("the header keeps the rules");
        prev = header.id();
        entries.push(header.signed().clone());
    }
    entries
}

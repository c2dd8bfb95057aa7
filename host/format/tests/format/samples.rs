//! One of everything, from fixed keys.

use ed25519_dalek::SigningKey;
use lattice_format::{
    Body, BodyRef, Call, ChainId, Claim, ComponentId, ComponentRef, DeviceKey, Digest, Genesis,
    Header, Hint, IntentionId, Lane, Limits, Param, Seq, SignedHeader, StoreId, Time, Transaction,
    VerifiedHeader,
};

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub(crate) fn device(number: u8) -> DeviceKey {
    DeviceKey(key(number).verifying_key().to_bytes())
}

pub(crate) fn genesis() -> Genesis {
    Genesis {
        system: ComponentRef {
            id: ComponentId([0x51; 32]),
            name: "system".into(),
        },
        app: Some(ComponentRef {
            id: ComponentId([0x61; 32]),
            name: "kv".into(),
        }),
        system_params: vec![Param {
            name: "founder".into(),
            value: "ada".into(),
        }],
        app_params: vec![],
        limits: Limits::default(),
        profile: 1,
        drift_ms: 60_000,
        order_rule: 1,
        root_rule: 1,
        recovery_keys: vec![device(9)],
        encryption: 0,
        parent: Some(StoreId([0x70; 32])),
        finality_rule: 0,
    }
}

pub(crate) fn genesis_body() -> Body {
    Body {
        transactions: vec![],
        genesis: Some(genesis()),
        claim: None,
    }
}

pub(crate) fn body() -> Body {
    Body {
        transactions: vec![
            Transaction {
                calls: vec![Call {
                    interface: "lattice:kv/commands".into(),
                    function: "put".into(),
                    args: vec![0x82, 0x61, b'k', 0x61, b'v'],
                }],
                told: Some(Digest([0x10; 32])),
            },
            Transaction {
                calls: vec![Call {
                    interface: "lattice:kv/commands".into(),
                    function: "delete".into(),
                    args: vec![0x81, 0x61, b'k'],
                }],
                told: None,
            },
        ],
        genesis: None,
        claim: Some(Claim {
            count: 3,
            set: Digest([0x20; 32]),
            state_root: Digest([0x21; 32]),
            outcome_root: Digest([0x22; 32]),
        }),
    }
}

pub(crate) fn genesis_header() -> Header {
    let body = genesis_body().encode();
    Header {
        store: None,
        author: device(1),
        chain: ChainId(0x0102_0304_0506_0708),
        seq: Seq(0),
        prev: None,
        deps: vec![],
        time: Time {
            wall_ms: 1_750_000_000_000,
            counter: 0,
        },
        grant: None,
        admits: vec![device(1)],
        lane: Lane::System,
        body: BodyRef {
            hash: Body::hash_of(&body),
            len: body.len() as u32,
            key: 0,
        },
        chain_bytes: body.len() as u64,
        parent_view: None,
        hints: vec![],
        critical: 0,
    }
}

/// A header that fills every field.
pub(crate) fn header() -> Header {
    let body = body().encode();
    Header {
        store: Some(StoreId([0xaa; 32])),
        author: device(2),
        chain: ChainId(7),
        seq: Seq(5),
        prev: Some(IntentionId([0x33; 32])),
        deps: vec![IntentionId([0x11; 32]), IntentionId([0x44; 32])],
        time: Time {
            wall_ms: 1_750_000_000_123,
            counter: 4,
        },
        grant: Some(IntentionId([0x22; 32])),
        admits: {
            let mut keys = vec![device(3), device(4)];
            keys.sort_unstable();
            keys
        },
        lane: Lane::App,
        body: BodyRef {
            hash: Body::hash_of(&body),
            len: body.len() as u32,
            key: 0,
        },
        chain_bytes: 1_000,
        parent_view: Some(IntentionId([0x77; 32])),
        hints: vec![
            Hint {
                number: Hint::EPHEMERAL,
                value: vec![],
            },
            Hint {
                number: Hint::SUPERSEDES,
                value: vec![0x55; 32],
            },
        ],
        critical: 0,
    }
}

pub(crate) fn signed(header: Header, number: u8) -> SignedHeader {
    VerifiedHeader::sign(header, &key(number))
        .unwrap()
        .signed()
        .clone()
}

/// Signs bytes whatever they are, as a hostile author can.
pub(crate) fn sign_bytes(bytes: Vec<u8>, number: u8) -> SignedHeader {
    use ed25519_dalek::Signer;
    let id = Header::id_of(&bytes);
    SignedHeader {
        bytes: bytes.into(),
        signature: lattice_format::Signature(key(number).sign(&id.0).to_bytes()),
    }
}

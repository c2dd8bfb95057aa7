//! Stores of the model components, and what their devices sign.

use std::io;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lattice_format::{
    Body, BodyRef, Call, ChainId, ComponentRef, DeviceKey, Genesis, Header, Lane, Limits,
    Transaction, VerifiedHeader,
};
use lattice_kernel::{Files, LogFiles, NewStore, ReadSegment, Store};
use redb::backends::InMemoryBackend;
use redb::{Database, DatabaseError};

use super::{APP, GOVERNANCE, ModelEngine};

/// A device key made from a number.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number.wrapping_add(1); 32])
}

/// The public half of [`key`].
pub fn device(number: u8) -> DeviceKey {
    DeviceKey(key(number).verifying_key().to_bytes())
}

fn memory() -> Result<Database, DatabaseError> {
    Database::builder()
        .set_cache_size(256 * 1024)
        .create_with_backend(InMemoryBackend::new())
}

/// A log in memory, whose only segment is never full. It is gone with who has it open.
#[derive(Debug)]
struct OneSegment;

impl LogFiles for OneSegment {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn make(&self) -> Result<Database, DatabaseError> {
        memory()
    }

    fn name(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, _: u64) -> Result<Database, DatabaseError> {
        Err(io::Error::from(io::ErrorKind::NotFound).into())
    }

    fn open_to_read(&self, _: u64) -> Result<ReadSegment, DatabaseError> {
        Err(io::Error::from(io::ErrorKind::NotFound).into())
    }

    fn bytes(&self, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Empty files in memory.
pub fn memory_files() -> Files {
    let state = memory().expect("memory does not fail");
    Files::from_parts(Box::new(OneSegment), u64::MAX, state)
}

/// A genesis of the model components.
pub fn genesis() -> Genesis {
    let component = |id, name: &str| ComponentRef {
        id,
        name: name.into(),
    };
    Genesis {
        system: component(GOVERNANCE, "model-governance"),
        app: Some(component(APP, "model-app")),
        system_params: Vec::new(),
        app_params: Vec::new(),
        limits: Limits::default(),
        profile: 1,
        drift_ms: lattice_kernel::limits::DRIFT_MS_DEFAULT,
        order_rule: 1,
        root_rule: 1,
        recovery_keys: Vec::new(),
        encryption: 0,
        parent: None,
        finality_rule: 0,
    }
}

/// A store of the model components in memory, founded by device `number` at `now_ms`.
pub fn found(number: u8, now_ms: u64) -> Store {
    let spec = NewStore {
        genesis: genesis(),
        admits: Vec::new(),
        chain: ChainId(u64::from(number) + 1),
    };
    Store::create(
        memory_files(),
        Arc::new(ModelEngine),
        key(number),
        spec,
        now_ms,
    )
    .expect("the model governance takes any founder")
}

/// The body of an entry that is one call.
pub fn body_of(call: Call) -> Vec<u8> {
    let transaction = Transaction {
        calls: vec![call],
        told: None,
    };
    Body {
        transactions: vec![transaction],
        genesis: None,
        claim: None,
    }
    .encode()
}

/// The same header again with another body: what a device signs that forks its chain in the very place of an entry,
/// so that its calls have the ids of those it made before.
///
/// # Panics
/// If the body does not fit a header.
pub fn twin(first: &Header, lane: Lane, body: &[u8], key: &SigningKey) -> VerifiedHeader {
    let mut header = first.clone();
    let len = u32::try_from(body.len()).expect("a body within its bound");
    header.lane = lane;
    header.chain_bytes = header.chain_bytes - u64::from(header.body.len) + u64::from(len);
    header.body = BodyRef {
        hash: Body::hash_of(body),
        len,
        key: 0,
    };
    VerifiedHeader::sign(header, key).expect("it differs from a valid one in what any may have")
}

//! The format of the Lattice log: headers, bodies, ids, verification and order.
//!
//! This crate opens no file and no socket, reads no clock, draws no randomness and needs no
//! operating system: the kernel, clients, fuzzers and small devices read the same bytes with the
//! same code. Whatever is hashed, signed or ordered anywhere in Lattice is defined here.
#![no_std]

extern crate alloc;

pub mod body;
pub mod header;
pub mod ids;
pub mod limits;
pub mod order;
pub mod verify;
mod wire;

pub use body::{Body, BodyError, Call, Claim, ComponentRef, Genesis, Limits, Param, Transaction};
pub use header::{BodyRef, Header, Hint, Known, Lane};
pub use ids::{
    BlobId, BodyHash, CallId, ChainId, ComponentId, DeviceKey, Digest, IntentionId, Seq, Signature,
    StoreId,
};
pub use order::{Position, Time};
pub use verify::{SignedHeader, VerifiedBody, VerifiedHeader, VerifyError, verify, verify_batch};

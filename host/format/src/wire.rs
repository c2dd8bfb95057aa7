//! Protobuf messages behind headers and bodies. Field numbers never change their meaning.

use alloc::string::String;
use alloc::vec::Vec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Header {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) store: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) author: Vec<u8>,
    #[prost(fixed64, tag = "3")]
    pub(crate) chain: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) seq: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) prev: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub(crate) deps: Vec<Vec<u8>>,
    #[prost(uint64, tag = "7")]
    pub(crate) wall_ms: u64,
    #[prost(uint32, tag = "8")]
    pub(crate) counter: u32,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) grant: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub(crate) admits: Vec<Vec<u8>>,
    #[prost(uint32, tag = "11")]
    pub(crate) lane: u32,
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) body_hash: Vec<u8>,
    #[prost(uint32, tag = "13")]
    pub(crate) body_len: u32,
    #[prost(uint32, tag = "14")]
    pub(crate) body_key: u32,
    #[prost(uint64, tag = "15")]
    pub(crate) chain_bytes: u64,
    #[prost(bytes = "vec", tag = "16")]
    pub(crate) parent_view: Vec<u8>,
    #[prost(message, repeated, tag = "17")]
    pub(crate) hints: Vec<Hint>,
    #[prost(uint64, tag = "18")]
    pub(crate) critical: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Hint {
    #[prost(uint32, tag = "1")]
    pub(crate) number: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Body {
    #[prost(message, repeated, tag = "1")]
    pub(crate) transactions: Vec<Transaction>,
    #[prost(message, optional, tag = "2")]
    pub(crate) genesis: Option<Genesis>,
    #[prost(message, optional, tag = "3")]
    pub(crate) claim: Option<Claim>,
    // 4 is reserved for a checkpoint.
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Transaction {
    #[prost(message, repeated, tag = "1")]
    pub(crate) calls: Vec<Call>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) told: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Call {
    #[prost(string, tag = "1")]
    pub(crate) interface: String,
    #[prost(string, tag = "2")]
    pub(crate) function: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) args: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Claim {
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) set: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) state_root: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) outcome_root: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ComponentRef {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Param {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Limits {
    #[prost(uint64, tag = "1")]
    pub(crate) fuel: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) memory_bytes: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) table_elements: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) body_bytes: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) result_bytes: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Genesis {
    #[prost(message, optional, tag = "1")]
    pub(crate) system: Option<ComponentRef>,
    #[prost(message, optional, tag = "2")]
    pub(crate) app: Option<ComponentRef>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) system_params: Vec<Param>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) app_params: Vec<Param>,
    #[prost(message, optional, tag = "5")]
    pub(crate) limits: Option<Limits>,
    #[prost(uint32, tag = "6")]
    pub(crate) profile: u32,
    #[prost(uint64, tag = "7")]
    pub(crate) drift_ms: u64,
    #[prost(uint32, tag = "8")]
    pub(crate) order_rule: u32,
    #[prost(uint32, tag = "9")]
    pub(crate) root_rule: u32,
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub(crate) recovery_keys: Vec<Vec<u8>>,
    #[prost(uint32, tag = "11")]
    pub(crate) encryption: u32,
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) parent: Vec<u8>,
    #[prost(uint32, tag = "13")]
    pub(crate) finality_rule: u32,
    // 14 is reserved for an origin, the checkpoint of another store that this one begins with, and 15 for members that
    // are those of the parent.
}

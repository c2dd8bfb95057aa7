//! Protobuf messages of the sync protocol. Field numbers never change their meaning.

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) versions: Vec<u32>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) store: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(super) clock_ms: u64,
    #[prost(message, optional, tag = "5")]
    pub(super) attestation: Option<Attestation>,
    #[prost(uint32, tag = "6")]
    pub(super) wants: u32,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) horizon: Vec<u8>,
    #[prost(uint64, tag = "8")]
    pub(super) parked_count: u64,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) parked: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "10")]
    pub(super) tips_digest: Vec<u8>,
    #[prost(uint64, tag = "11")]
    pub(super) tip_count: u64,
    #[prost(uint64, tag = "12")]
    pub(super) count: u64,
    #[prost(uint64, tag = "13")]
    pub(super) window_bytes: u64,
    #[prost(uint32, tag = "14")]
    pub(super) gives: u32,
    // Reserved: 15 the height of the last checkpoint, 16 the digest of its core, 17 what the sender keeps, 18 roots of
    // snapshots.
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Attestation {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) device: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) endpoint: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Tip {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) author: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    pub(super) chain: u64,
    #[prost(uint64, tag = "3")]
    pub(super) seq: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tips {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) tips: Vec<Tip>,
    #[prost(bool, tag = "3")]
    pub(super) last: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) header: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) signature: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) body: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entries {
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ids {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) ids: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Credit {
    #[prost(uint64, tag = "1")]
    pub(super) bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Done {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) tips_digest: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) count: u64,
    #[prost(uint64, tag = "4")]
    pub(super) sent: u64,
    #[prost(uint64, tag = "5")]
    pub(super) floating: u64,
    #[prost(uint64, tag = "6")]
    pub(super) parked: u64,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(super) missing: Vec<Vec<u8>>,
    #[prost(uint64, tag = "8")]
    pub(super) withheld: u64,
    #[prost(bool, tag = "9")]
    pub(super) last: bool,
    #[prost(bool, tag = "10")]
    pub(super) ranged: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) from: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) to: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summarize {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) ranges: Vec<Range>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeSummary {
    #[prost(message, optional, tag = "1")]
    pub(super) range: Option<Range>,
    #[prost(uint64, tag = "2")]
    pub(super) count: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) fingerprint: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) ids: Vec<Vec<u8>>,
    #[prost(bool, tag = "5")]
    pub(super) listed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summary {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) ranges: Vec<RangeSummary>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Round {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Error {
    #[prost(uint32, tag = "1")]
    pub(super) code: u32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

/// The message that gossip broadcasts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Announcement {
    /// The ids one after the other, 32 bytes each.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ids: Vec<u8>,
    /// The author of the entries.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) author: Vec<u8>,
    /// Whether the author has written more than is listed.
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Sketch {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) cells: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Difference {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(bool, tag = "2")]
    pub(super) found: bool,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) ids: Vec<Vec<u8>>,
}

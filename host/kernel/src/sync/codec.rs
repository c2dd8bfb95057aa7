//! The bytes of messages: their kinds, their protobuf forms, and the bounds of their lists.

use std::sync::Arc;

use lattice_format::{
    ChainId, DeviceKey, Digest, IntentionId, Position, Seq, Signature, SignedHeader, StoreId,
};
use prost::Message as _;

use super::limits::{
    ENTRIES_FRAME_MAX, ERROR_TEXT_BYTES_MAX, IDS_MAX, LEAF_IDS, LISTED_MAX, PARTS_ANSWERED_MAX,
    RANGES_MAX, TIPS_PAGE, VERSIONS_MAX,
};
use super::message::{
    Attestation, Done, ErrorCode, Hello, Message, MessageError, PeerError, PeerTip, Range,
    RangeContent, RangeSummary, Wants,
};
use super::wire;
use crate::frame;
use crate::limits::SKETCH_CELLS_MAX;
use crate::state::sketch::{self, CELL_BYTES};

const HELLO: u8 = 1;
const TIPS: u8 = 2;
const ENTRIES: u8 = 3;
const WANT: u8 = 4;
const LACKS: u8 = 5;
const CREDIT: u8 = 6;
const ANNOUNCE: u8 = 7;
const DONE: u8 = 8;
const DIVERGED: u8 = 9;
const SUMMARIZE: u8 = 10;
const SUMMARY: u8 = 11;
const ERROR: u8 = 12;
// 13 is reserved for statements about checkpoints.
const SKETCH: u8 = 14;
const DIFFERENCE: u8 = 15;

impl Message {
    /// Whether this version reads messages of `kind`. Messages of other kinds are passed over.
    pub(super) fn is_known(kind: u8) -> bool {
        matches!(kind, HELLO..=ERROR | SKETCH..=DIFFERENCE)
    }

    /// The frame that carries this message.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => frame::frame(HELLO, &hello.to_wire().encode_to_vec()),
            Self::Tips { round, tips, last } => {
                let tips = tips
                    .iter()
                    .map(|tip| wire::Tip {
                        author: tip.author.0.to_vec(),
                        chain: tip.chain.0,
                        seq: tip.seq.0,
                        id: tip.id.0.to_vec(),
                    })
                    .collect();
                let wire = wire::Tips {
                    round: *round,
                    tips,
                    last: *last,
                };
                frame::frame(TIPS, &wire.encode_to_vec())
            }
            Self::Entries(entries) => {
                let entries = entries
                    .iter()
                    .map(|(signed, body)| wire::Entry {
                        header: signed.bytes.to_vec(),
                        signature: signed.signature.0.to_vec(),
                        body: body.clone(),
                    })
                    .collect();
                frame::frame(ENTRIES, &wire::Entries { entries }.encode_to_vec())
            }
            Self::Want(ids) => frame::frame(WANT, &ids_to_wire(ids)),
            Self::Lacks(ids) => frame::frame(LACKS, &ids_to_wire(ids)),
            Self::Announce(ids) => frame::frame(ANNOUNCE, &ids_to_wire(ids)),
            Self::Credit { bytes } => {
                frame::frame(CREDIT, &wire::Credit { bytes: *bytes }.encode_to_vec())
            }
            Self::Done(done) => frame::frame(DONE, &done.to_wire().encode_to_vec()),
            Self::Diverged { round } => {
                frame::frame(DIVERGED, &wire::Round { round: *round }.encode_to_vec())
            }
            Self::Summarize { round, ranges } => {
                let wire = wire::Summarize {
                    round: *round,
                    ranges: ranges.iter().map(range_to_wire).collect(),
                };
                frame::frame(SUMMARIZE, &wire.encode_to_vec())
            }
            Self::Summary { round, ranges } => {
                let wire = wire::Summary {
                    round: *round,
                    ranges: ranges.iter().map(summary_to_wire).collect(),
                };
                frame::frame(SUMMARY, &wire.encode_to_vec())
            }
            Self::Sketch { round, cells } => {
                let wire = wire::Sketch {
                    round: *round,
                    cells: sketch::encode(cells),
                };
                frame::frame(SKETCH, &wire.encode_to_vec())
            }
            Self::Difference { round, lacks } => {
                let ids = lacks.iter().flatten().map(|id| id.0.to_vec());
                let wire = wire::Difference {
                    round: *round,
                    found: lacks.is_some(),
                    ids: ids.collect(),
                };
                frame::frame(DIFFERENCE, &wire.encode_to_vec())
            }
            Self::Error(error) => {
                let wire = wire::Error {
                    code: error.code.number(),
                    text: cut(&error.text).to_owned(),
                };
                frame::frame(ERROR, &wire.encode_to_vec())
            }
        }
    }

    /// Reads the payload of a known kind. This function is the one place where the length of every list is checked.
    pub(super) fn decode(kind: u8, payload: &[u8]) -> Result<Self, MessageError> {
        match kind {
            HELLO => Hello::from_wire(read("hello", payload)?).map(Self::Hello),
            TIPS => {
                let wire: wire::Tips = read("tips", payload)?;
                bounded("tips", wire.tips.len(), TIPS_PAGE)?;
                let tips = wire.tips.iter().map(|tip| {
                    Ok(PeerTip {
                        author: fixed(DeviceKey::from_slice(&tip.author), "author", &tip.author)?,
                        chain: ChainId(tip.chain),
                        seq: Seq(tip.seq),
                        id: fixed(IntentionId::from_slice(&tip.id), "id", &tip.id)?,
                    })
                });
                Ok(Self::Tips {
                    round: wire.round,
                    tips: tips.collect::<Result<_, MessageError>>()?,
                    last: wire.last,
                })
            }
            ENTRIES => {
                let wire: wire::Entries = read("entries", payload)?;
                bounded("entries", wire.entries.len(), ENTRIES_FRAME_MAX)?;
                let entries = wire.entries.into_iter().map(|entry| {
                    let signature = Signature::from_slice(&entry.signature);
                    let signed = SignedHeader {
                        bytes: Arc::from(entry.header),
                        signature: fixed(signature, "signature", &entry.signature)?,
                    };
                    Ok((signed, entry.body))
                });
                Ok(Self::Entries(entries.collect::<Result<_, MessageError>>()?))
            }
            WANT => ids_from_wire("want", payload, IDS_MAX).map(Self::Want),
            LACKS => ids_from_wire("lacks", payload, IDS_MAX).map(Self::Lacks),
            ANNOUNCE => ids_from_wire("announce", payload, IDS_MAX).map(Self::Announce),
            CREDIT => {
                let wire: wire::Credit = read("credit", payload)?;
                Ok(Self::Credit { bytes: wire.bytes })
            }
            DONE => Done::from_wire(read("done", payload)?).map(Self::Done),
            DIVERGED => {
                let wire: wire::Round = read("diverged", payload)?;
                Ok(Self::Diverged { round: wire.round })
            }
            SUMMARIZE => {
                let wire: wire::Summarize = read("summarize", payload)?;
                bounded("ranges", wire.ranges.len(), RANGES_MAX)?;
                Ok(Self::Summarize {
                    round: wire.round,
                    ranges: wire
                        .ranges
                        .iter()
                        .map(range_from_wire)
                        .collect::<Result<_, _>>()?,
                })
            }
            SUMMARY => {
                let wire: wire::Summary = read("summary", payload)?;
                bounded("ranges", wire.ranges.len(), PARTS_ANSWERED_MAX)?;
                Ok(Self::Summary {
                    round: wire.round,
                    ranges: wire
                        .ranges
                        .into_iter()
                        .map(summary_from_wire)
                        .collect::<Result<_, _>>()?,
                })
            }
            SKETCH => {
                let wire: wire::Sketch = read("sketch", payload)?;
                bounded(
                    "bytes of cells",
                    wire.cells.len(),
                    SKETCH_CELLS_MAX * CELL_BYTES,
                )?;
                let cells = fixed(sketch::decode(&wire.cells), "cells", &wire.cells)?;
                Ok(Self::Sketch {
                    round: wire.round,
                    cells,
                })
            }
            DIFFERENCE => {
                let wire: wire::Difference = read("difference", payload)?;
                bounded("ids that differ", wire.ids.len(), SKETCH_CELLS_MAX)?;
                let ids = ids(&wire.ids)?;
                Ok(Self::Difference {
                    round: wire.round,
                    lacks: wire.found.then_some(ids),
                })
            }
            ERROR => {
                let wire: wire::Error = read("error", payload)?;
                Ok(Self::Error(PeerError {
                    code: ErrorCode::from_number(wire.code),
                    text: cut(&wire.text).to_owned(),
                }))
            }
            other => Err(MessageError::Meaningless {
                field: "kind",
                value: u64::from(other),
            }),
        }
    }
}

impl Hello {
    fn to_wire(&self) -> wire::Hello {
        wire::Hello {
            round: self.round,
            // Whoever says no versions speaks the first one.
            versions: match self.versions[..] {
                [1] => Vec::new(),
                _ => self.versions.clone(),
            },
            store: self.store.map_or(Vec::new(), |store| store.0.to_vec()),
            clock_ms: self.clock_ms,
            attestation: self.attestation.map(|attestation| wire::Attestation {
                device: attestation.device.0.to_vec(),
                endpoint: attestation.endpoint.0.to_vec(),
                // The signature by which a device vouches for an endpoint with another key; there are none yet.
                signature: Vec::new(),
            }),
            wants: self.wants.number(),
            horizon: self.horizon.map_or(Vec::new(), |p| p.to_bytes().to_vec()),
            parked_count: self.parked_count,
            parked: self.parked.iter().map(|id| id.0.to_vec()).collect(),
            tips_digest: self.tips_digest.0.to_vec(),
            tip_count: self.tip_count,
            count: self.count,
            window_bytes: self.window_bytes,
            gives: self.gives.number(),
        }
    }

    fn from_wire(wire: wire::Hello) -> Result<Self, MessageError> {
        bounded("versions", wire.versions.len(), VERSIONS_MAX)?;
        bounded("parked", wire.parked.len(), LISTED_MAX)?;
        let attestation = wire.attestation.map(|wire| {
            let (device, endpoint) = (&wire.device, &wire.endpoint);
            Ok(Attestation {
                device: fixed(DeviceKey::from_slice(device), "device", device)?,
                endpoint: fixed(DeviceKey::from_slice(endpoint), "endpoint", endpoint)?,
            })
        });
        Ok(Self {
            round: wire.round,
            versions: match wire.versions.is_empty() {
                true => vec![1],
                false => wire.versions,
            },
            store: match wire.store.is_empty() {
                true => None,
                false => Some(fixed(
                    StoreId::from_slice(&wire.store),
                    "store",
                    &wire.store,
                )?),
            },
            clock_ms: wire.clock_ms,
            attestation: attestation.transpose()?,
            wants: Wants::from_number(wire.wants, "wants")?,
            horizon: match wire.horizon.len() {
                0 => None,
                _ => Some(position(&wire.horizon, "horizon", Position::MIN)?),
            },
            parked_count: wire.parked_count,
            parked: ids(&wire.parked)?,
            tips_digest: digest(&wire.tips_digest, "tips_digest")?,
            tip_count: wire.tip_count,
            count: wire.count,
            window_bytes: wire.window_bytes,
            gives: Wants::from_number(wire.gives, "gives")?,
        })
    }
}

impl Done {
    fn to_wire(&self) -> wire::Done {
        wire::Done {
            round: self.round,
            tips_digest: self.tips_digest.0.to_vec(),
            count: self.count,
            sent: self.sent,
            floating: self.floating,
            parked: self.parked,
            missing: self.missing.iter().map(|id| id.0.to_vec()).collect(),
            withheld: self.withheld,
            last: self.last,
            ranged: self.ranged,
        }
    }

    fn from_wire(wire: wire::Done) -> Result<Self, MessageError> {
        bounded("missing", wire.missing.len(), LISTED_MAX)?;
        Ok(Self {
            round: wire.round,
            tips_digest: digest(&wire.tips_digest, "tips_digest")?,
            count: wire.count,
            sent: wire.sent,
            floating: wire.floating,
            parked: wire.parked,
            missing: ids(&wire.missing)?,
            withheld: wire.withheld,
            last: wire.last,
            ranged: wire.ranged,
        })
    }
}

fn read<T: prost::Message + Default>(
    kind: &'static str,
    payload: &[u8],
) -> Result<T, MessageError> {
    T::decode(payload).map_err(|_| MessageError::Undecodable { kind })
}

fn bounded(field: &'static str, len: usize, max: usize) -> Result<(), MessageError> {
    if len > max {
        return Err(MessageError::TooMany { field, len, max });
    }
    Ok(())
}

fn fixed<T>(value: Option<T>, field: &'static str, bytes: &[u8]) -> Result<T, MessageError> {
    value.ok_or(MessageError::FieldLength {
        field,
        len: bytes.len(),
    })
}

fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, MessageError> {
    fixed(Digest::from_slice(bytes), field, bytes)
}

fn ids(list: &[Vec<u8>]) -> Result<Vec<IntentionId>, MessageError> {
    list.iter()
        .map(|id| fixed(IntentionId::from_slice(id), "id", id))
        .collect()
}

fn ids_to_wire(ids: &[IntentionId]) -> Vec<u8> {
    let ids = ids.iter().map(|id| id.0.to_vec()).collect();
    wire::Ids { ids }.encode_to_vec()
}

fn ids_from_wire(
    kind: &'static str,
    payload: &[u8],
    max: usize,
) -> Result<Vec<IntentionId>, MessageError> {
    let wire: wire::Ids = read(kind, payload)?;
    bounded(kind, wire.ids.len(), max)?;
    ids(&wire.ids)
}

/// Reads a position. No bytes stand for `open`, the open end of a range.
fn position(bytes: &[u8], field: &'static str, open: Position) -> Result<Position, MessageError> {
    match bytes.len() {
        0 => Ok(open),
        _ => fixed(Position::from_slice(bytes), field, bytes),
    }
}

fn range_to_wire(range: &Range) -> wire::Range {
    let end = |at: Position, open: Position| {
        if at == open {
            Vec::new()
        } else {
            at.to_bytes().to_vec()
        }
    };
    wire::Range {
        from: end(range.from, Position::MIN),
        to: end(range.to, Position::MAX),
    }
}

fn range_from_wire(wire: &wire::Range) -> Result<Range, MessageError> {
    Ok(Range {
        from: position(&wire.from, "from", Position::MIN)?,
        to: position(&wire.to, "to", Position::MAX)?,
    })
}

fn summary_to_wire(summary: &RangeSummary) -> wire::RangeSummary {
    let mut wire = wire::RangeSummary {
        range: Some(range_to_wire(&summary.range)),
        count: summary.count,
        ..Default::default()
    };
    match &summary.content {
        RangeContent::Fingerprint(digest) => wire.fingerprint = digest.0.to_vec(),
        RangeContent::Ids(ids) => {
            wire.ids = ids.iter().map(|id| id.0.to_vec()).collect();
            wire.listed = true;
        }
    }
    wire
}

fn summary_from_wire(wire: wire::RangeSummary) -> Result<RangeSummary, MessageError> {
    bounded("ids of a range", wire.ids.len(), LEAF_IDS)?;
    let content = if wire.listed {
        RangeContent::Ids(ids(&wire.ids)?)
    } else {
        RangeContent::Fingerprint(digest(&wire.fingerprint, "fingerprint")?)
    };
    Ok(RangeSummary {
        range: range_from_wire(&wire.range.unwrap_or_default())?,
        count: wire.count,
        content,
    })
}

/// The longest prefix of `text` that an error may carry.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Wants {
    fn number(self) -> u32 {
        match self {
            Self::Headers => 1,
            Self::SystemLane => 2,
            Self::All => 3,
        }
    }

    fn from_number(number: u32, field: &'static str) -> Result<Self, MessageError> {
        match number {
            1 => Ok(Self::Headers),
            2 => Ok(Self::SystemLane),
            3 => Ok(Self::All),
            _ => Err(MessageError::Meaningless {
                field,
                value: u64::from(number),
            }),
        }
    }
}

impl ErrorCode {
    fn number(self) -> u32 {
        match self {
            Self::NotAMember => 1,
            Self::UnknownStore => 2,
            Self::Version => 3,
            Self::TooMuch => 4,
            Self::Internal => 5,
            Self::Invalid => 6,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::NotAMember,
            2 => Self::UnknownStore,
            3 => Self::Version,
            4 => Self::TooMuch,
            6 => Self::Invalid,
            _ => Self::Internal,
        }
    }
}

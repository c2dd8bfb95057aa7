//! The rows of the log's tables: their bytes, and the seals in front of them.
//!
//! The row of an entry leaves out two fields of the header: the store, which is that of the log, and the hash of the
//! body, which is computed from the body behind the header. The seal covers that hash. Without it a damaged body would
//! not be found, because the header would get the hash of the damaged body.

use std::sync::Arc;

use lattice_format::{Body, BodyHash, Known, Signature, StoreId, VerifiedHeader};

use crate::log::{Append, Stored, WitnessRecord};
use crate::outcome::Outcome;
use crate::storage::keys::{LocalSeq, put_varint, take, take_varint, unzigzag, zigzag};

const BODY_PRESENT: u8 = 1;

/// What is wrong with a row. Whoever reads the row adds the file.
pub(crate) type Damage = String;

fn damage(local: LocalSeq, what: impl std::fmt::Display) -> Damage {
    format!("entry {} {what}", local.0)
}

/// The length of the seal in front of a row, in bytes.
pub(crate) const SEAL: usize = 8;

/// The seal of a row, which covers its key too.
pub(crate) fn seal(key: &[u8], row: &[u8]) -> [u8; SEAL] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(row);
    *hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .expect("a hash has 32 bytes")
}

/// A row with its seal.
pub(crate) fn sealed(key: &[u8], row: &[u8]) -> Vec<u8> {
    let mut out = seal(key, row).to_vec();
    out.extend_from_slice(row);
    out
}

/// The row without its seal; `None` when the seal is not that of the key and the row.
pub(crate) fn unsealed<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (found, row) = row.split_first_chunk::<SEAL>()?;
    (seal(key, row) == *found).then_some(row)
}

/// The key of a row of `noticed-2`, in the form that its seal covers.
pub(crate) fn noticed_key(local: LocalSeq, transaction: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&local.0.to_be_bytes());
    key[8..].copy_from_slice(&transaction.to_be_bytes());
    key
}

/// The fields that an entry's row leaves out of its header. The genesis, entry 0 of every log, names no store.
fn known(local: u64, store: Option<StoreId>, body_hash: Option<BodyHash>) -> Known {
    Known {
        store: store.filter(|_| local != 0),
        body_hash,
    }
}

/// The seal of an entry's row, over everything before the body and the hash of the body.
fn entry_seal(local: u64, head: &[u8], body_hash: Option<BodyHash>) -> [u8; SEAL] {
    let hash = body_hash.map_or(Vec::new(), |hash| hash.0.to_vec());
    seal(&local.to_be_bytes(), &[head, &hash].concat())
}

/// Appends the row of an entry to `out`, which is empty.
pub(crate) fn encode(local: u64, entry: &Append, out: &mut Vec<u8>) {
    let header = &entry.header;
    let body_hash = entry.body.as_ref().map(|_| header.body.hash);
    out.extend_from_slice(&[0; SEAL]);
    out.push(match entry.body {
        Some(_) => BODY_PRESENT,
        None => 0,
    });
    out.extend_from_slice(&header.signed().signature.0);
    let after_ms = entry.received_ms.wrapping_sub(header.time.wall_ms);
    put_varint(zigzag(after_ms.cast_signed()), out);
    let abridged = header.abridged(&known(local, header.store, body_hash));
    put_bytes(&abridged, out);
    let mut told = Vec::new();
    for outcome in &entry.told {
        put_bytes(&outcome.to_cbor(), &mut told);
    }
    put_bytes(&told, out);
    let seal = entry_seal(local, &out[SEAL..], body_hash);
    out[..SEAL].copy_from_slice(&seal);
    if let Some(body) = &entry.body {
        out.extend_from_slice(body.bytes());
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_varint(rest)?;
    take(rest, usize::try_from(len).ok()?)
}

/// The parts of an entry's row.
struct Parts<'a> {
    signature: [u8; 64],
    /// Milliseconds from the header's time to the receipt; negative when the entry was received before that time.
    after_ms: i64,
    header: &'a [u8],
    told: &'a [u8],
    body: Option<(&'a [u8], BodyHash)>,
}

/// Takes a row apart, and checks its seal.
fn split(local: LocalSeq, row: &[u8]) -> Result<Parts<'_>, Damage> {
    let (found, row) = row
        .split_first_chunk::<SEAL>()
        .ok_or_else(|| damage(local, "is cut short"))?;
    let (parts, head) = parts(row).ok_or_else(|| damage(local, "is cut short"))?;
    if entry_seal(local.0, head, parts.body.map(|(_, hash)| hash)) != *found {
        return Err(damage(local, "is not what was written"));
    }
    Ok(parts)
}

/// The parts of a row without its seal, and the bytes before the body.
fn parts(row: &[u8]) -> Option<(Parts<'_>, &[u8])> {
    let (&flags, rest) = row.split_first()?;
    let (signature, mut rest) = rest.split_first_chunk::<64>()?;
    let after_ms = unzigzag(take_varint(&mut rest)?);
    let header = take_bytes(&mut rest)?;
    let told = take_bytes(&mut rest)?;
    let head = &row[..row.len() - rest.len()];
    let body = match flags {
        BODY_PRESENT => Some((rest, Body::hash_of(rest))),
        0 if rest.is_empty() => None,
        _ => return None,
    };
    let parts = Parts {
        signature: *signature,
        after_ms,
        header,
        told,
        body,
    };
    Some((parts, head))
}

/// Reads the row of an entry in the log of `store`.
pub(crate) fn decode(
    local: LocalSeq,
    row: &[u8],
    store: Option<StoreId>,
) -> Result<Stored, Damage> {
    let parts = split(local, row)?;
    let known = known(local.0, store, parts.body.map(|(_, hash)| hash));
    let header = VerifiedHeader::from_abridged(parts.header, &known, Signature(parts.signature))
        .map_err(|error| damage(local, format_args!("has a bad header ({error})")))?;
    let body = parts.body.map(|(body, _)| body);
    if body.is_some_and(|body| body.len() != header.body.len as usize) {
        return Err(damage(local, "has a body of another length"));
    }
    Ok(Stored {
        local,
        received_ms: header.time.wall_ms.wrapping_add_signed(parts.after_ms),
        header,
        body: body.map(Arc::from),
    })
}

/// The outcomes that callers on this node were told, from an entry's row; `None` for entries of others.
pub(crate) fn told(local: LocalSeq, row: &[u8]) -> Result<Option<Vec<Outcome>>, Damage> {
    let told = split(local, row)?.told;
    if told.is_empty() {
        return Ok(None);
    }
    decode_told(told)
        .map(Some)
        .ok_or_else(|| damage(local, "has unreadable outcomes"))
}

/// The row of the link of the witness chain that covers the entries up to `last`.
pub(crate) fn encode_witness(last: u64, record: &WitnessRecord) -> Vec<u8> {
    let mut row = record.chain.to_vec();
    row.extend_from_slice(&record.wall_ms.to_be_bytes());
    row.extend_from_slice(&record.signature.0);
    sealed(&last.to_be_bytes(), &row)
}

/// Reads the row of a link of the witness chain that covers the entries up to `last`.
pub(crate) fn decode_witness(last: u64, row: &[u8]) -> Result<WitnessRecord, Damage> {
    let split = |row| {
        let (chain, rest) = <[u8]>::split_first_chunk::<32>(row)?;
        let (wall, signature) = rest.split_first_chunk::<8>()?;
        Some(WitnessRecord {
            chain: *chain,
            wall_ms: u64::from_be_bytes(*wall),
            signature: Signature(signature.try_into().ok()?),
        })
    };
    unsealed(&last.to_be_bytes(), row)
        .and_then(split)
        .ok_or_else(|| damage(LocalSeq(last), "has an unreadable witness record"))
}

fn decode_told(mut rest: &[u8]) -> Option<Vec<Outcome>> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        out.push(Outcome::from_cbor(take_bytes(&mut rest)?)?);
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use ed25519_dalek::SigningKey;
    use lattice_format::{
        BodyRef, ChainId, DeviceKey, Digest, Header, IntentionId, Lane, Seq, Time,
    };

    use super::*;
    use crate::log::notice::Notice;

    const STORE: StoreId = StoreId([9; 32]);
    const LOCAL: LocalSeq = LocalSeq(300);

    fn append(body: Option<&[u8]>, told: Vec<Outcome>, received_ms: u64) -> Append {
        let key = SigningKey::from_bytes(&[1; 32]);
        let bytes = body.unwrap_or(b"elsewhere");
        let header = Header {
            store: Some(STORE),
            author: DeviceKey(key.verifying_key().to_bytes()),
            chain: ChainId(0x0102_0304_0506_0708),
            seq: Seq(7),
            prev: Some(IntentionId([2; 32])),
            deps: Vec::new(),
            time: Time {
                wall_ms: 1_750_000_000_000,
                counter: 0,
            },
            grant: Some(IntentionId([3; 32])),
            admits: Vec::new(),
            lane: Lane::App,
            body: BodyRef {
                hash: Body::hash_of(bytes),
                len: bytes.len() as u32,
                key: 0,
            },
            chain_bytes: 1_000,
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        };
        let header = VerifiedHeader::sign(header, &key).unwrap();
        let body = body.map(|body| header.check_body(body).unwrap());
        Append {
            header,
            body,
            received_ms,
            told,
        }
    }

    fn own() -> Append {
        let told = vec![Outcome::Ok(vec![vec![0xf6]]), Outcome::Ok(vec![])];
        append(Some(b"the body"), told, 1_750_000_000_003)
    }

    fn foreign() -> Append {
        append(None, Vec::new(), 1_749_999_999_990)
    }

    fn row(entry: &Append) -> Vec<u8> {
        let mut out = Vec::new();
        encode(LOCAL.0, entry, &mut out);
        out
    }

    fn witness() -> WitnessRecord {
        WitnessRecord {
            chain: [4; 32],
            wall_ms: 1_750_000_000_000,
            signature: Signature([5; 64]),
        }
    }

    #[test]
    fn the_bytes_of_each_row_are_fixed() {
        let fork = Notice::Fork {
            author: DeviceKey([6; 32]),
            entry: IntentionId([7; 32]),
        };
        let rows = [
            ("entry", row(&own())),
            ("entry-without-body", row(&foreign())),
            ("notice", sealed(&1u64.to_be_bytes(), &fork.encode())),
            (
                "noticed",
                sealed(&noticed_key(LOCAL, 2), &Digest([8; 32]).0),
            ),
            ("witness", encode_witness(LOCAL.0, &witness())),
        ];
        let mut text = String::new();
        for (name, row) in rows {
            let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{name} {hex}\n");
        }
        assert_eq!(
            text,
            include_str!("rows.golden"),
            "the log on disk has changed"
        );
    }

    #[test]
    fn rows_read_back_as_the_bytes_that_were_verified() {
        for entry in [own(), foreign()] {
            let stored = decode(LOCAL, &row(&entry), Some(STORE)).unwrap();
            assert_eq!(stored.local, LOCAL);
            assert_eq!(stored.header.id(), entry.header.id());
            assert_eq!(stored.header.signed(), entry.header.signed());
            assert_eq!(
                stored.body.as_ref(),
                entry.body.as_ref().map(|body| body.bytes())
            );
            assert_eq!(stored.received_ms, entry.received_ms);
            let told = told(LOCAL, &row(&entry)).unwrap();
            assert_eq!(told.unwrap_or_default(), entry.told);
        }
        let row = encode_witness(LOCAL.0, &witness());
        assert_eq!(decode_witness(LOCAL.0, &row), Ok(witness()));
    }

    /// Holds: invariant 13.
    #[test]
    fn each_bit_of_a_row_is_covered_by_its_seal() {
        for entry in [own(), foreign()] {
            let row = row(&entry);
            for bit in 0..row.len() * 8 {
                let mut broken = row.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                let error = decode(LOCAL, &broken, Some(STORE)).unwrap_err();
                assert!(error.starts_with("entry 300 "), "{error}");
                told(LOCAL, &broken).unwrap_err();
            }
            for len in 0..row.len() {
                decode(LOCAL, &row[..len], Some(STORE)).unwrap_err();
            }
            // The row of one entry under the number of another.
            decode(LocalSeq(301), &row, Some(STORE)).unwrap_err();
        }
    }
}

//! The rows of the log's tables: their bytes, and the seals in front of them.

use lattice_format::{Signature, SignedHeader, VerifiedHeader};

use crate::graph::dag::LocalSeq;
use crate::log::{Append, Stored, WitnessRecord};
use crate::outcome::Outcome;

const BODY_PRESENT: u8 = 1;

/// What is wrong with a row. Which file it stands in is for its reader to say.
pub(crate) type Damage = String;

fn damage(local: LocalSeq, what: impl std::fmt::Display) -> Damage {
    format!("entry {} {what}", local.0)
}

/// Length of the seal in front of a row.
const SEAL: usize = 8;

fn seal(key: &[u8], row: &[u8]) -> [u8; SEAL] {
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

/// The row behind its seal; `None` when they do not belong together.
pub(crate) fn unsealed<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (found, row) = row.split_first_chunk::<SEAL>()?;
    (seal(key, row) == *found).then_some(row)
}

/// The key of a row of outcomes that notices told of, as it is sealed.
pub(crate) fn noticed_key(local: LocalSeq, transaction: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&local.0.to_be_bytes());
    key[8..].copy_from_slice(&transaction.to_be_bytes());
    key
}

/// The row of an entry.
pub(crate) fn encode(local: u64, entry: &Append, out: &mut Vec<u8>) {
    let signed = entry.header.signed();
    out.extend_from_slice(&[0; SEAL]);
    out.push(if entry.body.is_some() {
        BODY_PRESENT
    } else {
        0
    });
    out.extend_from_slice(&entry.received_ms.to_be_bytes());
    out.extend_from_slice(&signed.signature.0);
    let len = u32::try_from(signed.bytes.len()).expect("headers are bounded by the format");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&signed.bytes);
    let told = match entry.told.is_empty() {
        true => Vec::new(),
        false => encode_told(&entry.told),
    };
    let len = u32::try_from(told.len()).expect("outcomes are bounded by the genesis");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&told);
    let seal = seal(&local.to_be_bytes(), &out[SEAL..]);
    out[..SEAL].copy_from_slice(&seal);
    if let Some(body) = &entry.body {
        out.extend_from_slice(body.bytes());
    }
}

/// The parts of an entry's row.
struct Parts<'a> {
    flags: u8,
    received_ms: u64,
    signature: [u8; 64],
    header: &'a [u8],
    told: &'a [u8],
    body: &'a [u8],
}

/// Takes a row apart that is what was written, its body aside.
fn split(local: LocalSeq, row: &[u8]) -> Result<Parts<'_>, Damage> {
    let (found, row) = row
        .split_first_chunk::<SEAL>()
        .ok_or_else(|| damage(local, "is cut short"))?;
    let parts = parts(row).ok_or_else(|| damage(local, "is cut short"))?;
    let head = &row[..row.len() - parts.body.len()];
    if seal(&local.0.to_be_bytes(), head) != *found {
        return Err(damage(local, "is not what was written"));
    }
    Ok(parts)
}

fn parts(row: &[u8]) -> Option<Parts<'_>> {
    let sized = |rest| {
        let (len, rest) = <[u8]>::split_first_chunk::<4>(rest)?;
        rest.split_at_checked(u32::from_be_bytes(*len) as usize)
    };
    let (&flags, rest) = row.split_first()?;
    let (received, rest) = rest.split_first_chunk::<8>()?;
    let (signature, rest) = rest.split_first_chunk::<64>()?;
    let (header, rest) = sized(rest)?;
    let (told, body) = sized(rest)?;
    Some(Parts {
        flags,
        received_ms: u64::from_be_bytes(*received),
        signature: *signature,
        header,
        told,
        body,
    })
}

/// The entry of a row.
pub(crate) fn decode(local: LocalSeq, row: &[u8]) -> Result<Stored, Damage> {
    let Parts {
        flags,
        received_ms,
        signature,
        header,
        body,
        told: _,
    } = split(local, row)?;
    let header = VerifiedHeader::from_trusted_storage(SignedHeader {
        bytes: header.into(),
        signature: Signature(signature),
    })
    .map_err(|error| damage(local, format_args!("has a bad header ({error})")))?;
    let body = match flags & BODY_PRESENT {
        0 => None,
        _ => {
            let body = header
                .check_body(body)
                .map_err(|error| damage(local, format_args!("has a bad body ({error})")))?;
            Some(body.bytes().clone())
        }
    };
    Ok(Stored {
        local,
        header,
        body,
        received_ms,
    })
}

/// What callers here were told of the entry of a row; `None` for entries of others.
pub(crate) fn told(local: LocalSeq, row: &[u8]) -> Result<Option<Vec<Outcome>>, Damage> {
    let told = split(local, row)?.told;
    if told.is_empty() {
        return Ok(None);
    }
    decode_told(told)
        .map(Some)
        .ok_or_else(|| damage(local, "has unreadable outcomes"))
}

/// The row of a link of the witness chain that covers the entries up to `last`.
pub(crate) fn encode_witness(last: u64, record: &WitnessRecord) -> Vec<u8> {
    let mut row = record.chain.to_vec();
    row.extend_from_slice(&record.wall_ms.to_be_bytes());
    row.extend_from_slice(&record.signature.0);
    sealed(&last.to_be_bytes(), &row)
}

/// The link of the witness chain of a row.
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

fn encode_told(told: &[Outcome]) -> Vec<u8> {
    let mut out = (told.len() as u32).to_be_bytes().to_vec();
    for outcome in told {
        let bytes = outcome.to_cbor();
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

fn decode_told(row: &[u8]) -> Option<Vec<Outcome>> {
    let (count, mut rest) = row.split_first_chunk::<4>()?;
    let mut out = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (bytes, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        out.push(Outcome::from_cbor(bytes)?);
        rest = tail;
    }
    rest.is_empty().then_some(out)
}

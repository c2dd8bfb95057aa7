//! A protobuf writer of its own, so that what the crate writes is judged by something else.

use lattice_format::{Header, limits::FORMAT};

/// An unsigned varint (https://protobuf.dev/programming-guides/encoding/).
pub(crate) fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn tag(field: u32, kind: u8, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3 | u64::from(kind), out);
}

/// A number field; left out when it is 0, as proto3 wants.
pub(crate) fn number(field: u32, n: u64, out: &mut Vec<u8>) {
    if n != 0 {
        number_anyway(field, n, out);
    }
}

pub(crate) fn number_anyway(field: u32, n: u64, out: &mut Vec<u8>) {
    tag(field, 0, out);
    varint(n, out);
}

pub(crate) fn fixed64(field: u32, n: u64, out: &mut Vec<u8>) {
    if n != 0 {
        tag(field, 1, out);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

/// Bytes, text or a message.
pub(crate) fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(field, 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Each field of a header as its own bytes, in the order of the encoding. Repeated fields give
/// one part an element.
pub(crate) fn parts(header: &Header) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut part = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        if !bytes.is_empty() {
            out.push(bytes);
        }
    };
    let optional = |field: u32, value: Option<[u8; 32]>| {
        move |out: &mut Vec<u8>| {
            if let Some(value) = value {
                bytes(field, &value, out);
            }
        }
    };
    part(&optional(1, header.store.map(|s| s.0)));
    part(&|out| bytes(2, &header.author.0, out));
    part(&|out| fixed64(3, header.chain.0, out));
    part(&|out| number(4, header.seq.0, out));
    part(&optional(5, header.prev.map(|p| p.0)));
    for dep in &header.deps {
        part(&|out| bytes(6, &dep.0, out));
    }
    part(&|out| number(7, header.time.wall_ms, out));
    part(&|out| number(8, u64::from(header.time.counter), out));
    part(&optional(9, header.grant.map(|g| g.0)));
    for key in &header.admits {
        part(&|out| bytes(10, &key.0, out));
    }
    part(&|out| number(11, u64::from(header.lane.number()), out));
    part(&|out| bytes(12, &header.body.hash.0, out));
    part(&|out| number(13, u64::from(header.body.len), out));
    part(&|out| number(14, u64::from(header.body.key), out));
    part(&|out| number(15, header.chain_bytes, out));
    part(&optional(16, header.parent_view.map(|p| p.0)));
    for hint in &header.hints {
        part(&|out| {
            let mut inner = Vec::new();
            number(1, u64::from(hint.number), &mut inner);
            if !hint.value.is_empty() {
                bytes(2, &hint.value, &mut inner);
            }
            bytes(17, &inner, out);
        });
    }
    part(&|out| number(18, header.critical, out));
    out
}

/// The format byte and these parts.
pub(crate) fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![FORMAT];
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

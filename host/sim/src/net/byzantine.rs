//! Peers that keep to no rule: what a liar sends in place of its session's bytes.
//!
//! Some of it is noise. The rest decodes and is false: tips that the liar does not have, summaries of ranges with too
//! many, too few or other rows, digests that say equal or different, and a search that nobody needs. To make these, a
//! frame is taken apart as protobuf, without knowledge of its messages, changed, and put together again.

use bytes::Bytes;
use lattice_kernel::sync::limits::{ENTRIES_FRAME_BYTES, ENTRIES_FRAME_MAX};
use lattice_testing::Dice;
use prost::encoding::{decode_varint, encode_varint};

use crate::limits::OUT_BYTES_HIGH;
use crate::world::World;
use crate::world::node::{Entries, NodeId};

/// Bytes before the payload of a frame: its length, and the kind of the message.
const HEAD_BYTES: usize = 5;
/// Kinds of messages that hold rows, and the field that does.
const ROWS: [(u8, u64); 3] = [(2, 2), (10, 2), (11, 2)];
/// The kinds of the messages that end a round and that ask for a search of ranges.
const DONE: u8 = 8;
const DIVERGED: u8 = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Fixed([u8; 8]),
    Bytes(Vec<u8>),
}

/// A field with its number.
type Field = (u64, Value);

fn number(bytes: &mut &[u8]) -> Option<u64> {
    decode_varint(bytes).ok()
}

fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut bytes)?),
            1 => {
                let (fixed, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Value::Fixed(*fixed)
            }
            2 => {
                let len = usize::try_from(number(&mut bytes)?).ok()?;
                let (inner, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                Value::Bytes(inner.to_vec())
            }
            _ => return None,
        };
        out.push((key >> 3, value));
    }
    Some(out)
}

fn put(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, value) in fields {
        match value {
            Value::Number(number) => {
                encode_varint(field << 3, &mut out);
                encode_varint(*number, &mut out);
            }
            Value::Fixed(fixed) => {
                encode_varint(field << 3 | 1, &mut out);
                out.extend_from_slice(fixed);
            }
            Value::Bytes(bytes) => {
                encode_varint(field << 3 | 2, &mut out);
                encode_varint(bytes.len() as u64, &mut out);
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

/// Changes one of several fields: leaves it out, doubles it, puts it elsewhere, or makes it say something else.
fn change(fields: &mut Vec<Field>, dice: &mut Dice) {
    if fields.is_empty() {
        return;
    }
    let at = dice.below(fields.len() as u64) as usize;
    let other = dice.below(fields.len() as u64) as usize;
    match dice.below(8) {
        0 => {
            fields.remove(at);
        }
        1 => fields.insert(other, fields[at].clone()),
        2 => fields.swap(at, other),
        _ => match &mut fields[at].1 {
            Value::Number(number) => {
                *number = match dice.below(4) {
                    0 => 0,
                    1 => number.wrapping_sub(1),
                    2 => dice.roll() >> dice.below(64),
                    _ => number.wrapping_add(1),
                };
            }
            Value::Fixed(fixed) => fixed[dice.below(8) as usize] ^= 1,
            Value::Bytes(bytes) if !bytes.is_empty() => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.below(8);
            }
            Value::Bytes(_) => {}
        },
    }
}

/// A frame that decodes and says something else than this one.
fn twisted(frame: &[u8], dice: &mut Dice) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(HEAD_BYTES)?;
    let mut kind = head[4];
    let mut all = fields(payload)?;
    match ROWS.iter().find(|(known, _)| *known == kind) {
        Some((_, row)) if dice.below(4) != 0 => {
            let rows = all.iter_mut().filter(|(field, _)| field == row);
            let mut rows: Vec<&mut Value> = rows.map(|(_, value)| value).collect();
            let at = dice.below(rows.len().max(1) as u64) as usize;
            if let Some(Value::Bytes(bytes)) = rows.get_mut(at) {
                let mut inner = fields(bytes)?;
                change(&mut inner, dice);
                *bytes = put(&inner);
            }
        }
        // Both messages begin with the number of the round.
        None if kind == DONE && dice.below(2) == 0 => {
            kind = DIVERGED;
            all.retain(|(field, _)| *field == 1);
        }
        _ => change(&mut all, dice),
    }
    framed(kind, &put(&all))
}

/// The kind of the messages that carry entries.
const ENTRIES: u8 = 3;

/// Frames that carry entries in their order, each as large as a session's.
pub(crate) fn frames_of(entries: &Entries) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let (mut rows, mut len) = (Vec::new(), 0);
    let mut close = |rows: &mut Vec<Field>| {
        let payload = put(rows);
        rows.clear();
        frames.extend(framed(ENTRIES, &payload).map(Bytes::from));
    };
    for (signed, body) in entries {
        let mut row = vec![
            (1, Value::Bytes(signed.bytes.to_vec())),
            (2, Value::Bytes(signed.signature.0.to_vec())),
        ];
        row.extend(body.clone().map(|body| (3, Value::Bytes(body))));
        let row = put(&row);
        len += row.len();
        rows.push((1, Value::Bytes(row)));
        if len >= ENTRIES_FRAME_BYTES || rows.len() >= ENTRIES_FRAME_MAX {
            close(&mut rows);
            len = 0;
        }
    }
    if !rows.is_empty() {
        close(&mut rows);
    }
    frames
}

fn framed(kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = u32::try_from(payload.len()).ok()?.to_be_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(payload);
    Some(out)
}

impl World {
    /// What a liar sends in place of its session's bytes.
    pub(crate) fn lie(&mut self, me: NodeId, bytes: Bytes) -> Bytes {
        let repeat = self.nodes[me.index()].sent.replace(bytes.clone());
        let mut wrong = bytes.to_vec();
        match self.dice.below(16) {
            0 if !wrong.is_empty() => {
                let at = self.dice.below(wrong.len() as u64) as usize;
                wrong[at] ^= 1 << self.dice.below(8);
            }
            1 => wrong.extend(repeat.unwrap_or_default()),
            2 => wrong = repeat.map(Vec::from).unwrap_or_default(),
            3 => wrong.truncate(wrong.len() / 2),
            4 => {
                let count = 1 + self.dice.below(40);
                for _ in 0..count {
                    if wrong.len() + bytes.len() < OUT_BYTES_HIGH {
                        wrong.extend_from_slice(&bytes);
                    }
                }
            }
            5 | 6 => wrong = twisted(&bytes, &mut self.dice).unwrap_or(wrong),
            _ => {}
        }
        wrong.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use lattice_format::{Signature, SignedHeader};

    #[test]
    fn fields_that_are_put_together_again_are_the_same_bytes() {
        let all = vec![
            (1, Value::Number(300)),
            (2, Value::Bytes(vec![7; 200])),
            (9, Value::Fixed([1, 2, 3, 4, 5, 6, 7, 8])),
            (2, Value::Bytes(Vec::new())),
            (4, Value::Number(u64::MAX)),
        ];
        assert_eq!(fields(&put(&all)), Some(all));
        assert_eq!(fields(&[8]), None);
        assert_eq!(fields(&[18, 5, 1]), None);
    }

    #[test]
    fn entries_are_framed_in_their_order_as_sessions_do() {
        let entry = |number: usize| {
            let signed = SignedHeader {
                bytes: number.to_be_bytes().to_vec().into(),
                signature: Signature([7; 64]),
            };
            (signed, number.is_multiple_of(2).then(|| vec![9; 100]))
        };
        let count = ENTRIES_FRAME_MAX + 3;
        let frames = frames_of(&(0..count).map(entry).collect());
        assert_eq!(frames.len(), 2);
        let rows: Vec<Field> = frames
            .iter()
            .flat_map(|frame| fields(&frame[HEAD_BYTES..]).unwrap())
            .collect();
        assert_eq!(rows.len(), count);
        for (number, (field, row)) in rows.into_iter().enumerate() {
            let Value::Bytes(row) = row else { panic!() };
            let row = fields(&row).unwrap();
            let header = Value::Bytes(number.to_be_bytes().to_vec());
            assert_eq!((field, &row[0]), (1, &(1, header)));
            assert_eq!(row.len(), if number.is_multiple_of(2) { 3 } else { 2 });
        }
    }

    #[test]
    fn a_twisted_frame_is_a_frame_with_another_content() {
        let rows: Vec<Field> = vec![(1, Value::Number(3)), (2, Value::Bytes(vec![9; 32]))];
        let payload = put(&[
            (1, Value::Number(7)),
            (2, Value::Bytes(put(&rows))),
            (2, Value::Bytes(put(&rows[1..]))),
        ]);
        let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
        frame.push(11);
        frame.extend(&payload);
        let mut dice = Dice(1);
        let twisted: Vec<_> = (0..200)
            .map(|_| twisted(&frame, &mut dice).unwrap())
            .collect();
        let other = twisted.iter().filter(|t| **t != frame).count();
        assert!(other > 150, "{other}");
        for frame in twisted {
            let len = u32::from_be_bytes(*frame.first_chunk().unwrap()) as usize;
            assert_eq!((len, frame[4]), (frame.len() - HEAD_BYTES, 11));
        }
    }
}

//! Cells: the units of a store's state, and the keys of the rows that concern them.
//!
//! `storage/keys.rs` lists what the rows hold. A key that names a reader has the reader's lane as well as its
//! slot, because the genesis runs in both lanes at the same slot.

use std::sync::Arc;

use lattice_format::Lane;

use crate::graph::slot::Slot;
use crate::storage::keys::escape;

/// The kind of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Rows that a component reads and writes as bytes.
    Bytes = 0,
    /// Numbers, changed by blind adds.
    Numbers = 1,
    /// Pins: owner and blob.
    Pins = 2,
    /// Rows that the host keeps, such as the code in effect.
    Host = 3,
    /// Numbers that the host keeps: how many bytes each author has written. The root leaves them out.
    Written = 5,
    /// The host's rows of the calls of entries that count. The root leaves them out.
    Called = 6,
}

impl Space {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Bytes),
            1 => Some(Self::Numbers),
            2 => Some(Self::Pins),
            3 => Some(Self::Host),
            5 => Some(Self::Written),
            6 => Some(Self::Called),
            _ => None,
        }
    }

    /// Whether the cells of this space are numbers, which adding changes.
    pub(crate) fn is_number(self) -> bool {
        matches!(self, Self::Numbers | Self::Written)
    }

    /// Whether the cells of this space are part of the state root.
    pub(crate) fn in_root(self) -> bool {
        !matches!(self, Self::Written | Self::Called)
    }
}

/// The address of one value of the state: lane, space and key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(Arc<[u8]>);

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?}/{:?}/{}",
            self.lane(),
            self.space(),
            self.key().escape_ascii()
        )
    }
}

impl Cell {
    /// The cell of `key` in a lane and a space.
    pub fn new(lane: Lane, space: Space, key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(key.len() + 2);
        bytes.push(lane.number());
        bytes.push(space as u8);
        bytes.extend_from_slice(key);
        Self(bytes.into())
    }

    /// Reads an encoded cell; `None` when it has no lane or space.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let (&[lane, space], _) = bytes.split_first_chunk()?;
        Lane::from_number(u32::from(lane))?;
        Space::from_number(space)?;
        Some(Self(bytes.into()))
    }

    /// The encoded cell.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The lane that the cell belongs to.
    pub fn lane(&self) -> Lane {
        Lane::from_number(u32::from(self.0[0])).expect("checked when the cell was made")
    }

    /// The space that the cell belongs to.
    pub fn space(&self) -> Space {
        Space::from_number(self.0[1]).expect("checked when the cell was made")
    }

    /// The key, without lane and space.
    pub fn key(&self) -> &[u8] {
        &self.0[2..]
    }
}

/// What one version of a cell says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The cell has no value.
    Delete,
    /// The cell has these bytes.
    Put(Arc<[u8]>),
    /// The number rises by so much, wrapping.
    Add(i64),
}

impl Op {
    /// Appends the encoding of a version: a tag, then its bytes or number.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Delete => out.push(0),
            Self::Put(bytes) => {
                out.push(1);
                out.extend_from_slice(bytes);
            }
            Self::Add(by) => {
                out.push(2);
                out.extend_from_slice(&by.to_be_bytes());
            }
        }
    }

    /// Reads what [`Op::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        match tag {
            0 if rest.is_empty() => Some(Self::Delete),
            1 => Some(Self::Put(rest.into())),
            2 => Some(Self::Add(i64::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

/// What a run saw in a cell, shortened for comparison: equal values have equal marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueMark(pub [u8; 16]);

impl ValueMark {
    /// The mark of a cell without a value.
    pub const ABSENT: Self = Self([0; 16]);

    /// The mark of bytes.
    pub fn of_bytes(value: Option<&[u8]>) -> Self {
        match value {
            None => Self::ABSENT,
            Some(bytes) => {
                let hash = blake3::hash(bytes);
                let mut mark: [u8; 16] = hash.as_bytes()[..16]
                    .try_into()
                    .expect("16 of a hash's 32 bytes");
                // The set bit keeps every value apart from `ABSENT`, even one whose hash begins with zeros.
                mark[0] |= 1;
                Self(mark)
            }
        }
    }

    /// The value of a reader's row. It is empty where the reader saw no value, the common case of a run that writes a
    /// new cell.
    pub(crate) fn as_row(&self) -> &[u8] {
        match *self == Self::ABSENT {
            true => &[],
            false => &self.0,
        }
    }

    /// The mark of a number.
    pub fn of_number(number: i64) -> Self {
        let mut mark = [0; 16];
        mark[0] = 1;
        mark[8..].copy_from_slice(&number.to_be_bytes());
        Self(mark)
    }
}

fn with_len(kind: u8, cell: &[u8], tail: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + cell.len() + tail);
    key.push(kind);
    let len = u16::try_from(cell.len()).expect("keys are bounded by KEY_BYTES_MAX");
    key.extend_from_slice(&len.to_be_bytes());
    key.extend_from_slice(cell);
    key
}

fn with_escaped(kind: u8, cell: &Cell, tail: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + cell.0.len() + tail);
    key.push(kind);
    escape(&cell.0, &mut key);
    key
}

/// Key of the row of a cell's newest value.
pub(crate) fn live_key(cell: &Cell) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + cell.0.len());
    key.push(b'L');
    key.extend_from_slice(&cell.0);
    key
}

/// The prefix of the keys of all older versions of a cell.
pub(crate) fn older_prefix(cell: &Cell) -> Vec<u8> {
    with_escaped(b'O', cell, Slot::LEN)
}

/// Key of the row of one older version, or of a deletion.
pub(crate) fn older_key(cell: &Cell, slot: Slot) -> Vec<u8> {
    let mut key = older_prefix(cell);
    key.extend_from_slice(slot.as_bytes());
    key
}

/// Key of the row that lists a cell as deleted: its newest version, at `slot`, is a deletion, or its number is 0.
pub(crate) fn deleted_key(lane: Lane, space: Space, slot: Slot, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(3 + Slot::LEN + key.len());
    row.extend_from_slice(&[b'K', lane.number(), space as u8]);
    row.extend_from_slice(slot.as_bytes());
    row.extend_from_slice(key);
    row
}

/// The prefix of the keys of all deltas of a number.
pub(crate) fn delta_prefix(cell: &Cell) -> Vec<u8> {
    with_escaped(b'N', cell, Slot::LEN)
}

/// Key of the row of what was added to a number at a slot.
pub(crate) fn delta_key(cell: &Cell, slot: Slot) -> Vec<u8> {
    let mut key = delta_prefix(cell);
    key.extend_from_slice(slot.as_bytes());
    key
}

/// Key of the row of a block of a number: the partial sum of rows of the level below, from `slot` on.
pub(crate) fn block_key(cell: &Cell, level: u8, slot: Slot) -> Vec<u8> {
    let mut key = with_escaped(b'Q', cell, 1 + Slot::LEN);
    key.push(level);
    key.extend_from_slice(slot.as_bytes());
    key
}

/// Key of the row of one reader of a cell.
pub(crate) fn reader_key(cell: &Cell, lane: Lane, slot: Slot) -> Vec<u8> {
    let mut key = with_len(b'R', &cell.0, 1 + Slot::LEN);
    key.push(lane.number());
    key.extend_from_slice(slot.as_bytes());
    key
}

/// Key of the row of one range that a run examined, under the longest common prefix of the range's ends.
pub(crate) fn range_key(prefix: &[u8], lane: Lane, slot: Slot, number: u32) -> Vec<u8> {
    let mut key = with_len(b'G', prefix, 5 + Slot::LEN);
    key.push(lane.number());
    key.extend_from_slice(slot.as_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The longest common prefix of a range's ends: every cell in the range starts with it.
pub(crate) fn common_prefix<'a>(start: &'a [u8], end: &[u8]) -> &'a [u8] {
    let len = start.iter().zip(end).take_while(|(a, b)| a == b).count();
    &start[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_read_back() {
        for op in [
            Op::Delete,
            Op::Put(b"x"[..].into()),
            Op::Put([][..].into()),
            Op::Add(-3),
        ] {
            let mut bytes = Vec::new();
            op.encode(&mut bytes);
            assert_eq!(Op::decode(&bytes), Some(op));
        }
        assert_eq!(Op::decode(&[]), None);
        assert_eq!(Op::decode(&[7]), None);
    }

    #[test]
    fn every_cell_of_a_range_starts_with_its_common_prefix() {
        assert_eq!(common_prefix(b"app/a", b"app/z"), b"app/");
        assert_eq!(common_prefix(b"a", b"b"), b"");
        assert_eq!(common_prefix(b"ab", b"abc"), b"ab");
    }

    #[test]
    fn an_empty_value_differs_from_none() {
        assert_ne!(ValueMark::of_bytes(Some(b"")), ValueMark::ABSENT);
        assert_ne!(ValueMark::of_number(0), ValueMark::ABSENT);
    }
}

//! One head of a key: a value or a deletion, with the call that wrote it.
//!
//! ```text
//! flags  1  bit 0: a deletion; bit 1: the key has older heads (the winner's row only)
//! wall   8  big-endian milliseconds   counter 4   index 4
//! author 32 the device's key          id      32  the call's id
//! value     the rest
//! ```

use lattice_sdk::codec::{Reader, Writer};
use lattice_sdk::{Entry, Timestamp};

const DELETED: u8 = 1;
const CONTESTED: u8 = 2;

/// A head of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Id of the call that wrote it.
    pub id: [u8; 32],
    /// Key of the device that wrote it.
    pub author: [u8; 32],
    /// Time of the entry.
    pub time: Timestamp,
    /// Place of the call in its entry.
    pub index: u32,
    /// Whether the key has older heads that the author of this one had not seen.
    pub contested: bool,
    /// The value; none for a deletion.
    pub value: Option<Vec<u8>>,
}

impl Cell {
    /// What `entry` writes.
    ///
    /// # Panics
    /// If the ids of `entry` are not 32 bytes, which the contract promises.
    pub fn new(entry: &Entry, value: Option<&[u8]>) -> Self {
        let exact = |bytes: &[u8]| {
            bytes
                .try_into()
                .expect("the contract promises ids of 32 bytes")
        };
        Self {
            id: exact(&entry.id),
            author: exact(&entry.author),
            time: entry.time,
            index: entry.index,
            contested: false,
            value: value.map(<[u8]>::to_vec),
        }
    }

    /// The row in the state.
    pub fn encode(&self) -> Vec<u8> {
        let deleted = if self.value.is_none() { DELETED } else { 0 };
        let contested = if self.contested { CONTESTED } else { 0 };
        Writer::tag(deleted | contested)
            .time(&self.time)
            .u32(self.index)
            .bytes(&self.author)
            .bytes(&self.id)
            .bytes(self.value.as_deref().unwrap_or_default())
            .finish()
    }

    /// Reads a row that [`Cell::encode`] wrote.
    ///
    /// # Panics
    /// If the row is shorter than its fixed fields: nothing else writes these rows.
    pub fn decode(row: &[u8]) -> Self {
        Self::read(row).expect("only `encode` writes these rows")
    }

    /// The value; none for a deletion.
    pub fn into_value(self) -> Option<Vec<u8>> {
        self.value
    }

    fn read(row: &[u8]) -> Option<Self> {
        let mut row = Reader::new(row);
        let flags = row.u8()?;
        let time = row.time()?;
        let index = row.u32()?;
        let author = row.array()?;
        let id = row.array()?;
        let value = (flags & DELETED == 0).then(|| row.rest().to_vec());
        Some(Self {
            id,
            author,
            time,
            index,
            contested: flags & CONTESTED != 0,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_bytes() {
        let entry = Entry {
            id: vec![0xaa; 32],
            author: vec![0xbb; 32],
            time: Timestamp {
                wall_ms: 1,
                counter: 2,
            },
            index: 3,
        };
        let cell = Cell {
            contested: true,
            ..Cell::new(&entry, Some(b"v"))
        };
        let mut golden = vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        golden.extend([[0xbb; 32], [0xaa; 32]].concat());
        golden.push(b'v');
        assert_eq!(cell.encode(), golden);
        assert_eq!(Cell::decode(&golden), cell);

        let deletion = Cell::new(&entry, None);
        assert_eq!(deletion.encode()[0], 1);
        assert_eq!(Cell::decode(&deletion.encode()), deletion);
    }
}

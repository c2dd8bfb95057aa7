//! Bytes for keys and values: fields of fixed size one after another, numbers big-endian.
//!
//! Big-endian numbers sort as bytes the way they sort as numbers, so the bytes of a [`Writer`] can be
//! keys. A plugin need not use this module; it may encode its rows as it likes.

use crate::{Entry, Timestamp};

/// Appends fields to a buffer.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with one byte, which tells kinds of keys or versions of values apart.
    pub fn tag(tag: u8) -> Self {
        Self(vec![tag])
    }

    /// Appends one byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends two bytes.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends four bytes.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends eight bytes.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends bytes as they are, without their length.
    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    /// Appends a time, 12 bytes that sort as times do.
    pub fn time(self, time: &Timestamp) -> Self {
        self.u64(time.wall_ms).u32(time.counter)
    }

    /// Appends the place of a call, 40 bytes: rows with such keys are in the order of history, and no two calls
    /// share one, so that they never conflict.
    ///
    /// Calls sort by time, then by author, then by index. The order of history sorts entries of the very same
    /// time by their ids, which are not known while an entry runs; they are concurrent in any case.
    pub fn position(self, entry: &Entry) -> Self {
        self.time(&entry.time)
            .bytes(entry.author.get(..8).unwrap_or_default())
            .u32(entry.index)
            .bytes(entry.id.get(..16).unwrap_or_default())
    }

    /// The finished bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes fields off the front of a buffer. Each method gives `None` where too few bytes are left.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A time, as [`Writer::time`] wrote it.
    pub fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp {
            wall_ms: self.u64()?,
            counter: self.u32()?,
        })
    }

    /// All the bytes that are left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let time = Timestamp {
            wall_ms: 7,
            counter: 9,
        };
        let bytes = Writer::tag(1)
            .u8(2)
            .u16(3)
            .u32(4)
            .u64(5)
            .time(&time)
            .bytes(b"rest")
            .finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Some(1));
        assert_eq!(reader.u8(), Some(2));
        assert_eq!(reader.u16(), Some(3));
        assert_eq!(reader.u32(), Some(4));
        assert_eq!(reader.u64(), Some(5));
        assert_eq!(reader.time(), Some(time));
        assert_eq!(reader.u64(), None, "four bytes are too few");
        assert_eq!(reader.rest(), b"rest");
    }

    #[test]
    fn positions_sort_by_time_then_author_then_index() {
        let position = |wall_ms, author: u8, index, id: u8| {
            let entry = Entry {
                id: vec![id; 32],
                author: vec![author; 32],
                time: Timestamp {
                    wall_ms,
                    counter: 0,
                },
                index,
            };
            Writer::default().position(&entry).finish()
        };
        let sorted = [
            position(1, 9, 9, 9),
            position(2, 1, 0, 8),
            position(2, 1, 1, 1),
            position(2, 2, 0, 0),
        ];
        assert!(sorted.is_sorted());
        assert!(sorted.iter().all(|position| position.len() == 40));
    }
}

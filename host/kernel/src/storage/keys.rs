//! Kinds of rows: the first byte of a key, the table that it selects, and the layout of its keys and values.
//!
//! Integers are big-endian unless they are varints (LEB128). `local` is the number of an entry in this node's log: a
//! varint in values; at the end of a key big-endian without leading zeros, unless a length stands behind it. A *slot*
//! is the first 28 bytes of a position: time (12) and half of the id. `esc(cell)` is a cell in an encoding that keeps
//! the order of cells when more bytes follow (`escape`). docs/protocol.md has the values in full.
//!
//! | kind | table | key | value, or the meaning of the row |
//! |---|---|---|---|
//! | `I` | `ids-2` | id\[..8\] local | |
//! | `D` | `graph-1` | local (8) | what the graph knows of an entry |
//! | `B` | `branches-1` | branch (4) | a chain without forks |
//! | `A` | `authors-1` | author (32) chain (8) branch (4) | |
//! | `C` | `chains-1` | branch (4) seq (8) | local |
//! | `S` | `pasts-2` | branch (4) seq (8) | a version vector: a tree, and what changed beside it |
//! | `F` | `fingerprints-2` | level (1) slot | how many entries count from the slot on, and the sum of their ids |
//! | `H` | `heads-1` | id (32) | local |
//! | `P` | `admissions-1` | key (32) local (8) | |
//! | `T` | `order-2` | slot | local, what its runs did, whether they are due |
//! | `E` | `calls-2` | lane (1) call id\[..16\] local | |
//! | `L` | `live-1` | cell | the newest value: local and bytes, or the total of a number |
//! | `O` | `older-1` | esc(cell) slot | local and op: older versions, and deletions |
//! | `K` | `deleted-1` | lane (1) space (1) slot key | cells whose newest version, at that slot, left nothing |
//! | `N` | `deltas-2` | esc(cell) slot | what was added to a number |
//! | `Q` | `blocks-1` | esc(cell) level (1) slot | count and sum of a block of rows of the level below |
//! | `R` | `readers-3` | length (2) cell lane (1) slot | what a run saw in the cell, which it did not write |
//! | `G` | `ranges-1` | length (2) prefix lane (1) slot number (4) | a range that a run examined |
//! | `Y` | `sets-1` | set (4) | author, and what was read for its runs before they began |
//! | `Z` | `set-digests-1` | digest (16) | set |
//! | `J` | `set-cells-1` | 0 and cell, or 1 and prefix, behind its length, set (4) | |
//! | `U` | `past-nodes-1` | node (8) | a node of the trees of version vectors |
//! | `V` | `void-1` | id (32) | void entries: nothing for one that is cut off, 1 for one above its author's quota |
//! | `W` | `void-kept-1` | author (32) | void entries of the author: their number, and the bytes of their bodies |
//! | `X` | `cuts-1` | author (32) | cuts of an author |
//! | `M` | `marks-1` | name | values of the whole store, such as how many entries the rows cover |

/// The number of an entry in this node's log, from 0. The same entry has other numbers on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalSeq(pub u64);

/// Each kind with the name of its table, ascending by kind.
pub(crate) const KINDS: &[(u8, &str)] = &[
    (b'A', "authors-1"),
    (b'B', "branches-1"),
    (b'C', "chains-1"),
    (b'D', "graph-1"),
    (b'E', "calls-2"),
    (b'F', "fingerprints-2"),
    (b'G', "ranges-1"),
    (b'H', "heads-1"),
    (b'I', "ids-2"),
    (b'J', "set-cells-1"),
    (b'K', "deleted-1"),
    (b'L', "live-1"),
    (b'M', "marks-1"),
    (b'N', "deltas-2"),
    (b'O', "older-1"),
    (b'P', "admissions-1"),
    (b'Q', "blocks-1"),
    (b'R', "readers-3"),
    (b'S', "pasts-2"),
    (b'T', "order-2"),
    (b'U', "past-nodes-1"),
    (b'V', "void-1"),
    (b'W', "void-kept-1"),
    (b'X', "cuts-2"),
    (b'Y', "sets-1"),
    (b'Z', "set-digests-1"),
];

/// The name of the table of a kind; `None` when there is no such kind.
pub(crate) fn table_name(kind: u8) -> Option<&'static str> {
    KINDS
        .binary_search_by_key(&kind, |(kind, _)| *kind)
        .ok()
        .map(|at| KINDS[at].1)
}

/// Appends `bytes` in an encoding that sorts as the bytes do, whatever follows it: a zero byte becomes `00 ff`, and
/// the end is `00 00`.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// Reads bytes that [`escape`] wrote. Returns them and the rest.
pub(crate) fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        if *byte != 0 {
            out.push(*byte);
            continue;
        }
        let (mark, tail) = rest.split_first()?;
        rest = tail;
        match mark {
            0xff => out.push(0),
            0 => return Some((out, rest)),
            _ => return None,
        }
    }
}

/// Appends a number in 7-bit groups, the lowest first (LEB128).
pub(crate) fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number that [`put_varint`] wrote off the front of `bytes`.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends a number, big-endian without leading zeros, at the end of a key. Such keys do not sort by the number.
pub(crate) fn put_last_number(number: u64, key: &mut Vec<u8>) {
    let zeros = number.leading_zeros() as usize / 8;
    key.extend_from_slice(&number.to_be_bytes()[zeros..]);
}

/// Reads the number that [`put_last_number`] wrote behind the first `start` bytes of a key.
pub(crate) fn last_number(key: &[u8], start: usize) -> Option<u64> {
    let bytes = key.get(start..)?;
    let mut number = [0; 8];
    number[8usize.checked_sub(bytes.len())?..].copy_from_slice(bytes);
    Some(u64::from_be_bytes(number))
}

/// Takes `len` bytes off the front of `bytes`.
pub(crate) fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

/// Appends bytes behind their length as a varint.
pub(crate) fn put_sized(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Takes bytes that [`put_sized`] wrote off the front of `bytes`.
pub(crate) fn take_sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    take(bytes, len)
}

/// Maps a signed number to an unsigned one whose varint is short when the number is small, of either sign (the zigzag
/// encoding of Protocol Buffers).
pub(crate) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_are_sorted_and_have_tables_of_their_own() {
        assert!(KINDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let mut names: Vec<_> = KINDS.iter().map(|(_, name)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
        assert_eq!(table_name(b'T'), Some("order-2"));
        assert_eq!(table_name(b'!'), None);
    }

    proptest! {
        #[test]
        fn escaped_bytes_sort_as_they_did_and_read_back(
            a in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..6),
            b in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..6),
            after in any::<[u8; 2]>(),
        ) {
            let whole = |bytes: &[u8]| {
                let mut out = Vec::new();
                escape(bytes, &mut out);
                out.extend_from_slice(&after);
                out
            };
            prop_assert_eq!(whole(&a).cmp(&whole(&b)), a.cmp(&b));
            let encoded = whole(&a);
            prop_assert_eq!(unescape(&encoded), Some((a, &after[..])));
        }

        #[test]
        fn numbers_of_any_size_read_back(numbers in proptest::collection::vec(any::<u64>(), 0..9)) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|n| put_varint(*n, &mut bytes));
            let mut rest = &bytes[..];
            for number in numbers {
                prop_assert_eq!(take_varint(&mut rest), Some(number));
                prop_assert_eq!(zigzag(unzigzag(number)), number);
                let mut key = vec![7, 7];
                put_last_number(number, &mut key);
                prop_assert_eq!(last_number(&key, 2), Some(number));
                prop_assert!(key.len() == 2 || key[2] != 0);
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(take_varint(&mut &[0x80][..]), None);
            prop_assert_eq!(last_number(&[1; 9], 0), None);
            prop_assert_eq!(last_number(&[1], 2), None);
        }
    }
}

//! The heads of a key: values that authors wrote without having seen one another's.
//!
//! ```text
//! w <key>                          the winner: the head that is last in the order
//! h <length of key, 2> <key> <position, 40>   the older heads, in order; none in the normal case
//! ```
//!
//! A put to a fresh key reads one row and writes one; so does a put that saw the only head. `get` reads the
//! winner's row alone.

use lattice_sdk::codec::Writer;
use lattice_sdk::state::{self, Range};
use lattice_sdk::{Entry, context};

use crate::cell::Cell;

/// Heads kept of one key, the winner included.
pub const HEADS_MAX: usize = 16;
/// Largest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 960;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 255 * 1_024;

// The longest row key is an older head's; the largest row a winner's.
const _: () = assert!(1 + 2 + KEY_BYTES_MAX + 40 <= state::KEY_BYTES_MAX);
const _: () = assert!(81 + VALUE_BYTES_MAX <= state::VALUE_BYTES_MAX);

const WINNER: u8 = b'w';
const HEAD: u8 = b'h';

/// The last head of `key`.
pub fn winner(key: &str) -> Option<Cell> {
    state::get(&winner_key(key)).map(|row| Cell::decode(&row))
}

/// Every head of `key` in the order of history, the winner last.
pub fn all(key: &str) -> Vec<Cell> {
    let Some(winner) = winner(key) else {
        return Vec::new();
    };
    let mut heads = Vec::new();
    if winner.contested {
        heads.extend(
            state::scan(Range::prefix(&older_prefix(key))).map(|(_, row)| Cell::decode(&row)),
        );
    }
    heads.push(winner);
    heads
}

/// Makes a value, or a deletion, the winner of `key`, in the place of every head that the call's author had
/// seen. Deleting a key that never was does nothing.
///
/// # Panics
/// If the key or the value is too large; the call traps.
pub fn write(key: &str, value: Option<&[u8]>) {
    assert!(
        key.len() <= KEY_BYTES_MAX,
        "a key of {} bytes exceeds {KEY_BYTES_MAX}",
        key.len()
    );
    let value_bytes = value.map_or(0, <[u8]>::len);
    assert!(
        value_bytes <= VALUE_BYTES_MAX,
        "a value of {value_bytes} bytes exceeds {VALUE_BYTES_MAX}"
    );

    let winner_row = winner_key(key);
    let previous = state::get(&winner_row).map(|row| Cell::decode(&row));
    if previous.is_none() && value.is_none() {
        return;
    }
    let entry = context::current();
    let mut head = Cell::new(&entry, value);
    if let Some(previous) = previous {
        head.contested = settle(key, previous, &entry);
    }
    state::put(&winner_row, &head.encode());
}

/// Drops the heads that the author of `entry` had seen; tells whether any others are left.
fn settle(key: &str, previous: Cell, entry: &Entry) -> bool {
    let mut left = 0;
    let mut oldest = None;
    if previous.contested {
        for (row_key, row) in state::scan(Range::prefix(&older_prefix(key))) {
            if seen(&Cell::decode(&row), entry) {
                state::delete(&row_key);
            } else {
                left += 1;
                oldest.get_or_insert(row_key);
            }
        }
    }
    if !seen(&previous, entry) {
        let older = Cell {
            contested: false,
            ..previous
        };
        state::put(&older_key(key, &older), &older.encode());
        left += 1;
    }
    // Each write adds one head at most, so dropping one keeps the bound. The winner comes on top of the bound.
    if left >= HEADS_MAX
        && let Some(oldest) = oldest
    {
        state::delete(&oldest);
    }
    left > 0
}

/// Whether the author had seen `head`. A head that an earlier change of the same call wrote counts as seen.
fn seen(head: &Cell, entry: &Entry) -> bool {
    head.id == entry.id[..] || context::observed(&head.id.to_vec())
}

/// Key of the winner's row. Sorts as `key` does.
pub fn winner_key(key: &str) -> Vec<u8> {
    Writer::tag(WINNER).bytes(key.as_bytes()).finish()
}

/// The key that a winner's row is for.
///
/// # Panics
/// If `row_key` is not one of [`winner_key`].
pub fn key_of_winner(row_key: &[u8]) -> String {
    let key = row_key
        .strip_prefix(&[WINNER])
        .expect("a winner's row begins with its tag");
    String::from_utf8(key.to_vec()).expect("only UTF-8 was put here")
}

fn older_prefix(key: &str) -> Vec<u8> {
    // The length keeps the heads of "a" apart from those of "ab". A key is at most 960 bytes long.
    let len = u16::try_from(key.len()).unwrap_or(u16::MAX);
    Writer::tag(HEAD).u16(len).bytes(key.as_bytes()).finish()
}

fn older_key(key: &str, head: &Cell) -> Vec<u8> {
    let entry = Entry {
        id: head.id.to_vec(),
        author: head.author.to_vec(),
        time: head.time,
        index: head.index,
    };
    Writer::default()
        .bytes(&older_prefix(key))
        .position(&entry)
        .finish()
}

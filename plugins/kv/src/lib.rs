//! Keys and values. Values that were written concurrently are kept side by side until a later put has seen them.
//!
//! - [`cell`] is one head of a key: a value or a deletion, and who wrote it where.
//! - [`heads`] keeps the heads of a key in the state, and puts a new one in the place of those it saw.
//!
//! Calls run in the order of history, so the head written last is always the winner.

pub mod cell;
pub mod heads;

use bindings::exports::lattice::kv::commands::{self, Conflict, Op, Pair};
use bindings::exports::lattice::kv::queries::{self, Head, Page};
use cell::Cell;
use lattice_sdk::state::{self, Range};

lattice_sdk::plugin!(Kv, world: "lattice:kv/plugin", path: ["../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Kv;

/// Bytes of keys and values at which a page of a listing ends.
const PAGE_BYTES_MAX: usize = 1_024 * 1_024;

impl commands::Guest for Kv {
    fn put(key: String, value: Vec<u8>) {
        heads::write(&key, Some(&value));
    }

    fn delete(key: String) {
        heads::write(&key, None);
    }

    fn batch(ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put(Pair { key, value }) => heads::write(&key, Some(&value)),
                Op::Delete(key) => heads::write(&key, None),
            }
        }
    }

    fn compare_and_put(
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<(), Conflict> {
        let current = heads::winner(&key).and_then(Cell::into_value);
        if current != expected {
            return Err(Conflict { current });
        }
        heads::write(&key, Some(&value));
        Ok(())
    }
}

impl queries::Guest for Kv {
    fn get(key: String) -> Option<Vec<u8>> {
        heads::winner(&key)?.into_value()
    }

    fn list(prefix: String, after: Option<String>, limit: u32) -> Page {
        let mut range =
            Range::prefix(&heads::winner_key(&prefix)).page_rows(limit.saturating_add(1));
        if let Some(after) = after {
            range = range.after(&heads::winner_key(&after));
        }
        let mut pairs: Vec<Pair> = Vec::new();
        let mut bytes = 0;
        for (key, row) in state::scan(range) {
            // A deleted key keeps its row, so that a put that never saw the deletion is known to be concurrent.
            let Some(value) = Cell::decode(&row).into_value() else {
                continue;
            };
            bytes += key.len() + value.len();
            let full =
                pairs.len() >= limit as usize || (bytes > PAGE_BYTES_MAX && !pairs.is_empty());
            if full {
                let next = pairs.last().map(|pair| pair.key.clone());
                return Page { pairs, next };
            }
            pairs.push(Pair {
                key: heads::key_of_winner(&key),
                value,
            });
        }
        Page { pairs, next: None }
    }

    fn inspect(key: String) -> Vec<Head> {
        let heads = heads::all(&key).into_iter();
        heads
            .map(
                |Cell {
                     id,
                     author,
                     time,
                     value,
                     ..
                 }| Head {
                    id: id.to_vec(),
                    author: author.to_vec(),
                    time,
                    value,
                },
            )
            .collect()
    }
}

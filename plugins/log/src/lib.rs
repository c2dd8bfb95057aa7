//! Records in the order of history.
//!
//! The key of a record is the place of its call, so two appends touch no common cell and never conflict. A
//! late append makes only those queries run again that read its place.

use bindings::exports::lattice::log::commands;
use bindings::exports::lattice::log::queries::{self, Item, Page};
use lattice_sdk::codec::{Reader, Writer};
use lattice_sdk::context;
use lattice_sdk::state::{self, Range};

lattice_sdk::plugin!(Log, world: "lattice:log/plugin", path: ["../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Log;

/// Largest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 255 * 1_024;
/// Bytes of data at which a page ends.
const PAGE_BYTES_MAX: usize = 1_024 * 1_024;
/// The tag of a record. A key is the tag and the id of the record, a value the author's key and the data.
const RECORD: u8 = b'r';
const ID_BYTES: usize = 40;
const AUTHOR_BYTES: usize = 32;

const _: () = assert!(RECORD_BYTES_MAX + AUTHOR_BYTES <= state::VALUE_BYTES_MAX);

impl commands::Guest for Log {
    fn append(data: Vec<u8>) -> Vec<u8> {
        assert!(
            data.len() <= RECORD_BYTES_MAX,
            "a record of {} bytes exceeds {RECORD_BYTES_MAX}",
            data.len()
        );
        let entry = context::current();
        let id = Writer::default().position(&entry).finish();
        let row = Writer::default().bytes(&entry.author).bytes(&data).finish();
        state::put(&row_key(&id), &row);
        id
    }
}

impl queries::Guest for Log {
    fn read(after: Option<Vec<u8>>, limit: u32) -> Page {
        let mut range = Range::prefix(&[RECORD]);
        // A longer text sorts behind every id that it begins with, and cannot be a key.
        if let Some(after) = after {
            range = range.after(&row_key(&after[..after.len().min(ID_BYTES)]));
        }
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0;
        // One row more than asked for tells whether there is a next page.
        for (key, row) in state::scan(range.limit(limit.saturating_add(1))) {
            bytes += row.len();
            if items.len() >= limit as usize || (bytes > PAGE_BYTES_MAX && !items.is_empty()) {
                let next = items.last().map(|item| item.id.clone());
                return Page { items, next };
            }
            items.push(item(&key, &row));
        }
        Page { items, next: None }
    }

    fn tail(count: u32) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0;
        for (key, row) in state::scan(Range::prefix(&[RECORD]).reversed().limit(count)) {
            bytes += row.len();
            if bytes > PAGE_BYTES_MAX && !items.is_empty() {
                break;
            }
            items.push(item(&key, &row));
        }
        items.reverse();
        items
    }

    fn get(id: Vec<u8>) -> Option<Item> {
        if id.len() != ID_BYTES {
            return None;
        }
        let key = row_key(&id);
        state::get(&key).map(|row| item(&key, &row))
    }
}

fn row_key(id: &[u8]) -> Vec<u8> {
    Writer::tag(RECORD).bytes(id).finish()
}

fn item(key: &[u8], row: &[u8]) -> Item {
    let id = &key[1..];
    let time = Reader::new(id).time().expect("an id begins with its time");
    let (author, data) = row
        .split_at_checked(AUTHOR_BYTES)
        .expect("a row begins with its author");
    Item {
        id: id.to_vec(),
        author: author.to_vec(),
        time,
        data: data.to_vec(),
    }
}

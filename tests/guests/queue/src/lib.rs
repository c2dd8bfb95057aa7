//! A queue: a component in which two calls that are concurrent never both get the same item.
//!
//! A pop reads the range up to the first item alone, so an item that arrives late behind it runs nothing again.

use bindings::exports::example::queue::commands::{self, Error};
use bindings::exports::example::queue::queries;
use lattice_sdk::codec::Writer;
use lattice_sdk::context;
use lattice_sdk::state::{self, Range};

lattice_sdk::plugin!(Queue, world: "example:queue/plugin", path: ["../../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Queue;

/// The tag of an item. A key is the tag and the place of the call that pushed, a value the item.
const ITEM: u8 = b'i';
const ITEM_BYTES_MAX: usize = 255 * 1_024;

impl commands::Guest for Queue {
    fn push(item: Vec<u8>) {
        assert!(
            item.len() <= ITEM_BYTES_MAX,
            "an item of {} bytes exceeds {ITEM_BYTES_MAX}",
            item.len()
        );
        let key = Writer::tag(ITEM).position(&context::current()).finish();
        state::put(&key, &item);
    }

    fn pop() -> Result<Vec<u8>, Error> {
        let (key, item) = first().ok_or(Error::Empty)?;
        state::delete(&key);
        Ok(item)
    }
}

impl queries::Guest for Queue {
    fn len() -> u64 {
        state::scan_keys(Range::prefix(&[ITEM])).count() as u64
    }

    fn peek() -> Option<Vec<u8>> {
        first().map(|(_, item)| item)
    }

    fn items(limit: u32) -> Vec<Vec<u8>> {
        state::scan(Range::prefix(&[ITEM]).limit(limit))
            .map(|(_, item)| item)
            .collect()
    }
}

fn first() -> Option<(Vec<u8>, Vec<u8>)> {
    state::scan(Range::prefix(&[ITEM]).limit(1)).next()
}

//! A component that keeps globals between calls, as a careless author would.
//!
//! It shows why the intention is the unit of execution: a read into a global in one transaction and a write
//! out of it in the next depend on the same key together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bindings::exports::example::globals::{commands, queries};
use lattice_sdk::state;

lattice_sdk::plugin!(Globals, world: "example:globals/plugin", path: ["../../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Globals;

static REMEMBERED: Mutex<Option<Vec<u8>>> = Mutex::new(None);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A key that calls write before they fail, so that tests see whether the write was undone.
const LEFT_BEHIND: &[u8] = b"left behind";

impl commands::Guest for Globals {
    fn put(key: String, value: Vec<u8>) {
        state::put(key.as_bytes(), &value);
    }

    fn remember(key: String) {
        let value = state::get(key.as_bytes());
        *REMEMBERED
            .lock()
            .expect("nothing panics while it is locked") = value;
    }

    fn recall(key: String) {
        let remembered = REMEMBERED
            .lock()
            .expect("nothing panics while it is locked")
            .clone();
        match remembered {
            Some(value) => state::put(key.as_bytes(), &value),
            None => state::delete(key.as_bytes()),
        }
    }

    fn bump() -> u64 {
        count_up()
    }

    fn bump_and_refuse() -> Result<(), u64> {
        let count = count_up();
        state::put(LEFT_BEHIND, &count.to_be_bytes());
        Err(count)
    }

    fn bump_and_trap() {
        let count = count_up();
        state::put(LEFT_BEHIND, &count.to_be_bytes());
        panic!("on purpose");
    }

    fn save_count(key: String) {
        state::put(key.as_bytes(), &COUNT.load(Ordering::Relaxed).to_be_bytes());
    }
}

impl queries::Guest for Globals {
    fn get(key: String) -> Option<Vec<u8>> {
        state::get(key.as_bytes())
    }

    fn bumped() -> u64 {
        count_up()
    }
}

fn count_up() -> u64 {
    COUNT.fetch_add(1, Ordering::Relaxed) + 1
}

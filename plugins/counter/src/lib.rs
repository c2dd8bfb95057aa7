//! A number that members add to.
//!
//! It is one cell of the state that `add` changes without reading it: concurrent adds never conflict, and a
//! late one runs nothing again.

use bindings::exports::lattice::counter::{commands, queries};
use lattice_sdk::state;

lattice_sdk::plugin!(Counter, world: "lattice:counter/plugin", path: ["../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Counter;

const NUMBER: &[u8] = b"n";

impl commands::Guest for Counter {
    fn add(by: i64) {
        state::add(NUMBER, by);
    }
}

impl queries::Guest for Counter {
    fn value() -> i64 {
        state::number(NUMBER)
    }
}

//! A number that members add to.
//!
//! The number is one cell of the state. `add` changes the cell without reading it, so concurrent adds never
//! conflict, and a late add makes no other call run again.

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

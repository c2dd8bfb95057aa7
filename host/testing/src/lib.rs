//! What only tests and the simulator use: nothing that is shipped depends on this crate.
//!
//! | module | holds |
//! |---|---|
//! | `model` | an engine without Wasm, a small governance, stores made of them |
//! | `disk` | storage behind redb that fails and loses what was not synced |
//! | `log_disk` | a directory of such storage: the segments of a log |
//! | `verified` | signatures verified once for many nodes |
//! | `mutants` | faults of the kernel, selected by a test |
//! | `dice` | random numbers from a seed |
//!
//! A test that follows a remedy takes its words from what was said by [`advice`].
//!
//! The kernel's unit tests include `model` by its path: a dependency would bring them a second kernel. So `model` names
//! the kernel as any other crate does, and nothing else of this one.

pub mod dice;
pub mod disk;
pub mod log_disk;
pub mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod verified;

pub use dice::Dice;

/// What was said of a remedy, from its words on, which the test then follows. Tidy asks for such a test for every remedy.
///
/// # Panics
/// When the remedy is not told.
pub fn advice<'a>(said: &'a str, remedy: &str) -> &'a str {
    match said.find(remedy) {
        Some(at) => &said[at..],
        None => panic!("{remedy:?} is not told: {said}"),
    }
}
pub use model::{
    APP, APP_COMMANDS, GOVERNANCE, GOVERNANCE_COMMANDS, KEYS, ModelEngine, READER_QUOTA,
    START_FUEL, Step, add_child, admit, body_of, device, found, genesis, genesis_with, key,
    memory_files, program, resign, revoke, revoke_unseen, saw, set_quota, set_quota_of_member,
    set_quota_of_role, set_role, trap_at_cuts, twin,
};

//! Real components in real stores: calls, limits, hostile guests, and what is refused at install.
//!
//! The components are those of `plugins/` and `tests/guests/`, built by `cargo xtask plugins`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod abuse;
mod bounds;
mod call_depth;
mod calls;
mod hostile;
mod install;
mod instance_pool;
mod node;
mod order;
mod pace;
mod wasi;

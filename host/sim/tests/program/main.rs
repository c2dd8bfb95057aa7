//! The real `lattice-sim`, run as a person or a script would run it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod harness;

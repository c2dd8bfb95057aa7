//! Tests of the kernel as its shells use it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fold;
mod world;

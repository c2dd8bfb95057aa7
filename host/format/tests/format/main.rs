//! Tests of the format as clients, fuzzers and other implementations meet it: bytes in, bytes out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod canonical;
mod golden;
mod samples;
mod shape;
mod signatures;
mod wire;

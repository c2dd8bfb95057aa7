//! Tests of the simulator, and of Lattice by it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bans;
mod child_store;
mod clocks;
mod components;
mod determinism;
mod dials;
mod failed_reads;
mod gossip;
mod hostile;
mod large;
mod model;
mod mutants;
mod regressions;
mod scenarios;
mod seeds;
mod waste;

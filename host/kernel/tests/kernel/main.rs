//! Tests of the kernel through its public interface, as the shells use it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "one binary of modules")]

mod clocks;
mod crash;
mod damage;
mod engines;
mod failed_reads;
mod failing_disk;
mod flood;
mod fold;
mod hostile;
mod intention;
mod observed;
mod profile;
mod quota;
mod replays;
mod revocation;
mod scene;
mod segments;
mod waiting;
mod world;
mod writer;

//! The real `lattice` binary, run as a person or a script would run it.

mod bad_input;
mod commands;
mod daemon;
mod harness;

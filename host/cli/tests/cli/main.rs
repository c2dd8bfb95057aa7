//! The real `lattice` binary, run as a person or a script would run it.

mod bad_input;
mod commands;
mod daemon;
mod harness;
// What a process holds of memory is read from /proc.
#[cfg(target_os = "linux")]
mod hostile;

//! The real `lattice` binary, run as a person or a script would run it.

mod bad_input;
mod commands;
mod daemon;
#[cfg(target_os = "linux")]
mod full_disk;
mod harness;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod lan;
mod machine;
mod remedies;
mod remedies_calls;
#[cfg(target_os = "linux")]
mod remedies_doctor;
mod remedies_home;
mod remedies_members;
mod sim;
#[cfg(target_os = "linux")]
mod small_disk;

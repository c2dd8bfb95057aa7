//! Runs components: the kernel's engine, on WebAssembly.
//!
//! A component sees the state, the call and the entry that it arrived in, and nothing of this machine:
//! this crate reads no clock, opens no socket, draws no randomness and touches no file but those of its
//! own directory of components.
//!
//! A component comes in through `inspect` (what is it, may it be installed), `code` (compiled in a child
//! process, loaded if undamaged) and `component` (imports resolved, exports found); a call goes through
//! `instance`, and what it asks of the host through `host`.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod bounds;
pub mod call_depth;
mod catalogue;
mod code;
mod component;
mod engine;
pub mod golden;
mod governance;
mod host;
mod imports;
mod inspect;
mod instance;
mod instance_pool;
pub mod limits;
mod names;
mod pace;
pub mod profile;
mod schema;
mod trusted;
mod typed_calls;
pub mod values;
mod wasi;

pub use catalogue::{Catalogue, Listed};
pub use code::{COMPILE_ARGUMENT, CompileError, Compiler, compile_child_main};
pub use engine::{InstallError, OpenError, Wasm};
pub use inspect::{InspectError, WIT_SECTION, inspect};
pub use pace::Pacer;
pub use schema::{Function, Interface, Param, Schema};

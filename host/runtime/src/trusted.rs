//! The one place where this tree trusts bytes to be machine code.

#![allow(
    unsafe_code,
    reason = "loading compiled code is running it; there is no safe form"
)]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Makes compiled code runnable.
///
/// The caller has read `code` from our own directory, which only this user can write to, under a name
/// that tells the component, engine and profile, and has compared its hash with the one that the
/// compiler wrote beside it. It works on the same bytes that were hashed, so a file that changes in
/// between does not matter; the engine compares its version and settings once more.
pub(crate) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are the output of `Engine::precompile_component`, as said above.
    unsafe { Component::deserialize(engine, code) }
}

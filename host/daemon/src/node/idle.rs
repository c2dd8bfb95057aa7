//! Work of a node for threads that are idle.

use std::sync::{Arc, OnceLock, Weak};

use lattice_runtime::Wasm;

/// The work of a node for idle threads: it clears up behind calls that were answered, and starts instances for the
/// next ones. Whoever runs a node may call [`Idle::rest`] when a thread is about to sleep. Without these calls the node
/// answers later.
#[derive(Clone, Debug, Default)]
pub struct Idle(Arc<OnceLock<Weak<Wasm>>>);

impl Idle {
    /// Does the work that is due. It takes less time than a short call for each component that ran, and none when no
    /// component has run since the last time.
    pub fn rest(&self) {
        if let Some(wasm) = self.0.get().and_then(Weak::upgrade) {
            wasm.rest();
        }
    }

    /// Sets the engine of the node whose work this is. Only the first call has an effect.
    pub(crate) fn serve(&self, wasm: &Arc<Wasm>) {
        let _ = self.0.set(Arc::downgrade(wasm));
    }
}

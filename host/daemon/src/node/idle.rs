//! Small work for threads that have none.

use std::sync::{Arc, OnceLock, Weak};

use lattice_runtime::Wasm;

/// What a node would like to have done while threads have nothing else to do: clearing up behind
/// calls that were answered, and starting what the next will need. Whoever runs a node may call
/// [`Idle::rest`] when a thread is about to sleep; a node that is never let to rest works as well,
/// and its answers take longer.
#[derive(Clone, Debug, Default)]
pub struct Idle(Arc<OnceLock<Weak<Wasm>>>);

impl Idle {
    /// Does what there is to do: less than a short call takes for each component that ran; nothing
    /// after the first time if nobody called meanwhile.
    pub fn rest(&self) {
        if let Some(wasm) = self.0.get().and_then(Weak::upgrade) {
            wasm.rest();
        }
    }

    /// Says which node it is for; the first one stays.
    pub(crate) fn serve(&self, wasm: &Arc<Wasm>) {
        let _ = self.0.set(Arc::downgrade(wasm));
    }
}

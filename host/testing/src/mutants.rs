//! Faults of the kernel, selected for as long as a function runs.

use lattice_kernel::mutant;
pub use lattice_kernel::mutant::Mutant;

/// Runs `act` with the kernel of this thread broken in that way.
pub fn with<T>(mutant: Mutant, act: impl FnOnce() -> T) -> T {
    let _selected = Selected::new(mutant);
    act()
}

/// A selection that ends when it is dropped: a test that panics must not break the next one on its thread.
struct Selected;

impl Selected {
    fn new(mutant: Mutant) -> Self {
        mutant::select(Some(mutant));
        Self
    }
}

impl Drop for Selected {
    fn drop(&mut self) {
        mutant::select(None);
    }
}

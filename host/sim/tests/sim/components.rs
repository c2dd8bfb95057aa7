//! Components of this tree, as `cargo xtask plugins` built them.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use lattice_runtime::{Compiler, Wasm};
use lattice_sim::Code;

/// One engine for all tests: it reserves address space for every instance. Compiled code stays in the directory
/// that cargo gives to tests.
static WASM: LazyLock<Arc<Wasm>> = LazyLock::new(|| {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sim-components");
    Arc::new(Wasm::open(&dir, Compiler::InProcess).unwrap())
});

/// The bytes of a component built from this tree.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => root.join("target"),
    };
    let path = target.join("plugins").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; run `cargo xtask plugins` first",
            path.display()
        )
    })
}

/// Stores of a component under the bundled governance. What it is called is part of a run, also where that ends in
/// `.wasm`.
pub(crate) fn component(name: &str) -> Code {
    let app = built(name.strip_suffix(".wasm").unwrap_or(name));
    Code::components(&WASM, &built("system"), name, &app).unwrap()
}

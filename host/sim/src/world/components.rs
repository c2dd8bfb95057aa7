//! Where a run finds the components that it asks for by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lattice_runtime::{Compiler, Wasm};

use crate::world::code::Code;

/// Components by name, and the engine that all worlds share.
pub struct Components {
    wasm: Arc<Wasm>,
    bytes: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Components({:?})", self.bytes.keys())
    }
}

impl Components {
    /// No components yet; their compiled code goes into `dir`.
    ///
    /// # Errors
    /// When the directory cannot be used or the engine does not start.
    pub fn open(dir: &Path) -> Result<Self, String> {
        let wasm = Wasm::open(dir, Compiler::InProcess).map_err(|error| error.to_string())?;
        Ok(Self {
            wasm: Arc::new(wasm),
            bytes: BTreeMap::new(),
        })
    }

    /// Adds a component. `system` governs the stores of all others.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.bytes.insert(name.to_owned(), bytes);
    }

    /// What a store of that plugin runs; `model` stands for the kernel's model programs.
    ///
    /// # Errors
    /// When there is no such component, or it cannot be installed.
    pub fn code(&self, name: &str) -> Result<Code, String> {
        if name == Code::model().name() {
            return Ok(Code::model());
        }
        let find = |name: &str| {
            let missing = || format!("there is no plugin {name} here");
            self.bytes.get(name).ok_or_else(missing)
        };
        Code::components(&self.wasm, find("system")?, name, find(name)?)
            .map_err(|error| format!("{name}: {error}"))
    }
}

//! The components of this node: what came with it, what was installed, what stores brought along.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lattice_format::ComponentId;
use lattice_kernel::run::engine::{Engine, HostFault};
use lattice_runtime::{Compiler, InspectError, InstallError, Schema, Wasm};

use crate::api::failure::{Failure, Result};
use crate::node::home::OpenError;
use crate::plugin::bundled::{BUNDLED, Bundled};
use crate::plugin::pace;

/// Whether this program hands its compiling children over, see `compile_child`.
static CHILDREN_COMPILE: AtomicBool = AtomicBool::new(false);

/// Says that a child of this program compiles components when told to.
pub(crate) fn children_compile() {
    CHILDREN_COMPILE.store(true, Ordering::Relaxed);
}

/// The components of this node, with the engine that runs them.
pub(crate) struct Components {
    wasm: Arc<Wasm>,
    bundled: HashMap<ComponentId, Bundled>,
    /// Descriptions of bundled ones that no store has needed yet, and which are not compiled.
    descriptions: Mutex<HashMap<ComponentId, Arc<Schema>>>,
}

impl Components {
    /// Starts the engine on a directory.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn open(directory: &Path) -> std::result::Result<Self, OpenError> {
        let compiler = if CHILDREN_COMPILE.load(Ordering::Relaxed) {
            let program =
                std::env::current_exe().map_err(|error| OpenError::Runtime(error.to_string()))?;
            Compiler::Child(program)
        } else {
            // A program that only tests: its children would be tests too.
            Compiler::InProcess
        };
        let wasm = Wasm::open(directory, compiler)
            .map_err(|error| OpenError::Runtime(error.to_string()))?;
        let wasm = Arc::new(wasm);
        pace::keep(&wasm)
            .map_err(|error| OpenError::Runtime(format!("no thread that ticks: {error}")))?;
        Ok(Self {
            wasm,
            bundled: BUNDLED
                .iter()
                .map(|bundled| (bundled.id(), *bundled))
                .collect(),
            descriptions: Mutex::default(),
        })
    }

    /// What runs them, as itself.
    pub(crate) fn wasm(&self) -> &Arc<Wasm> {
        &self.wasm
    }

    /// What runs them.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        self.wasm.clone()
    }

    /// Whether the bytes of a component are here.
    pub(crate) fn contains(&self, id: &ComponentId) -> bool {
        self.bundled.contains_key(id) || self.wasm.catalogue().contains(id)
    }

    /// The bytes of a component. Blocks on the disk.
    pub(crate) fn bytes(&self, id: &ComponentId) -> std::result::Result<Vec<u8>, HostFault> {
        match self.bundled.get(id) {
            Some(bundled) => Ok(bundled.bytes.to_vec()),
            None => self.wasm.catalogue().bytes(id),
        }
    }

    /// What a component is.
    pub(crate) fn schema(&self, id: &ComponentId) -> std::result::Result<Arc<Schema>, HostFault> {
        let Some(bundled) = self.bundled.get(id) else {
            return self.wasm.schema(id);
        };
        let mut descriptions = self.descriptions.lock().expect("no holder panics");
        if let Some(schema) = descriptions.get(id) {
            return Ok(schema.clone());
        }
        let schema =
            lattice_runtime::inspect(bundled.bytes).map_err(|error| HostFault::Unusable {
                component: *id,
                reason: error.to_string(),
            })?;
        let schema = Arc::new(schema);
        descriptions.insert(*id, schema.clone());
        Ok(schema)
    }

    /// Makes a component that is here ready to run. Takes as long as compiling it.
    ///
    /// # Errors
    /// [`HostFault::MissingCode`] when it is not here; why it cannot be used else.
    pub(crate) fn make_ready(&self, id: &ComponentId) -> std::result::Result<(), HostFault> {
        if let Some(bundled) = self.bundled.get(id)
            && !self.wasm.catalogue().contains(id)
        {
            return match self.wasm.install(bundled.bytes) {
                Ok(_) => Ok(()),
                Err(InstallError::Host(fault)) => Err(fault),
                Err(error) => Err(HostFault::Unusable {
                    component: *id,
                    reason: error.to_string(),
                }),
            };
        }
        self.wasm.ready(id)
    }

    /// Checks, keeps and compiles a component. Takes as long as compiling it.
    ///
    /// # Errors
    /// What is wrong with it; nothing is kept then.
    pub(crate) fn install(&self, bytes: &[u8]) -> Result<Arc<Schema>> {
        self.wasm.install(bytes).map_err(|error| match error {
            InstallError::Inspect(error) => inspect_failure(&error),
            InstallError::Host(HostFault::Unusable { reason, .. }) => {
                Failure::failed(format!("the component cannot be installed: {reason}"))
                    .hint("nothing was installed")
            }
            InstallError::Host(fault) => fault.into(),
            error @ InstallError::TooLarge { .. } => {
                Failure::failed(error.to_string()).hint("nothing was installed")
            }
        })
    }

    /// Removes the bytes and code of a component that nothing uses.
    pub(crate) fn remove(&self, id: &ComponentId) -> Result<()> {
        Ok(self.wasm.remove(id)?)
    }
}

/// Why bytes are no component that can be installed.
pub(crate) fn inspect_failure(error: &InspectError) -> Failure {
    // The list of imports comes in lines; an error is one.
    let text = error.to_string().replace("\n  ", " ").replace('\n', "; ");
    Failure::failed(text).hint("nothing was installed")
}

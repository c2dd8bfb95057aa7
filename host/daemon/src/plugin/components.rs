//! The components of this node: bundled ones, installed ones, and those of joined stores.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lattice_format::ComponentId;
use lattice_kernel::run::engine::{Engine, HostFault};
use lattice_runtime::{Compiler, InspectError, InstallError, Schema, Wasm};

use crate::api::failure::{Failure, Result};
use crate::node::home::OpenError;
use crate::plugin::bundled::{BUNDLED, Bundled};
use crate::plugin::pace;

/// Whether a child process of this program can compile components, see [`crate::compile_child`].
static CHILDREN_COMPILE: AtomicBool = AtomicBool::new(false);

/// Declares that a child process of this program can compile components.
pub(crate) fn children_compile() {
    CHILDREN_COMPILE.store(true, Ordering::Relaxed);
}

/// The file of this program, for its children. Its path may lead to another version by now, or nowhere: an update
/// replaces the file while this one runs. Linux knows the file itself.
fn program() -> std::io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match running.try_exists() {
        Ok(true) => Ok(running.to_owned()),
        _ => std::env::current_exe(),
    }
}

/// The components of this node, with the engine that runs them.
pub(crate) struct Components {
    wasm: Arc<Wasm>,
    bundled: HashMap<ComponentId, Bundled>,
    /// The descriptions of bundled components, which need no compilation.
    descriptions: Mutex<HashMap<ComponentId, Arc<Schema>>>,
}

impl Components {
    /// Starts the engine, which keeps components and their compiled code in a directory.
    ///
    /// # Errors
    /// When the engine does not start.
    pub(crate) fn open(directory: &Path) -> std::result::Result<Self, OpenError> {
        let compiler = if CHILDREN_COMPILE.load(Ordering::Relaxed) {
            let program = program().map_err(|error| OpenError::Runtime(error.to_string()))?;
            Compiler::Child(program)
        } else {
            // The program is a test, whose child processes would be tests as well.
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

    /// The engine that runs the components, by its own type.
    pub(crate) fn wasm(&self) -> &Arc<Wasm> {
        &self.wasm
    }

    /// The engine that runs the components, as the kernel takes it.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        self.wasm.clone()
    }

    /// Whether this node has the bytes of a component.
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

    /// The description of a component.
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

    /// Makes a component of this node ready to run. Blocks for as long as compiling it takes.
    ///
    /// # Errors
    /// [`HostFault::MissingCode`] when this node lacks the component; otherwise why it cannot be used.
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

    /// Checks, keeps and compiles a component. Blocks for as long as compiling it takes.
    ///
    /// # Errors
    /// When the component cannot be used, or the disk fails. Nothing is kept then.
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

    /// Removes the bytes and the compiled code of a component that nothing uses.
    pub(crate) fn remove(&self, id: &ComponentId) -> Result<()> {
        Ok(self.wasm.remove(id)?)
    }
}

/// The failure for bytes that are not a component that can be installed.
pub(crate) fn inspect_failure(error: &InspectError) -> Failure {
    // The error lists imports in several lines, and a failure has one line.
    let text = error.to_string().replace("\n  ", " ").replace('\n', "; ");
    Failure::failed(text).hint("nothing was installed")
}

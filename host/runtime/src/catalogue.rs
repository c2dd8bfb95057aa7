//! The components of this node: a directory of their bytes and compiled code.
//!
//! `<id>.wasm` holds the bytes of a component, whose BLAKE3 hash is its id; `<id>.<key>.code` what was
//! compiled from them, where the key names engine, processor and profile. Compiled code is only a
//! copy: it may be deleted at any time. So may bytes that are kept elsewhere as well, see [`Catalogue::set_source`].

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lattice_format::ComponentId;
use lattice_kernel::run::engine::HostFault;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::code::{self, CompileError, Compiler};
use crate::limits::COMPONENT_BYTES_MAX;

/// Where else the bytes of a component may be kept; whoever asks checks their hash. May block.
type Source = Box<dyn Fn(&ComponentId) -> Option<Vec<u8>> + Send + Sync>;

/// The directory of components.
pub struct Catalogue {
    dir: PathBuf,
    compiler: Compiler,
    engine_key: String,
    source: OnceLock<Source>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Catalogue({})", self.dir.display())
    }
}

/// One component that is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: ComponentId,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Catalogue {
    /// Takes over `dir`, which is made if it does not exist.
    pub(crate) fn open(
        dir: &Path,
        compiler: Compiler,
        engine: &Engine,
    ) -> Result<Self, std::io::Error> {
        std::fs::create_dir_all(dir)?;
        let this = Self {
            dir: dir.to_owned(),
            compiler,
            engine_key: code::engine_key(engine),
            source: OnceLock::new(),
        };
        this.sweep()?;
        Ok(this)
    }

    /// Removes what a crash left half-written, and code for engines that are gone.
    fn sweep(&self) -> Result<(), std::io::Error> {
        let current = format!(".{}.code", self.engine_key);
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stale = name.ends_with(".code") && !name.ends_with(&current);
            if stale || name.ends_with(".new") {
                // Another process may be about to rename it; then it is not stale, and made again.
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn bytes_path(&self, id: &ComponentId) -> PathBuf {
        self.dir.join(format!("{id}.wasm"))
    }

    fn code_path(&self, id: &ComponentId) -> PathBuf {
        self.dir.join(format!("{id}.{}.code", self.engine_key))
    }

    /// Says where else bytes are kept that are missing or damaged here. Only the first call has an effect.
    pub fn set_source(&self, source: Source) {
        let _ = self.source.set(source);
    }

    /// Whether the bytes of a component are here, or come back from where else they are kept. May block.
    pub fn contains(&self, id: &ComponentId) -> bool {
        self.bytes_path(id).exists() || self.recover(id).is_some()
    }

    /// Puts the bytes of a component back in place from where else they are kept, if they are.
    fn recover(&self, id: &ComponentId) -> Option<Vec<u8>> {
        let bytes = self.source.get()?(id).filter(|bytes| is_of(bytes, id))?;
        match self.place(id, &bytes) {
            Ok(()) => {
                tracing::info!(component = %id, "the component's bytes were missing and are back")
            }
            // It is in use all the same.
            Err(fault) => tracing::warn!(component = %id, "{fault}"),
        }
        Some(bytes)
    }

    /// The bytes of a component, which hash to its id.
    ///
    /// # Errors
    /// [`HostFault::MissingCode`] when they are not here, or damaged, and kept nowhere else: they are then to be
    /// fetched again; [`HostFault::Components`] when they cannot be read.
    pub fn bytes(&self, id: &ComponentId) -> Result<Vec<u8>, HostFault> {
        match self.read(id) {
            Err(HostFault::MissingCode(_)) => self.recover(id).ok_or(HostFault::MissingCode(*id)),
            read => read,
        }
    }

    fn read(&self, id: &ComponentId) -> Result<Vec<u8>, HostFault> {
        let path = self.bytes_path(id);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(HostFault::MissingCode(*id));
            }
            Err(error) => {
                return Err(HostFault::Components(format!(
                    "reading {}: {error}",
                    path.display()
                )));
            }
        };
        if !is_of(&bytes, id) {
            tracing::warn!(component = %id, path = %path.display(), "the component's file is damaged");
            return Err(HostFault::MissingCode(*id));
        }
        Ok(bytes)
    }

    /// Every component that is here, by id.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, HostFault> {
        let fault = |error: std::io::Error| {
            HostFault::Components(format!("reading {}: {error}", self.dir.display()))
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".wasm"));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                let bytes = entry.metadata().map_err(fault)?.len();
                found.push(Listed { id, bytes });
            }
        }
        found.sort_by_key(|listed| listed.id);
        Ok(found)
    }

    /// Puts a component's bytes in place, durably.
    pub(crate) fn put(&self, id: &ComponentId, bytes: &[u8]) -> Result<(), HostFault> {
        debug_assert!(bytes.len() <= COMPONENT_BYTES_MAX);
        if self.read(id).is_ok() {
            return Ok(());
        }
        self.place(id, bytes)
    }

    fn place(&self, id: &ComponentId, bytes: &[u8]) -> Result<(), HostFault> {
        // The directory may have been removed meanwhile.
        let path = self.bytes_path(id);
        let aside = code::aside(&path);
        let written = std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::File::create(&aside))
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&aside, &path))
            .and_then(|()| std::fs::File::open(&self.dir)?.sync_all());
        written.map_err(|error| {
            let _ = std::fs::remove_file(&aside);
            HostFault::Components(format!("writing {}: {error}", path.display()))
        })
    }

    /// Removes a component; without effect if it is not here.
    pub(crate) fn remove(&self, id: &ComponentId) -> Result<(), HostFault> {
        for path in [self.code_path(id), self.bytes_path(id)] {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(HostFault::Components(format!(
                        "removing {}: {error}",
                        path.display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The component's code, compiled if it is not yet, or if the copy is damaged.
    pub(crate) fn load(&self, id: &ComponentId, engine: &Engine) -> Result<Component, LoadError> {
        let path = self.code_path(id);
        if let Some(Ok(component)) = code::load(engine, *id, &path)? {
            return Ok(component);
        }
        // Read for its hash: only what is whole is compiled.
        drop(self.bytes(id)?);
        code::compile(&self.compiler, &self.bytes_path(id), &path)?;
        match code::load(engine, *id, &path)? {
            Some(Ok(component)) => Ok(component),
            // Just compiled by this very engine: what it refuses is the component's own shape.
            Some(Err(error)) => Err(LoadError::Fault(HostFault::Unusable {
                component: *id,
                reason: format!("{error:#}"),
            })),
            None => {
                let fault = format!("{} cannot be read back", path.display());
                Err(LoadError::Fault(HostFault::Components(fault)))
            }
        }
    }
}

/// Whether bytes are those of a component.
fn is_of(bytes: &[u8], id: &ComponentId) -> bool {
    ComponentId(*blake3::hash(bytes).as_bytes()) == *id
}

/// Why a component's code is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Fault(#[from] HostFault),
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl LoadError {
    pub(crate) fn into_fault(self, id: ComponentId) -> HostFault {
        match self {
            LoadError::Fault(fault) => fault,
            LoadError::Compile(CompileError::Io { what, path, error }) => {
                HostFault::Components(format!("{what} {}: {error}", path.display()))
            }
            LoadError::Compile(CompileError::Files(said)) => HostFault::Components(said),
            LoadError::Compile(error @ (CompileError::Died(_) | CompileError::Time(_))) => {
                HostFault::Exhausted(format!("what compiling may use: {error}"))
            }
            LoadError::Compile(CompileError::Refused(reason)) => HostFault::Unusable {
                component: id,
                reason,
            },
        }
    }
}

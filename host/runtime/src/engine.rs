//! The engine that serves: one for the process, with the components that are ready to run.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lattice_format::{ComponentId, Limits};
use lattice_kernel::run::Run;
use lattice_kernel::run::engine::{Answer, AskError, Engine, HostFault, Instance, Question};
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, getrlimit};
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Enabled, Engine as WasmEngine, InstanceAllocationStrategy, PoolingAllocationConfig,
};

use crate::catalogue::Catalogue;
use crate::code::Compiler;
use crate::component::Prepared;
use crate::host::Data;
use crate::inspect::{self, InspectError};
use crate::instance_pool::{InstancePool, Loaded};
use crate::limits::{
    COMPONENT_BYTES_MAX, LOADED_COMPONENTS_MAX, POOL_CORE_INSTANCES, POOL_CORE_INSTANCES_EACH,
    POOL_INSTANCE_BYTES, POOL_INSTANCES, POOL_INSTANCES_LEAST, POOL_MEMORIES, POOL_MEMORIES_EACH,
    POOL_SPACE_PART, POOL_TABLES, POOL_TABLES_EACH,
};
use crate::pace::{Pacer, RunningGuests};
use crate::profile::{MEMORY_BYTES_MAX, PROFILE, TABLE_ELEMENTS_MAX};
use crate::schema::Schema;
use crate::{governance, host, instance, wasi};

/// Runs WebAssembly components: the kernel's engine.
///
/// One a process: it reserves address space for every instance that may exist at a time. Where a process may have little
/// of it (`ulimit -v`), fewer instances may.
pub struct Wasm {
    engine: wasmtime::Engine,
    linker: Linker<Data>,
    catalogue: Catalogue,
    ready: Mutex<Ready>,
    instance_pool: Arc<InstancePool>,
    pace: Arc<RunningGuests>,
    /// Held while a component is loaded or compiled, so that two that ask for it wait for one.
    loading: Mutex<()>,
}

/// What was loaded lately, so that the next call need not load it.
struct Ready {
    components: LruCache<ComponentId, Arc<Prepared>>,
    schemas: LruCache<ComponentId, Arc<Schema>>,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of components cannot be used.
    #[error("the directory of components {}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The engine refuses its settings, or finds no address space.
    #[error(
        "the WebAssembly engine does not start: {0}; if memory cannot be reserved, allow more address space: see `ulimit -v`"
    )]
    Engine(String),
}

/// Why a component is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is too large to look at.
    #[error(
        "the component has {bytes} bytes, and {max} are allowed; strip it of debug information"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It is not what can be installed.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// Its code cannot be made, or does not fit this host.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl Wasm {
    /// Starts the engine on the directory `dir`, which is made if it does not exist.
    ///
    /// # Errors
    /// When the directory cannot be used or the engine does not start.
    pub fn open(dir: &Path, compiler: Compiler) -> Result<Self, OpenError> {
        let engine_error = |error: wasmtime::Error| OpenError::Engine(format!("{error:#}"));
        let mut config = compiler.config().map_err(engine_error)?;
        let places = Places::within(getrlimit(Resource::As).current);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&places)));
        let engine = wasmtime::Engine::new(&config).map_err(engine_error)?;
        let mut linker = Linker::new(&engine);
        host::add_to_linker(&mut linker).map_err(engine_error)?;
        wasi::add_to_linker(&mut linker).map_err(engine_error)?;
        let catalogue =
            Catalogue::open(dir, compiler, &engine).map_err(|error| OpenError::Directory {
                path: dir.to_owned(),
                error,
            })?;
        Ok(Self {
            engine,
            linker,
            catalogue,
            ready: Mutex::new(Ready::new()),
            instance_pool: Arc::default(),
            pace: Arc::default(),
            loading: Mutex::new(()),
        })
    }

    /// The components on this node.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Checks, keeps and compiles a component, and tells what it is. Installing it again is without
    /// effect. Takes as long as compiling: to be called where blocking is allowed.
    ///
    /// # Errors
    /// When the bytes are no component that can serve; nothing is kept then.
    pub fn install(&self, bytes: &[u8]) -> Result<Arc<Schema>, InstallError> {
        if bytes.len() > COMPONENT_BYTES_MAX {
            return Err(InstallError::TooLarge {
                bytes: bytes.len(),
                max: COMPONENT_BYTES_MAX,
            });
        }
        let schema = Arc::new(inspect::inspect(bytes)?);
        let id = schema.component;
        let known = self.catalogue.contains(&id);
        self.catalogue.put(&id, bytes)?;
        if let Err(fault) = self.prepared(&id) {
            if !known {
                self.catalogue.remove(&id)?;
            }
            return Err(fault.into());
        }
        self.lock().schemas.put(id, Arc::clone(&schema));
        Ok(schema)
    }

    /// What an installed component is: its functions, types and documentation.
    ///
    /// # Errors
    /// [`HostFault::MissingCode`] when it is not here.
    pub fn schema(&self, id: &ComponentId) -> Result<Arc<Schema>, HostFault> {
        if let Some(schema) = self.lock().schemas.get(id) {
            return Ok(Arc::clone(schema));
        }
        let bytes = self.catalogue.bytes(id)?;
        let schema = inspect::inspect(&bytes).map_err(|error| HostFault::Unusable {
            component: *id,
            reason: error.to_string(),
        })?;
        let schema = Arc::new(schema);
        self.lock().schemas.put(*id, Arc::clone(&schema));
        Ok(schema)
    }

    /// Removes a component from this node; without effect if it is not here. Instances that run
    /// go on.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn remove(&self, id: &ComponentId) -> Result<(), HostFault> {
        self.catalogue.remove(id)?;
        let mut ready = self.lock();
        ready.components.pop(id);
        ready.schemas.pop(id);
        drop(ready);
        self.instance_pool.clear();
        Ok(())
    }

    /// Clears up behind instances that were used, and starts those that will be needed next. To be
    /// called by whoever has time, when nobody waits; costs nothing when there is nothing to do.
    pub fn rest(&self) {
        for (loaded, limits) in self.instance_pool.clear_up() {
            let prepared = self.lock().loaded(loaded);
            if let Some(prepared) = prepared {
                instance::start_ahead(&prepared, &limits);
            }
        }
    }

    /// Sets what guests that run for long do to let others run. Only the first call has an effect.
    pub fn set_pace(&self, pacer: Pacer) {
        self.pace.set(pacer);
    }

    /// Ticks once: guests that have run through two ticks pause.
    pub fn tick(&self) {
        self.engine.increment_epoch();
    }

    /// Whether no guest runs. If so, the [`Pacer`] is woken when the next one starts.
    pub fn is_at_rest(&self) -> bool {
        self.pace.is_at_rest()
    }

    pub(crate) fn engine(&self) -> &WasmEngine {
        &self.engine
    }

    /// A component with its imports resolved, for instances of its own.
    pub(crate) fn prepare(
        &self,
        id: ComponentId,
        component: &Component,
    ) -> Result<Arc<Prepared>, HostFault> {
        let (instance_pool, pace) = (Arc::clone(&self.instance_pool), Arc::clone(&self.pace));
        Prepared::new(id, component, &self.linker, instance_pool, pace).map(Arc::new)
    }

    /// Instances that are started ahead of a call.
    pub fn started_ahead(&self) -> usize {
        self.instance_pool.ready()
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock()
    }

    pub(crate) fn prepared(&self, id: &ComponentId) -> Result<Arc<Prepared>, HostFault> {
        if let Some(prepared) = self.lock().find(id) {
            return Ok(prepared);
        }
        let _loading = self.loading.lock();
        if let Some(prepared) = self.lock().find(id) {
            return Ok(prepared);
        }
        let component = self.catalogue.load(id, &self.engine);
        let component = component.map_err(|error| error.into_fault(*id))?;
        let prepared = self.prepare(*id, &component)?;
        self.lock().components.put(*id, Arc::clone(&prepared));
        Ok(prepared)
    }
}

impl Ready {
    fn new() -> Self {
        let most = NonZeroUsize::new(LOADED_COMPONENTS_MAX).expect("more than none");
        Self {
            components: LruCache::new(most),
            schemas: LruCache::new(most),
        }
    }

    fn find(&mut self, id: &ComponentId) -> Option<Arc<Prepared>> {
        self.components.get(id).map(Arc::clone)
    }

    fn loaded(&self, loaded: Loaded) -> Option<Arc<Prepared>> {
        let mut all = self.components.iter();
        let (_, prepared) = all.find(|(_, prepared)| prepared.loaded == loaded)?;
        Some(Arc::clone(prepared))
    }
}

/// How much of a memory that an instance leaves behind is zeroed rather than unmapped, in bytes: what costs
/// less at the next start, and bounds nothing.
const MEMORY_KEPT_BYTES: usize = 128 * 1024;
/// How much of a table is, likewise, in bytes.
const TABLE_KEPT_BYTES: usize = 16 * 1024;

/// How much the pool has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    instances: u32,
    memories: u32,
    tables: u32,
}

impl Places {
    /// All that there may be.
    const ALL: Self = Self {
        instances: POOL_INSTANCES,
        memories: POOL_MEMORIES,
        tables: POOL_TABLES,
    };
    /// What one component may have of each, and some instances of components that have one.
    const LEAST: Self = Self {
        instances: POOL_INSTANCES_LEAST,
        memories: POOL_MEMORIES_EACH,
        tables: POOL_TABLES_EACH,
    };

    /// The places of a process that may have so much address space, in bytes; `None` for any.
    ///
    /// Only how much runs at a time depends on it. A call that finds no place fails, and no outcome is logged for that.
    fn within(space: Option<u64>) -> Self {
        let Some(space) = space else { return Self::ALL };
        let (have, wanted) = (space / POOL_SPACE_PART, Self::ALL.space_bytes());
        let part = |all: u32, least: u32| {
            let scaled = u64::from(all).saturating_mul(have) / wanted;
            u32::try_from(scaled).map_or(all, |scaled| scaled.clamp(least, all))
        };
        Self {
            instances: part(Self::ALL.instances, Self::LEAST.instances),
            memories: part(Self::ALL.memories, Self::LEAST.memories),
            tables: part(Self::ALL.tables, Self::LEAST.tables),
        }
    }

    /// The address space that they take, in bytes, guards apart.
    fn space_bytes(&self) -> u64 {
        let table = u64::from(TABLE_ELEMENTS_MAX) * size_of::<usize>() as u64;
        u64::from(self.memories) * MEMORY_BYTES_MAX + u64::from(self.tables) * table
    }
}

fn pool(places: &Places) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    let elements = TABLE_ELEMENTS_MAX as usize;
    let memory_bytes = usize::try_from(MEMORY_BYTES_MAX).expect("a memory fits the address space");
    pool.total_component_instances(places.instances)
        .max_component_instance_size(POOL_INSTANCE_BYTES)
        .max_core_instance_size(POOL_INSTANCE_BYTES)
        .total_core_instances(POOL_CORE_INSTANCES)
        .max_core_instances_per_component(POOL_CORE_INSTANCES_EACH)
        .total_memories(places.memories)
        .max_memories_per_component(POOL_MEMORIES_EACH)
        .max_memory_size(memory_bytes)
        // Nothing here is asynchronous, and a thousand stacks with a guard page each cost milliseconds at start.
        .total_stacks(0)
        .total_tables(places.tables)
        .max_tables_per_component(POOL_TABLES_EACH)
        .max_tables_per_module(POOL_TABLES_EACH)
        .table_elements(elements)
        .linear_memory_keep_resident(MEMORY_KEPT_BYTES)
        .table_keep_resident(TABLE_KEPT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

impl Engine for Wasm {
    fn serves(&self, profile: u32) -> bool {
        profile == PROFILE
    }

    fn ready(&self, component: &ComponentId) -> Result<(), HostFault> {
        self.prepared(component).map(drop)
    }

    fn instantiate(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        match self.prepared(component) {
            Ok(prepared) => Ok(Box::new(instance::Wasm::new(prepared, limits, run)?)),
            Err(fault) => Err((run, fault)),
        }
    }

    fn ask(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        let prepared = match self.prepared(component) {
            Ok(prepared) => prepared,
            Err(fault) => return (run, Err(fault.into())),
        };
        let Some(indices) = &prepared.governance else {
            let fault = HostFault::Unusable {
                component: *component,
                reason: "it does not export lattice:system/governance@0.2.0".into(),
            };
            return (run, Err(fault.into()));
        };
        governance::ask(&prepared, indices, limits, run, question)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::bounds::{engine, with_modules};

    /// Holds: invariant 10.
    #[test]
    fn a_process_with_little_address_space_has_a_smaller_pool_that_fits() {
        assert_eq!(Places::within(None), Places::ALL);
        let enough = Places::ALL.space_bytes() * POOL_SPACE_PART;
        assert_eq!(Places::within(Some(enough)), Places::ALL);
        assert_ne!(Places::within(Some(enough - POOL_SPACE_PART)), Places::ALL);
        assert_eq!(Places::within(Some(u64::MAX)), Places::ALL);
        let four_gb = 4_000_000 * 1024;
        let few = Places::within(Some(four_gb));
        assert!(few.space_bytes() <= four_gb / POOL_SPACE_PART, "{few:?}");
        assert_eq!(few.instances, POOL_INSTANCES_LEAST);
        assert!(few.memories > POOL_MEMORIES_EACH, "{few:?}");
        // However little there is, one component has what it may have, or the engine does not start and says so.
        assert_eq!(Places::within(Some(1)), Places::LEAST);
        // More space never means less room.
        let growing: Vec<_> = (0..64).map(|n| Places::within(Some(n << 30))).collect();
        for pair in growing.windows(2) {
            assert!(pair[0].instances <= pair[1].instances);
            assert!(pair[0].memories <= pair[1].memories);
            assert!(pair[0].tables <= pair[1].tables);
        }
        // The smallest pool is one that the engine takes.
        let mut config = Compiler::InProcess.config().unwrap();
        let pool = pool(&Places::LEAST);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        wasmtime::Engine::new(&config).unwrap();
    }

    #[test]
    fn so_many_components_are_kept_ready_and_the_one_used_last_stays() {
        let (wasm, _dir) = engine();
        let install = |n: usize| {
            let bytes = with_modules(1, &format!("(global i32 (i32.const {n}))"));
            wasm.install(&bytes).unwrap().component
        };
        let ids: Vec<_> = (0..LOADED_COMPONENTS_MAX).map(install).collect();
        let counts = || {
            let ready = wasm.lock();
            (ready.components.len(), ready.schemas.len())
        };
        assert_eq!(counts(), (LOADED_COMPONENTS_MAX, LOADED_COMPONENTS_MAX));
        wasm.prepared(&ids[0]).unwrap();
        let beyond = install(LOADED_COMPONENTS_MAX);
        assert_eq!(counts(), (LOADED_COMPONENTS_MAX, LOADED_COMPONENTS_MAX));
        let is_described = |id: &ComponentId| wasm.lock().schemas.contains(id);
        assert!(is_described(&beyond) && !is_described(&ids[0]) && is_described(&ids[1]));
        let is_ready = |id| wasm.lock().find(id).is_some();
        assert!(is_ready(&ids[0]) && is_ready(&beyond) && !is_ready(&ids[1]));
        // What is not ready is made ready again, and what is described is read again.
        assert!(wasm.prepared(&ids[1]).is_ok());
        for id in &ids {
            wasm.schema(id).unwrap();
        }
        let (components, schemas) = counts();
        assert_eq!(
            (components, schemas),
            (LOADED_COMPONENTS_MAX, LOADED_COMPONENTS_MAX)
        );
    }
}

//! Bounds of this crate, related to each other at compile time.
//!
//! Those of the determinism profile, which every replica must share, are in `profile.rs`.

use std::time::Duration;

use crate::profile;

/// The largest component that is installed, in bytes.
pub const COMPONENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest compiled component that is loaded, in bytes.
pub const COMPILED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The most values, nested ones included, that one encoding may hold.
///
/// It decides whether arguments fit, so that every replica must have the same.
pub const VALUE_NODES_MAX: usize = 1024 * 1024;
/// How deeply the type of a parameter or result may nest.
pub const TYPE_DEPTH_MAX: usize = 32;
/// The most functions that a component may export for calls.
pub const FUNCTIONS_MAX: usize = 1024;

/// Instances that exist at the same time, of all components together.
pub const POOL_INSTANCES: u32 = 64;
/// Core instances of one component, the one that counts the depth of its calls included: language runtimes are
/// linked from dozens.
pub const POOL_CORE_INSTANCES_EACH: u32 = 64;
/// Core instances of all components together.
pub(crate) const POOL_CORE_INSTANCES: u32 = 1024;
/// Linear memories of all instances together; most components have one.
pub(crate) const POOL_MEMORIES: u32 = 80;
/// Linear memories of one component.
pub const POOL_MEMORIES_EACH: u32 = 8;
/// Tables of all instances together.
pub(crate) const POOL_TABLES: u32 = 512;
/// Tables of one component.
pub const POOL_TABLES_EACH: u32 = 64;
/// The bookkeeping of one component instance, in bytes.
pub(crate) const POOL_INSTANCE_BYTES: usize = 4 * 1024 * 1024;

/// Of the address space that a process may have, the pool takes one part in so many. The others are for threads, files
/// that are mapped and the heap.
pub(crate) const POOL_SPACE_PART: u64 = 3;
/// Instances that exist at the same time where address space is scarce: those of some writers and queries, and spares.
pub(crate) const POOL_INSTANCES_LEAST: u32 = 8;

/// Instances that are started ahead of a call, of all components together.
pub(crate) const SPARES_READY_MAX: usize = 8;
/// Instances that were used and wait to be dropped.
pub(crate) const SPARES_LEFT_MAX: usize = 8;
/// Fuel of a start ahead of a call, a thousandth of what a start may use. What needs more is started when
/// it is called.
pub(crate) const SPARE_START_FUEL: u64 = 1_000_000;
/// The most memory, in bytes, of an instance that waits to be dropped.
pub(crate) const SPARE_MEMORY_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Components whose compiled code is kept ready.
pub(crate) const LOADED_COMPONENTS_MAX: usize = 64;

/// What compiling one component may use of memory, in bytes of address space.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 3 * 1024 * 1024 * 1024;
/// What compiling one component may use of the processor.
pub const COMPILE_CPU_MAX: Duration = Duration::from_secs(120);
/// What compiling one component may take on the clock.
pub const COMPILE_WALL_MAX: Duration = Duration::from_secs(300);

/// The most bytes of guest output (WASI standard output and error) that one instance may leave in
/// the log; what exceeds it is dropped.
pub(crate) const OUTPUT_BYTES_MAX: usize = 16 * 1024;
/// The longest line of guest output that reaches the log, in bytes.
pub(crate) const OUTPUT_LINE_BYTES_MAX: usize = 1024;

const _: () = assert!(POOL_INSTANCES <= POOL_MEMORIES && POOL_INSTANCES <= POOL_TABLES);
const _: () = assert!(SPARES_READY_MAX + SPARES_LEFT_MAX <= POOL_INSTANCES as usize / 4);
const _: () = assert!(POOL_CORE_INSTANCES_EACH <= POOL_CORE_INSTANCES);
const _: () = assert!(POOL_MEMORIES_EACH <= POOL_MEMORIES && POOL_TABLES_EACH <= POOL_TABLES);
// The pool reserves this much address space, of which nothing is used before an instance runs.
const _: () = assert!(POOL_MEMORIES as u64 * profile::MEMORY_BYTES_MAX <= 16 << 30);
// What one component may have fits into the smallest pool as well.
const _: () = assert!(POOL_MEMORIES_EACH <= POOL_INSTANCES_LEAST);

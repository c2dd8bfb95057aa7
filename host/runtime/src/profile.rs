//! Determinism profile 3: what every replica must agree on to get the same outcomes.
//!
//! Together with the engine's version these decide every result, trap and fuel count. They never
//! change: another table, charge or bound is another profile with another number, which a genesis
//! names. A new engine version serves the profile only if its golden outcomes pass.

use wasmtime::{Config, OperatorCost, WasmFeatures};

use lattice_format::Limits;
use lattice_kernel::run::engine::HostFault;

/// The number of this profile in a genesis.
///
/// Profile 1 had no bound on the depth of calls. Profile 2 had no bounds of an intention, which stand in the kernel's
/// `limits.rs`, and charged the host's work too little. No store outlived them.
pub const PROFILE: u32 = 3;

/// The most linear memory that a genesis may give an instance, in bytes, all memories together.
pub const MEMORY_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// The most table elements that a genesis may give an instance, all tables together.
pub const TABLE_ELEMENTS_MAX: u32 = 128 * 1024;
/// The largest result that a genesis may allow a call, encoded, in bytes.
pub const RESULT_BYTES_MAX: u32 = 1024 * 1024;
/// The bound on the depth of calls: what the frames of all functions that have begun and not ended may
/// count for, in bytes. See `depth`.
pub const DEPTH_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// What a frame counts for, in bytes, beside its slots.
pub(crate) const FRAME_BYTES: u32 = 64;
/// What a parameter, a local, or an operand at the greatest height of the operand stack counts for.
pub(crate) const FRAME_SLOT_BYTES: u32 = 16;
/// Functions that call nothing, and whose frames would count for no more than this, count nothing.
pub(crate) const LEAF_FRAME_BYTES_MAX: u32 = 1024;
/// The most components, nested in each other, that have core modules of their own and so a part of the bound.
pub(crate) const BUDGETS_MAX: usize = 16;
/// The native stack that guest code may use, in bytes.
///
/// Native frames differ between engines and processors, so that reaching it would be a fault of this host
/// and never an outcome. They are smaller than what they count for, so that guests end at the bound.
pub const STACK_BYTES_MAX: usize = 4 * 1024 * 1024;
const _: () = assert!(DEPTH_BYTES_MAX as usize <= STACK_BYTES_MAX);
/// The stack of a thread that runs guests, in bytes: theirs, and what the host uses below and above.
pub const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;
const _: () = assert!(2 * STACK_BYTES_MAX <= THREAD_STACK_BYTES);

/// The most fuel of one instantiation. The first of an intention is free; those after traps are charged to the
/// intention.
pub(crate) const START_FUEL: u64 = 1_000_000_000;
/// Charge of one call into the host.
pub(crate) const HOST_CALL_FUEL: u64 = 400;
/// Charge of looking up rows of the state, beside the call: about a microsecond, as all charges are half a nanosecond
/// for each unit.
pub(crate) const LOOK_UP_FUEL: u64 = 2_000;
/// Charge of one write to the state, beside the call: the row is written, hashed, and compared with the one before.
pub(crate) const WRITE_FUEL: u64 = 5_000;
/// Charge of asking whether a call was observed, beside the call: it searches the graph.
pub(crate) const OBSERVED_FUEL: u64 = 10_000;
/// Charge of one byte that the host reads for the guest, or that crosses the boundary.
pub(crate) const HOST_BYTE_FUEL: u64 = 1;
/// Charge of one byte that the guest writes to the state, keys included.
pub(crate) const WRITE_BYTE_FUEL: u64 = 8;
/// Charge of one row that a scan walks, beside its bytes.
pub(crate) const ROW_FUEL: u64 = 100;
/// Charge of one row that a range deletion deletes.
pub(crate) const DELETED_ROW_FUEL: u64 = WRITE_FUEL;
/// The most random bytes that a guest may ask for at once.
pub(crate) const RANDOM_BYTES_MAX: u64 = 64 * 1024;

/// What a guest may hand over in one crossing, in bytes of the engine's own dynamic values.
///
/// One dynamic value takes less than [`VAL_BYTES`] and at least one byte when encoded, so whatever
/// exceeds this bound exceeds [`RESULT_BYTES_MAX`] as well, and is the same outcome in an engine
/// with larger or smaller values.
pub(crate) const CROSSING_BYTES_MAX: usize = RESULT_BYTES_MAX as usize * VAL_BYTES;
const VAL_BYTES: usize = 48;
const _: () = assert!(size_of::<wasmtime::component::Val>() < VAL_BYTES);
const _: () = assert!(RESULT_BYTES_MAX <= lattice_format::limits::BODY_BYTES_MAX);
// Even free of instructions, calls into the host end a transaction with the largest sensible budget.
const _: () = assert!(HOST_CALL_FUEL >= HOST_BYTE_FUEL && WRITE_BYTE_FUEL >= HOST_BYTE_FUEL);

/// Whether this profile can honour `limits`.
///
/// # Errors
/// [`HostFault::Exhausted`] when they ask for more than the profile has.
pub(crate) fn check(limits: &Limits) -> Result<(), HostFault> {
    let over = |what: &str, asked: u64, max: u64| {
        Err(HostFault::Exhausted(format!(
            "{what}: the store's limit of {asked} exceeds {max}, the most of profile {PROFILE}"
        )))
    };
    if limits.memory_bytes > MEMORY_BYTES_MAX {
        return over("memory", limits.memory_bytes, MEMORY_BYTES_MAX);
    }
    if limits.table_elements > TABLE_ELEMENTS_MAX {
        let asked = u64::from(limits.table_elements);
        return over("table elements", asked, u64::from(TABLE_ELEMENTS_MAX));
    }
    if limits.result_bytes > RESULT_BYTES_MAX {
        let asked = u64::from(limits.result_bytes);
        return over("result bytes", asked, u64::from(RESULT_BYTES_MAX));
    }
    Ok(())
}

/// The features that guest code may use.
pub(crate) fn features() -> WasmFeatures {
    // Floats without relaxed SIMD, no threads, no component-model async: nothing in this list has a
    // result that the specification leaves open, not-a-number patterns apart, which are canonical.
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::FLOATS
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::CALL_INDIRECT_OVERLONG
        | WasmFeatures::BULK_MEMORY_OPT
}

/// Sets what this profile fixes.
pub(crate) fn apply(config: &mut Config) {
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(features(), true)
        .concurrency_support(false)
        .cranelift_nan_canonicalization(true)
        .consume_fuel(true)
        .operator_cost(operator_cost())
        // Nothing here is asynchronous and has such a stack; the engine wants it to be larger all the same.
        .async_stack_size(2 * STACK_BYTES_MAX)
        .max_wasm_stack(STACK_BYTES_MAX);
}

/// Fuel by operator: about one unit for what a processor does in one step.
fn operator_cost() -> OperatorCost {
    let mut cost = OperatorCost::new();
    for call in [
        &mut cost.Call,
        &mut cost.CallIndirect,
        &mut cost.ReturnCall,
        &mut cost.ReturnCallIndirect,
    ] {
        *call = 5;
    }
    for division in [
        &mut cost.I32DivS,
        &mut cost.I32DivU,
        &mut cost.I32RemS,
        &mut cost.I32RemU,
        &mut cost.I64DivS,
        &mut cost.I64DivU,
        &mut cost.I64RemS,
        &mut cost.I64RemU,
        &mut cost.F32Div,
        &mut cost.F64Div,
        &mut cost.F32Sqrt,
        &mut cost.F64Sqrt,
    ] {
        *division = 8;
    }
    // A grown page is zeroed by the system when it is first touched.
    cost.MemoryGrow = 200;
    cost.TableGrow = 200;
    cost.variable.memory_grow_per_page = 255;
    cost.variable.table_grow_per_element = 2;
    cost
}

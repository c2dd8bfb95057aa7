//! The golden outcomes of the profile: small calls whose results, traps and fuel are written down here.
//!
//! An engine serves the profile only if it gives each of them, to the last unit of fuel. Tests run them,
//! and `lattice doctor` does on the machine at hand: a processor or an engine that computes something else
//! must not run stores that others run as well.

use lattice_format::{Call, ComponentId, Limits};
use lattice_kernel::outcome::TrapKind;
use lattice_kernel::run::engine::{CallEnd, CallKind, HostFault, Instance};
use wasmtime::component::Component;

use crate::component::Prepared;
use crate::engine::Wasm;
use crate::values::{Type, Value, cbor};
use crate::{call_depth, instance};

/// The functions that are called.
const GUEST: &str = include_str!("golden.wat");
const INTERFACE: &str = "lattice:golden/queries";

/// The budget of a call unless the case is about fuel itself.
const FUEL: u64 = 10_000_000;

/// How a call must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With this number, or with this many bytes of text.
    Value(u32),
    Trap(TrapKind),
}

/// One golden outcome.
struct Golden {
    function: &'static str,
    argument: u32,
    /// The budget, in units of fuel.
    fuel: u64,
    end: End,
    /// What is left of the budget; of a call that traps nobody asks.
    left: Option<u64>,
}

const fn value(function: &'static str, argument: u32, value: u32, spent: u64) -> Golden {
    Golden {
        function,
        argument,
        fuel: FUEL,
        end: End::Value(value),
        left: Some(FUEL - spent),
    }
}

const fn trap(function: &'static str, argument: u32, kind: TrapKind) -> Golden {
    Golden {
        function,
        argument,
        fuel: FUEL,
        end: End::Trap(kind),
        left: None,
    }
}

use TrapKind::{Depth, Fuel, Guest, Limit};

/// Memory may grow to this many pages of 64 KiB in these calls, and tables to as many elements.
const LIMITS: Limits = Limits {
    fuel: FUEL,
    memory_bytes: 10 * 65_536,
    table_elements: 100,
    result_bytes: 1_000,
    ..Limits::DEFAULT
};

const GOLDEN: &[Golden] = &[
    // Loops, calls, and what grows.
    value("spin", 1000, 1, 5_007),
    // The budget to the last unit, and one unit less.
    Golden {
        fuel: 5_007,
        left: Some(0),
        ..value("spin", 1000, 1, 0)
    },
    Golden {
        fuel: 5_006,
        ..trap("spin", 1000, Fuel)
    },
    value("nest", 0, 0, 19),
    value("nest", 10, 10, 269),
    value("nest", 37448, 37448, 936_223),
    trap("nest", 37449, Depth),
    value("grow", 0, 1, 205),
    value("grow", 9, 1, 2_500),
    value("grow", 10, 0xffffffff, 2_759),
    trap("grow", 65536, Fuel),
    value("grow-table", 96, 4, 399),
    value("grow-table", 97, 0xffffffff, 405),
    // Floating point.
    value("nan32", 0, 0x7fc00000, 20),
    value("nan32", 2, 0, 16),
    value("nan32-payload", 0x7fa00001, 0x7fc00000, 17),
    value("nan32-payload", 0xffc12345, 0x7fc00000, 17),
    value("nan32-min", 0x7fa00001, 0x7fc00000, 17),
    value("nan32-sqrt", 0xffffffff, 0x7fc00000, 23),
    value("nan32-sqrt", 4, 0x40000000, 19),
    value("nan32-demote", 5, 0x7fc00000, 15),
    value("nan32-sign", 0x7fc00000, 0xffc00000, 16),
    value("nan64", 0, 0x7ff80000, 25),
    value("nan64-promote", 0xffa00001, 0x7ff80000, 19),
    value("nan-lane", 0, 0x7fc00000, 15),
    value("round", 5, 2, 17),
    value("round", 7, 4, 17),
    value("saturate", 1, 0x7fffffff, 13),
    value("saturate", 0xffffffff, 0x80000000, 17),
    value("saturate", 0, 0, 9),
    // Traps, and the last values before them.
    trap("unreachable", 0, Guest),
    trap("divide", 0, Guest),
    value("divide", 4, 1, 14),
    trap("overflow", 0xffffffff, Guest),
    value("overflow", 1, 0x80000000, 18),
    value("remainder", 0xffffffff, 0, 18),
    trap("convert-nan", 0x7fc00000, Guest),
    trap("convert-nan", 0x7f000000, Guest),
    value("convert-nan", 0x42f6e979, 123, 12),
    value("load", 65532, 0, 8),
    trap("load", 65533, Guest),
    value("copy", 65528, 0, 65_539),
    trap("copy", 65529, Guest),
    value("indirect", 0, 2, 88),
    trap("indirect", 1, Guest),
    trap("indirect", 2, Guest),
    trap("indirect", 4, Guest),
    // What crosses the boundary.
    value("emit", 0, 0, 11),
    value("emit", 997, 997, 1_012),
    trap("emit", 998, Limit),
    trap("emit", 65529, Guest),
];

/// How many golden outcomes the profile has.
pub const COUNT: usize = GOLDEN.len();

/// Runs every golden outcome.
///
/// # Errors
/// Those that this engine does not give, a line for each; or why it could not run them.
pub fn check(wasm: &Wasm) -> Result<(), Vec<String>> {
    let prepared = prepare(wasm).map_err(|fault| vec![fault])?;
    let wrong: Vec<String> = GOLDEN
        .iter()
        .filter_map(|golden| golden.differs(&run(&prepared, golden)))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

impl Golden {
    /// What is wrong with an outcome, if anything is.
    fn differs(&self, found: &Result<(End, u64), HostFault>) -> Option<String> {
        let what = match found {
            Ok((end, _)) if *end != self.end => format!("gave {end:?}, not {:?}", self.end),
            Ok((_, left)) => match self.left {
                Some(expected) if expected != *left => {
                    format!("left {left} units of fuel, not {expected}")
                }
                _ => return None,
            },
            Err(fault) => format!("gave no outcome: {fault}"),
        };
        Some(format!("{}({}) {what}", self.function, self.argument))
    }
}

fn prepare(wasm: &Wasm) -> Result<std::sync::Arc<Prepared>, String> {
    let bytes = wat::parse_str(GUEST).map_err(|error| error.to_string())?;
    let id = ComponentId(*blake3::hash(&bytes).as_bytes());
    let bounded = call_depth::bound(&bytes).map_err(|error| error.to_string())?;
    let component = Component::new(wasm.engine(), bounded).map_err(|error| format!("{error:#}"))?;
    let prepared = wasm.prepare(id, &component);
    prepared.map_err(|fault| fault.to_string())
}

fn run(prepared: &std::sync::Arc<Prepared>, golden: &Golden) -> Result<(End, u64), HostFault> {
    let mut instance = instance::Wasm::alone(prepared.clone(), &LIMITS);
    let call = Call {
        interface: INTERFACE.into(),
        function: golden.function.into(),
        args: cbor::encode_all([&Type::U32].into_iter(), &[Value::U32(golden.argument)]),
    };
    let mut fuel = golden.fuel;
    let end = match instance.call(CallKind::Query, &call, &mut fuel)? {
        CallEnd::Ok(bytes) => End::Value(number(&bytes)),
        CallEnd::Trapped(kind) => End::Trap(kind),
        CallEnd::Refused(_) => unreachable!("the guest has these functions, and none refuses"),
    };
    Ok((end, fuel))
}

fn number(bytes: &[u8]) -> u32 {
    match (
        cbor::decode(&Type::U32, bytes),
        cbor::decode(&Type::String, bytes),
    ) {
        (Ok(Value::U32(number)), _) => number,
        (_, Ok(Value::String(text))) => text.len() as u32,
        other => unreachable!("a function gave {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compiler;

    /// Holds: invariant 15.
    #[test]
    fn this_engine_gives_the_golden_outcomes_of_the_profile() {
        for compiler in [Compiler::InProcess, Compiler::Interpreted] {
            let dir = tempfile::tempdir().expect("a directory");
            let wasm = Wasm::open(dir.path(), compiler.clone()).expect("an engine");
            assert_eq!(check(&wasm), Ok(()), "{compiler:?}");
        }
    }

    #[test]
    fn another_outcome_is_told() {
        let golden = value("nest", 3, 3, 94);
        let left = FUEL - 94;
        assert_eq!(golden.differs(&Ok((End::Value(3), left))), None);
        let told = |found| golden.differs(&found).expect("it differs");
        assert_eq!(
            told(Ok((End::Value(4), left))),
            "nest(3) gave Value(4), not Value(3)"
        );
        assert_eq!(
            told(Ok((End::Value(3), left + 1))),
            "nest(3) left 9999907 units of fuel, not 9999906"
        );
        let fault = HostFault::Exhausted("memory".into());
        assert!(told(Err(fault)).contains("out of memory"));
        assert_eq!(
            trap("load", 9, Guest).differs(&Ok((End::Trap(Guest), 1))),
            None
        );
    }
}

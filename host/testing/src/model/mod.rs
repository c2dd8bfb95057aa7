//! An engine without Wasm, for tests: small programs over a few keys, and a small governance.
//!
//! The programs get, put, delete, scan, add, compute keys from values, keep a global between
//! transactions, refuse and trap, so that histories made of them depend on order in every way that
//! components can.

mod governance;
mod stores;

pub use governance::{
    READER_QUOTA, add_child, admit, genesis_with, resign, revoke, revoke_unseen, set_quota,
    set_quota_of_member, set_quota_of_role, set_role, trap_at_cuts,
};
pub use stores::{body_of, device, found, genesis, key, memory_files, twin};

use lattice_format::{Call, CallId, ComponentId, Limits};
use lattice_kernel::run::engine::{
    Answer, AskError, CallEnd, CallKind, Engine, HostFault, Instance, Question,
};
use lattice_kernel::run::{Run, RunFault};
use lattice_kernel::{HostRefusal, TrapKind};

/// The model program.
pub const APP: ComponentId = ComponentId([1; 32]);
/// The model governance.
pub const GOVERNANCE: ComponentId = ComponentId([2; 32]);
/// Interface of the model program.
pub const APP_COMMANDS: &str = "model:app/commands";
/// Interface of the model governance.
pub const GOVERNANCE_COMMANDS: &str = "model:governance/commands";

/// Runs [`APP`] and [`GOVERNANCE`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelEngine;

/// One step of a model program. `k` are keys, `dynamic` adds the register to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each does what its name says to the register")]
pub enum Step {
    Get {
        k: u8,
        dynamic: bool,
    },
    Put {
        k: u8,
        dynamic: bool,
        value: u8,
    },
    Delete {
        k: u8,
        dynamic: bool,
    },
    DeleteRange {
        from: u8,
        to: u8,
    },
    Scan {
        from: u8,
        to: u8,
        limit: u8,
        reverse: bool,
    },
    Add {
        k: u8,
        by: i8,
    },
    Number {
        k: u8,
    },
    ScanNumbers {
        from: u8,
        to: u8,
        limit: u8,
    },
    RefuseIf {
        modulus: u8,
    },
    TrapIf {
        modulus: u8,
    },
    StoreGlobal,
    LoadGlobal,
    PutCallId {
        k: u8,
    },
    Observed {
        k: u8,
    },
    Pin {
        k: u8,
    },
    Unpin {
        k: u8,
    },
}

/// The fuel of a start of the model program.
pub const START_FUEL: u64 = 100;
/// Keys that programs use.
pub const KEYS: u8 = 8;

impl Step {
    fn encode(self) -> [u8; 5] {
        let b = u8::from;
        match self {
            Self::Get { k, dynamic } => [0, k, b(dynamic), 0, 0],
            Self::Put { k, dynamic, value } => [1, k, b(dynamic), value, 0],
            Self::Delete { k, dynamic } => [2, k, b(dynamic), 0, 0],
            Self::DeleteRange { from, to } => [3, from, to, 0, 0],
            Self::Scan {
                from,
                to,
                limit,
                reverse,
            } => [4, from, to, limit, b(reverse)],
            Self::Add { k, by } => [5, k, by.cast_unsigned(), 0, 0],
            Self::Number { k } => [6, k, 0, 0, 0],
            Self::ScanNumbers { from, to, limit } => [7, from, to, limit, 0],
            Self::RefuseIf { modulus } => [8, modulus, 0, 0, 0],
            Self::TrapIf { modulus } => [9, modulus, 0, 0, 0],
            Self::StoreGlobal => [10, 0, 0, 0, 0],
            Self::LoadGlobal => [11, 0, 0, 0, 0],
            Self::PutCallId { k } => [12, k, 0, 0, 0],
            Self::Observed { k } => [13, k, 0, 0, 0],
            Self::Pin { k } => [14, k, 0, 0, 0],
            Self::Unpin { k } => [15, k, 0, 0, 0],
        }
    }
}

/// A call that runs the steps.
pub fn program(steps: &[Step]) -> Call {
    Call {
        interface: APP_COMMANDS.into(),
        function: "run".into(),
        args: steps.iter().flat_map(|s| s.encode()).collect(),
    }
}

/// A call that tells whether the one of that id was observed.
pub fn saw(call: CallId) -> Call {
    Call {
        interface: APP_COMMANDS.into(),
        function: "saw".into(),
        args: call.0.to_vec(),
    }
}

impl Engine for ModelEngine {
    fn serves(&self, profile: u32) -> bool {
        profile == 1
    }

    fn ready(&self, component: &ComponentId) -> Result<(), HostFault> {
        match *component {
            APP | GOVERNANCE => Ok(()),
            other => Err(HostFault::MissingCode(other)),
        }
    }

    fn instantiate(
        &self,
        component: &ComponentId,
        _: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        match self.ready(component) {
            Ok(()) => Ok(Box::new(ModelInstance {
                component: *component,
                run,
                global: 0,
            })),
            Err(fault) => Err((run, fault)),
        }
    }

    fn ask(
        &self,
        _: &ComponentId,
        _: &Limits,
        mut run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        let answer = governance::ask(&mut run, question).map_err(|fault| match fault {
            RunFault::Trap(kind) => AskError::Trapped(kind),
            RunFault::Host(fault) => AskError::Host(fault),
        });
        (run, answer)
    }
}

struct ModelInstance {
    component: ComponentId,
    run: Run,
    global: u64,
}

enum Stop {
    Refuse(u64),
    Fault(RunFault),
}

impl From<RunFault> for Stop {
    fn from(fault: RunFault) -> Self {
        Self::Fault(fault)
    }
}

fn cbor(n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    minicbor::Encoder::new(&mut out)
        .u64(n)
        .expect("a Vec grows as far as it is asked to");
    out
}

impl Instance for ModelInstance {
    fn call(&mut self, kind: CallKind, call: &Call, fuel: &mut u64) -> Result<CallEnd, HostFault> {
        // A unit for the call and one for each byte of its arguments.
        match fuel.checked_sub(1 + call.args.len() as u64) {
            Some(left) => *fuel = left,
            None => {
                *fuel = 0;
                return Ok(CallEnd::Trapped(TrapKind::Fuel));
            }
        }
        let result = match (kind, self.component, call.function.as_str()) {
            (CallKind::Init, GOVERNANCE, _) => {
                governance::found_governance(&mut self.run, &call.args).map(|()| 0)
            }
            (CallKind::Init, _, _) => self.run.put(b"init", b"1").map(|()| 0).map_err(Stop::from),
            (_, APP, "saw") => ask_observed(&mut self.run, &call.args),
            (_, APP, "run") => run_program(&mut self.run, &mut self.global, &call.args),
            (CallKind::Command, GOVERNANCE, function) => {
                governance::govern(&mut self.run, function, &call.args).map(|()| 0)
            }
            _ => {
                return Ok(CallEnd::Refused(HostRefusal::NoSuchFunction.to_cbor()));
            }
        };
        Ok(match result {
            Ok(value) => CallEnd::Ok(cbor(value)),
            Err(Stop::Refuse(value)) => CallEnd::Refused(cbor(value)),
            Err(Stop::Fault(RunFault::Trap(kind))) => CallEnd::Trapped(kind),
            Err(Stop::Fault(RunFault::Host(fault))) => return Err(fault),
        })
    }

    fn start_fuel(&self) -> u64 {
        START_FUEL
    }

    fn run_mut(&mut self) -> &mut Run {
        &mut self.run
    }

    fn finish(self: Box<Self>) -> Run {
        self.run
    }
}

/// Writes whether the call of that id was observed, and returns it.
fn ask_observed(run: &mut Run, args: &[u8]) -> Result<u64, Stop> {
    let id = CallId::from_slice(args).ok_or(Stop::Refuse(0))?;
    let observed = u8::from(run.observed(id)?);
    run.put(b"saw", &[observed])?;
    Ok(u64::from(observed))
}

fn run_program(run: &mut Run, global: &mut u64, args: &[u8]) -> Result<u64, Stop> {
    let (steps, rest) = args.as_chunks::<5>();
    if !rest.is_empty() {
        return Err(Stop::Refuse(0));
    }
    let mut reg = 1u64;
    let mix = |reg: &mut u64, bytes: &[u8]| {
        for byte in bytes {
            *reg = (*reg * 31 + u64::from(*byte) + 7) % 10_007;
        }
    };
    for step in steps {
        let [op, a, b, c, d] = *step;
        let at = |n: u8, dynamic: u8, reg: u64| {
            let shift = if dynamic == 1 { reg } else { 0 };
            [b'k', ((u64::from(n) + shift) % u64::from(KEYS)) as u8]
        };
        let fixed = |n: u8| [b'k', n];
        match op {
            0 => match run.get(&at(a, b, reg))? {
                Some(value) => mix(&mut reg, &value),
                None => mix(&mut reg, b"none"),
            },
            1 => run.put(&at(a, b, reg), &[((reg + u64::from(c)) % 5) as u8])?,
            2 => run.delete(&at(a, b, reg))?,
            3 => mix(
                &mut reg,
                &[run.delete_range(&fixed(a), &fixed(b))?.rows as u8],
            ),
            4 => {
                let page = run.scan(&fixed(a), Some(&fixed(b)), u32::from(c), d == 1)?;
                for (key, value) in &page.rows {
                    mix(&mut reg, key);
                    mix(&mut reg, value);
                }
                mix(&mut reg, &[u8::from(page.more)]);
            }
            5 => run.add(&fixed(a), i64::from(b.cast_signed()))?,
            6 => mix(&mut reg, &run.number(&fixed(a))?.to_be_bytes()),
            7 => {
                let page = run.scan_numbers(&fixed(a), Some(&fixed(b)), u32::from(c))?;
                for (key, n) in page.rows {
                    mix(&mut reg, &key);
                    mix(&mut reg, &n.to_be_bytes());
                }
            }
            8 if reg.is_multiple_of(u64::from(a.max(1))) => return Err(Stop::Refuse(reg)),
            9 if reg.is_multiple_of(u64::from(a.max(1))) => {
                return Err(RunFault::Trap(TrapKind::Guest).into());
            }
            8 | 9 => {}
            10 => *global += reg,
            11 => mix(&mut reg, &global.to_be_bytes()),
            12 => {
                let id = run.current()?.id;
                run.put(&fixed(a), &id.0)?;
            }
            13 => {
                let value = run.get(&fixed(a))?;
                if let Some(id) = value.and_then(|v| CallId::from_slice(&v)) {
                    mix(&mut reg, &[2 + u8::from(run.observed(id)?)]);
                }
            }
            14 => run.pin(&fixed(a), lattice_format::BlobId([a; 32]))?,
            15 => run.unpin(&fixed(a), lattice_format::BlobId([a; 32]))?,
            _ => return Err(Stop::Refuse(u64::from(op))),
        }
    }
    Ok(reg)
}

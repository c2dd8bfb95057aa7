//! One instance of a component, for the calls of one intention or for one query.

use std::sync::Arc;

use lattice_format::{Call, Limits};
use lattice_kernel::outcome::{HostRefusal, TrapKind};
use lattice_kernel::run::Run;
use lattice_kernel::run::engine::{CallEnd, CallKind, HostFault, Instance};
use wasmtime::component::Val;
use wasmtime::{Store, Trap, WasmBacktrace};

use crate::component::{Function, Prepared};
use crate::host::{Data, Memory, Meter, Stop};
use crate::limits::{SPARE_MEMORY_BYTES_MAX, SPARE_START_FUEL};
use crate::profile::{self, CROSSING_BYTES_MAX, HOST_BYTE_FUEL, START_FUEL};
use crate::values::{Type, Value, cbor, val};
use crate::wasi::Wasi;

/// An instance that makes dynamic calls.
pub(crate) struct Wasm {
    prepared: Arc<Prepared>,
    limits: Limits,
    state: State,
    /// What its starts used of fuel together.
    start_fuel: u64,
}

enum State {
    Live {
        // Boxed: the store is large, and this enum is moved at every trap.
        store: Box<Store<Data>>,
        instance: wasmtime::component::Instance,
    },
    /// Not started, or dropped after a trap; the next call starts a fresh one.
    Idle(Box<Data>),
    /// Between the two, or after a panic.
    Moved,
}

/// Why something that ran in a store did not return.
pub(crate) enum Failure {
    Trap(TrapKind),
    Host(HostFault),
}

/// Tells whose fault an error from the engine is, in a store whose memory was limited by `memory`.
pub(crate) fn classify(error: &wasmtime::Error) -> Failure {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return match stop {
            Stop::Trap(kind) => Failure::Trap(*kind),
            // Only a start ahead of a call is stopped in this way, and nobody reads its outcome.
            Stop::Early => Failure::Trap(TrapKind::Misuse),
            Stop::Host(fault) => Failure::Host(fault.clone()),
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::Trap(TrapKind::Fuel),
        Some(Trap::UnreachableCodeReached) if is_too_deep(error) => Failure::Trap(TrapKind::Depth),
        // The bound on depth comes first; were it not so, another host might have had room.
        Some(Trap::StackOverflow) => Failure::Host(HostFault::Exhausted("native stack".into())),
        Some(_) => Failure::Trap(TrapKind::Guest),
        // The engine has no public type for this error.
        None if error
            .root_cause()
            .to_string()
            .contains("fuel allocated for hostcalls") =>
        {
            Failure::Trap(TrapKind::Limit)
        }
        None if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
            Failure::Host(HostFault::Exhausted("instance slots".into()))
        }
        // What is left are values that break the canonical ABI: text that is not UTF-8, a list
        // outside of memory, an unknown case.
        None => Failure::Trap(TrapKind::Guest),
    }
}

/// Whether a trap happened in the function that ends calls which are nested too deep: the last one of
/// its module, which the guest itself cannot reach.
fn is_too_deep(error: &wasmtime::Error) -> bool {
    let frame = error
        .downcast_ref::<WasmBacktrace>()
        .and_then(|trace| trace.frames().first());
    frame.is_some_and(|frame| {
        let module = frame.module();
        let imports = module.imports();
        let imported = imports
            .filter(|import| import.ty().func().is_some())
            .count();
        let functions = imported + module.functions().len();
        frame.func_index() as usize + 1 == functions
    })
}

/// An instance in its store.
pub(crate) type Started = (Box<Store<Data>>, wasmtime::component::Instance);

/// A store for one instance of `prepared`, and the instance: a spare one, else one that is started now.
///
/// # Errors
/// Gives the data back with the failure.
pub(crate) fn start(
    prepared: &Prepared,
    limits: &Limits,
    data: Box<Data>,
) -> Result<Started, (Box<Data>, Failure)> {
    if let Some((mut store, instance)) = prepared.instance_pool.take(prepared.loaded, limits) {
        store.data_mut().run = data.run;
        return Ok((store, instance));
    }
    match start_now(prepared, limits, data, START_FUEL) {
        // Spare instances take places of the pool that calls need more.
        Err((data, Failure::Host(HostFault::Exhausted(_)))) => {
            prepared.instance_pool.clear();
            start_now(prepared, limits, data, START_FUEL)
        }
        started => started,
    }
}

/// Starts an instance for the next that needs one; nothing that runs can tell.
pub(crate) fn start_ahead(prepared: &Prepared, limits: &Limits) {
    let data = Box::new(Data::new(None, limits));
    match start_now(prepared, limits, data, SPARE_START_FUEL) {
        Ok(started) => prepared
            .instance_pool
            .keep(prepared.loaded, limits, started),
        // It asks at its start what it is started for, takes long, or always traps.
        Err((_, Failure::Trap(_))) => prepared.instance_pool.unfit(prepared.loaded),
        // The pool of this host is full now.
        Err((_, Failure::Host(_))) => {}
    }
}

fn start_now(
    prepared: &Prepared,
    limits: &Limits,
    data: Box<Data>,
    fuel: u64,
) -> Result<Started, (Box<Data>, Failure)> {
    let mut data = *data;
    data.memory = Memory::new(limits);
    data.meter.start(fuel);
    if prepared.wasi {
        data.wasi = Some(Box::default());
    }
    let mut store = Box::new(Store::new(prepared.pre.engine(), data));
    store.limiter(|data| &mut data.memory);
    store.set_hostcall_fuel(CROSSING_BYTES_MAX);
    prepared.pace.equip(&mut store);
    let _running = prepared.pace.run(&mut store);
    let started = store
        .set_fuel(fuel)
        .and_then(|()| prepared.pre.instantiate(&mut *store));
    match started {
        Ok(instance) => {
            let left = store.get_fuel().expect("fuel is switched on");
            let data = store.data_mut();
            data.start_fuel = (fuel - left).saturating_add(data.meter.spent());
            Ok((store, instance))
        }
        Err(error) => {
            // Where the engine stops a start is its own affair, so one that fails counts as a whole.
            store.data_mut().start_fuel = fuel;
            let failure = match classify(&error) {
                // The engine reports a start beyond the limits as an error of its own.
                Failure::Trap(TrapKind::Guest) if store.data().memory.denied => {
                    Failure::Trap(TrapKind::Limit)
                }
                failure => failure,
            };
            Err((Box::new(store.into_data()), failure))
        }
    }
}

/// Takes the run out of a store that is done; the rest is dropped when there is time.
pub(crate) fn give_back(prepared: &Prepared, mut store: Box<Store<Data>>) -> Run {
    let data = store.data_mut();
    let run = data.run.take().expect(HAS_RUN);
    // What the guest printed belongs to this run.
    data.wasi = None;
    prepared.instance_pool.leave(store);
    run
}

const HAS_RUN: &str = "an instance that was given out has its run until it gives it back";

impl Wasm {
    #[expect(
        clippy::result_large_err,
        reason = "the kernel wants its run back, as a value"
    )]
    pub(crate) fn new(
        prepared: Arc<Prepared>,
        limits: &Limits,
        run: Run,
    ) -> Result<Self, (Run, HostFault)> {
        if let Err(fault) = profile::check(limits) {
            return Err((run, fault));
        }
        let mut this = Self {
            prepared,
            limits: *limits,
            state: State::Idle(Box::new(Data::new(Some(run), limits))),
            start_fuel: 0,
        };
        match this.start() {
            // A component that traps when it starts traps in every call.
            Ok(()) | Err(Failure::Trap(_)) => Ok(this),
            Err(Failure::Host(fault)) => Err((this.into_run(), fault)),
        }
    }

    /// An instance that belongs to no store: what it asks the host for traps.
    pub(crate) fn alone(prepared: Arc<Prepared>, limits: &Limits) -> Self {
        Self {
            prepared,
            limits: *limits,
            state: State::Idle(Box::new(Data::new(None, limits))),
            start_fuel: 0,
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        let data = match std::mem::replace(&mut self.state, State::Moved) {
            State::Idle(data) => data,
            live => {
                self.state = live;
                return Ok(());
            }
        };
        match start(&self.prepared, &self.limits, data) {
            Ok((store, instance)) => {
                self.count_start(store.data());
                self.state = State::Live { store, instance };
                Ok(())
            }
            Err((data, failure)) => {
                if matches!(failure, Failure::Trap(_)) {
                    self.count_start(&data);
                }
                self.state = State::Idle(data);
                Err(failure)
            }
        }
    }

    fn count_start(&mut self, data: &Data) {
        self.start_fuel = self.start_fuel.saturating_add(data.start_fuel);
    }

    /// Drops the instance, and with it its memory; the run stays.
    fn stop(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Moved) {
            State::Live { store, .. } => State::Idle(Box::new(store.into_data())),
            other => other,
        };
    }

    fn into_run(self) -> Run {
        match self.state {
            State::Live { store, .. } => give_back(&self.prepared, store),
            State::Idle(data) => data.run.expect(HAS_RUN),
            State::Moved => unreachable!("an instance that panicked is not used again"),
        }
    }

    fn enter(
        &mut self,
        function: &Function,
        args: Vec<Value>,
        args_len: usize,
        fuel: &mut u64,
    ) -> Result<Option<Value>, Failure> {
        self.start()?;
        let State::Live { store, instance } = &mut self.state else {
            unreachable!("started just above");
        };
        let budget = *fuel;
        store.data_mut().begin(budget);
        let charge = HOST_BYTE_FUEL * args_len as u64;
        store
            .data_mut()
            .meter
            .charge(charge)
            .map_err(|error| classify(&error))?;
        // One more than the budget, so that a guest that spent it exactly can be told from one that
        // went over it between two of the engine's checks.
        let given = budget.saturating_add(1);
        store.set_fuel(given).map_err(|error| classify(&error))?;
        let func = instance
            .get_func(&mut **store, function.index)
            .expect("the index was found in this component");
        let running = self.prepared.pace.run(store);
        let result = match function.typed {
            Some(call) => call(store, &func, args),
            None => call_dynamic(store, &func, function, args),
        };
        drop(running);
        let left = store.get_fuel().expect("fuel is switched on");
        let spent = (given - left).saturating_add(store.data().meter.spent());
        *fuel = budget.saturating_sub(spent);
        match result.map_err(|error| classify(&error)) {
            // Whatever it ended with, beyond the budget it had already run out of fuel. Where the
            // engine checks is its own affair, the sum is not.
            Ok(_) | Err(Failure::Trap(_)) if spent > budget => Err(Failure::Trap(TrapKind::Fuel)),
            result => result,
        }
    }

    fn end(
        &self,
        function: &Function,
        value: Option<Value>,
        fuel: &mut u64,
    ) -> Result<CallEnd, Failure> {
        let (end, bytes): (fn(_) -> _, _) = match (&function.result, value) {
            (None, None) => (CallEnd::Ok, cbor::NULL.to_vec()),
            (Some(Type::Result { ok, err }), Some(Value::Result(value))) => match value {
                Ok(value) => (CallEnd::Ok, encode_payload(ok.as_deref(), value)),
                Err(value) => (CallEnd::Refused, encode_payload(err.as_deref(), value)),
            },
            (Some(ty), Some(value)) => (CallEnd::Ok, cbor::encode(ty, &value)),
            _ => unreachable!("a call gives a value of its function's type"),
        };
        if bytes.len() > self.limits.result_bytes as usize {
            return Err(Failure::Trap(TrapKind::Limit));
        }
        match fuel.checked_sub(HOST_BYTE_FUEL * bytes.len() as u64) {
            Some(left) => *fuel = left,
            None => return Err(Failure::Trap(TrapKind::Fuel)),
        }
        Ok(end(bytes))
    }
}

fn encode_payload(ty: Option<&Type>, value: Option<Box<Value>>) -> Vec<u8> {
    match (ty, value) {
        (Some(ty), Some(value)) => cbor::encode(ty, &value),
        _ => cbor::NULL.to_vec(),
    }
}

fn call_dynamic(
    store: &mut Store<Data>,
    func: &wasmtime::component::Func,
    function: &Function,
    args: Vec<Value>,
) -> wasmtime::Result<Option<Value>> {
    let types = function.params.iter();
    let args: Vec<Val> = types
        .zip(args)
        .map(|(ty, arg)| val::to_val(ty, arg))
        .collect();
    let Some(ty) = &function.result else {
        func.call(store, &args, &mut [])?;
        return Ok(None);
    };
    let mut results = [Val::Bool(false)];
    func.call(store, &args, &mut results)?;
    let [result] = results;
    let value = val::from_val(ty, result);
    Ok(Some(value.expect(
        "the engine gives results of the types that it told",
    )))
}

impl Instance for Wasm {
    fn call(&mut self, kind: CallKind, call: &Call, fuel: &mut u64) -> Result<CallEnd, HostFault> {
        let prepared = Arc::clone(&self.prepared);
        let refused = |refusal: HostRefusal| Ok(CallEnd::Refused(refusal.to_cbor()));
        let Some(function) = prepared.function(kind, &call.interface, &call.function) else {
            return match kind {
                // A component that has nothing to do at its beginning does not export the interface.
                CallKind::Init => Ok(CallEnd::Ok(cbor::NULL.to_vec())),
                CallKind::Command | CallKind::Query => refused(HostRefusal::NoSuchFunction),
            };
        };
        let Ok(args) = cbor::decode_all(function.params.iter(), &call.args) else {
            return refused(HostRefusal::BadArguments);
        };
        let ended = self
            .enter(function, args, call.args.len(), fuel)
            .and_then(|value| self.end(function, value, fuel));
        match ended {
            Ok(end) => Ok(end),
            Err(failure) => {
                // After a trap the engine refuses to enter the instance again.
                self.stop();
                match failure {
                    Failure::Trap(kind) => Ok(CallEnd::Trapped(kind)),
                    Failure::Host(fault) => Err(fault),
                }
            }
        }
    }

    fn start_fuel(&self) -> u64 {
        self.start_fuel
    }

    fn run_mut(&mut self) -> &mut Run {
        match &mut self.state {
            State::Live { store, .. } => store.data_mut().run.as_mut().expect(HAS_RUN),
            State::Idle(data) => data.run.as_mut().expect(HAS_RUN),
            State::Moved => unreachable!("an instance that panicked is not used again"),
        }
    }

    fn finish(self: Box<Self>) -> Run {
        self.into_run()
    }
}

impl Data {
    /// The data of an instance that has not started.
    pub(crate) fn new(run: Option<Run>, limits: &Limits) -> Self {
        Self {
            start_fuel: 0,
            run,
            meter: Meter::default(),
            memory: Memory::new(limits),
            wasi: None,
        }
    }

    /// Whether dropping its instance can wait: it holds little memory.
    pub(crate) fn is_small(&self) -> bool {
        self.memory.bytes() <= SPARE_MEMORY_BYTES_MAX
    }

    /// Begins one call with this much fuel.
    pub(crate) fn begin(&mut self, fuel: u64) {
        self.meter.start(fuel);
        if let Some(wasi) = &mut self.wasi {
            Wasi::begin(wasi);
        }
    }
}

//! What a component may import: `lattice:store`, answered by the run of its call.
//!
//! The kernel decides what a read sees and what a write does; this file only moves values across the
//! boundary and charges for them.

use lattice_format::{BlobId, CallId};
use lattice_kernel::outcome::TrapKind;
use lattice_kernel::run::engine::HostFault;
use lattice_kernel::run::{self, Run, RunFault};
use wasmtime::ResourceLimiter;
use wasmtime::component::{HasData, Linker};

use crate::profile::{
    DELETED_ROW_FUEL, HOST_BYTE_FUEL, HOST_CALL_FUEL, LOOK_UP_FUEL, OBSERVED_FUEL, ROW_FUEL,
    WRITE_BYTE_FUEL, WRITE_FUEL,
};
use crate::wasi::Wasi;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated from the contract")]
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "lattice:store/store",
        imports: { default: trappable },
    });
}

use bindings::lattice::store::{blobs, context, state, types};

/// Why the host stopped a guest in the middle of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The guest trapped, by its own fault.
    #[error("stopped: {0}")]
    Trap(TrapKind),
    /// An instance that is started ahead of a call asked for the call.
    #[error("asked for its run before it had one")]
    Early,
    /// This host is at fault.
    #[error(transparent)]
    Host(HostFault),
}

impl From<RunFault> for Stop {
    fn from(fault: RunFault) -> Self {
        match fault {
            RunFault::Trap(kind) => Stop::Trap(kind),
            RunFault::Host(fault) => Stop::Host(fault),
        }
    }
}

/// What belongs to one instance.
pub(crate) struct Data {
    /// What the start of the instance used of fuel.
    pub(crate) start_fuel: u64,
    /// What the instance runs for; `None` while it is started ahead, and after it gave its run back.
    pub(crate) run: Option<Run>,
    pub(crate) meter: Meter,
    pub(crate) memory: Memory,
    /// Present for components that import WASI; the others do not pay for it.
    pub(crate) wasi: Option<Box<Wasi>>,
}

/// The host's part of a call's fuel. The guest's own part is counted by the engine; the sum is
/// compared with the budget after the call, and the host's part alone at each charge.
#[derive(Default)]
pub(crate) struct Meter {
    budget: u64,
    spent: u64,
}

impl Meter {
    pub(crate) fn start(&mut self, budget: u64) {
        *self = Self { budget, spent: 0 };
    }

    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    pub(crate) fn charge(&mut self, fuel: u64) -> wasmtime::Result<()> {
        self.spent = self.spent.saturating_add(fuel);
        if self.spent > self.budget {
            return Err(Stop::Trap(TrapKind::Fuel).into());
        }
        Ok(())
    }

    pub(crate) fn charge_read(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.charge(HOST_CALL_FUEL + HOST_BYTE_FUEL * bytes as u64)
    }

    /// A call that looks up rows of the state.
    fn charge_look_up(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.charge_read(bytes)?;
        self.charge(LOOK_UP_FUEL)
    }

    fn charge_write(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.charge(HOST_CALL_FUEL + WRITE_FUEL + WRITE_BYTE_FUEL * bytes as u64)
    }

    fn charge_rows(&mut self, rows: u64, bytes: usize) -> wasmtime::Result<()> {
        self.charge(ROW_FUEL.saturating_mul(rows) + HOST_BYTE_FUEL * bytes as u64)
    }
}

/// Memory and tables of one instance against the store's limits.
pub(crate) struct Memory {
    bytes: u64,
    bytes_max: u64,
    elements: u64,
    elements_max: u64,
    /// Whether a grow was denied: what decides, when the instance does not come up, that this is
    /// the component's doing.
    pub(crate) denied: bool,
}

impl Memory {
    pub(crate) fn new(limits: &lattice_format::Limits) -> Self {
        Self {
            bytes: 0,
            bytes_max: limits.memory_bytes,
            elements: 0,
            elements_max: u64::from(limits.table_elements),
            denied: false,
        }
    }

    /// What the guest has of memory now, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.bytes + (desired - current) as u64;
        let allowed = total <= self.bytes_max && maximum.is_none_or(|max| desired <= max);
        match allowed {
            true => self.bytes = total,
            false => self.denied = true,
        }
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // Below its limit the guest must get what it asks for, on every replica.
        Err(Stop::Host(HostFault::Exhausted(format!(
            "memory for a component: {error}"
        )))
        .into())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.elements + (desired - current) as u64;
        let allowed = total <= self.elements_max && maximum.is_none_or(|max| desired <= max);
        match allowed {
            true => self.elements = total,
            false => self.denied = true,
        }
        Ok(allowed)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::Host(HostFault::Exhausted(format!(
            "tables for a component: {error}"
        )))
        .into())
    }
}

struct Imports;

impl HasData for Imports {
    type Data<'a> = &'a mut Data;
}

/// Defines the imports of the contract.
pub(crate) fn add_to_linker(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, Imports>(linker, |data| data)?;
    state::add_to_linker::<_, Imports>(linker, |data| data)?;
    context::add_to_linker::<_, Imports>(linker, |data| data)?;
    blobs::add_to_linker::<_, Imports>(linker, |data| data)
}

/// A hash of another length traps: the contract says so.
fn hash<T: From<[u8; 32]>>(bytes: &[u8]) -> wasmtime::Result<T> {
    match <[u8; 32]>::try_from(bytes) {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err(Stop::Trap(TrapKind::Misuse).into()),
    }
}

fn checked<T>(result: Result<T, RunFault>) -> wasmtime::Result<T> {
    result.map_err(|fault| Stop::from(fault).into())
}

impl Data {
    /// What the instance runs for.
    pub(crate) fn run(&mut self) -> Result<&mut Run, Stop> {
        self.run.as_mut().ok_or(Stop::Early)
    }

    fn page(&mut self, page: run::Page) -> wasmtime::Result<state::Page> {
        let bytes = page.rows.iter().map(|(key, value)| key.len() + value.len());
        self.meter.charge_rows(page.walked, bytes.sum())?;
        let rows = page.rows.into_iter();
        Ok(state::Page {
            rows: rows.map(|(key, value)| (key, value.to_vec())).collect(),
            more: page.more,
        })
    }
}

impl types::Host for Data {}

impl state::Host for Data {
    fn get(&mut self, key: Vec<u8>) -> wasmtime::Result<Option<Vec<u8>>> {
        self.meter.charge_look_up(key.len())?;
        let value = checked(self.run()?.get(&key))?;
        let bytes = value.as_ref().map_or(0, |value| value.len());
        self.meter.charge_rows(0, bytes)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(
        &mut self,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        limit: u32,
        reverse: bool,
    ) -> wasmtime::Result<state::Page> {
        self.meter.charge_look_up(start.len())?;
        let page = checked(self.run()?.scan(&start, end.as_deref(), limit, reverse))?;
        self.page(page)
    }

    fn scan_keys(
        &mut self,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        limit: u32,
        reverse: bool,
    ) -> wasmtime::Result<state::Page> {
        self.meter.charge_look_up(start.len())?;
        let page = checked(
            self.run()?
                .scan_keys(&start, end.as_deref(), limit, reverse),
        )?;
        self.page(page)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> wasmtime::Result<()> {
        self.meter.charge_write(key.len() + value.len())?;
        checked(self.run()?.put(&key, &value))
    }

    fn delete(&mut self, key: Vec<u8>) -> wasmtime::Result<()> {
        self.meter.charge_write(key.len())?;
        checked(self.run()?.delete(&key))
    }

    fn delete_range(&mut self, start: Vec<u8>, end: Vec<u8>) -> wasmtime::Result<()> {
        self.meter.charge_write(start.len() + end.len())?;
        let deleted = checked(self.run()?.delete_range(&start, &end))?;
        self.meter.charge_rows(deleted.walked, 0)?;
        self.meter
            .charge(DELETED_ROW_FUEL.saturating_mul(deleted.rows))
    }

    fn add(&mut self, key: Vec<u8>, by: i64) -> wasmtime::Result<()> {
        self.meter.charge_write(key.len())?;
        checked(self.run()?.add(&key, by))
    }

    fn number(&mut self, key: Vec<u8>) -> wasmtime::Result<i64> {
        self.meter.charge_look_up(key.len())?;
        checked(self.run()?.number(&key))
    }

    fn scan_numbers(
        &mut self,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        limit: u32,
    ) -> wasmtime::Result<Vec<(Vec<u8>, i64)>> {
        self.meter.charge_look_up(start.len())?;
        let page = checked(self.run()?.scan_numbers(&start, end.as_deref(), limit))?;
        let bytes = page.rows.iter().map(|(key, _)| key.len() + 8);
        self.meter.charge_rows(page.walked, bytes.sum())?;
        Ok(page.rows)
    }
}

impl context::Host for Data {
    fn current(&mut self) -> wasmtime::Result<types::Entry> {
        self.meter.charge_read(0)?;
        let entry = checked(self.run()?.current())?;
        Ok(types::Entry {
            id: entry.id.0.to_vec(),
            author: entry.author.0.to_vec(),
            time: types::Timestamp {
                wall_ms: entry.time.wall_ms,
                counter: entry.time.counter,
            },
            index: entry.index,
        })
    }

    fn observed(&mut self, other: Vec<u8>) -> wasmtime::Result<bool> {
        self.meter.charge_read(other.len())?;
        self.meter.charge(OBSERVED_FUEL)?;
        checked(self.run()?.observed(hash::<CallId>(&other)?))
    }

    fn store(&mut self) -> wasmtime::Result<Vec<u8>> {
        self.meter.charge_read(0)?;
        Ok(checked(self.run()?.store())?.0.to_vec())
    }
}

impl blobs::Host for Data {
    fn pin(&mut self, owner: Vec<u8>, blob: Vec<u8>) -> wasmtime::Result<()> {
        self.meter.charge_write(owner.len() + blob.len())?;
        checked(self.run()?.pin(&owner, hash::<BlobId>(&blob)?))
    }

    fn unpin(&mut self, owner: Vec<u8>, blob: Vec<u8>) -> wasmtime::Result<()> {
        self.meter.charge_write(owner.len() + blob.len())?;
        checked(self.run()?.unpin(&owner, hash::<BlobId>(&blob)?))
    }
}

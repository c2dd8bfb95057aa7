//! The bounds of what instances take of this host, each at its last allowed value and one beyond.

use std::fmt::Write as _;
use std::sync::Arc;

use lattice_format::{ComponentId, Limits};
use lattice_kernel::run::engine::HostFault;
use tempfile::TempDir;

use crate::code::{self, Compiler};
use crate::component::Prepared;
use crate::engine::Wasm;
use crate::host::Data;
use crate::instance::{self, Failure, Started};
use crate::limits::*;
use crate::profile::START_FUEL;

/// An engine with its directory.
pub(crate) fn engine() -> (Wasm, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Wasm::open(dir.path(), Compiler::InProcess).unwrap(), dir)
}

/// A component of so many instances of a module that has these fields.
pub(crate) fn with_modules(count: u32, fields: &str) -> Vec<u8> {
    let mut instances = String::new();
    for n in 0..count {
        write!(instances, "(core instance $i{n} (instantiate $m))").unwrap();
    }
    let text = format!(
        r#"(component
          (core module $m {fields} (func (export "f")))
          {instances}
          (func $f (canon lift (core func $i0 "f")))
          (instance $commands (export "f" (func $f)))
          (export "example:raw/commands@0.1.0" (instance $commands)))"#
    );
    wat::parse_str(text).unwrap()
}

fn prepared(wasm: &Wasm, component: &[u8]) -> (ComponentId, Arc<Prepared>) {
    let id = wasm.install(component).unwrap().component;
    (id, wasm.prepared(&id).unwrap())
}

fn start(prepared: &Prepared) -> Result<Started, Failure> {
    let limits = Limits::default();
    let data = Box::new(Data::new(None, &limits));
    instance::start(prepared, &limits, data).map_err(|(_, failure)| failure)
}

/// Holds: invariant 10.
#[test]
fn the_pool_has_so_much_for_all_instances_together() {
    for (what, all, each, modules, fields) in [
        // One more counts the depth of calls.
        (
            "core instances",
            POOL_CORE_INSTANCES,
            POOL_CORE_INSTANCES_EACH,
            POOL_CORE_INSTANCES_EACH - 1,
            "",
        ),
        (
            "memories",
            POOL_MEMORIES,
            POOL_MEMORIES_EACH,
            POOL_MEMORIES_EACH,
            "(memory 1)",
        ),
        (
            "tables",
            POOL_TABLES,
            POOL_TABLES_EACH,
            POOL_TABLES_EACH / 2,
            "(table 1 funcref) (table 1 funcref)",
        ),
    ] {
        let (wasm, _dir) = engine();
        let (_, prepared) = prepared(&wasm, &with_modules(modules, fields));
        assert!(
            all.is_multiple_of(each) && all / each < POOL_INSTANCES,
            "{what}"
        );
        let mut running: Vec<_> = (0..all / each).map(|_| start(&prepared)).collect();
        assert!(running.iter().all(Result::is_ok), "{what}");
        let beyond = start(&prepared);
        assert!(
            matches!(&beyond, Err(Failure::Host(HostFault::Exhausted(_)))),
            "{what}"
        );
        running.pop();
        assert!(start(&prepared).is_ok(), "{what}");
    }
}

/// Holds: invariant 10.
#[test]
fn the_bookkeeping_of_an_instance_ends_at_its_bytes() {
    let (wasm, _dir) = engine();
    let install = |globals: usize| {
        let fields = "(global (mut i64) (i64.const 0))".repeat(globals);
        wasm.install(&with_modules(1, &fields))
            .map_err(|error| error.to_string())
    };
    // A global takes 16 bytes; what the engine says of too many tells what the rest takes.
    let mut globals = POOL_INSTANCE_BYTES / 16;
    while let Err(error) = install(globals) {
        assert!(error.contains(&POOL_INSTANCE_BYTES.to_string()), "{error}");
        let numbers = error.split(|c: char| !c.is_ascii_digit());
        let bytes = numbers.filter_map(|n| n.parse::<usize>().ok());
        let needed = bytes.filter(|n| *n > POOL_INSTANCE_BYTES).min().unwrap();
        globals -= (needed - POOL_INSTANCE_BYTES).div_ceil(16);
    }
    assert!(install(globals + 1).is_err());
}

/// A component whose start turns a loop so often, and then takes so many further units of fuel.
fn starting(turns: u32, units: usize) -> Vec<u8> {
    let more = "(drop (i32.const 0))".repeat(units);
    let start = format!(
        "(func $start (local $n i32) (local.set $n (i32.const {turns}))
            (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            {more}
            (loop))
         (start $start)"
    );
    with_modules(1, &start)
}

/// What a start takes.
fn fuel(wasm: &Wasm, turns: u32, units: usize) -> u64 {
    let (_, prepared) = prepared(wasm, &starting(turns, units));
    let (store, _) = start(&prepared).map_err(|_| "it does not start").unwrap();
    START_FUEL - store.get_fuel().unwrap()
}

/// Lets one be wanted, and tells how many are ready after a rest.
fn ready(wasm: &Wasm, prepared: &Prepared) -> usize {
    drop(
        prepared
            .instance_pool
            .take(prepared.loaded, &Limits::default()),
    );
    wasm.rest();
    wasm.started_ahead()
}

/// Holds: invariant 10.
#[test]
fn a_start_ahead_of_a_call_ends_at_its_fuel() {
    let (wasm, _dir) = engine();
    let (one, thousand) = (fuel(&wasm, 1, 0), fuel(&wasm, 1001, 0));
    let each = (thousand - one) / 1000;
    let turns = (SPARE_START_FUEL - one) / each;
    let turns = u32::try_from(turns).unwrap();
    let units = usize::try_from(SPARE_START_FUEL - fuel(&wasm, turns, 0)).unwrap();
    assert_eq!(fuel(&wasm, turns, units), SPARE_START_FUEL);
    // The engine takes fuel that is used up for fuel that is lacking.
    let (_, fits) = prepared(&wasm, &starting(turns, units - 1));
    fits.instance_pool.clear();
    assert_eq!(ready(&wasm, &fits), 1);
    fits.instance_pool.clear();
    let (_, more) = prepared(&wasm, &starting(turns, units));
    assert_eq!(ready(&wasm, &more), 0);
    // It is not tried again, and starts when it is called.
    assert_eq!(ready(&wasm, &more), 0);
    assert!(start(&more).is_ok());
}

/// Holds: invariant 10.
#[test]
fn so_many_instances_are_started_ahead_and_the_oldest_gives_way() {
    let (wasm, _dir) = engine();
    let all: Vec<_> = (0..=SPARES_READY_MAX)
        .map(|n| {
            prepared(
                &wasm,
                &with_modules(1, &format!("(global i32 (i32.const {n}))")),
            )
            .1
        })
        .collect();
    let want = |prepared: &Prepared| {
        let taken = prepared
            .instance_pool
            .take(prepared.loaded, &Limits::default());
        taken.is_some()
    };
    for prepared in &all {
        assert!(!want(prepared));
    }
    wasm.rest();
    assert_eq!(wasm.started_ahead(), SPARES_READY_MAX);
    // The last was one too many to be wanted at once; wanted again it takes the place of the first.
    assert!(!want(&all[SPARES_READY_MAX]));
    wasm.rest();
    assert_eq!(wasm.started_ahead(), SPARES_READY_MAX);
    assert!(want(&all[SPARES_READY_MAX]));
    assert!(!want(&all[0]));
    assert!(want(&all[1]));
}

/// Holds: invariant 10.
#[test]
fn so_many_used_instances_wait_to_be_dropped_and_none_that_is_large() {
    let (wasm, _dir) = engine();
    let with_pages = |pages: u64| prepared(&wasm, &with_modules(1, &format!("(memory {pages})"))).1;
    let pages = SPARE_MEMORY_BYTES_MAX / 65_536;
    let (small, large) = (with_pages(pages), with_pages(pages + 1));
    let leave = |prepared: &Prepared| {
        let (store, _) = start(prepared).map_err(|_| "it does not start").unwrap();
        prepared.instance_pool.leave(store);
        prepared.instance_pool.left()
    };
    for n in 1..=SPARES_LEFT_MAX {
        assert_eq!(leave(&large), n - 1);
        assert_eq!(leave(&small), n);
    }
    assert_eq!(leave(&small), SPARES_LEFT_MAX);
    wasm.rest();
    assert_eq!(small.instance_pool.left(), 0);
}

/// Holds: invariant 10.
#[test]
fn compiled_code_is_read_up_to_its_bytes() {
    let (wasm, dir) = engine();
    let path = dir.path().join("code");
    // A file with holes: it takes no space. The hash of what follows comes first.
    let file = std::fs::File::create(&path).unwrap();
    let zeros = vec![0; usize::try_from(COMPILED_BYTES_MAX).unwrap() - 32];
    std::os::unix::fs::FileExt::write_all_at(&file, blake3::hash(&zeros).as_bytes(), 0).unwrap();
    drop(zeros);
    let read = || code::load(wasm.engine(), ComponentId([1; 32]), &path);
    file.set_len(COMPILED_BYTES_MAX).unwrap();
    assert!(
        read().unwrap().is_some_and(|code| code.is_err()),
        "it is whole, and no code"
    );
    file.set_len(COMPILED_BYTES_MAX + 1).unwrap();
    assert!(read().unwrap().is_none());
}

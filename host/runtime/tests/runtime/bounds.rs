//! The bounds of components, instances and results: all right at the last allowed value, refused one beyond.

use std::fmt::Write as _;
use std::sync::Arc;

use lattice_format::{ChainId, ComponentId, ComponentRef, Genesis, Lane, Limits};
use lattice_kernel::run::engine::HostFault;
use lattice_kernel::{CallError, NewStore, Store};
use lattice_runtime::limits::{
    COMPONENT_BYTES_MAX, FUNCTIONS_MAX, POOL_CORE_INSTANCES_EACH, POOL_INSTANCES,
    POOL_MEMORIES_EACH, POOL_TABLES_EACH, TYPE_DEPTH_MAX,
};
use lattice_runtime::profile::{MEMORY_BYTES_MAX, RESULT_BYTES_MAX, TABLE_ELEMENTS_MAX};
use lattice_runtime::{Compiler, InstallError, Wasm};
use lattice_testing::{advice, key, memory_files};

use crate::node::{Node, WASM, built};

/// Bytes in front of a byte string of this size in CBOR.
const CBOR_HEAD: u32 = 5;

fn assemble(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn refusal(text: &str) -> String {
    WASM.install(&assemble(text)).unwrap_err().to_string()
}

/// Holds: invariant 10.
#[test]
fn a_result_ends_at_its_bytes() {
    let mut node = Node::new(&built("hostile"));
    let most = RESULT_BYTES_MAX - CBOR_HEAD;
    let seen = node.call("emit", &[&most.to_string()]);
    assert!(
        seen.len() >= most as usize,
        "{}",
        &seen[..seen.len().min(99)]
    );
    let more = (most + 1).to_string();
    assert_eq!(node.call("emit", &[&more]), "trapped: limit");
}

/// Holds: invariant 10.
#[test]
fn a_genesis_may_ask_for_what_the_profile_has_and_no_more() {
    let app = built("counter");
    let asked = |limits| match Node::try_new(&app, limits) {
        Ok(mut node) => node.call("add", &["1"]),
        Err(error) => error.to_string(),
    };
    let most = Limits {
        memory_bytes: MEMORY_BYTES_MAX,
        table_elements: TABLE_ELEMENTS_MAX,
        result_bytes: RESULT_BYTES_MAX,
        ..Limits::default()
    };
    assert_eq!(asked(most), "");
    for (limits, what) in [
        (
            Limits {
                memory_bytes: MEMORY_BYTES_MAX + 1,
                ..most
            },
            "memory",
        ),
        (
            Limits {
                table_elements: TABLE_ELEMENTS_MAX + 1,
                ..most
            },
            "table elements",
        ),
        (
            Limits {
                result_bytes: RESULT_BYTES_MAX + 1,
                ..most
            },
            "result bytes",
        ),
    ] {
        let error = asked(limits);
        assert!(error.contains(what) && error.contains("exceeds"), "{error}");
    }
}

/// Holds: invariant 10.
#[test]
fn a_component_ends_at_its_bytes() {
    // Zeros are no component, which is found only in what is not too large.
    let zeros = vec![0; COMPONENT_BYTES_MAX + 1];
    let error = WASM.install(&zeros[1..]).unwrap_err();
    assert!(matches!(error, InstallError::Inspect(_)), "{error}");
    let error = WASM.install(&zeros).unwrap_err();
    assert!(
        matches!(error, InstallError::TooLarge { bytes, max } if bytes == max + 1),
        "{error}"
    );
}

/// A component that exports so many commands.
fn with_functions(count: usize) -> String {
    let mut exports = String::new();
    for n in 0..count {
        write!(exports, r#"(export "f{n}" (func $f))"#).unwrap();
    }
    format!(
        r#"(component
          (core module $m (func (export "f")))
          (core instance $i (instantiate $m))
          (func $f (canon lift (core func $i "f")))
          (instance $commands {exports})
          (export "example:raw/commands@0.1.0" (instance $commands)))"#
    )
}

/// Holds: invariant 10.
#[test]
fn a_component_ends_at_its_functions() {
    let schema = WASM.install(&assemble(&with_functions(FUNCTIONS_MAX)));
    assert_eq!(schema.unwrap().interfaces[0].functions.len(), FUNCTIONS_MAX);
    let error = refusal(&with_functions(FUNCTIONS_MAX + 1));
    assert!(error.contains(&FUNCTIONS_MAX.to_string()), "{error}");
}

/// A component with a command whose parameter is a list of lists of …, this deep.
fn with_depth(depth: usize) -> String {
    let ty = format!("{}u32{}", "(list ".repeat(depth - 1), ")".repeat(depth - 1));
    format!(
        r#"(component
          (core module $m
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
            (func (export "f") (param i32 i32)))
          (core instance $i (instantiate $m))
          (alias core export $i "memory" (core memory $memory))
          (alias core export $i "realloc" (core func $realloc))
          (func $f (param "deep" {ty})
            (canon lift (core func $i "f") (memory $memory) (realloc $realloc)))
          (instance $commands (export "f" (func $f)))
          (export "example:raw/commands@0.1.0" (instance $commands)))"#
    )
}

/// Holds: invariant 10.
#[test]
fn a_type_ends_at_its_depth() {
    let schema = WASM
        .install(&assemble(&with_depth(TYPE_DEPTH_MAX)))
        .unwrap();
    let ty = &schema.interfaces[0].functions[0].params[0].ty;
    assert_eq!(ty.depth(), TYPE_DEPTH_MAX);
    let error = refusal(&with_depth(TYPE_DEPTH_MAX + 1));
    assert!(error.contains(&TYPE_DEPTH_MAX.to_string()), "{error}");
    advice(&error, "nest at most");
}

/// A component of this many core instances of a module.
fn with_instances(count: u32, module: &str) -> String {
    let mut instances = String::new();
    for n in 0..count {
        write!(instances, "(core instance $i{n} (instantiate $m))").unwrap();
    }
    format!(
        r#"(component
          (core module $m {module} (func (export "f")))
          {instances}
          (func $f (canon lift (core func $i0 "f")))
          (instance $commands (export "f" (func $f)))
          (export "example:raw/commands@0.1.0" (instance $commands)))"#
    )
}

/// Holds: invariant 10.
#[test]
fn a_component_ends_at_what_one_instance_may_take_of_the_pool() {
    for (what, most, module) in [
        ("memories", POOL_MEMORIES_EACH, "(memory 1)"),
        (
            "tables",
            POOL_TABLES_EACH / 2,
            "(table 1 funcref) (table 1 funcref)",
        ),
        // One more counts the depth of calls.
        ("core instances", POOL_CORE_INSTANCES_EACH - 1, ""),
    ] {
        let mut node = Node::new(&assemble(&with_instances(most, module)));
        assert_eq!(node.call("f", &[]), "", "{what}");
        // Refused where somebody can do something about it, not when a store that has it is replicated.
        let error = refusal(&with_instances(most + 1, module));
        assert!(
            error.contains("exceeds the configured maximum"),
            "{what}: {error}"
        );
    }
}

fn founded(engine: &Arc<Wasm>, system: ComponentId, app: ComponentId, number: u8) -> Store {
    let component = |id| ComponentRef {
        id,
        name: "a".into(),
    };
    let genesis = Genesis {
        system: component(system),
        app: Some(component(app)),
        system_params: Vec::new(),
        app_params: Vec::new(),
        limits: Limits::default(),
        profile: lattice_runtime::profile::PROFILE,
        drift_ms: 60_000,
        order_rule: 1,
        root_rule: 1,
        recovery_keys: Vec::new(),
        encryption: 0,
        parent: None,
        finality_rule: 0,
    };
    let spec = NewStore {
        genesis,
        admits: Vec::new(),
        chain: ChainId(1),
    };
    let engine = Arc::clone(engine);
    Store::create(memory_files(), engine, key(number), spec, 1_000).unwrap()
}

/// Holds: invariant 10.
#[test]
fn instances_end_at_their_number_and_a_closed_intention_makes_room() {
    // An engine of its own: other tests need theirs meanwhile.
    let dir = tempfile::tempdir().unwrap();
    let wasm = Arc::new(Wasm::open(dir.path(), Compiler::InProcess).unwrap());
    let system = wasm.install(&built("system")).unwrap().component;
    let app = wasm.install(&built("counter")).unwrap();
    let stores = 0..=u8::try_from(POOL_INSTANCES).unwrap();
    let mut stores: Vec<Store> = stores
        .map(|number| founded(&wasm, system, app.component, number))
        .collect();
    let add = |store: &mut Store| {
        let call = lattice_format::Call {
            interface: "lattice:counter/commands".into(),
            function: "add".into(),
            args: vec![0x81, 0x01],
        };
        store.call(Lane::App, vec![call], 2_000, ChainId(1))
    };
    // Each open intention keeps its instance until it is closed.
    let mut open = 0;
    let fault = loop {
        match add(&mut stores[open]) {
            Ok(told) => assert!(told.outcome.is_ok(), "{:?}", told.outcome),
            Err(CallError::Host(fault)) => break fault,
            Err(error) => panic!("{error}"),
        }
        open += 1;
    };
    // Some may be set aside for those that come next; never are there more.
    let most = POOL_INSTANCES as usize;
    assert!((most * 3 / 4..=most).contains(&open), "{open}");
    assert!(matches!(fault, HostFault::Exhausted(_)), "{fault}");
    stores[0].commit(3_000).unwrap();
    let told = add(&mut stores[open]).unwrap();
    assert!(told.outcome.is_ok(), "{:?}", told.outcome);
}

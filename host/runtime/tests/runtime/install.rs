//! What is refused at install, with a message that says why; and compiled code on disk.

use std::path::Path;
use std::process::Command;

use lattice_kernel::run::engine::{Engine, HostFault};
use lattice_runtime::limits::{COMPILE_CPU_MAX, COMPILE_MEMORY_BYTES_MAX, COMPILED_BYTES_MAX};
use lattice_runtime::{Compiler, InstallError, Wasm};
use lattice_testing::advice;

use crate::node::{WASM, built, raw};

fn refusal(bytes: &[u8]) -> String {
    WASM.install(bytes).unwrap_err().to_string()
}

fn check(bytes: &[u8], words: &[&str]) {
    let message = refusal(bytes);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// A component with a command that gives a number, and this at its end.
fn number(end: &str) -> Vec<u8> {
    // Without names, which would be written behind the end.
    let text = format!(
        r#"(component
          (core module (func (export "open") (result i32) (i32.const 1)))
          (core instance (instantiate 0))
          (func (result u32) (canon lift (core func 0 "open")))
          (instance (export "open" (func 0)))
          (export "example:raw/commands@0.1.0" (instance 0))
          {end})"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn each_component_that_cannot_serve_is_refused_with_the_reason() {
    check(&raw("no-exports"), &["no commands and no queries"]);
    check(&raw("no-functions"), &["no commands and no queries"]);
    check(
        &raw("unknown-import"),
        &["example:elsewhere/service", "may import lattice:store"],
    );
    check(
        &raw("unknown-function"),
        &[
            "lattice:store/state@0.1.0",
            "unknown; the host has get, scan",
        ],
    );
    check(
        &raw("resource-export"),
        &["example:raw/commands@0.1.0", "resource"],
    );
    advice(
        &refusal(&raw("resource-export")),
        "use a type whose values can be written down",
    );
    WASM.install(&number("")).unwrap();
    check(&raw("async-export"), &["not a valid component"]);
    let whole = built("counter");
    check(&whole[..whole.len() / 2], &["not a valid component"]);
    check(&whole[..3], &["not a valid component", "truncated"]);
    // The validator takes a nested component or module as ended where the file ends.
    let nested = "(component (component (core module (table 1 funcref) (memory 1))))";
    let nested = wat::parse_str(nested).unwrap();
    for end in 9..nested.len() {
        check(&nested[..end], &["not a valid component"]);
    }
    const MEMORY_SECTION: usize = 5;
    check(&nested[..nested.len() - MEMORY_SECTION], &["whole file"]);
    check(&nested, &["no commands and no queries"]);
    let nested = number("(component (core module (table 1 funcref) (memory 1)))");
    advice(
        &refusal(&nested[..nested.len() - MEMORY_SECTION]),
        "get the whole file",
    );
    WASM.install(&nested).unwrap();
    check(&raw("memory-start"), &["exceeds the limit"]);
    check(b"", &["not a valid component"]);
    check(b"\0asm\x01\0\0\0", &["core WebAssembly module"]);
    check(
        &vec![0; 64 << 20],
        &["67108864 bytes", "33554432 are allowed"],
    );
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    // Damage may fall on bytes that mean nothing; then it is another component.
    let _ = WASM.install(&damaged);
}

#[test]
fn a_schema_tells_functions_types_and_imports() {
    let schema = WASM.install(&built("kv")).unwrap();
    let put = schema.function("lattice:kv/commands", "put").unwrap();
    assert_eq!(put.to_string(), "put: func(key: string, value: list<u8>)");
    let cas = schema
        .function("lattice:kv/commands", "compare-and-put")
        .unwrap();
    assert_eq!(
        cas.err().unwrap().definition().to_string(),
        "record conflict { current: option<list<u8>> }"
    );
    assert_eq!(
        schema
            .interface("lattice:kv/queries")
            .unwrap()
            .version
            .as_deref(),
        Some("0.1.0")
    );
    assert!(
        schema
            .imports
            .iter()
            .all(|name| name.starts_with("lattice:store/")),
        "{:?}",
        schema.imports
    );
    assert!(!schema.governs);
    for name in [
        "put",
        "commands.put",
        "kv/commands.put",
        "lattice:kv/commands.put",
        "lattice:kv/commands@0.1.0.put",
    ] {
        let found = schema.find(lattice_kernel::run::engine::CallKind::Command, name);
        assert_eq!(found.len(), 1, "{name}");
    }
    assert!(
        schema
            .find(lattice_kernel::run::engine::CallKind::Query, "put")
            .is_empty()
    );
    assert!(
        schema
            .find(
                lattice_kernel::run::engine::CallKind::Command,
                "ommands.put"
            )
            .is_empty()
    );
}

fn open(dir: &Path) -> Wasm {
    let compiler = env!("CARGO_BIN_EXE_lattice-compile");
    Wasm::open(dir, Compiler::Child(compiler.into())).unwrap()
}

#[test]
fn a_compiling_process_limits_itself_before_it_reads_anything() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("component");
    // Opening it waits for a writer, who never comes.
    let made = Command::new("mkfifo").arg(&source).status().unwrap();
    assert!(made.success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_lattice-compile"))
        .args([
            lattice_runtime::COMPILE_ARGUMENT.as_ref(),
            source.as_os_str(),
        ])
        .arg(dir.path().join("code"))
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    let is = |limits: &str, what: &str, value: u64| {
        let line = limits.lines().find(|line| line.starts_with(what));
        let soft = line.and_then(|line| line[what.len()..].split_whitespace().next());
        soft == Some(&value.to_string())
    };
    let mut seen = String::new();
    for _ in 0..1000 {
        seen = std::fs::read_to_string(&limits).unwrap();
        // The last that it sets.
        if is(&seen, "Max core file size", 0) && is(&seen, "Max file size", COMPILED_BYTES_MAX) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        is(&seen, "Max address space", COMPILE_MEMORY_BYTES_MAX),
        "{seen}"
    );
    assert!(
        is(&seen, "Max cpu time", COMPILE_CPU_MAX.as_secs()),
        "{seen}"
    );
    assert!(is(&seen, "Max file size", COMPILED_BYTES_MAX), "{seen}");
}

#[test]
fn damaged_code_is_compiled_again_and_missing_code_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = built("counter");
    let id = open(dir.path()).install(&bytes).unwrap().component;
    let code = || {
        let files = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files
            .filter(|p| p.extension().is_some_and(|e| e == "code"))
            .collect();
        assert_eq!(files.len(), 1);
        files.remove(0)
    };
    let compiled = std::fs::read(code()).unwrap();
    for damage in [compiled.len() - 1, 0, 40] {
        let mut damaged = compiled.clone();
        damaged[damage] ^= 1;
        std::fs::write(code(), &damaged).unwrap();
        open(dir.path()).ready(&id).unwrap();
        assert_ne!(std::fs::read(code()).unwrap(), damaged);
    }
    std::fs::write(code(), &compiled[..compiled.len() / 2]).unwrap();
    let wasm = open(dir.path());
    wasm.ready(&id).unwrap();
    assert_eq!(wasm.catalogue().list().unwrap().len(), 1);
    wasm.remove(&id).unwrap();
    assert_eq!(wasm.ready(&id), Err(HostFault::MissingCode(id)));
    // A component's own bytes are not trusted either.
    let other = open(dir.path());
    other.install(&bytes).unwrap();
    std::fs::remove_file(code()).unwrap();
    std::fs::write(dir.path().join(format!("{id}.wasm")), b"something else").unwrap();
    assert_eq!(open(dir.path()).ready(&id), Err(HostFault::MissingCode(id)));
}

#[test]
fn a_compiler_that_dies_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = Wasm::open(dir.path(), Compiler::Child("/bin/false".into())).unwrap();
    let error = wasm.install(&built("counter")).unwrap_err();
    assert!(
        matches!(error, InstallError::Host(HostFault::Exhausted(_))),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

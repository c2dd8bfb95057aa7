//! Builds the plugins of the tree: each is a crate, compiled to a core module and turned into a component.
//!
//! One `cargo build` compiles all of them. The components lie in `target/plugins/<name>.wasm`, bundled ones and those
//! for tests side by side. A build is reproducible: the same sources and compiler give the same bytes, wherever the
//! tree lies. It must be, because stores name a component by its hash.

mod compiler;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wit_component::ComponentEncoder;
use wit_parser::Resolve;

use self::compiler::Compiler;
use crate::setup::PLUGIN_TARGET;
use crate::shell;

const PROFILE: &str = "plugin";

/// The directories of crates that become components: those bundled into the binary, and those for tests.
const BUNDLED_DIR: &str = "plugins";
const GUESTS_DIR: &str = "tests/guests";

/// The directory of the contract, to which every plugin's WIT package refers.
const CONTRACT_DIR: &str = "wit";

/// The custom section that holds a component's WIT package: the binary of a component has types, but no doc
/// comments. The runtime reads it.
const WIT_SECTION: &str = "lattice:wit";

/// Bytes that a plugin's allocator has before it grows the memory, enough for an ordinary call. Growing the memory
/// costs the host system calls, when it grows and when it is dropped.
const INITIAL_HEAP_BYTES: u32 = 128 * 1024;

/// The interfaces that a component of this tree may import.
const IMPORT_PREFIX: &str = "lattice:store/";

/// Which components to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Plugins that are bundled into the binary.
    Bundled,
    /// Bundled plugins, and components that tests and the demo use.
    All,
}

/// A component that was built.
#[derive(Debug, Clone)]
pub struct BuiltComponent {
    /// Name of the directory of its crate.
    pub name: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// BLAKE3 hash of the file, in lowercase hexadecimal digits.
    pub hash: String,
}

impl fmt::Display for BuiltComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<10} {:>9} bytes  {}",
            self.name, self.size_bytes, self.hash
        )
    }
}

/// Compiles the plugins of the tree at `root`, and writes their components to `target/plugins`. Files that
/// would not change are not written, so that nothing is built again because of them.
///
/// # Errors
///
/// When a crate does not compile, or its component is not valid or imports something other than
/// `lattice:store`.
pub fn build(root: &Path, which: Which) -> Result<Vec<BuiltComponent>> {
    let bundled = sources(&root.join(BUNDLED_DIR))?;
    let guests = sources(&root.join(GUESTS_DIR))?;
    // All are built at once, whatever is wanted. The features of shared dependencies, and so the bytes of each
    // component, depend on which packages are built together.
    let all: Vec<Source> = bundled.iter().chain(&guests).cloned().collect();
    compile(root, &all, &Compiler::find()?)?;
    let modules = shell::target_dir().join(PLUGIN_TARGET).join(PROFILE);
    let components = directory();
    std::fs::create_dir_all(&components)
        .with_context(|| format!("cannot create {}", components.display()))?;
    let wanted = if which == Which::All { all } else { bundled };
    wanted
        .iter()
        .map(|source| finish(root, source, &modules, &components))
        .collect()
}

/// The directory that the components are written to.
pub fn directory() -> PathBuf {
    shell::target_dir().join("plugins")
}

/// A crate that becomes a component.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    package: String,
    dir: PathBuf,
}

/// The crates directly below `dir`, by name.
fn sources(dir: &Path) -> Result<Vec<Source>> {
    let unreadable = || format!("cannot read {}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let manifest = entry.path().join("Cargo.toml");
        if manifest.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Source {
                name,
                package: package_name(&manifest)?,
                dir: entry.path(),
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The first `name` of a manifest, which is the package's.
fn package_name(manifest: &Path) -> Result<String> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    value
        .map(str::to_owned)
        .with_context(|| format!("{} names no package", manifest.display()))
}

fn compile(root: &Path, sources: &[Source], compiler: &Compiler) -> Result<()> {
    let mut command = shell::cargo();
    command.current_dir(root);
    command.args([
        "build",
        "--profile",
        PROFILE,
        "--target",
        PLUGIN_TARGET,
        "--lib",
    ]);
    for source in sources {
        command.args(["--package", &source.package]);
    }
    compiler.apply(&mut command);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(root, compiler)?);
    shell::run(&mut command).context("the plugins do not compile")
}

/// The flags of the compiler for plugins. They replace those of the environment, which would change the hashes.
fn flags(root: &Path, compiler: &Compiler) -> Result<String> {
    let mut flags = compiler.flags();
    flags.push(format!("-Clink-arg=--initial-heap={INITIAL_HEAP_BYTES}"));
    flags.push(format!("--remap-path-prefix={}=/lattice", root.display()));
    flags.push(format!(
        "--remap-path-prefix={}=/cargo",
        cargo_home()?.display()
    ));
    Ok(flags.join("\u{1f}"))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = std::env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

fn finish(
    root: &Path,
    source: &Source,
    modules: &Path,
    components: &Path,
) -> Result<BuiltComponent> {
    let module = modules.join(format!("{}.wasm", source.package.replace('-', "_")));
    let core =
        std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let wit = wit_package(root, source)
        .with_context(|| format!("cannot read the WIT of {}", source.package))?;
    let component = encode(&core, &wit)
        .with_context(|| format!("cannot turn {} into a component", module.display()))?;
    check_imports(&component).with_context(|| format!("the component of {}", source.package))?;
    check_paths(&component, root)
        .with_context(|| format!("the component of {}", source.package))?;
    let path = components.join(format!("{}.wasm", source.name));
    if std::fs::read(&path).ok().as_deref() != Some(&component[..]) {
        // The file is written under another name and renamed, so that a concurrent reader gets all of the old one.
        let aside = path.with_extension("wasm.new");
        std::fs::write(&aside, &component)
            .and_then(|()| std::fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(BuiltComponent {
        name: source.name.clone(),
        path,
        size_bytes: component.len() as u64,
        hash: blake3::hash(&component).to_hex().to_string(),
    })
}

/// Turns a core module into a component, with its documentation.
fn encode(core: &[u8], wit: &[u8]) -> Result<Vec<u8>> {
    let mut component = ComponentEncoder::default()
        .validate(true)
        .module(core)?
        .encode()?;
    append_section(&mut component, WIT_SECTION, wit)?;
    Validator::new_with_features(WasmFeatures::default()).validate_all(&component)?;
    Ok(component)
}

/// The WIT package of a plugin in its binary encoding, which has the doc comments.
fn wit_package(root: &Path, source: &Source) -> Result<Vec<u8>> {
    let contract = root.join(CONTRACT_DIR);
    let own = source.dir.join("wit");
    // A plugin without a WIT package of its own implements the contract's interfaces of its name.
    let package = if own.is_dir() {
        own
    } else {
        contract.join(&source.name)
    };
    let mut resolve = Resolve::default();
    resolve.push_dir(&contract)?;
    let (package, _) = resolve.push_dir(&package)?;
    wit_component::encode(&resolve, package)
}

/// Appends a custom section: 0, its size, the size of its name, its name, its contents.
fn append_section(component: &mut Vec<u8>, name: &str, contents: &[u8]) -> Result<()> {
    let mut body = Vec::new();
    push_u32(&mut body, name.len().try_into()?);
    body.extend(name.as_bytes());
    body.extend(contents);
    component.push(0);
    push_u32(component, body.len().try_into()?);
    component.extend(body);
    Ok(())
}

/// LEB128: seven bits a byte, the lowest first, the top bit on all but the last.
fn push_u32(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Refuses a component that contains a path of this machine: its hash would depend on the path.
fn check_paths(component: &[u8], root: &Path) -> Result<()> {
    for dir in [root.to_path_buf(), cargo_home()?] {
        let name = dir.as_os_str().as_encoded_bytes();
        let found = component.windows(name.len()).any(|window| window == name);
        ensure!(
            !found,
            "names the directory {} of this machine, so no other one would build the same",
            dir.display()
        );
    }
    Ok(())
}

fn check_imports(component: &[u8]) -> Result<()> {
    // A nested component or module has imports of its own, which the outer component fills.
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    let name = import?.name.name;
                    ensure!(
                        name.starts_with(IMPORT_PREFIX),
                        "imports `{name}`; only `{IMPORT_PREFIX}…` is allowed"
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_with_a_manifest_is_a_source() {
        let names = |dir: &str| -> Vec<String> {
            let found = sources(&shell::root().join(dir)).expect("the directory is there");
            found.into_iter().map(|source| source.name).collect()
        };
        assert!(
            ["counter", "kv", "log", "system"]
                .iter()
                .all(|name| names(BUNDLED_DIR).contains(&(*name).to_owned()))
        );
        let guests = names(GUESTS_DIR);
        assert!(
            guests.contains(&"bank".to_owned()) && !guests.contains(&"raw".to_owned()),
            "{guests:?}"
        );
    }

    #[test]
    fn package_name_is_read_from_the_manifest() {
        let manifest = shell::root().join("plugins/kv/Cargo.toml");
        assert_eq!(
            package_name(&manifest).expect("it has one"),
            "lattice-plugin-kv"
        );
        assert!(package_name(Path::new("/no/such/Cargo.toml")).is_err());
    }

    #[test]
    fn import_of_something_else_than_the_contract_is_refused_with_its_name() {
        // (component (import "N" (instance))), as bytes: the header, an empty instance type, its import.
        let component = |name: &str| {
            let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
            bytes.extend([7, 3, 1, 0x42, 0]);
            let len = u8::try_from(name.len()).expect("a short name");
            bytes.extend([10, len + 5, 1, 0, len]);
            bytes.extend(name.as_bytes());
            bytes.extend([5, 0]);
            Validator::new()
                .validate_all(&bytes)
                .expect("a valid component");
            bytes
        };
        assert!(check_imports(&component("lattice:store/state@0.1.0")).is_ok());
        let error = check_imports(&component("wasi:cli/stdout@0.2.6"))
            .expect_err("WASI is not the contract");
        assert!(error.to_string().contains("wasi:cli/stdout"), "{error}");
    }

    #[test]
    fn documentation_travels_in_a_section_of_the_component() {
        let found = sources(&shell::root().join(BUNDLED_DIR)).expect("the directory is there");
        for source in found {
            let wit = wit_package(shell::root(), &source).expect("its WIT is right");
            let mut component = b"\0asm\x0d\0\x01\0".to_vec();
            append_section(&mut component, WIT_SECTION, &wit).expect("a short section");
            let mut sections =
                Parser::new(0)
                    .parse_all(&component)
                    .filter_map(|payload| match payload {
                        Ok(Payload::CustomSection(section)) => Some(section),
                        _ => None,
                    });
            let section = sections.next().expect("it was appended");
            assert_eq!((section.name(), section.data()), (WIT_SECTION, &wit[..]));
            let decoded = wit_parser::decoding::decode(section.data()).expect("an encoded package");
            let resolve = decoded.resolve();
            let documented = |(_, interface): (_, &wit_parser::Interface)| {
                interface.package == Some(decoded.package())
                    && interface.docs.contents.is_some()
                    && interface
                        .functions
                        .values()
                        .all(|function| function.docs.contents.is_some())
            };
            assert!(resolve.interfaces.iter().any(documented), "{}", source.name);
        }
    }

    #[test]
    fn sizes_of_sections_are_leb128() {
        let encoded = |value| {
            let mut bytes = Vec::new();
            push_u32(&mut bytes, value);
            bytes
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [127]);
        assert_eq!(encoded(128), [0x80, 1]);
        assert_eq!(encoded(624_485), [0xe5, 0x8e, 0x26]);
    }

    #[test]
    fn component_that_names_its_directory_is_refused() {
        let root = Path::new("/some/where");
        assert!(check_paths(b"at /some/where/src", root).is_err());
        assert!(check_paths(b"at /lattice/src", root).is_ok());
        assert!(check_paths(b"", root).is_ok());
    }
}

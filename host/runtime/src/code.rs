//! Compiled code: made in a child process, kept on disk, loaded only if undamaged.
//!
//! Compiling is where hostile bytes meet the largest piece of software in the tree, so it happens in
//! a process of its own, with limits on memory and time, away from whatever is being served. What
//! it leaves is machine code; loading that is trusting it. Hence a file is loaded only when its
//! hash, written with it, still fits, and its name says which component, engine and profile it is
//! for. Anything else is compiled again.

use std::io::{Read as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lattice_format::ComponentId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

use crate::limits::{
    COMPILE_CPU_MAX, COMPILE_MEMORY_BYTES_MAX, COMPILE_WALL_MAX, COMPILED_BYTES_MAX,
};
use crate::{call_depth, profile};

/// The first argument of a compiling child process; see [`compile_child_main`].
pub const COMPILE_ARGUMENT: &str = "--compile-component";

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In a child process: this program with [`COMPILE_ARGUMENT`], which must hand over to
    /// [`compile_child_main`].
    Child(PathBuf),
    /// In this process, without limits: for components of one's own, in tests and simulations.
    InProcess,
    /// The same for the engine's portable interpreter, Pulley: slower, on any processor, and with the same
    /// outcomes.
    Interpreted,
}

impl Compiler {
    /// Settings of an engine that runs what this compiles.
    pub(crate) fn config(&self) -> Result<Config, wasmtime::Error> {
        let mut config = config();
        if matches!(self, Self::Interpreted) {
            config.target("pulley64")?;
        }
        Ok(config)
    }
}

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler refuses it.
    #[error("it does not compile: {0}")]
    Refused(String),
    /// It took too long.
    #[error("compiling took more than {} s", .0.as_secs())]
    Time(Duration),
    /// It used too much of memory or the processor, or broke the compiler.
    #[error("compiling it ended with {0}")]
    Died(String),
    /// The compiling process could not read the component or write the code, as it says itself.
    #[error("{0}")]
    Files(String),
    /// The files around it failed.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Settings of the serving and the compiling engine alike; a difference would make compiled code
/// unusable.
fn config() -> Config {
    let mut config = Config::new();
    profile::apply(&mut config);
    config
        // The largest memory that a genesis may ask for, instead of 4 GiB: an access beyond it is
        // checked by the code itself.
        .memory_reservation(profile::MEMORY_BYTES_MAX)
        .memory_guard_size(64 * 1024)
        .memory_reservation_for_growth(0)
        // The place of a trap tells whether the bound on the depth of calls caused it.
        .wasm_backtrace_max_frames(NonZeroUsize::new(1))
        .native_unwind_info(false)
        .generate_address_map(true)
        .memory_init_cow(true)
        // Guests that run for long pause at epochs; see `pace`.
        .epoch_interruption(true);
    config
}

/// What compiled code depends on, beside the component: the engine's version and settings, the
/// processor, the profile.
pub(crate) fn engine_key(engine: &Engine) -> String {
    struct Hash(blake3::Hasher);
    impl std::hash::Hasher for Hash {
        fn finish(&self) -> u64 {
            let bytes = self.0.finalize();
            u64::from_le_bytes(
                bytes.as_bytes()[..8]
                    .try_into()
                    .expect("a hash has 32 bytes"),
            )
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hash = Hash(blake3::Hasher::new());
    hash.0.update(&profile::PROFILE.to_le_bytes());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hash);
    hash.0.finalize().to_hex()[..16].to_owned()
}

/// Compiles the component in `source` to `target`, which appears whole or not at all.
///
/// # Errors
/// When the component does not compile within the limits, or a file fails.
pub(crate) fn compile(
    compiler: &Compiler,
    source: &Path,
    target: &Path,
) -> Result<(), CompileError> {
    let aside = aside(target);
    let compiled = match compiler {
        Compiler::Child(program) => in_child(program, source, &aside),
        Compiler::InProcess | Compiler::Interpreted => to_file(compiler, source, &aside),
    };
    let renamed = compiled.and_then(|()| {
        std::fs::rename(&aside, target).map_err(|error| CompileError::Io {
            what: "renaming",
            path: aside.clone(),
            error,
        })
    });
    if renamed.is_err() {
        // Removes what the attempt left; it may have left nothing.
        let _ = std::fs::remove_file(&aside);
    }
    renamed
}

/// A file to write aside and rename: another one each time, as two may install a component at once.
pub(crate) fn aside(target: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    target.with_extension(format!("{}-{number}.new", std::process::id()))
}

fn in_child(program: &Path, source: &Path, aside: &Path) -> Result<(), CompileError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |error| CompileError::Io { what, path, error }
    };
    let mut child = Command::new(program)
        .arg(COMPILE_ARGUMENT)
        .arg(source)
        .arg(aside)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("starting the compiler", program))?;
    // Read while it runs, to the end, or a full pipe would hold it up; and not through a file, which a full
    // disk would not take.
    let mut complaints = child.stderr.take().expect("it is piped");
    let complaints = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = complaints.by_ref().take(SAID_MAX).read_to_end(&mut said);
        let _ = std::io::copy(&mut complaints, &mut std::io::sink());
        said
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(io("waiting for", program))? {
            Some(status) => break Ok(status),
            None if began.elapsed() > COMPILE_WALL_MAX => {
                // An error means that it has ended by itself meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                break Err(CompileError::Time(COMPILE_WALL_MAX));
            }
            // Short at first: small components take milliseconds.
            None => std::thread::sleep(
                (began.elapsed() / 8).clamp(Duration::from_millis(1), Duration::from_millis(50)),
            ),
        }
    };
    let said = complaints.join().unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match status? {
        status if status.success() => Ok(()),
        status if status.code() == Some(REFUSED.into()) => Err(CompileError::Refused(said)),
        status if status.code() == Some(FILES_FAILED.into()) => Err(CompileError::Files(said)),
        status => {
            tracing::warn!(%status, %said, "a compiler died");
            Err(CompileError::Died(format!("{status}; {}", limits_text())))
        }
    }
}

/// What the child may use.
const LIMITS: [(Resource, u64); 4] = [
    (Resource::As, COMPILE_MEMORY_BYTES_MAX),
    (Resource::Cpu, COMPILE_CPU_MAX.as_secs()),
    (Resource::Fsize, COMPILED_BYTES_MAX),
    (Resource::Core, 0),
];

/// A limit that is no wider than the one that was inherited: a process may not raise what it was given, and should
/// not where it may.
fn narrowed(inherited: Rlimit, limit: u64) -> Rlimit {
    let least = |inherited: Option<u64>| Some(inherited.map_or(limit, |given| given.min(limit)));
    Rlimit {
        current: least(inherited.current),
        maximum: least(inherited.maximum),
    }
}

/// The limits of a child, which inherits those of this process.
fn limits_text() -> String {
    let of = |resource, limit| {
        narrowed(getrlimit(resource), limit)
            .current
            .unwrap_or(limit)
    };
    format!(
        "the limits are {} MiB of memory, {} s of processor time and files of {} MiB",
        of(Resource::As, COMPILE_MEMORY_BYTES_MAX) >> 20,
        of(Resource::Cpu, COMPILE_CPU_MAX.as_secs()),
        of(Resource::Fsize, COMPILED_BYTES_MAX) >> 20,
    )
}

/// How the child ends when the component does not compile.
const REFUSED: u8 = 3;
/// How it ends when it cannot read the component or write the code.
const FILES_FAILED: u8 = 4;
/// The most bytes of its complaints that are kept.
const SAID_MAX: u64 = 4096;

/// The `main` of a compiling child process: to be called first, when the first argument is
/// [`COMPILE_ARGUMENT`]. `arguments` are those after it: the component's file, and where to write.
///
/// Sets limits on its own memory and time before it reads anything.
pub fn compile_child_main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().map(PathBuf::from);
    let (Some(source), Some(aside), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        complain(format_args!("usage: {COMPILE_ARGUMENT} COMPONENT OUTPUT"));
        return ExitCode::from(2);
    };
    for (resource, limit) in LIMITS {
        if let Err(error) = setrlimit(resource, narrowed(getrlimit(resource), limit)) {
            complain(format_args!("cannot limit itself: {error}"));
            return ExitCode::FAILURE;
        }
    }
    match to_file(&Compiler::InProcess, &source, &aside) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Refused(reason)) => {
            complain(format_args!("{reason}"));
            ExitCode::from(REFUSED)
        }
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::from(FILES_FAILED)
        }
    }
}

/// Says something on standard error, if it can be written: how the process ends says the rest.
fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

fn to_file(compiler: &Compiler, source: &Path, aside: &Path) -> Result<(), CompileError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |error| CompileError::Io { what, path, error }
    };
    let refused = |error: wasmtime::Error| CompileError::Refused(format!("{error:#}"));
    let component = std::fs::read(source).map_err(io("reading", source))?;
    let component =
        call_depth::bound(&component).map_err(|error| CompileError::Refused(error.to_string()))?;
    let config = compiler.config().map_err(refused)?;
    let engine = Engine::new(&config).map_err(refused)?;
    let code = engine.precompile_component(&component).map_err(refused)?;
    let mut file = Vec::with_capacity(HASH_BYTES + code.len());
    file.extend(blake3::hash(&code).as_bytes());
    file.extend(code);
    std::fs::write(aside, file).map_err(io("writing", aside))
}

/// A file of compiled code begins with the BLAKE3 hash of what follows.
const HASH_BYTES: usize = 32;

/// Loads compiled code; `None` when the file is missing or damaged.
///
/// # Errors
/// When the system refuses to read the file, which may be whole. Inside, when the code is whole and the engine refuses
/// it all the same.
pub(crate) fn load(
    engine: &Engine,
    id: ComponentId,
    path: &Path,
) -> Result<Option<wasmtime::Result<Component>>, CompileError> {
    let unreadable = |error| CompileError::Io {
        what: "reading",
        path: path.to_owned(),
        error,
    };
    let len = match std::fs::metadata(path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if len > COMPILED_BYTES_MAX {
        return Ok(None);
    }
    let file = std::fs::read(path).map_err(unreadable)?;
    let intact = file
        .split_first_chunk::<HASH_BYTES>()
        .filter(|(hash, code)| blake3::hash(code) == blake3::Hash::from_bytes(**hash));
    Ok(match intact {
        Some((_, code)) => Some(crate::trusted::deserialize(engine, code)),
        None => {
            let path = path.display();
            tracing::warn!(component = %id, %path, "compiled code is damaged; compiling again");
            None
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_compiler_are_narrowed_and_never_raised() {
        let limit = |current, maximum| Rlimit { current, maximum };
        for (inherited, expected) in [
            (limit(None, None), limit(Some(100), Some(100))),
            (limit(Some(500), None), limit(Some(100), Some(100))),
            (limit(Some(40), None), limit(Some(40), Some(100))),
            (limit(Some(40), Some(60)), limit(Some(40), Some(60))),
            (limit(Some(60), Some(60)), limit(Some(60), Some(60))),
        ] {
            assert_eq!(narrowed(inherited, 100), expected, "{inherited:?}");
        }
        // Whatever this process was given, a child may set: no privilege is needed to narrow.
        for (resource, most) in LIMITS {
            let given = getrlimit(resource);
            let narrow = narrowed(given, most);
            assert!(narrow.maximum.unwrap() <= given.maximum.unwrap_or(u64::MAX));
        }
        assert!(limits_text().contains("MiB of memory"));
    }
}

//! The compiler of plugins: the workspace's toolchain, or Debian's when the former lacks the target.
//!
//! A toolchain gets a target's standard library from rustup, which needs its download server. Where that server is out
//! of reach, a Debian mirror often can be reached: the package `rustc-web` is a current compiler, and `rust-web-src`
//! the source of its standard library, which is then compiled along (`-Zbuild-std`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, PLUGIN_TARGET};
use crate::shell;

/// Debian's compiler, the sources of its standard library, and the packages that they come in.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// A compiler that can make plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Compiler {
    /// The workspace's toolchain, which has the target.
    Own,
    /// Debian's compiler.
    Debian {
        /// A `rust-lld` or `wasm-ld` for WebAssembly.
        linker: PathBuf,
    },
}

impl Compiler {
    /// Finds a compiler, and installs what it lacks.
    ///
    /// # Errors
    ///
    /// When neither toolchain has the target and it cannot be installed from here; the message tells what to run.
    pub(super) fn find() -> Result<Self> {
        let Err(reason) = setup::target(PLUGIN_TARGET) else {
            return Ok(Self::Own);
        };
        eprintln!("    {reason:#}");
        eprintln!(
            "    falling back on Debian's compiler, {}",
            DEBIAN_PACKAGES.join(" and ")
        );
        Self::debian().with_context(|| format!("no compiler has the target {PLUGIN_TARGET}"))
    }

    fn debian() -> Result<Self> {
        let library = Path::new(DEBIAN_SOURCE).join("library/std/Cargo.toml");
        if !Path::new(DEBIAN_RUSTC).is_file() || !library.is_file() {
            install()?;
        }
        ensure!(
            library.is_file(),
            "{} is missing, which the package rust-web-src brings",
            library.display()
        );
        Ok(Self::Debian { linker: linker()? })
    }

    /// Makes a `cargo build` use this compiler.
    pub(super) fn apply(&self, cargo: &mut Command) {
        match self {
            // A compiler set in the environment would make other bytes.
            Self::Own => cargo.env_remove("RUSTC"),
            // Only a nightly compiler, or one that is told to act as one, builds the standard library along.
            Self::Debian { .. } => cargo
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .arg("-Zbuild-std=std,panic_abort"),
        };
        cargo
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
    }

    /// Flags for this compiler, beside those that every build has.
    pub(super) fn flags(&self) -> Vec<String> {
        match self {
            Self::Own => Vec::new(),
            Self::Debian { linker } => vec![
                format!("-Clinker={}", linker.display()),
                format!("--remap-path-prefix={DEBIAN_SOURCE}=/rust"),
            ],
        }
    }
}

fn install() -> Result<()> {
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        DEBIAN_PACKAGES.join(" ")
    );
    if !shell::is_installed("apt-get") {
        bail!("there is no apt-get; on Debian the way is: {by_hand}");
    }
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .arg("-qq");
        command
    };
    shell::run(apt_get().arg("update"))?;
    shell::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(DEBIAN_PACKAGES),
    )
    .with_context(|| format!("cannot install Debian packages; try as root: {by_hand}"))
}

/// A linker for WebAssembly: the one that every toolchain has for its host's target, or one on the path.
fn linker() -> Result<PathBuf> {
    let sysroot = shell::read(
        Command::new("rustc")
            .current_dir(shell::root())
            .args(["--print", "sysroot"]),
    )?;
    let version = shell::read(Command::new("rustc").current_dir(shell::root()).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let own = host.map(|host| {
        Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(host)
            .join("bin/rust-lld")
    });
    if let Some(own) = own.filter(|own| own.is_file()) {
        return Ok(own);
    }
    let on_path = ["rust-lld", "wasm-ld"]
        .into_iter()
        .find(|name| shell::is_installed(name));
    on_path
        .map(PathBuf::from)
        .context("there is no linker for WebAssembly; try as root: apt-get install lld")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_compiler_builds_the_standard_library_along() {
        let compiler = Compiler::Debian {
            linker: "/lld".into(),
        };
        let mut cargo = Command::new("cargo");
        compiler.apply(&mut cargo);
        let arguments: Vec<_> = cargo.get_args().collect();
        assert_eq!(arguments, ["-Zbuild-std=std,panic_abort"]);
        let set = |name: &str| {
            cargo
                .get_envs()
                .any(|(key, value)| key == name && value.is_some())
        };
        assert!(set("RUSTC") && set("RUSTC_BOOTSTRAP"));
        assert_eq!(compiler.flags()[0], "-Clinker=/lld");
    }

    #[test]
    fn own_compiler_is_not_replaced_by_the_environment() {
        let mut cargo = Command::new("cargo");
        Compiler::Own.apply(&mut cargo);
        assert_eq!(cargo.get_args().count(), 0);
        assert!(cargo.get_envs().all(|(_, value)| value.is_none()));
        assert!(cargo.get_envs().any(|(key, _)| key == "RUSTC"));
    }
}

//! Set-up of a fresh machine before anything is built: programs from Debian, targets from rustup.
//!
//! On a machine that has everything, nothing is changed and no network is used.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// The target that plugins are compiled for.
pub const PLUGIN_TARGET: &str = "wasm32-unknown-unknown";

/// The target that shows that `host/format` needs no operating system.
pub const EMBEDDED_TARGET: &str = "thumbv7em-none-eabihf";

/// A program that the build calls, and the Debian package that brings it.
struct Tool {
    program: &'static str,
    package: &'static str,
    reason: &'static str,
}

const TOOLS: [Tool; 4] = [
    Tool {
        program: "cc",
        package: "build-essential",
        reason: "links programs and compiles the C parts of dependencies",
    },
    Tool {
        program: "make",
        package: "make",
        reason: "builds the allocator",
    },
    Tool {
        program: "git",
        package: "git",
        reason: "gives tidy the list of files, and the demo the commit log",
    },
    Tool {
        program: "bash",
        package: "bash",
        reason: "runs README's tour",
    },
];

/// The program that draws the pictures of docs/. Only `cargo xtask diagrams` needs it.
const GRAPHVIZ: Tool = Tool {
    program: "dot",
    package: "graphviz",
    reason: "draws the pictures of docs/",
};

/// The program that joins network namespaces. Only tests of the command line need it, which have machines of their own.
const IPROUTE: Tool = Tool {
    program: "ip",
    package: "iproute2",
    reason: "joins the network namespaces of tests",
};

/// Installs what is missing for building and the demo.
///
/// # Errors
///
/// When something is missing that cannot be installed from here; the message names the command that would.
pub fn machine() -> Result<()> {
    let missing: Vec<&Tool> = TOOLS
        .iter()
        .filter(|tool| !shell::is_installed(tool.program))
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    Ok(())
}

/// Installs what tests need besides.
///
/// # Errors
///
/// As [`machine`].
pub fn tests() -> Result<()> {
    if shell::is_installed(IPROUTE.program) {
        return Ok(());
    }
    install(&[&IPROUTE])
}

/// Installs what is missing for drawing pictures.
///
/// # Errors
///
/// As [`machine`].
pub fn diagrams() -> Result<()> {
    if shell::is_installed(GRAPHVIZ.program) {
        return Ok(());
    }
    install(&[&GRAPHVIZ])
}

fn install(missing: &[&Tool]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    for tool in missing {
        eprintln!("    `{}` is missing: it {}", tool.program, tool.reason);
    }
    if !shell::is_installed("apt-get") {
        bail!(
            "install the missing programs with this system's package manager; on Debian: {by_hand}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("installing needs root; run: sudo {by_hand}");
    }
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null())
            .arg("-qq");
        command
    };
    shell::run(apt_get().arg("update"))?;
    shell::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&packages),
    )
    .with_context(|| format!("cannot install Debian packages; try: {by_hand}"))
}

/// Makes sure that the compiler has the standard library of `target`.
///
/// # Errors
///
/// When it is missing, and rustup is missing too or cannot add it.
pub fn target(target: &str) -> Result<()> {
    if has_target(target)? {
        return Ok(());
    }
    if !shell::is_installed("rustup") {
        bail!(
            "the compiler lacks the target {target}, and there is no rustup to add it; see https://rustup.rs"
        );
    }
    shell::run(
        Command::new("rustup")
            .current_dir(shell::root())
            .args(["target", "add", target]),
    )
    .with_context(|| format!("cannot add the target {target}; try: rustup target add {target}"))
}

/// Whether the compiler has the standard library of `target`. The compiler is asked, and not rustup, because a
/// distribution's own compiler comes without rustup.
fn has_target(target: &str) -> Result<bool> {
    let libdir = shell::read(Command::new("rustc").current_dir(shell::root()).args([
        "--print",
        "target-libdir",
        "--target",
        target,
    ]))?;
    Ok(std::path::Path::new(libdir.trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_of_this_machine_is_present_and_an_absent_one_is_seen() {
        let version = shell::read(Command::new("rustc").arg("-vV")).expect("rustc runs");
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .expect("rustc names its host");
        assert!(has_target(host).expect("rustc knows its host"));
        assert!(!has_target("riscv32imac-esp-espidf").expect("rustc knows the target"));
    }
}

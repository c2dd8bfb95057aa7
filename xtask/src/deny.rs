//! cargo-deny: licences, sources and bans of dependencies, and their known faults if the list can be fetched.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::shell;

/// The version of cargo-deny. Another version may judge otherwise.
const VERSION: &str = "0.20.2";

/// How cargo-deny is built: with little optimization, because optimizing takes minutes and the program runs for
/// seconds.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// Installs cargo-deny if it is missing, among cargo's own programs, so that each machine builds it only once.
///
/// # Errors
///
/// When it cannot be installed.
pub fn install() -> Result<()> {
    let found = shell::output(Command::new("cargo-deny").arg("--version"));
    let is_there = found.is_ok_and(|found| {
        String::from_utf8_lossy(&found.stdout).trim() == format!("cargo-deny {VERSION}")
    });
    if is_there {
        return Ok(());
    }
    let mut cargo = shell::cargo();
    // Built outside of the workspace, whose flags are not meant for it.
    cargo.current_dir(std::env::temp_dir()).envs(PROFILE);
    cargo.env_remove("CARGO_TARGET_DIR");
    cargo.args(["install", "cargo-deny", "--quiet", "--locked"]);
    shell::run(cargo.args(["--force", "--version", VERSION]))
        .context("cargo-deny cannot be installed")
}

/// Checks the dependencies by the rules of deny.toml.
///
/// # Errors
///
/// When a dependency breaks a rule.
pub fn check() -> Result<()> {
    ensure!(
        shell::root().join("deny.toml").is_file(),
        "deny.toml is missing"
    );
    shell::run(cargo_deny().args([
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    // The list of known faults is a repository, which not every machine reaches.
    let fetched = cargo_deny()
        .args(["fetch", "db"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start cargo-deny")?;
    if fetched.success() {
        return shell::run(cargo_deny().args(["check", "advisories"]));
    }
    eprintln!("    advisories are not checked: their list cannot be fetched from here");
    Ok(())
}

fn cargo_deny() -> Command {
    let mut cargo = shell::cargo();
    cargo.args([
        "deny",
        "--workspace",
        "--all-features",
        "--log-level",
        "error",
    ]);
    cargo
}

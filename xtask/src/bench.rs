//! The figures: builds the programs for release and measures them.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{ci, plugins, shell};

/// Sets up, builds the `lattice` binary and `lattice-bench` for release, and prints the table of figures.
/// `arguments` go to `lattice-bench`: which figures, `--runs`, `--json` and others; `--help` names them.
///
/// # Errors
///
/// When something does not build or cannot be measured, or a target is missed.
pub fn run(arguments: &[String]) -> Result<()> {
    ci::plugins()?;
    shell::step("release build", || {
        let release = |package: &str| {
            let mut cargo = shell::cargo();
            cargo.args(["build", "--release", "--package", package]);
            cargo
        };
        // Built by itself, as it is shipped. Built together with the bench, it would have the bench's features.
        shell::run(&mut release("lattice"))?;
        shell::run(release("lattice-bench").args(["--features", "dalek-batch"]))
    })?;
    let programs = shell::target_dir().join("release");
    // This is no `shell::step`, which would print its closing line below the table.
    eprintln!("==> bench");
    let status = Command::new(programs.join("lattice-bench"))
        .arg("--lattice")
        .arg(programs.join("lattice"))
        .arg("--plugins")
        .arg(plugins::directory())
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .context("cannot start lattice-bench")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("a target is missed: see FAIL above"),
        _ => bail!("lattice-bench ended with {status}"),
    }
}

//! The commands that are sequences of steps: `setup`, `plugins`, `test`, `ci`.
//!
//! `cargo test` is always the last step and nothing is printed after it, so that a reader of the log, or a
//! program, finds its verdict in the closing lines.

use std::process::Command;

use anyhow::Result;

use crate::plugins::{self, Which};
use crate::{deny, fuzz, msrv, setup, shell, ship, tidy, torture, tour};

/// Installs what a fresh machine lacks.
///
/// # Errors
///
/// When something cannot be installed from here.
pub fn setup() -> Result<()> {
    shell::step("setup", || {
        setup::machine()?;
        // An error is not fatal here: the step that builds plugins knows another compiler.
        setup::target(setup::PLUGIN_TARGET).unwrap_or_else(|error| eprintln!("    {error:#}"));
        Ok(())
    })
}

/// Builds every plugin of the tree, bundled or not, into `target/plugins`.
///
/// # Errors
///
/// When one does not build.
pub fn plugins() -> Result<()> {
    setup()?;
    shell::step("plugins", || {
        for built in plugins::build(shell::root(), Which::All)? {
            eprintln!("    {built}");
        }
        Ok(())
    })
}

/// Builds what the tour and the demo run, and nothing else: the plugins, and the program as it is shipped.
///
/// # Errors
///
/// When something does not build.
pub fn ship() -> Result<()> {
    plugins()?;
    ship::build()
}

/// Builds the whole workspace with its tests, and the program as it is shipped. Both builds share dependencies.
fn build() -> Result<()> {
    plugins()?;
    setup::tests()?;
    ship::build()?;
    shell::step("build", || {
        shell::run(shell::cargo().args(["build", "--workspace", "--all-targets"]))
    })
}

/// Sets up, builds, runs README's tour, seeds of the simulator and all tests, passing `arguments` on to `cargo test`.
/// Tour and tests of the command line run the program as it is shipped.
///
/// # Errors
///
/// When a step fails.
pub fn test(arguments: &[String]) -> Result<()> {
    build()?;
    ship::check()?;
    shell::step("tour", || tour::run_readme(shell::root()))?;
    swarm()?;
    eprintln!("==> cargo test");
    let mut cargo = shell::cargo();
    cargo.env(TEST_PROGRAM, ship::program());
    shell::run(cargo.args(["test", "--workspace"]).args(arguments))
}

/// The variable that tells the tests of the command line which program they test.
const TEST_PROGRAM: &str = "LATTICE_TEST_PROGRAM";

/// Seeds of the model programs that CI runs in the simulator. With [`COMPONENT_SEEDS`] they take some minutes on two
/// processors.
const SEEDS: &str = "0..440";
/// Seeds that CI runs with a real component whose calls do not commute.
const COMPONENT_SEEDS: &str = "0..60";
/// Histories of the small model of checkpoints and revocations.
const MODEL_SEEDS: &str = "0..2000";

fn swarm() -> Result<()> {
    // A run depends on its seed and on the name of the plugin, so the name must not be a path of this machine.
    let plugins = shell::target_dir().join("plugins");
    let runs = [(SEEDS, "model"), (COMPONENT_SEEDS, "bank.wasm")];
    shell::step("sim", || {
        for (seeds, plugin) in runs {
            let mut simulator = Command::new(shell::bin_dir().join("lattice-sim"));
            simulator.current_dir(&plugins);
            shell::run(simulator.args(["swarm", "--seeds", seeds, "--plugin", plugin]))?;
        }
        let mut simulator = Command::new(shell::bin_dir().join("lattice-sim"));
        shell::run(simulator.args(["model", "--seeds", MODEL_SEEDS]))
    })
}

/// Runs all that a change must pass, the cheap checks first.
///
/// # Errors
///
/// When a step fails.
pub fn all() -> Result<()> {
    setup()?;
    shell::step("fmt", || {
        shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
    })?;
    shell::step("tidy", || tidy::run(shell::root()))?;
    shell::step("rust-version", msrv::check)?;
    shell::step("licences", || {
        deny::install()?;
        deny::check()
    })?;
    plugins()?;
    shell::step("clippy", || {
        shell::run(shell::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    shell::step("embedded", || {
        setup::target(setup::EMBEDDED_TARGET)?;
        let target = ["--target", setup::EMBEDDED_TARGET, "--no-default-features"];
        shell::run(
            shell::cargo()
                .args(["build", "--package", "lattice-format"])
                .args(target),
        )
    })?;
    shell::step("rustdoc", || {
        let mut cargo = shell::cargo();
        cargo.env("RUSTDOCFLAGS", "-D warnings");
        shell::run(cargo.args(["doc", "--no-deps", "--workspace"]))
    })?;
    build()?;
    fuzz::ci()?;
    torture::ci()?;
    test(&[])
}

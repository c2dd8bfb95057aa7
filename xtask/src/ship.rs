//! The `lattice` that is shipped: built by itself, so that it has nothing that only the tests of other crates need.
//!
//! Cargo gives a dependency that several crates share all the features that any of them asks for. A `lattice` that is
//! built with the whole workspace and its tests therefore has the kernel's mutants, which the tests ask for. The one
//! that is built here has not. The tour, the demo and the tests of the command line run this one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::shell;

/// Kinds of test support, each with a text that every program contains which was built with it.
const MARKS: [(&str, &str); 2] = [
    ("the model engine", "model:governance/commands"),
    ("the kernel's mutants", "lattice_kernel6mutant8SELECTED"),
];

/// A program that contains all marks when it is built together with the tests. It shows that the marks are right.
const CONTROL: &str = "lattice-sim";

/// The directory that holds the shipped program alone.
pub fn directory() -> PathBuf {
    shell::target_dir().join("ship")
}

/// The shipped program.
pub fn program() -> PathBuf {
    directory().join("lattice")
}

/// Builds `lattice` by itself. The plugins must have been built.
///
/// The program is copied to a directory of its own, because the next build of the workspace puts another program in
/// its place.
///
/// # Errors
///
/// When it does not build.
pub fn build() -> Result<()> {
    shell::step("shipping build", || {
        shell::run(shell::cargo().args(["build", "--package", "lattice"]))?;
        let built = shell::bin_dir().join("lattice");
        std::fs::create_dir_all(directory()).context("the directory of the shipped program")?;
        // The copy is written under another name and renamed, so that a process that runs the old one goes on.
        let aside = directory().join("lattice.new");
        std::fs::copy(&built, &aside)
            .and_then(|_| std::fs::rename(&aside, program()))
            .with_context(|| format!("cannot copy {}", built.display()))
    })
}

/// Makes sure, after both builds, that the shipped program has no test support, and that its dependencies were
/// compiled once for both.
///
/// # Errors
///
/// When one of these does not hold, and when the program that must have test support has none, because the search
/// would then prove nothing.
pub fn check() -> Result<()> {
    shell::step("shared dependencies", || {
        let shipped = dependencies(&["--package", "lattice"])?;
        let workspace = dependencies(&["--workspace", "--all-targets"])?;
        let twice = compiled_twice(&shipped, &workspace)?;
        ensure!(
            twice.is_empty(),
            "compiled for the shipped program and again for the workspace, with other features; pin those in \
             host/daemon/Cargo.toml: {}",
            twice.join(", ")
        );
        Ok(())
    })?;
    shell::step("shipped without test support", || {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        judge(&read(&program())?, &read(&shell::bin_dir().join(CONTROL))?)
    })
}

/// The files that a build compiles of packages from a registry. Their names depend on features and compiler.
fn dependencies(selection: &[&str]) -> Result<BTreeSet<String>> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--message-format", "json"]);
    let messages = shell::read(cargo.args(selection))?;
    let mut files = BTreeSet::new();
    for message in messages.lines() {
        let message: Value = serde_json::from_str(message).context("cargo's messages")?;
        let package = message["package_id"].as_str().unwrap_or_default();
        if message["reason"] != "compiler-artifact" || !package.starts_with("registry+") {
            continue;
        }
        let names = message["filenames"].as_array().into_iter().flatten();
        files.extend(names.filter_map(|name| name.as_str().map(str::to_owned)));
    }
    Ok(files)
}

/// The names of the files that only the shipped program has.
fn compiled_twice(shipped: &BTreeSet<String>, workspace: &BTreeSet<String>) -> Result<Vec<String>> {
    ensure!(!shipped.is_empty(), "cargo names no dependency of lattice");
    let apart = shipped.difference(workspace);
    let names = apart.filter_map(|path| Some(Path::new(path).file_name()?.to_str()?.to_owned()));
    Ok(names.collect())
}

fn judge(shipped: &[u8], control: &[u8]) -> Result<()> {
    for (what, mark) in MARKS {
        if contains(shipped, mark.as_bytes()) {
            bail!(
                "the shipped program holds {what} ({mark:?}): a dependency of `lattice` asks for it; \
                 `cargo tree --package lattice --edges features` tells which"
            );
        }
        ensure!(
            contains(control, mark.as_bytes()),
            "{CONTROL}, which holds {what}, does not say {mark:?}: choose another mark in xtask/src/ship.rs"
        );
    }
    Ok(())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some((&first, rest)) = wanted.split_first() else {
        return true;
    };
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        from += at + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_shipped_program_has_is_found() {
        let files = |names: &[&str]| names.iter().map(|name| format!("/t/{name}")).collect();
        let workspace = files(&["liba-1.rlib", "libb-2.rlib"]);
        let twice = |names: &[&str]| compiled_twice(&files(names), &workspace).expect("names");
        assert!(twice(&["liba-1.rlib"]).is_empty());
        assert_eq!(twice(&["liba-1.rlib", "libb-3.rlib"]), ["libb-3.rlib"]);
        assert!(compiled_twice(&files(&[]), &workspace).is_err());
    }

    #[test]
    fn test_support_is_found_and_so_is_a_mark_that_nothing_has() {
        let all: Vec<u8> = MARKS
            .iter()
            .flat_map(|(_, mark)| [b"\0", mark.as_bytes()].concat())
            .collect();
        assert!(judge(b"nothing of it", &all).is_ok());
        for (what, mark) in MARKS {
            let shipped = [b"xmod", mark.as_bytes(), b"y"].concat();
            let error = judge(&shipped, &all).expect_err("it is there").to_string();
            assert!(error.contains(what), "{error}");
        }
        let error = judge(b"", b"").expect_err("no control").to_string();
        assert!(error.contains("another mark"), "{error}");
    }
}

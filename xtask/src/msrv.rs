//! The check of `rust-version` in Cargo.toml, which is the oldest compiler that builds the workspace.
//!
//! The version is right if no dependency needs a newer compiler, and the workspace builds with it. CI builds with
//! it if that is the version of its toolchain. With a newer toolchain, only clippy's `incompatible_msrv` checks that
//! the items of the standard library that are used are not newer than `rust-version`.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::shell;

/// A version of the compiler without its patch level, which does not change what builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.split(['.', '-']).map(str::parse);
        Some(Version {
            major: numbers.next()?.ok()?,
            minor: numbers.next().unwrap_or(Ok(0)).ok()?,
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Checks `rust-version` in Cargo.toml.
///
/// # Errors
///
/// When the toolchain is older, crates of the tree disagree, or a dependency asks for a newer compiler.
pub fn check() -> Result<()> {
    let mut cargo = shell::cargo();
    let metadata = shell::read(cargo.args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo's metadata")?;
    let rustc = shell::read(std::process::Command::new("rustc").arg("--version"))?;
    let toolchain = rustc
        .split_whitespace()
        .nth(1)
        .and_then(Version::parse)
        .with_context(|| format!("a compiler without a version: {rustc}"))?;
    eprintln!("    {}", judge(&metadata, toolchain)?);
    Ok(())
}

/// Checks the version. Returns a line that says what was checked.
fn judge(metadata: &Value, toolchain: Version) -> Result<String> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo names no packages")?;
    let version_of = |package: &Value| package["rust_version"].as_str().and_then(Version::parse);
    let name_of = |package: &Value| package["name"].as_str().unwrap_or("?").to_owned();
    let (own, others): (Vec<&Value>, Vec<&Value>) = packages
        .iter()
        .partition(|package| package["source"].is_null());
    let mut said = None;
    for package in own {
        let version = version_of(package)
            .with_context(|| format!("{} says no rust-version", name_of(package)))?;
        ensure!(
            *said.get_or_insert(version) == version,
            "{} says rust-version {version}, which is another than that of the workspace",
            name_of(package)
        );
    }
    let said = said.context("the workspace has no crate")?;
    let newest = others
        .into_iter()
        .filter_map(|package| Some((version_of(package)?, name_of(package))))
        .max();
    let (asked, by) = newest.context("no dependency says which compiler it needs")?;
    if asked > said {
        bail!(
            "rust-version is {said}, and {by} needs {asked}: raise it in Cargo.toml and README.md"
        );
    }
    if toolchain < said {
        bail!("rustc is {toolchain}, and rust-version is {said}: run `rustup update`");
    }
    let proof = match toolchain == said {
        true => "this toolchain is that one",
        false => "this toolchain is newer, so clippy alone watches over the standard library",
    };
    Ok(format!(
        "rust-version {said}; dependencies ask for {asked} at most ({by}); {proof}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const V: fn(&str) -> Version = |text| Version::parse(text).expect("a version");

    fn metadata(own: &str, other: &str) -> Value {
        json!({ "packages": [
            { "name": "lattice", "rust_version": own, "source": null },
            { "name": "redb", "rust_version": other, "source": "registry" },
            { "name": "hex", "rust_version": null, "source": "registry" },
        ] })
    }

    #[test]
    fn a_rust_version_that_is_not_true_is_found() {
        let line = judge(&metadata("1.95", "1.89.0"), V("1.95.0")).expect("it is true");
        assert!(
            line.contains("1.89 at most (redb); this toolchain is that one"),
            "{line}"
        );
        let line = judge(&metadata("1.95", "1.95"), V("1.97.1")).expect("it is true");
        assert!(line.contains("newer"), "{line}");
        let says = |metadata: &Value, toolchain, what: &str| {
            let error = judge(metadata, V(toolchain)).expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        };
        says(&metadata("1.95", "1.96"), "1.97.0", "redb needs 1.96");
        says(&metadata("1.95", "1.80"), "1.94.1", "rustup update");
        let mut two = metadata("1.95", "1.80");
        let other = json!({ "name": "xtask", "rust_version": "1.94", "source": null });
        two["packages"].as_array_mut().expect("a list").push(other);
        says(&two, "1.95.0", "xtask says rust-version 1.94");
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(V("1.100.0") > V("1.95") && V("1.95.0-nightly") == V("1.95"));
        assert_eq!(Version::parse("beta"), None);
    }
}

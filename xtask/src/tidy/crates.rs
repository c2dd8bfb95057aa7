//! Rules between crates: which may import which, who owns a heavy dependency, one version of the critical ones.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Violation;
use super::tree::Tree;
use crate::{lockfile, shell};

/// The arrows of the workspace: a crate, and the crates of the tree that it may import. Every other import is
/// forbidden, and so is a crate without a row. A new arrow changes the layout, which ARCHITECTURE.md shows.
const ARROWS: [(&str, &[&str]); 14] = [
    ("host/format", &[]),
    ("host/kernel", &["host/format"]),
    ("host/runtime", &["host/kernel", "host/format"]),
    ("host/net", &["host/kernel", "host/format"]),
    ("host/testing", &["host/kernel", "host/format"]),
    (
        "host/sim",
        &["host/testing", "host/runtime", "host/kernel", "host/format"],
    ),
    (
        "host/daemon",
        &["host/kernel", "host/runtime", "host/net", "host/format"],
    ),
    ("host/cli", &["host/daemon"]),
    (
        "host/bench",
        &["host/daemon", "host/runtime", "host/kernel", "host/format"],
    ),
    (
        "host/fuzz",
        &[
            "host/testing",
            "host/runtime",
            "host/net",
            "host/kernel",
            "host/format",
        ],
    ),
    ("sdk/rust", &[]),
    ("plugins/*", &["sdk/rust"]),
    ("tests/guests/*", &["sdk/rust"]),
    ("xtask", &[]),
];

/// The crate that any crate of the host may import for its tests, besides its arrows.
const FOR_TESTS: &str = "host/testing";

/// The feature that builds the kernel with faults. A program must not have it.
const MUTANTS: &str = "mutants";

/// Heavy dependencies, and the crates that alone may import them. A name also stands for the family `name-*`.
const OWNERS: [(&str, &[&str]); 9] = [
    ("wasmtime", &["host/runtime"]),
    ("iroh", &["host/net"]),
    ("iroh-gossip", &["host/net", "host/sim"]),
    ("swarm-discovery", &["host/net"]),
    // The bench compares figures with commits of redb alone.
    (
        "redb",
        &["host/kernel", "host/testing", "host/daemon", "host/bench"],
    ),
    ("bao-tree", &["host/kernel"]),
    // The command line and the bench are clients of the daemon.
    ("tonic", &["host/daemon", "host/cli", "host/bench"]),
    // A program chooses the allocator, also for its libraries.
    ("tikv-jemallocator", &["host/cli", "host/sim"]),
    ("tikv-jemalloc", &["host/cli"]),
];

/// Crates without I/O, threads, clock and randomness.
const PURE: [&str; 2] = ["host/format", "host/kernel"];

/// Dependencies that pure crates must not import. A name also stands for the family `name-*`, except for `rand-core`,
/// which has only traits.
const IMPURE: [&str; 14] = [
    "async-std",
    "chrono",
    "crossbeam",
    "futures",
    "getrandom",
    "hyper",
    "quinn",
    "rand",
    "rayon",
    "rustix",
    "smol",
    "time",
    "tokio",
    "wasmtime",
];

/// Dependencies of which only one version may be there: the types of two versions would not fit each other, or
/// both would take long to build.
const SINGLE: [&str; 8] = [
    "wasmtime",
    "iroh",
    "iroh-base",
    "iroh-gossip",
    "redb",
    "ed25519",
    "ed25519-dalek",
    "blake3",
];

/// The table of a manifest that an import stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[dependencies]`.
    Normal,
    /// `[build-dependencies]`.
    Build,
    /// `[dev-dependencies]`.
    Dev,
}

/// One import of a crate.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// The table that it stands in.
    pub kind: Kind,
    /// Its directory from the root, if it lies in the tree.
    pub directory: Option<String>,
    /// The features that it switches on.
    pub features: Vec<String>,
}

/// One crate of the workspace.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its directory from the root.
    pub directory: String,
    /// Its licence expression.
    pub license: String,
    /// What it imports, for any target and with any feature.
    pub dependencies: Vec<Dependency>,
}

/// The crates of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    /// In cargo's order.
    pub members: Vec<Member>,
}

impl Workspace {
    /// Reads every manifest of the workspace at `root`, through cargo.
    ///
    /// # Errors
    ///
    /// When cargo does not understand one.
    pub fn read(root: &Path) -> Result<Workspace> {
        let mut cargo = shell::cargo();
        cargo.current_dir(root).args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ]);
        let metadata: Value =
            serde_json::from_str(&shell::read(&mut cargo)?).context("cargo's metadata")?;
        let root = metadata["workspace_root"]
            .as_str()
            .context("cargo names no workspace root")?;
        let packages = metadata["packages"]
            .as_array()
            .context("cargo names no packages")?;
        let members = packages
            .iter()
            .map(|package| member(package, Path::new(root)))
            .collect::<Result<_>>()?;
        Ok(Workspace { members })
    }
}

fn member(package: &Value, root: &Path) -> Result<Member> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let relative = |path: &Path| {
        path.strip_prefix(root)
            .ok()
            .map(|path| path.display().to_string())
    };
    let manifest = text(&package["manifest_path"]).context("a package without a manifest")?;
    let directory = Path::new(&manifest)
        .parent()
        .and_then(relative)
        .context("a package outside of the workspace")?;
    let mut dependencies = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let kind = match dependency["kind"].as_str() {
            None => Kind::Normal,
            Some("build") => Kind::Build,
            Some("dev") => Kind::Dev,
            Some(other) => bail!("{directory}: dependencies of the unknown kind {other}"),
        };
        let name = text(&dependency["name"]).context("a dependency without a name")?;
        let directory = dependency["path"]
            .as_str()
            .and_then(|path| relative(Path::new(path)));
        let features = dependency["features"].as_array().into_iter().flatten();
        dependencies.push(Dependency {
            name,
            kind,
            directory,
            features: features.filter_map(text).collect(),
        });
    }
    Ok(Member {
        directory,
        license: text(&package["license"]).unwrap_or_default(),
        dependencies,
    })
}

/// Checks the crates, their manifests and Cargo.lock.
pub(super) fn check(workspace: &Workspace, tree: &Tree, violations: &mut Vec<Violation>) {
    for member in &workspace.members {
        let mut found = Found {
            manifest: format!("{}/Cargo.toml", member.directory),
            violations,
        };
        found.arrows(member);
        found.mutants(member);
        found.owners(member);
        found.purity(member);
        found.license(member);
        if let Some(manifest) = tree.text(&found.manifest.clone()) {
            found.manifest_text(manifest);
        }
    }
    strays(workspace, tree, violations);
    idle_owners(workspace, &OWNERS, violations);
    if let Some(lock) = tree.text("Cargo.lock") {
        let mut found = Found {
            manifest: "Cargo.lock".to_owned(),
            violations,
        };
        found.versions(&lockfile::packages(lock));
    }
}

/// Finds manifests that no rule reads, because the workspace leaves them out. Templates are for other workspaces.
fn strays(workspace: &Workspace, tree: &Tree, violations: &mut Vec<Violation>) {
    for path in &tree.paths {
        let Some(directory) = path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let is_member = workspace
            .members
            .iter()
            .any(|member| member.directory == directory);
        if !is_member && !directory.starts_with("sdk/templates/") {
            let message = "is no member of the workspace, so nothing checks it".to_owned();
            violations.push(Violation {
                path: path.clone(),
                line: 0,
                rule: "member",
                message,
            });
        }
    }
}

/// Finds owners that do not import what they own.
fn idle_owners(workspace: &Workspace, table: &[(&str, &[&str])], violations: &mut Vec<Violation>) {
    // In a part of the workspace, as tests make it, an owner may be missing.
    if workspace.members.len() < ARROWS.len() {
        return;
    }
    for (family, owners) in table {
        for owner in *owners {
            let is_imported = workspace.members.iter().any(|member| {
                let mut dependencies = member.dependencies.iter();
                member.directory == *owner
                    && dependencies.any(|dependency| is_of(family, &dependency.name))
            });
            if !is_imported {
                violations.push(Violation {
                    path: file!().to_owned(),
                    line: 0,
                    rule: "owner",
                    message: format!("{owner} owns {family} and does not import it"),
                });
            }
        }
    }
}

/// Whether `name` is `family` or one of `family-*`.
fn is_of(family: &str, name: &str) -> bool {
    let name = name.replace('_', "-");
    name.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Returns what the crate in `directory` may import, if it has a row.
fn arrows_of(directory: &str) -> Option<&'static [&'static str]> {
    let is_row = |row: &str| match row.strip_suffix("/*") {
        Some(parent) => directory
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with('/')),
        None => row == directory,
    };
    ARROWS
        .iter()
        .find(|(row, _)| is_row(row))
        .map(|(_, arrows)| *arrows)
}

struct Found<'a> {
    manifest: String,
    violations: &'a mut Vec<Violation>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, rule: &'static str, message: String) {
        self.violations.push(Violation {
            path: self.manifest.clone(),
            line,
            rule,
            message,
        });
    }

    fn arrows(&mut self, member: &Member) {
        let Some(allowed) = arrows_of(&member.directory) else {
            let message = "has no row in the table of arrows (xtask/src/tidy/crates.rs)".to_owned();
            return self.add(0, "arrow", message);
        };
        let is_of_host = member.directory.starts_with("host/");
        for dependency in &member.dependencies {
            let Some(directory) = dependency.directory.as_deref() else {
                continue;
            };
            let is_for_tests = is_of_host && dependency.kind == Kind::Dev && directory == FOR_TESTS;
            // A crate imports itself to switch a feature on for its own tests.
            if directory != member.directory && !is_for_tests && !allowed.contains(&directory) {
                let message = match allowed {
                    [] => format!("imports {directory}, but may import no crate of the tree"),
                    _ => format!(
                        "imports {directory}, but may only import {}",
                        allowed.join(", ")
                    ),
                };
                self.add(0, "arrow", message);
            }
        }
    }

    fn mutants(&mut self, member: &Member) {
        for dependency in &member.dependencies {
            let is_on = dependency.features.iter().any(|name| name == MUTANTS);
            if is_on && dependency.kind != Kind::Dev {
                let message = format!(
                    "builds {} with the feature {MUTANTS}, which only tests may have",
                    dependency.name
                );
                self.add(0, "mutants", message);
            }
        }
    }

    fn owners(&mut self, member: &Member) {
        for dependency in member
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != Kind::Dev)
        {
            let families = OWNERS
                .iter()
                .filter(|(family, _)| is_of(family, &dependency.name));
            // The longest family that fits is the most exact: iroh-gossip before iroh.
            let Some((_, owners)) = families.max_by_key(|(family, _)| family.len()) else {
                continue;
            };
            // Build dependencies count as well: only an owner may run tonic's code generator.
            if !owners.contains(&member.directory.as_str()) {
                let message = format!(
                    "imports {}, which belongs to {}",
                    dependency.name,
                    owners.join(", ")
                );
                self.add(0, "owner", message);
            }
        }
    }

    fn purity(&mut self, member: &Member) {
        if !PURE.contains(&member.directory.as_str()) {
            return;
        }
        for dependency in member
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == Kind::Normal)
        {
            let name = dependency.name.as_str();
            let is_traits = is_of("rand-core", name);
            if !is_traits
                && IMPURE
                    .iter()
                    .chain(&["iroh"])
                    .any(|family| is_of(family, name))
            {
                let message = format!(
                    "imports {name}, but has no clock, randomness, threads or I/O of its own"
                );
                self.add(0, "purity", message);
            }
        }
    }

    fn license(&mut self, member: &Member) {
        let is_for_authors = ["sdk/", "plugins/", "tests/guests/"]
            .iter()
            .any(|start| member.directory.starts_with(start));
        let wanted = if is_for_authors {
            "MIT OR Apache-2.0"
        } else {
            "AGPL-3.0-or-later"
        };
        if member.license != wanted {
            self.add(
                0,
                "licence",
                format!("has the licence {:?}, not {wanted:?}", member.license),
            );
        }
    }

    /// Checks that versions and lints come from the workspace.
    fn manifest_text(&mut self, manifest: &str) {
        let mut section = "";
        let mut has_lints = false;
        let mut is_whole_table_local = None;
        let mut depth = 0_usize;
        for (number, line) in manifest
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
        {
            if depth == 0 && line.starts_with('[') {
                if let Some(start) = is_whole_table_local.take() {
                    self.add(
                        start,
                        "version",
                        format!("{section} takes its version from elsewhere than the workspace"),
                    );
                }
                section = line;
                is_whole_table_local = (section.contains("dependencies.")).then_some(number);
                continue;
            }
            let is_key = depth == 0 && line.contains('=') && !line.starts_with('#');
            depth = (depth + line.matches('[').count()).saturating_sub(line.matches(']').count());
            let from_workspace = line.replace(' ', "").contains("workspace=true");
            has_lints |= section == "[lints]" && from_workspace;
            if from_workspace {
                is_whole_table_local = None;
            }
            if is_key
                && section.ends_with("dependencies]")
                && !from_workspace
                && !line.contains("path")
            {
                self.add(
                    number,
                    "version",
                    format!("`{line}`: versions stand in the root Cargo.toml, once"),
                );
            }
        }
        if let Some(start) = is_whole_table_local {
            self.add(
                start,
                "version",
                format!("{section} takes its version from elsewhere than the workspace"),
            );
        }
        if !has_lints {
            self.add(
                0,
                "lints",
                "does not take the workspace's lints: [lints] workspace = true".to_owned(),
            );
        }
    }

    fn versions(&mut self, packages: &[lockfile::Package]) {
        for name in SINGLE {
            let same = packages.iter().filter(|package| package.name == name);
            let versions: Vec<&str> = same.map(|package| package.version.as_str()).collect();
            if versions.len() > 1 {
                self.add(
                    0,
                    "duplicate",
                    format!(
                        "has {name} {} times: {}",
                        versions.len(),
                        versions.join(", ")
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(name: &str, kind: Kind, directory: Option<&str>) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind,
            directory: directory.map(str::to_owned),
            features: Vec::new(),
        }
    }

    fn rules_for(
        directory: &str,
        license: &str,
        dependencies: Vec<Dependency>,
    ) -> Vec<&'static str> {
        let member = Member {
            directory: directory.to_owned(),
            license: license.to_owned(),
            dependencies,
        };
        let mut violations = Vec::new();
        check(
            &Workspace {
                members: vec![member],
            },
            &Tree::default(),
            &mut violations,
        );
        violations
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    fn rules(directory: &str, dependency: Dependency) -> Vec<&'static str> {
        rules_for(directory, "AGPL-3.0-or-later", vec![dependency])
    }

    fn manifest_rules(manifest: &str) -> Vec<&'static str> {
        let member = Member {
            directory: "host/net".into(),
            license: "AGPL-3.0-or-later".into(),
            dependencies: Vec::new(),
        };
        let mut violations = Vec::new();
        let tree = Tree::of(&[("host/net/Cargo.toml", manifest)]);
        check(
            &Workspace {
                members: vec![member],
            },
            &tree,
            &mut violations,
        );
        violations
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn arrow_that_is_not_in_the_table_is_found_in_every_kind_of_table() {
        for kind in [Kind::Normal, Kind::Build, Kind::Dev] {
            assert_eq!(
                rules(
                    "host/kernel",
                    import("lattice-runtime", kind, Some("host/runtime"))
                ),
                ["arrow"]
            );
            assert!(
                rules(
                    "host/kernel",
                    import("lattice-format", kind, Some("host/format"))
                )
                .is_empty()
            );
        }
        assert!(
            rules(
                "host/kernel",
                import("lattice-kernel", Kind::Dev, Some("host/kernel"))
            )
            .is_empty()
        );
        assert_eq!(
            rules(
                "host/format",
                import("lattice-kernel", Kind::Normal, Some("host/kernel"))
            ),
            ["arrow"]
        );
    }

    #[test]
    fn what_only_tests_use_is_found_in_what_is_shipped() {
        let testing = |kind| import("lattice-testing", kind, Some("host/testing"));
        assert!(rules("host/net", testing(Kind::Dev)).is_empty());
        assert_eq!(rules("host/net", testing(Kind::Normal)), ["arrow"]);
        assert_eq!(rules("host/net", testing(Kind::Build)), ["arrow"]);
        assert!(rules("host/sim", testing(Kind::Normal)).is_empty());
        let plugin = vec![testing(Kind::Dev)];
        let found = rules_for("plugins/kv", "MIT OR Apache-2.0", plugin);
        assert_eq!(found, ["arrow"]);
        let broken = |kind| Dependency {
            features: vec!["mutants".into()],
            ..testing(kind)
        };
        assert!(rules("host/sim", broken(Kind::Dev)).is_empty());
        assert_eq!(rules("host/sim", broken(Kind::Normal)), ["mutants"]);
    }

    #[test]
    fn crate_without_a_row_is_found_and_plugins_share_one() {
        assert_eq!(
            rules_for("host/new", "AGPL-3.0-or-later", Vec::new()),
            ["arrow"]
        );
        let sdk = || vec![import("lattice-sdk", Kind::Normal, Some("sdk/rust"))];
        assert!(rules_for("plugins/bank", "MIT OR Apache-2.0", sdk()).is_empty());
        let host = vec![import("lattice-format", Kind::Normal, Some("host/format"))];
        assert_eq!(
            rules_for("plugins/bank", "MIT OR Apache-2.0", host),
            ["arrow"]
        );
    }

    #[test]
    fn heavy_dependency_outside_of_its_owner_is_found() {
        assert_eq!(
            rules("host/daemon", import("wasmtime-wasi", Kind::Normal, None)),
            ["owner"]
        );
        assert_eq!(
            rules("host/daemon", import("iroh-gossip", Kind::Normal, None)),
            ["owner"]
        );
        assert!(rules("host/sim", import("iroh-gossip", Kind::Normal, None)).is_empty());
        assert_eq!(
            rules("host/sim", import("iroh", Kind::Normal, None)),
            ["owner"]
        );
        assert!(rules("host/runtime", import("redb", Kind::Dev, None)).is_empty());
    }

    #[test]
    fn owner_that_does_not_import_what_it_owns_is_found() {
        let member = |directory: &str, dependencies| Member {
            directory: directory.to_owned(),
            license: "AGPL-3.0-or-later".to_owned(),
            dependencies,
        };
        let mut members = vec![
            member("host/a", vec![import("redb", Kind::Normal, None)]),
            member("host/b", vec![import("iroh-gossip", Kind::Dev, None)]),
        ];
        let table: [(&str, &[&str]); 2] = [("redb", &["host/a", "host/b"]), ("iroh", &["host/b"])];
        let found = |members: &[Member]| {
            let workspace = Workspace {
                members: members.to_vec(),
            };
            let mut violations = Vec::new();
            idle_owners(&workspace, &table, &mut violations);
            let messages = violations.into_iter().map(|violation| violation.message);
            messages.collect::<Vec<_>>()
        };
        assert_eq!(found(&members), [""; 0], "a part of the workspace");
        while members.len() < ARROWS.len() {
            members.push(member("sdk/rust", Vec::new()));
        }
        assert_eq!(found(&members), ["host/b owns redb and does not import it"]);
    }

    /// Holds: invariant 1.
    #[test]
    fn impure_dependency_of_the_kernel_is_found() {
        for name in [
            "tokio",
            "rand",
            "getrandom",
            "tokio-util",
            "futures-util",
            "rand_chacha",
        ] {
            assert_eq!(
                rules("host/kernel", import(name, Kind::Normal, None)),
                ["purity"],
                "{name}"
            );
            assert!(
                rules("host/kernel", import(name, Kind::Dev, None)).is_empty(),
                "{name}"
            );
            assert!(
                rules("host/net", import(name, Kind::Normal, None)).is_empty(),
                "{name}"
            );
        }
        assert!(rules("host/format", import("rand_core", Kind::Normal, None)).is_empty());
    }

    #[test]
    fn wrong_licence_is_found() {
        assert_eq!(rules_for("host/net", "MIT", Vec::new()), ["licence"]);
        assert_eq!(
            rules_for("plugins/kv", "AGPL-3.0-or-later", Vec::new()),
            ["licence"]
        );
    }

    #[test]
    fn version_or_lints_of_a_crates_own_are_found() {
        let lints = "[lints]\nworkspace = true\n";
        assert!(manifest_rules(&format!("{lints}[dependencies]\na.workspace = true\n")).is_empty());
        let several = "[dev-dependencies]\na = { workspace = true, features = [\n  \"b=c\",\n] }\n[features]\nx = [\"y\"]\n";
        assert!(manifest_rules(&format!("{lints}{several}")).is_empty());
        assert_eq!(
            manifest_rules(&format!("{lints}[dependencies]\na = \"1\"\n")),
            ["version"]
        );
        assert_eq!(
            manifest_rules(&format!("{lints}[dependencies.a]\nversion = \"1\"\n")),
            ["version"]
        );
        assert!(manifest_rules(&format!("[dependencies.a]\nworkspace = true\n{lints}")).is_empty());
        assert_eq!(
            manifest_rules("[dependencies]\na.workspace = true\n"),
            ["lints"]
        );
    }

    #[test]
    fn manifest_outside_of_the_workspace_is_found() {
        let tree = Tree::of(&[
            ("plugins/new/Cargo.toml", ""),
            ("sdk/templates/rust/Cargo.toml", ""),
            ("Cargo.toml", ""),
        ]);
        let mut violations = Vec::new();
        check(&Workspace::default(), &tree, &mut violations);
        let found: Vec<_> = violations
            .iter()
            .map(|violation| (violation.path.as_str(), violation.rule))
            .collect();
        assert_eq!(found, [("plugins/new/Cargo.toml", "member")]);
    }

    #[test]
    fn two_versions_of_a_critical_dependency_are_found() {
        let package =
            |name, version| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n");
        let lock = [
            package("redb", "4.4.0"),
            package("redb", "3.0.0"),
            package("syn", "2.0.0"),
            package("syn", "3.0.0"),
        ];
        let mut violations = Vec::new();
        check(
            &Workspace::default(),
            &Tree::of(&[("Cargo.lock", &lock.concat())]),
            &mut violations,
        );
        assert_eq!(violations.len(), 1);
        assert_eq!(
            violations[0].to_string(),
            "Cargo.lock: has redb 2 times: 4.4.0, 3.0.0 [duplicate]"
        );
    }
}

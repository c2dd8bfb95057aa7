//! Rules for all text files: no paths of somebody's machine, no private registries, no dead links, no stale pictures.

use super::Violation;
use super::tree::{File, Tree};
use crate::diagrams;

/// How the name of the one registry that Cargo.lock may name begins and ends.
const CARGO_REGISTRY: [&str; 2] = ["registry+https://", "/crates.io-index"];

/// Settings that point a package manager at another registry.
const REGISTRY_SETTINGS: [&str; 6] = [
    "replace-with",
    "[source.",
    "[registries",
    "index-url",
    "extra-index-url",
    "GOPROXY=",
];

pub(super) fn check(tree: &Tree, violations: &mut Vec<Violation>) {
    for file in &tree.files {
        home_paths(file, violations);
        registries(file, violations);
        picture(file, tree, violations);
        if file.path.ends_with(".md") {
            links(file, tree, violations);
        }
    }
}

fn add(
    file: &File,
    line: usize,
    rule: &'static str,
    message: String,
    violations: &mut Vec<Violation>,
) {
    violations.push(Violation {
        path: file.path.clone(),
        line,
        rule,
        message,
    });
}

fn lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    file.text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Finds absolute paths into a home directory, which work on one machine alone, and tell whose it is.
fn home_paths(file: &File, violations: &mut Vec<Violation>) {
    // In two parts, so that this file passes its own rule.
    let roots = [
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/ro", "ot/"),
    ];
    for (number, line) in lines(file) {
        for root in roots {
            let is_path = |(at, _): (usize, &str)| {
                let before = line[..at].chars().next_back();
                let after = line[at + root.len()..].chars().next();
                // A part of a longer path, or of an address, is no path into a home.
                !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'))
                    && after.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_'))
            };
            if line.match_indices(root).any(is_path) {
                add(
                    file,
                    number,
                    "home-path",
                    format!("an absolute path below {root}: use a relative one"),
                    violations,
                );
            }
        }
    }
}

/// Finds packages from, and settings for, other registries than the public ones.
fn registries(file: &File, violations: &mut Vec<Violation>) {
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    let is_private = |line: &str| match name {
        "Cargo.lock" => line.strip_prefix("source = ").is_some_and(|source| {
            let source = source.trim_matches('"');
            let [start, end] = CARGO_REGISTRY;
            !(source.starts_with(start) && source.ends_with(end))
        }),
        // npm can be told to leave addresses out.
        "package-lock.json" => line.contains("\"resolved\": \"http"),
        "config.toml" | ".npmrc" | "pip.conf" | "requirements.txt" | "pyproject.toml" => {
            REGISTRY_SETTINGS
                .iter()
                .any(|setting| line.contains(setting))
                || line.trim_start().starts_with("registry")
        }
        _ => false,
    };
    for (number, line) in lines(file).filter(|(_, line)| is_private(line)) {
        add(
            file,
            number,
            "registry",
            format!("not from the public registry: {}", line.trim()),
            violations,
        );
    }
}

/// Finds pictures that were not drawn from the text beside them.
fn picture(file: &File, tree: &Tree, violations: &mut Vec<Violation>) {
    let Some(stem) = file.path.strip_suffix(diagrams::SOURCE) else {
        return;
    };
    let svg = tree.text(&format!("{stem}.svg"));
    if !svg.is_some_and(|svg| diagrams::is_drawn_from(svg, &file.text)) {
        let message = format!("{stem}.svg is not drawn from it: run `cargo xtask diagrams`");
        add(file, 0, "diagram", message, violations);
    }
}

/// Finds links to files that are not in the tree.
fn links(file: &File, tree: &Tree, violations: &mut Vec<Violation>) {
    let mut in_block = false;
    for (number, line) in lines(file) {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            // The title of a link follows a blank.
            let target = target.split('#').next().unwrap_or_default();
            let target = target.split_whitespace().next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            match resolve(&file.path, target) {
                Some(path) if tree.has(&path) => {}
                _ => add(
                    file,
                    number,
                    "link",
                    format!("links to {target}, which is not there"),
                    violations,
                ),
            }
        }
    }
}

/// Returns the path that `target` means in the file at `from`, or `None` if it leads out of the tree.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from
            .rsplit_once('/')
            .map(|(directory, _)| directory.split('/').collect())
            .unwrap_or_default(),
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let mut violations = Vec::new();
        let others = [("docs/protocol.md", ""), ("host/kernel/src/log.rs", "")];
        let mut files = others.to_vec();
        files.push((path, text));
        check(&Tree::of(&files), &mut violations);
        violations
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn paths_into_a_home_are_found() {
        for root in ["ho|me/", "Us|ers/", "ro|ot/"] {
            let path = format!("/{}", root.replace('|', ""));
            assert_eq!(rules("a.txt", &format!("see {path}ada/x")), ["home-path"]);
            assert_eq!(rules("a.rs", &format!("\"{path}.cargo\"")), ["home-path"]);
            assert!(
                rules(
                    "a.txt",
                    &format!("https://example.org{path}page and $DIR{path}")
                )
                .is_empty()
            );
        }
    }

    #[test]
    fn other_registries_are_found() {
        let [start, end] = CARGO_REGISTRY;
        assert!(rules("Cargo.lock", &format!("source = \"{start}x{end}\"")).is_empty());
        assert_eq!(
            rules(
                "Cargo.lock",
                "source = \"sparse+https://mirror.example/index/\""
            ),
            ["registry"]
        );
        assert_eq!(
            rules("Cargo.lock", "source = \"git+https://example.org/x\""),
            ["registry"]
        );
        assert_eq!(
            rules(".cargo/config.toml", "[source.crates-io]"),
            ["registry"]
        );
        assert_eq!(
            rules("sdk/templates/js/.npmrc", "registry=https://mirror.example"),
            ["registry"]
        );
        let resolved = |host| format!("  \"resolved\": \"https://{host}/a.tgz\",");
        assert_eq!(
            rules("web/package-lock.json", &resolved("mirror.example")),
            ["registry"]
        );
    }

    #[test]
    fn a_picture_that_is_missing_or_of_another_text_is_found() {
        assert_eq!(rules("docs/a.dot", "digraph {}"), ["diagram"]);
        let mut violations = Vec::new();
        let files = [("docs/a.dot", "digraph {}"), ("docs/a.svg", "<svg></svg>")];
        check(&Tree::of(&files), &mut violations);
        assert_eq!(violations.len(), 1, "{violations:?}");
    }

    #[test]
    fn dead_links_are_found() {
        assert!(
            rules(
                "README.md",
                "[a](docs/protocol.md#bytes) [b](docs) [c](https://x.org/y) [d](#e)"
            )
            .is_empty()
        );
        assert!(
            rules(
                "docs/a.md",
                "[a](protocol.md) [b](../host/kernel/src/log.rs \"Log\")"
            )
            .is_empty()
        );
        assert!(rules("README.md", "```\n[a](nowhere.md)\n```").is_empty());
        assert_eq!(rules("README.md", "[a](docs/gone.md)"), ["link"]);
        assert_eq!(rules("docs/a.md", "[a](../../outside.md)"), ["link"]);
    }
}

//! Real input for the demo: the packages of Cargo.lock and the repository's commit log, written on A and read on B.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::claims::Claims;
use super::view::{compare_views, decoded_bytes, decoded_text, quoted, wait_equal};
use crate::node::Node;
use crate::{lockfile, shell};

/// How many records or pairs one query asks for.
const PAGE_ROWS: &str = "200";

/// Puts every package of Cargo.lock into a key-value store on A and reads them on B.
pub(super) fn load_packages(root: &Path, a: &Node, b: &Node, claims: &mut Claims) -> Result<()> {
    const STORE: &str = "packages";
    println!("5. Real input, in at A and out at B");
    let lock =
        std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let pair = |package: lockfile::Package| {
        let value = if package.checksum.is_empty() {
            "of this workspace".to_owned()
        } else {
            package.checksum
        };
        (format!("{}@{}", package.name, package.version), value)
    };
    let mut packages: Vec<(String, String)> =
        lockfile::packages(&lock).into_iter().map(pair).collect();
    packages.sort();
    packages.dedup();

    a.text(&["store", "create", STORE, "--plugin", "kv"])?;
    super::join(a, b, STORE)?;
    let started = Instant::now();
    for (key, value) in &packages {
        a.text(&["call", STORE, "put", key, value])?;
    }
    println!(
        "   {} packages put in {:.1} s",
        packages.len(),
        started.elapsed().as_secs_f64()
    );
    wait_equal(a, b, STORE)?;

    let mut found: Vec<(String, String)> = Vec::new();
    loop {
        let after = found.last().map_or("none".to_owned(), |(key, _)| {
            format!("some({})", quoted(key))
        });
        let page = b.json(&["query", STORE, "list", "", &after, PAGE_ROWS])?["value"].take();
        let pairs = page["pairs"]
            .as_array()
            .with_context(|| format!("a page without pairs: {page}"))?;
        for pair in pairs {
            let key = pair["key"]
                .as_str()
                .with_context(|| format!("a pair without a key: {pair}"))?;
            found.push((key.to_owned(), decoded_text(&pair["value"])?));
        }
        if page["next"].is_null() || pairs.is_empty() {
            break;
        }
    }
    claims.hold(
        "B lists every package with its checksum",
        found == packages,
        || {
            format!(
                "{} of {} are the same",
                found.iter().filter(|pair| packages.contains(pair)).count(),
                packages.len()
            )
        },
    );
    compare_views(a, b, STORE, claims)
}

/// Appends the repository's commit log to a log store on A and reads it on B.
pub(super) fn load_commits(root: &Path, a: &Node, b: &Node, claims: &mut Claims) -> Result<()> {
    const STORE: &str = "commits";
    let mut git = Command::new("git");
    git.current_dir(root)
        .args(["log", "--reverse", "--no-color", "--format=%H %cI %s"]);
    // A source archive has no history, and a fresh repository no commit; a shallow clone has a short one.
    let commits: Vec<String> = match shell::read(&mut git) {
        Ok(log) => log.lines().map(str::to_owned).collect(),
        Err(error) => {
            println!("   no commit log here: {error:#}");
            Vec::new()
        }
    };
    a.text(&["store", "create", STORE, "--plugin", "log"])?;
    super::join(a, b, STORE)?;
    let started = Instant::now();
    for commit in &commits {
        a.text(&["call", STORE, "append", commit])?;
    }
    println!(
        "   {} commits appended in {:.1} s",
        commits.len(),
        started.elapsed().as_secs_f64()
    );
    wait_equal(a, b, STORE)?;

    let mut found = Vec::new();
    let mut after = "none".to_owned();
    loop {
        let page = b.json(&["query", STORE, "read", &after, PAGE_ROWS])?["value"].take();
        for item in page["items"]
            .as_array()
            .with_context(|| format!("a page without items: {page}"))?
        {
            found.push(decoded_text(&item["data"])?);
        }
        if page["next"].is_null() {
            break;
        }
        let bytes = decoded_bytes(&page["next"])?;
        let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
        after = format!("some([{}])", list.join(", "));
    }
    claims.hold(
        "B reads the commit log in its order",
        found == commits,
        || {
            format!(
                "B has {} records, A appended {}",
                found.len(),
                commits.len()
            )
        },
    );
    compare_views(a, b, STORE, claims)
}

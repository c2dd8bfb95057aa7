//! The rules of the source tree that no compiler checks: arrows between crates and folders, purity, size, documents.
//!
//! Each rule is a function from a [`Tree`] or a [`Workspace`] to [`Violation`]s, so that a test can show it a
//! sample that breaks it. `cargo xtask tidy` and an ordinary test run them all over the real tree.

mod bounds;
mod commits;
mod crates;
mod folders;
mod invariants;
mod lex;
mod named;
mod remedies;
mod source;
mod text;
mod tree;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

pub use crates::{Dependency, Kind, Member, Workspace};
pub use invariants::write as write_invariants;
pub use tree::{File, Tree};

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, relative to the workspace's root.
    pub path: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What was found, and what to do.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {} [{}]", self.path, self.message, self.rule),
            line => write!(
                out,
                "{}:{line}: {} [{}]",
                self.path, self.message, self.rule
            ),
        }
    }
}

/// Returns all violations of the tree at `root`, sorted.
///
/// # Errors
///
/// When the tree cannot be read, or cargo does not understand its manifests.
pub fn check(root: &Path) -> Result<Vec<Violation>> {
    let tree = Tree::read(root)?;
    let workspace = Workspace::read(root)?;
    let mut violations = Vec::new();
    let examined = source::examine(&tree);
    let architecture = tree.text("ARCHITECTURE.md").unwrap_or_default();
    crates::check(&workspace, &tree, &mut violations);
    source::check(&tree, &examined, &mut violations);
    folders::check(architecture, &examined, &mut violations);
    bounds::check(&examined, &mut violations);
    invariants::check(&tree, &examined, &mut violations);
    remedies::check(&examined, &mut violations);
    named::check(&tree, &examined, &mut violations);
    text::check(&tree, &mut violations);
    commits::check(root, &mut violations)?;
    violations.sort();
    Ok(violations)
}

/// Prints the violations of the tree at `root` to standard error.
///
/// # Errors
///
/// When there is one, and those of [`check`].
pub fn run(root: &Path) -> Result<()> {
    let violations = check(root)?;
    for violation in &violations {
        eprintln!("    {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations of the tree's rules", violations.len());
    }
    Ok(())
}

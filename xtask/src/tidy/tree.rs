//! The files that tidy looks at: what git tracks, and what it would track after `git add`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// One text file.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path from the root, with `/` between the parts.
    pub path: String,
    /// Its contents.
    pub text: String,
}

impl File {
    /// Whether it is Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// The text files of the tree, by path.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The text files, sorted by path.
    pub files: Vec<File>,
    /// The paths of all files, also of those that are not text, sorted.
    pub paths: Vec<String>,
}

impl Tree {
    /// Reads the tree at `root`, leaving out what .gitignore names.
    ///
    /// # Errors
    ///
    /// When git cannot list it, or a file cannot be read.
    pub fn read(root: &Path) -> Result<Tree> {
        let mut git = Command::new("git");
        git.current_dir(root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let list = shell::read(&mut git).context("tidy asks git for the list of files")?;
        let mut tree = Tree::default();
        for path in list.split('\0').filter(|path| !path.is_empty()) {
            let file = root.join(path);
            // git lists a file that was deleted and whose deletion is not yet committed.
            if !file.is_file() {
                continue;
            }
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                tree.files.push(File {
                    path: path.to_owned(),
                    text,
                });
            }
            tree.paths.push(path.to_owned());
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree.paths.sort();
        Ok(tree)
    }

    /// Makes a tree of the given paths and texts.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for &(path, text) in files {
            tree.files.push(File {
                path: path.to_owned(),
                text: text.to_owned(),
            });
            tree.paths.push(path.to_owned());
        }
        tree.paths.sort();
        tree
    }

    /// Returns the text of a file, if there is one.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    }

    /// Whether there is a file or a directory of that path.
    pub fn has(&self, path: &str) -> bool {
        path.is_empty()
            || self.paths.iter().any(|known| {
                known
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_directories_are_known() {
        let tree = Tree::of(&[("docs/protocol.md", "x")]);
        assert!(tree.has("docs/protocol.md") && tree.has("docs") && tree.has(""));
        assert!(!tree.has("docs/proto") && !tree.has("doc"));
        assert_eq!(tree.text("docs/protocol.md"), Some("x"));
    }

    #[test]
    fn real_tree_has_its_manifest_and_no_build_output() {
        let tree = Tree::read(shell::root()).expect("git lists the tree");
        assert!(tree.text("Cargo.toml").is_some());
        assert!(!tree.has("target"));
    }
}

//! A directory of its own for each test, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// A directory for what a run writes.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_lattice-sim"))
            .args(words)
            .output()
            .unwrap();
        Ended {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must do what it was asked; returns what it printed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let ended = self.run(words);
        assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
        assert_eq!(ended.stderr, "", "{words:?}");
        ended.stdout
    }

    /// The same with `--json`; returns the one document.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let printed = self.ok(&[&["--json"], words].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Runs a command that must fail in this way: with one line that has each of these in it.
    pub(crate) fn fails(&self, words: &[&str], code: i32, says: &[&str]) {
        let ended = self.run(words);
        ended.failed(code, says);
        assert_eq!(ended.stdout, "", "{words:?}");
        let as_json = self.run(&[&["--json"], words].concat());
        as_json.failed(code, says);
        let document: Value = serde_json::from_str(&as_json.stdout).unwrap();
        assert_eq!(document["error"]["exit_code"], code, "{words:?}");
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Asserts that it failed in this way: with one line that has each of these in it, and what to do.
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let &[line] = lines.as_slice() else {
            panic!("not one line: {self:?}");
        };
        assert!(
            line.starts_with("error: ") && line.contains("; "),
            "{self:?}"
        );
        for said in says {
            assert!(line.contains(said), "{said:?} is missing: {self:?}");
        }
    }
}

/// A component that `cargo xtask plugins` has built.
pub(crate) fn built(name: &str) -> PathBuf {
    // The program lies in a directory of its profile, below the target directory.
    let target = Path::new(env!("CARGO_BIN_EXE_lattice-sim"))
        .ancestors()
        .nth(2);
    let path = target.unwrap().join(format!("plugins/{name}.wasm"));
    assert!(
        path.is_file(),
        "{} is missing: run `cargo xtask plugins` first",
        path.display()
    );
    path
}

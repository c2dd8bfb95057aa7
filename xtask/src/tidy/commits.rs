//! The rule that the subject of a commit is short enough to be read in a list.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Violation;
use crate::shell;

const SUBJECT_CHARS_MAX: usize = 72;

/// How many commits before the newest one are looked at.
const COMMITS_MAX: &str = "50";

/// When the rule began, in seconds since 1970. Older commits cannot be changed any more.
const SINCE: u64 = 1_796_024_909;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Commit {
    id: String,
    committed: u64,
    subject: String,
}

/// Checks the newest commits of the repository at `root`.
///
/// # Errors
///
/// When git does not list them.
pub(super) fn check(root: &Path, violations: &mut Vec<Violation>) -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(root).args([
        "log",
        "--no-merges",
        "--max-count",
        COMMITS_MAX,
        "--format=%h %ct %s",
    ]);
    let log = shell::read(&mut git).context("tidy asks git for the newest commits")?;
    check_log(&log, violations);
    Ok(())
}

fn check_log(log: &str, violations: &mut Vec<Violation>) {
    for commit in log.lines().filter_map(commit) {
        let length = commit.subject.chars().count();
        if commit.committed >= SINCE && length > SUBJECT_CHARS_MAX {
            violations.push(Violation {
                path: format!("commit {}", commit.id),
                line: 0,
                rule: "subject",
                message: format!(
                    "its subject has {length} characters, more than {SUBJECT_CHARS_MAX}: {}",
                    commit.subject
                ),
            });
        }
    }
}

fn commit(line: &str) -> Option<Commit> {
    let (id, rest) = line.split_once(' ')?;
    let (committed, subject) = rest.split_once(' ')?;
    Some(Commit {
        id: id.to_owned(),
        committed: committed.parse().ok()?,
        subject: subject.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(log: &str) -> Vec<String> {
        let mut violations = Vec::new();
        check_log(log, &mut violations);
        violations
            .into_iter()
            .map(|violation| violation.path)
            .collect()
    }

    #[test]
    fn a_long_subject_is_found_unless_it_is_older_than_the_rule() {
        // Characters count, not bytes.
        let longest = format!("docs: {}", "ä".repeat(SUBJECT_CHARS_MAX - 6));
        let line = |id: &str, time: u64, subject: &str| format!("{id} {time} {subject}\n");
        let log = [
            line("a1", SINCE, &longest),
            line("b2", SINCE, &format!("{longest}x")),
            line("c3", SINCE - 1, &format!("{longest}x")),
        ];
        assert_eq!(found(&log.concat()), ["commit b2"]);
    }
}

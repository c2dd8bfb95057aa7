//! The rule that tests which documents name exist.

use std::collections::BTreeSet;

use super::Violation;
use super::source::Examined;
use super::tree::Tree;

/// Pages that name tests, in backquotes.
const PAGES: [&str; 3] = ["ARCHITECTURE.md", "docs/lessons.md", "docs/protocol.md"];

/// A name of at least so many words is that of a test. All other names in these pages are shorter.
const WORDS_MIN: usize = 4;

pub(super) fn check(tree: &Tree, examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    let functions: BTreeSet<&str> = examined
        .iter()
        .flat_map(|file| file.source.tokens.windows(2))
        .filter(|pair| pair[0].text == "fn")
        .map(|pair| pair[1].text.as_str())
        .collect();
    for file in tree
        .files
        .iter()
        .filter(|file| PAGES.contains(&file.path.as_str()))
    {
        for (index, line) in file.text.lines().enumerate() {
            for name in quoted(line).filter(|name| is_test_name(name)) {
                if !functions.contains(name) {
                    violations.push(Violation {
                        path: file.path.clone(),
                        line: index + 1,
                        rule: "named-tests",
                        message: format!("there is no test `{name}`"),
                    });
                }
            }
        }
    }
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_test_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(plain) && name.split('_').count() >= WORDS_MIN
}

#[cfg(test)]
mod tests {
    use super::super::source::examine;
    use super::super::tree::File;
    use super::*;

    #[test]
    fn a_page_names_tests_that_are_there() {
        let file = |path: &str, text: &str| File {
            path: path.into(),
            text: text.into(),
        };
        let page = "| `it_holds_what_it_says` | `log.redb`, `drift_ms`, `it_was_there_once_only` |";
        let tree = Tree {
            files: vec![
                file("docs/lessons.md", page),
                file("docs/other.md", "`nobody_looks_at_this_page`"),
                file(
                    "host/x/tests/x.rs",
                    "#[test]\nfn it_holds_what_it_says() {}\n",
                ),
            ],
            paths: Vec::new(),
        };
        let mut violations = Vec::new();
        check(&tree, &examine(&tree), &mut violations);
        let messages: Vec<_> = violations.iter().map(|v| v.message.as_str()).collect();
        assert_eq!(messages, ["there is no test `it_was_there_once_only`"]);
    }
}

//! The page of invariants: each sentence of ARCHITECTURE.md with the tests that hold it.
//!
//! A test names its invariants in its doc comment: `Holds: invariant 5.` or `Holds: invariants 5, 6.`
//! The page is written from the tree by `cargo xtask invariants`. Tidy fails when the page differs, and when an
//! invariant has no test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Violation;
use super::lex::{Source, Token};
use super::source::{Examined, examine};
use super::tree::Tree;

const STATED: &str = "ARCHITECTURE.md";

/// The heading of the section that states the invariants.
const HEADING: &str = "## Invariants";

pub(super) const PAGE: &str = "docs/invariants.md";

/// The beginning of the line of a doc comment that names invariants.
const TAG: &str = "Holds: ";

/// A sentence that always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Invariant {
    number: usize,
    sentence: String,
    /// What holds it beside tests, and what no test holds.
    remarks: Vec<String>,
}

/// A test and the invariants that it says it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder<'a> {
    path: &'a str,
    line: usize,
    test: &'a str,
    numbers: Vec<usize>,
}

/// Writes the page of the tree at `root`.
///
/// # Errors
///
/// When the tree cannot be read, or breaks a rule about invariants.
pub fn write(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let examined = examine(&tree);
    let mut violations = Vec::new();
    let page = page(&tree, &examined, &mut violations);
    if let Some(violation) = violations.first() {
        bail!("{violation}");
    }
    std::fs::write(root.join(PAGE), page).with_context(|| format!("cannot write {PAGE}"))
}

/// Checks that every invariant has a test, every tag an invariant, and that the page is up to date.
pub(super) fn check(tree: &Tree, examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    let page = page(tree, examined, violations);
    if tree.text(PAGE) != Some(&page) {
        violations.push(violation(
            PAGE,
            0,
            "is not what the tree says: run `cargo xtask invariants`".to_owned(),
        ));
    }
}

fn violation(path: &str, line: usize, message: String) -> Violation {
    Violation {
        path: path.to_owned(),
        line,
        rule: "invariants",
        message,
    }
}

fn page(tree: &Tree, examined: &[Examined<'_>], violations: &mut Vec<Violation>) -> String {
    let invariants = stated(tree.text(STATED).unwrap_or_default());
    let mut holders = Vec::new();
    for file in examined {
        tagged(file, &mut holders, violations);
    }
    let known: BTreeSet<usize> = invariants.iter().map(|known| known.number).collect();
    for holder in &holders {
        for number in holder
            .numbers
            .iter()
            .filter(|number| !known.contains(number))
        {
            let message = format!("`{}` holds invariant {number}, which is none", holder.test);
            violations.push(violation(holder.path, holder.line, message));
        }
    }
    for Invariant { number, .. } in &invariants {
        if !holders.iter().any(|holder| holder.numbers.contains(number)) {
            let message =
                format!("invariant {number} has no test that says `Holds: invariant {number}.`");
            violations.push(violation(STATED, 0, message));
        }
    }
    if invariants.is_empty() {
        let message = format!("states no numbered invariants under `{HEADING}`");
        violations.push(violation(STATED, 0, message));
    }
    render(&invariants, &holders)
}

/// Reads the numbered sentences of the section, each with the paragraphs below it.
fn stated(text: &str) -> Vec<Invariant> {
    let section = text.lines().skip_while(|line| *line != HEADING).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let mut invariants: Vec<Invariant> = Vec::new();
    let mut is_new_paragraph = true;
    for line in section {
        if let Some((number, sentence)) = numbered(line) {
            invariants.push(Invariant {
                number,
                sentence: sentence.to_owned(),
                remarks: Vec::new(),
            });
        } else if let Some(invariant) = invariants.last_mut()
            && line.starts_with("  ")
        {
            if is_new_paragraph {
                invariant.remarks.push(String::new());
            }
            let paragraph = invariant
                .remarks
                .last_mut()
                .unwrap_or(&mut invariant.sentence);
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line.trim());
        }
        is_new_paragraph = line.trim().is_empty();
    }
    invariants
}

/// Reads `5. For the same entries…`.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, sentence) = line.split_once(". ")?;
    Some((number.parse().ok()?, sentence.trim()))
}

/// Adds the tests of a file that carry a tag.
fn tagged<'a>(
    file: &'a Examined<'_>,
    holders: &mut Vec<Holder<'a>>,
    violations: &mut Vec<Violation>,
) {
    let path = &file.file.path;
    for comment in &file.source.comments {
        let text = comment.text.strip_prefix("///").map(str::trim);
        let Some(tag) = text.and_then(|text| text.strip_prefix(TAG)) else {
            continue;
        };
        let mut add = |message: &str| {
            violations.push(violation(path, comment.line, message.to_owned()));
        };
        let Some(numbers) = numbers(tag) else {
            add("is not read: write `Holds: invariant 5.` or `Holds: invariants 5, 6.`");
            continue;
        };
        match test_after(&file.source, comment.line) {
            Some(test) => holders.push(Holder {
                path,
                line: comment.line,
                test,
                numbers,
            }),
            None => add("only a test can hold an invariant: its attribute follows the comment"),
        }
    }
}

/// Reads what follows the tag: `invariant 5.`, `invariants 5, 6.`
fn numbers(tag: &str) -> Option<Vec<usize>> {
    let list = tag.strip_suffix('.')?;
    let numbers: Vec<usize> = match list.strip_prefix("invariants ") {
        Some(list) => list.split(", ").map(|number| number.parse().ok()).collect(),
        None => list
            .strip_prefix("invariant ")?
            .parse()
            .ok()
            .map(|one| vec![one]),
    }?;
    Some(numbers)
}

/// The name of the test that the comment at `line` belongs to.
fn test_after(source: &Source, line: usize) -> Option<&str> {
    let start = source.tokens.iter().position(|token| token.line > line)?;
    let mut tokens = &source.tokens[start..];
    let mut is_test = false;
    while let [hash, open, ..] = tokens
        && hash.text == "#"
        && open.text == "["
    {
        let length = attribute_length(tokens);
        let attribute = &tokens[..length];
        // `#[test]`, `#[tokio::test(…)]`, and not `#[cfg(test)]`.
        let path = attribute[2..].iter().take_while(|token| is_path(token));
        is_test |= path.last().is_some_and(|token| token.text == "test");
        tokens = &tokens[length..];
    }
    let is_keyword = |token: &&Token| matches!(&*token.text, "pub" | "async" | "const" | "unsafe");
    let mut tokens = tokens.iter().skip_while(is_keyword);
    let is_function = tokens.next().is_some_and(|token| token.text == "fn");
    let name = tokens.next()?;
    (is_test && is_function).then_some(&name.text)
}

fn attribute_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(1) {
        match token.text.as_str() {
            "[" => depth += 1,
            "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn is_path(token: &Token) -> bool {
    token.text == "::" || token.text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// A paragraph of the root's page, for a page of docs/: links to files begin with `../`.
fn relinked(paragraph: &str) -> String {
    paragraph
        .replace("](", "](../")
        .replace("](../http", "](http")
}

fn render(invariants: &[Invariant], holders: &[Holder<'_>]) -> String {
    let mut page = String::from(
        "# Invariants and the tests that hold them\n\n\
         The sentences are those of [ARCHITECTURE.md](../ARCHITECTURE.md#invariants). A test says in its doc comment which of them it holds: `Holds: invariant 5.`\n\
         `cargo xtask invariants` writes this page from both, and `cargo xtask tidy` fails when it is out of date.\n",
    );
    for invariant in invariants {
        let number = invariant.number;
        let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for holder in holders
            .iter()
            .filter(|holder| holder.numbers.contains(&number))
        {
            files.entry(holder.path).or_default().insert(holder.test);
        }
        // Writing to a string cannot fail.
        let _ = write!(page, "\n## Invariant {number}\n\n{}\n", invariant.sentence);
        for remark in &invariant.remarks {
            let _ = write!(page, "\n{}\n", relinked(remark));
        }
        page.push('\n');
        for (path, tests) in files {
            let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
            let _ = writeln!(page, "- [{path}](../{path}): {}", tests.join(", "));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATED_TWO: &str = "# A\n\n1. no invariant\n\n## Invariants\n\nText.\n\n\
        1. The first\n   holds.\n\n   By type as well:\n   see [a](host/a.rs) and [b](https://b.org).\n\n2. The second holds.\n\n## Next\n\n3. none\n";

    fn found(test: &str) -> (Vec<String>, String) {
        let tree = Tree::of(&[(STATED, STATED_TWO), ("host/a/tests/a.rs", test)]);
        let mut violations = Vec::new();
        let page = page(&tree, &examine(&tree), &mut violations);
        let messages = violations.iter().map(ToString::to_string);
        (messages.collect(), page)
    }

    const BOTH: &str = "//! A.\n\
        /// Says more.\n/// Holds: invariants 1, 2.\n#[test]\nfn both() {}\n\
        /// Holds: invariant 2.\n#[tokio::test(flavor = \"x\")]\n#[allow(x)]\nasync fn second() {}\n";

    #[test]
    fn the_page_has_each_sentence_with_its_remarks_and_tests() {
        let (messages, page) = found(BOTH);
        assert_eq!(messages, [""; 0]);
        let first = "\n## Invariant 1\n\nThe first holds.\n\nBy type as well: see [a](../host/a.rs) and [b](https://b.org).\n\n\
            - [host/a/tests/a.rs](../host/a/tests/a.rs): `both`\n";
        let second = "\n## Invariant 2\n\nThe second holds.\n\n\
            - [host/a/tests/a.rs](../host/a/tests/a.rs): `both`, `second`\n";
        assert!(page.ends_with(&format!("{first}{second}")), "{page}");
    }

    #[test]
    fn an_invariant_without_a_test_is_found() {
        let (messages, _) = found("//! A.\n/// Holds: invariant 2.\n#[test]\nfn a() {}\n");
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(
            messages[0].contains("invariant 1 has no test"),
            "{messages:?}"
        );
    }

    #[test]
    fn a_tag_that_names_no_invariant_is_found() {
        let (messages, _) = found(&format!(
            "{BOTH}/// Holds: invariant 3.\n#[test]\nfn a() {{}}\n"
        ));
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(
            messages[0].contains("invariant 3, which is none"),
            "{messages:?}"
        );
    }

    #[test]
    fn a_tag_that_is_no_tests_or_cannot_be_read_is_found() {
        let wrong = [
            "/// Holds: invariant 1.\nfn a() {}\n",
            "/// Holds: invariant 1.\n#[cfg(test)]\nmod a {}\n",
            "/// Holds: invariant 1.\n#[cfg(test)]\nfn a() {}\n",
            "/// Holds: invariant 1\n#[test]\nfn a() {}\n",
            "/// Holds: invariants 1 and 2.\n#[test]\nfn a() {}\n",
            "/// Holds: 1.\n#[test]\nfn a() {}\n",
        ];
        for text in wrong {
            let (messages, _) = found(&format!("{BOTH}{text}"));
            assert_eq!(messages.len(), 1, "{text}: {messages:?}");
        }
    }

    #[test]
    fn a_page_that_is_out_of_date_is_found() {
        let (_, page) = found(BOTH);
        let outdated = |page: &str| {
            let files = [
                (STATED, STATED_TWO),
                ("host/a/tests/a.rs", BOTH),
                (PAGE, page),
            ];
            let tree = Tree::of(&files);
            let mut violations = Vec::new();
            check(&tree, &examine(&tree), &mut violations);
            violations.len()
        };
        assert_eq!(outdated(&page), 0);
        assert_eq!(outdated(&page.replace("second", "third")), 1);
    }

    #[test]
    fn a_page_without_invariants_is_found() {
        let tree = Tree::of(&[(STATED, "# A\n")]);
        let mut violations = Vec::new();
        page(&tree, &[], &mut violations);
        assert_eq!(violations.len(), 1, "{violations:?}");
    }
}

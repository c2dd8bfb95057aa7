//! The rule that every bound of the host has a test at the bound, with the list of those that have none yet.
//!
//! A test of the same crate must name the bound, so that the test still stands at the bound when its value
//! changes. Whether the test is good is for people to judge. The list only shrinks: a new bound comes with its
//! test, and a bound that has a test now is taken off.

use std::collections::BTreeSet;

use super::Violation;
use super::source::Examined;

/// Bounds without a test, by the file that holds them.
const UNTESTED: &[(&str, &[&str])] = &[(
    "host/daemon/src/limits.rs",
    // No test can see how much a cache of redb holds.
    &["RECORDS_CACHE_BYTES"],
)];

/// A bound: its name, and the line of its declaration.
struct Bound<'a> {
    name: &'a str,
    line: usize,
}

/// Checks the bounds of every `limits.rs` below `host/`.
pub(super) fn check(examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    check_against(examined, UNTESTED, violations);
}

fn check_against(
    examined: &[Examined<'_>],
    untested: &[(&str, &[&str])],
    violations: &mut Vec<Violation>,
) {
    for file in examined {
        let path = file.file.path.as_str();
        let Some(home) = crate_of(path).filter(|_| path.ends_with("/limits.rs")) else {
            continue;
        };
        let named = names_in_tests(examined, home);
        let listed = untested.iter().filter(|(file, _)| *file == path);
        let listed: BTreeSet<&str> = listed.flat_map(|(_, names)| *names).copied().collect();
        let bounds = bounds(file);
        let mut add = |line, message| {
            violations.push(Violation {
                path: path.to_owned(),
                line,
                rule: "bounds",
                message,
            });
        };
        for Bound { name, line } in &bounds {
            match (named.contains(name), listed.contains(name)) {
                (false, false) => add(
                    *line,
                    format!("no test of this crate names `{name}`: write one at the bound"),
                ),
                (true, true) => add(
                    *line,
                    format!(
                        "`{name}` has a test now: take it off the list in {}",
                        file!()
                    ),
                ),
                _ => {}
            }
        }
        for name in listed {
            if !bounds.iter().any(|bound| bound.name == name) {
                add(0, format!("`{name}` is listed in {} and no bound", file!()));
            }
        }
    }
}

/// The directory of the crate that a file is in, if the bounds of that crate protect a host.
fn crate_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("host/")?.split('/').next()?;
    // The bounds of the simulator protect no host.
    if name == "sim" {
        return None;
    }
    path.get(..="host".len() + name.len())
}

/// The public constants of a file. Durations are left out, because a peer cannot make this host hold more by taking
/// longer.
fn bounds<'a>(file: &'a Examined<'_>) -> Vec<Bound<'a>> {
    let tokens = &file.source.tokens;
    let declared = tokens.windows(4).filter_map(|tokens| {
        let [before, keyword, name, after] = tokens else {
            return None;
        };
        let is_public = matches!(before.text.as_str(), "pub" | ")");
        (is_public && keyword.text == "const" && after.text == ":").then_some(name)
    });
    let is_time = |name: &str| !file.source.find(&[name, ":", "Duration"]).is_empty();
    declared
        .filter(|name| !is_time(&name.text))
        .map(|name| Bound {
            name: &name.text,
            line: name.line,
        })
        .collect()
}

/// All names in the tests of a crate.
fn names_in_tests<'a>(examined: &'a [Examined<'_>], home: &str) -> BTreeSet<&'a str> {
    let files = examined
        .iter()
        .filter(|file| crate_of(&file.file.path) == Some(home));
    files
        .flat_map(|file| {
            let tokens = file.source.tokens.iter();
            tokens.filter(|token| file.is_test || file.source.is_test(token.line))
        })
        .map(|token| token.text.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::examine;
    use super::super::tree::Tree;
    use super::*;

    const LIMITS: &str = "//! Bounds.\n\
        use std::time::Duration;\n\
        /// The most.\n\
        pub const MOST: usize = 1;\n\
        /// More.\n\
        pub(crate) const MORE: u64 = 2;\n\
        pub const WAIT: Duration = Duration::from_secs(1);\n\
        const HELPER: u8 = 3;\n\
        const _: () = assert!(MOST < 2);\n";

    fn found(tests: &[(&str, &str)], untested: &[&str]) -> Vec<String> {
        let mut files = vec![("host/a/src/limits.rs", LIMITS)];
        files.extend(tests);
        let mut violations = Vec::new();
        let untested = [("host/a/src/limits.rs", untested)];
        check_against(&examine(&Tree::of(&files)), &untested, &mut violations);
        violations.iter().map(|v| v.message.clone()).collect()
    }

    /// Holds: invariant 10.
    #[test]
    fn a_bound_without_a_test_is_found() {
        // Production code, another crate's test and a comment do not test a bound.
        let none = [
            ("host/a/src/lib.rs", "//! a\nfn f() -> u64 { MORE }\n"),
            ("host/b/tests/b.rs", "//! b\nfn f() -> u64 { MORE }\n"),
            ("host/a/tests/a.rs", "//! MORE\nfn f() -> usize { MOST }\n"),
        ];
        let all = found(&none, &[]);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains("`MORE`"), "{all:?}");
    }

    #[test]
    fn tests_beside_the_code_count() {
        let beside = "//! a\n#[cfg(test)]\nmod tests {\nfn f() { MOST; }\n}\n";
        let module = "//! a\n#[cfg(test)]\nmod bounds;\n";
        let files = [
            ("host/a/src/lib.rs", module),
            ("host/a/src/bounds.rs", "//! a\nfn f() { MORE; }\n"),
            ("host/a/src/b.rs", beside),
        ];
        assert_eq!(found(&files, &[]), [""; 0]);
    }

    #[test]
    fn the_list_only_shrinks() {
        let tested = [("host/a/tests/a.rs", "//! a\nfn f() { MOST; }\n")];
        assert_eq!(found(&tested, &["MORE"]), [""; 0]);
        let all = found(&tested, &["MORE", "MOST", "GONE"]);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains("take it off"), "{all:?}");
        assert!(all[1].contains("`GONE`"), "{all:?}");
    }
}

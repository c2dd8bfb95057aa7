//! The rule that the kernel's folders import downwards only.
//!
//! An item belongs to the folder that defines it, also when lib.rs re-exports its name. Files of one folder may
//! import each other in a circle.

use std::collections::BTreeMap;

use super::Violation;
use super::lex::{Source, Token};
use super::source::Examined;

const KERNEL: &str = "host/kernel/src/";

/// The folders, and the files beside them, from the highest layer to the lowest. An item may use what lies in its
/// own folder and in the layers below. ARCHITECTURE.md shows this table.
const LAYERS: [&[&str]; 9] = [
    &["sync", "blob"],
    &["store"],
    &["fold"],
    &["run"],
    &["state"],
    &["graph", "log"],
    &["storage", "frame"],
    &["clock"],
    &["limits", "outcome", "mutant"],
];

const PAGE: &str = "ARCHITECTURE.md";

/// Checks the kernel's folders, and that the page shows their order.
pub(super) fn check(page: &str, examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    check_imports(examined, violations);
    let order = order();
    if !page.contains(&order) {
        violations.push(Violation {
            path: PAGE.to_owned(),
            line: 0,
            rule: "folders",
            message: format!("does not show the order of the kernel's folders: {order}"),
        });
    }
}

fn check_imports(examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    let files = || {
        let production = examined.iter().filter(|file| !file.is_test);
        production.filter_map(|file| Some((file, file.file.path.strip_prefix(KERNEL)?)))
    };
    let root = files().find(|(_, path)| *path == "lib.rs");
    let exports = root.map(|(file, _)| exports(&file.source));
    let exports = exports.unwrap_or_default();
    for (file, path) in files() {
        let modules = modules(path);
        let Some(from) = modules.first().copied() else {
            continue;
        };
        let mut add = |line, message| {
            violations.push(Violation {
                path: file.file.path.clone(),
                line,
                rule: "folders",
                message,
            });
        };
        let Some(own) = layer(from) else {
            add(0, format!("`{from}` has no layer in {}", file!()));
            continue;
        };
        for (line, name) in imports(&file.source, modules.len()) {
            let to = exports.get(name).copied().unwrap_or(name);
            if to == from || layer(to).is_none_or(|target| target > own) {
                continue;
            }
            add(
                line,
                format!("`{from}` imports `{to}`, against the order {}", order()),
            );
        }
    }
}

/// The index of a folder's layer, counted from the top.
fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// The order as the page shows it.
fn order() -> String {
    LAYERS.map(|layer| layer.join(", ")).join(" → ")
}

/// The modules that lead to a file, from below the crate's root; none for the root itself.
fn modules(path: &str) -> Vec<&str> {
    let mut modules: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    if matches!(modules.last(), Some(&("mod" | "lib"))) {
        modules.pop();
    }
    modules
}

/// What the crate's root re-exports: the name, and the module that it comes from.
fn exports(source: &Source) -> BTreeMap<&str, &str> {
    let texts: Vec<&str> = source.tokens.iter().map(|token| &*token.text).collect();
    let mut exports = BTreeMap::new();
    let statements = texts.split(|text| *text == ";");
    for statement in statements {
        let Some(start) = statement.windows(2).position(|pair| pair == ["pub", "use"]) else {
            continue;
        };
        if let [module, path @ ..] = &statement[start + 2..] {
            let names = path.iter().filter(|text| is_name(text));
            exports.extend(names.map(|name| (*name, *module)));
        }
    }
    exports
}

/// The first names below the crate's root of all paths that begin there, with their lines. `depth` is how many
/// modules lead to the file.
fn imports(source: &Source, depth: usize) -> Vec<(usize, &str)> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if source.is_test(token.line) {
            continue;
        }
        let supers = supers(&tokens[at..]);
        let is_root = token.text == "crate" || (supers > 0 && supers == depth);
        let is_continued = at > 0 && tokens[at - 1].text == "::";
        let length = if supers > 0 { 2 * supers - 1 } else { 1 };
        if is_root && !is_continued {
            names_after(&tokens[at + length..], &mut found);
        }
    }
    found
}

/// The number of `super::` that a path begins with.
fn supers(tokens: &[Token]) -> usize {
    let steps = tokens.chunks(2);
    steps
        .take_while(|step| {
            step.first().is_some_and(|token| token.text == "super")
                && step.get(1).is_some_and(|token| token.text == "::")
        })
        .count()
}

/// Adds the name, or the names between braces, that stand after a `::`.
fn names_after<'a>(tokens: &'a [Token], found: &mut Vec<(usize, &'a str)>) {
    let [separator, first, rest @ ..] = tokens else {
        return;
    };
    if separator.text != "::" {
        return;
    }
    if first.text != "{" {
        found.push((first.line, &first.text));
        return;
    }
    let mut depth = 1_usize;
    let mut is_first = true;
    for token in rest {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 1 && is_first && is_name(name) => found.push((token.line, name)),
            _ => {}
        }
        if depth == 0 {
            return;
        }
        is_first = token.text == ",";
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::super::source::examine;
    use super::super::tree::Tree;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(String, &str)> = files
            .iter()
            .map(|(path, text)| (format!("{KERNEL}{path}"), *text))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, *text)).collect();
        let tree = Tree::of(&files);
        let mut violations = Vec::new();
        check_imports(&examine(&tree), &mut violations);
        violations
            .into_iter()
            .map(|violation| format!("{}: {}", violation.line, violation.message))
            .collect()
    }

    fn one(file: (&str, &str)) -> Vec<String> {
        found(&[file])
    }

    #[test]
    fn an_import_upwards_or_sideways_is_found_however_it_is_written() {
        let upwards = [
            ("log/tail.rs", "use crate::fold::core::Effects;"),
            ("log/tail.rs", "fn a() { crate::fold::b() }"),
            ("log/tail.rs", "use crate::{limits, fold::core};"),
            ("log/tail.rs", "use super::super::fold::core;"),
            ("log/mod.rs", "use super::fold;"),
            ("log/mod.rs", "use super::{fold::a, limits};"),
            ("outcome.rs", "use super::fold;"),
        ];
        for file in upwards {
            let found = one(file);
            assert_eq!(found.len(), 1, "{file:?}: {found:?}");
            assert!(found[0].contains("imports `fold`"), "{found:?}");
        }
        assert_eq!(one(("log/mod.rs", "use crate::graph::dag;")).len(), 1);
    }

    #[test]
    fn imports_downwards_and_within_a_folder_are_allowed() {
        let allowed = [
            (
                "fold/core.rs",
                "use crate::log::Log;\nuse crate::limits::A;",
            ),
            (
                "fold/core.rs",
                "use crate::fold::record;\nuse super::quota;",
            ),
            ("fold/core.rs", "use other::fold;\nuse crate::Unknown;"),
            (
                "log/mod.rs",
                "#[cfg(test)]\nmod tests {\nuse crate::store::Store;\n}",
            ),
            ("lib.rs", "pub mod fold;\npub use fold::core::Settled;"),
        ];
        for file in allowed {
            assert_eq!(one(file), [""; 0], "{file:?}");
        }
    }

    #[test]
    fn a_name_from_the_root_belongs_to_the_folder_that_defines_it() {
        let lib = (
            "lib.rs",
            "pub use fold::core::{Changes, Settled};\npub use log::notice::Notice;",
        );
        let files = [lib, ("log/tail.rs", "use crate::{Notice, Settled};")];
        let found = found(&files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("imports `fold`"), "{found:?}");
    }

    #[test]
    fn a_folder_without_a_layer_is_found() {
        let found = one(("new/mod.rs", "use crate::limits;"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("no layer"), "{found:?}");
    }

    #[test]
    fn the_page_shows_the_order() {
        let check_page = |page: &str| {
            let mut violations = Vec::new();
            check(page, &[], &mut violations);
            violations.retain(|violation| violation.path == PAGE);
            violations.len()
        };
        assert_eq!(check_page(&format!("before {} after", order())), 0);
        assert_eq!(check_page("sync → store"), 1);
    }
}

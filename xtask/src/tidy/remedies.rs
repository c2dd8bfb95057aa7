//! The rule that every remedy has a test that does what it says.
//!
//! A remedy is the part of a message that tells a person what to do: a hint, a check of doctor, or what stands behind
//! the last semicolon of an error. The test hands the remedy's own words to [`FOLLOWER`], which finds them in what the
//! product said. So a remedy whose words change needs another look at its test. Whether the test does what the
//! remedy says is for people to judge. The list of remedies without a test only shrinks.

use std::collections::BTreeSet;

use super::Violation;
use super::lex::{Piece, Source};
use super::source::Examined;

/// The crates that say something to a person.
const SPEAKERS: &[&str] = &["cli", "daemon", "format", "kernel", "net", "runtime"];

/// Functions that take the words of a remedy last.
const TAKERS: &[&str] = &["hint", "hint_if_none", "check"];

/// Variables that hold a remedy until it is said.
const HOLDERS: &[&str] = &["hint", "remedy", "if_damaged"];

/// The function by which a test finds a remedy in what the product said.
const FOLLOWER: &str = "advice";

/// Shorter words are no remedy: they join two others.
const CHARS_MIN: usize = 8;

/// Remedies without a test, by the file that says them.
const UNFOLLOWED: &[(&str, &[&str])] = &[
    (
        "host/cli/src/guard.rs",
        &["what the node had begun, it may still complete"],
    ),
    ("host/cli/src/join.rs", &["see `lattice status`"]),
    (
        "host/daemon/src/api/service.rs",
        &["`lattice store status` says what became of the store"],
    ),
    (
        "host/daemon/src/join/mod.rs",
        &[
            "ask an admin of the store why, and for another invite",
            "try again, since another member may answer; both should run the same version",
            "a newer version of Lattice may run this component",
        ],
    ),
    (
        "host/daemon/src/member.rs",
        &["`lattice store status` says what it waits for"],
    ),
    (
        "host/daemon/src/store/call.rs",
        &["try again when that is done; `lattice store status` shows how far it is"],
    ),
    (
        "host/daemon/src/store/mod.rs",
        &["an admin runs `lattice store revoke"],
    ),
    (
        "host/daemon/src/store/notices.rs",
        &[
            "its key may be in two hands, or a backup was restored",
            "` on both, and report it if they still differ",
        ],
    ),
    ("host/format/src/verify.rs", &["update Lattice to read it"]),
    ("host/kernel/src/run/engine.rs", &["update Lattice"]),
    (
        "host/kernel/src/storage/machine.rs",
        &[
            "check who owns the file, and its permissions",
            "allow more memory",
        ],
    ),
    (
        "host/kernel/src/store/open.rs",
        &["remove its directory while no daemon runs"],
    ),
    ("host/net/src/token.rs", &["update Lattice"]),
];

/// Checks the remedies of every crate that speaks to people.
pub(super) fn check(examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    check_against(examined, UNFOLLOWED, violations);
}

fn check_against(
    examined: &[Examined<'_>],
    unfollowed: &[(&str, &[&str])],
    violations: &mut Vec<Violation>,
) {
    let followed = followed(examined);
    let mut said = BTreeSet::new();
    for file in examined.iter().filter(|file| speaks(file)) {
        let path = file.file.path.as_str();
        let listed = unfollowed.iter().filter(|(file, _)| *file == path);
        let listed: BTreeSet<&str> = listed.flat_map(|(_, words)| *words).copied().collect();
        let mut add = |line, message| {
            violations.push(Violation {
                path: path.to_owned(),
                line,
                rule: "remedies",
                message,
            });
        };
        let remedies = remedies(&file.source);
        for (line, words) in &remedies {
            let words = words.as_str();
            match (followed.contains(words), listed.contains(words)) {
                (false, false) => add(
                    *line,
                    format!("no test follows the remedy: hand {words:?} to `{FOLLOWER}` in one"),
                ),
                (true, true) => add(
                    *line,
                    format!(
                        "a test follows {words:?} now: take it off the list in {}",
                        file!()
                    ),
                ),
                _ => {}
            }
        }
        for words in listed {
            if !remedies.iter().any(|(_, remedy)| remedy == words) {
                add(
                    0,
                    format!("{words:?} is listed in {} and not said", file!()),
                );
            }
        }
        said.extend(remedies.into_iter().map(|(_, words)| words));
    }
    for (path, piece) in follow_calls(examined) {
        let words = longest_piece(&piece.text);
        if !said.contains(&words) {
            violations.push(Violation {
                path: path.to_owned(),
                line: piece.line,
                rule: "remedies",
                message: format!("nothing says the remedy {words:?}, which this test follows"),
            });
        }
    }
}

fn speaks(file: &Examined<'_>) -> bool {
    let inside = file.file.path.strip_prefix("host/");
    let inside = inside.and_then(|inside| inside.split_once("/src/"));
    !file.is_test && inside.is_some_and(|(name, _)| SPEAKERS.contains(&name))
}

/// The words of the remedies that a file says, each with its line.
fn remedies(source: &Source) -> Vec<(usize, String)> {
    let text = |at: usize| {
        source
            .tokens
            .get(at)
            .map_or("", |token| token.text.as_str())
    };
    let mut found = Vec::new();
    let mut add = |piece: &Piece, words: &str| {
        let words = longest_piece(words);
        if words.chars().count() >= CHARS_MIN {
            found.push((piece.line, words));
        }
    };
    for at in 1..source.tokens.len() {
        if source.is_test(source.tokens[at].line) {
            continue;
        }
        let (before, word, after) = (text(at - 1), text(at), text(at + 1));
        let extent = if before == "fn" {
            let tells = HOLDERS.iter().any(|holder| word.ends_with(holder));
            let body = (at..source.tokens.len()).find(|&at| matches!(text(at), "{" | ";"));
            body.filter(|_| tells)
                .map(|body| (body, source.closing(body)))
        } else if TAKERS.contains(&word) && after == "(" {
            let close = source.closing(at + 1);
            Some((last_argument(source, at + 1, close), close))
        } else if before == "let" && HOLDERS.contains(&word)
            || before == "const" && (word.ends_with("HINT") || word.ends_with("REMEDY"))
        {
            Some((at, end(source, at, ";")))
        } else {
            None
        };
        if let Some((first, last)) = extent {
            for piece in source.strings_between(first, last) {
                add(piece, &piece.text);
            }
        }
        // The text of an error or of a notice, whose remedy stands last.
        let strings = if before == "[" && word == "error" && after == "(" {
            source.strings_between(at + 1, source.closing(at + 1))
        } else if before == "." && word == "text" && after == "=" {
            source.strings_between(at, end(source, at, ";"))
        } else {
            Vec::new()
        };
        if !strings.is_empty() {
            let told = strings
                .first()
                .and_then(|piece| piece.text.rsplit_once("; "));
            if let Some((_, remedy)) = told {
                add(strings[0], remedy);
            }
        }
    }
    found
}

/// The bracket or comma before the last argument of a call.
fn last_argument(source: &Source, open: usize, close: usize) -> usize {
    let mut last = open;
    loop {
        let comma = end(source, last + 1, ",");
        // A comma may stand behind the last argument. Strings are no tokens.
        if comma >= close || comma + 1 == close && source.strings_between(comma, close).is_empty() {
            return last;
        }
        last = comma;
    }
}

/// The first token with this text from `at` on, outside of brackets; the last token if there is none.
fn end(source: &Source, mut at: usize, text: &str) -> usize {
    while at < source.tokens.len() {
        match source.tokens[at].text.as_str() {
            found if found == text => return at,
            "(" | "[" | "{" => at = source.closing(at),
            _ => {}
        }
        at += 1;
    }
    source.tokens.len()
}

/// The strings that tests hand to [`FOLLOWER`] or keep in a table that they hand to it.
fn follow_calls<'a>(examined: &'a [Examined<'_>]) -> Vec<(&'a str, &'a Piece)> {
    let mut found = Vec::new();
    for file in examined {
        let source = &file.source;
        for at in 1..source.tokens.len().saturating_sub(1) {
            let is_call = source.tokens[at].text == FOLLOWER
                && source.tokens[at + 1].text == "("
                && source.tokens[at - 1].text != "fn"
                && (file.is_test || source.is_test(source.tokens[at].line));
            if is_call {
                let close = source.closing(at + 1);
                let words = source.strings_between(last_argument(source, at + 1, close), close);
                found.extend(words.iter().map(|piece| (file.file.path.as_str(), *piece)));
            }
        }
    }
    found
}

fn followed(examined: &[Examined<'_>]) -> BTreeSet<String> {
    let calls = follow_calls(examined).into_iter();
    calls.map(|(_, piece)| longest_piece(&piece.text)).collect()
}

/// The longest part of a text, as it is written in code, that does not differ from case to case.
fn longest_piece(written: &str) -> String {
    // A backslash at the end of a line joins it with the next one.
    let lines: Vec<&str> = written.split("\\\n").collect();
    let mut text = lines[0].to_owned();
    for line in &lines[1..] {
        text.push_str(line.trim_start());
    }
    let text = text
        .replace("\\\"", "\"")
        .replace("{{", "(")
        .replace("}}", ")");
    let pieces = text.split('{').enumerate().map(|(n, piece)| match n {
        0 => piece,
        _ => piece.split_once('}').map_or("", |(_, after)| after),
    });
    let longest = pieces.max_by_key(|piece| piece.trim().chars().count());
    longest.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::source::examine;
    use super::super::tree::Tree;
    use super::*;

    const TOLD: &str = "//! a\n\
        const STOPPED_HINT: &str = \"wait a little \\\n   while\";\n\
        fn f() { g(\"what\").hint(format!(\"run `x {a}` and be happy\", a = \"short\")); }\n\
        fn a_hint(n: u8) -> &'static str { match n { 0 => \"zero it out\", _ => \"make it more\" } }\n\
        fn h() { check(\"name of it\", \"what is wrong\", \"do this then\",); }\n\
        #[derive(Error)]\nenum E {\n\
        #[error(\"bad {n}; really; write it \\\"anew\\\"\", n = 1)]\nA,\n\
        #[error(\"nothing can be done\")]\nB }\n";

    fn found(test: &str, unfollowed: &[&str]) -> Vec<String> {
        let files = [
            ("host/cli/src/a.rs", TOLD),
            // The simulator speaks to those who work on Lattice.
            ("host/sim/src/a.rs", TOLD),
            ("host/cli/tests/a.rs", test),
        ];
        let mut violations = Vec::new();
        let unfollowed = [("host/cli/src/a.rs", unfollowed)];
        check_against(&examine(&Tree::of(&files)), &unfollowed, &mut violations);
        violations.iter().map(ToString::to_string).collect()
    }

    const ALL: [&str; 6] = [
        "wait a little while",
        "` and be happy",
        "zero it out",
        "make it more",
        "do this then",
        "write it \"anew\"",
    ];

    #[test]
    fn a_remedy_without_a_test_is_found() {
        let all = found("//! a\n", &[]);
        assert_eq!(all.len(), ALL.len(), "{all:#?}");
        for words in ALL {
            let shown = format!("{words:?}");
            assert!(
                all.iter().any(|said| said.contains(&shown)),
                "{shown}: {all:#?}"
            );
        }
        assert_eq!(found("//! a\n", &ALL), [""; 0]);
    }

    #[test]
    fn a_test_that_follows_a_remedy_takes_it_off_the_list() {
        let test = "//! a\nfn t() { x.advice(&[\"words\"], 1, \"zero it out\"); }\n";
        assert_eq!(found(test, &ALL).len(), 1);
        let left: Vec<&str> = ALL
            .into_iter()
            .filter(|words| *words != "zero it out")
            .collect();
        assert_eq!(found(test, &left), [""; 0]);
    }

    #[test]
    fn a_test_that_follows_what_nobody_says_is_found() {
        let test = "//! a\nfn t() { advice(\"zero it in\"); }\n";
        let all = found(test, &ALL);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains("nothing says"), "{all:?}");
        let mut gone = ALL.to_vec();
        gone.push("was said once");
        assert_eq!(found("//! a\n", &gone).len(), 1);
    }
}

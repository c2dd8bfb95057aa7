//! Rules for Rust source: purity of the kernel, silence of libraries, size of files, unsafe code, unfinished work.

use super::Violation;
use super::lex::Source;
use super::tree::{File, Tree};

/// The most lines that a file may have, without those for tests. A longer file usually holds a second concept.
const PRODUCTION_LINES_MAX: usize = 600;

/// The crates below the composition root: they neither talk to the user nor look at the environment.
const SILENT: [&str; 6] = [
    "host/format/",
    "host/kernel/",
    "host/runtime/",
    "host/net/",
    "host/sim/",
    "host/testing/",
];

/// The files of those crates that may write to standard error: the `main` of a child process, whose parent reads it,
/// and the program that runs it alone.
const CHILD_MAIN: [&str; 2] = [
    "host/runtime/src/code.rs",
    "host/runtime/src/bin/lattice-compile.rs",
];

/// The crates that are values and functions alone: time, randomness and effects belong to the shell around them.
const PURE: [&str; 2] = ["host/format/", "host/kernel/"];

/// Tokens that the source of a pure crate must not have, with what they do and what to do instead.
const IMPURE: [(&[&str], &str); 15] = [
    (
        &["SystemTime"],
        "reads the clock: take the time as an argument",
    ),
    (
        &["Instant", "::", "now"],
        "reads the clock: take the time as an argument",
    ),
    (
        &["std", "::", "time", "::", "Instant"],
        "reads the clock: take the time as an argument",
    ),
    (&["std", "::", "net"], "opens sockets: return an effect"),
    (&["TcpStream"], "opens sockets: return an effect"),
    (&["UdpSocket"], "opens sockets: return an effect"),
    (
        &["std", "::", "thread"],
        "starts threads or sleeps: return an effect",
    ),
    (
        &["thread", "::"],
        "starts threads or sleeps: return an effect",
    ),
    (
        &["std", "::", "process"],
        "starts processes: return an effect",
    ),
    (&["rand"], "draws random numbers: take them as an argument"),
    (
        &["getrandom"],
        "draws random numbers: take them as an argument",
    ),
    (&["OsRng"], "draws random numbers: take them as an argument"),
    (&["async"], "waits: return an effect"),
    (&["tokio"], "waits: return an effect"),
    (&["wasmtime"], "runs Wasm: that is host/runtime's"),
];

/// Plugins whose names the host uses as words of its own, so that only their package ids are searched for: the
/// kernel keeps a log, a hybrid time has a counter, and `fs` is a module of the standard library.
const HOST_WORDS: [&str; 3] = ["log", "counter", "fs"];

/// The one file of the host that may hold unsafe code: it hands compiled code, which it wrote and hashed itself,
/// back to the engine.
const UNSAFE_PLACE: &str = "host/runtime/src/trusted.rs";

/// How many lines above unsafe code its `SAFETY:` comment may start.
const SAFETY_DISTANCE_MAX: usize = 6;

/// A file of Rust source with its tokens.
pub(super) struct Examined<'a> {
    pub(super) file: &'a File,
    pub(super) source: Source,
    /// Whether the whole file is compiled for tests alone.
    pub(super) is_test: bool,
}

/// Reads the tokens of every Rust file of the tree.
pub(super) fn examine(tree: &Tree) -> Vec<Examined<'_>> {
    let sources: Vec<(&File, Source)> = tree
        .files
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file, Source::new(&file.text)))
        .collect();
    let test_modules: Vec<String> = sources
        .iter()
        .flat_map(|(file, source)| test_module_paths(file, source))
        .collect();
    let is_in_test_module = |path: &str| {
        test_modules.iter().any(|module| {
            path.strip_prefix(module.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    };
    sources
        .into_iter()
        .map(|(file, source)| Examined {
            is_test: is_test_path(&file.path) || is_in_test_module(&file.path),
            file,
            source,
        })
        .collect()
}

pub(super) fn check(tree: &Tree, examined: &[Examined<'_>], violations: &mut Vec<Violation>) {
    let plugins = plugin_names(tree);
    for Examined {
        file,
        source,
        is_test,
    } in examined
    {
        let is_test = *is_test;
        let mut found = Found {
            path: &file.path,
            source,
            is_test,
            violations,
        };
        found.opening(&file.text);
        found.unfinished();
        found.unsafe_code();
        if is_test {
            continue;
        }
        found.size();
        if in_any(&file.path, &SILENT) {
            found.talk();
        }
        if in_any(&file.path, &PURE) {
            found.impurity();
            found.store_types(&plugins);
        }
    }
}

fn in_any(path: &str, directories: &[&str]) -> bool {
    directories
        .iter()
        .any(|directory| path.starts_with(directory))
}

/// The plugins of the tree without governance, which the host asks by a fixed interface.
fn plugin_names(tree: &Tree) -> Vec<String> {
    let manifest = |path: &String| {
        Some(
            path.strip_prefix("plugins/")?
                .strip_suffix("/Cargo.toml")?
                .to_owned(),
        )
    };
    tree.paths
        .iter()
        .filter_map(manifest)
        .filter(|name| name != "system")
        .collect()
}

fn is_test_path(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_test_directory = |part: &str| matches!(part, "tests" | "benches" | "examples");
    directory.split('/').any(is_test_directory) || name == "tests.rs" || name.ends_with("_tests.rs")
}

/// Returns the paths, without `.rs`, of the modules that a file declares for tests alone.
fn test_module_paths(file: &File, source: &Source) -> Vec<String> {
    let path = file.path.trim_end_matches(".rs");
    let directory = match path.rsplit_once('/') {
        Some((directory, "lib" | "main" | "mod")) => directory,
        _ => path,
    };
    source
        .test_modules
        .iter()
        .map(|name| format!("{directory}/{name}"))
        .collect()
}

struct Found<'a> {
    path: &'a str,
    source: &'a Source,
    is_test: bool,
    violations: &'a mut Vec<Violation>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, rule: &'static str, message: impl Into<String>) {
        self.violations.push(Violation {
            path: self.path.to_owned(),
            line,
            rule,
            message: message.into(),
        });
    }

    /// Adds a violation for each place where the tokens stand, in production code only.
    fn forbid(&mut self, pattern: &[&str], rule: &'static str, message: &str) {
        for line in self.source.find(pattern) {
            if !self.source.is_test(line) {
                self.add(line, rule, format!("`{}` {message}", pattern.concat()));
            }
        }
    }

    fn opening(&mut self, text: &str) {
        if !text.starts_with("//! ") {
            self.add(
                1,
                "module-doc",
                "the first line must say what the module is: `//! …`",
            );
        }
    }

    fn unfinished(&mut self) {
        for name in ["todo", "unimplemented"] {
            for line in self.source.find(&[name, "!"]) {
                self.add(line, "unfinished", format!("`{name}!` is left"));
            }
        }
        for line in self.source.find(&["[", "ignore"]) {
            self.add(line, "unfinished", "a test that does not run is no test");
        }
        for comment in &self.source.comments {
            let mut words = comment.text.split(|c: char| !c.is_alphanumeric());
            if let Some(word) =
                words.find(|word| matches!(*word, "TODO" | "FIXME" | "XXX" | "HACK"))
            {
                let (line, message) = (
                    comment.line,
                    format!("a comment says {word}: do it, or open an issue"),
                );
                self.add(line, "unfinished", message);
            }
        }
    }

    fn unsafe_code(&mut self) {
        // `#[unsafe(no_mangle)]` and the like are attributes, which the compiler's lint checks.
        let attributes = self.source.find(&["[", "unsafe"]);
        let lines = self.source.find(&["unsafe"]);
        for line in lines.into_iter().filter(|line| !attributes.contains(line)) {
            if self.path != UNSAFE_PLACE {
                self.add(
                    line,
                    "unsafe",
                    format!("unsafe code belongs in {UNSAFE_PLACE} alone"),
                );
            } else if !self.has_safety_comment(line) {
                self.add(
                    line,
                    "unsafe",
                    "unsafe code needs a comment above it: `// SAFETY: …`",
                );
            }
        }
    }

    fn has_safety_comment(&self, line: usize) -> bool {
        let near = line.saturating_sub(SAFETY_DISTANCE_MAX)..=line;
        self.source
            .comments
            .iter()
            .any(|comment| near.contains(&comment.line) && comment.text.contains("SAFETY:"))
    }

    fn size(&mut self) {
        let lines = self.source.production_line_count();
        if lines > PRODUCTION_LINES_MAX && !self.is_test {
            let message = format!(
                "{lines} lines without tests exceed {PRODUCTION_LINES_MAX}: look for a second noun"
            );
            self.add(0, "size", message);
        }
    }

    fn talk(&mut self) {
        // A build script talks to cargo on standard output, and reads its arguments from the environment.
        if self.path.ends_with("/build.rs") && !self.path.contains("/src/") {
            return;
        }
        for name in ["println", "print", "eprintln", "eprint", "dbg"] {
            if name == "eprintln" && CHILD_MAIN.contains(&self.path) {
                continue;
            }
            self.forbid(
                &[name, "!"],
                "silence",
                "talks to the user: return a value, or trace",
            );
        }
        // A program, unlike a library, reads its arguments.
        let is_program = self.path.contains("/src/bin/");
        for pattern in [&["std", "::", "env"][..], &["env", "::"]] {
            if is_program {
                continue;
            }
            self.forbid(
                pattern,
                "silence",
                "looks at the environment: take what it says as an argument",
            );
        }
        let is_environment = |name: &str| matches!(name, "HOME" | "LATTICE_HOME" | "XDG_DATA_HOME");
        for piece in self
            .source
            .strings
            .iter()
            .filter(|piece| is_environment(&piece.text))
        {
            if !self.source.is_test(piece.line) {
                let message = format!(
                    "{:?} belongs to the command line: take a path as an argument",
                    piece.text
                );
                self.add(piece.line, "silence", message);
            }
        }
    }

    fn impurity(&mut self) {
        for (pattern, message) in IMPURE {
            self.forbid(pattern, "purity", message);
        }
        // `use std::{…}` hides the second part of the path from the patterns above.
        for line in self.source.find(&["std", "::", "{"]) {
            if !self.source.is_test(line) {
                self.add(
                    line,
                    "purity",
                    "import from `std` one module a line here, so that tidy sees which",
                );
            }
        }
    }

    fn store_types(&mut self, plugins: &[String]) {
        for plugin in plugins {
            let id = format!("lattice:{plugin}");
            let named = |text: &str| {
                text.contains(&id)
                    && text
                        .split(&id)
                        .skip(1)
                        .any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
            };
            let is_own_word = HOST_WORDS.contains(&plugin.as_str());
            let mut lines: Vec<usize> = Vec::new();
            let strings = self.source.strings.iter();
            lines.extend(
                strings
                    .filter(|s| named(&s.text) || (!is_own_word && s.text == *plugin))
                    .map(|s| s.line),
            );
            if !is_own_word {
                let tokens = self.source.tokens.iter();
                lines.extend(
                    tokens
                        .filter(|token| has_part(&token.text, plugin))
                        .map(|token| token.line),
                );
            }
            for line in lines.into_iter().filter(|&line| !self.source.is_test(line)) {
                self.add(
                    line,
                    "store-type",
                    format!("names the store type `{plugin}`: the kernel knows none"),
                );
            }
        }
    }
}

/// Whether `name` is one of the words that an identifier is made of, in either case.
fn has_part(identifier: &str, name: &str) -> bool {
    let mut parts = vec![String::new()];
    for c in identifier.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c != '_' {
            parts
                .last_mut()
                .expect("it starts with one part")
                .extend(c.to_lowercase());
        }
    }
    // An acronym is split into letters, so the parts of an identifier in capitals are compared as a whole too.
    parts.iter().any(|part| part == name)
        || identifier
            .to_lowercase()
            .split('_')
            .any(|part| part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_file(path: &str, text: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        let plugins = [
            ("plugins/kv/Cargo.toml", ""),
            ("plugins/log/Cargo.toml", ""),
            ("plugins/system/Cargo.toml", ""),
        ];
        let mut files = plugins.to_vec();
        files.push((path, text));
        let tree = Tree::of(&files);
        check(&tree, &examine(&tree), &mut violations);
        violations
    }

    /// Checks that each text, below a heading line, breaks the rule once at its first line, and nothing else.
    fn fires(path: &str, rule: &str, texts: &[&str]) {
        for text in texts {
            let violations = check_file(path, &format!("//! A module.\n{text}\n"));
            let found: Vec<_> = violations
                .iter()
                .map(|violation| (violation.line, violation.rule))
                .collect();
            assert_eq!(found, [(2, rule)], "{text}: {violations:?}");
        }
    }

    fn silent(path: &str, texts: &[&str]) {
        for text in texts {
            assert_eq!(
                check_file(path, &format!("//! A module.\n{text}\n")),
                [],
                "{text}"
            );
        }
    }

    #[test]
    fn module_without_a_heading_is_found() {
        assert_eq!(
            check_file("host/net/src/lib.rs", "fn a() {}\n")[0].rule,
            "module-doc"
        );
        assert_eq!(check_file("host/net/src/lib.rs", "//! Sockets.\n"), []);
    }

    #[test]
    fn unfinished_work_is_found_in_tests_too() {
        let texts = [
            "fn a() { todo!() }",
            "fn a() { unimplemented!() }",
            "#[ignore]",
            "#[ignore = \"slow\"]",
            "// TODO later",
        ];
        fires("host/cli/src/a.rs", "unfinished", &texts);
        fires("host/cli/tests/a.rs", "unfinished", &texts);
        silent(
            "host/cli/src/a.rs",
            &[
                "const A: &str = \"todo!() TODO #[ignore]\";",
                "// a todo list",
            ],
        );
    }

    #[test]
    fn unsafe_code_is_found_outside_its_place_and_without_a_reason() {
        fires(
            "host/net/src/a.rs",
            "unsafe",
            &["fn a() { unsafe { b() } }", "unsafe impl A for B {}"],
        );
        fires(UNSAFE_PLACE, "unsafe", &["fn a() { unsafe { b() } }"]);
        silent(
            UNSAFE_PLACE,
            &["// SAFETY: b may be called.\nfn a() { unsafe { b() } }"],
        );
        silent(
            "host/net/src/a.rs",
            &[
                "// unsafe",
                "const A: &str = \"unsafe\";",
                "#[unsafe(no_mangle)]\nfn a() {}",
            ],
        );
    }

    #[test]
    fn long_file_is_found_unless_its_length_is_tests() {
        let lines = "fn a() {}\n".repeat(PRODUCTION_LINES_MAX);
        let long = format!("//! A module.\n{lines}");
        assert_eq!(check_file("host/cli/src/a.rs", &long)[0].rule, "size");
        assert_eq!(check_file("host/cli/tests/a.rs", &long), []);
        let tests = format!("//! A module.\n#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        assert_eq!(check_file("host/cli/src/a.rs", &tests), []);
    }

    #[test]
    fn talking_libraries_are_found() {
        let texts = [
            "fn a() { println!(\"x\") }",
            "fn a() { eprint!(\"x\") }",
            "fn a() { std::env::args() }",
            "const A: &str = \"HOME\";",
        ];
        for directory in SILENT {
            // `std::env::args` breaks the rule as `std::env` and as `env::`.
            let path = format!("{directory}src/a.rs");
            for text in texts {
                let violations = check_file(&path, &format!("//! A module.\n{text}\n"));
                assert!(
                    !violations.is_empty() && violations.iter().all(|v| v.rule == "silence"),
                    "{text}"
                );
            }
        }
        silent("host/daemon/src/a.rs", &texts);
        silent(CHILD_MAIN[0], &["fn a() { eprintln!(\"x\") }"]);
        silent("host/net/tests/a.rs", &texts);
        silent("host/net/build.rs", &texts);
        silent(
            "host/net/src/a.rs",
            &[
                "#[cfg(test)]\nmod tests {\nfn a() { println!() }\n}",
                "const A: &str = env!(\"B\");",
            ],
        );
    }

    /// Holds: invariants 1, 11.
    #[test]
    fn impure_kernel_is_found() {
        let texts = [
            "fn a() { b(SystemTime::UNIX_EPOCH) }",
            "fn a() { Instant::now() }",
            "use std::net::IpAddr;",
            "use std::thread;",
            "use rand::Rng;",
            "fn a() { getrandom(b) }",
            "async fn a() {}",
            "use std::{fs, net};",
        ];
        fires("host/kernel/src/a.rs", "purity", &texts);
        fires("host/format/src/a.rs", "purity", &texts);
        silent("host/net/src/a.rs", &texts);
        silent(
            "host/kernel/src/a.rs",
            &[
                "use std::time::Duration;",
                "/// Not rand.\nfn operand() {}",
                "use rand_core::Rng;",
            ],
        );
    }

    /// Holds: invariant 1.
    #[test]
    fn kernel_that_knows_a_store_type_is_found() {
        let texts = [
            "fn kv_get() {}",
            "struct KvStore;",
            "const KV: u8 = 1;",
            "const A: &str = \"kv\";",
            "const A: &str = \"lattice:log/commands\";",
        ];
        fires("host/kernel/src/a.rs", "store-type", &texts);
        silent("host/runtime/src/a.rs", &texts);
        silent(
            "host/kernel/src/a.rs",
            &[
                "struct Log;",
                "const A: &str = \"log\";",
                "// kv",
                "const A: &str = \"lattice:logic\";",
                "const A: &str = \"lattice:system/governance\";",
            ],
        );
    }

    #[test]
    fn module_that_is_declared_for_tests_is_a_test() {
        let tree = Tree::of(&[
            (
                "host/kernel/src/lib.rs",
                "//! A.\n#[cfg(test)]\nmod laws;\nmod log;\n",
            ),
            ("host/kernel/src/laws.rs", "//! A.\nuse rand::Rng;\n"),
            (
                "host/kernel/src/log.rs",
                "//! A.\n#[cfg(test)]\nmod scratch;\n",
            ),
            ("host/kernel/src/log/scratch.rs", "//! A.\nuse rand::Rng;\n"),
        ]);
        let mut violations = Vec::new();
        check(&tree, &examine(&tree), &mut violations);
        assert_eq!(violations, []);
    }
}

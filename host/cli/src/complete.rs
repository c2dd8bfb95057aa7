//! Completion of the word at the shell's cursor.
//!
//! Completion has two steps. [`wanted`] decides from the line alone which kind of word belongs at the cursor. The
//! shell then asks the node for names of that kind.

use std::ffi::OsStr;

use clap::{Arg, ArgAction, Command};

/// The kind of word that belongs at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One of these words.
    Words(Vec<String>),
    /// The first word of a line: one of these commands, or a function of the current store.
    First(Vec<String>),
    /// A store.
    Store,
    /// An installed component, or a file.
    Plugin,
    /// A function of this store. The store is named as on the line.
    Function(String),
    /// The name of a parameter, after `--`.
    Parameter {
        /// The store, as written on the line; `.` for the current store.
        store: String,
        /// The function that has the parameter.
        function: String,
    },
    /// A file.
    File,
    /// A word that cannot be completed.
    Unknown,
}

/// Splits a line, cut off at the cursor, into its whole words and the word at the cursor. `None` inside quotes,
/// where nothing is completed.
pub(crate) fn split(line: &str) -> Option<(Vec<String>, &str)> {
    let start = line
        .char_indices()
        .rev()
        .find(|(_, c)| c.is_whitespace())
        .map_or(0, |(at, c)| at + c.len_utf8());
    let (before, word) = line.split_at(start);
    let mut words = shlex::Shlex::new(before);
    let before: Vec<String> = words.by_ref().collect();
    (!words.had_error && !word.contains(['"', '\''])).then_some((before, word))
}

/// The kind of word that belongs after the words `before`. `word` is the beginning of the word at the cursor, and
/// `builtins` are the shell's own commands.
pub(crate) fn wanted(root: &Command, builtins: &[&str], before: &[String], word: &str) -> Wanted {
    let Some(first) = before.first() else {
        let mut words = subcommands(root);
        words.extend(builtins.iter().map(|&name| name.to_owned()));
        return Wanted::First(words);
    };
    if first == "use" {
        return if before.len() == 1 {
            Wanted::Store
        } else {
            Wanted::Unknown
        };
    }
    if word.starts_with('@') {
        return Wanted::File;
    }
    let (command, rest) = descend(root, before);
    if std::ptr::eq(command, root) {
        // The first word is a function of the current store.
        return parameter(".", first, word);
    }
    let mut positionals: Vec<&str> = Vec::new();
    let mut rest = rest.iter();
    while let Some(given) = rest.next() {
        match option_of(command, given) {
            Some(option) if takes_value(option) && !given.contains('=') => {
                if rest.next().is_none() {
                    return value_of(option, &positionals, word);
                }
            }
            // An option of `lattice`. After FUNCTION, options are arguments of the function.
            Some(_) if function_at(command).is_none_or(|at| positionals.len() <= at) => {}
            _ => positionals.push(given),
        }
    }
    if let Some(at) = function_at(command)
        && let Some(function) = positionals.get(at)
    {
        return parameter(positionals[0], function, word);
    }
    if word.starts_with('-') {
        return Wanted::Words(options(root, command));
    }
    let verbs = subcommands(command);
    if !verbs.is_empty() && positionals.is_empty() {
        return Wanted::Words(verbs);
    }
    match command.get_positionals().nth(positionals.len()) {
        Some(positional) => value_of(positional, &positionals, word),
        None => Wanted::Unknown,
    }
}

fn descend<'a, 'w>(root: &'a Command, words: &'w [String]) -> (&'a Command, &'w [String]) {
    let (mut command, mut rest) = (root, words);
    while let Some((word, after)) = rest.split_first() {
        match command.find_subcommand(OsStr::new(word)) {
            Some(found) => (command, rest) = (found, after),
            None => break,
        }
    }
    (command, rest)
}

fn subcommands(command: &Command) -> Vec<String> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect()
}

fn options(root: &Command, command: &Command) -> Vec<String> {
    let own = command.get_opts().chain(
        command
            .get_arguments()
            .filter(|arg| !arg.is_positional() && !takes_value(arg)),
    );
    let global = root.get_arguments().filter(|arg| arg.is_global_set());
    let mut names: Vec<String> = own
        .chain(global)
        .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn option_of<'a>(command: &'a Command, given: &str) -> Option<&'a Arg> {
    let name = given.strip_prefix("--")?;
    let name = name.split('=').next().unwrap_or(name);
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name))
}

/// The index of the positional argument FUNCTION, if the command has one.
fn function_at(command: &Command) -> Option<usize> {
    command
        .get_positionals()
        .position(|arg| arg.get_id() == "words")
}

fn parameter(store: &str, function: &str, word: &str) -> Wanted {
    if word.starts_with("--") {
        Wanted::Parameter {
            store: store.to_owned(),
            function: function.to_owned(),
        }
    } else {
        Wanted::Unknown
    }
}

fn value_of(arg: &Arg, positionals: &[&str], word: &str) -> Wanted {
    let values = arg.get_possible_values();
    if !values.is_empty() {
        return Wanted::Words(values.iter().map(|v| v.get_name().to_owned()).collect());
    }
    let shown = arg.get_value_names().and_then(<[_]>::first);
    match (arg.get_id().as_str(), shown.map(|name| name.as_str())) {
        ("words", _) => Wanted::Function(positionals.first().copied().unwrap_or(".").to_owned()),
        (_, Some("STORE")) => Wanted::Store,
        (_, Some("PLUGIN" | "FILE|NAME")) if !word.contains('/') => Wanted::Plugin,
        (_, Some("FILE" | "FILE|NAME" | "FILE|HASH" | "DIR" | "DIRECTORY")) => Wanted::File,
        _ => Wanted::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn check(line: &str, expected: Wanted) {
        let mut root = crate::args::Cli::command();
        root.build();
        let (before, word) = split(line).expect("no open quote");
        assert_eq!(wanted(&root, &["use"], &before, word), expected, "{line:?}");
    }

    fn holds(line: &str, expected: &str) {
        let mut root = crate::args::Cli::command();
        root.build();
        let (before, word) = split(line).expect("no open quote");
        match wanted(&root, &["use"], &before, word) {
            Wanted::Words(words) | Wanted::First(words) => {
                assert!(words.iter().any(|w| w == expected), "{line:?}: {words:?}");
            }
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn commands_and_options_are_known() {
        holds("st", "store");
        holds("", "use");
        holds("store ", "join");
        holds("store history notes --", "--since");
        holds("store history notes --", "--json");
        holds("store history notes --outcome ", "trapped");
    }

    #[test]
    fn names_are_asked_for_where_they_belong() {
        check("use ", Wanted::Store);
        check("store status no", Wanted::Store);
        check("call ", Wanted::Store);
        check("call notes pu", Wanted::Function("notes".into()));
        check("call notes --tx ", Wanted::File);
        check("store create x --plugin ", Wanted::Plugin);
        check("plugin inspect ./a", Wanted::File);
        check("plugin install ", Wanted::File);
        check("query notes get a ", Wanted::Unknown);
    }

    #[test]
    fn functions_know_their_parameters_and_files() {
        let parameter = |store: &str, function: &str| Wanted::Parameter {
            store: store.into(),
            function: function.into(),
        };
        check("call notes put --", parameter("notes", "put"));
        check("call notes put --key a --v", parameter("notes", "put"));
        check("put --k", parameter(".", "put"));
        check("call notes put a @/et", Wanted::File);
    }

    #[test]
    fn nothing_is_completed_inside_of_quotes() {
        assert_eq!(split("call notes put 'a b"), None);
        assert_eq!(
            split("call 'my notes' pu"),
            Some((vec!["call".into(), "my notes".into()], "pu"))
        );
    }
}

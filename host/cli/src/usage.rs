//! Errors and help of clap, in the form that all other messages have.

use clap::error::ErrorKind;

use crate::failure::Failure;

/// The failure for a wrong command line. Its text says what is wrong; its hint has clap's tips and the usage.
pub(crate) fn failure(error: &clap::Error) -> Failure {
    let rendered = error.render().to_string();
    let mut what: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for line in rendered
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        if let Some(tip) = line.strip_prefix("tip: ") {
            hints.push(tip.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            hints.push(format!("usage: {usage}"));
        } else if !line.starts_with("For more information") && hints.is_empty() {
            what.push(line.to_owned());
        }
    }
    if hints.is_empty() {
        hints.push("see `lattice --help`".to_owned());
    }
    Failure::usage(what.join(" ")).hint(hints.join("; "))
}

/// Whether clap's text is help or the version, which were asked for, or the help for a command line that lacks its
/// command.
pub(crate) fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// The commands that can be used in a shell, a line each with their descriptions.
pub(crate) fn commands(root: &clap::Command) -> String {
    let outside = |command: &clap::Command| matches!(command.get_name(), "daemon" | "shell");
    let commands = || {
        root.get_subcommands()
            .filter(|command| !command.is_hide_set() && !outside(command))
    };
    let width = commands().map(|c| c.get_name().len()).max().unwrap_or(0);
    let mut shown = String::from("Commands:\n");
    for command in commands() {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        shown.push_str(&format!("  {:width$}  {about}\n", command.get_name()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::{CommandFactory, Parser};

    fn line(words: &str) -> String {
        let error = Cli::try_parse_from(std::iter::once("lattice").chain(words.split(' ')))
            .expect_err("a wrong command line");
        let failure = failure(&error);
        assert_eq!(failure.exit_code(), 2);
        failure.line().expect("a line")
    }

    #[test]
    fn wrong_command_lines_are_told_in_one_line() {
        for words in [
            "call",
            "stroe list",
            "store create x",
            "store history x --outcome maybe",
            "store history x --since yesterday",
            "store invite x --uses 0",
            "store list extra",
            "notices ack seven",
            "call --final 5s x f",
            "query --at 1h x f",
        ] {
            let line = line(words);
            assert!(!line.contains('\n') && !line.contains(r"\n"), "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
            assert!(line.contains(';'), "{words}: {line}");
        }
        assert!(line("stroe list").contains("'store'"));
        assert!(line("store history x --since yesterday").contains("90min"));
        assert!(line("call --final 5s x f").contains("checkpoints"));
    }

    #[test]
    fn hidden_commands_are_not_listed() {
        let shown = commands(&Cli::command());
        assert!(shown.contains("  doctor   Examine"), "{shown}");
        assert!(!shown.contains("completions"), "{shown}");
    }
}

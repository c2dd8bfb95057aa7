//! README's tour as a test: every command that it shows is run, and must print what it shows.
//!
//! The tour is the fenced blocks of README.md that are opened by three backticks and `console tour`. They share one
//! shell in a new home directory, with the built `lattice` on the path, so variables last from one line to the next:
//!
//! ```text
//! $ lattice daemon --bind 127.0.0.1:0 &     a command in the background: waited for until it prints the lines below
//! node …                                    `…` stands for any text within the line
//! $ lattice call clicks add 5               a command that prints nothing
//! $ lattice call clicks add --by nonsense   # exit 2
//! …                                         a line of its own: any number of lines, also none
//! $ lattice query clicks value
//! 5                                         # two spaces and a hash start a remark
//! ```
//!
//! A command that ends in a backslash goes on in the next line. Standard error is compared too: the reader sees it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::ship;

/// How long one command of the tour may take, and a background command until it has printed its lines.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// How long background commands have to end by themselves when the tour is over.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(3);

/// One command of the tour, with what it must print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line in the document, from 1.
    pub line: usize,
    /// The command, without a closing `&`.
    pub command: String,
    /// Whether it runs in the background while the next commands run.
    pub background: bool,
    /// The status that it must end with.
    pub exit: i32,
    /// The lines that it must print.
    pub expected: Vec<String>,
}

/// Runs the tour of `root`'s README.md with the `lattice` of the last shipping build.
///
/// # Errors
///
/// When there is no tour, and at the first command that does not do what it shows.
pub fn run_readme(root: &Path) -> Result<()> {
    let readme = fs::read_to_string(root.join("README.md")).context("cannot read README.md")?;
    let steps = parse(&readme).context("README.md")?;
    if steps.is_empty() {
        bail!("README.md has no block that is opened by ```console tour");
    }
    run(&steps, &ship::directory()).context("README.md")?;
    eprintln!("    {} commands did what README shows", steps.len());
    Ok(())
}

/// Reads the steps out of a Markdown document, in order.
///
/// # Errors
///
/// At a block without an end, output before the first command, and a background command without output, as
/// nothing would say when it is ready.
pub fn parse(markdown: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = markdown
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    while let Some((opened, line)) = lines.next() {
        if !is_opening(line) {
            continue;
        }
        let steps_before = steps.len();
        loop {
            let Some((number, line)) = lines.next() else {
                bail!("line {opened}: this block has no end");
            };
            if line.trim_end() == "```" {
                break;
            }
            if let Some(start) = line.strip_prefix("$ ") {
                let mut text = start.trim_end().to_owned();
                while text.ends_with('\\') {
                    let Some((_, more)) = lines.next() else {
                        bail!("line {number}: this command has no end");
                    };
                    text.pop();
                    text.push_str(more.strip_prefix("> ").unwrap_or(more).trim());
                }
                steps.push(command(number, &text)?);
            } else if steps.len() > steps_before {
                let step = steps.last_mut().expect("this block has a command");
                step.expected.push(without_remark(line).to_owned());
            } else if !line.trim().is_empty() {
                bail!("line {number}: output before the block's first command");
            }
        }
        for step in &mut steps[steps_before..] {
            while step.expected.last().is_some_and(String::is_empty) {
                step.expected.pop();
            }
            if step.background && step.expected.is_empty() {
                bail!(
                    "line {}: a background command needs the line that it prints when it is ready",
                    step.line
                );
            }
        }
    }
    Ok(steps)
}

fn is_opening(line: &str) -> bool {
    line.strip_prefix("```")
        .is_some_and(|info| info.split_whitespace().eq(["console", "tour"]))
}

fn command(line: usize, text: &str) -> Result<Step> {
    let (text, exit) = match text.rsplit_once("# exit ") {
        Some((before, status)) => {
            let status = status
                .trim()
                .parse()
                .with_context(|| format!("line {line}: exit status `{status}`"))?;
            (before.trim_end(), status)
        }
        None => (text, 0),
    };
    let background = text.ends_with('&') && !text.ends_with("&&");
    let command = if background {
        text.trim_end_matches('&').trim_end()
    } else {
        text
    };
    Ok(Step {
        line,
        command: command.to_owned(),
        background,
        exit,
        expected: Vec::new(),
    })
}

fn without_remark(line: &str) -> &str {
    let end = line.find("  # ").unwrap_or(line.len());
    line[..end].trim_end()
}

/// Whether `actual` is what `expected` shows: `…` stands for any text in a line, and alone for any lines.
pub fn matches(expected: &[String], actual: &[&str]) -> bool {
    match expected.split_first() {
        None => actual.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=actual.len()).any(|skip| matches(rest, &actual[skip..]))
        }
        Some((first, rest)) => actual
            .split_first()
            .is_some_and(|(line, others)| line_matches(first, line) && matches(rest, others)),
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let line = line.trim_end();
    match pattern.split_once('…') {
        None => pattern == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices()
                .map(|(index, _)| index)
                .chain([tail.len()])
                .any(|index| line_matches(rest, &tail[index..]))
        }),
    }
}

/// Runs the steps in one shell, in a new home directory, with `bin` first on the path.
///
/// When this returns, all that the shell started has ended, and the home is removed.
///
/// # Errors
///
/// At the first step that prints or returns something else than it shows, or takes more than a minute.
pub fn run(steps: &[Step], bin: &Path) -> Result<()> {
    let home = tempfile::tempdir().context("cannot make a home for the tour")?;
    let mut shell = Shell::start(home.path(), bin)?;
    for (index, step) in steps.iter().enumerate() {
        shell
            .check(index, step)
            .with_context(|| format!("line {}: $ {}", step.line, step.command))?;
    }
    Ok(())
}

/// A bash that runs one command after the other. Dropping it ends it and all that it started.
struct Shell<'a> {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    home: &'a Path,
}

impl<'a> Shell<'a> {
    fn start(home: &'a Path, bin: &Path) -> Result<Shell<'a>> {
        let old_path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [bin.to_path_buf()]
                .into_iter()
                .chain(std::env::split_paths(&old_path)),
        )?;
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(home)
            .env("HOME", home)
            .env("PATH", path)
            .env_remove("LATTICE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A process group of its own, so that background commands can be ended with the shell.
            .process_group(0)
            .spawn()
            .context("cannot start bash")?;
        let mut input = child.stdin.take().expect("standard input is piped");
        let output = child.stdout.take().expect("standard output is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        input.write_all(b"exec 2>&1\n")?;
        Ok(Shell {
            child,
            input,
            lines,
            home,
        })
    }

    fn check(&mut self, index: usize, step: &Step) -> Result<()> {
        if step.background {
            self.check_background(index, step)
        } else {
            self.check_foreground(index, step)
        }
    }

    fn check_foreground(&mut self, index: usize, step: &Step) -> Result<()> {
        let end = format!("-- end of tour command {index}:");
        // The command goes through eval, so that a command with a syntax error cannot swallow the lines after it.
        writeln!(
            self.input,
            "eval {} </dev/null\nprintf '\\n%s%d\\n' '{end}' $?",
            quoted(&step.command)
        )?;
        let deadline = Instant::now() + COMMAND_TIME_MAX;
        let mut printed: Vec<String> = Vec::new();
        let status = loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => match line.strip_prefix(&end) {
                    Some(status) => break status.parse::<i32>().context("the shell's status")?,
                    None => printed.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "took more than {COMMAND_TIME_MAX:?}; it printed:\n{}",
                        printed.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended the shell; it printed:\n{}", printed.join("\n"))
                }
            }
        };
        // The line feed before the mark closes a last line without one, and is an empty line after any other.
        // A block in a document cannot show empty lines at its end either.
        while printed.last().is_some_and(String::is_empty) {
            printed.pop();
        }
        let lines: Vec<&str> = printed.iter().map(String::as_str).collect();
        if status != step.exit {
            bail!(
                "ended with status {status}, not {}; it printed:\n{}",
                step.exit,
                lines.join("\n")
            );
        }
        if !matches(&step.expected, &lines) {
            bail!(
                "should print:\n{}\nbut printed:\n{}",
                step.expected.join("\n"),
                lines.join("\n")
            );
        }
        Ok(())
    }

    fn check_background(&mut self, index: usize, step: &Step) -> Result<()> {
        let name = format!(".tour-background-{index}");
        writeln!(
            self.input,
            "eval {} </dev/null >\"$HOME\"/{name} &",
            quoted(&step.command)
        )?;
        let deadline = Instant::now() + COMMAND_TIME_MAX;
        loop {
            // The file may not exist yet, and may have more lines than those that say that the command is ready.
            let printed = fs::read_to_string(self.home.join(&name)).unwrap_or_default();
            let lines: Vec<&str> = printed.lines().collect();
            if (0..=lines.len()).any(|count| matches(&step.expected, &lines[..count])) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "should print:\n{}\nbut printed:\n{printed}",
                    step.expected.join("\n")
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        let Ok(group) = i32::try_from(self.child.id()) else {
            return;
        };
        let Some(group) = Pid::from_raw(group) else {
            return;
        };
        // The call fails when no process of the group is left.
        let _ = kill_process_group(group, Signal::TERM);
        let deadline = Instant::now() + SHUTDOWN_TIME_MAX;
        // The reader's channel closes when the last process that holds the shell's output is gone.
        while Instant::now() < deadline {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Quotes a text as one word of bash.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &str) -> String {
        format!(
            "# Title\n\n```console\n$ not part of it\n```\n\n```console tour\n{lines}\n```\n\ntext\n"
        )
    }

    fn check(lines: &str) -> Result<()> {
        run(&parse(&block(lines))?, Path::new("no-such-directory"))
    }

    fn check_fails(lines: &str, reason: &str) {
        let error = format!("{:#}", check(lines).expect_err("the tour must fail"));
        assert!(error.contains(reason), "`{error}` does not say `{reason}`");
    }

    #[test]
    fn only_marked_blocks_are_read() {
        let steps =
            parse(&block("$ echo a\na  # remark\n\n$ b --c \\\n>   d\n")).expect("it parses");
        let step = |line, command: &str, expected: &[&str]| Step {
            line,
            command: command.into(),
            background: false,
            exit: 0,
            expected: expected.iter().map(|&line| line.into()).collect(),
        };
        assert_eq!(steps, [step(8, "echo a", &["a"]), step(11, "b --c d", &[])]);
        assert!(
            parse("```console\n$ x\n```\n")
                .expect("it parses")
                .is_empty()
        );
    }

    #[test]
    fn malformed_blocks_are_named_by_line() {
        for (text, reason) in [
            ("```console tour\n$ x", "line 1"),
            ("```console tour\nearly\n```", "line 2"),
            ("\n```console tour\n$ x &\n```", "line 3"),
            ("```console tour\n$ x # exit soon\n```", "line 2"),
        ] {
            let error = format!("{:#}", parse(text).expect_err("it must not parse"));
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn wildcards_stand_for_text_and_for_lines() {
        let expected = |lines: &[&str]| {
            lines
                .iter()
                .map(|&line| line.to_owned())
                .collect::<Vec<_>>()
        };
        assert!(matches(&expected(&["node … ready"]), &["node 12ab ready"]));
        assert!(matches(&expected(&["a…b…"]), &["a b c"]));
        assert!(matches(&expected(&["…é"]), &["née é"]));
        assert!(!matches(&expected(&["node …"]), &["edon 12"]));
        assert!(matches(&expected(&["a", "…", "z"]), &["a", "z"]));
        assert!(matches(&expected(&["a", "…", "z"]), &["a", "b", "c", "z"]));
        assert!(!matches(&expected(&["a", "…", "z"]), &["a", "b"]));
        assert!(!matches(&expected(&[]), &["unexpected"]));
        assert!(!matches(&expected(&["missing"]), &[]));
    }

    #[test]
    fn commands_share_one_shell_and_a_fresh_home() {
        check("$ X=$(echo \"it's here\")\n$ echo $X; echo err >&2\nit's here\nerr\n$ ls -A ~\n$ printf 'no end'\nno end")
            .expect("the tour holds");
        check("$ printf 'a\\n\\n'\na\n$ cat\n$ false # exit 1\n$ [ \"$PWD\" = \"$HOME\" ]")
            .expect("the tour holds");
    }

    #[test]
    fn wrong_output_status_and_syntax_are_reported() {
        check_fails("$ echo b\na", "but printed:\nb");
        check_fails("$ echo surprise", "but printed:\nsurprise");
        check_fails("$ false", "ended with status 1, not 0");
        check_fails("$ echo 'open", "unexpected EOF");
        check_fails("$ exit 0", "ended the shell");
    }

    #[test]
    fn background_command_is_waited_for_and_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = dir.path().join("mark").display().to_string();
        let lines = format!(
            "$ sh -c 'sleep 0.2; echo ready $$ >{mark}; echo ready; echo more; exec sleep 600' &\nready\n$ cat {mark}\nready …"
        );
        check(&lines).expect("the tour holds");
        let pid = fs::read_to_string(&mark)
            .expect("it ran")
            .trim()
            .replace("ready ", "");
        // It was killed, and dies when the system has a processor for it.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "the background command still runs: {state}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

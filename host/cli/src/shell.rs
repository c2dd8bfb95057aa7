//! `shell`: the same commands at a prompt, with completion, history and a current store.
//!
//! A line is a command without the word `lattice` or, if there is a current store, one of its functions with
//! arguments. `.` stands for the current store.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use lattice_daemon::api;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, Helper, Highlighter, Hinter, Validator};
use tokio::runtime::{Handle, Runtime};

use crate::args::{Cli, Command};
use crate::arguments::{Sources, function_call, words};
use crate::complete::{Wanted, split, wanted};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::Form;
use crate::session::Need;
use crate::{call, guard, output, plugin, signals, store, text, usage};

/// How many lines the history keeps.
const HISTORY_LINES: usize = 10_000;
/// How long completion waits for the node, so that the prompt does not hang.
const COMPLETION_WAIT: Duration = Duration::from_millis(500);
/// The shell's own commands.
const BUILTINS: [&str; 4] = ["use", "help", "exit", "quit"];

const HELP: &str = "\
At this prompt:
  use STORE       makes STORE the current store; `use` alone leaves it
  FUNCTION ARGS…  runs a function of the current store
  .               stands for the current store: `store status .`
  exit            leaves, as Ctrl-D does; Ctrl-C ends what is running
";

/// Who reads what the shell prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A person at a terminal. The shell goes on after a failure.
    Person,
    /// A program. The shell ends at the first failure.
    Script,
}

/// Runs the shell until its input ends. Without a terminal the first failure ends it.
pub(crate) fn run(runtime: &Runtime, context: &Context) -> Result<()> {
    let reader = match io::stdin().is_terminal() && io::stdout().is_terminal() {
        true => Reader::Person,
        false => Reader::Script,
    };
    // Opens the home now, so that an error is reported before the first command.
    runtime.block_on(context.stores(Need::Home))?;
    end_on_sigterm(runtime, context.clone());
    let mut editor = editor(runtime, context)?;
    let history = history_file(context);
    if reader == Reader::Person {
        // A new home has no history, and the shell does not fail because a history cannot be read.
        let _ = editor.load_history(&history);
        context
            .output
            .note("`help` lists the commands, `use STORE` chooses a store, Ctrl-D leaves.");
    }
    let ended = read_lines(runtime, context, &mut editor, reader);
    if reader == Reader::Person {
        save_history(&mut editor, &history);
    }
    ended
}

type LineEditor = Editor<Completion, FileHistory>;

fn editor(runtime: &Runtime, context: &Context) -> Result<LineEditor> {
    let failed = |error: ReadlineError| Failure::failed(format!("no prompt here: {error}"));
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)
        .map_err(failed)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config).map_err(failed)?;
    editor.set_helper(Some(Completion::new(
        runtime.handle().clone(),
        context.clone(),
    )));
    Ok(editor)
}

fn history_file(context: &Context) -> PathBuf {
    context.home.join("shell-history")
}

/// Saves the history. Lines may hold secrets, so only the owner of the file can read it.
fn save_history(editor: &mut LineEditor, path: &PathBuf) {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    if let Err(error) = made
        .map_err(ReadlineError::from)
        .and_then(|_| editor.save_history(path))
    {
        tracing::warn!("cannot keep the history in {}: {error}", path.display());
    }
}

/// Ends the process at SIGTERM and SIGHUP. A task does so, because the thread that waits for a line cannot be
/// interrupted.
fn end_on_sigterm(runtime: &Runtime, context: Context) {
    runtime.spawn(async move {
        if let Ok(mut signals) = signals::listen_for_the_end() {
            signals.recv().await;
            context.close().await;
            std::process::exit(0);
        }
    });
}

fn read_lines(
    runtime: &Runtime,
    context: &Context,
    editor: &mut LineEditor,
    reader: Reader,
) -> Result<()> {
    loop {
        let prompt = match context.current_store() {
            Some(store) => format!("{}> ", text::line(&store)),
            None => "lattice> ".to_owned(),
        };
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(Failure::failed(format!("cannot read a line: {error}"))),
        };
        if reader == Reader::Person {
            // A line is run even if the history does not take it.
            let _ = editor.add_history_entry(line.as_str());
        }
        match run_line(runtime, context, &line) {
            Ok(Next::Line) => {}
            Ok(Next::End) => return Ok(()),
            Err(failure) if reader == Reader::Person => context.output.failure(&failure),
            Err(failure) => return Err(failure),
        }
    }
}

/// What the shell does after a line.
enum Next {
    Line,
    End,
}

fn run_line(runtime: &Runtime, context: &Context, line: &str) -> Result<Next> {
    let words = words(line).ok_or_else(|| Failure::usage("a quote is not closed"))?;
    let Some(first) = words.first() else {
        return Ok(Next::Line);
    };
    match first.to_str() {
        Some("exit" | "quit") => return Ok(Next::End),
        Some("use") => runtime.block_on(choose(context, &words[1..]))?,
        Some("help") if words.len() == 1 => {
            context
                .output
                .text(&format!("{}\n{HELP}", usage::commands(&Cli::command())))?;
        }
        _ if is_command(first) => run_command(runtime, context, &words)?,
        _ => runtime.block_on(guard::interruptible(
            context,
            guard::AtSignal::GiveUp,
            run_function(context, &words),
        ))?,
    }
    Ok(Next::Line)
}

fn is_command(word: &OsString) -> bool {
    word.to_str()
        .is_some_and(|word| word.starts_with('-') || word == "help")
        || Cli::command().find_subcommand(word).is_some()
}

/// Runs a line that is a command, parsed like a command line of `lattice`.
fn run_command(runtime: &Runtime, context: &Context, words: &[OsString]) -> Result<()> {
    let whole = std::iter::once(OsString::from("lattice")).chain(words.iter().cloned());
    let cli = match Cli::try_parse_from(whole) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            return context.output.text(&error.render().to_string());
        }
        Err(error) => return Err(usage::failure(&error)),
    };
    if cli.global.home.is_some() {
        return Err(Failure::usage("a shell has one home, and --home was given")
            .hint("start another shell for that home"));
    }
    if matches!(cli.command, Command::Daemon(_)) {
        return Err(Failure::usage("a daemon does not run inside of a shell")
            .hint("run `lattice daemon` outside of it"));
    }
    let mut context = context.clone();
    let alone = cli.global.json && !context.output.is_json();
    if alone {
        context.output = output::Output::new(Form::Json);
    }
    context.verbosity = context.verbosity.max(cli.global.verbose);
    let at_signal = cli.command.at_signal();
    let done = runtime.block_on(guard::interruptible(
        &context,
        at_signal,
        cli.command.run(&context),
    ));
    match done {
        Err(failure) if alone => {
            // The shell itself prints text; the document that this line asked for is printed here.
            context.output.document(&failure);
            Err(failure.with_document_printed())
        }
        done => done,
    }
}

/// `use`: chooses the current store, or none.
async fn choose(context: &Context, words: &[OsString]) -> Result<()> {
    let store = match words {
        [] => None,
        [store] => {
            let described = describe(context, &store.to_string_lossy()).await?;
            described.store.map(|store| store.path)
        }
        _ => return Err(Failure::usage("`use` takes one store")),
    };
    context.set_current_store(store);
    Ok(())
}

async fn describe(context: &Context, written: &str) -> Result<api::DescribeStoreResponse> {
    let store = context.store(written)?;
    let mut stores = context.stores(Need::Node).await?;
    let request = api::DescribeStoreRequest { store };
    Ok(stores.describe(request).await?.into_inner())
}

/// Runs a function of the current store, as the command or the query that the component exports.
async fn run_function(context: &Context, words: &[OsString]) -> Result<()> {
    let Some(store) = context.current_store() else {
        return Err(
            Failure::usage(format!("{} is no command", words[0].to_string_lossy()))
                .hint("`help` lists them; `use STORE` makes a store's functions commands"),
        );
    };
    let call = function_call(words, &mut Sources::default())?;
    let functions = functions(&describe(context, &store).await?);
    let kinds: Vec<api::InterfaceKind> = functions
        .iter()
        .filter(|known| known.is_meant_by(&call.function))
        .map(|known| known.kind)
        .collect();
    match kinds.as_slice() {
        [] => {
            let names: Vec<String> = functions
                .iter()
                .filter(|known| known.bare)
                .map(Known::name)
                .collect();
            Err(Failure::usage(format!(
                "{} is neither a command nor a function of {store}",
                call.function
            ))
            .hint(format!("it has {}", names.join(", "))))
        }
        kinds if kinds.contains(&api::InterfaceKind::Commands) => {
            call::run_call(context, store, vec![call], false).await
        }
        _ => call::run_query(context, store, call).await,
    }
}

/// A function of a store, with the interface that it belongs to.
struct Known {
    interface: String,
    kind: api::InterfaceKind,
    function: api::Function,
    /// Whether its name alone is enough. For a function of governance it is not, if the store has an app.
    bare: bool,
}

impl Known {
    /// Whether `written` is its name, alone or after the name of its interface.
    fn is_meant_by(&self, written: &str) -> bool {
        let Some(rest) = written.strip_suffix(self.function.name.as_str()) else {
            return false;
        };
        let Some(interface) = rest.strip_suffix('.') else {
            return rest.is_empty() && self.bare;
        };
        let last = self.interface.rsplit('/').next();
        interface == self.interface || Some(interface) == last
    }

    /// Its name as written at the prompt, after the name of its interface unless it is `bare`.
    fn name(&self) -> String {
        if self.bare {
            self.function.name.clone()
        } else {
            format!("{}.{}", self.interface, self.function.name)
        }
    }
}

/// The commands and queries of a store: those of its app, then those of its governance.
fn functions(described: &api::DescribeStoreResponse) -> Vec<Known> {
    let mut known = Vec::new();
    let app = described.app.iter().map(|app| (app, true));
    let governance = described
        .governance
        .iter()
        .map(|g| (g, described.app.is_none()));
    for (component, bare) in app.chain(governance) {
        for interface in &component.interfaces {
            let kind = interface.kind();
            if !matches!(
                kind,
                api::InterfaceKind::Commands | api::InterfaceKind::Queries
            ) {
                continue;
            }
            known.extend(interface.functions.iter().map(|function| Known {
                interface: interface.name.clone(),
                kind,
                function: function.clone(),
                bare,
            }));
        }
    }
    known
}

/// Completes words at the prompt.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Completion {
    runtime: Handle,
    context: Context,
    root: clap::Command,
    files: FilenameCompleter,
    described: Mutex<HashMap<String, api::DescribeStoreResponse>>,
}

impl Completion {
    fn new(runtime: Handle, context: Context) -> Completion {
        let mut root = Cli::command();
        root.build();
        Completion {
            runtime,
            context,
            root,
            files: FilenameCompleter::new(),
            described: Mutex::default(),
        }
    }

    /// Waits for an answer of the node. `None` if it fails or takes longer than `COMPLETION_WAIT`.
    fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Option<T> {
        self.runtime.block_on(async {
            tokio::time::timeout(COMPLETION_WAIT, question)
                .await
                .ok()?
                .ok()
        })
    }

    fn functions(&self, written: &str) -> Vec<Known> {
        let Ok(store) = self.context.store(written) else {
            return Vec::new();
        };
        let mut described = self
            .described
            .lock()
            .expect("nothing panics while it holds this lock");
        if !described.contains_key(&store)
            && let Some(answer) = self.ask(describe(&self.context, &store))
        {
            described.insert(store.clone(), answer);
        }
        described.get(&store).map(functions).unwrap_or_default()
    }

    fn function_names(&self, store: &str) -> Vec<String> {
        self.functions(store).iter().map(Known::name).collect()
    }

    fn stores(&self) -> Vec<String> {
        let stores = self.ask(store::all(&self.context)).unwrap_or_default();
        stores.into_iter().map(|store| store.path).collect()
    }

    fn names(&self, wanted: Wanted) -> Vec<String> {
        match wanted {
            Wanted::Words(words) => words,
            Wanted::First(mut words) => {
                words.extend(self.function_names("."));
                words
            }
            Wanted::Store => self.stores(),
            Wanted::Plugin => {
                let plugins = self.ask(plugin::all(&self.context)).unwrap_or_default();
                plugins.into_iter().map(|plugin| plugin.name).collect()
            }
            Wanted::Function(store) => self.function_names(&store),
            Wanted::Parameter { store, function } => {
                let mut functions = self.functions(&store);
                functions.retain(|known| known.is_meant_by(&function));
                functions
                    .iter()
                    .flat_map(|known| &known.function.parameters)
                    .map(|parameter| format!("--{}", parameter.name))
                    .collect()
            }
            Wanted::File | Wanted::Unknown => Vec::new(),
        }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = &line[..pos];
        let Some((before, word)) = split(line) else {
            return Ok((pos, Vec::new()));
        };
        let wanted = wanted(&self.root, &BUILTINS, &before, word);
        let start = pos - word.len();
        if wanted == Wanted::File {
            // `@` marks a file; its name begins after it.
            let name = word.strip_prefix('@').unwrap_or(word);
            let (at, files) = self.files.complete_path(name, name.len())?;
            return Ok((pos - name.len() + at, files));
        }
        let mut names: Vec<String> = self
            .names(wanted)
            .into_iter()
            .filter(|name| name.starts_with(word))
            .collect();
        names.sort();
        names.dedup();
        let pairs = names.into_iter().map(|name| Pair {
            display: text::line(&name),
            replacement: quoted(&name).into_owned() + " ",
        });
        Ok((start, pairs.collect()))
    }
}

/// A name, quoted if the prompt needs it to be.
fn quoted(name: &str) -> Cow<'_, str> {
    shlex::try_quote(name).unwrap_or(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_meant_by_name_or_with_their_interface() {
        let known = Known {
            interface: "lattice:kv/commands".into(),
            kind: api::InterfaceKind::Commands,
            function: api::Function {
                name: "put".into(),
                ..Default::default()
            },
            bare: true,
        };
        for written in ["put", "commands.put", "lattice:kv/commands.put"] {
            assert!(known.is_meant_by(written), "{written}");
        }
        for written in ["output", "queries.put", ".put", "put.x", ""] {
            assert!(!known.is_meant_by(written), "{written}");
        }
        let known = Known {
            bare: false,
            ..known
        };
        assert!(!known.is_meant_by("put"));
        assert!(known.is_meant_by(&known.name()));
    }

    #[test]
    fn commands_go_before_functions() {
        assert!(is_command(&"store".into()));
        assert!(is_command(&"--json".into()));
        assert!(!is_command(&"put".into()));
    }
}

//! What a command prints, and how it ends: the forms, exit codes and one line of an error that `lattice` has.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

/// The result of a command or a part of one.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// In which form results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// How a command ends that did not do what it was asked. The numbers are the exit codes of `lattice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// What should hold did not.
    Refused = 1,
    /// The command makes no sense.
    Usage = 2,
    /// A file cannot be read or written.
    Failed = 4,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::Refused => "refused",
            Class::Usage => "usage",
            Class::Failed => "failed",
        }
    }
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    class: Class,
    text: String,
    hint: String,
    has_document: bool,
}

impl Failure {
    pub(crate) fn new(class: Class, text: impl Into<String>) -> Failure {
        Failure {
            class,
            text: text.into(),
            hint: String::new(),
            has_document: false,
        }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Class::Usage, text)
    }

    pub(crate) fn failed(text: impl Into<String>) -> Failure {
        Failure::new(Class::Failed, text)
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    /// Says that the JSON document has been printed, with all that this failure could add to it.
    pub(crate) fn with_document_printed(mut self) -> Failure {
        self.has_document = true;
        self
    }

    fn line(&self) -> String {
        match self.hint.as_str() {
            "" => in_one_line(&self.text),
            hint => format!("{}; {}", in_one_line(&self.text), in_one_line(hint)),
        }
    }

    fn document(&self) -> Value {
        json!({
            "error": {
                "class": self.class.name(),
                "exit_code": self.class as u8,
                "text": self.text,
                "hint": self.hint,
                "candidates": [],
            }
        })
    }
}

/// Text in one line, in which nothing can disturb a terminal: scripts and files of others are quoted in it.
fn in_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// Where a command prints to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    form: Form,
}

impl Output {
    pub(crate) fn new(form: Form) -> Output {
        Output { form }
    }

    pub(crate) fn is_json(self) -> bool {
        self.form == Form::Json
    }

    /// Prints a command's result in the form that is asked for.
    pub(crate) fn result(
        self,
        text: impl FnOnce() -> String,
        document: impl FnOnce() -> Value,
    ) -> Result<()> {
        match self.form {
            Form::Text => self.text(&text()),
            Form::Json => self.text(&format!("{:#}\n", document())),
        }
    }

    /// Prints text in either form.
    pub(crate) fn text(self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match written {
            // Who has read enough may leave.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("cannot write the output: {error}"))
                    .with_document_printed())
            }
            _ => Ok(()),
        }
    }

    /// Reports how a command failed, and returns what the process ends with.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        if self.is_json() && !failure.has_document {
            // The line on standard error follows in any case.
            let _ = self.text(&format!("{:#}\n", failure.document()));
        }
        let _ = writeln!(io::stderr(), "error: {}", failure.line());
        ExitCode::from(failure.class as u8)
    }
}

/// Writes a file that a command was asked for.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| {
        Failure::failed(format!("{}: {error}", path.display()))
            .hint("name a file that can be written")
    })
}

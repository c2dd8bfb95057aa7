//! What commands print: text for people, one JSON document for programs.
//!
//! A command renders both forms. This module prints the one that was asked for, and keeps results (standard
//! output) apart from remarks (standard error).

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::text;

/// The form in which results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text for people.
    Text,
    /// One JSON document; for a stream, one document a line.
    Json,
    /// One JSON document a line, of every command: what a shell prints is one stream.
    JsonLines,
}

/// The standard streams, and the form in which results are printed to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    form: Form,
}

impl Output {
    /// An output that prints results in this form.
    pub(crate) fn new(form: Form) -> Output {
        Output { form }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(self) -> bool {
        self.form != Form::Text
    }

    /// Prints a command's result in the form that was asked for. Text that does not end with a line end gets
    /// one; of empty text nothing is printed.
    pub(crate) fn result(
        self,
        text: impl FnOnce() -> String,
        document: impl FnOnce() -> Value,
    ) -> Result<()> {
        match self.form {
            Form::Text => self.text(&text()),
            Form::Json => self.text(&json_text(&document(), Layout::Pretty)),
            Form::JsonLines => self.text(&json_text(&document(), Layout::Line)),
        }
    }

    /// Prints one message of a stream.
    pub(crate) fn message(
        self,
        text: impl FnOnce() -> String,
        document: impl FnOnce() -> Value,
    ) -> Result<()> {
        match self.form {
            Form::Text => self.text(&text()),
            Form::Json | Form::JsonLines => self.text(&json_text(&document(), Layout::Line)),
        }
    }

    /// Prints text whichever form was asked for, such as a completion script, which has no JSON form.
    pub(crate) fn text(self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(())
    }

    /// Prints a remark for a person at a terminal. Scripts do not see it.
    pub(crate) fn note(self, text: &str) {
        if io::stderr().is_terminal() {
            // A command does not fail because a remark cannot be written.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Prints a warning, which scripts see as well.
    pub(crate) fn warn(self, text: &str) {
        let _ = writeln!(io::stderr(), "warning: {}", text::line(text));
    }

    /// Reports how a command failed. In JSON that is one line: the command may have printed a stream before.
    pub(crate) fn failure(self, failure: &Failure) {
        self.document(failure);
        if let Some(line) = failure.line() {
            let _ = writeln!(io::stderr(), "error: {line}");
        }
    }

    /// Prints the document of a failure, if JSON was asked for and it has none yet.
    pub(crate) fn document(self, failure: &Failure) {
        if let Some(document) = failure.document()
            && self.is_json()
        {
            // If the document cannot be written, the line on standard error still follows.
            let _ = self.text(&json_text(&document, Layout::Line));
        }
    }

    /// Asks a person at the terminal to agree, after showing `shown`. Does not ask if `yes` is given.
    ///
    /// # Errors
    /// Class `Failed` for any answer but yes.
    pub(crate) fn confirm(self, yes: Yes, shown: &str, question: &str) -> Result<()> {
        if yes == Yes::Given {
            return Ok(());
        }
        let mut answer = String::new();
        let mut err = io::stderr().lock();
        let asked = write!(err, "{shown}\n{question} [y/N] ").and_then(|()| err.flush());
        asked
            .and_then(|()| io::stdin().read_line(&mut answer))
            .map_err(|error| Failure::failed(format!("cannot ask: {error}")))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::failed("not agreed to; nothing was done")),
        }
    }
}

/// Whether a person has agreed beforehand, with `--yes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yes {
    /// `--yes` was given.
    Given,
    /// A person has to be asked.
    Ask,
}

/// How JSON is laid out.
#[derive(Clone, Copy)]
enum Layout {
    Pretty,
    Line,
}

/// JSON that cannot disturb a terminal. JSON itself leaves DEL, C1 controls and changes of direction as they are.
/// They occur inside strings only, where an escape means the same character.
fn json_text(document: &Value, layout: Layout) -> String {
    let plain = match layout {
        Layout::Pretty => format!("{document:#}"),
        Layout::Line => document.to_string(),
    };
    let mut safe = String::with_capacity(plain.len());
    for c in plain.chars() {
        if c != '\n' && text::is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A plain table: aligned columns with two spaces between them, without lines and without spaces at the ends of
/// rows.
pub(crate) struct Columns {
    table: Table,
    rows: usize,
}

impl Columns {
    /// A table with this head. A column whose name starts with `>` is aligned to the right.
    pub(crate) fn new(head: &[&str]) -> Columns {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(head.iter().map(|name| name.trim_start_matches('>')));
        let last = head.len().saturating_sub(1);
        for (column, (index, name)) in table.column_iter_mut().zip(head.iter().enumerate()) {
            column.set_padding((0, if index == last { 0 } else { 2 }));
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Columns { table, rows: 0 }
    }

    /// Adds a row. Its cells are escaped, so that each is safe and stays on one line.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table
            .add_row(cells.into_iter().map(|cell| Cell::new(text::line(&cell))));
        self.rows += 1;
    }

    /// The table, or `empty` if it has no rows.
    pub(crate) fn or(self, empty: &str) -> String {
        if self.rows == 0 {
            return empty.to_owned();
        }
        self.to_string()
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for row in self.table.lines() {
            writeln!(f, "{}", row.trim_end())?;
        }
        Ok(())
    }
}

/// Names and their values, a line each. Values are escaped, so that each is safe and stays on one line.
pub(crate) fn fields<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<(&str, String)> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:width$}  {}\n", text::line(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_align_and_end_cleanly() {
        let mut table = Columns::new(&["NAME", ">ENTRIES", "STATE"]);
        table.row(["a".into(), "5".into(), "ready".into()]);
        table.row(["longer\n".into(), "12345".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME      ENTRIES  STATE\na               5  ready\nlonger\\n    12345\n"
        );
    }

    #[test]
    fn empty_tables_say_so() {
        assert_eq!(Columns::new(&["NAME"]).or("no stores"), "no stores");
    }

    #[test]
    fn json_cannot_disturb_a_terminal() {
        let text = json_text(&json!({"k": "\u{9b}2J\u{202e}\n"}), Layout::Line);
        assert_eq!(text, r#"{"k":"\u009b2J\u202e\n"}"#);
        let back: Value = serde_json::from_str(&text).expect("still JSON");
        assert_eq!(back["k"], "\u{9b}2J\u{202e}\n");
    }

    #[test]
    fn fields_align() {
        assert_eq!(
            fields([("id", "1".into()), ("state", "a\tb".into())]),
            "id     1\nstate  a\\tb\n"
        );
    }
}

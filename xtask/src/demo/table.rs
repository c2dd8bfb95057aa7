//! The end of a history as a person reads it: a table with times in words, no wider than a terminal.

use serde_json::Value;

/// How many entries are shown.
const SHOWN: usize = 8;

/// The widest line, in characters.
const WIDTH_MAX: usize = 100;

/// The indentation of the demo's lines below a heading.
const INDENT: &str = "   ";

/// The names of the columns.
const HEAD: [&str; 4] = ["TIME", "AUTHOR", "CALL", "OUTCOME"];

/// The longest call that is shown whole, in characters.
const CALL_CHARS_MAX: usize = 30;

/// A node: the key that its entries name, and its name in the demo.
pub(super) struct Author {
    pub(super) key: String,
    pub(super) name: &'static str,
}

/// The last entries of a history as the lines of a table.
pub(super) fn end(history: &[Value], authors: &[Author], now_ms: u64) -> Vec<String> {
    let skipped = history.len().saturating_sub(SHOWN);
    let mut rows = vec![HEAD.map(str::to_owned)];
    for entry in &history[skipped..] {
        let time_ms = entry["time"]["wall_ms"].as_u64().unwrap_or(now_ms);
        let time = ago(now_ms.saturating_sub(time_ms));
        let author = author_name(entry, authors);
        for transaction in entry["transactions"].as_array().into_iter().flatten() {
            rows.push([
                time.clone(),
                author.clone(),
                shorten(&calls(transaction), CALL_CHARS_MAX),
                outcome(transaction),
            ]);
        }
    }
    let mut lines = laid_out(&rows);
    if skipped > 0 {
        lines.insert(1, format!("{INDENT}… and {skipped} entries before these"));
    }
    lines
}

/// Rows as lines: aligned columns with two spaces between them, of which the last is wrapped at words.
fn laid_out(rows: &[[String; 4]]) -> Vec<String> {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let start = INDENT.len() + widths.iter().map(|width| width + 2).sum::<usize>();
    let mut lines = Vec::new();
    for [time, author, call, outcome] in rows {
        let [first, second, third] = widths;
        let mut line = format!("{INDENT}{time:first$}  {author:second$}  {call:third$}  ");
        for (index, part) in wrapped(outcome, WIDTH_MAX - start).into_iter().enumerate() {
            if index > 0 {
                line = " ".repeat(start);
            }
            line.push_str(&part);
            lines.push(line.trim_end().to_owned());
        }
    }
    lines
}

/// Text in lines of at most so many characters, broken between words, and within a word that is longer than a line.
fn wrapped(text: &str, chars_max: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(chars_max.max(1)) {
            let last = lines.last_mut().expect("there is always one");
            let used = last.chars().count();
            if used > 0 && used + 1 + piece.len() > chars_max {
                lines.push(piece.iter().collect());
                continue;
            }
            if used > 0 {
                last.push(' ');
            }
            last.extend(piece);
        }
    }
    lines
}

/// How long ago something was, in words.
fn ago(ms: u64) -> String {
    match ms / 1000 {
        0..10 => format!("{}.{} seconds ago", ms / 1000, ms / 100 % 10),
        seconds @ 10..120 => format!("{seconds} seconds ago"),
        seconds => format!("{} minutes ago", seconds / 60),
    }
}

/// The node's name, else the member's, else the first digits of the key.
fn author_name(entry: &Value, authors: &[Author]) -> String {
    let key = entry["author"].as_str().unwrap_or_default();
    let member = entry["member"].as_str().unwrap_or_default();
    match authors.iter().find(|author| author.key == key) {
        Some(author) => author.name.to_owned(),
        None if !member.is_empty() => member.to_owned(),
        None => key.chars().take(8).collect(),
    }
}

fn calls(transaction: &Value) -> String {
    let call = |call: &Value| {
        let arguments = call["arguments"].as_array().into_iter().flatten();
        let values: Vec<String> = arguments
            .map(|argument| words(&argument["value"]))
            .collect();
        let function = call["function"].as_str().unwrap_or("?");
        format!("{function}({})", values.join(", "))
    };
    let calls = transaction["calls"].as_array().into_iter().flatten();
    calls.map(call).collect::<Vec<_>>().join("; ")
}

fn outcome(transaction: &Value) -> String {
    let kind = transaction["outcome"].as_str().unwrap_or("unknown");
    match (&transaction["value"], &transaction["error"]) {
        (value, Value::Null) if !value.is_null() => format!("{kind}: {}", words(value)),
        (_, error) if !error.is_null() => format!("{kind}: {}", words(error)),
        _ => kind.to_owned(),
    }
}

/// A value without the punctuation of JSON: a variant as `case(…)`, a record as `name: value, …`.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(words).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(members) => {
            let is_case = members.len() == 1;
            let member = |(name, value): (&String, &Value)| match is_case {
                true => format!("{name}({})", words(value)),
                false => format!("{name}: {}", words(value)),
            };
            members.iter().map(member).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn shorten(text: &str, chars_max: usize) -> String {
    match text.chars().count() > chars_max {
        true => text.chars().take(chars_max - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(author: &str, wall_ms: u64, function: &str, ended: Value) -> Value {
        let mut transaction = json!({ "calls": [{ "function": function, "arguments": [
            { "name": "account", "value": "bob" }, { "name": "amount", "value": "60" },
        ] }] });
        let members = transaction.as_object_mut().expect("an object");
        members.extend(ended.as_object().expect("an object").clone());
        json!({ "author": author, "member": "", "time": { "wall_ms": wall_ms }, "transactions": [transaction] })
    }

    #[test]
    fn a_history_ends_in_a_table_that_fits() {
        let refused = json!({ "outcome": "refused", "error": { "insufficient-funds":
            { "account": "bob", "asked": "60", "balance": "45", "note": "x".repeat(200) } } });
        let history = [
            entry(
                "aa11",
                0,
                "deposit",
                json!({ "outcome": "ok", "value": "85" }),
            ),
            entry("bb2233445566", 60_000, "withdraw", refused),
        ];
        let authors = [Author {
            key: "aa11".to_owned(),
            name: "A",
        }];
        let lines = end(&history, &authors, 61_000);
        let widest = lines.iter().map(|line| line.chars().count()).max();
        assert!(widest <= Some(WIDTH_MAX), "{lines:#?}");
        let shown = lines.join("\n");
        assert_eq!(
            lines[0],
            "   TIME             AUTHOR    CALL               OUTCOME"
        );
        assert_eq!(
            lines[1],
            "   61 seconds ago   A         deposit(bob, 60)   ok: 85"
        );
        assert!(lines[2].starts_with("   1.0 seconds ago  bb223344  withdraw(bob, 60)  refused: "));
        let said: String = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            said.contains("insufficient-funds(account: bob, asked: 60, balance: 45,"),
            "{shown}"
        );
        assert!(!shown.contains('{') && !shown.contains('"'), "{shown}");
    }

    #[test]
    fn only_the_end_is_shown_and_the_rest_is_counted() {
        let ok = || json!({ "outcome": "ok", "value": null });
        let history: Vec<Value> = (0..20)
            .map(|number| entry("aa", number, &format!("f{number}"), ok()))
            .collect();
        let lines = end(&history, &[], 200_000);
        assert_eq!(lines.len(), 2 + SHOWN);
        assert_eq!(lines[1], "   … and 12 entries before these");
        assert!(lines[2].contains("3 minutes ago") && lines[2].contains("f12(bob, 60)"));
        assert!(lines[9].ends_with("f19(bob, 60)  ok"), "{:?}", lines[9]);
    }

    #[test]
    fn long_words_are_broken_and_short_ones_kept_whole() {
        assert_eq!(wrapped("ab cd efghij", 5), ["ab cd", "efghi", "j"]);
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}

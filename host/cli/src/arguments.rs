//! FUNCTION ARGS…: a call, as written after STORE on the command line and in the lines of a `--tx` file.
//!
//! Only the node knows the types of arguments, so their values are not parsed here. This module decides which
//! arguments are named, and which stand for bytes: of a file, of standard input, or in hexadecimal.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use lattice_daemon::api;
use serde_json::Value;

use crate::failure::{Failure, Result};

/// How many bytes are read at most for one argument, and for one `--tx` file. The node's limits on calls are
/// lower; this one keeps a mistake such as `@/dev/zero` from filling memory.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads files and standard input for arguments.
///
/// Standard input can be read only once.
#[derive(Default)]
pub(crate) struct Sources {
    stdin_taken: bool,
}

impl Sources {
    /// Reads a whole file, or standard input when its name is `-`.
    pub(crate) fn read(&mut self, path: &OsStr) -> Result<Vec<u8>> {
        if path == "-" {
            if self.stdin_taken {
                return Err(Failure::usage(
                    "standard input can be read once, and was asked for twice",
                )
                .hint("put one of them into a file"));
            }
            self.stdin_taken = true;
            return read_bounded(io::stdin().lock(), "standard input");
        }
        let shown = Path::new(path).display().to_string();
        let file = File::open(path).map_err(|error| {
            Failure::failed(format!("cannot read {shown}: {error}")).hint("check the path")
        })?;
        read_bounded(file, &shown)
    }
}

fn read_bounded(from: impl Read, shown: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(|error| Failure::failed(format!("cannot read {shown}: {error}")))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::failed(format!(
            "{shown} exceeds {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(content)
}

/// Reads `FUNCTION ARGS…`.
///
/// `--name value` and `--name=value` give a parameter by name, up to a `--`. `@PATH`, `@-` and `@hex:…` stand for
/// bytes, and `@@` begins a literal `@`. Any other argument is text, taken as it is.
pub(crate) fn function_call(
    words: &[OsString],
    sources: &mut Sources,
) -> Result<api::FunctionCall> {
    let (function, words) = words.split_first().ok_or_else(|| {
        Failure::usage("no function is given").hint("write: STORE FUNCTION ARGS…")
    })?;
    let function = utf8(function)?.to_owned();
    let mut arguments = api::TextArguments::default();
    let mut words = words.iter();
    let mut named_ended = false;
    while let Some(word) = words.next() {
        let Some(long) = (!named_ended)
            .then(|| word.to_str()?.strip_prefix("--"))
            .flatten()
        else {
            arguments.positional.push(argument(word, sources)?);
            continue;
        };
        if long.is_empty() {
            named_ended = true;
            continue;
        }
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, OsString::from(value)),
            None => {
                let value = words.next().ok_or_else(|| {
                    Failure::usage(format!("--{long} has no value")).hint(format!(
                        "write --{long} VALUE, or -- before a literal --{long}"
                    ))
                })?;
                (long, value.clone())
            }
        };
        let value = argument(&value, sources)?;
        if arguments.named.insert(name.to_owned(), value).is_some() {
            return Err(Failure::usage(format!("--{name} is given twice")));
        }
    }
    Ok(api::FunctionCall {
        function,
        arguments: Some(api::Arguments {
            form: Some(api::arguments::Form::Text(arguments)),
        }),
    })
}

/// Reads one argument: text, or the bytes that `@PATH`, `@-` or `@hex:…` stands for.
pub(crate) fn argument(word: &OsStr, sources: &mut Sources) -> Result<api::TextArgument> {
    use api::text_argument::Source;
    let encoded = word.as_encoded_bytes();
    let source = if encoded.starts_with(b"@@") {
        Source::Text(utf8(word)?[1..].to_owned())
    } else if let Some(digits) = word.to_str().and_then(|w| w.strip_prefix("@hex:")) {
        Source::Content(hex::decode(digits).map_err(|error| {
            Failure::usage(format!("{digits:?} after @hex: is no hexadecimal: {error}"))
                .hint("write two digits for each byte")
        })?)
    } else if encoded == b"@" {
        return Err(Failure::usage("@ stands for a file, and none is named")
            .hint("write @PATH, @- for standard input, or @@ for a literal @"));
    } else if encoded.starts_with(b"@") {
        Source::Content(sources.read(without_first_byte(word))?)
    } else {
        Source::Text(utf8(word)?.to_owned())
    };
    Ok(api::TextArgument {
        source: Some(source),
    })
}

/// A word without its first byte, which must be ASCII. The rest need not be UTF-8, because paths need not be.
#[cfg(unix)]
fn without_first_byte(word: &OsStr) -> &OsStr {
    use std::os::unix::ffi::OsStrExt;
    OsStr::from_bytes(&word.as_bytes()[1..])
}

fn utf8(word: &OsStr) -> Result<&str> {
    word.to_str().ok_or_else(|| {
        Failure::usage(format!("{word:?} is no UTF-8")).hint("give bytes as @PATH or @hex:…")
    })
}

/// Reads the `NAME=VALUE` pairs of `--param`. A value is read like an argument of a call.
pub(crate) fn parameters(
    pairs: &[String],
    sources: &mut Sources,
) -> Result<HashMap<String, api::TextArgument>> {
    let mut read = HashMap::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage(format!("{pair:?} is no parameter")).hint("write --param NAME=VALUE")
        })?;
        let value = argument(OsStr::new(value), sources)?;
        if read.insert(name.to_owned(), value).is_some() {
            return Err(Failure::usage(format!(
                "the parameter {name} is given twice"
            )));
        }
    }
    Ok(read)
}

/// Reads the calls of one transaction from a file. The file has one call a line, written as on the command line
/// after STORE, with `#` before comments; or it is a JSON array of `{"function": NAME, "args": [...] or {...}}`.
pub(crate) fn transaction(file: &OsStr, sources: &mut Sources) -> Result<Vec<api::FunctionCall>> {
    let shown = Path::new(file).display().to_string();
    let content = String::from_utf8(sources.read(file)?)
        .map_err(|error| Failure::failed(format!("{shown} is no UTF-8: {error}")))?;
    let calls = if content.trim_start().starts_with('[') {
        json_calls(&content).map_err(|why| Failure::failed(format!("{shown}: {why}")))?
    } else {
        line_calls(&content, &shown, sources)?
    };
    if calls.is_empty() {
        return Err(Failure::failed(format!("{shown} holds no call"))
            .hint("write FUNCTION ARGS…, a line each"));
    }
    Ok(calls)
}

fn line_calls(content: &str, shown: &str, sources: &mut Sources) -> Result<Vec<api::FunctionCall>> {
    let mut calls = Vec::new();
    for (index, line) in content.lines().enumerate() {
        let words = words(line).ok_or_else(|| {
            Failure::failed(format!(
                "{shown}, line {}: a quote is not closed",
                index + 1
            ))
        })?;
        if !words.is_empty() {
            calls.push(function_call(&words, sources)?);
        }
    }
    Ok(calls)
}

/// Splits a line into words as a shell does: quotes, backslashes, and `#` before a comment. `None` if a
/// quote is not closed.
pub(crate) fn words(line: &str) -> Option<Vec<OsString>> {
    let mut splitter = shlex::Shlex::new(line);
    let words: Vec<OsString> = splitter.by_ref().map(OsString::from).collect();
    (!splitter.had_error).then_some(words)
}

fn json_calls(content: &str) -> std::result::Result<Vec<api::FunctionCall>, String> {
    let calls = lattice_daemon::parse_json(content).map_err(|error| error.to_string())?;
    let calls = calls.as_array().ok_or("no array of calls")?;
    calls
        .iter()
        .enumerate()
        .map(|(index, call)| json_call(call).map_err(|why| format!("call {index}: {why}")))
        .collect()
}

fn json_call(call: &Value) -> std::result::Result<api::FunctionCall, String> {
    let members = call.as_object().ok_or("not an object")?;
    if let Some(unknown) = members.keys().find(|k| *k != "function" && *k != "args") {
        return Err(format!("unknown member {unknown:?}"));
    }
    let function = members
        .get("function")
        .and_then(Value::as_str)
        .ok_or("\"function\" is not a string")?;
    let arguments = match members.get("args") {
        None => None,
        Some(args @ (Value::Array(_) | Value::Object(_))) => Some(api::Arguments {
            form: Some(api::arguments::Form::Json(args.to_string())),
        }),
        Some(_) => return Err("\"args\" is neither an array nor an object".to_owned()),
    };
    Ok(api::FunctionCall {
        function: function.to_owned(),
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::advice;
    use api::text_argument::Source;
    use std::io::Write;

    /// A function's name, its positional arguments, and its named arguments, sorted by name.
    type Read = (String, Vec<Source>, Vec<(String, Source)>);

    #[test]
    fn a_call_without_a_function_is_written_as_the_error_says() {
        let failed = read(&[]).expect_err("there is no function");
        advice(&failed, "write: STORE FUNCTION ARGS…");
        assert_eq!(read(&["value"]).expect("it is one").0, "value");
    }

    fn read(words: &[&str]) -> Result<Read> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let call = function_call(&words, &mut Sources::default())?;
        let Some(api::Arguments {
            form: Some(api::arguments::Form::Text(text)),
        }) = call.arguments
        else {
            panic!("text arguments expected");
        };
        let source = |argument: api::TextArgument| argument.source.expect("a source");
        let positional = text.positional.into_iter().map(source).collect();
        let mut named: Vec<_> = text
            .named
            .into_iter()
            .map(|(n, a)| (n, source(a)))
            .collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((call.function, positional, named))
    }

    fn text(text: &str) -> Source {
        Source::Text(text.to_owned())
    }

    #[test]
    fn negative_numbers_and_single_dashes_are_arguments() {
        let (function, positional, named) = read(&["add", "-5", "-x", "-"]).expect("reads");
        assert_eq!(function, "add");
        assert_eq!(positional, [text("-5"), text("-x"), text("-")]);
        assert!(named.is_empty());
    }

    #[test]
    fn named_parameters_end_at_two_dashes() {
        let (_, positional, named) =
            read(&["put", "--key", "-1", "--value=a=b", "x", "--", "--key"]).expect("reads");
        assert_eq!(positional, [text("x"), text("--key")]);
        assert_eq!(
            named,
            [("key".into(), text("-1")), ("value".into(), text("a=b"))]
        );
    }

    #[test]
    fn named_parameters_have_one_value() {
        let missing = read(&["put", "--key"]).expect_err("no value");
        assert_eq!(missing.exit_code(), 2);
        let twice = read(&["put", "--key", "a", "--key", "b"]).expect_err("twice");
        assert!(twice.to_string().contains("twice"));
    }

    #[test]
    fn bytes_come_from_files_and_digits() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"\xff\x00").expect("written");
        let at = format!("@{}", file.path().display());
        let (_, positional, _) = read(&["put", "@hex:00ff", &at, "@@home", "a@b"]).expect("reads");
        assert_eq!(
            positional,
            [
                Source::Content(vec![0, 255]),
                Source::Content(vec![255, 0]),
                text("@home"),
                text("a@b")
            ]
        );
    }

    #[test]
    fn bad_sources_say_what_to_do() {
        let missing = read(&["put", "@/no/such/file"]).expect_err("missing");
        assert_eq!(missing.exit_code(), 4);
        assert!(missing.to_string().contains("/no/such/file"));
        assert_eq!(read(&["put", "@hex:0"]).expect_err("odd").exit_code(), 2);
        assert_eq!(read(&["put", "@"]).expect_err("bare").exit_code(), 2);
        assert_eq!(read(&[]).expect_err("nothing").exit_code(), 2);
    }

    #[test]
    fn endless_files_are_refused() {
        let endless = read(&["put", "@/dev/zero"]).expect_err("endless");
        assert!(endless.to_string().contains("exceeds"), "{endless}");
    }

    fn transaction_of(content: &str) -> Result<Vec<api::FunctionCall>> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content.as_bytes()).expect("written");
        transaction(file.path().as_os_str(), &mut Sources::default())
    }

    #[test]
    fn a_transaction_is_a_call_a_line() {
        let calls =
            transaction_of("# move\n\nput a 'hello, world'  # why\nadd --by -5\n").expect("reads");
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[1].function, "add");
    }

    #[test]
    fn a_transaction_can_be_json() {
        let calls = transaction_of(r#" [{"function":"put","args":{"key":"a"}},{"function":"go"}]"#)
            .expect("reads");
        assert_eq!(calls.len(), 2);
        assert_eq!(
            calls[0].arguments,
            Some(api::Arguments {
                form: Some(api::arguments::Form::Json(r#"{"key":"a"}"#.into()))
            })
        );
        for bad in [
            r#"[1]"#,
            r#"[{"function":1}]"#,
            r#"[{"function":"a","args":1}]"#,
            "[",
        ] {
            assert_eq!(transaction_of(bad).expect_err(bad).exit_code(), 4, "{bad}");
        }
    }

    #[test]
    fn a_transaction_holds_something() {
        assert!(transaction_of("# nothing\n").is_err());
        let open = transaction_of("put a b\nput 'a").expect_err("open quote");
        assert!(open.to_string().contains("line 2"), "{open}");
    }
}

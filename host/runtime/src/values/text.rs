//! Values as people read them.
//!
//! As WAVE, except that a `list<u8>` that is valid UTF-8 prints as text, and any other as `hex:…`; and
//! that control characters of guest text are escaped, so that a terminal shows them and does not obey.

use std::fmt::{self, Write};

use super::{Type, Value};

/// The text of `value`, which must be one of `ty`.
///
/// # Panics
/// When `value` is not of type `ty`.
pub fn render(ty: &Type, value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, ty, value).expect("a string takes what is written to it");
    out
}

/// The text of a value that stands by itself: a string or text in bytes without its quotes.
///
/// # Panics
/// When `value` is not of type `ty`.
pub fn render_plain(ty: &Type, value: &Value) -> String {
    match value {
        Value::String(text) => escape(text).to_string(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => escape(text).to_string(),
            Err(_) => render(ty, value),
        },
        value => render(ty, value),
    }
}

/// `text` with its control characters escaped, line breaks and tabs too, and those that change the
/// direction of what follows.
pub fn escape(text: &str) -> impl fmt::Display {
    struct Escape<'a>(&'a str);
    impl fmt::Display for Escape<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            escaped(f, self.0, false)
        }
    }
    Escape(text)
}

fn escaped(out: &mut impl Write, text: &str, quoted: bool) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '"' | '\\' if quoted => write!(out, "\\{c}")?,
            c if c.is_control() || turns(c) => write!(out, "\\u{{{:x}}}", c as u32)?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}

/// Whether a character is invisible and changes what is shown after it.
fn turns(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn quoted(out: &mut String, text: &str) -> fmt::Result {
    out.push('"');
    escaped(out, text, true)?;
    out.push('"');
    Ok(())
}

fn write(out: &mut String, ty: &Type, value: &Value) -> fmt::Result {
    match (ty, value) {
        (Type::Bytes, Value::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => quoted(out, text),
            Err(_) => {
                out.push_str("hex:");
                bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
            }
        },
        (Type::String, Value::String(text)) => quoted(out, text),
        (ty, value) => super::wave::write_with(out, ty, value, &write),
    }
}

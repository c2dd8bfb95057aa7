//! WAVE, the WebAssembly value encoding: what people type for every type but text and bytes.
//!
//! The parser is `wasm-wave`'s. What its tree means by type is decided here: an unknown field is an
//! error and not dropped, and a [`Value`] carries no names that a writer could ask for.

use std::borrow::Cow;
use std::fmt::{self, Write};

use wasm_wave::ast::{Node, NodeType};
use wasm_wave::parser::ParserError;
use wasm_wave::untyped::UntypedValue;

use super::{Type, Value};

/// A text that is no value of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {ty}: {reason}")]
pub struct ParseError {
    text: String,
    ty: String,
    reason: String,
}

/// Reads a value of `ty` from its WAVE text. A `list<u8>` is a list of numbers here; a string has quotes.
///
/// # Errors
/// When the text is not WAVE, or not of the type.
pub fn parse(ty: &Type, text: &str) -> Result<Value, ParseError> {
    let parsed = UntypedValue::parse(text).map_err(Wrong::from);
    let value = parsed.and_then(|parsed| build(ty, parsed.node(), text));
    value.map_err(|wrong| ParseError {
        text: super::text::escape(&text.chars().take(80).collect::<String>()).to_string(),
        ty: ty.to_string(),
        reason: wrong.0,
    })
}

/// What is wrong with a text, in words.
struct Wrong(String);

impl From<ParserError> for Wrong {
    fn from(error: ParserError) -> Self {
        Wrong(error.to_string())
    }
}

fn mismatch(node: &Node, source: &str, expected: &str) -> Wrong {
    let text: String = source[node.span()].chars().take(40).collect();
    Wrong(format!(
        "'{}' is not {expected}",
        super::text::escape(&text)
    ))
}

/// The WAVE text of `value`, which must be one of `ty`.
///
/// # Panics
/// When `value` is not of type `ty`.
pub fn to_string(ty: &Type, value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, ty, value).expect("a string takes what is written to it");
    out
}

fn write(out: &mut String, ty: &Type, value: &Value) -> fmt::Result {
    match (ty, value) {
        (Type::Bytes, Value::Bytes(bytes)) => {
            separated(out, "[", "]", bytes, |out, byte| write!(out, "{byte}"))
        }
        (Type::String, Value::String(text)) => {
            out.push('"');
            text.chars().try_for_each(|c| character(out, c, '"'))?;
            out.push('"');
            Ok(())
        }
        (ty, value) => write_with(out, ty, value, &write),
    }
}

/// Writes one character of a text that is enclosed in `quote`.
fn character(out: &mut String, c: char, quote: char) -> fmt::Result {
    match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\\' => out.write_str("\\\\"),
        c if c == quote => write!(out, "\\{c}"),
        c if c.is_control() => write!(out, "\\u{{{:x}}}", c as u32),
        c => out.write_char(c),
    }
}

fn separated<T>(
    out: &mut String,
    open: &str,
    close: &str,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    out.push_str(open);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        each(out, item)?;
    }
    out.push_str(close);
    Ok(())
}

/// A name as WAVE writes it: with a percent sign where it would be a word of WAVE's.
fn name(name: &str) -> Cow<'_, str> {
    match name {
        "true" | "false" | "some" | "none" | "ok" | "err" | "inf" | "nan" => {
            Cow::Owned(format!("%{name}"))
        }
        name => Cow::Borrowed(name),
    }
}

type Part<'a> = &'a dyn Fn(&mut String, &Type, &Value) -> fmt::Result;

/// Writes a value of any type but text and bytes, and its parts through `part`.
pub(super) fn write_with(
    out: &mut String,
    ty: &Type,
    value: &Value,
    part: Part<'_>,
) -> fmt::Result {
    let payload = |out: &mut String, case: &str, ty: Option<&Type>, value: Option<&Value>| {
        out.push_str(case);
        match (ty, value) {
            (Some(ty), Some(value)) => {
                out.push('(');
                part(out, ty, value)?;
                out.push(')');
                Ok(())
            }
            _ => Ok(()),
        }
    };
    match (ty, value) {
        (_, Value::Bool(value)) => write!(out, "{value}"),
        (_, Value::S8(value)) => write!(out, "{value}"),
        (_, Value::S16(value)) => write!(out, "{value}"),
        (_, Value::S32(value)) => write!(out, "{value}"),
        (_, Value::S64(value)) => write!(out, "{value}"),
        (_, Value::U8(value)) => write!(out, "{value}"),
        (_, Value::U16(value)) => write!(out, "{value}"),
        (_, Value::U32(value)) => write!(out, "{value}"),
        (_, Value::U64(value)) => write!(out, "{value}"),
        (_, Value::F32(bits)) => float(out, f32::from_bits(*bits), f32::from_bits(*bits).into()),
        (_, Value::F64(bits)) => float(out, f64::from_bits(*bits), f64::from_bits(*bits)),
        (_, Value::Char(value)) => {
            out.push('\'');
            character(out, *value, '\'')?;
            out.push('\'');
            Ok(())
        }
        (Type::List(ty), Value::List(items)) => {
            separated(out, "[", "]", items, |out, item| part(out, ty, item))
        }
        (Type::Option(ty), Value::Option(value)) => match value {
            Some(value) => payload(out, "some", Some(ty), Some(value)),
            None => out.write_str("none"),
        },
        (Type::Result { ok, err }, Value::Result(value)) => match value {
            Ok(value) => payload(out, "ok", ok.as_deref(), value.as_deref()),
            Err(value) => payload(out, "err", err.as_deref(), value.as_deref()),
        },
        (Type::Tuple(types), Value::Tuple(items)) => {
            separated(out, "(", ")", types.iter().zip(items), |out, (ty, item)| {
                part(out, ty, item)
            })
        }
        (Type::Record(record), Value::Record(items)) => {
            // WAVE leaves out what is none; a record of nothing else is written with a colon, to
            // tell it from empty flags.
            let fields = record.fields.iter().zip(items);
            let mut fields = fields.filter(|(_, item)| **item != Value::NONE).peekable();
            if fields.peek().is_none() {
                return out.write_str("{:}");
            }
            separated(out, "{", "}", fields, |out, (field, item)| {
                write!(out, "{}: ", field.name)?;
                part(out, &field.ty, item)
            })
        }
        (Type::Variant(variant), Value::Variant(case, value)) => {
            let case = &variant.cases[*case as usize];
            payload(out, &name(&case.name), case.ty.as_ref(), value.as_deref())
        }
        (Type::Enum(ty), Value::Enum(case)) => out.write_str(&name(&ty.cases[*case as usize])),
        (Type::Flags(ty), Value::Flags(set)) => separated(out, "{", "}", set, |out, flag| {
            out.write_str(&ty.flags[*flag as usize])
        }),
        (ty, value) => panic!("a value that is not of its type: {value:?} as {ty}"),
    }
}

fn float(out: &mut String, number: impl fmt::Display, wide: f64) -> fmt::Result {
    match wide {
        wide if wide.is_nan() => out.write_str("nan"),
        f64::INFINITY => out.write_str("inf"),
        f64::NEG_INFINITY => out.write_str("-inf"),
        _ => write!(out, "{number}"),
    }
}

/// Refuses an infinity that was written in digits: nobody who writes `1e309` means it.
fn is_meant(
    node: &Node,
    source: &str,
    is_infinite: bool,
    max: &dyn fmt::LowerExp,
) -> Result<(), Wrong> {
    let is_word = source[node.span()].trim_start_matches('-') == "inf";
    if is_infinite && !is_word {
        let expected =
            format!("within the largest number, {max:e}; write inf or -inf for an infinity");
        return Err(mismatch(node, source, &expected));
    }
    Ok(())
}

/// The value of `ty` that a node of the parsed text stands for.
fn build(ty: &Type, node: &Node, source: &str) -> Result<Value, Wrong> {
    Ok(match ty {
        Type::Bool => Value::Bool(node.as_bool()?),
        Type::S8 => Value::S8(node.as_number(source)?),
        Type::S16 => Value::S16(node.as_number(source)?),
        Type::S32 => Value::S32(node.as_number(source)?),
        Type::S64 => Value::S64(node.as_number(source)?),
        Type::U8 => Value::U8(node.as_number(source)?),
        Type::U16 => Value::U16(node.as_number(source)?),
        Type::U32 => Value::U32(node.as_number(source)?),
        Type::U64 => Value::U64(node.as_number(source)?),
        Type::F32 => {
            let number: f32 = node.as_number(source)?;
            is_meant(node, source, number.is_infinite(), &f32::MAX)?;
            Value::f32(number)
        }
        Type::F64 => {
            let number: f64 = node.as_number(source)?;
            is_meant(node, source, number.is_infinite(), &f64::MAX)?;
            Value::f64(number)
        }
        Type::Char => Value::Char(node.as_char(source)?),
        Type::String => Value::String(node.as_str(source)?.into_owned()),
        Type::Bytes => {
            let bytes = node.as_list()?.map(|node| node.as_number(source));
            Value::Bytes(bytes.collect::<Result<_, _>>()?)
        }
        Type::List(ty) => {
            let items = node.as_list()?.map(|node| build(ty, node, source));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Type::Option(some) => match node.ty() {
            NodeType::OptionNone | NodeType::OptionSome => match node.as_option()? {
                Some(node) => Value::some(build(some, node, source)?),
                None => Value::NONE,
            },
            // WAVE lets `some(x)` be written as `x` where that is clear.
            _ if !matches!(**some, Type::Option(_) | Type::Result { .. }) => {
                Value::some(build(some, node, source)?)
            }
            _ => return Err(mismatch(node, source, "an option: some(…) or none")),
        },
        Type::Result { ok, err } => Value::Result(match node.as_result()? {
            Ok(value) => Ok(payload(ok.as_deref(), node, value, source)?),
            Err(value) => Err(payload(err.as_deref(), node, value, source)?),
        }),
        Type::Tuple(types) => {
            let nodes = node.as_tuple()?;
            if nodes.len() != types.len() {
                return Err(mismatch(
                    node,
                    source,
                    &format!("a tuple of {}", types.len()),
                ));
            }
            let items = types
                .iter()
                .zip(nodes)
                .map(|(ty, node)| build(ty, node, source));
            Value::Tuple(items.collect::<Result<_, _>>()?)
        }
        Type::Record(record) => {
            let mut items: Vec<Option<Value>> = vec![None; record.fields.len()];
            // `{}` is empty flags to the parser, and a record without fields to people.
            let empty = node.ty() == NodeType::Flags && node.as_flags(source)?.next().is_none();
            if !empty {
                for (name, node) in node.as_record(source)? {
                    let place = record.fields.iter().position(|field| field.name == name);
                    let place = place.ok_or_else(|| mismatch(node, source, "a known field"))?;
                    items[place] = Some(build(&record.fields[place].ty, node, source)?);
                }
            }
            let items = record
                .fields
                .iter()
                .zip(items)
                .map(|(field, item)| match item {
                    Some(item) => Ok(item),
                    None if matches!(field.ty, Type::Option(_)) => Ok(Value::NONE),
                    None => Err(mismatch(
                        node,
                        source,
                        &format!("complete: '{}' is missing", field.name),
                    )),
                });
            Value::Record(items.collect::<Result<_, _>>()?)
        }
        Type::Variant(variant) => {
            let (name, value) = case(node, source)?;
            let number = variant.cases.iter().position(|case| case.name == name);
            let number = number.ok_or_else(|| mismatch(node, source, "a known case"))?;
            let ty = variant.cases[number].ty.as_ref();
            Value::Variant(number as u32, payload(ty, node, value, source)?)
        }
        Type::Enum(ty) => {
            let (name, value) = case(node, source)?;
            let number = ty.cases.iter().position(|case| *case == name);
            match (number, value) {
                (Some(number), None) => Value::Enum(number as u32),
                _ => {
                    return Err(mismatch(
                        node,
                        source,
                        &format!("one of {}", ty.cases.join(", ")),
                    ));
                }
            }
        }
        Type::Flags(ty) => {
            let mut set = Vec::new();
            for name in node.as_flags(source)? {
                let name = name.strip_prefix('%').unwrap_or(name);
                let number = ty.flags.iter().position(|flag| flag == name);
                let number = number.ok_or_else(|| {
                    mismatch(node, source, &format!("a set of {}", ty.flags.join(", ")))
                })?;
                set.push(number as u32);
            }
            set.sort_unstable();
            set.dedup();
            Value::Flags(set)
        }
    })
}

/// The name and payload of a variant's case.
fn case<'a>(node: &'a Node, source: &'a str) -> Result<(&'a str, Option<&'a Node>), Wrong> {
    // Cases that are words of WAVE's own are parsed as such, also where they are written plainly.
    Ok(match node.ty() {
        NodeType::BoolTrue => ("true", None),
        NodeType::BoolFalse => ("false", None),
        NodeType::OptionSome => ("some", node.as_option()?),
        NodeType::OptionNone => ("none", None),
        NodeType::ResultOk | NodeType::ResultErr => match node.as_result()? {
            Ok(value) => ("ok", value),
            Err(value) => ("err", value),
        },
        _ => node.as_variant(source)?,
    })
}

fn payload(
    ty: Option<&Type>,
    node: &Node,
    value: Option<&Node>,
    source: &str,
) -> Result<Option<Box<Value>>, Wrong> {
    match (ty, value) {
        (Some(ty), Some(value)) => Ok(Some(Box::new(build(ty, value, source)?))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(mismatch(node, source, "complete: its payload is missing")),
        (None, Some(_)) => Err(mismatch(node, source, "a case with a payload")),
    }
}

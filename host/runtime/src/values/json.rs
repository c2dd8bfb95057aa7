//! JSON, for programs: `--json` and HTTP.
//!
//! | type | JSON |
//! |---|---|
//! | integers to 32 bits, bool, string, char | their counterparts, a char as a string |
//! | `u64`, `s64` | a string on output; a string or a number on input |
//! | `f32`, `f64` | a number; `"nan"`, `"inf"`, `"-inf"` as strings |
//! | `list<u8>` | base64 with padding |
//! | option | null or the value; an option of an option: null or an array of the inner one |
//! | result | `{"ok": payload}`, `{"err": payload}`, null for an absent payload |
//! | record, variant, enum, flags, tuple, list | as in CBOR: object; `{case: payload}` or the name; name; array of names; arrays |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value as Json};

use super::{Type, Value};

/// A JSON value that is no value of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {found} is not a {expected}")]
pub struct FromJsonError {
    at: String,
    found: String,
    expected: String,
}

/// A text that is not taken for JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// The text has a number that is too large for every type.
    #[error(
        "{number} is beyond the largest number, {:e}; write \"inf\" or \"-inf\" for an infinity",
        f64::MAX
    )]
    Beyond {
        /// The number, as written; a long one is cut.
        number: String,
    },
    /// The text is no JSON.
    #[error("no JSON: {0}")]
    Syntax(String),
}

/// Reads a JSON text.
///
/// # Errors
/// When it is no JSON, or has a number beyond those of 64 bits.
pub fn parse(text: &str) -> Result<Json, NotJson> {
    serde_json::from_str(text).map_err(|error| match number_beyond(text, &error) {
        Some(number) => NotJson::Beyond { number },
        None => NotJson::Syntax(error.to_string()),
    })
}

/// The number at which the reading of a text ended, if it ended for the size of a number.
fn number_beyond(text: &str, error: &serde_json::Error) -> Option<String> {
    // The crate tells this kind of error in its text alone.
    if !error.to_string().starts_with("number out of range") {
        return None;
    }
    let line = text.split('\n').nth(error.line().checked_sub(1)?)?;
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let (before, after) = line.as_bytes().split_at_checked(error.column())?;
    let begin = before.iter().rposition(|byte| !is_part(byte));
    let begin = begin.map_or(0, |at| at + 1);
    let rest = after.iter().take_while(|byte| is_part(byte)).count();
    let number = &line[begin..before.len() + rest];
    Some(match number.get(..NUMBER_CHARS) {
        Some(first) if number.len() > NUMBER_CHARS => format!("{first}…"),
        _ => number.to_owned(),
    })
}

/// How many characters of a number an error shows.
const NUMBER_CHARS: usize = 40;

/// The JSON form of `value`, which must be one of `ty`.
///
/// # Panics
/// When `value` is not of type `ty`.
pub fn to_json(ty: &Type, value: &Value) -> Json {
    match (ty, value) {
        (_, Value::Bool(value)) => (*value).into(),
        (_, Value::S8(value)) => (*value).into(),
        (_, Value::S16(value)) => (*value).into(),
        (_, Value::S32(value)) => (*value).into(),
        (_, Value::U8(value)) => (*value).into(),
        (_, Value::U16(value)) => (*value).into(),
        (_, Value::U32(value)) => (*value).into(),
        // Beyond 2^53 a JSON number loses digits in most programs.
        (_, Value::S64(value)) => value.to_string().into(),
        (_, Value::U64(value)) => value.to_string().into(),
        (_, Value::F32(bits)) => {
            let number = f32::from_bits(*bits);
            // By its shortest text: widened, 0.1 would become 0.10000000149011612.
            float(number.into(), number.to_string().parse().ok())
        }
        (_, Value::F64(bits)) => float(f64::from_bits(*bits), Some(f64::from_bits(*bits))),
        (_, Value::Char(value)) => value.to_string().into(),
        (_, Value::String(value)) => value.as_str().into(),
        (_, Value::Bytes(value)) => STANDARD.encode(value).into(),
        (Type::List(ty), Value::List(items)) => items
            .iter()
            .map(|item| to_json(ty, item))
            .collect::<Vec<_>>()
            .into(),
        (Type::Option(_), Value::Option(None)) => Json::Null,
        (Type::Option(ty), Value::Option(Some(value))) => match **ty {
            Type::Option(_) => vec![to_json(ty, value)].into(),
            _ => to_json(ty, value),
        },
        (Type::Result { ok, err }, Value::Result(value)) => match value {
            Ok(value) => named("ok", ok.as_deref(), value.as_deref()),
            Err(value) => named("err", err.as_deref(), value.as_deref()),
        },
        (Type::Tuple(types), Value::Tuple(items)) => {
            let items = types.iter().zip(items).map(|(ty, item)| to_json(ty, item));
            items.collect::<Vec<_>>().into()
        }
        (Type::Record(record), Value::Record(items)) => {
            let fields = record.fields.iter().zip(items);
            let fields = fields.map(|(field, item)| (field.name.clone(), to_json(&field.ty, item)));
            Json::Object(fields.collect())
        }
        (Type::Variant(variant), Value::Variant(case, value)) => {
            let case = &variant.cases[*case as usize];
            match &case.ty {
                Some(ty) => named(&case.name, Some(ty), value.as_deref()),
                None => case.name.as_str().into(),
            }
        }
        (Type::Enum(ty), Value::Enum(case)) => ty.cases[*case as usize].as_str().into(),
        (Type::Flags(ty), Value::Flags(set)) => {
            let names = set
                .iter()
                .map(|flag| Json::from(ty.flags[*flag as usize].as_str()));
            names.collect::<Vec<_>>().into()
        }
        (ty, value) => panic!("a value that is not of its type: {value:?} as {ty}"),
    }
}

fn float(number: f64, short: Option<f64>) -> Json {
    match short.and_then(Number::from_f64) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => "nan".into(),
        None if number > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

fn named(name: &str, ty: Option<&Type>, value: Option<&Value>) -> Json {
    let payload = match (ty, value) {
        (Some(ty), Some(value)) => to_json(ty, value),
        _ => Json::Null,
    };
    Json::Object(Map::from_iter([(name.to_owned(), payload)]))
}

/// Reads a value of `ty` from JSON.
///
/// # Errors
/// When it is not of the type, with the place in the document.
pub fn from_json(ty: &Type, json: &Json) -> Result<Value, FromJsonError> {
    read(ty, json, &mut JsonPath::default())
}

#[derive(Default)]
struct JsonPath(Vec<String>);

impl JsonPath {
    fn error<T>(&self, json: &Json, expected: impl Into<String>) -> Result<T, FromJsonError> {
        let found: String = json.to_string().chars().take(80).collect();
        Err(FromJsonError {
            at: format!("${}", self.0.concat()),
            found,
            expected: expected.into(),
        })
    }

    fn within<T>(&mut self, step: String, read: impl FnOnce(&mut Self) -> T) -> T {
        self.0.push(step);
        let result = read(self);
        self.0.pop();
        result
    }
}

fn read(ty: &Type, json: &Json, at: &mut JsonPath) -> Result<Value, FromJsonError> {
    macro_rules! integer {
        ($variant:ident, $as:ident, $accept_text:expr) => {{
            let number = match json {
                Json::Number(number) => number.$as().and_then(|number| number.try_into().ok()),
                Json::String(text) if $accept_text => text.parse().ok(),
                _ => None,
            };
            number.map(Value::$variant)
        }};
    }
    let value = match ty {
        Type::Bool => json.as_bool().map(Value::Bool),
        Type::S8 => integer!(S8, as_i64, false),
        Type::S16 => integer!(S16, as_i64, false),
        Type::S32 => integer!(S32, as_i64, false),
        Type::S64 => integer!(S64, as_i64, true),
        Type::U8 => integer!(U8, as_u64, false),
        Type::U16 => integer!(U16, as_u64, false),
        Type::U32 => integer!(U32, as_u64, false),
        Type::U64 => integer!(U64, as_u64, true),
        Type::F32 | Type::F64 => {
            let Some(number) = number(json) else {
                let expected = format!("{ty}: a number, \"nan\", \"inf\" or \"-inf\"");
                return at.error(json, expected);
            };
            let narrow = number as f32;
            if *ty == Type::F32 && narrow.is_infinite() && number.is_finite() {
                let expected = format!(
                    "f32, whose largest number is {:e}; write \"inf\" or \"-inf\" for an infinity",
                    f32::MAX
                );
                return at.error(json, expected);
            }
            Some(match ty {
                Type::F32 => Value::f32(narrow),
                _ => Value::f64(number),
            })
        }
        Type::Char => {
            let mut chars = json.as_str().unwrap_or_default().chars();
            chars
                .next()
                .filter(|_| chars.next().is_none())
                .map(Value::Char)
        }
        Type::String => json.as_str().map(|text| Value::String(text.to_owned())),
        Type::Bytes => {
            let bytes = json.as_str().and_then(|text| STANDARD.decode(text).ok());
            match bytes {
                Some(bytes) => Some(Value::Bytes(bytes)),
                None => return at.error(json, "list<u8> in base64"),
            }
        }
        Type::List(ty) => match json.as_array() {
            Some(items) => Some(Value::List(each(items, at, |_| ty)?)),
            None => None,
        },
        Type::Option(ty) => match (json, &**ty) {
            (Json::Null, _) => Some(Value::NONE),
            (json, Type::Option(_)) => match json.as_array().map(Vec::as_slice) {
                Some([json]) => Some(Value::some(read(ty, json, at)?)),
                _ => None,
            },
            (json, ty) => Some(Value::some(read(ty, json, at)?)),
        },
        Type::Result { ok, err } => match single(json) {
            Some(("ok", json)) => Some(Value::Result(Ok(payload(ok.as_deref(), json, at, "ok")?))),
            Some(("err", json)) => Some(Value::Result(Err(payload(
                err.as_deref(),
                json,
                at,
                "err",
            )?))),
            _ => None,
        },
        Type::Tuple(types) => match json.as_array() {
            Some(items) if items.len() == types.len() => {
                Some(Value::Tuple(each(items, at, |i| &types[i])?))
            }
            _ => None,
        },
        Type::Record(record) => match json.as_object() {
            Some(fields) => {
                if let Some(name) = fields
                    .keys()
                    .find(|name| !record.fields.iter().any(|field| field.name == **name))
                {
                    return at.error(&name.as_str().into(), format!("field of {ty}"));
                }
                let items = record.fields.iter().map(|field| {
                    at.within(format!(".{}", field.name), |at| {
                        match fields.get(&field.name) {
                            Some(json) => read(&field.ty, json, at),
                            None if matches!(field.ty, Type::Option(_)) => Ok(Value::NONE),
                            None => at.error(&Json::Null, field.ty.to_string()),
                        }
                    })
                });
                Some(Value::Record(items.collect::<Result<_, _>>()?))
            }
            None => None,
        },
        Type::Variant(variant) => {
            let (name, json) = match json {
                Json::String(name) => (name.as_str(), None),
                json => match single(json) {
                    Some((name, json)) => (name, Some(json)),
                    None => return at.error(json, ty.to_string()),
                },
            };
            let number = variant.cases.iter().position(|case| case.name == name);
            match number.map(|number| (number, &variant.cases[number].ty, json)) {
                Some((number, Some(ty), Some(json))) => {
                    let value = at.within(format!(".{name}"), |at| read(ty, json, at))?;
                    Some(Value::Variant(number as u32, Some(Box::new(value))))
                }
                Some((number, None, None)) => Some(Value::Variant(number as u32, None)),
                _ => None,
            }
        }
        Type::Enum(ty) => {
            let number = ty.cases.iter().position(|case| json.as_str() == Some(case));
            number.map(|number| Value::Enum(number as u32))
        }
        Type::Flags(ty) => {
            let number = |json: &Json| {
                let name = json.as_str()?;
                ty.flags
                    .iter()
                    .position(|flag| flag == name)
                    .map(|i| i as u32)
            };
            let set = json
                .as_array()
                .and_then(|names| names.iter().map(number).collect());
            set.map(|mut set: Vec<_>| {
                set.sort_unstable();
                set.dedup();
                Value::Flags(set)
            })
        }
    };
    match value {
        Some(value) => Ok(value),
        None => at.error(json, ty.to_string()),
    }
}

fn number(json: &Json) -> Option<f64> {
    match json {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => match text.as_str() {
            "nan" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn each<'a>(
    items: &[Json],
    at: &mut JsonPath,
    ty: impl Fn(usize) -> &'a Type,
) -> Result<Vec<Value>, FromJsonError> {
    let items = items.iter().enumerate();
    items
        .map(|(i, json)| at.within(format!("[{i}]"), |at| read(ty(i), json, at)))
        .collect()
}

fn single(json: &Json) -> Option<(&str, &Json)> {
    let object = json.as_object().filter(|object| object.len() == 1)?;
    object
        .iter()
        .next()
        .map(|(name, json)| (name.as_str(), json))
}

fn payload(
    ty: Option<&Type>,
    json: &Json,
    at: &mut JsonPath,
    step: &str,
) -> Result<Option<Box<Value>>, FromJsonError> {
    at.within(format!(".{step}"), |at| match ty {
        Some(ty) => Ok(Some(Box::new(read(ty, json, at)?))),
        None if json.is_null() => Ok(None),
        None => at.error(json, "null, as there is no payload"),
    })
}

//! Canonical CBOR: what is hashed, signed and kept.
//!
//! Deterministic CBOR (RFC 8949 section 4.2.1) that follows the WIT types, in one respect stricter and in
//! one looser than the RFC: floats keep their width, and a record field that is missing reads as `none`
//! where its type is an option (so that arguments written before the field existed still fit). Every
//! other deviation is refused, because two encodings of one call would be two calls. The reader is our
//! own: general CBOR libraries accept what must be refused here.
//!
//! | type | encoding |
//! |---|---|
//! | integers, bool, string, char | their CBOR counterparts, a char as a text of one scalar |
//! | `f32`, `f64` | a float of that width; not-a-number only as `7fc00000`, `7ff8000000000000` |
//! | `list<u8>`, other lists, tuples | byte string; array; array |
//! | option | null or the value; an option of an option: null or an array of the inner one |
//! | result | `{"ok": payload}`, `{"err": payload}`, null for an absent payload |
//! | record | map by field name, in canonical order |
//! | variant | `{case: payload}`; a case without payload: its name as text |
//! | enum; flags | the name as text; array of names, bytewise ascending |

use super::{Type, Value};
use crate::limits::VALUE_NODES_MAX;

/// Why bytes are not the canonical encoding of a value of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end within a value.
    #[error("the encoding ends within a value, after {at} bytes")]
    Ends {
        /// The length of the bytes.
        at: usize,
    },
    /// There are bytes behind the value.
    #[error("{extra} bytes follow the value")]
    Extra {
        /// How many.
        extra: usize,
    },
    /// A value that could be written in another way, or is not CBOR at all.
    #[error("not canonical CBOR at byte {at}: {what}")]
    NotCanonical {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A value that is not of the type.
    #[error("the value at byte {at} is not a {expected}")]
    Mismatch {
        /// Where.
        at: usize,
        /// The kind of type that was expected.
        expected: &'static str,
    },
    /// A name that the type does not have, or has once and the value twice.
    #[error("the {kind} has no (further) '{name}'")]
    UnknownName {
        /// The kind of type.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A field without a value.
    #[error("the record's field '{name}' is missing")]
    MissingField {
        /// The field.
        name: String,
    },
    /// More values than a call may have.
    #[error("more than {max} values in one encoding")]
    TooMany {
        /// The bound.
        max: usize,
    },
}

/// Writes `value`, which must be one of `ty`.
///
/// # Panics
/// When `value` is not of type `ty`: the two come from the same place.
pub fn encode(ty: &Type, value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    write(&mut out, ty, value);
    out
}

/// Writes `values` as the arguments of a call: an array in the order of the parameters.
///
/// # Panics
/// When the values are not of these types.
pub fn encode_all<'a>(types: impl ExactSizeIterator<Item = &'a Type>, values: &[Value]) -> Vec<u8> {
    assert_eq!(types.len(), values.len(), "one value for each type");
    let mut out = Vec::with_capacity(64);
    head(&mut out, ARRAY, values.len() as u64);
    for (ty, value) in types.zip(values) {
        write(&mut out, ty, value);
    }
    out
}

/// Reads a value of `ty` from exactly these bytes.
///
/// # Errors
/// When the bytes are not the canonical encoding of such a value.
pub fn decode(ty: &Type, bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = reader.value(ty)?;
    reader.end()?;
    Ok(value)
}

/// Reads the arguments of a call with parameters of these types.
///
/// # Errors
/// When the bytes are not the canonical encoding of such values.
pub fn decode_all<'a>(
    types: impl ExactSizeIterator<Item = &'a Type>,
    bytes: &[u8],
) -> Result<Vec<Value>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let at = reader.at;
    let count = reader.head_of(ARRAY, "list of arguments")?;
    if count != types.len() as u64 {
        return Err(DecodeError::Mismatch {
            at,
            expected: "list of as many arguments as there are parameters",
        });
    }
    let values = types.map(|ty| reader.value(ty)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(values)
}

/// The encoding of an absent payload, and of the result of a function without one.
pub const NULL: &[u8] = &[0xf6];

/// The error of a call that the host refuses: `{"host": reason}`.
pub fn host_refusal(reason: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(reason.len() + 8);
    head(&mut out, MAP, 1);
    text(&mut out, "host");
    text(&mut out, reason);
    out
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const FLOAT32: u8 = 0xfa;
const FLOAT64: u8 = 0xfb;

fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..24 => out.push(major | argument as u8),
        24..0x100 => out.extend([major | 24, argument as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend((argument as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend((argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(argument.to_be_bytes());
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len() as u64);
    out.extend(text.as_bytes());
}

fn signed(out: &mut Vec<u8>, number: i64) {
    match number {
        0.. => head(out, UNSIGNED, number as u64),
        _ => head(out, NEGATIVE, !number as u64),
    }
}

fn payload(out: &mut Vec<u8>, ty: Option<&Type>, value: Option<&Value>) {
    match (ty, value) {
        (Some(ty), Some(value)) => write(out, ty, value),
        (None, None) => out.extend(NULL),
        _ => panic!("a payload where there is none, or none where there is one"),
    }
}

fn write(out: &mut Vec<u8>, ty: &Type, value: &Value) {
    match (ty, value) {
        (Type::Bool, Value::Bool(value)) => out.push(if *value { TRUE } else { FALSE }),
        (Type::S8, Value::S8(value)) => signed(out, i64::from(*value)),
        (Type::S16, Value::S16(value)) => signed(out, i64::from(*value)),
        (Type::S32, Value::S32(value)) => signed(out, i64::from(*value)),
        (Type::S64, Value::S64(value)) => signed(out, *value),
        (Type::U8, Value::U8(value)) => head(out, UNSIGNED, u64::from(*value)),
        (Type::U16, Value::U16(value)) => head(out, UNSIGNED, u64::from(*value)),
        (Type::U32, Value::U32(value)) => head(out, UNSIGNED, u64::from(*value)),
        (Type::U64, Value::U64(value)) => head(out, UNSIGNED, *value),
        (Type::F32, Value::F32(bits)) => {
            out.push(FLOAT32);
            out.extend(bits.to_be_bytes());
        }
        (Type::F64, Value::F64(bits)) => {
            out.push(FLOAT64);
            out.extend(bits.to_be_bytes());
        }
        (Type::Char, Value::Char(value)) => text(out, value.encode_utf8(&mut [0; 4])),
        (Type::String, Value::String(value)) => text(out, value),
        (Type::Bytes, Value::Bytes(value)) => {
            head(out, BYTES, value.len() as u64);
            out.extend(value);
        }
        (Type::List(ty), Value::List(items)) => {
            head(out, ARRAY, items.len() as u64);
            for item in items {
                write(out, ty, item);
            }
        }
        (Type::Option(_), Value::Option(None)) => out.extend(NULL),
        (Type::Option(ty), Value::Option(Some(value))) => {
            // Without the array, some(none) could not be told from none.
            if matches!(**ty, Type::Option(_)) {
                head(out, ARRAY, 1);
            }
            write(out, ty, value);
        }
        (Type::Result { ok, err }, Value::Result(value)) => {
            head(out, MAP, 1);
            match value {
                Ok(value) => {
                    text(out, "ok");
                    payload(out, ok.as_deref(), value.as_deref());
                }
                Err(value) => {
                    text(out, "err");
                    payload(out, err.as_deref(), value.as_deref());
                }
            }
        }
        (Type::Tuple(types), Value::Tuple(items)) if types.len() == items.len() => {
            head(out, ARRAY, items.len() as u64);
            for (ty, item) in types.iter().zip(items) {
                write(out, ty, item);
            }
        }
        (Type::Record(record), Value::Record(items)) if record.fields.len() == items.len() => {
            head(out, MAP, items.len() as u64);
            for (i, field) in record.canonical() {
                text(out, &field.name);
                write(out, &field.ty, &items[i]);
            }
        }
        (Type::Variant(variant), Value::Variant(case, value)) => {
            let case = &variant.cases[*case as usize];
            if case.ty.is_some() {
                head(out, MAP, 1);
                text(out, &case.name);
                payload(out, case.ty.as_ref(), value.as_deref());
            } else {
                text(out, &case.name);
            }
        }
        (Type::Enum(ty), Value::Enum(case)) => text(out, &ty.cases[*case as usize]),
        (Type::Flags(ty), Value::Flags(set)) => {
            head(out, ARRAY, set.len() as u64);
            for flag in ty.canonical().filter(|&i| set.contains(&(i as u32))) {
                text(out, &ty.flags[flag]);
            }
        }
        (ty, value) => panic!("a value that is not of its type: {value:?} as {ty}"),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            nodes: 0,
        }
    }

    fn end(&self) -> Result<(), DecodeError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            extra => Err(DecodeError::Extra { extra }),
        }
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        if len > rest.len() as u64 {
            return Err(DecodeError::Ends {
                at: self.bytes.len(),
            });
        }
        self.at += len as usize;
        Ok(&rest[..len as usize])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self
            .take(N as u64)?
            .try_into()
            .expect("take gives as many bytes as asked"))
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.at).copied().ok_or(DecodeError::Ends {
            at: self.bytes.len(),
        })
    }

    fn null(&mut self) -> bool {
        let null = self.bytes.get(self.at) == Some(&NULL[0]);
        self.at += usize::from(null);
        null
    }

    fn not_canonical<T>(at: usize, what: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError::NotCanonical { at, what })
    }

    /// Major type and argument; the argument in its shortest form alone.
    fn head(&mut self) -> Result<(u8, u64), DecodeError> {
        let at = self.at;
        let [first] = self.array()?;
        let argument = match first & 31 {
            small @ 0..24 => return Ok((first >> 5, u64::from(small))),
            24 => u64::from(u8::from_be_bytes(self.array()?)),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            31 => return Self::not_canonical(at, "an indefinite length"),
            _ => return Self::not_canonical(at, "a reserved value"),
        };
        let shortest = match first & 31 {
            24 => argument >= 24,
            25 => argument > u64::from(u8::MAX),
            26 => argument > u64::from(u16::MAX),
            _ => argument > u64::from(u32::MAX),
        };
        match shortest {
            true => Ok((first >> 5, argument)),
            false => Self::not_canonical(at, "a number that has a shorter form"),
        }
    }

    fn head_of(&mut self, major: u8, expected: &'static str) -> Result<u64, DecodeError> {
        let at = self.at;
        // Checked before the argument, whose rules hold for these major types alone.
        if self.peek()? >> 5 != major {
            return Err(DecodeError::Mismatch { at, expected });
        }
        Ok(self.head()?.1)
    }

    fn text(&mut self, expected: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let len = self.head_of(TEXT, expected)?;
        std::str::from_utf8(self.take(len)?).or(Self::not_canonical(at, "text that is not UTF-8"))
    }

    /// The length of an array or map, each item of which takes at least one byte.
    fn count(&mut self, major: u8, expected: &'static str) -> Result<usize, DecodeError> {
        let count = self.head_of(major, expected)?;
        if count > (self.bytes.len() - self.at) as u64 {
            return Err(DecodeError::Ends {
                at: self.bytes.len(),
            });
        }
        Ok(count as usize)
    }

    fn integer<T: TryFrom<i128>>(&mut self, expected: &'static str) -> Result<T, DecodeError> {
        let at = self.at;
        let mismatch = || DecodeError::Mismatch { at, expected };
        let number = match self.peek()? >> 5 {
            UNSIGNED => i128::from(self.head()?.1),
            NEGATIVE => -1 - i128::from(self.head()?.1),
            _ => return Err(mismatch()),
        };
        T::try_from(number).map_err(|_| mismatch())
    }

    fn payload(&mut self, ty: Option<&Type>) -> Result<Option<Box<Value>>, DecodeError> {
        match ty {
            Some(ty) => Ok(Some(Box::new(self.value(ty)?))),
            None if self.null() => Ok(None),
            None => Err(DecodeError::Mismatch {
                at: self.at,
                expected: "null, as there is no payload",
            }),
        }
    }

    fn value(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        self.nodes += 1;
        if self.nodes > VALUE_NODES_MAX {
            return Err(DecodeError::TooMany {
                max: VALUE_NODES_MAX,
            });
        }
        let at = self.at;
        let kind = ty.kind();
        let mismatch = DecodeError::Mismatch { at, expected: kind };
        Ok(match ty {
            Type::Bool => match self.array()? {
                [FALSE] => Value::Bool(false),
                [TRUE] => Value::Bool(true),
                _ => return Err(mismatch),
            },
            Type::S8 => Value::S8(self.integer(kind)?),
            Type::S16 => Value::S16(self.integer(kind)?),
            Type::S32 => Value::S32(self.integer(kind)?),
            Type::S64 => Value::S64(self.integer(kind)?),
            Type::U8 => Value::U8(self.integer(kind)?),
            Type::U16 => Value::U16(self.integer(kind)?),
            Type::U32 => Value::U32(self.integer(kind)?),
            Type::U64 => Value::U64(self.integer(kind)?),
            Type::F32 => {
                if self.array()? != [FLOAT32] {
                    return Err(mismatch);
                }
                let bits = u32::from_be_bytes(self.array()?);
                if Value::f32(f32::from_bits(bits)) != Value::F32(bits) {
                    return Self::not_canonical(at, "a not-a-number of another pattern");
                }
                Value::F32(bits)
            }
            Type::F64 => {
                if self.array()? != [FLOAT64] {
                    return Err(mismatch);
                }
                let bits = u64::from_be_bytes(self.array()?);
                if Value::f64(f64::from_bits(bits)) != Value::F64(bits) {
                    return Self::not_canonical(at, "a not-a-number of another pattern");
                }
                Value::F64(bits)
            }
            Type::Char => {
                let mut chars = self.text(kind)?.chars();
                match (chars.next(), chars.next()) {
                    (Some(value), None) => Value::Char(value),
                    _ => return Err(mismatch),
                }
            }
            Type::String => Value::String(self.text(kind)?.to_owned()),
            Type::Bytes => {
                let len = self.head_of(BYTES, kind)?;
                Value::Bytes(self.take(len)?.to_vec())
            }
            Type::List(ty) => {
                let count = self.count(ARRAY, kind)?;
                let mut items = Vec::with_capacity(count.min(VALUE_NODES_MAX));
                for _ in 0..count {
                    items.push(self.value(ty)?);
                }
                Value::List(items)
            }
            Type::Option(ty) => {
                if self.null() {
                    return Ok(Value::NONE);
                }
                if matches!(**ty, Type::Option(_)) && self.count(ARRAY, kind)? != 1 {
                    return Err(mismatch);
                }
                Value::some(self.value(ty)?)
            }
            Type::Result { ok, err } => {
                if self.count(MAP, kind)? != 1 {
                    return Err(mismatch);
                }
                match self.text(kind)? {
                    "ok" => Value::Result(Ok(self.payload(ok.as_deref())?)),
                    "err" => Value::Result(Err(self.payload(err.as_deref())?)),
                    other => return Err(unknown(kind, other)),
                }
            }
            Type::Tuple(types) => {
                if self.count(ARRAY, kind)? != types.len() {
                    return Err(mismatch);
                }
                Value::Tuple(
                    types
                        .iter()
                        .map(|ty| self.value(ty))
                        .collect::<Result<_, _>>()?,
                )
            }
            Type::Record(record) => self.record(record)?,
            Type::Variant(variant) => {
                let with_payload = self.peek()? >> 5 == MAP;
                if with_payload && self.count(MAP, kind)? != 1 {
                    return Err(mismatch);
                }
                let name = self.text(kind)?;
                let case = position(variant.cases.iter().map(|case| &*case.name), kind, name)?;
                let ty = variant.cases[case as usize].ty.as_ref();
                if ty.is_some() != with_payload {
                    return Err(mismatch);
                }
                match ty {
                    Some(ty) => Value::Variant(case, Some(Box::new(self.value(ty)?))),
                    None => Value::Variant(case, None),
                }
            }
            Type::Enum(ty) => {
                let name = self.text(kind)?;
                Value::Enum(position(ty.cases.iter().map(|case| &**case), kind, name)?)
            }
            Type::Flags(ty) => {
                let mut set = Vec::new();
                let mut last = "";
                for i in 0..self.count(ARRAY, kind)? {
                    let at = self.at;
                    let name = self.text(kind)?;
                    if i > 0 && name <= last {
                        return Self::not_canonical(at, "flags out of order or repeated");
                    }
                    set.push(position(ty.flags.iter().map(|flag| &**flag), kind, name)?);
                    last = name;
                }
                set.sort_unstable();
                Value::Flags(set)
            }
        })
    }

    fn record(&mut self, record: &super::Record) -> Result<Value, DecodeError> {
        let mut left = self.count(MAP, "record")?;
        let mut items = vec![Value::NONE; record.fields.len()];
        let mut key: Option<&str> = None;
        for (i, field) in record.canonical() {
            if key.is_none() && left > 0 {
                key = Some(self.text("record")?);
                left -= 1;
            }
            if key == Some(&field.name) {
                items[i] = self.value(&field.ty)?;
                key = None;
            } else if !matches!(field.ty, Type::Option(_)) {
                return Err(DecodeError::MissingField {
                    name: field.name.clone(),
                });
            }
        }
        // A key that is out of order, repeated or unknown is left over: the fields passed it by.
        match key {
            Some(name) => Err(unknown("record", name)),
            None if left > 0 => Err(unknown("record", self.text("record")?)),
            None => Ok(Value::Record(items)),
        }
    }
}

fn unknown(kind: &'static str, name: &str) -> DecodeError {
    DecodeError::UnknownName {
        kind,
        name: name.chars().take(80).collect(),
    }
}

fn position<'a>(
    mut names: impl Iterator<Item = &'a str>,
    kind: &'static str,
    name: &str,
) -> Result<u32, DecodeError> {
    names
        .position(|known| known == name)
        .map(|i| i as u32)
        .ok_or_else(|| unknown(kind, name))
}

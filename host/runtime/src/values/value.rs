//! A WIT value, apart from any component.

/// A value of some [`Type`](super::Type), which it does not name: fields and cases are numbers.
///
/// Floats compare by their bits, so that a value equals its copy; not-a-number is always the one
/// pattern of [`Value::f32`] and [`Value::f64`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are WIT's own names")]
pub enum Value {
    Bool(bool),
    S8(i8),
    S16(i16),
    S32(i32),
    S64(i64),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    /// The bits of the number.
    F32(u32),
    /// The bits of the number.
    F64(u64),
    Char(char),
    String(String),
    /// A `list<u8>`.
    Bytes(Vec<u8>),
    /// A list of anything but bytes.
    List(Vec<Value>),
    Option(Option<Box<Value>>),
    Result(Result<Option<Box<Value>>, Option<Box<Value>>>),
    Tuple(Vec<Value>),
    /// The fields in the order of their declaration.
    Record(Vec<Value>),
    /// The number of the case, and its payload.
    Variant(u32, Option<Box<Value>>),
    /// The number of the case.
    Enum(u32),
    /// The numbers of the flags that are set, ascending.
    Flags(Vec<u32>),
}

/// The one pattern of a 32-bit not-a-number.
const NAN32: u32 = 0x7fc0_0000;
/// The one pattern of a 64-bit not-a-number.
const NAN64: u64 = 0x7ff8_0000_0000_0000;

impl Value {
    /// A 32-bit float, with not-a-number in its one pattern.
    pub fn f32(number: f32) -> Self {
        Value::F32(if number.is_nan() {
            NAN32
        } else {
            number.to_bits()
        })
    }

    /// A 64-bit float, with not-a-number in its one pattern.
    pub fn f64(number: f64) -> Self {
        Value::F64(if number.is_nan() {
            NAN64
        } else {
            number.to_bits()
        })
    }

    /// `some(value)`.
    pub fn some(value: Value) -> Self {
        Value::Option(Some(Box::new(value)))
    }

    /// `none`.
    pub const NONE: Value = Value::Option(None);
}

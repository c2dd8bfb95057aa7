//! Values as wasmtime takes and gives them in dynamic calls.

use wasmtime::component::Val;

use super::{Type, Value};

/// The engine's form of `value`.
///
/// # Panics
/// When `value` is not of type `ty`.
pub(crate) fn to_val(ty: &Type, value: Value) -> Val {
    match (ty, value) {
        (_, Value::Bool(value)) => Val::Bool(value),
        (_, Value::S8(value)) => Val::S8(value),
        (_, Value::S16(value)) => Val::S16(value),
        (_, Value::S32(value)) => Val::S32(value),
        (_, Value::S64(value)) => Val::S64(value),
        (_, Value::U8(value)) => Val::U8(value),
        (_, Value::U16(value)) => Val::U16(value),
        (_, Value::U32(value)) => Val::U32(value),
        (_, Value::U64(value)) => Val::U64(value),
        (_, Value::F32(bits)) => Val::Float32(f32::from_bits(bits)),
        (_, Value::F64(bits)) => Val::Float64(f64::from_bits(bits)),
        (_, Value::Char(value)) => Val::Char(value),
        (_, Value::String(value)) => Val::String(value),
        (_, Value::Bytes(value)) => Val::List(value.into_iter().map(Val::U8).collect()),
        (Type::List(ty), Value::List(items)) => {
            Val::List(items.into_iter().map(|item| to_val(ty, item)).collect())
        }
        (Type::Option(ty), Value::Option(value)) => {
            Val::Option(value.map(|value| Box::new(to_val(ty, *value))))
        }
        (Type::Result { ok, err }, Value::Result(value)) => Val::Result(match value {
            Ok(value) => Ok(payload_to_val(ok.as_deref(), value)),
            Err(value) => Err(payload_to_val(err.as_deref(), value)),
        }),
        (Type::Tuple(types), Value::Tuple(items)) => {
            let items = types.iter().zip(items);
            Val::Tuple(items.map(|(ty, item)| to_val(ty, item)).collect())
        }
        (Type::Record(record), Value::Record(items)) => {
            let items = record.fields.iter().zip(items);
            Val::Record(
                items
                    .map(|(field, item)| (field.name.clone(), to_val(&field.ty, item)))
                    .collect(),
            )
        }
        (Type::Variant(variant), Value::Variant(case, value)) => {
            let case = &variant.cases[case as usize];
            Val::Variant(case.name.clone(), payload_to_val(case.ty.as_ref(), value))
        }
        (Type::Enum(ty), Value::Enum(case)) => Val::Enum(ty.cases[case as usize].clone()),
        (Type::Flags(ty), Value::Flags(set)) => Val::Flags(
            set.into_iter()
                .map(|flag| ty.flags[flag as usize].clone())
                .collect(),
        ),
        (ty, value) => panic!("a value that is not of its type: {value:?} as {ty}"),
    }
}

fn payload_to_val(ty: Option<&Type>, value: Option<Box<Value>>) -> Option<Box<Val>> {
    let (ty, value) = (ty?, value?);
    Some(Box::new(to_val(ty, *value)))
}

/// What the engine gave for a result of type `ty`; `None` if it is not of that type, which would be
/// a fault of ours.
pub(crate) fn from_val(ty: &Type, val: Val) -> Option<Value> {
    Some(match (ty, val) {
        (Type::Bool, Val::Bool(value)) => Value::Bool(value),
        (Type::S8, Val::S8(value)) => Value::S8(value),
        (Type::S16, Val::S16(value)) => Value::S16(value),
        (Type::S32, Val::S32(value)) => Value::S32(value),
        (Type::S64, Val::S64(value)) => Value::S64(value),
        (Type::U8, Val::U8(value)) => Value::U8(value),
        (Type::U16, Val::U16(value)) => Value::U16(value),
        (Type::U32, Val::U32(value)) => Value::U32(value),
        (Type::U64, Val::U64(value)) => Value::U64(value),
        (Type::F32, Val::Float32(value)) => Value::f32(value),
        (Type::F64, Val::Float64(value)) => Value::f64(value),
        (Type::Char, Val::Char(value)) => Value::Char(value),
        (Type::String, Val::String(value)) => Value::String(value),
        (Type::Bytes, Val::List(items)) => {
            let bytes = items.into_iter().map(|item| match item {
                Val::U8(byte) => Some(byte),
                _ => None,
            });
            Value::Bytes(bytes.collect::<Option<_>>()?)
        }
        (Type::List(ty), Val::List(items)) => {
            let items = items.into_iter().map(|item| from_val(ty, item));
            Value::List(items.collect::<Option<_>>()?)
        }
        (Type::Option(ty), Val::Option(value)) => match value {
            Some(value) => Value::some(from_val(ty, *value)?),
            None => Value::NONE,
        },
        (Type::Result { ok, err }, Val::Result(value)) => Value::Result(match value {
            Ok(value) => Ok(payload_from_val(ok.as_deref(), value)?),
            Err(value) => Err(payload_from_val(err.as_deref(), value)?),
        }),
        (Type::Tuple(types), Val::Tuple(items)) if types.len() == items.len() => {
            let items = types.iter().zip(items);
            Value::Tuple(
                items
                    .map(|(ty, item)| from_val(ty, item))
                    .collect::<Option<_>>()?,
            )
        }
        (Type::Record(record), Val::Record(items)) if record.fields.len() == items.len() => {
            let items = record.fields.iter().zip(items);
            let items = items.map(|(field, (name, item))| {
                (field.name == name).then(|| from_val(&field.ty, item))?
            });
            Value::Record(items.collect::<Option<_>>()?)
        }
        (Type::Variant(variant), Val::Variant(name, value)) => {
            let number = variant.cases.iter().position(|case| case.name == name)?;
            let ty = variant.cases[number].ty.as_ref();
            Value::Variant(number as u32, payload_from_val(ty, value)?)
        }
        (Type::Enum(ty), Val::Enum(name)) => {
            Value::Enum(ty.cases.iter().position(|case| *case == name)? as u32)
        }
        (Type::Flags(ty), Val::Flags(names)) => {
            let number = |name: &String| ty.flags.iter().position(|flag| flag == name);
            let set = names.iter().map(|name| number(name).map(|i| i as u32));
            let mut set = set.collect::<Option<Vec<_>>>()?;
            set.sort_unstable();
            set.dedup();
            Value::Flags(set)
        }
        _ => return None,
    })
}

fn payload_from_val(ty: Option<&Type>, val: Option<Box<Val>>) -> Option<Option<Box<Value>>> {
    match (ty, val) {
        (Some(ty), Some(val)) => Some(Some(Box::new(from_val(ty, *val)?))),
        (None, None) => Some(None),
        _ => None,
    }
}

/// The type that the engine reads out of a compiled component; `None` for one that cannot be part
/// of a call (a resource, stream or future).
pub(crate) fn from_engine(ty: &wasmtime::component::Type) -> Option<Type> {
    use super::{Case, Enum, Field, Flags, Record, Variant};
    use wasmtime::component::Type as Engine;
    let optional = |ty: Option<Engine>| match ty {
        Some(ty) => from_engine(&ty).map(Some),
        None => Some(None),
    };
    Some(match ty {
        Engine::Bool => Type::Bool,
        Engine::S8 => Type::S8,
        Engine::U8 => Type::U8,
        Engine::S16 => Type::S16,
        Engine::U16 => Type::U16,
        Engine::S32 => Type::S32,
        Engine::U32 => Type::U32,
        Engine::S64 => Type::S64,
        Engine::U64 => Type::U64,
        Engine::Float32 => Type::F32,
        Engine::Float64 => Type::F64,
        Engine::Char => Type::Char,
        Engine::String => Type::String,
        Engine::List(ty) => Type::list(from_engine(&ty.ty())?),
        Engine::Option(ty) => Type::option(from_engine(&ty.ty())?),
        Engine::Result(ty) => Type::result(optional(ty.ok())?, optional(ty.err())?),
        Engine::Tuple(ty) => Type::tuple(
            ty.types()
                .map(|ty| from_engine(&ty))
                .collect::<Option<_>>()?,
        ),
        Engine::Record(ty) => {
            let fields = ty.fields().map(|field| {
                Some(Field {
                    name: field.name.to_owned(),
                    docs: String::new(),
                    ty: from_engine(&field.ty)?,
                })
            });
            Type::Record(Record::new("", "", fields.collect::<Option<_>>()?).into())
        }
        Engine::Variant(ty) => {
            let cases = ty.cases().map(|case| {
                Some(Case {
                    name: case.name.to_owned(),
                    docs: String::new(),
                    ty: optional(case.ty)?,
                })
            });
            let cases = cases.collect::<Option<_>>()?;
            Type::Variant(
                Variant {
                    name: String::new(),
                    docs: String::new(),
                    cases,
                }
                .into(),
            )
        }
        Engine::Enum(ty) => Type::Enum(
            Enum {
                name: String::new(),
                docs: String::new(),
                cases: ty.names().map(str::to_owned).collect(),
            }
            .into(),
        ),
        Engine::Flags(ty) => {
            Type::Flags(Flags::new("", "", ty.names().map(str::to_owned).collect()).into())
        }
        Engine::Map(_)
        | Engine::FixedLengthList(_)
        | Engine::Own(_)
        | Engine::Borrow(_)
        | Engine::Future(_)
        | Engine::Stream(_)
        | Engine::ErrorContext => return None,
    })
}

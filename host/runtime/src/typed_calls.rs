//! Statically typed calls for the signatures that carry bytes.
//!
//! A dynamic call hands over a `list<u8>` as one enum a byte, ten nanoseconds each way; a typed one
//! copies it. The engine has typed calls only for types known when this crate was built, so this is
//! a table: common lists of parameters by common results. What is not in it takes the dynamic way,
//! with the same result.

use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Func, Lift, Lower};

use crate::host::Data;
use crate::values::{Type, Value};

/// Calls a function of one signature.
pub(crate) type TypedCall =
    fn(&mut Store<Data>, &Func, Vec<Value>) -> wasmtime::Result<Option<Value>>;

/// The typed call for a function, if its signature carries bytes and is in the table.
pub(crate) fn find(params: &[Type], result: Option<&Type>) -> Option<TypedCall> {
    let mut bytes = false;
    for ty in params.iter().chain(result) {
        bytes |= carries_bytes(ty);
    }
    if !bytes {
        return None;
    }
    by_result::<()>(params, result)
        .or_else(|| by_result::<(Bytes,)>(params, result))
        .or_else(|| by_result::<(String,)>(params, result))
        .or_else(|| by_result::<(String, Bytes)>(params, result))
        .or_else(|| by_result::<(Bytes, Bytes)>(params, result))
        .or_else(|| by_result::<(String, Option<Bytes>)>(params, result))
        .or_else(|| by_result::<(String, Option<Bytes>, Bytes)>(params, result))
        .or_else(|| by_result::<(String, Option<Bytes>, Option<Bytes>)>(params, result))
}

type Bytes = Vec<u8>;

fn carries_bytes(ty: &Type) -> bool {
    match ty {
        Type::Bytes => true,
        Type::Option(ty) => carries_bytes(ty),
        Type::Result { ok, err } => ok.iter().chain(err).any(|ty| carries_bytes(ty)),
        _ => false,
    }
}

fn by_result<P: Params>(params: &[Type], result: Option<&Type>) -> Option<TypedCall> {
    if !P::fit(params) {
        return None;
    }
    let Some(result) = result else {
        return Some(call_without_result::<P>);
    };
    row::<P, Bytes>(result)
        .or_else(|| row::<P, Option<Bytes>>(result))
        .or_else(|| row::<P, bool>(result))
        .or_else(|| row::<P, u64>(result))
        .or_else(|| row::<P, Result<(), ()>>(result))
        .or_else(|| row::<P, Result<(), String>>(result))
        .or_else(|| row::<P, Result<Bytes, String>>(result))
        .or_else(|| row::<P, Result<Option<Bytes>, String>>(result))
}

fn row<P: Params, R: Give>(result: &Type) -> Option<TypedCall> {
    R::fits(result).then_some(call::<P, R> as TypedCall)
}

fn call<P: Params, R: Give>(
    store: &mut Store<Data>,
    func: &Func,
    args: Vec<Value>,
) -> wasmtime::Result<Option<Value>> {
    let func = func.typed::<P, (R,)>(&*store)?;
    let (result,) = func.call(store, P::take(args))?;
    Ok(Some(result.give()))
}

fn call_without_result<P: Params>(
    store: &mut Store<Data>,
    func: &Func,
    args: Vec<Value>,
) -> wasmtime::Result<Option<Value>> {
    let func = func.typed::<P, ()>(&*store)?;
    func.call(store, P::take(args))?;
    Ok(None)
}

/// A parameter of a typed call.
trait Take: Lower + Sized {
    fn fits(ty: &Type) -> bool;
    fn take(value: Value) -> Self;
}

/// A result of a typed call.
trait Give: Lift + 'static {
    fn fits(ty: &Type) -> bool;
    fn give(self) -> Value;
}

const FITS: &str = "the table was asked with the types of these values";

impl Take for String {
    fn fits(ty: &Type) -> bool {
        *ty == Type::String
    }

    fn take(value: Value) -> Self {
        match value {
            Value::String(value) => value,
            other => panic!("{FITS}: {other:?}"),
        }
    }
}

impl Take for Bytes {
    fn fits(ty: &Type) -> bool {
        *ty == Type::Bytes
    }

    fn take(value: Value) -> Self {
        match value {
            Value::Bytes(value) => value,
            other => panic!("{FITS}: {other:?}"),
        }
    }
}

impl<T: Take> Take for Option<T> {
    fn fits(ty: &Type) -> bool {
        matches!(ty, Type::Option(ty) if T::fits(ty))
    }

    fn take(value: Value) -> Self {
        match value {
            Value::Option(value) => value.map(|value| T::take(*value)),
            other => panic!("{FITS}: {other:?}"),
        }
    }
}

impl Give for Bytes {
    fn fits(ty: &Type) -> bool {
        *ty == Type::Bytes
    }

    fn give(self) -> Value {
        Value::Bytes(self)
    }
}

impl Give for String {
    fn fits(ty: &Type) -> bool {
        *ty == Type::String
    }

    fn give(self) -> Value {
        Value::String(self)
    }
}

impl Give for bool {
    fn fits(ty: &Type) -> bool {
        *ty == Type::Bool
    }

    fn give(self) -> Value {
        Value::Bool(self)
    }
}

impl Give for u64 {
    fn fits(ty: &Type) -> bool {
        *ty == Type::U64
    }

    fn give(self) -> Value {
        Value::U64(self)
    }
}

impl<T: Give> Give for Option<T> {
    fn fits(ty: &Type) -> bool {
        matches!(ty, Type::Option(ty) if T::fits(ty))
    }

    fn give(self) -> Value {
        Value::Option(self.map(|value| Box::new(value.give())))
    }
}

/// A payload of a result, which may be absent.
trait Payload: Lift + 'static {
    fn fits(ty: Option<&Type>) -> bool;
    fn give(self) -> Option<Box<Value>>;
}

impl Payload for () {
    fn fits(ty: Option<&Type>) -> bool {
        ty.is_none()
    }

    fn give(self) -> Option<Box<Value>> {
        None
    }
}

impl<T: Give> Payload for T {
    fn fits(ty: Option<&Type>) -> bool {
        ty.is_some_and(<T as Give>::fits)
    }

    fn give(self) -> Option<Box<Value>> {
        Some(Box::new(Give::give(self)))
    }
}

impl<T: Payload, E: Payload> Give for Result<T, E> {
    fn fits(ty: &Type) -> bool {
        matches!(ty, Type::Result { ok, err } if T::fits(ok.as_deref()) && E::fits(err.as_deref()))
    }

    fn give(self) -> Value {
        Value::Result(match self {
            Ok(value) => Ok(value.give()),
            Err(value) => Err(value.give()),
        })
    }
}

/// The parameters of a typed call.
trait Params: ComponentNamedList + Lower {
    fn fit(types: &[Type]) -> bool;
    fn take(values: Vec<Value>) -> Self;
}

impl Params for () {
    fn fit(types: &[Type]) -> bool {
        types.is_empty()
    }

    fn take(_values: Vec<Value>) -> Self {}
}

macro_rules! params {
    ($($part:ident)*) => {
        impl<$($part: Take),*> Params for ($($part,)*) {
            fn fit(types: &[Type]) -> bool {
                let mut types = types.iter();
                $(types.next().is_some_and($part::fits) &&)* types.next().is_none()
            }

            fn take(values: Vec<Value>) -> Self {
                let mut values = values.into_iter();
                ($($part::take(values.next().expect("as many values as types")),)*)
            }
        }
    };
}

params!(A);
params!(A B);
params!(A B C);

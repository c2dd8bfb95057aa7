//! Values and components.

use std::sync::{Arc, LazyLock};

use lattice_runtime::values::{
    Case, Enum, Field, Flags, Record, Type, Variant, cbor, json, text, wave,
};

/// Types of every kind; the first byte of an input chooses one.
static TYPES: LazyLock<Vec<Type>> = LazyLock::new(|| {
    let fields = vec![
        field("id", Type::U64),
        field("name", Type::String),
        field("note", Type::option(Type::String)),
    ];
    let record = Type::Record(Arc::new(Record::new("", "", fields)));
    let variant = Type::Variant(Arc::new(Variant {
        name: String::new(),
        docs: String::new(),
        cases: vec![case("none", None), case("some", Some(record.clone()))],
    }));
    let enumeration = Type::Enum(Arc::new(Enum {
        name: String::new(),
        docs: String::new(),
        cases: ["red", "green", "dark-blue"].map(Into::into).into(),
    }));
    let names = ["read", "write", "run"].map(Into::into).into();
    let flags = Type::Flags(Arc::new(Flags::new("", "", names)));
    let result = Type::result(Some(Type::Bytes), None);
    let tuple = Type::tuple(vec![Type::S64, Type::F64, Type::Char]);
    let list = Type::list(variant.clone());
    let deep = Type::option(Type::option(list.clone()));
    vec![
        Type::Bool,
        Type::S8,
        Type::U8,
        Type::S16,
        Type::U16,
        Type::S32,
        Type::U32,
        Type::S64,
        Type::U64,
        Type::F32,
        Type::F64,
        Type::Char,
        Type::String,
        Type::Bytes,
        record,
        variant,
        enumeration,
        flags,
        result,
        tuple,
        list,
        deep,
    ]
});

fn field(name: &str, ty: Type) -> Field {
    Field {
        name: name.into(),
        docs: String::new(),
        ty,
    }
}

fn case(name: &str, ty: Option<Type>) -> Case {
    Case {
        name: name.into(),
        docs: String::new(),
        ty,
    }
}

fn typed(input: &[u8]) -> Option<(&'static Type, &[u8])> {
    let (first, rest) = input.split_first()?;
    Some((&TYPES[usize::from(*first) % TYPES.len()], rest))
}

/// The encoding that is hashed. It is one for each value, and read strictly; a record may lack fields that
/// are none, which were added after it was written.
pub(crate) fn cbor(input: &[u8]) {
    let Some((ty, bytes)) = typed(input) else {
        return;
    };
    if let Ok(value) = cbor::decode(ty, bytes) {
        let encoded = cbor::encode(ty, &value);
        assert!(
            encoded == bytes || encoded.len() > bytes.len(),
            "there is one encoding"
        );
        let again = cbor::decode(ty, &encoded).expect("what was written is read");
        assert_eq!(cbor::encode(ty, &again), encoded);
        // What people see of it is made of anything.
        text::render(ty, &value);
        text::render_plain(ty, &value);
    }
}

/// Arguments on the command line.
pub(crate) fn wave(input: &[u8]) {
    let Some((ty, bytes)) = typed(input) else {
        return;
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(value) = wave::parse(ty, text) {
        let encoded = cbor::encode(ty, &value);
        let again =
            wave::parse(ty, &wave::to_string(ty, &value)).expect("what was written is read");
        assert_eq!(cbor::encode(ty, &again), encoded);
    }
}

/// Arguments of programs.
pub(crate) fn json(input: &[u8]) {
    let Some((ty, bytes)) = typed(input) else {
        return;
    };
    let Ok(document) = serde_json::from_slice(bytes) else {
        return;
    };
    if let Ok(value) = json::from_json(ty, &document) {
        let encoded = cbor::encode(ty, &value);
        let again =
            json::from_json(ty, &json::to_json(ty, &value)).expect("what was written is read");
        assert_eq!(cbor::encode(ty, &again), encoded);
    }
}

/// A file that is said to be a component.
pub(crate) fn inspect(input: &[u8]) {
    if let Ok(schema) = lattice_runtime::inspect(input) {
        assert_eq!(schema.bytes, input.len());
    }
}

/// A component that the bound on depth is compiled into, and which must stay valid.
pub(crate) fn depth(input: &[u8]) {
    if lattice_runtime::inspect(input).is_ok()
        && let Ok(bounded) = lattice_runtime::call_depth::bound(input)
        && let Err(error) = lattice_runtime::call_depth::validate(&bounded)
    {
        panic!("{error}");
    }
}

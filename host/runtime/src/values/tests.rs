//! Round trips of every encoding, over types and values at random.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Case, Enum, Field, Flags, Record, Type, Value, Variant, cbor, json, val, wave};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,3}(-[a-z][a-z0-9]{0,2})?",
        1 => prop::sample::select(vec!["true", "false", "some", "none", "ok", "err", "inf", "nan"])
            .prop_map(str::to_owned),
    ]
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set(name(), 1..5)
        .prop_map(|names: BTreeSet<String>| names.into_iter().rev().collect())
}

fn types() -> impl Strategy<Value = Type> {
    let flat = prop_oneof![
        prop::sample::select(vec![
            Type::Bool,
            Type::S8,
            Type::S16,
            Type::S32,
            Type::S64,
            Type::U8,
            Type::U16,
            Type::U32,
            Type::U64,
            Type::F32,
            Type::F64,
            Type::Char,
            Type::String,
            Type::Bytes,
        ]),
        names().prop_map(|cases| {
            Type::Enum(
                Enum {
                    name: String::new(),
                    docs: String::new(),
                    cases,
                }
                .into(),
            )
        }),
        names().prop_map(|flags| Type::Flags(Flags::new("", "", flags).into())),
    ];
    flat.prop_recursive(4, 24, 4, |part| {
        let optional = prop::option::of(part.clone());
        let parts = prop::collection::vec(part.clone(), 4);
        let cases = prop::collection::vec(optional.clone(), 4);
        prop_oneof![
            part.clone().prop_map(Type::list),
            part.clone().prop_map(Type::option),
            (optional.clone(), optional).prop_map(|(ok, err)| Type::result(ok, err)),
            prop::collection::vec(part, 1..4).prop_map(Type::tuple),
            (names(), parts).prop_map(|(names, parts)| {
                let fields = names.into_iter().zip(parts).map(|(name, ty)| Field {
                    name,
                    docs: String::new(),
                    ty,
                });
                Type::Record(Record::new("", "", fields.collect()).into())
            }),
            (names(), cases).prop_map(|(names, parts)| {
                let cases = names.into_iter().zip(parts).map(|(name, ty)| Case {
                    name,
                    docs: String::new(),
                    ty,
                });
                Type::Variant(
                    Variant {
                        name: String::new(),
                        docs: String::new(),
                        cases: cases.collect(),
                    }
                    .into(),
                )
            }),
        ]
    })
}

fn payload(ty: Option<Type>) -> BoxedStrategy<Option<Box<Value>>> {
    match ty {
        Some(ty) => values(&ty).prop_map(|value| Some(Box::new(value))).boxed(),
        None => Just(None).boxed(),
    }
}

fn each(types: impl IntoIterator<Item = Type>) -> BoxedStrategy<Vec<Value>> {
    let types: Vec<_> = types.into_iter().map(|ty| values(&ty)).collect();
    types.boxed()
}

fn values(ty: &Type) -> BoxedStrategy<Value> {
    match ty.clone() {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::S8 => any::<i8>().prop_map(Value::S8).boxed(),
        Type::S16 => any::<i16>().prop_map(Value::S16).boxed(),
        Type::S32 => any::<i32>().prop_map(Value::S32).boxed(),
        Type::S64 => any::<i64>().prop_map(Value::S64).boxed(),
        Type::U8 => any::<u8>().prop_map(Value::U8).boxed(),
        Type::U16 => any::<u16>().prop_map(Value::U16).boxed(),
        Type::U32 => any::<u32>().prop_map(Value::U32).boxed(),
        Type::U64 => any::<u64>().prop_map(Value::U64).boxed(),
        Type::F32 => prop::num::f32::ANY.prop_map(Value::f32).boxed(),
        Type::F64 => prop::num::f64::ANY.prop_map(Value::f64).boxed(),
        Type::Char => any::<char>().prop_map(Value::Char).boxed(),
        Type::String => prop::collection::vec(any::<char>(), 0..8)
            .prop_map(|chars| Value::String(chars.into_iter().collect()))
            .boxed(),
        Type::Bytes => any::<Vec<u8>>().prop_map(Value::Bytes).boxed(),
        Type::List(ty) => prop::collection::vec(values(&ty), 0..4)
            .prop_map(Value::List)
            .boxed(),
        Type::Option(ty) => prop::option::of(values(&ty))
            .prop_map(|value| Value::Option(value.map(Box::new)))
            .boxed(),
        Type::Result { ok, err } => {
            let ok = payload(ok.map(|ty| (*ty).clone()));
            let err = payload(err.map(|ty| (*ty).clone()));
            prop_oneof![
                ok.prop_map(|value| Value::Result(Ok(value))),
                err.prop_map(|value| Value::Result(Err(value))),
            ]
            .boxed()
        }
        Type::Tuple(types) => each(types.to_vec()).prop_map(Value::Tuple).boxed(),
        Type::Record(record) => each(record.fields.iter().map(|field| field.ty.clone()))
            .prop_map(Value::Record)
            .boxed(),
        Type::Variant(variant) => (0..variant.cases.len())
            .prop_flat_map(move |case| {
                payload(variant.cases[case].ty.clone())
                    .prop_map(move |value| Value::Variant(case as u32, value))
            })
            .boxed(),
        Type::Enum(ty) => (0..ty.cases.len() as u32).prop_map(Value::Enum).boxed(),
        Type::Flags(ty) => prop::sample::subsequence(
            (0..ty.flags.len() as u32).collect::<Vec<_>>(),
            0..=ty.flags.len(),
        )
        .prop_map(Value::Flags)
        .boxed(),
    }
}

fn typed_values() -> impl Strategy<Value = (Type, Value)> {
    types().prop_flat_map(|ty| values(&ty).prop_map(move |value| (ty.clone(), value)))
}

/// Whether some encoding may leave out what another writes: a record's fields that are none.
fn has_optional_fields(ty: &Type) -> bool {
    match ty {
        Type::List(ty) | Type::Option(ty) => has_optional_fields(ty),
        Type::Result { ok, err } => ok.iter().chain(err).any(|ty| has_optional_fields(ty)),
        Type::Tuple(types) => types.iter().any(has_optional_fields),
        Type::Record(record) => record
            .fields
            .iter()
            .any(|field| matches!(field.ty, Type::Option(_)) || has_optional_fields(&field.ty)),
        Type::Variant(variant) => variant
            .cases
            .iter()
            .filter_map(|case| case.ty.as_ref())
            .any(has_optional_fields),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_encoding_gives_the_value_back((ty, value) in typed_values()) {
        let bytes = cbor::encode(&ty, &value);
        prop_assert_eq!(cbor::decode(&ty, &bytes), Ok(value.clone()));
        let document = json::to_json(&ty, &value);
        prop_assert_eq!(json::from_json(&ty, &document), Ok(value.clone()), "{}", document);
        let text = wave::to_string(&ty, &value);
        prop_assert_eq!(wave::parse(&ty, &text), Ok(value.clone()), "{}", text);
        prop_assert_eq!(val::from_val(&ty, val::to_val(&ty, value.clone())), Some(value));
    }

    #[test]
    fn what_decodes_is_canonical(
        (ty, value) in typed_values(),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        cut in any::<bool>(),
    ) {
        let mut bytes = cbor::encode(&ty, &value);
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= change;
        }
        if let Ok(value) = cbor::decode(&ty, &bytes) {
            prop_assert!(has_optional_fields(&ty) || cbor::encode(&ty, &value) == bytes);
        }
    }

    #[test]
    fn decoding_garbage_gives_an_error_or_a_value(ty in types(), bytes in any::<Vec<u8>>()) {
        if let Ok(value) = cbor::decode(&ty, &bytes) {
            prop_assert!(has_optional_fields(&ty) || cbor::encode(&ty, &value) == bytes);
        }
    }

    #[test]
    fn text_for_people_holds_no_control_characters((ty, value) in typed_values()) {
        let text = super::text::render(&ty, &value);
        prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
    }
}

fn check(ty: &Type, bytes: &[u8], value: Option<Value>) {
    assert_eq!(cbor::decode(ty, bytes).ok(), value, "{bytes:02x?} as {ty}");
    if let Some(value) = value {
        assert_eq!(cbor::encode(ty, &value), bytes, "{value:?} as {ty}");
    }
}

/// Holds: invariant 15.
#[test]
fn encodings_have_golden_bytes() {
    let field = |name: &str, ty| Field {
        name: name.into(),
        docs: String::new(),
        ty,
    };
    let record = Type::Record(
        Record::new(
            "",
            "",
            vec![field("long", Type::U8), field("b", Type::option(Type::U8))],
        )
        .into(),
    );
    check(&Type::U64, &[0x18, 24], Some(Value::U64(24)));
    check(&Type::S64, &[0x38, 99], Some(Value::S64(-100)));
    let low = [0x3b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    check(&Type::S64, &low, Some(Value::S64(i64::MIN)));
    check(
        &Type::F32,
        &[0xfa, 0x7f, 0xc0, 0, 0],
        Some(Value::f32(f32::NAN)),
    );
    check(
        &Type::F64,
        b"\xfb\x3f\xf8\0\0\0\0\0\0",
        Some(Value::f64(1.5)),
    );
    check(
        &Type::Bytes,
        b"\x42\x00\xff",
        Some(Value::Bytes(vec![0, 255])),
    );
    check(&Type::Char, b"\x62\xc3\xa4", Some(Value::Char('ä')));
    let nested = Type::option(Type::option(Type::Bool));
    check(&nested, &[0xf6], Some(Value::NONE));
    check(&nested, &[0x81, 0xf6], Some(Value::some(Value::NONE)));
    check(
        &nested,
        &[0x81, 0xf5],
        Some(Value::some(Value::some(Value::Bool(true)))),
    );
    let result = Type::result(None, Some(Type::String));
    check(&result, b"\xa1\x62ok\xf6", Some(Value::Result(Ok(None))));
    check(
        &result,
        b"\xa1\x63err\x61x",
        Some(Value::Result(Err(Some(Box::new(Value::String(
            "x".into(),
        )))))),
    );
    check(
        &record,
        b"\xa2\x61b\x07\x64long\x01",
        Some(Value::Record(vec![Value::U8(1), Value::some(Value::U8(7))])),
    );
    let flags = Type::Flags(Flags::new("", "", vec!["z".into(), "aa".into()]).into());
    check(&flags, b"\x82\x62aa\x61z", Some(Value::Flags(vec![0, 1])));
}

/// Digits that round to an infinity stand for no value of any float, alone and inside of other types, in WAVE and JSON.
#[test]
fn a_number_beyond_its_type_is_refused_and_no_infinity() {
    let record = Type::Record(
        Record::new(
            "",
            "",
            vec![Field {
                name: "x".into(),
                docs: String::new(),
                ty: Type::F64,
            }],
        )
        .into(),
    );
    let list = Type::List(Type::F64.into());
    for (ty, text) in [
        (&Type::F64, "1e309"),
        (&Type::F64, "-1e309"),
        (&Type::F32, "1e39"),
        (&Type::F32, "-3.5e38"),
        (&list, "[1, 1e400]"),
        (&record, "{x: 1e400}"),
        (&Type::option(Type::F64), "1e400"),
        (&Type::option(Type::F64), "some(-1e400)"),
    ] {
        let error = wave::parse(ty, text).unwrap_err().to_string();
        assert!(error.contains("largest number"), "{error}");
        assert!(error.contains("inf"), "{error}");
    }
    let f64s = [("1.7976931348623157e308", f64::MAX), ("inf", f64::INFINITY)];
    for (text, value) in f64s {
        assert_eq!(wave::parse(&Type::F64, text), Ok(Value::f64(value)));
    }
    let f32s = [
        ("3.4028235e38", f32::MAX),
        ("-inf", f32::NEG_INFINITY),
        ("1e-50", 0.0),
    ];
    for (text, value) in f32s {
        assert_eq!(wave::parse(&Type::F32, text), Ok(Value::f32(value)));
    }
    for (text, shown) in [
        ("1e309", "1e309"),
        ("[7, -1e309]", "-1e309"),
        ("{\"x\":\n {\"y\": [1e400, 2]}}", "1e400"),
        ("[9e999999999]", "9e999999999"),
    ] {
        let error = json::parse(text).unwrap_err();
        let number = shown.to_owned();
        assert_eq!(error, json::NotJson::Beyond { number }, "{text}");
        assert!(error.to_string().contains("inf"), "{error}");
    }
    let long = format!("[1{}]", "0".repeat(400));
    let error = json::parse(&long).unwrap_err().to_string();
    assert!(error.starts_with("1000") && error.len() < 200, "{error}");
    for (ty, text) in [
        (&Type::F32, "1e39"),
        (&list, "[\"NaN\"]"),
        (&Type::F64, "\"1\""),
    ] {
        let error = json::from_json(ty, &json::parse(text).unwrap()).unwrap_err();
        assert!(error.to_string().contains("\"inf\""), "{error}");
    }
    for text in ["NaN", "Infinity", "-Infinity", "[nan]", "1e", "0x10"] {
        let error = json::parse(text).unwrap_err();
        assert!(matches!(error, json::NotJson::Syntax(_)), "{text}: {error}");
    }
    let widest = json::from_json(&Type::F32, &json::parse("3.4028235e38").unwrap());
    assert_eq!(widest, Ok(Value::f32(f32::MAX)));
    let infinite = json::from_json(&Type::F32, &"inf".into());
    assert_eq!(infinite, Ok(Value::f32(f32::INFINITY)));
}

#[test]
fn what_is_not_canonical_is_refused() {
    check(&Type::U64, &[0x18, 23], None);
    check(&Type::U64, &[0x19, 0, 255], None);
    check(&Type::U64, &[0x1a, 0, 0, 255, 255], None);
    check(&Type::U64, &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255], None);
    check(&Type::U8, &[0x19, 1, 0], None);
    check(&Type::U8, &[0x20], None);
    check(&Type::F64, &[0xfa, 0x3f, 0xc0, 0, 0], None);
    check(&Type::F32, &[0xf9, 0x7e, 0], None);
    check(&Type::F32, &[0xfa, 0x7f, 0xc0, 0, 1], None);
    check(&Type::F32, &[0xfa, 0xff, 0xc0, 0, 0], None);
    check(&Type::String, b"\x7f\x61a\xff", None);
    check(&Type::String, b"\x62\xff\xff", None);
    check(&Type::String, b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff", None);
    check(
        &Type::list(Type::Bool),
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        None,
    );
    check(&Type::Bool, &[0xf5, 0xf5], None);
    check(&Type::Bool, &[0xf7], None);
    check(&Type::option(Type::Bool), &[0xf7], None);
    check(&Type::U64, &[0xc2, 0x41, 1], None);
    let flags = Type::Flags(Flags::new("", "", vec!["a".into(), "b".into()]).into());
    check(&flags, b"\x82\x61b\x61a", None);
    check(&flags, b"\x82\x61a\x61a", None);
    check(&flags, b"\x81\x61c", None);
}

#[test]
fn a_missing_field_is_none_where_that_is_possible() {
    let field = |name: &str, ty| Field {
        name: name.into(),
        docs: String::new(),
        ty,
    };
    let fields = vec![field("a", Type::U8), field("b", Type::option(Type::U8))];
    let ty = Type::Record(Record::new("", "", fields).into());
    let value = Value::Record(vec![Value::U8(1), Value::NONE]);
    assert_eq!(cbor::decode(&ty, b"\xa1\x61a\x01"), Ok(value.clone()));
    assert_eq!(
        cbor::decode(&ty, b"\xa2\x61a\x01\x61b\xf6"),
        Ok(value.clone())
    );
    assert_eq!(
        json::from_json(&ty, &serde_json::json!({"a": 1})),
        Ok(value.clone())
    );
    assert_eq!(wave::parse(&ty, "{a: 1}"), Ok(value));
    for wrong in [
        b"\xa1\x61b\x01".as_slice(),
        b"\xa2\x61b\x01\x61a\x01",
        b"\xa2\x61a\x01\x61a\x01",
        b"\xa2\x61a\x01\x61c\x01",
        b"\xa3\x61a\x01\x61b\x01\x61c\x01",
    ] {
        assert!(cbor::decode(&ty, wrong).is_err(), "{wrong:02x?}");
    }
    assert!(json::from_json(&ty, &serde_json::json!({"a": 1, "c": 1})).is_err());
    assert!(wave::parse(&ty, "{a: 1, c: 1}").is_err());
}

/// Holds: invariant 10.
#[test]
fn more_values_than_a_call_may_have_are_refused() {
    let count = crate::limits::VALUE_NODES_MAX as u32;
    let mut bytes = vec![0x9a];
    bytes.extend(count.to_be_bytes());
    bytes.extend(std::iter::repeat_n(0xf5, count as usize));
    let list = Type::list(Type::Bool);
    let too_many = cbor::DecodeError::TooMany {
        max: count as usize,
    };
    assert_eq!(cbor::decode(&list, &bytes), Err(too_many));
    bytes.truncate(bytes.len() - 1);
    bytes[1..5].copy_from_slice(&(count - 1).to_be_bytes());
    assert!(cbor::decode(&list, &bytes).is_ok());
}

#[test]
fn messages_name_the_value_and_the_place() {
    let ty = Type::tuple(vec![Type::U8, Type::Bytes]);
    let error = json::from_json(&ty, &serde_json::json!([300, ""])).unwrap_err();
    assert_eq!(error.to_string(), "$[0]: 300 is not a u8");
    let error = wave::parse(&Type::U8, "300").unwrap_err().to_string();
    assert!(error.starts_with("'300' is not a u8: "), "{error}");
}

#[test]
fn people_see_bytes_as_text_where_they_are_text() {
    let ty = Type::option(Type::Bytes);
    let render = |bytes: &[u8]| super::text::render(&ty, &Value::some(Value::Bytes(bytes.into())));
    assert_eq!(render(b"hello, world"), r#"some("hello, world")"#);
    assert_eq!(
        render(b"\x1b[31m\"red\"\n"),
        r#"some("\u{1b}[31m\"red\"\n")"#
    );
    assert_eq!(render(b"\xff\x00"), "some(hex:ff00)");
    let plain = super::text::render_plain(&Type::Bytes, &Value::Bytes(b"a\tb".to_vec()));
    assert_eq!(plain, "a\\tb");
}

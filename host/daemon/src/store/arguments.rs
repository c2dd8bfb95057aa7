//! Arguments: from the forms that clients send to the canonical CBOR that the log holds.
//!
//! The types of the code in effect decide, before anything runs. An argument that does not fit its type is a usage
//! error that names the parameter.

use std::collections::HashMap;

use lattice_runtime::values::{Type, Value, cbor, json, wave};
use lattice_runtime::{Function, Param};

use crate::api;
use crate::api::failure::{Failure, Result};

/// Encodes the arguments of a call of `function`.
///
/// # Errors
/// When the arguments do not fit the parameters of the function.
pub(crate) fn encode(function: &Function, arguments: Option<api::Arguments>) -> Result<Vec<u8>> {
    use api::arguments::Form;
    let values = match arguments.and_then(|arguments| arguments.form) {
        None => from_text(function, api::TextArguments::default())?,
        Some(Form::Text(text)) => from_text(function, text)?,
        Some(Form::Json(text)) => from_json(function, &text)?,
        Some(Form::Cbor(bytes)) => {
            cbor::decode_all(function.param_types(), &bytes)
                .map_err(|error| misfit(function, format!("the arguments do not fit: {error}")))?;
            return Ok(bytes);
        }
    };
    Ok(cbor::encode_all(function.param_types(), &values))
}

fn misfit(function: &Function, text: String) -> Failure {
    Failure::usage(text).hint(format!("the function is {function}"))
}

fn from_text(function: &Function, arguments: api::TextArguments) -> Result<Vec<Value>> {
    let mut named: HashMap<String, api::TextArgument> = arguments.named;
    let given = arguments.positional.len();
    if given > function.params.len() {
        return Err(misfit(
            function,
            format!(
                "{} takes {}, and {given} are given",
                function.name,
                count(function.params.len())
            ),
        ));
    }
    let mut positional = arguments.positional.into_iter();
    let mut values = Vec::with_capacity(function.params.len());
    for param in &function.params {
        let by_name = named.remove(&param.name);
        let value = match (positional.next(), by_name) {
            (Some(_), Some(_)) => {
                return Err(misfit(
                    function,
                    format!("the parameter `{}` is given twice", param.name),
                ));
            }
            (Some(argument), None) | (None, Some(argument)) => {
                from_argument(function, param, argument)?
            }
            (None, None) => absent(function, param)?,
        };
        values.push(value);
    }
    if let Some(unknown) = named.keys().min() {
        return Err(misfit(
            function,
            format!("{} has no parameter `{unknown}`", function.name),
        )
        .candidates(function.params.iter().map(|param| param.name.clone())));
    }
    Ok(values)
}

fn count(params: usize) -> String {
    match params {
        0 => "no arguments".into(),
        1 => "1 argument".into(),
        n => format!("{n} arguments"),
    }
}

fn absent(function: &Function, param: &Param) -> Result<Value> {
    match param.ty {
        Type::Option(_) => Ok(Value::NONE),
        _ => Err(misfit(
            function,
            format!(
                "the argument `{}` of {} is missing",
                param.name, function.name
            ),
        )),
    }
}

fn from_argument(function: &Function, param: &Param, argument: api::TextArgument) -> Result<Value> {
    use api::text_argument::Source;
    let wrong = |reason: String| misfit(function, format!("`{}`: {reason}", param.name));
    match argument.source {
        None => absent(function, param),
        Some(Source::Text(text)) => from_literal(&param.ty, text).map_err(wrong),
        Some(Source::Content(content)) => from_content(&param.ty, content).map_err(wrong),
    }
}

fn from_literal(ty: &Type, text: String) -> std::result::Result<Value, String> {
    match ty {
        Type::String => Ok(Value::String(text)),
        Type::Bytes => Ok(Value::Bytes(text.into_bytes())),
        // `none` and `some(…)` are WAVE, WebAssembly's textual value encoding. Anything else is the text itself, so
        // that an optional text is written like any other text.
        Type::Option(inner) if matches!(**inner, Type::String | Type::Bytes) => {
            match wave::parse(ty, &text) {
                Ok(value) => Ok(value),
                Err(_) => Ok(Value::some(from_literal(inner, text)?)),
            }
        }
        ty => wave::parse(ty, &text).map_err(|error| error.to_string()),
    }
}

fn from_content(ty: &Type, content: Vec<u8>) -> std::result::Result<Value, String> {
    let text = |content| {
        String::from_utf8(content)
            .map_err(|error| format!("the content is no UTF-8 text: {}", error.utf8_error()))
    };
    match ty {
        Type::Bytes => Ok(Value::Bytes(content)),
        Type::String => Ok(Value::String(text(content)?)),
        Type::Option(inner) if matches!(**inner, Type::String | Type::Bytes) => {
            Ok(Value::some(from_content(inner, content)?))
        }
        ty => wave::parse(ty, text(content)?.trim()).map_err(|error| error.to_string()),
    }
}

fn from_json(function: &Function, text: &str) -> Result<Vec<Value>> {
    let given =
        json::parse(text).map_err(|error| misfit(function, format!("the arguments: {error}")))?;
    let read = |param: &Param, value: &serde_json::Value| {
        json::from_json(&param.ty, value)
            .map_err(|error| misfit(function, format!("`{}`: {error}", param.name)))
    };
    match given {
        serde_json::Value::Array(items) => {
            if items.len() > function.params.len() {
                return Err(misfit(
                    function,
                    format!(
                        "{} takes {}, and {} are given",
                        function.name,
                        count(function.params.len()),
                        items.len()
                    ),
                ));
            }
            let mut items = items.iter();
            let params = function.params.iter();
            params
                .map(|param| match items.next() {
                    Some(item) => read(param, item),
                    None => absent(function, param),
                })
                .collect()
        }
        serde_json::Value::Object(fields) => {
            if let Some(unknown) = fields
                .keys()
                .find(|name| !function.params.iter().any(|param| param.name == **name))
            {
                return Err(misfit(
                    function,
                    format!("{} has no parameter `{unknown}`", function.name),
                ));
            }
            let params = function.params.iter();
            params
                .map(|param| match fields.get(&param.name) {
                    Some(item) => read(param, item),
                    None => absent(function, param),
                })
                .collect()
        }
        _ => Err(misfit(
            function,
            "the arguments are neither a JSON array nor an object".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Function {
        let param = |name: &str, ty| Param {
            name: name.into(),
            ty,
        };
        Function {
            name: "put".into(),
            docs: String::new(),
            params: vec![
                param("key", Type::String),
                param("value", Type::Bytes),
                param("count", Type::option(Type::S64)),
                param("note", Type::option(Type::String)),
            ],
            result: None,
        }
    }

    fn text(positional: &[&str], named: &[(&str, &str)]) -> api::Arguments {
        let argument = |text: &str| api::TextArgument {
            source: Some(api::text_argument::Source::Text(text.into())),
        };
        api::Arguments {
            form: Some(api::arguments::Form::Text(api::TextArguments {
                positional: positional.iter().map(|text| argument(text)).collect(),
                named: named
                    .iter()
                    .map(|(name, text)| ((*name).into(), argument(text)))
                    .collect(),
            })),
        }
    }

    fn json(text: &str) -> api::Arguments {
        api::Arguments {
            form: Some(api::arguments::Form::Json(text.into())),
        }
    }

    #[test]
    fn three_forms_of_the_same_arguments_encode_alike() {
        let expected = encode(&put(), Some(text(&["a", "b", "-5"], &[("note", "hi")]))).unwrap();
        for same in [
            text(
                &["a", "b"],
                &[("count", "some(-5)"), ("note", "some(\"hi\")")],
            ),
            text(
                &[],
                &[
                    ("value", "b"),
                    ("key", "a"),
                    ("count", "-5"),
                    ("note", "hi"),
                ],
            ),
            json(r#"["a", "Yg==", "-5", "hi"]"#),
            json(r#"{"key": "a", "value": "Yg==", "count": -5, "note": "hi"}"#),
            api::Arguments {
                form: Some(api::arguments::Form::Cbor(expected.clone())),
            },
        ] {
            assert_eq!(encode(&put(), Some(same)).unwrap(), expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_name() {
        for (arguments, said) in [
            (text(&["a"], &[]), "`value`"),
            (text(&["a", "b", "x"], &[]), "`count`"),
            (text(&["a", "b"], &[("key", "c")]), "twice"),
            (
                text(&["a", "b"], &[("colour", "c")]),
                "no parameter `colour`",
            ),
            (text(&["a", "b", "1", "2", "3"], &[]), "4 arguments"),
            (json("{}"), "`key`"),
            (json("7"), "neither"),
            (json("["), "no JSON"),
            (
                json(r#"["a", "Yg==", -1e309]"#),
                "-1e309 is beyond the largest number",
            ),
        ] {
            let failure = encode(&put(), Some(arguments)).unwrap_err();
            assert!(failure.to_string().contains(said), "{failure}");
        }
    }
}

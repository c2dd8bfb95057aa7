//! Outcomes of calls, as text for people and as JSON for programs.

use lattice_daemon::api;
use serde_json::{Map, Value, json};

use crate::failure::{Class, Failure};
use crate::output::Output;
use crate::text;

/// The forms of values that a command asks the daemon for.
pub(crate) fn forms(output: Output) -> Vec<i32> {
    let form = if output.is_json() {
        api::ValueForm::Json
    } else {
        api::ValueForm::Text
    };
    vec![form.into()]
}

/// A value as text on one line.
pub(crate) fn value_text(value: &api::Value) -> String {
    text::line(&value.text)
}

/// A value as JSON. Text that is not valid JSON is passed on as a string.
pub(crate) fn value_json(value: &api::Value) -> Value {
    serde_json::from_str(&value.json).unwrap_or_else(|_| Value::String(value.json.clone()))
}

fn optional_json(value: Option<&api::Value>) -> Value {
    value.map_or(Value::Null, value_json)
}

/// The stable name of a kind of outcome, as `--outcome` takes it.
pub(crate) fn kind_name(kind: api::OutcomeKind) -> &'static str {
    match kind {
        api::OutcomeKind::Unspecified => "unknown",
        api::OutcomeKind::Ok => "ok",
        api::OutcomeKind::Refused => "refused",
        api::OutcomeKind::Unauthorized => "unauthorized",
        api::OutcomeKind::Trapped => "trapped",
        api::OutcomeKind::Void => "void",
        api::OutcomeKind::Pending => "pending",
    }
}

fn trap_name(trap: api::TrapKind) -> &'static str {
    match trap {
        api::TrapKind::Unspecified => "unknown",
        api::TrapKind::Fuel => "fuel",
        api::TrapKind::Depth => "depth",
        api::TrapKind::Limit => "limit",
        api::TrapKind::Misuse => "misuse",
        api::TrapKind::Guest => "guest",
    }
}

fn trap_meaning(trap: api::TrapKind) -> &'static str {
    match trap {
        api::TrapKind::Unspecified => "the function trapped",
        api::TrapKind::Fuel => "the function used up its fuel",
        api::TrapKind::Depth => "the function's calls were nested too deeply",
        api::TrapKind::Limit => "the function passed a limit of memory, tables or sizes",
        api::TrapKind::Misuse => "the function used the host where that is not allowed",
        api::TrapKind::Guest => "the function failed by itself",
    }
}

fn host_refusal_text(refusal: api::HostRefusal) -> Option<&'static str> {
    match refusal {
        api::HostRefusal::Unspecified => None,
        api::HostRefusal::NoSuchFunction => Some("the code in effect has no such function"),
        api::HostRefusal::BadArguments => Some("the arguments do not fit the function"),
        api::HostRefusal::Malformed => Some("the body does not decode"),
    }
}

/// The values that calls returned, a line each. A call that returned none has no line.
pub(crate) fn results_text(outcome: &api::Outcome) -> String {
    outcome
        .results
        .iter()
        .filter_map(|result| result.value.as_ref())
        .map(|value| value_text(value) + "\n")
        .collect()
}

/// An outcome in a few words, for tables.
pub(crate) fn brief(outcome: &api::Outcome) -> String {
    let kind = kind_name(outcome.kind());
    match outcome.kind() {
        api::OutcomeKind::Ok => {
            let values: Vec<String> = outcome
                .results
                .iter()
                .filter_map(|result| result.value.as_ref().map(value_text))
                .collect();
            if values.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind} {}", values.join(", "))
            }
        }
        api::OutcomeKind::Refused => match (
            host_refusal_text(outcome.host_refusal()),
            outcome.error.as_ref(),
        ) {
            (Some(host), _) => format!("{kind}: {host}"),
            (None, Some(error)) => format!("{kind}: {}", value_text(error)),
            (None, None) => kind.to_owned(),
        },
        api::OutcomeKind::Trapped => format!("{kind}: {}", trap_name(outcome.trap())),
        _ => kind.to_owned(),
    }
}

/// An outcome as a JSON object: the member `outcome`, and the members of its kind. A transaction of one call has
/// a `value`, one of several calls has `values`.
pub(crate) fn document(outcome: &api::Outcome) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("outcome".into(), kind_name(outcome.kind()).into());
    match outcome.kind() {
        api::OutcomeKind::Ok => {
            let values: Vec<Value> = outcome
                .results
                .iter()
                .map(|result| optional_json(result.value.as_ref()))
                .collect();
            match <[Value; 1]>::try_from(values) {
                Ok([value]) => members.insert("value".into(), value),
                Err(values) => members.insert("values".into(), Value::Array(values)),
            };
        }
        api::OutcomeKind::Refused => {
            members.insert("call_index".into(), outcome.call_index.into());
            members.insert("error".into(), optional_json(outcome.error.as_ref()));
        }
        api::OutcomeKind::Unauthorized => {
            members.insert("call_index".into(), outcome.call_index.into());
        }
        api::OutcomeKind::Trapped => {
            members.insert("call_index".into(), outcome.call_index.into());
            members.insert("trap".into(), trap_name(outcome.trap()).into());
        }
        _ => {}
    }
    if !outcome.detail.is_empty() {
        members.insert("detail".into(), outcome.detail.clone().into());
    }
    members
}

/// The JSON document of a call: its outcome, and the entry that has it.
pub(crate) fn call_document(response: &api::CallResponse) -> Value {
    let outcome = response.outcome.clone().unwrap_or_default();
    let mut members = document(&outcome);
    members.insert("provisional".into(), response.provisional.into());
    if !response.entry_id.is_empty() {
        members.insert("entry".into(), text::id_json(&response.entry_id));
        members.insert("transaction".into(), response.transaction_index.into());
        let calls: Vec<Value> = response
            .call_ids
            .iter()
            .map(|id| text::id_json(id))
            .collect();
        members.insert("calls".into(), calls.into());
    }
    if let Some(time) = response.time {
        members.insert("time".into(), time_json(time));
    }
    members.into()
}

/// The JSON document of a query.
pub(crate) fn query_document(response: &api::QueryResponse) -> Value {
    let mut members = document(&response.outcome.clone().unwrap_or_default());
    members.insert("provisional".into(), response.provisional.into());
    members.into()
}

/// A hybrid time as JSON.
pub(crate) fn time_json(time: api::Timestamp) -> Value {
    json!({ "wall_ms": time.wall_ms, "counter": time.counter })
}

/// The failure that an outcome means; `None` if it is a success. `functions` are the names of the calls, in order.
pub(crate) fn failure(outcome: &api::Outcome, functions: &[&str]) -> Option<Failure> {
    let call = functions
        .get(outcome.call_index as usize)
        .copied()
        .unwrap_or("the call");
    let which = if functions.len() > 1 {
        format!(
            "{call} (call {} of {})",
            outcome.call_index + 1,
            functions.len()
        )
    } else {
        call.to_owned()
    };
    let failure = match outcome.kind() {
        api::OutcomeKind::Ok => return None,
        api::OutcomeKind::Refused => {
            let why = match (host_refusal_text(outcome.host_refusal()), &outcome.error) {
                (Some(host), _) => host.to_owned(),
                (None, Some(error)) => value_text(error),
                (None, None) => "it gives no reason".to_owned(),
            };
            Failure::new(Class::Refused, format!("{which} refused: {why}"))
        }
        api::OutcomeKind::Trapped => {
            let mut why = trap_meaning(outcome.trap()).to_owned();
            if !outcome.detail.is_empty() {
                why = format!("{why}: {}", outcome.detail);
            }
            Failure::new(
                Class::Refused,
                format!("{which} trapped ({}): {why}", trap_name(outcome.trap())),
            )
        }
        api::OutcomeKind::Unauthorized => {
            let detail = match outcome.detail.as_str() {
                "" => "this node's role does not allow it",
                detail => detail,
            };
            Failure::new(
                Class::Unauthorized,
                format!("{which} is not allowed: {detail}"),
            )
            .hint(outcome.remedy.clone())
        }
        api::OutcomeKind::Void => Failure::new(Class::Unauthorized, format!("{which} is void")),
        api::OutcomeKind::Pending | api::OutcomeKind::Unspecified => {
            Failure::new(Class::NotReady, format!("{which} has no outcome yet"))
        }
    };
    Some(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, json: &str) -> api::Value {
        api::Value {
            text: text.into(),
            json: json.into(),
            cbor: Vec::new(),
        }
    }

    fn ok(values: &[Option<(&str, &str)>]) -> api::Outcome {
        api::Outcome {
            kind: api::OutcomeKind::Ok.into(),
            results: values
                .iter()
                .map(|v| api::CallResult {
                    value: v.map(|(text, json)| value(text, json)),
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn results_print_a_line_each() {
        assert_eq!(results_text(&ok(&[None])), "");
        assert_eq!(
            results_text(&ok(&[Some(("5", "5")), None, Some(("a\x1b", "1"))])),
            "5\na\\u{1b}\n"
        );
        assert_eq!(brief(&ok(&[None])), "ok");
        assert_eq!(brief(&ok(&[Some(("5", "5"))])), "ok 5");
    }

    #[test]
    fn one_call_has_a_value_and_several_have_values() {
        let one = Value::from(document(&ok(&[Some(("5", "\"5\""))])));
        assert_eq!(one, json!({"outcome": "ok", "value": "5"}));
        let two = Value::from(document(&ok(&[None, Some(("1", "1"))])));
        assert_eq!(two, json!({"outcome": "ok", "values": [null, 1]}));
    }

    #[test]
    fn refusals_show_the_error_and_exit_1() {
        let outcome = api::Outcome {
            kind: api::OutcomeKind::Refused.into(),
            call_index: 1,
            error: Some(value("overdrawn(5)", r#"{"overdrawn":5}"#)),
            ..Default::default()
        };
        let failure = failure(&outcome, &["put", "take"]).expect("a failure");
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(
            failure.to_string(),
            "take (call 2 of 2) refused: overdrawn(5)"
        );
        assert_eq!(
            Value::from(document(&outcome)),
            json!({"outcome": "refused", "call_index": 1, "error": {"overdrawn": 5}})
        );
    }

    #[test]
    fn traps_exit_1_and_missing_rights_exit_6() {
        for trap in [
            api::TrapKind::Fuel,
            api::TrapKind::Depth,
            api::TrapKind::Limit,
            api::TrapKind::Misuse,
            api::TrapKind::Guest,
        ] {
            let outcome = api::Outcome {
                kind: api::OutcomeKind::Trapped.into(),
                trap: trap.into(),
                ..Default::default()
            };
            assert_eq!(failure(&outcome, &["f"]).expect("a failure").exit_code(), 1);
        }
        let outcome = api::Outcome {
            kind: api::OutcomeKind::Unauthorized.into(),
            ..Default::default()
        };
        assert_eq!(failure(&outcome, &["f"]).expect("a failure").exit_code(), 6);
    }
}

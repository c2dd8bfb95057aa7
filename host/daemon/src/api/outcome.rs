//! Outcomes and values as messages of the API.

use lattice_kernel::{HostRefusal, Outcome, TrapKind};
use lattice_runtime::Function;
use lattice_runtime::values::{Type, Value, cbor, json, text};

use crate::api;

/// The forms in which values are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forms {
    text: bool,
    json: bool,
    cbor: bool,
}

impl Forms {
    /// The forms that a request names; all forms when it names none.
    pub(crate) fn from_request(forms: &[i32]) -> Self {
        let has = |form: api::ValueForm| forms.is_empty() || forms.contains(&form.into());
        Self {
            text: has(api::ValueForm::Text),
            json: has(api::ValueForm::Json),
            cbor: has(api::ValueForm::Cbor),
        }
    }

    /// Text alone.
    pub(crate) const TEXT: Self = Self {
        text: true,
        json: false,
        cbor: false,
    };

    /// The message for a value whose canonical CBOR is `bytes`. `ty` is its type, if the code in effect has one.
    pub(crate) fn show(self, ty: Option<&Type>, bytes: &[u8]) -> api::Value {
        match ty.and_then(|ty| Some((ty, cbor::decode(ty, bytes).ok()?))) {
            Some((ty, value)) => self.render(ty, &value, bytes),
            // The code in effect has no type for these bytes, so the bytes themselves are shown.
            None => api::Value {
                text: if self.text {
                    format!("cbor:{}", hex::encode(bytes))
                } else {
                    String::new()
                },
                json: if self.json {
                    format!("{{\"cbor\":\"{}\"}}", hex::encode(bytes))
                } else {
                    String::new()
                },
                cbor: if self.cbor {
                    bytes.to_vec()
                } else {
                    Vec::new()
                },
            },
        }
    }

    fn render(self, ty: &Type, value: &Value, bytes: &[u8]) -> api::Value {
        api::Value {
            text: if self.text {
                text::render(ty, value)
            } else {
                String::new()
            },
            json: if self.json {
                json::to_json(ty, value).to_string()
            } else {
                String::new()
            },
            cbor: if self.cbor {
                bytes.to_vec()
            } else {
                Vec::new()
            },
        }
    }
}

/// Removes the values of an outcome that is too large for a message.
pub(crate) fn leave_out_values(outcome: &mut api::Outcome) {
    outcome.results.clear();
    outcome.error = None;
}

/// The reason of a refusal by the host; `None` when `error` is one of the component.
fn host_refusal(error: &[u8]) -> Option<api::HostRefusal> {
    [
        (
            HostRefusal::NoSuchFunction,
            api::HostRefusal::NoSuchFunction,
        ),
        (HostRefusal::BadArguments, api::HostRefusal::BadArguments),
        (HostRefusal::Malformed, api::HostRefusal::Malformed),
    ]
    .into_iter()
    .find_map(|(refusal, shown)| (refusal.to_cbor() == error).then_some(shown))
}

/// A kind of trap as a message.
fn trap(kind: TrapKind) -> api::TrapKind {
    match kind {
        TrapKind::Fuel => api::TrapKind::Fuel,
        TrapKind::Depth => api::TrapKind::Depth,
        TrapKind::Limit => api::TrapKind::Limit,
        TrapKind::Misuse => api::TrapKind::Misuse,
        TrapKind::Guest => api::TrapKind::Guest,
    }
}

/// The message for the outcome of a transaction that calls `functions`. A function is `None` when the code in effect
/// does not have it.
pub(crate) fn show(
    outcome: &Outcome,
    functions: &[Option<&Function>],
    forms: Forms,
) -> api::Outcome {
    let function = |index: usize| functions.get(index).copied().flatten();
    match outcome {
        Outcome::Ok(values) => api::Outcome {
            kind: api::OutcomeKind::Ok.into(),
            results: values
                .iter()
                .enumerate()
                .map(|(index, bytes)| {
                    let ty = function(index).map(Function::ok);
                    api::CallResult {
                        value: match ty {
                            Some(None) => None,
                            None if bytes == cbor::NULL => None,
                            ty => Some(forms.show(ty.flatten(), bytes)),
                        },
                    }
                })
                .collect(),
            ..Default::default()
        },
        Outcome::Refused { index, error } => {
            let host = host_refusal(error);
            let ty = function(*index as usize).map(Function::err);
            let shown = match (host, ty) {
                (Some(_), _) | (None, Some(None)) => None,
                (None, None) if error == cbor::NULL => None,
                (None, ty) => Some(forms.show(ty.flatten(), error)),
            };
            api::Outcome {
                kind: api::OutcomeKind::Refused.into(),
                call_index: *index,
                error: shown,
                host_refusal: host.unwrap_or(api::HostRefusal::Unspecified).into(),
                ..Default::default()
            }
        }
        Outcome::Unauthorized { index } => api::Outcome {
            kind: api::OutcomeKind::Unauthorized.into(),
            call_index: *index,
            ..Default::default()
        },
        Outcome::Trapped { index, kind } => api::Outcome {
            kind: api::OutcomeKind::Trapped.into(),
            call_index: *index,
            trap: trap(*kind).into(),
            ..Default::default()
        },
    }
}

/// The message for a transaction without an outcome, because its entry is void or has not run yet.
pub(crate) fn without(kind: api::OutcomeKind) -> api::Outcome {
    api::Outcome {
        kind: kind.into(),
        ..Default::default()
    }
}

/// A time as a message.
pub(crate) fn time(time: lattice_format::Time) -> api::Timestamp {
    api::Timestamp {
        wall_ms: time.wall_ms,
        counter: time.counter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_refusals_are_told_from_those_of_guests() {
        let by_host = Outcome::Refused {
            index: 1,
            error: HostRefusal::BadArguments.to_cbor(),
        };
        let shown = show(&by_host, &[], Forms::TEXT);
        assert_eq!(shown.host_refusal(), api::HostRefusal::BadArguments);
        assert_eq!((shown.call_index, shown.error), (1, None));
        let by_guest = Outcome::Refused {
            index: 0,
            error: vec![0x61, b'x'],
        };
        let shown = show(&by_guest, &[], Forms::TEXT);
        assert_eq!(shown.host_refusal(), api::HostRefusal::Unspecified);
        assert_eq!(shown.error.unwrap().text, "cbor:6178");
    }
}

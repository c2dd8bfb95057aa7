//! Why a command failed: its exit code, and the one line that a person reads.
//!
//! Every error becomes a [`Failure`]. The node chooses the exit class and the text of its errors, and sends both
//! in the details of the gRPC status. A status without details comes from the transport.

use std::error::Error as _;
use std::fmt;
use std::io;

use lattice_daemon::api;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::text;

/// The result of a command or a part of one.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The class of a failure. Its number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The store's program refused the call, or trapped.
    Refused = 1,
    /// The command is wrong: its form, a name or an argument.
    Usage = 2,
    /// The node, or a peer that is needed, cannot be reached or opened.
    Unreachable = 3,
    /// I/O, limits, time-outs, bad files or tokens.
    Failed = 4,
    /// The store is joining, paused or headless.
    NotReady = 5,
    /// This node has no right to do this.
    Unauthorized = 6,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::Refused => "refused",
            Class::Usage => "usage",
            Class::Unreachable => "unreachable",
            Class::Failed => "failed",
            Class::NotReady => "not-ready",
            Class::Unauthorized => "unauthorized",
        }
    }
}

/// Why a command failed, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    class: Class,
    text: String,
    hint: String,
    candidates: Vec<String>,
    document: Document,
}

/// Whether standard output has its JSON document already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    Missing,
    Printed,
    /// Nobody reads standard output any more, so the failure is printed nowhere.
    Unwanted,
}

impl Failure {
    /// A failure. `text` says what went wrong, and with which value.
    pub(crate) fn new(class: Class, text: impl Into<String>) -> Failure {
        Failure {
            class,
            text: text.into(),
            hint: String::new(),
            candidates: Vec::new(),
            document: Document::Missing,
        }
    }

    /// A failure of class `Usage`.
    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Class::Usage, text)
    }

    /// A failure of class `Failed`.
    pub(crate) fn failed(text: impl Into<String>) -> Failure {
        Failure::new(Class::Failed, text)
    }

    /// Sets the hint: what to do about the failure.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    /// Sets the hint, unless there is one.
    pub(crate) fn hint_if_none(self, hint: &str) -> Failure {
        if self.hint.is_empty() {
            self.hint(hint)
        } else {
            self
        }
    }

    /// Notes that a JSON document has been printed that tells of this failure already.
    pub(crate) fn with_document_printed(mut self) -> Failure {
        self.document = Document::Printed;
        self
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.document {
            Document::Unwanted => 0,
            Document::Missing | Document::Printed => self.class as u8,
        }
    }

    /// The line for standard error; `None` if nobody reads standard output any more.
    pub(crate) fn line(&self) -> Option<String> {
        (self.document != Document::Unwanted).then(|| self.to_string())
    }

    /// The JSON document for standard output; `None` if it has one already, or if nobody reads it any more.
    pub(crate) fn document(&self) -> Option<Value> {
        (self.document == Document::Missing).then(|| {
            json!({
                "error": {
                    "class": self.class.name(),
                    "exit_code": self.exit_code(),
                    "text": self.text,
                    "hint": self.hint,
                    "candidates": self.candidates,
                }
            })
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::line(&self.text))?;
        if !self.candidates.is_empty() {
            let shown: Vec<String> = self.candidates.iter().map(|c| text::line(c)).collect();
            write!(f, " ({})", shown.join(", "))?;
        }
        if !self.hint.is_empty() {
            write!(f, "; {}", text::line(&self.hint))?;
        }
        Ok(())
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        match api::ErrorDetail::decode(status.details()) {
            Ok(detail) if !detail.text.is_empty() => Failure {
                class: class_of(detail.exit_class(), status.code()),
                text: detail.text,
                hint: detail.hint,
                candidates: detail.candidates,
                document: Document::Missing,
            },
            _ => from_transport(&status),
        }
    }
}

/// The failure for a status without details, which comes from the connection or from the gRPC library.
fn from_transport(status: &tonic::Status) -> Failure {
    // What the node answers has no source. What has one happened to the connection: the node was killed, for one.
    let is_cut = status.source().is_some();
    let code = if is_cut {
        Code::Unavailable
    } else {
        status.code()
    };
    let class = class_of(api::ExitClass::Unspecified, code);
    let text = match status.message() {
        "" => format!("the node answered {:?}", status.code()),
        message => message.to_owned(),
    };
    match code {
        Code::Unavailable => Failure::new(class, format!("the node went away: {text}"))
            .hint("look at the daemon's output, and try again"),
        Code::Unimplemented => Failure::new(class, "the daemon does not know this command")
            .hint("it is of another version: restart it with this one"),
        _ => Failure::new(class, text),
    }
}

fn class_of(told: api::ExitClass, code: Code) -> Class {
    match told {
        api::ExitClass::Refused => Class::Refused,
        api::ExitClass::Usage => Class::Usage,
        api::ExitClass::Unreachable => Class::Unreachable,
        api::ExitClass::Failed => Class::Failed,
        api::ExitClass::NotReady => Class::NotReady,
        api::ExitClass::Unauthorized => Class::Unauthorized,
        api::ExitClass::Unspecified => match code {
            Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::OutOfRange => {
                Class::Usage
            }
            Code::FailedPrecondition => Class::NotReady,
            Code::PermissionDenied | Code::Unauthenticated => Class::Unauthorized,
            Code::Unavailable => Class::Unreachable,
            _ => Class::Failed,
        },
    }
}

/// An error of writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let mut failure = Failure::failed(format!("cannot write the output: {error}"));
        failure.document = match error.kind() {
            io::ErrorKind::BrokenPipe => Document::Unwanted,
            _ => Document::Printed,
        };
        failure
    }
}

/// Asserts that a failure tells this remedy, which a test then follows.
#[cfg(test)]
pub(crate) fn advice(failure: &Failure, remedy: &str) {
    let said = failure.to_string();
    assert!(said.contains(remedy), "{said}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, detail: api::ErrorDetail) -> tonic::Status {
        tonic::Status::with_details(code, "x", detail.encode_to_vec().into())
    }

    #[test]
    fn details_decide_over_the_code() {
        let failure = Failure::from(status(
            Code::Internal,
            api::ErrorDetail {
                exit_class: api::ExitClass::Usage.into(),
                text: "\"3fa9\u{1b}\" means several stores".into(),
                hint: "give more digits".into(),
                candidates: vec!["a".into(), "b".into()],
            },
        ));
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(
            failure.line().as_deref(),
            Some(r#""3fa9\u{1b}" means several stores (a, b); give more digits"#)
        );
    }

    #[test]
    fn codes_without_details_have_a_class() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 2),
            (Code::Unavailable, 3),
            (Code::Internal, 4),
            (Code::DeadlineExceeded, 4),
            (Code::ResourceExhausted, 4),
            (Code::FailedPrecondition, 5),
            (Code::PermissionDenied, 6),
        ] {
            assert_eq!(
                Failure::from(tonic::Status::new(code, "why")).exit_code(),
                exit,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit_code(), failure.line()), (0, None));
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit_code(), 4);
        assert!(failure.line().is_some() && failure.document().is_none());
    }
}

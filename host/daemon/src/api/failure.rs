//! Failures of requests: the exit class of the command that made the request, and the line that a person reads.
//!
//! Every error of the API is made here, so that each has an exit class, the value that is wrong, and a hint about what
//! to do.

use prost::Message as _;
use tonic::{Code, Status};

use crate::api::{ErrorDetail, ExitClass};
use crate::limits::CANDIDATES_MAX;

/// The result of a request of the API.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    class: ExitClass,
    code: Code,
    text: String,
    hint: String,
    candidates: Vec<String>,
}

impl Failure {
    fn new(class: ExitClass, code: Code, text: impl Into<String>) -> Self {
        Self {
            class,
            code,
            text: text.into(),
            hint: String::new(),
            candidates: Vec::new(),
        }
    }

    /// The request makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(ExitClass::Usage, Code::InvalidArgument, text)
    }

    /// Nothing has that name.
    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(ExitClass::Usage, Code::NotFound, text)
    }

    /// The failure of a request that the end of the node cut off.
    pub(crate) fn shutting_down() -> Self {
        Self::unreachable("the node is shutting down").hint("try again when it runs")
    }

    /// A peer, or the network, cannot be reached.
    pub(crate) fn unreachable(text: impl Into<String>) -> Self {
        Self::new(ExitClass::Unreachable, Code::Unavailable, text)
    }

    /// The request failed for another reason: I/O, limits, bad files, bad tokens.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(ExitClass::Failed, Code::Internal, text)
    }

    /// The store is joining, paused or headless.
    pub(crate) fn not_ready(text: impl Into<String>) -> Self {
        Self::new(ExitClass::NotReady, Code::FailedPrecondition, text)
    }

    /// Governance does not allow this node to do it.
    pub(crate) fn unauthorized(text: impl Into<String>) -> Self {
        Self::new(ExitClass::Unauthorized, Code::PermissionDenied, text)
    }

    /// A component refused or trapped, in a request whose answer has no outcome.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::new(ExitClass::Refused, Code::Aborted, text)
    }

    /// Adds what a person can do about the failure.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds names that an ambiguous name could have meant, or that exist; at most [`CANDIDATES_MAX`].
    #[must_use]
    pub(crate) fn candidates(mut self, candidates: impl IntoIterator<Item = String>) -> Self {
        self.candidates = candidates.into_iter().take(CANDIDATES_MAX).collect();
        self
    }

    /// The line that says what went wrong, without the hint.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let detail = ErrorDetail {
            exit_class: failure.class.into(),
            text: failure.text.clone(),
            hint: failure.hint,
            candidates: failure.candidates,
        };
        Status::with_details(failure.code, failure.text, detail.encode_to_vec().into())
    }
}

/// This node's disk failed, or a file on it is damaged.
impl From<lattice_kernel::StorageError> for Failure {
    fn from(error: lattice_kernel::StorageError) -> Self {
        Failure::failed(format!("the disk: {error}"))
            .hint("run `lattice doctor`; check free space and the disk")
    }
}

/// This node cannot run a component, or its disk failed.
impl From<lattice_kernel::run::engine::HostFault> for Failure {
    fn from(fault: lattice_kernel::run::engine::HostFault) -> Self {
        use lattice_kernel::run::engine::HostFault;
        match &fault {
            HostFault::MissingCode(_) => Failure::not_ready(fault.to_string()).hint(
                "it is fetched from peers while a daemon runs; `lattice store status` says more",
            ),
            HostFault::Profile(_) | HostFault::Unusable { .. } => {
                Failure::not_ready(fault.to_string())
            }
            HostFault::Exhausted(_) => Failure::failed(fault.to_string()).hint(
                "try again when less runs at once, or allow this process more: see `ulimit -a`",
            ),
            HostFault::Storage(_) | HostFault::Components(_) => Failure::failed(fault.to_string())
                .hint("run `lattice doctor`; check free space and the disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_class_hint_and_a_bounded_number_of_candidates() {
        let failure = Failure::usage("\"ab\" means several stores")
            .hint("give more digits")
            .candidates((0..=CANDIDATES_MAX).map(|i| i.to_string()));
        let status = Status::from(failure);
        assert_eq!(status.code(), Code::InvalidArgument);
        let detail = ErrorDetail::decode(status.details()).unwrap();
        assert_eq!(detail.exit_class(), ExitClass::Usage);
        assert_eq!(detail.hint, "give more digits");
        assert_eq!(detail.candidates.len(), CANDIDATES_MAX);
    }
}

//! Faults switched on deliberately, so that tests prove that they would be caught.
//!
//! Without the feature `mutants` every question here is a constant `false`, and nothing of it is
//! left in the program. With it, one build serves all mutants: each thread selects one.

/// A fault of the kernel that some property test must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Reads of keys that do not exist are not tracked.
    AbsentKeysUntracked,
    /// A scan tracks the rows that it returned, not the gaps between them.
    ScanGapsUntracked,
    /// Reads of refused, trapped and unauthorized runs are not tracked.
    RefusedReadsUntracked,
    /// A cached answer of governance does not bring its reads along.
    CachedAuthorizationReadsLost,
    /// A refused local call does not end the intention being filled.
    RefusalKeepsIntentionOpen,
    /// A version below the newest one of its cell is not inserted.
    OldVersionLost,
    /// Among versions of the same time the last to arrive counts, not the one with the greater id.
    TieBrokenByArrival,
    /// A commit says that it is durable before it is.
    CommitNotDurable,
    /// A signature that does not hold is taken for one that does.
    SignatureUnchecked,
    /// An entry does not wait for the heads that it names.
    DependencyNotAwaited,
    /// What governance denies is run all the same.
    DeniedCallRuns,
    /// How many bytes an author has written is not tracked as a read of what its quota judges.
    WrittenBytesUntracked,
    /// Whether a call was observed is not tracked as a read.
    ObservedCallsUntracked,
}

#[cfg(feature = "mutants")]
thread_local! {
    static SELECTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Selects the mutant of this thread, or none.
#[cfg(feature = "mutants")]
pub fn select(mutant: Option<Mutant>) {
    SELECTED.set(mutant);
}

/// Whether this thread runs that mutant.
#[cfg(feature = "mutants")]
pub(crate) fn active(mutant: Mutant) -> bool {
    SELECTED.get() == Some(mutant)
}

/// Whether this thread runs that mutant: never, in a build without the feature.
#[cfg(not(feature = "mutants"))]
pub(crate) fn active(_: Mutant) -> bool {
    false
}

//! Mutants: faults of the kernel that tests switch on, to prove that their properties would catch them.
//!
//! Without the feature `mutants`, `active` is a constant `false`, so no fault is in the program. With the feature,
//! one build serves all mutants, because each thread selects one.

/// A fault of the kernel that some property test must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Reads of keys that do not exist are not tracked.
    AbsentKeysUntracked,
    /// A scan tracks the rows that it returned, and not the gaps between them.
    ScanGapsUntracked,
    /// Reads of refused, trapped and unauthorized runs are not tracked.
    RefusedReadsUntracked,
    /// The use of a cached answer of governance is not tracked as the reads behind the answer.
    CachedAuthorizationReadsLost,
    /// A remembered answer of governance is used at the end of the lane whatever has changed there.
    AnswersOutliveChanges,
    /// Governance is asked at the end of its lane wherever an entry stands.
    AnswersOfTheEnd,
    /// A run reads what stands at the end of the order wherever its entry stands.
    RunsReadTheEnd,
    /// A refused local call does not close the open intention.
    RefusalKeepsIntentionOpen,
    /// A version below the newest one of its cell is not inserted.
    OldVersionLost,
    /// Among versions of the same time the last to arrive counts, and not the one with the greatest id.
    TieBrokenByArrival,
    /// A commit returns before it is durable.
    CommitNotDurable,
    /// What the journal of a log holds is not read when the log is opened.
    JournalNotRead,
    /// A wrong signature is taken for a right one.
    SignatureUnchecked,
    /// An entry does not wait for the heads that it names.
    DependencyNotAwaited,
    /// A call that governance denies runs all the same.
    DeniedCallRuns,
    /// The judgement by a quota does not track the number of bytes that the author has written as a read.
    WrittenBytesUntracked,
    /// Entries of the system lane, all that a reader can write, are not judged by a quota.
    ReaderQuotaIgnored,
    /// Whether a call was observed is not tracked as a read.
    ObservedCallsUntracked,
    /// A device that was admitted again without knowledge of all its revocations is told that its calls count.
    CutOffCallsTold,
    /// All void entries of an author are kept.
    VoidEntriesKept,
    /// A revocation that keeps what was seen keeps nothing.
    SeenNotKept,
    /// A call that changes governance names the oldest live heads, however many there are.
    HeadsNotGathered,
    /// A governance component that traps when it is asked for cuts has cut off nobody.
    TrappedCutsForgotten,
    /// A change of governance asks for the cuts of new authors alone.
    ChangedCutsMissed,
    /// Each transaction has its own bounds, and the intention has none.
    IntentionUnbounded,
    /// A clock that is behind its peers' is corrected by any difference.
    CorrectionUnbounded,
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

/// Whether this thread runs `mutant`.
#[cfg(feature = "mutants")]
pub(crate) fn active(mutant: Mutant) -> bool {
    SELECTED.get() == Some(mutant)
}

/// Whether this thread runs a mutant: never in a build without the feature.
#[cfg(not(feature = "mutants"))]
pub(crate) fn active(_: Mutant) -> bool {
    false
}

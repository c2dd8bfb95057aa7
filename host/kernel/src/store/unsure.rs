//! Calls whose commit failed. A disk that fails at the end of a transaction may have kept it all the same, so their
//! callers are answered once the log was opened anew and asked.

use crate::storage::error::StorageError;
use crate::store::call_end::{CallError, Told};
use crate::store::effect::Group;
use crate::store::snapshot::Snapshot;

/// Calls that have run, with the entries that were to hold them, and why the commit failed.
#[derive(Debug)]
pub(crate) struct Unsure<C> {
    group: Group<C>,
    why: StorageError,
}

impl<C> Unsure<C> {
    pub(crate) fn new(group: Group<C>, why: StorageError) -> Self {
        Self { group, why }
    }

    /// The answers, by what the store has after it was opened anew.
    pub(crate) fn resolved(self, snapshot: &Snapshot) -> Group<C> {
        // The batch is in the log as a whole or not at all.
        let last = self.group.written.last().map(|header| header.id());
        match last.map(|id| snapshot.contains(&id)) {
            Some(Ok(true)) => self.group,
            Some(Ok(false)) | None => {
                let why = self.why.into();
                refused(self.group, &why)
            }
            Some(Err(_)) => self.given_up(),
        }
    }

    /// The answers when the log could not be asked.
    pub(crate) fn given_up(self) -> Group<C> {
        let Self { group, why } = self;
        let unknown = format_args!("{why}; whether the log has the call is not known yet");
        refused(group, &StorageError::unusable(why.file(), unknown).into())
    }
}

fn refused<C>(mut group: Group<C>, why: &CallError) -> Group<C> {
    refuse_all(&mut group.answers, why);
    Group::unwritten(group.answers)
}

/// Replaces the outcomes that were to enter the log. Others stand, because they were never to enter it.
pub(crate) fn refuse_all<C>(answers: &mut [(C, Result<Told, CallError>)], why: &CallError) {
    for (_, told) in answers {
        if matches!(told, Ok(told) if told.outcome.is_ok()) {
            *told = Err(why.clone());
        }
    }
}

//! What was said before, compared with what holds: outcomes that callers were told, and the roots
//! that authors claim.

use lattice_format::{Body, Claim, Digest, IntentionId, Lane};

use crate::fold::core::Core;
use crate::fold::record::Record;
use crate::graph::dag::{self, LocalSeq};
use crate::graph::slot::Slot;
use crate::log::Stored;
use crate::log::notice::Notice;
use crate::outcome::Outcome;
use crate::storage::rows::StorageError;

/// Stands for the outcome of a void transaction where outcomes are compared.
const VOID: Digest = Digest([0; 32]);

impl Core {
    /// Raises a notice for each outcome that differs from what a caller here was told, or from
    /// what the last notice told.
    pub(crate) fn notice_changed_outcomes(
        &mut self,
        id: &IntentionId,
        local: LocalSeq,
        outcomes: &[Outcome],
    ) -> Result<(), StorageError> {
        let branch = dag::meta(&self.rows, local)?.branch;
        if dag::branch(&self.rows, branch)?.author != self.me {
            return Ok(());
        }
        let Some(told) = self.log.told(local)? else {
            return Ok(());
        };
        for (index, told) in (0u32..).zip(told) {
            let now = outcomes.get(index as usize);
            let digest = now.map_or(VOID, Outcome::digest);
            let last = match self.noticed.get(&(local, index)) {
                Some(last) => Some(*last),
                None => self.log.noticed(local, index)?,
            };
            if last.unwrap_or_else(|| told.digest()) != digest {
                self.noticed.insert((local, index), digest);
                self.notices.push(Notice::OutcomeChanged {
                    entry: *id,
                    transaction: index,
                    told,
                    now: now.cloned(),
                });
            }
        }
        Ok(())
    }

    /// Raises a notice for each outcome that differs from what the last notice told, although nothing runs again.
    ///
    /// Derived state that is behind the log, as after a crash, may hold an outcome as it was before it changed, was
    /// told, and changed back: what reads the same values is not run again, and nothing else compares it. That was
    /// told when the log had more entries than the state knew when it was opened, or as many.
    pub(crate) fn notice_stale_notices(&mut self, known: LocalSeq) -> Result<(), StorageError> {
        for local in self.log.noticed_entries(known)? {
            let meta = dag::meta(&self.rows, local)?;
            let slot = Slot::of(meta.position());
            if self.progress.due.contains(&self.rows, meta.lane, slot)? {
                continue;
            }
            if let Some(record) = Record::load(&self.rows, meta.lane, slot)? {
                self.notice_changed_outcomes(&meta.id, local, &record.outcomes)?;
            }
        }
        Ok(())
    }

    /// Compares roots with what the author held, where this replica holds the same entries.
    pub(crate) fn compare_claim(
        &mut self,
        lane: Lane,
        stored: &Stored,
        body: &Body,
    ) -> Result<(), StorageError> {
        let Some(claim) = &body.claim else {
            return Ok(());
        };
        let slot = Slot::of(stored.header.position());
        if claim.count != self.progress.roots.applied_count
            || Record::load(&self.rows, lane, slot)?.is_some()
            || !self.nothing_else_due(lane, slot)?
            // What ran may yet turn out to be void: nobody claims anything at such a time.
            || self.are_cuts_due()?
        {
            return Ok(());
        }
        let ours = self.claim();
        if ours.set == claim.set && ours != *claim {
            self.notices.push(Notice::Divergence {
                author: stored.header.author,
                entry: stored.header.id(),
            });
        }
        Ok(())
    }

    /// What this replica holds now, as a body claims it.
    pub(crate) fn claim(&self) -> Claim {
        let digests = self.progress.roots.digests();
        Claim {
            count: self.progress.roots.applied_count,
            set: digests.applied,
            state_root: digests.state,
            outcome_root: digests.outcomes,
        }
    }

    /// Whether everything applied is up to date: only the run at `slot` is due.
    fn nothing_else_due(&self, lane: Lane, slot: Slot) -> Result<bool, StorageError> {
        let other = match lane {
            Lane::System => Lane::App,
            Lane::App => Lane::System,
        };
        let alone = match self.progress.due.count(lane) {
            0 => true,
            1 => self.progress.due.contains(&self.rows, lane, slot)?,
            _ => false,
        };
        Ok(alone && self.progress.due.count(other) == 0)
    }
}

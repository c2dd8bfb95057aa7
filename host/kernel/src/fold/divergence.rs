//! Comparisons of what was told with what holds: outcomes that callers were told, and roots that authors claim. A
//! difference raises a notice.

use lattice_format::{Body, Claim, Digest, IntentionId, Lane};

use crate::fold::core::Core;
use crate::fold::record::Record;
use crate::graph::dag;
use crate::graph::slot::Slot;
use crate::log::Stored;
use crate::log::notice::Notice;
use crate::outcome::Outcome;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;

/// Stands for the outcome of a void transaction where outcomes are compared.
const VOID: Digest = Digest([0; 32]);

impl Core {
    /// Raises a notice for each outcome that differs from the last one told: by a notice, or else to the caller.
    pub(crate) fn notice_changed_outcomes(
        &mut self,
        id: &IntentionId,
        local: LocalSeq,
        outcomes: &[Outcome],
    ) -> Result<(), StorageError> {
        // The outcomes of a call that has just run are told with its entry.
        if self.log.is_known_to_lack(local) {
            return Ok(());
        }
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

    /// Raises a notice for each outcome that differs from what the last notice told, of entries that will not run
    /// again.
    ///
    /// After a crash the derived state may be behind the log. It then has an outcome as it was before the outcome
    /// changed, was told by a notice, and changed back. The replay does not run the entry again, because the entry's
    /// reads are those of the older state. So no other comparison finds that the notice is out of date. Such a notice
    /// was written when the log had at least `known` entries, the number that the state knew when it was opened.
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

    /// Compares this replica's roots with those that the author claims, if both hold the same entries.
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
            // While cuts are due, an entry that ran may turn out to be void. No author makes a claim then.
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

    /// This replica's claim: what it holds now, in the form that a body has.
    pub(crate) fn claim(&self) -> Claim {
        let digests = self.progress.roots.digests();
        Claim {
            count: self.progress.roots.applied_count,
            set: digests.applied,
            state_root: digests.state,
            outcome_root: digests.outcomes,
        }
    }

    /// Whether no run is due besides the one at `slot`, so that all outcomes hold.
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

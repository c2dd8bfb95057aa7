//! Quotas: how many bytes one author may write, judged where an entry stands in the order.
//!
//! Governance says how many bytes an author may write in a lane, at the entry's place. What counts is the bytes of
//! header and body of each of the author's entries below that counts, whatever its chain: of the system lane those of
//! this lane, and of the app lane those of both. An entry that would exceed its author's quota is void: it does not
//! run, has no outcome and adds nothing, so a smaller entry may still fit.
//!
//! An entry depends on the rows that governance read for the answer, and on whether it fits; so it runs again when its
//! author's role or quota changes, not when governance changes anything else (other members, names, the salt).

use lattice_format::{DeviceKey, Lane, VerifiedHeader};

use crate::fold::core::{Core, Effects, Stopped};
use crate::graph::slot::Slot;
use crate::mutant::{self, Mutant};
use crate::run::Reads;
use crate::run::engine::{Answer, AskError, HostFault, Question};
use crate::state::cell::Op;
use crate::state::written;
use crate::storage::keys::LocalSeq;

/// How many bytes an entry counts for: of its header and its body. Entries without a body take room as well.
pub(crate) fn charge(header: &VerifiedHeader) -> u64 {
    header.signed().bytes.len() as u64 + u64::from(header.body.len)
}

/// What an author may write, with the reads behind the answer.
pub(crate) struct Quota {
    /// `None` where there is no bound.
    pub(crate) bytes: Option<u64>,
    pub(crate) reads: Reads,
}

impl Core {
    /// The bytes that `author` may write in `lane`, as governance has it at a slot.
    pub(crate) fn quota_at(
        &mut self,
        author: DeviceKey,
        lane: Lane,
        at: Slot,
    ) -> Result<Quota, Stopped> {
        let asked = self.ask_at(&Question::Quota { author, lane }, at)?;
        let bytes = match asked.answer {
            Ok(Answer::Quota(_))
                if lane == Lane::System && mutant::active(Mutant::ReaderQuotaIgnored) =>
            {
                None
            }
            Ok(Answer::Quota(bytes)) => bytes,
            // A governance component that traps at this question bounds nobody, on every replica alike.
            Ok(_) | Err(AskError::Trapped(_)) => None,
            Err(AskError::Host(HostFault::Storage(error))) => return Err(error.into()),
            Err(AskError::Host(fault)) => return Err(fault.into()),
        };
        Ok(Quota {
            bytes,
            reads: asked.reads,
        })
    }

    /// Whether an entry is within its author's quota at a slot, with the reads behind the answer.
    pub(crate) fn judge_quota(
        &mut self,
        header: &VerifiedHeader,
        at: Slot,
    ) -> Result<(bool, Reads), Stopped> {
        let (author, lane) = (&header.author, header.lane);
        let Quota { bytes, mut reads } = self.quota_at(*author, lane, at)?;
        let Some(quota) = bytes else {
            return Ok((true, reads));
        };
        let by = (author, lane);
        let (fits, read) = written::judge(&self.rows, by, charge(header), quota, at)?;
        reads.merge(&read);
        Ok((fits, reads))
    }

    /// Adds the bytes of an entry to the effects of its run, unless the run is void.
    pub(crate) fn account(
        &self,
        lane: Lane,
        header: &VerifiedHeader,
        local: LocalSeq,
        effects: &mut Effects,
    ) {
        // The two halves of a genesis share one entry, which is counted once.
        if !effects.void && (local.0 != 0 || lane == Lane::System) {
            let bytes = i64::try_from(charge(header)).expect("headers and bodies are bounded");
            for cell in written::written_cells(lane, &header.author) {
                effects.writes.insert(cell, Op::Add(bytes));
            }
        }
    }
}

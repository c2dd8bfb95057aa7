//! Quotas: how many bytes of bodies one author may write, judged where an entry stands in the order.
//!
//! Governance says which quota is in effect. Its answer is kept as a row of the host's own behind
//! each entry that changes governance, so an entry of the app lane reads one cell, and what else
//! governance changes (members, names, the salt) concerns it not. The bytes that an author has
//! written are a number, one for each author, to which each entry that counts adds the length of its
//! body, whatever its chain and lane. An entry of the app lane that would exceed the quota is void:
//! it does not run, has no outcome and adds nothing, so that a smaller one may still fit.
//!
//! Entries of the system lane count and are not judged: an admin at its bound must be able to raise
//! it, and anyone to leave.

use lattice_format::{Header, Lane, Time};

use crate::fold::core::{Core, Effects, Stopped};
use crate::graph::dag::LocalSeq;
use crate::graph::slot::Slot;
use crate::run::Run;
use crate::run::engine::{Answer, AskError, Question};
use crate::state::cell::Op;
use crate::state::written::{quota_cell, written_cell};

impl Core {
    /// Adds to the effects of a run that counts what the host itself keeps of it: the bytes that its
    /// author has written, and, where governance has changed, the quota in effect behind it.
    pub(crate) fn account(
        &self,
        lane: Lane,
        slot: Slot,
        header: &Header,
        local: LocalSeq,
        effects: &mut Effects,
    ) -> Result<(), Stopped> {
        if lane == Lane::System && !effects.writes.is_empty() {
            let mut run = Run::query(
                self.rows.view(),
                Some(self.info.id),
                Lane::System,
                slot,
                Time::default(),
            );
            run.own = effects.writes.clone();
            let asked = self.asking().ask_in(run, &Question::InEffect);
            let quota = match asked.answer {
                Ok(Answer::InEffect(effect)) => effect.quota_bytes,
                // A governance component that traps here bounds nobody, on every replica alike.
                Ok(_) | Err(AskError::Trapped(_)) => None,
                Err(AskError::Host(fault)) => return Err(fault.into()),
            };
            effects.reads.merge(&asked.reads);
            let op = match quota {
                Some(quota) => Op::Put(quota.to_be_bytes()[..].into()),
                None => Op::Delete,
            };
            effects.writes.insert(quota_cell(), op);
        }
        // The two halves of a genesis are one body.
        if !effects.void && (local.0 != 0 || lane == Lane::System) {
            let len = Op::Add(i64::from(header.body.len));
            effects.writes.insert(written_cell(&header.author), len);
        }
        Ok(())
    }
}

//! Quotas: how many bytes of bodies one author may write, judged where an entry stands in the order.
//!
//! Governance says which quota is in effect. The host keeps the answer in a cell, as a write of each entry that
//! changes governance. So an entry of the app lane reads one cell, and runs again only when the quota changes, not
//! when governance changes anything else (members, names, the salt).
//!
//! The bytes that an author has written are a number, one for each author. Each entry that counts adds the length of
//! its body, whatever its chain and lane. An entry of the app lane that would exceed the quota is void: it does not
//! run, has no outcome and adds nothing, so a smaller entry may still fit.
//!
//! Entries of the system lane add their bytes and are never void by a quota, because an admin at its bound must be
//! able to raise it, and anyone must be able to leave.

use lattice_format::{Header, Lane, Time};

use crate::fold::core::{Core, Effects, Stopped};
use crate::graph::slot::Slot;
use crate::run::Run;
use crate::run::engine::{Answer, AskError, Question};
use crate::state::cell::Op;
use crate::state::written::{quota_cell, written_cell};
use crate::storage::keys::LocalSeq;

impl Core {
    /// Adds the host's own writes to the effects of a run: its author's written bytes, unless the run is void, and
    /// the quota in effect, where the run changed governance.
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
                // A governance component that traps at this question bounds nobody, on every replica alike.
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
        // The two halves of a genesis share one body, which is counted once.
        if !effects.void && (local.0 != 0 || lane == Lane::System) {
            let len = Op::Add(i64::from(header.body.len));
            effects.writes.insert(written_cell(&header.author), len);
        }
        Ok(())
    }
}

//! Local calls: they run before they are signed, and an intention holds exactly the calls that ran in it.
//!
//! Waiting calls share an intention, its instance and its commit. A call that is refused, traps or is unauthorized
//! goes back to its caller and never reaches the log. It also ends the open intention, because the instance may have
//! memory that replicas will not have.

use std::sync::Arc;

use lattice_format::limits::{ADMITS_MAX, CALLS_MAX, HEADER_BYTES_MAX, NAME_BYTES_MAX};
use lattice_format::{
    Body, BodyRef, Call, CallId, ChainId, DeviceKey, Digest, Header, IntentionId, Lane, Seq, Time,
    Transaction, VerifiedBody, VerifiedHeader,
};

use crate::fold::core::{Effects, calls_of};
use crate::fold::execution::Execution;
use crate::graph::dag;
use crate::graph::slot::Slot;
use crate::graph::void;
use crate::graph::{live_heads, order};
use crate::limits::{HEADS_NAMED_MAX, LOCAL_BODY_BYTES, LOCAL_TRANSACTIONS};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, TrapKind};
use crate::run::engine::{Answer, AskError, HostFault, Question};
use crate::run::{CallPlace, Run};
use crate::state::written;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::store::Store;
use crate::store::ahead::Ceiling;
use crate::store::call_end::{CallError, Told};

/// An open intention: calls are added until it is closed and signed.
pub(crate) struct Open {
    header: Arc<Header>,
    /// Where its calls run: at the end of the order, unless entries stand above it.
    at: Slot,
    execution: Execution,
    transactions: Vec<Transaction>,
    outcomes: Vec<Outcome>,
    bytes: usize,
    /// The calls that changed governance: those of the last transaction, which closes the intention.
    governing: Vec<CallId>,
    /// Whether the cuts known now make everything in it void.
    cut_off: bool,
    /// The quota of this device in the lane; `None` where there is no bound. Nothing else is applied while the intention
    /// is open, so neither the quota nor what is written changes.
    quota: Option<u64>,
}

impl Open {
    pub(crate) fn time(&self) -> Time {
        self.header.time
    }
}

/// The most bytes that a device takes in a header that admits it.
const ADMIT_BYTES: usize = 34;

/// The most bytes that the claim of roots takes in a body.
const CLAIM_BYTES: usize = 256;

/// The most bytes that a transaction takes in a body.
fn transaction_bytes(calls: &[Call]) -> usize {
    calls
        .iter()
        .map(|c| c.interface.len() + c.function.len() + c.args.len() + 24)
        .sum::<usize>()
        + 48
}

fn check(calls: &[Call]) -> Result<(), CallError> {
    if calls.is_empty() || calls.len() > CALLS_MAX {
        return Err(CallError::Malformed(format!(
            "a transaction of {} calls: it takes 1 to {CALLS_MAX}",
            calls.len()
        )));
    }
    for call in calls {
        for name in [&call.interface, &call.function] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(CallError::Malformed(format!(
                    "a name of {} bytes: it takes 1 to {NAME_BYTES_MAX}",
                    name.len()
                )));
            }
        }
    }
    Ok(())
}

impl Store {
    /// Runs calls of one lane as one transaction, at the end of the order. The transaction is in the log only after
    /// [`Store::commit`]; answer the caller then.
    ///
    /// `chain` is 64 fresh random bits. It is used when this device must start a chain.
    ///
    /// # Errors
    /// When the transaction has no outcome. An outcome other than `ok` is no error.
    pub fn call(
        &mut self,
        lane: Lane,
        calls: Vec<Call>,
        now_ms: u64,
        chain: ChainId,
    ) -> Result<Told, CallError> {
        self.core.log.check_writable()?;
        check(&calls)?;
        let bytes = transaction_bytes(&calls);
        // The claim of roots needs room beside the transactions.
        let max = self.core.info.genesis.limits.body_bytes as usize - CLAIM_BYTES;
        if bytes > max {
            return Err(CallError::TooLarge { len: bytes, max });
        }
        let full = self.open.as_ref().is_some_and(|open| {
            open.header.lane != lane
                || open.bytes + bytes > LOCAL_BODY_BYTES.min(max)
                || open.transactions.len() >= LOCAL_TRANSACTIONS
                || open.execution.next_index() as usize + calls.len() > CALLS_MAX
        });
        if full {
            self.close_before_commit(now_ms)?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_intention(lane, now_ms, chain)?,
        };
        if let Err(error) = self.check_quota(&open, &calls, bytes) {
            self.open = Some(open);
            return Err(error);
        }
        let index = open.execution.next_index();
        let call = open.header.call_id(index);
        match open.execution.transaction(&mut self.core, &calls) {
            Ok(Outcome::Trapped {
                kind: TrapKind::Limit,
                ..
            }) if !open.transactions.is_empty() => {
                // The transactions before may have used up what the intention has. One that is alone has all of it.
                open.execution.rewind_index(index);
                self.open = Some(open);
                self.close_before_commit(now_ms)?;
                self.call(lane, calls, now_ms, chain)
            }
            Ok(outcome)
                if outcome.is_ok() && open.cut_off && !mutant::active(Mutant::CutOffCallsTold) =>
            {
                Err(CallError::CutOff {
                    device: self.author,
                })
            }
            Ok(outcome) if outcome.is_ok() => {
                let wrote = open.execution.run_mut().transaction_wrote();
                if lane == Lane::System && wrote {
                    let ids = index..open.execution.next_index();
                    open.governing = ids.map(|index| open.header.call_id(index)).collect();
                    if let Err(error) = self.admitted(&mut open) {
                        // Signing would fail, and with it the calls of others in the same commit.
                        open.governing.clear();
                        open.execution.run_mut().rollback();
                        open.execution.rewind_index(index);
                        self.open = Some(open);
                        self.close_before_commit(now_ms)?;
                        return Err(error);
                    }
                }
                open.transactions.push(Transaction {
                    calls,
                    told: Some(outcome.digest()),
                });
                open.outcomes.push(outcome.clone());
                open.bytes += bytes;
                self.open = Some(open);
                // Governance has changed, so it may allow other calls from here on.
                if lane == Lane::System && wrote {
                    self.close_before_commit(now_ms)?;
                }
                Ok(Told { outcome, call })
            }
            Ok(outcome) => {
                open.execution.rewind_index(index);
                self.open = Some(open);
                if !mutant::active(Mutant::RefusalKeepsIntentionOpen) {
                    self.close_before_commit(now_ms)?;
                }
                Ok(Told { outcome, call })
            }
            Err(stopped) => {
                open.execution.rewind_index(index);
                self.open = Some(open);
                self.close_before_commit(now_ms)?;
                Err(stopped.into())
            }
        }
    }

    /// Refuses a transaction whose entry would be void by this device's quota, before the transaction runs.
    fn check_quota(&self, open: &Open, calls: &[Call], bytes: usize) -> Result<(), CallError> {
        let Some(quota) = open.quota else {
            return Ok(());
        };
        let lane = open.header.lane;
        let written = written::written_at(&self.core.rows, &self.author, lane, open.at)?;
        let fits = |len: usize| written.saturating_add(len as u64) <= quota;
        if fits(HEADER_BYTES_MAX + open.bytes + bytes + CLAIM_BYTES) {
            return Ok(());
        }
        // The upper bound does not fit, so the length is computed. Only the claim may still be left out at signing, and
        // what the call admits is not known before it runs.
        let mut transactions = open.transactions.clone();
        transactions.push(Transaction {
            calls: calls.to_vec(),
            told: Some(Digest([0; 32])),
        });
        let body = Body {
            transactions,
            genesis: None,
            claim: self.core.progress.settled.then(|| self.core.claim()),
        };
        let body_len = body.encode().len();
        let mut header = Header::clone(&open.header);
        header.body.len = u32::try_from(body_len).expect("bounded by LOCAL_BODY_BYTES");
        header.chain_bytes += body_len as u64;
        let admits = match lane {
            Lane::System => ADMITS_MAX * ADMIT_BYTES,
            Lane::App => 0,
        };
        let len = header.encode().len() + admits + body_len;
        if fits(len) {
            return Ok(());
        }
        Err(CallError::OverQuota {
            device: self.author,
            len: len as u64,
            written,
            quota,
        })
    }

    fn open_intention(
        &mut self,
        lane: Lane,
        now_ms: u64,
        chain: ChainId,
    ) -> Result<Open, CallError> {
        let revocations = self.core.revocations(&self.author)?;
        let ceiling = self.ceiling(now_ms)?;
        let (grant, cut_off) = self.own_grant(&revocations, ceiling)?;
        // What changes governance may keep all that its author has seen, and that is what the entry names. Everything
        // that was applied here was shown to somebody. Who has a quota in the system lane does not gather, because
        // the entries would use it up: that lane is bounded for those who may revoke nobody.
        let gathers = lane == Lane::System
            && !cut_off
            && matches!(ceiling, Ceiling::None)
            && self
                .core
                .quota_at(self.author, lane, Slot::MAX)?
                .bytes
                .is_none();
        if gathers {
            while self.has_more_heads()? && !mutant::active(Mutant::HeadsNotGathered) {
                self.gather(now_ms, chain, grant)?;
            }
        }
        let header = self.next_header(lane, now_ms, chain, grant, ceiling)?;
        let at = match ceiling {
            Ceiling::None => Slot::MAX,
            Ceiling::At(_) => Slot::first_of(header.time),
        };
        self.open_with(header, at, cut_off)
    }

    fn open_with(&mut self, header: Header, at: Slot, cut_off: bool) -> Result<Open, CallError> {
        let place = CallPlace {
            names: header.names().collect(),
            header: Arc::new(header),
            index: 0,
        };
        let (header, lane) = (place.header.clone(), place.header.lane);
        let quota = self.core.quota_at(self.author, lane, at)?.bytes;
        let run = Run::command(
            self.core.rows.view(),
            Some(self.core.info.id),
            lane,
            at,
            place,
        );
        Ok(Open {
            header,
            at,
            quota,
            execution: Execution::new(lane, at, run, &self.core.info.genesis.limits),
            transactions: Vec::new(),
            outcomes: Vec::new(),
            bytes: 0,
            governing: Vec::new(),
            cut_off,
        })
    }

    /// The devices that the calls of an intention have admitted, sorted.
    fn admitted(&self, open: &mut Open) -> Result<Vec<DeviceKey>, CallError> {
        let mut admitted = Vec::new();
        for call in &open.governing {
            let query = open.execution.run_mut().query_over();
            let asked = self.core.asking().ask_in(query, &Question::Admitted(*call));
            match asked.answer {
                Ok(Answer::Admitted(devices)) => admitted.extend(devices),
                Ok(_) => {
                    return Err(CallError::Host(HostFault::Unusable {
                        component: self.core.info.genesis.system.id,
                        reason: "it answered another question".into(),
                    }));
                }
                // Governance that traps admits nobody.
                Err(AskError::Trapped(_)) => {}
                Err(AskError::Host(fault)) => return Err(CallError::Host(fault)),
            }
        }
        admitted.sort_unstable();
        admitted.dedup();
        if admitted.len() > ADMITS_MAX {
            return Err(CallError::Malformed(format!(
                "a transaction that admits {} devices: an entry admits at most {ADMITS_MAX}; make several",
                admitted.len()
            )));
        }
        Ok(admitted)
    }

    /// The next header, with every field that is fixed before its calls run.
    pub(crate) fn next_header(
        &mut self,
        lane: Lane,
        now_ms: u64,
        chain: ChainId,
        grant: IntentionId,
        ceiling: Ceiling,
    ) -> Result<Header, CallError> {
        let author = self.author;
        let tip = match self.own_tip()? {
            Some((_, meta)) if self.is_set_aside(&meta, ceiling)? => None,
            tip => tip,
        };
        // The first entry of a chain has the genesis before it.
        let (tip, chain, seq, prev, chain_bytes) = match tip {
            Some((local, meta)) => {
                let branch = dag::branch(&self.core.rows, meta.branch)?;
                debug_assert_eq!(branch.tip_local, local);
                let next = meta.seq.0 + 1;
                (local, branch.chain, Seq(next), meta.id, meta.chain_bytes)
            }
            None => {
                let genesis = IntentionId::from(self.core.info.id);
                (LocalSeq(0), chain, Seq(0), genesis, 0)
            }
        };
        let core = &mut self.core;
        let (rows, cache) = (&core.rows, &mut core.cache);
        let (heads, latest) = match ceiling {
            Ceiling::None => (
                cache
                    .live_heads
                    .oldest(rows, &cache.heads, tip, HEADS_NAMED_MAX)?,
                core.progress.last_time,
            ),
            Ceiling::At(slot) => (
                live_heads::below(rows, &cache.heads, tip, slot, HEADS_NAMED_MAX)?,
                order::last_below(rows, slot)?,
            ),
        };
        let mut deps: Vec<IntentionId> = heads.into_iter().map(|(_, id)| id).collect();
        deps.sort_unstable();
        let time = Time::local(now_ms, latest).ok_or(CallError::Time(latest))?;
        Ok(Header {
            store: Some(self.core.info.id),
            author,
            chain,
            seq,
            prev: Some(prev),
            deps,
            time,
            grant: Some(grant),
            admits: Vec::new(),
            lane,
            body: BodyRef {
                hash: Body::hash_of(&[]),
                len: 0,
                key: 0,
            },
            // The bytes of the chain before this body. Signing adds those of the body.
            chain_bytes,
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        })
    }

    /// The latest entry that admits this device, is not cut off, and has all of `revocations` in its past; `false`
    /// with it. If there is none, the latest one that is not cut off, and `true`: the cuts make void what names it.
    fn own_grant(
        &self,
        revocations: &[LocalSeq],
        ceiling: Ceiling,
    ) -> Result<(IntentionId, bool), CallError> {
        let mut void_by_cut = None;
        for local in dag::grants(&self.core.rows, &self.author)? {
            let meta = dag::meta(&self.core.rows, local)?;
            let id = meta.id;
            if ceiling.is_above(&meta) || void::is_cut_off(&self.core.rows, &id)? {
                continue;
            }
            let mut spared = true;
            for revocation in revocations {
                spared &= dag::local_in_past_or_same(&self.core.rows, *revocation, local)?;
            }
            if spared {
                return Ok((id, false));
            }
            void_by_cut.get_or_insert((id, true));
        }
        void_by_cut.ok_or(CallError::NotAdmitted {
            device: self.author,
        })
    }

    /// The tip of the chain that this device continues; `None` when it must start one.
    pub(crate) fn own_tip(&self) -> Result<Option<(LocalSeq, dag::Meta)>, StorageError> {
        let Some(chain) = self
            .core
            .progress
            .chain
            .filter(|chain| self.left_chain != Some(*chain))
        else {
            return Ok(None);
        };
        // A forked chain is not continued, so a new chain starts.
        let branches = dag::first_branches_of(&self.core.rows, &self.author, Some(chain), 2)?;
        let [branch] = branches[..] else {
            return Ok(None);
        };
        let local = dag::branch(&self.core.rows, branch)?.tip_local;
        Ok(Some((local, dag::meta(&self.core.rows, local)?)))
    }

    /// As [`Store::close_intention`], where callers have been told something already: when it
    /// fails, the next commit says so to all of them.
    fn close_before_commit(&mut self, now_ms: u64) -> Result<(), CallError> {
        self.close_intention(now_ms).inspect_err(|error| {
            self.unsigned = Some(error.clone());
        })
    }

    /// Closes the open intention. If it holds any transaction, signs it, inserts it into the graph and installs its
    /// effects. It is durable only after the next commit.
    pub(crate) fn close_intention(&mut self, now_ms: u64) -> Result<(), CallError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if open.transactions.is_empty() {
            return Ok(());
        }
        let outcomes = open.outcomes.clone();
        let (header, body, effects) = self.sign(open)?;
        let local = self.insert(&header, Some(&body), now_ms, outcomes)?;
        self.core.note_live(local)?;
        self.core
            .install(header.lane, Slot::of(header.position()), local, effects)?;
        // Entries too far ahead may have read what was written below them.
        self.core.progress.settled &= self.core.progress.due.total() == 0;
        Ok(())
    }

    /// Signs an intention. Completes the fields of its header that depend on the body, and its effects by the rows that
    /// the host keeps of it.
    fn sign(
        &mut self,
        mut open: Open,
    ) -> Result<(VerifiedHeader, VerifiedBody, Effects), CallError> {
        let mut header = Header::clone(&open.header);
        header.admits = self.admitted(&mut open)?;
        let calls = open.transactions.iter().map(|t| t.calls.len() as u32).sum();
        let body = Body {
            transactions: open.transactions,
            genesis: None,
            // While cuts are due, entries that these calls cut off are not void yet, so no roots are claimed.
            claim: (self.core.progress.settled && !self.core.are_cuts_due()?)
                .then(|| self.core.claim()),
        };
        let bytes = body.encode();
        header.body = BodyRef {
            hash: Body::hash_of(&bytes),
            len: u32::try_from(bytes.len()).expect("bounded by LOCAL_BODY_BYTES or the genesis"),
            key: 0,
        };
        header.chain_bytes += u64::from(header.body.len);
        let header = VerifiedHeader::sign(header, &self.key)
            .expect("this file makes headers as verification wants them");
        let body = header
            .check_body(bytes)
            .expect("its hash was taken from these bytes");
        let (reads, host, writes) = open.execution.finish().into_parts();
        let mut effects = Effects {
            void: false,
            calls: calls_of(header.lane, &header, calls),
            outcomes: open.outcomes,
            reads,
            host,
            writes,
        };
        let (within, judged) = self.core.judge_quota(&header, open.at)?;
        assert!(within, "calls were let through above the quota");
        effects.judged(judged);
        let next = self.core.progress.next;
        self.core.account(header.lane, &header, next, &mut effects);
        Ok((header, body, effects))
    }
}

//! Making things durable: one commit a batch, undone as a whole when the disk fails; derived state
//! behind it, never ahead.

use std::sync::Arc;

use lattice_format::{ChainId, IntentionId, Time, VerifiedBody, VerifiedHeader};

use crate::fold::core::Settled;
use crate::fold::due::Due;
use crate::fold::governance::Answers;
use crate::graph::dag::LocalSeq;
use crate::graph::insert;
use crate::graph::lookup_cache::Heads;
use crate::graph::slot::Slot;
use crate::limits::{CHANGED_ENTRIES_MAX, CUT_RUNS, FLUSH_ENTRIES, FLUSH_MS, OVERLAY_ROWS_MAX};
use crate::log::notice::Notice;
use crate::log::{Append, Noticed, WitnessRecord, chain_hash};
use crate::outcome::Outcome;
use crate::state::versions::{RangeLengths, Roots};
use crate::storage::rows::{RowsView, StorageError};
use crate::store::author::CallError;
use crate::store::receive::Received;
use crate::store::snapshot::{Snapshot, Summary};
use crate::store::{INDEXED, LAST_TIME, LENGTHS, OWN_CHAIN, ROOTS, Store, WITNESS};

/// What a failed commit goes back to.
pub(crate) struct Undo {
    rows: RowsView,
    heads: Heads,
    roots: Roots,
    lengths: RangeLengths,
    last_time: Time,
    chain: Option<ChainId>,
    witness: [u8; 32],
    settled: bool,
    due: Due,
    last_run: [Slot; 2],
}

fn storage_of(error: CallError) -> StorageError {
    StorageError(error.to_string())
}

impl Store {
    fn begin_undo(&mut self) {
        if self.undo.is_none() {
            self.undo = Some(Undo {
                rows: self.core.rows.view(),
                heads: self.core.cache.heads.clone(),
                roots: self.core.roots.clone(),
                lengths: self.core.lengths.clone(),
                last_time: self.last_time,
                chain: self.chain,
                witness: self.witness,
                settled: self.settled,
                due: self.core.due.clone(),
                last_run: self.core.last_run,
            });
        }
    }

    pub(crate) fn roll_back(&mut self) {
        self.open = None;
        self.pending.clear();
        self.core.noticed.clear();
        if let Some(undo) = self.undo.take() {
            self.core.rows.restore(undo.rows);
            self.core.cache.go_back(undo.heads);
            self.core.roots = undo.roots;
            self.core.lengths = undo.lengths;
            self.last_time = undo.last_time;
            self.chain = undo.chain;
            self.witness = undo.witness;
            self.settled = undo.settled;
            self.core.due = undo.due;
            self.core.last_run = undo.last_run;
            self.next = self.durable;
            self.core.changes.all = true;
        }
    }

    /// Puts an admitted entry into the graph and the next batch of the log.
    pub(crate) fn index(
        &mut self,
        header: &VerifiedHeader,
        body: Option<&VerifiedBody>,
        now_ms: u64,
        told: Vec<Outcome>,
    ) -> Result<LocalSeq, StorageError> {
        self.begin_undo();
        let local = self.index_only(header, now_ms)?;
        self.pending.push(Append {
            header: header.clone(),
            body: body.cloned(),
            received_ms: now_ms,
            told,
        });
        Ok(local)
    }

    pub(crate) fn index_only(
        &mut self,
        header: &VerifiedHeader,
        received_ms: u64,
    ) -> Result<LocalSeq, StorageError> {
        let local = self.next;
        let added = insert::add(&mut self.core.rows, &mut self.core.cache, header, local)?;
        assert_eq!(added.local, local, "entries are numbered densely");
        if added.new_branch {
            self.core.cuts_of_are_due(&header.author)?;
        }
        if added.fork {
            self.core.notices.push(Notice::Fork {
                author: header.author,
                entry: header.id(),
            });
        }
        if header.author == self.author {
            // After a restart from an older state the log knows best which chain is ours.
            self.chain = Some(header.chain);
            self.core.rows.put(OWN_CHAIN, header.chain.0.to_be_bytes());
        }
        self.next = LocalSeq(local.0 + 1);
        self.last_time = self.last_time.max(header.time);
        self.witness = chain_hash(&self.witness, &header.id(), received_ms);
        self.unflushed += 1;
        self.witnessed_since += 1;
        if self.core.changes.entries.len() < CHANGED_ENTRIES_MAX {
            self.core.changes.entries.push(header.id());
        } else {
            self.core.changes.all = true;
        }
        Ok(local)
    }

    /// Signs the intention being filled and makes everything since the last commit durable. Only
    /// then may callers be answered. Returns the new intentions.
    ///
    /// # Errors
    /// When the disk fails: everything since the last commit is undone, and the callers get the
    /// fault.
    pub fn commit(&mut self, now_ms: u64) -> Result<Vec<VerifiedHeader>, StorageError> {
        let unsigned = match self.unsigned.take() {
            Some(error) => Err(error),
            None => self.close_intention(now_ms),
        };
        if let Err(error) = unsigned {
            self.roll_back();
            return Err(storage_of(error));
        }
        if let Err(error) = self.sound() {
            self.roll_back();
            return Err(error);
        }
        if self.pending.is_empty() && self.core.notices.is_empty() {
            self.undo = None;
            return Ok(Vec::new());
        }
        let batch = std::mem::take(&mut self.pending);
        let mut kept_notices = self.kept_notices.clone();
        let notices = kept_notices.add(std::mem::take(&mut self.core.notices));
        let record = self
            .witness_due(now_ms)
            .then(|| self.witness_record(now_ms));
        if let Err(error) = self.core.log.append(
            self.durable,
            &batch,
            &notices,
            &self.core.noticed,
            record.as_ref(),
        ) {
            self.roll_back();
            return Err(error);
        }
        self.undo = None;
        self.core.noticed.clear();
        self.durable = self.next;
        self.kept_notices = kept_notices;
        if record.is_some() {
            self.witnessed_since = 0;
        }
        // The batch is in the log: what fails from here on is not the failure of its callers.
        if let Err(error) = self.after_commit(now_ms) {
            self.broken = Some(error);
        }
        Ok(batch.into_iter().map(|entry| entry.header).collect())
    }

    /// Commits calls that nobody has committed yet.
    pub(crate) fn commit_calls(&mut self, now_ms: u64) -> Result<(), StorageError> {
        if self.open.is_some() || self.unsigned.is_some() {
            self.commit(now_ms)?;
        }
        self.sound()
    }

    /// Lets the derived state follow the log.
    fn after_commit(&mut self, now_ms: u64) -> Result<(), StorageError> {
        // What was just received is written once, after it has run.
        if self.settled {
            self.flush_if_due(now_ms)?;
        }
        // A local change of governance may cut entries off; whoever reads next must see that.
        if self.core.are_cuts_due()? {
            let settled = self.core.settle(CUT_RUNS)?;
            self.settled = settled.pending == 0;
            self.publish_with(Some(&settled))?;
            if !self.core.notices.is_empty() {
                self.commit(now_ms)?;
            }
        } else {
            self.publish()?;
        }
        Ok(())
    }

    /// Whether the derived state follows the log. When its disk failed after a batch was durable,
    /// nothing more works until the store is opened again, which derives the rest from the log.
    fn sound(&self) -> Result<(), StorageError> {
        match &self.broken {
            None => Ok(()),
            Some(error) => Err(StorageError(format!(
                "state.redb does not follow the log; open the store again: {error}"
            ))),
        }
    }

    /// Runs what is due, at most `max_runs` of it. Call it again while anything is pending; fresh
    /// calls may go in between.
    ///
    /// # Errors
    /// When the disk fails: the store must be opened again.
    pub fn settle(&mut self, max_runs: u64) -> Result<Settled, StorageError> {
        if self.open.is_some() || !self.pending.is_empty() {
            return Err(StorageError(
                "settle before commit: a bug in the host".into(),
            ));
        }
        self.sound()?;
        let settled = self.core.settle(max_runs)?;
        self.settled = settled.pending == 0;
        if !self.core.notices.is_empty() {
            // A changed outcome is told durably.
            let now_ms = self.flushed_at_ms;
            self.commit(now_ms)?;
        }
        let now_ms = self.flushed_at_ms;
        let flushed = self.flush_if_due(now_ms)?;
        let known = &self.published.summary;
        let news = flushed
            || known.count != self.next.0
            || settled.runs > 0
            || settled.pending != known.pending
            || settled.system_paused != known.system_paused
            || settled.app_paused != known.app_paused;
        if news {
            self.publish_with(Some(&settled))?;
        }
        Ok(settled)
    }

    /// Looks at the time: what was parked and is due now is admitted, and old derived state is
    /// written. About once a second.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tick(&mut self, now_ms: u64) -> Result<Received, StorageError> {
        self.commit(now_ms)?;
        let mut received = Received::default();
        let due = self.waiting.unpark(now_ms);
        if !due.is_empty() {
            if let Err(error) = self.admit_all(due.into(), now_ms, &mut received) {
                self.roll_back();
                return Err(error);
            }
            self.settled &= self.pending.is_empty();
            self.commit(now_ms)?;
        }
        if self.flush_if_due(now_ms)? {
            // Readers need not keep in memory what is on disk now.
            self.publish()?;
        }
        Ok(received)
    }

    /// Makes everything durable, derived state included.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn close(mut self, now_ms: u64) -> Result<(), StorageError> {
        self.commit(now_ms)?;
        if self.witnessed_since > 0 {
            let record = self.witness_record(now_ms);
            self.core
                .log
                .append(self.durable, &[], &[], &Noticed::new(), Some(&record))?;
        }
        self.flush(now_ms)
    }

    /// Throws the derived state away and makes it again from the log.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rebuild(&mut self, now_ms: u64) -> Result<(), StorageError> {
        self.commit(now_ms)?;
        let count = self.durable.0;
        self.core.rows.clear()?;
        self.core.roots = Roots::default();
        self.core.due = Due::default();
        self.core.last_run = [Slot::MIN; 2];
        self.core.lengths = RangeLengths::default();
        self.core.answers = Answers::default();
        self.core.cache.go_back(Heads::new());
        self.core.changes.all = true;
        self.next = LocalSeq(0);
        self.last_time = Time::default();
        self.witness = self.core.info.id.0;
        self.replay(count)?;
        self.settled = false;
        self.publish()
    }

    fn witness_due(&self, now_ms: u64) -> bool {
        self.witnessed_since >= FLUSH_ENTRIES
            || (self.witnessed_since > 0 && now_ms.saturating_sub(self.flushed_at_ms) >= FLUSH_MS)
    }

    fn witness_record(&self, now_ms: u64) -> WitnessRecord {
        use ed25519_dalek::Signer;
        let mut message = b"lattice witness 1\0".to_vec();
        message.extend_from_slice(&self.core.info.id.0);
        message.extend_from_slice(&self.witness);
        message.extend_from_slice(&now_ms.to_be_bytes());
        WitnessRecord {
            chain: self.witness,
            wall_ms: now_ms,
            signature: lattice_format::Signature(self.key.sign(&message).to_bytes()),
        }
    }

    /// Tells whether it was.
    fn flush_if_due(&mut self, now_ms: u64) -> Result<bool, StorageError> {
        let old = now_ms.saturating_sub(self.flushed_at_ms) >= FLUSH_MS;
        if self.unflushed >= FLUSH_ENTRIES
            || (self.core.rows.pending_rows() > 0 && old)
            || self.core.rows.pending_rows() > OVERLAY_ROWS_MAX
        {
            self.flush(now_ms)?;
            return Ok(true);
        }
        Ok(false)
    }

    pub(crate) fn flush(&mut self, now_ms: u64) -> Result<(), StorageError> {
        assert!(
            self.durable == self.next && self.pending.is_empty(),
            "the state would run ahead of its log: {:?} > {:?}",
            self.next,
            self.durable
        );
        if self.core.rows.pending_rows() > 0 {
            self.save_marks();
            self.core.rows.flush()?;
        }
        self.unflushed = 0;
        self.flushed_at_ms = now_ms;
        Ok(())
    }

    pub(crate) fn save_marks(&mut self) {
        let rows = &mut self.core.rows;
        self.core.due.save(rows);
        rows.put(ROOTS, self.core.roots.to_bytes());
        rows.put(LENGTHS, self.core.lengths.to_bytes());
        rows.put(INDEXED, self.next.0.to_be_bytes());
        rows.put(WITNESS, self.witness);
        let last = lattice_format::Position {
            time: self.last_time,
            id: IntentionId([0; 32]),
        };
        rows.put(LAST_TIME, last.to_bytes());
    }

    pub(crate) fn publish(&mut self) -> Result<(), StorageError> {
        self.publish_with(None)
    }

    fn publish_with(&mut self, settled: Option<&Settled>) -> Result<(), StorageError> {
        let digests = self.core.roots.digests();
        let before = &self.published.summary;
        let (pending, system_paused, app_paused) = match settled {
            Some(settled) => (
                settled.pending,
                settled.system_paused.clone(),
                settled.app_paused.clone(),
            ),
            None if self.settled => (0, None, None),
            None => (
                self.core.due.total(),
                before.system_paused.clone(),
                before.app_paused.clone(),
            ),
        };
        self.published = Snapshot {
            info: self.core.info.clone(),
            engine: self.core.engine.clone(),
            rows: self.core.rows.view(),
            log: self.core.log.clone(),
            names: self.core.cache.names.clone(),
            any_cut: self.core.cache.any_cut,
            summary: Arc::new(Summary {
                count: self.next.0,
                applied: self.core.roots.applied_count,
                set: digests.applied,
                state_root: digests.state,
                outcome_root: digests.outcomes,
                pending,
                last_time: self.last_time,
                replays: self.core.replays.clone(),
                heads: self.core.cache.heads.keys().copied().collect(),
                system_paused,
                app_paused,
            }),
            offered: Arc::default(),
        };
        Ok(())
    }
}

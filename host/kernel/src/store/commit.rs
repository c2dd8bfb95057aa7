//! Commits: a batch is durable in the log as a whole, or undone as a whole. The derived state on disk is never ahead
//! of the log.

use std::sync::Arc;

use lattice_format::{VerifiedBody, VerifiedHeader};

use crate::fold::core::Settled;
use crate::fold::governance::Answers;
use crate::fold::progress::Progress;
use crate::graph::insert;
use crate::graph::lookup_cache::Heads;
use crate::limits::{
    CHANGED_ENTRIES_MAX, CUT_RUNS, FLUSH_ENTRIES, FLUSH_MS, OVERLAY_ROWS_MAX, WITNESS_MS,
};
use crate::log::notice::Notice;
use crate::log::{Append, Noticed, WitnessRecord, chain_hash};
use crate::outcome::Outcome;
use crate::run::engine::HostFault;
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;
use crate::store::Store;
use crate::store::call_end::CallError;
use crate::store::head_ids::HeadIds;
use crate::store::receive::Received;
use crate::store::snapshot::{Snapshot, Summary};

/// The values before the batch, which a failed commit goes back to.
pub(crate) struct Undo {
    rows: RowsView,
    heads: Heads,
    progress: Progress,
}

/// Why a commit failed. Everything since the last commit is undone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// An intention could not be signed. The store goes on.
    #[error(transparent)]
    Unsigned(CallError),
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<CallError> for CommitError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Host(HostFault::Storage(error)) => Self::Storage(error),
            error => Self::Unsigned(error),
        }
    }
}

fn headers(batch: Vec<Append>) -> Vec<VerifiedHeader> {
    batch.into_iter().map(|entry| entry.header).collect()
}

impl Store {
    /// Makes everything since the last commit durable: signs the open intention and inserts it, appends the batch to
    /// the log, and publishes the snapshot that readers get. Only then may callers be answered. Returns the new
    /// intentions.
    ///
    /// # Errors
    /// When an intention could not be signed, or the disk fails. Everything since the last commit is undone; give the
    /// error to the callers.
    pub fn commit(&mut self, now_ms: u64) -> Result<Vec<VerifiedHeader>, CommitError> {
        let signed = match self.unsigned.take() {
            Some(error) => Err(error),
            None => self.close_intention(now_ms),
        };
        signed.inspect_err(|_| self.roll_back())?;
        Ok(self.commit_batch(now_ms)?)
    }

    /// Commits the calls that have run since the last commit. If they could not be signed, the error is kept for
    /// [`Store::commit`], which their callers wait for.
    pub(crate) fn commit_calls(&mut self, now_ms: u64) -> Result<(), StorageError> {
        match self.commit(now_ms) {
            Ok(_) => Ok(()),
            Err(CommitError::Storage(error)) => Err(error),
            Err(CommitError::Unsigned(error)) => {
                self.unsigned = Some(error);
                Ok(())
            }
        }
    }

    /// Appends the batch to the log, and then updates the derived state. Returns the new intentions.
    pub(crate) fn commit_batch(
        &mut self,
        now_ms: u64,
    ) -> Result<Vec<VerifiedHeader>, StorageError> {
        let appended = self.sound().and_then(|()| self.append(now_ms));
        let Some(headers) = appended.inspect_err(|_| self.roll_back())? else {
            return Ok(Vec::new());
        };
        // The batch is durable in the log, so an error from here on is none of its callers'.
        if let Err(error) = self.follow_log(now_ms) {
            self.broken = Some(error);
        }
        Ok(headers)
    }

    /// Appends the batch with its notices durably to the log; `None` if there is nothing to append.
    fn append(&mut self, now_ms: u64) -> Result<Option<Vec<VerifiedHeader>>, StorageError> {
        if self.pending.is_empty() && self.core.notices.is_empty() {
            self.undo = None;
            return Ok(None);
        }
        if self.pending.is_empty() && self.core.log.is_read_only()? {
            // Notices alone: raised again when the state follows the log on a disk that can be written.
            self.undo = None;
            self.core.notices.clear();
            self.core.noticed.clear();
            return Ok(None);
        }
        let batch = std::mem::take(&mut self.pending);
        let mut kept_notices = self.kept_notices.clone();
        let notices = kept_notices.add(std::mem::take(&mut self.core.notices));
        let record = self
            .witness_due(now_ms)
            .then(|| self.witness_record(now_ms));
        let appended = self.core.log.append(
            self.durable,
            &batch,
            &notices,
            &self.core.noticed,
            record.as_ref(),
        );
        if appended.is_err() {
            self.unsure = headers(batch);
            return appended.map(|()| None);
        }
        if self.core.progress.settled {
            self.core.log.settled();
        }
        self.undo = None;
        self.core.noticed.clear();
        self.durable = self.core.progress.next;
        self.kept_notices = kept_notices;
        if record.is_some() {
            self.core.progress.witnessed_since = 0;
            self.witnessed_at_ms = now_ms;
        }
        Ok(Some(headers(batch)))
    }

    /// The entries of the last commit, if its append failed. A disk that fails at the end of a transaction may have kept
    /// it all the same: what the log has is known once it is opened anew.
    pub(crate) fn take_unsure(&mut self) -> Vec<VerifiedHeader> {
        std::mem::take(&mut self.unsure)
    }

    /// Inserts an admitted entry into the graph, and puts it into the next batch of the log.
    pub(crate) fn insert(
        &mut self,
        header: &VerifiedHeader,
        body: Option<&VerifiedBody>,
        now_ms: u64,
        told: Vec<Outcome>,
    ) -> Result<LocalSeq, StorageError> {
        if self.undo.is_none() {
            // What is noted from here on is undone with the batch.
            self.core.fingerprints.follow(&mut self.core.rows)?;
            self.undo = Some(Undo {
                rows: self.core.rows.view(),
                heads: self.core.cache.heads.clone(),
                progress: self.core.progress.clone(),
            });
        }
        let local = self.insert_logged(header, now_ms)?;
        self.pending.push(Append {
            header: header.clone(),
            body: body.cloned(),
            received_ms: now_ms,
            told,
        });
        Ok(local)
    }

    /// Inserts an entry into the graph that the log holds, or will hold after the next commit.
    pub(crate) fn insert_logged(
        &mut self,
        header: &VerifiedHeader,
        received_ms: u64,
    ) -> Result<LocalSeq, StorageError> {
        let core = &mut self.core;
        let local = core.progress.next;
        let added = insert::add(&mut core.rows, &mut core.cache, header, local)?;
        core.fingerprints.came(header.position());
        assert_eq!(added.local, local, "entries are numbered densely");
        if added.new_branch {
            core.cuts_of_are_due(&header.author)?;
        }
        if added.fork {
            core.notices.push(Notice::Fork {
                author: header.author,
                entry: header.id(),
            });
        }
        let progress = &mut core.progress;
        progress.forks += u64::from(added.fork);
        if header.author == self.author {
            // The newest own entry says which chain this device continues. A replay finds it after a restart too.
            progress.chain = Some(header.chain);
        }
        progress.next = LocalSeq(local.0 + 1);
        progress.last_time = progress.last_time.max(header.time);
        progress.witness = chain_hash(&progress.witness, &header.id(), received_ms);
        progress.unflushed += 1;
        progress.witnessed_since += 1;
        if core.changes.entries.len() < CHANGED_ENTRIES_MAX {
            core.changes.entries.push(header.id());
        } else {
            core.changes.all = true;
        }
        Ok(local)
    }

    /// Undoes everything since the last commit.
    pub(crate) fn roll_back(&mut self) {
        self.open = None;
        self.pending.clear();
        self.core.noticed.clear();
        if let Some(undo) = self.undo.take() {
            self.core.rows.restore(undo.rows);
            self.core.fingerprints.forget();
            self.core.cache.go_back(undo.heads);
            self.core.cut_reads.forget();
            self.core.answers.lane_changed();
            self.core.progress = undo.progress;
            self.core.changes.all = true;
        }
    }

    /// Updates the derived state after a batch was appended, and publishes the snapshot that readers get.
    fn follow_log(&mut self, now_ms: u64) -> Result<(), StorageError> {
        // Received entries are flushed after they have run, so that their rows are written once.
        if self.core.progress.settled {
            self.flush_if_due(now_ms)?;
        }
        // A local change of governance may cut entries off, and the next reader must see that.
        if self.core.are_cuts_due()? {
            let settled = self.core.settle(CUT_RUNS)?;
            self.core.progress.settled = settled.pending == 0;
            self.publish_with(Some(&settled))?;
            if !self.core.notices.is_empty() {
                self.commit_batch(now_ms)?;
            }
        } else {
            self.publish()?;
        }
        Ok(())
    }

    /// Fails when the derived state could not be updated after a batch was durable. The store then takes nothing more
    /// until it is opened again, which derives the rest from the log.
    fn sound(&self) -> Result<(), StorageError> {
        match &self.broken {
            None => Ok(()),
            Some(error) => Err(StorageError::unusable(
                StoreFile::State,
                format_args!("it does not follow the log; open the store again: {error}"),
            )),
        }
    }

    /// Does at most `max_runs` runs that are due. Call it again while any is pending; fresh calls may go in between.
    ///
    /// # Errors
    /// When the disk fails. The store must then be opened again.
    ///
    /// # Panics
    /// When calls have run since the last commit.
    pub fn settle(&mut self, max_runs: u64) -> Result<Settled, StorageError> {
        assert!(
            self.open.is_none() && self.pending.is_empty(),
            "settled before what was called is committed"
        );
        self.sound()?;
        let settled = self.core.settle(max_runs)?;
        self.core.progress.settled = settled.pending == 0;
        if self.core.progress.settled {
            self.core.log.settled();
        }
        if !self.core.notices.is_empty() {
            // A notice of a changed outcome must be durable.
            let now_ms = self.flushed_at_ms;
            self.commit_batch(now_ms)?;
        }
        let now_ms = self.flushed_at_ms;
        let flushed = self.flush_if_due(now_ms)?;
        let known = &self.published.summary;
        let news = flushed
            || known.count != self.core.progress.next.0
            || settled.runs > 0
            || settled.pending != known.pending
            || settled.system_paused != known.system_paused
            || settled.app_paused != known.app_paused;
        if news {
            self.publish_with(Some(&settled))?;
        }
        Ok(settled)
    }

    /// Does what the time asks for: admits parked entries whose time has come, and flushes derived state that is old
    /// enough. To be called about once a second.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tick(&mut self, now_ms: u64) -> Result<Received, StorageError> {
        self.commit_calls(now_ms)?;
        let mut received = Received::default();
        let due = self.waiting.unpark(self.admits_ms(now_ms));
        if !due.is_empty() {
            if let Err(error) = self.admit_all(due.into(), now_ms, &mut received) {
                self.roll_back();
                return Err(error);
            }
            self.core.progress.settled &= self.pending.is_empty();
            self.commit_batch(now_ms)?;
        }
        if self.flush_if_due(now_ms)? {
            // The snapshot before would keep rows in memory that are on disk now.
            self.publish()?;
        }
        Ok(received)
    }

    /// Makes everything durable, with the derived state, and closes the files.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn close(mut self, now_ms: u64) -> Result<(), StorageError> {
        self.commit_calls(now_ms)?;
        let has_new = self.core.progress.witnessed_since > 0;
        if !self.core.log.is_read_only()? {
            if has_new {
                let record = self.witness_record(now_ms);
                self.core
                    .log
                    .append(self.durable, &[], &[], &Noticed::new(), Some(&record))?;
            }
            self.core.log.empty_journal()?;
        }
        self.flush(now_ms)
    }

    /// Removes the derived state and inserts every entry of the log anew. Their runs are due afterwards: call
    /// [`Store::settle`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rebuild(&mut self, now_ms: u64) -> Result<(), StorageError> {
        self.commit_calls(now_ms)?;
        let count = self.durable.0;
        self.core.rows.clear()?;
        self.core.fingerprints.forget();
        self.core.progress = Progress::start(self.core.info.id);
        self.core.answers = Answers::default();
        self.core.cut_reads.forget();
        self.core.cache.go_back(Heads::new());
        self.core.changes.all = true;
        self.replay(count)?;
        self.core.progress.settled = false;
        self.publish()
    }

    fn witness_due(&self, now_ms: u64) -> bool {
        self.core.progress.witnessed_since >= FLUSH_ENTRIES
            || (self.core.progress.witnessed_since > 0
                && now_ms.saturating_sub(self.witnessed_at_ms) >= WITNESS_MS)
    }

    fn witness_record(&self, now_ms: u64) -> WitnessRecord {
        use ed25519_dalek::Signer;
        let mut message = b"lattice witness 1\0".to_vec();
        message.extend_from_slice(&self.core.info.id.0);
        message.extend_from_slice(&self.core.progress.witness);
        message.extend_from_slice(&now_ms.to_be_bytes());
        WitnessRecord {
            chain: self.core.progress.witness,
            wall_ms: now_ms,
            signature: lattice_format::Signature(self.key.sign(&message).to_bytes()),
        }
    }

    /// Flushes the derived state if that is due. Returns whether it did.
    fn flush_if_due(&mut self, now_ms: u64) -> Result<bool, StorageError> {
        let old = now_ms.saturating_sub(self.flushed_at_ms) >= FLUSH_MS;
        if self.core.progress.unflushed >= FLUSH_ENTRIES
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
            self.durable == self.core.progress.next && self.pending.is_empty(),
            "the state would run ahead of its log: {:?} > {:?}",
            self.core.progress.next,
            self.durable
        );
        self.core.fingerprints.follow(&mut self.core.rows)?;
        if self.core.rows.pending_rows() > 0 {
            self.core.progress.save(&mut self.core.rows);
            self.core.rows.flush()?;
        }
        self.core.progress.unflushed = 0;
        self.flushed_at_ms = now_ms;
        Ok(())
    }

    pub(crate) fn publish(&mut self) -> Result<(), StorageError> {
        self.publish_with(None)
    }

    fn publish_with(&mut self, settled: Option<&Settled>) -> Result<(), StorageError> {
        self.core.fingerprints.follow(&mut self.core.rows)?;
        let digests = self.core.progress.roots.digests();
        let before = &self.published.summary;
        let (pending, system_paused, app_paused) = match settled {
            Some(settled) => (
                settled.pending,
                settled.system_paused.clone(),
                settled.app_paused.clone(),
            ),
            None if self.core.progress.settled => (0, None, None),
            None => (
                self.core.progress.due.total(),
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
            any_void: self.core.cache.any_void,
            parked: self.waiting.parked_by_peer(),
            summary: Arc::new(Summary {
                count: self.core.progress.next.0,
                applied: self.core.progress.roots.applied_count,
                set: digests.applied,
                state_root: digests.state,
                outcome_root: digests.outcomes,
                pending,
                void: self.core.progress.void,
                last_time: self.core.progress.last_time,
                replays: self.core.replays.clone(),
                heads: HeadIds(self.core.cache.heads.clone()),
                forks: self.core.progress.forks,
                system_paused,
                app_paused,
            }),
            derived: Arc::default(),
        };
        Ok(())
    }
}

//! Headers that are witnessed without their bodies, and bodies that come later.
//!
//! An entry of a lane that this node folds is witnessed together with its body; until that arrives
//! it floats, and so does what names it. But nobody may have the body of a void entry any more. Such a
//! header is witnessed alone, if this node's own fold of the system lane says that the entry is void:
//! nobody's word counts.
//!
//! What says so may itself float on that header: a revocation names what it cuts off. So everything
//! that floats is looked at together, as if it were in the log: governance is folded over it, on rows
//! that are thrown away, and headers that count in the end are left out, with what names them, until
//! none is left that counts. The rest is witnessed in one commit.
//!
//! Should a header that was witnessed alone come to count after all, its body is asked for, and its
//! lane waits: until then this node does not claim to be in sync.
//!
//! ```text
//! 'L' local (8)   → nothing: the header was witnessed alone
//! ```

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use lattice_format::{IntentionId, Lane};

use crate::admit::{self, Admission};
use crate::dag::{self, LocalSeq};
use crate::engine::HostFault;
use crate::floating::Arrival;
use crate::fold::Core;
use crate::grow;
use crate::limits::{HEADERS_ROUNDS_MAX, HEADERS_RUNS_MAX, HEADERS_TRIED_MAX};
use crate::log::Stored;
use crate::receive::{Blame, Received};
use crate::record;
use crate::rows::{Rows, RowsView, StorageError};
use crate::store::Store;

fn alone_key(local: LocalSeq) -> Vec<u8> {
    dag::key(b'L', &[&local.0.to_be_bytes()])
}

/// Sets whether the header at `local` stands without its body.
pub(crate) fn set_alone(rows: &mut Rows, local: LocalSeq, alone: bool) {
    if alone {
        rows.put(alone_key(local), []);
    } else {
        rows.remove(alone_key(local));
    }
}

/// The headers that stand without their bodies, by their places in the log.
fn all_alone(rows: &RowsView) -> Result<Vec<LocalSeq>, StorageError> {
    let mut out = Vec::new();
    rows.scan(b"L", b"M", false, |row, _| {
        if let Ok(local) = row[1..].try_into() {
            out.push(LocalSeq(u64::from_be_bytes(local)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Whether the entry at `local` stands without its body and counts: its lane waits for it.
pub(crate) fn is_due(rows: &RowsView, local: LocalSeq) -> Result<bool, StorageError> {
    if rows.get(&alone_key(local))?.is_none() {
        return Ok(false);
    }
    let meta = dag::meta(rows, local)?;
    Ok(!record::is_cut_off(rows, &meta.id)?)
}

/// The entries that stand without their bodies and count, at most `limit` of them.
pub(crate) fn due(rows: &RowsView, limit: usize) -> Result<Vec<(IntentionId, Lane)>, StorageError> {
    let mut out = Vec::new();
    for local in all_alone(rows)? {
        if out.len() == limit {
            break;
        }
        if is_due(rows, local)? {
            let meta = dag::meta(rows, local)?;
            out.push((meta.id, meta.lane));
        }
    }
    Ok(out)
}

/// What came of looking at entries as if they were in the log.
struct Look {
    /// Those that can be admitted, in an order that respects causality.
    admitted: Vec<Arrival>,
    /// Those of them that count and lack their bodies.
    lacking: BTreeSet<IntentionId>,
}

impl Core {
    /// How many entries of governance count and lack their bodies, and the first of them.
    pub(crate) fn governance_lacks(&self) -> Result<(u64, Option<IntentionId>), StorageError> {
        let mut lacking = due(&self.rows, usize::MAX)?;
        lacking.retain(|(_, lane)| *lane == Lane::System);
        Ok((lacking.len() as u64, lacking.first().map(|(id, _)| *id)))
    }
}

impl Store {
    /// Witnesses the headers that may be witnessed alone, with what floats on them. Tells whether
    /// there were any.
    pub(crate) fn witness_headers(&mut self) -> Result<bool, StorageError> {
        let seen = (self.waiting.arrivals(), self.core.governance_version);
        if self.looked_for == Some(seen)
            || !self.waiting.any_without_body()
            || self.core.paused[0].is_some()
            || self.core.due.first(Lane::System).is_some()
            || self.core.are_cuts_due()?
        {
            return Ok(false);
        }
        let mut found = Vec::new();
        let mut entries = self.waiting.oldest(HEADERS_TRIED_MAX);
        for _ in 0..HEADERS_ROUNDS_MAX {
            let Some(look) = self.look(&entries)? else {
                break;
            };
            if look.lacking.is_empty() {
                found = look.admitted;
                break;
            }
            // Whatever names one of these is then not admitted either.
            entries.retain(|entry| !look.lacking.contains(&entry.header.id()));
        }
        self.looked_for = Some((self.waiting.arrivals(), self.core.governance_version));
        self.alone = found
            .iter()
            .filter(|entry| entry.body.is_none())
            .map(|entry| entry.header.id())
            .collect();
        if self.alone.is_empty() {
            return Ok(false);
        }
        let mut received = Received::default();
        let now_ms = self.clock_ms;
        let admitted = self.admit_all(found.into(), now_ms, &mut received);
        self.alone.clear();
        if let Err(error) = admitted {
            self.roll_back();
            return Err(error);
        }
        self.settled &= self.pending.is_empty();
        self.commit(now_ms)?;
        Ok(!received.witnessed.is_empty())
    }

    /// Looks at entries as if they were in the log; nothing of it stays. `None` when this host cannot
    /// say, or not within its bounds.
    fn look(&mut self, entries: &[Arrival]) -> Result<Option<Look>, StorageError> {
        let core = &mut self.core;
        let rows = core.rows.view();
        let (roots, lengths) = (core.roots.clone(), core.lengths.clone());
        let (due, last_run) = (core.due.clone(), core.last_run);
        let changes = std::mem::take(&mut core.changes);
        let notices = std::mem::take(&mut core.notices);
        let noticed = core.noticed.clone();
        let paused = core.paused.clone();
        let replays = core.replays.clone();
        let looked = self.look_ahead(entries);
        let core = &mut self.core;
        core.rows.restore(rows);
        (core.roots, core.lengths) = (roots, lengths);
        (core.due, core.last_run) = (due, last_run);
        (core.changes, core.notices, core.noticed) = (changes, notices, noticed);
        core.paused = paused;
        core.replays = replays;
        core.staged.clear();
        core.pasts.clear();
        looked
    }

    fn look_ahead(&mut self, entries: &[Arrival]) -> Result<Option<Look>, StorageError> {
        let core = &mut self.core;
        let horizon = self.clock_ms.saturating_add(core.info.genesis.drift_ms);
        // The order respects causality.
        let mut sorted: Vec<&Arrival> = entries.iter().collect();
        sorted.sort_by_key(|entry| entry.header.position());
        let mut admitted: Vec<(LocalSeq, Arrival)> = Vec::new();
        let mut next = self.next;
        for entry in sorted {
            let header = &entry.header;
            if header.time.wall_ms > horizon
                || dag::local_of(&core.rows, &header.id())?.is_some()
                || admit::admit(&core.rows, &core.info, header)? != Admission::Admitted
            {
                continue;
            }
            let added = grow::add(&mut core.rows, &mut core.pasts, header, next)?;
            if entry.body.is_none() {
                set_alone(&mut core.rows, next, true);
            }
            if added.new_branch {
                core.cuts_are_due();
            }
            core.due
                .set(&mut core.rows, header.lane, header.position(), next);
            core.judge_new(&header.author, next)?;
            let stored = Stored {
                local: next,
                header: header.clone(),
                body: entry.body.as_ref().map(|body| body.bytes().clone()),
                received_ms: self.clock_ms,
            };
            core.staged.insert(next, stored);
            admitted.push((next, entry.clone()));
            next = LocalSeq(next.0 + 1);
        }
        let mut runs = 0;
        core.settle_governance(HEADERS_RUNS_MAX, &mut runs)?;
        let unfinished = core.due.first(Lane::System).is_some() || core.are_cuts_due()?;
        let lacks_body = matches!(core.paused[0], Some(HostFault::MissingBody(_)));
        if unfinished || (core.paused[0].is_some() && !lacks_body) {
            return Ok(None);
        }
        let mut lacking = BTreeSet::new();
        for (local, entry) in &admitted {
            if is_due(&core.rows, *local)? {
                lacking.insert(entry.header.id());
            }
        }
        Ok(Some(Look {
            admitted: admitted.into_iter().map(|(_, entry)| entry).collect(),
            lacking,
        }))
    }

    /// Takes the body of an entry that was witnessed without it and counts.
    pub(crate) fn take_body(
        &mut self,
        local: LocalSeq,
        bytes: Vec<u8>,
        received: &mut Received,
    ) -> Result<(), StorageError> {
        let stored = self.core.stored(local)?;
        match stored.header.check_body(bytes) {
            Ok(body) => {
                self.begin_undo();
                self.put_body(&stored);
                self.pending_bodies.push((local, body));
                received.bodies += 1;
            }
            Err(error) => received.blame.push(Blame {
                id: Some(stored.header.id()),
                reason: error.to_string(),
            }),
        }
        Ok(())
    }

    fn put_body(&mut self, stored: &Stored) {
        let core = &mut self.core;
        let header = &stored.header;
        set_alone(&mut core.rows, stored.local, false);
        core.due
            .set(&mut core.rows, header.lane, header.position(), stored.local);
        self.settled = false;
    }

    /// Bodies that the log got and the derived state has not heard of, after a crash.
    pub(crate) fn take_late_bodies(&mut self) -> Result<(), StorageError> {
        for local in all_alone(&self.core.rows)? {
            let stored = self.core.stored(local)?;
            if let Some(bytes) = stored.body.clone() {
                stored
                    .header
                    .check_body(bytes)
                    .map_err(|error| StorageError(format!("log.redb is damaged: {error}")))?;
                self.put_body(&stored);
            }
        }
        Ok(())
    }
}

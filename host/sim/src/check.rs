//! What must hold: always, eventually, and at the end.
//!
//! *Always*: nodes that hold the same entries and have run them have the same roots, heads and counts; nothing
//! acknowledged is missing after a restart (see `writer`); what waits has its bounds; no honest node finds
//! another at fault (see `wire`). *Eventually*: all members are equal some time after the last fault. *Finally*:
//! everything is what a fold from nothing comes to, callers know of what changed, nothing without a right was
//! applied, and nobody was sent what it had more often than is stated.

use std::collections::BTreeMap;
use std::fmt::Write;

use lattice_format::{Digest, IntentionId, Lane};
use lattice_kernel::engine::{Answer, Member, MemberStatus, Question};
use lattice_kernel::limits::{FLOATING_MAX, PARKED_MAX};
use lattice_kernel::scratch::scratch;
use lattice_kernel::{LocalSeq, Notice, Outcome, Snapshot, StorageError};

use crate::limits::RESENT_FACTOR;
use crate::node::NodeId;
use crate::opinion;
use crate::trace::short;
use crate::world::World;

/// What one node had when it held a set of entries and nothing was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    by: NodeId,
    state: Digest,
    outcomes: Digest,
    heads: Vec<IntentionId>,
    count: u64,
}

/// A node in short: who it is, its roots, how many entries it holds, how many are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) node: NodeId,
    pub(crate) roots: (Digest, Digest),
    pub(crate) set: Digest,
    pub(crate) count: u64,
    pub(crate) pending: u64,
}

impl World {
    /// Every honest node that has a store and may have all of it, as the founder sees it.
    pub(crate) fn views(&self) -> impl Iterator<Item = View> + '_ {
        let members = self.members();
        (0..self.node_count()).map(NodeId).filter_map(move |id| {
            let node = &self.nodes[id.index()];
            let active = members
                .iter()
                .any(|m| m.device == node.device && m.status == MemberStatus::Active);
            let snapshot = node
                .store
                .as_ref()
                .filter(|_| active && !node.liar)?
                .snapshot();
            let summary = snapshot.summary();
            Some(View {
                node: id,
                roots: (summary.state_root, summary.outcome_root),
                set: summary.set,
                count: summary.count,
                pending: summary.pending + node.jobs.len() as u64,
            })
        })
    }

    /// The members at the founder's.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.seen_members(NodeId(0)).unwrap_or_default()
    }

    /// The members that a node sees, if it has the store.
    pub(crate) fn seen_members(&self, by: NodeId) -> Option<Vec<Member>> {
        match self.snapshot(by)?.ask(&Question::Members) {
            Ok(Answer::Members(members)) => Some(members),
            _ => None,
        }
    }

    /// Whether all honest members run, have nothing to do, and are equal.
    pub fn is_converged(&self) -> bool {
        let child = self.child.as_ref();
        self.is_equal() && child.is_none_or(|child| child.is_equal())
    }

    fn is_equal(&self) -> bool {
        let mut first: Option<View> = None;
        let members = self.members();
        let active = |m: &&Member| m.status == MemberStatus::Active;
        let honest = |m: &&Member| {
            let node = self.nodes.iter().find(|n| n.device == m.device);
            node.is_some_and(|n| !n.liar)
        };
        let expected = members.iter().filter(active).filter(honest).count();
        let mut found = 0;
        for view in self.views() {
            let same = first.is_none_or(|f| f.roots == view.roots);
            if view.pending > 0 || !same {
                return false;
            }
            first.get_or_insert(view);
            found += 1;
        }
        if found != expected || found == 0 {
            return false;
        }
        // The same entries are the same history; what is void may be here and not there.
        let mut sets = self.views().map(|v| v.set);
        let first = sets.next();
        if sets.all(|set| Some(set) == first) {
            return true;
        }
        let mut entries = self
            .views()
            .map(|v| self.snapshot(v.node).map(|s| counting(&s)));
        let first = entries.next();
        entries.all(|e| Some(e) == first)
    }

    /// The members and what they hold, for the report of a failure.
    pub(crate) fn describe(&self) -> String {
        let views = self.views().map(|v| {
            let waits = self.nodes[v.node.index()].store.as_ref();
            let (floating, parked) = waits.map_or((0, 0), |s| (s.floating().len(), s.parked().len()));
            format!(
                "{} has {} entries, {} due, {floating} floating, {parked} parked, state {} outcomes {}",
                v.node,
                v.count,
                v.pending,
                short(&v.roots.0.0),
                short(&v.roots.1.0)
            )
        });
        let mut text = views.collect::<Vec<_>>().join("; ");
        if let Some(child) = &self.child {
            // Writing to a String does not fail.
            let _ = write!(text, "; in the child: {}", child.describe());
        }
        text
    }

    /// The *always* properties of one node.
    pub(crate) fn check_now(&mut self, id: NodeId) {
        let Some(store) = &self.nodes[id.index()].store else {
            return;
        };
        let (floating, parked) = (store.floating().len(), store.parked().len());
        let snapshot = store.snapshot();
        let summary = snapshot.summary();
        if summary.pending == 0 && summary.applied == summary.count {
            let now = Seen {
                by: id,
                state: summary.state_root,
                outcomes: summary.outcome_root,
                heads: summary.heads.clone(),
                count: summary.count,
            };
            let before = self.seen.entry(summary.set).or_insert_with(|| now.clone());
            let same = Seen {
                by: before.by,
                ..now.clone()
            };
            if *before != same {
                let text = format!("the same entries, and not the same: {before:?} {now:?}");
                self.violate(text);
            }
        }
        if floating > FLOATING_MAX || parked > PARKED_MAX {
            self.violate(format!(
                "{id} keeps {floating} floating and {parked} parked entries"
            ));
        }
    }

    /// Compares a node on which nothing is due with a fold from nothing, and with the second opinion.
    pub(crate) fn judge(&mut self, id: NodeId) {
        let Some(snapshot) = self.snapshot(id) else {
            return;
        };
        if snapshot.summary().pending > 0 || !self.judged.insert(snapshot.summary().set) {
            return;
        }
        match self.difference(&snapshot) {
            Ok(None) => {}
            Ok(Some(text)) => self.violate(format!("{id} differs: {text}")),
            // Its disk fails: that is looked after elsewhere.
            Err(error) => self.note(id, format_args!("cannot be judged: {error}")),
        }
    }

    fn difference(&self, snapshot: &Snapshot) -> Result<Option<String>, StorageError> {
        let entries = snapshot.entries_from(LocalSeq(0), usize::MAX)?;
        let history = snapshot.history(None, usize::MAX, false)?;
        for entry in &entries {
            if let Err(error) = lattice_format::verify(entry.header.signed().clone()) {
                return Ok(Some(format!("{}: {error}", short(&entry.header.id().0))));
            }
        }
        let expected = match scratch(&*self.engine, &entries) {
            Ok(expected) => expected,
            Err(fault) => return Ok(Some(format!("no fold from nothing: {fault}"))),
        };
        for row in &history {
            let id = row.position.id;
            if row.pending || row.void != expected.void.contains(&id) {
                let text = format!(
                    "{} void: {}, pending: {}",
                    short(&id.0),
                    row.void,
                    row.pending
                );
                return Ok(Some(text));
            }
            let lanes = [Lane::System, Lane::App].into_iter();
            let outcomes: Vec<Outcome> = lanes
                .filter_map(|lane| expected.outcomes.get(&(row.position, lane)))
                .flatten()
                .cloned()
                .collect();
            if !row.void && row.outcomes != outcomes {
                let text = format!(
                    "{} came to {:?}, not {outcomes:?}",
                    short(&id.0),
                    row.outcomes
                );
                return Ok(Some(text));
            }
        }
        let summary = snapshot.summary();
        let roots = [summary.state_root, summary.outcome_root, summary.set];
        if roots
            != [
                expected.roots.state,
                expected.roots.outcomes,
                expected.roots.applied,
            ]
        {
            return Ok(Some(
                "the roots are not those of a fold from nothing".into(),
            ));
        }
        Ok(opinion::differs(self.code.name(), &history))
    }

    /// The *finally* properties.
    pub(crate) fn check_finally(&mut self) {
        let views: Vec<View> = self.views().collect();
        for view in &views {
            self.judge(view.node);
            if let Err(text) = self.check_told(view.node) {
                self.violate(text);
            }
        }
        // Whatever an active member was told is durable reached all the others, unless it is void. They are equal
        // by now, so that one of them stands for all.
        let first = views.first().and_then(|v| self.snapshot(v.node));
        for view in &views {
            let Some(own) = self.snapshot(view.node) else {
                continue;
            };
            for id in self.nodes[view.node.index()].acknowledged.clone() {
                if own.is_void(&id).unwrap_or(false) {
                    continue;
                }
                if first.as_ref().is_some_and(|s| s.contains(&id) != Ok(true)) {
                    let text = format!("{} of {} is not everywhere", short(&id.0), view.node);
                    self.violate(text);
                }
            }
        }
        let (received, known) = (self.stats.received, self.stats.known);
        let lies = self.nodes.iter().any(|n| n.liar) || self.stats.crashes > 0;
        if known > RESENT_FACTOR * (received - known) + 1_000 && !lies {
            self.violate(format!(
                "{known} of {received} entries were sent to who had them"
            ));
        }
        self.with_child(Self::check_finally);
    }

    /// What a node told its callers either holds, or there is a notice that says what does.
    fn check_told(&self, id: NodeId) -> Result<(), String> {
        let node = &self.nodes[id.index()];
        let Some(store) = node.store.as_ref().filter(|_| !node.restored) else {
            return Ok(());
        };
        let unreadable = |error: StorageError| error.0;
        let mut noticed = BTreeMap::new();
        for (_, notice) in store.notices().map_err(unreadable)? {
            match notice {
                Notice::OutcomeChanged {
                    entry,
                    transaction,
                    now,
                    ..
                } => {
                    noticed.insert((entry, transaction), now);
                }
                Notice::Divergence { entry, .. } => {
                    return Err(format!(
                        "{id} is told that roots differ at {}",
                        short(&entry.0)
                    ));
                }
                Notice::Fork { .. } | Notice::More { .. } => {}
            }
        }
        let history = store.snapshot().history(None, usize::MAX, false);
        for row in history.map_err(unreadable)? {
            let header = &row.stored.header;
            let body = row.stored.body.as_deref().map(lattice_format::Body::decode);
            let Some(Ok(body)) = body.filter(|_| header.author == node.device) else {
                continue;
            };
            for (index, transaction) in (0u32..).zip(body.transactions) {
                let Some(told) = transaction.told else {
                    continue;
                };
                let now = row.outcomes.get(index as usize);
                let known = match noticed.get(&(header.id(), index)) {
                    Some(noticed) => noticed.as_ref() == now,
                    None => Some(told) == now.map(Outcome::digest),
                };
                if !known {
                    let text = format!("{id} told something else of {}", short(&header.id().0));
                    return Err(text);
                }
            }
        }
        Ok(())
    }
}

/// The entries that count, in their order.
fn counting(snapshot: &Snapshot) -> Vec<IntentionId> {
    let history = snapshot
        .history(None, usize::MAX, false)
        .unwrap_or_default();
    let live = history.into_iter().filter(|row| !row.void);
    live.map(|row| row.position.id).collect()
}

//! What must hold: always, eventually, and at the end.
//!
//! *Always*: nodes that hold the same entries and have run them have the same roots, heads and counts; nothing
//! acknowledged is missing after a restart (see `world::writer`); what waits has its bounds; no honest node finds
//! another at fault (see `net::stream`). *Eventually*: all members are equal some time after the last fault. *Finally*:
//! everything is what a fold from nothing comes to, callers know of what changed, nothing without a right was
//! applied, and nobody was sent what it had more often than is stated.

pub(crate) mod bounds;
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use lattice_format::{DeviceKey, Digest, IntentionId, Lane, Seq};
use lattice_kernel::fold::reference::scratch;
use lattice_kernel::run::engine::{Member, MemberStatus};
use lattice_kernel::sync::Governance;
use lattice_kernel::{LocalSeq, Notice, Outcome, Snapshot, StorageError, Stored};

use crate::limits::RESENT_FACTOR;
use crate::world::World;
use crate::world::node::NodeId;
use crate::world::trace::short;

/// What one node had when it held a set of entries and nothing was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    by: NodeId,
    state: Digest,
    outcomes: Digest,
    /// In short: as many sets of entries are met as there are nodes times commits, each with its heads.
    heads: Digest,
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
        let active = self.active();
        (0..self.node_count()).map(NodeId).filter_map(move |id| {
            let node = &self.nodes[id.index()];
            let counts = active.contains(&node.device) && node.is_honest();
            let snapshot = node.store().filter(|_| counts)?.snapshot();
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

    /// The members that the founder sees.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.seen_members(NodeId(0)).unwrap_or_default()
    }

    /// The members that a node sees, if it has the store.
    pub(crate) fn seen_members(&self, by: NodeId) -> Option<Vec<Member>> {
        let governance = Governance::read(&self.snapshot(by)?).ok()?;
        Some(governance.members().cloned().collect())
    }

    /// The devices of active members, as the founder sees them.
    fn active(&self) -> BTreeSet<DeviceKey> {
        let members = self.members().into_iter();
        members
            .filter(|m| m.status == MemberStatus::Active)
            .map(|m| m.device)
            .collect()
    }

    /// Whether all honest members run, have nothing to do, and are equal.
    pub fn is_converged(&self) -> bool {
        let child = self.child.as_ref();
        self.is_equal() && child.is_none_or(|child| child.is_equal())
    }

    fn is_equal(&self) -> bool {
        let active = self.active();
        let honest = self.nodes.iter().filter(|n| n.is_honest());
        let expected = honest.filter(|n| active.contains(&n.device)).count();
        let views: Vec<View> = self.views().collect();
        let Some(first) = views.first() else {
            return false;
        };
        let done = |v: &View| v.pending == 0 && v.roots == first.roots;
        if views.len() != expected || !views.iter().all(done) {
            return false;
        }
        // The same entries are the same history; what is void may be here and not there.
        if views.iter().all(|v| v.set == first.set) {
            return true;
        }
        let mut entries = views
            .iter()
            .map(|v| self.snapshot(v.node).map(|s| counting(&s)));
        let first = entries.next();
        entries.all(|e| Some(e) == first)
    }

    /// The members and what they hold, for the report of a failure.
    pub(crate) fn describe(&self) -> String {
        let views = self.views().map(|v| {
            let waits = self.nodes[v.node.index()].store();
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
        let Some(store) = self.nodes[id.index()].store() else {
            return;
        };
        let summary = store.published().summary();
        if summary.pending == 0 && summary.applied == summary.count {
            let now = || Seen {
                by: id,
                state: summary.state_root,
                outcomes: summary.outcome_root,
                heads: digest(summary.heads.iter()),
                count: summary.count,
            };
            let before = self.seen.entry(summary.set).or_insert_with(now);
            let same = before.state == summary.state_root
                && before.outcomes == summary.outcome_root
                && before.heads == digest(summary.heads.iter())
                && before.count == summary.count;
            if !same {
                let now = now();
                let text = format!("the same entries, and not the same: {before:?} {now:?}");
                self.violate(text);
            }
        }
        if let Some(text) = self.exceeds(id) {
            self.violate(text);
        }
    }

    /// Compares a node on which nothing is due with a fold from nothing, and with the oracle.
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
            // Its disk fails; the writer takes care of that.
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
        Ok(oracle::differs(self.code.name(), &history))
    }

    /// The *finally* properties.
    pub(crate) fn check_finally(&mut self) {
        let views: Vec<View> = self.views().collect();
        for view in &views {
            self.judge(view.node);
            let told = self.check_told(view.node);
            let rights = self.check_rights(view.node);
            if let Err(text) = told.and(rights) {
                self.violate(text);
            }
        }
        // Whatever an active member was told is durable reached all the others, unless it is void. They are equal
        // by now, so that one of them stands for all.
        let first = views.first().and_then(|v| self.snapshot(v.node));
        let held: Option<BTreeSet<IntentionId>> = first.map(|s| {
            let entries = s.entries_from(LocalSeq(0), usize::MAX).unwrap_or_default();
            entries.iter().map(|entry| entry.header.id()).collect()
        });
        for view in &views {
            let Some(own) = self.snapshot(view.node) else {
                continue;
            };
            for id in self.nodes[view.node.index()].acknowledged.clone() {
                let everywhere = held.as_ref().is_none_or(|held| held.contains(&id));
                if !everywhere && !own.is_void(&id).unwrap_or(false) {
                    let text = format!("{} of {} is not everywhere", short(&id.0), view.node);
                    self.violate(text);
                }
            }
        }
        let (received, known) = (self.stats.received, self.stats.known);
        let lies = self.nodes.iter().any(|n| !n.is_honest()) || self.stats.crashes > 0;
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
        let Some(store) = node.store().filter(|_| !node.restored) else {
            return Ok(());
        };
        let unreadable = |error: StorageError| error.to_string();
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
                Notice::Fork { .. }
                | Notice::ClockLeapt { .. }
                | Notice::ChainAhead { .. }
                | Notice::More { .. } => {}
            }
        }
        let snapshot = store.snapshot();
        for entry in own_entries(&snapshot, node.device).map_err(unreadable)? {
            let body = entry.body.as_deref().map(lattice_format::Body::decode);
            let Some(Ok(body)) = body else {
                continue;
            };
            let entry = entry.header.id();
            let outcomes = snapshot.outcomes(&entry).map_err(unreadable)?;
            let outcomes = outcomes.unwrap_or_default();
            for (index, transaction) in (0u32..).zip(body.transactions) {
                let Some(told) = transaction.told else {
                    continue;
                };
                let now = outcomes.get(index as usize);
                let known = match noticed.get(&(entry, index)) {
                    Some(noticed) => noticed.as_ref() == now,
                    None => Some(told) == now.map(Outcome::digest),
                };
                if !known {
                    let text = format!("{id} told something else of {}", short(&entry.0));
                    return Err(text);
                }
            }
        }
        Ok(())
    }
}

/// What a device has written, as far as it is known.
fn own_entries(snapshot: &Snapshot, device: DeviceKey) -> Result<Vec<Stored>, StorageError> {
    let mut out = Vec::new();
    for tip in snapshot.tips()?.iter().filter(|t| t.author == device) {
        for local in snapshot.branch_from(&tip.id, Seq(0), usize::MAX)? {
            out.extend(snapshot.entry_at(local)?);
        }
    }
    Ok(out)
}

fn digest<'a>(ids: impl Iterator<Item = &'a IntentionId>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for id in ids {
        hasher.update(&id.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// The entries that count, in their order.
fn counting(snapshot: &Snapshot) -> Vec<IntentionId> {
    let history = snapshot
        .history(None, usize::MAX, false)
        .unwrap_or_default();
    let live = history.into_iter().filter(|row| !row.void);
    live.map(|row| row.position.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::code::Code;
    use crate::world::{Settings, Topology};

    #[test]
    fn nodes_with_the_same_entries_and_other_heads_are_told_apart() {
        let mut world = World::new(&Settings {
            seed: 1,
            nodes: 1,
            code: Code::model(),
            topology: Topology::Full,
            keep_trace: false,
        });
        world.run_for(1_000);
        world.check_now(NodeId(0));
        assert_eq!(world.violation(), None);
        let known = world.seen.values_mut().last();
        let known = known.expect("the genesis is a set of entries");
        known.heads = digest([IntentionId([7; 32])].iter());
        world.check_now(NodeId(0));
        let wrong = world.violation().expect("the heads differ");
        assert!(wrong.text.starts_with("the same entries"), "{wrong}");
    }
}

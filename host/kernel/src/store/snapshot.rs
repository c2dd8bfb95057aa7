//! The snapshot that readers get: a consistent view of what the log holds durably.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use lattice_format::{
    Call, ChainId, ComponentId, DeviceKey, Digest, Genesis, IntentionId, Lane, Position, Seq,
    StoreId, Time,
};

use crate::fold::core::code_cell;
use crate::fold::governance;
use crate::fold::record::OrderRow;
use crate::graph::dag;
use crate::graph::info::Info;
use crate::graph::lookup_cache::Names;
use crate::graph::order;
use crate::graph::pending::ParkedByPeer;
use crate::graph::slot::Slot;
use crate::graph::void;
use crate::log::{Log, Stored};
use crate::outcome::{HostRefusal, Outcome};
use crate::run::engine::{Answer, AskError, CallEnd, CallKind, Engine, HostFault, Question};
use crate::run::{Reads, Run};
use crate::state::live::{self, Span};
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::RowsView;
use crate::store::head_ids::HeadIds;

/// A store in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The number of witnessed intentions.
    pub count: u64,
    /// The number of applied intentions, which is `count` when nothing is pending.
    pub applied: u64,
    /// The digest of the set of applied intentions.
    pub set: Digest,
    /// The digest of the state root.
    pub state_root: Digest,
    /// The digest of the outcome root.
    pub outcome_root: Digest,
    /// The number of runs that are due.
    pub pending: u64,
    /// The number of entries that are void, as far as they have run.
    pub void: u64,
    /// The largest time of a witnessed intention.
    pub last_time: Time,
    /// How many runs were repeated since the store was opened, by the author that made them stale with a late entry or
    /// by being cut off.
    pub replays: Arc<BTreeMap<DeviceKey, u64>>,
    /// The intentions that no other intention names.
    pub heads: HeadIds,
    /// How many branches left a chain that there was: a chain without forks counts none.
    pub forks: u64,
    /// Why the system lane waits, if it does.
    pub system_paused: Option<HostFault>,
    /// Why the app lane waits, if it does.
    pub app_paused: Option<HostFault>,
}

/// The last intention of a chain. A forked chain has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tip {
    /// The device that writes the chain.
    pub author: DeviceKey,
    /// The chain.
    pub chain: ChainId,
    /// The intention's place in the chain, from 0.
    pub seq: Seq,
    /// The intention.
    pub id: IntentionId,
    /// The intention's number in this node's log.
    pub local: LocalSeq,
}

/// One row of a store's history.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// The entry's position in the order.
    pub position: Position,
    /// The entry.
    pub stored: Stored,
    /// Whether the entry has no effect, because governance has cut it off or it exceeds its author's quota.
    pub void: bool,
    /// Whether governance has cut the entry off.
    pub cut_off: bool,
    /// The outcomes of its last run, by transaction; empty if there was no run yet or the last one was void. A genesis
    /// has one for each lane.
    pub outcomes: Vec<Outcome>,
    /// Whether the entry has not run yet, or must run again.
    pub pending: bool,
}

/// What the fold knows of an entry.
struct Standing {
    outcomes: Vec<Outcome>,
    void: bool,
    cut_off: bool,
    pending: bool,
}

/// The result of a query.
#[derive(Clone, Debug)]
pub struct Queried {
    /// How the query ended.
    pub end: CallEnd,
    /// What the query read. When one of these reads changes, the result may be another.
    pub reads: Reads,
    /// Whether the query read the time, which every entry changes.
    pub clock: bool,
}

/// A key of the state with its value.
pub type StateRow = (Vec<u8>, Arc<[u8]>);

/// A consistent view of one store. Cheap to clone; later writes do not change it.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) info: Arc<Info>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) rows: RowsView,
    pub(crate) log: Log,
    /// A cache of entries that were added lately. The writer shares it, so it may hold entries that this view does not
    /// have: readers check `local < count`.
    pub(crate) names: Names,
    /// Whether any entry may be void.
    pub(crate) any_void: bool,
    /// The entries that are parked at the store.
    pub(crate) parked: ParkedByPeer,
    pub(crate) summary: Arc<Summary>,
    /// A value that readers derive from this view, computed once for all clones.
    pub(crate) derived: Arc<OnceLock<Box<dyn Any + Send + Sync>>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({}, {:?})", self.info.id, self.summary)
    }
}

impl Snapshot {
    /// The value that `make` derives from this view, computed once for all clones. Only the value of one type is kept,
    /// so all callers must ask for the same.
    pub(crate) fn derive<T: Clone + Send + Sync + 'static>(
        &self,
        make: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if let Some(known) = self.derived.get().and_then(|known| known.downcast_ref()) {
            return Ok(T::clone(known));
        }
        let made = make()?;
        // Another reader may have stored its value first, which is the same.
        let _ = self.derived.set(Box::new(made.clone()));
        Ok(made)
    }

    /// The store's id.
    pub fn store_id(&self) -> StoreId {
        self.info.id
    }

    /// The store's genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.info.genesis
    }

    /// How many there are of the store and its views, this one included. The files of a store are open as long as one of
    /// them is left.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.info)
    }

    /// When the store was founded, by the founder's clock.
    pub fn genesis_time(&self) -> Time {
        self.info.position.time
    }

    /// The store in numbers.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether the intention is witnessed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn contains(&self, id: &IntentionId) -> Result<bool, StorageError> {
        Ok(self.local_of(id)?.is_some())
    }

    /// The intention with that id, if it is witnessed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn entry(&self, id: &IntentionId) -> Result<Option<Stored>, StorageError> {
        match self.local_of(id)? {
            Some(local) => self.log.entry(local),
            None => Ok(None),
        }
    }

    /// The intention with number `local` in this node's log; `None` when the view does not have it. Everything that an
    /// intention names has a smaller number.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn entry_at(&self, local: LocalSeq) -> Result<Option<Stored>, StorageError> {
        if local.0 >= self.summary.count {
            return Ok(None);
        }
        self.log.entry(local)
    }

    /// Up to `limit` intentions from number `local` of this node's log on, ascending.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn entries_from(&self, local: LocalSeq, limit: usize) -> Result<Vec<Stored>, StorageError> {
        let left = self.summary.count.saturating_sub(local.0);
        let limit = limit.min(usize::try_from(left).unwrap_or(usize::MAX));
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.log.entries(local, limit)
    }

    /// The number of an intention in this node's log; `None` when it is not witnessed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn local_of(&self, id: &IntentionId) -> Result<Option<LocalSeq>, StorageError> {
        match self.names.get(id) {
            Some(named) if named.local.0 < self.summary.count => Ok(Some(named.local)),
            _ => dag::local_of(&self.rows, id),
        }
    }

    /// The last intention of each branch, sorted. A chain without forks is one branch, and each fork adds one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tips(&self) -> Result<Vec<Tip>, StorageError> {
        let mut tips = Vec::new();
        for (_, branch) in dag::branches(&self.rows)? {
            tips.push(Tip {
                author: branch.author,
                chain: branch.chain,
                seq: branch.tip,
                id: dag::id_at(&self.rows, branch.tip_local)?,
                local: branch.tip_local,
            });
        }
        tips.sort_unstable();
        Ok(tips)
    }

    /// The digest of all tips. It is equal on two nodes if and only if they have witnessed the same entries.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tips_digest(&self) -> Result<Digest, StorageError> {
        let mut hasher = blake3::Hasher::new_derive_key("lattice 2026-11 tips 1");
        for tip in self.tips()? {
            hasher.update(&tip.author.0);
            hasher.update(&tip.chain.0.to_be_bytes());
            hasher.update(&tip.seq.0.to_be_bytes());
            hasher.update(&tip.id.0);
        }
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// The numbers in this node's log of `tip` and its `prev`-ancestors, from place `seq` of the chain on, ascending,
    /// at most `limit`. Empty when `tip` is not witnessed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn branch_from(
        &self,
        tip: &IntentionId,
        seq: Seq,
        limit: usize,
    ) -> Result<Vec<LocalSeq>, StorageError> {
        let Some(local) = self.local_of(tip)? else {
            return Ok(Vec::new());
        };
        let meta = dag::meta(&self.rows, local)?;
        // The tip's branch, then its ancestors among the branches, each with the last entry that belongs to the path.
        let mut parts = vec![(meta.branch, meta.seq)];
        loop {
            let (at, _) = parts[parts.len() - 1];
            match dag::branch(&self.rows, at)?.parent {
                Some((parent, left_at)) if left_at >= seq => parts.push((parent, left_at)),
                _ => break,
            }
        }
        let mut out = Vec::new();
        for (branch_id, last) in parts.into_iter().rev() {
            let first = dag::branch(&self.rows, branch_id)?.first.max(seq);
            for n in first.0..=last.0 {
                if out.len() == limit {
                    return Ok(out);
                }
                if let Some(local) = dag::entry_of_branch(&self.rows, branch_id, Seq(n))? {
                    out.push(local);
                }
            }
        }
        Ok(out)
    }

    /// Whether `x` is `y` or in its causal past. False when either is unknown.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn in_past_or_same(&self, x: &IntentionId, y: &IntentionId) -> Result<bool, StorageError> {
        match self.local_of(x)? {
            Some(x) => dag::in_past_or_same(&self.rows, x, *y),
            None => Ok(false),
        }
    }

    /// Whether the entry has no effect, because governance has cut it off or it exceeds its author's quota.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn is_void(&self, id: &IntentionId) -> Result<bool, StorageError> {
        let Some(local) = self.local_of(id)? else {
            return Ok(false);
        };
        let meta = dag::meta(&self.rows, local)?;
        Ok(self.standing(local, meta.lane, &meta.position())?.void)
    }

    /// Whether the entry is void by what is known now: cut off, or found to exceed its author's quota when it ran last. A
    /// node neither offers such an entry to peers nor counts it in digests.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn is_left_out(&self, id: &IntentionId) -> Result<bool, StorageError> {
        Ok(self.any_void && void::is_void(&self.rows, id)?)
    }

    /// Whether governance has cut the entry off.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn is_cut_off(&self, id: &IntentionId) -> Result<bool, StorageError> {
        Ok(self.any_void && void::is_cut_off(&self.rows, id)?)
    }

    /// When a device was first admitted, by the time of the entry that did and is not cut off; `None` when it never was.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn admitted_at(&self, device: &DeviceKey) -> Result<Option<Time>, StorageError> {
        let mut first = None;
        for local in dag::grants(&self.rows, device)? {
            let position = dag::position_of(&self.rows, local)?;
            if self.any_void && void::is_cut_off(&self.rows, &position.id)? {
                continue;
            }
            let time = position.time;
            first = Some(first.map_or(time, |first: Time| first.min(time)));
        }
        Ok(first)
    }

    /// The outcome of each transaction; `None` while the entry is unknown, pending or void.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn outcomes(&self, id: &IntentionId) -> Result<Option<Vec<Outcome>>, StorageError> {
        let Some(local) = self.local_of(id)? else {
            return Ok(None);
        };
        let meta = dag::meta(&self.rows, local)?;
        let standing = self.standing(local, meta.lane, &meta.position())?;
        Ok((!standing.void && !standing.pending).then_some(standing.outcomes))
    }

    fn standing(
        &self,
        local: LocalSeq,
        lane: Lane,
        position: &Position,
    ) -> Result<Standing, StorageError> {
        let lanes: &[Lane] = match (local.0, &self.info.genesis.app) {
            (0, Some(_)) => &[Lane::System, Lane::App],
            _ => std::slice::from_ref(&lane),
        };
        let cut_off = void::is_cut_off(&self.rows, &position.id)?;
        let mut void = cut_off;
        let mut outcomes = Vec::new();
        let mut pending = false;
        let mut row = OrderRow::there(&self.rows, Slot::of(*position))?;
        for half in lanes.iter().map(|lane| usize::from(lane.number())) {
            pending |= row.due[half];
            if let Some(record) = row.runs[half].take() {
                void |= record.void;
                outcomes.extend(record.outcomes);
            }
        }
        // While a run is due, the record of the run before may not hold any more. Only a cut holds at once.
        void = if pending { cut_off } else { void };
        Ok(Standing {
            outcomes,
            void,
            cut_off,
            pending,
        })
    }

    /// At most `limit` entries in canonical order, after `from`; with `reverse` in descending order, before `from`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn history(
        &self,
        from: Option<Position>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<HistoryRow>, StorageError> {
        let places = self.places(from, limit, reverse)?;
        let mut out = Vec::with_capacity(places.len());
        for (position, local) in places {
            let stored = self
                .log
                .entry(local)?
                .ok_or_else(|| crate::log::lacks(local))?;
            let standing = self.standing(local, stored.header.lane, &position)?;
            out.push(HistoryRow {
                position,
                stored,
                void: standing.void,
                cut_off: standing.cut_off,
                outcomes: standing.outcomes,
                pending: standing.pending,
            });
        }
        Ok(out)
    }

    /// The positions and log numbers of the entries that [`Snapshot::history`] returns for the same arguments.
    pub(crate) fn places(
        &self,
        from: Option<Position>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Position, LocalSeq)>, StorageError> {
        let (start, end) = order::range(from, reverse);
        let mut locals = Vec::new();
        if limit > 0 {
            let mut sound = true;
            self.rows.scan(&start, &end, reverse, |_, row| {
                match order::split(row) {
                    Some((local, _)) => locals.push(local),
                    None => sound = false,
                }
                if locals.len() == limit || !sound {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            if !sound {
                return Err(StorageError::row(b"T"));
            }
        }
        let mut places = Vec::with_capacity(locals.len());
        for local in locals {
            places.push((dag::position_of(&self.rows, local)?, local));
        }
        Ok(places)
    }

    /// Asks governance at the end of the system lane.
    ///
    /// # Errors
    /// When the governance component traps, or cannot run on this node.
    pub fn ask(&self, question: &Question) -> Result<Answer, AskError> {
        Ok(self.ask_tracked(question)?.0)
    }

    /// As [`Snapshot::ask`], with what the answer rests on.
    ///
    /// # Errors
    /// When the governance component traps or cannot run here.
    pub(crate) fn ask_tracked(&self, question: &Question) -> Result<(Answer, Reads), AskError> {
        let asked = governance::ask_view(
            &self.engine,
            &self.info.genesis.system.id,
            &self.info.genesis.limits,
            self.info.id,
            &self.rows,
            question,
        );
        Ok((asked.answer?, asked.reads))
    }

    /// The code in effect of the app lane; `None` in a store without an app, or until the genesis has run.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn code_in_effect(&self) -> Result<Option<ComponentId>, StorageError> {
        let value = live::bytes_at(&self.rows, &code_cell(), Slot::MAX)?;
        Ok(value.and_then(|v| ComponentId::from_slice(&v)))
    }

    /// Runs a query on this view, with at most `fuel` units of fuel.
    ///
    /// # Errors
    /// When this node cannot run it; [`HostFault::MissingCode`] when the node lacks the component.
    pub fn query(&self, call: &Call, lane: Lane, mut fuel: u64) -> Result<Queried, HostFault> {
        let component = match lane {
            Lane::System => Some(self.info.genesis.system.id),
            Lane::App => self.code_in_effect().map_err(governance::storage)?,
        };
        let Some(component) = component else {
            if let (Lane::App, Some(app)) = (lane, &self.info.genesis.app) {
                // The genesis has not run on this node: the code is missing, or is still being compiled.
                return Err(HostFault::MissingCode(app.id));
            }
            return Ok(Queried {
                end: CallEnd::Refused(HostRefusal::NoSuchFunction.to_cbor()),
                reads: Reads::default(),
                clock: false,
            });
        };
        let run = Run::query(
            self.rows.clone(),
            Some(self.info.id),
            lane,
            Slot::MAX,
            self.summary.last_time,
        );
        let mut instance = self
            .engine
            .instantiate(&component, &self.info.genesis.limits, run)
            .map_err(|(_, fault)| fault)?;
        let end = instance.call(CallKind::Query, call, &mut fuel)?;
        let run = instance.finish();
        let clock = run.clock_was_read();
        let mut reads = run.reads().clone();
        if lane == Lane::App {
            reads.cells.insert(
                code_cell(),
                crate::state::cell::ValueMark::of_bytes(Some(&component.0)),
            );
        }
        Ok(Queried { end, reads, clock })
    }

    /// The visible cells of a space in a lane, ascending by key, with their values. A number's value is its big-endian
    /// bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rows(
        &self,
        lane: Lane,
        space: crate::state::cell::Space,
    ) -> Result<Vec<StateRow>, StorageError> {
        let mut out = Vec::new();
        let span = Span {
            lane,
            space,
            start: b"",
            end: None,
            reverse: false,
        };
        if space.is_number() {
            live::scan_numbers_at(
                &self.rows,
                span,
                Slot::MAX,
                &live::Memo::default(),
                |key, number| {
                    out.push((key.to_vec(), Arc::from(number.to_be_bytes())));
                    ControlFlow::Continue(())
                },
            )?;
        } else {
            live::scan_bytes_at(
                &self.rows,
                span,
                Slot::MAX,
                &live::Memo::default(),
                |key, value| {
                    out.push((key.to_vec(), value));
                    ControlFlow::Continue(())
                },
            )?;
        }
        Ok(out)
    }
}

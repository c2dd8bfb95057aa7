//! The reference fold, which judges the incremental one: it sorts all entries and runs them all, from nothing.
//!
//! It shares with the incremental fold what one run sees and writes, and nothing of how runs are scheduled, marked,
//! cached or cut. It has no versions, no marks and no remembered answers, and finds ancestors by walking the graph.
//! It is slow on purpose, because plain code is easier to trust. Tests, `doctor` and the simulator compare with it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use lattice_format::{
    Body, CallId, DeviceKey, Genesis, IntentionId, Lane, Position, StoreId, Time,
};

use crate::fold::core::{call_count, calls_of};
use crate::fold::governance::storage;
use crate::fold::quota::charge;
use crate::graph::dag;
use crate::graph::insert;
use crate::graph::lookup_cache::LookupCache;
use crate::graph::slot::Slot;
use crate::log::Stored;
use crate::outcome::Outcome;
use crate::run::Run;
use crate::run::engine::{Answer, AskError, Cut, Engine, HostFault, Kept, Question};
use crate::state::call_index;
use crate::state::cell::{Cell, Op, Space, live_key};
use crate::state::live::{self, Span};
use crate::state::lthash::{Element, LtHash};
use crate::state::numbers;
use crate::state::versions::RootDigests;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::Rows;

/// The result of a fold from nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Digests of the roots.
    pub roots: RootDigests,
    /// Outcomes by position and lane; void entries have none.
    pub outcomes: BTreeMap<(Position, Lane), Vec<Outcome>>,
    /// Entries without effect: cut off by governance, or above their author's quota.
    pub void: BTreeSet<IntentionId>,
    /// The void entries that are above their author's quota.
    pub over_quota: BTreeSet<IntentionId>,
}

mod run;

type Outcomes = BTreeMap<(Position, Lane), Vec<Outcome>>;

struct Judge<'a> {
    engine: &'a dyn Engine,
    genesis: Genesis,
    store: StoreId,
    entries: Vec<&'a Stored>,
    /// The rows of the graph alone, from which every fold starts.
    graph: Rows,
    past: HashMap<IntentionId, HashSet<IntentionId>>,
    /// By call id, the entries of the system lane that hold the call.
    revocations: HashMap<CallId, Vec<IntentionId>>,
}

/// Folds `entries` from nothing. They must be complete, with every entry behind those that it names, as in a log.
///
/// # Errors
/// When the engine cannot run on this host.
pub fn scratch(engine: &dyn Engine, entries: &[Stored]) -> Result<Scratch, HostFault> {
    let first = entries.first().expect("a store that is open has a genesis");
    let genesis = first
        .body
        .as_deref()
        .and_then(|b| Body::decode(b).ok())
        .and_then(|b| b.genesis)
        .expect("the first entry of a store is its genesis");
    let mut judge = Judge {
        engine,
        genesis,
        store: StoreId::from(first.header.id()),
        entries: entries.iter().collect(),
        graph: Rows::in_memory().map_err(storage)?,
        past: HashMap::new(),
        revocations: HashMap::new(),
    };
    judge.read_graph(entries).map_err(storage)?;
    judge.entries.sort_by_key(|e| e.header.position());
    judge.fold()
}

impl Judge<'_> {
    fn read_graph(&mut self, entries: &[Stored]) -> Result<(), StorageError> {
        let mut cache = LookupCache::default();
        for (local, entry) in (0u64..).zip(entries) {
            insert::add(&mut self.graph, &mut cache, &entry.header, LocalSeq(local))?;
            let id = entry.header.id();
            if entry.header.lane == Lane::System {
                let count = call_count(entry.body.as_deref());
                for call in calls_of(Lane::System, &entry.header, count) {
                    self.revocations.entry(call).or_default().push(id);
                }
            }
            let mut past = HashSet::from([id]);
            for name in entry.header.names() {
                past.extend(self.past.get(&name).into_iter().flatten().copied());
            }
            self.past.insert(id, past);
        }
        Ok(())
    }

    fn fold(&self) -> Result<Scratch, HostFault> {
        let mut void = BTreeSet::new();
        for _ in 0..self.entries.len() + 2 {
            let mut over_quota = BTreeSet::new();
            let (rows, outcomes) =
                self.fold_lane(Lane::System, self.fresh()?, &void, &mut over_quota)?;
            let next = self.cut(&rows, &void)?;
            if next != void {
                void = next;
                continue;
            }
            let (rows, app) = self.fold_lane(Lane::App, rows, &void, &mut over_quota)?;
            void.extend(&over_quota);
            let mut all: BTreeMap<_, _> = outcomes;
            all.extend(app);
            return Ok(Scratch {
                roots: self.roots(&rows, &all)?,
                outcomes: all,
                void,
                over_quota,
            });
        }
        Err(HostFault::Unusable {
            component: self.genesis.system.id,
            reason: "its cuts do not settle".into(),
        })
    }

    fn fresh(&self) -> Result<Rows, HostFault> {
        let mut rows = Rows::in_memory().map_err(storage)?;
        rows.restore(self.graph.view());
        Ok(rows)
    }

    fn ask(&self, rows: &Rows, question: &Question) -> Result<Option<Answer>, HostFault> {
        let run = Run::query(
            rows.view(),
            Some(self.store),
            Lane::System,
            Slot::MAX,
            Time::default(),
        );
        let (_, answer) =
            self.engine
                .ask(&self.genesis.system.id, &self.genesis.limits, run, question);
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(AskError::Trapped(_)) => Ok(None),
            Err(AskError::Host(fault)) => Err(fault),
        }
    }

    /// Folds one lane into `rows`. An entry is judged by governance at its position. While the system lane is folded,
    /// that is `rows` itself. For the app lane, the system lane is folded once more beside it.
    fn fold_lane(
        &self,
        lane: Lane,
        mut rows: Rows,
        void: &BTreeSet<IntentionId>,
        over_quota: &mut BTreeSet<IntentionId>,
    ) -> Result<(Rows, Outcomes), HostFault> {
        let mut outcomes = BTreeMap::new();
        // While the app lane is folded: governance at the position of the current entry.
        let mut system = match lane {
            Lane::App => Some(self.fresh()?),
            Lane::System => None,
        };
        // By author: in the system lane the bytes there, in the app lane those of both.
        let mut written: HashMap<DeviceKey, u64> = HashMap::new();
        for entry in &self.entries {
            let id = entry.header.id();
            let genesis = entry.header.is_genesis();
            // The entries of the system lane that are over their quota are known when the app lane is folded.
            if void.contains(&id) || over_quota.contains(&id) {
                continue;
            }
            if lane == Lane::App || genesis || entry.header.lane == Lane::System {
                let author = entry.header.author;
                let bytes = charge(&entry.header);
                let sum = written.entry(author).or_default();
                let governance = system.as_ref().unwrap_or(&rows);
                if !genesis
                    && entry.header.lane == lane
                    && self
                        .quota(governance, author, lane)?
                        .is_some_and(|quota| *sum + bytes > quota)
                {
                    over_quota.insert(id);
                    continue;
                }
                *sum += bytes;
            }
            if let Some(system) = &mut system
                && (genesis || entry.header.lane == Lane::System)
            {
                let (_, writes) = self.run(Lane::System, system, system, entry)?;
                self.write(system, Lane::System, entry, writes)?;
            }
            let mine = genesis && (lane == Lane::System || self.genesis.app.is_some())
                || !genesis && entry.header.lane == lane;
            if !mine {
                continue;
            }
            let governance = system.as_ref().unwrap_or(&rows);
            let (outcome, writes) = self.run(lane, governance, &rows, entry)?;
            self.write(&mut rows, lane, entry, writes)?;
            outcomes.insert((entry.header.position(), lane), outcome);
        }
        Ok((rows, outcomes))
    }

    /// Writes what a run wrote, one value a cell and no versions, and puts the entry's calls into the index.
    fn write(
        &self,
        rows: &mut Rows,
        lane: Lane,
        entry: &Stored,
        writes: BTreeMap<Cell, Op>,
    ) -> Result<(), HostFault> {
        let local = dag::local_of(&self.graph, &entry.header.id())
            .map_err(storage)?
            .expect("the graph holds every entry");
        for (cell, op) in writes {
            let row = match op {
                Op::Put(bytes) => Some(live::encode_live(local, &bytes)),
                Op::Delete => None,
                Op::Add(by) => {
                    let before = numbers::total(rows, &cell).map_err(storage)?;
                    match before.wrapping_add(by) {
                        0 => None,
                        total => Some(numbers::encode_total(total)),
                    }
                }
            };
            match row {
                Some(row) => rows.put(live_key(&cell), row),
                None => rows.remove(live_key(&cell)),
            }
        }
        for call in calls_of(lane, &entry.header, call_count(entry.body.as_deref())) {
            call_index::put(rows, lane, call, local);
        }
        Ok(())
    }

    /// The quota of an author in a lane, as the state `governance` has it.
    fn quota(
        &self,
        governance: &Rows,
        author: DeviceKey,
        lane: Lane,
    ) -> Result<Option<u64>, HostFault> {
        match self.ask(governance, &Question::Quota { author, lane })? {
            Some(Answer::Quota(quota)) => Ok(quota),
            _ => Ok(None),
        }
    }

    /// The entries that governance cuts off, asked at the end of the system lane. `before` are those of the round
    /// before, whose revocations do not count.
    fn cut(
        &self,
        rows: &Rows,
        before: &BTreeSet<IntentionId>,
    ) -> Result<BTreeSet<IntentionId>, HostFault> {
        let mut void = BTreeSet::new();
        let authors: BTreeSet<_> = self.entries.iter().map(|e| e.header.author).collect();
        for author in authors {
            // Governance that does not answer has cut off everything.
            let cuts = match self.ask(rows, &Question::Cuts(author))? {
                Some(Answer::Cuts(cuts)) => Some(cuts),
                _ => None,
            };
            for entry in &self.entries {
                let is_cut =
                    |cuts: &Vec<Cut>| cuts.iter().any(|cut| !self.spares(cut, entry, before));
                if entry.header.author == author
                    && !entry.header.is_genesis()
                    && cuts.as_ref().is_none_or(is_cut)
                {
                    void.insert(entry.header.id());
                }
            }
        }
        Ok(void)
    }

    /// Whether all revocations of a cut that count spare the entry.
    fn spares(&self, cut: &Cut, entry: &Stored, void: &BTreeSet<IntentionId>) -> bool {
        let revocations = self.revocations.get(&cut.revocation);
        revocations
            .into_iter()
            .flatten()
            .filter(|id| !void.contains(*id))
            .all(|id| self.is_spared_by(id, &cut.kept, entry))
    }

    fn is_spared_by(&self, revocation: &IntentionId, kept: &Kept, entry: &Stored) -> bool {
        if let Some(grant) = entry.header.grant
            && self.past[&grant].contains(revocation)
        {
            return true;
        }
        let kept = match kept {
            Kept::Seen => return self.past[revocation].contains(&entry.header.id()),
            Kept::Ids(ids) => ids,
        };
        let by_id = |id: &IntentionId| self.entries.iter().find(|e| e.header.id() == *id);
        kept.iter()
            .filter(|kept| self.past[revocation].contains(*kept))
            .filter_map(by_id)
            .filter(|kept| kept.header.author == entry.header.author)
            .any(|kept| {
                let mut at = Some(*kept);
                while let Some(step) = at {
                    if step.header.id() == entry.header.id() {
                        return true;
                    }
                    at = match step.header.seq.0 {
                        0 => None,
                        _ => step.header.prev.as_ref().and_then(by_id).copied(),
                    };
                }
                false
            })
    }

    fn roots(&self, rows: &Rows, outcomes: &Outcomes) -> Result<RootDigests, HostFault> {
        let mut state_root = LtHash::default();
        let mut read = |lane, space: Space| {
            let span = Span {
                lane,
                space,
                start: b"",
                end: None,
                reverse: false,
            };
            let mut add = |key: &[u8], value: &[u8]| {
                let cell = Cell::new(lane, space, key);
                state_root.add(&Element::new(&[cell.as_bytes(), value]));
                ControlFlow::Continue(())
            };
            if space.is_number() {
                return live::scan_numbers_at(
                    rows,
                    span,
                    Slot::MAX,
                    &live::Memo::default(),
                    |key, number| add(key, &number.to_be_bytes()),
                );
            }
            live::scan_bytes_at(
                rows,
                span,
                Slot::MAX,
                &live::Memo::default(),
                |key, value| add(key, &value),
            )
        };
        for lane in [Lane::System, Lane::App] {
            for space in [Space::Bytes, Space::Numbers, Space::Pins, Space::Host] {
                read(lane, space).map_err(storage)?;
            }
        }
        let mut outcome_root = LtHash::default();
        for ((position, lane), list) in outcomes {
            let first = u32::from(*lane == Lane::App && position.id.0 == self.store.0);
            for (index, outcome) in (first..).zip(list) {
                outcome_root.add(&Element::new(&[
                    &position.id.0,
                    &index.to_be_bytes(),
                    &outcome.to_cbor(),
                ]));
            }
        }
        let mut applied = LtHash::default();
        for entry in &self.entries {
            applied.add(&Element::new(&[&entry.header.id().0]));
        }
        Ok(RootDigests {
            state: state_root.digest(),
            outcomes: outcome_root.digest(),
            applied: applied.digest(),
        })
    }
}

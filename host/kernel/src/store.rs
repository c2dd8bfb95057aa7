//! One store with its single writer: the one path that local, gossiped and synced intentions take.

use std::collections::VecDeque;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lattice_format::{
    Body, BodyRef, ChainId, DeviceKey, Genesis, Header, IntentionId, Lane, Seq, SignedHeader,
    StoreId, Time, VerifiedBody, VerifiedHeader, VerifyError, verify_batch,
};

use crate::admit::{self, Admission};
use crate::dag::{self, LocalSeq, PastCache};
use crate::engine::{Engine, HostFault};
use crate::floating::{Arrival, FloatReason, FloatingRow, ParkedRow, Waiting};
use crate::fold::{Changes, Core, Info, Settled, call_count};
use crate::governance::Answers;
use crate::kv::{Kv, KvView, StorageError};
use crate::limits::{FLUSH_ENTRIES, FLUSH_MS, NOTICES_MAX, OVERLAY_ROWS_MAX};
use crate::local::{CallError, Open};
use crate::log::{Append, Files, Log, Stored, WitnessRecord, chain_hash};
use crate::notice::Notice;
use crate::outcome::Outcome;
use crate::record;
use crate::snapshot::{Snapshot, Summary};
use crate::versions::{RangeLengths, Roots};

const ROOTS: &[u8] = b"Mroots";
const LENGTHS: &[u8] = b"Mlengths";
const INDEXED: &[u8] = b"Mindexed";
const LAST_TIME: &[u8] = b"Mlast-time";
const WITNESS: &[u8] = b"Mwitness";
const OWN_CHAIN: &[u8] = b"Mown-chain";

/// Runs that opening a store does at once; a longer replay is left to [`Store::settle`].
const OPEN_RUNS_MAX: u64 = 5_000;

/// What a new store is to be.
#[derive(Clone, Debug)]
pub struct NewStore {
    /// What its genesis fixes.
    pub genesis: Genesis,
    /// Members of a parent, admitted besides the founder.
    pub admits: Vec<DeviceKey>,
    /// The founder's chain: 64 fresh random bits, which also make the store's id unique.
    pub chain: ChainId,
}

/// Why a store was not made. Nothing of it is left in the log.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The files already hold a store.
    #[error("the files already hold {0} entries of a store")]
    NotEmpty(u64),
    /// The genesis breaks a rule of the format.
    #[error("the genesis: {0}")]
    Genesis(String),
    /// The `init` of a component did not succeed: without it there is no store.
    #[error("init of the {lane} component ended with {outcome:?}")]
    Init {
        /// "governance" or "app".
        lane: &'static str,
        /// How it ended.
        outcome: Outcome,
    },
    /// This host could not run it.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log holds no genesis.
    #[error("log.redb holds no genesis: the store was never completed; remove its directory")]
    Empty,
    /// The disk failed, or a file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Something for which a sender answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The intention, where its bytes say which.
    pub id: Option<IntentionId>,
    /// What is wrong with it.
    pub reason: String,
}

/// What became of a received batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// New in the log.
    pub witnessed: Vec<IntentionId>,
    /// In the log or waiting already.
    pub known: usize,
    /// Waiting for something else.
    pub floating: usize,
    /// Waiting for their time.
    pub parked: usize,
    /// Dropped because too much waits; ask again later.
    pub no_room: usize,
    /// Named and unknown: to be asked for.
    pub missing: Vec<IntentionId>,
    /// Known by header alone: their bodies are to be asked for.
    pub bodies_missing: Vec<IntentionId>,
    /// What the sender answers for.
    pub blame: Vec<Blame>,
}

/// The single writer of one store.
pub struct Store {
    pub(crate) core: Core,
    pub(crate) key: SigningKey,
    pub(crate) author: DeviceKey,
    pub(crate) open: Option<Open>,
    /// The chain that this device writes; `None` until it has started one here.
    pub(crate) chain: Option<ChainId>,
    pub(crate) last_time: Time,
    /// No replay is pending.
    pub(crate) settled: bool,
    next: LocalSeq,
    durable: LocalSeq,
    pending: Vec<Append>,
    waiting: Waiting,
    witness: [u8; 32],
    witnessed_since: u64,
    flushed_at_ms: u64,
    unflushed: u64,
    next_notice: u64,
    notice_count: usize,
    published: Snapshot,
    undo: Option<Undo>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({}, {} entries)", self.core.info.id, self.next.0)
    }
}

/// What a failed commit goes back to.
struct Undo {
    kv: KvView,
    roots: Roots,
    lengths: RangeLengths,
    last_time: Time,
    chain: Option<ChainId>,
    witness: [u8; 32],
    settled: bool,
}

fn storage_of(error: CallError) -> StorageError {
    StorageError(error.to_string())
}

impl Store {
    /// Founds a store: signs its genesis, runs both `init`s, and makes it durable.
    ///
    /// # Errors
    /// When the files are not empty, a rule is broken, or an `init` does not succeed.
    pub fn create(
        files: Files,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        spec: NewStore,
        now_ms: u64,
    ) -> Result<Self, CreateError> {
        let author = DeviceKey(key.verifying_key().to_bytes());
        let mut admits = spec.admits;
        admits.push(author);
        admits.sort_unstable();
        admits.dedup();
        let body = Body {
            transactions: Vec::new(),
            genesis: Some(spec.genesis),
            claim: None,
        }
        .encode();
        let len = u32::try_from(body.len())
            .map_err(|_| CreateError::Genesis(format!("a body of {} bytes", body.len())))?;
        let header = Header {
            store: None,
            author,
            chain: spec.chain,
            seq: Seq(0),
            prev: None,
            deps: Vec::new(),
            time: Time {
                wall_ms: now_ms,
                counter: 0,
            },
            grant: None,
            admits,
            lane: Lane::System,
            body: BodyRef {
                hash: Body::hash_of(&body),
                len,
                key: 0,
            },
            chain_bytes: u64::from(len),
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        };
        let header = VerifiedHeader::sign(header, &key)
            .map_err(|error| CreateError::Genesis(error.to_string()))?;
        let mut store = Self::found(files, engine, key, header, body, now_ms)?;
        store.chain = Some(spec.chain);
        store.core.kv.put(OWN_CHAIN, spec.chain.0.to_be_bytes());
        store.run_genesis_now()?;
        store.commit(now_ms)?;
        store.flush(now_ms)?;
        Ok(store)
    }

    /// Starts a replica from a received genesis. The caller has compared its id with what it asked
    /// for. The app half may stay due until the component arrives.
    ///
    /// # Errors
    /// When the bytes are no genesis, or governance refuses it.
    pub fn adopt(
        files: Files,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        genesis: (SignedHeader, Vec<u8>),
        now_ms: u64,
    ) -> Result<Self, CreateError> {
        let header = lattice_format::verify(genesis.0)
            .map_err(|error| CreateError::Genesis(error.to_string()))?;
        if !header.is_genesis() {
            return Err(CreateError::Genesis(format!(
                "{} is not a genesis",
                header.id()
            )));
        }
        let mut store = Self::found(files, engine, key, header, genesis.1, now_ms)?;
        let position = store.core.info.position;
        let lanes: &[Lane] = match store.core.info.genesis.app {
            Some(_) => &[Lane::System, Lane::App],
            None => &[Lane::System],
        };
        for lane in lanes {
            record::set_due(&mut store.core.kv, *lane, position, LocalSeq(0));
        }
        store.commit(now_ms)?;
        store.settle(OPEN_RUNS_MAX)?;
        store.flush(now_ms)?;
        Ok(store)
    }

    fn found(
        files: Files,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        header: VerifiedHeader,
        body: Vec<u8>,
        now_ms: u64,
    ) -> Result<Self, CreateError> {
        let body = header
            .check_body(body)
            .map_err(|error| CreateError::Genesis(error.to_string()))?;
        let decoded =
            Body::decode(body.bytes()).map_err(|error| CreateError::Genesis(error.to_string()))?;
        let genesis = decoded
            .genesis
            .filter(|_| decoded.transactions.is_empty())
            .ok_or_else(|| CreateError::Genesis("its body says nothing of a store".into()))?;
        if header.body.len > genesis.limits.body_bytes || genesis.limits.body_bytes < 1024 {
            return Err(CreateError::Genesis(format!(
                "its body has {} bytes, and it allows {}",
                header.body.len, genesis.limits.body_bytes
            )));
        }
        let log = Log::open(files.log)?;
        let count = log.len()?;
        if count != 0 {
            return Err(CreateError::NotEmpty(count));
        }
        let info = Arc::new(Info {
            id: StoreId::from(header.id()),
            genesis,
            position: header.position(),
        });
        let mut store = Self::assemble(log, Kv::open(files.state)?, engine, key, info, now_ms)?;
        store.index(&header, Some(&body), now_ms, Vec::new())?;
        Ok(store)
    }

    fn run_genesis_now(&mut self) -> Result<(), CreateError> {
        let stored = Stored {
            local: LocalSeq(0),
            header: self.pending[0].header.clone(),
            body: None,
            received_ms: 0,
        };
        let position = self.core.info.position;
        let lanes: &[(Lane, &str)] = match self.core.info.genesis.app {
            Some(_) => &[(Lane::System, "governance"), (Lane::App, "app")],
            None => &[(Lane::System, "governance")],
        };
        for (lane, name) in lanes {
            let effects = self
                .core
                .run_genesis(*lane, position, &stored)
                .map_err(|stopped| match stopped {
                    crate::fold::Stopped::Fault(fault) => CreateError::Host(fault),
                    crate::fold::Stopped::Storage(error) => CreateError::Storage(error),
                })?;
            if let Some(outcome) = effects.outcomes.iter().find(|o| !o.is_ok()) {
                return Err(CreateError::Init {
                    lane: name,
                    outcome: outcome.clone(),
                });
            }
            self.core.install(*lane, position, LocalSeq(0), effects)?;
        }
        Ok(())
    }

    /// Opens a store: reads how far the derived state has come and replays the difference.
    ///
    /// # Errors
    /// When the log is empty or damaged.
    pub fn open(
        files: Files,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let log = Log::open(files.log)?;
        let count = log.len()?;
        let first = log.entry(LocalSeq(0))?.ok_or(OpenError::Empty)?;
        let body = first
            .body
            .as_deref()
            .and_then(|bytes| Body::decode(bytes).ok())
            .and_then(|body| body.genesis);
        let (true, Some(genesis)) = (first.header.is_genesis(), body) else {
            return Err(StorageError(
                "log.redb is damaged: its first entry is no genesis; restore the store from a backup, or join it again".into(),
            )
            .into());
        };
        let info = Arc::new(Info {
            id: StoreId::from(first.header.id()),
            genesis,
            position: first.header.position(),
        });
        let kv = Kv::open(files.state)?;
        let mut store = Self::assemble(log, kv, engine, key, info, now_ms)?;
        if store.next.0 > count {
            // The log was put back to an earlier day; whatever was derived beyond it is void.
            return Err(StorageError(format!(
                "state.redb knows {} entries and log.redb only {count}: if the log was restored from a backup, delete state.redb",
                store.next.0
            ))
            .into());
        }
        store.replay(count)?;
        store.durable = store.next;
        store.settle(OPEN_RUNS_MAX)?;
        Ok(store)
    }

    /// Indexes what the derived state does not know yet.
    fn replay(&mut self, count: u64) -> Result<(), StorageError> {
        while self.next.0 < count {
            for stored in self.core.log.entries(self.next, 256)? {
                let body = match &stored.body {
                    Some(bytes) => Some(stored.header.check_body(bytes.clone()).map_err(|e| {
                        StorageError(format!(
                            "log.redb is damaged: entry {}: {e}",
                            stored.local.0
                        ))
                    })?),
                    None => None,
                };
                self.index_only(&stored.header, body.as_ref(), stored.received_ms)?;
                self.due(&stored.header)?;
                if self.core.kv.pending_rows() > OVERLAY_ROWS_MAX {
                    self.save_marks();
                    self.core.kv.flush()?;
                }
            }
        }
        // A notice is raised when something changes, not when it is derived again.
        self.core.notices.clear();
        Ok(())
    }

    fn due(&mut self, header: &VerifiedHeader) -> Result<(), StorageError> {
        let local = LocalSeq(self.next.0 - 1);
        let position = header.position();
        if local.0 == 0 {
            record::set_due(&mut self.core.kv, Lane::System, position, local);
            if self.core.info.genesis.app.is_some() {
                record::set_due(&mut self.core.kv, Lane::App, position, local);
            }
        } else {
            record::set_due(&mut self.core.kv, header.lane, position, local);
        }
        self.core.judge_new(&header.author, local)
    }

    fn assemble(
        log: Log,
        kv: Kv,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        info: Arc<Info>,
        now_ms: u64,
    ) -> Result<Self, StorageError> {
        let author = DeviceKey(key.verifying_key().to_bytes());
        let number = |name: &[u8]| -> Result<Option<u64>, StorageError> {
            Ok(kv
                .get(name)?
                .and_then(|v| Some(u64::from_be_bytes((*v).try_into().ok()?))))
        };
        let next = LocalSeq(number(INDEXED)?.unwrap_or(0));
        let chain = number(OWN_CHAIN)?.map(ChainId);
        let roots = match kv.get(ROOTS)? {
            None => Roots::default(),
            Some(bytes) => Roots::from_slice(&bytes).ok_or_else(|| {
                StorageError("the roots are damaged: delete state.redb to rebuild it".into())
            })?,
        };
        let lengths = kv
            .get(LENGTHS)?
            .map_or_else(RangeLengths::default, |b| RangeLengths::from_slice(&b));
        let last_time = kv.get(LAST_TIME)?.map_or(Time::default(), |b| {
            lattice_format::Position::from_slice(&b).map_or(Time::default(), |p| p.time)
        });
        let witness = kv
            .get(WITNESS)?
            .and_then(|b| (*b).try_into().ok())
            .unwrap_or(info.id.0);
        let known = log.notices()?;
        let next_notice = known.last().map_or(0, |(number, _)| number + 1);
        let notice_count = known.len();
        let published = Snapshot {
            info: info.clone(),
            engine: engine.clone(),
            kv: kv.view(),
            log: log.clone(),
            summary: Arc::new(Summary {
                count: 0,
                applied: 0,
                set: roots.digests().applied,
                state_root: roots.digests().state,
                outcome_root: roots.digests().outcomes,
                pending: 0,
                last_time,
                heads: Vec::new(),
                system_paused: None,
                app_paused: None,
            }),
        };
        let core = Core {
            kv,
            log,
            engine,
            info,
            roots,
            answers: Answers::default(),
            pasts: PastCache::default(),
            lengths,
            changes: Changes::default(),
            notices: Vec::new(),
            paused: [None, None],
        };
        Ok(Self {
            core,
            key,
            author,
            open: None,
            chain,
            last_time,
            settled: true,
            next,
            durable: next,
            pending: Vec::new(),
            waiting: Waiting::default(),
            witness,
            witnessed_since: 0,
            flushed_at_ms: now_ms,
            unflushed: 0,
            next_notice,
            notice_count,
            published,
            undo: None,
        })
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.core.info.id
    }

    /// What the log holds durably.
    pub fn snapshot(&self) -> Snapshot {
        self.published.clone()
    }

    // --- the write path --------------------------------------------------------------------------

    fn begin_undo(&mut self) {
        if self.undo.is_none() {
            self.undo = Some(Undo {
                kv: self.core.kv.view(),
                roots: self.core.roots.clone(),
                lengths: self.core.lengths.clone(),
                last_time: self.last_time,
                chain: self.chain,
                witness: self.witness,
                settled: self.settled,
            });
        }
    }

    fn roll_back(&mut self) {
        self.open = None;
        self.pending.clear();
        self.core.pasts.clear();
        if let Some(undo) = self.undo.take() {
            self.core.kv.restore(undo.kv);
            self.core.roots = undo.roots;
            self.core.lengths = undo.lengths;
            self.last_time = undo.last_time;
            self.chain = undo.chain;
            self.witness = undo.witness;
            self.settled = undo.settled;
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
        let local = self.index_only(header, body, now_ms)?;
        self.pending.push(Append {
            header: header.clone(),
            body: body.cloned(),
            received_ms: now_ms,
            told,
        });
        Ok(local)
    }

    fn index_only(
        &mut self,
        header: &VerifiedHeader,
        body: Option<&VerifiedBody>,
        received_ms: u64,
    ) -> Result<LocalSeq, StorageError> {
        let local = self.next;
        let calls = call_count(body.map(|b| &**b.bytes()));
        let added = dag::add(
            &mut self.core.kv,
            &mut self.core.pasts,
            header,
            local,
            calls,
        )?;
        assert_eq!(added.local, local, "entries are numbered densely");
        if added.new_branch {
            self.core.cuts_are_due();
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
            self.core.kv.put(OWN_CHAIN, header.chain.0.to_be_bytes());
        }
        self.next = LocalSeq(local.0 + 1);
        self.last_time = self.last_time.max(header.time);
        self.witness = chain_hash(&self.witness, &header.id(), received_ms);
        self.unflushed += 1;
        self.witnessed_since += 1;
        if self.core.changes.entries.len() < NOTICES_MAX {
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
        if let Err(error) = self.close_intention(now_ms) {
            self.roll_back();
            return Err(storage_of(error));
        }
        if self.pending.is_empty() && self.core.notices.is_empty() {
            self.undo = None;
            return Ok(Vec::new());
        }
        let batch = std::mem::take(&mut self.pending);
        let mut notices = Vec::new();
        for notice in self.core.notices.drain(..) {
            if self.notice_count + notices.len() < NOTICES_MAX {
                notices.push((self.next_notice + notices.len() as u64, notice));
            }
        }
        let record = self
            .witness_due(now_ms)
            .then(|| self.witness_record(now_ms));
        if let Err(error) = self
            .core
            .log
            .append(self.durable, &batch, &notices, record.as_ref())
        {
            self.roll_back();
            return Err(error);
        }
        self.undo = None;
        self.durable = self.next;
        self.next_notice += notices.len() as u64;
        self.notice_count += notices.len();
        if record.is_some() {
            self.witnessed_since = 0;
        }
        self.flush_if_due(now_ms)?;
        self.publish()?;
        Ok(batch.into_iter().map(|entry| entry.header).collect())
    }

    /// Verifies, admits and witnesses what a peer sent, and marks it for execution: call
    /// [`Store::settle`] afterwards. Everything witnessed is durable when this returns.
    ///
    /// `seed` are 32 fresh random bytes, for the batch verification of signatures.
    ///
    /// # Errors
    /// When the disk fails; nothing of the batch is kept then.
    pub fn receive(
        &mut self,
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        now_ms: u64,
        seed: [u8; 32],
    ) -> Result<Received, StorageError> {
        self.commit(now_ms)?;
        let mut received = Received::default();
        let arrivals = self.verify(from, entries, &seed, &mut received)?;
        if let Err(error) = self.admit_all(arrivals, now_ms, &mut received) {
            self.roll_back();
            return Err(error);
        }
        self.settled &= self.pending.is_empty();
        self.commit(now_ms)?;
        received.missing = self.waiting.missing();
        received.bodies_missing = self.waiting.bodies_missing();
        Ok(received)
    }

    fn verify(
        &mut self,
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        seed: &[u8; 32],
        received: &mut Received,
    ) -> Result<VecDeque<Arrival>, StorageError> {
        let mut unknown = Vec::new();
        let mut bodies = Vec::new();
        for (signed, body) in entries {
            let id = Header::id_of(&signed.bytes);
            let known = dag::local_of(&self.core.kv, &id)?.is_some();
            if known || self.waiting.was_dropped(&id) {
                received.known += 1;
            } else if self.waiting.contains(&id)
                && !(body.is_some() && self.waiting.lacks_body(&id))
            {
                received.known += 1;
            } else {
                unknown.push(signed);
                bodies.push(body);
            }
        }
        let mut arrivals = VecDeque::new();
        let results = verify_batch(unknown.clone(), seed);
        for ((result, signed), body) in results.into_iter().zip(unknown).zip(bodies) {
            let header = match result {
                Ok(header) => header,
                Err(error @ VerifyError::UnknownFormat { .. }) => {
                    if self
                        .waiting
                        .float_unknown(&signed.bytes, from, error.to_string())
                    {
                        received.floating += 1;
                    } else {
                        received.no_room += 1;
                    }
                    continue;
                }
                Err(error) => {
                    received.blame.push(Blame {
                        id: None,
                        reason: error.to_string(),
                    });
                    continue;
                }
            };
            let body = match body.map(|bytes| header.check_body(bytes)) {
                None => None,
                Some(Ok(body)) => Some(body),
                Some(Err(error)) => {
                    // The header may be sound; its body can come from somebody else.
                    received.blame.push(Blame {
                        id: Some(header.id()),
                        reason: error.to_string(),
                    });
                    None
                }
            };
            arrivals.push_back(Arrival { header, body, from });
        }
        Ok(arrivals)
    }

    /// Admits what can be admitted, and whatever that wakes.
    fn admit_all(
        &mut self,
        mut queue: VecDeque<Arrival>,
        now_ms: u64,
        received: &mut Received,
    ) -> Result<(), StorageError> {
        while let Some(arrival) = queue.pop_front() {
            let id = arrival.header.id();
            if dag::local_of(&self.core.kv, &id)?.is_some() {
                continue;
            }
            match admit::admit(&self.core.kv, &self.core.info, &arrival.header)? {
                Admission::Never(error) => {
                    received.blame.push(Blame {
                        id: Some(id),
                        reason: error.to_string(),
                    });
                    self.waiting.drop_for_ever(id);
                }
                Admission::Missing(missing) => {
                    if missing.iter().any(|name| self.waiting.was_dropped(name)) {
                        self.waiting.drop_for_ever(id);
                        received.blame.push(Blame {
                            id: Some(id),
                            reason: "it names an entry that can never be admitted".into(),
                        });
                    } else {
                        self.float(arrival, FloatReason::Missing(missing), received);
                    }
                }
                Admission::NotUnderstood(reason) => {
                    self.float(arrival, FloatReason::NotUnderstood(reason.into()), received);
                }
                Admission::Admitted => {
                    let horizon = now_ms.saturating_add(self.core.info.genesis.drift_ms);
                    let wall_ms = arrival.header.time.wall_ms;
                    if wall_ms > horizon {
                        let not_before = wall_ms - self.core.info.genesis.drift_ms;
                        if self.waiting.park(arrival, not_before) {
                            received.parked += 1;
                        } else {
                            received.no_room += 1;
                        }
                    } else if arrival.body.is_none() {
                        self.float(arrival, FloatReason::BodyMissing, received);
                    } else {
                        self.waiting.take(&id);
                        self.index(&arrival.header, arrival.body.as_ref(), now_ms, Vec::new())?;
                        self.due(&arrival.header)?;
                        received.witnessed.push(id);
                        queue.extend(self.waiting.woken_by(&id));
                    }
                }
            }
        }
        Ok(())
    }

    fn float(&mut self, arrival: Arrival, reason: FloatReason, received: &mut Received) {
        if self.waiting.float(arrival, reason) {
            received.floating += 1;
        } else {
            received.no_room += 1;
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
        let settled = self.core.settle(max_runs)?;
        self.settled = settled.pending == 0;
        if !self.core.notices.is_empty() {
            // A changed outcome is told durably.
            let now_ms = self.flushed_at_ms;
            self.commit(now_ms)?;
        }
        if self.core.kv.pending_rows() > OVERLAY_ROWS_MAX {
            let now_ms = self.flushed_at_ms;
            self.flush(now_ms)?;
        }
        self.publish_with(Some(&settled))?;
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
        self.flush_if_due(now_ms)?;
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
                .append(self.durable, &[], &[], Some(&record))?;
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
        self.core.kv.clear()?;
        self.core.roots = Roots::default();
        self.core.lengths = RangeLengths::default();
        self.core.answers = Answers::default();
        self.core.pasts.clear();
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

    fn flush_if_due(&mut self, now_ms: u64) -> Result<(), StorageError> {
        let old = now_ms.saturating_sub(self.flushed_at_ms) >= FLUSH_MS;
        if self.unflushed >= FLUSH_ENTRIES
            || (self.core.kv.pending_rows() > 0 && old)
            || self.core.kv.pending_rows() > OVERLAY_ROWS_MAX
        {
            self.flush(now_ms)?;
        }
        Ok(())
    }

    fn flush(&mut self, now_ms: u64) -> Result<(), StorageError> {
        assert!(
            self.durable == self.next && self.pending.is_empty(),
            "the state would run ahead of its log: {:?} > {:?}",
            self.next,
            self.durable
        );
        if self.core.kv.pending_rows() > 0 {
            self.save_marks();
            self.core.kv.flush()?;
        }
        self.unflushed = 0;
        self.flushed_at_ms = now_ms;
        Ok(())
    }

    fn save_marks(&mut self) {
        let kv = &mut self.core.kv;
        kv.put(ROOTS, self.core.roots.to_bytes());
        kv.put(LENGTHS, self.core.lengths.to_bytes());
        kv.put(INDEXED, self.next.0.to_be_bytes());
        kv.put(WITNESS, self.witness);
        let last = lattice_format::Position {
            time: self.last_time,
            id: IntentionId([0; 32]),
        };
        kv.put(LAST_TIME, last.to_bytes());
    }

    fn publish(&mut self) -> Result<(), StorageError> {
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
                record::due_count(&self.core.kv, Lane::System)?
                    + record::due_count(&self.core.kv, Lane::App)?,
                before.system_paused.clone(),
                before.app_paused.clone(),
            ),
        };
        let mut heads: Vec<IntentionId> = dag::heads(&self.core.kv)?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        heads.sort_unstable();
        self.published = Snapshot {
            info: self.core.info.clone(),
            engine: self.core.engine.clone(),
            kv: self.core.kv.view(),
            log: self.core.log.clone(),
            summary: Arc::new(Summary {
                count: self.next.0,
                applied: self.core.roots.applied_count,
                set: digests.applied,
                state_root: digests.state,
                outcome_root: digests.outcomes,
                pending,
                last_time: self.last_time,
                heads,
                system_paused,
                app_paused,
            }),
        };
        Ok(())
    }

    // --- for status and people -------------------------------------------------------------------

    /// What changed since the last call of this function.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.core.changes)
    }

    /// Entries that wait for something else.
    pub fn floating(&self) -> Vec<FloatingRow> {
        self.waiting.floating()
    }

    /// Entries that wait for their time.
    pub fn parked(&self) -> Vec<ParkedRow> {
        self.waiting.parked()
    }

    /// Unacknowledged notices by number, oldest first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn notices(&self) -> Result<Vec<(u64, Notice)>, StorageError> {
        self.core.log.notices()
    }

    /// Removes notices; tells how many there were.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn acknowledge(&mut self, numbers: &[u64]) -> Result<usize, StorageError> {
        let count = self.core.log.acknowledge(numbers)?;
        self.notice_count = self.notice_count.saturating_sub(count);
        Ok(count)
    }

    /// The last signed link of the witness chain.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn last_witness(&self) -> Result<Option<(LocalSeq, WitnessRecord)>, StorageError> {
        self.core.log.last_witness()
    }
}

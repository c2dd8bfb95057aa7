//! The three ways to a store: it is founded, adopted from a received genesis, or opened from its files.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lattice_format::{
    Body, BodyRef, ChainId, DeviceKey, Genesis, Header, Lane, Seq, SignedHeader, StoreId, Time,
    VerifiedHeader,
};

use crate::fold::core::{Changes, Core, Stopped, calls_of};
use crate::fold::cut_reads::CutReads;
use crate::fold::governance::Answers;
use crate::fold::progress::Progress;
use crate::graph::info::Info;
use crate::graph::lookup_cache::LookupCache;
use crate::graph::pending::ParkedByPeer;
use crate::graph::pending::Waiting;
use crate::graph::slot::Slot;
use crate::limits::OVERLAY_ROWS_MAX;
use crate::log::notice::Kept;
use crate::log::{Closes, Log, Noticed, Stored, lacks};
use crate::outcome::Outcome;
use crate::run::engine::{Engine, HostFault, Unserved};
use crate::state::fingerprints::Fingerprints;
use crate::storage::error::{LOG_REMEDY, StorageError, StoreFile};
use crate::storage::files::Files;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::Rows;
use crate::store::Store;
use crate::store::ahead::Ahead;
use crate::store::head_ids::HeadIds;
use crate::store::snapshot::{Snapshot, Summary};

/// The most runs that opening a store does itself. The rest of a longer replay is left to [`Store::settle`].
const OPEN_RUNS_MAX: u64 = 5_000;

/// The contents of a new store's first entry.
#[derive(Clone, Debug)]
pub struct NewStore {
    /// The genesis of the store.
    pub genesis: Genesis,
    /// Devices that are admitted besides the founder: the members of the parent store.
    pub admits: Vec<DeviceKey>,
    /// The founder's chain: 64 fresh random bits, which also make the store's id unique.
    pub chain: ChainId,
}

/// Why a store was not founded or adopted.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The files already hold a store.
    #[error("the files already hold {0} entries of a store")]
    NotEmpty(u64),
    /// The genesis breaks a rule of the format.
    #[error("the genesis: {0}")]
    Genesis(String),
    /// The `init` of a component did not succeed, so the store is not founded.
    #[error("init of the {lane} component ended with {outcome:?}")]
    Init {
        /// "governance" or "app".
        lane: &'static str,
        /// The outcome of `init`.
        outcome: Outcome,
    },
    /// This host could not run an `init`.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log holds no genesis.
    #[error(
        "the log holds no genesis: the store was never completed; remove its directory while no daemon runs"
    )]
    Empty,
    /// The disk failed, or a file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The least that a genesis may allow as the length of a body, in bytes.
const BODY_BYTES_LEAST: u32 = 1024;

impl Store {
    /// Founds a store: signs its genesis, runs both `init`s, and makes it durable.
    ///
    /// # Errors
    /// When the files are not empty, the genesis breaks a rule, an `init` does not run or does not succeed, or the disk
    /// fails. Unless the disk failed, nothing is in the log then.
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
        store.run_genesis_now()?;
        store.commit_batch(now_ms)?;
        store.flush(now_ms)?;
        Ok(store)
    }

    /// Starts a replica from a received genesis. The caller has compared its id with the one that it asked for. The
    /// `init` of a component that is not on this node stays due.
    ///
    /// # Errors
    /// When the bytes are no genesis, the files are not empty, or the disk fails.
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
        let slot = Slot::of(store.core.info.position);
        let lanes: &[Lane] = match store.core.info.genesis.app {
            Some(_) => &[Lane::System, Lane::App],
            None => &[Lane::System],
        };
        for lane in lanes {
            store
                .core
                .progress
                .due
                .set(&mut store.core.rows, *lane, slot)?;
        }
        store.commit_batch(now_ms)?;
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
        if genesis.limits.body_bytes < BODY_BYTES_LEAST {
            return Err(CreateError::Genesis(format!(
                "it allows bodies of {} bytes, and {BODY_BYTES_LEAST} are the least",
                genesis.limits.body_bytes
            )));
        }
        if header.body.len > genesis.limits.body_bytes {
            return Err(CreateError::Genesis(format!(
                "its body has {} bytes, and it allows {}",
                header.body.len, genesis.limits.body_bytes
            )));
        }
        let log = Log::open(files.log, files.segment_bytes)?;
        let count = log.len()?;
        if count != 0 {
            return Err(CreateError::NotEmpty(count));
        }
        let info = Arc::new(Info {
            id: StoreId::from(header.id()),
            genesis,
            position: header.position(),
        });
        let mut store = Self::assemble(log, Rows::open(files.state)?, engine, key, info, now_ms)?;
        store.insert(&header, Some(&body), now_ms, Vec::new())?;
        Ok(store)
    }

    fn run_genesis_now(&mut self) -> Result<(), CreateError> {
        let header = self.pending[0].header.clone();
        let stored = Stored {
            local: LocalSeq(0),
            header: header.clone(),
            body: None,
            received_ms: 0,
        };
        let slot = Slot::of(self.core.info.position);
        let lanes: &[(Lane, &str)] = match self.core.info.genesis.app {
            Some(_) => &[(Lane::System, "governance"), (Lane::App, "app")],
            None => &[(Lane::System, "governance")],
        };
        for (lane, name) in lanes {
            let failed = |stopped| match stopped {
                Stopped::Fault(fault) => CreateError::Host(fault),
                Stopped::Storage(error) => CreateError::Storage(error),
            };
            let mut effects = self
                .core
                .run_genesis(*lane, slot, &stored)
                .map_err(failed)?;
            if let Some(outcome) = effects.outcomes.iter().find(|o| !o.is_ok()) {
                return Err(CreateError::Init {
                    lane: name,
                    outcome: outcome.clone(),
                });
            }
            self.core.account(*lane, &header, LocalSeq(0), &mut effects);
            effects.calls = calls_of(*lane, &header, 1);
            self.core.install(*lane, slot, LocalSeq(0), effects)?;
        }
        Ok(())
    }

    /// Opens a store, and replays the entries of the log that the derived state does not cover.
    ///
    /// # Errors
    /// When the log has no genesis, the disk fails, a file is damaged, or the derived state does not fit the log.
    pub fn open(
        files: Files,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let log = Log::open(files.log, files.segment_bytes)?;
        let count = log.len()?;
        let first = log.genesis()?.ok_or(OpenError::Empty)?;
        let body = first
            .body
            .as_deref()
            .and_then(|bytes| Body::decode(bytes).ok())
            .and_then(|body| body.genesis);
        let (true, Some(genesis)) = (first.header.is_genesis(), body) else {
            let what = "what it keeps as genesis is another kind of entry";
            return Err(StorageError::damaged(StoreFile::Log, what).into());
        };
        let info = Arc::new(Info {
            id: StoreId::from(first.header.id()),
            genesis,
            position: first.header.position(),
        });
        let rows = Rows::open(files.state)?;
        let mut store = Self::assemble(log, rows, engine, key, info, now_ms)?;
        if store.core.progress.next.0 > count {
            // The log was restored from a backup, so the state was derived from entries that the log lacks.
            let why = format_args!(
                "it knows {} entries, and the log only {count}: if the log was restored from a backup, remove state.redb while no daemon runs",
                store.core.progress.next.0
            );
            return Err(StorageError::unusable(StoreFile::State, why).into());
        }
        let base = store.core.log.base()?;
        if store.core.progress.next.0 < base {
            let why = format_args!(
                "it begins with entry {base}, and state.redb knows only {} entries; {LOG_REMEDY}",
                store.core.progress.next.0
            );
            return Err(StorageError::unusable(StoreFile::Log, why).into());
        }
        let behind_from = store.core.progress.next;
        let behind = store.core.progress.next.0 < count || store.core.progress.due.total() > 0;
        store.replay(count)?;
        store.durable = store.core.progress.next;
        store.settle(OPEN_RUNS_MAX)?;
        if behind {
            store.core.notice_stale_notices(behind_from)?;
            store.commit_batch(now_ms)?;
        }
        Ok(store)
    }

    /// Inserts the entries of the log that the derived state does not cover, up to number `count`, and marks their runs
    /// as due.
    pub(crate) fn replay(&mut self, count: u64) -> Result<(), StorageError> {
        while self.core.progress.next.0 < count {
            let entries = self.core.log.entries(self.core.progress.next, 256)?;
            if entries.is_empty() {
                return Err(lacks(self.core.progress.next));
            }
            for stored in entries {
                if stored.local != self.core.progress.next {
                    let what = format_args!(
                        "entry {} follows where {} should",
                        stored.local.0, self.core.progress.next.0
                    );
                    return Err(StorageError::damaged(StoreFile::Log, what));
                }
                self.insert_logged(&stored.header, stored.received_ms)?;
                self.due(&stored.header)?;
                if self.core.fingerprints.is_full() {
                    self.core.fingerprints.follow(&mut self.core.rows)?;
                }
                if self.core.rows.pending_rows() > OVERLAY_ROWS_MAX {
                    self.core.fingerprints.follow(&mut self.core.rows)?;
                    self.core.progress.save(&mut self.core.rows);
                    self.core.rows.flush()?;
                }
            }
        }
        // These notices were raised when the entries arrived. Deriving the entries again raises no new ones.
        self.core.notices.clear();
        Ok(())
    }

    pub(crate) fn due(&mut self, header: &VerifiedHeader) -> Result<(), StorageError> {
        let local = LocalSeq(self.core.progress.next.0 - 1);
        let slot = Slot::of(header.position());
        let core = &mut self.core;
        if local.0 == 0 {
            core.progress.due.set(&mut core.rows, Lane::System, slot)?;
            if core.info.genesis.app.is_some() {
                core.progress.due.set(&mut core.rows, Lane::App, slot)?;
            }
        } else {
            core.progress.due.set(&mut core.rows, header.lane, slot)?;
        }
        self.core.judge_new(&header.author, local)
    }

    fn assemble(
        log: Log,
        rows: Rows,
        engine: Arc<dyn Engine>,
        key: SigningKey,
        info: Arc<Info>,
        now_ms: u64,
    ) -> Result<Self, StorageError> {
        let profile = info.genesis.profile;
        let engine = if engine.serves(profile) {
            engine
        } else {
            Arc::new(Unserved(profile))
        };
        let author = DeviceKey(key.verifying_key().to_bytes());
        let progress = Progress::load(&rows, info.id)?;
        let digests = progress.roots.digests();
        let kept_notices = Kept::of(&log.notices()?);
        let cache = LookupCache::of(&rows)?;
        let published = Snapshot {
            info: info.clone(),
            engine: engine.clone(),
            rows: rows.view(),
            log: log.clone(),
            names: cache.names.clone(),
            any_void: cache.any_void,
            parked: ParkedByPeer::default(),
            summary: Arc::new(Summary {
                count: 0,
                applied: 0,
                set: digests.applied,
                state_root: digests.state,
                outcome_root: digests.outcomes,
                void: 0,
                pending: 0,
                last_time: progress.last_time,
                replays: Arc::default(),
                heads: HeadIds::default(),
                forks: progress.forks,
                system_paused: None,
                app_paused: None,
            }),
            derived: Arc::default(),
        };
        let durable = progress.next;
        let closes = Closes(log.clone());
        let core = Core {
            rows,
            log,
            engine,
            info,
            progress,
            answers: Answers::default(),
            cut_reads: CutReads::default(),
            cache,
            fingerprints: Fingerprints::default(),
            changes: Changes::default(),
            notices: Vec::new(),
            noticed: Noticed::new(),
            replays: Arc::default(),
            me: author,
            paused: [None, None],
        };
        Ok(Self {
            core,
            key,
            author,
            open: None,
            left_chain: None,
            durable,
            pending: Vec::new(),
            waiting: Waiting::default(),
            flushed_at_ms: now_ms,
            witnessed_at_ms: now_ms,
            kept_notices,
            published,
            undo: None,
            ahead: Ahead::default(),
            unsigned: None,
            unsure: Vec::new(),
            broken: None,
            _closes: closes,
        })
    }
}

//! A node of the tests: real kernel stores in memory, the model engine, a real endpoint on loopback.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lattice_format::{
    BlobId, Call, ChainId, ComponentId, DeviceKey, IntentionId, Lane, Limits, SignedHeader, StoreId,
};
use lattice_kernel::blob::BlobStore;
use lattice_kernel::clock::Reading;
use lattice_kernel::run::Run;
use lattice_kernel::run::engine::{Answer, AskError, Engine, HostFault, Instance, Question, Role};
use lattice_kernel::{BatchVerifier, NewStore, Received, Snapshot, Store};
use lattice_net::{
    Claim, ClaimRefusal, DeliverError, Entries, Governance, InviteState, JoinHost, JoinPhase, Net,
    NetConfig, NetEvent, NetHost, PeerAddr, Timings,
};
use lattice_testing::{self as testing, ModelEngine, Step, program};

/// How an invite was made.
#[derive(Clone, Debug)]
pub struct Invite {
    pub expires_ms: u64,
    pub uses: u32,
    pub used: u32,
    pub cancelled: bool,
}

struct Row {
    store: Mutex<Store>,
    snapshot: Mutex<Snapshot>,
    governance: Mutex<Option<Arc<Governance>>>,
}

/// The host around one network.
pub struct Host {
    pub number: u8,
    stores: Mutex<HashMap<StoreId, Arc<Row>>>,
    pub invites: Mutex<HashMap<(StoreId, DeviceKey), Invite>>,
    pub blobs: Arc<BlobStore>,
    _dir: tempfile::TempDir,
    pub events: Mutex<Vec<NetEvent>>,
    pub phases: Mutex<Vec<JoinPhase>>,
    /// The model components need no bytes.
    pub built_in: std::sync::atomic::AtomicBool,
    /// Stores whose writer refuses to take anything.
    pub stuck: Mutex<HashSet<StoreId>>,
    net: OnceLock<Weak<Net>>,
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    since.as_millis() as u64
}

impl Host {
    fn row(&self, store: &StoreId) -> Option<Arc<Row>> {
        self.stores.lock().unwrap().get(store).cloned()
    }

    fn insert(&self, store: Store) -> StoreId {
        let id = store.id();
        let row = Arc::new(Row {
            snapshot: Mutex::new(store.snapshot()),
            governance: Mutex::default(),
            store: Mutex::new(store),
        });
        self.refresh(&row);
        self.stores.lock().unwrap().insert(id, row);
        id
    }

    fn refresh(&self, row: &Row) {
        let snapshot = row.store.lock().unwrap().snapshot();
        let read = Governance::read(&snapshot).ok().map(Arc::new);
        let mut governance = row.governance.lock().unwrap();
        let is_same = match (governance.as_deref(), read.as_deref()) {
            (Some(known), Some(read)) => known.is_same(read),
            (known, read) => known.is_none() && read.is_none(),
        };
        if !is_same {
            *governance = read;
        }
        *row.snapshot.lock().unwrap() = snapshot;
    }

    /// Runs calls and commits them; the ids of the intentions.
    pub fn call(&self, store: &StoreId, lane: Lane, calls: Vec<Call>) -> Vec<IntentionId> {
        let row = self.row(store).unwrap();
        let written: Vec<_> = {
            let mut store = row.store.lock().unwrap();
            let chain = ChainId(u64::from(self.number) + 1);
            let told = store.call(lane, calls, now_ms(), chain).unwrap();
            assert!(told.outcome.is_ok(), "{:?}", told.outcome);
            store
                .commit(now_ms())
                .unwrap()
                .iter()
                .map(|h| h.id())
                .collect()
        };
        self.refresh(&row);
        if let Some(net) = self.net.get().and_then(Weak::upgrade) {
            net.changed(store, &written);
        }
        written
    }
}

impl NetHost for Host {
    fn reading(&self) -> Reading {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Reading {
            wall_ms: now_ms(),
            elapsed_ms: BEGAN.elapsed().as_millis() as u64,
        }
    }

    fn stores(&self) -> Vec<StoreId> {
        self.stores.lock().unwrap().keys().copied().collect()
    }

    fn snapshot(&self, store: &StoreId) -> Option<Snapshot> {
        Some(self.row(store)?.snapshot.lock().unwrap().clone())
    }

    fn governance(&self, store: &StoreId) -> Option<Arc<Governance>> {
        self.row(store)?.governance.lock().unwrap().clone()
    }

    fn deliver(
        &self,
        store: StoreId,
        from: DeviceKey,
        entries: Entries,
    ) -> BoxFuture<'static, Result<Received, DeliverError>> {
        let error = |reason: &str| DeliverError {
            reason: reason.into(),
        };
        if self.stuck.lock().unwrap().contains(&store) {
            return async move { Err(error("stuck")) }.boxed();
        }
        let Some(row) = self.row(&store) else {
            return async move { Err(error("gone")) }.boxed();
        };
        let received = {
            let mut store = row.store.lock().unwrap();
            let received = store
                .receive(from, entries, now_ms(), BatchVerifier([7; 32]))
                .unwrap();
            while store.settle(1000).unwrap().pending > 0 {}
            received
        };
        self.refresh(&row);
        if let Some(net) = self.net.get().and_then(Weak::upgrade) {
            net.changed(&store, &[]);
        }
        async move { Ok(received) }.boxed()
    }

    fn invite(
        &self,
        store: StoreId,
        invite: DeviceKey,
    ) -> BoxFuture<'static, Result<InviteState, DeliverError>> {
        let state = match self.invites.lock().unwrap().get(&(store, invite)) {
            None => InviteState::Unknown,
            Some(row) if row.cancelled => InviteState::Cancelled,
            Some(row) if row.expires_ms <= now_ms() => InviteState::Expired {
                at_ms: row.expires_ms,
            },
            Some(row) if row.used >= row.uses => InviteState::Spent { uses: row.uses },
            Some(_) => InviteState::Open,
        };
        async move { Ok(state) }.boxed()
    }

    fn claim(&self, store: StoreId, claim: Claim) -> BoxFuture<'static, Result<(), ClaimRefusal>> {
        self.invites
            .lock()
            .unwrap()
            .get_mut(&(store, claim.invite))
            .unwrap()
            .used += 1;
        self.call(
            &store,
            Lane::System,
            vec![testing::admit(claim.device, Role::Writer)],
        );
        async move { Ok(()) }.boxed()
    }

    fn blobs(&self) -> Arc<BlobStore> {
        self.blobs.clone()
    }

    fn event(&self, event: NetEvent) {
        self.events.lock().unwrap().push(event);
    }
}

impl JoinHost for Host {
    fn has_store(&self, store: &StoreId) -> bool {
        self.row(store).is_some()
    }

    fn has_component(&self, store: &StoreId, component: &ComponentId) -> bool {
        let built_in = self.built_in.load(std::sync::atomic::Ordering::Relaxed);
        built_in || self.blobs.has(*store, BlobId::from(*component)).unwrap()
    }

    fn install_component(
        &self,
        store: StoreId,
        component: ComponentId,
    ) -> BoxFuture<'_, Result<(), String>> {
        let read = self.blobs.read(store, BlobId::from(component)).unwrap();
        async move { read.map(|_| ()).ok_or_else(|| "it is not here".to_owned()) }.boxed()
    }

    fn adopt(
        &self,
        store: StoreId,
        signed: SignedHeader,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), String>> {
        if !self.has_store(&store) {
            let decoded = lattice_format::Body::decode(&body).unwrap();
            let governance = decoded.genesis.unwrap().system.id;
            let adopted = Store::adopt(
                testing::memory_files(),
                Arc::new(AnyCode { governance }),
                testing::key(self.number),
                (signed, body),
                now_ms(),
            )
            .unwrap();
            assert_eq!(self.insert(adopted), store);
        }
        async { Ok(()) }.boxed()
    }

    fn is_ready(&self, store: &StoreId) -> bool {
        let me = testing::device(self.number);
        let member = self
            .governance(store)
            .is_some_and(|g| g.member(&me).is_some());
        member
            && self
                .snapshot(store)
                .is_some_and(|s| s.summary().pending == 0)
    }

    fn progress(&self, phase: JoinPhase) {
        self.phases.lock().unwrap().push(phase);
    }
}

/// The model engine, which takes this component for the model governance, and every other for the model program.
#[derive(Clone, Copy, Debug)]
struct AnyCode {
    governance: ComponentId,
}

impl AnyCode {
    fn map(&self, component: &ComponentId) -> ComponentId {
        if *component == self.governance {
            testing::GOVERNANCE
        } else {
            testing::APP
        }
    }
}

impl Engine for AnyCode {
    fn serves(&self, profile: u32) -> bool {
        ModelEngine.serves(profile)
    }

    fn ready(&self, component: &ComponentId) -> Result<(), HostFault> {
        ModelEngine.ready(&self.map(component))
    }

    fn instantiate(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        ModelEngine.instantiate(&self.map(component), limits, run)
    }

    fn ask(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        ModelEngine.ask(&self.map(component), limits, run, question)
    }
}

/// A host with its network.
pub struct Node {
    pub host: Arc<Host>,
    pub net: Arc<Net>,
}

impl Node {
    /// Device `number`, on a free port of loopback, with short times.
    pub async fn start(number: u8) -> Self {
        Self::with(number, Vec::new(), Timings::quick(), Vec::new()).await
    }

    /// The same, with stores, times and known peers.
    pub async fn with(
        number: u8,
        stores: Vec<Store>,
        timings: Timings,
        known: Vec<PeerAddr>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(Host {
            number,
            stores: Mutex::default(),
            invites: Mutex::default(),
            blobs: Arc::new(BlobStore::open(dir.path()).unwrap()),
            _dir: dir,
            events: Mutex::default(),
            phases: Mutex::default(),
            built_in: Default::default(),
            stuck: Mutex::default(),
            net: OnceLock::new(),
        });
        for store in stores {
            host.insert(store);
        }
        let bind = "127.0.0.1:0".parse().unwrap();
        let config = NetConfig {
            timings,
            known,
            ..NetConfig::local(testing::key(number), bind)
        };
        let net = Arc::new(Net::start(config, host.clone()).await.unwrap());
        host.net.set(Arc::downgrade(&net)).ok().unwrap();
        Self { host, net }
    }

    /// This node's device.
    pub fn device(&self) -> DeviceKey {
        self.net.device()
    }

    /// Founds a store of the model components here.
    pub fn found(&self) -> StoreId {
        let id = self.host.insert(testing::found(self.host.number, now_ms()));
        self.net.store_added(id);
        id
    }

    /// Founds a store whose program has that id.
    pub fn found_with(&self, app: ComponentId) -> StoreId {
        self.found_with_code(testing::GOVERNANCE, app)
    }

    /// Founds a store whose governance and program have these ids.
    pub fn found_with_code(&self, governance: ComponentId, app: ComponentId) -> StoreId {
        let mut genesis = testing::genesis();
        genesis.system.id = governance;
        genesis.app.as_mut().unwrap().id = app;
        let spec = NewStore {
            genesis,
            admits: Vec::new(),
            chain: ChainId(77),
        };
        let key = testing::key(self.host.number);
        let store = Store::create(
            testing::memory_files(),
            Arc::new(AnyCode { governance }),
            key,
            spec,
            now_ms(),
        )
        .unwrap();
        let id = self.host.insert(store);
        self.net.store_added(id);
        id
    }

    /// Adopts a store of another node, as a join does.
    pub fn adopt_from(&self, other: &Self, store: &StoreId) {
        let genesis = other
            .snapshot(store)
            .entry_at(lattice_kernel::LocalSeq(0))
            .unwrap()
            .unwrap();
        let body = genesis.body.unwrap().to_vec();
        JoinHost::adopt(&*self.host, *store, genesis.header.signed().clone(), body)
            .now_or_never()
            .unwrap()
            .unwrap();
        self.net.store_added(*store);
    }

    /// Admits devices.
    pub fn admit(&self, store: &StoreId, devices: &[DeviceKey]) {
        for device in devices {
            self.host.call(
                store,
                Lane::System,
                vec![testing::admit(*device, Role::Writer)],
            );
        }
    }

    /// Writes some entry of the system lane.
    pub fn put_system(&self, store: &StoreId) -> IntentionId {
        let call = testing::admit(testing::device(10), Role::Reader);
        self.host.call(store, Lane::System, vec![call])[0]
    }

    /// Admits a device with a role.
    pub fn admit_as(&self, store: &StoreId, device: DeviceKey, role: Role) {
        self.host
            .call(store, Lane::System, vec![testing::admit(device, role)]);
    }

    /// Writes one value of the model program.
    pub fn put(&self, store: &StoreId, value: u8) -> IntentionId {
        let step = Step::Put {
            k: value % testing::KEYS,
            dynamic: false,
            value,
        };
        self.host.call(store, Lane::App, vec![program(&[step])])[0]
    }

    pub fn snapshot(&self, store: &StoreId) -> Snapshot {
        self.host.snapshot(store).unwrap()
    }

    pub fn count(&self, store: &StoreId) -> u64 {
        self.host.snapshot(store).map_or(0, |s| s.summary().count)
    }

    pub fn has(&self, store: &StoreId, id: &IntentionId) -> bool {
        self.host
            .snapshot(store)
            .is_some_and(|s| s.contains(id).unwrap())
    }

    pub fn events(&self, wanted: impl Fn(&NetEvent) -> bool) -> usize {
        self.host
            .events
            .lock()
            .unwrap()
            .iter()
            .filter(|e| wanted(e))
            .count()
    }
}

/// Waits until `condition` holds, at most 20 s.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "not within 20 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until all nodes hold the same entries and roots of a store.
pub async fn equal(nodes: &[&Node], store: &StoreId) {
    until("the nodes are equal", || {
        let mut all = nodes.iter().map(|n| {
            n.host.snapshot(store).map(|s| {
                let s = s.summary().clone();
                (s.set, s.state_root, s.outcome_root, s.pending)
            })
        });
        let first = all.next().unwrap();
        first.as_ref().is_some_and(|f| f.3 == 0) && all.all(|other| other == first)
    })
    .await;
}

/// Two nodes that share a store and know where the other is.
pub async fn pair() -> (Node, Node, StoreId) {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let store = a.found();
    a.admit(&store, &[b.device()]);
    b.adopt_from(&a, &store);
    a.net.add_peer(&b.net.address());
    b.net.add_peer(&a.net.address());
    (a, b, store)
}

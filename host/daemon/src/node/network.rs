//! The node's side of the network: how it is started, and what it asks of the node.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use lattice_format::{Call, ComponentId, DeviceKey, Lane, StoreId};
use lattice_kernel::blob::BlobStore;
use lattice_kernel::clock::Reading;
use lattice_kernel::run::engine::{CallEnd, HostFault, MemberStatus, Role};
use lattice_kernel::{Outcome, Received, Snapshot};
use lattice_net::{
    Claim, ClaimRefusal, DeliverError, Entries, Governance, InviteState, Net, NetConfig, NetEvent,
    NetHost, PeerAddr, Timings,
};
use lattice_runtime::limits::COMPONENT_BYTES_MAX;
use lattice_runtime::values::{Type, Value, cbor};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

use crate::Ways;
use crate::api::failure::Failure;
use crate::join;
use crate::limits::{FETCH_PAUSE, PEER_ADDRESSES_MAX, PEER_EVENTS_QUEUE};
use crate::member;
use crate::node::clock::Clock;
use crate::node::copies;
use crate::node::home::OpenError;
use crate::node::lookup;
use crate::node::panics;
use crate::node::records::PeerRecord;
use crate::node::{Node, Slot};
use crate::plugin::blob;
use crate::store::OpenStore;
use crate::store::call;

/// The interface of the queries of governance.
const QUERIES: &str = "lattice:system/queries";
const INVITE_OF: &str = "invite-of";

/// The options of a node's network.
#[derive(Clone, Debug)]
pub(crate) struct NetOptions {
    /// The UDP socket to listen on; `None` for all interfaces.
    pub(crate) bind: Option<SocketAddr>,
    /// By which ways peers are found.
    pub(crate) ways: Ways,
}

/// Starts the network of a node.
///
/// # Errors
/// When the records of peers cannot be read, or the network does not start.
pub(crate) async fn start(node: &Arc<Node>, options: &NetOptions) -> Result<(), OpenError> {
    let known = node
        .records
        .peers()
        .map_err(|error| OpenError::Unreadable {
            path: node.home.records(),
            reason: error.to_string(),
        })?;
    let known = known
        .into_iter()
        .map(|(device, record)| PeerAddr {
            device,
            addresses: record
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            relay: None,
        })
        .collect();
    let config = NetConfig {
        key: node.key.clone(),
        bind: options.bind,
        relay: options.ways.relay,
        discovery: options.ways.discovery,
        mdns: options.ways.mdns,
        known,
        timings: Timings::default(),
    };
    let (host, seen_end) = Host::of(node);
    let net = Net::start(config, Arc::new(host))
        .await
        .map_err(|error| OpenError::Network(error.to_string()))?;
    node.set_net(net, options.ways);
    panics::spawn(keep_addresses(node.handle(), seen_end), |said| {
        tracing::error!("addresses of peers are not written down any more: a panic: {said}");
    });
    Ok(())
}

/// Records the addresses at which peers were reached, so that the network's own tasks do not wait for the disk.
async fn keep_addresses(node: Weak<Node>, mut seen: Seen) {
    while let Some((peer, addresses)) = seen.recv().await {
        let Some(node) = node.upgrade() else { return };
        let record = PeerRecord {
            addresses: addresses
                .iter()
                .take(PEER_ADDRESSES_MAX)
                .map(ToString::to_string)
                .collect(),
            last_seen_ms: node.clock.now_ms(),
        };
        let written = tokio::task::spawn_blocking(move || node.records.put_peer(&peer, &record));
        if let Ok(Err(error)) = written.await {
            tracing::warn!("{error}");
        }
    }
}

/// Starts the tasks of a node with a network: joins go on, stores are opened for peers, missing components are fetched.
pub(crate) fn start_tasks(node: &Arc<Node>) {
    join::resume_joins(node);
    let handle = node.clone();
    tokio::task::spawn_blocking(move || {
        for slot in handle.slots() {
            if *handle.closing().borrow() {
                return;
            }
            if slot.record().joining.is_some() {
                continue;
            }
            // A store that was opened already may rest.
            let opened = match slot.known() {
                Some(_) => Ok(()),
                None => handle.open_slot(&slot).map(drop),
            };
            match opened {
                Ok(()) => {
                    if let Some(net) = handle.net() {
                        net.store_added(slot.id);
                    }
                }
                Err(failure) => tracing::error!(store = %slot.id, "{failure}"),
            }
        }
    });
    panics::spawn(fetch_missing(node.handle()), |said| {
        tracing::error!("missing components are not fetched any more: a panic: {said}");
    });
}

/// Fetches the components that paused stores lack, again and again until the node ends.
async fn fetch_missing(node: Weak<Node>) {
    loop {
        tokio::time::sleep(FETCH_PAUSE).await;
        let Some(node) = node.upgrade() else { return };
        if *node.closing().borrow() {
            return;
        }
        for slot in node.slots() {
            let Some(store) = slot.opened() else { continue };
            let published = store.published();
            // A store whose entries all have run may lack what the next call needs.
            let lacks = || lookup::lacks(&node, &published.snapshot);
            let Some(HostFault::MissingCode(component)) = published.paused.clone().or_else(lacks)
            else {
                if !slot.remedy().is_empty() {
                    slot.set_remedy(String::new());
                }
                continue;
            };
            slot.set_remedy("it is being fetched from the members that are connected".into());
            if let Err(reason) = bring(&node, &slot, component).await {
                slot.set_remedy(format!("fetching it failed: {reason}; it is tried again"));
            }
        }
    }
}

/// Fetches the bytes of a component from the members of a store.
///
/// # Errors
/// The reason, in one line.
pub(crate) async fn fetch_bytes(
    node: &Node,
    slot: &Slot,
    component: ComponentId,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<u8>, String> {
    let net = node.net().ok_or("no network runs here")?;
    let id = blob::of(&component);
    net.fetch_blob(slot.id, id, COMPONENT_BYTES_MAX as u64, progress)
        .await
        .map_err(|error| error.to_string())?;
    let bytes = node
        .blobs
        .read(slot.id, id)
        .map_err(|error| error.to_string())?;
    bytes.ok_or_else(|| "it did not arrive".into())
}

/// Makes a component that a paused store lacks ready: it is on this node already, or is fetched from the members.
///
/// # Errors
/// The reason, in one line.
async fn bring(node: &Arc<Node>, slot: &Arc<Slot>, component: ComponentId) -> Result<(), String> {
    let bytes = match node.components.contains(&component) {
        true => None,
        false => Some(fetch_bytes(node, slot, component, &|_, _| {}).await?),
    };
    let (handle, slot) = (node.clone(), slot.clone());
    let brought = tokio::task::spawn_blocking(move || {
        if let Some(bytes) = bytes {
            handle.components.install(&bytes)?;
        }
        handle.components.make_ready(&component)?;
        blob::own_components(&handle, &slot.id, &[component])?;
        handle.code_arrived();
        Ok::<_, Failure>(())
    });
    let brought = brought.await.map_err(|error| error.to_string())?;
    brought.map_err(|failure| failure.to_string())
}

/// The node, for its network.
struct Host {
    node: Weak<Node>,
    clock: Clock,
    blobs: Arc<BlobStore>,
    seen: mpsc::Sender<(DeviceKey, Vec<SocketAddr>)>,
}

/// Addresses of peers that wait to be recorded.
type Seen = mpsc::Receiver<(DeviceKey, Vec<SocketAddr>)>;

impl Host {
    fn of(node: &Arc<Node>) -> (Self, Seen) {
        let (seen, seen_end) = mpsc::channel(PEER_EVENTS_QUEUE);
        let host = Self {
            clock: node.clock,
            node: node.handle(),
            blobs: node.blobs.clone(),
            seen,
        };
        (host, seen_end)
    }
}

fn unreachable(reason: impl Into<String>) -> DeliverError {
    DeliverError {
        reason: reason.into(),
    }
}

impl Host {
    fn slot(&self, store: &StoreId) -> Option<(Arc<Node>, Arc<Slot>)> {
        let node = self.node.upgrade()?;
        let slot = node.slot(store)?;
        Some((node, slot))
    }

    /// A store that is open, or was and rests: that one opens.
    fn open(&self, store: &StoreId) -> Option<Arc<OpenStore>> {
        let (node, slot) = self.slot(store)?;
        if let Some(open) = slot.opened() {
            return Some(open);
        }
        if !slot.is_resting() {
            return None;
        }
        let open = || node.open_slot(&slot).ok();
        match Handle::current().runtime_flavor() {
            // Other tasks of this thread go on elsewhere.
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(open),
            _ => open(),
        }
    }
}

impl NetHost for Host {
    fn reading(&self) -> Reading {
        self.clock.reading()
    }

    fn stores(&self) -> Vec<StoreId> {
        let Some(node) = self.node.upgrade() else {
            return Vec::new();
        };
        let open = node
            .slots()
            .into_iter()
            .filter(|slot| slot.known().is_some());
        open.map(|slot| slot.id).collect()
    }

    fn snapshot(&self, store: &StoreId) -> Option<Snapshot> {
        Some(self.open(store)?.snapshot())
    }

    fn is_opening(&self, store: &StoreId) -> bool {
        self.slot(store).is_some_and(|(_, slot)| {
            let is_joining = slot.record().joining.is_some();
            let is_broken = slot.broken.lock().expect("no holder panics").is_some();
            slot.known().is_none() && !is_joining && !is_broken
        })
    }

    fn serves(&self, store: &StoreId) -> bool {
        let found = self.slot(store);
        found.is_some_and(|(_, slot)| slot.opened().is_some() || slot.is_resting())
    }

    fn rests(&self, store: &StoreId) -> bool {
        self.slot(store).is_some_and(|(_, slot)| slot.is_resting())
    }

    fn governance(&self, store: &StoreId) -> Option<Arc<Governance>> {
        self.slot(store)?.1.governance()
    }

    fn deliver(
        &self,
        store: StoreId,
        from: DeviceKey,
        entries: Entries,
    ) -> BoxFuture<'static, Result<Received, DeliverError>> {
        let open = self.open(&store);
        if let Some((_, slot)) = self.slot(&store) {
            slot.in_use();
        }
        let node = self.node.upgrade();
        Box::pin(async move {
            let open = open.ok_or_else(|| unreachable("the store is not open"))?;
            if let Some(node) = node {
                copies::look(&node, store, &entries, &open.snapshot());
            }
            let received = open.receive(from, entries).await;
            received.map_err(|failure| unreachable(failure.to_string()))
        })
    }

    fn invite(
        &self,
        store: StoreId,
        invite: DeviceKey,
    ) -> BoxFuture<'static, Result<InviteState, DeliverError>> {
        let found = self.slot(&store);
        Box::pin(async move {
            let (node, slot) = found.ok_or_else(|| unreachable("there is no such store"))?;
            invite_state(&node, &slot, &invite)
                .await
                .map_err(unreachable)
        })
    }

    fn claim(&self, store: StoreId, claim: Claim) -> BoxFuture<'static, Result<(), ClaimRefusal>> {
        let found = self.slot(&store);
        Box::pin(async move {
            let (node, slot) =
                found.ok_or_else(|| ClaimRefusal::NotHere("there is no such store".into()))?;
            admit(&node, &slot, claim).await
        })
    }

    fn blobs(&self) -> Arc<BlobStore> {
        self.blobs.clone()
    }

    fn event(&self, event: NetEvent) {
        match event {
            NetEvent::Addresses { peer, addresses } => {
                // If the queue is full, the addresses come again with the next connection.
                let _ = self.seen.try_send((peer, addresses));
            }
            NetEvent::KeyElsewhere { addresses } => {
                if let Some(node) = self.node.upgrade() {
                    // The notice is written, which may take long.
                    tokio::task::spawn_blocking(move || {
                        copies::tell(&node, &copies::Sign::Elsewhere(addresses));
                    });
                }
            }
            NetEvent::PeerUp { peer } => tracing::debug!(%peer, "connected"),
            NetEvent::PeerDown { peer, reason } => tracing::debug!(%peer, reason, "disconnected"),
            NetEvent::InSync { store, peer } => tracing::debug!(%store, %peer, "in sync"),
            // What lies ahead may be this device's, and its writer tells the person so.
            NetEvent::Parks { store, .. } => {
                if let Some(open) = self.open(&store) {
                    open.wake();
                }
            }
            // The network itself writes misbehaviour to the log of the process.
            NetEvent::Misbehaviour { .. } => {}
        }
    }
}

/// Appends the admission that a claim asks for.
async fn admit(node: &Arc<Node>, slot: &Arc<Slot>, claim: Claim) -> Result<(), ClaimRefusal> {
    let not_here = |reason: String| ClaimRefusal::NotHere(reason);
    let governance = slot
        .governance()
        .ok_or_else(|| not_here("governance cannot be asked".into()))?;
    match governance.member(&claim.device).map(|member| member.status) {
        // An earlier claim of this device was interrupted after its admission.
        Some(MemberStatus::Active) => return Ok(()),
        Some(_) => return Err(ClaimRefusal::AdmittedBefore),
        None => {}
    }
    let store = call::running(node, slot)
        .await
        .map_err(|failure| not_here(failure.to_string()))?;
    let (outcome, text) = member::claim(node, slot, &store, &claim)
        .await
        .map_err(|failure| not_here(failure.to_string()))?;
    match outcome {
        Outcome::Ok(_) => Ok(()),
        Outcome::Unauthorized { .. } => Err(not_here("this node may not admit anybody".into())),
        Outcome::Refused { .. } => match invite_state(node, slot, &claim.invite).await {
            Ok(InviteState::Open) | Err(_) => Err(ClaimRefusal::Refused(text)),
            Ok(state) => Err(ClaimRefusal::Invite(state)),
        },
        Outcome::Trapped { kind, .. } => Err(ClaimRefusal::Refused(format!(
            "governance trapped ({kind})"
        ))),
    }
}

/// A field of an invite, found by its name, so that the order of the fields may change.
fn field<'a>(ty: &Type, row: &'a Value, name: &str) -> Option<&'a Value> {
    let (Type::Record(record), Value::Record(values)) = (ty, row) else {
        return None;
    };
    let place = record.fields.iter().position(|field| field.name == name)?;
    values.get(place)
}

async fn invite_state(
    node: &Arc<Node>,
    slot: &Arc<Slot>,
    invite: &DeviceKey,
) -> Result<InviteState, String> {
    let store = call::running(node, slot)
        .await
        .map_err(|failure| failure.to_string())?;
    let snapshot = store.snapshot();
    let code = call::code(node, slot, &snapshot).map_err(|failure| failure.to_string())?;
    let Some(Type::Option(option)) = code
        .system
        .function(QUERIES, INVITE_OF)
        .and_then(|function| function.result.clone())
    else {
        return Err("the governance of this store has no invites".into());
    };
    let call = Call {
        interface: QUERIES.into(),
        function: INVITE_OF.into(),
        args: cbor::encode_all([Type::Bytes].iter(), &[Value::Bytes(invite.0.to_vec())]),
    };
    let queried = call::run_query(node, &store, &snapshot, &call, Lane::System)
        .await
        .map_err(|failure| failure.to_string())?;
    let CallEnd::Ok(bytes) = queried.end else {
        return Err("the governance of this store does not tell of its invites".into());
    };
    let found = match cbor::decode(&Type::Option(option.clone()), &bytes) {
        Ok(Value::Option(found)) => found,
        Ok(_) | Err(_) => return Err("what it tells of an invite does not decode".into()),
    };
    let Some(row) = found.as_deref() else {
        return Ok(InviteState::Unknown);
    };
    let number = |name: &str| match field(&option, row, name) {
        Some(Value::U64(number)) => *number,
        Some(Value::U32(number)) => u64::from(*number),
        _ => 0,
    };
    let author = match field(&option, row, "author") {
        Some(Value::Bytes(key)) => DeviceKey::from_slice(key),
        _ => None,
    };
    let governance = slot.governance();
    let may_invite = governance.is_some_and(|governance| {
        let member = author.and_then(|author| governance.member(&author));
        member.is_some_and(|member| {
            member.status == MemberStatus::Active && member.role == Role::Admin
        })
    });
    let cancelled = matches!(field(&option, row, "cancelled"), Some(Value::Bool(true)));
    if cancelled || !may_invite {
        return Ok(InviteState::Cancelled);
    }
    let (uses, used) = (number("uses"), number("used"));
    if used >= uses {
        return Ok(InviteState::Spent {
            uses: u32::try_from(uses).unwrap_or(u32::MAX),
        });
    }
    let at_ms = number("expires-ms");
    let now_ms = node.verdict_on(&snapshot).wall_ms;
    let claimed_at = store.with(move |store| store.next_time(now_ms)).await;
    let claimed_at = claimed_at.map_err(|failure| failure.to_string())?;
    if at_ms < claimed_at.map_err(|error| error.to_string())?.wall_ms {
        return Ok(InviteState::Expired { at_ms });
    }
    Ok(InviteState::Open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_of_peers_end_at_their_queue_and_at_their_number() {
        let home = tempfile::tempdir().unwrap();
        let embedded = crate::embedded(home.path()).await.unwrap();
        let (host, mut seen) = Host::of(&embedded.node);
        let address = |n: usize| SocketAddr::from(([127, 0, 0, 1], 1000 + n as u16));
        let met = |n: usize, count: usize| NetEvent::Addresses {
            peer: DeviceKey([n as u8; 32]),
            addresses: (0..count).map(address).collect(),
        };
        for n in 0..PEER_EVENTS_QUEUE {
            host.event(met(n, 1));
        }
        // The queue is full, so this event is dropped.
        host.event(met(7, 9));
        for n in 0..PEER_EVENTS_QUEUE {
            assert_eq!(seen.recv().await.unwrap().0, DeviceKey([n as u8; 32]));
        }
        assert!(seen.try_recv().is_err());
        host.event(met(1, PEER_ADDRESSES_MAX));
        host.event(met(2, PEER_ADDRESSES_MAX + 1));
        drop(host);
        keep_addresses(embedded.node.handle(), seen).await;
        let peers = embedded.node.records.peers().unwrap();
        let counts: Vec<_> = peers.iter().map(|(_, peer)| peer.addresses.len()).collect();
        assert_eq!(counts, [PEER_ADDRESSES_MAX; 2]);
        assert_eq!(peers[1].1.addresses[0], address(0).to_string());
        embedded.close().await;
    }
}

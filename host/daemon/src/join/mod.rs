//! Joins of stores: tasks of the node, which outlive the requests that began them.
//!
//! The network runs a join ([`lattice_net::JoinTask`]). This file keeps it: the join is recorded before it begins, goes
//! on after a restart of the node, and its record is removed when it has succeeded or failed for good.

mod inspect;

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use lattice_format::{ComponentId, DeviceKey, SignedHeader, StoreId};
use lattice_kernel::{Files, Store, machine_remedy};
use lattice_net::join::Agreement;
use lattice_net::{JoinError, JoinHost, JoinPhase, JoinTask, Token};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::limits::{PLUGINS_MAX, STORES_MAX};
use crate::member;
use crate::node::clock;
use crate::node::descriptors;
use crate::node::lookup;
use crate::node::lookup::check_name;
use crate::node::panics;
use crate::node::records::{JoinRecord, PluginRecord, StoreRecord};
use crate::node::restored;
use crate::node::status;
use crate::node::{Node, Slot};
use crate::plugin::blob;
use crate::store::OpenStore;
use crate::store::create::{ANOTHER_HOME_HINT, NewDirectory};

pub(crate) use inspect::{Looked, inspect_token};

/// The phase of a join, for those who watch it; `None` before it has begun in this process.
pub(crate) struct JoinState(watch::Sender<Option<JoinPhase>>);

impl Default for JoinState {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

impl JoinState {
    /// What the join does or waits for, in one line.
    pub(crate) fn text(&self) -> String {
        match &*self.0.borrow() {
            None => "the join goes on while a daemon runs".into(),
            Some(phase) => shown(phase).text,
        }
    }

    /// The failure of a request to a store that is being joined.
    pub(crate) fn failure(&self, name: &str) -> Failure {
        Failure::not_ready(format!("the store {name} is being joined")).hint(self.text())
    }
}

/// A phase of a join as a message of the API.
fn shown(phase: &JoinPhase) -> api::JoinProgress {
    let progress = |phase: api::JoinPhase, done, total, text: String| api::JoinProgress {
        phase: phase.into(),
        done,
        total,
        text,
        store: None,
    };
    match phase {
        JoinPhase::Connecting => progress(
            api::JoinPhase::Connecting,
            0,
            0,
            "looking for a member that answers".into(),
        ),
        JoinPhase::Fetching {
            component,
            done_bytes,
            total_bytes,
        } => progress(
            api::JoinPhase::Fetching,
            *done_bytes,
            *total_bytes,
            format!("fetching the component {}", &component.to_string()[..16]),
        ),
        JoinPhase::Compiling { component } => progress(
            api::JoinPhase::Compiling,
            0,
            0,
            format!("compiling the component {}", &component.to_string()[..16]),
        ),
        JoinPhase::Claiming => progress(
            api::JoinPhase::Claiming,
            0,
            0,
            "waiting for the admission".into(),
        ),
        JoinPhase::Syncing { done, total, text } => {
            progress(api::JoinPhase::Syncing, *done, *total, text.clone())
        }
        JoinPhase::Waiting { error, until_ms } => {
            let wait_ms = until_ms.saturating_sub(clock::now_ms());
            progress(
                api::JoinPhase::Connecting,
                0,
                0,
                format!("{error}; trying again in {} s", wait_ms.div_ceil(1000)),
            )
        }
        JoinPhase::Done => progress(api::JoinPhase::Ready, 0, 0, String::new()),
        JoinPhase::Failed { error } => {
            progress(api::JoinPhase::Unspecified, 0, 0, error.to_string())
        }
    }
}

/// The failure of a request for a join of this device to a store that ended with this error.
pub(crate) fn failure(error: &JoinError, store: &StoreId, device: &DeviceKey) -> Failure {
    let text = error.to_string();
    match error {
        JoinError::Unreachable { .. } | JoinError::NotNow { .. } => {
            Failure::unreachable(text).hint("try again when a member's node runs")
        }
        JoinError::AdmittedBefore => Failure::unauthorized(text).hint(format!(
            "an admin of the store admits it again with `lattice store readmit {} {}`",
            lookup::short(&store.0),
            lookup::short(&device.0)
        )),
        // The remedy stands in the text.
        JoinError::Expired { .. }
        | JoinError::Spent { .. }
        | JoinError::Cancelled
        | JoinError::UnknownInvite => Failure::failed(text),
        JoinError::Refused(_) => {
            Failure::failed(text).hint("ask an admin of the store why, and for another invite")
        }
        JoinError::NotAgreed { .. } => {
            Failure::failed(text).hint("join again, and look at what the token leads to")
        }
        JoinError::Wrong { .. } => Failure::failed(text)
            .hint("try again, since another member may answer; both should run the same version"),
        JoinError::Node(_) => Failure::failed(text).hint("`lattice doctor` examines this node"),
        JoinError::Component(_) => {
            Failure::failed(text).hint("a newer version of Lattice may run this component")
        }
    }
}

pub(crate) fn parse(token: &str) -> Result<Token> {
    Token::parse(token.trim()).map_err(|error| {
        Failure::failed(error.to_string())
            .hint("`lattice store invite` on a member's node makes one")
    })
}

fn hash(field: &str, bytes: &[u8]) -> Result<Option<ComponentId>> {
    match bytes.len() {
        0 => Ok(None),
        _ => ComponentId::from_slice(bytes).map(Some).ok_or_else(|| {
            Failure::usage(format!(
                "{field} has {} bytes, and a hash has 32",
                bytes.len()
            ))
        }),
    }
}

/// The stream of a join's progress.
pub(crate) type Progress = ReceiverStream<std::result::Result<api::JoinProgress, Status>>;

/// The name of a store that is joined without one: the name in the token, or one made of the store's id if that is not
/// allowed. A number is appended if the name is taken.
fn joined_name(node: &Node, token: &Token) -> String {
    let wished = match check_name("store", &token.store_name) {
        Ok(()) => token.store_name.clone(),
        Err(_) => format!("store-{}", &token.store.to_string()[..8]),
    };
    let free = |name: &String| lookup::check_free(node, name, None).is_ok();
    if free(&wished) {
        return wished;
    }
    let with_number = |n: u32| {
        let cut: String = wished.chars().take(50).collect();
        format!("{cut}-{n}")
    };
    (2..)
        .map(with_number)
        .find(free)
        .expect("there are more numbers than stores")
}

/// Begins to join a store, or watches the join of that store that was begun before.
pub(crate) async fn join(node: &Arc<Node>, request: api::JoinRequest) -> Result<Progress> {
    let token = parse(&request.token)?;
    node.need_net("joining")?;
    if !request.name.is_empty() {
        check_name("store", &request.name)?;
    }
    if !request.member_name.is_empty() {
        check_name("member", &request.member_name)?;
    }
    let agreed = Agreement {
        governance: hash("governance_hash", &request.governance_hash)?.ok_or_else(|| {
            Failure::usage("no governance component was agreed to").hint("look at the token first")
        })?,
        app: hash("app_hash", &request.app_hash)?,
    };
    let _naming = node.naming.lock().await;
    let known = node.slot(&token.store);
    let is_outside = match &known {
        Some(slot) => is_outside(node, slot).await,
        None => false,
    };
    let slot = match known {
        Some(slot) if is_outside => {
            let task = JoinTask {
                token,
                device_name: request.member_name,
                store_name: String::new(),
                agreed,
            };
            let record = JoinRecord {
                task: task.to_bytes(),
                was_here: true,
            };
            node.update_slot(&slot, |known| known.joining = Some(record))?;
            slot.join.0.send_replace(None);
            begin_join(node, &slot, task);
            slot
        }
        Some(slot) => slot,
        None => {
            if node.slots().len() >= STORES_MAX {
                let text = format!("this node has {STORES_MAX} stores already");
                return Err(Failure::failed(text).hint(ANOTHER_HOME_HINT));
            }
            descriptors::check_room()?;
            let name = match request.name.is_empty() {
                true => joined_name(node, &token),
                false => {
                    lookup::check_free(node, &request.name, None)?;
                    request.name.clone()
                }
            };
            let store = token.store;
            let task = JoinTask {
                token,
                device_name: request.member_name,
                store_name: request.name,
                agreed,
            };
            let record = StoreRecord {
                name,
                since_ms: node.clock.now_ms(),
                joining: Some(JoinRecord {
                    task: task.to_bytes(),
                    was_here: false,
                }),
                ..Default::default()
            };
            node.records.put_store(&store, &record)?;
            let slot = Slot::new(store, record);
            node.add_slot(slot.clone());
            begin_join(node, &slot, task);
            slot
        }
    };
    Ok(watch_join(node, slot))
}

/// Whether a store is here of which this device is no member: its directory came from another home, the device has a
/// new key, or the device was revoked.
async fn is_outside(node: &Node, slot: &Arc<Slot>) -> bool {
    slot.record().joining.is_none()
        && member::governance(node, slot).await.is_ok()
        && member::own_role(node, slot).is_none()
}

fn watch_join(node: &Arc<Node>, slot: Arc<Slot>) -> Progress {
    let (out, progress) = mpsc::channel(16);
    let (handle, device) = (Arc::downgrade(node), node.device());
    let mut phases = slot.join.0.subscribe();
    let mut closing = node.closing();
    tokio::spawn(async move {
        let mut done = slot.record().joining.is_none();
        loop {
            let phase = phases.borrow_and_update().clone();
            done |= phase == Some(JoinPhase::Done);
            let mut message = phase.as_ref().map(shown);
            if done {
                let Some(handle) = handle.upgrade() else {
                    return;
                };
                message = Some(api::JoinProgress {
                    store: Some(status::store_summary(&handle, &slot).await),
                    ..shown(&JoinPhase::Done)
                });
            }
            if let Some(JoinPhase::Failed { error }) = &phase {
                let _ = out
                    .send(Err(failure(error, &slot.id, &device).into()))
                    .await;
                return;
            }
            if let Some(message) = message
                && out.send(Ok(message)).await.is_err()
            {
                // The client has left. The join goes on without it.
                return;
            }
            if done {
                return;
            }
            tokio::select! {
                changed = phases.changed() => if changed.is_err() { return },
                _ = closing.wait_for(|closing| *closing) => {
                    let gone = Failure::unreachable("the node is shutting down")
                        .hint("the join goes on at its next start");
                    let _ = out.try_send(Err(gone.into()));
                    return;
                }
            }
        }
    });
    ReceiverStream::new(progress)
}

/// Goes on with the joins that an earlier run of the node began.
pub(crate) fn resume_joins(node: &Arc<Node>) {
    for slot in node.slots() {
        let Some(record) = slot.record().joining else {
            continue;
        };
        match JoinTask::from_bytes(&record.task) {
            Ok(task) => begin_join(node, &slot, task),
            Err(error) => {
                tracing::error!(store = %slot.id, "{error}");
                slot.join.0.send_replace(Some(JoinPhase::Failed {
                    error: JoinError::Node(error.to_string()),
                }));
            }
        }
    }
}

fn begin_join(node: &Arc<Node>, slot: &Arc<Slot>, task: JoinTask) {
    let handle = node.clone();
    let joined = slot.clone();
    let mut closing = node.closing();
    run_told(slot.clone(), async move {
        let slot = joined;
        let host = Joiner {
            node: Arc::downgrade(&handle),
            slot: slot.clone(),
        };
        let Some(net) = handle.net() else { return };
        let ended = tokio::select! {
            ended = task.run(net, &host) => ended,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        let (recorded, end) = match ended {
            Ok(()) => {
                let recorded = handle.update_slot(&slot, |record| record.joining = None);
                (recorded, JoinPhase::Done)
            }
            Err(error) => {
                tracing::info!(store = %slot.id, "the join failed for good: {error}");
                let was_here = slot.record().joining.is_some_and(|join| join.was_here);
                let recorded = match was_here {
                    true => handle.update_slot(&slot, |record| record.joining = None),
                    false => {
                        handle.remove_slot(&slot.id);
                        handle.records.remove_store(&slot.id).map_err(Failure::from)
                    }
                };
                (recorded, JoinPhase::Failed { error })
            }
        };
        if let Err(failure) = recorded {
            tracing::error!(store = %slot.id, "{failure}");
        }
        // Watchers are told last, so that they find the end recorded.
        slot.join.0.send_replace(Some(end));
    });
}

/// Runs a join. That it panicked is told to those who watch it; what is recorded of it stays.
fn run_told(slot: Arc<Slot>, join: impl Future<Output = ()> + Send + 'static) {
    panics::spawn(join, move |said| {
        tracing::error!(store = %slot.id, "the join panicked: {said}");
        let error = JoinError::Node(format!(
            "the join panicked: {said}; report it, and start the daemon again to go on with it"
        ));
        slot.join.0.send_replace(Some(JoinPhase::Failed { error }));
    });
}

/// Makes a store out of a genesis that was received. Blocks.
fn adopt_now(
    node: &Node,
    slot: &Arc<Slot>,
    signed: SignedHeader,
    body: Vec<u8>,
) -> std::result::Result<(), String> {
    let home = node.home.store(&slot.id);
    let is_here = Files::are_in(&home).map_err(|error| {
        let remedy = machine_remedy(&error);
        format!("{}: {error}; {remedy}", home.display())
    })?;
    if slot.opened().is_some() || is_here {
        let opened = node.open_slot(slot).map(drop);
        let admitted = |record: &mut StoreRecord| {
            if let Some(join) = &mut record.joining {
                join.was_here = false;
            }
        };
        return opened
            .and_then(|()| node.update_slot(slot, admitted))
            .map_err(|failure| failure.to_string());
    }
    let genesis = lattice_format::Body::decode(&body)
        .map_err(|error| error.to_string())?
        .genesis
        .ok_or("the genesis names no store")?;
    for component in std::iter::once(&genesis.system).chain(&genesis.app) {
        node.components
            .make_ready(&component.id)
            .map_err(|fault| fault.to_string())?;
        name_component(node, &component.id, &component.name)
            .map_err(|failure| failure.to_string())?;
    }
    let directory = NewDirectory::make(&node.home.path().join("stores"))
        .map_err(|failure| failure.to_string())?;
    let files = Files::in_dir(directory.path()).map_err(|error| error.to_string())?;
    let store = Store::adopt(
        files,
        node.components.engine(),
        node.key.clone(),
        (signed, body),
        node.clock.now_ms(),
    )
    .map_err(|error| error.to_string())?;
    // The store is closed before its directory is renamed, because its log creates segments under the old name.
    drop(store);
    let log_mark = restored::mark(directory.path()).map_err(|error| error.to_string())?;
    node.update_slot(slot, |record| {
        record.log_mark = log_mark;
        record.parent = genesis
            .parent
            .map_or(Vec::new(), |parent| parent.0.to_vec());
        record.plugin = genesis.app.map_or(String::new(), |app| app.name);
    })
    .map_err(|failure| failure.to_string())?;
    directory
        .keep(&home)
        .map_err(|failure| failure.to_string())?;
    let open = OpenStore::open(node.opener(slot.id), node.listener())?;
    slot.set_open(Arc::new(open));
    Ok(())
}

/// Installs a component of a joined store under its name, if the name is free and the component has none.
fn name_component(node: &Node, id: &ComponentId, name: &str) -> Result<()> {
    let known = node.records.plugins()?;
    let named = known
        .iter()
        .any(|(other, record)| other == name || record.id() == *id);
    if named || known.len() >= PLUGINS_MAX || check_name("plugin", name).is_err() {
        return Ok(());
    }
    let record = PluginRecord {
        component: id.0.to_vec(),
        installed_ms: node.clock.now_ms(),
        bundled: false,
    };
    Ok(node.records.put_plugins(&[(name.to_owned(), record)])?)
}

/// The node, for one of its joins.
struct Joiner {
    node: Weak<Node>,
    slot: Arc<Slot>,
}

impl Joiner {
    fn node(&self) -> std::result::Result<Arc<Node>, String> {
        self.node
            .upgrade()
            .ok_or_else(|| "the node is shutting down".into())
    }
}

impl JoinHost for Joiner {
    fn has_store(&self, _store: &StoreId) -> bool {
        let Some(node) = self.node.upgrade() else {
            return false;
        };
        // Before its admission a store that was here already is to be joined like any other.
        if self.slot.record().joining.is_some_and(|join| join.was_here) {
            return false;
        }
        let here = Files::are_in(&node.home.store(&self.slot.id));
        matches!(here, Ok(true)) && node.open_slot(&self.slot).is_ok()
    }

    fn has_component(&self, store: &StoreId, component: &ComponentId) -> bool {
        let Some(node) = self.node.upgrade() else {
            return false;
        };
        if !node.components.contains(component) {
            // The bytes may have been fetched when the token was inspected.
            let bytes = node.blobs.read(*store, blob::of(component)).ok().flatten();
            if bytes.is_none_or(|bytes| node.components.install(&bytes).is_err()) {
                return false;
            }
        }
        let recorded = blob::own_components(&node, store, &[*component]);
        if let Err(failure) = &recorded {
            tracing::error!("{failure}");
        }
        recorded.is_ok()
    }

    fn install_component(
        &self,
        store: StoreId,
        component: ComponentId,
    ) -> BoxFuture<'_, std::result::Result<(), String>> {
        Box::pin(async move {
            let node = self.node()?;
            let install = move || {
                let bytes = node
                    .blobs
                    .read(store, blob::of(&component))?
                    .ok_or_else(|| {
                        Failure::failed(format!("the component {component} did not arrive"))
                    })?;
                node.components.install(&bytes).map(drop)
            };
            tokio::task::spawn_blocking(install)
                .await
                .map_err(|error| error.to_string())?
                .map_err(|failure| failure.to_string())
        })
    }

    fn adopt(
        &self,
        _store: StoreId,
        signed: SignedHeader,
        body: Vec<u8>,
    ) -> BoxFuture<'_, std::result::Result<(), String>> {
        Box::pin(async move {
            let node = self.node()?;
            let slot = self.slot.clone();
            tokio::task::spawn_blocking(move || adopt_now(&node, &slot, signed, body))
                .await
                .map_err(|error| error.to_string())?
        })
    }

    fn is_ready(&self, _store: &StoreId) -> bool {
        let (Some(node), Some(store)) = (self.node.upgrade(), self.slot.opened()) else {
            return false;
        };
        store.snapshot().summary().pending == 0 && member::own_role(&node, &self.slot).is_some()
    }

    fn progress(&self, phase: JoinPhase) {
        // The end of a join is told by `begin_join`, once it is recorded.
        if !matches!(phase, JoinPhase::Done | JoinPhase::Failed { .. }) {
            self.slot.join.0.send_replace(Some(phase));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn who_watches_a_join_that_panics_is_told() {
        let home = tempfile::tempdir().unwrap();
        let embedded = crate::embedded(home.path()).await.unwrap();
        let node = embedded.node();
        let record = StoreRecord {
            joining: Some(JoinRecord::default()),
            ..Default::default()
        };
        let slot = Slot::new(StoreId([1; 32]), record);
        let mut progress = watch_join(node, slot.clone());
        run_told(slot.clone(), async { panic!("at a bad moment") });
        let told = tokio::time::timeout(Duration::from_secs(20), progress.next());
        let told = told.await.expect("it hangs").expect("it ends with a word");
        let said = told.unwrap_err().message().to_owned();
        assert!(said.contains("at a bad moment"), "{said}");
        // The next start goes on with it.
        assert!(slot.record().joining.is_some());
        embedded.close().await;
    }
}

//! The creation of a store.
//!
//! A store's id is that of its genesis, which is known only once the genesis is signed and has run. So the store is
//! created in a directory with a temporary name; then the node records it, and last the directory is renamed. What a
//! crash in between leaves is removed at the next start.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lattice_format::{ComponentId, ComponentRef, DeviceKey, Genesis, Lane, Limits, Param, StoreId};
use lattice_kernel::limits::DRIFT_MS_DEFAULT;
use lattice_kernel::run::engine::{Member, MemberStatus, Role};
use lattice_kernel::{CreateError, Files, NewStore, Store, machine_remedy};

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::limits::{PARAMETER_BYTES_MAX, STORES_MAX};
use crate::member;
use crate::node::clock;
use crate::node::descriptors;
use crate::node::lookup;
use crate::node::lookup::check_name;
use crate::node::panics;
use crate::node::records::StoreRecord;
use crate::node::restored;
use crate::node::{Node, Slot};
use crate::plugin::blob;
use crate::plugin::bundled::BUNDLED;
use crate::store::OpenStore;
use crate::store::call;

/// What to do when a node has all the stores that it may have.
pub(crate) const ANOTHER_HOME_HINT: &str = "make more in another home, with --home";

/// The value of `--plugin` for a store without an app.
pub(crate) const NO_PLUGIN: &str = "none";

/// A directory with a temporary name. It is removed when this is dropped, unless it is kept.
pub(crate) struct NewDirectory(Option<PathBuf>);

impl NewDirectory {
    pub(crate) fn make(stores: &Path) -> Result<Self> {
        let path = nameless(stores);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| disk(&path, &error))?;
        Ok(Self(Some(path)))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().expect("it is kept only at the very end")
    }

    /// Renames the directory to `name`, durably, and keeps it.
    pub(crate) fn keep(mut self, name: &Path) -> Result<()> {
        fs::rename(self.path(), name).map_err(|error| disk(name, &error))?;
        self.0 = None;
        // From here on it has its name, though perhaps not for long.
        sync_above(name).map_err(|error| disk(name, &error))
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// A directory that every start removes, and nobody takes for a store.
fn nameless(stores: &Path) -> PathBuf {
    stores.join(format!(".new-{:016x}", rand::random::<u64>()))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), "cannot remove, and the next start tries again: {error}");
    }
}

/// Makes a change of the names in a file's directory durable.
fn sync_above(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn disk(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display())).hint(machine_remedy(error))
}

fn parameters(given: HashMap<String, api::TextArgument>) -> Result<Vec<Param>> {
    use api::text_argument::Source;
    let mut params = Vec::with_capacity(given.len());
    for (name, argument) in given {
        let value = match argument.source {
            None => String::new(),
            Some(Source::Text(text)) => text,
            Some(Source::Content(bytes)) => String::from_utf8(bytes)
                .map_err(|_| Failure::usage(format!("the parameter `{name}` is no UTF-8 text")))?,
        };
        params.push(Param { name, value });
    }
    // The map has no order, and the parameters of a genesis have one.
    params.sort_by(|a, b| a.name.cmp(&b.name));
    let bytes: usize = params.iter().map(|p| p.name.len() + p.value.len()).sum();
    if bytes > PARAMETER_BYTES_MAX {
        return Err(Failure::usage(format!(
            "the parameters have {bytes} bytes, and {PARAMETER_BYTES_MAX} are allowed"
        )));
    }
    Ok(params)
}

/// The parent of a new store, with the active members that it gives to its child.
struct Parent {
    slot: Arc<Slot>,
    store: Arc<OpenStore>,
    members: Vec<Member>,
}

impl Parent {
    async fn find(node: &Node, text: &str) -> Result<Self> {
        let slot = lookup::find_slot(node, text)?;
        let store = call::running(node, &slot).await?;
        let governance = member::governance(node, &slot).await?;
        let members: Vec<Member> = governance
            .members()
            .filter(|member| member.status == MemberStatus::Active)
            .cloned()
            .collect();
        let own = members.iter().find(|member| member.device == node.device());
        if own.is_none_or(|own| own.role != Role::Admin) {
            return Err(Failure::unauthorized(format!(
                "only an admin of {} can give it a child",
                slot.name()
            ))
            .hint(member::remedy(Some(&*governance), &slot.id, &node.device())));
        }
        Ok(Self {
            slot,
            store,
            members,
        })
    }
}

fn create_failure(error: CreateError) -> Failure {
    match error {
        CreateError::Storage(error) => error.into(),
        CreateError::Host(fault) => fault.into(),
        CreateError::Init { .. } => Failure::refused(error.to_string()).hint("nothing was made"),
        other => Failure::failed(other.to_string()).hint("nothing was made"),
    }
}

/// Creates a store, which is durable and ready when this returns.
///
/// # Errors
/// When the request does not fit, a component cannot be used, or the disk fails. The store is then removed, unless it
/// is durable already and only opening it failed.
pub(crate) async fn create(
    node: &Arc<Node>,
    request: api::CreateStoreRequest,
) -> Result<Arc<Slot>> {
    check_name("store", &request.name)?;
    let app = match request.plugin.as_str() {
        NO_PLUGIN => None,
        "" => {
            return Err(Failure::usage("no plugin is given")
                .hint("`lattice plugin list` shows what there is; `none` makes a pure root"));
        }
        text => {
            let (name, record) = lookup::find_plugin(node, text)?;
            Some(ComponentRef {
                id: record.id(),
                name,
            })
        }
    };
    let mut app_params = parameters(request.parameters)?;
    if app.is_none() && !app_params.is_empty() {
        let name = app_params.remove(0).name;
        return Err(Failure::usage(format!(
            "the parameter `{name}` is for a plugin, and this store has none"
        )));
    }
    let parent = match request.parent.as_str() {
        "" => None,
        text => Some(Parent::find(node, text).await?),
    };
    let _naming = node.naming.lock().await;
    lookup::check_free(
        node,
        &request.name,
        parent.as_ref().map(|parent| parent.slot.id),
    )?;
    if node.slots().len() >= STORES_MAX {
        return Err(
            Failure::failed(format!("this node has {STORES_MAX} stores already"))
                .hint(ANOTHER_HOME_HINT),
        );
    }
    descriptors::check_room()?;
    let system = BUNDLED[0];
    let mut system_params = vec![Param {
        name: "name".into(),
        value: request.name.clone(),
    }];
    let members = parent.iter().flat_map(|parent| &parent.members);
    system_params.extend(members.map(|member| Param {
        name: "member".into(),
        value: format!(
            "{}:{}:{}",
            hex::encode(member.device.0),
            member.role.name(),
            member.name
        ),
    }));
    let genesis = Genesis {
        system: ComponentRef {
            id: system.id(),
            name: system.name.into(),
        },
        app,
        system_params,
        app_params,
        limits: Limits::default(),
        profile: lattice_runtime::profile::PROFILE,
        drift_ms: DRIFT_MS_DEFAULT,
        order_rule: 1,
        root_rule: 1,
        recovery_keys: Vec::new(),
        encryption: 0,
        parent: parent.as_ref().map(|parent| parent.slot.id),
        finality_rule: lattice_format::body::FINALITY_RULE,
    };
    let admits = match &parent {
        None => Vec::new(),
        Some(parent) => parent.members.iter().map(|member| member.device).collect(),
    };
    let handle = node.clone();
    let name = request.name;
    let made = tokio::task::spawn_blocking(move || make_store(&handle, genesis, admits, name));
    let slot = made
        .await
        .map_err(|error| Failure::failed(format!("making the store: {error}")))??;
    if let Some(parent) = parent {
        let listed = member::add_child(node, &parent.slot, &parent.store, &slot).await;
        if let Err(failure) = listed {
            return Err(unmake(node, &slot, failure).await);
        }
    }
    if let Some(net) = node.net() {
        net.store_added(slot.id);
    }
    Ok(slot)
}

/// The blocking part of [`create`]: compiles the components, runs the genesis, records the store, starts its writer.
fn make_store(
    node: &Node,
    genesis: Genesis,
    admits: Vec<DeviceKey>,
    name: String,
) -> Result<Arc<Slot>> {
    let app = genesis.app.clone();
    let parent = genesis.parent;
    let components: Vec<_> = std::iter::once(genesis.system.id)
        .chain(app.as_ref().map(|app| app.id))
        .collect();
    for id in &components {
        node.components.make_ready(id)?;
    }
    let clock = node.verdict_of_all(genesis.drift_ms);
    // A store that is not made yet has no last entry to leap from.
    clock
        .check(genesis.drift_ms, u64::MAX, false)
        .map_err(|error| Failure::not_ready(error.to_string()))?;
    let directory = NewDirectory::make(&node.home.path().join("stores"))?;
    let files = Files::in_dir(directory.path())?;
    let spec = NewStore {
        genesis,
        admits,
        chain: clock::chain(),
    };
    let now_ms = node.clock.now_ms();
    let store = Store::create(
        files,
        node.components.engine(),
        node.key.clone(),
        spec,
        now_ms,
    )
    .map_err(create_failure)?;
    let id = store.snapshot().store_id();
    let record = StoreRecord {
        name,
        parent: parent.map_or(Vec::new(), |parent| parent.0.to_vec()),
        joining: None,
        since_ms: now_ms,
        plugin: app.map_or(String::new(), |app| app.name),
        log_mark: restored::mark(directory.path())
            .map_err(|error| Failure::failed(format!("the new log: {error}")))?,
        left_chain: None,
        aside_chain: None,
        aside_above_ms: 0,
        opened: false,
    };
    // The store is closed before its directory is renamed, because its log creates segments under the old name.
    drop(store);
    let home = node.home.store(&id);
    let kept = blob::own_components(node, &id, &components)
        .and_then(|()| Ok(node.records.put_store(&id, &record)?))
        .and_then(|()| directory.keep(&home));
    let opened = kept.and_then(|()| {
        panics::caught("opening it", || {
            OpenStore::open(node.opener(id), node.listener())
        })
        .map_err(|reason| Failure::failed(reason).hint("nothing was made"))
    });
    let open = match opened {
        Ok(open) => open,
        Err(failure) => return Err(take_back(node, &id, &components, failure)),
    };
    open.set_warm(Lane::System);
    if record.plugin.is_empty() {
        open.set_warm(Lane::App);
    }
    let slot = Slot::new(id, record);
    slot.set_open(Arc::new(open));
    node.add_slot(slot.clone());
    Ok(slot)
}

/// Takes a store away that nobody was told of, because of a failure. Returns what to say.
async fn unmake(node: &Arc<Node>, slot: &Arc<Slot>, failure: Failure) -> Failure {
    node.remove_slot(&slot.id);
    let mut components = Vec::new();
    if let Ok(store) = node.store(slot).await {
        let genesis = store.snapshot().genesis().clone();
        components.push(genesis.system.id);
        components.extend(genesis.app.map(|app| app.id));
        store.close().await;
        let joined = tokio::task::spawn_blocking(move || store.join(crate::limits::FLUSH_WAIT));
        let _ = joined.await;
    }
    take_back(node, &slot.id, &components, failure)
}

/// Takes back all that was written of a store that came to nothing, so that no start finds it. Returns what to say:
/// the failure, and what could not be taken back.
fn take_back(node: &Node, id: &StoreId, components: &[ComponentId], failure: Failure) -> Failure {
    let home = node.home.store(id);
    let aside = nameless(home.parent().unwrap_or(&home));
    // First its name, at once: a store is what has one.
    match fs::rename(&home, &aside) {
        Ok(()) => {
            if let Err(error) = sync_above(&home) {
                tracing::warn!(store = %id, "a store that was not made may be there after a crash: {error}");
            }
            remove(&aside);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Failure::failed(format!(
                "{}; what was made could not be taken back: {}: {error}",
                failure.text(),
                home.display()
            ))
            .hint(
                "end the daemon and remove that directory, or the next start finds a store in it",
            );
        }
    }
    blob::disown_components(node, id, components);
    // The next start forgets a record without its directory.
    if let Err(error) = node.records.remove_store(id) {
        tracing::warn!(store = %id, "{error}");
    }
    failure
}

#[cfg(test)]
mod tests {
    use lattice_testing::advice;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_came_to_nothing_is_found_by_no_start() {
        let home = tempfile::tempdir().unwrap();
        let request = |name: &str| api::CreateStoreRequest {
            name: name.into(),
            plugin: "counter".into(),
            ..Default::default()
        };
        let embedded = crate::embedded(home.path()).await.unwrap();
        let node = embedded.node().clone();
        create(&node, request("kept")).await.unwrap();
        let slot = create(&node, request("lost")).await.unwrap();
        let failure = unmake(&node, &slot, Failure::failed("the parent says no")).await;
        assert_eq!(failure.text(), "the parent says no");
        // Its name is free at once.
        let slot = create(&node, request("lost")).await.unwrap();
        // A directory that cannot be renamed is said, with what to do.
        let stores = home.path().join("stores");
        let away = home.path().join("away");
        fs::rename(&stores, &away).unwrap();
        std::os::unix::fs::symlink(&stores, &stores).unwrap();
        let failure = take_back(&node, &slot.id, &[], Failure::failed("the parent says no"));
        let said = failure.to_string();
        advice(
            &said,
            "end the daemon and remove that directory, or the next start finds a store in it",
        );
        fs::remove_file(&stores).unwrap();
        fs::rename(&away, &stores).unwrap();
        let directory = node.home.store(&slot.id);
        assert!(said.contains(directory.to_str().unwrap()), "{said}");
        drop((node, slot));
        embedded.close().await;
        fs::remove_dir_all(directory).unwrap();
        let embedded = crate::embedded(home.path()).await.unwrap();
        let names: Vec<_> = embedded
            .node()
            .slots()
            .iter()
            .map(|slot| slot.name())
            .collect();
        assert_eq!(names, ["kept"]);
        let left: Vec<_> = fs::read_dir(&stores).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        embedded.close().await;
    }
}

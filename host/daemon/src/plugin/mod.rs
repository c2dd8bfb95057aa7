//! The installed components, which stores are made from: how they are installed, listed, described and removed.

pub(crate) mod blob;
pub(crate) mod bundled;
pub(crate) mod components;
mod pace;

use std::sync::Arc;

use lattice_format::ComponentId;
use lattice_kernel::run::engine::CallKind;
use lattice_runtime::values::Type;
use lattice_runtime::{Interface, Schema, limits::COMPONENT_BYTES_MAX};

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::page::{Page, item_bytes};
use crate::limits::{NAMES_SHOWN, PAGE_BYTES_MAX, PLUGINS_MAX};
use crate::node::lookup;
use crate::node::lookup::{Code, check_name};
use crate::node::network;
use crate::node::records::PluginRecord;
use crate::node::status;
use crate::node::{Node, Slot};
use crate::plugin::components::inspect_failure;

fn interface(interface: &Interface) -> api::Interface {
    let mut types = Vec::new();
    let mut add = |ty: &Type| {
        let text = ty.definition().to_string();
        if !types.contains(&text) {
            types.push(text);
        }
    };
    for function in &interface.functions {
        for ty in function.param_types().chain(&function.result) {
            ty.visit_named(&mut add);
        }
    }
    api::Interface {
        name: interface.id.clone(),
        kind: match interface.kind {
            CallKind::Command => api::InterfaceKind::Commands,
            CallKind::Query => api::InterfaceKind::Queries,
            CallKind::Init => api::InterfaceKind::Lifecycle,
        }
        .into(),
        docs: interface.docs.clone(),
        functions: interface
            .functions
            .iter()
            .map(|function| api::Function {
                name: function.name.clone(),
                docs: function.docs.clone(),
                parameters: function
                    .params
                    .iter()
                    .map(|param| api::Parameter {
                        name: param.name.clone(),
                        r#type: param.ty.to_string(),
                        optional: matches!(param.ty, Type::Option(_)),
                    })
                    .collect(),
                result: function
                    .result
                    .as_ref()
                    .map_or(String::new(), ToString::to_string),
            })
            .collect(),
        types,
    }
}

/// The package of a component's own interfaces, with its version; empty if it has none.
fn package(schema: &Schema) -> String {
    let own = schema
        .interfaces
        .iter()
        .find(|interface| interface.kind != CallKind::Init && interface.id.contains(':'));
    let Some(own) = own else { return String::new() };
    let package = own
        .id
        .split_once('/')
        .map_or(own.id.as_str(), |(package, _)| package);
    match &own.version {
        Some(version) => format!("{package}@{version}"),
        None => package.to_owned(),
    }
}

/// The name of a component that is installed without one: the name of its package, without namespace and version.
fn default_name(schema: &Schema) -> String {
    let package = package(schema);
    let name = package
        .split_once('@')
        .map_or(package.as_str(), |(name, _)| name);
    let name = name.rsplit_once(':').map_or(name, |(_, name)| name);
    match name {
        "" => format!("plugin-{}", hex::encode(&schema.component.0[..4])),
        name => name.to_owned(),
    }
}

fn describe(schema: &Schema, name: String) -> api::Plugin {
    api::Plugin {
        name,
        hash: schema.component.0.to_vec(),
        package: package(schema),
        size_bytes: schema.bytes as u64,
        governance: schema.governs,
        imports: schema.imports.iter().take(NAMES_SHOWN).cloned().collect(),
        interfaces: schema.interfaces.iter().map(interface).collect(),
        ignored_exports: schema.ignored.iter().take(NAMES_SHOWN).cloned().collect(),
        ..Default::default()
    }
}

/// Appends a chunk of a component to those before.
///
/// # Errors
/// When the component becomes larger than [`COMPONENT_BYTES_MAX`]. `bytes` stays as it is then.
pub(crate) fn collect(bytes: &mut Vec<u8>, chunk: &[u8]) -> Result<()> {
    let total = bytes.len() + chunk.len();
    if total > COMPONENT_BYTES_MAX {
        return Err(Failure::failed(format!(
            "the component has more than {COMPONENT_BYTES_MAX} bytes, the most that is installed"
        ))
        .hint("nothing was installed"));
    }
    bytes.extend_from_slice(chunk);
    Ok(())
}

/// The message for a component of this node, with its record and the stores that use it.
fn show_plugin(
    node: &Node,
    name: String,
    record: &PluginRecord,
    schema: &Schema,
) -> Result<api::Plugin> {
    let used_by = blob::stores_using(node, &record.id())?;
    Ok(api::Plugin {
        bundled: record.bundled,
        installed_ms: record.installed_ms,
        used_by,
        ..describe(schema, name)
    })
}

/// Installs a component under `name`, or under its default name if `name` is empty. It is compiled when this returns.
pub(crate) async fn install(
    node: &Arc<Node>,
    name: String,
    bytes: Vec<u8>,
) -> Result<api::InstallPluginResponse> {
    if !name.is_empty() {
        check_name("plugin", &name)?;
    }
    let handle = node.clone();
    tokio::task::spawn_blocking(move || install_now(&handle, name, &bytes))
        .await
        .map_err(|error| Failure::failed(format!("installing: {error}")))?
}

fn install_now(node: &Node, name: String, bytes: &[u8]) -> Result<api::InstallPluginResponse> {
    // Inspected before it is compiled, because inspecting is cheap and finds most faults of a file.
    let looked = lattice_runtime::inspect(bytes).map_err(|error| inspect_failure(&error))?;
    let name = match name.is_empty() {
        true => default_name(&looked),
        false => name,
    };
    check_name("plugin", &name)?;
    let before = node.records.plugin(&name)?;
    if let Some(before) = &before {
        if before.id() == looked.component {
            let plugin = show_plugin(node, name, before, &looked)?;
            return Ok(api::InstallPluginResponse {
                plugin: Some(plugin),
                already_installed: true,
            });
        }
        if before.bundled {
            return Err(Failure::usage(format!(
                "{name} is the name of a component that came with this node"
            ))
            .hint("give it another one with --name"));
        }
    } else if node.records.plugins()?.len() >= PLUGINS_MAX {
        return Err(
            Failure::failed(format!("{PLUGINS_MAX} plugins are installed already"))
                .hint("remove some that no store uses"),
        );
    }
    let schema = node.components.install(bytes)?;
    let record = PluginRecord {
        component: schema.component.0.to_vec(),
        installed_ms: node.clock.now_ms(),
        bundled: false,
    };
    node.records
        .put_plugins(&[(name.clone(), record.clone())])?;
    if let Some(before) = before {
        drop_component(node, &before.id())?;
    }
    // A store may be paused for lack of this component.
    node.code_arrived();
    let plugin = show_plugin(node, name, &record, &schema)?;
    Ok(api::InstallPluginResponse {
        plugin: Some(plugin),
        already_installed: false,
    })
}

/// Removes the bytes of a component if no name and no store needs them.
fn drop_component(node: &Node, id: &ComponentId) -> Result<()> {
    let named = node
        .records
        .plugins()?
        .iter()
        .any(|(_, record)| record.id() == *id);
    if !named && blob::stores_using(node, id)?.is_empty() {
        node.components.remove(id)?;
    }
    Ok(())
}

/// Fetches a component by its hash from the members of any store of this node, and installs it. Sends progress to
/// `out`, and returns the last message.
pub(crate) async fn fetch_plugin(
    node: &Arc<Node>,
    id: ComponentId,
    name: String,
    out: &tokio::sync::mpsc::Sender<std::result::Result<api::FetchPluginProgress, tonic::Status>>,
) -> Result<api::FetchPluginProgress> {
    if !name.is_empty() {
        check_name("plugin", &name)?;
    }
    let progress = |received_bytes, total_bytes| {
        // A client that reads slowly misses some messages of progress, and holds nothing up.
        let _ = out.try_send(Ok(api::FetchPluginProgress {
            received_bytes,
            total_bytes,
            plugin: None,
        }));
    };
    let mut last = Failure::unreachable("no store here has members that could be asked")
        .hint("join a store that uses it, or install it from a file");
    let mut bytes = node.components.bytes(&id).ok();
    for slot in node.slots() {
        if bytes.is_some() {
            break;
        }
        match network::fetch_bytes(node, &slot, id, &progress).await {
            Ok(found) => bytes = Some(found),
            Err(reason) => {
                last = Failure::unreachable(format!("the component {id} was not found: {reason}"))
                    .hint("it can be had only from members of a store that uses it");
            }
        }
    }
    let bytes = bytes.ok_or(last)?;
    let total_bytes = bytes.len() as u64;
    let plugin = install(node, name, bytes).await?.plugin;
    Ok(api::FetchPluginProgress {
        received_bytes: total_bytes,
        total_bytes,
        plugin,
    })
}

/// Describes a component from its bytes, or names the problems that make it unusable.
pub(crate) fn inspect_bytes(bytes: &[u8]) -> Result<api::Plugin> {
    match lattice_runtime::inspect(bytes) {
        Ok(schema) => {
            let name = default_name(&schema);
            Ok(describe(&schema, name))
        }
        Err(error) => Ok(api::Plugin {
            hash: blake3::hash(bytes).as_bytes().to_vec(),
            size_bytes: bytes.len() as u64,
            problems: error
                .to_string()
                .lines()
                .map(|line| line.trim().to_owned())
                .collect(),
            ..Default::default()
        }),
    }
}

/// Describes the installed component that a person named.
pub(crate) fn inspect_plugin(node: &Node, text: &str) -> Result<api::Plugin> {
    let (name, record) = lookup::find_plugin(node, text)?;
    let schema = node.components.schema(&record.id())?;
    show_plugin(node, name, &record, &schema)
}

/// A page of the installed components, sorted by name.
pub(crate) fn list_plugins(
    node: &Node,
    request: &api::ListPluginsRequest,
) -> Result<api::ListPluginsResponse> {
    let page = Page::new(request.page_size, &request.page_token, &[])?;
    let rows = node
        .records
        .plugins()?
        .into_iter()
        .map(|(name, record)| (name.clone().into_bytes(), (name, record)))
        .collect();
    let (rows, mut next_page_token) = page.cut_small::<(String, PluginRecord)>(rows);
    let mut plugins: Vec<api::Plugin> = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for (name, record) in rows {
        let plugin = match node.components.schema(&record.id()) {
            Ok(schema) => api::Plugin {
                interfaces: Vec::new(),
                ..show_plugin(node, name, &record, &schema)?
            },
            // The component is damaged or deleted. Its row says so, and the list goes on.
            Err(fault) => api::Plugin {
                name,
                hash: record.component.clone(),
                bundled: record.bundled,
                installed_ms: record.installed_ms,
                problems: vec![format!("{fault}; install it again")],
                ..Default::default()
            },
        };
        bytes += item_bytes(&plugin);
        if let Some(last) = plugins.last().filter(|_| bytes > PAGE_BYTES_MAX) {
            next_page_token = page.token(last.name.as_bytes());
            break;
        }
        plugins.push(plugin);
    }
    Ok(api::ListPluginsResponse {
        plugins,
        next_page_token,
    })
}

/// Removes a name of a component, and with the last name its bytes.
///
/// # Errors
/// When the component is bundled, or it is the last name of one that a store uses.
pub(crate) fn remove_plugin(node: &Node, text: &str) -> Result<api::RemovePluginResponse> {
    let (name, record) = lookup::find_plugin(node, text)?;
    if record.bundled {
        return Err(Failure::usage(format!(
            "{name} came with this node and cannot be removed"
        )));
    }
    let users = blob::stores_using(node, &record.id())?;
    let last_name = {
        let others = node.records.plugins()?;
        !others
            .iter()
            .any(|(other, r)| *other != name && r.id() == record.id())
    };
    if last_name && !users.is_empty() {
        return Err(
            Failure::usage(format!("{name} is used by stores of this node"))
                .hint("it stays as long as they are here")
                .candidates(users),
        );
    }
    node.records.remove_plugin(&name)?;
    drop_component(node, &record.id())?;
    Ok(api::RemovePluginResponse {
        name,
        hash: record.component,
    })
}

/// Describes a component by its id, under its installed name, or under `fallback` if it has none.
pub(crate) fn describe_component(
    node: &Node,
    id: &ComponentId,
    fallback: &str,
) -> Result<api::Plugin> {
    let schema = node.components.schema(id)?;
    let name = lookup::plugin_name(node, id).unwrap_or_else(|| fallback.to_owned());
    let record = node
        .records
        .plugin(&name)?
        .filter(|record| record.id() == *id);
    match record {
        Some(record) => show_plugin(node, name, &record, &schema),
        None => Ok(describe(&schema, name)),
    }
}

/// Describes the components of a store: the interfaces that calls and queries can use.
pub(crate) async fn describe_store(
    node: &Node,
    request: api::DescribeStoreRequest,
) -> Result<api::DescribeStoreResponse> {
    let slot: Arc<Slot> = lookup::find_slot(node, &request.store)?;
    let snapshot = node.store(&slot).await?.snapshot();
    let genesis = snapshot.genesis();
    let code = Code::of(node, &snapshot);
    let governance = describe_component(node, &genesis.system.id, &genesis.system.name)?;
    let app = match (&genesis.app, code) {
        (
            Some(app),
            Ok(Code {
                app: Some(schema), ..
            }),
        ) => Some(describe_component(node, &schema.component, &app.name)?),
        // The app's component is missing. The answer describes governance alone.
        _ => None,
    };
    Ok(api::DescribeStoreResponse {
        store: Some(status::store_summary(node, &slot).await),
        app,
        governance: Some(governance),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_lists_so_many_names() {
        let schema = |imports: usize, ignored: usize| Schema {
            component: ComponentId([1; 32]),
            bytes: 1,
            interfaces: Vec::new(),
            imports: vec!["a:b/c".into(); imports],
            ignored: vec!["a:b/d".into(); ignored],
            governs: false,
        };
        for more in 0..=1 {
            let shown = describe(
                &schema(NAMES_SHOWN + more, NAMES_SHOWN + more),
                String::new(),
            );
            assert_eq!(shown.imports.len(), NAMES_SHOWN);
            assert_eq!(shown.ignored_exports.len(), NAMES_SHOWN);
        }
    }

    #[test]
    fn a_component_ends_at_its_bytes_however_it_comes() {
        let mut bytes = Vec::new();
        for _ in 0..32 {
            collect(&mut bytes, &vec![0; COMPONENT_BYTES_MAX / 32]).unwrap();
        }
        assert_eq!(bytes.len(), COMPONENT_BYTES_MAX);
        collect(&mut bytes, &[]).unwrap();
        let failure = collect(&mut bytes, &[0]).unwrap_err();
        assert!(failure.to_string().contains("nothing was installed"));
        assert_eq!(bytes.len(), COMPONENT_BYTES_MAX);
    }
}

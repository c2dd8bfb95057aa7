//! `plugin`: the components that this node can create stores from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lattice_daemon::api;
use serde_json::{Value, json};
use tokio_stream as stream;

use crate::context::{Context, pages};
use crate::failure::{Failure, Result};
use crate::output::{Columns, Output, fields};
use crate::progress::{Progress, Unit};
use crate::session::Need;
use crate::text;

/// How many bytes of a component one message has at most.
const CHUNK_BYTES: usize = 256 << 10;
/// The size of the largest component that nodes accept, in bytes.
const COMPONENT_BYTES_MAX: u64 = 32 << 20;

/// The verbs of `plugin`.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Install a plugin from a file, or by its hash from peers
    Install(InstallArgs),
    /// List the installed plugins
    List,
    /// Show a plugin's hash, size, imports, and every command and query with its types
    Inspect(InspectArgs),
    /// Remove an installed plugin that no store uses
    Remove(RemoveArgs),
}

/// Arguments of `plugin install`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lattice plugin install target/plugins/bank.wasm
  lattice plugin inspect bank
  lattice store create money --plugin bank")]
pub(crate) struct InstallArgs {
    /// A .wasm file, or the 64 digits of a plugin's hash
    #[arg(value_name = "FILE|HASH")]
    what: PathBuf,
    /// Install it under this name [default: the name of its package]
    #[arg(long)]
    name: Option<String>,
}

/// Arguments of `plugin inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A .wasm file, the name of an installed plugin, or at least 8 digits of its hash
    #[arg(value_name = "FILE|NAME")]
    what: PathBuf,
}

/// Arguments of `plugin remove`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// The name of an installed plugin, or at least 8 digits of its hash
    name: String,
}

impl PluginCommand {
    /// Runs the verb.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            PluginCommand::Install(args) => install(context, args).await,
            PluginCommand::List => list(context).await,
            PluginCommand::Inspect(args) => inspect(context, &args.what).await,
            PluginCommand::Remove(args) => remove(context, args.name).await,
        }
    }
}

async fn install(context: &Context, args: InstallArgs) -> Result<()> {
    let name = args.name.unwrap_or_default();
    let plugin = match hash_of(&args.what) {
        // A file that is named like a hash takes precedence, because the argument is a path first of all.
        Some(hash) if !args.what.exists() => fetch(context, hash, name).await?,
        _ => upload(context, &args.what, name).await?,
    };
    context.output.result(
        || format!("{}  {}", plugin.name, text::id(&plugin.hash)),
        || plugin_json(&plugin),
    )
}

/// The hash that `written` is, if it has 64 hexadecimal digits.
fn hash_of(written: &Path) -> Option<Vec<u8>> {
    let digits = written.to_str().filter(|digits| digits.len() == 64)?;
    hex::decode(digits).ok()
}

async fn fetch(context: &Context, hash: Vec<u8>, name: String) -> Result<api::Plugin> {
    let shown = text::short(&hash);
    let mut plugins = context.plugins(Need::Daemon("installing by hash")).await?;
    let mut messages = plugins
        .fetch(api::FetchPluginRequest { hash, name })
        .await?
        .into_inner();
    let mut progress = Progress::new();
    while let Some(message) = messages.message().await? {
        if let Some(plugin) = message.plugin {
            progress.finish();
            return Ok(plugin);
        }
        let (done, total) = (message.received_bytes, message.total_bytes);
        progress.set(&format!("fetching {shown}"), done, total, Unit::Bytes);
    }
    Err(Failure::failed(format!(
        "the node ended the download of {shown} without a result"
    )))
}

async fn upload(context: &Context, file: &Path, name: String) -> Result<api::Plugin> {
    let component = read_component(file)?;
    let mut plugins = context.plugins(Need::Home).await?;
    let messages = chunks(component).enumerate().map(move |(index, chunk)| {
        let name = if index == 0 {
            name.clone()
        } else {
            String::new()
        };
        api::InstallPluginRequest { name, chunk }
    });
    let answer = plugins.install(stream::iter(messages)).await?.into_inner();
    let plugin = answer.plugin.unwrap_or_default();
    if answer.already_installed {
        context.output.note(&format!(
            "{} was installed already",
            text::line(&plugin.name)
        ));
    }
    Ok(plugin)
}

/// Reads a component from a file. A file that is larger than nodes accept is refused before it is sent.
fn read_component(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        Failure::failed(format!("cannot read {shown}: {error}")).hint("check the path")
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut component = Vec::new();
    file.take(COMPONENT_BYTES_MAX + 1)
        .read_to_end(&mut component)
        .map_err(unreadable)?;
    if component.len() as u64 > COMPONENT_BYTES_MAX {
        return Err(Failure::failed(format!(
            "{shown} is larger than a component may be, {COMPONENT_BYTES_MAX} bytes"
        ))
        .hint("strip it of debug information"));
    }
    Ok(component)
}

/// A component in chunks. An empty component has one empty chunk, so that the node gets it and refuses it.
fn chunks(component: Vec<u8>) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    let starts = (0..component.len().max(1)).step_by(CHUNK_BYTES);
    starts.map(move |start| {
        let end = component.len().min(start + CHUNK_BYTES);
        component[start..end].to_vec()
    })
}

async fn list(context: &Context) -> Result<()> {
    let plugins = all(context).await?;
    context.output.result(
        || list_text(&plugins),
        || json!({ "plugins": plugins.iter().map(plugin_json).collect::<Vec<_>>() }),
    )
}

/// All installed components, without their interfaces.
pub(crate) async fn all(context: &Context) -> Result<Vec<api::Plugin>> {
    let client = context.plugins(Need::Node).await?;
    let (plugins, _) = pages(String::new(), None, |page_size, page_token| {
        let mut client = client.clone();
        async move {
            let page = client
                .list(api::ListPluginsRequest {
                    page_size,
                    page_token,
                })
                .await?
                .into_inner();
            Ok((page.plugins, page.next_page_token))
        }
    })
    .await?;
    Ok(plugins)
}

fn list_text(plugins: &[api::Plugin]) -> String {
    let mut table = Columns::new(&["NAME", "PACKAGE", ">SIZE", "HASH", "FROM", "USED BY"]);
    for plugin in plugins {
        let from = if plugin.bundled {
            "bundled"
        } else {
            "installed"
        };
        table.row([
            plugin.name.clone(),
            plugin.package.clone(),
            text::size(plugin.size_bytes),
            text::short(&plugin.hash),
            from.to_owned(),
            text::count(plugin.used_by.len() as u64, "store"),
        ]);
    }
    table.or("no plugins")
}

async fn inspect(context: &Context, what: &Path) -> Result<()> {
    let plugin = if is_file(what) {
        inspect_file(context, read_component(what)?).await?
    } else {
        let plugin = what
            .to_str()
            .ok_or_else(|| Failure::usage(format!("{what:?} is no UTF-8")))?
            .to_owned();
        let mut plugins = context.plugins(Need::Node).await?;
        plugins
            .inspect(api::InspectPluginRequest { plugin })
            .await?
            .into_inner()
    };
    context
        .output
        .result(|| inspect_text(&plugin), || plugin_json(&plugin))
}

/// What the node says of a component. Where there is no home, this program says it: to look at a file makes none.
async fn inspect_file(context: &Context, component: Vec<u8>) -> Result<api::Plugin> {
    let mut plugins = match context.plugins(Need::Node).await {
        Err(_) if !lattice_daemon::is_home(&context.home) => {
            return Ok(lattice_daemon::inspect(&component)?);
        }
        plugins => plugins?,
    };
    let messages = chunks(component).map(|chunk| api::InspectPluginBytesRequest { chunk });
    let answer = plugins.inspect_bytes(stream::iter(messages)).await?;
    Ok(answer.into_inner())
}

/// Whether a file is meant, and not an installed plugin: if there is such a file, or if the word has a slash or the
/// suffix `.wasm`. A directory of the same name does not hide an installed plugin.
fn is_file(what: &Path) -> bool {
    what.is_file()
        || what.components().count() > 1
        || what.extension().is_some_and(|suffix| suffix == "wasm")
}

async fn remove(context: &Context, plugin: String) -> Result<()> {
    let mut plugins = context.plugins(Need::Node).await?;
    let removed = plugins
        .remove(api::RemovePluginRequest { plugin })
        .await?
        .into_inner();
    context.output.result(
        String::new,
        || json!({ "name": removed.name, "hash": text::id_json(&removed.hash) }),
    )?;
    note_removed(context.output, &removed);
    Ok(())
}

fn note_removed(output: Output, removed: &api::RemovePluginResponse) {
    output.note(&format!("removed {}", text::line(&removed.name)));
}

fn kind_name(kind: api::InterfaceKind) -> &'static str {
    match kind {
        api::InterfaceKind::Commands => "commands",
        api::InterfaceKind::Queries => "queries",
        api::InterfaceKind::Lifecycle => "lifecycle",
        api::InterfaceKind::Unspecified => "functions",
    }
}

fn inspect_text(plugin: &api::Plugin) -> String {
    let mut rows = vec![
        ("name", plugin.name.clone()),
        ("package", plugin.package.clone()),
        ("hash", text::id(&plugin.hash)),
        ("size", text::size(plugin.size_bytes)),
        ("imports", or_none(&plugin.imports)),
    ];
    if plugin.governance {
        rows.push(("governs", "can govern stores".to_owned()));
    }
    if !plugin.ignored_exports.is_empty() {
        rows.push(("ignored", plugin.ignored_exports.join("  ")));
    }
    if !plugin.used_by.is_empty() {
        rows.push(("used by", plugin.used_by.join("  ")));
    }
    let mut shown = fields(rows);
    for problem in &plugin.problems {
        shown.push_str(&format!("\nproblem: {}", text::line(problem)));
    }
    if !plugin.problems.is_empty() {
        shown.push('\n');
    }
    for interface in &plugin.interfaces {
        shown.push('\n');
        shown.push_str(&interface_text(interface));
    }
    shown
}

/// Names on one line, or `none`.
pub(crate) fn or_none(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join("  ")
    }
}

fn interface_text(interface: &api::Interface) -> String {
    let mut shown = format!(
        "{} ({})\n",
        text::line(&interface.name),
        kind_name(interface.kind())
    );
    push_docs(&mut shown, &interface.docs, 2);
    for definition in &interface.types {
        for line in text::block(definition).lines() {
            shown.push_str(&format!("  {line}\n"));
        }
    }
    for function in &interface.functions {
        shown.push_str(&format!("  {}\n", text::line(&signature(function))));
        push_docs(&mut shown, &function.docs, 6);
    }
    shown
}

fn push_docs(shown: &mut String, docs: &str, indent: usize) {
    for line in text::block(docs.trim()).lines() {
        let line = format!("{:indent$}{line}", "");
        shown.push_str(line.trim_end());
        shown.push('\n');
    }
}

/// A function's name, parameters and result, written as in WIT.
pub(crate) fn signature(function: &api::Function) -> String {
    let parameters: Vec<String> = function
        .parameters
        .iter()
        .map(|parameter| format!("{}: {}", parameter.name, parameter.r#type))
        .collect();
    let mut signature = format!("{}({})", function.name, parameters.join(", "));
    if !function.result.is_empty() {
        signature.push_str(&format!(" -> {}", function.result));
    }
    signature
}

/// A component as JSON.
pub(crate) fn plugin_json(plugin: &api::Plugin) -> Value {
    json!({
        "name": plugin.name,
        "hash": text::id_json(&plugin.hash),
        "package": plugin.package,
        "size_bytes": plugin.size_bytes,
        "bundled": plugin.bundled,
        "installed_ms": plugin.installed_ms,
        "governance": plugin.governance,
        "imports": plugin.imports,
        "interfaces": plugin.interfaces.iter().map(interface_json).collect::<Vec<_>>(),
        "ignored_exports": plugin.ignored_exports,
        "problems": plugin.problems,
        "used_by": plugin.used_by,
    })
}

fn interface_json(interface: &api::Interface) -> Value {
    let functions: Vec<Value> = interface
        .functions
        .iter()
        .map(|function| {
            let parameters: Vec<Value> = function
                .parameters
                .iter()
                .map(|parameter| {
                    json!({
                        "name": parameter.name,
                        "type": parameter.r#type,
                        "optional": parameter.optional,
                    })
                })
                .collect();
            json!({
                "name": function.name,
                "docs": function.docs,
                "parameters": parameters,
                "result": function.result,
            })
        })
        .collect();
    json!({
        "name": interface.name,
        "kind": kind_name(interface.kind()),
        "docs": interface.docs,
        "types": interface.types,
        "functions": functions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspection_shows_functions_with_types_and_docs() {
        let plugin = api::Plugin {
            name: "counter".into(),
            interfaces: vec![api::Interface {
                name: "lattice:counter/commands".into(),
                kind: api::InterfaceKind::Commands.into(),
                docs: "Changes.\n".into(),
                functions: vec![api::Function {
                    name: "add".into(),
                    docs: "Adds `by`,\x1b\nwrapping.".into(),
                    parameters: vec![api::Parameter {
                        name: "by".into(),
                        r#type: "s64".into(),
                        optional: false,
                    }],
                    result: "result<_, string>".into(),
                }],
                types: Vec::new(),
            }],
            ..Default::default()
        };
        let shown = inspect_text(&plugin);
        assert!(
            shown.ends_with(
                "\nlattice:counter/commands (commands)\n  Changes.\n  add(by: s64) -> \
                 result<_, string>\n      Adds `by`,\\u{1b}\n      wrapping.\n"
            ),
            "{shown}"
        );
        assert!(shown.contains("imports  none\n"));
    }

    #[test]
    fn components_travel_in_chunks() {
        let sizes = |len: usize| -> Vec<usize> { chunks(vec![7; len]).map(|c| c.len()).collect() };
        assert_eq!(sizes(0), [0]);
        assert_eq!(sizes(CHUNK_BYTES), [CHUNK_BYTES]);
        assert_eq!(sizes(CHUNK_BYTES + 1), [CHUNK_BYTES, 1]);
    }

    #[test]
    fn hashes_and_files_are_told_apart() {
        assert!(hash_of(Path::new(&"ab".repeat(32))).is_some());
        assert!(hash_of(Path::new(&"xy".repeat(32))).is_none());
        assert!(hash_of(Path::new("abcd")).is_none());
        assert!(is_file(Path::new("./counter")));
        assert!(is_file(Path::new("missing.wasm")));
        assert!(!is_file(Path::new("counter")));
    }

    #[test]
    fn missing_files_exit_4() {
        let failure = read_component(Path::new("/no/such.wasm")).expect_err("missing");
        assert_eq!(failure.exit_code(), 4);
        assert!(failure.to_string().contains("/no/such.wasm"));
        assert!(read_component(Path::new("/dev/zero")).is_err());
    }
}

//! `store create`, `list`, `status`, `rename`, `rebuild` and `restart-chain`.

use clap::Args;
use lattice_daemon::api;
use serde_json::{Value, json};

use crate::arguments::{Sources, parameters};
use crate::context::{Context, pages};
use crate::failure::{Failure, Result};
use crate::output::{Columns, fields};
use crate::progress::{Progress, Unit};
use crate::session::Need;
use crate::{members, text};

/// How many floating entries `status` lists, and how many parked ones. Of the rest it shows only the number.
const WAITING_SHOWN: u32 = 20;

/// Arguments of what works on one store.
#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// A name, a path, or at least 8 digits of an id
    pub(crate) store: String,
}

/// Arguments of `store create`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lattice store create notes --plugin kv
  lattice store create team --plugin none          a root that only knows its members
  lattice store create notes --plugin kv --parent team

`lattice plugin list` shows what stores can be made from.")]
pub(crate) struct CreateArgs {
    /// What to call it
    name: String,
    /// An installed plugin, by name or at least 8 digits of its hash; or `none`
    #[arg(long, value_name = "PLUGIN")]
    plugin: String,
    /// The store that it belongs under [default: none, a root store]
    #[arg(long, value_name = "STORE")]
    parent: Option<String>,
    /// A parameter for the plugin; VALUE is written like an argument of `call`
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
}

/// Arguments of `store rename`.
#[derive(Args, Debug)]
pub(crate) struct RenameArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// The new name
    name: String,
}

/// Runs `store create`.
pub(crate) async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    let parameters = parameters(&args.params, &mut Sources::default())?;
    let parent = context.store(args.parent.as_deref().unwrap_or(""))?;
    let mut stores = context.stores(Need::Home).await?;
    let store = stores
        .create(api::CreateStoreRequest {
            name: args.name,
            plugin: args.plugin,
            parent,
            parameters,
        })
        .await?
        .into_inner();
    context
        .output
        .result(String::new, || summary_json(&store))?;
    context.output.note(&created_text("created", &store));
    Ok(())
}

/// One line about a store that was just created or joined, as `verb` says.
pub(crate) fn created_text(verb: &str, store: &api::Store) -> String {
    format!(
        "{verb} {}  {}",
        text::line(&store.path),
        text::id(&store.id)
    )
}

/// Runs `store list`.
pub(crate) async fn list(context: &Context) -> Result<()> {
    let stores = all(context).await?;
    context.output.result(
        || table(&stores),
        || json!({ "stores": stores.iter().map(summary_json).collect::<Vec<_>>() }),
    )
}

/// All stores of this node, by path.
pub(crate) async fn all(context: &Context) -> Result<Vec<api::Store>> {
    let client = context.stores(Need::Node).await?;
    let (stores, _) = pages(String::new(), None, |page_size, page_token| {
        let mut client = client.clone();
        async move {
            let page = client
                .list(api::ListStoresRequest {
                    page_size,
                    page_token,
                })
                .await?
                .into_inner();
            Ok((page.stores, page.next_page_token))
        }
    })
    .await?;
    Ok(stores)
}

/// Stores as a table.
pub(crate) fn table(stores: &[api::Store]) -> String {
    let mut table = Columns::new(&[
        "STORE", "PLUGIN", "STATE", "ROLE", ">ENTRIES", ">MEMBERS", "ID", "WHY",
    ]);
    for store in stores {
        table.row([
            store.path.clone(),
            dash(&store.plugin),
            state_name(store.state()).to_owned(),
            dash(&store.role),
            store.entry_count.to_string(),
            store.member_count.to_string(),
            text::short(&store.id),
            store.reason.clone(),
        ]);
    }
    table.or("no stores; make one with `lattice store create NAME --plugin PLUGIN`")
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// The stable name of a store's state.
pub(crate) fn state_name(state: api::StoreState) -> &'static str {
    match state {
        api::StoreState::Ready => "ready",
        api::StoreState::Joining => "joining",
        api::StoreState::Headless => "headless",
        api::StoreState::Paused => "paused",
        api::StoreState::Rebuilding => "rebuilding",
        api::StoreState::Unspecified => "unknown",
    }
}

/// A store as JSON.
pub(crate) fn summary_json(store: &api::Store) -> Value {
    json!({
        "id": text::id_json(&store.id),
        "name": store.name,
        "path": store.path,
        "parent": text::id_json(&store.parent_id),
        "plugin": store.plugin,
        "plugin_hash": text::id_json(&store.plugin_hash),
        "state": state_name(store.state()),
        "reason": store.reason,
        "role": store.role,
        "entry_count": store.entry_count,
        "member_count": store.member_count,
    })
}

/// Everything that `store status` shows.
struct Whole {
    status: api::StoreStatus,
    members: Vec<api::Member>,
    floating: Vec<api::FloatingEntry>,
    parked: Vec<api::ParkedEntry>,
}

/// Runs `store status`.
pub(crate) async fn status(context: &Context, args: StoreArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut client = context.stores(Need::Node).await?;
    let status = client
        .status(api::StoreStatusRequest {
            store: store.clone(),
        })
        .await?
        .into_inner();
    // A store that does not open has no members to show, and its state says why.
    let is_open = !status.governance_hash.is_empty();
    let members = match is_open {
        true => members::all(context, &store).await?,
        false => Vec::new(),
    };
    let floating = if status.floating_count == 0 {
        Vec::new()
    } else {
        let request = api::ListFloatingRequest {
            store: store.clone(),
            page_size: WAITING_SHOWN,
            page_token: String::new(),
        };
        client.list_floating(request).await?.into_inner().entries
    };
    let parked = if status.parked_count == 0 {
        Vec::new()
    } else {
        let request = api::ListParkedRequest {
            store,
            page_size: WAITING_SHOWN,
            page_token: String::new(),
        };
        client.list_parked(request).await?.into_inner().entries
    };
    let whole = Whole {
        status,
        members,
        floating,
        parked,
    };
    context.output.result(
        || status_text(&whole, text::now_ms()),
        || status_json(&whole),
    )
}

fn status_text(whole: &Whole, now_ms: u64) -> String {
    let status = &whole.status;
    let store = status.store.clone().unwrap_or_default();
    let mut state = state_name(store.state()).to_owned();
    if !store.reason.is_empty() {
        state = format!("{state}: {}", store.reason);
    }
    let mut entries = format!(
        "{} in the log, {} applied",
        store.entry_count, status.applied_count
    );
    for (count, what) in [
        (status.pending_count, "pending"),
        (status.void_count, "void"),
        (status.floating_count, "floating"),
        (status.parked_count, "parked"),
        (status.fork_count, "forked"),
    ] {
        if count > 0 {
            entries.push_str(&format!(", {count} {what}"));
        }
    }
    let last = status.last_time.unwrap_or_default();
    let mut rows = vec![
        ("store", store.path.clone()),
        ("id", text::id(&store.id)),
        (
            "plugin",
            format!("{}  {}", dash(&store.plugin), text::id(&store.plugin_hash)),
        ),
        ("governance", text::id(&status.governance_hash)),
        ("state", state),
        ("role", dash(&store.role)),
        ("created", text::time(status.created_ms)),
        ("last entry", text::time(last.wall_ms)),
        ("entries", entries),
        ("state root", text::id(&status.state_root)),
        ("outcomes", text::id(&status.outcome_root)),
        ("applied set", text::id(&status.applied_hash)),
        (
            "on disk",
            format!(
                "{} log, {} state",
                text::size(status.log_bytes),
                text::size(status.state_bytes)
            ),
        ),
    ];
    rows.extend(
        status
            .remarks
            .iter()
            .map(|remark| ("remark", remark.clone())),
    );
    if !status.replays.is_empty() {
        rows.push(("replays", replays_text(&status.replays)));
    }
    if status.notice_count > 0 {
        let notices = text::count(status.notice_count.into(), "notice");
        rows.push(("notices", format!("{notices}: see `lattice notices`")));
    }
    let mut shown = fields(rows);
    shown.push('\n');
    shown.push_str(&heads_table(status));
    shown.push('\n');
    shown.push_str(&members::table(&whole.members, now_ms));
    push_waiting(&mut shown, whole);
    shown
}

/// The authors whose late entries made other entries run again, with the number of runs.
fn replays_text(replays: &[api::Replays]) -> String {
    let of = |one: &api::Replays| format!("{} by {}", one.runs, text::short(&one.author));
    let list: Vec<String> = replays.iter().map(of).collect();
    list.join(", ")
}

fn heads_table(status: &api::StoreStatus) -> String {
    let mut table = Columns::new(&["HEAD", "AUTHOR", "TIME"]);
    for head in &status.heads {
        table.row([
            text::short(&head.id),
            text::short(&head.author),
            text::time(head.time.unwrap_or_default().wall_ms),
        ]);
    }
    let mut shown = table.to_string();
    let more = u64::from(status.head_count).saturating_sub(status.heads.len() as u64);
    if more > 0 {
        shown.push_str(&format!("and {more} more\n"));
    }
    shown
}

fn push_waiting(shown: &mut String, whole: &Whole) {
    let mut push = |table: Columns, count: u64, listed: usize| {
        if listed == 0 {
            return;
        }
        shown.push('\n');
        shown.push_str(&table.to_string());
        let more = count.saturating_sub(listed as u64);
        if more > 0 {
            shown.push_str(&format!("and {more} more\n"));
        }
    };
    let mut floating = Columns::new(&["FLOATING", "AUTHOR", "FROM", "RECEIVED", "WHY"]);
    for entry in &whole.floating {
        floating.row([
            text::short(&entry.id),
            text::short(&entry.author),
            text::short(&entry.sender),
            text::time(entry.received_ms),
            entry.reason.clone(),
        ]);
    }
    push(floating, whole.status.floating_count, whole.floating.len());
    let mut parked = Columns::new(&["PARKED", "AUTHOR", "FROM", "CLAIMED", "NOT BEFORE"]);
    for entry in &whole.parked {
        parked.row([
            text::short(&entry.id),
            text::short(&entry.author),
            text::short(&entry.sender),
            text::time(entry.time.unwrap_or_default().wall_ms),
            text::time(entry.not_before_ms),
        ]);
    }
    push(parked, whole.status.parked_count, whole.parked.len());
}

fn status_json(whole: &Whole) -> Value {
    let status = &whole.status;
    let time = |time: Option<api::Timestamp>| time.map(crate::outcome::time_json);
    let mut document = summary_json(&status.store.clone().unwrap_or_default());
    let more = json!({
        "governance_hash": text::id_json(&status.governance_hash),
        "created_ms": status.created_ms,
        "last_time": time(status.last_time),
        "heads": status.heads.iter().map(|head| json!({
            "id": text::id_json(&head.id),
            "author": text::id_json(&head.author),
            "time": time(head.time),
        })).collect::<Vec<_>>(),
        "head_count": status.head_count,
        "state_root": text::id_json(&status.state_root),
        "outcome_root": text::id_json(&status.outcome_root),
        "applied_hash": text::id_json(&status.applied_hash),
        "applied_count": status.applied_count,
        "pending_count": status.pending_count,
        "void_count": status.void_count,
        "floating_count": status.floating_count,
        "parked_count": status.parked_count,
        "fork_count": status.fork_count,
        "log_bytes": status.log_bytes,
        "state_bytes": status.state_bytes,
        "peer_connected_count": status.peer_connected_count,
        "notice_count": status.notice_count,
        "remarks": status.remarks,
        "replays": status.replays.iter().map(|one| json!({
            "author": text::id_json(&one.author),
            "runs": one.runs,
        })).collect::<Vec<_>>(),
        "members": whole.members.iter().map(members::member_json).collect::<Vec<_>>(),
        "floating": whole.floating.iter().map(|entry| json!({
            "id": text::id_json(&entry.id),
            "author": text::id_json(&entry.author),
            "sender": text::id_json(&entry.sender),
            "received_ms": entry.received_ms,
            "reason": entry.reason,
            "missing": entry.missing.iter().map(|id| text::id_json(id)).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "parked": whole.parked.iter().map(|entry| json!({
            "id": text::id_json(&entry.id),
            "author": text::id_json(&entry.author),
            "sender": text::id_json(&entry.sender),
            "time": time(entry.time),
            "not_before_ms": entry.not_before_ms,
        })).collect::<Vec<_>>(),
    });
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    document
}

/// Runs `store rename`.
pub(crate) async fn rename(context: &Context, args: RenameArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let renamed = stores
        .rename(api::RenameStoreRequest {
            store,
            name: args.name,
        })
        .await?
        .into_inner();
    // `.` is the shell's current store, which is now known by its new name.
    if args.store == "." {
        context.set_current_store(Some(renamed.path.clone()));
    }
    context
        .output
        .result(String::new, || summary_json(&renamed))?;
    context
        .output
        .note(&format!("its name is now {}", text::line(&renamed.path)));
    Ok(())
}

/// Runs `store rebuild`.
pub(crate) async fn rebuild(context: &Context, args: StoreArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let mut messages = stores
        .rebuild(api::RebuildStoreRequest {
            store: store.clone(),
        })
        .await?
        .into_inner();
    let mut progress = Progress::new();
    let (mut applied, mut result) = (0, None);
    while let Some(message) = messages.message().await? {
        applied = message.applied_count;
        progress.set("folding", applied, message.total_count, Unit::Things);
        result = message.result;
    }
    progress.finish();
    let result = result.ok_or_else(|| {
        Failure::failed(format!(
            "the node ended the rebuild of {store} without a result"
        ))
    })?;
    context.output.result(
        || rebuild_text(&result, applied),
        || {
            json!({
                "applied_count": applied,
                "state_root": text::id_json(&result.state_root),
                "state_root_before": text::id_json(&result.state_root_before),
                "outcome_root": text::id_json(&result.outcome_root),
                "outcome_root_before": text::id_json(&result.outcome_root_before),
            })
        },
    )
}

/// Runs `store restart-chain`.
pub(crate) async fn restart_chain(context: &Context, args: StoreArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let restarted = stores
        .restart_chain(api::RestartChainRequest { store })
        .await?
        .into_inner();
    let chain = hex::encode(&restarted.chain);
    context.output.result(String::new, || {
        json!({
            "left_chain": chain,
            "above_ms": restarted.above_ms,
            "ahead_ms": restarted.ahead_ms,
        })
    })?;
    context.output.note(&format!(
        "the next entry starts another chain; what the old one holds, {} ahead, reaches peers when their clocks get there",
        text::duration(restarted.ahead_ms / 1000)
    ));
    Ok(())
}

fn rebuild_text(result: &api::RebuildResult, applied: u64) -> String {
    let against = |before: &[u8], after: &[u8]| {
        if before.is_empty() {
            "the old one could not be read".to_owned()
        } else if before == after {
            "as before".to_owned()
        } else {
            format!("was {}", text::id(before))
        }
    };
    fields([
        ("folded", text::count(applied, "entry")),
        (
            "state root",
            format!(
                "{}  {}",
                text::id(&result.state_root),
                against(&result.state_root_before, &result.state_root)
            ),
        ),
        (
            "outcomes",
            format!(
                "{}  {}",
                text::id(&result.outcome_root),
                against(&result.outcome_root_before, &result.outcome_root)
            ),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> api::Store {
        api::Store {
            id: vec![0xab; 32],
            name: "notes".into(),
            path: "team/notes".into(),
            plugin: "kv".into(),
            state: api::StoreState::Headless.into(),
            reason: "component 01ab is missing".into(),
            entry_count: 12,
            member_count: 2,
            ..Default::default()
        }
    }

    #[test]
    fn stores_are_listed_with_what_keeps_them() {
        assert_eq!(
            table(&[notes()]),
            "STORE       PLUGIN  STATE     ROLE  ENTRIES  MEMBERS  ID            WHY\n\
             team/notes  kv      headless  -          12        2  abababababab  component 01ab is missing\n"
        );
        assert!(table(&[]).starts_with("no stores; make one"));
    }

    #[test]
    fn status_shows_what_waits_and_why() {
        let whole = Whole {
            status: api::StoreStatus {
                store: Some(notes()),
                applied_count: 11,
                pending_count: 1,
                floating_count: 30,
                heads: vec![api::Head::default()],
                head_count: 3,
                remarks: vec!["careful".into()],
                replays: vec![api::Replays {
                    author: vec![7; 32],
                    runs: 40,
                }],
                ..Default::default()
            },
            members: Vec::new(),
            floating: vec![api::FloatingEntry {
                id: vec![1; 32],
                reason: "body missing".into(),
                ..Default::default()
            }],
            parked: Vec::new(),
        };
        let shown = status_text(&whole, 0);
        for expected in [
            "state        headless: component 01ab is missing\n",
            "12 in the log, 11 applied, 1 pending, 30 floating\n",
            "replays      40 by 07070707",
            "and 2 more\n",
            "body missing\nand 29 more\n",
        ] {
            assert!(shown.contains(expected), "{expected:?} in:\n{shown}");
        }
        let document = status_json(&whole);
        assert_eq!(document["name"], "notes");
        assert_eq!(document["floating"][0]["reason"], "body missing");
        assert_eq!(document["state_root"], Value::Null);
    }

    #[test]
    fn a_rebuild_says_whether_anything_changed() {
        let result = api::RebuildResult {
            state_root: vec![1; 32],
            state_root_before: vec![1; 32],
            outcome_root: vec![2; 32],
            outcome_root_before: Vec::new(),
        };
        let shown = rebuild_text(&result, 5);
        assert!(shown.contains("as before"), "{shown}");
        assert!(shown.contains("could not be read"), "{shown}");
    }
}

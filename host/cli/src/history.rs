//! `store history`: a store's entries with their calls and outcomes, or the graph that they form.

use clap::{Args, ValueEnum};
use lattice_daemon::api;
use serde_json::{Value, json};

use crate::context::{Context, pages};
use crate::failure::{Failure, Result};
use crate::graph;
use crate::output::Columns;
use crate::session::Need;
use crate::{outcome, text};

/// How many characters of a call, and of an outcome, the table shows; `-v` shows all.
const CALL_CHARS: usize = 80;

/// Arguments of `store history`.
#[derive(Args, Debug)]
#[command(after_help = "\
TIME is written as 2026-05-01, as 2026-05-01T12:00:00Z, or as how long ago it
was: 90min, 2days. It is the time that authors claim; RECEIVED in the list is
when an entry reached this node.")]
pub(crate) struct HistoryArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// Only what this member or device wrote
    #[arg(long, value_name = "MEMBER")]
    by: Option<String>,
    /// Only what claims this time or a later one
    #[arg(long, value_name = "TIME", value_parser = text::parse_time_ms)]
    since: Option<u64>,
    /// Only what claims an earlier time than this
    #[arg(long, value_name = "TIME", value_parser = text::parse_time_ms)]
    until: Option<u64>,
    /// Only calls of this function
    #[arg(long, value_name = "FUNCTION")]
    function: Option<String>,
    /// Only calls with this outcome
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<OutcomeFilter>,
    /// Only this lane [default: both]
    #[arg(long, value_name = "LANE")]
    lane: Option<LaneFilter>,
    /// Oldest first [default: newest first]
    #[arg(long)]
    reverse: bool,
    /// How many entries to show; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    /// Continue where a shorter history ended
    #[arg(long, value_name = "PAGE")]
    page: Option<String>,
    /// Draw who had seen what, newest first
    #[arg(
        long,
        conflicts_with_all = ["by", "since", "until", "function", "outcome", "reverse"]
    )]
    graph: bool,
}

/// What `--outcome` takes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutcomeFilter {
    Ok,
    Refused,
    Unauthorized,
    Trapped,
    Void,
    Pending,
}

/// What `--lane` takes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LaneFilter {
    System,
    App,
}

impl From<OutcomeFilter> for api::OutcomeKind {
    fn from(filter: OutcomeFilter) -> Self {
        match filter {
            OutcomeFilter::Ok => api::OutcomeKind::Ok,
            OutcomeFilter::Refused => api::OutcomeKind::Refused,
            OutcomeFilter::Unauthorized => api::OutcomeKind::Unauthorized,
            OutcomeFilter::Trapped => api::OutcomeKind::Trapped,
            OutcomeFilter::Void => api::OutcomeKind::Void,
            OutcomeFilter::Pending => api::OutcomeKind::Pending,
        }
    }
}

impl From<LaneFilter> for api::Lane {
    fn from(filter: LaneFilter) -> Self {
        match filter {
            LaneFilter::System => api::Lane::System,
            LaneFilter::App => api::Lane::App,
        }
    }
}

/// Runs `store history`.
pub(crate) async fn run(context: &Context, args: HistoryArgs) -> Result<()> {
    if let (Some(since), Some(until)) = (args.since, args.until)
        && since >= until
    {
        return Err(Failure::usage(format!(
            "--since {} is not before --until {}",
            text::time(since),
            text::time(until)
        )));
    }
    if args.graph {
        draw(context, args).await
    } else {
        list(context, args).await
    }
}

fn limit_of(args: &HistoryArgs) -> Option<u32> {
    (args.limit > 0).then_some(args.limit)
}

fn lane_of(args: &HistoryArgs) -> i32 {
    args.lane
        .map_or(api::Lane::Unspecified, api::Lane::from)
        .into()
}

async fn list(context: &Context, args: HistoryArgs) -> Result<()> {
    let request = api::HistoryRequest {
        store: context.store(&args.store)?,
        by: args.by.clone().unwrap_or_default(),
        since_ms: args.since.unwrap_or(0),
        until_ms: args.until.unwrap_or(0),
        function: args.function.clone().unwrap_or_default(),
        outcome: args
            .outcome
            .map_or(api::OutcomeKind::Unspecified, api::OutcomeKind::from)
            .into(),
        lane: lane_of(&args),
        oldest_first: args.reverse,
        forms: outcome::forms(context.output),
        ..Default::default()
    };
    let stores = context.stores(Need::Node).await?;
    let limit = limit_of(&args);
    let first = args.page.unwrap_or_default();
    let (entries, next) = pages(first, limit, |page_size, page_token| {
        let mut stores = stores.clone();
        let request = api::HistoryRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        async move {
            let page = stores.history(request).await?.into_inner();
            Ok((page.entries, page.next_page_token))
        }
    })
    .await?;
    let chars_max = match context.verbosity {
        0 => CALL_CHARS,
        _ => usize::MAX,
    };
    context.output.result(
        || history_text(&entries, chars_max),
        || {
            json!({
                "entries": entries.iter().map(entry_json).collect::<Vec<_>>(),
                "next_page": next,
            })
        },
    )?;
    note_more(context, entries.len(), &next);
    Ok(())
}

/// Tells a person how to go on with a list that is not complete.
fn note_more(context: &Context, shown: usize, next: &str) {
    if !next.is_empty() {
        context.output.note(&format!(
            "{} shown; go on with --page {next}, or show all with --limit 0",
            text::count(shown as u64, "entry")
        ));
    }
}

fn history_text(entries: &[api::HistoryEntry], chars_max: usize) -> String {
    let mut table = Columns::new(&["TIME", "RECEIVED", "AUTHOR", "ENTRY", "CALL", "OUTCOME"]);
    let fit = |text: String| text::shorten(&text, chars_max);
    for entry in entries {
        let mut push = |calls: String, outcome: String| {
            table.row([
                text::time(entry.time.unwrap_or_default().wall_ms),
                text::time(entry.received_ms),
                author(&entry.member, &entry.author),
                text::short(&entry.id),
                fit(calls),
                fit(outcome),
            ]);
        };
        if entry.gathers || entry.transactions.is_empty() {
            push(title(entry).to_owned(), "-".to_owned());
            continue;
        }
        for transaction in &entry.transactions {
            let calls: Vec<String> = {
                let calls = transaction.calls.iter();
                match entry.shortened {
                    true => calls.map(shortened_call_text).collect(),
                    false => calls.map(call_text).collect(),
                }
            };
            let calls = if calls.is_empty() {
                title(entry).to_owned()
            } else {
                calls.join("; ")
            };
            let outcome = transaction.outcome.as_ref();
            push(
                calls,
                outcome.map_or_else(|| "pending".to_owned(), outcome::brief),
            );
        }
    }
    table.or("no entries")
}

/// What the table shows in place of the calls of an entry that has none.
fn title(entry: &api::HistoryEntry) -> &'static str {
    match entry {
        entry if entry.genesis => "(genesis)",
        entry if entry.gathers => "(names heads)",
        _ => "-",
    }
}

fn author(member: &str, key: &[u8]) -> String {
    if member.is_empty() {
        text::short(key)
    } else {
        member.to_owned()
    }
}

/// A call whose arguments the node has left out, because the entry was too large for a message.
fn shortened_call_text(call: &api::HistoryCall) -> String {
    format!("{}(…)", call.function)
}

fn call_text(call: &api::HistoryCall) -> String {
    let arguments: Vec<String> = call
        .arguments
        .iter()
        .map(|argument| outcome::value_text(&argument.value.clone().unwrap_or_default()))
        .collect();
    if arguments.is_empty() && call.arguments_cbor.len() > 1 {
        // The code in effect cannot read the arguments. There are some, because an empty list is one byte.
        return format!("{}(0x{})", call.function, hex::encode(&call.arguments_cbor));
    }
    format!("{}({})", call.function, arguments.join(", "))
}

fn lane_name(lane: api::Lane) -> &'static str {
    match lane {
        api::Lane::System => "system",
        api::Lane::App => "app",
        api::Lane::Unspecified => "unknown",
    }
}

fn entry_json(entry: &api::HistoryEntry) -> Value {
    json!({
        "id": text::id_json(&entry.id),
        "lane": lane_name(entry.lane()),
        "author": text::id_json(&entry.author),
        "member": entry.member,
        "time": entry.time.map(outcome::time_json),
        "received_ms": entry.received_ms,
        "chain": format!("{:016x}", entry.chain),
        "seq": entry.seq,
        "genesis": entry.genesis,
        "transactions": entry.transactions.iter().map(transaction_json).collect::<Vec<_>>(),
        "shortened": entry.shortened,
        "gathers": entry.gathers,
    })
}

fn transaction_json(transaction: &api::HistoryTransaction) -> Value {
    let mut members = outcome::document(&transaction.outcome.clone().unwrap_or_default());
    members.insert("index".into(), transaction.index.into());
    members.insert("provisional".into(), transaction.provisional.into());
    let calls: Vec<Value> = transaction.calls.iter().map(call_json).collect();
    members.insert("calls".into(), calls.into());
    members.into()
}

fn call_json(call: &api::HistoryCall) -> Value {
    let arguments: Vec<Value> = call
        .arguments
        .iter()
        .map(|argument| {
            let value = argument.value.clone().unwrap_or_default();
            json!({ "name": argument.name, "value": outcome::value_json(&value) })
        })
        .collect();
    json!({
        "id": text::id_json(&call.id),
        "interface": call.interface,
        "function": call.function,
        "arguments": arguments,
        "arguments_cbor": hex::encode(&call.arguments_cbor),
    })
}

async fn draw(context: &Context, args: HistoryArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let lane = lane_of(&args);
    let stores = context.stores(Need::Node).await?;
    let limit = limit_of(&args);
    let first = args.page.unwrap_or_default();
    let (nodes, next) = pages(first, limit, |page_size, page_token| {
        let (mut stores, store) = (stores.clone(), store.clone());
        async move {
            let page = stores
                .graph(api::GraphRequest {
                    store,
                    lane,
                    page_size,
                    page_token,
                })
                .await?
                .into_inner();
            Ok((page.nodes, page.next_page_token))
        }
    })
    .await?;
    context.output.result(
        || graph_text(&nodes),
        || {
            json!({
                "nodes": nodes.iter().map(node_json).collect::<Vec<_>>(),
                "next_page": next,
            })
        },
    )?;
    note_more(context, nodes.len(), &next);
    Ok(())
}

fn graph_text(nodes: &[api::GraphNode]) -> String {
    if nodes.is_empty() {
        return "no entries".to_owned();
    }
    graph::draw(nodes.iter().map(|node| graph::Row {
        id: &node.id,
        parents: node.parents.iter().map(Vec::as_slice).collect(),
        glyph: match (node.void, node.head) {
            (true, _) => 'x',
            (false, true) => '@',
            (false, false) => 'o',
        },
        label: format!(
            "{}  {}  {}  {}{}",
            text::short(&node.id),
            text::time(node.time.unwrap_or_default().wall_ms),
            text::line(&author(&node.member, &node.author)),
            text::line(&node.summary),
            if node.void { "  (void)" } else { "" },
        ),
    }))
}

fn node_json(node: &api::GraphNode) -> Value {
    json!({
        "id": text::id_json(&node.id),
        "parents": node.parents.iter().map(|id| text::id_json(id)).collect::<Vec<_>>(),
        "lane": lane_name(node.lane()),
        "author": text::id_json(&node.author),
        "member": node.member,
        "time": node.time.map(outcome::time_json),
        "head": node.head,
        "void": node.void,
        "summary": node.summary,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> api::HistoryEntry {
        let value = |text: &str, json: &str| {
            Some(api::Value {
                text: text.into(),
                json: json.into(),
                cbor: Vec::new(),
            })
        };
        api::HistoryEntry {
            id: vec![0xee; 32],
            lane: api::Lane::App.into(),
            member: "ann".into(),
            time: Some(api::Timestamp {
                wall_ms: 1_777_636_800_123,
                counter: 2,
            }),
            received_ms: 1_777_636_801_000,
            transactions: vec![api::HistoryTransaction {
                index: 0,
                calls: vec![api::HistoryCall {
                    function: "put".into(),
                    interface: "lattice:kv/commands".into(),
                    arguments: vec![
                        api::NamedValue {
                            name: "key".into(),
                            value: value("\"a\u{1b}\"", "\"YQ==\""),
                        },
                        api::NamedValue {
                            name: "value".into(),
                            value: value("\"b\"", "\"Yg==\""),
                        },
                    ],
                    ..Default::default()
                }],
                outcome: Some(api::Outcome {
                    kind: api::OutcomeKind::Ok.into(),
                    ..Default::default()
                }),
                provisional: true,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn history_shows_both_times_author_call_and_outcome() {
        let shown = history_text(&[entry()], CALL_CHARS);
        assert_eq!(
            shown.lines().nth(1),
            Some(
                "2026-05-01T12:00:00.123Z  2026-05-01T12:00:01.000Z  ann     eeeeeeeeeeee  \
                 put(\"a\\u{1b}\", \"b\")  ok"
            ),
            "{shown}"
        );
        assert_eq!(history_text(&[], CALL_CHARS), "no entries");
    }

    #[test]
    fn an_entry_that_gathers_heads_shows_no_call_and_no_outcome() {
        let gathers = api::HistoryEntry {
            gathers: true,
            ..entry()
        };
        let shown = history_text(std::slice::from_ref(&gathers), CALL_CHARS);
        let line = shown.lines().nth(1).unwrap_or_default();
        assert!(line.ends_with("eeeeeeeeeeee  (names heads)  -"), "{shown}");
        assert_eq!(entry_json(&gathers)["gathers"], true);
    }

    #[test]
    fn unreadable_arguments_show_as_bytes() {
        let call = api::HistoryCall {
            function: "gone".into(),
            arguments_cbor: vec![0x81, 5],
            ..Default::default()
        };
        assert_eq!(call_text(&call), "gone(0x8105)");
        let none = api::HistoryCall {
            function: "go".into(),
            arguments_cbor: vec![0x80],
            ..Default::default()
        };
        assert_eq!(call_text(&none), "go()");
        // Arguments of an entry that was too large for a message are left out.
        assert_eq!(shortened_call_text(&call), "gone(…)");
    }

    #[test]
    fn history_is_a_document_with_a_next_page() {
        let document = entry_json(&entry());
        assert_eq!(document["transactions"][0]["outcome"], "ok");
        assert_eq!(
            document["transactions"][0]["calls"][0]["arguments"][1],
            json!({"name": "value", "value": "Yg=="})
        );
    }
}

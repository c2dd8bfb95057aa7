//! `notices`: lists what a person should know, and acknowledges it.

use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, Subcommand};
use lattice_daemon::api;
use serde_json::{Value, json};

use crate::context::{Context, pages};
use crate::failure::Result;
use crate::output::Columns;
use crate::{outcome, text};

/// Arguments of `notices`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NoticesArgs {
    #[command(subcommand)]
    verb: Option<NoticesVerb>,
    /// Show those that were acknowledged as well
    #[arg(long)]
    all: bool,
    /// Only those of this store
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
}

/// The verbs of `notices`; without one it lists.
#[derive(Debug, Subcommand)]
pub(crate) enum NoticesVerb {
    /// Mark notices as read, so that they are not shown again
    Ack(AckArgs),
}

/// Arguments of `notices ack`.
#[derive(Args, Debug)]
pub(crate) struct AckArgs {
    /// Numbers of notices, as the list shows them
    #[arg(value_name = "NUMBER", required_unless_present = "all")]
    ids: Vec<u64>,
    /// Every notice
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

/// Runs `notices`.
pub(crate) async fn run(context: &Context, args: NoticesArgs) -> Result<()> {
    match args.verb {
        Some(NoticesVerb::Ack(ack)) => acknowledge(context, ack).await,
        None => list(context, &args).await,
    }
}

async fn list(context: &Context, args: &NoticesArgs) -> Result<()> {
    let store = context.store(args.store.as_deref().unwrap_or_default())?;
    let node = context.node().await?;
    let more = AtomicU64::new(0);
    let (notices, _) = pages(String::new(), None, |page_size, page_token| {
        let (mut node, store, more) = (node.clone(), store.clone(), &more);
        async move {
            let page = node
                .list_notices(api::ListNoticesRequest {
                    include_acknowledged: args.all,
                    store,
                    page_size,
                    page_token,
                })
                .await?
                .into_inner();
            more.store(page.more_count, Ordering::Relaxed);
            Ok((page.notices, page.next_page_token))
        }
    })
    .await?;
    let more = more.into_inner();
    context.output.result(
        || notices_text(&notices, more),
        || {
            json!({
                "notices": notices.iter().map(notice_json).collect::<Vec<_>>(),
                "more_count": more,
            })
        },
    )
}

async fn acknowledge(context: &Context, args: AckArgs) -> Result<()> {
    let mut node = context.node().await?;
    let answer = node
        .acknowledge_notices(api::AcknowledgeNoticesRequest {
            ids: args.ids,
            all: args.all,
        })
        .await?
        .into_inner();
    context.output.result(
        String::new,
        || json!({ "acknowledged_count": answer.acknowledged_count }),
    )?;
    let read = text::count(answer.acknowledged_count.into(), "notice");
    context.output.note(&format!("{read} acknowledged"));
    Ok(())
}

fn kind_name(kind: api::NoticeKind) -> &'static str {
    match kind {
        api::NoticeKind::OutcomeChanged => "outcome",
        api::NoticeKind::Fork => "fork",
        api::NoticeKind::Divergence => "divergence",
        api::NoticeKind::Paused => "paused",
        api::NoticeKind::Clock => "clock",
        api::NoticeKind::Copy => "copy",
        api::NoticeKind::Other | api::NoticeKind::Unspecified => "other",
    }
}

fn notices_text(notices: &[api::Notice], more: u64) -> String {
    let mut table = Columns::new(&[">NO", "RAISED", "KIND", "STORE", "ENTRY", "WHAT"]);
    for notice in notices {
        table.row([
            notice.id.to_string(),
            text::time(notice.raised_ms),
            kind_name(notice.kind()).to_owned(),
            notice.store_name.clone(),
            text::short(&notice.entry_id),
            what(notice),
        ]);
    }
    let mut shown = table.or("no notices");
    if more > 0 {
        shown.push_str(&format!(
            "\nand {more} more that were not kept; the counter ends when all are acknowledged"
        ));
    }
    shown
}

fn what(notice: &api::Notice) -> String {
    let Some(told) = &notice.told else {
        return notice.text.clone();
    };
    let now = notice
        .now
        .as_ref()
        .map_or_else(|| "void".to_owned(), outcome::brief);
    let change = format!("told {}, now {now}", outcome::brief(told));
    if notice.text.is_empty() {
        change
    } else {
        format!("{}: {change}", notice.text)
    }
}

fn notice_json(notice: &api::Notice) -> Value {
    let outcome = |told: &Option<api::Outcome>| {
        told.as_ref()
            .map_or(Value::Null, |told| outcome::document(told).into())
    };
    json!({
        "id": notice.id,
        "kind": kind_name(notice.kind()),
        "raised_ms": notice.raised_ms,
        "store": text::id_json(&notice.store_id),
        "store_name": notice.store_name,
        "entry": text::id_json(&notice.entry_id),
        "author": text::id_json(&notice.author),
        "text": notice.text,
        "told": outcome(&notice.told),
        "now": outcome(&notice.now),
        "acknowledged_ms": notice.acknowledged_ms,
        "shortened": notice.shortened,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_outcome_shows_both() {
        let ok = api::Outcome {
            kind: api::OutcomeKind::Ok.into(),
            ..Default::default()
        };
        let notice = api::Notice {
            id: 7,
            kind: api::NoticeKind::OutcomeChanged.into(),
            raised_ms: 1,
            store_name: "bank".into(),
            text: "take 5".into(),
            told: Some(ok),
            ..Default::default()
        };
        let shown = notices_text(&[notice], 0);
        assert!(shown.contains("take 5: told ok, now void"), "{shown}");
        assert!(!shown.contains("not kept"), "{shown}");
        assert_eq!(notices_text(&[], 0), "no notices");
    }

    #[test]
    fn those_that_were_not_kept_are_counted() {
        let shown = notices_text(&[api::Notice::default()], 12);
        assert!(shown.contains("and 12 more that were not kept"), "{shown}");
    }
}

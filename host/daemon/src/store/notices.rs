//! Notices: what a person should know without asking. They are kept until they are acknowledged.

use std::sync::Arc;

use lattice_format::{Body, DeviceKey, IntentionId, StoreId};
use lattice_kernel::clock::Span;
use lattice_kernel::{Notice, Outcome};
use lattice_runtime::Function;

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::outcome::{self, Forms};
use crate::api::page::{Page, item_bytes};
use crate::limits::{ACKNOWLEDGE_MAX, PAGE_BYTES_MAX};
use crate::node::lookup;
use crate::node::lookup::Code;
use crate::node::records::NoticeRecord;
use crate::node::{Node, Slot};

/// The record of a notice; `None` for [`Notice::More`], which is only counted.
fn notice_record(store: &StoreId, notice: &Notice, now_ms: u64) -> Option<NoticeRecord> {
    let mut record = NoticeRecord {
        raised_ms: now_ms,
        store: store.0.to_vec(),
        ..Default::default()
    };
    let mut origin = blake3::Hasher::new();
    origin.update(&store.0);
    match notice {
        Notice::OutcomeChanged {
            entry,
            transaction,
            told,
            now,
        } => {
            record.kind = api::NoticeKind::OutcomeChanged.into();
            record.transaction = *transaction;
            record.entry = entry.0.to_vec();
            record.told = told.to_cbor();
            record.now = now.as_ref().map_or(Vec::new(), Outcome::to_cbor);
            record.text = format!(
                "a call that was told {} is now {}: an entry that arrived later stands before it",
                word(Some(told)),
                word(now.as_ref())
            );
            origin.update(&entry.0).update(&transaction.to_be_bytes());
            origin.update(&record.told).update(&[0]).update(&record.now);
        }
        Notice::Fork { author, entry } => {
            record.kind = api::NoticeKind::Fork.into();
            record.entry = entry.0.to_vec();
            record.author = author.0.to_vec();
            record.text = format!(
                "the device {} signed two entries for one place of its chain; its key may be in two hands, or a backup was restored",
                short(author)
            );
            origin.update(b"fork").update(&entry.0);
        }
        Notice::Divergence { author, entry } => {
            record.kind = api::NoticeKind::Divergence.into();
            record.entry = entry.0.to_vec();
            record.author = author.0.to_vec();
            record.text = format!(
                "the device {} has another state for the same entries; run `lattice store rebuild {}` on both, and report it if they still differ",
                short(author),
                lookup::short(&store.0)
            );
            origin.update(b"divergence").update(&entry.0);
        }
        Notice::ClockLeapt { wall_ms, by_ms } => {
            record.kind = api::NoticeKind::Clock.into();
            record.text = format!(
                "an entry was signed {} after the one before, by a clock that no peer confirmed; if the clock was ahead, set it and run `lattice store restart-chain {}`",
                Span(*by_ms),
                lookup::short(&store.0)
            );
            origin.update(b"leapt").update(&wall_ms.to_be_bytes());
        }
        Notice::ChainAhead { entry, wall_ms } => {
            record.kind = api::NoticeKind::Clock.into();
            record.entry = entry.0.to_vec();
            record.text = format!(
                "the last entry of this device is {} ahead, so peers park it, and would park all that follows; `lattice store restart-chain {}` starts a new chain below it",
                Span(wall_ms.saturating_sub(now_ms)),
                lookup::short(&store.0)
            );
            origin.update(b"ahead").update(&entry.0);
        }
        Notice::More { .. } => return None,
    }
    record.origin = origin.finalize().as_bytes().to_vec();
    Some(record)
}

fn short(key: &DeviceKey) -> String {
    hex::encode(&key.0[..8])
}

fn word(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        None => "void",
        Some(Outcome::Ok(_)) => "ok",
        Some(Outcome::Refused { .. }) => "refused",
        Some(Outcome::Unauthorized { .. }) => "unauthorized",
        Some(Outcome::Trapped { .. }) => "trapped",
    }
}

/// Keeps the notices that a store raised, or counts those for which there is no room. Returns whether that is durable.
pub(crate) fn keep_notices(node: &Node, store: &StoreId, notices: &[Notice]) -> bool {
    let now_ms = node.clock.now_ms();
    let records = notices
        .iter()
        .filter_map(|notice| notice_record(store, notice, now_ms));
    let more = notices.iter().map(|notice| match notice {
        Notice::More { count } => *count,
        _ => 0,
    });
    let kept = node.records.add_notices(records.collect(), more.sum());
    if let Err(error) = &kept {
        tracing::error!("{error}");
    }
    kept.is_ok()
}

/// Lets a person know that the derived state of a store was damaged and is made again. The store loses nothing by
/// it, but its disk may go on like that.
pub(crate) fn tell_of_removed_state(node: &Node, store: &StoreId, damage: &str) {
    let text = format!(
        "state.redb was damaged ({damage}) and was removed; it is made again from the log, and nothing is lost; check the disk"
    );
    tell(node, store, b"removed state", text);
}

/// Lets a person know that the directory of a store is gone, so that the node forgets it.
pub(crate) fn tell_of_lost_store(node: &Node, store: &StoreId, name: &str) {
    let remedy = "while no daemon runs, put it back from a backup, or join the store again";
    let text = format!(
        "the store {name} is forgotten, because its directory, {}, is gone; {remedy}",
        node.home.store(store).display()
    );
    tell(node, store, b"lost store", text);
}

/// Lets a person know that a store was found that the node did not know of: its records were lost, or its directory
/// was put there.
pub(crate) fn tell_of_found_store(node: &Node, store: &StoreId, name: &str) {
    let remedy = format!("`lattice store rename {name} NAME` gives it another name");
    let text = format!(
        "a store was found that node.redb does not know, and is called {name} here; {remedy}"
    );
    tell(node, store, b"found store", text);
}

/// Keeps a notice of the node itself about a store.
fn tell(node: &Node, store: &StoreId, what: &[u8], text: String) {
    let now_ms = node.clock.now_ms();
    let mut origin = blake3::Hasher::new();
    origin.update(&store.0).update(what);
    origin.update(&now_ms.to_be_bytes());
    tracing::warn!(%store, "{text}");
    let notice = NoticeRecord {
        kind: api::NoticeKind::Other.into(),
        raised_ms: now_ms,
        store: store.0.to_vec(),
        text,
        origin: origin.finalize().as_bytes().to_vec(),
        ..Default::default()
    };
    if let Err(error) = node.records.add_notices(vec![notice], 0) {
        tracing::error!(%store, "{error}");
    }
}

/// A page of the notices, the oldest first.
pub(crate) fn list_notices(
    node: &Node,
    request: api::ListNoticesRequest,
) -> Result<api::ListNoticesResponse> {
    let only = match request.store.as_str() {
        "" => None,
        text => Some(lookup::find_slot(node, text)?.id),
    };
    let filters: [&[u8]; 2] = [
        request.store.as_bytes(),
        &[u8::from(request.include_acknowledged)],
    ];
    let page = Page::new(request.page_size, &request.page_token, &filters)?;
    let shown = |notice: &NoticeRecord| {
        (request.include_acknowledged || notice.acknowledged_ms == 0)
            && only.is_none_or(|only| notice.store == only.0)
    };
    let rows = node
        .records
        .notices()?
        .into_iter()
        .filter(|(_, notice)| shown(notice))
        .map(|(number, notice)| {
            (
                number.to_be_bytes().to_vec(),
                show_notice(node, number, notice),
            )
        })
        .collect();
    let (notices, next_page_token) = page.cut(rows);
    Ok(api::ListNoticesResponse {
        notices,
        next_page_token,
        more_count: node.records.more_notices()?,
    })
}

fn show_notice(node: &Node, number: u64, notice: NoticeRecord) -> api::Notice {
    let slot = StoreId::from_slice(&notice.store).and_then(|id| node.slot(&id));
    let told_of = slot
        .as_ref()
        .and_then(|slot| functions(node, slot, &notice));
    let functions: Vec<_> = told_of.iter().flatten().map(Option::as_ref).collect();
    let forms = Forms::from_request(&[]);
    let outcome = |bytes: &[u8]| {
        Outcome::from_cbor(bytes).map(|outcome| outcome::show(&outcome, &functions, forms))
    };
    let mut shown = api::Notice {
        id: number,
        kind: notice.kind,
        raised_ms: notice.raised_ms,
        told: outcome(&notice.told),
        now: outcome(&notice.now),
        store_name: slot.map_or(String::new(), |slot| slot.name()),
        store_id: notice.store,
        entry_id: notice.entry,
        author: notice.author,
        text: notice.text,
        acknowledged_ms: notice.acknowledged_ms,
        shortened: false,
    };
    if item_bytes(&shown) > PAGE_BYTES_MAX {
        shown.shortened = true;
        for outcome in [&mut shown.told, &mut shown.now].into_iter().flatten() {
            outcome::leave_out_values(outcome);
        }
    }
    shown
}

/// The functions of the transaction that a notice is about. Their types make its outcomes readable. `None` when the
/// store does not open, or the entry or its code cannot be read.
fn functions(
    node: &Node,
    slot: &Arc<Slot>,
    notice: &NoticeRecord,
) -> Option<Vec<Option<Function>>> {
    let entry = IntentionId::from_slice(&notice.entry)?;
    let snapshot = node.open_slot(slot).ok()?.snapshot();
    let entry = snapshot.entry(&entry).ok()??;
    let body = Body::decode(entry.body.as_deref()?).ok()?;
    let code = Code::of(node, &snapshot).ok()?;
    let schema = code.lane(entry.header.lane)?;
    let transaction = body.transactions.get(notice.transaction as usize)?;
    let calls = transaction.calls.iter();
    Some(
        calls
            .map(|call| schema.function(&call.interface, &call.function).cloned())
            .collect(),
    )
}

/// Marks notices as acknowledged: all, or those that the request names.
pub(crate) fn acknowledge(
    node: &Node,
    request: api::AcknowledgeNoticesRequest,
) -> Result<api::AcknowledgeNoticesResponse> {
    if request.all && !request.ids.is_empty() {
        return Err(Failure::usage("either all notices or some, not both"));
    }
    if request.ids.len() > ACKNOWLEDGE_MAX {
        return Err(Failure::usage(format!(
            "{} notices at once are more than {ACKNOWLEDGE_MAX}",
            request.ids.len()
        ))
        .hint("acknowledge some after the others, or all"));
    }
    let ids = match request.all {
        false => request.ids,
        true => {
            let open = |(number, notice): (u64, NoticeRecord)| {
                (notice.acknowledged_ms == 0).then_some(number)
            };
            node.records
                .notices()?
                .into_iter()
                .filter_map(open)
                .collect()
        }
    };
    match node.records.acknowledge(&ids, node.clock.now_ms())? {
        Some(acknowledged_count) => Ok(api::AcknowledgeNoticesResponse { acknowledged_count }),
        None => Err(
            Failure::not_found("one of these notices does not exist; none was marked")
                .hint("`lattice notices` shows their numbers"),
        ),
    }
}

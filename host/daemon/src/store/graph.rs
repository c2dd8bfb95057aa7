//! The history of a store as a graph: entries, and the entries that each of them names.

use std::collections::HashSet;

use lattice_format::{IntentionId, Lane, Position};
use lattice_kernel::{Snapshot, StorageError};

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::outcome::{self, Forms};
use crate::api::page::Page;
use crate::limits::{HISTORY_ROWS_MAX, SUMMARY_CHARS};
use crate::node::Node;
use crate::node::lookup;
use crate::store::history;
use crate::store::history::{Names, Reader, lane, lane_filter};

/// The most parents that a node of the graph shows.
const PARENTS_MAX: usize = 18;
/// The most entries of the other lane that are passed through for one node of the graph.
const STEPS_MAX: usize = 4096;
/// The number of rows that are read at once.
const BATCH: usize = 128;

/// The entries among `ids`. In the place of an entry of another lane than `only` come the entries that it names, and so
/// on.
fn through(
    snapshot: &Snapshot,
    ids: impl IntoIterator<Item = IntentionId>,
    only: Option<Lane>,
) -> std::result::Result<Vec<IntentionId>, StorageError> {
    let mut found = Vec::new();
    let mut waiting: Vec<IntentionId> = ids.into_iter().collect();
    waiting.reverse();
    let mut seen = HashSet::new();
    let mut steps = 0;
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Some(only) = only else {
            found.push(id);
            continue;
        };
        let Some(entry) = snapshot.entry(&id)? else {
            continue;
        };
        // The genesis belongs to both lanes.
        if entry.header.lane == only || entry.header.is_genesis() {
            found.push(id);
            continue;
        }
        steps += 1;
        if steps < STEPS_MAX {
            waiting.extend(entry.header.names());
        }
    }
    Ok(found)
}

/// The heads of a lane: its entries that are in the past of no other entry of the lane.
fn heads(
    snapshot: &Snapshot,
    only: Option<Lane>,
) -> std::result::Result<HashSet<IntentionId>, StorageError> {
    let reached = through(snapshot, snapshot.summary().heads.iter().copied(), only)?;
    // The heads of all lanes together are in the past of none.
    if only.is_none() {
        return Ok(reached.into_iter().collect());
    }
    let mut heads = HashSet::new();
    for id in &reached {
        let mut named = false;
        for other in reached.iter().filter(|other| *other != id) {
            named = snapshot.in_past_or_same(id, other)?;
            if named {
                break;
            }
        }
        if !named {
            heads.insert(*id);
        }
    }
    Ok(heads)
}

pub(crate) fn page_of(
    snapshot: &Snapshot,
    page: &Page,
    only: Option<Lane>,
    reader: &Reader,
    names: &Names,
) -> Result<api::GraphResponse> {
    let mut at = match page.after() {
        Some(key) => Some(
            Position::from_slice(key).ok_or_else(|| Failure::usage("the page token is damaged"))?,
        ),
        None => None,
    };
    let heads = heads(snapshot, only)?;
    let mut response = api::GraphResponse::default();
    let mut seen = 0;
    loop {
        let rows = snapshot.history(at, BATCH, true)?;
        let last_batch = rows.len() < BATCH;
        for row in rows {
            at = Some(row.position);
            seen += 1;
            let header = &row.stored.header;
            let id = header.id();
            if header.is_genesis() || only.is_none_or(|only| only == header.lane) {
                let mut parents = through(snapshot, header.names(), only)?;
                parents.truncate(PARENTS_MAX);
                response.nodes.push(api::GraphNode {
                    id: id.0.to_vec(),
                    parents: parents.iter().map(|id| id.0.to_vec()).collect(),
                    lane: lane(header.lane).into(),
                    author: header.author.0.to_vec(),
                    member: names.get(&header.author),
                    time: Some(outcome::time(header.time)),
                    head: heads.contains(&id),
                    void: row.void,
                    summary: reader.summary(&row, SUMMARY_CHARS),
                });
            }
            if response.nodes.len() >= page.size() || seen >= HISTORY_ROWS_MAX {
                response.next_page_token = page.token(&row.position.to_bytes());
                return Ok(response);
            }
        }
        if last_batch {
            return Ok(response);
        }
    }
}

/// A page of the entries of a store as nodes of a graph, the newest first.
pub(crate) async fn graph(node: &Node, request: api::GraphRequest) -> Result<api::GraphResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let snapshot = node.store(&slot).await?.snapshot();
    let only = lane_filter(request.lane);
    let filters: [&[u8]; 2] = [&slot.id.0, &request.lane.to_be_bytes()];
    let page = Page::new(request.page_size, &request.page_token, &filters)?;
    let reader = history::reader(node, &slot, &snapshot, Forms::TEXT);
    let names = Names::of(slot.governance());
    tokio::task::spawn_blocking(move || page_of(&snapshot, &page, only, &reader, &names))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
}

//! The status of the node, its stores and its peers.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lattice_format::DeviceKey;
use lattice_kernel::clock::ClockError;
use lattice_kernel::run::engine::{HostFault, Member, MemberStatus};
use lattice_kernel::{Files, FloatReason, LocalSeq, Snapshot, StorageError};
use lattice_net::{PeerStatus, PeerStoreStatus};

use crate::Embedding;
use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::outcome;
use crate::api::page::Page;
use crate::limits::{HEADS_SHOWN, REPLAYS_SHOWN};
use crate::member;
use crate::node::lookup;
use crate::node::{Node, Slot};
use crate::store::create::NO_PLUGIN;

/// How many entries of a store the peer lacked at the last comparison; `None` when that is not known.
pub(crate) fn peer_lacks(shared: &PeerStoreStatus) -> Option<u64> {
    lacks(shared, shared.peer_lacks.as_ref())
}

fn lacks(shared: &PeerStoreStatus, lack: Option<&lattice_kernel::sync::Lack>) -> Option<u64> {
    match lack {
        _ if shared.in_sync => Some(0),
        Some(lack) => Some(lack.floating + lack.parked + lack.withheld + lack.missing.len() as u64),
        None => None,
    }
}

/// The status of the node.
pub(crate) fn status(node: &Node) -> Result<api::NodeStatus> {
    let slots = node.slots();
    let not_ready = slots
        .iter()
        .filter(|slot| state(node, slot).0 != api::StoreState::Ready);
    let peers = peers(node);
    let notices = node.records.notices()?;
    let lead_ms = node.clock_lead_ms();
    let signing_paused = slots.iter().any(|slot| clock_error(node, slot).is_some());
    let ways = node.ways();
    Ok(api::NodeStatus {
        node_id: node.device().0.to_vec(),
        version: env!("CARGO_PKG_VERSION").into(),
        home: node.home.path().display().to_string(),
        pid: std::process::id(),
        started_ms: node.started_ms,
        embedded: node.embedding == Embedding::Command,
        network: node.net().is_some(),
        addresses: node.addresses().iter().map(ToString::to_string).collect(),
        relay_url: node.relay().unwrap_or_default(),
        store_count: slots.len() as u32,
        store_not_ready_count: not_ready.count() as u32,
        peer_connected_count: peers.iter().filter(|peer| peer.connected).count() as u32,
        notice_count: notices
            .iter()
            .filter(|(_, n)| n.acknowledged_ms == 0)
            .count() as u32,
        notice_more_count: node.records.more_notices()?,
        clock_lead_ms: lead_ms,
        signing_paused,
        relay: ways.relay,
        discovery: ways.discovery,
        mdns: ways.mdns,
    })
}

/// Why nothing is signed in a store by the node's clock, if so. A leap is not among the reasons: a person may
/// agree to it.
pub(crate) fn clock_error(node: &Node, slot: &Slot) -> Option<ClockError> {
    let known = slot.known()?;
    let verdict = node.verdict(&slot.id, known.drift_ms, known.genesis_ms);
    verdict.check(known.drift_ms, 0, true).err()
}

/// Why a person is asked before a store is signed by the node's clock, if so.
pub(crate) fn clock_leap(node: &Node, slot: &Slot) -> Option<ClockError> {
    let known = slot.known()?;
    let verdict = node.verdict(&slot.id, known.drift_ms, known.genesis_ms);
    let error = verdict.check(known.drift_ms, known.last_ms, false).err()?;
    matches!(error, ClockError::Leap { .. }).then_some(error)
}

/// What the network knows of the peers; nothing without a network.
pub(crate) fn peers(node: &Node) -> Vec<PeerStatus> {
    node.net().map(lattice_net::Net::peers).unwrap_or_default()
}

/// A page of the nodes that share a store with this one.
pub(crate) fn list_peers(
    node: &Node,
    request: api::ListPeersRequest,
) -> Result<api::ListPeersResponse> {
    let only = match request.store.as_str() {
        "" => None,
        text => Some(lookup::find_slot(node, text)?.id),
    };
    let page = Page::new(
        request.page_size,
        &request.page_token,
        &[request.store.as_bytes()],
    )?;
    let me = node.device();
    let mut rows: BTreeMap<DeviceKey, api::Peer> = BTreeMap::new();
    // Members that were never met are listed as well, because they lack entries too.
    for slot in node.slots() {
        let Some(governance) = slot.governance() else {
            continue;
        };
        for member in governance.members() {
            if member.device == me || member.status != MemberStatus::Active {
                continue;
            }
            rows.entry(member.device)
                .or_insert_with(|| api::Peer {
                    node_id: member.device.0.to_vec(),
                    reason: match node.net() {
                        Some(_) => "not met yet".into(),
                        None => "no network runs here".into(),
                    },
                    ..Default::default()
                })
                .stores
                .push(api::PeerStore {
                    store_id: slot.id.0.to_vec(),
                    store_name: slot.name(),
                    reason: "not compared yet".into(),
                    ..Default::default()
                });
        }
    }
    for peer in peers(node) {
        let row = rows.entry(peer.peer).or_default();
        row.node_id = peer.peer.0.to_vec();
        row.addresses = peer.addresses.iter().map(ToString::to_string).collect();
        row.connected = peer.connected;
        row.last_seen_ms = peer.last_seen_ms.unwrap_or(0);
        row.round_trip_us = peer.round_trip_us.unwrap_or(0);
        row.reason = peer.reason;
        for shared in &peer.stores {
            let Some(slot) = node.slot(&shared.store) else {
                continue;
            };
            row.stores.retain(|store| store.store_id != shared.store.0);
            row.stores.push(api::PeerStore {
                store_id: shared.store.0.to_vec(),
                store_name: slot.name(),
                compared_ms: shared.compared_ms.unwrap_or(0),
                peer_lacks_count: peer_lacks(shared),
                node_lacks_count: lacks(shared, shared.node_lacks.as_ref()),
                reason: shared.reason.clone(),
            });
        }
    }
    let rows = rows
        .into_iter()
        .filter_map(|(key, mut row)| {
            if let Some(only) = only {
                row.stores.retain(|store| store.store_id == only.0);
            }
            (!row.stores.is_empty() || only.is_none()).then(|| (key.0.to_vec(), row))
        })
        .collect();
    let (peers, next_page_token) = page.cut(rows);
    Ok(api::ListPeersResponse {
        peers,
        next_page_token,
    })
}

/// The state of a store, and the reason if it is not ready.
pub(crate) fn state(node: &Node, slot: &Slot) -> (api::StoreState, String) {
    use api::StoreState;
    if slot.record().joining.is_some() {
        return (StoreState::Joining, slot.join.text());
    }
    if let Some(reason) = slot.broken() {
        return (StoreState::Paused, reason);
    }
    let Some(store) = slot.opened() else {
        return (StoreState::Ready, String::new());
    };
    let published = store.published();
    if let Some(reason) = published.broken {
        return (StoreState::Paused, reason);
    }
    if published.rebuilding {
        return (
            StoreState::Rebuilding,
            "its state is being folded again".into(),
        );
    }
    let lacks = || lookup::lacks(node, &published.snapshot);
    match published.paused.clone().or_else(lacks) {
        None => (StoreState::Ready, String::new()),
        Some(fault) => {
            let mut reason = fault.to_string();
            let remedy = slot.remedy();
            if !remedy.is_empty() {
                reason = format!("{reason}; {remedy}");
            }
            let headless = matches!(
                fault,
                HostFault::MissingCode(_) | HostFault::Unusable { .. }
            );
            let state = if headless {
                StoreState::Headless
            } else {
                StoreState::Paused
            };
            (state, reason)
        }
    }
}

/// A store as every list shows it. Opens the store if it was not opened yet.
pub(crate) async fn store_summary(node: &Node, slot: &Arc<Slot>) -> api::Store {
    // A store that was opened shows more. If the store does not open, its state says why.
    let mut known = slot.known();
    if known.is_none() && node.store(slot).await.is_ok() {
        known = slot.known();
    }
    let (state, reason) = state(node, slot);
    let record = slot.record();
    let count = known.as_ref().map_or(0, |known| known.count);
    let genesis_app = known.map(|known| known.app);
    let plugin = match &genesis_app {
        Some(None) => NO_PLUGIN.to_owned(),
        Some(Some(app)) => lookup::plugin_name(node, &app.id).unwrap_or_else(|| app.name.clone()),
        None => record.plugin.clone(),
    };
    let members = slot.governance();
    api::Store {
        id: slot.id.0.to_vec(),
        name: record.name.clone(),
        path: lookup::path(node, slot),
        parent_id: record.parent.clone(),
        plugin,
        plugin_hash: genesis_app
            .flatten()
            .map_or(Vec::new(), |app| app.id.0.to_vec()),
        state: state.into(),
        reason,
        role: member::own_role(node, slot).unwrap_or_default().into(),
        entry_count: count,
        member_count: members.map_or(0, |governance| {
            let active = |m: &&Member| m.status == MemberStatus::Active;
            governance.members().filter(active).count() as u32
        }),
    }
}

/// A page of the stores, sorted by path.
pub(crate) async fn list_stores(
    node: &Node,
    request: api::ListStoresRequest,
) -> Result<api::ListStoresResponse> {
    let page = Page::new(request.page_size, &request.page_token, &[])?;
    let rows = node
        .slots()
        .into_iter()
        .map(|slot| {
            let mut sort = lookup::path(node, &slot).into_bytes();
            sort.push(0);
            sort.extend(slot.id.0);
            (sort, slot)
        })
        .collect();
    let (slots, next_page_token) = page.cut_small(rows);
    let mut stores = Vec::with_capacity(slots.len());
    for slot in slots {
        stores.push(store_summary(node, &slot).await);
    }
    Ok(api::ListStoresResponse {
        stores,
        next_page_token,
    })
}

/// The full status of a store.
pub(crate) async fn store_status(
    node: &Node,
    request: api::StoreStatusRequest,
) -> Result<api::StoreStatus> {
    let slot = lookup::find_slot(node, &request.store)?;
    // If the store does not open, its state says why.
    let store = node.store(&slot).await;
    let shown = store_summary(node, &slot).await;
    let Ok(store) = store else {
        return Ok(api::StoreStatus {
            store: Some(shown),
            ..Default::default()
        });
    };
    let (floating, parked) = store
        .with(|store| (store.floating().len() as u64, store.parked().len() as u64))
        .await
        .unwrap_or_default();
    let snapshot = store.snapshot();
    let governance = slot.governance();
    let view = snapshot.clone();
    let counted = tokio::task::spawn_blocking(move || count(&view))
        .await
        .map_err(|error| Failure::failed(error.to_string()))??;
    let directory = node.home.store(&slot.id);
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let segments = Files::segments(&directory).unwrap_or_default();
    let notices = node.records.notices()?;
    let peers = peers(node);
    let connected = peers.iter().filter(|peer| {
        peer.connected
            && peer
                .stores
                .iter()
                .any(|shared| shared.store == slot.id && shared.live)
    });
    let mut remarks = Vec::new();
    if slot.parent().is_some() {
        remarks.push("later changes of the parent's members do not reach this store".to_owned());
    }
    if member::own_role(node, &slot).is_none() && governance.is_some() {
        remarks.push("this node is no member of the store any more".to_owned());
    }
    remarks.extend(clock_error(node, &slot).map(|error| error.to_string()));
    let summary = snapshot.summary();
    Ok(api::StoreStatus {
        store: Some(shown),
        governance_hash: snapshot.genesis().system.id.0.to_vec(),
        created_ms: counted.created_ms,
        heads: counted.heads,
        head_count: summary.heads.len() as u32,
        state_root: summary.state_root.0.to_vec(),
        outcome_root: summary.outcome_root.0.to_vec(),
        applied_count: summary.applied,
        applied_hash: summary.set.0.to_vec(),
        pending_count: summary.pending,
        void_count: summary.void,
        floating_count: floating,
        parked_count: parked,
        fork_count: summary.forks,
        last_time: Some(outcome::time(summary.last_time)),
        log_bytes: segments.iter().map(|(_, path)| size(path)).sum(),
        state_bytes: size(&directory.join("state.redb")),
        peer_connected_count: connected.count() as u32,
        notice_count: notices
            .iter()
            .filter(|(_, notice)| notice.acknowledged_ms == 0 && notice.store == slot.id.0)
            .count() as u32,
        remarks,
        replays: replays(&summary.replays),
    })
}

/// A page of the floating entries of a store.
pub(crate) async fn list_floating(
    node: &Node,
    request: api::ListFloatingRequest,
) -> Result<api::ListFloatingResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let page = Page::new(request.page_size, &request.page_token, &[&slot.id.0])?;
    let rows = node
        .store(&slot)
        .await?
        .with(|store| store.floating())
        .await?;
    let rows = rows
        .into_iter()
        .map(|row| {
            let (reason, missing) = match row.reason {
                FloatReason::Missing(ids) => ("it names entries that are not here".to_owned(), ids),
                FloatReason::BodyMissing => ("its body has not arrived".to_owned(), Vec::new()),
                FloatReason::NotUnderstood(reason) => (reason, Vec::new()),
            };
            let entry = api::FloatingEntry {
                id: row.id.0.to_vec(),
                author: Vec::new(),
                sender: row.from.0.to_vec(),
                received_ms: 0,
                reason,
                missing: missing.iter().map(|id| id.0.to_vec()).collect(),
            };
            (row.id.0.to_vec(), entry)
        })
        .collect();
    let (entries, next_page_token) = page.cut(rows);
    Ok(api::ListFloatingResponse {
        entries,
        next_page_token,
    })
}

/// A page of the parked entries of a store.
pub(crate) async fn list_parked(
    node: &Node,
    request: api::ListParkedRequest,
) -> Result<api::ListParkedResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let page = Page::new(request.page_size, &request.page_token, &[&slot.id.0])?;
    let rows = node
        .store(&slot)
        .await?
        .with(|store| store.parked())
        .await?;
    let rows = rows
        .into_iter()
        .map(|row| {
            let mut sort = row.not_before_ms.to_be_bytes().to_vec();
            sort.extend(row.id.0);
            let entry = api::ParkedEntry {
                id: row.id.0.to_vec(),
                author: row.author.0.to_vec(),
                sender: row.from.0.to_vec(),
                time: Some(outcome::time(row.time)),
                not_before_ms: row.not_before_ms,
            };
            (sort, entry)
        })
        .collect();
    let (entries, next_page_token) = page.cut(rows);
    Ok(api::ListParkedResponse {
        entries,
        next_page_token,
    })
}

/// The parts of a store's status that are read from its log.
struct Counted {
    created_ms: u64,
    heads: Vec<api::Head>,
}

/// The newest heads, at most [`HEADS_SHOWN`].
fn newest(mut heads: Vec<api::Head>) -> Vec<api::Head> {
    heads.sort_by_key(|head| std::cmp::Reverse(head.time.map(|time| (time.wall_ms, time.counter))));
    heads.truncate(HEADS_SHOWN);
    heads
}

fn count(snapshot: &Snapshot) -> std::result::Result<Counted, StorageError> {
    let genesis = snapshot.entry_at(LocalSeq(0))?;
    let mut heads = Vec::new();
    // A member can make any number of heads, and few are shown.
    for id in snapshot.summary().heads.newest(HEADS_SHOWN) {
        if let Some(entry) = snapshot.entry(&id)? {
            heads.push(api::Head {
                id: id.0.to_vec(),
                author: entry.header.author.0.to_vec(),
                time: Some(outcome::time(entry.header.time)),
            });
        }
    }
    let heads = newest(heads);
    Ok(Counted {
        created_ms: genesis.map_or(0, |genesis| genesis.header.time.wall_ms),
        heads,
    })
}

/// The authors whose late entries made most runs repeat, at most [`REPLAYS_SHOWN`].
fn replays(by_author: &BTreeMap<DeviceKey, u64>) -> Vec<api::Replays> {
    let mut out: Vec<_> = by_author.iter().collect();
    out.sort_unstable_by_key(|(author, runs)| (Reverse(**runs), **author));
    let out = out.into_iter().take(REPLAYS_SHOWN);
    out.map(|(author, runs)| api::Replays {
        author: author.0.to_vec(),
        runs: *runs,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_repeated_runs_are_shown_first() {
        let by_author: BTreeMap<DeviceKey, u64> = (0..=REPLAYS_SHOWN as u8)
            .map(|n| (DeviceKey([n; 32]), u64::from(n) + 1))
            .collect();
        let shown: Vec<u64> = replays(&by_author).iter().map(|r| r.runs).collect();
        let most: Vec<u64> = (2..=REPLAYS_SHOWN as u64 + 1).rev().collect();
        assert_eq!(shown, most);
    }

    #[test]
    fn so_many_heads_are_shown_the_newest_first() {
        let head = |wall_ms| api::Head {
            time: Some(api::Timestamp {
                wall_ms,
                counter: 0,
            }),
            ..Default::default()
        };
        let all = HEADS_SHOWN as u64;
        let shown = newest((1..=all).map(head).collect());
        assert_eq!((shown.len(), shown[0].clone()), (HEADS_SHOWN, head(all)));
        let shown = newest((1..=all + 1).map(head).collect());
        let last = shown.last().unwrap().clone();
        assert_eq!((shown.len(), last), (HEADS_SHOWN, head(2)));
    }
}

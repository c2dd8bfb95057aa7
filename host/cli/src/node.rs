//! `status` and `doctor`: the node itself.

use lattice_daemon::api;
use serde_json::{Value, json};

use crate::context::{Context, pages};
use crate::failure::{Class, Failure, Result};
use crate::output::{Columns, fields};
use crate::{store, text};

/// Runs `status`.
pub(crate) async fn status(context: &Context) -> Result<()> {
    let mut node = context.node().await?;
    let status = node.status(api::NodeStatusRequest {}).await?.into_inner();
    let stores = store::all(context).await?;
    let peers = peers(context).await?;
    context.output.result(
        || status_text(&status, &stores, &peers, text::now_ms()),
        || {
            let mut document = status_json(&status);
            document["stores"] = stores.iter().map(store::summary_json).collect();
            document["peers"] = peers.iter().map(peer_json).collect();
            document
        },
    )
}

async fn peers(context: &Context) -> Result<Vec<api::Peer>> {
    let node = context.node().await?;
    let (peers, _) = pages(String::new(), None, |page_size, page_token| {
        let mut node = node.clone();
        async move {
            let page = node
                .list_peers(api::ListPeersRequest {
                    store: String::new(),
                    page_size,
                    page_token,
                })
                .await?
                .into_inner();
            Ok((page.peers, page.next_page_token))
        }
    })
    .await?;
    Ok(peers)
}

fn status_text(
    status: &api::NodeStatus,
    stores: &[api::Store],
    peers: &[api::Peer],
    now_ms: u64,
) -> String {
    let daemon = if status.embedded {
        "not running".to_owned()
    } else {
        let seconds = now_ms.saturating_sub(status.started_ms) / 1000;
        format!("process {}, for {}", status.pid, text::duration(seconds))
    };
    let addresses = match (status.network, status.addresses.is_empty()) {
        (false, _) => "none while no daemon runs".to_owned(),
        (true, true) => "none".to_owned(),
        (true, false) => status.addresses.join("  "),
    };
    let mut rows = vec![
        ("node", text::id(&status.node_id)),
        ("version", status.version.clone()),
        ("home", status.home.clone()),
        ("daemon", daemon),
        ("addresses", addresses),
    ];
    if status.network {
        rows.push(("finds by", ways_text(status)));
    }
    if !status.relay_url.is_empty() {
        rows.push(("relay", status.relay_url.clone()));
    }
    if let Some(lead) = status.clock_lead_ms {
        rows.push(("clock", clock_text(lead, status)));
    }
    if status.notice_count > 0 {
        let mut notices = text::count(status.notice_count.into(), "notice");
        if status.notice_more_count > 0 {
            notices.push_str(&format!(
                " and {} that were not kept",
                status.notice_more_count
            ));
        }
        rows.push(("notices", format!("{notices}: see `lattice notices`")));
    }
    let mut shown = fields(rows);
    shown.push('\n');
    shown.push_str(&store::table(stores));
    if !peers.is_empty() {
        shown.push('\n');
        shown.push_str(&peer_table(peers, now_ms));
    }
    shown
}

/// By which ways peers are found, besides the addresses that are known.
fn ways_text(status: &api::NodeStatus) -> String {
    let ways = [
        (status.relay, "relays"),
        (status.discovery, "public discovery"),
        (status.mdns, "mDNS on the local network"),
    ];
    let open: Vec<&str> = ways
        .iter()
        .filter_map(|(open, way)| open.then_some(*way))
        .collect();
    match open.is_empty() {
        true => "known addresses alone".to_owned(),
        false => open.join(", "),
    }
}

fn clock_text(lead_ms: i64, status: &api::NodeStatus) -> String {
    let span = match lead_ms.unsigned_abs() {
        ms @ ..10_000 => format!("{ms} ms"),
        ms => text::duration(ms / 1000),
    };
    let against = match lead_ms {
        0 => "equal to the peers' median".to_owned(),
        1.. => format!("{span} ahead of the peers' median"),
        ..0 => format!("{span} behind the peers' median"),
    };
    if status.signing_paused {
        format!("{against}; stores whose members disagree are not signed until it is set right")
    } else {
        against
    }
}

/// A table of the stores that each peer shares with this node: when the peer was seen, and what each side lacks.
fn peer_table(peers: &[api::Peer], now_ms: u64) -> String {
    let mut table = Columns::new(&["PEER", "SEEN", "STORE", ">IT LACKS", ">WE LACK", "WHY"]);
    for peer in peers {
        let seen = if peer.connected {
            "connected".to_owned()
        } else {
            text::ago(peer.last_seen_ms, now_ms)
        };
        if peer.stores.is_empty() {
            table.row([
                text::short(&peer.node_id),
                seen,
                "-".into(),
                "-".into(),
                "-".into(),
                peer.reason.clone(),
            ]);
            continue;
        }
        for shared in &peer.stores {
            let why = [shared.reason.as_str(), peer.reason.as_str()];
            let why: Vec<&str> = why.into_iter().filter(|why| !why.is_empty()).collect();
            table.row([
                text::short(&peer.node_id),
                seen.clone(),
                shared.store_name.clone(),
                lag(shared.peer_lacks_count),
                lag(shared.node_lacks_count),
                why.join("; "),
            ]);
        }
    }
    table.to_string()
}

/// A number of missing entries; `?` if the two nodes were not compared yet.
pub(crate) fn lag(count: Option<u64>) -> String {
    count.map_or_else(|| "?".to_owned(), |count| count.to_string())
}

fn status_json(status: &api::NodeStatus) -> Value {
    json!({
        "node": text::id_json(&status.node_id),
        "version": status.version,
        "home": status.home,
        "pid": status.pid,
        "started_ms": status.started_ms,
        "daemon": !status.embedded,
        "network": status.network,
        "ways": {
            "relay": status.relay,
            "discovery": status.discovery,
            "mdns": status.mdns,
        },
        "addresses": status.addresses,
        "relay": status.relay_url,
        "notice_count": status.notice_count,
        "notice_more_count": status.notice_more_count,
        "clock_lead_ms": status.clock_lead_ms,
        "signing_paused": status.signing_paused,
    })
}

fn peer_json(peer: &api::Peer) -> Value {
    let stores: Vec<Value> = peer
        .stores
        .iter()
        .map(|shared| {
            json!({
                "store": text::id_json(&shared.store_id),
                "name": shared.store_name,
                "compared_ms": shared.compared_ms,
                "peer_lacks": shared.peer_lacks_count,
                "node_lacks": shared.node_lacks_count,
                "reason": shared.reason,
            })
        })
        .collect();
    json!({
        "node": text::id_json(&peer.node_id),
        "addresses": peer.addresses,
        "connected": peer.connected,
        "last_seen_ms": peer.last_seen_ms,
        "round_trip_us": peer.round_trip_us,
        "reason": peer.reason,
        "stores": stores,
    })
}

/// Runs `doctor`. Fails if a check fails.
pub(crate) async fn doctor(context: &Context) -> Result<()> {
    let mut node = context.node().await?;
    let checks = node
        .doctor(api::DoctorRequest {})
        .await?
        .into_inner()
        .checks;
    context
        .output
        .result(|| doctor_text(&checks), || doctor_json(&checks))?;
    let failed: Vec<&str> = checks
        .iter()
        .filter(|check| check.level() == api::CheckLevel::Failed)
        .map(|check| check.name.as_str())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Class::Failed,
        format!(
            "{} failed: {}",
            text::count(failed.len() as u64, "check"),
            failed.join(", ")
        ),
    )
    .with_document_printed())
}

fn level_name(level: api::CheckLevel) -> &'static str {
    match level {
        api::CheckLevel::Ok => "ok",
        api::CheckLevel::Warning => "warning",
        api::CheckLevel::Failed | api::CheckLevel::Unspecified => "failed",
    }
}

fn doctor_text(checks: &[api::Check]) -> String {
    let mut table = Columns::new(&["CHECK", "", "FOUND"]);
    for check in checks {
        let found = if check.hint.is_empty() {
            check.text.clone()
        } else {
            format!("{}; {}", check.text, check.hint)
        };
        table.row([
            check.name.clone(),
            level_name(check.level()).to_owned(),
            found,
        ]);
    }
    table.to_string()
}

fn doctor_json(checks: &[api::Check]) -> Value {
    let checks: Vec<Value> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "level": level_name(check.level()),
                "text": check.text,
                "hint": check.hint,
            })
        })
        .collect();
    json!({ "checks": checks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_an_embedded_node_reads_well() {
        let status = api::NodeStatus {
            node_id: vec![0xab; 32],
            version: "0.1.0".into(),
            home: "/srv/a\x1b/lattice".into(),
            embedded: true,
            notice_count: 1,
            ..Default::default()
        };
        let more = api::NodeStatus {
            notice_more_count: 12,
            ..status.clone()
        };
        let shown = status_text(&more, &[], &[], 0);
        assert!(
            shown.contains("1 notice and 12 that were not kept: see"),
            "{shown}"
        );
        let shown = status_text(&status, &[], &[], 0);
        assert!(shown.contains("daemon     not running\n"), "{shown}");
        assert!(shown.contains(r"/srv/a\u{1b}/lattice"), "{shown}");
        assert!(shown.contains("1 notice: see `lattice notices`"), "{shown}");
        assert!(shown.contains("no stores"), "{shown}");
    }

    #[test]
    fn peers_show_what_each_lacks_and_why() {
        let peer = api::Peer {
            node_id: vec![1; 32],
            last_seen_ms: 1,
            reason: "no route".into(),
            stores: vec![api::PeerStore {
                store_name: "notes".into(),
                peer_lacks_count: Some(3),
                node_lacks_count: None,
                reason: "offline".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let table = peer_table(&[peer], 60_001);
        assert_eq!(
            table.lines().nth(1),
            Some("010101010101  1m ago  notes         3        ?  offline; no route")
        );
    }

    #[test]
    fn doctor_says_what_to_do() {
        let check = api::Check {
            name: "disk".into(),
            level: api::CheckLevel::Warning.into(),
            text: "1 GB is free".into(),
            hint: "make room".into(),
        };
        assert!(doctor_text(&[check]).contains("disk   warning  1 GB is free; make room"));
    }

    #[test]
    fn the_clock_is_named_in_words() {
        let mut status = api::NodeStatus::default();
        let behind = clock_text(-5, &status);
        assert_eq!(behind, "5 ms behind the peers' median");
        status.signing_paused = true;
        let ahead = clock_text(3 * 86_400_000, &status);
        assert!(ahead.starts_with("3days ahead"), "{ahead}");
        assert!(ahead.contains("not signed"), "{ahead}");
    }
}

//! What a token leads to, shown before a person joins.

use std::collections::HashSet;
use std::sync::Mutex;

use lattice_format::{ComponentId, StoreId};
use lattice_net::{JoinError, PeerAddr};

use super::{failure, parse};
use crate::api;
use crate::api::failure::{Failure, Result};
use crate::node::Node;
use crate::plugin;
use crate::plugin::blob;

/// Components that were fetched to show what a token leads to. They are kept as blobs for the join that may follow, and
/// removed when the node ends without that join.
#[derive(Default)]
pub(crate) struct Looked(Mutex<HashSet<(StoreId, ComponentId)>>);

impl Looked {
    /// All of these components, with the stores of the tokens.
    pub(crate) fn all(&self) -> Vec<(StoreId, ComponentId)> {
        self.0
            .lock()
            .expect("no holder panics")
            .iter()
            .copied()
            .collect()
    }

    fn add(&self, store: StoreId, component: ComponentId) {
        self.0
            .lock()
            .expect("no holder panics")
            .insert((store, component));
    }
}

/// Shows the store that a token leads to, and its components, without joining.
pub(crate) async fn inspect_token(node: &Node, text: &str) -> Result<api::InspectTokenResponse> {
    let token = parse(text)?;
    let net = node.need_net("a token")?;
    let own = |peer: &PeerAddr| peer.device == node.device();
    if !token.peers.is_empty() && token.peers.iter().all(own) {
        return Err(Failure::failed("the invite is one of this node's own")
            .hint("give it to the node that is to join"));
    }
    // Members judge whether the invite has expired, because this clock may be wrong. It tells only why nobody answers.
    let is_over = token.expires_ms != 0 && token.expires_ms <= node.clock.now_ms();
    let inspected = net.inspect_token(&token).await;
    let failure = |error: &JoinError| failure(error, &token.store, &node.device());
    let inspected = inspected.map_err(|error| match error {
        JoinError::Unreachable { .. } if is_over => failure(&JoinError::Expired {
            at_ms: token.expires_ms,
        }),
        error => failure(&error),
    })?;
    node.check_is_not_behind(inspected.clock_lead_ms, inspected.genesis.drift_ms)?;
    let mut described = Vec::new();
    let mut app_present = true;
    let genesis = &inspected.genesis;
    for component in std::iter::once(&genesis.system).chain(&genesis.app) {
        let present = node.components.contains(&component.id);
        if genesis
            .app
            .as_ref()
            .is_some_and(|app| app.id == component.id)
        {
            app_present = present;
        }
        let plugin = if present {
            plugin::describe_component(node, &component.id, &component.name)?
        } else {
            node.looked.add(token.store, component.id);
            net.fetch_component(&token, component.id, &|_, _| {})
                .await
                .map_err(|error| failure(&error))?;
            let bytes = node
                .blobs
                .read(token.store, blob::of(&component.id))?
                .unwrap_or_default();
            let mut plugin = plugin::inspect_bytes(&bytes)?;
            plugin.name.clone_from(&component.name);
            plugin
        };
        described.push(plugin);
    }
    let mut described = described.into_iter();
    let inviter = token.peers.first();
    Ok(api::InspectTokenResponse {
        store_id: token.store.0.to_vec(),
        store_name: token.store_name.clone(),
        inviter: inviter.map_or(Vec::new(), |peer| peer.device.0.to_vec()),
        addresses: inviter.map_or(Vec::new(), |peer| {
            peer.addresses.iter().map(ToString::to_string).collect()
        }),
        role: token.role.clone(),
        expires_ms: token.expires_ms,
        governance: described.next(),
        app: described.next(),
        app_present,
        joined: node.slot(&token.store).is_some(),
    })
}

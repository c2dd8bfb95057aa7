//! The chain that this device writes in a store, and its end when that lies too far ahead.

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::node::{Node, lookup};
use crate::store::call;

/// Sets this device's chain aside, so that its next entry starts another one below.
pub(crate) async fn restart(
    node: &Node,
    request: api::RestartChainRequest,
) -> Result<api::RestartChainResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = call::running(node, &slot).await?;
    let clock = node.verdict_on(&store.snapshot());
    let restarted = store.with(move |store| {
        let ahead_ms = store.own_last_ms()?.unwrap_or(0);
        let aside = store.restart_chain(clock.wall_ms)?;
        Ok::<_, lattice_kernel::StorageError>((ahead_ms.saturating_sub(clock.admits_ms), aside))
    });
    let (ahead_ms, aside) = restarted.await??;
    let aside = aside.map_err(|error| Failure::failed(error.to_string()))?;
    node.update_slot(&slot, |record| {
        record.aside_chain = Some(aside.chain.0);
        record.aside_above_ms = aside.above_ms;
    })?;
    Ok(api::RestartChainResponse {
        chain: aside.chain.0.to_be_bytes().to_vec(),
        above_ms: aside.above_ms,
        ahead_ms,
    })
}

//! Watches: queries that run again when something that they read has changed.

use std::sync::Arc;

use lattice_kernel::run::engine::CallEnd;
use lattice_kernel::{Changes, Queried};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::limits::{CHANGED_CELLS_MAX, WATCH_REST};
use crate::node::Node;
use crate::node::lookup;
use crate::store::call;

/// The stream of results of a watched query.
pub(crate) type Events = ReceiverStream<std::result::Result<api::WatchEvent, Status>>;

/// Whether a query may have another result after these changes.
pub(crate) fn concerns(changes: &Changes, queried: &Queried) -> bool {
    changes.all
        || (queried.clock && !changes.entries.is_empty())
        || changes.cells.len() > CHANGED_CELLS_MAX
        || changes.cells.iter().any(|cell| queried.reads.touches(cell))
}

/// Waits for changes after which the query may have another result. Returns `false` when the store is closed.
pub(crate) async fn changed(
    changes: &mut broadcast::Receiver<Arc<Changes>>,
    queried: &Queried,
) -> bool {
    loop {
        match changes.recv().await {
            Ok(changes) if concerns(&changes, queried) => return true,
            Ok(_) => {}
            // The changes that were missed may concern the query.
            Err(broadcast::error::RecvError::Lagged(_)) => return true,
            Err(broadcast::error::RecvError::Closed) => return false,
        }
    }
}

/// Runs a query now, and again when its result changes.
///
/// # Errors
/// Those of a query; also when too many watches run.
pub(crate) async fn watch(node: &Arc<Node>, request: api::WatchRequest) -> Result<Events> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = call::running(node, &slot).await?;
    let permit = node.watches.clone().try_acquire_owned().map_err(|_| {
        Failure::failed("too many watches run on this node").hint("end some of them")
    })?;
    // Subscribed before the snapshot is taken, so that no change between the two is missed.
    let mut changes = store.changes();
    let snapshot = store.snapshot();
    let asked = call::asked(node, &slot, &snapshot, request.call.clone(), &request.forms)?;
    let queried = call::run_query(node, &store, &snapshot, asked.call(), asked.lane()).await?;
    let (out, events) = mpsc::channel(1);
    let first = asked.show(&queried, snapshot.summary().applied);
    let handle = Arc::downgrade(node);
    let mut closing = node.closing();
    tokio::spawn(async move {
        let _permit = permit;
        let mut last: (CallEnd, Queried) = (queried.end.clone(), queried);
        let mut ran = Instant::now();
        let mut waiting = Some(api::WatchEvent {
            result: Some(first),
            missed_count: 0,
        });
        loop {
            tokio::select! {
                permit = out.reserve(), if waiting.is_some() => {
                    let Ok(permit) = permit else { return };
                    if let Some(event) = waiting.take() {
                        permit.send(Ok(event));
                    }
                    continue;
                }
                () = out.closed() => return,
                _ = closing.wait_for(|closing| *closing) => {
                    let gone = Failure::shutting_down();
                    let _ = out.try_send(Err(gone.into()));
                    return;
                }
                more = changed(&mut changes, &last.1) => if !more { return },
            }
            // The first change after a rest leads to a run at once. Those of a burst share one run after it.
            tokio::time::sleep_until(ran + WATCH_REST).await;
            ran = Instant::now();
            let Some(handle) = handle.upgrade() else {
                return;
            };
            let snapshot = store.snapshot();
            // Other code may be in effect by now.
            let asked = match call::asked(
                &handle,
                &slot,
                &snapshot,
                request.call.clone(),
                &request.forms,
            ) {
                Ok(asked) => asked,
                Err(failure) => {
                    let _ = out.send(Err(failure.into())).await;
                    return;
                }
            };
            match call::run_query(&handle, &store, &snapshot, asked.call(), asked.lane()).await {
                Ok(queried) => {
                    if queried.end != last.0 {
                        let missed_count = match &waiting {
                            Some(unread) => unread.missed_count + 1,
                            None => 0,
                        };
                        waiting = Some(api::WatchEvent {
                            result: Some(asked.show(&queried, snapshot.summary().applied)),
                            missed_count,
                        });
                    }
                    last = (queried.end.clone(), queried);
                }
                Err(failure) => {
                    let _ = out.send(Err(failure.into())).await;
                    return;
                }
            }
        }
    });
    Ok(ReceiverStream::new(events))
}

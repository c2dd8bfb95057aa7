//! The member's side of a join.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use lattice_format::{BlobId, Body, ComponentId, DeviceKey, Signature, StoreId};
use lattice_kernel::run::engine::MemberStatus;
use lattice_kernel::sync::Misbehaviour;
use lattice_kernel::{LocalSeq, Snapshot};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::wire::{Answer, ComponentSize, Inspected, Request, Scope, Why};
use crate::addresses::{WirePeer, known_members};
use crate::allowances::PerPeer;
use crate::blob;
use crate::context::Context;
use crate::endpoint::{code, device_of};
use crate::frame::{self, FrameError};
use crate::host::Claim;
use crate::limits::{
    CONNECTIONS_PER_PEER, JOIN_REQUEST_BYTES_MAX, JOIN_REQUESTS_MAX, JOINS_SERVED_MAX,
    TOKEN_ADDRESSES_MAX,
};
use crate::token::{claim_holds, proof_holds, shortened};

/// How long a joiner waits for a store that is being opened, and how often is looked.
const OPENING_WAIT: Duration = Duration::from_secs(4);
const OPENING_LOOK: Duration = Duration::from_millis(20);
/// Requests of one connection that are served at once.
const AT_ONCE: usize = 4;

/// Serves joiners.
#[derive(Clone)]
pub(crate) struct JoinProtocol {
    context: Arc<Context>,
    served: Arc<Semaphore>,
    places: Arc<PerPeer>,
}

impl std::fmt::Debug for JoinProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinProtocol")
    }
}

impl JoinProtocol {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            served: Arc::new(Semaphore::new(JOINS_SERVED_MAX)),
            places: Arc::default(),
        }
    }
}

impl ProtocolHandler for JoinProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let context = &self.context;
        let peer = device_of(connection.remote_id());
        if context.is_banned(&peer) {
            connection.close(code::MISBEHAVIOUR, b"refused for a while");
            return Ok(());
        }
        let Some(_incoming) = context.take_in(&connection) else {
            return Ok(());
        };
        let Some(_place) = self.places.enter(peer, CONNECTIONS_PER_PEER) else {
            context.misbehaved(
                peer,
                Misbehaviour::Flood,
                "joins: more connections than it may have",
            );
            connection.close(code::BUSY, b"too many connections");
            return Ok(());
        };
        let Ok(_permit) = self.served.try_acquire() else {
            connection.close(code::BUSY, b"too many joins, try later");
            return Ok(());
        };
        let mut running = JoinSet::new();
        let mut requests = 0;
        loop {
            // A connection is for requests that come soon: an idle one would hold its place.
            let idle = tokio::time::sleep(context.timings.request);
            tokio::select! {
                streams = connection.accept_bi(), if running.len() < AT_ONCE => {
                    let Ok((send, recv)) = streams else { return Ok(()) };
                    requests += 1;
                    if requests > JOIN_REQUESTS_MAX {
                        let text = format!("join: more than {JOIN_REQUESTS_MAX} requests");
                        context.misbehaved(peer, Misbehaviour::Flood, &text);
                        connection.close(code::MISBEHAVIOUR, text.as_bytes());
                        return Ok(());
                    }
                    let (context, connection) = (context.clone(), connection.clone());
                    running.spawn(async move {
                        serve(&context, &connection, peer, send, recv).await;
                    });
                }
                Some(_) = running.join_next() => {}
                () = idle, if running.is_empty() => {
                    connection.close(code::BYE, b"idle");
                    return Ok(());
                }
                _ = connection.closed() => return Ok(()),
            }
        }
    }
}

async fn serve(
    context: &Arc<Context>,
    connection: &Connection,
    peer: DeviceKey,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let read = frame::read::<Request>(&mut recv, JOIN_REQUEST_BYTES_MAX);
    let request = match tokio::time::timeout(context.timings.request, read).await {
        Ok(Ok(request)) => request,
        Ok(Err(FrameError::Ended | FrameError::Broken(_))) => return,
        Ok(Err(error)) => {
            let kind = match error {
                FrameError::TooLong { .. } => Misbehaviour::Oversized,
                _ => Misbehaviour::Garbage,
            };
            context.misbehaved(peer, kind, &format!("join: {error}"));
            connection.close(code::MISBEHAVIOUR, error.to_string().as_bytes());
            return;
        }
        Err(_) => {
            context.misbehaved(peer, Misbehaviour::Unfinished, "join: no request in time");
            connection.close(code::SLOW, b"no request in time");
            return;
        }
    };
    let answer = answer(context, peer, &request).await;
    let (message, component) = match answer {
        Ok(answered) => answered,
        Err(why) => {
            tracing::debug!(%peer, ?why, "join refused");
            let refused = Answer {
                refusal: Some(why.to_wire()),
                ..Answer::default()
            };
            (refused, None)
        }
    };
    let written = frame::write(&mut send, &message);
    match tokio::time::timeout(context.timings.stall, written).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return,
        Err(_) => {
            context.misbehaved(
                peer,
                Misbehaviour::SlowReader,
                "join: the answer is not read",
            );
            connection.close(code::SLOW, b"the answer is not read");
            return;
        }
    }
    match component {
        Some((store, id)) => {
            let only = Some((store, BlobId::from(id)));
            blob::serve(context, peer, only, (send, recv)).await;
        }
        None => {
            let _ = send.finish();
            // The stream must live until the peer has read the answer.
            let _ = tokio::time::timeout(context.timings.stall, send.stopped()).await;
        }
    }
}

/// A view of a store. A node that has just started opens its stores, which a joiner waits for.
async fn opened(context: &Context, store: &StoreId) -> Option<Snapshot> {
    let waits_until = tokio::time::Instant::now() + OPENING_WAIT;
    loop {
        let served = context.store(store);
        if let Some(snapshot) = served.and_then(|_| context.host.snapshot(store)) {
            return Some(snapshot);
        }
        let is_opening = context.host.is_opening(store) || context.host.serves(store);
        if !is_opening || tokio::time::Instant::now() >= waits_until {
            return None;
        }
        tokio::time::sleep(OPENING_LOOK).await;
    }
}

type Answered = (Answer, Option<(StoreId, ComponentId)>);

async fn answer(
    context: &Arc<Context>,
    peer: DeviceKey,
    request: &Request,
) -> Result<Answered, Why> {
    let scope = request
        .scope()
        .ok_or_else(|| Why::NotUnderstood("a key, an id or a signature is too short".into()))?;
    if !proof_holds(
        &scope.store,
        &scope.invite,
        &peer,
        &context.me,
        &scope.proof,
    ) {
        context.misbehaved(
            peer,
            Misbehaviour::NotAllowed,
            "join: the proof does not hold",
        );
        return Err(Why::NotProved);
    }
    let snapshot = opened(context, &scope.store).await.ok_or(Why::NotProved)?;
    let status = member_status(context, &scope.store, &peer);
    match status {
        Some(MemberStatus::Active) => {}
        Some(_) => return Err(Why::AdmittedBefore),
        None => {
            let state = context
                .host
                .invite(scope.store, scope.invite)
                .await
                .map_err(|error| Why::NotHere(error.to_string()))?;
            if let Some(why) = Why::of_invite(state) {
                // Not even that the store exists is told for an invite that this node never saw.
                return Err(why);
            }
        }
    }
    if request.inspect.is_some() {
        let inspected = inspected(context, &scope, &snapshot)?;
        let answer = Answer {
            inspected: Some(inspected),
            ..Answer::default()
        };
        return Ok((answer, None));
    }
    if let Some(component) = &request.component {
        let id = ComponentId::from_slice(&component.id)
            .filter(|id| components(&snapshot).contains(id))
            .ok_or(Why::NoComponent)?;
        if size_of(context, &scope.store, id).is_none() {
            return Err(Why::NoComponent);
        }
        let answer = Answer {
            component_follows: true,
            ..Answer::default()
        };
        return Ok((answer, Some((scope.store, id))));
    }
    if let Some(wish) = &request.claim {
        if status.is_none() {
            admit(context, &scope, peer, &wish.name, &wish.signature).await?;
        }
        let answer = Answer {
            admitted: true,
            ..Answer::default()
        };
        return Ok((answer, None));
    }
    Err(Why::NotUnderstood(
        "the request is of a newer version".into(),
    ))
}

async fn admit(
    context: &Arc<Context>,
    scope: &Scope,
    device: DeviceKey,
    name: &str,
    signature: &[u8],
) -> Result<(), Why> {
    let signature = Signature::from_slice(signature)
        .filter(|s| claim_holds(&scope.store, &scope.invite, &device, s))
        .ok_or_else(|| Why::Refused("the claim's signature does not hold".into()))?;
    let claim = Claim {
        invite: scope.invite,
        device,
        name: shortened(name),
        signature,
    };
    match context.host.claim(scope.store, claim).await {
        Ok(()) => {}
        // Two requests for the same claim may cross; the device is in, which is what it asked for.
        Err(_) if member_status(context, &scope.store, &device) == Some(MemberStatus::Active) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    tracing::info!(store = %scope.store, %device, "admitted by an invite");
    Ok(())
}

fn member_status(context: &Context, store: &StoreId, device: &DeviceKey) -> Option<MemberStatus> {
    let governance = context.host.governance(store)?;
    Some(governance.member(device)?.status)
}

/// The components that a joiner needs: those of the genesis, and the code in effect.
fn components(snapshot: &Snapshot) -> Vec<ComponentId> {
    let genesis = snapshot.genesis();
    let mut ids = vec![genesis.system.id];
    ids.extend(genesis.app.as_ref().map(|app| app.id));
    // Unknown while the app lane waits; the genesis's code is what a joiner starts with anyway.
    if let Ok(Some(id)) = snapshot.code_in_effect()
        && !ids.contains(&id)
    {
        ids.push(id);
    }
    ids
}

/// The size of a component that this node has in that store, in bytes.
fn size_of(context: &Context, store: &StoreId, id: ComponentId) -> Option<u64> {
    match context.host.blobs().size(*store, BlobId::from(id)) {
        Ok(size) => size,
        Err(error) => {
            tracing::warn!(%error, "a component's size cannot be read");
            None
        }
    }
}

fn inspected(context: &Arc<Context>, scope: &Scope, snapshot: &Snapshot) -> Result<Inspected, Why> {
    let fault = |text: String| Why::NotHere(format!("the log cannot be read: {text}"));
    let genesis = snapshot
        .entry_at(LocalSeq(0))
        .map_err(|e| fault(e.to_string()))?
        .ok_or_else(|| fault("there is no genesis".into()))?;
    let body = genesis
        .body
        .ok_or_else(|| fault("the genesis has no body".into()))?;
    debug_assert!(Body::decode(&body).is_ok_and(|b| b.genesis.is_some()));
    let signed = genesis.header.signed();
    let components = components(snapshot)
        .into_iter()
        .filter_map(|id| {
            Some(ComponentSize {
                id: id.0.to_vec(),
                bytes: size_of(context, &scope.store, id)?,
            })
        })
        .collect();
    let mut members = known_members(context, |s| s.id == scope.store);
    members.truncate(TOKEN_ADDRESSES_MAX);
    Ok(Inspected {
        header: signed.bytes.to_vec(),
        signature: signed.signature.0.to_vec(),
        body: body.to_vec(),
        components,
        members: members.iter().map(WirePeer::new).collect(),
        clock_ms: context.host.now_ms(),
        app_in_effect: snapshot
            .code_in_effect()
            .ok()
            .flatten()
            .map_or_else(Vec::new, |id| id.0.to_vec()),
        entry_count: snapshot.summary().count,
    })
}

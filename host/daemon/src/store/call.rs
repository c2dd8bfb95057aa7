//! Calls and queries of a store, from request to answer.

use std::sync::Arc;
use std::time::Instant;

use lattice_format::{Call, Lane};
use lattice_kernel::run::engine::{CallEnd, CallKind};
use lattice_kernel::{Outcome, Queried, Snapshot, TrapKind};
use lattice_runtime::profile::THREAD_STACK_BYTES;
use tokio::sync::oneshot;

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::outcome::{self, Forms};
use crate::limits::{CALLS_MAX, QUERY_INLINE_MAX};
use crate::member;
use crate::node::lookup;
use crate::node::lookup::{Code, Found};
use crate::node::{Node, Slot};
use crate::store::arguments;
use crate::store::writer::Done;
use crate::store::{OpenStore, STOPPED_HINT};

/// Fuel that a query may use on the thread that serves the request. A query that needs more starts anew on a thread of
/// its own with all of its fuel, so the bound changes only the speed.
const QUERY_FUEL_INLINE: u64 = 5_000_000;
/// The nice value of a thread with a long query. It gets a tenth of the time of other threads on a busy processor.
#[cfg(target_os = "linux")]
const LONG_QUERY_NICE: i32 = 10;

/// A query with its function found and its arguments encoded, and the forms in which its result is shown.
pub(crate) struct Asked {
    found: Found,
    call: Call,
    forms: Forms,
}

impl Asked {
    /// The call to run.
    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// The lane in which the call runs.
    pub(crate) fn lane(&self) -> Lane {
        self.found.lane
    }

    /// The message for the result of the query.
    pub(crate) fn show(&self, queried: &Queried, applied_count: u64) -> api::QueryResponse {
        let outcome = match &queried.end {
            CallEnd::Ok(value) => Outcome::Ok(vec![value.clone()]),
            CallEnd::Refused(error) => Outcome::Refused {
                index: 0,
                error: error.clone(),
            },
            CallEnd::Trapped(kind) => Outcome::Trapped {
                index: 0,
                kind: *kind,
            },
        };
        api::QueryResponse {
            outcome: Some(outcome::show(
                &outcome,
                &[Some(self.found.function())],
                self.forms,
            )),
            provisional: true,
            applied_count,
        }
    }
}

/// Lets this thread give way. Who runs the node may have made all of it give way further.
#[cfg(target_os = "linux")]
fn give_way() {
    use rustix::process::{getpriority_process, setpriority_process};
    let lowered = getpriority_process(None)
        .and_then(|nice| setpriority_process(None, nice.max(LONG_QUERY_NICE)));
    if let Err(error) = lowered {
        tracing::debug!("a query keeps its priority: {error}");
    }
}

/// Runs a long query on a thread of its own, which gives way to all other threads: a query that loops must not keep
/// another store's writer from the processor.
///
/// # Errors
/// When the system has no thread to give, or the work panicked.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("query".into())
        .stack_size(THREAD_STACK_BYTES)
        .spawn(move || {
            // On other systems the priority is that of the whole process.
            #[cfg(target_os = "linux")]
            give_way();
            // The client may have left.
            let _ = reply.send(work());
        })
        .map_err(|error| Failure::failed(format!("no thread for the query: {error}")))?;
    answer
        .await
        .map_err(|_| Failure::failed("the query ended early"))
}

/// The open store of a slot, which can run calls and queries.
///
/// # Errors
/// When the store is being joined, is stopped, or is being folded again.
pub(crate) async fn running(node: &Node, slot: &Arc<Slot>) -> Result<Arc<OpenStore>> {
    let store = node.store(slot).await?;
    let published = store.settled().await;
    if let Some(reason) = published.broken {
        return Err(Failure::failed(format!("the store is stopped: {reason}")).hint(STOPPED_HINT));
    }
    if published.rebuilding {
        return Err(
            Failure::not_ready("the store's state is being folded again")
                .hint("try again when that is done; `lattice store status` shows how far it is"),
        );
    }
    Ok(store)
}

/// The code in effect of a store.
///
/// # Errors
/// When a component is missing. The failure says what the node does about it.
pub(crate) fn code(node: &Node, slot: &Slot, snapshot: &Snapshot) -> Result<Code> {
    Code::of(node, snapshot).map_err(|failure| match slot.remedy().as_str() {
        "" => failure,
        remedy => failure.hint(remedy),
    })
}

/// Runs commands as one transaction.
pub(crate) async fn call(node: &Node, request: api::CallRequest) -> Result<api::CallResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = running(node, &slot).await?;
    let snapshot = store.snapshot();
    let code = code(node, &slot, &snapshot)?;
    if request.calls.is_empty() || request.calls.len() > CALLS_MAX {
        return Err(Failure::usage(format!(
            "{} calls in one transaction; 1 to {CALLS_MAX} are allowed",
            request.calls.len()
        )));
    }
    let mut found = Vec::with_capacity(request.calls.len());
    let mut calls = Vec::with_capacity(request.calls.len());
    for call in request.calls {
        let function = code.find(CallKind::Command, &call.function)?;
        calls.push(Call {
            args: arguments::encode(function.function(), call.arguments)?,
            interface: function.interface.clone(),
            function: function.name.clone(),
        });
        found.push(function);
    }
    let lane = found[0].lane;
    if let Some(other) = found.iter().find(|function| function.lane != lane) {
        return Err(Failure::usage(format!(
            "{} and {} are of different components, and a transaction has one",
            found[0].name, other.name
        ))
        .hint("call them one after the other"));
    }
    let done = commit(&slot, &store, lane, calls, request.accepts_leap).await?;
    let functions: Vec<_> = found.iter().map(|found| Some(found.function())).collect();
    let forms = Forms::from_request(&request.forms);
    Ok(call_response(node, &slot, &done, &functions, forms))
}

/// Runs calls as one transaction through the writer of a store. Durable when this returns.
///
/// # Errors
/// When the calls have no outcome, or this node may not sign by its clock.
pub(crate) async fn commit(
    slot: &Slot,
    store: &OpenStore,
    lane: Lane,
    calls: Vec<Call>,
    accepts_leap: bool,
) -> Result<Done> {
    store
        .call(lane, calls, accepts_leap)
        .await
        .map_err(|failure| match slot.remedy().as_str() {
            "" => failure,
            remedy => failure.hint(remedy),
        })
}

/// The message for a call that has run.
pub(crate) fn call_response(
    node: &Node,
    slot: &Slot,
    done: &Done,
    functions: &[Option<&lattice_runtime::Function>],
    forms: Forms,
) -> api::CallResponse {
    let mut outcome = outcome::show(&done.outcome, functions, forms);
    if let Outcome::Unauthorized { .. } = done.outcome {
        outcome.detail = match member::own_role(node, slot) {
            Some(role) => format!("this node's role is {role}"),
            None => "this node is no member of the store".into(),
        };
        let governance = slot.governance();
        outcome.remedy = member::remedy(governance.as_deref(), &slot.id, &node.device());
    }
    let mut response = api::CallResponse {
        provisional: done.place.is_some(),
        outcome: Some(outcome),
        ..Default::default()
    };
    if let Some(place) = &done.place {
        response.entry_id = place.entry.0.to_vec();
        response.transaction_index = place.transaction;
        response.call_ids = place.calls.iter().map(|id| id.0.to_vec()).collect();
        response.time = Some(outcome::time(place.time));
    }
    response
}

/// Finds the function of a query and encodes its arguments.
///
/// # Errors
/// When the store has no such query, or the arguments do not fit.
pub(crate) fn asked(
    node: &Node,
    slot: &Slot,
    snapshot: &Snapshot,
    call: Option<api::FunctionCall>,
    forms: &[i32],
) -> Result<Asked> {
    let call = call.ok_or_else(|| Failure::usage("no query is given"))?;
    let found = code(node, slot, snapshot)?.find(CallKind::Query, &call.function)?;
    let args = arguments::encode(found.function(), call.arguments)?;
    Ok(Asked {
        call: Call {
            interface: found.interface.clone(),
            function: found.name.clone(),
            args,
        },
        found,
        forms: Forms::from_request(forms),
    })
}

/// Runs a query on what the log holds durably.
pub(crate) async fn query(node: &Node, request: api::QueryRequest) -> Result<api::QueryResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = running(node, &slot).await?;
    let snapshot = store.snapshot();
    let asked = asked(node, &slot, &snapshot, request.call, &request.forms)?;
    let queried = run_query(node, &store, &snapshot, &asked.call, asked.lane()).await?;
    Ok(asked.show(&queried, snapshot.summary().applied))
}

/// Runs a query on a view.
///
/// A short query runs on the thread that serves the request, because handing it to another thread would cost more than
/// the query. It may use little fuel there. A longer query starts anew on a thread of its own, with the same result,
/// since a query depends on the view alone. The first query of a store runs on a thread of its own as well, because
/// its code may have to be loaded or compiled.
pub(crate) async fn run_query(
    node: &Node,
    store: &OpenStore,
    snapshot: &Snapshot,
    call: &Call,
    lane: Lane,
) -> Result<Queried> {
    let fuel = snapshot.genesis().limits.fuel;
    if store.is_warm(lane) {
        let queried = snapshot.query(call, lane, fuel.min(QUERY_FUEL_INLINE))?;
        let cut_short = queried.end == CallEnd::Trapped(TrapKind::Fuel);
        if !cut_short || fuel <= QUERY_FUEL_INLINE {
            return Ok(queried);
        }
    }
    let ends = |_| Failure::shutting_down();
    let among_its = store.long_queries.clone().acquire_owned().await;
    let among_all = node.long_queries.clone().acquire_owned().await;
    let turn = (among_its.map_err(ends)?, among_all.map_err(ends)?);
    let (view, call) = (snapshot.clone(), call.clone());
    let run = move || {
        // The permits are held until the query ends, even if the client has left, because they bound threads.
        let _turn = turn;
        let started = Instant::now();
        (view.query(&call, lane, fuel), started.elapsed())
    };
    let (queried, took) = aside(run).await?;
    // Only code whose start is short is run on the serving thread later: fuel does not bound the start of a
    // component, which comes with each query.
    if took <= QUERY_INLINE_MAX {
        store.set_warm(lane);
    }
    Ok(queried?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_query_gives_way_and_never_takes_it() {
        use rustix::process::{getpriority_process, setpriority_process};
        // Of this thread alone, which ends with it.
        let nice_after = |nice: i32| {
            let set = move || {
                setpriority_process(None, nice).unwrap();
                give_way();
                getpriority_process(None).unwrap()
            };
            std::thread::spawn(set).join().unwrap()
        };
        // The thread cannot be given more than it has, whoever runs this.
        let now = getpriority_process(None).unwrap();
        assert_eq!(nice_after(now.max(5)), LONG_QUERY_NICE.max(now));
        assert_eq!(nice_after(15.max(now)), 15.max(now));
    }
}

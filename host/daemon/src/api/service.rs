//! The services of the API. Each request is passed on to the function of another module that does it.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lattice_format::ComponentId;
use lattice_kernel::writer::Rebuild;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::failure::Failure;
use crate::api::{self, calls_server, node_server, plugins_server, stores_server};
use crate::join;
use crate::member;
use crate::node::Node;
use crate::node::doctor;
use crate::node::lookup;
use crate::node::status;
use crate::plugin;
use crate::plugin::collect;
use crate::store::call;
use crate::store::chain;
use crate::store::create;
use crate::store::graph;
use crate::store::history;
use crate::store::notices;
use crate::store::watch;

/// All services of one node.
#[derive(Clone)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    /// The services of `node`.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = ReceiverStream<Result<T, Status>>;

fn answer<T>(result: Result<T, Failure>) -> Answer<T> {
    match result {
        Ok(message) => Ok(Response::new(message)),
        Err(failure) => Err(failure.into()),
    }
}

/// Runs blocking work on a thread where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => answer(result),
        Err(error) => Err(Failure::failed(error.to_string()).into()),
    }
}

#[tonic::async_trait]
impl node_server::Node for Service {
    async fn ping(&self, _: Request<api::PingRequest>) -> Answer<api::PingResponse> {
        Ok(Response::new(api::PingResponse {}))
    }

    async fn status(&self, _: Request<api::NodeStatusRequest>) -> Answer<api::NodeStatus> {
        answer(status::status(&self.node))
    }

    async fn list_peers(
        &self,
        request: Request<api::ListPeersRequest>,
    ) -> Answer<api::ListPeersResponse> {
        let node = self.node.clone();
        blocking(move || {
            // Members are known only of open stores.
            node.open_all();
            status::list_peers(&node, request.into_inner())
        })
        .await
    }

    async fn doctor(&self, _: Request<api::DoctorRequest>) -> Answer<api::DoctorResponse> {
        let node = self.node.clone();
        blocking(move || Ok(doctor::doctor(&node))).await
    }

    async fn list_notices(
        &self,
        request: Request<api::ListNoticesRequest>,
    ) -> Answer<api::ListNoticesResponse> {
        let node = self.node.clone();
        blocking(move || {
            node.open_all();
            notices::list_notices(&node, request.into_inner())
        })
        .await
    }

    async fn acknowledge_notices(
        &self,
        request: Request<api::AcknowledgeNoticesRequest>,
    ) -> Answer<api::AcknowledgeNoticesResponse> {
        let node = self.node.clone();
        blocking(move || notices::acknowledge(&node, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl plugins_server::Plugins for Service {
    async fn install(
        &self,
        request: Request<Streaming<api::InstallPluginRequest>>,
    ) -> Answer<api::InstallPluginResponse> {
        let mut messages = request.into_inner();
        let mut name = String::new();
        let mut bytes = Vec::new();
        let mut first = true;
        while let Some(message) = messages.next().await {
            let message = message?;
            if first {
                name = message.name;
                first = false;
            }
            collect(&mut bytes, &message.chunk)?;
        }
        answer(plugin::install(&self.node, name, bytes).await)
    }

    type FetchStream = Messages<api::FetchPluginProgress>;

    async fn fetch(&self, request: Request<api::FetchPluginRequest>) -> Answer<Self::FetchStream> {
        let request = request.into_inner();
        let id = ComponentId::from_slice(&request.hash).ok_or_else(|| {
            Failure::usage(format!(
                "a hash has 32 bytes, and this one {}",
                request.hash.len()
            ))
        })?;
        self.node.need_net("installing by hash")?;
        let (out, messages) = mpsc::channel(16);
        let node = self.node.clone();
        tokio::spawn(async move {
            let last = plugin::fetch_plugin(&node, id, request.name, &out).await;
            // The component is installed even if the client has left.
            let _ = out.send(last.map_err(Status::from)).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn list(
        &self,
        request: Request<api::ListPluginsRequest>,
    ) -> Answer<api::ListPluginsResponse> {
        let node = self.node.clone();
        blocking(move || plugin::list_plugins(&node, &request.into_inner())).await
    }

    async fn inspect(&self, request: Request<api::InspectPluginRequest>) -> Answer<api::Plugin> {
        let node = self.node.clone();
        blocking(move || plugin::inspect_plugin(&node, &request.into_inner().plugin)).await
    }

    async fn inspect_bytes(
        &self,
        request: Request<Streaming<api::InspectPluginBytesRequest>>,
    ) -> Answer<api::Plugin> {
        let mut messages = request.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = messages.next().await {
            collect(&mut bytes, &message?.chunk)?;
        }
        blocking(move || plugin::inspect_bytes(&bytes)).await
    }

    async fn remove(
        &self,
        request: Request<api::RemovePluginRequest>,
    ) -> Answer<api::RemovePluginResponse> {
        let node = self.node.clone();
        blocking(move || plugin::remove_plugin(&node, &request.into_inner().plugin)).await
    }
}

#[tonic::async_trait]
impl stores_server::Stores for Service {
    async fn create(&self, request: Request<api::CreateStoreRequest>) -> Answer<api::Store> {
        let (node, request) = (self.node.clone(), request.into_inner());
        // A task of its own: a client that leaves must not leave half a store behind.
        let created = tokio::spawn(async move {
            let slot = create::create(&node, request).await?;
            Ok(status::store_summary(&node, &slot).await)
        });
        match created.await {
            Ok(store) => answer(store),
            Err(error) => Err(Failure::failed(format!("making the store: {error}")).into()),
        }
    }

    async fn list(
        &self,
        request: Request<api::ListStoresRequest>,
    ) -> Answer<api::ListStoresResponse> {
        answer(status::list_stores(&self.node, request.into_inner()).await)
    }

    async fn status(&self, request: Request<api::StoreStatusRequest>) -> Answer<api::StoreStatus> {
        answer(status::store_status(&self.node, request.into_inner()).await)
    }

    async fn list_floating(
        &self,
        request: Request<api::ListFloatingRequest>,
    ) -> Answer<api::ListFloatingResponse> {
        answer(status::list_floating(&self.node, request.into_inner()).await)
    }

    async fn list_parked(
        &self,
        request: Request<api::ListParkedRequest>,
    ) -> Answer<api::ListParkedResponse> {
        answer(status::list_parked(&self.node, request.into_inner()).await)
    }

    async fn describe(
        &self,
        request: Request<api::DescribeStoreRequest>,
    ) -> Answer<api::DescribeStoreResponse> {
        answer(plugin::describe_store(&self.node, request.into_inner()).await)
    }

    async fn rename(&self, request: Request<api::RenameStoreRequest>) -> Answer<api::Store> {
        let slot = member::rename(&self.node, request.into_inner()).await?;
        Ok(Response::new(
            status::store_summary(&self.node, &slot).await,
        ))
    }

    async fn restart_chain(
        &self,
        request: Request<api::RestartChainRequest>,
    ) -> Answer<api::RestartChainResponse> {
        answer(chain::restart(&self.node, request.into_inner()).await)
    }

    type RebuildStream = Messages<api::RebuildProgress>;

    async fn rebuild(
        &self,
        request: Request<api::RebuildStoreRequest>,
    ) -> Answer<Self::RebuildStream> {
        let slot = lookup::find_slot(&self.node, &request.into_inner().store)?;
        let store = call::running(&self.node, &slot).await?;
        let before = store.snapshot().summary().clone();
        let (steps, mut steps_end) = mpsc::channel(16);
        store.rebuild(steps).await?;
        let (out, messages) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut total_count = 0;
            while let Some(step) = steps_end.recv().await {
                let message = match step {
                    Rebuild::Pending(pending) => {
                        total_count = total_count.max(pending);
                        Ok(api::RebuildProgress {
                            applied_count: total_count - pending,
                            total_count,
                            result: None,
                        })
                    }
                    Rebuild::Done(after) => {
                        let after = after.summary();
                        Ok(api::RebuildProgress {
                            applied_count: after.applied,
                            total_count: after.count,
                            result: Some(api::RebuildResult {
                                state_root_before: before.state_root.0.to_vec(),
                                state_root: after.state_root.0.to_vec(),
                                outcome_root_before: before.outcome_root.0.to_vec(),
                                outcome_root: after.outcome_root.0.to_vec(),
                            }),
                        })
                    }
                    Rebuild::Failed(reason) => {
                        Err(Failure::failed(format!("the rebuild stopped: {reason}")).into())
                    }
                };
                let is_last = !matches!(&message, Ok(progress) if progress.result.is_none());
                // The client has left. The rebuild goes on without it.
                if out.send(message).await.is_err() || is_last {
                    return;
                }
            }
            let ended = Failure::failed("the rebuild ended early: the store's writer is gone")
                .hint("`lattice store status` says what became of the store");
            let _ = out.send(Err(ended.into())).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn history(&self, request: Request<api::HistoryRequest>) -> Answer<api::HistoryResponse> {
        answer(history::history(&self.node, request.into_inner()).await)
    }

    async fn graph(&self, request: Request<api::GraphRequest>) -> Answer<api::GraphResponse> {
        answer(graph::graph(&self.node, request.into_inner()).await)
    }

    async fn invite(&self, request: Request<api::InviteRequest>) -> Answer<api::InviteResponse> {
        answer(member::invite(&self.node, request.into_inner()).await)
    }

    async fn inspect_token(
        &self,
        request: Request<api::InspectTokenRequest>,
    ) -> Answer<api::InspectTokenResponse> {
        answer(join::inspect_token(&self.node, &request.into_inner().token).await)
    }

    type JoinStream = crate::join::Progress;

    async fn join(&self, request: Request<api::JoinRequest>) -> Answer<Self::JoinStream> {
        answer(join::join(&self.node, request.into_inner()).await)
    }

    async fn list_members(
        &self,
        request: Request<api::ListMembersRequest>,
    ) -> Answer<api::ListMembersResponse> {
        answer(member::list_members(&self.node, request.into_inner()).await)
    }

    async fn revoke(&self, request: Request<api::RevokeRequest>) -> Answer<api::CallResponse> {
        answer(member::revoke(&self.node, request.into_inner()).await)
    }

    async fn set_role(&self, request: Request<api::SetRoleRequest>) -> Answer<api::CallResponse> {
        answer(member::set_role(&self.node, request.into_inner()).await)
    }

    async fn set_quota(&self, request: Request<api::SetQuotaRequest>) -> Answer<api::CallResponse> {
        answer(member::set_quota(&self.node, request.into_inner()).await)
    }

    async fn get_quota(
        &self,
        request: Request<api::GetQuotaRequest>,
    ) -> Answer<api::GetQuotaResponse> {
        answer(member::get_quota(&self.node, request.into_inner()).await)
    }

    async fn readmit(&self, request: Request<api::ReadmitRequest>) -> Answer<api::CallResponse> {
        answer(member::readmit(&self.node, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl calls_server::Calls for Service {
    async fn call(&self, request: Request<api::CallRequest>) -> Answer<api::CallResponse> {
        answer(call::call(&self.node, request.into_inner()).await)
    }

    async fn query(&self, request: Request<api::QueryRequest>) -> Answer<api::QueryResponse> {
        answer(call::query(&self.node, request.into_inner()).await)
    }

    type WatchStream = crate::store::watch::Events;

    async fn watch(&self, request: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        answer(watch::watch(&self.node, request.into_inner()).await)
    }
}

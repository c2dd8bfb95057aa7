//! The services of the API: what a request means is said elsewhere; this only hands it on.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lattice_format::ComponentId;
use lattice_kernel::writer::Rebuild;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::{self, calls_server, node_server, plugins_server, stores_server};
use crate::failure::Failure;
use crate::node::Node;
use crate::plugins::collect;

/// All services of one node.
#[derive(Clone)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    /// The services of this node.
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

/// Runs what blocks where blocking is allowed.
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
        answer(self.node.status())
    }

    async fn list_peers(
        &self,
        request: Request<api::ListPeersRequest>,
    ) -> Answer<api::ListPeersResponse> {
        let node = self.node.clone();
        blocking(move || {
            // Members are known of stores that are open.
            node.open_all();
            node.list_peers(request.into_inner())
        })
        .await
    }

    async fn doctor(&self, _: Request<api::DoctorRequest>) -> Answer<api::DoctorResponse> {
        let node = self.node.clone();
        blocking(move || Ok(node.doctor())).await
    }

    async fn list_notices(
        &self,
        request: Request<api::ListNoticesRequest>,
    ) -> Answer<api::ListNoticesResponse> {
        let node = self.node.clone();
        blocking(move || {
            node.open_all();
            node.list_notices(request.into_inner())
        })
        .await
    }

    async fn acknowledge_notices(
        &self,
        request: Request<api::AcknowledgeNoticesRequest>,
    ) -> Answer<api::AcknowledgeNoticesResponse> {
        let node = self.node.clone();
        blocking(move || node.acknowledge(request.into_inner())).await
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
        answer(self.node.install(name, bytes).await)
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
            let last = node.fetch_plugin(id, request.name, &out).await;
            // A client that left has its component nevertheless.
            let _ = out.send(last.map_err(Status::from)).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn list(
        &self,
        request: Request<api::ListPluginsRequest>,
    ) -> Answer<api::ListPluginsResponse> {
        let node = self.node.clone();
        blocking(move || node.list_plugins(&request.into_inner())).await
    }

    async fn inspect(&self, request: Request<api::InspectPluginRequest>) -> Answer<api::Plugin> {
        let node = self.node.clone();
        blocking(move || node.inspect_plugin(&request.into_inner().plugin)).await
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
        blocking(move || Node::inspect_bytes(&bytes)).await
    }

    async fn remove(
        &self,
        request: Request<api::RemovePluginRequest>,
    ) -> Answer<api::RemovePluginResponse> {
        let node = self.node.clone();
        blocking(move || node.remove_plugin(&request.into_inner().plugin)).await
    }
}

#[tonic::async_trait]
impl stores_server::Stores for Service {
    async fn create(&self, request: Request<api::CreateStoreRequest>) -> Answer<api::Store> {
        let slot = self.node.create(request.into_inner()).await?;
        Ok(Response::new(self.node.store_summary(&slot).await))
    }

    async fn list(
        &self,
        request: Request<api::ListStoresRequest>,
    ) -> Answer<api::ListStoresResponse> {
        answer(self.node.list_stores(request.into_inner()).await)
    }

    async fn status(&self, request: Request<api::StoreStatusRequest>) -> Answer<api::StoreStatus> {
        answer(self.node.store_status(request.into_inner()).await)
    }

    async fn list_floating(
        &self,
        request: Request<api::ListFloatingRequest>,
    ) -> Answer<api::ListFloatingResponse> {
        answer(self.node.list_floating(request.into_inner()).await)
    }

    async fn list_parked(
        &self,
        request: Request<api::ListParkedRequest>,
    ) -> Answer<api::ListParkedResponse> {
        answer(self.node.list_parked(request.into_inner()).await)
    }

    async fn describe(
        &self,
        request: Request<api::DescribeStoreRequest>,
    ) -> Answer<api::DescribeStoreResponse> {
        answer(self.node.describe_store(request.into_inner()).await)
    }

    async fn rename(&self, request: Request<api::RenameStoreRequest>) -> Answer<api::Store> {
        let slot = self.node.rename(request.into_inner()).await?;
        Ok(Response::new(self.node.store_summary(&slot).await))
    }

    type RebuildStream = Messages<api::RebuildProgress>;

    async fn rebuild(
        &self,
        request: Request<api::RebuildStoreRequest>,
    ) -> Answer<Self::RebuildStream> {
        let slot = self.node.find_slot(&request.into_inner().store)?;
        let store = self.node.running(&slot).await?;
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
                // Without a client the writer goes on by itself.
                if out.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn history(&self, request: Request<api::HistoryRequest>) -> Answer<api::HistoryResponse> {
        answer(self.node.history(request.into_inner()).await)
    }

    async fn graph(&self, request: Request<api::GraphRequest>) -> Answer<api::GraphResponse> {
        answer(self.node.graph(request.into_inner()).await)
    }

    async fn invite(&self, request: Request<api::InviteRequest>) -> Answer<api::InviteResponse> {
        answer(self.node.invite(request.into_inner()).await)
    }

    async fn inspect_token(
        &self,
        request: Request<api::InspectTokenRequest>,
    ) -> Answer<api::InspectTokenResponse> {
        answer(self.node.inspect_token(&request.into_inner().token).await)
    }

    type JoinStream = crate::join::Progress;

    async fn join(&self, request: Request<api::JoinRequest>) -> Answer<Self::JoinStream> {
        answer(self.node.join(request.into_inner()).await)
    }

    async fn list_members(
        &self,
        request: Request<api::ListMembersRequest>,
    ) -> Answer<api::ListMembersResponse> {
        answer(self.node.list_members(request.into_inner()).await)
    }

    async fn revoke(&self, request: Request<api::RevokeRequest>) -> Answer<api::CallResponse> {
        answer(self.node.revoke(request.into_inner()).await)
    }

    async fn set_role(&self, request: Request<api::SetRoleRequest>) -> Answer<api::CallResponse> {
        answer(self.node.set_role(request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl calls_server::Calls for Service {
    async fn call(&self, request: Request<api::CallRequest>) -> Answer<api::CallResponse> {
        answer(self.node.call(request.into_inner()).await)
    }

    async fn query(&self, request: Request<api::QueryRequest>) -> Answer<api::QueryResponse> {
        answer(self.node.query(request.into_inner()).await)
    }

    type WatchStream = crate::watch::Events;

    async fn watch(&self, request: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        answer(self.node.watch(request.into_inner()).await)
    }
}

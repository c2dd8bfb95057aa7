//! A join as a task: everything from the token to the replicated store, again until it is done.
//!
//! The task keeps no state but what it was started with: each step asks first whether it was done, so
//! a join goes on after a crash wherever it was. What must be persisted is [`JoinTask::to_bytes`].

use std::time::Duration;

use futures_util::future::BoxFuture;
use lattice_format::{ComponentId, SignedHeader, StoreId};
use prost::Message;

use super::client::{Inspected, JoinError, find};
use crate::Net;
use crate::context::jitter;
use crate::token::{PeerAddr, Token, TokenError};

/// How often the task looks whether the history has come.
const LOOK: Duration = Duration::from_millis(25);

/// What the node does for its own joins.
pub trait JoinHost: Send + Sync {
    /// Whether the store is here already.
    fn has_store(&self, store: &StoreId) -> bool;

    /// Whether this node has the component ready to run. One that it has from elsewhere is recorded
    /// in the scope of that store too, since its members may ask for it.
    fn has_component(&self, store: &StoreId, component: &ComponentId) -> bool;

    /// Checks and compiles a component that was received in the scope of that store; it is in
    /// [`crate::NetHost::blobs`].
    ///
    /// # Errors
    /// One line: why it cannot be used. The join ends.
    fn install_component(
        &self,
        store: StoreId,
        component: ComponentId,
    ) -> BoxFuture<'_, Result<(), String>>;

    /// Makes the store out of its genesis, unless it is here. Durable when it resolves, and then
    /// [`crate::NetHost::snapshot`] knows it.
    ///
    /// # Errors
    /// One line. It is tried again.
    fn adopt(
        &self,
        store: StoreId,
        signed: SignedHeader,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), String>>;

    /// Whether this node sees itself as a member, and has run all that it received.
    fn is_ready(&self, store: &StoreId) -> bool;

    /// The join went on. Must not block.
    fn progress(&self, phase: JoinPhase);
}

/// Where a join is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinPhase {
    /// Looks for a member that answers.
    Connecting,
    /// Fetches a component.
    Fetching {
        /// Which.
        component: ComponentId,
        /// Bytes received and verified.
        done_bytes: u64,
        /// All bytes; 0 while unknown.
        total_bytes: u64,
    },
    /// The node compiles a component.
    Compiling {
        /// Which.
        component: ComponentId,
    },
    /// Waits for its admission.
    Claiming,
    /// Receives the history.
    Syncing {
        /// Entries that are here.
        done: u64,
        /// Entries that the member holds.
        total: u64,
        /// What it waits for; empty when it just receives.
        text: String,
    },
    /// Failed, and tries again.
    Waiting {
        /// What failed.
        error: JoinError,
        /// Until then, in milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// This node is a member and has the history.
    Done,
    /// Failed for good.
    Failed {
        /// Why.
        error: JoinError,
    },
}

/// The code that a person agreed to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The governance component.
    pub governance: ComponentId,
    /// The app component; `None` for a pure root store.
    pub app: Option<ComponentId>,
}

/// A join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTask {
    /// The token, with its secret.
    pub token: Token,
    /// What the members may call this device.
    pub device_name: String,
    /// What the store is called here; empty takes the inviter's name.
    pub store_name: String,
    /// The code that was agreed to.
    pub agreed: Agreement,
}

/// Why persisted bytes are no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTaskError {
    /// Not the message.
    #[error("the persisted join does not decode")]
    Undecodable,
    /// Its token is none.
    #[error("the persisted join: {0}")]
    Token(#[from] TokenError),
}

#[derive(Clone, PartialEq, Message)]
struct WireTask {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(string, tag = "2")]
    device_name: String,
    #[prost(string, tag = "3")]
    store_name: String,
    #[prost(bytes = "vec", tag = "4")]
    governance: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    app: Vec<u8>,
}

impl JoinTask {
    /// For the disk. Holds the token's secret: keep it where only the owner reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        WireTask {
            token: self.token.to_text(),
            device_name: self.device_name.clone(),
            store_name: self.store_name.clone(),
            governance: self.agreed.governance.0.to_vec(),
            app: self.agreed.app.map_or_else(Vec::new, |id| id.0.to_vec()),
        }
        .encode_to_vec()
    }

    /// From the disk.
    ///
    /// # Errors
    /// When the bytes are not what [`JoinTask::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JoinTaskError> {
        let wire = WireTask::decode(bytes).map_err(|_| JoinTaskError::Undecodable)?;
        let app = match wire.app.len() {
            0 => None,
            _ => Some(ComponentId::from_slice(&wire.app).ok_or(JoinTaskError::Undecodable)?),
        };
        Ok(Self {
            token: Token::parse(&wire.token)?,
            device_name: wire.device_name,
            store_name: wire.store_name,
            agreed: Agreement {
                governance: ComponentId::from_slice(&wire.governance)
                    .ok_or(JoinTaskError::Undecodable)?,
                app,
            },
        })
    }

    /// Joins. Tries again, with growing pauses, until it is done or can never be; dropping the future
    /// pauses the join, and running it again goes on.
    ///
    /// # Errors
    /// A final error, reported as [`JoinPhase::Failed`] before.
    pub async fn run(&self, net: &Net, host: &dyn JoinHost) -> Result<(), JoinError> {
        let mut failures = 0;
        let mut further = Vec::new();
        loop {
            match self.attempt(net, host, &mut further).await {
                Ok(()) => {
                    host.progress(JoinPhase::Done);
                    return Ok(());
                }
                Err(error) if error.is_final() => {
                    host.progress(JoinPhase::Failed {
                        error: error.clone(),
                    });
                    return Err(error);
                }
                Err(error) => {
                    let pause_ms = net.context.timings.retry().pause_ms(failures, jitter());
                    failures += 1;
                    host.progress(JoinPhase::Waiting {
                        error,
                        until_ms: net.context.host.now_ms().saturating_add(pause_ms),
                    });
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
            }
        }
    }

    async fn attempt(
        &self,
        net: &Net,
        host: &dyn JoinHost,
        further: &mut Vec<PeerAddr>,
    ) -> Result<(), JoinError> {
        let store = self.token.store;
        let mut total = 0;
        // A store that is here was adopted after its admission: only the history is missing.
        if !host.has_store(&store) {
            host.progress(JoinPhase::Connecting);
            let (member, inspected) = find(net, &self.token, further).await?;
            self.check_agreement(&inspected)?;
            further.clone_from(&inspected.members);
            total = inspected.entry_count;
            let needed = [Some(self.agreed.governance), self.agreed.app];
            for id in needed.into_iter().flatten() {
                if host.has_component(&store, &id) {
                    continue;
                }
                let fetching = |done_bytes, total_bytes| {
                    host.progress(JoinPhase::Fetching {
                        component: id,
                        done_bytes,
                        total_bytes,
                    });
                };
                fetching(0, 0);
                match member.component(id, &fetching).await {
                    Ok(()) => {}
                    Err(error) if error.is_final() => return Err(error),
                    // This member may lack it: ask the others too.
                    Err(_) => net.fetch_component(&self.token, id, &fetching).await?,
                }
                host.progress(JoinPhase::Compiling { component: id });
                host.install_component(store, id)
                    .await
                    .map_err(JoinError::Component)?;
            }
            host.progress(JoinPhase::Claiming);
            member.claim(&self.device_name).await?;
            tracing::info!(%store, by = %member.device(), "admitted");
            host.adopt(store, inspected.signed, inspected.body)
                .await
                .map_err(JoinError::Node)?;
        }
        net.store_added(store);
        net.trust(&store, &self.token.peers);
        net.trust(&store, further);
        self.follow(net, host, total).await;
        Ok(())
    }

    /// Waits until the history is here. The sync sessions do the work and the retrying.
    async fn follow(&self, net: &Net, host: &dyn JoinHost, mut total: u64) {
        let store = self.token.store;
        let mut shown = None;
        loop {
            let done = net
                .context
                .host
                .snapshot(&store)
                .map_or(0, |s| s.summary().count);
            let mut in_sync = false;
            let mut text = String::new();
            for peer in net.context.peers.list(net.context.host.reading()) {
                for row in peer.stores.iter().filter(|s| s.store == store) {
                    in_sync |= row.in_sync;
                    total = total.max(row.peer_count.unwrap_or(0));
                    if !row.reason.is_empty() {
                        text.clone_from(&row.reason);
                    } else if !peer.reason.is_empty() {
                        text.clone_from(&peer.reason);
                    }
                }
            }
            if in_sync && host.is_ready(&store) {
                return;
            }
            let phase = JoinPhase::Syncing { done, total, text };
            if shown.as_ref() != Some(&phase) {
                host.progress(phase.clone());
                shown = Some(phase);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn check_agreement(&self, inspected: &Inspected) -> Result<(), JoinError> {
        let genesis = &inspected.genesis;
        let differs = |which, found: Option<ComponentId>, agreed: Option<ComponentId>| {
            let shown = |id: Option<ComponentId>| id.map_or("none".to_owned(), |id| id.to_string());
            JoinError::NotAgreed {
                which,
                found: shown(found),
                agreed: shown(agreed),
            }
        };
        if genesis.system.id != self.agreed.governance {
            return Err(differs(
                "governance component",
                Some(genesis.system.id),
                Some(self.agreed.governance),
            ));
        }
        let app = genesis.app.as_ref().map(|app| app.id);
        if app != self.agreed.app {
            return Err(differs("component", app, self.agreed.app));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::InviteKey;
    use lattice_format::DeviceKey;

    #[test]
    fn a_persisted_join_goes_on_as_it_was() {
        let task = JoinTask {
            token: Token {
                store: StoreId([1; 32]),
                invite: InviteKey::from_seed([2; 32]),
                peers: vec![PeerAddr {
                    device: DeviceKey([3; 32]),
                    addresses: vec!["127.0.0.1:1".parse().unwrap()],
                    relay: None,
                }],
                store_name: "notes".into(),
                role: "writer".into(),
                expires_ms: 5,
            },
            device_name: "laptop".into(),
            store_name: "here".into(),
            agreed: Agreement {
                governance: ComponentId([4; 32]),
                app: Some(ComponentId([5; 32])),
            },
        };
        assert_eq!(JoinTask::from_bytes(&task.to_bytes()), Ok(task));
        assert_eq!(
            JoinTask::from_bytes(b"\xff"),
            Err(JoinTaskError::Undecodable)
        );
        assert!(matches!(
            JoinTask::from_bytes(b""),
            Err(JoinTaskError::Token(_))
        ));
    }
}

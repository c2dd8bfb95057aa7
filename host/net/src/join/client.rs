//! The joiner's side of a join: one request after the other, to whichever member answers.

use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use iroh::endpoint::{
    ConnectError, ConnectWithOptsError, ConnectingError, Connection, ConnectionError,
};
use iroh::{EndpointAddr, TransportAddr};
use lattice_format::{
    BlobId, Body, ComponentId, DeviceKey, Genesis, Header, IntentionId, Signature, SignedHeader,
    verify,
};
use tokio::time::timeout;

use super::wire::{self, Answer, Request, Why};
use crate::Net;
use crate::blob;
use crate::endpoint::{code, endpoint_addr, id_of};
use crate::frame;
use crate::limits::{COMPONENT_BYTES_MAX, JOIN_ANSWER_BYTES_MAX, TOKEN_ADDRESSES_MAX};
use crate::token::{PeerAddr, Token, shortened};

/// Why a join does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Nobody that the token names answers.
    #[error("none of the {tried} members that the token names answers (of the last one: {last})")]
    Unreachable {
        /// How many were tried.
        tried: usize,
        /// What the last one led to.
        last: String,
    },
    /// The invite ended.
    #[error("the invite expired at {}; ask for a new one", date(*.at_ms))]
    Expired {
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Others used it up.
    #[error("the invite is spent: it was good for {}; ask for a new one", devices(*.uses))]
    Spent {
        /// How many uses it had.
        uses: u32,
    },
    /// It was taken back.
    #[error("the invite was cancelled; ask for a new one")]
    Cancelled,
    /// The member that made the token knows nothing of it.
    #[error("no member knows this invite; ask for a new one")]
    UnknownInvite,
    /// This device was a member before.
    #[error("this device was a member before")]
    AdmittedBefore,
    /// Governance refused the claim.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// The genesis names other code than a person agreed to.
    #[error("the store's {which} is {found}, but {agreed} was agreed to")]
    NotAgreed {
        /// "component" or "governance component".
        which: &'static str,
        /// What the genesis names, `none` for nothing.
        found: String,
        /// What was agreed to.
        agreed: String,
    },
    /// A member cannot help now.
    #[error("the member {} cannot help now: {text}", short(.peer))]
    NotNow {
        /// The member.
        peer: DeviceKey,
        /// One line.
        text: String,
    },
    /// A member sent something that is not what was asked for.
    #[error("the member {} answers wrongly: {text}", short(.peer))]
    Wrong {
        /// The member.
        peer: DeviceKey,
        /// One line.
        text: String,
    },
    /// This node itself could not go on.
    #[error("this node cannot go on: {0}")]
    Node(String),
    /// A component, or the genesis, is not one that this node can use.
    #[error("the component cannot be used: {0}")]
    Component(String),
}

/// As many digits of a device's key as tell it from others.
fn short(device: &DeviceKey) -> String {
    device.to_string().chars().take(16).collect()
}

fn devices(uses: u32) -> String {
    match uses {
        1 => "one device".into(),
        uses => format!("{uses} devices"),
    }
}

/// A time as people read it.
fn date(at_ms: u64) -> String {
    // RFC 3339 has no years after 9999.
    const YEAR_10000_MS: u64 = 253_402_300_800_000;
    match UNIX_EPOCH.checked_add(Duration::from_millis(at_ms)) {
        Some(at) if at_ms < YEAR_10000_MS => humantime::format_rfc3339_seconds(at).to_string(),
        _ => format!("{at_ms} ms since 1970"),
    }
}

/// Why a dial failed, in words.
fn dial_words(error: &ConnectError) -> String {
    match error {
        ConnectError::Connect {
            source: ConnectWithOptsError::NoAddress { .. },
            ..
        } => "no place is known where it could be reached".into(),
        ConnectError::Connection { source, .. }
        | ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        } => match source {
            ConnectionError::TimedOut => "it does not answer".into(),
            ConnectionError::ApplicationClosed(closed) => {
                let reason = String::from_utf8_lossy(&closed.reason);
                format!("it closed the connection, saying {reason:?}")
            }
            other => format!("the connection failed: {other}"),
        },
        other => format!("the connection failed: {other:#}"),
    }
}

impl JoinError {
    /// Whether trying again, with whomever, leads nowhere.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Expired { .. }
            | Self::Spent { .. }
            | Self::Cancelled
            | Self::UnknownInvite
            | Self::AdmittedBefore
            | Self::Refused(_)
            | Self::NotAgreed { .. }
            | Self::Component(_) => true,
            Self::Unreachable { .. } | Self::NotNow { .. } | Self::Wrong { .. } | Self::Node(_) => {
                false
            }
        }
    }
}

/// A component that a store names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentInfo {
    /// BLAKE3 of its bytes.
    pub id: ComponentId,
    /// What the genesis calls it; empty for code that came later.
    pub name: String,
    /// Its size in bytes; `None` when the member that answered does not have it.
    pub bytes: Option<u64>,
}

/// What a token leads to. The genesis was verified against the token's store id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The genesis, as it travels.
    pub signed: SignedHeader,
    /// Its body.
    pub body: Vec<u8>,
    /// The same, decoded.
    pub genesis: Genesis,
    /// The governance component first, then the app component of the genesis, then the code in
    /// effect if that is another.
    pub components: Vec<ComponentInfo>,
    /// The code in effect, by the member's word.
    pub app_in_effect: Option<ComponentId>,
    /// Who answered.
    pub from: DeviceKey,
    /// Members and where they are, by the member's word; the one that answered among them.
    pub members: Vec<PeerAddr>,
    /// The member's clock minus this node's, in milliseconds.
    pub clock_lead_ms: i64,
    /// How many entries the member holds.
    pub entry_count: u64,
}

/// A member that answers requests for one token.
pub(super) struct Member<'a> {
    net: &'a Net,
    token: &'a Token,
    peer: DeviceKey,
    connection: Connection,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.connection.close(code::BYE, b"done");
    }
}

impl Net {
    /// Asks the members that a token names what it leads to, one after the other.
    ///
    /// # Errors
    /// The first final error, or [`JoinError::Unreachable`].
    pub async fn inspect_token(&self, token: &Token) -> Result<Inspected, JoinError> {
        let (_member, inspected) = find(self, token, &[]).await?;
        Ok(inspected)
    }

    /// Fetches a component in the scope of a token, from any member that answers, into the host's
    /// blobs, verified. Whoever decides not to join forgets it there.
    ///
    /// # Errors
    /// The first final error, or [`JoinError::Unreachable`].
    pub async fn fetch_component(
        &self,
        token: &Token,
        id: ComponentId,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), JoinError> {
        let (member, inspected) = find(self, token, &[]).await?;
        let first = member.component(id, progress).await;
        let Err(error) = first else { return Ok(()) };
        if error.is_final() {
            return Err(error);
        }
        let others: Vec<_> = inspected
            .members
            .iter()
            .filter(|m| m.device != member.peer && m.device != self.device())
            .collect();
        let mut last = error;
        for other in others {
            match Member::dial(self, token, other).await {
                Ok(other) => match other.component(id, progress).await {
                    Ok(()) => return Ok(()),
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The first member that answers, of those in the token and `further`.
pub(super) async fn find<'a>(
    net: &'a Net,
    token: &'a Token,
    further: &[PeerAddr],
) -> Result<(Member<'a>, Inspected), JoinError> {
    let mut tried = Vec::new();
    let mut last = JoinError::Unreachable {
        tried: 0,
        last: "the token names nobody else".into(),
    };
    let inviter = token.peers.first().map(|p| p.device);
    for peer in token.peers.iter().chain(further) {
        if peer.device == net.device() || tried.contains(&peer.device) {
            continue;
        }
        tried.push(peer.device);
        let asked = async {
            let member = Member::dial(net, token, peer).await?;
            let inspected = member.inspect().await?;
            Ok((member, inspected))
        };
        match asked.await {
            Ok(found) => return Ok(found),
            // Another member may have received the invite that this one has not.
            Err(JoinError::UnknownInvite) if Some(peer.device) != inviter => {
                last = JoinError::NotNow {
                    peer: peer.device,
                    text: "it does not know the invite yet".into(),
                };
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => last = error,
        }
    }
    match tried.len() {
        1 => Err(last),
        tried => Err(JoinError::Unreachable {
            tried,
            last: last.to_string(),
        }),
    }
}

impl<'a> Member<'a> {
    /// Connects to one member.
    pub(super) async fn dial(
        net: &'a Net,
        token: &'a Token,
        peer: &PeerAddr,
    ) -> Result<Self, JoinError> {
        let not_now = |text: String| JoinError::NotNow {
            peer: peer.device,
            text,
        };
        let mut addr: EndpointAddr = endpoint_addr(peer)
            .ok_or_else(|| not_now("its key is no point of the curve".into()))?;
        if id_of(&net.device()) == Some(addr.id) {
            return Err(JoinError::Node("the token names this node alone".into()));
        }
        let known = net.context.peers.addresses(&peer.device);
        addr = addr.with_addrs(known.into_iter().map(TransportAddr::Ip));
        let dial = async |addr| {
            let dial = net.context.endpoint.connect(addr, super::ALPN);
            timeout(net.dial_limit(), dial).await
        };
        let mut dialled = dial(addr.clone()).await;
        if !matches!(dialled, Ok(Ok(_)))
            && let Some(lan) = &net.context.lan
        {
            // It may have been heard on the local network only while the dial was under way.
            let heard = lan.addresses(&peer.device);
            let is_news = |place: &SocketAddr| addr.ip_addrs().all(|known| known != place);
            if heard.iter().any(is_news) {
                let heard = heard.into_iter().map(TransportAddr::Ip);
                dialled = dial(addr.with_addrs(heard)).await;
            }
        }
        let connection = match dialled {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(not_now(dial_words(&error))),
            Err(_) => {
                let limit = net.dial_limit();
                return Err(not_now(format!("it does not answer within {limit:?}")));
            }
        };
        Ok(Self {
            net,
            token,
            peer: peer.device,
            connection,
        })
    }

    /// Its key.
    pub(super) fn device(&self) -> DeviceKey {
        self.peer
    }

    /// Asks what the store is.
    pub(super) async fn inspect(&self) -> Result<Inspected, JoinError> {
        let request = Request {
            inspect: Some(wire::Inspect {}),
            ..self.scope()
        };
        let (answer, _streams) = self.ask(&request).await?;
        let wire = answer.inspected.ok_or_else(|| self.wrong("no genesis"))?;
        self.check(wire)
    }

    fn check(&self, wire: wire::Inspected) -> Result<Inspected, JoinError> {
        let signed = SignedHeader {
            bytes: wire.header.into(),
            signature: Signature::from_slice(&wire.signature)
                .ok_or_else(|| self.wrong("a signature that is none"))?,
        };
        if Header::id_of(&signed.bytes) != IntentionId::from(self.token.store) {
            return Err(self.wrong("the genesis of another store"));
        }
        let header = verify(signed.clone()).map_err(|e| self.wrong(&e.to_string()))?;
        header
            .check_body(wire.body.as_slice())
            .map_err(|e| self.wrong(&e.to_string()))?;
        let genesis = Body::decode(&wire.body)
            .map_err(|e| JoinError::Component(e.to_string()))?
            .genesis
            .ok_or_else(|| self.wrong("a genesis that names nothing"))?;
        let size = |id: &ComponentId| {
            let row = wire.components.iter().find(|c| c.id == id.0)?;
            Some(row.bytes)
        };
        let mut components = vec![ComponentInfo {
            id: genesis.system.id,
            name: genesis.system.name.clone(),
            bytes: size(&genesis.system.id),
        }];
        if let Some(app) = &genesis.app {
            components.push(ComponentInfo {
                id: app.id,
                name: app.name.clone(),
                bytes: size(&app.id),
            });
        }
        let app_in_effect = ComponentId::from_slice(&wire.app_in_effect);
        if let Some(id) = app_in_effect
            && components.iter().all(|c| c.id != id)
        {
            components.push(ComponentInfo {
                id,
                name: String::new(),
                bytes: size(&id),
            });
        }
        let lead = i128::from(wire.clock_ms) - i128::from(self.net.context.host.now_ms());
        let members = wire.members.into_iter().take(TOKEN_ADDRESSES_MAX);
        Ok(Inspected {
            signed,
            body: wire.body,
            genesis,
            components,
            app_in_effect,
            from: self.peer,
            members: members.filter_map(|m| m.read()).collect(),
            clock_lead_ms: i64::try_from(lead).unwrap_or(i64::MAX),
            entry_count: wire.entry_count,
        })
    }

    /// Fetches a component into the host's blobs, verified against its id.
    pub(super) async fn component(
        &self,
        id: ComponentId,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), JoinError> {
        let request = Request {
            component: Some(wire::Component { id: id.0.to_vec() }),
            ..self.scope()
        };
        let (answer, streams) = self.ask(&request).await?;
        if !answer.component_follows {
            return Err(self.wrong("no component"));
        }
        let fetch = blob::Wish {
            store: self.token.store,
            blob: BlobId::from(id),
            bytes_max: COMPONENT_BYTES_MAX,
        };
        blob::fetch(
            &self.net.context,
            fetch,
            vec![(self.peer, streams)],
            progress,
        )
        .await
        .map_err(|error| match error {
            blob::FetchError::Disk(text) => JoinError::Node(text),
            other => JoinError::NotNow {
                peer: self.peer,
                text: other.to_string(),
            },
        })
    }

    /// Asks to be admitted. Done when this returns: the admission is durable there.
    pub(super) async fn claim(&self, name: &str) -> Result<(), JoinError> {
        let device = self.net.device();
        let signature = self.token.invite.claim(&self.token.store, &device);
        let request = Request {
            claim: Some(wire::Claim {
                name: shortened(name),
                signature: signature.0.to_vec(),
            }),
            ..self.scope()
        };
        let (answer, _streams) = self.ask(&request).await?;
        if answer.admitted {
            Ok(())
        } else {
            Err(self.wrong("neither an admission nor a refusal"))
        }
    }

    fn scope(&self) -> Request {
        let Token { store, invite, .. } = self.token;
        let proof = invite.prove(store, &self.net.device(), &self.peer);
        Request {
            store: store.0.to_vec(),
            invite: invite.public().0.to_vec(),
            proof: proof.0.to_vec(),
            ..Request::default()
        }
    }

    async fn ask(&self, request: &Request) -> Result<(Answer, Streams), JoinError> {
        let broken = |text: String| JoinError::NotNow {
            peer: self.peer,
            text,
        };
        let asked = async {
            let (mut send, mut recv) = self
                .connection
                .open_bi()
                .await
                .map_err(|e| broken(e.to_string()))?;
            frame::write(&mut send, request)
                .await
                .map_err(|e| broken(e.to_string()))?;
            let answer: Answer = frame::read(&mut recv, JOIN_ANSWER_BYTES_MAX)
                .await
                .map_err(|e| broken(e.to_string()))?;
            Ok((answer, (send, recv)))
        };
        let limit = self.net.context.timings.stall;
        let (mut answer, streams) = timeout(limit, asked)
            .await
            .map_err(|_| broken(format!("it does not answer within {limit:?}")))??;
        match answer.refusal.take() {
            None => Ok((answer, streams)),
            Some(refusal) => Err(self.refused(Why::from_wire(refusal))),
        }
    }

    fn refused(&self, why: Why) -> JoinError {
        let not_now = |text: String| JoinError::NotNow {
            peer: self.peer,
            text,
        };
        match why {
            Why::Expired { at_ms } => JoinError::Expired { at_ms },
            Why::Spent { uses } => JoinError::Spent { uses },
            Why::Cancelled => JoinError::Cancelled,
            Why::UnknownInvite => JoinError::UnknownInvite,
            Why::AdmittedBefore => JoinError::AdmittedBefore,
            Why::Refused(text) => JoinError::Refused(text),
            Why::NotProved => not_now("it does not have this store, or not for this device".into()),
            Why::NotHere(text) => not_now(text),
            Why::NoComponent => not_now("it does not have the component".into()),
            Why::Busy => not_now("it is busy".into()),
            Why::NotUnderstood(text) => not_now(format!("it does not understand: {text}")),
        }
    }

    fn wrong(&self, text: &str) -> JoinError {
        JoinError::Wrong {
            peer: self.peer,
            text: text.to_owned(),
        }
    }
}

type Streams = (iroh::endpoint::SendStream, iroh::endpoint::RecvStream);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_join_ends_is_said_in_sentences() {
        let peer = DeviceKey([0xab; 32]);
        let expired = |at_ms| JoinError::Expired { at_ms }.to_string();
        assert_eq!(
            expired(1_777_636_800_000),
            "the invite expired at 2026-05-01T12:00:00Z; ask for a new one"
        );
        assert!(expired(u64::MAX).contains("ms since 1970"), "no such year");
        assert_eq!(
            JoinError::Spent { uses: 1 }.to_string(),
            "the invite is spent: it was good for one device; ask for a new one"
        );
        let last = JoinError::NotNow {
            peer,
            text: "it does not answer within 6s".into(),
        };
        let error = JoinError::Unreachable {
            tried: 2,
            last: last.to_string(),
        };
        assert_eq!(
            error.to_string(),
            "none of the 2 members that the token names answers (of the last one: the member \
             abababababababab cannot help now: it does not answer within 6s)"
        );
    }
}

//! The bounds of connections and streams, each at its last allowed value and one beyond.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use iroh::endpoint::{Connection, QuicTransportConfig, SendStream, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use lattice_format::{DeviceKey, StoreId};
use lattice_kernel::blob::BlobStore;
use lattice_kernel::clock::Reading;
use lattice_kernel::run::engine::{Member, MemberStatus, Role};
use lattice_kernel::sync::ALPN as SYNC_ALPN;
use lattice_kernel::{Received, Snapshot};
use lattice_testing::{device, key};
use prost::Message;

use crate::endpoint::{self, endpoint_addr, own_addr};
use crate::frame::{self, FrameError};
use crate::limits::*;
use crate::{
    Claim, ClaimRefusal, DeliverError, Entries, Governance, InviteState, Net, NetConfig, NetEvent,
    NetHost, Timings,
};

const STORE: StoreId = StoreId([7; 32]);
/// How long nothing must happen to be taken for nothing that will.
const QUIET: Duration = Duration::from_millis(300);

/// A node that has a store, knows who is a member, and serves nothing.
struct Idle;

impl NetHost for Idle {
    fn reading(&self) -> Reading {
        Reading {
            wall_ms: 1_800_000_000_000,
            elapsed_ms: 0,
        }
    }

    fn stores(&self) -> Vec<StoreId> {
        vec![STORE]
    }

    fn snapshot(&self, _: &StoreId) -> Option<Snapshot> {
        None
    }

    fn governance(&self, _: &StoreId) -> Option<Arc<Governance>> {
        let member = |rank: u8| Member {
            device: device(rank),
            name: String::new(),
            role: Role::Writer,
            rank: vec![rank],
            status: MemberStatus::Active,
        };
        let members = (0..8).map(member).collect();
        Some(Arc::new(Governance::of(members, Vec::new())))
    }

    fn deliver(
        &self,
        _: StoreId,
        _: DeviceKey,
        _: Entries,
    ) -> BoxFuture<'static, Result<Received, DeliverError>> {
        unreachable!("there is no session")
    }

    fn invite(
        &self,
        _: StoreId,
        _: DeviceKey,
    ) -> BoxFuture<'static, Result<InviteState, DeliverError>> {
        async { Ok(InviteState::Unknown) }.boxed()
    }

    fn claim(&self, _: StoreId, _: Claim) -> BoxFuture<'static, Result<(), ClaimRefusal>> {
        unreachable!("nobody is invited")
    }

    fn blobs(&self) -> Arc<BlobStore> {
        unreachable!("nothing is asked for")
    }

    fn event(&self, _: NetEvent) {}
}

fn config(number: u8) -> NetConfig {
    let mut config = NetConfig::local(key(number), "127.0.0.1:0".parse().unwrap());
    config.timings = Timings {
        // Nothing ends for want of an answer.
        request: Duration::from_secs(20),
        stranger: Duration::from_secs(20),
        ..Timings::quick()
    };
    config
}

async fn start(number: u8) -> Net {
    Net::start(config(number), Arc::new(Idle)).await.unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

/// An endpoint with the key of a device that speaks nothing by itself.
async fn raw(number: u8, transport: QuicTransportConfig) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&key(number).to_bytes()))
        .relay_mode(RelayMode::Disabled)
        .transport_config(transport)
        .alpns(vec![SYNC_ALPN.to_vec()])
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap()
}

/// Takes all in, whatever comes.
fn open_transport() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .stream_receive_window(VarInt::from_u32(1 << 28))
        .receive_window(VarInt::from_u32(1 << 28))
        .send_window(1 << 28)
        .build()
}

async fn connect(from: &Endpoint, to: EndpointAddr, alpn: &[u8]) -> Connection {
    from.connect(to, alpn).await.unwrap()
}

fn address(net: &Net) -> EndpointAddr {
    endpoint_addr(&net.address()).unwrap()
}

/// Why the other side closed a connection.
async fn closed(connection: &Connection) -> String {
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.closed());
    closed.await.expect("it is closed").to_string()
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_connections_are_kept_and_so_many_dials_made() {
    let a = start(0).await;
    let peers = [
        raw(1, open_transport()).await,
        raw(2, open_transport()).await,
    ];
    let context = &a.context;
    assert_eq!(context.outgoing.available_permits(), CONNECTIONS_MAX);
    assert_eq!(context.dials.available_permits(), DIALS_MAX);
    // Others have all dials but none of the connections, and then all but one of these.
    let mut dials = context.dials.acquire_many(DIALS_MAX as u32).await.unwrap();
    let others = CONNECTIONS_MAX as u32 - 1;
    let others = context.outgoing.clone().acquire_many_owned(others).await;
    for peer in &peers {
        let listening = peer.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(incoming) = listening.accept().await {
                taken.push(incoming.await);
            }
        });
        a.add_peer(&own_addr(peer));
    }
    let count = || context.links.conns().len();
    tokio::time::sleep(QUIET).await;
    assert_eq!(count(), 0, "no dial is free");
    drop(dials.split(1));
    until("one is dialled", || count() == 1).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(count(), 1, "no connection is free");
    drop(others);
    until("the other is dialled", || count() == 2).await;
    drop(dials);
    a.close().await;
    for peer in peers {
        peer.close().await;
    }
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_connections_are_taken_in_whatever_they_are_for() {
    let a = start(0).await;
    let incoming = a.context.incoming.all.clone();
    assert_eq!(incoming.available_permits(), INCOMING_MAX);
    let others = incoming.clone().acquire_many_owned(INCOMING_MAX as u32 - 1);
    let others = others.await.unwrap();
    for (alpn, number) in [SYNC_ALPN, crate::blob::ALPN, crate::join::ALPN]
        .into_iter()
        .zip(1..)
    {
        let (first, second) = (
            raw(number, open_transport()).await,
            raw(7, open_transport()).await,
        );
        let kept = connect(&first, address(&a), alpn).await;
        until("it is taken in", || incoming.available_permits() == 0).await;
        let refused = connect(&second, address(&a), alpn).await;
        let reason = closed(&refused).await;
        assert!(reason.contains("too many connections"), "{reason}");
        assert!(kept.close_reason().is_none());
        kept.close(VarInt::from_u32(0), b"");
        until("its place is free", || incoming.available_permits() == 1).await;
        first.close().await;
        second.close().await;
    }
    drop(others);
    a.close().await;
}

/// How many bytes a stream takes before it stands still.
async fn written(send: &mut SendStream, most: usize) -> usize {
    let piece = vec![7; 64 * 1024];
    let mut all = 0;
    while all < most
        && let Ok(wrote) =
            tokio::time::timeout(QUIET, send.write(&piece[..piece.len().min(most - all)])).await
    {
        all += wrote.unwrap();
    }
    all
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_read_fills_the_window_of_its_stream_and_then_of_its_connection() {
    let (reader, _) = endpoint::bind(&config(0)).await.unwrap();
    reader.set_alpns(vec![SYNC_ALPN.to_vec()]);
    let writer = raw(1, open_transport()).await;
    let at = endpoint_addr(&own_addr(&reader)).unwrap();
    let accepting = tokio::spawn(async move {
        let accepted = reader.accept().await.unwrap().await.unwrap();
        (reader, accepted)
    });
    let connection = connect(&writer, at, SYNC_ALPN).await;
    let (reader, accepted) = accepting.await.unwrap();
    let mut streams = Vec::new();
    let mut all = 0;
    let stream_max = STREAM_WINDOW_BYTES as usize;
    while all + stream_max <= CONNECTION_WINDOW_BYTES as usize {
        let mut send = connection.open_uni().await.unwrap();
        let wrote = written(&mut send, 2 * stream_max).await;
        assert_eq!(wrote, stream_max);
        all += wrote;
        streams.push(send);
    }
    let mut send = connection.open_uni().await.unwrap();
    let left = CONNECTION_WINDOW_BYTES as usize - all;
    assert_eq!(written(&mut send, stream_max).await, left);
    // So many streams may be open at once.
    streams.push(send);
    while streams.len() < STREAMS_PER_CONNECTION as usize {
        streams.push(connection.open_uni().await.unwrap());
    }
    let beyond = tokio::time::timeout(QUIET, connection.open_uni()).await;
    assert!(beyond.is_err(), "one stream too many");
    accepted.close(VarInt::from_u32(0), b"");
    writer.close().await;
    reader.close().await;
}

/// An endpoint on a thread of its own, which takes one connection in and then does nothing at all until it
/// is told to end.
fn unresponsive(end: Receiver<()>) -> EndpointAddr {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let endpoint = raw(1, open_transport()).await;
            tell.send(endpoint_addr(&own_addr(&endpoint)).unwrap())
                .unwrap();
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            // Until the other side knows that it is taken in.
            let _first = connection.accept_uni().await.unwrap();
            // This thread is all that the endpoint has.
            let _ = end.recv();
        });
    });
    told.recv().unwrap()
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_acknowledged_fills_the_window_of_the_sender() {
    let (end, ended) = channel();
    let at = unresponsive(ended);
    let mut config = config(0);
    config.timings.idle = Duration::from_secs(20);
    let (writer, _) = endpoint::bind(&config).await.unwrap();
    let connection = connect(&writer, at, SYNC_ALPN).await;
    let mut send = connection.open_uni().await.unwrap();
    send.write_all(&[1]).await.unwrap();
    tokio::time::sleep(QUIET).await;
    let window = SEND_WINDOW_BYTES as usize;
    let wrote = written(&mut send, 2 * window).await;
    // The first byte may or may not have been acknowledged.
    assert!((window - 1..=window).contains(&wrote), "{wrote}");
    drop(end);
    writer.close().await;
}

#[derive(Clone, PartialEq, Message)]
struct Bytes {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// Holds: invariant 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_read_in_steps_up_to_its_bound() {
    let (reader, _) = endpoint::bind(&config(0)).await.unwrap();
    reader.set_alpns(vec![SYNC_ALPN.to_vec()]);
    let writer = raw(1, open_transport()).await;
    let at = endpoint_addr(&own_addr(&reader)).unwrap();
    let sent = |len: usize| {
        // Tag and length come first, in 4 bytes.
        let message = Bytes {
            bytes: vec![7; len - 4],
        };
        assert_eq!(message.encoded_len(), len);
        message
    };
    let lens = [READ_STEP_BYTES, READ_STEP_BYTES + 1, 3 * READ_STEP_BYTES];
    let max = 3 * READ_STEP_BYTES;
    let writing = tokio::spawn(async move {
        let connection = connect(&writer, at, SYNC_ALPN).await;
        let mut send = connection.open_uni().await.unwrap();
        for len in lens.into_iter().chain([max + 1]) {
            frame::write(&mut send, &sent(len)).await.unwrap();
        }
        (writer, connection, send)
    });
    let accepted = reader.accept().await.unwrap().await.unwrap();
    let mut recv = accepted.accept_uni().await.unwrap();
    for len in lens {
        let read: Bytes = frame::read(&mut recv, max).await.unwrap();
        assert_eq!(read, sent(len));
    }
    let error = frame::read::<Bytes>(&mut recv, max).await.unwrap_err();
    assert!(matches!(error, FrameError::TooLong { len, .. } if len == max + 1));
    let (writer, ..) = writing.await.unwrap();
    writer.close().await;
    reader.close().await;
}

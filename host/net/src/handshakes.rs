//! Handshakes that are under way: connections of which nobody knows yet who opened them.
//!
//! Anybody can send a first packet, with any address in it, and then nothing more. Each costs memory until it times out.
//! So their number is bounded, in all and by origin, and above a first bound an origin must show that it receives what is
//! sent to its address (the Retry packet of QUIC: RFC 9000, section 8.1.2). The last places are for the addresses of
//! known peers, so that strangers keep no member out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::EndpointId;
use iroh::endpoint::{Accepting, Connection, Incoming, IncomingAddr};
use iroh::protocol::{AcceptError, IncomingFilterOutcome, ProtocolHandler};
use parking_lot::Mutex;

use crate::limits::{
    HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE, HANDSHAKES_UNPROVED_MAX, STRANGERS_HANDSHAKES_MAX,
};

/// Who opens connections, as far as that is known before the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// An address of IPv4, or a network of IPv6: its owner has all addresses of the network.
    Network(IpAddr),
    /// A device behind a relay, which has checked its key.
    Relayed(EndpointId),
    /// Anything else.
    Other,
}

impl Origin {
    /// The origin at an address.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => {
                let bits = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
            address => address,
        })
    }

    fn of(address: &IncomingAddr) -> Self {
        match address {
            IncomingAddr::Ip(socket) => Self::at(socket.ip()),
            IncomingAddr::Relay { endpoint_id, .. } => Self::Relayed(*endpoint_id),
            _ => Self::Other,
        }
    }
}

/// The handshakes that are under way on a node.
#[derive(Debug)]
pub(crate) struct Handshakes {
    /// When each began, by its origin; the oldest first.
    begun: Mutex<HashMap<Origin, Vec<Instant>>>,
    /// How long one may take: after that the connection has timed out.
    patience: Duration,
}

impl Handshakes {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            begun: Mutex::default(),
            patience,
        }
    }

    /// What to do with a new connection. `is_known` says whether a known peer is at the origin, and is asked only when
    /// that matters.
    pub(crate) fn judge(
        &self,
        incoming: &Incoming,
        is_known: impl FnOnce(Origin) -> bool,
    ) -> IncomingFilterOutcome {
        let origin = Origin::of(&incoming.remote_addr());
        self.begin(
            origin,
            incoming.remote_addr_validated(),
            Instant::now(),
            is_known,
        )
    }

    fn begin(
        &self,
        origin: Origin,
        is_proved: bool,
        now: Instant,
        is_known: impl FnOnce(Origin) -> bool,
    ) -> IncomingFilterOutcome {
        let mut begun = self.begun.lock();
        begun.retain(|_, times| {
            times.retain(|begun| now.duration_since(*begun) < self.patience);
            !times.is_empty()
        });
        let all: usize = begun.values().map(Vec::len).sum();
        let own = begun.get(&origin).map_or(0, Vec::len);
        if all >= HANDSHAKES_UNPROVED_MAX && !is_proved {
            return IncomingFilterOutcome::Retry;
        }
        if own >= HANDSHAKES_PER_SOURCE || all >= HANDSHAKES_MAX {
            return IncomingFilterOutcome::Reject;
        }
        if all >= STRANGERS_HANDSHAKES_MAX && !is_known(origin) {
            return IncomingFilterOutcome::Reject;
        }
        begun.entry(origin).or_default().push(now);
        IncomingFilterOutcome::Accept
    }

    /// How many are under way.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.begun.lock().values().map(Vec::len).sum()
    }

    /// A handshake of this origin has ended.
    fn end(&self, origin: Origin) {
        let mut begun = self.begun.lock();
        if let Some(times) = begun.get_mut(&origin) {
            // Which of its handshakes it was makes no difference.
            times.pop();
            if times.is_empty() {
                begun.remove(&origin);
            }
        }
    }
}

/// A handler of a protocol whose handshakes are counted.
#[derive(Debug)]
pub(crate) struct Counted<H> {
    pub(crate) handler: H,
    pub(crate) handshakes: Arc<Handshakes>,
}

impl<H: ProtocolHandler> ProtocolHandler for Counted<H> {
    async fn on_accepting(&self, accepting: Accepting) -> Result<Connection, AcceptError> {
        let origin = Origin::of(&accepting.remote_addr());
        let accepted = self.handler.on_accepting(accepting).await;
        self.handshakes.end(origin);
        accepted
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.handler.accept(connection).await
    }

    async fn shutdown(&self) {
        self.handler.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use iroh::endpoint::presets;
    use iroh::protocol::Router;
    use iroh::{Endpoint, EndpointAddr, RelayMode};
    use tokio::net::UdpSocket;

    use super::IncomingFilterOutcome::{Accept, Reject, Retry};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn origin(number: usize) -> Origin {
        let number = u32::try_from(number).expect("few origins");
        Origin::at(IpAddr::V4((0x0a00_0000 + number).into()))
    }

    /// Begins as many handshakes as are allowed without a proof, each from an address of its own.
    fn flooded(now: Instant) -> Handshakes {
        let handshakes = Handshakes::new(PATIENCE);
        for number in 0..HANDSHAKES_UNPROVED_MAX {
            let judged = handshakes.begin(origin(number), false, now, |_| false);
            assert_eq!(judged, Accept);
        }
        handshakes
    }

    #[test]
    fn above_a_bound_an_origin_must_prove_its_address() {
        let now = Instant::now();
        let handshakes = flooded(now);
        assert_eq!(handshakes.begin(origin(1_000), false, now, |_| true), Retry);
        assert_eq!(
            handshakes.begin(origin(1_000), true, now, |_| false),
            Accept
        );
        // Those that end or time out make room.
        handshakes.end(origin(0));
        handshakes.end(origin(1));
        assert_eq!(
            handshakes.begin(origin(1_001), false, now, |_| false),
            Accept
        );
        assert_eq!(
            handshakes.begin(origin(1_002), false, now, |_| false),
            Retry
        );
        let later = now + PATIENCE;
        assert_eq!(
            handshakes.begin(origin(1_002), false, later, |_| false),
            Accept
        );
    }

    #[test]
    fn an_origin_has_some_places_and_the_last_ones_are_for_known_peers() {
        let now = Instant::now();
        let handshakes = Handshakes::new(PATIENCE);
        let mut begun = 0;
        for number in 0.. {
            for _ in 0..HANDSHAKES_PER_SOURCE {
                if handshakes.begin(origin(number), true, now, |_| false) == Accept {
                    begun += 1;
                }
            }
            let further = handshakes.begin(origin(number), true, now, |_| true);
            assert_eq!(further, Reject, "more than its places");
            if begun == STRANGERS_HANDSHAKES_MAX {
                break;
            }
        }
        let member = origin(1_000_000);
        assert_eq!(handshakes.begin(member, true, now, |_| false), Reject);
        let known = |origin| origin == member;
        assert_eq!(handshakes.begin(member, true, now, known), Accept);
        for number in 0..HANDSHAKES_MAX {
            handshakes.begin(origin(2_000_000 + number), true, now, |_| true);
        }
        assert_eq!(handshakes.begin(member, true, now, |_| true), Reject);
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin_and_an_address_of_ipv4_is_one() {
        let at = |text: &str| Origin::at(text.parse().expect("an address"));
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }

    /// A handler that keeps each connection until the other side closes it.
    #[derive(Debug)]
    struct Keeps;

    impl ProtocolHandler for Keeps {
        async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
            connection.closed().await;
            Ok(())
        }
    }

    const ALPN: &[u8] = b"keeps";

    async fn endpoint() -> Endpoint {
        Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")
            .expect("an address")
            .bind()
            .await
            .expect("a socket")
    }

    fn reach(to: &Endpoint, at: SocketAddr) -> EndpointAddr {
        EndpointAddr::new(to.id()).with_ip_addr(at)
    }

    /// The first packets of `count` connections to an endpoint, which never gets them.
    async fn first_packets(to: &Endpoint, count: usize) -> Vec<Vec<u8>> {
        let sink = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let at = sink.local_addr().expect("it is bound");
        let mut found: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        let mut buffer = vec![0; 65_536];
        while found.len() < count {
            let from = endpoint().await;
            let connecting = from.connect(reach(to, at), ALPN);
            let heard = async {
                let (len, _) = sink.recv_from(&mut buffer).await.expect("a packet");
                buffer[..len].to_vec()
            };
            let packet = tokio::select! {
                _ = connecting => panic!("nobody answers there"),
                packet = heard => packet,
            };
            // A long header: flags, version, and the connection's id that its opener has drawn.
            let id = packet[6..6 + usize::from(packet[5])].to_vec();
            found.insert(id, packet);
            drop(from);
        }
        found.into_values().collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn first_packets_that_nothing_follows_are_kept_up_to_a_bound_and_keep_nobody_out() {
        let server = endpoint().await;
        let handshakes = Arc::new(Handshakes::new(Duration::from_secs(600)));
        let counts = handshakes.clone();
        let counted = Counted {
            handler: Keeps,
            handshakes: handshakes.clone(),
        };
        let router = Router::builder(server.clone())
            .incoming_filter(Arc::new(move |incoming| counts.judge(incoming, |_| false)))
            .accept(ALPN, counted)
            .spawn();
        let at = server.bound_sockets()[0];
        let packets = first_packets(&server, HANDSHAKES_UNPROVED_MAX + 20).await;
        for (number, packet) in (1u8..).zip(packets) {
            // Every address of 127.0.0.0/8 is this machine.
            let from = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, number), 0)).await;
            let from = from.expect("a socket");
            from.send_to(&packet, at).await.expect("it is sent");
        }
        let all_of_them = async || {
            let deadline = Instant::now() + Duration::from_secs(20);
            while handshakes.count() != HANDSHAKES_UNPROVED_MAX {
                assert!(
                    Instant::now() < deadline,
                    "there are {}",
                    handshakes.count()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        all_of_them().await;
        let honest = endpoint().await;
        for _ in 0..3 {
            let connected = honest.connect(reach(&server, at), ALPN).await;
            connected
                .expect("who answers is served")
                .close(0u32.into(), b"");
            // Its own handshake has ended.
            all_of_them().await;
        }
        honest.close().await;
        router.shutdown().await.expect("it ends");
    }
}

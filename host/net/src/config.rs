//! How a node's network is started, and its times.

use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lattice_kernel::sync::Backoff;
use lattice_kernel::sync::limits::{RETRY_MAX_MS, RETRY_MIN_MS};

use crate::token::PeerAddr;

/// How a node's network is started.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The device's key, which is the endpoint's too.
    pub key: SigningKey,
    /// The socket to listen on; port 0 takes a free one. `None` listens on all interfaces.
    pub bind: Option<SocketAddr>,
    /// Whether relays may carry traffic that finds no direct path.
    pub relay: bool,
    /// Whether addresses are published and looked up in the public discovery service.
    pub discovery: bool,
    /// Whether peers on the local network are looked for by multicast DNS, and told where this node is.
    pub mdns: bool,
    /// Where peers were reached earlier.
    pub known: Vec<PeerAddr>,
    /// Times; the defaults suit everything but tests.
    pub timings: Timings,
}

impl NetConfig {
    /// A node on this socket alone, without relays, discovery and multicast DNS.
    pub fn local(key: SigningKey, bind: SocketAddr) -> Self {
        Self {
            key,
            bind: Some(bind),
            relay: false,
            discovery: false,
            mdns: false,
            known: Vec::new(),
            timings: Timings::default(),
        }
    }
}

/// A span of time as the kernel's values count it.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The network's times.
#[derive(Clone, Debug)]
pub struct Timings {
    /// After which a dial is given up. Long enough for a relay, far below iroh's own 30 s.
    pub dial: Duration,
    /// The first pause after a failed dial; it doubles, with jitter.
    pub retry_min: Duration,
    /// The longest pause between dials.
    pub retry_max: Duration,
    /// How often each session compares both sides even if nothing seems to have changed.
    pub reconcile: Duration,
    /// How often a past member is dialled, for the system lane alone.
    pub past_member: Duration,
    /// How often an idle path is probed; at most 5 s.
    pub heartbeat: Duration,
    /// Silence after which a path is taken for broken; at most 15 s.
    pub idle: Duration,
    /// How long a peer may leave sent bytes unread before the session is ended.
    pub stall: Duration,
    /// How long a request of the join and blob protocols may take to arrive.
    pub request: Duration,
    /// How long a stranger's connection may stay open without a session.
    pub stranger: Duration,
    /// How long the side that accepted a connection waits for the dialler to open the sessions.
    pub grace: Duration,
    /// The longest wait of a close for goodbyes.
    pub close: Duration,
    /// How long a peer that broke the protocol is refused, the first time; it doubles.
    pub ban: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(6),
            retry_min: Duration::from_millis(RETRY_MIN_MS),
            retry_max: Duration::from_millis(RETRY_MAX_MS),
            reconcile: Duration::from_secs(30),
            past_member: Duration::from_secs(300),
            heartbeat: Duration::from_secs(3),
            idle: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            request: Duration::from_secs(10),
            stranger: Duration::from_secs(10),
            grace: Duration::from_millis(100),
            close: Duration::from_millis(1500),
            ban: Duration::from_secs(60),
        }
    }
}

impl Timings {
    /// The pauses between tries.
    pub(crate) fn retry(&self) -> Backoff {
        Backoff {
            first_ms: millis(self.retry_min),
            longest_ms: millis(self.retry_max),
        }
    }

    /// Short times, for tests of partitions and restarts.
    pub fn quick() -> Self {
        Self {
            dial: Duration::from_millis(1500),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_millis(500),
            reconcile: Duration::from_millis(500),
            past_member: Duration::from_millis(500),
            heartbeat: Duration::from_millis(250),
            idle: Duration::from_millis(1000),
            stall: Duration::from_secs(2),
            request: Duration::from_secs(1),
            stranger: Duration::from_secs(1),
            grace: Duration::from_millis(50),
            close: Duration::from_millis(1500),
            ban: Duration::from_secs(2),
        }
    }
}

//! The iroh endpoint of a node, and conversions between iroh's names and ours.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ed25519_dalek::SigningKey;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::address_lookup::{DnsAddressLookup, PkarrPublisher, PkarrResolver};
use iroh::endpoint::{
    Connection, IdleTimeout, PortmapperConfig, QuicTransportConfig, VarInt, presets,
};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, RelayUrl, SecretKey, TransportAddr};
use lattice_format::DeviceKey;

use crate::config::NetConfig;
use crate::lan::{Lan, News};
use crate::limits::{
    CONNECTION_WINDOW_BYTES, SEND_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION,
};
use crate::token::PeerAddr;

/// Why a node's network does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket cannot be had.
    #[error("cannot listen on {bind}: {reason}")]
    Bind {
        /// The address asked for.
        bind: String,
        /// What the system says.
        reason: String,
    },
    /// A time in the configuration is out of range.
    #[error("{what} of {ms} ms is out of range")]
    Timing {
        /// Which.
        what: &'static str,
        /// Its value, in milliseconds.
        ms: u128,
    },
}

/// Codes with which connections and streams are closed. They never change their meaning.
pub mod code {
    use iroh::endpoint::VarInt;

    /// This node goes away, or the peer is not needed any more.
    pub const BYE: VarInt = VarInt::from_u32(0);
    /// There is another connection or stream for the same purpose; use that one.
    pub const DUPLICATE: VarInt = VarInt::from_u32(1);
    /// The two share no store.
    pub const STRANGER: VarInt = VarInt::from_u32(2);
    /// The peer broke the protocol.
    pub const MISBEHAVIOUR: VarInt = VarInt::from_u32(3);
    /// This node has as many connections or requests as it takes; try later.
    pub const BUSY: VarInt = VarInt::from_u32(4);
    /// The peer did not read, or did not answer, in time.
    pub const SLOW: VarInt = VarInt::from_u32(5);
    /// Something went wrong on this node.
    pub const FAULT: VarInt = VarInt::from_u32(6);
}

/// The ways in which a node finds its peers.
pub(crate) struct Lookups {
    /// The address book.
    pub(crate) book: MemoryLookup,
    /// Announcements on the local network; `None` when they are switched off.
    pub(crate) lan: Option<(Lan, News)>,
}

/// Binds the endpoint of a node, with the lookups that it dials from.
pub(crate) async fn bind(config: &NetConfig) -> Result<(Endpoint, Lookups), StartError> {
    let lookup = MemoryLookup::new();
    for peer in &config.known {
        if let Some(addr) = endpoint_addr(peer) {
            lookup.set_endpoint_info(addr);
        }
    }
    let shown = config
        .bind
        .map_or_else(|| "all interfaces".to_owned(), |b| b.to_string());
    let failed = |reason: String| StartError::Bind {
        bind: shown.clone(),
        reason,
    };
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(secret_key(&config.key))
        .transport_config(transport(config)?)
        .address_lookup(lookup.clone());
    if config.relay {
        builder = builder.relay_mode(iroh::endpoint::default_relay_mode());
    } else {
        builder = builder
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled);
    }
    if config.discovery {
        builder = builder
            .address_lookup(PkarrPublisher::n0_dns())
            .address_lookup(PkarrResolver::n0_dns())
            .address_lookup(DnsAddressLookup::n0_dns());
    }
    if let Some(bind) = config.bind {
        builder = builder
            .clear_ip_transports()
            .bind_addr(bind)
            .map_err(|e| failed(e.to_string()))?;
    }
    let endpoint = builder.bind().await.map_err(|e| failed(format!("{e:#}")))?;
    let lan = config.mdns.then(|| Lan::new(endpoint.id()));
    if let Some((lan, _)) = &lan {
        let lookups = endpoint
            .address_lookup()
            .map_err(|e| failed(format!("{e:#}")))?;
        lookups.add(lan.clone());
    }
    let lookups = Lookups { book: lookup, lan };
    Ok((endpoint, lookups))
}

fn transport(config: &NetConfig) -> Result<QuicTransportConfig, StartError> {
    let timings = &config.timings;
    let idle = IdleTimeout::try_from(timings.idle).map_err(|_| StartError::Timing {
        what: "an idle time",
        ms: timings.idle.as_millis(),
    })?;
    Ok(QuicTransportConfig::builder()
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(timings.heartbeat)
        .default_path_max_idle_timeout(timings.idle)
        .default_path_keep_alive_interval(timings.heartbeat)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_CONNECTION))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_PER_CONNECTION))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .build())
}

fn secret_key(key: &SigningKey) -> SecretKey {
    SecretKey::from_bytes(&key.to_bytes())
}

/// The device behind an endpoint id.
pub(crate) fn device_of(id: EndpointId) -> DeviceKey {
    DeviceKey(*id.as_bytes())
}

/// The endpoint id of a device; `None` when its key is no point of the curve.
pub(crate) fn id_of(device: &DeviceKey) -> Option<EndpointId> {
    EndpointId::from_bytes(&device.0).ok()
}

/// What iroh dials; `None` when the key is no point of the curve.
pub(crate) fn endpoint_addr(peer: &PeerAddr) -> Option<EndpointAddr> {
    let relay = peer
        .relay
        .as_ref()
        .and_then(|url| url.parse::<RelayUrl>().ok())
        .map(TransportAddr::Relay);
    let addrs = peer.addresses.iter().copied().map(TransportAddr::Ip);
    Some(EndpointAddr::from_parts(
        id_of(&peer.device)?,
        addrs.chain(relay),
    ))
}

/// Where this node can be reached now.
pub(crate) fn own_addr(endpoint: &Endpoint) -> PeerAddr {
    let addr = endpoint.addr();
    PeerAddr {
        device: device_of(addr.id),
        addresses: addr.ip_addrs().copied().collect(),
        relay: addr.relay_urls().next().map(ToString::to_string),
    }
}

/// Whether an interface of this machine has the address.
pub(crate) fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The socket address at the other end of a connection; `None` while a relay carries it.
pub(crate) fn remote_socket(connection: &Connection) -> Option<SocketAddr> {
    let paths = connection.paths();
    let chosen = paths
        .iter()
        .find(|path| path.is_selected())
        .or_else(|| paths.iter().next())?;
    match chosen.remote_addr() {
        TransportAddr::Ip(socket) => Some(*socket),
        _ => None,
    }
}

//! Bounds of the network, related to each other at compile time.

use lattice_format::limits::{BODY_BYTES_MAX, GENESIS_HEADER_BYTES_MAX};

pub use lattice_kernel::limits::FRAME_BYTES_MAX;
pub use lattice_kernel::sync::limits::{FIRST_ROUNDS_MAX, GOSSIP_BYTES_MAX, GOSSIP_IDS_MAX};

/// The most peers that are known at once; further ones are not remembered.
pub const PEERS_MAX: usize = 4096;
/// The most peers that are connected at once for sync. With more members the connections rotate.
pub const CONNECTIONS_MAX: usize = 256;
/// The most dials under way at once.
pub const DIALS_MAX: usize = 16;
/// The most socket addresses that are remembered of one peer; the newest stay.
pub const ADDRESSES_PER_PEER: usize = 8;
/// The most devices whose places on the local network are remembered; the ones heard last stay.
pub const LAN_PEERS_MAX: usize = 1024;
/// The most devices that were heard at new places and wait to be dialled.
pub const LAN_NEWS_MAX: usize = 256;
/// The most peers that one message of addresses names.
pub const ADDRESS_ROWS_MAX: usize = 256;
/// The largest message of addresses, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 64 * 1024;
/// The most streams that a peer may have open at once on one connection.
pub const STREAMS_PER_CONNECTION: u32 = 256;
/// The most bytes that a peer may send on one stream before this node has read them.
pub const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// The most bytes that a peer may send on one connection before this node has read them.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// The most bytes that this node sends to a peer before that acknowledges any.
pub const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// The most bytes of a frame that one read asks for, so that an announced length costs nothing.
pub const READ_STEP_BYTES: usize = 64 * 1024;
/// The most sessions of one store.
pub const SESSIONS_PER_STORE: usize = CONNECTIONS_MAX;
/// The most connections that one peer may hold open for joins, and as many for blobs.
pub const CONNECTIONS_PER_PEER: usize = 4;
/// The most incoming connections at once, of all peers, for sync, joins and blobs together. Gossip has one
/// with each member at most.
pub const INCOMING_MAX: usize = 1024;
/// The most incoming connections for sync at once of strangers, who share no store with this node. The places that
/// these and joins leave are for members.
pub const STRANGERS_MAX: usize = 128;
/// The most handshakes that are under way at once.
pub const HANDSHAKES_MAX: usize = 512;
/// Of these, the most of strangers. The other places are for the addresses of known peers.
pub const STRANGERS_HANDSHAKES_MAX: usize = 384;
/// Of these, the most of sources that have not shown that they receive what is sent to their address.
pub const HANDSHAKES_UNPROVED_MAX: usize = 128;
/// The most handshakes of one source that are under way at once.
pub const HANDSHAKES_PER_SOURCE: usize = 64;
/// Bytes a second that one peer may send over a minute's average before it is slowed.
pub const BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;
/// Bytes a second that a past member may send.
pub const PAST_MEMBER_BYTES_PER_SECOND: u64 = 256 * 1024;
/// Ids of one store that wait to be announced; beyond them peers are told to compare instead.
pub const ANNOUNCE_MAX: usize = 4096;
/// The largest request of the join protocol, in bytes.
pub const JOIN_REQUEST_BYTES_MAX: usize = 4 * 1024;
/// The largest answer of the join protocol, in bytes: a genesis with its body.
pub const JOIN_ANSWER_BYTES_MAX: usize =
    GENESIS_HEADER_BYTES_MAX + BODY_BYTES_MAX as usize + 128 * 1024;
/// The most requests on one join connection.
pub const JOIN_REQUESTS_MAX: usize = 64;
/// Join connections served at once.
pub const JOINS_SERVED_MAX: usize = 64;
/// The longest token, in characters.
pub const TOKEN_CHARS_MAX: usize = 4096;
/// The most addresses in a token, of the inviter and of others together.
pub const TOKEN_ADDRESSES_MAX: usize = 32;
/// The longest name in a token or a claim, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The largest component that a joiner or a member fetches, in bytes.
pub const COMPONENT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Blob streams that are served at once, all peers together.
pub const BLOBS_SERVED_MAX: usize = 64;
/// Peers that one blob is fetched from at once.
pub const BLOB_SOURCES_MAX: usize = 4;

// Strangers and joiners together leave most places to members.
const _: () = assert!(2 * (STRANGERS_MAX + JOINS_SERVED_MAX) <= INCOMING_MAX);
const _: () = assert!(STRANGERS_HANDSHAKES_MAX < HANDSHAKES_MAX);
const _: () = assert!(HANDSHAKES_UNPROVED_MAX < STRANGERS_HANDSHAKES_MAX);
const _: () = assert!(2 * HANDSHAKES_PER_SOURCE <= HANDSHAKES_UNPROVED_MAX);
const _: () = assert!(STRANGERS_MAX < PEERS_MAX);
const _: () = assert!(FIRST_ROUNDS_MAX < SESSIONS_PER_STORE);
const _: () = assert!(JOIN_ANSWER_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(GOSSIP_IDS_MAX <= ANNOUNCE_MAX);
const _: () = assert!(ADDRESS_BYTES_MAX <= FRAME_BYTES_MAX);

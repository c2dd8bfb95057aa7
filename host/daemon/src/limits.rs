//! Bounds of the node's own queues, lists and files, related to each other at compile time.

use std::time::Duration;

/// Jobs that wait for the writer of one store. Further callers wait for room in the queue.
pub const WRITER_QUEUE: usize = 1024;
/// The change of a file comes more than so long after its last writing when a tool has set the time of the writing.
pub const TIMES_APART: Duration = Duration::from_secs(2);
/// Sets of changes that a watch may lag behind. A watch that lags further runs its query again in any case.
pub const CHANGES_QUEUE: usize = 256;
/// Cells of one set of changes that watches compare one by one. More count as a change of everything.
pub const CHANGED_CELLS_MAX: usize = 4096;

/// The most calls of one request, which are one transaction.
pub const CALLS_MAX: usize = 256;
/// The largest request on the socket, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most requests that one connection may have in progress.
pub const REQUESTS_PER_CONNECTION: usize = 256;
/// The longest time of a first query, on a thread of its own, after which the next queries of its store begin on the
/// thread that serves them.
pub const QUERY_INLINE_MAX: Duration = Duration::from_millis(5);
/// The most queries that run at the same time on threads of their own. Further ones wait.
pub const QUERIES_LONG_MAX: usize = 4;
/// The most long queries that run at the same time on this machine: at most [`QUERIES_LONG_MAX`], and one less than
/// there are processors, so that the rest of the node has one for itself.
pub fn queries_long() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors - 1).clamp(1, QUERIES_LONG_MAX)
}
/// Headers of a received batch from which on its signatures are verified by two threads. A thread costs about as much as
/// three signatures.
pub const VERIFY_HALVES_MIN: usize = 256;
/// The most watches of all clients together.
pub const WATCHES_MAX: usize = 1024;
/// The shortest time between two runs of one watch.
pub const WATCH_REST: Duration = Duration::from_millis(1);

/// Items of a page unless the request says otherwise.
pub const PAGE_DEFAULT: u32 = 100;
/// The most items of a page.
pub const PAGE_MAX: u32 = 1000;
/// The most encoded bytes of the items of a page. The message with the page then stays below [`MESSAGE_BYTES_MAX`].
pub const PAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;
/// The largest message that clients of gRPC take by default, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows of history that one request looks at before it ends its page, whether they match or not.
pub const HISTORY_ROWS_MAX: usize = 20_000;
/// The most authors of late entries that a status shows.
pub const REPLAYS_SHOWN: usize = 16;
/// The most heads that a status shows.
pub const HEADS_SHOWN: usize = 64;
/// The most characters of an entry's one-line summary.
pub const SUMMARY_CHARS: usize = 120;
/// The most candidates that an error lists.
pub const CANDIDATES_MAX: usize = 16;
/// The most imports, and the most ignored exports, that a description of a component lists.
pub const NAMES_SHOWN: usize = 256;

/// The most stores of one node.
pub const STORES_MAX: usize = 1000;
/// The most stores that stay open for [`RESTS_AFTER`] without being used.
pub const STORES_OPEN: usize = 32;
/// How long a store may be open without being used.
pub const RESTS_AFTER: Duration = Duration::from_secs(60);
/// How long a store may be open without being used when [`STORES_OPEN`] others were used since.
pub const RESTS_AFTER_CROWDED: Duration = Duration::from_secs(2);
/// How often stores are looked for that nobody uses.
pub const RESTS_LOOK: Duration = Duration::from_secs(1);
/// Files that an open store keeps open: its state, and the last segment of its log.
pub const DESCRIPTORS_PER_STORE: u64 = 2;
/// Files that stay free for connections, compilers and segments that somebody reads.
pub const DESCRIPTORS_SPARE: u64 = 24;
/// The most names of installed components of one node.
pub const PLUGINS_MAX: usize = 1000;
/// The longest name of a store or plugin, in characters, all of them ASCII.
pub const NAME_CHARS_MAX: usize = 64;
/// The most names in the path of a store.
pub const PATH_DEPTH_MAX: usize = 32;
/// The most bytes of names and values of the parameters of a new store, all together.
pub const PARAMETER_BYTES_MAX: usize = 256 * 1024;
/// The most addresses that are kept of one peer.
pub const PEER_ADDRESSES_MAX: usize = 32;
/// The most peers of which addresses are kept.
pub const PEERS_MAX: usize = 10_000;
/// Notices of all stores that are kept until they are acknowledged. Further notices only raise a counter.
pub const NOTICES_MAX: usize = 10_000;
/// The most bytes of notices that wait to be acknowledged, and as many of acknowledged ones. Further notices only
/// raise a counter, and the oldest acknowledged ones are removed.
pub const NOTICES_BYTES_MAX: usize = 2 * lattice_kernel::limits::NOTICES_BYTES_MAX;
/// The most acknowledged notices that are kept, so that they can be shown.
pub const NOTICES_ACKNOWLEDGED_MAX: usize = 1000;
/// The most notices that one acknowledgement names.
pub const ACKNOWLEDGE_MAX: usize = 1000;
/// The longest life of an invite, in milliseconds: 366 days.
pub const INVITE_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// The life of an invite unless the request says otherwise, in milliseconds: a day.
pub const INVITE_MS_DEFAULT: u64 = 24 * 3600 * 1000;
/// The most uses of an invite.
pub const INVITE_USES_MAX: u32 = 10_000;

/// Addresses of peers that wait to be recorded.
pub const PEER_EVENTS_QUEUE: usize = 256;
/// The pause between two searches for components that paused stores lack.
pub const FETCH_PAUSE: Duration = Duration::from_secs(2);

/// How long a daemon waits for the lock of its home.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The pause between two tries for the lock.
pub const LOCK_POLL: Duration = Duration::from_millis(50);
/// How long connections wait that cannot be accepted, before that is tried again.
pub const ACCEPT_REST: Duration = Duration::from_millis(200);
/// How long after an error of the machine was logged the same one is logged again.
pub const TOLD_AGAIN: Duration = Duration::from_secs(600);
/// How long requests in progress may take at shutdown before they are cut off.
pub const DRAIN_WAIT: Duration = Duration::from_millis(500);
/// How long the goodbyes to peers may take at shutdown.
pub const GOODBYE_WAIT: Duration = Duration::from_millis(700);
/// How long the stores may take to flush at shutdown. The next start replays what was not flushed.
pub const FLUSH_WAIT: Duration = Duration::from_millis(1500);
/// Free space of the disk below which `lattice doctor` warns, in bytes.
pub const DISK_LOW_BYTES: u64 = 512 * 1024 * 1024;
/// The buffer of each direction of an embedded connection, in bytes.
pub const DUPLEX_BYTES: usize = 256 * 1024;
/// Memory that redb may use for pages of node.redb, in bytes.
pub const RECORDS_CACHE_BYTES: usize = 256 * 1024;

const _: () = assert!(lattice_kernel::limits::GROUP_CALLS_MAX <= WRITER_QUEUE);
const _: () = assert!(PAGE_DEFAULT <= PAGE_MAX);
// The node can take over all the notices that one store keeps.
const _: () = assert!(lattice_kernel::limits::NOTICES_MAX <= NOTICES_MAX);
const _: () = assert!(NOTICES_ACKNOWLEDGED_MAX <= NOTICES_MAX);
const _: () = assert!(CALLS_MAX <= lattice_format::limits::CALLS_MAX);
const _: () = assert!(REQUEST_BYTES_MAX > lattice_runtime::limits::COMPONENT_BYTES_MAX);

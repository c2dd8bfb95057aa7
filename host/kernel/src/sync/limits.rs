//! Bounds of the sync protocol, related to those of the kernel at compile time.

use lattice_format::limits::{BODY_BYTES_MAX, GENESIS_HEADER_BYTES_MAX};

use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, FRAME_BYTES_MAX, PARKED_PER_PEER};

/// Bytes of a frame before its payload: the payload's length and the message kind.
pub const FRAME_HEAD_BYTES: usize = 5;
/// The most tips that one side sends; a store with more is reconciled by ranges.
pub const TIPS_MAX: usize = 16 * 1024;
/// The most tips of one message.
pub const TIPS_PAGE: usize = 4 * 1024;
/// Bytes of entries after which a frame is closed. One larger entry travels alone.
pub const ENTRIES_FRAME_BYTES: usize = 256 * 1024;
/// The most entries of one frame.
pub const ENTRIES_FRAME_MAX: usize = 1024;
/// Bytes of entries and announcements that a peer may send before the store has taken them.
pub const WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// The largest window that is believed, in bytes, whatever a peer grants.
pub const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The largest body that is pushed as soon as it is witnessed, in bytes; a larger one is announced.
pub const PUSH_BODY_BYTES_MAX: u32 = 64 * 1024;
/// The most ids of one `Want`, `Lacks` or `Announce`.
pub const IDS_MAX: usize = 1024;
/// The most ids that one side has asked for and not got yet.
pub const WANTED_MAX: usize = 4 * IDS_MAX;
/// The most announced ids that wait for their turn to be asked for.
pub const HINTED_MAX: usize = 4 * IDS_MAX;
/// How long an announced entry is waited for before it is asked for, in milliseconds: its author
/// pushes it at the same time, and usually wins.
pub const HINT_PATIENCE_MS: u64 = 20;
/// The most ids of each kind that are remembered of what a peer has, was sent or may not have.
pub const KNOWN_MAX: usize = 16 * 1024;
/// The most void ancestors that are sent along with a void entry that was asked for.
pub const VOID_ANCESTORS_MAX: usize = 256;
/// The most local positions that all branches of a plan buffer together.
pub const PLAN_BUFFER: usize = 64 * 1024;
/// The most local positions that one branch of a plan buffers.
pub const PLAN_PAGE_MAX: usize = 1024;
/// The most ranges of one `Summarize`, and the ways a range is split.
pub const RANGES_MAX: usize = 16;
/// Entries of a range that are listed instead of split.
pub const LEAF_IDS: usize = 64;
/// The most ranges that wait to be compared.
pub const FRONTIER_MAX: usize = 256 * RANGES_MAX;
/// Blocks that a range is summarised in before they are merged into [`RANGES_MAX`] parts.
pub const BLOCKS_MAX: usize = 8 * RANGES_MAX;
/// How often, on average, one round may read a row for summaries before the peer is at fault.
pub const SCANS_MAX: u64 = 64;
/// Jobs of sending found ranges after which no further ranges are asked about.
pub const JOBS_MAX: usize = 64;
/// The most void entries at the end of a branch that are looked behind.
pub const VOID_WALK_MAX: usize = 4096;
/// Bytes a second that a peer gets which is not a member, and how many it may save up.
pub const LIMITED_BYTES_PER_S: u64 = 1024 * 1024;
/// Times in a row that entries came whose ancestors are missing, after which a round begins.
pub const MISSES_MAX: u32 = 8;
/// Frames of entries that one step writes.
pub const STEP_FRAMES: usize = 8;
/// Rows that are read for summaries before the shell gets its turn.
pub const SCAN_ROWS: usize = 2 * 1024;
/// The most ids that `Hello` and `Done` list, and that `PeerLacks` names.
pub const LISTED_MAX: usize = PARKED_PER_PEER;
/// The longest text of an error, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;
/// The most versions that a Hello may list.
pub const VERSIONS_MAX: usize = 16;
/// Faults after which a peer is dropped.
pub const FAULTS_MAX: u32 = 8;
/// Delay after a peer's first fault, in milliseconds; each further one doubles it.
pub const SLOW_MS: u64 = 100;
/// The largest gossip message, in bytes.
pub const GOSSIP_BYTES_MAX: usize = 16 * 1024;
/// The most ids that one gossip message announces.
pub const GOSSIP_IDS_MAX: usize = 256;
/// How long further ids are waited for before a message is sent, in milliseconds.
pub const GOSSIP_COLLECT_MS: u64 = 2;
/// Gossip messages a second that one store handles; what comes beyond makes the sessions compare.
pub const GOSSIP_MESSAGES_PER_SECOND: u64 = 512;
/// How long announcements make the sessions compare no second time, in milliseconds.
pub const GOSSIP_COMPARE_MS: u64 = 1_000;
/// Sessions that are told of an announcement when none runs with who wrote it or passed it on.
pub const GOSSIP_SOURCES_MAX: usize = 2;

// A frame of entries, closed as soon as it is full, and the largest single entry both fit a frame.
const _: () = assert!(
    ENTRIES_FRAME_BYTES + GENESIS_HEADER_BYTES_MAX + BODY_BYTES_MAX as usize + 4096
        <= FRAME_BYTES_MAX
);
// What the window lets in while the store is busy fits one batch, with the largest entry on top.
const _: () = assert!(
    WINDOW_BYTES as usize + GENESIS_HEADER_BYTES_MAX + BODY_BYTES_MAX as usize + 4096
        <= BATCH_BYTES_MAX
);
const _: () = assert!(WINDOW_BYTES <= WINDOW_BYTES_MAX);
const _: () = assert!(ENTRIES_FRAME_BYTES as u64 * 4 <= WINDOW_BYTES);
const _: () = assert!(ENTRIES_FRAME_MAX <= BATCH_ENTRIES_MAX);
const _: () = assert!(TIPS_PAGE * 100 <= FRAME_BYTES_MAX);
const _: () = assert!(IDS_MAX * 34 < ENTRIES_FRAME_BYTES);
const _: () = assert!(IDS_MAX <= WANTED_MAX && LISTED_MAX <= IDS_MAX);
const _: () = assert!(RANGES_MAX * RANGES_MAX * 256 < FRAME_BYTES_MAX);
const _: () = assert!(RANGES_MAX * LEAF_IDS * 34 < FRAME_BYTES_MAX);
const _: () = assert!(GOSSIP_IDS_MAX * 34 + 64 <= GOSSIP_BYTES_MAX);
const _: () = assert!((SLOW_MS << FAULTS_MAX) < 60_000);

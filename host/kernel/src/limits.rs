//! Bounds of the kernel, related to each other at compile time.

use lattice_format::limits::{BODY_BYTES_MAX, GENESIS_HEADER_BYTES_MAX, HEADER_BYTES_MAX};

/// The longest key of a state row, in bytes. Longer ones trap the guest.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value of a state row, in bytes. Longer ones trap the guest.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// The most key and value bytes of one scanned page.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;
/// The most key and value bytes that one transaction writes.
pub const TRANSACTION_WRITE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of marks that the reads of one intention or query take, by [`READ_MARK_BYTES`].
/// Beyond them the guest traps.
pub const READ_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What one mark of a read counts for besides its keys, in bytes: about what it takes in memory.
pub const READ_MARK_BYTES: usize = 96;
/// The most bytes of transactions that a local intention collects before it is closed.
pub const LOCAL_BODY_BYTES: usize = 256 * 1024;
/// The most transactions that a local intention collects before it is closed.
pub const LOCAL_TRANSACTIONS: usize = 512;
/// Entries after which the derived state is written durably.
pub const FLUSH_ENTRIES: u64 = 1000;
/// Age after which the derived state is written durably, in milliseconds.
pub const FLUSH_MS: u64 = 1000;
/// Runs of a lane that are due and listed in memory; where others are due the rows say.
pub const DUE_LISTED_MAX: usize = 4096;
/// Rows of the order that are looked at at once for further due runs.
pub const DUE_ROWS_LOOKED_AT: usize = 65_536;
/// Cells deleted above a slot that a scan there lists; beyond them it looks through the older versions of its span.
pub const DELETED_ABOVE_MAX: usize = 1024;
/// Rows of a level of a number's deltas, in one block of the level above, beyond which the block is split.
pub const DELTA_BLOCK_ROWS: usize = 64;
/// Rows of a level of a number's deltas from which on they are summed in blocks.
pub const DELTA_LEVEL_ROWS: usize = 2 * DELTA_BLOCK_ROWS;
/// Rows of the overlay after which it is written whatever else.
pub const OVERLAY_ROWS_MAX: usize = 200_000;
/// The most floating entries of one sending peer.
pub const FLOATING_PER_PEER: usize = 1024;
/// The most bytes of floating entries of one sending peer.
pub const FLOATING_BYTES_PER_PEER: usize = 8 * 1024 * 1024;
/// The most floating entries of all peers.
pub const FLOATING_MAX: usize = 16 * FLOATING_PER_PEER;
/// The most parked entries of one sending peer.
pub const PARKED_PER_PEER: usize = 256;
/// The most parked entries of all peers.
pub const PARKED_MAX: usize = 16 * PARKED_PER_PEER;
/// Ids of dropped entries that are remembered, so that they are refused without work.
pub const DROPPED_MAX: usize = 4096;
/// The most answers of governance that are cached.
pub const ANSWERS_MAX: usize = 4096;
/// The most entries of one received batch: what a session hands over at once.
pub const BATCH_ENTRIES_MAX: usize = 4096;
/// The most bytes of headers and bodies of one received batch.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries since [`crate::Store::take_changes`] that are named one by one; more count as a change of all.
pub const CHANGED_ENTRIES_MAX: usize = 10_000;
/// Cells that have changed since then and are named one by one; more count as a change of all.
pub const CHANGED_CELLS_MAX: usize = 10_000;
/// Version vectors of entries that are remembered, to add the next ones.
pub const PASTS_CACHED_MAX: usize = 512;
/// The most pairs in them, the newest vector aside.
pub const PAST_PAIRS_CACHED_MAX: usize = 16 * 1024;
/// Entries that were added or named lately whose places are remembered.
pub const NAMES_MAX: usize = 768;
/// Branches that are remembered, and admissions, to admit and add the next entries.
pub const BRANCHES_MAX: usize = 512;
/// The most entries of the end of the log that are kept decoded.
pub const RECENT_MAX: usize = 128;
/// The most bytes of headers and bodies among them, the newest entry aside.
pub const RECENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of rows after which a segment of the log is full. Rows of 600 bytes take a sixth more in a file, which then
/// stays below 64 MiB on the disk.
pub const SEGMENT_BYTES: u64 = 54 * 1024 * 1024;
/// Segments of one log that are open besides the one that is written.
pub const OPEN_SEGMENTS_MAX: usize = 16;
/// Authors whose cuts are to be asked for that are named one by one; of more, everybody's cuts are asked for.
pub const CUTS_DUE_MAX: usize = 64;
/// Notices that are kept until acknowledged; further ones only raise a counter.
pub const NOTICES_MAX: usize = 10_000;
/// The most bytes of those notices; further ones likewise only raise the counter.
pub const NOTICES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Rounds of cutting and folding governance again, beyond one a member.
pub const CUT_ROUNDS_EXTRA: usize = 2;
/// Runs that a commit does itself when governance has changed; the rest is left to `settle`.
pub const CUT_RUNS: u64 = 256;
/// The most calls that share a commit.
pub const GROUP_CALLS_MAX: usize = 512;
/// Late entries that a writer runs again between two jobs: how long fresh calls wait for them.
pub const SETTLE_RUNS_BUSY: u64 = 32;
/// Late entries that a writer runs again at once while no job waits.
pub const SETTLE_RUNS_IDLE: u64 = 256;
/// How often a writer does what time asks of its store while something is going on, in milliseconds.
pub const TICK_MS: u64 = 1_000;
/// Ticks with nothing to do after which a writer sleeps until it is asked for something.
pub const TICKS_IDLE: u32 = 3;
/// How far ahead of a node's clock an entry may lie unless the genesis says otherwise, in milliseconds.
pub const DRIFT_MS_DEFAULT: u64 = 60_000;
/// The largest frame of the sync and blob protocols, in bytes.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(LOCAL_BODY_BYTES < BODY_BYTES_MAX as usize);
// One entry of the largest size must fit into a frame, whatever else it holds.
const _: () = assert!(
    GENESIS_HEADER_BYTES_MAX + HEADER_BYTES_MAX + BODY_BYTES_MAX as usize + 1024 < FRAME_BYTES_MAX
);
const _: () = assert!(VALUE_BYTES_MAX <= PAGE_BYTES_MAX);
// A batch is made of whole frames.
const _: () = assert!(FRAME_BYTES_MAX <= BATCH_BYTES_MAX);
// A notice has two outcomes, each within the largest result, which a body's size bounds as well.
const _: () = assert!(2 * BODY_BYTES_MAX as usize + 4096 <= NOTICES_BYTES_MAX);
// A segment takes over the notices of the one before it, and most of it is for entries.
const _: () = assert!(3 * NOTICES_BYTES_MAX as u64 <= SEGMENT_BYTES);
// However large the batches are that are appended, several fit one segment.
const _: () = assert!(4 * BATCH_BYTES_MAX as u64 <= SEGMENT_BYTES);

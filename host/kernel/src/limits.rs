//! Bounds of the kernel, related to each other at compile time.

use lattice_format::limits::{
    BODY_BYTES_MAX, DEPS_MAX, GENESIS_HEADER_BYTES_MAX, HEADER_BYTES_MAX,
};

/// The longest key of a state row, in bytes. A longer key traps the guest.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value of a state row, in bytes. A longer value traps the guest.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// The most key and value bytes of one scanned page.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;
/// The most key and value bytes that one transaction writes.
pub const TRANSACTION_WRITE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many times the fuel of a transaction the transactions of one intention may use together.
pub const INTENTION_FUEL: u64 = 4;
/// The most key and value bytes that the transactions of one intention write together, undone writes included.
pub const INTENTION_WRITE_BYTES_MAX: usize = 2 * TRANSACTION_WRITE_BYTES_MAX;
/// How many times the result bytes of a transaction the outcomes of one intention may take together.
pub const INTENTION_RESULTS: u64 = 4;
/// The most bytes of marks that the reads of one intention or query take: of each mark its key and
/// [`READ_MARK_BYTES`]. Beyond them the guest traps.
pub const READ_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The bytes that one mark of a read counts for besides its keys, about as many as it takes in memory.
pub const READ_MARK_BYTES: usize = 96;
/// Heads that an entry of this node names: one place of a header's is kept for a checkpoint.
pub const HEADS_NAMED_MAX: usize = DEPS_MAX - 1;
/// The most bytes of transactions that a local intention collects before it is closed.
pub const LOCAL_BODY_BYTES: usize = 256 * 1024;
/// The most transactions that a local intention collects before it is closed.
pub const LOCAL_TRANSACTIONS: usize = 512;
/// Entries after which the derived state is written durably.
pub const FLUSH_ENTRIES: u64 = 1000;
/// Age after which the derived state is written durably, in milliseconds. What a restart has to run again is bounded by
/// [`FLUSH_ENTRIES`] and not by the age. Each write also writes redb's map of free pages, which grows with the file, so a
/// store with few calls is not written often.
pub const FLUSH_MS: u64 = 30_000;
/// The length of the journal of a log, in bytes.
pub const JOURNAL_BYTES: usize = 64 * 1024;
/// The most bytes of a batch that goes to the journal and not to a segment.
pub const JOURNALED_BYTES_MAX: usize = 16 * 1024;
/// Age after which the next batch of the log holds a witness record, in milliseconds.
pub const WITNESS_MS: u64 = 1000;
/// The most runs of a lane that are due and listed in memory. Only the rows tell of further runs that are due.
pub const DUE_LISTED_MAX: usize = 4096;
/// The most rows of the order that one search for further due runs reads.
pub const DUE_ROWS_LOOKED_AT: usize = 65_536;
/// The most cells deleted above a slot that a scan at the slot lists. When there are more, the scan looks through the
/// older versions of its span.
pub const DELETED_ABOVE_MAX: usize = 1024;
/// The most rows of a level of a number's deltas that one block of the level above sums. A larger block is split.
pub const DELTA_BLOCK_ROWS: usize = 64;
/// The most entries that one block of fingerprints sums. A larger block is split.
pub const FINGERPRINT_BLOCK_ENTRIES: u64 = 128;
/// The most blocks of fingerprints that one block of the level above sums. A larger block is split.
pub const FINGERPRINT_BLOCK_BLOCKS: u64 = 32;
/// Cells of the sketch of the entries that count, which tells some 650 entries that differ.
pub const SKETCH_CELLS_MAX: usize = 1024;
/// Changes of entries after which the fingerprints follow, although no view was published.
pub const FINGERPRINT_CHANGES_MAX: usize = 4096;
/// The most rows of a level of a number's deltas without a level of blocks above.
pub const DELTA_LEVEL_ROWS: usize = 2 * DELTA_BLOCK_ROWS;
/// Rows of the overlay after which the overlay is written, whatever its age.
pub const OVERLAY_ROWS_MAX: usize = 200_000;
/// The most floating entries of one sending peer.
pub const FLOATING_PER_PEER: usize = 1024;
/// The most bytes of floating entries of one sending peer.
pub const FLOATING_BYTES_PER_PEER: usize = 8 * 1024 * 1024;
/// The most floating entries of all peers.
pub const FLOATING_MAX: usize = 16 * FLOATING_PER_PEER;
/// The most bytes of floating entries of all peers.
pub const FLOATING_BYTES_MAX: usize = 4 * FLOATING_BYTES_PER_PEER;
/// The most parked entries of one sending peer.
pub const PARKED_PER_PEER: usize = 256;
/// The most bytes of parked entries of one sending peer.
pub const PARKED_BYTES_PER_PEER: usize = 8 * 1024 * 1024;
/// The most parked entries of all peers.
pub const PARKED_MAX: usize = 16 * PARKED_PER_PEER;
/// The most bytes of parked entries of all peers.
pub const PARKED_BYTES_MAX: usize = 4 * PARKED_BYTES_PER_PEER;
/// The most void entries of one author that are kept, unless entries that count name more of them.
pub const VOID_ENTRIES_PER_AUTHOR: u64 = 256;
/// The most bytes of bodies of void entries of one author that are kept, unless entries that count name more of them.
pub const VOID_BYTES_PER_AUTHOR: u64 = 1024 * 1024;
/// The most void entries of one author that are kept because entries that wait and could count need them.
pub const VOID_NEEDED_ENTRIES: u64 = 65_536;
/// The most bytes of the bodies of those, as [`VOID_BYTES_PER_AUTHOR`] bounds the others.
pub const VOID_NEEDED_BYTES: u64 = 256 * 1024 * 1024;
/// Ids of dropped entries that are remembered, so that they are refused without work.
pub const DROPPED_MAX: usize = 4096;
/// The most answers of governance that are cached.
pub const ANSWERS_MAX: usize = 4096;
/// The most entries of one received batch, which a session hands over at once.
pub const BATCH_ENTRIES_MAX: usize = 4096;
/// The most bytes of headers and bodies of one received batch.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most entries since [`crate::Store::take_changes`] that are named one by one. More count as a change of
/// everything.
pub const CHANGED_ENTRIES_MAX: usize = 10_000;
/// The most cells changed since [`crate::Store::take_changes`] that are named one by one. More count as a change of
/// everything.
pub const CHANGED_CELLS_MAX: usize = 10_000;
/// The most version vectors of entries that are remembered, to add the next entries.
pub const PASTS_CACHED_MAX: usize = 512;
/// The most nodes of their trees that are remembered, each of at most 32 branches.
pub const PAST_NODES_CACHED_MAX: usize = 512;
/// The most entries that are remembered because they were added or named lately.
pub const NAMES_MAX: usize = 768;
/// The most branches that are remembered, and the most admissions, to admit and add the next entries.
pub const BRANCHES_MAX: usize = 512;
/// The most entries of the end of the log that are kept decoded once all have run.
pub const RECENT_MAX: usize = 128;
/// The most bytes of headers and bodies that are kept decoded then. The newest entry is kept even if it has more.
pub const RECENT_BYTES_MAX: usize = 256 * 1024;
/// The most entries of the end of the log that are kept decoded until they have run.
pub const UNSETTLED_MAX: usize = 2048;
/// The most bytes of headers and bodies that are kept decoded until then.
pub const UNSETTLED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of rows after which a segment of the log is full. Rows of 600 bytes take a sixth more in a file, which then
/// stays below 64 MiB on the disk.
pub const SEGMENT_BYTES: u64 = 54 * 1024 * 1024;
/// Segments of one log that are open besides the one that is written.
pub const OPEN_SEGMENTS_MAX: usize = 16;
/// The most authors that are named one by one when their cuts must be asked for. Beyond them, everybody's cuts are
/// asked for.
pub const CUTS_DUE_MAX: usize = 64;
/// The most authors of whom it is remembered what their cuts rest on. In a store with more, each change of governance
/// asks about all of them.
pub const CUT_READS_MAX: usize = 64 * 1024;
/// The most authors whose cuts are remembered.
pub const CUTS_CACHED_MAX: usize = 64;
/// The most branches that all remembered cuts name. The cuts that were read last are kept even if they name more.
pub const CUT_BRANCHES_CACHED_MAX: usize = 64 * 1024;
/// The most notices that are kept until they are acknowledged. Further notices only raise a counter.
pub const NOTICES_MAX: usize = 10_000;
/// The most bytes of notices that are kept. Further notices only raise a counter.
pub const NOTICES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many rounds of cutting and folding governance again there may be, beyond one for each author.
pub const CUT_ROUNDS_EXTRA: usize = 2;
/// The most runs that a commit does itself when governance has changed. The rest is left to `settle`.
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
/// A step of a node's wall clock that its peers are told of at once, when it is larger, in milliseconds. What NTP slews
/// is smaller.
pub const CLOCK_STEP_MS: u64 = 1_000;
/// The most peers whose clocks a node remembers.
pub const CLOCKS_MAX: usize = 4_096;
/// How far a clock that no member confirms may be above the last entry of a store without a question, in milliseconds:
/// 92 days, so that what is used once in a quarter is not asked about.
pub const LEAP_MS: u64 = 92 * 86_400_000;
/// The most entries too far ahead that the search for what stands below them looks at.
pub const AHEAD_LOOKED_AT_MAX: usize = 4_096;
/// The largest frame of the sync and blob protocols, in bytes.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(LOCAL_BODY_BYTES < BODY_BYTES_MAX as usize);
// The largest entry must fit into a frame.
const _: () = assert!(
    GENESIS_HEADER_BYTES_MAX + HEADER_BYTES_MAX + BODY_BYTES_MAX as usize + 1024 < FRAME_BYTES_MAX
);
// The largest entry can float and be parked.
const _: () = assert!(HEADER_BYTES_MAX + BODY_BYTES_MAX as usize <= FLOATING_BYTES_PER_PEER);
const _: () = assert!(HEADER_BYTES_MAX + BODY_BYTES_MAX as usize <= PARKED_BYTES_PER_PEER);
const _: () = assert!(VALUE_BYTES_MAX <= PAGE_BYTES_MAX);
const _: () = assert!(RECENT_MAX <= UNSETTLED_MAX && RECENT_BYTES_MAX <= UNSETTLED_BYTES_MAX);
// A batch is made of whole frames.
const _: () = assert!(FRAME_BYTES_MAX <= BATCH_BYTES_MAX);
// A notice has two outcomes. An outcome is no larger than the largest result, and a result no larger than a body.
const _: () = assert!(2 * BODY_BYTES_MAX as usize + 4096 <= NOTICES_BYTES_MAX);
// A segment takes over the notices of the one before it, and most of it is for entries.
const _: () = assert!(3 * NOTICES_BYTES_MAX as u64 <= SEGMENT_BYTES);
// However large the batches are that are appended, several fit one segment.
const _: () = assert!(4 * BATCH_BYTES_MAX as u64 <= SEGMENT_BYTES);

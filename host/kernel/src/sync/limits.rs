//! Bounds of the sync protocol, related to those of the kernel at compile time.

use lattice_format::limits::{BODY_BYTES_MAX, GENESIS_HEADER_BYTES_MAX};

use crate::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, FRAME_BYTES_MAX, PARKED_PER_PEER, SKETCH_CELLS_MAX,
};
use crate::state::sketch::CELL_BYTES;

/// The most tips that one side sends; a store with more is reconciled by ranges.
pub const TIPS_MAX: usize = 16 * 1024;
/// The most tips of both sides with which tips are exchanged at once. With more, a sketch is tried first.
pub const TIPS_FEW: u64 = 256;
/// By how many entries the two sides may differ in number, and a sketch is still tried.
pub const SKETCH_DIFFERENCE_MAX: u64 = SKETCH_CELLS_MAX as u64 / 2;
/// The fewest cells of a sketch that is sent.
pub const SKETCH_CELLS_LEAST: usize = 256;
/// The most forks of one chain that are compared tip by tip; chains with more are left to ranges.
pub const FORKS_COMPARED_MAX: usize = 16;
/// The most members that governance is asked for at once.
pub const MEMBERS_PAGE: u32 = 256;
/// The most cells whose change is remembered until members are asked for again. Beyond them all are.
pub const STALE_CELLS_MAX: usize = 1024;
/// The most tips of one message.
pub const TIPS_PAGE: usize = 4 * 1024;
/// Bytes of entries after which a frame is closed. The last entry may exceed them.
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
/// How long an announced entry is waited for before it is asked for, in milliseconds. Mostly it comes by itself,
/// because its author pushes it at the same time.
pub const HINT_PATIENCE_MS: u64 = 20;
/// The most ids that a session remembers of each kind: entries that the peer has, that it was sent, and so on.
pub const KNOWN_MAX: usize = 16 * 1024;
/// The most void ancestors that are sent along with a void entry that was asked for.
pub const VOID_ANCESTORS_MAX: usize = 256;
/// The most local positions that all branches of a plan buffer together.
pub const PLAN_BUFFER: usize = 64 * 1024;
/// The most local positions that one branch of a plan buffers.
pub const PLAN_PAGE_MAX: usize = 1024;
/// The most ranges of one `Summarize`.
pub const RANGES_MAX: usize = 32;
/// The most parts into which a range is split.
pub const PARTS_MAX: usize = 128;
/// Parts into which a range may be split however many ranges are asked about.
pub const PARTS_LEAST: usize = 16;
/// The most parts of one `Summary`.
pub const PARTS_ANSWERED_MAX: usize = 512;
/// The most entries of a range that is listed instead of split.
pub const LEAF_IDS: usize = 64;
/// The most ranges that wait to be compared. The first ones are asked about first, so that each further question adds
/// the parts of one level.
pub const FRONTIER_MAX: usize = 8 * PARTS_ANSWERED_MAX;
/// How often one round may read each row for summaries, on average, before the peer is at fault.
pub const SCANS_MAX: u64 = 64;
/// Found ranges that wait to be sent, after which no further ranges are asked about.
pub const JOBS_MAX: usize = 64;
/// The most void entries at the end of a branch that are passed over in search of one that counts.
pub const VOID_WALK_MAX: usize = 4096;
/// Bytes a second for a peer that is not a member, and the most that it may save up.
pub const LIMITED_BYTES_PER_S: u64 = 1024 * 1024;
/// Batches in a row of entries whose ancestors are missing, after which a round begins.
pub const MISSES_MAX: u32 = 8;
/// The most frames of entries that one step writes.
pub const STEP_FRAMES: usize = 8;
/// Rows that a step reads for summaries before the shell gets its turn.
pub const SCAN_ROWS: usize = 2 * 1024;
/// The most ids that `Hello`, `Done` and `PeerLacks` list.
pub const LISTED_MAX: usize = PARKED_PER_PEER;
/// The longest text of an error, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;
/// The most versions that a Hello may list.
pub const VERSIONS_MAX: usize = 16;
/// Faults after which a peer is dropped.
pub const FAULTS_MAX: u32 = 8;
/// Delay after a peer's first fault, in milliseconds. Each further fault doubles the delay.
pub const SLOW_MS: u64 = 100;
/// The first pause after a dial, in milliseconds; it doubles with each dial that fails.
pub const RETRY_MIN_MS: u64 = 250;
/// The longest pause between dials, in milliseconds.
pub const RETRY_MAX_MS: u64 = 60_000;
/// A connection that stands for so long was a success, in milliseconds.
pub const LASTING_MS: u64 = 2_000;
/// Two connections with one peer that begin within this time are taken for dials that crossed, in milliseconds.
pub const CROSSING_MS: u64 = 1_000;
/// Sessions of one store in their first round beyond which a node begins no further one.
pub const FIRST_ROUNDS_MAX: usize = 1;
/// How long a session is waited for that does not end its first round, in milliseconds.
pub const FIRST_ROUND_MS: u64 = 2_000;
/// How often a session that waits looks whether it is its turn, in milliseconds.
pub const FIRST_ROUND_LOOK_MS: u64 = 20;
/// The weight of misbehaviour at which a peer is dropped and refused for a while.
pub const MISBEHAVIOUR_MAX: u32 = 8;
/// The most peers whose misbehaviour is remembered; the one that misbehaved longest ago makes room.
pub const MISBEHAVING_PEERS_MAX: usize = 4096;
/// How often the length of a ban doubles.
pub const BAN_DOUBLINGS_MAX: u32 = 6;
/// The largest gossip message, in bytes.
pub const GOSSIP_BYTES_MAX: usize = 16 * 1024;
/// The most ids that one gossip message announces.
pub const GOSSIP_IDS_MAX: usize = 256;
/// How long a gossip message waits for further ids before it is sent, in milliseconds.
pub const GOSSIP_COLLECT_MS: u64 = 2;
/// Gossip messages a second that one store reads. Further messages make the sessions compare.
pub const GOSSIP_MESSAGES_PER_SECOND: u64 = 512;
/// How long after one comparison gossip causes no other, in milliseconds.
pub const GOSSIP_COMPARE_MS: u64 = 1_000;
/// Sessions that are told of an announcement when none runs with its author or with the peer that passed it on.
pub const GOSSIP_SOURCES_MAX: usize = 2;

// A frame of entries is closed as soon as it is full. Even if its last entry is the largest, it fits.
const _: () = assert!(
    ENTRIES_FRAME_BYTES + GENESIS_HEADER_BYTES_MAX + BODY_BYTES_MAX as usize + 4096
        <= FRAME_BYTES_MAX
);
// While the store is busy, the window lets in its bytes and one more frame, which may hold the largest entry. All of
// it fits one batch.
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
const _: () = assert!(RANGES_MAX * PARTS_LEAST <= PARTS_ANSWERED_MAX);
const _: () = assert!(PARTS_LEAST <= PARTS_MAX && PARTS_MAX <= PARTS_ANSWERED_MAX);
const _: () = assert!(PARTS_ANSWERED_MAX * 256 < FRAME_BYTES_MAX);
const _: () = assert!(RANGES_MAX * LEAF_IDS * 34 < FRAME_BYTES_MAX);
const _: () = assert!(GOSSIP_IDS_MAX * 34 + 64 <= GOSSIP_BYTES_MAX);
const _: () = assert!((SLOW_MS << FAULTS_MAX) < 60_000);
const _: () = assert!(RETRY_MIN_MS < RETRY_MAX_MS && RETRY_MIN_MS < CROSSING_MS);
const _: () = assert!(FIRST_ROUND_LOOK_MS < FIRST_ROUND_MS);
const _: () = assert!(SKETCH_CELLS_MAX * CELL_BYTES + 64 < FRAME_BYTES_MAX);
const _: () = assert!(SKETCH_CELLS_MAX <= WANTED_MAX && SKETCH_CELLS_LEAST <= SKETCH_CELLS_MAX);

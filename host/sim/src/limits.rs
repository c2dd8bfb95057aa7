//! Times and bounds of the simulator. Times of the network are the daemon's defaults.

use lattice_kernel::sync::limits::RETRY_MAX_MS;

/// The wall clock at the beginning of every run, in milliseconds since the Unix epoch.
pub const START_MS: u64 = 1_800_000_000_000;
/// How often each session compares both sides, in milliseconds.
pub const RECONCILE_MS: u64 = 30_000;
/// After which a dial that nobody answers is given up, in milliseconds.
pub const DIAL_MS: u64 = 6_000;
/// How long a peer that broke the protocol is refused, the first time, in milliseconds; it doubles. A daemon's bans are
/// longer: here a liar comes back, so that a run sees bans end and lies go on.
pub const BAN_MS: u64 = 4_000;
/// How much later than others an announcement may come, in milliseconds.
pub const GOSSIP_LATE_MS: u64 = 8_000;
/// Silence after which a path is taken for broken, in milliseconds.
pub const IDLE_MS: u64 = 10_000;
/// Pause before bytes that did not get through are sent again, in milliseconds.
pub const RESEND_MS: u64 = 200;
/// How often a node looks at its peers, in milliseconds.
pub const TICK_MS: u64 = 1_000;
/// Bytes waiting to be written beyond which a node reads nothing more from that peer.
pub const OUT_BYTES_HIGH: usize = 1024 * 1024;
/// The most bytes that may wait for one peer: one step of a session on top of the mark above.
pub const OUT_BYTES_MAX: usize = OUT_BYTES_HIGH + 16 * 1024 * 1024;
/// Virtual time after the last fault within which all members are equal, in milliseconds: one longest pause
/// between dials, two comparisons, and room for bytes on slow links.
pub const CONVERGE_MS: u64 = RETRY_MAX_MS + 2 * RECONCILE_MS + 60_000;
/// A clock that is wrong by more is set when faults end, in milliseconds. The others stay wrong.
pub const CLOCK_LEFT_MS: u64 = 90_000;
/// The longest that a run waits, when faults have ended, for the time of what was signed ahead, in milliseconds.
pub const AHEAD_WAIT_MS: u64 = 600_000;
/// How often a node may be sent an entry that it has, over all entries that it was sent. Two peers may send the
/// same one at the same time; the rest is waste.
pub const RESENT_FACTOR: u64 = 4;
/// Up to so many nodes, all are connected with each other once faults have ended.
pub const MESH_NODES: usize = 24;
/// The most nodes of one world.
pub const NODES_MAX: usize = 1_000;
/// The most operations of one scenario file.
pub const SCRIPT_OPERATIONS_MAX: u64 = 10_000_000;
/// Runs that shrinking a failure may take.
pub const SHRINK_RUNS_MAX: usize = 300;

const _: () = assert!(IDLE_MS < RECONCILE_MS && DIAL_MS < IDLE_MS);

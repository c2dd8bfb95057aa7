//! Bounds of the blob protocol, related to those of the kernel at compile time.

use crate::limits::FRAME_BYTES_MAX;

/// Bytes of one piece, the unit that is asked for and remembered. The last piece of a blob may be shorter.
pub const PIECE_BYTES: u64 = 1024 * 1024;
/// Logarithm to base 2 of the number of BLAKE3 chunks in one group. Hashes are kept for groups of 16 KiB.
pub const GROUP_CHUNKS_LOG: u8 = 4;
/// The largest frame, in bytes: a piece, the hashes within it, and those beside the path from the root to it.
pub const BLOB_FRAME_BYTES_MAX: usize = PIECE_BYTES as usize + 64 * 1024;
/// The largest blob, in bytes.
pub const BLOB_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// The largest blob that is read into memory as a whole, in bytes.
pub const READ_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How many requests a fetch keeps open with each peer.
pub const REQUESTS_MAX: usize = 4;
/// How many requests a server holds for one peer. A peer that sends more is at fault.
pub const REQUESTS_TAKEN_MAX: usize = 4 * REQUESTS_MAX;
/// The most peers that one fetch asks.
pub const PEERS_MAX: usize = 16;

const _: () = assert!(BLOB_FRAME_BYTES_MAX <= FRAME_BYTES_MAX);
const GROUP_BYTES: u64 = 1024 << GROUP_CHUNKS_LOG;
const _: () = assert!(PIECE_BYTES.is_multiple_of(GROUP_BYTES));
// A piece comes with a pair of hashes for each group in it, and one for each level above, at most 64.
const _: () = assert!(
    (PIECE_BYTES / GROUP_BYTES + 64) * 64 + PIECE_BYTES + 1024 <= BLOB_FRAME_BYTES_MAX as u64
);
const _: () = assert!(READ_BYTES_MAX <= BLOB_BYTES_MAX);
const _: () = assert!(REQUESTS_MAX <= REQUESTS_TAKEN_MAX);

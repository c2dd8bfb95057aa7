//! Bounds of the format, related to each other at compile time.

/// The format byte that this crate writes and reads.
pub const FORMAT: u8 = 1;
/// The most heads an intention names besides `prev`.
pub const DEPS_MAX: usize = 16;
/// The most device keys that an intention admits (a genesis: [`GENESIS_ADMITS_MAX`]).
pub const ADMITS_MAX: usize = 16;
/// The most device keys that a genesis admits: the members of a child store's parent.
pub const GENESIS_ADMITS_MAX: usize = 1024;
/// The most uncritical hints of a header.
pub const HINTS_MAX: usize = 8;
/// The longest value of one hint, in bytes.
pub const HINT_BYTES_MAX: usize = 64;
/// The largest header of an ordinary intention, format byte included, in bytes.
pub const HEADER_BYTES_MAX: usize = 4 * 1024;
/// The largest header of a genesis, in bytes.
pub const GENESIS_HEADER_BYTES_MAX: usize = 64 * 1024;
/// The largest body that any genesis may allow, in bytes.
pub const BODY_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// The largest body unless the genesis says otherwise, in bytes.
pub const BODY_BYTES_DEFAULT: u32 = 1024 * 1024;
/// The most transactions in one intention.
pub const TRANSACTIONS_MAX: usize = 4096;
/// The most calls in one transaction.
pub const CALLS_MAX: usize = 4096;
/// The longest interface or function name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The most parameters of a genesis, a component each.
pub const PARAMS_MAX: usize = 2048;

// A full ordinary header must fit: each key or id costs 34 bytes on the wire, each hint at most 72,
// and all other fields together stay below 512.
const _: () = assert!(
    (DEPS_MAX + ADMITS_MAX) * 34 + HINTS_MAX * (HINT_BYTES_MAX + 10) + 512 <= HEADER_BYTES_MAX
);
const _: () = assert!(GENESIS_ADMITS_MAX * 34 + 2048 <= GENESIS_HEADER_BYTES_MAX);
const _: () = assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_MAX);

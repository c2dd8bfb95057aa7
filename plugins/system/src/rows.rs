//! The keys of the state, and the small rows that are a value by themselves.

use lattice_sdk::codec::Writer;
use lattice_sdk::state::{self, Range};

use crate::bindings::exports::lattice::system::commands::Error;
use crate::bindings::exports::lattice::system::governance::Child;
use crate::key::PublicKey;

/// First byte of a member's key.
pub const MEMBER: u8 = b'm';
/// First byte of an invite's key.
pub const INVITE: u8 = b'i';
/// First byte of a revocation's key.
pub const CUT: u8 = b'x';
/// First byte of the key of a member by its rank.
pub const RANK: u8 = b'r';
/// First byte of the key of a claim.
pub const CLAIM: u8 = b'j';
const ADMISSION: u8 = b'g';
const MEMBER_NAME: u8 = b'a';
const CHILD: u8 = b'c';
const NAME: &[u8] = b"n";
const ANCHOR: &[u8] = b"o";
const SALT: &[u8] = b"s";

/// Largest name of a store or a member, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of an id or another hash.
pub const HASH_BYTES: usize = 32;

/// The key of a row that belongs to a public key.
pub fn keyed(tag: u8, key: &PublicKey) -> Vec<u8> {
    Writer::tag(tag).bytes(key.as_bytes()).finish()
}

/// Checks the length of a name.
///
/// # Errors
/// [`Error::NameTooLong`].
pub fn check_name(name: &str) -> Result<(), Error> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::NameTooLong(
            u32::try_from(name.len()).unwrap_or(u32::MAX),
        ));
    }
    Ok(())
}

/// Checks the length of a hash.
///
/// # Errors
/// [`Error::BadHash`].
pub fn check_hash(hash: &[u8]) -> Result<(), Error> {
    if hash.len() != HASH_BYTES {
        return Err(Error::BadHash(
            u32::try_from(hash.len()).unwrap_or(u32::MAX),
        ));
    }
    Ok(())
}

/// The name of the store; empty before the first entry.
pub fn name() -> String {
    text(NAME)
}

/// Names the store.
pub fn set_name(name: &str) {
    state::put(NAME, name.as_bytes());
}

/// The name of a member; empty where none was given.
pub fn member_name(key: &PublicKey) -> String {
    text(&keyed(MEMBER_NAME, key))
}

/// Names a member. The name has a row of its own, so that a late change of it leaves authorizations alone.
pub fn set_member_name(key: &PublicKey, name: &str) {
    state::put(&keyed(MEMBER_NAME, key), name.as_bytes());
}

/// The device that checkpoints need; none before the first entry.
pub fn anchor() -> Option<PublicKey> {
    state::get(ANCHOR).and_then(|key| PublicKey::lookup(&key))
}

/// Makes a device the one that checkpoints need.
pub fn set_anchor(device: &PublicKey) {
    state::put(ANCHOR, device.as_bytes());
}

/// The salt of the gossip topic; zeros before the first entry.
pub fn salt() -> Vec<u8> {
    state::get(SALT).unwrap_or_else(|| vec![0; HASH_BYTES])
}

/// Changes the salt to the id of the call, which no other entry has. The salt is written without being read, so that
/// revocations do not depend on one another; the last one in the order decides.
pub fn renew_salt(call: &[u8]) {
    state::put(SALT, call);
}

/// Notes that a call admits a device, so that the entry which holds the call does.
pub fn note_admission(call: &[u8], device: &PublicKey) {
    let key = Writer::tag(ADMISSION).bytes(call).finish();
    let before = state::get(&key).unwrap_or_default();
    state::put(&key, &[&before, &device.as_bytes()[..]].concat());
}

/// The devices that a call admits.
pub fn admitted(call: &[u8]) -> Vec<Vec<u8>> {
    let key = Writer::tag(ADMISSION).bytes(call).finish();
    let keys = state::get(&key).unwrap_or_default();
    keys.chunks_exact(HASH_BYTES).map(<[u8]>::to_vec).collect()
}

/// The rows of a kind that follow the one with the key `after`, or all of them: at most `limit`.
pub fn page(tag: u8, after: Option<&[u8]>, limit: u32) -> Range {
    let range = Range::prefix(&[tag]).limit(limit);
    match after {
        Some(after) => range.after(&[&[tag], after].concat()),
        None => range,
    }
}

/// The children of this store, by id: at most `limit` after `after`.
pub fn children(after: Option<&[u8]>, limit: u32) -> Vec<Child> {
    let rows = state::scan(page(CHILD, after, limit));
    rows.map(|(key, row)| Child {
        store: key[1..].to_vec(),
        name: String::from_utf8_lossy(&row).into_owned(),
    })
    .collect()
}

/// Whether a store is a child of this one.
pub fn is_child(store: &[u8]) -> bool {
    state::get(&child_key(store)).is_some()
}

/// Lists a child.
pub fn add_child(store: &[u8], name: &str) {
    state::put(&child_key(store), name.as_bytes());
}

/// Takes a child off the list.
pub fn remove_child(store: &[u8]) {
    state::delete(&child_key(store));
}

fn child_key(store: &[u8]) -> Vec<u8> {
    Writer::tag(CHILD).bytes(store).finish()
}

fn text(key: &[u8]) -> String {
    state::get(key).map_or_else(String::new, |row| {
        String::from_utf8_lossy(&row).into_owned()
    })
}

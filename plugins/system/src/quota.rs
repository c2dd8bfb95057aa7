//! Quotas: how many bytes a member may write.
//!
//! A row bounds one member, each member with a role, or whoever no other row bounds. The nearest row counts.

use lattice_sdk::codec::Writer;
use lattice_sdk::state;

use crate::bindings::exports::lattice::system::governance::{Lane, Role};
use crate::key::PublicKey;
use crate::member::{Member, role_code};

const QUOTA: u8 = b'q';

/// What a reader may write where no quota of readers is set, in bytes. A reader's node carries claims, some 700 bytes
/// each with their header, and its member may leave.
pub const READER_BYTES: u64 = 64 * 1024;

/// Whose quota is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An admin or a writer for whom no other quota is set.
    Anyone,
    /// Each member with this role.
    Role(Role),
    /// The member with this key.
    Member(PublicKey),
}

impl Holder {
    fn row(self) -> Vec<u8> {
        let row = Writer::tag(QUOTA);
        match self {
            Self::Anyone => row.finish(),
            Self::Role(role) => row.u8(role_code(role)).finish(),
            Self::Member(key) => row.bytes(key.as_bytes()).finish(),
        }
    }

    /// The bytes in the holder's row; none where there is no row.
    pub fn bytes(self) -> Option<u64> {
        let row = state::get(&self.row())?;
        Some(u64::from_be_bytes(
            row.try_into().expect("a quota has 8 bytes"),
        ))
    }

    /// Sets the bytes in the holder's row, or removes the row.
    pub fn set_bytes(self, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => state::put(&self.row(), &bytes.to_be_bytes()),
            None => state::delete(&self.row()),
        }
    }
}

/// How many bytes `author` may write in `lane`; none for no bound. Only the author's own row of a member and few quotas
/// are read, so that only a change of these makes entries run again.
pub fn of(author: Option<&PublicKey>, lane: Lane) -> Option<u64> {
    let member = author.and_then(|key| Some((*key, Member::load(key)?)));
    // Who never was a member, or is none any more, has no right that takes more than a reader's.
    let Some((key, member)) = member.filter(|(_, member)| member.is_active()) else {
        return Some(of_readers());
    };
    // An admin at its bound must be able to raise it.
    if member.role == Role::Admin && lane == Lane::System {
        return None;
    }
    if let Some(bytes) = Holder::Member(key).bytes() {
        return Some(bytes);
    }
    match member.role {
        Role::Reader => Some(of_readers()),
        role => Holder::Role(role)
            .bytes()
            .or_else(|| Holder::Anyone.bytes()),
    }
}

fn of_readers() -> u64 {
    Holder::Role(Role::Reader).bytes().unwrap_or(READER_BYTES)
}

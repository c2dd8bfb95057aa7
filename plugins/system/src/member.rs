//! A member: its rank, its role, and where its membership stands.
//!
//! ```text
//! version 1 (1)   role 1   status 1   rank 52: wall 8, counter 4, index 4, ordinal 4, call id 32
//! admitted by 32  invite: 0 | 1 key 32
//! ```

use lattice_sdk::codec::{Reader, Writer};
use lattice_sdk::state;
use lattice_sdk::{Entry, Timestamp};

use crate::bindings::exports::lattice::system::commands::Error;
use crate::bindings::exports::lattice::system::governance::{self, Role, Status};
use crate::key::PublicKey;
use crate::rows;

const VERSION: u8 = 1;

/// The place of a member's first admission; smaller ones rank higher. It never changes.
///
/// The rank is made from the admitting entry alone. With a counter, each admission would depend on all earlier ones.
/// Admissions of the very same time are ranked by the ids of their calls. Any order of these two would do, because
/// neither of the two members wrote anything before that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    wall_ms: u64,
    counter: u32,
    index: u32,
    ordinal: u32,
    call: [u8; 32],
}

impl Rank {
    /// The rank of the member that a call admits as the one with this number.
    ///
    /// # Panics
    /// If the call's id is not 32 bytes, which the contract promises.
    pub fn admitted_in(entry: &Entry, ordinal: u32) -> Self {
        let Timestamp { wall_ms, counter } = entry.time;
        let call = entry.id[..]
            .try_into()
            .expect("the contract promises ids of 32 bytes");
        Self {
            wall_ms,
            counter,
            index: entry.index,
            ordinal,
            call,
        }
    }

    /// The rank as bytes that compare as ranks do.
    pub fn encode(&self) -> Vec<u8> {
        Writer::default()
            .time(&Timestamp {
                wall_ms: self.wall_ms,
                counter: self.counter,
            })
            .u32(self.index)
            .u32(self.ordinal)
            .bytes(&self.call)
            .finish()
    }
}

/// A member's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What the member may do while active.
    pub role: Role,
    /// Where the membership stands.
    pub status: Status,
    /// Place of the first admission.
    pub rank: Rank,
    /// Author of the first admission.
    pub admitted_by: PublicKey,
    /// The invite that was claimed, if one was.
    pub invite: Option<PublicKey>,
}

impl Member {
    /// The member with this key, present or past.
    pub fn load(key: &PublicKey) -> Option<Self> {
        state::get(&rows::keyed(rows::MEMBER, key)).map(|row| Self::decode(&row))
    }

    /// The member that a command names.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`].
    pub fn named(bytes: &[u8]) -> Result<(PublicKey, Self), Error> {
        let key = PublicKey::lookup(bytes);
        let found = key.and_then(|key| Some((key, Self::load(&key)?)));
        found.ok_or_else(|| Error::NoSuchMember(bytes.to_vec()))
    }

    /// Writes the member's row.
    pub fn store(&self, key: &PublicKey) {
        state::put(&rows::keyed(rows::MEMBER, key), &self.encode());
    }

    /// Writes the rows of a member that is admitted for the first time.
    pub fn admit(&self, key: &PublicKey) {
        self.store(key);
        let rank = Writer::tag(rows::RANK).bytes(&self.listed_rank(key));
        state::put(&rank.finish(), key.as_bytes());
    }

    /// The rank as the contract has it. Entries of a forked chain can admit two devices in calls of one id: the device
    /// tells them apart, and neither ranks above the other.
    fn listed_rank(&self, key: &PublicKey) -> Vec<u8> {
        [&self.rank.encode()[..], key.as_bytes()].concat()
    }

    /// Members as the contract has them, by rank: at most `limit` after the rank `after`.
    pub fn listing(after: Option<&[u8]>, limit: u32) -> Vec<governance::Member> {
        let rows = state::scan(rows::page(rows::RANK, after, limit));
        rows.map(|(_, key)| Self::listed(&key).expect("a rank's row has the key of a member"))
            .collect()
    }

    /// The member with this key, present or past, as the contract has it.
    pub fn listed(key: &[u8]) -> Option<governance::Member> {
        let key = PublicKey::lookup(key)?;
        let member = Self::load(&key)?;
        Some(governance::Member {
            key: key.to_vec(),
            name: rows::member_name(&key),
            role: member.role,
            rank: member.listed_rank(&key),
            status: member.status,
            admitted_by: member.admitted_by.to_vec(),
            invite: member.invite.map(|invite| invite.to_vec()),
            devices: vec![governance::Device {
                key: key.to_vec(),
                active: true,
                away: false,
            }],
        })
    }

    /// Whether the member has its rights.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// Whether the member is an admin with its rights.
    pub fn is_active_admin(&self) -> bool {
        self.is_active() && self.role == Role::Admin
    }

    /// Whether this member may take rights from `other`.
    pub fn outranks(&self, other: &Self) -> bool {
        self.rank < other.rank
    }

    /// The row in the state.
    pub fn encode(&self) -> Vec<u8> {
        let row = Writer::tag(VERSION)
            .u8(role_code(self.role))
            .u8(status_code(self.status))
            .bytes(&self.rank.encode())
            .bytes(self.admitted_by.as_bytes());
        match &self.invite {
            None => row.u8(0).finish(),
            Some(invite) => row.u8(1).bytes(invite.as_bytes()).finish(),
        }
    }

    /// Reads a row that [`Member::encode`] wrote.
    ///
    /// # Panics
    /// If it is another one: nothing else writes these rows.
    pub fn decode(row: &[u8]) -> Self {
        Self::read(row).expect("only `encode` writes these rows")
    }

    fn read(row: &[u8]) -> Option<Self> {
        let mut row = Reader::new(row);
        if row.u8()? != VERSION {
            return None;
        }
        let role = role_of_code(row.u8()?)?;
        let status = match row.u8()? {
            0 => Status::Active,
            1 => Status::Revoked,
            2 => Status::Resigned,
            _ => return None,
        };
        let Timestamp { wall_ms, counter } = row.time()?;
        let rank = Rank {
            wall_ms,
            counter,
            index: row.u32()?,
            ordinal: row.u32()?,
            call: row.array()?,
        };
        let admitted_by = PublicKey::lookup(row.take(32)?)?;
        let invite = match row.u8()? {
            0 => None,
            _ => Some(PublicKey::lookup(row.take(32)?)?),
        };
        Some(Self {
            role,
            status,
            rank,
            admitted_by,
            invite,
        })
    }
}

/// The byte for a role in rows.
pub fn role_code(role: Role) -> u8 {
    match role {
        Role::Admin => 0,
        Role::Writer => 1,
        Role::Reader => 2,
    }
}

/// The role for a byte in rows.
pub fn role_of_code(code: u8) -> Option<Role> {
    match code {
        0 => Some(Role::Admin),
        1 => Some(Role::Writer),
        2 => Some(Role::Reader),
        _ => None,
    }
}

fn status_code(status: Status) -> u8 {
    match status {
        Status::Active => 0,
        Status::Revoked => 1,
        Status::Resigned => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::lookup(&[byte; 32]).expect("32 bytes")
    }

    #[test]
    fn a_row_keeps_its_bytes() {
        let rank = Rank {
            wall_ms: 1,
            counter: 2,
            index: 3,
            ordinal: 4,
            call: [0xca; 32],
        };
        let founder = Member {
            role: Role::Admin,
            status: Status::Active,
            rank,
            admitted_by: key(0xaa),
            invite: None,
        };
        let mut golden = vec![
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4,
        ];
        golden.extend([[0xca; 32], [0xaa; 32]].concat());
        golden.push(0);
        assert_eq!(founder.encode(), golden);
        assert_eq!(Member::decode(&golden), founder);

        let invited = Member {
            role: Role::Reader,
            status: Status::Resigned,
            invite: Some(key(0xbb)),
            ..founder
        };
        golden.splice(1..3, [2, 2]);
        golden.pop();
        golden.push(1);
        golden.extend([0xbb; 32]);
        assert_eq!(invited.encode(), golden);
        assert_eq!(Member::decode(&golden), invited);
    }

    #[test]
    fn ranks_compare_by_time_then_by_place_in_the_entry() {
        let rank = |wall_ms, counter, index, ordinal, call| Rank {
            wall_ms,
            counter,
            index,
            ordinal,
            call: [call; 32],
        };
        let sorted = [
            rank(1, 9, 9, 9, 9),
            rank(2, 0, 9, 9, 9),
            rank(2, 1, 0, 9, 9),
            rank(2, 1, 1, 0, 9),
        ];
        assert!(sorted.is_sorted());
    }
}

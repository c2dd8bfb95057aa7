//! An invite: the public half of a key pair whose private half travels in a token.
//!
//! ```text
//! version 1 (1)   role 1   expires 8   uses 4   used 4   author 32   cancelled 1
//! ```

use lattice_sdk::codec::{Reader, Writer};
use lattice_sdk::state::{self, Range};

use crate::bindings::exports::lattice::system::commands::Error;
use crate::bindings::exports::lattice::system::governance::Role;
use crate::bindings::exports::lattice::system::queries;
use crate::key::{KEY_BYTES, PublicKey};
use crate::member::{Member, role_code, role_of_code};
use crate::rows;

const VERSION: u8 = 1;

/// An invite's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The role that a claim gives.
    pub role: Role,
    /// Claims at or after this time are refused: milliseconds since 1970 in UTC.
    pub expires_ms: u64,
    /// How many claims it allows.
    pub uses: u32,
    /// How many of them were made.
    pub used: u32,
    /// The admin that made it.
    pub author: PublicKey,
    /// Whether it was taken back.
    pub cancelled: bool,
}

impl Invite {
    /// The invite with this key.
    pub fn load(key: &PublicKey) -> Option<Self> {
        state::get(&rows::keyed(rows::INVITE, key)).map(|row| Self::decode(&row))
    }

    /// The invite that a command names.
    ///
    /// # Errors
    /// [`Error::NoSuchInvite`].
    pub fn named(bytes: &[u8]) -> Result<(PublicKey, Self), Error> {
        let key = PublicKey::lookup(bytes);
        let found = key.and_then(|key| Some((key, Self::load(&key)?)));
        found.ok_or_else(|| Error::NoSuchInvite(bytes.to_vec()))
    }

    /// Writes the invite's row.
    pub fn store(&self, key: &PublicKey) {
        state::put(&rows::keyed(rows::INVITE, key), &self.encode());
    }

    /// Invites as the contract has them, by key: at most `limit` after `after`.
    pub fn listing(after: Option<&[u8]>, limit: u32) -> Vec<queries::Invite> {
        let rows = state::scan(rows::page(rows::INVITE, after, limit));
        rows.map(|(key, row)| {
            let key = PublicKey::lookup(&key[1..]).expect("an invite's key ends with 32 bytes");
            Self::decode(&row).listed(&key)
        })
        .collect()
    }

    /// The invite with this key as the contract has it.
    pub fn listed(&self, key: &PublicKey) -> queries::Invite {
        queries::Invite {
            key: key.to_vec(),
            role: self.role,
            expires_ms: self.expires_ms,
            uses: self.uses,
            used: self.used,
            author: self.author.to_vec(),
            cancelled: self.cancelled,
        }
    }

    /// Notes that a call claimed the invite with this key for a device.
    pub fn note_claim(key: &PublicKey, device: &PublicKey, call: &[u8]) {
        state::put(&claim_key(key, &[device.as_bytes(), call].concat()), &[]);
    }

    /// The claims of the invite with this key: devices with the ids of the calls, by device.
    pub fn claims(key: &PublicKey) -> impl Iterator<Item = (PublicKey, Vec<u8>)> {
        let prefix = claim_key(key, &[]);
        let skipped = prefix.len();
        state::scan_keys(Range::prefix(&prefix)).map(move |key| {
            let (device, call) = key[skipped..].split_at(KEY_BYTES);
            let device = PublicKey::lookup(device).expect("a claim's key has 32 bytes of a device");
            (device, call.to_vec())
        })
    }

    /// Whether the invite is in force at this time.
    ///
    /// # Errors
    /// Why not: cancelled, expired, or made by somebody who is not an admin any more.
    pub fn check_current(&self, wall_ms: u64) -> Result<(), Error> {
        if self.cancelled {
            return Err(Error::InviteCancelled);
        }
        if wall_ms >= self.expires_ms {
            return Err(Error::InviteExpired(self.expires_ms));
        }
        if !Member::load(&self.author).is_some_and(|author| author.is_active_admin()) {
            return Err(Error::InviterLostRights(self.author.to_vec()));
        }
        Ok(())
    }

    /// Whether the invite admits one more.
    ///
    /// # Errors
    /// When all its uses were made.
    pub fn check_unspent(&self) -> Result<(), Error> {
        if self.used >= self.uses {
            return Err(Error::InviteSpent(self.uses));
        }
        Ok(())
    }

    /// The row in the state.
    pub fn encode(&self) -> Vec<u8> {
        Writer::tag(VERSION)
            .u8(role_code(self.role))
            .u64(self.expires_ms)
            .u32(self.uses)
            .u32(self.used)
            .bytes(self.author.as_bytes())
            .u8(u8::from(self.cancelled))
            .finish()
    }

    /// Reads a row that [`Invite::encode`] wrote.
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
        Some(Self {
            role: role_of_code(row.u8()?)?,
            expires_ms: row.u64()?,
            uses: row.u32()?,
            used: row.u32()?,
            author: PublicKey::lookup(row.take(32)?)?,
            cancelled: row.u8()? != 0,
        })
    }
}

fn claim_key(invite: &PublicKey, claim: &[u8]) -> Vec<u8> {
    Writer::tag(rows::CLAIM)
        .bytes(invite.as_bytes())
        .bytes(claim)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_bytes() {
        let author = PublicKey::lookup(&[0xaa; 32]).expect("32 bytes");
        let invite = Invite {
            role: Role::Writer,
            expires_ms: 258,
            uses: 3,
            used: 2,
            author,
            cancelled: true,
        };
        let mut golden = vec![1, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 2];
        golden.extend([0xaa; 32]);
        golden.push(1);
        assert_eq!(invite.encode(), golden);
        assert_eq!(Invite::decode(&golden), invite);
    }
}

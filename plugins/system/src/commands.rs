//! The changes that members make.
//!
//! `authorize` has allowed the author before one of these runs. The commands check what `authorize` cannot
//! see: the arguments, ranks, and that no earlier call of the same transaction ended the author's
//! rights.

use std::collections::BTreeMap;

use lattice_sdk::{Entry, context};

use crate::bindings::exports::lattice::system::commands::{Error, Guest, QuotaHolder};
use crate::bindings::exports::lattice::system::governance::{Kept, Role, Status};
use crate::invite::Invite;
use crate::key::PublicKey;
use crate::member::{Member, Rank};
use crate::quota::Holder;
use crate::{System, cut, rows};

impl Guest for System {
    fn invite(key: Vec<u8>, role: Role, expires_ms: u64, uses: u32) -> Result<(), Error> {
        let author = Author::current()?;
        let key = PublicKey::admissible(&key)?;
        if uses == 0 {
            return Err(Error::NoUses);
        }
        // The key of a cancelled invite stays taken, because anybody may have its private half.
        if Invite::load(&key).is_some() {
            return Err(Error::InviteExists(key.to_vec()));
        }
        let invite = Invite {
            role,
            expires_ms,
            uses,
            used: 0,
            author: author.key,
            cancelled: false,
        };
        invite.store(&key);
        Ok(())
    }

    fn cancel_invite(key: Vec<u8>) -> Result<(), Error> {
        let author = Author::current()?;
        let (key, invite) = Invite::named(&key)?;
        Invite {
            cancelled: true,
            ..invite
        }
        .store(&key);
        // A member that the author had not seen claim the invite may have been admitted by a date set back on purpose.
        // One of several claims is enough, because anybody can copy a claim into an entry of its own. As any
        // revocation, this one points only downwards in rank.
        let mut claims: BTreeMap<PublicKey, bool> = BTreeMap::new();
        for (device, call) in Invite::claims(&key) {
            *claims.entry(device).or_default() |= context::observed(&call);
        }
        let mut revoked = false;
        for (device, is_seen) in claims {
            let member = Member::load(&device).expect("a claimant is a member");
            if is_seen || !author.member.outranks(&member) {
                continue;
            }
            author.revoke(&device, member, &Kept::Seen)?;
            revoked = true;
        }
        if revoked {
            rows::renew_salt(&author.entry.id);
        }
        Ok(())
    }

    fn claim(
        invite: Vec<u8>,
        device: Vec<u8>,
        name: String,
        signature: Vec<u8>,
    ) -> Result<(), Error> {
        let author = Author::current()?;
        rows::check_name(&name)?;
        let (invite_key, invite) = Invite::named(&invite)?;
        invite.check_current(author.entry.time.wall_ms)?;
        let device = PublicKey::admissible(&device)?;
        let known = Member::load(&device);
        let again = known
            .as_ref()
            .is_some_and(|known| known.is_active() && known.invite == Some(invite_key));
        if known.is_some() && !again {
            return Err(Error::AlreadyAdmitted(device.to_vec()));
        }
        if !again {
            invite.check_unspent()?;
        }
        if !invite_key.signed_claim(&context::store(), &device, &signature) {
            return Err(Error::BadSignature);
        }
        if again {
            // Two members carried the same claim. Both entries tell of it, whichever comes first.
            rows::note_admission(&author.entry.id, &device);
            Invite::note_claim(&invite_key, &device, &author.entry.id);
            return Ok(());
        }
        let member = Member {
            role: invite.role,
            status: Status::Active,
            rank: Rank::admitted_in(&author.entry, 0),
            admitted_by: author.key,
            invite: Some(invite_key),
        };
        member.admit(&device);
        rows::note_admission(&author.entry.id, &device);
        Invite::note_claim(&invite_key, &device, &author.entry.id);
        rows::set_member_name(&device, &name);
        Invite {
            used: invite.used + 1,
            ..invite
        }
        .store(&invite_key);
        Ok(())
    }

    fn readmit(member: Vec<u8>, role: Role) -> Result<(), Error> {
        let author = Author::current()?;
        let (key, member) = author.below(&member)?;
        if member.is_active() {
            return Err(Error::NotPossible(member.status));
        }
        Member {
            role,
            status: Status::Active,
            ..member
        }
        .store(&key);
        rows::note_admission(&author.entry.id, &key);
        Ok(())
    }

    fn revoke(member: Vec<u8>, kept: Option<Kept>) -> Result<(), Error> {
        let author = Author::current()?;
        // A revoked member can be revoked again: an accomplice might have revoked it first and kept all its entries.
        let (key, member) = author.below(&member)?;
        author.revoke(&key, member, &kept.unwrap_or(Kept::Seen))?;
        rows::renew_salt(&author.entry.id);
        Ok(())
    }

    fn set_role(member: Vec<u8>, role: Role) -> Result<(), Error> {
        let author = Author::current()?;
        let (key, member) = author.below(&member)?;
        if role == Role::Admin {
            if !member.is_active() {
                return Err(Error::NotPossible(member.status));
            }
        } else {
            // A role that held from a place in the order would be escaped by an entry dated before it. The cut stands
            // whatever the member's status and role are at this place: if a resignation could keep it away, it could
            // void this very resignation, and there would be two consistent readings; and an accomplice could lower the
            // role right before, and keep what this call voids.
            cut::record(&key, &author.entry, &Kept::Seen)?;
        }
        // Also of who is no member here: what the entry admits is fixed when it is signed, where another order may
        // have been known.
        rows::note_admission(&author.entry.id, &key);
        Member { role, ..member }.store(&key);
        Ok(())
    }

    fn resign() -> Result<(), Error> {
        let Author { entry, key, member } = Author::current()?;
        Member {
            status: Status::Resigned,
            ..member
        }
        .store(&key);
        rows::renew_salt(&entry.id);
        Ok(())
    }

    fn rename(name: String) -> Result<(), Error> {
        Author::current()?;
        rows::check_name(&name)?;
        rows::set_name(&name);
        Ok(())
    }

    fn set_member_name(member: Vec<u8>, name: String) -> Result<(), Error> {
        let author = Author::current()?;
        rows::check_name(&name)?;
        let key = if member == author.key.as_bytes() {
            author.key
        } else if author.member.is_active_admin() {
            author.below(&member)?.0
        } else {
            return Err(Error::NotOutranked(member));
        };
        rows::set_member_name(&key, &name);
        Ok(())
    }

    fn set_quota(bytes: Option<u64>) -> Result<(), Error> {
        Author::current()?;
        Holder::Anyone.set_bytes(bytes);
        Ok(())
    }

    fn set_quota_of(holder: QuotaHolder, bytes: Option<u64>) -> Result<(), Error> {
        let author = Author::current()?;
        let holder = match holder {
            QuotaHolder::Role(role) => Holder::Role(role),
            QuotaHolder::Member(member) => Holder::Member(author.below(&member)?.0),
        };
        holder.set_bytes(bytes);
        Ok(())
    }

    fn add_child(store: Vec<u8>, name: String) -> Result<(), Error> {
        Author::current()?;
        rows::check_hash(&store)?;
        rows::check_name(&name)?;
        if rows::is_child(&store) {
            return Err(Error::ChildExists(store));
        }
        rows::add_child(&store, &name);
        Ok(())
    }

    fn remove_child(store: Vec<u8>) -> Result<(), Error> {
        Author::current()?;
        rows::check_hash(&store)?;
        if !rows::is_child(&store) {
            return Err(Error::NoSuchChild(store));
        }
        rows::remove_child(&store);
        Ok(())
    }
}

/// The member that makes the call, and the entry of the call.
struct Author {
    entry: Entry,
    key: PublicKey,
    member: Member,
}

impl Author {
    /// The author of the call that runs.
    ///
    /// # Errors
    /// When it is not an active member.
    fn current() -> Result<Self, Error> {
        let entry = context::current();
        let (key, member) = Member::named(&entry.author)?;
        if !member.is_active() {
            return Err(Error::NotPossible(member.status));
        }
        Ok(Self { entry, key, member })
    }

    /// Takes the rights of a member of lower rank away.
    fn revoke(&self, key: &PublicKey, member: Member, kept: &Kept) -> Result<(), Error> {
        cut::record(key, &self.entry, kept)?;
        Member {
            status: Status::Revoked,
            ..member
        }
        .store(key);
        Ok(())
    }

    /// The member with this key, which has to rank below the author.
    fn below(&self, member: &[u8]) -> Result<(PublicKey, Member), Error> {
        let (key, member) = Member::named(member)?;
        if !self.member.outranks(&member) {
            return Err(Error::NotOutranked(key.to_vec()));
        }
        Ok((key, member))
    }
}

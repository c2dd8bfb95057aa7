//! The questions that people ask.

use crate::System;
use crate::bindings::exports::lattice::system::governance::{Child, Member as ListedMember, Role};
use crate::bindings::exports::lattice::system::queries::{Guest, Invite as ListedInvite};
use crate::invite::Invite;
use crate::key::PublicKey;
use crate::member::Member;
use crate::rows;

impl Guest for System {
    fn members() -> Vec<ListedMember> {
        Member::listing()
    }

    fn invites() -> Vec<ListedInvite> {
        Invite::listing()
    }

    fn children() -> Vec<Child> {
        rows::children()
    }

    fn name() -> String {
        rows::name()
    }

    fn role_of(member: Vec<u8>) -> Option<Role> {
        let member = Member::load(&PublicKey::lookup(&member)?)?;
        member.is_active().then_some(member.role)
    }
}

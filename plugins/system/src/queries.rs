//! The questions that people ask.

use crate::System;
use crate::bindings::exports::lattice::system::governance::{
    Child, Lane, Member as ListedMember, Role,
};
use crate::bindings::exports::lattice::system::queries::{Guest, Invite as ListedInvite};
use crate::invite::Invite;
use crate::key::PublicKey;
use crate::member::Member;
use crate::{quota, rows};

/// Rows of a page when nothing is said.
const LIMIT_DEFAULT: u32 = 256;
/// The most rows of a page.
const LIMIT_MAX: u32 = 1024;

fn rows_of(limit: Option<u32>) -> u32 {
    limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
}

impl Guest for System {
    fn members(after: Option<Vec<u8>>, limit: Option<u32>) -> Vec<ListedMember> {
        Member::listing(after.as_deref(), rows_of(limit))
    }

    fn member_of(key: Vec<u8>) -> Option<ListedMember> {
        Member::listed(&key)
    }

    fn invites(after: Option<Vec<u8>>, limit: Option<u32>) -> Vec<ListedInvite> {
        Invite::listing(after.as_deref(), rows_of(limit))
    }

    fn invite_of(key: Vec<u8>) -> Option<ListedInvite> {
        let key = PublicKey::lookup(&key)?;
        Some(Invite::load(&key)?.listed(&key))
    }

    fn children(after: Option<Vec<u8>>, limit: Option<u32>) -> Vec<Child> {
        rows::children(after.as_deref(), rows_of(limit))
    }

    fn quota_of(member: Vec<u8>) -> Option<u64> {
        quota::of(PublicKey::lookup(&member).as_ref(), Lane::App)
    }

    fn name() -> String {
        rows::name()
    }

    fn role_of(member: Vec<u8>) -> Option<Role> {
        let member = Member::load(&PublicKey::lookup(&member)?)?;
        member.is_active().then_some(member.role)
    }
}

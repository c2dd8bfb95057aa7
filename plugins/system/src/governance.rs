//! The questions that the host asks.

use crate::bindings::exports::lattice::system::governance::{
    CheckpointPolicy, CheckpointRule, Child, Cut, Effect, Guest, Lane, Limits,
    Member as ListedMember, Role,
};
use crate::key::PublicKey;
use crate::member::Member;
use crate::quota::{self, Holder};
use crate::{System, cut, rows};

const COMMANDS: &str = "lattice:system/commands";

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// When checkpoints are due.
const POLICY: CheckpointPolicy = CheckpointPolicy {
    entries: 4096,
    entries_per_signer: 100,
    bytes: 64 * 1024 * 1024,
    after_ms: DAY_MS,
    apart_ms: 60_000,
    away_after_ms: Some(30 * DAY_MS),
};

impl Guest for System {
    fn authorize(author: Vec<u8>, lane: Lane, interface: String, function: String) -> bool {
        // Only the member's row is read, so that only a change of this row makes entries run again.
        let member = PublicKey::lookup(&author).and_then(|author| Member::load(&author));
        member.is_some_and(|member| {
            member.is_active() && allows(member.role, lane, &interface, &function)
        })
    }

    fn in_effect() -> Effect {
        Effect {
            limits: Limits {
                quota_bytes: Holder::Anyone.bytes(),
            },
            topic_salt: rows::salt(),
            // Bodies are in plain until encryption is built, which brings a command that changes this.
            key_number: 0,
            // No command upgrades a store.
            activated: None,
        }
    }

    fn quota_of(author: Vec<u8>, lane: Lane) -> Option<u64> {
        quota::of(PublicKey::lookup(&author).as_ref(), lane)
    }

    fn cuts(author: Vec<u8>) -> Vec<Cut> {
        PublicKey::lookup(&author)
            .map(|author| cut::of(&author))
            .unwrap_or_default()
    }

    fn admitted(call: Vec<u8>) -> Vec<Vec<u8>> {
        rows::admitted(&call)
    }

    fn member_of(key: Vec<u8>) -> Option<ListedMember> {
        Member::listed(&key)
    }

    fn members(after: Option<Vec<u8>>, limit: u32) -> Vec<ListedMember> {
        Member::listing(after.as_deref(), limit)
    }

    fn children(after: Option<Vec<u8>>, limit: u32) -> Vec<Child> {
        rows::children(after.as_deref(), limit)
    }

    fn finality() -> CheckpointRule {
        let anchor = rows::anchor().filter(|anchor| {
            let member = Member::load(anchor);
            member.is_some_and(|member| member.is_active())
        });
        CheckpointRule {
            anchor: anchor.map(|anchor| anchor.to_vec()),
            policy: POLICY,
        }
    }
}

fn allows(role: Role, lane: Lane, interface: &str, function: &str) -> bool {
    match (role, lane) {
        (Role::Admin, _) | (Role::Writer, Lane::App) => true,
        (Role::Reader, Lane::App) => false,
        // Every member's node may append a claim, and every member may leave.
        (Role::Writer, Lane::System) => {
            interface == COMMANDS && matches!(function, "claim" | "resign" | "set-member-name")
        }
        (Role::Reader, Lane::System) => {
            interface == COMMANDS && matches!(function, "claim" | "resign")
        }
    }
}

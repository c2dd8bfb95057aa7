//! The rules of membership, natively.

mod cuts;
mod invites;
mod members;
mod quotas;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use lattice_plugin_system::System;
use lattice_plugin_system::bindings::exports::lattice::store::lifecycle::Guest as _;
use lattice_plugin_system::bindings::exports::lattice::system::commands::{
    Error, Guest as _, QuotaHolder,
};
use lattice_plugin_system::bindings::exports::lattice::system::governance::{
    Guest as Governance, Kept, Lane, Member, Role, Status,
};
use lattice_plugin_system::bindings::exports::lattice::system::queries::Guest as Queries;
use lattice_plugin_system::key::{PublicKey, claim_message};
use lattice_plugin_system::quota::READER_BYTES;
use lattice_sdk::testing;

const COMMANDS: &str = "lattice:system/commands";
const LONG_AFTER: u64 = 1 << 40;

fn secret(name: &str) -> SigningKey {
    let seed: [u8; 32] = testing::key(name).try_into().expect("32 bytes");
    SigningKey::from_bytes(&seed)
}

fn public(name: &str) -> Vec<u8> {
    secret(name).verifying_key().to_bytes().to_vec()
}

fn by(author: &str) -> testing::Call {
    testing::call(public(author))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sign(invite: &str, store: &[u8], device: &[u8]) -> Vec<u8> {
    let invite = secret(invite);
    let key = |bytes: &[u8]| PublicKey::admissible(bytes).expect("an honest key");
    let message = claim_message(
        store,
        &key(&invite.verifying_key().to_bytes()),
        &key(device),
    );
    invite.sign(&message).to_bytes().to_vec()
}

/// A store with `ada` as its founder.
fn found() {
    testing::reset();
    let params = vec![("name".to_owned(), "notes".to_owned())];
    by("ada")
        .genesis()
        .attempt(|| System::init(params))
        .expect("the parameters are right");
}

fn invite(author: &str, key: &str, role: Role, uses: u32) -> Result<(), Error> {
    by(author).attempt(|| System::invite(public(key), role, LONG_AFTER, uses))
}

fn claim(carrier: &str, key: &str, device: &str) -> Result<(), Error> {
    let signature = sign(key, &testing::STORE, &public(device));
    by(carrier).attempt(|| System::claim(public(key), public(device), device.to_owned(), signature))
}

/// Admits members by invites of `ada`, in order.
fn admit(members: &[(&str, Role)]) {
    for (name, role) in members {
        let key = format!("invite of {name}");
        invite("ada", &key, *role, 1).expect("ada is an admin");
        claim("ada", &key, name).expect("the invite is fresh");
    }
}

fn member(name: &str) -> Member {
    testing::query(|| <System as Queries>::member_of(public(name))).expect("a member")
}

/// Everyone who ever was a member, by rank.
fn members() -> Vec<Member> {
    testing::query(|| <System as Queries>::members(None, None))
}

/// How many members rank above one.
fn rank(name: &str) -> usize {
    let at = members()
        .iter()
        .position(|member| member.key == public(name));
    at.expect("a member")
}

fn revoke(author: &str, target: &str, kept: Vec<Vec<u8>>) -> Result<(), Error> {
    by(author).attempt(|| System::revoke(public(target), Some(Kept::Ids(kept))))
}

fn may(author: &str, lane: Lane, function: &str) -> bool {
    let interface = if lane == Lane::System {
        COMMANDS
    } else {
        "lattice:kv/commands"
    };
    testing::query(|| {
        System::authorize(
            public(author),
            lane,
            interface.to_owned(),
            function.to_owned(),
        )
    })
}

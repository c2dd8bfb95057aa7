//! The first entry: names the store and its first members.
//!
//! Parameters: `name`; `quota-bytes`, a decimal number; and for a store with a parent `member`, once for each of
//! the parent's members, in the order of their ranks, as `<key in hexadecimal digits>:<role>:<name>`. Without
//! members the author is the founder, an admin. With members the author has the role that the list gives it, so
//! creating a child promotes nobody.

use lattice_sdk::context;

use crate::System;
use crate::bindings::exports::lattice::store::lifecycle::Guest;
use crate::bindings::exports::lattice::system::governance::{Role, Status};
use crate::key::{KEY_BYTES, PublicKey};
use crate::member::{Member, Rank};
use crate::quota::Holder;
use crate::rows;

impl Guest for System {
    fn init(params: Vec<(String, String)>) -> Result<(), String> {
        let entry = context::current();
        let founder = admissible(&entry.author)?;
        let mut members: Vec<FirstMember> = Vec::new();
        let mut named = false;
        for (name, value) in &params {
            match name.as_str() {
                "name" if named => return Err("`name` is given twice".to_owned()),
                "name" => {
                    check_name(value)?;
                    rows::set_name(value);
                    named = true;
                }
                "quota-bytes" => {
                    let bytes = value
                        .parse()
                        .map_err(|_| format!("`quota-bytes` is not a number: `{value}`"))?;
                    Holder::Anyone.set_bytes(Some(bytes));
                }
                "member" => members.push(FirstMember::parse(value)?),
                other => {
                    return Err(format!(
                        "there is no parameter `{other}`; there are `name`, `quota-bytes` and `member`"
                    ));
                }
            }
        }
        if members.is_empty() {
            members.push(FirstMember {
                key: founder,
                role: Role::Admin,
                name: String::new(),
            });
        }
        if !members.iter().any(|member| member.key == founder) {
            return Err("the members do not name the store's creator".to_owned());
        }
        for (member, ordinal) in members.iter().zip(0..) {
            if Member::load(&member.key).is_some() {
                return Err(format!("member {ordinal} is named before"));
            }
            let row = Member {
                role: member.role,
                status: Status::Active,
                rank: Rank::admitted_in(&entry, ordinal),
                admitted_by: founder,
                invite: None,
            };
            row.admit(&member.key);
            if !member.name.is_empty() {
                rows::set_member_name(&member.key, &member.name);
            }
        }
        rows::set_anchor(&founder);
        rows::renew_salt(&entry.id);
        Ok(())
    }

    fn migrate(from: String, _cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, String> {
        Err(format!(
            "version {from} wrote no state that this one could take over"
        ))
    }
}

/// A member that the parameters name.
struct FirstMember {
    key: PublicKey,
    role: Role,
    name: String,
}

impl FirstMember {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(key), Some(role), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("`member` is `<key>:<role>:<name>`, not `{text}`"));
        };
        let key = hex(key)
            .ok_or_else(|| format!("not a key of {KEY_BYTES} bytes in hexadecimal: `{key}`"))?;
        let role = match role {
            "admin" => Role::Admin,
            "writer" => Role::Writer,
            "reader" => Role::Reader,
            _ => return Err(format!("a role is admin, writer or reader, not `{role}`")),
        };
        check_name(name)?;
        Ok(Self {
            key: admissible(&key)?,
            role,
            name: name.to_owned(),
        })
    }
}

fn admissible(key: &[u8]) -> Result<PublicKey, String> {
    PublicKey::admissible(key).map_err(|_| format!("not a key that can be admitted: {key:02x?}"))
}

fn check_name(name: &str) -> Result<(), String> {
    let (len, max) = (name.len(), rows::NAME_BYTES_MAX);
    if len > max {
        Err(format!("a name of {len} bytes exceeds {max}"))
    } else {
        Ok(())
    }
}

fn hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

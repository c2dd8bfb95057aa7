//! The small governance of the model engine.
//!
//! Rows: `m` device → role, status, rank (44 bytes); `r` rank → device; `g` call → devices that it admitted;
//! `x` device call → what is kept: nothing for what was seen, else a byte and ids; `h` device where the question for
//! cuts traps; `q` role or device → quota, `q` alone for all others; `c` child; `s` → salt of the gossip topic.

use lattice_format::{Call, CallId, DeviceKey, Genesis, IntentionId, Lane, Param, StoreId};
use lattice_kernel::TrapKind;
use lattice_kernel::run::engine::{
    Answer, Child, Cut, InEffect, Kept, Member, MemberStatus, Question, Role,
};
use lattice_kernel::run::{Run, RunFault};

use super::{GOVERNANCE_COMMANDS, Stop, genesis};

/// The quota of a reader, in bytes, unless another one is set. Whoever is no active member has the quota of readers.
pub const READER_QUOTA: u64 = 64 * 1024;

/// What is kept when ids follow; without it what was seen is.
const KEEPS_IDS: u8 = 1;

/// A call that admits a device, or admits it again.
pub fn admit(device: DeviceKey, role: Role) -> Call {
    let mut args = device.0.to_vec();
    args.push(role as u8);
    governance_call("admit", args)
}

/// A call that revokes a device but for the kept intentions and their `prev`-ancestors.
pub fn revoke(device: DeviceKey, kept: &[IntentionId]) -> Call {
    let mut args = [&device.0[..], &[KEEPS_IDS]].concat();
    args.extend(kept.iter().flat_map(|id| id.0));
    governance_call("revoke", args)
}

/// A call that revokes a device but for what the caller has seen of it.
pub fn revoke_unseen(device: DeviceKey) -> Call {
    governance_call("revoke", device.0.to_vec())
}

/// A call after which the question for the cuts of a device traps, as it does in a component that has to list more
/// than it can.
pub fn trap_at_cuts(device: DeviceKey) -> Call {
    governance_call("trap-at-cuts", device.0.to_vec())
}

/// A call that gives a device another role. Any but admin voids what the caller has not seen of it.
pub fn set_role(device: DeviceKey, role: Role) -> Call {
    governance_call("set-role", [&device.0[..], &[role as u8]].concat())
}

/// A call by which a device gives up its own rights.
pub fn resign() -> Call {
    governance_call("resign", Vec::new())
}

/// A call that lists a store as a child.
pub fn add_child(child: StoreId) -> Call {
    governance_call("add-child", child.0.to_vec())
}

/// A call that sets the quota in bytes of every author who has no other one, or with `None` takes it away.
pub fn set_quota(bytes: Option<u64>) -> Call {
    let args = bytes.map_or(Vec::new(), |bytes| bytes.to_be_bytes().to_vec());
    governance_call("quota", args)
}

/// A call that sets the quota of all members of a role in bytes, or with `None` takes it away.
pub fn set_quota_of_role(role: Role, bytes: Option<u64>) -> Call {
    set_quota_of(&[role as u8], bytes)
}

/// A call that sets the quota of one member in bytes, or with `None` takes it away.
pub fn set_quota_of_member(device: DeviceKey, bytes: Option<u64>) -> Call {
    set_quota_of(&device.0, bytes)
}

fn set_quota_of(whom: &[u8], bytes: Option<u64>) -> Call {
    let bytes = bytes.map_or(Vec::new(), |bytes| bytes.to_be_bytes().to_vec());
    let args = [&[whom.len() as u8], whom, &bytes].concat();
    governance_call("quota-of", args)
}

/// A genesis of the model components whose first members are these, in the order of their ranks: its founder is
/// what the list says.
pub fn genesis_with(members: &[(DeviceKey, Role)]) -> Genesis {
    let member = |(device, role): &(DeviceKey, Role)| Param {
        name: "member".into(),
        value: format!("{device}:{}", *role as u8),
    };
    Genesis {
        system_params: members.iter().map(member).collect(),
        ..genesis()
    }
}

fn governance_call(function: &str, args: Vec<u8>) -> Call {
    Call {
        interface: GOVERNANCE_COMMANDS.into(),
        function: function.into(),
        args,
    }
}

fn member_key(device: &DeviceKey) -> Vec<u8> {
    let mut key = vec![b'm'];
    key.extend_from_slice(&device.0);
    key
}

fn rank(run: &Run) -> Result<Vec<u8>, RunFault> {
    let current = run.current()?;
    let mut out = current.time.wall_ms.to_be_bytes().to_vec();
    out.extend_from_slice(&current.time.counter.to_be_bytes());
    out.extend_from_slice(&current.id.0);
    Ok(out)
}

pub(super) fn found_governance(run: &mut Run, args: &[u8]) -> Result<(), Stop> {
    let mut members = first_members(args).ok_or(Stop::Refuse(4))?;
    if members.is_empty() {
        members.push((run.current()?.author, Role::Admin as u8));
    }
    for (ordinal, (device, role)) in (0u32..).zip(members) {
        // Below every rank that an admission gives.
        let rank = [&[0; 40][..], &ordinal.to_be_bytes()].concat();
        let row = [&[role, 0], &rank[..]].concat();
        run.put(&member_key(&device), &row)?;
        run.put(&[b"r", &rank[..]].concat(), &device.0)?;
    }
    Ok(())
}

/// The members that the parameters of a genesis name.
fn first_members(args: &[u8]) -> Option<Vec<(DeviceKey, u8)>> {
    let mut decoder = minicbor::Decoder::new(args);
    decoder.array().ok()?;
    let count = decoder.array().ok()??;
    let mut members = Vec::new();
    for _ in 0..count {
        decoder.array().ok()?;
        let (name, value) = (decoder.str().ok()?, decoder.str().ok()?);
        let (device, role) = value.split_once(':').filter(|_| name == "member")?;
        members.push((device.parse().ok()?, role.parse().ok()?));
    }
    Some(members)
}

/// Whoever left knows the old salt.
fn renew_salt(run: &mut Run) -> Result<(), RunFault> {
    let call = run.current()?.id;
    run.put(b"s", &call.0)
}

pub(super) fn govern(run: &mut Run, function: &str, args: &[u8]) -> Result<(), Stop> {
    let author = run.current()?.author;
    match function {
        "resign" => {
            if let Some(row) = run.get(&member_key(&author))? {
                let mut row = row.to_vec();
                row[1] = 2;
                run.put(&member_key(&author), &row)?;
                renew_salt(run)?;
            }
            Ok(())
        }
        "add-child" => Ok(run.put(&[b"c", args].concat(), b"")?),
        "quota" if args.is_empty() => Ok(run.delete(b"q")?),
        "quota" => Ok(run.put(b"q", args)?),
        "quota-of" => {
            let of = args.split_first();
            let of = of.and_then(|(len, rest)| rest.split_at_checked(usize::from(*len)));
            let (whom, bytes) = of.ok_or(Stop::Refuse(1))?;
            let key = [b"q", whom].concat();
            match bytes.is_empty() {
                true => Ok(run.delete(&key)?),
                false => Ok(run.put(&key, bytes)?),
            }
        }
        "admit" => {
            let Some((device, [role])) = args.split_first_chunk::<32>() else {
                return Err(Stop::Refuse(1));
            };
            let key = member_key(&DeviceKey(*device));
            let own = run.get(&member_key(&author))?;
            let row = match run.get(&key)? {
                // As a revocation, it points only downwards in rank: else somebody could revoke whom it owes the
                // right to revoke, and no reading would stand.
                Some(row) if own.is_none_or(|own| own[2..] >= row[2..]) => {
                    return Err(Stop::Refuse(3));
                }
                Some(row) => [&[*role, 0], &row[2..]].concat(),
                None => [&[*role, 0][..], &rank(run)?].concat(),
            };
            run.put(&key, &row)?;
            run.put(&[b"r", &row[2..]].concat(), device)?;
            note_admission(run, device)
        }
        "set-role" => {
            let Some((device, [to])) = args.split_first_chunk::<32>() else {
                return Err(Stop::Refuse(1));
            };
            let target = member_key(&DeviceKey(*device));
            let (Some(own), Some(row)) = (run.get(&member_key(&author))?, run.get(&target)?) else {
                return Err(Stop::Refuse(2));
            };
            if own[2..] >= row[2..] {
                return Err(Stop::Refuse(3));
            }
            if *to != Role::Admin as u8 {
                // The cut stands whatever status and role are here: else it could void the resignation that keeps it
                // away, and an accomplice could lower the role right before.
                run.put(&cut_key(run, device)?, b"")?;
            } else if row[1] != 0 {
                return Err(Stop::Refuse(4));
            }
            note_admission(run, device)?;
            Ok(run.put(&target, &[&[*to], &row[1..]].concat())?)
        }
        "revoke" => {
            let Some((device, kept)) = args.split_first_chunk::<32>() else {
                return Err(Stop::Refuse(1));
            };
            let target = member_key(&DeviceKey(*device));
            let (Some(own), Some(row)) = (run.get(&member_key(&author))?, run.get(&target)?) else {
                return Err(Stop::Refuse(2));
            };
            // Voids point only downwards in rank.
            if own[2..] >= row[2..] {
                return Err(Stop::Refuse(3));
            }
            let mut revoked = row.to_vec();
            revoked[1] = 1;
            run.put(&target, &revoked)?;
            renew_salt(run)?;
            Ok(run.put(&cut_key(run, device)?, kept)?)
        }
        "trap-at-cuts" => {
            let device = DeviceKey::from_slice(args).ok_or(Stop::Refuse(1))?;
            let own = run.get(&member_key(&author))?;
            let (Some(own), Some(row)) = (own, run.get(&member_key(&device))?) else {
                return Err(Stop::Refuse(2));
            };
            if own[2..] >= row[2..] {
                return Err(Stop::Refuse(3));
            }
            Ok(run.put(&[b"h", args].concat(), b"")?)
        }
        _ => Err(Stop::Refuse(0)),
    }
}

fn cut_key(run: &Run, device: &[u8; 32]) -> Result<Vec<u8>, RunFault> {
    Ok([&b"x"[..], device, &run.current()?.id.0].concat())
}

fn note_admission(run: &mut Run, device: &[u8; 32]) -> Result<(), Stop> {
    let key = [&b"g"[..], &run.current()?.id.0].concat();
    let before = run
        .get(&key)?
        .map_or_else(Vec::new, |devices| devices.to_vec());
    Ok(run.put(&key, &[&before[..], device].concat())?)
}

fn role(byte: u8) -> Role {
    match byte {
        0 => Role::Admin,
        1 => Role::Writer,
        _ => Role::Reader,
    }
}

pub(super) fn ask(run: &mut Run, question: &Question) -> Result<Answer, RunFault> {
    Ok(match question {
        Question::Authorize {
            author,
            lane,
            function,
            ..
        } => {
            let row = run.get(&member_key(author))?;
            Answer::Authorize(match row {
                Some(row) if row[1] == 0 => match (role(row[0]), lane) {
                    (Role::Admin, _) | (Role::Writer, Lane::App) => true,
                    _ => function == "resign",
                },
                _ => false,
            })
        }
        Question::Quota { author, lane } => Answer::Quota(quota(run, author, *lane)?),
        Question::InEffect => Answer::InEffect(InEffect {
            topic_salt: run.get(b"s")?.map_or_else(Vec::new, |salt| salt.to_vec()),
            ..InEffect::default()
        }),
        Question::Cuts(author) => {
            if run.get(&[b"h", &author.0[..]].concat())?.is_some() {
                return Err(RunFault::Trap(TrapKind::Limit));
            }
            let mut start = vec![b'x'];
            start.extend_from_slice(&author.0);
            let end = lattice_kernel::storage::rows::prefix_end(&start).unwrap_or_default();
            let page = run.scan(&start, Some(&end), u32::MAX, false)?;
            Answer::Cuts(
                page.rows
                    .into_iter()
                    .filter_map(|(key, kept)| {
                        let kept = match kept.split_first() {
                            None => Kept::Seen,
                            Some((_, ids)) => {
                                let (ids, _) = ids.as_chunks::<32>();
                                Kept::Ids(ids.iter().map(|id| IntentionId(*id)).collect())
                            }
                        };
                        let revocation = CallId::from_slice(&key[33..])?;
                        Some(Cut { revocation, kept })
                    })
                    .collect(),
            )
        }
        Question::Admitted(call) => {
            let devices = run.get(&[&b"g"[..], &call.0].concat())?;
            let devices = devices.as_deref().unwrap_or_default();
            let (devices, _) = devices.as_chunks::<32>();
            Answer::Admitted(devices.iter().map(|device| DeviceKey(*device)).collect())
        }
        Question::Member(device) => Answer::Member(member(run, device)?.map(Box::new)),
        Question::Members { after, limit } => {
            let rows = run.scan(
                &page_start(b'r', after.as_deref()),
                Some(b"s"),
                *limit,
                false,
            )?;
            let mut members = Vec::new();
            for (_, device) in rows.rows {
                if let Some(device) = DeviceKey::from_slice(&device) {
                    members.extend(member(run, &device)?);
                }
            }
            Answer::Members(members)
        }
        Question::Children { after, limit } => {
            let after = after.as_ref().map(|store| &store.0[..]);
            let start = page_start(b'c', after);
            let rows = run.scan(&start, Some(b"d"), *limit, false)?.rows;
            let child = |(key, _): (Vec<u8>, _)| {
                Some(Child {
                    store: StoreId::from_slice(&key[1..])?,
                    name: String::new(),
                })
            };
            Answer::Children(rows.into_iter().filter_map(child).collect())
        }
    })
}

fn quota(run: &mut Run, author: &DeviceKey, lane: Lane) -> Result<Option<u64>, RunFault> {
    let row = run.get(&member_key(author))?;
    let active = row.filter(|row| row[1] == 0);
    let role = active.as_ref().map_or(Role::Reader, |row| role(row[0]));
    // An admin at its bound must be able to raise it.
    if (role, lane) == (Role::Admin, Lane::System) {
        return Ok(None);
    }
    let mut of = |whom: &[u8]| -> Result<Option<u64>, RunFault> {
        let row = run.get(&[b"q", whom].concat())?;
        Ok(row.and_then(|row| Some(u64::from_be_bytes((*row).try_into().ok()?))))
    };
    let own = active.is_some().then_some(&author.0[..]);
    for whom in own.into_iter().chain([&[role as u8][..]]) {
        if let Some(bytes) = of(whom)? {
            return Ok(Some(bytes));
        }
    }
    match role {
        Role::Reader => Ok(Some(READER_QUOTA)),
        _ => of(b""),
    }
}

fn page_start(kind: u8, after: Option<&[u8]>) -> Vec<u8> {
    match after {
        None => vec![kind],
        Some(after) => [&[kind], after, &[0]].concat(),
    }
}

fn member(run: &mut Run, device: &DeviceKey) -> Result<Option<Member>, RunFault> {
    let row = run.get(&member_key(device))?;
    Ok(row.map(|row| Member {
        device: *device,
        name: String::new(),
        role: role(row[0]),
        rank: row[2..].to_vec(),
        status: match row[1] {
            0 => MemberStatus::Active,
            1 => MemberStatus::Revoked,
            _ => MemberStatus::Resigned,
        },
    }))
}

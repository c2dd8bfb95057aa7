//! The fixed questions that the host asks a governance component, statically typed.

use lattice_format::{CallId, DeviceKey, IntentionId, Lane, Limits, StoreId};
use lattice_kernel::outcome::TrapKind;
use lattice_kernel::run::Run;
use lattice_kernel::run::engine::{
    Answer, AskError, Child, Cut, InEffect, Kept, Member, MemberStatus, Question, Role,
};
use wasmtime::Store;

use crate::component::Prepared;
use crate::host::Data;
use crate::instance::{Failure, classify, give_back, start};
use crate::profile;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated from the contract")]
    wasmtime::component::bindgen!({
        path: ["../../wit", "../../wit/system"],
        inline: "
            package lattice:host;
            world governance {
                export lattice:system/governance@0.2.0;
            }
        ",
        world: "lattice:host/governance",
    });
}

use bindings::exports::lattice::system::governance as wit;

/// Where a component has its answers.
pub(crate) type Indices = bindings::GovernanceIndices;

/// The most bytes of a rank, by the contract.
const RANK_BYTES_MAX: usize = 96;

/// Puts one question to `prepared`, in an instance of its own.
pub(crate) fn ask(
    prepared: &Prepared,
    indices: &Indices,
    limits: &Limits,
    run: Run,
    question: &Question,
) -> (Run, Result<Answer, AskError>) {
    if let Err(fault) = profile::check(limits) {
        return (run, Err(fault.into()));
    }
    let (mut store, instance) =
        match start(prepared, limits, Box::new(Data::new(Some(run), limits))) {
            Ok(started) => started,
            Err((data, failure)) => {
                let run = data.run.expect("it goes back as it came");
                return (run, Err(failure.into()));
            }
        };
    let budget = limits.fuel;
    store.data_mut().begin(budget);
    // See the comment in `instance.rs`: one more, to tell "exactly" from "beyond".
    let given = budget.saturating_add(1);
    let running = prepared.pace.run(&mut store);
    let answer = store
        .set_fuel(given)
        .and_then(|()| indices.load(&mut *store, &instance))
        .and_then(|component| put(component.lattice_system_governance(), &mut store, question));
    drop(running);
    let left = store.get_fuel().expect("fuel is switched on");
    let spent = (given - left).saturating_add(store.data().meter.spent());
    let answer = match answer.map_err(|error| classify(&error)) {
        Ok(_) | Err(Failure::Trap(_)) if spent > budget => Err(Failure::Trap(TrapKind::Fuel)),
        Ok(Some(answer)) => Ok(answer),
        // A hash or key of another length, where the contract says 32 bytes.
        Ok(None) => Err(Failure::Trap(TrapKind::Misuse)),
        Err(failure) => Err(failure),
    };
    (give_back(prepared, store), answer.map_err(AskError::from))
}

impl From<Failure> for AskError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Trap(kind) => AskError::Trapped(kind),
            Failure::Host(fault) => AskError::Host(fault),
        }
    }
}

fn put(
    guest: &wit::Guest,
    store: &mut Store<Data>,
    question: &Question,
) -> wasmtime::Result<Option<Answer>> {
    Ok(match question {
        Question::Authorize {
            author,
            lane,
            interface,
            function,
        } => {
            let author = author.0.to_vec();
            let lane = lane_of(*lane);
            let allowed = guest.call_authorize(store, &author, lane, interface, function)?;
            Some(Answer::Authorize(allowed))
        }
        Question::Quota { author, lane } => {
            let author = author.0.to_vec();
            let quota = guest.call_quota_of(store, &author, lane_of(*lane))?;
            Some(Answer::Quota(quota))
        }
        Question::InEffect => {
            let effect = guest.call_in_effect(store)?;
            Some(Answer::InEffect(InEffect {
                topic_salt: effect.topic_salt,
                key_number: effect.key_number,
            }))
        }
        Question::Cuts(author) => {
            let cuts = guest.call_cuts(store, &author.0.to_vec())?;
            all(cuts, cut).map(Answer::Cuts)
        }
        Question::Admitted(call) => {
            let devices = guest.call_admitted(store, &call.0.to_vec())?;
            all(devices, |key| DeviceKey::from_slice(&key)).map(Answer::Admitted)
        }
        Question::Member(device) => match guest.call_member_of(store, &device.0.to_vec())? {
            None => Some(Answer::Member(None)),
            // An answer about somebody else is none.
            Some(found) => member(found)
                .filter(|member| member.device == *device)
                .map(|member| Answer::Member(Some(Box::new(member)))),
        },
        Question::Members { after, limit } => {
            let members = guest.call_members(store, after.as_ref(), *limit)?;
            all(members, member).map(Answer::Members)
        }
        Question::Children { after, limit } => {
            let after = after.map(|store| store.0.to_vec());
            let children = guest.call_children(store, after.as_ref(), *limit)?;
            all(children, child).map(Answer::Children)
        }
    })
}

fn lane_of(lane: Lane) -> wit::Lane {
    match lane {
        Lane::System => wit::Lane::System,
        Lane::App => wit::Lane::App,
    }
}

fn all<T, U>(items: Vec<T>, convert: fn(T) -> Option<U>) -> Option<Vec<U>> {
    items.into_iter().map(convert).collect()
}

fn cut(cut: wit::Cut) -> Option<Cut> {
    Some(Cut {
        revocation: CallId::from_slice(&cut.revocation)?,
        kept: match cut.kept {
            wit::Kept::Seen => Kept::Seen,
            wit::Kept::Ids(ids) => Kept::Ids(all(ids, |id| IntentionId::from_slice(&id))?),
        },
    })
}

fn member(member: wit::Member) -> Option<Member> {
    Some(Member {
        device: DeviceKey::from_slice(&member.key)?,
        name: member.name,
        role: match member.role {
            wit::Role::Admin => Role::Admin,
            wit::Role::Writer => Role::Writer,
            wit::Role::Reader => Role::Reader,
        },
        rank: Some(member.rank).filter(|rank| rank.len() <= RANK_BYTES_MAX)?,
        status: match member.status {
            wit::Status::Active => MemberStatus::Active,
            wit::Status::Revoked => MemberStatus::Revoked,
            wit::Status::Resigned => MemberStatus::Resigned,
        },
    })
}

fn child(child: wit::Child) -> Option<Child> {
    Some(Child {
        store: StoreId::from_slice(&child.store)?,
        name: child.name,
    })
}

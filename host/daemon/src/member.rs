//! Members: invites, roles and revocations, as calls of the store's governance component.
//!
//! Every write goes the way of `lattice call`. The code below encodes arguments for the signatures that `wit/system`
//! fixes, and checks them against the functions that the component exports. So any governance component with these
//! functions can be used.

use std::sync::Arc;

use lattice_format::{Call, DeviceKey, Lane, StoreId};
use lattice_kernel::Outcome;
use lattice_kernel::run::engine::{Answer, AskError, Member, MemberStatus, Question, Role};
use lattice_net::{Governance, InviteKey, PeerAddr, Token};
use lattice_runtime::values::{Case, Type, Value, Variant, cbor};

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::outcome::{self, Forms};
use crate::api::page::Page;
use crate::limits::{INVITE_MS_DEFAULT, INVITE_MS_MAX, INVITE_USES_MAX};
use crate::node::clock;
use crate::node::lookup;
use crate::node::lookup::{Found, check_name, find_member};
use crate::node::{Node, Slot};
use crate::store::OpenStore;
use crate::store::call;
use crate::store::writer::Done;

/// The interface of the commands of governance.
pub(crate) const COMMANDS: &str = "lattice:system/commands";

/// The members of a store as of now. Opens the store, which without a daemon nobody has done before.
///
/// # Errors
/// When the store cannot be opened, or governance could not be asked yet.
pub(crate) async fn governance(node: &Node, slot: &Arc<Slot>) -> Result<Arc<Governance>> {
    node.store(slot).await?;
    slot.governance().ok_or_else(|| {
        Failure::not_ready("the store's governance cannot be asked yet")
            .hint("`lattice store status` says what it waits for")
    })
}

fn key(key: &DeviceKey) -> Value {
    Value::Bytes(key.0.to_vec())
}

/// A call of a command of governance, after it ran.
struct Governed {
    done: Done,
    found: Found,
}

impl Governed {
    /// The message for a request whose answer has the outcome.
    fn shown(&self, node: &Node, slot: &Slot) -> api::CallResponse {
        let function = self.found.function();
        let forms = Forms::from_request(&[]);
        call::call_response(node, slot, &self.done, &[Some(function)], forms)
    }

    /// Returns an outcome other than success as an error, for requests whose answer has no outcome.
    fn succeeded(self, node: &Node, slot: &Slot) -> Result<Done> {
        let function = self.found.function();
        let detail = call::call_response(node, slot, &self.done, &[Some(function)], Forms::TEXT);
        let shown = detail.outcome.unwrap_or_default();
        match &self.done.outcome {
            Outcome::Ok(_) => Ok(self.done),
            Outcome::Unauthorized { .. } => Err(Failure::unauthorized(format!(
                "{} is not allowed: {}",
                function.name, shown.detail
            ))
            .hint(shown.remedy)),
            Outcome::Refused { .. } => Err(Failure::refused(format!(
                "{} refused: {}",
                function.name,
                shown
                    .error
                    .map_or("it gives no reason".into(), |error| error.text)
            ))
            .hint("nothing was written")),
            Outcome::Trapped { kind, .. } => Err(Failure::refused(format!(
                "{} trapped ({kind})",
                function.name
            ))
            .hint("nothing was written")),
        }
    }
}

async fn govern(
    node: &Node,
    slot: &Arc<Slot>,
    store: &OpenStore,
    function: &str,
    arguments: &[(Type, Value)],
) -> Result<Governed> {
    let code = call::code(node, slot, &store.snapshot())?;
    if code.system.function(COMMANDS, function).is_none() {
        return Err(Failure::usage(format!(
            "the governance of this store has no command `{function}`"
        ))
        .hint(format!(
            "`lattice plugin inspect {}` shows what it has",
            lookup::short(&code.system.component.0)
        )));
    }
    let found = Found {
        lane: Lane::System,
        schema: code.system.clone(),
        interface: COMMANDS.into(),
        name: function.into(),
    };
    let (types, values): (Vec<Type>, Vec<Value>) = arguments.iter().cloned().unzip();
    let args = cbor::encode_all(types.iter(), &values);
    if let Err(error) = cbor::decode_all(found.function().param_types(), &args) {
        return Err(Failure::usage(format!("{function}: {error}"))
            .hint(format!("the function is {}", found.function())));
    }
    let call = Call {
        interface: COMMANDS.into(),
        function: function.into(),
        args,
    };
    let done = call::commit(slot, store, Lane::System, vec![call], false).await?;
    Ok(Governed { done, found })
}

/// What helps a device to a right that it lacks in a store.
pub(crate) fn remedy(
    governance: Option<&Governance>,
    store: &StoreId,
    device: &DeviceKey,
) -> String {
    let member = governance.and_then(|governance| governance.member(device));
    let (store, device) = (lookup::short(&store.0), lookup::short(&device.0));
    let role = match member {
        None => return "join the store with an invite of an admin".into(),
        Some(member) if member.status != MemberStatus::Active => {
            return format!(
                "an admin of the store admits it again with `lattice store readmit {store} {device}`"
            );
        }
        Some(member) if member.role == Role::Reader => Role::Writer,
        Some(_) => Role::Admin,
    };
    format!(
        "an admin of the store can give it another role: `lattice store role {store} {device} {}`",
        role.name()
    )
}

/// Records a store in its parent as a child.
///
/// # Errors
/// When the parent's governance does not allow it.
pub(crate) async fn add_child(
    node: &Node,
    parent: &Arc<Slot>,
    store: &OpenStore,
    child: &Slot,
) -> Result<()> {
    let arguments = [
        (Type::Bytes, Value::Bytes(child.id.0.to_vec())),
        (Type::String, Value::String(child.name())),
    ];
    let made = govern(node, parent, store, "add-child", &arguments).await?;
    made.succeeded(node, parent)?;
    Ok(())
}

/// Calls governance's `claim`, which admits a device by an invite. Returns the outcome, and the text of a refusal.
///
/// # Errors
/// When the call could not run. Whether the device was admitted is told by the outcome.
pub(crate) async fn claim(
    node: &Node,
    slot: &Arc<Slot>,
    store: &OpenStore,
    claim: &lattice_net::Claim,
) -> Result<(Outcome, String)> {
    let arguments = [
        (Type::Bytes, key(&claim.invite)),
        (Type::Bytes, key(&claim.device)),
        (Type::String, Value::String(claim.name.clone())),
        (Type::Bytes, Value::Bytes(claim.signature.0.to_vec())),
    ];
    let made = govern(node, slot, store, "claim", &arguments).await?;
    let outcome = made.done.outcome.clone();
    let shown = outcome::show(&outcome, &[Some(made.found.function())], Forms::TEXT);
    let text = shown.error.map_or_else(String::new, |error| error.text);
    Ok((outcome, text))
}

fn checked_role(slot: &Slot, node: &Node, store: &OpenStore, role: &str) -> Result<()> {
    let code = call::code(node, slot, &store.snapshot())?;
    let roles = code
        .system
        .function(COMMANDS, "set-role")
        .and_then(|function| function.params.iter().find(|param| param.name == "role"))
        .and_then(|param| match &param.ty {
            Type::Enum(roles) => Some(roles.cases.clone()),
            _ => None,
        });
    match roles {
        Some(roles) if !roles.iter().any(|known| known == role) => {
            Err(Failure::usage(format!("there is no role {role:?}")).candidates(roles))
        }
        _ => Ok(()),
    }
}

/// The role of this node in a store; `None` when it is no active member.
pub(crate) fn own_role(node: &Node, slot: &Slot) -> Option<&'static str> {
    let governance = slot.governance()?;
    let own = governance.member(&node.device())?;
    (own.status == MemberStatus::Active).then(|| own.role.name())
}

/// Creates an invite, and the token for it.
pub(crate) async fn invite(
    node: &Node,
    request: api::InviteRequest,
) -> Result<api::InviteResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = call::running(node, &slot).await?;
    let role = match request.role.as_str() {
        "" => "writer".to_owned(),
        role => role.to_owned(),
    };
    checked_role(&slot, node, &store, &role)?;
    let life_ms = match request.expires_in_ms {
        0 => INVITE_MS_DEFAULT,
        ms => ms,
    };
    if life_ms > INVITE_MS_MAX {
        return Err(Failure::usage(format!(
            "an invite of {life_ms} ms lives longer than {INVITE_MS_MAX} ms"
        ))
        .hint("366 days are the most"));
    }
    let uses = request.uses.max(1);
    if uses > INVITE_USES_MAX {
        return Err(
            Failure::usage(format!("{uses} uses are more than {INVITE_USES_MAX}"))
                .hint("make several invites"),
        );
    }
    // Expiry is judged at the place of the claim in the order, which may be ahead of the clock.
    let now_ms = node.verdict_on(&store.snapshot()).wall_ms;
    let counts_from = store.with(move |store| store.next_time(now_ms)).await??;
    let expires_ms = counts_from.wall_ms.saturating_add(life_ms);
    let invite = InviteKey::from_seed(clock::seed());
    let arguments = [
        (Type::Bytes, key(&invite.public())),
        (Type::String, Value::String(role.clone())),
        (Type::U64, Value::U64(expires_ms)),
        (Type::U32, Value::U32(uses)),
    ];
    let made = govern(node, &slot, &store, "invite", &arguments).await?;
    made.succeeded(node, &slot)?;
    let addresses = node.addresses();
    let token = Token {
        store: slot.id,
        invite,
        peers: match node.net() {
            Some(net) => net.invitation_peers(&slot.id),
            None => vec![PeerAddr {
                device: node.device(),
                addresses: Vec::new(),
                relay: None,
            }],
        },
        store_name: slot.name(),
        role: role.clone(),
        expires_ms,
    };
    Ok(api::InviteResponse {
        token: token.to_text(),
        expires_ms,
        role,
        uses,
        addresses: addresses.iter().map(ToString::to_string).collect(),
    })
}

/// Revokes a member. The member's entries that this node has are kept.
pub(crate) async fn revoke(node: &Node, request: api::RevokeRequest) -> Result<api::CallResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = call::running(node, &slot).await?;
    let member = find_member(&*governance(node, &slot).await?, &request.member)?;
    // What is seen here is kept, when the call says nothing else.
    let nothing = Type::option(Type::Bytes);
    let arguments = [(Type::Bytes, key(&member)), (nothing, Value::Option(None))];
    let made = govern(node, &slot, &store, "revoke", &arguments).await?;
    Ok(made.shown(node, &slot))
}

/// Gives a member another role.
pub(crate) async fn set_role(
    node: &Node,
    request: api::SetRoleRequest,
) -> Result<api::CallResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let member = find_member(&*governance(node, &slot).await?, &request.member)?;
    with_role(node, &slot, "set-role", &member, request.role).await
}

/// Bounds the bytes that a member, each member with a role, or whoever has no other quota may write.
pub(crate) async fn set_quota(
    node: &Node,
    request: api::SetQuotaRequest,
) -> Result<api::CallResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = call::running(node, &slot).await?;
    let bytes = request.bytes.map(|bytes| Box::new(Value::U64(bytes)));
    let bytes = (Type::option(Type::U64), Value::Option(bytes));
    let (command, arguments) = match request.whom.as_str() {
        "" => ("set-quota", vec![bytes]),
        whom => {
            let holder = quota_holder(&*governance(node, &slot).await?, whom)?;
            ("set-quota-of", vec![holder, bytes])
        }
    };
    let made = govern(node, &slot, &store, command, &arguments).await?;
    Ok(made.shown(node, &slot))
}

/// Whose quota a person named, as the argument of `set-quota-of`. The name of a role means the role: a member may choose
/// any name.
fn quota_holder(governance: &Governance, whom: &str) -> Result<(Type, Value)> {
    let case = |name: &str, ty| Case {
        name: name.into(),
        docs: String::new(),
        ty: Some(ty),
    };
    let ty = Type::Variant(Arc::new(Variant {
        name: String::new(),
        docs: String::new(),
        cases: vec![case("role", Type::String), case("member", Type::Bytes)],
    }));
    let value = match Role::ALL.iter().find(|role| role.name() == whom) {
        Some(role) => Value::Variant(0, Some(Box::new(Value::String(role.name().into())))),
        None => Value::Variant(1, Some(Box::new(key(&find_member(governance, whom)?)))),
    };
    Ok((ty, value))
}

/// How many bytes a member may write, in both lanes together.
pub(crate) async fn get_quota(
    node: &Node,
    request: api::GetQuotaRequest,
) -> Result<api::GetQuotaResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    if Role::ALL.iter().any(|role| role.name() == request.member) {
        return Err(Failure::usage(format!(
            "\"{}\" is a role, and a quota is shown of a member",
            request.member
        ))
        .hint("name a member, or give BYTES to set the quota of the role"));
    }
    let member = find_member(&*governance(node, &slot).await?, &request.member)?;
    let snapshot = node.store(&slot).await?.snapshot();
    let question = Question::Quota {
        author: member,
        lane: Lane::App,
    };
    // Governance runs, which must not hold up other requests.
    let answer = tokio::task::spawn_blocking(move || snapshot.ask(&question))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    match answer {
        Ok(Answer::Quota(bytes)) => Ok(api::GetQuotaResponse { bytes }),
        Ok(_) => Err(Failure::failed("governance answered another question")),
        Err(AskError::Host(fault)) => Err(fault.into()),
        Err(error @ AskError::Trapped(_)) => Err(Failure::failed(error.to_string())),
    }
}

/// Admits a member again that was revoked or has resigned.
pub(crate) async fn readmit(
    node: &Node,
    request: api::ReadmitRequest,
) -> Result<api::CallResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let governance = governance(node, &slot).await?;
    let member = find_member(&governance, &request.member)?;
    let role = match (request.role.as_str(), governance.member(&member)) {
        ("", Some(member)) => member.role.name().to_owned(),
        (role, _) => role.to_owned(),
    };
    with_role(node, &slot, "readmit", &member, role).await
}

/// Calls a command of governance that takes a member and a role.
async fn with_role(
    node: &Node,
    slot: &Arc<Slot>,
    command: &str,
    member: &DeviceKey,
    role: String,
) -> Result<api::CallResponse> {
    let store = call::running(node, slot).await?;
    checked_role(slot, node, &store, &role)?;
    let arguments = [
        (Type::Bytes, key(member)),
        (Type::String, Value::String(role)),
    ];
    let made = govern(node, slot, &store, command, &arguments).await?;
    Ok(made.shown(node, slot))
}

/// Gives a store another name on this node. If this node is an admin, also in the store itself, whose name later
/// joiners take.
pub(crate) async fn rename(node: &Node, request: api::RenameStoreRequest) -> Result<Arc<Slot>> {
    let slot = lookup::find_slot(node, &request.store)?;
    check_name("store", &request.name)?;
    let _naming = node.naming.lock().await;
    if slot.name() == request.name {
        return Ok(slot);
    }
    lookup::check_free(node, &request.name, slot.parent())?;
    if own_role(node, &slot) == Some(Role::Admin.name())
        && let Ok(store) = call::running(node, &slot).await
    {
        let arguments = [(Type::String, Value::String(request.name.clone()))];
        let made = govern(node, &slot, &store, "rename", &arguments).await?;
        made.succeeded(node, &slot)?;
    }
    node.update_slot(&slot, |record| record.name = request.name)?;
    Ok(slot)
}

/// A page of the members by rank, revoked ones last.
pub(crate) async fn list_members(
    node: &Node,
    request: api::ListMembersRequest,
) -> Result<api::ListMembersResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let store = node.store(&slot).await?;
    let page = Page::new(request.page_size, &request.page_token, &[&slot.id.0])?;
    let governance = governance(node, &slot).await?;
    let peers = node.net().map(lattice_net::Net::peers).unwrap_or_default();
    let rows = (0u32..)
        .zip(governance.members())
        .map(|(rank, member)| {
            let active = member.status == MemberStatus::Active;
            let mut sort = vec![u8::from(!active)];
            sort.extend(rank.to_be_bytes());
            (sort, (rank, member))
        })
        .collect();
    let (members, next_page_token) = page.cut_small::<(u32, &Member)>(rows);
    let snapshot = store.snapshot();
    let mut admitted = Vec::with_capacity(members.len());
    for (_, member) in &members {
        let at = snapshot.admitted_at(&member.device)?;
        admitted.push(at.map_or(0, |time| time.wall_ms.max(1)));
    }
    let members = members
        .into_iter()
        .zip(admitted)
        .map(|((rank, member), admitted_ms)| {
            let peer = peers.iter().find(|peer| peer.peer == member.device);
            let shared =
                peer.and_then(|peer| peer.stores.iter().find(|shared| shared.store == slot.id));
            api::Member {
                id: member.device.0.to_vec(),
                name: member.name.clone(),
                role: member.role.name().into(),
                rank,
                devices: vec![member.device.0.to_vec()],
                this_node: member.device == node.device(),
                revoked: member.status != MemberStatus::Active,
                admitted_ms,
                connected: peer.is_some_and(|peer| peer.connected),
                last_seen_ms: peer.and_then(|peer| peer.last_seen_ms).unwrap_or(0),
                lacks_count: shared.and_then(crate::node::status::peer_lacks),
            }
        })
        .collect();
    Ok(api::ListMembersResponse {
        members,
        next_page_token,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_testing::advice;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_command_that_governance_lacks_is_looked_up_as_it_says() {
        let home = tempfile::tempdir().unwrap();
        let embedded = crate::embedded(home.path()).await.unwrap();
        let node = embedded.node().clone();
        let request = api::CreateStoreRequest {
            name: "root".into(),
            plugin: crate::store::create::NO_PLUGIN.into(),
            ..Default::default()
        };
        let slot = crate::store::create::create(&node, request).await.unwrap();
        let store = node.store(&slot).await.unwrap();
        let name = [(Type::String, Value::String("other".into()))];
        let lacks = govern(&node, &slot, &store, "rebaptize", &name).await;
        let said = lacks.err().unwrap().to_string();
        let told = advice(&said, "`lattice plugin inspect");
        let plugin = told.strip_prefix("`lattice plugin inspect ").unwrap();
        let plugin = plugin.split('`').next().unwrap();
        let shown = crate::plugin::inspect_plugin(&node, plugin).unwrap();
        let commands = shown.interfaces.iter().find(|one| one.name == COMMANDS);
        let functions = &commands.unwrap().functions;
        assert!(functions.iter().any(|function| function.name == "rename"));
        let renamed = govern(&node, &slot, &store, "rename", &name).await;
        assert!(renamed.unwrap().done.outcome.is_ok());
        drop((store, slot, node));
        embedded.close().await;
    }
}

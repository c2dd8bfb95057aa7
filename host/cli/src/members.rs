//! `store members`, `revoke`, `role` and `readmit`: who may do what.

use clap::Args;
use lattice_daemon::api;
use serde_json::{Value, json};

use crate::context::{Context, pages};
use crate::failure::{Failure, Result};
use crate::node::lag;
use crate::output::Columns;
use crate::session::Need;
use crate::store::StoreArgs;
use crate::{outcome, text};

/// Arguments of `store revoke`.
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// A member's name, or at least 8 digits of its id or of a device's key
    member: String,
}

/// Arguments of `store role`.
#[derive(Args, Debug)]
pub(crate) struct RoleArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// A member's name, or at least 8 digits of its id or of a device's key
    member: String,
    /// admin, writer or reader
    role: String,
}

/// Arguments of `store quota`.
#[derive(Args, Debug)]
pub(crate) struct QuotaArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// A member, by name or at least 8 digits of its id or of a device's key. To set a quota, also a role, or `all` for
    /// each admin and writer that no other quota bounds
    whom: String,
    /// The most bytes of headers and bodies, or `none` to remove the quota [default: show the quota of the member]
    bytes: Option<String>,
}

/// Arguments of `store readmit`.
#[derive(Args, Debug)]
pub(crate) struct ReadmitArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// A member's name, or at least 8 digits of its id or of a device's key
    member: String,
    /// admin, writer or reader [default: the role that the member had]
    #[arg(long)]
    role: Option<String>,
}

/// Runs `store members`.
pub(crate) async fn list(context: &Context, args: StoreArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let members = all(context, &store).await?;
    context.output.result(
        || table(&members, text::now_ms()),
        || json!({ "members": members.iter().map(member_json).collect::<Vec<_>>() }),
    )
}

/// All members of a store by rank, revoked ones last.
pub(crate) async fn all(context: &Context, store: &str) -> Result<Vec<api::Member>> {
    let client = context.stores(Need::Node).await?;
    let (members, _) = pages(String::new(), None, |page_size, page_token| {
        let (mut client, store) = (client.clone(), store.to_owned());
        async move {
            let page = client
                .list_members(api::ListMembersRequest {
                    store,
                    page_size,
                    page_token,
                })
                .await?
                .into_inner();
            Ok((page.members, page.next_page_token))
        }
    })
    .await?;
    Ok(members)
}

/// Members as a table.
pub(crate) fn table(members: &[api::Member], now_ms: u64) -> String {
    let mut table = Columns::new(&[
        ">RANK",
        "MEMBER",
        "NAME",
        "ROLE",
        "DEVICES",
        "ADMITTED",
        "SEEN",
        ">IT LACKS",
    ]);
    for member in members {
        let seen = match (member.this_node, member.connected) {
            (true, _) => "this node".to_owned(),
            (false, true) => "connected".to_owned(),
            (false, false) => text::ago(member.last_seen_ms, now_ms),
        };
        let lacks = if member.this_node {
            "-".to_owned()
        } else {
            lag(member.lacks_count)
        };
        let name = if member.name.is_empty() {
            "-"
        } else {
            &member.name
        };
        let role = if member.revoked {
            "revoked"
        } else {
            &member.role
        };
        table.row([
            member.rank.to_string(),
            text::short(&member.id),
            name.to_owned(),
            role.to_owned(),
            member.devices.len().to_string(),
            text::time(member.admitted_ms),
            seen,
            lacks,
        ]);
    }
    table.or("no members")
}

/// A member as JSON.
pub(crate) fn member_json(member: &api::Member) -> Value {
    json!({
        "id": text::id_json(&member.id),
        "name": member.name,
        "role": member.role,
        "rank": member.rank,
        "devices": member.devices.iter().map(|key| text::id_json(key)).collect::<Vec<_>>(),
        "this_node": member.this_node,
        "revoked": member.revoked,
        "admitted_ms": member.admitted_ms,
        "connected": member.connected,
        "last_seen_ms": member.last_seen_ms,
        "lacks": member.lacks_count,
    })
}

/// Runs `store revoke`.
pub(crate) async fn revoke(context: &Context, args: RevokeArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let response = stores
        .revoke(api::RevokeRequest {
            store,
            member: args.member,
        })
        .await?
        .into_inner();
    changed(context, &response, "the revocation")
}

/// Runs `store role`.
pub(crate) async fn role(context: &Context, args: RoleArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let response = stores
        .set_role(api::SetRoleRequest {
            store,
            member: args.member,
            role: args.role,
        })
        .await?
        .into_inner();
    changed(context, &response, "the change of role")
}

/// Runs `store quota`.
pub(crate) async fn quota(context: &Context, args: QuotaArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let Some(bytes) = args.bytes else {
        let mut stores = context.stores(Need::Node).await?;
        let quota = stores
            .get_quota(api::GetQuotaRequest {
                store,
                member: args.whom,
            })
            .await?
            .into_inner();
        let shown = || match quota.bytes {
            Some(bytes) => format!("{bytes}\n"),
            None => "none\n".into(),
        };
        let document = || json!({ "quota_bytes": quota.bytes });
        return context.output.result(shown, document);
    };
    let bytes = match bytes.as_str() {
        "none" => None,
        number => Some(number.parse::<u64>().map_err(|_| {
            Failure::usage(format!("{number:?} is no number of bytes"))
                .hint("give a whole number, or `none` to take the bound back")
        })?),
    };
    let whom = match args.whom.as_str() {
        "all" => String::new(),
        _ => args.whom,
    };
    let mut stores = context.stores(Need::Node).await?;
    let response = stores
        .set_quota(api::SetQuotaRequest { store, whom, bytes })
        .await?
        .into_inner();
    changed(context, &response, "the change of the quota")
}

/// Runs `store readmit`.
pub(crate) async fn readmit(context: &Context, args: ReadmitArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let response = stores
        .readmit(api::ReadmitRequest {
            store,
            member: args.member,
            role: args.role.unwrap_or_default(),
        })
        .await?
        .into_inner();
    changed(context, &response, "the admission")
}

/// Prints the outcome of a change of governance, which `what` names.
fn changed(context: &Context, response: &api::CallResponse, what: &str) -> Result<()> {
    context
        .output
        .result(String::new, || outcome::call_document(response))?;
    let outcome = response.outcome.clone().unwrap_or_default();
    match outcome::failure(&outcome, &[what]) {
        None => Ok(()),
        Some(failure) => Err(failure.with_document_printed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_show_rank_role_and_lag() {
        let member = |rank, name: &str, revoked| api::Member {
            id: vec![rank; 32],
            name: name.into(),
            role: "writer".into(),
            rank: rank.into(),
            devices: vec![vec![rank; 32]],
            revoked,
            lacks_count: Some(4),
            ..Default::default()
        };
        let shown = table(&[member(0, "ann", false), member(1, "", true)], 0);
        let rows: Vec<&str> = shown.lines().collect();
        assert!(rows[1].contains("ann") && rows[1].ends_with('4'), "{shown}");
        assert!(rows[2].contains("revoked"), "{shown}");
    }
}

//! `store invite` and `store join`: how another node joins a store.

use std::io::{self, IsTerminal};

use clap::Args;
use lattice_daemon::api;
use serde_json::json;

use crate::arguments::Sources;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{Yes, fields};
use crate::plugin::or_none;
use crate::progress::{Progress, Unit};
use crate::session::Need;
use crate::ways::WayArgs;
use crate::{store, text};

/// Arguments of `store invite`.
#[derive(Args, Debug)]
#[command(after_help = "\
The token is a secret: whoever has it can join. It holds addresses of this
node, where the joiner knocks first; any member that it reaches can let it in.")]
pub(crate) struct InviteArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// What the joiner may do: admin, writer or reader
    #[arg(long, default_value = "writer")]
    role: String,
    /// How long the token can be used, such as 90s, 24h or 7days
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_expiry)]
    expires: u64,
    /// How many nodes can join with it
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    uses: u32,
}

/// Arguments of `store join`.
#[derive(Args, Debug)]
#[command(after_help = "\
Shows the name, hash and imports of the plugin that the store runs, and asks.
A join that is interrupted goes on when the node runs again; the same command
watches it. While a daemon runs, its switches decide how members are found.")]
pub(crate) struct JoinArgs {
    /// What `store invite` printed; `-` for standard input, `@PATH` for a file [default: ask, so that other users of
    /// this machine do not see the token among its processes]
    token: Option<String>,
    /// What to call the store here [default: the inviter's name]
    #[arg(long)]
    name: Option<String>,
    /// What all members of the store see as this device's name [default: none]
    #[arg(long = "as", value_name = "NAME")]
    member_name: Option<String>,
    /// Do not ask; agree to run the store's plugin
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    ways: WayArgs,
}

fn parse_expiry(text: &str) -> std::result::Result<u64, String> {
    match text::parse_duration_ms(text)? {
        // In a request, 0 stands for the default of 24 hours.
        0 => Err("such a token could never be used".to_owned()),
        ms => Ok(ms),
    }
}

/// Runs `store invite`.
pub(crate) async fn invite(context: &Context, args: InviteArgs) -> Result<()> {
    let store = context.store(&args.store)?;
    let mut stores = context.stores(Need::Node).await?;
    let invite = stores
        .invite(api::InviteRequest {
            store,
            role: args.role,
            expires_in_ms: args.expires,
            uses: args.uses,
        })
        .await?
        .into_inner();
    context.output.result(
        || invite.token.clone(),
        || {
            json!({
                "token": invite.token,
                "role": invite.role,
                "uses": invite.uses,
                "expires_ms": invite.expires_ms,
                "addresses": invite.addresses,
            })
        },
    )?;
    if invite.addresses.is_empty() {
        context.output.warn(
            "the token has no address of this node; run `lattice daemon` and make another one, \
             unless the joiner finds this node by a relay, by discovery or on the local network",
        );
    }
    context.output.note(&format!(
        "whoever has this can join as {}, until {}",
        text::line(&invite.role),
        text::time(invite.expires_ms)
    ));
    Ok(())
}

/// The token itself: as it was given, from where it was said to be, or from a prompt that shows nothing of it.
fn token(given: Option<&str>) -> Result<String> {
    let text = match given {
        None => match io::stdin().is_terminal() {
            true => rpassword::prompt_password("token: ")
                .map_err(|error| Failure::failed(format!("cannot read a token: {error}")))?,
            false => {
                return Err(Failure::usage("no token is given")
                    .hint("write it last, or `-` to read it from standard input, or `@PATH`"));
            }
        },
        Some(text) => {
            let path = match text {
                "-" => Some("-"),
                text => text.strip_prefix('@'),
            };
            match path {
                None => text.to_owned(),
                Some(path) => {
                    let bytes = Sources::default().read(path.as_ref())?;
                    String::from_utf8(bytes)
                        .map_err(|_| Failure::usage("what was read is no token: it is not text"))?
                }
            }
        }
    };
    match text.trim() {
        "" => Err(Failure::failed("the token is empty").hint("it is what `store invite` printed")),
        text => Ok(text.to_owned()),
    }
}

/// Runs `store join`.
pub(crate) async fn join(context: &Context, args: JoinArgs) -> Result<()> {
    let yes = if args.yes { Yes::Given } else { Yes::Ask };
    if yes == Yes::Ask && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        // Checked before anything is fetched, not only when the question is asked.
        return Err(
            Failure::usage("joining needs an answer, and there is no terminal to ask at")
                .hint("give --yes to agree to run the store's plugin"),
        );
    }
    let token = token(args.token.as_deref())?;
    let mut stores = context.stores(Need::Network(args.ways.ways())).await?;
    if !args.ways.is_all() {
        let mut node = context.node().await?;
        let status = node.status(api::NodeStatusRequest {}).await?.into_inner();
        args.ways.check(&status)?;
    }
    let offer = stores
        .inspect_token(api::InspectTokenRequest {
            token: token.clone(),
        })
        .await?
        .into_inner();
    confirm(context, yes, offer_text(&offer)).await?;
    let mut messages = stores
        .join(api::JoinRequest {
            token,
            name: args.name.unwrap_or_default(),
            app_hash: offer.app.map(|plugin| plugin.hash).unwrap_or_default(),
            governance_hash: offer
                .governance
                .map(|plugin| plugin.hash)
                .unwrap_or_default(),
            member_name: args.member_name.unwrap_or_default(),
        })
        .await?
        .into_inner();
    let mut progress = Progress::new();
    let mut joined = None;
    while let Some(message) = messages.message().await? {
        let (doing, unit) = phase(message.phase());
        let doing = if message.text.is_empty() {
            doing.to_owned()
        } else {
            format!("{doing}: {}", message.text)
        };
        progress.set(&doing, message.done, message.total, unit);
        joined = message.store;
    }
    progress.finish();
    let joined = joined.ok_or_else(|| {
        Failure::failed("the node ended the join without a result").hint("see `lattice status`")
    })?;
    context
        .output
        .result(String::new, || store::summary_json(&joined))?;
    let line = format!(
        "{} as {}",
        store::created_text("joined", &joined),
        text::line(&joined.role)
    );
    context.output.note(&line);
    Ok(())
}

/// Asks on a thread of its own, so that a signal can end the command meanwhile.
async fn confirm(context: &Context, yes: Yes, shown: String) -> Result<()> {
    let output = context.output;
    tokio::task::spawn_blocking(move || output.confirm(yes, &shown, "Join, and run this plugin?"))
        .await
        .map_err(|error| Failure::failed(format!("cannot ask: {error}")))?
}

fn phase(phase: api::JoinPhase) -> (&'static str, Unit) {
    match phase {
        api::JoinPhase::Connecting => ("looking for a member", Unit::Things),
        api::JoinPhase::Fetching => ("fetching the plugin", Unit::Bytes),
        api::JoinPhase::Compiling => ("compiling the plugin", Unit::Things),
        api::JoinPhase::Claiming => ("waiting for admission", Unit::Things),
        api::JoinPhase::Syncing => ("receiving history", Unit::Things),
        api::JoinPhase::Ready => ("ready", Unit::Things),
        api::JoinPhase::Unspecified => ("joining", Unit::Things),
    }
}

fn offer_text(offer: &api::InspectTokenResponse) -> String {
    let mut rows = vec![
        (
            "store",
            format!("{}  {}", offer.store_name, text::id(&offer.store_id)),
        ),
        ("invited by", text::id(&offer.inviter)),
    ];
    if !offer.role.is_empty() {
        rows.push(("role", offer.role.clone()));
    }
    if offer.expires_ms > 0 {
        rows.push(("until", text::time(offer.expires_ms)));
    }
    match &offer.app {
        None => rows.push(("plugin", "none".to_owned())),
        Some(plugin) => rows.extend([
            ("plugin", plugin.name.clone()),
            ("hash", text::id(&plugin.hash)),
            ("size", text::size(plugin.size_bytes)),
            ("imports", or_none(&plugin.imports)),
        ]),
    }
    if let Some(governance) = &offer.governance {
        let bundled = if governance.bundled {
            "bundled"
        } else {
            "not bundled"
        };
        rows.push((
            "governance",
            format!(
                "{}  {}  ({bundled})",
                governance.name,
                text::id(&governance.hash)
            ),
        ));
    }
    fields(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_names_what_would_run() {
        let offer = api::InspectTokenResponse {
            store_name: "notes\x1b[2J".into(),
            store_id: vec![1; 32],
            app: Some(api::Plugin {
                name: "kv".into(),
                hash: vec![2; 32],
                size_bytes: 2048,
                imports: vec!["lattice:store/state".into(), "lattice:store/context".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let shown = offer_text(&offer);
        assert!(shown.contains(r"notes\u{1b}[2J"), "{shown}");
        assert!(shown.contains(&"02".repeat(32)), "{shown}");
        assert!(
            shown.contains("imports     lattice:store/state  lattice:store/context\n"),
            "{shown}"
        );
    }

    #[test]
    fn expiry_is_a_duration_above_zero() {
        assert_eq!(parse_expiry("24h"), Ok(86_400_000));
        assert!(parse_expiry("0s").is_err());
        assert!(parse_expiry("-1h").is_err());
    }
}

//! `call`, `query` and `watch`: run a store's functions.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use lattice_daemon::api;

use crate::arguments::{Sources, function_call, transaction};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::outcome;
use crate::session::Need;

const ARGUMENTS_HELP: &str = "\
How arguments are written:
  Everything after FUNCTION belongs to the function. FUNCTION is a name, or
  INTERFACE.NAME where two interfaces have it; `lattice plugin inspect` lists
  a plugin's functions with their types.

  hello       for a string or bytes: as it is
  some(1)     for any other type: WAVE, such as 5, true, [1, 2], {a: 1}
  -5          a number, not an option
  --key TEXT  the parameter `key`, wherever it stands; -- ends these
  @PATH       the bytes of a file; @- those of standard input
  @hex:00ff   bytes in hexadecimal
  @@TEXT      a literal @TEXT";

const CALL_EXAMPLES: &str = "\
Examples:
  lattice call clicks add 5
  lattice call notes put greeting 'hello, world'
  lattice call notes put --key photo --value @photo.jpg
  printf 'put a 1\\nput b 2\\n' | lattice call notes --tx -

A --tx file may also be a JSON array of objects with a \"function\" and its
\"args\", an array or an object by parameter name.";

/// Arguments of `call`.
#[derive(Args, Debug)]
#[command(
    override_usage = "lattice call [OPTIONS] STORE FUNCTION [ARGS]...\n       \
                      lattice call [OPTIONS] STORE --tx FILE",
    after_help = format!("{ARGUMENTS_HELP}\n\n{CALL_EXAMPLES}"),
)]
pub(crate) struct CallArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// The function and its arguments
    #[arg(
        value_name = "FUNCTION ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "tx",
        conflicts_with = "tx"
    )]
    pub(crate) words: Vec<OsString>,
    /// Run the calls in a file as one transaction, FUNCTION ARGS a line; - is standard input
    #[arg(long, value_name = "FILE")]
    tx: Option<PathBuf>,
    /// Agree to sign by a clock that is more than 92 days above the store's last entry and that no member confirms
    #[arg(long)]
    yes: bool,
    /// Wait until the outcome is final. Part of the command line's promise, and refused until checkpoints are built.
    #[arg(long = "final", value_name = "TIMEOUT", hide = true, value_parser = not_final)]
    wait_final: Option<Infallible>,
}

fn not_final(_: &str) -> std::result::Result<Infallible, &'static str> {
    Err(
        "no outcome becomes final before checkpoints are built; call without it, and `lattice notices` says what changed",
    )
}

/// Arguments of `query`.
#[derive(Args, Debug)]
#[command(
    override_usage = "lattice query [OPTIONS] STORE FUNCTION [ARGS]...",
    after_help = ARGUMENTS_HELP,
)]
pub(crate) struct QueryArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// The query and its arguments
    #[arg(
        value_name = "FUNCTION ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    words: Vec<OsString>,
}

/// Arguments of `watch`.
#[derive(Args, Debug)]
#[command(
    override_usage = "lattice watch [OPTIONS] STORE FUNCTION [ARGS]...",
    after_help = ARGUMENTS_HELP,
)]
pub(crate) struct WatchArgs {
    /// A name, a path, or at least 8 digits of an id
    store: String,
    /// The query and its arguments
    #[arg(
        value_name = "FUNCTION ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    words: Vec<OsString>,
}

/// Runs `call`.
pub(crate) async fn call(context: &Context, args: CallArgs) -> Result<()> {
    let mut sources = Sources::default();
    let calls = match &args.tx {
        Some(file) => transaction(file.as_os_str(), &mut sources)?,
        None => vec![function_call(&args.words, &mut sources)?],
    };
    run_call(context, context.store(&args.store)?, calls, args.yes).await
}

/// Runs calls as one transaction and prints its outcome.
pub(crate) async fn run_call(
    context: &Context,
    store: String,
    calls: Vec<api::FunctionCall>,
    accepts_leap: bool,
) -> Result<()> {
    let functions: Vec<String> = calls.iter().map(|call| call.function.clone()).collect();
    let mut client = context.calls(Need::Node).await?;
    let response = client
        .call(api::CallRequest {
            store,
            calls,
            forms: outcome::forms(context.output),
            accepts_leap,
        })
        .await?
        .into_inner();
    let outcome = response.outcome.clone().unwrap_or_default();
    context.output.result(
        || outcome::results_text(&outcome),
        || outcome::call_document(&response),
    )?;
    let names: Vec<&str> = functions.iter().map(String::as_str).collect();
    match outcome::failure(&outcome, &names) {
        None => Ok(()),
        Some(failure) => Err(failure
            .hint_if_none("nothing was written")
            .with_document_printed()),
    }
}

/// Runs `query`.
pub(crate) async fn query(context: &Context, args: QueryArgs) -> Result<()> {
    let call = function_call(&args.words, &mut Sources::default())?;
    run_query(context, context.store(&args.store)?, call).await
}

/// Runs a query and prints its result.
pub(crate) async fn run_query(
    context: &Context,
    store: String,
    call: api::FunctionCall,
) -> Result<()> {
    let function = call.function.clone();
    let mut client = context.calls(Need::Node).await?;
    let response = client
        .query(api::QueryRequest {
            store,
            call: Some(call),
            forms: outcome::forms(context.output),
        })
        .await?
        .into_inner();
    let outcome = response.outcome.clone().unwrap_or_default();
    context.output.result(
        || outcome::results_text(&outcome),
        || outcome::query_document(&response),
    )?;
    match outcome::failure(&outcome, &[&function]) {
        None => Ok(()),
        Some(failure) if outcome.kind() == api::OutcomeKind::Trapped => Err(failure
            .hint_if_none("ask for less, or tell the plugin's author")
            .with_document_printed()),
        Some(failure) => Err(failure.with_document_printed()),
    }
}

/// Runs `watch` until the node or a signal ends it.
pub(crate) async fn watch(context: &Context, args: WatchArgs) -> Result<()> {
    let call = function_call(&args.words, &mut Sources::default())?;
    let function = call.function.clone();
    let mut client = context.calls(Need::Daemon("watching")).await?;
    let mut events = client
        .watch(api::WatchRequest {
            store: context.store(&args.store)?,
            call: Some(call),
            forms: outcome::forms(context.output),
        })
        .await?
        .into_inner();
    while let Some(event) = events.message().await? {
        if event.missed_count > 0 && !context.output.is_json() {
            let missed = crate::text::count(event.missed_count, "result");
            context
                .output
                .warn(&format!("{missed} came too fast and were skipped"));
        }
        let result = event.result.unwrap_or_default();
        let outcome = result.outcome.clone().unwrap_or_default();
        context.output.message(
            || outcome::results_text(&outcome),
            || {
                let mut document = outcome::query_document(&result);
                document["missed_count"] = event.missed_count.into();
                document
            },
        )?;
        // The query may succeed again after the next change, so a failure is reported and the watch goes on.
        if let Some(failure) = outcome::failure(&outcome, &[&function])
            && !context.output.is_json()
        {
            context.output.warn(&failure.to_string());
        }
    }
    Err(Failure::new(
        crate::failure::Class::Unreachable,
        "the node ended the watch",
    )
    .hint("watch again when it is back"))
}

#[cfg(test)]
mod tests {
    //! Commands against a service whose answers the test chooses.

    use super::*;
    use crate::failure::advice;
    use api::calls_server::{Calls, CallsServer};
    use hyper_util::rt::TokioIo;
    use prost::Message as _;
    use tonic::transport::{Endpoint, Server};
    use tonic::{Code, Request, Response, Status};

    type Answer<T> = std::result::Result<Response<T>, Status>;

    /// A service that answers every request with the same outcome or status.
    #[derive(Clone)]
    enum Fake {
        Outcome(api::Outcome),
        Status(Status),
        /// Ends a watch after its first event.
        Ends,
    }

    impl Fake {
        fn query(&self) -> std::result::Result<api::QueryResponse, Status> {
            match self {
                Fake::Outcome(outcome) => Ok(api::QueryResponse {
                    outcome: Some(outcome.clone()),
                    ..Default::default()
                }),
                Fake::Status(status) => Err(status.clone()),
                Fake::Ends => Ok(api::QueryResponse::default()),
            }
        }
    }

    #[tonic::async_trait]
    impl Calls for Fake {
        async fn call(&self, request: Request<api::CallRequest>) -> Answer<api::CallResponse> {
            assert_eq!(request.into_inner().calls[0].function, "f");
            let outcome = self.query()?.outcome;
            Ok(Response::new(api::CallResponse {
                outcome,
                ..Default::default()
            }))
        }

        async fn query(&self, _: Request<api::QueryRequest>) -> Answer<api::QueryResponse> {
            self.query().map(Response::new)
        }

        type WatchStream =
            tokio_stream::Iter<std::vec::IntoIter<std::result::Result<api::WatchEvent, Status>>>;

        async fn watch(&self, _: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
            let event = api::WatchEvent {
                result: Some(self.query()?),
                missed_count: 2,
            };
            let mut events = vec![Ok(event)];
            if !matches!(self, Fake::Ends) {
                events.push(Err(Status::unavailable("gone")));
            }
            Ok(Response::new(tokio_stream::iter(events)))
        }
    }

    async fn context(fake: Fake) -> Context {
        let (client, server) = tokio::io::duplex(64 << 10);
        tokio::spawn(
            Server::builder()
                .add_service(CallsServer::new(fake))
                .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(server))),
        );
        let mut client = Some(TokioIo::new(client));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let client = client.take().ok_or_else(|| std::io::Error::other("gone"));
            async move { client }
        });
        let channel = Endpoint::from_static("http://fake")
            .connect_with_connector(connector)
            .await
            .expect("connected");
        Context::over(channel).await
    }

    /// The exit codes of `call`, `query` and `watch`, in this order.
    async fn codes(fake: Fake) -> [u8; 3] {
        let code = |result: Result<()>| result.map_or_else(|failure| failure.exit_code(), |()| 0);
        let words = || vec!["f".into()];
        let context = context(fake).await;
        let store = || "s".to_owned();
        let call_args = CallArgs {
            store: store(),
            words: words(),
            tx: None,
            wait_final: None,
            yes: false,
        };
        let query_args = QueryArgs {
            store: store(),
            words: words(),
        };
        let watch_args = WatchArgs {
            store: store(),
            words: words(),
        };
        [
            code(call(&context, call_args).await),
            code(query(&context, query_args).await),
            code(watch(&context, watch_args).await),
        ]
    }

    fn outcome(kind: api::OutcomeKind) -> Fake {
        Fake::Outcome(api::Outcome {
            kind: kind.into(),
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn outcomes_become_exit_codes() {
        // A watch goes on after any outcome, and exits with 3 when the node ends it.
        assert_eq!(codes(outcome(api::OutcomeKind::Ok)).await, [0, 0, 3]);
        assert_eq!(codes(outcome(api::OutcomeKind::Refused)).await, [1, 1, 3]);
        assert_eq!(codes(outcome(api::OutcomeKind::Trapped)).await, [1, 1, 3]);
        assert_eq!(
            codes(outcome(api::OutcomeKind::Unauthorized)).await,
            [6, 6, 3]
        );
    }

    #[tokio::test]
    async fn statuses_become_exit_codes() {
        for class in 1..=6 {
            let detail = api::ErrorDetail {
                exit_class: class,
                text: "why".into(),
                ..Default::default()
            };
            let status = Status::with_details(Code::Unknown, "why", detail.encode_to_vec().into());
            let code = u8::try_from(class).expect("small");
            assert_eq!(codes(Fake::Status(status)).await, [code; 3]);
        }
    }

    fn watch_args() -> WatchArgs {
        WatchArgs {
            store: "s".into(),
            words: vec!["f".into()],
        }
    }

    #[tokio::test]
    async fn a_watch_that_the_node_ends_is_begun_again_as_it_says() {
        let ended = watch(&context(Fake::Ends).await, watch_args()).await;
        advice(&ended.expect_err("it ends"), "watch again when it is back");
        // It has the first event again, before it fails otherwise.
        let again = watch(&context(outcome(api::OutcomeKind::Ok)).await, watch_args()).await;
        let failed = again.expect_err("it ends").to_string();
        assert!(failed.contains("gone"), "{failed}");
    }

    #[tokio::test]
    async fn a_daemon_that_lacks_a_command_is_of_another_version_as_it_says() {
        let lacks = Fake::Status(Status::unimplemented(""));
        let query_args = || QueryArgs {
            store: "s".into(),
            words: vec!["f".into()],
        };
        let failed = query(&context(lacks).await, query_args()).await;
        advice(
            &failed.expect_err("it is not served"),
            "it is of another version: restart it with this one",
        );
        // A daemon of this version serves what this command asks for.
        let served = outcome(api::OutcomeKind::Ok);
        assert!(query(&context(served).await, query_args()).await.is_ok());
    }
}

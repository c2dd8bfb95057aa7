//! What a command works with: its home, its output, and the way to the node.

use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex};

use lattice_daemon::api::{
    calls_client::CallsClient, node_client::NodeClient, plugins_client::PluginsClient,
    stores_client::StoresClient,
};
use tokio::sync::{Mutex, Notify};
use tonic::transport::Channel;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::session::{Need, Session};

/// The largest answer that is taken from the node. Above every limit of the node's own, and below what
/// would hurt.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What a command works with. Its clones share the way to the node and the current store, so that each line of a
/// shell may have an output of its own.
#[derive(Clone)]
pub(crate) struct Context {
    /// The node's home; absolute.
    pub(crate) home: PathBuf,
    /// Where results go.
    pub(crate) output: Output,
    /// How often `-v` was given.
    pub(crate) verbosity: u8,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    session: Mutex<Option<Session>>,
    current_store: StdMutex<Option<String>>,
    opening: Notify,
}

impl Context {
    /// Nothing is opened before a command asks for it.
    pub(crate) fn new(home: PathBuf, output: Output, verbosity: u8) -> Context {
        Context {
            home,
            output,
            verbosity,
            shared: Arc::default(),
        }
    }

    /// A context whose node is a test's.
    #[cfg(test)]
    pub(crate) async fn over(channel: Channel) -> Context {
        let output = Output::new(crate::output::Form::Json);
        let context = Context::new("/nowhere".into(), output, 0);
        *context.shared.session.lock().await = Some(Session::over(channel));
        context
    }

    /// The service of the node itself.
    pub(crate) async fn node(&self) -> Result<NodeClient<Channel>> {
        let channel = self.channel(Need::Node).await?;
        Ok(NodeClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The service of components.
    pub(crate) async fn plugins(&self, need: Need) -> Result<PluginsClient<Channel>> {
        let channel = self.channel(need).await?;
        Ok(PluginsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The service of stores.
    pub(crate) async fn stores(&self, need: Need) -> Result<StoresClient<Channel>> {
        let channel = self.channel(need).await?;
        Ok(StoresClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The service of calls.
    pub(crate) async fn calls(&self, need: Need) -> Result<CallsClient<Channel>> {
        let channel = self.channel(need).await?;
        Ok(CallsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn channel(&self, need: Need) -> Result<Channel> {
        self.shared.opening.notify_one();
        let mut session = self.shared.session.lock().await;
        let serves = match &*session {
            None => false,
            Some(open) => open.serves(need)?,
        };
        if !serves {
            if let Some(open) = session.take() {
                open.close().await;
            }
            *session = Some(Session::open(&self.home, need).await?);
        }
        let open = session.as_ref().expect("a session was just opened");
        Ok(open.channel())
    }

    /// Forgets the way to the node, so that the next command looks for it anew. Closes the home if this process
    /// opened it.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.shared.session.lock().await.take() {
            open.close().await;
        }
    }

    /// Returns when a command asks for the node for the first time. Up to then it only reads its arguments, and a
    /// signal may end it at once.
    pub(crate) async fn opening(&self) {
        self.shared.opening.notified().await;
    }

    /// What a person wrote for STORE; `.` is the shell's current store.
    pub(crate) fn store(&self, written: &str) -> Result<String> {
        if written != "." {
            return Ok(written.to_owned());
        }
        self.current_store().ok_or_else(|| {
            Failure::usage(". is the current store, and there is none")
                .hint("choose one with `use STORE` in the shell, or write its name")
        })
    }

    /// The shell's current store.
    pub(crate) fn current_store(&self) -> Option<String> {
        self.shared
            .current_store
            .lock()
            .expect("nothing panics while it holds this lock")
            .clone()
    }

    /// Changes the shell's current store.
    pub(crate) fn set_current_store(&self, store: Option<String>) {
        *self
            .shared
            .current_store
            .lock()
            .expect("nothing panics while it holds this lock") = store;
    }
}

/// Fetches all pages of a list, or as many as hold this many items.
///
/// Returns the items and the token of the page after them, empty at the end.
pub(crate) async fn pages<T, F, R>(
    first: String,
    limit: Option<u32>,
    mut fetch: F,
) -> Result<(Vec<T>, String)>
where
    F: FnMut(u32, String) -> R,
    R: Future<Output = std::result::Result<(Vec<T>, String), tonic::Status>>,
{
    const PAGE: u32 = 1000;
    let mut items: Vec<T> = Vec::new();
    let mut token = first;
    loop {
        let wanted = match limit {
            None => PAGE,
            Some(limit) => {
                let have = u32::try_from(items.len()).unwrap_or(u32::MAX);
                limit.saturating_sub(have).min(PAGE)
            }
        };
        if wanted == 0 {
            return Ok((items, token));
        }
        let (page, next) = fetch(wanted, token).await?;
        items.extend(page);
        if next.is_empty() {
            return Ok((items, next));
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn numbers(limit: Option<u32>) -> (Vec<u32>, String) {
        pages(String::new(), limit, |size, token| async move {
            let from: u32 = token.parse().unwrap_or(0);
            let to = (from + size).min(2500);
            let next = if to == 2500 {
                String::new()
            } else {
                to.to_string()
            };
            Ok(((from..to).collect(), next))
        })
        .await
        .expect("no page fails")
    }

    #[tokio::test]
    async fn pages_are_put_together_and_cut() {
        let (all, next) = numbers(None).await;
        assert_eq!((all.len(), next.as_str()), (2500, ""));
        let (some, next) = numbers(Some(1500)).await;
        assert_eq!((some.len(), next.as_str()), (1500, "1500"));
        assert_eq!(some.last(), Some(&1499));
    }

    #[test]
    fn a_dot_needs_a_current_store() {
        let context = Context::new("/nowhere".into(), Output::new(crate::output::Form::Text), 0);
        assert_eq!(context.store(".").expect_err("none yet").exit_code(), 2);
        context.set_current_store(Some("notes".into()));
        assert_eq!(context.store(".").expect("set"), "notes");
        assert_eq!(context.store("a/b").expect("a path"), "a/b");
    }
}

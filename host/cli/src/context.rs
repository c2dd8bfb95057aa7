//! What a command works with: its home, its output, and its session with the node.

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

/// The largest message that is accepted from the node, in bytes. It is above all limits of the node, and still
/// fits into memory.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What a command works with. Clones share the session and the current store, so that each line of a shell may
/// have an output of its own.
#[derive(Clone)]
pub(crate) struct Context {
    /// The absolute path of the node's home.
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
    /// A context without a session, which is opened when a command first asks for the node.
    pub(crate) fn new(home: PathBuf, output: Output, verbosity: u8) -> Context {
        Context {
            home,
            output,
            verbosity,
            shared: Arc::default(),
        }
    }

    /// A context over a connection that a test has made.
    #[cfg(test)]
    pub(crate) async fn over(channel: Channel) -> Context {
        let output = Output::new(crate::output::Form::Json);
        let context = Context::new("/nowhere".into(), output, 0);
        *context.shared.session.lock().await = Some(Session::over(channel));
        context
    }

    /// A client of the service for the node itself.
    pub(crate) async fn node(&self) -> Result<NodeClient<Channel>> {
        let channel = self.channel(Need::Node).await?;
        Ok(NodeClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of the service for plugins.
    pub(crate) async fn plugins(&self, need: Need) -> Result<PluginsClient<Channel>> {
        let channel = self.channel(need).await?;
        Ok(PluginsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of the service for stores.
    pub(crate) async fn stores(&self, need: Need) -> Result<StoresClient<Channel>> {
        let channel = self.channel(need).await?;
        Ok(StoresClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of the service for calls.
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

    /// Ends the session, so that the next command opens a new one. Closes the home if this process opened it.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.shared.session.lock().await.take() {
            open.close().await;
        }
    }

    /// Returns once a command has asked for the node. Before that, the command only reads its arguments, and a
    /// signal may end it at once.
    pub(crate) async fn opening(&self) {
        self.shared.opening.notified().await;
    }

    /// The store that was written for STORE, where `.` stands for the shell's current store.
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

/// Fetches all pages of a list, or as many as hold `limit` items. `first` is the token of the first page.
///
/// Returns the items and the token of the page after them, which is empty at the end of the list.
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

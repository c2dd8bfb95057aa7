//! Status and history of a node, read through `lattice --json`, and the comparison of two nodes.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::claims::Claims;
use super::table::{self, Author};
use crate::node::Node;

/// How long two nodes may take to become equal.
const EQUAL_TIME_MAX: Duration = Duration::from_secs(60);

/// A node's status of a store: how many entries it has applied, and the roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) applied_count: String,
    pub(super) state_root: String,
    pub(super) outcome_root: String,
}

pub(super) fn status(node: &Node, store: &str) -> Result<Status> {
    let status = node.json(&["store", "status", store])?;
    let field = |name: &str| match &status[name] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => bail!("the status of {store} has no {name}: {status}"),
    };
    Ok(Status {
        applied_count: field("applied_count")?,
        state_root: field("state_root")?,
        outcome_root: field("outcome_root")?,
    })
}

/// Waits until both nodes have applied as many entries and have the same roots. Returns how long it took.
pub(super) fn wait_equal(a: &Node, b: &Node, store: &str) -> Result<Duration> {
    let started = Instant::now();
    loop {
        let (status_a, status_b) = (status(a, store)?, status(b, store)?);
        if status_a == status_b {
            return Ok(started.elapsed());
        }
        if started.elapsed() > EQUAL_TIME_MAX {
            bail!(
                "{store} did not become equal in {EQUAL_TIME_MAX:?}:\nA {status_a:?}\nB {status_b:?}"
            );
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the history of a store, oldest entry first, as both nodes should tell it: without the times at which this
/// node received the entries.
pub(super) fn history(node: &Node, store: &str) -> Result<Vec<Value>> {
    let mut history = node.json(&["store", "history", store, "--reverse", "--limit", "0"])?;
    let Value::Array(mut entries) = history["entries"].take() else {
        bail!("the history of {store} has no entries");
    };
    for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
        entry.retain(|name, _| !name.starts_with("received"));
    }
    ensure!(!entries.is_empty(), "the history of {store} is empty");
    Ok(entries)
}

/// Compares histories, outcomes and roots of a store, and prints them.
pub(super) fn compare_views(a: &Node, b: &Node, store: &str, claims: &mut Claims) -> Result<()> {
    let (history_a, history_b) = (history(a, store)?, history(b, store)?);
    claims.hold(
        &format!(
            "{store}: {} entries with the same calls and outcomes, in the same order",
            history_a.len()
        ),
        history_a == history_b,
        || match history_a.iter().zip(&history_b).find(|(a, b)| a != b) {
            Some((entry_a, entry_b)) => {
                format!("the first that differs:\nA {entry_a}\nB {entry_b}")
            }
            None => format!(
                "A has {} entries, B has {}",
                history_a.len(),
                history_b.len()
            ),
        },
    );
    let (status_a, status_b) = (status(a, store)?, status(b, store)?);
    claims.hold(
        &format!("{store}: the history is whole"),
        history_b.len().to_string() == status_b.applied_count,
        || format!("{} entries of {}", history_b.len(), status_b.applied_count),
    );
    for (name, root_a, root_b) in [
        ("state root", &status_a.state_root, &status_b.state_root),
        (
            "outcome root",
            &status_a.outcome_root,
            &status_b.outcome_root,
        ),
    ] {
        println!("   {name:<13} A {root_a}\n   {:<13} B {root_b}", "");
        claims.hold(
            &format!("{store}: the same {name}"),
            root_a == root_b,
            String::new,
        );
    }
    Ok(())
}

/// Prints the last entries of a history.
pub(super) fn print_history_end(history: &[Value], nodes: [&Node; 2]) -> Result<()> {
    let author = |node: &Node| {
        let status = node.json(&["status"])?;
        let key = status["node"].as_str();
        Ok(Author {
            key: key.context("a status without a node")?.to_owned(),
            name: node.name(),
        })
    };
    let authors = nodes.into_iter().map(author).collect::<Result<Vec<_>>>()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now_ms = u64::try_from(now.as_millis())?;
    for line in table::end(history, &authors, now_ms) {
        println!("{line}");
    }
    Ok(())
}

fn plugin_list(node: &Node) -> Result<Vec<Value>> {
    match node.json(&["plugin", "list"])?["plugins"].take() {
        Value::Array(plugins) => Ok(plugins),
        other => bail!("a list of plugins that is {other}"),
    }
}

pub(super) fn plugin_hashes(node: &Node) -> Result<Vec<String>> {
    Ok(plugin_list(node)?
        .iter()
        .filter_map(|plugin| plugin["hash"].as_str())
        .map(str::to_owned)
        .collect())
}

pub(super) fn plugin_hash(node: &Node, name: &str) -> Result<Option<String>> {
    let plugins = plugin_list(node)?;
    let plugin = plugins.iter().find(|plugin| plugin["name"] == name);
    Ok(plugin
        .and_then(|plugin| plugin["hash"].as_str())
        .map(str::to_owned))
}

/// Returns the bytes of a JSON value of the type `list<u8>`.
pub(super) fn decoded_bytes(value: &Value) -> Result<Vec<u8>> {
    let text = value
        .as_str()
        .with_context(|| format!("bytes that are no text: {value}"))?;
    STANDARD
        .decode(text)
        .map_err(|error| anyhow!("bytes that are no base64: {text}: {error}"))
}

/// Returns the bytes of a JSON value of the type `list<u8>` as text.
pub(super) fn decoded_text(value: &Value) -> Result<String> {
    String::from_utf8(decoded_bytes(value)?).context("bytes that are no UTF-8")
}

/// Quotes a text as a string of the value syntax that the command line reads.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written_in_the_command_lines_forms() {
        assert_eq!(decoded_text(&Value::from("aGk=")).expect("base64"), "hi");
        assert!(
            decoded_text(&Value::from("aG")).is_err() && decoded_bytes(&Value::from(1)).is_err()
        );
        assert_eq!(quoted("a\"b\\c"), r#""a\"b\\c""#);
    }
}

//! A node with a store of many intentions of one call each.

use anyhow::{Result, ensure};

use crate::client::Client;
use crate::node::Node;
use crate::settings::Settings;

pub(crate) const STORE: &str = "many";

/// Makes a node with a store of `settings.entries` puts, and leaves its daemon running. The calls are made one after
/// the other, so that no two share an intention.
///
/// # Errors
/// When the daemon or a call fails.
pub(crate) async fn filled(settings: &Settings) -> Result<(Node, Client)> {
    let mut node = Node::new(settings)?;
    let mut client = node.start().await?;
    client.create(STORE, "kv").await?;
    for i in 1..=settings.entries {
        client.put(STORE, i).await?;
    }
    let count = client.entry_count(STORE).await?;
    ensure!(
        count > settings.entries,
        "{} calls made {count} entries: some share one",
        settings.entries
    );
    Ok((node, client))
}

/// Like [`filled`], in the place where large stores are filled.
///
/// # Errors
/// As [`filled`].
pub(crate) async fn filled_apart(settings: &Settings) -> Result<(Node, Client)> {
    let place = settings.fill_place.clone().or(settings.place.clone());
    let apart = Settings {
        place,
        ..settings.clone()
    };
    filled(&apart).await
}

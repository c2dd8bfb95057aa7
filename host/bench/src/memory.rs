//! Resident memory of a daemon that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::client::Client;
use crate::figure::{Figure, Sample, Target, Unit};
use crate::node::Node;
use crate::settings::Settings;

const STORES: usize = 10;
const CALLS: u64 = 100;
/// How long the daemon rests before it is measured: longer than caches and timers last after a call.
const REST: Duration = Duration::from_secs(5);

/// Measures memory: after the stores were written, and after a start that opened them all.
///
/// # Errors
/// When a daemon or a call fails.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let (mut written, mut opened) = (Vec::new(), Vec::new());
    let mut notes = (Vec::new(), Vec::new());
    for number in 1..=settings.runs {
        settings.say(&format!("memory, run {number} of {}", settings.runs));
        let mut node = Node::new(settings)?;
        let mut client = node.start().await?;
        tokio::time::sleep(REST).await;
        let raw = node.resident_bytes()?.all as f64;
        for number in 0..STORES {
            let store = name(number);
            client.create(&store, "kv").await?;
            for i in 1..=CALLS {
                client.put(&store, i).await?;
            }
        }
        read(&mut client).await?;
        written.push(rest(&node, raw, &mut notes.0).await?);
        drop(client);
        node.stop()?;
        let mut client = node.start().await?;
        read(&mut client).await?;
        opened.push(rest(&node, raw, &mut notes.1).await?);
        node.stop()?;
    }
    let figure = |when: &str, runs, notes| Figure {
        name: format!("resident memory, {STORES} stores {when}, idle"),
        unit: Unit::Bytes,
        raw_is: "the same daemon without a store",
        target: Target::AtMost(64.0 * 1024.0 * 1024.0),
        runs,
        notes,
    };
    Ok(vec![
        figure("created and written", written, notes.0),
        figure("opened", opened, notes.1),
    ])
}

fn name(number: usize) -> String {
    format!("store-{number}")
}

async fn read(client: &mut Client) -> Result<()> {
    for number in 0..STORES {
        client.has(&name(number), CALLS).await?;
    }
    Ok(())
}

async fn rest(node: &Node, raw: f64, notes: &mut Vec<String>) -> Result<Sample> {
    tokio::time::sleep(REST).await;
    let resident = node.resident_bytes()?;
    notes.push(format!(
        "{} of it anonymous, the rest pages of files",
        Unit::Bytes.show(resident.anonymous as f64)
    ));
    Ok(Sample {
        ours: resident.all as f64,
        raw,
    })
}

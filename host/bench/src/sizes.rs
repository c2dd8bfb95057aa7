//! Time and memory to open, recover, rebuild and join a store of single-call entries, by its size.
//!
//! Not figures with targets, but one row of a table for each size. What a daemon of an older version takes is
//! measured by the same program, when `--lattice` names its binary.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::Client;
use crate::figure::Unit;
use crate::large::store_in;
use crate::node::Node;
use crate::settings::Settings;
use crate::store::{STORE, filled_apart};

/// Calls right before a daemon is killed, so that the state on disk lacks at least some of them.
const TAIL: u64 = 500;
/// How long a first answer may take; a state that is made anew from a million entries takes minutes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3600);

/// Time and peak of resident memory (`VmHWM`) of one daemon, from its spawn to its first answer.
struct Took {
    time: Duration,
    peak: u64,
}

/// Makes a store of `settings.entries` intentions of one call each, and prints what it takes to open it, to
/// recover it after SIGKILL, to make its state anew from the log, and to join it.
///
/// # Errors
/// When a daemon or a call fails.
pub(crate) async fn print(settings: &Settings) -> Result<()> {
    let started = Instant::now();
    let (mut filled, client) = filled_apart(settings).await?;
    let each = started.elapsed().as_secs_f64() / settings.entries as f64;
    drop(client);
    filled.stop()?;
    let mut node = filled.copy(settings)?;
    drop(filled);
    // Once before: a copy is not on the disk yet, and is noticed as one.
    answered(&mut node, settings.entries).await?;
    node.stop()?;
    let opened = answered(&mut node, settings.entries).await?;
    let last = settings.entries + TAIL;
    let mut client = node.connect().await?;
    for i in settings.entries + 1..=last {
        client.put(STORE, i).await?;
    }
    drop(client);
    node.kill()?;
    let recovered = answered(&mut node, last).await?;
    node.stop()?;
    fs::remove_file(store_in(&node.home())?.join("state.redb"))?;
    let rebuilt = answered(&mut node, last).await?;
    let joined = joined(settings, &node, last).await?;
    println!("| entries | put | open | recover | rebuild | join |");
    println!("|---|---|---|---|---|---|");
    print!("| {} | {} |", settings.entries, Unit::Time.show(each));
    for took in [opened, recovered, rebuilt, joined] {
        print!(
            " {}, {} |",
            Unit::Time.show(took.time.as_secs_f64()),
            Unit::Bytes.show(took.peak as f64)
        );
    }
    println!();
    node.stop()
}

/// Starts the daemon and waits for the value of the last key.
async fn answered(node: &mut Node, last: u64) -> Result<Took> {
    let started = Instant::now();
    node.spawn()?;
    let mut client = node.answering_within(ANSWER_TIME_MAX).await?;
    readable(&mut client, last, started).await?;
    Ok(Took {
        time: started.elapsed(),
        peak: node.peak_bytes()?,
    })
}

async fn readable(client: &mut Client, last: u64, started: Instant) -> Result<()> {
    while !matches!(client.has(STORE, last).await, Ok(true)) {
        ensure!(
            started.elapsed() < ANSWER_TIME_MAX,
            "the last key is not readable after {ANSWER_TIME_MAX:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Joins from a new home that has compiled the components before; the peak is the joiner's.
async fn joined(settings: &Settings, from: &Node, last: u64) -> Result<Took> {
    let mut joiner = Node::new(settings)?;
    let mut far = joiner.start().await?;
    far.create("warm", "kv").await?;
    far.put("warm", 1).await?;
    let token = from.connect().await?.invite(STORE).await?;
    let started = Instant::now();
    far.join(&token).await.context("joining")?;
    readable(&mut far, last, started).await?;
    let took = Took {
        time: started.elapsed(),
        peak: joiner.peak_bytes()?,
    };
    drop(far);
    joiner.stop()?;
    Ok(took)
}

//! Opening a home: the time from the spawn of the daemon to its first answered query.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figure::{Figure, Sample, Target, Unit};
use crate::node::Node;
use crate::raw::{self, End};
use crate::settings::Settings;
use crate::store::{STORE, filled};

/// Calls right before a daemon is killed, so that the state on disk lacks at least some of them.
const TAIL: u64 = 500;
/// Runs for each run that the user asks for, because a start is short and its time varies much.
const REPEAT: usize = 3;

/// Measures starts.
///
/// # Errors
/// When a daemon or a call fails.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    settings.say(&format!(
        "a home with a store of {} intentions",
        settings.entries
    ));
    let (mut original, client) = filled(settings).await?;
    drop(client);
    original.stop()?;
    let (mut clean, mut killed) = (Vec::new(), Vec::new());
    for number in 1..=settings.runs * REPEAT {
        settings.say(&format!(
            "starts, run {number} of {}",
            settings.runs * REPEAT
        ));
        let directory = settings.directory()?;
        let [closed, open] = ["closed.redb", "open.redb"].map(|name| directory.path().join(name));
        raw::fill(&closed, settings.entries, 0, End::Clean)?;
        raw::fill(&open, settings.entries, TAIL, End::Killed)?;
        let mut node = original.copy(settings)?;
        // One start is not measured: a fresh copy is not on the disk yet, and a daemon notices that it is a copy.
        drop(node.start().await?);
        node.stop()?;
        clean.push(Sample {
            ours: started(&mut node, settings.entries).await?.as_secs_f64(),
            raw: raw::open(&closed)?.as_secs_f64(),
        });
        let mut client = node.connect().await?;
        let last = settings.entries + TAIL;
        for i in settings.entries + 1..=last {
            client.put(STORE, i).await?;
        }
        drop(client);
        node.kill()?;
        killed.push(Sample {
            ours: started(&mut node, last).await?.as_secs_f64(),
            raw: raw::open(&open)?.as_secs_f64(),
        });
    }
    let figure = |end: &str, max: f64, runs| Figure {
        name: format!(
            "{} intentions: spawn to first query, after {end}",
            settings.entries
        ),
        unit: Unit::Time,
        raw_is: "a process that opens a redb file of as many rows and reads one",
        target: Target::AtMost(max),
        runs,
        notes: Vec::new(),
    };
    Ok(vec![
        figure("a clean stop", 0.050, clean),
        figure("SIGKILL", 0.200, killed),
    ])
}

/// Starts the daemon. Returns how long it took until it gave the right answer for the last key.
async fn started(node: &mut Node, last: u64) -> Result<Duration> {
    let started = Instant::now();
    node.spawn()?;
    let mut client = node.answering().await?;
    ensure!(client.has(STORE, last).await?, "the last key is gone");
    Ok(started.elapsed())
}

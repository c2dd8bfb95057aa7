//! Opening a large store whose daemon was killed: the time of its log, the time of its state, and the whole.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redb::{Database, ReadableDatabase};

use crate::figure::{Figure, Sample, Target, Unit};
use crate::raw::{self, End};
use crate::settings::Settings;
use crate::store::{STORE, filled_apart};

/// Calls right before a daemon is killed, so that the state on disk lacks at least some of them.
const TAIL: u64 = 500;

/// Measures a store of `--entries` intentions after SIGKILL.
///
/// # Errors
/// When a daemon or a call fails.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    settings.say(&format!(
        "a home with a large store: {} intentions",
        settings.entries
    ));
    let (mut original, client) = filled_apart(settings).await?;
    drop(client);
    original.stop()?;
    let last = settings.entries + TAIL;
    let (mut log, mut state, mut whole, mut notes) = (vec![], vec![], vec![], vec![]);
    for number in 1..=settings.runs {
        settings.say(&format!("starts, run {number} of {}", settings.runs));
        let directory = settings.directory()?;
        let file = directory.path().join("raw.redb");
        raw::fill(&file, settings.entries, TAIL, End::Killed)?;
        let mut node = original.copy(settings)?;
        // One start is not measured: a fresh copy is not on the disk yet, and a daemon notices that it is a copy.
        drop(node.start().await?);
        node.stop()?;
        let mut client = node.start().await?;
        for i in settings.entries + 1..=last {
            client.put(STORE, i).await?;
        }
        drop(client);
        node.kill()?;
        let store = store_in(&node.home())?;
        let segments = segments(&store.join("log"))?;
        let newest = segments.last().context("a log without a segment")?;
        let parts = [newest, &store.join("state.redb")].map(|file| opened(file, directory.path()));
        let [newest, derived] = parts;
        notes.push(format!("{} segments", segments.len()));
        let started = Instant::now();
        node.spawn()?;
        let mut client = node.answering().await?;
        ensure!(client.has(STORE, last).await?, "the last key is gone");
        let ours = started.elapsed().as_secs_f64();
        let raw = raw::open(&file)?.as_secs_f64();
        let sample = |ours: Duration| Sample {
            ours: ours.as_secs_f64(),
            raw,
        };
        log.push(sample(newest?));
        state.push(sample(derived?));
        whole.push(Sample { ours, raw });
        drop(client);
        node.stop()?;
    }
    let figure = |what: &str, max: Option<f64>, runs, notes| Figure {
        name: format!("{} intentions after SIGKILL: {what}", settings.entries),
        unit: Unit::Time,
        raw_is: "a process that opens a redb file of as many rows, killed likewise, and reads one",
        target: max.map_or(Target::None, Target::AtMost),
        runs,
        notes,
    };
    Ok(vec![
        figure("the last segment of the log opens", Some(0.120), log, notes),
        figure("state.redb opens", None, state, Vec::new()),
        figure("spawn to first query", Some(0.500), whole, Vec::new()),
    ])
}

/// The directory of the only store.
///
/// # Errors
/// When the home has none, or cannot be read.
pub(crate) fn store_in(home: &Path) -> Result<PathBuf> {
    let stores = home.join("stores");
    let mut found = std::fs::read_dir(&stores)?;
    Ok(found.next().context("a home without a store")??.path())
}

fn segments(log: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(log)? {
        files.push(file?.path());
    }
    files.sort();
    Ok(files)
}

/// How long redb takes to open a copy of a file; the file itself stays as it was found.
fn opened(file: &Path, directory: &Path) -> Result<Duration> {
    let copy = directory.join("copy.redb");
    std::fs::copy(file, &copy)?;
    let started = Instant::now();
    let database = Database::open(&copy)?;
    drop(database.begin_read()?);
    Ok(started.elapsed())
}

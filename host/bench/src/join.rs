//! Joining a store of many intentions: the time from the token until the last key can be read.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lattice_daemon::api::JoinPhase;

use crate::client::Joined;
use crate::entries;
use crate::figure::{Figure, Sample, Target, Unit};
use crate::node::Node;
use crate::raw::RawFile;
use crate::settings::Settings;
use crate::store::{STORE, filled};

/// How long the last key may take to be readable after the join has ended.
const READABLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Rows of one raw commit, and signatures of one raw batch.
const BATCH: usize = 1000;

/// Measures joins.
///
/// # Errors
/// When a daemon, a call or a join fails.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    settings.say(&format!(
        "a store of {} intentions to join",
        settings.entries
    ));
    let (a, mut near) = filled(settings).await?;
    let signed = entries::signed(settings.entries);
    let (mut runs, mut notes) = (Vec::new(), Vec::new());
    for number in 1..=settings.runs {
        settings.say(&format!("join, run {number} of {}", settings.runs));
        let mut b = Node::new(settings)?;
        let mut far = b.start().await?;
        // Compilation is not measured: the node compiles the same components before, for another store.
        far.create("warm", "kv").await?;
        far.put("warm", 1).await?;
        let token = near.invite(STORE).await?;
        let (a_before, b_before) = (a.cpu_time()?, b.cpu_time()?);
        let started = Instant::now();
        let joined = far.join(&token).await?;
        let last = settings.entries;
        while !matches!(far.has(STORE, last).await, Ok(true)) {
            ensure!(
                started.elapsed() < READABLE_TIME_MAX,
                "the last key is not readable after {READABLE_TIME_MAX:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let ours = started.elapsed();
        let cpu = [a.cpu_time()? - a_before, b.cpu_time()? - b_before];
        let directory = settings.directory()?;
        let raw = received(
            &mut RawFile::create(&directory.path().join("raw.redb"))?,
            &signed,
        )?;
        runs.push(Sample {
            ours: ours.as_secs_f64(),
            raw: raw.as_secs_f64(),
        });
        notes.push(note(&joined, ours, cpu));
        b.stop()?;
    }
    Ok(vec![Figure {
        name: format!("a store of {} intentions joined", settings.entries),
        unit: Unit::Time,
        raw_is: "its headers verified in batches and appended to redb, 1,000 a commit",
        target: Target::AtMost(2.0),
        runs,
        notes,
    }])
}

/// The raw limit: verifies and stores entries, and does nothing else. Returns how long that took.
fn received(raw: &mut RawFile, signed: &[lattice_format::SignedHeader]) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for (batch, seed) in signed.chunks(BATCH).zip(1_u8..) {
        // Rows as large as header and body of such an entry.
        let rows: Vec<Vec<u8>> = batch.iter().map(|entry| entry.bytes.repeat(2)).collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let entries = batch.to_vec();
        let started = Instant::now();
        let verified = lattice_format::verify_batch(entries, &[seed; 32]);
        took += started.elapsed();
        ensure!(
            verified.iter().all(Result::is_ok),
            "a signature of our own does not hold"
        );
        took += raw.append(&rows)?;
    }
    Ok(took)
}

fn note(joined: &Joined, all: Duration, cpu: [Duration; 2]) -> String {
    let mut text = String::new();
    for (phase, at) in &joined.phases {
        let name = match phase {
            JoinPhase::Unspecified => "?",
            JoinPhase::Connecting => "connecting",
            JoinPhase::Fetching => "fetching",
            JoinPhase::Compiling => "compiling",
            JoinPhase::Claiming => "claiming",
            JoinPhase::Syncing => "syncing",
            JoinPhase::Ready => "ready",
        };
        text.push_str(&format!(
            "{name} at {}, ",
            Unit::Time.show(at.as_secs_f64())
        ));
    }
    format!(
        "{text}readable at {}; processor time: A {}, B {}",
        Unit::Time.show(all.as_secs_f64()),
        Unit::Time.show(cpu[0].as_secs_f64()),
        Unit::Time.show(cpu[1].as_secs_f64())
    )
}

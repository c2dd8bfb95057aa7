//! The time from a call on one node to the event of a watch on another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::{sleep_until, timeout};

use crate::figure::{Durations, Figure, Sample, Target, Unit};
use crate::node::Node;
use crate::raw::{Echo, RawFile};
use crate::settings::Settings;

/// How many puts are measured in one run.
const PUTS: u64 = 100;
const PAUSE: Duration = Duration::from_millis(100);
/// How long a put may take until the watch shows it.
const SEEN_TIME_MAX: Duration = Duration::from_secs(10);

const STORE: &str = "seen";

/// Measures how long calls take until they are seen elsewhere.
///
/// # Errors
/// When a daemon or a call fails, or a call is not seen.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let (mut middle, mut tail, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=settings.runs {
        settings.say(&format!(
            "call on A to event on B, run {number} of {}",
            settings.runs
        ));
        let run = one(settings).await?;
        middle.push(run.sample(50));
        tail.push(run.sample(99));
        notes.push(format!(
            "of these, until the call returned on A: p50 {}, p99 {}",
            Unit::Time.show(run.returned.p50()),
            Unit::Time.show(run.returned.percentile(99))
        ));
    }
    let figure = |name: &str, max: f64, runs, notes| Figure {
        name: name.into(),
        unit: Unit::Time,
        raw_is: "two empty unary calls, two redb commits and half a round trip by UDP, as seldom",
        target: Target::AtMost(max),
        runs,
        notes,
    };
    Ok(vec![
        figure("call on A to event on B, p50", 0.003, middle, notes),
        figure("call on A to event on B, p99", 0.010, tail, Vec::new()),
    ])
}

#[derive(Default)]
struct Run {
    seen: Durations,
    returned: Durations,
    raw: Durations,
}

impl Run {
    fn sample(&self, percent: usize) -> Sample {
        Sample {
            ours: self.seen.percentile(percent),
            raw: self.raw.percentile(percent),
        }
    }
}

async fn one(settings: &Settings) -> Result<Run> {
    let (mut a, mut b) = (Node::new(settings)?, Node::new(settings)?);
    let (mut near, mut far) = (a.start().await?, b.start().await?);
    near.create(STORE, "kv").await?;
    let token = near.invite(STORE).await?;
    far.join(&token).await?;
    let directory = settings.directory()?;
    let mut raw = RawFile::create(&directory.path().join("raw.redb"))?;
    let echo = Echo::start()?;
    let mut run = Run::default();
    let mut next = tokio::time::Instant::now() + PAUSE;
    // The first put is not measured, because it loads code on B.
    for i in 0..=PUTS {
        let mut watch = far.watch_absent(STORE, i + 1).await?;
        sleep_until(next).await;
        next += PAUSE;
        let started = Instant::now();
        let (put, seen) = tokio::join!(
            async {
                let put = near.put(STORE, i + 1).await;
                (put, started.elapsed())
            },
            async {
                let event = timeout(SEEN_TIME_MAX, watch.event()).await;
                (event, started.elapsed())
            },
        );
        put.0?;
        let event = seen
            .0
            .with_context(|| format!("a call was not seen for {SEEN_TIME_MAX:?}"))??;
        ensure!(event, "a watch told of a change that is none");
        if i == 0 {
            continue;
        }
        run.seen.push(seen.1);
        run.returned.push(put.1);
        // The raw limit also follows a rest, because a processor that has slept is slow at first.
        sleep_until(next - PAUSE / 2).await;
        let started = Instant::now();
        near.ping().await?;
        far.ping().await?;
        let mut took = started.elapsed() + echo.round_trip()? / 2;
        took += raw.commit(1)? + raw.commit(1)?;
        run.raw.push(took);
    }
    Ok(run)
}

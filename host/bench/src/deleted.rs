//! The cost of calls and queries where rows were deleted: a queue that a million items have gone through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use lattice_runtime::values::Value;
use lattice_runtime::{Compiler, Wasm};

use crate::figure::{Durations, Figure, Sample, Target, Unit};
use crate::in_process::{Writer, component};
use crate::settings::Settings;
use crate::workload::{VALUE_BYTES, value};

/// Items that go through the queue.
const ITEMS: u64 = 1_000_000;
/// How many pops are measured at the beginning, and as many at the end.
const MEASURED: u64 = 1_000;
/// How many queries are measured before the first item, and as many after the last.
const QUERIES: u64 = 1_000;
/// How many calls share a commit.
const GROUP: u64 = 64;
/// How many times the time without deleted rows a call or query may take.
const RATIO_MAX: f64 = 1.3;

/// Measures a queue of a million items once, whatever the number of runs, because every pop is a measurement.
///
/// # Errors
/// When the store or a component fails.
pub(crate) fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let directory = settings.directory()?;
    let engine = Wasm::open(&directory.path().join("components"), Compiler::InProcess)?;
    let queue = engine.install(&component(settings, "queue")?)?;
    let system = engine.install(&component(settings, "system")?)?;
    let engine = Arc::new(engine);
    let path = directory.path().join("store");
    let mut writer = Writer::create(&path, &engine, &queue, system.component)?;
    let nothing = scans(&writer)?;
    for pushed in 1..=ITEMS {
        writer.call("push", &[Value::Bytes(value(pushed, VALUE_BYTES))])?;
        if pushed % GROUP == 0 || pushed == ITEMS {
            writer.commit()?;
        }
        if pushed % 100_000 == 0 {
            settings.say(&format!("deleted rows: {pushed} of {ITEMS} items pushed"));
        }
    }
    let first = pops(&mut writer, MEASURED)?;
    let mut left = ITEMS - 2 * MEASURED;
    while left > 0 {
        let count = left.min(100_000);
        pops(&mut writer, count)?;
        left -= count;
        settings.say(&format!("deleted rows: {left} items left to pop"));
    }
    let last = pops(&mut writer, MEASURED)?;
    let emptied = scans(&writer)?;
    let figure = |name: &str, raw_is, ours: Durations, raw: Durations| Figure {
        name: name.into(),
        unit: Unit::Time,
        raw_is,
        target: Target::RatioAtMost(RATIO_MAX),
        runs: vec![Sample {
            ours: ours.p50(),
            raw: raw.p50(),
        }],
        notes: Vec::new(),
    };
    Ok(vec![
        figure(
            "a pop, the last of a million",
            "the first pops of the same million",
            last,
            first,
        ),
        figure(
            "a scan of a range whose million rows were deleted",
            "the same scan before there was a row",
            emptied,
            nothing,
        ),
    ])
}

/// Makes `count` pops, and times each without its share of a commit.
fn pops(writer: &mut Writer<'_>, count: u64) -> Result<Durations> {
    let mut durations = Durations::default();
    for popped in 1..=count {
        let started = Instant::now();
        writer.call("pop", &[])?;
        durations.push(started.elapsed());
        if popped % GROUP == 0 || popped == count {
            writer.commit()?;
        }
    }
    Ok(durations)
}

fn scans(writer: &Writer<'_>) -> Result<Durations> {
    let mut durations = Durations::default();
    let query = || -> Result<Duration> { writer.query("items", &[Value::U32(10)]) };
    // The first query loads code, which is not to be measured.
    query()?;
    for _ in 0..QUERIES {
        durations.push(query()?);
    }
    Ok(durations)
}

//! The kernel with real components, without daemon and socket: the kernel's part of other figures.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use ed25519_dalek::SigningKey;
use lattice_daemon::Verifier;
use lattice_format::{
    Call, ChainId, ComponentId, ComponentRef, DeviceKey, Genesis, Lane, Limits, verify_batch,
};
use lattice_kernel::run::engine::{CallEnd, CallKind};
use lattice_kernel::{Files, LocalSeq, NewStore, Outcome, Store, Stored};
use lattice_runtime::values::{Value, cbor};
use lattice_runtime::{Compiler, Schema, Wasm};

use crate::figure::{Durations, Figure, Sample, Target, Unit};
use crate::raw::RawFile;
use crate::settings::Settings;
use crate::workload::{VALUE_BYTES, key, value};

/// How long a turn of calls or of raw commits takes.
const TURN: Duration = Duration::from_millis(100);
/// How many calls share a commit, and how many such commits are measured.
const GROUP: u64 = 64;
/// Entries of one batch that is received.
const BATCH: usize = 1000;
/// Runs of one slice of a replay.
const SLICE: u64 = 1000;

struct Run {
    call: Sample,
    grouped: Sample,
    entry: Sample,
    received: Duration,
    settled: Duration,
}

/// Measures calls, and entries of a peer.
///
/// # Errors
/// When the store or a component fails.
pub(crate) fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let directory = settings.directory()?;
    let engine = Wasm::open(&directory.path().join("components"), Compiler::InProcess)?;
    let kv = engine.install(&component(settings, "kv")?)?;
    let system = engine.install(&component(settings, "system")?)?;
    let engine = Arc::new(engine);
    let mut runs = Vec::new();
    for number in 1..=settings.runs {
        settings.say(&format!(
            "without daemon, run {number} of {}",
            settings.runs
        ));
        runs.push(one(settings, &engine, &kv, system.component)?);
    }
    let note = |run: &Run| {
        format!(
            "received in {}, run in {} each",
            Unit::Time.show(run.received.as_secs_f64()),
            Unit::Time.show(run.settled.as_secs_f64())
        )
    };
    let figure = |name: &str, raw_is, pick: fn(&Run) -> Sample, notes| Figure {
        name: name.into(),
        unit: Unit::Time,
        raw_is,
        target: Target::None,
        runs: runs.iter().map(pick).collect(),
        notes,
    };
    Ok(vec![
        figure(
            "a call and its commit, without daemon, p50",
            "a redb commit",
            |run| run.call,
            Vec::new(),
        ),
        figure(
            "a call of 64 in a commit, without daemon",
            "a row of 64 in a redb commit",
            |run| run.grouped,
            Vec::new(),
        ),
        figure(
            "an entry of a peer received and run, without daemon",
            "a header verified and appended to redb, 1,000 at a time",
            |run| run.entry,
            runs.iter().map(note).collect(),
        ),
    ])
}

pub(crate) fn component(settings: &Settings, name: &str) -> Result<Vec<u8>> {
    let path = settings.plugins.join(format!("{name}.wasm"));
    std::fs::read(&path)
        .with_context(|| format!("{}: `cargo xtask plugins` makes it", path.display()))
}

fn now_ms() -> Result<u64> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(now.as_millis() as u64)
}

fn one(settings: &Settings, engine: &Arc<Wasm>, kv: &Schema, system: ComponentId) -> Result<Run> {
    let directory = settings.directory()?;
    let mut raw = RawFile::create(&directory.path().join("raw.redb"))?;
    let mut writer = Writer::create(&directory.path().join("a"), engine, kv, system)?;
    let (mut calls, mut commits) = (Durations::default(), Durations::default());
    // The first call loads code, which is not to be measured.
    writer.put()?;
    while writer.next < settings.entries {
        let until = Instant::now() + TURN;
        while Instant::now() < until && writer.next < settings.entries {
            let started = Instant::now();
            writer.put()?;
            writer.commit()?;
            calls.push(started.elapsed());
        }
        let until = Instant::now() + TURN;
        while Instant::now() < until {
            commits.push(raw.commit(1)?);
        }
    }
    let (mut groups, mut group_commits) = (Durations::default(), Durations::default());
    for _ in 0..GROUP {
        let started = Instant::now();
        for _ in 0..GROUP {
            writer.put()?;
        }
        writer.commit()?;
        groups.push(started.elapsed());
        group_commits.push(raw.commit(GROUP)?);
    }
    let entries = writer
        .store
        .snapshot()
        .entries_from(LocalSeq(0), usize::MAX)?;
    let count = usize::try_from(settings.entries)?.min(entries.len() - 1);
    let (received, settled) = replicate(&directory.path().join("b"), engine, &entries[..=count])?;
    let entry = Sample {
        ours: (received + settled).as_secs_f64() / count as f64,
        raw: stored(&mut raw, &entries[1..=count])?.as_secs_f64() / count as f64,
    };
    let each =
        |all: Duration| all / u32::try_from(count).expect("entries are counted in thousands");
    Ok(Run {
        call: Sample {
            ours: calls.p50(),
            raw: commits.p50(),
        },
        grouped: Sample {
            ours: groups.p50() / GROUP as f64,
            raw: group_commits.p50() / GROUP as f64,
        },
        entry,
        received: each(received),
        settled: each(settled),
    })
}

/// A store and its only author.
pub(crate) struct Writer<'a> {
    store: Store,
    app: &'a Schema,
    next: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn create(
        directory: &Path,
        engine: &Arc<Wasm>,
        app: &'a Schema,
        system: ComponentId,
    ) -> Result<Writer<'a>> {
        let component = |id, name: &str| ComponentRef {
            id,
            name: name.into(),
        };
        let genesis = Genesis {
            system: component(system, "system"),
            app: Some(component(app.component, "app")),
            system_params: Vec::new(),
            app_params: Vec::new(),
            limits: Limits::default(),
            profile: lattice_runtime::profile::PROFILE,
            drift_ms: lattice_kernel::limits::DRIFT_MS_DEFAULT,
            order_rule: 1,
            root_rule: 1,
            recovery_keys: Vec::new(),
            encryption: 0,
            parent: None,
            finality_rule: 0,
        };
        let spec = NewStore {
            genesis,
            admits: Vec::new(),
            chain: ChainId(1),
        };
        std::fs::create_dir_all(directory)?;
        let key = SigningKey::from_bytes(&[1; 32]);
        let store = Store::create(
            Files::in_dir(directory)?,
            engine.clone(),
            key,
            spec,
            now_ms()?,
        )?;
        Ok(Writer {
            store,
            app,
            next: 0,
        })
    }

    /// Puts a fresh key into a kv store.
    pub(crate) fn put(&mut self) -> Result<()> {
        self.next += 1;
        let values = [
            Value::String(key(self.next)),
            Value::Bytes(value(self.next, VALUE_BYTES)),
        ];
        self.call("put", &values)
    }

    /// Runs a command, which must succeed.
    pub(crate) fn call(&mut self, name: &str, values: &[Value]) -> Result<()> {
        let call = self.call_of(CallKind::Command, name, values)?;
        let told = self
            .store
            .call(Lane::App, vec![call], now_ms()?, ChainId(1))?;
        ensure!(
            matches!(told.outcome, Outcome::Ok(_)),
            "`{name}` ended with {:?}",
            told.outcome
        );
        Ok(())
    }

    /// Runs a query, which must succeed, and returns how long it took.
    pub(crate) fn query(&self, name: &str, values: &[Value]) -> Result<Duration> {
        let call = self.call_of(CallKind::Query, name, values)?;
        let snapshot = self.store.snapshot();
        let started = Instant::now();
        let queried = snapshot.query(&call, Lane::App, Limits::default().fuel)?;
        let took = started.elapsed();
        ensure!(
            matches!(queried.end, CallEnd::Ok(_)),
            "`{name}` ended with {:?}",
            queried.end
        );
        Ok(took)
    }

    fn call_of(&self, kind: CallKind, name: &str, values: &[Value]) -> Result<Call> {
        let [(interface, function)] = self.app.find(kind, name)[..] else {
            bail!("the component has no one function `{name}`");
        };
        Ok(Call {
            interface: interface.id.clone(),
            function: function.name.clone(),
            args: cbor::encode_all(function.param_types(), values),
        })
    }

    pub(crate) fn close(self) -> Result<()> {
        Ok(self.store.close(now_ms()?)?)
    }

    pub(crate) fn commit(&mut self) -> Result<()> {
        self.store.commit(now_ms()?)?;
        // Changes pile up until they are taken, and here no watch takes them.
        self.store.take_changes();
        Ok(())
    }
}

/// Lets another node receive a log and run its entries. Returns how long each of the two took.
fn replicate(
    directory: &Path,
    engine: &Arc<Wasm>,
    entries: &[Stored],
) -> Result<(Duration, Duration)> {
    let (genesis, rest) = entries.split_first().context("an empty log")?;
    let parts = |entry: &Stored| {
        (
            entry.header.signed().clone(),
            entry.body.as_ref().map(|body| body.to_vec()),
        )
    };
    let (header, body) = parts(genesis);
    std::fs::create_dir_all(directory)?;
    let key = SigningKey::from_bytes(&[2; 32]);
    let from = DeviceKey(SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes());
    let genesis = (header, body.context("a genesis without a body")?);
    let mut store = Store::adopt(
        Files::in_dir(directory)?,
        engine.clone(),
        key,
        genesis,
        now_ms()?,
    )?;
    let (mut receiving, mut settling) = (Duration::ZERO, Duration::ZERO);
    for batch in rest.chunks(BATCH) {
        let batch: Vec<_> = batch.iter().map(parts).collect();
        let started = Instant::now();
        let received = store.receive(from, batch, now_ms()?, Verifier([3; 32]))?;
        receiving += started.elapsed();
        ensure!(
            received.blame.is_empty(),
            "an entry of our own is refused: {:?}",
            received.blame
        );
        let started = Instant::now();
        while store.settle(SLICE)?.pending > 0 {}
        settling += started.elapsed();
        store.take_changes();
    }
    let (ours, count) = (store.snapshot().summary().applied, entries.len() as u64);
    ensure!(ours == count, "{ours} of {count} entries were run");
    Ok((receiving, settling))
}

/// The raw limit: verifies and stores the same bytes, and does nothing else. Returns how long that took.
fn stored(raw: &mut RawFile, entries: &[Stored]) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for batch in entries.chunks(BATCH) {
        let headers: Vec<_> = batch
            .iter()
            .map(|entry| entry.header.signed().clone())
            .collect();
        let rows: Vec<Vec<u8>> = batch
            .iter()
            .map(|entry| {
                [
                    &entry.header.signed().bytes[..],
                    entry.body.as_deref().unwrap_or_default(),
                ]
                .concat()
            })
            .collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let started = Instant::now();
        let verified = verify_batch(headers, &[4; 32]);
        took += started.elapsed();
        ensure!(
            verified.iter().all(Result::is_ok),
            "a signature of our own does not hold"
        );
        took += raw.append(&rows)?;
    }
    Ok(took)
}

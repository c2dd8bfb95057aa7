//! Calls and queries through one daemon: of one client, of 64 clients, and the raw limits in between.
//!
//! The configurations take turns of a fraction of a second, so that whatever else the machine does slows
//! them all down alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::figure::{Durations, Figure, Sample, Target, Unit};
use crate::node::Node;
use crate::raw::RawFile;
use crate::settings::Settings;

/// Clients of the loaded configurations, each with one outstanding call and a connection of its own.
const CLIENTS: usize = 64;
/// How long a turn of a configuration takes.
const TURN: Duration = Duration::from_millis(200);
/// Calls before anything is measured: they load code and fill caches.
const WARM_UP: u64 = 200;

#[derive(Default)]
struct Run {
    ping: Load,
    floor: Load,
    call: Load,
    query: Load,
    floor_many: Load,
    call_many: Load,
}

/// The load of one configuration, summed over its turns.
#[derive(Default)]
struct Load {
    durations: Durations,
    /// Operations done. One duration may cover several of them.
    count: u64,
    active: Duration,
    /// Processor time that the daemon used.
    cpu: Duration,
}

impl Load {
    fn rate(&self) -> f64 {
        self.count as f64 / self.active.as_secs_f64()
    }

    fn add(&mut self, durations: Durations, count: u64, active: Duration, cpu: Duration) {
        self.count += count;
        self.durations.append(durations);
        self.active += active;
        self.cpu += cpu;
    }

    fn note(&self, what: &str) -> String {
        format!(
            "{what}: {:.0}/s, p50 {}, p99 {}, {} of the daemon's processor time each",
            self.rate(),
            Unit::Time.show(self.durations.p50()),
            Unit::Time.show(self.durations.percentile(99)),
            Unit::Time.show(self.cpu.as_secs_f64() / self.count as f64),
        )
    }
}

/// The request that a turn repeats.
#[derive(Clone, Copy)]
enum Request {
    Ping,
    Put,
    Get,
}

/// Measures calls and queries.
///
/// # Errors
/// When the daemon or a call fails.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let (mut call, mut speedup, mut query) = (Vec::new(), Vec::new(), Vec::new());
    let mut notes = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=settings.runs {
        settings.say(&format!(
            "calls and queries, run {number} of {}",
            settings.runs
        ));
        let run = one(settings).await?;
        call.push(Sample {
            ours: run.call.durations.p50(),
            raw: run.floor.durations.p50(),
        });
        speedup.push(Sample {
            ours: run.call_many.rate() / run.call.rate(),
            raw: run.floor_many.rate() / run.floor.rate(),
        });
        query.push(Sample {
            ours: run.query.durations.p50(),
            raw: run.ping.durations.p50(),
        });
        notes.0.extend([
            run.ping.note("empty unary call"),
            run.floor.note("empty unary call and a commit"),
            run.call.note("call"),
        ]);
        notes.1.extend([
            run.floor_many
                .note("64 empty unary calls and a commit of 64 rows"),
            run.call_many.note("64 clients, call"),
        ]);
        notes.2.push(run.query.note("query"));
    }
    Ok(vec![
        Figure {
            name: "one client's durable call, p50".into(),
            unit: Unit::Time,
            raw_is: "an empty unary call and then a redb commit",
            target: Target::RatioAtMost(2.0),
            runs: call,
            notes: notes.0,
        },
        Figure {
            name: "64 clients' calls a second, by one client's".into(),
            unit: Unit::Times,
            raw_is: "64 empty unary calls at once and then a redb commit of 64 rows, by one of each",
            target: Target::AtLeast(5.0),
            runs: speedup,
            notes: notes.1,
        },
        Figure {
            name: "a query, p50".into(),
            unit: Unit::Time,
            raw_is: "an empty unary call",
            target: Target::RatioAtMost(2.0),
            runs: query,
            notes: notes.2,
        },
    ])
}

async fn one(settings: &Settings) -> Result<Run> {
    let mut node = Node::new(settings)?;
    let client = node.start().await?;
    let directory = settings.directory()?;
    let mut raw = RawFile::create(&directory.path().join("raw.redb"))?;
    let mut raw_many = RawFile::create(&directory.path().join("many.redb"))?;
    // Each has a store of its own, so that what 64 clients write does not slow the single one down.
    let mut one = Clients::new("one", vec![client]).await?;
    let mut connections = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        connections.push(node.connect().await?);
    }
    let mut many = Clients::new("many", connections).await?;
    let mut run = Run::default();
    let turns = settings.load.as_millis().div_ceil(TURN.as_millis());
    for _ in 0..turns {
        one.turn(&node, Request::Ping, &mut run.ping).await?;
        one.floor(&node, &mut raw, &mut run.floor).await?;
        one.turn(&node, Request::Put, &mut run.call).await?;
        one.turn(&node, Request::Get, &mut run.query).await?;
        many.floor(&node, &mut raw_many, &mut run.floor_many)
            .await?;
        many.turn(&node, Request::Put, &mut run.call_many).await?;
    }
    Ok(run)
}

/// Clients that load one store together.
struct Clients {
    store: &'static str,
    clients: Vec<Client>,
    /// The number of the next key.
    next: Arc<AtomicU64>,
}

impl Clients {
    /// Makes the store, and makes the calls of the warm-up.
    async fn new(store: &'static str, mut clients: Vec<Client>) -> Result<Clients> {
        let first = &mut clients[0];
        first.create(store, "kv").await?;
        for i in 1..=WARM_UP {
            first.put(store, i).await?;
            ensure!(first.has(store, i).await?, "a put is not read back");
        }
        Ok(Clients {
            store,
            clients,
            next: Arc::new(AtomicU64::new(WARM_UP + 1)),
        })
    }

    /// Measures the raw limit for one turn. It repeats the least that durable calls of these clients need: an empty
    /// call of each at once, and then a commit that their rows share. The disk rests during the empty calls, as it
    /// does during calls.
    async fn floor(&mut self, node: &Node, raw: &mut RawFile, load: &mut Load) -> Result<()> {
        let before = node.cpu_time()?;
        let started = Instant::now();
        let mut durations = Durations::default();
        while started.elapsed() < TURN {
            let now = Instant::now();
            match &mut self.clients[..] {
                [client] => client.ping().await?,
                clients => {
                    let mut tasks = JoinSet::new();
                    for mut client in clients.iter().cloned() {
                        tasks.spawn(async move { client.ping().await });
                    }
                    for done in tasks.join_all().await {
                        done?;
                    }
                }
            }
            raw.commit(self.clients.len() as u64)?;
            durations.push(now.elapsed());
        }
        let count = (durations.len() * self.clients.len()) as u64;
        load.add(
            durations,
            count,
            started.elapsed(),
            node.cpu_time()? - before,
        );
        Ok(())
    }

    /// Lets every client repeat the request for one turn.
    async fn turn(&mut self, node: &Node, request: Request, load: &mut Load) -> Result<()> {
        let before = node.cpu_time()?;
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for client in &self.clients {
            let (store, next) = (self.store, self.next.clone());
            tasks.spawn(repeat(client.clone(), store, next, request, started + TURN));
        }
        let mut durations = Durations::default();
        for done in tasks.join_all().await {
            durations.append(done?);
        }
        let count = durations.len() as u64;
        load.add(
            durations,
            count,
            started.elapsed(),
            node.cpu_time()? - before,
        );
        Ok(())
    }
}

async fn repeat(
    mut client: Client,
    store: &'static str,
    next: Arc<AtomicU64>,
    request: Request,
    until: Instant,
) -> Result<Durations> {
    let mut durations = Durations::default();
    let mut now = Instant::now();
    while now < until {
        match request {
            Request::Ping => client.ping().await?,
            Request::Put => {
                client
                    .put(store, next.fetch_add(1, Ordering::Relaxed))
                    .await?
            }
            Request::Get => {
                // Any key of the warm-up will do, because all of them are there.
                let i = 1 + durations.len() as u64 % WARM_UP;
                ensure!(client.has(store, i).await?, "the key number {i} is gone");
            }
        }
        let done = Instant::now();
        durations.push(done - now);
        now = done;
    }
    Ok(durations)
}

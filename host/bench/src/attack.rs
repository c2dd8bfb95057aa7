//! Calls of one client on a quiet store, while another store of the same daemon runs hostile guests.
//!
//! Undisturbed turns and turns under each attack alternate, so that whatever else the machine does slows
//! both down alike. The figure compares 99th percentiles, not medians.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::{Abuse, Client};
use crate::figure::{Durations, Figure, Sample, Target, Unit};
use crate::node::{Node, Resident};
use crate::settings::Settings;

const QUIET: &str = "quiet";
/// The store of the hostile guests, and the name of its component.
const HOSTILE: &str = "hostile";
/// How long a turn takes. Several runs of the longest abuse fit into it.
const TURN: Duration = Duration::from_millis(500);
/// How long an attack goes on before anything is measured.
const LEAD: Duration = Duration::from_millis(50);
/// Calls before anything is measured: they load code and fill caches.
const WARM_UP: u64 = 200;

/// The attacks. A store runs one command at a time, and several queries at the same time.
const ATTACKS: [Abuse; 6] = [
    Abuse {
        name: "a guest loops",
        function: "spin",
        arguments: &[],
        is_query: false,
        clients: 1,
    },
    Abuse {
        name: "a guest takes all memory",
        function: "memory-bomb",
        arguments: &[],
        is_query: false,
        clients: 1,
    },
    Abuse {
        name: "a guest emits 1 GB",
        function: "emit",
        arguments: &["1000000000"],
        is_query: false,
        clients: 1,
    },
    Abuse {
        name: "a guest recurses",
        function: "recurse",
        arguments: &[],
        is_query: false,
        clients: 1,
    },
    Abuse {
        name: "a guest writes without end",
        function: "write-flood",
        arguments: &["1000000", "262144"],
        is_query: false,
        clients: 1,
    },
    Abuse {
        name: "eight queries loop",
        function: "spin-query",
        arguments: &[],
        is_query: true,
        clients: 8,
    },
];

struct Run {
    undisturbed: Durations,
    attacked: [Attacked; ATTACKS.len()],
}

/// The quiet store's calls under one attack.
#[derive(Default)]
struct Attacked {
    durations: Durations,
    /// How often the guest ended during these calls.
    abuse_count: u64,
    /// How often the guest ended because this node lacked a resource.
    fault_count: u64,
    /// The most memory that was resident at the end of a turn, in bytes.
    resident_bytes: u64,
}

/// Measures calls under attack.
///
/// # Errors
/// When the daemon goes down, or a call of the quiet store fails.
pub(crate) async fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let mut runs = Vec::new();
    for number in 1..=settings.runs {
        settings.say(&format!("under attack, run {number} of {}", settings.runs));
        runs.push(one(settings).await?);
    }
    let figures = ATTACKS.iter().enumerate().map(|(index, abuse)| Figure {
        name: format!("a call while {}, p99", abuse.name),
        unit: Unit::Time,
        raw_is: "the same calls of the same store without an attack",
        target: Target::SlowdownAtMost(3.0),
        runs: runs
            .iter()
            .map(|run| Sample {
                ours: run.attacked[index].durations.percentile(99),
                raw: run.undisturbed.percentile(99),
            })
            .collect(),
        notes: runs.iter().map(|run| note(run, index)).collect(),
    });
    Ok(figures.collect())
}

fn note(run: &Run, index: usize) -> String {
    let attacked = &run.attacked[index];
    let show = |durations: &Durations| {
        let at = |percent| Unit::Time.show(durations.percentile(percent));
        format!("{} calls, p50 {}, p99 {}", durations.len(), at(50), at(99))
    };
    format!(
        "{}; undisturbed {}; {} abuses meanwhile, {} of them faults of the node; {} resident at most",
        show(&attacked.durations),
        show(&run.undisturbed),
        attacked.abuse_count,
        attacked.fault_count,
        Unit::Bytes.show(attacked.resident_bytes as f64),
    )
}

async fn one(settings: &Settings) -> Result<Run> {
    let mut node = Node::new(settings)?;
    let mut client = node.start().await?;
    let hostile = settings.plugins.join("hostile.wasm");
    client.install(HOSTILE, &hostile).await?;
    client.create(HOSTILE, HOSTILE).await?;
    client.create(QUIET, "kv").await?;
    let mut next = 1;
    while next <= WARM_UP {
        client.put(QUIET, next).await?;
        next += 1;
    }
    let mut run = Run {
        undisturbed: Durations::default(),
        attacked: Default::default(),
    };
    let turns = settings.load.as_millis().div_ceil(TURN.as_millis());
    for _ in 0..turns {
        for (index, abuse) in ATTACKS.iter().enumerate() {
            run.undisturbed.append(calls(&mut client, &mut next).await?);
            let attack = Attack::start(&node, abuse).await?;
            tokio::time::sleep(LEAD).await;
            let durations = calls(&mut client, &mut next).await?;
            let Resident { all, .. } = node.resident_bytes()?;
            let attacked = &mut run.attacked[index];
            attacked.durations.append(durations);
            attacked.resident_bytes = attacked.resident_bytes.max(all);
            let (abuse_count, fault_count) = attack.end().await?;
            attacked.abuse_count += abuse_count;
            attacked.fault_count += fault_count;
        }
    }
    for (abuse, attacked) in ATTACKS.iter().zip(&run.attacked) {
        ensure!(attacked.abuse_count > 0, "{}: never ended", abuse.name);
    }
    Ok(run)
}

/// The calls of one turn on the quiet store, one after the other.
async fn calls(client: &mut Client, next: &mut u64) -> Result<Durations> {
    let mut durations = Durations::default();
    let began = Instant::now();
    let mut now = began;
    while now < began + TURN {
        client.put(QUIET, *next).await?;
        *next += 1;
        let done = Instant::now();
        durations.push(done - now);
        now = done;
    }
    Ok(durations)
}

/// Clients that ask for an abuse again and again.
struct Attack {
    tasks: JoinSet<Result<()>>,
    over: Arc<AtomicBool>,
    abuse_count: Arc<AtomicU64>,
    fault_count: Arc<AtomicU64>,
}

impl Attack {
    async fn start(node: &Node, abuse: &'static Abuse) -> Result<Attack> {
        let mut attack = Attack {
            tasks: JoinSet::new(),
            over: Arc::default(),
            abuse_count: Arc::default(),
            fault_count: Arc::default(),
        };
        for _ in 0..abuse.clients {
            let mut client = node.connect().await?;
            let over = attack.over.clone();
            let abuse_count = attack.abuse_count.clone();
            let fault_count = attack.fault_count.clone();
            attack.tasks.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let trapped = client.abuse(HOSTILE, abuse).await?;
                    abuse_count.fetch_add(1, Ordering::Relaxed);
                    fault_count.fetch_add(u64::from(!trapped), Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Ok(attack)
    }

    /// Waits until the last abuses have ended. Returns how many there were, and how many were faults of the node.
    async fn end(self) -> Result<(u64, u64)> {
        self.over.store(true, Ordering::Relaxed);
        for done in self.tasks.join_all().await {
            done?;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok((count(&self.abuse_count), count(&self.fault_count)))
    }
}

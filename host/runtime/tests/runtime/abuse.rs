//! Hostile guests beside honest ones: the same on every replica, within memory, and no other store
//! waits for them.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lattice_format::Limits;
use lattice_kernel::run::engine::HostFault;
use lattice_kernel::sync::Governance;
use lattice_kernel::{BatchVerifier, Files, Outcome, Store, TrapKind};
use lattice_testing::{device, key};

use crate::node::{Node, WASM, built, engine, raw};
use crate::order::apps::{App, Spec};
use crate::order::case::{Act, Change, Event};
use crate::order::world::{OUTSIDER, START_MS, World, all, wire};

/// Everything that `hostile` can do and that ends in an outcome.
const ABUSES: [(&str, &[&str]); 11] = [
    ("spin", &[]),
    ("memory-bomb", &[]),
    ("memory-most", &[]),
    ("recurse", &[]),
    ("trap", &[]),
    ("out-of-bounds", &[]),
    ("emit", &["1000000000"]),
    ("emit-strings", &["20000"]),
    ("refuse-with", &["2000000"]),
    ("write-flood", &["1000000", "262144"]),
    ("read-flood", &["100000000"]),
];

fn hostile(limits: Limits) -> Node {
    Node::with_limits(&built("hostile"), limits)
}

/// Holds: invariant 9.
#[test]
fn calls_logged_that_nest_too_deep_come_out_the_same_on_each_replica() {
    let mut world = World::new(App::Hostile, 3);
    let mut signed = |function, ahead_ms| {
        let calls = Act::Calls(vec![vec![Spec::new(function, [""; 0])]]);
        world.sign(0, &calls, 0, false, ahead_ms).unwrap()
    };
    let abuse = vec![signed("recurse", 0), signed("trap", 10)];
    let claim = Change::Claim {
        slot: 0,
        whom: OUTSIDER,
        honest: true,
    };
    let by = 1;
    let act = Act::Govern(vec![claim]);
    world.step(&Event::Local { by, act });
    let honest: Vec<_> = all(&world.store(by).snapshot()).iter().map(wire).collect();
    let mut seen = Vec::new();
    for (number, batches) in [(10, [&abuse, &honest]), (11, [&honest, &abuse])] {
        let mut replica = world.adopt(number);
        for batch in batches {
            let received = replica
                .receive(device(200), batch.clone(), START_MS, BatchVerifier([7; 32]))
                .unwrap();
            assert_eq!(received.blame, vec![]);
        }
        let settled = replica.settle(1_000).unwrap();
        assert_eq!((settled.pending, settled.app_paused), (0, None));
        let snapshot = replica.snapshot();
        let rows = snapshot.history(None, 100, false).unwrap();
        let kinds: Vec<_> = rows
            .iter()
            .flat_map(|row| &row.outcomes)
            .filter_map(|outcome| match outcome {
                Outcome::Trapped { kind, .. } => Some(*kind),
                _ => None,
            })
            .collect();
        assert_eq!(kinds, [TrapKind::Depth, TrapKind::Guest]);
        seen.push(snapshot.summary().outcome_root);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn a_fault_of_the_host_pauses_the_lane_that_it_is_in() {
    let author = Node::new(&built("counter"));
    let entries: Vec<_> = all(&author.store.snapshot()).iter().map(wire).collect();
    let (wasm, _dir) = engine();
    wasm.install(&built("system")).unwrap();
    let (header, body) = entries[0].clone();
    let files = tempfile::tempdir().unwrap();
    let replica = Store::adopt(
        Files::in_dir(files.path()).unwrap(),
        wasm.clone(),
        key(9),
        (header, body.unwrap()),
        START_MS,
    );
    let mut replica = replica.unwrap();
    let settled = replica.settle(1_000).unwrap();
    let missing = HostFault::MissingCode(author.schema.component);
    assert_eq!(settled.app_paused, Some(missing));
    assert_eq!(settled.system_paused, None);
    let members = Governance::read(&replica.snapshot()).unwrap();
    assert_eq!(members.count(), 1, "governance goes on");
    // It goes on by itself when the fault is over.
    wasm.install(&built("counter")).unwrap();
    let settled = replica.settle(1_000).unwrap();
    assert_eq!((settled.app_paused, settled.pending), (None, 0));
    let roots = |store: &Store| {
        let snapshot = store.snapshot();
        (
            snapshot.summary().state_root,
            snapshot.summary().outcome_root,
        )
    };
    assert_eq!(roots(&replica), roots(&author.store));
}

/// Holds: invariant 9.
#[test]
fn other_stores_serve_while_guests_rage() {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut node = hostile(Limits {
                fuel: 200_000_000,
                ..Limits::default()
            });
            while !over.load(Ordering::Relaxed) {
                for (name, args) in ABUSES {
                    node.call(name, args);
                }
            }
        });
        let mut honest = Node::new(&built("counter"));
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        let mut count = 0;
        while began.elapsed() < Duration::from_secs(2) {
            let call = Instant::now();
            assert_eq!(honest.call("add", &["1"]), "");
            longest = longest.max(call.elapsed());
            count += 1;
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(honest.query("value", &[]), count.to_string());
        // Far more than a call takes, far less than waiting for a guest's whole fuel would.
        assert!(longest < Duration::from_secs(1), "a call took {longest:?}");
        assert!(count > 20, "{count} calls in 2 seconds");
    });
}

/// The figure of a line of `/proc/self/status`, in bytes.
#[cfg(target_os = "linux")]
fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// Says to the test below that the process is its own.
#[cfg(target_os = "linux")]
const ALONE: &str = "LATTICE_TEST_ALONE";

/// Memory is a figure of a whole process, so this test runs itself in one of its own.
/// Holds: invariant 9.
#[cfg(target_os = "linux")]
#[test]
fn memory_peaks_within_the_guest_s_limit_and_comes_back() {
    if std::env::var_os(ALONE).is_some() {
        return memory_in_a_process_of_its_own();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "abuse::memory_peaks_within_the_guest_s_limit_and_comes_back",
            "--exact",
            "--nocapture",
        ])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    // A name that no test has would pass as well.
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[cfg(target_os = "linux")]
fn memory_in_a_process_of_its_own() {
    const MIB: u64 = 1024 * 1024;
    let limits = Limits::default();
    let mut nodes = [hostile(limits), Node::new(&raw("table-bomb"))];
    let [node, tables] = &mut nodes;
    assert_eq!(node.call("echo", &["x"]), "\"x\"");
    tables.call("grow", &[]);
    let before = status_bytes("VmRSS");
    let allowed = limits.memory_bytes + 64 * MIB;
    let peak_of = |name: &str, abuse: &mut dyn FnMut()| {
        // Writing 5 there sets the peak back to what is resident now.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        abuse();
        let peak = status_bytes("VmHWM") - before;
        println!("{name}: {} MiB above {}", peak / MIB, before / MIB);
        assert!(peak <= allowed, "{name}: {peak} bytes exceed {allowed}");
    };
    for (name, args) in ABUSES {
        peak_of(name, &mut || {
            node.call(name, args);
        });
    }
    peak_of("memory-query", &mut || {
        node.query("memory-query", &[]);
    });
    peak_of("a table", &mut || {
        tables.call("grow-or-trap", &[]);
    });
    // Twice what is allowed for a component: refused by its size, its bytes are gone with it.
    assert!(WASM.install(&vec![0; 64 << 20]).is_err());
    let began = Instant::now();
    loop {
        let left = status_bytes("VmRSS").saturating_sub(before);
        if left <= 16 * MIB {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{left} bytes did not come back"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(node.call("echo", &["x"]), "\"x\"");
}

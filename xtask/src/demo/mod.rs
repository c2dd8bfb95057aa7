//! The demo: two nodes that stay equal through late joining, separation and crashes, shown and checked.
//!
//! Node A installs a component that is not bundled and makes a store of it. Node B has never seen the component: it
//! joins by token and receives the component by hash. B is killed while it writes, both write while apart, B comes
//! back, and the demo compares histories, outcomes and roots. Then it writes real input on A and reads it on B: every
//! package of Cargo.lock, and the repository's commit log.

mod claims;
mod input;
mod table;
mod view;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::claims::Claims;
use self::view::{compare_views, history, print_history_end, status, wait_equal};
use crate::node::Node;
use crate::{plugins, ship};

/// How many calls each node makes while the two are apart.
const CALLS_APART: u32 = 20;

/// How many calls of the killed node must have been acknowledged before it is killed.
const CALLS_BEFORE_KILL: u32 = 10;
/// How long the calls before the kill may take.
const CALLS_TIME_MAX: Duration = Duration::from_secs(60);

/// The store of the component that is not bundled.
const BANK: &str = "accounts";

/// Runs the demo with the `lattice` of the last shipping build.
///
/// # Errors
///
/// When a step fails, or something that should hold does not.
pub fn run(root: &Path) -> Result<()> {
    let program = ship::program();
    let mut a = Node::new("A", &program)?;
    let mut b = Node::new("B", &program)?;
    let mut claims = Claims::default();

    println!("1. Two nodes on loopback, without relays and discovery");
    println!("   A: {}", a.start()?);
    println!("   B: {}", b.start()?);
    share_component(&a, &b, &mut claims)?;
    crash_and_part(&a, &mut b, &mut claims)?;
    input::load_packages(root, &a, &b, &mut claims)?;
    input::load_commits(root, &a, &b, &mut claims)?;

    println!("6. Both nodes end when asked to");
    for node in [&mut a, &mut b] {
        let time = node.stop()?;
        claims.hold(
            &format!("a daemon ended cleanly in {} ms", time.as_millis()),
            true,
            String::new,
        );
    }
    claims.verdict()
}

/// Installs the component on A alone, and lets B join a store of it.
fn share_component(a: &Node, b: &Node, claims: &mut Claims) -> Result<()> {
    println!("2. A component that is not bundled reaches B by its hash");
    let component = plugins::directory().join("bank.wasm");
    a.text(&["plugin", "install", &component.display().to_string()])?;
    let hash =
        view::plugin_hash(a, "bank")?.context("A lists no plugin `bank` after installing it")?;
    println!("   installed on A: bank {hash}");
    let before = view::plugin_hashes(b)?;
    claims.hold("B has never seen it", !before.contains(&hash), || {
        format!("B lists {before:?}")
    });

    a.text(&["store", "create", BANK, "--plugin", "bank"])?;
    join(a, b, BANK)?;
    let after = view::plugin_hashes(b)?;
    claims.hold("B has it after joining", after.contains(&hash), || {
        format!("B lists {after:?}")
    });

    a.text(&["call", BANK, "open", "ada"])?;
    a.text(&["call", BANK, "deposit", "ada", "100"])?;
    wait_equal(a, b, BANK)?;
    b.text(&["call", BANK, "open", "bob"])?;
    b.text(&["call", BANK, "transfer", "ada", "bob", "30"])?;
    wait_equal(a, b, BANK)?;
    let balance = |node: &Node, account| node.text(&["query", BANK, "balance", account]);
    let (ada, bob) = (balance(b, "ada")?, balance(a, "bob")?);
    println!("   ada has {ada} on B, bob has {bob} on A");
    claims.hold(
        "both call it and see each other's calls",
        ada == "some(70)" && bob == "some(30)",
        || format!("expected some(70) and some(30), found {ada} and {bob}"),
    );
    let refused = b.run(&["call", BANK, "withdraw", "bob", "31"])?;
    claims.hold(
        "an overdraft is refused with exit code 1",
        refused.status.code() == Some(1),
        || format!("{refused:?}"),
    );
    Ok(())
}

/// Kills B in the middle of its writes, lets both write while apart, and compares them when B is back.
fn crash_and_part(a: &Node, b: &mut Node, claims: &mut Claims) -> Result<()> {
    println!("3. B is killed with SIGKILL while it writes, and both write while apart");
    let acknowledged = write_until_killed(b)?;
    println!("   B was killed after {acknowledged} acknowledged calls");
    for _ in 0..CALLS_APART {
        a.text(&["call", BANK, "deposit", "ada", "5"])?;
        // Without a daemon the command opens the home itself, so B can work alone.
        b.text(&["call", BANK, "deposit", "bob", "2"])?;
    }
    // Each withdrawal is within the balance that its side knows. Together they overdraw, so the later one is refused.
    a.text(&["call", BANK, "withdraw", "bob", "25"])?;
    b.text(&["call", BANK, "withdraw", "bob", "60"])?;
    let (root_a, root_b) = (status(a, BANK)?.state_root, status(b, BANK)?.state_root);
    claims.hold("they differ while apart", root_a != root_b, || {
        format!("both have the root {root_a}")
    });

    println!("4. B comes back");
    b.start()?;
    let time = wait_equal(a, b, BANK)?;
    println!("   equal again after {} ms", time.as_millis());
    println!("   so ends the history of {BANK}, as A tells it:");
    print_history_end(&history(a, BANK)?, [a, b])?;
    compare_views(a, b, BANK, claims)?;
    let (ada, bob) = (
        b.text(&["query", BANK, "balance", "ada"])?,
        a.text(&["query", BANK, "balance", "bob"])?,
    );
    let (ada_expected, bob_expected) = (70 + 5 * CALLS_APART, 30 + 2 * CALLS_APART - 25);
    let is_expected =
        ada == format!("some({ada_expected})") && bob == format!("some({bob_expected})");
    claims.hold(
        "both hold what was written while apart, and the later overdraft gave way",
        is_expected,
        || format!("expected {ada_expected} and {bob_expected}, found {ada} and {bob}"),
    );
    let notices = b.json(&["notices"])?["notices"]
        .as_array()
        .map_or(0, Vec::len);
    claims.hold(
        "B's user is told that the outcome has changed",
        notices > 0,
        String::new,
    );

    // Calls that B acknowledged before it was killed must be there.
    let total = a.text(&["query", BANK, "balance", "carol"])?;
    let kept = total
        .trim_start_matches("some(")
        .trim_end_matches(')')
        .parse::<u32>();
    let kept = kept.with_context(|| format!("carol has {total}"))?;
    println!("   carol has {kept}, of {acknowledged} acknowledged deposits of 1");
    // The call that ran when the signal came may or may not have reached the disk.
    claims.hold(
        "nothing acknowledged is lost",
        kept == acknowledged || kept == acknowledged + 1,
        || format!("{acknowledged} deposits were acknowledged, {kept} are there"),
    );
    Ok(())
}

/// Makes calls on B without a pause and kills its daemon in between. Returns how many were acknowledged.
fn write_until_killed(b: &mut Node) -> Result<u32> {
    b.text(&["call", BANK, "open", "carol"])?;
    let (acknowledged, is_killed) = (AtomicU32::new(0), AtomicBool::new(false));
    // The writer has a caller of its own, because killing the node borrows the node.
    let caller = b.caller();
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            while !is_killed.load(Ordering::SeqCst) {
                let output = caller
                    .command(&["call", BANK, "deposit", "carol", "1"])
                    .output()?;
                if output.status.success() {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                } else if !is_killed.load(Ordering::SeqCst) {
                    bail!(
                        "a call failed before the kill: {}",
                        String::from_utf8_lossy(&output.stderr).trim()
                    );
                }
            }
            Ok(())
        });
        let deadline = Instant::now() + CALLS_TIME_MAX;
        while acknowledged.load(Ordering::SeqCst) < CALLS_BEFORE_KILL && !writer.is_finished() {
            ensure!(
                Instant::now() < deadline,
                "B did not make {CALLS_BEFORE_KILL} calls in {CALLS_TIME_MAX:?}"
            );
            thread::sleep(Duration::from_millis(1));
        }
        // The flag is set first, so that a failure by the kill is never taken for an earlier one. A call that starts in
        // between finds no daemon, opens the home, and is acknowledged like any other.
        is_killed.store(true, Ordering::SeqCst);
        b.kill9()?;
        writer.join().expect("the writer does not panic")
    })?;
    Ok(acknowledged.load(Ordering::SeqCst))
}
/// Invites B into a store of A, and waits until both are equal.
fn join(a: &Node, b: &Node, store: &str) -> Result<()> {
    let invite = a.json(&["store", "invite", store])?;
    let token = invite["token"]
        .as_str()
        .with_context(|| format!("an invite without a token: {invite}"))?;
    b.text(&["store", "join", token, "--yes"])?;
    wait_equal(a, b, store)?;
    Ok(())
}

//! Nodes whose clocks are wrong: what they sign, what they say about it, and how they go on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lattice_daemon::{ClockOptions, api};
use lattice_testing::advice;

use crate::support::{Client, Daemon, exit_class, home, until_free};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const YEAR_MS: i64 = 365 * DAY_MS;

fn skewed(skew_ms: i64) -> ClockOptions {
    ClockOptions {
        skew_ms,
        ..ClockOptions::default()
    }
}

/// A clock that a test sets while its node runs.
fn settable() -> (&'static AtomicI64, ClockOptions) {
    let steps: &'static AtomicI64 = Box::leak(Box::default());
    let options = ClockOptions {
        steps_ms: Some(steps),
        ..ClockOptions::default()
    };
    (steps, options)
}

async fn restart(home: &Path, clock: ClockOptions) -> Daemon {
    until_free(home).await;
    Daemon::with_clock(home, clock).await
}

async fn restart_at(home: &Path, address: SocketAddr) -> Daemon {
    until_free(home).await;
    Daemon::start_at(home, address).await
}

/// A call that is not signed. Returns what the person is told.
async fn refused(client: &mut Client, store: &str) -> String {
    let status = client.try_call(store, "add", &["1"]).await.unwrap_err();
    let (class, said) = exit_class(&status);
    assert_eq!(class, api::ExitClass::NotReady, "{said}");
    said
}

/// Waits until the check of the clock says this.
async fn until_clock(client: &mut Client, level: api::CheckLevel, text: &str) {
    let waits = async {
        loop {
            let clock = client.check("clock").await;
            if clock.level() == level && clock.text.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(20), waits).await;
    let now = client.check("clock").await;
    assert!(done.is_ok(), "not {level:?} {text:?} but {now:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_a_little_behind_is_corrected_and_one_far_off_signs_nothing() {
    let (home_a, home_b) = (home(), home());
    let (steps, clock) = settable();
    let a = Daemon::with_clock(home_a.path(), clock).await;
    let b = Daemon::with_clock(home_b.path(), skewed(-45_000)).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    // A clock below the genesis would count as the genesis.
    steps.store(-HOUR_MS / 4, Ordering::Relaxed);
    on_a.create("clicks", "counter").await;
    steps.store(0, Ordering::Relaxed);
    on_a.call_ok("clicks", "add", &["1"]).await;
    let token = on_a.invite("clicks", 1, 0).await;
    on_b.join(&token).await.unwrap();
    on_b.until("clicks", "value", &[], "1").await;
    until_clock(&mut on_b, api::CheckLevel::Warning, "theirs is used").await;
    on_b.call_ok("clicks", "add", &["2"]).await;
    on_a.until("clicks", "value", &[], "3").await;
    let history = on_b.history("clicks").await;
    let times = history.iter().map(|e| e.time.unwrap().wall_ms);
    let genesis_ms = times.clone().min().unwrap();
    let times: Vec<u64> = times.filter(|ms| *ms > genesis_ms).collect();
    assert!(times.len() >= 4, "{times:?}");
    let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
    assert!(spread < 30_000, "entries lie {spread} ms apart");
    drop(on_b);
    b.stop().await;

    for (skew_ms, told) in [(-HOUR_MS, "behind"), (HOUR_MS, "ahead")] {
        let b = restart(home_b.path(), skewed(skew_ms)).await;
        let mut on_b = b.client().await;
        until_clock(&mut on_b, api::CheckLevel::Failed, told).await;
        // It goes on reading.
        on_b.until("clicks", "value", &[], "3").await;
        let said = refused(&mut on_b, "clicks").await;
        assert!(
            said.contains(told) && said.contains("--trust-clock"),
            "{said}"
        );
        let genesis = on_b.try_create("other", "counter", &[]).await.unwrap_err();
        assert_eq!(exit_class(&genesis).0, api::ExitClass::NotReady);
        let remarks = on_b.status("clicks").await.remarks;
        assert!(
            remarks.iter().any(|remark| remark.contains(told)),
            "{remarks:?}"
        );
        drop(on_b);
        b.stop().await;
    }

    let trusted = ClockOptions {
        trusted: true,
        ..skewed(HOUR_MS)
    };
    let b = restart(home_b.path(), trusted).await;
    let mut on_b = b.client().await;
    until_clock(
        &mut on_b,
        api::CheckLevel::Ok,
        "ahead of the peers' median, and trusted",
    )
    .await;
    on_b.call_ok("clicks", "add", &["4"]).await;
    drop((on_a, on_b));
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_of_a_connected_node_is_seen_at_its_next_call_and_told_to_its_peers() {
    let (home_a, home_b) = (home(), home());
    let a = Daemon::start(home_a.path()).await;
    let (steps, clock) = settable();
    let b = Daemon::with_clock(home_b.path(), clock).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    on_a.create("clicks", "counter").await;
    let token = on_a.invite("clicks", 1, 0).await;
    on_b.join(&token).await.unwrap();
    on_b.call_ok("clicks", "add", &["1"]).await;
    on_a.until("clicks", "value", &[], "1").await;

    steps.store(5 * YEAR_MS, Ordering::Relaxed);
    let said = refused(&mut on_b, "clicks").await;
    assert!(said.contains("years ahead"), "{said}");
    // The peer hears of it long before the next comparison, which is half a minute away.
    let began = std::time::Instant::now();
    until_clock(&mut on_a, api::CheckLevel::Failed, "behind").await;
    assert!(began.elapsed() < Duration::from_secs(15));
    let said = refused(&mut on_a, "clicks").await;
    assert!(said.contains("behind"), "{said}");

    steps.store(0, Ordering::Relaxed);
    on_b.call_ok("clicks", "add", &["1"]).await;
    until_clock(&mut on_a, api::CheckLevel::Ok, "the peers' median").await;
    on_a.call_ok("clicks", "add", &["1"]).await;
    on_b.until("clicks", "value", &[], "3").await;
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_years_ahead_asks_first_and_its_chain_is_restarted() {
    let (home_a, home_b) = (home(), home());
    let a = Daemon::start(home_a.path()).await;
    let b = Daemon::start(home_b.path()).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    on_a.create("clicks", "counter").await;
    let token = on_a.invite("clicks", 1, 0).await;
    on_b.join(&token).await.unwrap();
    on_b.call_ok("clicks", "add", &["1"]).await;
    on_a.until("clicks", "value", &[], "1").await;
    drop((on_a, on_b));
    // Both restart, so one of them must be where it was.
    let address = a.address();
    a.stop().await;
    b.stop().await;

    // Alone, in five years.
    let b = restart(home_b.path(), skewed(5 * YEAR_MS)).await;
    let mut on_b = b.client().await;
    let said = refused(&mut on_b, "clicks").await;
    advice(
        &said,
        "check the date, then agree to it with `lattice call --yes`",
    );
    until_clock(
        &mut on_b,
        api::CheckLevel::Warning,
        "no active member is known",
    )
    .await;
    on_b.call_by_clock("clicks", "add", &["10"], true)
        .await
        .unwrap();
    let notices = on_b.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].kind(), api::NoticeKind::Clock);
    advice(
        &notices[0].text,
        "if the clock was ahead, set it and run `lattice store restart-chain",
    );
    drop(on_b);
    b.stop().await;

    // Back among its peers.
    let a = restart_at(home_a.path(), address).await;
    let b = restart(home_b.path(), skewed(0)).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    until_clock(&mut on_b, api::CheckLevel::Warning, "peers park it").await;
    let said = refused(&mut on_b, "clicks").await;
    advice(&said, "` starts a new chain below it");
    let noticed = on_b.notices().await;
    let ahead = noticed
        .iter()
        .find(|notice| notice.text.contains("park it"));
    advice(&ahead.unwrap().text, "` starts a new chain below it");
    let request = || api::RestartChainRequest {
        store: "clicks".into(),
    };
    let restarted = on_b.stores.restart_chain(request()).await.unwrap();
    let ahead_ms = restarted.into_inner().ahead_ms as i64;
    assert!((ahead_ms - 5 * YEAR_MS).abs() < HOUR_MS, "{ahead_ms}");
    on_b.call_ok("clicks", "add", &["100"]).await;
    on_a.until("clicks", "value", &[], "101").await;
    on_a.call_ok("clicks", "add", &["1000"]).await;
    // What it signed ahead counts here already, and there when the time comes.
    on_b.until("clicks", "value", &[], "1111").await;
    drop(on_b);
    b.stop().await;

    // A restart keeps it, also without peers.
    drop(on_a);
    a.stop().await;
    let b = restart(home_b.path(), skewed(0)).await;
    let mut on_b = b.client().await;
    on_b.call_ok("clicks", "add", &["10000"]).await;
    let again = on_b.stores.restart_chain(request()).await.unwrap_err();
    assert_eq!(exit_class(&again).0, api::ExitClass::Failed);
    let a = restart_at(home_a.path(), address).await;
    let mut on_a = a.client().await;
    on_a.until("clicks", "value", &[], "11101").await;
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_is_told_that_its_clock_is_behind_and_joins_with_one_that_is_ahead() {
    let (home_a, home_b) = (home(), home());
    let a = Daemon::start(home_a.path()).await;
    let mut on_a = a.client().await;
    on_a.create("clicks", "counter").await;
    on_a.call_ok("clicks", "add", &["1"]).await;
    let token = on_a.invite("clicks", 1, HOUR_MS as u64).await;
    let (steps, clock) = settable();
    let b = Daemon::with_clock(home_b.path(), clock).await;
    let mut on_b = b.client().await;
    steps.store(-HOUR_MS, Ordering::Relaxed);
    let request = api::InspectTokenRequest {
        token: token.clone(),
    };
    let behind = on_b.stores.inspect_token(request).await.unwrap_err();
    let (class, said) = exit_class(&behind);
    assert_eq!(class, api::ExitClass::NotReady, "{said}");
    assert!(
        said.contains("behind those of the store's members"),
        "{said}"
    );
    // By a clock that is three days ahead the invite has long expired, and members know better.
    steps.store(3 * DAY_MS, Ordering::Relaxed);
    on_b.join(&token).await.unwrap();
    on_b.until("clicks", "value", &[], "1").await;
    let said = refused(&mut on_b, "clicks").await;
    assert!(said.contains("3 days ahead"), "{said}");
    steps.store(0, Ordering::Relaxed);
    on_b.call_ok("clicks", "add", &["1"]).await;
    on_a.until("clicks", "value", &[], "2").await;
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_of_a_store_that_is_days_ahead_counts_from_its_time() {
    let home = home();
    let (steps, clock) = settable();
    let a = Daemon::with_clock(home.path(), clock).await;
    let mut on_a = a.client().await;
    on_a.create("clicks", "counter").await;
    steps.store(3 * DAY_MS, Ordering::Relaxed);
    on_a.call_ok("clicks", "add", &["1"]).await;
    steps.store(0, Ordering::Relaxed);
    let history = on_a.history("clicks").await;
    let last_ms = history.iter().map(|e| e.time.unwrap().wall_ms).max();
    let request = api::InviteRequest {
        store: "clicks".into(),
        expires_in_ms: HOUR_MS as u64,
        ..Default::default()
    };
    let made = on_a.stores.invite(request).await.unwrap().into_inner();
    assert!(made.expires_ms >= last_ms.unwrap() + HOUR_MS as u64);
    drop(on_a);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_wrong_clock_helps() {
    let (home_a, home_b) = (home(), home());
    let (steps_a, clock_a) = settable();
    let (steps, clock_b) = settable();
    let a = Daemon::with_clock(home_a.path(), clock_a).await;
    let b = Daemon::with_clock(home_b.path(), clock_b).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let to_2025_ms = 1_767_000_000_000 - now.as_millis() as i64;
    steps.store(to_2025_ms, Ordering::Relaxed);
    let found = on_b.check("clock").await;
    assert_eq!(found.level(), api::CheckLevel::Failed);
    advice(&found.hint, "set it: entries with wrong times sort wrongly");
    steps.store(0, Ordering::Relaxed);
    assert_eq!(on_b.check("clock").await.level(), api::CheckLevel::Ok);

    on_b.create("own", "counter").await;
    steps.store(100 * DAY_MS, Ordering::Relaxed);
    let found = on_b.check("clock").await;
    assert_eq!(found.level(), api::CheckLevel::Warning);
    advice(&found.hint, "set the clock if it is ahead");
    refused(&mut on_b, "own").await;
    steps.store(0, Ordering::Relaxed);
    assert_eq!(on_b.check("clock").await.level(), api::CheckLevel::Ok);
    on_b.call_ok("own", "add", &["1"]).await;

    // A clock below the genesis would count as the genesis.
    steps_a.store(-DAY_MS, Ordering::Relaxed);
    on_a.create("clicks", "counter").await;
    steps_a.store(0, Ordering::Relaxed);
    on_a.call_ok("clicks", "add", &["1"]).await;
    let token = on_a.invite("clicks", 1, 0).await;
    on_b.join(&token).await.unwrap();
    on_b.until("clicks", "value", &[], "1").await;
    steps.store(-45_000, Ordering::Relaxed);
    until_clock(&mut on_b, api::CheckLevel::Warning, "theirs is used").await;
    let found = on_b.check("clock").await;
    assert_eq!(found.hint, "set the clock");
    advice(&found.hint, "set the clock");
    steps.store(0, Ordering::Relaxed);
    until_clock(&mut on_b, api::CheckLevel::Ok, "the peers' median").await;

    for wrong_ms in [HOUR_MS, -HOUR_MS] {
        steps.store(wrong_ms, Ordering::Relaxed);
        let found = on_b.check("clock").await;
        assert_eq!(found.level(), api::CheckLevel::Failed);
        advice(
            &found.hint,
            "set the clock; if it is the peers' that are wrong, run the daemon with --trust-clock",
        );
        let said = refused(&mut on_b, "clicks").await;
        advice(
            &said,
            "set the clock, or, if it is the members' that are wrong, run the daemon with --trust-clock",
        );
        steps.store(0, Ordering::Relaxed);
        until_clock(&mut on_b, api::CheckLevel::Ok, "the peers' median").await;
        on_b.call_ok("clicks", "add", &["1"]).await;
    }
    drop(on_b);
    b.stop().await;
    let trusted = ClockOptions {
        trusted: true,
        ..skewed(HOUR_MS)
    };
    let b = restart(home_b.path(), trusted).await;
    let mut on_b = b.client().await;
    until_clock(&mut on_b, api::CheckLevel::Ok, "and trusted").await;
    on_b.call_ok("clicks", "add", &["1"]).await;
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}

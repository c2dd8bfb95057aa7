//! Tests of reads that fail on the disk of a store: whoever reads, the writer opens the store anew, and no more often
//! than after a commit that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lattice_format::{Call, ChainId, IntentionId, Lane, StoreId};
use lattice_kernel::clock::Verdict;
use lattice_kernel::{Changes, LocalSeq, NewStore, Notice, Snapshot, StorageError, Store};
use lattice_testing::disk::{Disk, Power};
use lattice_testing::log_disk::{LogDisk, files, uncached_files};
use lattice_testing::{self as testing, ModelEngine, advice, key};

use crate::store::OpenStore;
use crate::store::writer::{Listener, Opener};

const NOW_MS: u64 = 1_800_000_000_000;
/// The time between two ticks of a writer.
const TICK: Duration = Duration::from_millis(lattice_kernel::limits::TICK_MS);
/// How long an expected event may take.
const PATIENCE: Duration = Duration::from_secs(20);
const STEADY: u64 = u64::MAX / 2;

struct Nobody;

impl Listener for Nobody {
    fn changed(&self, _: &StoreId, _: &Changes, _: &[IntentionId]) {}
    fn noticed(&self, _: &StoreId, _: &[Notice]) -> bool {
        true
    }
    fn verdict(&self, _: &StoreId, _: u64, _: u64) -> Verdict {
        Verdict::alone(NOW_MS)
    }
    fn resting(&self) {}
}

fn add() -> Call {
    testing::program(&[testing::Step::Add { k: 1, by: 1 }])
}

/// The disks of the log and of the state of a store with some entries.
fn grown() -> (LogDisk, Disk) {
    let power = Power::steady();
    let (mut log, state) = (LogDisk::new(&power), Disk::new(&power));
    // The log has one segment, because an error of an earlier segment fails only its reader.
    log.segment_bytes = u64::MAX;
    let spec = NewStore {
        genesis: testing::genesis(),
        admits: Vec::new(),
        chain: ChainId(3),
    };
    let made = files(&log, &state).unwrap();
    let mut store = Store::create(made, Arc::new(ModelEngine), key(1), spec, NOW_MS).unwrap();
    for _ in 0..8 {
        store
            .call(Lane::App, vec![add()], NOW_MS, ChainId(3))
            .unwrap();
        store.commit(NOW_MS).unwrap();
    }
    store.close(NOW_MS).unwrap();
    (log, state)
}

/// An open store that keeps nothing of its disks in memory, and the number of times that it was opened. From each
/// opening on, reads of the log fail after `reads` of them; none fails for `STEADY`.
fn opened(log: &LogDisk, state: &Disk, reads: u64) -> (Arc<OpenStore>, Arc<AtomicUsize>) {
    let openings = Arc::new(AtomicUsize::new(0));
    let (log, state, count) = (log.clone(), state.clone(), openings.clone());
    let opener: Opener = Box::new(move || {
        if reads != STEADY {
            log.reads.fail_after(STEADY);
        }
        let files = uncached_files(&log, &state).map_err(|error| error.to_string())?;
        let store = Store::open(files, Arc::new(ModelEngine), key(1), NOW_MS)
            .map_err(|error| error.to_string())?;
        if reads != STEADY {
            log.reads.fail_after(reads);
        }
        // An attempt that failed is not counted.
        count.fetch_add(1, Ordering::SeqCst);
        Ok(store)
    });
    let store = OpenStore::open(opener, Arc::new(Nobody)).unwrap();
    (Arc::new(store), openings)
}

fn count(openings: &AtomicUsize) -> usize {
    openings.load(Ordering::SeqCst)
}

/// Reads the log, as a session or a page of history does.
fn read_log(view: &Snapshot) -> Result<(), StorageError> {
    view.entries_from(LocalSeq(0), 3).map(|_| ())
}

/// Reads the derived state, as a query does.
fn read_state(view: &Snapshot) -> Result<(), StorageError> {
    view.tips().map(|_| ())
}

/// Waits until reads of a fresh view succeed, without giving the writer a job.
async fn reads_well(store: &OpenStore, read: fn(&Snapshot) -> Result<(), StorageError>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = read(&store.snapshot()) {
        assert!(Instant::now() < deadline, "it still fails: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_closed_says_so_and_answers_when_it_is_open_again() {
    let (log, state) = grown();
    let (store, _) = opened(&log, &state, STEADY);
    let entries = store.snapshot().summary().count;
    done(store.clone()).await;
    let failure = store.call(Lane::App, vec![add()], false).await.unwrap_err();
    advice(&failure.to_string(), "try again when the node runs");
    drop(store);
    let (store, _) = opened(&log, &state, STEADY);
    let told = store.call(Lane::App, vec![add()], false).await.unwrap();
    assert!(told.outcome.is_ok());
    assert_eq!(store.snapshot().summary().count, entries + 1);
    done(store).await;
}

async fn done(store: Arc<OpenStore>) {
    store.close().await;
    let joined = tokio::task::spawn_blocking(move || store.join(PATIENCE));
    assert!(joined.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_read_that_fails_opens_the_store_anew_although_nobody_writes() {
    let (log, state) = grown();
    let (store, openings) = opened(&log, &state, STEADY);
    let entries = store.snapshot().summary().count;
    // After this time the writer sleeps, and examines nothing by itself.
    tokio::time::sleep(TICK * 5).await;
    type Read = fn(&Snapshot) -> Result<(), StorageError>;
    let ways = [
        (&log.reads, read_log as Read),
        (&state.reads, read_state as Read),
    ];
    for (before, (reads, read)) in (1..).zip(ways) {
        let view = store.snapshot();
        read(&view).unwrap();
        assert_eq!(count(&openings), before);
        reads.fail_after(0);
        read(&view).unwrap_err();
        reads.fail_after(STEADY);
        reads_well(&store, read).await;
        assert_eq!(count(&openings), before + 1);
        read(&view).unwrap_err();
        assert_eq!(store.snapshot().summary().count, entries);
    }
    // Reads of the old views go on failing, but the store that they belong to is closed, so nothing is opened anew.
    store.with(|_| ()).await.unwrap();
    assert_eq!(count(&openings), 3);
    let told = store.call(Lane::App, vec![add()], false).await.unwrap();
    assert!(told.outcome.is_ok());
    assert_eq!(store.snapshot().summary().count, entries + 1);
    done(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_goes_on_failing_reads_is_tried_once_a_tick() {
    let (log, state) = grown();
    // The store can be opened, but every later read of its log fails.
    let (store, openings) = opened(&log, &state, 0);
    let began = Instant::now();
    let mut failed = 0;
    while began.elapsed() < TICK * 4 {
        failed += usize::from(read_log(&store.snapshot()).is_err());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let most = 2 + began.elapsed().as_millis() / TICK.as_millis();
    let tried = count(&openings);
    assert!(failed > 100, "{failed} reads failed");
    assert!(
        tried > 2 && tried as u128 <= most,
        "opened {tried} times of {most}"
    );
    done(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_opens_nothing_anew() {
    let (log, state) = grown();
    let (store, _) = opened(&log, &state, STEADY);
    let row = store.snapshot().entry_at(LocalSeq(5)).unwrap().unwrap();
    done(store).await;
    let mut image = log.live();
    let signature = row.header.signed().signature.0;
    let segments: Vec<_> = image.segments().collect();
    let [segment] = segments[..] else {
        panic!("a small log has one segment");
    };
    let file = image.0.get_mut(&Some(segment)).unwrap();
    let at = file.windows(64).rposition(|bytes| bytes == signature);
    file[at.unwrap()] ^= 1;
    let mut places = file.windows(64);
    assert!(!places.any(|bytes| bytes == signature), "there is a copy");
    let log = LogDisk::with_image(image, &Power::steady());
    let (store, openings) = opened(&log, &state, STEADY);
    for _ in 0..20 {
        store.snapshot().entry_at(LocalSeq(5)).unwrap_err();
        // This job comes after the one that told the writer of the failed read.
        store.with(|_| ()).await.unwrap();
        assert_eq!(store.published().broken, None);
    }
    assert_eq!(count(&openings), 1);
    done(store).await;
}

/// Holds: invariant 6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_behind_a_failed_read_are_done_or_are_told_and_leave_nothing() {
    let (log, state) = grown();
    let (store, openings) = opened(&log, &state, STEADY);
    let entries = store.snapshot().summary().count;
    let (hold, held) = mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let busy = tokio::spawn({
        let store = store.clone();
        async move {
            let wait = move |_: &mut Store| {
                let _ = begin.send(());
                let _ = held.recv();
            };
            store.with(wait).await
        }
    });
    begun.await.unwrap();
    log.reads.fail_after(0);
    read_log(&store.snapshot()).unwrap_err();
    log.reads.fail_after(STEADY);
    let mut calls = Vec::new();
    for _ in 0..5 {
        let store = store.clone();
        calls.push(tokio::spawn(async move {
            store.call(Lane::App, vec![add()], false).await
        }));
    }
    let deadline = Instant::now() + PATIENCE;
    while crate::limits::WRITER_QUEUE - store.room() < 6 {
        assert!(Instant::now() < deadline, "the writer is not told");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(hold);
    busy.await.unwrap().unwrap();
    let mut well = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(told) => well += u64::from(told.outcome.is_ok()),
            Err(failure) => assert!(failure.text().contains("the store is stopped"), "{failure}"),
        }
    }
    reads_well(&store, read_log).await;
    assert_eq!(count(&openings), 2);
    let now = store.snapshot().summary().count;
    // Calls may share an entry. A call that was told of a fault has no entry.
    assert!(now <= entries + well && (well == 0) == (now == entries));
    let value = store.snapshot();
    let added = value
        .history(None, usize::MAX, false)
        .unwrap()
        .iter()
        .map(|row| row.outcomes.len() as u64)
        .sum::<u64>();
    // The genesis has an outcome in each lane.
    assert_eq!(added, 2 + 8 + well);
    done(store).await;
}

/// Holds: invariant 6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_panics_tells_who_waits_and_opens_the_store_anew() {
    let (log, state) = grown();
    let (store, openings) = opened(&log, &state, STEADY);
    let told = store.call(Lane::App, vec![add()], false).await.unwrap();
    assert!(told.outcome.is_ok());
    let entries = store.snapshot().summary().count;
    // Whoever asked, those behind, and those who come while the store rests.
    let asked = store.with::<()>(|_| panic!("in the middle of something"));
    let behind = store.call(Lane::App, vec![add()], false);
    let (asked, behind) = tokio::time::timeout(PATIENCE, async { tokio::join!(asked, behind) })
        .await
        .expect("somebody hangs");
    let failure = asked.unwrap_err();
    assert!(
        failure.text().contains("in the middle of something"),
        "{failure}"
    );
    advice(
        &failure.to_string(),
        "it is opened anew by itself; `lattice doctor` examines the disk",
    );
    if let Err(failure) = &behind {
        assert!(failure.text().contains("the store is stopped"), "{failure}");
    }
    assert!(store.published().broken.is_some());
    let deadline = Instant::now() + PATIENCE;
    while store.published().broken.is_some() {
        assert!(Instant::now() < deadline, "it is not opened anew");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&openings), 2);
    // Nothing acknowledged is lost, and it goes on.
    assert!(store.snapshot().summary().count >= entries);
    let told = store.call(Lane::App, vec![add()], false).await.unwrap();
    assert!(told.outcome.is_ok());
    done(store).await;
}

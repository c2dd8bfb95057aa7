//! Reads that fail: whoever reads, the owner of the store is woken, and is told whether the disk is to blame.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lattice_format::{ChainId, Lane};
use lattice_kernel::{LocalSeq, Snapshot, StorageError, Store};
use lattice_testing::disk::{Disk, Power};
use lattice_testing::log_disk::{LogDisk, files, uncached_files};
use lattice_testing::{self as testing, Step};

use crate::crash::open;
use crate::damage::grown;
use crate::world::{START_MS, all, settle};

const NOW_MS: u64 = START_MS + 10_000;

/// A store that keeps nothing of its disks in memory, and how often its owner was woken.
fn cold(log: &LogDisk, state: &Disk) -> (Store, Arc<AtomicUsize>) {
    let files = uncached_files(log, state).unwrap();
    let mut store = open(files, NOW_MS).unwrap();
    settle(&mut store);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    store.on_failed_read(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (store, woken)
}

fn woken(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

#[test]
fn one_failed_read_of_a_view_is_told_and_the_store_is_to_be_opened_again() {
    let (log, state, ids) = grown(31);
    // The segment that is written; one that is closed is opened anew by its next reader.
    let read_log = |view: &Snapshot| {
        let last = LocalSeq(view.summary().count - 1);
        view.entries_from(last, 1).map(|_| ())
    };
    let read_state = |view: &Snapshot| view.tips().map(|_| ());
    type Read = fn(&Snapshot) -> Result<(), StorageError>;
    for (name, read) in [("log", read_log as Read), ("state", read_state as Read)] {
        let log = LogDisk::with_image(log.live(), &Power::steady());
        let state = Disk::with_image(state.live(), &Power::steady());
        let failing = if name == "log" {
            &log.reads
        } else {
            &state.reads
        };
        let (store, count) = cold(&log, &state);
        let view = store.snapshot();
        read(&view).unwrap();
        store.examine().unwrap();
        assert_eq!(woken(&count), 0, "{name}: nothing has failed");

        failing.fail_after(0);
        read(&view).expect_err(name);
        assert_eq!(woken(&count), 1, "{name}");
        failing.fail_after(u64::MAX / 2);
        // The disk is whole again, and the database does not know.
        read(&view).unwrap_err();
        assert_eq!(woken(&count), 1, "{name}: it is told once");
        let error = store.examine().unwrap_err();
        let file = if name == "log" { "log/" } else { "state.redb" };
        assert!(error.to_string().starts_with(file), "{error}");

        drop(store);
        read(&view).unwrap_err();
        let mut store = open(files(&log, &state).unwrap(), NOW_MS).unwrap();
        settle(&mut store);
        store.examine().unwrap();
        let found: Vec<_> = all(&store.snapshot())
            .iter()
            .map(|entry| entry.header.id())
            .collect();
        assert_eq!(found, ids, "{name}");
        let add = testing::program(&[Step::Add { k: 1, by: 1 }]);
        let told = store.call(Lane::App, vec![add], NOW_MS, ChainId(6));
        assert!(told.unwrap().outcome.is_ok());
        assert_eq!(store.commit(NOW_MS).unwrap().len(), 1);
    }
}

#[test]
fn a_failed_read_of_a_closed_segment_is_told_and_the_next_one_finds_it_whole() {
    let (log, state, ids) = grown(31);
    let (store, count) = cold(&log, &state);
    let view = store.snapshot();
    let read = || view.entries_from(LocalSeq(0), 3);
    log.reads.fail_after(0);
    let error = read().unwrap_err();
    assert!(
        error.to_string().starts_with("log/0000000000000000.redb"),
        "{error}"
    );
    assert_eq!(woken(&count), 1);
    log.reads.fail_after(u64::MAX / 2);
    // Nothing that opening the store anew would mend.
    store.examine().unwrap();
    assert_eq!(read().unwrap()[2].header.id(), ids[2]);
}

#[test]
fn a_read_that_the_store_itself_fails_in_a_call_is_told_as_well() {
    let (log, state, _) = grown(32);
    let (mut store, count) = cold(&log, &state);
    state.reads.fail_after(0);
    let get = testing::program(&[Step::Get {
        k: 1,
        dynamic: false,
    }]);
    store
        .call(Lane::App, vec![get], NOW_MS, ChainId(6))
        .unwrap_err();
    // The call left nothing to commit, so no commit fails.
    assert!(store.commit(NOW_MS).unwrap().is_empty());
    assert_eq!(woken(&count), 1);
    store.examine().unwrap_err();
}

#[test]
fn a_damaged_row_is_told_and_is_no_reason_to_open_the_store_again() {
    let (log, state, ids) = grown(33);
    let (store, _) = cold(&log, &state);
    let row = store.snapshot().entry_at(LocalSeq(5)).unwrap().unwrap();
    drop(store);
    let mut image = log.live();
    let signature = row.header.signed().signature.0;
    let mut found = 0;
    for file in image.0.values_mut() {
        let places = file.windows(signature.len()).enumerate();
        let places: Vec<_> = places.filter(|(_, bytes)| *bytes == signature).collect();
        let places: Vec<_> = places.into_iter().map(|(at, _)| at).collect();
        found += places.len();
        for at in places {
            file[at] ^= 1;
        }
    }
    assert!(found > 0);
    let log = LogDisk::with_image(image, &Power::steady());
    let (store, count) = cold(&log, &state);
    let view = store.snapshot();
    for times in 1..4 {
        let error = view.entry(&ids[5]).unwrap_err();
        assert!(error.to_string().contains("entry 5"), "{error}");
        assert_eq!(woken(&count), times, "it is told again after each look");
        store.examine().unwrap();
    }
    view.entry(&ids[4]).unwrap().unwrap();
}

//! Reads that fail: whoever reads, the owner of the store is woken, and is told whether the disk is to blame.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lattice_format::{ChainId, Lane};
use lattice_kernel::{Files, LocalSeq, Snapshot, StorageError, Store};
use lattice_testing::disk::{Disk, Power, files};
use lattice_testing::{self as testing, Step};
use redb::Database;

use crate::crash::open;
use crate::damage::grown;
use crate::world::{START_MS, all, settle};

const NOW_MS: u64 = START_MS + 10_000;

/// A store that keeps nothing of its disks in memory, and how often its owner was woken.
fn cold(log: &Disk, state: &Disk) -> (Store, Arc<AtomicUsize>) {
    let uncached = |disk: &Disk| {
        Database::builder()
            .set_cache_size(0)
            .create_with_backend(disk.clone())
            .unwrap()
    };
    let files = Files::from_databases(uncached(log), uncached(state));
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
    let read_log = |view: &Snapshot| view.entries_from(LocalSeq(0), 3).map(|_| ());
    let read_state = |view: &Snapshot| view.tips().map(|_| ());
    type Read = fn(&Snapshot) -> Result<(), StorageError>;
    for (name, read) in [("log", read_log as Read), ("state", read_state as Read)] {
        let log = Disk::with_image(log.live(), &Power::steady());
        let state = Disk::with_image(state.live(), &Power::steady());
        let failing = if name == "log" { &log } else { &state };
        let (store, count) = cold(&log, &state);
        let view = store.snapshot();
        read(&view).unwrap();
        store.examine().unwrap();
        assert_eq!(woken(&count), 0, "{name}: nothing has failed");

        failing.reads.fail_after(0);
        read(&view).unwrap_err();
        assert_eq!(woken(&count), 1, "{name}");
        failing.reads.fail_after(u64::MAX / 2);
        // The disk is whole again, and the database does not know.
        read(&view).unwrap_err();
        assert_eq!(woken(&count), 1, "{name}: it is told once");
        let error = store.examine().unwrap_err();
        assert!(error.0.starts_with(&format!("{name}.redb")), "{error}");

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
    let places = image.windows(signature.len());
    let found: Vec<_> = places
        .enumerate()
        .filter(|(_, bytes)| *bytes == signature)
        .map(|(at, _)| at)
        .collect();
    assert!(!found.is_empty());
    for at in found {
        image[at] ^= 1;
    }
    let log = Disk::with_image(image, &Power::steady());
    let (store, count) = cold(&log, &state);
    let view = store.snapshot();
    for times in 1..4 {
        let error = view.entry(&ids[5]).unwrap_err();
        assert!(error.0.contains("entry 5"), "{error}");
        assert_eq!(woken(&count), times, "it is told again after each look");
        store.examine().unwrap();
    }
    view.entry(&ids[4]).unwrap().unwrap();
}

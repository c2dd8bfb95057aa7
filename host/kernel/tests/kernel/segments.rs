//! A log of several segments: what is found in it, whatever happens while one follows another.

use std::path::Path;
use std::sync::Arc;

use lattice_format::{ChainId, IntentionId, Lane};
use lattice_kernel::{BatchVerifier, Files, LocalSeq, LogFiles, NewStore, Notice, Store};
use lattice_testing::disk::{Disk, Power, SURVIVALS};
use lattice_testing::log_disk::{LogDisk, LogImage, files};
use lattice_testing::{self as testing, Dice, ModelEngine, Step, device, key};

use crate::crash::open;
use crate::damage::in_dir;
use crate::world::{START_MS, all, judge, settle};

/// One entry. A chain that has forked is left for one that is named by the time.
fn write(store: &mut Store, now: u64) -> Result<IntentionId, String> {
    let add = testing::program(&[Step::Add { k: 1, by: 1 }]);
    store
        .call(Lane::App, vec![add], now, ChainId(now))
        .map_err(|error| error.to_string())?;
    let headers = store.commit(now).map_err(|error| error.to_string())?;
    Ok(headers[0].id())
}

fn ids(store: &Store) -> Vec<IntentionId> {
    all(&store.snapshot())
        .iter()
        .map(|entry| entry.header.id())
        .collect()
}

/// A store with segments, a notice of a fork and links of the witness chain; it was closed.
fn segmented() -> (LogDisk, Disk, Vec<IntentionId>) {
    let power = Power::steady();
    let (log, state) = (LogDisk::new(&power), Disk::new(&power));
    let spec = NewStore {
        genesis: testing::genesis(),
        admits: Vec::new(),
        chain: ChainId(3),
    };
    let made = files(&log, &state).unwrap();
    let mut store = Store::create(made, Arc::new(ModelEngine), key(1), spec, START_MS).unwrap();
    write(&mut store, START_MS).unwrap();
    let first = all(&store.snapshot()).pop().unwrap();
    let body = testing::body_of(testing::program(&[Step::Add { k: 1, by: 2 }]));
    let twin = testing::twin(&first.header, Lane::App, &body, &key(1));
    let twin = (twin.signed().clone(), Some(body));
    let received = store.receive(device(7), vec![twin], START_MS, BatchVerifier([7; 32]));
    assert_eq!(received.unwrap().witnessed.len(), 1);
    settle(&mut store);
    for n in 0..60 {
        write(&mut store, START_MS + n * 100).unwrap();
    }
    let ids = ids(&store);
    store.close(START_MS + 10_000).unwrap();
    (log, state, ids)
}

fn reopened(log: &LogImage, state: &[u8]) -> (LogDisk, Disk) {
    let power = Power::steady();
    let state = Disk::with_image(state.to_vec(), &power);
    (LogDisk::with_image(log.clone(), &power), state)
}

/// The numbers of the notices of forks; none when they cannot be read.
fn forks(store: &Store) -> Vec<u64> {
    let notices = store.notices().unwrap_or_default();
    let forks = notices
        .iter()
        .filter(|(_, notice)| matches!(notice, Notice::Fork { .. }));
    forks.map(|(number, _)| *number).collect()
}

/// What every store that began as that of [`segmented`] has, whatever became of its log since.
fn check(store: &mut Store, entries: &[IntentionId]) {
    settle(store);
    judge(store).unwrap();
    assert_eq!(ids(store), entries);
    let view = store.snapshot();
    for (local, id) in (0..).zip(entries) {
        let entry = view.entry_at(LocalSeq(local)).unwrap().unwrap();
        assert_eq!((entry.local.0, entry.header.id()), (local, *id));
    }
    for from in [0, 1, entries.len() / 2] {
        let some = view.entries_from(LocalSeq(from as u64), 7).unwrap();
        let some: Vec<_> = some.iter().map(|entry| entry.header.id()).collect();
        assert_eq!(some, entries[from..from + 7]);
    }
    assert_eq!(forks(store).len(), 1);
    assert!(store.last_witness().unwrap().is_some());
}

#[test]
fn a_log_of_segments_reads_as_one() {
    let (log, state, ids) = segmented();
    let image = log.live();
    assert!(image.0.len() > 4, "{} segments", image.0.len());
    assert!(image.0.contains_key(&Some(0)) && !image.0.contains_key(&None));
    let mut store = open(files(&log, &state).unwrap(), START_MS + 20_000).unwrap();
    check(&mut store, &ids);
    // Without the state, all of it is read again.
    drop(store);
    let mut store = open(
        files(&log, &Disk::new(&Power::steady())).unwrap(),
        START_MS + 20_000,
    )
    .unwrap();
    check(&mut store, &ids);
    assert_eq!(store.acknowledge(&forks(&store)).unwrap(), 1);
    // What was acknowledged in this segment does not come back in the next one.
    for n in 0..30 {
        write(&mut store, START_MS + 30_000 + n).unwrap();
    }
    assert!(log.live().0.len() > image.0.len() + 1);
    drop(store);
    let store = open(files(&log, &state).unwrap(), START_MS + 40_000).unwrap();
    assert!(forks(&store).is_empty());
    assert!(store.notices().is_ok());
}

/// Holds: invariant 6.
#[test]
fn a_crash_at_any_operation_of_a_new_segment_loses_nothing_that_was_acknowledged() {
    let (log, state, before) = segmented();
    let (log, state) = (log.live(), state.live());
    let (mut done, mut begun) = (0, 0);
    for operations in 0.. {
        let mut acknowledged = false;
        for survives in SURVIVALS {
            let power = Power::steady();
            let disk = LogDisk::with_image(log.clone(), &power);
            let rest = Disk::with_image(state.clone(), &Power::steady());
            // The file is longer than a segment may be, so the next entry begins a new one.
            let mut store = open(files(&disk, &rest).unwrap(), START_MS + 20_000).unwrap();
            power.fail_after(operations);
            let written = write(&mut store, START_MS + 20_000);
            power.fail_after(0);
            drop(store);
            acknowledged = written.is_ok();
            let mut dice = Dice(operations);
            let found = disk.after_crash(survives, &mut dice);
            begun += usize::from(found.0.len() > log.0.len());
            let (disk, rest) = reopened(&found, &rest.live());
            let mut store = open(files(&disk, &rest).unwrap(), START_MS + 30_000)
                .unwrap_or_else(|error| panic!("{survives:?} after {operations}: {error}"));
            settle(&mut store);
            let after = ids(&store);
            let whole: Vec<_> = before.iter().copied().chain(written).collect();
            assert!(
                after == whole || (!acknowledged && after[..before.len()] == before),
                "{survives:?} after {operations}: {} of {}",
                after.len(),
                whole.len()
            );
            let next = write(&mut store, START_MS + 30_000).unwrap();
            check(&mut store, &[&after[..], &[next]].concat());
            assert!(
                !disk.live().0.contains_key(&None),
                "a file without a number is left"
            );
        }
        done += usize::from(acknowledged);
        if done == 3 {
            break;
        }
    }
    assert!(begun > 10, "only {begun} crashes left a new file");
}

/// Holds: invariant 6.
#[test]
fn an_error_at_any_operation_of_a_new_segment_loses_nothing_that_is_acknowledged_then_or_later() {
    let (log, state, before) = segmented();
    let (log, state) = (log.live(), state.live());
    let (mut refused, mut went_on) = (0, 0);
    for operations in 0.. {
        let mut failed = true;
        // What is acknowledged later is a notice, and perhaps an entry as well, which begins the segment once more.
        for entries in 0..2 {
            let power = Power::steady();
            let disk = LogDisk::with_image(log.clone(), &power);
            let rest = Disk::with_image(state.clone(), &Power::steady());
            let mut store = open(files(&disk, &rest).unwrap(), START_MS + 20_000).unwrap();
            let mut written = Vec::new();
            power.fail_after(operations);
            written.push(write(&mut store, START_MS + 20_000));
            failed = power.failed();
            // The disk is whole again, and the same store goes on.
            power.fail_after(i64::MAX as u64);
            let forgotten = store.acknowledge(&forks(&store));
            for n in 0..entries {
                written.push(write(&mut store, START_MS + 20_001 + n));
            }
            assert!(failed || (forgotten.is_ok() && written.iter().all(Result::is_ok)));
            refused += usize::from(forgotten.is_err());
            went_on += usize::from(written[0].is_err() && forgotten.is_ok());
            drop(store);
            let (disk, rest) = reopened(&disk.live(), &rest.live());
            let mut store = open(files(&disk, &rest).unwrap(), START_MS + 30_000)
                .unwrap_or_else(|error| panic!("after {operations}: {error}"));
            settle(&mut store);
            judge(&store).unwrap();
            let after = ids(&store);
            assert_eq!(after[..before.len()], before);
            for acknowledged in written.iter().flatten() {
                assert!(after.contains(acknowledged), "after {operations}");
            }
            if forgotten.is_ok() {
                assert!(forks(&store).is_empty(), "after {operations}");
            }
        }
        if !failed {
            break;
        }
    }
    assert!(refused > 0, "a store goes on that does not know its files");
    assert!(went_on > 0, "a store stands still that has lost nothing");
}

/// Holds: invariant 6.
#[test]
fn a_disk_that_is_full_when_a_segment_is_to_begin_fails_the_callers_until_there_is_room() {
    let (log, state, mut ids) = segmented();
    let segments = log.live().0.len();
    let mut store = open(files(&log, &state).unwrap(), START_MS + 20_000).unwrap();
    settle(&mut store);
    log.set_room(Some(log.used() + 8 * 1024));
    for _ in 0..3 {
        write(&mut store, START_MS + 20_000).unwrap_err();
    }
    assert_eq!(store.snapshot().summary().count as usize, ids.len());
    log.set_room(None);
    for n in 0..3 {
        ids.push(write(&mut store, START_MS + 21_000 + n).unwrap());
    }
    check(&mut store, &ids);
    drop(store);
    assert_eq!(log.live().0.len(), segments + 1);
    let mut store = open(files(&log, &state).unwrap(), START_MS + 22_000).unwrap();
    check(&mut store, &ids);
}

#[test]
fn a_log_whose_first_segments_are_gone_opens_and_goes_on() {
    let (log, state, ids) = segmented();
    let firsts = log.list().unwrap();
    log.remove(firsts[0]).unwrap();
    log.remove(firsts[1]).unwrap();
    let base = firsts[2] as usize;
    let mut store = open(files(&log, &state).unwrap(), START_MS + 20_000).unwrap();
    let view = store.snapshot();
    let genesis = view.entry_at(LocalSeq(0)).unwrap().unwrap();
    assert_eq!(genesis.header.id(), ids[0]);
    assert!(view.entry_at(LocalSeq(1)).unwrap().is_none());
    let kept = view.entries_from(LocalSeq(0), usize::MAX).unwrap();
    assert_eq!(kept[0].local.0 as usize, base);
    let kept: Vec<_> = kept.iter().map(|entry| entry.header.id()).collect();
    assert_eq!(kept, ids[base..]);
    assert_eq!(forks(&store).len(), 1);
    for n in 0..30 {
        write(&mut store, START_MS + 20_000 + n).unwrap();
    }
    store.close(START_MS + 21_000).unwrap();
    let store = open(files(&log, &state).unwrap(), START_MS + 22_000).unwrap();
    assert_eq!(store.snapshot().summary().count as usize, ids.len() + 30);
    drop(store);
    // What would have to be derived from what is gone is not.
    let nothing = Disk::new(&Power::steady());
    let error = open(files(&log, &nothing).unwrap(), START_MS + 23_000).unwrap_err();
    let says = format!("log/: it begins with entry {base}");
    assert!(error.to_string().contains(&says), "{error}");
}

fn file_of(dir: &Path, segment: u64) -> std::path::PathBuf {
    let segments = Files::segments(dir).unwrap();
    segments
        .into_iter()
        .find(|found| found.0 == segment)
        .unwrap()
        .1
}

/// Holds: invariant 13.
#[test]
fn a_closed_segment_that_is_damaged_or_gone_harms_only_who_reads_there() {
    let (log, state, ids) = segmented();
    let (log, state) = (log.live(), state.live());
    let firsts: Vec<_> = log.segments().collect();
    for gone in [false, true] {
        let dir = in_dir(&log, Some(&state));
        let path = file_of(dir.path(), firsts[1]);
        match gone {
            true => std::fs::remove_file(&path).unwrap(),
            false => std::fs::write(&path, b"no database").unwrap(),
        }
        let mut store = open(Files::in_dir(dir.path()).unwrap(), START_MS + 20_000).unwrap();
        settle(&mut store);
        let view = store.snapshot();
        let error = view
            .entries_from(LocalSeq(0), usize::MAX)
            .unwrap_err()
            .to_string();
        let named = if gone { firsts[2] } else { firsts[1] };
        assert!(error.contains(&format!("log/{named:016x}.redb")), "{error}");
        assert!(error.contains("join the store again"), "{error}");
        match view.entry_at(LocalSeq(firsts[1])) {
            Ok(found) => assert!(gone && found.is_none()),
            Err(error) => assert!(!gone && error.to_string().contains("is damaged"), "{error}"),
        }
        for local in [firsts[1] - 1, firsts[2]] {
            let entry = view.entry_at(LocalSeq(local)).unwrap().unwrap();
            assert_eq!(entry.header.id(), ids[local as usize]);
        }
        write(&mut store, START_MS + 20_000).unwrap();
        store.examine().unwrap();
        store.close(START_MS + 21_000).unwrap();
    }
}

#[test]
fn a_store_of_version_0_1_is_refused_by_the_name_of_its_log_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log.redb"), b"").unwrap();
    assert!(Files::are_in(dir.path()).unwrap());
    let error = Files::in_dir(dir.path()).unwrap_err().to_string();
    for part in ["log.redb", "version 0.1", "join it again"] {
        assert!(error.contains(part), "{error}");
    }
    // Nothing was made of it.
    assert!(!dir.path().join("state.redb").exists());
    // What the error says to do: the directory is removed, and the store joined again.
    std::fs::remove_dir_all(dir.path()).unwrap();
    std::fs::create_dir(dir.path()).unwrap();
    let founder = testing::found(0, START_MS);
    let genesis = founder.snapshot().entry_at(LocalSeq(0)).unwrap().unwrap();
    let wire = (
        genesis.header.signed().clone(),
        genesis.body.as_ref().unwrap().to_vec(),
    );
    let files = Files::in_dir(dir.path()).unwrap();
    Store::adopt(files, Arc::new(ModelEngine), key(1), wire, START_MS).unwrap();
}

#[test]
fn a_log_with_rows_of_a_later_version_is_refused_and_left_as_it_is() {
    let (log, state, _) = segmented();
    let (log, state) = (log.live(), state.live());
    let dir = in_dir(&log, Some(&state));
    let last = log.segments().max().unwrap();
    let path = file_of(dir.path(), last);
    let newer: redb::TableDefinition<'static, u64, u64> =
        redb::TableDefinition::new("statements-1");
    let db = redb::Database::open(&path).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(newer).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(db);
    let refused = open(Files::in_dir(dir.path()).unwrap(), START_MS);
    let error = refused.unwrap_err().to_string();
    for part in ["log/", "statements-1", "update Lattice"] {
        assert!(error.contains(part), "{error}");
    }
    // The later version, which knows the rows, finds them.
    let db = redb::Database::open(&path).unwrap();
    let write = db.begin_write().unwrap();
    assert!(write.delete_table(newer).unwrap());
    write.commit().unwrap();
    drop(db);
    open(Files::in_dir(dir.path()).unwrap(), START_MS).unwrap();
}

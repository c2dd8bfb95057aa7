//! Files that are lost or damaged: the state is made anew, and a damaged log is refused or reads the same.

use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lattice_format::{ChainId, IntentionId, Lane};
use lattice_kernel::run::engine::Role;
use lattice_kernel::state::cell::Space;
use lattice_kernel::{Files, LocalSeq, Notice, OpenError, Store, Stored};
use lattice_testing::disk::{Disk, Power};
use lattice_testing::log_disk::{LogDisk, LogImage, files};
use lattice_testing::{self as testing, ModelEngine, Step, device, key};
use lattice_testing::{Dice, advice};

use crate::crash::{open, others, receive, steps};
use crate::world::{START_MS, adopt, all, judge, settle, wire};

/// A store on two disks with some closed or left as it is.
pub fn grown(seed: u64) -> (LogDisk, Disk, Vec<IntentionId>) {
    let mut dice = Dice(seed);
    let others = others(&mut dice);
    let power = Power::steady();
    let (log, state) = (LogDisk::new(&power), Disk::new(&power));
    let (signed, body) = wire(&others[0]);
    let mut store = Store::adopt(
        files(&log, &state).unwrap(),
        Arc::new(ModelEngine),
        key(1),
        (signed, body.unwrap()),
        START_MS,
    )
    .unwrap();
    // Each commit stands in one segment, and the log is to have several.
    for some in others.chunks(16) {
        receive(&mut store, some, START_MS + 6_000).unwrap();
    }
    settle(&mut store);
    for n in 0..10 {
        let call = testing::program(&steps(&mut dice));
        store
            .call(Lane::App, vec![call], START_MS + 7_000 + n, ChainId(5))
            .unwrap();
        store.commit(START_MS + 7_000 + n).unwrap();
    }
    let ids = all(&store.snapshot())
        .iter()
        .map(|s| s.header.id())
        .collect();
    store.close(START_MS + 8_000).unwrap();
    (log, state, ids)
}

pub fn in_dir(log: &LogImage, state: Option<&[u8]>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    for (name, bytes) in log.files() {
        std::fs::write(dir.path().join("log").join(name), bytes).unwrap();
    }
    if let Some(state) = state {
        std::fs::write(dir.path().join("state.redb"), state).unwrap();
    }
    dir
}

/// Holds: invariant 7.
#[test]
fn a_lost_or_damaged_state_is_made_again_with_the_same_roots() {
    let (log, state, ids) = grown(3);
    let (log, state) = (log.live(), state.live());
    let dir = in_dir(&log, Some(&state));
    let mut store = open(Files::in_dir(dir.path()).unwrap(), START_MS + 9_000).unwrap();
    settle(&mut store);
    let expected = store.snapshot().summary().clone();
    assert_eq!(expected.count as usize, ids.len());
    drop(store);
    let mut dice = Dice(9);
    let garbage: Vec<u8> = (0..state.len()).map(|_| dice.roll() as u8).collect();
    let mut cases: Vec<(String, Option<Vec<u8>>)> = vec![
        ("deleted".into(), None),
        ("empty".into(), Some(Vec::new())),
        ("garbage".into(), Some(garbage.clone())),
        ("zeros".into(), Some(vec![0; state.len()])),
        ("a text".into(), Some(b"not a database".to_vec())),
        (
            "a segment of the log in its place".into(),
            log.0.values().next().cloned(),
        ),
    ];
    for len in [1, 100, 511, 512, 4_096, state.len() / 2, state.len() - 1] {
        cases.push((format!("cut to {len}"), Some(state[..len].to_vec())));
    }
    for (name, state) in cases {
        let dir = in_dir(&log, state.as_deref());
        let mut store = open(Files::in_dir(dir.path()).unwrap(), START_MS + 9_000)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        settle(&mut store);
        let found = store.snapshot().summary().clone();
        assert_eq!(found, expected, "{name}");
        judge(&store).unwrap();
        store.close(START_MS + 9_001).unwrap();
    }
}

#[test]
fn what_the_machine_refuses_removes_no_state_and_advises_no_backup_of_a_log() {
    let (log, state, _) = grown(3);
    let (log, state) = (log.live(), state.live());
    let dir = in_dir(&log, Some(&state));
    let last = log.segments().last().unwrap();
    for name in ["state.redb".to_owned(), format!("log/{last:016x}.redb")] {
        let file = dir.path().join(&name);
        let aside = dir.path().join("aside");
        std::fs::rename(&file, &aside).unwrap();
        // Root may open whatever it likes, but not a link to itself, nor one to a disk that is not there.
        for target in [file.clone(), dir.path().join("unmounted/file")] {
            std::os::unix::fs::symlink(target, &file).unwrap();
            let opened = Files::in_dir(dir.path()).map_err(OpenError::from);
            let error = opened.and_then(|files| open(files, START_MS + 9_000));
            let said = error.unwrap_err().to_string();
            assert!(said.contains(&name), "{said}");
            for advice in ["damaged", "backup", "join"] {
                assert!(!said.contains(advice), "{said}");
            }
            std::fs::remove_file(&file).expect("the link is there yet");
        }
        std::fs::rename(&aside, &file).unwrap();
    }
    let files = Files::in_dir(dir.path()).unwrap();
    assert_eq!(files.removed_state(), None);
    open(files, START_MS + 9_000).unwrap();
    // What redb itself finds wrong costs the file, and is told.
    std::fs::write(dir.path().join("state.redb"), b"not a database").unwrap();
    let files = Files::in_dir(dir.path()).unwrap();
    assert!(files.removed_state().is_some());
    open(files, START_MS + 9_000).unwrap();
}

#[test]
fn a_store_that_is_gone_lets_its_files_go_whatever_views_are_left() {
    let (log, state, ids) = grown(3);
    let dir = in_dir(&log.live(), Some(&state.live()));
    let mut store = open(Files::in_dir(dir.path()).unwrap(), START_MS + 9_000).unwrap();
    settle(&mut store);
    let view = store.snapshot();
    assert_eq!(all(&view).len(), ids.len());
    drop(store);
    let read = view.entries_from(LocalSeq(0), 1).map(|read| read.len());
    let error = read.unwrap_err().to_string();
    assert!(error.contains("log/: it is closed"), "{error}");
    // As after a full disk: the node goes on in the same process, whoever still looks at the old view.
    let mut store = open(Files::in_dir(dir.path()).unwrap(), START_MS + 9_001).unwrap();
    settle(&mut store);
    assert_eq!(all(&store.snapshot()).len(), ids.len());
    drop(view);
}

/// Opens and reads everything; what a node would do within its first minute.
fn read_all(dir: &std::path::Path) -> Result<(Vec<Stored>, lattice_kernel::Summary), String> {
    let files = Files::in_dir(dir).map_err(|e| e.to_string())?;
    let mut store = open(files, START_MS + 9_000).map_err(|e| e.to_string())?;
    while store.settle(1_000).map_err(|e| e.to_string())?.pending > 0 {}
    let snapshot = store.snapshot();
    let entries = snapshot
        .entries_from(LocalSeq(0), usize::MAX)
        .map_err(|e| e.to_string())?;
    store.notices().map_err(|e| e.to_string())?;
    store.last_witness().map_err(|e| e.to_string())?;
    snapshot
        .history(None, usize::MAX, false)
        .map_err(|e| e.to_string())?;
    for entry in &entries {
        let id = entry.header.id();
        snapshot.contains(&id).map_err(|e| e.to_string())?;
        snapshot.outcomes(&id).map_err(|e| e.to_string())?;
    }
    for lane in [Lane::System, Lane::App] {
        for space in [Space::Bytes, Space::Numbers, Space::Pins, Space::Host] {
            snapshot.rows(lane, space).map_err(|e| e.to_string())?;
        }
    }
    let summary = snapshot.summary().clone();
    store.close(START_MS + 9_001).map_err(|e| e.to_string())?;
    Ok((entries, summary))
}

fn damage(
    name: &str,
    log: &LogImage,
    state: Option<&[u8]>,
    expected: &(Vec<Stored>, lattice_kernel::Summary),
) -> bool {
    let dir = in_dir(log, state);
    let found = catch_unwind(AssertUnwindSafe(|| read_all(dir.path())));
    match found {
        Err(_) => panic!("{name}: a panic instead of an error"),
        Ok(Err(text)) => {
            assert!(
                text.contains("log/") || text.contains("state.redb"),
                "{name}: the error does not say where: {text}"
            );
            true
        }
        Ok(Ok((entries, summary))) => {
            assert_eq!(summary, expected.1, "{name}: silently another store");
            assert_eq!(entries.len(), expected.0.len(), "{name}: silently shorter");
            for (found, expected) in entries.iter().zip(&expected.0) {
                assert_eq!(
                    found.header.id(),
                    expected.header.id(),
                    "{name}: silently another entry"
                );
                assert_eq!(
                    found.header.signed(),
                    expected.header.signed(),
                    "{name}: silently another signature"
                );
                assert_eq!(found.body, expected.body, "{name}: silently another body");
                assert_eq!(
                    found.received_ms, expected.received_ms,
                    "{name}: silently another time"
                );
            }
            false
        }
    }
}

/// Holds: invariant 13.
#[test]
fn a_damaged_log_is_refused_or_reads_the_same() {
    let (log, state, _) = grown(4);
    let (log, state) = (log.live(), state.live());
    let dir = in_dir(&log, Some(&state));
    let expected = read_all(dir.path()).unwrap();
    let numbers: Vec<_> = log.0.keys().copied().collect();
    assert!(numbers.len() > 3, "the log has segments");
    let mut refused = 0;
    let mut dice = Dice(11);
    for round in 0..400 {
        let mut image = log.clone();
        let number = numbers[dice.below(numbers.len() as u64) as usize];
        let broken = image.0.get_mut(&number).unwrap();
        // Most of a young file is empty, and what is empty may change as it likes.
        let used: Vec<usize> = (0..broken.len()).filter(|at| broken[*at] != 0).collect();
        // Flips, overwritten sectors and cut files, with and without derived state.
        let at = match round % 16 {
            15 => dice.below(broken.len() as u64) as usize,
            _ => used[dice.below(used.len() as u64) as usize],
        };
        let name = match round % 4 {
            0 | 1 => {
                broken[at] ^= 1 << dice.below(8);
                format!("round {round}: a bit at {at}")
            }
            2 => {
                let end = (at + 512).min(broken.len());
                broken[at..end].fill(dice.roll() as u8);
                format!("round {round}: bytes {at} to {end}")
            }
            _ => {
                broken.truncate(at);
                format!("round {round}: cut to {at}")
            }
        };
        let state = (round % 3 != 0).then_some(&state[..]);
        refused += usize::from(damage(&name, &image, state, &expected));
    }
    assert!(refused > 20, "only {refused} of 400 damages were noticed");
}

/// Holds: invariant 13.
#[test]
fn a_damaged_state_is_an_error_at_most_and_made_again_without_it() {
    let (log, state, _) = grown(6);
    let (log, state) = (log.live(), state.live());
    let dir = in_dir(&log, Some(&state));
    let (_, expected) = read_all(dir.path()).unwrap();
    let used: Vec<usize> = (0..state.len()).filter(|at| state[*at] != 0).collect();
    let (mut refused, mut remade, mut dice) = (0, 0, Dice(13));
    for round in 0..300 {
        let mut broken = state.clone();
        let at = used[dice.below(used.len() as u64) as usize];
        let end = (at + [1, 64, 512][round % 3]).min(broken.len());
        broken[at..end].fill(dice.roll() as u8);
        let dir = in_dir(&log, Some(&broken));
        let file = dir.path().join("state.redb");
        // Tells whether the file was removed and made anew.
        let link = dir.path().join("link");
        std::fs::hard_link(&file, &link).unwrap();
        // What a row says is taken as it is: replicas compare their roots, and rebuild.
        match catch_unwind(AssertUnwindSafe(|| read_all(dir.path()))) {
            Err(_) => panic!("round {round}: bytes {at} to {end}: a panic instead of an error"),
            Ok(Err(text)) => {
                refused += 1;
                assert!(text.contains("state.redb"), "round {round}: {text}");
                advice(
                    &text,
                    "remove it while no daemon runs, and it is made again from the log",
                );
                std::fs::remove_file(file).unwrap();
                assert_eq!(read_all(dir.path()).unwrap().1, expected, "round {round}");
            }
            Ok(Ok((_, summary))) => {
                if std::fs::metadata(&link).unwrap().nlink() == 1 {
                    remade += 1;
                    assert_eq!(summary, expected, "round {round}: made anew");
                }
            }
        }
    }
    assert!(
        refused > 0 && remade > 0,
        "{refused} refused, {remade} remade"
    );
    assert!(refused + remade > 10, "{refused} refused, {remade} remade");
}

/// Holds: invariant 13.
#[test]
fn a_damaged_header_of_the_log_file_is_refused_or_reads_the_same() {
    let (log, state, _) = grown(5);
    let (log, state) = (log.live(), state.live());
    let dir = in_dir(&log, Some(&state));
    let expected = read_all(dir.path()).unwrap();
    let ends = [log.0.keys().next(), log.0.keys().last()].map(Option::unwrap);
    for (number, at) in ends
        .iter()
        .flat_map(|end| (0..320).map(move |at| (*end, at)))
    {
        let mut broken = log.clone();
        broken.0.get_mut(number).unwrap()[at] ^= 1 << (at % 8);
        damage(
            &format!("header byte {at} of {number:?}"),
            &broken,
            Some(&state),
            &expected,
        );
    }
}

/// Holds: invariant 6.
#[test]
fn what_changed_and_changed_back_is_told_although_the_state_was_behind() {
    // What was told last stands in the same segment as the entry, or in a later one.
    what_changed_and_changed_back_is_told(u64::MAX);
    what_changed_and_changed_back_is_told(0);
}

fn what_changed_and_changed_back_is_told(segment_bytes: u64) {
    let power = Power::steady();
    let (mut log, state) = (LogDisk::new(&power), Disk::new(&power));
    log.segment_bytes = segment_bytes;
    let mut founder = testing::found(0, START_MS);
    let write = |store: &mut Store, lane, call, at| {
        store.call(lane, vec![call], at, ChainId(at)).unwrap();
        store.commit(at).unwrap();
        all(&store.snapshot()).pop().unwrap()
    };
    let put = |k| Step::Put {
        k,
        dynamic: false,
        value: 1,
    };
    let get = |k| Step::Get { k, dynamic: false };
    let mut admissions = Vec::new();
    for number in [1, 2] {
        let admission = testing::admit(device(number), Role::Writer);
        let at = START_MS + u64::from(number);
        admissions.push(write(&mut founder, Lane::System, admission, at));
    }
    let mut other = adopt(2, &all(&founder.snapshot())[0]);
    receive(&mut other, &admissions, START_MS + 5).unwrap();
    settle(&mut other);
    // Who writes for the first time makes governance be asked at once, and with that everything runs.
    let reads = testing::program(&[get(1)]);
    admissions.push(write(&mut other, Lane::App, reads.clone(), START_MS + 6));
    // The second is refused if it finds what the first wrote, of which its author does not know.
    let first = testing::program(&[put(2)]);
    let first = write(&mut other, Lane::App, first, START_MS + 10);
    let second = testing::program(&[get(2), Step::RefuseIf { modulus: 2 }, put(1)]);
    let second = write(&mut founder, Lane::App, second, START_MS + 11);
    let genesis = wire(&all(&founder.snapshot())[0]);
    let mut store = Store::adopt(
        files(&log, &state).unwrap(),
        Arc::new(ModelEngine),
        key(1),
        (genesis.0, genesis.1.unwrap()),
        START_MS,
    )
    .unwrap();
    receive(&mut store, &admissions, START_MS + 50).unwrap();
    settle(&mut store);
    let own = write(&mut store, Lane::App, reads, START_MS + 100);
    let own = own.header.id();
    store.tick(START_MS + 10_000).unwrap();
    let behind = state.live();

    // One late entry changes what the call came to, and another one changes it back before the machine fails.
    receive(&mut store, &[second], START_MS + 10_001).unwrap();
    settle(&mut store);
    assert_eq!(store.notices().unwrap().len(), 1);
    receive(&mut store, &[first], START_MS + 10_002).unwrap();
    drop(store);
    let mut log = LogDisk::with_image(log.live(), &power);
    log.segment_bytes = segment_bytes;
    let files = files(&log, &Disk::with_image(behind, &power)).unwrap();
    let mut store = open(files, START_MS + 20_000).unwrap();
    settle(&mut store);
    let now = store.snapshot().outcomes(&own).unwrap().unwrap().pop();
    let last = store.notices().unwrap().pop().unwrap().1;
    assert!(
        matches!(&last, Notice::OutcomeChanged { entry, now: told, .. } if *entry == own && *told == now),
        "{last:?}, and it is {now:?}"
    );
}

//! Crashes: nothing acknowledged is lost, the node opens, and what was derived is derived again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lattice_format::{Body, ChainId, IntentionId, Lane};
use lattice_kernel::limits::FLUSH_MS;
use lattice_kernel::run::engine::Role;
use lattice_kernel::{
    BatchVerifier, CommitError, Files, Notice, OpenError, Outcome, StorageError, Store, Stored,
};
use lattice_testing::Dice;
use lattice_testing::disk::{Disk, Power, SURVIVALS, Survives};
use lattice_testing::log_disk::{LogDisk, LogImage, files, repaired, uncached_files};
use lattice_testing::{self as testing, KEYS, ModelEngine, Step, device, key, memory_files};

use crate::damage::grown;
use crate::world::{START_MS, adopt, all, judge, settle, wire};

/// What [`Files::in_dir`] does: derived state that is damaged is made anew.
fn found(log: LogImage, state: Vec<u8>, power: &Power) -> (Files, LogDisk, Disk) {
    let log = LogDisk::with_image(log, power);
    let state = Disk::with_image(state, power);
    let (files, state) = repaired(&log, &state, power).unwrap();
    (files, log, state)
}

pub fn open(files: Files, now_ms: u64) -> Result<Store, OpenError> {
    Store::open(files, Arc::new(ModelEngine), key(1), now_ms)
}

pub fn steps(dice: &mut Dice) -> Vec<Step> {
    (0..1 + dice.below(4))
        .map(|_| {
            let k = dice.below(u64::from(KEYS)) as u8;
            match dice.below(9) {
                0 | 1 => Step::Get { k, dynamic: false },
                2 | 3 => Step::Put {
                    k,
                    dynamic: dice.below(2) == 0,
                    value: dice.below(5) as u8,
                },
                4 => Step::Add { k, by: 1 },
                5 => Step::Scan {
                    from: 0,
                    to: k,
                    limit: 3,
                    reverse: false,
                },
                6 => Step::RefuseIf { modulus: 3 },
                7 => Step::PutCallId { k },
                _ => Step::Delete { k, dynamic: false },
            }
        })
        .collect()
}

/// What two other devices do meanwhile: entries that sort before, among and after ours.
pub fn others(dice: &mut Dice) -> Vec<Stored> {
    let mut founder = testing::found(0, START_MS);
    for number in [1, 2] {
        let call = testing::admit(device(number), Role::Admin);
        founder
            .call(Lane::System, vec![call], START_MS, ChainId(1))
            .unwrap();
        founder.commit(START_MS).unwrap();
    }
    let mut second = adopt(2, &all(&founder.snapshot())[0]);
    crate::world::deliver(&mut second, &all(&founder.snapshot()));
    for n in 0..20u64 {
        let now = START_MS + n * 300;
        for (store, number) in [(&mut founder, 0), (&mut second, 2)] {
            for _ in 0..dice.below(3) {
                let call = testing::program(&steps(dice));
                store
                    .call(Lane::App, vec![call], now, ChainId(50 + number))
                    .unwrap();
            }
            if dice.below(12) == 0 {
                let call = testing::admit(device(30 + n as u8), Role::Reader);
                store
                    .call(Lane::System, vec![call], now, ChainId(50 + number))
                    .unwrap();
            }
            store.commit(now).unwrap();
        }
        if dice.below(3) == 0 {
            let (from, to) = if dice.below(2) == 0 {
                (&founder, &mut second)
            } else {
                (&second, &mut founder)
            };
            let entries = all(&from.snapshot());
            receive(to, &entries, now).unwrap();
            settle(to);
        }
    }
    receive(&mut founder, &all(&second.snapshot()), START_MS + 6_000).unwrap();
    settle(&mut founder);
    all(&founder.snapshot())
}

pub fn receive(
    store: &mut Store,
    entries: &[Stored],
    now: u64,
) -> Result<Vec<IntentionId>, StorageError> {
    let batch = entries.iter().map(wire).collect();
    let received = store.receive(device(7), batch, now, BatchVerifier([7; 32]))?;
    assert_eq!(received.blame, vec![]);
    Ok(received.witnessed)
}

/// What somebody outside was told, or has received.
#[derive(Default)]
struct Acknowledged {
    entries: Vec<IntentionId>,
    told: Vec<(IntentionId, Vec<Outcome>)>,
    /// What peers have of ours.
    published: Vec<Stored>,
}

/// Calls whose callers wait for the next commit.
struct Node<'a> {
    store: Store,
    others: &'a [Stored],
    acknowledged: &'a mut Acknowledged,
    waiting: Vec<Outcome>,
    now: u64,
}

impl Node<'_> {
    fn commit(&mut self) -> Result<(), CommitError> {
        let waiting = std::mem::take(&mut self.waiting);
        let headers = self.store.commit(self.now)?;
        let mut waiting = waiting.into_iter();
        for header in &headers {
            self.acknowledged.entries.push(header.id());
        }
        for header in headers {
            let Some(stored) = self.store.snapshot().entry(&header.id())? else {
                // The disk of the derived state failed behind the commit: readers see it later.
                return Ok(());
            };
            let body = Body::decode(stored.body.as_deref().unwrap()).unwrap();
            let told: Vec<_> = waiting.by_ref().take(body.transactions.len()).collect();
            assert_eq!(told.len(), body.transactions.len());
            for (transaction, told) in body.transactions.iter().zip(&told) {
                assert_eq!(transaction.told, Some(told.digest()));
            }
            self.acknowledged.told.push((header.id(), told));
            self.acknowledged.published.push(stored);
        }
        assert_eq!(
            waiting.len(),
            0,
            "a commit that succeeds holds all that was told"
        );
        Ok(())
    }

    /// One thing that a node does. An error of the disk ends it.
    fn step(&mut self, dice: &mut Dice) -> Result<(), CommitError> {
        self.now += dice.below(700);
        match dice.below(10) {
            0..=3 => {
                for _ in 0..1 + dice.below(4) {
                    let call = testing::program(&steps(dice));
                    match self
                        .store
                        .call(Lane::App, vec![call], self.now, ChainId(dice.roll()))
                    {
                        Ok(told) if told.outcome.is_ok() => self.waiting.push(told.outcome),
                        // Refused, not admitted yet, or the disk: nobody was promised anything.
                        Ok(_) | Err(_) => {}
                    }
                }
                self.commit()
            }
            4..=6 => {
                let from = dice.below(self.others.len() as u64) as usize;
                let to = (from + 1 + dice.below(8) as usize).min(self.others.len());
                // What the batch names comes along, or it would float.
                let upto = match dice.below(2) {
                    0 => &self.others[from..to],
                    _ => &self.others[..to],
                };
                let witnessed = receive(&mut self.store, upto, self.now)?;
                self.acknowledged.entries.extend(witnessed);
                Ok(())
            }
            7 | 8 => Ok(self.store.settle(1 + dice.below(6)).map(drop)?),
            _ => Ok(self.store.tick(self.now).map(drop)?),
        }
    }
}

/// Everything that must hold of a store that was opened after a crash.
fn check(store: &mut Store, acknowledged: &Acknowledged, now: u64) {
    settle(store);
    judge(store).unwrap();
    let snapshot = store.snapshot();
    for id in &acknowledged.entries {
        assert!(
            snapshot.contains(id).unwrap(),
            "{id} was acknowledged and is lost"
        );
    }
    let notices = store.notices().unwrap();
    for (id, told) in &acknowledged.told {
        let outcomes = snapshot.outcomes(id).unwrap();
        if outcomes.as_ref() != Some(told) {
            let noticed = notices.iter().any(
                |(_, notice)| matches!(notice, Notice::OutcomeChanged { entry, .. } if entry == id),
            );
            assert!(
                noticed,
                "{id}: {told:?} became {outcomes:?}, and nobody says so"
            );
        }
    }
    let own: Vec<_> = all(&snapshot)
        .into_iter()
        .filter(|s| s.header.author == device(1))
        .collect();
    // The chain goes on where it was, without a fork.
    let call = testing::program(&[Step::Put {
        k: 1,
        dynamic: false,
        value: 1,
    }]);
    if store.call(Lane::App, vec![call], now, ChainId(77)).is_ok() {
        let headers = store.commit(now).unwrap();
        let next = headers.iter().find(|h| h.author == device(1)).unwrap();
        match own.last() {
            Some(last) => {
                assert_eq!(next.prev, Some(last.header.id()));
                assert_eq!(next.seq.0, last.header.seq.0 + 1);
                assert_eq!(next.chain, last.header.chain);
            }
            None => assert_eq!(next.seq.0, 0),
        }
        judge(store).unwrap();
    }
    // Whoever received what was acknowledged before the crash sees no fork either.
    let entries = all(&store.snapshot());
    let mut witness = adopt(9, &entries[0]);
    receive(&mut witness, &acknowledged.published, START_MS + 60_000).unwrap();
    receive(&mut witness, &entries, START_MS + 60_000).unwrap();
    settle(&mut witness);
    assert!(
        !witness
            .notices()
            .unwrap()
            .iter()
            .any(|(_, n)| matches!(n, Notice::Fork { .. })),
        "the chain forked"
    );
    assert_eq!(
        witness.snapshot().summary().state_root,
        store.snapshot().summary().state_root
    );
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Machine,
    Log,
    State,
}

/// One history of a node whose disks fail, again and again.
fn history(seed: u64, others: &[Stored], fails: Fails, survives: Survives, reach: u64) {
    let mut dice = Dice(seed);
    let mut acknowledged = Acknowledged::default();
    let mut images = (LogImage::default(), Vec::new());
    let mut now = START_MS;
    for _ in 0..3 {
        let (log_power, state_power) = match fails {
            Fails::Machine => {
                let power = Power::steady();
                (power.clone(), power)
            }
            Fails::Log | Fails::State => (Power::steady(), Power::steady()),
        };
        let failing = if fails == Fails::State {
            &state_power
        } else {
            &log_power
        };
        let mut log = LogDisk::with_image(images.0, &log_power);
        // Some logs begin a segment with each entry, some seldom.
        log.segment_bytes = [0, 4_096, 65_536][(seed / 4 % 3) as usize];
        let state = Disk::with_image(images.1, &state_power);
        failing.fail_after(dice.below(reach));
        let files = files(&log, &state).map_err(|error| error.to_string());
        let started = files.and_then(|files| {
            if acknowledged.entries.is_empty() {
                let (signed, body) = wire(&others[0]);
                Store::adopt(
                    files,
                    Arc::new(ModelEngine),
                    key(1),
                    (signed, body.unwrap()),
                    now,
                )
                .map_err(|error| error.to_string())
            } else {
                open(files, now).map_err(|error| error.to_string())
            }
        });
        match started {
            Err(error) => assert!(failing.failed(), "it does not open: {error}"),
            Ok(store) => {
                if acknowledged.entries.is_empty() {
                    acknowledged.entries.push(others[0].header.id());
                }
                let mut node = Node {
                    store,
                    others,
                    acknowledged: &mut acknowledged,
                    waiting: Vec::new(),
                    now,
                };
                for _ in 0..14 {
                    if node.step(&mut dice).is_err() {
                        assert!(failing.failed(), "an error without a failing disk");
                        break;
                    }
                }
                now = node.now;
                failing.fail_after(0);
            }
        }
        images = (
            match fails {
                Fails::State => log.live(),
                _ => log.after_crash(survives, &mut dice),
            },
            match fails {
                Fails::Log => state.live(),
                _ => state.after_crash(survives, &mut dice),
            },
        );
        // The machine is on again.
        let (files, log, state) = found(images.0, images.1, &Power::steady());
        match open(files, now) {
            Ok(mut store) => {
                now += 10;
                check(&mut store, &acknowledged, now);
                let entries = all(&store.snapshot());
                acknowledged.entries = entries.iter().map(|s| s.header.id()).collect();
                acknowledged.published = entries
                    .into_iter()
                    .filter(|s| s.header.author == device(1))
                    .collect();
                store.close(now).unwrap();
            }
            Err(OpenError::Empty) => assert!(acknowledged.entries.is_empty(), "the store is gone"),
            Err(error) => panic!("it does not open: {error}"),
        }
        images = (log.live(), state.live());
    }
}

fn histories(seeds: std::ops::Range<u64>, fails: Fails) {
    let mut dice = Dice(1);
    let others = others(&mut dice);
    for seed in seeds {
        for survives in SURVIVALS {
            // Short reaches hit the start, long ones the middle of things.
            let reach = [12, 60, 400, 2_000][(seed % 4) as usize];
            let result = catch_unwind(AssertUnwindSafe(|| {
                history(seed, &others, fails, survives, reach);
            }));
            assert!(result.is_ok(), "seed {seed}, {fails:?}, {survives:?}");
        }
    }
}

/// Holds: invariants 6, 8.
#[test]
fn nothing_acknowledged_is_lost_when_the_machine_loses_power() {
    histories(0..40, Fails::Machine);
}

/// Holds: invariants 6, 8.
#[test]
fn nothing_acknowledged_is_lost_when_the_disk_of_the_log_fails() {
    histories(1_000..1_016, Fails::Log);
}

/// Holds: invariants 6, 8.
#[test]
fn nothing_acknowledged_is_lost_when_the_disk_of_the_state_fails() {
    histories(2_000..2_016, Fails::State);
}

/// Holds: invariant 6.
#[test]
fn a_full_disk_fails_the_callers_and_nothing_is_half_done() {
    for (seed, which) in (0..12u64).flat_map(|seed| [(seed, true), (seed, false)]) {
        let (log, state, ids) = grown(20 + seed % 3);
        let (log, state) = (
            LogDisk::with_image(log.live(), &Power::steady()),
            Disk::with_image(state.live(), &Power::steady()),
        );
        let now = START_MS + 10_000;
        let mut store = open(files(&log, &state).unwrap(), now).unwrap();
        settle(&mut store);
        // redb takes room in large steps; less than the files have makes the end of it near.
        let near = |len: u64| Some(len * (50 + seed) / 100);
        match which {
            true => log.set_room(near(log.used())),
            false => state.set_room(near(state.live().len() as u64)),
        }
        let mut kept = ids.len();
        let mut faults = 0;
        for n in 0..100 {
            // The state is written every few calls.
            let now = now + n * FLUSH_MS / 5;
            let steps = vec![Step::PutCallId { k: (n % 8) as u8 }; 30_000];
            let told = store.call(Lane::App, vec![testing::program(&steps)], now, ChainId(5));
            if let Ok(told) = &told {
                assert!(told.outcome.is_ok(), "{:?}", told.outcome);
            }
            let committed = store.commit(now);
            match (&told, &committed) {
                (Ok(_), Ok(headers)) => kept += headers.len(),
                _ => faults += 1,
            }
            if faults == 3 {
                break;
            }
        }
        assert!(faults > 0, "the disk never was full");
        drop(store);
        log.set_room(None);
        state.set_room(None);
        let mut store = open(files(&log, &state).unwrap(), now + 90_000 + 100 * FLUSH_MS).unwrap();
        settle(&mut store);
        judge(&store).unwrap();
        assert_eq!(
            store.snapshot().summary().count as usize,
            kept,
            "seed {seed}, log {which}: callers that got a fault have no effect, the others do"
        );
        let call = testing::program(&[Step::Put {
            k: 0,
            dynamic: false,
            value: 2,
        }]);
        assert!(
            store
                .call(Lane::App, vec![call], now + 90_000, ChainId(6))
                .unwrap()
                .outcome
                .is_ok()
        );
        assert_eq!(store.commit(now + 90_000).unwrap().len(), 1);
        store.close(now + 90_001).unwrap();
    }
}

#[test]
fn a_founder_that_fails_while_founding_leaves_nothing_or_a_whole_store() {
    for survives in SURVIVALS {
        for operations in 0..60 {
            let power = Power::steady();
            let (log, state) = (LogDisk::new(&power), Disk::new(&power));
            power.fail_after(operations);
            let spec = lattice_kernel::NewStore {
                genesis: testing::genesis(),
                admits: Vec::new(),
                chain: ChainId(3),
            };
            let founded = files(&log, &state)
                .map_err(|e| e.to_string())
                .and_then(|files| {
                    Store::create(files, Arc::new(ModelEngine), key(1), spec.clone(), START_MS)
                        .map_err(|e| e.to_string())
                });
            let acknowledged = founded.is_ok();
            drop(founded);
            let mut dice = Dice(operations);
            let (log, state) = (
                log.after_crash(survives, &mut dice),
                state.after_crash(survives, &mut dice),
            );
            let (files_found, log, state) = found(log, state, &Power::steady());
            match open(files_found, START_MS + 5) {
                Ok(mut store) => {
                    settle(&mut store);
                    judge(&store).unwrap();
                    let call = testing::program(&[Step::Add { k: 1, by: 1 }]);
                    let told = store
                        .call(Lane::App, vec![call], START_MS + 6, ChainId(4))
                        .unwrap();
                    assert!(told.outcome.is_ok(), "{:?}", told.outcome);
                    assert_eq!(store.commit(START_MS + 6).unwrap()[0].seq.0, 1);
                }
                Err(OpenError::Empty) => {
                    assert!(
                        !acknowledged,
                        "{survives:?} after {operations}: the store is gone"
                    );
                    // The same files take a new attempt.
                    let engine = Arc::new(ModelEngine);
                    Store::create(files(&log, &state).unwrap(), engine, key(1), spec, START_MS)
                        .unwrap();
                }
                Err(error) => panic!("{survives:?} after {operations}: {error}"),
            }
        }
    }
}

#[test]
fn memory_and_disks_hold_the_same_store() {
    // The disks of these tests are no different from redb's own when they do not fail.
    let others = others(&mut Dice(1));
    let (signed, body) = wire(&others[0]);
    let genesis = (signed, body.unwrap());
    let power = Power::steady();
    let mut roots = Vec::new();
    for files in [
        memory_files(),
        files(&LogDisk::new(&power), &Disk::new(&power)).unwrap(),
    ] {
        let mut store = Store::adopt(
            files,
            Arc::new(ModelEngine),
            key(1),
            genesis.clone(),
            START_MS,
        )
        .unwrap();
        receive(&mut store, &others, START_MS + 6_000).unwrap();
        settle(&mut store);
        roots.push(store.snapshot().summary().clone());
    }
    assert_eq!(roots[0], roots[1]);
}

/// Holds: invariant 6.
#[test]
fn a_commit_that_succeeds_holds_what_was_told_although_reads_failed_meanwhile() {
    let (log, state, ids) = grown(6);
    let now = START_MS + 10_000;
    let (mut failed, mut succeeded) = (0, 0);
    for reads in 0..160 {
        let log = LogDisk::with_image(log.live(), &Power::steady());
        let state = Disk::with_image(state.live(), &Power::steady());
        let cold = uncached_files(&log, &state).unwrap();
        let mut store = open(cold, now).unwrap();
        settle(&mut store);
        let put = testing::program(&[Step::Put {
            k: 1,
            dynamic: false,
            value: 1,
        }]);
        let told = store.call(Lane::App, vec![put], now, ChainId(5)).unwrap();
        assert!(told.outcome.is_ok());
        state.reads.fail_after(reads);
        // Another lane closes the intention of the first call, which looks things up.
        let admit = testing::admit(device(44), Role::Reader);
        let second = store.call(Lane::System, vec![admit], now, ChainId(5));
        let committed = store.commit(now).is_ok();
        drop(store);
        state.reads.fail_after(u64::MAX / 2);
        let mut store = open(files(&log, &state).unwrap(), now).unwrap();
        settle(&mut store);
        judge(&store).unwrap();
        let more = store.snapshot().summary().count as usize - ids.len();
        if committed {
            succeeded += 1;
            assert_eq!(more, 1 + usize::from(second.is_ok()), "after {reads} reads");
        } else {
            failed += 1;
            assert_eq!(more, 0, "after {reads} reads: the callers got a fault");
        }
    }
    assert!(
        failed > 0 && succeeded > 0,
        "{failed} failed, {succeeded} succeeded"
    );
}

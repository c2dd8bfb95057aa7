//! The bounds of runs and of the single writer, each at its last allowed value and one beyond.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use lattice_format::{
    CallId, ChainId, ComponentId, Header, IntentionId, Lane, Limits, SignedHeader,
};

use crate::fold::governance::Answers;
use crate::graph::slot::Slot;
use crate::limits::*;
use crate::outcome::TrapKind;
use crate::run::engine::{
    Answer, AskError, Cut, Engine, HostFault, Instance, Kept, Question, Role,
};
use crate::run::{CallPlace, Run, RunFault};
use crate::state::cell::{Cell, Space};
use crate::storage::keys::LocalSeq;
use crate::testing::{self, ModelEngine, Step};
use crate::{BatchVerifier, Notice, Received, Store};

const NOW: u64 = 1_800_000_000_000;

/// A run of a command at the end of the order.
fn run(store: &Store) -> Run {
    let genesis = store.core.log.entry(LocalSeq(0)).unwrap().unwrap();
    let place = CallPlace {
        header: Arc::new((*genesis.header).clone()),
        names: Vec::new(),
        index: 0,
    };
    let rows = store.core.rows.view();
    Run::command(rows, Some(store.id()), Lane::App, Slot::MAX, place)
}

fn is_limit<T: std::fmt::Debug>(result: Result<T, RunFault>) {
    assert!(
        matches!(result, Err(RunFault::Trap(TrapKind::Limit))),
        "{result:?}"
    );
}

/// The bytes that a key counts for.
fn cell_bytes(key: &[u8]) -> usize {
    Cell::new(Lane::App, Space::Bytes, key).as_bytes().len()
}

/// Holds: invariant 10.
#[test]
fn keys_and_values_end_at_their_bounds() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let (key, value) = (&long[..KEY_BYTES_MAX], vec![0; VALUE_BYTES_MAX + 1]);
    run.put(key, &value[1..]).unwrap();
    assert_eq!(run.get(key).unwrap().unwrap().len(), VALUE_BYTES_MAX);
    is_limit(run.put(key, &value));
    is_limit(run.put(&long, b""));
    is_limit(run.get(&long));
    is_limit(run.delete(&long));
    is_limit(run.add(&long, 1));
    is_limit(run.number(&long));
    is_limit(run.scan(&long, None, 1, false));
    is_limit(run.scan(b"", Some(&long), 1, false));
    is_limit(run.delete_range(&long, b""));
    is_limit(run.scan_numbers(&long, None, 1));
}

/// Holds: invariant 10.
#[test]
fn writes_of_a_transaction_end_at_their_bound() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let value = vec![0; VALUE_BYTES_MAX - cell_bytes(&[0; 8])];
    let fill = |run: &mut Run| {
        for n in 0..TRANSACTION_WRITE_BYTES_MAX / VALUE_BYTES_MAX {
            run.put(&n.to_be_bytes(), &value).unwrap();
        }
    };
    fill(&mut run);
    // No byte more may be written, not even over a value. The next transaction may write as much again.
    is_limit(run.put(b"", b""));
    is_limit(run.delete(b""));
    is_limit(run.add(b"", 1));
    run.begin_transaction();
    fill(&mut run);
}

/// Holds: invariant 10.
#[test]
fn writes_of_an_intention_end_at_their_bound() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let value = vec![0; VALUE_BYTES_MAX - cell_bytes(&[0; 8])];
    for _ in 0..INTENTION_WRITE_BYTES_MAX / TRANSACTION_WRITE_BYTES_MAX {
        run.begin_transaction();
        for n in 0..TRANSACTION_WRITE_BYTES_MAX / VALUE_BYTES_MAX {
            run.put(&n.to_be_bytes(), &value).unwrap();
        }
        // What is undone was written all the same.
        run.rollback();
    }
    assert!(!run.wrote_too_much());
    run.begin_transaction();
    is_limit(run.put(b"", b""));
    assert!(run.wrote_too_much());
}

/// The engine charges for rows that a run deleted itself, because each of its scans walks them again.
#[test]
fn a_scan_tells_how_many_rows_it_walked() {
    let mut store = testing::found(0, NOW);
    committed(&mut store, 1);
    let mut run = run(&store);
    let before = run.scan(b"", None, 100, false).unwrap();
    for n in 0..50u64 {
        run.put(&n.to_be_bytes(), b"").unwrap();
        run.add(&n.to_be_bytes(), 1).unwrap();
    }
    for n in 10..50u64 {
        run.delete(&n.to_be_bytes()).unwrap();
        run.add(&n.to_be_bytes(), -1).unwrap();
    }
    for reverse in [false, true] {
        let page = run.scan(b"", None, 100, reverse).unwrap();
        assert_eq!(page.rows.len(), before.rows.len() + 10);
        assert_eq!(page.walked, before.walked + 50);
    }
    let numbers = run.scan_numbers(b"", None, 100).unwrap();
    assert_eq!(numbers.rows.len(), 10);
    assert!(numbers.walked >= 50);
    let deleted = run.delete_range(&[0], &[1]).unwrap();
    assert_eq!((deleted.rows, deleted.walked), (10, 50));
}

/// Holds: invariant 10.
#[test]
fn reads_of_an_intention_end_at_their_bound() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let mark = cell_bytes(&[0; 8]) + READ_MARK_BYTES;
    let count = READ_BYTES_MAX / mark;
    for n in 0..count {
        run.get(&n.to_be_bytes()).unwrap();
    }
    // A second read of a key costs nothing, and a new transaction does not reset the bound.
    run.get(&0usize.to_be_bytes()).unwrap();
    run.begin_transaction();
    is_limit(run.get(&count.to_be_bytes()));
}

/// Holds: invariant 10.
#[test]
fn a_page_ends_at_its_bytes() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let count = 4;
    let value = vec![0; PAGE_BYTES_MAX / count - 8];
    for n in 0..count {
        run.put(&n.to_be_bytes(), &value).unwrap();
    }
    // The end keeps out rows that the model itself has written behind these.
    let end = 255usize.to_be_bytes();
    let page = run.scan(b"", Some(&end), u32::MAX, false).unwrap();
    assert_eq!((page.rows.len(), page.more), (count, false));
    run.put(&count.to_be_bytes(), b"").unwrap();
    let page = run.scan(b"", Some(&end), u32::MAX, false).unwrap();
    assert_eq!((page.rows.len(), page.more), (count, true));
    // A page has at least one row. The largest key with the largest value exceeds a page by itself.
    run.begin_transaction();
    let key = vec![0xff; KEY_BYTES_MAX];
    run.put(&key, &vec![0; VALUE_BYTES_MAX]).unwrap();
    let page = run.scan(&key, None, u32::MAX, false).unwrap();
    assert_eq!((page.rows.len(), page.more), (1, false));
}

/// Makes `count` calls at one time, each in a commit of its own.
fn committed(store: &mut Store, count: u64) {
    for n in 0..count {
        let step = Step::Put {
            k: 0,
            dynamic: false,
            value: n as u8,
        };
        let call = testing::program(&[step]);
        store.call(Lane::App, vec![call], NOW, ChainId(1)).unwrap();
        store.commit(NOW).unwrap();
    }
}

/// Holds: invariant 10.
#[test]
fn a_local_intention_ends_at_its_transactions_and_at_its_bytes() {
    let mut store = testing::found(0, NOW);
    let add = Step::Add { k: 0, by: 1 };
    for _ in 0..=LOCAL_TRANSACTIONS {
        let call = testing::program(&[add]);
        store.call(Lane::App, vec![call], NOW, ChainId(1)).unwrap();
    }
    let entries = store.commit(NOW).unwrap();
    assert_eq!(entries.len(), 2);
    // A few large transactions exceed the bytes of one intention, and are split over two.
    let call = testing::program(&vec![add; 10_000]);
    let each = call.args.len();
    let fit = LOCAL_BODY_BYTES / each;
    assert!((2..LOCAL_TRANSACTIONS).contains(&fit), "{each} bytes");
    for _ in 0..=fit {
        let calls = vec![call.clone()];
        store.call(Lane::App, calls, NOW, ChainId(1)).unwrap();
    }
    let entries = store.commit(NOW).unwrap();
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        let len = entry.body.len as usize;
        assert!(len <= LOCAL_BODY_BYTES + each, "{len} bytes");
    }
}

/// Holds: invariant 10.
#[test]
fn the_derived_state_is_written_after_so_many_entries_or_so_long() {
    let mut store = testing::found(0, NOW);
    committed(&mut store, FLUSH_ENTRIES - 1);
    assert_eq!(store.core.progress.unflushed, FLUSH_ENTRIES - 1);
    committed(&mut store, 1);
    assert_eq!(store.core.progress.unflushed, 0);
    committed(&mut store, 1);
    store.tick(NOW + FLUSH_MS - 1).unwrap();
    assert_eq!(store.core.progress.unflushed, 1);
    store.tick(NOW + FLUSH_MS).unwrap();
    assert_eq!(store.core.progress.unflushed, 0);
}

/// Holds: invariant 10.
#[test]
fn a_batch_has_a_witness_record_when_the_last_one_is_so_old() {
    let mut store = testing::found(0, NOW);
    committed(&mut store, 1);
    let mut witnessed_at = |now| {
        let call = testing::program(&[Step::Number { k: 0 }]);
        store.call(Lane::App, vec![call], now, ChainId(1)).unwrap();
        store.commit(now).unwrap();
        store.core.progress.witnessed_since == 0
    };
    assert!(!witnessed_at(NOW + WITNESS_MS - 1));
    assert!(witnessed_at(NOW + WITNESS_MS));
    assert!(!witnessed_at(NOW + 2 * WITNESS_MS - 1));
    assert!(witnessed_at(NOW + 2 * WITNESS_MS));
}

/// Holds: invariant 10.
#[test]
fn the_overlay_is_written_when_it_has_too_many_rows() {
    let mut store = testing::found(0, NOW);
    let rows = &mut store.core.rows;
    for n in rows.pending_rows()..OVERLAY_ROWS_MAX {
        rows.put([&b"Mbound"[..], &n.to_be_bytes()].concat(), b"".to_vec());
    }
    store.tick(NOW).unwrap();
    assert!(store.core.rows.pending_rows() >= OVERLAY_ROWS_MAX);
    store.core.rows.put(b"Mone more".to_vec(), b"".to_vec());
    store.tick(NOW).unwrap();
    assert_eq!(store.core.rows.pending_rows(), 0);
}

/// Holds: invariant 10.
#[test]
fn answers_of_governance_are_forgotten_at_their_bound() {
    let store = testing::found(0, NOW);
    let rows = store.core.rows.view();
    let asking = store.core.asking();
    let mut answers = Answers::default();
    let question = |n: usize| Question::Authorize {
        author: testing::device(0),
        lane: Lane::App,
        interface: "a".into(),
        function: n.to_string(),
    };
    let mut ask = |n: usize| {
        let asked = answers.ask(&asking, &rows, &question(n), Slot::MAX);
        asked.unwrap().answer.unwrap();
        format!("{answers:?}")
    };
    for n in 0..ANSWERS_MAX {
        assert_eq!(ask(n), format!("Answers({})", n + 1));
    }
    let all = format!("Answers({ANSWERS_MAX})");
    assert_eq!(ask(0), all, "it is remembered");
    assert_eq!(ask(ANSWERS_MAX), "Answers(1)", "the others are forgotten");
}

/// A store of device `number` that holds the genesis of `founder`.
fn adopted(founder: &Store, number: u8, engine: Arc<dyn Engine>) -> Store {
    let genesis = founder.core.log.entry(LocalSeq(0)).unwrap().unwrap();
    let genesis = (
        genesis.header.signed().clone(),
        genesis.body.unwrap().to_vec(),
    );
    let files = testing::memory_files();
    Store::adopt(files, engine, testing::key(number), genesis, NOW).unwrap()
}

/// The entries of a log from number `from` on, as they are sent.
fn entries(store: &Store, from: u64) -> Vec<(SignedHeader, Option<Vec<u8>>)> {
    let stored = store.core.log.entries(LocalSeq(from), usize::MAX).unwrap();
    stored
        .into_iter()
        .map(|s| (s.header.signed().clone(), s.body.map(|body| body.to_vec())))
        .collect()
}

fn deliver(from: &Store, after: u64, to: &mut Store, now_ms: u64) -> Received {
    let received = to.receive(
        from.author,
        entries(from, after),
        now_ms,
        BatchVerifier([7; 32]),
    );
    let received = received.unwrap();
    assert_eq!(received.blame, vec![]);
    while to.settle(u64::MAX).unwrap().pending > 0 {}
    received
}

fn govern(store: &mut Store, call: lattice_format::Call, now_ms: u64) {
    let told = store.call(Lane::System, vec![call], now_ms, ChainId(9));
    assert!(told.unwrap().outcome.is_ok());
    store.commit(now_ms).unwrap();
}

/// Holds: invariant 10.
#[test]
fn an_entry_lies_ahead_as_far_as_the_drift_and_is_parked_beyond() {
    for (behind_ms, parked) in [(DRIFT_MS_DEFAULT, 0), (DRIFT_MS_DEFAULT + 1, 1)] {
        let mut ahead = testing::found(0, NOW);
        assert_eq!(ahead.core.info.genesis.drift_ms, DRIFT_MS_DEFAULT);
        let mut behind = adopted(&ahead, 1, Arc::new(ModelEngine));
        let at_ms = NOW + 2 * DRIFT_MS_DEFAULT;
        govern(&mut ahead, testing::set_quota(None), at_ms);
        let received = deliver(&ahead, 1, &mut behind, at_ms - behind_ms);
        assert_eq!(
            (received.parked, received.witnessed.len()),
            (parked, 1 - parked)
        );
        // A parked entry is admitted when the clock has come as near as the drift.
        let now_ms = at_ms - DRIFT_MS_DEFAULT;
        behind.tick(now_ms - 1).unwrap();
        assert_eq!(behind.parked().len(), parked);
        behind.tick(now_ms).unwrap();
        assert_eq!(behind.parked().len(), 0);
    }
}

/// Holds: invariant 10.
#[test]
fn notices_are_kept_until_acknowledged_and_beyond_their_bound_counted() {
    let mut store = testing::found(0, NOW);
    let fork = |n: usize| Notice::Fork {
        author: testing::device(1),
        entry: IntentionId(*blake3::hash(&n.to_be_bytes()).as_bytes()),
    };
    store.core.notices.extend((0..NOTICES_MAX).map(fork));
    store.commit(NOW).unwrap();
    let notices = store.notices().unwrap();
    assert_eq!(notices.len(), NOTICES_MAX);
    assert_eq!(notices[NOTICES_MAX - 1].1, fork(NOTICES_MAX - 1));
    store.core.notices.extend([fork(0), fork(1)]);
    store.commit(NOW).unwrap();
    store.core.notices.push(fork(2));
    store.commit(NOW).unwrap();
    let notices = store.notices().unwrap();
    assert_eq!(notices.len(), NOTICES_MAX + 1);
    assert_eq!(notices[NOTICES_MAX].1, Notice::More { count: 3 });
    // The counter is acknowledged together with the notices. Then there is room for new ones.
    let numbers: Vec<u64> = notices.iter().map(|(number, _)| *number).collect();
    store.acknowledge(&numbers).unwrap();
    assert_eq!(store.notices().unwrap(), []);
    store.core.notices.push(fork(3));
    store.commit(NOW).unwrap();
    assert_eq!(store.notices().unwrap(), [(NOTICES_MAX as u64, fork(3))]);
}

/// Holds: invariant 10.
#[test]
fn entries_are_named_one_by_one_up_to_their_bound() {
    let mut store = testing::found(0, NOW);
    store.take_changes();
    store.core.changes.entries = vec![IntentionId([0; 32]); CHANGED_ENTRIES_MAX - 1];
    committed(&mut store, 1);
    assert!(!store.core.changes.all);
    committed(&mut store, 1);
    let changes = store.take_changes();
    assert_eq!(changes.entries.len(), CHANGED_ENTRIES_MAX);
    assert!(changes.all, "one more counts as a change of all");
}

/// Holds: invariant 10.
#[test]
fn cells_are_named_one_by_one_up_to_their_bound() {
    let mut store = testing::found(0, NOW);
    let add = |store: &mut Store| {
        let call = testing::program(&[Step::Add { k: 0, by: 1 }]);
        store.call(Lane::App, vec![call], NOW, ChainId(1)).unwrap();
        store.commit(NOW).unwrap();
    };
    store.take_changes();
    add(&mut store);
    let cells = store.take_changes().cells;
    store.core.changes.cells = vec![cells[0].clone(); CHANGED_CELLS_MAX - cells.len()];
    add(&mut store);
    assert!(!store.core.changes.all);
    assert_eq!(store.core.changes.cells.len(), CHANGED_CELLS_MAX);
    add(&mut store);
    let changes = store.take_changes();
    assert!(changes.cells.len() < CHANGED_CELLS_MAX);
    assert!(changes.all, "one more counts as a change of all");
}

/// Holds: invariant 10.
#[test]
fn a_commit_runs_so_much_of_a_changed_governance_itself_and_leaves_the_rest() {
    // The revocation itself ran before the commit.
    for (count, left) in [(CUT_RUNS, 0), (CUT_RUNS + 1, 1)] {
        let mut a = testing::found(0, NOW);
        govern(
            &mut a,
            testing::admit(testing::device(1), Role::Writer),
            NOW,
        );
        let mut b = adopted(&a, 1, Arc::new(ModelEngine));
        deliver(&a, 1, &mut b, NOW);
        committed(&mut b, count);
        deliver(&b, 2, &mut a, NOW);
        assert_eq!(a.snapshot().summary().pending, 0);
        govern(&mut a, testing::revoke(testing::device(1), &[]), NOW);
        assert_eq!(a.snapshot().summary().pending, left);
        a.settle(u64::MAX).unwrap();
        assert_eq!(a.snapshot().summary().pending, 0);
    }
}

/// A governance component whose cuts take many rounds. It always cuts off the last entry of device 1 that counts, so
/// each fold leaves one entry less, and the cuts are other ones again.
struct Unravelling {
    revocation: CallId,
    entries: Vec<IntentionId>,
}

impl Engine for Unravelling {
    fn serves(&self, profile: u32) -> bool {
        ModelEngine.serves(profile)
    }

    fn ready(&self, component: &ComponentId) -> Result<(), HostFault> {
        ModelEngine.ready(component)
    }

    fn instantiate(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        ModelEngine.instantiate(component, limits, run)
    }

    fn ask(
        &self,
        component: &ComponentId,
        limits: &Limits,
        mut run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        if *question != Question::Cuts(testing::device(1)) {
            return ModelEngine.ask(component, limits, run, question);
        }
        // The last entry of device 1 that counts has written how many there are.
        let count = run.get(b"q").unwrap();
        let count = count.map_or(0, |q| u64::from_be_bytes((*q).try_into().unwrap()));
        let last = (count as usize).checked_sub(2).map(|at| self.entries[at]);
        let cut = Cut {
            revocation: self.revocation,
            kept: Kept::Ids(last.into_iter().collect()),
        };
        (run, Ok(Answer::Cuts(vec![cut])))
    }
}

/// Holds: invariant 10.
#[test]
fn governance_is_cut_and_folded_so_often_and_then_stands_still() {
    let authors = 2;
    let rounds = authors + CUT_ROUNDS_EXTRA;
    for (count, stands) in [(rounds, false), (rounds + 1, true)] {
        let mut a = testing::found(0, NOW);
        govern(&mut a, testing::admit(testing::device(1), Role::Admin), NOW);
        let mut b = adopted(&a, 1, Arc::new(ModelEngine));
        deliver(&a, 1, &mut b, NOW);
        for n in 1..=count {
            govern(&mut b, testing::set_quota(Some(n as u64)), NOW);
        }
        let written = entries(&b, 2);
        deliver(&b, 2, &mut a, NOW);
        let revocation = testing::revoke(testing::device(1), &[]);
        govern(&mut a, revocation, NOW);
        let revocation = a.core.log.entry(LocalSeq(2 + count as u64));
        let engine = Unravelling {
            revocation: revocation.unwrap().unwrap().header.call_id(0),
            entries: written
                .iter()
                .map(|(h, _)| Header::id_of(&h.bytes))
                .collect(),
        };
        let mut c = adopted(&a, 2, Arc::new(engine));
        c.receive(a.author, entries(&a, 1), NOW, BatchVerifier([7; 32]))
            .unwrap();
        let paused = c.snapshot().summary().system_paused.clone();
        let paused = paused.map(|fault| fault.to_string());
        assert_eq!(paused.is_some(), stands, "{paused:?}");
        let says = format!("in {rounds} rounds");
        assert!(paused.is_none_or(|reason| reason.contains(&says)));
    }
}

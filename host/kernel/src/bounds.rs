//! The bounds of runs and of the single writer, each at its last allowed value and one beyond.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use lattice_format::{ChainId, Lane, Position};

use crate::Store;
use crate::cell::{Cell, Space};
use crate::dag::LocalSeq;
use crate::engine::Question;
use crate::governance::Answers;
use crate::limits::*;
use crate::outcome::TrapKind;
use crate::run::{Place, Run, RunFault};
use crate::testing::{self, Step};

const NOW: u64 = 1_800_000_000_000;

/// A run of a command at the end of the order.
fn run(store: &Store) -> Run {
    let genesis = store.core.log.entry(LocalSeq(0)).unwrap().unwrap();
    let place = Place {
        header: Arc::new((*genesis.header).clone()),
        names: Vec::new(),
        index: 0,
    };
    let rows = store.core.rows.view();
    Run::command(rows, Some(store.id()), Lane::App, Position::MAX, place)
}

fn is_limit<T: std::fmt::Debug>(result: Result<T, RunFault>) {
    assert!(
        matches!(result, Err(RunFault::Trap(TrapKind::Limit))),
        "{result:?}"
    );
}

/// What a key of this length counts for.
fn cell_bytes(key: &[u8]) -> usize {
    Cell::new(Lane::App, Space::Bytes, key).as_bytes().len()
}

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
    // Not one byte more, overwriting included; the next transaction has all of it again.
    is_limit(run.put(b"", b""));
    is_limit(run.delete(b""));
    is_limit(run.add(b"", 1));
    run.begin_transaction();
    fill(&mut run);
}

#[test]
fn reads_of_an_intention_end_at_their_bound() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let mark = cell_bytes(&[0; 8]) + READ_MARK_BYTES;
    let count = READ_BYTES_MAX / mark;
    for n in 0..count {
        run.get(&n.to_be_bytes()).unwrap();
    }
    // What was read before costs nothing; and a new transaction does not begin anew.
    run.get(&0usize.to_be_bytes()).unwrap();
    run.begin_transaction();
    is_limit(run.get(&count.to_be_bytes()));
}

#[test]
fn a_page_ends_at_its_bytes() {
    let store = testing::found(0, NOW);
    let mut run = run(&store);
    let count = 4;
    let value = vec![0; PAGE_BYTES_MAX / count - 8];
    for n in 0..count {
        run.put(&n.to_be_bytes(), &value).unwrap();
    }
    // The model has rows of its own behind these.
    let end = 255usize.to_be_bytes();
    let page = run.scan(b"", Some(&end), u32::MAX, false).unwrap();
    assert_eq!((page.rows.len(), page.more), (count, false));
    run.put(&count.to_be_bytes(), b"").unwrap();
    let page = run.scan(b"", Some(&end), u32::MAX, false).unwrap();
    assert_eq!((page.rows.len(), page.more), (count, true));
    // One row is given however large it is: the largest key with the largest value exceeds a page.
    run.begin_transaction();
    let key = vec![0xff; KEY_BYTES_MAX];
    run.put(&key, &vec![0; VALUE_BYTES_MAX]).unwrap();
    let page = run.scan(&key, None, u32::MAX, false).unwrap();
    assert_eq!((page.rows.len(), page.more), (1, false));
}

/// Calls and commits, one after the other, at the same time.
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
    // By bytes: a few that together exceed them take as many intentions as they need, none a larger one.
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

#[test]
fn the_derived_state_is_written_after_so_many_entries_or_so_long() {
    let mut store = testing::found(0, NOW);
    committed(&mut store, FLUSH_ENTRIES - 1);
    assert_eq!(store.unflushed, FLUSH_ENTRIES - 1);
    committed(&mut store, 1);
    assert_eq!(store.unflushed, 0);
    committed(&mut store, 1);
    store.tick(NOW + FLUSH_MS - 1).unwrap();
    assert_eq!(store.unflushed, 1);
    store.tick(NOW + FLUSH_MS).unwrap();
    assert_eq!(store.unflushed, 0);
}

#[test]
fn the_overlay_is_written_when_it_has_too_many_rows() {
    let mut store = testing::found(0, NOW);
    let rows = &mut store.core.rows;
    for n in rows.pending_rows()..OVERLAY_ROWS_MAX {
        rows.put([&b"bound"[..], &n.to_be_bytes()].concat(), b"".to_vec());
    }
    store.tick(NOW).unwrap();
    assert!(store.core.rows.pending_rows() >= OVERLAY_ROWS_MAX);
    store.core.rows.put(b"one more".to_vec(), b"".to_vec());
    store.tick(NOW).unwrap();
    assert_eq!(store.core.rows.pending_rows(), 0);
}

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
        let asked = answers.ask(&asking, &rows, &question(n), Position::MAX);
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

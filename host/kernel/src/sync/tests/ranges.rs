//! The bounds of a search of ranges, each at its last value and one beyond.

use super::budgets::id;
use super::{NOW, write};
use crate::Store;
use crate::limits::{FINGERPRINT_BLOCK_BLOCKS, FINGERPRINT_BLOCK_ENTRIES};
use crate::sync::limits::*;
use crate::sync::message::{Message, Range, RangeContent, RangeSummary};
use crate::sync::ranges::{RangeFault, Ranges};
use crate::sync::summary::parts_max;
use crate::testing;
use lattice_format::{Digest, IntentionId, Position, Time};

/// Splits a range into `parts` with equal content. The first part is by far the largest, so that it can be split
/// again and again.
fn split(whole: Range, parts: usize, content: &RangeContent) -> Vec<RangeSummary> {
    let ends = (whole.from.time.wall_ms, whole.to.time.wall_ms);
    let step = (ends.1 - ends.0) / 512;
    let mut from = whole.from;
    (1..=parts)
        .map(|n| {
            let wall_ms = ends.1 - step * (parts - n) as u64;
            let at = Position {
                time: Time {
                    wall_ms,
                    counter: 0,
                },
                id: IntentionId([0; 32]),
            };
            let to = if n == parts { whole.to } else { at };
            let range = Range { from, to };
            from = to;
            RangeSummary {
                range,
                count: 1,
                content: content.clone(),
            }
        })
        .collect()
}

/// The next question of a search.
fn question(ranges: &mut Ranges, store: &Store, jobs: usize) -> Vec<Range> {
    loop {
        let step = ranges.step(&store.snapshot(), jobs).unwrap();
        assert_eq!(step.fault, None);
        let asked = |message| match message {
            Message::Summarize { ranges, .. } => ranges,
            other => panic!("{other:?}"),
        };
        if !step.again {
            return step.messages.into_iter().flat_map(asked).collect();
        }
    }
}

/// Holds: invariant 10.
#[test]
fn a_search_ends_when_too_many_ranges_wait() {
    let store = testing::found(0, NOW);
    let unlike = RangeContent::Fingerprint(Digest([9; 32]));
    // Each question is answered with as many parts as it may be, until as many ranges wait as may wait.
    let full = || {
        let mut ranges = Ranges::default();
        ranges.search();
        let mut waiting = 1;
        while waiting < FRONTIER_MAX {
            let asked = question(&mut ranges, &store, 0);
            assert_eq!(asked.len(), waiting.min(RANGES_MAX));
            let room = FRONTIER_MAX - waiting + asked.len();
            let parts = parts_max(asked.len()).min(room / asked.len());
            let parts = asked.iter().enumerate().flat_map(|(at, range)| {
                let more = usize::from(at < room % asked.len() && parts < parts_max(asked.len()));
                split(*range, parts + more, &unlike)
            });
            let parts: Vec<_> = parts.collect();
            waiting = waiting - asked.len() + parts.len();
            ranges.on_summary(parts).unwrap();
        }
        assert_eq!(waiting, FRONTIER_MAX);
        ranges
    };
    let listed = RangeContent::Ids(vec![id(1)]);
    for (parts, result) in [(1, Ok(())), (2, Err(RangeFault::TooMuch))] {
        let mut ranges = full();
        let asked = question(&mut ranges, &store, 0);
        let (first, others) = asked.split_first().unwrap();
        let answer = split(*first, parts, &listed);
        let others = others.iter().flat_map(|r| split(*r, 1, &listed));
        let answer: Vec<_> = answer.into_iter().chain(others).collect();
        assert_eq!(ranges.on_summary(answer), result);
    }
}

/// Holds: invariant 10.
#[test]
fn a_range_is_split_into_so_many_parts_and_fewer_where_many_are_asked_about() {
    assert_eq!(parts_max(1), PARTS_MAX);
    assert_eq!(parts_max(RANGES_MAX), PARTS_LEAST);
    for asked in 1..=RANGES_MAX {
        assert!(asked * parts_max(asked) <= PARTS_ANSWERED_MAX, "{asked}");
    }
    let store = testing::found(0, NOW);
    let unlike = RangeContent::Fingerprint(Digest([9; 32]));
    for (parts, result) in [(PARTS_MAX, Ok(())), (PARTS_MAX + 1, Err(RangeFault::Shape))] {
        let mut ranges = Ranges::default();
        ranges.search();
        let asked = question(&mut ranges, &store, 0);
        assert_eq!(ranges.on_summary(split(asked[0], parts, &unlike)), result);
    }
}

/// Holds: invariant 10.
#[test]
fn nothing_more_is_searched_while_much_is_to_be_sent() {
    let store = testing::found(0, NOW);
    let listed = RangeContent::Ids(vec![id(1)]);
    let unlike = RangeContent::Fingerprint(Digest([9; 32]));
    let mut ranges = Ranges::default();
    ranges.search();
    let asked = question(&mut ranges, &store, JOBS_MAX - 1);
    let mut answer = split(asked[0], 4, &listed);
    answer[3].content = unlike;
    ranges.on_summary(answer).unwrap();
    let mut step = |jobs| {
        let step = ranges.step(&store.snapshot(), jobs).unwrap();
        (step.leaves.len(), step.messages.len())
    };
    assert_eq!(step(JOBS_MAX), (0, 0));
    // While one job less than the bound waits, one leaf is found.
    assert_eq!(step(JOBS_MAX - 1), (1, 0));
    assert_eq!(step(JOBS_MAX - 2), (2, 0));
    assert_eq!(step(JOBS_MAX), (0, 0));
    assert_eq!(step(JOBS_MAX - 1), (0, 1));
}

/// Answers a question about the whole order. Returns the number of steps, and the fault that ended them, if any.
fn answered(ranges: &mut Ranges, store: &Store) -> (usize, Option<RangeFault>) {
    ranges
        .on_summarize(vec![Range::ALL], &store.snapshot())
        .unwrap();
    for steps in 1.. {
        let step = ranges.step(&store.snapshot(), 0).unwrap();
        assert_eq!(step.again, !ranges.is_idle());
        if !step.again {
            return (steps, step.fault);
        }
    }
    unreachable!("a question has an end")
}

/// Holds: invariant 10.
#[test]
fn so_many_rows_are_read_before_the_shell_gets_its_turn() {
    let mut store = testing::found(0, NOW);
    write(&mut store, 3_000, NOW + 1);
    let mut ranges = Ranges::default();
    ranges
        .on_summarize(vec![Range::ALL], &store.snapshot())
        .unwrap();
    // The last thing that a step begins may read the blocks of each level and the entries of one block.
    let most = SCAN_ROWS as u64 + 2 * FINGERPRINT_BLOCK_BLOCKS + FINGERPRINT_BLOCK_ENTRIES;
    let mut steps = 0;
    while !ranges.is_idle() {
        let before = ranges.rows_read;
        let step = ranges.step(&store.snapshot(), 0).unwrap();
        let read = ranges.rows_read - before;
        assert!(read <= most, "{read} rows");
        assert!(!step.again || read >= SCAN_ROWS as u64, "{read} rows");
        steps += 1;
    }
    assert!(steps > 1, "{} rows fit one step", ranges.rows_read);
}

/// Holds: invariant 10.
#[test]
fn one_round_reads_the_rows_of_a_store_so_often() {
    let mut store = testing::found(0, NOW);
    write(&mut store, 254, NOW + 1);
    let count = store.snapshot().summary().count;
    let rows_max = SCANS_MAX * (count + SCAN_ROWS as u64);
    let mut ranges = Ranges::default();
    loop {
        let before = ranges.rows_read;
        let (_, fault) = answered(&mut ranges, &store);
        let each = ranges.rows_read - before;
        if ranges.rows_read > rows_max {
            assert_eq!(fault, Some(RangeFault::TooMuch));
            assert!(before <= rows_max && each > 0);
            break;
        }
        assert_eq!(fault, None);
    }
}

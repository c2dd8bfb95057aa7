//! Comparing large stores by ranges: round trips, bytes and rows, counted.

use lattice_format::{IntentionId, Lane, Position, Seq, Time};

use super::NOW;
use crate::graph::dag::{self, BranchId, Meta};
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::sync::message::Message;
use crate::sync::ranges::Ranges;
use crate::sync::source;
use crate::testing;
use crate::{LocalSeq, Snapshot, Store};

/// A store with an order of `count` entries without those of which `lacks` is true. The entries have no bodies and no
/// signatures, which ranges do not read.
fn order(count: u64, lacks: impl Fn(u64) -> bool) -> Store {
    let mut store = testing::found(0, NOW);
    let core = &mut store.core;
    let mut local = core.progress.next;
    for n in (0..count).filter(|n| !lacks(*n)) {
        let position = Position {
            time: Time {
                wall_ms: NOW + 10 + n,
                counter: 0,
            },
            id: IntentionId(*blake3::hash(&n.to_be_bytes()).as_bytes()),
        };
        let meta = Meta {
            id: position.id,
            time: position.time,
            branch: BranchId(0),
            seq: Seq(local.0),
            lane: Lane::App,
            chain_bytes: 0,
            prev: None,
            grant: None,
            deps: Vec::new(),
        };
        order::put_new(&mut core.rows, Slot::of(position), local);
        core.rows.put(dag::local_key(local), meta.encode(local));
        core.fingerprints.came(position);
        local = LocalSeq(local.0 + 1);
        if local.0.is_multiple_of(20_000) {
            core.fingerprints.follow(&mut core.rows).unwrap();
            core.rows.flush().unwrap();
        }
    }
    core.progress.next = local;
    store.publish().unwrap();
    store
}

/// What a search took.
#[derive(Debug, Default, PartialEq, Eq)]
struct Search {
    round_trips: u64,
    bytes: usize,
    rows: u64,
    lacks: usize,
    wants: usize,
}

fn search(ours: &Store, theirs: &Store) -> Search {
    let (ours, theirs) = (&ours.snapshot(), &theirs.snapshot());
    let (mut asker, mut answerer) = (Ranges::default(), Ranges::default());
    let mut out = Search::default();
    asker.search();
    while !asker.is_idle() {
        let step = asker.step(ours, 0).unwrap();
        assert_eq!(step.fault, None);
        for leaf in step.leaves {
            let rows = source::rows(ours, leaf.range.from, 200).unwrap();
            let own = rows.iter().filter(|row| row.0 <= leaf.range.to);
            out.lacks += own.filter(|row| !leaf.theirs.contains(&row.0.id)).count();
            for id in &leaf.listed {
                out.wants += usize::from(dag_lacks(ours, leaf.range.from, id));
            }
        }
        for message in step.messages {
            out.round_trips += 1;
            out.bytes += message.encode().len();
            let Message::Summarize { ranges, .. } = message else {
                panic!("the searcher only asks");
            };
            answerer.on_summarize(ranges, theirs).unwrap();
            while !answerer.is_idle() {
                let step = answerer.step(theirs, 0).unwrap();
                assert_eq!(step.fault, None);
                for message in step.messages {
                    out.bytes += message.encode().len();
                    let Message::Summary { ranges, .. } = message else {
                        panic!("the other only answers");
                    };
                    asker.on_summary(ranges).unwrap();
                }
            }
        }
    }
    out.rows = asker.rows_read + answerer.rows_read;
    out
}

/// Whether an entry is not among the few behind a position. The entries have no rows by id.
fn dag_lacks(snapshot: &Snapshot, from: Position, id: &IntentionId) -> bool {
    let rows = source::rows(snapshot, from, 200).unwrap();
    !rows.iter().any(|row| row.0.id == *id)
}

/// Which of `count` entries are missing.
type Pattern = (&'static str, fn(u64, u64) -> bool);

const PATTERNS: [Pattern; 3] = [
    ("the last", |n, count| n >= count - 100),
    ("in a row", |n, count| {
        (count / 3..count / 3 + 100).contains(&n)
    }),
    ("scattered", |n, count| n % (count / 100) == 7),
];

fn missing(count: u64, pattern: Pattern) -> [Search; 2] {
    let (whole, part) = (
        order(count, |_| false),
        order(count, |n| pattern.1(n, count)),
    );
    let found = [search(&whole, &part), search(&part, &whole)];
    assert_eq!((found[0].lacks, found[0].wants), (100, 0));
    assert_eq!((found[1].lacks, found[1].wants), (0, 100));
    found
}

/// Holds: invariant 10.
#[test]
fn a_hundred_missing_entries_of_many_are_found_in_few_round_trips_bytes_and_rows() {
    let count = 30_000;
    for pattern in PATTERNS {
        // Each scattered entry takes a path of its own.
        let (round_trips, bytes) = match pattern.0 {
            "scattered" => (12, 600_000),
            _ => (3, 60_000),
        };
        for found in missing(count, pattern) {
            assert!(found.round_trips <= round_trips, "{}: {found:?}", pattern.0);
            assert!(found.bytes <= bytes, "{}: {found:?}", pattern.0);
            // As many rows as the tips of two paths for each part, and not those of the whole order.
            let rows = if bytes > 60_000 {
                30 * count
            } else {
                2 * count
            };
            assert!(found.rows <= rows, "{}: {found:?}", pattern.0);
        }
    }
}

#[test]
fn two_that_have_the_same_find_no_difference_in_the_first_answer() {
    let whole = order(5_000, |_| false);
    let found = search(&whole, &whole);
    assert_eq!((found.round_trips, found.lacks, found.wants), (1, 0, 0));
    assert!(found.bytes < 20_000, "{found:?}");
}

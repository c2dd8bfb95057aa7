//! Stores with many chains, compared by sketches.

use std::ops::Range;

use lattice_format::{Header, VerifiedHeader};

use super::budgets::{Side, hello, sent};
use super::*;
use crate::LocalSeq;
use crate::limits::SKETCH_CELLS_MAX;
use crate::sync::limits::{SKETCH_CELLS_LEAST, SKETCH_DIFFERENCE_MAX, TIPS_FEW};
use crate::sync::message::{Hello, Message};

/// Writes chains of one entry each by device 1, by their numbers, into a store.
fn chains(store: &mut Store, numbers: Range<u64>) {
    let template = store.snapshot().entry_at(LocalSeq(3)).unwrap().unwrap();
    let genesis = IntentionId::from(store.id());
    let entry = |n: u64| {
        let step = Step::Add { k: 3, by: 1 };
        let body = testing::body_of(testing::program(&[step]));
        let mut header = Header {
            chain: ChainId(1_000 + n),
            seq: lattice_format::Seq(0),
            prev: Some(genesis),
            deps: Vec::new(),
            ..(*template.header).clone()
        };
        header.time.wall_ms += n * 7 % 1_000;
        header.body.hash = lattice_format::Body::hash_of(&body);
        header.body.len = body.len() as u32;
        header.chain_bytes = body.len() as u64;
        let signed = VerifiedHeader::sign(header, &testing::key(1)).unwrap();
        (signed.signed().clone(), Some(body))
    };
    let entries: Vec<_> = numbers.map(entry).collect();
    for batch in entries.chunks(500) {
        let now = NOW + 100_000;
        let verifier = BatchVerifier([1; 32]);
        let received = store.receive(testing::device(9), batch.to_vec(), now, verifier);
        assert_eq!(received.unwrap().witnessed.len(), batch.len());
        while store.settle(1_000).unwrap().pending > 0 {}
    }
}

/// Two stores with the chains of `both`, and each with chains of its own.
fn two(both: u64, own: [u64; 2]) -> [Store; 2] {
    let [mut a, mut b, _] = three();
    write(&mut b, 1, NOW + 10);
    Link::new(&a, 0, &b, 1).run(&mut a, &mut b);
    chains(&mut a, 0..both + own[0]);
    chains(&mut b, 0..both);
    chains(&mut b, both + own[0]..both + own[0] + own[1]);
    [a, b]
}

fn compare(stores: &mut [Store; 2]) -> Link {
    let [a, b] = stores;
    let mut link = Link::new(a, 0, b, 1);
    link.run(a, b);
    assert_equal(a, b);
    assert!(link.in_sync(), "{:?}", link.log);
    link
}

#[test]
fn a_small_difference_of_stores_with_many_chains_takes_one_sketch() {
    let both = 2 * TIPS_FEW;
    for own in [[100, 0], [0, 100], [60, 40], [1, 1]] {
        let link = compare(&mut two(both, own));
        let entries = |own: u64| vec![ENTRIES; usize::from(own > 0)];
        let expected = [
            [vec![HELLO, SKETCH], entries(own[0]), vec![DONE, DONE]].concat(),
            [vec![HELLO, DIFFERENCE], entries(own[1]), vec![DONE, DONE]].concat(),
        ];
        let mut kinds = link.kinds.clone();
        kinds
            .iter_mut()
            .for_each(|kinds| kinds.retain(|kind| *kind != 6));
        assert_eq!(kinds, expected, "{own:?}");
        let bytes: usize = link.bytes.iter().sum();
        assert!(bytes < 25_000, "{own:?}: {bytes} bytes");
    }
}

#[test]
fn a_difference_that_a_sketch_does_not_hold_is_found_by_ranges() {
    let differ = SKETCH_CELLS_MAX as u64;
    let link = compare(&mut two(10, [differ, differ + 5]));
    for (side, kind) in [(0, SKETCH), (1, DIFFERENCE), (0, SUMMARIZE)] {
        assert!(link.kinds[side].contains(&kind), "{:?}", link.kinds);
    }
}

/// What two stores with so many chains in common, and these of their own, begin with.
fn begin(both: u64, own: [u64; 2]) -> u8 {
    let link = compare(&mut two(both, own));
    link.kinds[0][1]
}

/// Holds: invariant 10.
#[test]
fn sketches_are_tried_beyond_few_tips_and_up_to_a_difference_in_number() {
    // Beside the chains there is one of each store's first writers.
    let few = TIPS_FEW - 2;
    assert_eq!(begin(few - 1, [1, 0]), TIPS);
    assert_eq!(begin(few, [1, 0]), SKETCH);
    let most = SKETCH_DIFFERENCE_MAX;
    assert_eq!(begin(few, [most, 0]), SKETCH);
    assert_eq!(begin(few, [most + 1, 0]), TIPS);
}

/// Holds: invariant 10.
#[test]
fn a_sketch_has_cells_by_the_difference_in_number() {
    let [a, ..] = three();
    let own = a.snapshot().summary().count;
    let cells = |differ: u64| {
        let mut side = Side::of(&a, Role::Dialer, Access::All);
        let effects = side.hear(&Message::Hello(Hello {
            tip_count: TIPS_FEW + 1,
            count: own + differ,
            ..hello(&a)
        }));
        let sketch = sent(&effects)
            .into_iter()
            .find_map(|(message, _)| match message {
                Message::Sketch { cells, .. } => Some(cells.len()),
                _ => None,
            });
        sketch.unwrap()
    };
    let least = SKETCH_CELLS_LEAST as u64 / 2;
    assert_eq!(cells(0), SKETCH_CELLS_LEAST);
    assert_eq!(cells(least), SKETCH_CELLS_LEAST);
    assert_eq!(cells(least + 1), SKETCH_CELLS_LEAST + 2);
    assert_eq!(cells(SKETCH_DIFFERENCE_MAX), SKETCH_CELLS_MAX);
}

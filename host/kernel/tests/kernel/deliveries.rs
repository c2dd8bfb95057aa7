//! Deliveries of peers that share a commit.

use std::sync::Arc;

use lattice_kernel::testing::disk::{Dice, Disk, Power, Survives, files};
use lattice_kernel::testing::{ModelEngine, device, key};
use lattice_kernel::{Received, Store, Stored, Summary};

use crate::crash::{open, others};
use crate::world::{START_MS, adopt, judge, settle, wire};

const NOW: u64 = START_MS + 10_000;

/// Entries in pieces, in any order, some of them twice.
fn pieces(entries: &[Stored], dice: &mut Dice) -> Vec<Vec<Stored>> {
    let (mut pieces, mut rest) = (Vec::new(), entries);
    while !rest.is_empty() {
        let len = 1 + dice.below(4.min(rest.len() as u64)) as usize;
        let (piece, left) = rest.split_at(len);
        pieces.push(piece.to_vec());
        rest = left;
    }
    for _ in 0..pieces.len() / 2 {
        let (a, b) = (
            dice.below(pieces.len() as u64),
            dice.below(pieces.len() as u64),
        );
        pieces.swap(a as usize, b as usize);
        if dice.below(3) == 0 {
            pieces.push(pieces[a as usize].clone());
        }
    }
    pieces
}

fn take_in(store: &mut Store, piece: &[Stored]) -> Received {
    let batch = piece.iter().map(wire).collect();
    store.take_in(device(7), batch, NOW, [7; 32]).unwrap()
}

/// How often what was repeated depends on when it was folded.
fn shown(store: &Store) -> Summary {
    Summary {
        replays: Arc::default(),
        ..store.snapshot().summary().clone()
    }
}

#[test]
fn deliveries_that_share_a_commit_come_to_what_they_come_to_one_by_one() {
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let entries = others(&mut dice);
        let pieces = pieces(&entries[1..], &mut dice);
        let (mut single, mut grouped) = (adopt(3, &entries[0]), adopt(3, &entries[0]));
        let mut rest = &pieces[..];
        while !rest.is_empty() {
            let (group, left) = rest.split_at(1 + dice.below(rest.len() as u64) as usize);
            rest = left;
            let before = grouped.snapshot().summary().clone();
            let got: Vec<_> = group.iter().map(|p| take_in(&mut grouped, p)).collect();
            // Nothing is shown, and no entry found, before it is durable.
            assert_eq!(*grouped.snapshot().summary(), before);
            for new in got.iter().flat_map(|received| &received.witnessed) {
                assert!(!grouped.snapshot().contains(new).unwrap());
            }
            grouped.commit(NOW).unwrap();
            for (piece, got) in group.iter().zip(got) {
                let batch = piece.iter().map(wire).collect();
                let one = single.receive(device(7), batch, NOW, [7; 32]).unwrap();
                assert_eq!(got, one, "seed {seed}");
                for new in &got.witnessed {
                    assert!(grouped.snapshot().contains(new).unwrap());
                }
            }
            if dice.below(2) == 0 {
                settle(&mut single);
                settle(&mut grouped);
                assert_eq!(shown(&grouped), shown(&single));
            }
        }
        settle(&mut grouped);
        judge(&grouped).unwrap();
        assert_eq!(grouped.snapshot().summary().count, entries.len() as u64);
    }
}

#[test]
fn a_commit_that_fails_keeps_none_of_the_deliveries_that_shared_it() {
    let entries = others(&mut Dice(1));
    let power = Power::steady();
    let disks = [Disk::new(&power), Disk::new(&power)];
    let genesis = wire(&entries[0]);
    let (signed, body) = (genesis.0, genesis.1.unwrap());
    let opened = files(&disks[0], &disks[1]).unwrap();
    let engine = Arc::new(ModelEngine);
    let mut store = Store::adopt(opened, engine, key(1), (signed, body), START_MS).unwrap();
    let (first, second) = entries[1..5].split_at(2);
    for piece in [first, second] {
        assert_eq!(take_in(&mut store, piece).witnessed.len(), 2);
    }
    power.fail_after(0);
    store.commit(NOW).unwrap_err();
    let gone = |store: &Store| {
        let count = store.snapshot().summary().count;
        let found = entries[1..5].iter().filter(|e| {
            let id = e.header.id();
            store.snapshot().contains(&id).unwrap()
        });
        (count, found.count())
    };
    assert_eq!(gone(&store), (1, 0));
    let images = disks
        .each_ref()
        .map(|d| d.after_crash(Survives::Nothing, &mut Dice(1)));
    drop(store);
    let power = Power::steady();
    let disks = images.map(|image| Disk::with_image(image, &power));
    let mut store = open(files(&disks[0], &disks[1]).unwrap(), NOW).unwrap();
    assert_eq!(gone(&store), (1, 0));
    assert_eq!(take_in(&mut store, first).witnessed.len(), 2);
    store.commit(NOW).unwrap();
    assert_eq!(gone(&store), (3, 2));
}

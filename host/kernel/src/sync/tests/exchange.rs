//! Sessions between honest peers.

use std::sync::Arc;

use lattice_format::{IntentionId, Lane};
use proptest::prelude::*;

use super::*;
use crate::limits::VOID_ENTRIES_PER_AUTHOR;
use crate::sync::limits::FORKS_COMPARED_MAX;
use crate::sync::message::Message;
use crate::sync::ranges::Ranges;
use crate::sync::{Bootstrap, BootstrapStep, ErrorCode, source};
use crate::{BatchVerifier, LocalSeq};

#[test]
fn a_joiner_gets_everything_and_a_second_round_is_one_digest_each_way() {
    let [mut a, _, _] = three();
    write(&mut a, 300, NOW + 10);
    let mut b = join(&a, 1);
    let mut link = Link::new(&a, 0, &b, 1);
    link.run(&mut a, &mut b);
    assert_equal(&a, &b);
    assert!(link.in_sync(), "{:?}", link.log);
    assert!(!link.kinds[1].contains(&ENTRIES));
    link.reconcile(1).run(&mut a, &mut b);
    assert_eq!(link.kinds, [vec![HELLO], vec![HELLO]]);
    assert!(link.in_sync());
    assert!(
        link.bytes.iter().all(|bytes| *bytes <= 70),
        "{:?}",
        link.bytes
    );
    // The first round of another session is as short, with the id of the store.
    let mut link = Link::new(&a, 0, &b, 1);
    link.run(&mut a, &mut b);
    assert_eq!(link.kinds, [vec![HELLO], vec![HELLO]]);
    assert!(
        link.bytes.iter().all(|bytes| *bytes <= 100),
        "{:?}",
        link.bytes
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Three nodes write apart, and pairs of them meet in any order over streams that are cut anywhere. Further
    /// meetings make all three equal.
    /// Holds: invariant 5.
    #[test]
    fn nodes_that_meet_become_equal(
        steps in proptest::collection::vec((0usize..3, 1usize..6, 0usize..3, 0usize..12), 1..12),
    ) {
        let mut stores = three();
        let mut now = NOW + 100;
        for (writer, count, meeting, cut) in steps {
            write(&mut stores[writer], count, now);
            now += 1000;
            let (x, y) = [(0, 1), (1, 2), (0, 2)][meeting];
            let mut link = Link::new(&stores[x], x as u8, &stores[y], y as u8);
            link.frames_left = cut;
            let [a, b] = stores.get_disjoint_mut([x, y]).unwrap();
            link.run(a, b);
        }
        for (x, y) in [(0, 1), (1, 2), (0, 2), (0, 1)] {
            let mut link = Link::new(&stores[x], x as u8, &stores[y], y as u8);
            let [a, b] = stores.get_disjoint_mut([x, y]).unwrap();
            link.run(a, b);
            prop_assert!(link.in_sync(), "{:?}", link.log);
        }
        assert_equal(&stores[0], &stores[1]);
        assert_equal(&stores[1], &stores[2]);
    }
}

/// Holds: invariant 4.
#[test]
fn in_sync_sessions_push_what_is_written_and_send_nothing_twice() {
    let [mut a, mut b, mut c] = three();
    let mut ab = Link::new(&a, 0, &b, 1);
    let mut bc = Link::new(&b, 1, &c, 2);
    ab.run(&mut a, &mut b);
    bc.run(&mut b, &mut c);
    write(&mut a, 1, NOW + 500);
    ab.changed(0).run(&mut a, &mut b);
    assert_equal(&a, &b);
    // One frame of entries goes there, credit comes back, and no entry is echoed.
    assert_eq!(ab.kinds[0], vec![ENTRIES]);
    assert!(
        !ab.kinds[1]
            .iter()
            .any(|kind| [ENTRIES, ANNOUNCE].contains(kind))
    );
    // `b` announces entries of others, and gives them when it is asked.
    bc.changed(0).run(&mut b, &mut c);
    assert_eq!(bc.kinds[0], vec![ANNOUNCE, ENTRIES]);
    assert_equal(&a, &c);
    ab.changed(0).run(&mut a, &mut b);
    ab.changed(1).run(&mut a, &mut b);
    assert_eq!(ab.kinds, [vec![], vec![]]);
    ab.reconcile(0).run(&mut a, &mut b);
    assert!(ab.in_sync());
}

/// Holds: invariant 2.
#[test]
fn what_gossip_announces_is_fetched_with_everything_that_it_needs() {
    let [mut a, mut b, _] = three();
    let mut link = Link::new(&a, 0, &b, 1);
    link.run(&mut a, &mut b);
    write(&mut a, 20, NOW + 500);
    // The sender's session is not told that the log has grown. The receiver hears of the last id alone.
    let last = *a.snapshot().summary().heads.first().unwrap();
    link.reconcile(0).inputs.clear();
    link.inputs.push_back((1, Input::Announced(vec![last])));
    link.run(&mut a, &mut b);
    assert_equal(&a, &b);
}

#[test]
fn an_entry_that_the_peer_has_parked_is_not_sent_again_each_round() {
    let [mut a, mut b, _] = three();
    let mut link = Link::new(&a, 0, &b, 1);
    write(&mut a, 1, link.now_ms + 3_600_000);
    link.run(&mut a, &mut b);
    assert_eq!(b.parked().len(), 1);
    assert!(link.kinds[0].contains(&ENTRIES));
    for _ in 0..2 {
        link.reconcile(0).run(&mut a, &mut b);
        assert!(!link.kinds[0].contains(&ENTRIES), "{:?}", link.kinds);
    }
    // Nor in another session, and others are not told of it.
    let mut link = Link::new(&a, 0, &b, 1);
    link.run(&mut a, &mut b);
    assert!(!link.kinds[0].contains(&ENTRIES));
    assert!(b.snapshot().parked.ids_of(testing::device(2)).is_empty());
}

/// Device 1 twice, and a third store. Both copies write with the same key and chain, as after a copy of an older
/// home, so the chain forks.
fn forked(rounds: usize) -> [Store; 3] {
    let [mut a, mut b, c] = three();
    write(&mut b, 5, NOW + 10);
    Link::new(&a, 0, &b, 1).run(&mut a, &mut b);
    let mut twin = join(&a, 1);
    Link::new(&a, 0, &twin, 1).run(&mut a, &mut twin);
    for round in 0..rounds {
        write(&mut b, 3 + round, NOW + 1000 * (round as u64 + 1));
        let mut other = vec![Step::Add { k: 3, by: 1 }];
        other.truncate(1);
        for n in 0..(5 - round.min(3)) {
            let at = NOW + 1000 * (round as u64 + 1) + 50 + n as u64;
            super::call(&mut twin, Lane::App, testing::program(&other), at);
        }
    }
    [b, twin, c]
}

#[test]
fn forked_chains_that_the_other_does_not_know_are_found_by_ranges() {
    for rounds in 1..4 {
        for dialer in 0..2 {
            let [mut x, mut y, _] = forked(rounds);
            if dialer == 1 {
                std::mem::swap(&mut x, &mut y);
            }
            let forks = x.snapshot().tips().unwrap().len();
            let mut link = Link::new(&x, 1, &y, 1);
            link.run(&mut x, &mut y);
            assert_equal(&x, &y);
            assert!(link.in_sync(), "{:?}", link.log);
            assert!(
                link.kinds[0].contains(&SUMMARIZE),
                "tips alone cannot find a fork"
            );
            assert!(x.snapshot().tips().unwrap().len() > forks);
            link.reconcile(1).run(&mut x, &mut y);
            assert_eq!(link.kinds, [vec![HELLO], vec![HELLO]]);
        }
    }
}

#[test]
fn a_chain_with_many_forks_is_brought_over_by_ranges() {
    for dialer in 0..2 {
        let [mut a, mut b, mut c] = three();
        write(&mut b, 1, NOW + 10);
        let first = b.snapshot().entry_at(LocalSeq(3)).unwrap().unwrap();
        let fork = |n: i8| {
            let body = testing::body_of(testing::program(&[Step::Add { k: 3, by: n }]));
            let header = testing::twin(&first.header, Lane::App, &body, &testing::key(1));
            (header.signed().clone(), Some(body))
        };
        let forks = 2 * FORKS_COMPARED_MAX as i8;
        let entries = (1..=forks).map(fork).collect();
        let verifier = BatchVerifier([1; 32]);
        let received = a.receive(testing::device(9), entries, NOW + 1_000, verifier);
        assert_eq!(received.unwrap().witnessed.len(), forks as usize);
        while a.settle(1_000).unwrap().pending > 0 {}
        // The first peer has one of the forks, the second one has none, and the third one has the genesis alone.
        let mut fresh = join(&a, 2);
        for (number, other) in [(1, &mut b), (2, &mut c), (2, &mut fresh)] {
            let mut link = match dialer {
                0 => Link::new(&a, 0, other, number),
                _ => Link::new(other, number, &a, 0),
            };
            match dialer {
                0 => link.run(&mut a, other),
                _ => link.run(other, &mut a),
            };
            assert_equal(&a, other);
            assert!(link.in_sync(), "{:?}", link.log);
        }
        assert_eq!(a.snapshot().summary().forks, forks as u64);
    }
}

#[test]
fn ranges_alone_find_every_difference_of_two_logs() {
    let [mut a, mut b, _] = three();
    write(&mut a, 700, NOW + 10);
    Link::new(&a, 0, &b, 1).run(&mut a, &mut b);
    write(&mut a, 150, NOW + 100_000);
    write(&mut b, 40, NOW + 100_020);
    let (ours, theirs) = (a.snapshot(), b.snapshot());
    let (mut search, mut answer) = (Ranges::default(), Ranges::default());
    search.search();
    let (mut lacks, mut wants, mut questions) = (Vec::new(), Vec::new(), 0);
    while !search.is_idle() {
        let step = search.step(&ours, 0).unwrap();
        assert_eq!(step.fault, None);
        for leaf in step.leaves {
            let rows = source::rows(&ours, leaf.range.from, 10_000).unwrap();
            lacks.extend(
                rows.into_iter()
                    .map(|row| row.0)
                    .filter(|at| *at <= leaf.range.to && !leaf.theirs.contains(&at.id)),
            );
            wants.extend(
                leaf.listed
                    .into_iter()
                    .filter(|id| !ours.contains(id).unwrap()),
            );
        }
        for message in step.messages {
            let Message::Summarize { ranges, .. } = message else {
                panic!("the searcher only asks");
            };
            questions += 1;
            answer.on_summarize(ranges, &theirs).unwrap();
            while !answer.is_idle() {
                for message in answer.step(&theirs, 0).unwrap().messages {
                    let Message::Summary { ranges, .. } = message else {
                        panic!("the other only answers");
                    };
                    search.on_summary(ranges).unwrap();
                }
            }
        }
    }
    assert!(lacks.is_sorted(), "what is found is not in causal order");
    assert_eq!((lacks.len(), wants.len()), (150, 40));
    assert!(questions <= 6, "{questions} questions");
}

#[test]
fn one_that_is_no_longer_a_member_gets_headers_and_system_bodies() {
    let [mut a, mut b, _] = three();
    write(&mut a, 3, NOW + 10);
    super::call(
        &mut a,
        Lane::System,
        testing::revoke(testing::device(1), &[]),
        NOW + 20,
    );
    let mut past = config(Role::Dialer, 0, 1);
    past.access = Access::SystemLane;
    let mut link = Link::of(past, config(Role::Listener, 1, 0));
    link.run(&mut a, &mut b);
    // The peer got all four entries, and names those that it could not take. Both sides know why.
    assert_eq!(link.delivered[1].len(), 4);
    assert!(link.sessions[1].status().settled);
    let withheld = link.log.iter().any(|(side, effect)| match effect {
        Effect::WeLack(lack) => *side == 1 && lack.withheld == 3,
        _ => false,
    });
    assert!(withheld, "{:?}", link.log);
    let app = b.snapshot().history(None, 100, false).unwrap();
    assert!(
        app.iter()
            .all(|row| row.stored.header.lane == Lane::System || row.stored.body.is_none())
    );
    // Later rounds say so again, and send nothing again.
    link.now_ms += 2_000;
    link.reconcile(0).run(&mut a, &mut b);
    let withheld = |link: &Link| {
        link.log.iter().find_map(|(side, effect)| match effect {
            Effect::WeLack(lack) if *side == 1 => Some(lack.withheld),
            _ => None,
        })
    };
    assert_eq!(withheld(&link), Some(3));
    assert_eq!(link.delivered[1], vec![]);
    // As a member again, the peer gets the bodies as well.
    link.now_ms += 2_000;
    link.reconcile(0);
    link.inputs.push_front((0, Input::Access(Access::All)));
    link.run(&mut a, &mut b);
    assert_eq!(link.delivered[1].len(), 4);
    assert_eq!(withheld(&link), None);
}

#[test]
fn void_entries_are_not_offered_and_do_not_keep_a_round_open() {
    let [mut a, mut b, mut c] = three();
    write(&mut b, 4, NOW + 10);
    Link::new(&a, 0, &b, 1).run(&mut a, &mut b);
    super::call(
        &mut a,
        Lane::System,
        testing::revoke(testing::device(1), &[]),
        NOW + 900,
    );
    let count = a.snapshot().summary().count;
    let mut link = Link::new(&a, 0, &c, 2);
    link.run(&mut a, &mut c);
    assert!(link.in_sync(), "{:?}", link.log);
    assert_eq!(
        a.snapshot().summary().state_root,
        c.snapshot().summary().state_root
    );
    // The revocation names the void entries and floats without them, so they were asked for.
    assert_eq!(c.snapshot().summary().count, count);
    // Void entries that no entry names are not sent.
    write_void(&mut a, &mut b);
    link.reconcile(0).run(&mut a, &mut c);
    assert!(link.in_sync(), "{:?}", link.log);
    assert_eq!(link.kinds, [vec![HELLO], vec![HELLO]]);
    assert!(c.snapshot().summary().count < a.snapshot().summary().count);
}

/// Holds: invariant 9.
#[test]
fn what_is_left_out_of_a_flood_is_not_lacked_and_nobody_gets_it() {
    for count in [10, 100, 1_000] {
        let [mut a, mut b, mut c] = three();
        write(&mut b, 3, NOW + 10);
        Link::new(&a, 0, &b, 1).run(&mut a, &mut b);
        let revoke = testing::revoke_unseen(testing::device(1));
        super::call(&mut a, Lane::System, revoke, NOW + 900);
        let before = a.snapshot().summary().count;
        // The revoked member has not heard of it yet, and offers all that it writes.
        write(&mut b, count, NOW + 2000);
        let mut link = Link::new(&a, 0, &b, 1);
        link.run(&mut a, &mut b);
        assert!(link.in_sync(), "{count}: {:?}", link.log);
        let kept = a.snapshot().summary().count - before;
        assert_eq!(kept, VOID_ENTRIES_PER_AUTHOR.min(count as u64));
        link.reconcile(0).run(&mut a, &mut b);
        assert_eq!(link.kinds, [vec![HELLO], vec![HELLO]], "{count}");
        let mut link = Link::new(&a, 0, &c, 2);
        link.run(&mut a, &mut c);
        assert!(link.in_sync(), "{count}: {:?}", link.log);
        assert_eq!(c.snapshot().summary().count, before);
        assert_eq!(
            a.snapshot().summary().state_root,
            c.snapshot().summary().state_root
        );
    }
}

/// Lets `b` write, which does not know that it was revoked, and `a` receive the entries, which are void there.
fn write_void(a: &mut Store, b: &mut Store) {
    write(b, 3, NOW + 2000);
    let snapshot = b.snapshot();
    let first = snapshot.summary().count - 3;
    let entries = snapshot.entries_from(crate::LocalSeq(first), 3).unwrap();
    let entries = entries
        .into_iter()
        .map(|s| (s.header.signed().clone(), s.body.map(|body| body.to_vec())))
        .collect();
    a.receive(
        testing::device(1),
        entries,
        NOW + 1_000_000,
        BatchVerifier([1; 32]),
    )
    .unwrap();
    while a.settle(1000).unwrap().pending > 0 {}
}

#[test]
fn a_joiner_without_a_store_gets_the_genesis_first() {
    let mut a = testing::found(0, NOW);
    let mut serving = config(Role::Listener, 0, 5);
    serving.access = Access::Invited;
    let mut session = Session::new(serving);
    let (mut bootstrap, bytes) = Bootstrap::start(a.id(), NOW);
    assert_eq!(crate::sync::store_asked_for(&bytes).unwrap(), Some(a.id()));
    assert_eq!(crate::sync::store_asked_for(&bytes[..20]).unwrap(), None);
    let mut effects = session.handle(Input::Start, NOW, &a.snapshot()).unwrap();
    effects.extend(
        session
            .handle(Input::Bytes(bytes), NOW, &a.snapshot())
            .unwrap(),
    );
    let step = effects.into_iter().find_map(|effect| match effect {
        Effect::Send(bytes) => Some(bootstrap.handle(&bytes)).filter(|s| *s != BootstrapStep::More),
        _ => None,
    });
    let (header, body) = genesis_of(&a);
    assert_eq!(
        step,
        Some(BootstrapStep::Genesis(header.clone(), body.clone()))
    );
    let mut b = Store::adopt(
        testing::memory_files(),
        Arc::new(ModelEngine),
        testing::key(5),
        (header, body),
        NOW,
    )
    .unwrap();
    Link::new(&a, 0, &b, 5).run(&mut a, &mut b);
    assert_equal(&a, &b);
    let refusal = crate::sync::refusal(ErrorCode::UnknownStore, "no such store");
    let (mut bootstrap, _) = Bootstrap::start(a.id(), NOW);
    assert!(matches!(
        bootstrap.handle(&refusal),
        BootstrapStep::Refused(_)
    ));
}

#[test]
fn a_busy_store_holds_the_sender_back_and_loses_nothing() {
    let [mut a, mut b, _] = three();
    write(&mut a, 30, NOW + 10);
    let mut link = Link::new(&a, 0, &b, 1);
    link.inputs.clear();
    let started = link.sessions[0]
        .handle(Input::Start, NOW, &a.snapshot())
        .unwrap();
    assert!(matches!(started.as_slice(), [Effect::Send(_)]));
    // A session is thrown away in the middle of a round, and another one does everything.
    let mut link = Link::new(&a, 0, &b, 1);
    link.run(&mut a, &mut b);
    assert_equal(&a, &b);
    // A store that could not take a batch gets it at the next round.
    write(&mut a, 5, NOW + 500);
    let effects = link.sessions[0]
        .handle(Input::Changed, link.now_ms, &a.snapshot())
        .unwrap();
    for effect in effects {
        if let Effect::Send(bytes) = effect {
            let out = link.sessions[1].handle(Input::Bytes(bytes), link.now_ms, &b.snapshot());
            assert!(out.unwrap().iter().any(|e| matches!(e, Effect::Deliver(_))));
        }
    }
    link.inputs.push_back((1, Input::Received(None)));
    link.run(&mut a, &mut b);
    link.reconcile(0).run(&mut a, &mut b);
    assert!(link.in_sync(), "{:?}", link.log);
    assert!(link.kinds[0].contains(&DONE));
    assert_equal(&a, &b);
}

#[test]
fn ids_of_a_log_are_told_in_its_own_order() {
    let [mut a, _, _] = three();
    write(&mut a, 10, NOW + 10);
    let rows = source::rows(&a.snapshot(), lattice_format::Position::MIN, 100).unwrap();
    assert_eq!(rows.len() as u64, a.snapshot().summary().count);
    assert!(rows.is_sorted_by_key(|row| row.0));
    assert_eq!(rows[0].0.id, IntentionId::from(a.id()));
}

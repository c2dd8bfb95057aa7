//! Sessions with hostile peers.

use bytes::Bytes;
use lattice_format::{DeviceKey, Digest, IntentionId, Position, Signature, SignedHeader, StoreId};
use proptest::prelude::*;

use super::*;
use crate::BatchVerifier;
use crate::state::sketch::Cell;
use crate::sync::limits::*;
use crate::sync::message::{
    Attestation, Done, Hello, Message, PeerTip, Range, RangeContent, RangeSummary,
};
use crate::sync::{CloseReason, ErrorCode};

fn hello(store: &Store) -> Hello {
    Hello {
        round: 1,
        versions: vec![1],
        store: Some(store.id()),
        clock_ms: NOW,
        attestation: None,
        wants: Wants::All,
        horizon: None,
        parked_count: 0,
        parked: Vec::new(),
        tips_digest: Digest([1; 32]),
        tip_count: 1,
        count: 1,
        window_bytes: 1 << 20,
        gives: Wants::All,
    }
}

/// A session that has heard `hello` and then `messages`, with its effects since.
fn after(store: &Store, hello: Hello, messages: &[Message]) -> (Session, Vec<Effect>) {
    let mut session = Session::new(config(Role::Listener, 0, 1));
    let mut out = session
        .handle(Input::Start, NOW, &store.snapshot())
        .unwrap();
    for message in std::iter::once(&Message::Hello(hello)).chain(messages) {
        let bytes = Bytes::from(message.encode());
        out.extend(
            session
                .handle(Input::Bytes(bytes), NOW, &store.snapshot())
                .unwrap(),
        );
    }
    (session, out)
}

fn refusal(effects: &[Effect]) -> Option<ErrorCode> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(CloseReason::Refused(error)) => Some(error.code),
        _ => None,
    })
}

fn slowed(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Slow { .. }))
}

fn attested(device: DeviceKey, endpoint: DeviceKey) -> Option<Attestation> {
    Some(Attestation { device, endpoint })
}

#[test]
fn the_wrong_hello_is_refused_with_a_typed_error() {
    let store = testing::found(0, NOW);
    let wrong = |change: fn(&mut Hello)| {
        let mut hello = hello(&store);
        change(&mut hello);
        refusal(&after(&store, hello, &[]).1)
    };
    assert_eq!(wrong(|_| ()), None);
    assert_eq!(
        wrong(|h| h.store = Some(StoreId([9; 32]))),
        Some(ErrorCode::UnknownStore)
    );
    assert_eq!(wrong(|h| h.store = None), Some(ErrorCode::UnknownStore));
    let own = |h: &mut Hello| h.attestation = attested(testing::device(1), testing::device(1));
    assert_eq!(wrong(own), None);
    assert_eq!(wrong(|h| h.versions = vec![2, 3]), Some(ErrorCode::Version));
    assert_eq!(
        wrong(|h| h.attestation = attested(testing::device(1), DeviceKey([3; 32]))),
        Some(ErrorCode::NotAMember)
    );
    assert_eq!(
        wrong(|h| h.attestation = attested(testing::device(2), testing::device(1))),
        Some(ErrorCode::NotAMember)
    );
    let mut nobody = config(Role::Listener, 0, 1);
    nobody.access = Access::None;
    let mut session = Session::new(nobody);
    let effects = session
        .handle(Input::Start, NOW, &store.snapshot())
        .unwrap();
    assert_eq!(refusal(&effects), Some(ErrorCode::NotAMember));
    assert!(
        session
            .handle(Input::Reconcile, NOW, &store.snapshot())
            .unwrap()
            .is_empty()
    );
}

/// Holds: invariant 9.
#[test]
fn faults_slow_a_peer_and_then_drop_it() {
    let store = testing::found(0, NOW);
    let garbage = Bytes::from_static(&[0, 0, 0, 1, 3, 0xff]);
    let (mut session, _) = after(&store, hello(&store), &[]);
    for fault in 1..FAULTS_MAX {
        let effects = session.handle(Input::Bytes(garbage.clone()), NOW, &store.snapshot());
        assert!(slowed(&effects.unwrap()));
        assert_eq!(session.status().faults, fault);
    }
    let effects = session
        .handle(Input::Bytes(garbage), NOW, &store.snapshot())
        .unwrap();
    assert!(matches!(
        effects.last(),
        Some(Effect::Close(CloseReason::Faulty { .. }))
    ));
}

#[test]
fn entries_that_are_not_valid_are_blamed_on_their_sender() {
    let mut store = testing::found(0, NOW);
    let (header, _) = genesis_of(&store);
    let mut bytes = header.bytes.to_vec();
    bytes[40] ^= 1;
    let forged = SignedHeader {
        bytes: bytes.into(),
        ..header
    };
    let (mut session, effects) = after(
        &store,
        hello(&store),
        &[Message::Entries(vec![(forged, Some(vec![1]))])],
    );
    let Some(Effect::Deliver(entries)) = effects
        .into_iter()
        .find(|e| matches!(e, Effect::Deliver(_)))
    else {
        panic!("nothing was delivered");
    };
    let received = store
        .receive(testing::device(1), entries, NOW, BatchVerifier([0; 32]))
        .unwrap();
    assert_eq!(received.blame.len(), 1);
    let effects = session
        .handle(Input::Received(Some(received)), NOW, &store.snapshot())
        .unwrap();
    assert!(slowed(&effects));
}

#[test]
fn an_oversized_frame_ends_the_session_and_an_unknown_one_is_passed_over() {
    let store = testing::found(0, NOW);
    let (mut session, _) = after(&store, hello(&store), &[]);
    let unknown = Bytes::from_static(&[0, 0, 0, 3, 99, 1, 2, 3]);
    for piece in [
        unknown.slice(..6),
        unknown.slice(6..),
        Bytes::from(Message::Credit { bytes: 1 }.encode()),
    ] {
        let effects = session
            .handle(Input::Bytes(piece), NOW, &store.snapshot())
            .unwrap();
        assert!(!slowed(&effects), "{effects:?}");
    }
    let huge = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 3]);
    let effects = session
        .handle(Input::Bytes(huge), NOW, &store.snapshot())
        .unwrap();
    assert_eq!(refusal(&effects), Some(ErrorCode::TooMuch));
}

/// Holds: invariant 10.
#[test]
fn every_bound_has_a_peer_that_exceeds_it() {
    let mut store = testing::found(0, NOW);
    write(&mut store, 10, NOW + 1);
    let faulty = |messages: &[Message]| slowed(&after(&store, hello(&store), messages).1);
    let id = |n: usize| IntentionId(*blake3::hash(&n.to_be_bytes()).as_bytes());
    let ids = |from: usize| (from..from + IDS_MAX).map(id).collect::<Vec<_>>();
    // Entries beyond the window that was granted, while the store is busy.
    let signed = SignedHeader {
        bytes: vec![1; 100].into(),
        signature: Signature([0; 64]),
    };
    let big = Message::Entries(vec![(signed, Some(vec![0; WINDOW_BYTES as usize]))]);
    assert!(!faulty(std::slice::from_ref(&big)));
    assert!(faulty(&[big.clone(), big]));
    // A peer that takes nothing asks for more entries than are queued.
    let mut stingy = hello(&store);
    stingy.window_bytes = 0;
    let all = (WANTED_MAX + VOID_ANCESTORS_MAX) / IDS_MAX;
    let mut wants: Vec<_> = (0..all).map(|n| Message::Want(ids(n * IDS_MAX))).collect();
    let left = (WANTED_MAX + VOID_ANCESTORS_MAX) % IDS_MAX;
    wants.push(Message::Want(ids(0)[..left].to_vec()));
    assert!(!slowed(&after(&store, stingy.clone(), &wants).1));
    wants.push(Message::Want(vec![id(0)]));
    assert!(slowed(&after(&store, stingy, &wants).1));
    // More ids in one message than allowed.
    let many = (0..=IDS_MAX).map(id).collect();
    assert!(faulty(&[Message::Want(many)]));
    // Tips beyond the number announced, and after the last.
    let tip = PeerTip {
        author: DeviceKey([1; 32]),
        chain: lattice_format::ChainId(1),
        seq: lattice_format::Seq(1),
        id: id(1),
    };
    let tips = |n, last| Message::Tips {
        round: 1,
        tips: vec![tip; n],
        last,
    };
    assert!(!faulty(&[tips(1, true)]));
    assert!(faulty(&[tips(2, true)]));
    assert!(faulty(&[tips(1, true), tips(0, true)]));
    // Hello twice, a summary nobody asked for, a question that is no range.
    assert!(faulty(&[Message::Hello(hello(&store))]));
    let range = Range {
        from: Position::MAX,
        to: Position::MIN,
    };
    assert!(faulty(&[Message::Summarize {
        round: 1,
        ranges: vec![range]
    }]));
    let content = RangeContent::Fingerprint(Digest([0; 32]));
    let summary = RangeSummary {
        range: Range::ALL,
        count: 1,
        content,
    };
    assert!(faulty(&[Message::Summary {
        round: 1,
        ranges: vec![summary]
    }]));
    // A sketch where tips are compared, a second one, and what only a listener says.
    let sketch = || Message::Sketch {
        round: 1,
        cells: vec![Cell::default(); 8],
    };
    assert!(faulty(&[sketch()]));
    let many = Hello {
        tip_count: TIPS_FEW + 1,
        ..hello(&store)
    };
    assert!(!slowed(&after(&store, many.clone(), &[sketch()]).1));
    assert!(slowed(
        &after(&store, many.clone(), &[sketch(), sketch()]).1
    ));
    let difference = Message::Difference {
        round: 1,
        lacks: Some(ids(0)),
    };
    assert!(slowed(&after(&store, many, &[difference]).1));
    // A peer begins one round after the other.
    let rounds: Vec<_> = (2..40)
        .map(|round| {
            Message::Hello(Hello {
                round,
                ..hello(&store)
            })
        })
        .collect();
    assert!(faulty(&rounds));
    // Messages of another round are no fault.
    let done = Done {
        round: 7,
        tips_digest: Digest([0; 32]),
        count: 0,
        sent: 0,
        floating: 0,
        parked: 0,
        missing: vec![],
        withheld: 0,
        last: true,
        ranged: false,
    };
    assert!(!faulty(&[
        Message::Done(done),
        Message::Diverged { round: 9 }
    ]));
    // The window bounds announcements, and a queue bounds the ids in them.
    let announces: Vec<_> = (0..80)
        .map(|n| Message::Announce(ids(n * IDS_MAX)))
        .collect();
    let (session, effects) = after(&store, hello(&store), &announces);
    assert!(!slowed(&effects), "credit is given back as it is used up");
    assert!(session.inbound.wake_ms().is_some());
}

#[test]
fn a_question_about_everything_again_and_again_is_a_fault() {
    let mut store = testing::found(0, NOW);
    write(&mut store, 100, NOW + 1);
    let (mut session, _) = after(&store, hello(&store), &[]);
    let question = Bytes::from(
        Message::Summarize {
            round: 1,
            ranges: vec![Range::ALL],
        }
        .encode(),
    );
    let mut faults = 0;
    for _ in 0..4000 {
        let input = Input::Bytes(question.clone());
        let effects = session.handle(input, NOW, &store.snapshot()).unwrap();
        faults += usize::from(slowed(&effects));
    }
    assert!(faults > 0);
}

#[test]
fn a_session_survives_silence_and_a_stuck_round_gives_way() {
    let store = testing::found(0, NOW);
    let (mut session, _) = after(&store, hello(&store), &[]);
    let effects = session
        .handle(Input::Reconcile, NOW + 1, &store.snapshot())
        .unwrap();
    assert!(effects.is_empty(), "the round is under way");
    let effects = session
        .handle(Input::Reconcile, NOW + 60_000, &store.snapshot())
        .unwrap();
    assert!(matches!(effects.as_slice(), [Effect::Send(_)]));
    assert_eq!(session.status().round, 2);
    // A peer that sends credit every minute does not keep a round alive that makes no progress.
    for minute in 2..13 {
        let bytes = Bytes::from(Message::Credit { bytes: 1 }.encode());
        let now = NOW + minute * 60_000;
        session
            .handle(Input::Bytes(bytes), now, &store.snapshot())
            .unwrap();
        session
            .handle(Input::Reconcile, now, &store.snapshot())
            .unwrap();
    }
    assert_eq!(session.status().round, 3);
}

proptest! {
    #[test]
    fn garbage_never_panics(chunks in proptest::collection::vec(
        (0u8..14, proptest::collection::vec(any::<u8>(), 0..200)), 0..20))
    {
        let store = testing::found(0, NOW);
        let (mut session, _) = after(&store, hello(&store), &[]);
        for (kind, payload) in chunks {
            let frame = crate::frame::frame(kind, &payload);
            session.handle(Input::Bytes(frame.into()), NOW, &store.snapshot()).unwrap();
        }
    }
}

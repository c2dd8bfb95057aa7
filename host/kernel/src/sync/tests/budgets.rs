//! The budgets, queues and walks of a session, each at its last value and one beyond.

use bytes::Bytes;
use lattice_format::{Digest, IntentionId, Lane, Signature, SignedHeader};

use super::{NOW, call, config, three, write};
use crate::frame::FRAME_HEAD_BYTES;
use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use crate::sync::limits::*;
use crate::sync::message::{Hello, Message, PeerTip, Wants};
use crate::sync::reader::FrameReader;
use crate::sync::{Access, Effect, Input, Role, Session, source};
use crate::testing;
use crate::{BatchVerifier, LocalSeq, Received, Store};

const HELLO: u8 = 1;

pub(super) fn id(n: usize) -> IntentionId {
    IntentionId(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

fn ids(range: std::ops::Range<usize>) -> Vec<IntentionId> {
    range.map(id).collect()
}

pub(super) fn hello(store: &Store) -> Hello {
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
        window_bytes: WINDOW_BYTES,
        gives: Wants::All,
    }
}

/// The digest that a peer with the same entries tells.
fn digest(store: &Store) -> Digest {
    source::digest(&store.snapshot()).unwrap()
}

/// The session of a node, whose peer the test plays.
pub(super) struct Side<'a> {
    store: &'a Store,
    session: Session,
    now_ms: u64,
}

impl<'a> Side<'a> {
    pub(super) fn of(store: &'a Store, role: Role, access: Access) -> Self {
        let mut config = config(role, 0, 1);
        config.access = access;
        let mut side = Self {
            store,
            session: Session::new(config),
            now_ms: NOW + 1_000_000,
        };
        side.give(Input::Start);
        side
    }

    fn listener(store: &'a Store) -> Self {
        Self::of(store, Role::Listener, Access::All)
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        let snapshot = self.store.snapshot();
        self.session.handle(input, self.now_ms, &snapshot).unwrap()
    }

    pub(super) fn hear(&mut self, message: &Message) -> Vec<Effect> {
        self.give(Input::Bytes(Bytes::from(message.encode())))
    }

    /// Ticks the session as long as it asks to, without a word of the peer. Returns all effects.
    fn all(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        let mut out = Vec::new();
        while effects.contains(&Effect::Again) {
            out.append(&mut effects);
            effects = self.give(Input::Tick);
        }
        out.append(&mut effects);
        out
    }
}

pub(super) fn sent(effects: &[Effect]) -> Vec<(Message, usize)> {
    let mut reader = FrameReader::default();
    let mut out = Vec::new();
    for effect in effects {
        if let Effect::Send(bytes) = effect {
            reader.push(bytes);
            out.push(reader.next().unwrap().expect("a whole frame"));
        }
    }
    out
}

fn delivered(effects: &[Effect]) -> Option<usize> {
    effects.iter().find_map(|effect| match effect {
        Effect::Deliver(entries) => Some(entries.len()),
        _ => None,
    })
}

/// The ids that `effects` ask for.
fn wanted(effects: &[Effect]) -> Vec<IntentionId> {
    let ids = |(message, _)| match message {
        Message::Want(ids) => ids,
        _ => Vec::new(),
    };
    sent(effects).into_iter().flat_map(ids).collect()
}

/// A frame of `count` unknown entries, with a payload of `bytes`.
fn frame(count: usize, bytes: usize, salt: u8) -> Message {
    let of = |n: usize, body: usize| {
        let signed = SignedHeader {
            bytes: [&n.to_be_bytes()[..], &[salt; 32]].concat().into(),
            signature: Signature([0; 64]),
        };
        (signed, Some(vec![0; body]))
    };
    let mut entries: Vec<_> = (0..count).map(|n| of(n, 0)).collect();
    if bytes > 0 {
        let payload = |entries: &[_]| {
            let frame = Message::Entries(entries.to_vec()).encode();
            frame.len() - FRAME_HEAD_BYTES
        };
        // The payload holds lengths as varints. Lengths this near to each other take equally many bytes.
        entries[0].1 = Some(vec![0; bytes - 1000]);
        let head = payload(&entries) - (bytes - 1000);
        entries[0].1 = Some(vec![0; bytes - head]);
        assert_eq!(payload(&entries), bytes);
    }
    Message::Entries(entries)
}

/// Holds: invariant 10.
#[test]
fn a_batch_ends_at_its_entries_and_at_its_bytes() {
    let store = testing::found(0, NOW);
    // While the store is busy with the first frame, the others gather. They are handed over as whole frames.
    let batches = |frames: &[Message]| {
        let mut side = Side::listener(&store);
        side.hear(&Message::Hello(hello(&store)));
        assert_eq!(delivered(&side.hear(&frame(1, 0, 0))), Some(1));
        for frame in frames {
            assert_eq!(delivered(&side.hear(frame)), None);
        }
        let mut next = || delivered(&side.give(Input::Received(None)));
        (next(), next())
    };
    let full = |salt| frame(ENTRIES_FRAME_MAX, 0, salt);
    let whole = BATCH_ENTRIES_MAX / ENTRIES_FRAME_MAX;
    assert_eq!(whole * ENTRIES_FRAME_MAX, BATCH_ENTRIES_MAX);
    let mut frames: Vec<_> = (1..=whole).map(|salt| full(salt as u8)).collect();
    assert_eq!(batches(&frames), (Some(BATCH_ENTRIES_MAX), None));
    frames.push(frame(1, 0, 99));
    assert_eq!(batches(&frames), (Some(BATCH_ENTRIES_MAX), Some(1)));
    // The window lets the last frame in, however large it is.
    let (a, b) = (
        WINDOW_BYTES as usize / 2,
        BATCH_BYTES_MAX - WINDOW_BYTES as usize / 2,
    );
    let at = batches(&[frame(1, a, 1), frame(1, b, 2)]);
    assert_eq!(at, (Some(2), None));
    let beyond = batches(&[frame(1, a, 1), frame(1, b + 1, 2)]);
    assert_eq!(beyond, (Some(1), Some(1)));
}

/// Holds: invariant 10.
#[test]
fn tips_are_compared_up_to_their_number_and_ranges_beyond() {
    let [a, ..] = three();
    for (tip_count, ranged) in [(TIPS_MAX, false), (TIPS_MAX + 1, true)] {
        let mut side = Side::of(&a, Role::Dialer, Access::All);
        // The difference in number is beyond what a sketch is tried for.
        let effects = side.hear(&Message::Hello(Hello {
            tip_count: tip_count as u64,
            count: 2 * SKETCH_DIFFERENCE_MAX,
            ..hello(&a)
        }));
        let sent = sent(&effects);
        let tips = sent.iter().any(|(m, _)| matches!(m, Message::Tips { .. }));
        let asks = sent
            .iter()
            .any(|(m, _)| matches!(m, Message::Summarize { .. }));
        assert_eq!((tips, asks), (!ranged, ranged));
    }
}

/// A store with `count` entries of the system lane, each with `bytes` of arguments.
fn large(count: usize, bytes: usize) -> Store {
    let [mut a, ..] = three();
    for n in 0..count {
        let mut quota = testing::set_quota(None);
        // Arguments that are not a number of 8 bytes set no quota.
        quota.args = vec![n as u8; bytes];
        call(&mut a, Lane::System, quota, NOW + n as u64);
    }
    a
}

/// What a peer with the genesis alone is sent within a window, with the costs of the frames.
fn planned(side: &mut Side<'_>, window_bytes: u64) -> (Vec<Effect>, Vec<(usize, Vec<usize>)>) {
    let genesis = IntentionId::from(side.store.id());
    let stored = side.store.snapshot().entry(&genesis).unwrap().unwrap();
    side.hear(&Message::Hello(Hello {
        window_bytes,
        ..hello(side.store)
    }));
    let tip = PeerTip {
        author: stored.header.author,
        chain: stored.header.chain,
        seq: stored.header.seq,
        id: genesis,
    };
    let effects = side.hear(&Message::Tips {
        round: 1,
        tips: vec![tip],
        last: true,
    });
    let frames = frames(&effects);
    (effects, frames)
}

/// For each frame of entries, the bytes of its payload and the bytes that each of its entries counts for.
fn frames(effects: &[Effect]) -> Vec<(usize, Vec<usize>)> {
    let cost = |(signed, body): &(SignedHeader, Option<Vec<u8>>)| {
        signed.bytes.len() + body.as_ref().map_or(0, Vec::len) + Signature::LEN
    };
    let frame = |(message, len)| match message {
        Message::Entries(entries) => Some((len, entries.iter().map(cost).collect())),
        _ => None,
    };
    sent(effects).into_iter().filter_map(frame).collect()
}

/// Holds: invariant 10.
#[test]
fn a_frame_of_entries_is_closed_at_its_bytes_and_a_step_at_its_frames() {
    // An entry has three quarters of a frame's bytes, so each second one fills a frame.
    let store = large(2 * STEP_FRAMES + 2, ENTRIES_FRAME_BYTES * 3 / 4);
    let mut side = Side::listener(&store);
    let (effects, step) = planned(&mut side, WINDOW_BYTES_MAX);
    assert_eq!(step.len(), STEP_FRAMES);
    assert!(effects.contains(&Effect::Again));
    let rest = frames(&side.give(Input::Tick));
    assert!((1..=STEP_FRAMES).contains(&rest.len()));
    for (_, entries) in step.iter().chain(&rest[..rest.len() - 1]) {
        let (last, others) = entries.split_last().unwrap();
        let others: usize = others.iter().sum();
        assert!(others < ENTRIES_FRAME_BYTES && others + last >= ENTRIES_FRAME_BYTES);
    }
}

/// Holds: invariant 10.
#[test]
fn no_larger_window_is_believed_than_the_largest() {
    let store = large(WINDOW_BYTES_MAX as usize / 200_000 + 8, 200_000);
    let mut side = Side::listener(&store);
    let (effects, first) = planned(&mut side, u64::MAX);
    let mut all = first;
    let rest = side.all(effects);
    all.extend(frames(&rest).into_iter().skip(all.len()));
    let total = |frames: &[(usize, Vec<usize>)]| frames.iter().map(|f| f.0 as u64).sum::<u64>();
    // A frame is sent while anything is left of the window.
    let before_last = total(&all[..all.len() - 1]);
    assert!(before_last < WINDOW_BYTES_MAX && total(&all) >= WINDOW_BYTES_MAX);
    // Further credit counts, but never makes the window larger than the largest.
    let more = side.hear(&Message::Credit { bytes: u64::MAX });
    let more = side.all(more);
    assert!(!frames(&more).is_empty());
}

/// Holds: invariant 10.
#[test]
fn one_that_is_no_member_gets_so_many_bytes_a_second() {
    let store = large(24, 100_000);
    let mut side = Side::of(&store, Role::Listener, Access::SystemLane);
    let (effects, _) = planned(&mut side, WINDOW_BYTES_MAX);
    let first = side.all(effects);
    let bytes = |effects: &[Effect]| {
        frames(effects)
            .iter()
            .map(|f| f.0 as u64)
            .collect::<Vec<_>>()
    };
    let all = bytes(&first);
    let (last, others) = all.split_last().unwrap();
    let others: u64 = others.iter().sum();
    assert!(others < LIMITED_BYTES_PER_S && others + last >= LIMITED_BYTES_PER_S);
    let wake = Effect::WakeAt {
        ms: side.now_ms + 1000,
    };
    assert!(first.contains(&wake));
    // Nothing is sent before time has passed. A millisecond's worth lets one frame out.
    let nothing = side.give(Input::Tick);
    assert_eq!(bytes(&nothing), [0; 0]);
    side.now_ms += 1;
    let one = side.give(Input::Tick);
    assert_eq!(bytes(&side.all(one)).len(), 1);
}

/// Holds: invariant 10.
#[test]
fn announced_ids_wait_for_their_turn_up_to_their_number() {
    let store = testing::found(0, NOW);
    let asked = |count: usize| {
        let mut side = Side::listener(&store);
        side.hear(&Message::Hello(hello(&store)));
        let begun_ms = side.now_ms;
        for from in (0..count).step_by(IDS_MAX) {
            let until = count.min(from + IDS_MAX);
            side.give(Input::Announced(ids(from..until)));
        }
        side.now_ms = begun_ms + 1;
        side.give(Input::Announced(vec![id(1_000_000)]));
        side.now_ms = begun_ms + HINT_PATIENCE_MS - 1;
        assert_eq!(
            wanted(&side.give(Input::Tick)),
            [],
            "their author may push them"
        );
        side.now_ms = begun_ms + HINT_PATIENCE_MS;
        let first = wanted(&side.give(Input::Tick));
        assert_eq!(first, ids(0..count));
        for from in (0..count).step_by(IDS_MAX) {
            side.hear(&Message::Lacks(ids(from..count.min(from + IDS_MAX))));
        }
        side.now_ms = begun_ms + HINT_PATIENCE_MS + 1;
        wanted(&side.give(Input::Tick))
    };
    assert_eq!(asked(HINTED_MAX - 1), [id(1_000_000)]);
    // The id that did not fit is left to the next round.
    assert_eq!(asked(HINTED_MAX), []);
}

/// Holds: invariant 10.
#[test]
fn a_round_asks_for_so_many_ids_and_the_next_one_for_the_others() {
    let store = testing::found(0, NOW);
    let mut side = Side::listener(&store);
    side.hear(&Message::Hello(hello(&store)));
    let ask = |side: &mut Side<'_>, range: std::ops::Range<usize>| {
        side.give(Input::Announced(ids(range)));
        side.now_ms += HINT_PATIENCE_MS;
        let asked = wanted(&side.give(Input::Tick));
        side.hear(&Message::Lacks(asked.clone()));
        asked.len()
    };
    for from in (0..KNOWN_MAX).step_by(IDS_MAX) {
        assert_eq!(ask(&mut side, from..from + IDS_MAX), IDS_MAX);
    }
    let beyond = KNOWN_MAX..KNOWN_MAX + 1;
    assert_eq!(ask(&mut side, beyond.clone()), 0);
    side.hear(&Message::Hello(Hello {
        round: 2,
        ..hello(&store)
    }));
    assert_eq!(ask(&mut side, beyond), 1);
}

/// Holds: invariant 10.
#[test]
fn so_many_ids_are_known_to_be_there_and_the_oldest_is_forgotten() {
    for (others, told) in [(KNOWN_MAX - 1, 0), (KNOWN_MAX, 1)] {
        let [a, mut b, _] = three();
        write(&mut b, 1, NOW + 10);
        let stored = b.snapshot().entry_at(LocalSeq(3)).unwrap().unwrap();
        let mut side = Side::listener(&a);
        side.hear(&Message::Hello(Hello {
            tips_digest: digest(&a),
            ..hello(&a)
        }));
        side.hear(&Message::Announce(vec![stored.header.id()]));
        for from in (0..others).step_by(IDS_MAX) {
            side.hear(&Message::Announce(ids(from..others.min(from + IDS_MAX))));
        }
        // The entry comes from somebody else. A peer that announced it need not be told.
        let mut session = side.session;
        let mut a = a;
        let entry = (
            stored.header.signed().clone(),
            stored.body.map(|body| body.to_vec()),
        );
        a.receive(
            testing::device(2),
            vec![entry],
            NOW + 1_000,
            BatchVerifier([1; 32]),
        )
        .unwrap();
        let effects = session.handle(Input::Changed, NOW + 1_000_000, &a.snapshot());
        let announced = sent(&effects.unwrap())
            .into_iter()
            .filter(|(message, _)| matches!(message, Message::Announce(_)));
        assert_eq!(announced.count(), told);
    }
}

/// Holds: invariant 10.
#[test]
fn batches_of_which_nothing_can_be_used_begin_a_round() {
    let store = testing::found(0, NOW);
    let mut side = Side::listener(&store);
    side.hear(&Message::Hello(Hello {
        tips_digest: digest(&store),
        ..hello(&store)
    }));
    assert!(side.session.status().settled);
    let mut missed = |n: u32| {
        side.hear(&frame(1, 0, n as u8));
        let received = Received {
            floating: 1,
            missing: vec![id(n as usize)],
            ..Received::default()
        };
        let effects = side.give(Input::Received(Some(received)));
        let begins = |effect: &Effect| matches!(effect, Effect::Send(bytes) if bytes[4] == HELLO);
        effects.iter().any(begins)
    };
    for n in 0..MISSES_MAX {
        assert!(!missed(n), "{n}");
    }
    assert!(missed(MISSES_MAX));
}

/// Holds: invariant 10.
#[test]
fn void_entries_at_the_end_of_a_branch_are_looked_behind_up_to_their_number() {
    let [mut a, mut b, mut c] = three();
    write(&mut b, 1, NOW + 10);
    let kept = *b.snapshot().summary().heads.first().unwrap();
    write(&mut b, VOID_WALK_MAX + 1, NOW + 20);
    let wire = |s: crate::Stored| (s.header.signed().clone(), s.body.map(|body| body.to_vec()));
    let entries = |from: u64, count: usize| {
        let stored = b.snapshot().entries_from(LocalSeq(from), count).unwrap();
        stored.into_iter().map(wire).collect::<Vec<_>>()
    };
    let now_ms = NOW + 1_000_000;
    a.receive(
        testing::device(1),
        entries(3, VOID_WALK_MAX + 1),
        now_ms,
        BatchVerifier([1; 32]),
    )
    .unwrap();
    let revoke = testing::revoke(testing::device(1), &[kept]);
    call(&mut a, Lane::System, revoke, now_ms);
    while a.settle(1000).unwrap().pending > 0 {}
    let tip = |store: &Store| {
        let tips = source::tips(&store.snapshot()).unwrap();
        let tip = tips.iter().find(|t| t.author == testing::device(1));
        tip.map(|tip| tip.id)
    };
    // Only void entries name the last entry that counts, so it is offered in their place.
    assert_eq!(tip(&a), Some(kept));
    // Another node has one entry more, and hears of the revocation last.
    let verifier = || BatchVerifier([1; 32]);
    let from = testing::device(1);
    let all = entries(3, VOID_WALK_MAX + 2);
    c.receive(from, all, now_ms, verifier()).unwrap();
    let revocation = a.snapshot().entries_from(LocalSeq(0), usize::MAX).unwrap();
    let revocation = revocation.into_iter().map(wire).next_back().unwrap();
    c.receive(from, vec![revocation], now_ms, verifier())
        .unwrap();
    while c.settle(1000).unwrap().pending > 0 {}
    let void = *b.snapshot().summary().heads.first().unwrap();
    assert_eq!(tip(&c), Some(void), "too far to look");
    // Ranges read the index alone, and find the same entries as the history.
    let history = a.snapshot().history(None, usize::MAX, false).unwrap();
    let history = history.iter().skip(1);
    let rows: Vec<_> = history
        .map(|row| (row.position, row.stored.local, !row.cut_off))
        .collect();
    let genesis = a.core.info.position;
    assert!(rows.iter().any(|row| row.2) && rows.iter().any(|row| !row.2));
    let found = source::rows(&a.snapshot(), genesis, usize::MAX).unwrap();
    assert!(found == rows);
    assert_eq!(source::rows(&a.snapshot(), genesis, 3).unwrap(), rows[..3]);
}

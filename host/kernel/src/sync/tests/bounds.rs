//! The bounds of messages and frames: read at the last allowed length, refused one beyond.

use lattice_format::{
    ChainId, DeviceKey, Digest, IntentionId, Lane, Seq, Signature, SignedHeader, StoreId,
};

use super::{Link, NOW, call, three};
use crate::frame::{FRAME_HEAD_BYTES, TooLong};
use crate::limits::FRAME_BYTES_MAX;
use crate::sync::limits::*;
use crate::sync::message::{
    Done, ErrorCode, Hello, Message, MessageError, PeerError, PeerTip, Range, RangeContent,
    RangeSummary, Wants,
};
use crate::sync::reader::{FrameError, FrameReader};
use crate::testing::{self, Step};

const ID: IntentionId = IntentionId([7; 32]);

fn hello(versions: usize, parked: usize) -> Message {
    Message::Hello(Hello {
        round: 1,
        versions: vec![1; versions],
        store: Some(StoreId([1; 32])),
        clock_ms: 1,
        attestation: None,
        wants: Wants::All,
        horizon: None,
        parked_count: parked as u64,
        parked: vec![ID; parked],
        tips_digest: Digest([5; 32]),
        tip_count: 1,
        count: 1,
        window_bytes: 1,
        gives: Wants::All,
    })
}

fn done(missing: usize) -> Message {
    Message::Done(Done {
        round: 1,
        tips_digest: Digest([0; 32]),
        count: 1,
        sent: 0,
        floating: 0,
        parked: 0,
        missing: vec![ID; missing],
        withheld: 0,
        last: true,
        ranged: false,
    })
}

fn summary(ranges: usize, ids: usize) -> Message {
    let summary = RangeSummary {
        range: Range::ALL,
        count: ids as u64,
        content: RangeContent::Ids(vec![ID; ids]),
    };
    Message::Summary {
        round: 1,
        ranges: vec![summary; ranges],
    }
}

fn tips(count: usize) -> Message {
    let tip = PeerTip {
        author: DeviceKey([1; 32]),
        chain: ChainId(u64::MAX),
        seq: Seq(u64::MAX),
        id: ID,
    };
    Message::Tips {
        round: u64::MAX,
        tips: vec![tip; count],
        last: false,
    }
}

fn entries(count: usize) -> Message {
    let signed = SignedHeader {
        bytes: vec![1; 8].into(),
        signature: Signature([0; 64]),
    };
    Message::Entries(vec![(signed, None); count])
}

fn summarize(count: usize) -> Message {
    Message::Summarize {
        round: 1,
        ranges: vec![Range::ALL; count],
    }
}

fn read(message: &Message) -> Result<Message, FrameError> {
    let mut reader = FrameReader::default();
    reader.push(&message.encode());
    reader.next().map(|read| read.expect("a whole frame").0)
}

/// Holds: invariant 10.
#[test]
fn every_list_is_read_at_its_bound_and_refused_beyond() {
    type Make = fn(usize) -> Message;
    let lists: [(&str, usize, Make); 11] = [
        ("versions", VERSIONS_MAX, |n| hello(n, 0)),
        ("parked", LISTED_MAX, |n| hello(1, n)),
        ("missing", LISTED_MAX, done),
        ("tips", TIPS_PAGE, tips),
        ("entries", ENTRIES_FRAME_MAX, entries),
        ("want", IDS_MAX, |n| Message::Want(vec![ID; n])),
        ("lacks", IDS_MAX, |n| Message::Lacks(vec![ID; n])),
        ("announce", IDS_MAX, |n| Message::Announce(vec![ID; n])),
        ("questions", RANGES_MAX, summarize),
        ("answers", PARTS_ANSWERED_MAX, |n| summary(n, 1)),
        ("ids of a range", LEAF_IDS, |n| summary(1, n)),
    ];
    for (name, max, make) in lists {
        assert_eq!(read(&make(max)).as_ref(), Ok(&make(max)), "{name}");
        match read(&make(max + 1)) {
            Err(FrameError::Message(MessageError::TooMany { len, max: told, .. })) => {
                assert_eq!((len, told), (max + 1, max), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Holds: invariant 10.
#[test]
fn the_text_of_an_error_is_cut_at_its_bound() {
    let error = |len| {
        Message::Error(PeerError {
            code: ErrorCode::TooMuch,
            text: "x".repeat(len),
        })
    };
    let whole = error(ERROR_TEXT_BYTES_MAX);
    assert_eq!(read(&whole).as_ref(), Ok(&whole));
    assert_eq!(read(&error(ERROR_TEXT_BYTES_MAX + 1)), Ok(whole));
}

/// Holds: invariant 10.
#[test]
fn a_frame_is_read_up_to_its_bound() {
    // An unknown kind is passed over at any length that is allowed, and ends the stream beyond.
    let frame = |len: usize| {
        let mut head = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        head.push(0xff);
        assert_eq!(head.len(), FRAME_HEAD_BYTES);
        head
    };
    let mut reader = FrameReader::default();
    reader.push(&frame(FRAME_BYTES_MAX));
    reader.push(&vec![0; FRAME_BYTES_MAX]);
    let credit = Message::Credit { bytes: 1 };
    reader.push(&credit.encode());
    let read = reader.next().map(|read| read.expect("a whole frame").0);
    assert_eq!(read, Ok(credit));
    reader.push(&frame(FRAME_BYTES_MAX + 1));
    let (len, max) = (FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX);
    assert_eq!(
        reader.next(),
        Err(FrameError::TooLong(TooLong { len, max }))
    );
}

/// Holds: invariant 10.
#[test]
fn a_body_is_pushed_up_to_its_bound_and_announced_beyond() {
    let [mut a, mut b, _] = three();
    let mut link = Link::new(&a, 0, &b, 1);
    link.run(&mut a, &mut b);
    let add = Step::Add { k: 0, by: 1 };
    let step_bytes = testing::program(&[add]).args.len();
    let mut now_ms = NOW + 500;
    // Writes a body of so many steps; returns its length, and whether it was announced instead of pushed.
    let mut written = |steps: usize| {
        now_ms += 1;
        call(
            &mut a,
            Lane::App,
            testing::program(&vec![add; steps]),
            now_ms,
        );
        let head = *a.snapshot().summary().heads.first().unwrap();
        let header = a.snapshot().entry(&head).unwrap().unwrap().header;
        link.changed(0).run(&mut a, &mut b);
        super::assert_equal(&a, &b);
        (header.body.len, link.kinds[0].contains(&7))
    };
    let most = PUSH_BODY_BYTES_MAX as usize / step_bytes;
    let (len, announced) = written(most);
    assert!(len > PUSH_BODY_BYTES_MAX && announced, "{len}");
    // The envelope around the steps has the same length for a few less of them.
    let over = (len - PUSH_BODY_BYTES_MAX) as usize;
    let fits = most - over.div_ceil(step_bytes);
    let (len, announced) = written(fits);
    assert!(len <= PUSH_BODY_BYTES_MAX && !announced, "{len}");
    let (len, announced) = written(fits + 1);
    assert!(len > PUSH_BODY_BYTES_MAX && announced, "{len}");
}

//! The bytes of every message, which never change under one version.

use lattice_format::{
    ChainId, DeviceKey, Digest, IntentionId, Position, Seq, Signature, SignedHeader, StoreId, Time,
};

use crate::frame::{self, FRAME_HEAD_BYTES};
use crate::state::sketch::Cell;
use crate::sync::message::{
    Attestation, Done, ErrorCode, Hello, Message, PeerError, PeerTip, Range, RangeContent,
    RangeSummary, Wants,
};
use crate::sync::reader::FrameReader;

fn all() -> Vec<(&'static str, Message)> {
    let id = |n| IntentionId([n; 32]);
    let at = |n: u8| Position {
        time: Time {
            wall_ms: u64::from(n),
            counter: 2,
        },
        id: id(n),
    };
    let range = Range {
        from: at(1),
        to: Position::MAX,
    };
    vec![
        (
            "hello",
            Message::Hello(Hello {
                round: 1,
                versions: vec![1, 2],
                store: Some(StoreId([1; 32])),
                clock_ms: 300,
                attestation: Some(Attestation {
                    device: DeviceKey([2; 32]),
                    endpoint: DeviceKey([2; 32]),
                }),
                wants: Wants::All,
                horizon: Some(at(3)),
                parked_count: 1,
                parked: vec![id(4)],
                tips_digest: Digest([5; 32]),
                tip_count: 6,
                count: 7,
                window_bytes: 8,
                gives: Wants::SystemLane,
            }),
        ),
        (
            "later hello",
            Message::Hello(Hello {
                round: 2,
                versions: vec![1],
                store: None,
                clock_ms: 300,
                attestation: None,
                wants: Wants::All,
                horizon: None,
                parked_count: 0,
                parked: Vec::new(),
                tips_digest: Digest([5; 32]),
                tip_count: 6,
                count: 7,
                window_bytes: 0,
                gives: Wants::All,
            }),
        ),
        (
            "tips",
            Message::Tips {
                round: 1,
                tips: vec![PeerTip {
                    author: DeviceKey([1; 32]),
                    chain: ChainId(2),
                    seq: Seq(3),
                    id: id(4),
                }],
                last: true,
            },
        ),
        (
            "entries",
            Message::Entries(vec![
                (
                    SignedHeader {
                        bytes: vec![1, 2].into(),
                        signature: Signature([3; 64]),
                    },
                    Some(vec![]),
                ),
                (
                    SignedHeader {
                        bytes: vec![4].into(),
                        signature: Signature([5; 64]),
                    },
                    None,
                ),
            ]),
        ),
        ("want", Message::Want(vec![id(1)])),
        ("lacks", Message::Lacks(vec![id(1), id(2)])),
        ("credit", Message::Credit { bytes: 300 }),
        ("announce", Message::Announce(vec![id(3)])),
        (
            "done",
            Message::Done(Done {
                round: 1,
                tips_digest: Digest([2; 32]),
                count: 3,
                sent: 4,
                floating: 5,
                parked: 6,
                missing: vec![id(7)],
                withheld: 8,
                last: true,
                ranged: true,
            }),
        ),
        ("diverged", Message::Diverged { round: 5 }),
        (
            "summarize",
            Message::Summarize {
                round: 1,
                ranges: vec![Range::ALL, range],
            },
        ),
        (
            "summary",
            Message::Summary {
                round: 1,
                ranges: vec![
                    RangeSummary {
                        range,
                        count: 9,
                        content: RangeContent::Fingerprint(Digest([1; 32])),
                    },
                    RangeSummary {
                        range: Range::ALL,
                        count: 1,
                        content: RangeContent::Ids(vec![id(2)]),
                    },
                    RangeSummary {
                        range,
                        count: 0,
                        content: RangeContent::Ids(vec![]),
                    },
                ],
            },
        ),
        (
            "sketch",
            Message::Sketch {
                round: 1,
                cells: vec![
                    Cell {
                        ids: [2; 32],
                        checks: 3,
                        count: 4,
                    },
                    Cell::default(),
                ],
            },
        ),
        (
            "difference",
            Message::Difference {
                round: 1,
                lacks: Some(vec![id(2)]),
            },
        ),
        (
            "unread",
            Message::Difference {
                round: 1,
                lacks: None,
            },
        ),
        (
            "error",
            Message::Error(PeerError {
                code: ErrorCode::Version,
                text: "no".into(),
            }),
        ),
    ]
}

/// Holds: invariant 15.
#[test]
fn the_bytes_of_each_message_are_fixed() {
    let text: String = all()
        .iter()
        .map(|(name, message)| {
            let hex: String = message
                .encode()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            format!("{name} {hex}\n")
        })
        .collect();
    assert_eq!(
        text,
        include_str!("messages.golden"),
        "the wire format has changed"
    );
}

#[test]
fn each_message_reads_back() {
    let mut frames = FrameReader::default();
    for (_, message) in all() {
        frames.push(&message.encode());
        assert_eq!(frames.next().unwrap().unwrap().0, message);
    }
    assert!(frames.next().unwrap().is_none());
}

/// Holds: invariant 15.
#[test]
fn a_field_and_a_message_of_a_later_version_are_passed_over() {
    // Field 60, a number. Hello's fields 15 to 18 and the message 13 are reserved.
    let later = [0xe0, 0x03, 0x01];
    let mut frames = FrameReader::default();
    for (name, message) in all() {
        let mut frame = message.encode();
        frame.extend(later);
        let payload = u32::try_from(frame.len() - FRAME_HEAD_BYTES).unwrap();
        frame[..4].copy_from_slice(&payload.to_be_bytes());
        frames.push(&frame);
        frames.push(&frame::frame(13, &later));
        assert_eq!(frames.next().unwrap().unwrap().0, message, "{name}");
    }
    assert!(frames.next().unwrap().is_none());
}

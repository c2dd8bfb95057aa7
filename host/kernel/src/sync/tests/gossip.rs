//! What a node announces, and what it does about announcements.

use lattice_format::{DeviceKey, IntentionId, StoreId};

use crate::run::engine::{Member, MemberStatus, Role};
use crate::sync::limits::*;
use crate::sync::{Announced, Announcement, Gossip, Governance, Move, topic};
use crate::testing;

const STORE: StoreId = StoreId([1; 32]);

fn id(n: usize) -> IntentionId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    IntentionId(id)
}

fn device(n: u8) -> DeviceKey {
    DeviceKey([n; 32])
}

/// Members 0 to 3, of whom some are revoked.
fn governance(revoked: &[u8], salt: &[u8]) -> Governance {
    let member = |n: u8| Member {
        device: device(n),
        name: String::new(),
        role: Role::Writer,
        rank: vec![n],
        status: match revoked.contains(&n) {
            true => MemberStatus::Revoked,
            false => MemberStatus::Active,
        },
    };
    Governance::of((0..4).map(member).collect(), salt.to_vec())
}

/// Member 0 on the topic of the first salt.
fn joined() -> Gossip {
    let mut gossip = Gossip::new(STORE, device(0));
    gossip.look(Some(&governance(&[], b"a")), [], 0);
    gossip
}

fn announcement(ids: usize, more: bool) -> Announcement {
    Announcement {
        ids: (0..ids).map(id).collect(),
        author: device(1),
        more,
    }
}

#[test]
fn an_announcement_reads_back_and_fits() {
    let largest = announcement(GOSSIP_IDS_MAX, true);
    let bytes = largest.encode();
    assert!(bytes.len() <= GOSSIP_BYTES_MAX);
    assert_eq!(Announcement::read(&bytes), Some(largest));
}

#[test]
fn garbage_is_no_announcement() {
    let many = announcement(GOSSIP_IDS_MAX + 1, false).encode();
    assert_eq!(Announcement::read(&many), None);
    assert_eq!(Announcement::read(b"garbage"), None);
    assert_eq!(Announcement::read(b""), None, "it has no author");
    let odd = announcement(1, false).encode();
    // The bytes of the first field are one byte shorter than an id.
    let odd = [&[odd[0], odd[1] - 1], &odd[3..]].concat();
    assert_eq!(Announcement::read(&odd), None);
    let mut gossip = joined();
    let heard = gossip.heard(device(2), &many, 5_000, || None);
    assert!(heard.announced.is_none() && !heard.compare);
}

#[test]
fn another_salt_is_another_topic() {
    assert_ne!(topic(&STORE, b"a"), topic(&STORE, b"b"));
    assert_ne!(topic(&STORE, b"a"), topic(&StoreId([2; 32]), b"a"));
    // Every member must compute the same topic, in every version.
    assert_eq!(
        blake3::Hash::from_bytes(topic(&STORE, b"a")).to_hex()[..8],
        *include_str!("topic.golden").trim()
    );
}

#[test]
fn only_active_members_are_on_the_topic_and_each_salt_has_its_own() {
    let mut gossip = Gossip::new(STORE, device(0));
    assert_eq!(gossip.look(None, [device(1)], 0), None);
    let all = [device(1), device(2), device(9)];
    let first = gossip.look(Some(&governance(&[], b"a")), all, 0);
    // Device 9 is not a member.
    assert_eq!(
        first,
        Some(Move::Join {
            topic: topic(&STORE, b"a"),
            peers: vec![device(1), device(2)],
        })
    );
    assert_eq!(gossip.look(Some(&governance(&[], b"a")), all, 0), None);
    let moved = gossip.look(Some(&governance(&[1], b"b")), all, 0);
    assert_eq!(
        moved,
        Some(Move::Join {
            topic: topic(&STORE, b"b"),
            peers: vec![device(2)],
        })
    );
    let left = gossip.look(Some(&governance(&[0, 1], b"c")), all, 0);
    assert_eq!((left, gossip.topic()), (Some(Move::Leave), None));
    gossip.wrote(id(1), 0);
    assert_eq!(gossip.due_ms(), None, "no member announces nothing");
    let again = gossip.look(Some(&governance(&[1], b"c")), [], 0);
    assert!(matches!(again, Some(Move::Join { .. })));
    gossip.lost();
    let again = gossip.look(Some(&governance(&[1], b"c")), [], 0);
    assert!(matches!(again, Some(Move::Join { .. })));
}

#[test]
fn what_is_written_within_a_moment_is_announced_together() {
    let mut gossip = joined();
    gossip.wrote(id(0), 10);
    gossip.wrote(id(1), 11);
    assert_eq!(gossip.due_ms(), Some(10 + GOSSIP_COLLECT_MS));
    assert_eq!(gossip.take(10 + GOSSIP_COLLECT_MS - 1), None);
    gossip.overflowed();
    let said = gossip.take(10 + GOSSIP_COLLECT_MS);
    let together = Announcement {
        author: device(0),
        ..announcement(2, true)
    };
    assert_eq!(said, Some(together));
    assert_eq!((gossip.due_ms(), gossip.take(100)), (None, None));
    for n in 0..=GOSSIP_IDS_MAX {
        gossip.wrote(id(n), 200);
    }
    let full = gossip.take(200).unwrap();
    assert_eq!((full.ids.len(), full.more), (GOSSIP_IDS_MAX, false));
    assert_eq!(gossip.take(200), None);
    assert_eq!(gossip.take(200 + GOSSIP_COLLECT_MS).unwrap().ids.len(), 1);
}

#[test]
fn what_is_here_already_is_asked_of_nobody() {
    let store = testing::found(1, super::NOW);
    let here = IntentionId::from(store.id());
    let said = Announcement {
        ids: vec![here, id(0)],
        author: device(1),
        more: false,
    };
    let snapshot = || Some(store.snapshot());
    let heard = joined().heard(device(2), &said.encode(), 0, snapshot);
    let announced = Announced {
        ids: vec![id(0)],
        sources: vec![device(1), device(2)],
    };
    assert_eq!(heard.announced, Some(announced));
    let said = Announcement {
        ids: vec![here],
        ..said
    };
    let heard = joined().heard(device(2), &said.encode(), 0, snapshot);
    assert_eq!(heard.announced, None);
}

#[test]
fn sessions_with_the_sources_are_told_and_a_few_others_where_there_are_none() {
    let announced = Announced {
        ids: vec![id(0)],
        sources: vec![device(1), device(2)],
    };
    let tell = |sessions: &[u8]| {
        let mut told = Vec::new();
        announced.tell(sessions.iter().map(|n| device(*n)), |peer| {
            let runs = sessions.contains(&peer.0[0]);
            told.extend(runs.then_some(peer.0[0]));
            runs
        });
        told
    };
    assert_eq!(tell(&[3, 2, 4]), [2]);
    assert_eq!(tell(&[3, 2, 1]), [1, 2]);
    assert_eq!(tell(&[5, 4, 3]), [5, 4]);
    assert_eq!(tell(&[5, 4, 3]).len(), GOSSIP_SOURCES_MAX);
    assert_eq!(tell(&[]), []);
}

#[test]
fn announcements_make_sessions_compare_once_in_a_while() {
    let mut gossip = joined();
    let more = announcement(0, true).encode();
    let mut compare = |now_ms| gossip.heard(device(1), &more, now_ms, || None).compare;
    assert!(!compare(GOSSIP_COMPARE_MS), "it has just begun");
    assert!(compare(GOSSIP_COMPARE_MS + 1));
    assert!(!compare(2 * GOSSIP_COMPARE_MS + 1));
    assert!(compare(2 * GOSSIP_COMPARE_MS + 2));
}

#[test]
fn a_flood_is_not_read_and_makes_sessions_compare() {
    let mut gossip = joined();
    let said = announcement(1, false).encode();
    for _ in 0..GOSSIP_MESSAGES_PER_SECOND {
        let heard = gossip.heard(device(1), &said, 5_000, || None);
        assert!(heard.announced.is_some() && !heard.compare);
    }
    let heard = gossip.heard(device(1), &said, 5_999, || None);
    assert!(heard.announced.is_none() && heard.compare);
    let heard = gossip.heard(device(1), &said, 6_000, || None);
    assert!(heard.announced.is_some() && !heard.compare);
}

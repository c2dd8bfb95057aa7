//! What a header may hold: lists in order and within their bounds, ids and keys of their length, and what its kind
//! has.

use lattice_format::limits::{
    ADMITS_MAX, BODY_BYTES_MAX, DEPS_MAX, GENESIS_ADMITS_MAX, GENESIS_HEADER_BYTES_MAX,
    HEADER_BYTES_MAX, HINT_BYTES_MAX, HINTS_MAX,
};
use lattice_format::{
    ChainId, DeviceKey, Header, Hint, IntentionId, Lane, Seq, Time, VerifyError, verify,
};

use crate::canonical::{field_of, refused};
use crate::samples::{device, genesis_header, header, sign_bytes, signed};
use crate::wire::{self, bytes, number, parts};

#[test]
fn lists_are_strictly_ascending() {
    let twice = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        refused(header.encode())
    };
    for (field, change) in [
        (
            "deps",
            (&|h: &mut Header| h.deps.reverse()) as &dyn Fn(&mut Header),
        ),
        ("deps", &|h| h.deps[1] = h.deps[0]),
        ("admits", &|h| h.admits.reverse()),
        ("admits", &|h| h.admits[1] = h.admits[0]),
        ("hints", &|h| h.hints.reverse()),
        ("hints", &|h| h.hints[1].number = h.hints[0].number),
    ] {
        assert_eq!(twice(change), VerifyError::NotSorted { field });
    }
    assert_eq!(
        twice(&|h| h.prev = Some(h.deps[1])),
        VerifyError::DepsRepeatPrev
    );
    // A grant may stand among the deps or be prev: it is one name, and one entry.
    let mut same = header();
    same.grant = Some(same.deps[0]);
    assert_eq!(verify(signed(same.clone(), 2)).unwrap().names().count(), 3);
    same.grant = same.prev;
    assert_eq!(verify(signed(same, 2)).unwrap().names().count(), 3);
}

/// Holds: invariant 10.
#[test]
fn lists_and_sizes_have_bounds() {
    let ids = |n: usize| {
        (0..n).map(|i| {
            let mut id = [0x40; 32];
            id[..2].copy_from_slice(&(i as u16).to_be_bytes());
            id
        })
    };
    let case = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        verify(sign_bytes(header.encode(), 2)).map(|_| ())
    };
    let too_many = |field, max: usize| {
        Err(VerifyError::TooMany {
            field,
            len: max + 1,
            max,
        })
    };
    for (extra, deps, admits, hints, hint_bytes) in [
        (0, Ok(()), Ok(()), Ok(()), Ok(())),
        (
            1,
            too_many("deps", DEPS_MAX),
            too_many("admits", ADMITS_MAX),
            too_many("hints", HINTS_MAX),
            too_many("bytes of a hint", HINT_BYTES_MAX),
        ),
    ] {
        assert_eq!(
            case(&|h| h.deps = ids(DEPS_MAX + extra).map(IntentionId).collect()),
            deps
        );
        assert_eq!(
            case(&|h| h.admits = ids(ADMITS_MAX + extra).map(DeviceKey).collect()),
            admits
        );
        let many = |n: usize| {
            (0..n as u32)
                .map(|number| Hint {
                    number,
                    value: vec![],
                })
                .collect()
        };
        assert_eq!(case(&|h| h.hints = many(HINTS_MAX + extra)), hints);
        assert_eq!(
            case(&|h| h.hints[0].value = vec![1; HINT_BYTES_MAX + extra]),
            hint_bytes
        );
    }
    assert_eq!(case(&|h| h.body.len = BODY_BYTES_MAX), Ok(()));
    assert_eq!(
        case(&|h| h.body.len = BODY_BYTES_MAX + 1),
        Err(VerifyError::BodyBytes {
            len: BODY_BYTES_MAX + 1
        })
    );
}

#[test]
fn the_largest_allowed_headers_fit_and_larger_ones_are_refused() {
    let mut full = header();
    let ids = |n: u16, fill: u8| {
        (0..n).map(move |i| {
            let mut id = [fill; 32];
            id[..2].copy_from_slice(&i.to_be_bytes());
            id
        })
    };
    full.deps = ids(DEPS_MAX as u16, 1).map(IntentionId).collect();
    full.admits = ids(ADMITS_MAX as u16, 2).map(DeviceKey).collect();
    full.hints = (0..HINTS_MAX as u32)
        .map(|n| Hint {
            number: u32::MAX - 8 + n,
            value: vec![3; HINT_BYTES_MAX],
        })
        .collect();
    full.chain = ChainId(u64::MAX);
    full.seq = Seq(u64::MAX);
    full.time = Time {
        wall_ms: u64::MAX,
        counter: u32::MAX,
    };
    full.chain_bytes = u64::MAX;
    full.critical = u64::MAX;
    full.body.key = u32::MAX;
    assert!(full.encode().len() <= HEADER_BYTES_MAX);
    verify(signed(full, 2)).unwrap();

    let mut genesis = genesis_header();
    genesis.admits = ids(GENESIS_ADMITS_MAX as u16 - 1, 4)
        .map(DeviceKey)
        .collect();
    genesis.admits.push(device(1));
    genesis.admits.sort_unstable();
    verify(signed(genesis.clone(), 1)).unwrap();
    genesis.admits.push(DeviceKey([0xff; 32]));
    assert!(matches!(
        verify(sign_bytes(genesis.encode(), 1)),
        Err(VerifyError::TooMany {
            field: "admits",
            ..
        })
    ));

    // Size is judged before anything is decoded, whatever the format claims to be.
    for format in [1, 2, 0xff] {
        let mut large = vec![0; GENESIS_HEADER_BYTES_MAX + 1];
        large[0] = format;
        assert_eq!(
            refused(large),
            VerifyError::HeaderBytes {
                len: GENESIS_HEADER_BYTES_MAX + 1,
                max: GENESIS_HEADER_BYTES_MAX
            }
        );
    }
    // An ordinary header may not use a genesis's room.
    let mut all = parts(&header());
    let filler = ids(GENESIS_ADMITS_MAX as u16, 5).map(|k| {
        let mut part = Vec::new();
        bytes(10, &k, &mut part);
        part
    });
    let at = all.iter().position(|part| field_of(part) == 10).unwrap();
    all.splice(at..at, filler);
    assert!(matches!(
        refused(wire::join(&all)),
        VerifyError::HeaderBytes {
            max: HEADER_BYTES_MAX,
            ..
        }
    ));
}

#[test]
fn ids_and_keys_have_their_length() {
    for (field, name) in [
        (1, "store"),
        (2, "author"),
        (5, "prev"),
        (6, "deps"),
        (9, "grant"),
        (10, "admits"),
        (12, "body_hash"),
        (16, "parent_view"),
    ] {
        for len in [1, 31, 33, 64] {
            let mut all = parts(&header());
            let at = all.iter().position(|part| field_of(part) == field).unwrap();
            all[at].clear();
            bytes(field, &vec![7; len], &mut all[at]);
            assert_eq!(
                refused(wire::join(&all)),
                VerifyError::FieldLength { field: name, len }
            );
        }
    }
}

#[test]
fn a_header_has_the_shape_of_its_kind() {
    let intention = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        refused(header.encode())
    };
    let genesis = |change: &dyn Fn(&mut Header)| {
        let mut header = genesis_header();
        change(&mut header);
        verify(sign_bytes(header.encode(), 1)).unwrap_err()
    };
    let shape = |field, kind| VerifyError::Shape { field, kind };
    assert_eq!(intention(&|h| h.prev = None), shape("prev", "an intention"));
    assert_eq!(
        intention(&|h| h.grant = None),
        shape("grant", "an intention")
    );
    let some = Some(IntentionId([1; 32]));
    assert_eq!(genesis(&|h| h.prev = some), shape("prev", "a genesis"));
    assert_eq!(genesis(&|h| h.grant = some), shape("grant", "a genesis"));
    assert_eq!(
        genesis(&|h| h.deps = vec![IntentionId([1; 32])]),
        shape("deps", "a genesis")
    );
    assert_eq!(genesis(&|h| h.seq = Seq(1)), shape("seq", "a genesis"));
    assert_eq!(genesis(&|h| h.lane = Lane::App), shape("lane", "a genesis"));
    assert_eq!(genesis(&|h| h.admits.clear()), shape("admits", "a genesis"));
    let mut all = parts(&header());
    let at = all.iter().position(|part| field_of(part) == 11).unwrap();
    all[at].clear();
    number(11, 2, &mut all[at]);
    assert_eq!(refused(wire::join(&all)), VerifyError::Lane { lane: 2 });
}

//! A fetch and servers against each other, over real directories.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use lattice_format::{BlobId, DeviceKey, StoreId};
use proptest::prelude::*;

use super::limits::{
    BLOB_BYTES_MAX, BLOB_FRAME_BYTES_MAX, GROUP_CHUNKS_LOG, PEERS_MAX, PIECE_BYTES, REQUESTS_MAX,
    REQUESTS_TAKEN_MAX,
};
use super::message::{Message, Request};
use super::*;
use crate::frame::Frames;

const HERE: StoreId = StoreId([7; 32]);
const ELSEWHERE: StoreId = StoreId([8; 32]);
const MAX: u64 = 1 << 30;

fn peer(n: u8) -> DeviceKey {
    DeviceKey([n; 32])
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn blobs(&self) -> BlobStore {
        BlobStore::open(self.0.path()).unwrap()
    }

    fn data_file(&self, blob: BlobId) -> PathBuf {
        let name = blob.to_string();
        self.0.path().join(&name[..2]).join(name)
    }
}

/// Honest servers by device.
struct Net<'a>(BTreeMap<DeviceKey, (&'a BlobStore, Server)>);

impl<'a> Net<'a> {
    fn of(list: &[(DeviceKey, &'a BlobStore)]) -> Self {
        let servers = list
            .iter()
            .map(|(k, blobs)| (*k, (*blobs, Server::default())));
        Self(servers.collect())
    }

    /// Runs the fetch until nothing moves, for at most `frames` frames. Returns all effects but those of sending.
    fn run(&mut self, fetch: &mut Fetch, blobs: &BlobStore, mut frames: usize) -> Vec<FetchEffect> {
        let mut out = Vec::new();
        let mut todo = Vec::new();
        for device in self.0.keys() {
            todo.extend(fetch.handle(FetchInput::PeerUp(*device), blobs).unwrap());
        }
        while !todo.is_empty() {
            for effect in std::mem::take(&mut todo) {
                let FetchEffect::Send(device, request) = effect else {
                    out.push(effect);
                    continue;
                };
                let (theirs, server) = self.0.get_mut(&device).unwrap();
                server.take(&request).unwrap();
                while frames > 0 {
                    match server.next(theirs, |_, _| true).unwrap() {
                        Served::Frame(frame) => {
                            frames -= 1;
                            // A stream may cut a frame anywhere.
                            let (a, b) = frame.split_at(frame.len() / 2);
                            for half in [a, b] {
                                let half = Bytes::copy_from_slice(half);
                                let input = FetchInput::Bytes(device, half);
                                todo.extend(fetch.handle(input, blobs).unwrap());
                            }
                        }
                        Served::Damaged(_) => {}
                        Served::Idle => break,
                    }
                }
            }
        }
        out
    }
}

fn done(effects: &[FetchEffect]) -> bool {
    effects
        .iter()
        .any(|e| matches!(e, FetchEffect::Done { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_blob_of_any_size_arrives(
        size in prop_oneof![0usize..20_000, (PIECE_BYTES as usize - 2)..(PIECE_BYTES as usize + 3),
            (3 * PIECE_BYTES as usize - 20_000)..(3 * PIECE_BYTES as usize + 20_000)],
    ) {
        let (a, b) = (Dir::new(), Dir::new());
        let (from, to) = (a.blobs(), b.blobs());
        let content = bytes(size);
        let blob = from.insert(HERE, &content).unwrap();
        let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
        let effects = Net::of(&[(peer(1), &from)]).run(&mut fetch, &to, usize::MAX);
        prop_assert!(done(&effects), "{effects:?}");
        prop_assert_eq!(to.read(HERE, blob).unwrap(), Some(content));
        // Whoever has fetched the blob can serve it.
        prop_assert!(to.piece(HERE, blob, None).unwrap().is_some());
    }
}

#[test]
fn several_peers_share_the_work_and_an_interrupted_fetch_resumes() {
    let (a, b, c) = (Dir::new(), Dir::new(), Dir::new());
    let (one, two, to) = (a.blobs(), b.blobs(), c.blobs());
    let content = bytes(9 * PIECE_BYTES as usize + 5);
    let blob = one.insert(HERE, &content).unwrap();
    two.insert(HERE, &content).unwrap();
    let servers = [(peer(1), &one), (peer(2), &two)];
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    let effects = Net::of(&servers).run(&mut fetch, &to, 4);
    assert!(!done(&effects));
    drop(fetch);
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    let effects = Net::of(&servers).run(&mut fetch, &to, usize::MAX);
    assert!(done(&effects));
    let pieces = effects
        .iter()
        .filter(|e| matches!(e, FetchEffect::Progress { .. }));
    assert!(
        pieces.count() < 10,
        "pieces that were here were fetched again"
    );
    assert_eq!(to.read(HERE, blob).unwrap(), Some(content));
    assert!(!c.0.path().join("partial").read_dir().unwrap().any(|_| true));
}

#[test]
fn a_blob_of_another_store_looks_like_one_that_is_not_here() {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let blob = from.insert(HERE, b"secret").unwrap();
    let ask = |store, blob, may: bool| {
        let mut server = Server::default();
        let request = Message::Request(Request {
            number: 3,
            store,
            blob,
            piece: None,
        });
        server.take(&request.encode()).unwrap();
        server.next(&from, |_, _| may).unwrap()
    };
    let nowhere = ask(HERE, BlobId([1; 32]), true);
    assert_eq!(ask(ELSEWHERE, blob, true), nowhere);
    assert_eq!(ask(HERE, blob, false), nowhere);
    assert_ne!(ask(HERE, blob, true), nowhere);
    assert!(!from.has(ELSEWHERE, blob).unwrap());
    assert_eq!(from.read(ELSEWHERE, blob).unwrap(), None);
    let mut fetch = Fetch::begin(ELSEWHERE, blob, MAX, &to).unwrap();
    let effects = Net::of(&[(peer(1), &from)]).run(&mut fetch, &to, usize::MAX);
    assert_eq!(effects, vec![FetchEffect::Lacks(peer(1))]);
}

/// The effects of a fetch whose one answer `forge` has made out of the honest one.
fn forged(forge: impl Fn(u64, u64, Vec<u8>) -> Vec<u8>) -> Vec<FetchEffect> {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let blob = from.insert(HERE, &bytes(3 * PIECE_BYTES as usize)).unwrap();
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    let mut out = Vec::new();
    for effect in fetch.handle(FetchInput::PeerUp(peer(1)), &to).unwrap() {
        if let FetchEffect::Send(_, frame) = effect {
            let mut frames = Frames::default();
            frames.push(&frame);
            let (kind, payload) = frames.next(1 << 20, |_| true).unwrap().unwrap();
            let Ok(Message::Request(request)) = Message::decode(kind, payload) else {
                panic!("no request");
            };
            let (size, encoded) = from.piece(HERE, blob, request.piece).unwrap().unwrap();
            let frame = forge(request.number, size, encoded);
            out.extend(
                fetch
                    .handle(FetchInput::Bytes(peer(1), frame.into()), &to)
                    .unwrap(),
            );
        }
    }
    assert!(!to.has(HERE, blob).unwrap());
    out
}

#[test]
fn wrong_bytes_sizes_and_answers_are_blamed() {
    let piece = |number, size, encoded: Vec<u8>| {
        let encoded = encoded.into();
        Message::Piece {
            number,
            size,
            encoded,
        }
        .encode()
        .to_vec()
    };
    let blamed = |effects: Vec<FetchEffect>| {
        assert!(
            matches!(effects.as_slice(), [FetchEffect::Blame(device, _)] if *device == peer(1)),
            "{effects:?}"
        );
    };
    blamed(forged(|n, size, mut encoded| {
        encoded[70_000] ^= 1;
        piece(n, size, encoded)
    }));
    blamed(forged(|n, size, mut encoded| {
        encoded.push(0);
        piece(n, size, encoded)
    }));
    blamed(forged(|n, size, mut encoded| {
        encoded.pop();
        piece(n, size, encoded)
    }));
    for lie in [
        0,
        1,
        PIECE_BYTES,
        3 * PIECE_BYTES - 1,
        3 * PIECE_BYTES + 1,
        1 << 29,
        u64::MAX,
    ] {
        blamed(forged(|n, _, encoded| piece(n, lie, encoded)));
    }
    blamed(forged(|n, size, encoded| piece(n + 1, size, encoded)));
    blamed(forged(|_, _, _| {
        Message::Missing { number: 99 }.encode().to_vec()
    }));
    // A frame that is too long is refused by its length alone.
    let endless = (BLOB_FRAME_BYTES_MAX as u32 + 1).to_be_bytes();
    blamed(forged(|_, _, _| [&endless[..], &[2]].concat()));
    // An unknown kind is passed over.
    assert!(forged(|_, _, _| vec![0, 0, 0, 2, 200, 1, 1]).is_empty());
}

#[test]
fn a_bad_peer_does_not_keep_a_good_one_from_delivering() {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let blob = from.insert(HERE, &bytes(40_000)).unwrap();
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    fetch.handle(FetchInput::PeerUp(peer(9)), &to).unwrap();
    let lie = Message::Piece {
        number: 0,
        size: 5,
        encoded: Bytes::from_static(b"hello"),
    };
    let effects = fetch
        .handle(FetchInput::Bytes(peer(9), lie.encode()), &to)
        .unwrap();
    assert!(matches!(effects.as_slice(), [FetchEffect::Blame(..)]));
    assert!(done(&Net::of(&[(peer(1), &from)]).run(
        &mut fetch,
        &to,
        usize::MAX
    )));
}

#[test]
fn a_blob_above_the_callers_limit_is_refused_once_its_size_is_proven() {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let blob = from.insert(HERE, &bytes(5000)).unwrap();
    let mut fetch = Fetch::begin(HERE, blob, 4999, &to).unwrap();
    let effects = Net::of(&[(peer(1), &from)]).run(&mut fetch, &to, usize::MAX);
    let failure = FetchFailure::TooLarge {
        size: 5000,
        max: 4999,
    };
    assert_eq!(effects, vec![FetchEffect::Failed(failure)]);
    assert!(fetch.is_over());
}

const GROUP_BYTES: u64 = 1024 << GROUP_CHUNKS_LOG;

#[test]
fn hashes_are_sent_for_groups_and_none_within_one() {
    let dir = Dir::new();
    let blobs = dir.blobs();
    for (size, hashes) in [(GROUP_BYTES, 0), (GROUP_BYTES + 1, 2), (4 * GROUP_BYTES, 6)] {
        let blob = blobs.insert(HERE, &bytes(size as usize)).unwrap();
        let (_, encoded) = blobs.piece(HERE, blob, None).unwrap().unwrap();
        assert_eq!(encoded.len() as u64, size + hashes * 32);
    }
}

/// The hash of the bytes between two offsets of a blob of zeros, and the proof of those from `shown` on. The bytes
/// before get a made-up hash, which nobody can tell from a real one.
fn forged_tree(from: u64, to: u64, shown: u64, is_root: bool) -> ([u8; 32], Vec<u8>) {
    use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
    if to <= shown {
        return ([7; 32], Vec::new());
    }
    let groups = (to - from).div_ceil(GROUP_BYTES);
    if groups == 1 {
        let data = vec![0; (to - from) as usize];
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(from).update(&data);
        return (hasher.finalize_non_root(), data);
    }
    let middle = from + groups.next_power_of_two() / 2 * GROUP_BYTES;
    let (left, left_proof) = forged_tree(from, middle, shown, false);
    let (right, right_proof) = forged_tree(middle, to, shown, false);
    let hash = match is_root {
        true => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
        false => merge_subtrees_non_root(&left, &right, Mode::Hash),
    };
    (
        hash,
        [&left[..], &right, &left_proof, &right_proof].concat(),
    )
}

#[test]
fn a_blob_is_taken_up_to_the_largest_and_blamed_beyond() {
    for (size, taken) in [(BLOB_BYTES_MAX, true), (BLOB_BYTES_MAX + 1, false)] {
        let dir = Dir::new();
        let blobs = dir.blobs();
        let last_piece = (size - 1) / PIECE_BYTES * PIECE_BYTES;
        let (hash, proof) = forged_tree(0, size, last_piece, true);
        let mut fetch = Fetch::begin(HERE, BlobId(hash), u64::MAX, &blobs).unwrap();
        fetch.handle(FetchInput::PeerUp(peer(1)), &blobs).unwrap();
        let piece = Message::Piece {
            number: 0,
            size,
            encoded: proof.into(),
        };
        let effects = fetch.handle(FetchInput::Bytes(peer(1), piece.encode()), &blobs);
        let effects = effects.unwrap();
        let blames = effects.iter().any(|e| matches!(e, FetchEffect::Blame(..)));
        let goes_on = effects.iter().any(|e| matches!(e, FetchEffect::Send(..)));
        assert_eq!((goes_on, blames), (taken, !taken), "{effects:?}");
    }
}

/// Asserts that a remedy is told, which the test then follows.
fn advice(said: &str, remedy: &str) {
    assert!(said.contains(remedy), "{said}");
}

#[test]
fn a_damaged_file_is_found_taken_away_and_fetched_again() {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let content = bytes(2 * PIECE_BYTES as usize);
    let blob = from.insert(HERE, &content).unwrap();
    to.insert(HERE, &content).unwrap();
    let mut wrong = content.clone();
    wrong[1_500_000] ^= 1;
    fs::write(b.data_file(blob), &wrong).unwrap();
    let damaged = to.read(HERE, blob).unwrap_err();
    assert!(matches!(damaged, BlobError::Damaged(id) if id == blob));
    advice(&damaged.to_string(), "it can be fetched again");
    assert!(!to.has(HERE, blob).unwrap());
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    assert!(done(&Net::of(&[(peer(1), &from)]).run(
        &mut fetch,
        &to,
        usize::MAX
    )));
    assert_eq!(to.read(HERE, blob).unwrap(), Some(content));
    // A server finds the damage as well, and never sends wrong bytes.
    fs::write(a.data_file(blob), &wrong).unwrap();
    let mut server = Server::default();
    let request = Request {
        number: 1,
        store: HERE,
        blob,
        piece: Some(1),
    };
    server.take(&Message::Request(request).encode()).unwrap();
    assert_eq!(
        server.next(&from, |_, _| true).unwrap(),
        Served::Damaged(blob)
    );
    let missing = Served::Frame(Message::Missing { number: 1 }.encode());
    assert_eq!(server.next(&from, |_, _| true).unwrap(), missing);
}

#[test]
fn a_file_that_the_system_refuses_to_open_is_an_error_and_stays() {
    let a = Dir::new();
    let blobs = a.blobs();
    let content = bytes(2 * PIECE_BYTES as usize);
    let blob = blobs.insert(HERE, &content).unwrap();
    let file = a.data_file(blob);
    for file in [file.clone(), file.with_extension("bao")] {
        let aside = file.with_extension("aside");
        fs::rename(&file, &aside).unwrap();
        // As many links as the system follows, and more.
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let error = blobs.piece(HERE, blob, Some(0)).unwrap_err();
        assert!(matches!(error, BlobError::Io { .. }), "{error}");
        assert!(blobs.has(HERE, blob).unwrap());
        fs::rename(&aside, &file).unwrap();
    }
    assert!(blobs.piece(HERE, blob, Some(0)).unwrap().is_some());
    assert_eq!(blobs.read(HERE, blob).unwrap(), Some(content));
}

#[test]
fn a_partial_file_that_lies_is_fetched_again() {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let content = bytes(3 * PIECE_BYTES as usize);
    let blob = from.insert(HERE, &content).unwrap();
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    Net::of(&[(peer(1), &from)]).run(&mut fetch, &to, 2);
    // As after a crash, the bytes are lost, and the note says that they are there.
    let data = to.partial(blob, HERE, "data");
    fs::write(&data, vec![0; content.len()]).unwrap();
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    assert!(done(&Net::of(&[(peer(1), &from)]).run(
        &mut fetch,
        &to,
        usize::MAX
    )));
    assert_eq!(to.read(HERE, blob).unwrap(), Some(content));
}

/// Holds: invariant 10.
#[test]
fn a_server_bounds_its_queue() {
    let mut server = Server::default();
    let blob = BlobId([1; 32]);
    let request = |number| {
        Message::Request(Request {
            number,
            store: HERE,
            blob,
            piece: None,
        })
    };
    for n in 0..REQUESTS_TAKEN_MAX {
        server.take(&request(n as u64).encode()).unwrap();
    }
    assert!(matches!(
        server.take(&request(0).encode()),
        Err(ServerFault::TooMany { .. })
    ));
    assert!(
        Server::default()
            .take(&Message::Missing { number: 1 }.encode())
            .is_err()
    );
    assert!(Server::default().take(&[0, 0, 0, 1, 1, 0xff]).is_err());
}

#[test]
fn a_fetch_bounds_its_peers_and_what_it_asks_of_each() {
    let (a, b) = (Dir::new(), Dir::new());
    let (from, to) = (a.blobs(), b.blobs());
    let content = bytes((PEERS_MAX + REQUESTS_MAX + 2) * PIECE_BYTES as usize);
    let blob = from.insert(HERE, &content).unwrap();
    let mut fetch = Fetch::begin(HERE, blob, MAX, &to).unwrap();
    let mut up = |n| {
        let up = FetchInput::PeerUp(peer(n as u8));
        fetch.handle(up, &to).unwrap()
    };
    // Each peer is asked for one piece, to learn the size. The peer beyond the bound is asked for nothing.
    let first = up(0);
    for n in 1..PEERS_MAX {
        assert_eq!(up(n).len(), 1);
    }
    assert_eq!(up(PEERS_MAX), []);
    let [FetchEffect::Send(_, request)] = &first[..] else {
        panic!("{first:?}");
    };
    let mut server = Server::default();
    server.take(request.as_ref()).unwrap();
    let Served::Frame(frame) = server.next(&from, |_, _| true).unwrap() else {
        panic!("no frame");
    };
    let input = FetchInput::Bytes(peer(0), frame);
    let asked = fetch.handle(input, &to).unwrap();
    for n in 0..PEERS_MAX {
        let to_peer = |effect: &&FetchEffect| matches!(effect, FetchEffect::Send(to, _) if *to == peer(n as u8));
        // The other peers have not answered the first request yet.
        let open = asked.iter().filter(to_peer).count() + usize::from(n > 0);
        assert!(open <= REQUESTS_MAX, "{open} requests to {n}");
        assert!(n > 0 || open == REQUESTS_MAX, "{open} requests to {n}");
    }
}

#[test]
fn listing_pages_and_the_last_store_takes_the_bytes_along() {
    let a = Dir::new();
    let blobs = a.blobs();
    let mut ids: Vec<_> = (0..5u8)
        .map(|n| blobs.insert(HERE, &[n]).unwrap())
        .collect();
    ids.sort_unstable();
    let page = blobs.list(HERE, None, 3).unwrap();
    let rest = blobs.list(HERE, Some(page[2].0), 3).unwrap();
    let all: Vec<_> = page.iter().chain(&rest).map(|(id, _)| *id).collect();
    assert_eq!(all, ids);
    blobs.insert(ELSEWHERE, &[0]).unwrap();
    let blob = BlobId(*blake3::hash(&[0]).as_bytes());
    blobs.forget(HERE, blob).unwrap();
    assert!(!blobs.has(HERE, blob).unwrap() && blobs.has(ELSEWHERE, blob).unwrap());
    blobs.forget(ELSEWHERE, blob).unwrap();
    assert!(!a.data_file(blob).exists());
    drop(blobs);
    assert_eq!(a.blobs().list(HERE, None, 10).unwrap().len(), 4);
}

/// Holds: invariant 15.
#[test]
fn the_bytes_of_each_message_are_fixed() {
    let hex = |message: Message| {
        let bytes = message.encode();
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let request = Request {
        number: 5,
        store: HERE,
        blob: BlobId([9; 32]),
        piece: Some(2),
    };
    let (store, blob) = ("07".repeat(32), "09".repeat(32));
    let expected = format!("000000480108051220{store}1a20{blob}2002");
    assert_eq!(hex(Message::Request(request)), expected);
    let encoded = Bytes::from_static(b"ab");
    assert_eq!(
        hex(Message::Piece {
            number: 5,
            size: 300,
            encoded
        }),
        "0000000902080510ac021a026162"
    );
    assert_eq!(hex(Message::Missing { number: 5 }), "00000002030805");
}

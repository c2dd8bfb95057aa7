//! What the kernel reads of peers.

use std::sync::LazyLock;

use bytes::Bytes;
use lattice_format::{BlobId, StoreId};
use lattice_kernel::blob::{BlobStore, Fetch, FetchInput, Server};
use lattice_kernel::sync::{Access, Config, Effect, Input, Role, Session, Wants};
use lattice_kernel::{BatchVerifier, Outcome, Store};
use lattice_testing::{self as testing, device};

const NOW_MS: u64 = 1_800_000_000_000;

/// An outcome in the log.
pub(crate) fn outcome(input: &[u8]) {
    if let Some(outcome) = Outcome::from_cbor(input) {
        let bytes = outcome.to_cbor();
        assert_eq!(Outcome::from_cbor(&bytes), Some(outcome));
    }
}

/// What a peer says on a stream of the sync protocol. The first byte says which end this node is; then come
/// pieces, each with its length before it, and of length 0 a tick.
pub(crate) fn sync(input: &[u8]) {
    let Some((end, mut rest)) = input.split_first() else {
        return;
    };
    let mut store = testing::found(0, NOW_MS);
    let role = match end % 2 {
        0 => Role::Dialer,
        _ => Role::Listener,
    };
    let config = Config {
        role,
        device: device(0),
        endpoint: device(0),
        peer: device(1),
        wants: Wants::All,
        access: Access::All,
    };
    let mut session = Session::new(config);
    let mut now_ms = NOW_MS;
    give(&mut session, Input::Start, now_ms, &mut store);
    while let Some((len, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        now_ms += 1_000;
        let input = match piece {
            [] => Input::Tick,
            piece => Input::Bytes(Bytes::copy_from_slice(piece)),
        };
        give(&mut session, input, now_ms, &mut store);
    }
}

/// Gives a session an input and carries out its effects, up to a bound.
fn give(session: &mut Session, input: Input, now_ms: u64, store: &mut Store) {
    const EFFECTS_MAX: usize = 10_000;
    let mut inputs = vec![input];
    let mut count = 0;
    while let Some(input) = inputs.pop() {
        let effects = session.handle(input, now_ms, &store.snapshot());
        for effect in effects.expect("memory does not fail") {
            count += 1;
            assert!(count < EFFECTS_MAX, "one piece has no end");
            match effect {
                Effect::Deliver(entries) => {
                    let received =
                        store.receive(device(1), entries, now_ms, BatchVerifier([7; 32]));
                    inputs.push(Input::Received(Some(
                        received.expect("memory does not fail"),
                    )));
                }
                Effect::Again => inputs.push(Input::Tick),
                _ => {}
            }
        }
    }
}

static BLOBS: LazyLock<(tempfile::TempDir, BlobStore)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::open(directory.path()).expect("a store of blobs");
    blobs.insert(STORE, CONTENT).expect("a blob");
    (directory, blobs)
});

const STORE: StoreId = StoreId([1; 32]);
const CONTENT: &[u8] = b"what peers may ask for";

/// Requests for blobs.
pub(crate) fn blob_serve(input: &[u8]) {
    let mut server = Server::default();
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    for piece in rest.chunks(usize::from(*first).max(1)) {
        if server.take(piece).is_err() {
            return;
        }
        while let Ok(lattice_kernel::blob::Served::Frame(_)) =
            server.next(&BLOBS.1, |store, _| store == STORE)
        {}
    }
}

/// Answers to a request for a blob that nobody has: none of them can be it.
pub(crate) fn blob_fetch(input: &[u8]) {
    let blobs = &BLOBS.1;
    let blob = BlobId([9; 32]);
    let mut fetch = Fetch::begin(STORE, blob, 1 << 20, blobs).expect("a fetch");
    fetch
        .handle(FetchInput::PeerUp(device(1)), blobs)
        .expect("the disk works");
    let bytes = FetchInput::Bytes(device(1), Bytes::copy_from_slice(input));
    let effects = fetch.handle(bytes, blobs).expect("the disk works");
    let done = |effect: &_| matches!(effect, lattice_kernel::blob::FetchEffect::Done { .. });
    assert!(!effects.iter().any(done), "nothing has that hash");
}

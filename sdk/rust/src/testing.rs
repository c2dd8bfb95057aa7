//! A store in memory for the tests of plugins. It has the rules of the real store: sizes, what a query may do,
//! and that a call which fails leaves no writes behind.
//!
//! Each thread has a store of its own, so that tests run side by side. The store panics where the host would
//! trap.
//!
//! ```
//! use lattice_sdk::{state, testing};
//!
//! testing::reset();
//! testing::call("alice").run(|| state::put(b"k", b"v"));
//! let refused = testing::call("alice").attempt(|| {
//!     state::delete(b"k");
//!     Err::<(), _>("no")
//! });
//! assert_eq!(refused, Err("no"));
//! assert_eq!(testing::query(|| state::get(b"k")), Some(b"v".to_vec()));
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::state::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::{Entry, Hash, Timestamp};

/// The id of the store in memory.
pub const STORE: [u8; 32] = [0x5e; 32];

const PAGE_BYTES_MAX: usize = 256 * 1_024;
const HASH_BYTES: usize = 32;

#[derive(Clone, Default)]
struct Contents {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    numbers: BTreeMap<Vec<u8>, i64>,
    pins: BTreeSet<(Vec<u8>, Hash)>,
}

#[derive(Clone)]
enum Running {
    Nothing,
    Query,
    Call {
        entry: Entry,
        sees: Option<Vec<Hash>>,
        store_known: bool,
    },
}

struct World {
    contents: Contents,
    running: Running,
    calls: Vec<Hash>,
    reads: Vec<Vec<u8>>,
}

thread_local! {
    static WORLD: RefCell<World> = const {
        RefCell::new(World {
            contents: Contents { values: BTreeMap::new(), numbers: BTreeMap::new(), pins: BTreeSet::new() },
            running: Running::Nothing,
            calls: Vec::new(), reads: Vec::new(),
        })
    };
}

fn with<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|world| act(&mut world.borrow_mut()))
}

/// Empties the store of this thread.
pub fn reset() {
    with(|world| {
        *world = World {
            contents: Contents::default(),
            running: Running::Nothing,
            calls: Vec::new(),
            reads: Vec::new(),
        };
    });
}

/// A device key for a name: the name's bytes, filled up with zeros to 32. Longer names are cut off.
pub fn key(name: impl AsRef<[u8]>) -> Vec<u8> {
    let mut key = name.as_ref().to_vec();
    key.resize(HASH_BYTES, 0);
    key
}

/// Prepares a call by `author` (a name, or a device key), later than all calls before it, whose author has
/// seen them all.
pub fn call(author: impl AsRef<[u8]>) -> Call {
    let number = with(|world| world.calls.len() as u64 + 1);
    let mut id = vec![0xca; HASH_BYTES];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Call {
        entry: Entry {
            id,
            author: key(author),
            time: Timestamp {
                wall_ms: 1_000 + number,
                counter: 0,
            },
            index: 0,
        },
        sees: None,
        store_known: true,
    }
}

/// Runs `read` as a query.
pub fn query<T>(read: impl FnOnce() -> T) -> T {
    let guard = Guard::enter(Running::Query);
    let result = read();
    guard.keep();
    result
}

/// The ids of the calls that ran and did not fail, oldest first.
pub fn calls() -> Vec<Hash> {
    with(|world| world.calls.clone())
}

/// What the last call or query read from the state, in order: keys, and the starts of ranges. A late write to
/// any of them makes the call run again.
pub fn reads() -> Vec<Vec<u8>> {
    with(|world| world.reads.clone())
}

/// The blobs pinned by `owner`.
pub fn pinned(owner: &[u8]) -> Vec<Hash> {
    with(|world| {
        let pins = world.contents.pins.iter();
        pins.filter(|(by, _)| by == owner)
            .map(|(_, blob)| blob.clone())
            .collect()
    })
}

/// A call about to run.
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it runs"]
pub struct Call {
    entry: Entry,
    sees: Option<Vec<Hash>>,
    store_known: bool,
}

impl Call {
    /// Sets the time of the entry, in milliseconds since 1970 in UTC.
    pub fn at(mut self, wall_ms: u64) -> Self {
        self.entry.time.wall_ms = wall_ms;
        self
    }

    /// Sets the place of the call in its entry.
    pub fn index(mut self, index: u32) -> Self {
        self.entry.index = index;
        self
    }

    /// Sets which calls the author had seen: these and no others.
    pub fn sees(mut self, calls: &[Hash]) -> Self {
        self.sees = Some(calls.to_vec());
        self
    }

    /// Makes this a call of the first entry, where the id of the store is not known.
    pub fn genesis(mut self) -> Self {
        self.store_known = false;
        self
    }

    /// The id that `current` gives while it runs.
    pub fn id(&self) -> Hash {
        self.entry.id.clone()
    }

    /// Runs `act`; a panic undoes its writes.
    pub fn run<T>(self, act: impl FnOnce() -> T) -> T {
        self.attempt(|| Ok::<T, std::convert::Infallible>(act()))
            .unwrap_or_else(|never| match never {})
    }

    /// Runs `act`; an error or a panic undoes its writes.
    ///
    /// # Errors
    /// The error of `act`.
    pub fn attempt<T, E>(self, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let id = self.entry.id.clone();
        let Self {
            entry,
            sees,
            store_known,
        } = self;
        let guard = Guard::enter(Running::Call {
            entry,
            sees,
            store_known,
        });
        let result = act();
        if result.is_ok() {
            guard.keep();
            with(|world| world.calls.push(id));
        }
        result
    }
}

/// When dropped, ends the running call and restores the contents from before it, unless they are kept.
struct Guard(Option<Contents>);

impl Guard {
    fn enter(running: Running) -> Self {
        with(|world| {
            assert!(
                matches!(world.running, Running::Nothing),
                "a call runs within another one"
            );
            world.running = running;
            world.reads.clear();
            Self(Some(world.contents.clone()))
        })
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        with(|world| {
            world.running = Running::Nothing;
            if let Some(contents) = self.0.take() {
                world.contents = contents;
            }
        });
    }
}

fn check_key(key: &[u8]) {
    assert!(
        key.len() <= KEY_BYTES_MAX,
        "a key of {} bytes exceeds {KEY_BYTES_MAX}",
        key.len()
    );
}

fn reading<T>(key: &[u8], act: impl FnOnce(&Contents) -> T) -> T {
    check_key(key);
    with(|world| {
        world.reads.push(key.to_vec());
        act(&world.contents)
    })
}

fn writing<T>(act: impl FnOnce(&mut Contents) -> T) -> T {
    with(|world| {
        assert!(
            matches!(world.running, Running::Call { .. }),
            "only a command may write"
        );
        act(&mut world.contents)
    })
}

/// `lattice:store/state` in memory; its items are documented there.
pub(crate) mod state {
    use super::{BTreeMap, PAGE_BYTES_MAX, VALUE_BYTES_MAX, check_key, reading, writing};
    use crate::bindings::lattice::store::state::Page;

    pub(crate) fn get(key: &[u8]) -> Option<Vec<u8>> {
        reading(key, |contents| contents.values.get(key).cloned())
    }

    pub(crate) fn put(key: &[u8], value: &[u8]) {
        check_key(key);
        let len = value.len();
        assert!(
            len <= VALUE_BYTES_MAX,
            "a value of {len} bytes exceeds {VALUE_BYTES_MAX}"
        );
        writing(|contents| contents.values.insert(key.to_vec(), value.to_vec()));
    }

    pub(crate) fn delete(key: &[u8]) {
        check_key(key);
        writing(|contents| contents.values.remove(key));
    }

    pub(crate) fn delete_range(start: &[u8], end: &[u8]) {
        check_key(start);
        check_key(end);
        writing(|contents| {
            contents
                .values
                .retain(|key, _| &key[..] < start || &key[..] >= end)
        });
    }

    pub(crate) fn add(key: &[u8], by: i64) {
        check_key(key);
        writing(|contents| {
            let cell = contents.numbers.entry(key.to_vec()).or_default();
            *cell = cell.wrapping_add(by);
        });
    }

    pub(crate) fn number(key: &[u8]) -> i64 {
        reading(key, |contents| {
            contents.numbers.get(key).copied().unwrap_or(0)
        })
    }

    pub(crate) fn scan(start: &[u8], end: Option<&[u8]>, limit: u32, reverse: bool) -> Page {
        reading(start, |contents| {
            page(&contents.values, start, end, limit, reverse, true)
        })
    }

    pub(crate) fn scan_keys(start: &[u8], end: Option<&[u8]>, limit: u32, reverse: bool) -> Page {
        reading(start, |contents| {
            page(&contents.values, start, end, limit, reverse, false)
        })
    }

    pub(crate) fn scan_numbers(
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
    ) -> Vec<(Vec<u8>, i64)> {
        let mut bytes = 0;
        let mut cells = Vec::new();
        reading(start, |contents| {
            let numbers = contents.numbers.iter().filter(|(_, number)| **number != 0);
            for (key, number) in numbers.filter(|(key, _)| within(key, start, end)) {
                bytes += key.len() + size_of::<i64>();
                if cells.len() >= limit as usize || (bytes > PAGE_BYTES_MAX && !cells.is_empty()) {
                    break;
                }
                cells.push((key.clone(), *number));
            }
        });
        cells
    }

    fn within(key: &[u8], start: &[u8], end: Option<&[u8]>) -> bool {
        key >= start && end.is_none_or(|end| key < end)
    }

    fn page(
        values: &BTreeMap<Vec<u8>, Vec<u8>>,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        reverse: bool,
        with_values: bool,
    ) -> Page {
        end.into_iter().for_each(check_key);
        let mut found: Vec<_> = values
            .iter()
            .filter(|(key, _)| within(key, start, end))
            .collect();
        if reverse {
            found.reverse();
        }
        let total = found.len();
        let mut bytes = 0;
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in found {
            let value = if with_values {
                value.clone()
            } else {
                Vec::new()
            };
            bytes += key.len() + value.len();
            if rows.len() >= limit as usize || (bytes > PAGE_BYTES_MAX && !rows.is_empty()) {
                break;
            }
            rows.push((key.clone(), value));
        }
        let more = rows.len() < total;
        Page { rows, more }
    }
}

/// `lattice:store/context` in memory; its items are documented there.
pub(crate) mod context {
    use super::{Running, STORE, with};
    use crate::{Entry, Hash};

    fn running() -> Running {
        with(|world| world.running.clone())
    }

    pub(crate) fn current() -> Entry {
        match running() {
            Running::Call { entry, .. } => entry,
            _ => panic!("`current` is for commands only"),
        }
    }

    pub(crate) fn observed(other: &Hash) -> bool {
        match running() {
            Running::Call {
                sees: Some(sees), ..
            } => sees.contains(other),
            Running::Call { sees: None, .. } => with(|world| world.calls.contains(other)),
            _ => panic!("`observed` is for commands only"),
        }
    }

    pub(crate) fn store() -> Hash {
        match running() {
            Running::Call {
                store_known: false, ..
            } => panic!("the first entry has no store id yet"),
            _ => STORE.to_vec(),
        }
    }
}

/// `lattice:store/blobs` in memory; its items are documented there.
pub(crate) mod blobs {
    use super::{HASH_BYTES, check_key, writing};
    use crate::Hash;

    pub(crate) fn pin(owner: &[u8], blob: &Hash) {
        check_key(owner);
        assert!(
            blob.len() == HASH_BYTES,
            "a hash of {} bytes, not {HASH_BYTES}",
            blob.len()
        );
        writing(|contents| contents.pins.insert((owner.to_vec(), blob.clone())));
    }

    pub(crate) fn unpin(owner: &[u8], blob: &Hash) {
        check_key(owner);
        assert!(
            blob.len() == HASH_BYTES,
            "a hash of {} bytes, not {HASH_BYTES}",
            blob.len()
        );
        writing(|contents| contents.pins.remove(&(owner.to_vec(), blob.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "only a command may write")]
    fn a_query_that_writes_panics() {
        reset();
        query(|| crate::state::put(b"k", b"v"));
    }

    #[test]
    fn a_panic_undoes_the_call() {
        reset();
        let outcome = std::panic::catch_unwind(|| {
            call("a").run(|| {
                crate::state::put(b"k", b"v");
                panic!("on purpose");
            })
        });
        assert!(outcome.is_err());
        assert_eq!(crate::state::get(b"k"), None);
        assert!(calls().is_empty());
    }

    #[test]
    fn a_call_sees_the_earlier_ones_unless_told_otherwise() {
        reset();
        let first = call("a");
        let id = first.id();
        first.run(|| assert!(!crate::context::observed(&crate::context::current().id)));
        call("b").run(|| assert!(crate::context::observed(&id)));
        call("b")
            .sees(&[])
            .run(|| assert!(!crate::context::observed(&id)));
    }

    #[test]
    fn pins_are_kept_by_owner() {
        reset();
        let blob = vec![1; 32];
        call("a").run(|| crate::blobs::pin(b"o", &blob));
        assert_eq!(pinned(b"o"), std::slice::from_ref(&blob));
        call("a").run(|| crate::blobs::unpin(b"o", &blob));
        assert!(pinned(b"o").is_empty());
    }
}

//! Rows: ordered maps of bytes, a redb table for each kind, with one overlay in memory in front of them all.
//!
//! These rows hold everything that is derived from the log. The first byte of a key is its kind (see keys.rs), which
//! selects the table; keys in the table leave that byte out. Writes go to the overlay, which is a persistent tree: a
//! reader clones it in constant time and keeps a consistent view while the writer goes on. From time to time one
//! durable transaction writes the overlay to disk, together with the number of entries that the rows cover, so the
//! rows on disk are always those of one moment.
//!
//! Each kind has a table of its own, because redb packs the leaves of a table whose keys ascend, and splits leaves
//! in halves wherever else a row is inserted.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use imbl::OrdMap;
use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, TableHandle};

use crate::storage::db::{Failed, Open, guard};
use crate::storage::error::{StorageError, StoreFile};
use crate::storage::health::{Health, Wake};
use crate::storage::holes::{Gap, Holes};
use crate::storage::keys;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The definition of the table of a kind of rows.
fn definition(kind: u8) -> Definition {
    let name = keys::table_name(kind)
        .unwrap_or_else(|| panic!("no kind of rows begins with {}", kind.escape_ascii()));
    TableDefinition::new(name)
}

pub(super) type Key = Arc<[u8]>;
/// A key with its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);
pub(super) type Value = Arc<[u8]>;

/// The rows on disk at one moment.
pub(super) struct Disk {
    /// The tables by kind; `None` for a kind that has no table yet.
    tables: Box<[Option<Table>; 256]>,
    health: Arc<Health>,
}

impl Disk {
    fn table(&self, kind: u8) -> Option<&Table> {
        self.tables[usize::from(kind)].as_ref()
    }

    /// Reads under the guard. A failed read wakes the writer.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce() -> Result<T, redb::StorageError>,
    ) -> Result<T, StorageError> {
        self.health.of(guard(StoreFile::State, || Ok(read()?)))
    }
}

/// A consistent view of the rows. Cheap to clone; later writes do not change it.
#[derive(Clone)]
pub struct RowsView {
    disk: Option<Arc<Disk>>,
    /// Rows that were written since the last flush; `None` for those that were removed.
    pub(super) overlay: OrdMap<Key, Option<Value>>,
    holes: Holes,
}

impl std::fmt::Debug for RowsView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowsView({} rows in memory)", self.overlay.len())
    }
}

impl RowsView {
    /// The value at `key`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        #[cfg(test)]
        work::read();
        if let Some(value) = self.overlay.get(key) {
            return Ok(value.clone());
        }
        let (kind, rest) = key.split_first().expect("a key begins with its kind");
        match self.on_disk(*kind) {
            None => Ok(None),
            // The value's bounds are in a page, which damage can set beyond it: under the guard the panic is an error.
            Some((disk, table)) => disk.read(|| {
                let value = table.get(rest)?;
                Ok(value.map(|value| Arc::from(value.value())))
            }),
        }
    }

    pub(super) fn on_disk(&self, kind: u8) -> Option<(&Arc<Disk>, &Table)> {
        let disk = self.disk.as_ref()?;
        Some((disk, disk.table(kind)?))
    }

    /// Visits the rows of one kind from `start` (inclusive) to `end` (exclusive) in ascending order, or in descending
    /// order with `reverse`, until `visit` breaks. `end` may be the next kind: then the scan goes from `start` to the
    /// last row of its kind.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let mut gap = Gap::new(reverse);
        let (mut from, mut to) = (Cow::Borrowed(start), Cow::Borrowed(end));
        'part: while from < to {
            let mut rows = self.merged(&from, &to, reverse)?;
            // Looked up at the first removed row, because most scans meet none.
            let mut hole = None;
            while let Some((key, value)) = rows.next()? {
                #[cfg(test)]
                work::read();
                if let Some(value) = value {
                    gap.close(key, &self.holes);
                    if visit(key, value).is_break() {
                        return Ok(());
                    }
                    continue;
                }
                gap.pass(key);
                let hole = hole.get_or_insert_with(|| self.holes.next(key, reverse));
                if let Some((hole_from, hole_to)) = hole
                    && **hole_from <= *key
                    && *key < **hole_to
                {
                    gap.skip(hole_from, hole_to);
                    match reverse {
                        true => to = Cow::Owned(hole_from.to_vec()),
                        false => from = Cow::Owned(hole_to.to_vec()),
                    }
                    continue 'part;
                }
            }
            break;
        }
        gap.close_at(if reverse { start } else { end }, &self.holes);
        Ok(())
    }

    /// The first row of the range in the given direction.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn first(
        &self,
        start: &[u8],
        end: &[u8],
        reverse: bool,
    ) -> Result<Option<Row>, StorageError> {
        let mut found = None;
        self.scan(start, end, reverse, |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

/// The rows, for their only writer.
pub struct Rows {
    db: Open<Database>,
    view: RowsView,
    health: Arc<Health>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rows({:?})", self.view)
    }
}

impl std::ops::Deref for Rows {
    type Target = RowsView;

    fn deref(&self) -> &RowsView {
        &self.view
    }
}

impl Rows {
    /// Rows without a file, for the reference fold and tests.
    ///
    /// # Errors
    /// When redb fails.
    pub(crate) fn in_memory() -> Result<Self, StorageError> {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .map_err(|error| StorageError::unopened(StoreFile::State, error))?;
        Self::open(db)
    }

    /// Takes over a database, new or existing.
    ///
    /// # Errors
    /// When the disk fails or the file is damaged.
    pub fn open(db: Database) -> Result<Self, StorageError> {
        let mut rows = Self {
            db: Open::of(StoreFile::State, db),
            view: RowsView {
                disk: None,
                overlay: OrdMap::new(),
                holes: Holes::default(),
            },
            health: Arc::default(),
        };
        rows.reload()?;
        if guard(StoreFile::State, || rows.drop_older_form())? {
            rows.reload()?;
        }
        Ok(rows)
    }

    /// Removes all tables if one of them has no known name, because it is of an older format. Returns whether it did;
    /// the log is then folded anew. The known tables go as well: they say how many entries are folded, and part of
    /// that fold's results is in the tables of the older format.
    fn drop_older_form(&self) -> Result<bool, Failed> {
        let known = |name: &str| keys::KINDS.iter().any(|(_, known)| *known == name);
        let tables: Vec<_> = self.db.begin_read()?.list_tables()?.collect();
        if tables.iter().all(|table| known(table.name())) {
            return Ok(false);
        }
        let write = self.db.begin_write()?;
        for table in tables {
            write.delete_table(table)?;
        }
        write.commit()?;
        Ok(true)
    }

    fn reload(&mut self) -> Result<(), StorageError> {
        let tables = guard(StoreFile::State, || {
            let read = self.db.begin_read()?;
            let mut tables = Box::new([const { None }; 256]);
            let mut any = false;
            for (kind, _) in keys::KINDS {
                tables[usize::from(*kind)] = match read.open_table(definition(*kind)) {
                    Ok(rows) => Some(rows),
                    Err(redb::TableError::TableDoesNotExist(_)) => None,
                    Err(error) => return Err(error.into()),
                };
                any |= tables[usize::from(*kind)].is_some();
            }
            Ok(any.then_some(tables))
        })?;
        self.view.disk = tables.map(|tables| {
            Arc::new(Disk {
                tables,
                health: self.health.clone(),
            })
        });
        Ok(())
    }

    /// A consistent view of the rows, which later writes do not change.
    pub fn view(&self) -> RowsView {
        self.view.clone()
    }

    /// Goes back to an earlier view. Everything that was written since is undone.
    ///
    /// The view must have been taken after the last [`Rows::flush`].
    pub fn restore(&mut self, view: RowsView) {
        self.view = view;
    }

    /// Sets a row.
    pub fn put(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        #[cfg(test)]
        work::written(key.len() + value.len());
        self.view.holes.fill(&key);
        self.view.overlay.insert(key, Some(value));
    }

    /// Removes a row, if it exists.
    pub fn remove(&mut self, key: impl Into<Key>) {
        let key = key.into();
        self.view.holes.part();
        if self.view.on_disk(key[0]).is_none() {
            self.view.overlay.remove(&key);
        } else {
            self.view.overlay.insert(key, None);
        }
    }

    /// The number of rows in the overlay: those written or removed since the last [`Rows::flush`].
    pub fn pending_rows(&self) -> usize {
        self.view.overlay.len()
    }

    /// Has `wake` called when a read of any view fails.
    pub(crate) fn on_failed_read(&self, wake: Wake) {
        self.health.set_wake(wake);
    }

    /// If a read has failed since the last examination, examines whether the database still takes transactions.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn examine(&self) -> Result<(), StorageError> {
        self.health.look(StoreFile::State, &self.db)
    }

    /// Removes every row, on disk as well. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn clear(&mut self) -> Result<(), StorageError> {
        guard(StoreFile::State, || {
            let write = self.db.begin_write()?;
            for (kind, _) in keys::KINDS {
                write.delete_table(definition(*kind))?;
            }
            Ok(write.commit()?)
        })?;
        self.view.overlay = OrdMap::new();
        self.view.holes = Holes::default();
        self.reload()
    }

    /// Writes the overlay to disk in one transaction. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. The overlay then stays as it is.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        if self.view.overlay.is_empty() {
            return Ok(());
        }
        guard(StoreFile::State, || self.write_overlay())?;
        self.reload()?;
        self.view.overlay = OrdMap::new();
        self.view.holes = Holes::default();
        Ok(())
    }

    fn write_overlay(&self) -> Result<(), Failed> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        {
            let mut rows = self.view.overlay.iter().peekable();
            while let Some((first, _)) = rows.peek() {
                let kind = first[0];
                let mut table = write.open_table(definition(kind))?;
                while let Some((key, value)) = rows.next_if(|(key, _)| key[0] == kind) {
                    match value {
                        Some(value) => table.insert(&key[1..], &**value)?,
                        None => table.remove(&key[1..])?,
                    };
                }
            }
        }
        Ok(write.commit()?)
    }
}

/// Counts the work of this thread on rows, so that tests see how it grows.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::Cell;

    /// Rows read and written, and the bytes of those written.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Work {
        pub(crate) read: u64,
        pub(crate) written: u64,
        pub(crate) bytes: u64,
    }

    thread_local! {
        static WORK: Cell<Work> = const { Cell::new(Work { read: 0, written: 0, bytes: 0 }) };
    }

    fn change(change: impl FnOnce(&mut Work)) {
        WORK.with(|work| {
            let mut new = work.get();
            change(&mut new);
            work.set(new);
        });
    }

    pub(super) fn read() {
        change(|work| work.read += 1);
    }

    pub(super) fn written(bytes: usize) {
        change(|work| {
            work.written += 1;
            work.bytes += bytes as u64;
        });
    }

    /// The work that `run` does, with its result.
    pub(crate) fn of<T>(run: impl FnOnce() -> T) -> (Work, T) {
        let before = WORK.with(Cell::get);
        let result = run();
        let after = WORK.with(Cell::get);
        let work = Work {
            read: after.read - before.read,
            written: after.written - before.written,
            bytes: after.bytes - before.bytes,
        };
        (work, result)
    }
}

/// The smallest byte string above every one that starts with `prefix`; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;
    use std::collections::BTreeMap;

    impl RowsView {
        /// The removed rows that a scan passes before the first row.
        fn unremembered(&self, start: &[u8], end: &[u8], reverse: bool) -> usize {
            let mut removed: Vec<&Key> = self
                .overlay
                .range::<_, [u8]>((
                    std::ops::Bound::Included(start),
                    std::ops::Bound::Excluded(end),
                ))
                .map(|(key, _)| key)
                .collect();
            if reverse {
                removed.reverse();
            }
            let hidden = |key: &Key| {
                let hole = self.holes.next(key, reverse);
                hole.is_some_and(|(from, to)| from <= *key && *key < to)
            };
            removed.iter().filter(|key| !hidden(key)).count()
        }
    }

    /// Two kinds that are neighbours, so that the end of one is the beginning of the other.
    const KINDS: [u8; 2] = [b'L', b'M'];

    #[derive(Clone, Debug)]
    enum Step {
        Put(usize, u8, u8),
        Remove(usize, u8),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..2, 0u8..12, any::<u8>()).prop_map(|(kind, k, v)| Step::Put(kind, k, v)),
            3 => (0usize..2, 0u8..12).prop_map(|(kind, k)| Step::Remove(kind, k)),
            1 => Just(Step::Flush),
        ]
    }

    proptest! {
        #[test]
        fn overlay_and_disk_read_as_one_map(
            steps in proptest::collection::vec(step(), 0..60),
            kind in 0usize..2, start in 0u8..12, end in 0u8..13, reverse: bool,
        ) {
            let mut rows = Rows::in_memory().unwrap();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(kind, k, v) => {
                        rows.put([KINDS[kind], k], [v]);
                        model.insert((kind, k), v);
                    }
                    Step::Remove(kind, k) => {
                        rows.remove([KINDS[kind], k]);
                        model.remove(&(kind, k));
                    }
                    Step::Flush => rows.flush().unwrap(),
                }
            }
            let scanned = |from: &[u8], to: &[u8]| {
                let mut seen = Vec::new();
                rows.scan(from, to, reverse, |k, v| {
                    assert_eq!((k[0], k.len()), (KINDS[kind], 2));
                    seen.push((k[1], v[0]));
                    ControlFlow::Continue(())
                })
                .unwrap();
                seen
            };
            let expected = |from: u8, to: u8| {
                let mut rows: Vec<_> = (from..to)
                    .filter_map(|k| Some((k, *model.get(&(kind, k))?)))
                    .collect();
                if reverse {
                    rows.reverse();
                }
                rows
            };
            let key = |k| [KINDS[kind], k];
            prop_assert_eq!(scanned(&key(start), &key(end)), expected(start, end));
            prop_assert_eq!(scanned(&key(start), &[KINDS[kind] + 1]), expected(start, 12));
            prop_assert_eq!(scanned(&[KINDS[kind]], &[KINDS[kind] + 1]), expected(0, 12));
            for k in 0..12 {
                prop_assert_eq!(
                    rows.get(&key(k)).unwrap().map(|v| v[0]),
                    model.get(&(kind, k)).copied()
                );
            }
        }
    }

    /// A step that makes long runs of removed rows.
    #[derive(Clone, Debug)]
    enum Wide {
        Put(u8, u8),
        Remove(u8, u8),
        Flush,
        /// Keeps a view of what is there, and what it must read.
        View,
        Scan(u8, u8, bool),
    }

    fn wide() -> impl Strategy<Value = Wide> {
        prop_oneof![
            2 => (any::<u8>(), 0u8..3).prop_map(|(at, more)| Wide::Put(at, more)),
            3 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Wide::Remove(from, to)),
            1 => Just(Wide::Flush),
            1 => Just(Wide::View),
            4 => (any::<u8>(), any::<u8>(), any::<bool>())
                .prop_map(|(from, to, reverse)| Wide::Scan(from, to, reverse)),
        ]
    }

    proptest! {
        /// What one scan remembers changes no other scan: of later rows, of earlier views, in any direction.
        #[test]
        fn holes_hide_no_row(steps in proptest::collection::vec(wide(), 1..60)) {
            let mut rows = Rows::in_memory().unwrap();
            let mut model = BTreeMap::new();
            let mut views: Vec<(RowsView, BTreeMap<u8, u8>)> = Vec::new();
            for k in 0..=u8::MAX {
                rows.put([b'L', k], [0]);
                model.insert(k, 0);
            }
            rows.flush().unwrap();
            for step in steps {
                match step {
                    Wide::Put(at, more) => {
                        for k in at..=at.saturating_add(more) {
                            rows.put([b'L', k], [more]);
                            model.insert(k, more);
                        }
                    }
                    Wide::Remove(from, to) => {
                        for k in from..to {
                            rows.remove([b'L', k]);
                            model.remove(&k);
                        }
                    }
                    Wide::Flush => rows.flush().unwrap(),
                    Wide::View => views.push((rows.view(), model.clone())),
                    Wide::Scan(from, to, reverse) => {
                        let now = [(rows.view(), model.clone())];
                        for (view, model) in views.iter().chain(&now) {
                            let mut seen = Vec::new();
                            view.scan(&[b'L', from], &[b'L', to], reverse, |key, value| {
                                seen.push((key[1], value[0]));
                                ControlFlow::Continue(())
                            })
                            .unwrap();
                            let mut expected: Vec<_> = model
                                .iter()
                                .map(|(k, v)| (*k, *v))
                                .filter(|(k, _)| (from..to).contains(k))
                                .collect();
                            if reverse {
                                expected.reverse();
                            }
                            prop_assert_eq!(seen, expected);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_removed_row_is_passed_by_one_scan_and_no_other() {
        const COUNT: u16 = 2_000;
        let key = |n: u16| [&b"L"[..], &n.to_be_bytes()].concat();
        for reverse in [false, true] {
            let mut rows = Rows::in_memory().unwrap();
            for n in 0..COUNT {
                rows.put(key(n), [0]);
            }
            rows.flush().unwrap();
            for popped in 0..COUNT - 1 {
                let n = if reverse { COUNT - 1 - popped } else { popped };
                rows.remove(key(n));
                let next = rows.first(b"L", b"M", reverse).unwrap().unwrap().0;
                let beside = if reverse { n - 1 } else { n + 1 };
                assert_eq!(next, key(beside));
                let left = rows.unremembered(b"L", b"M", reverse);
                assert!(left <= 32, "{left} rows are passed again after {popped}");
            }
        }
    }

    #[test]
    fn rows_are_dropped_when_some_are_of_an_older_form() {
        let older: TableDefinition<'static, &'static [u8], u64> = TableDefinition::new("derived-0");
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .unwrap();
        let write = db.begin_write().unwrap();
        write
            .open_table(older)
            .unwrap()
            .insert(&[1][..], 1)
            .unwrap();
        write
            .open_table(definition(b'M'))
            .unwrap()
            .insert(&b"indexed"[..], &[9][..])
            .unwrap();
        write.commit().unwrap();
        let mut rows = Rows::open(db).unwrap();
        assert_eq!(rows.get(b"Mindexed").unwrap(), None);
        rows.put([b'L', 1], [1]);
        rows.flush().unwrap();
        let tables: Vec<_> = rows
            .db
            .begin_read()
            .unwrap()
            .list_tables()
            .unwrap()
            .collect();
        let names: Vec<_> = tables.iter().map(redb::TableHandle::name).collect();
        assert_eq!(names, ["live-1"]);
    }

    #[test]
    fn a_view_does_not_see_later_writes_or_flushes() {
        let mut rows = Rows::in_memory().unwrap();
        rows.put([b'L', 1], [1]);
        let view = rows.view();
        rows.put([b'L', 1], [2]);
        rows.flush().unwrap();
        rows.remove([b'L', 1]);
        rows.flush().unwrap();
        assert_eq!(view.get(&[b'L', 1]).unwrap().as_deref(), Some(&[1][..]));
        assert_eq!(rows.get(&[b'L', 1]).unwrap(), None);
    }

    #[test]
    fn prefix_ends_bound_exactly_the_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff, 0xff]), None);
    }
}

//! An ordered map of bytes: a redb table with a memory overlay in front of it.
//!
//! Everything that can be derived from the log lives in one such map. Writes go to the overlay,
//! which is a persistent tree: a reader clones it in constant time and keeps a consistent view
//! while the writer goes on. From time to time the overlay is written to disk in one durable
//! transaction together with a mark of how far it has come, so the rows on disk are always those
//! of one moment.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use imbl::OrdMap;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use crate::storage::health::{Health, Wake};

const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("derived-4");

/// This node's disk failed, or what is on it is damaged. Never an outcome: it pauses the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub String);

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for StorageError {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        })*
    };
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

type Key = Arc<[u8]>;
/// A key with its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);
type Value = Arc<[u8]>;

/// What is on disk, at one moment.
struct Table {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    health: Arc<Health>,
}

impl Table {
    /// Reads; the writer hears of it when that failed.
    fn read<T>(
        &self,
        read: impl FnOnce() -> Result<T, redb::StorageError>,
    ) -> Result<T, StorageError> {
        self.health.of(guarded(|| Ok(read()?)))
    }
}

/// Does something with the file. redb panics on some damage to it; to us that is an error of the disk, which must
/// reach nothing but its store. Nothing half done is seen afterwards: redb's locks are poisoned then, and everything
/// that follows is an error as well.
fn guarded<T>(work: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    catch_unwind(AssertUnwindSafe(work)).map_or_else(
        |_| {
            Err(StorageError(
                "state.redb is damaged: its pages contradict each other; remove it while no daemon runs, and it is made again from the log"
                    .into(),
            ))
        },
        |done| done.map_err(|error| StorageError(format!("state.redb: {error}"))),
    )
}

/// A consistent view of the map. Cheap to clone; stays as it is while the writer goes on.
#[derive(Clone)]
pub struct RowsView {
    disk: Option<Arc<Table>>,
    overlay: OrdMap<Key, Option<Value>>,
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
        if let Some(value) = self.overlay.get(key) {
            return Ok(value.clone());
        }
        match &self.disk {
            None => Ok(None),
            Some(table) => {
                let value = table.read(|| table.rows.get(key))?;
                Ok(value.map(|guard| Arc::from(guard.value())))
            }
        }
    }

    /// Visits the rows from `start` (inclusive) to `end` (exclusive) in ascending order, or in
    /// descending order with `reverse`, until `visit` breaks.
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
        if start >= end {
            return Ok(());
        }
        let bounds = (
            std::ops::Bound::Included(start),
            std::ops::Bound::Excluded(end),
        );
        let mut memory = self.overlay.range::<_, [u8]>(bounds);
        let mut disk = match &self.disk {
            None => None,
            Some(table) => {
                let range = table.read(|| table.rows.range::<&[u8]>(bounds))?;
                Some((table, range))
            }
        };
        let mut step_memory = || {
            if reverse {
                memory.next_back()
            } else {
                memory.next()
            }
        };
        let mut step_disk = || -> Result<_, StorageError> {
            let Some((table, disk)) = &mut disk else {
                return Ok(None);
            };
            table.read(|| {
                let next = if reverse {
                    disk.next_back()
                } else {
                    disk.next()
                };
                next.transpose()
            })
        };
        let mut from_memory = step_memory();
        let mut from_disk = step_disk()?;
        loop {
            let order = match (&from_memory, &from_disk) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((key, _)), Some((other, _))) => {
                    let order = (***key).cmp(other.value());
                    if reverse { order.reverse() } else { order }
                }
            };
            let flow = if order == std::cmp::Ordering::Greater {
                let (key, value) = from_disk.take().expect("compared just above");
                let flow = visit(key.value(), value.value());
                from_disk = step_disk()?;
                flow
            } else {
                let (key, value) = from_memory.take().expect("compared just above");
                if order == std::cmp::Ordering::Equal {
                    from_disk = step_disk()?;
                }
                from_memory = step_memory();
                match value {
                    Some(value) => visit(key, value),
                    None => ControlFlow::Continue(()),
                }
            };
            if flow.is_break() {
                return Ok(());
            }
        }
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

/// A database that is closed without a panic, whatever redb finds in it then.
struct Held(Option<Database>);

impl std::ops::Deref for Held {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let db = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("state.redb is damaged: it could not be closed");
        }
    }
}

/// The map with its only writer.
pub struct Rows {
    db: Held,
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
    /// Takes over a database, new or existing.
    ///
    /// # Errors
    /// When the disk fails or the file is damaged.
    pub fn open(db: Database) -> Result<Self, StorageError> {
        let mut rows = Self {
            db: Held(Some(db)),
            view: RowsView {
                disk: None,
                overlay: OrdMap::new(),
            },
            health: Arc::default(),
        };
        rows.reload()?;
        if rows.view.disk.is_none() {
            guarded(|| rows.drop_older_forms())?;
        }
        Ok(rows)
    }

    /// Lets go of rows in a form that is not used any more: the log is folded anew into [`ROWS`].
    fn drop_older_forms(&self) -> Result<(), StorageError> {
        let older: Vec<_> = self.db.begin_read()?.list_tables()?.collect();
        if older.is_empty() {
            return Ok(());
        }
        let write = self.db.begin_write()?;
        for table in older {
            write.delete_table(table)?;
        }
        Ok(write.commit()?)
    }

    fn reload(&mut self) -> Result<(), StorageError> {
        let rows = guarded(|| match self.db.begin_read()?.open_table(ROWS) {
            Ok(rows) => Ok(Some(rows)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        self.view.disk = rows.map(|rows| {
            Arc::new(Table {
                rows,
                health: self.health.clone(),
            })
        });
        Ok(())
    }

    /// A consistent view that later writes do not change.
    pub fn view(&self) -> RowsView {
        self.view.clone()
    }

    /// Puts back a view taken earlier: everything written since is undone.
    ///
    /// The view must have been taken after the last [`Rows::flush`].
    pub fn restore(&mut self, view: RowsView) {
        self.view = view;
    }

    /// Sets a row.
    pub fn put(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        self.view.overlay.insert(key.into(), Some(value.into()));
    }

    /// Removes a row, if it exists.
    pub fn remove(&mut self, key: impl Into<Key>) {
        let key = key.into();
        if self.view.disk.is_none() {
            self.view.overlay.remove(&key);
        } else {
            self.view.overlay.insert(key, None);
        }
    }

    /// Rows in memory that are not yet on disk.
    pub fn pending_rows(&self) -> usize {
        self.view.overlay.len()
    }

    /// What is to happen when a read of any view fails.
    pub(crate) fn on_failed_read(&self, wake: Wake) {
        self.health.set_wake(wake);
    }

    /// Looks, if a read has failed, whether the database still takes transactions.
    pub(crate) fn examine(&self) -> Result<(), StorageError> {
        self.health.look(&self.db)
    }

    /// Removes every row, on disk as well. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn clear(&mut self) -> Result<(), StorageError> {
        guarded(|| {
            let write = self.db.begin_write()?;
            write.delete_table(ROWS)?;
            Ok(write.commit()?)
        })?;
        self.view.overlay = OrdMap::new();
        self.reload()
    }

    /// Writes the overlay to disk in one transaction. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails; the overlay stays as it is.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        if self.view.overlay.is_empty() {
            return Ok(());
        }
        guarded(|| self.write_overlay())?;
        self.reload()?;
        self.view.overlay = OrdMap::new();
        Ok(())
    }

    fn write_overlay(&self) -> Result<(), StorageError> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        {
            let mut table = write.open_table(ROWS)?;
            for (key, value) in &self.view.overlay {
                match value {
                    Some(value) => table.insert(&**key, &**value)?,
                    None => table.remove(&**key)?,
                };
            }
        }
        Ok(write.commit()?)
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

    fn empty() -> Rows {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .unwrap();
        Rows::open(db).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Remove(u8),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..12, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
            3 => (0u8..12).prop_map(Step::Remove),
            1 => Just(Step::Flush),
        ]
    }

    proptest! {
        #[test]
        fn overlay_and_disk_read_as_one_map(
            steps in proptest::collection::vec(step(), 0..60),
            start in 0u8..12, end in 0u8..13, reverse: bool,
        ) {
            let mut rows = empty();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(k, v) => {
                        rows.put([k], [v]);
                        model.insert(k, v);
                    }
                    Step::Remove(k) => {
                        rows.remove([k]);
                        model.remove(&k);
                    }
                    Step::Flush => rows.flush().unwrap(),
                }
            }
            let mut seen = Vec::new();
            rows.scan(&[start], &[end], reverse, |k, v| {
                seen.push((k[0], v[0]));
                ControlFlow::Continue(())
            })
            .unwrap();
            let mut expected: Vec<_> = if start < end {
                model.range(start..end).map(|(k, v)| (*k, *v)).collect()
            } else {
                Vec::new()
            };
            if reverse {
                expected.reverse();
            }
            prop_assert_eq!(seen, expected);
            for k in 0..12 {
                prop_assert_eq!(
                    rows.get(&[k]).unwrap().map(|v| v[0]),
                    model.get(&k).copied()
                );
            }
        }
    }

    #[test]
    fn rows_of_an_older_form_are_dropped() {
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
        write.commit().unwrap();
        let mut rows = Rows::open(db).unwrap();
        rows.put([1], [1]);
        rows.flush().unwrap();
        let tables: Vec<_> = rows
            .db
            .begin_read()
            .unwrap()
            .list_tables()
            .unwrap()
            .collect();
        let names: Vec<_> = tables.iter().map(redb::TableHandle::name).collect();
        assert_eq!(names, [redb::TableHandle::name(&ROWS)]);
    }

    #[test]
    fn a_view_does_not_see_later_writes_or_flushes() {
        let mut rows = empty();
        rows.put([1], [1]);
        let view = rows.view();
        rows.put([1], [2]);
        rows.flush().unwrap();
        rows.remove([1]);
        rows.flush().unwrap();
        assert_eq!(view.get(&[1]).unwrap().as_deref(), Some(&[1][..]));
        assert_eq!(rows.get(&[1]).unwrap(), None);
    }

    #[test]
    fn prefix_ends_bound_exactly_the_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff, 0xff]), None);
    }
}

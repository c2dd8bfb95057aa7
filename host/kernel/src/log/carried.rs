//! What a new segment takes over from the one before it.

use redb::{Database, ReadTransaction, ReadableTable, WriteTransaction};

use super::{ENTRIES, FIRST, GENESIS, NOTICED, NOTICES, Table, WITNESS, begin_write, genesis_row};
use crate::log::segments::Segment;
use crate::storage::db::Failed;

/// The rows that a new segment takes over from the one before it, with their seals.
#[derive(Default)]
pub(super) struct Carried {
    genesis: Option<Vec<u8>>,
    notices: Vec<(u64, Vec<u8>)>,
    witness: Option<(u64, Vec<u8>)>,
}

impl Carried {
    pub(super) fn read(segment: Segment, transaction: &ReadTransaction) -> Result<Self, Failed> {
        let mut notices = Vec::new();
        for row in transaction.open_table(NOTICES)?.iter()? {
            let (number, row) = row?;
            notices.push((number.value(), row.value().to_vec()));
        }
        let witness = transaction.open_table(WITNESS)?;
        let witness = witness.last()?;
        Ok(Self {
            genesis: genesis_row(segment, transaction)?,
            notices,
            witness: witness.map(|(local, row)| (local.value(), row.value().to_vec())),
        })
    }

    /// Writes the rows into a new segment and creates its other tables. Durable when this returns. Returns how many
    /// bytes of rows it wrote.
    pub(super) fn write(&self, db: &Database) -> Result<u64, Failed> {
        let write = begin_write(db)?;
        write.open_table(ENTRIES)?;
        write.open_table(NOTICED)?;
        let genesis = self.genesis.iter().map(|row| (FIRST.0, row));
        let notices = self.notices.iter().map(|(number, row)| (*number, row));
        let witness = self.witness.iter().map(|(local, row)| (*local, row));
        let mut written = 0;
        written += copy(&write, GENESIS, genesis)?;
        written += copy(&write, NOTICES, notices)?;
        written += copy(&write, WITNESS, witness)?;
        write.commit()?;
        Ok(written)
    }
}

fn copy<'a>(
    write: &WriteTransaction,
    table: Table<u64>,
    rows: impl Iterator<Item = (u64, &'a Vec<u8>)>,
) -> Result<u64, Failed> {
    let mut table = write.open_table(table)?;
    let mut written = 0;
    for (key, row) in rows {
        table.insert(key, row.as_slice())?;
        written += row.len() as u64;
    }
    Ok(written)
}

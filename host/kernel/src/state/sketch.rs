//! A sketch of the set of entries that count. Out of two sketches comes how the sets differ, at a cost that follows the
//! difference and not the sets.
//!
//! A sketch is a list of cells. Each entry lies in the first cell and in few others, which its id decides, and a cell
//! has the sum of what lies in it. The sketch of one set less that of another has the difference alone. A cell with a
//! single id names it, and without this id other cells may have a single one. The first cells of a sketch are a sketch
//! by themselves, so that a small difference takes few of them: about 1.5 cells an entry that differs.
//!
//! Source: Yang, Gilad, Alizadeh, "Practical Rateless Set Reconciliation", SIGCOMM 2024.
//!
//! Whoever makes entries can choose among ids. So two sketches may come out with no difference that can be read, never
//! with a wrong one that is taken for an entry: ids that came out are looked up.
//!
//! ```text
//! 'F' 0 group (2) → 32 cells: sum of the ids (32, exclusive or), sum of the checks (8, exclusive or), count (8)
//! ```

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lattice_format::IntentionId;

use crate::limits::SKETCH_CELLS_MAX;
use crate::storage::error::StorageError;
use crate::storage::rows::{Rows, RowsView};

/// Cells of one row. An entry lies in many of the first cells and in few others, so most changes write few rows.
const GROUP_CELLS: usize = 32;
/// Bytes of a cell, in a row and in a message.
pub(crate) const CELL_BYTES: usize = 48;

/// One cell: what the entries in it add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// The exclusive or of the ids.
    pub(crate) ids: [u8; 32],
    /// The exclusive or of the checks of the ids.
    pub(crate) checks: u64,
    /// How many entries there are, in wrapping numbers: in a difference those of the other side count as less.
    pub(crate) count: u64,
}

impl Cell {
    fn toggle(&mut self, id: &IntentionId, check: u64) {
        for (sum, byte) in self.ids.iter_mut().zip(id.0) {
            *sum ^= byte;
        }
        self.checks ^= check;
    }

    fn change(&mut self, entry: &Entry, counts: bool) {
        self.toggle(&entry.id, entry.check);
        self.count = match counts {
            true => self.count.wrapping_add(1),
            false => self.count.wrapping_sub(1),
        };
    }

    fn less(&self, other: &Self) -> Self {
        let mut rest = *self;
        rest.toggle(&IntentionId(other.ids), other.checks);
        rest.count = self.count.wrapping_sub(other.count);
        rest
    }

    /// The id that the cell has and no other, with whether it is of the left set.
    fn single(&self) -> Option<(Entry, bool)> {
        let left = match self.count {
            1 => true,
            u64::MAX => false,
            _ => return None,
        };
        let entry = Entry::new(IntentionId(self.ids));
        (entry.check == self.checks).then_some((entry, left))
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ids);
        out.extend_from_slice(&self.checks.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
    }

    fn take(bytes: &[u8; CELL_BYTES]) -> Self {
        let (ids, rest) = bytes.split_first_chunk().expect("48 bytes have 32");
        let (checks, count) = rest.split_first_chunk().expect("16 bytes have 8");
        Self {
            ids: *ids,
            checks: u64::from_be_bytes(*checks),
            count: u64::from_be_bytes(count.try_into().expect("8 bytes are left")),
        }
    }
}

/// An id with what its hash decides: its check, and the cells that it lies in.
struct Entry {
    id: IntentionId,
    check: u64,
    seed: u64,
}

impl Entry {
    fn new(id: IntentionId) -> Self {
        // The key of the context is derived once: an entry is hashed at each change.
        static KEYED: LazyLock<blake3::Hasher> =
            LazyLock::new(|| blake3::Hasher::new_derive_key("lattice 2026-11 sketch 1"));
        let hash = KEYED.clone().update(&id.0).finalize();
        let (check, rest) = hash
            .as_bytes()
            .split_first_chunk()
            .expect("32 bytes have 8");
        let seed = rest.first_chunk().expect("24 bytes have 8");
        Self {
            id,
            check: u64::from_be_bytes(*check),
            seed: u64::from_be_bytes(*seed),
        }
    }

    /// The cells below `end` that the entry lies in, ascending.
    fn places(&self, end: usize) -> impl Iterator<Item = usize> + use<> {
        let mut seed = self.seed;
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let at = next.filter(|at| *at < end)?;
            next = at.checked_add(gap(at, random(&mut seed)));
            Some(at)
        })
    }
}

/// The next number of a sequence that a seed decides (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How far behind cell `at` an entry's next one lies, at least 1: entries lie in cell `i` with a chance of
/// 1 / (1 + i / 2). Each operation is one whose result IEEE 754 fixes, so all machines agree.
fn gap(at: usize, random: u64) -> usize {
    let chance = ((random >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    let gap = (at as f64 + 1.5) * (1.0 / chance.sqrt() - 1.0);
    // A large number saturates, and is beyond every cell.
    (gap.ceil() as usize).max(1)
}

/// How two sets differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The ids that the left set alone has, ascending.
    pub(crate) left: Vec<IntentionId>,
    /// The ids that the right set alone has, ascending.
    pub(crate) right: Vec<IntentionId>,
}

/// Reads a difference out of the same number of first cells of two sketches; `None` when they are too few for it.
pub(crate) fn difference(left: &[Cell], right: &[Cell]) -> Option<Difference> {
    let mut cells: Vec<Cell> = left.iter().zip(right).map(|(l, r)| l.less(r)).collect();
    let mut found = Difference::default();
    let mut todo: Vec<usize> = (0..cells.len()).collect();
    while let Some(at) = todo.pop() {
        let Some((entry, is_left)) = cells[at].single() else {
            continue;
        };
        // Each id that is read leaves its cell empty. More ids than cells come out of forged sums alone.
        if found.left.len() + found.right.len() == cells.len() {
            return None;
        }
        for place in entry.places(cells.len()) {
            cells[place].change(&entry, !is_left);
            todo.push(place);
        }
        match is_left {
            true => found.left.push(entry.id),
            false => found.right.push(entry.id),
        }
    }
    found.left.sort_unstable();
    found.right.sort_unstable();
    cells
        .iter()
        .all(|cell| *cell == Cell::default())
        .then_some(found)
}

/// Cells as bytes: ids (32), checks (8), count (8) of each.
pub(crate) fn encode(cells: &[Cell]) -> Vec<u8> {
    let mut out = Vec::with_capacity(cells.len() * CELL_BYTES);
    cells.iter().for_each(|cell| cell.put(&mut out));
    out
}

/// Reads what [`encode`] wrote; `None` when it is no number of cells.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Cell>> {
    let (cells, rest) = bytes.as_chunks();
    rest.is_empty()
        .then(|| cells.iter().map(Cell::take).collect())
}

// --- rows -------------------------------------------------------------------------------------------

fn key(group: usize) -> [u8; 4] {
    let [high, low] = (group as u16).to_be_bytes();
    [b'F', 0, high, low]
}

fn group(rows: &RowsView, group: usize) -> Result<Vec<Cell>, StorageError> {
    let key = key(group);
    let Some(row) = rows.get(&key)? else {
        return Ok(vec![Cell::default(); GROUP_CELLS]);
    };
    decode(&row)
        .filter(|cells| cells.len() == GROUP_CELLS)
        .ok_or_else(|| StorageError::row(&key))
}

/// Changes the sketch by entries that came to count, or that count no longer.
pub(crate) fn change(
    rows: &mut Rows,
    entries: impl Iterator<Item = (IntentionId, bool)>,
) -> Result<(), StorageError> {
    let mut changed: BTreeMap<usize, Vec<Cell>> = BTreeMap::new();
    for (id, counts) in entries {
        let entry = Entry::new(id);
        for place in entry.places(SKETCH_CELLS_MAX) {
            let cells = match changed.entry(place / GROUP_CELLS) {
                std::collections::btree_map::Entry::Occupied(cells) => cells.into_mut(),
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(group(rows, place / GROUP_CELLS)?)
                }
            };
            cells[place % GROUP_CELLS].change(&entry, counts);
        }
    }
    for (group, cells) in changed {
        rows.put(key(group).to_vec(), encode(&cells));
    }
    Ok(())
}

/// The first `count` cells, at most [`SKETCH_CELLS_MAX`].
pub(crate) fn cells(rows: &RowsView, count: usize) -> Result<Vec<Cell>, StorageError> {
    let count = count.min(SKETCH_CELLS_MAX);
    let mut cells = Vec::with_capacity(count.next_multiple_of(GROUP_CELLS));
    for at in 0..count.div_ceil(GROUP_CELLS) {
        cells.extend(group(rows, at)?);
    }
    cells.truncate(count);
    Ok(cells)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(number: u64) -> IntentionId {
        IntentionId(*blake3::hash(&number.to_be_bytes()).as_bytes())
    }

    fn sketch(numbers: impl Iterator<Item = u64>) -> Rows {
        let mut rows = Rows::in_memory().unwrap();
        change(&mut rows, numbers.map(|n| (id(n), true))).unwrap();
        rows
    }

    fn all(rows: &Rows, count: usize) -> Vec<Cell> {
        cells(rows, count).unwrap()
    }

    proptest! {
        /// What comes out is the difference, or that it is too large for the cells.
        #[test]
        fn a_difference_that_comes_out_is_the_difference(
            left in proptest::collection::btree_set(0u64..400, 0..200),
            right in proptest::collection::btree_set(0u64..400, 0..200),
            count in 1usize..600,
        ) {
            let both = (sketch(left.iter().copied()), sketch(right.iter().copied()));
            let found = difference(&all(&both.0, count), &all(&both.1, count));
            let ids = |numbers: BTreeSet<&u64>| {
                let ids: BTreeSet<_> = numbers.into_iter().map(|n| id(*n)).collect();
                ids.into_iter().collect::<Vec<_>>()
            };
            let expected = Difference {
                left: ids(left.difference(&right).collect()),
                right: ids(right.difference(&left).collect()),
            };
            if let Some(found) = &found {
                prop_assert_eq!(found, &expected);
            }
            let differ = expected.left.len() + expected.right.len();
            prop_assert!(found.is_some() || differ * 3 > count);
        }

        /// Entries that leave take away what they brought, whatever came in between.
        #[test]
        fn what_leaves_takes_along_what_it_brought(
            stay in proptest::collection::btree_set(0u64..100, 0..40),
            leave in proptest::collection::btree_set(100u64..200, 0..40),
        ) {
            let mut rows = sketch(stay.union(&leave).copied());
            change(&mut rows, leave.iter().map(|n| (id(*n), false))).unwrap();
            rows.flush().unwrap();
            let all_cells = all(&rows, SKETCH_CELLS_MAX);
            prop_assert_eq!(all_cells, all(&sketch(stay.into_iter()), SKETCH_CELLS_MAX));
        }

        /// Forged cells come out as some difference or none, in bounded work.
        #[test]
        fn forged_cells_end(cells in proptest::collection::vec((any::<[u8; 32]>(), any::<u64>(), any::<u64>()), 0..64)) {
            let forged: Vec<_> = cells
                .into_iter()
                .map(|(ids, checks, count)| Cell { ids, checks, count: count % 3 })
                .collect();
            let own = all(&sketch(0..50), forged.len());
            let found = difference(&own, &forged);
            prop_assert!(found.is_none_or(|found| found.left.len() + found.right.len() <= own.len()));
        }
    }

    /// Holds: invariant 10.
    #[test]
    fn a_full_sketch_tells_hundreds_of_entries_among_many_apart() {
        let many = sketch(0..20_000);
        // Half of what differs is on either side.
        let other = |differ: u64| sketch((differ / 2..20_000).chain(20_000..20_000 + differ / 2));
        let found = |differ: u64, count: usize| {
            let found = difference(&all(&many, count), &all(&other(differ), count))?;
            Some(found.left.len() + found.right.len())
        };
        let full = SKETCH_CELLS_MAX;
        assert_eq!(found(600, full), Some(600));
        assert_eq!(found(100, 200), Some(100));
        assert_eq!(found(0, 1), Some(0));
        assert_eq!(found(2 * full as u64, full), None);
        // There are no further cells.
        assert_eq!(all(&many, full + 1).len(), full);
    }

    /// Holds: invariant 15.
    #[test]
    fn the_cells_of_an_entry_never_change() {
        let entry = Entry::new(IntentionId([7; 32]));
        let places: Vec<_> = entry.places(100_000).collect();
        let golden = [
            0, 1, 3, 4, 11, 13, 30, 60, 140, 725, 749, 6959, 10670, 13805, 58428, 78824,
        ];
        assert_eq!(places, golden);
        assert_eq!(entry.check, 13_161_951_199_247_547_452);
    }
}

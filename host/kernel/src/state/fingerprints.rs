//! Fingerprints of ranges of the canonical order, summed up in blocks: what the entries that count in any range add up
//! to is known without a look at all of them.
//!
//! Blocks of the first level sum entries, and blocks of each further level sum blocks of the one below, up to a level
//! with a single block. A block is known by its first slot and reaches to the next block of its level. The first block
//! of each level begins below every entry, so the blocks of a level cover the whole order. A fingerprint is an LtHash,
//! so a member cannot make entries whose sums cancel out.
//!
//! The rows of level 0 are those of the sketch of the same entries (`sketch.rs`).
//!
//! What changed is collected until a view is published or the rows are written, because the entries of one batch
//! mostly fall into the same blocks.
//!
//! ```text
//! 'F' level (1, from 1) slot (28) → what the block sums (varint), how many entries in it count (varint), their LtHash (2048)
//! ```

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use lattice_format::{IntentionId, Position};

use crate::graph::dag;
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::graph::void;
use crate::limits::{FINGERPRINT_BLOCK_BLOCKS, FINGERPRINT_BLOCK_ENTRIES, FINGERPRINT_CHANGES_MAX};
use crate::state::lthash::{Element, LtHash};
use crate::state::sketch;
use crate::storage::error::StorageError;
use crate::storage::keys::{put_varint, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// What one entry adds to a fingerprint.
fn element(id: &IntentionId) -> Element {
    Element::new(&[b"sync id", &id.0])
}

/// How many entries count in a range, and the sum of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) hash: LtHash,
}

impl Sum {
    fn add(&mut self, id: &IntentionId) {
        self.count = self.count.wrapping_add(1);
        self.hash.add(&element(id));
    }

    fn remove(&mut self, id: &IntentionId) {
        self.count = self.count.wrapping_sub(1);
        self.hash.remove(&element(id));
    }

    /// Adds what another sum has.
    pub(crate) fn add_all(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.hash.add_all(&other.hash);
    }

    fn remove_all(&mut self, other: &Self) {
        self.count = self.count.wrapping_sub(other.count);
        self.hash.remove_all(&other.hash);
    }

    /// The sum of what this one has and `before` has not, which is part of it.
    pub(crate) fn less(&self, before: &Self) -> Self {
        let mut rest = self.clone();
        rest.remove_all(before);
        rest
    }
}

/// A block with the slot where it begins.
#[derive(Clone, Debug)]
struct Block {
    from: Slot,
    /// How many entries or blocks of the level below it sums, those included that do not count.
    parts: u64,
    sum: Sum,
}

fn block_key(level: u8, from: Slot) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + Slot::LEN);
    key.extend_from_slice(&[b'F', level]);
    key.extend_from_slice(from.as_bytes());
    key
}

fn level_end(level: u8) -> Vec<u8> {
    vec![b'F', level + 1]
}

impl Block {
    fn store(&self, rows: &mut Rows, level: u8) {
        let mut out = Vec::with_capacity(6 + LtHash::BYTES);
        put_varint(self.parts, &mut out);
        put_varint(self.sum.count, &mut out);
        out.extend_from_slice(&self.sum.hash.to_bytes());
        rows.put(block_key(level, self.from), out);
    }

    fn of(key: &[u8], row: &[u8]) -> Result<Self, StorageError> {
        let decode = || {
            let mut rest = row;
            Some(Self {
                from: Slot::from_slice(key.get(2..)?)?,
                parts: take_varint(&mut rest)?,
                sum: Sum {
                    count: take_varint(&mut rest)?,
                    hash: LtHash::from_slice(rest)?,
                },
            })
        };
        decode().ok_or_else(|| StorageError::row(key))
    }
}

/// The level with a single block; 0 while there is none.
fn top(rows: &RowsView) -> Result<u8, StorageError> {
    Ok(rows.first(b"F", b"G", true)?.map_or(0, |(key, _)| key[1]))
}

/// The block of `level` that holds `slot`, and the slot where the next one begins.
fn block_at(rows: &RowsView, level: u8, slot: Slot) -> Result<(Block, Option<Slot>), StorageError> {
    let above = match slot {
        Slot::MAX => level_end(level),
        slot => block_key(level, slot.just_above()),
    };
    let (key, row) = rows
        .first(&[b'F', level], &above, true)?
        .ok_or_else(|| StorageError::row(&[b'F', level]))?;
    let next = rows.first(&above, &level_end(level), false)?;
    let next = next.and_then(|(key, _)| Slot::from_slice(key.get(2..)?));
    Ok((Block::of(&key, &row)?, next))
}

/// The blocks of `level` from slot `from` up to `end`.
fn blocks(
    rows: &RowsView,
    level: u8,
    from: Slot,
    end: Option<Slot>,
    mut visit: impl FnMut(Block) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let until = end.map_or_else(|| level_end(level), |end| block_key(level, end));
    let mut damage = None;
    rows.scan(
        &block_key(level, from),
        &until,
        false,
        |key, row| match Block::of(key, row) {
            Ok(block) => visit(block),
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    damage.map_or(Ok(()), Err)
}

/// The positions of the entries from slot `from` up to `end`, each with whether it counts.
fn entries(
    rows: &RowsView,
    from: Slot,
    end: Option<Slot>,
) -> Result<Vec<(Position, bool)>, StorageError> {
    let until = end.map_or_else(|| vec![b'T' + 1], order::key);
    let mut locals = Vec::new();
    let mut damage = None;
    rows.scan(&order::key(from), &until, false, |key, row| {
        match order::split(row) {
            Some((local, _)) => locals.push(local),
            None => damage = Some(StorageError::row(key)),
        }
        ControlFlow::Continue(())
    })?;
    if let Some(damage) = damage {
        return Err(damage);
    }
    let any_void = void::any_is_void(rows)?;
    let entry = |local| {
        let position = dag::position_of(rows, local)?;
        let void = any_void && void::is_void(rows, &position.id)?;
        Ok((position, !void))
    };
    locals.into_iter().map(entry).collect()
}

// --- writing ---------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Change {
    Came,
    BecameVoid,
    BecameLive,
}

/// What happened to one entry.
type EntryChange = (Slot, IntentionId, Change);

/// The entry of a change, and whether it counts from now on.
fn counts((_, id, change): &EntryChange) -> (IntentionId, bool) {
    (*id, !matches!(change, Change::BecameVoid))
}

/// What changed since the blocks were brought up to date.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    changes: Vec<EntryChange>,
}

impl Fingerprints {
    /// Notes an entry that was just inserted, which counts until it is found void.
    pub(crate) fn came(&mut self, position: Position) {
        self.changes
            .push((Slot::of(position), position.id, Change::Came));
    }

    /// Notes that an entry became void, or counts again.
    pub(crate) fn judged(&mut self, position: Position, void: bool) {
        let change = match void {
            true => Change::BecameVoid,
            false => Change::BecameLive,
        };
        self.changes.push((Slot::of(position), position.id, change));
    }

    /// Forgets what changed, because it was undone.
    pub(crate) fn forget(&mut self) {
        self.changes.clear();
    }

    /// Whether so much has changed that the blocks should follow before more does.
    pub(crate) fn is_full(&self) -> bool {
        self.changes.len() >= FINGERPRINT_CHANGES_MAX
    }

    /// Brings the blocks up to date with the entries and what is cut off.
    ///
    /// # Errors
    /// When the rows cannot be read. The blocks are then as they were, and what changed is still to be done.
    pub(crate) fn follow(&mut self, rows: &mut Rows) -> Result<(), StorageError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        // The sort is stable: what happened to one entry stays in its order.
        self.changes.sort_by_key(|(slot, ..)| *slot);
        let before = rows.view();
        apply(rows, &self.changes)
            .and_then(|()| sketch::change(rows, self.changes.iter().map(counts)))
            .inspect_err(|_| rows.restore(before))?;
        self.changes.clear();
        Ok(())
    }
}

fn apply(rows: &mut Rows, mut changes: &[EntryChange]) -> Result<(), StorageError> {
    let (mut level, mut last) = (1, top(rows)?);
    if last == 0 {
        last = 1;
        Block {
            from: Slot::MIN,
            parts: 0,
            sum: Sum::default(),
        }
        .store(rows, 1);
    }
    let mut changed = BTreeMap::new();
    while let Some((slot, ..)) = changes.first() {
        let (block, next) = block_at(rows, 1, *slot)?;
        let len = next.map_or(changes.len(), |next| {
            changes.partition_point(|(slot, ..)| *slot < next)
        });
        let (own, rest) = changes.split_at(len);
        changes = rest;
        let from = block.from;
        changed.insert(from, change_entries(rows, block, next, own)?);
    }
    while level < last {
        level += 1;
        changed = change_blocks(rows, level, changed)?;
    }
    // The single block of the last level was split, so there is a further level.
    while let Some((_, delta)) = changed.pop_first()
        && delta.new_blocks > 0
    {
        let mut whole = Block {
            from: Slot::MIN,
            parts: 0,
            sum: Sum::default(),
        };
        blocks(rows, level, Slot::MIN, None, |block| {
            whole.parts += 1;
            whole.sum.add_all(&block.sum);
            ControlFlow::Continue(())
        })?;
        level += 1;
        let split = split_blocks(rows, level, &whole, None)?;
        changed.insert(
            Slot::MIN,
            Delta {
                new_blocks: split,
                more: Sum::default(),
            },
        );
    }
    Ok(())
}

/// What a block hands on to the block above.
struct Delta {
    /// How many blocks it was split into, less one.
    new_blocks: u64,
    /// What is to be added to the sum, in wrapping numbers.
    more: Sum,
}

/// Applies changes of entries to a block of the first level.
fn change_entries(
    rows: &mut Rows,
    mut block: Block,
    next: Option<Slot>,
    changes: &[EntryChange],
) -> Result<Delta, StorageError> {
    let came = |change: &&EntryChange| matches!(change.2, Change::Came);
    let parts = block.parts + changes.iter().filter(came).count() as u64;
    let before = block.sum.clone();
    if parts <= FINGERPRINT_BLOCK_ENTRIES {
        for (_, id, change) in changes {
            match change {
                Change::Came | Change::BecameLive => block.sum.add(id),
                Change::BecameVoid => block.sum.remove(id),
            }
        }
        block.parts = parts;
        block.store(rows, 1);
        return Ok(Delta {
            new_blocks: 0,
            more: block.sum.less(&before),
        });
    }
    // The rows know what there is now, so the new blocks are summed from them, each entry once.
    let entries = entries(rows, block.from, next)?;
    let mut more = Sum::default();
    let mut new_blocks = 0;
    for (at, part) in
        chunks(&entries, FINGERPRINT_BLOCK_ENTRIES as usize, next.is_none()).enumerate()
    {
        let mut piece = Block {
            from: match at {
                0 => block.from,
                _ => Slot::of(part[0].0),
            },
            parts: part.len() as u64,
            sum: Sum::default(),
        };
        for (position, counts) in part {
            if *counts {
                piece.sum.add(&position.id);
            }
        }
        piece.store(rows, 1);
        more.add_all(&piece.sum);
        new_blocks = at as u64;
    }
    more.remove_all(&before);
    Ok(Delta { new_blocks, more })
}

/// Parts of at most `max`. At the end of the order, where most entries come, the parts are full; elsewhere they have
/// room, so that the next entry does not split them again.
fn chunks<T>(all: &[T], max: usize, at_end: bool) -> std::slice::Chunks<'_, T> {
    let size = match at_end {
        true => max,
        false => all.len().div_ceil(all.len().div_ceil(max / 2)),
    };
    all.chunks(size)
}

/// Applies what changed in blocks of the level below to the blocks of `level`.
fn change_blocks(
    rows: &mut Rows,
    level: u8,
    below: BTreeMap<Slot, Delta>,
) -> Result<BTreeMap<Slot, Delta>, StorageError> {
    let mut changed = BTreeMap::new();
    let mut below = below.into_iter().peekable();
    while let Some((slot, _)) = below.peek() {
        let (mut block, next) = block_at(rows, level, *slot)?;
        let mut more = Sum::default();
        while let Some((_, delta)) = below.next_if(|(slot, _)| next.is_none_or(|next| *slot < next))
        {
            block.parts += delta.new_blocks;
            more.add_all(&delta.more);
        }
        block.sum.add_all(&more);
        let new_blocks = split_blocks(rows, level, &block, next)?;
        changed.insert(block.from, Delta { new_blocks, more });
    }
    Ok(changed)
}

/// Stores a block of `level`, in pieces if it has too many parts. Returns how many pieces more than one.
fn split_blocks(
    rows: &mut Rows,
    level: u8,
    block: &Block,
    next: Option<Slot>,
) -> Result<u64, StorageError> {
    if block.parts <= FINGERPRINT_BLOCK_BLOCKS {
        block.store(rows, level);
        return Ok(0);
    }
    let mut parts = Vec::new();
    blocks(rows, level - 1, block.from, next, |part| {
        parts.push(part);
        ControlFlow::Continue(())
    })?;
    let mut pieces = 0;
    for part in chunks(&parts, FINGERPRINT_BLOCK_BLOCKS as usize, next.is_none()) {
        let mut piece = Block {
            from: part[0].from,
            parts: part.len() as u64,
            sum: Sum::default(),
        };
        for part in part {
            piece.sum.add_all(&part.sum);
        }
        piece.store(rows, level);
        pieces += 1;
    }
    Ok(pieces - 1)
}

// --- reading ---------------------------------------------------------------------------------------

/// All entries that count.
pub(crate) fn all(rows: &RowsView) -> Result<Sum, StorageError> {
    let top = rows.first(b"F", b"G", true)?;
    top.map_or_else(
        || Ok(Sum::default()),
        |(key, row)| Ok(Block::of(&key, &row)?.sum),
    )
}

/// Where a walk down the blocks goes.
trait Way {
    /// Whether all of a block that ends at `end` lies before the place that is searched, when `before` sums what lies
    /// before the block.
    fn passes(&self, before: &Sum, block: &Block, end: Option<Slot>) -> bool;

    /// Whether an entry lies beyond the place, when `before` sums what lies before the entry.
    fn ends_at(&self, before: &Sum, entry: &Position) -> bool;
}

struct UpTo(Position);

impl Way for UpTo {
    fn passes(&self, _: &Sum, _: &Block, end: Option<Slot>) -> bool {
        // The slot of the position may be that of an entry at or above it, so its block is looked into.
        end.is_some_and(|end| end <= Slot::of(self.0))
    }

    fn ends_at(&self, _: &Sum, entry: &Position) -> bool {
        *entry > self.0
    }
}

struct First(u64);

impl Way for First {
    fn passes(&self, before: &Sum, block: &Block, _: Option<Slot>) -> bool {
        before.count + block.sum.count < self.0
    }

    fn ends_at(&self, before: &Sum, _: &Position) -> bool {
        before.count == self.0
    }
}

/// Walks down the blocks. Returns the sum before the place, and the last entry before it that counts.
fn walk(
    rows: &RowsView,
    way: &impl Way,
    rows_read: &mut usize,
) -> Result<(Sum, Option<Position>), StorageError> {
    let mut before = Sum::default();
    let mut level = top(rows)?;
    let (mut from, mut end) = (Slot::MIN, None);
    while level > 0 {
        // A block is passed when it is known where it ends: at the block behind it.
        let mut last: Option<Block> = None;
        let mut found = None;
        blocks(rows, level, from, end, |block| {
            *rows_read += 1;
            let next = block.from;
            if let Some(known) = last.replace(block) {
                if !way.passes(&before, &known, Some(next)) {
                    found = Some((known.from, Some(next)));
                    return ControlFlow::Break(());
                }
                before.add_all(&known.sum);
            }
            ControlFlow::Continue(())
        })?;
        (from, end) = match (found, last) {
            (Some(found), _) => found,
            (None, Some(last)) if way.passes(&before, &last, end) => {
                before.add_all(&last.sum);
                return Ok((before, None));
            }
            (None, Some(last)) => (last.from, end),
            (None, None) => return Err(StorageError::row(&block_key(level, from))),
        };
        level -= 1;
    }
    let mut last = None;
    if top(rows)? > 0 {
        let entries = entries(rows, from, end)?;
        *rows_read += entries.len();
        for (position, counts) in entries {
            if way.ends_at(&before, &position) {
                break;
            }
            if counts {
                before.add(&position.id);
                last = Some(position);
            }
        }
    }
    Ok((before, last))
}

/// The sum of the entries at or below a position. Adds to `rows_read` how many rows were read for it.
pub(crate) fn up_to(
    rows: &RowsView,
    position: Position,
    rows_read: &mut usize,
) -> Result<Sum, StorageError> {
    match position {
        Position::MIN => Ok(Sum::default()),
        Position::MAX => all(rows),
        position => Ok(walk(rows, &UpTo(position), rows_read)?.0),
    }
}

/// The sum of the first `count` entries that count, at least one, and the position of the last of them; `None` when
/// there are not so many. Adds to `rows_read` how many rows were read for it.
pub(crate) fn first(
    rows: &RowsView,
    count: u64,
    rows_read: &mut usize,
) -> Result<Option<(Sum, Position)>, StorageError> {
    let (sum, last) = walk(rows, &First(count), rows_read)?;
    Ok(last.filter(|_| sum.count == count).map(|last| (sum, last)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_format::{Lane, Seq, Time};
    use proptest::prelude::*;

    use super::*;
    use crate::graph::dag::{BranchId, Meta};
    use crate::limits::SKETCH_CELLS_MAX;
    use crate::storage::keys::LocalSeq;
    use crate::storage::rows::work;

    /// The rows of an order without a graph, with their blocks.
    struct Order {
        rows: Rows,
        fingerprints: Fingerprints,
        entries: BTreeMap<Position, bool>,
    }

    impl Order {
        fn new() -> Self {
            Self {
                rows: Rows::in_memory().unwrap(),
                fingerprints: Fingerprints::default(),
                entries: BTreeMap::new(),
            }
        }

        fn position(wall_ms: u64) -> Position {
            let id = IntentionId(*blake3::hash(&wall_ms.to_be_bytes()).as_bytes());
            let time = Time {
                wall_ms,
                counter: 0,
            };
            Position { time, id }
        }

        fn meta(position: Position, local: LocalSeq) -> Meta {
            Meta {
                id: position.id,
                time: position.time,
                branch: BranchId(0),
                seq: Seq(local.0),
                lane: Lane::App,
                chain_bytes: 0,
                prev: None,
                grant: None,
                deps: Vec::new(),
            }
        }

        fn come(&mut self, wall_ms: u64) {
            let position = Self::position(wall_ms);
            if self.entries.contains_key(&position) {
                return;
            }
            let local = LocalSeq(self.entries.len() as u64);
            self.entries.insert(position, true);
            let meta = Self::meta(position, local);
            order::put_new(&mut self.rows, Slot::of(position), local);
            self.rows.put(dag::local_key(local), meta.encode(local));
            self.fingerprints.came(position);
        }

        fn judge(&mut self, at: usize) {
            let at = at % self.entries.len();
            let (position, counts) = self.entries.iter_mut().nth(at).unwrap();
            *counts = !*counts;
            let meta = Self::meta(*position, LocalSeq(0));
            let reason = (!*counts).then_some(void::Reason::CutOff);
            let author = lattice_format::DeviceKey([1; 32]);
            assert!(void::set(&mut self.rows, &author, &meta, reason).unwrap());
            self.fingerprints.judged(*position, !*counts);
        }

        fn follow(&mut self) {
            self.fingerprints.follow(&mut self.rows).unwrap();
        }

        fn counting(&self) -> Vec<Position> {
            let counting = self.entries.iter().filter(|(_, counts)| **counts);
            counting.map(|(position, _)| *position).collect()
        }

        /// Checks every block, and what is read at some places, against the entries.
        fn check(&self, places: &[u64]) {
            let counting = self.counting();
            let sum = |until: usize| {
                let mut sum = Sum::default();
                counting[..until].iter().for_each(|p| sum.add(&p.id));
                sum
            };
            assert_eq!(all(&self.rows).unwrap(), sum(counting.len()));
            let mut sketched = Rows::in_memory().unwrap();
            let ids = counting.iter().map(|position| (position.id, true));
            sketch::change(&mut sketched, ids).unwrap();
            let cells = |rows: &RowsView| sketch::cells(rows, SKETCH_CELLS_MAX).unwrap();
            assert_eq!(cells(&self.rows), cells(&sketched));
            for wall_ms in places {
                let mut position = Self::position(*wall_ms);
                for id in [[0; 32], position.id.0, [0xff; 32]] {
                    position.id = IntentionId(id);
                    let until = counting.partition_point(|p| *p <= position);
                    let found = up_to(&self.rows, position, &mut 0).unwrap();
                    assert!(found == sum(until), "up to {wall_ms}");
                }
                let count = 1 + *wall_ms as usize % (counting.len() + 1);
                let found = first(&self.rows, count as u64, &mut 0).unwrap();
                let expected = counting.get(count - 1).map(|at| (sum(count), *at));
                assert!(found == expected, "the first {count}");
            }
            for level in 1..=top(&self.rows).unwrap() {
                let mut count = 0;
                let max = match level {
                    1 => FINGERPRINT_BLOCK_ENTRIES,
                    _ => FINGERPRINT_BLOCK_BLOCKS,
                };
                blocks(&self.rows, level, Slot::MIN, None, |block| {
                    count += 1;
                    assert!(block.parts <= max && (count == 1) == (block.from == Slot::MIN));
                    ControlFlow::Continue(())
                })
                .unwrap();
                assert_eq!(count == 1, level == top(&self.rows).unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever comes, and becomes void or live, in whatever batches: the blocks sum what counts.
        #[test]
        fn blocks_sum_what_counts(
            batches in proptest::collection::vec(
                (0u64..3_000, 0u64..400, 1u64..4, proptest::collection::vec(any::<usize>(), 0..6), any::<bool>()),
                1..10,
            ),
            places in proptest::collection::vec(0u64..5_000, 6),
        ) {
            let mut order = Order::new();
            for (from, count, step, judged, follow) in batches {
                (0..count).for_each(|n| order.come(from + n * step));
                if count > 0 {
                    judged.into_iter().for_each(|at| order.judge(at));
                }
                if follow {
                    order.follow();
                    order.check(&places[..1]);
                }
            }
            order.follow();
            order.rows.flush().unwrap();
            order.check(&places);
        }
    }

    /// Holds: invariant 10.
    #[test]
    fn blocks_are_split_beyond_their_bounds_and_work_grows_with_the_levels_alone() {
        let mut order = Order::new();
        let mut at = 0;
        let mut next = |order: &mut Order, count: u64| {
            for _ in 0..count {
                order.come(at);
                at += 1;
            }
            order.follow();
            top(&order.rows).unwrap()
        };
        assert_eq!(next(&mut order, FINGERPRINT_BLOCK_ENTRIES), 1);
        assert_eq!(next(&mut order, 1), 2);
        let full = FINGERPRINT_BLOCK_ENTRIES * FINGERPRINT_BLOCK_BLOCKS;
        assert_eq!(next(&mut order, full - FINGERPRINT_BLOCK_ENTRIES - 1), 2);
        assert_eq!(next(&mut order, 1), 3);
        next(&mut order, full);
        order.check(&[5, 4_000]);
        // One entry more, wherever it sorts, reads and writes its blocks.
        for wall_ms in [1_000_000, 3] {
            let position = Order::position(wall_ms);
            order.judge(0);
            order.come(wall_ms + 7);
            let (work, ()) = work::of(|| order.follow());
            // Beside the blocks there are the rows of the sketch, at most a dozen of each of the two entries.
            assert!(
                work.written <= 6 + 2 * 12 && work.read <= 30 + 2 * 12,
                "{work:?}"
            );
            let mut read = 0;
            up_to(&order.rows, position, &mut read).unwrap();
            let levels = 2 * FINGERPRINT_BLOCK_BLOCKS + FINGERPRINT_BLOCK_ENTRIES;
            assert!(read as u64 <= levels, "{read} rows");
        }
    }

    /// Holds: invariant 10.
    #[test]
    fn so_many_changes_wait_before_the_blocks_should_follow() {
        let mut order = Order::new();
        for wall_ms in 1..FINGERPRINT_CHANGES_MAX as u64 {
            order.come(wall_ms);
        }
        assert!(!order.fingerprints.is_full());
        order.come(0);
        assert!(order.fingerprints.is_full());
        order.follow();
        assert!(!order.fingerprints.is_full());
        order.check(&[9]);
    }
}

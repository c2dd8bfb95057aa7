//! Version vectors: how far an entry's past reaches into each branch. They are stored as differences.
//!
//! An entry that saw more than its predecessor in the branch has one row. The row lists the branches into which the
//! entry's past reaches further than its predecessor's. Now and then a row is *whole* and lists all branches: as soon
//! as the differences since the last whole row have as many pairs as a whole row. So rows take no more than about
//! twice the bytes of the differences, and a question reads no more than about twice the pairs of a vector.
//!
//! ```text
//! 'S' branch (4) seq (8) → rows since a whole one (1), pairs in them (4),
//!                          then pairs: branch less the one before (varint), seq (varint)
//! ```

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::Seq;

use crate::graph::dag::{self, BranchId, Meta, key};
use crate::limits::{PAST_PAIRS_CACHED_MAX, PASTS_CACHED_MAX};
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint, take_varint};
use crate::storage::rows::{Rows, RowsView};

/// The last entry that a past reaches in each branch, by ascending branch.
pub(crate) type Vector = Arc<Vec<(BranchId, Seq)>>;

/// Rows after which a whole row follows, however few pairs they have.
const DIFFERENCES_MAX: u8 = 32;
/// Bytes before the pairs of a row.
const HEAD: usize = 5;

fn row_key(branch: BranchId, seq: u64) -> Vec<u8> {
    key(b'S', &[&branch.0.to_be_bytes(), &seq.to_be_bytes()])
}

/// A row, in parts.
struct Row<'a> {
    /// How many rows have followed the last whole one; 0 in a whole row.
    since: u8,
    /// How many pairs those rows have together, this row's included; 0 in a whole row.
    pairs: u32,
    rest: &'a [u8],
}

impl<'a> Row<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let [since, pairs @ ..] = *head;
        Some(Self {
            since,
            pairs: u32::from_be_bytes(pairs),
            rest,
        })
    }

    fn is_whole(&self) -> bool {
        self.since == 0
    }

    /// Visits the pairs by ascending branch until `visit` breaks; `None` when the pairs are damaged.
    fn pairs(&self, mut visit: impl FnMut(BranchId, Seq) -> ControlFlow<()>) -> Option<()> {
        let (mut rest, mut branch) = (self.rest, 0u64);
        while !rest.is_empty() {
            branch = branch.checked_add(take_varint(&mut rest)?)?;
            let seq = Seq(take_varint(&mut rest)?);
            if visit(BranchId(u32::try_from(branch).ok()?), seq).is_break() {
                break;
            }
        }
        Some(())
    }
}

fn encode(since: u8, pairs: u32, list: &[(BranchId, Seq)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + 4 * list.len());
    out.push(since);
    out.extend_from_slice(&pairs.to_be_bytes());
    let mut before = 0;
    for (branch, seq) in list {
        put_varint(u64::from(branch.0 - before), &mut out);
        put_varint(seq.0, &mut out);
        before = branch.0;
    }
    out
}

/// Visits the rows that make up the vector of entry `seq` of `branch`: the newest first, down to a whole row, or
/// until `visit` breaks.
fn visit_rows(
    rows: &RowsView,
    branch: BranchId,
    seq: Seq,
    mut visit: impl FnMut(&Row<'_>) -> Option<ControlFlow<()>>,
) -> Result<(), StorageError> {
    let mut damage = None;
    let end = row_key(branch, seq.0.saturating_add(1));
    rows.scan(&row_key(branch, 0), &end, true, |key, value| {
        let row = Row::of(value);
        match row.as_ref().and_then(|row| Some((row, visit(row)?))) {
            Some((row, ControlFlow::Continue(()))) if !row.is_whole() => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
            None => {
                damage = Some(StorageError::row(key));
                ControlFlow::Break(())
            }
        }
    })?;
    damage.map_or(Ok(()), Err)
}

/// How far into `other` the past of entry `seq` of `branch` reaches.
pub(crate) fn seen(
    rows: &RowsView,
    branch: BranchId,
    other: BranchId,
    seq: Seq,
) -> Result<Option<Seq>, StorageError> {
    if branch == other {
        return Ok(Some(seq));
    }
    let mut found = None;
    visit_rows(rows, branch, seq, |row| {
        row.pairs(|at, seq| {
            if at == other {
                found = Some(seq);
            }
            if at < other {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Some(match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        })
    })?;
    Ok(found)
}

fn load(rows: &RowsView, meta: &Meta) -> Result<Vec<(BranchId, Seq)>, StorageError> {
    let mut out = vec![(meta.branch, meta.seq)];
    visit_rows(rows, meta.branch, meta.seq, |row| {
        row.pairs(|branch, seq| {
            out.push((branch, seq));
            ControlFlow::Continue(())
        })?;
        Some(ControlFlow::Continue(()))
    })?;
    // Where several rows name a branch, the newest row counts. It came first, and the sort is stable.
    out.sort_by_key(|(branch, _)| *branch);
    out.dedup_by_key(|(branch, _)| *branch);
    Ok(out)
}

/// Stores the vector of entry `seq` of `branch`. `before` is the vector of its predecessor in the branch.
pub(crate) fn store(
    rows: &mut Rows,
    branch: BranchId,
    seq: Seq,
    before: &[(BranchId, Seq)],
    vector: &[(BranchId, Seq)],
) -> Result<(), StorageError> {
    let mut old = before.iter().peekable();
    let mut changed = Vec::new();
    for pair in vector.iter().filter(|(other, _)| *other != branch) {
        while old.next_if(|(other, _)| *other < pair.0).is_some() {}
        if old.peek() != Some(&pair) {
            changed.push(*pair);
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let last = rows.first(&row_key(branch, 0), &row_key(branch, seq.0), true)?;
    let value = match &last {
        Some((key, last)) => {
            let last = Row::of(last).ok_or_else(|| StorageError::row(key))?;
            let since = last.since.saturating_add(1);
            let before = if last.is_whole() { 0 } else { last.pairs };
            let pairs = before.saturating_add(changed.len() as u32);
            (since <= DIFFERENCES_MAX && (pairs as usize) < vector.len())
                .then(|| encode(since, pairs, &changed))
        }
        None => None,
    };
    let value = value.unwrap_or_else(|| {
        let whole: Vec<_> = vector
            .iter()
            .filter(|(other, _)| *other != branch)
            .collect();
        let whole: Vec<_> = whole.into_iter().copied().collect();
        encode(0, 0, &whole)
    });
    rows.put(row_key(branch, seq.0), value);
    Ok(())
}

/// Raises `vector` in each branch to the seq of `other`, where that is larger. Both are sorted. Mostly `vector` has
/// all branches of `other`, and is changed in place.
pub(crate) fn merge_into(vector: &mut Vec<(BranchId, Seq)>, other: &[(BranchId, Seq)]) {
    let mut at = 0;
    for (index, (branch, seq)) in other.iter().enumerate() {
        while vector.get(at).is_some_and(|(own, _)| own < branch) {
            at += 1;
        }
        match vector.get_mut(at) {
            Some((own, reach)) if own == branch => *reach = *seq.max(reach),
            _ => {
                *vector = merge(vector, &other[index..]);
                return;
            }
        }
    }
}

/// The larger of two sorted vectors, branch by branch.
fn merge(a: &[(BranchId, Seq)], b: &[(BranchId, Seq)]) -> Vec<(BranchId, Seq)> {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => return out,
            (Some(_), None) => out.extend(a.by_ref()),
            (None, Some(_)) => out.extend(b.by_ref()),
            (Some(&&(x, m)), Some(&&(y, n))) => match x.cmp(&y) {
                std::cmp::Ordering::Less => {
                    out.push((x, m));
                    a.next();
                }
                std::cmp::Ordering::Greater => {
                    out.push((y, n));
                    b.next();
                }
                std::cmp::Ordering::Equal => {
                    out.push((x, m.max(n)));
                    a.next();
                    b.next();
                }
            },
        }
    }
}

/// Whether a past reaches entry `seq` of `branch`, and so the past of that entry as well.
pub(crate) fn reaches(vector: &[(BranchId, Seq)], branch: BranchId, seq: Seq) -> bool {
    match vector.binary_search_by_key(&branch, |(other, _)| *other) {
        Ok(at) => vector[at].1 >= seq,
        Err(_) => false,
    }
}

/// A cache of the version vectors of entries that were added lately, because the next entries build on them.
#[derive(Debug, Default)]
pub(crate) struct PastCache {
    vectors: HashMap<LocalSeq, Vector>,
    order: VecDeque<LocalSeq>,
    pairs: usize,
}

impl PastCache {
    pub(crate) fn get(&mut self, rows: &RowsView, local: LocalSeq) -> Result<Vector, StorageError> {
        if let Some(vector) = self.vectors.get(&local) {
            return Ok(vector.clone());
        }
        let vector = Arc::new(load(rows, &dag::meta(rows, local)?)?);
        self.put(local, vector.clone());
        Ok(vector)
    }

    pub(crate) fn put(&mut self, local: LocalSeq, vector: Vector) {
        self.pairs += vector.len();
        match self.vectors.insert(local, vector) {
            None => self.order.push_back(local),
            Some(old) => self.pairs -= old.len(),
        }
        while self.order.len() > 1
            && (self.order.len() > PASTS_CACHED_MAX || self.pairs > PAST_PAIRS_CACHED_MAX)
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(old) = self.vectors.remove(&oldest) {
                self.pairs -= old.len();
            }
        }
    }

    /// Forgets everything, because entries were undone and other entries will get their numbers.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use lattice_format::{IntentionId, Lane, Time};
    use proptest::prelude::*;
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;

    fn empty() -> Rows {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .unwrap();
        Rows::open(db).unwrap()
    }

    fn meta(branch: BranchId, seq: Seq) -> Meta {
        Meta {
            id: IntentionId([0; 32]),
            time: Time::default(),
            branch,
            seq,
            lane: Lane::App,
            chain_bytes: 0,
            prev: None,
            grant: None,
            deps: Vec::new(),
        }
    }

    /// Stores the vectors of a branch as the graph does. Each of `sights` is what one entry saw anew of other
    /// branches.
    fn stored(rows: &mut Rows, branch: BranchId, sights: &[Vec<(u32, u64)>]) -> Vec<Vector> {
        let mut before: Vec<(BranchId, Seq)> = Vec::new();
        let mut all = Vec::new();
        for (seq, sight) in (0..).zip(sights) {
            let mut saw: BTreeMap<_, _> = before.iter().copied().collect();
            for (other, reach) in sight {
                let at = saw.entry(BranchId(*other)).or_insert(Seq(*reach));
                *at = Seq(*reach).max(*at);
            }
            saw.insert(branch, Seq(seq));
            let vector: Vec<_> = saw.into_iter().collect();
            store(rows, branch, Seq(seq), &before, &vector).unwrap();
            all.push(Arc::new(vector.clone()));
            before = vector;
        }
        all
    }

    proptest! {
        #[test]
        fn what_was_stored_reads_the_same(
            sights in proptest::collection::vec(
                proptest::collection::vec((0u32..40, 0u64..300), 0..4), 1..90,
            ),
            at in 0u32..40,
        ) {
            let (mut rows, branch) = (empty(), BranchId(at));
            // Rows of a neighbouring branch must not be read as rows of this one.
            stored(&mut rows, BranchId(at + 1), &[vec![(50, 7)]]);
            let vectors = stored(&mut rows, branch, &sights);
            for (seq, vector) in (0..).zip(vectors) {
                let loaded = load(&rows, &meta(branch, Seq(seq))).unwrap();
                prop_assert_eq!(&loaded, &*vector);
                for other in 0..42 {
                    let expected = vector.iter().find(|(b, _)| b.0 == other).map(|(_, s)| *s);
                    prop_assert_eq!(seen(&rows, branch, BranchId(other), Seq(seq)).unwrap(), expected);
                }
            }
        }

        #[test]
        fn a_vector_is_raised_to_what_both_reach(
            a in proptest::collection::btree_map(0u32..12, 0u64..9, 0..9),
            b in proptest::collection::btree_map(0u32..12, 0u64..9, 0..9),
        ) {
            let list = |map: &BTreeMap<u32, u64>| {
                map.iter().map(|(b, s)| (BranchId(*b), Seq(*s))).collect::<Vec<_>>()
            };
            let mut both = a.clone();
            for (branch, seq) in &b {
                let reach = both.entry(*branch).or_default();
                *reach = (*reach).max(*seq);
            }
            let mut raised = list(&a);
            merge_into(&mut raised, &list(&b));
            prop_assert_eq!(raised, list(&both));
        }
    }

    #[test]
    fn a_question_reads_few_rows_and_rows_take_little_more_than_their_differences() {
        let (mut rows, branch, others) = (empty(), BranchId(0), 200);
        // Each entry sees one more entry of another one of two hundred branches.
        let first: Vec<_> = (1..=others).map(|other| (other, 0)).collect();
        let mut sights = vec![first];
        sights.extend((0..2_000).map(|n| vec![(1 + n % others, u64::from(1 + n / others))]));
        stored(&mut rows, branch, &sights);
        let mut most = 0;
        for seq in 0..sights.len() as u64 {
            let (mut read, mut pairs) = (0, 0);
            visit_rows(&rows, branch, Seq(seq), |row| {
                read += 1;
                row.pairs(|_, _| {
                    pairs += 1;
                    ControlFlow::Continue(())
                })?;
                Some(ControlFlow::Continue(()))
            })
            .unwrap();
            assert!(read <= 1 + usize::from(DIFFERENCES_MAX), "{read} rows");
            assert!(pairs <= 2 * others, "{pairs} pairs");
            most = most.max(read);
        }
        assert_eq!(most, 1 + usize::from(DIFFERENCES_MAX));
        let mut bytes = 0;
        rows.scan(b"S", b"T", false, |_, value| {
            bytes += value.len();
            ControlFlow::Continue(())
        })
        .unwrap();
        // One whole row in 33, of some two hundred pairs of two or three bytes.
        assert!(
            bytes < 2_001 * (HEAD + 3 + 3 * others as usize / 33),
            "{bytes} bytes"
        );
    }

    #[test]
    fn a_branch_that_sees_nothing_new_has_no_further_rows() {
        let mut rows = empty();
        let mut sights = vec![vec![(1, 5)]];
        sights.resize(100, Vec::new());
        stored(&mut rows, BranchId(0), &sights);
        let mut count = 0;
        rows.scan(b"S", b"T", false, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(count, 1);
        let last = seen(&rows, BranchId(0), BranchId(1), Seq(99)).unwrap();
        assert_eq!(last, Some(Seq(5)));
    }

    #[test]
    fn remembered_vectors_are_bounded_by_their_number_and_their_pairs() {
        let vector = |len: u32| Arc::new((0..len).map(|b| (BranchId(b), Seq(0))).collect());
        let mut cache = PastCache::default();
        for local in 0..=PASTS_CACHED_MAX as u64 {
            cache.put(LocalSeq(local), vector(1));
        }
        assert_eq!(
            (cache.vectors.len(), cache.pairs),
            (PASTS_CACHED_MAX, PASTS_CACHED_MAX)
        );
        cache.put(LocalSeq(1_000), vector((PAST_PAIRS_CACHED_MAX - 9) as u32));
        assert_eq!(
            (cache.vectors.len(), cache.pairs),
            (10, PAST_PAIRS_CACHED_MAX)
        );
        // The newest vector stays, however large it is, and a vector that is put twice counts once.
        for _ in 0..2 {
            cache.put(LocalSeq(1_001), vector((PAST_PAIRS_CACHED_MAX + 1) as u32));
            assert_eq!(
                (cache.vectors.len(), cache.pairs),
                (1, PAST_PAIRS_CACHED_MAX + 1)
            );
        }
    }
}

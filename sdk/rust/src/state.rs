//! The keys and values of a component, in ascending byte order of keys.
//!
//! A key has at most [`KEY_BYTES_MAX`] bytes, a value at most [`VALUE_BYTES_MAX`]; a call beyond that traps,
//! and so does one that writes in a query. Reads see the call's own earlier writes.

#[cfg(target_arch = "wasm32")]
use crate::bindings::lattice::store::state as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::state as host;

/// Largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 * 1_024;

/// Rows asked for at once, unless the range says otherwise.
const PAGE_ROWS: u32 = 256;

/// The value at `key`, or none.
pub fn get(key: &[u8]) -> Option<Vec<u8>> {
    host::get(key)
}

/// Sets the value at `key`.
pub fn put(key: &[u8], value: &[u8]) {
    host::put(key, value);
}

/// Removes the value at `key`, if there is one.
pub fn delete(key: &[u8]) {
    host::delete(key);
}

/// Removes every value from `start` (inclusive) to `end` (exclusive).
pub fn delete_range(start: &[u8], end: &[u8]) {
    host::delete_range(start, end);
}

/// Adds `by`, wrapping, to the number at `key` without reading it: concurrent adds never conflict. Numbers
/// are cells of their own, apart from the value under the same key.
pub fn add(key: &[u8], by: i64) {
    host::add(key, by);
}

/// The number at `key`; 0 where none was ever added.
pub fn number(key: &[u8]) -> i64 {
    host::number(key)
}

/// The rows of `range`, read page by page as the iterator advances.
///
/// The whole interval that was read counts as read: give a [`Range::limit`] where only the first rows
/// matter, so that a late write behind them does not run the call again.
pub fn scan(range: Range) -> Rows {
    Rows(Pages::new(range, true))
}

/// The keys of `range`, without reading the values.
pub fn scan_keys(range: Range) -> Keys {
    Keys(Pages::new(range, false))
}

/// The numbers in `range` that are not 0, in ascending order of keys, up to its limit.
///
/// # Panics
/// If the range is a reversed one: numbers are read forwards only.
pub fn scan_numbers(range: Range) -> Numbers {
    assert!(
        !range.reverse,
        "numbers are scanned in ascending order only"
    );
    Numbers {
        range,
        buffered: Vec::new().into_iter(),
        done: false,
    }
}

/// A range of keys, and how to walk it.
#[derive(Debug, Clone)]
pub struct Range {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    reverse: bool,
    limit: u32,
    page_rows: u32,
}

impl Range {
    /// Every key.
    pub fn all() -> Self {
        Self {
            start: Vec::new(),
            end: None,
            reverse: false,
            limit: u32::MAX,
            page_rows: PAGE_ROWS,
        }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            start: prefix.to_vec(),
            end: prefix_end(prefix),
            ..Self::all()
        }
    }

    /// The keys from `start` (inclusive) to `end` (exclusive).
    pub fn between(start: &[u8], end: &[u8]) -> Self {
        Self {
            start: start.to_vec(),
            end: Some(end.to_vec()),
            ..Self::all()
        }
    }

    /// Leaves out the keys before `key`.
    pub fn starting_at(mut self, key: &[u8]) -> Self {
        if key > self.start.as_slice() {
            self.start = key.to_vec();
        }
        self
    }

    /// Leaves out `key` and the keys before it.
    pub fn after(mut self, key: &[u8]) -> Self {
        match successor(key) {
            Some(next) => self.starting_at(&next),
            None => {
                self.end = Some(self.start.clone());
                self
            }
        }
    }

    /// Leaves out `key` and the keys after it.
    pub fn before(mut self, key: &[u8]) -> Self {
        if self.end.as_deref().is_none_or(|end| key < end) {
            self.end = Some(key.to_vec());
        }
        self
    }

    /// Walks from the last key to the first.
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Ends after `rows` rows.
    pub fn limit(mut self, rows: u32) -> Self {
        self.limit = rows;
        self
    }

    /// Asks the host for at most `rows` rows at once, instead of 256. Use it for a walk that ends early after an
    /// unknown number of rows, because all rows asked for count as read.
    pub fn page_rows(mut self, rows: u32) -> Self {
        self.page_rows = rows.clamp(1, PAGE_ROWS);
        self
    }

    fn is_empty(&self) -> bool {
        self.limit == 0 || self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Moves the range past `key`, the last one consumed, and counts it.
    fn advance(&mut self, key: &[u8], rows: u32) {
        self.limit = self.limit.saturating_sub(rows);
        if self.reverse {
            self.end = Some(key.to_vec());
            return;
        }
        match successor(key) {
            Some(next) => self.start = next,
            None => self.limit = 0,
        }
    }
}

/// The first key behind all that begin with `prefix`; none if there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The smallest key greater than `key`; none behind the greatest one.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    if key.len() < KEY_BYTES_MAX {
        let mut next = key.to_vec();
        next.push(0);
        Some(next)
    } else {
        // A longer key would be over the limit, so there is none between this one and its prefix's end.
        prefix_end(key)
    }
}

type Row = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
struct Pages {
    range: Range,
    values: bool,
    buffered: std::vec::IntoIter<Row>,
    more: bool,
}

impl Pages {
    fn new(range: Range, values: bool) -> Self {
        let more = !range.is_empty();
        Self {
            range,
            values,
            buffered: Vec::new().into_iter(),
            more,
        }
    }

    fn next(&mut self) -> Option<Row> {
        loop {
            if let Some(row) = self.buffered.next() {
                return Some(row);
            }
            if !self.more || self.range.is_empty() {
                return None;
            }
            let Range {
                start,
                end,
                reverse,
                limit,
                page_rows,
            } = &self.range;
            let limit = (*limit).min(*page_rows);
            let page = if self.values {
                host::scan(start, end.as_deref(), limit, *reverse)
            } else {
                host::scan_keys(start, end.as_deref(), limit, *reverse)
            };
            self.more = page.more;
            let (last, _) = page.rows.last()?;
            // A page holds at most `limit` rows, which is a u32.
            self.range
                .advance(last, u32::try_from(page.rows.len()).unwrap_or(u32::MAX));
            self.buffered = page.rows.into_iter();
        }
    }
}

/// An iterator over keys and values, see [`scan`].
#[derive(Debug)]
pub struct Rows(Pages);

impl Iterator for Rows {
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// An iterator over keys, see [`scan_keys`].
#[derive(Debug)]
pub struct Keys(Pages);

impl Iterator for Keys {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, _)| key)
    }
}

/// An iterator over keys and numbers, see [`scan_numbers`].
#[derive(Debug)]
pub struct Numbers {
    range: Range,
    buffered: std::vec::IntoIter<(Vec<u8>, i64)>,
    done: bool,
}

impl Iterator for Numbers {
    type Item = (Vec<u8>, i64);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(cell) = self.buffered.next() {
                return Some(cell);
            }
            if self.done || self.range.is_empty() {
                return None;
            }
            let limit = self.range.limit.min(self.range.page_rows);
            let cells = host::scan_numbers(&self.range.start, self.range.end.as_deref(), limit);
            let Some((last, _)) = cells.last() else {
                self.done = true;
                return None;
            };
            self.range
                .advance(last, u32::try_from(cells.len()).unwrap_or(u32::MAX));
            self.buffered = cells.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn fill(keys: &[&[u8]]) {
        testing::reset();
        testing::call("author").run(|| {
            for key in keys {
                put(key, b"value");
            }
        });
    }

    #[test]
    fn a_prefix_ends_where_its_last_byte_steps() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn iterators_walk_all_pages_in_both_directions() {
        testing::reset();
        let keys: Vec<Vec<u8>> = (0..1_000u16).map(|n| n.to_be_bytes().to_vec()).collect();
        testing::call("author").run(|| keys.iter().for_each(|key| put(key, key)));
        assert!(
            scan(Range::all())
                .map(|(key, _)| key)
                .eq(keys.iter().cloned())
        );
        assert!(scan_keys(Range::all().reversed()).eq(keys.iter().rev().cloned()));
        assert!(scan_keys(Range::all().limit(700)).eq(keys[..700].iter().cloned()));
        assert_eq!(scan_keys(Range::all().limit(0)).count(), 0);
    }

    #[test]
    fn a_range_is_narrowed_at_both_ends() {
        fill(&[b"a", b"b", b"b\0", b"c", b"d"]);
        let keys = |range| scan_keys(range).collect::<Vec<_>>().concat();
        assert_eq!(keys(Range::all().after(b"b")), b"b\0cd");
        assert_eq!(keys(Range::all().starting_at(b"b").before(b"d")), b"bb\0c");
        assert_eq!(keys(Range::prefix(b"b")), b"bb\0");
        assert_eq!(
            keys(Range::prefix(b"b").starting_at(b"a")),
            b"bb\0",
            "never widened"
        );
        assert_eq!(keys(Range::between(b"c", b"b")), b"");
    }

    #[test]
    fn keys_of_the_largest_size_are_walked() {
        let long = [7u8; KEY_BYTES_MAX];
        let top = [0xffu8; KEY_BYTES_MAX];
        fill(&[b"a", &long, &top]);
        assert_eq!(scan_keys(Range::all()).count(), 3);
        assert_eq!(scan_keys(Range::all().after(&long)).count(), 2);
        assert_eq!(scan_keys(Range::all().after(&top)).count(), 0);
    }

    #[test]
    fn numbers_are_apart_from_values() {
        testing::reset();
        testing::call("author").run(|| {
            put(b"k", b"v");
            (0..600u16).for_each(|n| add(&n.to_be_bytes(), 2));
            add(b"zero", 5);
            add(b"zero", -5);
        });
        assert_eq!(
            scan_numbers(Range::all())
                .map(|(_, number)| number)
                .sum::<i64>(),
            1_200
        );
        assert_eq!(scan_numbers(Range::all().limit(300)).count(), 300);
        assert_eq!(number(b"k"), 0);
        assert_eq!(scan(Range::all()).count(), 1);
    }
}

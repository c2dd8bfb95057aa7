//! The tail: the newest entries of the log, decoded. An entry is run and sent to each peer soon after it was appended,
//! and is not read from disk for that. The tail holds a received batch until the batch has run, and few entries of a
//! store that has nothing to do.

use std::collections::VecDeque;

use crate::limits::{RECENT_BYTES_MAX, RECENT_MAX, UNSETTLED_BYTES_MAX, UNSETTLED_MAX};
use crate::log::{Log, Stored};
use crate::storage::keys::LocalSeq;

/// The last entries in the order of the log, bounded by number and bytes.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    entries: VecDeque<Stored>,
    bytes: usize,
}

impl Tail {
    fn size(entry: &Stored) -> usize {
        entry.header.signed().bytes.len() + entry.body.as_ref().map_or(0, |body| body.len())
    }

    pub(crate) fn push(&mut self, entry: Stored) {
        self.bytes += Self::size(&entry);
        self.entries.push_back(entry);
        self.shrink(UNSETTLED_MAX, UNSETTLED_BYTES_MAX);
    }

    /// Drops the oldest entries beyond a number and a size. The newest entry stays, whatever its size.
    fn shrink(&mut self, entries_max: usize, bytes_max: usize) {
        while self.entries.len() > entries_max || (self.bytes > bytes_max && self.entries.len() > 1)
        {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= Self::size(&oldest);
            }
        }
    }

    /// Keeps what a store keeps that has nothing to run.
    fn settled(&mut self) {
        self.shrink(RECENT_MAX, RECENT_BYTES_MAX);
        if self.entries.capacity() > 2 * RECENT_MAX {
            self.entries.shrink_to(RECENT_MAX);
        }
    }

    pub(crate) fn get(&self, local: LocalSeq) -> Option<&Stored> {
        let first = self.entries.front()?.local;
        let at = usize::try_from(local.0.checked_sub(first.0)?).ok()?;
        self.entries.get(at)
    }

    fn ends_below(&self, local: LocalSeq) -> bool {
        self.entries.back().is_some_and(|last| last.local < local)
    }
}

impl Log {
    /// Lets the tail shrink, because every entry that was appended has run.
    pub(crate) fn settled(&self) {
        self.recent().settled();
    }

    /// Whether it is known without a read that `local` was not appended yet.
    pub(crate) fn is_known_to_lack(&self, local: LocalSeq) -> bool {
        self.recent().ends_below(local)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing;

    fn entry(local: u64, body: usize) -> Stored {
        let store = testing::found(0, 1_000_000);
        let genesis = store.snapshot().entry_at(LocalSeq(0));
        Stored {
            local: LocalSeq(local),
            body: Some(Arc::from(vec![0; body])),
            ..genesis.unwrap().unwrap()
        }
    }

    fn has(recent: &Tail, local: u64) -> bool {
        let found = recent.get(LocalSeq(local)).map(|entry| entry.local.0);
        assert!(found.is_none_or(|found| found == local));
        found.is_some()
    }

    #[test]
    fn the_last_entries_are_kept_up_to_a_number_and_to_their_bytes() {
        let mut recent = Tail::default();
        let last = 5 + UNSETTLED_MAX as u64;
        for local in 5..=last {
            recent.push(entry(local, 1));
        }
        assert_eq!(recent.entries.len(), UNSETTLED_MAX);
        assert!(!has(&recent, 5) && has(&recent, 6));
        assert!(has(&recent, last) && !has(&recent, last + 1));
        // An entry larger than the bound stays, alone. The next entry takes its place.
        recent.push(entry(last + 1, UNSETTLED_BYTES_MAX + 1));
        assert!(!has(&recent, last) && has(&recent, last + 1));
        recent.push(entry(last + 2, 1));
        assert!(!has(&recent, last + 1) && has(&recent, last + 2));
        assert_eq!(recent.bytes, Tail::size(&entry(0, 1)));
    }

    #[test]
    fn few_entries_are_kept_once_all_have_run() {
        let mut recent = Tail::default();
        let last = UNSETTLED_MAX as u64;
        for local in 1..=last {
            recent.push(entry(local, 1));
        }
        recent.settled();
        assert_eq!(recent.entries.len(), RECENT_MAX);
        assert!(has(&recent, last) && !has(&recent, last - RECENT_MAX as u64));
        assert!(recent.entries.capacity() <= 2 * RECENT_MAX);
        recent.push(entry(last + 1, RECENT_BYTES_MAX + 1));
        assert!(has(&recent, last));
        recent.settled();
        assert!(!has(&recent, last) && has(&recent, last + 1));
        assert!(!recent.ends_below(LocalSeq(last + 1)) && recent.ends_below(LocalSeq(last + 2)));
        assert!(!Tail::default().ends_below(LocalSeq(0)));
    }
}

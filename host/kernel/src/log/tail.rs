//! The tail: the newest entries of the log, decoded. An entry is run and sent to each peer soon after it was appended,
//! and is not read from disk for that.

use std::collections::VecDeque;

use crate::limits::{RECENT_BYTES_MAX, RECENT_MAX};
use crate::log::Stored;
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
        while self.entries.len() > RECENT_MAX
            || (self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1)
        {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= Self::size(&oldest);
            }
        }
    }

    pub(crate) fn get(&self, local: LocalSeq) -> Option<&Stored> {
        let first = self.entries.front()?.local;
        let at = usize::try_from(local.0.checked_sub(first.0)?).ok()?;
        self.entries.get(at)
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

    #[test]
    fn the_last_entries_are_kept_up_to_a_number_and_to_their_bytes() {
        let mut recent = Tail::default();
        let has = |recent: &Tail, local: u64| {
            let found = recent.get(LocalSeq(local)).map(|entry| entry.local.0);
            assert!(found.is_none_or(|found| found == local));
            found.is_some()
        };
        for local in 5..=5 + RECENT_MAX as u64 {
            recent.push(entry(local, 1));
        }
        let last = 5 + RECENT_MAX as u64;
        assert_eq!(recent.entries.len(), RECENT_MAX);
        assert!(!has(&recent, 5) && has(&recent, 6));
        assert!(has(&recent, last) && !has(&recent, last + 1));
        // An entry larger than the bound stays, alone. The next entry takes its place.
        recent.push(entry(last + 1, RECENT_BYTES_MAX + 1));
        assert!(!has(&recent, last) && has(&recent, last + 1));
        recent.push(entry(last + 2, 1));
        assert!(!has(&recent, last + 1) && has(&recent, last + 2));
        assert_eq!(recent.bytes, Tail::size(&entry(0, 1)));
    }
}

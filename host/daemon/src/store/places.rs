//! The places of the transactions of a commit in the log.

use lattice_format::{CallId, IntentionId, Time, VerifiedHeader};

/// The place of a transaction in the log.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The entry that holds the transaction.
    pub(crate) entry: IntentionId,
    /// The index of the transaction in the entry, from 0.
    pub(crate) transaction: u32,
    /// The entry's time.
    pub(crate) time: Time,
    /// The ids of the transaction's calls.
    pub(crate) calls: Vec<CallId>,
}

/// Finds the places of the transactions of one commit, in the order in which they ran.
pub(crate) struct Places<'a> {
    entries: std::slice::Iter<'a, VerifiedHeader>,
    current: Option<&'a VerifiedHeader>,
    call: u32,
    transaction: u32,
}

impl<'a> Places<'a> {
    pub(crate) fn new(entries: &'a [VerifiedHeader]) -> Self {
        let mut entries = entries.iter();
        Self {
            current: entries.next(),
            entries,
            call: 0,
            transaction: 0,
        }
    }

    /// The place of the next transaction, which has `count` calls, the first with id `first`; `None` when no entry of
    /// the commit holds it.
    pub(crate) fn next(&mut self, first: CallId, count: u32) -> Option<Place> {
        loop {
            let header = self.current?;
            if header.call_id(self.call) == first {
                let place = Place {
                    entry: header.id(),
                    transaction: self.transaction,
                    time: header.time,
                    calls: (self.call..self.call + count)
                        .map(|i| header.call_id(i))
                        .collect(),
                };
                self.call += count;
                self.transaction += 1;
                return Some(place);
            }
            self.current = self.entries.next();
            self.call = 0;
            self.transaction = 0;
        }
    }
}

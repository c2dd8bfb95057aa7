//! Where the transactions of a commit stand.

use lattice_format::{CallId, IntentionId, Time, VerifiedHeader};

/// Where a transaction stands in the log.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The entry.
    pub(crate) entry: IntentionId,
    /// The transaction's place in it.
    pub(crate) transaction: u32,
    /// The entry's time.
    pub(crate) time: Time,
    /// Identities of its calls.
    pub(crate) calls: Vec<CallId>,
}

/// Finds where the transactions of one commit stand, in the order in which they ran.
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

    /// The place of the next transaction, whose first call is `first` and which has `count` calls.
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

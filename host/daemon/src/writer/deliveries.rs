//! Entries of peers: those that wait share a commit, as calls do.

use lattice_format::{DeviceKey, SignedHeader};
use lattice_kernel::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use lattice_kernel::{Received, StorageError};
use tokio::sync::oneshot;

use super::{Job, SETTLE_RUNS_BUSY, Writer};
use crate::clock;
use crate::limits::GROUP_DELIVERIES_MAX;

type Entries = Vec<(SignedHeader, Option<Vec<u8>>)>;
type Reply = oneshot::Sender<Result<Received, StorageError>>;

/// How much a group holds.
#[derive(Default)]
struct Size {
    deliveries: usize,
    entries: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, entries: &Entries) {
        self.deliveries += 1;
        self.entries += entries.len();
        let bytes = entries.iter().map(|(signed, body)| {
            let body = body.as_ref().map_or(0, Vec::len);
            signed.bytes.len() + body
        });
        self.bytes += bytes.sum::<usize>();
    }

    fn is_full(&self) -> bool {
        self.deliveries >= GROUP_DELIVERIES_MAX
            || self.entries >= BATCH_ENTRIES_MAX
            || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Writer {
    /// Takes in the deliveries that wait, commits them together, and answers the senders. Returns a job that it took
    /// and did not do.
    pub(super) fn take_in(
        &mut self,
        from: DeviceKey,
        entries: Entries,
        reply: Reply,
    ) -> Option<Job> {
        let store = self.store.as_mut()?;
        let now_ms = self.times.now_ms();
        let (mut taken, mut size, mut kept) = (Vec::new(), Size::default(), None);
        let mut next = Some((from, entries, reply));
        let mut committed = Ok(());
        while let Some((from, entries, reply)) = next.take() {
            size.add(&entries);
            match store.take_in(from, entries, now_ms, clock::seed()) {
                Ok(received) => taken.push((reply, received)),
                Err(error) => {
                    taken.push((reply, Received::default()));
                    committed = Err(error);
                    break;
                }
            }
            if size.is_full() {
                break;
            }
            match self.ends.jobs.try_recv() {
                Ok(Job::Receive {
                    from,
                    entries,
                    reply,
                }) => next = Some((from, entries, reply)),
                Ok(other) => kept = Some(other),
                Err(_) => {}
            }
        }
        match committed.and_then(|()| store.commit(now_ms).map(drop)) {
            Ok(()) => {
                self.pending = self.pending.max(1);
                // What waits only for the fold is seen at once by whoever watches.
                self.settle(SETTLE_RUNS_BUSY);
                for (reply, received) in taken {
                    let _ = reply.send(Ok(received));
                }
            }
            Err(error) => {
                // After a failed write the database takes no other: it is opened anew.
                self.fail(error.to_string());
                for (reply, _) in taken {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lattice_format::Signature;

    use super::*;

    #[test]
    fn a_group_is_full_by_its_deliveries_its_entries_or_its_bytes() {
        let entry = |len: usize| {
            let signed = SignedHeader {
                bytes: Arc::from([0; 8]),
                signature: Signature([0; 64]),
            };
            (signed, Some(vec![0; len - 8]))
        };
        let full_after = |delivery: Entries| {
            let mut size = Size::default();
            (1..=BATCH_ENTRIES_MAX)
                .find(|_| {
                    size.add(&delivery);
                    size.is_full()
                })
                .unwrap_or_default()
        };
        assert_eq!(full_after(vec![entry(8)]), GROUP_DELIVERIES_MAX);
        assert_eq!(full_after(vec![entry(8); BATCH_ENTRIES_MAX / 2]), 2);
        assert_eq!(full_after(vec![entry(BATCH_BYTES_MAX / 4)]), 4);
        assert_eq!(full_after(vec![entry(BATCH_BYTES_MAX / 4 - 1)]), 5);
    }
}

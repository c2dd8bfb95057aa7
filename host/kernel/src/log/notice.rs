//! Notices: what a person should know without asking. They are durable until they are acknowledged.

use lattice_format::{DeviceKey, IntentionId};

use crate::limits::{NOTICES_BYTES_MAX, NOTICES_MAX};
use crate::outcome::Outcome;

/// The number of the notice that counts those that are not kept. It sorts after all others.
const MORE: u64 = u64::MAX;

/// One thing that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A caller on this node was told an outcome that does not hold any more, because of an entry that arrived later.
    OutcomeChanged {
        /// The intention.
        entry: IntentionId,
        /// The index of the transaction in the intention, from 0.
        transaction: u32,
        /// The outcome that the caller was told.
        told: Outcome,
        /// The outcome that holds now; `None` when the entry has become void.
        now: Option<Outcome>,
    },
    /// A device signed two intentions for one place of its chain.
    Fork {
        /// The device.
        author: DeviceKey,
        /// The second of the two intentions to arrive on this node.
        entry: IntentionId,
    },
    /// The author of an entry claims other roots than this replica has for the same entries.
    Divergence {
        /// The author.
        author: DeviceKey,
        /// The entry with the claim.
        entry: IntentionId,
    },
    /// A person let this device sign by a clock that no member confirmed and that had leapt since the last entry of the
    /// store.
    ClockLeapt {
        /// The time that was signed by, in milliseconds since the Unix epoch.
        wall_ms: u64,
        /// How far it is above that of the entry before, in milliseconds.
        by_ms: u64,
    },
    /// The last entry of this device lies too far ahead of the members' clocks, so they park it.
    ChainAhead {
        /// The entry.
        entry: IntentionId,
        /// Its time, in milliseconds since the Unix epoch.
        wall_ms: u64,
    },
    /// More notices were raised than are kept.
    More {
        /// How many notices are not kept.
        count: u64,
    },
}

impl Notice {
    /// The bytes that the log keeps.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::OutcomeChanged {
                entry,
                transaction,
                told,
                now,
            } => {
                out.push(1);
                out.extend_from_slice(&entry.0);
                out.extend_from_slice(&transaction.to_be_bytes());
                let told = told.to_cbor();
                out.extend_from_slice(&(told.len() as u32).to_be_bytes());
                out.extend_from_slice(&told);
                if let Some(now) = now {
                    out.extend_from_slice(&now.to_cbor());
                }
            }
            Self::Fork { author, entry } => {
                out.push(2);
                out.extend_from_slice(&author.0);
                out.extend_from_slice(&entry.0);
            }
            Self::Divergence { author, entry } => {
                out.push(3);
                out.extend_from_slice(&author.0);
                out.extend_from_slice(&entry.0);
            }
            Self::ClockLeapt { wall_ms, by_ms } => {
                out.push(5);
                out.extend_from_slice(&wall_ms.to_be_bytes());
                out.extend_from_slice(&by_ms.to_be_bytes());
            }
            Self::ChainAhead { entry, wall_ms } => {
                out.push(6);
                out.extend_from_slice(&entry.0);
                out.extend_from_slice(&wall_ms.to_be_bytes());
            }
            Self::More { count } => {
                out.push(4);
                out.extend_from_slice(&count.to_be_bytes());
            }
        }
        out
    }

    /// Reads what [`Notice::encode`] wrote; `None` when the bytes are no notice.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        match kind {
            1 => {
                let (entry, rest) = rest.split_first_chunk::<32>()?;
                let (transaction, rest) = rest.split_first_chunk::<4>()?;
                let (len, rest) = rest.split_first_chunk::<4>()?;
                let (told, now) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
                Some(Self::OutcomeChanged {
                    entry: IntentionId(*entry),
                    transaction: u32::from_be_bytes(*transaction),
                    told: Outcome::from_cbor(told)?,
                    now: match now.len() {
                        0 => None,
                        _ => Some(Outcome::from_cbor(now)?),
                    },
                })
            }
            2 | 3 => {
                let (author, entry) = rest.split_at_checked(32)?;
                let author = DeviceKey::from_slice(author)?;
                let entry = IntentionId::from_slice(entry)?;
                Some(if kind == 2 {
                    Self::Fork { author, entry }
                } else {
                    Self::Divergence { author, entry }
                })
            }
            4 => Some(Self::More {
                count: u64::from_be_bytes(rest.try_into().ok()?),
            }),
            5 => {
                let (wall_ms, by_ms) = rest.split_first_chunk::<8>()?;
                Some(Self::ClockLeapt {
                    wall_ms: u64::from_be_bytes(*wall_ms),
                    by_ms: u64::from_be_bytes(by_ms.try_into().ok()?),
                })
            }
            6 => {
                let (entry, wall_ms) = rest.split_at_checked(32)?;
                Some(Self::ChainAhead {
                    entry: IntentionId::from_slice(entry)?,
                    wall_ms: u64::from_be_bytes(wall_ms.try_into().ok()?),
                })
            }
            _ => None,
        }
    }
}

/// The number and the size of the notices that the log keeps. Beyond the bounds only a counter rises, because a device
/// that forks its chain again and again must not fill the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    next: u64,
    count: usize,
    bytes: usize,
    more: u64,
}

impl Kept {
    /// Counts the notices of the log.
    pub(crate) fn of(notices: &[(u64, Notice)]) -> Self {
        let mut kept = Self::default();
        for (number, notice) in notices {
            match notice {
                Notice::More { count } => kept.more = *count,
                _ => kept.keep(*number, notice.encode().len()),
            }
        }
        kept
    }

    fn keep(&mut self, number: u64, bytes: usize) {
        self.next = number + 1;
        self.count += 1;
        self.bytes += bytes;
    }

    /// Counts the notices that were raised. Returns the rows to write, by number.
    pub(crate) fn add(&mut self, raised: Vec<Notice>) -> Vec<(u64, Notice)> {
        let mut rows = Vec::new();
        let before = self.more;
        for notice in raised {
            let bytes = notice.encode().len();
            if self.count < NOTICES_MAX && self.bytes + bytes <= NOTICES_BYTES_MAX {
                rows.push((self.next, notice));
                self.keep(self.next, bytes);
            } else {
                self.more = self.more.saturating_add(1);
            }
        }
        if self.more != before {
            rows.push((MORE, Notice::More { count: self.more }));
        }
        rows
    }

    /// Counts the notices that an acknowledgement left in the log.
    pub(crate) fn left(&self, notices: &[(u64, Notice)]) -> Self {
        let left = Self::of(notices);
        Self {
            // No number is given twice, even after its notice was acknowledged.
            next: left.next.max(self.next),
            ..left
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_read_back() {
        let entry = IntentionId([1; 32]);
        let author = DeviceKey([2; 32]);
        for notice in [
            Notice::OutcomeChanged {
                entry,
                transaction: 3,
                told: Outcome::Ok(vec![vec![0xf6]]),
                now: Some(Outcome::Unauthorized { index: 0 }),
            },
            Notice::OutcomeChanged {
                entry,
                transaction: 0,
                told: Outcome::Ok(vec![]),
                now: None,
            },
            Notice::Fork { author, entry },
            Notice::Divergence { author, entry },
            Notice::ClockLeapt {
                wall_ms: 9,
                by_ms: 7,
            },
            Notice::ChainAhead {
                entry,
                wall_ms: u64::MAX,
            },
            Notice::More { count: 1 },
        ] {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[9]), None);
        assert_eq!(Notice::decode(&[4, 1]), None);
    }

    /// Holds: invariant 15.
    #[test]
    fn the_bytes_of_notices_about_clocks_are_fixed() {
        let leapt = Notice::ClockLeapt {
            wall_ms: 0x0102,
            by_ms: 3,
        };
        let expected = [&[5, 0, 0, 0, 0, 0, 0, 1, 2][..], &[0, 0, 0, 0, 0, 0, 0, 3]];
        assert_eq!(leapt.encode(), expected.concat());
        let ahead = Notice::ChainAhead {
            entry: IntentionId([7; 32]),
            wall_ms: 4,
        };
        let expected = [&[6][..], &[7; 32], &[0, 0, 0, 0, 0, 0, 0, 4]];
        assert_eq!(ahead.encode(), expected.concat());
    }

    fn fork(n: usize) -> Notice {
        Notice::Fork {
            author: DeviceKey([1; 32]),
            entry: IntentionId(*blake3::hash(&n.to_be_bytes()).as_bytes()),
        }
    }

    fn changed(bytes: usize) -> Notice {
        Notice::OutcomeChanged {
            entry: IntentionId([1; 32]),
            transaction: 0,
            told: Outcome::Ok(vec![vec![7; bytes]]),
            now: None,
        }
    }

    #[test]
    fn notices_are_kept_up_to_their_number_and_then_counted() {
        let mut kept = Kept::default();
        let rows = kept.add((0..NOTICES_MAX).map(fork).collect());
        assert_eq!(rows.len(), NOTICES_MAX);
        assert_eq!(rows[NOTICES_MAX - 1].0, NOTICES_MAX as u64 - 1);
        assert_eq!(kept.add(vec![fork(0)]), [(MORE, Notice::More { count: 1 })]);
        // The counter is read back and goes on from its value.
        let all: Vec<_> = rows
            .into_iter()
            .chain([(MORE, Notice::More { count: 1 })])
            .collect();
        let mut kept = Kept::of(&all);
        let more = kept.add(vec![fork(0), fork(1)]);
        assert_eq!(more, [(MORE, Notice::More { count: 3 })]);
        // An acknowledged notice makes room for another one, whose number is new.
        let mut kept = kept.left(&all[1..]);
        let rows = kept.add(vec![fork(0)]);
        assert_eq!(rows, [(NOTICES_MAX as u64, fork(0))]);
        let mut kept = kept.left(&[]);
        assert_eq!(kept.add(vec![fork(0)])[0].0, NOTICES_MAX as u64 + 1);
    }

    #[test]
    fn notices_are_kept_up_to_their_bytes_and_then_counted() {
        // In CBOR the heads of all byte strings of these lengths have the same length.
        let head = changed(100_000).encode().len() - 100_000;
        let mut kept = Kept::default();
        let half = NOTICES_BYTES_MAX / 2;
        assert_eq!(kept.add(vec![changed(half - head)])[0].0, 0);
        let more = kept.add(vec![changed(half - head + 1)]);
        assert_eq!(more, [(MORE, Notice::More { count: 1 })]);
        assert_eq!(kept.add(vec![changed(half - head)])[0].0, 1);
        let more = kept.add(vec![fork(0)]);
        assert_eq!(more, [(MORE, Notice::More { count: 2 })]);
    }
}

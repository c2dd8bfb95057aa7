//! What a person should know although nobody asked: durable until acknowledged.

use lattice_format::{DeviceKey, IntentionId};

use crate::outcome::Outcome;

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A caller here was told one outcome; an earlier entry that arrived later changed it.
    OutcomeChanged {
        /// The intention.
        entry: IntentionId,
        /// The transaction's place in it.
        transaction: u32,
        /// What the caller was told.
        told: Outcome,
        /// What holds now; `None` when the entry has become void.
        now: Option<Outcome>,
    },
    /// A device signed two intentions for one place of its chain.
    Fork {
        /// The device.
        author: DeviceKey,
        /// The second of the two to arrive here.
        entry: IntentionId,
    },
    /// The author of an entry had other roots than this replica over the same entries.
    Divergence {
        /// The author.
        author: DeviceKey,
        /// The entry that says so.
        entry: IntentionId,
    },
}

impl Notice {
    /// The form in which the log keeps it.
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
        }
        out
    }

    /// Reads what [`Notice::encode`] wrote.
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
            _ => None,
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
        ] {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[9]), None);
    }
}

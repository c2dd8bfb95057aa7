//! The canonical order: hybrid logical time, then id.
//!
//! An intention's time exceeds the times of all intentions that it names, so the order never contradicts
//! causality (Kulkarni et al., "Logical Physical Clocks", 2014, for the clock). All replicas agree on the
//! order; it is not fair, and its times are claims.

use crate::ids::IntentionId;

/// A hybrid logical time: wall clock in milliseconds since the Unix epoch, then a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Distinguishes times within one millisecond.
    pub counter: u32,
}

impl Time {
    /// The smallest time above `self`.
    ///
    /// `None` only at the very last representable time.
    pub fn successor(self) -> Option<Self> {
        match self.counter.checked_add(1) {
            Some(counter) => Some(Self { counter, ..self }),
            None => Some(Self {
                wall_ms: self.wall_ms.checked_add(1)?,
                counter: 0,
            }),
        }
    }

    /// The time of a local event: the larger of the clock and the smallest time above `latest`.
    pub fn local(clock_ms: u64, latest: Self) -> Option<Self> {
        let clock = Self {
            wall_ms: clock_ms,
            counter: 0,
        };
        Some(clock.max(latest.successor()?))
    }
}

/// The place of an intention in the canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The intention's time.
    pub time: Time,
    /// The intention's id, which orders equal times.
    pub id: IntentionId,
}

impl Position {
    /// Length of [`Position::to_bytes`].
    pub const LEN: usize = 44;
    /// Below every real position.
    pub const MIN: Self = Self {
        time: Time {
            wall_ms: 0,
            counter: 0,
        },
        id: IntentionId([0; 32]),
    };
    /// Above every real position.
    pub const MAX: Self = Self {
        time: Time {
            wall_ms: u64::MAX,
            counter: u32::MAX,
        },
        id: IntentionId([0xff; 32]),
    };

    /// 8 bytes of milliseconds, 4 of counter, both big-endian, and the id: sorts as the order does.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.time.wall_ms.to_be_bytes());
        out[8..12].copy_from_slice(&self.time.counter.to_be_bytes());
        out[12..].copy_from_slice(&self.id.0);
        out
    }

    /// Reads what [`Position::to_bytes`] wrote; `None` for another length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        Some(Self {
            time: Time {
                wall_ms: u64::from_be_bytes(bytes[..8].try_into().ok()?),
                counter: u32::from_be_bytes(bytes[8..12].try_into().ok()?),
            },
            id: IntentionId::from_slice(&bytes[12..])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position() -> impl Strategy<Value = Position> {
        (0u64..3, 0u32..3, any::<[u8; 32]>()).prop_map(|(wall_ms, counter, id)| Position {
            time: Time { wall_ms, counter },
            id: IntentionId(id),
        })
    }

    proptest! {
        #[test]
        fn bytes_sort_as_positions_do(a in position(), b in position()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(Position::from_slice(&a.to_bytes()), Some(a));
        }

        #[test]
        fn a_local_time_exceeds_what_was_applied(clock: u64, wall_ms in 0..u64::MAX, counter: u32) {
            let latest = Time { wall_ms, counter };
            let time = Time::local(clock, latest).expect("a time below the last one has a successor");
            prop_assert!(time > latest);
            prop_assert!(time.wall_ms >= clock);
        }
    }
}

//! Slots: positions in the canonical order, in the short form that keys hold.

use lattice_format::{Position, Time};

/// A position without the second half of its id, to save bytes in every key. Two entries of one store share a slot
/// only if their ids agree in 128 bits. To find such a pair takes 2⁶⁴ hashes, as many as to forge the keys of calls
/// and the marks of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot([u8; Self::LEN]);

impl Slot {
    /// Length of a slot in bytes: 12 of time, 16 of id.
    pub(crate) const LEN: usize = 28;
    /// The slot below every entry.
    pub(crate) const MIN: Self = Self([0; Self::LEN]);
    /// The slot above every entry: the end of the order.
    pub(crate) const MAX: Self = Self([0xff; Self::LEN]);

    /// The slot of a position.
    pub(crate) fn of(position: Position) -> Self {
        let bytes = position.to_bytes();
        Self(*bytes.first_chunk().expect("a position has 44 bytes"))
    }

    /// The bytes of the slot, which sort as the order does.
    pub(crate) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Reads what [`Slot::as_bytes`] returned; `None` for another length.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads the slot at the end of a key.
    pub(crate) fn at_end_of(key: &[u8]) -> Option<Self> {
        key.last_chunk().copied().map(Self)
    }

    /// The smallest slot above this one.
    pub(crate) fn just_above(self) -> Self {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            let (next, carried) = byte.overflowing_add(1);
            *byte = next;
            if !carried {
                return Self(bytes);
            }
        }
        Self::MAX
    }

    /// The smallest slot of a time.
    pub(crate) fn first_of(time: Time) -> Self {
        Self::of(Position {
            time,
            ..Position::MIN
        })
    }

    /// The smallest slot above every entry up to this millisecond.
    pub(crate) fn after_ms(wall_ms: u64) -> Self {
        let counter = 0;
        let next = wall_ms.checked_add(1);
        next.map_or(Self::MAX, |wall_ms| {
            Self::first_of(Time { wall_ms, counter })
        })
    }

    /// The time of the slot.
    pub(crate) fn time(&self) -> Time {
        let (wall_ms, counter) = (self.0.first_chunk(), self.0[8..].first_chunk());
        Time {
            wall_ms: u64::from_be_bytes(*wall_ms.expect("a slot has 28 bytes")),
            counter: u32::from_be_bytes(*counter.expect("a slot has 28 bytes")),
        }
    }

    /// Whether both slots are of one time.
    pub(crate) fn is_at_the_time_of(&self, other: &Self) -> bool {
        self.0[..12] == other.0[..12]
    }
}

#[cfg(test)]
mod tests {
    use lattice_format::IntentionId;

    use super::*;

    #[test]
    fn slots_sort_as_positions_and_have_neighbours() {
        let slot = |wall_ms, counter, id| {
            Slot::of(Position {
                time: Time { wall_ms, counter },
                id: IntentionId([id; 32]),
            })
        };
        assert!(slot(1, 0, 9) < slot(1, 1, 0));
        assert!(slot(1, 0, 1) < slot(1, 0, 2));
        assert!(slot(1, 0, 1) < slot(1, 0, 1).just_above());
        assert!(slot(1, 0, 1).just_above() < slot(1, 0, 2));
        assert_eq!(slot(1, 0, 0xff).just_above(), slot(1, 1, 0));
        assert_eq!(Slot::MAX.just_above(), Slot::MAX);
        assert!(slot(7, u32::MAX, 0xff) < Slot::after_ms(7));
        assert_eq!(Slot::after_ms(7), slot(8, 0, 0));
        assert_eq!(Slot::after_ms(u64::MAX), Slot::MAX);
        let time = Time {
            wall_ms: 7,
            counter: 9,
        };
        assert_eq!(slot(7, 9, 3).time(), time);
        assert!(slot(1, 0, 1).is_at_the_time_of(&slot(1, 0, 2)));
        assert!(!slot(1, 0, 1).is_at_the_time_of(&slot(1, 1, 1)));
    }
}

//! The interval of a session: when it compares although nothing happened, and when it has stalled.

use super::effect::Status;

/// What is due in a session at the end of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A comparison is due. Give the session [`super::Input::Reconcile`].
    Compare,
    /// Nothing is due: a round is under way and gets on, or a round began in this interval.
    Wait,
    /// A round has stood still for a whole interval and will not recover. End the session, and open another.
    Stalled,
}

/// Looks at a session once an interval, so that sync does not stop silently when a message was lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    moved: (u64, u64),
    /// The last round that was counted: the last one of the interval before, or the one that was due at its end.
    round: u64,
}

impl Pace {
    /// What is due now that an interval is over. With `delivering`, the store has not answered the last
    /// [`super::Effect::Deliver`] yet: then the session stands still without a fault of the peer.
    pub fn due(&mut self, status: &Status, delivering: bool) -> Due {
        let moved = (status.entries_sent, status.entries_received);
        let still = moved == self.moved;
        self.moved = moved;
        // One digest an interval is enough for both sides, so the side that looks second waits for the next interval.
        let compared = status.round > self.round;
        self.round = status.round;
        match status.settled {
            true if compared => Due::Wait,
            true => {
                self.round += 1;
                Due::Compare
            }
            false if still && !delivering => Due::Stalled,
            false => Due::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_stands_still_is_ended_and_one_that_gets_on_is_not() {
        let mut status = Status {
            round: 1,
            settled: false,
            in_sync: false,
            entries_sent: 3,
            entries_received: 0,
            faults: 0,
            peer_count: 0,
        };
        let mut pace = Pace::default();
        assert_eq!(pace.due(&status, false), Due::Wait, "it has sent entries");
        assert_eq!(pace.due(&status, true), Due::Wait, "the store is busy");
        assert_eq!(pace.due(&status, false), Due::Stalled);
        status.entries_received = 1;
        assert_eq!(pace.due(&status, false), Due::Wait);
        status.settled = true;
        assert_eq!(pace.due(&status, false), Due::Compare);
    }

    #[test]
    fn one_side_compares_in_an_interval_and_not_both() {
        let mut status = Status {
            round: 1,
            settled: true,
            in_sync: true,
            entries_sent: 0,
            entries_received: 0,
            faults: 0,
            peer_count: 0,
        };
        let (mut one, mut other) = (Pace::default(), Pace::default());
        // The first round began in this interval.
        assert_eq!(one.due(&status, false), Due::Wait);
        assert_eq!(other.due(&status, false), Due::Wait);
        for _ in 0..3 {
            assert_eq!(one.due(&status, false), Due::Compare);
            status.round += 1;
            assert_eq!(other.due(&status, false), Due::Wait);
        }
        // If the first side is silent, the other one compares.
        assert_eq!(other.due(&status, false), Due::Compare);
    }
}

//! Dialling of peers: when the next try is, which of two connections with one peer stays, and whose turn it is to
//! compare first.
//!
//! A node runs one [`Dial`] for each peer that it keeps a connection with, whatever stores it shares with the peer. The
//! values here read no clock and draw no randomness: times are arguments, in milliseconds since some moment of the
//! node, and so is the chance in a pause. Whom to dial, by which address and how, is the shell's.

use lattice_format::DeviceKey;

use super::effect::Role;
use super::limits::{CROSSING_MS, FIRST_ROUND_MS, FIRST_ROUNDS_MAX, LASTING_MS};

/// The most times that a pause doubles.
const DOUBLINGS_MAX: u32 = 16;

/// A random number, each of 64 bits as likely as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter(pub u64);

/// Pauses between tries, each twice as long as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after a success, in milliseconds.
    pub first_ms: u64,
    /// The longest pause, in milliseconds.
    pub longest_ms: u64,
}

impl Backoff {
    /// The pause after so many failures in a row, in milliseconds: between half of it and all of it by chance, so that
    /// many nodes do not knock at once.
    pub fn pause_ms(self, failures: u32, jitter: Jitter) -> u64 {
        let doubled = self
            .first_ms
            .saturating_mul(1 << failures.min(DOUBLINGS_MAX));
        let full_ms = doubled.min(self.longest_ms);
        let half_ms = full_ms / 2;
        // The product is below 2^128, so its upper half is below `full_ms - half_ms`.
        let more_ms = (u128::from(full_ms - half_ms) * u128::from(jitter.0)) >> 64;
        half_ms + more_ms as u64
    }
}

/// When one peer is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Tries in a row that brought no connection that lasted.
    failures: u32,
    due_ms: u64,
    is_connected: bool,
}

impl Dial {
    /// A peer that is dialled at once.
    pub fn new(now_ms: u64) -> Self {
        Self {
            failures: 0,
            due_ms: now_ms,
            is_connected: false,
        }
    }

    /// When the peer is dialled, unless it is connected by then.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Notes that a connection stands, whoever dialled, and for how long. One that lasts is a success.
    pub fn stands(&mut self, stood_ms: u64) {
        self.is_connected = true;
        if stood_ms >= LASTING_MS {
            self.failures = 0;
        }
    }

    /// Notes that no connection stands. If one did, the peer is dialled after a pause, because a peer that closes each
    /// connection on purpose would be dialled without end.
    pub fn lost(&mut self, now_ms: u64, backoff: Backoff, jitter: Jitter) {
        if std::mem::take(&mut self.is_connected) {
            self.pause(now_ms, backoff, jitter);
            self.failures += 1;
        }
    }

    /// Notes that a dial brought a connection. If that is gone before anybody looks, the next dial waits as well.
    pub fn made(&mut self, now_ms: u64, backoff: Backoff, jitter: Jitter) {
        self.pause(now_ms, backoff, jitter);
    }

    /// Notes that a dial brought no connection.
    pub fn failed(&mut self, now_ms: u64, backoff: Backoff, jitter: Jitter) {
        self.failures += 1;
        self.pause(now_ms, backoff, jitter);
    }

    /// Notes that the peer may be where it was not before: it is dialled at once.
    pub fn address_learnt(&mut self, now_ms: u64) {
        self.failures = 0;
        self.due_ms = now_ms;
    }

    /// Puts the dial off for the longest pause, because the peer is banned or no address of it is known.
    pub fn put_off(&mut self, now_ms: u64, backoff: Backoff) {
        self.due_ms = self.due_ms.max(now_ms + backoff.longest_ms);
    }

    fn pause(&mut self, now_ms: u64, backoff: Backoff, jitter: Jitter) {
        self.due_ms = now_ms + backoff.pause_ms(self.failures, jitter);
    }
}

/// A connection that stands, as another one with the same peer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether this node dialled it.
    pub role: Role,
    /// For how long it stands, in milliseconds.
    pub stood_ms: u64,
}

impl Standing {
    /// Whether this connection stays and the new one is closed, or the other way round. `new` says whether this node,
    /// `me`, dialled the new one.
    ///
    /// When both dial at the same time, both keep the connection that the smaller key dialled. A peer that dials later
    /// has lost the old one, whatever this side believes.
    pub fn stays(self, new: Role, me: &DeviceKey, peer: &DeviceKey) -> bool {
        let is_crossing = self.role != new && self.stood_ms < CROSSING_MS;
        match is_crossing {
            true => (self.role == Role::Dialer) == (me < peer),
            false => new == Role::Dialer,
        }
    }
}

/// Whether a node may begin a further session of a store. `first_rounds` has, for each session that the node began and
/// whose first round has not ended, how long ago that was, in milliseconds.
///
/// What many peers have, all of them would send. Who is slow, or gone, is not waited for. Sessions that peers begin are
/// not counted, so that they delay nothing.
pub fn may_begin(first_rounds: impl IntoIterator<Item = u64>) -> bool {
    let rounds = first_rounds.into_iter();
    rounds.filter(|ms| *ms < FIRST_ROUND_MS).count() < FIRST_ROUNDS_MAX
}

#[cfg(test)]
mod tests {
    use super::super::limits::{FIRST_ROUND_LOOK_MS, RETRY_MAX_MS, RETRY_MIN_MS};
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first_ms: RETRY_MIN_MS,
        longest_ms: RETRY_MAX_MS,
    };
    const LEAST: Jitter = Jitter(0);
    const MOST: Jitter = Jitter(u64::MAX);
    const SMALL: DeviceKey = DeviceKey([1; 32]);
    const LARGE: DeviceKey = DeviceKey([2; 32]);

    #[test]
    fn pauses_double_to_their_bound_and_chance_takes_at_most_half() {
        for failures in (0..100).chain([u32::MAX]) {
            let full_ms = (RETRY_MIN_MS << failures.min(16)).min(RETRY_MAX_MS);
            assert_eq!(BACKOFF.pause_ms(failures, LEAST), full_ms / 2);
            assert_eq!(BACKOFF.pause_ms(failures, MOST), full_ms - 1);
            let middle = BACKOFF.pause_ms(failures, Jitter(1 << 63));
            assert_eq!(middle, full_ms / 2 + full_ms / 4);
        }
        let endless = Backoff {
            first_ms: u64::MAX,
            longest_ms: u64::MAX,
        };
        assert_eq!(endless.pause_ms(3, MOST), u64::MAX - 1);
    }

    #[test]
    fn each_dial_that_fails_is_followed_by_a_longer_pause() {
        let mut dial = Dial::new(7);
        assert_eq!(dial.due_ms(), 7, "the first comes at once");
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let now_ms = dial.due_ms();
            dial.failed(now_ms, BACKOFF, LEAST);
            pauses.push(dial.due_ms() - now_ms);
        }
        assert_eq!(pauses, [RETRY_MIN_MS, 2 * RETRY_MIN_MS, 4 * RETRY_MIN_MS]);
    }

    #[test]
    fn who_closes_each_connection_is_dialled_less_and_less_and_who_lasts_soon_again() {
        let mut dial = Dial::new(0);
        let mut lose_after = |stood_ms| {
            dial.made(0, BACKOFF, LEAST);
            dial.stands(0);
            dial.stands(stood_ms);
            dial.lost(0, BACKOFF, LEAST);
            dial.due_ms()
        };
        let first_ms = RETRY_MIN_MS / 2;
        assert_eq!(lose_after(LASTING_MS - 1), first_ms);
        assert_eq!(lose_after(LASTING_MS - 1), 2 * first_ms);
        assert_eq!(lose_after(LASTING_MS - 1), 4 * first_ms);
        assert_eq!(lose_after(LASTING_MS), first_ms);
        assert_eq!(lose_after(0), 2 * first_ms, "the loss counts as a try");
    }

    #[test]
    fn a_connection_is_lost_once() {
        let mut dial = Dial::new(0);
        dial.lost(5, BACKOFF, LEAST);
        assert_eq!(dial, Dial::new(0), "there was none");
        dial.stands(LASTING_MS);
        dial.lost(5, BACKOFF, LEAST);
        let lost = dial;
        dial.lost(900, BACKOFF, LEAST);
        assert_eq!(dial, lost);
    }

    #[test]
    fn a_dial_that_was_made_waits_like_the_one_before_should_its_connection_be_gone() {
        let mut dial = Dial::new(0);
        dial.failed(0, BACKOFF, LEAST);
        for _ in 0..3 {
            dial.made(100, BACKOFF, LEAST);
            assert_eq!(dial.due_ms(), 100 + RETRY_MIN_MS);
        }
    }

    #[test]
    fn an_address_ends_the_pause_and_a_ban_makes_it_the_longest() {
        let mut dial = Dial::new(0);
        for _ in 0..20 {
            dial.failed(0, BACKOFF, MOST);
        }
        dial.address_learnt(3);
        assert_eq!(dial, Dial::new(3));
        dial.put_off(10, BACKOFF);
        assert_eq!(dial.due_ms(), 10 + RETRY_MAX_MS);
        dial.put_off(5, BACKOFF);
        assert_eq!(dial.due_ms(), 10 + RETRY_MAX_MS, "never to an earlier time");
    }

    #[test]
    fn when_both_dial_both_keep_what_the_smaller_key_dialled() {
        let young = |role| Standing {
            role,
            stood_ms: CROSSING_MS - 1,
        };
        for (first, second) in [(SMALL, LARGE), (LARGE, SMALL)] {
            // The two ends of the connection that `first` dialled, as that of `second` begins.
            let dialler = young(Role::Dialer).stays(Role::Listener, &first, &second);
            let listener = young(Role::Listener).stays(Role::Dialer, &second, &first);
            assert_eq!([dialler, listener], [first == SMALL; 2]);
        }
    }

    #[test]
    fn a_peer_that_dials_again_has_lost_the_old_connection() {
        for role in [Role::Dialer, Role::Listener] {
            for (me, peer) in [(SMALL, LARGE), (LARGE, SMALL)] {
                let stood_ms = CROSSING_MS;
                let old = Standing { role, stood_ms };
                assert!(!old.stays(Role::Listener, &me, &peer));
                assert!(old.stays(Role::Dialer, &me, &peer), "one is enough");
            }
        }
        let old = Standing {
            role: Role::Listener,
            stood_ms: 0,
        };
        assert!(!old.stays(Role::Listener, &LARGE, &SMALL), "no crossing");
    }

    #[test]
    fn few_sessions_are_in_their_first_round_and_who_is_slow_is_not_waited_for() {
        assert!(may_begin(vec![0; FIRST_ROUNDS_MAX - 1]));
        assert!(!may_begin(vec![0; FIRST_ROUNDS_MAX]));
        let looks = (0..).map(|n| n * FIRST_ROUND_LOOK_MS);
        let waited_ms = looks
            .take_while(|ms| !may_begin(vec![*ms; FIRST_ROUNDS_MAX]))
            .last();
        assert_eq!(waited_ms, Some(FIRST_ROUND_MS - FIRST_ROUND_LOOK_MS));
    }
}

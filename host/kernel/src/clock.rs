//! The clocks of a node and of its peers: what time a node writes by, and whether it may sign.
//!
//! A node has a wall clock, which people and NTP set, and a monotonic clock, which nobody sets. Each peer announces its
//! wall clock. What is kept of a peer is its wall clock minus this node's monotonic clock, so a step of this node's wall
//! clock shows at its next use, and not only when a peer speaks again.
//!
//! Each store judges this node's clock by the median of its own active members. A clock that is behind them is corrected
//! by at most the drift that the store allows. Beyond that, and when the clock is ahead of them by more than half of the
//! drift, nobody can tell who is wrong, so the node signs nothing until a person sets a clock.
//!
//! The values here read no clock: readings are arguments.

use std::collections::BTreeMap;

use lattice_format::DeviceKey;

use crate::limits::{CLOCK_STEP_MS, CLOCKS_MAX, LEAP_MS};
use crate::mutant::{self, Mutant};

/// Both clocks of a node at one moment, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock since the Unix epoch. It may jump.
    pub wall_ms: u64,
    /// The monotonic clock since a fixed moment. It goes on while the machine sleeps, and never falls.
    pub elapsed_ms: u64,
}

impl Reading {
    /// The wall clock minus the monotonic clock: constant as long as nobody sets the wall clock.
    fn offset_ms(self) -> i64 {
        offset_ms(self.wall_ms, self.elapsed_ms)
    }
}

fn offset_ms(wall_ms: u64, elapsed_ms: u64) -> i64 {
    clamped(i128::from(wall_ms) - i128::from(elapsed_ms))
}

fn clamped(ms: i128) -> i64 {
    // The bounds are symmetric, so that a difference can be negated.
    ms.clamp(i128::from(-i64::MAX), i128::from(i64::MAX)) as i64
}

/// What happened to the clocks that a node knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The node is about to use its clock.
    Use,
    /// A peer said what its wall clock shows.
    Announced {
        /// The peer.
        peer: DeviceKey,
        /// Its wall clock, in milliseconds since the Unix epoch.
        clock_ms: u64,
    },
    /// A connection to the peer stands.
    Connected(DeviceKey),
    /// No connection to the peer stands any more.
    Left(DeviceKey),
}

/// What the node is to do about its clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The wall clock was set since the peers were last told of it: say Hello to all of them.
    TellPeers {
        /// By how much, in milliseconds.
        by_ms: i64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// The peer's wall clock minus this node's monotonic clock; `None` before its first word.
    offset_ms: Option<i64>,
    connected: bool,
    at_ms: u64,
}

/// The clocks of a node's peers, against the node's monotonic clock. At most [`CLOCKS_MAX`].
#[derive(Debug, Default)]
pub struct Clocks {
    heard: BTreeMap<DeviceKey, Heard>,
    /// The offset of the node's own wall clock that the peers know.
    told_ms: Option<i64>,
    version: u64,
}

impl Clocks {
    /// Takes one thing that happened at `now`.
    pub fn handle(&mut self, input: Input, now: Reading) -> Option<Effect> {
        match input {
            Input::Use => {}
            Input::Announced { peer, clock_ms } => {
                let offset_ms = offset_ms(clock_ms, now.elapsed_ms);
                self.change(peer, now, |heard| heard.offset_ms = Some(offset_ms));
            }
            Input::Connected(peer) => self.change(peer, now, |heard| heard.connected = true),
            Input::Left(peer) => {
                if self.heard.contains_key(&peer) {
                    self.change(peer, now, |heard| heard.connected = false);
                }
            }
        }
        let own_ms = now.offset_ms();
        let by_ms = own_ms.saturating_sub(*self.told_ms.get_or_insert(own_ms));
        if by_ms.unsigned_abs() <= CLOCK_STEP_MS {
            return None;
        }
        self.told_ms = Some(own_ms);
        Some(Effect::TellPeers { by_ms })
    }

    fn change(&mut self, peer: DeviceKey, now: Reading, change: impl FnOnce(&mut Heard)) {
        if !self.heard.contains_key(&peer) && self.heard.len() >= CLOCKS_MAX {
            let gone = self.heard.iter().filter(|(_, heard)| !heard.connected);
            let Some(oldest) = gone.min_by_key(|(_, heard)| heard.at_ms).map(|(k, _)| *k) else {
                return;
            };
            self.heard.remove(&oldest);
        }
        let heard = self.heard.entry(peer).or_insert(Heard {
            offset_ms: None,
            connected: false,
            at_ms: now.elapsed_ms,
        });
        change(heard);
        heard.at_ms = now.elapsed_ms;
        self.version += 1;
    }

    /// Rises with every change, so that a shell need not ask for the same medians again.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The medians of the peers that `counts` admits. A store asks with its active members, each of which counts once.
    pub fn medians(&self, counts: impl Fn(&DeviceKey) -> bool) -> Medians {
        let members = || self.heard.iter().filter(|(peer, _)| counts(peer));
        let connected = members().filter(|(_, heard)| heard.connected);
        Medians {
            connected: Middle::of(connected.filter_map(|(_, heard)| heard.offset_ms)),
            known: Middle::of(members().filter_map(|(_, heard)| heard.offset_ms)),
        }
    }

    /// How far a peer's clock is ahead of this node's, in milliseconds; `None` before its first word.
    pub fn lead_ms(&self, peer: &DeviceKey, now: Reading) -> Option<i64> {
        let offset_ms = self.heard.get(peer)?.offset_ms?;
        Some(offset_ms.saturating_sub(now.offset_ms()))
    }
}

/// The two offsets in the middle of several, which are one offset when their number is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Middle {
    lower_ms: i64,
    upper_ms: i64,
}

impl Middle {
    fn of(offsets: impl Iterator<Item = i64>) -> Option<Self> {
        let mut sorted: Vec<i64> = offsets.collect();
        sorted.sort_unstable();
        Some(Self {
            upper_ms: *sorted.get(sorted.len() / 2)?,
            lower_ms: sorted[(sorted.len() - 1) / 2],
        })
    }

    /// The offset of the median. Of two in the middle the one nearer to the node's own counts, so of two peers one that
    /// lies changes nothing.
    fn near(self, own_ms: i64) -> i64 {
        own_ms.clamp(self.lower_ms, self.upper_ms)
    }

    /// The time by the median.
    fn wall_ms(self, now: Reading) -> u64 {
        let wall_ms = i128::from(now.elapsed_ms) + i128::from(self.near(now.offset_ms()));
        u64::try_from(wall_ms.max(0)).unwrap_or(u64::MAX)
    }
}

/// The medians of the clocks of a store's members, against the node's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Medians {
    /// Of those that are connected.
    connected: Option<Middle>,
    /// Of all whose clock was ever announced.
    known: Option<Middle>,
}

impl Medians {
    /// How far the node's clock is ahead of the median, in milliseconds, and negative when it is behind; `None` when no
    /// member ever announced a clock. Members that have left count while none is connected.
    pub fn lead_ms(&self, now: Reading) -> Option<i64> {
        let middle = self.connected.or(self.known)?;
        let own_ms = now.offset_ms();
        Some(own_ms.saturating_sub(middle.near(own_ms)))
    }
}

/// What a store and a person say about a node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The drift that the store's genesis allows, in milliseconds.
    pub drift_ms: u64,
    /// The time of the genesis, in milliseconds since the Unix epoch. A clock below it counts as this time.
    pub genesis_ms: u64,
    /// Whether a person has said that the clock is right, whatever others say.
    pub trusted: bool,
}

/// How a node's clock stands among those of a store's active members. Differences are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing tells whether the clock is right.
    Alone,
    /// A person has said that the clock is right.
    Trusted,
    /// The clock is within half of the drift of the median.
    Agrees,
    /// The clock was behind by more than half of the drift and at most the drift. The time of the verdict has the
    /// difference added.
    Corrected {
        /// How far it was behind.
        by_ms: u64,
    },
    /// The clock is behind by more than the drift, so the node signs nothing.
    Behind {
        /// How far.
        by_ms: u64,
    },
    /// The clock is ahead by more than half of the drift, so the node signs nothing.
    Ahead {
        /// How far.
        by_ms: u64,
    },
}

/// The time of a node in one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The time that entries get, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The time by which entries of others are judged too far ahead. It is the members' time when that is earlier: to
    /// wait harms nobody, and what was admitted too early stays.
    pub admits_ms: u64,
    /// How the clock stands.
    pub standing: Standing,
}

/// Why a node signs nothing in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The clock is ahead of the members'.
    #[error(
        "this node's clock is {} ahead of those of the store's members, so nothing is signed; set the clock, or, if it is the members' that are wrong, run the daemon with --trust-clock",
        Span(*.by_ms)
    )]
    Ahead {
        /// How far, in milliseconds.
        by_ms: u64,
    },
    /// The clock is behind the members'.
    #[error(
        "this node's clock is {} behind those of the store's members, more than the {} that are corrected, so nothing is signed; set the clock, or, if it is the members' that are wrong, run the daemon with --trust-clock",
        Span(*.by_ms), Span(*.drift_ms)
    )]
    Behind {
        /// How far, in milliseconds.
        by_ms: u64,
        /// The most that is corrected, in milliseconds.
        drift_ms: u64,
    },
    /// No member tells the time, and the clock has leapt since the store's last entry.
    #[error(
        "this node's clock is {} after the last entry of the store, and no active member is known to confirm it; what is signed by a clock that is ahead reaches others only when their clocks get there; check the date, then agree to it with `lattice call --yes`",
        Span(*.by_ms)
    )]
    Leap {
        /// How far the clock is above the last entry, in milliseconds.
        by_ms: u64,
    },
}

/// A length of time in words: the largest unit of which there are at least two, rounded down.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub u64);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [(u64, &str); 5] = [
            (365 * 86_400_000, "years"),
            (86_400_000, "days"),
            (3_600_000, "hours"),
            (60_000, "minutes"),
            (1_000, "seconds"),
        ];
        match UNITS.iter().find(|(ms, _)| self.0 >= 2 * ms) {
            Some((ms, unit)) => write!(f, "{} {unit}", self.0 / ms),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl Verdict {
    /// The verdict on a clock that nothing speaks for or against.
    pub fn alone(wall_ms: u64) -> Self {
        Self {
            wall_ms,
            admits_ms: wall_ms,
            standing: Standing::Alone,
        }
    }

    /// Judges a node's clock by the members of a store.
    pub fn of(now: Reading, medians: &Medians, terms: Terms) -> Self {
        // A genesis may come from a clock that was ahead. Then every member's clock is below it, and counts as it.
        let own_ms = now.wall_ms.max(terms.genesis_ms);
        let alone = Self::alone(own_ms);
        if terms.trusted {
            return Self {
                standing: Standing::Trusted,
                ..alone
            };
        }
        let Some(middle) = medians.connected.or(medians.known) else {
            return alone;
        };
        let members_ms = middle.wall_ms(now).max(terms.genesis_ms);
        let half_ms = terms.drift_ms / 2;
        let (ahead_ms, behind_ms) = (
            own_ms.saturating_sub(members_ms),
            members_ms.saturating_sub(own_ms),
        );
        let standing = match () {
            () if ahead_ms > half_ms => Standing::Ahead { by_ms: ahead_ms },
            () if behind_ms <= half_ms => Standing::Agrees,
            // Members that have left may have set their clocks since, so they correct nothing.
            () if medians.connected.is_none() => return alone,
            () if behind_ms <= terms.drift_ms || mutant::active(Mutant::CorrectionUnbounded) => {
                return Self {
                    wall_ms: members_ms,
                    admits_ms: members_ms,
                    standing: Standing::Corrected { by_ms: behind_ms },
                };
            }
            () => Standing::Behind { by_ms: behind_ms },
        };
        Self {
            wall_ms: own_ms,
            admits_ms: own_ms.min(members_ms),
            standing,
        }
    }

    /// Whether members or a person vouch for the time.
    pub fn is_confirmed(&self) -> bool {
        match self.standing {
            Standing::Trusted | Standing::Agrees | Standing::Corrected { .. } => true,
            Standing::Alone | Standing::Behind { .. } | Standing::Ahead { .. } => false,
        }
    }

    /// Whether [`Verdict::admits_ms`] is a time that members or a person vouch for.
    pub fn tells_time(&self) -> bool {
        self.is_confirmed() || matches!(self.standing, Standing::Ahead { .. })
    }

    /// Checks that a node may sign by this clock in a store whose last entry has the time `last_ms`. Returns how far the
    /// clock has leapt since, in milliseconds, if it has and `accepts_leap`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(
        &self,
        drift_ms: u64,
        last_ms: u64,
        accepts_leap: bool,
    ) -> Result<Option<u64>, ClockError> {
        match self.standing {
            Standing::Ahead { by_ms } => Err(ClockError::Ahead { by_ms }),
            Standing::Behind { by_ms } => Err(ClockError::Behind { by_ms, drift_ms }),
            Standing::Trusted | Standing::Agrees | Standing::Corrected { .. } => Ok(None),
            Standing::Alone => match self.wall_ms.saturating_sub(last_ms) {
                by_ms if by_ms <= LEAP_MS => Ok(None),
                by_ms if accepts_leap => Ok(Some(by_ms)),
                by_ms => Err(ClockError::Leap { by_ms }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIFT_MS: u64 = 60_000;
    const NOON_MS: u64 = 1_800_000_000_000;
    const YEAR_MS: u64 = 365 * 86_400_000;
    const TERMS: Terms = Terms {
        drift_ms: DRIFT_MS,
        genesis_ms: NOON_MS - YEAR_MS,
        trusted: false,
    };

    fn peer(n: u32) -> DeviceKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        DeviceKey(key)
    }

    /// A reading at `at_ms` of the monotonic clock, of a clock that is `ahead_ms` ahead of the true one.
    fn reading(at_ms: u64, ahead_ms: i64) -> Reading {
        Reading {
            wall_ms: (NOON_MS + at_ms).saturating_add_signed(ahead_ms),
            elapsed_ms: 5_000_000 + at_ms,
        }
    }

    /// The clocks of peers that are so far ahead of the true time, all connected.
    fn heard(leads_ms: &[i64]) -> Clocks {
        let mut clocks = Clocks::default();
        for (n, lead_ms) in (0..).zip(leads_ms) {
            clocks.handle(Input::Connected(peer(n)), reading(0, 0));
            let clock_ms = reading(0, *lead_ms).wall_ms;
            let announced = Input::Announced {
                peer: peer(n),
                clock_ms,
            };
            clocks.handle(announced, reading(0, 0));
        }
        clocks
    }

    fn judged(leads_ms: &[i64], ahead_ms: i64) -> Verdict {
        let medians = heard(leads_ms).medians(|_| true);
        Verdict::of(reading(0, ahead_ms), &medians, TERMS)
    }

    #[test]
    fn a_correction_is_at_most_the_drift() {
        let behind = |by_ms: u64| judged(&[by_ms as i64], 0);
        let half = DRIFT_MS / 2;
        assert_eq!(behind(half).standing, Standing::Agrees);
        assert_eq!(behind(half).wall_ms, NOON_MS);
        for by_ms in [half + 1, DRIFT_MS] {
            let verdict = behind(by_ms);
            assert_eq!(verdict.standing, Standing::Corrected { by_ms });
            assert_eq!(verdict.wall_ms, NOON_MS + by_ms);
            assert_eq!(verdict.admits_ms, NOON_MS + by_ms);
            assert_eq!(verdict.check(DRIFT_MS, NOON_MS, false), Ok(None));
        }
        for by_ms in [DRIFT_MS + 1, YEAR_MS, i64::MAX as u64] {
            let verdict = behind(by_ms);
            assert_eq!((verdict.wall_ms, verdict.admits_ms), (NOON_MS, NOON_MS));
            let error = verdict.check(DRIFT_MS, NOON_MS, true).unwrap_err();
            assert!(matches!(error, ClockError::Behind { .. }), "{error}");
            assert!(error.to_string().contains("set the clock"), "{error}");
        }
    }

    #[test]
    fn a_clock_ahead_by_more_than_half_of_the_drift_signs_nothing_and_admits_by_its_members() {
        let half = (DRIFT_MS / 2) as i64;
        assert_eq!(judged(&[0], half).standing, Standing::Agrees);
        for ahead_ms in [half + 1, 3 * 86_400_000, 5 * YEAR_MS as i64] {
            let verdict = judged(&[0], ahead_ms);
            let by_ms = ahead_ms as u64;
            assert_eq!(verdict.standing, Standing::Ahead { by_ms });
            assert_eq!(verdict.admits_ms, NOON_MS);
            let error = verdict.check(DRIFT_MS, NOON_MS, true).unwrap_err();
            assert_eq!(error, ClockError::Ahead { by_ms });
        }
    }

    #[test]
    fn a_step_of_the_own_clock_shows_at_its_next_use_and_is_told_to_the_peers() {
        let mut clocks = heard(&[0, 1, -1]);
        let medians = clocks.medians(|_| true);
        // An hour passes. No peer says anything.
        let later = |ahead_ms| reading(3_600_000, ahead_ms);
        let standing = |ahead_ms| Verdict::of(later(ahead_ms), &medians, TERMS).standing;
        assert_eq!(standing(0), Standing::Agrees);
        assert_eq!(clocks.handle(Input::Use, later(0)), None);
        let by_ms = YEAR_MS;
        assert_eq!(standing(YEAR_MS as i64), Standing::Ahead { by_ms });
        let told = clocks.handle(Input::Use, later(YEAR_MS as i64));
        let by_ms = YEAR_MS as i64;
        assert_eq!(told, Some(Effect::TellPeers { by_ms }));
        // They know of it now.
        assert_eq!(clocks.handle(Input::Use, later(by_ms)), None);
        // It is set back, and nobody has to say anything for it to be right again.
        assert_eq!(standing(0), Standing::Agrees);
        let told = clocks.handle(Input::Use, later(0));
        assert_eq!(told, Some(Effect::TellPeers { by_ms: -by_ms }));
    }

    #[test]
    fn small_steps_are_not_told_and_their_sum_is() {
        let mut clocks = heard(&[0]);
        let step = CLOCK_STEP_MS as i64;
        assert_eq!(clocks.handle(Input::Use, reading(10, step)), None);
        assert_eq!(clocks.handle(Input::Use, reading(20, step)), None);
        let told = clocks.handle(Input::Use, reading(30, step + 1));
        assert_eq!(told, Some(Effect::TellPeers { by_ms: step + 1 }));
        assert_eq!(clocks.handle(Input::Use, reading(40, 1)), None);
        let told = clocks.handle(Input::Use, reading(40, 0));
        assert_eq!(told, Some(Effect::TellPeers { by_ms: -step - 1 }));
    }

    #[test]
    fn a_machine_that_slept_agrees_when_its_monotonic_clock_went_on() {
        let medians = heard(&[3]).medians(|_| true);
        let slept = reading(8 * 3_600_000, 0);
        assert_eq!(
            Verdict::of(slept, &medians, TERMS).standing,
            Standing::Agrees
        );
        // One whose monotonic clock stood still, such as a virtual machine that was paused, looks ahead until a peer
        // speaks.
        let paused = Reading {
            elapsed_ms: reading(0, 0).elapsed_ms,
            ..slept
        };
        let verdict = Verdict::of(paused, &medians, TERMS);
        assert!(matches!(verdict.standing, Standing::Ahead { .. }));
        let mut clocks = heard(&[3]);
        assert!(clocks.handle(Input::Use, paused).is_some(), "peers answer");
        let announced = Input::Announced {
            peer: peer(0),
            clock_ms: slept.wall_ms,
        };
        clocks.handle(announced, paused);
        let verdict = Verdict::of(paused, &clocks.medians(|_| true), TERMS);
        assert_eq!(verdict.standing, Standing::Agrees);
    }

    #[test]
    fn a_minority_of_liars_strangers_and_members_that_were_revoked_move_nothing() {
        for lie in [i64::MAX, YEAR_MS as i64, -(YEAR_MS as i64), -i64::MAX] {
            let verdict = judged(&[lie, 3], 0);
            assert_eq!(verdict.standing, Standing::Agrees, "{lie}");
            let verdict = judged(&[lie, lie, 5, -5, 2], 0);
            assert_eq!(verdict.standing, Standing::Agrees, "{lie}");
            // Three strangers, or members that were, and one that counts.
            let clocks = heard(&[lie, lie, lie, 7]);
            let medians = clocks.medians(|who| *who == peer(3));
            let verdict = Verdict::of(reading(0, 0), &medians, TERMS);
            assert_eq!(verdict.standing, Standing::Agrees, "{lie}");
            let none = clocks.medians(|_| false);
            let verdict = Verdict::of(reading(0, 0), &none, TERMS);
            assert_eq!(verdict, Verdict::alone(NOON_MS), "{lie}");
            // A liar counts once, however often it speaks.
            let mut clocks = heard(&[lie, 3]);
            for _ in 0..10 {
                let clock_ms = reading(0, lie).wall_ms;
                let peer = peer(0);
                clocks.handle(Input::Announced { peer, clock_ms }, reading(0, 0));
            }
            let verdict = Verdict::of(reading(0, 0), &clocks.medians(|_| true), TERMS);
            assert_eq!(verdict.standing, Standing::Agrees, "{lie}");
        }
    }

    #[test]
    fn members_that_have_left_stop_a_clock_that_leads_and_correct_none() {
        let mut clocks = heard(&[0]);
        clocks.handle(Input::Left(peer(0)), reading(0, 0));
        let of = |clocks: &Clocks, ahead_ms| {
            Verdict::of(reading(9, ahead_ms), &clocks.medians(|_| true), TERMS).standing
        };
        let by_ms = YEAR_MS;
        assert_eq!(of(&clocks, YEAR_MS as i64), Standing::Ahead { by_ms });
        assert_eq!(of(&clocks, -(YEAR_MS as i64) / 2), Standing::Alone);
        assert_eq!(of(&clocks, 0), Standing::Agrees);
        // Whoever is here counts alone.
        clocks.handle(Input::Connected(peer(1)), reading(0, 0));
        let clock_ms = reading(0, YEAR_MS as i64).wall_ms;
        let peer = peer(1);
        clocks.handle(Input::Announced { peer, clock_ms }, reading(0, 0));
        assert_eq!(of(&clocks, YEAR_MS as i64), Standing::Agrees);
    }

    #[test]
    fn a_clock_below_the_genesis_counts_as_the_genesis() {
        let genesis_ms = TERMS.genesis_ms;
        let unset = Reading {
            wall_ms: 0,
            elapsed_ms: 5_000_000,
        };
        let alone = Verdict::of(unset, &Medians::default(), TERMS);
        assert_eq!(alone, Verdict::alone(genesis_ms));
        let by_members = |after_ms: u64| {
            let mut clocks = Clocks::default();
            let peer = peer(0);
            clocks.handle(Input::Connected(peer), unset);
            let clock_ms = genesis_ms + after_ms;
            clocks.handle(Input::Announced { peer, clock_ms }, unset);
            Verdict::of(unset, &clocks.medians(|_| true), TERMS)
        };
        assert_eq!(by_members(DRIFT_MS).wall_ms, genesis_ms + DRIFT_MS);
        let by_ms = DRIFT_MS + 1;
        assert_eq!(by_members(by_ms).standing, Standing::Behind { by_ms });
        // A genesis that was made by a clock ahead: all members stand at it.
        let ahead = Terms {
            genesis_ms: NOON_MS + YEAR_MS,
            ..TERMS
        };
        let verdict = Verdict::of(reading(0, 0), &heard(&[9, -9, 0]).medians(|_| true), ahead);
        assert_eq!(verdict.standing, Standing::Agrees);
        assert_eq!(verdict.wall_ms, NOON_MS + YEAR_MS);
    }

    #[test]
    fn a_trusted_clock_is_neither_corrected_nor_stopped() {
        let trusted = Terms {
            trusted: true,
            ..TERMS
        };
        for lead in [YEAR_MS as i64, -(YEAR_MS as i64), 40_000] {
            let medians = heard(&[lead]).medians(|_| true);
            let verdict = Verdict::of(reading(0, 0), &medians, trusted);
            assert_eq!(verdict.wall_ms, NOON_MS);
            assert_eq!(verdict.check(DRIFT_MS, 0, false), Ok(None));
            assert!(verdict.is_confirmed());
        }
    }

    #[test]
    fn a_leap_that_no_member_confirms_asks_first() {
        let alone = Verdict::alone(NOON_MS);
        assert_eq!(alone.check(DRIFT_MS, NOON_MS - LEAP_MS, false), Ok(None));
        let beyond_ms = NOON_MS - LEAP_MS - 1;
        let error = alone.check(DRIFT_MS, beyond_ms, false).unwrap_err();
        assert_eq!(error, ClockError::Leap { by_ms: LEAP_MS + 1 });
        assert!(error.to_string().contains("--yes"), "{error}");
        assert_eq!(
            alone.check(DRIFT_MS, beyond_ms, true),
            Ok(Some(LEAP_MS + 1))
        );
        // A clock that was set back stops nothing.
        assert_eq!(alone.check(DRIFT_MS, NOON_MS + YEAR_MS, false), Ok(None));
        assert_eq!(judged(&[0], 0).check(DRIFT_MS, 0, false), Ok(None));
    }

    /// Holds: invariant 10.
    #[test]
    fn clocks_are_bounded_and_those_of_connected_peers_stay() {
        let mut clocks = Clocks::default();
        for n in 0..CLOCKS_MAX as u32 + 1 {
            let input = match n {
                0 => Input::Connected(peer(0)),
                _ => Input::Announced {
                    peer: peer(n),
                    clock_ms: NOON_MS,
                },
            };
            assert_eq!(clocks.heard.len(), (n as usize).min(CLOCKS_MAX));
            clocks.handle(input, reading(u64::from(n), 0));
        }
        assert_eq!(clocks.heard.len(), CLOCKS_MAX);
        assert!(clocks.heard.contains_key(&peer(0)));
        assert!(!clocks.heard.contains_key(&peer(1)), "the oldest gave way");
        assert_eq!(clocks.lead_ms(&peer(2), reading(2, -7)), Some(5));
        for n in 0..CLOCKS_MAX as u32 + 1 {
            clocks.handle(Input::Connected(peer(n)), reading(9_000, 0));
        }
        assert_eq!(clocks.heard.len(), CLOCKS_MAX);
    }

    #[test]
    fn spans_are_in_the_largest_unit_of_which_there_are_two() {
        let text = |ms| Span(ms).to_string();
        assert_eq!(text(1_999), "1999 ms");
        assert_eq!(text(119_999), "119 seconds");
        assert_eq!(text(3 * 86_400_000), "3 days");
        assert_eq!(text(5 * YEAR_MS + 1), "5 years");
    }
}

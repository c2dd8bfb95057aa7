//! Entries too far ahead: what stands above the time that a device signs by, and how it signs below.
//!
//! A clock that was ahead leaves entries with times that others park until then. Whoever follows them is parked with
//! them. So a device whose time is confirmed names and follows nothing above it: its calls run below, at their own
//! place in the order, like entries that arrive late. Its own chain it cannot pass by, because an entry follows its
//! chain's last one. When that one lies ahead, a person decides: [`Store::restart_chain`] sets the chain aside, and the
//! next entry starts another one. What the old chain holds stays in the log. Peers admit it when its time comes.
//!
//! While nothing tells whether the clock is right, everything is followed: a clock that was set back must not make
//! entries sort below those that they were made after.

use lattice_format::{Call, ChainId, IntentionId, Lane, Time};

use crate::clock::Verdict;
use crate::graph::dag::Meta;
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::log::notice::Notice;
use crate::storage::error::StorageError;
use crate::store::Store;
use crate::store::call_end::{CallError, Told};

/// A chain of this device that is not continued, because its end lies too far ahead. The owner of the store keeps it,
/// and gives it to [`Store::set_aside`] after each opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The chain.
    pub chain: ChainId,
    /// What lies above this time is not followed until the clock gets there, in milliseconds since the Unix epoch.
    pub above_ms: u64,
}

/// Why a chain was not set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// The chain is not ahead, so its next entry is admitted like any other.
    #[error(
        "the last entry of this device in the store is not ahead of the clock by more than the {drift_ms} ms that the store allows, so there is nothing to restart; make calls as usual"
    )]
    NotAhead {
        /// The drift that the store allows, in milliseconds.
        drift_ms: u64,
    },
}

/// What a store knows of entries too far ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    verdict: Option<Verdict>,
    set_aside: Option<SetAside>,
    /// The last entry of this device that a notice was raised about.
    noticed: Option<IntentionId>,
}

/// What the next entry of this device may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ceiling {
    /// Everything in the log.
    None,
    /// What stands below this slot, and there is something above.
    At(Slot),
}

impl Ceiling {
    pub(crate) fn is_above(&self, meta: &Meta) -> bool {
        match self {
            Self::None => false,
            Self::At(slot) => Slot::of(meta.position()) >= *slot,
        }
    }
}

impl Store {
    /// Judges times by `verdict` from now on. A store that was given none takes each time that it is given as that of
    /// a clock that nothing speaks for or against.
    pub fn judge_by(&mut self, verdict: Verdict) {
        self.ahead.verdict = Some(verdict);
    }

    /// Does not continue a chain that was set aside before the store was closed.
    pub fn set_aside(&mut self, set_aside: SetAside) {
        self.ahead.set_aside = Some(set_aside);
    }

    /// The time of the last entry of this device's chain, in milliseconds since the Unix epoch; `None` without a chain.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn own_last_ms(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.own_tip()?.map(|(_, tip)| tip.time.wall_ms))
    }

    /// The smallest time that the next entry of this device could have by a clock that shows `now_ms`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next_time(&self, now_ms: u64) -> Result<Time, StorageError> {
        let latest = match self.ceiling(now_ms)? {
            Ceiling::None => self.core.progress.last_time,
            Ceiling::At(slot) => order::last_below(&self.core.rows, slot)?,
        };
        Ok(Time::local(now_ms, latest).unwrap_or(latest))
    }

    /// Sets the chain of this device aside, because its end lies too far ahead of `now_ms`: the next entry starts
    /// another chain, and follows nothing that lies ahead.
    ///
    /// # Errors
    /// When the chain is not ahead, or the disk fails.
    pub fn restart_chain(
        &mut self,
        now_ms: u64,
    ) -> Result<Result<SetAside, RestartError>, StorageError> {
        self.commit_calls(now_ms)?;
        let above_ms = self.horizon_ms(now_ms);
        let chain = match (self.own_tip()?, self.own_chain()) {
            (Some((_, meta)), Some(chain)) if meta.time.wall_ms > above_ms => chain,
            _ => {
                let drift_ms = self.core.info.genesis.drift_ms;
                return Ok(Err(RestartError::NotAhead { drift_ms }));
            }
        };
        let set_aside = SetAside { chain, above_ms };
        self.set_aside(set_aside);
        Ok(Ok(set_aside))
    }

    /// As [`Store::call`], by a clock that members have judged. `accepts_leap` says whether a person agrees to sign by a
    /// clock that no member confirms and that has leapt above the last entry. The leap then raises a notice.
    pub(crate) fn call_by(
        &mut self,
        clock: Verdict,
        lane: Lane,
        calls: Vec<Call>,
        chain: ChainId,
        accepts_leap: bool,
    ) -> Result<Told, CallError> {
        let last_ms = match self.ahead.set_aside {
            None => self.core.progress.last_time.wall_ms,
            Some(aside) => self.followed_ms(aside)?,
        };
        let open_ms = self.open.as_ref().map_or(0, |open| open.time().wall_ms);
        let drift_ms = self.core.info.genesis.drift_ms;
        let leap = clock.check(drift_ms, last_ms.max(open_ms), accepts_leap)?;
        let told = self.call(lane, calls, clock.wall_ms, chain)?;
        if let Some(by_ms) = leap.filter(|_| told.outcome.is_ok()) {
            let wall_ms = clock.wall_ms;
            let notice = Notice::ClockLeapt { wall_ms, by_ms };
            self.core.notices.push(notice);
        }
        Ok(told)
    }

    /// Whether the next commit raises a notice.
    pub(crate) fn raises_notices(&self) -> bool {
        !self.core.notices.is_empty()
    }

    /// Up to which time everything is followed, whatever the clock shows, since a chain was set aside: up to the last
    /// entry of this device, unless it is of that chain.
    fn followed_ms(&self, aside: SetAside) -> Result<u64, StorageError> {
        let tip = self.own_tip()?.filter(|_| !self.is_own_aside());
        Ok(tip
            .map_or(0, |(_, tip)| tip.time.wall_ms)
            .max(aside.above_ms))
    }

    /// The time by which entries are judged too far ahead.
    pub(crate) fn admits_ms(&self, now_ms: u64) -> u64 {
        let admits_ms = self.ahead.verdict.map(|verdict| verdict.admits_ms);
        admits_ms.map_or(now_ms, |admits_ms| admits_ms.min(now_ms))
    }

    /// The latest time that is not too far ahead.
    pub(crate) fn horizon_ms(&self, now_ms: u64) -> u64 {
        let drift_ms = self.core.info.genesis.drift_ms;
        self.admits_ms(now_ms).saturating_add(drift_ms)
    }

    /// What the next entry of this device may follow.
    pub(crate) fn ceiling(&self, now_ms: u64) -> Result<Ceiling, StorageError> {
        let horizon_ms = self.horizon_ms(now_ms);
        let last_ms = self.core.progress.last_time.wall_ms;
        if last_ms <= horizon_ms {
            return Ok(Ceiling::None);
        }
        let above_ms = match self.ahead.set_aside {
            _ if self.ahead.verdict.is_some_and(|v| v.is_confirmed()) => horizon_ms,
            None => return Ok(Ceiling::None),
            // Nothing tells whether the clock is right, so this device's chain is followed, and the one that a person
            // has set aside is not.
            Some(aside) => horizon_ms.max(self.followed_ms(aside)?),
        };
        // Nothing stands below the genesis.
        let above_ms = above_ms.max(self.core.info.position.time.wall_ms);
        Ok(match last_ms > above_ms {
            true => Ceiling::At(Slot::after_ms(above_ms)),
            false => Ceiling::None,
        })
    }

    /// Whether the chain that ends with `tip` is set aside, so that another one starts.
    pub(crate) fn is_set_aside(&self, tip: &Meta, ceiling: Ceiling) -> Result<bool, CallError> {
        if !ceiling.is_above(tip) {
            return Ok(false);
        }
        if self.is_own_aside() {
            return Ok(true);
        }
        let Ceiling::At(slot) = ceiling else {
            return Ok(false);
        };
        // The ceiling is the first slot above the drift.
        let drift_ms = self.core.info.genesis.drift_ms;
        let now_ms = slot.time().wall_ms.saturating_sub(drift_ms + 1);
        Err(CallError::ChainAhead {
            entry: tip.id,
            by_ms: tip.time.wall_ms.saturating_sub(now_ms),
        })
    }

    /// Raises a notice, once, when the last entry of this device lies too far ahead of the time that members agree on.
    /// Returns whether it did.
    pub(crate) fn notice_ahead(&mut self, now_ms: u64) -> Result<bool, StorageError> {
        let is_told = self.ahead.verdict.is_some_and(|v| v.tells_time());
        let horizon_ms = self.horizon_ms(now_ms);
        if !is_told || self.core.progress.last_time.wall_ms <= horizon_ms || self.is_own_aside() {
            return Ok(false);
        }
        let Some((_, tip)) = self.own_tip()? else {
            return Ok(false);
        };
        let wall_ms = tip.time.wall_ms;
        if wall_ms <= horizon_ms || self.ahead.noticed == Some(tip.id) {
            return Ok(false);
        }
        let entry = tip.id;
        self.core
            .notices
            .push(Notice::ChainAhead { entry, wall_ms });
        self.commit_batch(now_ms)?;
        self.ahead.noticed = Some(entry);
        Ok(true)
    }

    /// Whether the chain that this device wrote last is set aside.
    fn is_own_aside(&self) -> bool {
        let aside = self.ahead.set_aside.map(|aside| aside.chain);
        aside.is_some() && aside == self.own_chain()
    }
}

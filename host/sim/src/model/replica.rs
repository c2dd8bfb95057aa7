//! A replica that receives a history in some order and drops what is final.

use super::history::{History, Set, bit, each};
use super::reading::{Fixed, State};

/// One replica.
#[derive(Debug)]
pub(super) struct Replica {
    have: Set,
    /// What the last checkpoint fixed; the entries up to then are dropped, but for their headers.
    last: Option<Fixed>,
    pub(super) live: Set,
    pub(super) state: State,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            have: 0,
            last: None,
            live: 0,
            state: State::founded(),
        }
    }
}

impl Replica {
    /// Takes one entry, after everything that it names.
    pub(super) fn take(&mut self, history: &History, entry: usize) -> Result<(), String> {
        self.have |= bit(entry);
        if history.rules.base {
            self.settle(history)?;
            self.look_for_final(history, entry)?;
        }
        Ok(())
    }

    /// Reads what is not final, beginning with what was void before: the rounds go on where they ended.
    pub(super) fn settle(&mut self, history: &History) -> Result<(), String> {
        let read = match history.rules.base {
            true => history.settle(self.have, self.last.as_ref(), self.have & !self.live)?,
            false => history.read(self.have)?,
        };
        (self.live, self.state) = (read.live, read.state);
        Ok(())
    }

    /// Makes final what a new checkpoint says, from what is left here.
    fn look_for_final(&mut self, history: &History, entry: usize) -> Result<(), String> {
        let past = history.entries[entry].past;
        let extends = self
            .last
            .as_ref()
            .is_none_or(|last| past & bit(last.checkpoint) != 0);
        if !extends {
            return match history.fixed(entry) {
                Some(_) => Err(format!(
                    "checkpoint {entry} rests on entries that checkpoint {:?} let a replica drop",
                    self.last.as_ref().map(|last| last.checkpoint)
                )),
                None => Ok(()),
            };
        }
        let Some(fixed) = history.judge_by(entry, self.last.iter().collect())? else {
            return Ok(());
        };
        if let Some(last) = &self.last {
            let before = history.until(last.at);
            if fixed.live & before != last.live {
                return Err(format!(
                    "checkpoint {entry} changes what was final: {:?}, not {:?}",
                    each(fixed.live & before).collect::<Vec<_>>(),
                    each(last.live).collect::<Vec<_>>()
                ));
            }
        }
        self.last = Some(fixed);
        self.settle(history)
    }
}

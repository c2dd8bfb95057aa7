//! Quotas: how many bytes of bodies one author may write, judged where an entry stands in the order.
//!
//! Governance says which quota is in effect. Its answer is kept as a row of the host's own behind
//! each entry that changes governance, so an entry of the app lane reads one cell, and what else
//! governance changes (members, names, the salt) concerns it not. The bytes that an author has
//! written are a number, one for each author, to which each entry that counts adds the length of its
//! body, whatever its chain and lane. An entry of the app lane that would exceed the quota is void:
//! it does not run, has no outcome and adds nothing, so that a smaller one may still fit.
//!
//! Entries of the system lane count and are not judged: an admin at its bound must be able to raise
//! it, and anyone to leave.
//!
//! What an entry reads of the number is not its value but whether the rest fits. A late entry
//! changes the number for every later one of its author; only those run again for which the
//! answer is another one.

use std::ops::ControlFlow;

use lattice_format::{DeviceKey, Header, Lane, Position, Time};

use crate::fold::core::{Core, Effects, Stopped};
use crate::graph::dag::LocalSeq;
use crate::mutant::{self, Mutant};
use crate::run::engine::{Answer, AskError, Question};
use crate::run::{Reads, Run};
use crate::state::cell::{Cell, Op, Space, ValueMark, older_key, reader_key};
use crate::state::live;
use crate::state::versions::just_above;
use crate::storage::rows::{RowsView, StorageError};

/// The row that holds the quota in effect, 8 bytes big-endian; absent without one.
fn quota_cell() -> Cell {
    Cell::new(Lane::System, Space::Quota, b"")
}

/// The number of bytes that an author has written.
fn written_cell(author: &DeviceKey) -> Cell {
    Cell::new(Lane::App, Space::Written, &author.0)
}

/// What an author has written and may write, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) written: u64,
    /// `None` where there is no bound.
    pub(crate) quota: Option<u64>,
}

impl Allowance {
    /// Whether a body of `len` bytes more is within the quota.
    pub(crate) fn fits(&self, len: u64) -> bool {
        self.quota
            .is_none_or(|quota| self.written.saturating_add(len) <= quota)
    }
}

/// What a run knows of a number of bytes: whether it is at most so much.
fn mark(most: u64, fits: bool) -> ValueMark {
    let mut mark = [0; 16];
    mark[0] = 1;
    mark[1] = u8::from(fits);
    mark[8..].copy_from_slice(&most.to_be_bytes());
    ValueMark(mark)
}

/// Whether a run with this mark would now know the same.
fn still_holds(mark: &[u8], written: u64) -> Option<bool> {
    let fits = *mark.get(1)? == 1;
    let most = u64::from_be_bytes(mark.get(8..16)?.try_into().ok()?);
    Some((written <= most) == fits)
}

fn bytes_of(number: i64) -> Result<u64, StorageError> {
    u64::try_from(number).map_err(|_| {
        StorageError(format!(
            "an author has written {number} bytes: delete state.redb to rebuild it"
        ))
    })
}

fn quota_at(rows: &RowsView, at: Position) -> Result<(Option<u64>, ValueMark), StorageError> {
    let value = live::bytes_at(rows, &quota_cell(), at)?;
    let mark = ValueMark::of_bytes(value.as_deref());
    let quota = value
        .map(|bytes| {
            let bytes = (*bytes).try_into().map_err(|_| {
                StorageError(
                    "the row of the quota is damaged: delete state.redb to rebuild it".into(),
                )
            })?;
            Ok::<_, StorageError>(u64::from_be_bytes(bytes))
        })
        .transpose()?;
    Ok((quota, mark))
}

/// Whether a quota has ever been in effect.
pub(crate) fn ever(rows: &RowsView) -> Result<bool, StorageError> {
    let cell = quota_cell();
    let mut any = live::newest(rows, &cell)?.is_some_and(|newest| newest.op != Op::Delete);
    rows.scan(
        &older_key(&cell, Position::MIN),
        &older_key(&cell, Position::MAX),
        false,
        |_, op| {
            any |= Op::decode(op) != Some(Op::Delete);
            match any {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    )?;
    Ok(any)
}

/// What `author` has written below `at`, and the quota in effect there.
pub(crate) fn allowance(
    rows: &RowsView,
    author: &DeviceKey,
    at: Position,
) -> Result<Allowance, StorageError> {
    let written = live::number_at(rows, &written_cell(author), at)?;
    Ok(Allowance {
        written: bytes_of(written)?,
        quota: quota_at(rows, at)?.0,
    })
}

/// Whether an entry of the app lane at `at` is within its author's quota, with the reads that say so.
pub(crate) fn judge(
    rows: &RowsView,
    header: &Header,
    at: Position,
) -> Result<(bool, Reads), StorageError> {
    let mut reads = Reads::default();
    let (quota, seen) = quota_at(rows, at)?;
    reads.cells.insert(quota_cell(), seen);
    let Some(quota) = quota else {
        return Ok((true, reads));
    };
    let Some(most) = quota.checked_sub(u64::from(header.body.len)) else {
        return Ok((false, reads));
    };
    let cell = written_cell(&header.author);
    let fits = bytes_of(live::number_at(rows, &cell, at)?)? <= most;
    if !mutant::active(Mutant::WrittenBytesUntracked) {
        reads.cells.insert(cell, mark(most, fits));
    }
    Ok((fits, reads))
}

/// The runs above `position` that would judge otherwise now that the number in `cell` has changed
/// there. One pass over what the author wrote later.
pub(crate) fn stale_readers(
    rows: &RowsView,
    cell: &Cell,
    position: Position,
) -> Result<Vec<(Lane, Position)>, StorageError> {
    let damaged = || StorageError("a mark of a quota is damaged".into());
    let from = just_above(position);
    let place = |row: &[u8]| Position::from_slice(&row[row.len() - Position::LEN..]);
    let mut readers = Vec::new();
    rows.scan(
        &reader_key(cell, Lane::App, from),
        &reader_key(cell, Lane::App, Position::MAX),
        false,
        |row, mark| {
            readers.push((place(row), mark.to_vec()));
            ControlFlow::Continue(())
        },
    )?;
    if readers.is_empty() {
        return Ok(Vec::new());
    }
    let mut added = Vec::new();
    rows.scan(
        &older_key(cell, from),
        &older_key(cell, Position::MAX),
        false,
        |row, op| {
            added.push((place(row), Op::decode(op)));
            ControlFlow::Continue(())
        },
    )?;
    let mut written = bytes_of(live::number_at(rows, cell, from)?)?;
    let mut added = added.into_iter().peekable();
    let mut stale = Vec::new();
    for (at, mark) in readers {
        let at = at.ok_or_else(damaged)?;
        while let Some((_, op)) = added.next_if(|(place, _)| *place < Some(at)) {
            let Some(Op::Add(len)) = op else {
                return Err(damaged());
            };
            written += bytes_of(len)?;
        }
        if !still_holds(&mark, written).ok_or_else(damaged)? {
            stale.push((Lane::App, at));
        }
    }
    Ok(stale)
}

impl Core {
    /// Adds to the effects of a run that counts what the host itself keeps of it: the bytes that its
    /// author has written, and, where governance has changed, the quota in effect behind it.
    pub(crate) fn account(
        &self,
        lane: Lane,
        position: Position,
        header: &Header,
        local: LocalSeq,
        effects: &mut Effects,
    ) -> Result<(), Stopped> {
        if lane == Lane::System && !effects.writes.is_empty() {
            let mut run = Run::query(
                self.rows.view(),
                Some(self.info.id),
                Lane::System,
                position,
                Time::default(),
            );
            run.own = effects.writes.clone();
            let asked = self.asking().ask_in(run, &Question::InEffect);
            let quota = match asked.answer {
                Ok(Answer::InEffect(effect)) => effect.quota_bytes,
                // A governance component that traps here bounds nobody, on every replica alike.
                Ok(_) | Err(AskError::Trapped(_)) => None,
                Err(AskError::Host(fault)) => return Err(fault.into()),
            };
            effects.reads.merge(&asked.reads);
            let op = match quota {
                Some(quota) => Op::Put(quota.to_be_bytes()[..].into()),
                None => Op::Delete,
            };
            effects.writes.insert(quota_cell(), op);
        }
        // The two halves of a genesis are one body.
        if !effects.void && (local.0 != 0 || lane == Lane::System) {
            let len = Op::Add(i64::from(header.body.len));
            effects.writes.insert(written_cell(&header.author), len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_exactly_is_within_the_quota() {
        let allowance = |quota| Allowance { written: 90, quota };
        assert!(allowance(Some(100)).fits(10));
        assert!(!allowance(Some(100)).fits(11));
        assert!(!allowance(Some(80)).fits(0));
        assert!(allowance(None).fits(u64::MAX));
    }

    #[test]
    fn a_mark_says_what_it_depends_on() {
        for (most, fits) in [(10, true), (10, false)] {
            let mark = mark(most, fits).0;
            assert_eq!(still_holds(&mark, 10), Some(fits));
            assert_eq!(still_holds(&mark, 11), Some(!fits));
        }
        assert_eq!(still_holds(&[1], 0), None);
    }
}

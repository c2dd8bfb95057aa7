//! Which entries of a set count: governance in order, what it cuts off, and what checkpoints fix.

use super::Rules;
use super::history::{
    Act, Entry, History, INVITES, MEMBERS, Position, Promise, Role, Set, bit, each,
};

/// Rounds of cutting and reading again, beyond one a member.
const ROUNDS_EXTRA: usize = 4;

/// Whether a member has its rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Active,
    Revoked,
    Resigned,
}

/// What governance knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) role: Role,
    pub(super) status: Status,
    /// The place of the first admission: lower ranks higher.
    pub(super) rank: Position,
    /// It could write at some place since the last checkpoint.
    pub(super) wrote: bool,
}

/// Governance after some entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) rows: [Option<Row>; MEMBERS],
    invites: [Option<Invite>; INVITES],
    /// Revocations: the entry, whom, and what is kept.
    cuts: Vec<(usize, usize, Set)>,
}

/// What governance knows of an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Invite {
    role: Role,
    author: usize,
    is_cancelled: bool,
    /// Who was admitted by it, and in which entries.
    claims: Vec<(usize, usize)>,
}

/// What a checkpoint makes final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) checkpoint: usize,
    /// The time up to which all is final.
    pub(super) at: u32,
    /// The entries up to then that count.
    pub(super) live: Set,
    /// Governance at that time.
    pub(super) state: State,
}

/// A set of entries, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) live: Set,
    pub(super) state: State,
}

impl State {
    /// The founder alone.
    pub(super) fn founded() -> Self {
        let mut rows = [None; MEMBERS];
        rows[0] = Some(Row {
            role: Role::Admin,
            status: Status::Active,
            rank: (0, 0, 0),
            wrote: true,
        });
        Self {
            rows,
            invites: [const { None }; INVITES],
            cuts: Vec::new(),
        }
    }

    pub(super) fn active(&self, member: usize) -> Option<Row> {
        self.rows[member].filter(|row| row.status == Status::Active)
    }

    pub(super) fn is_admin(&self, member: usize) -> bool {
        self.active(member).is_some_and(|r| r.role == Role::Admin)
    }

    /// Whether a member may carry a claim. Readers promise nothing, so a checkpoint could void what they sign, and with
    /// it what the new member wrote.
    fn may_carry(&self, member: usize) -> bool {
        self.active(member).is_some_and(|r| r.role != Role::Reader)
    }

    /// The first in rank of the active admins.
    pub(super) fn leader(&self) -> Option<usize> {
        (0..MEMBERS)
            .filter(|m| self.is_admin(*m))
            .min_by_key(|m| self.rows[*m].map(|row| row.rank))
    }

    /// Whether one member may change another.
    pub(super) fn outranks(&self, who: usize, whom: usize) -> bool {
        match (self.rows[who], self.rows[whom]) {
            (Some(who), Some(whom)) => who.rank < whom.rank,
            _ => false,
        }
    }

    /// Whose promise a checkpoint needs.
    fn must_promise(&self, member: usize, former: bool) -> bool {
        self.active(member)
            .is_some_and(|row| row.role != Role::Reader || (former && row.wrote))
    }

    fn apply(&mut self, position: Position, entry: &Entry, rules: Rules) {
        let author = entry.author;
        match &entry.act {
            Act::Admit { whom, role } if self.is_admin(author) => match self.rows[*whom] {
                None => {
                    self.rows[*whom] = Some(Row {
                        role: *role,
                        status: Status::Active,
                        rank: position,
                        wrote: *role != Role::Reader,
                    });
                }
                Some(row) if self.outranks(author, *whom) => {
                    self.rows[*whom] = Some(Row {
                        role: *role,
                        status: Status::Active,
                        wrote: row.wrote || *role != Role::Reader,
                        ..row
                    });
                }
                Some(_) => {}
            },
            Act::Revoke { whom, kept } if self.is_admin(author) && self.outranks(author, *whom) => {
                if let Some(row) = &mut self.rows[*whom] {
                    (row.status, row.wrote) = (Status::Revoked, false);
                }
                self.cuts.push((position.2, *whom, *kept));
            }
            Act::SetRole { whom, role }
                if self.is_admin(author) && self.outranks(author, *whom) =>
            {
                let is_active = self.active(*whom).is_some();
                let Some(row) = &mut self.rows[*whom] else {
                    return;
                };
                let cuts = *role != Role::Admin;
                if is_active || (rules.blind && cuts) {
                    row.role = *role;
                    row.wrote |= is_active && *role != Role::Reader;
                    if cuts {
                        self.cuts.push((position.2, *whom, entry.past));
                    }
                }
            }
            Act::Invite { invite, role } if self.is_admin(author) => {
                self.invites[*invite].get_or_insert(Invite {
                    role: *role,
                    author,
                    is_cancelled: false,
                    claims: Vec::new(),
                });
            }
            Act::Claim { invite, whom } if self.may_carry(author) => {
                let inviter = self.invites[*invite].as_ref().map(|invite| invite.author);
                let is_open = inviter.is_some_and(|inviter| self.is_admin(inviter));
                if let Some(open) = &mut self.invites[*invite]
                    && is_open
                    && !open.is_cancelled
                    && self.rows[*whom].is_none()
                {
                    open.claims.push((*whom, position.2));
                    self.rows[*whom] = Some(Row {
                        role: open.role,
                        status: Status::Active,
                        rank: position,
                        wrote: open.role != Role::Reader,
                    });
                }
            }
            Act::Cancel { invite } if self.is_admin(author) => {
                let Some(invite) = &mut self.invites[*invite] else {
                    return;
                };
                invite.is_cancelled = true;
                for (whom, claim) in invite.claims.clone() {
                    let is_seen = entry.past & bit(claim) != 0;
                    if is_seen || (rules.downwards && !self.outranks(author, whom)) {
                        continue;
                    }
                    if let Some(row) = &mut self.rows[whom] {
                        (row.status, row.wrote) = (Status::Revoked, false);
                    }
                    self.cuts.push((position.2, whom, 0));
                }
            }
            Act::Resign if self.active(author).is_some() => {
                if let Some(row) = &mut self.rows[author] {
                    (row.status, row.wrote) = (Status::Resigned, false);
                }
            }
            _ => {}
        }
    }
}

impl History {
    /// Reads a set that is closed under what entries name.
    pub(super) fn read(&self, set: Set) -> Result<Reading, String> {
        self.read_by(set, each(set).filter_map(|e| self.fixed(e)))
    }

    /// Reads a set by those checkpoints.
    fn read_by<'a>(
        &self,
        set: Set,
        checkpoints: impl Iterator<Item = &'a Fixed>,
    ) -> Result<Reading, String> {
        let checkpoints: Vec<&Fixed> = checkpoints.collect();
        if self.rules.base {
            let last = checkpoints.iter().max_by_key(|f| (f.at, f.checkpoint));
            return self.settle(set, last.copied(), 0);
        }
        self.settle_by_exemption(set, &checkpoints)
    }

    /// Reads what sorts above the last checkpoint, from what that one fixed, beginning with a guess of what is
    /// void.
    pub(super) fn settle(
        &self,
        set: Set,
        last: Option<&Fixed>,
        guess: Set,
    ) -> Result<Reading, String> {
        let (start, fixed) = match last {
            Some(last) => (last.state.clone(), last.live),
            None => (State::founded(), 0),
        };
        let open = match last {
            Some(last) => set & !self.until(last.at),
            None => set,
        };
        // By the time alone nothing above it is void, by the place of the checkpoint what it has not seen.
        let unseen = match last {
            Some(last) if !self.rules.at_time => self.unseen(last.checkpoint) & open,
            _ => 0,
        };
        let mut void = (guess & open) | unseen;
        for _ in 0..MEMBERS + ROUNDS_EXTRA {
            let state = self.fold(start.clone(), open & !void);
            let next = unseen | self.cut(open, &state, |_, _| false);
            if next == void {
                return Ok(Reading {
                    live: fixed | (open & !void),
                    state,
                });
            }
            void = next;
        }
        Err("what is void does not settle".to_owned())
    }

    /// Reads a set where checkpoints only keep revocations from their past.
    fn settle_by_exemption(&self, set: Set, checkpoints: &[&Fixed]) -> Result<Reading, String> {
        let late = checkpoints
            .iter()
            .fold(0, |late, f| late | (self.unseen(f.checkpoint) & set));
        let exempt = |entry: usize, revocation: usize| {
            checkpoints.iter().any(|f| {
                let past = self.entries[f.checkpoint].past;
                past & bit(entry) != 0 && past & bit(revocation) == 0
            })
        };
        let mut void = late;
        for _ in 0..MEMBERS + ROUNDS_EXTRA {
            let state = self.fold(State::founded(), set & !void);
            let next = late | self.cut(set, &state, exempt);
            if next == void {
                let live = set & !void;
                return Ok(Reading { live, state });
            }
            void = next;
        }
        Err("what is void does not settle".to_owned())
    }

    fn fold(&self, mut state: State, set: Set) -> State {
        for entry in self.sorted(set) {
            let position = self.position(entry);
            state.apply(position, &self.entries[entry], self.rules);
        }
        state
    }

    /// The entries of a set that revocations void.
    fn cut(&self, set: Set, state: &State, exempt: impl Fn(usize, usize) -> bool) -> Set {
        let mut void = 0;
        for entry in each(set) {
            for cut in &state.cuts {
                if self.cuts_off(cut, entry) && !exempt(entry, cut.0) {
                    void |= bit(entry);
                }
            }
        }
        void
    }

    /// Whether the author of an entry had a right to it at its place, by the entries that count.
    pub(super) fn is_entitled(&self, entry: usize, live: Set) -> bool {
        let state = self.fold(State::founded(), live & self.below(self.position(entry)));
        let author = self.entries[entry].author;
        match &self.entries[entry].act {
            // Readers promise nothing: one whose resignation a checkpoint has not seen stays, and resigns again.
            Act::Write | Act::Resign => state
                .active(author)
                .is_some_and(|row| row.role != Role::Reader),
            Act::Claim { .. } => state.may_carry(author),
            Act::Admit { .. }
            | Act::Revoke { .. }
            | Act::SetRole { .. }
            | Act::Invite { .. }
            | Act::Cancel { .. }
            | Act::Checkpoint { .. } => state.is_admin(author),
        }
    }

    /// Whether a revocation of `state` voids an entry.
    pub(super) fn is_cut(&self, entry: usize, state: &State) -> bool {
        state.cuts.iter().any(|cut| self.cuts_off(cut, entry))
    }

    fn cuts_off(&self, (revocation, whom, kept): &(usize, usize, Set), entry: usize) -> bool {
        let cut = &self.entries[entry];
        if cut.author != *whom {
            return false;
        }
        if let Some(grant) = cut.grant
            && (self.entries[grant].past | bit(grant)) & bit(*revocation) != 0
        {
            return false;
        }
        let kept = kept & self.entries[*revocation].past;
        !each(kept).any(|kept| self.chain(kept) & bit(entry) != 0)
    }

    /// What a new checkpoint fixes, if it is valid: a matter of its past alone.
    pub(super) fn judge(&self, checkpoint: usize) -> Result<Option<Fixed>, String> {
        let entry = &self.entries[checkpoint];
        let before = each(entry.past).filter_map(|e| self.fixed(e));
        self.judge_by(checkpoint, before.collect())
    }

    /// The same by the checkpoints that the judge knows.
    pub(super) fn judge_by(
        &self,
        checkpoint: usize,
        before: Vec<&Fixed>,
    ) -> Result<Option<Fixed>, String> {
        let entry = &self.entries[checkpoint];
        let Act::Checkpoint { at, promises } = &entry.act else {
            return Ok(None);
        };
        let last = before.iter().map(|fixed| fixed.at).max().unwrap_or(0);
        if entry.time <= *at || (self.rules.leader && *at < last) {
            return Ok(None);
        }
        let base = match self.rules.base {
            true => entry.past & self.until(*at),
            false => entry.past,
        };
        let mut read = self.read_by(base, before.into_iter())?;
        let makes = match self.rules.leader {
            true => read.state.leader() == Some(entry.author),
            false => read.state.is_admin(entry.author),
        };
        let has_promised = |member: usize| {
            let kept = |p: &&Promise| p.member == member && p.at >= *at;
            let whole = |p: &Promise| {
                let unseen = p.tips & !entry.past;
                each(unseen).all(|tip| self.is_gone(tip, entry.past, &read.state))
            };
            let mut kept = promises.iter().filter(kept);
            kept.any(|p| !self.rules.tips || whole(p))
        };
        let promised = (0..MEMBERS)
            .filter(|m| read.state.must_promise(*m, self.rules.former))
            .all(has_promised);
        if !makes || !promised {
            return Ok(None);
        }
        for row in read.state.rows.iter_mut().flatten() {
            row.wrote = row.status == Status::Active && row.role != Role::Reader;
        }
        Ok(Some(Fixed {
            checkpoint,
            at: *at,
            live: read.live & self.until(*at),
            state: read.state,
        }))
    }

    /// Whether an entry out of a checkpoint's past is void for good, by what that past says of its author. A
    /// promise tells the admission of each entry that it names.
    fn is_gone(&self, entry: usize, past: Set, state: &State) -> bool {
        let Some(grant) = self.entries[entry].grant else {
            return false;
        };
        let granted = self.entries[grant].past | bit(grant);
        let author = self.entries[entry].author;
        past & bit(grant) != 0
            && state
                .cuts
                .iter()
                .any(|(revocation, whom, _)| *whom == author && granted & bit(*revocation) == 0)
    }

    /// Everything that a checkpoint does not know of and that sorts below it.
    pub(super) fn unseen(&self, checkpoint: usize) -> Set {
        let entry = &self.entries[checkpoint];
        let Act::Checkpoint { at, .. } = &entry.act else {
            return 0;
        };
        let below = match self.rules.at_time {
            true => self.until(*at),
            false => self.below(self.position(checkpoint)),
        };
        below & !entry.past & !bit(checkpoint)
    }
}

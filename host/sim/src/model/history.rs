//! Random histories: members that hear of each other in part, and liars among them.

use lattice_testing::Dice;

use super::Rules;
use super::reading::Fixed;

/// The most members.
pub(super) const MEMBERS: usize = 6;
/// The most invites.
pub(super) const INVITES: usize = 3;
/// The most entries: a set is one number.
const ENTRIES_MAX: usize = 64;

/// A set of entries, by their number.
pub(super) type Set = u64;
/// The order: time, a number instead of a hash, the entry.
pub(super) type Position = (u32, u32, usize);

/// What a member may do. The greater, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Admin,
    Writer,
    Reader,
}

/// "Nothing more of mine at or below that time": a signed statement out of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) member: usize,
    pub(super) at: u32,
    /// The last entries of its author by each of its admissions, void ones as well: what voids them may turn out
    /// to be void itself.
    pub(super) tips: Set,
}

/// What an entry does.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Write,
    Admit {
        whom: usize,
        role: Role,
    },
    Revoke {
        whom: usize,
        kept: Set,
    },
    /// Another role. A lower one keeps what is seen and admits again.
    SetRole {
        whom: usize,
        role: Role,
    },
    /// An invite gives a role to whoever claims it.
    Invite {
        invite: usize,
        role: Role,
    },
    /// The author carries a member's claim of an invite.
    Claim {
        invite: usize,
        whom: usize,
    },
    Cancel {
        invite: usize,
    },
    Resign,
    Checkpoint {
        at: u32,
        promises: Vec<Promise>,
    },
}

/// An entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) author: usize,
    pub(super) time: u32,
    tie: u32,
    prev: Option<usize>,
    /// Everything that it builds on.
    pub(super) past: Set,
    /// The admission that its author signs by.
    pub(super) grant: Option<usize>,
    pub(super) act: Act,
}

/// A history in the order in which it was written.
#[derive(Debug)]
pub(super) struct History {
    pub(super) rules: Rules,
    pub(super) entries: Vec<Entry>,
    /// What each checkpoint that is valid fixes.
    fixed: Vec<Option<Fixed>>,
    liars: [bool; MEMBERS],
}

pub(super) fn bit(entry: usize) -> Set {
    1 << entry
}

pub(super) fn each(set: Set) -> impl Iterator<Item = usize> {
    let mut rest = set;
    std::iter::from_fn(move || {
        let next = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
        rest &= rest - 1;
        Some(next)
    })
}

impl History {
    pub(super) fn all(&self) -> Set {
        match self.entries.len() {
            ENTRIES_MAX => Set::MAX,
            len => bit(len) - 1,
        }
    }

    pub(super) fn position(&self, entry: usize) -> Position {
        (self.entries[entry].time, self.entries[entry].tie, entry)
    }

    pub(super) fn sorted(&self, set: Set) -> Vec<usize> {
        let mut sorted: Vec<usize> = each(set).collect();
        sorted.sort_unstable_by_key(|entry| self.position(*entry));
        sorted
    }

    fn filter(&self, holds: impl Fn(usize) -> bool) -> Set {
        let entries = (0..self.entries.len()).filter(|entry| holds(*entry));
        entries.fold(0, |set, entry| set | bit(entry))
    }

    /// The entries at or below a time.
    pub(super) fn until(&self, at: u32) -> Set {
        self.filter(|entry| self.entries[entry].time <= at)
    }

    pub(super) fn below(&self, position: Position) -> Set {
        self.filter(|entry| self.position(entry) < position)
    }

    pub(super) fn of(&self, author: usize) -> Set {
        self.filter(|entry| self.entries[entry].author == author)
    }

    /// The entries of members that do not lie.
    pub(super) fn honest(&self) -> Set {
        self.filter(|entry| !self.liars[self.entries[entry].author])
    }

    /// An entry and what it continues.
    pub(super) fn chain(&self, entry: usize) -> Set {
        let mut chain = bit(entry);
        let mut at = entry;
        while let Some(prev) = self.entries[at].prev {
            chain |= bit(prev);
            at = prev;
        }
        chain
    }

    pub(super) fn checkpoints(&self) -> Vec<usize> {
        let is = |e: &usize| matches!(self.entries[*e].act, Act::Checkpoint { .. });
        (0..self.entries.len()).filter(is).collect()
    }

    /// What an entry fixes, if it is a valid checkpoint.
    pub(super) fn fixed(&self, entry: usize) -> Option<&Fixed> {
        self.fixed.get(entry)?.as_ref()
    }

    /// All entries in an order in which they may arrive.
    pub(super) fn shuffled(&self, dice: &mut Dice) -> Vec<usize> {
        let mut left = self.all();
        let mut order = Vec::new();
        while left != 0 {
            let ready: Vec<usize> = each(left)
                .filter(|e| self.entries[*e].past & left == 0)
                .collect();
            // Often the newest of them, so that some come very late.
            let next = match dice.below(3) {
                0 => ready[ready.len() - 1],
                _ => ready[dice.below(ready.len() as u64) as usize],
            };
            left &= !bit(next);
            order.push(next);
        }
        order
    }

    fn push(&mut self, entry: Entry) -> Result<usize, String> {
        let number = self.entries.len();
        self.entries.push(entry);
        let fixed = self.judge(number)?;
        self.fixed.push(fixed);
        Ok(number)
    }

    /// A history that members write who hear of each other in part.
    pub(super) fn random(dice: &mut Dice, rules: Rules) -> Result<Self, String> {
        let mut liars = [false; MEMBERS];
        for liar in liars.iter_mut().skip(2) {
            *liar = dice.below(3) == 0;
        }
        let mut town = Town {
            history: Self {
                rules,
                entries: Vec::new(),
                fixed: Vec::new(),
                liars,
            },
            known: [0; MEMBERS],
            promised: [0; MEMBERS],
            skew: [0; MEMBERS],
            silent: [false; MEMBERS],
            promises: Vec::new(),
            now: 10,
            may_resign: dice.below(4) == 0,
        };
        for skew in &mut town.skew {
            *skew = dice.below(8) as u32;
        }
        // Whoever may have to lead is honest: the founder, and the first that it admits.
        town.write(
            0,
            Act::Admit {
                whom: 1,
                role: Role::Admin,
            },
        )?;
        let steps = 100 + dice.below(400);
        for _ in 0..steps {
            if town.history.entries.len() >= ENTRIES_MAX - 1 {
                break;
            }
            town.now += dice.below(4) as u32;
            town.step(dice)?;
        }
        Ok(town.history)
    }
}

/// The members while they write.
struct Town {
    history: History,
    known: [Set; MEMBERS],
    promised: [u32; MEMBERS],
    skew: [u32; MEMBERS],
    silent: [bool; MEMBERS],
    /// Whatever was promised can be shown again by anybody.
    promises: Vec<Promise>,
    now: u32,
    may_resign: bool,
}

fn pick(dice: &mut Dice, set: Set) -> Option<usize> {
    let all: Vec<usize> = each(set).collect();
    let at = dice.below(all.len().max(1) as u64) as usize;
    all.get(at).copied()
}

fn role(dice: &mut Dice) -> Role {
    [Role::Admin, Role::Writer, Role::Writer, Role::Reader][dice.below(4) as usize]
}

impl Town {
    fn step(&mut self, dice: &mut Dice) -> Result<(), String> {
        let member = dice.below(MEMBERS as u64) as usize;
        let other = dice.below(MEMBERS as u64) as usize;
        match dice.below(20) {
            0..9 => {
                if !self.silent[member] && !self.silent[other] {
                    self.known[other] |= self.known[member];
                }
            }
            9 => self.silent[member] = !self.silent[member] && dice.below(2) == 0,
            10..12 => self.finish(dice)?,
            _ if self.history.liars[member] => self.lie(dice, member)?,
            _ => {
                let read = self.history.read(self.known[member])?;
                let Some(row) = read.state.active(member) else {
                    return Ok(());
                };
                // Whoever may have to lead after the founder stays.
                let heir = other == 1 && self.may_resign;
                let admin = row.role == Role::Admin && !heir;
                let act = match dice.below(20) {
                    0..8 if row.role != Role::Reader => Act::Write,
                    8..12 if admin => {
                        let known = read.state.rows[other].is_some();
                        if known && !read.state.outranks(member, other) {
                            return Ok(());
                        }
                        let role = role(dice);
                        Act::Admit { whom: other, role }
                    }
                    12..14 if admin && read.state.outranks(member, other) => Act::Revoke {
                        whom: other,
                        kept: self.kept(dice, read.live & self.history.of(other)),
                    },
                    14..16 if admin && read.state.outranks(member, other) => {
                        let role = role(dice);
                        Act::SetRole { whom: other, role }
                    }
                    16 if admin => {
                        let invite = dice.below(INVITES as u64) as usize;
                        match dice.below(2) {
                            0 => Act::Cancel { invite },
                            _ => {
                                let role = role(dice);
                                Act::Invite { invite, role }
                            }
                        }
                    }
                    18 if !heir && other > 1 => {
                        let invite = dice.below(INVITES as u64) as usize;
                        Act::Claim {
                            invite,
                            whom: other,
                        }
                    }
                    17 if member > 1 || (member == 0 && self.may_resign) => Act::Resign,
                    _ => return Ok(()),
                };
                self.write(member, act)?;
            }
        }
        Ok(())
    }

    /// All of what is known of a member, none, or anything.
    fn kept(&self, dice: &mut Dice, own: Set) -> Set {
        match dice.below(3) {
            0 => own,
            1 => 0,
            _ => pick(dice, own).map_or(0, bit),
        }
    }

    /// An honest member writes: after everything that it knows, and after what it promised.
    fn write(&mut self, member: usize, act: Act) -> Result<usize, String> {
        let known = self.known[member];
        let live = self.history.read(known)?.live;
        let own = live & self.history.of(member);
        let after = each(live).map(|e| self.history.entries[e].time).max();
        let least = match &act {
            Act::Checkpoint { at, .. } => *at,
            _ => 0,
        };
        let time = (self.now + self.skew[member])
            .max(after.unwrap_or(0) + 1)
            .max(self.promised[member] + 1)
            .max(least + 1);
        // What is void nobody names, but what counts may build on it.
        let past = each(live).fold(live, |past, e| past | self.history.entries[e].past);
        let entry = Entry {
            author: member,
            time,
            tie: self.tie(member, time),
            prev: self.history.sorted(own).last().copied(),
            past,
            grant: self.grant(member, live),
            act,
        };
        let number = self.history.push(entry)?;
        self.known[member] |= bit(number);
        Ok(number)
    }

    fn tie(&self, member: usize, time: u32) -> u32 {
        let mut dice =
            Dice(u64::from(time) << 16 | (member << 8 | self.history.entries.len()) as u64);
        dice.below(1 << 20) as u32
    }

    /// The last admission of a member.
    fn grant(&self, member: usize, set: Set) -> Option<usize> {
        let sorted = self.history.sorted(set);
        let admits = |e: &usize| match &self.history.entries[*e].act {
            Act::Admit { whom, .. } | Act::SetRole { whom, .. } | Act::Claim { whom, .. } => {
                *whom == member
            }
            _ => false,
        };
        sorted.into_iter().rev().find(admits)
    }

    /// A liar writes: in any place above what it chooses to name, with whatever it likes.
    fn lie(&mut self, dice: &mut Dice, member: usize) -> Result<(), String> {
        let known = self.known[member];
        let Some(grant) = self.grant(member, known) else {
            return Ok(());
        };
        let own = known & self.history.of(member);
        let prev = match dice.below(4) {
            0 => None,
            1 => pick(dice, own),
            _ => self.history.sorted(own).last().copied(),
        };
        let mut names = bit(grant) | prev.map_or(0, bit);
        for _ in 0..dice.below(4) {
            names |= pick(dice, known).map_or(0, bit);
        }
        // Now and then it takes back what others may have built on: a resignation right below a revocation.
        let revocations = self.history.filter(|e| {
            let act = &self.history.entries[e].act;
            own & bit(e) != 0 && matches!(act, Act::Revoke { .. } | Act::SetRole { .. })
        });
        let undone = pick(dice, revocations).filter(|_| dice.below(4) == 0);
        if undone.is_some() {
            names = bit(grant);
        }
        let past = each(names).fold(names, |past, e| past | self.history.entries[e].past);
        let after = each(past).map(|e| self.history.entries[e].time).max();
        let after = after.unwrap_or(0) + 1;
        let time = match dice.below(3) {
            0 => (self.now + self.skew[member]).max(after),
            _ => after + dice.below(6) as u32,
        };
        let (prev, time) = match undone {
            Some(undone) => (None, after.max(self.history.entries[undone].time - 1)),
            None => (prev, time),
        };
        let other = dice.below(MEMBERS as u64) as usize;
        let invite = dice.below(INVITES as u64) as usize;
        let act = match dice.below(12) {
            _ if undone.is_some() => Act::Resign,
            0..4 => Act::Write,
            4 => Act::Admit {
                whom: other,
                role: role(dice),
            },
            5 | 6 => Act::Revoke {
                whom: other,
                kept: self.kept(dice, known & self.history.of(other)),
            },
            7 => Act::Resign,
            8 => Act::SetRole {
                whom: other,
                role: role(dice),
            },
            9 => Act::Claim {
                invite,
                whom: other,
            },
            10 => Act::Cancel { invite },
            _ => {
                self.promises.push(Promise {
                    member,
                    at: time,
                    tips: 0,
                });
                Act::Checkpoint {
                    at: time - 1 - (dice.below(6) as u32).min(time - 1),
                    promises: self.promises.clone(),
                }
            }
        };
        let entry = Entry {
            author: member,
            time,
            tie: dice.below(1 << 20) as u32,
            prev,
            past,
            grant: Some(grant),
            act,
        };
        let number = self.history.push(entry)?;
        self.known[member] |= bit(number);
        // The later it is shown, the more it may upset.
        if dice.below(2) == 0 {
            let whom = dice.below(MEMBERS as u64) as usize;
            self.known[whom] |= self.known[member];
        }
        Ok(())
    }

    /// Somebody who may makes a checkpoint of what those who answer promise.
    fn finish(&mut self, dice: &mut Dice) -> Result<(), String> {
        let member = dice.below(MEMBERS as u64) as usize;
        let read = self.history.read(self.known[member])?;
        let may = match self.history.rules.leader {
            true => read.state.leader() == Some(member),
            false => read.state.is_admin(member),
        };
        if !may || self.history.liars[member] || self.silent[member] {
            return Ok(());
        }
        let known = each(self.known[member]).filter_map(|e| self.history.fixed(e));
        let last = known.map(|fixed| fixed.at).max().unwrap_or(0);
        let now = self.now + self.skew[member];
        let back = if dice.below(3) == 0 { 150 } else { 12 };
        let at = now.saturating_sub(dice.below(back) as u32).max(last);
        for other in 0..MEMBERS {
            if self.silent[other] && other != member {
                continue;
            }
            let tips = self.tips(other, at);
            if self.history.liars[other] {
                let tips = tips & dice.roll();
                let promise = Promise {
                    member: other,
                    at,
                    tips,
                };
                self.promises.push(promise);
                continue;
            }
            let promise = Promise {
                member: other,
                at,
                tips,
            };
            self.promises.push(promise);
            self.promised[other] = self.promised[other].max(at);
            // The promise may come before the entries that it names.
            if dice.below(5) != 0 {
                self.known[member] |= self.known[other];
            }
        }
        let promises = self.promises.clone();
        self.write(member, Act::Checkpoint { at, promises })?;
        Ok(())
    }

    /// The last entries of a member at or below a time, by each admission that it signed with: a revocation voids
    /// what was signed by one and spares what was signed by another, in one chain as well.
    fn tips(&self, member: usize, at: u32) -> Set {
        let own = self.known[member] & self.history.of(member) & self.history.until(at);
        let entries = &self.history.entries;
        let goes_on = |e: usize| {
            each(own).any(|next| {
                entries[next].past & bit(e) != 0 && entries[next].grant == entries[e].grant
            })
        };
        each(own)
            .filter(|e| !goes_on(*e))
            .fold(0, |tips, e| tips | bit(e))
    }
}

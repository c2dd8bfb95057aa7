//! Attacks of hostile members: entries that they sign with their own keys, and push through their own sessions.
//!
//! A hostile member runs a node like everybody else and keeps its store. Besides, it signs whatever a header and a body
//! can say, and sends that to its peers at any time, whatever its session has told them.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_format::{
    Body, BodyRef, Call, ChainId, DeviceKey, Header, IntentionId, Lane, Seq, StoreId, Time,
    Transaction, VerifiedHeader,
};
use lattice_kernel::run::engine::Role;
use lattice_kernel::{LocalSeq, Snapshot, StorageError};
use lattice_testing::Dice;

use crate::limits::{OUT_BYTES_HIGH, START_MS};
use crate::net::byzantine;
use crate::world::World;
use crate::world::node::{Entries, NodeId};

/// What a hostile member signs and pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Entries of one chain, with bodies of this size that do not decode.
    Flood {
        /// The bytes of each body.
        body_bytes: u32,
    },
    /// Chains of one entry each.
    Chains,
    /// Entries that all follow the same one.
    Forks,
    /// Chains of one entry each, every one dated before the one before it.
    Earlier,
    /// Entries dated ahead.
    Ahead {
        /// By how much, in milliseconds.
        ms: u64,
    },
    /// Entries that name entries which nobody has.
    Floating,
    /// Headers whose bodies nobody gets.
    Headers,
    /// One entry whose transactions use more than an intention may, and trap.
    Unpayable,
    /// Entries of two devices in turn, each of which names the one before it.
    Alternate,
    /// One entry that admits many devices.
    Admissions,
    /// One entry that makes many invites, or under the model governance many children.
    Invites,
    /// Entries of others, once more.
    Replay,
    /// A revocation that keeps many ids.
    Kept,
    /// Changes of membership in chains that are dated right behind the author's admission.
    Usurp,
    /// Changes after which governance traps when it is asked for somebody's cuts; only the model governance has such.
    TrapAtCuts,
    /// Claims of invites that were used.
    Claims,
}

/// The bytes of a body that waits at peers, for its time or for what it names.
const WAITING_BODY_BYTES: u32 = 8 * 1024;
/// The most transactions of one entry that each trap.
const TRAPS_MAX: u32 = 400;

/// What a hostile member knows of its rights, read from its store as that grows.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    looked: u64,
    grants: Vec<(IntentionId, Time)>,
}

impl Rights {
    fn read(&mut self, snapshot: &Snapshot, device: DeviceKey) -> Result<(), StorageError> {
        let count = snapshot.summary().count;
        while self.looked < count {
            if let Some(entry) = snapshot.entry_at(LocalSeq(self.looked))?
                && entry.header.admits.contains(&device)
            {
                self.grants.push((entry.header.id(), entry.header.time));
            }
            self.looked += 1;
        }
        Ok(())
    }
}

/// A chain as a forger goes on with it.
#[derive(Clone, Copy, Debug)]
struct Line {
    chain: ChainId,
    seq: Seq,
    prev: (IntentionId, Time),
    bytes: u64,
}

impl Line {
    fn fresh(dice: &mut Dice, genesis: (IntentionId, Time)) -> Self {
        Self {
            chain: ChainId(dice.roll()),
            seq: Seq(0),
            prev: genesis,
            bytes: 0,
        }
    }
}

/// What an entry holds besides its place.
struct Content {
    lane: Lane,
    deps: Vec<(IntentionId, Time)>,
    admits: Vec<DeviceKey>,
    body: Vec<u8>,
}

impl Content {
    fn of(lane: Lane, body: Vec<u8>) -> Self {
        Self {
            lane,
            deps: Vec::new(),
            admits: Vec::new(),
            body,
        }
    }
}

/// A device that signs anything.
#[derive(Clone)]
struct Forger {
    key: SigningKey,
    device: DeviceKey,
    store: StoreId,
    genesis: (IntentionId, Time),
    grant: (IntentionId, Time),
    /// The end of each of its chains, the latest last.
    tips: Vec<Line>,
}

impl Forger {
    /// The chain that it wrote last, or a fresh one.
    fn line(&self, dice: &mut Dice) -> Line {
        let last = self.tips.last().copied();
        last.unwrap_or_else(|| Line::fresh(dice, self.genesis))
    }

    /// Signs the next entry of a chain, dated `wall_ms`, or as early as what it names allows.
    fn sign(
        &self,
        line: &mut Line,
        wall_ms: u64,
        content: Content,
    ) -> Option<(VerifiedHeader, Vec<u8>)> {
        let Content {
            lane,
            mut deps,
            admits,
            body,
        } = content;
        let named = deps.iter().map(|(_, time)| *time);
        let latest = named.chain([line.prev.1, self.grant.1]).max()?;
        let time = match wall_ms > latest.wall_ms {
            true => Time {
                wall_ms,
                counter: 0,
            },
            false => latest.successor()?,
        };
        deps.retain(|(id, _)| *id != line.prev.0);
        deps.sort_unstable();
        let len = u32::try_from(body.len()).ok()?;
        let header = Header {
            store: Some(self.store),
            author: self.device,
            chain: line.chain,
            seq: line.seq,
            prev: Some(line.prev.0),
            deps: deps.into_iter().map(|(id, _)| id).collect(),
            time,
            grant: Some(self.grant.0),
            admits,
            lane,
            body: BodyRef {
                hash: Body::hash_of(&body),
                len,
                key: 0,
            },
            chain_bytes: line.bytes + u64::from(len),
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        };
        let signed = VerifiedHeader::sign(header, &self.key).ok()?;
        line.prev = (signed.id(), time);
        line.seq = Seq(line.seq.0 + 1);
        line.bytes += u64::from(len);
        Some((signed, body))
    }
}

/// A body of one transaction.
fn body_of(calls: Vec<Call>) -> Vec<u8> {
    body_with(vec![calls])
}

/// A body of many transactions.
fn body_with(transactions: Vec<Vec<Call>>) -> Vec<u8> {
    let transaction = |calls| Transaction { calls, told: None };
    Body {
        transactions: transactions.into_iter().map(transaction).collect(),
        genesis: None,
        claim: None,
    }
    .encode()
}

/// Bytes that are no body, each time others.
fn junk(dice: &mut Dice, len: u32) -> Vec<u8> {
    let mut bytes = vec![0xff; len as usize];
    let number = dice.roll().to_be_bytes();
    for (byte, random) in bytes.iter_mut().skip(1).zip(number) {
        *byte = random;
    }
    bytes
}

fn id(dice: &mut Dice) -> [u8; 32] {
    let mut id = [0; 32];
    for eight in id.as_chunks_mut::<8>().0 {
        *eight = dice.roll().to_be_bytes();
    }
    id
}

impl World {
    /// Has a hostile member sign entries and push them to its peers, or to one of them.
    pub(crate) fn attack(&mut self, by: NodeId, with: NodeId, attack: Attack, count: u32) {
        let mut dice = self.dice.split();
        let Ok(Some(forger)) = self.forger(by, &mut dice) else {
            return;
        };
        let accomplice = match attack {
            Attack::Alternate => self.forger(with, &mut dice).ok().flatten(),
            _ => None,
        };
        let entries = match attack {
            Attack::Replay => self.replayed(by, count, &mut dice),
            _ => {
                let both = (forger, accomplice);
                self.made_up(both, attack, count, &mut dice)
            }
        };
        let len = entries.len();
        self.note(by, format_args!("attacks with {len} entries: {attack:?}"));
        self.push(by, &entries, dice.below(3) > 0);
    }

    fn forger(&mut self, by: NodeId, dice: &mut Dice) -> Result<Option<Forger>, StorageError> {
        let Some(snapshot) = self.snapshot(by) else {
            return Ok(None);
        };
        let node = &mut self.nodes[by.index()];
        node.rights.read(&snapshot, node.device)?;
        let grants = &node.rights.grants;
        // An older admission is before a revocation.
        let grant = match dice.below(4) {
            0 => grants.get(dice.below(grants.len() as u64) as usize),
            _ => grants.last(),
        };
        let Some(grant) = grant.copied() else {
            return Ok(None);
        };
        let mut tips = Vec::new();
        for tip in snapshot.tips()?.iter().filter(|t| t.author == node.device) {
            if let Some(entry) = snapshot.entry(&tip.id)?
                && !entry.header.is_genesis()
            {
                tips.push(Line {
                    chain: tip.chain,
                    seq: Seq(tip.seq.0 + 1),
                    prev: (tip.id, entry.header.time),
                    bytes: entry.header.chain_bytes,
                });
            }
        }
        tips.sort_unstable_by_key(|line| line.prev.1);
        Ok(Some(Forger {
            key: node.key.clone(),
            device: node.device,
            store: snapshot.store_id(),
            genesis: (snapshot.store_id().into(), snapshot.genesis_time()),
            grant,
            tips,
        }))
    }

    fn replayed(&self, by: NodeId, count: u32, dice: &mut Dice) -> Entries {
        let Some(snapshot) = self.snapshot(by) else {
            return Vec::new();
        };
        let from = LocalSeq(dice.below(snapshot.summary().count));
        let entries = snapshot.entries_from(from, count as usize);
        let entries = entries.unwrap_or_default().into_iter();
        entries
            .map(|e| (e.header.signed().clone(), e.body.as_deref().map(Vec::from)))
            .collect()
    }

    /// The entries of an attack that are made up.
    fn made_up(
        &mut self,
        (forger, accomplice): (Forger, Option<Forger>),
        attack: Attack,
        count: u32,
        dice: &mut Dice,
    ) -> Entries {
        let now_ms = START_MS + self.now_ms;
        let mut signed = Vec::new();
        let first = forger.line(dice);
        let mut line = first;
        let turns = match attack {
            Attack::Unpayable | Attack::Admissions | Attack::Invites | Attack::Kept => 1,
            Attack::Usurp | Attack::TrapAtCuts | Attack::Claims => count.min(4),
            _ => count,
        };
        let span_ms = now_ms.saturating_sub(forger.grant.1.wall_ms);
        let mut last = None;
        for turn in 0..turns {
            let app = |dice: &mut Dice| body_of(vec![self.code.random(dice)]);
            let mut who = &forger;
            let mut dated_ms = now_ms;
            let mut content = match attack {
                Attack::Flood { body_bytes } => {
                    Content::of(self.some_lane(dice), junk(dice, body_bytes))
                }
                Attack::Chains
                | Attack::Forks
                | Attack::Earlier
                | Attack::Headers
                | Attack::Alternate => Content::of(Lane::App, app(dice)),
                Attack::Ahead { ms } => {
                    dated_ms += ms + dice.below(1_000);
                    Content::of(Lane::App, junk(dice, WAITING_BODY_BYTES))
                }
                Attack::Floating => Content {
                    deps: vec![(IntentionId(id(dice)), forger.grant.1)],
                    ..Content::of(Lane::App, junk(dice, WAITING_BODY_BYTES))
                },
                Attack::Unpayable => {
                    let calls = (0..count.min(TRAPS_MAX)).map(|_| self.code.costly(dice));
                    Content::of(Lane::App, body_with(calls.map(|call| vec![call]).collect()))
                }
                Attack::Admissions => self.admissions(&forger, count, dice),
                Attack::Invites => Content::of(Lane::System, body_of(self.many(count, dice))),
                Attack::Kept => {
                    let target = self.anybody(dice);
                    let ids: Vec<_> = (0..count).map(|_| IntentionId(id(dice))).collect();
                    let call = self.code.revoke_keeping(target, &ids);
                    Content::of(Lane::System, body_of(vec![call]))
                }
                Attack::Usurp => {
                    dated_ms = forger.grant.1.wall_ms + 1 + dice.below(span_ms + 1);
                    let call = self.usurping(forger.device, dice);
                    Content::of(Lane::System, body_of(vec![call]))
                }
                Attack::TrapAtCuts => {
                    let target = self.anybody(dice);
                    let call = self.code.trap_at_cuts(target);
                    let call = call.unwrap_or_else(|| self.usurping(forger.device, dice));
                    Content::of(Lane::System, body_of(vec![call]))
                }
                Attack::Claims => {
                    let number = 1 + dice.below(self.invites);
                    let device = self.anybody(dice);
                    let call = match self.code.has_invites() {
                        true => self.code.claim(number, &forger.store, device),
                        false => self.usurping(forger.device, dice),
                    };
                    Content::of(Lane::System, body_of(vec![call]))
                }
                Attack::Replay => return Vec::new(),
            };
            match attack {
                Attack::Chains | Attack::Usurp => line = Line::fresh(dice, forger.genesis),
                Attack::Earlier => {
                    line = Line::fresh(dice, forger.genesis);
                    let left = u64::from(turns - turn);
                    dated_ms = forger.grant.1.wall_ms + span_ms * left / u64::from(turns + 1);
                }
                Attack::Forks => line = first,
                Attack::Alternate => {
                    if turn % 2 == 1 {
                        who = accomplice.as_ref().unwrap_or(&forger);
                    }
                    line = Line::fresh(dice, forger.genesis);
                    content.deps.extend(last);
                }
                _ => {}
            }
            if let Some((header, body)) = who.sign(&mut line, dated_ms, content) {
                last = Some((header.id(), header.time));
                let body = (attack != Attack::Headers).then_some(body);
                signed.push((header.signed().clone(), body));
            }
        }
        signed
    }

    /// Mostly what writers write in.
    fn some_lane(&self, dice: &mut Dice) -> Lane {
        match dice.below(3) {
            0 => Lane::System,
            _ => Lane::App,
        }
    }

    fn anybody(&self, dice: &mut Dice) -> DeviceKey {
        self.nodes[dice.below(self.nodes.len() as u64) as usize].device
    }

    /// A change of membership that its author mostly has no right to.
    fn usurping(&self, own: DeviceKey, dice: &mut Dice) -> Call {
        let target = self.anybody(dice);
        match dice.below(5) {
            0 => self.code.set_role(own, Role::Admin),
            1 => self.code.set_role(target, Role::Reader),
            2 => self.code.readmit(own, Role::Admin),
            3 => self.code.resign(),
            _ => self.code.revoke_keeping(target, &[]),
        }
    }

    /// One transaction that admits many devices, and a header that names as many of them as it can.
    fn admissions(&mut self, forger: &Forger, count: u32, dice: &mut Dice) -> Content {
        let (mut calls, mut admits) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let key = SigningKey::from_bytes(&id(dice));
            let device = DeviceKey(key.verifying_key().to_bytes());
            self.invites += 1;
            let role = [Role::Reader, Role::Writer][dice.below(2) as usize];
            calls.extend(self.code.admit(&forger.store, device, role, self.invites));
            if admits.len() < lattice_format::limits::ADMITS_MAX {
                admits.push(device);
            }
        }
        admits.sort_unstable();
        Content {
            admits,
            ..Content::of(Lane::System, body_of(calls))
        }
    }

    /// Many invites, or children.
    fn many(&mut self, count: u32, dice: &mut Dice) -> Vec<Call> {
        let calls = (0..count).map(|_| {
            self.invites += 1;
            match self.code.has_invites() {
                true => {
                    let expires_ms = START_MS + dice.below(2 * self.now_ms);
                    self.code.invite(self.invites, Role::Writer, expires_ms, 1)
                }
                false => self.code.add_child(StoreId(id(dice))),
            }
        });
        calls.collect()
    }

    /// Writes entries into streams of a node as if its sessions had said them, up to what a stream takes.
    fn push(&mut self, by: NodeId, entries: &Entries, to_all: bool) {
        let frames: Vec<Bytes> = byzantine::frames_of(entries);
        let mut ends: Vec<_> = self.nodes[by.index()].streams.values().copied().collect();
        if !to_all && !ends.is_empty() {
            let only = self.dice.below(ends.len() as u64) as usize;
            ends = vec![ends[only]];
        }
        for (id, side) in ends {
            for frame in &frames {
                let Some(stream) = self.streams.get_mut(&id) else {
                    break;
                };
                let waiting = stream.end(side.other()).incoming_bytes;
                if stream.end(side).talk.is_none() || waiting > OUT_BYTES_HIGH {
                    break;
                }
                self.write(id, side, frame.clone());
            }
        }
    }
}

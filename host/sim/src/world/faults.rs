//! What the steps of a plan do to a world.

use lattice_format::{Body, BodyRef, Header, Lane, Seq, SignedHeader, VerifiedHeader};
use lattice_kernel::run::engine::MemberStatus;
use lattice_kernel::{LocalSeq, Stored};
use lattice_testing::{self as testing, Dice};

use crate::world::act::{Act, Fails};
use crate::world::node::{Delivery, Entries, Job, NodeId};
use crate::world::queue::Event;
use crate::world::{Block, Mend, World};

impl World {
    /// Does the step of the plan with that number.
    pub(crate) fn step(&mut self, number: usize) {
        let act = self.plan[number].act.clone();
        self.note(NodeId(0), format_args!("step {number}: {act:?}"));
        self.act(act);
    }

    /// Does one thing to the world, now.
    pub fn act(&mut self, act: Act) {
        match act {
            Act::Call { by, calls } => self.job(
                by,
                Job::Call {
                    lane: Lane::App,
                    calls,
                },
            ),
            Act::Admit { by, whom, role } => self.admit(by, whom, role),
            Act::Revoke { by, whom, keep } => {
                let call = self.code.revoke(self.nodes[whom.index()].device, keep);
                self.govern(by, vec![call]);
            }
            Act::Resign { by } => {
                let call = self.code.resign();
                self.govern(by, vec![call]);
            }
            Act::Invite {
                by,
                role,
                uses,
                lasts_ms,
            } if self.code.has_invites() => {
                self.invites += 1;
                let now_ms = self.moment(by).clock.wall_ms;
                let store = self.nodes[by.index()].store();
                let next = store.and_then(|store| store.next_time(now_ms).ok());
                let expires_ms = next.map_or(now_ms, |time| time.wall_ms) + lasts_ms;
                let call = self.code.invite(self.invites, role, expires_ms, uses);
                self.invite = Some(self.invites);
                self.govern(by, vec![call]);
            }
            Act::Claim { whom, via } => {
                if let (Some(invite), Some(id)) = (self.invite, self.store_id) {
                    let device = self.nodes[whom.index()].device;
                    let call = self.code.claim(invite, &id, device);
                    // A joiner trusts whom it brings its claim to until it knows of governance.
                    self.nodes[whom.index()].trusted.insert(via);
                    self.govern(via, vec![call]);
                }
            }
            // The model governance has none.
            Act::Invite { .. } => {}
            Act::Child { by } => self.found_child(by),
            Act::InChild(act) => {
                self.with_child(|child| child.act(*act));
            }
            Act::Crash { node, after } => self.nodes[node.index()].fuse = Some(after),
            Act::CutPower { node, after } => {
                let node = &mut self.nodes[node.index()];
                node.dies_with_disk = true;
                node.disks.power.fail_after(after);
            }
            Act::BreakDisk { node, fails, after } => {
                let node = &mut self.nodes[node.index()];
                node.dies_with_disk = false;
                match fails {
                    Fails::Writes => node.disks.power.fail_after(after),
                    Fails::Reads => node.disks.reads.fail_after(after),
                }
            }
            Act::Fill { node, ms } => {
                self.fill(node);
                self.with_child(|child| child.fill(node));
                self.mend_after(ms, Mend::Room(node));
            }
            Act::Slow { node, disk_ms, ms } => {
                self.nodes[node.index()].disk_ms = disk_ms;
                self.with_child(|child| child.nodes[node.index()].disk_ms = disk_ms);
                self.mend_after(ms, Mend::Slow(node));
            }
            Act::Sleep { node, ms } => self.sleep(node, ms),
            Act::Skew { node, ms } => {
                self.skew(node, ms);
                self.with_child(|child| child.skew(node, ms));
            }
            Act::Move { node } => {
                self.move_address(node);
                self.with_child(|child| child.move_address(node));
            }
            Act::Partition { group, one_way, ms } => {
                let number = self.mends.len();
                self.blocks.insert(number, Block { group, one_way });
                self.mend_after(ms, Mend::Block(number));
            }
            Act::Storm { weather, ms } => {
                let before = self.weather;
                self.weather = weather;
                self.mend_after(ms, Mend::Weather(before));
            }
            Act::Backup { node } => self.back_up(node),
            Act::Restore { node } => self.restore(node),
            Act::Lie { node } => {
                self.nodes[node.index()].liar = true;
                self.with_child(|child| child.nodes[node.index()].liar = true);
            }
            Act::Forge { to, by, kind } => self.forge(to, by, kind),
            Act::Turn { node } => {
                self.nodes[node.index()].hostile = true;
                self.with_child(|child| child.nodes[node.index()].hostile = true);
            }
            Act::Estrange { node } => {
                self.nodes[node.index()].stranger = true;
                self.with_child(|child| child.nodes[node.index()].stranger = true);
            }
            Act::Bound { by, bytes } => {
                let call = self.code.set_quota(bytes);
                self.govern(by, vec![call]);
            }
            Act::FalseClaim { whom, via } => {
                if let Some(id) = self.store_id.filter(|_| self.code.has_invites()) {
                    let device = self.nodes[whom.index()].device;
                    // No invite has such a number.
                    let call = self.code.claim(u64::MAX, &id, device);
                    self.govern(via, vec![call]);
                }
            }
            Act::Attack {
                by,
                with,
                attack,
                count,
            } => self.attack(by, with, attack, count),
            Act::Rebuild { node } => self.rebuild(node),
            Act::Judge { node } => self.judge(node),
        }
    }

    /// Sets a clock.
    pub(crate) fn skew(&mut self, id: NodeId, ms: i64) {
        let shown_ms = self.clock(id);
        let node = &mut self.nodes[id.index()];
        node.shown_ms = node.shown_ms.max(shown_ms);
        node.skew_ms = ms;
    }

    fn mend_after(&mut self, ms: u64, mend: Mend) {
        let number = self.mends.len();
        self.mends.push(mend);
        self.queue.at(self.now_ms + ms, Event::Mend(number));
    }

    /// Ends a fault. Those that all ended together before are ended already.
    pub(crate) fn mend(&mut self, number: usize) {
        match self.mends.get(number).cloned() {
            Some(Mend::Block(number)) => {
                self.blocks.remove(&number);
            }
            Some(Mend::Weather(before)) => self.weather = before,
            Some(Mend::Room(node)) => {
                self.nodes[node.index()].disks.log.set_room(None);
                self.with_child(|child| child.nodes[node.index()].disks.log.set_room(None));
            }
            Some(Mend::Slow(node)) => {
                self.nodes[node.index()].disk_ms = 1;
                self.with_child(|child| child.nodes[node.index()].disk_ms = 1);
            }
            None => {}
        }
    }

    /// Lets nothing more onto the disk of a log.
    fn fill(&mut self, id: NodeId) {
        let disk = &self.nodes[id.index()].disks.log;
        disk.set_room(Some(disk.used()));
    }

    /// Copies the disks of all stores.
    fn back_up(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        if node.store().is_some() && !node.disks.power.failed() {
            node.backup = Some((node.disks.log.live(), node.disks.state.live()));
        }
        self.with_child(|child| child.back_up(id));
    }

    pub(crate) fn govern(&mut self, by: NodeId, calls: Vec<lattice_format::Call>) {
        self.job(
            by,
            Job::Call {
                lane: Lane::System,
                calls,
            },
        );
    }

    fn admit(&mut self, by: NodeId, whom: NodeId, role: lattice_kernel::run::engine::Role) {
        let device = self.nodes[whom.index()].device;
        let (Some(members), Some(id)) = (self.seen_members(by), self.store_id) else {
            return;
        };
        let calls = match members.iter().find(|m| m.device == device) {
            None => {
                self.invites += 1;
                self.code.admit(&id, device, role, self.invites)
            }
            Some(member) => {
                vec![match member.status {
                    MemberStatus::Active => self.code.set_role(device, role),
                    _ => self.code.readmit(device, role),
                }]
            }
        };
        self.govern(by, calls);
    }

    fn rebuild(&mut self, id: NodeId) {
        if self.nodes[id.index()].is_on() {
            self.job(id, Job::Rebuild);
        }
    }

    // --- lies ------------------------------------------------------------------------------------

    /// Gives a node entries that nobody honest would send, in the name of `by`.
    fn forge(&mut self, to: NodeId, by: NodeId, kind: u64) {
        let Some(snapshot) = self.snapshot(to) else {
            return;
        };
        let Ok(entries) = snapshot.entries_from(LocalSeq(0), usize::MAX) else {
            return;
        };
        let mut dice = self.dice.split();
        let call = self.code.random(&mut dice);
        let node = &self.nodes[by.index()];
        let device = node.device;
        let entry = match kind {
            8 => twin(&entries, &node.key, [call, self.code.resign()], &mut dice),
            _ => forged(&entries, &node.key, kind, call, &mut dice),
        };
        let Some(entry) = entry else {
            return;
        };
        self.note(to, format_args!("is given a lie of kind {kind} by {by}"));
        // Whoever is told a lie has no session that it could be told in.
        let delivery = Delivery {
            from: device,
            entries: entry,
            via: None,
        };
        self.job(to, Job::Receive(delivery));
    }
}

/// Another entry in the place of one of the author's: everything is the same but the body, so the ids of its calls
/// are the same as well.
fn twin(
    entries: &[Stored],
    key: &ed25519_dalek::SigningKey,
    [app, system]: [lattice_format::Call; 2],
    dice: &mut Dice,
) -> Option<Entries> {
    let author = lattice_format::DeviceKey(key.verifying_key().to_bytes());
    let own = |e: &&Stored| e.header.author == author && !e.header.is_genesis();
    let mut own: Vec<&Stored> = entries.iter().filter(own).collect();
    // What others ask for by the id of a call is a revocation.
    if own.iter().any(|e| e.header.lane == Lane::System) {
        own.retain(|e| e.header.lane == Lane::System);
    }
    let first = own.get(dice.below(own.len() as u64) as usize)?;
    let lane = first.header.lane;
    let call = match lane {
        Lane::App => app,
        Lane::System => system,
    };
    let body = testing::body_of(call);
    let signed = testing::twin(&first.header, lane, &body, key);
    Some(vec![(signed.signed().clone(), Some(body))])
}

/// An entry of the kind: 0 a wrong signature, 1 another one's name, 2 bytes that differ, 3 a time below that of
/// what it names, 4 another grant, 5 a fork, 6 a body that is none, 7 a header without its body. For 8 see [`twin`].
fn forged(
    entries: &[Stored],
    key: &ed25519_dalek::SigningKey,
    kind: u64,
    call: lattice_format::Call,
    dice: &mut Dice,
) -> Option<Entries> {
    let author = lattice_format::DeviceKey(key.verifying_key().to_bytes());
    let genesis = entries.first()?;
    let own = |e: &&Stored| e.header.author == author && !e.header.is_genesis();
    let own: Vec<&Stored> = entries.iter().filter(own).collect();
    let grant = entries
        .iter()
        .rev()
        .find(|e| e.header.admits.contains(&author));
    let any = &entries[dice.below(entries.len() as u64) as usize];
    let body = match kind {
        6 => b"nonsense".to_vec(),
        _ => testing::body_of(call),
    };
    // A fork goes on where the chain did already.
    let prev = match own.len() {
        0 => None,
        len if kind == 5 => own.get(dice.below(len as u64) as usize).copied(),
        len => own.get(len - 1).copied(),
    };
    let len = u32::try_from(body.len()).ok()?;
    let (chain, seq, before) = match prev {
        Some(prev) => {
            let header = &prev.header;
            (header.chain, Seq(header.seq.0 + 1), header.chain_bytes)
        }
        None => (lattice_format::ChainId(dice.roll()), Seq(0), 0),
    };
    let prev = prev.unwrap_or(genesis);
    let granted = match kind {
        4 => any,
        _ => grant.unwrap_or(genesis),
    };
    let mut time = prev.header.time.max(granted.header.time);
    time.wall_ms = match kind {
        3 => time.wall_ms.saturating_sub(1),
        _ => time.wall_ms + 1 + dice.below(50),
    };
    let header = Header {
        store: genesis.header.store.or(Some(genesis.header.id().into())),
        author: match kind {
            1 => any.header.author,
            _ => author,
        },
        chain,
        seq,
        prev: Some(prev.header.id()),
        deps: Vec::new(),
        time,
        grant: Some(granted.header.id()),
        admits: Vec::new(),
        lane: Lane::App,
        body: BodyRef {
            hash: Body::hash_of(&body),
            len,
            key: 0,
        },
        chain_bytes: before + u64::from(len),
        parent_view: None,
        hints: Vec::new(),
        critical: 0,
    };
    let mut signed: SignedHeader = match kind {
        1 => {
            // Signed by another key than the header says.
            let mut own = header.clone();
            own.author = author;
            let signature = VerifiedHeader::sign(own, key).ok()?.signed().signature;
            SignedHeader {
                bytes: header.encode().into(),
                signature,
            }
        }
        _ => VerifiedHeader::sign(header, key).ok()?.signed().clone(),
    };
    match kind {
        0 => signed.signature.0[7] ^= 1,
        2 => {
            let mut bytes = signed.bytes.to_vec();
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] ^= 4;
            signed.bytes = bytes.into();
        }
        _ => {}
    }
    Some(vec![(signed, (kind != 7).then_some(body))])
}

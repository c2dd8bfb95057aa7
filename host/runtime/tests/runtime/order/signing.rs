//! What devices of a world sign: calls, changes of membership, and entries that no honest node makes.

use ed25519_dalek::Signer;
use lattice_format::{
    Body, BodyRef, Call, ChainId, DeviceKey, Header, IntentionId, Lane, Seq, Time, Transaction,
    VerifiedHeader,
};
use lattice_kernel::Stored;
use lattice_kernel::run::engine::CallKind;
use lattice_runtime::values::{Type, Value, wave};
use lattice_testing::{device, key};

use crate::order::apps::Spec;
use crate::order::case::{Act, Change};
use crate::order::world::{
    COMPONENTS, Keep, Nonsense, START_MS, Wire, World, all, encode, invite_key, system,
};

impl World {
    /// Signs an entry by hand; nothing for a device that no entry admits.
    pub(crate) fn sign(
        &mut self,
        by: u8,
        act: &Act,
        after: u16,
        blind: bool,
        ahead_ms: u8,
    ) -> Option<Wire> {
        let author = device(by);
        let snapshot = self.store(by).snapshot();
        let entries = all(&snapshot);
        let admitting = |e: &&Stored| e.header.admits.contains(&author);
        let grant = entries.iter().rev().find(admitting)?;
        let own = entries
            .iter()
            .filter(|e| e.header.author == author && !e.header.is_genesis());
        let own: Vec<&Stored> = own.collect();
        let prev = own.get(usize::from(after) % (own.len() + 1)).copied();
        let (lane, body) = match self.transactions(by, act) {
            Some((lane, transactions)) => (lane, body_of(transactions)),
            None => (Lane::App, b"nonsense".to_vec()),
        };
        let len = u32::try_from(body.len()).unwrap();
        self.chains += 1;
        let (chain, seq, chain_bytes) = match prev {
            Some(prev) => (
                prev.header.chain,
                Seq(prev.header.seq.0 + 1),
                prev.header.chain_bytes,
            ),
            None => (ChainId(self.chains), Seq(0), 0),
        };
        let prev = prev.unwrap_or(&entries[0]).header.id();
        let heads = &snapshot.summary().heads;
        let mut deps: Vec<IntentionId> = heads.iter().copied().filter(|id| *id != prev).collect();
        deps.truncate(if blind {
            0
        } else {
            lattice_format::limits::DEPS_MAX
        });
        deps.sort_unstable();
        let mut admits = match act {
            Act::Govern(changes) => changes.iter().filter_map(admitted).collect(),
            _ => Vec::new(),
        };
        admits.sort_unstable();
        admits.dedup();
        let mut header = Header {
            store: Some(snapshot.store_id()),
            author,
            chain,
            seq,
            prev: Some(prev),
            deps,
            time: Time::default(),
            grant: Some(grant.header.id()),
            admits,
            lane,
            body: BodyRef {
                hash: Body::hash_of(&body),
                len,
                key: 0,
            },
            chain_bytes: chain_bytes + u64::from(len),
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        };
        let named = |id| snapshot.entry(&id).unwrap().unwrap().header.time.wall_ms;
        let latest_ms = header.names().map(named).max().unwrap();
        header.time.wall_ms = latest_ms + 1 + u64::from(ahead_ms % 64);
        let header = VerifiedHeader::sign(header, &key(by)).unwrap();
        Some((header.signed().clone(), Some(body)))
    }

    /// Signs another body below the header of one of the device's entries.
    pub(super) fn sign_again(&self, by: u8, act: &Act, of: u16) -> Option<Wire> {
        let author = device(by);
        let entries = all(&self.store(by).snapshot());
        let own = |e: &&Stored| e.header.author == author && !e.header.is_genesis();
        let own: Vec<&Stored> = entries.iter().filter(own).collect();
        let first = own.get(usize::from(of).checked_rem(own.len())?)?;
        let (lane, transactions) = self.transactions(by, act)?;
        let body = body_of(transactions);
        let header = lattice_testing::twin(&first.header, lane, &body, &key(by));
        let known = entries.iter().any(|e| e.header.id() == header.id());
        (!known).then(|| (header.signed().clone(), Some(body)))
    }

    /// The calls of an act, as the device makes them now; nothing for bytes that are no body.
    pub(super) fn transactions(&self, by: u8, act: &Act) -> Option<(Lane, Vec<Vec<Call>>)> {
        let schema = &COMPONENTS[self.app.name()];
        let call = |spec: &Spec| {
            encode(schema, spec.function, |types| {
                let args = types.iter().zip(&spec.args);
                args.map(|(ty, text)| typed(ty, text)).collect()
            })
        };
        let commands = schema
            .interfaces
            .iter()
            .find(|i| i.kind == CallKind::Command)
            .unwrap();
        let queries = schema
            .interfaces
            .iter()
            .find(|i| i.kind == CallKind::Query)
            .unwrap();
        let odd = |interface: &str, function: &str, args: &[u8]| {
            let call = Call {
                interface: interface.into(),
                function: function.into(),
                args: args.to_vec(),
            };
            Some((Lane::App, vec![vec![call]]))
        };
        match act {
            Act::Calls(transactions) => {
                let transactions = transactions
                    .iter()
                    .map(|specs| specs.iter().map(call).collect());
                Some((Lane::App, transactions.collect()))
            }
            Act::Govern(changes) => {
                let changes = changes.iter().map(|change| vec![self.change(by, change)]);
                Some((Lane::System, changes.collect()))
            }
            Act::Nonsense(Nonsense::Body) => None,
            Act::Nonsense(Nonsense::Function) => odd(&commands.id, "no-such-function", &[0x80]),
            Act::Nonsense(Nonsense::Arguments) => {
                odd(&commands.id, &commands.functions[0].name, &[0x81, 0xf6, 0])
            }
            Act::Nonsense(Nonsense::Query) => odd(&queries.id, self.app.query(), &[0x80]),
        }
    }

    fn change(&self, by: u8, change: &Change) -> Call {
        let bytes = |key: &[u8]| Value::Bytes(key.to_vec());
        let member = |number: &u8| bytes(&device(*number).0);
        let role = |number: &u8| Value::Enum(u32::from(*number));
        let invite = |slot: &u8| bytes(&invite_key(*slot).verifying_key().to_bytes());
        match change {
            Change::Invite {
                slot,
                role: number,
                uses,
                expires,
            } => {
                let expires_ms = Value::U64(START_MS + u64::from(*expires));
                let uses = Value::U32(u32::from(*uses));
                system("invite", vec![invite(slot), role(number), expires_ms, uses])
            }
            Change::CancelInvite { slot } => system("cancel-invite", vec![invite(slot)]),
            Change::Claim { slot, whom, honest } => {
                let key = invite_key(*slot);
                let signed_for = if *honest { *whom } else { whom + 1 };
                let message = [
                    b"lattice claim 1\0".as_slice(),
                    &self.store(0).id().0,
                    &key.verifying_key().to_bytes(),
                    &device(signed_for).0,
                ];
                let signature = key.sign(&message.concat()).to_bytes();
                let name = Value::String(String::new());
                system(
                    "claim",
                    vec![invite(slot), member(whom), name, bytes(&signature)],
                )
            }
            Change::Revoke { whom, keep } => {
                let kept = match keep {
                    Keep::Seen => Value::NONE,
                    keep => {
                        let ids = self.kept(by, *whom, keep);
                        let ids = ids.iter().map(|id| bytes(&id.0)).collect();
                        Value::some(Value::Variant(1, Some(Box::new(Value::List(ids)))))
                    }
                };
                system("revoke", vec![member(whom), kept])
            }
            Change::SetRole { whom, role: number } => {
                system("set-role", vec![member(whom), role(number)])
            }
            Change::Readmit { whom, role: number } => {
                system("readmit", vec![member(whom), role(number)])
            }
            Change::Resign => system("resign", Vec::new()),
            Change::Name { whom } => {
                let name = Value::String(format!("named by {by}"));
                system("set-member-name", vec![member(whom), name])
            }
        }
    }

    fn kept(&self, by: u8, whom: u8, keep: &Keep) -> Vec<IntentionId> {
        let snapshot = self.store(by).snapshot();
        let entries = all(&snapshot);
        let whom = device(whom);
        let pick = |ids: Vec<IntentionId>, n: u16| {
            let at = usize::from(n).checked_rem(ids.len());
            at.map(|at| ids[at]).into_iter().collect()
        };
        match keep {
            Keep::Seen | Keep::Nothing => Vec::new(),
            Keep::Tips => {
                let tips = snapshot.tips().unwrap().into_iter();
                tips.filter(|tip| tip.author == whom)
                    .map(|tip| tip.id)
                    .collect()
            }
            Keep::One(n) => {
                let own = entries.iter().filter(|e| e.header.author == whom);
                pick(own.map(|e| e.header.id()).collect(), *n)
            }
            Keep::Foreign(n) => pick(entries.iter().map(|e| e.header.id()).collect(), *n),
        }
    }
}

fn admitted(change: &Change) -> Option<DeviceKey> {
    match change {
        Change::Claim { whom, .. }
        | Change::SetRole { whom, .. }
        | Change::Readmit { whom, .. } => Some(device(*whom)),
        _ => None,
    }
}

fn body_of(transactions: Vec<Vec<Call>>) -> Vec<u8> {
    let transactions = transactions
        .into_iter()
        .map(|calls| Transaction { calls, told: None });
    Body {
        transactions: transactions.collect(),
        genesis: None,
        claim: None,
    }
    .encode()
}

fn typed(ty: &Type, text: &str) -> Value {
    match ty {
        Type::Bytes => Value::Bytes(text.as_bytes().to_vec()),
        Type::String => Value::String(text.to_owned()),
        ty => wave::parse(ty, text).unwrap(),
    }
}

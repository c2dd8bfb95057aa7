//! The oracle: sorts the entries, runs each from scratch, and compares the outcomes with those of the kernel.
//!
//! It shares no code with the kernel but the formats of entries and outcomes, and the numbers of a budget: its state
//! is a map, its programs a few lines, its governance a list of roles. It knows the model programs; real components
//! are judged by the fold from nothing alone.

use std::collections::BTreeMap;

use lattice_format::{Body, Call, CallId, DeviceKey, Lane, Time};
use lattice_kernel::limits::INTENTION_FUEL;
use lattice_kernel::{HistoryRow, Outcome, TrapKind};
use lattice_testing::{APP_COMMANDS, GOVERNANCE_COMMANDS, KEYS, START_FUEL};

use crate::world::trace::short;

/// A member: role, status (0 is active), and what its rank is compared by.
type Row = (u8, u8, Rank);

/// Members that the genesis names rank first, in the order of its list; the others by their admission.
type Rank = (u8, u32, Option<(Time, CallId)>);

#[derive(Clone, Debug, Default)]
struct State {
    members: BTreeMap<DeviceKey, Row>,
    values: BTreeMap<u8, u8>,
    numbers: BTreeMap<u8, i64>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Ok(u64),
    Refused(u64),
    Trapped,
    OutOfFuel,
    NoSuchFunction,
}

/// The fuel of one entry: of each transaction, and of all of them together.
struct Fuel {
    of_each: u64,
    of_all: u64,
    /// What the transaction may still use.
    left: u64,
    /// Whether the transaction has less than its own because of those before it.
    is_short: bool,
    is_started: bool,
    is_new: bool,
    is_exceeded: bool,
}

impl Fuel {
    fn new(of_each: u64) -> Self {
        Self {
            of_each,
            of_all: of_each.saturating_mul(INTENTION_FUEL),
            left: 0,
            is_short: false,
            is_started: false,
            is_new: true,
            is_exceeded: false,
        }
    }

    fn begin(&mut self) {
        self.left = self.of_each.min(self.of_all);
        self.is_short = self.left < self.of_each;
    }

    fn take(&mut self, fuel: u64) -> bool {
        let used = fuel.min(self.left);
        self.of_all -= used;
        self.left -= used;
        if used < fuel {
            self.is_exceeded |= self.is_short;
        }
        used == fuel
    }

    /// Each instance but the first is paid for with its first call. A trap ends it.
    fn charge_start(&mut self, is_trapped: bool) {
        if self.is_new && self.is_started {
            self.of_all = self.of_all.saturating_sub(START_FUEL);
        }
        (self.is_started, self.is_new) = (true, is_trapped);
    }
}

fn too_much(index: u32) -> Outcome {
    Outcome::Trapped {
        index,
        kind: TrapKind::Limit,
    }
}

/// The first outcome of a history that differs from the oracle's, in words.
pub(crate) fn differs(app: &str, history: &[HistoryRow]) -> Option<String> {
    if app != "model" {
        return None;
    }
    let mut entries: Vec<&HistoryRow> = history.iter().filter(|row| !row.void).collect();
    entries.sort_by_key(|row| (row.stored.header.time, row.stored.header.id()));
    let mut state = State::default();
    let mut limits = u64::MAX;
    for row in entries {
        let header = &row.stored.header;
        let author = header.author;
        if header.is_genesis() {
            let body = row.stored.body.as_deref().map(Body::decode);
            let genesis = body.and_then(Result::ok).and_then(|body| body.genesis);
            limits = genesis.as_ref().map_or(limits, |g| g.limits.fuel);
            let params = genesis.map(|g| g.system_params).unwrap_or_default();
            for (ordinal, param) in (0u32..).zip(&params) {
                let Some((device, role)) = param.value.split_once(':') else {
                    return Some(format!("a member {:?}", param.value));
                };
                let (Ok(device), Ok(role)) = (device.parse(), role.parse()) else {
                    return Some(format!("a member {:?}", param.value));
                };
                state.members.insert(device, (role, 0, (0, ordinal, None)));
            }
            if params.is_empty() {
                state.members.insert(author, (0, 0, (0, 0, None)));
            }
            continue;
        }
        let body = row.stored.body.as_deref().map(Body::decode);
        let Some(Ok(body)) = body else {
            if row.outcomes.iter().any(Outcome::is_ok) {
                return Some(format!(
                    "{} has no body and an effect",
                    short(&header.id().0)
                ));
            }
            continue;
        };
        let (mut global, mut index) = (0, 0);
        let mut fuel = Fuel::new(limits);
        for (number, transaction) in body.transactions.iter().enumerate() {
            let got = row.outcomes.get(number);
            let before = state.clone();
            let mut expected = Outcome::Ok(Vec::new());
            if fuel.is_exceeded {
                expected = too_much(0);
            } else if let Some(place) = transaction
                .calls
                .iter()
                .position(|call| !state.allows(&author, header.lane, call))
            {
                expected = Outcome::Unauthorized {
                    index: place as u32,
                };
            }
            for (place, call) in (0u32..).zip(&transaction.calls) {
                let Outcome::Ok(values) = &mut expected else {
                    break;
                };
                let id = header.call_id(index + place);
                if place == 0 {
                    fuel.begin();
                }
                let end = match (fuel.take(1 + call.args.len() as u64), header.lane) {
                    (false, _) => End::OutOfFuel,
                    (true, Lane::App) => state.program(call, &mut global),
                    (true, Lane::System) => state.govern(call, author, (header.time, id)),
                };
                fuel.charge_start(matches!(end, End::OutOfFuel | End::Trapped));
                expected = match end {
                    End::Ok(value) => {
                        values.push(cbor(value));
                        continue;
                    }
                    End::Refused(value) => Outcome::Refused {
                        index: place,
                        error: cbor(value),
                    },
                    End::Trapped => {
                        global = 0;
                        Outcome::Trapped {
                            index: place,
                            kind: TrapKind::Guest,
                        }
                    }
                    End::OutOfFuel => {
                        global = 0;
                        match fuel.is_exceeded {
                            true => too_much(place),
                            false => Outcome::Trapped {
                                index: place,
                                kind: TrapKind::Fuel,
                            },
                        }
                    }
                    End::NoSuchFunction => Outcome::Refused {
                        index: place,
                        error: lattice_kernel::HostRefusal::NoSuchFunction.to_cbor(),
                    },
                };
            }
            index += transaction.calls.len() as u32;
            if !expected.is_ok() {
                state = before;
            }
            if got != Some(&expected) {
                let id = short(&header.id().0);
                return Some(format!(
                    "{id} came to {got:?}, by the oracle to {expected:?}"
                ));
            }
        }
    }
    None
}

fn cbor(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    minicbor::Encoder::new(&mut out)
        .u64(value)
        .expect("a Vec grows as far as it is asked to");
    out
}

impl State {
    fn allows(&self, author: &DeviceKey, lane: Lane, call: &Call) -> bool {
        match self.members.get(author) {
            Some((0, 0, _)) => true,
            Some((1, 0, _)) if lane == Lane::App => true,
            Some((_, 0, _)) => call.function == "resign",
            _ => false,
        }
    }

    fn govern(&mut self, call: &Call, author: DeviceKey, at: (Time, CallId)) -> End {
        let target = call.args.split_first_chunk::<32>();
        match (call.interface.as_str(), call.function.as_str(), target) {
            (interface, _, _) if interface != GOVERNANCE_COMMANDS => End::NoSuchFunction,
            (_, "resign", _) => {
                if let Some(row) = self.members.get_mut(&author) {
                    row.1 = 2;
                }
                End::Ok(0)
            }
            (_, "admit", Some((device, [role]))) => {
                let own = self.members.get(&author).map(|row| row.2);
                let new = (*role, 0, (1, 0, Some(at)));
                match self.members.get_mut(&DeviceKey(*device)) {
                    Some(row) if own.is_none_or(|own| own >= row.2) => return End::Refused(3),
                    Some(row) => (row.0, row.1) = (*role, 0),
                    None => {
                        self.members.insert(DeviceKey(*device), new);
                    }
                }
                End::Ok(0)
            }
            (_, "set-role", Some((device, [role]))) => {
                let own = self.members.get(&author).map(|row| row.2);
                match (own, self.members.get_mut(&DeviceKey(*device))) {
                    (Some(own), Some(row)) if own >= row.2 => End::Refused(3),
                    // Any other role cuts whatever the status is; only members are made admins.
                    (Some(_), Some(row)) if *role == 0 && row.1 != 0 => End::Refused(4),
                    (Some(_), Some(row)) => {
                        row.0 = *role;
                        End::Ok(0)
                    }
                    _ => End::Refused(2),
                }
            }
            (_, "add-child" | "quota", _) => End::Ok(0),
            (_, "trap-at-cuts", Some((device, []))) => {
                let own = self.members.get(&author).map(|row| row.2);
                match (own, self.members.get(&DeviceKey(*device))) {
                    (Some(own), Some(row)) if own >= row.2 => End::Refused(3),
                    (Some(_), Some(_)) => End::Ok(0),
                    _ => End::Refused(2),
                }
            }
            (_, "revoke", Some((device, _))) => {
                let own = self.members.get(&author).map(|row| row.2);
                match (own, self.members.get_mut(&DeviceKey(*device))) {
                    (Some(own), Some(row)) if own < row.2 => {
                        row.1 = 1;
                        End::Ok(0)
                    }
                    (Some(_), Some(_)) => End::Refused(3),
                    _ => End::Refused(2),
                }
            }
            _ => End::Refused(0),
        }
    }

    fn program(&mut self, call: &Call, global: &mut u64) -> End {
        if call.interface != APP_COMMANDS || call.function != "run" {
            return End::NoSuchFunction;
        }
        let mut reg = 1u64;
        fn mix(reg: &mut u64, bytes: &[u8]) {
            for byte in bytes {
                *reg = (*reg * 31 + u64::from(*byte) + 7) % 10_007;
            }
        }
        for step in call.args.as_chunks::<5>().0 {
            let [op, a, b, c, d] = *step;
            let shift = if b == 1 { reg } else { 0 };
            let key = ((u64::from(a) + shift) % u64::from(KEYS)) as u8;
            let span = a..b.max(a);
            match op {
                0 => match self.values.get(&key) {
                    Some(value) => mix(&mut reg, &[*value]),
                    None => mix(&mut reg, b"none"),
                },
                1 => {
                    self.values.insert(key, ((reg + u64::from(c)) % 5) as u8);
                }
                2 => {
                    self.values.remove(&key);
                }
                3 => {
                    let before = self.values.len();
                    self.values.retain(|key, _| !span.contains(key));
                    mix(&mut reg, &[(before - self.values.len()) as u8]);
                }
                4 => {
                    let mut rows: Vec<_> = self.values.range(span).collect();
                    if d == 1 {
                        rows.reverse();
                    }
                    for (key, value) in rows.iter().take(usize::from(c)) {
                        mix(&mut reg, &[b'k', **key]);
                        mix(&mut reg, &[**value]);
                    }
                    mix(&mut reg, &[u8::from(rows.len() > usize::from(c))]);
                }
                5 => {
                    let number = self.numbers.entry(a).or_default();
                    *number = number.wrapping_add(i64::from(b.cast_signed()));
                }
                6 => {
                    let number = self.numbers.get(&a).copied().unwrap_or(0);
                    mix(&mut reg, &number.to_be_bytes());
                }
                8 if reg.is_multiple_of(u64::from(a.max(1))) => return End::Refused(reg),
                9 if reg.is_multiple_of(u64::from(a.max(1))) => return End::Trapped,
                10 => *global += reg,
                11 => mix(&mut reg, &global.to_be_bytes()),
                _ => {}
            }
        }
        End::Ok(reg)
    }
}

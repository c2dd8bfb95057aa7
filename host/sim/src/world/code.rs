//! What the stores of a world run: the kernel's model programs, for speed, or real components.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::{Signer, SigningKey};
use lattice_format::{
    Call, ComponentRef, DeviceKey, Genesis, IntentionId, Lane, Limits, Param, StoreId,
};
use lattice_kernel::run::engine::{CallEnd, CallKind, Engine, Member, Role};
use lattice_kernel::{Outcome, Snapshot};
use lattice_runtime::values::{Type, Value, cbor, text, wave};
use lattice_runtime::{InstallError, Schema, Wasm};
use lattice_testing::Dice;
use lattice_testing::{self as testing, KEYS, ModelEngine, Step};

use crate::limits::START_MS;
use crate::world::act::Keep;

/// Invites of the simulator end after a century: what time does to them, tests of the component show.
const INVITE_MS: u64 = 100 * 365 * 24 * 3_600_000;

/// The fuel of a transaction of model programs where attacks exceed it: some four hundred steps.
const LITTLE_FUEL: u64 = 2_000;

fn model_limits(fuel: u64) -> Limits {
    Limits {
        fuel,
        ..Limits::default()
    }
}

/// Why a call or query cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The component has no such function, or several.
    #[error("{count} functions are named {name}")]
    Function {
        /// The name asked for.
        name: String,
        /// How many have it.
        count: usize,
    },
    /// The arguments do not fit.
    #[error("{name}: {reason}")]
    Arguments {
        /// The function.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The host could not run it.
    #[error("{0}")]
    Host(String),
}

/// A governance and an app that stores are made from.
#[derive(Clone)]
pub struct Code(Kind);

#[derive(Clone)]
enum Kind {
    Model {
        /// The fuel of a transaction.
        fuel: u64,
    },
    Components {
        wasm: Arc<Wasm>,
        system: Arc<Schema>,
        app: Arc<Schema>,
        name: String,
    },
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({})", self.name())
    }
}

impl Code {
    /// The kernel's model programs.
    pub fn model() -> Self {
        Self(Kind::Model {
            fuel: Limits::default().fuel,
        })
    }

    /// Real components. `wasm` may serve many worlds.
    ///
    /// # Errors
    /// When one of them cannot be installed.
    pub fn components(
        wasm: &Arc<Wasm>,
        system: &[u8],
        name: &str,
        app: &[u8],
    ) -> Result<Self, InstallError> {
        Ok(Self(Kind::Components {
            system: wasm.install(system)?,
            app: wasm.install(app)?,
            wasm: Arc::clone(wasm),
            name: name.to_owned(),
        }))
    }

    /// The same, but that a model program has so little fuel that an entry of few bytes exceeds it.
    pub(crate) fn with_little_fuel(&self) -> Self {
        match self.0 {
            Kind::Model { .. } => Self(Kind::Model { fuel: LITTLE_FUEL }),
            Kind::Components { .. } => self.clone(),
        }
    }

    /// The name of the app.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Model { .. } => "model",
            Kind::Components { name, .. } => name,
        }
    }

    /// What runs it.
    pub fn engine(&self) -> Arc<dyn Engine> {
        match &self.0 {
            Kind::Model { .. } => Arc::new(ModelEngine),
            Kind::Components { wasm, .. } => Arc::clone(wasm) as Arc<dyn Engine>,
        }
    }

    pub(crate) fn genesis(&self) -> Genesis {
        match &self.0 {
            Kind::Model { fuel } => Genesis {
                limits: model_limits(*fuel),
                ..testing::genesis()
            },
            Kind::Components {
                system, app, name, ..
            } => Genesis {
                system: ComponentRef {
                    id: system.component,
                    name: "system".into(),
                },
                app: Some(ComponentRef {
                    id: app.component,
                    name: name.clone(),
                }),
                limits: Limits::default(),
                profile: lattice_runtime::profile::PROFILE,
                ..testing::genesis()
            },
        }
    }

    /// A command of the app with its arguments as people write them: text and bytes literally, everything else
    /// as WAVE.
    ///
    /// # Errors
    /// When there is no such command or the arguments do not fit.
    pub fn call(&self, name: &str, args: &[String]) -> Result<Call, CodeError> {
        self.encode(CallKind::Command, name, args)
    }

    /// Asks the app; the answer as people read it, `refused: …` or `trapped: …`.
    ///
    /// # Errors
    /// When there is no such query, the arguments do not fit, or the host cannot run it.
    pub fn query(
        &self,
        snapshot: &Snapshot,
        name: &str,
        args: &[String],
    ) -> Result<String, CodeError> {
        let call = self.encode(CallKind::Query, name, args)?;
        let fuel = Limits::default().fuel;
        let asked = snapshot
            .query(&call, Lane::App, fuel)
            .map_err(|fault| CodeError::Host(fault.to_string()))?;
        Ok(match asked.end {
            CallEnd::Ok(value) => self.shown(&call, &value),
            CallEnd::Refused(error) => format!("refused: {}", self.refusal(&call, &error)),
            CallEnd::Trapped(kind) => format!("trapped: {kind}"),
        })
    }

    /// What became of one call, as people read it.
    pub fn describe(&self, call: &Call, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Ok(values) => values
                .first()
                .map_or_else(String::new, |value| self.shown(call, value)),
            Outcome::Refused { error, .. } => format!("refused: {}", self.refusal(call, error)),
            Outcome::Unauthorized { .. } => "unauthorized".into(),
            Outcome::Trapped { kind, .. } => format!("trapped: {kind}"),
        }
    }

    fn shown(&self, call: &Call, value: &[u8]) -> String {
        let ty = self.function(call).and_then(|f| f.ok());
        render(ty, value)
    }

    fn refusal(&self, call: &Call, error: &[u8]) -> String {
        let ty = self.function(call).and_then(|f| f.err());
        render(ty, error)
    }

    fn function(&self, call: &Call) -> Option<&lattice_runtime::Function> {
        match &self.0 {
            Kind::Model { .. } => None,
            Kind::Components { app, .. } => app.function(&call.interface, &call.function),
        }
    }

    fn encode(&self, kind: CallKind, name: &str, args: &[String]) -> Result<Call, CodeError> {
        let Kind::Components { app, .. } = &self.0 else {
            return Err(CodeError::Function {
                name: name.to_owned(),
                count: 0,
            });
        };
        encode(app, kind, name, |types| {
            if types.len() != args.len() {
                return Err(format!(
                    "it takes {} arguments, not {}",
                    types.len(),
                    args.len()
                ));
            }
            let typed = types.iter().zip(args).map(|(ty, text)| typed(ty, text));
            typed.collect()
        })
    }

    /// The calls, one transaction, by which an admin admits a device that never was a member. `number` tells
    /// invites apart.
    pub(crate) fn admit(
        &self,
        store: &StoreId,
        device: DeviceKey,
        role: Role,
        number: u64,
    ) -> Vec<Call> {
        if !self.has_invites() {
            return vec![testing::admit(device, role)];
        }
        vec![
            self.invite(number, role, START_MS + INVITE_MS, 1),
            self.claim(number, store, device),
        ]
    }

    /// Whether its governance has invites, and not only calls that admit.
    pub(crate) fn has_invites(&self) -> bool {
        matches!(self.0, Kind::Components { .. })
    }

    /// The call by which an admin makes an invite.
    pub(crate) fn invite(&self, number: u64, role: Role, expires_ms: u64, uses: u32) -> Call {
        let invite = invite_key(number).verifying_key().to_bytes();
        let values = vec![
            Value::Bytes(invite.to_vec()),
            Value::Enum(role as u32),
            Value::U64(expires_ms),
            Value::U32(uses),
        ];
        self.govern("invite", values)
    }

    /// The call by which any member admits a device that has the secret of an invite.
    pub(crate) fn claim(&self, number: u64, store: &StoreId, device: DeviceKey) -> Call {
        let key = invite_key(number);
        let invite = key.verifying_key().to_bytes();
        let message = [
            b"lattice claim 1\0".as_slice(),
            &store.0,
            &invite,
            &device.0,
        ];
        let signature = key.sign(&message.concat()).to_bytes();
        let values = vec![
            Value::Bytes(invite.to_vec()),
            Value::Bytes(device.0.to_vec()),
            Value::String(String::new()),
            Value::Bytes(signature.to_vec()),
        ];
        self.govern("claim", values)
    }

    /// The genesis of a child of that store, with these members in the order of their ranks.
    pub(crate) fn child_genesis(&self, parent: StoreId, members: &[Member]) -> Genesis {
        let genesis = match &self.0 {
            Kind::Model { fuel } => {
                let listed = members.iter().map(|m| (m.device, m.role));
                Genesis {
                    limits: model_limits(*fuel),
                    ..testing::genesis_with(&listed.collect::<Vec<_>>())
                }
            }
            Kind::Components { .. } => {
                let listed = members.iter().map(|m| Param {
                    name: "member".into(),
                    value: format!("{}:{}:{}", m.device, m.role.name(), m.name),
                });
                Genesis {
                    system_params: listed.collect(),
                    ..self.genesis()
                }
            }
        };
        Genesis {
            parent: Some(parent),
            ..genesis
        }
    }

    /// The call by which an admin lists a store as a child.
    pub(crate) fn add_child(&self, child: StoreId) -> Call {
        match &self.0 {
            Kind::Model { .. } => testing::add_child(child),
            Kind::Components { .. } => {
                let name = Value::String("child".into());
                self.govern("add-child", vec![Value::Bytes(child.0.to_vec()), name])
            }
        }
    }

    /// The call by which an admin admits a device again that is no member any more.
    pub(crate) fn readmit(&self, device: DeviceKey, role: Role) -> Call {
        match &self.0 {
            Kind::Model { .. } => testing::admit(device, role),
            Kind::Components { .. } => self.govern("readmit", of_role(device, role)),
        }
    }

    /// The call by which an admin gives a device another role.
    pub(crate) fn set_role(&self, device: DeviceKey, role: Role) -> Call {
        match &self.0 {
            Kind::Model { .. } => testing::set_role(device, role),
            Kind::Components { .. } => self.govern("set-role", of_role(device, role)),
        }
    }

    /// The call by which an admin revokes a device.
    pub(crate) fn revoke(&self, device: DeviceKey, keep: Keep) -> Call {
        match (&self.0, keep) {
            (Kind::Model { .. }, Keep::Nothing) => testing::revoke(device, &[]),
            (Kind::Model { .. }, Keep::Seen) => testing::revoke_unseen(device),
            (Kind::Components { .. }, keep) => {
                let seen = vec![Value::Bytes(device.0.to_vec()), Value::NONE];
                match keep {
                    Keep::Seen => self.govern("revoke", seen),
                    Keep::Nothing => self.revoke_keeping(device, &[]),
                }
            }
        }
    }

    /// The call by which an admin revokes a device but for these entries and what stands before them in their chains.
    pub(crate) fn revoke_keeping(&self, device: DeviceKey, kept: &[IntentionId]) -> Call {
        match &self.0 {
            Kind::Model { .. } => testing::revoke(device, kept),
            Kind::Components { .. } => {
                let ids = kept.iter().map(|id| Value::Bytes(id.0.to_vec()));
                let ids = Value::Variant(1, Some(Box::new(Value::List(ids.collect()))));
                let device = Value::Bytes(device.0.to_vec());
                self.govern("revoke", vec![device, Value::some(ids)])
            }
        }
    }

    /// The call by which an admin bounds the bytes that each admin and writer may write.
    pub(crate) fn set_quota(&self, bytes: u64) -> Call {
        match &self.0 {
            Kind::Model { .. } => testing::set_quota(Some(bytes)),
            Kind::Components { .. } => {
                self.govern("set-quota", vec![Value::some(Value::U64(bytes))])
            }
        }
    }

    /// The call after which governance traps when it is asked for the cuts of a device, if there is such a call.
    pub(crate) fn trap_at_cuts(&self, device: DeviceKey) -> Option<Call> {
        match &self.0 {
            Kind::Model { .. } => Some(testing::trap_at_cuts(device)),
            Kind::Components { .. } => None,
        }
    }

    /// A call of the app that takes much fuel for its size, or traps.
    pub(crate) fn costly(&self, dice: &mut Dice) -> Call {
        match &self.0 {
            Kind::Model { .. } => match dice.below(4) {
                0 => testing::program(&vec![Step::StoreGlobal; 1 + dice.below(410) as usize]),
                1 => self.random(dice),
                _ => testing::program(&[Step::TrapIf { modulus: 1 }]),
            },
            Kind::Components { .. } => self.random(dice),
        }
    }

    /// The call by which a device gives up its rights.
    pub(crate) fn resign(&self) -> Call {
        match &self.0 {
            Kind::Model { .. } => testing::resign(),
            Kind::Components { .. } => self.govern("resign", Vec::new()),
        }
    }

    fn govern(&self, name: &str, values: Vec<Value>) -> Call {
        let Kind::Components { system, .. } = &self.0 else {
            unreachable!("the model has calls of its own");
        };
        let name = format!("system/commands.{name}");
        encode(system, CallKind::Command, &name, |_| Ok(values))
            .expect("the bundled governance has these commands")
    }

    /// Whether the simulator knows calls of it to make at random.
    pub fn has_random_calls(&self) -> bool {
        match &self.0 {
            Kind::Model { .. } => true,
            Kind::Components { name, .. } => {
                ["kv", "log", "counter", "bank", "queue"].contains(&stem(name))
            }
        }
    }

    /// Any call, over so few keys that calls get in each other's way.
    pub(crate) fn random(&self, dice: &mut Dice) -> Call {
        let Kind::Components { name, .. } = &self.0 else {
            let count = 1 + dice.below(4);
            let steps: Vec<Step> = (0..count).map(|_| step(dice)).collect();
            return testing::program(&steps);
        };
        let (function, args) = spec(stem(name), dice);
        self.call(function, &args)
            .expect("the calls of this file fit the components of this tree")
    }
}

/// The secret of an invite.
fn of_role(device: DeviceKey, role: Role) -> Vec<Value> {
    vec![Value::Bytes(device.0.to_vec()), Value::Enum(role as u32)]
}

fn invite_key(number: u64) -> SigningKey {
    let mut seed = [9; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

fn render(ty: Option<&Type>, value: &[u8]) -> String {
    match ty.map(|ty| (ty, cbor::decode(ty, value))) {
        Some((ty, Ok(value))) => text::render(ty, &value),
        _ if value == cbor::NULL => String::new(),
        _ => hex::encode(value),
    }
}

fn encode(
    schema: &Schema,
    kind: CallKind,
    name: &str,
    values: impl FnOnce(&[&Type]) -> Result<Vec<Value>, String>,
) -> Result<Call, CodeError> {
    let found = schema.find(kind, name);
    let [(interface, function)] = found[..] else {
        return Err(CodeError::Function {
            name: name.to_owned(),
            count: found.len(),
        });
    };
    let types: Vec<&Type> = function.param_types().collect();
    let values = values(&types).map_err(|reason| CodeError::Arguments {
        name: name.to_owned(),
        reason,
    })?;
    Ok(Call {
        interface: interface.id.clone(),
        function: function.name.clone(),
        args: cbor::encode_all(function.param_types(), &values),
    })
}

fn typed(ty: &Type, text: &str) -> Result<Value, String> {
    match ty {
        Type::Bytes => Ok(Value::Bytes(text.as_bytes().to_vec())),
        Type::String => Ok(Value::String(text.to_owned())),
        ty => wave::parse(ty, text).map_err(|error| error.to_string()),
    }
}

fn step(dice: &mut Dice) -> Step {
    let k = dice.below(u64::from(KEYS)) as u8;
    let dynamic = dice.below(2) == 0;
    match dice.below(18) {
        0..3 => Step::Get { k, dynamic },
        3..6 => Step::Put {
            k,
            dynamic,
            value: dice.below(5) as u8,
        },
        6 => Step::Delete { k, dynamic },
        7 => Step::DeleteRange {
            from: k,
            to: dice.below(u64::from(KEYS) + 1) as u8,
        },
        8..10 => Step::Scan {
            from: k,
            to: dice.below(u64::from(KEYS) + 1) as u8,
            limit: dice.below(4) as u8,
            reverse: dynamic,
        },
        10 => Step::Add {
            k,
            by: if dynamic { 1 } else { -2 },
        },
        11 => Step::Number { k },
        12 | 16 => Step::RefuseIf {
            modulus: 1 + dice.below(4) as u8,
        },
        13 => Step::TrapIf {
            modulus: 3 + dice.below(4) as u8,
        },
        14 => Step::StoreGlobal,
        _ => Step::LoadGlobal,
    }
}

/// The name of a plugin that may be named by its file.
fn stem(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".wasm").unwrap_or(file)
}

/// A call of a component of this tree, as it is typed.
fn spec(app: &str, dice: &mut Dice) -> (&'static str, Vec<String>) {
    let key = |dice: &mut Dice| ["a", "b", "c"][dice.below(3) as usize].to_owned();
    let value = |dice: &mut Dice| ["1", "2"][dice.below(2) as usize].to_owned();
    let amount = |dice: &mut Dice| dice.below(9).to_string();
    match app {
        "kv" => match dice.below(4) {
            0 => ("delete", vec![key(dice)]),
            1 => {
                let expected = ["none", "some([49])"][dice.below(2) as usize].to_owned();
                ("compare-and-put", vec![key(dice), expected, value(dice)])
            }
            _ => ("put", vec![key(dice), value(dice)]),
        },
        "log" => ("append", vec![value(dice)]),
        "counter" => {
            let by = ["1", "-3", "40", "-9223372036854775808"][dice.below(4) as usize];
            ("add", vec![by.to_owned()])
        }
        "bank" => match dice.below(6) {
            0 | 1 => ("open", vec![key(dice)]),
            2 => ("deposit", vec![key(dice), amount(dice)]),
            3 => ("withdraw", vec![key(dice), amount(dice)]),
            _ => ("transfer", vec![key(dice), key(dice), amount(dice)]),
        },
        _ => match dice.below(5) {
            0..3 => ("push", vec![key(dice)]),
            _ => ("pop", Vec::new()),
        },
    }
}

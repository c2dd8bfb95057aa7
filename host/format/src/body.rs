//! The body of an intention: its transactions, and in a genesis the components, limits and rules of the store.

use alloc::string::String;
use alloc::vec::Vec;
use prost::Message;

use crate::ids::{BodyHash, ComponentId, DeviceKey, Digest, StoreId};
use crate::limits::{
    BODY_BYTES_DEFAULT, BODY_BYTES_MAX, CALLS_MAX, NAME_BYTES_MAX, PARAMS_MAX, TRANSACTIONS_MAX,
};
use crate::wire;

/// The newest finality rule that a genesis may name, and the one of new stores.
pub const FINALITY_RULE: u32 = 1;

/// One invocation of an exported function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Full id of the interface, without version: `lattice:kv/commands`.
    pub interface: String,
    /// Name of the function.
    pub function: String,
    /// Its arguments: a deterministic CBOR array (RFC 8949, section 4.2.1), one item a parameter.
    pub args: Vec<u8>,
}

/// Calls of one lane that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Transaction {
    /// The calls, in order; at least one.
    pub calls: Vec<Call>,
    /// BLAKE3 of the outcome that the author was told, when it was told one.
    pub told: Option<Digest>,
}

/// A digest of the author's replica when it signed, without this intention, so that others can
/// compare. Uncritical. A claim cannot describe the state after this intention: the outcome root
/// covers the intention's id, and the id depends on the body that holds the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// How many intentions were applied.
    pub count: u64,
    /// Digest of the set of their ids.
    pub set: Digest,
    /// Digest of the state root.
    pub state_root: Digest,
    /// Digest of the outcome root.
    pub outcome_root: Digest,
}

/// A component that a genesis names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentRef {
    /// BLAKE3 of its bytes.
    pub id: ComponentId,
    /// A name for people; only the hash identifies the component.
    pub name: String,
}

/// One named text that a component's `init` receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Limits that every replica of a store enforces alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Fuel of one transaction, in units of the determinism profile.
    pub fuel: u64,
    /// Linear memory of one instance, all memories together, in bytes.
    pub memory_bytes: u64,
    /// Elements of all tables of one instance.
    pub table_elements: u32,
    /// The largest body, in bytes.
    pub body_bytes: u32,
    /// The largest encoded result of one call, in bytes.
    pub result_bytes: u32,
}

impl Limits {
    /// The limits of a store whose genesis states no others.
    pub const DEFAULT: Limits = Limits {
        fuel: 2_000_000_000,
        memory_bytes: 64 * 1024 * 1024,
        table_elements: 100_000,
        body_bytes: BODY_BYTES_DEFAULT,
        result_bytes: BODY_BYTES_DEFAULT,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Components, parameters, limits and rules, fixed for the whole life of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The governance component.
    pub system: ComponentRef,
    /// The program; `None` for a pure root store.
    pub app: Option<ComponentRef>,
    /// Parameters of the governance component's `init`.
    pub system_params: Vec<Param>,
    /// Parameters of the program's `init`.
    pub app_params: Vec<Param>,
    /// Limits on calls.
    pub limits: Limits,
    /// Number of the determinism profile.
    pub profile: u32,
    /// How far ahead of a node's clock an entry's time may lie before it is parked, in milliseconds.
    pub drift_ms: u64,
    /// Number of the rule for the canonical order; 1 sorts by (time, id).
    pub order_rule: u32,
    /// Number of the rule for roots; 1 is LtHash16 over BLAKE3.
    pub root_rule: u32,
    /// Keys that may remove a founder; empty where there are none.
    pub recovery_keys: Vec<DeviceKey>,
    /// Number of the encryption policy; 0 is plain.
    pub encryption: u32,
    /// The store that this one is a child of.
    pub parent: Option<StoreId>,
    /// Number of the rule by which checkpoints make entries final; 0 is none, and 1 is reserved for the first such rule.
    /// This version makes no checkpoints, so both mean the same to it.
    pub finality_rule: u32,
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Body {
    /// The transactions, in order.
    pub transactions: Vec<Transaction>,
    /// Present in a genesis alone.
    pub genesis: Option<Genesis>,
    /// The author's replica before this intention.
    pub claim: Option<Claim>,
}

/// Why bytes are no body. An intention with such a body is refused as malformed when it runs; the fold goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The bytes are not the protobuf message.
    #[error("the body does not decode")]
    Undecodable,
    /// A field has another length than its type.
    #[error("{field} has {len} bytes")]
    FieldLength {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A list or a text is empty or too long.
    #[error("{what}: {len} is not between {min} and {max}")]
    Length {
        /// The list or text.
        what: &'static str,
        /// How many there are.
        len: usize,
        /// The fewest allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// A genesis lacks a field or names a rule that this version does not know.
    #[error("the genesis: {0}")]
    Genesis(&'static str),
}

fn between(what: &'static str, len: usize, min: usize, max: usize) -> Result<(), BodyError> {
    if (min..=max).contains(&len) {
        Ok(())
    } else {
        Err(BodyError::Length {
            what,
            len,
            min,
            max,
        })
    }
}

fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, BodyError> {
    Digest::from_slice(bytes).ok_or(BodyError::FieldLength {
        field,
        len: bytes.len(),
    })
}

impl Body {
    /// Plain BLAKE3 of encoded bytes.
    pub fn hash_of(encoded: &[u8]) -> BodyHash {
        BodyHash(*blake3::hash(encoded).as_bytes())
    }

    /// The protobuf encoding.
    pub fn encode(&self) -> Vec<u8> {
        wire::Body {
            transactions: self
                .transactions
                .iter()
                .map(|t| wire::Transaction {
                    calls: t
                        .calls
                        .iter()
                        .map(|c| wire::Call {
                            interface: c.interface.clone(),
                            function: c.function.clone(),
                            args: c.args.clone(),
                        })
                        .collect(),
                    told: t.told.map_or(Vec::new(), |d| d.0.to_vec()),
                })
                .collect(),
            genesis: self.genesis.as_ref().map(Genesis::to_wire),
            claim: self.claim.map(|a| wire::Claim {
                count: a.count,
                set: a.set.0.to_vec(),
                state_root: a.state_root.0.to_vec(),
                outcome_root: a.outcome_root.0.to_vec(),
            }),
        }
        .encode_to_vec()
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// When the bytes are not the message, or a list, a text or an id in it has a wrong length. A genesis must also be
    /// in canonical form: a field that this version does not know can change what all later entries mean.
    pub fn decode(bytes: &[u8]) -> Result<Self, BodyError> {
        let body = Self::decode_fields(bytes)?;
        if body.genesis.is_some() && body.encode() != bytes {
            return Err(BodyError::Genesis(
                "it has fields that this version does not know; update Lattice",
            ));
        }
        Ok(body)
    }

    fn decode_fields(bytes: &[u8]) -> Result<Self, BodyError> {
        let wire = wire::Body::decode(bytes).map_err(|_| BodyError::Undecodable)?;
        between("transactions", wire.transactions.len(), 0, TRANSACTIONS_MAX)?;
        if wire.transactions.is_empty() && wire.genesis.is_none() {
            between("transactions", 0, 1, TRANSACTIONS_MAX)?;
        }
        let mut transactions = Vec::with_capacity(wire.transactions.len());
        for t in wire.transactions {
            between("calls", t.calls.len(), 1, CALLS_MAX)?;
            let mut calls = Vec::with_capacity(t.calls.len());
            for c in t.calls {
                between("an interface's name", c.interface.len(), 1, NAME_BYTES_MAX)?;
                between("a function's name", c.function.len(), 1, NAME_BYTES_MAX)?;
                calls.push(Call {
                    interface: c.interface,
                    function: c.function,
                    args: c.args,
                });
            }
            let told = match t.told.len() {
                0 => None,
                _ => Some(digest(&t.told, "told")?),
            };
            transactions.push(Transaction { calls, told });
        }
        let claim = match wire.claim {
            None => None,
            Some(a) => Some(Claim {
                count: a.count,
                set: digest(&a.set, "set")?,
                state_root: digest(&a.state_root, "state_root")?,
                outcome_root: digest(&a.outcome_root, "outcome_root")?,
            }),
        };
        Ok(Self {
            transactions,
            genesis: wire.genesis.map(Genesis::from_wire).transpose()?,
            claim,
        })
    }
}

impl ComponentRef {
    fn to_wire(&self) -> wire::ComponentRef {
        wire::ComponentRef {
            id: self.id.0.to_vec(),
            name: self.name.clone(),
        }
    }

    fn from_wire(wire: wire::ComponentRef) -> Result<Self, BodyError> {
        between("a component's name", wire.name.len(), 0, NAME_BYTES_MAX)?;
        Ok(Self {
            id: ComponentId::from_slice(&wire.id).ok_or(BodyError::FieldLength {
                field: "component",
                len: wire.id.len(),
            })?,
            name: wire.name,
        })
    }
}

impl Genesis {
    fn to_wire(&self) -> wire::Genesis {
        let params = |list: &[Param]| {
            list.iter()
                .map(|p| wire::Param {
                    name: p.name.clone(),
                    value: p.value.clone(),
                })
                .collect()
        };
        wire::Genesis {
            system: Some(self.system.to_wire()),
            app: self.app.as_ref().map(ComponentRef::to_wire),
            system_params: params(&self.system_params),
            app_params: params(&self.app_params),
            limits: Some(wire::Limits {
                fuel: self.limits.fuel,
                memory_bytes: self.limits.memory_bytes,
                table_elements: self.limits.table_elements,
                body_bytes: self.limits.body_bytes,
                result_bytes: self.limits.result_bytes,
            }),
            profile: self.profile,
            drift_ms: self.drift_ms,
            order_rule: self.order_rule,
            root_rule: self.root_rule,
            recovery_keys: self.recovery_keys.iter().map(|k| k.0.to_vec()).collect(),
            encryption: self.encryption,
            parent: self.parent.map_or(Vec::new(), |p| p.0.to_vec()),
            finality_rule: self.finality_rule,
        }
    }

    fn from_wire(wire: wire::Genesis) -> Result<Self, BodyError> {
        between("parameters", wire.system_params.len(), 0, PARAMS_MAX)?;
        between("parameters", wire.app_params.len(), 0, PARAMS_MAX)?;
        between("recovery keys", wire.recovery_keys.len(), 0, 16)?;
        let params = |list: Vec<wire::Param>| {
            list.into_iter()
                .map(|p| Param {
                    name: p.name,
                    value: p.value,
                })
                .collect()
        };
        let limits = wire.limits.ok_or(BodyError::Genesis("it has no limits"))?;
        if limits.body_bytes > BODY_BYTES_MAX || limits.result_bytes > BODY_BYTES_MAX {
            return Err(BodyError::Genesis("its size limits exceed 4 MiB"));
        }
        if wire.order_rule != 1 || wire.root_rule != 1 {
            return Err(BodyError::Genesis(
                "its order or root rule is newer than this version; update Lattice",
            ));
        }
        if wire.finality_rule > FINALITY_RULE {
            return Err(BodyError::Genesis(
                "its finality rule is newer than this version; update Lattice",
            ));
        }
        if wire.encryption != 0 {
            return Err(BodyError::Genesis(
                "its encryption policy is newer than this version; update Lattice",
            ));
        }
        Ok(Self {
            system: ComponentRef::from_wire(
                wire.system
                    .ok_or(BodyError::Genesis("it names no governance component"))?,
            )?,
            app: wire.app.map(ComponentRef::from_wire).transpose()?,
            system_params: params(wire.system_params),
            app_params: params(wire.app_params),
            limits: Limits {
                fuel: limits.fuel,
                memory_bytes: limits.memory_bytes,
                table_elements: limits.table_elements,
                body_bytes: limits.body_bytes,
                result_bytes: limits.result_bytes,
            },
            profile: wire.profile,
            drift_ms: wire.drift_ms,
            order_rule: wire.order_rule,
            root_rule: wire.root_rule,
            recovery_keys: wire
                .recovery_keys
                .iter()
                .map(|k| {
                    DeviceKey::from_slice(k).ok_or(BodyError::FieldLength {
                        field: "recovery_keys",
                        len: k.len(),
                    })
                })
                .collect::<Result<_, _>>()?,
            encryption: wire.encryption,
            parent: match wire.parent.len() {
                0 => None,
                len => Some(
                    StoreId::from_slice(&wire.parent).ok_or(BodyError::FieldLength {
                        field: "parent",
                        len,
                    })?,
                ),
            },
            finality_rule: wire.finality_rule,
        })
    }
}

//! Messages of the join protocol. Field numbers never change their meaning.

use lattice_format::{DeviceKey, Signature, StoreId};
use prost::Message;

use crate::addresses::WirePeer;
use crate::host::{ClaimRefusal, InviteState};
use crate::token::shortened;

/// One request: what it is about, the proof, and exactly one wish.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) store: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) invite: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) proof: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub(super) inspect: Option<Inspect>,
    #[prost(message, optional, tag = "5")]
    pub(super) component: Option<Component>,
    #[prost(message, optional, tag = "6")]
    pub(super) claim: Option<Claim>,
}

/// Asks for the genesis.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Inspect {}

/// Asks for a component; the blob protocol follows on the same stream.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Component {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
}

/// Asks to be admitted.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Claim {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) signature: Vec<u8>,
}

/// The answer: an error, or what was asked for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub(super) refusal: Option<Refusal>,
    #[prost(message, optional, tag = "2")]
    pub(super) inspected: Option<Inspected>,
    #[prost(bool, tag = "3")]
    pub(super) admitted: bool,
    #[prost(bool, tag = "4")]
    pub(super) component_follows: bool,
}

/// What a store is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Inspected {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) header: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) body: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(super) components: Vec<ComponentSize>,
    #[prost(message, repeated, tag = "5")]
    pub(super) members: Vec<WirePeer>,
    #[prost(uint64, tag = "6")]
    pub(super) clock_ms: u64,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) app_in_effect: Vec<u8>,
    #[prost(uint64, tag = "8")]
    pub(super) entry_count: u64,
}

/// A component that the member has.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ComponentSize {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) bytes: u64,
}

/// Why not.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Refusal {
    #[prost(uint32, tag = "1")]
    pub(super) code: u32,
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
    #[prost(string, tag = "3")]
    pub(super) text: String,
}

/// A [`Refusal`], read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The proof does not hold, or there is no such store: a stranger cannot tell which.
    NotProved,
    Expired {
        at_ms: u64,
    },
    Spent {
        uses: u32,
    },
    Cancelled,
    UnknownInvite,
    AdmittedBefore,
    /// Not by this member, not now.
    NotHere(String),
    /// Governance refused.
    Refused(String),
    /// This member does not have the component.
    NoComponent,
    Busy,
    /// The request was not understood.
    NotUnderstood(String),
}

impl Why {
    pub(super) fn to_wire(&self) -> Refusal {
        let (code, number, text) = match self {
            Self::NotProved => (1, 0, ""),
            Self::Expired { at_ms } => (2, *at_ms, ""),
            Self::Spent { uses } => (3, u64::from(*uses), ""),
            Self::Cancelled => (4, 0, ""),
            Self::UnknownInvite => (5, 0, ""),
            Self::AdmittedBefore => (6, 0, ""),
            Self::NotHere(text) => (7, 0, text.as_str()),
            Self::Refused(text) => (8, 0, text.as_str()),
            Self::NoComponent => (9, 0, ""),
            Self::Busy => (10, 0, ""),
            Self::NotUnderstood(text) => (11, 0, text.as_str()),
        };
        Refusal {
            code,
            number,
            text: shortened(text),
        }
    }

    pub(super) fn from_wire(wire: Refusal) -> Self {
        let text = shortened(&wire.text);
        match wire.code {
            1 => Self::NotProved,
            2 => Self::Expired { at_ms: wire.number },
            3 => Self::Spent {
                uses: u32::try_from(wire.number).unwrap_or(u32::MAX),
            },
            4 => Self::Cancelled,
            5 => Self::UnknownInvite,
            6 => Self::AdmittedBefore,
            8 => Self::Refused(text),
            9 => Self::NoComponent,
            10 => Self::Busy,
            11 => Self::NotUnderstood(text),
            // Codes of newer versions: this member, at least, cannot help.
            _ => Self::NotHere(text),
        }
    }

    /// Why an invite that stands so cannot be used; `None` when it can.
    pub(super) fn of_invite(state: InviteState) -> Option<Self> {
        match state {
            InviteState::Open => None,
            InviteState::Expired { at_ms } => Some(Self::Expired { at_ms }),
            InviteState::Spent { uses } => Some(Self::Spent { uses }),
            InviteState::Cancelled => Some(Self::Cancelled),
            InviteState::Unknown => Some(Self::UnknownInvite),
        }
    }
}

impl From<ClaimRefusal> for Why {
    fn from(refusal: ClaimRefusal) -> Self {
        match refusal {
            ClaimRefusal::Invite(state) => Self::of_invite(state)
                .unwrap_or_else(|| Self::NotHere("the invite is open after all".into())),
            ClaimRefusal::AdmittedBefore => Self::AdmittedBefore,
            ClaimRefusal::NotHere(text) => Self::NotHere(text),
            ClaimRefusal::Refused(text) => Self::Refused(text),
        }
    }
}

/// What every request says of itself.
pub(super) struct Scope {
    pub(super) store: StoreId,
    pub(super) invite: DeviceKey,
    pub(super) proof: Signature,
}

impl Request {
    /// Store, invite and proof; `None` when one has a wrong length.
    pub(super) fn scope(&self) -> Option<Scope> {
        Some(Scope {
            store: StoreId::from_slice(&self.store)?,
            invite: DeviceKey::from_slice(&self.invite)?,
            proof: Signature::from_slice(&self.proof)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_reads_back() {
        for why in [
            Why::NotProved,
            Why::Expired { at_ms: 7 },
            Why::Spent { uses: 3 },
            Why::Cancelled,
            Why::UnknownInvite,
            Why::AdmittedBefore,
            Why::NotHere("paused".into()),
            Why::Refused("not-possible".into()),
            Why::NoComponent,
            Why::Busy,
            Why::NotUnderstood("what".into()),
        ] {
            assert_eq!(Why::from_wire(why.to_wire()), why);
        }
        let newer = Refusal {
            code: 99,
            number: 0,
            text: "later".into(),
        };
        assert_eq!(Why::from_wire(newer), Why::NotHere("later".into()));
    }
}

//! Outcomes of transactions, and their canonical encoding.
//!
//! Replicas must agree on outcomes, so their bytes are fixed: deterministic CBOR (RFC 8949, section 4.2.1) of `[0,
//! values]`, `[1, index, error]` (refused), `[2, index]` (unauthorized) or `[3, index, kind]` (trapped).

use core::fmt;
use lattice_format::Digest;
use minicbor::{Decoder, Encoder};

/// Why a guest was stopped. Kinds are part of outcomes, so no code of a particular engine is among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrapKind {
    /// The transaction's fuel ran out.
    Fuel,
    /// Calls nested too deeply.
    Depth,
    /// A size or count passed a limit of the contract or the genesis.
    Limit,
    /// The guest broke a rule of the contract, such as writing in a query.
    Misuse,
    /// The guest trapped by itself, for any other reason.
    Guest,
}

impl TrapKind {
    /// All kinds. The index of each is its number.
    pub const ALL: [Self; 5] = [
        Self::Fuel,
        Self::Depth,
        Self::Limit,
        Self::Misuse,
        Self::Guest,
    ];

    /// The name of the kind, as people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fuel => "fuel",
            Self::Depth => "depth",
            Self::Limit => "limit",
            Self::Misuse => "misuse",
            Self::Guest => "guest",
        }
    }

    fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal that the host decides alone, from the call and the code in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRefusal {
    /// The code in effect has no such interface or function.
    NoSuchFunction,
    /// The arguments are not canonical, or do not fit the parameters.
    BadArguments,
    /// The body does not decode.
    Malformed,
}

impl HostRefusal {
    /// The error that such a refusal carries: `{"host": name}`.
    pub fn to_cbor(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        Encoder::new(&mut out)
            .map(1)
            .and_then(|e| e.str("host"))
            .and_then(|e| e.str(self.name()))
            .expect("a Vec grows as far as it is asked to");
        out
    }

    /// The name of the refusal in the error that it carries.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSuchFunction => "no-such-function",
            Self::BadArguments => "bad-arguments",
            Self::Malformed => "malformed",
        }
    }
}

/// What became of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every call returned; canonical CBOR of each result.
    Ok(Vec<Vec<u8>>),
    /// The call at `index` was refused with `error`, canonical CBOR; nothing was written.
    Refused {
        /// The index of the call in its transaction.
        index: u32,
        /// The error that the call returned, or `{"host": …}`.
        error: Vec<u8>,
    },
    /// The author may not make the call at `index`; nothing ran.
    Unauthorized {
        /// The index of the call in its transaction.
        index: u32,
    },
    /// The call at `index` trapped; nothing was written.
    Trapped {
        /// The index of the call in its transaction.
        index: u32,
        /// Why the guest was stopped.
        kind: TrapKind,
    },
}

impl Outcome {
    /// Whether the transaction took effect.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok(_))
    }

    /// The canonical encoding.
    pub fn to_cbor(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        self.encode(&mut out)
            .expect("a Vec grows as far as it is asked to");
        out
    }

    fn encode(
        &self,
        out: &mut Vec<u8>,
    ) -> Result<(), minicbor::encode::Error<core::convert::Infallible>> {
        match self {
            Self::Ok(values) => {
                Encoder::new(&mut *out)
                    .array(2)?
                    .u8(0)?
                    .array(values.len() as u64)?;
                for value in values {
                    out.extend_from_slice(value);
                }
            }
            Self::Refused { index, error } => {
                Encoder::new(&mut *out).array(3)?.u8(1)?.u32(*index)?;
                out.extend_from_slice(error);
            }
            Self::Unauthorized { index } => {
                Encoder::new(&mut *out).array(2)?.u8(2)?.u32(*index)?;
            }
            Self::Trapped { index, kind } => {
                Encoder::new(&mut *out)
                    .array(3)?
                    .u8(3)?
                    .u32(*index)?
                    .u8(kind.number())?;
            }
        }
        Ok(())
    }

    /// Reads what [`Outcome::to_cbor`] wrote; `None` for anything else.
    pub fn from_cbor(bytes: &[u8]) -> Option<Self> {
        let mut d = Decoder::new(bytes);
        d.array().ok()??;
        let outcome = match d.u8().ok()? {
            0 => {
                let count = d.array().ok()??;
                let mut values = Vec::new();
                for _ in 0..count {
                    let start = d.position();
                    d.skip().ok()?;
                    values.push(bytes[start..d.position()].to_vec());
                }
                Self::Ok(values)
            }
            1 => {
                let index = d.u32().ok()?;
                let start = d.position();
                d.skip().ok()?;
                Self::Refused {
                    index,
                    error: bytes[start..d.position()].to_vec(),
                }
            }
            2 => Self::Unauthorized {
                index: d.u32().ok()?,
            },
            3 => Self::Trapped {
                index: d.u32().ok()?,
                kind: *TrapKind::ALL.get(usize::from(d.u8().ok()?))?,
            },
            _ => return None,
        };
        (d.position() == bytes.len()).then_some(outcome)
    }

    /// BLAKE3 of the canonical encoding. A body holds it for each outcome that its author was told.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(&self.to_cbor()).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds: invariant 15.
    #[test]
    fn outcomes_have_golden_bytes_and_read_back() {
        let cases: [(Outcome, &[u8]); 5] = [
            (
                Outcome::Ok(vec![vec![0xf6], vec![0x05]]),
                &[0x82, 0, 0x82, 0xf6, 5],
            ),
            (
                Outcome::Refused {
                    index: 1,
                    error: vec![0x61, b'x'],
                },
                &[0x83, 1, 1, 0x61, b'x'],
            ),
            (Outcome::Unauthorized { index: 2 }, &[0x82, 2, 2]),
            (
                Outcome::Trapped {
                    index: 0,
                    kind: TrapKind::Guest,
                },
                &[0x83, 3, 0, 4],
            ),
            (
                Outcome::Refused {
                    index: 0,
                    error: HostRefusal::Malformed.to_cbor(),
                },
                b"\x83\x01\x00\xa1\x64host\x69malformed",
            ),
        ];
        for (outcome, bytes) in cases {
            assert_eq!(outcome.to_cbor(), bytes, "{outcome:?}");
            assert_eq!(Outcome::from_cbor(bytes), Some(outcome));
        }
        assert_eq!(Outcome::from_cbor(&[0x82, 9, 0]), None);
        assert_eq!(Outcome::from_cbor(&[0x82, 2, 2, 0]), None);
    }
}

//! Invite tokens: what a person hands to another so that a device can join a store.
//!
//! A token is a secret: its invite key admits whoever holds it. It is never logged; `Debug` leaves
//! the key out, and only [`Token::to_text`] writes it.
//!
//! The text is `lattice1` and base32 (RFC 4648, lower case, no padding) of: two bytes of length
//! (big-endian), a protobuf message of that length, and the first four bytes of the message's BLAKE3
//! in key derivation mode. The `1` is the version, and no digit of base32.

use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use ed25519_dalek::{Signer, SigningKey};
use lattice_format::verify::check_signature;
use lattice_format::{DeviceKey, Signature, StoreId};
use prost::Message;

use crate::limits::{NAME_BYTES_MAX, TOKEN_ADDRESSES_MAX, TOKEN_CHARS_MAX};

const PREFIX: &str = "lattice";
const VERSION: char = '1';
const CHECKSUM_CONTEXT: &str = "lattice 2026-11 invite token checksum 1";
const CHECKSUM_BYTES: usize = 4;
/// What fits into the longest text, with its length and checksum: five bytes in eight characters.
const MESSAGE_BYTES_MAX: usize =
    (TOKEN_CHARS_MAX - PREFIX.len() - 1) * 5 / 8 - size_of::<u16>() - CHECKSUM_BYTES;
const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz234567";
const CLAIM_DOMAIN: &[u8; 16] = b"lattice claim 1\0";
const PROOF_DOMAIN: &[u8; 15] = b"lattice join 1\0";

/// A device and where it may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddr {
    /// Its key, which is its endpoint id.
    pub device: DeviceKey,
    /// Socket addresses.
    pub addresses: Vec<SocketAddr>,
    /// The relay that it is reached through, as a URL.
    pub relay: Option<String>,
}

/// The private half of an invite.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteKey([u8; 32]);

impl InviteKey {
    /// From its 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The public half, which the store's governance knows.
    pub fn public(&self) -> DeviceKey {
        DeviceKey(self.signing().verifying_key().to_bytes())
    }

    /// Signs the claim of `device`.
    pub fn claim(&self, store: &StoreId, device: &DeviceKey) -> Signature {
        let message = claim_message(store, &self.public(), device);
        Signature(self.signing().sign(&message).to_bytes())
    }

    /// Proves to `server` that `device` holds this invite, without claiming it. Good for these two
    /// devices alone: both are authenticated by their connection.
    pub fn prove(&self, store: &StoreId, device: &DeviceKey, server: &DeviceKey) -> Signature {
        let message = proof_message(store, &self.public(), device, server);
        Signature(self.signing().sign(&message).to_bytes())
    }

    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }
}

impl fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteKey(secret)")
    }
}

/// What a claim's signature covers: the domain, the store, the invite's public key, the device.
pub fn claim_message(store: &StoreId, invite: &DeviceKey, device: &DeviceKey) -> Vec<u8> {
    [&CLAIM_DOMAIN[..], &store.0, &invite.0, &device.0].concat()
}

fn proof_message(
    store: &StoreId,
    invite: &DeviceKey,
    device: &DeviceKey,
    server: &DeviceKey,
) -> Vec<u8> {
    [&PROOF_DOMAIN[..], &store.0, &invite.0, &device.0, &server.0].concat()
}

/// Whether `signature` is the invite's over the claim of `device`.
pub fn claim_holds(
    store: &StoreId,
    invite: &DeviceKey,
    device: &DeviceKey,
    signature: &Signature,
) -> bool {
    check_signature(*invite, &claim_message(store, invite, device), signature).is_ok()
}

/// Whether `signature` proves to `server` that `device` holds the invite.
pub fn proof_holds(
    store: &StoreId,
    invite: &DeviceKey,
    device: &DeviceKey,
    server: &DeviceKey,
    signature: &Signature,
) -> bool {
    let message = proof_message(store, invite, device, server);
    check_signature(*invite, &message, signature).is_ok()
}

/// An invitation to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The store.
    pub store: StoreId,
    /// The private half of the invite.
    pub invite: InviteKey,
    /// Who may be asked: the inviter first, then other members.
    pub peers: Vec<PeerAddr>,
    /// What the inviter calls the store; a hint.
    pub store_name: String,
    /// The role that the invite gives; a hint.
    pub role: String,
    /// When the invite ends, in milliseconds since the Unix epoch; a hint, 0 when it is not said.
    pub expires_ms: u64,
}

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as tokens do.
    #[error("not an invite token: a token begins with 'lattice{VERSION}'")]
    NotAToken,
    /// Made by a newer version.
    #[error(
        "the token has version '{version}', this Lattice reads version '{VERSION}'; update Lattice"
    )]
    Newer {
        /// The version found.
        version: char,
    },
    /// Something is missing at its end.
    #[error("the token is cut off: it has {have} of {want} characters; copy it again, whole")]
    Truncated {
        /// Characters found.
        have: usize,
        /// Characters that it should have.
        want: usize,
    },
    /// A character that no token has.
    #[error("the token has a wrong character, '{character}', at place {place}; copy it again")]
    Character {
        /// The character.
        character: char,
        /// Its place, from 1.
        place: usize,
    },
    /// The checksum is wrong.
    #[error("the token is damaged: its checksum is wrong; copy it again")]
    Checksum,
    /// Longer than any token.
    #[error("the token has {have} characters, more than {TOKEN_CHARS_MAX}; copy it again, alone")]
    TooLong {
        /// Characters found.
        have: usize,
    },
    /// A field is missing or wrong though the checksum holds.
    #[error("the token is damaged: {0}")]
    Field(&'static str),
}

#[derive(Clone, PartialEq, Message)]
struct WirePeer {
    #[prost(bytes = "vec", tag = "1")]
    device: Vec<u8>,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
    #[prost(string, tag = "3")]
    relay: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireToken {
    #[prost(bytes = "vec", tag = "1")]
    store: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    invite: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    peers: Vec<WirePeer>,
    #[prost(string, tag = "4")]
    store_name: String,
    #[prost(string, tag = "5")]
    role: String,
    #[prost(uint64, tag = "6")]
    expires_ms: u64,
    // 7 is reserved for the height and digest of a checkpoint.
}

impl Token {
    /// The text form, with the secret. What of names exceeds 256 bytes and addresses beyond 32 are left out, and
    /// of the last peers those with which no text would be read any more.
    pub fn to_text(&self) -> String {
        let mut room = TOKEN_ADDRESSES_MAX;
        let peers = self
            .peers
            .iter()
            .take(TOKEN_ADDRESSES_MAX)
            .map(|peer| {
                let addresses: Vec<String> = peer
                    .addresses
                    .iter()
                    .take(room)
                    .map(SocketAddr::to_string)
                    .collect();
                room -= addresses.len();
                WirePeer {
                    device: peer.device.0.to_vec(),
                    addresses,
                    relay: peer.relay.clone().unwrap_or_default(),
                }
            })
            .collect();
        let mut wire = WireToken {
            store: self.store.0.to_vec(),
            invite: self.invite.0.to_vec(),
            peers,
            store_name: shortened(&self.store_name),
            role: shortened(&self.role),
            expires_ms: self.expires_ms,
        };
        while wire.encoded_len() > MESSAGE_BYTES_MAX && wire.peers.len() > 1 {
            wire.peers.pop();
        }
        let message = wire.encode_to_vec();
        let len = u16::try_from(message.len())
            .expect("32 addresses, two names and three keys stay below 64 KiB");
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend_from_slice(&message);
        bytes.extend_from_slice(&checksum(&message));
        format!("{PREFIX}{VERSION}{}", BASE32.encode(&bytes))
    }

    /// Reads a token; spaces and line ends around it are passed over, upper case is read as lower.
    ///
    /// # Errors
    /// See [`TokenError`]; the messages do not repeat the token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenError::TooLong { have: text.len() });
        }
        let lower = text.to_ascii_lowercase();
        let rest = lower.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let mut characters = rest.chars();
        match characters.next() {
            Some(VERSION) => {}
            Some(version) if version.is_ascii_digit() => return Err(TokenError::Newer { version }),
            _ => return Err(TokenError::NotAToken),
        }
        let bytes = unbase32(characters.as_str(), PREFIX.len() + 1)?;
        let head = PREFIX.len() + 1;
        let truncated = |bytes_wanted: usize| TokenError::Truncated {
            have: lower.len(),
            want: head + (bytes_wanted * 8).div_ceil(5),
        };
        let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(truncated(2 + CHECKSUM_BYTES));
        };
        let len = usize::from(u16::from_be_bytes(*len));
        if rest.len() < len + CHECKSUM_BYTES {
            return Err(truncated(2 + len + CHECKSUM_BYTES));
        }
        let (message, sum) = rest.split_at(len);
        if sum != checksum(message) {
            return Err(TokenError::Checksum);
        }
        Self::from_wire(
            WireToken::decode(message).map_err(|_| TokenError::Field("it does not decode"))?,
        )
    }

    fn from_wire(wire: WireToken) -> Result<Self, TokenError> {
        let seed = wire
            .invite
            .try_into()
            .map_err(|_| TokenError::Field("the invite key is not 32 bytes"))?;
        let mut peers = Vec::new();
        for peer in wire.peers.into_iter().take(TOKEN_ADDRESSES_MAX) {
            peers.push(PeerAddr {
                device: DeviceKey::from_slice(&peer.device)
                    .ok_or(TokenError::Field("a peer's key is not 32 bytes"))?,
                addresses: peer
                    .addresses
                    .iter()
                    .take(TOKEN_ADDRESSES_MAX)
                    .map(|a| a.parse())
                    .collect::<Result<_, _>>()
                    .map_err(|_| TokenError::Field("an address is not one"))?,
                relay: Some(peer.relay).filter(|r| !r.is_empty()),
            });
        }
        if peers.is_empty() {
            return Err(TokenError::Field("it names nobody to ask"));
        }
        Ok(Self {
            store: StoreId::from_slice(&wire.store)
                .ok_or(TokenError::Field("the store's id is not 32 bytes"))?,
            invite: InviteKey(seed),
            peers,
            store_name: shortened(&wire.store_name),
            role: shortened(&wire.role),
            expires_ms: wire.expires_ms,
        })
    }
}

/// At most [`NAME_BYTES_MAX`] bytes of a name, cut between characters.
pub(crate) fn shortened(name: &str) -> String {
    let end = (0..=name.len().min(NAME_BYTES_MAX))
        .rev()
        .find(|end| name.is_char_boundary(*end))
        .unwrap_or(0);
    name[..end].to_owned()
}

fn checksum(message: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECKSUM_CONTEXT);
    hasher.update(message);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    sum
}

/// The base32 of RFC 4648 in lower case, without padding.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str(ALPHABET);
    // A text that was cut ends within a byte; the length in front of the message says how much is missing.
    specification.check_trailing_bits = false;
    specification.encoding().expect("32 different characters")
});

/// Whole bytes of `text`, which stands behind `before` characters; bits that do not fill one are dropped.
fn unbase32(text: &str, before: usize) -> Result<Vec<u8>, TokenError> {
    let is_wrong = |(_, character): &(usize, char)| !ALPHABET.contains(*character);
    if let Some((index, character)) = text.chars().enumerate().find(is_wrong) {
        return Err(TokenError::Character {
            character,
            place: before + index + 1,
        });
    }
    // No number of whole bytes has one, three or six characters behind the last eight: the last one begins no byte.
    let len = text.len() - usize::from(matches!(text.len() % 8, 1 | 3 | 6));
    let bytes = BASE32.decode(&text.as_bytes()[..len]);
    Ok(bytes.expect("every character and the length are those of base32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            store: StoreId([7; 32]),
            invite: InviteKey::from_seed([9; 32]),
            peers: vec![
                PeerAddr {
                    device: DeviceKey([3; 32]),
                    addresses: vec![
                        "127.0.0.1:4433".parse().unwrap(),
                        "[::1]:4434".parse().unwrap(),
                    ],
                    relay: None,
                },
                PeerAddr {
                    device: DeviceKey([4; 32]),
                    addresses: vec![],
                    relay: Some("https://relay.example/".into()),
                },
            ],
            store_name: "notes".into(),
            role: "writer".into(),
            expires_ms: 1_800_000_000_000,
        }
    }

    #[test]
    fn a_token_reads_back_from_its_text() {
        let text = token().to_text();
        assert!(text.starts_with("lattice1"));
        assert_eq!(Token::parse(&text), Ok(token()));
        assert_eq!(
            Token::parse(&format!("  {}\n", text.to_uppercase())),
            Ok(token())
        );
    }

    #[test]
    fn a_field_of_a_later_version_is_passed_over() {
        let bytes = unbase32(&token().to_text()[8..], 8).unwrap();
        let end = bytes.len() - CHECKSUM_BYTES;
        // Field 7, reserved for the checkpoint that the token pins.
        let mut message = bytes[2..end].to_vec();
        message.extend([0x3a, 2, 1, 2]);
        let mut newer = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
        newer.extend(&message);
        newer.extend(checksum(&message));
        let text = format!("{PREFIX}{VERSION}{}", BASE32.encode(&newer));
        assert_eq!(Token::parse(&text), Ok(token()));
    }

    #[test]
    fn the_text_of_a_token_never_changes() {
        let golden = blake3::hash(token().to_text().as_bytes()).to_hex();
        assert_eq!(&golden[..16], include_str!("token.golden").trim());
    }

    #[test]
    fn every_cut_and_every_changed_character_is_noticed() {
        let text = token().to_text();
        for end in 0..text.len() {
            let error = Token::parse(&text[..end]).unwrap_err();
            match end {
                0..8 => assert_eq!(error, TokenError::NotAToken),
                _ => assert!(
                    matches!(error, TokenError::Truncated { have, want } if have == end && want > end),
                    "{end}: {error}"
                ),
            }
        }
        for place in 8..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[place] = if bytes[place] == b'a' { b'b' } else { b'a' };
            assert!(Token::parse(std::str::from_utf8(&bytes).unwrap()).is_err());
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let text = token().to_text();
        let newer = text.replacen("lattice1", "lattice9", 1);
        assert_eq!(
            Token::parse(&newer),
            Err(TokenError::Newer { version: '9' })
        );
        let mut wrong = text.clone();
        wrong.replace_range(20..21, "!");
        assert_eq!(
            Token::parse(&wrong),
            Err(TokenError::Character {
                character: '!',
                place: 21
            })
        );
        // The last character of a cut text is read as well, also where no byte begins with it.
        for end in [9, 11, 14] {
            let cut = format!("{}!", &text[..end - 1]);
            let error = TokenError::Character {
                character: '!',
                place: end,
            };
            assert_eq!(Token::parse(&cut), Err(error));
        }
        assert_eq!(Token::parse("hello"), Err(TokenError::NotAToken));
        assert!(matches!(
            Token::parse(&"lattice1".repeat(1000)),
            Err(TokenError::TooLong { .. })
        ));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let shown = format!("{:?}", token());
        assert!(shown.contains("secret"));
        assert!(!shown.contains("9, 9, 9"));
        assert!(!shown.contains("090909"));
    }

    #[test]
    fn a_claim_holds_for_its_store_invite_and_device_alone() {
        let key = InviteKey::from_seed([1; 32]);
        let (store, device) = (StoreId([2; 32]), DeviceKey([3; 32]));
        let signature = key.claim(&store, &device);
        assert!(claim_holds(&store, &key.public(), &device, &signature));
        assert!(!claim_holds(
            &StoreId([0; 32]),
            &key.public(),
            &device,
            &signature
        ));
        assert!(!claim_holds(
            &store,
            &key.public(),
            &DeviceKey([0; 32]),
            &signature
        ));
        assert!(!proof_holds(
            &store,
            &key.public(),
            &device,
            &device,
            &signature
        ));
        let proof = key.prove(&store, &device, &DeviceKey([5; 32]));
        assert!(proof_holds(
            &store,
            &key.public(),
            &device,
            &DeviceKey([5; 32]),
            &proof
        ));
        assert!(!proof_holds(
            &store,
            &key.public(),
            &device,
            &DeviceKey([6; 32]),
            &proof
        ));
        assert!(!claim_holds(&store, &key.public(), &device, &proof));
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(200)).len(), 256);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn the_fullest_token_reads_back_and_a_longer_text_is_none() {
        let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let peer = |number| PeerAddr {
            device: DeviceKey([number; 32]),
            addresses: vec![address.parse().unwrap(); 4],
            relay: Some(format!("https://relay-{number}.example.org./")),
        };
        let name = "n".repeat(NAME_BYTES_MAX);
        let full = Token {
            peers: (0..=TOKEN_ADDRESSES_MAX as u8).map(peer).collect(),
            store_name: format!("{name}n"),
            role: format!("{name}n"),
            ..token()
        };
        let text = full.to_text();
        assert!(text.len() <= TOKEN_CHARS_MAX, "{} characters", text.len());
        let read = Token::parse(&text).unwrap();
        assert_eq!((&read.store_name, &read.role), (&name, &name));
        // Who invites comes first, and is kept; of the others as many as fit.
        let count = read.peers.len();
        assert_eq!(read.peers[0], full.peers[0]);
        assert!((4..TOKEN_ADDRESSES_MAX).contains(&count), "{count}");
        let short = TOKEN_CHARS_MAX - text.len();
        assert!(
            short < 500,
            "another would have fitted in {short} characters"
        );

        let padded = |len: usize| format!("{text}{}", "a".repeat(len - text.len()));
        let have = TOKEN_CHARS_MAX + 1;
        let longer = Token::parse(&padded(have));
        assert_eq!(longer, Err(TokenError::TooLong { have }));
        let longest = Token::parse(&padded(TOKEN_CHARS_MAX));
        assert!(!matches!(longest, Err(TokenError::TooLong { .. })));
    }
}

//! Signs that a second home has the key of this device: it was copied to another machine, or a backup was restored
//! while the first home goes on. Two homes sign with one key, fork its chains, and take each other's connections away.
//!
//! A node sees the one or the other sign, tells a person once each time that it runs, and `doctor` repeats it until the
//! notice is acknowledged. No sign is proof: whoever restored a backup knows why the sign is there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use lattice_format::{SignedHeader, StoreId, verify};
use lattice_kernel::Snapshot;
use lattice_net::Entries;

use crate::api;
use crate::node::Node;
use crate::node::records::NoticeRecord;

/// What to do, whatever the sign was.
pub(crate) const REMEDY: &str = "if another home with this key is in use, end its node; begin there with another \
                                 --home and join with an invite, as a device of its own";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The files of a store were copied, or put back.
    Files(StoreId),
    /// A peer sent an entry that this device signed and this home does not have.
    Entry(StoreId),
    /// A node elsewhere on the local network has this device's key.
    Elsewhere(Vec<SocketAddr>),
}

impl Sign {
    fn bit(&self) -> u8 {
        match self {
            Sign::Files(_) => 1,
            Sign::Entry(_) => 2,
            Sign::Elsewhere(_) => 4,
        }
    }

    fn text(&self) -> String {
        match self {
            Sign::Files(_) => "the files of this home were copied or restored".into(),
            Sign::Entry(_) => {
                "a peer sent an entry that this device signed and this home does not have".into()
            }
            Sign::Elsewhere(places) => {
                let places: Vec<String> = places.iter().map(ToString::to_string).collect();
                format!(
                    "another node on the local network has this device's key, at {}",
                    places.join(" ")
                )
            }
        }
    }

    fn store(&self) -> Vec<u8> {
        match self {
            Sign::Files(store) | Sign::Entry(store) => store.0.to_vec(),
            Sign::Elsewhere(_) => Vec::new(),
        }
    }
}

/// Which signs were told since the node was opened.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU8);

/// Tells a person of a sign, the first time that this node sees one of its kind.
pub(crate) fn tell(node: &Node, sign: &Sign) {
    if node.copies_told.0.fetch_or(sign.bit(), Ordering::Relaxed) & sign.bit() != 0 {
        return;
    }
    let text = format!("{}; {REMEDY}", sign.text());
    tracing::warn!("{text}");
    let mut origin = blake3::Hasher::new();
    origin.update(b"copy").update(&[sign.bit()]);
    origin.update(&node.started_ms.to_be_bytes());
    let notice = NoticeRecord {
        kind: api::NoticeKind::Copy.into(),
        raised_ms: node.clock.now_ms(),
        store: sign.store(),
        text,
        origin: origin.finalize().as_bytes().to_vec(),
        ..Default::default()
    };
    if let Err(error) = node.records.add_notices(vec![notice], 0) {
        tracing::error!("{error}");
    }
}

/// Looks for an entry that this device signed and this home does not have: another home signed it, or this one did
/// before it was restored.
pub(crate) fn look(node: &Node, store: StoreId, entries: &Entries, log: &Snapshot) {
    let sign = Sign::Entry(store);
    if node.copies_told.0.load(Ordering::Relaxed) & sign.bit() != 0 {
        return;
    }
    let me = node.device();
    let names_me = |signed: &SignedHeader| signed.bytes.windows(me.0.len()).any(|key| *key == me.0);
    // Checking a signature takes long, and few headers name this device.
    let is_own = |signed: &SignedHeader| {
        names_me(signed)
            && verify(signed.clone()).is_ok_and(|header| {
                header.author == me && matches!(log.entry(&header.id()), Ok(None))
            })
    };
    if entries.iter().any(|(signed, _)| is_own(signed)) {
        tell(node, &sign);
    }
}
